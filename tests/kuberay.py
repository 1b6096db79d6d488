"""What refuses a manifest: Kubernetes, by its schemas; KubeRay, by what its operator checks; Pod Security, by its profile.

Of KubeRay's resources this knows the fields that raygen writes, with Kubernetes' own schemas for the pods in them; any other
field is an error. Where ``KUBERAY_CRDS`` names the folder with the custom resource definitions of a release of KubeRay (its
``ray-operator/config/crd/bases``, or ``crds`` of its Helm chart), :func:`defined` is just as strict by those. Manifests were
tried with those of 1.5.1, 1.6.2 and 1.7.0.
"""

import json
import os
import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from packaging.version import Version

Document = dict[str, Any]
KUBERNETES = "1.37.0"
DEFINED = "KUBERAY_CRDS"


def _record(*required: str, **fields: Document) -> Document:
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


def _one_of(*values: str) -> Document:
    return {"enum": list(values)}


def _kubernetes(name: str) -> Document:
    return {"$ref": f"#/$defs/io.k8s.api.core.v1.{name}"}


TEXT, NUMBER, YES = {"type": "string"}, {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
_POD = _kubernetes("PodTemplateSpec")
_GROUP = {"rayStartParams": TEXTS, "resources": TEXTS, "labels": TEXTS, "template": _POD}
_SCALING = {"groupName": TEXT, "replicas": NUMBER, "minReplicas": NUMBER, "maxReplicas": NUMBER}
_CLUSTER = _record(
    "headGroupSpec",
    rayVersion=TEXT,
    authOptions=_record(mode=_one_of("disabled", "token")),
    enableInTreeAutoscaling=YES,
    autoscalerOptions=_record(
        version=_one_of("v1", "v2"), idleTimeoutSeconds=NUMBER, securityContext=_kubernetes("SecurityContext")
    ),
    headGroupSpec=_record("template", **_GROUP),
    workerGroupSpecs={
        "type": "array",
        "items": _record("groupName", "minReplicas", "maxReplicas", "template", **_SCALING, **_GROUP),
    },
)
_SPECS = {
    "RayCluster": _CLUSTER,
    "RayJob": _record(
        suspend=YES,
        backoffLimit=NUMBER,
        activeDeadlineSeconds=NUMBER,
        shutdownAfterJobFinishes=YES,
        ttlSecondsAfterFinished=NUMBER,
        submissionMode=_one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
        clusterSelector=TEXTS,
        entrypoint=TEXT,
        entrypointNumCpus={"type": "number"},
        runtimeEnvYAML=TEXT,
        submitterPodTemplate=_POD,
        rayClusterSpec=_CLUSTER,
    ),
    "RayService": _record(
        "rayClusterConfig",
        upgradeStrategy=_record(type=_one_of("NewCluster", "NewClusterWithIncrementalUpgrade", "None")),
        rayClusterDeletionDelaySeconds=NUMBER,
        serveConfigV2=TEXT,
        rayClusterConfig=_CLUSTER,
    ),
}


@cache
def _definitions() -> Document:
    folder = resources.files("kubernetes_validate") / f"kubernetes-json-schema/v{KUBERNETES}-local-strict"
    found: Document = json.loads((folder / "_definitions.json").read_text())["$defs"]
    return found


@cache
def _validator(kind: str) -> Draft202012Validator:
    if kind in _SPECS:
        meta = {"$ref": "#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
        known = {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}, "metadata": meta, "spec": _SPECS[kind]}
        schema = _record(*known, **known)
    else:
        schema = _kubernetes(kind)
    return Draft202012Validator({"$defs": _definitions(), **schema})


def problems(document: Document) -> list[str]:
    """Why it would be refused, in this order: by Kubernetes, by KubeRay, by Pod Security."""
    found = [f"{error.json_path}: {error.message}" for error in _validator(document["kind"]).iter_errors(document)]
    if found or document["kind"] not in _SPECS:
        return found
    return [*_refused(document), *_unsafe(document)]


def clusters(document: Document) -> Iterator[Document]:
    """The ``spec`` of the RayCluster that it is, or makes."""
    spec = document["spec"]
    found = spec if document["kind"] == "RayCluster" else spec.get("rayClusterSpec") or spec.get("rayClusterConfig")
    if found is not None:
        yield found


def pods(document: Document) -> Iterator[Document]:
    """The ``spec`` of every kind of pod that it makes."""
    for cluster in clusters(document):
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            yield group["template"]["spec"]
    if "submitterPodTemplate" in document["spec"]:
        yield document["spec"]["submitterPodTemplate"]["spec"]


def _refused(document: Document) -> Iterator[str]:
    """What the operator says of fields that do not go together, whatever their schemas say."""
    name, spec, kind = document["metadata"]["name"], document["spec"], document["kind"]
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name) or len(name) > (53 if kind == "RayCluster" else 47):
        yield f"{name} is no name for a {kind}"
    if kind == "RayJob":
        yield from _refused_job(spec)
    for cluster in clusters(document):
        yield from _refused_cluster(cluster)


def _refused_job(spec: Document) -> Iterator[str]:
    if not spec.get("shutdownAfterJobFinishes") and (spec.get("suspend") or spec.get("ttlSecondsAfterFinished")):
        yield "suspend and ttlSecondsAfterFinished need shutdownAfterJobFinishes"
    if ("clusterSelector" in spec) == ("rayClusterSpec" in spec):
        yield "a job has either clusterSelector or rayClusterSpec"
    if spec.get("backoffLimit") and ("clusterSelector" in spec or spec.get("submissionMode") == "InteractiveMode"):
        yield "backoffLimit needs a cluster of its own, and a job that KubeRay submits"
    if spec.get("suspend") and "clusterSelector" in spec:
        yield "suspend needs a cluster of its own"
    if spec.get("submissionMode") == "SidecarMode" and "submitterPodTemplate" in spec:
        yield "submitterPodTemplate is of no use to a sidecar"
    if spec.get("activeDeadlineSeconds") == 0:
        yield "activeDeadlineSeconds is 0"
    if not isinstance(yaml.safe_load(spec.get("runtimeEnvYAML", "{}")), dict):
        yield "runtimeEnvYAML is no mapping"


def _refused_cluster(spec: Document) -> Iterator[str]:
    if spec.get("authOptions", {}).get("mode") == "token" and Version(spec.get("rayVersion") or "0") < Version("2.52"):
        yield "authOptions.mode token needs rayVersion 2.52.0"
    scales = spec.get("enableInTreeAutoscaling", False)
    head = {"groupName": "head", "minReplicas": 0, "maxReplicas": 0, **spec["headGroupSpec"]}
    for group in (head, *spec["workerGroupSpecs"]):
        where = group["groupName"]
        if group["minReplicas"] > group["maxReplicas"]:
            yield f"{where}: minReplicas is more than maxReplicas"
        if "labels" in group.get("rayStartParams", {}):
            yield f"{where}: labels belong beside rayStartParams"
        if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & {*group.get("rayStartParams", {})}:
            yield f"{where}: resources and rayStartParams say the same"
        if any(not re.fullmatch(r"([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?", v) for v in group.get("labels", {}).values()):
            yield f"{where}: a label is none of Kubernetes'"
        pod = group["template"]["spec"]
        if not pod["containers"]:
            yield f"{where}: has no container"
        if scales and pod.get("restartPolicy", "Never") != "Never":
            yield f"{where}: restartPolicy has to be Never for the autoscaler"
        yield from (f"{where}: {problem}" for problem in _disagreeing(pod))


def _disagreeing(pod: Document) -> Iterator[str]:
    """What a pod's parts have to say of each other, which no schema tells."""
    from ray.autoscaler._private.kuberay.utils import parse_quantity

    volumes = [volume["name"] for volume in pod.get("volumes", [])]
    if len({*volumes}) < len(volumes):
        yield "two volumes have the same name"
    for container in pod["containers"]:
        mounts = container.get("volumeMounts", [])
        if missing := {mount["name"] for mount in mounts} - {*volumes}:
            yield f"mounts {missing}, which is no volume"
        if len({mount["mountPath"] for mount in mounts}) < len(mounts):
            yield "two mounts have the same path"
        limits, requests = (container["resources"].get(of, {}) for of in ("limits", "requests"))
        for name, amount in {**requests, **limits}.items():
            try:
                parse_quantity(amount)
            except ValueError:
                yield f"{name}: {amount} is no quantity"
        if limits.get("memory") != requests.get("memory"):
            yield "memory that is not requested may be gone when it is needed"


def _unsafe(document: Document) -> Iterator[str]:
    """What Kubernetes' Pod Security profile ``restricted`` forbids. KubeRay's own containers have the head's context."""
    for cluster in clusters(document):
        if cluster.get("enableInTreeAutoscaling") and not _confined(cluster["autoscalerOptions"]):
            yield "the autoscaler is not confined"
    for pod in pods(document):
        context = pod.get("securityContext", {})
        if not context.get("runAsNonRoot") or context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield "a pod may run as root, or with any system call"
        for container in pod["containers"]:
            if not _confined(container):
                yield f"{container['name']} is not confined"
        if {*pod} & {"hostNetwork", "hostPID", "hostIPC"} or any("hostPath" in volume for volume in pod.get("volumes", [])):
            yield "a pod sees its host"


def _confined(container: Document) -> bool:
    context = container.get("securityContext", {})
    dropped = context.get("capabilities", {}).get("drop")
    return context.get("allowPrivilegeEscalation") is False and dropped == ["ALL"] and not context.get("privileged")


def submission(job: Document, address: str, name: str) -> str:
    """What bash is told in the pod that hands a RayJob over, in the mode K8sJobMode.

    Args:
        name: of this attempt.
    """
    spec, to = job["spec"], f"--address {address}"
    environment = json.dumps(json.dumps(yaml.safe_load(spec["runtimeEnvYAML"])))  # twice: in double quotes, for bash
    submit = f"ray job submit {to} --no-wait --runtime-env-json {environment} --submission-id {name} -- {spec['entrypoint']}"
    return f"if ! ray job status {to} {name} >/dev/null 2>&1; then {submit}; fi; ray job logs {to} --follow {name}"


def defined(kind: str) -> Draft202012Validator | None:
    """By the real definitions, where there are any; fields that they do not know are errors."""
    folder = os.environ.get(DEFINED)
    if not folder:
        return None
    (file,) = Path(folder).glob(f"*{kind.lower()}s.yaml")
    versions = yaml.load(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]["versions"]
    (schema,) = (version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1")
    schema["properties"]["metadata"] = {"$ref": "#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
    return Draft202012Validator({"$defs": _definitions(), **_strict(schema)})


def _strict(schema: Any) -> Any:
    """A structural schema of Kubernetes as one of JSON Schema that knows no other fields than it names."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: {name: _strict(field) for name, field in value.items()} if key == "properties" else _strict(value)
        for key, value in schema.items()
        if not key.startswith("x-kubernetes-") and key not in ("description", "default", "format", "nullable")
    }
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("x-kubernetes-embedded-resource")
    if "properties" in schema and "additionalProperties" not in schema and not open_ended:
        made["additionalProperties"] = False
    return made
