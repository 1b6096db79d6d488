"""Number and datetime columns between Arrow and cells.

A cell is ``token + place``. The tokens of a column are, in the order of their values, the values that many rows share and
the ranges in which the others are, about as many rows in each (quantile normalization); then NaN and null, where there are
any. ``place`` says where within its range a value is: 0 is at the least, just below 1 at the most.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as at

from raygen.datasets.quantiles import Quantiles, integers

RANGES = 100
"""The most ranges of a column, and the share of its rows, one in so many, that makes a value a token of its own."""
DISTINCT = 256
"""Up to so many distinct values are tokens, each of its own."""
REPEATED = 4
"""Rows that share a value, on average or each, before it is a token: else it might tell who a row is about. Of integers, of
which few are possible, it does not."""
ROWS_OF_RANGE = 10
"""Rows of a range at least, for the same reason."""
PLACES = 6
"""Decimal places up to which it is seen that all floats of a column are rounded."""
DAY = 86_400_000


def is_number(kind: pa.DataType) -> bool:
    return bool(at.is_integer(kind) or at.is_floating(kind) or at.is_decimal(kind))


def is_datetime(kind: pa.DataType) -> bool:
    return bool(at.is_date(kind) or at.is_time(kind) or at.is_timestamp(kind) or at.is_duration(kind))


@dataclass(frozen=True)
class Number:
    """What the tokens of a column are.

    Attributes:
        lows: the least value of each finite token, ascending: floats; or integers, in the units of the column's type
            (days, microseconds, the last digit of a decimal).
        highs: the most of each, the same for a value of its own.
        step: integers: what all of them are multiples of. Floats: the decimal places that all have at most, or None.
        infinite: whether -inf is there, and inf.
        nan: whether it is there.
        null: whether it is there.
    """

    lows: tuple[int, ...] | tuple[float, ...]
    highs: tuple[int, ...] | tuple[float, ...]
    step: int | None
    infinite: tuple[bool, bool] = (False, False)
    nan: bool = False
    null: bool = False

    @property
    def tokens(self) -> int:
        return len(self.lows) + sum(self.infinite) + self.nan + self.null

    def encode(self, column: pa.Array) -> np.ndarray:
        """Cells: float64, ``(n,)``. What has no token, since it was not there to be learnt from, gets the nearest."""
        values, null = _plain(column)
        missing = np.isnan(values) if values.dtype == np.float64 else np.zeros(len(values), bool)
        cells = np.full(len(values), float((len(self.lows) + sum(self.infinite)) // 2))
        if self.nan:
            cells[missing] = self.tokens - 1 - self.null
        if self.null:
            cells[null] = self.tokens - 1
        there = ~(null | missing)
        if there.any() and len(self._edges[0]):
            cells[there] = self._cells(values[there])
        return cells

    def decode(self, cells: np.ndarray, kind: pa.DataType) -> pa.Array:
        """The values of cells, ``(n,)``, as the type that the column has in the source."""
        lows, highs = self._edges
        token = np.clip(np.floor(cells), 0, self.tokens - 1).astype(np.int64)
        place = np.clip(cells - token, 0, np.nextafter(1, 0))
        null = token >= self.tokens - self.null
        finite = np.minimum(token, max(len(lows) - 1, 0))
        if not len(lows):
            values = np.zeros(len(cells), np.float64 if at.is_floating(kind) else np.int64)
        elif lows.dtype == np.float64:
            values = _between(lows[finite], highs[finite], place, self.step)
        else:
            values = _above(lows[finite], highs[finite], place, self.step or 1)
        if self.nan:
            values[(token >= len(lows)) & ~null] = np.nan
        return _stored(values, null, kind)

    @property
    def ranges(self) -> list[tuple[Any, Any]]:
        """The least and the most value of every token that has values, infinity too."""
        lows, highs = self._edges
        return list(zip(lows.tolist(), highs.tolist(), strict=True))

    def possible(self, low: Any, high: Any, kind: pa.DataType) -> Any:
        """The least value from ``low`` to ``high`` that lies in a range, and is as precise as the others; None without."""
        for least, most in self.ranges:
            value = max(least, low)
            if not at.is_floating(kind) and value > least:
                value = least + -((least - value) // (self.step or 1)) * (self.step or 1)
            fits = value <= min(most, high)
            if fits and (not at.is_floating(kind) or self.step is None or _rounded(np.array([value]), self.step, kind)):
                return value
        return None

    def grid(self, kind: pa.DataType) -> str:
        """How precise they are, where they are less so than their type: the end of a sentence."""
        if at.is_floating(kind):
            return "" if self.step is None else f", with {self.step} decimal places"
        return f", each a multiple of {stored([self.step], kind)[0].cast(pa.string())}" if (self.step or 1) > 1 else ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @cached_property
    def _edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every token that has a value: infinity too."""
        if any(self.infinite) or (self.lows and isinstance(self.lows[0], float)):
            below, above = ([-math.inf] * self.infinite[0], [math.inf] * self.infinite[1])
            return np.array([*below, *self.lows, *above]), np.array([*below, *self.highs, *above])
        lows, highs = integers(list(map(int, self.lows))), integers(list(map(int, self.highs)))
        return (lows, highs) if lows.dtype == highs.dtype else (lows.astype(object), highs.astype(object))

    def _cells(self, values: np.ndarray) -> np.ndarray:
        lows, highs = self._edges
        if values.dtype != lows.dtype:  # integers, of which some need more than 64 bits
            values, lows, highs = values.astype(object), lows.astype(object), highs.astype(object)
        token = np.maximum(np.searchsorted(lows, values, side="right") - 1, 0)
        following = np.minimum(token + 1, len(lows) - 1)
        with np.errstate(invalid="ignore", over="ignore"):  # of infinity there is no nearest, which is false
            after = values.astype(np.float64) - highs[token].astype(np.float64)
            before = lows[following].astype(np.float64) - values.astype(np.float64)
            token = np.where((after > 0) & (before < after), following, token)
        least, most = lows[token], highs[token]
        values = np.minimum(np.maximum(values, least), most)
        if values.dtype == np.float64:
            place = _place(values, least, most, self.step)
        else:
            step = self.step or 1
            place = (_apart(least, values, step).astype(float) + 0.5) / (_apart(least, most, step).astype(float) + 1.0)
        cells: np.ndarray = token + np.where(least == most, 0.0, place)
        capped: np.ndarray = np.minimum(cells, np.nextafter(token + 1.0, 0))
        return capped


class Summary:
    """What a pass over a column finds out about it, for :class:`Number`."""

    def __init__(self) -> None:
        self.quantiles = Quantiles()
        self.step = 0
        self.places = 0
        self.infinite = [False, False]
        self.nan = False
        self.null = False

    def add(self, column: pa.Array, train: np.ndarray) -> None:
        """Rows of the column; ``train``, bool ``(n,)``, says of which the values are learnt."""
        values, null = _plain(column)
        self.null |= bool(null.any())
        if values.dtype == np.float64:
            self.nan |= bool(np.isnan(values[~null]).any())
            self.infinite = [self.infinite[0] or -math.inf in values, self.infinite[1] or math.inf in values]
            values = values[train & ~null & np.isfinite(values)] + 0.0  # there is no -0.0 among values
            while self.places <= PLACES and not _rounded(values, self.places, column.type):
                self.places += 1
        else:
            values = values[train & ~null]
            self.step = _divisor(values, self.step)
        self.quantiles.add(values)

    def merge(self, state: Mapping[str, Any]) -> None:
        self.quantiles.merge(state["quantiles"])
        self.step = math.gcd(self.step, state["step"])
        self.places = max(self.places, state["places"])
        self.infinite = [mine or other for mine, other in zip(self.infinite, state["infinite"], strict=True)]
        self.nan |= state["nan"]
        self.null |= state["null"]

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "quantiles": self.quantiles.to_json()}

    def fit(self, kind: pa.DataType) -> Number:
        """The tokens of a column of a type."""
        places = self.places if self.places <= PLACES else None
        step = places if at.is_floating(kind) else self.step or 1
        lows, highs = _ranges(self.quantiles, at.is_integer(kind), step)
        infinite = (self.infinite[0], self.infinite[1])
        nothing = not (lows or any(infinite) or self.nan)
        return Number(tuple(lows), tuple(highs), step, infinite, self.nan, self.null or nothing)


def _ranges(quantiles: Quantiles, whole: bool, step: int | None) -> tuple[list[Any], list[Any]]:
    """The least and the most value of every token; ``whole`` is whether the column is of integers, ``step`` is Number's."""
    values, counts = quantiles.counts()
    rows, distinct = int(counts.sum()), len(values)
    own = counts >= max(REPEATED, rows / RANGES)
    if quantiles.exact and 0 < distinct <= DISTINCT:
        possible = (int(values[-1]) - int(values[0])) // (step or 1) + 1 if whole else math.inf
        if possible <= DISTINCT or rows >= REPEATED * distinct:
            own[:] = True
    rest = np.where(own, 0, counts)
    shared = int(rest.sum())
    # About as many ranges as rows in each: more of them are closer to the data, and less is known of each.
    ranges = min(RANGES, max(1, shared // ROWS_OF_RANGE), max(1, math.isqrt(shared)))
    run = _runs((np.cumsum(rest) - rest / 2) * ranges / max(shared, 1), ranges, shared / ranges)
    # Cut wherever the run of quantiles ends, and on both sides of each value that is a token.
    cut = own | (np.diff(run, prepend=-np.inf) > 0) | np.append(True, own[:-1])[:distinct]
    starts = np.flatnonzero(cut)
    ends = np.append(starts[1:], distinct)[: len(starts)] - 1
    lows, highs = values[starts].tolist(), values[ends].tolist()
    if not quantiles.exact:  # values between the ends of two ranges were there, but are not remembered
        for index in np.flatnonzero(~own[ends[:-1]] & ~own[starts[1:]]):
            highs[index] = _middle(highs[index], lows[index + 1], step)
    return lows, highs


def _middle(low: Any, high: Any, step: int | None) -> Any:
    """About half-way, at least ``low`` and below ``high``."""
    if isinstance(low, int):
        return low + (high - low) // (2 * (step or 1)) * (step or 1)
    middle = low / 2 + high / 2
    middle = middle if step is None else float(np.round(middle, step))
    return middle if low <= middle < high else low


def _runs(position: np.ndarray, ranges: int, rows: float) -> np.ndarray:
    """Which range positions, in [0, ranges), are in. The first and the last are halved again and again towards their ends,
    as far as there are rows: the tail of a distribution is the least like a line."""
    halves = np.floor(np.log2(max(rows / ROWS_OF_RANGE, 1)))
    run: np.ndarray = np.floor(position)
    for end, side in ((position, -1), (ranges - position, 1)):
        near = np.minimum(np.floor(-np.log2(np.clip(end, 2.0**-60, 1))), halves)
        run += side * np.where(end < 1, near, 0)
    return run


def _plain(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """float64, or integers in the units of the type (int64; objects where one needs more); 0 where there is a null.

    Returns:
        The values, ``(n,)``, and which are null, bool ``(n,)``.
    """
    kind, rows = column.type, len(column)
    null = column.is_null().to_numpy(zero_copy_only=False)
    dtype, width = _layout(kind)
    if not rows:
        return np.empty(0, np.float64 if at.is_floating(kind) else np.int64), null
    words = np.frombuffer(column.buffers()[1], dtype)[column.offset * width : (column.offset + rows) * width]
    words = np.where(np.repeat(null, width), dtype.type(0), words).reshape(rows, width)
    if at.is_floating(kind):
        return words[:, 0].astype(np.float64), null
    if width > 1:
        return _joined(words), null
    values = words[:, 0]
    if values.dtype == np.uint64 and (values > np.iinfo(np.int64).max).any():
        return values.astype(object), null
    values = values.astype(np.int64)
    return (values // DAY if at.is_date64(kind) else values), null


def raw(column: pa.Array) -> Any:
    """The first value: a float, or an integer in the units of the type."""
    return _plain(column)[0].tolist()[0]


def stored(values: list[Any], kind: pa.DataType) -> pa.Array:
    """An array of such values."""
    numbers = np.array(values, np.float64) if at.is_floating(kind) else integers(values)
    return _stored(numbers, np.zeros(len(values), bool), kind)


def _stored(values: np.ndarray, null: np.ndarray, kind: pa.DataType) -> pa.Array:
    """What ``_plain`` takes apart."""
    dtype, width = _layout(kind)
    if at.is_date64(kind):
        values = values * DAY
    with np.errstate(invalid="ignore"):
        words = _split(values, width) if width > 1 else values.astype(dtype)
    valid = pa.py_buffer(np.packbits(~null, bitorder="little").tobytes()) if null.any() else None
    return pa.Array.from_buffers(kind, len(values), [valid, pa.py_buffer(words.tobytes())])


def _layout(kind: pa.DataType) -> tuple[np.dtype[Any], int]:
    """How Arrow stores a value: the type of a word, and how many words."""
    if at.is_integer(kind) or at.is_floating(kind):
        return np.dtype(kind.to_pandas_dtype()), 1
    return np.dtype(np.int32 if kind.bit_width == 32 else np.int64), max(1, kind.bit_width // 64)


def _joined(words: np.ndarray) -> np.ndarray:
    """Integers of words, least significant first, ``(n, words)``."""
    low = words[:, 0]
    if (words[:, 1:] == (low >> 63)[:, None]).all():
        return low
    value = words[:, -1].astype(object)
    for word in range(words.shape[1] - 2, -1, -1):
        value = value * 2**64 + words[:, word].astype(np.uint64).astype(object)
    return value


def _split(values: np.ndarray, width: int) -> np.ndarray:
    if values.dtype == np.int64:
        return np.column_stack([values, *[values >> 63] * (width - 1)])
    words = [(values >> 64 * word) & (2**64 - 1) for word in range(width)]
    return np.column_stack([word.astype(np.uint64) for word in words])


def _apart(low: np.ndarray, high: np.ndarray, step: int) -> np.ndarray:
    """How many whole steps there are between integers; as uint64, since as int64 a difference might not fit."""
    wide = low.dtype == object
    steps: np.ndarray = (high - low) // step if wide else (high.view(np.uint64) - low.view(np.uint64)) // np.uint64(step)
    return steps


def _above(low: np.ndarray, high: np.ndarray, place: np.ndarray, step: int) -> np.ndarray:
    """The multiples of a step above ``low`` that places are."""
    most = _apart(low, high, step)
    steps = np.floor(place * (most.astype(np.float64) + 1.0))
    above: Any
    if low.dtype == object:
        above = np.minimum(np.array([int(n) for n in steps], object), most) * step
    else:
        above = (np.minimum(steps.astype(np.uint64), most) * np.uint64(step)).view(np.int64)
    found: np.ndarray = low + above
    return found


def _half(places: int | None) -> float:
    """Where all values are rounded, each stands for what would have been rounded to it."""
    return 0.0 if places is None else 0.5 * 10.0**-places


def _place(values: np.ndarray, low: np.ndarray, high: np.ndarray, places: int | None) -> np.ndarray:
    half = _half(places)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (values / 2 - low / 2 + half / 2) / (high / 2 - low / 2 + half)


def _between(low: np.ndarray, high: np.ndarray, place: np.ndarray, places: int | None) -> np.ndarray:
    """Never less at a higher place: each operation is as monotone as its rounding."""
    half = _half(places)
    with np.errstate(invalid="ignore", over="ignore"):
        values = 2 * (low / 2 - half / 2 + (high / 2 - low / 2 + half) * place)
    values = values if places is None else np.where(np.abs(values) < 2.0**53, np.round(values, places), values)
    return np.where(low == high, low, np.clip(values, low, high))


def _rounded(values: np.ndarray, places: int, kind: pa.DataType) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        return bool((np.round(values, places).astype(kind.to_pandas_dtype()) == values).all())


def _divisor(values: np.ndarray, known: int) -> int:
    if not len(values) or known == 1:
        return known
    if values.dtype == object:
        return math.gcd(known, *values)
    if (values == np.iinfo(np.int64).min).any():  # numpy has no absolute value of it
        return math.gcd(known, *np.unique(values).tolist())
    return math.gcd(known, int(np.gcd.reduce(values)))
