"""Where the values of columns fall: the cells that rows are counted in, chosen by looking at some of them.

Memory is for the cells, however many rows and distinct values there are. What cells cannot tell apart makes columns look
alike that are not, by at most the ``error`` that is stated with every score.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raygen.datasets.hashes import of_values
from raygen.metrics.encoding import Floats, Ints, Kinds, decoded, encode, floats
from raygen.metrics.tables import BINS, MOST_PAIRS

MOST = 2048  # edges of a number and values of a category that have cells of their own, where there are so many
MOST_IN_COLUMNS = 2**17  # of all columns together: each has fewer where there are many
IN_PAIRS = 50  # values of a category that have their own beside another column: the most frequent ones
MOST_IN_PAIRS = 2**19  # cells of all pairs together: with more, fewer values have their own
HUGE = 1e60  # numbers are cut off there, in units of their spread, so that squares can be added up


class Codes(NamedTuple):
    """Of the rows of a column.

    Attributes:
        cells: int64 ``(rows,)``; the last one is for null.
        bins: fewer cells, for pairs; null has one too.
        scaled: numbers for moments, float64 ``(rows,)``, nan for null and infinite ones. Nothing for categories.
    """

    cells: Ints
    bins: Ints
    scaled: Floats


@dataclass(frozen=True)
class Numbers:
    """The cells of a number or datetime: 2i + 1 is the i-th edge itself, 2i what lies between it and the edge before.

    Attributes:
        edges: float64 ``(n,)``, increasing: values of the column, and where bins end.
        ends: of the bins, which are of equal width.
        shift: the middle of the values.
        power: of two, about their spread.
    """

    edges: Floats
    ends: Floats
    shift: float
    power: int

    bins = BINS + 2
    is_category = False

    @classmethod
    def of(cls, values: Floats, most: int) -> "Numbers":
        """For a column like these values, which are sorted and without nan."""
        finite = values[np.isfinite(values)]
        distinct = np.unique(finite)
        if len(distinct) > most:
            distinct = np.unique(np.quantile(finite, np.linspace(0, 1, most), method="nearest"))
        shift = float(np.quantile(finite, 0.5, method="nearest")) if len(finite) else 0.0
        size = int(np.frexp(np.abs(distinct).max(initial=0))[1])
        scaled = np.ldexp(distinct, -size)  # by a power of two no bit is lost, and huge values have a finite range
        ends = np.ldexp(np.histogram_bin_edges(scaled[[0, -1]] if len(scaled) else [], BINS), size)
        spread = np.abs(scaled - np.ldexp(shift, -size))
        power = size + int(np.frexp(np.median(spread) or spread.max())[1]) if len(spread) else 0
        return cls(np.unique(np.concatenate([distinct, ends])), ends, shift, power)

    @property
    def cells(self) -> int:
        return 2 * len(self.edges) + 1

    @cached_property
    def bin_of(self) -> Ints:
        """Of each cell, and of null, which is in that of the maximum: as `tables` has it."""
        at = np.digitize(self.edges, self.ends)
        return np.concatenate([[0], np.repeat(at, 2), [BINS + 1]]).astype(np.int64)

    def coarser(self, own: int) -> "Numbers":
        """Itself: the bins are as few as they are."""
        return self

    def codes(self, column: pa.ChunkedArray) -> Codes:
        values = floats(column)
        place = np.searchsorted(self.edges, values)
        cells = 2 * place + (np.append(self.edges, np.nan)[place] == values)
        cells[np.isnan(values)] = self.cells
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = np.clip(np.ldexp(values - self.shift, -self.power), -HUGE, HUGE)
        return Codes(cells, self.bin_of[cells], np.where(np.isfinite(values), scaled, np.nan))

    def scores(self, real: Floats, synthetic: Floats) -> Floats:
        """1 − the Kolmogorov–Smirnov statistic of shares of cells, float64 ``(…, cells)``."""
        return np.asarray(1 - np.abs(np.cumsum(real - synthetic, axis=-1)).max(axis=-1))

    def error(self, real: Floats, synthetic: Floats) -> float:
        """By how much the score is too high at most: between two edges, all real rows may come first, or all synthetic."""
        ahead = np.cumsum(real - synthetic)
        before = np.append(0, ahead)[:-1:2]
        farthest = max((before + real[::2]).max(), (synthetic[::2] - before).max())
        return max(0.0, float(farthest - np.abs(ahead).max()))


@dataclass(frozen=True)
class Categories:
    """The cells of a category: one for each of its most frequent values, and buckets, into which others are hashed.

    Attributes:
        values: distinct ones, the most frequent first.
        buckets: how many.
        own: of how many values pairs know; others are one.
    """

    values: pa.Array
    buckets: int
    own: int

    is_category = True

    @classmethod
    def of(cls, column: pa.ChunkedArray, most: int) -> "Categories":
        counted = decoded(column).drop_null().value_counts()
        order = np.argsort(-counted.field("counts").to_numpy(), kind="stable")[:most]
        return cls(counted.field("values").take(pa.array(order)), max(1, most // 2), min(IN_PAIRS, len(order)))

    @property
    def cells(self) -> int:
        return len(self.values) + self.buckets

    @property
    def bins(self) -> int:
        return self.own + 2

    def coarser(self, own: int) -> "Categories":
        """With no more values than that in pairs."""
        return replace(self, own=min(own, self.own))

    def codes(self, column: pa.ChunkedArray) -> Codes:
        column = decoded(column)
        found = pc.index_in(column, value_set=self.values).fill_null(-1)
        cells = found.combine_chunks().to_numpy(zero_copy_only=False).astype(np.int64)
        null = np.asarray(column.is_null())
        other = (cells < 0) & ~null
        if other.any():
            buckets = of_values(column.filter(pa.array(other))) % np.uint64(self.buckets)
            cells[other] = len(self.values) + buckets.astype(np.int64)
        bins = np.minimum(cells, self.own)
        cells[null], bins[null] = self.cells, self.own + 1
        return Codes(cells, bins, np.empty(0))

    def scores(self, real: Floats, synthetic: Floats) -> Floats:
        """1 − the total variation distance of shares of cells, float64 ``(…, cells)``."""
        return np.asarray(1 - np.abs(real - synthetic).sum(axis=-1) / 2)

    def error(self, real: Floats, synthetic: Floats) -> float:
        """By how much the score is too high at most: what shares a bucket may have no value in common."""
        shared = slice(len(self.values), None)
        return float(np.minimum(real[shared], synthetic[shared]).sum())


Cells = Numbers | Categories


@dataclass(frozen=True)
class Grid:
    """The cells of the columns of a table, and which pairs of columns are counted."""

    columns: dict[str, Cells]

    @classmethod
    def of(cls, rows: pa.Table, kinds: Kinds) -> "Grid":
        """For tables like these rows, of which more make it finer.

        Args:
            rows: at least 1.
            kinds: which columns are ``number``, ``datetime`` or ``category``; others are not looked at.

        Raises:
            DataError: the rows do not fit the kinds.
        """
        most = max(1, min(MOST, MOST_IN_COLUMNS // max(1, len(kinds))))
        columns: dict[str, Cells] = {}
        for name, column in encode({"real": rows}, kinds).items():
            if column.is_category:
                columns[name] = Categories.of(rows[name], most)
            else:
                values = column.values[column.codes[0][column.codes[0] >= 0]]
                columns[name] = Numbers.of(values, most)
        return cls(columns)._within(MOST_IN_PAIRS)

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        every = list(combinations(self.columns, 2))
        return every[:: -(-len(every) // MOST_PAIRS) or 1]

    @cached_property
    def correlated(self) -> list[tuple[str, str]]:
        """Those of two numbers, which moments are kept of."""
        return [pair for pair in self.pairs if not any(self.columns[name].is_category for name in pair)]

    @cached_property
    def places(self) -> dict[str | tuple[str, str], slice]:
        """Where all cells of a column, with that of null, and those of a pair are in a row of counts."""
        sizes: dict[str | tuple[str, str], int] = {name: column.cells + 1 for name, column in self.columns.items()}
        moments = set(self.correlated)
        sizes |= {(a, b): self.columns[a].bins * self.columns[b].bins for a, b in self.pairs if (a, b) not in moments}
        ends = np.cumsum([0, *sizes.values()]).tolist()
        return {name: slice(*ends[index : index + 2]) for index, name in enumerate(sizes)}

    @property
    def cells(self) -> int:
        return int(max(where.stop for where in self.places.values()))

    def _within(self, most: int) -> "Grid":
        """One whose pairs have no more cells than that, if it can be."""
        grid, own = self, IN_PAIRS
        while own > 1 and sum(at.stop - at.start for pair, at in grid.places.items() if isinstance(pair, tuple)) > most:
            own //= 2
            grid = Grid({name: column.coarser(own) for name, column in self.columns.items()})
        return grid
