"""Category columns between Arrow and class indices."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.types as at

Value = str | int | bool | None


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


def decode(indices: np.ndarray, category: Category, kind: pa.DataType) -> pa.Array:
    """The values of class indices, as the type that the column has in the source."""
    if not at.is_dictionary(kind):
        return pa.array(category.values, kind).take(pa.array(indices))
    # All values, in order, whichever are there: a row is the same in any batch. The null, which comes last, is not one.
    known = pa.array([value for value in category.values if value is not None], kind.value_type)
    codes = pa.array(indices, kind.index_type, mask=indices >= len(known))
    return pa.DictionaryArray.from_arrays(codes, known, ordered=kind.ordered)


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if at.is_dictionary(column.type) else column
