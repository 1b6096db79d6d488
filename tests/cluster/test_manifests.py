"""Manifests: what Kubernetes, KubeRay and its autoscaler would make of them, and what is refused before they could."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kuberay
import pytest
import yaml
from click.testing import Result
from endpoints import digits, promoted
from typer.testing import CliRunner

from raygen.cli import app
from raygen.cluster.kinds import Kind
from raygen.cluster.manifests import written
from raygen.cluster.options import Options
from raygen.datasets.storage import Folder
from raygen.load import load_spec
from raygen.resources import Node, demands, refusal
from raygen.serving import haproxy
from raygen.spec import Spec

Document = dict[str, Any]
SCHEMA = {"image": {"kind": "image", "height": 9, "width": 8, "channels": 1}, "label": {"kind": "category"}}
PLAIN: Document = {
    "name": "digits",
    "storage": "s3://bucket/store",
    "dataset": {"path": "s3://bucket/digits/*.parquet", "schema": SCHEMA},
    "generator": {"family": "vae", "condition": "label"},
    "augment": {"rows": 1000, "balance": "label"},
}
SPOT = {"ray.io/market-type": "spot"}
SPECS: dict[str, tuple[Document, list[str]]] = {
    "plain": (PLAIN, []),
    "a long name": ({**PLAIN, "name": "9.Digits_of-" + "x" * 60}, []),
    "GPUs": ({**PLAIN, "resources": {"train": {"gpus": 1, "memory": "16GiB"}, "serve": {"gpus": 0.5}}}, []),
    "spot A100s": (
        {
            **PLAIN,
            "train": {"workers": {"min": 2, "max": 8}, "batch_size": 840},
            "serve": {"replicas": {"min": 2, "max": 2}},
            "resources": {
                "train": {"cpus": 4, "accelerator": "A100", "memory": "32GiB", "labels": SPOT},
                "augment": {"cpus": 0.5, "labels": {"zone": "in(a, b)", "ray.io/market-type": "!spot"}},
                "serve": {"cpus": 2},
            },
        },
        ["a100-spot:cloud.google.com/gke-accelerator=nvidia-tesla-a100"],
    ),
    "a folder": (
        {
            **PLAIN,
            "storage": "file:///mnt/shared/store",
            "dataset": {"path": "sample:digits", "schema": SCHEMA},
            "serve": {"replicas": {"min": 0, "max": 3}},
        },
        [],
    ),
}
KINDS: list[Kind] = ["job", "service", "cluster"]


def made(spec: Spec, kind: Kind, selectors: list[str], **more: Any) -> list[Document]:
    """The documents, and the same under any hash seed: see ``test_it_is_the_same_every_time``."""
    selectors = [] if kind == "service" else selectors
    volumes = ["claim:/mnt/shared"]
    options = Options(kind, **{"secrets": ["s3"], "namespace": "ml", "volumes": volumes, "selectors": selectors, **more})
    return list(yaml.safe_load_all(written(spec, options)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SPECS)
def test_nobody_refuses_it(name: str, kind: Kind) -> None:
    document, selectors = SPECS[name]
    for manifest in made(load_spec(document), kind, selectors):
        assert kuberay.problems(manifest) == []
        if manifest["kind"] != "ConfigMap" and (definition := kuberay.defined(manifest["kind"])):
            assert [error.message for error in definition.iter_errors(manifest)] == []


def test_it_is_what_the_definitions_of_kuberay_know() -> None:
    """What the test above takes from KubeRay itself is left out where its definitions are not at hand."""
    if kuberay.DEFINED not in os.environ:
        pytest.skip(f"{kuberay.DEFINED} does not name the folder with the definitions of a KubeRay release")
    document, selectors = SPECS["spot A100s"]
    for kind in KINDS:
        *_, manifest = made(load_spec(document), kind, selectors)
        definition = kuberay.defined(manifest["kind"])
        assert definition is not None
        head = next(kuberay.clusters(manifest))["headGroupSpec"]
        head["template"]["spec"]["containers"][0]["volumeMount"] = []
        head["rayStartParam"] = {}
        assert len([*definition.iter_errors(manifest)]) == 2


def _cluster(manifest: Document) -> Document:
    return next(kuberay.clusters(manifest))


def _worker(manifest: Document) -> Document:
    found: Document = _cluster(manifest)["workerGroupSpecs"][0]
    return found


def _container(manifest: Document) -> Document:
    found: Document = _worker(manifest)["template"]["spec"]["containers"][0]
    return found


BROKEN: list[tuple[Callable[[Document], object], str]] = [
    (lambda m: m["spec"].update(backofLimit=3), "'backofLimit' was unexpected"),
    (lambda m: m["spec"].update(backoffLimit="3"), "'3' is not of type 'integer'"),
    (lambda m: m["spec"].update(backoffLimit=-1), "less than the minimum"),
    (lambda m: m["spec"].update(shutdownAfterJobFinishes=False), "need shutdownAfterJobFinishes"),
    (lambda m: m["spec"].update(clusterSelector={"ray.io/cluster": "other"}), "either clusterSelector or"),
    (lambda m: m["spec"].update(submissionMode="InteractiveMode"), "a job that KubeRay submits"),
    (lambda m: m["spec"].update(submissionMode="SidecarMode"), "of no use to a sidecar"),
    (lambda m: m["spec"].update(activeDeadlineSeconds=0), "activeDeadlineSeconds is 0"),
    (lambda m: m["spec"].update(runtimeEnvYAML="- a"), "is no mapping"),
    (lambda m: m["metadata"].update(name="raygen-" + "x" * 41), "is no name for a RayJob"),
    (lambda m: m["metadata"].update(name="9raygen"), "is no name for a RayJob"),
    (lambda m: m["metadata"].update(labels={"a": 1}), "1 is not of type"),
    (lambda m: _cluster(m).pop("rayVersion"), "needs rayVersion"),
    (lambda m: _cluster(m)["authOptions"].update(mode="password"), "is not one of ['disabled', 'token']"),
    (lambda m: _cluster(m)["autoscalerOptions"].pop("securityContext"), "autoscaler is not confined"),
    (lambda m: _worker(m).update(minReplicas=5), "more than maxReplicas"),
    (lambda m: _worker(m)["rayStartParams"].update({"num-cpus": "4"}), "say the same"),
    (lambda m: _worker(m).update(labels={"zone": "in(a, b)"}), "a label is none of Kubernetes'"),
    (lambda m: _worker(m)["template"]["spec"].update(restartPolicy="Always"), "has to be Never"),
    (lambda m: _worker(m)["template"]["spec"].update(node_selector={}), "'node_selector' was unexpected"),
    (lambda m: _worker(m)["template"]["spec"]["volumes"].pop(0), "which is no volume"),
    (lambda m: _worker(m)["template"]["spec"]["securityContext"].update(runAsNonRoot=False), "may run as root"),
    (lambda m: _container(m)["resources"]["limits"].update(memory="2GB"), "2GB is no quantity"),
    (lambda m: _container(m)["resources"]["limits"].update(memory="20Gi"), "may be gone when it is needed"),
    (lambda m: _container(m)["securityContext"].update(allowPrivilegeEscalation=True), "ray-worker is not confined"),
    (lambda m: _container(m)["envFrom"].append({"secretKeyRef": {"name": "s3"}}), "'secretKeyRef' was unexpected"),
]


@pytest.mark.parametrize(("breaks", "said"), BROKEN, ids=[said for _, said in BROKEN])
def test_a_broken_one_would_be_refused(breaks: Callable[[Document], object], said: str) -> None:
    *_, manifest = made(load_spec(PLAIN), "job", [])
    manifest = copy.deepcopy(manifest)
    breaks(manifest)
    assert any(said in problem for problem in kuberay.problems(manifest))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SPECS)
def test_the_autoscaler_can_give_what_is_asked(name: str, kind: Kind) -> None:
    """By Ray's own reading of a RayCluster."""
    from ray.autoscaler._private.kuberay import autoscaling_config

    document, selectors = SPECS[name]
    spec = load_spec(document)
    *_, manifest = made(spec, kind, selectors)
    resource = {"metadata": manifest["metadata"], "spec": _cluster(manifest)}
    types = autoscaling_config._derive_autoscaling_config_from_ray_cr(resource)["available_node_types"]
    nodes = [Node(name, t["resources"], t["labels"], t["min_workers"], t["max_workers"]) for name, t in types.items()]
    for demand in demands(spec, ["serve"] if kind == "service" else ["run"]):
        assert (refused := refusal(demand, nodes)) is None, refused
        one_less = [Node(n.name, {**n.resources, "CPU": n.resources["CPU"] - 1}, n.labels, n.count, n.most) for n in nodes]
        assert refusal(demand, one_less) is None, "nothing is left for who reads"
    assert types["headgroup"]["resources"]["CPU"] == 0


def test_groups_are_by_what_is_asked() -> None:
    document, selectors = SPECS["spot A100s"]
    *_, job = made(load_spec(document), "job", selectors)
    known = {group["groupName"]: group for group in _cluster(job)["workerGroupSpecs"]}
    assert {name: (g["replicas"], g["minReplicas"], g["maxReplicas"]) for name, g in known.items()} == {
        "cpu": (1, 0, 1), "cpu-2": (1, 0, 4), "a100-spot": (2, 0, 8)
    }  # fmt: skip
    gpu = known["a100-spot"]
    assert gpu["resources"] == {"CPU": "5", "GPU": "1", "memory": str(32 * 2**30), "accelerator_type:A100": "1"}
    assert gpu["labels"] == SPOT
    pod = gpu["template"]["spec"]
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-tesla-a100"}
    assert [toleration["key"] for toleration in pod["tolerations"]] == ["nvidia.com/gpu"]
    (container,) = pod["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "5", "memory": "50Gi"}, "limits": {"memory": "50Gi", "nvidia.com/gpu": 1}
    }  # fmt: skip
    assert container["image"].endswith("-gpu")
    assert "labels" in known["cpu-2"]
    assert known["cpu-2"]["labels"] == {"zone": "a"}
    assert not {"nodeSelector", "tolerations"} & {*known["cpu"]["template"]["spec"]}


def test_ray_s_object_store_fits_into_shared_memory() -> None:
    from ray.autoscaler._private.kuberay.utils import parse_quantity

    for name, (document, selectors) in SPECS.items():
        *_, job = made(load_spec(document), "job", selectors)
        for group in (_cluster(job)["headGroupSpec"], *_cluster(job)["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            memory = parse_quantity(pod["containers"][0]["resources"]["limits"]["memory"])
            (shared,) = (v["emptyDir"]["sizeLimit"] for v in pod["volumes"] if "emptyDir" in v)
            assert float(memory) * 0.3 < float(parse_quantity(shared)) * 0.95, name  # as Ray counts
            assert float(memory) - float(parse_quantity(shared)) >= int(group["resources"].get("memory", 0)) * 0.99


def test_an_endpoint_without_replicas_needs_no_workers() -> None:
    *_, service = made(load_spec(SPECS["a folder"][0]), "service", [])
    assert _worker(service)["minReplicas"] == 0
    assert _container(service)["readinessProbe"]["httpGet"] == {"path": "/-/healthz", "port": "serve"}
    *_, service = made(load_spec(SPECS["spot A100s"][0]), "service", [])
    assert _cluster(service)["enableInTreeAutoscaling"] is False  # two replicas, neither more nor less
    assert not any(pod["automountServiceAccountToken"] for pod in kuberay.pods(service))


def test_only_the_head_has_a_token_of_kubernetes() -> None:
    *_, job = made(load_spec(PLAIN), "job", [])
    assert [pod["automountServiceAccountToken"] for pod in kuberay.pods(job)] == [True, False, False]


def test_a_job_is_what_its_container_runs() -> None:
    config, job = made(load_spec(PLAIN), "job", [], job="augment", overwrite=True)
    assert job["spec"]["entrypoint"] == "python -m raygen augment /etc/raygen/spec.yaml --overwrite"
    assert "entrypointNumCpus" not in job["spec"]  # Ray would look for a worker that has them
    head = _cluster(job)["headGroupSpec"]["template"]["spec"]
    (mount,) = (mount for mount in head["containers"][0]["volumeMounts"] if mount["mountPath"] == "/etc/raygen")
    (volume,) = (volume for volume in head["volumes"] if volume["name"] == mount["name"])
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    assert load_spec(yaml.safe_load(config["data"]["spec.yaml"])) == load_spec(PLAIN)
    assert (job["spec"]["backoffLimit"], job["spec"]["suspend"], job["spec"]["shutdownAfterJobFinishes"]) == (3, False, True)


def _called(spec: Document, **more: Any) -> str:
    _, job = made(load_spec(spec), "job", [], **more)
    name: str = yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]["RAYGEN_JOB"]
    assert job["metadata"]["name"][-12:] == name[-12:]
    return name


def test_the_same_work_has_the_same_name() -> None:
    once = _called(PLAIN)
    assert once.startswith("raygen-run-digits-")
    assert once == _called({**reversed_(PLAIN), "train": {"epochs": 40}}, secrets=["other"], namespace="elsewhere")
    others = [_called({**PLAIN, "train": {"epochs": 41}}), _called(PLAIN, job="train"), _called(PLAIN, overwrite=True)]
    assert len({once, *others, _called(PLAIN, image="raygen:next")}) == 5


def reversed_(document: Document) -> Document:
    return dict(reversed(document.items()))


def test_names_are_told_apart() -> None:
    names = ("digits", "Digits", "digits.", "a" * 60, "a" * 61)
    found = {made(load_spec({**PLAIN, "name": name}), "cluster", [])[0]["metadata"]["name"] for name in names}
    assert len(found) == len(names)
    assert "raygen-cluster-digits" in found
    service = made(load_spec({**PLAIN, "name": "digits"}), "service", ["--secret", "tokens"])
    assert service[-1]["metadata"]["name"] == "raygen-serve-digits"  # the Services of both would be one


def test_it_is_the_same_every_time(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(SPECS["spot A100s"][0]))
    command = [str(Path(sys.executable).with_name("raygen")), "cluster", "manifest", str(spec), "--kind", "job",
               "--node-selector", "a100-spot:b/c=d"]  # fmt: skip
    texts = {
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1
    (text,) = texts
    assert b"  # A limit for each attempt, after which there is no other: activeDeadlineSeconds: 86400\n" in text
    assert not any(line.lstrip().startswith((b"?", b"'#", b'"#')) for line in text.splitlines())  # comments are comments


def raygen(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_endpoint_is_the_one_that_serve_prints(tmp_path: Path) -> None:
    promoted(Folder(tmp_path / "store" / "digits"), digits())
    serve = {"replicas": {"min": 0, "max": 3}, "timeout_s": 90.0}
    spec = tmp_path / "spec.yaml"
    document = {**PLAIN, "storage": f"file://{tmp_path}/store", "serve": serve, "resources": {"serve": {"cpus": 2}}}
    spec.write_text(yaml.safe_dump(document))
    printed = raygen("serve", spec, "--host", "0.0.0.0", "--print-config")
    assert printed.exit_code == 0, printed.output
    volume = f"claim:{tmp_path}"
    done = raygen("cluster", "manifest", spec, "--kind", "service", "--secret", "tokens", "--volume", volume)
    assert done.exit_code == 0, done.output
    service = yaml.safe_load(done.stdout)
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == yaml.safe_load(printed.stdout)
    for group in (_cluster(service)["headGroupSpec"], *_cluster(service)["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert {variable["name"]: variable["value"] for variable in container["env"]} == haproxy.settings(90.0)
        assert container["envFrom"] == [{"secretRef": {"name": "tokens"}}]
        assert {"name": "serve", "containerPort": 8000} in container["ports"]


def test_no_variable_of_who_writes_it_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "RAYGEN_TOKENS", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "not-for-others")
    for kind in KINDS:
        text = written(load_spec(PLAIN), Options(kind, secrets=["s3"]))
        assert "not-for-others" not in text
        assert "name: s3\n" in text


def refused(spec: Document, tmp_path: Path, *arguments: str) -> str:
    """What is said, in two lines, of a mistake that the user can mend."""
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    done = raygen("cluster", "manifest", path, *arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr.count("\n") == 2, done.stderr
    assert done.stdout == ""
    return done.stderr


LOCAL = {**PLAIN, "storage": "file:///mnt/a/store"}


@pytest.mark.parametrize(
    ("spec", "arguments", "said"),
    [
        ({**PLAIN, "storage": "./store"}, [], "storage: ./store is a folder of one machine"),
        ({**PLAIN, "dataset": {**PLAIN["dataset"], "path": "d.parquet"}}, [], "dataset.path: d.parquet is a folder"),
        ({**PLAIN, "train": {"start_from": "/mnt/a/g"}}, ["--volume", "c:/mnt/a"], "train.start_from: /mnt/a/g is a folder"),
        ({**PLAIN, "augment": {"rows": 9, "output": "out"}}, [], "augment.output: out is a folder"),
        (LOCAL, [], "storage: file:///mnt/a/store is on no volume"),
        (LOCAL, ["--volume", "c:/mnt/ab"], "is on no volume"),
        ({**PLAIN, "storage": "file:///mnt/a/../b"}, ["--volume", "c:/mnt/a"], "is on no volume"),
        (LOCAL, ["--volume", "/mnt/a"], "is not of the form CLAIM:/mnt/…"),
        (LOCAL, ["--volume", "c:/"], "is not of the form CLAIM:/mnt/…"),
        (LOCAL, ["--volume", "c:/mnt/a", "--volume", "d:/mnt/a/"], "/mnt/a is there twice"),
        (PLAIN, ["--secret", "A=b"], "is no name of a Secret"),
        (PLAIN, ["--namespace", "Mine"], "--namespace Mine: is no name"),
        (PLAIN, ["--image", "ray gen"], "is no image"),
        (PLAIN, ["--node-selector", "gpu=x"], "is not of the form GROUP:KEY=VALUE"),
        (PLAIN, ["--node-selector", "cpus:a=b"], "there is no group 'cpus'; did you mean 'cpu'?"),
        (SPECS["spot A100s"][0], [], "a GPU of the kind A100 is asked for"),
        ({key: PLAIN[key] for key in PLAIN if key != "augment"}, ["--job", "augment"], "augment is missing"),
    ],
)
def test_refusals(spec: Document, arguments: list[str], said: str, tmp_path: Path) -> None:
    assert said in refused(spec, tmp_path, "--kind", "job", *arguments)


def test_an_endpoint_needs_tokens_and_is_no_job(tmp_path: Path) -> None:
    assert "an endpoint needs tokens" in refused(PLAIN, tmp_path, "--kind", "service")
    assert "--job is about a job" in refused(PLAIN, tmp_path, "--kind", "service", "--job", "train")
    assert "--overwrite is about a job" in refused(PLAIN, tmp_path, "--kind", "cluster", "--overwrite")


@pytest.mark.parametrize(
    "storage",
    [
        "s3://AKIAIOSFODNN7EXAMPLE:wJalr/XUtnFEMI@bucket/store",
        "s3://someone@bucket/store",
        "https://host/store?X-Amz-Signature=abcdef",
        "https://host:9000/store?sv=1&sig=abcdef",
        "https://host/store?api_key=abcdef",
        "s3://bucket/AKIAIOSFODNN7EXAMPLE",
        "s3://bucket/rg_" + "a" * 43,
    ],
)
def test_a_credential_is_refused_and_not_told(storage: str, tmp_path: Path) -> None:
    said = refused(PLAIN, tmp_path, "--kind", "job", "--set", f"storage={storage}")
    assert "what storage says looks like a credential" in said
    assert not any(part in said for part in ("AKIA", "wJalr", "abcdef", "someone", "rg_a"))


@pytest.mark.parametrize(
    "storage", ["s3://bucket/a@b", "s3://bucket:9000/a@b", "s3://bucket/tokens/x=1", "s3://b/?versionId=3"]
)
def test_what_is_no_credential_is_not_refused(storage: str) -> None:
    assert made(load_spec({**PLAIN, "storage": storage}), "job", [])


def test_output_is_written(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(PLAIN))
    done = raygen("cluster", "manifest", path, "--kind", "job", "--output", tmp_path / "job.yaml")
    assert (done.exit_code, done.stdout.startswith("wrote ")) == (0, True)
    assert [kind["kind"] for kind in yaml.safe_load_all((tmp_path / "job.yaml").read_text())] == ["ConfigMap", "RayJob"]
    assert "cannot be written" in refused(PLAIN, tmp_path, "--kind", "job", "--output", str(tmp_path / "no" / "job.yaml"))
