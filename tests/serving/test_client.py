"""The client, over real connections that break: the same rows as without, never fewer, and never those of two generators."""

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import endpoints
import httpx2 as httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3 import Fault, Proxy
from starlette.types import ASGIApp, Receive, Scope, Send

import raygen
from raygen.datasets.storage import Folder
from raygen.serving import auth, guard, stream
from raygen.serving import client as module
from raygen.serving.auth import Token
from raygen.serving.models import Models
from raygen.serving.tiles import PIECE

ASKED = {"model": "digits", "seed": 5, "start": 7}


class Busy:
    """Stands before an application, and answers some requests itself: what proxies say when nothing is behind them."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.asked: list[float] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(time.monotonic())
        if not self.answers:
            await self.app(scope, receive, send)
            return
        status, headers, body = self.answers.pop(0)
        told = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": told})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return endpoints.models(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def busy(models: Models) -> Busy:
    return Busy(endpoints.api(models))


@pytest.fixture(scope="module")
def port(busy: Busy) -> Iterator[int]:
    with endpoints.served(busy) as port:
        yield port


@pytest.fixture
def client(port: int, busy: Busy) -> Iterator[raygen.Client]:
    busy.answers.clear()
    busy.asked.clear()
    with raygen.Client(f"http://127.0.0.1:{port}", timeout=20) as client:
        yield client


@pytest.fixture
def proxy(port: int) -> Iterator[Proxy]:
    with Proxy(port) as proxy:
        yield proxy


def rows(models: Models, count: int, name: str = "digits", condition: int | None = None) -> pa.Table:
    return models.find(name).generator.sample(range(7, 7 + count), 5, condition)


def test_rows_are_those_of_the_generator(client: raygen.Client, models: Models) -> None:
    assert client.generate(100, **ASKED).equals(rows(models, 100))
    assert client.generate(3, **ASKED, condition=7).equals(rows(models, 3, condition=7))
    young = client.generate(50, model="adult", where={"age": [18, 25], "income": np.array([">50K"])[0]})
    assert set(young["income"].to_pylist()) == {">50K"}
    assert 18 <= min(young["age"].to_pylist()) <= max(young["age"].to_pylist()) <= 25


def test_a_condition_for_each_row(client: raygen.Client, models: Models) -> None:
    shown = [(3, 7, 0)[row % 3] for row in range(stream.LISTED + 100)]  # more than one request has
    wanted = models.find("digits").generator.sample(range(7, 7 + len(shown)), 5, shown)
    for column in (shown, np.array(shown), pa.array(shown)):
        assert client.generate(len(shown), **ASKED, condition=column).equals(wanted)  # type: ignore[arg-type]
    assert client.generate(2, **ASKED, condition=np.int64(7)).equals(rows(models, 2, condition=7))  # type: ignore[arg-type]


def test_conditions_that_are_too_long_for_one_request(
    client: raygen.Client, models: Models, busy: Busy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "MOST_BODY", 500)
    shown = [7] * 400
    assert client.generate(400, **ASKED, condition=shown).equals(rows(models, 400, condition=7))
    assert len(busy.asked) < 10  # what was too long is not tried again
    monkeypatch.setattr(guard, "MOST_BODY", 50)
    with pytest.raises(raygen.RaygenError, match="more than 50 bytes"):
        client.generate(400, **ASKED, condition=shown)


def test_a_file_of_large_rows(
    client: raygen.Client, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HELD", 40_000)
    monkeypatch.setattr("raygen.serving.tiles.PIECE", 64)  # of large rows, a piece is not more than it holds
    client.save(tmp_path / "rows.parquet", 1000, **ASKED)
    file = pq.ParquetFile(tmp_path / "rows.parquet")
    assert file.read().equals(rows(models, 1000))
    sizes = [file.read_row_group(group).nbytes for group in range(file.num_row_groups)]
    assert max(sizes) <= 40_000
    assert len(sizes) > 1


def test_what_is_served(client: raygen.Client, models: Models) -> None:
    assert client.models() == [served.about for served in models]
    assert client.healthy()


def test_any_number_of_rows_whatever_an_endpoint_answers_at_once(client: raygen.Client, models: Models, busy: Busy) -> None:
    wanted = 2 * endpoints.MOST_ROWS + 10
    pieces = list(client.batches(wanted, **ASKED))
    assert max(map(len, pieces)) <= PIECE
    assert pa.Table.from_batches(pieces).equals(rows(models, wanted))
    assert len(busy.asked) == 1 + 3  # the first is told how many it may ask for


def test_a_file(client: raygen.Client, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 1000)
    client.save(tmp_path / "new" / "rows.parquet", 2500, **ASKED)
    assert pq.read_table(tmp_path / "new" / "rows.parquet").equals(rows(models, 2500))
    assert pq.ParquetFile(tmp_path / "new" / "rows.parquet").num_row_groups == 3
    monkeypatch.chdir(tmp_path)
    client.save("rows.parquet", 1, **ASKED)
    with pytest.raises(raygen.RaygenError, match="no model of this name"):
        client.save("none.parquet", 10, model="none")
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["rows.parquet", "rows.parquet"]


def test_pictures(client: raygen.Client, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PICTURES_AT_ONCE", 10)
    pictures = client.images(23, **ASKED, condition=3)
    wanted = models.find("digits").codec.encode(rows(models, 23, condition=3))["image"]
    assert (np.stack([np.asarray(picture) for picture in pictures]) == wanted[:, 0]).all()
    with pytest.raises(raygen.RaygenError, match="application/zip"):
        client.images(1, model="adult")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_rows_go_on_where_the_connection_broke(client: raygen.Client, models: Models, proxy: Proxy, how: str) -> None:
    proxy.order(*(Fault("answer", how, after=after, times=1) for after in (0, 100, 20_000, 40_000, 80_001)))
    with raygen.Client(proxy.url, timeout=20) as broken:
        assert broken.generate(1000, **ASKED).equals(rows(models, 1000))
    assert len(proxy.struck) == 5
    sizes = {after: after for after in (300, 5000)}
    proxy.order(*(Fault("answer", how, after=after, times=1) for after in sizes))
    with raygen.Client(proxy.url, timeout=20) as broken:
        assert len(broken.images(50, **ASKED)) == 50
    assert len(proxy.struck) == 7


def test_every_place_where_a_stream_can_end(client: raygen.Client, models: Models, busy: Busy) -> None:
    """A proxy may end an answer early as if all had been said: what is too short is no answer."""
    kind = "application/vnd.apache.arrow.stream"
    stream = httpx.post(f"{client.url}/v1/generate", json={**ASKED, "rows": 100}, headers={"accept": kind}).content
    source = pa.BufferReader(stream)
    reader = pa.ipc.open_stream(source)
    between = [source.tell()]  # where it is well-formed, too
    reader.read_next_batch()
    between.append(source.tell())
    told = {"content-type": kind, "raygen-digest": models.find("digits").promotion.digest}
    wanted = rows(models, 100)
    for end in [0, 1, 7, 8, *between, *range(16, len(stream) - 9, 4000)]:
        busy.answers = [(200, told, stream[:end])]
        assert client.generate(100, **ASKED).equals(wanted), end
        assert busy.answers == []


def test_an_endpoint_that_is_not_there_yet(busy: Busy, models: Models) -> None:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{place.getsockname()[1]}"
    with raygen.Client(url, timeout=0.5) as client:
        assert not client.healthy()
        started = time.monotonic()
        with pytest.raises(raygen.RaygenError, match="does not answer"):
            client.generate(1)
        assert time.monotonic() - started < 2


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_what_passes_is_tried_again(client: raygen.Client, models: Models, busy: Busy, status: int) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)
    busy.answers = [(status, {"retry-after": said}, b"<html>") for said in ("0", soon, "soon")]
    assert client.generate(2, **ASKED).equals(rows(models, 2))
    busy.answers = [(status, {}, b"")]
    assert len(client.models()) == 2


def test_it_waits_as_long_as_it_is_told(client: raygen.Client, busy: Busy) -> None:
    busy.answers = [(503, {"retry-after": "1"}, b"")]
    client.generate(1, **ASKED)
    assert busy.asked[1] - busy.asked[0] >= 1
    busy.answers = [(429, {"retry-after": "80000", "content-type": "application/problem+json"}, b'{"detail": "enough"}')]
    with pytest.raises(raygen.RaygenError, match="enough"):  # at once: it would not be answered in time
        client.generate(1, **ASKED)
    assert len(busy.asked) == 3


@pytest.mark.parametrize(
    ("status", "headers", "body", "what"),
    [
        (500, {}, b"oh no", "HTTP 500 Internal Server Error"), (404, {}, b"[]", "HTTP 404 Not Found"),
        (302, {"location": "http://127.0.0.1/"}, b"", "HTTP 302 Found"), (400, {}, b"[" * 90_000, "HTTP 400"),
        (200, {"content-type": "text/html"}, b"<html>", "answers with text/html"), (204, {}, b"", "HTTP 204"),
        (422, {}, b'{"detail": "no\\nsuch", "hint": "do so"}', "no such\n  do so"),
    ],
)  # fmt: skip
def test_what_does_not_pass_is_said(
    client: raygen.Client, busy: Busy, status: int, headers: dict[str, str], body: bytes, what: str
) -> None:
    for ask in (lambda: client.generate(1, **ASKED), lambda: client.images(1, **ASKED), client.models):
        busy.answers = [(status, headers, body)]
        with pytest.raises(raygen.RaygenError) as raised:
            ask()
        assert what in str(raised.value)
        assert str(raised.value).startswith(client.url)
        assert len(str(raised.value).splitlines()) == 2
        assert busy.answers == []


@pytest.mark.parametrize("kept", [600.0, 0.0])
def test_never_rows_of_two_generators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: float) -> None:
    monkeypatch.setattr("raygen.serving.models.KEPT", kept)
    models = endpoints.models(tmp_path)
    first = models.find("digits").promotion.digest
    with endpoints.served(endpoints.api(models)) as port, raygen.Client(f"http://127.0.0.1:{port}", timeout=20) as client:
        pieces = client.batches(3 * endpoints.MOST_ROWS, **ASKED)
        held = list(itertools.islice(pieces, 2))
        second = endpoints.promoted(Folder(tmp_path / "digits"), endpoints.digits(9))
        assert models.refresh() == ["digits"]
        if kept:
            wanted = models.find("digits", first).generator.sample(range(7, 7 + 3 * endpoints.MOST_ROWS), 5)
            assert pa.Table.from_batches([*held, *pieces]).equals(wanted)
            return
        with pytest.raises(raygen.RaygenError, match="another generator answers since row 1") as raised:
            held.extend(pieces)
        assert "ask for all of the rows again" in str(raised.value)
        assert len(pa.Table.from_batches(held)) == endpoints.MOST_ROWS  # those of the answer that had begun
        with pytest.raises(raygen.RaygenError, match="another generator answers now"):
            client.generate(1, **ASKED, digest=first)
        assert len(client.generate(1, **ASKED, digest=second)) == 1


def test_who_stops_listening_leaves_nothing_behind(client: raygen.Client, proxy: Proxy) -> None:
    with raygen.Client(proxy.url) as other:
        for _ in range(3):
            pieces = other.batches(endpoints.MOST_ROWS, **ASKED)
            next(pieces)
            pieces.close()
        assert other.healthy()


def test_connections_are_used_again(port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = threading.Thread(target=relayed, args=(listener, port))
        taken.start()
        with raygen.Client(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=5) as client:
            for _ in range(3):
                assert len(client.generate(300, **ASKED)) == 300
            assert len(client.models()) == 2
            assert len(client.images(3, **ASKED)) == 3
        taken.join(10)
        assert not taken.is_alive()


def relayed(listener: socket.socket, port: int) -> None:
    """Passes one connection to a port, and takes no other."""
    near, _ = listener.accept()
    with near, socket.create_connection(("127.0.0.1", port)) as far:
        back = threading.Thread(target=passed, args=(far, near))
        back.start()
        passed(near, far)
        back.join(10)


def passed(source: socket.socket, target: socket.socket) -> None:
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)


def test_a_token_that_may_have_few_rows_at_once(models: Models) -> None:
    token, sha256 = auth.make()
    api = endpoints.api(models, [Token(name="ana", sha256=sha256, concurrent=500)])
    with endpoints.served(api) as port, raygen.Client(f"http://127.0.0.1:{port}", token=token, timeout=20) as client:
        assert client.generate(1001, **ASKED).equals(rows(models, 1001))


def test_tokens(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    token, sha256 = auth.make()
    with endpoints.served(endpoints.api(models, [Token(name="ana", sha256=sha256)])) as port:
        url = f"http://127.0.0.1:{port}/"
        with raygen.Client(url) as client, pytest.raises(raygen.RaygenError, match="no bearer token"):
            client.models()
        with raygen.Client(url, token=token) as client:
            assert token not in repr(client)
            assert len(client.models()) == 2
        monkeypatch.setenv("RAYGEN_TOKEN", token)
        with raygen.Client(url) as client:
            assert len(client.generate(1, **ASKED)) == 1


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("localhost:8000", {}), ("", {}), ("ftp://a", {}), ("http://", {}), ("http://a:b", {}),
        ("http://é..", {}), ("http://a..b", {}), ("http://ana:rg_secret@a", {}), ("http://a/?rg_secret", {}),
        ("http://a", {"token": "Bearer é"}), ("http://a", {"token": "a\nb"}), ("http://a", {"timeout": 0}),
    ],
)  # fmt: skip
def test_what_is_no_endpoint(url: str, options: dict[str, object]) -> None:
    with pytest.raises(raygen.RaygenError) as raised:
        raygen.Client(url, **options)  # type: ignore[arg-type]
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "asked",
    [
        {"rows": 0},
        {"rows": True},
        {"rows": 1.0},
        {"seed": -1},
        {"start": "a"},
        {"seeds": 1},
        {"where": {"a": {1}}},
        {"condition": [7, 7]},
        {"condition": 7.0},
        {"condition": {"label": 7}},
    ],
)
def test_what_cannot_be_asked(client: raygen.Client, asked: dict[str, object]) -> None:
    with pytest.raises(raygen.RaygenError):
        client.generate(**{"rows": 1, **ASKED, **asked})  # type: ignore[arg-type]
