"""The ROC curve: how well one number tells two sets of rows apart, in all and where few mistakes are allowed."""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from raygen.errors import DataError
from raygen.metrics.fidelity import NORMAL_95, Estimate, Floats, Interval

STEPS = 60  # halvings of 0 to 1 that leave nothing of it in float64


def auc(positive: npt.ArrayLike, negative: npt.ArrayLike) -> Estimate:
    """The chance that a positive row scores higher than a negative one, ties counting half (Mann & Whitney 1947).

    Its interval is Newcombe's (2006, Statistics in Medicine 25, method 5), from Hanley and McNeil's variance: like Wilson's
    it stays inside 0 to 1 and has a width even where the two sets are told apart without an error.

    Args:
        positive: scores ``(n,)``, at least 1, not nan.
        negative: scores ``(m,)``, likewise.

    Returns:
        0.5 where the scores say nothing, 1 where every positive row is above every negative one.

    Raises:
        DataError: there are no scores on one side, or one is nan.
    """
    positive, negative = _scores(positive, negative)
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left") + np.searchsorted(ordered, positive, "right")
    value = float(below.mean() / (2 * len(negative)))
    n, m = len(positive), len(negative)

    def variance(area: float) -> float:
        spread = (1 - area) / (2 - area) + area / (1 + area)
        return area * (1 - area) * (1 + ((n + m) / 2 - 1) * spread) / (n * m)

    return Estimate(value, _interval(value, variance))


def rate(positive: npt.ArrayLike, negative: npt.ArrayLike, at: float = 0.05) -> Estimate:
    """The share of positive rows that score above all but a share ``at`` of the negative ones: the curve's height there.

    It sees what the area hides: a few positive rows that are far above the rest (Carlini et al. 2022, arXiv 2112.03570).
    Rows that score just as the threshold count by the share of the negative ones among them that it needs, so that of rows
    of one kind the figure is ``at``, however many are equal.

    The interval has the chance of either set in it: where the curve is as steep as that of two normal distributions of
    equal spread. Like `auc`'s it stays inside 0 to 1.

    Args:
        positive: scores ``(n,)``, at least 1, not nan.
        negative: scores ``(m,)``, likewise.
        at: share of the negative rows, between 0 and 1.

    Returns:
        ``at`` where the scores say nothing, 1 where every positive row is above every negative one.

    Raises:
        DataError: as `auc`, or ``at`` is not between 0 and 1.
    """
    positive, negative = _scores(positive, negative)
    if not 0 < at < 1:
        raise DataError(f"the share of negative rows is {at}", "give one between 0 and 1")
    n, m = len(positive), len(negative)
    threshold = np.sort(negative)[::-1][int(at * m)]
    above, equal = (negative > threshold).mean(), (negative == threshold).mean()
    value = float((positive > threshold).mean() + (positive == threshold).mean() * (at - above) / equal)
    normal = NormalDist()

    def variance(share: float) -> float:
        if not 0 < share < 1:
            return 0.0
        steepness = normal.pdf(normal.inv_cdf(share)) / normal.pdf(normal.inv_cdf(at))
        return share * (1 - share) / n + steepness**2 * at * (1 - at) / m

    return Estimate(value, _interval(value, variance))


def _scores(positive: npt.ArrayLike, negative: npt.ArrayLike) -> tuple[Floats, Floats]:
    first, second = (np.asarray(scores, dtype=np.float64) for scores in (positive, negative))
    if not first.size or not second.size:
        raise DataError(f"there are {first.size} positive and {second.size} negative scores", "give at least 1 of each")
    if np.isnan(first).any() or np.isnan(second).any():
        raise DataError("a score is nan", "look for nan in what the scores are made of")
    return first, second


def _interval(value: float, variance: Callable[[float], float]) -> Interval:
    """The figures, either way, that lie 1.96 of their own standard deviations from ``value``."""
    ends = []
    for end in (0.0, 1.0):
        inside, outside = value, end
        for _ in range(STEPS):
            middle = (inside + outside) / 2
            near = abs(value - middle) < NORMAL_95 * variance(middle) ** 0.5
            inside, outside = (middle, outside) if near else (inside, middle)
        ends.append(inside)
    return Interval(*ends)
