"""Tables of any size, counted: one streaming pass of Ray Data over the synthetic rows, as they are made, and one over the
real rows. Memory is for the counts, and for a hash of each synthetic row.

The held-out rows are split by a hash of their address: one half is the reference, the other the ceiling. Whether a synthetic
row is a copy is looked up among all training rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from raygen.datasets import stream
from raygen.datasets.hashes import Hashes, mix, of_addresses, of_rows
from raygen.datasets.parquet import Fragment, read_rows
from raygen.generators.generator import Generator
from raygen.metrics.counts import GROUPS, Counts, quality
from raygen.metrics.encoding import Ints, Kinds
from raygen.metrics.fidelity import Estimate, Interval, wilson_interval
from raygen.metrics.grid import Grid
from raygen.metrics.tables import Quality

MOST_SYNTHETIC = 1_000_000
"""As many rows as there are training rows are made, but no more than these."""
MADE_AT_ONCE, ROWS_MADE = 1 << 16, 1 << 13
"""Rows that a worker makes before it says what they are, and those that it holds of them."""
CELLS_READ = 1 << 20
"""Of real rows in memory at a time: as many rows as have so many, with all columns."""
MOST_TASKS = 32
HALVES = ("reference", "ceiling")


class Tally(NamedTuple):
    """What was counted.

    Attributes:
        reference: held-out rows, about a half.
        ceiling: of the others, as many as there are synthetic rows, where these are fewer.
        synthetic: the first synthetic rows, as many as the reference has, or all.
        copies: share of all synthetic rows that equal a training row in every column. Rows are told apart by 64 bits.
        by_chance: that of held-out rows, of the sample that was given.
        made: synthetic rows.
        training: rows that they were looked up in.
    """

    reference: Counts
    ceiling: Counts
    synthetic: Counts
    copies: Estimate
    by_chance: Estimate
    made: int
    training: int

    def scores(self) -> tuple[Quality, Quality, tuple[Interval, Interval, Interval], dict[str, float], int]:
        """The quality of the synthetic rows, that of the ceiling, intervals and errors of the first, and rows compared."""
        found, best = (quality(self.reference, counts) for counts in (self.synthetic, self.ceiling))
        return found.quality, best.quality, found.intervals, found.errors, self.synthetic.total

    @property
    def document(self) -> dict[str, int]:
        """How many rows of each kind, for the report."""
        sides = {"reference": self.reference, "ceiling": self.ceiling, "compared": self.synthetic}
        totals = {name: counts.total for name, counts in sides.items()}
        return {**totals, "synthetic": self.made, "training": self.training}


def tally(
    source: stream.Source,
    holdout: float,
    artifact: str,
    rows: tuple[int, int],
    sample: tuple[pa.Table, pa.Table],
    kinds: Kinds,
    seed: int,
    told: Callable[[str], None],
) -> Tally:
    """Count.

    Args:
        artifact: of the generator.
        rows: how many training rows and held-out rows there are.
        sample: some training rows and some held-out rows, which the cells are chosen by.
        kinds: what each column is.
        seed: of the synthetic rows.
        told: is called with how far it is.

    Raises:
        DataError: a row cannot be read.
    """
    training, held = sample
    names, made = list(kinds), min(MOST_SYNTHETIC, rows[0])
    grid = Grid.of(pa.concat_tables([training, held]), kinds)
    synthetic, hashes = made_and_counted(artifact, grid, made, min(made, rows[1] // 2), seed, told)
    of_held = of_rows(held, names)
    share = made / max(made, rows[1] // 2)
    (reference, ceiling), found = counted(source, holdout, share, grid, np.unique(np.concatenate([hashes, of_held])), told)
    copies, by_chance = (_share(np.isin(each, found)) for each in (hashes, of_held))
    return Tally(reference, ceiling, synthetic, copies, by_chance, made, rows[0])


def made_and_counted(
    artifact: str, grid: Grid, made: int, compared: int, seed: int, told: Callable[[str], None]
) -> tuple[Counts, Hashes]:
    """The counts of the first synthetic rows, and a hash of every one."""
    import ray.data

    starts = range(0, made, MADE_AT_ONCE)
    items = ray.data.from_items([{"start": start} for start in starts], override_num_blocks=len(starts))
    items.context.execution_options.preserve_order = True
    cpus = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
    parts = items.map_batches(
        _Making,
        fn_constructor_args=(artifact, grid, made, compared, seed),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=max(1, min(len(starts), cpus))),
        num_cpus=1,
    )
    counts, hashes = Counts(grid), []
    with stream.user_errors():
        for part in parts.iter_rows():
            counts.merge(Counts.of_bytes(grid, part["counts"]))
            hashes.append(np.frombuffer(part["hashes"], np.uint64))
            told(f"{sum(map(len, hashes)):,} of {made:,} rows made and counted")
    return counts, np.concatenate(hashes)


def counted(
    source: stream.Source, holdout: float, share: float, grid: Grid, wanted: Hashes, told: Callable[[str], None]
) -> tuple[tuple[Counts, Counts], Hashes]:
    """The counts of one half of the held-out rows and of a share of the other, so that it is no larger than what it is the
    ceiling of; and which of some hashes, sorted ones, a training row has."""
    import ray.data

    items = [fragment._asdict() for fragment in source.fragments if fragment.rows]
    dataset = ray.data.from_items(items, override_num_blocks=min(len(items), MOST_TASKS))
    dataset.context.execution_options.preserve_order = True
    parts = dataset.map_batches(_Counting(source, holdout, share, grid, wanted), batch_size=None)
    halves, found, rows = (Counts(grid), Counts(grid)), np.zeros(len(wanted), bool), 0
    with stream.user_errors():
        for part in parts.iter_rows():
            for half, name in zip(halves, HALVES, strict=True):
                half.merge(Counts.of_bytes(grid, part[name]))
            found |= np.unpackbits(np.frombuffer(part["found"], np.uint8), count=len(wanted)).astype(bool)
            rows += part["rows"]
            told(f"{rows:,} of {source.rows:,} rows counted")
    return halves, wanted[found]


class _Making:
    """Makes rows and counts them."""

    def __init__(self, artifact: str, grid: Grid, made: int, compared: int, seed: int) -> None:
        self.generator = Generator.load(artifact, device="cpu")
        self.grid, self.made, self.compared, self.seed = grid, made, compared, seed

    def __call__(self, items: dict[str, Any]) -> dict[str, Any]:
        counts, hashes = Counts(self.grid), []
        (first,) = map(int, items["start"])
        last = min(first + MADE_AT_ONCE, self.made)
        for start in range(first, last, ROWS_MADE):
            rows = range(start, min(start + ROWS_MADE, last))
            table = self.generator.sample(rows, self.seed)
            hashes.append(of_rows(table, list(self.grid.columns)))
            compared = table.slice(0, max(0, self.compared - start))
            counts.update(compared, _groups(of_addresses("synthetic", np.arange(start, start + len(compared)))))
        return {"counts": [counts.to_bytes()], "hashes": [np.concatenate(hashes).tobytes()]}


@dataclass(frozen=True)
class _Counting:
    """What a task does with its row groups."""

    source: stream.Source
    holdout: float
    share: float
    grid: Grid
    wanted: Hashes

    def __call__(self, items: Any) -> Any:
        names, rows = list(self.grid.columns), 0
        halves = Counts(self.grid), Counts(self.grid)
        waiting = [_Waiting(counts) for counts in halves]
        wanted, found = np.append(self.wanted, np.uint64(0)), np.zeros(len(self.wanted) + 1, bool)
        for fragment in stream.fragments(items):
            rows += fragment.rows
            for table, hashes in _read(self.source, fragment, names):
                held = stream.held_out(hashes, self.holdout)
                second = (hashes & np.uint64(1)).astype(bool)
                chosen = held & ~second, held & second & stream.held_out(mix(hashes), self.share)
                for mine, counts in zip(chosen, waiting, strict=True):
                    counts.add(table.filter(pa.array(mine)), _groups(hashes[mine]))
                of_training = of_rows(table.filter(pa.array(~held)), names)
                at = np.searchsorted(self.wanted, of_training)
                found[at[wanted[at] == of_training]] = True
        for counts in waiting:
            counts.flush()
        parts = {name: [half.to_bytes()] for name, half in zip(HALVES, halves, strict=True)}
        return {**parts, "found": [np.packbits(found[:-1]).tobytes()], "rows": [rows]}


class _Waiting:
    """Rows that wait to be counted until they are worth it: a few take as long as some thousands."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self.tables: list[pa.Table] = []
        self.groups: list[Ints] = []

    def add(self, table: pa.Table, groups: Ints) -> None:
        self.tables.append(table)
        self.groups.append(groups)
        if sum(map(len, self.groups)) >= _at_once(table.num_columns):
            self.flush()

    def flush(self) -> None:
        if self.tables:
            self.counts.update(pa.concat_tables(self.tables), np.concatenate(self.groups))
            self.tables, self.groups = [], []


def _read(source: stream.Source, fragment: Fragment, names: list[str]) -> Iterator[tuple[pa.Table, Hashes]]:
    """The rows of a row group, some at a time, and the hashes of their addresses."""
    hashes, start, group = stream.hashes(source, fragment), 0, fragment.row_group
    for table in read_rows(fragment.file, range(group, group + 1), 0, fragment.rows, _at_once(len(names)), names):
        yield table, hashes[start : start + len(table)]
        start += len(table)


def _at_once(columns: int) -> int:
    return max(1024, CELLS_READ // max(1, columns))


def _groups(hashes: Hashes) -> Ints:
    """By bits that decide neither what is held out nor in which half it is."""
    return ((hashes >> np.uint64(1)) % np.uint64(1024) % np.uint64(GROUPS)).astype(np.int64)


def _share(copies: np.ndarray) -> Estimate:
    return Estimate(float(copies.mean()), wilson_interval(int(copies.sum()), len(copies)))
