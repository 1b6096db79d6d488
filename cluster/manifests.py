"""Manifests of Kubernetes for KubeRay, of a spec: a RayJob, a RayService, or a RayCluster for jobs that are submitted."""

import hashlib
import re
from collections.abc import Sequence
from importlib.metadata import version

from raygen.cluster import credentials, pods, submit
from raygen.cluster.commented import Document, dump, said
from raygen.cluster.order import Order, check, check_shared, selectors, volumes
from raygen.cluster.pods import Group, Setting
from raygen.errors import SpecError
from raygen.machines import Resources
from raygen.resources import demands, places
from raygen.spec import Spec

API = "ray.io/v1"
SINCE = "1.5.1"
"""The first KubeRay that knows all of it: ``authOptions`` is the newest."""
ATTEMPTS = 4
"""Of a job, the first one included."""
KEPT = 3600
"""Seconds that what a job has said can be read after its end."""
LONGEST = 47
"""Characters of a name: KubeRay adds some of its own to it, and Kubernetes takes 63."""


def written(spec: Spec, order: Order) -> str:
    """The manifest, as YAML: the same for the same spec and order, whoever asks.

    Raises:
        SpecError: the spec holds a credential, or does not say what the job needs; or the order is wrong, or lacks a thing.
        OutputError: a place that the spec names is not the same in all pods.
    """
    credentials.refuse(spec.model_dump(mode="json", by_alias=True), "the spec")
    check(order)
    if order.kind == "job" and order.job == "augment" and spec.augment is None:
        raise SpecError("augment is missing: the spec does not say what to make", "add: augment: {rows: 50000}")
    mounted = volumes(order.volumes)
    check_shared(spec, mounted)
    made = _groups(spec, order)
    setting = Setting(
        image=order.image or f"raygen:{version('raygen')}{'-gpu' * any(group.gpus for group in made)}",
        environment=_environment(spec) if order.kind == "service" else {},
        secrets=order.secrets,
        volumes=mounted,
        selectors=selectors(order.selectors, made),
    )
    documents = {"job": _job, "service": _service, "cluster": _cluster}[order.kind](spec, order, made, setting)
    return "---\n".join(dump(document) for document in documents)


def _job(spec: Spec, order: Order, made: Sequence[Group], setting: Setting) -> list[Document]:
    called = submit.name(order.job, spec, order.overwrite, setting.image)  # where its attempts are numbered, in the storage
    name = _named(f"{order.job}-{spec.name}", called[-12:])
    command = f"python -m raygen {order.job} {pods.SPEC}/spec.yaml{' --overwrite' * order.overwrite}"
    config = {
        **said(
            f"raygen {order.job} of {spec.name}, for KubeRay {SINCE} or newer, by raygen {version('raygen')}.",
            f"What it says: kubectl logs --follow job/{name}{_in_namespace(order)}",
            *_unnamed(spec, order),
        ),
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(name, order),
        **said("Another spec is another job: raygen cluster manifest writes it"),
        "immutable": True,
        "data": {"spec.yaml": spec.to_yaml()},
    }
    job = {
        "apiVersion": API,
        "kind": "RayJob",
        "metadata": _metadata(name, order),
        "spec": {
            **said("true gives all machines back, whenever you like; false goes on from there"),
            "suspend": False,
            **said(
                "An attempt that fails, whatever of, is followed by one with a cluster of its own, which goes on where it",
                "stopped",
            ),
            "backoffLimit": ATTEMPTS - 1,
            **said("A limit for each attempt, after which there is no other: activeDeadlineSeconds: 86400"),
            "shutdownAfterJobFinishes": True,
            **said("How long what it said can be read after its end"),
            "ttlSecondsAfterFinished": KEPT,
            "submissionMode": "K8sJobMode",
            **said("Nothing is reserved for it, so Ray keeps it on the head, which stays when workers go"),
            "entrypoint": command,
            **said("By this name attempts find each other in the storage: of two at once, the older one stops"),
            "runtimeEnvYAML": dump({"env_vars": {"RAYGEN_JOB": called}}),
            "submitterPodTemplate": pods.submitter(setting),
            "rayClusterSpec": pods.cluster(made, setting, version("ray"), spec=name),
        },
    }
    return [config, job]


def _service(spec: Spec, order: Order, made: Sequence[Group], setting: Setting) -> list[Document]:
    from raygen.serving.haproxy import DRAIN

    name = _named(f"serve-{spec.name}")  # KubeRay would give a Service of one kind of its resources to the other
    service = {
        **said(
            f"An endpoint for {spec.name}, for KubeRay {SINCE} or newer, by raygen {version('raygen')}.",
            f"It is the Service {name}-serve-svc, port {pods.SERVE}; put an Ingress that speaks TLS before it.",
            "A generator of the project has to be current (raygen run), and a Secret to have RAYGEN_TOKENS (raygen token).",
        ),
        "apiVersion": API,
        "kind": "RayService",
        "metadata": _metadata(name, order),
        "spec": {
            **said("What needs other pods gets a new cluster; the old one goes when its last answers can be through"),
            "upgradeStrategy": {"type": "NewCluster"},
            "rayClusterDeletionDelaySeconds": DRAIN,
            **said("What raygen serve --print-config prints"),
            "serveConfigV2": dump(_serve_config(spec)),
            "rayClusterConfig": pods.cluster(made, setting, version("ray"), serves=True),
        },
    }
    return [service]


def _cluster(spec: Spec, order: Order, made: Sequence[Group], setting: Setting) -> list[Document]:
    name = _named(f"cluster-{spec.name}")
    cluster = {
        **said(
            f"A cluster for what {spec.name} asks for, for KubeRay {SINCE} or newer, by raygen {version('raygen')}.",
            f"kubectl port-forward service/{name}-head-svc 8265{_in_namespace(order)}",
            "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(",
            f"  kubectl get secret {name}{_in_namespace(order)} --output",
            "  go-template='{{.data.auth_token|base64decode}}')",
            "raygen submit SPEC --address http://127.0.0.1:8265",
            *_unnamed(spec, order),
        ),
        "apiVersion": API,
        "kind": "RayCluster",
        "metadata": _metadata(name, order),
        "spec": pods.cluster(made, setting, version("ray")),
    }
    return [cluster]


def _groups(spec: Spec, order: Order) -> list[Group]:
    if order.kind == "service":
        return pods.groups(demands(spec, ["serve"]), least=spec.serve.replicas.min)
    return pods.groups(demands(spec, [order.job if order.kind == "job" else "run"]), started=order.kind == "job")


def _serve_config(spec: Spec) -> Document:
    from raygen.serving.projects import Projects

    uri = f"{spec.storage.rstrip('/')}/{spec.name}"
    served = Projects({spec.name: uri}, {}, spec.serve, spec.resources.serve or Resources())
    return served.config("0.0.0.0", pods.SERVE, tokens=None, insecure=False)  # noqa: S104


def _environment(spec: Spec) -> dict[str, str]:
    from raygen.serving import haproxy

    return haproxy.settings(spec.serve.timeout_s)


def _unnamed(spec: Spec, order: Order) -> list[str]:
    """What there may be too little of."""
    if order.secrets or not any(path.startswith("s3") for path in places(spec).values()):
        return []
    return ["No Secret is named (--secret): what is on S3 is read by whatever the pods' machines may."]


def _in_namespace(order: Order) -> str:
    """An option of kubectl's."""
    return f" --namespace {order.namespace}" if order.namespace else ""


def _metadata(name: str, order: Order) -> Document:
    placed = {"namespace": order.namespace} if order.namespace else {}
    return {"name": name, **placed, "labels": {"app.kubernetes.io/name": "raygen", "app.kubernetes.io/instance": name}}


def _named(name: str, digest: str = "") -> str:
    """A name that Kubernetes takes; a digest tells apart what would be called the same."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not digest and (plain != name or len(f"raygen-{plain}") > LONGEST):
        digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    end = f"-{digest}" if digest else ""
    return f"raygen-{plain}"[: LONGEST - len(end)].rstrip("-") + end
