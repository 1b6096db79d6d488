"""A replica of the endpoint: it holds all generators, fills tiles across requests, and follows the registry."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from raygen.datasets.storage import Folder
from raygen.errors import RaygenError
from raygen.jobs.registry import Registry
from raygen.serving.api import Generate
from raygen.serving.app import app
from raygen.serving.auth import Doorkeeper, Token
from raygen.serving.models import Models, Served
from raygen.serving.problems import Problem
from raygen.serving.tiles import Tiles

log = logging.getLogger("raygen.serving")

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
    """

    def __init__(self, projects: Mapping[str, str], tokens: Sequence[Mapping[str, Any]] | None, most_rows: int) -> None:
        self.models = Models({name: Registry(Folder(uri)) for name, uri in projects.items()})
        self.doorkeeper = Doorkeeper(None if tokens is None else [Token(**token) for token in tokens])
        self.most_rows = most_rows
        self.computing = asyncio.Lock()  # one at a time: each uses all the threads that torch has
        self.tiles = Tiles(self.computing)
        self.stop = threading.Event()
        self.models.follow(LOOK, lambda name: log.info("%s: swapped", name), self.stop)

    def __serve_build_asgi_app__(self) -> Any:
        return app(self.models, self.doorkeeper, self.rows, self.most_rows, self.tiles.answer)

    def __del__(self) -> None:
        if hasattr(self, "stop"):
            self.stop.set()

    async def rows(self, served: Served, asked: Generate) -> AsyncIterator[pa.Table]:
        """Makes the rows that are asked for, in pieces; whoever goes away is not worked for any more."""
        for start in range(asked.start, asked.start + asked.rows, PIECE):
            rows = range(start, min(start + PIECE, asked.start + asked.rows))
            try:
                async with self.computing:
                    table = await asyncio.to_thread(served.generator.sample, rows, asked.seed, asked.condition, asked.where)
                yield table
            except RaygenError as error:
                raise Problem.of(error) from None
