"""A trained project without the training, and its dataset without Ray, for the tests of what a dataset holds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raygen.datasets import columns, stream
from raygen.datasets.codec import Codec
from raygen.generators.generator import Generator, untrained
from raygen.jobs import augment, ready, shard_workers
from raygen.jobs.project import Project, write_json
from raygen.load import load_spec

Spec = dict[str, Any]


@pytest.fixture(scope="session")
def pets(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real digits, of some classes more than of others, with columns of many types, in files of uneven row groups."""
    table = pq.read_table(digits)
    label = np.asarray(table["label"])
    table = table.filter(pa.array((label < 3) | ((label == 3) & (np.arange(len(label)) % 2 == 0)))).slice(0, 190)
    rows = np.arange(len(table))
    table = table.append_column("score", pa.array([None if n % 7 == 0 else n / 3 - 0.0 for n in rows]))
    table = table.append_column("odd", pa.array([[float("nan"), -0.0, 0.0, 1e-310][n % 4] for n in rows]))
    table = table.append_column("tags", pa.array([None if n % 5 == 0 else [{"k": str(n)}] * (n % 3) for n in rows]))
    table = table.append_column("who", pa.array([f"p{n % 3}" if n % 4 else None for n in rows]).dictionary_encode())
    folder = tmp_path_factory.mktemp("pets")
    pq.write_table(table.slice(0, 100), folder / "a.parquet", row_group_size=23)
    pq.write_table(table.slice(100), folder / "b.parquet", row_group_size=64)
    return folder


def fitted(source: stream.Source, spec: Any) -> Codec:
    """What ``stream.fit`` finds, without Ray, and with nothing held out."""
    table = pq.read_table(list(source.files))
    names = [name for name, field in spec.dataset.fields.items() if field.kind == "category"]
    counted = {name: columns.count(table[name].combine_chunks()) for name in names}
    return Codec.of(spec.dataset.fields, source.arrow, {name: columns.fit(count, count) for name, count in counted.items()})


def published(document: Spec, seed: int = 0) -> Project:
    """The project of a spec as it is after training: with a generator, if not one that has learnt anything."""
    spec = load_spec(document)
    project = Project(spec)
    if project.result() is None:
        torch.manual_seed(seed)
        codec = fitted(project.source, spec)
        codec = codec.select([codec.image[0], spec.generator.condition])
        sampler = untrained(spec.generator, codec, torch.device("cpu")).sampler().eval()
        with torch.no_grad():
            for parameter in sampler.parameters():
                parameter.mul_(3)  # so that rows differ
        generator = Generator(spec.generator, codec, sampler, lineage={"rows": project.source.rows})
        generator.save(project.folder / "generators" / generator.digest)
        write_json(project.run, "result.json", {"digest": generator.digest, "epochs": 0, "metrics": {}})
    return project


def here(project: Project, planned: Any, artifact: Any, output: Any, each: Any, todo: list[Any]) -> None:
    """What Ray's workers do, by this process."""
    maker = shard_workers.work(project.augment, planned, artifact, output).maker("cpu")
    for shard in todo:
        maker.write(output, shard, maker.tables(shard))


@pytest.fixture(scope="session")
def trained() -> Callable[[Spec], Project]:
    return published


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, so that a generator is made once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def base(pets: Path, store: Path) -> Spec:
    """A spec of these, as a mapping, but for ``augment``."""
    return {
        "name": "pets",
        "storage": str(store),
        "dataset": {
            "path": str(pets),
            "schema": {
                "image": {"kind": "image", "height": 28, "width": 28, "channels": 1},
                "label": {"kind": "category"},
            },
        },
        "generator": {"family": "vae", "condition": "label", "width": 4, "latent": 6},
        "gate": [],
    }


@pytest.fixture(scope="session")
def write_to(base: Spec) -> Callable[..., Path]:
    """Write a dataset with the keys of ``augment``, here, without Ray; returns its folder."""

    def write_to(
        output: Path, spec: Spec | None = None, overwrite: bool = False, by: Callable[..., None] = here, **asked: Any
    ) -> Path:
        document = {**(spec or base), "augment": {"output": str(output), "shard_rows": 50, **asked}}
        project = published(document)
        project.overwrite = overwrite
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(augment, "_write", by)
            patch.setattr(augment, "resources", lambda: (0, 2))
            patch.setattr(ready, "require", lambda *_: [])
            augment.augment(project)
        return output

    return write_to


@pytest.fixture
def write(write_to: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """The same in a folder of the test."""
    return lambda output="out", *arguments, **asked: write_to(tmp_path / output, *arguments, **asked)
