"""The kernel distance agrees with torch-fidelity and with theory, and its interval holds what it should."""

import json
from pathlib import Path

import numpy as np
import pytest
import reference_features

from raygen.errors import DataError
from raygen.metrics import kernel
from raygen.metrics.kernel import kernel_distance

FIGURES = json.loads((Path(__file__).parent / "fidelity.json").read_text())


@pytest.mark.parametrize("block", [kernel.BLOCK, 5000, 1])
@pytest.mark.parametrize("name", reference_features.NAMES)
def test_kernel_distance_matches_torch_fidelity(name, block, monkeypatch):
    monkeypatch.setattr(kernel, "BLOCK", block)
    a, b = reference_features.sets(name)
    found, reference = kernel_distance(a, b), FIGURES[name]
    assert found.value == pytest.approx(reference["kernel_distance"], rel=1e-10, abs=1e-13)
    # A hundred subsets of a third of the rows share rows, so that their mean strays by more than a tenth of their spread.
    assert abs(found.value - reference["subsets"]) < 0.3 * reference["spread"]


def test_kernel_distance_by_hand():
    a, b = np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [1.0], [1.0], [3.0]])
    of_a = np.mean([1, 1, 3**3])  # (xy + 1)³ of the pairs 0 1, 0 2 and 1 2
    of_b = np.mean([1, 1, 1, 2**3, 4**3, 4**3])
    of_both = np.mean([1] * 4 + [1, 2**3, 2**3, 4**3] + [1, 3**3, 3**3, 7**3])
    found = kernel_distance(a, b)
    assert found.value == pytest.approx(of_a + of_b - 2 * of_both)
    left_a = [kernel_distance_alone(np.delete(a, row, 0), b) for row in range(3)]
    left_b = [kernel_distance_alone(a, np.delete(b, row, 0)) for row in range(4)]
    spread = (2 * np.var(left_a) + 3 * np.var(left_b)) ** 0.5  # n − 1 times the variance of the values without each row
    assert found.interval == pytest.approx((found.value - 1.959964 * spread, found.value + 1.959964 * spread))


def kernel_distance_alone(a, b):
    within = [((rows @ rows.T + 1) ** 3)[~np.eye(len(rows), dtype=bool)].mean() for rows in (a, b)]
    return sum(within) - 2 * ((a @ b.T + 1) ** 3).mean()


def moments(mean, deviation, d):
    """Those of d independent normal features: the tensors of the first three."""
    one, eye = np.ones(d), np.eye(d)
    third = sum(np.einsum(f"ij,k->{order}", eye, one) for order in ("ijk", "ikj", "kij"))
    second = mean**2 * np.outer(one, one) + deviation**2 * eye
    return mean * one, second, mean**3 * np.ones((d, d, d)) + mean * deviation**2 * third


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.2, 1.0), (0.3, 1.3)])
def test_kernel_distance_is_without_bias_and_its_interval_covers(mean, deviation):
    # (x · y / d + 1)³ is a scalar product of moments: the distance is the squared differences of the first three.
    d, generator = 8, np.random.default_rng(0)
    gaps = [((a - b) ** 2).sum() for a, b in zip(moments(0, 1, d), moments(mean, deviation, d), strict=True)]
    truth = 3 * gaps[0] / d + 3 * gaps[1] / d**2 + gaps[2] / d**3
    found = []
    for _ in range(200):
        a, b = generator.normal(size=(200, d)), generator.normal(mean, deviation, size=(150, d))
        found.append(kernel_distance(a, b))
    values = np.array([value for value, _ in found])
    assert abs(values.mean() - truth) < 3 * values.std() / len(values) ** 0.5
    assert np.mean([low <= truth <= high for _, (low, high) in found]) > 0.9


def test_kernel_distance_does_not_shrink_as_sets_grow():
    generator = np.random.default_rng(0)
    few = np.mean([kernel_distance(*generator.normal(size=(2, 30, 8))).value for _ in range(100)])
    many = kernel_distance(*generator.normal(size=(2, 2000, 8))).value
    assert abs(few) < 0.02
    assert abs(many) < 0.005


def test_noise_a_collapsed_and_a_memorizing_generator():
    generator = np.random.default_rng(0)
    real, other = generator.normal(size=(2, 400, 16))
    ceiling = kernel_distance(real, other)
    assert ceiling.interval.low < 0 < ceiling.interval.high
    memory = generator.permutation(real)
    assert kernel_distance(other, memory).value == pytest.approx(ceiling.value)  # it is faithful: privacy is what it fails
    for wrong in (
        np.repeat(real[:1], 400, axis=0),
        real[generator.integers(3, size=400)],
        generator.uniform(-4, 4, (400, 16)),
    ):
        assert kernel_distance(other, wrong).interval.low > 2 * ceiling.interval.high


ROWS = np.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: kernel_distance(ROWS[:2], ROWS), "2 rows where at least 3"),
        (lambda: kernel_distance(ROWS, np.where(ROWS == 4, np.nan, ROWS)), "not finite, first in row 1"),
        (lambda: kernel_distance(ROWS, ROWS[:, :2]), "3 and 2 wide"),
    ],
)
def test_what_has_no_answer_is_refused(call, what):
    with pytest.raises(DataError, match=what):
        call()
