"""What a cluster's file says, in words: its machines, what keeps it expensive, and what a spec would use of it."""

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from raygen.cluster import mistakes, schema, software
from raygen.cluster.config import ClusterConfig, NodeType
from raygen.errors import RaygenError
from raygen.machines import ACCELERATOR_TYPE, ResourcesSpec, told_size
from raygen.resources import Demand, Node, Resources, demands, local_paths, refusal, room, storage_refusal
from raygen.spec import Spec

JOBS = tuple(ResourcesSpec.model_fields)


class Use(NamedTuple):
    """What a job of a spec asks of the cluster.

    Attributes:
        always: for how many of its workers there is room at least; None where the file does not say.
        most: and when the cluster has grown.
        refused: why it can never run there; None where it can.
    """

    demand: Demand
    always: int | None
    most: int | None
    refused: RaygenError | None


def filled(config: ClusterConfig) -> ClusterConfig:
    """With what Ray takes for what the file does not say; as it is, where Ray refuses it, or says nothing of machines."""
    if config.provider == "local":
        return config
    try:
        return dataclasses.replace(config, document=schema.prepared(config))
    except Exception:
        return config


def totals(config: ClusterConfig) -> dict[str, tuple[float, float] | None]:
    """Machines, CPUs and GPUs, at least and at most; None where the file does not say."""
    types = config.node_types()
    found: dict[str, tuple[float, float] | None] = {"machine": _ends(config, {kind.name: 1 for kind in types})}
    for resource in ("CPU", "GPU"):
        known = all(kind.resources is not None for kind in types)
        each = {kind.name: (kind.resources or {}).get(resource, 0) for kind in types}
        found[resource] = _ends(config, each) if known else None
    return found


def _ends(config: ClusterConfig, each: Mapping[str, float]) -> tuple[float, float]:
    """How much there is of something at least and at most, by how much a machine of each type has."""
    types, left = config.node_types(), config.most_nodes() - 1
    least = sum(each[kind.name] * kind.least for kind in types)
    most = sum(each[kind.name] for kind in types if kind.head)
    for kind in sorted(types, key=lambda kind: -each[kind.name]):
        count = min(left, kind.most - kind.head)
        most, left = most + count * each[kind.name], left - count
    return least, most


def costs(config: ClusterConfig) -> list[str]:
    """What makes it expensive to have; of prices, nothing."""
    types = config.node_types()
    if config.provider == "local":
        least, most = sum(kind.least for kind in types), config.most_nodes()
        always = "as long as the cluster is up" if least == most else f"on {least} always, on the others while there is work"
        return [f"machines of your own: nothing is bought; Ray runs on {most} of them, {always}"]
    lines = []
    for kind in types:
        if kind.least:
            count = f"{kind.least} × " if kind.least > 1 else ""
            who = "the head" if kind.head else f"min_workers of {kind.name}"
            lines.append(f"always on, until raygen cluster down: {count}{_machine(kind)} ({who})")
    minutes = config.document.get("idle_timeout_minutes")
    lines += [
        f"while there is work, and {_minutes(config, kind, minutes)} more: up to {kind.most - kind.least} × {_machine(kind)}"
        for kind in types
        if kind.most > kind.least
    ]
    gpus = totals(config)["GPU"]
    if gpus is not None and gpus[0]:
        lines.append(f"{gpus[0]:g} GPUs are on always, with or without work")
    if all(kind.disk for kind in types):
        disks = _ends(config, {kind.name: kind.disk or 0 for kind in types})
        lines.append(f"disks: {disks[0]:,} GB at least, {disks[1]:,} GB at most")
    elif config.provider == "aws":
        lines.append("disks: as large as their images have them, where the file says nothing")
    if config.provider == "aws" and config.at("provider").get("cache_stopped_nodes", True):
        lines.append("on-demand machines are stopped, not ended (cache_stopped_nodes): their disks cost on, after down, too")
    return lines


def _minutes(config: ClusterConfig, kind: NodeType, minutes: object) -> str:
    own = config.at("available_node_types", kind.name).get("idle_timeout_s")
    return f"{own:g} seconds" if isinstance(own, int | float) else f"{minutes} minutes"


def _machine(kind: NodeType) -> str:
    gpus = (kind.resources or {}).get("GPU", 0)
    with_gpus = f", with {gpus:g} GPU{'s' * (gpus > 1)}" if gpus else ""
    return f"{kind.machine or kind.name}{with_gpus}{f', {kind.market}' if kind.market else ''}"


def setup(config: ClusterConfig) -> Iterator[tuple[str, str]]:
    """What is installed, whether it fits this client, and who gets in."""
    found = software.installed(config)
    wheels = {on.wheel for on in found if on.wheel is not None}
    code = f", {_code(wheels.pop())}" if len(wheels) == 1 else ""
    yield "raygen", f"{_one({on.on: on.raygen or 'not installed' for on in found})} (here: {software.here('raygen')}{code})"
    yield "Ray", f"{_one({on.on: _ray(on) for on in found})} (here: {software.here('ray')})"
    pythons = {on.on: f"3.{on.python[0]}" if on.python else "whichever python3 is there" for on in found}
    yield "Python", f"{_one(pythons)} (here: 3.{sys.version_info.minor})"
    if any(on.python is not None and on.python[0] != sys.version_info.minor for on in found):
        yield "", "raygen submit works across versions of Python; a driver on this machine needs that of the cluster"
    if mistakes.asks_for_token(config):
        yield "access", f"with the token only; the dashboard by: ray dashboard {config.path}"
    else:
        yield "access", f"whoever reaches its ports can run code there: start Ray with {mistakes.TOKEN}"


def _one(said: Mapping[str, str]) -> str:
    """What is said of all, or of each."""
    if len(set(said.values())) == 1:
        return next(iter(said.values()))
    return "; ".join(f"{on}: {text}" for on, text in said.items())


def _ray(on: software.Installed) -> str:
    return (on.ray[0] or "any") if on.ray else "not said"


def _code(wheel: Path) -> str:
    return "the same code" if software.same_code(wheel) else "but other code; raygen cluster wheel makes it anew"


def nodes(config: ClusterConfig, each: Resources) -> list[Node]:
    """The machines as :mod:`raygen.resources` has them.

    Args:
        each: what is asked of them. The cluster may not have all types at their most; those with room for it come first.
    """
    kinds = {
        kind.name: Node(kind.name, kind.resources or {}, kind.labels, kind.least, kind.most, kind.resources is not None)
        for kind in config.node_types()
    }
    left = config.most_nodes() - sum(node.count for node in kinds.values())
    for name, node in sorted(kinds.items(), key=lambda kind: -kind[1].room(each)):
        more = min(left, node.most - node.count)
        kinds[name], left = dataclasses.replace(node, most=node.count + more), left - more
    return list(kinds.values())


def uses(config: ClusterConfig, spec: Spec) -> list[Use]:
    """What the jobs of a spec would use of the cluster."""
    found = []
    for demand in demands(spec, JOBS):
        there = nodes(config, demand.each)
        known = all(node.told for node in there)
        always, most = (room(demand.each, there, now) if known else None for now in (True, False))
        found.append(Use(demand, always, most, refusal(demand, there)))
    return found


def unshared(config: ClusterConfig, spec: Spec) -> RaygenError | None:
    """Why the machines would not reach what a spec reads and writes; None where they may."""
    return storage_refusal(local_paths(spec), nodes(config, Resources()))


def storage(spec: Spec) -> str:
    """Where a spec writes, and who has to reach that."""
    if spec.storage.startswith("file://"):
        return f"{spec.storage}, which every machine has to mount; a job begins by looking whether all do"
    return f"{spec.storage}, for all machines" if "://" in spec.storage else spec.storage


def amount(value: float | None) -> str:
    """A number of something, as a table shows it."""
    return "as found" if value is None else f"{value:g}"


def memory(kind: NodeType) -> str:
    """Of each machine, for tasks."""
    size = (kind.resources or {}).get("memory")
    return "as found" if size is None else told_size(size)


def facts(types: Sequence[NodeType]) -> Iterator[tuple[str, ...]]:
    """A row of the table for each type."""
    for kind in types:
        cpus, gpus = (None if kind.resources is None else kind.resources.get(name, 0) for name in ("CPU", "GPU"))
        accelerator = kind.labels.get(ACCELERATOR_TYPE)
        yield (
            kind.name,
            kind.machine or "your own",
            amount(cpus),
            f"{amount(gpus)} {accelerator}" if gpus and accelerator else amount(gpus),
            memory(kind),
            str(kind.least),
            str(kind.most),
            kind.market or "",
        )
