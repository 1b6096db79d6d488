"""Manifests of Kubernetes for KubeRay, of a spec: a RayJob, a RayService, or a RayCluster for jobs that are submitted."""

import hashlib
import re
from collections.abc import Sequence
from importlib.metadata import version

from raygen.cluster import credentials, pods, submit
from raygen.cluster.commented import Document, dump, said
from raygen.cluster.options import Options, check, check_shared, selectors, volumes
from raygen.cluster.pods import Group, Setting
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


def written(spec: Spec, options: Options) -> str:
    """The manifest, as YAML: the same for the same spec and options, whoever asks.

    Raises:
        SpecError: the spec holds a credential, or does not say what the job needs; or an option is wrong, or missing.
        OutputError: a place that the spec names is not the same in all pods.
    """
    credentials.refuse(spec.model_dump(mode="json", by_alias=True), "the spec")
    check(options)
    if options.kind == "job" and options.job == "augment":
        spec.require_augment()
    mounted = volumes(options.volumes)
    check_shared(spec, mounted)
    made = _groups(spec, options)
    setting = Setting(
        image=options.image or f"raygen:{version('raygen')}{'-gpu' * any(group.gpus for group in made)}",
        environment=_environment(spec) if options.kind == "service" else {},
        secrets=options.secrets,
        volumes=mounted,
        selectors=selectors(options.selectors, made),
    )
    documents = {"job": _job, "service": _service, "cluster": _cluster}[options.kind](spec, options, made, setting)
    return "---\n".join(dump(document) for document in documents)


def _job(spec: Spec, options: Options, made: Sequence[Group], setting: Setting) -> list[Document]:
    called = submit.name(options.job, spec, options.overwrite, setting.image)  # where its attempts are numbered
    name = _named(f"{options.job}-{spec.name}", called[-12:])
    command = f"python -m raygen {options.job} {pods.SPEC}/spec.yaml{' --overwrite' * options.overwrite}"
    config = {
        **said(
            f"raygen {options.job} of {spec.name}, for KubeRay {SINCE} or newer, by raygen {version('raygen')}.",
            f"What it says: kubectl logs --follow job/{name}{_in_namespace(options)}",
            *_unnamed(spec, options),
        ),
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(name, options),
        **said("Another spec is another job: raygen cluster manifest writes it"),
        "immutable": True,
        "data": {"spec.yaml": spec.to_yaml()},
    }
    job = {
        "apiVersion": API,
        "kind": "RayJob",
        "metadata": _metadata(name, options),
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


def _service(spec: Spec, options: Options, made: Sequence[Group], setting: Setting) -> list[Document]:
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
        "metadata": _metadata(name, options),
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


def _cluster(spec: Spec, options: Options, made: Sequence[Group], setting: Setting) -> list[Document]:
    name = _named(f"cluster-{spec.name}")
    cluster = {
        **said(
            f"A cluster for what {spec.name} asks for, for KubeRay {SINCE} or newer, by raygen {version('raygen')}.",
            f"kubectl port-forward service/{name}-head-svc 8265{_in_namespace(options)}",
            "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(",
            f"  kubectl get secret {name}{_in_namespace(options)} --output",
            "  go-template='{{.data.auth_token|base64decode}}')",
            "raygen submit SPEC --address http://127.0.0.1:8265",
            *_unnamed(spec, options),
        ),
        "apiVersion": API,
        "kind": "RayCluster",
        "metadata": _metadata(name, options),
        "spec": pods.cluster(made, setting, version("ray")),
    }
    return [cluster]


def _groups(spec: Spec, options: Options) -> list[Group]:
    if options.kind == "service":
        return pods.groups(demands(spec, ["serve"]), least=spec.serve.replicas.min)
    return pods.groups(demands(spec, [options.job if options.kind == "job" else "run"]), started=options.kind == "job")


def _serve_config(spec: Spec) -> Document:
    from raygen.serving.projects import Projects

    uri = f"{spec.storage.rstrip('/')}/{spec.name}"
    served = Projects({spec.name: uri}, {}, spec.serve, spec.resources.serve or Resources())
    return served.config("0.0.0.0", pods.SERVE, tokens=None, insecure=False)  # noqa: S104


def _environment(spec: Spec) -> dict[str, str]:
    from raygen.serving import haproxy

    return haproxy.settings(spec.serve.timeout_s)


def _unnamed(spec: Spec, options: Options) -> list[str]:
    """What there may be too little of."""
    if options.secrets or not any(path.startswith("s3") for path in places(spec).values()):
        return []
    return ["No Secret is named (--secret): what is on S3 is read by whatever the pods' machines may."]


def _in_namespace(options: Options) -> str:
    """An option of kubectl's."""
    return f" --namespace {options.namespace}" if options.namespace else ""


def _metadata(name: str, options: Options) -> Document:
    placed = {"namespace": options.namespace} if options.namespace else {}
    return {"name": name, **placed, "labels": {"app.kubernetes.io/name": "raygen", "app.kubernetes.io/instance": name}}


def _named(name: str, digest: str = "") -> str:
    """A name that Kubernetes takes; a digest tells apart what would be called the same."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not digest and (plain != name or len(f"raygen-{plain}") > LONGEST):
        digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    end = f"-{digest}" if digest else ""
    return f"raygen-{plain}"[: LONGEST - len(end)].rstrip("-") + end
