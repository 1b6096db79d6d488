"""Work of this process, done by another machine, as if it were done here: what it returns, raises, and tells."""

import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from raygen.datasets import stream
from raygen.errors import ResourceError
from raygen.jobs import placement, progress, waiting
from raygen.resources import Demand

LOOKS = 0.5
"""Seconds between two looks at what it tells."""
LOSSES = 10
"""Of its worker, or its machine, after which it is given up."""
QUIET = 20.0
"""Seconds without a word after which it may be waiting for another machine."""


def run(demand: Demand, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function where there is room for one worker; where its node is lost, on another one, from the beginning.

    Args:
        function: it, its arguments and what it returns can be pickled. To be done twice, or partly, harms nothing.

    Raises:
        RaygenError: what the function raises.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    each, shown = demand.each, _Shown()
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    told: Any = ray.remote(_Told).options(num_cpus=0, scheduling_strategy=here).remote()
    task = ray.remote(max_retries=0, runtime_env=placement.without_gpus(each), **placement.options(each))(_there)
    errors = ray.exceptions
    gone = (
        errors.WorkerCrashedError, errors.NodeDiedError, errors.LocalRayletDiedError, errors.OutOfMemoryError,
        errors.ObjectLostError,
    )  # fmt: skip

    def waits() -> bool:
        return time.monotonic() - shown.heard > QUIET and placement.pending(each).waits

    def once() -> Any:
        waiting.for_room(demand)
        answer = task.remote(told, max(2, int(each.cpus)), os.getcwd(), function, arguments)
        try:
            ready: list[Any] = []
            while not ready:
                ready, _ = ray.wait([answer], timeout=LOOKS)
                shown.show(ray.get(told.take.remote()))
            return ray.get(answer)
        except KeyboardInterrupt:
            ray.cancel(answer, force=True)
            raise

    try:
        with waiting.told(demand, waits), stream.user_errors(), shown:
            for _ in range(LOSSES):
                try:
                    return once()
                except gone as error:
                    said = str(error).strip().splitlines() or [type(error).__name__]
                    progress.say(f"{demand.job}: its worker was lost, and it begins again ({said[0][:200]})")
    finally:
        ray.kill(told)
    raise ResourceError(
        f"{demand.job}: its worker was lost {LOSSES} times",
        f"see whether its memory will do, and reserve what it needs: resources.{demand.job}.memory",
    )


class _Told:
    """What is told, until somebody looks."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def put(self, lines: list[str]) -> None:
        self.lines += lines

    def take(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines


class _Shown:
    """Shows what is told elsewhere."""

    def __init__(self) -> None:
        self.stack, self.heard = contextlib.ExitStack(), time.monotonic()
        self.bar: progress.Bar | None = None

    def __enter__(self) -> "_Shown":
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def show(self, lines: list[str]) -> None:
        for line in lines:
            self.heard = time.monotonic()
            if (state := progress.from_line(line)) is None:
                progress.say(line)
                continue
            if self.bar is None or self.bar.name != state.name:
                self.stack.close()
                self.bar = self.stack.enter_context(progress.bar(state.name, state.total, state.unit, state.done))
            self.bar.total = state.total
            self.bar.update(state.done, state.note)
            if state.ended:
                self.stack.close()
                self.bar = None


def _there(told: Any, reads: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """What the other machine does; if it has the folder that relative paths are of, there."""
    with contextlib.suppress(OSError):
        os.chdir(folder)
    with _telling(told), _quietly(), stream.confined(reads):
        return function(*arguments)


@contextlib.contextmanager
def _telling(told: Any) -> Iterator[None]:
    """Have what is told to the user told to whoever has asked for this work."""
    import ray

    said, printed, stop = _Lines(), _Lines(), threading.Event()

    def take() -> list[str]:
        lines = printed.take()
        progressed = [line for line in lines if progress.from_line(line) is not None]
        for line in lines:
            if line not in progressed:
                print(line, file=sys.__stderr__)  # in Ray's log
        return said.take() + progressed

    def pass_on() -> None:
        while not stop.wait(LOOKS):
            if found := take():
                told.put.remote(found)

    thread = threading.Thread(target=pass_on, daemon=True, name="tells")
    before, console = os.environ.get(progress.VARIABLE), progress.console.file
    os.environ[progress.VARIABLE], progress.console.file = "json", said
    thread.start()
    try:
        with contextlib.redirect_stderr(printed):
            yield
    finally:
        stop.set()
        thread.join()
        progress.console.file = console
        if before is None:
            del os.environ[progress.VARIABLE]
        else:
            os.environ[progress.VARIABLE] = before
        ray.get(told.put.remote(take()))


class _Lines(io.StringIO):
    """Lines that were written, until somebody takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.lock = "", threading.Lock()

    def write(self, text: str) -> int:
        with self.lock:
            self.text += text
        return len(text)

    def take(self) -> list[str]:
        with self.lock:
            *lines, self.text = self.text.split("\n")
        return lines


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Have Ray Data raise what functions of ours raise, and tell nothing of its own."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.raise_original_map_exception = True
    context.enable_progress_bars = context.print_on_execution_start = False
    yield
