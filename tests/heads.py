"""Real Ray clusters of one machine, with a dashboard, to which jobs are sent by a client that has only the command line.

    with head(token="…") as cluster:
        done = cluster.raygen("submit", "spec.yaml")

``ray start`` runs with ports and folders of its own, and is killed by its process id.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests
from s3 import free_ports

BIN = Path(sys.executable).parent
PATIENCE = 200.0
"""Seconds within which a head is up, on a machine that has much else to do."""
SECRET = "0123456789abcdef" * 4


@dataclass
class Head:
    """A cluster's head.

    Attributes:
        port: of its dashboard; the next one is that of its control service, the one after it that of Ray Client.
        token: that it asks for, if any.
    """

    port: int
    token: str | None
    home: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Of a client of it, which is on another machine."""
        auth = (
            {"RAY_AUTH_MODE": "disabled"} if self.token is None else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        )
        return {**auth, "RAY_ADDRESS": self.url, "HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home / ".config")}

    def get(self, path: str) -> requests.Response:
        """Asks the dashboard, by other means than raygen's."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return requests.get(self.url + path, headers=headers, timeout=10)


@contextlib.contextmanager
def head(home: Path, token: str | None = None, cpus: int = 2) -> Iterator[Head]:
    """A head that is up, with its dashboard and what runs its jobs.

    Args:
        home: of the users of the cluster and of its clients; an empty folder.
    """
    port = free_ports()
    ports = {
        "dashboard-port": port,
        "port": port + 1,
        "ray-client-server-port": port + 2,
        "dashboard-agent-listen-port": port + 3,
    }
    options = {**ports, "min-worker-port": 0, "max-worker-port": 0, "num-cpus": cpus, "object-store-memory": 100_000_000}
    cluster = Head(port, token, home)
    # As on a machine where Ray is in an environment that nobody has activated, and raygen is in none.
    settings = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "RAY_ADDRESS")
    }
    settings |= {**cluster.environment, "RAY_USAGE_STATS_ENABLED": "0", "PATH": _without(BIN)}
    del settings["RAY_ADDRESS"]
    with tempfile.TemporaryDirectory(
        prefix="ray-", ignore_cleanup_errors=True
    ) as folder:  # short, for there are sockets in it
        command = [BIN / "ray", "start", "--head", "--block", f"--temp-dir={folder}", "--include-dashboard=true"]
        command += [f"--{name}={value}" for name, value in options.items()]
        with (home / "ray.log").open("w") as log:
            process = subprocess.Popen(command, env=settings, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait(cluster, process)
            yield cluster
        finally:
            _kill(process)


def _without(folder: Path) -> str:
    return os.pathsep.join(path for path in os.environ["PATH"].split(os.pathsep) if Path(path) != folder)


def _wait(cluster: Head, process: "subprocess.Popen[bytes]") -> None:
    """Until it takes jobs, and can tell of its processes."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(requests.RequestException, LookupError, ValueError):
            (node,) = cluster.get("/api/v0/nodes").json()["data"]["result"]["result"]
            if cluster.get(f"/nodes/{node['node_id']}").json()["data"]["detail"]["cmdline"]:
                return
        time.sleep(0.2)
    raise AssertionError(f"no cluster: {(cluster.home / 'ray.log').read_text()[-2000:]}")


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """With all that it has started, which would be left to itself."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


@dataclass
class Client:
    """raygen on a machine that is not of the cluster.

    Attributes:
        package: the folder that its package is in, which it sends.
        folder: where its commands are given.
    """

    package: Path
    folder: Path
    environment: Mapping[str, str]

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        settings = {**os.environ, **self.environment, "PYTHONPATH": str(self.package), **environment}
        return subprocess.Popen(
            [BIN / "raygen", *arguments], env=settings, cwd=self.folder, preexec_fn=_hears,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(*arguments, **environment)
        try:
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def _hears() -> None:
    """Whatever the shell that the tests run in does in the background ignores Ctrl-C, and so does what that starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def package(folder: Path, main: str) -> Path:
    """A copy of raygen in which ``python -m raygen``, which is a job's driver, does something else."""
    import raygen

    shutil.copytree(Path(raygen.__file__).parent, folder / "raygen", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "raygen" / "__main__.py").write_text(main, encoding="utf-8")
    return folder
