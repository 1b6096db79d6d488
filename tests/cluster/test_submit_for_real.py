"""Jobs that are sent to a real cluster with a dashboard and a token, by clients that are processes of their own.

The drivers do little; what they do is said by the name of the spec.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from heads import PATIENCE, SECRET, Client, Head, head, package
from s3 import Fault, Proxy

DRIVER = """
import json, os, signal, sys, time
import yaml
import raygen

what = yaml.safe_load(open("spec.yaml"))["name"]
print(f"begun: {' '.join(sys.argv[1:])} as {os.environ['RAYGEN_JOB']}", flush=True)
for done in range(3):
    line = {"raygen": "progress", "name": "augment", "done": done, "total": 4, "unit": "rows", "rate": 20.0, "note": ""}
    print(json.dumps(line), file=sys.stderr, flush=True)
if what == "tells":
    import ray
    ray.init(log_to_driver=False, logging_level="ERROR")
    there = ray.get(ray.remote(num_cpus=1)(lambda: __import__("raygen").__file__).remote())
    print(f"code: {raygen.__file__} {there}")
    print(f"version: {__import__('importlib.metadata').metadata.version('raygen')}, folder: {os.listdir()}")
    print(f"secret: {len(os.environ['CREDENTIAL'])} characters")
if what == "fails":
    print("error: the gate was not passed\\n  improve it", file=sys.stderr)
    sys.exit(3)
if what == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if what == "counts":
    for number in range(100):
        print(f"line {number} of a hundred: grün", flush=True)
        time.sleep(0.03)
if what in ("waits", "stubborn"):
    time.sleep(600)
print("end: grün")
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Client:
    folder = tmp_path_factory.mktemp("client")
    for name in ("tells", "fails", "waits", "stubborn", "counts"):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(document(name)))
    return Client(package(tmp_path_factory.mktemp("package"), DRIVER), folder, {})


@pytest.fixture(scope="module")
def cluster(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with head(tmp_path_factory.mktemp("home"), token=SECRET) as cluster:
        client.environment = cluster.environment
        yield cluster


def document(name: str) -> dict[str, Any]:
    schema = {"age": {"kind": "number"}, "income": {"kind": "category"}}
    return {
        "name": name,
        "storage": "/nowhere/store",
        "dataset": {"path": "s3://data/adult.parquet", "schema": schema},
        "generator": {"family": "autoregressive"},
        "gate": [],
        "augment": {"rows": 100},
    }


def attempts(cluster: Head, name: str) -> list[dict[str, Any]]:
    """What Ray says of the attempts of a job, the first one first."""
    jobs = [job for job in cluster.get("/api/jobs/").json() if f"-{name}-" in (job["submission_id"] or "")]
    return sorted(jobs, key=lambda job: (len(job["submission_id"]), job["submission_id"]))


def wait_for(met: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := met()):
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)
    return found


def is_running(cluster: Head, name: str, number: int) -> bool:
    found = attempts(cluster, name)
    return len(found) >= number and found[number - 1]["status"] == "RUNNING"


def name_of(done: "subprocess.CompletedProcess[str]") -> str:
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("job ")]
    return line.split()[1].strip(",:")


@pytest.mark.slow
def test_a_job_runs_the_code_that_was_sent_and_once(cluster: Head, client: Client) -> None:
    secret = "hunter2" * 5
    submit = ("submit", "tells.yaml", "--job", "augment", "--overwrite", "--env", "CREDENTIAL")
    done = client(*submit, CREDENTIAL=secret)
    assert done.returncode == 0, done.stderr
    name = name_of(done)
    assert f"begun: augment spec.yaml --overwrite as {name}\n" in done.stdout
    (driver, worker) = next(line for line in done.stdout.splitlines() if line.startswith("code: ")).split()[1:]
    assert driver == worker
    assert "runtime_resources" in driver  # and not what is installed there
    assert "folder: ['spec.yaml']" in done.stdout
    assert "secret: 35 characters" in done.stdout
    assert done.stdout.endswith("end: grün\n")
    assert "Running entrypoint" not in done.stdout
    assert '"raygen"' not in done.stdout + done.stderr  # progress is no JSON for people

    again = client(*submit, CREDENTIAL=secret)
    assert again.returncode == 0, again.stderr
    assert f"{name}: has succeeded" in again.stdout
    assert "begun" not in again.stdout
    (job,) = attempts(cluster, "tells")
    assert "Traceback" not in done.stderr + again.stderr

    for text in (done.stdout, done.stderr, again.stdout, again.stderr, job["entrypoint"], json.dumps(job["metadata"])):
        assert secret not in text
        assert SECRET not in text
    logs = client("jobs", "logs", name)
    assert logs.stdout == done.stdout[done.stdout.index("begun: ") :]
    for arguments in (["list", "--json"], ["status", name, "--json"]):
        assert secret not in client("jobs", *arguments).stdout

    retried = client("jobs", "retry", name)  # without the spec and the variable
    assert retried.returncode == 0, retried.stderr
    assert f"job        {name}, attempt 2\n" in retried.stdout
    assert "secret: 35 characters" in retried.stdout
    assert f"as {name}\n" in retried.stdout


def test_a_job_that_fails_ends_with_its_own_exit_code_and_is_another_attempt_the_next_time(
    cluster: Head, client: Client
) -> None:
    for number in (1, 2):
        done = client("submit", "fails.yaml")
        name = name_of(done)
        assert done.returncode == 3, done.stderr
        assert f"job        {name}, attempt {number}\n" in done.stdout
        assert "error: the gate was not passed" in done.stdout
        assert done.stderr == (
            f"error: attempt {number} of {name} has failed with exit code 3\n"
            f"  to go on from there: raygen jobs retry {name}\n"
        )
    assert len(attempts(cluster, "fails")) == 2
    (entry,) = [job for job in json.loads(client("jobs", "list", "--json").stdout) if job["name"] == "fails"]
    assert entry == {
        **entry, "id": f"{name}-2", "job": name, "attempt": 2, "state": "failed", "exit_code": 3,
        "output": "/nowhere/store/fails/dataset",
    }  # fmt: skip
    assert (entry["progress"]["done"], entry["progress"]["rate"]) == (2, 20.0)
    shown = client("jobs", "status", name).stdout
    assert "attempt    1: failed with exit code 3, since " in shown
    assert "attempt    2: failed with exit code 3, since " in shown
    assert "progress   augment   50 %  2/4 rows  20 rows/s" in shown
    assert "output     /nowhere/store/fails/dataset\n" in shown
    table = client("jobs", "list").stdout
    assert table.split("\n")[0].split() == ["job", "state", "attempt", "progress", "speed", "since", "took", "output"]
    (row,) = [line for line in table.splitlines() if name in line]
    assert row.split()[:8] == [name, "failed", "2", "augment", "50", "%", "20", "rows/s"]


@pytest.mark.slow
def test_two_at_once_are_one_job_that_is_left_come_back_to_and_stopped(cluster: Head, client: Client) -> None:
    both = [client.start("submit", "waits.yaml") for _ in range(2)]
    wait_for(lambda: is_running(cluster, "waits", 1))
    (job,) = attempts(cluster, "waits")
    name = job["submission_id"]
    third = client.start("jobs", "logs", name.rpartition("-")[2][:6], "--follow")
    for process in (*both, third):
        assert process.stdout is not None
        wait_for(lambda process=process: process.stdout.readline().startswith("begun"))

    both[0].send_signal(signal.SIGINT)
    _, err = both[0].communicate(timeout=PATIENCE)
    assert both[0].returncode == 130
    assert err == (
        f"detached; the job goes on\n  come back  raygen jobs logs {name} --follow\n  stop it    raygen jobs stop {name}\n"
    )
    busy = client("jobs", "retry", name)
    assert busy.returncode == 2
    assert f"{name}: attempt 1 is running" in busy.stderr

    began = time.monotonic()
    stopped = client("jobs", "stop", name)
    assert time.monotonic() - began < 10
    assert stopped.returncode == 0, stopped.stderr
    assert f"stopped    {name}, attempt 1\ngo on      raygen jobs retry {name}\n" == stopped.stdout
    for process in (both[1], third):
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 143
        assert f"error: attempt 1 of {name} has been stopped" in err
    assert "has been stopped" in client("jobs", "stop", name).stdout

    retries = [client.start("jobs", "retry", name, "--no-follow") for _ in range(2)]
    for process in retries:
        out, err = process.communicate(timeout=PATIENCE)
        # one may come when the other's is there already
        assert (process.returncode, f"job        {name}, attempt 2\n" in out) in ((0, True), (2, False)), err
    assert {process.returncode for process in retries} >= {0}
    assert [job["submission_id"] for job in attempts(cluster, "waits")] == [name, f"{name}-2"]
    wait_for(lambda: is_running(cluster, "waits", 2))
    assert client("jobs", "stop", f"{name}-2").returncode == 0


@pytest.mark.slow
def test_what_does_not_want_to_stop_is_stopped_within_ten_seconds(cluster: Head, client: Client) -> None:
    assert client("submit", "stubborn.yaml", "--no-follow").returncode == 0
    wait_for(lambda: is_running(cluster, "stubborn", 1) and "begun" in client("jobs", "logs", "raygen-run-stubborn").stdout)
    began = time.monotonic()
    assert client("jobs", "stop", "raygen-run-stubborn").returncode == 0
    assert time.monotonic() - began < 10
    assert attempts(cluster, "stubborn")[0]["status"] == "STOPPED"


def test_a_driver_that_is_killed_is_told_of_and_begun_again(cluster: Head, client: Client) -> None:
    with client.start("submit", "waits.yaml", "--set", "seed=9", "--set", "augment.rows=9") as wrong:
        assert wrong.wait(PATIENCE) == 2  # there is no such key
    following = client.start("submit", "waits.yaml", "--set", "augment.rows=9")
    assert following.stdout is not None
    wait_for(lambda: following.stdout.readline().startswith("begun"))
    (driver,) = [p for p in psutil.process_iter() if is_driver_of(p, cluster)]
    driver.kill()
    _, err = following.communicate(timeout=PATIENCE)
    assert following.returncode == 137, err
    assert "has failed with exit code 137" in err


def is_driver_of(process: psutil.Process, cluster: Head) -> bool:
    try:
        return process.cmdline()[1:4] == ["-m", "raygen", "run"] and process.environ().get("HOME") == str(cluster.home)
    except (psutil.Error, IndexError):
        return False


def test_connections_that_break_lose_nothing_and_repeat_nothing(cluster: Head, client: Client) -> None:
    with Proxy(cluster.port) as proxy:
        proxy.order(
            Fault("answer", "reset", after=1500, times=1, match="^GET /api/v0/logs/stream"),
            Fault("answer", "close", after=2500, times=1, match="^GET /api/v0/logs/stream"),
            Fault("request", "reset", times=2, match="^GET /api/jobs/raygen-run-counts"),
        )
        done = client("submit", "counts.yaml", RAY_ADDRESS=proxy.url)
        assert len(proxy.struck) >= 3
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    begun = next(number for number, line in enumerate(lines) if line.startswith("begun"))
    assert lines[begun + 1 :] == [*(f"line {number} of a hundred: grün" for number in range(100)), "end: grün"]


BLOCKED = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ray", "torch", "pyarrow", "pandas", "numpy", "PIL", "safetensors", "s3fs"}:
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Nothing())
from raygen.cli import main
main()
"""


def test_a_client_needs_neither_torch_nor_arrow_nor_ray(cluster: Head, client: Client) -> None:
    environment = {**os.environ, **client.environment, "PYTHONPATH": str(client.package)}
    for arguments in (["submit", "fails.yaml", "--dry-run"], ["jobs", "list"], ["jobs", "--help"], ["submit", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", BLOCKED, *arguments], env=environment, cwd=client.folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_what_is_wrong_with_the_address_or_the_token(cluster: Head, client: Client, tmp_path: Path) -> None:
    gcs, nothing = f"http://127.0.0.1:{cluster.port + 1}", "http://127.0.0.1:9"
    refused = {
        ("--address", gcs): "is not the dashboard, but the port for drivers",
        ("--address", nothing): "no dashboard of Ray answers (Connection refused)",
        ("--address", f"https://127.0.0.1:{cluster.port}"): "no secure connection",
        ("--address", cluster.url, "RAY_AUTH_TOKEN", "f" * 64): "refuses the token of RAY_AUTH_TOKEN",
        ("--address", cluster.url, "RAY_AUTH_MODE", "disabled"): "asks for a token, and there is none here",
    }
    for (*option, last), said in refused.items():
        arguments, environment = (option[:2], {option[2]: last}) if len(option) == 3 else ([*option, last], {})
        for command in (["jobs", "list"], ["submit", "fails.yaml"]):
            began = time.monotonic()
            done = client(*command, *arguments, **environment)
            assert time.monotonic() - began < 10
            assert done.returncode == 2
            assert said in done.stderr.splitlines()[0]
            assert len(done.stderr.splitlines()) == 2
            assert "f" * 64 not in done.stderr
    done = client("submit", "fails.yaml", "--job", "train", "--set", "resources.train.gpus=1")
    assert done.returncode == 2
    assert "train asks for 1 CPU and 1 GPU; the cluster has 1 node with 0 GPUs" in done.stderr
    named = cluster.home / ".config" / "raygen" / "clusters.yaml"
    named.parent.mkdir(parents=True)
    (tmp_path / "token").write_text(f"{SECRET}\n")
    named.write_text(f"lab: {{address: '{cluster.url}', token_file: {tmp_path}/token}}\n")
    done = client("jobs", "list", "--address", "lab", RAY_AUTH_MODE="disabled", RAY_ADDRESS=nothing)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_cluster_without_tokens(client: Client, tmp_path: Path) -> None:
    with head(tmp_path) as cluster:
        done = Client(client.package, client.folder, cluster.environment)("submit", "fails.yaml")
        assert done.returncode == 3, done.stderr
        assert "error: the gate was not passed" in done.stdout
