"""A real S3 server, SeaweedFS, to kill and start again; and a TCP proxy that breaks what passes between it and a client.

    with Server(folder) as server, Proxy(server.port) as proxy, clients(server.environment(endpoint=proxy.url)):
        server.bucket("data")
        proxy.order(Fault("answer", "close", after=1000, times=2, match=r"^GET .*[.]parquet"))

Tests reach both through fixtures of conftest.py; a script in another folder puts this one on its ``sys.path`` first.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

LOOPBACK = "127.0.0.1"
GRPC = 10_000
"""SeaweedFS serves gRPC on each port + 10,000."""

IDENTITIES = {
    "admin": ("adminkey", "adminsecret123", ["Admin", "Read", "Write", "List", "Tagging"]),
    "reader": ("readerkey", "readersecret123", ["Read", "List"]),  # of every bucket, but no writing
    "stranger": ("strangerkey", "strangersecret123", ["Read:elsewhere", "List:elsewhere"]),  # no bucket of ours
}
"""Who may do what: access key, secret, actions."""


class Server:
    """``weed mini`` on loopback. Its data outlives :meth:`kill`, and it comes back on the same port.

    Args:
        folder: where its data and its log go.
        port: of S3; the next three are taken too. A free one where None.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_ports()
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "weed.log").read_text(errors="replace")

    def start(self, timeout: float = 60) -> None:
        """Start, and wait until an object can be written."""
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        config = self.folder / "s3.json"
        identities = [
            {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
            for name, (key, secret, actions) in IDENTITIES.items()
        ]
        config.write_text(json.dumps({"identities": identities}))
        options = {
            "dir": data,
            "ip": LOOPBACK,
            "ip.bind": LOOPBACK,
            "s3.config": config,
            "s3.port": self.port,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.autoCreateBucket": "false",  # a bucket that does not exist is an error, as on any other S3
            "s3.localSocket": self.folder / "s3.sock",  # else in /tmp, and left there
            "filer.port": self.port + 1,
            "filer.localSocket": self.folder / "filer.sock",
            "volume.port": self.port + 2,
            "master.port": self.port + 3,
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 1024,
            "webdav": "false",
            "admin.ui": "false",
        }
        weed = Path(sys.executable).with_name("weed")
        command = [str(weed), "mini", *(f"-{name}={value}" for name, value in options.items())]
        with (self.folder / "weed.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + timeout
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"weed did not start:\n{self.log[-3000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """As a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def bucket(self, name: str) -> None:
        """Make a bucket, where it is not there yet."""
        client = self.client()
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
            client.create_bucket(Bucket=name)

    def upload(self, folder: Path, uri: str) -> None:
        """Put the files of a folder at a URI."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        for file in folder.iterdir():
            self.client().put_object(Bucket=bucket, Key=f"{prefix}/{file.name}", Body=file.read_bytes())

    def client(self) -> Any:
        """A botocore client that may do everything: what a test needs beside raygen to look and to prepare."""
        import botocore.config
        import botocore.session

        key, secret, _ = IDENTITIES["admin"]
        config = botocore.config.Config(connect_timeout=2, read_timeout=30, retries={"total_max_attempts": 1})
        return botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            config=config,
        )

    def environment(self, identity: str = "admin", endpoint: str | None = None) -> dict[str, str]:
        """The environment variables that lead S3 clients here, or to an endpoint in front of it."""
        key, secret, _ = IDENTITIES[identity]
        return {
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_ENDPOINT_URL": endpoint or self.url,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def _ready(self) -> bool:
        try:
            socket.create_connection((LOOPBACK, self.port), timeout=1).close()
        except OSError:
            return False
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self.bucket("ready")
            self.client().put_object(Bucket="ready", Key="ready", Body=b"x" * 100_000)
        except (BotoCoreError, ClientError):  # it answers before it can store
            return False
        return True


def free_ports() -> int:
    """A port such that it and the next three are free, and so are those that gRPC takes; below the ephemeral ones."""
    for _ in range(1000):
        port = random.randrange(11_000, 22_000, 4)
        if all(map(_free, [*range(port, port + 4), *range(port + GRPC, port + GRPC + 4)])):
            return port
    raise RuntimeError("there are no free ports")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


@dataclass
class Fault:
    """What the proxy does to an exchange, which is a request and its answer.

    Attributes:
        where: in the request (the server never sees the rest of it) or in the answer (the server has done its work).
        how: ``reset`` the connection (RST), ``close`` it as if all had been said (FIN), or ``stall`` and go on.
        after: bytes that pass before, headers included. An exchange that is shorter is left alone.
        seconds: how long to stall.
        times: exchanges that it happens to; None for no end.
        probability: that it happens to an exchange.
        match: a regular expression for the first line of the request, as ``^PUT .*part-00001``.
    """

    where: Literal["request", "answer"]
    how: Literal["reset", "close", "stall"]
    after: int = 0
    seconds: float = 0
    times: int | None = None
    probability: float = 1.0
    match: str = ""


class Proxy:
    """Passes TCP between clients and a server on loopback; does to exchanges what has been ordered.

    Args:
        target: the server's port.
        seed: decides which exchanges a fault with a probability happens to.

    Attributes:
        exchanges: the first line of every request so far.
        struck: the first line of those that a fault has happened to.
    """

    def __init__(self, target: int, seed: int = 0) -> None:
        self.target = target
        self.exchanges: list[str] = []
        self.struck: list[str] = []
        self._random = random.Random(seed)
        self._faults: list[Fault] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        listening = asyncio.start_server(self._connection, LOOPBACK, 0)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def order(self, *faults: Fault) -> None:
        """Do these from the next exchange on, instead of what was ordered before; the first that fits an exchange wins."""
        self._faults = list(faults)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def _stop(self) -> None:
        self._server.close()
        await asyncio.sleep(0.05)  # who has just connected gets as far as to be hung up on
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _next(self, data: bytes) -> Fault | None:
        line = data.split(b"\r\n", 1)[0].decode("latin-1")
        self.exchanges.append(line)
        for fault in self._faults:
            if fault.times == 0 or not re.search(fault.match, line) or self._random.random() >= fault.probability:
                continue
            return fault
        return None

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            above, upward = await asyncio.open_connection(LOOPBACK, self.target)
        except (OSError, asyncio.CancelledError):
            _reset(writer)
            return
        exchange = _Exchange(self)
        pumps = [
            asyncio.ensure_future(exchange.pump("request", reader, upward)),
            asyncio.ensure_future(exchange.pump("answer", above, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass  # the proxy closes; Python 3.11 complains of such a task that ends cancelled
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for side in (upward, writer):
                _reset(side) if exchange.reset else side.close()


class _Exchange:
    """The present exchange of a connection. Clients do not pipeline: the next one starts when a client speaks again."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy, self.reset, self.answered = proxy, False, True
        self.fault: Fault | None = None
        self.passed = {"request": 0, "answer": 0}

    async def pump(self, where: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass what comes from one side to the other until it ends, or a fault ends it."""
        writer.transport.set_write_buffer_limits(0)  # so that drain() waits until all is sent
        while data := await reader.read(1 << 16):
            if where == "answer":
                self.answered = self.answered or not data.startswith(b"HTTP/1.1 100 ")  # which invites the body only
            elif self.answered:
                self.answered, self.passed = False, {"request": 0, "answer": 0}
                self.fault = self.proxy._next(data)
            fault = self.fault
            due = fault is not None and fault.where == where and self.passed[where] + len(data) > fault.after
            due = due and (where == "request" or self.answered)
            if fault is not None and due and fault.times != 0:
                self.fault = None
                if fault.times is not None:
                    fault.times -= 1
                self.proxy.struck.append(self.proxy.exchanges[-1])
                writer.write(data[: max(fault.after - self.passed[where], 0)])
                await writer.drain()
                if fault.how != "stall":
                    self.reset = fault.how == "reset"
                    return
                await asyncio.sleep(fault.seconds)
                data = data[max(fault.after - self.passed[where], 0) :]
                self.passed[where] = fault.after
            self.passed[where] += len(data)
            writer.write(data)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST."""
    with contextlib.suppress(OSError, AttributeError):
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.contextmanager
def clients(environment: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the length of the block (or unset them, where empty), and have fsspec make its S3
    clients anew: it keeps them, and they keep the endpoint and the credentials that they were made with."""
    import fsspec

    before = {name: os.environ.get(name, "") for name in environment}
    made = fsspec.get_filesystem_class("s3")
    try:
        _set(environment)
        made.clear_instance_cache()
        yield
    finally:
        _set(before)
        made.clear_instance_cache()


def _set(environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        os.environ.pop(name, None)
        if value:
            os.environ[name] = value


@contextlib.contextmanager
def nobody_home() -> Iterator[str]:
    """The URL of an endpoint that takes no connection, and does not refuse any: one behind a firewall that drops packets."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind((LOOPBACK, 0))
        listener.listen(0)
        for _ in range(8):  # fill the queue of connections that nobody accepts
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield f"http://{LOOPBACK}:{listener.getsockname()[1]}"
