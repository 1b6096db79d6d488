"""What is counted in pieces says what `tables` says of rows in memory; it states what it may be off by, and stays small."""

from itertools import permutations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from raygen.errors import DataError
from raygen.metrics import grid, tables
from raygen.metrics.counts import GROUPS, Counts, quality
from raygen.metrics.grid import Grid

KINDS = {"a": "number", "b": "number", "c": "category", "d": "datetime", "e": "category"}


def rows(size: int = 2000, seed: int = 0, noise: float = 0.1) -> pa.Table:
    """Mixed columns that depend on each other, of a range that is the same for every seed."""
    random = np.random.default_rng(seed)
    a = np.clip(random.normal(size=size), -3, 3)
    a[:2] = -3, 3
    b = np.clip(a + noise * random.normal(size=size), -4, 4)
    b[:2] = -4, 4
    d = (18000 + 100 * np.round(a)).astype(np.int32)
    unknown = np.append([False, False], random.random(size - 2) < 0.1)
    return pa.table(
        {
            "a": pa.array(a, mask=unknown),
            "b": b.astype(np.float32),
            "c": pa.array(np.where(a > 0, "yes", "no"), mask=np.roll(unknown, 5)).dictionary_encode(),
            "d": pa.array(d).cast(pa.date32()),
            "e": pa.array(np.digitize(a, [-1, 0, 1]).astype(np.int8)),
        }
    )


def counted(cells: Grid, table: pa.Table, seed: int = 0) -> Counts:
    counts = Counts(cells)
    counts.update(table, np.random.default_rng(seed).integers(0, GROUPS, len(table)))
    return counts


def both(*made: pa.Table) -> pa.Table:
    return pa.concat_tables(made).unify_dictionaries()


@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_counts_say_what_rows_in_memory_say(noise: float) -> None:
    real, synthetic = rows(), rows(1500, 1, noise)
    cells = Grid.of(both(real, synthetic), KINDS)
    expected = tables.quality(real, synthetic, KINDS)
    found = quality(counted(cells, real), counted(cells, synthetic))
    assert found.quality[:3] == pytest.approx(expected[:3], abs=1e-9)
    assert found.quality.by_column == pytest.approx(expected.by_column, abs=1e-9)
    assert found.quality.by_pair == pytest.approx(expected.by_pair, abs=1e-9)
    assert list(found.quality.by_pair) == list(expected.by_pair)
    assert len(expected.by_pair) > 5
    assert found.errors == dict.fromkeys(KINDS, 0)


def test_intervals_are_about_those_of_a_bootstrap() -> None:
    real, synthetic = rows(seed=2), rows(seed=3, noise=1.0)
    cells = Grid.of(both(real, synthetic), KINDS)
    expected = tables.quality_intervals(real, synthetic, KINDS, seed=0, resamples=100)
    found = [quality(counted(cells, real, seed), counted(cells, synthetic, seed + 9)).intervals for seed in range(8)]
    for part, interval in enumerate(expected):
        widths = [each[part].high - each[part].low for each in found]
        assert 0.6 < np.mean(widths) / (interval.high - interval.low) < 1.7


def test_intervals_hold_what_is_found_on_average() -> None:
    cells = Grid.of(both(rows(4000, 4), rows(4000, 5, 0.6)), KINDS)
    found = [quality(counted(cells, rows(4000, seed)), counted(cells, rows(4000, seed + 50, 0.6))) for seed in range(10, 40)]
    for part in range(3):
        average = np.mean([each.quality[part] for each in found])
        assert sum(each.intervals[part].low <= average <= each.intervals[part].high for each in found) >= 26


def test_the_order_and_the_pieces_change_nothing() -> None:
    real, synthetic, groups = rows(), rows(seed=1, noise=1.0), np.arange(2000) % GROUPS
    cells, found = Grid.of(both(real, synthetic), KINDS), []
    against = counted(cells, synthetic)
    for order in permutations(range(4)):
        whole = Counts(cells)
        for piece in order:
            part = Counts(cells)
            for start in range(500 * piece, 500 * piece + 500, 100):
                part.update(real.slice(start, 100), groups[start : start + 100])
            whole.merge(Counts.of_bytes(cells, part.to_bytes()))
        found.append(quality(whole, against))
        assert whole.total == 2000
        assert (whole.rows == found_rows(cells, real, groups)).all()
    assert found[0].quality[:3] == pytest.approx(tables.quality(real, synthetic, KINDS)[:3], abs=1e-9)
    for each in found:
        assert each.quality[:3] == pytest.approx(found[0].quality[:3], abs=1e-12)
        assert each.intervals[0] == pytest.approx(found[0].intervals[0], abs=1e-12)


def test_what_is_sent_is_small_and_the_same() -> None:
    random = np.random.default_rng(0)
    wide = pa.table({f"c{n}": random.integers(0, 60, 5000).astype(str) for n in range(20)})
    counts = counted(Grid.of(wide, dict.fromkeys(wide.column_names, "category")), wide)
    sent = counts.to_bytes()
    assert len(sent) < (counts.rows.nbytes + counts.moments.nbytes) / 10
    again = Counts.of_bytes(counts.grid, sent)
    assert (again.rows == counts.rows).all()
    mixed = counted(Grid.of(rows(), KINDS), rows())
    assert mixed.moments.any()
    assert (Counts.of_bytes(mixed.grid, mixed.to_bytes()).moments == mixed.moments).all()


def found_rows(cells: Grid, table: pa.Table, groups: np.ndarray) -> np.ndarray:
    counts = Counts(cells)
    counts.update(table, groups)
    return counts.rows


def test_a_table_against_itself_is_perfect() -> None:
    counts = counted(Grid.of(rows(), KINDS), rows())
    found = quality(counts, counts)
    assert found.quality[:3] == pytest.approx((1, 1, 1), abs=1e-12)
    for low, high in found.intervals:
        assert low <= 1 <= high


@pytest.mark.parametrize("most", [4, 16, 64])
def test_the_exact_score_is_below_by_no_more_than_the_error_that_is_stated(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "MOST", most)
    random = np.random.default_rng(0)
    for seed in range(5):
        real, synthetic = (
            pa.table(
                {
                    "n": np.exp(spread * random.normal(size=900)),
                    "few": random.integers(0, 20 + seed, 900),
                    "k": pa.array([f"v{n}" for n in (random.pareto(1, 900) * spread * 20).astype(int)]),
                }
            )
            for spread in (1.0, 1.3)
        )
        kinds = {"n": "number", "few": "number", "k": "category"}
        cells = Grid.of(real.slice(0, 500), kinds)
        found = quality(counted(cells, real), counted(cells, synthetic))
        exact = tables.quality(real, synthetic, kinds).by_column
        for name, score in found.quality.by_column.items():
            assert exact[name] <= score + 1e-12
            assert exact[name] >= score - found.errors[name] - 1e-12
        assert found.errors["n"] < 3 / most
        assert found.errors["k"] > 0


def test_values_that_were_not_there_before_are_counted() -> None:
    seen = pa.table({"n": [1.0, 2.0, 3.0], "k": ["a", "b", "b"]})
    other = pa.table({"n": [9.0, 9.0, None], "k": ["x", "y", None]})
    cells = Grid.of(seen, {"n": "number", "k": "category"})
    found = quality(counted(cells, seen), counted(cells, other))
    assert found.quality.by_column == {"n": 0, "k": 0}
    same = quality(counted(cells, other), counted(cells, other))
    assert same.quality.by_column == {"n": 1, "k": 1}
    assert same.errors == {"n": 1, "k": 1}  # they might all differ


def test_infinite_and_unknown_numbers_are_counted_as_in_memory() -> None:
    odd = [float("inf"), -float("inf"), float("nan"), None, 1.0, 1e308, -1e308, 0.0]
    real = pa.table({"x": pa.array(odd * 9), "y": pa.array([*range(8)] * 9), "none": pa.nulls(72, pa.float64())})
    synthetic = pa.table(
        {"x": pa.array((odd[:3] + odd[5:]) * 9), "y": pa.array([*range(6)] * 9), "none": pa.nulls(54, pa.float64())}
    )
    kinds = {"x": "number", "y": "category", "none": "number"}
    cells = Grid.of(both(real, synthetic), kinds)
    found = quality(counted(cells, real), counted(cells, synthetic)).quality
    expected = tables.quality(real, synthetic, kinds)
    assert found.by_column == pytest.approx(expected.by_column, abs=1e-12)
    assert found.by_pair == pytest.approx(expected.by_pair, abs=1e-12)
    assert set(found.by_column) == {"x", "y"}


def test_a_column_that_is_empty_on_one_side_scores_nothing() -> None:
    real, synthetic = pa.table({"x": [1.0, 2.0], "y": [1, 2]}), pa.table({"x": pa.nulls(2, pa.float64()), "y": [1, 2]})
    cells = Grid.of(real, {"x": "number", "y": "number"})
    assert quality(counted(cells, real), counted(cells, synthetic)).quality.by_column == {"x": 0, "y": 1}


def test_what_is_constant_correlates_with_nothing() -> None:
    real = pa.table({"x": np.arange(50.0), "y": np.arange(50.0)})
    same = pa.table({"x": np.full(50, 1e6 / 3), "y": np.arange(50.0)})
    cells = Grid.of(real, {"x": "number", "y": "number"})
    assert quality(counted(cells, real), counted(cells, same)).quality.by_pair == {("x", "y"): 0.5}


def test_correlations_far_from_zero_keep_their_digits() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=3000)
    real = pa.table(
        {"t": pa.array((1.7e18 + 1e9 * x).astype(np.int64)).cast(pa.timestamp("ns")), "y": x + random.normal(size=3000)}
    )
    kinds = {"t": "datetime", "y": "number"}
    cells = Grid.of(real.slice(0, 100), kinds)
    other = real.set_column(1, "y", pa.array(x))
    found = quality(counted(cells, real), counted(cells, other)).quality
    assert found.by_pair == pytest.approx(tables.quality(real, other, kinds).by_pair, abs=1e-9)


def test_a_million_values_and_hundreds_of_columns_have_few_cells() -> None:
    values = pa.table(
        {"k": pa.array(np.arange(1_000_000)).cast(pa.string()), "n": np.random.default_rng(0).random(1_000_000)}
    )
    assert Grid.of(values, {"k": "category", "n": "number"}).cells < 10_000
    wide = pa.table({f"c{n}": pc.cast(pa.array(np.arange(90) * (n + 1)), pa.string()) for n in range(400)})
    assert Grid.of(wide, dict.fromkeys(wide.column_names, "category")).cells < 1_000_000


def test_what_has_no_answer_is_refused() -> None:
    none = pa.table({"x": pa.nulls(3, pa.float64())})
    cells = Grid.of(none, {"x": "number"})
    with pytest.raises(DataError, match="null in every row"):
        quality(counted(cells, none), counted(cells, none))
    with pytest.raises(DataError, match="no row of the synthetic table was counted"):
        quality(counted(cells, none), Counts(cells))
    with pytest.raises(DataError, match="is of kind 'image'"):
        Grid.of(none, {"x": "image"})
