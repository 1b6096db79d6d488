"""Whether all machines of a cluster see the same folders: a ``file://`` URI is the user's word for it, and it is checked."""

import os
import socket
import time
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

from raygen.datasets.storage import Folder
from raygen.errors import OutputError

PATIENCE = 5.0
"""Seconds that a machine has to see what another one has just written."""
STARTS = 120.0
"""Seconds that a machine has to start a process that looks."""
SCHEME = "file://"
_seen: set[tuple[str, str]] = set()
"""Nodes and URIs that have been looked at by this process."""
HINT = "mount it there as it is here, or give s3://…"


class Mark(NamedTuple):
    """A file, and how many bytes it has, by which a folder is known again."""

    file: str
    bytes: int


def check(uris: Mapping[str, str], written: Mapping[str, str]) -> None:
    """Fail where a node of the connected cluster does not see what this machine sees; with one node there is nothing to do.

    Args:
        uris: of what is read, by the key that says them.
        written: of folders that are written to; a file is put there for a moment.

    Raises:
        OutputError: a node sees another folder at a ``file://`` URI, or none; it is named.
    """
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    asked = {key: uri for key, uri in {**uris, **written}.items() if uri.startswith(SCHEME)}
    alive = [node for node in alive if any((node["NodeID"], uri) not in _seen for uri in asked.values())] * (len(alive) > 1)
    if not alive:
        return
    name = f".raygen-{uuid.uuid4().hex}.tmp"  # which is nobody's, whoever looks, and swept where it was left behind
    marks: dict[str, Mark] = {}
    try:
        for key, uri in asked.items():
            if (found := _mark(Folder(uri), name if key in written else None)) is not None:
                marks[key] = found
        for address, missing in _looked(alive, marks).items():
            if missing is None:
                raise OutputError(f"node {address}: did not look at {SCHEME} folders within {STARTS:.0f} s", "see its logs")
            if missing:
                raise OutputError(f"{missing[0]}: {asked[missing[0]]} is not the same folder on node {address}", HINT)
        _seen.update((node["NodeID"], uri) for node in alive for uri in asked.values())
    finally:
        for key in written.keys() & asked.keys():
            Folder(asked[key]).delete(name)
            Folder(asked[key]).sweep()


def _mark(folder: Folder, name: str | None) -> Mark | None:
    """A file of a folder: a new one, or where it is only read, any of what is there."""
    if name is not None:
        folder.write(name, name.encode())
        return Mark(f"{folder.local}/{name}", len(name))
    try:
        place, files = folder.find()
    except FileNotFoundError:
        return None  # which somebody else tells better
    first = min((file for file in files if not file.rpartition("/")[2].startswith(".")), default=None)
    return None if first is None else Mark(f"{place.local}/{first}", files[first].bytes)


def _looked(alive: list[dict[str, Any]], marks: Mapping[str, Mark]) -> dict[str, list[str] | None]:
    """What each node does not see, by its address; None where it has not answered."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    asked = {}
    for node in alive:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[look.options(scheduling_strategy=there).remote(dict(marks))] = node["NodeManagerAddress"]
    found: dict[str, list[str] | None] = {}
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=STARTS)
    for answer in ready:
        try:
            found[asked[answer]] = ray.get(answer)
        except ray.exceptions.RayError:  # it is gone, and nothing will run there
            continue
    return {**found, **{asked[answer]: None for answer in late}}


def _look(marks: Mapping[str, Mark]) -> list[str]:
    """Which of the files this machine does not see."""
    end, missing = time.monotonic() + PATIENCE, list(marks)
    while missing := [key for key in missing if not _is_there(marks[key])]:
        if time.monotonic() > end:
            break
        time.sleep(0.2)
    return missing


def _is_there(mark: Mark) -> bool:
    try:
        return os.stat(mark.file).st_size == mark.bytes
    except OSError:
        return False


def require(folder: Folder, name: str) -> None:
    """Fail where this machine does not see a file of a job, which has been written before: it has come later, and has
    another folder there.

    Raises:
        OutputError: it does not.
    """
    end = time.monotonic() + PATIENCE
    while not folder.exists(name):
        if time.monotonic() < end:
            time.sleep(0.2)
            continue
        where = socket.gethostname()
        raise OutputError(f"{folder.uri}: node {where} does not see {name}, which was written before", HINT)
