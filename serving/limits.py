"""Limits of time for very many requests: one timer for all of them, since one for each takes longer than what it limits."""

import asyncio
from types import TracebackType
from typing import Any

FINEST = 0.02
"""Seconds between two looks at who is late, at the least."""


class Limits:
    """Those of all requests of an event loop."""

    def __init__(self) -> None:
        self._running: set[Limit] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def of(self, seconds: float) -> "Limit":
        """A block that may take so long, as ``asyncio.timeout`` has it."""
        return Limit(self, seconds)

    def begin(self, limit: "Limit") -> None:
        """It counts from now on."""
        if limit.loop is not self._loop:  # what another one left behind is nobody's any more
            self._loop, self._running, self._timer = limit.loop, set(), None
        self._running.add(limit)
        if self._timer is None or limit.until < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = limit.loop.call_at(limit.until, self._look)

    def end(self, limit: "Limit") -> None:
        """It does not any more."""
        self._running.discard(limit)

    def _look(self) -> None:
        """Stop what is late, and look again when the next one may be."""
        assert self._loop is not None
        now = self._loop.time()
        for limit in [limit for limit in self._running if limit.until <= now]:
            self._running.discard(limit)
            limit.expire()
        left = min((limit.until for limit in self._running), default=None)
        self._timer = None if left is None else self._loop.call_at(max(left, now + FINEST), self._look)


class Limit:
    """Of one block, which is cancelled when its time is over, and raises ``TimeoutError`` then.

    Attributes:
        until: when that is, by the clock of the loop.
        expired: whether it was.
    """

    def __init__(self, limits: Limits, seconds: float) -> None:
        self._limits, self._seconds = limits, seconds
        self._task: asyncio.Task[Any] | None = None
        self.expired = False

    def __enter__(self) -> "Limit":
        task = self._task = asyncio.current_task()
        assert task is not None
        self.loop, self._cancelling = task.get_loop(), task.cancelling()
        self.again()
        self._limits.begin(self)
        return self

    def again(self) -> None:
        """Its time begins anew."""
        self.until = self.loop.time() + self._seconds

    def expire(self) -> None:
        """Its time is over, if it has not ended."""
        if self._task is not None and not self.expired:
            self.expired = True
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task, self._task = self._task, None  # no circle of the two is left behind
        self._limits.end(self)
        assert task is not None
        if self.expired and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
