"""The area under the ROC curve: how well one number tells two sets of rows apart."""

import numpy as np
import numpy.typing as npt

from raygen.errors import DataError
from raygen.metrics.fidelity import NORMAL_95, Estimate, Interval

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
    positive, negative = (np.asarray(scores, dtype=np.float64) for scores in (positive, negative))
    if not positive.size or not negative.size:
        raise DataError(f"there are {positive.size} positive and {negative.size} negative scores", "give at least 1 of each")
    if np.isnan(positive).any() or np.isnan(negative).any():
        raise DataError("a score is nan", "look for nan in what the scores are made of")
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left") + np.searchsorted(ordered, positive, "right")
    value = float(below.mean() / (2 * len(negative)))
    ends = (_bound(value, end, len(positive), len(negative)) for end in (0.0, 1.0))
    return Estimate(value, Interval(*ends))


def _bound(value: float, end: float, n: int, m: int) -> float:
    """The area towards ``end`` that lies 1.96 of its own standard deviations from ``value``."""
    inside, outside = value, end
    for _ in range(STEPS):
        area = (inside + outside) / 2
        spread = (1 - area) / (2 - area) + area / (1 + area)
        variance = area * (1 - area) * (1 + ((n + m) / 2 - 1) * spread) / (n * m)
        inside, outside = (area, outside) if abs(value - area) < NORMAL_95 * variance**0.5 else (inside, area)
    return inside
