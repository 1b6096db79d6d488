"""What is answered ahead of Ray Serve's own parts, by its own server."""

import os
import subprocess
import sys

from raygen.serving import direct

SERVED = """
import asyncio, urllib.request
from ray.serve._private import http_util
from ray.serve.config import HTTPOptions
from raygen.serving import direct

def told(what):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": what})
    return app

def asked(port, path, body):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", body) as answer:
        print(answer.read().decode(), "x-request-id" in answer.headers)

async def main():
    options = http_util.configure_http_middlewares(HTTPOptions(host="127.0.0.1", port=0))
    loop = asyncio.get_running_loop()
    task, server = await http_util.start_asgi_http_server(told(b"Ray Serve"), options, event_loop=loop)
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    for ahead in ({}, {"/v1/generate": told(b"raygen")}):
        direct.ahead.update(ahead)
        for path, body in (("/v1/generate", b"{}"), ("/v1/generate", None), ("/-/healthz", None)):
            await asyncio.to_thread(asked, port, path, body)
    server.should_exit = True
    await task

asyncio.run(main())
"""


def test_a_question_is_answered_before_ray_serve_hears_of_it() -> None:
    """By the hook of this very Ray Serve, which names every request that gets to it."""
    done = subprocess.run(
        [sys.executable, "-c", SERVED], env=os.environ | direct.environment(), capture_output=True, text=True, check=True
    )
    theirs = "Ray Serve True"
    assert done.stdout.splitlines() == [theirs, theirs, theirs, "raygen False", theirs, theirs]
