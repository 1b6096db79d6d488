"""What jobs ask of a cluster, and whether it can ever give it: by its nodes, and by those that an autoscaler may add."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from raygen.errors import OutputError, ResourceError
from raygen.machines import Resources as Resources
from raygen.machines import ResourcesSpec as ResourcesSpec
from raygen.machines import matches, told_size
from raygen.spec import ElasticSpec, Spec

ACCELERATOR = "accelerator_type:"
"""Before the kind of a node's GPUs, in the name of a resource that Ray gives it."""
JOBS = {"run": ("train", "evaluate", "augment")}
SHOWN = 4
"""Labels, or kinds of GPUs, that an error names at most."""


@dataclass(frozen=True)
class Node:
    """Machines of one kind.

    Attributes:
        name: of the kind.
        resources: of each, as Ray names them: ``CPU``, ``GPU``, ``memory``, ``accelerator_type:A100``, ….
        labels: of each.
        count: how many are there now.
        most: how many there may be, by an autoscaler; otherwise as many as there are.
        told: whether all this is known. An autoscaler need not tell what it may add, and then nothing can be ruled out.
    """

    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)
    count: int = 1
    most: int = 1
    told: bool = True

    def room(self, each: Resources) -> int:
        """For how many workers one such node has room."""
        if not self.labelled(each):
            return 0
        if each.accelerator is not None and not self.resources.get(ACCELERATOR + each.accelerator):
            return 0
        gpus = self.resources.get("GPU", 0)
        if 0 < each.gpus < 1:  # of one GPU each
            rooms = [math.floor(gpus) * _times(1, each.gpus) + _times(gpus % 1, each.gpus)]
        else:
            rooms = [_times(gpus, each.gpus)] * bool(each.gpus)
        for name, amount in (("CPU", each.cpus), ("memory", each.memory or 0)):
            rooms += [_times(self.resources.get(name, 0), amount)] * bool(amount)
        return min(rooms)

    def labelled(self, each: Resources) -> bool:
        """Whether it has the labels that are asked for."""
        return all(matches(wanted, self.labels.get(key)) for key, wanted in each.labels.items())


def _times(there: float, amount: float) -> int:
    return math.floor(there / amount + 1e-9) if amount else 0


UNTOLD = Node("autoscaler", {}, count=0, most=0, told=False)
"""What an autoscaler may add that does not say what."""


@dataclass(frozen=True)
class Demand:
    """What a job asks for.

    Attributes:
        job: its name.
        workers: without which it does not run: so many at once.
        most: so many it takes at most; None for as many as there is room for.
        each: what is reserved for each of them.
        given: whether the spec says so, rather than that it takes what is there.
    """

    job: str
    workers: int
    most: int | None
    each: Resources
    given: bool = True


def demands(spec: Spec, jobs: Sequence[str]) -> list[Demand]:
    """What these jobs of a spec ask for; of those that it does not have (``augment``), nothing.

    Args:
        jobs: names of jobs; ``run`` is all of its.
    """
    found = []
    for job in dict.fromkeys(part for name in jobs for part in JOBS.get(name, (name,))):
        if job == "augment" and spec.augment is None:
            continue
        each: Resources | None = getattr(spec.resources, job)
        workers, most = _workers(spec, job)
        # Whoever says nothing shares what is there, but for a CPU that reads, and that every replica has.
        found.append(Demand(job, workers if each or job == "serve" else 1, most, each or Resources(), each is not None))
    return found


def _workers(spec: Spec, job: str) -> tuple[int, int | None]:
    """The fewest and the most."""
    if job == "serve":
        return max(1, spec.serve.replicas.min), spec.serve.replicas.max
    if job == "augment" and spec.augment is not None:
        return 1, None if spec.augment.workers == "auto" else spec.augment.workers
    if job == "train" and isinstance(spec.train.workers, ElasticSpec):
        return spec.train.workers.min, spec.train.workers.max
    if job == "train" and spec.train.workers == "auto":
        return 1, None
    return (spec.train.workers, spec.train.workers) if job == "train" and isinstance(spec.train.workers, int) else (1, 1)


def room(each: Resources, nodes: Iterable[Node], now: bool = False) -> int:
    """For how many workers there may ever be room, of what is told; or is ``now``, if nobody else had any."""
    return sum(node.room(each) * (node.count if now else node.most) for node in nodes)


def refusal(demand: Demand, nodes: Sequence[Node]) -> ResourceError | None:
    """Why a cluster can never give what is asked; None where it can, if perhaps not now."""
    if any(not node.told for node in nodes) or room(demand.each, nodes) >= demand.workers:
        return None
    each = demand.each
    labels = ", ".join(f"{key}: {wanted}" for key, wanted in each.labels.items())
    asked = f"{each} for each of {demand.workers} workers" if demand.workers > 1 else f"{each}"
    what = f"{demand.job} asks for {asked}{f' on nodes with {labels}' if labels else ''}; {_has(each, nodes)}"
    key = f"resources.{demand.job}" if demand.given else f"{demand.job}.workers"
    return ResourceError(what, f"lower {key} in the spec, or add such nodes to the cluster")


def _has(each: Resources, nodes: Sequence[Node]) -> str:
    """What a cluster has of that of which it has too little, now and at the most."""
    now, ever = [n for n in nodes if n.count], [n for n in nodes if n.most]
    if not ever:
        return "the cluster has no nodes"
    lack = _lack(each, ever)
    there, most = sum(node.count for node in now), sum(node.most for node in ever)
    told = f"the cluster has {there} node{'s' * (there != 1)}"
    if now:
        told += f" {_tell(lack, each, now, lambda node: node.count)}"
    return told if most == there else f"{told}, and may grow to {most} {_tell(lack, each, ever, lambda node: node.most)}"


def _lack(each: Resources, nodes: Sequence[Node]) -> str:
    """Of what there is too little: a label or a resource by its name; ``kind`` of GPU; else ``all`` at once, or ``room``."""
    for key, wanted in each.labels.items():
        if not any(matches(wanted, node.labels.get(key)) for node in nodes):
            return key
    fit = [node for node in nodes if node.labelled(each)]
    if each.accelerator is not None and not any(node.resources.get(ACCELERATOR + each.accelerator) for node in fit):
        return "kind" if any(node.resources.get("GPU") for node in fit) else "GPU"
    amounts = {"GPU": each.gpus, "CPU": each.cpus, "memory": each.memory or 0}
    for name, amount in amounts.items():
        if amount > max((node.resources.get(name, 0) for node in fit), default=0):
            return name
    return "room" if any(node.room(each) for node in fit) else "all"


def _tell(lack: str, each: Resources, nodes: Sequence[Node], number: Callable[[Node], int]) -> str:
    if lack in each.labels:
        return f"with {_listed(f'{lack}: {node.labels[lack]}' for node in nodes if lack in node.labels) or f'no {lack}'}"
    if lack == "all":
        return "none of which has all of it"
    if lack == "room":
        return f"with room for {sum(node.room(each) * number(node) for node in nodes)} of them"
    nodes, such = [node for node in nodes if node.labelled(each)], " with these labels" * bool(each.labels)
    if lack == "kind":
        kinds = _listed(name.removeprefix(ACCELERATOR) for node in nodes for name in node.resources if ACCELERATOR in name)
        return f"with GPUs of the kind {kinds or 'unknown'}{such}"
    most = max((node.resources.get(lack, 0) for node in nodes), default=0)
    amount = f"{told_size(most)} of memory" if lack == "memory" else f"{most:g} {lack}{'s' * (most != 1)}"
    return f"with {'at most ' * (most > 0)}{amount}{' each' * (most > 0)}{such}"


def _listed(values: Iterable[str]) -> str:
    found = sorted(set(values))
    return ", ".join([*found[:SHOWN], *["…"] * (len(found) > SHOWN)])


WRITTEN = ("storage", "augment.output")
"""Keys of :func:`places` that are written to; the others are read."""


def places(spec: Spec) -> dict[str, str]:
    """Where a spec says that something is, by the key that says it."""
    named: dict[str, str | None] = {
        "storage": spec.storage,
        "dataset.path": spec.dataset.path,
        "train.start_from": spec.train.start_from,
        "evaluate.features": spec.evaluate.file,
    }
    if spec.augment is not None:
        named |= {"augment.source": spec.augment.source, "augment.output": spec.augment.output}
    return {key: path for key, path in named.items() if path is not None}


def local_paths(spec: Spec) -> dict[str, str]:
    """Those that are plain local paths, and so other folders on every machine."""
    return {key: path for key, path in places(spec).items() if is_plain(path)}


def is_plain(path: str) -> bool:
    """Whether it is a path without a scheme. A sample (``sample:digits``) lies in the storage."""
    return "://" not in path and not path.startswith("sample:")


def storage_refusal(paths: Mapping[str, str], nodes: Sequence[Node]) -> OutputError | None:
    """Why paths cannot be used by a cluster; None where they can.

    Args:
        paths: by what they are called; see :func:`local_paths`.
    """
    there = sum(node.count for node in nodes)
    ever = max(there, sum(node.most for node in nodes))
    if not paths or (ever <= 1 and all(node.told for node in nodes)):
        return None
    key, path = next(iter(paths.items()))
    has = f"has {there}" if there > 1 else f"may grow to {ever}" if ever > 1 else "may grow"
    return OutputError(
        f"{key}: {path} is a place of one machine, and the cluster {has}",
        "give s3://…, or file:///mnt/… for a folder that all of them mount",
    )
