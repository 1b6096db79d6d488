"""A replica by itself, without Ray: its rows are made one answer at a time, whoever goes away meanwhile."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import endpoints
import pytest

from raygen.datasets.storage import Folder
from raygen.generators.generator import Generator
from raygen.serving import endpoint
from raygen.serving.api import Generate, Interpolate
from raygen.serving.endpoint import Endpoint
from raygen.serving.tiles import PIECE, Tiles


@pytest.fixture
def replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(endpoint, "_tell", lambda: None)  # it is for a process of its own
    endpoints.promoted(Folder(tmp_path / "digits"), endpoints.digits(0))
    made = Endpoint({"digits": str(tmp_path / "digits")}, None, 1_000_000)
    yield made
    made.stop.set()


def test_rows_in_pieces(replica: Endpoint) -> None:
    served, tiles = replica.models.find("digits"), Tiles(replica.metrics.batch)
    shown = [7, 3] * PIECE

    async def main() -> list[Any]:
        asked = Generate(rows=len(shown), start=5, seed=3, condition=shown)
        return [table async for table in tiles.rows(served, asked)]

    first, second = asyncio.run(main())
    assert first.equals(served.generator.sample(range(5, 5 + PIECE), 3, shown[:PIECE]))
    assert second.equals(served.generator.sample(range(5 + PIECE, 5 + 2 * PIECE), 3, shown[PIECE:]))


def test_who_goes_away_does_not_let_another_one_compute_beside(replica: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    served, tiles = replica.models.find("digits"), Tiles(replica.metrics.batch)
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

    async def one() -> Any:
        return [table async for table in tiles.rows(served, Generate(rows=300))]

    async def main() -> Any:
        for _ in range(5):
            gone = asyncio.create_task(one())
            while not at_once:
                await asyncio.sleep(0.001)
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
        return await one()

    (table,) = asyncio.run(main())
    assert table.equals(sample(served.generator, range(300)))
    assert most == 1


def test_what_is_between_two_rows(replica: Endpoint) -> None:
    served, tiles = replica.models.find("digits"), Tiles(replica.metrics.batch)

    async def main() -> list[Any]:
        return [table async for table in tiles.rows(served, Interpolate(between=[2, 9], steps=3, seed=1))]

    (table,) = asyncio.run(main())
    assert table.equals(served.generator.between((2, 9), 3, 1, None))


def test_its_health(replica: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(replica.check_health())
    monkeypatch.setattr(Generator, "sample", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(replica.check_health())
