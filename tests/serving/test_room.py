"""How much an application has to do at once, and for how long, without a cluster: an application that waits until told."""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI

from raygen.serving import room
from raygen.serving.app import Streamed
from raygen.serving.book import Book
from raygen.serving.endpoint import Endpoint
from raygen.serving.guard import Guard
from raygen.serving.metrics import Metrics
from raygen.serving.models import Models
from raygen.serving.room import Room, Waits


class Scene:
    """An application with room for two, of which each request waits to be let go, and who asks it."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.go, self.stopped = asyncio.Event(), 0
        api = FastAPI()

        @api.get("/wait")
        async def wait() -> str:
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.stopped += 1
                raise
            return "done"

        @api.get("/pieces")
        async def pieces() -> Streamed:
            async def endless() -> AsyncIterator[bytes]:
                try:
                    while True:
                        yield b"piece"
                finally:
                    self.stopped += 1

            return Streamed(endless())

        @api.get("/healthz")
        async def healthz() -> str:
            return "ok"

        self.api = Guard(Room(api, 2, seconds), Metrics(Book(), Models({})), api.routes)

    async def ask(self, path: str, taken: asyncio.Event | None = None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body; who does not take the pieces of an answer waits for ``taken`` at the second."""
        got: list[dict[str, Any]] = []
        told = False

        async def receive() -> dict[str, Any]:
            nonlocal told
            if told:
                await asyncio.Event().wait()
            told = True
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            got.append(message)
            if taken is not None and len(got) > 2:
                await taken.wait()

        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": path,
                 "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": [], "scheme": "http",
                 "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)}  # fmt: skip
        await self.api(scope, receive, send)  # type: ignore[arg-type]
        headers = {key.decode(): value.decode() for key, value in got[0]["headers"]}
        return got[0]["status"], headers, b"".join(message.get("body", b"") for message in got[1:])

    async def waiting(self, number: int) -> list[asyncio.Task[tuple[int, dict[str, str], bytes]]]:
        tasks = [asyncio.create_task(self.ask("/wait")) for _ in range(number)]
        for _ in range(20):  # turns of the loop, until they wait
            await asyncio.sleep(0)
        return tasks


def test_the_excess_is_told_to_come_again() -> None:
    async def scene() -> None:
        at = Scene()
        tasks = await at.waiting(2)
        status, headers, body = await at.ask("/wait")
        assert (status, headers["retry-after"], headers["content-type"]) == (503, "1", "application/problem+json")
        assert headers["x-request-id"].encode() in body
        assert (await at.ask("/healthz"))[0] == 200
        at.go.set()
        assert [status for status, _, _ in await asyncio.gather(*tasks)] == [200, 200]
        assert (await at.ask("/wait"))[0] == 200

    asyncio.run(scene())


def test_who_goes_away_makes_room() -> None:
    async def scene() -> None:
        at = Scene()
        tasks = await at.waiting(2)
        tasks[0].cancel()
        await asyncio.gather(tasks[0], return_exceptions=True)
        assert at.stopped == 1
        at.go.set()
        assert (await at.ask("/wait"))[0] == 200

    asyncio.run(scene())


def test_what_takes_too_long_is_given_up() -> None:
    async def scene() -> None:
        at = Scene(seconds=0.05)
        status, headers, _ = await at.ask("/wait")
        assert (status, headers["content-type"], at.stopped) == (504, "application/problem+json", 1)

    asyncio.run(scene())


def test_who_does_not_take_an_answer_is_given_up() -> None:
    async def scene() -> None:
        at = Scene(seconds=0.05)
        await at.ask("/pieces", taken=asyncio.Event())
        async with asyncio.timeout(10):
            while not at.stopped:
                await asyncio.sleep(0)

    asyncio.run(scene())


def waited(status: int = 200, method: str = "POST", path: str = "/v1/generate", gone: bool = False) -> tuple[float, float]:
    """How late a room says that it is while a request of 3 s waits, and when it is over."""
    now, during = [100.0], []
    waits = Waits(clock=lambda: now[0])

    async def api(scope: Any, receive: Any, send: Any) -> None:
        now[0] += 3
        during.append(waits.late())
        if gone:
            raise asyncio.CancelledError
        if not status:
            await asyncio.Event().wait()
        await send({"type": "http.response.start", "status": status, "headers": []})
        now[0] += 7  # the rest of the answer
        await send({"type": "http.response.body", "body": b""})
        now[0] -= 7

    async def send(message: Any) -> None:
        pass

    async def ask() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await Room(api, 5, 0.05, waits)({"type": "http", "method": method, "path": path}, send, send)

    asyncio.run(ask())
    return during[0], waits.late()


def test_how_late_it_is() -> None:
    assert waited() == (3, 3)
    assert waited(status=0) == (3, 3)  # what is not answered in time is late, too
    assert waited(status=500) == (3, 3)
    assert waited(status=422) == (3, 0)
    assert waited(gone=True) == (3, 0)
    assert waited(method="GET") == waited(path="/web/page.js") == (0, 0)


def test_what_waits_is_read_in_the_thread_of_the_requests() -> None:
    assert inspect.iscoroutinefunction(Endpoint.record_autoscaling_stats)


def test_who_goes_away_after_a_while_is_not_worked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without anybody telling, but the connection."""
    monkeypatch.setattr(room, "WATCHED", 0.05)
    said: list[str] = []

    async def api(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            said.append("stopped")
            raise

    async def ask(goes: bool) -> None:
        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0.1 if goes else 60)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            said.append(message["type"])

        await at({"type": "http", "method": "GET", "path": "/"}, receive, send)

    async def main() -> None:
        waits = asyncio.create_task(ask(goes=False))
        async with asyncio.timeout(10):
            await ask(goes=True)
        assert said == ["stopped"]
        assert at.under_way == 1
        waits.cancel()

    at = Room(api, 5, 60)
    asyncio.run(main())
