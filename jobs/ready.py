"""Whether the connected cluster will do for a job: asked before anything is computed."""

from collections.abc import Mapping

from raygen.jobs import placement, shared, waiting
from raygen.machines import Resources
from raygen.resources import WRITTEN, Demand, Node, is_plain, places, refusal, storage_refusal
from raygen.spec import Spec


def require(spec: Spec, *jobs: str) -> list[Node]:
    """Fail now, rather than wait for ever, or write to several places; and wait for the CPU that every job needs.

    Returns:
        The nodes of the cluster.

    Raises:
        ResourceError: what is asked for can never be there.
        OutputError: a path is one of one machine, and there are several, or a ``file://`` URI is not the same for all.
    """
    nodes = placement.nodes()
    placement.check(spec, jobs, nodes)
    named = places(spec)
    written = {key: named.pop(key) for key in WRITTEN if key in named}
    shared.check(named, written)
    waiting.for_room(Demand(jobs[0], 1, 1, Resources(), given=False))
    return nodes


def require_room(demand: Demand, paths: Mapping[str, str]) -> None:
    """The same of what is asked without a spec.

    Args:
        paths: that are read, by what they are called.

    Raises:
        ResourceError, OutputError: as above.
    """
    if (error := refusal(demand, placement.nodes())) is not None:
        raise error
    require_paths(paths)


def require_paths(paths: Mapping[str, str]) -> None:
    """The same of what is not in a spec, and only read.

    Raises:
        OutputError: as above.
    """
    error = storage_refusal({key: path for key, path in paths.items() if is_plain(path)}, placement.nodes())
    if error is not None:
        raise error
    shared.check(paths, {})
