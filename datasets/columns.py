"""Category columns between Arrow and class indices; those of very many values, between Arrow and cells."""

import dataclasses
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.types as at

Value = str | int | bool | None

OWN = 500
"""Of very many values, how many of the most frequent are tokens of their own."""
SHARED = 200
"""How many tokens the others share."""


class Category(NamedTuple):
    """The values of a category column, in order, how many training rows have each, and how many held-out rows."""

    values: tuple[Value, ...]
    counts: tuple[int, ...]
    held: tuple[int, ...] = ()

    @property
    def everywhere(self) -> tuple[int, ...]:
        """How many rows have each value, held out or not."""
        return tuple(map(sum, zip(self.counts, self.held, strict=True))) if self.held else self.counts


def count(column: pa.Array) -> Counter[Value]:
    """How often each value is there, a null being one of them."""
    counted = _plain(column).value_counts()
    return Counter(dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)))


def fit(everywhere: Mapping[Value, int], training: Mapping[Value, int]) -> Category:
    """Values from all rows, sorted (null last), so that holdout rows can be encoded; counts of training and other rows."""
    present = list(everywhere)
    ordered: list[Value] = [*sorted(value for value in present if value is not None)]
    ordered += [None] if None in present else []
    counts = tuple(training.get(value, 0) for value in ordered)
    return Category(tuple(ordered), counts, tuple(everywhere[value] - n for value, n in zip(ordered, counts, strict=True)))


def encode(column: pa.Array, category: Category) -> np.ndarray:
    """Class indices: int64, ``(n,)``. A value that was not there when the codec was fitted is -1."""
    index = {value: i for i, value in enumerate(category.values)}
    dictionary = _plain(column).dictionary_encode(null_encoding="encode")
    lookup = np.array([index.get(value, -1) for value in dictionary.dictionary.to_pylist()] or [-1], np.int64)
    indices: np.ndarray = lookup[dictionary.indices.to_numpy(zero_copy_only=False)]
    return indices


def nearest(column: pa.Array, category: Category) -> np.ndarray:
    """As ``encode``, but what was not there when the codec was fitted is as its neighbour in the order of the values."""
    indices = encode(column, category)
    known = [value for value in category.values if value is not None]
    for row in np.flatnonzero(indices < 0):
        indices[row] = _neighbour(known, column[row].as_py())
    return indices


def decode(indices: np.ndarray, category: Category, kind: pa.DataType) -> pa.Array:
    """The values of class indices, as the type that the column has in the source."""
    values = [value for value in category.values if value is not None]
    return _taken(pa.array(values, kind.value_type if at.is_dictionary(kind) else kind), indices, kind)


class Counts:
    """How many rows have each value of a category column: a pass over it adds up what it finds in pieces."""

    def __init__(self) -> None:
        self.everywhere: Counter[Value] = Counter()
        self.training: Counter[Value] = Counter()

    def add(self, column: pa.Array, train: np.ndarray) -> None:
        """Rows of the column; ``train``, bool ``(n,)``, says which are training rows."""
        self.everywhere.update(count(column))
        self.training.update(count(column.filter(pa.array(train))))

    def merge(self, state: Iterable[tuple[Value, int, int]]) -> None:
        for value, n, of_training in state:
            self.everywhere[value] += n
            if of_training:
                self.training[value] += of_training

    def to_json(self) -> list[tuple[Value, int, int]]:
        return [(value, n, self.training[value]) for value, n in self.everywhere.items()]


@dataclass(frozen=True)
class Vocabulary:
    """A category column of very many values: the most frequent are tokens of their own; the others, sorted, share tokens,
    each about as many rows as any other. Within such a token ``place`` goes by how many training rows have which value.

    Attributes:
        own: sorted. Their tokens come first, then those that are shared, then null.
        shared: sorted.
        counts: how many training rows have each shared value.
        starts: the first shared value of each shared token.
        null: whether there are nulls.
    """

    own: tuple[Value, ...]
    shared: tuple[Value, ...]
    counts: tuple[int, ...]
    starts: tuple[int, ...]
    null: bool

    @classmethod
    def of(cls, training: Mapping[Value, int], null: bool) -> "Vocabulary":
        """Of values and how many training rows have them; which values only other rows have is nothing to learn."""
        values = sorted(value for value in training if value is not None)
        frequent = sorted(values, key=lambda value: -training[value])[:OWN]  # of equals, the first
        own = set(frequent)
        shared = [value for value in values if value not in own]
        counts = np.array([training[value] for value in shared], np.int64)
        token = (2 * np.cumsum(counts) - counts) * SHARED // max(2 * int(counts.sum()), 1)
        starts = np.flatnonzero(np.diff(token, prepend=-1))
        return cls(tuple(sorted(frequent)), tuple(shared), tuple(counts.tolist()), tuple(starts.tolist()), null)

    @property
    def tokens(self) -> int:
        return len(self.own) + len(self.starts) + self.null

    def encode(self, column: pa.Array) -> np.ndarray:
        """Cells: float64, ``(n,)``. A value that no training row had gets the cell of its neighbour in the alphabet."""
        dictionary = _plain(column).dictionary_encode(null_encoding="encode")
        cells = np.array([self._cell(value) for value in dictionary.dictionary.to_pylist()], np.float64)
        found: np.ndarray = cells[dictionary.indices.to_numpy(zero_copy_only=False)]
        return found

    def decode(self, cells: np.ndarray, kind: pa.DataType) -> pa.Array:
        """The values of cells, ``(n,)``, as the type that the column has in the source."""
        token = np.clip(np.floor(cells), 0, self.tokens - 1).astype(np.int64)
        index = token.copy()
        tail = (token >= len(self.own)) & (token < len(self.own) + len(self.starts))
        first, before = np.array([*self.starts, len(self.shared)]), self._before
        which = token[tail] - len(self.own)
        start, stop = before[first[which]], before[first[which + 1]]
        rows = start + (cells[tail] - token[tail]) * (stop - start)
        index[tail] = len(self.own) + np.clip(
            np.searchsorted(before, rows, side="right") - 1, first[which], first[which + 1] - 1
        )
        index[(token == self.tokens - 1) & self.null] = len(self.own) + len(self.shared)
        known = self._known.cast(kind.value_type) if at.is_dictionary(kind) else self._known
        return _taken(known, index, kind)

    def token(self, value: Value) -> int | None:
        """Of a value that training rows have, or that is null; None without."""
        if value is None:
            return self.tokens - 1 if self.null else None
        for values in (self.own, self.shared):
            if values and type(values[0]) is type(value):
                index = _neighbour(values, value)
                if values[index] == value:
                    return index if values is self.own else len(self.own) + bisect_right(self.starts, index) - 1
        return None

    def is_shared(self, token: int) -> bool:
        """Whether several values are in a token."""
        return len(self.own) <= token < len(self.own) + len(self.starts)

    def to_json(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @cached_property
    def _known(self) -> pa.Array:
        values = [*self.own, *self.shared]
        try:
            return pa.array(values)
        except OverflowError:
            return pa.array(values, pa.uint64())

    @cached_property
    def _before(self) -> np.ndarray:
        """How many training rows have the shared values before each, and all of them."""
        return np.concatenate([[0], np.cumsum(np.array(self.counts, np.int64))])

    @cached_property
    def _cells(self) -> dict[Value, float]:
        found = {value: float(token) for token, value in enumerate(self.own)}
        token = np.searchsorted(self.starts, np.arange(len(self.shared)), side="right") - 1
        edges = self._before[[*self.starts, len(self.shared)]]
        middle = self._before[:-1] + np.array(self.counts) / 2
        place = (middle - edges[token]) / (edges[token + 1] - edges[token])
        found.update(zip(self.shared, (len(self.own) + token + place).tolist(), strict=True))
        if self.null:
            found[None] = float(self.tokens - 1)
        return found

    def _cell(self, value: Value) -> float:
        if value in self._cells or not self.shared:
            return self._cells.get(value, 0.0)
        return self._cells[self.shared[_neighbour(self.shared, value)]]


def _neighbour(values: Sequence[Value], value: Value) -> int:
    """The index of the first that is no less, or of the last."""
    known: Sequence[Any] = values  # all are of the type of the value
    return 0 if value is None else min(bisect_left(known, value), max(len(known) - 1, 0))


def _taken(known: pa.Array, indices: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Values by their indices; one that is too high is a null."""
    null = indices >= len(known)
    if not at.is_dictionary(kind):
        return known.take(pa.array(indices, mask=null)).cast(kind)
    # All values, in order, whichever are there: a row is the same in any batch.
    return pa.DictionaryArray.from_arrays(pa.array(indices, kind.index_type, mask=null), known, ordered=kind.ordered)


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if at.is_dictionary(column.type) else column
