"""A plan says what any row shows: exactly as often as asked over all rows, about as often in every shard."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raygen.jobs.plan import Plan, balanced, permutation, proportional

SIZES = st.integers(1, 5000)
SEEDS = st.integers(0, 2**63 - 1)


@settings(max_examples=60, deadline=None)
@given(size=SIZES, seed=SEEDS)
def test_a_permutation_takes_every_position_to_one_place(size: int, seed: int) -> None:
    whole = permutation(size, seed, np.arange(size))
    assert whole.dtype == np.int64
    np.testing.assert_array_equal(np.sort(whole), np.arange(size))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 15, 16, 17, 255, 256, 257, 4095, 4096, 4097, 2**16 + 1])
def test_a_permutation_of_the_sizes_around_its_domains(size: int) -> None:
    np.testing.assert_array_equal(np.sort(permutation(size, 0, np.arange(size))), np.arange(size))


@settings(max_examples=40, deadline=None)
@given(size=SIZES, seed=SEEDS, data=st.data())
def test_a_part_of_a_permutation_is_that_part_of_the_whole(size: int, seed: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start, size))
    whole = permutation(size, seed, np.arange(size))
    np.testing.assert_array_equal(permutation(size, seed, np.arange(start, stop)), whole[start:stop])
    picked = data.draw(st.lists(st.integers(0, size - 1), max_size=5))
    np.testing.assert_array_equal(permutation(size, seed, np.array(picked, np.int64)), whole[picked])


def test_a_permutation_mixes() -> None:
    size = 5000
    first, second = (permutation(size, seed, np.arange(size)) for seed in (0, 1))
    for shuffled in (first, second):
        assert abs(np.corrcoef(shuffled, np.arange(size))[0, 1]) < 0.06  # 4 sigma of independent orders
        assert abs(np.corrcoef(shuffled[1:], shuffled[:-1])[0, 1]) < 0.06
        assert (shuffled == np.arange(size)).sum() < 8  # one is expected to stay
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.06


COUNTS = st.lists(st.integers(0, 400), min_size=1, max_size=12).filter(any)


@settings(max_examples=60, deadline=None)
@given(counts=COUNTS, seed=SEEDS, shard_rows=st.integers(1, 500))
def test_every_class_has_exactly_its_count(counts: list[int], seed: int, shard_rows: int) -> None:
    rows = sum(counts)
    plan = Plan(rows, seed, shard_rows, tuple(counts))
    whole = plan.classes(range(rows))
    assert whole is not None
    assert whole.dtype == np.int64
    assert np.bincount(whole, minlength=len(counts)).tolist() == counts
    shards = [plan.shard(index) for index in range(plan.shards)]
    assert [row for shard in shards for row in shard.rows] == list(range(rows))  # each row once, in order
    assert all(len(shard.rows) == shard_rows for shard in shards[:-1])
    assert 1 <= len(shards[-1].rows) <= shard_rows
    some = shards[:: max(1, len(shards) // 5)]
    for shard in some:
        np.testing.assert_array_equal(plan.classes(shard.rows), whole[shard.rows.start : shard.rows.stop])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("counts", [[2000] * 10, [10_000, 5000, 3000, 1500, 500], [19_000, 1000]], ids=str)
def test_every_shard_is_mixed(counts: list[int], seed: int) -> None:
    plan = Plan(sum(counts), seed, 1000, tuple(counts))
    share = np.array(counts) / plan.rows
    sigma = np.sqrt(1000 * share * (1 - share))
    for index in range(plan.shards):
        classes = plan.classes(plan.shard(index).rows)
        assert classes is not None
        found = np.bincount(classes, minlength=len(counts))
        assert (found > 0).all()
        assert (np.abs(found - 1000 * share) < 5 * sigma).all()


@settings(deadline=None)
@given(rows=st.integers(1, 10**6), weights=COUNTS)
def test_proportional_adds_up_and_is_as_near_as_can_be(rows: int, weights: list[int]) -> None:
    counts = proportional(rows, weights)
    assert sum(counts) == rows
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - rows * weight / sum(weights)) < 1
        assert count == 0 or weight > 0


@settings(deadline=None)
@given(rows=st.integers(1, 10**6), training=COUNTS)
def test_balanced_gives_every_trained_class_as_many(rows: int, training: list[int]) -> None:
    counts = balanced(rows, training)
    assert sum(counts) == rows
    trained = [count for count, seen in zip(counts, training, strict=True) if seen]
    assert max(trained) - min(trained) <= 1
    assert trained == sorted(trained, reverse=True)  # what is left over goes to the first ones
    assert all(count == 0 for count, seen in zip(counts, training, strict=True) if not seen)


def test_known_counts() -> None:
    assert balanced(10, [5, 1, 0, 9]) == (4, 3, 0, 3)
    assert balanced(2, [5, 1, 0, 9]) == (1, 1, 0, 0)
    assert proportional(10, [1, 1, 1]) == (4, 3, 3)
    assert proportional(10, [600, 300, 60, 40]) == (6, 3, 1, 0)
    assert proportional(10**12 + 1, [1, 1]) == (500_000_000_001, 500_000_000_000)


def test_names_and_ranges_of_shards() -> None:
    plan = Plan(10_001, 7, 5000, None)
    assert plan.shards == 3
    assert [plan.shard(index) for index in range(3)] == [
        (0, "part-00000-of-00003.parquet", range(5000)),
        (1, "part-00001-of-00003.parquet", range(5000, 10_000)),
        (2, "part-00002-of-00003.parquet", range(10_000, 10_001)),
    ]
    names = [Plan(123_456, 0, 1, None).shard(index).name for index in (0, 99_999, 123_455)]
    assert names == ["part-00000-of-123456.parquet", "part-99999-of-123456.parquet", "part-123455-of-123456.parquet"]
    assert Plan(10_000, 7, 5000, None).shards == 2
    assert Plan(1, 7, 5000, None).shard(0).rows == range(1)


def test_without_a_condition_there_are_no_classes() -> None:
    assert Plan(10, 7, 5, None).classes(range(10)) is None


def test_seeds_give_other_orders_of_the_same_counts() -> None:
    plans = [Plan(1000, seed, 100, (500, 500)) for seed in (1, 2, 1)]
    first, second, again = (plan.classes(range(1000)) for plan in plans)
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()


def test_the_order_never_changes() -> None:
    """A new release that dealt otherwise would fill the second half of a dataset with rows of another plan."""
    classes = Plan(20, 7, 5, (8, 7, 5)).classes(range(20))
    assert classes is not None
    assert classes.tolist() == [2, 0, 1, 2, 1, 2, 1, 0, 0, 1, 0, 1, 0, 0, 0, 2, 2, 0, 1, 1]


def test_rows_far_out_are_answered_at_once() -> None:
    rows = 10**12
    plan = Plan(rows, 7, 5000, balanced(rows, [1] * 10))
    began = time.perf_counter()
    shard = plan.shard(plan.shards - 1)
    classes = plan.classes(shard.rows)
    assert time.perf_counter() - began < 1
    assert shard.rows == range(rows - 5000, rows)
    assert shard.name == "part-199999999-of-200000000.parquet"
    assert classes is not None
    assert (np.abs(np.bincount(classes, minlength=10) - 500) < 110).all()


def test_json_there_and_back() -> None:
    for plan in (Plan(10, 7, 5, (4, 6)), Plan(10, 7, 5, None)):
        assert Plan.from_json(plan.to_json()) == plan
