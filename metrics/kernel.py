"""Kernel distance between features of real and of synthetic rows (KID; Bińkowski et al. 2018, arXiv 1801.01401)."""

from collections.abc import Iterator

import numpy as np

from raygen.metrics.fidelity import BLOCK, NORMAL_95, Array, Estimate, Floats, Interval, feature_pair


def kernel_distance(a: Array, b: Array) -> Estimate:
    """Squared maximum mean discrepancy of two sets of features under the kernel (x · y / d + 1)³, without bias.

    Unlike a Fréchet distance it does not shrink as sets grow, so that values from sets of other sizes can be compared. All
    pairs of rows count, which is what torch-fidelity gives for one subset of all rows; its mean over many subsets is an
    estimate of the same thing. Time goes with (n + m)² · d; memory stays bounded.

    The interval is the value ± 1.96 standard deviations by the jackknife over the rows of either set (Efron & Stein 1981,
    Annals of Statistics 9); it is not cut at 0. It is wider than need be where the sets are alike, and ends too low where
    both features and rows are few (of one feature and 150 rows, it misses the truth one time in six).

    Args:
        a: ``(n, d)``, finite, at least 3 rows.
        b: ``(m, d)``, likewise.

    Returns:
        0 on average for sets of one distribution, so a little below it half of the time; else above. In units of the
        features to the power of up to six: only values on the same features can be compared.

    Raises:
        DataError: a value is not finite, a set has fewer than 3 rows, or the widths differ.
    """
    a, b = feature_pair(a, b, least=3)
    n, m = len(a), len(b)
    within_a, within_b = (_sums(rows, rows) - _kernel((rows * rows).sum(axis=1), rows.shape[1]) for rows in (a, b))
    between_a, between_b = _sums(a, b), _sums(b, a)
    of_a, of_b, of_both = within_a.sum() / (n * (n - 1)), within_b.sum() / (m * (m - 1)), between_a.sum() / (n * m)
    # What the distance would be without each row of a, less the terms that no row of a changes; and so for b.
    without_a = _left_out(within_a, n) - 2 * (between_a.sum() - between_a) / ((n - 1) * m)
    without_b = _left_out(within_b, m) - 2 * (between_b.sum() - between_b) / ((m - 1) * n)
    variance = sum((len(left) - 1) * float(left.var()) for left in (without_a, without_b))
    value, half = float(of_a + of_b - 2 * of_both), NORMAL_95 * variance**0.5
    return Estimate(value, Interval(value - half, value + half))


def _left_out(within: Floats, n: int) -> Floats:
    """The mean of the kernel over pairs of other rows than each, from the sums of each row with its others: ``(n,)``."""
    return np.asarray((within.sum() - 2 * within) / ((n - 1) * (n - 2)))


def _sums(a: Floats, b: Floats) -> Floats:
    """The kernel of each row of ``a`` summed over all rows of ``b``: ``(n,)``."""
    return np.concatenate([_kernel(a[block] @ b.T, a.shape[1]).sum(axis=1) for block in _blocks(len(a), len(b))])


def _kernel(products: Floats, d: int) -> Floats:
    return np.asarray((products / d + 1) ** 3)


def _blocks(rows: int, others: int) -> Iterator[slice]:
    step = max(1, BLOCK // others)
    return (slice(start, start + step) for start in range(0, rows, step))
