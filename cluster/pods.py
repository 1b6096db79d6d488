"""What a Ray cluster on Kubernetes consists of: groups of pods, by what the jobs of a spec ask of machines."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from raygen.cluster.commented import Document, said
from raygen.machines import MARKET, Resources
from raygen.resources import ACCELERATOR, Demand

GIB = 2**30
SPEC = "/etc/raygen"
"""Where a job's spec is mounted."""
USER = 1000
"""Who the image runs as."""
PORTS = {"gcs-server": 6379, "dashboard": 8265}
"""Of the head; KubeRay finds them by their names."""
SERVE = 8000
"""The port of an endpoint, on all pods, which KubeRay finds by the name ``serve``."""
SPARE = 1
"""CPUs of a pod beside its worker's: what feeds the worker needs one, and would wait for ever where there is none."""
UNASKED = 4
"""CPUs of a pod where a spec asks for nothing; and how many such pods there may be of what takes as many as there are."""
MEMORY = 2 * GIB
"""For each CPU, where a spec asks for none."""
SHARED = 0.35
"""The part of a pod's memory that may be shared between its processes. Ray's object store takes 30 %, and has to fit."""


@dataclass(frozen=True)
class Group:
    """Pods of one kind.

    Attributes:
        name: of the kind: ``cpu``, ``gpu``, ``a100-spot``, ….
        cpus: of each pod, as are the others.
        gpus: whole ones.
        memory: bytes that workers may ask Ray for.
        accelerator: the kind of GPU.
        labels: that Ray knows its nodes by.
        first: how many there are at first.
        least: how few there may be later.
        most: how many.
    """

    name: str
    cpus: int
    gpus: int
    memory: int
    accelerator: str | None
    labels: Mapping[str, str]
    first: int
    least: int
    most: int


@dataclass(frozen=True)
class Setting:
    """What all pods have in common.

    Attributes:
        image: with raygen, of the same version as this one.
        environment: variables that are not secret.
        secrets: names of Secrets, all of which are variables.
        volumes: names of claims, by the folder where each is mounted.
        selectors: labels of the nodes that a group's pods may run on, by the group.
    """

    image: str
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Sequence[str] = ()
    volumes: Mapping[str, str] = field(default_factory=dict)
    selectors: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def groups(demands: Sequence[Demand], least: int = 0, started: bool = True) -> list[Group]:
    """One group for each kind of machine that is asked for, with room for one worker in each pod, or for those of one GPU.

    Args:
        demands: what jobs ask for.
        least: how many workers there have to be even while there is nothing to do, as of an endpoint.
        started: whether there are from the beginning as many as it takes to begin.
    """
    kinds: dict[tuple[bool, str, tuple[tuple[str, str], ...]], list[Demand]] = {}
    for demand in demands:
        each = demand.each
        kinds.setdefault((bool(each.gpus), each.accelerator or "", tuple(sorted(_labels(each).items()))), []).append(demand)
    found: list[Group] = []
    for (gpus, accelerator, labels), alike in sorted(kinds.items()):
        name = _name(accelerator or ("gpu" if gpus else "cpu"), dict(labels))
        needs = [_need(demand) for demand in alike]
        cpus, fewest = max(need.cpus for need in needs), max(need.fewest for need in needs)
        found.append(
            Group(
                name=name if name not in [group.name for group in found] else f"{name}-{len(found) + 1}",
                cpus=cpus,
                gpus=max(math.ceil(demand.each.gpus) for demand in alike),
                memory=max(need.memory for need in needs) or MEMORY * cpus,
                accelerator=accelerator or None,
                labels=dict(labels),
                first=fewest if started else 0,
                least=max(math.ceil(least / need.room) for need in needs),
                most=max(need.most for need in needs),
            )
        )
    return found


class _Need(NamedTuple):
    """Of pods, for one job: how large, and how many."""

    room: int  # for so many workers in each
    cpus: int
    memory: int
    fewest: int
    most: int


def _need(demand: Demand) -> _Need:
    each = demand.each
    room = math.floor(1 / each.gpus) if 0 < each.gpus < 1 else 1
    cpus = math.ceil(each.cpus * room) + SPARE if demand.given else UNASKED
    fewest = math.ceil(demand.workers / room)
    most = max(UNASKED, fewest) if demand.most is None else math.ceil(demand.most / room)
    return _Need(room, cpus, (each.memory or 0) * room, fewest, max(most, fewest))


def _labels(each: Resources) -> dict[str, str]:
    """Labels to give nodes so that they are those that are asked for: of several values the first."""
    values = {key: wanted.removeprefix("in(").partition(",")[0].rstrip(")") for key, wanted in each.labels.items()}
    return {key: value for key, value in values.items() if not value.startswith("!")}  # what has none is none of these


def _name(kind: str, labels: Mapping[str, str]) -> str:
    words = [kind, labels[MARKET]] if MARKET in labels else [kind]
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")


def cluster(groups: Sequence[Group], setting: Setting, ray: str, spec: str | None = None, serves: bool = False) -> Document:
    """A RayCluster's ``spec``. Keys that begin with ``#`` are comments.

    Args:
        groups: of its workers.
        setting: of all its pods.
        ray: the version of Ray in the image.
        spec: the name of the ConfigMap that the head is to find at ``SPEC``.
        serves: whether Ray Serve answers on it.
    """
    scales = any(group.least < group.most for group in groups)
    options: Document = {
        "version": "v2",
        **said("Seconds until a machine without work is given back"),
        "idleTimeoutSeconds": 300,
        "securityContext": _confined(),
    }
    return {
        "rayVersion": ray,
        **said("KubeRay makes a token, in a Secret with the name of the cluster; whoever has none is refused"),
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": scales,
        **({"autoscalerOptions": options} if scales else {}),
        "headGroupSpec": _head(setting, spec, scales, serves),
        "workerGroupSpecs": [_workers(group, setting, serves) for group in groups],
    }


def _head(setting: Setting, spec: str | None, scales: bool, serves: bool) -> Document:
    known = PORTS | {"serve": SERVE} if serves else PORTS
    ports = [{"name": name, "containerPort": port} for name, port in known.items()]
    container = {"name": "ray-head", **_container(setting, cpus=2, memory=8 * GIB), "ports": ports}
    pod = _pod(container, setting, memory=8 * GIB, token=scales)
    if spec is not None:
        container["volumeMounts"].append({"name": "spec", "mountPath": SPEC, "readOnly": True})
        pod["volumes"].append({"name": "spec", "configMap": {"name": spec}})
    return {
        "rayStartParams": {},
        **said("Drivers run here, and nothing else does"),
        "resources": {"CPU": "0"},
        "template": {"spec": pod},
    }


def _workers(group: Group, setting: Setting, serves: bool) -> Document:
    memory = math.ceil(group.memory / (1 - SHARED) / GIB) * GIB
    container = {"name": "ray-worker", **_container(setting, group.cpus, memory, group.gpus)}
    if serves:
        container["ports"] = [{"name": "serve", "containerPort": SERVE}]
        container |= said("/healthz would wake a replica where there is none")
        container["readinessProbe"] = {
            "httpGet": {"path": "/-/healthz", "port": "serve"},
            "initialDelaySeconds": 10,
            "periodSeconds": 5,
            "timeoutSeconds": 5,
            "failureThreshold": 2,
        }
    pod = _pod(container, setting, memory)
    if selector := setting.selectors.get(group.name):
        pod["nodeSelector"] = dict(selector)
    if group.gpus:
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    known = {"CPU": str(group.cpus), "memory": str(group.memory)}
    if group.gpus:
        known["GPU"] = str(group.gpus)
    if group.accelerator:  # else nobody knows before the first one is there
        known[ACCELERATOR + group.accelerator] = "1"
    return {
        "groupName": group.name,
        "replicas": group.first,
        "minReplicas": group.least,
        **said("How many machines it may be"),
        "maxReplicas": group.most,
        **({"labels": dict(group.labels)} if group.labels else {}),
        "rayStartParams": {},
        **said("What Ray gives away of each; the memory beside it is for what processes share"),
        "resources": known,
        "template": {"spec": pod},
    }


def submitter(setting: Setting) -> Document:
    """The template of the pod that hands a job over to its cluster, and shows the job's output as its own."""
    container = {"name": "submitter", **_container(setting, cpus=1, memory=GIB, bare=True)}
    return {"spec": {**_safe(), "restartPolicy": "Never", "containers": [container]}}


def _container(setting: Setting, cpus: int, memory: int, gpus: int = 0, bare: bool = False) -> Document:
    """A container; a ``bare`` one has nothing to do with data."""
    size = f"{memory // GIB}Gi"
    # Of CPUs there is no limit: who has nothing to wait for may as well take what others leave.
    resources: Document = {"requests": {"cpu": str(cpus), "memory": size}, "limits": {"memory": size}}
    if gpus:
        resources["limits"]["nvidia.com/gpu"] = gpus
    made: Document = {"image": setting.image, "resources": resources, "securityContext": _confined()}
    if bare:
        return made
    if setting.environment:
        made["env"] = [{"name": name, "value": value} for name, value in setting.environment.items()]
    if setting.secrets:
        made["envFrom"] = [{"secretRef": {"name": name}} for name in setting.secrets]
    claims = [{"name": f"shared-{n}", "mountPath": path} for n, path in enumerate(setting.volumes)]
    made["volumeMounts"] = [{"name": "memory", "mountPath": "/dev/shm"}, *claims]  # noqa: S108
    return made


def _pod(container: Document, setting: Setting, memory: int, token: bool = False) -> Document:
    size = f"{math.ceil(memory * SHARED / 2**20)}Mi"
    claims = [
        {"name": f"shared-{n}", "persistentVolumeClaim": {"claimName": claim}}
        for n, claim in enumerate(setting.volumes.values())
    ]
    return {
        **_safe(token),
        "containers": [container],
        "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": size}}, *claims],
    }


def _safe(token: bool = False) -> Document:
    """What Kubernetes' Pod Security calls restricted; with the ``token`` of a service account only for the autoscaler."""
    return {
        **(said("Here the autoscaler runs, too, and it asks Kubernetes") if token else {}),
        "automountServiceAccountToken": token,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def _confined() -> Document:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
