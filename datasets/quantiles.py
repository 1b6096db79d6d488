"""A summary of how often which values of a column are there: exact while they are few, else with a bounded error of rank.

It depends on the values and on the order in which they are added, on nothing else; published sketches (KLL, arXiv
1603.05346; t-digest, arXiv 1902.04023) draw at random or know floats only, while decimals have up to 76 digits.
"""

from typing import Any

import numpy as np

POINTS = 4096
"""The most distinct values that are remembered."""

Counts = tuple[np.ndarray, np.ndarray]
"""Distinct values, sorted (int64, float64, or Python integers as objects), and how many rows have each (int64)."""


def integers(values: list[int]) -> np.ndarray:
    """int64 where they fit, else objects."""
    try:
        return np.array(values, np.int64)
    except OverflowError:
        return np.array(values, object)


class Quantiles:
    """Values that are shared by more than one row in a thousand keep their own count. Of the others, runs of about one row
    in two thousand are remembered by the value in their middle, so that ranks are off by less than that for each time the
    rows have doubled.
    """

    def __init__(self) -> None:
        self.exact = True
        self._parts: list[Counts] = []

    def add(self, values: np.ndarray) -> None:
        """Values, ``(n,)``, without NaN."""
        if len(values):
            self._push(np.unique(values, return_counts=True))

    def merge(self, state: dict[str, Any]) -> None:
        """Add what ``to_json`` of another gave."""
        self.exact &= state["exact"]
        values = state["values"]
        if values:
            floats = isinstance(values[0], float)
            self._push((np.array(values) if floats else integers(values), np.array(state["counts"], np.int64)))

    def counts(self) -> Counts:
        while len(self._parts) > 1:
            self._join()
        return self._parts[0] if self._parts else (np.empty(0, np.int64), np.empty(0, np.int64))

    def to_json(self) -> dict[str, Any]:
        values, counts = self.counts()
        return {"values": values.tolist(), "counts": counts.tolist(), "exact": self.exact}

    def _push(self, part: Counts) -> None:
        """Only parts of like size are joined, so that no row is summarized more often than their number has doubled."""
        self._parts.append(self._compressed(part))
        while len(self._parts) > 1 and self._parts[-2][1].sum() < 2 * self._parts[-1][1].sum():
            self._join()

    def _join(self) -> None:
        (values, counts), (others, more) = self._parts[-2:]
        distinct, which = np.unique(np.concatenate([values, others]), return_inverse=True)
        total = np.zeros(len(distinct), np.int64)
        np.add.at(total, which, np.concatenate([counts, more]))
        self._parts[-2:] = [self._compressed((distinct, total))]

    def _compressed(self, part: Counts) -> Counts:
        values, counts = part
        if len(values) <= POINTS:
            return part
        self.exact = False
        alone = counts * (POINTS // 4) > counts.sum()
        alone[[0, -1]] = True  # the least and the most
        others = np.flatnonzero(~alone)
        rows = counts[others]
        runs = (2 * np.cumsum(rows) - rows) * (POINTS // 4) // rows.sum()
        starts = np.flatnonzero(np.diff(runs, prepend=-1))
        middles = (starts + np.append(starts[1:], len(others)) - 1) // 2
        kept = np.concatenate([np.flatnonzero(alone), others[middles]])
        weights = np.concatenate([counts[alone], np.add.reduceat(rows, starts)])
        order = np.argsort(kept)
        return values[kept[order]], weights[order]
