"""Where work goes on a cluster: which nodes it has, what a worker reserves of one, and what is refused before anything is
computed. Imports nothing heavy: a client that has no torch asks a dashboard the same question."""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from raygen.errors import RaygenError
from raygen.machines import Resources
from raygen.resources import ACCELERATOR, UNTOLD, Node, demands, local_paths, refusal, room, storage_refusal
from raygen.spec import Spec

GROUP = "ray.io/node-group"
"""The label of a node's kind, which `ray up` and KubeRay give where there is an autoscaler."""
_OWN_LABELS = ("ray.io/node-id",)
_HEAD = "node:__internal_head__"
_NO_RESOURCE = re.compile(r"node:.*|object_store_memory")
_ANONYMOUS = re.compile(r"node_?[0-9a-f]{32,}", re.IGNORECASE)
"""What Ray calls the kind of a node that no autoscaler has started."""
_BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""What `ray up` was given, on the head."""


class _Alive(NamedTuple):
    """A node as Ray tells of it."""

    resources: Mapping[str, float]
    labels: Mapping[str, str]


def options(each: Resources) -> dict[str, Any]:
    """What is reserved for a worker, as a task, an actor, or a replica of Ray Serve is told."""
    asked = {
        "num_cpus": each.cpus,
        "num_gpus": each.gpus,
        "memory": each.memory,
        "accelerator_type": each.accelerator,
        "label_selector": dict(each.labels),
    }
    return {name: value for name, value in asked.items() if value or name in ("num_cpus", "num_gpus")}


def bundle(each: Resources) -> dict[str, float]:
    """The same as Ray's resources, as a placement group is told."""
    asked = {"CPU": each.cpus, "GPU": each.gpus, "memory": float(each.memory or 0)}
    if each.accelerator is not None:
        asked[ACCELERATOR + each.accelerator] = 0.001  # as Ray makes of an accelerator_type
    return {name: amount for name, amount in asked.items() if amount}


def without_gpus(each: Resources) -> dict[str, Any]:
    """The environment of a worker that reserves no GPU: Ray would let it see, and so use, all of its node's."""
    hidden = not each.gpus and any(node.resources.get("GPU") for node in nodes())
    return {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}} if hidden else {}


def check(spec: Spec, jobs: Sequence[str], found: Sequence[Node]) -> None:
    """Fail where nodes, as :func:`nodes` or :func:`of_dashboard` tells them, can never do for jobs.

    Raises:
        ResourceError: what is asked for can never be there.
        OutputError: a path is one of one machine, and there are several.
    """
    problems: list[RaygenError | None] = [refusal(demand, found) for demand in demands(spec, jobs)]
    problems.append(storage_refusal(local_paths(spec), found))
    if problem := next(filter(None, problems), None):
        raise problem


def nodes() -> list[Node]:
    """Those of the connected cluster, by kind, and those that an autoscaler may add."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    here = ray.get_runtime_context().get_node_id()
    told = _told_to_ray()
    if any(node["NodeID"] == here and _HEAD in node["Resources"] and GROUP in node["Labels"] for node in alive):
        told = told or _told_to_ray_up()
    return _kinds([_Alive(node["Resources"], node["Labels"]) for node in alive], told, _status())


def staying() -> dict[str, dict[str, Any]]:
    """The nodes that are alive and not about to be taken away, as Ray tells of them, by their ids."""
    import ray

    leaving = ray._private.state.state.get_draining_nodes()
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: node for node in nodes if node["Alive"] and node["NodeID"] not in leaving}


def free_nodes() -> list[Node]:
    """The nodes that work can be put on, each with what nobody has reserved of it at this moment."""
    import ray

    free = ray._private.state.state.available_resources_per_node()  # type: ignore[no-untyped-call]
    return [Node(node["NodeManagerAddress"], free.get(name, {}), node["Labels"]) for name, node in staying().items()]


def free(each: Resources) -> int:
    """For how many workers there is room at this moment."""
    return sum(node.room(each) for node in free_nodes())


class Pending(NamedTuple):
    """Whether somebody has asked for something for which there is no room yet, and whether an autoscaler says that no node
    can come for it: not at this moment at least, when it may have added as many as it may."""

    waits: bool
    cannot_come: bool


def pending(each: Resources) -> Pending:
    """Of what is asked for a worker, by whomever."""
    import ray
    from ray.core.generated import autoscaler_pb2

    worker: Any = ray._private.worker.global_worker
    status: Any = autoscaler_pb2.GetClusterStatusReply.FromString(  # type: ignore[attr-defined]
        worker.gcs_client.get_cluster_status()
    )
    state, scaling = status.cluster_resource_state, status.autoscaling_state
    waiting = [it.request for it in state.pending_resource_requests]
    waiting += [it for group in state.pending_gang_resource_requests for it in group.requests]
    refused = list(scaling.infeasible_resource_requests)
    refused += [it for group in scaling.infeasible_gang_resource_requests for it in group.requests]
    asked = bundle(each)
    return Pending(*(any(dict(it.resources_bundle) == asked for it in requests) for requests in (waiting, refused)))


def is_nowhere(each: Resources) -> bool:
    """Whether no node is left that could ever have a worker."""
    return not room(each, nodes(), now=True)


def totals() -> dict[str, float]:
    """CPUs and GPUs of all nodes."""
    import ray

    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return {name: resources.get(name, 0.0) for name in ("CPU", "GPU")}


def is_own() -> bool:
    """Whether this process has started the Ray that it is connected to: no other machine belongs to it, nor ever will."""
    import ray

    node: Any = ray._private.worker._global_node
    return node is not None and bool(node.head)


def of_dashboard(listed: Iterable[Mapping[str, Any]], status: Mapping[str, Any]) -> list[Node]:
    """The same, as a cluster's dashboard tells it.

    Args:
        listed: nodes, as ``GET /api/v0/nodes`` has them, of which dead ones are left out here.
        status: the answer to ``GET /api/cluster_status``.
    """
    alive = [node for node in listed if node["state"] == "ALIVE"]
    found = [_Alive(node["resources_total"] or {}, node["labels"] or {}) for node in alive]
    report = ((status.get("data") or {}).get("clusterStatus") or {}).get("autoscalerReport") or {}
    return _kinds(found, {}, [str(kind) for kind in report.get("activeNodes") or ()])


def of_types(types: Mapping[str, Mapping[str, Any]], most: int | None = None) -> list[Node]:
    """Nodes that an autoscaler may start, as its config has them, none of which is there yet.

    Args:
        types: ``available_node_types``: ``resources``, ``labels`` and ``max_workers`` of each.
        most: ``max_workers`` of all of them.
    """
    found = []
    for name, kind in types.items():
        resources, count = kind.get("resources") or {}, int(kind.get("max_workers") or 0)
        count = count if most is None else min(count, most)
        found.append(Node(name, resources, kind.get("labels") or {}, 0, count, told=bool(resources)))
    return found


def _kinds(alive: Iterable[_Alive], added: Mapping[str, Node], running: Iterable[str]) -> list[Node]:
    """Nodes by kind.

    Args:
        added: what an autoscaler says that it may add, by kind.
        running: the kinds of nodes that an autoscaler sees, by name.
    """
    counted: Counter[tuple[str, tuple[tuple[str, float], ...], tuple[tuple[str, str], ...]]] = Counter()
    managed = any(not _ANONYMOUS.fullmatch(name) for name in running)
    for node in alive:
        labels = {key: value for key, value in node.labels.items() if key not in _OWN_LABELS}
        resources = {name: amount for name, amount in node.resources.items() if not _NO_RESOURCE.fullmatch(name)}
        if memory := resources.get("memory"):
            resources["memory"] = memory // (1 << 27) * (1 << 27)  # machines of a kind differ by some pages
        name = labels.get(GROUP) or ("head" if _HEAD in node.resources else "worker")
        managed |= GROUP in labels
        counted[name, tuple(sorted(resources.items())), tuple(sorted(labels.items()))] += 1
    found = [Node(name, dict(res), dict(labels), count, count) for (name, res, labels), count in counted.items()]
    for name, kind in added.items():
        there = [node for node in found if node.name == name]
        more = kind.most - sum(node.count for node in there)
        if there and more > 0:
            found[found.index(there[0])] = replace(there[0], most=there[0].most + more)
        elif more > 0:
            found.append(kind)
    return found if added or not managed else [*found, UNTOLD]


def _told_to_ray() -> dict[str, Node]:
    """What some platforms tell Ray of what they may add; it has no labels."""
    import ray

    config = ray._private.state.state.get_cluster_config()
    groups = [] if config is None else list(config.node_group_configs)
    return {
        group.name: Node(
            group.name, dict(group.resources), {}, 0, 1_000_000 if group.max_count < 0 else group.max_count, told=False
        )
        for group in groups
    }


def _told_to_ray_up() -> dict[str, Node]:
    """What `ray up` was told, where this is the head of its cluster."""
    with contextlib.suppress(OSError, yaml.YAMLError, AttributeError):
        config = yaml.safe_load(_BOOTSTRAP.expanduser().read_bytes())
        types = {name: kind for name, kind in config["available_node_types"].items() if name != config.get("head_node_type")}
        return {node.name: node for node in of_types(types, config.get("max_workers"))}
    return {}


def _status() -> list[str]:
    """The kinds of nodes that an autoscaler of the first version sees; the second one's nodes have a label."""
    from ray.experimental.internal_kv import _internal_kv_get

    with contextlib.suppress(ValueError, AttributeError):
        status = json.loads(_internal_kv_get("__autoscaling_status") or b"{}")
        return list((status.get("autoscaler_report") or {}).get("active_nodes") or ())
    return []
