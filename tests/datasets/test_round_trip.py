"""Whatever Arrow type a column of a table has, it comes back from its cells, and other programs read it as what it was."""

import math
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from arrow_columns import DAY, DECIMALS, FLOATS, TIMES, WHOLE, made, raw, units
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raygen.datasets.codec import CELLS, Codec
from raygen.datasets.numbers import Number
from raygen.datasets.statistics import Statistics
from raygen.spec import CategoryField, DataField, DatetimeField, NumberField

WORDS = st.text(st.characters(codec="utf-8"), max_size=5)
CATEGORIES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.bool_(): st.booleans(),
    pa.string(): WORDS,
    pa.large_string(): WORDS,
    pa.dictionary(pa.int32(), pa.string()): WORDS,
    pa.dictionary(pa.int8(), pa.large_string()): WORDS,
    pa.dictionary(pa.int16(), pa.int64()): st.integers(-(2**63), 2**63 - 1),
    pa.int16(): st.integers(-(2**15), 2**15 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
}
FIELDS: list[tuple[pa.DataType, DataField]] = [
    *((kind, NumberField()) for kind in (*WHOLE, *FLOATS, *DECIMALS)),
    *((kind, DatetimeField()) for kind in TIMES),
    *((kind, CategoryField()) for kind in CATEGORIES),
]
UNKNOWN_TO_PARQUET = [kind for kind in DECIMALS if kind.scale < 0]


def drawn(data: st.DataObject, kind: pa.DataType, field: DataField, rows: int, recent: bool = False) -> pa.Array:
    """Some values, more than once, with or without nulls; ``recent`` times are of the years 1970 to 2096."""
    one = CATEGORIES[kind] if field.kind == "category" else raw(kind)
    if recent and kind in TIMES:
        day = {"day": 1, "s": DAY, "ms": DAY * 10**3, "us": DAY * 10**6, "ns": DAY * 10**9}[
            "day" if kind == pa.date32() else getattr(kind, "unit", "ms")
        ]
        whole = day if kind == pa.date64() else 1000 if kind == pa.time64("ns") else 1  # pandas' times have no nanoseconds
        one = one.map(lambda value: value % (46_000 * day) // whole * whole)
    few = data.draw(st.lists(one | st.none() if data.draw(st.booleans()) else one, min_size=1, max_size=rows))
    values = [few[row % len(few)] for row in range(rows)]
    return pa.array(values, kind) if field.kind == "category" else made(values, kind)


def fitted(table: pa.Table, fields: dict[str, DataField]) -> Codec:
    statistics = Statistics(fields)
    statistics.add(table, np.ones(len(table), bool))
    return statistics.codec(table.schema)


@settings(deadline=None, max_examples=300)
@given(data=st.data(), kind=st.sampled_from(FIELDS))
def test_types_nulls_and_values_come_back(data: st.DataObject, kind: tuple[pa.DataType, DataField]) -> None:
    """Values that are tokens are what they were; others are within the range of theirs."""
    arrow, field = kind
    column = drawn(data, arrow, field, data.draw(st.integers(1, 40)))
    codec = fitted(pa.table({"x": column}), {"x": field})
    batch = codec.encode(pa.table({"x": column}))
    back = codec.decode(batch)
    back.validate(full=True)
    assert back.schema.equals(pa.schema([("x", arrow)]))
    found = back["x"].combine_chunks()
    assert found.is_null().equals(column.is_null())
    number = codec.columns.get("x")
    if not isinstance(number, Number):
        assert found.to_pylist() == column.to_pylist()
        return
    for token, before, after in zip(batch[CELLS][:, 0].astype(int), units(column), units(found), strict=True):
        if before is None or not math.isfinite(before):
            assert str(after) == str(before)
        else:
            least, most = (end * (DAY * 1000 if arrow == pa.date64() else 1) for end in number.ranges[token])
            assert least <= after <= most
            assert least < most or after == before


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_pandas_and_duckdb_read_what_they_read_of_the_source(data: st.DataObject, tmp_path: Path) -> None:
    """They see Parquet, which has no type for some of Arrow's, so what they read is compared, not what was written."""
    chosen = data.draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=8))
    chosen = [(kind, field) for kind, field in chosen if kind not in UNKNOWN_TO_PARQUET] or FIELDS[:1]
    rows = data.draw(st.integers(1, 20))
    real = pa.table({f"c{index}": drawn(data, kind, field, rows, recent=True) for index, (kind, field) in enumerate(chosen)})
    fields = {name: field for name, (_, field) in zip(real.column_names, chosen, strict=True)}
    codec = fitted(real, fields)
    back = codec.decode(codec.encode(real))
    pq.write_table(real, tmp_path / "real.parquet")
    pq.write_table(back, tmp_path / "made.parquet")
    here, there = (pq.read_schema(tmp_path / name) for name in ("made.parquet", "real.parquet"))
    assert here.equals(there)
    made_, real_ = (pd.read_parquet(tmp_path / name).dtypes.to_dict() for name in ("made.parquet", "real.parquet"))
    assert made_ == real_
    made_, real_ = (duckdb.sql(f"describe from '{tmp_path}/{name}.parquet'").fetchall() for name in ("made", "real"))
    assert made_ == real_
