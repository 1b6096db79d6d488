"""Every form a picture comes in is read into the same array, and written back as the form it came in."""

import io
import pickle
import tracemalloc
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from ray.data.extensions import ArrowTensorArray, ArrowTensorType, ArrowTensorTypeV2

from raygen.datasets import images
from raygen.errors import DataError
from raygen.spec import ImageField

ROWS, SIZE = 7, 8
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def field(channels: int = 1, height: int = SIZE, width: int = SIZE) -> ImageField:
    return ImageField.model_validate({"height": height, "width": width, "channels": channels})


def pictures(channels: int = 1, height: int = SIZE, width: int = SIZE, rows: int = ROWS) -> np.ndarray:
    """uint8, ``(rows, channels, height, width)``."""
    return np.random.default_rng(0).integers(0, 256, (rows, channels, height, width)).astype(np.uint8)


def as_file(image: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(buffer, form, **options)
    return buffer.getvalue()


def nested(value: pa.DataType, *shape: int) -> pa.DataType:
    for size in reversed(shape):
        value = pa.list_(value, size)
    return value


def where(row: int) -> str:
    return f"digits.parquet, row {row}"


BYTES = [
    pa.binary(),
    pa.large_binary(),
    STRUCT,
    pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())]),
    pa.struct([("path", pa.string()), ("bytes", pa.binary())]),
    pa.struct([("bytes", pa.binary())]),
]


def column_of_bytes(kind: pa.DataType, files: list[bytes]) -> pa.Array:
    if not pa.types.is_struct(kind):
        return pa.array(files, kind)
    return pa.array(
        [{f.name: data if f.name == "bytes" else f"{row}.png" for f in kind} for row, data in enumerate(files)], kind
    )


@pytest.mark.parametrize("kind", BYTES, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_there_and_back(kind: pa.DataType, channels: int) -> None:
    given_ = pictures(channels)
    column = column_of_bytes(kind, [as_file(image) for image in given_])
    read = images.decode(column, field(channels), where)
    np.testing.assert_array_equal(read, given_)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(images.decode(column.slice(2, 3), field(channels), where), given_[2:5])
    written = images.encode(read, kind)
    assert written.type == kind
    written.validate(full=True)
    np.testing.assert_array_equal(images.decode(written, field(channels), where), given_)
    data = (written.field("bytes") if pa.types.is_struct(kind) else written)[0].as_py()
    assert Image.open(io.BytesIO(data)).format == "PNG"
    assert images.encode(read, kind).equals(written)  # the same bytes every time


def test_jpeg_is_read_as_it_looks() -> None:
    smooth = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))[None]
    column = pa.array([as_file(smooth, "JPEG", quality=95)], STRUCT.field("bytes").type)
    read = images.decode(column, field(1, 32, 32), where)
    assert np.abs(read[0].astype(int) - smooth).max() < 8


def test_pictures_take_the_channels_that_the_schema_says() -> None:
    grey, colour = pictures(1)[0], pictures(3)[0]
    column = pa.array([as_file(grey), as_file(colour)])
    three = images.decode(column, field(3), where)
    np.testing.assert_array_equal(three[0], np.repeat(grey, 3, axis=0))
    np.testing.assert_array_equal(three[1], colour)
    one = images.decode(column, field(1), where)
    luma = (colour.transpose(1, 2, 0) @ [0.299, 0.587, 0.114]).round()  # ITU-R 601
    assert np.abs(one[1, 0] - luma).max() <= 1


@pytest.mark.parametrize(
    ("mode", "channels"), [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3), ("CMYK", 3)]
)
def test_every_kind_of_picture_has_one_or_three_channels(mode: str, channels: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pictures(3)[0].transpose(1, 2, 0)).convert(mode).save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    assert images.decode_one(buffer.getvalue()).shape == (SIZE, SIZE, channels)


def test_sixteen_bits_become_eight_without_clipping() -> None:
    deep = (np.arange(64, dtype=np.uint16) * 1040).reshape(8, 8)
    buffer = io.BytesIO()
    Image.fromarray(deep).save(buffer, "PNG")
    np.testing.assert_array_equal(images.decode_one(buffer.getvalue())[..., 0], deep >> 8)
    buffer = io.BytesIO()
    Image.fromarray(deep.astype(np.float32)).save(buffer, "TIFF")
    with pytest.raises(ValueError, match="no known range"):
        images.decode_one(buffer.getvalue())


FIXED = [
    ((SIZE, SIZE), 1),
    ((SIZE, SIZE, 1), 1),
    ((SIZE, SIZE, 3), 3),
    ((1, SIZE, SIZE), 1),
    ((3, SIZE, SIZE), 3),
]
VALUES = [pa.uint8(), pa.int32(), pa.int64(), pa.uint16(), pa.float16(), pa.float32(), pa.float64()]


def tensors(given_: np.ndarray, shape: tuple[int, ...], value: pa.DataType) -> np.ndarray:
    """Pictures in the layout and the values of a tensor column."""
    laid = given_ if shape[0] in (1, 3) else given_.transpose(0, 2, 3, 1)
    laid = laid.reshape(len(given_), *shape).astype(value.to_pandas_dtype())
    return laid / laid.dtype.type(255) if pa.types.is_floating(value) else laid


def there_and_back(column: pa.Array, given_: np.ndarray, channels: int, size: tuple[int, int] = (SIZE, SIZE)) -> None:
    read = images.decode(column, field(channels, *size), where)
    np.testing.assert_array_equal(read, given_)
    assert read.dtype == np.uint8
    part = column.slice(3, 2)
    np.testing.assert_array_equal(images.decode(part, field(channels, *size), where), given_[3:5])
    assert images.decode(column.slice(0, 0), field(channels, *size), where).shape == (0, *given_.shape[1:])
    for rows in (read, read[3:5], read[:0]):
        written = images.encode(rows, column.type)
        assert written.type == column.type
        written.validate(full=True)
        np.testing.assert_array_equal(images.decode(written, field(channels, *size), where), rows)


@pytest.mark.parametrize("value", VALUES, ids=str)
@pytest.mark.parametrize(("shape", "channels"), FIXED, ids=str)
def test_nested_lists_there_and_back(shape: tuple[int, ...], channels: int, value: pa.DataType) -> None:
    given_ = pictures(channels)
    flat = pa.array(tensors(given_, shape, value).reshape(-1), value)
    for size in reversed(shape):
        flat = pa.FixedSizeListArray.from_arrays(flat, size)
    assert flat.type == nested(value, *shape)
    there_and_back(flat, given_, channels)


@pytest.mark.parametrize("value", [pa.uint8(), pa.float32()], ids=str)
@pytest.mark.parametrize(("shape", "channels"), FIXED, ids=str)
def test_arrow_tensors_there_and_back(shape: tuple[int, ...], channels: int, value: pa.DataType) -> None:
    given_ = pictures(channels)
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(tensors(given_, shape, value)))
    assert column.type == pa.fixed_shape_tensor(value, shape)
    there_and_back(column, given_, channels)


@pytest.mark.parametrize("value", [pa.uint8(), pa.float32()], ids=str)
@pytest.mark.parametrize(("shape", "channels"), FIXED, ids=str)
@pytest.mark.parametrize("version", [ArrowTensorType, ArrowTensorTypeV2])
def test_rays_tensors_there_and_back(version: Any, shape: tuple[int, ...], channels: int, value: pa.DataType) -> None:
    given_ = pictures(channels)
    kind = version(shape, value)
    laid = tensors(given_, shape, value)
    offsets = np.arange(ROWS + 1) * np.prod(shape)
    lists = pa.LargeListArray if version is ArrowTensorTypeV2 else pa.ListArray
    storage = lists.from_arrays(pa.array(offsets, "i8" if version is ArrowTensorTypeV2 else "i4"), laid.reshape(-1))
    there_and_back(pa.ExtensionArray.from_storage(kind, storage), given_, channels)
    np.testing.assert_array_equal(images.encode(given_, kind).to_numpy(), laid.astype(value.to_pandas_dtype()))


def test_what_ray_data_makes_is_read() -> None:
    given_ = pictures(3)
    there_and_back(ArrowTensorArray.from_numpy(np.ascontiguousarray(given_.transpose(0, 2, 3, 1))), given_, 3)


@pytest.mark.parametrize("value", [pa.uint8(), pa.float32()], ids=str)
def test_flat_lists_of_square_pictures_there_and_back(value: pa.DataType) -> None:
    given_ = pictures(1, 28, 28)
    column = pa.FixedSizeListArray.from_arrays(pa.array(tensors(given_, (784,), value).reshape(-1), value), 784)
    there_and_back(column, given_, 1, (28, 28))


@pytest.mark.parametrize(("height", "width"), [(8, 12), (12, 8)])
def test_height_and_width_are_not_mixed_up(height: int, width: int) -> None:
    given_ = pictures(3, height, width)
    for kind in (pa.binary(), nested(pa.uint8(), height, width, 3), nested(pa.uint8(), 3, height, width)):
        there_and_back(images.encode(given_, kind), given_, 3, (height, width))
    with pytest.raises(DataError, match=rf"the image is {height} x {width} pixels, the schema says {width} x {height}"):
        images.decode(images.encode(given_, pa.binary()), field(3, width, height), where)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("look", ["flat", "smooth", "noise"])
def test_png_is_small_and_its_bytes_are_of_its_own_pixels(look: str, channels: int) -> None:
    """However much of a picture is alike; whatever it is written with; and about as small as Pillow's."""
    noise = pictures(channels, 64, 48, rows=4)
    across = np.broadcast_to(np.linspace(0, 250, 48).astype(np.uint8), noise.shape)
    drawn = {"flat": noise * (noise > 200) * (across < 60), "smooth": across + noise // 64, "noise": noise}[look]
    written = images.encode(drawn, pa.binary()).to_pylist()
    assert [images.decode_one(data).transpose(2, 0, 1).tolist() for data in written] == drawn.tolist()
    assert written[2] == images.encode(drawn[2:3], pa.binary())[0].as_py()
    for other in (noise, np.zeros_like(noise)):
        among = np.concatenate([other, drawn, other])
        assert written == images.encode(among, pa.binary()).to_pylist()[4:8]
    assert sum(map(len, written)) < 1.3 * sum(len(as_file(image)) for image in drawn)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (nested(pa.uint8(), 8, 9), (8, 9, 1)),
        (nested(pa.float32(), 8, 9, 3), (8, 9, 3)),
        (nested(pa.float32(), 3, 8, 9), (8, 9, 3)),
        (pa.list_(pa.uint8(), 784), (28, 28, 1)),
        (pa.fixed_shape_tensor(pa.uint8(), [8, 9, 1]), (8, 9, 1)),
        (ArrowTensorType((8, 9, 3), pa.uint8()), (8, 9, 3)),
        (ArrowTensorTypeV2((8, 9, 3), pa.uint8()), (8, 9, 3)),
        (pa.list_(pa.uint8(), 785), None),
        (nested(pa.uint8(), 8, 9, 4), None),
        (nested(pa.uint8(), 8, 9, 3, 3), None),
        (nested(pa.int8(), 8, 9), None),  # cannot hold 0 to 255
        (nested(pa.string(), 8, 9), None),
        (nested(pa.bool_(), 8, 9), None),
        (pa.list_(pa.uint8()), None),
        (pa.binary(), None),
        (pa.binary(64), None),
        (STRUCT, None),
        (pa.uint8(), None),
        (pa.uuid(), None),
        (pa.json_(), None),
    ],
    ids=str,
)
def test_shapes_of_tensor_types(kind: pa.DataType, shape: tuple[int, int, int] | None) -> None:
    assert images.tensor_shape(kind) == shape


PNG = as_file(pictures()[0])


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (None, "the image"),  # is null, or has no bytes
        (PNG[: len(PNG) // 2], "cannot be read as an image"),
        (PNG[:20], "cannot be read as an image"),
        (as_file(pictures(3, 64, 64)[0], "JPEG")[:500], "cannot be read as an image"),
        (b"", "0 bytes cannot be read as an image"),
        (b"<html>not a picture</html>", "26 bytes cannot be read as an image (not an image)"),
        (as_file(pictures(1, 9, 8)[0]), "the image is 9 x 8 pixels, the schema says 8 x 8"),
    ],
    ids=["null", "half a PNG", "head of a PNG", "half a JPEG", "empty", "HTML", "other size"],
)
@pytest.mark.parametrize("kind", [pa.binary(), STRUCT], ids=str)
def test_a_bad_picture_is_named(kind: pa.DataType, bad: bytes | None, said: str) -> None:
    values: list[Any] = [PNG, PNG, bad, PNG]
    if pa.types.is_struct(kind):
        values = [{"bytes": value, "path": "elsewhere.png"} for value in values]
    column = pa.array(values, kind)
    with pytest.raises(DataError) as caught:
        images.decode(column, field(), where)
    assert caught.value.what.startswith("digits.parquet, row 2: ")
    assert said in caught.value.what
    with pytest.raises(DataError, match="row 1:"):
        images.decode(column.slice(1), field(), where)  # the caller knows where a slice begins
    with pytest.raises(DataError) as unpickled:  # it crosses processes
        raise pickle.loads(pickle.dumps(caught.value))
    assert str(unpickled.value) == str(caught.value)


def test_a_null_struct_is_named() -> None:
    with pytest.raises(DataError, match=r"row 1: the image is null"):
        images.decode(pa.array([{"bytes": PNG, "path": None}, None], STRUCT), field(), where)


@pytest.mark.parametrize(
    ("value", "pixel"),
    [
        (pa.float32(), 1.01),
        (pa.float32(), -0.01),
        (pa.float32(), 255.0),
        (pa.float32(), float("nan")),
        (pa.float64(), float("inf")),
        (pa.float32(), None),
        (pa.uint8(), None),
        (pa.int16(), 256),
        (pa.int64(), -1),
    ],
)
def test_a_pixel_out_of_range_is_named(value: pa.DataType, pixel: float | None) -> None:
    plain: Any = np.zeros((4, SIZE, SIZE), value.to_pandas_dtype()).tolist()
    plain[2][5][6] = pixel
    column = pa.array(plain, nested(value, SIZE, SIZE))
    with pytest.raises(DataError, match=r"^digits.parquet, row 2: a pixel is outside its range"):
        images.decode(column, field(), where)
    with pytest.raises(DataError, match=r"row 1:"):
        images.decode(column.slice(1), field(), where)
    assert len(images.decode(column.slice(0, 2), field(), where)) == 2


def test_a_null_inside_a_tensor_is_named() -> None:
    plain: Any = np.zeros((4, SIZE, SIZE), np.uint8).tolist()
    kind = nested(pa.uint8(), SIZE, SIZE)
    with pytest.raises(DataError, match=r"row 1: the image is null"):
        images.decode(pa.array([plain[0], None], kind), field(), where)
    plain[2][5] = None
    column = pa.array(plain, kind)
    with pytest.raises(DataError, match=r"row 2: a part of the image is null"):
        images.decode(column, field(), where)
    with pytest.raises(DataError, match=r"row 1: a part"):
        images.decode(column.slice(1), field(), where)


def test_a_tensor_of_another_size_is_named() -> None:
    column = images.encode(pictures(1), nested(pa.uint8(), SIZE, SIZE))
    with pytest.raises(DataError, match=r"row 0: the image is 8 x 8 pixels, the schema says 8 x 9"):
        images.decode(column, field(1, 8, 9), where)


def test_a_tensor_of_other_channels_is_named() -> None:
    column = images.encode(pictures(1), nested(pa.uint8(), SIZE, SIZE))
    with pytest.raises(DataError, match=r"row 0: the image has 1 channels, the schema says 3"):
        images.decode(column, framed("crop", channels=3), where)


# --- pictures of other sizes

SIZES = [(16, 24), (24, 16), (1, 40), (40, 1), (1, 1), (7, 9), (300, 11), (64, 64), (12, 8)]
"""Height and width: landscape, portrait, a line, a pixel, odd, narrow, square, and the frame's own."""


def framed(resize: str | None, channels: int = 1, height: int = 12, width: int = 8) -> ImageField:
    return ImageField.model_validate({"height": height, "width": width, "channels": channels, "resize": resize})


def framed_pixels(image: np.ndarray, resize: str, height: int = 12, width: int = 8) -> np.ndarray:
    """A picture ``(channels, height, width)`` as it is read into a frame."""
    column = pa.array([as_file(image)])
    return images.decode(column, framed(resize, len(image), height, width), where)[0]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_any_size_fits_the_frame(resize: str, channels: int, size: tuple[int, int]) -> None:
    image = pictures(channels, *size, rows=1)[0]
    read = framed_pixels(image, resize)
    assert read.shape == (channels, 12, 8)
    np.testing.assert_array_equal(framed_pixels(image, resize), read)
    if size == (12, 8):
        np.testing.assert_array_equal(read, image)
    colour = np.full((channels, *size), 200, np.uint8)
    seen = framed_pixels(colour, resize)
    if resize == "pad":
        height, width = size
        scale = min(12 / height, 8 / width)
        inside = max(1, round(height * scale)), max(1, round(width * scale))
        assert (seen[0] == 200).sum() == inside[0] * inside[1] == (seen[0] > 0).sum()  # the rest is black
        assert abs(int((seen[0, :6] > 0).sum()) - int((seen[0, 6:] > 0).sum())) <= inside[1]  # and on both sides
    else:
        assert (seen == 200).all()


def stripes(height: int, width: int) -> np.ndarray:
    """Three bands along the longer side, of which the middle one is a square."""
    image = np.zeros((1, height, width), np.uint8)
    if height > width:
        image[:, : (height - width) // 2], image[:, (height + width) // 2 :] = 100, 200
    else:
        image[:, :, : (width - height) // 2], image[:, :, (width + height) // 2 :] = 100, 200
    return image


@pytest.mark.parametrize(("height", "width"), [(96, 32), (32, 96)], ids=["portrait", "landscape"])
def test_what_each_way_keeps(height: int, width: int) -> None:
    image = stripes(height, width)
    long = 1 if height > width else 2
    cropped = np.moveaxis(framed_pixels(image, "crop", 16, 16), long, 1)[0]
    assert not cropped[1:-1].any()  # the middle alone; the filter sees a little of what is beyond
    assert cropped.max() < 20
    stretched = np.moveaxis(framed_pixels(image, "stretch", 18, 18), long, 1)[0]
    assert (stretched[[2, 9, 16]] == [[100] * 18, [0] * 18, [200] * 18]).all()
    padded = np.moveaxis(framed_pixels(image, "pad", 18, 18), long, 1)[0]
    assert (padded[[2, 9, 16], 9] == [100, 0, 200]).all()
    assert not padded[:, :6].any()
    assert not padded[:, 12:].any()


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_fine_lines_become_grey(resize: str) -> None:
    """Every other row is white: without a filter that covers them all, the small picture would be black, or white."""
    lines = np.zeros((1, 128, 128), np.uint8)
    lines[:, ::2] = 255
    small = framed_pixels(lines, resize, 8, 8)
    assert np.abs(small.astype(int) - 128).max() < 12


def saved(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def icon(mode: str) -> bytes:
    """A red square (or a grey one) in the middle of what is transparent, and black underneath."""
    rgba = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    rgba.paste((255, 0, 0, 255), (10, 10, 30, 30))
    if mode == "P":
        palette = Image.new("P", (40, 40), 0)
        palette.putpalette([0, 0, 0, 255, 0, 0])
        palette.paste(1, (10, 10, 30, 30))
        return saved(palette, transparency=0)
    return saved(rgba.convert(mode))


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [40, 20])
def test_what_is_transparent_is_white(mode: str, channels: int, size: int) -> None:
    read = images.decode(pa.array([icon(mode)]), framed("pad", channels, size, size), where)[0]
    red = [255, 0, 0] if mode != "LA" and channels == 3 else [76] * channels
    np.testing.assert_array_equal(read[:, 0, 0], 255)
    np.testing.assert_array_equal(read[:, size // 2, size // 2], red)


def test_half_transparent_is_half_white() -> None:
    half = saved(Image.new("RGBA", (8, 8), (255, 0, 0, 128)))
    assert np.abs(images.decode_one(half)[0, 0].astype(int) - [255, 127, 127]).max() <= 1
    assert images.decode_one(saved(Image.new("LA", (8, 8), (0, 0)))).tolist() == [[[255]] * 8] * 8


def test_pictures_of_many_sizes_in_one_column() -> None:
    files = [as_file(pictures(3, *size, rows=1)[0]) for size in SIZES]
    files.append(as_file(pictures(3, 30, 20, rows=1)[0], "JPEG"))
    for kind in BYTES:
        column = column_of_bytes(kind, files)
        read = images.decode(column, framed("crop", 3), where)
        assert read.shape == (len(files), 3, 12, 8)
        written = images.encode(read, kind)
        assert written.type == kind
        np.testing.assert_array_equal(images.decode(written, framed(None, 3), where), read)  # of one size now


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
@pytest.mark.parametrize(("shape", "channels"), [((20, 16), 1), ((20, 16, 3), 3), ((3, 20, 16), 3)], ids=str)
def test_tensors_of_another_size(shape: tuple[int, ...], channels: int, resize: str) -> None:
    given_ = pictures(channels, 20, 16)
    column = images.encode(given_, nested(pa.float32(), *shape))
    read = images.decode(column, framed(resize, channels), where)
    np.testing.assert_array_equal(read, [framed_pixels(image, resize) for image in given_])
    assert images.decode(column.slice(0, 0), framed(resize, channels), where).shape == (0, channels, 12, 8)


@pytest.mark.parametrize("kind", [pa.binary(), nested(pa.uint8(), 9, 8)], ids=str)
def test_without_resize_the_error_names_it(kind: pa.DataType) -> None:
    with pytest.raises(DataError, match=r"the image is 9 x 8 pixels, the schema says 12 x 8") as caught:
        images.decode(images.encode(pictures(1, 9, 8), kind), framed(None), where)
    assert caught.value.hint == "change height and width in dataset.schema, or add resize to it: crop, pad or stretch"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # a broken header may promise a huge picture
@settings(max_examples=150, deadline=None)
@given(
    form=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP"]),
    at=st.floats(0, 1, exclude_max=True),
    new=st.binary(max_size=6),
    cut=st.integers(0, 6),
)
def test_no_bytes_raise_anything_else(form: str, at: float, new: bytes, cut: int) -> None:
    data = as_file(pictures(3)[0], form)
    place = int(at * len(data))
    try:
        pixels = images.decode_one(data[:place] + new + data[place + cut :])
    except ValueError as error:
        assert "cannot be read as an image" in str(error)  # noqa: PT017 - what can be read is as good
    else:
        assert pixels.ndim == 3
        assert pixels.shape[2] in (1, 3)


def test_memory_does_not_grow_with_the_number_of_pictures() -> None:
    """Beside what is made, whatever is held of large pictures at a time is bounded."""
    pictures = np.broadcast_to(np.random.default_rng(0).integers(0, 2, (1, 3, 512, 512), np.uint8), (40, 3, 512, 512))
    tracemalloc.start()
    try:
        made = images.encode(pictures, pa.binary())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert made.to_pylist() == images.encode(pictures[:1], pa.binary()).to_pylist() * 40
    assert peak < pictures.nbytes
