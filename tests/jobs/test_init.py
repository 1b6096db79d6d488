"""``init``: the first spec of a dataset loads, and says what it left out and why."""

import io
import re
from pathlib import Path

import numpy as np
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
    unsaid = {key: value for key, value in yaml.safe_load(text).items() if key != "gate"}
    assert load_spec(unsaid) == spec  # the gate that it writes is the one that a spec without has
    return text, spec


def test_pictures_labels_and_text(tmp_path: Path) -> None:
    text, spec = written(table(label=labels(), note=texts()), tmp_path / "pets.parquet")
    assert spec.name == "pets"
    assert spec.dataset.fields == {"image": ImageField(height=8, width=12, channels=1), "label": CategoryField()}
    assert spec.generator.family == "gan"
    assert spec.generator.condition == "label"
    assert spec.augment is not None
    assert spec.augment.balance == "label"
    assert "label_agreement" in [rule.metric for rule in spec.gate]
    assert "    # note: left out: 40 distinct values in 40 rows: too many for a category\n" in text


def test_without_a_label(tmp_path: Path) -> None:
    _, spec = written(table(note=texts()), tmp_path / "pets.parquet")
    assert spec.generator.condition is None
    assert spec.augment is not None
    assert spec.augment.balance is None


def test_a_column_with_one_value_is_nothing_to_ask_for(tmp_path: Path) -> None:
    _, spec = written(table(source=pa.array(["scan"] * ROWS), label=labels()), tmp_path / "pets.parquet")
    assert spec.generator.condition == "label"
    _, spec = written(table(source=pa.array(["scan"] * ROWS)), tmp_path / "scans.parquet")
    assert spec.generator.condition is None


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
        (pa.table({"blob": [b"x"] * ROWS}), "no column can be used"),
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
    """What is left is a table."""
    text, spec = written(pa.table({"image": pa.array([png(4, 4)] * ROWS), "label": labels()}), tmp_path / "a.parquet")
    assert "    # image: left out: binary: 4 x 4 pixels; " in text
    assert spec.generator.family == "autoregressive"


def adult(rows: int) -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "id": pa.array(range(rows)),
            "age": pa.array(rng.integers(17, 91, rows), mask=rng.random(rows) < 0.1),
            "born": pa.array(rng.integers(0, 20_000, rows), pa.int32()).view(pa.date32()),
            "review": [f"this is what customer number {row} told us" for row in range(rows)],
            "tags": [["a"]] * rows,
            "sex": np.where(rng.random(rows) < 0.5, "f", "m"),
            "state": [f"state {n}" for n in rng.integers(0, 50, rows)],
            "country": ["Norway"] * rows,
        }
    )


def test_a_table(tmp_path: Path) -> None:
    text, spec = written(adult(500), tmp_path / "adult.parquet")
    kinds = {name: field.kind for name, field in spec.dataset.fields.items()}
    assert kinds == {
        "id": "identifier",
        "age": "number",
        "born": "datetime",
        "sex": "category",
        "state": "category",
        "country": "constant",
    }
    assert "    # review: left out: free text (8 words a row), which is not supported yet\n" in text
    assert "    # tags: left out: list<element: string> columns are not supported (a nested type)\n" in text
    assert (spec.generator.family, spec.generator.condition) == ("autoregressive", None)
    assert (spec.train.schedule, spec.train.epochs, spec.train.batch_size) == ("cosine", 100, 32)
    assert spec.augment is not None
    assert (spec.augment.rows, spec.augment.balance) == (1000, None)
    asked = text.replace("autoregressive}", "autoregressive, condition: sex}")
    balanced = load_spec(yaml.safe_load(re.sub("# or, with condition: sex .*: balance", "balance", asked)))
    assert balanced.augment is not None
    assert (balanced.generator.condition, balanced.augment.balance) == ("sex", "sex")


def test_a_large_table_is_looked_at_all_over(tmp_path: Path) -> None:
    """What is the same in the rows that were looked at may not be so in the others."""
    table = adult(30_000).append_column("year", pa.array(np.arange(30_000) // 10_000 + 2000))
    table = table.append_column("seldom", pa.array([None] * 29_999 + ["x"]))
    table = table.append_column("note", pa.array(["-"] * 12_000 + table["review"][12_000:].to_pylist()))
    text, spec = written(table, tmp_path / "adult.parquet")
    assert "    # note: left out: free text" in text
    kinds = {name: field.kind for name, field in spec.dataset.fields.items()}
    assert (kinds["year"], kinds["country"], kinds["seldom"]) == ("number", "category", "category")
    assert "as 10,000 of 30,000 rows look" in text
    assert (spec.train.epochs, spec.train.batch_size) == (25, 1024)


@pytest.mark.parametrize("rows", [1, 2, 5, 19])
def test_a_few_rows(tmp_path: Path, rows: int) -> None:
    _, spec = written(adult(rows).drop_columns(["country"]), tmp_path / "adult.parquet")
    assert spec.train.batch_size == 2


def test_columns_that_are_odd(tmp_path: Path) -> None:
    odd = {
        "x": [1.5, float("inf"), float("nan"), None],
        "y": [float("nan")] * 4,
        "none": pa.nulls(4, pa.float32()),
        "void": pa.nulls(4),
        "one": [7] * 4,
    }
    table = pa.table(odd).append_column("twice", pa.array([1] * 4)).append_column("twice", pa.array([2] * 4))
    text, spec = written(table, tmp_path / "odd.parquet")
    kinds = {name: field.kind for name, field in spec.dataset.fields.items()}
    assert kinds == {"x": "number", "y": "constant", "none": "constant", "void": "constant", "one": "constant"}
    assert "    # twice: left out: 2 columns are called so\n" in text


def test_two_thousand_columns(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    text, spec = written(pa.table({f"c{n}": rng.normal(size=3000) for n in range(2000)}), tmp_path / "wide.parquet")
    assert len(spec.dataset.fields) == 2000
    assert "as 1,000 of 3,000 rows look" in text
