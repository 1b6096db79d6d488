"""Columns of every Arrow type that a number or a datetime can have, made of values and turned back into them."""

import math
from decimal import Context, Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

WHOLE = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
FLOATS = [pa.float16(), pa.float32(), pa.float64()]
DECIMALS = [
    pa.decimal128(5, 2),
    pa.decimal128(38, 10),
    pa.decimal128(20, -3),
    pa.decimal256(76, 30),
    pa.decimal256(40, -2),
]
TIMES = [
    pa.date32(),
    pa.date64(),
    pa.time32("s"),
    pa.time32("ms"),
    pa.time64("us"),
    pa.time64("ns"),
    *(pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "America/New_York")),
    *(pa.duration(unit) for unit in ("s", "ms", "us", "ns")),
]
DAY = 86_400
WIDE = Context(prec=100)


def raw(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """Values of a type: floats; decimals; else integers in the units of the type."""
    if kind in WHOLE:
        limits = np.iinfo(kind.to_pandas_dtype())
        return st.integers(int(limits.min), int(limits.max)) | st.integers(0, 5)
    if kind in FLOATS:
        width: Any = kind.bit_width
        return st.floats(width=width) | st.sampled_from([0.0, 0.25, math.inf, -math.inf, math.nan])
    if kind in DECIMALS:
        return st.integers(-(10**kind.precision) + 1, 10**kind.precision - 1) | st.integers(-9, 9)
    if kind == pa.date64():
        return st.integers(-(10**5), 10**5).map(lambda day: day * DAY * 1000)
    if pa.types.is_time(kind):
        return st.integers(0, DAY * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit] - 1)
    bits = 31 if kind.bit_width == 32 else 63
    return st.integers(-(2**bits) + 1, 2**bits - 1) | st.integers(0, 3)


def made(values: list[Any], kind: pa.DataType) -> pa.Array:
    if kind in DECIMALS:
        scaled = [None if v is None else Decimal(v).scaleb(-kind.scale, WIDE) for v in values]
        return pa.array(scaled, kind)
    if kind in WHOLE or kind in FLOATS:
        return pa.array(values, kind)
    return pa.array(values, pa.int32() if kind.bit_width == 32 else pa.int64()).view(kind)


def units(column: pa.Array) -> list[Any]:
    """What ``made`` takes."""
    if column.type in DECIMALS:
        return [None if v is None else int(v.scaleb(column.type.scale, WIDE)) for v in column.to_pylist()]
    if column.type in WHOLE or column.type in FLOATS:
        return list(column.to_pylist())
    return list(column.view(pa.int32() if column.type.bit_width == 32 else pa.int64()).to_pylist())
