"""Progress as a user sees it: beside the job, and elsewhere by what the job prints."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from raygen.jobs import progress
from raygen.jobs.progress import Mirror, State, from_line, last


class Clock:
    """What ``time.monotonic()`` says."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal of a known width, in place of stderr."""
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=True, width=120, soft_wrap=True))
    return screen


@pytest.fixture
def as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYGEN_PROGRESS", "json")


def states(text: str) -> list[State]:
    return [state for line in text.splitlines() if (state := from_line(line)) is not None]


def steps(clock: Clock, name: str = "augment", seconds: int = 30) -> Iterator[None]:
    """A job that makes a hundred rows a second."""
    with progress.bar(name, 100 * seconds, "rows") as shown:
        for second in range(seconds + 1):
            shown.update(100 * second, f"{second} workers")
            yield
            clock.now += 1


def drawn(screen: io.StringIO) -> list[str]:
    """What was on a terminal in the end, line by line."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    return [line.rpartition("\r")[2].rstrip() for line in text.split("\n")]


@pytest.mark.usefixtures("as_json")
def test_lines_of_json_come_at_once_then_seldom_and_at_the_end(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    job = steps(clock, seconds=300)
    next(job)
    assert states(capsys.readouterr().err) == [State("augment", 0, 30_000, "rows")]
    for _ in job:
        pass
    found = states(capsys.readouterr().err)
    moments = [state.seconds for state in found]
    assert moments[:59] == [*range(2, 120, 2)]  # one in two seconds, and after two minutes one in ten
    assert moments[59:-1] == [*range(128, 300, 10)]
    assert found[0] == State("augment", 200, 30_000, "rows", 100.0, "2 workers", 2.0)
    assert found[-1] == State("augment", 30_000, 30_000, "rows", 100.0, "300 workers", 301.0, ended=True)


@pytest.mark.usefixtures("as_json")
def test_a_bar_ends_also_where_its_job_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), progress.bar("train", 10, "rows"):
        raise ZeroDivisionError
    assert [state.ended for state in states(capsys.readouterr().err)] == [False, True]


def test_a_line_has_the_keys_that_were_agreed_on() -> None:
    state = State("train", 3, 10, "rows", 1.5, "loss 3 · \u2028", 2.0)
    document = json.loads(state.to_line())
    assert document["raygen"] == "progress"
    assert {"name", "done", "total", "unit", "rate", "note"} <= document.keys()
    assert "\n" not in state.to_line()
    assert from_line(state.to_line()) == from_line(f"  {state.to_line()}\r") == state
    assert from_line(json.dumps({**document, "later": "more"})) == state
    del document["seconds"], document["ended"]
    assert from_line(json.dumps(document)) == state._replace(seconds=0.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "train    3 %",
        "{",
        "[]",
        "3",
        '{"name": "train"}',
        '{"raygen": "attempt"}',
        '{"raygen": "progress"}',
        '{"raygen": "progress", "name": "train", "done": "3", "total": 4, "unit": "rows"}',
        '{"raygen": "progress", "name": "train", "done": 3, "total": null, "unit": "rows"}',
        '{"raygen": "progress", "name": "train", "done": 3, "total": 4, "unit": "rows", "rate": []}',
    ],
)
def test_other_lines_are_not_about_progress(text: str) -> None:
    assert from_line(text) is None


def test_the_last_word_of_a_log() -> None:
    lines = [State("train", n, 10, "rows").to_line() for n in range(3)]
    assert last("\n".join([*lines, "a table of figures", "{}"])) == State("train", 2, 10, "rows")
    assert last("nothing\n") is None


def far(clock: Clock, capsys: pytest.CaptureFixture[str], *names: str) -> list[tuple[float, str]]:
    """What such jobs print elsewhere, and when."""
    printed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYGEN_PROGRESS", "json")
        for name in names:
            printed.extend((clock.now, capsys.readouterr().err) for _ in steps(clock, name))
            printed.append((clock.now, capsys.readouterr().err))
    return printed


def follow(clock: Clock, printed: list[tuple[float, str]]) -> Mirror:
    with Mirror() as mirror:
        for clock.now, text in printed:
            mirror.write(text)
    return mirror


def test_a_mirror_says_what_the_job_would_have_said(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal: the same plain lines on stderr, the rest on stdout."""
    for _ in steps(clock):
        pass
    here = capsys.readouterr().err
    assert len(here.splitlines()) == 3
    assert here.startswith("augment   33 %  1,000/3,000 rows  100 rows/s  20 s left  10 workers\n")
    printed = far(clock, capsys, "augment")
    assert follow(clock, [(0, "raygen\n"), *printed[:10], (clock.now, "[red]5[/red]")]).state == State(
        "augment", 800, 3000, "rows", 100.0, "8 workers", 8.0
    )
    assert capsys.readouterr().out == "raygen\n[red]5[/red]\n"
    follow(clock, printed)
    there = capsys.readouterr()
    assert there.err == here
    assert there.out == ""


def test_pieces_of_a_log_may_end_anywhere(terminal: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    log = f"first\n{State('train', 3, 10, 'rows').to_line()}\nsecond\n{State('train', 9, 10, 'rows').to_line()}\nthird"
    with Mirror() as mirror:
        for character in log:
            mirror.write(character)
    assert capsys.readouterr().out == "first\nsecond\nthird\n"
    assert mirror.state == State("train", 9, 10, "rows")


def test_a_mirror_draws_the_bars_that_the_job_would_have_drawn(
    clock: Clock, terminal: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    """One below the other, also where the first one was killed before it could say that it has ended."""
    for name in ("train", "augment"):
        for _ in steps(clock, name):
            pass
    here = bars(terminal)
    assert [line.split()[0] for line in here] == ["train", "augment"]
    assert all("3000/3000 T T 100 rows/s  30 workers" in line for line in here)
    printed = far(clock, capsys, "train", "augment")
    follow(clock, [(moment, text) for moment, text in printed if '"train"' not in text or '"ended": true' not in text])
    assert bars(terminal) == here


def bars(screen: io.StringIO) -> list[str]:
    """As they were left, without times; the terminal is empty then."""
    left = [re.sub(r"\d+:\d+:\d+", "T", line) for line in drawn(screen) if "3000/3000" in line]
    screen.seek(0)
    screen.truncate()
    return left


def test_a_mirror_that_comes_late_knows_how_long_it_has_been_going_on(terminal: io.StringIO) -> None:
    with Mirror() as mirror:
        mirror.write(State("train", 3600, 7200, "rows", 1.0, "", 3600.0).to_line() + "\n")
    assert "1:00:00 1:00:00" in drawn(terminal)[-2]


def test_it_takes_no_more_than_rich() -> None:
    """On a laptop with the client only."""
    code = """
import sys
for name in ("torch", "pyarrow", "ray", "numpy", "pandas", "fsspec", "pydantic", "typer"):
    sys.modules[name] = None
import raygen.jobs.progress
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_with_a_terminal_other_lines_go_above_the_bar(
    terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[Any]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with Mirror() as mirror:
        mirror.write(State("train", 3, 10, "rows").to_line() + "\n")
        mirror.write("somebody [bold]said\n")
    assert capsys.readouterr().out == ""
    lines = drawn(terminal)
    assert lines.index("somebody [bold]said") < next(n for n, line in enumerate(lines) if "3/10" in line and n)
