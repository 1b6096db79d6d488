"""Who may ask, and for how much: bearer tokens (RFC 6750), of which nothing but SHA-256 digests is kept.

A token is 256 random bits, so a fast hash is as good as a slow one: there is nothing to guess. ``raygen token`` makes
one. They are listed in a YAML file:

    - {name: ana, sha256: 9f86d081884c…, rows: 1000000, concurrent: 100000}
    - {name: nightly, sha256: 60303ae22b99…, expires: 2027-07-01}

or in an environment variable, ``RAYGEN_TOKENS="ana:rg_…,nightly:rg_…"``, which hands over the tokens themselves.
"""

import hashlib
import hmac
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError

from raygen.errors import SpecError
from raygen.serving.book import Book
from raygen.serving.ledger import WINDOWS
from raygen.serving.problems import Problem

PREFIX = "rg_"
VARIABLE = "RAYGEN_TOKENS"
UNDER_WAY = "raygen_rows_under_way"
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="raygen"'}


def _in_utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


class Token(BaseModel):
    """What one who asks is known by.

    Attributes:
        name: for the log and the limits; never secret.
        sha256: of the token, hexadecimal.
        rows: how many rows it may ask for in 24 hours, which are counted by slices of ten minutes; without it, any number.
        concurrent: how many rows may be under way for it at once.
        requests: how many requests it may make in a minute.
        expires: from when on it is not good any more: a date, which is its first moment in UTC, or a date and time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    rows: PositiveInt | None = None
    concurrent: PositiveInt | None = None
    requests: PositiveInt | None = None
    expires: Annotated[datetime | None, AfterValidator(_in_utc)] = None


_TOKENS = TypeAdapter(list[Token])


def make() -> tuple[str, str]:
    """A new token, and its SHA-256: the first for who asks, the second for the file."""
    token = PREFIX + secrets.token_urlsafe(32)
    return token, digest(token)


def digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


def issue(name: str, **limits: int | str | None) -> tuple[str, str]:
    """A new token, and its line in a file of tokens.

    Args:
        name: who is to have it.
        limits: as of :class:`Token`, ``expires`` as text; None is none.

    Raises:
        SpecError: the name is not one, or the date.
    """
    secret, sha256 = make()
    entry = {"name": name, "sha256": sha256, **{key: limit for key, limit in limits.items() if limit is not None}}
    try:
        Token.model_validate(entry)
    except ValidationError as error:
        if error.errors()[0]["loc"] == ("expires",):
            raise SpecError(f"--expires {limits['expires']}: is no date", "as in 2027-07-01, or 2027-07-01T12:00Z") from None
        raise SpecError(f"{name[:80]!r} is no name for a token", "take letters, digits and . _ @ -, at most 64") from None
    return secret, "- {" + ", ".join(f"{key}: {json.dumps(value)}" for key, value in entry.items()) + "}"


def add(path: Path, entry: str) -> None:
    """Add a line to a file of tokens, which is made where there is none, for its owner's eyes only.

    Raises:
        SpecError: what is there is not one, or has the name; or it cannot be written.
    """
    before = ""
    if path.exists():
        read(path)
        before = path.read_text(encoding="utf-8")
    line = "\n" * (before != "" and not before.endswith("\n")) + entry + "\n"
    try:
        _distinct(_TOKENS.validate_python(yaml.safe_load(before + line)), str(path))
    except (yaml.YAMLError, ValidationError):
        raise SpecError(
            f"{path}: is not a list with a token a line, so none is added", f"add it yourself: {entry}"
        ) from None
    try:
        with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        raise SpecError(f"{path}: cannot be written ({error.strerror})", "choose another place") from None


def known(path: Path | None) -> list[Token]:
    """The tokens of a file, or of the environment where none is given.

    Raises:
        SpecError: there are none, so nobody could ask.
    """
    if path is not None:
        tokens, where = read(path), str(path)
    else:
        tokens, where = of_environment(os.environ.get(VARIABLE, "")), "neither --tokens nor RAYGEN_TOKENS"
    if not tokens:
        raise SpecError(
            f"{where}: has no token, so nobody could ask",
            "raygen token NAME --file tokens.yaml makes one; --insecure lets everybody on this machine ask",
        )
    return tokens


def read(path: str | Path) -> list[Token]:
    """The tokens of a file.

    Raises:
        SpecError: it is not there, or not what it should be.
    """
    try:
        tokens = _TOKENS.validate_python(yaml.safe_load(Path(path).read_bytes()) or [])
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read ({type(error).__name__})", "give a YAML list of tokens") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]  # what is there may be a token itself
        where = ".".join(map(str, first["loc"]))
        raise SpecError(f"{path}: {where}: {first['msg']}", "as in {name: ana, sha256: …}; raygen token makes one") from None
    return _distinct(tokens, str(path))


def of_environment(value: str) -> list[Token]:
    """The tokens of ``name:token,name:token``.

    Raises:
        SpecError: it is not so.
    """
    tokens = []
    for number, part in enumerate(filter(None, map(str.strip, value.split(","))), 1):
        name, colon, token = part.partition(":")
        if not colon or len(token) < 16:
            raise SpecError(
                f"RAYGEN_TOKENS: entry {number} is not NAME:TOKEN, of 16 characters or more", "raygen token makes one"
            )
        try:
            tokens.append(Token(name=name, sha256=digest(token)))
        except ValidationError:
            raise SpecError(f"RAYGEN_TOKENS: entry {number} has no name of letters and digits", "as in ana:rg_…") from None
    return _distinct(tokens, "RAYGEN_TOKENS")


def _distinct(tokens: Sequence[Token], where: str) -> list[Token]:
    for attribute in ("name", "sha256"):
        values = [getattr(token, attribute) for token in tokens]
        if len(set(values)) < len(values):
            raise SpecError(f"{where}: two tokens have the same {attribute}", "give each its own")
    return [*tokens]


class Doorkeeper:
    """Lets in who has a token, within its limits, which hold over all replicas: see `ledger`.

    Args:
        tokens: who may ask; None lets everybody in, by the name ``anybody``.
        book: where it is counted what they ask for.
    """

    def __init__(self, tokens: Sequence[Token] | None, book: Book | None = None) -> None:
        self._tokens = None if tokens is None else [*tokens]
        self.book = book or Book()

    def who(self, headers: Mapping[str, str]) -> Token:
        """The one whose token the header ``authorization`` has.

        Raises:
            Problem: 401; it has none, or not that of anybody.
        """
        if self._tokens is None:
            return ANYBODY
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise Problem(401, "there is no bearer token", "send Authorization: Bearer TOKEN", CHALLENGE)
        asked, found = digest(given.strip()), None
        for token in self._tokens:  # all of them, so that the time tells nothing
            if hmac.compare_digest(token.sha256, asked):
                found = token
        if found is None:
            raise _invalid("is not known")
        if found.expires is not None and found.expires <= datetime.now(UTC):
            raise _invalid(f"expired on {found.expires:%Y-%m-%d}")
        return found

    @contextmanager
    def admitted(self, token: Token, rows: int) -> Iterator[None]:
        """While its rows are under way.

        Raises:
            Problem: 429; it has asked for too much, with ``Retry-After``; 422; it asks for what it never may at once.
        """
        if token.concurrent is not None and rows > token.concurrent:
            what, hint = f"this token may ask for {token.concurrent:,} rows at once", "ask for fewer, by start"
            raise Problem(422, what, hint, more={"limit": "concurrent", "most": token.concurrent})
        book, under_way = self.book, (UNDER_WAY, token.name)
        limits = [("requests", token.requests, 1), ("rows", token.rows, rows)]
        for limit, most, asked in limits:
            if most is None:
                continue
            used = book.used(limit, token.name)
            if (excess := sum(used.values()) + asked - most) > 0:
                window = WINDOWS[limit]
                wait = window.until(used, excess, book.today()) if asked <= most else window.span
                raise _too_much(limit, f"{most:,} {limit} in {_SPANS[limit]}", wait)
        if token.concurrent is not None and book.level(under_way) + rows > token.concurrent:
            raise _too_much("concurrent", f"{token.concurrent:,} rows at once", 1)
        for limit, most, asked in limits:
            if most is not None:
                book.use(limit, token.name, asked)
        book.shift(under_way, rows)
        try:
            yield
        finally:
            book.shift(under_way, -rows)


def _invalid(why: str) -> Problem:
    challenge = {name: f'{value}, error="invalid_token"' for name, value in CHALLENGE.items()}
    return Problem(401, f"the bearer token {why}", "ask whoever runs this for another", challenge)


ANYBODY = Token(name="anybody", sha256="0" * 64)


_SPANS = {"rows": "24 hours", "requests": "a minute"}


def _too_much(limit: str, most: str, wait: float) -> Problem:
    seconds = str(max(1, math.ceil(wait)))
    told, more = {"Retry-After": seconds}, {"limit": limit}
    return Problem(429, f"this token may ask for {most}", f"try again in {seconds} s", told, more)
