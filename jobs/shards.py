"""How a shard is made: read what it is made from, make its images, lay them out as rows. Each step is a function of the
plan and the shard alone, so that it can be done by whoever, wherever, and again."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from raygen.datasets import columns, images, parquet, stream
from raygen.datasets.codec import CELLS
from raygen.datasets.commit import Output, Receipt, chunks
from raygen.datasets.schema import features_metadata, with_column_type
from raygen.errors import DataError
from raygen.generators.generator import Generator, classes_of
from raygen.jobs.plan import Plan, Shard
from raygen.spec import FormatSpec

VARIANT, SOURCE = "_variant", "_source"
"""The columns that tell which variant of a real row a row is (0: itself), and whether it is ``real`` or ``synthetic``."""
ROWS_AT_ONCE = 1024


class Piece(NamedTuple):
    """Some rows of a shard, before anything is made of them.

    Attributes:
        rows: their numbers: of new rows, or of real ones in their source.
        classes: class indices ``(n,)``, where the generator has a condition.
        encoded: real rows: images uint8 ``(n, channels, height, width)``; cells float64 ``(n, columns)``, NaN where they are
            to be filled in; None of new rows, or where nobody needs them.
        table: the real rows.
    """

    rows: range
    classes: np.ndarray | None
    encoded: np.ndarray | None = None
    table: pa.Table | None = None


@dataclass
class Maker:
    """Makes the shards of a plan, of which it needs all but the splits: those come with the shards.

    Attributes:
        where: what all new rows of a table are like, by column.
        complete: whether the rows of splits are completed, rather than varied.
    """

    generator: Generator
    plan: Plan
    seed: int
    strength: float
    format: FormatSpec
    where: Mapping[str, Any] | None = None
    complete: bool = False

    def __post_init__(self) -> None:
        self.codec = self.generator.codec.with_images(self.format.images)
        self.condition = self.codec.where(self.where) if self.where else None
        self.is_table = self.codec.is_table
        self.image = None if self.is_table else self.codec.image[0]
        self.variants, self.real = (self.plan.of.variants, self.plan.of.real) if self.plan.of else (0, False)
        tile = self.generator.tile
        self.batch = max(tile, ROWS_AT_ONCE // max(1, self.variants + self.real) // tile * tile)

    def tables(self, shard: Shard) -> Iterator[pa.Table]:
        """The rows of a shard, in order, some at a time."""
        return (self.table(piece, self.make(piece)) for piece in self.read(shard))

    def read(self, shard: Shard) -> Iterator[Piece]:
        """What a shard is made from, some rows at a time.

        Raises:
            DataError: a real row cannot be read, or is of a class that the generator never saw.
        """
        if shard.split is None:
            assert self.plan.new is not None
            for rows in chunks(shard.rows, ROWS_AT_ONCE):
                yield Piece(rows, self.plan.new.classes(rows))
            return
        file, first, last, skip, row = shard.split
        start = shard.start
        for table in parquet.read_rows(file, range(first, last), skip, len(shard.rows), self.batch):
            rows = range(start, start := start + len(table))
            if self.plan.new is not None:
                table = table.select(self.codec.arrow.names)
            if self.variants or not self._kept(table):
                yield self._encoded(rows, table, file, row)
            else:
                yield Piece(rows, None, None, table)
            row += len(table)

    def _kept(self, table: pa.Table) -> bool:
        """Whether real rows are written as they are, pictures byte by byte."""
        if self.image is None:
            return True
        _, field = self.codec.image
        return table.schema.field(self.image).type == self.codec.arrow.field(self.image).type and field.resize is None

    def _encoded(self, rows: range, table: pa.Table, file: str, row: int) -> Piece:
        if self.is_table:
            table = self._typed(table, file)
            self._check_classes(table, self.codec.categories.keys() & {*table.column_names}, file, row)
            cells = self.codec.given(table) if self.complete else self.codec.encode(table)[CELLS]
            return Piece(
                rows, None if self.complete else classes_of({CELLS: cells}, self.generator.spec, self.codec), cells, table
            )
        assert self.image is not None
        batch = self.codec.encode(table, lambda index: f"{file}, row {row + index}")
        condition = self.generator.spec.condition
        if condition is not None and self.variants:
            self._check_classes(table, [condition], file, row)
        return Piece(rows, classes_of(batch, self.generator.spec, self.codec), batch[self.image], table)

    def _check_classes(self, table: pa.Table, names: Iterable[str], file: str, row: int) -> None:
        for name in names:
            classes = columns.encode(table[name].combine_chunks(), self.codec.categories[name])
            unseen = classes < 0
            if self.complete:
                unseen &= table[name].is_valid().to_numpy()
            if unseen.any():
                index = int(np.flatnonzero(unseen)[0])
                raise DataError(
                    f"{file}, row {row + index}: {name} is {table[name][index].as_py()!r}, which the generator never saw",
                    "leave such rows out, or train on data that has them",
                )

    def _typed(self, table: pa.Table, file: str) -> pa.Table:
        """The columns of the codec with its types."""
        for index, field in enumerate(table.schema):
            if field.name in self.codec.fields and field.type != (kind := self.codec.arrow.field(field.name).type):
                try:
                    table = table.set_column(index, field.name, table[field.name].cast(kind))
                except pa.ArrowException as error:
                    raise DataError(
                        f"{file}: column {field.name!r} is of type {field.type}, and the generator's of {kind} "
                        f"({str(error).splitlines()[0]})",
                        "store it as that type",
                    ) from None
        return table

    def make(self, piece: Piece) -> list[np.ndarray]:
        """What a piece is to be, of new rows or of each variant of real ones: images uint8 ``(n, channels, height, width)``,
        or cells float64 ``(n, columns)``."""
        if piece.table is None:
            bounds = None if self.condition is None else self.condition.bounds
            made = self.generator.tensors(piece.rows, self.seed, piece.classes, bounds)
            return [made[self.image or CELLS]]
        if self.complete and piece.encoded is not None:
            bounds = self.codec.filled(piece.table.column_names)
            return [self.generator.complete(piece.encoded, piece.rows, self.seed, bounds)]
        return [
            self.generator.variants(piece.encoded, piece.rows, self.seed, piece.classes, number, self.strength)
            for number in range(1, self.variants + 1)
            if piece.encoded is not None
        ]

    def table(self, piece: Piece, made: list[np.ndarray]) -> pa.Table:
        """Rows as they are written: real rows with their variants behind them, the other columns carried along."""
        if piece.table is None:
            batch = {(self.image or CELLS): made[0], stream.ROW: np.arange(piece.rows.start, piece.rows.stop)}
            if piece.classes is not None and self.image is not None:
                batch[str(self.generator.spec.condition)] = piece.classes
            table = self.codec.decode(batch)
            if self.condition is not None:
                table = self.condition.imposed(table)
            table = table.append_column(stream.ROW, pa.array(piece.rows, pa.int64()))
            return self._finished(table, ["synthetic"] * len(table))
        n, copies = len(piece.rows), len(made) + self.real
        parts = [self._columns(piece, part, number) for number, part in enumerate(made, 1)]
        if self.real:
            parts.insert(0, self._real(piece, [*(parts[0] if parts else self.codec.fields)]))
        order = np.arange(n * copies).reshape(copies, n).T.reshape(-1)  # each row's copies one behind the other
        table = piece.table.replace_schema_metadata(
            {key: value for key, value in (piece.table.schema.metadata or {}).items() if key != b"pandas"}
        ).take(pa.array(np.repeat(np.arange(n), copies)))
        for name in parts[0]:
            column = (
                pa.chunked_array([part[name] for part in parts]).unify_dictionaries().combine_chunks().take(pa.array(order))
            )
            table = _with_column(table, name, column)
        table = table.append_column(stream.ROW, pa.array(np.repeat(np.arange(piece.rows.start, piece.rows.stop), copies)))
        number = np.tile(np.arange(copies) + (not self.real), n)
        if self.plan.new is None and not self.complete:
            table = table.append_column(VARIANT, pa.array(number.astype(np.int32)))
        return self._finished(table, np.where(number > 0, "synthetic", "real").tolist())

    def _columns(self, piece: Piece, made: np.ndarray, number: int) -> dict[str, pa.Array]:
        """The columns that were made of real rows: their pictures; or all of a table, cells that were kept as they are."""
        assert piece.table is not None
        if self.image is not None:
            return {self.image: images.encode(made, self.codec.arrow.field(self.image).type)}
        # Each variant has an identifier of its own.
        rows = np.arange(piece.rows.start, piece.rows.stop) * max(1, self.variants) + number - 1
        table = self.codec.decode({CELLS: made, stream.ROW: rows})
        found = {name: table[name].combine_chunks() for name in table.column_names}
        assert piece.encoded is not None
        for index, name in enumerate(self.codec.cells):
            if name in piece.table.column_names:
                kept = made[:, index] == piece.encoded[:, index]
                found[name] = _either(kept, piece.table[name].combine_chunks(), found[name])
        if self.complete:
            for name in found.keys() - self.codec.cells.keys() & {
                *piece.table.column_names
            }:  # who a row is about, as it was
                known = piece.table[name].combine_chunks()
                found[name] = _either(known.is_valid().to_numpy(False), known, found[name])
        return found

    def _real(self, piece: Piece, names: Sequence[str]) -> dict[str, pa.Array]:
        assert piece.table is not None
        if self.image is not None and piece.encoded is not None and not self._kept(piece.table):
            return {self.image: images.encode(piece.encoded, self.codec.arrow.field(self.image).type)}
        return {name: piece.table[name].combine_chunks() for name in ([self.image] if self.image else names)}

    def _finished(self, table: pa.Table, source: list[str]) -> pa.Table:
        if self.real:
            table = table.append_column(SOURCE, pa.array(source, pa.string()))
        if self.format.partition_by is not None:
            table = table.drop_columns([self.format.partition_by])
        return table.cast(features_metadata(table.schema))

    def write(self, output: Output, shard: Shard, tables: Iterable[pa.Table]) -> Receipt:
        """Write the rows of a shard as its part, with what they came from in the footer."""
        about = {
            "raygen.generator": self.generator.digest,
            "raygen.seed": str(self.seed),
            "raygen.rows": f"{shard.start}-{shard.stop}",
        }
        if shard.split is not None:
            about["raygen.source"] = f"{shard.split.file.rpartition('/')[2]}, rows from {shard.split.row}"
        return output.write_part(shard, tables, about, self.format.compression, self.format.row_group_rows)


def _either(first: np.ndarray, one: pa.Array, other: pa.Array) -> pa.Array:
    """Values of one array where it says so, else of the other."""
    choice = np.where(first, 0, len(one)) + np.arange(len(one))
    return pa.chunked_array([one, other]).unify_dictionaries().combine_chunks().take(pa.array(choice))


def _with_column(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    """The table with a column of another type, or with one more."""
    index = table.schema.get_field_index(name)
    if index < 0:
        return table.append_column(name, column)
    arrow = with_column_type(table.schema, name, column.type)
    return table.set_column(index, arrow.field(index), column).replace_schema_metadata(arrow.metadata)
