"""How much a replica has to do at once, and for how long: what is more is refused while it is cheap to refuse."""

import asyncio
import json
import time
from collections import deque

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raygen.serving.problems import MEDIA_TYPE, Problem, busy

QUEUE = 256
"""Requests under way at a replica at once, where nothing else is said."""
SECONDS = 60.0
"""Without progress that one may take, where nothing else is said."""
ALWAYS = ("/healthz", "/metrics")
"""Who asks how it is when there is no room has to be told."""


class Waits:
    """How long the first byte of an answer took, of the last answers of the last seconds."""

    def __init__(self, most: int = 1000, seconds: float = 2.0) -> None:
        self._seconds = seconds
        self._waits: deque[tuple[float, float]] = deque(maxlen=most)

    def add(self, wait: float) -> None:
        self._waits.append((time.monotonic(), wait))

    def late(self) -> float:
        """The 95th percentile, in seconds; 0 where nobody asked."""
        since = time.monotonic() - self._seconds
        waits = sorted(wait for at, wait in self._waits if at >= since)
        return waits[len(waits) * 95 // 100] if waits else 0.0


class Room:
    """ASGI middleware: at most so many requests are under way, and none stands still.

    Waiting requests are bounded here, rather than by Ray Serve, so that the excess gets a problem document and is counted
    and logged as any other answer.

    Args:
        app: behind it.
        most: requests under way; the next one is answered 503.
        seconds: in which the first byte of an answer has to come, and then each next piece has to be taken by who asked.
            Then its work is stopped, and where nothing was sent the answer is 504.
        waits: is told how long the first byte took.
    """

    def __init__(self, app: ASGIApp, most: int, seconds: float, waits: Waits | None = None) -> None:
        self.app, self.most, self.seconds, self.waits = app, most, seconds, waits or Waits()
        self.under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in ALWAYS:
            await self.app(scope, receive, send)
            return
        if self.under_way >= self.most:
            await _refuse(busy(1), scope, send)
            return
        self.under_way += 1
        started = False
        clock = asyncio.get_running_loop().time
        limit, began = asyncio.timeout(self.seconds), clock()

        async def answer(message: Message) -> None:
            nonlocal started
            if not started:
                self.waits.add(clock() - began)
            started = True
            limit.reschedule(clock() + self.seconds)
            await send(message)

        try:
            async with limit:
                await self.app(scope, receive, answer)
        except TimeoutError:
            if not limit.expired():
                raise
            if started:
                return  # the server closes the connection, so that who asked knows that it has not got everything
            late = Problem(504, f"it was not answered within {self.seconds:g} s", "ask for less at once, or try again")
            await _refuse(late, scope, send)
        finally:
            self.under_way -= 1


async def _refuse(problem: Problem, scope: Scope, send: Send) -> None:
    # By hand, not by Starlette's Response: under overload this is what most of the time goes to.
    document = json.dumps(problem.document(str(scope.get("raygen.id", "")))).encode()
    headers = [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
    headers += [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(document)).encode())]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": document})
