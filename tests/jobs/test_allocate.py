"""What rows are worth writing, as small models tell that learn from them; and that all jobs keep to what was decided."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import raygen
from raygen.datasets.codec import CELLS
from raygen.datasets.statistics import Statistics
from raygen.datasets.storage import Folder
from raygen.errors import DataError, GateError, RaygenError
from raygen.generators.generator import Generator, untrained
from raygen.jobs import allocate, augment, evaluate_images, evaluate_tables, evaluate_usefulness, pipeline
from raygen.jobs.evaluate_images import Rows
from raygen.jobs.project import Project
from raygen.jobs.train import train
from raygen.jobs.verify import verify
from raygen.load import load_spec
from raygen.spec import Spec

Document = dict[str, Any]
KINDS = {"size": "number", "weight": "number", "age": "number", "shop": "category", "sort": "category"}
AUTO = {"rows": 1000, "balance": "sort", "allocate": "auto"}


def goods(rows: int, seed: int = 0, every: int = 80) -> pa.Table:
    """A few of which are of a rare sort: large and light."""
    random = np.random.default_rng(seed)
    rare = np.arange(rows) % every == 0
    columns = {
        "size": random.normal(0, 1, rows) + 2 * rare,
        "weight": random.normal(0, 1, rows) - 2 * rare,
        "age": random.normal(0, 1, rows) + rare,
        "shop": random.choice(["x", "y"], rows),
        "sort": np.where(rare, "rare", "common"),
    }
    return pa.table(columns).take(random.permutation(rows))


def spec_of(path: str = "goods.parquet", **changed: Any) -> Spec:
    return load_spec(document_of(path, **changed))


def document_of(path: str, **changed: Any) -> Document:
    return {
        "name": "goods",
        "dataset": {"path": path, "schema": {name: {"kind": kind} for name, kind in KINDS.items()}},
        "generator": {"family": "autoregressive", "condition": "sort", "width": 64, "features": 16},
        "augment": AUTO,
        **changed,
    }


def learnt(spec: Spec, table: pa.Table, steps: int) -> Generator:
    """A generator that has seen so many batches of a table."""
    statistics = Statistics(spec.dataset.fields)
    statistics.add(table, np.full(len(table), True))
    codec = statistics.codec(table.schema)
    torch.manual_seed(0)
    learner = untrained(spec.generator, codec, torch.device("cpu"))
    cells, order = torch.from_numpy(codec.encode(table)[CELLS]), torch.Generator().manual_seed(1)
    for step in range(steps):
        learner.pace(step / steps, 1 - step / steps)
        torch.manual_seed(step)
        learner.step(cells[torch.randint(len(cells), (128,), generator=order)], None)
        learner.average_weights()
    return Generator(spec.generator, codec, learner.exported().eval())


def settled(generator: Generator, training: pa.Table, held: pa.Table, budget: int = 1000) -> Document:
    trial = evaluate_tables._trial(spec_of(), generator, training, held, len(training), None, "sort")
    return allocate.settle(trial, budget, range(2))


@pytest.fixture(scope="module")
def good() -> Generator:
    return learnt(spec_of(), goods(1500), 300)


@pytest.fixture(scope="module")
def found(good: Generator) -> Document:
    return settled(good, goods(1500), goods(1200, seed=1))


def test_a_rare_class_is_helped_and_the_decision_is_told(found: Document) -> None:
    by_class = {of["class"]: of for of in found["by_class"]}
    rare = by_class["rare"]
    assert (rare["real"], rare["decision"]) == (19, "helps")
    assert rare["rows"] >= 60
    assert rare["share"] == rare["rows"] / 1000
    low, high = rare["lift"]["interval"]
    assert 0 < low < rare["lift"]["value"] < high
    assert sum(of["rows"] for of in found["by_class"]) == sum(found["counts"]) < 1000
    assert found["rows"] == {"real": 1500, "added": 1000, "held_out": 1200}
    assert (found["target"], found["budget"], found["seeds"]) == ("sort", 1000, 2)
    assert found["because"].startswith(f"{sum(found['counts'])} of 1,000 rows, of ")


def test_a_budget_for_more_real_rows_than_were_looked_at_is_spent_alike(good: Generator, found: Document) -> None:
    trial = evaluate_tables._trial(spec_of(), good, goods(1500), goods(1200, seed=1), 15_000, None, "sort")
    large = allocate.settle(trial, 10_000, range(2))
    assert large["counts"] == [10 * n for n in found["counts"]]
    assert large["rows"] == found["rows"]
    of_classes = [[of["lift"] for of in document["by_class"]] for document in (found, large)]
    assert of_classes[0] == of_classes[1]  # the same rows were made, and the same was learnt from them


def test_no_more_rows_are_written_for_each_real_one_than_were_tried(good: Generator, found: Document) -> None:
    trial = evaluate_tables._trial(spec_of(), good, goods(1500), goods(1200, seed=1), 3000, None, "sort")
    few = allocate.settle(dataclasses.replace(trial, most=1000), 500_000, range(2))
    assert few["counts"] == [2 * n for n in found["counts"]]
    assert few["because"].endswith("; for more than 2,000 it could not be tried")
    assert "could not" not in found["because"]


@pytest.mark.usefixtures("ray")
def test_too_many_classes_are_told_before_anything_is_trained(tmp_path: Path) -> None:
    table = goods(620)
    sorts = [f"sort {row % 31}" for row in range(620)]
    pq.write_table(table.set_column(4, "sort", pa.array(sorts)), tmp_path / "goods.parquet")
    project = Project(spec_of(str(tmp_path / "goods.parquet"), storage=str(tmp_path / "store")))
    with pytest.raises(DataError, match=r"augment.allocate is for at most 30 classes, and 'sort' has 31") as error:
        train(project)
    assert error.value.hint == "leave it out"


def test_rows_that_are_noise_are_not_written() -> None:
    """A generator whose labels say nothing of its rows."""
    table = goods(1500, every=15)
    shuffled = table.set_column(4, "sort", table["sort"].take(np.random.default_rng(3).permutation(1500)))
    found = settled(learnt(spec_of(), shuffled, 300), table, goods(1200, seed=1, every=15))
    assert found["counts"] == [0, 0]
    assert "no sort were seen to help, on 1,200 held-out rows" in found["because"]
    assert {of["decision"] for of in found["by_class"]} <= {"hurts", "makes no difference that could be seen"}


def test_too_few_held_out_rows_decide_nothing(good: Generator) -> None:
    with pytest.raises(DataError, match="1 held-out rows have a class, too few to test on"):
        settled(good, goods(1500), goods(1, seed=1))


def test_more_classes_than_are_told_apart_are_not_decided_on(good: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_tables, "MOST_CLASSES", 1)
    monkeypatch.setattr(evaluate_tables, "_read", lambda *_: (goods(1500), goods(100, seed=1), 1500))
    with pytest.raises(DataError, match=r"'sort' has 2 values, more than the 1 that augment\.allocate decides about"):
        evaluate_tables.deciding(Project(spec_of()), good, "sort")


def test_images_are_decided_on(base: Document, trained: Callable[[Document], Project]) -> None:
    """Real ones of a rare class, made by nobody, are seen to help: which says that the test can tell."""
    generator = Generator.load(trained(base).trained().uri)
    random, classes = np.random.default_rng(0), len(generator.codec.categories["label"].values)

    def images(labels: np.ndarray) -> np.ndarray:
        """A bar of each class, and noise."""
        found = random.integers(0, 256, (len(labels), 1, 28, 28), np.uint8)
        for image, label in zip(found, labels, strict=True):
            image[0, 6 * label : 6 * label + 6] -= image[0, 6 * label : 6 * label + 6] // 6
        return found

    def rows(labels: np.ndarray) -> Rows:
        return Rows(images(labels), labels)

    real, held = rows(np.repeat(np.arange(classes), [60, 60, 60, 3])), rows(np.arange(400) % classes)
    trial = evaluate_images._trial(generator, generator.codec, real, held, None, 0, "label")
    added = {"image": images(np.full(60, 3)), "label": np.full(60, 3)}
    alone, more = ((trial.told(rows) == trial.places[1]).mean() for rows in (None, added))
    assert more > alone + 0.05
    found = allocate.settle(trial, 200, range(2))
    assert sum(found["counts"]) <= 200
    assert found["rows"] == {"real": 183, "added": 200, "held_out": 400}


def test_what_is_decided_is_what_is_tried_and_judged_on_other_rows(good: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    tested: list[tuple[list[float], tuple[int, ...] | None]] = []

    def compared(trial: Any, asked: Any, seeds: int, seed: int) -> Any:
        tested.append((trial.held["age"].to_pylist(), evaluate_usefulness.added(trial, asked).counts))
        raise RaygenError("enough", "")

    monkeypatch.setattr(evaluate_usefulness, "compared", compared)
    training, held = goods(1500), goods(800, seed=1)
    monkeypatch.setattr(evaluate_tables, "_read", lambda project, generator: (training, held, 1500))
    spec = spec_of()
    evaluate_tables.useful(spec, good, training, held, 1500, None, 0, [0, 70])
    evaluate_tables.useful(spec, good, training, held, 1500, None, 5, [0, 0])
    deciding = evaluate_tables.deciding(Project(spec), good, "sort").held
    assert [counts for _, counts in tested] == [(0, 70), (500, 500)]
    for rows, _ in tested:
        assert not set(rows) & set(deciding["age"].to_pylist())
        assert len(rows) + len(deciding) == 800
    assert deciding["sort"].to_pylist().count("rare") == 5


def decide(project: Project, counts: list[int]) -> None:
    generator = Generator.load(project.trained().uri)
    document = {"target": "label", "because": "nothing was seen to help", "counts": counts}
    (project.folder / "allocations").create(allocate._name(project, generator), json.dumps(document).encode())


LABELLED = {"rows": 230, "balance": "label", "allocate": "auto"}


def test_all_jobs_keep_to_what_was_decided(
    base: Document, trained: Callable[[Document], Project], write: Callable[..., Path], tmp_path: Path
) -> None:
    project = trained({**base, "augment": {**LABELLED, "seed": 3, "shard_rows": 50, "output": str(tmp_path / "out")}})
    with pytest.raises(RaygenError, match="it is not decided yet which classes") as error:
        augment.sample(project, range(3))
    assert "raygen evaluate" in error.value.hint
    assert augment.written(project) is None
    assert "at most 230 rows, as many of each label as evaluate decides" in dict(pipeline.describe(project))["augment"]
    decide(project, [0, 17, 90, 0])
    decide(project, [1, 1, 1, 1])  # too late
    folder = write(**LABELLED, seed=3)
    labels = np.asarray(pq.read_table(folder / "data")["label"])
    assert np.bincount(labels, minlength=4).tolist() == [0, 17, 90, 0]
    assert json.loads((folder / "_raygen" / "plan.json").read_text())["counts"] == [0, 17, 90, 0]
    assert verify(Folder(folder)).problems == []
    assert augment.sample(project, range(100, 107)).num_rows == 7
    assert augment.written(project) is not None


def test_where_nothing_helps_nothing_is_written(
    base: Document, trained: Callable[[Document], Project], write: Callable[..., Path], tmp_path: Path
) -> None:
    asked = {**LABELLED, "rows": 231}
    decide(trained({**base, "augment": asked}), [0, 0, 0, 0])
    with pytest.raises(GateError, match="augmentation is not worth it: nothing was seen to help") as error:
        write(**asked)
    assert error.value.exit_code == 3
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("ray")
def test_the_whole_job_decides_once_and_writes_what_was_decided(tmp_path: Path) -> None:
    pq.write_table(goods(9000, every=130), tmp_path / "goods.parquet")
    spec = document_of(
        str(tmp_path / "goods.parquet"),
        storage=str(tmp_path / "store"),
        dataset={
            "path": str(tmp_path / "goods.parquet"),
            "schema": {name: {"kind": kind} for name, kind in KINDS.items()},
            "holdout": 0.8,
        },
        train={"epochs": 20, "batch_size": 128, "schedule": "cosine"},
        gate=[],
        evaluate={"seeds": 2},
    )
    raygen.run(spec)
    root = tmp_path / "store" / "goods"
    report = json.loads((root / "report" / "report.json").read_text())
    decided = report["allocation"]
    rows = {of["class"]: of["rows"] for of in decided["by_class"]}
    assert 0 < rows["rare"] <= sum(rows.values()) <= 1000
    labels = pq.read_table(root / "dataset" / "data")["sort"].to_pylist()
    assert {sort: labels.count(sort) for sort in rows} == rows
    useful = report["usefulness"]
    assert useful["rows"]["added"] == sum(rows.values())
    assert abs(useful["rows"]["held_out"] - decided["rows"]["held_out"]) <= 2
    assert sum(useful["held"].values()) == useful["rows"]["held_out"]
    assert decided["because"] in report["summary"]
    files = {file: file.stat().st_mtime_ns for file in root.rglob("*") if file.is_file()}
    raygen.run(spec)
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*") if file.is_file()} == files
    for changed in ({"seed": 5}, {"output": str(tmp_path / "again")}):  # neither asks for another decision
        raygen.augment({**spec, "augment": {**AUTO, "output": str(tmp_path / "other"), **changed}})
    assert len([*(root / "allocations").iterdir()]) == 1
    assert verify(Folder(tmp_path / "other")).problems == []
