"""Categories become class indices and come back as the values and the type that they were."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raygen.datasets import columns
from raygen.datasets.columns import Category

STRINGS = st.text(max_size=4)
PLAIN: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.string(), STRINGS),
    (pa.large_string(), STRINGS),
    (pa.int8(), st.integers(-128, 127)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.bool_(), st.booleans()),
    (pa.dictionary(pa.int32(), pa.string()), STRINGS),
    (pa.dictionary(pa.int8(), pa.string()), STRINGS),
    (pa.dictionary(pa.int16(), pa.large_string(), ordered=True), STRINGS),
]


def fitted(column: pa.Array) -> Category:
    counted = columns.count(column)
    return columns.fit(counted, counted)


@settings(deadline=None)
@given(data=st.data(), kind=st.sampled_from(PLAIN))
def test_there_and_back(data: st.DataObject, kind: tuple[pa.DataType, st.SearchStrategy[Any]]) -> None:
    values = data.draw(st.lists(st.none() | kind[1], max_size=12))
    column = pa.array(values, kind[0])
    category = fitted(column)
    indices = columns.encode(column, category)
    assert indices.dtype == np.int64
    assert [category.values[index] for index in indices] == values
    back = columns.decode(indices, category, kind[0])
    back.validate(full=True)
    assert back.type == kind[0]
    assert back.to_pylist() == values
    assert [type(value) for value in back.to_pylist()] == [type(value) for value in values]
    start = data.draw(st.integers(0, len(values)))
    np.testing.assert_array_equal(columns.encode(column.slice(start), category), indices[start:])


@settings(deadline=None)
@given(values=st.lists(st.none() | st.integers(-3, 3), max_size=30))
def test_counts(values: list[int | None]) -> None:
    column = pa.array(values, pa.int16())
    assert columns.count(column) == Counter(values)
    category = fitted(column)
    assert list(category.values) == sorted({v for v in values if v is not None}) + [None] * (None in values)
    assert category.counts == category.everywhere == tuple(values.count(value) for value in category.values)


def test_values_come_from_all_rows_and_counts_from_training_rows() -> None:
    category = columns.fit({"b": 2, None: 1, "a": 5, "c": 1}, {"a": 3, None: 1})
    assert category == Category(("a", "b", "c", None), (3, 0, 0, 1), (2, 2, 1, 0))
    assert category.everywhere == (5, 2, 1, 1)


def test_an_older_artifact_does_not_tell_what_was_held_out() -> None:
    assert Category(("a", "b"), (3, 4)).everywhere == (3, 4)


def test_what_was_never_seen_is_minus_one() -> None:
    category = Category(("a", "b"), (1, 1))
    np.testing.assert_array_equal(columns.encode(pa.array(["b", "z", None, "a"]), category), [1, -1, -1, 0])


@pytest.mark.parametrize("kind", [pa.string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_no_rows(kind: pa.DataType) -> None:
    empty = pa.array([], kind)
    assert len(columns.encode(empty, Category(("a",), (1,)))) == 0
    assert columns.decode(np.empty(0, np.int64), Category(("a",), (1,)), kind).type == kind
    assert fitted(empty) == Category((), ())


def test_nulls_in_a_dictionary_and_beside_it_are_one_value() -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 2]), pa.array(["a", None, "b"]))
    category = fitted(column)
    assert category == Category(("a", "b", None), (1, 1, 2), (0, 0, 0))
    np.testing.assert_array_equal(columns.encode(column, category), [0, 2, 2, 1])
