"""Rows as an answer: by what was asked for (``Accept``), a media type and its bytes, as much as can be in pieces."""

import base64
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from raygen.datasets import images
from raygen.datasets.codec import Codec
from raygen.serving.problems import Problem

JSON, ARROW, PARQUET = "application/json", "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"
PNG, ZIP = "image/png", "application/zip"
MEDIA_TYPES = (JSON, ARROW, PARQUET, PNG, ZIP)
GRID = 10  # pictures side by side in one PNG
MOST_IN_A_GRID = 1000


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


def write(tables: Iterable[pa.Table], kind: str, codec: Codec) -> Iterator[bytes]:
    """The bytes of an answer, as the rows come; nothing but Parquet and PNG holds more than one piece of them.

    Args:
        tables: the rows, in pieces.
        kind: of `MEDIA_TYPES`.
        codec: of the generator that they are of.
    """
    writers: dict[str, Callable[[Iterable[pa.Table], Codec], Iterator[bytes]]] = {
        JSON: _json, ARROW: _arrow, PARQUET: _parquet, PNG: _png, ZIP: _zip,
    }  # fmt: skip
    return writers[kind](tables, codec)


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

    def taken(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def _arrow(tables: Iterable[pa.Table], codec: Codec) -> Iterator[bytes]:
    pipe, writer = _Pipe(), None
    for table in tables:
        if writer is None:
            writer = pa.ipc.new_stream(pipe, table.schema)
        writer.write_table(table)
        yield pipe.taken()
    if writer is not None:
        writer.close()
    yield pipe.taken()


def _parquet(tables: Iterable[pa.Table], codec: Codec) -> Iterator[bytes]:
    pipe, writer = _Pipe(), None
    for table in tables:
        if writer is None:
            writer = pq.ParquetWriter(pipe, table.schema, compression="zstd")
        writer.write_table(table)
        yield pipe.taken()
    if writer is not None:
        writer.close()
    yield pipe.taken()


def _json(tables: Iterable[pa.Table], codec: Codec) -> Iterator[bytes]:
    """``{"rows": [{…}, …]}``; pictures are data URIs of PNG, what JSON has no word for is text or null."""
    yield b'{"rows": ['
    separator = b""
    for table in tables:
        columns = {name: _plain(table, name, codec) for name in table.column_names}
        for row in range(len(table)):
            told = {name: values[row] for name, values in columns.items()}
            yield separator + json.dumps(told, ensure_ascii=False, allow_nan=False, default=str).encode()
            separator = b", "
    yield b"]}"


def _plain(table: pa.Table, name: str, codec: Codec) -> list[Any]:
    if not codec.is_table and name == codec.image[0]:
        return ["data:image/png;base64," + base64.b64encode(file).decode() for file in _files(table, codec)]
    values = table[name].to_pylist()
    return [None if isinstance(value, float) and not np.isfinite(value) else value for value in values]


def _files(table: pa.Table, codec: Codec) -> list[bytes]:
    """The pictures of rows as PNG."""
    name, _ = codec.image
    return images.pngs(codec.encode(table)[name])


def _png(tables: Iterable[pa.Table], codec: Codec) -> Iterator[bytes]:
    """One picture: the row's, or those of all rows in a grid."""
    name, _ = codec.image
    pixels = np.concatenate([codec.encode(table)[name] for table in tables])
    if len(pixels) == 1:
        yield images.pngs(pixels)[0]
        return
    if len(pixels) > MOST_IN_A_GRID:
        raise Problem(
            406, f"{len(pixels):,} pictures are too many for one PNG", f"ask for {MOST_IN_A_GRID}, or accept {ZIP}"
        )
    n, channels, height, width = pixels.shape
    across = min(GRID, n)
    down = -(-n // across)
    grid = np.full((down, across, channels, height, width), 255, np.uint8)
    grid.reshape(-1, channels, height, width)[:n] = pixels
    page = grid.transpose(0, 3, 1, 4, 2).reshape(down * height, across * width, channels)
    buffer = io.BytesIO()
    Image.fromarray(page[..., 0] if channels == 1 else page).save(buffer, "PNG")
    yield buffer.getvalue()


def _zip(tables: Iterable[pa.Table], codec: Codec) -> Iterator[bytes]:
    """A PNG for each row, by its number in the answer."""
    pipe, number = _Pipe(), 0
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:
        for table in tables:
            for file in _files(table, codec):
                archive.writestr(zipfile.ZipInfo(f"{number:08}.png"), file)  # without the time of day: the same bytes
                number += 1
            yield pipe.taken()
    yield pipe.taken()
