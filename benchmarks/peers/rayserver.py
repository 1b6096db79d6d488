"""Ray Serve without raygen for benchmarks/serve.py: python benchmarks/peers/rayserver.py MEDIA_TYPE PORT"""

import asyncio
import signal
import sys
from typing import Any

import ray
from answer import answered, generator
from fastapi import FastAPI, Request, Response
from ray import serve

api = FastAPI()


@serve.deployment(max_ongoing_requests=128)
@serve.ingress(api)
class Api:
    def __init__(self, kind: str) -> None:
        self.kind, self.made = kind, generator()

    @api.post("/v1/generate")
    async def generate(self, request: Request) -> Response:
        return Response(await self.together(await request.json()), media_type=self.kind)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.01)
    async def together(self, asked: list[dict[str, Any]]) -> list[bytes]:
        return await asyncio.to_thread(answered, self.made, self.kind, asked)


if __name__ == "__main__":
    ray.init(logging_level="ERROR", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
    serve.run(Api.bind(sys.argv[1]), name="plain", route_prefix="/")
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    serve.shutdown()
