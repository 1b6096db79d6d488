"""Few rows for several who ask: the rows of the generator whoever else asks, and nobody waits for who has gone or failed."""

import asyncio
import json
import threading
import time
from collections.abc import Coroutine
from typing import Any

import endpoints
import pytest

from raygen.datasets.storage import Folder
from raygen.generators.generator import Generator
from raygen.jobs.registry import Registry
from raygen.serving import answers
from raygen.serving.answers import ARROW, JSON, PNG, ZIP
from raygen.serving.api import Generate, Interpolate
from raygen.serving.models import Models, Served
from raygen.serving.problems import Problem
from raygen.serving.tiles import MOST, PIECE, Tiles


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> list[Served]:
    folder = tmp_path_factory.mktemp("store")
    for seed, name in enumerate(("digits", "others")):
        endpoints.promoted(Folder(folder / name), endpoints.digits(seed))
    return [*Models({name: Registry(Folder(folder / name)) for name in ("digits", "others")})]


@pytest.fixture
def sizes() -> list[int]:
    """Of the tiles that were made, in rows."""
    return []


def run(sizes: list[int], asked: Any) -> Any:
    async def main() -> Any:
        return await asked(Tiles(lambda name, rows, tile: sizes.append(rows)))

    return asyncio.run(main())


def alone(served: Served, asked: Generate, kind: str) -> bytes:
    rows = range(asked.start, asked.start + asked.rows)
    return answers.whole(kind, served.codec, served.generator.sample(rows, asked.seed, asked.condition))


def test_answers_are_those_of_who_asks_alone(served: list[Served], sizes: list[int]) -> None:
    asked = [
        (served[n % 2], Generate(rows=1 + n % 3, start=60 + n, seed=n % 5, condition=[7, 3, None][n % 3]), kind)
        for n, kind in enumerate((JSON, PNG, ARROW, ZIP) * 6)
    ]

    async def together(tiles: Tiles) -> list[bytes]:
        return await asyncio.gather(*(tiles.answer(*one) for one in asked))

    assert run(sizes, together) == [alone(*one) for one in asked]
    assert len(sizes) == 2  # one for each generator


def test_more_than_is_made_at_once(served: list[Served], sizes: list[int]) -> None:
    asked = [Generate(rows=100, start=100 * n) for n in range(4)]

    async def together(tiles: Tiles) -> list[bytes]:
        return await asyncio.gather(*(tiles.answer(served[0], one, JSON) for one in asked))

    made = run(sizes, together)
    assert [len(json.loads(content)["rows"]) for content in made] == [100] * 4
    assert max(sizes) <= MOST
    assert sum(sizes) == 400


def test_who_asks_while_rows_are_made_is_next(served: list[Served], sizes: list[int]) -> None:
    async def one_after_the_other(tiles: Tiles) -> bytes:
        await tiles.answer(served[0], Generate(start=1), JSON)
        return await tiles.answer(served[0], Generate(start=2), JSON)

    assert run(sizes, one_after_the_other) == alone(served[0], Generate(start=2), JSON)
    assert sizes == [1, 1]


def test_who_has_gone_is_not_worked_for(served: list[Served], sizes: list[int]) -> None:
    async def gone(tiles: Tiles) -> list[Any]:
        asks = [asyncio.create_task(tiles.answer(served[0], Generate(start=n), JSON)) for n in range(3)]
        await asyncio.sleep(0)  # all wait
        asks[1].cancel()
        return await asyncio.gather(*asks, return_exceptions=True)

    found = run(sizes, gone)
    assert isinstance(found[1], asyncio.CancelledError)
    assert [found[0], found[2]] == [alone(served[0], Generate(start=n), JSON) for n in (0, 2)]
    assert sizes == [2]


def test_what_cannot_be_asked_spoils_nothing(served: list[Served], sizes: list[int]) -> None:
    async def wrong(tiles: Tiles) -> list[Any]:
        asks: list[Coroutine[Any, Any, bytes]] = [
            tiles.answer(served[0], Generate(condition=condition), JSON) for condition in (7, 10)
        ]
        return await asyncio.gather(*asks, return_exceptions=True)

    good, bad = run(sizes, wrong)
    assert good == alone(served[0], Generate(condition=7), JSON)
    assert isinstance(bad, Problem)
    assert bad.status == 422


def test_what_fails_is_told_and_what_comes_after_is_made(
    served: list[Served], sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Generator, asked: Any) -> Any:
        raise MemoryError

    async def after_a_failure(tiles: Tiles) -> tuple[list[Any], bytes]:
        with monkeypatch.context() as broken:
            broken.setattr(Generator, "batch", fail)
            asks = [tiles.answer(served[0], Generate(start=n), JSON) for n in range(2)]
            failed = await asyncio.gather(*asks, return_exceptions=True)
        return failed, await tiles.answer(served[0], Generate(), JSON)

    failed, content = run(sizes, after_a_failure)
    assert [type(error) for error in failed] == [MemoryError] * 2
    assert content == alone(served[0], Generate(), JSON)


def test_what_fails_for_one_fails_for_nobody_else(
    served: list[Served], sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    wholes = answers.wholes

    def failing(kind: str, codec: Any, table: Any, sizes: Any) -> list[bytes]:
        if kind == ZIP or 2 in sizes:
            raise ValueError("no such thing")
        return wholes(kind, codec, table, sizes)

    monkeypatch.setattr(answers, "wholes", failing)
    asked = [(Generate(start=n, rows=1 + (n == 3)), kind) for n, kind in enumerate((JSON, ZIP, PNG, JSON, JSON))]

    async def together(tiles: Tiles) -> list[Any]:
        return await asyncio.gather(*(tiles.answer(served[0], *one) for one in asked), return_exceptions=True)

    found = run(sizes, together)
    monkeypatch.undo()
    assert [isinstance(one, ValueError) for one in found] == [False, True, False, True, False]
    assert [found[n] for n in (0, 2, 4)] == [alone(served[0], *asked[n]) for n in (0, 2, 4)]


def test_who_asks_after_a_failure_is_answered(served: list[Served]) -> None:
    def telling(name: str, rows: int, tile: int) -> None:
        if rows == 3:
            raise KeyError(name)

    async def main() -> bytes:
        tiles = Tiles(telling)
        with pytest.raises(KeyError):
            await tiles.answer(served[0], Generate(rows=3), JSON)
        return await asyncio.wait_for(tiles.answer(served[0], Generate(start=2), JSON), 30)

    assert asyncio.run(main()) == alone(served[0], Generate(start=2), JSON)


def test_a_tile_waits_for_those_who_were_answered_just_now(
    served: list[Served], sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raygen.serving.tiles.PAUSE", 60.0)
    monkeypatch.setattr("raygen.serving.tiles.AGAIN", 60.0)

    async def asking(tiles: Tiles, number: int) -> None:
        for turn in range(3):
            await tiles.answer(served[0], Generate(start=10 * turn + number), JSON)
            await asyncio.sleep(0.01 * number)  # not all at once

    async def together(tiles: Tiles) -> None:
        await asyncio.gather(*(asking(tiles, number) for number in range(4)))

    run(sizes, together)
    assert sizes == [4, 4, 4]


def test_nobody_waits_for_who_does_not_come_again(served: list[Served], sizes: list[int]) -> None:
    async def main(tiles: Tiles) -> bytes:
        await asyncio.gather(*(tiles.answer(served[0], Generate(start=number), JSON) for number in range(4)))
        return await tiles.answer(served[0], Generate(start=9), JSON)

    assert run(sizes, main) == alone(served[0], Generate(start=9), JSON)
    assert sizes == [4, 1]


def test_rows_in_pieces(served: list[Served]) -> None:
    one, tiles = served[0], Tiles(lambda *_: None)
    shown = [7, 3] * PIECE

    async def main() -> list[Any]:
        asked = Generate(rows=len(shown), start=5, seed=3, condition=shown)
        return [table async for table in tiles.rows(one, asked)]

    first, second = asyncio.run(main())
    assert first.equals(one.generator.sample(range(5, 5 + PIECE), 3, shown[:PIECE]))
    assert second.equals(one.generator.sample(range(5 + PIECE, 5 + 2 * PIECE), 3, shown[PIECE:]))


def test_who_goes_away_lets_nobody_compute_beside_its_rows(served: list[Served], monkeypatch: pytest.MonkeyPatch) -> None:
    one, tiles = served[0], Tiles(lambda *_: None)
    at_once = most = 0
    counting = threading.Lock()
    sample = Generator.sample

    def slow(self: Generator, *of: Any) -> Any:
        nonlocal at_once, most
        with counting:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.05)  # as a larger one takes
        with counting:
            at_once -= 1
        return sample(self, *of)

    monkeypatch.setattr(Generator, "sample", slow)

    async def asking() -> Any:
        return [table async for table in tiles.rows(one, Generate(rows=300))]

    async def main() -> Any:
        for _ in range(5):
            gone = asyncio.create_task(asking())
            while not at_once:
                await asyncio.sleep(0.001)
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
        return await asking()

    (table,) = asyncio.run(main())
    assert table.equals(sample(one.generator, range(300)))
    assert most == 1


def test_what_is_between_two_rows(served: list[Served]) -> None:
    one, tiles = served[0], Tiles(lambda *_: None)

    async def main() -> list[Any]:
        return [table async for table in tiles.rows(one, Interpolate(between=[2, 9], steps=3, seed=1))]

    (table,) = asyncio.run(main())
    assert table.equals(one.generator.between((2, 9), 3, 1, None))
