"""Categories become class indices and come back as the values and the type that they were."""

import json
import tracemalloc
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raygen.datasets import columns
from raygen.datasets.columns import OWN, SHARED, Category, Counts, Vocabulary

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


def vocabulary(values: list[Any], train: np.ndarray | None = None, kind: pa.DataType | None = None) -> Vocabulary:
    counts = Counts()
    for start in range(0, len(values), 5000):
        piece, part = Counts(), pa.array(values[start : start + 5000], kind)
        piece.add(part, np.ones(len(part), bool) if train is None else train[start : start + 5000])
        counts.merge(json.loads(json.dumps(piece.to_json())))
    return Vocabulary.of(counts.training, None in counts.everywhere)


def zipf(rows: int, distinct: int) -> list[str]:
    ranks = np.random.default_rng(0).zipf(1.3, 4 * rows)
    return [f"v{rank * 7919 % distinct:06d}" for rank in ranks[ranks < distinct][:rows]]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.int64(), pa.uint64()], ids=str
)
def test_very_many_values_there_and_back(kind: pa.DataType) -> None:
    values: list[Any] = [*zipf(20_000, 50_000), None]
    if pa.types.is_integer(kind):
        base = 2**63 + 7 if kind == pa.uint64() else -3
        values = [None if value is None else base + int(value[1:]) for value in values]
    learnt = vocabulary(values, kind=kind)
    assert learnt.tokens <= OWN + SHARED + 1
    cells = learnt.encode(pa.array(values, kind))
    assert (cells.min(), cells.max() < learnt.tokens) == (0, True)
    back = learnt.decode(cells, kind)
    back.validate(full=True)
    assert back.type == kind
    assert back.to_pylist() == values
    assert learnt.decode(np.empty(0), kind).type == kind


def test_the_frequent_have_tokens_and_the_others_share_some_evenly() -> None:
    values = zipf(50_000, 100_000)
    learnt = vocabulary(values)
    counts = Counter(values)
    assert set(learnt.own) >= {value for value, _ in counts.most_common(OWN // 2)}
    assert learnt.own == tuple(sorted(learnt.own))
    token, rows = np.unique(np.floor(learnt.encode(pa.array(values))), return_counts=True)
    shared = rows[token >= OWN]
    assert len(shared) > SHARED * 0.9
    assert shared.max() < 3 * np.median(shared)


def test_a_shared_token_gives_its_values_as_often_as_they_are_real() -> None:
    values = [f"a{row:04d}" for row in range(OWN)] * 50 + [f"b{row:03d}" for row in range(600) for _ in range(1 + row % 7)]
    learnt = vocabulary(values)
    assert learnt.shared[0] == "b000"
    token = float(OWN + 17)
    found = Counter(learnt.decode(token + np.random.default_rng(0).random(70_000), pa.string()).to_pylist())
    real = {value: learnt.counts[learnt.shared.index(value)] for value in found}
    assert len(real) > 1
    for value, count in found.items():
        assert count / 70_000 == pytest.approx(real[value] / sum(real.values()), abs=0.01)


def test_a_value_that_was_never_seen_is_its_neighbour() -> None:
    values = [f"v{row:05d}" for row in range(3000)]
    train = np.arange(3000) % 10 != 5
    learnt = vocabulary(values, train)
    assert not {f"v{row:05d}" for row in range(5, 3000, 10)} & {*learnt.own, *learnt.shared}
    back = learnt.decode(learnt.encode(pa.array(["v01235", "zzz", None])), pa.string()).to_pylist()
    assert back == ["v01236", "v02999", back[2]]
    few = Category(("a", "c", None), (1, 1, 1))
    np.testing.assert_array_equal(columns.nearest(pa.array(["a", "b", "d", None]), few), [0, 1, 1, 2])


def test_a_hundred_thousand_values_take_little_memory() -> None:
    values = [f"{row * 7919 % 100_000:05d}" for row in range(200_000)]
    tracemalloc.start()
    try:
        learnt = vocabulary(values)
        column = pa.array(values)
        cells = learnt.encode(column)
        assert learnt.decode(cells, pa.string()).equals(column)
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()
    assert learnt.tokens == OWN + SHARED
