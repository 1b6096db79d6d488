"""How rows are made for those who ask: few for each of several together, in one tile, to the bytes of each answer; many in
pieces, which take turns."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from raygen.errors import RaygenError
from raygen.generators.generator import Ask
from raygen.serving import answers, record
from raygen.serving.api import Generate, Interpolate
from raygen.serving.models import Served
from raygen.serving.problems import Problem

MOST = 256
"""Rows that are made together."""
PIECE = 1024
"""Rows of a piece of a larger answer: what is held at once."""
PAUSE = 0.002
"""Seconds without another one who asks, after which those who wait are not kept waiting for more."""
AGAIN = 0.05
"""Seconds in which who was answered may be expected to ask again."""


class Answer(NamedTuple):
    """The bytes of an answer, and the seconds until it was its turn, until the rows were there, and until the bytes were."""

    content: bytes
    waited: float
    computed: float
    encoded: float


class _Asked(NamedTuple):
    served: Served
    ask: Ask
    kind: str
    since: float
    answer: "asyncio.Future[Answer]"


class Tiles:
    """Makes what is asked for in a thread; while it does, others gather to be next.

    Args:
        told: of every tile the model, how many rows it had, and how many it has room for.
    """

    def __init__(self, told: Callable[[str, int, int], None]) -> None:
        self._told = told
        self._computing = asyncio.Lock()  # one at a time: each uses all the threads that torch has
        self._turn = asyncio.Lock()  # of who asks for many rows: who asks for few waits for one piece, not for theirs
        self._waiting: list[_Asked] = []
        self._expected, self._until = 0, 0.0  # how many may soon wait, and until when that is so
        self._there = asyncio.Event()  # that they do
        self._work: asyncio.Task[None] | None = None

    async def _computed(self, make: Callable[..., pa.Table], *of: Any) -> pa.Table:
        """What is made in a thread, which computes alone to its end, also where who asked for it goes away meanwhile."""
        asks = time.perf_counter()
        await self._computing.acquire()
        began = time.perf_counter()

        def ended(work: "asyncio.Future[pa.Table]") -> None:
            self._computing.release()
            if not work.cancelled():
                work.exception()  # of which nobody may be left to hear

        work = asyncio.ensure_future(asyncio.to_thread(make, *of))
        work.add_done_callback(ended)
        made = await asyncio.shield(work)
        record.current().spend("queue", began - asks)
        record.current().spend("compute", time.perf_counter() - began)
        return made

    async def rows(self, served: Served, asked: Generate | Interpolate) -> AsyncIterator[pa.Table]:
        """Makes the rows that are asked for, in pieces; whoever goes away is not worked for any more."""
        if isinstance(asked, Interpolate):
            yield await self._computed(_between, served, asked)
            return
        for start in range(asked.start, asked.start + asked.rows, PIECE):
            rows = range(start, min(start + PIECE, asked.start + asked.rows))
            try:
                shown = asked.shown(rows)
                async with self._turn:
                    table = await self._computed(served.generator.sample, rows, asked.seed, shown, asked.where)
                yield table
            except RaygenError as error:
                raise Problem.of(error) from None

    async def answer(self, served: Served, asked: Generate, kind: str) -> bytes:
        """The whole answer to who asks for at most `MOST` rows, and for none by ``where``.

        Args:
            kind: one of `answers.MEDIA_TYPES`.

        Raises:
            Problem: 422; there are no such rows.
        """
        rows = range(asked.start, asked.start + asked.rows)
        try:
            ask = Ask(rows, asked.seed, served.generator.classes(rows, asked.seed, asked.shown(rows)))
        except RaygenError as error:
            raise Problem.of(error) from None
        loop = asyncio.get_running_loop()
        one = _Asked(served, ask, kind, time.perf_counter(), loop.create_future())
        self._waiting.append(one)
        if len(self._waiting) >= self._expected:
            self._there.set()
        if self._work is None:
            self._work = loop.create_task(self._worked())
        made = await one.answer
        of = record.current()
        of.spend("queue", made.waited)
        of.spend("compute", made.computed)
        of.spend("encode", made.encoded)
        of.spend("batch", time.perf_counter() - one.since - made.waited - made.computed - made.encoded)
        return made.content

    async def _worked(self) -> None:
        """Until nobody waits."""
        try:
            while self._waiting:
                await self._gathered()
                async with self._computing:
                    if taken := self._taken():
                        await self._answer(taken)
                self._expected, self._until = len(taken) + len(self._waiting), time.perf_counter() + AGAIN
        finally:
            self._work = None

    async def _gathered(self) -> None:
        """Until a tile is full, or all are there who were answered just now or waited meanwhile, or nobody comes any more: a
        tile takes as long with one row as with all of its rows, so that asking for one after another would take longer."""
        tile, found = self._waiting[0].served.generator.tile, 0
        if time.perf_counter() > self._until:
            return
        while found < len(self._waiting) < self._expected and sum(len(one.ask.rows) for one in self._waiting) < tile:
            found = len(self._waiting)
            self._there.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._there.wait(), PAUSE)

    async def _answer(self, taken: Sequence[_Asked]) -> None:
        """Every one of them, with rows or with what went wrong."""
        try:
            self._told(taken[0].served.name, sum(len(one.ask.rows) for one in taken), taken[0].served.generator.tile)
            made: Sequence[Answer | Exception] = await asyncio.to_thread(_made, taken)
        except Exception as error:
            made = [error] * len(taken)
        for one, answer in zip(taken, made, strict=True):
            if one.answer.done():  # who asked has gone meanwhile
                continue
            if isinstance(answer, Exception):
                one.answer.set_exception(answer)
            else:
                one.answer.set_result(answer)

    def _taken(self) -> list[_Asked]:
        """Of those who wait and have not gone, the first, and who asks the same generator, as long as there is room."""
        waiting = [one for one in self._waiting if not one.answer.done()]
        taken: list[_Asked] = []
        self._waiting, rows = [], 0
        for one in waiting:
            rows += len(one.ask.rows)
            fits = rows <= MOST and one.served.generator is waiting[0].served.generator
            (taken if fits else self._waiting).append(one)
        return taken


def _made(taken: Sequence[_Asked]) -> list[Answer | Exception]:
    served, began = taken[0].served, time.perf_counter()
    batches = served.generator.batch([one.ask for one in taken])
    computed = time.perf_counter()
    contents: dict[int, bytes | Exception] = {}
    groups: list[list[int]] = []
    for kind in {one.kind for one in taken}:
        alike = [place for place, one in enumerate(taken) if one.kind == kind]
        # Arrow pads what is cut out of a table with what comes after it, which is somebody else's.
        groups += [[place] for place in alike] if kind == answers.ARROW else [alike]
    while groups:
        places = groups.pop()
        try:
            parts = [batches[place] for place in places]
            table = served.codec.decode({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
            sizes = [len(taken[place].ask.rows) for place in places]
            contents |= zip(places, answers.wholes(taken[places[0]].kind, served.codec, table, sizes), strict=True)
        except Exception as error:
            if len(places) > 1:  # what fails for one fails for nobody else
                groups += [[place] for place in places]
            else:
                contents[places[0]] = error
    encoded = time.perf_counter()
    found = ((one, contents[place]) for place, one in enumerate(taken))
    return [
        content
        if isinstance(content, Exception)
        else Answer(content, began - one.since, computed - began, encoded - computed)
        for one, content in found
    ]


def _between(served: Served, asked: Interpolate) -> pa.Table:
    """All rows of an interpolation.

    Raises:
        Problem: 422; this generator has none, or not of this condition.
    """
    start, end = asked.between
    try:
        return served.generator.between((start, end), asked.steps, asked.seed, asked.condition)
    except RaygenError as error:
        raise Problem.of(error) from None
