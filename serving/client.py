"""Rows from an endpoint, in Python.

    with raygen.Client("http://127.0.0.1:8000", token="rg_…") as client:
        client.generate(1000, model="digits", seed=1, condition=7)      # a pyarrow.Table
        client.save("digits.parquet", 5_000_000, seed=1)                # any number: they pass through

A row is decided by its generator, seed and number, so whatever breaks can be asked for again: connections that break midway
go on from the row where they broke, with the generator that they began with.
"""

import io
import os
import zipfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import httpx2 as httpx
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from raygen.datasets.storage import Folder
from raygen.errors import RaygenError
from raygen.serving.api import Model, Models
from raygen.serving.problems import Problem
from raygen.serving.stream import Pages, Stream
from raygen.serving.transfer import Transfer

if TYPE_CHECKING:
    from PIL.Image import Image

AT_ONCE = 100_000
"""Rows of one request at most, and of one row group of a file."""
HELD = 64 * 2**20
"""Bytes of rows after which a row group is written, however few they are."""
PICTURES_AT_ONCE = 1000


class Asked(TypedDict, total=False):
    """Which rows, besides how many.

    Attributes:
        model: the name of a project; may be left out where the endpoint serves one.
        seed: of the dataset that they are rows of; 0 by default.
        start: the number of the first; 0 by default.
        condition: what all of them show, or a list of what each shows; by default each draws its own, with the frequencies
            of the training data.
        where: of a table, by column a value, a list of values, or the least and the most.
        digest: of the generator that they have to be of; by default it is the one that answers first.
    """

    model: str | None
    seed: int
    start: int
    condition: bool | int | str | Sequence[bool | int | str | None] | None
    where: Mapping[str, Any] | None
    digest: str | None


class Client:
    """Asks an endpoint. Several threads may use one; as a context manager, it closes its connections.

    Args:
        url: of the endpoint.
        token: who asks; by default what the environment variable ``RAYGEN_TOKEN`` says.
        timeout: seconds in which an answer has to begin, and then each next part of it, tries included. What may pass (no
            connection, an endpoint that is busy or starts again) is tried until then, after as long as the endpoint says
            (``Retry-After``), or else at growing intervals.

    Raises:
        RaygenError: the URL or the token is none; from every method, when there is no right answer.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", token: str | None = None, timeout: float = 60.0) -> None:
        self._transfer = Transfer(url, token or os.environ.get("RAYGEN_TOKEN") or None, timeout)
        self.url = self._transfer.url

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def close(self) -> None:
        """Close the connections."""
        self._transfer.close()

    def healthy(self) -> bool:
        """Whether the endpoint answers; it is asked once."""
        try:
            self._transfer.once("/healthz")
        except (Problem, httpx.TransportError):
            return False
        return True

    def models(self) -> list[Model]:
        """What is served, and how good it is."""
        try:
            return Models.model_validate_json(self._transfer.read("/v1/models")).data
        except ValidationError:
            raise RaygenError(f"{self.url}: its list of models is not one", "is it of another version of raygen?") from None

    def generate(self, rows: int, **asked: Unpack[Asked]) -> pa.Table:
        """Rows by their numbers, as ``Generator.sample`` and ``raygen augment`` make them.

        Args:
            rows: how many.
            asked: which; see ``Asked``.

        Returns:
            A table with the Arrow types of the training data.

        Raises:
            RaygenError: there is no right answer; or another generator became current before the last of them.
        """
        return pa.Table.from_batches(list(self.batches(rows, **asked)))

    def batches(self, rows: int, **asked: Unpack[Asked]) -> Generator[pa.RecordBatch, None, None]:
        """What ``generate`` gives, in pieces as they come: any number of rows, in little memory."""
        with closing(Stream(self._transfer, Pages(self._transfer, asked, rows, AT_ONCE))) as stream:
            yield from stream

    def save(self, path: str | Path, rows: int, **asked: Unpack[Asked]) -> None:
        """Write what ``generate`` gives to a Parquet file, local or ``s3://``, which is there when it is whole."""
        place = Folder(path)
        with closing(self.batches(rows, **asked)) as batches:
            held = [next(batches)]
            with (
                Folder(place.uri.removesuffix(place.name) or "/").writer(place.name) as file,
                pq.ParquetWriter(file, held[0].schema, compression="zstd") as writer,
            ):
                for batch in batches:
                    group = [*held, batch]
                    if sum(map(len, group)) > AT_ONCE or sum(part.nbytes for part in group) > HELD:
                        writer.write_table(pa.Table.from_batches(held))
                        held = []
                    held.append(batch)
                writer.write_table(pa.Table.from_batches(held))

    def images(self, rows: int, **asked: Unpack[Asked]) -> "list[Image]":
        """The pictures of rows, of a model that makes images."""
        import PIL.Image

        found: list[Image] = []
        pages = Pages(self._transfer, asked, rows, PICTURES_AT_ONCE)
        while pages.at < pages.end:
            with self._transfer.tried(lambda until: _archive(pages, until)) as archive:
                names = archive.namelist()
                for name in names:
                    picture = PIL.Image.open(io.BytesIO(archive.read(name)))
                    picture.load()
                    found.append(picture)
            pages.at = pages.until
        return found


def _archive(pages: Pages, until: float) -> zipfile.ZipFile:
    """The next pictures, all of them."""
    with closing(pages.ask("application/zip", until)) as answer:
        try:
            archive = zipfile.ZipFile(io.BytesIO(answer.read()))
        except zipfile.BadZipFile:
            raise httpx.RemoteProtocolError("the pictures broke off") from None
    if len(archive.namelist()) != pages.until - pages.at:
        raise RaygenError(
            "the endpoint gave another number of pictures than it was asked for", "is it an endpoint of raygen?"
        )
    return archive
