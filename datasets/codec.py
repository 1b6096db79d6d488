"""The codec: what turns Arrow rows into tensors and back, fitted once on the data and kept as JSON."""

import base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from dataclasses import field as attribute
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from raygen.datasets import columns, conditions, images, schema
from raygen.datasets.columns import Category, Value, Vocabulary
from raygen.datasets.conditions import Asked, Condition
from raygen.datasets.constants import Constant
from raygen.datasets.identifiers import Identifier
from raygen.datasets.numbers import Number
from raygen.errors import RaygenError, did_you_mean
from raygen.spec import DataField, ImageField

_FIELDS = TypeAdapter(dict[str, DataField])

CELLS = "cells"
"""What a batch of a table has: a row of cells for each row, a column for each that is learnt. A cell is ``token + place``:
the whole part says in which of the column's bins the value is, and what is left, in [0, 1), where in it."""
ROW = "_row"
"""The column that carries a row's address."""

Batch = dict[str, np.ndarray]
"""Encoded rows: of images by column, images uint8 ``(n, channels, height, width)`` and categories int64 ``(n,)``; of a table
``cells``, float64 ``(n, columns)``. With ``_row``, int64 ``(n,)``, where somebody has added it."""

Column = Vocabulary | Number | Identifier | Constant
_COLUMNS: dict[str, Callable[..., Column]] = {
    "category": Vocabulary,
    "number": Number,
    "datetime": Number,
    "identifier": Identifier,
    "constant": Constant,
}


@dataclass(frozen=True)
class Codec:
    """Fields, the Arrow schema they have in the source, and what was learnt of their columns.

    Attributes:
        categories: the columns of kind category, but for those of very many values.
        columns: all others but images.
    """

    fields: Mapping[str, DataField]
    arrow: pa.Schema
    categories: Mapping[str, Category]
    columns: Mapping[str, Column] = attribute(default_factory=dict)

    @classmethod
    def of(
        cls,
        fields: Mapping[str, DataField],
        arrow: pa.Schema,
        categories: Mapping[str, Category],
        others: Mapping[str, Column] | None = None,
    ) -> "Codec":
        """A codec of the columns that the fields name, in the order of the source, and with its types, but for tensors of
        another size than the field's."""
        metadata = {key: value for key, value in (arrow.metadata or {}).items() if key != b"pandas"}  # names an index
        chosen = pa.schema([field for field in arrow if field.name in fields], metadata=metadata or None)
        ordered = {name: fields[name] for name in chosen.names}
        for name, field in ordered.items():
            if isinstance(field, ImageField):
                kind = images.stored_type("source", chosen.field(name).type, field)
                chosen = schema.with_column_type(chosen, name, kind)
        few = {name: categories[name] for name in ordered if name in categories}
        return cls(ordered, chosen, few, {name: others[name] for name in ordered if others and name in others})

    def select(self, names: Iterable[str | None]) -> "Codec":
        """The same codec for some of its columns."""
        chosen = {name: self.fields[name] for name in names if name is not None}
        return Codec.of(chosen, self.arrow, self.categories, self.columns)

    def made(self, condition: str | None) -> "Codec":
        """The same codec for what a generator makes: all of a table; an image, and its condition where it has one."""
        return self if self.is_table else self.select([self.image[0], condition])

    def with_images(self, stored: str) -> "Codec":
        """The same codec with its pictures stored as the source has them (``source``), as ``png`` or as ``tensor``."""
        if self.is_table:
            return self
        name, field = self.image
        arrow = schema.with_column_type(self.arrow, name, images.stored_type(stored, self.arrow.field(name).type, field))
        return Codec(self.fields, arrow, self.categories)

    @property
    def image(self) -> tuple[str, ImageField]:
        """The name and the field of the image column, of which there is one where this is no table."""
        return next((name, size) for name, size in self.fields.items() if isinstance(size, ImageField))

    @property
    def is_table(self) -> bool:
        return not any(isinstance(field, ImageField) for field in self.fields.values())

    @cached_property
    def cells(self) -> Mapping[str, int]:
        """Of a table, the columns that are learnt, in the order of the source, and how many tokens each has."""
        tokens = {name: len(category.values) for name, category in self.categories.items()}
        tokens |= {name: column.tokens for name, column in self.columns.items() if isinstance(column, Vocabulary | Number)}
        return {name: tokens[name] for name in self.fields if name in tokens} if self.is_table else {}

    def encode(self, table: pa.Table | pa.RecordBatch, where: Callable[[int], str] = "row {}".format) -> Batch:
        """Turn rows into tensors.

        Args:
            table: has at least the codec's columns; of a table, at least those that are learnt.
            where: names a row of the table in errors.

        Raises:
            DataError: an image cannot be read.
        """
        if self.is_table:
            cells = [self._cells(name, _whole(table[name])) for name in self.cells]
            return {CELLS: np.column_stack(cells) if cells else np.empty((len(table), 0))}
        batch: Batch = {}
        for name, field in self.fields.items():
            array = _whole(table[name])
            if isinstance(field, ImageField):
                batch[name] = images.decode(array, field, where)
            else:
                batch[name] = columns.encode(array, self.categories[name])
        return batch

    def given(self, table: pa.Table) -> np.ndarray:
        """Cells of a table's rows of which some are known, float64 ``(n, columns)``: NaN where a cell is null, or its column
        is not there."""
        cells = np.full((len(table), len(self.cells)), np.nan)
        for index, name in enumerate(self.cells):
            if name in table.column_names:
                column = _whole(table[name])
                cells[:, index] = np.where(column.is_valid().to_numpy(False), self._cells(name, column), np.nan)
        return cells

    def filled(self, names: Iterable[str]) -> dict[int, np.ndarray]:
        """Bounds, as of ``where``, that let any value be in some columns of a table, but no null."""
        bounds = {}
        for index, (name, tokens) in enumerate(self.cells.items()):
            column = self.columns.get(name)
            null = column.null if isinstance(column, Vocabulary | Number) else self.categories[name].values[-1] is None
            if name in names and null and tokens > 1:
                bounds[index] = np.append(np.repeat([[0.0, 1.0]], tokens - 1, 0), [[0.0, 0.0]], 0)
        return bounds

    def decode(self, batch: Batch) -> pa.Table:
        """Turn tensors into rows with the Arrow types of the source; of a table with identifiers, with ``_row``."""
        arrays = []
        place = {name: index for index, name in enumerate(self.cells)}
        for name, field in self.fields.items():
            kind, column = self.arrow.field(name).type, self.columns.get(name)
            if isinstance(column, Identifier):
                arrays.append(column.decode(batch[ROW], kind))
            elif isinstance(column, Constant):
                arrays.append(column.decode(len(batch[CELLS]), kind))
            elif column is not None:
                arrays.append(column.decode(batch[CELLS][:, place[name]], kind))
            elif name in place:
                most = len(self.categories[name].values) - 1
                indices = np.clip(batch[CELLS][:, place[name]], 0, most).astype(np.int64)
                arrays.append(columns.decode(indices, self.categories[name], kind))
            elif isinstance(field, ImageField):
                arrays.append(images.encode(batch[name], kind))
            else:
                arrays.append(columns.decode(batch[name], self.categories[name], kind))
        return pa.Table.from_arrays(arrays, schema=self.arrow)

    def class_index(self, name: str, value: Value) -> int:
        """The class index of a category's value.

        Raises:
            RaygenError: the value was never seen, or the column has too many values to be asked for one.
        """
        return conditions.class_index(name, self.category(name), value)

    def category(self, name: str) -> Category:
        """What is known of a category column.

        Raises:
            RaygenError: it has too many values to be asked for one.
        """
        if name not in self.categories:
            raise RaygenError(
                f"{name} is no category of at most {schema.MAX_CATEGORIES} values, so it has no classes",
                f"those that have: {', '.join(self.categories) or 'none'}",
            )
        return self.categories[name]

    def where(self, asked: Mapping[str, Asked]) -> Condition:
        """What a table's cells have to be, so that its rows are as asked, exactly.

        Args:
            asked: by column, a value (None is a null); or a list: of numbers, dates and times the least and the most, both
                allowed, None being no limit (and no null); of categories, values of which any will do. Dates and times are
                those of ``datetime``, or ISO 8601 text; without a zone, they are in the column's; a date is its whole day.

        Raises:
            RaygenError: there is no such column, it cannot be asked for, or it has no such value.
        """
        bounds: dict[int, np.ndarray] = {}
        literals: dict[str, pa.Array] = {}
        place = {name: index for index, name in enumerate(self.cells)}
        for name, wanted in asked.items():
            if name not in self.fields:
                near = did_you_mean(name, self.fields)
                raise RaygenError(f"where.{name}: there is no such column{near}", f"known: {', '.join(self.fields)}")
            kind, column = self.arrow.field(name).type, self.columns.get(name)
            if isinstance(column, Number):
                bounds[place[name]], literal = conditions.of_number(name, column, wanted, kind)
                literals |= {} if literal is None else {name: literal}
            elif isinstance(column, Vocabulary):
                bounds[place[name]] = conditions.of_vocabulary(name, column, wanted, kind)
            elif name in place:
                bounds[place[name]] = conditions.of_category(name, self.categories[name], wanted)
            elif not (isinstance(column, Constant) and column.decode(1, kind)[0].as_py() == wanted):
                raise RaygenError(
                    f"where.{name}: the column is of kind {self.fields[name].kind!r}, and cannot be asked for another value",
                    f"leave it out; those that can be asked for: {', '.join(place)}",
                )
        return Condition(bounds, literals)

    def to_json(self) -> dict[str, Any]:
        state = {
            "fields": _FIELDS.dump_python(dict(self.fields), mode="json"),
            "arrow": base64.b64encode(self.arrow.serialize()).decode(),
            "categories": {name: category._asdict() for name, category in self.categories.items()},
        }
        learnt = {name: column.to_json() for name, column in self.columns.items()}
        return {**state, "columns": learnt} if learnt else state  # generators of images keep their digests

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> "Codec":
        arrow = schema.with_known_types(lambda: pa.ipc.read_schema(pa.py_buffer(base64.b64decode(state["arrow"]))))
        categories = {
            name: Category(*(tuple(category[part]) for part in Category._fields))
            for name, category in state["categories"].items()
        }
        fields = _FIELDS.validate_python(state["fields"])
        others = {}
        for name, found in state.get("columns", {}).items():
            parts = {part: tuple(value) if isinstance(value, list) else value for part, value in found.items()}
            others[name] = _COLUMNS[fields[name].kind](**parts)
        return cls(fields, arrow, categories, others)

    def _cells(self, name: str, column: pa.Array) -> np.ndarray:
        learnt = self.columns.get(name)
        if isinstance(learnt, Vocabulary | Number):
            return learnt.encode(column)
        return columns.nearest(column, self.categories[name]).astype(np.float64)


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
