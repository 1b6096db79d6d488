"""Requests per second of an endpoint against LitServe and against plain Ray Serve, with the same generator and answers.

Each server runs by itself, on the same machine and over the loopback, and answers questions for one row of the default
conditional DCGAN, 28 × 28, each for another row, with the same bytes, which is checked before it is timed:

- *raygen*: ``raygen serve``, with so many ``--replicas`` behind HAProxy;
- *litserve*: a LitAPI that makes a batch with ``Generator.batch`` and answers with raygen's own code, one worker and one
  API server, ZeroMQ, batches of 64 that are waited for 10 ms;
- *litserve-hooks*: the same by LitServe's manual: the batch is the network's, and ``encode_response`` writes each answer;
- *plain*: a deployment of Ray Serve with FastAPI and ``@serve.batch`` that does the same, with Ray Serve's own proxy and
  settings, but for ``max_ongoing_requests``, whose 5 would be the size of a batch, and 10 ms that a batch is waited for.

Needs LitServe (``pip install -e .[bench]``) and wrk (``apt install wrk``), which asks: every client asks again as soon as it
is answered. Beside the requests per second it prints how much CPU each took, in all processes of the server.

    python benchmarks/serve.py [--seconds 60] [--clients 1 64] [--answers json png] [--replicas 1] [--turns 1]
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
from peers.answer import answered, generator

from raygen.datasets.storage import Folder
from raygen.jobs.registry import Registry
from raygen.serving import answers

TARGETS = {"json": 2.0, "png": 3.0}
KINDS = {"json": answers.JSON, "png": answers.PNG}
SEED = 5
PORT = 18100
RAYGEN = [str(Path(sys.executable).with_name("raygen")), "serve", "--insecure"]
WARM = 5
"""Seconds that are not counted."""
ASK = """
local start = 0
function request()
  start = start + 1
  local body = string.format('{"rows": 1, "start": %d, "seed": SEED, "condition": %d}', start, start % 10)
  return wrk.format("POST", "/v1/generate", {["content-type"] = "application/json", ["accept"] = "KIND"}, body)
end
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('{"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "failed": %d}', summary.requests,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
"""


def question(start: int) -> dict[str, int]:
    return {"rows": 1, "start": start, "seed": SEED, "condition": start % 10}


def promoted(folder: Path) -> None:
    """Make the generator current in a project."""
    made, project = generator(), Folder(folder)
    made.save(project / "generators" / made.digest)
    registry = Registry(project)
    registry.keep({"generator": made.digest, "verdict": "passed", "gate": [], "metrics": []})
    registry.promote(made.digest)
    schema = {"image": {"kind": "image", "height": 28, "width": 28, "channels": 1}, "label": {"kind": "category"}}
    spec = {
        "name": folder.name,
        "storage": str(folder.parent),
        "dataset": {"path": "sample:digits", "schema": schema},
        "generator": {"family": "gan", "condition": "label"},
    }
    (folder.parent / "spec.yaml").write_text(json.dumps(spec))


class Server:
    """One of them in a process group of its own, from when it answers."""

    def __init__(self, name: str, kind: str, folder: Path, replicas: int) -> None:
        peers = Path(__file__).with_name("peers")
        calls = {
            "raygen": [
                str(Path(sys.executable).with_name("raygen")),
                "serve",
                str(folder / "spec.yaml"),
                "--set",
                f"serve.replicas={json.dumps({'min': replicas, 'max': replicas})}",
                "--insecure",
                "--port",
            ],
            "litserve": [sys.executable, str(peers / "litserver.py"), KINDS[kind]],
            "litserve-hooks": [sys.executable, str(peers / "litserver.py"), KINDS[kind], "hooks"],
            "plain": [sys.executable, str(peers / "rayserver.py"), KINDS[kind]],
        }
        path = os.pathsep.join([str(peers.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        # As `raygen serve` has it: Ray's workers would come after all else that the machine has to do, LitServe's would not.
        settings = {**os.environ, "PYTHONPATH": path, "RAY_worker_niceness": "0"}
        self.log = (folder / f"{name}.log").open("wb")
        self.process = subprocess.Popen(
            [*calls[name], str(PORT)], stdout=self.log, stderr=self.log, env=settings, start_new_session=True
        )
        self.whole = psutil.Process(self.process.pid)
        for _ in range(600):
            if self.process.poll() is not None:
                break
            try:
                ask(0, kind)
                return
            except OSError:
                time.sleep(0.2)
        self.__exit__()
        raise SystemExit(f"{name} does not answer: {Path(self.log.name).read_text()[-2000:]}")

    @property
    def seconds(self) -> float:
        """Of CPU, that all its processes have taken."""
        total = 0.0
        for process in [self.whole, *self.whole.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                took = process.cpu_times()
                total += took.user + took.system
        return total

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # LitServe leaves its workers behind
        self.process.wait()


def ask(start: int, kind: str) -> bytes:
    headers = {"content-type": "application/json", "accept": KINDS[kind]}
    body = json.dumps(question(start)).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/v1/generate", body, headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        content: bytes = answer.read()
    return content


def timed(server: Server, kind: str, clients: int, seconds: int) -> dict[str, float]:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(ASK.replace("KIND", KINDS[kind]).replace("SEED", str(SEED)))
        script.flush()
        call = [
            "wrk",
            "-t1",
            f"-c{clients}",
            f"-d{seconds}s",
            "--timeout",
            "30s",
            "-s",
            script.name,
            f"http://127.0.0.1:{PORT}",
        ]
        before = server.seconds
        done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout[done.stdout.index("{") :])
    rate, cpu = found["requests"] / found["seconds"], 1000 * (server.seconds - before) / found["requests"]
    return {**found, "rate": rate, "cpu": cpu}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 64])
    parser.add_argument("--answers", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--servers", nargs="*", default=["raygen", "litserve", "litserve-hooks", "plain"])
    parser.add_argument("--replicas", type=int, default=1, help="of raygen")
    parser.add_argument("--turns", type=int, default=1)
    asked = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed\n  apt install wrk")

    made = generator()
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        promoted(folder / "digits")
        for turn in range(asked.turns):
            for kind in asked.answers:
                wanted = answered(made, KINDS[kind], [question(start) for start in range(20)])
                for server in asked.servers[:: (-1) ** turn]:
                    with Server(server, kind, folder, asked.replicas) as running:
                        assert [ask(start, kind) for start in range(20)] == wanted, f"{server} answers something else"
                        timed(running, kind, max(asked.clients), WARM)
                        for clients in asked.clients:
                            figure = timed(running, kind, clients, asked.seconds)
                            assert not figure["failed"], figure
                            found.setdefault(f"{kind}, {clients} clients", {}).setdefault(server, []).append(figure)
                            print(
                                f"{kind}, {clients} clients, {server}: {figure['rate']:,.0f} requests/s, "
                                f"p50 {figure['p50']:.1f} ms, p99 {figure['p99']:.1f} ms, CPU {figure['cpu']:.2f} ms each",
                                flush=True,
                            )
    figures = {case: {server: middle(each) for server, each in servers.items()} for case, servers in found.items()}
    ratios: dict[str, dict[str, float]] = {case: {} for case in figures}
    for case, servers in figures.items():
        for other in {*servers} - {"raygen"} if "raygen" in servers else ():
            ratios[case][other] = round(servers["raygen"]["rate"] / servers[other]["rate"], 2)
    kind = asked.answers[0]
    print(json.dumps({"name": "serve", "ratio": ratios.get(f"{kind}, {max(asked.clients)} clients", {}).get("litserve"),
                      "target": TARGETS[kind], "targets": TARGETS, "ratios": ratios, "figures": figures}))  # fmt: skip


def middle(figures: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(figure[name] for figure in figures), 2) for name in ("rate", "p50", "p99", "cpu")}


if __name__ == "__main__":
    main()
