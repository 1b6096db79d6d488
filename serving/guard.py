"""What stands before the API: limits of what is read, headers of what is answered, problems, and the access log."""

import ipaddress
import json
import logging
import math
import re
import secrets
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raygen.errors import RaygenError
from raygen.serving import record
from raygen.serving.limits import Limits
from raygen.serving.metrics import Metrics
from raygen.serving.problems import MEDIA_TYPE, Problem

log = logging.getLogger("raygen.access")
_NAME = re.compile(rb"[A-Za-z0-9._-]{1,64}")

MOST_BODY = 64 * 1024
"""Bytes that a request may have: a question is short."""
SLOWEST = 10.0
"""Seconds in which the whole of it has to come."""
MOST_HEADERS = 32 * 1024
ONCE = {b"authorization", b"content-length", b"content-type", b"content-encoding", b"host", b"transfer-encoding"}
"""Headers of which two would mean that whoever looks next may go by the other one."""
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "frame-ancestors 'none'; form-action 'self'",
}
_HEADERS = [(key.encode(), value.encode()) for key, value in HEADERS.items()]
_NONE: set[str] = set()


def protect(api: FastAPI) -> None:
    """Have an application answer what goes wrong in it as `Guard` does."""

    async def answer(request: Request, error: Exception) -> Response:
        return _answer(request.scope, _problem(error) or _failure(request.scope, error))

    for kind in (Problem, RaygenError, RequestValidationError, HTTPException, Exception):
        api.add_exception_handler(kind, answer)


def _problem(error: Exception) -> Problem | None:
    """What of an error whoever asked is told; None where it is none of theirs."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, RaygenError):
        return Problem.of(error)
    if isinstance(error, RequestValidationError):
        wrong = [{"where": ".".join(map(str, found["loc"][1:])), "what": found["msg"]} for found in error.errors()[:10]]
        first = wrong[0]
        return Problem(422, f"{first['where'] or 'body'}: {first['what']}", more={"errors": wrong})
    if isinstance(error, HTTPException):
        hint = "/openapi.json says what there is" if error.status_code in (404, 405) else ""
        return Problem(error.status_code, str(error.detail), hint, error.headers or {})
    return None


def _failure(scope: Scope, error: Exception) -> Problem:
    """What whoever asked is told of an error that is ours, which the log has."""
    log.error("request %s failed", scope.get("raygen.id", ""), exc_info=error)
    return Problem(500, "raygen failed at this; it is in its log", "quote the request_id")


def _answer(scope: Scope, problem: Problem) -> Response:
    record.current().limit = str(problem.more.get("limit", ""))
    document = problem.document(str(scope.get("raygen.id", "")))
    return Response(json.dumps(document, default=str), problem.status, dict(problem.headers), MEDIA_TYPE)


class Guard:
    """ASGI middleware: every request gets an id, has to be short, plain and soon there, and is told in the log.

    Behind it, the body is in the scope as ``raygen.body``, too, and whoever fails with a `Problem` need not answer.

    Args:
        app: behind it.
        metrics: where its requests are counted.
        routes: what can be done where.
        loopback: whether only who calls it by a name of this machine is answered.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: Iterable[BaseRoute], loopback: bool = False) -> None:
        self.app, self.metrics, self.loopback = app, metrics, loopback
        self._methods: dict[str, set[str]] = {}
        for route in routes:
            if isinstance(route, Route):
                self._methods.setdefault(route.path, set()).update(route.methods or ())
        self._limits, self._lines = Limits(), record.Lines()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)  # as long as it runs, where it is its lifespan
            self._lines.write()
            return
        given = _given(scope)
        started, name = time.perf_counter(), given or secrets.token_hex(8)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]  # the server leaves out the body
        scope = {**scope, "method": method, "raygen.id": name}
        of, methods = record.begin(), self._methods.get(scope["path"], _NONE)
        self.metrics.begin()
        status, size, first, whole = 0, 0, 0.0, False

        async def answer(message: Message) -> None:
            nonlocal status, size, first, whole
            if message["type"] == "http.response.start":
                status, headers = message["status"], [*message["headers"]]
                known = {key for key, _ in headers}
                headers += [header for header in _HEADERS if header[0] not in known]
                if not given:  # who gave it one answers with it
                    headers.append((b"x-request-id", name.encode()))
                message = {**message, "headers": headers}
            elif message["type"] == "http.response.body":
                size, whole = size + len(message.get("body", b"")), not message.get("more_body", False)
                first = first or time.perf_counter() - started
            await send(message)

        try:
            asked = method == "POST" and "POST" in methods  # in JSON; what there is no route for, the application refuses
            refused = _refusal(scope, asked)
            if refused is None and self.loopback:
                refused = _elsewhere(scope)
            if refused is None:
                body, refused = await self._read(receive)
            if refused is None and asked:
                refused = _unfit(body)
            if refused is not None:
                response = _answer(scope, refused)
                response.headers["connection"] = "close"  # what it has not read is not read by anyone
                await response(scope, receive, answer)
                return
            scope["raygen.body"] = body
            await self.app(scope, _told(body, receive), answer)
        except Exception as error:
            if whole:  # FastAPI raises again what it has answered
                return
            found = _problem(error)
            problem = found or _failure(scope, error)
            if status:  # who gets an answer has to see that it broke off
                if found is not None:
                    log.warning("the answer to request %s broke off: %s", name, found.detail)
                raise
            await _answer(scope, problem)(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - started
            self.metrics.end(of, scope["path"] if methods else "other", status, seconds)
            if record.log.isEnabledFor(logging.INFO):
                self._lines.add({
                    "at": datetime.now(UTC).isoformat(timespec="milliseconds"), "id": name, "method": method,
                    "path": scope["path"][:200], "status": status, "bytes": size,
                    "first_byte_s": round(first or seconds, 4), "seconds": round(seconds, 4),
                    "client": (scope.get("client") or ("",))[0], **of.told,
                })  # fmt: skip

    async def _read(self, receive: Receive) -> tuple[bytes, Problem | None]:
        """The whole body, or why not."""
        parts, size = [], 0
        try:
            with self._limits.of(SLOWEST):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return b"", Problem(400, "the connection was closed before the request was there")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > MOST_BODY:
                        return b"", _too_long()
                    if not message.get("more_body", False):
                        return b"".join(parts), None
        except TimeoutError:
            return b"", Problem(408, f"the request was not there within {SLOWEST:.0f} s", "send it at once")


def _given(scope: Scope) -> str:
    """The id that whoever stands before us has given it, Ray Serve or HAProxy; empty where there is none to be logged."""
    for key, value in scope["headers"]:
        if key == b"x-request-id" and _NAME.fullmatch(value):
            return str(value.decode())
    return ""


def _told(body: bytes, receive: Receive) -> Receive:
    """What has been read, and then what comes: that who asked has gone."""
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _refusal(scope: Scope, asked: bool) -> Problem | None:
    """Why a request is not even read."""
    headers: dict[bytes, bytes] = {}
    size = 0
    for key, value in scope["headers"]:
        if key in headers and key in ONCE:
            return Problem(400, f"the header {key.decode()} is there twice")
        headers[key] = value
        size += len(key) + len(value)
    if size > MOST_HEADERS:
        return Problem(431, f"the headers have more than {MOST_HEADERS:,} bytes", "send fewer")
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 15:
        return Problem(400, "the header Content-Length is no number")
    if int(length) > MOST_BODY:
        return _too_long()
    if headers.get(b"content-encoding", b"identity").lower() not in (b"", b"identity"):
        return Problem(415, "the request is compressed", "send it as it is: it is short")
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if asked and kind != b"application/json":
        told = kind[:100].decode("latin-1") or "nothing"
        return Problem(415, f"the request is of type {told!r}", "send Content-Type: application/json")
    return None


def _elsewhere(scope: Scope) -> Problem | None:
    """Why who calls us by this name is not answered: where no token is asked for, a page from anywhere could ask, by a name
    of its own that it lets mean this machine (DNS rebinding)."""
    host = next((value for key, value in scope["headers"] if key == b"host"), b"").decode("latin-1")
    hint = "ask by localhost or 127.0.0.1, or serve with tokens"
    return None if _is_here(host) else Problem(421, f"{host[:100]!r} is no name of this machine", hint)


@lru_cache(64)
def _is_here(host: str) -> bool:
    name = re.sub(r":[0-9]*$", "", host)
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return name.lower() == "localhost"


def _unfit(body: bytes) -> Problem | None:
    """Why a request is no JSON that means one thing to everybody (RFC 7493, I-JSON)."""
    try:
        _JSON.decode(body.decode())
    except UnicodeDecodeError:
        why = "it is not UTF-8"
    except RecursionError:
        why = "it is nested too deeply"
    except json.JSONDecodeError as error:
        why = f"{error.msg} at character {error.pos}"
    except ValueError as error:  # ours, or that an integer has more digits than Python reads
        why = str(error)
    else:
        return None
    return Problem(422, f"the request is not JSON: {why}", "send one object, as /openapi.json says")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member is there twice")
    return members


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("it has a number that is not finite")
    return number


_JSON = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_number, parse_float=_number)


def _too_long() -> Problem:
    return Problem(413, f"the request has more than {MOST_BODY:,} bytes", "ask for less at once")
