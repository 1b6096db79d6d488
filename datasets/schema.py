"""Fields against Arrow types: whether a column can be read as the schema says, and what a schema for given data is."""

import contextlib
import importlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as at
from pydantic import ValidationError

from raygen.datasets.identifiers import is_identifier
from raygen.datasets.images import decode_one, file_shape, tensor_shape
from raygen.datasets.numbers import is_datetime, is_number
from raygen.errors import DataError, did_you_mean
from raygen.spec import (
    LEARNT_OF_TABLES,
    CategoryField,
    ConstantField,
    DataField,
    DatetimeField,
    IdentifierField,
    ImageField,
    NumberField,
)

MAX_CATEGORIES = 1000  # more distinct values than this are text or identifiers, not a category
RESIZED = 64  # the most pixels a side that are proposed for pictures of several sizes
CODES = 10  # integers of so few distinct values are codes, as classes and flags are, where none is large
LARGEST_CODE = 100
SEEN = 20  # rows by which identifiers can be told from numbers and categories
IDENTIFIER = r"(^|[\W_])(?i:id|uuid|guid|key)$|[a-z]I[dD]$"  # how columns of identifiers are called
WORDS = 4  # strings of more words than this are text
LETTERS = 100  # so are longer ones


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
        readable, hint = _KINDS[field.kind]
        if not readable(kind):
            raise DataError(f"{where}: column {name!r} is of type {kind}, which cannot be read as kind {field.kind!r}", hint)


def infer(table: pa.Table, where: str, whole: bool = True) -> tuple[dict[str, DataField], dict[str, str]]:
    """The schema of some rows, and for every column left out, why. Where there is a column of images, they are what the data
    is about, and else it is a table.

    Args:
        table: rows of the data.
        whole: whether they are all: else what is the same in these rows need not be in the others.
    """
    fields: dict[str, DataField] = {}
    left_out: dict[str, str] = {}
    others: dict[str, pa.Array] = {}
    for name, chunks in zip(table.column_names, table.columns, strict=True):
        column = chunks.combine_chunks()
        if (same := table.column_names.count(name)) > 1:
            left_out[name] = f"{same} columns are called so"
        elif _is_image(column.type):
            try:
                fields[name] = _image_field(column)
            except ValueError as error:
                left_out[name] = f"{column.type}: {error}"
        else:
            others[name] = column
    images = bool(fields)
    for name, column in others.items():
        found = _beside_images(column) if images else _of_table(name, column, whole)
        if isinstance(found, str):
            left_out[name] = found
        else:
            fields[name] = found
    if not any(field.kind in (*LEARNT_OF_TABLES, "image") for field in fields.values()):
        reasons = "; ".join(
            [f"{name}: {field.kind}" for name, field in fields.items()] + [*map(": ".join, left_out.items())]
        )
        raise DataError(
            f"{where}: no column can be used to learn from ({reasons})",
            "raygen learns images and categories, or tables of numbers, categories, dates and times",
        )
    order = table.column_names
    return (
        {name: fields[name] for name in order if name in fields},
        {name: left_out[name] for name in order if name in left_out},
    )


def _beside_images(column: pa.Array) -> DataField | str:
    if not _is_category(column.type):
        return f"{column.type} columns are not supported yet"
    if (distinct := len(column.unique())) > min(MAX_CATEGORIES, max(2, len(column) // 2)):
        return f"{distinct} distinct values in {len(column)} rows: too many for a category"
    return CategoryField()


def has_images(arrow: pa.Schema) -> bool:
    """Whether columns are of types that images can have."""
    return any(_is_image(field.type) for field in arrow)


def _of_table(name: str, column: pa.Array, whole: bool) -> DataField | str:
    """The field of a column of a table, or why there is none."""
    kind = column.type
    learnt = _is_category(kind) or is_number(kind) or is_datetime(kind)
    if column.null_count == len(column) and (whole or not learnt):
        return ConstantField()
    if not learnt:
        nested = " (a nested type)" if at.is_nested(kind) else ""
        return f"{kind} columns are not supported{nested}"
    plain = column.dictionary_decode() if at.is_dictionary(kind) else column
    values = plain.drop_null()
    distinct = len(values) if at.is_decimal(kind) and kind.bit_width < 128 else len(values.unique())
    if whole and distinct == 1 and not column.null_count and len(column) > 1:
        return ConstantField()
    if is_datetime(kind):
        return DatetimeField()
    if at.is_dictionary(kind) or at.is_boolean(kind):
        return CategoryField()
    if at.is_integer(kind):
        return _of_integers(name, values, distinct)
    return NumberField() if is_number(kind) else _of_strings(values, distinct)


def _of_integers(name: str, values: pa.Array, distinct: int) -> DataField:
    """Codes, row numbers and the like, or numbers."""
    numbers = values.to_pylist()
    least, most = min(numbers, default=LARGEST_CODE + 1), max(numbers, default=0)
    if distinct <= min(CODES, max(2, len(numbers) // 2)) and least >= 0 and most <= LARGEST_CODE:
        return CategoryField()
    named = re.search(IDENTIFIER, name)
    in_order = numbers in (sorted(numbers), sorted(numbers, reverse=True))
    if distinct == len(numbers) >= SEEN and (named or in_order or most - least < 2 * distinct):
        return IdentifierField()
    return CategoryField() if named else NumberField()  # a key of something else, which repeats


def _of_strings(values: pa.Array, distinct: int) -> DataField | str:
    """Where they are nearly all different, they are text or identifiers; else categories, of however many values."""
    if distinct > min(MAX_CATEGORIES, max(2, len(values) // 2)):
        words = pc.mean(pc.count_substring(values, " ")).as_py() + 1
        if words > WORDS or pc.mean(pc.utf8_length(values)).as_py() > LETTERS:
            return f"free text ({words:.0f} words a row), which is not supported yet"
        if distinct == len(values) >= SEEN:
            return IdentifierField()
    return CategoryField()


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


_KINDS: dict[str, tuple[Callable[[pa.DataType], bool], str]] = {
    "image": (_is_image, "an image is binary, struct<bytes, path> or a fixed-size tensor"),
    "category": (_is_category, "a category is a string, integer or bool"),
    "number": (is_number, "a number is an integer, float or decimal"),
    "datetime": (is_datetime, "a datetime is a date, time, timestamp or duration"),
    "identifier": (is_identifier, "an identifier is a string or integer"),
    "constant": (lambda kind: True, ""),
}


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
