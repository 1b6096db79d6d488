"""Progress: live bars on a terminal, otherwise one plain line now and then. Both on stderr; results go to stdout.

A job that is followed from afar prints neither, but lines of JSON (``RAYGEN_PROGRESS=json``), of which a :class:`Mirror`
makes the same bars elsewhere. That needs no more than ``rich``.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

PLAIN_SECONDS = 10.0
"""Between two plain lines."""
LINE_SECONDS, LATER, LATER_SECONDS = 2.0, 120.0, 10.0
"""Between two lines of JSON, and after how many seconds of a bar they come how seldom."""
POLL_SECONDS = 0.5
VARIABLE = "RAYGEN_PROGRESS"
_KIND = "progress"

console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One line for the user."""
    console.print(text, markup=False)


class State(NamedTuple):
    """What is known of a bar at one moment.

    Attributes:
        rate: units a second; None where nothing has been done yet.
        note: what else is worth a look (a loss, a count).
        seconds: since the bar began.
        ended: whether this is the last word of it.
    """

    name: str
    done: int
    total: int
    unit: str
    rate: float | None = None
    note: str = ""
    seconds: float = 0.0
    ended: bool = False

    def __str__(self) -> str:
        share = 100 * self.done / self.total if self.total else 100
        told = f"{self.name}  {share:3.0f} %  {self.done:,}/{self.total:,} {self.unit}  {self.speed}"
        return f"{told}{f'  {self.left:,.0f} s left' if self.left else ''}  {self.note}".rstrip()

    @property
    def speed(self) -> str:
        if not self.rate:
            return ""
        return f"{self.rate:,.0f} {self.unit}/s" if self.rate >= 10 else f"{self.rate:.1f} {self.unit}/s"

    @property
    def left(self) -> float | None:
        """Seconds, as far as the rate tells."""
        return (self.total - self.done) / self.rate if self.rate else None

    def to_line(self) -> str:
        return json.dumps({"raygen": _KIND, **self._asdict()}, ensure_ascii=False)


def from_line(text: str) -> State | None:
    """What a line of a job's output says of its progress; None where it is about something else."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(text)
        if found.pop("raygen") != _KIND:
            return None
        state = State(**{name: found[name] for name in State._fields if name in found or name not in State._field_defaults})
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    numbers = (state.done, state.total, state.seconds, 0 if state.rate is None else state.rate)
    known = all(isinstance(number, int | float) for number in numbers)
    return state if known and all(isinstance(word, str) for word in (state.name, state.unit, state.note)) else None


def last(text: str) -> State | None:
    """The last that a job's output says of its progress."""
    return next((state for line in reversed(text.splitlines()) if (state := from_line(line)) is not None), None)


class _Shown(Protocol):
    """How a bar is shown."""

    def show(self, state: State) -> None: ...
    def close(self, state: State) -> None: ...


class _Live:
    """As a bar."""

    def __init__(self, state: State) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", style="progress.remaining"),
            TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),  # what fits
        )
        # What others print goes above the bar, unless it goes to a file.
        self.progress = Progress(*columns, console=console, expand=True, redirect_stdout=sys.stdout.isatty())
        self.task = self.progress.add_task(state.name, total=state.total, completed=state.done, note="", left="-:--:--")
        start = self.progress.tasks[0].start_time
        assert start is not None
        self.progress.tasks[0].start_time = start - state.seconds  # of a job elsewhere it is not the first word that is seen
        self.progress.start()

    def show(self, state: State) -> None:
        left = "-:--:--" if state.left is None else str(timedelta(seconds=round(state.left)))
        note = f"{state.speed}  {state.note}"
        self.progress.update(self.task, total=state.total, completed=state.done, note=note, left=left)

    def close(self, state: State) -> None:
        self.progress.stop()


class _Plain:
    """As a line now and then."""

    def __init__(self) -> None:
        self.told = time.monotonic()

    def show(self, state: State) -> None:
        if time.monotonic() - self.told >= PLAIN_SECONDS:
            self.told = time.monotonic()
            say(str(state))

    def close(self, state: State) -> None:
        pass


class _Lines:
    """As lines of JSON, for a mirror: the first at once, the last when the bar ends."""

    def __init__(self, state: State) -> None:
        self.told = 0.0
        self._tell(state)

    def show(self, state: State) -> None:
        if time.monotonic() - self.told >= (LINE_SECONDS if state.seconds < LATER else LATER_SECONDS):
            self._tell(state)

    def close(self, state: State) -> None:
        self._tell(state._replace(ended=True))

    def _tell(self, state: State) -> None:
        self.told = time.monotonic()
        print(state.to_line(), file=sys.stderr, flush=True)


class Bar:
    """The progress of one job, in its own unit."""

    def __init__(self, name: str, total: int, unit: str, done: int = 0) -> None:
        self.name, self.total, self.unit, self.note = name, total, unit, ""
        self.start = self.done = done
        self.opened = time.monotonic()
        self.began: float | None = None  # the first word from the workers: their start-up is not their speed
        self.rate: float | None = None
        self.shown = self._shown()

    def _shown(self) -> _Shown:
        if os.environ.get(VARIABLE) == "json":
            return _Lines(self.state)
        return _Live(self.state) if console.is_terminal else _Plain()

    @property
    def state(self) -> State:
        seconds = round(time.monotonic() - self.opened, 1)
        return State(self.name, self.done, self.total, self.unit, self.rate, self.note, seconds)

    def update(self, done: int, note: str = "") -> None:
        """So far ``done`` of ``total``; the note says what else is worth a look (a loss, a count)."""
        self.done, self.note = done, note
        now = time.monotonic()
        if self.began is None:
            self.began, self.start = now, done
        elif now > self.began:
            self.rate = round((done - self.start) / (now - self.began), 3)
        self.shown.show(self.state)

    def close(self) -> None:
        self.shown.close(self.state)


@contextlib.contextmanager
def bar(name: str, total: int, unit: str, done: int = 0) -> Iterator[Bar]:
    """Show the progress of a job while the block runs."""
    shown = Bar(name, total, unit, done)
    try:
        yield shown
    finally:
        shown.close()


class Mirror:
    """Shows here what a job elsewhere prints: its progress as the bars that it would have here, all else as it is.

        with Mirror() as mirror:
            for text in log:
                mirror.write(text)

    Attributes:
        state: the last that was heard of the job's progress.
    """

    def __init__(self) -> None:
        self.state: State | None = None
        self._shown: _Shown | None = None
        self._rest = ""

    def __enter__(self) -> "Mirror":
        return self

    def __exit__(self, *error: object) -> None:
        if self._rest:
            self.write("\n")
        self._close()

    def write(self, text: str) -> None:
        """Some of what the job prints, in pieces of any length."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if (state := from_line(line)) is not None:
                self._show(state)
            else:
                print(line, flush=True)

    def _show(self, state: State) -> None:
        if self.state is not None and self.state.name != state.name:
            self._close()
        self.state = state
        if self._shown is None:
            self._shown = _Live(state) if console.is_terminal else _Plain()
        self._shown.show(state)
        if state.ended:
            self._close()

    def _close(self) -> None:
        if self._shown is not None and self.state is not None:
            self._shown.close(self.state)
        self._shown = None


@contextlib.contextmanager
def mailbox(shown: Bar) -> Iterator[Any]:
    """An actor to which workers elsewhere post ``(done, note)``; what it holds is shown while the block runs."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # others may go
    box: Any = ray.remote(_Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(POLL_SECONDS):
            with contextlib.suppress(ray.exceptions.RayError):
                latest = ray.get(box.latest.remote())
                if latest is not None:
                    shown.update(*latest)

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield box
    finally:
        stop.set()
        thread.join()
        ray.kill(box)


class _Mailbox:
    def __init__(self) -> None:
        self.message: tuple[int, str] | None = None

    def post(self, done: int, note: str) -> None:
        self.message = (done, note)

    def latest(self) -> tuple[int, str] | None:
        return self.message
