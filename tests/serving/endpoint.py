"""An endpoint of a project in a process of its own, since Ray Serve reads its environment when Ray starts.

Its URL is its first line; it stops when its input ends.

    python tests/serving/endpoint.py FOLDER '{"replicas": {"min": 1}}' PORT
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raygen.serving import haproxy
from raygen.spec import ServeSpec

HOOK = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "endpoint:middleware", "PYTHONPATH": str(Path(__file__).parent)}
"""What whoever runs the cluster may have set on its machines."""


class Passed:
    """Middleware that says in each answer that it was asked."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-passed", b"theirs")]}
            await send(message)

        await self.app(scope, receive, answer)


def middleware() -> list[Any]:
    return [Middleware(Passed)]


def main() -> None:
    folder, options, port = sys.argv[1:]
    os.environ.update(HOOK)
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
