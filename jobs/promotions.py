"""The history of a registry: every move of ``current``, one file each.

The last one says what is current; there is no other pointer that could differ from it. A file is made exclusively and
never changed: of all who try to make the next one, on any machine, one does (a hard link on a local disk, a conditional PUT
on S3), which moves ``current`` for all at once. So nobody moves away what another has promoted meanwhile without having seen
it, and what was before can always be told.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from raygen.datasets.storage import Folder
from raygen.errors import OutputError
from raygen.jobs.project import read_json

SHORT = 12
"""Digits of a digest that people are shown."""
_FILE = re.compile(r"(\d{6,})\.json")


@dataclass(frozen=True)
class Promotion:
    """One move of ``current``.

    Attributes:
        number: from 1.
        digest: of the generator that became current.
        previous: of the one that was before; None at first.
        action: a rollback goes back to one that was current before, and stands on that promotion's evidence.
        at: when, ISO 8601 in UTC, by the clock of who did it.
        by: user and machine.
        forced: whether it was let through without having passed its gate.
        evaluation: the report, as it was then; None where there was none.
    """

    number: int
    digest: str
    previous: str | None
    action: Literal["promote", "rollback"]
    at: str
    by: str
    forced: bool
    evaluation: Mapping[str, Any] | None

    def __str__(self) -> str:
        how = "rolled back to" if self.action == "rollback" else "promoted"
        return f"{self.number}: {self.at} {self.by} {how} {self.digest[:SHORT]}{', forced' if self.forced else ''}"


class Promotions:
    """Those in a folder, ``000001.json`` and on."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def all(self) -> list[Promotion]:
        """Oldest first.

        Raises:
            OutputError: one of them is broken.
        """
        return [self._read(number) for number in self._numbers()]

    def last(self) -> Promotion | None:
        """The one that holds; None before the first."""
        numbers = self._numbers()
        return self._read(numbers[-1]) if numbers else None

    def add(self, promotion: Promotion) -> Promotion | None:
        """Make it the next one: None. Or else, where its number is taken, the last one, and nothing is written."""
        text = json.dumps(asdict(promotion), indent=1, ensure_ascii=False)
        return None if self.folder.create(f"{promotion.number:06}.json", text.encode()) else self.all()[-1]

    def _numbers(self) -> list[int]:
        matches = map(_FILE.fullmatch, self.folder.names())  # beside them may be what is not whole yet
        return sorted(int(match[1]) for match in matches if match)

    def _read(self, number: int) -> Promotion:
        name = f"{number:06}.json"
        document = read_json(self.folder, name)
        try:
            return Promotion(**{field.name: document[field.name] for field in fields(Promotion)})  # type: ignore[index]
        except (KeyError, TypeError):
            raise OutputError(f"{self.folder.uri}/{name}: is not a promotion", "restore it, or upgrade raygen") from None


def standing(promotions: Iterable[Promotion]) -> list[str]:
    """The digests that rollbacks would go through, the current one last: a promotion lays one on top, a rollback takes off
    all down to its own."""
    stack: list[str] = []
    for promotion in promotions:
        if promotion.action == "rollback":
            below = stack[:-1]
            while below and below[-1] != promotion.digest:
                below.pop()
            stack = below or [promotion.digest]
        else:
            stack.append(promotion.digest)
    return stack
