"""What all replicas have counted: limits hold over all of them, and deaths of replicas and of the ledger lose no counts."""

import asyncio
from typing import Any

import pytest

from raygen.serving.auth import Doorkeeper, Token
from raygen.serving.book import Book
from raygen.serving.ledger import BURIED, SETTLING, SILENT, Counts, Heard, Ledger
from raygen.serving.problems import Problem

BO = Token(name="bo", sha256="0" * 64, rows=100, concurrent=60, requests=1000)
ASKED = ("raygen_requests", "digits")


class Clock:
    now = 1_200_000.0

    def __call__(self) -> float:
        return self.now


class Endpoint:
    """Some replicas and their ledger, without Ray; what passes between them is copied, as if it were sent."""

    def __init__(self, replicas: int = 2) -> None:
        self.clock = Clock()
        self.ledger = Ledger(self.clock, self.clock)
        self.up = True
        self.keepers = [Doorkeeper([BO], Book(self, self.clock)) for _ in range(replicas)]
        self.beat()
        self.clock.now += SETTLING
        self.beat()

    async def exchange(self, replica: str, own: Counts, heard: Heard | None, totals: bool) -> Heard | None:
        if not self.up:
            raise ConnectionError
        return self.ledger.exchange(replica, own.copy(), heard, totals)

    async def leave(self, replica: str, own: Counts) -> None:
        self.ledger.leave(replica, own.copy())

    def beat(self, seconds: float = 1.0) -> None:
        """A second passes, and everybody tells and hears, twice: what the last one tells reaches the first."""
        self.clock.now += seconds
        for _ in range(2):
            for keeper in self.keepers:
                asyncio.run(keeper.book.exchange())

    def restarted(self) -> None:
        self.ledger = Ledger(self.clock, self.clock)

    def counted(self, of: int = 0) -> float:
        counts, _ = asyncio.run(self.keepers[of].book.all())
        return counts.totals.get(ASKED, 0)


def ask(keeper: Doorkeeper, rows: int) -> None:
    with keeper.admitted(BO, rows):
        pass


def left(keeper: Doorkeeper) -> int:
    """How many rows more it would let in."""
    for rows in range(100, 0, -1):
        if sum(keeper.book.used("rows", "bo").values()) + rows <= 100:
            return rows
    return 0


def test_a_budget_holds_over_all_replicas() -> None:
    endpoint = Endpoint()
    one, other = endpoint.keepers
    ask(one, 60)
    endpoint.beat()
    with pytest.raises(Problem) as raised:
        ask(other, 41)
    assert raised.value.status == 429
    ask(other, 40)
    endpoint.beat()
    assert left(one) == left(other) == 0


def test_a_second_is_what_a_budget_may_be_overshot_by() -> None:
    endpoint = Endpoint()
    for keeper in endpoint.keepers:
        ask(keeper, 60)
    endpoint.beat()
    for keeper in endpoint.keepers:
        with pytest.raises(Problem):
            ask(keeper, 1)


def test_rows_at_once_are_those_of_all_replicas() -> None:
    endpoint = Endpoint()
    one, other = endpoint.keepers
    with one.admitted(BO, 50):
        endpoint.beat()
        with pytest.raises(Problem) as raised:
            ask(other, 11)
        assert raised.value.more == {"limit": "concurrent"}
    endpoint.beat()
    ask(other, 11)


def test_what_was_under_way_in_a_dead_replica_is_so_no_more_and_its_rows_count_still() -> None:
    endpoint = Endpoint()
    one, other = endpoint.keepers
    under_way = one.admitted(BO, 50)  # which never ends
    under_way.__enter__()
    endpoint.beat()
    assert other.book.level(("raygen_rows_under_way", "bo")) == 50
    endpoint.keepers.remove(one)
    endpoint.beat(SILENT + 1)
    assert other.book.level(("raygen_rows_under_way", "bo")) == 0
    for passed in (0, BURIED, 23 * 3600 - BURIED):
        endpoint.beat(passed)
        assert left(other) == 50
    endpoint.beat(3600 + 600)
    assert left(other) == 100


def test_one_that_was_only_slow_is_not_counted_twice() -> None:
    endpoint = Endpoint()
    one, other = endpoint.keepers
    ask(one, 50)
    endpoint.beat()
    endpoint.keepers.remove(one)
    endpoint.beat(SILENT + 1)
    endpoint.keepers.append(one)
    endpoint.beat()
    assert left(one) == left(other) == 50


@pytest.mark.parametrize("died", [False, True])
def test_another_ledger_learns_what_there_was(died: bool) -> None:
    endpoint = Endpoint(3)
    one, other, gone = endpoint.keepers
    ask(gone, 30)
    gone.book.count(ASKED, 3)
    endpoint.beat()
    if died:
        endpoint.keepers.remove(gone)
        endpoint.beat(SILENT + 1)
    ask(one, 20)
    endpoint.beat()
    endpoint.up = False
    ask(other, 10)  # by what it knows
    endpoint.beat()
    with pytest.raises(Problem) as raised:
        endpoint.counted()
    assert raised.value.status == 503
    endpoint.restarted()
    endpoint.up = True
    with pytest.raises(Problem):
        endpoint.counted()  # nobody else has told the new one anything yet
    for _ in range(5):
        endpoint.beat()
        assert left(other) == 40  # also while the new one does not know everybody yet
    assert left(one) == 40
    assert endpoint.counted() == 3


def test_one_that_leaves_another_ledger_before_that_has_learnt_adds_up() -> None:
    endpoint = Endpoint(3)
    _, leaves, dies = endpoint.keepers
    for keeper, n in ((leaves, 5), (dies, 3)):
        keeper.book.count(ASKED, n)
    endpoint.beat()
    endpoint.keepers.remove(dies)
    endpoint.beat(SILENT + 1)
    endpoint.restarted()
    endpoint.keepers.remove(leaves)
    endpoint.ledger.leave(leaves.book._name, leaves.book.own())
    endpoint.beat(SETTLING)
    assert endpoint.counted() == 8


def test_totals_never_go_backwards_whoever_is_asked() -> None:
    endpoint = Endpoint(3)
    seen = [0.0]
    for step in range(30):
        for keeper in endpoint.keepers:
            keeper.book.count(ASKED)
        if step == 5:
            endpoint.beat()
            endpoint.keepers.pop()
        if step == 20:
            endpoint.beat(BURIED)
        if step % 3 == 0:
            endpoint.beat(2.5)
        seen.append(endpoint.counted(step % 2))
    assert seen == sorted(seen)
    endpoint.beat()
    assert endpoint.counted() == 6 * 3 + 24 * 2


def test_what_leaves_in_good_order_is_counted_to_the_last() -> None:
    endpoint = Endpoint()
    one, other = endpoint.keepers

    async def life() -> None:
        async with one.book.shared():
            one.book.count(ASKED, 7)
            one.book.use("rows", "bo", 30)

    asyncio.run(life())
    endpoint.keepers.remove(one)
    endpoint.beat()
    assert endpoint.counted() == 7
    assert left(other) == 70
    assert asyncio.run(other.book.all())[1] == 1


def test_the_dead_do_not_add_up_in_memory() -> None:
    endpoint = Endpoint()
    for number in range(300):
        keeper = Doorkeeper([BO], Book(endpoint, endpoint.clock))
        keeper.book.count(ASKED)
        keeper.book.use("rows", "bo", number % 2)
        asyncio.run(keeper.book.exchange())
        endpoint.beat(30)
    assert len(endpoint.ledger._replicas) < BURIED / 30 + 5
    assert endpoint.counted() == 300


def test_a_replica_alone_needs_no_ledger() -> None:
    book = Book()
    book.count(ASKED, 2)

    async def all_of() -> Any:
        async with book.shared():
            return await book.all()

    counts, replicas = asyncio.run(all_of())
    assert (counts.totals, replicas) == ({ASKED: 2}, 1)


def test_what_the_ledger_does_not_answer_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    endpoint = Endpoint(1)
    endpoint.up = False
    endpoint.beat()
    endpoint.up = True
    endpoint.beat()
    assert ["the ledger" in record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [True]


def test_exchanges_do_not_overtake_each_other() -> None:
    told: list[float] = []

    class Slow(Endpoint):
        async def exchange(self, replica: str, own: Counts, heard: Heard | None, totals: bool) -> Heard | None:
            await asyncio.sleep(0.01 if not told else 0)
            told.append(own.totals.get(ASKED, 0))
            return self.ledger.exchange(replica, own, heard, totals)

    book = Book(Slow(0))

    async def two() -> None:
        first = asyncio.create_task(book.exchange())
        await asyncio.sleep(0)
        book.count(ASKED)
        await asyncio.gather(first, book.exchange())

    asyncio.run(two())
    assert told == [0, 1]
