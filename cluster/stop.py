"""Stopping a driver: by SIGTERM (Ray Jobs, Kubernetes), by Ctrl-C, or since another attempt has taken over.

Nothing has to be saved then: what jobs write is whole, or not there. So a stop is an exception in the main thread, which
gives blocks the time to tidy up, and then, or when that takes too long since it is deep in a library, the process ends at
once. Of a Ray of its own nothing is left; a Ray cluster ends what works for a driver that is gone.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from raygen.errors import RaygenError

PATIENCE = 5.0
"""Seconds that blocks have to end."""
ONCE = 1.0
"""Seconds within which a signal that comes again is the same: Ray Jobs sends it to all, and a supervisor passes it on."""
_SAID = {signal.SIGTERM: "stopped", signal.SIGINT: "interrupted"}


class Stop(KeyboardInterrupt):
    """Stop now. Ray's core lets no other kind of exception out of the handler of a signal.

    Attributes:
        exit_code: of the process.
        lines: what the user is told.
    """

    def __init__(self, why: RaygenError | signal.Signals) -> None:
        super().__init__()
        if isinstance(why, RaygenError):
            self.exit_code, self.lines = why.exit_code, [f"error: {why.what}", f"  {why.hint}"]
        else:
            self.exit_code, self.lines = 128 + why, [f"{_SAID[why]}; the same command goes on from here"]


@contextlib.contextmanager
def stoppable() -> Iterator[Callable[[RaygenError], None]]:
    """Have SIGTERM and SIGINT end the block, and with it the process, within seconds. For the main thread.

    Yields:
        What does so with an error, from any thread.
    """
    stopping = _Stopping()
    try:
        with stopping.heard():
            yield stopping.by
    except SystemExit as error:
        if _due is None:
            if error.code != signal.SIGTERM:  # which is what Ray makes of one that comes while it starts
                raise
            stopping.begin(signal.SIGTERM)
    except BaseException:
        if _due is None:
            raise
    if _due is not None:  # whatever has become of it on its way here
        _end(_due)


_due: Stop | None = None
_ending = threading.RLock()


def due() -> bool:
    """Whether this process is about to end, and need not take care of its Ray."""
    return _due is not None


class _Stopping:
    """Of a block that the thread which makes this runs."""

    def __init__(self) -> None:
        self._main = threading.get_ident()
        self._before: dict[signal.Signals, Any] = {}
        self._raised: float | None = None
        self._over = False
        self._lock = threading.RLock()

    def handle(self, number: int, frame: object) -> None:
        """Of a signal, in the main thread. Whoever sends a second one, some time later, does not want to wait."""
        stop = self.begin(signal.Signals(number))
        if self._raised is None:
            self._raised = time.monotonic()
            raise stop
        if time.monotonic() - self._raised > ONCE:
            _end(stop)

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """While the block runs, signals are handled; and heard of at once by another thread, since the main one may be deep
        in a library, and handles none until it is back."""
        ear, mouth = os.pipe()
        os.set_blocking(mouth, False)
        self._before = {number: signal.signal(number, self.handle) for number in _SAID}
        signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=self._forked)

        def hear() -> None:
            while number := os.read(ear, 1):
                if number[0] in _SAID:
                    self.begin(signal.Signals(number[0]))
            os.close(ear)

        threading.Thread(target=hear, name="signals", daemon=True).start()
        try:
            yield
        finally:
            with self._lock:
                self._over = True
            self._forget()
            os.close(mouth)

    def _forked(self) -> None:
        """The signals of a process that this one has forked are its own."""
        if not self._over:
            self._over = True
            self._forget()

    def _forget(self) -> None:
        """Handle no signals any more; where the process is about to end, one that comes again is not to cut that short."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler if _due is None else signal.SIG_IGN)

    def by(self, error: RaygenError) -> None:
        with self._lock:
            if not self._over:  # then nobody handles it any more
                self.begin(error)
                signal.pthread_kill(self._main, signal.SIGTERM)  # which ends what it waits for

    def begin(self, why: RaygenError | signal.Signals) -> Stop:
        """The first reason is the one that counts; from then on it takes no longer than it may."""
        global _due
        with self._lock:
            if _due is None:
                _due = Stop(why)
                timer = threading.Timer(PATIENCE, _end, [_due])
                timer.daemon = True
                timer.start()
            return _due


def _end(stop: Stop) -> None:
    """The process, at once."""
    _ending.acquire()
    try:
        with contextlib.suppress(OSError):  # nobody may read it any more: tee, too, ends by Ctrl-C
            os.write(2, "".join(f"{line}\n" for line in stop.lines).encode())
        with contextlib.suppress(Exception):
            _end_children()
        with contextlib.suppress(Exception):
            sys.stdout.flush()
    finally:
        os._exit(stop.exit_code)


def _end_children() -> None:
    """The processes of a Ray of its own; in a cluster there are none."""
    if "ray" not in sys.modules:
        return
    import psutil  # Ray brings it

    this, known = psutil.Process(), set[psutil.Process]()
    while new := {*this.children(recursive=True)} - known:  # all are halted first, so that none begins another one meanwhile
        known |= new
        for child in new:
            with contextlib.suppress(psutil.Error):
                child.suspend()
    for child in known:
        with contextlib.suppress(psutil.Error):
            child.kill()
    psutil.wait_procs(known, timeout=1)
