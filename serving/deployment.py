"""The endpoint on Ray Serve: how many replicas, how much waits for them, and for how long."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve.config import AutoscalingConfig
from ray.serve.deployment import Application

from raygen.serving import auth
from raygen.serving.auth import Token
from raygen.serving.endpoint import Endpoint
from raygen.spec import ServeSpec

NAME = "raygen"
"""Of the application, and of its deployment."""


class Arguments(BaseModel):
    """What a config of Ray Serve says of the endpoint, see ``Projects.config``."""

    model_config = ConfigDict(extra="forbid")

    projects: dict[str, str]
    serve: ServeSpec = ServeSpec()
    tokens: Path | None = None
    insecure: bool = False


def build(arguments: Arguments) -> Application:
    """The endpoint as a config of Ray Serve has it made, on the cluster: ``raygen.serving.deployment:build``.

    Raises:
        SpecError: there are no tokens, neither in the file nor in the environment, and it is not said to be insecure.
    """
    tokens = None if arguments.insecure else auth.known(arguments.tokens)
    return application(arguments.projects, arguments.serve, tokens)


def application(projects: Mapping[str, str], spec: ServeSpec, tokens: Sequence[Token] | None) -> Application:
    """What Ray Serve runs.

    Args:
        projects: ``<storage>/<name>`` of what is served, by name; absolute, or ``s3://``.
        spec: of the endpoint.
        tokens: who may ask; None for everybody.
    """
    deployment = serve.deployment(
        name=NAME,
        max_ongoing_requests=4 * spec.target,
        max_queued_requests=spec.queue,
        ray_actor_options={"num_gpus": spec.gpus},
        graceful_shutdown_timeout_s=30.0,
        health_check_period_s=5.0,
        autoscaling_config=AutoscalingConfig(
            min_replicas=spec.replicas.min,
            max_replicas=spec.replicas.max,
            target_ongoing_requests=spec.target,
            upscale_delay_s=2.0,
            look_back_period_s=2.0,
            downscale_delay_s=30.0,
        ),
    )(serve.ingress()(Endpoint))
    listed = None if tokens is None else [token.model_dump() for token in tokens]
    return deployment.bind(dict(projects), listed, spec.max_rows)


@contextlib.contextmanager
def running(
    projects: Mapping[str, str], spec: ServeSpec, tokens: Sequence[Token] | None, host: str, port: int
) -> Iterator[None]:
    """Serve on the Ray that is connected, for the length of the block, which begins when there is an answer."""
    serve.start(http_options={"host": host, "port": port})
    try:
        serve.run(application(projects, spec, tokens), name=NAME, route_prefix="/")
        yield
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
