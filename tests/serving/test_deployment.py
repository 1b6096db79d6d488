"""A whole endpoint on Ray Serve behind HAProxy: what happens to those who ask while its processes come and go."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pyarrow as pa
import pytest
from s3 import free_ports

from raygen.datasets.storage import Folder
from raygen.generators.generator import Generator
from raygen.jobs.registry import Registry
from raygen.serving.answers import ARROW

sys.path.append(str(Path(__file__).parent))
from endpoints import pictures, promoted

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="HAProxy comes for Linux")]
ROOM = 3
REPLICA = "ray::ServeReplica:raygen:raygen"
SERVE: dict[str, Any] = {"replicas": {"min": 0, "max": 1, "down_s": 4}, "target": 2, "queue": ROOM, "timeout_s": 30}


@dataclass
class Endpoint:
    process: psutil.Process
    url: str
    folder: Folder
    http: httpx.Client
    slow: socket.socket

    def ask(self, rows: int = 3, **asked: Any) -> httpx.Response:
        return self.http.post("/v1/generate", json={"rows": rows, "seed": 5, **asked}, headers={"accept": ARROW})

    def answering(self, seed: int) -> Generator:
        """A generator, once it is the one that answers."""
        made = pictures(seed)
        current = Registry(self.folder).current()
        if current is None or current.digest != made.digest:
            promoted(self.folder, made)
        self.until(60, lambda: self.ask().headers.get("raygen-digest") == made.digest)
        return made

    def processes(self, name: str) -> list[psutil.Process]:
        found = []
        for process in self.process.children(recursive=True):
            with suppress(psutil.Error):
                if any(name in word for word in process.cmdline()[:2]):
                    found.append(process)
        return found

    def until(self, seconds: float, what: Any) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, "not in time"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = Folder(tmp_path_factory.mktemp("endpoint") / "digits")
    promoted(folder, pictures(0))
    command = [sys.executable, str(Path(__file__).parent / "endpoint.py"), folder.uri, json.dumps(SERVE), str(free_ports())]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:")
            port = int(url.rpartition(":")[2])
            with httpx.Client(base_url=url, timeout=60) as http, socket.create_connection(("127.0.0.1", port)) as slow:
                slow.sendall(
                    b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
                )
                yield Endpoint(psutil.Process(process.pid), url, folder, http, slow)
        finally:
            process.stdin.close()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def right(answer: httpx.Response, made: Generator, rows: range = range(3)) -> bool:
    assert answer.status_code == 200, answer.text
    wanted = made.sample(rows, seed=5)
    return answer.headers["raygen-digest"] == made.digest and pa.ipc.open_stream(answer.content).read_all().equals(wanted)


def test_rows_are_those_of_the_generator(endpoint: Endpoint) -> None:
    made = endpoint.answering(0)
    assert right(endpoint.ask(), made)
    assert right(endpoint.ask(3000, start=60), made, range(60, 3060))


def test_one_name_for_a_request(endpoint: Endpoint) -> None:
    answer = endpoint.http.post("/v1/generate", json={"rows": 0})
    assert answer.status_code == 422
    assert answer.headers.get_list("x-request-id") == [answer.json()["request_id"]]
    assert endpoint.http.get("/healthz", headers={"x-request-id": "mine"}).headers.get_list("x-request-id") == ["mine"]
    assert endpoint.http.get("/healthz", headers={"x-request-id": "a b"}).headers["x-request-id"] != "a b"


def test_http_is_answered_on_loopback_only(endpoint: Endpoint) -> None:
    speaking = {"haproxy": 0, REPLICA: 0, "ray::ProxyActor": 0}
    for name in speaking:
        for process in endpoint.processes(name):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and _speaks_http(connection.laddr.port):
                    assert connection.laddr.ip == "127.0.0.1", (name, connection)
                    speaking[name] += 1
    assert all(speaking.values()), speaking


def test_rows_are_answered_ahead_of_ray_serve_and_behind_what_the_cluster_has_before_it(endpoint: Endpoint) -> None:
    (replica,) = endpoint.processes(REPLICA)
    listening = [found.laddr.port for found in replica.net_connections("tcp") if found.status == psutil.CONN_LISTEN]
    (port,) = filter(_speaks_http, listening)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", timeout=60) as http:
        ours = http.post("/generate", json={"rows": 1})
        theirs = http.post("/interpolate", json={"between": [0, 1], "steps": 2})
    assert [ours.status_code, theirs.status_code] == [200, 200]
    assert [len(answer.headers["x-request-id"]) for answer in (ours, theirs)] == [16, 36]  # which a UUID of Ray Serve has
    assert [answer.headers.get_list("x-passed") for answer in (ours, theirs)] == [["theirs"], ["theirs"]]


def _speaks_http(port: int) -> bool:
    """Rather than gRPC, which Ray speaks on all interfaces."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as asked:
            asked.sendall(b"GET /-/healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            return asked.recv(4) == b"HTTP"
    except OSError:
        return False


def test_the_excess_is_told_to_come_again_and_who_goes_makes_room(endpoint: Endpoint) -> None:
    with ExitStack() as stack:
        for _ in range(ROOM):  # they read nothing more, so that they stay under way
            body = {"rows": 1_000_000, "seed": 5}
            stack.enter_context(endpoint.http.stream("POST", "/v1/generate", json=body, headers={"accept": ARROW}))
        answer = endpoint.ask()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.headers["content-type"] == "application/problem+json"
        assert endpoint.http.get("/healthz").status_code == 200
    endpoint.until(10, lambda: endpoint.ask().status_code == 200)  # nobody works on their million rows any more


def test_a_promotion_reaches_the_replica(endpoint: Endpoint) -> None:
    for seed in (1, 2):
        made = endpoint.answering(seed)
        assert right(endpoint.ask(), made)


def test_a_replica_that_is_killed_while_many_ask(endpoint: Endpoint) -> None:
    made = endpoint.answering(1)
    (replica,) = endpoint.processes(REPLICA)
    with ThreadPoolExecutor(ROOM - 1) as pool:
        before = [pool.submit(endpoint.ask, 3, start=0) for _ in range(20)]
        replica.send_signal(signal.SIGKILL)
        after = [pool.submit(endpoint.ask, 3, start=0) for _ in range(20)]
        assert all(right(asked.result(), made) for asked in before + after)  # HAProxy asked another one
    assert replica not in endpoint.processes(REPLICA)


def test_nobody_asks_and_then_somebody_does(endpoint: Endpoint) -> None:
    made = endpoint.answering(1)
    (replica,) = endpoint.processes(REPLICA)
    end = time.monotonic() + 3 * SERVE["replicas"]["down_s"]
    with endpoint.http.stream("POST", "/v1/generate", json={"rows": 10**6, "seed": 5}, headers={"accept": ARROW}) as answer:
        for _ in answer.iter_raw():  # one request, which does not end
            if time.monotonic() > end:
                break
            time.sleep(0.2)
        assert right(endpoint.ask(), made)
        assert endpoint.processes(REPLICA) == [replica]  # it was busy, and so has stayed
    endpoint.until(60, lambda: not endpoint.processes(REPLICA))
    assert right(endpoint.ask(), made)


def test_a_request_that_does_not_come_to_an_end(endpoint: Endpoint) -> None:
    endpoint.slow.settimeout(20)
    answer = endpoint.slow.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer


def test_a_proxy_that_is_killed_is_replaced(endpoint: Endpoint) -> None:
    made = endpoint.answering(1)
    for process in endpoint.processes("/haproxy"):
        process.send_signal(signal.SIGKILL)

    def answered() -> bool:
        with suppress(httpx.TransportError):
            return endpoint.ask().status_code == 200
        return False

    endpoint.until(60, answered)
    assert right(endpoint.ask(), made)


def test_an_answer_that_has_begun_is_finished_when_the_endpoint_stops(endpoint: Endpoint) -> None:
    rows, parts = 200_000, io.BytesIO()
    wanted = endpoint.answering(1).sample(range(rows), seed=5)
    with endpoint.http.stream("POST", "/v1/generate", json={"rows": rows, "seed": 5}, headers={"accept": ARROW}) as answer:
        pieces = answer.iter_raw()
        parts.write(next(pieces))
        os.killpg(endpoint.process.pid, signal.SIGINT)  # as a terminal does: to all that have not left the group
        for piece in pieces:
            parts.write(piece)
    assert pa.ipc.open_stream(parts.getvalue()).read_all().equals(wanted)
