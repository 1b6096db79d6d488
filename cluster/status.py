"""How a running cluster is: its nodes, and what its autoscaler is about to do, by the dashboard."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from raygen.cluster.dashboard import Dashboard

_RESERVED = re.compile(r"([\d.]+)/([\d.]+) (CPU|GPU)")
_OWN = "local.cluster.node"
"""What Ray calls machines that are not bought."""
_SECTIONS = ("Pending", "Recent failures", "Pending Demands")


class Share(NamedTuple):
    """How much of something is used; None where that is not known."""

    used: float | None
    total: float


@dataclass(frozen=True)
class NodeStatus:
    """A node of a running cluster.

    Attributes:
        address: of its machine.
        type: in the cluster's file; empty where it has no types, as of machines of one's own.
        head: whether it is the head.
        cpus: reserved by Ray, of those that it has.
        gpus: the same.
        memory: of the machine, in bytes.
    """

    address: str
    type: str
    head: bool
    cpus: Share
    gpus: Share
    memory: Share


@dataclass(frozen=True)
class Status:
    """A running cluster.

    Attributes:
        nodes: the head first.
        pending: nodes that are about to come, in the autoscaler's words.
        failed: nodes that did not come, or went.
        waiting: work that waits for room.
    """

    nodes: list[NodeStatus]
    pending: list[str]
    failed: list[str]
    waiting: list[str]

    def document(self) -> dict[str, Any]:
        """The same for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Status":
        """What :meth:`document` made."""
        nodes = [
            NodeStatus(**{**node, **{name: Share(*node[name]) for name in ("cpus", "gpus", "memory")}})
            for node in document["nodes"]
        ]
        return cls(nodes, document["pending"], document["failed"], document["waiting"])


def status(dashboard: Dashboard) -> Status:
    """Ask for it.

    Raises:
        ResourceError: the dashboard does not answer, or refuses the token.
    """
    machines = dashboard.machines()
    told = sections(dashboard.told())
    memory = {machine["ip"]: machine.get("mem") for machine in machines.get("summary", []) if "ip" in machine}
    reserved = machines.get("nodeLogicalResources") or {}
    nodes = [
        _node(node, reserved.get(node["node_id"]) or reserved.get(node["node_ip"]), memory.get(node["node_ip"]))
        for node in dashboard.nodes()
        if node["state"] == "ALIVE"
    ]
    nodes.sort(key=lambda node: (not node.head, node.type, [int(part) for part in re.findall(r"\d+", node.address)]))
    return Status(nodes, told["Pending"], told["Recent failures"], told["Pending Demands"])


def _node(node: Mapping[str, Any], reserved: str | None, memory: list[float] | None) -> NodeStatus:
    total = node.get("resources_total") or {}
    used = {name: float(used) for used, _, name in _RESERVED.findall(reserved or "")}
    cpus, gpus = (
        Share(used.get(name) if name in total else 0.0, float(total.get(name, 0))) for name in ("CPU", "GPU")
    )  # of what is not there, nothing is used
    whole, _, _, taken = memory or (float(total.get("memory", 0)), None, None, None)
    kind = (node.get("labels") or {}).get("ray.io/node-group", "")
    kind = "" if kind == _OWN else kind
    return NodeStatus(node["node_ip"], kind, bool(node.get("is_head_node")), cpus, gpus, Share(taken, float(whole or 0)))


def sections(told: str) -> dict[str, list[str]]:
    """The parts of what ``ray status`` prints that are about what is not there yet, each with its lines."""
    found: dict[str, list[str]] = {name: [] for name in _SECTIONS}
    part = ""
    for line in told.splitlines():
        if not line.startswith(" "):
            part = line.rstrip(":").strip()
        elif part in found and not line.strip().startswith("(no "):
            found[part].append(line.strip())
    return found
