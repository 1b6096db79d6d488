"""Jobs that were submitted: which there are, how they stand, what they print, stopping them.

A *job* is what ``raygen submit`` names by all that decides it. Each time that Ray Jobs is sent it is an *attempt* of it, of
which the first one has the job's own name, and further ones ``-2``, ``-3``, … behind it.
"""

import codecs
import contextlib
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from queue import Empty
from typing import Any

from raygen.cluster.dashboard import Dashboard
from raygen.errors import RaygenError, ResourceError, did_you_mean

STATES = {"PENDING": "waiting", "RUNNING": "running", "SUCCEEDED": "succeeded", "FAILED": "failed", "STOPPED": "stopped"}
"""What a user is told of Ray's."""
ACTIVE = ("waiting", "running")
STOP_SECONDS = 6
"""That a driver has to end by itself, before Ray kills it."""
STOPPED_WITHIN = 15.0
POLL_SECONDS = 0.5
PATIENCE = 60.0
"""Seconds for which a job is followed on where the dashboard does not answer."""
STOPPED_CODE = 143
"""The exit code of what SIGTERM has ended."""
_NAME = re.compile(r"(?P<job>raygen-.+-[0-9a-f]{12})(?:-(?P<attempt>\d+))?")


@dataclass(frozen=True)
class Attempt:
    """One attempt of a job, as Ray Jobs tells of it.

    Attributes:
        id: Ray's submission id.
        job: the job's.
        number: of the attempt, from 1 on.
        state: a value of ``STATES``.
        exit_code: of its driver; None where it has none yet, or nobody knows.
        message: of Ray.
        node: where its driver runs, or ran; None where it never began.
        metadata: what ``raygen submit`` said of it.
        environment: variables that it was given; perhaps secrets.
    """

    id: str
    job: str
    number: int
    state: str
    began: datetime | None
    ended: datetime | None
    exit_code: int | None
    message: str
    node: str | None
    metadata: Mapping[str, str]
    environment: Mapping[str, str] = field(repr=False)

    @property
    def active(self) -> bool:
        return self.state in ACTIVE

    @property
    def code(self) -> int:
        """With which exit code whoever has followed it ends."""
        if self.state == "stopped":
            return STOPPED_CODE
        if self.exit_code is None:
            return 0 if self.state == "succeeded" else 1
        return self.exit_code if self.exit_code >= 0 else 128 - self.exit_code

    @property
    def seconds(self) -> float | None:
        """From its beginning to its end, or until now."""
        return None if self.began is None else max(0.0, ((self.ended or datetime.now(UTC)) - self.began).total_seconds())


def attempts(dashboard: Dashboard) -> dict[str, list[Attempt]]:
    """Every job of raygen, by its name, with its attempts, first to last; what was begun last comes last."""
    found: dict[str, list[Attempt]] = {}
    for attempt in sorted(filter(None, map(_attempt, dashboard.jobs())), key=lambda attempt: attempt.number):
        found.setdefault(attempt.job, []).append(attempt)
    never = datetime.min.replace(tzinfo=UTC)
    return dict(sorted(found.items(), key=lambda item: item[1][-1].began or never))


def find(jobs: Mapping[str, Sequence[Attempt]], name: str) -> Attempt:
    """The attempt that is meant: by its own name, or the last one of the job of that name.

    Args:
        jobs: see :func:`attempts`.
        name: all of it or its beginning, or the beginning of its twelve digits.

    Raises:
        RaygenError: there is none, or several are meant.
    """
    for all_ in jobs.values():
        for attempt in all_:
            if attempt.id == name and attempt.number > 1:
                return attempt
    fitting = [name] if name in jobs else [job for job in jobs if job.startswith(name) or _digits(job).startswith(name)]
    if len(fitting) == 1:
        return jobs[fitting[0]][-1]
    if fitting:
        raise RaygenError(f"{name}: may be any of {', '.join(fitting)}", "give more of its name")
    if not jobs:
        raise RaygenError(f"{name}: the cluster knows no jobs of raygen", "send it one: raygen submit SPEC")
    raise RaygenError(f"{name}: there is no such job{did_you_mean(name, jobs)}", "raygen jobs list shows which there are")


def follow(dashboard: Dashboard, attempt: Attempt, write: Callable[[str], None]) -> Attempt:
    """Wait for the end of an attempt; returns it as it is then.

    Args:
        write: is given what its driver prints, from the beginning on, in pieces of any length.

    Raises:
        ResourceError: the cluster has not answered for a minute.
    """
    while attempt.node is None and attempt.active:
        time.sleep(POLL_SECONDS)
        attempt = look(dashboard, attempt.id)
    if attempt.node is None:
        return attempt
    node, over, seen = attempt.node, threading.Event(), 0
    text = _Text(attempt.id, write)
    pieces = dashboard.stream(attempt.id, node, over)
    try:
        while True:
            try:
                piece = pieces.get(timeout=POLL_SECONDS)
                seen += len(piece)
                text.write(piece)
            except Empty:
                if not attempt.active:
                    break
                attempt = look(dashboard, attempt.id)
    finally:
        over.set()
    with contextlib.suppress(ResourceError):  # whether it has succeeded, is known
        text.write(dashboard.log(attempt.id, node)[seen:])
    return attempt


def printed(dashboard: Dashboard, attempt: Attempt, lines: int = -1) -> str:
    """What an attempt's driver has printed so far: its last lines, or all."""
    found: list[str] = []
    if attempt.node is not None:
        _Text(attempt.id, found.append, whole=lines < 0).write(dashboard.log(attempt.id, attempt.node, lines))
    return "".join(found)


def stop(dashboard: Dashboard, attempt: Attempt) -> Attempt:
    """Stop an attempt, and wait until it is stopped; returns it as it is then, which may be that it has succeeded.

    Raises:
        ResourceError: it does not stop.
    """
    dashboard.stop(attempt.id)
    deadline = time.monotonic() + STOPPED_WITHIN
    while attempt.active:
        if time.monotonic() > deadline:
            raise ResourceError(
                f"{attempt.id}: was told to stop {STOPPED_WITHIN:.0f} s ago, and is still {attempt.state}",
                f"see raygen jobs status {attempt.id}, and whether its head node is there",
            )
        time.sleep(POLL_SECONDS / 2)
        attempt = look(dashboard, attempt.id)
    return attempt


def look(dashboard: Dashboard, name: str) -> Attempt:
    """An attempt by its name, as it is now. The dashboard may be away for a while.

    Raises:
        RaygenError: there is none any more.
        ResourceError: the cluster has not answered for a minute.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            document = dashboard.job(name)
            break
        except ResourceError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
    attempt = None if document is None else _attempt(document)
    if attempt is None:
        raise RaygenError(f"{name}: the cluster does not know it (any more)", "what it wrote is kept; submit it again")
    return attempt


def _attempt(document: Mapping[str, Any]) -> Attempt | None:
    """None where it is not of raygen."""
    name, metadata = document["submission_id"], document.get("metadata") or {}
    if (found := _NAME.fullmatch(name)) is None or "raygen" not in metadata:
        return None
    return Attempt(
        id=name,
        job=found["job"],
        number=int(found["attempt"] or 1),
        state=STATES.get(document["status"], document["status"].lower()),
        began=_when(document.get("start_time")),
        ended=_when(document.get("end_time")),
        exit_code=document.get("driver_exit_code"),
        message=document.get("message") or "",
        node=document.get("driver_node_id"),
        metadata=metadata,
        environment=(document.get("runtime_env") or {}).get("env_vars") or {},
    )


def _when(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None


def _digits(job: str) -> str:
    return job.rpartition("-")[2]


class _Text:
    """The text of a log, without what Ray writes before the driver has begun.

    Args:
        whole: whether it is the log from its beginning on.
    """

    def __init__(self, name: str, write: Callable[[str], None], whole: bool = True) -> None:
        self._begin = f"Running entrypoint for job {name}: "
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._write = write
        self._before: str | None = "" if whole else None  # until the driver has begun

    def write(self, piece: bytes) -> None:
        text = self._decode(piece)
        if self._before is not None:
            self._before += text
            _, begun, rest = self._before.partition(self._begin)
            _, ended, text = rest.partition("\n")
            if not (begun and ended):
                return
            self._before = None
        if text:
            self._write(text)
