"""How close synthetic rows come to real ones, from feature vectors and class probabilities; float64 throughout."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from raygen.errors import DataError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

NORMAL_95 = 1.959963984540054  # 97.5 % point of the standard normal distribution
BLOCK = 2**21  # distances computed at once: 16 MiB, and as much again for each step of the sum


class Manifold(NamedTuple):
    """Shares of real and fake rows that fall into each other's neighbourhoods; 0 to 1, density may exceed 1."""

    precision: float
    recall: float
    density: float
    coverage: float


class Interval(NamedTuple):
    """A 95 % confidence interval."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A figure and its interval."""

    value: float
    interval: Interval


def frechet_distance(a: Array, b: Array) -> float:
    """Fréchet distance between the Gaussians fitted to two sets of features (Heusel et al. 2017, the FID's formula).

    |μa − μb|² + tr(Σa + Σb − 2 (Σa Σb)^½) with sample covariances (n − 1). It shrinks as sets grow, so that only values
    from sets of the same sizes can be compared.

    Args:
        a: ``(n, d)``, finite, at least 2 rows.
        b: ``(m, d)``, likewise.

    Returns:
        The squared distance, in squared units of the features; 0 for equal moments.

    Raises:
        DataError: a value is not finite, a set has fewer than 2 rows, or the widths differ.
    """
    a, b = feature_pair(a, b, least=2)
    # With Σ = R Rᵀ the eigenvalues of Σa Σb are the squared singular values of Raᵀ Rb: no root of a rounded eigenvalue
    # is taken, which is what makes singular covariances lose half of their digits.
    root_a, root_b = _root(a), _root(b)
    cross = np.linalg.svd(root_a.T @ root_b, compute_uv=False).sum()
    gap = a.mean(axis=0) - b.mean(axis=0)
    return max(0.0, float(gap @ gap + (root_a**2).sum() + (root_b**2).sum() - 2 * cross))


def classifier_score(probabilities: Array) -> float:
    """exp of the mean KL divergence of p(class | row) from p(class): the Inception Score on any classifier.

    Salimans et al. 2016, over all rows at once instead of the mean over ten splits.

    Args:
        probabilities: ``(n, classes)``, n of at least 2; rows sum to 1.

    Returns:
        1 (every row alike) to ``classes`` (every row certain, every class as frequent).

    Raises:
        DataError: not probabilities, or fewer than 2 rows.
    """
    rows = _probabilities(probabilities, least=2)
    # 0 log 0 is 0; a class that no row has is divided by 1 instead of 0.
    ratio = rows / np.where(rows.any(axis=0), rows.mean(axis=0), 1)
    return float(np.exp((rows * np.log(np.where(rows > 0, ratio, 1))).sum(axis=1).mean()))


def precision_recall_density_coverage(real: Array, fake: Array, k: int = 5) -> Manifold:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020), as the package prdc.

    A row's neighbourhood is the open ball that reaches to the k-th nearest other row of its own set. A row
    with k or more exact duplicates therefore has an empty one.

    Args:
        real: ``(n, d)``, finite, more than k rows.
        fake: ``(m, d)``, likewise.
        k: which neighbour sets the radius; at least 1.

    Returns:
        precision: share of fake rows in some real row's neighbourhood.
        recall: share of real rows in some fake row's neighbourhood.
        density: how many real neighbourhoods a fake row is in, over k, on average.
        coverage: share of real rows with a fake row in their neighbourhood.

    Raises:
        DataError: a value is not finite, a set has no more than k rows, or the widths differ.
    """
    if k < 1:
        raise DataError(f"k is {k}", "give a k of at least 1")
    real, fake = feature_pair(real, fake, least=max(2, k + 1))
    real_radius, fake_radius = _radius(real, k), _radius(fake, k)
    around = np.zeros(len(fake), dtype=np.int64)  # real neighbourhoods that each fake row is in
    recalled, covered = np.zeros(len(real), dtype=bool), np.zeros(len(real), dtype=bool)
    for block, squared in _squared_distances(real, fake):
        inside = _inside(squared, real_radius[block, None])
        around += inside.sum(axis=0)
        covered[block] = inside.any(axis=1)
        recalled[block] = _inside(squared, fake_radius).any(axis=1)
    return Manifold(float((around > 0).mean()), float(recalled.mean()), float(around.mean() / k), float(covered.mean()))


def label_agreement(probabilities: Array, labels: Array) -> float:
    """Share of rows whose most likely class is the one that was asked for (the first of equally likely ones counts).

    Args:
        probabilities: ``(n, classes)``, n of at least 1; rows sum to 1.
        labels: integers ``(n,)`` in ``0 … classes - 1``.

    Raises:
        DataError: not probabilities, no rows, or labels that do not fit them.
    """
    return float(_agrees(probabilities, labels).mean())


def label_agreement_by_class(probabilities: Array, labels: Array, classes: int) -> Floats:
    """`label_agreement` of the rows of each class: float64 ``(classes,)``, nan where no row was asked for.

    Raises:
        DataError: as `label_agreement`, or ``classes`` is not the width of the probabilities.
    """
    agrees = _agrees(probabilities, labels)
    if probabilities.shape[1] != classes:
        raise DataError(
            f"probabilities are for {probabilities.shape[1]} classes where there are {classes}",
            "use a classifier of the same classes",
        )
    rows = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels, weights=agrees, minlength=classes)
    return np.where(rows > 0, hits / np.maximum(rows, 1), np.nan)


def wilson_interval(successes: int, n: int) -> Interval:
    """95 % interval of a share, by Wilson's score (1927): inside 0 to 1, and right for shares near either end.

    Args:
        successes: 0 to n.
        n: trials, at least 1.

    Raises:
        DataError: no trials, or successes out of range.
    """
    if not 0 <= successes <= n or n < 1:
        raise DataError(f"{successes} successes of {n} trials make no share", "count at least 1 trial")
    share, z2 = successes / n, NORMAL_95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = NORMAL_95 / (1 + z2 / n) * (share * (1 - share) / n + z2 / (4 * n * n)) ** 0.5
    # Rounding alone could leave 0 or n successes outside of their own interval.
    return Interval(min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)))


def bootstrap_interval(
    statistic: Callable[..., float], *arrays: Array, seed: int, resamples: int = 100, paired: bool = False
) -> Interval:
    """95 % interval of a statistic: its value ± 1.96 bootstrap standard deviations (Efron & Tibshirani 1993).

    Not percentiles: a resample repeats rows, so that it looks less varied than its set, and a Fréchet distance or a
    neighbourhood measure of resamples lies beside the value itself. Their spread is used, not their place. The interval
    is not cut to the statistic's range.

    Args:
        statistic: takes the arrays, returns a number.
        arrays: rows first; each is resampled on its own.
        seed: decides the resamples.
        resamples: how many, at least 2; 100 give the half width to about 7 %.
        paired: draw the same rows of every array, as for probabilities and labels.

    Raises:
        DataError: fewer than 2 resamples, no arrays, an array without rows, or paired arrays of different lengths; and
            whatever the statistic raises.
    """
    return bootstrap_intervals(lambda *drawn: [statistic(*drawn)], *arrays, seed=seed, resamples=resamples, paired=paired)[0]


def bootstrap_intervals(
    statistics: Callable[..., Sequence[float]], *arrays: Array, seed: int, resamples: int = 100, paired: bool = False
) -> list[Interval]:
    """`bootstrap_interval` of several statistics from the same resamples, in the order that they are returned in."""
    if resamples < 2 or not arrays or min(map(len, arrays)) < 1:
        raise DataError("there is nothing to resample", "give arrays with rows, and at least 2 resamples")
    if paired and len({len(array) for array in arrays}) > 1:
        raise DataError(f"paired arrays have {[len(array) for array in arrays]} rows", "give as many rows in each")
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        picks = [generator.integers(len(array), size=len(array)) for array in (arrays[:1] if paired else arrays)]
        picks = picks * len(arrays) if paired else picks
        drawn.append(statistics(*(array[pick] for array, pick in zip(arrays, picks, strict=True))))
    spreads = NORMAL_95 * np.std(drawn, axis=0, ddof=1)
    values = statistics(*arrays)
    return [Interval(float(value - half), float(value + half)) for value, half in zip(values, spreads, strict=True)]


def subset_intervals(
    statistics: Callable[..., Sequence[float]], *arrays: Array, seed: int, resamples: int = 50
) -> list[Interval]:
    """95 % intervals of statistics of sets that no row may be repeated in: their values ± 1.96 standard deviations over
    random halves of the sets.

    A mean of half of the rows, drawn without replacement, varies about that of all rows as much as that about the truth
    (Politis & Romano 1994: subsampling). Of neighbourhoods a bootstrap is several times too wide, for a row beside its own
    copy has none; and a Fréchet distance of sets that are alike gets up to twice too wide an interval by either.

    Args:
        statistics: takes the arrays, returns numbers.
        arrays: rows first; each is halved on its own.
        seed: decides the halves.
        resamples: how many, at least 2.

    Returns:
        Their intervals, in the order of the numbers.

    Raises:
        DataError: whatever the statistics raise of half of the rows.
    """
    generator = np.random.default_rng(seed)
    drawn = [
        statistics(*(array[generator.permutation(len(array))[: len(array) // 2]] for array in arrays))
        for _ in range(resamples)
    ]
    spreads = NORMAL_95 * np.std(drawn, axis=0, ddof=1)
    return [
        Interval(float(value - half), float(value + half)) for value, half in zip(statistics(*arrays), spreads, strict=True)
    ]


def nearest(queries: Array, references: Array) -> tuple[npt.NDArray[np.int64], Floats]:
    """Finds for every query the nearest reference by Euclidean distance.

    Args:
        queries: ``(n, d)``, finite, at least 1 row.
        references: ``(m, d)``, likewise.

    Returns:
        indices: int64 ``(n,)`` into the references; the first of several that are equally near, to about 7 digits.
        distances: float64 ``(n,)``, in the units of the features; 0 for a copy.

    Raises:
        DataError: a value is not finite, a set has no rows, or the widths differ.
    """
    queries, references = feature_pair(queries, references, least=1)
    indices = np.empty(len(queries), dtype=np.int64)
    for block, squared in _squared_distances(queries, references):
        indices[block] = squared.argmin(axis=1)
    return indices, np.linalg.norm(queries - references[indices], axis=1)


def _root(rows: Floats) -> Floats:
    """R with R Rᵀ = the covariance of the rows, which never is computed: of networks it has millions of values."""
    centred = (rows - rows.mean(axis=0)) / (len(rows) - 1) ** 0.5
    # Fewer rows than features are a root as they are; of more, as few as there are features say the same.
    fewest = centred if len(rows) <= rows.shape[1] else np.asarray(np.linalg.qr(centred, mode="r"))
    return np.asarray(fewest.T)


def _radius(rows: Floats, k: int) -> Floats:
    """Squared distance to the k-th nearest other row, ``(n,)``."""
    # A row's own distance, 0, comes first.
    blocks = [np.partition(squared, k, axis=1)[:, k] for _, squared in _squared_distances(rows, rows)]
    return np.concatenate(blocks)


def _inside(squared: Floats, radius: Floats) -> npt.NDArray[np.bool_]:
    # Copies of rows lie exactly on the edge, which is outside; rounding must not decide it otherwise.
    return squared < radius * (1 - 1e-9)


def _squared_distances(a: Floats, b: Floats) -> Iterator[tuple[slice, Floats]]:
    """Yields slices of ``a`` with their squared distances to every row of ``b``, a bounded number at a time."""
    centre = b.mean(axis=0)  # distances stay the same, and less is lost in the subtraction below
    a, b = a - centre, b - centre
    length_a, length_b = (a * a).sum(axis=1), (b * b).sum(axis=1)
    step = max(1, BLOCK // len(b))
    for start in range(0, len(a), step):
        block = slice(start, start + step)
        lengths = length_a[block, None] + length_b
        squared = lengths - 2 * (a[block] @ b.T)
        # What is left of equal rows is rounding: make it 0, so that copies are seen as copies.
        squared[squared < lengths * 1e-14 * a.shape[1] ** 0.5] = 0
        yield block, squared


def nearest_distances(queries: Array, references: Array, k: int) -> Floats:
    """Euclidean distances from every query to its k nearest references, the nearest first: float64 ``(n, k)``.

    Raises:
        DataError: as `nearest`, or there are fewer than k references.
    """
    queries, references = feature_pair(queries, references, least=1)
    if not 1 <= k <= len(references):
        raise DataError(f"there are {len(references)} rows, and {k} neighbours are wanted", "give more rows")
    distances = np.empty((len(queries), k))
    for block, squared in _squared_distances(queries, references):
        found = np.argpartition(squared, k - 1, axis=1)[:, :k]
        # Again, without the rounding of the products, which near copies would be lost in.
        distances[block] = np.linalg.norm(queries[block, None] - references[found], axis=2)
    return np.sort(distances, axis=1)


def feature_pair(a: Array, b: Array, least: int) -> tuple[Floats, Floats]:
    """Two sets of features as float64 ``(n, d)`` and ``(m, d)``.

    Raises:
        DataError: a value is not finite, a set has fewer than ``least`` rows, or the widths differ.
    """
    first, second = _rows(a, least), _rows(b, least)
    if first.shape[1] != second.shape[1]:
        raise DataError(f"features are {first.shape[1]} and {second.shape[1]} wide", "compute both with the same extractor")
    return first, second


def _rows(features: Array, least: int) -> Floats:
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] < 1:
        raise DataError(f"features have the shape {rows.shape}", "give one row of numbers for each row of data")
    if len(rows) < least:
        raise DataError(f"there are {len(rows)} rows where at least {least} are needed", "generate or read more rows")
    if not np.isfinite(rows).all():
        bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise DataError(f"features are not finite, first in row {bad}", "look for nan or infinite values in the data")
    return rows


def _probabilities(probabilities: Array, least: int) -> Floats:
    rows = _rows(probabilities, least)
    if rows.min() < 0 or np.abs(rows.sum(axis=1) - 1).max() > 1e-3:
        raise DataError("rows are not probabilities: each must sum to 1", "pass the classifier's softmax, not its logits")
    return rows


def _agrees(probabilities: Array, labels: Array) -> npt.NDArray[np.bool_]:
    rows = _probabilities(probabilities, least=1)
    if labels.shape != (len(rows),) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels are {labels.dtype} {labels.shape} for {len(rows)} rows", "give one integer label a row")
    if labels.min() < 0 or labels.max() >= rows.shape[1]:
        raise DataError(
            f"labels run from {labels.min()} to {labels.max()} but there are {rows.shape[1]} classes",
            "number the classes from 0",
        )
    return np.asarray(rows.argmax(axis=1) == labels)
