"""Ways to what is asked most that are shorter than FastAPI's and Ray Serve's own, which take longer than all else that few
rows need."""

from collections.abc import Mapping

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

ahead: dict[str, ASGIApp] = {}
"""What the replica in this process answers before Ray Serve's own parts hear of it, by path. They would name, count, log
and trace it, and give it a place among others: raygen's own do all of that but to trace it."""


class Direct:
    """An ASGI application: a POST to some paths is answered by an application of its own.

    Args:
        rest: answers everything else.
        paths: those, and who answers; what they raise is for who stands before.
    """

    def __init__(self, rest: ASGIApp, paths: Mapping[str, ASGIApp]) -> None:
        self.rest, self.paths = rest, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = self.paths.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        await (path or self.rest)(scope, receive, send)


def first() -> list[Middleware]:
    """What Ray Serve is to have before all of its own, as it finds it by ``environment``."""
    return [Middleware(Direct, ahead)]


def environment() -> dict[str, str]:
    """Of a replica. What is ahead is in the thread in which Ray Serve reads requests, so all of the application has to be,
    too."""
    return {
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": f"{__name__}:{first.__name__}",
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    }
