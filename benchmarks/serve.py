"""Requests per second of an endpoint against LitServe and against plain Ray Serve, with the same generator and answers.

Each server runs by itself, on the same machine and over the loopback, and answers questions for one row of the default
conditional DCGAN, 28 × 28, each for another row, with the same bytes, which is checked before it is timed:

- *raygen*: as ``raygen serve`` runs it, one replica behind HAProxy;
- *litserve*: a LitAPI that makes a batch with ``Generator.batch`` and answers with raygen's own code, one worker and one
  API server, ZeroMQ, batches of 64: the best of the settings tried (see README.md);
- *plain*: a deployment of Ray Serve with FastAPI and ``@serve.batch`` that does the same, with Ray Serve's own proxy and
  settings, but for ``max_ongoing_requests``, whose 5 would be the size of a batch.

Needs wrk, which asks: every client asks again as soon as it is answered.

    python benchmarks/serve.py [--seconds 60] [--clients 1 64] [--answers json png] [--turns 1]
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from peers.answer import answered, generator

from raygen.serving import answers

TARGETS = {"json": 2.0, "png": 3.0}
KINDS = {"json": answers.JSON, "png": answers.PNG}
AGAINST = "litserve"
SEED = 5
PORT = 18100
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


def raygen() -> None:
    import ray
    from ray import serve

    from raygen.datasets.storage import Folder
    from raygen.jobs.registry import Registry
    from raygen.serving.deployment import application
    from raygen.spec import ServeSpec

    folder = Folder(tempfile.mkdtemp())
    made = generator()
    made.save(folder / "generators" / made.digest)
    registry = Registry(folder)
    registry.keep({"generator": made.digest, "verdict": "passed", "gate": [], "metrics": []})
    registry.promote(made.digest)
    ray.init(logging_level="ERROR", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    spec = ServeSpec(replicas={"min": 1, "max": 1})
    serve.run(application({"digits": folder.uri}, spec, None, 1_000_000), name="raygen", route_prefix="/")
    wait()
    serve.shutdown()


def wait() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        signal.sigwait([signal.SIGTERM, signal.SIGINT])


class Server:
    """One of them in a process group of its own, from when it answers."""

    def __init__(self, name: str, kind: str) -> None:
        settings = dict(os.environ)
        if name == "raygen":
            settings |= {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
        peers = Path(__file__).with_name("peers")
        settings["PYTHONPATH"] = os.pathsep.join([str(peers.parent), settings.get("PYTHONPATH", "")])
        script = str(peers / {"litserve": "litserver.py", "plain": "rayserver.py"}.get(name, "../serve.py"))
        call = [sys.executable, script, *(["--serve"] if name == "raygen" else [KINDS[kind], str(PORT)])]
        self.log = tempfile.NamedTemporaryFile(prefix=f"{name}-", suffix=".log", delete=False)  # noqa: SIM115 - the process has it
        self.process = subprocess.Popen(call, stdout=self.log, stderr=self.log, env=settings, start_new_session=True)
        for _ in range(600):
            if self.process.poll() is not None:
                break
            try:
                ask(0, kind)
                return
            except OSError:
                time.sleep(0.2)
        self.__exit__()
        raise SystemExit(f"{name} does not answer: see {self.log.name}")

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


def timed(kind: str, clients: int, seconds: int) -> dict[str, Any]:
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
        done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 64])
    parser.add_argument("--answers", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--servers", nargs="*", default=["raygen", "litserve", "plain"])
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        raygen()
        return
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed\n  apt install wrk")

    made = generator()
    figures: dict[str, dict[str, list[dict[str, float]]]] = {}
    for turn in range(asked.turns):
        for kind in asked.answers:
            wanted = answered(made, KINDS[kind], [question(start) for start in range(20)])
            for name in asked.servers[:: (-1) ** turn]:
                with Server(name, kind):
                    assert [ask(start, kind) for start in range(20)] == wanted, f"{name} answers something else"
                    timed(kind, max(asked.clients), WARM)
                    for clients in asked.clients:
                        found = timed(kind, clients, asked.seconds)
                        assert not found["failed"], found
                        found["rate"] = found["requests"] / found["seconds"]
                        figures.setdefault(f"{kind}, {clients} clients", {}).setdefault(name, []).append(found)
                        print(f"{kind}, {clients} clients, {name}: {found['rate']:,.0f} requests/s, "
                              f"p50 {found['p50']:.1f} ms, p99 {found['p99']:.1f} ms", flush=True)  # fmt: skip
    print(figures)


if __name__ == "__main__":
    main()
