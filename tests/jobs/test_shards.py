"""What a dataset holds: each way of asking for it, the columns that are carried along, and every format it can have."""

import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

import raygen
from raygen.datasets import images
from raygen.generators.generator import Generator
from raygen.jobs.project import Project
from raygen.spec import ImageField

Write = Callable[..., Path]
Trained = Callable[[dict[str, Any]], Project]
PIXELS = ImageField(height=28, width=28, channels=1)
REAL = {0: 60, 1: 60, 2: 60, 3: 30}


def read(folder: Path) -> pa.Table:
    """The rows in the order of the files."""
    return pa.concat_tables([pq.read_table(file) for file in sorted(folder.rglob("*.parquet"))])


def pixels(column: pa.ChunkedArray) -> np.ndarray:
    return images.decode(column.combine_chunks(), PIXELS, str)


def counts(table: pa.Table) -> dict[Any, int]:
    return dict(Counter(table["label"].to_pylist()))


@pytest.fixture(scope="session")
def real(pets: Path) -> pa.Table:
    return read(pets)


@pytest.fixture
def generator(base: dict[str, Any], trained: Trained) -> Generator:
    return Generator.load(trained({**base, "augment": {"rows": 1}}).trained().uri)


# --- new rows


def test_balanced_rows(write: Write) -> None:
    table = read(write(rows=203, balance="label"))
    assert counts(table) == {0: 51, 1: 51, 2: 51, 3: 50}
    assert table["_row"].to_pylist() == list(range(203))
    assert table.column_names == ["image", "label", "_row"]


def test_rows_with_the_frequencies_of_the_data(write: Write, real: pa.Table) -> None:
    found = counts(read(write(rows=190)))
    assert found == counts(real)


def test_up_to_the_largest_class(write: Write, real: pa.Table) -> None:
    folder = write(balance="label")
    made = counts(read(folder))
    before = counts(real)
    largest = max(before.values())
    assert {label: before[label] + made.get(label, 0) for label in before} == dict.fromkeys(before, largest)
    manifest = json.loads((folder / "_raygen" / "manifest.json").read_text())
    assert manifest["counts"] == {str(label): n for label, n in made.items()}
    assert manifest["rows"] == 4 * largest - len(real)


def test_up_to_a_level(write: Write, real: pa.Table) -> None:
    made, before = counts(read(write(balance="label", to=100))), counts(real)
    assert made == {label: 100 - n for label, n in before.items()}


def test_exact_counts(write: Write) -> None:
    folder = write(classes={3: 70, 0: 40, 1: 0})
    assert counts(read(folder)) == {0: 40, 3: 70}
    for file in sorted((folder / "data").iterdir())[:2]:  # mixed, not sorted
        assert set(counts(pq.read_table(file))) == {0, 3}


def test_a_class_that_nobody_knows(write: Write) -> None:
    with pytest.raises(raygen.RaygenError) as caught:
        write(classes={0: 1, 8: 4})
    assert caught.value.what == "label has no value 8"
    assert caught.value.hint == "its values are: 0, 1, 2, 3"
    with pytest.raises(raygen.RaygenError, match="label has no value '3'"):
        write(classes={"3": 4})


def test_nothing_to_make(write: Write, tmp_path: Path) -> None:
    with pytest.raises(raygen.RaygenError, match=r"every label has 20 rows already: there is nothing to make") as caught:
        write(balance="label", to=20)
    assert "augment.to" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_dataset_is_extended_without_overlap(write: Write, generator: Generator) -> None:
    first, second = read(write("a", rows=120, seed=5)), read(write("b", rows=80, start=120, seed=5, balance="label"))
    assert second["_row"].to_pylist() == list(range(120, 200))
    assert counts(second) == dict.fromkeys(range(4), 20)
    for table, rows in ((first, range(120)), (second, range(120, 200))):
        again = generator.sample(rows, 5, table["label"])
        assert again.equals(table.drop_columns(["_row"]))
    everything = [bytes(image) for image in pixels(pa.concat_tables([first, second])["image"])]
    assert len(set(everything)) == 200


def test_a_sample_is_what_is_written(base: dict[str, Any], write: Write, trained: Trained) -> None:
    asked = {"rows": 130, "start": 70, "seed": 3, "shard_rows": 50}
    table = read(write(**asked))
    spec = {**base, "augment": asked}
    trained(spec)
    for rows in (range(70, 200), range(99, 121), range(199, 200)):
        assert raygen.sample(spec, rows).equals(table.slice(rows.start - 70, len(rows)))
    for rows in (range(69, 80), range(190, 201), range(80, 80), range(80, 90, 2)):
        with pytest.raises(raygen.RaygenError, match=r"is not a range of rows of this dataset\n  it has the rows 70 to 199"):
            raygen.sample(spec, rows)
    with pytest.raises(raygen.RaygenError, match="variants of real rows, and no new ones"):
        raygen.sample({**base, "augment": {"variants": 1}}, range(3))


def test_new_rows_beside_the_real_ones(write: Write, real: pa.Table) -> None:
    folder = write(rows=60, include_real=True)
    table = pq.ParquetDataset(folder / "data").read()  # fails where the schema of a part differs
    schemas = [pq.read_schema(file) for file in sorted((folder / "data").iterdir())]
    said = [{k: v for k, v in arrow.metadata.items() if not k.startswith(b"raygen.")} for arrow in schemas]
    assert all(arrow.equals(schemas[0]) for arrow in schemas)
    assert all(metadata == said[0] for metadata in said)
    assert table.column_names == ["image", "label", "_row", "_source"]
    assert table["_source"].to_pylist() == ["synthetic"] * 60 + ["real"] * 190
    assert table["_row"].to_pylist() == [*range(60), *range(190)]
    assert table.slice(60).select(["image", "label"]).equals(real.select(["image", "label"]))


# --- pictures of several sizes


@pytest.fixture
def mixed(base: dict[str, Any], real: pa.Table, tmp_path: Path) -> dict[str, Any]:
    """The spec of a source in which every picture has its own size, form and colours."""
    files = []
    for row, image in enumerate(pixels(real["image"])[:, 0]):
        buffer = io.BytesIO()
        mode, form = [("L", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("LA", "PNG")][row % 4]
        size = [(28, 28), (40, 31), (1 + row, 64), (64, 1)][row // 4 % 4]
        Image.fromarray(image).resize(size).convert(mode).save(buffer, form)
        files.append({"bytes": buffer.getvalue(), "path": f"{row}.{form}"})
    pq.write_table(
        real.set_column(0, real.schema.field("image"), pa.array(files, real.schema.field("image").type)),
        tmp_path / "mixed.parquet",
    )
    image = {"kind": "image", "height": 20, "width": 24, "channels": 3, "resize": "pad"}
    dataset = {"path": str(tmp_path / "mixed.parquet"), "schema": {**base["dataset"]["schema"], "image": image}}
    return {**base, "name": "mixed", "storage": str(tmp_path / "store"), "dataset": dataset}


@pytest.mark.parametrize("asked", [{"rows": 30, "include_real": True}, {"variants": 2, "include_real": True}], ids=str)
@pytest.mark.parametrize("form", ["source", "tensor"])
def test_a_dataset_of_resized_rows_has_one_size(
    write: Write, mixed: dict[str, Any], real: pa.Table, asked: dict[str, Any], form: str
) -> None:
    folder = write(spec=mixed, **asked, format={"images": form})
    table = read(folder)
    kind = pa.fixed_shape_tensor(pa.uint8(), [20, 24, 3]) if form == "tensor" else real.schema.field("image").type
    assert table.schema.field("image").type == kind
    frame = ImageField(height=20, width=24, channels=3)
    images.decode(table["image"].combine_chunks(), frame, str)  # fails where one is of another size
    kept = table.filter(pa.array([source == "real" for source in table["_source"].to_pylist()]))["image"]
    resized = ImageField(height=20, width=24, channels=3, resize="pad")
    sources = pq.read_table(mixed["dataset"]["path"])["image"].combine_chunks()
    np.testing.assert_array_equal(images.decode(kept.combine_chunks(), frame, str), images.decode(sources, resized, str))
    assert not raygen.verify(str(folder)).problems


def test_variants_of_resized_rows(write: Write, mixed: dict[str, Any], trained: Trained, real: pa.Table) -> None:
    generator = Generator.load(trained({**mixed, "augment": {"rows": 1}}).trained().uri)
    frame = ImageField(height=20, width=24, channels=3)
    table = read(write(spec=mixed, variants=1, seed=9, strength=0.25))
    assert table.select(["score", "tags"]).equals(real.select(["score", "tags"]))
    there = images.decode(table["image"].combine_chunks(), frame, str)
    given = generator.codec.encode(pq.read_table(mixed["dataset"]["path"]))["image"]
    np.testing.assert_array_equal(there, generator.variants(given, range(190), 9, np.asarray(real["label"]), 1, 0.25))


def test_a_picture_of_another_size_is_refused_without_resize(write: Write, mixed: dict[str, Any]) -> None:
    del mixed["dataset"]["schema"]["image"]["resize"]
    with pytest.raises(raygen.RaygenError, match=r"mixed.parquet, row 0: the image is 28 x 28 pixels") as caught:
        write(spec=mixed, variants=1)
    assert "resize" in caught.value.hint


# --- variants


def test_variants_carry_everything_else_along(write: Write, real: pa.Table, generator: Generator) -> None:
    table = read(write(variants=2, seed=9, strength=0.25))
    assert table.column_names == [*real.column_names, "_row", "_variant"]
    assert table["_row"].to_pylist() == [row for row in range(190) for _ in range(2)]
    assert table["_variant"].to_pylist() == [1, 2] * 190
    twice = real.take([row for row in range(190) for _ in range(2)])
    for name in ("label", "score", "tags", "who"):
        assert table.schema.field(name).equals(real.schema.field(name))
        assert table[name].to_pylist() == twice[name].to_pylist()
    bits = [np.asarray(rows["odd"]).view(np.uint64) for rows in (table, twice)]
    np.testing.assert_array_equal(*bits)
    classes = np.asarray(real["label"])
    for number in (1, 2):
        there = pixels(table["image"].take(np.arange(number - 1, 380, 2)))
        here = generator.variants(pixels(real["image"]), range(190), 9, classes, number, 0.25)
        np.testing.assert_array_equal(there, here)
    assert len({bytes(image) for image in pixels(table["image"])}) > 370


def test_real_rows_stay_as_they_are_before_their_variants(write: Write, real: pa.Table) -> None:
    table = read(write(variants=1, include_real=True))
    assert table["_variant"].to_pylist() == [0, 1] * 190
    assert table["_source"].to_pylist() == ["real", "synthetic"] * 190
    assert table["_row"].to_pylist() == [row for row in range(190) for _ in range(2)]
    whole = table.take(np.arange(0, 380, 2)).select(real.column_names)
    assert whole["image"].to_pylist() == real["image"].to_pylist()  # the very bytes, and the path
    assert whole["who"].to_pylist() == real["who"].to_pylist()


def test_of_another_dataset(write: Write, real: pa.Table, tmp_path: Path) -> None:
    """Another folder, another order of columns, other columns, pictures stored in another way, tiny row groups."""
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(pixels(real["image"])[:30, 0].copy())
    other = pa.table({"label": real["label"].slice(0, 30), "note": [f"n{n}" for n in range(30)], "image": tensors})
    (tmp_path / "other").mkdir()
    for name, start in (("x", 0), ("y", 13), ("z", 17)):
        stop = {"x": 13, "y": 17, "z": 30}[name]
        pq.write_table(other.slice(start, stop - start), tmp_path / "other" / f"{name}.parquet", row_group_size=5)
    table = read(write(variants=3, source=str(tmp_path / "other"), include_real=True, shard_rows=28))
    assert table.column_names == ["label", "note", "image", "_row", "_variant", "_source"]
    assert table["note"].to_pylist() == [f"n{n}" for n in range(30) for _ in range(4)]
    assert pa.types.is_struct(table.schema.field("image").type)  # as the generator's own data has them
    np.testing.assert_array_equal(pixels(table["image"].take(np.arange(0, 120, 4))), pixels(real["image"])[:30])
    sizes = [pq.read_metadata(file).num_rows for file in sorted((tmp_path / "out" / "data").iterdir())]
    assert sizes == [20, 20, 12, 16, 20, 20, 12]  # row groups of 5, 5, 3 | 4 | 5, 5, 3 rows: 7 at most make a file


def test_a_class_that_the_generator_never_saw(write: Write, real: pa.Table, tmp_path: Path) -> None:
    label = pa.array([9 if row == 37 else int(value) for row, value in enumerate(np.asarray(real["label"]))], pa.int64())
    index = real.schema.get_field_index("label")
    pq.write_table(real.set_column(index, "label", label), tmp_path / "x.parquet", row_group_size=10)
    with pytest.raises(raygen.DataError) as caught:
        write(variants=1, source=str(tmp_path / "x.parquet"))
    assert caught.value.what == f"{tmp_path}/x.parquet, row 37: label is 9, which the generator never saw"


def test_a_picture_that_cannot_be_read(write: Write, real: pa.Table, tmp_path: Path) -> None:
    pictures = real["image"].to_pylist()
    pictures[33]["bytes"] = b"no picture"
    table = real.set_column(0, real.schema.field("image"), pa.array(pictures, real.schema.field("image").type))
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=16)
    with pytest.raises(raygen.DataError, match=r"x\.parquet, row 33: 10 bytes cannot be read as an image"):
        write(variants=1, source=str(tmp_path / "x.parquet"))


@pytest.mark.parametrize("name", ["_row", "_variant", "_source"])
def test_a_column_of_a_name_that_is_taken(write: Write, real: pa.Table, tmp_path: Path, name: str) -> None:
    pq.write_table(real.append_column(name, real["label"]), tmp_path / "x.parquet")
    with pytest.raises(raygen.DataError, match=f"has a column '{name}', a name that raygen uses"):
        write(variants=1, source=str(tmp_path / "x.parquet"))


# --- formats


def test_pictures_as_tensors_or_png(write: Write, real: pa.Table) -> None:
    source = read(write("source", rows=60))
    tensors, pngs = (read(write(kind, rows=60, format={"images": kind})) for kind in ("tensor", "png"))
    assert tensors.schema.field("image").type == pa.fixed_shape_tensor(pa.uint8(), (28, 28, 1))
    assert pngs.equals(source)
    np.testing.assert_array_equal(pixels(tensors["image"]), pixels(source["image"]))
    table = read(write("variants", variants=1, include_real=True, format={"images": "tensor"}))
    np.testing.assert_array_equal(pixels(table["image"].take(np.arange(0, 380, 2))), pixels(real["image"]))


@pytest.mark.parametrize("plain", ["list", "tensor", "binary"])
def test_png_of_a_source_that_has_none(
    write: Write, base: dict[str, Any], real: pa.Table, tmp_path: Path, plain: str
) -> None:
    kind = {
        "list": pa.list_(pa.list_(pa.float32(), 28), 28),
        "tensor": pa.fixed_shape_tensor(pa.uint8(), (28, 28)),
        "binary": pa.binary(),
    }[plain]
    column = images.encode(pixels(real["image"]), kind)
    pq.write_table(pa.table({"label": real["label"], "image": column}), tmp_path / "x.parquet", row_group_size=70)
    spec = {**base, "name": plain, "dataset": {**base["dataset"], "path": str(tmp_path / "x.parquet")}}
    as_is = read(write("source", spec, rows=30))
    assert as_is.schema.field("image").type == kind
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for asked in ({"rows": 30}, {"variants": 1, "include_real": True}, {"rows": 5, "include_real": True}):
        folder = write(f"png {sorted(asked)}", spec, format={"images": "png"}, **asked)
        table = read(folder)
        assert table.schema.field("image").type == struct
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        assert features["image"] == {"_type": "Image"}
        assert list(features) == table.column_names
        if asked == {"rows": 30}:
            np.testing.assert_array_equal(pixels(table["image"]), pixels(as_is["image"]))
        else:
            rows = np.flatnonzero(np.asarray(table["_source"]) == "real")
            np.testing.assert_array_equal(pixels(table["image"].take(rows)), pixels(real["image"]))


@pytest.mark.parametrize(
    ("name", "codec"), [(n, n.upper()) for n in ("zstd", "snappy", "gzip")] + [("none", "UNCOMPRESSED")]
)
def test_compression_and_row_groups(write: Write, name: str, codec: str) -> None:
    folder = write(rows=120, format={"compression": name, "row_group_rows": 20})
    for file, sizes in zip(sorted((folder / "data").iterdir()), [[20, 20, 10], [20, 20, 10], [20]], strict=True):
        footer = pq.read_metadata(file)
        groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
        assert [group.num_rows for group in groups] == sizes
        assert {group.column(index).compression for group in groups for index in range(4)} == {codec}
    assert read(folder)["_row"].to_pylist() == list(range(120))


def test_lz4(write: Write) -> None:
    folder = write(rows=20, format={"compression": "lz4"})
    (file,) = (folder / "data").iterdir()
    assert pq.read_metadata(file).row_group(0).column(0).compression.startswith("LZ4")
    assert duckdb.sql(f"select count(*) from '{file}'").fetchall() == [(20,)]


KINDS = {
    "integers": [3, -1, None, 12],
    "texts": ["a b", "ä/ö=?", None, "%41"],
    "bools": [True, False, None, True],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_for_each_class(write: Write, base: dict[str, Any], real: pa.Table, tmp_path: Path, kind: str) -> None:
    values = KINDS[kind]
    label = pa.array([values[row % 4] for row in range(190)])
    pq.write_table(pa.table({"image": real["image"], "label": label}), tmp_path / "x.parquet")
    spec = {**base, "name": kind, "dataset": {**base["dataset"], "path": str(tmp_path / "x.parquet")}}
    known = set(values)
    folder = write(spec=spec, rows=130, balance="label", format={"partition_by": "label"}, shard_rows=20)
    assert len(list((folder / "data").iterdir())) == len(known)
    expected = read(write("plain", spec, rows=130, balance="label"))
    assert "label" not in pq.read_schema(next((folder / "data").rglob("*.parquet"))).names
    partitioning = pads.HivePartitioning(pa.schema([("label", label.type)]))
    table = pads.dataset(folder / "data", format="parquet", partitioning=partitioning).to_table().sort_by("_row")
    assert table["_row"].to_pylist() == list(range(130))
    assert counts(table) == counts(expected)
    query = f"select label, count(*) from read_parquet('{folder}/data/**/*.parquet', hive_partitioning=true) group by 1"
    found = {str(value).lower(): n for value, n in duckdb.sql(query).fetchall()}
    assert found == {str(value).lower(): n for value, n in counts(expected).items()}


def test_the_card_says_what_it_is(write: Write) -> None:
    folder = write(variants=1, include_real=True, source=None)
    _, front, text = (folder / "README.md").read_text().split("---\n")
    head = yaml.safe_load(front)
    assert head["configs"] == [{"config_name": "default", "data_files": "data/*.parquet"}]
    assert head["size_categories"] == ["n<1K"]
    for said in ("380 synthetic and real rows", "`vae`", "seed 0", "`_variant`", "`_source`"):
        assert said in text
    head = yaml.safe_load(
        (write("p", rows=1500, format={"partition_by": "label"}) / "README.md").read_text().split("---\n")[1]
    )
    assert head["configs"][0]["data_files"] == "data/**/*.parquet"
    assert head["size_categories"] == ["1K<n<10K"]


def test_hugging_face_shows_pictures(write: Write, real: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    new = write("new", rows=40, format={"images": "png"})
    varied = write("varied", variants=1, include_real=True)
    for folder in (new, varied):
        files = [str(file) for file in sorted((folder / "data").iterdir())]
        loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"), split="train")
        table = read(folder)
        assert len(loaded) == len(table)
        assert loaded.column_names == table.column_names
        expected = pixels(table["image"])[:, 0]
        for row in range(0, len(table), 9):
            np.testing.assert_array_equal(np.asarray(loaded[row]["image"]), expected[row])
            assert loaded[row]["label"] == table["label"][row].as_py()


def test_another_dataset_takes_the_place_only_with_overwrite(write: Write) -> None:
    before = read(write(rows=60, seed=1))
    with pytest.raises(raygen.OutputError, match=r"augment.seed 1 there, 2 here.*\n.*--overwrite"):
        write(rows=60, seed=2)
    folder = write(rows=80, seed=2, overwrite=True)
    after = read(folder)
    assert (len(before), len(after)) == (60, 80)
    assert sorted(file.name for file in (folder / "_raygen").iterdir()) == ["manifest.json", "plan.json", "receipts"]
    assert after.equals(read(write("elsewhere", rows=80, seed=2)))
    stamps = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
    write(rows=80, seed=2, overwrite=True)  # it is there: nothing is made
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()} == stamps
