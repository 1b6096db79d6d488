"""How close synthetic tables come to real ones: the shapes of columns and the trends of pairs, as SDMetrics has them.

The definitions are those of SDMetrics 0.32 (QualityReport), whose figures the tests keep.
Where it differs, because a generator must not gain by it: a column that is empty in one table only scores 0 where SDMetrics
leaves it out, and a synthetic constant correlates with nothing where SDMetrics leaves the pair out. Infinite numbers, which
SDMetrics refuses, are the greatest and the least values of a shape, fall into the outer bins, and count in no correlation.
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from raygen.errors import DataError
from raygen.metrics.encoding import Column, Floats, Ints, Kinds, encode
from raygen.metrics.fidelity import Interval, bootstrap_intervals

CORRELATED = 0.5  # pairs of numbers count from this |correlation| of the real rows on: SDMetrics' default
ASSOCIATED = 0.3  # and other pairs from this Cramér's V on
BINS = 10  # of equal width, for numbers beside categories
MOST_PAIRS = 10_000  # more pairs (from 142 columns on) are thinned out evenly
MOST_CELLS = 2**20  # contingency tables of more cells are counted by sorting


class Quality(NamedTuple):
    """How close a synthetic table comes to a real one; every score 0 to 1, 1 for equal.

    Attributes:
        overall: the mean of the next two, or the shapes alone where there are no trends.
        shapes: the mean over columns.
        trends: the mean over pairs of columns that are related in the real rows; nan where none are.
        by_column: of each column 1 − the Kolmogorov–Smirnov statistic (numbers, datetimes) or 1 − the total variation
            distance (categories), nulls left out. A column that is null in every row of both tables is not there.
        by_pair: of each related pair 1 − |difference of Pearson's correlations| / 2 (numbers and datetimes, rows without
            nulls) or 1 − the total variation distance of the two contingency tables. In those, numbers are put into ten
            bins of equal width, each table's by its own range; null is a category, or in the bin of the maximum.
    """

    overall: float
    shapes: float
    trends: float
    by_column: dict[str, float]
    by_pair: dict[tuple[str, str], float]


def quality(real: pa.Table, synthetic: pa.Table, kinds: Kinds) -> Quality:
    """Scores a synthetic table against a real one.

    Args:
        real: rows to come close to; at least 1.
        synthetic: as many or fewer or more, of the same schema.
        kinds: which columns are ``number``, ``datetime`` or ``category``; others are not looked at.

    Raises:
        DataError: the tables do not fit each other or the kinds, or every column is null throughout.
    """
    return _Comparison(real, synthetic, kinds).quality()


def quality_intervals(
    real: pa.Table, synthetic: pa.Table, kinds: Kinds, seed: int, resamples: int = 50
) -> tuple[Interval, Interval, Interval]:
    """95 % intervals of `quality`: overall, shapes and trends, by bootstrap of the rows of both tables.

    Which pairs are related and where bins end is decided once, on all rows.

    Args:
        real: as `quality`; so ``synthetic`` and ``kinds``.
        seed: decides the resamples.
        resamples: how many, at least 2.

    Raises:
        DataError: as `quality`, or fewer than 2 resamples.
    """
    comparison = _Comparison(real, synthetic, kinds)
    rows = np.arange(len(real)), np.arange(len(synthetic))
    overall, shapes, trends = bootstrap_intervals(
        lambda *picks: comparison.quality(*picks)[:3], *rows, seed=seed, resamples=resamples
    )
    return overall, shapes, trends


class _Comparison:
    """Two tables, encoded once, so that resamples only count."""

    def __init__(self, real: pa.Table, synthetic: pa.Table, kinds: Kinds) -> None:
        encoded = encode({"real": real, "synthetic": synthetic}, kinds)
        self.columns = {name: column for name, column in encoded.items() if column.distinct}
        if not self.columns:
            raise DataError(f"every one of {len(encoded)} columns is null in every row", "measure columns with values")
        self.numbers = {name: _numbers(column) for name, column in self.columns.items() if not column.is_category}
        self.bins = {name: _bins(column, self.numbers.get(name)) for name, column in self.columns.items()}
        pairs = list(combinations(self.columns, 2))
        self.pairs = [pair for pair in pairs[:: -(-len(pairs) // MOST_PAIRS) or 1] if self._related(*pair)]

    def quality(self, real: Ints | slice = slice(None), synthetic: Ints | slice = slice(None)) -> Quality:
        """Of some rows of both tables, or all of them."""
        picks = real, synthetic
        by_column = {
            name: _shape(column, *(codes[pick] for codes, pick in zip(column.codes, picks, strict=True)))
            for name, column in self.columns.items()
        }
        by_pair = {pair: self._trend(*pair, picks) for pair in self.pairs}
        shapes = float(np.mean(list(by_column.values())))
        trends = float(np.mean(list(by_pair.values()))) if by_pair else float("nan")
        return Quality((shapes + trends) / 2 if by_pair else shapes, shapes, trends, by_column, by_pair)

    def _related(self, first: str, second: str) -> bool:
        """Whether two columns are, in the real rows."""
        if first in self.numbers and second in self.numbers:
            return abs(_correlation(self.numbers[first][0], self.numbers[second][0])) > CORRELATED
        (a, size_a), (b, size_b) = self.bins[first], self.bins[second]
        return _association(a[0], b[0], size_a, size_b) > ASSOCIATED

    def _trend(self, first: str, second: str, picks: tuple[Ints | slice, Ints | slice]) -> float:
        if first in self.numbers and second in self.numbers:
            of_real, of_synthetic = (
                _correlation(a[pick], b[pick])
                for a, b, pick in zip(self.numbers[first], self.numbers[second], picks, strict=True)
            )
            return 1 - abs(of_real - of_synthetic) / 2
        (a, _), (b, size) = self.bins[first], self.bins[second]
        real, synthetic = (x[pick] * size + y[pick] for x, y, pick in zip(a, b, picks, strict=True))
        return 1 - _total_variation(real, synthetic, self.bins[first][1] * size)


def _shape(column: Column, real: Ints, synthetic: Ints) -> float:
    real, synthetic = real[real >= 0], synthetic[synthetic >= 0]
    if not len(real) or not len(synthetic):
        return float(len(real) == len(synthetic))
    if column.is_category:
        return 1 - _total_variation(real, synthetic, column.distinct)
    return 1 - float(np.abs(np.cumsum(_difference(real, synthetic, column.distinct))).max())


def _total_variation(a: Ints, b: Ints, size: int) -> float:
    if size > MOST_CELLS:
        values, joint = np.unique(np.concatenate([a, b]), return_inverse=True)
        a, b, size = joint[: len(a)], joint[len(a) :], len(values)
    return float(np.abs(_difference(a, b, size)).sum() / 2)


def _difference(a: Ints, b: Ints, size: int) -> Floats:
    """How much more frequent each code is in ``a`` than in ``b``: float64 ``(size,)``."""
    return np.bincount(a, minlength=size) / len(a) - np.bincount(b, minlength=size) / len(b)


def _numbers(column: Column) -> tuple[Floats, ...]:
    """The values of a column, nan for null and infinite ones, for each table; scaled to at most 1."""
    values = np.where(np.isfinite(column.values), column.values, np.nan)
    most = np.abs(values[np.isfinite(values)]).max(initial=0)
    # By a power of two, so that no bit is lost, and the squares of huge values are finite.
    scaled = np.append(np.ldexp(values, -int(np.frexp(most)[1])), np.nan)
    return tuple(scaled[codes] for codes in column.codes)


def _bins(column: Column, numbers: tuple[Floats, ...] | None) -> tuple[tuple[Ints, ...], int]:
    """What contingency tables count: for each table int64 ``(rows,)``, and how many there are."""
    if numbers is None:
        return tuple(codes + 1 for codes in column.codes), column.distinct + 1
    binned = []
    for codes, of_rows in zip(column.codes, numbers, strict=True):
        known = of_rows[np.isfinite(of_rows)]
        edges = np.histogram_bin_edges([known.min(), known.max()] if len(known) else [], BINS)
        bins = np.digitize(of_rows, edges)  # 1 on; the maximum, and nan, have a last one of their own
        least = np.append(column.values == -np.inf, False)[codes]
        binned.append(np.where(least, 0, bins).astype(np.int64))
    return tuple(binned), BINS + 2


def _correlation(a: Floats, b: Floats) -> float:
    """Pearson's, of the rows where neither is nan; 0 where one of them is constant."""
    known = ~(np.isnan(a) | np.isnan(b))
    a, b = a[known], b[known]
    if not len(a) or (a == a[0]).all() or (b == b[0]).all():
        return 0.0
    a, b = (x - x.mean() for x in (a, b))
    a, b = (x / np.abs(x).max() for x in (a, b))
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))


def _association(a: Ints, b: Ints, size_a: int, size_b: int) -> float:
    """Cramér's V, 0 to 1; 0 where one of them is constant."""
    of_a, of_b = np.bincount(a, minlength=size_a), np.bincount(b, minlength=size_b)
    degrees = min(np.count_nonzero(of_a), np.count_nonzero(of_b)) - 1
    if degrees < 1:
        return 0.0
    joint = a * size_b + b
    if size_a * size_b > MOST_CELLS:
        cells, counts = np.unique(joint, return_counts=True)
    else:
        counts = np.bincount(joint)
        cells = np.flatnonzero(counts)
        counts = counts[cells]
    # χ² / n = Σ observed² / (row sum · column sum) − 1, to which cells without rows add nothing.
    chi = (counts.astype(float) ** 2 / (of_a[cells // size_b].astype(float) * of_b[cells % size_b])).sum() - 1
    return float(np.sqrt(max(0.0, chi) / degrees))
