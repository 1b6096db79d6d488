"""``raygen cluster up``, ``status`` and ``down`` with ``ray-config.yaml`` as it is, on machines that are reached by ssh."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_files import filled, furnish
from ssh_machines import Machines, missing

RAYGEN = Path(sys.executable).with_name("raygen")
NAMES = ["head", "worker-1", "worker-2"]
CLUSTER = f"raygen-{os.getpid()}"
PATIENCE = 180.0
"""Seconds within which a machine joins, on one machine that has to be them all."""
JOB = """
import json, ray
ray.init("auto", log_to_driver=False)

@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def where():
    import socket, time
    import raygen
    time.sleep(1)
    return socket.gethostname(), raygen.__file__

tasks = [where.remote() for _ in range(2 * int(ray.cluster_resources()["CPU"]))]
print("JOB", json.dumps(sorted(set(ray.get(tasks)))))
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.skipif(missing() is not None, reason=str(missing()))]


class User:
    """Somebody at a machine of his own, which knows the file, the key and the token."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder
        (folder / "home").mkdir()
        furnish(folder, folder / "home")
        (folder / "ray-config.yaml").write_text(config)
        private = {"HOME": folder / "home", "TMPDIR": folder, "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
        self.environment = {**os.environ, **{name: str(value) for name, value in private.items()}}

    def raygen(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [RAYGEN, "cluster", *arguments],
            capture_output=True, text=True, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, timeout=300,
        )  # fmt: skip


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with Machines(tmp_path_factory.mktemp("machines"), NAMES) as machines:
        yield machines


@pytest.fixture(scope="module")
def user(machines: Machines, tmp_path_factory: pytest.TempPathFactory) -> User:
    addresses = [machines[name].address for name in NAMES]
    config = filled("local", addresses[0], ", ".join(addresses[1:]), "root")
    config = config.replace("~/.ssh/id_ed25519", str(machines.key)).replace(
        "cluster_name: raygen\n", f"cluster_name: {CLUSTER}\n"
    )
    return User(tmp_path_factory.mktemp("user"), config)


def test_a_cluster_comes_works_and_goes(machines: Machines, user: User) -> None:
    before = user.raygen("status")
    assert before.returncode == 2
    assert before.stderr.startswith(
        f"error: ray-config.yaml: the cluster {CLUSTER} is not up, as far as this machine knows\n"
    )

    up = user.raygen("up", "--yes")
    assert up.returncode == 0, up.stdout + up.stderr
    assert "Ray runtime started." in up.stdout + up.stderr
    assert up.stdout.endswith("up         the head; raygen cluster status ray-config.yaml tells when the others are, too\n")

    deadline = time.monotonic() + PATIENCE
    while len(nodes := json.loads(user.raygen("status", "--json").stdout)["nodes"]) < len(NAMES):
        assert time.monotonic() < deadline, machines["head"].run("cat /tmp/ray/session_latest/logs/monitor.*")
        time.sleep(5)
    assert [node["address"] for node in nodes] == [machines[name].address for name in NAMES]
    assert [node["head"] for node in nodes] == [True, False, False]

    while "?/" in (shown := user.raygen("status")).stdout:  # a node has come, and has not told yet what is free there
        assert time.monotonic() < deadline, shown.stdout
        time.sleep(1)
    assert shown.returncode == 0, shown.stderr
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert lines[0] == "node type CPUs GPUs memory"
    assert lines[1].startswith(f"{machines['head'].address} head 0/{os.cpu_count()} 0/0 ")
    assert lines[2].startswith(f"{machines['worker-1'].address} worker 0/")
    assert lines[-3:] == ["pending nothing", "failed nothing", "waiting nothing"]

    sent = machines["head"].run(f"cat > job.py <<'END'\n{JOB}\nEND\npython job.py", timeout=120)
    (found,) = [json.loads(line.removeprefix("JOB ")) for line in sent.splitlines() if line.startswith("JOB ")]
    assert [host for host, _ in found] == NAMES
    assert {str(Path(file).is_relative_to("/mnt/raygen-env")) for _, file in found} == {
        "True"
    }  # the wheel that came with it

    asked = "curl -s -o /dev/null -w %{http_code} http://127.0.0.1:8265/nodes?view=summary"
    assert machines["head"].run(asked).strip() == "401"  # who has no token is not let in
    assert machines["worker-2"].run("stat -c %a ~/.ray/auth_token").strip() == "600"

    down = user.raygen("down", "--yes")
    assert down.returncode == 0, down.stdout + down.stderr
    assert down.stdout.endswith("down       the head; Ray on the others ends by itself within a minute or two\n")
    assert "raylet" not in machines["head"].run("ps ax")
    assert user.raygen("status").returncode == 2
