"""An endpoint of a project in a process of its own, since Ray Serve reads its environment when Ray starts.

Its URL is its first line; it stops when its input ends.

    python tests/serving/endpoint.py FOLDER '{"replicas": {"min": 1}}' PORT
"""

import json
import sys

from raygen.serving import haproxy
from raygen.spec import ServeSpec


def main() -> None:
    folder, options, port = sys.argv[1:]
    with haproxy.prepared():
        import ray

        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        from raygen.serving.deployment import served

        try:
            with served({"digits": folder}, ServeSpec.model_validate(json.loads(options)), None, port=int(port)) as url:
                print(url, flush=True)
                sys.stdin.read()
        finally:
            ray.shutdown()


if __name__ == "__main__":
    main()
