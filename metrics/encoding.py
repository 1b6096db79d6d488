"""Columns of Arrow tables as codes, the same in every table: what the metrics of tables are computed on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as at

from raygen.errors import DataError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Kinds = Mapping[str, str]
"""What each column to measure is: one of `KINDS`."""

KINDS = {
    "number": "integers, floats or decimals",
    "datetime": "dates, times, timestamps or durations",
    "category": "strings, booleans, integers or other plain values",
}


@dataclass(frozen=True)
class Column:
    """One column of several tables.

    Attributes:
        kind: number, datetime or category.
        codes: for each table int64 ``(rows,)``: 0 to ``distinct - 1``, and -1 for null, which NaN is too. Equal codes mean
            equal values; of numbers and datetimes, greater codes mean greater values.
        distinct: how many values there are in all tables together.
        values: of numbers and datetimes, float64 ``(distinct,)``, increasing: the value of each code; infinite ones too.
            Datetimes count in their own unit. Nothing for categories.
    """

    kind: str
    codes: tuple[Ints, ...]
    distinct: int
    values: Floats

    @property
    def is_category(self) -> bool:
        return self.kind == "category"


def encode(tables: Mapping[str, pa.Table], kinds: Kinds, least: int = 1) -> dict[str, Column]:
    """Encodes the columns that ``kinds`` names, in its order; other columns are not looked at.

    Numbers go through float64: what it cannot tell apart (integers above 2⁵³, long decimals) gets one code.

    Args:
        tables: by what errors call them.
        kinds: what each column is.
        least: rows that each table must have.

    Raises:
        DataError: no columns or too few rows; a column that is missing, there twice, of different types in different tables,
            or not of its kind.
    """
    _check(tables, kinds, least)
    encoded = {}
    for name, kind in kinds.items():
        columns = [table[name] for table in tables.values()]
        if kind == "category":
            codes, distinct = distinct_codes(columns)
            encoded[name] = Column(kind, codes, distinct, np.empty(0))
        else:
            numbers = np.concatenate([floats(column) for column in columns])
            known = ~np.isnan(numbers)
            values, ranks = np.unique(numbers[known], return_inverse=True)
            joint = np.full(len(numbers), -1, np.int64)
            joint[known] = ranks
            encoded[name] = Column(kind, _split(joint, columns), len(values), values)
    return encoded


def row_codes(tables: Mapping[str, pa.Table], kinds: Kinds) -> tuple[Ints, ...]:
    """One number a row, int64 ``(rows,)`` for each table: equal where the rows are equal in every column of ``kinds``.

    Exactly so, at the columns' own precision; nothing is hashed.

    Raises:
        DataError: as `encode`.
    """
    _check(tables, kinds, least=1)
    joint, many = np.zeros(sum(map(len, tables.values())), np.int64), 1
    for name in kinds:
        codes, distinct = distinct_codes([table[name] for table in tables.values()])
        if many * (distinct + 1) >= 2**62:
            values, joint = np.unique(joint, return_inverse=True)
            many = len(values)
        joint, many = joint * (distinct + 1) + np.concatenate(codes) + 1, many * (distinct + 1)
    return _split(joint, list(tables.values()))


def distinct_codes(columns: Sequence[pa.ChunkedArray]) -> tuple[tuple[Ints, ...], int]:
    """Codes of the values of columns of one type, int64 ``(rows,)`` each, -1 for null, and how many values there are."""
    chunks = [chunk for column in columns for chunk in decoded(column).chunks]
    encoded = pa.chunked_array(chunks).dictionary_encode()  # every chunk with the dictionary of all
    codes = [chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in encoded.chunks]
    return _split(np.concatenate(codes).astype(np.int64), columns), len(encoded.chunk(0).dictionary)


def floats(column: pa.ChunkedArray) -> Floats:
    """float64 ``(rows,)``, NaN for null."""
    column = decoded(column)
    if at.is_temporal(column.type):
        column = column.cast(pa.int32() if column.type.bit_width == 32 else pa.int64())
    numbers = pc.cast(column, pa.float64(), safe=False).to_numpy()
    return np.asarray(numbers, dtype=np.float64)


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """As a type that Arrow can count the values of."""
    column = column.cast(column.type.value_type) if at.is_dictionary(column.type) else column
    if at.is_decimal(column.type) and column.type.bit_width < 128:
        column = column.cast(pa.decimal128(column.type.precision, column.type.scale))
    return column


def _split(joint: Ints, parts: Sequence[Any]) -> tuple[Ints, ...]:
    return tuple(np.split(joint, np.cumsum([len(part) for part in parts])[:-1]))


def _check(tables: Mapping[str, pa.Table], kinds: Kinds, least: int) -> None:
    if not kinds:
        raise DataError("there is no column to measure", "name at least one number, datetime or category column")
    for called, table in tables.items():
        if len(table) < least:
            raise DataError(f"the {called} table has {len(table)} rows where at least {least} are needed", "give more rows")
    for name, kind in kinds.items():
        if kind not in KINDS:
            raise DataError(f"column {name!r} is of kind {kind!r}", f"metrics of tables know {', '.join(KINDS)}")
        types = {}
        for called, table in tables.items():
            found = table.schema.get_all_field_indices(name)
            if len(found) != 1:
                there = "no column" if not found else f"{len(found)} columns"
                raise DataError(f"the {called} table has {there} called {name!r}", "compare tables of the same columns")
            types[called] = _plain(table.schema.field(found[0]).type)
        if len(set(types.values())) > 1:
            said = ", ".join(f"{kind} in the {called} table" for called, kind in types.items())
            raise DataError(f"column {name!r} is {said}", "compare tables of the same types")
        if not _fits(kind, type_ := next(iter(types.values()))):
            raise DataError(f"column {name!r} is of type {type_}, which is no {kind}", f"a {kind} column has {KINDS[kind]}")


def _fits(kind: str, type_: pa.DataType) -> bool:
    numeric = at.is_integer(type_) or at.is_floating(type_) or at.is_decimal(type_)
    datetime = at.is_temporal(type_) and not at.is_interval(type_)
    text = at.is_string(type_) or at.is_large_string(type_)
    return bool({"number": numeric, "datetime": datetime}.get(kind, numeric or datetime or text or at.is_boolean(type_)))


def _plain(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if at.is_dictionary(type_) else type_
