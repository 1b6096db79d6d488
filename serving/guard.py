"""What stands before the API: limits of what is read, headers of what is answered, problems, and the access log."""

import asyncio
import ipaddress
import json
import logging
import math
import re
import secrets
import time
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raygen.errors import RaygenError
from raygen.serving import record
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


def protect(api: FastAPI, metrics: Metrics, loopback: bool = False) -> None:
    """Put it before an application, whose requests are counted.

    Args:
        api: the application.
        metrics: where they are counted.
        loopback: whether only who calls it by a name of this machine is answered.
    """

    @api.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        return _answer(request, error)

    @api.exception_handler(RaygenError)
    async def mistake(request: Request, error: RaygenError) -> Response:
        return _answer(request, Problem.of(error))

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        wrong = [{"where": ".".join(map(str, found["loc"][1:])), "what": found["msg"]} for found in error.errors()[:10]]
        first = wrong[0]
        return _answer(request, Problem(422, f"{first['where'] or 'body'}: {first['what']}", more={"errors": wrong}))

    @api.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        hint = "/openapi.json says what there is" if error.status_code in (404, 405) else ""
        return _answer(request, Problem(error.status_code, str(error.detail), hint, error.headers or {}))

    api.add_middleware(Guard, metrics=metrics, loopback=loopback)


def _answer(request: Request, problem: Problem) -> Response:
    record.current().limit = str(problem.more.get("limit", ""))
    document = problem.document(str(request.scope.get("raygen.id", "")))
    return Response(json.dumps(document, default=str), problem.status, dict(problem.headers), MEDIA_TYPE)


class Guard:
    """ASGI middleware: every request gets an id, has to be short, plain and soon there, and is told in the log."""

    def __init__(self, app: ASGIApp, metrics: Metrics, loopback: bool = False) -> None:
        self.app, self.metrics, self.loopback = app, metrics, loopback
        self._routes: dict[str, set[str]] = {}

    def _methods(self, scope: Scope) -> set[str]:
        """What can be done at its path; nothing where there is none."""
        if not self._routes and "app" in scope:
            for route in scope["app"].routes:
                self._routes.setdefault(getattr(route, "path", ""), set()).update(getattr(route, "methods", None) or ())
        return self._routes.get(scope["path"], set())

    def _is_asked(self, scope: Scope) -> bool:
        """Whether it is a question in JSON; what there is no route for, the application refuses."""
        return scope["method"] == "POST" and "POST" in self._methods(scope)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = _given(scope)
        started, name = time.perf_counter(), given or secrets.token_hex(8)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]  # the server leaves out the body
        scope = {**scope, "method": method, "raygen.id": name}
        of = record.begin()
        self.metrics.begin()
        said: dict[str, Any] = {"status": 0, "bytes": 0, "first": None}

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                said["status"] = message["status"]
                known = {key.lower() for key, _ in message["headers"]}
                ours = HEADERS if given else {**HEADERS, "x-request-id": name}  # who gave it one answers with it
                more = [(key.encode(), value.encode()) for key, value in ours.items() if key.encode() not in known]
                message = {**message, "headers": [*message["headers"], *more]}
            elif message["type"] == "http.response.body":
                said["bytes"] += len(message.get("body", b""))
                said["first"] = said["first"] or time.perf_counter() - started
            await send(message)

        try:
            asked = self._is_asked(scope)
            refused = _refusal(scope, asked)
            if refused is None and self.loopback:
                refused = _elsewhere(scope)
            if refused is None:
                body, refused = await self._read(receive)
            if refused is None and asked:
                refused = _unfit(body)
            if refused is not None:
                response = _answer(Request(scope), refused)
                response.headers["connection"] = "close"  # what it has not read is not read by anyone
                await response(scope, receive, answer)
                return
            await self.app(scope, _told(body, receive), answer)
        except Exception:
            log.exception("request %s failed", name)
            if said["status"]:  # who gets an answer has to see that it broke off
                raise
            problem = Problem(500, "raygen failed at this; it is in its log", "quote the request_id")
            await _answer(Request(scope), problem)(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - started
            self.metrics.end(of, scope["path"] if self._methods(scope) else "other", said["status"], seconds)
            if log.isEnabledFor(logging.INFO):
                log.info("%s", json.dumps({
                    "at": datetime.now(UTC).isoformat(timespec="milliseconds"), "id": name, "method": scope["method"],
                    "path": scope["path"][:200], "status": said["status"], "bytes": said["bytes"],
                    "first_byte_s": round(said["first"] or seconds, 4), "seconds": round(seconds, 4),
                    "client": (scope.get("client") or ("",))[0], **of.told,
                }))  # fmt: skip

    async def _read(self, receive: Receive) -> tuple[bytes, Problem | None]:
        """The whole body, or why not."""
        parts, size = [], 0
        try:
            async with asyncio.timeout(SLOWEST):
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
    sent = [key.lower() for key, _ in scope["headers"]]
    for header in ONCE:
        if sent.count(header) > 1:
            return Problem(400, f"the header {header.decode()} is there twice")
    if sum(len(key) + len(value) for key, value in scope["headers"]) > MOST_HEADERS:
        return Problem(431, f"the headers have more than {MOST_HEADERS:,} bytes", "send fewer")
    headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal()) or len(length) > 15:
        return Problem(400, "the header Content-Length is no number")
    if int(length) > MOST_BODY:
        return _too_long()
    if headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        return Problem(415, "the request is compressed", "send it as it is: it is short")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if asked and kind != "application/json":
        return Problem(415, f"the request is of type {kind[:100] or 'nothing'!r}", "send Content-Type: application/json")
    return None


def _elsewhere(scope: Scope) -> Problem | None:
    """Why who calls us by this name is not answered: where no token is asked for, a page from anywhere could ask, by a name
    of its own that it lets mean this machine (DNS rebinding)."""
    host = next((value.decode("latin-1") for key, value in scope["headers"] if key.lower() == b"host"), "")
    name = re.sub(r":[0-9]*$", "", host)
    try:
        known = ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        known = name.lower() == "localhost"
    hint = "ask by localhost or 127.0.0.1, or serve with tokens"
    return None if known else Problem(421, f"{host[:100]!r} is no name of this machine", hint)


def _unfit(body: bytes) -> Problem | None:
    """Why a request is no JSON that means one thing to everybody (RFC 7493, I-JSON)."""
    try:
        json.loads(body.decode(), object_pairs_hook=_members, parse_constant=_number, parse_float=_number)
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


def _too_long() -> Problem:
    return Problem(413, f"the request has more than {MOST_BODY:,} bytes", "ask for less at once")
