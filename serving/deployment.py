"""The endpoint on Ray Serve: how many replicas, how much waits for them, and for how long."""

import logging
import os
import socket
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from raygen.errors import ResourceError
from raygen.jobs import placement, ready, waiting
from raygen.machines import Resources
from raygen.resources import Demand
from raygen.serving import auth, direct
from raygen.serving.auth import Token
from raygen.serving.client import Client
from raygen.serving.haproxy import DRAIN
from raygen.spec import ServeSpec

if TYPE_CHECKING:  # Ray Serve reads its environment when it is imported, so that is not done before it has to be
    from ray.serve.deployment import Application

log = logging.getLogger("raygen.serving")

NAME = "raygen"
ONE_CPU = Resources()


class Arguments(BaseModel):
    """What a config of Ray Serve says of the endpoint, see ``Projects.config``."""

    model_config = ConfigDict(extra="forbid")

    projects: dict[str, str]
    serve: ServeSpec = ServeSpec()
    resources: Resources = ONE_CPU
    tokens: Path | None = None
    insecure: bool = False


def build(arguments: Arguments) -> "Application":
    """The endpoint as Ray Serve makes it of a config: ``import_path: raygen.serving.deployment:build``.

    Raises:
        SpecError: there are no tokens, neither in the file nor in the environment, and it is not said to be insecure.
    """
    tokens = None if arguments.insecure else auth.known(arguments.tokens)
    return application(arguments.projects, arguments.serve, tokens, arguments.resources)


def check_free(host: str, port: int) -> None:
    """Whether it can be listened there.

    Raises:
        ResourceError: it cannot.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind((host, port))
        except OSError as error:
            said = f"{host}:{port}: cannot be listened at ({error.strerror})"
            raise ResourceError(said, "give another --port, or --host") from None


@contextmanager
def served(
    projects: Mapping[str, str],
    spec: ServeSpec,
    tokens: Sequence[Token] | None,
    host: str = "127.0.0.1",
    port: int = 8000,
    patience: float = 300.0,
    resources: Resources = ONE_CPU,
) -> Iterator[str]:
    """An endpoint, as long as the block runs. Ray has to be connected; start it within ``haproxy.prepared``.

    Args:
        projects: ``<storage>/<name>`` of what is served, by name; absolute, or ``s3://``.
        spec: how many replicas, and what they take on.
        tokens: who may ask; None for everybody who calls it by a name of this machine, such as ``localhost``.
        host: where it listens. Replicas on other machines need one that those reach, such as ``0.0.0.0``.
        port: of it.
        patience: seconds in which it has to be able to generate.
        resources: what is reserved for each replica.

    Yields:
        the URL at which it answers, once it can generate.

    Raises:
        ResourceError: the port is taken, or Ray Serve runs already, or no replica can generate, or can ever find
            room.
        OutputError: a project lies where only one of several machines sees it.
    """
    from ray import serve

    check_free(host, port)
    if serve.status().proxies:  # whose port is another one, and whose applications are not ours to stop
        hint = "give it to that: raygen serve … --print-config > endpoint.yaml; serve deploy endpoint.yaml"
        raise ResourceError("Ray Serve runs already in this cluster", hint)
    demand = Demand("serve", max(1, spec.replicas.min), spec.replicas.max, resources)
    ready.require_room(demand, projects)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else '[::1]' if host == '::' else shown}:{port}"  # noqa: S104
    try:
        serve.start(http_options={"host": host, "port": port})
        try:
            with waiting.told(demand, lambda: placement.pending(resources).waits):
                endpoint = application(projects, spec, tokens, resources, _threads(spec, resources))
                serve.run(endpoint, name=NAME, route_prefix="/", _local_testing_mode=False)
                _until_ready(url, patience)
        except RuntimeError as error:
            said = [line for line in str(error).splitlines() if line.strip()]
            raise ResourceError(
                f"no replica could start: {said[-1] if said else error}", "see Ray's log, or --verbose"
            ) from None
        yield url
    finally:
        _stop(serve)


def _stop(serve: Any) -> None:
    """Stop what was started, and nothing that somebody else has deployed meanwhile on the same Ray Serve."""
    # Replicas first, which finish what they have begun; only then the proxy.
    with suppress(Exception):
        serve.delete(NAME)
    others: set[str] = set()
    with suppress(Exception):
        others = serve.status().applications.keys() - {NAME}
    if others:
        log.warning("Ray Serve goes on in this cluster, for %s", ", ".join(sorted(others)))
    else:
        serve.shutdown()


def application(
    projects: Mapping[str, str],
    spec: ServeSpec,
    tokens: Sequence[Token] | None,
    resources: Resources = ONE_CPU,
    threads: int | None = None,
) -> "Application":
    """What Ray Serve runs; the arguments are those of ``served``, and of ``Endpoint``."""
    from ray import serve
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, BackpressureConfig

    from raygen.serving.endpoint import Endpoint
    from raygen.serving.ledger import Ledger

    with warnings.catch_warnings():
        # The environment variables that are to replace `metrics_interval_s` are not read yet (Ray 2.60).
        warnings.filterwarnings("ignore", message=r".*metrics_interval_s", category=DeprecationWarning)
        scaling = AutoscalingConfig(
            min_replicas=spec.replicas.min,
            # One at first in any case, so that what cannot generate is known now.
            initial_replicas=max(1, spec.replicas.min),
            max_replicas=spec.replicas.max,
            target_ongoing_requests=spec.target,
            metrics_interval_s=0.5,
            look_back_period_s=2.0,
            upscale_delay_s=spec.replicas.up_s,
            downscale_delay_s=spec.replicas.down_s,
            policy=AutoscalingPolicy(  # type: ignore[no-untyped-call]
                policy_function="raygen.serving.scaling.Scaling", policy_kwargs={"latency_s": spec.latency_s}
            ),
        )
    deployment = serve.deployment(
        name=NAME,
        # Room bounds what a replica takes on, and refuses the rest in raygen's own words: Ray Serve never has to.
        max_ongoing_requests=2 * spec.queue + 1000,
        # While no replica is up, so many wait in Ray Serve's fallback proxy.
        max_queued_requests=spec.queue,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        graceful_shutdown_timeout_s=DRAIN,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=5.0,
        health_check_timeout_s=30.0,
        max_constructor_retry_count=3,
        autoscaling_config=scaling,
        ray_actor_options=placement.options(resources) | {"runtime_env": {"env_vars": direct.environment()}},
        logging_config={"log_level": "WARNING"},  # of each request raygen's own log tells more
    )(serve.ingress()(Endpoint))
    # It computes next to nothing, and must not wait for a CPU that replicas have.
    counting = serve.deployment(name="ledger", max_ongoing_requests=10_000, ray_actor_options={"num_cpus": 0})(Ledger).bind()
    listed = None if tokens is None else [token.model_dump() for token in tokens]
    # Ray lets a replica that reserves no GPU see all of them: one that took the first would take somebody else's, and its
    # rows would be others, in their last bits, than those of a replica on a machine without any.
    device = None if resources.gpus else "cpu"
    return deployment.bind(dict(projects), listed, spec.max_rows, spec.queue, spec.timeout_s, counting, device, threads)


def _threads(spec: ServeSpec, resources: Resources) -> int | None:
    """Of torch in each replica: where the machine is the endpoint's alone, and nobody says, its share of all cores. While
    rows are made for those who wait, nobody asks, and nothing else would use them."""
    alone = placement.is_own() and resources == ONE_CPU
    return max(1, (os.cpu_count() or 1) // spec.replicas.max) if alone else None


def _until_ready(url: str, patience: float) -> None:
    """Wait until a replica has said that it can generate.

    Raises:
        ResourceError: none has in time.
    """
    end = time.monotonic() + patience
    with Client(url, timeout=5) as client:
        while not client.healthy():
            if time.monotonic() > end:
                what = f"{url}: no replica could generate within {patience:.0f} s"
                raise ResourceError(what, "see Ray's log, or --verbose")
            time.sleep(0.1)
