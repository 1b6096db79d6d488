"""Runs a job again where its driver died.

    python -m raygen.cluster.supervise 3 -- run spec.yaml

is ``raygen run spec.yaml`` and, should it die of a signal or of an error that nobody expected, up to three more attempts,
each of which goes on where the one before it was. A mistake that the user has to mend, a gate that fails, and a stop are not
tried again.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence

FIRST_WAIT, LONGEST_WAIT = 2.0, 60.0
"""Seconds before the second attempt; before each one after it twice as many."""
STOPS = (signal.SIGTERM, signal.SIGINT)
FINAL = {0, 2, 3, *(128 + number for number in STOPS)}
"""Exit codes that are not tried again: done, a mistake to mend (or another attempt has taken over), the gate, a stop."""


def worth_another(code: int) -> bool:
    """Whether a driver may be run again that ended by this exit code, which is as a shell's: for a signal 128 and more."""
    return code not in FINAL and (code == 1 or code > 128)


def wait_before(attempt: int) -> float:
    """Seconds to wait before an attempt, of which the first was number 1."""
    return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(attempt - 2, 10))


class Supervisor:
    """Runs a command of raygen.

    Args:
        arguments: of raygen.
        retries: the most attempts beside the first.
    """

    def __init__(self, arguments: Sequence[str], retries: int) -> None:
        self.command, self.retries = [sys.executable, "-m", "raygen", *arguments], retries
        self.child: subprocess.Popen[bytes] | None = None
        self.stopped: int | None = None

    def run(self) -> int:
        """Until the job is done or has to be given up; returns the exit code of the last driver."""
        for number in STOPS:
            signal.signal(number, self._stop)
        attempt = 1
        while True:
            code = self._attempt()
            if self.stopped is not None or not worth_another(code):
                return code
            if attempt > self.retries:
                _say(
                    f"the driver {_told(code)}; that was attempt {attempt} of {attempt}; the same command goes on from here"
                )
                return code
            attempt += 1
            wait = wait_before(attempt)
            _say(f"the driver {_told(code)}; attempt {attempt} of {1 + self.retries} begins in {wait:g} s")
            until = time.monotonic() + wait
            while time.monotonic() < until and self.stopped is None:
                time.sleep(0.1)
            if self.stopped is not None:
                _say("stopped; the same command goes on from here")
                return 128 + self.stopped

    def _attempt(self) -> int:
        self.child = subprocess.Popen(self.command)  # noqa: S603  # of this Python
        if self.stopped is not None:  # by a signal that came before there was a child
            self.child.send_signal(self.stopped)
        code = self.child.wait()
        return code if code >= 0 else 128 - code

    def _stop(self, number: int, frame: object) -> None:
        """Of a signal: the driver gets it, and ends by itself."""
        self.stopped = number
        if self.child is not None:
            self.child.send_signal(number)


def _told(code: int) -> str:
    if code <= 128:
        return "met an unexpected error"
    try:
        name = signal.Signals(code - 128).name
    except ValueError:
        return f"ended by exit code {code}"
    return f"was killed by {name}" + (", as for want of memory" if name == "SIGKILL" else "")


def _say(text: str) -> None:
    print(f"supervise: {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """The entry point; returns the exit code."""
    match arguments:
        case [number, "--", *command] if number.isdecimal() and command:
            return Supervisor(command, int(number)).run()
    _say("give how often to try again, and the command: python -m raygen.cluster.supervise 3 -- run spec.yaml")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
