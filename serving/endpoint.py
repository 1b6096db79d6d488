"""A replica of the endpoint: it holds all generators, fills tiles across requests, and follows the registry."""

import asyncio
import logging
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from raygen.datasets.storage import Folder
from raygen.jobs.registry import Registry
from raygen.serving import direct
from raygen.serving.app import ROWS, app
from raygen.serving.auth import Doorkeeper, Token
from raygen.serving.book import Book
from raygen.serving.ledger import Counts, Heard
from raygen.serving.metrics import Metrics
from raygen.serving.models import Models
from raygen.serving.room import QUEUE, SECONDS, Waits

log = logging.getLogger("raygen.serving")

LOOK = 2.0
"""Seconds between looks for a promotion."""
SWITCH = 0.0005
"""Seconds after which the thread that makes rows and the one that answers take turns; Python's 5 ms are half of a tile."""


class Distant:
    """The ledger, by a handle of its deployment."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    async def exchange(self, replica: str, own: Counts, heard: Heard | None, totals: bool) -> Heard | None:
        answer: Heard | None = await self.handle.exchange.remote(replica, own, heard, totals)
        return answer

    async def leave(self, replica: str, own: Counts) -> None:
        await self.handle.leave.remote(replica, own)


class Endpoint:
    """A replica.

    Args:
        projects: ``<storage>/<name>`` of what is served, by name.
        tokens: who may ask, as documents; None for everybody.
        most_rows: of one request.
        queue: requests under way at once.
        timeout_s: seconds without progress that one may take.
        ledger: the deployment that adds up what all replicas count; None where there is one replica.
        device: where they compute; a GPU where there is one by default.
        threads: of torch; None for as many as Ray says, by the CPUs that are reserved.
    """

    def __init__(
        self,
        projects: Mapping[str, str],
        tokens: Sequence[Mapping[str, Any]] | None,
        most_rows: int,
        queue: int = QUEUE,
        timeout_s: float = SECONDS,
        ledger: Any = None,
        device: str | None = None,
        threads: int | None = None,
    ) -> None:
        _tell()
        if threads is not None:
            torch.set_num_threads(threads)
        sys.setswitchinterval(SWITCH)
        self.models = Models({name: Registry(Folder(uri)) for name, uri in projects.items()}, device=device)
        book = Book(None if ledger is None else Distant(ledger))
        self.doorkeeper = Doorkeeper(None if tokens is None else [Token(**token) for token in tokens], book)
        self.metrics = Metrics(book, self.models)
        self.insecure = tokens is None
        self.most_rows, self.queue, self.timeout_s = most_rows, queue, timeout_s
        self.waits = Waits()
        self.stop = threading.Event()
        self.models.follow(LOOK, lambda name: log.info("%s: swapped", name), self.stop)

    def __serve_build_asgi_app__(self) -> Any:
        answers = app(
            self.models, self.doorkeeper, self.most_rows,
            queue=self.queue, timeout_s=self.timeout_s, waits=self.waits,
            metrics=self.metrics, loopback=self.insecure,
        )  # fmt: skip
        direct.ahead[ROWS] = answers
        return answers

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What ``Scaling`` looks at. A coroutine, so that it is in the thread of the requests."""
        return {"latency_s": self.waits.late(), "requests": self.metrics.in_flight}

    async def check_health(self) -> None:
        """Ray Serve replaces a replica that cannot do this: make a row of everything it serves."""
        for served in self.models:
            # Beside what is computed, not after it: a replica with a lot to do is a healthy one.
            await asyncio.to_thread(served.generator.sample, range(1))

    def __del__(self) -> None:
        if hasattr(self, "stop"):
            self.stop.set()


def _tell() -> None:
    """Log to the standard output of the process, which Ray keeps: what happens, and a line of JSON for each request."""
    output = sys.__stdout__  # what Ray Serve has put in place of sys.stdout writes to a log of its own, around every line
    for name, form in (("raygen", "%(asctime)s %(levelname)s %(message)s"), ("raygen.access", "%(message)s")):
        logger, handler = logging.getLogger(name), logging.StreamHandler(output)
        handler.setFormatter(logging.Formatter(form))
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
