"""The area by hand, and an interval that covers it."""

import numpy as np
import pytest

from raygen.errors import DataError
from raygen.metrics.roc import auc


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


@pytest.mark.parametrize(
    ("positive", "negative", "what"), [([], [1], "0 positive and 1 negative"), ([1], [np.nan], "a score is nan")]
)
def test_what_has_no_answer_is_refused(positive, negative, what):
    with pytest.raises(DataError, match=what):
        auc(positive, negative)
