"""Images between Arrow and arrays: PNG or JPEG bytes, Hugging Face's struct, and fixed-size tensors."""

import contextlib
import io
import math
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.types as at
from PIL import Image, ImageOps, UnidentifiedImageError

from raygen.errors import DataError
from raygen.spec import ImageField

FILTERED_AT_ONCE = 4 << 20
"""Bytes of pictures, of which a few copies are held on their way to PNG."""


def tensor_shape(kind: pa.DataType) -> tuple[int, int, int] | None:
    """The ``(height, width, channels)`` of a column of fixed-size tensors, or None where it is not one.

    Read are Arrow's and Ray's tensor types and nested fixed-size lists, of integers that hold 0 to 255, or floats;
    channels may come first, last, or not at all.
    """
    shape, value = _layout(kind)
    if shape is None or at.is_int8(value) or not (at.is_integer(value) or at.is_floating(value)):
        return None
    if len(shape) == 2:
        return (*shape, 1)
    if len(shape) == 3 and shape[2] in (1, 3):
        return shape[0], shape[1], shape[2]
    if len(shape) == 3 and shape[0] in (1, 3):
        return shape[1], shape[2], shape[0]
    return None


def stored_type(stored: str, source: pa.DataType, field: ImageField) -> pa.DataType:
    """The Arrow type of pictures stored as in the ``source``, as ``png`` (Hugging Face's struct of bytes and path), or as
    ``tensor``: uint8 of shape (height, width, channels), as are those of a source whose tensors are of another size."""
    shape = (field.height, field.width, field.channels)
    if stored == "png" and not at.is_struct(source):
        return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    if stored == "tensor" or tensor_shape(source) not in (None, shape):
        return pa.fixed_shape_tensor(pa.uint8(), shape)
    return source


def decode(column: pa.Array, field: ImageField, where: Callable[[int], str]) -> np.ndarray:
    """Read a column of images.

    Args:
        column: of one of the types above; floats are taken to be in [0, 1], integers in [0, 255].
        where: names the file and row of an index of the column, for errors.

    Returns:
        uint8, ``(n, channels, height, width)``.

    Raises:
        DataError: a null, bytes that are no image, or an image of another size where the field does not say how to resize
            it; file and row are named.
    """
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{where(row)}: the image is null", "remove that row, or give it a picture")
    if tensor_shape(column.type) is not None:
        return _decode_tensors(column, field, where)
    if at.is_struct(column.type):
        column = column.field("bytes")
    images = np.empty((len(column), field.channels, field.height, field.width), np.uint8)
    for row, value in enumerate(column):
        data = value.as_py()
        if data is None:
            raise DataError(f"{where(row)}: the image has no bytes", "embed the pictures in the Parquet")
        try:
            pixels = decode_one(data, field.channels)
        except ValueError as error:
            raise DataError(f"{where(row)}: {error}", "remove that row, or write the picture again") from None
        _check_size(where(row), pixels.shape, field)
        images[row] = resized(pixels, field).transpose(2, 0, 1)
    return images


def encode(images: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Write images as the type that their column has in the source: PNG for bytes and structs.

    Args:
        images: uint8, ``(n, channels, height, width)``.
        kind: the Arrow type of the source column.
    """
    shape, value = _layout(kind)
    if shape is not None:
        flat = np.ascontiguousarray(images if _channels_first(shape) else images.transpose(0, 2, 3, 1)).reshape(-1)
        return _nest(pa.array(flat.astype(np.float32) / 255 if at.is_floating(value) else flat).cast(value), kind, shape)
    files = pngs(images)
    if not at.is_struct(kind):
        return pa.array(files, kind)
    return pa.StructArray.from_arrays(
        [pa.array(files if f.name == "bytes" else [None] * len(files), f.type) for f in kind], fields=list(kind)
    )


def decode_one(data: bytes, channels: int | None = None) -> np.ndarray:
    """The pixels of an image file: uint8, ``(height, width, channels)``; its own channels (1 or 3) where not given.

    What is transparent is laid on white, which is what icons and drawings are made to be seen on: the colours that a file
    has where nothing is to be seen are arbitrary. A picture is not turned as its EXIF says.

    Raises:
        ValueError: the bytes are not a whole image.
    """
    with _opened(data) as image:
        if image.mode in ("I", "F"):
            raise ValueError("its pixels have no known range")
        deep = image.mode.startswith("I;16")  # Pillow would clip at 255
        picture = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)) if deep else image
        channels = channels or _channels(image)
        if picture.has_transparency_data:
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
        pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


def file_shape(data: bytes) -> tuple[int, int, int]:
    """The ``(height, width, channels)`` of an image file, by its head alone.

    Raises:
        ValueError: the bytes are not an image.
    """
    with _opened(data) as image:
        return image.height, image.width, _channels(image)


def resized(pixels: np.ndarray, field: ImageField) -> np.ndarray:
    """A picture in the size of the field, as its ``resize`` says: uint8, ``(height, width, channels)``.

    Pillow's bicubic filter covers all the pixels that become one, so that nothing is aliased (Parmar et al. 2022,
    arXiv 2104.11222).
    """
    height, width, channels = pixels.shape
    frame = field.width, field.height
    if (width, height) == frame:
        return pixels
    picture = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    if field.resize == "crop":
        picture = ImageOps.fit(picture, frame, Image.Resampling.BICUBIC)
    elif field.resize == "stretch":
        picture = picture.resize(frame, Image.Resampling.BICUBIC)
    else:
        scale = min(field.width / width, field.height / height)
        inside = max(1, round(width * scale)), max(1, round(height * scale))
        padded = Image.new(picture.mode, frame)
        corner = (field.width - inside[0]) // 2, (field.height - inside[1]) // 2
        padded.paste(picture.resize(inside, Image.Resampling.BICUBIC), corner)
        picture = padded
    return np.asarray(picture).reshape(field.height, field.width, channels)


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """An image file for the length of the block, in which all that is wrong with it is a ValueError."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            yield image
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ValueError(f"{len(data)} bytes cannot be read as an image ({reason})") from None


def _channels(image: Image.Image) -> int:
    return 1 if image.mode in ("1", "L", "LA") or image.mode.startswith("I;16") else 3


def pngs(images: np.ndarray) -> list[bytes]:
    """PNG files of uint8 images ``(n, 1 or 3, height, width)``; each depends on its own pixels alone, and on zlib.

    Pillow takes two to four times as long, half of the time that a row of digits took to make, for files that are 8 % larger
    for digits, and 3 % smaller for photographs.
    The format is that of https://www.w3.org/TR/png-3/: a line of pixels follows the number of its filter, 0 for as they are,
    2 for the differences from the line above, which compress better unless the picture is flat, like a drawing.
    """
    n, channels, height, width = images.shape
    first = b"\x89PNG\r\n\x1a\n" + _chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    )
    last = _chunk(b"IEND", b"")
    at_once = max(1, FILTERED_AT_ONCE // (channels * height * width))
    return [
        first + _chunk(b"IDAT", zlib.compress(picture.tobytes(), 3)) + last
        for start in range(0, n, at_once)
        for picture in _filtered(images[start : start + at_once])
    ]


def _filtered(images: np.ndarray) -> np.ndarray:
    """The lines of pictures as PNG has them: uint8 ``(n, height, 1 + width * channels)``."""
    n, channels, height, width = images.shape
    lines = images.transpose(0, 2, 3, 1).reshape(n, height, width * channels)
    filtered = np.empty((n, height, 1 + width * channels), np.uint8)
    flat = (lines + np.uint8(1) < 2).mean((1, 2)) > 0.5  # most bytes are 0 or 255
    filtered[:, :, 0] = np.where(flat, 0, 2)[:, None]
    filtered[:, :, 1:] = lines
    filtered[~flat, 1:, 1:] -= lines[~flat, :-1]
    return filtered


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


def _check_size(where: str, shape: tuple[int, ...], field: ImageField) -> None:
    """Fail where a picture of the shape (height, width, channels) is not what the field says, and cannot be made so."""
    height, width, channels = shape
    if channels != field.channels:  # of tensors; files take those of the field
        raise DataError(
            f"{where}: the image has {channels} channels, the schema says {field.channels}",
            "change channels in dataset.schema",
        )
    if field.resize is None and (height, width) != (field.height, field.width):
        raise DataError(
            f"{where}: the image is {height} x {width} pixels, the schema says {field.height} x {field.width}",
            "change height and width in dataset.schema, or add resize to it: crop, pad or stretch",
        )


def _layout(kind: pa.DataType) -> tuple[tuple[int, ...] | None, pa.DataType]:
    """The shape of a tensor type and the type of its values; None for any other type."""
    if isinstance(kind, pa.BaseExtensionType):
        shape = getattr(kind, "shape", None)  # Arrow's FixedShapeTensorType and Ray's ArrowTensorType both have it
        value = kind.storage_type
        while at.is_nested(value) and not at.is_struct(value):
            value = value.value_type
        return (tuple(shape), value) if shape else (None, kind)
    sizes = []
    while at.is_fixed_size_list(kind):
        sizes.append(kind.list_size)
        kind = kind.value_type
    if len(sizes) == 1 and math.isqrt(sizes[0]) ** 2 == sizes[0]:
        sizes = [math.isqrt(sizes[0])] * 2  # a flat list of a square picture, as scikit-learn and MNIST have it
    return (tuple(sizes), kind) if sizes else (None, kind)


def _decode_tensors(column: pa.Array, field: ImageField, where: Callable[[int], str]) -> np.ndarray:
    shape, _ = _layout(column.type)
    found = tensor_shape(column.type)
    assert shape is not None
    assert found is not None
    _check_size(where(0), found, field)
    values = column.storage if isinstance(column.type, pa.BaseExtensionType) else column
    while at.is_nested(values.type):
        if values.null_count:
            null = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
            raise DataError(f"{where(null * len(column) // len(values))}: a part of the image is null", "give it a picture")
        values = values.flatten()  # not .values: a slice has only its own rows
    pixels = values.to_numpy(zero_copy_only=False).reshape(len(column), *shape)
    if at.is_floating(values.type):
        pixels = pixels * 255
    pixels = np.rint(pixels)
    bad = ~((pixels >= 0) & (pixels <= 255)).all(axis=tuple(range(1, pixels.ndim)))
    if bad.any():
        raise DataError(
            f"{where(int(np.flatnonzero(bad)[0]))}: a pixel is outside its range",
            "integers are 0 to 255, floats 0 to 1, and none may be null or NaN",
        )
    images: np.ndarray = pixels.astype(np.uint8)
    if len(shape) == 2:
        images = images[:, None]
    elif not _channels_first(shape):
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if found[:2] == (field.height, field.width):
        return images
    sized = np.empty((len(images), field.channels, field.height, field.width), np.uint8)
    for row, image in enumerate(images):
        sized[row] = resized(image.transpose(1, 2, 0), field).transpose(2, 0, 1)
    return sized


def _channels_first(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[2] not in (1, 3)


def _nest(values: pa.Array, kind: pa.DataType, shape: tuple[int, ...]) -> pa.Array:
    """A flat array as fixed-size lists, or the tensors, of a type."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, _nest(values, kind.storage_type, shape))
    if at.is_fixed_size_list(kind):
        inner = _nest(values, kind.value_type, shape[1:])
        return pa.FixedSizeListArray.from_arrays(inner, type=kind)
    if at.is_list(kind) or at.is_large_list(kind):
        offsets = np.arange(0, len(values) + 1, math.prod(shape))
        maker = pa.LargeListArray if at.is_large_list(kind) else pa.ListArray
        return maker.from_arrays(pa.array(offsets, pa.int64() if at.is_large_list(kind) else pa.int32()), values)
    return values
