"""A RayJob's command, run as KubeRay would, on a cluster of a head and workers as its manifest describes them."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kuberay
import psutil
import pytest
import yaml
from s3 import free_ports

from raygen.cluster.manifests import written
from raygen.cluster.options import Options
from raygen.load import load_spec

BIN = Path(sys.executable).parent
PATIENCE = 120.0
TOKEN = "0123456789abcdef" * 4
Document = dict[str, Any]


class Cluster:
    """Its pods, as processes; what is in a pod is in their environment."""

    def __init__(self, cluster: Document, folder: Path, home: Path) -> None:
        self.environment = {
            **os.environ,
            "HOME": str(home),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._log = (home / "ray.log").open("w")
        self._pods: list[subprocess.Popen[bytes]] = []
        self._cluster, self._folder = cluster, folder
        self._gcs = free_ports()
        self.dashboard = self._gcs + 1

    def start(self) -> None:
        cluster, gcs = self._cluster, self._gcs
        head = [f"--head --port={gcs} --dashboard-host=127.0.0.1 --dashboard-port={self.dashboard}",
                f"--ray-client-server-port={gcs + 2} --temp-dir={self._folder}"]  # fmt: skip
        agent = self._start([*head, f"--num-cpus={cluster['headGroupSpec']['resources']['CPU']}"])
        self._wait(agent)
        (group,) = cluster["workerGroupSpecs"]
        known = group["resources"]
        worker = f"--address=127.0.0.1:{gcs} --num-cpus={known['CPU']} --memory={known['memory']}"
        for _ in range(group["replicas"]):
            self._wait(self._start([worker]))

    def _start(self, options: list[str]) -> int:
        """The port at which the pod's probes ask."""
        agent = free_ports()
        options += [f"--dashboard-agent-listen-port={agent} --metrics-export-port={agent + 1} --block"]
        options += ["--min-worker-port=0 --max-worker-port=0 --object-store-memory=100000000"]
        command = ["bash", "-c", "--", f"ray start {' '.join(options)}"]
        self._pods.append(subprocess.Popen(command, env=self.environment, stdout=self._log, stderr=self._log))
        return agent

    def _wait(self, agent: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.ask(f"http://127.0.0.1:{agent}/api/healthz") != 200:  # which no probe has a token for
            assert time.monotonic() < deadline, Path(self._log.name).read_text()[-2000:]
            time.sleep(0.2)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    def ask(self, url: str) -> int:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def told(self, path: str) -> Any:
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def end(self) -> None:
        family = [child for pod in self._pods for child in psutil.Process(pod.pid).children(recursive=True)]
        for process in (*self._pods, *family):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for pod in self._pods:
            pod.wait()
        self._log.close()


@contextlib.contextmanager
def running(cluster: Document, home: Path) -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:  # short: there are sockets in it
        made = Cluster(cluster, Path(folder), home)
        try:
            made.start()
            yield made
        finally:
            made.end()


@pytest.mark.slow
def test_a_job_runs_as_its_manifest_says(small: Document, tmp_path: Path) -> None:
    small["storage"] = f"file://{tmp_path}/store"
    small["dataset"] = {**small["dataset"], "path": f"file://{small['dataset']['path']}"}
    small["train"] |= {"epochs": 1, "workers": 1}
    small["resources"] = {"train": {"cpus": 1, "memory": "1GiB"}}
    data = Path(small["dataset"]["path"].removeprefix("file://"))
    spec = load_spec(small)
    text = written(spec, Options("job", "train", volumes=[f"store:{tmp_path}", f"data:{data}"]))
    config, job = yaml.safe_load_all(text)
    (tmp_path / "spec.yaml").write_text(config["data"]["spec.yaml"])
    home = tmp_path / "home"
    home.mkdir()
    with running(job["spec"]["rayClusterSpec"], home) as cluster:
        assert cluster.ask(f"{cluster.url}/api/jobs/") == 401
        command = kuberay.submission(job, cluster.url, "an-attempt").replace("/etc/raygen", str(tmp_path))
        done = subprocess.run(
            ["bash", "-ce", "--", command], env=cluster.environment, cwd=home, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"generator  file://{tmp_path}/store/small/generators/" in done.stdout
        ((told,),) = [cluster.told("/api/jobs/")]
        assert told["runtime_env"]["env_vars"]["RAYGEN_JOB"] == job["metadata"]["name"]
        nodes = cluster.told("/api/v0/nodes")["data"]["result"]["result"]
        (head,) = (node["node_id"] for node in nodes if node["is_head_node"])
        assert told["driver_node_id"] == head, "its driver is on a worker, which may go"
        assert len(nodes) == 1 + 1
