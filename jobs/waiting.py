"""Waiting for room on a cluster: never without a word."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator

from raygen.errors import ResourceError
from raygen.jobs import placement, progress
from raygen.machines import Resources
from raygen.resources import Demand, refusal

FIRST, AGAIN = 15.0, 60.0
"""Seconds of waiting before it is told, and until it is told again."""
LOOKS = 3.0
"""Seconds between two looks."""


@contextlib.contextmanager
def told(demand: Demand, waits: Callable[[], bool]) -> Iterator[None]:
    """While the block runs, tell whenever what it does has waited for room for a while.

    Args:
        demand: what it waits for.
        waits: whether it does, at this moment; asked in a thread.
    """
    stop = threading.Event()

    def look() -> None:
        since, said = time.monotonic(), 0.0
        while not stop.wait(LOOKS):
            now = time.monotonic()
            with contextlib.suppress(Exception):  # the cluster may not answer at this moment
                if not waits():
                    since = now
                elif now - since >= FIRST and now - said >= AGAIN:
                    progress.say(line(demand))
                    said = now

    thread = threading.Thread(target=look, daemon=True, name="waits for room")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def for_room(demand: Demand, patience: float = math.inf) -> None:
    """Wait until one worker has found room: so an autoscaler is asked for a node, and Ray Data need not wait in silence.

    Where others take the room before it is used, it is waited for once more, by Ray.

    Args:
        patience: seconds.

    Raises:
        ResourceError: the autoscaler can add no node for it, and none that is there could ever do; or the patience is over.
    """
    if placement.free(demand.each):
        return
    from ray.util import placement_group, remove_placement_group

    labels = [dict(demand.each.labels)] if demand.each.labels else None
    place = placement_group([placement.bundle(demand.each)], bundle_label_selector=labels)
    began = possible = time.monotonic()
    try:
        with told(demand, lambda: placement.pending(demand.each).waits):
            while not place.wait(LOOKS):
                now = time.monotonic()
                if not placement.pending(demand.each).cannot_come or not placement.is_nowhere(demand.each):
                    possible = now
                if now - possible > FIRST or now - began > patience:
                    raise _too_little(demand, now - began > patience)
    finally:
        remove_placement_group(place)


def _too_little(demand: Demand, late: bool) -> ResourceError:
    nodes = [node for node in placement.nodes() if node.told]
    if not late and (error := refusal(demand, nodes)) is not None:
        return ResourceError(f"{error.what}; its autoscaler can add no such node", error.hint)
    return ResourceError(
        f"{line(demand)}, and nobody has made any", "wait for other jobs to end, or add nodes to the cluster"
    )


def line(demand: Demand) -> str:
    """What is waited for, and what is free now."""
    workers = f" for each of {demand.workers} workers" if demand.workers > 1 else ""
    return f"{demand.job} waits for {demand.each}{workers}: {free(demand.each)}"


def free(each: Resources) -> str:
    """``there is room for 1 now (2 of 16 CPUs and 1 of 4 GPUs are free)``."""
    here = placement.free_nodes()
    free = " and ".join(
        f"{sum(node.resources.get(name, 0) for node in here):g} of {total:g} {name}s"
        for name, total in placement.totals().items()
        if total
    )
    return f"there is room for {sum(node.room(each) for node in here)} now ({free or 'no CPUs'} are free)"
