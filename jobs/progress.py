"""Progress: live bars on a terminal, otherwise one plain line now and then. Both on stderr; results go to stdout."""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

PLAIN_SECONDS = 10.0
POLL_SECONDS = 0.5

console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One line for the user."""
    console.print(text, markup=False)


class Bar:
    """The progress of one job, in its own unit."""

    def __init__(self, name: str, total: int, unit: str, done: int = 0) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.start = self.done = done
        self.began: float | None = None  # the first word from the workers: their start-up is not their speed
        self.told = time.monotonic()
        self.live: Progress | None = None
        self.task: TaskID | None = None

    def update(self, done: int, note: str = "") -> None:
        """So far ``done`` of ``total``; the note says what else is worth a look (a loss, a count)."""
        self.done = done
        if self.began is None:
            self.began, self.start = time.monotonic(), done
        if self.live is not None and self.task is not None:
            self.live.update(self.task, total=self.total, completed=done, note=f"{self._speed()}  {note}")
        elif time.monotonic() - self.told >= PLAIN_SECONDS:
            self.told = time.monotonic()
            left = f"  {(self.total - done) / self._rate():,.0f} s left" if self._rate() else ""
            share = f"{100 * done / self.total:3.0f} %"
            say(f"{self.name}  {share}  {done:,}/{self.total:,} {self.unit}  {self._speed()}{left}  {note}".rstrip())

    def _speed(self) -> str:
        rate = self._rate()
        return f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.1f} {self.unit}/s" if rate else ""

    def _rate(self) -> float:
        elapsed = 0.0 if self.began is None else time.monotonic() - self.began
        return (self.done - self.start) / elapsed if elapsed else 0.0


@contextlib.contextmanager
def bar(name: str, total: int, unit: str, done: int = 0) -> Iterator[Bar]:
    """Show the progress of a job while the block runs."""
    shown = Bar(name, total, unit, done)
    if not console.is_terminal:
        yield shown
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),  # what fits
    )
    with Progress(*columns, console=console, expand=True) as live:
        shown.live, shown.task = live, live.add_task(name, total=total, completed=done, note="")
        yield shown


@contextlib.contextmanager
def mailbox(shown: Bar) -> Iterator[Any]:
    """An actor to which workers elsewhere post ``(done, note)``; what it holds is shown while the block runs."""
    import ray

    box: Any = ray.remote(_Mailbox).options(num_cpus=0).remote()
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
