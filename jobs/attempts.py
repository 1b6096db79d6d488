"""Attempts of a job: of all drivers that work on one job, the newest goes on, and the older ones stop.

    <storage>/<name>/jobs/<job>/attempts/0001.json …      one of each attempt, made exclusively and never changed

A driver whose job has a name (``RAYGEN_JOB``, which ``raygen submit`` and the manifests set) begins by making the file of
the next number, and looks every few seconds whether there is a higher one: at a list of a few names. Until it has looked,
two work at once, and one that was away for an hour works on until it looks. Whatever they do, that does no harm: files are
written whole, with the same bytes by whoever, and exclusively where only one may win. What this saves is doing work twice.

A storage that does not answer stops nobody: then it is looked at again a little later.
"""

import contextlib
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime

from raygen.datasets.storage import Folder
from raygen.errors import OutputError, RaygenError
from raygen.jobs import progress

JOB = "RAYGEN_JOB"
"""The environment variable with the name of the job."""
LOOK_SECONDS = 3.0
_FILE = re.compile(r"(\d{4,})\.json")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Attempt:
    """One driver of a job.

    Attributes:
        number: from 1.
        began: when, ISO 8601 in UTC, by the clock of its machine.
        host: its machine.
        pid: its process.
        submission: as what Ray Jobs runs it; None where it does not.
    """

    number: int
    began: str
    host: str
    pid: int
    submission: str | None = None

    def __str__(self) -> str:
        began = datetime.fromisoformat(self.began).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"attempt {self.number} of this job, begun {began} on host {self.host} (process {self.pid})"


class Attempts:
    """Those of one job.

    Args:
        folder: where their files are.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    @classmethod
    def of(cls, project: Folder, job: str) -> "Attempts":
        """Those of a job of the project in a folder, ``<storage>/<name>``.

        Raises:
            RaygenError: the job's name would not do as that of a folder.
        """
        if not _NAME.fullmatch(job):
            raise RaygenError(f"{JOB}={job}: is no name of a job", "give letters, digits, and . _ - in between; or unset it")
        return cls(project / "jobs" / job / "attempts")

    def all(self) -> list[Attempt]:
        """Oldest first.

        Raises:
            OutputError: the storage does not answer, or one of them is broken.
        """
        return [self._read(number) for number in self._numbers()]

    def newer(self, than: int = 0) -> Attempt | None:
        """The newest one, where its number is higher. Where it is not, this is one look at the folder."""
        newest = max(self._numbers(), default=0)
        return self._read(newest) if newest > than else None

    def claim(self, number: int) -> Attempt:
        """Be an attempt that nobody else is: the one of a number, or the first after it that is not taken."""
        while True:
            began = datetime.now(UTC).isoformat(timespec="seconds")
            attempt = Attempt(number, began, socket.gethostname(), os.getpid(), _submission())
            if self.folder.create(f"{number:04}.json", json.dumps(asdict(attempt), indent=1).encode()):
                return attempt
            number += 1

    def _numbers(self) -> list[int]:
        matches = map(_FILE.fullmatch, self.folder.names())  # beside them may be what is not whole yet
        return sorted(int(match[1]) for match in matches if match)

    def _read(self, number: int) -> Attempt:
        name = f"{number:04}.json"
        try:
            document = json.loads(self.folder.read(name))
            return Attempt(**{field.name: document[field.name] for field in fields(Attempt)})
        except (ValueError, KeyError, TypeError):
            raise OutputError(f"{self.folder.uri}/{name}: is not an attempt", "remove it, or upgrade raygen") from None


@contextlib.contextmanager
def the_newest(project: Folder, stop: Callable[[RaygenError], None]) -> Iterator[Attempt | None]:
    """Be the next attempt of the job that ``RAYGEN_JOB`` names, for the length of the block; without one, nothing.

    Args:
        project: its folder.
        stop: is called, by another thread, where another attempt has taken over.

    Raises:
        OutputError: the storage cannot be written.
    """
    if not (job := os.environ.get(JOB)):
        yield None
        return
    attempts = Attempts.of(project, job)
    project.check_answers()
    before = attempts.newer()
    attempt = attempts.claim(1 if before is None else before.number + 1)
    then = f"; attempt {before.number}, on {before.host}, stops if it still runs" if before else ""
    progress.say(f"{attempt}{then}")
    over = threading.Event()
    threading.Thread(target=_look, args=(attempts, attempt, over, stop), name="attempts", daemon=True).start()
    try:
        yield attempt
    finally:
        over.set()  # the thread may be waiting for the storage, and is not waited for


def _look(attempts: Attempts, mine: Attempt, over: threading.Event, stop: Callable[[RaygenError], None]) -> None:
    """Look for a newer attempt, until there is one."""
    while not over.wait(LOOK_SECONDS):
        with contextlib.suppress(Exception):  # whatever a storage may say: it is asked again
            newer = Attempts(attempts.folder.impatient()).newer(mine.number)
            if newer is not None and not over.is_set():
                stop(
                    RaygenError(f"{newer} has taken over", f"this one, attempt {mine.number}, stops; what it wrote is kept")
                )
                return


def _submission() -> str | None:
    """By what name Ray Jobs runs this process, which it tells in the environment."""
    try:
        metadata = json.loads(os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"])["metadata"]
        return str(metadata["job_submission_id"])
    except (KeyError, ValueError, TypeError):
        return None
