"""What a driver is told of a cluster that it cannot connect to, within seconds. Its control service is made up."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import grpc
import pytest

from raygen.cluster import gcs
from raygen.errors import ResourceError

PYTHON = ".".join(map(str, sys.version_info[:3]))


@contextlib.contextmanager
def service(document: dict[str, str] | None = None, token: str | None = None) -> Iterator[str]:
    """A control service that knows with which versions its cluster was started; its address."""
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    messages: Any = gcs_service_pb2

    class Keys(gcs_service_pb2_grpc.InternalKVGcsServiceServicer):
        def InternalKVGet(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
            if token is not None and ("authorization", f"Bearer {token}") not in context.invocation_metadata():
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken: missing or incorrect")
            if document is None:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
            assert request.key == b"CLUSTER_METADATA"
            return messages.InternalKVGetReply(value=json.dumps(document).encode())

    server = grpc.server(ThreadPoolExecutor(1))
    gcs_service_pb2_grpc.add_InternalKVGcsServiceServicer_to_server(Keys(), server)
    port = server.add_insecure_port("0.0.0.0:0")  # Ray takes an address of the machine for its own one
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def refused(address: str) -> tuple[str, str]:
    began = time.monotonic()
    with pytest.raises(ResourceError) as caught:
        gcs.check(address)
    assert time.monotonic() - began < 10
    assert caught.value.hint
    return caught.value.what, caught.value.hint


def test_the_same_versions() -> None:
    import ray

    with service({"ray_version": ray.__version__, "python_version": PYTHON}) as address:
        gcs.check(address)
    gcs.check("local")  # a Ray of its own


def test_another_ray_or_another_python_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    with service({"ray_version": "2.48.0", "python_version": PYTHON}) as address:
        what, hint = refused(address)
        assert f"has Ray 2.48.0 on Python {PYTHON}, and here is Ray {ray.__version__} on Python {PYTHON}" in what
        assert "raygen submit" in hint
    near = f"{sys.version_info[0]}.{sys.version_info[1]}.99"
    with service({"ray_version": ray.__version__, "python_version": near}) as address:
        assert f"on Python {near}, and here is" in refused(address)[0]
        monkeypatch.setenv("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "minor")  # as Ray itself has it
        gcs.check(address)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://head:8265", "is for the dashboard"),
        ("ray://head:10001", "is for Ray Client"),
        ("head", "is no address of a cluster"),
        ("127.0.0.1:9", "no Ray cluster answers (Connection refused)"),
        ("no-such-host.invalid:6379", "no Ray cluster answers (Domain name not found"),
    ],
)
def test_what_is_no_cluster(address: str, said: str) -> None:
    what, _ = refused(address)
    assert what.startswith(f"RAY_ADDRESS={address}: ")
    assert said in what


def test_another_server_is_there() -> None:
    with HTTPServer(("0.0.0.0", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert "perhaps it is the port of the dashboard" in refused(f"127.0.0.1:{server.server_port}")[0]
        server.shutdown()
    with service(None) as address:
        assert "answers, but not to drivers of Ray" in refused(address)[0]
    with service({}) as address:
        assert "answers, but not to drivers of Ray" in refused(address)[0]


def test_one_that_takes_connections_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcs, "ANSWER_SECONDS", 1.0)
    with socket.create_server(("0.0.0.0", 0)) as silent:
        what, _ = refused(f"127.0.0.1:{silent.getsockname()[1]}")
        assert "no Ray cluster answers (" in what


CONNECT = """
from raygen.cluster.connect import connected
from raygen.errors import ResourceError
try:
    with connected(training=False):
        print("connected")
except ResourceError as error:
    print(error)
"""


def connecting(address: str, **environment: str) -> str:
    """What a process of its own says that connects: Ray asks its environment once."""
    settings = {**os.environ, "RAY_ADDRESS": address, **environment}
    done = subprocess.run([sys.executable, "-c", CONNECT], env=settings, capture_output=True, text=True, check=True)
    return done.stdout


def test_a_token_that_is_missing_or_wrong() -> None:
    with service({}, token="right") as address:
        assert "the cluster asks for a token" in refused(address)[0]
        wrong = connecting(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="wrong" * 8)
        assert wrong.startswith(f"RAY_ADDRESS={address}: the cluster refuses the token of here\n  set RAY_AUTH_MODE=token")
        assert "wrong" not in wrong
        none = connecting(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="", HOME="/nowhere")
        assert none.startswith("RAY_AUTH_MODE is token, and there is no token here\n")
