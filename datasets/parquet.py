"""Reading a Parquet file: its footer, a row group, or rows of some in constant memory. What is wrong names the file."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from raygen.datasets.storage import Folder
from raygen.errors import DataError

PAGES = 1 << 20
"""Bytes of a column's pages that are read at a time where rows are streamed."""


class Fragment(NamedTuple):
    """A row group of a file. ``start`` is its first row in the file, ``offset`` its first row in the whole source."""

    file: str
    row_group: int
    start: int
    offset: int
    rows: int


def read_footer(folder: Folder, name: str) -> pq.FileMetaData:
    """What the footer of a file says, all of which can be read.

    Raises:
        DataError: it cannot, or does not add up.
    """
    where = folder.uri if folder.local is None else folder.local
    with _opened(folder, name, f"{where}/{name}: is not a readable Parquet file") as handle:
        found = pq.read_metadata(handle)
        _shown(found.schema.to_arrow_schema())
        rows = [found.row_group(index).num_rows for index in range(found.num_row_groups)]
        if found.num_rows != sum(rows) or any(count < 0 for count in rows):
            raise pa.ArrowInvalid(f"{found.num_rows} rows, in row groups of {rows}")
        return found


def read_fragment(fragment: Fragment, names: list[str] | None = None) -> pa.Table:
    """The rows of a row group, with all columns or those of some names.

    Raises:
        DataError: they cannot be read, or are not as many as they were.
    """
    what = f"{fragment.file}, row group {fragment.row_group}: cannot be read"
    with _opened(Folder(fragment.file), "", what) as handle:
        parquet = pq.ParquetFile(handle, pre_buffer=True, page_checksum_verification=True)
        table = parquet.read_row_group(fragment.row_group, columns=names)
        _shown(table.schema)
        if len(table) != fragment.rows:
            raise pa.ArrowInvalid(f"{len(table)} rows, not {fragment.rows}")
        return table


def read_rows(
    file: str, row_groups: range, skip: int, rows: int, batch_rows: int, names: list[str] | None = None
) -> Iterator[pa.Table]:
    """Rows [skip, skip + rows) of some consecutive row groups of a file, with all columns or those of some names.

    Memory does not grow with row groups: it holds a piece of the pages of each column, and a table or two.

    Yields:
        Tables of ``batch_rows`` rows; the last one may have fewer.

    Raises:
        DataError: the row groups cannot be read, or have not got these rows.
    """
    first, last = row_groups.start, max(row_groups.start, row_groups.stop - 1)
    what = f"{file}, row group {first}" if first == last else f"{file}, row groups {first} to {last}"
    with _opened(Folder(file), "", f"{what}: cannot be read") as handle:
        parquet = pq.ParquetFile(handle, buffer_size=PAGES, pre_buffer=False, page_checksum_verification=True)
        _shown(parquet.schema_arrow)
        there = sum(parquet.metadata.row_group(index).num_rows for index in row_groups)
        if there < skip + rows:
            raise DataError(f"{what}: has {there} rows, not {skip + rows}", "do not change a dataset while it is read")
        batches = parquet.iter_batches(batch_rows, row_groups=list(row_groups), columns=names)
        yield from _tables(batches, skip, rows, batch_rows)


def _tables(batches: Iterable[pa.RecordBatch], skip: int, rows: int, size: int) -> Iterator[pa.Table]:
    """Cut batches, whose ends are those of pages and row groups, into tables of one size."""
    kept: list[pa.RecordBatch] = []
    for batch in batches:
        skip, batch = max(skip - len(batch), 0), batch.slice(skip)
        while rows and len(batch):
            wanted = min(size, rows)
            piece = batch.slice(0, wanted - sum(map(len, kept)))
            batch = batch.slice(len(piece))
            kept.append(piece)
            if sum(map(len, kept)) == wanted:
                yield pa.Table.from_batches(kept)
                kept, rows = [], rows - wanted
        if not rows:
            return
    raise pa.ArrowInvalid("there are fewer rows than the footer says")


@contextlib.contextmanager
def _opened(folder: Folder, name: str, what: str) -> Iterator[BinaryIO]:
    """A file for the length of the block. What Arrow says of its content there is a DataError; what the storage says has
    become an OutputError already."""
    try:
        with folder.reader(name) as handle:
            try:
                yield handle
            except (pa.ArrowException, OSError, ValueError, LookupError, MemoryError, OverflowError) as error:
                if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
                    raise  # the storage: Arrow's have no number
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                raise DataError(f"{what} ({reason})", "write the file again, or remove it") from None
    except FileNotFoundError:
        raise DataError(f"{what} (it is gone)", "do not change a dataset while it is read") from None


def _shown(arrow: pa.Schema) -> None:
    """Fail where the names or types are not what they were: Arrow decodes them when they are looked at."""
    for field in arrow:
        str(field)
