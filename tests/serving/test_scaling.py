"""How many replicas are wanted of a state of affairs."""

from types import SimpleNamespace

import pytest

from raygen.serving.scaling import Scaling


@pytest.mark.parametrize(
    ("latency_s", "there", "requests", "measured", "wanted"),
    [
        (None, 1, 0, [9.0], 0), (None, 1, 33, [], 33 / 32), (None, 2, 320, [], 10), (None, 0, 5, [], 0),
        (0.5, 2, 64, [0.1, 0.2], 2), (0.5, 2, 64, [0.1, 0.75], 3), (0.5, 2, 64, [99.0, 0.0], 4), (0.5, 2, 320, [0.9], 10),
        (0.5, 2, 0, [0.0, 0.0], 0), (0.5, 1, 8, [], 0.25), (0.5, 2, 8, [0.2, 0.2], 0.8),
    ],
)  # fmt: skip
def test_replicas(latency_s: float | None, there: int, requests: float, measured: list[float], wanted: float) -> None:
    told = {"latency_s": measured} if measured else {}
    assert Scaling(latency_s)(state(there, requests, **told))[0] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("seen", "own", "wanted"), [(0, [64, 32], 3), (16, [64, 32], 3), (128, [64, 32], 4), (16, [0, 0], 0.5)]
)
def test_what_replicas_have_to_do_counts_whether_ray_serve_sees_it_or_not(
    seen: float, own: list[float], wanted: float
) -> None:
    assert Scaling()(state(2, seen, requests=own))[0] == pytest.approx(wanted)


def state(there: int, seen: float, **told: list[float]) -> SimpleNamespace:
    """Of affairs: so many replicas, so many requests that Ray Serve sees, and what each replica tells."""
    return SimpleNamespace(
        current_num_replicas=there,
        target_num_replicas=there,
        total_num_requests=seen,
        aggregated_metrics={name: dict(enumerate(values)) for name, values in told.items()},
        config=SimpleNamespace(get_target_ongoing_requests=lambda: 32),
    )
