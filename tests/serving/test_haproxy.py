"""The configuration that this very Ray Serve writes for HAProxy, as raygen amends it; the environment without HAProxy."""

import logging
import os
import socket
import subprocess
import sys
import time
import tomllib
from importlib import metadata
from pathlib import Path

import psutil
import pytest

from raygen.serving import guard, haproxy

ROOT = Path(__file__).parents[2]

(ENTRY,) = (
    metadata.EntryPoint(name, value, "console_scripts")
    for name, value in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"].items()
    if name == haproxy.PROGRAM
)
INSTALLED = f"from {ENTRY.module} import {ENTRY.attr}; {ENTRY.attr}()"
"""What the script does that is installed for the machines of a cluster."""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="HAProxy comes for Linux")


STARTED = """
import os, subprocess, sys, time
from raygen.serving import haproxy
with haproxy.prepared():
    script = os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"]
    print(subprocess.Popen([script, "-db", "-f", sys.argv[1]], start_new_session=True).pid, flush=True)
    time.sleep(600)
"""


def test_it_ends_with_who_started_it_however_that_ends(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "haproxy.cfg"
    config.write_text(f"defaults\n    mode http\n    timeout client 9s\nfrontend f\n    bind 127.0.0.1:{port}\n")
    with subprocess.Popen([sys.executable, "-c", STARTED, config], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        proxy = psutil.Process(int(starter.stdout.readline()))
        end = time.monotonic() + 60
        while not listens(port):
            assert time.monotonic() < end, "it did not start"
            time.sleep(0.05)
        starter.kill()
    while proxy.is_running() and proxy.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, "it goes on"
        time.sleep(0.05)
    assert not listens(port)


def listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def test_what_ray_serve_writes(tmp_path: Path) -> None:
    from ray.serve._private import haproxy as theirs
    from ray.serve.config import HTTPOptions

    api = theirs.HAProxyApi(
        theirs.HAProxyConfig(
            http_options=HTTPOptions(host="0.0.0.0", port=8000),
            socket_path=str(tmp_path / "admin.sock"),
            server_state_base=str(tmp_path),
            server_state_file=str(tmp_path / "state"),
            bufsize=haproxy.BUFFER,
        ),
        {"http-raygen": theirs.BackendConfig("http-raygen", "/", servers=[theirs.ServerConfig("one", "127.0.0.1", 30000)])},
        str(tmp_path / "haproxy.cfg"),
    )
    api._generate_config_file_internal()
    file = tmp_path / "haproxy.cfg"
    checked = subprocess.run([sys.executable, "-c", INSTALLED, "-c", "-f", file], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    lines = file.read_text().splitlines()
    (buffer,) = (int(line.split()[1]) for line in lines if line.split()[:1] == ["tune.bufsize"])
    assert buffer > guard.MOST_BODY + guard.MOST_HEADERS + 1024  # tune.maxrewrite
    assert sorted(line.split()[1].rpartition(":")[0] for line in lines if line.split()[:1] == ["bind"]) == [
        "*", "127.0.0.1", "127.0.0.1",
    ]  # fmt: skip
    assert any(line.split() == ["timeout", "http-request", "10s"] for line in lines)
    assert not any("500.http" in line or "mode 666" in line for line in lines)


def test_without_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(haproxy, "binary", lambda: None)
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY", raising=False)
    before = dict(os.environ)
    with caplog.at_level(logging.WARNING), haproxy.prepared() as fast:
        assert not fast
        assert not any(name.startswith("RAY_SERVE_HAPROXY") for name in os.environ.keys() - before.keys())
    assert len(caplog.messages) == 1
    assert dict(os.environ) == before


def test_what_is_set_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_STATS_PORT", "12345")
    with haproxy.prepared(7.5) as fast:
        assert fast
        assert os.environ["RAY_SERVE_HAPROXY_STATS_PORT"] == "12345"
        assert os.environ["RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"] == "8"
        script = Path(os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"])
        assert (script.stat().st_mode & 0o777, script.parent.stat().st_mode & 0o777) == (0o700, 0o700)
        assert "HAProxy version" in subprocess.run([script, "-v"], capture_output=True, text=True).stdout
    assert not script.parent.exists()


def test_what_the_machines_of_a_cluster_are_told_is_what_raygen_serve_sets(tmp_path: Path) -> None:
    told = haproxy.exports(7.5)
    lines = told.splitlines()
    assert all(line.startswith("# ") for line in lines)
    (tmp_path / haproxy.PROGRAM).write_text("#!/bin/sh\n")
    (tmp_path / haproxy.PROGRAM).chmod(0o700)
    script = "\n".join(line.removeprefix("# ") for line in lines[1:]) + "\nenv"
    shell = subprocess.run(
        ["/bin/sh", "-c", script], env={"PATH": f"{tmp_path}:/bin:/usr/bin"}, capture_output=True, text=True
    )
    found = dict(line.split("=", 1) for line in shell.stdout.splitlines() if line.startswith("RAY_"))
    assert found.pop("RAY_SERVE_HAPROXY_BINARY_PATH") == str(tmp_path / haproxy.PROGRAM)
    assert found.items() <= haproxy.environment(tmp_path, 7.5).items()
    assert found["RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"] == "8"
    assert not any("_PORT" in name or str(tmp_path) in value for name, value in found.items())
