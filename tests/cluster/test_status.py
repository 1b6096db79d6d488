"""``raygen cluster status``: of a real cluster by its dashboard, and of what other clusters say."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from raygen.cli import app
from raygen.cluster import launcher
from raygen.cluster.status import Share, Status, sections, status

# Real answers of a cluster while one of its two workers was being set up and another could not be had.
TOLD = """======== Autoscaler status: 2026-11-30 20:37:27.557958 ========
Node status
---------------------------------------------------------------
Active:
 1 head
 1 gpu
Pending:
 10.0.0.11: cpu, setting-up
 gpu-spot, 2 launching
Recent failures:
 gpu-spot: UnfulfillableCapacity (latest_attempt: 20:35:01)

Resources
---------------------------------------------------------------
Total Usage:
 1.5/10.0 CPU
 1.0/1.0 GPU
 0B/13.60GiB memory

From request_resources:
 (none)
Pending Demands:
 {'GPU': 1.0}: 3+ pending tasks/actors"""
QUIET = TOLD[: TOLD.index("Pending:")] + "Pending:\n (no pending nodes)\nRecent failures:\n (no failures)\n"


class Answers:
    """A dashboard that says so."""

    def __init__(self, told: str, reserved: dict[str, str]) -> None:
        self._told, self._reserved = told, reserved

    def nodes(self) -> list[dict[str, Any]]:
        gpu = {"node_id": "b" * 56, "node_ip": "10.0.0.9", "resources_total": {"CPU": 8.0, "GPU": 1.0, "memory": 1e9}}
        head = {"node_id": "a" * 56, "node_ip": "10.0.0.10", "is_head_node": True, "resources_total": {"CPU": 2.0}}
        gone = {"node_id": "c" * 56, "node_ip": "10.0.0.8", "resources_total": {}, "state": "DEAD"}
        alive = [
            {**node, "state": "ALIVE", "labels": {"ray.io/node-group": name}}
            for name, node in (("gpu", gpu), ("head", head))
        ]
        return [gone, *alive]

    def machines(self) -> dict[str, Any]:
        summary = [{"ip": "10.0.0.10", "mem": [25276510208, 19106238464, 24.4, 6170271744]}, {"hostname": "gone"}]
        return {"summary": summary, "nodeLogicalResources": self._reserved}

    def told(self) -> str:
        return self._told


@pytest.mark.parametrize("keys", [("10.0.0.10", "10.0.0.9"), ("a" * 56, "b" * 56)], ids=["v1", "v2"])
def test_what_a_cluster_says(keys: tuple[str, str]) -> None:
    reserved = {keys[0]: "0.5/2.0 CPU\n0B/13.60GiB memory", keys[1]: "1.0/8.0 CPU\n1.0/1.0 GPU\n0B/1GiB memory"}
    found = status(Answers(TOLD, reserved))
    head, gpu = found.nodes
    assert (head.address, head.type, head.head) == ("10.0.0.10", "head", True)
    assert (head.cpus, head.gpus, head.memory) == (Share(0.5, 2), Share(0, 0), Share(6170271744, 25276510208))
    assert (gpu.cpus, gpu.gpus, gpu.memory) == (Share(1, 8), Share(1, 1), Share(None, 1e9))
    assert found.pending == ["10.0.0.11: cpu, setting-up", "gpu-spot, 2 launching"]
    assert found.failed == ["gpu-spot: UnfulfillableCapacity (latest_attempt: 20:35:01)"]
    assert found.waiting == ["{'GPU': 1.0}: 3+ pending tasks/actors"]
    assert Status.of(json.loads(json.dumps(found.document()))) == found


def test_a_cluster_that_has_not_said_anything_yet() -> None:
    found = status(Answers("", {}))
    assert [node.cpus for node in found.nodes] == [Share(None, 2), Share(None, 8)]
    assert found.pending == found.failed == found.waiting == []
    assert sections(QUIET) == {"Pending": [], "Recent failures": [], "Pending Demands": []}


@pytest.fixture
def dashboard(ray: None) -> str:
    """The one of the Ray of this test run."""
    import ray as ray_

    return f"http://{ray_.get_runtime_context().worker.node.address_info['webui_url']}"


def test_of_a_dashboard(dashboard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = CliRunner().invoke(app, ["cluster", "status", "--address", dashboard])
    assert done.exit_code == 0, done.output
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "node type CPUs GPUs memory"
    assert f"/{os.cpu_count()} " in lines[1]
    assert lines[1].endswith(" GiB")
    assert lines[-3:] == ["pending nothing", "failed nothing", "waiting nothing"]
    listed = CliRunner().invoke(app, ["cluster", "status", "--address", dashboard, "--json"])
    (node,) = json.loads(listed.stdout)["nodes"]
    assert node["head"] is True
    assert 0 < node["memory"][0] < node["memory"][1]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--address", "http://127.0.0.1:1"], "http://127.0.0.1:1: no dashboard of Ray answers "),
        (["lab.yaml", "--address", "lab"], "CONFIG and --address both say which cluster"),
        (["lab.yaml"], "lab.yaml: there is no such file"),
        ([], "no cluster is named"),
    ],
)
def test_of_none(arguments: list[str], what: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    done = CliRunner().invoke(app, ["cluster", "status", *arguments])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {what}")
    assert len(done.stderr.splitlines()) == 2


@pytest.fixture
def ray_exec(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Ask the head of a cluster, where Ray's own command prints that and ends with that."""

    def ask(prints: str, code: int = 0) -> Any:
        script = f"import sys; print({prints!r}); print(' '.join(sys.argv[1:])); sys.exit({code})"
        monkeypatch.setattr(launcher, "_RAY", (sys.executable, "-c", script))
        monkeypatch.chdir(tmp_path)
        (tmp_path / "ray-config.yaml").write_text("cluster_name: lab\nprovider: {type: local}\n")
        return CliRunner().invoke(app, ["cluster", "status"])

    return ask


@pytest.mark.parametrize(
    ("prints", "what", "hint"),
    [
        ("RuntimeError: Head node of cluster (lab) not found!", "the cluster lab is not up", "raygen cluster up "),
        ("error: it hurts\n  rest", "on the head of lab: it hurts", "rest"),
        ('{"nodes": [{"other": 1}]}', "the head of lab has another raygen", "raygen cluster up ray-config.yaml gives it "),
        ("ssh: no route to host", "ray-config.yaml: its head cannot be asked (", "see what ray exec ray-config.yaml uptime"),
    ],
)
def test_a_head_that_does_not_tell(ray_exec: Callable[..., Any], prints: str, what: str, hint: str) -> None:
    done = ray_exec(prints, code=1)
    assert done.exit_code == 2
    first, second = done.stderr.splitlines()
    assert what in first
    assert second.strip().startswith(hint)


def test_a_head_that_tells(ray_exec: Callable[..., Any]) -> None:
    node = {"address": "10.0.0.1", "type": "", "head": True, "cpus": [1, 2], "gpus": [0, 0], "memory": [2**30, 2**31]}
    shown = ray_exec(f"noise\n{json.dumps({'nodes': [node], 'pending': ['one'], 'failed': [], 'waiting': []})}\nnoise")
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert lines[:2] == ["node type CPUs GPUs memory", "10.0.0.1 head 1/2 0/0 1 GiB of 2 GiB"]
    assert lines[2:] == ["pending one", "failed nothing", "waiting nothing"]
