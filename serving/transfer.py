"""Requests to an endpoint, tried again while what keeps them from an answer may pass."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from raygen.errors import RaygenError
from raygen.serving.problems import Problem

try:
    import httpx2 as httpx
    from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay, wait_random_exponential
except ImportError as error:
    raise RaygenError(f"raygen.Client needs the package {error.name}", "pip install 'raygen[serve]'") from None

log = logging.getLogger("raygen.client")

PASSING = {408, 429, 502, 503, 504}
"""States that an endpoint is in for a while: after them, and after a lost connection, it is asked again."""
_ONES_OWN = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)
_GROWING = wait_random_exponential(multiplier=0.2, max=10)
_MOST_PROBLEM = 64 * 1024

T = TypeVar("T")


class Transfer:
    """The connections to an endpoint; see ``Client``."""

    def __init__(self, url: str, token: str | None, timeout: float) -> None:
        base = _endpoint(url)
        if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
            raise RaygenError("the token has characters that no token has", "give it as raygen token printed it")
        if not timeout > 0:
            raise RaygenError(f"a time-out of {timeout} s lets nothing be answered", "give seconds, as in 60")
        headers = {"user-agent": "raygen", "accept-encoding": "identity"}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        self.url, self.timeout = url.rstrip("/"), timeout
        self._http = httpx.Client(base_url=base, headers=headers)

    def close(self) -> None:
        self._http.close()

    def tried(self, act: Callable[[float], T]) -> T:
        """What ``act`` gives, which is told the time (of ``time.monotonic``) until which it has to.

        Raises:
            RaygenError: it raised a ``Problem`` or a ``TransportError`` that does not pass, or not in time.
        """
        retrying = Retrying(
            retry=retry_if_exception(_passes),
            wait=_wait,
            stop=stop_before_delay(self.timeout),
            before_sleep=self._told,
            reraise=True,
        )
        try:
            return retrying(act, time.monotonic() + self.timeout)
        except Problem as problem:
            hint = problem.hint or ("try again later" if problem.status in PASSING else "look at the endpoint's log")
            raise RaygenError(f"{self.url}: {problem.detail}", hint) from None
        except httpx.TransportError as error:
            hint = "is it there, and is this its URL? raygen serve starts one"
            raise RaygenError(f"{self.url}: does not answer ({_reason(error)})", hint) from None

    def read(self, path: str) -> bytes:
        """What a path answers, as JSON; tried.

        Raises:
            RaygenError: see ``tried``.
        """
        return self.tried(lambda until: self.once(path, until))

    def once(self, path: str, until: float | None = None) -> bytes:
        """The same, not tried again.

        Raises:
            Problem, TransportError: see ``sent``.
        """
        with closing(self.sent("GET", path, until or time.monotonic() + self.timeout)) as answer:
            return answer.read()

    def sent(
        self, method: str, path: str, until: float, asked: Mapping[str, Any] | None = None, accept: str = "application/json"
    ) -> httpx.Response:
        """An answer that has begun, of the type that was asked for; who gets it reads it, and closes it.

        Raises:
            Problem: it is another answer.
            TransportError: there is none.
        """
        headers = {"accept": accept} if asked is None else {"accept": accept, "content-type": "application/json"}
        content = None if asked is None else _json(asked)
        left = max(until - time.monotonic(), 0.01)
        request = self._http.build_request(method, path, headers=headers, content=content, timeout=left)
        answer = self._http.send(request, stream=True)
        try:
            if answer.status_code != 200:
                raise _problem(answer)
            kind = answer.headers.get("content-type", "nothing").partition(";")[0]
            if kind != accept:
                raise Problem(200, f"answers with {kind[:100]}, not {accept}", "is this the URL of an endpoint of raygen?")
        except BaseException:
            answer.close()
            raise
        return answer

    def _told(self, state: RetryCallState) -> None:
        """Who waits for long would like to know why; of the tries after the first, who wants to know all."""
        assert state.outcome is not None
        level = logging.WARNING if state.attempt_number == 1 else logging.DEBUG
        log.log(level, "%s: %s; trying again", self.url, _reason(state.outcome.exception()))


def _endpoint(url: str) -> httpx.URL:
    try:
        base = httpx.URL(url)
        base.host.encode("idna")
    except (httpx.InvalidURL, UnicodeError) as error:
        raise RaygenError(f"{url!r}: is no URL ({error})", "as in http://127.0.0.1:8000") from None
    if base.userinfo or base.query or base.fragment:  # which errors and logs would tell
        raise RaygenError("the URL has more than a host, a port and a path", "as in http://127.0.0.1:8000; token=… apart")
    if base.scheme not in ("http", "https") or not base.host:
        raise RaygenError(f"{url!r}: is no URL of an endpoint", "as in http://127.0.0.1:8000")
    return base


def _passes(error: BaseException) -> bool:
    if isinstance(error, Problem):
        return error.status in PASSING
    return isinstance(error, httpx.TransportError) and not isinstance(error, _ONES_OWN)


def _wait(state: RetryCallState) -> float:
    assert state.outcome is not None
    error = state.outcome.exception()
    said = _seconds(error.headers.get("Retry-After")) if isinstance(error, Problem) else None
    return _GROWING(state) + (said or 0.0)  # those who are told the same do not come back at once


def _seconds(after: str | None) -> float | None:
    """Of ``Retry-After``: a number of them, or a date (RFC 9110)."""
    if after is None:
        return None
    if after.isdecimal():
        return float(after)
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
    except ValueError:
        return None


def _problem(answer: httpx.Response) -> Problem:
    """What an answer says that is none; what stands before an endpoint may speak another language."""
    text = bytearray()
    for part in answer.iter_raw():
        text += part
        if len(text) > _MOST_PROBLEM:
            break
    status, headers = answer.status_code, {}
    if (after := answer.headers.get("retry-after")) is not None:
        headers["Retry-After"] = after
    try:
        said = json.loads(bytes(text))
        detail, hint = str(said["detail"]), str(said.get("hint", ""))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return Problem(status, f"HTTP {status} {answer.reason_phrase}".strip(), headers=headers)
    return Problem(status, detail, hint, headers, said)


def _reason(error: BaseException | None) -> str:
    return error.detail if isinstance(error, Problem) else str(error) or type(error).__name__


def _json(asked: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(asked, ensure_ascii=False, allow_nan=False, default=_plain).encode()
    except (ValueError, TypeError) as error:
        raise RaygenError(f"what is asked cannot be said in JSON ({error})", "give plain values") from None


def _plain(value: Any) -> Any:
    """Dates as text, and values of numpy and Arrow as what they are."""
    for method in ("isoformat", "item", "as_py"):
        if hasattr(value, method):
            return getattr(value, method)()
    raise TypeError(f"{type(value).__name__} is no plain value")
