"""How many replicas there should be: a policy for Ray Serve's autoscaler, which adds its delays and limits."""

from typing import Any


class Scaling:
    """As many replicas as bring the requests under way at each to the target, and answers to their latency.

    Args:
        latency_s: seconds until the first byte of an answer, at the 95th percentile; None looks at requests alone.
    """

    def __init__(self, latency_s: float | None = None) -> None:
        self.latency_s = latency_s

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        """What is wanted of an ``AutoscalingContext``: a number of replicas, before it is rounded up; and no state."""
        there = context.current_num_replicas
        if not there:
            return context.target_num_replicas, {}
        told = context.aggregated_metrics or {}
        # Ray Serve does not see all that replicas have to do, see `direct`, and they do not see what waits for one to start.
        requests = max(context.total_num_requests, sum(told.get("requests", {}).values()))
        by_queue = requests / context.config.get_target_ongoing_requests()
        latencies = told.get("latency_s", {}).values()
        if self.latency_s is None or not latencies:
            return by_queue, {}
        # What waits is shared among replicas, so twice as many halve it. To want more than that at once would be rash.
        late = max(latencies) / self.latency_s
        return max(by_queue, there * min(late, 2.0)), {}
