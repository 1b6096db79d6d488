"""What nobody asks who means well, over raw sockets: refused in a sentence that tells nothing, while others are answered."""

import contextlib
import gzip
import http.client
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import endpoints
import pytest

import raygen
from raygen.serving import auth, guard
from raygen.serving.answers import MEDIA_TYPES
from raygen.serving.app import app
from raygen.serving.auth import Doorkeeper, Token

ANA, OLD = auth.make(), auth.make()
TOKENS = [Token(name="ana", sha256=ANA[1]), Token(name="old", sha256=OLD[1], expires="2020-01-01")]  # type: ignore[arg-type]
WHO = f"authorization: Bearer {ANA[0]}\r\n"
SLOWEST = 1.0


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Place(NamedTuple):
    """Where the server is, and what it must not tell."""

    port: int
    store: Path
    log: pytest.LogCaptureFixture

    def told(self, *parts: bytes, half: bool = False) -> Answer | None:
        """What it answers to bytes, or that it closes without a word. ``half``: nothing else will come from here."""
        with socket.create_connection((endpoints.LOOPBACK, self.port), timeout=20) as line:
            for part in parts:
                line.sendall(part)
            if half:
                line.shutdown(socket.SHUT_WR)
            answer = http.client.HTTPResponse(line, method="HEAD" if parts[0].startswith(b"HEAD") else None)
            try:
                answer.begin()
                return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
            except (ConnectionError, http.client.BadStatusLine):
                return None

    def check(self, answer: Answer | None) -> None:
        """That nothing leaked, and nothing broke."""
        texts = [] if answer is None else [answer.body.decode("latin-1"), str(answer.headers)]
        for text in [*texts, self.log.text]:
            for secret in (ANA[0], OLD[0], ANA[1], str(self.store), "Traceback", "site-packages", 'File "', " failed"):
                assert secret not in text, text[:2000]
        if answer is not None and answer.status >= 400 and answer.headers["content-type"] != "text/plain; charset=utf-8":
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["x-content-type-options"] == "nosniff"
            if answer.body:
                document = json.loads(answer.body)
                assert document["status"] == answer.status
                assert document["request_id"] == answer.headers["x-request-id"]
                assert len(answer.body) < 2000, answer.body
        healthy = self.told(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        assert healthy is not None
        assert healthy.status == 200


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    store = tmp_path_factory.mktemp("store")
    with endpoints.served(endpoints.api(endpoints.models(store), TOKENS)) as port:
        yield port, store


@pytest.fixture
def place(server: tuple[int, Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Place:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(guard, "SLOWEST", SLOWEST)
    return Place(*server, caplog)


def post(body: bytes, path: str = "/v1/generate", headers: str = WHO, kind: str = "application/json") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    return head.encode("latin-1") + body


def asked(**what: Any) -> bytes:
    return json.dumps({"model": "digits", **what}).encode()


NO_QUESTIONS = [
    b"", b" ", b"{", b"null", b"[]", b'"rows"', b"1", b"{}{}", b"{'rows': 1}", b'{"rows": 1,}', b"//\n{}",
    b'{"model": "digits", "rows": 1e400}', asked(rows=2**70), asked(rows=-1), asked(rows=0), asked(rows=1.5),
    asked(rows="1"), asked(rows=True), asked(rows=None), asked(rows=[1]), asked(rows={"a": 1}),
    b'{"model": "digits", "rows": NaN}', b'{"model": "digits", "where": {"a": Infinity}}',
    b'{"model": "adult", "where": {"age": [18, 1e999]}}', b'{"model": "digits", "seed": 1e0}',
    b'{"model": "digits", "rows": ' + b"1" * 4301 + b"}", b'{"model": "digits", "condition": ' + b"9" * 4300 + b"}",
    b'{"model": "digits", "rows": 1, "rows": 1}', b'{"model": "digits", "where": {"a": {"b": 1, "b": 2}}}',
    b"[" * 60_000, b'{"a":' * 12_000, b'{"where": ' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"model": "digits\xff"}', '{"model": "digits"}'.encode("utf-16"), b'\xef\xbb\xbf{"model": "digits"}',
    b'{"model": "\\ud800"}', b'{"model": "digits", "condition": "\\ud800"}', b'{"model": "digits", "\\udfff": 1}',
    b'{"model": "digits\\u0000"}', b'{"model": "digits\\n"}', asked(model="../../etc"), asked(model="digits/.."),
    asked(model="%2e%2e"), asked(model=""), asked(model="d" * 129), asked(condition="x" * 50_000), asked(condition=[7, 7]),
    asked(condition={"label": 7}), asked(condition=7.0), asked(condition=2**64), asked(digest="x"), asked(digest="a" * 65),
    asked(start=2**49), asked(seed=2**63), asked(__proto__={}), asked(where="x"), asked(where=[]), asked(where={"label": 7}),
]  # fmt: skip


@pytest.mark.parametrize("body", NO_QUESTIONS, ids=lambda body: repr(body[:40]))
def test_no_question(place: Place, body: bytes) -> None:
    answer = place.told(post(body))
    assert answer is not None
    assert answer.status == 422, answer
    place.check(answer)


WHERE = [
    None, {}, {"age": None}, {"age": {}}, {"age": []}, {"age": [[]]}, {"age": [None, None]}, {"age": [18, None]},
    {"age": [25, 18]}, {"age": [1, 2, 3]}, {"age": "x"}, {"age": ["18", "25"]}, {"age": [18, "x"]}, {"age": True},
    {"age": [True, False]}, {"age": 1e308}, {"age": [-1e308, 1e308]}, {"age": 10**4000}, {"age": [0, 10**4000]},
    {"age": 10**400}, {"age": -0.0}, {"age": 18.5}, {"age": {"min": 18}}, {"age": list(range(5000))}, {"income": []},
    {"income": None}, {"income": 5}, {"income": {"a": 1}}, {"income": [[">50K"]]}, {"income": [">50K", ">50K"]},
    {"income": ["x" * 30_000]}, {"income": [1.5, True, None, {}]}, {"": 1}, {"x" * 30_000: 1}, {"Age": 18},
    {"age\x00": 18}, {f"c{n}": n for n in range(3000)}, {"age": 18, "income": "\x00"}, {"age": [18, 25], "income": ">50K"},
]  # fmt: skip


@pytest.mark.parametrize("where", WHERE, ids=lambda where: repr(where)[:40])
def test_odd_conditions(place: Place, where: Any) -> None:
    answer = place.told(post(asked(model="adult", where=where)))
    assert answer is not None
    assert answer.status in (200, 422), answer
    place.check(answer)


@pytest.mark.parametrize("prompt", ["\x00", "[" * 900, '{"a":' * 150, "9" * 999, "-0", "1e999", "NaN", "7.0", "true", '"7"'])
def test_odd_prompts(place: Place, prompt: str) -> None:
    answer = place.told(post(asked(prompt=prompt), "/v1/images/generations"))
    assert answer is not None
    assert answer.status in (200, 422), answer
    place.check(answer)


@pytest.mark.parametrize("kind", MEDIA_TYPES)
@pytest.mark.parametrize("rows", [endpoints.MOST_ROWS + 1, 2**31, 2**48])
def test_too_many_rows(place: Place, kind: str, rows: int) -> None:
    answer = place.told(post(asked(rows=rows), headers=f"{WHO}accept: {kind}\r\n"))
    assert answer is not None
    assert answer.status == 422
    assert json.loads(answer.body)["most"] <= endpoints.MOST_ROWS
    place.check(answer)


def get(path: str, headers: str = WHO, method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    return f"{method} {path} {version}\r\nhost: a\r\n{headers}\r\n".encode("latin-1")


PATHS = [
    "//v1/models", "/v1//models", "/v1/../v1/models", "/v1/models/", "/v1/models/../../../etc/passwd", "/%2e%2e/%2e%2e/etc",
    "/v1/models%00", "/%00", "/web/../../serving/app.py", "/web/%2e%2e/page.py", "/web/..%2fpage.py", "/web/", "/web",
    "/v1/models;a=b", "/V1/MODELS", "/v1/models%20", "/docs", "/redoc", "/metrics/..", "/.git/config", "/a" * 10_000,
    "/v1/models%ff", "/é", "/v1/\\models",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:40])
def test_paths_that_there_are_not(place: Place, path: str) -> None:
    answer = place.told(get(path))
    assert answer is not None
    assert answer.status in (404, 400), answer
    place.check(answer)


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/v1/generate", "/none"])
@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PUT", "DELETE", "PATCH", "CONNECT", "FOO", "get"])
def test_methods(place: Place, path: str, method: str) -> None:
    answer = place.told(get(path, method=method))
    assert answer is not None
    assert answer.status in ((404, 400) if path == "/none" else (405, 400)), answer
    place.check(answer)


def test_head(place: Place) -> None:
    answer = place.told(get("/v1/models", method="HEAD"))
    assert answer is not None
    assert (answer.status, answer.body) == (200, b"")
    place.check(answer)


BODY = asked(rows=1)
REQUESTS: list[tuple[bytes, set[int | None]]] = [
    (get("/healthz", version="HTTP/1.0"), {200}),
    (b"GET /healthz\r\n\r\n", {200, 400, None}),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, None}),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 300, {400, None}),
    (get("*", method="OPTIONS"), {400, 404, 405}),
    (get("http://evil.example/v1/models"), {200, 400, 404}),
    (get("/v1/models", headers="x: \x00\r\n"), {400}),
    (get("/v1/models", headers=f"{WHO} folded: yes\r\n"), {200, 400, 401}),
    (get("/v1/models", headers=WHO + "".join(f"x{n}: {n}\r\n" for n in range(5000))), {400, 431}),
    (get("/v1/models", headers=f"{WHO}x: {'x' * 40_000}\r\n"), {400, 431}),
    (post(BODY, kind="text/plain"), {415}),
    (post(BODY, kind="multipart/form-data; boundary=x"), {415}),
    (post(BODY, kind="application/json, text/plain"), {415}),
    (post(BODY, kind="application/json; charset=utf-16"), {200, 415}),
    (post(gzip.compress(b"0" * 50_000_000), headers=f"{WHO}content-encoding: gzip\r\n"), {415, 413}),
    (post(BODY, headers=f"{WHO}content-encoding: identity, gzip\r\n"), {415}),
    (post(b" " * 65_537), {413}),
    (post(BODY, headers=f"{WHO}content-length: {len(BODY) + 1}\r\n"), {400}),
    (post(BODY, headers=f"{WHO}transfer-encoding: chunked\r\n"), {400}),
    (post(BODY, headers=f"{WHO}transfer-encoding: xchunked\r\n"), {400, 422, 501}),
    (post(BODY, headers=f"{WHO}transfer-encoding : chunked\r\n"), {400}),
    (post(BODY).replace(b"content-length: ", b"content-length: +"), {400}),
    (post(BODY).replace(b"content-length: ", b"content-length: 0x"), {400}),
    (post(BODY).replace(b"content-length: ", b"content-length: 999999999999999999"), {400, 413}),
    (post(BODY, headers=f"{WHO}{WHO}"), {400}),
    (post(BODY, headers=f"{WHO}authorization: Bearer x\r\n"), {400}),
    (post(BODY, headers=""), {401}),
    (post(BODY, headers="authorization: Bearer\r\n"), {401}),
    (post(BODY, headers="authorization: Bearer x\r\n"), {401}),
    (post(BODY, headers=f"authorization: Basic {ANA[0]}\r\n"), {401}),
    (post(BODY, headers=f"authorization: Bearer {ANA[0]}x\r\n"), {401}),
    (post(BODY, headers=f"authorization: Bearer {ANA[1]}\r\n"), {401}),
    (post(BODY, headers=f"authorization: Bearer {OLD[0]}\r\n"), {401}),
    (post(BODY, headers="authorization: Bearer \xe9\xff\r\n"), {401}),
    (post(BODY, headers=f"authorization: Bearer {'x' * 20_000}\r\n"), {401}),
    (post(BODY, headers=f"authorization: Bearer {'x' * 200_000}\r\n"), {400, 431}),
    (post(BODY, headers=f"{WHO}accept: {'a/b;q=0.1,' * 3000}\r\n"), {406}),
    (post(BODY, headers=f"{WHO}accept: {';' * 30_000}\r\n"), {406}),
    (post(BODY, headers=f"{WHO}accept: */*;q=nan\r\n"), {200, 406}),
    (post(BODY, headers=f"{WHO}accept: */*;q=1e999\r\n"), {200, 406}),
    (post(BODY, headers=f"{WHO}accept: text/html\xff\x01\r\n"), {400, 406}),
    (post(BODY, headers=f"{WHO}expect: 100-continue\r\n"), {200}),
    (post(BODY, headers=f"{WHO}expect: 200-maybe\r\n"), {200, 417}),
    (post(BODY, headers=f"{WHO}x-http-method-override: DELETE\r\nx-forwarded-for: ../../x\r\n"), {200}),
]


@pytest.mark.parametrize(("request_", "statuses"), REQUESTS, ids=[repr(request_[:30]) for request_, _ in REQUESTS])
def test_odd_requests(place: Place, request_: bytes, statuses: set[int | None]) -> None:
    answer = place.told(request_)
    assert (None if answer is None else answer.status) in statuses, answer
    place.check(answer)


HALF = post(BODY)[:-5]
CHUNKED = post(b"").replace(b"content-length: 0", b"transfer-encoding: chunked")


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ((HALF,), 408), ((CHUNKED,), 408), ((CHUNKED + b"5\r\n12345\r\n",), 408), ((CHUNKED + b"ffffffffff\r\n123",), 408),
        ((CHUNKED + b"x\r\n",), 400), ((CHUNKED + b"-1\r\n",), 400), ((CHUNKED, b"100\r\n" + b" " * 256 + b"\r\n"), 408),
        ((CHUNKED, *[b"1000\r\n" + b" " * 4096 + b"\r\n"] * 17), 413),
    ],
)  # fmt: skip
def test_bodies_that_do_not_end(place: Place, parts: tuple[bytes, ...], status: int) -> None:
    started = time.monotonic()
    answer = place.told(*parts)
    assert answer is not None
    assert answer.status == status
    assert answer.headers.get("connection") == "close"
    assert time.monotonic() - started < 10 * SLOWEST
    place.check(answer)


@pytest.mark.parametrize("part", [HALF, CHUNKED, b"POST", b"GET /healthz HTTP/1.1\r\nhost"])
def test_who_hangs_up_midway(place: Place, part: bytes) -> None:
    answer = place.told(part, half=True)
    assert answer is None or answer.status == 400
    place.check(answer)


def test_what_follows_a_body_is_another_request(place: Place) -> None:
    """Two requests in one piece are two; what is beyond a body is none of it."""
    second = get("/v1/models", headers="connection: close\r\n")  # without a token: not answered as the one before
    with socket.create_connection((endpoints.LOOPBACK, place.port), timeout=20) as line:
        line.sendall(post(BODY) + second)
        both = b"".join(iter(lambda: line.recv(65536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", both) == [b"200", b"401"]
    place.check(None)


def test_slow_ones_keep_nobody_waiting(place: Place) -> None:
    """A hundred requests whose bodies come a byte at a time: others are answered meanwhile, and these told to hurry."""
    slow = [socket.create_connection((endpoints.LOOPBACK, place.port), timeout=20) for _ in range(100)]
    over = threading.Event()
    try:
        for line in slow:
            line.sendall(HALF[:-40])
        dripping = threading.Thread(target=drip, args=(slow, over))
        dripping.start()
        for _ in range(5):
            answer = place.told(post(BODY))
            assert answer is not None
            assert answer.status == 200
        for line in slow:
            data = b""
            with contextlib.suppress(ConnectionResetError):  # what still came when it was closed
                data = b"".join(iter(lambda: line.recv(65536), b""))  # noqa: B023 - it is used up at once
            assert data == b"" or data.startswith(b"HTTP/1.1 408 ")
    finally:
        over.set()
        dripping.join(10)
        for line in slow:
            line.close()
    place.check(None)


def drip(lines: list[socket.socket], over: threading.Event) -> None:
    for at in range(-40, 0):
        for line in lines:
            with contextlib.suppress(OSError):
                line.sendall(HALF[at : at + 1])
        if over.wait(SLOWEST / 5):
            return


def test_nothing_of_a_failure_is_told(
    server: tuple[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    models = endpoints.models(tmp_path)
    monkeypatch.setattr(models.find("digits").generator, "batch", lambda *_: 1 / 0)
    monkeypatch.setattr(models.find("digits").generator, "sample", lambda *_: 1 / 0)
    with endpoints.served(endpoints.api(models, TOKENS)) as port:
        for body, path in ((BODY, "/v1/generate"), (asked(prompt="7"), "/v1/images/generations")):
            answer = Place(port, tmp_path, caplog).told(post(body, path))
            assert answer is not None
            assert answer.status == 500
            said = json.loads(answer.body)
            assert said["detail"] == "raygen failed at this; it is in its log"
            assert "division" not in str(answer)
            assert f"request {said['request_id']} failed" in caplog.text
        assert "ZeroDivisionError" in caplog.text
        assert ANA[0] not in caplog.text


def test_where_no_token_is_asked_for_a_page_from_elsewhere_gets_nothing(tmp_path: Path) -> None:
    """DNS rebinding: a name of somebody else's that means this machine makes a browser ask us as its own origin."""
    models = endpoints.models(tmp_path)
    replica = app(models, Doorkeeper(None), 10, loopback=True)
    with endpoints.served(replica) as port:
        for path in (b"/", b"/healthz", b"/v1/models"):
            for host, status in (
                (b"127.0.0.1:8000", 200), (b"127.0.0.7", 200), (b"[::1]:80", 200), (b"LocalHost:1", 200),
                (b"evil.example", 421), (b"localhost.evil.example:8000", 421), (b"10.0.0.1", 421),
                (b"127.0.0.1.nip.io", 421), (b"0.0.0.0:8000", 421), (b"", 421), (b"localhost@evil.example", 421),
            ):  # fmt: skip
                with socket.create_connection((endpoints.LOOPBACK, port), timeout=20) as line:
                    line.sendall(b"GET " + path + b" HTTP/1.1\r\nhost: " + host + b"\r\nconnection: close\r\n\r\n")
                    answer = http.client.HTTPResponse(line)
                    answer.begin()
                    assert answer.status == status, (path, host, answer.read())
                    assert status == 200 or json.loads(answer.read())["status"] == 421
        for name in ("127.0.0.1", "localhost"):
            with raygen.Client(f"http://{name}:{port}") as client:
                assert len(client.generate(3, model="adult")) == 3
