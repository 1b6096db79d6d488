"""What columns can be read as, what a first look makes of them, and the metadata that viewers read."""

import io
import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from raygen.datasets import schema
from raygen.errors import DataError
from raygen.spec import CategoryField, ConstantField, DataField, DatetimeField, IdentifierField, ImageField, NumberField

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
IMAGE = ImageField(height=8, width=8)
CATEGORY = CategoryField()


def png(height: int = 8, width: int = 12, mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def refusal(fields: dict[str, DataField], arrow: pa.Schema) -> str:
    with pytest.raises(DataError) as caught:
        schema.check(fields, arrow, "a.parquet")
    assert caught.value.what.startswith("a.parquet: ")
    return str(caught.value)


IMAGES = [
    pa.binary(),
    pa.large_binary(),
    STRUCT,
    pa.struct([("bytes", pa.large_binary())]),
    pa.list_(pa.list_(pa.float32(), 8), 8),
    pa.list_(pa.uint8(), 64),
    pa.fixed_shape_tensor(pa.uint8(), [8, 8, 3]),
]
CATEGORIES = [pa.string(), pa.large_string(), pa.int8(), pa.uint64(), pa.bool_(), pa.dictionary(pa.int8(), pa.string())]
NEITHER = [
    pa.float64(),
    pa.timestamp("us"),
    pa.list_(pa.uint8()),
    pa.struct([("path", pa.string())]),
    pa.struct([("bytes", pa.string())]),
    pa.null(),
    pa.date32(),
    pa.map_(pa.string(), pa.string()),
    pa.dictionary(pa.int8(), pa.float64()),
    pa.list_(pa.list_(pa.int8(), 8), 8),
]


@pytest.mark.parametrize("kind", IMAGES + CATEGORIES + NEITHER, ids=str)
def test_check_types(kind: pa.DataType) -> None:
    arrow = pa.schema([("x", kind)])
    if kind in IMAGES:
        schema.check({"x": IMAGE}, arrow, "a.parquet")
    else:
        assert f"column 'x' is of type {kind}, which cannot be read as kind 'image'" in refusal({"x": IMAGE}, arrow)
    if kind in CATEGORIES:
        schema.check({"x": CATEGORY}, arrow, "a.parquet")
    else:
        assert f"column 'x' is of type {kind}, which cannot be read as kind 'category'" in refusal({"x": CATEGORY}, arrow)


def test_check_names() -> None:
    arrow = pa.schema([("image", pa.binary()), ("label", pa.int64()), ("label", pa.string())])
    schema.check({"image": IMAGE}, arrow, "a.parquet")
    assert "there is no column 'imag'; did you mean 'image'?\n  its columns are: image, label" in refusal(
        {"imag": IMAGE}, arrow
    )
    assert "2 columns are called 'label'" in refusal({"image": IMAGE, "label": CATEGORY}, arrow)


def test_infer() -> None:
    rows = 40
    table = pa.table(
        {
            "id": pa.array(range(rows)),
            "file": pa.array([png()] * rows),
            "struct": pa.array([None] * 3 + [{"bytes": png(mode="RGB"), "path": None}] * (rows - 3), STRUCT),
            "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((rows, 9, 10, 3), np.uint8)),
            "sex": pa.array(["f", "m", None, "f"] * (rows // 4)).dictionary_encode(),
            "price": pa.array(np.linspace(0, 1, rows)),
            "blob": pa.array([b"\x00\x01"] * rows),
            "nothing": pa.array([None] * rows, pa.binary()),
            "tiny": pa.array([png(4, 4)] * rows),
            "text": pa.array([f"row {row}" for row in range(rows)]),
        }
    )
    fields, left_out = schema.infer(table, "a.parquet")
    assert fields == {
        "file": ImageField(height=8, width=12, channels=1),
        "struct": ImageField(height=8, width=12, channels=3),
        "tensor": ImageField(height=9, width=10, channels=3),
        "sex": CATEGORY,
    }
    assert left_out == {
        "id": "40 distinct values in 40 rows: too many for a category",
        "price": "double columns are not supported yet",
        "blob": "binary: 2 bytes cannot be read as an image (not an image)",
        "nothing": "binary: no picture in the first rows",
        "tiny": "binary: 4 x 4 pixels; pictures of 8 to 1024 pixels a side can be made",
        "text": "40 distinct values in 40 rows: too many for a category",
    }
    schema.check(fields, table.schema, "a.parquet")  # what is inferred can be read


@pytest.mark.parametrize(
    ("rows", "distinct", "taken"),
    [(1, 1, True), (2, 2, True), (4, 2, True), (4, 3, False), (100, 50, True), (100, 51, False), (5000, 1001, False)],
)
def test_infer_takes_no_identifier_for_a_category(rows: int, distinct: int, taken: bool) -> None:
    table = pa.table({"image": pa.array([png()] * rows), "x": pa.array([row % distinct for row in range(rows)])})
    fields, left_out = schema.infer(table, "a.parquet")
    assert ("x" in fields) == taken == ("x" not in left_out)


def test_infer_leaves_out_columns_of_one_name() -> None:
    table = pa.Table.from_arrays([pa.array([png()] * 4), pa.array([1] * 4), pa.array(["a"] * 4)], names=["i", "x", "x"])
    assert schema.infer(table, "a.parquet") == (
        {"i": ImageField(height=8, width=12, channels=1)},
        {"x": "2 columns are called so"},
    )


def test_infer_from_nothing_that_can_be_used() -> None:
    table = pa.table({"price": [0.5, 0.5], "tags": [["a"], []], "x": [1, 1]})
    with pytest.raises(DataError) as caught:
        schema.infer(table, "a.parquet")
    assert caught.value.what == (
        "a.parquet: no column can be used to learn from (price: constant; x: constant; "
        "tags: list<item: string> columns are not supported (a nested type))"
    )


LEARNT: list[tuple[str, pa.DataType]] = [
    *(("number", kind) for kind in (pa.int8(), pa.uint64(), pa.float16(), pa.float64())),
    *(("number", kind) for kind in (pa.decimal128(9, 2), pa.decimal256(50, -3))),
    *(("datetime", kind) for kind in (pa.date32(), pa.date64(), pa.time32("s"), pa.time64("ns"), pa.duration("us"))),
    *(("datetime", kind) for kind in (pa.timestamp("us"), pa.timestamp("ns", "Europe/Berlin"))),
    *(("identifier", kind) for kind in (pa.int32(), pa.string(), pa.large_string())),
    *(("constant", kind) for kind in (pa.null(), pa.list_(pa.int8()), pa.string(), pa.float32())),
]
UNREADABLE = [
    *(("number", kind) for kind in (pa.string(), pa.bool_(), pa.date32(), pa.dictionary(pa.int8(), pa.int8()), pa.null())),
    *(("datetime", kind) for kind in (pa.int64(), pa.string(), pa.month_day_nano_interval())),
    *(("identifier", kind) for kind in (pa.float64(), pa.bool_(), pa.binary())),
]
FIELDS: dict[str, DataField] = {
    "category": CATEGORY,
    "number": NumberField(),
    "datetime": DatetimeField(),
    "identifier": IdentifierField(),
    "constant": ConstantField(),
}


@pytest.mark.parametrize(("field", "kind"), LEARNT, ids=str)
def test_check_types_of_tables(field: str, kind: pa.DataType) -> None:
    schema.check({"x": FIELDS[field]}, pa.schema([("x", kind)]), "a.parquet")


@pytest.mark.parametrize(("field", "kind"), UNREADABLE, ids=str)
def test_check_refuses_types_of_tables(field: str, kind: pa.DataType) -> None:
    said = refusal({"x": FIELDS[field]}, pa.schema([("x", kind)]))
    assert f"column 'x' is of type {kind}, which cannot be read as kind '{field}'\n  a" in said


def test_infer_of_a_table() -> None:
    rows = 1000
    rng = np.random.default_rng(0)
    few = pa.array(rng.integers(0, 5, rows))
    many = pa.array([f"town {n}" for n in rng.integers(0, 900, rows)])
    instants = pa.array(np.arange(rows) * 3600)
    columns: dict[str, tuple[str, pa.Array]] = {
        "age": ("number", pa.array(rng.integers(17, 90, rows), pa.int8())),
        "gain": ("number", pa.array(rng.integers(0, 2, rows) * rng.integers(1, 10**5, rows))),
        "rate": ("number", pa.array(rng.normal(size=rows).astype(np.float16))),
        "price": ("number", pa.array([Decimal(int(n)) / 100 for n in rng.integers(0, 9999, rows)], pa.decimal128(9, 2))),
        "level": ("number", pa.array(rng.integers(0, 5, rows) * 1000)),  # few, but an amount
        "flag": ("category", pa.array(rng.random(rows) < 0.5)),
        "stars": ("category", few),
        "sex": ("category", pa.array(["f", "m", None, "f"] * (rows // 4))),
        "town": ("category", many),
        "brand": ("category", many.dictionary_encode()),
        "user_id": ("category", pa.array(rng.integers(10**6, 10**6 + 700, rows))),
        "born": ("datetime", instants.cast(pa.int32()).cast(pa.date32())),
        "clock": ("datetime", pa.array(np.arange(rows), pa.int64()).view(pa.time64("us"))),
        "seen": ("datetime", instants.view(pa.timestamp("s", "UTC"))),
        "took": ("datetime", instants.view(pa.duration("ms"))),
        "row": ("identifier", pa.array(range(10, rows + 10))),
        "orderId": ("identifier", pa.array(rng.permutation(10**6)[:rows])),
        "code": ("identifier", pa.array([f"{n:08x}" for n in rng.permutation(10**6)[:rows]])),
        "planet": ("constant", pa.array(["earth"] * rows)),
        "empty": ("constant", pa.nulls(rows, pa.float64())),
        "void": ("constant", pa.nulls(rows)),
        "seldom": ("category", pa.array(["x"] + [None] * (rows - 1))),
    }
    fields, left_out = schema.infer(pa.table({name: column for name, (_, column) in columns.items()}), "a.parquet")
    assert {name: field.kind for name, field in fields.items()} == {name: kind for name, (kind, _) in columns.items()}
    assert list(fields) == list(columns)
    assert left_out == {}


def test_infer_leaves_out_what_a_table_cannot_have() -> None:
    rows = 100
    table = pa.Table.from_arrays(
        [
            pa.array(np.linspace(0, 1, rows)),
            pa.array([f"this is what customer number {row} told us" for row in range(rows)]),
            pa.array([[1]] * rows),
            pa.array([{"a": 1}] * rows),
            pa.array([b"\x00\x01"] * rows),
            pa.array([(1, 1, 1)] * rows, pa.month_day_nano_interval()),
            pa.array([1] * rows),
            pa.array([2] * rows),
        ],
        names=["x", "review", "tags", "place", "blob", "span", "twice", "twice"],
    )
    fields, left_out = schema.infer(table, "a.parquet")
    assert fields == {"x": NumberField()}
    assert left_out == {
        "review": "free text (8 words a row), which is not supported yet",
        "tags": "list<item: int64> columns are not supported (a nested type)",
        "place": "struct<a: int64> columns are not supported (a nested type)",
        "blob": "binary: 2 bytes cannot be read as an image (not an image)",
        "span": "month_day_nano_interval columns are not supported",
        "twice": "2 columns are called so",
    }


def test_infer_of_five_rows() -> None:
    table = pa.table({"name": list("abcde"), "age": [31, 22, 57, 40, 38], "x": [0.1, None, float("nan"), 2, 1]})
    fields, _ = schema.infer(table, "a.parquet")
    assert {name: field.kind for name, field in fields.items()} == {"name": "category", "age": "number", "x": "number"}


def features(arrow: pa.Schema) -> dict[str, object]:
    found: dict[str, object] = json.loads(arrow.metadata[b"huggingface"])["info"]["features"]
    return found


def test_features_metadata() -> None:
    arrow = pa.schema(
        [
            ("image", STRUCT),
            ("name", pa.string()),
            ("label", pa.int64()),
            ("sure", pa.float64()),
            ("old", pa.bool_()),
            ("city", pa.dictionary(pa.int32(), pa.string())),
            ("tags", pa.list_(pa.struct([("k", pa.string())]))),  # Hugging Face has other names for these
            ("half", pa.float16()),
            ("day", pa.date32()),
        ]
    )
    assert features(schema.features_metadata(arrow)) == {
        "image": {"_type": "Image"},
        "name": {"dtype": "string", "_type": "Value"},
        "label": {"dtype": "int64", "_type": "Value"},
        "sure": {"dtype": "float64", "_type": "Value"},
        "old": {"dtype": "bool", "_type": "Value"},
        "city": {"dtype": "string", "_type": "Value"},
    }


def test_features_metadata_keeps_what_the_source_says() -> None:
    label = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    of_source = {"info": {"features": {"image": {"_type": "Image", "mode": "RGB"}, "label": label, "gone": {}}}}
    arrow = pa.schema(
        [("image", STRUCT), ("label", pa.int64()), ("_row", pa.int64())],
        metadata={b"huggingface": json.dumps(of_source).encode(), b"other": b"kept"},
    )
    made = schema.features_metadata(arrow)
    assert features(made) == {
        "image": {"_type": "Image", "mode": "RGB"},
        "label": label,
        "_row": {"dtype": "int64", "_type": "Value"},
    }  # nothing of columns that are not there
    assert made.metadata[b"other"] == b"kept"
    assert made.equals(arrow)
    assert schema.features_metadata(made).equals(made, check_metadata=True)


@pytest.mark.parametrize("broken", [b"{", b"[]", b'{"info": null}', b'{"info": {"features": null}}', b'"x"'])
def test_features_metadata_survives_a_source_that_is_broken(broken: bytes) -> None:
    arrow = pa.schema([("image", STRUCT)], metadata={b"huggingface": broken})
    assert features(schema.features_metadata(arrow)) == {"image": {"_type": "Image"}}


def test_columns_without_a_picture_struct_need_no_metadata() -> None:
    arrow = pa.schema([("image", pa.binary()), ("label", pa.int64())], metadata={b"other": b"kept"})
    assert schema.features_metadata(arrow).equals(arrow, check_metadata=True)


@pytest.mark.parametrize("said", [None, {"image": {"_type": "Image"}, "label": {"dtype": "int64", "_type": "Value"}}])
def test_another_type_for_a_column(said: dict[str, object] | None) -> None:
    metadata = {b"other": b"kept"} | ({b"huggingface": json.dumps({"info": {"features": said}}).encode()} if said else {})
    arrow = pa.schema([("image", STRUCT), ("label", pa.int64())], metadata=metadata)
    assert schema.with_column_type(arrow, "image", STRUCT) is arrow
    tensor = schema.with_column_type(arrow, "image", pa.fixed_shape_tensor(pa.uint8(), (8, 8, 1)))
    assert tensor.field("image").type == pa.fixed_shape_tensor(pa.uint8(), (8, 8, 1))
    assert tensor.metadata == {b"other": b"kept"}  # it is no Image to Hugging Face any more
    binary = pa.schema([("image", pa.binary()), ("label", pa.int64())], metadata=metadata)
    back = schema.with_column_type(binary, "image", STRUCT)
    assert back.names == ["image", "label"]
    assert back.field("image").type == STRUCT
    assert features(schema.features_metadata(back))["image"] == {"_type": "Image"}
