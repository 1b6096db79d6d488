"""A driver that is stopped: by what exit code it ends, what it says, how soon, and what is left of it. In real processes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

Start = Callable[[str], subprocess.Popen[str]]
STOPPED, INTERRUPTED = "stopped; the same command goes on from here\n", "interrupted; the same command goes on from here\n"
START = """
import os, signal, sys, threading, time
from pathlib import Path
from raygen.cluster import stop
from raygen.cluster.stop import stoppable
from raygen.errors import RaygenError

def tell(word):
    print(word, flush=True)
"""


@pytest.fixture
def started() -> Iterator[Start]:
    """What runs such code, which says ``ready`` when it may be stopped."""
    with contextlib.ExitStack() as closing:

        def start(code: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", START + code]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            closing.enter_context(process)
            closing.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.communicate(timeout=60)
            return process

        yield start


def ended(process: subprocess.Popen[str], *signals: int) -> tuple[int, str, str]:
    """Its exit code, what it said since, on stdout and on stderr."""
    for number in signals:
        process.send_signal(number)
        time.sleep(0.1)  # else two may be one
    out, said = process.communicate(timeout=60)
    return process.returncode, out, said


BUSY = """
with stoppable():
    try:
        tell("ready")
        while True:
            time.sleep(0.01)
    finally:
        time.sleep(0.5)
        tell("tidied up")
"""


@pytest.mark.parametrize(
    ("signals", "code", "said"),
    [
        ([signal.SIGTERM], 143, STOPPED),
        ([signal.SIGINT], 130, INTERRUPTED),
        ([signal.SIGTERM, signal.SIGTERM], 143, STOPPED),  # Ray Jobs, and a supervisor
        ([signal.SIGINT, signal.SIGINT], 130, INTERRUPTED),
    ],
)
def test_blocks_tidy_up_and_the_process_ends_with_a_line(started: Start, signals: list[int], code: int, said: str) -> None:
    assert ended(started(BUSY), *signals) == (code, "tidied up\n", said)


def test_it_ends_though_nobody_reads_what_it_says(started: Start) -> None:
    """As in `raygen run … 2>&1 | tee log`, of which Ctrl-C ends both."""
    for said in ("pass", "print('tidied up', file=sys.stderr)"):
        process = started(f"""
with stoppable():
    try:
        tell("ready")
        time.sleep(600)
    finally:
        {said}
""")
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def test_another_attempt_ends_it_with_two_lines(started: Start) -> None:
    code = """
stop.PATIENCE = 600
with stoppable() as by:
    error = RaygenError("attempt 2 has taken over", "this one stops")
    threading.Timer(0.5, by, [error]).start()
    tell("ready")
    threading.Event().wait()
"""
    assert ended(started(code)) == (2, "", "error: attempt 2 has taken over\n  this one stops\n")


@pytest.mark.parametrize(
    "holds",
    [
        "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10 ** 9)",  # deep in a library
        "swallow()",
    ],
)
def test_what_does_not_end_by_itself_is_ended(started: Start, holds: str) -> None:
    code = f"""
def swallow():
    while True:
        try:
            time.sleep(0.1)
        except BaseException:
            pass

stop.PATIENCE = 0.5
with stoppable():
    threading.Timer(0.5, tell, ["ready"]).start()
    {holds}
"""
    assert ended(started(code), signal.SIGTERM) == (143, "", STOPPED)


def test_a_second_signal_from_who_does_not_want_to_wait(started: Start) -> None:
    code = """
stop.PATIENCE, stop.ONCE = 600, 0.1
with stoppable():
    try:
        tell("ready")
        time.sleep(600)
    finally:
        tell("tidying up")
        time.sleep(600)
"""
    process = started(code)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == "tidying up\n"
    time.sleep(0.2)  # else it would be the same again
    assert ended(process, signal.SIGINT) == (130, "", INTERRUPTED)


def test_what_it_becomes_on_its_way_makes_no_difference(started: Start) -> None:
    """Ray's core makes another interrupt of it, a library an error, and Ray, while it starts, an exit."""
    for becomes in ("raise KeyboardInterrupt", "raise ValueError('lost')", "return"):
        code = f"""
def work():
    try:
        tell("ready")
        time.sleep(600)
    except KeyboardInterrupt:
        {becomes}

with stoppable():
    work()
"""
        assert ended(started(code), signal.SIGTERM) == (143, "", STOPPED), becomes
    code = """
with stoppable():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(signal.SIGTERM))
    tell("ready")
    time.sleep(600)
"""
    assert ended(started(code), signal.SIGTERM) == (143, "", STOPPED)


def test_who_stops_a_forked_process_stops_nobody_else(started: Start) -> None:
    code = """
with stoppable():
    child = os.fork()
    if not child:
        time.sleep(600)
    time.sleep(0.5)  # for it to be a process of its own
    os.kill(child, signal.SIGTERM)
    assert os.waitpid(child, 0)[1] == signal.SIGTERM
    tell("ready")
    time.sleep(0.5)
    tell("done")
"""
    assert ended(started(code)) == (0, "done\n", "")


def test_what_is_no_stop_goes_its_own_way(started: Start) -> None:
    code = """
before = signal.getsignal(signal.SIGINT)
with stoppable() as by:
    pass
by(RaygenError("too", "late"))
assert signal.getsignal(signal.SIGINT) == before
try:
    with stoppable():
        sys.exit(7)
except SystemExit as error:
    assert error.code == 7
tell("ready")
with stoppable():
    raise ValueError("mine")
"""
    status, _, said = ended(started(code))
    assert status == 1
    assert said.endswith("ValueError: mine\n")


def test_what_it_has_started_ends_with_it(started: Start) -> None:
    """A Ray of its own: here processes that have started others, and go on doing so."""
    mark = f"{60 + os.getpid() / 1e7:.7f}"  # of those who sleep for so long
    busy = f"import subprocess, time\nfor _ in range(300):\n subprocess.Popen(['sleep', '{mark}'])\n time.sleep(0.01)"
    code = f"""
import psutil, subprocess, types
sys.modules["ray"] = types.ModuleType("ray")
child = subprocess.Popen([sys.executable, "-c", {busy!r}])
with stoppable():
    while len(psutil.Process().children(recursive=True)) < 5:
        time.sleep(0.01)
    tell("ready")
    time.sleep(600)
"""
    process = started(code)
    assert len(sleeping(mark)) >= 4
    assert ended(process, signal.SIGTERM)[0] == 143
    assert not sleeping(mark)


def sleeping(mark: str) -> list[psutil.Process]:
    there = psutil.process_iter(["cmdline", "status"])
    return [p for p in there if mark in (p.info["cmdline"] or []) and p.info["status"] != psutil.STATUS_ZOMBIE]
