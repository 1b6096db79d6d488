"""``raygen augment`` in a process of its own, to be disturbed and run again; and what must hold meanwhile and afterwards.

    scene = Scene(spec, Local(tmp / "out"), undisturbed)
    with scene.watched(), scene.command() as command:
        command.reach(10)
        command.kill()
    scene.recover()

A script in another folder puts this one on its ``sys.path`` first.
"""

import contextlib
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psutil
from s3 import Server, free_ports

RAYGEN = str(Path(sys.executable).with_name("raygen"))
SUPERVISED = (sys.executable, "-m", "raygen.cluster.supervise", "1", "--")
"""The same, and once more where it dies."""
PATIENCE = 240.0
"""Seconds within which anything has to come to an end, on a machine that has much else to do."""
OWN = ("ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::IDLE_SpillWorker", "ray::IDLE_RestoreWorker")
"""Processes that Ray names like workers, but are a node's own."""

Hashes = Mapping[str, str]
"""SHA-256 by the name of a file."""


class Place(Protocol):
    """Where a dataset lies, looked at by other means than raygen's."""

    @property
    def uri(self) -> str: ...

    def list(self, folder: str) -> dict[str, str]:
        """The files below a folder of it: something that changes with the content, by name."""

    def read(self, name: str) -> bytes | None:
        """A file, None where it is not there."""


@dataclass
class Local:
    folder: Path

    @property
    def uri(self) -> str:
        return f"file://{self.folder}"  # the nodes are of one machine, and so share it

    def list(self, folder: str) -> dict[str, str]:
        found = {}
        for parent, _, names in os.walk(self.folder / folder):
            for path in (Path(parent, name) for name in names):
                with contextlib.suppress(FileNotFoundError):
                    stat = path.stat()
                    version = f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"
                    found[str(path.relative_to(self.folder / folder))] = version
        return found

    def read(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None


@dataclass
class Bucket:
    server: Server
    uri: str  # s3://bucket/prefix

    def __post_init__(self) -> None:
        self.client = self.server.client()
        self.bucket, _, self.prefix = self.uri.removeprefix("s3://").partition("/")

    def list(self, folder: str) -> dict[str, str]:
        start = f"{self.prefix}/{folder}/"
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=start)
        objects = [item for page in pages for item in page.get("Contents", [])]
        return {
            item["Key"].removeprefix(start): f"{item['ETag']} {item['LastModified']}"
            for item in objects
            if not item["Key"].endswith("/")
        }

    def read(self, name: str) -> bytes | None:
        try:
            body: bytes = self.client.get_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}")["Body"].read()
        except self.client.exceptions.NoSuchKey:
            return None
        return body


def hashes(place: Place) -> dict[str, str]:
    """Everything below ``data``, strays and temporary files too."""
    return {name: _sha256(place.read(f"data/{name}")) for name in sorted(place.list("data"))}


class Ended(NamedTuple):
    """How a command ended, and what it said on stderr beside its progress."""

    code: int
    said: list[str]

    @property
    def refused(self) -> bool:
        """By exit code 2, one line what and one line what to do."""
        return (
            self.code == 2 and len(self.said) == 2 and self.said[0].startswith("error: ") and self.said[1].startswith("  ")
        )

    def __str__(self) -> str:
        return f"exit code {self.code}: {' | '.join(self.said[-8:])}"


class Command:
    """A command of raygen in a process of its own; killed, if need be, when the block ends.

    Args:
        program: what runs it.
    """

    def __init__(
        self, arguments: list[str], place: Place, environment: Mapping[str, str], program: Sequence[str] = (RAYGEN,)
    ) -> None:
        self.place = place
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed when the block ends
        settings = {"RAY_ADDRESS": "local", "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1", **environment}
        self.process = subprocess.Popen(
            [*program, *arguments], stdout=subprocess.DEVNULL, stderr=self._log, env={**os.environ, **settings}
        )
        self._family: list[psutil.Process] = []

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        self._log.close()

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def reach(self, receipts: int) -> bool:
        """Wait until so many shards have receipts; False where the command has ended before."""

        def there() -> bool:
            with contextlib.suppress(Exception):  # the server may be away
                return sum(name.endswith(".json") for name in self.place.list("_raygen/receipts")) >= receipts
            return False

        return self.wait_for(there)

    def wait_for(self, met: Callable[[], bool]) -> bool:
        """Wait until something is so; False where the command has ended before."""
        deadline = time.monotonic() + PATIENCE
        while not met():
            if not self.running:
                return False
            assert time.monotonic() < deadline, "it takes too long"
            time.sleep(0.002)
        return True

    def workers(self) -> list[psutil.Process]:
        """The workers of its own Ray: tasks, actors, and those that wait for something to do."""
        return [child for child in self.family() if _name(child).startswith("ray::") and _name(child) not in OWN]

    def kill_worker(self, draw: random.Random) -> str:
        """SIGKILL one of the workers; returns its name, empty where there was none."""
        workers = [worker for worker in self.workers() if "MapWorker" in _name(worker) or draw.random() < 0.2]
        if not workers:
            return ""
        victim = draw.choice(workers)
        name = _name(victim)
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
            return name
        return ""

    def driver(self) -> psutil.Process:
        """What a supervisor runs at this moment."""
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def kill(self) -> bool:
        """SIGKILL the driver; False where it has ended before. What it has started is left to itself."""
        self._family = [child for child in self.family() if _name(child) not in OWN]
        alive = self.running
        self.process.kill()
        return self.process.wait() < 0 and alive

    def orphans_gone(self, timeout: float = PATIENCE) -> float:
        """Wait until nothing is left of what a killed driver had started; returns the seconds that it took.

        Not counted are the agents of Ray's node, which look for its control service for another minute.
        """
        began = time.monotonic()
        while alive := [_name(process) for process in self._family if is_alive(process)]:
            assert time.monotonic() < began + timeout, f"left behind: {alive}"
            time.sleep(0.1)
        return time.monotonic() - began

    def end(self) -> Ended:
        """Wait for the end."""
        code = self.process.wait(PATIENCE)
        self._log.seek(0)
        said = [
            line.rstrip() for line in self._log if line.strip() and not line.startswith(("train  ", "augment  ", "verify  "))
        ]
        return Ended(code, said)

    def family(self) -> list[psutil.Process]:
        """All that it has started, and what that has started."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


@dataclass
class Scene:
    """A dataset whose making is disturbed.

    Attributes:
        spec: the YAML file that asks for it.
        place: where it is to be.
        reference: what an undisturbed one consists of.
        options: of ``raygen augment``.
        environment: for the command, and for what it starts.
        before: of a dataset that was there before, whose parts may still be seen.
    """

    spec: Path
    place: Place
    reference: Hashes
    options: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    before: Hashes = field(default_factory=dict)

    def command(self, *options: str, program: Sequence[str] = (RAYGEN,)) -> Command:
        output = ["--set", f"augment.output={self.place.uri}"]
        return Command(["augment", str(self.spec), *output, *self.options, *options], self.place, self.environment, program)

    def end(self, *options: str) -> Ended:
        with self.command(*options) as command:
            return command.end()

    def verify(self) -> Ended:
        with Command(["verify", self.place.uri], self.place, self.environment) as command:
            return command.end()

    def recover(self, attempts: int = 3) -> None:
        """The same command until it succeeds, then the checks."""
        for _ in range(attempts):
            ended = self.end()
            if ended.code == 0:
                break
            assert ended.refused, f"the same command again: {ended}"
        assert ended.code == 0, f"it does not recover: {ended}"
        assert not ended.said, f"success has something to say: {ended}"
        self.check()

    def check(self) -> None:
        """The dataset is the undisturbed one, and nothing else is there; and ``raygen verify`` says so too."""
        self.check_data()
        verified = self.verify()
        assert verified.code == 0, f"verify: {verified}"

    def check_data(self) -> None:
        found = hashes(self.place)
        differing = sorted(name for name in {*found, *self.reference} if found.get(name) != self.reference.get(name))
        assert not differing, f"missing, stray or different: {differing}"

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """While the block runs, whatever has the name of a part is a whole part, whenever one looks."""
        stop, broken = threading.Event(), list[str]()
        looks = 0

        def look() -> None:
            nonlocal looks
            seen: dict[str, str] = {}
            while not stop.is_set():
                with contextlib.suppress(Exception):  # the server may be away
                    for name, version in self.place.list("data").items():
                        if name.rpartition("/")[2].startswith(".") or seen.get(name) == version:
                            continue
                        content = self.place.read(f"data/{name}")
                        if content is None:
                            continue
                        looks += 1
                        if _sha256(content) not in (self.reference.get(name), self.before.get(name)):
                            broken.append(f"{name} with {len(content)} bytes")
                        else:
                            seen[name] = version
                stop.wait(0.005)

        thread = threading.Thread(target=look, name="watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(PATIENCE)
        assert not broken, f"seen half-written: {broken[:3]}"
        assert looks or not self.place.list("data"), "nobody has looked"


@contextlib.contextmanager
def nodes(cpus: int, **options: Any) -> Iterator[Any]:
    """A ``ray.cluster_utils.Cluster`` of one node, with options of it. It would tell its address to every ``ray.init()`` of
    this machine, by a file in Ray's temporary folder: so that is one of its own. Its name is short, for there are sockets in
    it."""
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        before = os.environ.get("RAY_TMPDIR")
        os.environ["RAY_TMPDIR"] = folder
        try:
            port = free_ports()  # the usual one has to be free even where there is no dashboard
            ports = {"dashboard_port": port, "dashboard_agent_listen_port": port + 1}
            head = {"num_cpus": cpus, "include_dashboard": False, **ports, **options}
            cluster = Cluster(initialize_head=True, head_node_args=head)
            cluster.folder = folder
        finally:
            if before is None:
                del os.environ["RAY_TMPDIR"]
            else:
                os.environ["RAY_TMPDIR"] = before
        try:
            yield cluster
        finally:
            cluster.shutdown()


def second_node(cluster: Any, **options: Any) -> Any:
    """Add a node of one CPU to a cluster of :func:`nodes`. It has a folder of its own, as machines do: what jobs bring along
    is put there, and one node would remove what another has."""
    return cluster.add_node(num_cpus=1, temp_dir=f"{cluster.folder}/{len(cluster.worker_nodes) + 1}", **options)


def raylet(node: Any) -> psutil.Process:
    """The process of a node that all its workers are children of."""
    (found,) = node.all_processes["raylet"]
    return psutil.Process(found.process.pid)


def kill_raylet(node: Any) -> None:
    """SIGKILL a node's raylet. Its workers notice, or go on for a while."""
    raylet(node).kill()


def lose(node: Any) -> None:
    """SIGKILL a node's raylet and all its workers at once, as a machine goes that is switched off."""
    family = raylet(node).children(recursive=True)
    kill_raylet(node)
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def preempt(cluster: Any, node: Any, seconds: int) -> None:
    """Take a node away as a cloud takes a spot machine: it is told so many seconds before."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int(1000 * (time.time() + seconds))
    accepted, why = GcsClient(address=cluster.address).drain_node(node.node_id, reason, "a test", deadline)
    assert accepted, why
    time.sleep(seconds)
    kill_raylet(node)


def working_on(node: Any) -> int:
    """How many actors of Ray Data work on a node."""
    return sum(_name(child).startswith("ray::MapWorker") for child in raylet(node).children(recursive=True))


@contextlib.contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[None]:
    """A small disk. Raises PermissionError where one may not be mounted, as in many containers."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "raygen-test", str(folder)], capture_output=True)
    if mounted.returncode:
        raise PermissionError(f"a tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def enlarge(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def _sha256(content: bytes | None) -> str:
    return "" if content is None else hashlib.sha256(content).hexdigest()


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.is_running()  # not all containers bury the dead
    except psutil.NoSuchProcess:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [process.name()])[0]  # the name alone is cut after 15 characters
    except psutil.Error:
        return ""
