"""Counted by Ray Data, in whatever pieces, is what is counted here; copies are found among all training rows."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import TypeAdapter

from raygen.datasets import stream
from raygen.datasets.hashes import of_rows
from raygen.datasets.storage import Folder
from raygen.generators.generator import Generator, untrained
from raygen.jobs import tally
from raygen.metrics.counts import Counts, quality
from raygen.metrics.grid import Grid
from raygen.spec import DatasetSpec, GeneratorSpec

pytestmark = pytest.mark.usefixtures("ray")

KINDS = {"age": "number", "city": "category", "day": "datetime", "empty": "number"}
HOLDOUT = 0.4


@pytest.fixture(scope="module")
def table() -> pa.Table:
    random = np.random.default_rng(0)
    age = random.integers(18, 30, 3000)
    return pa.table(
        {
            "age": pa.array(age, mask=random.random(3000) < 0.1),
            "city": pa.array(np.where(age > 22, "Oslo", "Rome")).dictionary_encode(),
            "day": pa.array((age * 10 + random.integers(0, 3, 3000)).astype(np.int32)).cast(pa.date32()),
            "empty": pa.nulls(3000, pa.float32()),
        }
    )


@pytest.fixture(scope="module")
def source(table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> stream.Source:
    folder = tmp_path_factory.mktemp("ages")
    pq.write_table(table.slice(0, 1100), folder / "a.parquet", row_group_size=300)
    pq.write_table(table.slice(1100), folder / "b.parquet", row_group_size=1000)
    schema = {name: {"kind": kind} for name, kind in KINDS.items()}
    return stream.open_source(DatasetSpec.model_validate({"path": str(folder), "schema": schema}), Folder(folder))


def held(table: pa.Table) -> np.ndarray:
    masks = [
        stream.holdout_mask(name, np.arange(rows), HOLDOUT) for name, rows in (("a.parquet", 1100), ("b.parquet", 1900))
    ]
    return np.concatenate(masks)


def test_the_real_rows_are_counted_as_if_they_were_in_memory(
    table: pa.Table, source: stream.Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "MOST_TASKS", 3)
    cells, known = Grid.of(table, KINDS), []
    wanted = of_rows(table.slice(0, 500), list(KINDS))
    halves, found = tally.counted(source, HOLDOUT, 1.0, cells, np.unique(wanted), known.append)
    whole, expected = Counts(cells), Counts(cells)
    for half in halves:
        assert 0.45 < half.total / held(table).sum() < 0.55
        whole.merge(half)
    expected.update(table.filter(pa.array(held(table))), np.zeros(held(table).sum(), np.int64))
    assert (whole.rows.sum(axis=0) == expected.rows.sum(axis=0)).all()
    np.testing.assert_allclose(whole.moments.sum(axis=0), expected.moments.sum(axis=0), rtol=1e-12)
    assert whole.rows[:, cells.places["age"]].sum(axis=1).min() > 20  # groups are of like size
    training = of_rows(table.filter(pa.array(~held(table))), list(KINDS))
    assert set(found.tolist()) == set(wanted.tolist()) & set(training.tolist())
    assert 0 < len(found) < len(np.unique(wanted))
    assert known[-1] == "3,000 of 3,000 rows counted"
    assert len(known) == 3


def test_the_ceiling_has_a_share_of_its_half(table: pa.Table, source: stream.Source) -> None:
    none = np.empty(0, np.uint64)
    (reference, ceiling), found = tally.counted(source, HOLDOUT, 0.25, Grid.of(table, KINDS), none, lambda _: None)
    assert 0.4 < reference.total / held(table).sum() < 0.6
    assert 0.15 < ceiling.total / reference.total < 0.35
    assert not len(found)


def test_rows_are_made_and_counted_as_if_they_were_in_memory(
    table: pa.Table, source: stream.Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = {name: {"kind": kind} for name, kind in KINDS.items()}
    codec = stream.fit(source, DatasetSpec.model_validate({"path": source.root, "schema": schema, "holdout": HOLDOUT}))
    spec = TypeAdapter(GeneratorSpec).validate_python(
        {"family": "autoregressive", "width": 8, "features": 4, "embedding": 4}
    )
    generator = Generator(spec, codec, untrained(spec, codec, torch.device("cpu")).sampler().eval(), lineage={"rows": 1800})
    generator.save(Folder(tmp_path))
    cells = Grid.of(table, KINDS)
    counts, hashes = tally.made_and_counted(str(tmp_path), cells, 900, 500, 3, lambda _: None)
    made = generator.sample(range(900), 3)
    assert (hashes == of_rows(made, list(KINDS))).all()
    expected = Counts(cells)
    expected.update(made.slice(0, 500), np.zeros(500, np.int64))
    assert (counts.rows.sum(axis=0) == expected.rows.sum(axis=0)).all()
    rows = 1200, 1800
    sample = table.slice(0, 700), table.filter(pa.array(held(table)))
    found = tally.tally(source, HOLDOUT, str(tmp_path), rows, sample, KINDS, 3, lambda _: None)
    training = set(of_rows(table.filter(pa.array(~held(table))), list(KINDS)).tolist())
    copies = np.mean([each in training for each in of_rows(generator.sample(range(1200), 3), list(KINDS)).tolist()])
    assert found.copies.value == pytest.approx(copies)
    assert found.copies.interval.low <= copies <= found.copies.interval.high
    assert found.by_chance.value > 0.5
    assert found.document["compared"] == 900
    best = quality(found.reference, found.ceiling)
    assert found.scores()[1] == best.quality
    assert best.quality.overall > 0.9 > found.scores()[0].overall
