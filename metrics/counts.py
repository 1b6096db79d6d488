"""How close synthetic tables of any size come to real ones: rows are counted, a few at a time and anywhere, and what was
counted is added up.

The scores are those of `tables`, whose rows have to be in memory together, but for these: a shape is known up to an error,
which is stated; the bins of both tables are those of the grid; and beside another column a category has its most frequent
values, and one for all others.

Rows are counted in groups, by chance, which intervals come from: what the scores are without each group in turn.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from raygen.errors import DataError
from raygen.metrics.encoding import Floats, Ints
from raygen.metrics.fidelity import Interval
from raygen.metrics.grid import Grid
from raygen.metrics.tables import ASSOCIATED, CORRELATED, Quality

GROUPS = 20
STUDENT_95 = 2.093024054408263  # 97.5 % point of Student's distribution with as many degrees of freedom, less one
CONSTANT = 1e-12  # of the squares, a variance that is rounding alone


class Scores(NamedTuple):
    """What counts say of a synthetic table.

    Attributes:
        quality: the scores.
        intervals: 95 % ones of its overall score, shapes and trends, by a jackknife over groups of rows of both tables.
        errors: by how much the score of each column is too high at most.
    """

    quality: Quality
    intervals: tuple[Interval, Interval, Interval]
    errors: dict[str, float]


class Counts:
    """How many rows of a table are in each cell of a grid, in each group of rows; and what correlations are made of.

    Attributes:
        rows: int64 ``(groups, cells)``.
        moments: float64 ``(groups, pairs of numbers, 6)``: of the rows that have both, how many there are, the sums of each,
            of their squares and of their product.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.rows: Ints = np.zeros((GROUPS, grid.cells), np.int64)
        self.moments: Floats = np.zeros((GROUPS, len(grid.correlated), 6))

    @property
    def total(self) -> int:
        """Rows that were counted."""
        where = self.grid.places[next(iter(self.grid.columns))]
        return int(self.rows[:, where].sum())

    def update(self, table: pa.Table, groups: Ints) -> None:
        """Count rows; ``groups``, int64 ``(rows,)``, 0 to 19, are drawn by chance."""
        codes = {name: column.codes(table[name]) for name, column in self.grid.columns.items()}
        offsets = {name: groups * column.bins + codes[name].bins for name, column in self.grid.columns.items()}
        for key, where in self.grid.places.items():
            size = where.stop - where.start
            if isinstance(key, str):
                at = groups * size + codes[key].cells
            else:
                at = offsets[key[0]] * self.grid.columns[key[1]].bins + codes[key[1]].bins
            self.rows[:, where] += np.bincount(at, minlength=GROUPS * size).reshape(GROUPS, size)
        if self.grid.correlated:
            self._add_moments({name: codes[name].scaled for name in codes}, groups)

    def merge(self, other: "Counts") -> None:
        """Add what was counted elsewhere, on the same grid."""
        self.rows += other.rows
        self.moments += other.moments

    def to_bytes(self) -> bytes:
        """Compressed: most counts are 0 or small, and with 60 columns they are 60 MB and more, of every task."""
        data = self.rows.tobytes() + self.moments.tobytes()
        return bytes(pa.compress(data, "zstd", asbytes=True))

    @classmethod
    def of_bytes(cls, grid: Grid, data: bytes) -> "Counts":
        """What ``to_bytes`` gave, on the same grid."""
        counts = cls(grid)
        plain, where = pa.decompress(data, counts.rows.nbytes + counts.moments.nbytes, "zstd"), counts.rows.nbytes
        counts.rows = np.frombuffer(plain[:where], np.int64).reshape(counts.rows.shape)
        counts.moments = np.frombuffer(plain[where:], np.float64).reshape(counts.moments.shape)
        return counts

    def _add_moments(self, scaled: dict[str, Floats], groups: Ints) -> None:
        names = [name for name, column in self.grid.columns.items() if not column.is_category]
        order = np.argsort(groups, kind="stable")
        ends = np.searchsorted(groups[order], np.arange(GROUPS + 1))
        values = np.stack([scaled[name][order] for name in names], axis=1)
        known = np.isfinite(values).astype(np.float64)
        values = np.where(known > 0, values, 0)
        i, j = (np.array([names.index(pair[side]) for pair in self.grid.correlated]) for side in (0, 1))
        for group, (start, stop) in enumerate(pairwise(ends)):
            x, k = values[start:stop], known[start:stop]
            both, sums, squares, products = k.T @ k, x.T @ k, (x * x).T @ k, x.T @ x
            found = both[i, j], sums[i, j], sums[j, i], squares[i, j], squares[j, i], products[i, j]
            self.moments[group] += np.stack(found, axis=1)


def quality(real: Counts, synthetic: Counts) -> Scores:
    """Scores counted synthetic rows against counted real ones.

    Raises:
        DataError: a table has no rows, or every column is null throughout.
    """
    grid = real.grid
    for called, counted in (("real", real), ("synthetic", synthetic)):
        if not counted.total:
            raise DataError(f"no row of the {called} table was counted", "give more rows")
    by_column, errors = {}, {}
    for name, column in grid.columns.items():
        where = slice(grid.places[name].start, grid.places[name].stop - 1)  # without null
        of_real, of_synthetic = (_shares(_without(counted.rows[:, where])) for counted in (real, synthetic))
        if of_real[0].any() or of_synthetic[0].any():
            by_column[name] = _twice(of_real, of_synthetic, _empty_is_nothing(column.scores))
            errors[name] = min(column.error(of_real[0], of_synthetic[0]), float(by_column[name][0]))
    if not by_column:
        raise DataError(f"every one of {len(grid.columns)} columns is null in every row", "measure columns with values")
    by_pair = {}
    of_real, of_synthetic = (correlations(_without(counted.moments)) for counted in (real, synthetic))
    trends = _twice(of_real, of_synthetic, lambda a, b: 1 - np.abs(a - b) / 2)
    for index, pair in enumerate(grid.correlated):
        if abs(of_real[0, index]) > CORRELATED:
            by_pair[pair] = trends[:, index]
    for pair in (pair for pair in grid.pairs if pair in grid.places):
        cells = _without(real.rows[:, grid.places[pair]])
        if _association(cells[0].reshape(grid.columns[pair[0]].bins, -1)) > ASSOCIATED:
            shares = _shares(cells), _shares(_without(synthetic.rows[:, grid.places[pair]]))
            by_pair[pair] = _twice(*shares, _overlap)
    shape = np.mean(list(by_column.values()), axis=0)
    trend = np.mean(list(by_pair.values()), axis=0) if by_pair else np.full_like(shape, np.nan)
    overall = (shape + trend) / 2 if by_pair else shape
    in_order = {pair: float(by_pair[pair][0]) for pair in grid.pairs if pair in by_pair}
    whole = [float(scores[0]) for scores in (overall, shape, trend)]
    found = Quality(whole[0], whole[1], whole[2], {name: float(s[0]) for name, s in by_column.items()}, in_order)
    return Scores(found, (_interval(overall), _interval(shape), _interval(trend)), errors)


def _without(groups: np.ndarray) -> Floats:
    """All rows, and all but those of each group: float64 ``(1 + groups, …)``."""
    whole = groups.sum(axis=0, dtype=np.float64)
    return np.concatenate([whole[None], whole - groups])


def _shares(cells: Floats) -> Floats:
    """Of the rows in each cell; of none, 0."""
    return np.asarray(cells / np.maximum(1, cells.sum(axis=-1, keepdims=True)))


def _twice(real: Floats, synthetic: Floats, score: Callable[[Floats, Floats], Floats]) -> Floats:
    """The score of all rows; without each group of real rows; and of synthetic ones: ``(1 + 2 groups, …)``."""
    return np.concatenate([score(real, synthetic[:1]), score(real[:1], synthetic[1:])])


def _empty_is_nothing(score: Callable[[Floats, Floats], Floats]) -> Callable[[Floats, Floats], Floats]:
    """0 where one side alone has no values, 1 where neither has."""

    def scored(a: Floats, b: Floats) -> Floats:
        there = a.any(axis=-1), b.any(axis=-1)
        return np.where(there[0] & there[1], score(a, b), there[0] == there[1])

    return scored


def _overlap(a: Floats, b: Floats) -> Floats:
    """1 − the total variation distance of shares, float64 ``(…, cells)``."""
    return np.asarray(1 - np.abs(a - b).sum(axis=-1) / 2)


def correlations(moments: Floats) -> Floats:
    """Pearson's, ``(…, pairs)``; 0 where one of the two is constant."""
    rows, x, y, xx, yy, xy = np.moveaxis(moments, -1, 0)
    spread_x, spread_y = rows * xx - x * x, rows * yy - y * y
    varies = (spread_x > CONSTANT * rows * xx) & (spread_y > CONSTANT * rows * yy)
    spread = np.sqrt(np.where(varies, spread_x, 1)) * np.sqrt(np.where(varies, spread_y, 1))
    return np.where(varies, np.clip((rows * xy - x * y) / spread, -1, 1), 0)


def _association(joint: Floats) -> float:
    """Cramér's V of a contingency table, as `tables` has it."""
    joint = joint[joint.any(axis=1)][:, joint.any(axis=0)]
    degrees = min(joint.shape) - 1
    if degrees < 1:
        return 0.0
    chi = (joint**2 / (joint.sum(axis=1, keepdims=True) * joint.sum(axis=0))).sum() - 1
    return float(np.sqrt(max(0.0, chi) / degrees))


def _interval(scores: Floats) -> Interval:
    """By the jackknife over groups (Efron and Stein 1981), of two independent tables."""
    spread = sum((GROUPS - 1) * np.var(scores[1 + side * GROUPS :][:GROUPS]) for side in (0, 1))
    half = float(STUDENT_95 * np.sqrt(spread))
    return Interval(float(scores[0]) - half, float(scores[0]) + half)
