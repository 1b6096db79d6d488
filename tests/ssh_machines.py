"""Machines to log in to: on this one, each with an address, processes, a home and /tmp of its own, and a real sshd.

    with Machines(folder, ["head", "worker"]) as machines:
        machines["head"].address, machines.key      # for ray up
        machines["head"].run("ray status")

They are namespaces of Linux: ``ray stop`` on one of them stops nobody else's Ray. Needs root, ``sshd`` and ``rsync``.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import randrange

HOME = "/mnt"
"""Of root, there: the true one may hold the Python that they lend from this machine."""
SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
LENT = {"ray": "from ray.scripts.scripts import main", "pip": "from pip._internal.cli.main import main"}

BOOT = """
set -e
hostname {name}
mount --make-rprivate /
mount --bind {folder}/hosts /etc/hosts
mount --bind {folder}/passwd /etc/passwd
mount --bind {folder}/{name} {home}
mount -t tmpfs tmpfs /dev/shm
mkdir -p /run/sshd /dev/shm/sshd
cp {folder}/sshd_config {folder}/host {folder}/key.pub /dev/shm/sshd/
mkdir /dev/shm/tmp
mount --bind /tmp /dev/shm/tmp
mount -t tmpfs tmpfs /tmp
for python in {pythons}; do
  mkdir -p $python
  mount --bind /dev/shm$python $python
done
umount --lazy /dev/shm/tmp
ip link set lo up
until ip link show eth0 > /dev/null 2>&1; do sleep 0.05; done
ip addr add {address}/24 dev eth0
ip link set eth0 up
ip route add default via {gateway}
exec {sshd} -D -e -f /dev/shm/sshd/sshd_config
"""
SSHD_CONFIG = """
HostKey /dev/shm/sshd/host
AuthorizedKeysFile /dev/shm/sshd/key.pub
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
"""


def missing() -> str | None:
    """Why there can be none here; None where there can."""
    if os.geteuid() != 0:
        return "is not root"
    if absent := [name for name in ("unshare", "ip", "ssh", "rsync", SSHD) if shutil.which(name) is None]:
        return f"has no {absent[0]}"
    done = subprocess.run(["unshare", "--net", "--pid", "--mount", "--uts", "--fork", "true"], capture_output=True)
    return "may make no namespaces" if done.returncode else None


@dataclass
class Machine:
    name: str
    address: str
    key: Path
    process: subprocess.Popen[bytes]

    def run(self, command: str, timeout: float = 60) -> str:
        """What a command prints that somebody runs who logs in."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=5"]
        ssh = ["ssh", "-i", str(self.key), *(part for option in options for part in ("-o", option))]
        done = subprocess.run(
            [*ssh, f"root@{self.address}", f"source ~/.bashrc; {command}"],
            capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
        return done.stdout + done.stderr


class Machines:
    """Some of them, until the block ends.

    Args:
        folder: for their homes and keys.
        names: of them, which they know each other by.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.key = folder, folder / "key"
        self._names = names
        self._bridge = f"rg{os.getpid()}"
        self._net = f"10.{randrange(200, 250)}.{randrange(256)}"
        self._machines: dict[str, Machine] = {}

    def __getitem__(self, name: str) -> Machine:
        return self._machines[name]

    def __enter__(self) -> "Machines":
        self.folder.mkdir(parents=True, exist_ok=True)
        addresses = {name: f"{self._net}.{index + 10}" for index, name in enumerate(self._names)}
        for key in ("key", "host"):
            _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key))
        (self.folder / "sshd_config").write_text(SSHD_CONFIG)
        (self.folder / "hosts").write_text(
            "127.0.0.1 localhost\n" + "".join(f"{addresses[name]} {name}\n" for name in self._names)
        )
        (self.folder / "passwd").write_text(f"root:x:0:0:root:{HOME}:/bin/bash\nsshd:x:100:65534::/run/sshd:/bin/false\n")
        _do("ip", "link", "add", self._bridge, "type", "bridge")
        _do("ip", "addr", "add", f"{self._net}.1/24", "dev", self._bridge)
        _do("ip", "link", "set", self._bridge, "up")
        for index, name in enumerate(self._names):
            self._machines[name] = Machine(name, addresses[name], self.key, self._boot(index, name, addresses[name]))
        for machine in self._machines.values():
            _until(lambda machine=machine: "up" in machine.run("uptime"))  # type: ignore[misc]
        return self

    def __exit__(self, *error: object) -> None:
        for machine in self._machines.values():
            machine.process.kill()  # and with it the first of its processes, which takes all the others with it
            machine.process.wait()
        for index in range(len(self._names)):  # they go with the machines, if not at once
            subprocess.run(["ip", "link", "del", f"{self._bridge}v{index}"], capture_output=True)
        _do("ip", "link", "del", self._bridge)

    def _boot(self, index: int, name: str, address: str) -> subprocess.Popen[bytes]:
        _furnish(self.folder / name, self.folder)
        pythons = {sys.prefix, sys.base_prefix}  # that are lent, and may be what the machine's own /tmp hides
        script = BOOT.format(
            name=name, folder=self.folder, home=HOME, address=address, gateway=f"{self._net}.1", sshd=SSHD,
            pythons=" ".join(sorted(python for python in pythons if python.startswith("/tmp/"))),
        )  # fmt: skip
        unshare = ["unshare", "--net", "--pid", "--mount", "--uts", "--fork", "--mount-proc", "--kill-child"]
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen([*unshare, "bash", "-c", script], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        mine = os.readlink("/proc/self/ns/net")
        _until(lambda: os.readlink(f"/proc/{process.pid}/ns/net") != mine)
        link = f"{self._bridge}v{index}"
        _do("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(process.pid))
        _do("ip", "link", "set", link, "master", self._bridge, "up")
        return process


def _furnish(home: Path, folder: Path) -> None:
    """A home with all that raygen needs, but not raygen: it would take ``ray-config.yaml`` minutes to install that."""
    environment = home / "raygen-env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (site,) = (environment / "lib").glob("python3*/site-packages")
    lent = folder / "lent"
    if not lent.exists():
        lent.mkdir()
        for entry in Path(sysconfig.get_path("purelib")).iterdir():
            if "raygen" not in entry.name and entry.suffix != ".pth":
                (lent / entry.name).symlink_to(entry)
    shutil.copytree(lent, home / "lent", symlinks=True)
    (site / "lent.pth").write_text(f"{HOME}/lent\n")
    for name, code in LENT.items():
        script = environment / "bin" / name
        script.write_text(f"#!{HOME}/raygen-env/bin/python\nimport sys\n{code}\nsys.exit(main())\n")
        script.chmod(0o755)
    settings = "no-index = true\nno-deps = true\ndisable-pip-version-check = true"  # there is no network, and all is there
    (home / ".config" / "pip").mkdir(parents=True)
    (home / ".config" / "pip" / "pip.conf").write_text(f"[global]\n{settings}\n")
    (home / ".bashrc").touch()


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _until(holds: object, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not (callable(holds) and holds()):
        assert time.monotonic() < deadline, "a machine did not come up"
        time.sleep(0.05)
