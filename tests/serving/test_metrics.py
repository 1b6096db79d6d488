"""How an endpoint is doing: what Prometheus reads, what the log tells of a request, and where its time went."""

import asyncio
import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoints import MOST_ROWS, api, models
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from raygen.serving import auth
from raygen.serving.auth import Token
from raygen.serving.book import Book
from raygen.serving.ledger import SETTLING, Counts, Heard, Ledger
from raygen.serving.metrics import HISTOGRAMS, LEVELS, TOTALS, Metrics
from raygen.serving.models import Models
from raygen.serving.record import Record

ANA, BO = auth.make(), auth.make()
TOKENS = [Token(name="ana", sha256=ANA[1], metrics=True), Token(name="bo", sha256=BO[1], rows=100)]
ASKED = {"model": "digits", "rows": 3, "start": 5, "seed": 7}


@pytest.fixture
def of(tmp_path: Path) -> Models:
    return models(tmp_path)


@pytest.fixture
def client(of: Models) -> Iterator[TestClient]:
    with TestClient(api(of, TOKENS), headers={"authorization": f"Bearer {ANA[0]}"}) as client:
        yield client


def read(text: str) -> dict[tuple[str, ...], float]:
    """Every sample, by its name and the values of its labels, sorted by their names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(client: TestClient) -> dict[tuple[str, ...], float]:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return read(answer.text)


def test_requests_and_rows_are_counted(client: TestClient, of: Models) -> None:
    for _ in range(2):
        client.post("/v1/generate", json=ASKED)
    client.post("/v1/images/generations", json={"model": "digits", "prompt": "7", "n": 2})
    found = scraped(client)
    assert found["raygen_requests_total", "digits", "/v1/generate", "200"] == 2
    assert found["raygen_rows_total", "digits", "ana"] == 8
    assert found["raygen_in_flight",] == 1  # the one that asks
    assert found["raygen_rows_under_way", "ana"] == 0
    assert found["raygen_replicas",] == 1
    assert found["raygen_resident_memory_bytes",] > 10e6
    assert found["raygen_cpu_seconds_total",] > 0
    assert found["raygen_model_info", of.find("digits").digest, "digits", "100", "passed"] == 1
    assert found["raygen_request_seconds_count", "total"] == 3
    assert found["raygen_request_seconds_bucket", "+Inf", "compute"] == 3
    assert 0 < found["raygen_request_seconds_sum", "compute"] < found["raygen_request_seconds_sum", "total"] < 60


def test_what_is_refused_is_counted_by_its_reason(client: TestClient) -> None:
    bo = {"authorization": f"Bearer {BO[0]}"}
    for rows in (90, 11):
        client.post("/v1/generate", json={**ASKED, "rows": rows}, headers=bo)
    client.post("/v1/generate", json={**ASKED, "rows": MOST_ROWS + 1})
    client.post("/v1/generate", json=ASKED, headers={"authorization": ""})
    client.post("/v1/generate", json={**ASKED, "digest": "0" * 64})
    found = scraped(client)
    for reason in ("rows", "invalid", "token", "digest"):
        assert found["raygen_refused_total", reason] == 1
    assert found["raygen_requests_total", "digits", "/v1/generate", "429"] == 1
    assert found["raygen_rows_total", "digits", "bo"] == 90


def test_nobody_makes_up_labels(client: TestClient) -> None:
    for number in range(30):
        client.get(f"/made/up/{number}")
        client.post("/v1/generate", json={**ASKED, "model": f"made-up-{number}"})
        client.request("GET", "/v1/models", headers={"authorization": f"Bearer made-up-{number}"})
    answer = client.get("/metrics").text
    assert "made" not in re.sub("# .*", "", answer)
    assert len([key for key in read(answer) if key[0] == "raygen_requests_total"]) <= 4


def test_metrics_need_a_token_and_tell_none(client: TestClient) -> None:
    assert client.get("/metrics", headers={"authorization": ""}).status_code == 401
    text = client.get("/metrics").text
    for secret in (*ANA, *BO):
        assert secret not in text


def test_a_token_reads_no_name_but_its_own(client: TestClient) -> None:
    bo = {"authorization": f"Bearer {BO[0]}"}
    client.post("/v1/generate", json=ASKED)
    client.post("/v1/generate", json={**ASKED, "rows": 5}, headers=bo)
    text = client.get("/metrics", headers=bo).text
    found = read(text)
    assert found["raygen_rows_total", "digits", "bo"] == 5
    assert found["raygen_rows_total", "digits", ""] == 3  # so that their sum is right
    assert found["raygen_rows_under_way", "bo"] == 0
    assert "ana" not in text
    assert scraped(client)["raygen_rows_total", "digits", "bo"] == 5  # who runs it


def test_a_registry_that_cannot_be_followed_is_counted(client: TestClient, of: Models, tmp_path: Path) -> None:
    (tmp_path / "digits/registry/promotions/000002.json").write_text("{}")
    for _ in range(2):
        of.refresh()
    found = scraped(client)
    assert found["raygen_refresh_failures_total", "digits"] == 2
    assert found["raygen_refresh_failures_total", "adult"] == 0


def test_names_are_as_prometheus_wants_them() -> None:
    for name in (*TOTALS, *HISTOGRAMS, *LEVELS):
        assert re.fullmatch(r"raygen(_[a-z]+)+", name)
        assert not name.endswith("_total")  # the library adds it
    for name in HISTOGRAMS:
        assert name.endswith(("_seconds", "_rows", "_ratio"))


def test_where_the_time_of_a_request_went(client: TestClient) -> None:
    told = client.post("/v1/generate", json=ASKED).headers["server-timing"]
    parts = dict(re.fullmatch(r"(\w+);dur=(\d+\.\d\d)", part).groups() for part in told.split(", "))  # type: ignore[union-attr]
    assert parts.keys() <= {"queue", "batch", "compute", "encode"}
    assert float(parts["compute"]) > 0


def test_the_log_has_a_line_for_each_request(client: TestClient, of: Models, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "raygen.access")
    answer = client.post("/v1/generate", json=ASKED, headers={"x-request-id": "mine.1"})
    client.post("/v1/generate", json={"model": "digits", "condition": "my secret"})
    first, second = lines(caplog, 2)
    wanted = {**ASKED, "token": "ana", "digest": of.find("digits").digest, "status": 200, "bytes": len(answer.content)}
    assert wanted.items() <= first.items()
    assert (first["id"], first["path"], first["method"]) == ("mine.1", "/v1/generate", "POST")
    assert first["ms"]["compute"] > 0
    assert second["status"] == 422
    for secret in (*ANA, "my secret"):
        assert secret not in caplog.text


def lines(caplog: pytest.LogCaptureFixture, number: int) -> list[dict[str, Any]]:
    """As soon as there are so many."""
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + 20
    while len(found) < number:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
        told = [record.getMessage() for record in [*caplog.records] if record.name == "raygen.access"]
        found = [json.loads(line) for line in "\n".join(told).splitlines()]
    return found


def test_a_histogram_has_each_value_once() -> None:
    metrics = Metrics(Book(), Models({}))
    for seconds in (0.0005, 0.001, 0.0011, 59, 61):
        record = Record(model="digits")
        record.spend("compute", seconds)
        metrics.begin()
        metrics.end(record, "/v1/generate", 200, seconds)
    found = read(asyncio.run(metrics.text(auth.ANYBODY)).decode())
    bounds = [*map(str, HISTOGRAMS["raygen_request_seconds"].bounds), "+Inf"]
    heights = [found["raygen_request_seconds_bucket", bound, "compute"] for bound in bounds]
    assert heights[:2] == [2, 3]
    assert heights[-3:] == [3, 4, 5]
    assert found["raygen_request_seconds_count", "compute"] == 5
    assert found["raygen_request_seconds_sum", "compute"] == pytest.approx(120.0026)


def test_rows_that_were_made_together() -> None:
    metrics = Metrics(Book(), Models({}))
    for rows in (16, 64, 65):
        metrics.batch("digits", rows, tile=64)
    found = read(asyncio.run(metrics.text(auth.ANYBODY)).decode())
    assert found["raygen_batch_rows_sum", "digits"] == 145
    assert found["raygen_tile_fill_ratio_sum", "digits"] == pytest.approx(0.25 + 1 + 65 / 128)


class Here:
    """A ledger that is at hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ledger = Ledger(lambda: self.now)
        self.now += SETTLING

    async def exchange(self, replica: str, own: Counts, heard: Heard | None, totals: bool) -> Heard | None:
        return await self.ledger.exchange(replica, own.copy(), heard, totals)

    async def leave(self, replica: str, own: Counts) -> None:
        await self.ledger.leave(replica, own.copy())


def test_any_replica_tells_of_all_and_nothing_goes_backwards(of: Models) -> None:
    here = Here()
    replicas = [Metrics(Book(here), of) for _ in range(3)]
    record = Record(model="digits", token="ana")

    async def asked(number: int) -> dict[tuple[str, ...], float]:
        here.now += 1
        for metrics in replicas:
            await metrics._book.exchange()
        return read((await replicas[number % len(replicas)].text(auth.ANYBODY)).decode())

    before: dict[tuple[str, ...], float] = {}
    for number in range(60):
        metrics = replicas[number % len(replicas)]
        metrics.begin()
        record.spend("compute", 0.1)
        metrics.end(record, "/v1/generate", 200, 0.1 * number)
        metrics.rows("digits", "ana", 1)
        if number == 30:
            replicas.pop()  # dead
        for again in range(3):
            found = asyncio.run(asked(number + again))
            grow = {key for key in before if not LEVELS.keys() & {key[0]}}
            assert {key: found[key] for key in grow if found[key] < before[key]} == {}
            before = found
    assert found["raygen_replicas",] == 2
    assert found["raygen_rows_total", "digits", "ana"] == 60
    assert found["raygen_requests_total", "digits", "/v1/generate", "200"] == 60
    assert found["raygen_model_info", of.find("digits").digest, "digits", "100", "passed"] == 1
