"""What is said of a dashboard that is none, or of another Ray, within seconds. The server is made up."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from s3 import nobody_home

from raygen.cluster import dashboard as dashboard_module
from raygen.cluster.addresses import Cluster, Token
from raygen.cluster.dashboard import Dashboard
from raygen.cluster.submit import Request, check_room, check_versions
from raygen.errors import RaygenError, ResourceError
from raygen.load import load_spec

Answers = Mapping[str, tuple[int, Any]]
"""Status and document, or text, by path."""


@contextlib.contextmanager
def server(answers: Answers) -> Iterator[Dashboard]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, document = answers.get(self.path.partition("?")[0], (404, "not found"))
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if status in (301, 302):
                self.send_header("Location", "https://ray.example.com/?token=secret")
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_GET  # noqa: N815 - the names that are wanted

        def log_message(self, *arguments: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, args=[0.05], daemon=True).start()
        try:
            yield Dashboard(Cluster("lab", f"http://127.0.0.1:{http.server_port}", Token("secret", "a file")))
        finally:
            http.shutdown()


def cluster(ray: str, python: str = "3.11.7") -> Answers:
    metadata = {"rayVersion": ray, "pythonVersion": python}
    return {"/api/version": (200, {"ray_version": ray}), "/api/v0/cluster_metadata": (200, {"data": metadata})}


@contextlib.contextmanager
def refused(*said: str) -> Iterator[None]:
    began = time.monotonic()
    with pytest.raises(ResourceError) as caught:
        yield
    assert time.monotonic() - began < 10
    assert caught.value.what.startswith("lab (http://127.0.0.1:")
    assert all(part in caught.value.what for part in said), caught.value.what
    assert caught.value.hint
    assert "secret" not in str(caught.value)


def test_the_same_minor_version_will_do() -> None:
    import ray

    with server(cluster(ray.__version__)) as dashboard:
        assert check_versions(dashboard) == ray.__version__
    patched = ".".join([*ray.__version__.split(".")[:2], "99"])
    with server(cluster(patched)) as dashboard:
        assert check_versions(dashboard) == patched
    with server({"/api/version": (200, {"ray_version": patched})}) as dashboard:  # which does not tell its Python
        assert check_versions(dashboard) == patched


def test_another_ray_and_another_python_are_told_with_both_versions() -> None:
    import ray

    with server(cluster("2.48.0")) as dashboard, refused("has Ray 2.48.0", f"here is Ray {ray.__version__}"):
        check_versions(dashboard)
    with server(cluster(ray.__version__, "3.9.1")) as dashboard, refused("has Python 3.9.1, and raygen needs >=3.11"):
        check_versions(dashboard)


def test_what_answers_is_no_dashboard() -> None:
    with server({}) as dashboard, refused("answers, but is no dashboard of Ray"):
        dashboard.version()
    with server({"/api/version": (200, b"<html>Welcome</html>")}) as dashboard, refused("is no dashboard of Ray"):
        dashboard.version()
    with server({"/api/jobs/": (404, "")}) as dashboard, refused("is no dashboard of Ray"):
        dashboard.jobs()


def test_what_it_refuses_is_told_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard_module, "AGENT_SECONDS", 0.5)  # for which it may have nobody yet who runs jobs
    answers = {
        "/api/jobs/": (500, b"Traceback ...\nException: No available agent to submit job\n."),
        "/api/version": (403, ""),
    }
    with server(answers) as dashboard:
        with refused("HTTP 500: Exception: No available agent to submit job"):
            dashboard.submit("raygen-1", {})
        with refused("refuses the token of a file"):
            dashboard.version()
    for status in (400, 500):  # of Ray, the latter
        with server({"/api/jobs/": (status, b"ValueError: Job with submission_id x already exists.")}) as dashboard:
            assert dashboard.submit("x", {}) is False


def test_somebody_who_runs_jobs_comes_a_little_later() -> None:
    answers: dict[str, tuple[int, Any]] = {"/api/jobs/": (500, b"Exception: No available agent to submit job")}
    with server(answers) as dashboard:
        threading.Timer(0.5, answers.update, [{"/api/jobs/": (200, {})}]).start()
        assert dashboard.submit("raygen-1", {}) is True


def test_what_stands_before_it() -> None:
    """An ingress that sends on elsewhere, where a job that is sent would become a question; one behind which nobody is."""
    with server({"/api/version": (301, ""), "/api/jobs/": (302, ""), "/api/v0/nodes": (503, "")}) as dashboard:
        with refused("sends on to https://ray.example.com/"):
            dashboard.version()
        with refused("sends on to https://ray.example.com/"):
            dashboard.submit("raygen-1", {})
        with refused("gets no answer from it (HTTP 503)"):
            dashboard.nodes()


@pytest.mark.parametrize("said", [{"version": "1"}, [], {"ray_version": None}])
def test_what_answers_may_be_something_else(said: Any) -> None:
    with server({"/api/version": (200, said), "/api/v0/nodes": (200, said)}) as dashboard:
        with refused("answers, but is no dashboard of Ray"):
            check_versions(dashboard)
        with refused("answers, but is no dashboard of Ray"):
            dashboard.nodes()


def test_one_that_takes_connections_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dashboard = Dashboard(Cluster("lab", f"http://127.0.0.1:{silent.getsockname()[1]}"))
        with refused("no dashboard of Ray answers (nothing comes within seconds)"):
            dashboard.version()


def test_one_behind_a_firewall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard_module, "CONNECT_SECONDS", 0.5)
    with nobody_home() as url, refused("no dashboard of Ray answers (nothing comes within seconds)"):
        Dashboard(Cluster("lab", url)).version()


def test_no_room_and_no_shared_storage() -> None:
    nodes = [
        {"node_id": str(number), "is_head_node": number == 0, "state": state, "labels": {}, "resources_total": {"CPU": 4.0}}
        for number, state in enumerate(("ALIVE", "ALIVE", "DEAD"))
    ]
    answers = {
        "/api/v0/nodes": (200, {"data": {"result": {"result": nodes}}}),
        "/api/cluster_status": (200, {"data": {"clusterStatus": None}}),
    }
    document = {
        "name": "people",
        "storage": "s3://data/store",
        "dataset": {"path": "s3://data/a.parquet", "schema": {"age": {"kind": "number"}}},
        "generator": {"family": "autoregressive"},
        "gate": [],
    }
    with server(answers) as dashboard:
        check_room(dashboard, Request("train", load_spec(document)))
        with pytest.raises(RaygenError, match=r"train asks for .* 1 GPU.* the cluster has 2 nodes with 0 GPUs"):
            check_room(dashboard, Request("train", load_spec({**document, "resources": {"train": {"gpus": 1}}})))
        with pytest.raises(RaygenError, match=r"storage: /data is a place of one machine, and the cluster has 2"):
            check_room(dashboard, Request("train", load_spec({**document, "storage": "/data"})))
