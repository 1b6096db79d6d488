"""Ways to what is asked most that are shorter than FastAPI's and Ray Serve's own, which take longer than all else that few
rows need."""

import os
import pkgutil
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
    """What Ray Serve is to have before all of its own, as it finds it by ``environment``: the last of it is asked first, so
    what the cluster has there by itself still sees every request."""
    theirs = os.environ.get(_THEIRS)
    return [Middleware(Direct, ahead), *(pkgutil.resolve_name(theirs)() if theirs and theirs != _OURS else [])]


def environment() -> dict[str, str]:
    """Of a replica. What is ahead is in the thread in which Ray Serve reads requests, so all of the application has to be,
    too."""
    return {
        _THEIRS: f"${{{_HOOK}}}",  # as it is on the machine of the replica; Ray sets variables in the order of the alphabet
        _HOOK: _OURS,
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    }


_HOOK, _THEIRS = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "RAYGEN_HTTP_PROXY_CALLBACK_IMPORT_PATH"
_OURS = f"{__name__}:{first.__name__}"
