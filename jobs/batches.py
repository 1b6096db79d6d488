"""The training rows of an epoch, shuffled and in batches: this worker's share of them.

What a step sees follows from the seed, the epoch, the step and the number of workers, so that a run can go on at any step.
No row is left out: the last batch of an epoch is filled up with rows of its beginning. Rows are kept in memory where they
fit, and then the batch of a step is the same however many workers share it. Otherwise they are read again in every epoch,
row groups in a new order, and their rows mixed within windows.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from raygen.datasets import stream
from raygen.datasets.codec import Batch, Codec
from raygen.datasets.parquet import Fragment

WINDOW_ROWS, WINDOW_BYTES = 16_384, 1 << 27
"""At most so many rows, and bytes, among which streamed rows are mixed."""
PLACES = 64


class Share(NamedTuple):
    """Which of how many workers this is."""

    rank: int
    world: int

    def of(self, total: int) -> range:
        """Its part of so many things."""
        return range(total * self.rank // self.world, total * (self.rank + 1) // self.world)


class Rows(Protocol):
    """Training rows. A batch has the columns of the codec, encoded.

    Attributes:
        total: how many there are, for all workers.
    """

    total: int

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This worker's parts of the batches of an epoch, from step ``start`` on."""

    def once(self) -> Iterator[Batch]:
        """Each row of this worker's share once."""


@dataclass
class InMemory:
    """Rows that every worker can look at."""

    rows: Batch
    batch_size: int
    seed: int
    share: Share

    def __post_init__(self) -> None:
        self.total = len(next(iter(self.rows.values())))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = np.random.default_rng([self.seed, epoch]).permutation(self.total)
        mine = self.share.of(self.batch_size)
        for first in range(start * self.batch_size, self.total, self.batch_size):
            yield self._take(order[np.arange(first + mine.start, first + mine.stop) % self.total])

    def once(self) -> Iterator[Batch]:
        mine = self.share.of(self.batch_size)
        for first in range(0, self.total, self.batch_size):
            yield self._take(np.arange(first + mine.start, min(first + mine.stop, self.total)))

    def _take(self, chosen: np.ndarray) -> Batch:
        return {name: values[chosen] for name, values in self.rows.items()}


@dataclass
class Streamed:
    """Rows that are read whenever they are wanted. Where the number of workers changes within an epoch, what is left of it
    is another part of the rows: some are seen twice in it, and some not.

    Attributes:
        epochs: how many there will be: near the end of each but the last, the beginning of the next is read already.
    """

    reader: stream.Reader
    batch_size: int
    seed: int
    share: Share
    epochs: int = 0

    def __post_init__(self) -> None:
        self.parts = list(zip(self.reader.source.fragments, self.reader.counts(), strict=True))
        self.total = sum(rows for _, rows in self.parts)
        self.size = len(self.share.of(self.batch_size))
        self.window = max(self.size, min(WINDOW_ROWS, WINDOW_BYTES // row_bytes(self.reader.codec)))
        self.ahead: dict[tuple[int, int], Iterator[Batch]] = {}

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        following = (epoch + 1, 0)
        left = steps(self.total, self.batch_size) - start
        for batch in self.ahead.pop((epoch, start), None) or self._epoch(epoch, start):
            left -= 1
            if left * self.size <= self.window and epoch + 1 < self.epochs and following not in self.ahead:
                self.ahead = {following: _begun(self._epoch(*following))}
            yield batch

    def _epoch(self, epoch: int, start: int) -> Iterator[Batch]:
        random = np.random.default_rng([self.seed, epoch])
        parts = [self.parts[index] for index in random.permutation(len(self.parts))]
        mine = self.share.of(self.total)
        windows = [range(first, min(first + self.window, mine.stop)) for first in range(mine.start, mine.stop, self.window)]
        left = (steps(self.total, self.batch_size) - start) * self.size
        seen, ahead = start * self.size, cycle(windows)  # the beginning again is what fills up the last batch
        while seen >= len(window := next(ahead)):
            seen -= len(window)
        wanted = [window]
        while sum(map(len, wanted)) < seen + left:
            wanted.append(next(ahead))
        read = self.reader.read([piece for rows in _joined(wanted) for piece in pieces(parts, rows)])
        whole = _cut(read, map(len, wanted))
        mixed = (self._mix(rows, epoch, window.start) for rows, window in zip(whole, wanted, strict=True))
        yield from islice(_cut(mixed, [*([seen] if seen else []), *[self.size] * (left // self.size)]), int(seen > 0), None)

    def once(self) -> Iterator[Batch]:
        mine = self.share.of(self.total)
        sizes = [min(self.size, mine.stop - first) for first in range(mine.start, mine.stop, self.size)]
        yield from _cut(self.reader.read(pieces(self.parts, mine)), sizes)

    def _mix(self, rows: Batch, epoch: int, first: int) -> Batch:
        order = np.random.default_rng([self.seed, epoch, first]).permutation(len(next(iter(rows.values()))))
        return {name: values[order] for name, values in rows.items()}


def some(reader: stream.Reader, count: int, seed: int) -> Batch:
    """About so many rows, or all, in no order, from a few row groups: any of their rows, for data may be sorted."""
    random = np.random.default_rng(seed)
    rows = reader.joined(_some(reader, count, seed, random))
    order = random.permutation(_len(rows))
    return {name: values[order] for name, values in rows.items()}


def some_rows(reader: stream.Reader, count: int, seed: int) -> pa.Table:
    """The same of a table, as they are in the source."""
    random = np.random.default_rng(seed)
    rows = reader.plain(_some(reader, count, seed, random))
    return rows.take(pa.array(random.permutation(len(rows)))).combine_chunks()


def _some(reader: stream.Reader, count: int, seed: int, random: np.random.Generator) -> list[stream.Piece]:
    parts = [part for part in zip(reader.source.fragments, reader.counts(), strict=True) if part[1]]
    places = [parts[index] for index in sorted(random.permutation(len(parts))[:PLACES])]
    each = -(-count // max(1, len(places)))
    return [stream.Piece(fragment, 0, min(each, count), seed) for fragment, count in places]


def steps(rows: int, batch_size: int) -> int:
    """Of an epoch."""
    return -(-rows // batch_size)


def row_bytes(codec: Codec) -> int:
    """Of an encoded row in memory."""
    if codec.is_table:
        return 8 * len(codec.cells)
    _, image = codec.image
    return image.channels * image.height * image.width + 8 * len(codec.categories)


def pieces(parts: Iterable[tuple[Fragment, int]], rows: range) -> list[stream.Piece]:
    """Where some rows are: of all that row groups, in their order, have so many of."""
    found, first = [], 0
    for fragment, count in parts:
        start, stop = max(rows.start, first), min(rows.stop, first + count)
        if start < stop:
            found.append(stream.Piece(fragment, start - first, stop - start))
        first += count
    return found


def _joined(windows: Iterable[range]) -> list[range]:
    """Those that follow each other as one, so that a row group that has several is read once."""
    joined: list[range] = []
    for window in windows:
        if joined and joined[-1].stop == window.start:
            joined[-1] = range(joined[-1].start, window.stop)
        else:
            joined.append(window)
    return joined


def _begun(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same, the first of which is being made from now on, while something else is done."""
    thread = ThreadPoolExecutor(1)
    first = thread.submit(next, batches)
    thread.shutdown(wait=False)

    def whole() -> Iterator[Batch]:
        yield first.result()
        yield from batches

    return whole()


def _cut(batches: Iterable[Batch], sizes: Iterable[int]) -> Iterator[Batch]:
    """The same rows in batches of other sizes."""
    source = iter(batches)
    kept: list[Batch] = []
    for size in sizes:
        while sum(map(_len, kept)) < size:
            kept.append(next(source))
        rows = kept[0] if len(kept) == 1 else {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
        yield {name: values[:size] for name, values in rows.items()}
        kept = [{name: values[size:] for name, values in rows.items()}]


def _len(batch: Batch) -> int:
    return len(next(iter(batch.values())))
