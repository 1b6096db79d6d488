"""Reading Parquet files: rows in tables of one size, in constant memory; what is wrong is named by file and row group."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raygen.datasets import parquet
from raygen.datasets.parquet import Fragment
from raygen.datasets.storage import Folder
from raygen.errors import DataError

ROWS = 100
GROUP = 20


def table() -> pa.Table:
    return pa.table({"data": [bytes([row]) * 20 for row in range(ROWS)], "note": [str(row) for row in range(ROWS)]})


def write(file: Path, rows: pa.Table, group: int = GROUP, checksums: bool = True, **options: Any) -> list[Fragment]:
    """The row groups of a file."""
    pq.write_table(rows, file, row_group_size=group, write_page_checksum=checksums, **options)
    return [
        Fragment(str(file), index, start, start, min(group, len(rows) - start))
        for index, start in enumerate(range(0, len(rows), group))
    ]


def test_data_pages_that_cannot_be_read_are_named_by_file_and_row_group(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    fragments = write(file, table(), checksums=False)
    start = pq.read_metadata(file).row_group(1).column(0).data_page_offset
    content = bytearray(file.read_bytes())
    content[start : start + 200] = b"\xff" * 200
    file.write_bytes(content)
    parquet.read_fragment(fragments[0], ["data"])
    with pytest.raises(DataError) as caught:
        parquet.read_fragment(fragments[1], ["data"])
    assert caught.value.what.startswith(f"{file}, row group 1: cannot be read (")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("compression", ["zstd", "snappy"])
def test_a_page_that_changed_is_found_where_the_file_has_checksums(compression: str, tmp_path: Path) -> None:
    """Compressed pages alone do not tell: some flipped bits decompress to other values."""
    rng = np.random.default_rng(0)
    wide = pa.table({"x": rng.normal(size=2000), "note": [str(row) for row in range(2000)]})
    file = tmp_path / "a.parquet"
    fragments = write(file, wide, 1000, compression=compression)
    content = file.read_bytes()
    column = pq.read_metadata(file).row_group(1).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    for position in rng.integers(start + 200, start + column.total_compressed_size, 20):
        spoilt = bytearray(content)
        spoilt[position] ^= 1 << int(rng.integers(8))
        file.write_bytes(spoilt)
        assert parquet.read_fragment(fragments[0]).equals(wide.slice(0, 1000))
        with pytest.raises(DataError) as caught:
            parquet.read_fragment(fragments[1])
        assert caught.value.what.startswith(f"{file}, row group 1: cannot be read (")
        with pytest.raises(DataError) as caught:
            list(parquet.read_rows(str(file), range(2), 0, 2000, 100))
        assert caught.value.what.startswith(f"{file}, row groups 0 to 1: cannot be read (")


@pytest.mark.parametrize("cut", [0, 3, 100, -20])
def test_a_file_that_is_cut_after_the_scan_is_named(cut: int, tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    fragments = write(file, table())
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"a\.parquet, row group 1: cannot be read \("):
        parquet.read_fragment(fragments[1])
    with pytest.raises(DataError, match=r"a\.parquet, row group 1: cannot be read \("):
        list(parquet.read_rows(str(file), range(1, 2), 0, 10, 10))
    file.unlink()
    with pytest.raises(DataError, match=r"a\.parquet, row group 1: cannot be read \(it is gone\)"):
        parquet.read_fragment(fragments[1])


@pytest.mark.parametrize("batch", [1, 7, 20, 33, 1000])
def test_rows_are_read_in_tables_of_one_size(batch: int, tmp_path: Path) -> None:
    whole, file = table(), str(tmp_path / "a.parquet")
    write(tmp_path / "a.parquet", whole)
    for groups, skip, rows in [
        (range(5), 0, 100),
        (range(5), 13, 60),
        (range(1, 3), 19, 2),
        (range(2, 3), 0, 20),
        (range(5), 3, 0),
    ]:
        tables = list(parquet.read_rows(file, groups, skip, rows, batch))
        assert [len(part) for part in tables] == [batch] * (rows // batch) + [rows % batch] * (rows % batch > 0)
        if rows:
            assert pa.concat_tables(tables).equals(whole.slice(groups[0] * 20 + skip, rows))
    with pytest.raises(DataError, match="row groups 1 to 2: has 40 rows, not 41"):
        list(parquet.read_rows(file, range(1, 3), 1, 40, batch))


def test_rows_are_read_in_constant_memory(tmp_path: Path) -> None:
    """A row group of 190 MB in pages of 1 MB takes less than half of that."""
    rng = np.random.default_rng(0)
    big = pa.table({"image": [rng.bytes(50_000) for _ in range(4000)]})
    pq.write_table(big, tmp_path / "a.parquet", use_dictionary=False, write_batch_size=16)
    done = subprocess.run(
        [sys.executable, "-c", STREAMING, str(tmp_path / "a.parquet")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 95 << 20


STREAMING = """
import sys, psutil
from raygen.datasets import parquet
process, peak = psutil.Process(), 0
before = process.memory_info().rss
for table in parquet.read_rows(sys.argv[1], range(1), 0, 4000, 32):
    peak = max(peak, process.memory_info().rss)
print(peak - before)
"""


@pytest.mark.parametrize("flipped", [0x01, 0x80, 0xFF])
def test_any_byte_of_a_footer(tmp_path: Path, flipped: int) -> None:
    """Whatever it becomes, the file can be read, or what is said names it."""
    file, rows = tmp_path / "a.parquet", pa.table({"bytes": [b"x"] * 20, "label": [f"a{row}" for row in range(20)]})
    fragments = write(file, rows, 12)
    whole, told = file.read_bytes(), 0
    for at in range(len(whole) - 8 - int.from_bytes(whole[-8:-4], "little"), len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ flipped]) + whole[at + 1 :])
        for read in (
            lambda: parquet.read_footer(Folder(tmp_path), file.name),
            lambda: [table.to_pylist() for table in parquet.read_rows(str(file), range(2), 0, 20, 16)],
            lambda: [parquet.read_fragment(fragment).schema.names for fragment in fragments],
        ):
            try:
                read()  # type: ignore[no-untyped-call]
            except DataError as error:
                told += error.what.startswith(str(file))
    assert told > 500


@pytest.mark.parametrize("cut", [slice(0, 0), slice(0, 12)], ids=["none", "some"])
def test_fewer_row_groups_than_there_were(tmp_path: Path, cut: slice) -> None:
    file, rows = tmp_path / "a.parquet", pa.table({"label": list(range(20))})
    pq.write_table(rows[cut], file)
    for groups in (range(2), range(1, 2), range(0)):
        with pytest.raises(DataError, match=r"a\.parquet, row groups? \S+( to \S+)?: "):
            list(parquet.read_rows(str(file), groups, 0, 20, 16))
