"""Rows as they come from an endpoint: one request after another, all answered by one generator, and each gone on with from
the row where its connection broke."""

import contextlib
import io
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx2 as httpx
import pyarrow as pa

from raygen.errors import RaygenError
from raygen.serving.problems import Problem
from raygen.serving.transfer import Transfer

ARROW = "application/vnd.apache.arrow.stream"
_PIECE = 256 * 1024
LISTED = 1000
"""Conditions of rows in one request: a request is short. Where they are long, it is fewer, by what the endpoint takes."""


class Pages:
    """Requests for rows that follow each other.

    Args:
        transfer: to the endpoint.
        asked: the rest of what each asks for; without a ``digest``, the generator that answers the first is asked for.
        rows: how many there are to be.
        most: of one request; less, where the endpoint says so.

    Attributes:
        at: the number of the row that comes next.
        end: of the row after the last.
        until: of the row after the last of the request that was made last.
    """

    def __init__(self, transfer: Transfer, asked: Mapping[str, Any], rows: int, most: int) -> None:
        given = {name: value for name, value in asked.items() if value is not None}
        self.at = self.until = given.pop("start", 0)
        if type(rows) is not int or type(self.at) is not int or rows < 1:
            raise RaygenError(f"{rows!r} rows from {self.at!r} on cannot be asked for", "give whole numbers, 1 row or more")
        self.end, self.most, self.digest = self.at + rows, most, given.get("digest")
        self._listed = LISTED
        self._transfer, self._asked, self._given = transfer, given, "digest" in given
        condition: Any = given.get("condition")
        listed = hasattr(condition, "__iter__") and not isinstance(condition, str)
        self._shown = [*condition] if listed else None
        if self._shown is not None and len(self._shown) != rows:
            raise RaygenError(f"{len(self._shown)} conditions for {rows} rows", "give one value, or one for each row")

    def ask(self, accept: str, until: float) -> httpx.Response:
        """The answer with the next of them, begun.

        Raises:
            Problem, TransportError: see ``Transfer.sent``.
            RaygenError: another generator than that of the rows before would answer.
        """
        rows = min(self.most, self.end - self.at)
        asked = {**self._asked, "start": self.at, "rows": rows}
        if self._shown is not None:
            rows = asked["rows"] = min(rows, self._listed)
            asked["condition"] = self._shown[self.at - self.end : self.at - self.end + rows or None]
        try:
            answer = self._transfer.sent("POST", "/v1/generate", until, asked, accept)
        except Problem as problem:
            most = problem.more.get("most")
            if problem.status == 422 and type(most) is int and 0 < most < rows:
                self.most = most
                return self.ask(accept, until)
            if problem.status == 413 and self._shown is not None and rows > 1:
                self._listed = rows // 2
                return self.ask(accept, until)
            if problem.status == 409 and not self._given:
                raise self._another() from None
            raise
        digest = answer.headers.get("raygen-digest")
        if self.digest is None:
            self.digest = self._asked["digest"] = digest
        elif digest != self.digest:
            answer.close()
            raise self._another()
        self.until = self.at + rows
        return answer

    def miscounted(self) -> RaygenError:
        return RaygenError(
            f"{self._transfer.url}: gave another number of rows than it was asked for", "is it a raygen endpoint?"
        )

    def _another(self) -> RaygenError:
        return RaygenError(
            f"{self._transfer.url}: another generator answers since row {self.at}", "ask for all of the rows again"
        )


class Stream(Iterator[pa.RecordBatch]):
    """Record batches of all rows, in order, without a gap. To be closed."""

    def __init__(self, transfer: Transfer, pages: Pages) -> None:
        self._transfer, self._pages = transfer, pages
        self._body: _Body | None = None
        self._reader: Any = None

    def __next__(self) -> pa.RecordBatch:
        batch = self._transfer.tried(self._next)
        if batch is None:
            raise StopIteration
        return batch

    def close(self) -> None:
        """Close the connection, where an answer is still on its way."""
        if self._body is not None:
            self._body.answer.close()
        self._body = self._reader = None

    def _next(self, until: float) -> pa.RecordBatch | None:
        pages = self._pages
        try:
            while pages.at < pages.end:
                batch = self._read(until)
                pages.at += len(batch)
                if pages.at > pages.until:
                    raise pages.miscounted()
                if pages.at == pages.until:
                    self._end()
                if len(batch):
                    return batch
        except BaseException:
            self.close()
            raise
        return None

    def _read(self, until: float) -> pa.RecordBatch:
        """The next batch of the answer that is on its way, or of another one."""
        try:
            if self._body is None:
                self._body = _Body(self._pages.ask(ARROW, until))
            self._body.until = until
            if self._reader is None:
                self._reader = pa.ipc.open_stream(io.BufferedReader(self._body, _PIECE))
            return self._reader.read_next_batch()
        except (StopIteration, pa.ArrowInvalid, OSError) as error:  # Arrow has a connection's end for the stream's
            raise httpx.RemoteProtocolError(f"the rows broke off ({error or 'there are too few'})") from None

    def _end(self) -> None:
        """Read what comes after the last row, so that the connection can be used again."""
        assert self._body is not None
        with contextlib.suppress(httpx.TransportError):
            self._body.read()
        self.close()


class _Body(io.RawIOBase):
    """The bytes of an answer, as a file."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer, self.until = answer, 0.0
        self._parts, self._rest = answer.iter_raw(), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            if time.monotonic() > self.until:
                raise httpx.ReadTimeout("the rows come too slowly")
            part = next(self._parts, None)
            if part is None:
                return 0
            self._rest = memoryview(part)
        n = min(len(buffer), len(self._rest))
        buffer[:n], self._rest = self._rest[:n], self._rest[n:]
        return n
