"""What one pass over the rows finds out about the columns: it is added up in pieces, and the codec is fitted on it."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from raygen.datasets import schema
from raygen.datasets.codec import Codec, Column
from raygen.datasets.columns import Category, Counts, Vocabulary, fit
from raygen.datasets.constants import Same
from raygen.datasets.identifiers import Shape
from raygen.datasets.numbers import Summary
from raygen.errors import DataError
from raygen.spec import DataField

MOST_VALUES = 2_000_000
"""Distinct values of a category that a process can hold beside everything else."""


class Statistic(Protocol):
    """Of one column."""

    def add(self, column: pa.Array, train: np.ndarray) -> None:
        """Rows of the column; ``train``, bool ``(n,)``, says which are training rows."""

    def merge(self, state: Any) -> None:
        """Add what ``to_json`` of another gave."""

    def to_json(self) -> Any: ...


_STATISTICS: dict[str, type[Statistic]] = {
    "category": Counts,
    "number": Summary,
    "datetime": Summary,
    "identifier": Shape,
    "constant": Same,
}


class Statistics:
    """Of all columns but images, which need none. The order in which pieces are added decides, where columns have many
    values: keep it."""

    def __init__(self, fields: Mapping[str, DataField]) -> None:
        self.fields = fields
        self.columns = {name: _STATISTICS[field.kind]() for name, field in fields.items() if field.kind != "image"}

    def add(self, table: pa.Table, train: np.ndarray) -> None:
        """Add rows; ``train``, bool ``(n,)``, says which are training rows.

        Raises:
            DataError: a category has more values than can be remembered.
        """
        for name, column in self.columns.items():
            column.add(table[name].combine_chunks(), train)
            _check_values(name, column)

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add what ``to_json`` of others gave.

        Raises:
            DataError: as ``add``.
        """
        for name, found in state.items():
            self.columns[name].merge(found)
            _check_values(name, self.columns[name])

    def to_json(self) -> dict[str, Any]:
        return {name: column.to_json() for name, column in self.columns.items()}

    def codec(self, arrow: pa.Schema) -> Codec:
        """The codec of a source with this schema.

        Raises:
            DataError: a column is not what its field says.
        """
        categories: dict[str, Category] = {}
        others: dict[str, Column] = {}
        is_table = len(self.columns) == len(self.fields)
        for name, column in self.columns.items():
            if isinstance(column, Counts) and len(column.everywhere) <= schema.MAX_CATEGORIES:
                categories[name] = fit(column.everywhere, column.training)
            elif isinstance(column, Counts):
                if not is_table:
                    raise DataError(
                        f"column {name!r} has {len(column.everywhere)} distinct values, too many for a category",
                        f"leave it out of dataset.schema; a category has at most {schema.MAX_CATEGORIES}",
                    )
                others[name] = Vocabulary.of(column.training, None in column.everywhere)
            elif isinstance(column, Summary):
                others[name] = column.fit(arrow.field(name).type)
            elif isinstance(column, Shape):
                others[name] = column.fit()
            elif isinstance(column, Same):
                if len(column.values) > 1:
                    raise DataError(
                        f"column {name!r} is not constant: it has {' and '.join(column.shown())}",
                        "say category, number or datetime in dataset.schema, or leave it out",
                    )
                others[name] = column.fit()
        return Codec.of(self.fields, arrow, categories, others)


def _check_values(name: str, column: Any) -> None:
    if isinstance(column, Counts) and len(column.everywhere) > MOST_VALUES:
        raise DataError(
            f"column {name!r} has more than {MOST_VALUES:,} distinct values, too many for a category",
            "leave it out of dataset.schema, or make it an identifier",
        )
