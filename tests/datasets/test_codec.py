"""A codec gives back exactly the columns it was fitted on, and survives as JSON."""

import io
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raygen.datasets import columns, images
from raygen.datasets.codec import Codec
from raygen.errors import DataError, RaygenError
from raygen.spec import CategoryField, DataField, ImageField

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8)).astype(np.uint8)
FIELDS: dict[str, DataField] = {
    "label": CategoryField(),
    "split": CategoryField(),
    "image": ImageField(height=8, width=8, channels=1),
    "old": CategoryField(),
}
ROWS = {
    "label": ["b", "a", None, "a", "c", "b"],
    "split": [3, 1, 2, 3, None, 1],
    "old": [True, None, False, True, True, None],
}


def source(image: pa.DataType = STRUCT) -> pa.Table:
    """A table with more columns than the fields name, not in their order, with metadata."""
    arrow = pa.schema(
        [
            pa.field("id", pa.int64()),
            pa.field("image", image, nullable=False, metadata={b"colour": b"no"}),
            pa.field("label", pa.dictionary(pa.int32(), pa.string())),
            pa.field("old", pa.bool_(), metadata={b"since": b"1999"}),
            pa.field("split", pa.int8()),
        ],
        metadata={b"huggingface": b'{"info": {"features": {"label": {"_type": "ClassLabel"}}}}', b"pandas": b"{}"},
    )
    arrays = {name: pa.array(values, arrow.field(name).type) for name, values in ROWS.items()}
    return (
        pa.table({**arrays, "id": pa.array(range(6)), "image": images.encode(PIXELS, image)}).select(arrow.names).cast(arrow)
    )


def fitted(table: pa.Table, fields: dict[str, DataField] = FIELDS) -> Codec:
    names = [name for name, field in fields.items() if isinstance(field, CategoryField)]
    counted = {name: columns.count(table[name].combine_chunks()) for name in names}
    return Codec.of(fields, table.schema, {name: columns.fit(count, count) for name, count in counted.items()})


def test_rows_there_and_back() -> None:
    table = source()
    codec = fitted(table)
    batch = codec.encode(table)
    assert {name: (array.dtype, array.shape) for name, array in batch.items()} == {
        "image": (np.dtype(np.uint8), (6, 1, 8, 8)),
        "label": (np.dtype(np.int64), (6,)),
        "old": (np.dtype(np.int64), (6,)),
        "split": (np.dtype(np.int64), (6,)),
    }
    np.testing.assert_array_equal(batch["image"], PIXELS)
    back = codec.decode(batch)
    back.validate(full=True)
    expected = table.select(["image", "label", "old", "split"])  # the order of the source
    assert back.schema.equals(expected.schema.remove_metadata().with_metadata(back.schema.metadata), check_metadata=True)
    assert back.schema.metadata == {b"huggingface": table.schema.metadata[b"huggingface"]}  # pandas' names an index: gone
    assert back.drop_columns("image").to_pylist() == expected.drop_columns("image").to_pylist()
    np.testing.assert_array_equal(codec.encode(back)["image"], PIXELS)


def test_chunks_slices_and_record_batches_encode_alike() -> None:
    table = source()
    codec = fitted(table)
    whole = codec.encode(table)
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1, 3), table.slice(4)])
    for name, values in codec.encode(chunked).items():
        np.testing.assert_array_equal(values, whole[name])
    for name, values in codec.encode(table.slice(2, 3)).items():
        np.testing.assert_array_equal(values, whole[name][2:5])
    for name, values in codec.encode(table.to_batches()[0]).items():
        np.testing.assert_array_equal(values, whole[name])


def test_no_rows_there_and_back() -> None:
    table = source()
    codec = fitted(table)
    assert codec.decode(codec.encode(table.slice(0, 0))).schema == table.select(list(codec.fields)).schema


@pytest.mark.parametrize(
    "image",
    [STRUCT, pa.binary(), pa.list_(pa.list_(pa.uint8(), 8), 8), pa.fixed_shape_tensor(pa.float32(), [8, 8, 1])],
    ids=str,
)
def test_json_there_and_back(image: pa.DataType) -> None:
    codec = fitted(source(image))
    again = Codec.from_json(json.loads(json.dumps(codec.to_json())))
    assert again == codec
    assert again.arrow.equals(codec.arrow, check_metadata=True)
    assert [type(value) for value in again.categories["old"].values] == [bool, bool, type(None)]
    assert again.categories["old"].counts == (1, 3, 2)
    assert again.decode(again.encode(source(image))).equals(codec.decode(codec.encode(source(image))))
    assert json.dumps(again.to_json()) == json.dumps(codec.to_json())


RAYS = """
import json, sys
import numpy as np, pyarrow as pa
from raygen.datasets.codec import Codec
assert "ray" not in sys.modules
codec = Codec.from_json(json.load(sys.stdin))
table = codec.decode({"image": np.zeros((2, 3, 8, 9), np.uint8)})
print(table.schema.field("image").type, table["image"].combine_chunks().to_numpy().shape)
"""


def test_rays_tensor_type_is_known_where_ray_is_not_imported() -> None:
    from ray.data.extensions import ArrowTensorTypeV2

    kind = ArrowTensorTypeV2((8, 9, 3), pa.uint8())
    codec = Codec.of({"image": ImageField(height=8, width=9)}, pa.schema([("image", kind)]), {})
    state = json.dumps(codec.to_json())
    done = subprocess.run([sys.executable, "-c", RAYS], input=state, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"{kind} (2, 8, 9, 3)", done.stderr


def test_select_keeps_the_order_of_the_source() -> None:
    codec = fitted(source())
    chosen = codec.select(["split", None, "image"])
    assert list(chosen.fields) == chosen.arrow.names == ["image", "split"]
    assert list(chosen.categories) == ["split"]
    assert chosen.image == ("image", FIELDS["image"])
    assert chosen.decode(chosen.encode(source())).column_names == ["image", "split"]


def test_class_index() -> None:
    codec = fitted(source())
    assert [codec.class_index("label", value) for value in ("a", "b", "c", None)] == [0, 1, 2, 3]
    assert codec.class_index("split", 3) == 2
    assert codec.class_index("old", True) == 1
    for name, value in (("label", "z"), ("split", True), ("old", 1), ("split", "3")):
        with pytest.raises(RaygenError) as caught:
            codec.class_index(name, value)
        assert caught.value.what == f"{name} has no value {value!r}"
        assert caught.value.hint.startswith("its values are: ")


def test_the_hint_of_a_wrong_value_stays_short() -> None:
    names = [f"class {number:03d}" for number in range(500)]
    table = source().slice(0, 1).take([0] * 500).set_column(2, "label", pa.array(names))
    with pytest.raises(RaygenError) as caught:
        fitted(table).class_index("label", "z")
    assert caught.value.hint.count("class") == 20
    assert caught.value.hint.endswith("…")


def test_a_bad_picture_is_named_by_the_caller() -> None:
    table = source()
    broken = pa.array([{"bytes": b"x" if row == 4 else png(), "path": None} for row in range(6)], STRUCT)
    table = table.set_column(1, pa.field("image", STRUCT, nullable=False), broken)
    with pytest.raises(DataError, match=r"^row 4: 1 bytes cannot be read"):
        fitted(table).encode(table)
    with pytest.raises(DataError, match=r"^part.parquet, row 104: "):
        fitted(table).encode(table, lambda row: f"part.parquet, row {100 + row}")


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[0, 0]).save(buffer, "PNG")
    return buffer.getvalue()


def test_parquet_reads_back_what_was_decoded() -> None:
    for image in (STRUCT, pa.fixed_shape_tensor(pa.uint8(), [8, 8, 1]), pa.list_(pa.list_(pa.uint8(), 8), 8)):
        table = source(image)
        codec = fitted(table)
        buffer = io.BytesIO()
        pq.write_table(codec.decode(codec.encode(table)), buffer)
        assert pq.read_table(buffer).schema.equals(codec.arrow, check_metadata=False)


def test_a_field_that_resizes_nothing_is_kept_as_before_there_was_resize() -> None:
    assert fitted(source()).to_json()["fields"]["image"] == {"kind": "image", "height": 8, "width": 8, "channels": 1}


@pytest.mark.parametrize(
    ("image", "written"),
    [
        (STRUCT, STRUCT),
        (pa.binary(), pa.binary()),
        (pa.fixed_shape_tensor(pa.float32(), [8, 8, 1]), pa.fixed_shape_tensor(pa.uint8(), [10, 12, 1])),
        (pa.list_(pa.list_(pa.uint8(), 8), 8), pa.fixed_shape_tensor(pa.uint8(), [10, 12, 1])),
    ],
    ids=str,
)
def test_resized_pictures_are_written_in_their_new_size(image: pa.DataType, written: pa.DataType) -> None:
    """In the source's type, unless that says the old size."""
    table = source(image)
    codec = fitted(table, {**FIELDS, "image": ImageField(height=10, width=12, channels=1, resize="crop")})
    assert Codec.from_json(json.loads(json.dumps(codec.to_json()))) == codec
    batch = codec.encode(table)
    assert batch["image"].shape == (6, 1, 10, 12)
    back = codec.decode(batch)
    assert back.schema.field("image").type == written
    np.testing.assert_array_equal(codec.encode(back)["image"], batch["image"])
