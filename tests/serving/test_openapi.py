"""The OpenAPI document: what it says holds, whatever is asked, and all that it shows is answered so."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import endpoints
import httpx2 as httpx
import pyarrow as pa
import pytest
from jsonschema import Draft202012Validator
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message

from raygen.serving import auth, guard
from raygen.serving.answers import PNG, ZIP
from raygen.serving.app import app
from raygen.serving.auth import Doorkeeper, Token
from raygen.serving.models import Models
from raygen.serving.tiles import Tiles

ANA, BO = auth.make(), auth.make()
TOKENS = [Token(name="ana", sha256=ANA[1]), Token(name="bo", sha256=BO[1], requests=1)]
CHECKED = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "negative_data_rejection", "unsupported_method", "allow_header_conformance",
    "ignored_auth",
)  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return endpoints.models(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def api(models: Models) -> ASGIApp:
    return endpoints.api(models, TOKENS)


@pytest.fixture(scope="module")
def client(api: ASGIApp) -> Iterator[TestClient]:
    with TestClient(api, headers={"authorization": f"Bearer {ANA[0]}"}) as client:
        yield client


@pytest.fixture(scope="module")
def document(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def questions(document: dict[str, Any], operation: dict[str, Any]) -> list[dict[str, Any]]:
    """The examples of what can be asked."""
    if "requestBody" not in operation:
        return []
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    found: list[dict[str, Any]] = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["examples"]
    return found


def check(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    Draft202012Validator({**schema, "components": document["components"]}).validate(value)


def test_it_says_who_it_is_and_who_may_ask(document: dict[str, Any]) -> None:
    assert (document["info"]["title"], document["info"]["version"]) == ("raygen", "1")
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    names = {operation["operationId"] for _, _, operation in operations(document)}
    assert names >= {"healthz", "list_models", "generate", "interpolate", "generations"}
    free = {path for _, path, operation in operations(document) if not operation["security"]}
    assert free == {"/healthz"}
    for _, path, operation in operations(document):
        assert operation["description"]
        assert ("401" in operation["responses"]) == (path not in free)
        assert all(answer["content"] for answer in operation["responses"].values())


def test_what_it_shows_to_be_asked_is_answered(client: TestClient, document: dict[str, Any]) -> None:
    asked = 0
    for method, path, operation in operations(document):
        for body in questions(document, operation) or [None]:
            for kind, said in operation["responses"]["200"]["content"].items():
                answer = client.request(method, path, json=body, headers={"accept": kind})
                if kind in (PNG, ZIP) and body is not None and body["model"] == "adult":
                    assert answer.status_code == 406
                    continue
                assert (answer.status_code, answer.headers["content-type"]) == (200, kind), answer.text
                assert operation["responses"]["200"].get("headers", {}).keys() <= answer.headers.keys()
                if kind == "application/json":
                    check(document, said["schema"], answer.json())
                    check(document, said["schema"], said["example"])
                asked += 1
    assert asked >= 15


def test_the_problems_that_it_shows_are_what_is_said(
    client: TestClient, api: ASGIApp, models: Models, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = 0
    for method, path, operation in operations(document):
        for status, said in operation["responses"].items():
            if status == "200":
                continue
            example = said["content"]["application/problem+json"]["example"]
            body = questions(document, operation)[0] if "requestBody" in operation else None
            answer = provoked(int(status), method, path, body, client, api, models, monkeypatch)
            told = answer.json()
            assert answer.headers["content-type"] == "application/problem+json"
            assert said.get("headers", {}).keys() <= {name.title().replace("Www", "WWW") for name in answer.headers}
            for document_ in (told, example):
                check(document, said["content"]["application/problem+json"]["schema"], document_)
            for member in {*example} - {"request_id", "digest"}:
                assert plain(told[member]) == plain(example[member]), (path, status)
            shown += 1
    assert shown >= 40


def plain(value: Any) -> str:
    return re.sub(r"\d[\d.,]*", "N", str(value))


def provoked(
    status: int,
    method: str,
    path: str,
    body: dict[str, Any] | None,
    client: TestClient,
    api: ASGIApp,
    models: Models,
    monkeypatch: pytest.MonkeyPatch,
) -> httpx.Response:
    """An answer of a status, to an operation whose right answer is 200."""
    changes = {404: {"model": "none"}, 409: {"digest": "0" * 64}, 422: {"rows": 0, "n": 0, "steps": 1}}.get(status, {})
    asked = (
        None if body is None else {**body, **{name: value for name, value in changes.items() if name in {*body, "digest"}}}
    )
    headers = {
        400: {"content-length": "x"},
        401: {"authorization": ""},
        406: {"accept": "text/html"},
        415: {"content-type": "text/plain"},
        429: {"authorization": f"Bearer {BO[0]}"},
        431: {"x": "x" * 40_000},
    }.get(status, {})
    if status == 429:
        client.get("/v1/models", headers=headers)
    if status == 408:
        monkeypatch.setattr(guard, "SLOWEST", 0.01)
        answer = asyncio.run(unfinished(api, method, path))
        monkeypatch.undo()
    elif status == 413:
        answer = client.request(method, path, content=b" " * 70_000, headers={"content-type": "application/json"})
    elif status == 421:
        local = app(models, Doorkeeper(None), 10, loopback=True)
        answer = TestClient(local).request(method, path, json=asked, headers={"host": "elsewhere.example"})
    elif status in (500, 503, 504):
        with (
            pytest.MonkeyPatch.context() as patch,
            TestClient(failing(models, status, patch), raise_server_exceptions=False) as other,
        ):
            answer = other.request(method, path, json=asked)
    else:
        answer = client.request(method, path, json=asked, headers=headers)
    assert answer.status_code == status, (path, answer.text)
    return answer


def failing(models: Models, status: int, patch: pytest.MonkeyPatch) -> ASGIApp:
    """An application with no room, or whose rows cannot be made, or never are."""

    async def rows(*asked: Any) -> AsyncIterator[pa.Table]:
        await answer()
        yield

    async def answer(*asked: Any) -> bytes:
        if status == 504:
            await asyncio.get_running_loop().create_future()
        raise RuntimeError("secret")

    patch.setattr(Tiles, "rows", rows)
    patch.setattr(Tiles, "answer", answer)
    room = {503: {"queue": 0}, 504: {"timeout_s": 0.05}}.get(status, {})
    return app(models, Doorkeeper(None), endpoints.MOST_ROWS, **room)  # type: ignore[arg-type]


async def unfinished(api: ASGIApp, method: str, path: str) -> httpx.Response:
    """The answer to a request whose body never comes."""
    sent: list[Message] = []

    async def receive() -> Message:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    async def send(message: Message) -> None:
        sent.append(message)

    told = [(b"content-type", b"application/json"), (b"content-length", b"3")]
    await api({"type": "http", "method": method, "path": path, "headers": told, "query_string": b""}, receive, send)
    return httpx.Response(sent[0]["status"], headers=sent[0]["headers"], content=sent[1]["body"])


def test_whatever_is_asked_is_answered_as_documented(models: Models, tmp_path: Path) -> None:
    """Schemathesis asks for what may be asked, and for what may not."""
    with endpoints.served(endpoints.api(models, TOKENS, most_rows=300)) as port:
        command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"http://127.0.0.1:{port}/openapi.json"]
        command += ["--checks", ",".join(CHECKED), "--phases", "examples,coverage,fuzzing", "--max-examples", "100"]
        command += ["--generation-deterministic", "--continue-on-failure", "--no-color"]
        command += ["--header", f"Authorization: Bearer {ANA[0]}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    tested = re.search(r"(\d+) generated, \d+ passed", done.stdout)
    assert tested is not None, done.stdout[-6000:]
    assert int(tested[1]) > 500
