"""Machines of a cluster that are as good as separate: each has its own address, and sees folders that the others do not.

    with machines(tmp, 2) as (head, other):
        other.hide(tmp / "shared")
        with head.start(), other.start(head):
            head.run("raygen", "train", "spec.yaml")

They are namespaces of Linux, so this takes root, and the commands ip, unshare, nsenter and mount.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

NEEDED = ("ip", "unshare", "nsenter", "mount", "umount")
PORT = 6379
PATIENCE = 120.0
RAY = [sys.executable, "-c", "import sys; from ray.scripts.scripts import main; sys.argv[0] = 'ray'; main()"]


@dataclass
class Machine:
    """Attributes:
    address: of it, which all others reach.
    pid: of the process with which it would end; it does nothing.
    private: a folder that every machine has for itself.
    """

    address: str
    pid: int
    private: Path

    def command(self, *words: str) -> list[str]:
        return ["nsenter", "--target", str(self.pid), "--net", "--mount", "--pid", "--wd=" + os.getcwd(), "--", *words]

    def run(self, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(self.command(*words), env=self.environment(environment), capture_output=True, text=True)

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        return {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": "", **more}

    def hide(self, folder: Path) -> None:
        """Let it have an empty folder of its own there."""
        subprocess.run(self.command("mount", "-t", "tmpfs", "raygen-test", str(folder)), check=True)

    def show(self, folder: Path) -> None:
        subprocess.run(self.command("umount", str(folder)), check=True)

    @contextlib.contextmanager
    def start(self, head: "Machine | None" = None, cpus: int = 1, *options: str, **environment: str) -> Iterator[None]:
        """A Ray node on it, of the cluster of another one, or of a new one; killed when the block ends."""
        where = (
            ["--head", f"--port={PORT}", "--include-dashboard=false"]
            if head is None
            else [f"--address={head.address}:{PORT}"]
        )
        words = ["start", *where, f"--node-ip-address={self.address}", f"--num-cpus={cpus}", "--block", *options]
        with (self.private / f"{self.address}.log").open("w+") as log:
            # The name of this host, by which torch would find an address, is that of all of them.
            own = {"RAY_TMPDIR": str(self.private / "ray"), "GLOO_SOCKET_IFNAME": "eth0", **environment}
            process = subprocess.Popen(self.command(*RAY, *words), env=self.environment(own), stdout=log, stderr=log)
            try:
                deadline = time.monotonic() + PATIENCE
                while "Ray runtime started" not in Path(log.name).read_text():
                    assert process.poll() is None, Path(log.name).read_text()
                    assert time.monotonic() < deadline, "it takes too long"
                    time.sleep(0.1)
                yield
            finally:
                self.kill()
                process.wait()

    def kill(self) -> None:
        """Kill all that runs on it."""
        subprocess.run(self.command("kill", "-KILL", "-1"), capture_output=True)


def possible() -> bool:
    """Whether this can be done here."""
    if os.geteuid() != 0 or not all(map(shutil.which, NEEDED)):
        return False
    tried = subprocess.run(["unshare", "--net", "--mount", "ip", "link", "add", "b0", "type", "bridge"], capture_output=True)
    return tried.returncode == 0


@contextlib.contextmanager
def machines(folder: Path, count: int) -> Iterator[tuple[Machine, ...]]:
    """So many of them, on a network of their own.

    Args:
        folder: what machines have for themselves is below it; its name is to be short, for there are sockets in it.
    """
    private, name = folder / "m", f"rg{os.getpid()}"
    private.mkdir()
    network = f"10.{os.getpid() // 256 % 256}.{os.getpid() % 256}"
    _ip("link", "add", name, "type", "bridge")
    with contextlib.ExitStack() as stack:
        stack.callback(_ip, "link", "del", name)
        _ip("addr", "add", f"{network}.1/24", "dev", name)
        _ip("link", "set", name, "up")
        found = []
        for number in range(count):
            own = ["--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
            parent = subprocess.Popen(["unshare", *own, "sleep", "infinity"])
            stack.callback(_end, parent)
            while not (idle := psutil.Process(parent.pid).children()) or idle[0].name() != "sleep":
                time.sleep(0.01)
            machine = Machine(f"{network}.{number + 11}", idle[0].pid, private)
            link = f"{name}-{number}"
            _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(machine.pid))
            # It goes with the machine, if not at once, and the next ones have the same names.
            stack.callback(subprocess.run, ["ip", "link", "del", link], capture_output=True)
            _ip("link", "set", link, "master", name, "up")
            for words in (
                ["ip", "link", "set", "lo", "up"],
                ["ip", "addr", "add", f"{machine.address}/24", "dev", "eth0"],
                ["ip", "link", "set", "eth0", "up"],
                ["mount", "-t", "tmpfs", "raygen-test", str(private)],
            ):
                subprocess.run(machine.command(*words), check=True)
            found.append(machine)
        yield tuple(found)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _end(process: "subprocess.Popen[Any]") -> None:
    process.kill()
    process.wait()
