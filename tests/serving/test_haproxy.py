"""The configuration that this very Ray Serve writes for HAProxy, as raygen amends it; the environment without HAProxy."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raygen.serving import haproxy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="HAProxy comes for Linux")


def test_what_ray_serve_writes(tmp_path: Path) -> None:
    from ray.serve._private import haproxy as theirs
    from ray.serve.config import HTTPOptions

    api = theirs.HAProxyApi(
        theirs.HAProxyConfig(
            http_options=HTTPOptions(host="0.0.0.0", port=8000),
            socket_path=str(tmp_path / "admin.sock"),
            server_state_base=str(tmp_path),
            server_state_file=str(tmp_path / "state"),
        ),
        {"http-raygen": theirs.BackendConfig("http-raygen", "/", servers=[theirs.ServerConfig("one", "127.0.0.1", 30000)])},
        str(tmp_path / "haproxy.cfg"),
    )
    api._generate_config_file_internal()
    file = tmp_path / "haproxy.cfg"
    file.write_text(haproxy.amended(file.read_text()))
    path = haproxy.binary()
    assert path is not None
    checked = subprocess.run([path, "-c", "-f", str(file)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    lines = file.read_text().splitlines()
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
