"""``init``: the first spec of a dataset loads, and says what it left out and why."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from raygen.datasets import schema, stream
from raygen.datasets.storage import Folder
from raygen.errors import DataError
from raygen.jobs.init import first_spec
from raygen.load import load_spec
from raygen.spec import CategoryField, ImageField, Spec

ROWS = 40


def png(height: int = 8, width: int = 12) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def table(**columns: pa.Array) -> pa.Table:
    return pa.table({"image": pa.array([png()] * ROWS), **columns})


def labels() -> pa.Array:
    return pa.array([row % 4 for row in range(ROWS)])


def texts() -> pa.Array:
    return pa.array([f"row {row}" for row in range(ROWS)])


def written(table: pa.Table, file: Path) -> tuple[str, Spec]:
    """The spec of a table, as text and as it loads; and it fits the data."""
    pq.write_table(table, file)
    text = first_spec(str(file))
    saved = file.parent / "spec.yaml"
    saved.write_text(text, encoding="utf-8")
    spec = load_spec(saved)
    assert spec.dataset.path == str(file)
    schema.check(spec.dataset.fields, stream.scan(spec.dataset.path, Folder(file.parent)).arrow, str(file))
    return text, spec


def test_pictures_labels_and_text(tmp_path: Path) -> None:
    text, spec = written(table(label=labels(), note=texts()), tmp_path / "pets.parquet")
    assert spec.name == "pets"
    assert spec.dataset.fields == {"image": ImageField(height=8, width=12, channels=1), "label": CategoryField()}
    assert spec.generator.family == "gan"
    assert spec.generator.condition == "label"
    assert spec.augment is not None
    assert spec.augment.balance == "label"
    assert [rule.metric for rule in spec.gate] == ["label_agreement"]
    assert "    # note: left out: 40 distinct values in 40 rows: too many for a category\n" in text


def test_without_a_label(tmp_path: Path) -> None:
    _, spec = written(table(note=texts()), tmp_path / "pets.parquet")
    assert spec.generator.condition is None
    assert spec.augment is not None
    assert spec.augment.balance is None
    assert spec.gate == []


def test_a_column_with_one_value_is_nothing_to_ask_for(tmp_path: Path) -> None:
    _, spec = written(table(source=pa.array(["scan"] * ROWS), label=labels()), tmp_path / "pets.parquet")
    assert spec.generator.condition == "label"
    _, spec = written(table(source=pa.array(["scan"] * ROWS)), tmp_path / "scans.parquet")
    assert (spec.generator.condition, spec.gate) == (None, [])


def test_a_second_picture_is_left_out(tmp_path: Path) -> None:
    text, spec = written(table(mask=pa.array([png()] * ROWS), label=labels()), tmp_path / "pets.parquet")
    assert list(spec.dataset.fields) == ["image", "label"]
    assert "# mask: left out: a generator makes one image column; this is the second" in text


ODD = [
    "a b",
    "a:b",
    "a: b",
    "a:",
    "ä🦊",
    "it's",
    '"x"',
    "on",
    "No",
    "null",
    "5",
    "1e5",
    ".5",
    ".inf",
    "#x",
    "{x}",
    "-",
    "ü",
    "x,y",
    "*x",
    "y/n",
    "~",
]


@pytest.mark.parametrize("name", ODD)
def test_odd_column_names_are_quoted(tmp_path: Path, name: str) -> None:
    text, spec = written(table(**{name: labels(), f"{name} as text": texts()}), tmp_path / "pets.parquet")
    assert list(spec.dataset.fields) == ["image", name]
    assert spec.generator.condition == name
    assert spec.augment is not None
    assert spec.augment.balance == name
    assert "as text: left out: 40 distinct values" in text
    assert list(yaml.safe_load(text)["dataset"]["schema"]) == ["image", name]  # for any other reader, too


@pytest.mark.parametrize("name", ["two\nlines", "tab\tbed", " x ", "\u2028", "\x7f"])
def test_column_names_with_white_space_are_quoted(tmp_path: Path, name: str) -> None:
    _, spec = written(table(**{name: labels(), f"{name} as\ntext": texts()}), tmp_path / "pets.parquet")
    assert list(spec.dataset.fields) == ["image", name]
    assert spec.generator.condition == name


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("pets.parquet", "pets"),
        ("my pets (1).parquet", "my-pets-1"),
        ("2024.parquet", "2024"),
        ("1e5.parquet", "1e5"),
        ("2024-05-06.parquet", "2024-05-06"),
        ("on.parquet", "on"),
        ("null.parquet", "null"),
        ("ü.parquet", "dataset"),
        ("_x_.parquet", "x"),
        ("it's.parquet", "it-s"),
    ],
)
def test_the_name_comes_from_the_file(tmp_path: Path, file: str, name: str) -> None:
    _, spec = written(table(label=labels()), tmp_path / file)
    assert spec.name == name


def test_folders_and_globs(tmp_path: Path) -> None:
    folder = tmp_path / "my pets"
    folder.mkdir()
    pq.write_table(table(label=labels()), folder / "a.parquet")
    for data, name in [(f"{folder}", "my-pets"), (f"{folder}/", "my-pets"), (f"{folder}/*.parquet", "dataset")]:
        spec = load_spec(yaml.safe_load(first_spec(data)))
        assert (spec.name, spec.dataset.path) == (name, data)


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(table(label=labels()), tmp_path / "pets.parquet")
    first_spec("pets.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["pets.parquet"]


def test_few_rows_get_a_batch_they_can_fill(tmp_path: Path) -> None:
    _, spec = written(table(label=labels()), tmp_path / "pets.parquet")
    assert spec.train.batch_size < ROWS * (1 - spec.dataset.holdout)


def test_without_pictures(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    for table_, said in [
        (pa.table({"label": labels()}), "has no image column"),
        (pa.table({"note": texts()}), "no column can be used"),
        (table(label=labels()).slice(0, 0), "the dataset has no rows"),
    ]:
        pq.write_table(table_, file)
        with pytest.raises(DataError, match=said) as caught:
            first_spec(str(file))
        assert caught.value.what.startswith(str(file))
    with pytest.raises(DataError, match="no such file"):
        first_spec(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("sizes", "frame"),
    [
        ([(16, 16), (48, 48), (30, 20)], (30, 20)),
        ([(480, 640), (1600, 1200), (480, 640)], (48, 64)),  # small enough to try
        ([(4, 4), (4, 4), (6, 5)], (8, 8)),
        ([(1, 3000), (1, 3000), (2, 3000)], (8, 64)),
    ],
)
def test_pictures_of_several_sizes(tmp_path: Path, sizes: list[tuple[int, int]], frame: tuple[int, int]) -> None:
    pictures = [png(*sizes[row % 3]) for row in range(ROWS - 1)]
    text, spec = written(pa.table({"image": pa.array([*pictures, b"broken"]), "label": labels()}), tmp_path / "pets.parquet")
    height, width = frame
    assert spec.dataset.fields["image"] == ImageField(height=height, width=width, channels=1, resize="crop")
    assert "resize: crop}  # or pad, or stretch: sizes differ" in text
    assert "resize" not in written(table(label=labels()), tmp_path / "alike.parquet")[0]


def test_one_picture_in_colour_among_grey_ones(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20)).save(buffer, "PNG")
    pictures = pa.array([png()] * (ROWS - 1) + [buffer.getvalue()])
    _, spec = written(pa.table({"image": pictures, "label": labels()}), tmp_path / "pets.parquet")
    assert spec.dataset.fields["image"] == ImageField(height=8, width=12, channels=3, resize="crop")


def test_why_the_only_picture_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": pa.array([png(4, 4)] * ROWS), "label": labels()}), file)
    with pytest.raises(DataError) as caught:
        first_spec(str(file))
    assert "4 x 4 pixels" in str(caught.value)
