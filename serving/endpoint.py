"""A replica of the endpoint: it holds all generators, fills tiles across requests, and follows the registry."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from ray import serve

from raygen.datasets.storage import Folder
from raygen.errors import RaygenError
from raygen.generators.generator import Ask
from raygen.jobs.registry import Registry
from raygen.serving.api import Generate, Interpolate
from raygen.serving.app import app, between
from raygen.serving.auth import Doorkeeper, Token
from raygen.serving.models import Models, Served
from raygen.serving.problems import Problem
from raygen.serving.room import QUEUE, SECONDS, Waits

log = logging.getLogger("raygen.serving")

FEW = 256
"""Rows of a request up to which it is made together with others."""
PIECE = 1024
"""Rows of a piece of a larger one: what is held at once."""
LOOK = 2.0
"""Seconds between looks for a promotion."""


class Endpoint:
    """A replica.

    Args:
        projects: ``<storage>/<name>`` of what is served, by name.
        tokens: who may ask, as documents; None for everybody.
        most_rows: of one request.
        queue: requests under way at once.
        timeout_s: seconds without progress that one may take.
    """

    def __init__(
        self,
        projects: Mapping[str, str],
        tokens: Sequence[Mapping[str, Any]] | None,
        most_rows: int,
        queue: int = QUEUE,
        timeout_s: float = SECONDS,
    ) -> None:
        self.models = Models({name: Registry(Folder(uri)) for name, uri in projects.items()})
        self.doorkeeper = Doorkeeper(None if tokens is None else [Token(**token) for token in tokens])
        self.most_rows, self.queue, self.timeout_s = most_rows, queue, timeout_s
        self.waits = Waits()
        self.computing = asyncio.Lock()  # one at a time: each uses all the threads that torch has
        self.turn = asyncio.Lock()  # of who asks for many rows: so that who asks for few waits for one piece, not for theirs
        self.stop = threading.Event()
        self.models.follow(LOOK, lambda name: log.info("%s: swapped", name), self.stop)

    def __serve_build_asgi_app__(self) -> Any:
        return app(
            self.models, self.doorkeeper, self.rows, self.most_rows,
            queue=self.queue, timeout_s=self.timeout_s, waits=self.waits,
        )  # fmt: skip

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What ``Scaling`` looks at."""
        return {"latency_s": self.waits.late()}

    async def check_health(self) -> None:
        """Ray Serve replaces a replica that cannot do this: make a row of everything it serves."""
        for served in self.models:
            # Beside what is computed, not after it: a replica with a lot to do is a healthy one.
            await asyncio.to_thread(served.generator.sample, range(1))

    def __del__(self) -> None:
        if hasattr(self, "stop"):
            self.stop.set()

    async def rows(self, served: Served, asked: Generate | Interpolate) -> AsyncIterator[pa.Table]:
        """Makes the rows that are asked for, in pieces; whoever goes away is not worked for any more."""
        if isinstance(asked, Interpolate):
            async with self.computing:
                table = await asyncio.to_thread(between, served, asked)
            yield table
            return
        for start in range(asked.start, asked.start + asked.rows, PIECE):
            rows = range(start, min(start + PIECE, asked.start + asked.rows))
            try:
                if asked.rows <= FEW and asked.where is None:
                    classes = served.generator.classes(rows, asked.seed, asked.condition)
                    batch = await self.together((served, Ask(rows, asked.seed, classes)))
                    yield await asyncio.to_thread(served.codec.decode, batch)
                    continue
                async with self.turn, self.computing:
                    table = await asyncio.to_thread(served.generator.sample, rows, asked.seed, asked.condition, asked.where)
                yield table
            except RaygenError as error:
                raise Problem.of(error) from None

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.0)
    async def together(self, asked: list[tuple[Served, Ask]]) -> list[Any]:
        """Makes what several ask for; while it does, others gather to be next."""
        made: list[Any] = [None] * len(asked)
        async with self.computing:
            for generator in {id(served.generator): served.generator for served, _ in asked}.values():
                places = [place for place, (served, _) in enumerate(asked) if served.generator is generator]
                batches = await asyncio.to_thread(generator.batch, [asked[place][1] for place in places])
                for place, batch in zip(places, batches, strict=True):
                    made[place] = batch
        return made
