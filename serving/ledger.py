"""What all replicas have counted: each for itself, in memory, and the ledger adds it up, about every second.

So no request waits for another replica, and what is asked of several of them within a second may overshoot a limit by that
much. A replica tells all that it has counted, not what is new, so that a message which is lost, or told twice, changes
nothing. Each keeps what it has heard: while there is no ledger it goes on with that, and the next ledger learns from it what
replicas had counted that are gone.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

SILENT = 5.0
"""Seconds without a word, after which a replica is taken for dead: what was under way there is so no more."""
BURIED = 600.0
"""And after which it is not expected back."""
REMEMBERED = 1000
"""Names of those that are gone, which are kept in case a message of theirs comes late."""
SETTLING = 3.0
"""Seconds for which a new ledger only listens: it does not know everybody yet."""

Key: TypeAlias = tuple[str, ...]
"""A name, and the values of its labels."""


class Window(NamedTuple):
    """A limit holds in any ``span`` seconds, which are counted by slices of some seconds: what is asked for counts until its
    whole slice is over, so a slice longer at most, never shorter."""

    span: float
    slice: float

    def counts(self, slices: dict[int, int], now: float) -> dict[int, int]:
        """Those that count still."""
        first = self._first(now)
        return {at: n for at, n in slices.items() if at >= first}

    def until(self, slices: dict[int, int], n: int, now: float) -> float:
        """Seconds until ``n`` of what counts does so no more."""
        for at in sorted(slices):
            n -= slices[at]
            if n <= 0:
                return (at + 1) * self.slice + self.span - now
        return self.span

    def at(self, now: float) -> int:
        """The slice of a moment."""
        return int(now // self.slice)

    def _first(self, now: float) -> int:
        return int((now - self.span) // self.slice)


WINDOWS = {"rows": Window(24 * 3600.0, 600.0), "requests": Window(60.0, 1.0)}
"""The limits of a token that hold in time."""


@dataclass
class Counts:
    """What has been counted.

    Attributes:
        totals: what only grows; it stays when the replica is gone.
        uses: what a token has used of a limit, by slices of its window: by ``(limit, token)``. It is counted by the time of
            day, which the clocks of all machines agree on, more or less.
        levels: what is so now, and with a replica that is gone no more.
    """

    totals: dict[Key, float] = field(default_factory=dict)
    uses: dict[Key, dict[int, int]] = field(default_factory=dict)
    levels: dict[Key, float] = field(default_factory=dict)

    def copy(self) -> "Counts":
        """As it is now, whoever goes on counting."""
        return Counts(dict(self.totals), {key: dict(slices) for key, slices in self.uses.items()}, dict(self.levels))

    def add(self, other: "Counts") -> None:
        for mine, theirs in ((self.totals, other.totals), (self.levels, other.levels)):
            for key, n in theirs.items():
                mine[key] = mine.get(key, 0) + n
        for key, slices in other.uses.items():
            used = self.uses.setdefault(key, {})
            for at, count in slices.items():
                used[at] = used.get(at, 0) + count

    def take(self, other: "Counts") -> None:
        """Undo that its totals and uses have been added; what has expired of them is gone already."""
        for key, n in other.totals.items():
            self.totals[key] -= n
        for key, slices in other.uses.items():
            used = self.uses.get(key, {})
            for at in slices.keys() & used.keys():
                used[at] -= slices[at]

    def raise_to(self, other: "Counts") -> None:
        """Have no less of anything than the other has."""
        for key, n in other.totals.items():
            self.totals[key] = max(self.totals.get(key, 0), n)
        for key, slices in other.uses.items():
            used = self.uses.setdefault(key, {})
            for at, count in slices.items():
                used[at] = max(used.get(at, 0), count)

    def expire(self, now: float) -> None:
        """Forget what does not count any more."""
        counting = ((key, WINDOWS[key[0]].counts(slices, now)) for key, slices in self.uses.items())
        self.uses = {key: slices for key, slices in counting if slices}


class Heard(NamedTuple):
    """What the ledger tells a replica.

    Attributes:
        life: another one for each ledger.
        replicas: how many live.
        others: what the others have counted that live; totals only where they were asked for.
        gone: what those had counted that are gone.
    """

    life: str
    replicas: int
    others: Counts
    gone: Counts


class Ledger:
    """What all replicas have counted.

    Its methods wait for nothing, and are coroutines so that they run one after another: others Ray Serve runs in threads.

    Args:
        clock: seconds, growing.
        today: seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, today: Callable[[], float] = time.time) -> None:
        self._clock, self._today = clock, today
        self._life, self._since = secrets.token_hex(8), clock()
        self._replicas: dict[str, tuple[float, Counts]] = {}
        self._gone, self._inherited = Counts(), Counts()
        self._left: dict[str, None] = {}
        self._buried: dict[str, Counts] = {}  # and what of theirs is in those that are gone

    async def exchange(self, replica: str, own: Counts, heard: Heard | None, totals: bool = False) -> Heard | None:
        """Hear all that a replica has counted, and tell it what the others have: None as long as not all can be known.

        Args:
            replica: its name, which no other has.
            own: all that it has counted, ever.
            heard: what it was told before, if anything.
            totals: whether it asks for those of the others, too, which are many.
        """
        now = self._clock()
        if heard is not None and heard.life != self._life:  # by a ledger before this one
            self._inherited.raise_to(heard.gone)
        if replica not in self._left:  # or the message came after its last words, which say more
            self._return(replica)
            self._replicas[replica] = (now, own)
        self._bury(now)
        alive, others, gone = 0, Counts(), self._gone.copy()
        gone.add(self._inherited)
        for name, (at, counts) in self._replicas.items():
            silent = now - at > SILENT
            alive += not silent
            if silent:
                gone.add(replace(counts, levels={}))
            elif name != replica:
                others.add(counts if totals else replace(counts, totals={}))
        return Heard(self._life, alive, others, gone) if now - self._since >= SETTLING else None

    async def leave(self, replica: str, own: Counts) -> None:
        """Hear the last words of a replica."""
        if replica in self._left:
            return
        self._return(replica)
        self._replicas.pop(replica, None)
        self._gone.add(replace(own, levels={}))
        self._left[replica] = None
        _forget(self._left)

    def _return(self, replica: str) -> None:
        """It counts for itself again, where it was taken for dead."""
        if (counts := self._buried.pop(replica, None)) is not None:
            self._gone.take(counts)

    def _bury(self, now: float) -> None:
        """Add up what is not expected to change any more, so that it does not grow with every replica that ever was."""
        for name in [name for name, (at, _) in self._replicas.items() if now - at > BURIED]:
            counts = self._buried[name] = replace(self._replicas.pop(name)[1], levels={})
            self._gone.add(counts)
        _forget(self._buried)
        for gone in (self._gone, self._inherited):
            gone.expire(self._today())


def _forget(names: dict[str, Any]) -> None:
    """The first of them, where they are too many."""
    for name in [*names][:-REMEMBERED]:
        del names[name]
