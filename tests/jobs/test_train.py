"""Training: data-parallel, and going on after whatever was killed."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import raygen
from raygen.datasets.codec import Codec
from raygen.datasets.columns import Category
from raygen.generators.generator import Generator, untrained
from raygen.jobs import evaluate, evaluate_images
from raygen.jobs.project import Project
from raygen.jobs.report import write
from raygen.jobs.train import train
from raygen.jobs.workers import shared_out
from raygen.load import load_spec
from raygen.options import TransformsSpec
from raygen.spec import CategoryField, ElasticSpec, ImageField


def command(job: str, spec: dict[str, Any], folder: Path) -> list[str]:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return [str(Path(sys.executable).with_name("raygen")), job, str(path)]


def wait_for(condition: Any, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    """Until something is there; fails when the process ends or the time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def steps(checkpoint: Path) -> int:
    return int(checkpoint.stem.partition("-")[2])


def run_folder(spec: dict[str, Any]) -> Path:
    (folder,) = (Path(spec["storage"]) / spec["name"] / "train").iterdir()
    return folder


@pytest.mark.parametrize(
    ("asked", "cluster", "gpu_here", "expected"),
    [
        ("auto", {"CPU": 2.0}, False, (0, 0.0, 0.0)),
        (1, {"CPU": 2.0}, False, (0, 0.0, 0.0)),
        (2, {"CPU": 2.0}, False, (2, 0.0, 1.0)),
        (4, {"CPU": 2.0}, False, (4, 0.0, 0.5)),
        (3, {"CPU": 2.0}, False, (3, 0.0, 0.5)),  # thirds of two CPUs would leave the third worker waiting
        (2, {"CPU": 16.0, "GPU": 1.0}, True, (2, 0.5, 1.0)),
        ("auto", {"CPU": 16.0, "GPU": 4.0}, True, (4, 1.0, 1.0)),
        ("auto", {"CPU": 16.0, "GPU": 6.0}, True, (4, 1.0, 1.0)),  # a batch of 64 is not shared evenly by 6 or 5
        ("auto", {"CPU": 16.0, "GPU": 1.0}, True, (0, 0.0, 0.0)),
        ("auto", {"CPU": 16.0, "GPU": 1.0}, False, (1, 1.0, 1.0)),
        (ElasticSpec(min=1, max=4), {"CPU": 16.0}, False, ((1, 4), 0.0, 1.0)),
        (ElasticSpec(min=4, max=8), {"CPU": 2.0}, False, ((4, 8), 0.0, 0.5)),
        (ElasticSpec(min=1, max=8), {"CPU": 16.0, "GPU": 4.0}, True, ((1, 8), 1.0, 1.0)),
    ],
)
def test_placement_never_asks_for_what_is_not_there(
    asked: Any, cluster: dict[str, float], gpu_here: bool, expected: tuple[int, float, float]
) -> None:
    assert shared_out(asked, 64, cluster, gpu_here) == expected


def test_a_batch_larger_than_the_data_is_refused(ray: None, small: dict[str, Any]) -> None:
    with pytest.raises(raygen.DataError, match=r"\d+ rows to train on \(\d+ are held out\), fewer than one batch of 4096"):
        raygen.train({**small, "train": {"batch_size": 4096}})
    assert not (Path(small["storage"]) / small["name"]).exists()


@pytest.mark.parametrize("cached", [True, False])
def test_rows_in_memory_or_read_in_every_epoch(ray: None, small: dict[str, Any], cached: bool) -> None:
    """The same losses but for the order of the rows."""
    small["train"]["cache"] = cached
    first = raygen.train(small)
    again = raygen.train({**small, "name": "again"})
    assert first.digest == again.digest
    other = raygen.train({**small, "name": "other", "train": {**small["train"], "cache": not cached}})
    assert first.lineage["metrics"]["loss"] == pytest.approx(other.lineage["metrics"]["loss"], rel=0.1)


def test_to_begin_with_the_weights_of_a_generator_or_a_run(ray: None, small: dict[str, Any], tmp_path: Path) -> None:
    first = raygen.train(small)
    project = Project(load_spec(small))
    fresh = raygen.train({**small, "name": "fresh", "train": {**small["train"], "epochs": 1}})
    for start in (project.trained().uri, project.run.uri):
        tuned = raygen.train({**small, "name": "tuned", "train": {**small["train"], "epochs": 1, "start_from": start}})
        assert tuned.digest != first.digest
        assert tuned.lineage["metrics"]["loss"] < 0.9 * fresh.lineage["metrics"]["loss"]
    wider = {**small, "generator": {**small["generator"], "width": 10}, "train": {"start_from": project.trained().uri}}
    with pytest.raises(
        raygen.OutputError, match=r"is of another architecture: decoder\.layers\.0\.bias is \(16,\) there, \(20,\) here"
    ):
        raygen.train(wider)
    wider["train"] = {"start_from": project.run.uri}
    with pytest.raises(raygen.OutputError, match=r"is of another architecture: autoencoder\..* there, .* here"):
        raygen.train(wider)
    wider["train"] = {"start_from": str(tmp_path)}
    with pytest.raises(raygen.OutputError, match="is neither a generator nor a run with a checkpoint"):
        raygen.train(wider)


def test_the_watch_of_a_spec_keeps_the_best(ray: None, small: dict[str, Any]) -> None:
    watched = {**small, "train": {**small["train"], "watch": {"every": 2, "rows": 100}}}
    generator = raygen.train(watched)
    history = [json.loads(line) for line in (run_folder(watched) / "metrics.jsonl").read_text().splitlines()]
    distances = [row.get("frechet_distance") for row in history]
    assert [distance is None for distance in distances] == [True, False, True, False]
    assert generator.lineage["metrics"]["frechet_distance"] == min(filter(None, distances))
    assert "label_agreement" in generator.lineage["metrics"]


def test_a_watch_needs_held_out_rows(ray: None, small: dict[str, Any]) -> None:
    small["dataset"] = {**small["dataset"], "holdout": 0.01}
    small["train"]["watch"] = {}
    with pytest.raises(raygen.DataError, match=r"train\.watch: \d+ rows are held out, too few to compare with"):
        raygen.train(small)


def test_one_class_only(ray: None, small: dict[str, Any], tmp_path: Path) -> None:
    """It can be learnt and watched by distances, but not by what a classifier takes it for."""
    rows = pq.read_table(small["dataset"]["path"])
    pq.write_table(rows.filter(pc.equal(rows["label"], 3)), tmp_path / "threes.parquet")
    small["dataset"] = {**small["dataset"], "path": str(tmp_path / "threes.parquet")}
    small["train"] = {"epochs": 1, "batch_size": 16, "watch": {"rows": 64}}
    small["dataset"]["holdout"] = 0.6
    assert raygen.train(small).sample(range(3))["label"].to_pylist() == [3, 3, 3]
    small["train"]["watch"]["metric"] = "label_agreement"
    with pytest.raises(raygen.DataError, match=r"train\.watch: the rows to train on have one value of 'label' only"):
        raygen.train(small)


@pytest.mark.slow
def test_workers_that_find_no_room_are_waited_for_only_so_long(ray: None, small: dict[str, Any]) -> None:
    import ray as cluster

    held = cluster.remote(num_cpus=1)(lambda: time.sleep(600)).remote()
    try:
        small["train"]["workers"] = 2
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "5")
            with pytest.raises(raygen.ResourceError, match=r"2 training workers with 1 CPU each did not start: .*free"):
                raygen.train(small)
    finally:
        cluster.cancel(held, force=True)


def test_training_twice_gives_the_same_generator(ray: None, small: dict[str, Any]) -> None:
    first = raygen.train(small)
    again = raygen.train({**small, "name": "again"})
    other = raygen.train({**small, "name": "other", "train": {**small["train"], "seed": 1}})
    assert first.digest == again.digest != other.digest


def test_a_broken_checkpoint_falls_back_to_the_one_before(
    ray: None, small: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    small["train"]["checkpoint_seconds"] = 0
    first = raygen.train(small)
    run = run_folder(small)
    kept = sorted((run / "checkpoints").iterdir())
    assert [file.name for file in kept] == ["step-000000048.pt", "step-000000064.pt"]
    kept[1].write_bytes(kept[1].read_bytes()[:5000])
    (run / "result.json").unlink()
    assert raygen.train(small).digest == first.digest
    assert "step-000000064.pt: is not what was written" in capfd.readouterr().err
    newest = sorted((run / "checkpoints").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:5000])
    raygen.train({**small, "name": "tuned", "train": {**small["train"], "start_from": str(run)}})  # from the one before
    assert f"{newest.name}: is not what was written" in capfd.readouterr().err
    assert [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]


@pytest.mark.parametrize("family", ["vae", "autoencoder"])
def test_a_diverged_training_says_so_and_leaves_no_generator(ray: None, small: dict[str, Any], family: str) -> None:
    spec = {**small, "generator": {**small["generator"], "family": family, "learning_rate": 1e18}}
    with pytest.raises(raygen.RaygenError, match="the training diverged"):
        raygen.train(spec)
    assert not (Path(spec["storage"]) / spec["name"] / "generators").exists()


def test_a_family_with_nothing_to_learn_is_written_at_once_and_evaluated_by_its_variants(
    ray: None, small: dict[str, Any]
) -> None:
    gentle = {"rotate": 2, "translate": 0, "scale": [1, 1], "brightness": 0, "contrast": 0}
    asked = {**small, "generator": {"family": "transforms", "condition": "label", **gentle}, "augment": {"variants": 1}}
    asked["train"] = {"batch_size": 4096}  # more than there are: nothing is learnt from them
    project = Project(load_spec(asked))
    began = time.monotonic()
    generator = Generator.load(train(project).uri)
    assert time.monotonic() - began < 20
    assert not (run_folder(asked) / "metrics.jsonl").exists()
    assert not (run_folder(asked) / "checkpoints").exists()
    assert train(project).name == generator.digest

    report = evaluate.evaluate(project)
    assert report["variants"]
    (agreement,) = (metric for metric in report["metrics"] if metric["name"] == "label_agreement")
    assert agreement["value"] > 0.5  # by chance: 0.1
    # Held-out rows are no ceiling: of the rows that are varied the classifier knows the labels.
    assert {agreement["ceiling"], *(row["ceiling"] for row in report["by_class"])} == {None}
    assert evaluate.evaluated(project) is not None
    page = (write(project).local or Path()) / "report.html"
    assert "It has nothing to learn" in page.read_text()
    assert "its variants, not chosen" in page.read_text()


@pytest.mark.parametrize("rows", [7, 300])
def test_what_is_evaluated_are_variants_with_the_labels_of_their_rows(rows: int) -> None:
    """Rows that say their label in their shade: variants have it still."""
    spec = TransformsSpec(condition="label", rotate=0, scale=[1, 1], brightness=0, contrast=0, translate=0.1)
    arrow = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())])
    fields = {"image": ImageField(height=8, width=8, channels=1), "label": CategoryField()}
    codec = Codec.of(fields, arrow, {"label": Category(tuple(range(5)), (9,) * 5)})
    generator = Generator(spec, codec, untrained(spec, codec, torch.device("cpu")).exported())
    classes = np.arange(rows) % 5
    images = np.repeat(40 * classes + 30, 64).reshape(rows, 1, 8, 8).astype(np.uint8)
    made = evaluate_images.variants(generator, evaluate_images.Rows(images, classes), 100, 0, 0.5)
    assert made.classes is not None
    assert len(made.images) == len(made.classes) == 100
    np.testing.assert_array_equal(made.images.max((1, 2, 3)), 40 * made.classes + 30)
    assert len(np.unique(made.images.reshape(100, -1), axis=0)) > 70  # not one variant again and again


def test_a_report_is_of_new_rows_or_of_variants_never_of_the_other(ray: None, small: dict[str, Any]) -> None:
    raygen.train(small)
    new, varied, farther = ({"rows": 10}, {"variants": 1}, {"variants": 1, "strength": 0.9})
    inputs = {evaluate._inputs(Project(load_spec({**small, "augment": asked}))) for asked in (new, varied, farther)}
    assert len(inputs) == 3
    twice = evaluate._inputs(Project(load_spec({**small, "augment": {"variants": 2}})))
    assert twice in inputs


def test_the_resolved_spec_is_beside_the_run(ray: None, small: dict[str, Any]) -> None:
    raygen.train(small)
    assert load_spec(run_folder(small) / "spec.yaml") == load_spec(small)
    assert Project(load_spec(small)).result() is not None


def test_a_training_whose_storage_is_s3(ray: None, small: dict[str, Any], s3: str) -> None:
    """It goes on from a checkpoint there, curves are there too, and the generator is that of a local training."""
    small["train"]["checkpoint_seconds"] = 0
    there = {**small, "storage": s3}
    first = raygen.train(there)
    run = Project(load_spec(there)).run
    assert any("tfevents" in name for name in (run / "tensorboard").names())
    assert (run / "checkpoints").names() == ["step-000000048.pt", "step-000000064.pt"]
    for name in ("result.json", "checkpoints/step-000000064.pt"):
        run.delete(name)
    assert raygen.train(there).digest == first.digest == raygen.train(small).digest


@pytest.mark.slow
def test_a_killed_driver_goes_on_to_the_same_generator(small: dict[str, Any], ray: None, tmp_path: Path) -> None:
    """SIGKILL half-way through training; the same command then ends with what an undisturbed run makes."""
    spec = {**small, "train": {**small["train"], "epochs": 40, "checkpoint_seconds": 0}}
    with subprocess.Popen(command("train", spec, tmp_path)) as process:
        checkpoints = Path(spec["storage"]) / spec["name"] / "train"
        wait_for(lambda: any(steps(file) >= 80 for file in checkpoints.glob("*/checkpoints/step-*.pt")), process)
        process.kill()
    assert not (run_folder(spec) / "result.json").exists()
    resumed = raygen.train(spec)
    history = [json.loads(line) for line in (run_folder(spec) / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in history] == list(range(1, 41))
    assert raygen.train({**spec, "name": "undisturbed"}).digest == resumed.digest


@pytest.mark.slow
def test_two_workers_learn_and_survive_the_loss_of_one(
    ray: None, small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GAN under DistributedDataParallel, which begins with another's weights; one worker is killed once the first
    checkpoint is there."""
    import threading

    spec = {**small, "generator": {"family": "gan", "condition": "label", "width": 8}}
    raygen.train({**spec, "name": "start", "train": {"epochs": 1, "batch_size": 32}})
    monkeypatch.chdir(tmp_path)  # workers run elsewhere
    start = str(run_folder({**spec, "name": "start"}).relative_to(tmp_path))
    spec["train"] = {"epochs": 60, "batch_size": 32, "workers": 2, "checkpoint_seconds": 0, "start_from": start}
    killed: list[int] = []

    def kill() -> None:
        checkpoints = Path(spec["storage"]) / spec["name"] / "train"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not list(checkpoints.glob("*/checkpoints/*.pt")):
            time.sleep(0.05)
        workers = [p for p in psutil.process_iter() if "RayTrainWorker" in " ".join(p.cmdline()[:1])]
        for worker in workers[:1]:
            os.kill(worker.pid, signal.SIGKILL)
            killed.append(worker.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    generator = raygen.train(spec)
    thread.join()
    assert killed
    history = [json.loads(line) for line in (run_folder(spec) / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in history] == list(range(1, 61))
    assert all(math.isfinite(value) for row in history for value in row.values())
    assert generator.sample(range(10), condition=3)["label"].to_pylist() == [3] * 10
