"""How much a replica has to do at once, and for how long: what is more is refused while it is cheap to refuse."""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raygen.serving.limits import Limit, Limits
from raygen.serving.problems import MEDIA_TYPE, Problem, busy

QUEUE = 256
"""Requests under way at a replica at once, where nothing else is said."""
SECONDS = 60.0
"""Without progress that one may take, where nothing else is said."""
WATCHED = 0.5
"""Seconds after which it is noticed that who waits for an answer has gone."""
ALWAYS = ("/healthz", "/metrics")
"""Who asks how it is when there is no room has to be told."""


class Waits:
    """How long questions take until the first byte of their answer: those answered in the last seconds, and those that wait
    still. Of an answer that says no, at once, nothing is to be learnt. All in one thread."""

    def __init__(self, most: int = 1000, seconds: float = 2.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._waits: deque[tuple[float, float]] = deque(maxlen=most)
        self._waiting: dict[object, float] = {}

    def begin(self, request: object) -> None:
        """It waits."""
        self._waiting[request] = self._clock()

    def end(self, request: object, counts: bool = True) -> None:
        """It does so no more, if it did."""
        began = self._waiting.pop(request, None)
        if began is not None and counts:
            self._waits.append(((now := self._clock()), now - began))

    def late(self) -> float:
        """The 95th percentile, in seconds; 0 where nobody asked."""
        now = self._clock()
        waits = [wait for at, wait in self._waits if at >= now - self._seconds]
        waits = sorted(waits + [now - began for began in self._waiting.values()])
        return waits[len(waits) * 95 // 100] if waits else 0.0


@dataclass(eq=False, slots=True)
class _Request:
    """One that is under way, and waits for the first byte of its answer."""

    receive: Receive
    limit: Limit
    since: float = field(default_factory=time.monotonic)
    watch: asyncio.Task[None] | None = None
    gone: bool = False

    async def stop_when_gone(self) -> None:
        """As soon as who asked has gone."""
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self.limit.expire()


class Room:
    """ASGI middleware: at most so many requests are under way, none stands still, and who goes away is not worked for.

    Waiting requests are bounded here, rather than by Ray Serve, so that the excess gets a problem document and is counted
    and logged as any other answer.

    Args:
        app: behind it.
        most: requests under way; the next one is answered 503.
        seconds: in which the first byte of an answer has to come, and then each next piece has to be taken by who asked.
            Then its work is stopped, and where nothing was sent the answer is 504.
        waits: is told of those that ask a question, by POST below ``/v1``.
    """

    def __init__(self, app: ASGIApp, most: int, seconds: float, waits: Waits | None = None) -> None:
        self.app, self.most, self.seconds, self.waits = app, most, seconds, waits or Waits()
        self.under_way = 0
        self._limits = Limits()
        self._waiting: dict[_Request, None] = {}  # the first one first
        self._looks: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in ALWAYS:
            await self.app(scope, receive, send)
            return
        if self.under_way >= self.most:
            await _refuse(busy(1), scope, send)
            return
        self.under_way += 1
        limit = self._limits.of(self.seconds)
        started, request = False, _Request(receive, limit)
        if scope["method"] == "POST" and scope["path"].startswith("/v1/"):
            self.waits.begin(request)
        self._wait(request)

        async def answer(message: Message) -> None:
            nonlocal started
            if not started:
                self._end(request)
                self.waits.end(request, counts=not 400 <= message["status"] < 500)
            started = True
            limit.again()
            await send(message)

        try:
            with limit:
                await self.app(scope, receive, answer)
        except TimeoutError:
            if not limit.expired:
                raise
            if request.gone:
                return
            if started:
                return  # the server closes the connection, so that who asked knows that it has not got everything
            self.waits.end(request)
            late = Problem(504, f"it was not answered within {self.seconds:g} s", "ask for less at once, or try again")
            await _refuse(late, scope, send)
        finally:
            self._end(request)
            self.waits.end(request, counts=False)  # who went away
            self.under_way -= 1

    def _wait(self, request: _Request) -> None:
        self._waiting[request] = None
        if self._looks is None or len(self._waiting) == 1:
            if self._looks is not None:
                self._looks.cancel()
            self._looks = asyncio.get_running_loop().call_later(WATCHED, self._look)

    def _end(self, request: _Request) -> None:
        self._waiting.pop(request, None)
        if request.watch is not None:
            request.watch.cancel()

    def _look(self) -> None:
        """Watch whether those who have waited for a while go away: to watch everybody would take longer than most wait."""
        now = time.monotonic()
        for request in self._waiting:
            if request.since > now - WATCHED:
                break
            if request.watch is None:
                request.watch = asyncio.create_task(request.stop_when_gone())
        self._looks = asyncio.get_running_loop().call_later(WATCHED, self._look) if self._waiting else None


async def _refuse(problem: Problem, scope: Scope, send: Send) -> None:
    # By hand, not by Starlette's Response: under overload this is what most of the time goes to.
    document = json.dumps(problem.document(str(scope.get("raygen.id", "")))).encode()
    headers = [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
    headers += [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(document)).encode())]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": document})
