"""The endpoint as a deployment of Ray Serve: replicas that hold all generators, fill tiles across requests, and follow the
registry."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from ray import serve
from ray.serve.config import AutoscalingConfig
from ray.serve.deployment import Application

from raygen.datasets.storage import Folder
from raygen.errors import RaygenError
from raygen.generators.generator import Ask
from raygen.jobs.registry import Registry
from raygen.serving.api import Generate
from raygen.serving.app import app
from raygen.serving.auth import Doorkeeper, Token
from raygen.serving.models import Models, Served
from raygen.serving.problems import Problem
from raygen.spec import ServeSpec

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
    """

    def __init__(self, projects: Mapping[str, str], tokens: Sequence[Mapping[str, Any]] | None, most_rows: int) -> None:
        self.models = Models({name: Registry(Folder(uri)) for name, uri in projects.items()})
        self.doorkeeper = Doorkeeper(None if tokens is None else [Token(**token) for token in tokens])
        self.most_rows = most_rows
        self.computing = asyncio.Lock()  # one at a time: each uses all the threads that torch has
        self.stop = threading.Event()
        self.models.follow(LOOK, lambda name: log.info("%s: swapped", name), self.stop)

    def __serve_build_asgi_app__(self) -> Any:
        return app(self.models, self.doorkeeper, self.rows, self.most_rows)

    def __del__(self) -> None:
        if hasattr(self, "stop"):
            self.stop.set()

    async def rows(self, served: Served, asked: Generate) -> AsyncIterator[pa.Table]:
        """Makes the rows that are asked for, in pieces; whoever goes away is not worked for any more."""
        for start in range(asked.start, asked.start + asked.rows, PIECE):
            rows = range(start, min(start + PIECE, asked.start + asked.rows))
            try:
                if asked.rows <= FEW and asked.where is None:
                    classes = served.generator.classes(rows, asked.seed, asked.condition)
                    batch = await self.together((served, Ask(rows, asked.seed, classes)))
                    yield await asyncio.to_thread(served.codec.decode, batch)
                    continue
                async with self.computing:
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


def application(projects: Mapping[str, str], spec: ServeSpec, tokens: Sequence[Token] | None, most_rows: int) -> Application:
    """What Ray Serve runs.

    Args:
        projects: ``<storage>/<name>`` of what is served, by name; absolute, or ``s3://``.
        spec: how many replicas.
        tokens: who may ask; None for everybody.
        most_rows: of one request.
    """
    deployment = serve.deployment(
        name="raygen",
        max_ongoing_requests=128,
        max_queued_requests=256,
        graceful_shutdown_timeout_s=30.0,
        health_check_period_s=5.0,
        autoscaling_config=AutoscalingConfig(
            min_replicas=spec.replicas.min,
            max_replicas=spec.replicas.max,
            target_ongoing_requests=32,
            upscale_delay_s=2.0,
            look_back_period_s=2.0,
            downscale_delay_s=30.0,
        ),
    )(serve.ingress()(Endpoint))
    listed = None if tokens is None else [token.model_dump() for token in tokens]
    return deployment.bind(dict(projects), listed, most_rows)
