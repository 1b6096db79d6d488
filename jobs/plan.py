"""The plan of a dataset: which rows, in which shards, showing what. A pure function, so nobody has to remember anything."""

import json
from bisect import bisect_right
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple, overload
from urllib.parse import quote

import numpy as np

from raygen.datasets.parquet import Fragment
from raygen.datasets.stream import Source
from raygen.errors import RaygenError
from raygen.generators import noise
from raygen.generators.generator import Generator
from raygen.spec import AugmentSpec

MOST_CUTS = 16  # pieces of one row group at most: to get at a piece, a reader has to pass over those before it


class Split(NamedTuple):
    """Consecutive rows of a source that are read together: of the row groups [first, last) of a file, after ``skip`` rows of
    them; the first one is the file's row ``row``."""

    file: str
    first: int
    last: int
    skip: int
    row: int


class Shard(NamedTuple):
    """What makes one Parquet file: new rows, or variants of the rows of a split, by their numbers [start, stop)."""

    number: int
    file: str
    start: int
    stop: int
    split: Split | None = None

    @property
    def rows(self) -> range:
        return range(self.start, self.stop)

    def to_json(self) -> str:
        """As text, which Ray Data hands on."""
        return json.dumps(self)

    @classmethod
    def from_json(cls, text: str) -> "Shard":
        number, file, start, stop, split = json.loads(text)
        return cls(number, file, start, stop, split and Split(*split))


@dataclass(frozen=True)
class NewRows:
    """The rows ``start`` to ``start + rows`` of a (generator, seed), in shards of ``shard_rows``.

    Attributes:
        counts: how many rows show each class, by class index; None for a generator without a condition.
        folders: of each class, where every class has its own shards; None where every shard has its share of each.
    """

    rows: int
    seed: int
    shard_rows: int
    counts: tuple[int, ...] | None
    start: int = 0
    folders: tuple[str, ...] | None = None

    @property
    def shards(self) -> int:
        return self._firsts[-1]

    def shard(self, number: int) -> tuple[str, range]:
        """The folder and the rows of one of the shards."""
        part = bisect_right(self._firsts, number) - 1
        start = self._starts[part] + (number - self._firsts[part]) * self.shard_rows
        folder = "" if self.folders is None else self.folders[part]
        return folder, range(start, min(start + self.shard_rows, self._starts[part + 1]))

    def classes(self, rows: range) -> np.ndarray | None:
        """The class index of each row: int64 ``(n,)``. Over all rows every class has exactly its count, and since rows are
        dealt out by a permutation, every shard has its share of each."""
        if self.counts is None:
            return None
        dealt = np.arange(rows.start - self.start, rows.stop - self.start)
        if self.folders is None:
            dealt = permutation(self.rows, self.seed, dealt)
        return np.searchsorted(np.cumsum(self.counts), dealt, side="right").astype(np.int64)

    def _parts(self) -> tuple[int, ...]:
        return (self.rows,) if self.folders is None or self.counts is None else self.counts

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        """The first row of each folder, and the end of the last one."""
        return tuple(accumulate(self._parts(), initial=self.start))

    @cached_property
    def _firsts(self) -> tuple[int, ...]:
        """The first shard of each folder, and how many there are."""
        return tuple(accumulate((-(-count // self.shard_rows) for count in self._parts()), initial=0))


@dataclass(frozen=True)
class Variants:
    """``variants`` of each row of a source, and the row itself where ``real`` says so."""

    splits: tuple[tuple[Split, range], ...]
    variants: int
    real: bool

    @property
    def copies(self) -> int:
        """Rows that are written for each row of the source."""
        return self.variants + self.real


@dataclass(frozen=True)
class Plan:
    """New rows, or variants of real ones; new rows can be followed by the real ones themselves."""

    new: NewRows | None
    of: Variants | None

    @cached_property
    def shards(self) -> int:
        return (self.new.shards if self.new else 0) + (len(self.of.splits) if self.of else 0)

    @property
    def rows(self) -> int:
        real = sum(len(rows) for _, rows in self.of.splits) * self.of.copies if self.of else 0
        return real + (self.new.rows if self.new else 0)

    def __iter__(self) -> Iterator[Shard]:
        """The shards in order."""
        return map(self.shard, range(self.shards))

    def shard(self, number: int) -> Shard:
        """One of the shards, by its number from 0."""
        new = self.new.shards if self.new else 0
        if self.new and number < new:
            folder, rows = self.new.shard(number)
            return Shard(number, self._file(number, folder), rows.start, rows.stop)
        assert self.of is not None
        split, rows = self.of.splits[number - new]
        return Shard(number, self._file(number), rows.start, rows.stop, split)

    def without(self, numbers: Container[int]) -> "Shards":
        """The shards but for some."""
        return Shards(self, np.fromiter((number for number in range(self.shards) if number not in numbers), np.int64))

    def _file(self, number: int, folder: str = "") -> str:
        name = self._name % number
        return f"{folder}/{name}" if folder else name

    @cached_property
    def _name(self) -> str:
        width = max(5, len(str(self.shards)))
        return f"part-%0{width}d-of-{self.shards:0{width}d}.parquet"

    def size(self, shard: Shard) -> int:
        """How many rows a shard's file has."""
        return len(shard.rows) * (self.of.copies if shard.split and self.of else 1)


class Shards(Sequence[Shard]):
    """Some shards of a plan. Each is made when it is asked for: of a million, only the numbers are kept."""

    def __init__(self, plan: Plan, numbers: np.ndarray) -> None:
        self.plan, self.numbers = plan, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Shard: ...
    @overload
    def __getitem__(self, index: slice) -> "Shards": ...
    def __getitem__(self, index: int | slice) -> "Shard | Shards":
        if isinstance(index, slice):
            return Shards(self.plan, self.numbers[index])
        return self.plan.shard(int(self.numbers[index]))


def plan(asked: AugmentSpec, generator: Generator, real: Source | None, counts: Sequence[int] | None = None) -> Plan:
    """The plan of what is asked of a generator.

    Args:
        real: the rows to vary, or to write beside the synthetic ones.
        counts: of each class, where they have been worked out before.

    Raises:
        RaygenError: a class that the generator never saw, or nothing to make.
    """
    of = None
    if real is not None:
        made = asked.variants or int(asked.complete)
        copies = made + asked.include_real
        cut = tuple(splits(real.fragments, max(1, asked.shard_rows // copies)))
        of = Variants(cut, made, asked.include_real)
    if asked.of_real:
        return Plan(None, of)
    condition, folders = generator.spec.condition, None
    free = asked.where is not None and asked.balance is None and asked.classes is None  # then it is what goes with the rest
    if counts is None and condition is not None and not free:
        counts = _counts(asked, generator, condition)
    rows = asked.rows if counts is None else sum(counts)
    assert rows is not None
    if asked.format.partition_by is not None and condition is not None:
        folders = tuple(f"{condition}={_folder(value)}" for value in generator.codec.categories[condition].values)
    return Plan(
        NewRows(rows, asked.seed, asked.shard_rows, None if counts is None else tuple(counts), asked.start, folders), of
    )


def _counts(asked: AugmentSpec, generator: Generator, condition: str) -> Sequence[int]:
    """How many rows of each class are asked for."""
    assert asked.allocate is None  # then they have been worked out before
    category = generator.codec.categories[condition]
    if asked.classes is not None:
        wanted = {generator.codec.class_index(condition, value): n for value, n in asked.classes.items()}
        counts = tuple(wanted.get(index, 0) for index in range(len(category.values)))
    elif asked.rows is not None:
        counts = (balanced if asked.balance else proportional)(asked.rows, category.counts)
    else:
        counts = filled_up(category.everywhere, asked.to)
    unseen = [value for value, n, seen in zip(category.values, counts, category.counts, strict=True) if n and not seen]
    if unseen:
        raise RaygenError(
            f"no training row has {condition} {unseen[0]!r}, so the generator never saw it",
            "say how many of the others with augment.classes, or train on more rows of it",
        )
    if not any(counts):
        level = max(category.everywhere) if asked.to is None else asked.to
        raise RaygenError(f"every {condition} has {level} rows already: there is nothing to make", "raise augment.to")
    return counts


def _folder(value: Any) -> str:
    """A value as Hive writes it in the name of a folder."""
    if value is None:
        return "__HIVE_DEFAULT_PARTITION__"
    return quote(str(value).lower() if isinstance(value, bool) else str(value), safe=" ")


def splits(fragments: Iterable[Fragment], rows: int) -> Iterator[tuple[Split, range]]:
    """Cut a source where it is cheap to read: row groups of a file together, as far as they have at most ``rows`` rows;
    a larger row group in even pieces, but not in very many."""
    open_: Fragment | None = None
    last, taken = 0, 0
    for fragment in fragments:
        if open_ and (fragment.file != open_.file or taken + fragment.rows > rows):
            yield Split(open_.file, open_.row_group, last, 0, open_.start), range(open_.offset, open_.offset + taken)
            open_ = None
        if fragment.rows > rows:
            piece = -(-fragment.rows // min(MOST_CUTS, -(-fragment.rows // rows)))
            for skip in range(0, fragment.rows, piece):
                size = min(piece, fragment.rows - skip)
                split = Split(fragment.file, fragment.row_group, fragment.row_group + 1, skip, fragment.start + skip)
                yield split, range(fragment.offset + skip, fragment.offset + skip + size)
        elif fragment.rows and open_ is None:
            open_, last, taken = fragment, fragment.row_group + 1, fragment.rows
        elif fragment.rows:
            last, taken = fragment.row_group + 1, taken + fragment.rows
    if open_:
        yield Split(open_.file, open_.row_group, last, 0, open_.start), range(open_.offset, open_.offset + taken)


def balanced(rows: int, training: Sequence[int]) -> tuple[int, ...]:
    """As many rows of each class that was trained on as of any other; what is left over goes to the first ones."""
    return proportional(rows, [min(count, 1) for count in training])


def filled_up(real: Sequence[int], to: int | None) -> tuple[int, ...]:
    """What each class lacks to have as many rows as the largest one, or as many as ``to``."""
    level = max(real) if to is None else to
    return tuple(max(0, level - count) for count in real)


def evened(rows: int, real: Sequence[int]) -> tuple[int, ...]:
    """At most so many rows, of the classes that have the fewest, so that those come up to one level."""
    seen = [count for count in real if count]
    level = bisect_right(range(max(seen) + rows + 1), rows, key=lambda to: sum(filled_up(seen, to))) - 1
    return tuple(max(0, level - count) if count else 0 for count in real)


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
