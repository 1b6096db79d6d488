"""Training, disturbed: a node is lost, and elastic workers go on with what is left."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import faults
import pytest
import yaml

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


SPOT = {"resources": {"train": {"labels": {"market": "spot"}}}}


@pytest.mark.parametrize("asked", [{}, SPOT], ids=["killed", "preempted"])
def test_elastic_workers_survive_the_loss_of_a_node(
    small: dict[str, Any], home: Path, tmp_path: Path, asked: dict[str, Any]
) -> None:
    """The same command ends by itself; an epoch is neither missing nor there twice. Of spot nodes, what is left is used, and
    not the other nodes, though these have room."""
    checkpoints = Path(small["storage"]) / small["name"] / "train"
    small |= {"storage": f"file://{small['storage']}", **asked}
    small["dataset"] = {**small["dataset"], "path": f"file://{small['dataset']['path']}"}
    small["train"] = {"epochs": 30, "batch_size": 60, "workers": {"min": 1, "max": 3}, "checkpoint_seconds": 0}
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(small))
    raygen = str(Path(sys.executable).with_name("raygen"))
    with faults.nodes(cpus=2) as cluster:
        node = faults.second_node(cluster, labels={"market": "spot"})
        if asked:
            faults.second_node(cluster, labels={"market": "spot"})
        environment = {**os.environ, "RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": "disabled"}
        with (
            (tmp_path / "log").open("w") as log,
            subprocess.Popen([raygen, "train", str(path)], env=environment, stderr=log) as process,
        ):
            deadline = time.monotonic() + 240
            while len(list(checkpoints.glob("*/checkpoints/*.pt"))) < 2:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            (run,) = checkpoints.iterdir()
            assert not (run / "result.json").exists()
            faults.preempt(cluster, node, 2) if asked else faults.kill_raylet(node)
            assert process.wait(300) == 0, (tmp_path / "log").read_text()
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in history] == list(range(1, 31))
