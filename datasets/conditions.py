"""Conditions on columns of a table, ``{"income": ">50K", "age": [18, 25]}``, as the cells that meet them."""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as at

from raygen.datasets import moments
from raygen.datasets.columns import Category, Value, Vocabulary
from raygen.datasets.numbers import Number, is_datetime, raw, stored
from raygen.errors import RaygenError, did_you_mean

Asked = Any
"""A single value, or a list: the least and the most of numbers and times, None being no limit; else any of the values."""

SHOWN = 20
"""Values that an error names at most."""


@dataclass(frozen=True)
class Condition:
    """What the cells of every row may be, so that whatever they are decoded to, the literals in their place, meets the
    condition exactly.

    Attributes:
        bounds: by the index of a column among the cells, float64 ``(tokens, 2)``: the places, from the first up to but not
            including the second, that are allowed in each token; 0 and 0 where none is, 0 and 1 where all are. ``cell -
            token`` has to be there once the cell has been rounded to float64.
        literals: by name, an array of the one value that a column has, where it is one: cells may not be so precise.
    """

    bounds: Mapping[int, np.ndarray]
    literals: Mapping[str, pa.Array]

    def imposed(self, table: pa.Table) -> pa.Table:
        """Decoded rows with the literals in their place."""
        for name, value in self.literals.items():
            index = table.schema.get_field_index(name)
            column = value.take(pa.array(np.zeros(len(table), np.int64)))
            table = table.set_column(index, table.schema.field(index), column)
        return table


def of_category(name: str, category: Category, asked: Asked) -> np.ndarray:
    """Bounds of a category column.

    Raises:
        RaygenError: no training row has such a value.
    """
    bounds = np.zeros((len(category.values), 2))
    for value in _values(name, asked):
        index = class_index(name, category, value)
        if not category.counts[index]:
            raise RaygenError(
                f"no training row has {name} {value!r}, so the generator never saw it",
                "ask for another value, or train on rows that have it",
            )
        bounds[index] = 0, 1
    return bounds


def class_index(name: str, category: Category, value: Value) -> int:
    """The class index of a category's value.

    Raises:
        RaygenError: it never had such a value.
    """
    for index, known in enumerate(category.values):
        if known == value and isinstance(known, bool) == isinstance(value, bool):
            return index
    raise _unknown(name, value, category.values)


def of_vocabulary(name: str, vocabulary: Vocabulary, asked: Asked, kind: pa.DataType) -> np.ndarray:
    """Bounds of a category column of very many values.

    Raises:
        RaygenError: no training row has such a value; or there are several in one token with others between them.
    """
    bounds = np.zeros((vocabulary.tokens, 2))
    for value in sorted(_values(name, asked), key=lambda value: (value is None, str(type(value)), value)):
        token = vocabulary.token(value)
        if token is None:
            raise _unknown(name, value, vocabulary.own + vocabulary.shared[:1])
        first, end = 0.0, 1.0
        if vocabulary.is_shared(token):
            first, end = _places(token, lambda cells: vocabulary.decode(cells, kind).to_pylist()[0], value, value)
        if bounds[token, 1] not in (0, first, end):
            raise RaygenError(
                f"where.{name}: {value!r} and another value of the list cannot be asked for at once: they are rare, and "
                "stand for each other, with others between them",
                "ask for one of them at a time",
            )
        bounds[token] = first if not bounds[token, 1] else bounds[token, 0], end
    return bounds


def of_number(name: str, number: Number, asked: Asked, kind: pa.DataType) -> tuple[np.ndarray, pa.Array | None]:
    """Bounds of a column of numbers or times, and the value where it is one alone.

    Raises:
        RaygenError: the column cannot have such a value: it is of another type, or beyond or between those that were seen.
    """
    bounds = np.zeros((number.tokens, 2))
    if asked is None or (isinstance(asked, float) and math.isnan(asked)):
        if not (number.null if asked is None else number.nan):
            raise RaygenError(f"where.{name}: it is never {'null' if asked is None else asked}", _seen(number, kind))
        bounds[number.tokens - 1 - (asked is not None and number.null)] = 0, 1
        return bounds, None
    low, high = _range(name, asked, kind)
    for token, (least, most) in enumerate(number.ranges):
        if low <= least and most <= high:
            bounds[token] = 0, 1
        elif low <= most and least <= high:
            first, end = _places(token, lambda cells: raw(number.decode(cells, kind)), low, high)
            bounds[token] = (first, end) if first < end else 0
    value = low if low == high else None
    if not bounds.any():  # a single value between two cells, or a range so narrow that none is in it
        value = number.possible(low, high, kind)
        if value is None:
            shown = " to ".join(map(str, asked if isinstance(asked, list | tuple) else [asked]))
            raise RaygenError(f"where.{name}: the data has no value {shown}", _seen(number, kind))
        bounds[int(number.encode(stored([value], kind))[0])] = 0, 1
    return bounds, None if value is None else stored([value], kind)


def _places(token: int, decoded: Callable[[np.ndarray], Any], low: Any, high: Any) -> tuple[float, float]:
    """From which place in a token, and up to but not including which, cells are decoded to values from ``low`` to ``high``:
    values never fall as places rise, so they are found by bisection over all floats that are cells of the token."""
    cells = range(_bits(token), _bits(token + 1))

    def place(reached: Callable[[Any], bool]) -> float:
        at = bisect_left(cells, True, key=lambda bits: reached(decoded(np.array([bits]).view(np.float64))))
        return 1.0 if at == len(cells) else float(np.int64(cells[at]).view(np.float64)) - token

    return place(lambda value: bool(value >= low)), place(lambda value: bool(value > high))


def _bits(number: float) -> int:
    """Of a float64 that is not negative: these integers are in the order of the floats."""
    return int(np.float64(number).view(np.int64))


def _range(name: str, asked: Asked, kind: pa.DataType) -> tuple[Any, Any]:
    """The least and the most that a number or a time may be: floats, or integers in the units of the type."""
    ends = asked if isinstance(asked, list | tuple) else [asked, asked]
    if len(ends) != 2:
        raise RaygenError(f"where.{name}: {len(ends)} values in a list", "a list is [least, most]; null is no limit")
    spans = [None if end is None else _span(name, end, kind) for end in ends]
    low = spans[0][0] if spans[0] else -math.inf
    high = spans[1][1] if spans[1] else math.inf
    if low > high:
        raise RaygenError(f"where.{name}: {ends[0]} is above {ends[1]}", "a list is [least, most]")
    if at.is_floating(kind):
        return low, high
    return low if low == -math.inf else math.ceil(low), high if high == math.inf else math.floor(high)


def _span(name: str, value: Any, kind: pa.DataType) -> tuple[Any, Any]:
    """What a value of a condition is in the units of a type, from its first to its last: a day is all of its times."""
    if is_datetime(kind):
        try:
            return moments.span(value, kind)
        except (ValueError, OverflowError, LookupError) as error:  # of a zone that is not known
            raise RaygenError(f"where.{name}: {value} is {error}", moments.example(kind)) from None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or value != value:
        raise RaygenError(f"where.{name}: {value!r} is not a number, and the column is of type {kind}", "give a number")
    number: Any = value
    if at.is_floating(kind):
        with np.errstate(over="ignore"):
            near = float(np.float64(str(value)).astype(kind.to_pandas_dtype()))
        number = near if math.isfinite(near) else value  # beyond the type: no value of it is equal
    elif isinstance(value, int) or math.isfinite(value):  # an integer may be more than a float can be
        number = Fraction(str(value)) * Fraction(10) ** (kind.scale if at.is_decimal(kind) else 0)
    return number, number


def _values(name: str, asked: Asked) -> list[Any]:
    if not isinstance(asked, list | tuple):
        return [asked]
    if not asked:
        raise RaygenError(f"where.{name}: the list is empty", "name at least one value")
    return list(asked)


def _unknown(name: str, value: Any, known: tuple[Value, ...]) -> RaygenError:
    near = did_you_mean(str(value), [text for text in known if isinstance(text, str)])
    shown = ", ".join(map(repr, known[:SHOWN])) + (", …" if len(known) > SHOWN else "")
    return RaygenError(f"{name} has no value {value!r}{near}", f"its values are: {shown}")


def _seen(number: Number, kind: pa.DataType) -> str:
    """What the values of a column are."""
    if not number.ranges:
        return "the column has no values"
    least, most = number.ranges[0][0], number.ranges[-1][1]
    return f"its values are from {_shown(least, kind)} to {_shown(most, kind)}{number.grid(kind)}"


def _shown(value: Any, kind: pa.DataType) -> str:
    return str(stored([value], kind)[0].cast(pa.string()))
