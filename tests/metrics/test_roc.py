"""The area and the height by hand, and intervals that cover them."""

from statistics import NormalDist

import numpy as np
import pytest

from raygen.errors import DataError
from raygen.metrics.roc import auc, rate


def test_auc_by_hand():
    # Of six pairs: 3 beats all of 0, 1, 2; 1 beats 0 and ties with 1.
    assert auc([3, 1], [0, 1, 2]).value == pytest.approx((3 + 1.5) / 6)
    assert auc([0, 1, 2], [3, 1]).value == pytest.approx(1.5 / 6)


def test_auc_of_equal_scores_says_nothing():
    value, (low, high) = auc(np.zeros(50), np.zeros(70))
    assert value == 0.5
    assert low == pytest.approx(1 - high)
    assert 0.35 < low < 0.45


def test_auc_takes_infinite_scores():
    assert auc([np.inf, 0], [-np.inf, 0]).value == (3 + 0.5) / 4


def test_interval_of_sets_told_apart_has_a_width():
    value, (low, high) = auc([2, 3, 4], [0, 1])
    assert (value, high) == (1, 1)
    assert 0.2 < low < 0.6
    assert auc(np.arange(1000) + 1000, np.arange(1000)).interval.low > 0.99


@pytest.mark.parametrize(("gap", "n", "m"), [(0, 30, 60), (1, 40, 40), (2, 200, 25)])
def test_interval_covers(gap, n, m):
    generator = np.random.default_rng(0)
    # The area of two normal distributions a distance apart is Φ(distance / √2): Φ(0), Φ(0.7071), Φ(1.4142).
    area = {0: 0.5, 1: 0.7602499, 2: 0.9213504}[gap]
    found = [auc(generator.normal(size=n) + gap, generator.normal(size=m)).interval for _ in range(1000)]
    assert 0.93 <= np.mean([low < area < high for low, high in found]) <= 0.985


def test_rate_by_hand():
    negative = np.arange(20)  # a twentieth of them is 19 alone
    assert rate([18.5, 19, 20, 18], negative).value == 3 / 4
    # Of 1.5 rows one is 19, and half of the other is 18.
    assert rate([18.5, 18, 17, 3], negative, at=0.075).value == pytest.approx(1 / 4 + 1 / 2 * 1 / 4)


def test_rate_of_equal_scores_and_of_one_distribution_is_the_share_of_negatives():
    assert rate(np.zeros(50), np.zeros(70)).value == pytest.approx(0.05)
    few = np.random.default_rng(0).integers(3, size=(2, 4000))
    assert rate(*few).value == pytest.approx(0.05, abs=0.01)


def test_rate_sees_a_few_rows_that_the_area_hides():
    generator = np.random.default_rng(0)
    positive, negative = generator.normal(size=(2, 1000))
    positive[:100] = 10
    assert auc(positive, negative).value < 0.58
    assert rate(positive, negative).interval.low > 0.1


@pytest.mark.parametrize(("gap", "n", "m"), [(0, 300, 300), (1, 400, 200), (2, 200, 400)])
def test_interval_of_a_rate_covers(gap, n, m):
    generator, normal = np.random.default_rng(0), NormalDist()
    height = 1 - normal.cdf(normal.inv_cdf(0.95) - gap)
    found = [rate(generator.normal(size=n) + gap, generator.normal(size=m)).interval for _ in range(500)]
    assert 0.92 <= np.mean([low < height < high for low, high in found]) <= 0.985


def test_interval_of_a_rate_of_sets_told_apart_has_a_width():
    value, (low, high) = rate(np.arange(100) + 1000, np.arange(100))
    assert (value, high) == (1, 1)
    assert 0.9 < low < 0.99


@pytest.mark.parametrize(
    ("positive", "negative", "what"), [([], [1], "0 positive and 1 negative"), ([1], [np.nan], "a score is nan")]
)
def test_what_has_no_answer_is_refused(positive, negative, what):
    with pytest.raises(DataError, match=what):
        auc(positive, negative)


@pytest.mark.parametrize("at", [0, 1, np.nan])
def test_a_share_that_is_none_is_refused(at):
    with pytest.raises(DataError, match="the share of negative rows is"):
        rate([1], [0], at)
