"""Fields against Arrow types: whether a column can be read as the schema says, and what a schema for given data is."""

import contextlib
import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as at
from pydantic import ValidationError

from raygen.datasets.images import decode_one, file_shape, tensor_shape
from raygen.errors import DataError, did_you_mean
from raygen.spec import CategoryField, DataField, ImageField

MAX_CATEGORIES = 1000  # more distinct values than this are text or identifiers, not a category
RESIZED = 64  # the most pixels a side that are proposed for pictures of several sizes


def check(fields: Mapping[str, DataField], arrow: pa.Schema, where: str) -> None:
    """Fail unless every field of the schema is a column that holds what its kind says.

    Raises:
        DataError: a column is not there, is there twice, or is of a type that its kind cannot be read from.
    """
    for name, field in fields.items():
        indices = arrow.get_all_field_indices(name)
        if not indices:
            raise DataError(
                f"{where}: there is no column {name!r}{did_you_mean(name, arrow.names)}",
                f"its columns are: {', '.join(arrow.names)}",
            )
        if len(indices) > 1:
            raise DataError(f"{where}: {len(indices)} columns are called {name!r}", "rename all but one")
        kind = arrow.field(name).type
        if not (_is_image(kind) if field.kind == "image" else _is_category(kind)):
            raise DataError(
                f"{where}: column {name!r} is of type {kind}, which cannot be read as kind {field.kind!r}",
                "an image is binary, struct<bytes, path> or a fixed-size tensor; a category is a string, integer or bool",
            )


def infer(table: pa.Table, where: str) -> tuple[dict[str, DataField], dict[str, str]]:
    """The schema of some rows, and for every column left out, why.

    Args:
        table: the first rows of the data.
    """
    fields: dict[str, DataField] = {}
    left_out: dict[str, str] = {}
    for name, chunks in zip(table.column_names, table.columns, strict=True):
        column = chunks.combine_chunks()
        kind = column.type
        if (same := table.column_names.count(name)) > 1:
            left_out[name] = f"{same} columns are called so"
        elif _is_image(kind):
            try:
                fields[name] = _image_field(column)
            except ValueError as error:
                left_out[name] = f"{kind}: {error}"
        elif not _is_category(kind):
            left_out[name] = f"{kind} columns are not supported yet"
        elif (distinct := len(column.unique())) > min(MAX_CATEGORIES, max(2, len(column) // 2)):
            left_out[name] = f"{distinct} distinct values in {len(column)} rows: too many for a category"
        else:
            fields[name] = CategoryField()
    if not fields:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise DataError(f"{where}: no column can be used ({reasons})", "raygen reads images and categories")
    return fields, left_out


def with_known_types(read: Callable[[], pa.Schema]) -> pa.Schema:
    """What a function reads as a schema. Arrow knows Ray's tensor types only once Ray Data has been imported, so that is
    done where a schema has one, and only there."""
    arrow = read()
    unknown = [(field.metadata or {}).get(b"ARROW:extension:name", b"") for field in arrow]
    if any(name.startswith(b"ray.data.") for name in unknown):
        importlib.import_module("ray.data")
        arrow = read()
    return arrow


def with_column_type(arrow: pa.Schema, name: str, kind: pa.DataType) -> pa.Schema:
    """The schema with another type for a column, of which Hugging Face's metadata then says what that type is."""
    index = arrow.get_field_index(name)
    if arrow.field(index).type == kind:
        return arrow
    metadata = dict(arrow.metadata or {})
    features = _features_of_source(metadata)
    metadata.pop(b"huggingface", None)
    if _is_struct(kind) and features:  # else it is Arrow's tensor, which Hugging Face has no name for
        metadata[b"huggingface"] = json.dumps({"info": {"features": {**features, name: _feature(kind)}}}).encode()
    return arrow.set(index, pa.field(name, kind)).with_metadata(metadata or None)


def features_metadata(schema: pa.Schema) -> pa.Schema:
    """The schema with Hugging Face's feature metadata, by which viewers know that a struct is a picture."""
    metadata = schema.metadata or {}
    of_source = _features_of_source(metadata)
    if not of_source and not any(_is_struct(field.type) for field in schema):
        return schema
    found = {field.name: of_source.get(field.name) or _feature(field.type) for field in schema}
    features = {name: feature for name, feature in found.items() if feature is not None}
    metadata = {**metadata, b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    return schema.with_metadata(metadata)


def _features_of_source(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    """What the source says of its columns; nothing where it says nothing, or nothing that can be read."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def _feature(kind: pa.DataType) -> dict[str, str] | None:
    """None for the types that Hugging Face does not call what Arrow does; it infers them where nothing is said."""
    if _is_struct(kind):
        return {"_type": "Image"}
    if at.is_dictionary(kind):
        kind = kind.value_type
    plain = at.is_integer(kind) or at.is_boolean(kind) or at.is_string(kind) or at.is_large_string(kind)
    if not (plain or at.is_float32(kind) or at.is_float64(kind) or _is_binary(kind)):
        return None
    return {"dtype": {"double": "float64", "float": "float32"}.get(str(kind), str(kind)), "_type": "Value"}


def _is_struct(kind: pa.DataType) -> bool:
    return bool(at.is_struct(kind) and kind.get_field_index("bytes") >= 0)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(at.is_binary(kind) or at.is_large_binary(kind))


def _is_image(kind: pa.DataType) -> bool:
    if _is_struct(kind):
        return _is_binary(kind.field("bytes").type)
    return _is_binary(kind) or tensor_shape(kind) is not None


def _is_category(kind: pa.DataType) -> bool:
    if at.is_dictionary(kind):
        kind = kind.value_type
    return bool(at.is_string(kind) or at.is_large_string(kind) or at.is_integer(kind) or at.is_boolean(kind))


def _image_field(column: pa.Array) -> ImageField:
    """The size of the pictures; where they have several, their median one, made small enough to try.

    Raises:
        ValueError: there is no picture that can be read.
    """
    shape = tensor_shape(column.type)
    shapes = [shape] if shape is not None else _shapes(column)
    height, width, channels = shapes[0]
    resize = None
    if len({found[:2] for found in shapes}) > 1:
        resize, channels = "crop", max(found[2] for found in shapes)
        sides = np.median([found[:2] for found in shapes], axis=0)
        height, width = (max(8, round(side)) for side in sides * min(1, RESIZED / sides.max()))
    try:
        return ImageField.model_validate({"height": height, "width": width, "channels": channels, "resize": resize})
    except ValidationError:
        raise ValueError(f"{height} x {width} pixels; pictures of 8 to 1024 pixels a side can be made") from None


def _shapes(column: pa.Array) -> list[tuple[int, int, int]]:
    """Of the image files of a column: the first is read as a whole, and others that cannot be read are for training to name.

    Raises:
        ValueError: there is none, or the first cannot be read.
    """
    column = column.drop_null()
    files = (column.field("bytes") if at.is_struct(column.type) else column).drop_null()
    if not len(files):
        raise ValueError("no picture in the first rows")
    height, width, channels = decode_one(files[0].as_py()).shape
    shapes = [(height, width, channels)]
    for data in files[1:]:
        with contextlib.suppress(ValueError):
            shapes.append(file_shape(data.as_py()))
    return shapes
