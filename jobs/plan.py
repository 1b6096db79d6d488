"""The plan of a dataset: which rows, in which shards, showing what. A pure function, so nobody has to remember anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from raygen.generators import noise


class Shard(NamedTuple):
    """A range of rows that makes one Parquet file."""

    number: int
    name: str
    rows: range


@dataclass(frozen=True)
class Plan:
    """Rows 0 to ``rows`` of a (generator, seed), in shards of ``shard_rows``.

    Attributes:
        counts: how many rows show each class, by class index; None for a generator without a condition.
    """

    rows: int
    seed: int
    shard_rows: int
    counts: tuple[int, ...] | None

    @property
    def shards(self) -> int:
        return -(-self.rows // self.shard_rows)

    def shard(self, index: int) -> Shard:
        start = index * self.shard_rows
        name = f"part-{index:05d}-of-{self.shards:05d}.parquet"
        return Shard(index, name, range(start, min(start + self.shard_rows, self.rows)))

    def classes(self, rows: range) -> np.ndarray | None:
        """The class index of each row: int64 ``(n,)``. Over all rows every class has exactly its count, and since rows are
        dealt out by a permutation, every shard has its share of each."""
        if self.counts is None:
            return None
        dealt = permutation(self.rows, self.seed, np.arange(rows.start, rows.stop))
        return np.searchsorted(np.cumsum(self.counts), dealt, side="right").astype(np.int64)

    def to_json(self) -> dict[str, Any]:
        counts = None if self.counts is None else list(self.counts)
        return {"rows": self.rows, "seed": self.seed, "shard_rows": self.shard_rows, "counts": counts}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> "Plan":
        counts = None if state["counts"] is None else tuple(state["counts"])
        return cls(state["rows"], state["seed"], state["shard_rows"], counts)


def balanced(rows: int, training: Sequence[int]) -> tuple[int, ...]:
    """As many rows of each class that was trained on as of any other; what is left over goes to the first ones."""
    return proportional(rows, [min(count, 1) for count in training])


def proportional(rows: int, weights: Sequence[int]) -> tuple[int, ...]:
    """Counts that add up to ``rows`` and are as near to the weights as whole numbers can be (largest remainders)."""
    total = sum(weights)
    counts = [rows * weight // total for weight in weights]
    remainders = [rows * weight % total for weight in weights]
    for index in sorted(range(len(weights)), key=lambda i: -remainders[i])[: rows - sum(counts)]:
        counts[index] += 1
    return tuple(counts)


def permutation(size: int, seed: int, positions: np.ndarray) -> np.ndarray:
    """Where a permutation of 0 … size − 1 takes some positions, without ever holding the rest of it.

    A Feistel network of six rounds over the next power of four, walked until it is inside (Black and Rogaway 2002,
    "Ciphers with arbitrary finite domains").
    """
    half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    mask = np.uint64((1 << int(half)) - 1)
    keys = noise.words(seed, "plan", range(6), 1)[:, 0]

    def walk(x: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & mask
        for key in keys:
            mixed = (right ^ key) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
            left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(32))) & mask)
        return (left << half) | right

    out = walk(np.asarray(positions, np.uint64))
    while (outside := out >= np.uint64(size)).any():
        out[outside] = walk(out[outside])
    return out.astype(np.int64)
