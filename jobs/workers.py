"""How many workers a job has, and what each of them takes of the machines."""

import math
from typing import NamedTuple

from raygen.spec import ElasticSpec

SHARDS_EACH = 4
"""Shards that there have to be for each worker that machines have to come for."""
LATER = 256
"""Workers that wait for machines to come, at most."""


def placed(asked: int | str | ElasticSpec, rows: int, rooms: int) -> int | tuple[int, int]:
    """Workers that look at so many rows at once together, where the spec says what each of them is to have.

    ``auto`` is as many as there is room for now that share the rows evenly; one, where machines have to come first.
    """
    if isinstance(asked, ElasticSpec):
        return asked.min, asked.max
    return _evenly(rows, rooms) if asked == "auto" else int(asked)


class Placement(NamedTuple):
    """Ray Train workers (0: its local mode, in this process), the share of a GPU and of a CPU each asks for."""

    workers: int | tuple[int, int]
    gpu: float
    cpu: float


def shared_out(asked: int | str | ElasticSpec, rows: int, cluster: dict[str, float], gpu_here: bool) -> Placement:
    """Where the spec's workers go on a cluster, who look at so many rows at once together, where it does not say what they
    are to have.

    ``auto`` is a worker per GPU, but no more than share those rows evenly; without GPUs it is one. One worker runs in this
    process, unless the GPU is elsewhere. GPUs and CPUs are shared where there are fewer than workers, so that a job asked
    of a small machine runs rather than waits for ever. Elastic workers share nothing, unless there is no room for the least.
    """
    gpus, cpus = int(cluster.get("GPU", 0)), max(1, int(cluster.get("CPU", 1)))
    if isinstance(asked, ElasticSpec):
        _, gpu, cpu = shared_out(asked.min, rows, cluster, False)
        return Placement((asked.min, asked.max), 1.0 if gpus and not gpu else gpu, cpu or 1.0)
    workers = _evenly(rows, gpus) if asked == "auto" else int(asked)
    if workers == 1 and (not gpus or gpu_here):
        return Placement(0, 0.0, 0.0)
    return Placement(workers, 1 / math.ceil(workers / gpus) if gpus else 0.0, 1 / math.ceil(workers / cpus))


def pool(asked: int | str, shards: int, now: int, more: int | None) -> int:
    """Workers that write so many shards. None of them needs another: who finds no room waits for it, the others go on.

    Args:
        asked: ``auto`` is as many as there is room for, and where machines may come, as many as then have enough to do.
        now: how many there is room for now.
        more: for how many more there may be later; None where nobody can tell.
    """
    if asked != "auto":
        return min(shards, int(asked))
    later = min(now + min(LATER, LATER if more is None else more), shards // SHARDS_EACH)
    return max(1, min(shards, max(now, later)))


def _evenly(rows: int, most: int) -> int:
    """The most workers that share so many rows evenly; one at least."""
    return next(n for n in range(max(1, most), 0, -1) if rows % n == 0)
