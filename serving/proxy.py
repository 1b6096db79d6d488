"""The proxy before the replicas: what Ray Serve has to find in the environment, before it is imported, to run HAProxy."""


def environment() -> dict[str, str]:
    """Variables for this process and all of Ray's, which Ray's inherit from the one that starts them."""
    return {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
