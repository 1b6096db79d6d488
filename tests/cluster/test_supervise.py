"""A driver that dies is run again, one that has ended is not; whoever stops the supervisor stops the driver."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raygen.cluster import supervise
from raygen.cluster.supervise import Supervisor, wait_before, worth_another


@pytest.mark.parametrize(
    ("code", "another"),
    [
        (0, False),
        (2, False),
        (3, False),
        (130, False),
        (143, False),
        (1, True),
        (137, True),
        (139, True),
        (134, True),
        (127, False),
    ],
)
def test_which_ends_are_worth_another_attempt(code: int, another: bool) -> None:
    assert worth_another(code) == another


def test_it_waits_a_little_longer_each_time() -> None:
    waits = [wait_before(attempt) for attempt in range(2, 12)]
    assert waits[:3] == [2, 4, 8]
    assert waits == sorted(waits)
    assert waits[-1] == wait_before(10_000) == 60


DRIVER = """
import os, signal, sys, time
from pathlib import Path
ends = sys.argv[2:]
with Path(sys.argv[1]).open("a") as file:
    file.write("began\\n")
end = ends[min(len(Path(sys.argv[1]).read_text().splitlines()), len(ends)) - 1]
if end == "stay":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print("ready", flush=True)
    time.sleep(600)
if end.startswith("-"):
    os.kill(os.getpid(), -int(end))
    time.sleep(600)
sys.exit(int(end))
"""


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    (tmp_path / "driver.py").write_text(DRIVER)
    return tmp_path / "driver.py"


def supervised(driver: Path, retries: int, *ends: str) -> Supervisor:
    made = Supervisor([], retries)
    made.command = [sys.executable, str(driver), str(driver.with_name("began")), *ends]
    return made


def attempts(driver: Path) -> int:
    return len(driver.with_name("began").read_text().splitlines())


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(supervise, "STOPS", ())  # the signals are those of pytest


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    ("ends", "retries", "code", "times"),
    [
        (["-9", "1", "0"], 5, 0, 3),
        (["0"], 5, 0, 1),
        (["2"], 5, 2, 1),
        (["1", "3"], 5, 3, 2),
        (["-15"], 5, 143, 1),
        (["-9"], 2, 137, 3),
        (["-11"], 0, 139, 1),
    ],
)
def test_a_driver_that_dies_is_run_again(
    ends: list[str], retries: int, code: int, times: int, driver: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert supervised(driver, retries, *ends).run() == code
    assert attempts(driver) == times
    said = capfd.readouterr().err.splitlines()
    assert len(said) == times - 1 + (code in (137, 139))
    if ends[0] == "-9" and retries == 5:
        assert said == [
            "supervise: the driver was killed by SIGKILL, as for want of memory; attempt 2 of 6 begins in 0.01 s",
            "supervise: the driver met an unexpected error; attempt 3 of 6 begins in 0.02 s",
        ]
    if code == 137:
        assert said[-1].endswith("that was attempt 3 of 3; the same command goes on from here")


def running(driver: Path, *ends: str) -> subprocess.Popen[str]:
    code = f"""
import sys
from raygen.cluster.supervise import Supervisor
made = Supervisor([], 5)
made.command = [sys.executable, {str(driver)!r}, {str(driver.with_name("began"))!r}, *{ends!r}]
sys.exit(made.run())
"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_signal_is_passed_on_and_nothing_is_run_again(driver: Path) -> None:
    process = running(driver, "stay")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.wait(60) == 143
    assert attempts(driver) == 1
    assert process.communicate()[1] == ""


def test_a_signal_between_two_attempts(driver: Path) -> None:
    process = running(driver, "1")
    assert process.stderr is not None
    assert "attempt 2 of 6 begins in 2 s" in process.stderr.readline()
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert time.monotonic() - began < 2
    assert process.communicate()[1] == "supervise: stopped; the same command goes on from here\n"
    assert attempts(driver) == 1


def test_it_runs_raygen() -> None:
    command = [sys.executable, "-m", "raygen.cluster.supervise"]
    done = subprocess.run([*command, "3", "--", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout[0].isdigit()
    done = subprocess.run([*command, "3", "--", "train", "nowhere.yaml"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    for wrong in (["run", "spec.yaml"], ["3"], ["3", "--"], ["-1", "--", "run"]):
        done = subprocess.run([*command, *wrong], capture_output=True, text=True)
        assert done.returncode == 2
        assert "python -m raygen.cluster.supervise 3 -- run spec.yaml" in done.stderr
