"""An output belongs to one plan, a part counts when all its bytes are there, and the manifest comes last."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raygen.datasets import commit
from raygen.datasets.commit import Output, Receipt, chunks, differing, intact, row_groups
from raygen.datasets.storage import Folder
from raygen.errors import OutputError

PLAN: dict[str, Any] = {"generator": "abc", "rows": 10, "seed": 7, "shards": 3}
NEXT: dict[str, Any] = {**PLAN, "seed": 8}
COUNTS = {'"a"': 6, "null": 4}
FILES = [f"part-{shard:05d}-of-00003.parquet" for shard in range(3)]
RANGES = [range(4), range(4, 8), range(8, 10)]


@pytest.fixture(params=["local", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Output:
    return Output(Folder(tmp_path / "out" if request.param == "local" else f"memory://{uuid4().hex}/out"))


def table(rows: range) -> pa.Table:
    return pa.table(
        {"label": pa.array(["a" if row % 3 else None for row in rows], "string"), "_row": pa.array(rows, pa.int64())}
    )


class Shard(NamedTuple):
    number: int
    file: str


SHARDS = [Shard(number, file) for number, file in enumerate(FILES)]
PARTS = [(shard, len(rows)) for shard, rows in zip(SHARDS, RANGES, strict=True)]


def write(output: Output, shard: int, seed: int = 7) -> Receipt:
    tables = (table(rows) for rows in chunks(RANGES[shard], 2))
    return output.write_part(SHARDS[shard], tables, {"raygen.seed": str(seed)}, "snappy", 3)


def written(output: Output, plan: dict[str, Any] = PLAN) -> Output:
    output.claim(plan)
    for shard in (2, 0, 1):
        write(output, shard, plan["seed"])
    return output


def committed(output: Output, plan: dict[str, Any] = PLAN) -> Output:
    written(output, plan).commit(plan, PARTS, COUNTS, ["# Ten rows", f"seed {plan['seed']}"])
    return output


def receipts(output: Output) -> dict[int, Receipt]:
    """As they are there, by their names."""
    found = [Receipt.from_name(name) for name in output.receipts.names()]
    return {receipt.shard: receipt for receipt in found if receipt is not None}


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


def test_what_only_says_where_things_are_makes_no_other_job(output: Output) -> None:
    plan = {**PLAN, "made_by": {"torch": "1"}, "artifact": "/here", "source": "/data"}
    output.claim(plan)
    moved = {**plan, "artifact": "/there", "source": None}
    assert output.check({**moved, "made_by": {"torch": "2"}})
    assert output.successor(moved).folder.uri == output.successor(plan).folder.uri
    assert output.successor({**plan, "seed": 8}).folder.uri != output.successor(plan).folder.uri


def test_nested_keys_are_told_one_by_one() -> None:
    there, here = ({"augment": {"rows": 5, "format": {"images": kind}}, "seed": 1} for kind in ("png", "tensor"))
    assert differing(there, here) == ['augment.format.images "png" there, "tensor" here']
    assert differing(there, there) == []


def test_a_part_and_its_receipt(output: Output) -> None:
    output.claim(PLAN)
    receipt = write(output, 0)
    data = output.data.read(FILES[0])
    assert receipt == (0, len(data), hashlib.sha256(data).hexdigest())
    assert output.receipts.names() == [f"00000-{len(data)}-{receipt.sha256}.json"]
    assert json.loads(output.receipts.read(receipt.name)) == {"file": FILES[0], **receipt._asdict()}
    read = pq.ParquetFile(pa.BufferReader(data))
    assert read.read().equals(table(range(4)))
    assert [read.metadata.row_group(group).num_rows for group in range(read.num_row_groups)] == [3, 1]
    assert read.metadata.row_group(0).column(0).compression == "SNAPPY"
    assert read.schema_arrow.metadata[b"raygen.seed"] == b"7"
    assert output.done(SHARDS) == {0: receipt}


def test_a_part_written_twice_is_the_same_bytes(output: Output) -> None:
    output.claim(PLAN)
    said, first = write(output, 1), output.data.read(FILES[1])
    assert write(output, 1) == said
    assert output.data.read(FILES[1]) == first
    assert output.data.names() == [FILES[1]]
    assert output.receipts.names() == [said.name]


@pytest.mark.parametrize("sizes", [[10], [1] * 10, [4, 6], [0, 7, 3], [9, 1]])
def test_row_groups_have_their_size_however_the_rows_come(sizes: list[int]) -> None:
    stops = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    tables = [table(range(stop - size, stop)) for size, stop in zip(sizes, stops, strict=True)]
    for rows in (1, 3, 5, 10, 11):
        groups = list(row_groups(iter(tables), rows))
        assert [len(group) for group in groups] == [len(piece) for piece in chunks(range(10), rows)]
        assert pa.concat_tables(groups).equals(table(range(10)))


def test_a_part_that_breaks_leaves_no_part_and_no_receipt(output: Output) -> None:
    def tables() -> Any:
        yield table(range(3))
        raise ZeroDivisionError

    output.claim(PLAN)
    with pytest.raises(ZeroDivisionError):
        output.write_part(SHARDS[0], tables(), {})
    assert output.data.names() == output.receipts.names() == []
    assert output.done(SHARDS) == {}


def test_a_receipt_counts_when_its_part_is_whole(output: Output) -> None:
    written(output)
    assert sorted(output.done(SHARDS)) == [0, 1, 2]
    output.data.delete(FILES[0])
    output.data.write(FILES[1], output.data.read(FILES[1])[:-1])
    assert sorted(output.done(SHARDS)) == [2]


ZEROS = "0" * 64


@pytest.mark.parametrize(
    "name",
    [
        "00001.json",
        "notes.txt",
        f"1-9-{ZEROS}.json",
        f"00001-9-{ZEROS[:-1]}.json",
        f"00001-9-{ZEROS[:-1]}G.json",
        f"00001--9-{ZEROS}.json",
        f"00001-9-{ZEROS}.json.tmp",
        f".00001-9-{ZEROS}.json.0123abcd.tmp",
        f"0000a-9-{ZEROS}.json",
        f"00001-9-{ZEROS}",
    ],
)
def test_odd_names_are_no_receipts(output: Output, name: str) -> None:
    assert Receipt.from_name(name) is None
    written(output)
    output.receipts.delete(receipts(output)[1].name)
    output.receipts.write(name, b"whatever")
    assert sorted(output.done(SHARDS)) == [0, 2]
    write(output, 1)
    assert sorted(output.done(SHARDS)) == [0, 1, 2]


@pytest.mark.parametrize("shard", [0, 99_999, 100_000, 123_456_789])
def test_a_receipts_name_says_it_all(shard: int) -> None:
    receipt = Receipt(shard, 10**12, "0123456789abcdef" * 4)
    assert Receipt.from_name(receipt.name) == receipt


def test_what_a_receipt_holds_does_not_matter(output: Output) -> None:
    name = receipts(written(output))[1].name
    output.receipts.write(name, b"{")
    assert sorted(output.done(SHARDS)) == [0, 1, 2]


@pytest.mark.parametrize("copies", [1, 2])
def test_of_receipts_that_disagree_none_counts(output: Output, copies: int) -> None:
    """Two who made other bytes of one shard: whose part is there cannot be told by its size."""
    true = receipts(written(output))[1]
    for digit in "12"[:copies]:
        output.receipts.write(true._replace(sha256=digit * 64).name, b"{}")
    assert sorted(output.done(SHARDS)) == [0, 2]
    assert sorted(receipts(output)) == [0, 2]  # nor later
    assert write(output, 1) == true
    assert sorted(output.done(SHARDS)) == [0, 1, 2]


def test_commit(output: Output) -> None:
    written(output)
    assert output.manifest() is output.recorded() is None
    manifest = output.commit(PLAN, PARTS, COUNTS, ["# Ten rows", ""])
    assert output.manifest() == output.recorded() == manifest
    assert manifest["plan"] == PLAN
    assert manifest["rows"] == 10
    assert manifest["counts"] == COUNTS
    assert manifest["parts"] == [
        {"shard": shard.number, "file": shard.file, "rows": rows, "bytes": receipt.bytes, "sha256": receipt.sha256}
        for shard, rows in PARTS
        for receipt in (receipts(output)[shard.number],)
    ]
    assert manifest["bytes"] == sum(len(output.data.read(file)) for file in FILES)
    assert output.folder.read("README.md") == b"# Ten rows\n"
    assert output.commit(PLAN, PARTS, COUNTS, ["# Ten rows", ""]) == manifest  # again does no harm
    output.claim(PLAN)


def test_a_manifest_is_written_some_parts_at_a_time_and_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON makes it at once: each part on a line of its own, and a digest over keys that are sorted."""
    for at_once in (1, 2, 3, 10):
        monkeypatch.setattr(commit, "PARTS_AT_ONCE", at_once)
        output = written(Output(Folder(tmp_path / f"{at_once}")), {**PLAN, "name": "größer"})
        manifest = output.commit({**PLAN, "name": "größer"}, PARTS, COUNTS, [])
        head = json.dumps({key: value for key, value in manifest.items() if key != "parts"}, indent=1, ensure_ascii=False)
        lines = ",\n".join(json.dumps(part) for part in manifest["parts"])
        assert output.meta.read("manifest.json").decode() == f'{head[:-2]},\n "parts": [\n{lines}\n]\n}}'
        unsigned = {key: value for key, value in manifest.items() if key != "digest"}
        text = json.dumps(unsigned, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert manifest["digest"] == hashlib.sha256(text.encode()).hexdigest()
        assert intact(manifest)


EDITS: list[Any] = [
    lambda manifest: manifest.update(rows=11),
    lambda manifest: manifest["counts"].update({'"a"': 7}),
    lambda manifest: manifest["parts"].pop(),
    lambda manifest: manifest["parts"].reverse(),
    lambda manifest: manifest["parts"][1].update(sha256=ZEROS),
    lambda manifest: manifest["plan"].update(seed=8),
    lambda manifest: manifest.update(note="checked by hand"),
    lambda manifest: manifest.pop("counts"),
    lambda manifest: manifest.pop("digest"),
    lambda manifest: manifest.update(digest=ZEROS),
]


@pytest.mark.parametrize("edit", range(len(EDITS)))
def test_an_edited_manifest_is_told_from_a_committed_one(tmp_path: Path, edit: int) -> None:
    output = committed(Output(Folder(tmp_path)))
    manifest = output.recorded()
    assert manifest is not None
    assert intact(manifest)
    EDITS[edit](manifest)
    assert not intact(manifest)


@pytest.mark.parametrize(
    "text", ["{}", '{"plan": {}}', '{"plan": {}, "parts": 3}', '{"parts": []}', '{"plan": {}, "parts": [{"file": "a"}]}']
)
def test_a_manifest_that_is_none_any_more(output: Output, text: str) -> None:
    committed(output).meta.write("manifest.json", text.encode())
    with pytest.raises(OutputError, match=r"manifest.json: is not a manifest any more"):
        output.manifest()


def test_commit_refuses_while_a_part_is_missing(output: Output) -> None:
    written(output)
    output.data.delete(FILES[1])
    with pytest.raises(OutputError, match=r"1 parts are missing, the first is shard 1"):
        output.commit(PLAN, PARTS, COUNTS, [])
    assert output.manifest() is None
    assert not output.folder.exists("README.md")


def test_commit_removes_what_a_killed_worker_was_writing(output: Output) -> None:
    written(output)
    output.data.write(f".{FILES[1]}.0123abcd.tmp", b"half")
    output.data.write(f"label=a/.{FILES[1]}.0123abcd.tmp", b"half")
    output.data.write("_mine.txt", b"kept")
    output.commit(PLAN, PARTS, COUNTS, [])
    assert sorted(output.data.sizes()) == sorted([*FILES, "_mine.txt"])


def test_a_dataset_with_a_part_gone_is_not_committed(output: Output) -> None:
    committed(output)
    part = output.data.read(FILES[2])
    output.data.delete(FILES[2])
    assert output.manifest() is None
    assert output.recorded() is not None
    output.data.write(FILES[2], part[:-1])
    assert output.manifest() is None
    output.data.write(FILES[2], part)
    assert output.manifest() is not None


def test_any_parquet_reader_reads_the_data(tmp_path: Path) -> None:
    committed(Output(Folder(tmp_path)))
    assert pq.read_table(tmp_path / "data").sort_by("_row").equals(table(range(10)))


@pytest.mark.parametrize(("rows", "size"), [(range(10), 3), (range(5, 6), 10), (range(5, 5), 2), (range(7, 16), 9)])
def test_chunks(rows: range, size: int) -> None:
    pieces = list(chunks(rows, size))
    assert [row for piece in pieces for row in piece] == list(rows)
    assert all(len(piece) == size for piece in pieces[:-1])
