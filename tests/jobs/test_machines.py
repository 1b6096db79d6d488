"""Clusters of machines that are as good as separate: what they share is checked, and what is not there yet is asked for."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from faults import RAYGEN
from machines import PORT, Machine, machines, possible

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not possible(), reason="namespaces of Linux take root, ip, unshare and nsenter"),
]


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name."""
    with tempfile.TemporaryDirectory(prefix="rg", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def command(machine: Machine, *words: str) -> "subprocess.CompletedProcess[str]":
    return machine.run(RAYGEN, *words, RAY_ADDRESS=f"{machine.address}:{PORT}")


def test_a_folder_that_not_all_machines_see_is_refused(small: dict[str, Any], tmp_path: Path, short: Path) -> None:
    """It is named, and so is the machine; when all see it, they train together."""
    small["storage"] = f"file://{tmp_path}/shared/store"
    small["dataset"] = {**small["dataset"], "path": f"file://{small['dataset']['path']}"}
    small["train"] |= {"epochs": 1, "workers": 2}
    small["resources"] = {"train": {"cpus": 1}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(small))
    (tmp_path / "shared").mkdir()
    with machines(short, 2) as (head, other), head.start(cpus=1), other.start(head, cpus=1):
        other.hide(tmp_path / "shared")
        refused = command(head, "train", str(tmp_path / "spec.yaml"))
        assert refused.returncode == 2
        assert f"error: storage: {small['storage']} is not the same folder on node {other.address}" in refused.stderr
        assert not list((tmp_path / "shared").rglob(".raygen*"))
        other.show(tmp_path / "shared")
        trained = command(head, "train", str(tmp_path / "spec.yaml"))
        assert trained.returncode == 0, trained.stderr
        assert "generator  file://" in trained.stdout


LOOKS = """
import json, os, sys
from raygen.cluster.connect import connected
from raygen.errors import ResourceError
from raygen.jobs import placement, waiting
from raygen.machines import Resources
from raygen.resources import Demand, room

def nodes():
    return [[node.name, node.count, node.most, node.told] for node in placement.nodes()]

with connected():
    found = {"untold": nodes()}
    os.environ["HOME"] = sys.argv[1]
    found["told"] = nodes()
    os.environ["HOME"] = "/nowhere"
    for gpus in (1, 4):
        try:
            waiting.for_room(Demand("train", 1, 1, Resources(gpus=gpus, labels={"market": "spot"} if gpus == 1 else {})))
        except ResourceError as error:
            found["refused"] = error.what
        found[f"room for {gpus}"] = room(Resources(gpus=gpus), placement.nodes(), now=True)
    print(json.dumps(found))
"""


def test_an_autoscaler_is_asked_for_machines(tmp_path: Path, short: Path) -> None:
    """Of a head without a CPU, by Ray's own autoscaler, whose machines are pretended. What it may add, the head's home tells
    on a cluster of `ray up`; elsewhere the autoscaler tells, in a while, what it cannot add."""
    import ray
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

    kinds = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 1, "GPU": 1}, "labels": {"market": "spot"}, "node_config": {}, "max_workers": 2},
    }
    empty = {
        f"{kind}_commands": [] for kind in ("setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    }
    config = {
        **empty,
        "cluster_name": "pretended",
        "provider": {"type": "fake_multinode", "launch_multiple": True, "head_node_id": FAKE_HEAD_NODE_ID},
        "available_node_types": kinds,
        "head_node_type": "ray.head.default",
        "max_workers": 2,
        "idle_timeout_minutes": 5,
        "upscaling_speed": 1.0,
        "cluster_synced_files": [],
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "auth": {},
        "docker": {},
    }
    text = json.dumps(config)
    (file := tmp_path / "ray_bootstrap_config.yaml").write_text(text)
    (tmp_path / "looks.py").write_text(LOOKS)
    provider = Path(ray.__file__).parent / "autoscaler" / "_private" / "fake_multi_node"
    shutil.copytree(provider, tmp_path / "provider")
    (tmp_path / "provider" / "example.yaml").write_text(text)  # which the wheel lacks
    scaling = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "RAY_NODE_TYPE_NAME": "ray.head.default",
    }
    with machines(short, 1) as (head,):
        subprocess.run(head.command("mount", "--bind", str(tmp_path / "provider"), str(provider)), check=True)
        with head.start(None, 0, f"--autoscaling-config={file}", **scaling):
            began = time.monotonic()
            looks = [sys.executable, str(tmp_path / "looks.py"), str(tmp_path)]
            done = head.run(*looks, RAY_ADDRESS=f"{head.address}:{PORT}", HOME="/nowhere")
            assert done.returncode == 0, done.stderr
            assert time.monotonic() - began < 120
    found = json.loads(done.stdout)
    assert found["untold"] == [["ray.head.default", 1, 1, True], ["autoscaler", 0, 0, False]]
    assert found["told"] == [["ray.head.default", 1, 1, True], ["gpu", 0, 2, True]]
    assert found["room for 1"] == 1
    assert found["room for 4"] == 0
    assert found["refused"].startswith(
        "train asks for 1 CPU and 4 GPUs; the cluster has 2 nodes with at most 1 GPU each; its"
    )
