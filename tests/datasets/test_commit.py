"""An output belongs to one plan, a part counts when all its bytes are there, and the manifest comes last."""

import hashlib
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raygen.datasets.commit import Output, Receipt, chunks
from raygen.datasets.storage import Folder
from raygen.errors import OutputError

PLAN = {"generator": "abc", "rows": 10, "seed": 7, "shards": 3}
FILES = [f"part-{shard:05d}-of-00003.parquet" for shard in range(3)]
RANGES = [range(4), range(4, 8), range(8, 10)]


@pytest.fixture(params=["local", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Output:
    return Output(Folder(tmp_path / "out" if request.param == "local" else f"memory://{uuid4().hex}/out"))


def table(rows: range) -> pa.Table:
    return pa.table(
        {"label": pa.array(["a" if row % 3 else None for row in rows], "string"), "_row": pa.array(rows, pa.int64())}
    )


def write(output: Output, shard: int) -> None:
    tables = (table(rows) for rows in chunks(RANGES[shard], 3))
    output.write_part(shard, FILES[shard], RANGES[shard], tables, {"raygen.seed": "7"}, "label")


def written(output: Output) -> Output:
    output.claim(PLAN)
    for shard in (2, 0, 1):
        write(output, shard)
    return output


def receipt(output: Output, shard: int) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(output.receipts.read(f"{shard:05d}.json"))
    return document


def test_claim_once_and_again(output: Output) -> None:
    assert output.plan() is None
    assert not output.check(PLAN)
    assert not output.folder.exists()  # asking claims nothing
    output.claim(PLAN)
    output.claim(PLAN)
    assert output.check(PLAN)
    assert output.plan() == PLAN


def test_another_plan_is_refused_and_both_values_are_shown(output: Output) -> None:
    output.claim(PLAN)
    other = {**PLAN, "seed": 8, "generator": "x" * 64, "new": [1]}
    for act in (output.check, output.claim):
        with pytest.raises(OutputError) as caught:
            act(other)
        assert caught.value.what.startswith(f"{output.folder.uri}: belongs to another job (")
        assert "seed 7 there, 8 here" in caught.value.what
        assert 'generator "abc" there, "xxxxxxxxxxxxxxxxxxx… here' in caught.value.what  # digests are long
        assert "new null there, [1] here" in caught.value.what
        assert "rows" not in caught.value.what
    assert output.plan() == PLAN


def test_who_is_late_by_a_moment_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, create = Output(Folder(tmp_path)), Folder.create

    def faster(self: Folder, name: str, data: bytes) -> bool:
        create(self, name, json.dumps({**PLAN, "seed": 8}).encode())
        return create(self, name, data)

    monkeypatch.setattr(Folder, "create", faster)
    with pytest.raises(OutputError, match="seed 8 there, 7 here"):
        output.claim(PLAN)


def test_files_that_are_not_raygens_are_left_alone(output: Output) -> None:
    output.folder.write("thesis.docx", b"years of work")
    for act in (output.check, output.claim):
        with pytest.raises(OutputError, match=r"has files that raygen did not write \(thesis.docx"):
            act(PLAN)
    with pytest.raises(OutputError, match="did not write"):
        output.plan()
    assert output.folder.names() == ["thesis.docx"]


def test_a_plan_that_is_no_plan_any_more(output: Output) -> None:
    output.meta.write("plan.json", b"{")
    with pytest.raises(OutputError, match=r"plan.json: is not JSON any more"):
        output.check(PLAN)


def test_a_part_and_its_receipt(output: Output) -> None:
    output.claim(PLAN)
    write(output, 0)
    data = output.data.read(FILES[0])
    assert receipt(output, 0) == {
        "shard": 0,
        "file": FILES[0],
        "start": 0,
        "stop": 4,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "counts": {"null": 2, '"a"': 2},
    }
    read = pq.ParquetFile(pa.BufferReader(data))
    assert read.read().equals(table(range(4)))
    assert [read.metadata.row_group(group).num_rows for group in range(read.num_row_groups)] == [3, 1]
    assert read.schema_arrow.metadata[b"raygen.seed"] == b"7"
    assert output.done() == {0: Receipt(**receipt(output, 0))}


def test_a_part_written_twice_is_the_same_bytes(output: Output) -> None:
    output.claim(PLAN)
    write(output, 1)
    first, said = output.data.read(FILES[1]), receipt(output, 1)
    write(output, 1)
    assert output.data.read(FILES[1]) == first
    assert receipt(output, 1) == said
    assert output.data.names() == [FILES[1]]


def test_a_part_that_breaks_leaves_no_part_and_no_receipt(output: Output) -> None:
    def tables() -> Any:
        yield table(range(3))
        raise ZeroDivisionError

    output.claim(PLAN)
    with pytest.raises(ZeroDivisionError):
        output.write_part(0, FILES[0], RANGES[0], tables(), {})
    assert output.data.names() == output.receipts.names() == []
    assert output.done() == {}


def test_a_receipt_counts_when_its_part_is_whole(output: Output) -> None:
    written(output)
    assert sorted(output.done()) == [0, 1, 2]
    output.data.delete(FILES[0])
    output.data.write(FILES[1], output.data.read(FILES[1])[:-1])
    assert sorted(output.done()) == [2]


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b"{}", b'{"shard": 1}', b"\xff\xfe", b'{"shard": 1, "more": 2}'])
def test_a_broken_receipt_is_none(output: Output, broken: bytes) -> None:
    written(output)
    output.receipts.write("00001.json", broken)
    output.receipts.write("notes.txt", b"not a receipt")
    assert sorted(output.done()) == [0, 2]
    write(output, 1)
    assert sorted(output.done()) == [0, 1, 2]


def test_commit(output: Output) -> None:
    written(output)
    assert output.manifest() is None
    manifest = output.commit(PLAN, ["# Ten rows", ""])
    assert output.manifest() == manifest
    assert manifest["plan"] == PLAN
    assert manifest["rows"] == 10
    assert manifest["counts"] == {'"a"': 6, "null": 4}
    assert [part["file"] for part in manifest["parts"]] == FILES
    assert manifest["parts"] == [receipt(output, shard) for shard in range(3)]
    assert manifest["bytes"] == sum(len(output.data.read(file)) for file in FILES)
    assert output.folder.read("README.md") == b"# Ten rows\n"
    assert output.commit(PLAN, ["# Ten rows", ""]) == manifest  # again does no harm
    output.claim(PLAN)


def test_commit_refuses_while_a_part_is_missing(output: Output) -> None:
    written(output)
    output.data.delete(FILES[1])
    with pytest.raises(OutputError, match=r"1 parts are missing, the first is shard 1"):
        output.commit(PLAN, [])
    assert output.manifest() is None
    assert not output.folder.exists("README.md")


def test_commit_removes_what_a_killed_worker_was_writing(output: Output) -> None:
    written(output)
    output.data.write(f".{FILES[1]}.0123abcd.tmp", b"half")
    output.data.write("_mine.txt", b"kept")
    output.commit(PLAN, [])
    assert output.data.names() == sorted([*FILES, "_mine.txt"])


def test_a_dataset_with_a_part_gone_is_not_committed(output: Output) -> None:
    written(output).commit(PLAN, [])
    part = output.data.read(FILES[2])
    output.data.delete(FILES[2])
    assert output.manifest() is None
    output.data.write(FILES[2], part[:-1])
    assert output.manifest() is None
    output.data.write(FILES[2], part)
    assert output.manifest() is not None


def test_any_parquet_reader_reads_the_data(tmp_path: Path) -> None:
    written(Output(Folder(tmp_path))).commit(PLAN, [])
    assert pq.read_table(tmp_path / "data").sort_by("_row").equals(table(range(10)))


@pytest.mark.parametrize(("rows", "size"), [(range(10), 3), (range(5, 6), 10), (range(5, 5), 2), (range(7, 16), 9)])
def test_chunks(rows: range, size: int) -> None:
    pieces = list(chunks(rows, size))
    assert [row for piece in pieces for row in piece] == list(rows)
    assert all(len(piece) == size for piece in pieces[:-1])
