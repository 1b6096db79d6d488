"""A plan says what any row shows: exactly as often as asked over all rows, about as often in every shard."""

import itertools
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raygen.datasets.parquet import Fragment
from raygen.jobs.plan import (
    MOST_CUTS,
    NewRows,
    Plan,
    Shard,
    Split,
    Variants,
    balanced,
    evened,
    filled_up,
    permutation,
    proportional,
    splits,
)

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
    new = NewRows(rows, seed, shard_rows, tuple(counts))
    plan = Plan(new, None)
    whole = new.classes(range(rows))
    assert whole is not None
    assert whole.dtype == np.int64
    assert np.bincount(whole, minlength=len(counts)).tolist() == counts
    shards = list(plan)
    assert len(shards) == plan.shards
    assert plan.rows == sum(map(plan.size, shards)) == rows
    assert [row for shard in shards for row in shard.rows] == list(range(rows))  # each row once, in order
    assert all(len(shard.rows) == shard_rows for shard in shards[:-1])
    assert 1 <= len(shards[-1].rows) <= shard_rows
    some = shards[:: max(1, len(shards) // 5)]
    for shard in some:
        np.testing.assert_array_equal(new.classes(shard.rows), whole[shard.start : shard.stop])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("counts", [[2000] * 10, [10_000, 5000, 3000, 1500, 500], [19_000, 1000]], ids=str)
def test_every_shard_is_mixed(counts: list[int], seed: int) -> None:
    new = NewRows(sum(counts), seed, 1000, tuple(counts))
    share = np.array(counts) / new.rows
    sigma = np.sqrt(1000 * share * (1 - share))
    for shard in Plan(new, None):
        classes = new.classes(shard.rows)
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


@settings(deadline=None)
@given(real=COUNTS, to=st.none() | st.integers(1, 500))
def test_filled_up_brings_every_class_up_to_one_level(real: list[int], to: int | None) -> None:
    level = max(real) if to is None else to
    after = [count + new for count, new in zip(real, filled_up(real, to), strict=True)]
    assert after == [max(count, level) for count in real]


@settings(max_examples=100, deadline=None)
@given(real=st.lists(st.integers(0, 300), min_size=1, max_size=8).filter(any), rows=st.integers(1, 2000))
def test_evened_gives_to_the_smallest_classes_first(real: list[int], rows: int) -> None:
    added = evened(rows, real)
    assert rows - len(real) < sum(added) <= rows
    after = [count + new for count, new in zip(real, added, strict=True) if count]
    assert all(count == 0 or new == 0 or count + new == min(after) for count, new in zip(real, added, strict=True))
    assert all(new == 0 for count, new in zip(real, added, strict=True) if not count)


def test_names_and_ranges_of_shards() -> None:
    plan = Plan(NewRows(10_001, 7, 5000, None), None)
    assert plan.shards == 3
    assert list(plan) == [
        (0, "part-00000-of-00003.parquet", 0, 5000, None),
        (1, "part-00001-of-00003.parquet", 5000, 10_000, None),
        (2, "part-00002-of-00003.parquet", 10_000, 10_001, None),
    ]
    names = [shard.file for shard in Plan(NewRows(123_456, 0, 1, None), None)]
    assert [names[index] for index in (0, 99_999, 123_455)] == [
        "part-000000-of-123456.parquet",
        "part-099999-of-123456.parquet",
        "part-123455-of-123456.parquet",
    ]
    assert sorted(names) == names
    assert Plan(NewRows(10_000, 7, 5000, None), None).shards == 2
    assert [shard.rows for shard in Plan(NewRows(1, 7, 5000, None), None)] == [range(1)]


def test_without_a_condition_there_are_no_classes() -> None:
    assert NewRows(10, 7, 5, None).classes(range(10)) is None


def test_seeds_give_other_orders_of_the_same_counts() -> None:
    first, second, again = (NewRows(1000, seed, 100, (500, 500)).classes(range(1000)) for seed in (1, 2, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()


def test_the_order_never_changes() -> None:
    """A new release that dealt otherwise would fill the second half of a dataset with rows of another plan."""
    classes = NewRows(20, 7, 5, (8, 7, 5)).classes(range(20))
    assert classes is not None
    assert classes.tolist() == [2, 0, 1, 2, 1, 2, 1, 0, 0, 1, 0, 1, 0, 0, 0, 2, 2, 0, 1, 1]


def test_rows_far_out_are_answered_at_once() -> None:
    rows = 10**12
    new = NewRows(rows, 7, 5000, balanced(rows, [1] * 10))
    began = time.perf_counter()
    assert Plan(new, None).shards == 200_000_000
    first = list(itertools.islice(Plan(new, None), 2))
    classes = new.classes(range(rows - 5000, rows))
    assert time.perf_counter() - began < 1
    assert first[1] == (1, "part-000000001-of-200000000.parquet", 5000, 10_000, None)
    assert classes is not None
    assert (np.abs(np.bincount(classes, minlength=10) - 500) < 110).all()


@settings(max_examples=40, deadline=None)
@given(counts=COUNTS, start=st.integers(0, 2**53 - 1), shard_rows=st.integers(1, 500))
def test_rows_can_begin_anywhere(counts: list[int], start: int, shard_rows: int) -> None:
    here, there = (NewRows(sum(counts), 7, shard_rows, tuple(counts), first) for first in (0, start))
    assert [shard.rows for shard in Plan(there, None)] == [
        range(start + shard.start, start + shard.stop) for shard in Plan(here, None)
    ]
    np.testing.assert_array_equal(
        there.classes(range(start, start + there.rows)),
        here.classes(range(here.rows)),
    )


@settings(max_examples=40, deadline=None)
@given(counts=COUNTS, start=st.integers(0, 10**6), shard_rows=st.integers(1, 500))
def test_a_folder_has_the_rows_of_its_class_only(counts: list[int], start: int, shard_rows: int) -> None:
    folders = tuple(f"label={index}" for index in range(len(counts)))
    new = NewRows(sum(counts), 7, shard_rows, tuple(counts), start, folders)
    shards = list(Plan(new, None))
    assert len(shards) == Plan(new, None).shards
    assert [row for shard in shards for row in shard.rows] == list(range(start, start + new.rows))
    found = dict.fromkeys(folders, 0)
    for number, shard in enumerate(shards):
        folder, _, name = shard.file.partition("/")
        assert name == f"part-{number:05d}-of-{len(shards):05d}.parquet"
        assert set(new.classes(shard.rows).tolist()) == {folders.index(folder)}  # type: ignore[union-attr]
        assert 1 <= len(shard.rows) <= shard_rows
        found[folder] += len(shard.rows)
    assert list(found.values()) == counts


def fragments(groups: list[list[int]]) -> list[Fragment]:
    """The row groups of files, by their rows."""
    found, offset = [], 0
    for file, rows in enumerate(groups):
        start = 0
        for index, size in enumerate(rows):
            found.append(Fragment(f"{file}.parquet", index, start, offset, size))
            start, offset = start + size, offset + size
    return found


GROUPS = st.lists(st.lists(st.integers(0, 40) | st.sampled_from([0, 1, 1000, 5000]), max_size=6), max_size=4)


@settings(max_examples=200, deadline=None)
@given(groups=GROUPS, rows=st.integers(1, 60))
def test_splits_cover_every_row_once_and_in_order(groups: list[list[int]], rows: int) -> None:
    of = fragments(groups)
    cut = list(splits(of, rows))
    assert [row for _, numbers in cut for row in numbers] == list(range(sum(map(sum, groups))))
    address = {fragment.offset + n: (fragment.file, fragment.start + n) for fragment in of for n in range(fragment.rows)}
    for split, numbers in cut:
        assert len(numbers) > 0
        assert 0 <= split.first < split.last
        for at in (0, -1):  # the rows that a reader finds there are the ones of these numbers, in one file
            assert address[numbers[at]] == (split.file, split.row + (at % len(numbers)))
        here = [
            fragment for fragment in of if fragment.file == split.file and split.first <= fragment.row_group < split.last
        ]
        assert here[0].start + split.skip == split.row
        assert split.skip + len(numbers) <= sum(fragment.rows for fragment in here)
        if len(here) > 1:  # together only what is small enough, and whole
            assert (split.skip, len(numbers)) == (0, sum(fragment.rows for fragment in here))
            assert len(numbers) <= rows
    for fragment in of:
        pieces = [numbers for split, numbers in cut if split.file == fragment.file and split.first == fragment.row_group]
        assert len(pieces) <= MOST_CUTS
        if rows < fragment.rows <= rows * MOST_CUTS:
            assert max(map(len, pieces)) <= rows
            assert max(map(len, pieces[:-1])) == min(map(len, pieces[:-1]))  # even


def test_known_splits() -> None:
    of = fragments([[3, 0, 4, 4], [0], [10, 2]])
    assert list(splits(of, 8)) == [
        (("0.parquet", 0, 3, 0, 0), range(7)),
        (("0.parquet", 3, 4, 0, 7), range(7, 11)),
        (("2.parquet", 0, 1, 0, 0), range(11, 16)),
        (("2.parquet", 0, 1, 5, 5), range(16, 21)),
        (("2.parquet", 1, 2, 0, 10), range(21, 23)),
    ]
    assert [len(numbers) for _, numbers in splits(fragments([[1600]]), 1)] == [100] * MOST_CUTS
    assert list(splits(fragments([[0], []]), 5)) == []


def test_new_rows_come_first_and_real_ones_behind() -> None:
    of = tuple(splits(fragments([[5, 5]]), 5))
    plan = Plan(NewRows(7, 0, 4, None), Variants(of, 0, True))
    assert (plan.shards, plan.rows) == (4, 17)
    assert [shard.file for shard in plan] == [f"part-{number:05d}-of-00004.parquet" for number in range(4)]
    assert [(shard.rows, plan.size(shard)) for shard in plan] == [
        (range(4), 4),
        (range(4, 7), 3),
        (range(5), 5),
        (range(5, 10), 5),
    ]
    plan = Plan(None, Variants(of, 3, True))
    assert (plan.shards, plan.rows, [plan.size(shard) for shard in plan]) == (2, 40, [20, 20])
    plan = Plan(None, Variants(of, 3, False))
    assert (plan.rows, [plan.size(shard) for shard in plan]) == (30, [15, 15])


@pytest.mark.parametrize(
    "plan",
    [
        Plan(NewRows(10, 7, 3, (4, 0, 6), 5), None),
        Plan(NewRows(10, 7, 3, (4, 0, 6), 5, ("a", "b", "c")), None),
        Plan(NewRows(7, 0, 4, None), Variants(tuple(splits(fragments([[5, 5]]), 5)), 0, True)),
    ],
)
def test_what_is_left_of_a_plan(plan: Plan) -> None:
    every = list(plan)
    assert list(plan.without(())) == [plan.shard(number) for number in range(plan.shards)] == every
    left = plan.without({1, 3, 17})
    assert (len(left), list(left)) == (len(every) - 2, [every[0], every[2], *every[4:]])
    assert list(left[::-1]) == [*reversed(left)] == [*every[:3:-1], every[2], every[0]]
    assert left[1:][0] == every[2]
    assert list(plan.without(range(4))) == every[4:]


def test_what_is_left_of_a_million_shards_takes_no_room() -> None:
    plan = Plan(NewRows(10**10, 7, 10_000, None), None)
    tracemalloc.start()
    left = plan.without(range(3))
    largest = max(len(shard.file) for shard in left[::1000])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(left), largest) == (999_997, len("part-0000003-of-1000000.parquet"))
    assert peak < 30e6  # each number takes 8 bytes; each shard, 300


@pytest.mark.parametrize("split", [None, Split("a.parquet", 1, 3, 0, 20)])
def test_json_there_and_back(split: Split | None) -> None:
    shard = Shard(3, "label=a/part-00003-of-00004.parquet", 5, 9, split)
    assert Shard.from_json(shard.to_json()) == shard
