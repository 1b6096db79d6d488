"""The whole job, sent to a cluster of three nodes with a dashboard, over a real S3 server; nodes and drivers are lost
meanwhile. What comes of it is, byte by byte, what one machine makes."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faults
import psutil
import pytest
import yaml
from faults import PATIENCE, RAYGEN, Bucket, Local
from s3 import Server

import raygen

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

SHARDS = 60


@pytest.fixture(scope="module")
def cluster(home: Path, s3_server: Server) -> Iterator[Any]:
    """A head and two more nodes, each of a CPU."""
    with faults.nodes(cpus=1, include_dashboard=True) as cluster:
        cluster.dashboard = f"http://{cluster.head_node.webui_url}"
        cluster.workers = [faults.second_node(cluster) for _ in range(2)]
        yield cluster


@pytest.fixture
def spec(small: dict[str, Any], s3_server: Server, s3: str, tmp_path: Path) -> dict[str, Any]:
    """A job of two training workers whose data and storage are on S3."""
    s3_server.upload(Path(small["dataset"]["path"]), f"{s3}/real")
    small["augment"] |= {"rows": 6000, "shard_rows": 100, "workers": "auto"}
    small["train"] = {"epochs": 16, "batch_size": 32, "workers": 2, "checkpoint_seconds": 0}
    return {**small, "storage": s3, "dataset": {**small["dataset"], "path": f"{s3}/real"}}


class Sent:
    """What ``raygen submit`` or ``raygen jobs …`` says, in a process of its own."""

    def __init__(self, cluster: Any, folder: Path, *arguments: str) -> None:
        self.log = folder / f"{len(list(folder.iterdir()))}.log"
        environment = {**os.environ, "RAY_ADDRESS": cluster.dashboard, "RAY_AUTH_MODE": "disabled"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen([RAYGEN, *arguments], env=environment, stdout=log, stderr=log)

    def wait_for(self, met: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (found := met()):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)
        return found

    def end(self) -> int:
        return self.process.wait(PATIENCE)

    @property
    def said(self) -> str:
        return self.log.read_text()


def busy(nodes: list[Any], worker: str) -> Any:
    """One of the nodes on which there is such a worker; None where there is none."""
    for node in nodes:
        for process in faults.raylet(node).children(recursive=True):
            if re.search(worker, " ".join(process.cmdline() or [""])):
                return node
    return None


def lose(cluster: Any, worker: str) -> None:
    """Kill a node that has such a worker, with all that runs on it."""
    node = busy(cluster.workers, worker)
    assert node is not None
    cluster.workers.remove(node)
    faults.lose(node)


def test_nodes_and_drivers_are_lost(
    spec: dict[str, Any], cluster: Any, s3: str, s3_server: Server, tmp_path: Path, ray: None
) -> None:
    (path := tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    (logs := tmp_path / "logs").mkdir()
    project, dataset = Bucket(s3_server, f"{s3}/small"), Bucket(s3_server, f"{s3}/small/dataset")

    def receipts() -> int:
        return sum(name.endswith(".json") for name in dataset.list("_raygen/receipts"))

    # By itself: a node is lost in training, where the head's CPU takes its place, and the other one while rows are made.
    job = Sent(cluster, logs, "submit", str(path))
    job.wait_for(lambda: sum(name.endswith(".pt") for name in project.list("train")) and busy(cluster.workers, "Train"))
    lose(cluster, "Train")
    job.wait_for(lambda: receipts() >= 5 and busy(cluster.workers, "MapWorker"))
    lose(cluster, "MapWorker")
    assert receipts() < SHARDS
    assert job.end() == 0, job.said
    assert "attempt 1 of this job" in job.said
    assert not cluster.workers

    alone = {**spec, "storage": str(tmp_path / "alone")}
    raygen.run(alone)
    assert faults.hashes(dataset) == faults.hashes(Local(tmp_path / "alone" / "small" / "dataset"))
    assert len(faults.hashes(dataset)) == SHARDS

    # A job for other rows of the same generator: stopped, begun again, and killed; then retried by two at once.
    more = ["--set", "augment.seed=8", "--set", f"augment.output={s3}/more"]
    dataset = Bucket(s3_server, f"{s3}/more")
    job = Sent(cluster, logs, "submit", str(path), "--job", "augment", *more)
    job.wait_for(lambda: receipts() >= 5)
    name = re.search(r"raygen-augment-small-[0-9a-f]{12}", job.said)[0]  # type: ignore[index]
    other = Sent(cluster, logs, "jobs", "logs", name, "--follow")
    began = time.monotonic()
    assert Sent(cluster, logs, "jobs", "stop", name).end() == 0
    assert time.monotonic() - began < 10
    assert job.end() == other.end() == 143
    assert "stopped; the same command goes on from here" in other.said
    done = receipts()
    assert 5 <= done < SHARDS

    job = Sent(cluster, logs, "jobs", "retry", name)
    job.wait_for(lambda: receipts() >= done + 3)
    (driver,) = [process for process in psutil.process_iter() if is_driver(process, "augment")]
    driver.kill()
    assert job.end() == 137, job.said
    done = receipts()
    assert done < SHARDS

    both = [Sent(cluster, logs, "jobs", "retry", name) for _ in range(2)]
    codes = {job.end(): job.said for job in both}
    assert codes.keys() <= {0, 2}  # whoever comes later is told that it runs, or follows the same attempt
    assert f"{name}, attempt 3" in codes[0]
    assert "attempt 3 of this job" in codes[0]
    assert not any("attempt 4" in job.said for job in both)
    raygen.augment({**alone, "augment": {**spec["augment"], "seed": 8, "output": str(tmp_path / "more")}})
    assert faults.hashes(dataset) == faults.hashes(Local(tmp_path / "more"))
    again = Sent(cluster, logs, "submit", str(path), "--job", "augment", *more)
    assert again.end() == 0
    assert f"{name}-3: has succeeded" in again.said or f"{name}: has succeeded" in again.said


def is_driver(process: psutil.Process, job: str) -> bool:
    try:
        return process.cmdline()[1:4] == ["-m", "raygen", job]
    except psutil.Error:
        return False
