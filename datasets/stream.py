"""Reading Parquet with Ray Data: a source is opened from its footers; fitting and encoding are passes over it."""

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raygen.datasets import columns, samples, schema
from raygen.datasets.codec import Batch, Codec
from raygen.datasets.storage import Folder
from raygen.errors import DataError, RaygenError
from raygen.spec import DatasetSpec

ROW = "_row"
"""The column that carries a row's address."""


class Fragment(NamedTuple):
    """A row group of a file. ``start`` is its first row in the file, ``offset`` its first row in the whole source."""

    file: str
    row_group: int
    start: int
    offset: int
    rows: int


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
    uri = samples.materialize(path, storage / "samples") if path.startswith(samples.PREFIX) else path
    place = Folder(uri)
    fs = place.fs
    try:
        if any(character in place.path for character in "*?[") and not fs.exists(place.path):
            found = sorted(fs.glob(place.path))
            root = place.path.split("*")[0].split("?")[0].split("[")[0].rpartition("/")[0]
        elif fs.isfile(place.path):
            found, root = [place.path], place.path.rpartition("/")[0]
        elif fs.isdir(place.path):
            root = place.path
            found = sorted(file for file in fs.find(place.path) if _is_data(file.removeprefix(root)))
        else:
            raise DataError(f"{path}: there is no such file or folder", "check dataset.path")
    except OSError as error:
        raise DataError(f"{path}: cannot be listed ({error})", "check dataset.path and its permissions") from None
    if not found:
        raise DataError(f"{path}: there is no Parquet file", "the names of Parquet files end in .parquet")
    files = tuple(fs.unstrip_protocol(file) if place.local is None else str(file) for file in found)
    with ThreadPoolExecutor(16) as threads:
        footers = list(threads.map(_footer, files))
    arrow = schema.with_known_types(footers[0].schema.to_arrow_schema)
    root = root if place.local is not None else fs.unstrip_protocol(root)
    for file, footer in zip(files, footers, strict=True):
        _same_columns(files[0], arrow, file, footer.schema.to_arrow_schema())
    sample = path.startswith(samples.PREFIX)  # the same wherever and whenever it was written
    identity = [
        (file.removeprefix(root), info["size"], path if sample else str(info.get("ETag") or info.get("mtime")))
        for file, info in zip(files, map(fs.info, found), strict=True)
    ]
    fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return Source(root, files, arrow, tuple(_fragments(files, footers)), fingerprint)


def head(source: Source, rows: int) -> pa.Table:
    """The first rows, for a look at them."""
    first = next((fragment for fragment in source.fragments if fragment.rows), None)
    return (_read(first, None) if first else source.arrow.empty_table()).slice(0, rows)


def holdout_mask(name: str, rows: np.ndarray, share: float) -> np.ndarray:
    """Which rows of a file are held out: a hash of the row's address, so that neither order nor workers matter.

    Args:
        name: the file, relative to the root of the source.
        rows: row numbers in that file.
        share: of the rows to hold out.

    Returns:
        bool, ``(n,)``. The hash is SplitMix64's finalizer (Steele et al. 2014) over the name's digest plus the row.
    """
    base = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    x = np.asarray(rows, np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(base)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53 < share


def fit(source: Source, spec: DatasetSpec) -> Codec:
    """Fit the codec in one pass over the category columns."""
    names = [name for name, field in spec.fields.items() if field.kind == "category"]
    everywhere: dict[str, set[columns.Value]] = {name: set() for name in names}
    training: dict[str, Counter[columns.Value]] = {name: Counter() for name in names}
    if names:
        for row in _pass(source, _Count(source.root, names, spec.holdout)):
            for name, pairs in json.loads(row["counts"]).items():
                everywhere[name].update(value for value, _ in pairs)
                training[name].update({value: n for value, n in pairs if n})
    categories = {name: columns.fit(everywhere[name], training[name]) for name in names}
    for name, category in categories.items():
        if len(category.values) > schema.MAX_CATEGORIES:
            raise DataError(
                f"column {name!r} has {len(category.values)} distinct values, too many for a category",
                f"leave it out of dataset.schema; a category has at most {schema.MAX_CATEGORIES}",
            )
    return Codec.of(spec.fields, source.arrow, categories)


def load(source: Source, codec: Codec, holdout: float) -> tuple[Batch, Batch]:
    """Encode the whole source in one pass.

    Returns:
        Training rows and held-out rows, each in the order of the source, with the column ``_row``: the row's number
        in the source.

    Raises:
        DataError: a row cannot be read; its file and row are named.
    """
    parts: list[Batch] = list(_pass(source, _Encode(source.root, codec, holdout), batches=True))
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(whole[ROW])  # blocks arrive in any order
    held = whole.pop("_holdout")[order]
    rows = {name: values[order] for name, values in whole.items()}
    return {n: v[~held] for n, v in rows.items()}, {n: v[held] for n, v in rows.items()}


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Raise the RaygenError that a task, an actor or a training worker raised, without what Ray wraps around it."""
    try:
        yield
    except Exception as error:
        found = _buried(error)
        if found is None or found is error:
            raise
        raise type(found)(found.what, found.hint) from None


def _buried(error: BaseException | None, depth: int = 0) -> RaygenError | None:
    if isinstance(error, RaygenError) and not hasattr(error, "cause"):  # Ray's own errors take on the class of their cause
        return error
    if error is None or depth > 8:
        return None
    inner = [getattr(error, "cause", None), error.__cause__, error.__context__]
    inner += list(getattr(error, "worker_failures", {}).values())
    return next((found for e in inner if isinstance(e, BaseException) and (found := _buried(e, depth + 1))), None)


class _Count:
    """Counts the values of category columns: all, and those of training rows."""

    def __init__(self, root: str, names: Sequence[str], holdout: float) -> None:
        self.root, self.names, self.holdout = root, list(names), holdout

    def __call__(self, items: dict[str, Any]) -> dict[str, Any]:
        lines = []
        for fragment in _items(items):
            table = _read(fragment, self.names)
            train = ~_mask(self.root, fragment, self.holdout)
            counts = {}
            for name in self.names:
                column = table[name].combine_chunks()
                of_training = columns.count(column.filter(pa.array(train)))
                counts[name] = [(value, of_training[value]) for value in columns.count(column)]
            lines.append(json.dumps(counts))
        return {"counts": lines}


class _Encode:
    """Encodes fragments, with the address of every row and whether it is held out."""

    def __init__(self, root: str, codec: Codec, holdout: float) -> None:
        self.root, self.codec, self.holdout = root, codec, holdout

    def __call__(self, items: dict[str, Any]) -> Batch:
        parts = []
        for fragment in _items(items):
            table = _read(fragment, list(self.codec.fields))
            batch = self.codec.encode(table, lambda row, f=fragment: f"{f.file}, row {f.start + row}")  # type: ignore[misc]
            batch[ROW] = np.arange(fragment.offset, fragment.offset + fragment.rows)
            batch["_holdout"] = _mask(self.root, fragment, self.holdout)
            parts.append(batch)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _pass(source: Source, work: Any, batches: bool = False) -> Iterator[Any]:
    """Run work over all fragments; the fragments are in-memory items, so no read task waits for a free CPU."""
    import ray.data

    items = [fragment._asdict() for fragment in source.fragments if fragment.rows]
    with user_errors():
        dataset = ray.data.from_items(items, override_num_blocks=min(len(items), 1000)).map_batches(work, batch_size=1)
        yield from dataset.iter_batches(batch_size=None, batch_format="numpy") if batches else dataset.iter_rows()


def _items(items: dict[str, Any]) -> Iterator[Fragment]:
    for values in zip(*(items[name] for name in Fragment._fields), strict=True):
        file, *numbers = values
        yield Fragment(str(file), *map(int, numbers))


def _mask(root: str, fragment: Fragment, share: float) -> np.ndarray:
    rows = np.arange(fragment.start, fragment.start + fragment.rows)
    return holdout_mask(fragment.file.removeprefix(root).lstrip("/"), rows, share)


def _is_data(name: str) -> bool:
    """Folders and files whose names start with ``_`` or ``.`` are bookkeeping, as everywhere in this field."""
    return name.endswith((".parquet", ".pq")) and not any(part.startswith(("_", ".")) for part in name.split("/"))


def _footer(file: str) -> pq.FileMetaData:
    place = Folder(file)
    try:
        with place.reader("") as handle:
            return pq.read_metadata(handle)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{file}: is not a readable Parquet file ({reason})", "write it again, or remove it") from None


def _fragments(files: Sequence[str], footers: Sequence[pq.FileMetaData]) -> Iterator[Fragment]:
    offset = 0
    for file, footer in zip(files, footers, strict=True):
        start = 0
        for index in range(footer.num_row_groups):
            rows = footer.row_group(index).num_rows
            yield Fragment(file, index, start, offset, rows)
            start += rows
            offset += rows


def _read(fragment: Fragment, names: list[str] | None) -> pa.Table:
    place = Folder(fragment.file)
    try:
        with place.reader("") as handle:
            return pq.ParquetFile(handle).read_row_group(fragment.row_group, columns=names)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{fragment.file}, row group {fragment.row_group}: cannot be read ({reason})",
            "write the file again, or remove it",
        ) from None


def _same_columns(first: str, expected: pa.Schema, file: str, found: pa.Schema) -> None:
    if found.equals(expected):
        return
    difference = sorted(set(map(str, expected)) ^ set(map(str, found)))
    raise DataError(
        f"{file}: its columns differ from those of {first} ({'; '.join(difference) or 'their order'})",
        "give one schema to all files of the dataset",
    )
