"""What a replica counts, and what it hears of the others: by this it lets in, and tells how the whole endpoint is doing."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from raygen.serving.ledger import WINDOWS, Counts, Heard, Key
from raygen.serving.problems import Problem

log = logging.getLogger("raygen.serving")

EVERY = 1.0
"""Seconds between two exchanges with the ledger."""
PATIENCE = 2.0
"""Seconds that one may take."""


class Remote(Protocol):
    """The ledger, wherever it is; the arguments are those of `Ledger`."""

    async def exchange(self, replica: str, own: Counts, heard: Heard | None, totals: bool) -> Heard | None: ...

    async def leave(self, replica: str, own: Counts) -> None: ...


class Book:
    """What a replica has counted.

    Args:
        ledger: where the others tell what they have; None where there are no others.
        today: seconds since 1970.

    Attributes:
        totals: what only grows, by name and labels; whoever counts adds to it.
        levels: what is so now.
        before: called before the counts are told, for what is not counted but looked at.
    """

    def __init__(self, ledger: Remote | None = None, today: Callable[[], float] = time.time) -> None:
        self.today = today
        self._ledger, self._name = ledger, secrets.token_hex(8)
        self._own = Counts()
        self._heard: Heard | None = None
        self._one_by_one = asyncio.Lock()
        self._next: asyncio.Task[Heard | None] | None = None  # exchange of totals, which has not begun yet
        self._silence = ""  # why the ledger does not answer
        self.totals, self.levels = self._own.totals, self._own.levels
        self.before: Callable[[], None] = lambda: None

    def count(self, key: Key, n: float = 1) -> None:
        self.totals[key] = self.totals.get(key, 0) + n

    def shift(self, key: Key, n: float) -> None:
        """Of a level."""
        self.levels[key] = self.levels.get(key, 0) + n

    def level(self, key: Key) -> float:
        """Of all replicas."""
        return self.levels.get(key, 0) + (0 if self._heard is None else self._heard.others.levels.get(key, 0))

    def use(self, limit: str, token: str, n: int) -> None:
        """That a token has used so much of a limit."""
        window, now = WINDOWS[limit], self.today()
        slices, at = self._own.uses.get((limit, token), {}), window.at(now)
        if at not in slices:
            slices = self._own.uses[limit, token] = window.counts(slices, now)  # so that nothing is kept for ever
        slices[at] = slices.get(at, 0) + n

    def used(self, limit: str, token: str) -> dict[int, int]:
        """What a token has used of a limit, of all replicas, by slices of its window."""
        parts = [self._own] if self._heard is None else [self._own, self._heard.others, self._heard.gone]
        used: dict[int, int] = {}
        for part in parts:
            for at, n in part.uses.get((limit, token), {}).items():
                used[at] = used.get(at, 0) + n
        return WINDOWS[limit].counts(used, self.today())

    def own(self) -> Counts:
        """What this replica has counted until now."""
        self.before()
        return self._own.copy()

    async def all(self) -> tuple[Counts, int]:
        """What all replicas have counted until now, and how many there are.

        Raises:
            Problem: 503; the ledger does not answer, or does not know everybody yet. What it has told before is not good
                enough: counts would go backwards for whoever asks one replica now and another then.
        """
        if self._ledger is None:
            return self.own(), 1
        if self._next is None or self._next.done():
            self._next = asyncio.create_task(self.exchange(totals=True))
        heard = await asyncio.shield(self._next)  # which others wait for, too
        if heard is None:
            hint, wait = f"try again in {PATIENCE:.0f} s", {"Retry-After": f"{PATIENCE:.0f}"}
            raise Problem(503, "what the other replicas have counted is not known at the moment", hint, wait)
        together = self._own.copy()
        for part in (heard.others, heard.gone):
            together.add(part)
        return together, heard.replicas

    async def exchange(self, totals: bool = False) -> Heard | None:
        """Tell the ledger, and hear it. Where it does not answer, None, and what it has told before holds."""
        assert self._ledger is not None
        async with self._one_by_one:  # so that it is not told what was so before
            if totals:  # whoever comes from here on is not to hear of a moment before it asked
                self._next = None
            try:
                async with asyncio.timeout(PATIENCE):
                    heard = await self._ledger.exchange(self._name, self.own(), self._heard, totals)
            except Exception as error:
                self._tell(type(error).__name__)
                return None
            self._tell("")
            self._heard = heard or self._heard
            return heard

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """While the block runs, the replicas tell each other what they count."""
        if self._ledger is None:
            yield
            return
        sharing = asyncio.create_task(self._share())
        try:
            yield
        finally:
            sharing.cancel()
            await asyncio.wait([sharing])  # so that what it told last is not told after the last words
            with contextlib.suppress(Exception):  # it will find out by itself
                async with asyncio.timeout(PATIENCE):
                    await self._ledger.leave(self._name, self.own())

    async def _share(self) -> None:
        while True:
            await self.exchange()
            await asyncio.sleep(EVERY)

    def _tell(self, why: str) -> None:
        """Log that it does not answer, or does so again, if that is news."""
        if why and not self._silence:
            log.warning("the ledger does not answer (%s): limits hold by what it has told before", why)
        if self._silence and not why:
            log.info("the ledger answers again")
        self._silence = why
