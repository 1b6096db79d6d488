"""Known answers, reference figures, and what must be refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import reference_features

from raygen.errors import DataError
from raygen.metrics import fidelity
from raygen.metrics.fidelity import (
    Manifold,
    bootstrap_interval,
    classifier_score,
    frechet_distance,
    label_agreement,
    label_agreement_by_class,
    nearest,
    nearest_distances,
    precision_recall_density_coverage,
    subset_intervals,
    wilson_interval,
)


def gaussian(mean, covariance, n=50, seed=0):
    """Rows whose sample mean and sample covariance are exactly those given."""
    rows = np.random.default_rng(seed).normal(size=(n, len(mean)))
    rows -= rows.mean(axis=0)
    rows = rows @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(rows, rowvar=False)))).T
    return rows @ np.linalg.cholesky(covariance).T + mean


FIGURES = json.loads((Path(__file__).parent / "fidelity.json").read_text())


def test_frechet_distance_of_known_gaussians():
    a, b = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, -0.3], [-0.3, 3.0]])
    product = a @ b  # of 2 x 2: tr M^½ = (tr M + 2 (det M)^½)^½
    cross = (np.trace(product) + 2 * np.linalg.det(product) ** 0.5) ** 0.5
    expected = 9 + 16 + np.trace(a) + np.trace(b) - 2 * cross
    assert frechet_distance(gaussian([0, 0], a), gaussian([3, 4], b, n=80, seed=1)) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_of_one_feature():
    assert frechet_distance(gaussian([1], [[4.0]]), gaussian([3], [[9.0]])) == pytest.approx(4 + (2 - 3) ** 2)


def test_frechet_distance_of_singular_covariances():
    flat = gaussian([0, 0], np.eye(2)) * [1, 0]  # variances 1, 0
    upright = gaussian([0, 0], np.eye(2)) * [0, 2]  # variances 0, 4: no common direction
    assert frechet_distance(flat, upright) == pytest.approx(5, rel=1e-12)
    few = np.random.default_rng(0).normal(size=(10, 64))  # rank 9 of 64
    assert frechet_distance(few, 3 * few - 2 * few.mean(axis=0)) == pytest.approx(
        4 * np.trace(np.cov(few, rowvar=False)), rel=1e-12
    )


def test_frechet_distance_of_fewer_rows_than_features():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(10, 64)), generator.normal(size=(12, 64)) + 1
    # With centred rows A and B, tr (Σa Σb)^½ is the nuclear norm of A Bᵀ: no covariance, no eigendecomposition.
    centred_a, centred_b = (a - a.mean(axis=0)) / 9**0.5, (b - b.mean(axis=0)) / 11**0.5
    gap = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    expected = gap + (centred_a**2).sum() + (centred_b**2).sum() - 2 * np.linalg.norm(centred_a @ centred_b.T, "nuc")
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_of_identical_sets_is_zero_and_never_negative():
    for seed in range(20):
        rows = np.random.default_rng(seed).normal(size=(40, 30)) * 100
        assert 0 <= frechet_distance(rows, rows[::-1]) < 1e-8


@pytest.mark.parametrize("name", reference_features.NAMES)
def test_frechet_distance_matches_torch_fidelity(name):
    assert frechet_distance(*reference_features.sets(name)) == pytest.approx(FIGURES[name]["frechet_distance"], rel=1e-9)


def test_classifier_score_of_certain_balanced_rows_is_the_number_of_classes():
    assert classifier_score(np.eye(7)[np.arange(70) % 7]) == pytest.approx(7)


def test_classifier_score_is_one_without_certainty_or_without_variety():
    assert classifier_score(np.full((20, 4), 0.25)) == pytest.approx(1)
    assert classifier_score(np.eye(4)[np.zeros(20, dtype=int)]) == pytest.approx(1)


@pytest.mark.parametrize("name", reference_features.NAMES)
def test_classifier_score_matches_torch_fidelity(name):
    logits = reference_features.logits(name)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    found = classifier_score(odds / odds.sum(axis=1, keepdims=True))
    assert found == pytest.approx(FIGURES[name]["classifier_score"], rel=1e-9)


def test_manifold_by_hand():
    real = np.array([[-1.9], [0.0], [1.0], [2.0], [10.0]])  # radii 1.9, 1, 1, 1, 8 for k = 1
    fake = np.array([[0.5], [3.0], [30.0], [31.0], [32.0]])  # radii 2.5, 2.5, 1, 1, 1
    # 0.5 is in the neighbourhoods of 0 and 1; 3 in that of 10, and on the edge of that of 2, which is outside.
    manifold = precision_recall_density_coverage(real, fake, k=1)
    assert manifold == pytest.approx(Manifold(precision=2 / 5, recall=4 / 5, density=3 / 5, coverage=3 / 5))


@pytest.mark.parametrize("place", [0, 1e4])
def test_manifold_of_a_copy_is_perfect(place):
    # Every k-th neighbour lies exactly on an edge: density is 1 only if no rounding lets one in.
    real = np.random.default_rng(0).normal(size=(300, 20)) + place
    assert precision_recall_density_coverage(real, real[::-1].copy()) == Manifold(1, 1, 1, 1)


def test_manifold_of_rows_with_k_copies_is_empty():
    # Radii of 0, open: nothing is inside, and no rounding puts anything there.
    rows = np.random.default_rng(0).normal(size=(30, 20)).repeat(6, axis=0)
    assert precision_recall_density_coverage(rows, rows[::-1].copy(), k=5) == Manifold(0, 0, 0, 0)


def test_manifold_of_a_collapsed_set_has_precision_but_neither_recall_nor_coverage():
    real = np.random.default_rng(0).normal(size=(300, 2))
    manifold = precision_recall_density_coverage(real, np.full((100, 2), 0.01))
    assert manifold.precision == 1
    assert manifold.recall == 0
    assert manifold.density > 0
    assert manifold.coverage < 0.1


def test_manifold_of_disjoint_sets_is_nothing():
    real = np.random.default_rng(0).normal(size=(50, 3))
    assert precision_recall_density_coverage(real, real + 100) == Manifold(0, 0, 0, 0)


@pytest.mark.parametrize("block", [fidelity.BLOCK, 7000, 1])
@pytest.mark.parametrize("name", reference_features.NAMES)
def test_manifold_matches_prdc_in_blocks_of_any_size(name, block, monkeypatch):
    monkeypatch.setattr(fidelity, "BLOCK", block)
    for k in reference_features.NEIGHBOURS:
        found = precision_recall_density_coverage(*reference_features.sets(name), k=k)
        assert found._asdict() == pytest.approx(FIGURES[name]["manifold"][str(k)], rel=1e-9)


def test_label_agreement():
    probabilities = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.7, 0.2, 0.1]])
    labels = np.array([0, 1, 0, 0])
    assert label_agreement(probabilities, labels) == 0.75
    by_class = label_agreement_by_class(probabilities, labels, classes=3)
    np.testing.assert_allclose(by_class, [2 / 3, 1, np.nan])


def test_wilson_interval_of_known_shares():
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for (successes, n), expected in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0000, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():
        assert wilson_interval(successes, n) == pytest.approx(expected, abs=5e-5)


def test_wilson_interval_holds_the_share_at_either_end():
    for n in range(1, 200):
        assert wilson_interval(0, n).low == 0
        assert wilson_interval(n, n).high == 1


def test_bootstrap_interval_of_a_mean_is_as_wide_as_theory_says_and_lies_around_the_value():
    rows = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap_interval(np.mean, rows, seed=0, resamples=1000)
    assert (low + high) / 2 == pytest.approx(rows.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * rows.std(ddof=1) / 20, rel=0.1)


def test_bootstrap_interval_covers():
    sets = np.random.default_rng(0).normal(size=(200, 50))
    intervals = [bootstrap_interval(np.mean, rows, seed=seed, resamples=60) for seed, rows in enumerate(sets)]
    assert 0.9 <= np.mean([low < 0 < high for low, high in intervals]) <= 0.99


def test_bootstrap_interval_of_a_frechet_distance_lies_around_the_value():
    real, fake = reference_features.sets("shifted")
    low, high = bootstrap_interval(frechet_distance, real, fake, seed=0, resamples=20)
    assert (low + high) / 2 == pytest.approx(frechet_distance(real, fake))
    assert 0 < high - low < frechet_distance(real, fake)


def test_bootstrap_interval_draws_arrays_apart_or_paired():
    rows = np.arange(100.0)

    def difference(a, b):
        return np.abs(a - b).mean()

    assert bootstrap_interval(difference, rows, rows, seed=0, paired=True) == (0, 0)
    assert bootstrap_interval(difference, rows, rows, seed=0).high > 0


def test_bootstrap_interval_follows_the_seed():
    rows = np.random.default_rng(0).normal(size=100)
    first, again, other = (bootstrap_interval(np.mean, rows, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_intervals_of_neighbourhoods_are_as_wide_as_the_figures_vary_from_sets_to_sets():
    """Fake rows are of four clusters of six: which of the real ones they cover is above all chance of the real rows."""
    generator = np.random.default_rng(0)

    def drawn(clusters):
        return 9 * np.eye(6)[generator.integers(clusters, size=100)] + generator.normal(size=(100, 6))

    found, told = [], []
    for seed in range(40):
        sets = drawn(6), drawn(4)
        found.append(precision_recall_density_coverage(*sets))
        told.append(subset_intervals(precision_recall_density_coverage, *sets, seed=seed, resamples=20))
    halves = np.diff(told, axis=2).mean(axis=(0, 2)) / 2
    ratio = halves / 1.96 / np.std(found, axis=0, ddof=1)
    assert ((ratio > 0.7) & (ratio < 1.5)).all()
    assert np.mean(told, axis=(0, 2)) == pytest.approx(np.mean(found, axis=0))


def test_nearest_in_blocks_of_any_size(monkeypatch):
    generator = np.random.default_rng(0)
    queries, references = generator.normal(size=(50, 5)) + 1e3, generator.normal(size=(70, 5)) + 1e3
    references[13] = queries[4]
    distances = np.linalg.norm(queries[:, None] - references, axis=2)
    for block in (fidelity.BLOCK, 300, 1):
        monkeypatch.setattr(fidelity, "BLOCK", block)
        indices, found = nearest(queries, references)
        np.testing.assert_array_equal(indices, distances.argmin(axis=1))
        np.testing.assert_allclose(found, distances.min(axis=1), rtol=1e-12)
    assert (indices[4], found[4]) == (13, 0)  # the copy


def test_nearest_distances_in_blocks_of_any_size(monkeypatch):
    generator = np.random.default_rng(0)
    queries, references = generator.normal(size=(50, 5)) + 1e3, generator.normal(size=(700, 5)) + 1e3
    references[13], references[14] = queries[4], queries[4] + 1e-7
    distances = np.sort(np.linalg.norm(queries[:, None] - references, axis=2), axis=1)
    for block in (fidelity.BLOCK, 300, 1):
        monkeypatch.setattr(fidelity, "BLOCK", block)
        for k in (1, 3, 500, 700):
            np.testing.assert_allclose(nearest_distances(queries, references, k), distances[:, :k], rtol=1e-12)
    assert nearest_distances(queries, references, 2)[4] == pytest.approx((0, 5**0.5 * 1e-7), rel=1e-5)


GOOD = np.random.default_rng(0).normal(size=(8, 3))
BAD = np.where(np.arange(24).reshape(8, 3) == 7, np.nan, GOOD)
SURE = np.eye(3)[[0, 1, 2, 0]]


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: frechet_distance(GOOD, BAD), "not finite, first in row 2"),
        (lambda: frechet_distance(np.where(np.isnan(BAD), np.inf, BAD), GOOD), "not finite"),
        (lambda: frechet_distance(GOOD[:1], GOOD), "1 rows where at least 2"),
        (lambda: frechet_distance(GOOD, GOOD[:, :2]), "3 and 2 wide"),
        (lambda: frechet_distance(GOOD[0], GOOD), "shape"),
        (lambda: classifier_score(BAD), "not finite"),
        (lambda: classifier_score(GOOD), "not probabilities"),
        (lambda: classifier_score(np.abs(GOOD)), "not probabilities"),
        (lambda: classifier_score(SURE[:1]), "1 rows where at least 2"),
        (lambda: precision_recall_density_coverage(GOOD[:5], GOOD), "5 rows where at least 6"),
        (lambda: precision_recall_density_coverage(GOOD, GOOD[:5]), "5 rows where at least 6"),
        (lambda: precision_recall_density_coverage(GOOD, BAD), "not finite"),
        (lambda: precision_recall_density_coverage(GOOD, GOOD, k=0), "k is 0"),
        (lambda: label_agreement(BAD, np.zeros(8, dtype=int)), "not finite"),
        (lambda: label_agreement(SURE[:0], np.zeros(0, dtype=int)), "0 rows"),
        (lambda: label_agreement(SURE, np.array([0, 1, 2])), r"labels are int64 \(3,\) for 4 rows"),
        (lambda: label_agreement(SURE, np.array([0, 1, 2, 3])), "from 0 to 3"),
        (lambda: label_agreement_by_class(SURE, np.array([0, 1, 2, 0]), classes=4), "for 3 classes where there are 4"),
        (lambda: wilson_interval(0, 0), "0 successes of 0"),
        (lambda: wilson_interval(3, 2), "3 successes of 2"),
        (lambda: nearest(GOOD, GOOD[:0]), "0 rows where at least 1"),
        (lambda: nearest(BAD, GOOD), "not finite"),
        (lambda: nearest_distances(BAD, GOOD, 1), "not finite"),
        (lambda: nearest_distances(GOOD, GOOD[:1], 2), "there are 1 rows, and 2 neighbours are wanted"),
        (lambda: nearest_distances(GOOD, GOOD, 0), "0 neighbours are wanted"),
        (lambda: bootstrap_interval(np.mean, GOOD, seed=0, resamples=1), "nothing to resample"),
        (lambda: bootstrap_interval(np.mean, GOOD, SURE, seed=0, paired=True), r"paired arrays have \[8, 4\] rows"),
    ],
)
def test_what_has_no_answer_is_refused(call, what):
    with pytest.raises(DataError, match=what) as refusal:
        call()
    assert "\n" not in refusal.value.what
    assert "\n" not in refusal.value.hint
