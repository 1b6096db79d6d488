"""Reading Parquet with Ray Data: a source is opened from its footers; fitting and encoding are passes over it."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raygen.datasets import samples, schema
from raygen.datasets.codec import ROW as ROW
from raygen.datasets.codec import Batch, Codec
from raygen.datasets.hashes import Hashes, of_addresses
from raygen.datasets.parquet import Fragment, read_footer, read_fragment, read_rows
from raygen.datasets.statistics import Statistics
from raygen.datasets.storage import Folder
from raygen.errors import DataError, RaygenError
from raygen.spec import DatasetSpec

SHOWN = 8
"""Columns that an error about a schema names at most."""
ROWS_AT_ONCE = 1024
BLOCK = 1 << 24
"""Bytes of encoded rows that are handed on at a time."""
ROWS_SUMMARIZED = 1 << 16
LOOKED_INTO = 8
"""Row groups that are read for a look at a table."""


class Piece(NamedTuple):
    """Some rows of one side of the holdout in a row group: ``take`` of them, after the first ``skip``; or as many of all of
    them, drawn by a seed of 0 or more."""

    fragment: Fragment
    skip: int
    take: int
    seed: int = -1


@dataclass(frozen=True)
class Source:
    """A Parquet dataset, as its footers describe it.

    Attributes:
        root: what file names are relative to, so that moving the data changes no split.
        files: URIs, sorted.
        fingerprint: SHA-256 over names, sizes and versions (ETag or modification time) of the files.
    """

    root: str
    files: tuple[str, ...]
    arrow: pa.Schema
    fragments: tuple[Fragment, ...]
    fingerprint: str

    @property
    def rows(self) -> int:
        return sum(fragment.rows for fragment in self.fragments)


def open_source(spec: DatasetSpec, storage: Folder) -> Source:
    """Find the files and read their footers.

    Raises:
        DataError: nothing is there, a file cannot be read, files differ in schema, or there is no row.
    """
    source = scan(spec.path, storage)
    schema.check(spec.fields, source.arrow, source.files[0])
    if not source.rows:
        raise DataError(f"{spec.path}: the dataset has no rows", "point dataset.path at Parquet with rows")
    return source


def scan(path: str, storage: Folder) -> Source:
    """The source at a path (file, folder, glob, URI, or ``sample:NAME``), whatever its columns are."""
    sample = path.startswith(samples.PREFIX)  # the same wherever and whenever it was written
    place = Folder(samples.materialize(path, storage / "samples") if sample else path)
    try:
        folder, found = place.find()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file or folder", "check dataset.path") from None
    names = sorted(found if folder is not place else filter(_is_data, found))
    if not names:
        raise DataError(f"{path}: there is no Parquet file", "the names of Parquet files end in .parquet")
    if odd := [name for name in names if name != name.encode(errors="replace").decode()]:
        raise DataError(f"{path}: has a file whose name is not UTF-8 ({odd[0]!r})", "rename it")
    root = (folder.uri if folder.local is None else str(folder.local)).rstrip("/")
    files = tuple(f"{root}/{name}" for name in names)
    with ThreadPoolExecutor(16) as threads:
        footers = list(threads.map(lambda name: read_footer(folder, name), names))
    arrow = schema.with_known_types(footers[0].schema.to_arrow_schema)
    for file, footer in zip(files, footers, strict=True):
        _same_columns(files[0], arrow, file, footer.schema.to_arrow_schema())
    identity = [(f"/{name}", found[name].bytes, path if sample else found[name].version) for name in names]
    fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return Source(root, files, arrow, tuple(_fragments(files, footers)), fingerprint)


def head(source: Source, rows: int) -> pa.Table:
    """The first rows, for a look at them."""
    first = next((fragment for fragment in source.fragments if fragment.rows), None)
    return (read_fragment(first) if first else source.arrow.empty_table()).slice(0, rows)


def spread(source: Source, rows: int) -> pa.Table:
    """At most so many rows, evenly from all over some row groups, in order: the first rows of data that is sorted, as by
    date, are too much alike to tell what its columns hold. Tables only: whole row groups are read."""
    there = [fragment for fragment in source.fragments if fragment.rows]
    chosen = there
    if len(there) > LOOKED_INTO:
        chosen = [there[n * (len(there) - 1) // (LOOKED_INTO - 1)] for n in range(LOOKED_INTO)]
    parts = [source.arrow.empty_table()]
    for fragment in chosen:
        every, start, group = -(-fragment.rows * len(chosen) // rows), 0, fragment.row_group
        for table in read_rows(fragment.file, range(group, group + 1), 0, fragment.rows, ROWS_SUMMARIZED):
            parts.append(table.take(pa.array(np.arange(-start % every, len(table), every))))
            start += len(table)
    return pa.concat_tables(parts).combine_chunks()


def holdout_mask(name: str, rows: np.ndarray, share: float) -> np.ndarray:
    """Which rows of a file are held out: a hash of the row's address, so that neither order nor workers matter.

    Args:
        name: the file, relative to the root of the source.
        rows: row numbers in that file.
        share: of the rows to hold out.

    Returns:
        bool, ``(n,)``.
    """
    return held_out(of_addresses(name, rows), share)


def held_out(hashes: Hashes, share: float) -> np.ndarray:
    """Which rows are, by the hashes of their addresses, whose eleven lowest bits decide nothing: bool, ``(n,)``."""
    return np.asarray((hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53 < share)


def hashes(source: Source, fragment: Fragment) -> Hashes:
    """Of the addresses of the rows of a row group."""
    return _hashes(source.root, fragment)


def fit(source: Source, spec: DatasetSpec) -> Codec:
    """Fit the codec in one pass over the columns that are not images.

    Raises:
        DataError: a column is not what its field says.
    """
    found = Statistics(spec.fields)
    if found.columns:
        for row in _pass(source, _Summarize(source.root, spec)):
            found.merge(json.loads(row["statistics"]))
    return found.codec(source.arrow)


def load(source: Source, codec: Codec, holdout: float) -> tuple[Batch, Batch]:
    """Encode the whole source.

    Returns:
        Training rows and held-out rows, each in the order of the source, with the column ``_row``: the row's number
        in the source.

    Raises:
        DataError: a row cannot be read; its file and row are named.
    """
    train, held = (Reader(source, codec, holdout, side).everything() for side in (False, True))
    return train, held


@dataclass(frozen=True)
class Reader:
    """Reads the rows of one side of the holdout, a piece at a time: neither the source nor a row group has to fit in memory.

    Attributes:
        held: which side: held-out rows, or training rows.
    """

    source: Source
    codec: Codec
    holdout: float
    held: bool = False

    def counts(self) -> list[int]:
        """How many of those rows each row group has; nothing is read for it."""
        return [int(self._mask(fragment).sum()) for fragment in self.source.fragments]

    def read(self, pieces: Sequence[Piece]) -> Iterator[Batch]:
        """The rows of pieces, encoded, in their order, with the column ``_row``: the row's number in the source.

        Raises:
            DataError: a row cannot be read; its file and row are named.
        """
        import ray.data

        if not pieces:
            return
        items = [{**fragment._asdict(), "skip": skip, "take": take, "seed": seed} for fragment, skip, take, seed in pieces]
        dataset = ray.data.from_items(items, override_num_blocks=min(len(items), 1000))
        dataset.context.execution_options.preserve_order = True
        dataset.context.target_max_block_size = BLOCK  # the first rows of a large piece are there before the last are read
        with user_errors():
            read = dataset.map_batches(self._encode, batch_size=1, **_by_tasks())
            yield from read.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2)

    def joined(self, pieces: Sequence[Piece]) -> Batch:
        """The rows of pieces as one batch, each of which is let go once it is there: memory is for little more than it."""
        rows, there = sum(piece.take for piece in pieces), 0
        whole: Batch = {}
        for part in self.read(pieces):
            start, there = there, there + len(part[ROW])
            for name, values in part.items():
                if name not in whole:
                    whole[name] = np.empty((rows, *values.shape[1:]), values.dtype)
                whole[name][start:there] = values
        return whole or {**self.codec.encode(self.codec.arrow.empty_table()), ROW: np.arange(0)}

    def everything(self) -> Batch:
        """All of those rows."""
        whole = zip(self.source.fragments, self.counts(), strict=True)
        return self.joined([Piece(fragment, 0, rows) for fragment, rows in whole if rows])

    def plain(self, pieces: Sequence[Piece]) -> pa.Table:
        """The rows of pieces as the source has them, read in this process: the columns of a table that are learnt."""
        found = (table for piece in pieces for table, _ in self._rows(piece))
        none = pa.schema([self.source.arrow.field(name) for name in self._names]).empty_table()
        return pa.concat_tables([none, *found])

    def _encode(self, items: dict[str, Any]) -> Iterator[Batch]:
        wanted = zip(fragments(items), items["skip"], items["take"], items["seed"], strict=True)
        for piece in map(Piece._make, wanted):
            for table, rows in self._rows(piece):
                where = partial(_place, piece.fragment, rows)
                yield {**self.codec.encode(table, where), ROW: piece.fragment.offset + rows}

    def _rows(self, piece: Piece) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """The rows of a piece, some at a time, and their numbers in their row group."""
        fragment, skip, take, seed = piece
        chosen = np.flatnonzero(self._mask(fragment))
        if seed < 0:
            chosen = chosen[skip : skip + take]
        else:
            chosen = np.sort(np.random.default_rng(seed).choice(chosen, take, replace=False))
        first, stop, group = int(chosen[0]), int(chosen[-1]) + 1, fragment.row_group
        for table in read_rows(fragment.file, range(group, group + 1), first, stop - first, ROWS_AT_ONCE, self._names):
            rows = chosen[(chosen >= first) & (chosen < first + len(table))]
            first, at = first + len(table), rows - first
            if len(rows):
                yield table.take(pa.array(at)), rows

    @property
    def _names(self) -> list[str]:
        return list(self.codec.cells if self.codec.is_table else self.codec.fields)

    def _mask(self, fragment: Fragment) -> np.ndarray:
        mask = _mask(self.source.root, fragment, self.holdout)
        return mask if self.held else ~mask


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Raise the RaygenError that a task, an actor or a training worker raised, without what Ray wraps around it."""
    try:
        yield
    except Exception as error:
        found = user_error(error)
        if found is None or found is error:
            raise
        raise type(found)(found.what, found.hint) from None


def user_error(error: BaseException | None, depth: int = 0) -> RaygenError | None:
    """The RaygenError that is in what Ray raises, if there is one."""
    if isinstance(error, RaygenError) and not hasattr(error, "cause"):  # Ray's own errors take on the class of their cause
        return error
    if error is None or depth > 8:
        return None
    inner = [getattr(error, "cause", None), error.__cause__, error.__context__]
    inner += list(getattr(error, "worker_failures", {}).values())
    return next((found for e in inner if isinstance(e, BaseException) and (found := user_error(e, depth + 1))), None)


def _place(fragment: Fragment, rows: np.ndarray, row: int) -> str:
    """Names one of some rows of a row group in errors."""
    return f"{fragment.file}, row {fragment.start + rows[row]}"


class _Summarize:
    """The statistics of a row group, read in pieces, so that row groups can be of any size."""

    def __init__(self, root: str, spec: DatasetSpec) -> None:
        self.root, self.spec = root, spec

    def __call__(self, items: dict[str, Any]) -> dict[str, Any]:
        lines = []
        for fragment in fragments(items):
            found, group, start = Statistics(self.spec.fields), fragment.row_group, 0
            train = ~_mask(self.root, fragment, self.spec.holdout)
            names = list(found.columns)
            for table in read_rows(fragment.file, range(group, group + 1), 0, fragment.rows, ROWS_SUMMARIZED, names):
                found.add(table, train[start : start + len(table)])
                start += len(table)
            lines.append(json.dumps(found.to_json()))
        return {"statistics": lines}


_confined = 0


@contextlib.contextmanager
def confined(tasks: int) -> Iterator[None]:
    """While the block runs, what this process reads is read on its node by at most so many tasks, which reserve nothing: by
    a worker that holds CPUs, which could be all that there are. With 0, reading takes any CPUs that are free, as otherwise.
    """
    global _confined
    before, _confined = _confined, tasks
    try:
        yield
    finally:
        _confined = before


def _by_tasks() -> dict[str, Any]:
    """How Ray Data is to read."""
    import ray.data

    if not _confined:
        return {"num_cpus": 1}
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    return {"num_cpus": 0, "compute": ray.data.TaskPoolStrategy(size=_confined), "label_selector": here}


def _pass(source: Source, work: Any) -> Iterator[Any]:
    """Run work over all fragments, in their order; they are in-memory items, so no read task waits for a free CPU."""
    import ray.data

    items = [fragment._asdict() for fragment in source.fragments if fragment.rows]
    dataset = ray.data.from_items(items, override_num_blocks=min(len(items), 1000))
    dataset.context.execution_options.preserve_order = True
    with user_errors():
        yield from dataset.map_batches(work, batch_size=1, **_by_tasks()).iter_rows()


def fragments(items: dict[str, Any]) -> Iterator[Fragment]:
    """Row groups as a task of Ray Data gets them, that were items of a dataset."""
    for values in zip(*(items[name] for name in Fragment._fields), strict=True):
        file, *numbers = values
        yield Fragment(str(file), *map(int, numbers))


def _mask(root: str, fragment: Fragment, share: float) -> np.ndarray:
    return held_out(_hashes(root, fragment), share)


def _hashes(root: str, fragment: Fragment) -> Hashes:
    rows = np.arange(fragment.start, fragment.start + fragment.rows)
    return of_addresses(fragment.file.removeprefix(root).lstrip("/"), rows)


def _is_data(name: str) -> bool:
    """Folders and files whose names start with ``_`` or ``.`` are bookkeeping, as everywhere in this field."""
    return name.endswith((".parquet", ".pq")) and not any(part.startswith(("_", ".")) for part in name.split("/"))


def holds(path: str, folder: Folder) -> bool:
    """Whether Parquet that is written to a folder would be read with the source at a path."""
    if path.startswith(samples.PREFIX):
        return False
    place = Folder(path.partition("**")[0] or ".")
    here, there = (str(it.local.resolve()) if it.local else it.uri for it in (place, folder))
    below = there.removeprefix(here.rstrip("/") + "/")
    return below != there and _is_data(f"{below}/data.parquet")


def _fragments(files: Sequence[str], footers: Sequence[pq.FileMetaData]) -> Iterator[Fragment]:
    offset = 0
    for file, footer in zip(files, footers, strict=True):
        start = 0
        for index in range(footer.num_row_groups):
            rows = footer.row_group(index).num_rows
            yield Fragment(file, index, start, offset, rows)
            start += rows
            offset += rows


def _same_columns(first: str, expected: pa.Schema, file: str, found: pa.Schema) -> None:
    if found.equals(expected):
        return
    here, there = (list(map(_column, arrow)) for arrow in (found, expected))
    unlike = set(here) ^ set(there)
    raise DataError(
        f"{file}: its columns ({_listed(here, unlike)}) differ from those of {first} ({_listed(there, unlike)})",
        "give one schema to all files of the dataset, with the columns in one order",
    )


def _column(field: pa.Field) -> str:
    return f"{field.name}: {field.type}{'' if field.nullable else ' not null'}"


def _listed(lines: list[str], unlike: set[str]) -> str:
    """All of a few columns, else those that are unlike and some more."""
    chosen = sorted(range(len(lines)), key=lambda index: lines[index] not in unlike)[:SHOWN]
    more = [] if len(lines) <= SHOWN else [f"… of {len(lines)}"]
    return ", ".join([lines[index] for index in sorted(chosen)] + more)
