"""The history of a registry: every move of ``current``, one file each.

The last one says what is current; there is no other pointer that could differ from it. A file is made exclusively and
never changed: of all who try to make the next one, on any machine, one does (a hard link on a local disk, a conditional PUT
on S3), which moves ``current`` for all at once. So nobody moves away what another has promoted meanwhile without having seen
it, and what was before can always be told.

One that answers a part of what is asked only, a canary, moves nothing: ``current`` is the last one that answers all.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple

from raygen.datasets.storage import Folder
from raygen.errors import OutputError
from raygen.jobs.project import read_json

SHORT = 12
"""Digits of a digest that people are shown."""
ALL = 100
"""Percent of what is asked, which is what a promotion answers that is no canary."""
_FILE = re.compile(r"(\d{6,})\.json")


@dataclass(frozen=True)
class Promotion:
    """One move of ``current``, or a canary beside it.

    Attributes:
        number: from 1.
        digest: of the generator that became current, or a canary.
        previous: of the one that was current before; None at first.
        action: a rollback goes back to one that was current before, and stands on that promotion's evidence.
        at: when, ISO 8601 in UTC, by the clock of who did it.
        by: user and machine.
        forced: whether it was let through without having passed its gate.
        evaluation: the report, as it was then; None where there was none.
        percent: of the requests to an endpoint that it answers, the others being answered by ``current``.
    """

    number: int
    digest: str
    previous: str | None
    action: Literal["promote", "rollback"]
    at: str
    by: str
    forced: bool
    evaluation: Mapping[str, Any] | None
    percent: int = ALL

    def __str__(self) -> str:
        how = "rolled back to" if self.action == "rollback" else "promoted"
        told = f"{self.number}: {self.at} {self.by} {how} {self.digest[:SHORT]}"
        return told + (f" for {self.percent} %" if self.percent < ALL else "") + (", forced" if self.forced else "")


class Holding(NamedTuple):
    """What holds at one moment.

    Attributes:
        current: the last promotion that answers all; None before the first.
        canary: the one that answers a part, beside it.
        last: of the whole history.
    """

    current: Promotion | None
    canary: Promotion | None
    last: Promotion | None


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

    def holding(self) -> Holding:
        """What holds now: one look at the folder, so that what it says belongs together."""
        return holding(self._read(number) for number in reversed(self._numbers()))

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
            document = {"percent": ALL} | document  # type: ignore[operator]  # there were no canaries once
            return Promotion(**{field.name: document[field.name] for field in fields(Promotion)})
        except (KeyError, TypeError):
            raise OutputError(f"{self.folder.uri}/{name}: is not a promotion", "restore it, or upgrade raygen") from None


def holding(promotions: Iterable[Promotion]) -> Holding:
    """What holds after promotions, given newest first; looks no further back than to the current one."""
    last: Promotion | None = None
    for promotion in promotions:
        last = last or promotion
        if promotion.percent == ALL:
            return Holding(promotion, None if last is promotion else last, last)
    return Holding(None, None, last)


def standing(promotions: Iterable[Promotion]) -> list[str]:
    """The digests that rollbacks would go through, the current one last: a promotion lays one on top, a rollback takes off
    all down to its own. A canary lays nothing; after one, a rollback to what is on top takes away the canary alone."""
    stack: list[str] = []
    canary = False
    for promotion in promotions:
        on_top = stack[-1:] == [promotion.digest]
        if promotion.percent < ALL:
            canary = True
            continue
        if promotion.action == "rollback" and not (canary and on_top):
            below = stack[:-1]
            while below and below[-1] != promotion.digest:
                below.pop()
            stack = below or [promotion.digest]
        elif not on_top:
            stack.append(promotion.digest)
        canary = False
    return stack
