"""Whatever is done to a dataset after its commit, ``verify`` finds it and says where."""

import contextlib
import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raygen
from raygen.datasets import commit
from raygen.datasets.storage import Folder
from raygen.jobs import verify as job
from raygen.jobs.project import Project

Write = Callable[..., Path]
Trained = Callable[[dict[str, Any]], Project]
PART = "part-00001-of-00004.parquet"
ALL = 10**9


@pytest.fixture(scope="module")
def whole(write_to: Write, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_to(tmp_path_factory.mktemp("whole") / "out", rows=170, balance="label", seed=3)


@pytest.fixture(scope="module")
def varied(write_to: Write, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_to(tmp_path_factory.mktemp("varied") / "out", variants=2, include_real=True, seed=3)


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(whole, tmp_path / "out"))


def problems(folder: Path, rows: int | None = 100, **more: Any) -> list[str]:
    return job.verify(Folder(folder), rows, **more).problems


def document(folder: Path, name: str = "manifest") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "_raygen" / f"{name}.json").read_text())
    return found


def put(folder: Path, found: dict[str, Any], name: str = "manifest", sign: bool = False) -> None:
    """Write a document as whoever edits it would; one who knows how signs it again."""
    if sign:
        found["digest"] = commit._digest({key: value for key, value in found.items() if key != "digest"})
    (folder / "_raygen" / f"{name}.json").write_text(json.dumps(found))


def forge(folder: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Put other rows into a part, and make the manifest fit."""
    file = folder / "data" / name
    pq.write_table(change(pq.read_table(file)), file)
    found = document(folder)
    for part in found["parts"]:
        if part["file"] == name:
            part["bytes"], part["sha256"] = file.stat().st_size, job._sha256(commit.Output(Folder(folder)), name)
            part["rows"] = pq.read_metadata(file).num_rows
    found["rows"], found["bytes"] = (sum(part[key] for part in found["parts"]) for key in ("rows", "bytes"))
    put(folder, found, sign=True)


def with_row(table: pa.Table, column: str, row: int, value: Any) -> pa.Table:
    values = table[column].to_pylist()
    values[row] = value
    field = table.schema.field(column)
    return table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))


# --- what is as it should be


def test_what_is_whole_has_no_problem(whole: Path) -> None:
    result = job.verify(Folder(whole), ALL)
    assert result.problems == []
    assert (result.rows, result.parts, result.made_again, result.exact) == (170, 4, 170, True)
    assert result.bytes == sum(file.stat().st_size for file in (whole / "data").iterdir())


@pytest.mark.parametrize(
    "asked",
    [
        {"rows": 90, "include_real": True},
        {"rows": 90, "format": {"partition_by": "label"}},
        {"rows": 90, "format": {"images": "tensor", "compression": "none", "row_group_rows": 7}},
        {"classes": {0: 30, 3: 1}, "start": 10**6},
        {"balance": "label", "to": 75},
        {"variants": 1},
        {"variants": 2, "include_real": True, "format": {"images": "tensor"}, "shard_rows": 20},
    ],
    ids=lambda asked: " ".join(asked),
)
def test_every_kind_of_dataset_is_made_again(write: Write, asked: dict[str, Any]) -> None:
    result = job.verify(Folder(write(**asked)), ALL)
    assert result.problems == []
    assert result.made_again == result.rows > 0
    assert job.verify(Folder(write(**asked)), 20).problems == []


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 100, 169, 170, 200])
def test_at_least_as_many_rows_are_made_again_as_asked(whole: Path, varied: Path, rows: int) -> None:
    for folder in (whole, varied):
        result = job.verify(Folder(folder), rows)
        assert result.problems == []
        assert result.made_again >= min(rows, result.rows)


def test_no_rows(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_work", lambda *_: pytest.fail("no generator is needed"))
    result = job.verify(Folder(whole), 0)
    assert (result.problems, result.rows, result.made_again) == ([], 170, 0)


def test_all_rows_through_ray(ray: None, out: Path) -> None:
    forge(out, PART, lambda table: with_row(table, "label", 17, (table["label"][17].as_py() + 1) % 4))
    shutil.copy(out / "data" / PART, out / "data" / "part-00000-of-00004.parquet")
    result = raygen.verify(out, None)
    assert result == job.verify(Folder(out), ALL)
    assert (len(result.problems), result.made_again) == (3, 170)


# --- files


def test_a_flipped_byte(out: Path) -> None:
    file = out / "data" / PART
    data = bytearray(file.read_bytes())
    for at, reads in ((len(data) // 2, True), (len(data) - 40, None), (len(data) - 6, False), (1, False)):
        spoilt = bytearray(data)
        spoilt[at] ^= 0x10
        file.write_bytes(spoilt)
        found = problems(out)
        assert re.fullmatch(rf"data/{PART}: has SHA-256 [0-9a-f]{{12}}…, [0-9a-f]{{12}}… was committed", found[0])
        assert all(line.startswith(f"data/{PART}") for line in found)
        if reads:  # and where in the file
            assert "rows from 0 on" in found[1] or re.search(r", row \d+: ", found[1])
        assert problems(out, 0) == [line for line in found if "SHA" in line or "the manifest says" in line]
    file.write_bytes(data)
    assert problems(out) == []


def test_any_byte_of_a_footer(out: Path) -> None:
    """The file is named first, and what can be told of its rows is told."""
    file = out / "data" / PART
    data = file.read_bytes()
    size = int.from_bytes(data[-8:-4], "little")
    for at in range(len(data) - 8 - size, len(data), 29):
        file.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        found = problems(out, 0)
        assert found[0].startswith(f"data/{PART}: has SHA-256 ")
    name = data.index(b"label", len(data) - 8 - size)
    file.write_bytes(data[:name] + b"\xff" + data[name + 1 :])
    found = problems(out, 1)
    assert found[0].startswith(f"data/{PART}: has SHA-256 ")
    assert found[1].startswith(f"data/{PART}: rows from 0 on: is not a readable Parquet file (")
    pq.write_table(pq.read_table(out / "data" / "part-00000-of-00004.parquet").slice(0, 0), file)
    assert problems(out, 1)[2].startswith(f"data/{PART}: rows from 0 on: row group")


def test_a_truncated_part(out: Path) -> None:
    file = out / "data" / PART
    size = file.stat().st_size
    for left in (size - 1, size // 2, 3, 0):
        with file.open("r+b") as handle:
            handle.truncate(left)
        assert problems(out)[0] == f"data/{PART}: has {left} bytes, {size} was committed"


def test_a_part_that_is_gone(out: Path) -> None:
    (out / "data" / PART).unlink()
    assert problems(out) == [f"data/{PART}: is missing"]


@pytest.mark.parametrize("rows", [0, 50, None])
def test_all_parts_are_gone(out: Path, ray: None, rows: int | None) -> None:
    shutil.rmtree(out / "data")
    found = raygen.verify(out, rows)
    assert [line.rpartition(": ")[2] for line in found.problems] == ["is missing"] * 4
    assert (found.rows, found.bytes, found.made_again) == (0, 0, 0)


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_files_are_read_some_at_a_time(out: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """What waits for its turn takes room, and there can be a million files."""
    (out / "data" / "part-00000-of-00004.parquet").unlink()
    (out / "data" / PART).write_bytes(b"short")
    expected = job.verify(Folder(out), 0)
    groups: list[int] = []

    class Threads(ThreadPoolExecutor):
        def map(self, do: Any, files: Any, **_: Any) -> Any:  # type: ignore[override]
            groups.append(len(files))
            return super().map(do, files)

    monkeypatch.setattr(job, "FILES_AT_ONCE", at_once)
    monkeypatch.setattr(job, "ThreadPoolExecutor", Threads)
    assert job.verify(Folder(out), 0) == expected
    assert [line.rpartition("/")[2] for line in expected.problems][:1] == ["part-00000-of-00004.parquet: is missing"]
    assert groups == [min(at_once, 4 - start) for start in range(0, 4, at_once)]


def test_a_file_too_many(out: Path) -> None:
    (out / "data" / "label=3").mkdir()
    shutil.copy(out / "data" / PART, out / "data" / "label=3" / "more.parquet")
    (out / "data" / f".{PART}.0123abcd.tmp").write_bytes(b"somebody is writing")
    assert problems(out) == ["data/label=3/more.parquet: is not in the manifest"]


# --- rows


def test_one_row_of_a_part_was_changed(out: Path) -> None:
    file = out / "data" / PART
    table = pq.read_table(file)
    other = table["image"][3].as_py()
    pq.write_table(with_row(table, "image", 31, other), file)
    found = problems(out, 1)  # a part that is not as committed is made again whole, however few are asked for
    assert found[1] == f"data/{PART}, row 31: image is not what the generator makes (_row 81)"
    assert len(found) == 2


@pytest.mark.parametrize("column", ["image", "label", "_row"])
def test_a_forger_who_knows_the_manifest_is_found_by_making_the_rows_again(out: Path, column: str) -> None:
    def change(table: pa.Table) -> pa.Table:
        for row in (31, 40):
            other = next(value for value in table[column].to_pylist() if value != table[column][row].as_py())
            table = with_row(table, column, row, other)
        return table

    forge(out, PART, change)
    assert problems(out, 0) == []
    assert problems(out, ALL) == [
        f"data/{PART}, row 31: {column} is not what the generator makes (_row 81); 2 rows of 50 looked at differ"
    ]


def test_other_columns_are_looked_at_too(varied: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(varied, tmp_path / "out"))
    name = sorted(file.name for file in (out / "data").iterdir())[2]
    first = pq.read_table(out / "data" / name)["_row"][0].as_py()
    for column, value in (("score", 0.123), ("odd", 0.0), ("tags", [{"k": "x"}]), ("who", "p9"), ("_source", "real")):
        shutil.rmtree(out)
        shutil.copytree(varied, out)
        row = 4 if column == "odd" else 7
        forge(out, name, lambda table: with_row(table, column, row, value))  # noqa: B023
        (line,) = problems(out, ALL)
        where = f"(_row {first + row // 3}, _variant {row % 3})"
        assert line == f"data/{name}, row {row}: {column} is not what the generator makes {where}"


def test_rows_taken_out_or_put_in(out: Path) -> None:
    for change in (lambda table: table.slice(1), lambda table: pa.concat_tables([table, table.slice(0, 1)])):
        forge(out, PART, change)
        (first, *_) = problems(out, ALL)
        assert re.match(rf"_raygen/manifest.json: says that data/{PART} has (49|50) rows, not 50", first) or "row" in first
        assert problems(out, ALL) != []


def test_other_columns_than_were_made(out: Path) -> None:
    forge(out, PART, lambda table: table.append_column("more", table["label"]))
    (line,) = problems(out, ALL)
    assert line.startswith(f"data/{PART}, row 0: the columns are image: ")
    forge(out, PART, lambda table: table.drop_columns(["more", "label"]))
    assert len(problems(out, ALL)) == 1


# --- the manifest


EDITS: dict[str, Any] = {
    "rows": lambda manifest: manifest.update(rows=171),
    "counts": lambda manifest: manifest["counts"].update({"0": 44}),
    "a part": lambda manifest: manifest["parts"].pop(2),
    "a part that is not there": lambda manifest: manifest["parts"].append({**manifest["parts"][0], "file": "x.parquet"}),
    "a hash": lambda manifest: manifest["parts"][1].update(sha256="0" * 64),
    "bytes": lambda manifest: manifest["parts"][1].update(bytes=5),
    "rows of a part": lambda manifest: manifest["parts"][1].update(rows=49),
    "the seed": lambda manifest: manifest["plan"]["augment"].update(seed=4),
    "the counts of the plan": lambda manifest: manifest["plan"].update(counts=[50, 40, 40, 40]),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("sign", [False, True], ids=["as it is", "signed again"])
def test_an_edited_manifest(out: Path, edit: str, sign: bool) -> None:
    found = document(out)
    EDITS[edit](found)
    put(out, found, sign=sign)
    told = problems(out, ALL)
    changed = "_raygen/manifest.json: was changed after it was committed (its digest does not fit)"
    assert (changed in told) is not sign
    assert [line for line in told if line != changed]  # and what
    if edit == "the seed":
        assert "_raygen/manifest.json: its plan is not that of plan.json (augment.seed 3 there, 4 here)" in told


@pytest.mark.parametrize(
    "edit",
    [
        lambda manifest: manifest["plan"].pop("generator"),
        lambda manifest: manifest["plan"].pop("augment"),
        lambda manifest: manifest["plan"]["augment"].update(rows="many"),
        lambda manifest: manifest["plan"].update(counts=[1, 2]),
        lambda manifest: manifest["parts"][0].update(rows="many"),
        lambda manifest: manifest["parts"][0].update(bytes=None),
        lambda manifest: manifest["parts"][0].update(file=3),
        lambda manifest: manifest["parts"].append(3),
    ],
)
def test_a_manifest_that_makes_no_sense_is_an_error_not_a_traceback(out: Path, edit: Any) -> None:
    found = document(out)
    edit(found)
    put(out, found)
    with contextlib.suppress(raygen.OutputError):  # of which "is not a manifest any more" is one
        assert problems(out)


def test_the_plan_and_the_manifest_edited_alike(out: Path) -> None:
    found, plan = document(out), document(out, "plan")
    for it in (found["plan"], plan):
        it["augment"]["seed"] = 4
    put(out, found, sign=True)
    put(out, plan, "plan")
    told = problems(out, ALL)
    assert len(told) == 4
    assert told[1].startswith(f"data/{PART}, row 0: ")


SPOILT: list[Any] = [
    lambda plan: plan["augment"].update(rows="many"),
    lambda plan: plan["augment"].update(row=3),
    lambda plan: plan["counts"].pop(),
    lambda plan: plan["counts"].append(1),
    lambda plan: plan.update(counts="many"),
    lambda plan: plan["counts"].__setitem__(0, -1),
]


@pytest.mark.parametrize("spoil", range(len(SPOILT)))
def test_a_plan_that_makes_no_sense(out: Path, spoil: int) -> None:
    """The manifest has the plan too, and is known to be as it was committed; else there is nothing to go by."""
    plan, found = document(out, "plan"), document(out)
    SPOILT[spoil](plan)
    put(out, plan, "plan")
    (line,) = problems(out)
    assert line.startswith("_raygen/manifest.json: its plan is not that of plan.json (")
    SPOILT[spoil](found["plan"])
    put(out, found)
    with pytest.raises(raygen.OutputError, match=r"plan.json: is not a plan of augment's any more"):
        problems(out)
    assert len(problems(out, 0)) == 1


def test_a_plan_that_is_gone(out: Path) -> None:
    for spoil in (Path.unlink, lambda file: file.write_text("{")):
        spoil(out / "_raygen" / "plan.json")
        assert problems(out) == ["_raygen/plan.json: is missing, or no plan any more"]


def test_what_was_never_committed(out: Path, tmp_path: Path) -> None:
    (out / "_raygen" / "manifest.json").unlink()
    for folder in (out, tmp_path / "nowhere"):
        with pytest.raises(raygen.OutputError, match="there is no committed dataset"):
            problems(folder)


# --- what it was made from


def test_a_generator_that_was_moved(out: Path, base: dict[str, Any], trained: Trained, tmp_path: Path) -> None:
    found, plan = document(out), document(out, "plan")
    artifact = Path(found["plan"]["artifact"])
    for it in (found["plan"], plan):
        it["artifact"] = str(tmp_path / "gone")
    put(out, found, sign=True)
    put(out, plan, "plan")
    with pytest.raises(raygen.OutputError, match=r"its generator is not at .*gone any more\n  say where with --generator"):
        problems(out)
    assert problems(out, 0) == []
    assert problems(out, ALL, generator=Folder(artifact)) == []
    other = trained({**base, "name": "other", "generator": {**base["generator"], "latent": 5}, "augment": {"rows": 1}})
    with pytest.raises(raygen.OutputError, match=r"has the digest .*\n  give the generator that made it"):
        problems(out, generator=other.trained())


def test_a_project_that_was_moved_as_a_whole(
    base: dict[str, Any], write_to: Write, trained: Trained, tmp_path: Path
) -> None:
    spec = {**base, "storage": str(tmp_path / "before")}
    write_to(tmp_path / "before" / "pets" / "dataset", spec, rows=80)
    (tmp_path / "before").rename(tmp_path / "after")
    assert problems(tmp_path / "after" / "pets" / "dataset", ALL) == []


def test_a_source_that_was_changed_since(write: Write, pets: Path, tmp_path: Path) -> None:
    shutil.copytree(pets, tmp_path / "pets")
    out = write(variants=1, source=str(tmp_path / "pets"))
    assert problems(out, ALL) == []
    pq.write_table(pq.read_table(tmp_path / "pets" / "b.parquet").slice(1), tmp_path / "pets" / "b.parquet")
    with pytest.raises(raygen.DataError, match="was changed since the dataset was made of it"):
        problems(out)
    assert problems(out, 0) == []


def test_made_by_other_means(out: Path) -> None:
    """Then pixels may be a little off, and nothing else."""
    found, plan = document(out), document(out, "plan")
    for it in (found["plan"], plan):
        it["made_by"]["torch"] = "1.0"
    put(out, plan, "plan")
    put(out, found, sign=True)
    result = job.verify(Folder(out), ALL)
    assert (result.problems, result.exact) == ([], False)

    def brighter(by: int) -> Callable[[pa.Table], pa.Table]:
        from raygen.datasets import images
        from raygen.spec import ImageField

        def change(table: pa.Table) -> pa.Table:
            pixels = images.decode(table["image"].combine_chunks(), ImageField(height=28, width=28, channels=1), str)
            pixels[5] = (pixels[5].astype(int) + by * (1 - 2 * (pixels[5] > 127))).astype("uint8")
            return table.set_column(0, table.schema.field(0), images.encode(pixels, table.schema.field(0).type))

        return change

    forge(out, PART, brighter(job.TOLERANCE))
    assert problems(out, ALL) == []
    forge(out, PART, brighter(job.TOLERANCE))
    assert problems(out, ALL) == [f"data/{PART}, row 5: image is not what the generator makes (_row 55)"]
    forge(out, PART, lambda table: with_row(table, "label", 6, (table["label"][6].as_py() + 1) % 4))
    assert "2 rows of 50 looked at differ" in problems(out, ALL)[0]
