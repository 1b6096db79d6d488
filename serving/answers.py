"""Rows as an answer: by what was asked for (``Accept``), a media type and its bytes, as much as can be in pieces."""

import base64
import io
import json
import math
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import date, time, timedelta
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as at
from pydantic_core import to_jsonable_python

from raygen.datasets import images
from raygen.datasets.codec import Codec
from raygen.serving.problems import Problem

JSON, ARROW, PARQUET = "application/json", "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"
PNG, ZIP = "image/png", "application/zip"
MEDIA_TYPES = (JSON, ARROW, PARQUET, PNG, ZIP)
GRID = 10  # pictures side by side in one PNG
MOST_IN_A_GRID, MOST_VALUES = 1000, 50_000_000
"""Pictures of one PNG at the most, and values of its pixels."""
MOST_IN_A_ZIP = 10_000
"""Files, of which each is noted until the end."""


@lru_cache(64)
def media_type(accept: str | None, has_images: bool) -> str:
    """The one of ours that whoever asks likes best.

    Args:
        accept: the header, as of RFC 9110: types and ranges of types with weights.
        has_images: whether rows have a picture.

    Raises:
        Problem: 406; there is none.
    """
    ours = [kind for kind in MEDIA_TYPES if has_images or kind not in (PNG, ZIP)]
    best, most = "", 0.0
    ranges = _ranges(accept or "*/*")
    for kind in ours:
        # The most specific range that it is in says how much it is liked.
        matching = [(len(of.replace("*", "")), weight) for of, weight in ranges if _matches(kind, of)]
        weight = max(matching)[1] if matching else 0.0
        if weight > most:
            best, most = kind, weight
    if not best:
        raise Problem(406, f"there is no answer of type {(accept or '')[:100]!r}", f"accept one of: {', '.join(ours)}")
    return best


def _ranges(accept: str) -> list[tuple[str, float]]:
    found = []
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = 1.0
        for name, _, value in (parameter.partition("=") for parameter in parameters):
            if name.strip() == "q":
                try:
                    weight = min(1.0, max(0.0, float(value)))
                except ValueError:
                    weight = 0.0
        if kind:
            found.append((kind, weight))
    return found


def _matches(kind: str, of: str) -> bool:
    return of in ("*/*", kind) or (of.endswith("/*") and kind.startswith(of[:-1]))


def most(kind: str, codec: Codec) -> int | None:
    """Rows of an answer at the most; None for any number, since it is written as it is made."""
    if kind == ZIP:
        return MOST_IN_A_ZIP
    if kind == PNG:
        size = codec.image[1]
        return max(1, min(MOST_IN_A_GRID, MOST_VALUES // (size.height * size.width * size.channels)))
    return None


class Writer(ABC):
    """Turns rows into the bytes of an answer, some at a time."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec

    @abstractmethod
    def add(self, table: pa.Table) -> bytes:
        """The next bytes, for the next rows."""

    @abstractmethod
    def end(self) -> bytes:
        """The last bytes."""


def writer(kind: str, codec: Codec) -> Writer:
    """Of an answer of one of `MEDIA_TYPES`, with rows of a generator with this codec."""
    kinds: dict[str, type[Writer]] = {JSON: _Json, ARROW: _Arrow, PARQUET: _Parquet, PNG: _Png, ZIP: _Zip}
    return kinds[kind](codec)


class _Pipe(io.RawIOBase):
    """What is written to it can be taken away again, so that a stream is handed on as it is made."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._at = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, part: Any) -> int:
        piece = bytes(part)
        self._parts.append(piece)
        self._at += len(piece)
        return len(piece)

    def close(self) -> None:
        """It stays open: an archive that nobody waits for any more writes its end all the same, when it is collected."""

    def taken(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


class _Columns(Writer):
    """A format that a library of Arrow writes."""

    def __init__(self, codec: Codec) -> None:
        super().__init__(codec)
        self._pipe = _Pipe()
        self._writer: Any = None

    @abstractmethod
    def _opened(self, schema: pa.Schema) -> Any: ...

    def add(self, table: pa.Table) -> bytes:
        if self._writer is None:
            self._writer = self._opened(table.schema)
        self._writer.write_table(table)
        return self._pipe.taken()

    def end(self) -> bytes:
        if self._writer is not None:
            self._writer.close()
        return self._pipe.taken()


class _Arrow(_Columns):
    def _opened(self, schema: pa.Schema) -> Any:
        return pa.ipc.new_stream(self._pipe, schema)


class _Parquet(_Columns):
    def _opened(self, schema: pa.Schema) -> Any:
        return pq.ParquetWriter(self._pipe, schema, compression="zstd")


def _text(value: Any) -> str:
    """Of what JSON has no word for: times as ISO 8601 has them, durations too (``P1DT2H``), decimals by their digits."""
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    return str(to_jsonable_python(value)) if isinstance(value, timedelta) else str(value)


_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_text)


class _Json(Writer):
    """``{"rows": [{…}, …]}``; pictures are data URIs of PNG; what JSON has no word for is text (``_text``) or null."""

    before = '{"rows": ['

    def add(self, table: pa.Table) -> bytes:
        before, self.before = self.before, ", "
        return (before + ", ".join(self.rows(table))).encode()

    def end(self) -> bytes:
        return b"]}"

    def rows(self, table: pa.Table) -> list[str]:
        """The text of each."""
        names = table.column_names
        values = zip(*(self._plain(table, name) for name in names), strict=True)
        return [_JSON.encode(dict(zip(names, row, strict=True))) for row in values]

    def _plain(self, table: pa.Table, name: str) -> list[Any]:
        if not self.codec.is_table and name == self.codec.image[0]:
            return ["data:image/png;base64," + base64.b64encode(file).decode() for file in files(table, self.codec)]
        values = table[name].to_pylist()
        return [None if isinstance(value, float) and not math.isfinite(value) else value for value in values]


class _Png(Writer):
    """One picture: the row's, or those of all rows in a grid."""

    def __init__(self, codec: Codec) -> None:
        super().__init__(codec)
        self._tables: list[pa.Table] = []

    def add(self, table: pa.Table) -> bytes:
        self._tables.append(table)
        return b""

    def end(self) -> bytes:
        rows = pa.concat_tables(self._tables)
        if len(rows) == 1:
            return files(rows, self.codec)[0]
        pixels = self.codec.encode(rows)[self.codec.image[0]]
        n, channels, height, width = pixels.shape
        across = min(GRID, n)
        down = -(-n // across)
        slots = np.full((down * across, channels, height, width), 255, np.uint8)
        slots[:n] = pixels
        grid = slots.reshape(down, across, channels, height, width).transpose(2, 0, 3, 1, 4)
        return images.pngs(grid.reshape(1, channels, down * height, across * width))[0]


class _Zip(Writer):
    """A PNG for each row, by its number in the answer; without the time of day, so that the same rows are the same bytes."""

    def __init__(self, codec: Codec) -> None:
        super().__init__(codec)
        self._pipe, self._number = _Pipe(), 0
        self._archive = zipfile.ZipFile(self._pipe, "w", zipfile.ZIP_STORED)

    def add(self, table: pa.Table) -> bytes:
        for file in files(table, self.codec):
            self._archive.writestr(zipfile.ZipInfo(f"{self._number:08}.png"), file)
            self._number += 1
        return self._pipe.taken()

    def end(self) -> bytes:
        self._archive.close()
        return self._pipe.taken()


def files(table: pa.Table, codec: Codec) -> list[bytes]:
    """The pictures of rows as PNG: the bytes that are stored, where the rows have PNG."""
    name, _ = codec.image
    column = table[name].combine_chunks()
    if at.is_struct(column.type):
        column = column.field("bytes")
    if images.tensor_shape(column.type) is None:
        found: list[bytes] = column.to_pylist()
        return found
    return images.pngs(codec.encode(table)[name])


def whole(kind: str, codec: Codec, table: pa.Table) -> bytes:
    """A whole answer."""
    of = writer(kind, codec)
    return of.add(table) + of.end()


def wholes(kind: str, codec: Codec, table: pa.Table, sizes: Sequence[int]) -> list[bytes]:
    """Whole answers, each with so many of the rows, in less time than one after the other."""
    stops = [*accumulate(sizes)]
    parts = [slice(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]
    if kind == JSON:
        of = _Json(codec)
        rows, before, end = of.rows(table), of.before, of.end()
        return [(before + ", ".join(rows[part])).encode() + end for part in parts]
    if kind == PNG and max(sizes) == 1:
        return files(table, codec)
    return [whole(kind, codec, table.slice(part.start, part.stop - part.start)) for part in parts]
