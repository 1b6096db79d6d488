"""LitServe for benchmarks/serve.py: python benchmarks/peers/litserver.py MEDIA_TYPE [hooks] PORT"""

import sys
from typing import Any

import litserve
from answer import answered, asks, generator
from starlette.responses import Response

from raygen.serving import answers


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.made = generator()

    def batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return inputs

    def predict(self, x: list[dict[str, Any]]) -> list[bytes]:
        return answered(self.made, sys.argv[1], x)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type=sys.argv[1])


class Hooks(Api):
    """As LitServe's manual has it: the batch is the network's, and each answer is written by itself."""

    def predict(self, x: list[dict[str, Any]]) -> list[Any]:
        return self.made.batch(asks(self.made, x))

    def encode_response(self, output: Any) -> Response:
        table = self.made.codec.decode(output)
        return Response(answers.whole(sys.argv[1], self.made.codec, table), media_type=sys.argv[1])


if __name__ == "__main__":
    api = (Hooks if "hooks" in sys.argv else Api)(max_batch_size=64, batch_timeout=0.01, api_path="/v1/generate")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True, disable_openapi_url=True)
    server.run(host="127.0.0.1", port=int(sys.argv[-1]), num_api_servers=1, log_level="warning", generate_client_file=False)
