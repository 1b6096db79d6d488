"""How a shard is made: read what it is made from, make its images, lay them out as rows. Each step is a function of the
plan and the shard alone, so that it can be done by whoever, wherever, and again."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from raygen.datasets import images, parquet, stream
from raygen.datasets.commit import Output, Receipt, chunks
from raygen.datasets.schema import features_metadata, with_column_type
from raygen.errors import DataError
from raygen.generators.generator import Generator
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
        images: of real rows, uint8 ``(n, channels, height, width)``; None of new rows, or where nobody needs them.
        table: the real rows.
    """

    rows: range
    classes: np.ndarray | None
    images: np.ndarray | None = None
    table: pa.Table | None = None


@dataclass
class Maker:
    """Makes the shards of a plan, of which it needs all but the splits: those come with the shards."""

    generator: Generator
    plan: Plan
    seed: int
    strength: float
    format: FormatSpec

    def __post_init__(self) -> None:
        self.codec = self.generator.codec.with_images(self.format.images)
        self.image, field = self.codec.image
        self.kind = self.codec.arrow.field(self.image).type
        self.resizes = field.resize is not None
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
        """Whether the pictures of real rows are written as they are, byte by byte."""
        return table.schema.field(self.image).type == self.kind and not self.resizes

    def _encoded(self, rows: range, table: pa.Table, file: str, row: int) -> Piece:
        batch = self.generator.codec.encode(table, lambda index: f"{file}, row {row + index}")
        condition = self.generator.spec.condition
        classes = None if condition is None else batch[condition]
        if classes is not None and self.variants and (classes < 0).any():
            index = int(np.flatnonzero(classes < 0)[0])
            value = table[condition][index].as_py()
            raise DataError(
                f"{file}, row {row + index}: {condition} is {value!r}, which the generator never saw",
                "leave such rows out, or train on data that has them",
            )
        return Piece(rows, classes, batch[self.image], table)

    def make(self, piece: Piece) -> list[np.ndarray]:
        """The images of a piece: of new rows, or of each variant of real ones; uint8 ``(n, channels, height, width)``."""
        if piece.table is None:
            return [self.generator.tensors(piece.rows, self.seed, piece.classes)[self.image]]
        return [
            self.generator.variants(piece.images, piece.rows, self.seed, piece.classes, number, self.strength)
            for number in range(1, self.variants + 1)
            if piece.images is not None
        ]

    def table(self, piece: Piece, made: list[np.ndarray]) -> pa.Table:
        """Rows as they are written: real rows with their variants behind them, the other columns carried along."""
        if piece.table is None:
            batch = {self.image: made[0]} if piece.classes is None else self._batch(made[0], piece.classes)
            table = self.codec.decode(batch).append_column(stream.ROW, pa.array(piece.rows, pa.int64()))
            return self._finished(table, ["synthetic"] * len(table))
        n, copies = len(piece.rows), len(made) + self.real
        columns = [images.encode(part, self.kind) for part in made]
        if self.real:
            real = piece.table[self.image].combine_chunks()
            if piece.images is not None and not self._kept(piece.table):
                real = images.encode(piece.images, self.kind)
            columns.insert(0, real)
        order = np.arange(n * copies).reshape(copies, n).T.reshape(-1)  # each row's copies one behind the other
        table = piece.table.replace_schema_metadata(
            {key: value for key, value in (piece.table.schema.metadata or {}).items() if key != b"pandas"}
        ).take(pa.array(np.repeat(np.arange(n), copies)))
        arrow = with_column_type(table.schema, self.image, self.kind)
        pictures = pa.concat_arrays(columns).take(pa.array(order))
        table = table.set_column(table.schema.get_field_index(self.image), arrow.field(self.image), pictures)
        table = table.replace_schema_metadata(arrow.metadata)
        table = table.append_column(stream.ROW, pa.array(np.repeat(np.arange(piece.rows.start, piece.rows.stop), copies)))
        number = np.tile(np.arange(copies) + (not self.real), n)
        if self.plan.new is None:
            table = table.append_column(VARIANT, pa.array(number.astype(np.int32)))
        return self._finished(table, np.where(number > 0, "synthetic", "real").tolist())

    def _batch(self, made: np.ndarray, classes: np.ndarray) -> dict[str, np.ndarray]:
        assert self.generator.spec.condition is not None
        return {self.image: made, self.generator.spec.condition: classes}

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
