"""The endpoint on Ray Serve: how many replicas, how much waits for them, and for how long."""

from collections.abc import Mapping, Sequence

from ray import serve
from ray.serve.config import AutoscalingConfig
from ray.serve.deployment import Application

from raygen.serving.auth import Token
from raygen.serving.endpoint import Endpoint
from raygen.spec import ServeSpec


def application(projects: Mapping[str, str], spec: ServeSpec, tokens: Sequence[Token] | None, most_rows: int) -> Application:
    """What Ray Serve runs.

    Args:
        projects: ``<storage>/<name>`` of what is served, by name; absolute, or ``s3://``.
        spec: how many replicas.
        tokens: who may ask; None for everybody.
        most_rows: of one request.
    """
    deployment = serve.deployment(
        name="raygen",
        max_ongoing_requests=128,
        max_queued_requests=256,
        graceful_shutdown_timeout_s=30.0,
        health_check_period_s=5.0,
        autoscaling_config=AutoscalingConfig(
            min_replicas=spec.replicas.min,
            max_replicas=spec.replicas.max,
            target_ongoing_requests=32,
            upscale_delay_s=2.0,
            look_back_period_s=2.0,
            downscale_delay_s=30.0,
        ),
    )(serve.ingress()(Endpoint))
    listed = None if tokens is None else [token.model_dump() for token in tokens]
    return deployment.bind(dict(projects), listed, most_rows)
