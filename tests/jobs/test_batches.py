"""Batches: which rows a step sees, on which worker, kept in memory or read when they are wanted."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raygen.datasets import stream
from raygen.datasets.codec import Batch, Codec
from raygen.datasets.parquet import Fragment
from raygen.datasets.stream import Piece
from raygen.jobs import batches
from raygen.jobs.batches import InMemory, Share, Streamed, pieces, some, steps
from raygen.spec import ImageField

ALONE = Share(0, 1)


class Numbers:
    """Stands in for a reader: row groups of some sizes, whose training rows are numbered through."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes, self.read_rows = sizes, 0
        self.source = type("Source", (), {"fragments": [Fragment("f", n, 0, 0, size) for n, size in enumerate(sizes)]})
        self.codec = Codec({"image": ImageField(height=8, width=8, channels=1)}, pa.schema([("image", pa.binary())]), {})

    def counts(self) -> list[int]:
        return list(self.sizes)

    def read(self, wanted: Sequence[Piece]) -> Iterator[Batch]:
        for piece in wanted:
            first = sum(self.sizes[: piece.fragment.row_group]) + piece.skip
            self.read_rows += piece.take
            for at in range(first, first + piece.take, 7):  # in blocks that end anywhere
                yield {"row": np.arange(at, min(at + 7, first + piece.take))}


def rows(of: Any, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [batch["row"].tolist() for batch in of.epoch(epoch, start)]


def made(kind: str, total: int, batch_size: int, share: Share = ALONE, seed: int = 0) -> Any:
    if kind == "memory":
        return InMemory({"row": np.arange(total)}, batch_size, seed, share)
    sizes = [40, 0, 13, 1, *([30] * 40)]
    while sum(sizes) > total:
        sizes.pop()
    reader: Any = Numbers([*sizes, total - sum(sizes)])
    return Streamed(reader, batch_size, seed, share)


@pytest.fixture(params=["memory", "streamed", "streamed in small windows"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if "small" in request.param:
        monkeypatch.setattr(batches, "WINDOW_ROWS", 50)
    return str(request.param)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("total", [120, 121, 143, 500])
def test_an_epoch_has_every_row_and_is_filled_up_with_few(kind: str, total: int, world: int) -> None:
    shares = [rows(made(kind, total, 12, Share(rank, world))) for rank in range(world)]
    assert all([len(batch) for batch in share] == [12 // world] * steps(total, 12) for share in shares)
    seen = [row for share in shares for batch in share for row in batch]
    assert set(seen) == set(range(total))
    assert len(seen) - total < 12


def test_epochs_are_shuffled_each_in_its_own_way_and_the_same_again(kind: str) -> None:
    first, second = (rows(made(kind, 500, 20), epoch) for epoch in (0, 1))
    assert first != second
    assert first == rows(made(kind, 500, 20), 0)
    assert first != rows(made(kind, 500, 20, seed=1), 0)
    apart = np.abs(np.diff(np.concatenate(first)))
    assert np.median(apart) > (2 if "small" in kind else 20)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("start", [1, 3, 7, 24])
def test_an_epoch_goes_on_at_any_step(kind: str, start: int, world: int) -> None:
    for rank in range(world):
        share = Share(rank, world)
        assert rows(made(kind, 490, 20, share), 2, start) == rows(made(kind, 490, 20, share), 2)[start:]


def test_windows_before_the_first_step_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "WINDOW_ROWS", 50)
    late = made("streamed", 500, 20)
    rows(late, 0, 20)
    assert late.reader.read_rows == 100


@pytest.mark.parametrize("world", [1, 2])
def test_the_next_epoch_is_read_ahead_and_nothing_after_the_last(kind: str, world: int) -> None:
    share = Share(world - 1, world)
    expected = [rows(made(kind, 490, 20, share), epoch) for epoch in range(3)]
    ahead = made(kind, 490, 20, share)
    ahead.epochs = 3
    assert [rows(ahead, 0, 7), rows(ahead, 1), rows(ahead, 2)] == [expected[0][7:], *expected[1:]]
    if "streamed" in kind:
        assert not ahead.ahead
        rows(ahead, 1)
        assert list(ahead.ahead) == [(2, 0)]
        assert rows(ahead, 2, 3) == expected[2][3:]  # of a run that went back, or on, what was read is not what is wanted


def test_in_memory_the_workers_share_the_batches_of_one(kind: str) -> None:
    alone = rows(made("memory", 130, 12))
    both = [rows(made("memory", 130, 12, Share(rank, 2))) for rank in range(2)]
    assert [[*a, *b] for a, b in zip(*both, strict=True)] == alone


@pytest.mark.parametrize("world", [1, 2, 5])
def test_once_is_every_row_once(kind: str, world: int) -> None:
    seen = [batch["row"] for rank in range(world) for batch in made(kind, 143, 10, Share(rank, world)).once()]
    assert sorted(np.concatenate(seen).tolist()) == list(range(143))


def test_a_row_group_of_many_windows_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "WINDOW_ROWS", 50)
    reader: Any = Numbers([1000])
    asked: list[Piece] = []
    read = reader.read
    reader.read = lambda wanted: asked.extend(wanted) or read(wanted)
    assert sorted(np.concatenate(rows(Streamed(reader, 20, 0, ALONE)))) == list(range(1000))
    assert len(asked) == 1


def test_once_is_in_batches() -> None:
    assert [len(batch["row"]) for batch in made("streamed", 143, 10, Share(0, 2)).once()] == [5] * 14 + [1]


def test_a_window_takes_no_more_memory_than_it_may() -> None:
    reader: Any = Numbers([5000])
    reader.codec = Codec({"image": ImageField(height=512, width=512, channels=3)}, pa.schema([("image", pa.binary())]), {})
    assert Streamed(reader, 16, 0, Share(0, 1)).window * 512 * 512 * 3 <= batches.WINDOW_BYTES


def test_pieces_of_row_groups() -> None:
    a, b, c = (Fragment("f", n, 0, 0, 9) for n in range(3))
    parts = [(a, 5), (b, 0), (c, 4)]
    assert pieces(parts, range(9)) == [Piece(a, 0, 5), Piece(c, 0, 4)]
    assert pieces(parts, range(3, 6)) == [Piece(a, 3, 2), Piece(c, 0, 1)]
    assert pieces(parts, range(6, 7)) == [Piece(c, 1, 1)]


@pytest.mark.parametrize("row_group", [7, 100])
@pytest.mark.parametrize("held", [False, True])
def test_a_reader_reads_one_side_of_the_holdout_in_pieces(ray: None, tmp_path: Path, row_group: int, held: bool) -> None:
    """Against the mask that decides what is held out, over real PNG files of the rows' numbers."""
    from raygen.datasets import images

    pixels = np.arange(100, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 8, 8), np.uint8)
    table = pa.table({"image": images.encode(pixels, pa.binary()), "other": pa.array(range(100))})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=row_group)
    source = stream.scan(str(tmp_path), None)  # type: ignore[arg-type]  # no sample is read
    codec = Codec.of({"image": ImageField(height=8, width=8, channels=1)}, source.arrow, {})
    reader = stream.Reader(source, codec, 0.3, held)
    mask = stream.holdout_mask("a.parquet", np.arange(100), 0.3) == held
    assert sum(reader.counts()) == mask.sum()
    parts = list(zip(source.fragments, reader.counts(), strict=True))

    def read(rows: range) -> list[int]:
        return [int(image[0, 0, 0]) for batch in reader.read(pieces(parts, rows)) for image in batch["image"]]

    expected = np.flatnonzero(mask).tolist()
    assert read(range(len(expected))) == expected
    assert read(range(5, 17)) == expected[5:17]
    few = some(reader, 12, 0)["image"][:, 0, 0, 0].tolist()
    assert set(few) <= set(expected)
    assert 10 <= len(set(few)) == len(few) <= 30
    assert few != sorted(few)
    assert min(few) < 40  # of all parts, although the rows are sorted
    assert max(few) > 60
