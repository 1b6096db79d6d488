"""A replica by itself, without Ray."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import endpoints
import pytest

from raygen.datasets.storage import Folder
from raygen.generators.generator import Generator
from raygen.serving import endpoint
from raygen.serving.endpoint import Endpoint


@pytest.fixture
def replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(endpoint, "_tell", lambda: None)  # it is for a process of its own
    endpoints.promoted(Folder(tmp_path / "digits"), endpoints.digits(0))
    made = Endpoint({"digits": str(tmp_path / "digits")}, None, 1_000_000)
    yield made
    made.stop.set()


def test_its_health(replica: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(replica.check_health())
    monkeypatch.setattr(Generator, "sample", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(replica.check_health())
