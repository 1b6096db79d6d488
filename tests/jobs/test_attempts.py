"""Attempts of a job: each has a number of its own, the newest goes on, and a storage that is away stops nobody."""

import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from s3 import Fault, Proxy, Server

from raygen.datasets import storage
from raygen.datasets.storage import Folder
from raygen.errors import OutputError, RaygenError
from raygen.jobs import attempts as module
from raygen.jobs.attempts import Attempts, the_newest

JOB = "raygen-train-pets-0123456789ab"


@pytest.fixture(params=["local", "s3"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """Its folder on each kind of storage."""
    return Folder(request.getfixturevalue("s3")) / "pets" if request.param == "s3" else Folder(tmp_path) / "pets"


@pytest.fixture(autouse=True)
def job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYGEN_JOB", JOB)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)


class Told:
    """What a driver is stopped by."""

    def __init__(self) -> None:
        self.error: RaygenError | None = None
        self.came = threading.Event()

    def __call__(self, error: RaygenError) -> None:
        self.error = error
        self.came.set()


def wait_for(met: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_of_all_who_begin_at_once_each_has_a_number_of_its_own(project: Folder) -> None:
    with ThreadPoolExecutor(8) as pool:
        numbers = [attempt.number for attempt in pool.map(lambda _: Attempts.of(project, JOB).claim(1), range(8))]
    assert sorted(numbers) == [*range(1, 9)]
    found = Attempts.of(project, JOB).all()
    assert [attempt.number for attempt in found] == [*range(1, 9)]
    assert {(attempt.host, attempt.pid) for attempt in found} == {(socket.gethostname(), os.getpid())}
    assert (project / "jobs" / JOB / "attempts").names()[0] == "0001.json"


def test_the_newest_goes_on_and_the_older_ones_are_told_by_whom_they_are_stopped(
    project: Folder, capfd: pytest.CaptureFixture[str]
) -> None:
    told = [Told() for _ in range(3)]
    with the_newest(project, told[0]) as first, the_newest(project, told[1]), the_newest(project, told[2]) as last:
        assert first is not None
        assert last is not None
        assert (first.number, last.number) == (1, 3)
        assert all(one.came.wait(60) for one in told[:2])
        assert not told[2].came.wait(0.3)
    assert [one.error and one.error.exit_code for one in told] == [2, 2, None]
    assert told[0].error is not None
    host = f"on host {re.escape(socket.gethostname())} \\(process {os.getpid()}\\)"
    begun = r"begun \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    assert re.fullmatch(f"attempt 3 of this job, {begun} {host} has taken over", told[0].error.what)
    assert "attempt 1" in told[0].error.hint
    said = capfd.readouterr().err.splitlines()
    assert re.fullmatch(f"attempt 1 of this job, {begun} {host}", said[0])
    assert said[1].endswith(f"; attempt 1, on {socket.gethostname()}, stops if it still runs")


def test_without_a_name_a_job_has_no_attempts(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYGEN_JOB")
    with the_newest(project, Told()) as attempt:
        assert attempt is None
    assert project.files() == {}


@pytest.mark.parametrize("name", ["..", "a/b", "-x", "a b", ".hidden"])
def test_a_name_that_is_none(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYGEN_JOB", name)
    with pytest.raises(RaygenError, match="is no name of a job"), the_newest(Folder(tmp_path), Told()):
        pass
    assert not [*tmp_path.iterdir()]


def test_jobs_do_not_stop_each_other(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Told(), Told()
    with the_newest(project, one):
        monkeypatch.setenv("RAYGEN_JOB", "another")
        with the_newest(project, other) as attempt:
            assert attempt is not None
            assert attempt.number == 1
            assert not one.came.wait(0.3)
    assert not other.came.is_set()


def test_who_has_ended_is_not_stopped_any_more(tmp_path: Path) -> None:
    told = Told()
    with the_newest(Folder(tmp_path), told):
        pass
    Attempts.of(Folder(tmp_path), JOB).claim(1)
    assert not told.came.wait(0.3)


def test_what_ray_jobs_calls_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"runtime_env": {}, "metadata": {"job_submission_id": f"{JOB}-2", "job_name": "x"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(document))
    assert Attempts.of(Folder(tmp_path), JOB).claim(7).submission == f"{JOB}-2"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert Attempts.of(Folder(tmp_path), JOB).claim(1).submission is None
    assert [attempt.number for attempt in Attempts.of(Folder(tmp_path), JOB).all()] == [1, 7]


def test_what_is_not_whole_yet_stops_nobody(tmp_path: Path) -> None:
    """And is looked at again."""
    told = Told()
    with the_newest(Folder(tmp_path), told):
        folder = Attempts.of(Folder(tmp_path), JOB).folder
        folder.write(".0002.json.0123abcd.tmp", b"{")
        folder.write("0002.json", b"{")
        assert not told.came.wait(0.3)
        with pytest.raises(OutputError, match=r"0002\.json: is not an attempt"):
            Attempts.of(Folder(tmp_path), JOB).all()
        folder.delete("0002.json")
        Attempts.of(Folder(tmp_path), JOB).claim(2)
        assert told.came.wait(60)


class TestOnS3:
    @pytest.fixture
    def running(self, s3: str, s3_proxy: Proxy) -> Iterator[Told]:
        told = Told()
        with the_newest(Folder(s3), told):
            s3_proxy.exchanges.clear()
            wait_for(lambda: s3_proxy.exchanges)
            yield told

    def test_a_look_is_one_request(self, running: Told, s3_proxy: Proxy) -> None:
        wait_for(lambda: len(s3_proxy.exchanges) >= 5)
        assert all(re.match(r"GET /data\?list-type=2&prefix=\S+attempts", request) for request in s3_proxy.exchanges)

    @pytest.mark.parametrize("how", ["reset", "close", "stall"])
    def test_what_does_not_answer_stops_nobody_and_is_asked_again(
        self, running: Told, how: str, s3: str, s3_proxy: Proxy, s3_server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(storage, "S3_FIRST_ANSWER", 1)
        wait_for(lambda: len(s3_proxy.exchanges) >= 3)
        s3_proxy.order(Fault("answer", how, 0, seconds=30))  # type: ignore[arg-type]
        key = f"{s3.removeprefix('s3://data/')}/jobs/{JOB}/attempts/0002.json"
        next_ = json.dumps({"number": 2, "began": "2030-01-02T03:04:05+00:00", "host": "far", "pid": 5, "submission": None})
        s3_server.client().put_object(Bucket="data", Key=key, Body=next_.encode())
        wait_for(lambda: len(s3_proxy.struck) >= 3)
        assert not running.came.is_set()
        s3_proxy.order()
        assert running.came.wait(60)
        assert running.error is not None
        assert running.error.what.startswith("attempt 2 of this job, begun 2030-01-02 03:04:05 UTC on host far (process 5)")
