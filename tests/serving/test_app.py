"""The HTTP API on real generators of two projects: the rows of a dataset, in every type, or a problem that says why."""

import asyncio
import base64
import contextlib
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from endpoints import pictures, promoted
from PIL import Image
from starlette.testclient import TestClient

from raygen.datasets.storage import Folder
from raygen.errors import RaygenError
from raygen.generators.generator import Generator
from raygen.jobs.registry import Registry
from raygen.serving import auth
from raygen.serving.answers import ARROW, PARQUET
from raygen.serving.app import app
from raygen.serving.auth import Doorkeeper, Token
from raygen.serving.models import Models

ANA, BO = auth.make(), auth.make()
TOKENS = [Token(name="ana", sha256=ANA[1]), Token(name="bo", sha256=BO[1], rows=100)]
ASKED = {"model": "digits", "rows": 3, "start": 62, "seed": 5, "condition": 7}
EVALUATION = {
    "verdict": "passed",
    "summary": ["passed its gate"],
    "gate": [{"metric": "recall", "passed": True}],
    "metrics": [
        {"name": "lift", "value": 0.1, "ceiling": None, "interval": [0.0, 0.2], "better": "higher", "rows": 9},
        {"name": "coverage", "value": None, "ceiling": None, "interval": None, "better": "higher", "because": "few rows"},
        {"name": "recall", "value": 0.8, "ceiling": 0.9, "interval": [0.7, 0.9], "better": "higher", "rows": 9},
    ],
}


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Folder]:
    folders = {name: Folder(tmp_path / name) for name in ("digits", "others")}
    for seed, folder in enumerate(folders.values()):
        promoted(folder, pictures(seed), EVALUATION)
    return folders


@pytest.fixture
def models(folders: dict[str, Folder]) -> Models:
    return Models({name: Registry(folder) for name, folder in folders.items()})


@pytest.fixture
def client(models: Models) -> Iterator[TestClient]:
    api = app(models, Doorkeeper(TOKENS), most_rows=10_000)
    with TestClient(api, headers={"authorization": f"Bearer {ANA[0]}"}, raise_server_exceptions=False) as client:
        yield client


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    told: dict[str, Any] = answer.json()
    assert told["status"] == status
    assert told["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    return told


def test_rows_are_those_of_the_generator(client: TestClient, models: Models) -> None:
    wanted = models.find("digits").generator.sample(range(62, 65), seed=5, condition=7)
    answer = client.post("/v1/generate", json=ASKED, headers={"accept": ARROW})
    assert pa.ipc.open_stream(answer.content).read_all().equals(wanted)
    assert answer.headers["raygen-digest"] == models.find("digits").promotion.digest
    answer = client.post("/v1/generate", json=ASKED, headers={"accept": PARQUET})
    assert pq.read_table(io.BytesIO(answer.content)).equals(wanted)
    answer = client.post("/v1/generate", json=ASKED)
    assert [row["digit"] for row in answer.json()["rows"]] == [7, 7, 7]


@pytest.mark.parametrize("count", [5, 200])
def test_a_condition_for_each_row(client: TestClient, models: Models, count: int) -> None:
    shown = [(3, 7, None)[row % 3] for row in range(count)]
    asked = {**ASKED, "rows": count, "condition": shown}
    answer = client.post("/v1/generate", json=asked, headers={"accept": ARROW})
    wanted = models.find("digits").generator.sample(range(62, 62 + count), seed=5, condition=shown)
    assert pa.ipc.open_stream(answer.content).read_all().equals(wanted)
    told = problem(client.post("/v1/generate", json={**asked, "rows": count + 1}), 422)
    assert f"{count} conditions for {count + 1} rows" in told["detail"]


def test_a_large_answer(client: TestClient, models: Models) -> None:
    answer = client.post("/v1/generate", json={**ASKED, "rows": 1000}, headers={"accept": ARROW})
    wanted = models.find("digits").generator.sample(range(62, 1062), seed=5, condition=7)
    assert pa.ipc.open_stream(answer.content).read_all().equals(wanted)


def test_pictures(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = client.post("/v1/generate", json=ASKED, headers={"accept": "image/png"})
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert picture.size == (24, 9)
    later = int(time.time()) + 3600
    monkeypatch.setattr(time, "time", lambda: later)
    told = client.post("/v1/images/generations", json={"model": "digits", "prompt": "7", "n": 2, "seed": 1}).json()
    assert (len(told["data"]), told["created"]) == (2, later)
    with Image.open(io.BytesIO(base64.b64decode(told["data"][0]["b64_json"]))) as picture:
        assert picture.size == (8, 9)
    assert json.loads(told["data"][0]["revised_prompt"]) == {"condition": 7, "seed": 1}


@pytest.mark.parametrize("prompt", ["7", " 7 ", '{"digit": 7}', "None", '{"digit": null}'])
def test_prompts(client: TestClient, models: Models, prompt: str) -> None:
    answer = client.post("/v1/images/generations", json={"model": "digits", "prompt": prompt, "seed": 5, "n": 9})
    assert answer.status_code == 200, answer.text
    shown = 7 if "7" in prompt else None
    rows = models.find("digits").generator.sample(range(9), 5, [shown] * 9)
    assert [base64.b64decode(data["b64_json"]) for data in answer.json()["data"]] == rows["picture"].to_pylist()


@pytest.mark.parametrize("prompt", ["", "8", "a seven", '{"digit": 8}', '{"letter": 7}', "{}", "[7]", "[" * 900])
def test_prompts_that_say_nothing(client: TestClient, prompt: str) -> None:
    problem(client.post("/v1/images/generations", json={"model": "digits", "prompt": prompt}), 422)


def test_what_is_between_two_rows(client: TestClient, models: Models) -> None:
    asked = {"model": "digits", "between": [62, 5], "steps": 7, "seed": 5, "condition": 7}
    wanted = models.find("digits").generator.between((62, 5), 7, seed=5, condition=7)
    answer = client.post("/v1/interpolate", json=asked, headers={"accept": ARROW})
    assert pa.ipc.open_stream(answer.content).read_all().equals(wanted)
    assert answer.headers["raygen-digest"] == models.find("digits").promotion.digest
    with Image.open(
        io.BytesIO(client.post("/v1/interpolate", json=asked, headers={"accept": "image/png"}).content)
    ) as picture:
        assert picture.size == (56, 9)
    ends = [client.post("/v1/generate", json={**ASKED, "rows": 1, "start": row}).json()["rows"][0] for row in (62, 5)]
    rows = client.post("/v1/interpolate", json=asked).json()["rows"]
    assert [rows[0], rows[-1]] == ends


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"between": [1]}, 422), ({"between": [1, 2, 3]}, 422), ({"between": [-1, 2]}, 422), ({"between": [0, 2**60]}, 422),
        ({"steps": 1}, 422), ({"steps": 65}, 422), ({"condition": 8}, 422), ({"model": "none"}, 404), ({"rows": 3}, 422),
    ],
)  # fmt: skip
def test_what_has_nothing_between(client: TestClient, change: dict[str, Any], status: int) -> None:
    problem(client.post("/v1/interpolate", json={"model": "digits", "between": [1, 2], **change}), status)


def test_rows_between_count_against_the_budget(client: TestClient) -> None:
    headers, asked = {"authorization": f"Bearer {BO[0]}"}, {"model": "digits", "between": [1, 2], "steps": 60}
    assert client.post("/v1/interpolate", json=asked, headers=headers).status_code == 200
    problem(client.post("/v1/interpolate", json=asked, headers=headers), 429)


def test_the_page_and_its_parts(client: TestClient) -> None:
    for path, kind in (("/", "text/html"), ("/web/page.js", "text/javascript"), ("/web/page.css", "text/css")):
        answer = client.get(path, headers={"authorization": ""})
        assert answer.headers["content-type"].startswith(kind)
        assert "'unsafe" not in answer.headers["content-security-policy"]
        again = client.get(path, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        plain = client.get(path, headers={"accept-encoding": "identity"})
        assert plain.content == answer.content
        assert int(answer.headers["content-length"]) < int(plain.headers["content-length"]) / 2
        assert client.head(path).status_code == 200
    for path in ("/web", "/web/", "/web/index.html", "/web/../guard.py", "/web/%2e%2e/guard.py", "/web/page.py"):
        problem(client.get(path), 404)


def test_what_is_served(client: TestClient, models: Models) -> None:
    listed = client.get("/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["digits", "others"]
    assert listed[0]["classes"] == [3, 7, None]
    assert listed[0]["verdict"] == "passed"
    assert listed[0]["interpolates"]
    assert listed[0]["summary"] == ["Passed its gate."]
    assert [(figure["title"], figure["ceiling"]) for figure in listed[0]["figures"]] == [("recall", 0.9), ("lift", None)]
    assert client.get("/healthz", headers={"authorization": ""}).json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"model": "digit"}, 404), ({"model": "../others"}, 422), ({"model": None}, 422), ({"rows": 0}, 422),
        ({"rows": 10_001}, 422), ({"rows": 10**30}, 422), ({"rows": "3"}, 422), ({"seed": -1}, 422), ({"seed": 2**63}, 422),
        ({"condition": 8}, 422), ({"condition": [7]}, 422), ({"where": {"digit": 7}}, 422), ({"row": 3}, 422),
        ({"start": 2**60}, 422), ({"condition": True}, 422),
    ],
)  # fmt: skip
def test_what_cannot_be_asked(client: TestClient, change: dict[str, Any], status: int) -> None:
    problem(client.post("/v1/generate", json={**ASKED, **change}), status)


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {}, 422), (b"", {}, 422), (b"[" * 60_000, {}, 422), (b"\xff\xfe", {}, 422),
        (b" " * 70_000, {}, 413), (b"{}", {"content-type": "text/plain"}, 415), (b"{}", {"content-encoding": "gzip"}, 415),
        (b'{"rows": NaN}', {}, 422), (b'{"model": "digits"}', {"accept": "text/html"}, 406),
    ],
)  # fmt: skip
def test_what_is_no_question(client: TestClient, content: bytes, headers: dict[str, str], status: int) -> None:
    told = {"content-type": "application/json", **headers}
    problem(client.post("/v1/generate", content=content, headers=told), status)


def test_who_has_no_token_is_not_answered(client: TestClient) -> None:
    for header in ("", "Bearer x", f"Bearer {ANA[1]}"):
        answer = client.post("/v1/generate", json=ASKED, headers={"authorization": header})
        problem(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")
    problem(client.get("/v1/models", headers={"authorization": ""}), 401)


def test_a_budget_of_rows(client: TestClient) -> None:
    headers = {"authorization": f"Bearer {BO[0]}"}
    assert client.post("/v1/generate", json={**ASKED, "rows": 90}, headers=headers).status_code == 200
    answer = client.post("/v1/generate", json={**ASKED, "rows": 11}, headers=headers)
    problem(answer, 429)
    assert int(answer.headers["retry-after"]) > 80_000
    assert client.post("/v1/generate", json={**ASKED, "rows": 10}, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("generate", {"rows": 100, "condition": 5}), ("generate", {"rows": 100, "where": {"digti": 7}}),
        ("interpolate", {"between": [0, 1], "steps": 60, "condition": 5}),
    ],
)  # fmt: skip
def test_a_mistake_costs_no_rows(client: TestClient, path: str, asked: dict[str, Any]) -> None:
    headers = {"authorization": f"Bearer {BO[0]}"}
    for _ in range(2):
        problem(client.post(f"/v1/{path}", json={"model": "digits", **asked}, headers=headers), 422)
    assert client.post("/v1/generate", json={**ASKED, "rows": 100}, headers=headers).status_code == 200


def test_the_log_has_why_an_answer_broke_off(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("raygen.serving.tiles.MOST", 1)
    monkeypatch.setattr("raygen.serving.tiles.PIECE", 10)
    sample = Generator.sample

    def some(self: Generator, rows: range, *of: Any) -> Any:
        if rows.start >= 10:
            raise RaygenError("the fan stands still", "clean it")
        return sample(self, rows, *of)

    monkeypatch.setattr(Generator, "sample", some)
    headers = {"accept": ARROW, "x-request-id": "mine"}
    with contextlib.suppress(Exception):  # as the server closes the connection
        client.post("/v1/generate", json={**ASKED, "start": 0, "rows": 100}, headers=headers)
    assert "the answer to request mine broke off: the fan stands still" in caplog.text


def test_rows_of_a_broken_connection_are_paid_for_as_far_as_they_came(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raygen.serving.tiles.MOST", 1)  # so that a hundred are many
    monkeypatch.setattr("raygen.serving.tiles.PIECE", 10)
    keeper = Doorkeeper(TOKENS)
    api = app(models, keeper, most_rows=10_000)
    sent = 0

    async def receive() -> Any:
        if sent:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": json.dumps({**ASKED, "rows": 100}).encode()}

    async def send(message: Any) -> None:
        nonlocal sent
        sent += 1
        if sent > 3:
            raise OSError

    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "POST",
             "path": "/v1/generate", "raw_path": b"/v1/generate", "root_path": "", "query_string": b"", "scheme": "http",
             "headers": [(b"content-type", b"application/json"), (b"authorization", f"Bearer {BO[0]}".encode()),
                         (b"accept", ARROW.encode())],
             "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)}  # fmt: skip
    with contextlib.suppress(Exception):
        asyncio.run(api(scope, receive, send))
    assert sent > 3
    assert 10 <= sum(keeper.book.used("rows", "bo").values()) <= 40
    assert keeper.book.level(("raygen_rows_under_way", "bo")) == 0


def test_no_request_has_more_rows_than_it_may(models: Models) -> None:
    few = TestClient(app(models, Doorkeeper(None), most_rows=5))
    for path, asked in (
        ("generate", {"rows": 6}),
        ("interpolate", {"between": [0, 1], "steps": 6}),
        ("images/generations", {"prompt": "7", "n": 6}),
    ):
        assert problem(few.post(f"/v1/{path}", json={"model": "digits", **asked}), 422)["most"] == 5


def test_requests_are_counted_whatever_they_ask_for(models: Models) -> None:
    token = Token(name="bo", sha256=BO[1], requests=4)
    client = TestClient(
        app(models, Doorkeeper([token]), most_rows=5),
        headers={"authorization": f"Bearer {BO[0]}"},
    )
    assert client.get("/v1/models").status_code == client.get("/metrics").status_code == 200
    problem(client.post("/v1/generate", json={"model": "digits", "rows": "one"}), 422)
    problem(client.post("/v1/interpolate", json={"model": "nothing"}), 422)
    assert problem(client.get("/v1/models"), 429)["limit"] == "requests"
    assert client.get("/healthz").status_code == 200


def test_paths_and_methods_that_there_are_not(client: TestClient) -> None:
    for path in ("/v2", "/v1/models/../../etc/passwd", "/docs", "/%2e%2e/"):
        problem(client.get(path), 404)
    problem(client.get("/v1/generate"), 405)


def test_a_promotion_reaches_who_asks_next(client: TestClient, models: Models, folders: dict[str, Folder]) -> None:
    before = client.post("/v1/generate", json=ASKED).json()
    digest = promoted(folders["digits"], pictures(9), EVALUATION)
    assert models.refresh() == ["digits"]
    answer = client.post("/v1/generate", json=ASKED)
    assert answer.headers["raygen-digest"] == digest
    assert answer.json() != before
    Registry(folders["digits"]).rollback()
    assert models.refresh() == ["digits"]
    assert client.post("/v1/generate", json=ASKED).json() == before
    assert models.refresh() == []


def test_a_broken_promotion_changes_nothing(client: TestClient, models: Models, folders: dict[str, Folder]) -> None:
    before = client.post("/v1/generate", json=ASKED).json()
    digest = promoted(folders["digits"], pictures(9), EVALUATION)
    weights = Path(folders["digits"].uri) / "generators" / digest / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert models.refresh() == []
    assert client.post("/v1/generate", json=ASKED).json() == before


def test_headers(client: TestClient) -> None:
    headers = client.get("/healthz").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "server" not in headers or "uvicorn" in headers["server"]


def test_its_own_description(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert {"/v1/generate", "/v1/interpolate", "/v1/images/generations", "/v1/models", "/healthz"} <= document[
        "paths"
    ].keys()
    for example in document["components"]["schemas"]["Generate"]["examples"][:1]:
        assert client.post("/v1/generate", json=example).status_code == 200
    assert np.isin(["image/png", ARROW], [*document["paths"]["/v1/generate"]["post"]["responses"]["200"]["content"]]).all()
