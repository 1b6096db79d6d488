"""What an endpoint answers when it cannot do what was asked: problem details for HTTP APIs (RFC 9457)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from raygen.errors import RaygenError

MEDIA_TYPE = "application/problem+json"
MOST = 600
"""Characters of what is said."""


@dataclass
class Problem(Exception):  # noqa: N818 - the name that RFC 9457 gives it
    """Why a request is not answered as it wished.

    Attributes:
        status: of HTTP, 400 to 599.
        detail: what was wrong, and where.
        hint: what to do about it.
        headers: that belong to the status: ``Retry-After``, ``WWW-Authenticate``, ``Allow``.
        more: members of its own: the names of models there are, the field that is wrong.
    """

    status: int
    detail: str
    hint: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, error: RaygenError, status: int = 422) -> "Problem":
        """That of a mistake of whoever asked."""
        return cls(status, error.what, error.hint)

    def document(self, request: str) -> dict[str, Any]:
        """As JSON; ``request`` is the id that the log has, too."""
        title = HTTPStatus(self.status).phrase
        told = {"hint": _short(self.hint)} if self.hint else {}
        return {"type": "about:blank", "title": title, "status": self.status, "detail": _short(self.detail), **told,
                **self.more, "request_id": request}  # fmt: skip


def _short(text: str) -> str:
    """What somebody asked may be long, and is part of what is said of it."""
    return text if len(text) <= MOST else f"{text[: MOST // 2]} … {text[-MOST // 2 :]}"


def busy(seconds: int, detail: str = "every replica has as much to do as it may wait for") -> Problem:
    """More than there is room for, at the moment."""
    return Problem(503, detail, f"try again in {seconds} s", {"Retry-After": str(seconds)})
