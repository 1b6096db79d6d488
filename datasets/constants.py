"""Constant columns: one value, or null, in every row."""

import base64
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as at


@dataclass(frozen=True)
class Constant:
    """The value, as base64 of one row in Arrow's IPC format, which any type of Arrow survives."""

    value: str

    def decode(self, rows: int, kind: pa.DataType) -> pa.Array:
        """As many of it, as the type that the column has in the source."""
        value = _read(self.value)
        if not at.is_dictionary(kind) or value.null_count:
            return pa.nulls(rows, kind) if value.null_count else value.take(pa.array(np.zeros(rows, np.int64)))
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows), kind.index_type), value, ordered=kind.ordered)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Same:
    """What a pass over a constant column finds: its values, of which there should be one."""

    def __init__(self) -> None:
        self.values: list[str] = []

    def add(self, column: pa.Array, train: np.ndarray) -> None:
        """Rows of the column, whichever are training rows."""
        if at.is_dictionary(column.type):
            column = column.dictionary_decode()
        if column.null_count == len(column):
            found = column.slice(0, 1)  # of types too that Arrow cannot compare
        else:
            try:
                found = column.unique()
            except pa.ArrowNotImplementedError:
                other = next((row for row in range(1, len(column)) if column[row] != column[0]), 0)
                found = column.take(pa.array([0, other] if other else [0]))
        self.merge([_written(found.slice(row, 1)) for row in range(min(len(found), 2))])

    def merge(self, state: list[str]) -> None:
        for value in state:
            if len(self.values) < 2 and not any(_equal(value, known) for known in self.values):
                self.values.append(value)

    def to_json(self) -> list[str]:
        return self.values

    def shown(self) -> list[str]:
        """The value, or two of the values."""
        return [str(_read(value)[0]) for value in self.values]

    def fit(self) -> Constant:
        return Constant(self.values[0])


def _equal(one: str, other: str) -> bool:
    here, there = _read(one), _read(other)
    both = at.is_floating(here.type) and not here.null_count and not there.null_count
    return bool(here.equals(there)) or (both and np.isnan(here[0].as_py()) and np.isnan(there[0].as_py()))


def _written(one: pa.Array) -> str:
    sink = pa.BufferOutputStream()
    batch = pa.record_batch([pa.concat_arrays([one])], names=["value"])
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return base64.b64encode(sink.getvalue()).decode()


def _read(text: str) -> pa.Array:
    return pa.ipc.open_stream(pa.py_buffer(base64.b64decode(text))).read_all().column(0).combine_chunks()
