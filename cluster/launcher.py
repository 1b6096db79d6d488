"""Ray's own commands for clusters, in processes of their own: ``ray up``, ``ray down``, ``ray exec``."""

import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from raygen.cluster.config import ClusterConfig
from raygen.cluster.status import Status
from raygen.errors import ResourceError

_RAY = (sys.executable, "-m", "ray.scripts.scripts")
_ASK = "raygen cluster status --json --address http://127.0.0.1:8265"
"""On the head, whose dashboard hardly anybody else reaches."""


def run(command: str, config: str | Path, options: Sequence[str]) -> int:
    """Run one with its output and its questions; returns its exit code."""
    process = subprocess.Popen([*_RAY, command, str(config), *options])  # noqa: S603 - the user's own words to the user's own Ray
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # it got the same one, and knows what is to be done
            continue


def status(config: ClusterConfig) -> Status:
    """Ask for it on the head, by ssh.

    Raises:
        ResourceError: the cluster is not up, or the head cannot be asked.
    """
    command = [*_RAY, "exec", config.path, _ASK]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)  # noqa: S603 - the same
    name = config.document.get("cluster_name")
    lines = [line.strip() for line in [*done.stdout.splitlines(), *done.stderr.splitlines()] if line.strip()]
    for line in lines:
        if line.startswith('{"nodes"'):
            try:
                return Status.of(json.loads(line))
            except (KeyError, TypeError, ValueError):
                hint = f"raygen cluster up {config.path} gives it this one"
                raise ResourceError(f"the head of {name} has another raygen, whose words are others", hint) from None
    if any("Head node of cluster" in line for line in lines):
        raise ResourceError(
            f"{config.path}: the cluster {name} is not up, as far as this machine knows",
            f"raygen cluster up {config.path}, or give --address where somebody else has started it",
        )
    told = [(line, after) for line, after in itertools.pairwise(lines) if line.startswith("error: ")]
    if told:
        raise ResourceError(f"on the head of {name}: {told[0][0].removeprefix('error: ')}", told[0][1])
    raise ResourceError(
        f"{config.path}: its head cannot be asked ({lines[-1] if lines else 'no word'})",
        f"see what ray exec {config.path} uptime says; or give --address",
    )
