"""Distances by hand, over blocks of any size, and of odd values."""

import numpy as np
import pyarrow as pa
import pytest

from raygen.metrics import gower
from raygen.metrics.gower import closest, points

REAL = pa.table({"n": [0.0, 10.0, 10.0, 1000.0, None], "k": ["a", "a", "b", None, "b"]})
KINDS = {"n": "number", "k": "category"}


def distances(queries, references=REAL, kinds=KINDS):
    placed = points({"queries": queries, "references": references}, kinds, scale=["references"])
    return closest(placed["queries"], placed["references"])


def test_distances_by_hand():
    # Quantiles of the four numbers: 0 is at 1/8, 10 at 1/2, 1000 at 7/8, and 50, which none has, at 3/4.
    queries = pa.table({"n": [10.0, 50.0, None, 1000.0, -np.inf], "k": ["b", "c", None, "a", "a"]})
    indices, found = distances(queries)
    np.testing.assert_array_equal(indices, [2, 3, 3, 1, 0])
    np.testing.assert_allclose(found, [0, (1 / 8 + 1) / 2, 1 / 2, 3 / 16, 1 / 16], rtol=1e-6)


def test_nulls_are_like_nulls_alone():
    queries = pa.table({"n": pa.array([None, 0.0]), "k": pa.array([None, "a"])})
    indices, found = distances(queries, queries)
    np.testing.assert_array_equal(indices, [0, 1])
    np.testing.assert_array_equal(found, [0, 0])
    np.testing.assert_array_equal(distances(queries.slice(0, 1), queries.slice(1))[1], [1])


@pytest.mark.parametrize("block", [gower.BLOCK, 100, 1])
def test_distances_in_blocks_of_any_size(monkeypatch, block):
    monkeypatch.setattr(gower, "BLOCK", block)
    generator = np.random.default_rng(0)
    a, b = generator.random((2, 40)), generator.integers(0, 3, (2, 40))
    queries, references = (pa.table({"a": a[table], "b": b[table]}) for table in (0, 1))
    ranks = (a[..., None] > a[1]).mean(axis=2) + (a[..., None] == a[1]).mean(axis=2) / 2
    expected = (np.abs(ranks[0][:, None] - ranks[1]) + (b[0][:, None] != b[1])) / 2
    indices, found = distances(queries, references, {"a": "number", "b": "category"})
    np.testing.assert_allclose(found, expected.min(axis=1), atol=1e-6)
    np.testing.assert_allclose(expected[np.arange(40), indices], expected.min(axis=1), atol=1e-6)


def test_columns_of_one_kind_and_without_values():
    numbers = pa.table({"n": [1.0, np.inf, np.nan], "null": pa.nulls(3, pa.int32())})
    np.testing.assert_array_equal(distances(numbers, numbers, {"n": "number", "null": "number"})[1], [0, 0, 0])
    words = pa.table({"k": ["a", "b", None], "null": pa.nulls(3, pa.string())})
    np.testing.assert_array_equal(distances(words, words, {"k": "category", "null": "category"})[1], [0, 0, 0])
