"""Does an endpoint answer, and rightly, whatever happens to it? Real load on a real one, behind HAProxy on this machine.

- *scaling*: 1 client, then 64, then 1 again, none of which tries again: how many replicas there are, how long answers take;
- *latency*: the same, where not the requests under way but the time that answers take decides how many replicas there are;
- *kills*: a replica is killed (SIGKILL) every 10 s, HAProxy and the ledger once, and another generator becomes current ten
  times. Half of those who ask are plain HTTP clients, whose failures are counted; half are ``raygen.Client``, who see none;
- *overload*: one client, then as much as there is room for, then ten times as much without regard for what is answered, then
  one client again;
- *slow*: hundreds who never finish asking, or never read what they are answered, while one client asks as usual.

Every answer is compared with the rows of the generator that its header names. The ratio is that of the cases in which all
was as it should be.

    python benchmarks/endpoint.py [--cases scaling latency kills overload slow] [--seconds 120] [--port 8000]
"""

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import psutil
import pyarrow as pa
import torch

from raygen.datasets.codec import Codec
from raygen.datasets.columns import Category
from raygen.datasets.storage import Folder
from raygen.errors import RaygenError
from raygen.generators.generator import Generator, untrained
from raygen.jobs.registry import Registry
from raygen.options import GanSpec
from raygen.serving import haproxy
from raygen.serving.client import Client
from raygen.spec import CategoryField, ImageField, ServeSpec

SEED, ROWS, MOST = 3, 4096, 4
ARROW = "application/vnd.apache.arrow.stream"
REPLICA, LEDGER = "ray::ServeReplica:raygen:raygen", "ray::ServeReplica:raygen:ledger"
RECOVERED = 5.0
"""Seconds after an overload in which who asks has to be answered as before."""


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


class Project:
    """Two generators of 28×28 pictures that have learnt nothing, and the rows that they make."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.registry = folder, Registry(Folder(folder))
        self.rows: dict[str, pa.Table] = {}
        for seed in (0, 1):
            torch.manual_seed(seed)
            fields = {"image": ImageField(height=28, width=28, channels=1), "label": CategoryField()}
            schema = pa.schema([pa.field("image", pa.binary()), pa.field("label", pa.int64())])
            codec = Codec.of(fields, schema, {"label": Category(tuple(range(10)), (1,) * 10)})
            spec = GanSpec(condition="label")
            made = Generator(spec, codec, untrained(spec, codec, torch.device("cpu")).sampler().eval())
            made.save(Folder(folder) / "generators" / made.digest)
            self.registry.keep({"generator": made.digest, "verdict": "passed", "gate": [], "metrics": []})
            self.rows[made.digest] = made.sample(range(ROWS), SEED)
        self.registry.promote(next(iter(self.rows)))

    def swap(self) -> None:
        """Let the other one be current."""
        current = self.registry.current()
        assert current is not None
        self.registry.promote(next(digest for digest in self.rows if digest != current.digest))


class Asked:
    """What was asked, from many threads: how long answers took, how many were wrong, and what was no answer."""

    def __init__(self, project: Project, url: str) -> None:
        self.project, self.url = project, url
        self.taken: list[tuple[float, float]] = []  # when, and how long
        self.wrong, self.failed = 0, Counter[str]()
        self.unhinted = 0
        self.stop, self.ended = threading.Event(), 0.0

    @contextlib.contextmanager
    def by(self, clients: int, ask: Callable[["Asked", random.Random], None]) -> Iterator[None]:
        """So many threads that ask one after another, while the block runs."""
        stop = self.stop = threading.Event()

        def loop(number: int) -> None:
            draw = random.Random(number)
            while not stop.is_set():
                ask(self, draw)

        threads = [threading.Thread(target=loop, args=(number,), daemon=True) for number in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            self.ended = time.monotonic()
            for thread in threads:
                thread.join(120)

    def right(self, began: float, digests: list[str], table: pa.Table, start: int) -> None:
        """An answer, which is rows of one of these generators or wrong."""
        self.taken.append((began, time.monotonic() - began))
        wanted = (self.project.rows[digest].slice(start, len(table)) for digest in digests if digest in self.project.rows)
        if len(table) == 0 or not any(table.equals(rows) for rows in wanted):
            self.wrong += 1

    def percentiles(self, since: float = 0.0) -> str:
        taken = [seconds for began, seconds in self.taken if began >= since]
        if not taken:
            return "none"
        p50, p99 = np.percentile(taken, (50, 99)) * 1000
        return f"{len(taken)} answers, p50 {p50:.0f} ms, p99 {p99:.0f} ms, longest {max(taken) * 1000:.0f} ms"


_of_thread = threading.local()


def plainly(asked: Asked, draw: random.Random, rows: int | None = None, pause: float | None = None) -> bool:
    """Ask once, by plain HTTP, and pause where there was no answer: as long as it says, or else so many seconds."""
    http = getattr(_of_thread, "http", None)
    if http is None:
        http = _of_thread.http = httpx.Client(base_url=asked.url, timeout=70, headers={"accept": ARROW})
    count = rows or draw.randint(1, MOST)
    start, began = draw.randrange(ROWS - count), time.monotonic()
    try:
        answer = http.post("/v1/generate", json={"rows": count, "start": start, "seed": SEED})
    except httpx.TransportError as error:
        asked.failed[type(error).__name__] += 1
        asked.stop.wait(0.2 if pause is None else pause)
        return False
    if answer.status_code == 200:
        asked.right(began, [answer.headers["raygen-digest"]], pa.ipc.open_stream(answer.content).read_all(), start)
        return True
    asked.failed[str(answer.status_code)] += 1
    if "retry-after" not in answer.headers or answer.headers["content-type"] != "application/problem+json":
        asked.unhinted += 1
    asked.stop.wait(float(answer.headers.get("retry-after", 0.2)) if pause is None else pause)
    return False


def by_client(asked: Asked, draw: random.Random) -> None:
    """Ask by ``raygen.Client``, which tries again; it does not tell which generator it was, so it is one of them all."""
    client = getattr(_of_thread, "client", None)
    if client is None:
        client = _of_thread.client = Client(asked.url)
    count = draw.randint(1, MOST)
    start, began = draw.randrange(ROWS - count), time.monotonic()
    try:
        table = client.generate(count, start=start, seed=SEED)
    except RaygenError as error:
        asked.failed[error.what] += 1
        return
    asked.right(began, [*asked.project.rows], table, start)


class Processes:
    """Those of this endpoint: below this process, by what Ray calls them."""

    def named(self, *names: str) -> list[psutil.Process]:
        found = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if any(name in " ".join(process.cmdline()[:2]) for name in names):
                    found.append(process)
        return found

    def replicas(self) -> list[psutil.Process]:
        return self.named(REPLICA)

    def memory(self) -> float:
        """MB that its replicas and proxies hold."""
        total = 0
        for process in self.named("ray::ServeReplica", "ray::ProxyActor", "ray::HAProxyManager", "/haproxy"):
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        return total / 1e6


@contextlib.contextmanager
def endpoint(folder: Path, port: int, cpus: int, **options: Any) -> Iterator[tuple[Project, str]]:
    project = Project(folder)
    with haproxy.prepared() as fast:
        assert fast, "there is no HAProxy"
        import ray

        ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        from raygen.serving.deployment import served

        try:
            with served({"digits": str(folder)}, ServeSpec.model_validate(options), None, port=port) as url:
                yield project, url
                began = time.monotonic()
            say(f"stopped within {time.monotonic() - began:.1f} s")
        finally:
            ray.shutdown()


def scaling(folder: Path, port: int, seconds: float, **options: Any) -> bool:
    """From 1 to 3 replicas, and back."""
    replicas = {"min": 1, "max": 3, "up_s": 2, "down_s": 10}
    counts: list[int] = []
    with endpoint(folder, port, 4, replicas=replicas, **options) as (project, url):
        asked, processes = Asked(project, url), Processes()

        def phase(name: str, clients: int, length: float, until: int | None = None) -> None:
            began, most = time.monotonic(), 0
            at: dict[int, float] = {}
            with asked.by(clients, lambda asked, draw: void(plainly(asked, draw))):
                while time.monotonic() - began < length or (
                    until and counts[-1:] != [until] and time.monotonic() - began < 90
                ):
                    counts.append(len(processes.replicas()))
                    at.setdefault(counts[-1], time.monotonic() - began)
                    most = max(most, counts[-1])
                    time.sleep(0.5)
            reached = ", ".join(f"{n} after {when:.0f} s" for n, when in at.items())
            say(f"{name}: {clients} clients: {asked.percentiles(began)}; replicas: {reached}")

        phase("before", 1, seconds / 8)
        phase("during", 64, seconds / 4, until=3)
        phase("after", 1, seconds / 8, until=1)
        say(f"failed: {dict(asked.failed)}; wrong: {asked.wrong}")
        return max(counts) == 3 and counts[-1] == 1 and not asked.failed and not asked.wrong


def void(_: Any) -> None: ...


def kills(folder: Path, port: int, seconds: float) -> bool:
    """Two replicas, of which one is killed every ten seconds."""
    with endpoint(folder, port, 4, replicas={"min": 2, "max": 2}) as (project, url):
        plain, clients, processes, draw = Asked(project, url), Asked(project, url), Processes(), random.Random(0)
        killed, swapped, proxies, ledgers = 0, 0, 0, 0
        began = time.monotonic()
        with plain.by(8, lambda asked, draw: void(plainly(asked, draw))), clients.by(8, by_client):
            while (now := time.monotonic() - began) < seconds:
                if now > (killed + 1) * 10 - 5 and (there := processes.replicas()):
                    draw.choice(there).send_signal(signal.SIGKILL)
                    killed += 1
                if now > (swapped + 1) * seconds / 11:
                    project.swap()
                    swapped += 1
                if now > seconds / 4 and not ledgers:
                    for process in processes.named(LEDGER):
                        process.send_signal(signal.SIGKILL)
                        ledgers += 1
                if now > seconds / 2 and not proxies:
                    for process in processes.named("/haproxy"):
                        process.send_signal(signal.SIGKILL)
                        proxies += 1
                time.sleep(0.1)
        say(f"{killed} replicas killed, HAProxy {proxies}, the ledger {ledgers}, {swapped} times another generator")
        say(f"plain HTTP: {plain.percentiles()}; failed: {dict(plain.failed)}; wrong: {plain.wrong}")
        say(f"raygen.Client: {clients.percentiles()}; failed: {dict(clients.failed)}; wrong: {clients.wrong}")
        return not clients.failed and not clients.wrong and not plain.wrong and bool(clients.taken) and bool(plain.taken)


def overload(folder: Path, port: int, seconds: float) -> bool:
    """One replica with room for 16 requests, of many rows each."""
    queue, rows = 16, 1000
    with endpoint(folder, port, 2, replicas={"min": 1, "max": 1}, target=8, queue=queue) as (project, url):
        processes = Processes()

        def phase(name: str, clients: int, length: float, pause: float = 0.0) -> tuple[Asked, float, float]:
            asked, held = Asked(project, url), 0.0
            began = time.monotonic()
            with asked.by(clients, lambda asked, draw: void(plainly(asked, draw, rows, pause))):
                while time.monotonic() - began < length:
                    held = max(held, processes.memory())
                    time.sleep(0.25)
            taken = time.monotonic() - began
            rate, offered = len(asked.taken) / taken, (len(asked.taken) + asked.failed.total()) / taken
            say(f"{name}: {clients} clients: {offered:.1f} requests of {rows} rows/s, {rate:.1f} answered; "
                f"{asked.percentiles()}; failed: {dict(asked.failed)}, {asked.unhinted} of them without Retry-After; "
                f"{held:.0f} MB")  # fmt: skip
            return asked, held, rate

        before, _, _ = phase("one", 1, seconds / 12)
        full, held, can = phase("full", queue, seconds / 6)
        clients = 20 * queue
        over, most, _ = phase("overload", clients, seconds / 6, pause=clients / (20 * can))
        asked, draw = Asked(project, url), random.Random(0)
        usual = 2 * max(taken for _, taken in before.taken)
        while True:
            began = time.monotonic()
            if plainly(asked, draw, rows, pause=0.0) and time.monotonic() - began <= usual:
                break
        recovered = time.monotonic() - over.ended  # with what was under way then, which is waited for first
        say(f"recovered within {recovered:.1f} s; memory {most / held:.2f} times that of as much as there is room for")
        wrong = sum(asked.wrong for asked in (before, full, over))
        only = set(over.failed) <= {"503"} and not before.failed and not over.unhinted and not wrong
        return only and bool(over.taken) and recovered <= RECOVERED and most < 1.2 * held + 50


def slow(folder: Path, port: int, seconds: float) -> bool:
    """Five hundred who never finish asking, and a hundred who never read their million rows, while one asks as usual."""
    half = b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    body = json.dumps({"rows": 1_000_000, "seed": SEED}).encode()
    head = f"POST /v1/generate HTTP/1.1\r\nHost: x\r\nAccept: {ARROW}\r\nContent-Type: application/json\r\n"
    whole = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    options = {"replicas": {"min": 1, "max": 1}, "timeout_s": 10}
    with endpoint(folder, port, 2, **options) as (project, url), contextlib.ExitStack() as stack:
        asked, processes = Asked(project, url), Processes()
        with asked.by(1, lambda asked, draw: void(plainly(asked, draw))):
            time.sleep(seconds / 12)
            say(f"before: {asked.percentiles()}; {processes.memory():.0f} MB")
            began = time.monotonic()
            unread = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(100)]
            unsent = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(500)]
            for connections, said in ((unread, whole), (unsent, half)):
                for connection in connections:
                    connection.sendall(said)
            time.sleep(seconds / 12)
            say(f"meanwhile: {asked.percentiles(began)}; {processes.memory():.0f} MB")
            told = 0
            for connection in unsent:
                connection.settimeout(30)
                told += connection.recv(100).startswith(b"HTTP/1.1 408 ")
            say(f"{told} of 500 told 408, after {time.monotonic() - began:.0f} s; failed: {dict(asked.failed)}")
            time.sleep(max(0.0, 30 - (time.monotonic() - began)))
            after = time.monotonic()
            time.sleep(seconds / 12)
            say(f"after: {asked.percentiles(after)}; {processes.memory():.0f} MB")
        return not asked.failed and not asked.wrong and told == 500


CASES: dict[str, Callable[..., bool]] = {
    "scaling": partial(scaling, target=16),
    "latency": partial(scaling, target=256, latency_s=0.1),
    "kills": kills,
    "overload": overload,
    "slow": slow,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", nargs="*", choices=[*CASES], default=[*CASES])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    held: dict[str, bool] = {}
    for case in options.cases:
        say(f"== {case}")
        with tempfile.TemporaryDirectory() as folder:
            held[case] = CASES[case](Path(folder) / "digits", options.port, options.seconds)
    ratio = sum(held.values()) / len(held)
    print(json.dumps({"name": "endpoint", "ratio": ratio, "target": 1.0, **held}))


if __name__ == "__main__":
    main()
