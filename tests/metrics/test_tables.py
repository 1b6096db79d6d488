"""Quality agrees with SDMetrics, finds its ceiling, sees lost trends, and refuses or answers whatever it is given."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import reference_tables

from raygen.errors import DataError
from raygen.metrics import tables
from raygen.metrics.tables import quality, quality_intervals

FIGURES = json.loads((Path(__file__).parent / "quality.json").read_text())


@pytest.fixture(scope="module", params=reference_tables.TABLES)
def reference(request):
    package = reference_tables.PACKAGES.get(request.param)
    if package and not reference_tables.there(package):
        pytest.skip(f"{package} is not installed")
    return request.param, *reference_tables.TABLES[request.param]()


@pytest.mark.parametrize("candidate", reference_tables.CANDIDATES)
@pytest.mark.parametrize("cells", [tables.MOST_CELLS, 1])
def test_quality_matches_sdmetrics(reference, candidate, cells, monkeypatch):
    monkeypatch.setattr(tables, "MOST_CELLS", cells)
    name, table, kinds = reference
    expected = FIGURES[f"{name} {candidate}"]
    found = quality(*reference_tables.pair(table, kinds, candidate), kinds)
    assert found[:3] == pytest.approx([expected[part] for part in ("overall", "shapes", "trends")], abs=1e-8)
    assert found.by_column == pytest.approx(expected["by_column"], abs=1e-8)
    assert {" ".join(pair): score for pair, score in found.by_pair.items()} == pytest.approx(expected["by_pair"], abs=1e-8)


def numbers(size=400, seed=0):
    generator = np.random.default_rng(seed)
    a = generator.normal(size=size)
    return pa.table({"a": a, "b": a + 0.1 * generator.normal(size=size), "c": np.where(a > 0, "yes", "no")})


KINDS = {"a": "number", "b": "number", "c": "category"}


def test_a_table_against_itself_is_perfect():
    real = numbers()
    found = quality(real, real.take(np.arange(len(real))[::-1]), KINDS)
    assert found[:3] == pytest.approx((1, 1, 1), abs=1e-12)
    assert set(found.by_pair) == {("a", "b"), ("a", "c"), ("b", "c")}


def test_shuffled_columns_keep_their_shapes_and_lose_their_trends():
    real, generator = numbers(), np.random.default_rng(1)
    shuffled = pa.table({name: real[name].take(generator.permutation(len(real))) for name in real.column_names})
    found = quality(real, shuffled, KINDS)
    assert found.shapes == pytest.approx(1, abs=1e-12)
    assert found.by_pair["a", "b"] == pytest.approx(0.5, abs=0.1)
    assert found.trends < 0.7
    assert found.overall == (found.shapes + found.trends) / 2


def test_shapes_by_hand():
    real = pa.table({"x": [1, 2, 3, 4, None], "k": ["a", "a", "b", "b", None]})
    synthetic = pa.table({"x": [3, 3, 4, 9, 9, 9], "k": ["a", "c", "c", None, None, None]})
    found = quality(real, synthetic, {"x": "number", "k": "category"})
    # Below 3 lie half of the real numbers and none of the synthetic ones; up to 4 lie all and half. a: 1/2, 1/3; b: 1/2, 0.
    assert found.by_column == pytest.approx({"x": 1 - 1 / 2, "k": 1 - (1 / 6 + 1 / 2 + 2 / 3) / 2})


def test_unrelated_columns_have_no_trends():
    generator = np.random.default_rng(0)
    real = pa.table({"a": generator.normal(size=500), "b": generator.normal(size=500)})
    found = quality(real, real, {"a": "number", "b": "number"})
    assert found.by_pair == {}
    assert np.isnan(found.trends)
    assert found.overall == found.shapes == pytest.approx(1)


def test_a_generator_gains_nothing_by_empty_or_constant_columns():
    real = numbers()
    empty = real.set_column(0, "a", pa.nulls(len(real), pa.float64()))
    found = quality(real, empty, KINDS)
    assert found.by_column["a"] == 0
    assert found.by_pair["a", "b"] == pytest.approx(0.5, abs=0.01)
    constant = real.set_column(0, "a", pa.array(np.full(len(real), 0.25)))
    assert quality(real, constant, KINDS).by_pair["a", "b"] == pytest.approx(0.5, abs=0.01)


def test_intervals_hold_the_value_and_shrink_with_the_rows():
    widths = []
    for size in (200, 3200):
        real, synthetic = numbers(size), numbers(size, seed=1)
        found = quality_intervals(real, synthetic, KINDS, seed=0, resamples=30)
        for interval, value in zip(found, quality(real, synthetic, KINDS), strict=False):
            assert interval.low < value < interval.high
        widths.append([interval.high - interval.low for interval in found])
    assert np.divide(*widths) == pytest.approx(4, abs=1.5)  # √16


def test_intervals_follow_the_seed():
    real, synthetic = numbers(), numbers(seed=1)
    first, again, other = (quality_intervals(real, synthetic, KINDS, seed, resamples=5) for seed in (1, 1, 2))
    assert first == again != other


def test_intervals_of_tables_whose_resamples_are_degenerate():
    real = pa.table({"x": [None] * 8 + [1.0, 2.0], "y": [None] * 8 + [1.0, 2.0], "k": ["a"] * 9 + ["b"]})
    kinds = {"x": "number", "y": "number", "k": "category"}
    for interval in quality_intervals(real, real, kinds, seed=0, resamples=50):
        assert np.isfinite(interval).all()


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([1, 2, 3, 250, 5], pa.uint8()), "number"),
        (pa.array([1, 2**63, 3, 2**64 - 1, 5], pa.uint64()), "number"),
        (pa.array([1.5, 2, 3, 4, None], pa.float32()), "number"),
        (pa.array(np.array([1.5, 2, 3, 4, 9], np.float16)), "number"),
        (pa.array([1, 2, 3, 4, None], pa.decimal128(38, 2)), "number"),
        (pa.array([1, 2, 3, 4, None], pa.decimal256(60, 2)), "number"),
        (pa.array([1, 2, 3, 4, None]).dictionary_encode(), "number"),
        (pa.array([1e308, -1e308, 1.0, 0.0, 5e-324]), "number"),
        (pa.array([1e-310, -1e-310, 2e-310, 0.0, 5e-324]), "number"),
        (pa.array([np.inf, -np.inf, np.nan, None, 1.0]), "number"),
        (pa.array([np.inf, np.inf, np.nan, None, np.nan]), "number"),
        (pa.array([7, 7, 7, 7, 7]), "number"),
        (pa.array([1, 2, 3, 4, None], pa.date32()), "datetime"),
        (pa.array([0, 86400000, None, 0, 0], pa.date64()), "datetime"),
        (pa.array([1, 2, 3, 4, None], pa.time32("s")), "datetime"),
        (pa.array([1, 2, 3, 4, None], pa.time64("ns")), "datetime"),
        (pa.array([1, -(2**62), 2**62, 4, None], pa.timestamp("ns", "Europe/Berlin")), "datetime"),
        (pa.array([1, 2, 3, 4, None], pa.duration("us")), "datetime"),
        (pa.array([True, False, None, True, True]), "category"),
        (pa.array(["a", "b", None, "", "a"]).dictionary_encode(), "category"),
        (pa.array(["a", "b", None, "", "a"], pa.large_string()), "category"),
        (pa.array([3, 1, None, 2, 1]), "category"),
    ],
)
def test_every_type_of_five_rows_is_perfect_against_itself(column, kind):
    real = pa.table({"x": column, "k": ["a", "b", "c", "d", "e"], "n": [1, 2, 3, 4, 5]})
    found = quality(real, real.slice(2, 3), kinds := {"x": kind, "k": "category", "n": "number"})
    assert 0 <= found.overall < 1
    chunked = pa.concat_tables([real.slice(0, 2), real.slice(2)])
    assert quality(real, chunked, kinds)[:2] == pytest.approx((1, 1))
    for interval in quality_intervals(real, chunked, kinds, seed=0, resamples=20):
        assert not np.isinf(interval).any()


def test_an_all_null_column_is_left_out():
    real = pa.table({"a": [1.0, 2.0], "b": pa.nulls(2, pa.float64())})
    assert quality(real, real, {"a": "number", "b": "number"}).by_column == {"a": 1}


def test_wide_tables_thin_out_their_pairs(monkeypatch):
    monkeypatch.setattr(tables, "MOST_PAIRS", 50)
    a = np.random.default_rng(0).normal(size=30)
    real = pa.table({f"c{index}": a * (index + 1) for index in range(40)})
    found = quality(real, real, dict.fromkeys(real.column_names, "number"))
    assert 25 < len(found.by_pair) <= 50
    assert len({name for pair in found.by_pair for name in pair}) > 30


EMPTY = pa.table({"a": pa.nulls(3, pa.int8())})
TWICE = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])


@pytest.mark.parametrize(
    ("real", "synthetic", "kinds", "what"),
    [
        (numbers(), numbers(), {}, "no column to measure"),
        (numbers(), numbers().slice(0, 0), KINDS, "the synthetic table has 0 rows"),
        (numbers(), numbers().select(["a", "b"]), KINDS, "the synthetic table has no column called 'c'"),
        (TWICE, TWICE, {"a": "number"}, "the real table has 2 columns called 'a'"),
        (numbers(), numbers(), {"a": "image"}, "column 'a' is of kind 'image'"),
        (numbers(), numbers(), {"c": "number"}, "column 'c' is of type string, which is no number"),
        (numbers(), numbers(), {"a": "datetime"}, "column 'a' is of type double, which is no datetime"),
        (pa.table({"a": [[1]]}), pa.table({"a": [[1]]}), {"a": "category"}, "is no category"),
        (pa.table({"a": [1]}), pa.table({"a": [1.0]}), {"a": "number"}, "int64 in the real table, double in the synthetic"),
        (
            pa.table({"a": pa.nulls(3, pa.int8())}),
            pa.table({"a": pa.nulls(3, pa.int8())}),
            {"a": "number"},
            "null in every row",
        ),
    ],
)
def test_what_has_no_answer_is_refused(real, synthetic, kinds, what):
    with pytest.raises(DataError, match=what) as refusal:
        quality(real, synthetic, kinds)
    assert "\n" not in refusal.value.what
    assert "\n" not in refusal.value.hint
