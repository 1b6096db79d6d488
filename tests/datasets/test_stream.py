"""Reading a source: its footers, its split, and the passes over it; what is wrong is named by file and row."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raygen.datasets import stream
from raygen.datasets.codec import CELLS
from raygen.datasets.storage import Folder
from raygen.errors import DataError, OutputError
from raygen.spec import DatasetSpec

NOWHERE = Folder("memory://nowhere")
LABELS = ["cat", None, "dog", "ant"]


def png(number: int) -> bytes:
    """A picture whose first two pixels say which it is."""
    pixels = np.zeros((8, 8), np.uint8)
    pixels[0, :2] = divmod(number, 256)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def table(rows: range, **changed: bytes | None) -> pa.Table:
    """Rows of a source; ``row_5=b"…"`` puts other bytes into one of them."""
    pictures = [changed.get(f"row_{row}", png(row)) for row in rows]
    return pa.table(
        {
            "image": pa.array(pictures, pa.binary()),
            "label": pa.array([LABELS[row % 4] for row in rows], pa.string()),
            "note": pa.array([str(row) for row in rows], pa.string()),
        }
    )


def spec(path: Path | str, holdout: float = 0.25) -> DatasetSpec:
    schema = {"image": {"kind": "image", "height": 8, "width": 8, "channels": 1}, "label": {"kind": "category"}}
    return DatasetSpec.model_validate({"path": str(path), "schema": schema, "holdout": holdout})


def write(folder: Path, row_group: int) -> Path:
    """Three files, one of them without rows: rows 0 to 99 in the order of the names."""
    (folder / "sub").mkdir(parents=True)
    pq.write_table(table(range(50)), folder / "a.parquet", row_group_size=row_group)
    pq.write_table(table(range(0)), folder / "b.pq")
    pq.write_table(table(range(50, 100)), folder / "sub" / "c.parquet", row_group_size=row_group)
    return folder


def numbers(batch: dict[str, np.ndarray]) -> list[int]:
    return (batch["image"][:, 0, 0, 0].astype(int) * 256 + batch["image"][:, 0, 0, 1]).tolist()


def refused(path: Path | str, what: str) -> DataError:
    with pytest.raises(DataError, match=what) as caught:
        stream.open_source(spec(path), NOWHERE)
    assert str(path) in caught.value.what
    assert len(str(caught.value).splitlines()) == 2
    return caught.value


def test_a_source_is_opened_from_its_footers(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", 20)
    (folder / "_raygen").mkdir()
    pq.write_table(table(range(3)), folder / "_raygen" / "x.parquet")  # bookkeeping
    pq.write_table(table(range(3)), folder / ".x.parquet")
    (folder / "README.md").write_text("not data")
    source = stream.open_source(spec(folder), NOWHERE)
    assert source.files == tuple(str(folder / name) for name in ("a.parquet", "b.pq", "sub/c.parquet"))
    assert source.rows == 100
    assert [fragment[1:] for fragment in source.fragments if fragment.rows] == [
        (0, 0, 0, 20),
        (1, 20, 20, 20),
        (2, 40, 40, 10),
        (0, 0, 50, 20),
        (1, 20, 70, 20),
        (2, 40, 90, 10),
    ]
    assert source.arrow.names == ["image", "label", "note"]
    assert stream.head(source, 3).equals(table(range(3)))


def test_every_way_to_name_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "data", 20)
    os.rename(folder / "a.parquet", folder / "a[1].parquet")
    monkeypatch.chdir(tmp_path)
    for path, rows in [
        (folder, 100),
        ("data", 100),
        (f"file://{folder}", 100),
        (folder / "sub" / "c.parquet", 50),
        (folder / "*" / "*.parquet", 50),
        (folder / "?.p*", 0),
        (folder / "a[1].parquet", 50),  # it is there, so it is no pattern
    ]:
        assert stream.scan(str(path), NOWHERE).rows == rows


def test_the_fingerprint_changes_with_the_data(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", 20)
    first = stream.open_source(spec(folder), NOWHERE).fingerprint
    assert stream.open_source(spec(folder), NOWHERE).fingerprint == first
    moved = tmp_path / "moved"
    os.rename(folder, moved)
    assert stream.open_source(spec(moved), NOWHERE).fingerprint == first
    pq.write_table(table(range(51)), moved / "a.parquet")
    assert stream.open_source(spec(moved), NOWHERE).fingerprint != first


def test_a_split_does_not_depend_on_the_place(tmp_path: Path) -> None:
    """On any storage the names that a split hashes are relative to the source."""
    folder, elsewhere = write(tmp_path / "data", 20), f"memory://{uuid4().hex}/prefix"
    fs = fsspec.filesystem("memory")
    fs.put(f"{folder}/", elsewhere.removeprefix("memory:/"), recursive=True)
    here, there = (stream.open_source(spec(path), NOWHERE) for path in (folder, elsewhere))
    assert [file.removeprefix(there.root) for file in there.files] == ["/a.parquet", "/b.pq", "/sub/c.parquet"]
    for mine, other in zip(here.fragments, there.fragments, strict=True):
        np.testing.assert_array_equal(stream._mask(here.root, mine, 0.5), stream._mask(there.root, other, 0.5))


def test_fit_and_load(ray: None, tmp_path: Path) -> None:
    asked = spec(write(tmp_path / "data", 20))
    source = stream.open_source(asked, NOWHERE)
    codec = stream.fit(source, asked)
    train, held = stream.load(source, codec, asked.holdout)
    # every row once, in the order of the source, with its own picture and label
    for rows in (train, held):
        assert numbers(rows) == rows["_row"].tolist() == sorted(rows["_row"])
        values = [codec.categories["label"].values[index] for index in rows["label"]]
        assert values == [LABELS[row % 4] for row in rows["_row"]]
        assert set(rows) == {"image", "label", "_row"}
    assert sorted(numbers(train) + numbers(held)) == list(range(100))
    assert 10 <= len(held["_row"]) <= 40
    assert codec.categories["label"].values == ("ant", "cat", "dog", None)
    assert codec.categories["label"].counts == tuple(np.bincount(train["label"], minlength=4))  # of training rows only
    # the same rows are held out however the files are cut into row groups
    other = stream.open_source(spec(write(tmp_path / "other", 7)), NOWHERE)
    np.testing.assert_array_equal(stream.load(other, codec, asked.holdout)[1]["_row"], held["_row"])


TOWNS = 3000


def people(rows: int) -> pa.Table:
    """A table whose first rows are all of one year."""
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "id": pa.array([f"P{row:06d}" for row in range(rows)]),
            "pay": pa.array(np.where(rng.random(rows) < 0.5, 0, np.round(rng.lognormal(9, 1, rows), 2))),
            "town": pa.array([f"town {n}" for n in rng.integers(0, TOWNS, rows)]),
            "since": pa.array(np.sort(rng.integers(0, 10**9, rows))).view(pa.timestamp("s", "UTC")),
            "sex": pa.array(np.where(rng.random(rows) < 0.1, None, np.where(rng.random(rows) < 0.5, "f", "m"))),
            "year": pa.array(np.arange(rows) // 5000 + 2000),
        }
    )


def test_fit_and_load_a_table(ray: None, tmp_path: Path) -> None:
    whole = people(20_000)
    kinds = {"id": "identifier", "pay": "number", "town": "category", "since": "datetime", "sex": "category"}
    fits = []
    for name, size in (("a", 20_000), ("b", 3000)):  # a row group is read in pieces; the pieces are merged in order
        (tmp_path / name).mkdir()
        pq.write_table(whole, tmp_path / name / "x.parquet", row_group_size=size)
        asked = DatasetSpec.model_validate(
            {"path": str(tmp_path / name), "schema": {column: {"kind": kind} for column, kind in kinds.items()}}
        )
        source = stream.open_source(asked, NOWHERE)
        fits.append(stream.fit(source, asked))
        assert stream.fit(source, asked) == fits[-1]
    codec = fits[-1]
    assert list(codec.cells) == ["pay", "town", "since", "sex"]
    assert codec.cells["town"] <= 701
    assert fits[0].columns["town"] == codec.columns["town"]
    assert fits[0].categories == codec.categories
    train, held = stream.load(source, codec, asked.holdout)
    for rows in (train, held):
        assert set(rows) == {CELLS, "_row"}
        real = whole.take(pa.array(rows["_row"]))
        back = codec.decode(rows)
        assert back["sex"].equals(real["sex"])
        assert back["sex"].null_count > 0
        same = np.array(back["town"].to_pylist()) == np.array(real["town"].to_pylist())
        assert same.all() if rows is train else same.mean() > 0.9  # a few are of held-out rows only
        zero = real["pay"].to_numpy() == 0
        np.testing.assert_array_equal(back["pay"].to_numpy() == 0, zero)
        assert not set(back["id"].to_pylist()) & set(whole["id"].to_pylist())
    assert len(train["_row"]) + len(held["_row"]) == 20_000


@pytest.mark.parametrize("rows", [5, 60])
def test_a_table_of_odd_columns(ray: None, tmp_path: Path, rows: int) -> None:
    """What is inferred of them is fitted, and comes back as it was."""
    odd = {
        "age": pa.array([row * 7 % 23 for row in range(rows)], pa.int8()),
        "x": pa.array(
            [[1.5, float("inf"), float("nan"), None, float("-inf")][row % 5] for row in range(rows)], pa.float32()
        ),
        "lost": pa.array([float("nan")] * rows),
        "none": pa.nulls(rows, pa.decimal128(9, 2)),
        "void": pa.nulls(rows),
        "one": pa.array(["same"] * rows).dictionary_encode(),
        "seldom": pa.array([None] * (rows - 1) + [True]),
    }
    twice = pa.array(range(rows))
    table = pa.Table.from_arrays([*odd.values(), twice, twice], names=[*odd, "twice", "twice"])
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=7)
    fields, left_out = stream.schema.infer(table, "x.parquet")
    assert list(left_out) == ["twice"]
    asked = DatasetSpec.model_validate({"path": str(tmp_path), "schema": {name: vars(it) for name, it in fields.items()}})
    source = stream.open_source(asked, NOWHERE)
    codec = stream.fit(source, asked)
    train, held = stream.load(source, codec, asked.holdout)
    assert len(train["_row"]) + len(held["_row"]) == rows
    for name, column in zip(codec.fields, codec.decode(train), strict=True):
        assert str(column.to_pylist()) == str(table.select([name])[0].take(pa.array(train["_row"])).to_pylist()), name


def test_a_look_at_a_table_goes_all_over_it(tmp_path: Path) -> None:
    for size in (20_000, 1500):
        pq.write_table(people(20_000), tmp_path / "x.parquet", row_group_size=size)
        source = stream.scan(str(tmp_path), NOWHERE)
        table = stream.spread(source, 1000)
        assert 900 <= len(table) <= 1000
        assert table["year"].unique().to_pylist() == [2000, 2001, 2002, 2003]
        whole = stream.spread(source, 10**6)
        assert size == 1500 or whole.equals(people(20_000).cast(whole.schema))  # Parquet has no seconds
    assert stream.spread(stream.scan(str(write(tmp_path / "data", 20)), NOWHERE), 1000).num_rows == 100


@pytest.mark.parametrize("bad", [b"no picture", None])
def test_a_bad_picture_is_named_by_file_and_row(ray: None, tmp_path: Path, bad: bytes | None) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(table(range(60), row_27=bad), file, row_group_size=20)
    source = stream.open_source(spec(file), NOWHERE)
    codec = stream.Codec.of({"image": spec(file).fields["image"]}, source.arrow, {})
    with pytest.raises(DataError) as caught:
        stream.load(source, codec, 0.25)
    assert caught.value.what.startswith(f"{file}, row 27: ")
    assert len(str(caught.value).splitlines()) == 2


def test_a_column_with_too_many_values_is_no_category(ray: None, tmp_path: Path) -> None:
    rows = 1001
    many = pa.table({"image": pa.array([b""] * rows), "label": pa.array(range(rows))})
    pq.write_table(many, tmp_path / "a.parquet")
    asked = spec(tmp_path)
    with pytest.raises(DataError, match="column 'label' has 1001 distinct values"):
        stream.fit(stream.open_source(asked, NOWHERE), asked)


def test_an_error_about_columns_stays_short(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(40)]
    pq.write_table(pa.table({name: [1] for name in names}), tmp_path / "a.parquet")
    pq.write_table(pa.table({name: ["1" if name == "c33" else 1] for name in names}), tmp_path / "b.parquet")
    with pytest.raises(DataError) as caught:
        stream.scan(str(tmp_path), NOWHERE)
    few = ", ".join(f"{name}: int64" for name in names[:7])
    assert caught.value.what == (
        f"{tmp_path}/b.parquet: its columns ({few}, c33: string, … of 40)"
        f" differ from those of {tmp_path}/a.parquet ({few}, c33: int64, … of 40)"
    )
    pq.write_table(pa.table({name: [1] for name in reversed(names[:3])}), tmp_path / "b.parquet")
    pq.write_table(pa.table({name: [1] for name in names[:3]}), tmp_path / "a.parquet")
    with pytest.raises(
        DataError, match=r"\(c2: int64, c1: int64, c0: int64\) differ from .*\(c0: int64, c1: int64, c2: int64\)"
    ):
        stream.scan(str(tmp_path), NOWHERE)


def test_what_a_storage_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "data", 20)

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:  # tests may run as root, whom no permission stops
        patch.setattr(os, "scandir", refuse)
        with pytest.raises(OutputError, match=r"data: no permission \(Permission denied\)"):
            stream.scan(str(folder), NOWHERE)
    with monkeypatch.context() as patch:
        patch.setattr(type(Folder(folder).fs), "open", refuse)
        with pytest.raises(OutputError, match=r"a\.parquet: no permission \(Permission denied\)"):
            stream.scan(str(folder), NOWHERE)
    with monkeypatch.context() as patch:
        patch.setattr(type(Folder(folder).fs), "open", lambda *args, **options: Failing(b"x" * 1000))
        with pytest.raises(OutputError, match=r"parquet: Input/output error"):
            stream.scan(str(folder), NOWHERE)


class Failing(io.BytesIO):
    """A file on a disk that fails."""

    def read(self, size: int | None = -1) -> bytes:
        raise OSError(5, "Input/output error")


def truncate(folder: Path) -> Path:
    file = folder / "sub" / "c.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    return file


def empty_file(folder: Path) -> Path:
    file = folder / "b.pq"
    file.write_bytes(b"")
    return file


def another_type(folder: Path) -> Path:
    changed = table(range(5)).set_column(1, "label", pa.array(range(5)))
    pq.write_table(changed, folder / "sub" / "c.parquet")
    return folder / "sub" / "c.parquet"


def another_column(folder: Path) -> Path:
    pq.write_table(table(range(5)).drop_columns("note"), folder / "sub" / "c.parquet")
    return folder / "sub" / "c.parquet"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (truncate, "is not a readable Parquet file"),
        (empty_file, "is not a readable Parquet file"),
        (
            another_type,
            r"its columns \(.*label: int64.*\) differ from those of .*a.parquet \(.*label: string, note: string\)",
        ),
        (
            another_column,
            r"its columns \(image: binary, label: string\) differ from those of .*a.parquet \(.*note: string\)",
        ),
    ],
)
def test_a_spoilt_file_is_named(tmp_path: Path, spoil: Callable[[Path], Path], said: str) -> None:
    folder = write(tmp_path / "data", 20)
    file = spoil(folder)
    error = refused(folder, said)
    assert error.what.startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("path", "folder", "holds"),
    [
        ("data", "data/out", True),
        ("data/../data/", "data/a/b/c", True),
        ("data/**/*.parquet", "data/out", True),
        ("s3://bucket/data", "s3://bucket/data/out", True),
        ("data", "data/_out", False),
        ("data", "data/.cache/out", False),
        ("data", "data", False),
        ("data", "data-more", False),
        ("data/out", "data", False),
        ("data/*.parquet", "data/out", False),
        ("data/a.parquet", "data/out", False),
        ("s3://bucket/data", "data/out", False),
        ("sample:digits", "sample:digits/out", False),
    ],
)
def test_what_would_be_read_with_a_source(
    path: str, folder: str, holds: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert stream.holds(path, Folder(folder)) is holds


def test_a_name_that_is_not_text(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", 20)
    (folder / "sub" / "c.parquet").rename(folder / "sub" / "\udcff.parquet")
    with pytest.raises(DataError, match=r"has a file whose name is not UTF-8 \('sub/\\udcff.parquet'\)"):
        stream.scan(str(folder), NOWHERE)


def test_nothing_to_read(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "there is no such file or folder")
    refused(tmp_path, "there is no Parquet file")
    refused(tmp_path / "*.parquet", "there is no Parquet file")
    pq.write_table(table(range(0)), tmp_path / "a.parquet")
    refused(tmp_path, "the dataset has no rows")
    refused(tmp_path / "a.parquet", "the dataset has no rows")


def test_columns_are_checked_when_a_source_is_opened(tmp_path: Path) -> None:
    pq.write_table(table(range(4)).rename_columns(["image", "lable", "note"]), tmp_path / "a.parquet")
    refused(tmp_path, "there is no column 'label'; did you mean 'lable'")


RAYS = """
import sys
from raygen.datasets import stream
from raygen.datasets.storage import Folder
source = stream.scan(sys.argv[1], Folder("."))
print(source.arrow.field("image").type)
"""


def test_rays_tensors_are_known_where_ray_is_not_imported(tmp_path: Path) -> None:
    from ray.data.extensions import ArrowTensorTypeV2

    kind = ArrowTensorTypeV2((8, 8, 3), pa.uint8())
    storage = pa.array([[0] * 192] * 3, pa.large_list(pa.uint8()))
    pq.write_table(pa.table({"image": pa.ExtensionArray.from_storage(kind, storage)}), tmp_path / "a.parquet")
    done = subprocess.run([sys.executable, "-c", RAYS, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(kind), done.stderr


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9])
def test_the_share_held_out_is_close_to_what_was_asked(share: float) -> None:
    rows = 100_000
    held = stream.holdout_mask("a.parquet", np.arange(rows), share)
    assert held.dtype == bool
    assert abs(held.mean() - share) < 5 * (share * (1 - share) / rows) ** 0.5
    for step in (2, 4, 7, 100):  # nor is any part of the file spared
        assert abs(held[::step].mean() - share) < 5 * (share * (1 - share) / (rows / step)) ** 0.5


def test_the_split_depends_on_the_row_and_the_file_alone() -> None:
    rows = np.arange(1000)
    held = stream.holdout_mask("a.parquet", rows, 0.3)
    backwards = np.random.default_rng(0).permutation(rows)
    np.testing.assert_array_equal(stream.holdout_mask("a.parquet", backwards, 0.3), held[backwards])
    pieces = [stream.holdout_mask("a.parquet", rows[start : start + 7], 0.3) for start in range(0, 1000, 7)]
    np.testing.assert_array_equal(np.concatenate(pieces), held)
    other = stream.holdout_mask("b.parquet", rows, 0.3)
    assert 0.4 < (other[held]).mean() / 0.3 < 1.6  # unrelated
    assert (other != held).any()
    assert (stream.holdout_mask("a.parquet", rows, 0.4) >= held).all()  # more is held out, none is let go


def test_the_split_never_changes() -> None:
    """A new release that splits otherwise would let a trained generator be judged on rows that it has seen."""
    held = stream.holdout_mask("part-00000.parquet", np.arange(40), 0.25)
    assert np.flatnonzero(held).tolist() == [0, 1, 11, 13, 15, 16, 17, 19, 20, 25, 27, 30, 31, 37, 38]
