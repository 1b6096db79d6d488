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
    context = SimpleNamespace(
        current_num_replicas=there,
        target_num_replicas=there,
        total_num_requests=requests,
        aggregated_metrics={"latency_s": dict(enumerate(measured))} if measured else {},
        config=SimpleNamespace(get_target_ongoing_requests=lambda: 32),
    )
    assert Scaling(latency_s)(context)[0] == pytest.approx(wanted)
