"""What becomes known of a request while it is answered: for the log, the metrics, and the header ``server-timing``."""

import asyncio
import json
import logging
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger("raygen.access")

PARTS = ("queue", "batch", "compute", "encode")
"""Where the time of a request goes: until it is its turn; until it is handed what was made, together with others; for the
rows of all of them; and for the bytes of their answers."""


@dataclass(slots=True)
class Record:
    """Of one request.

    Attributes:
        model: the name of a project that is served; empty where none was found, and so what follows.
        limit: of the token, which was reached.
        seconds: by `PARTS`.
    """

    token: str = ""
    model: str = ""
    digest: str = ""
    rows: int = 0
    start: int = 0
    seed: int = 0
    limit: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    def asks(self, token: str, model: str, digest: str, asked: Any) -> None:
        """Who asks for what."""
        self.token, self.model, self.digest = token, model, digest
        self.rows, self.seed, self.start = asked.rows, asked.seed, getattr(asked, "start", 0)

    def spend(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    @property
    def timing(self) -> dict[str, str]:
        """The header, with milliseconds: https://www.w3.org/TR/server-timing/."""
        told = (f"{part};dur={1000 * self.seconds[part]:.2f}" for part in PARTS if part in self.seconds)
        return {"server-timing": ", ".join(told)}

    @property
    def told(self) -> dict[str, Any]:
        """Its members in the log."""
        if not self.model:
            return {}
        return {
            "token": self.token, "model": self.model, "digest": self.digest, "rows": self.rows, "start": self.start,
            "seed": self.seed, "ms": {part: round(1000 * seconds, 2) for part, seconds in self.seconds.items()},
        }  # fmt: skip


_current: ContextVar[Record] = ContextVar("raygen.record")


def begin() -> Record:
    """That of the request which is answered from here on."""
    record = Record()
    _current.set(record)
    return record


def current() -> Record:
    """That of the request which is being answered; or of nobody, where nobody asks."""
    return _current.get(None) or Record()


class Lines:
    """The log of requests: a line of JSON for each, several together, since to write one takes longer than to make it."""

    EVERY = 0.1
    """Seconds that a line waits for others, and so may be lost where the process is killed."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._loop: asyncio.AbstractEventLoop | None = None  # which is to write them

    def add(self, line: Mapping[str, Any]) -> None:
        """The next one, which is written soon."""
        loop = asyncio.get_running_loop()
        if not self._lines or loop is not self._loop:
            self._loop = loop
            loop.call_later(self.EVERY, self.write)
        self._lines.append(json.dumps(line))

    def write(self) -> None:
        """All there are."""
        if self._lines:
            lines, self._lines = self._lines, []
            log.info("%s", "\n".join(lines))
