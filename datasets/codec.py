"""The codec: what turns Arrow rows into tensors and back, fitted once on the data and kept as JSON."""

import base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from raygen.datasets import columns, images, schema
from raygen.datasets.columns import Category, Value
from raygen.errors import RaygenError
from raygen.spec import DataField, ImageField

CELLS = "cells"
ROW = "_row"
_FIELDS = TypeAdapter(dict[str, DataField])

Batch = dict[str, np.ndarray]
"""Encoded rows by column: images uint8 ``(n, channels, height, width)``, categories int64 ``(n,)``. Of a table, all cells
are ``cells``: float64 ``(n, columns)``, a token and a place in [0, 1) within it, added up."""


@dataclass(frozen=True)
class Codec:
    """Fields, the Arrow schema they have in the source, and the values of the categories."""

    fields: Mapping[str, DataField]
    arrow: pa.Schema
    categories: Mapping[str, Category]

    @classmethod
    def of(cls, fields: Mapping[str, DataField], arrow: pa.Schema, categories: Mapping[str, Category]) -> "Codec":
        """A codec of the columns that the fields name, in the order of the source, and with its types, but for tensors of
        another size than the field's."""
        metadata = {key: value for key, value in (arrow.metadata or {}).items() if key != b"pandas"}  # names an index
        chosen = pa.schema([field for field in arrow if field.name in fields], metadata=metadata or None)
        ordered = {name: fields[name] for name in chosen.names}
        for name, field in ordered.items():
            if isinstance(field, ImageField):
                kind = images.stored_type("source", chosen.field(name).type, field)
                chosen = schema.with_column_type(chosen, name, kind)
        return cls(ordered, chosen, {name: categories[name] for name in ordered if name in categories})

    def select(self, names: Iterable[str | None]) -> "Codec":
        """The same codec for some of its columns."""
        return Codec.of({name: self.fields[name] for name in names if name is not None}, self.arrow, self.categories)

    def with_images(self, stored: str) -> "Codec":
        """The same codec with its pictures stored as the source has them (``source``), as ``png`` or as ``tensor``."""
        name, field = self.image
        arrow = schema.with_column_type(self.arrow, name, images.stored_type(stored, self.arrow.field(name).type, field))
        return Codec(self.fields, arrow, self.categories)

    @property
    def is_table(self) -> bool:
        return not any(isinstance(field, ImageField) for field in self.fields.values())

    @property
    def cells(self) -> Mapping[str, int]:
        """How many tokens each column of a table has that is learnt."""
        return {name: len(category.values) for name, category in self.categories.items()}

    @property
    def image(self) -> tuple[str, ImageField]:
        """The name and the field of the image column (a spec has exactly one)."""
        return next((name, field) for name, field in self.fields.items() if isinstance(field, ImageField))

    def encode(self, table: pa.Table | pa.RecordBatch, where: Callable[[int], str] = "row {}".format) -> Batch:
        """Turn rows into tensors.

        Args:
            table: has at least the codec's columns.
            where: names a row of the table in errors.

        Raises:
            DataError: an image cannot be read.
        """
        batch: Batch = {}
        for name, field in self.fields.items():
            column = table[name]
            array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            if isinstance(field, ImageField):
                batch[name] = images.decode(array, field, where)
            else:
                batch[name] = columns.encode(array, self.categories[name])
        return batch

    def decode(self, batch: Batch) -> pa.Table:
        """Turn tensors into rows with the Arrow types of the source."""
        arrays = []
        for name, field in self.fields.items():
            kind = self.arrow.field(name).type
            if isinstance(field, ImageField):
                arrays.append(images.encode(batch[name], kind))
            else:
                arrays.append(columns.decode(batch[name], self.categories[name], kind))
        return pa.Table.from_arrays(arrays, schema=self.arrow)

    def class_index(self, name: str, value: Value) -> int:
        """The class index of a category's value.

        Raises:
            RaygenError: the value was never seen.
        """
        values = self.categories[name].values
        for index, known in enumerate(values):
            if known == value and isinstance(known, bool) == isinstance(value, bool):
                return index
        shown = ", ".join(map(repr, values[:20])) + (", …" if len(values) > 20 else "")
        raise RaygenError(f"{name} has no value {value!r}", f"its values are: {shown}")

    def to_json(self) -> dict[str, Any]:
        return {
            "fields": _FIELDS.dump_python(dict(self.fields), mode="json"),
            "arrow": base64.b64encode(self.arrow.serialize()).decode(),
            "categories": {name: category._asdict() for name, category in self.categories.items()},
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> "Codec":
        arrow = schema.with_known_types(lambda: pa.ipc.read_schema(pa.py_buffer(base64.b64decode(state["arrow"]))))
        categories = {
            name: Category(*(tuple(category[part]) for part in Category._fields))
            for name, category in state["categories"].items()
        }
        return cls(_FIELDS.validate_python(state["fields"]), arrow, categories)
