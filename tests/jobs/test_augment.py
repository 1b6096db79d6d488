"""Augmentation by Ray, whole, killed and continued: the bytes are those that one process would write."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import raygen
from raygen.cli import app
from raygen.jobs import augment, shard_workers
from raygen.jobs.project import Project
from raygen.machines import Resources

Write = Callable[..., Path]
Trained = Callable[[dict[str, Any]], Project]
ASKED: dict[str, dict[str, Any]] = {
    "new rows": {"rows": 230, "balance": "label", "seed": 5},
    "variants": {"variants": 2, "include_real": True, "format": {"images": "tensor"}, "shard_rows": 60},
}


def here(project: Project, planned: Any, artifact: Any, output: Any, each: Any, todo: list[Any]) -> None:
    maker = shard_workers.work(project.augment, planned, artifact, output).maker("cpu")
    for shard in todo:
        maker.write(output, shard, maker.tables(shard))


def parts(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def by_ray(base: dict[str, Any], trained: Trained, output: Path, workers: int, **asked: Any) -> dict[str, str]:
    spec = {**base, "augment": {"shard_rows": 50, **asked, "workers": workers, "output": str(output)}}
    trained(spec)
    raygen.augment(spec)
    return parts(output / "data")


@pytest.mark.usefixtures("ray")
def test_workers_write_what_one_process_would_in_any_order(
    base: dict[str, Any], trained: Trained, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than there are CPUs, shards by twos, and the last one first; and Prometheus sees what they write."""
    asked = ASKED["variants"]
    expected = parts(write("here", **asked) / "data")
    true = augment._write
    monkeypatch.setattr(shard_workers, "TASKS", len(expected) // 2)
    monkeypatch.setattr(shard_workers, "OF_A_WORKER", 1)
    monkeypatch.setattr(augment, "_write", lambda *arguments: true(*arguments[:-1], arguments[-1][::-1]))
    output = tmp_path / "out"
    assert by_ray(base, trained, output, 3, **asked) == expected
    sizes = [file.stat().st_size for file in (output / "data").iterdir()]
    wanted = {"rows": 570.0, "shards": float(len(expected)), "bytes": float(sum(sizes))}
    deadline, found = time.monotonic() + 60, metrics(output, *wanted)
    while found != wanted and time.monotonic() < deadline:  # workers report every few seconds
        time.sleep(0.2)
        found = metrics(output, *wanted)
    assert found == wanted


@pytest.mark.parametrize(
    ("shards", "workers", "each"),
    [
        (0, 1, 0),
        (1, 4, 1),
        (2000, 2, 1),
        (3999, 2, 1),
        (20_000, 2, 10),  # which would keep the driver busy for longer than the workers
        (20_000, 1000, 1),  # so that they end together
        (1_000_000, 1000, 50),
        (1_000_000, 2, 50),  # and not 500: nothing is told before a task ends, and all of it done again if it is lost
        (10_000_000, 100_000, 5),
    ],
)
def test_how_many_shards_are_a_task(shards: int, workers: int, each: int) -> None:
    assert shard_workers.tasks(shards, workers) == (max(1, -(-shards // each)) if each else 1)


def metrics(output: Path, *names: str) -> dict[str, float]:
    """What Ray's endpoint for Prometheus says of an output, over all workers."""
    import ray

    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if f'"{output}"' in line]
    values = {name: [line.split()[-1] for line in lines if line.startswith(f"ray_raygen_{name}_written")] for name in names}
    return {name: sum(map(float, found)) for name, found in values.items()}


@pytest.mark.usefixtures("ray")
def test_the_stages_for_gpus_write_the_same(
    base: dict[str, Any], trained: Trained, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = parts(write("here", **ASKED["variants"]) / "data")

    def streamed(items: Any, work: shard_workers.Work, workers: int, each: Resources) -> Any:
        return shard_workers.streamed(items, work, workers, each)

    monkeypatch.setattr(shard_workers, "fused", streamed)
    assert by_ray(base, trained, tmp_path / "out", 2, **ASKED["variants"]) == expected


@pytest.mark.parametrize("asked", [ASKED["new rows"], {**ASKED["new rows"], "include_real": True}], ids=len)
def test_the_stages_for_gpus_one_by_one(write: Write, asked: dict[str, Any]) -> None:
    """The same for new rows, without Ray; what the stages hand on is pickled."""
    expected = parts(write("here", **asked) / "data")

    def stages(project: Project, planned: Any, artifact: Any, output: Any, each: Any, todo: list[Any]) -> None:
        work = shard_workers.work(project.augment, planned, artifact, output)
        work = pickle.loads(pickle.dumps(work))
        for shard in todo:
            read = shard_workers._read({"shard": np.array([shard.to_json()], object)}, work)
            made = shard_workers._Making(work)(pickle.loads(pickle.dumps(read)))
            assert shard_workers._write_made(pickle.loads(pickle.dumps(made)), work) == {
                "rows": [planned.size(shard)],
                "retried": [0],
                "worker": [shard_workers._worker()],
            }

    assert parts(write("out", by=stages, **asked) / "data") == expected


@pytest.mark.usefixtures("ray")
def test_what_is_begun_again_knows_it(tmp_path: Path) -> None:
    import ray

    def lost_once() -> bool:
        if not (tmp_path / "begun").exists():
            (tmp_path / "begun").touch()
            os._exit(1)
        return shard_workers.begun_before()

    assert ray.get(ray.remote(lost_once).options(max_retries=1).remote())
    assert not ray.get(ray.remote(lost_once).remote())
    assert not shard_workers.begun_before()


def test_what_was_begun_stays_with_its_means(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where no shard is there yet: whoever began may be about to write one. ``--overwrite`` begins anew."""
    real = augment.versions

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(rows=120, by=stopped)
    monkeypatch.setattr(augment, "versions", lambda spec=None: {**real(spec), "torch": "1.0"})
    with pytest.raises(
        raygen.OutputError, match=r"was begun with other means \(torch \S+ there, \"1.0\" here\)[^\n]+\n.*--overwrite"
    ):
        write(rows=120)
    out = write(rows=120, overwrite=True)
    assert [document(out, name)["made_by"]["torch"] for name in ("plan", "manifest")] == ["1.0", "1.0"]
    monkeypatch.setattr(augment, "versions", real)
    before = parts(out / "data")
    write(rows=120, overwrite=True)  # what is whole is not made again
    (out / "data" / next(iter(before))).unlink()
    with pytest.raises(raygen.OutputError, match="was begun with other means"):
        write(rows=120)
    write(rows=120, overwrite=True)
    assert [document(out, name)["made_by"]["torch"] for name in ("plan", "manifest")] == [real()["torch"]] * 2
    assert parts(out / "data") == before


def test_a_driver_that_comes_with_other_means_while_one_is_at_work(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    real = augment.versions

    def another(*arguments: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(augment, "versions", lambda spec=None: {**real(spec), "torch": "1.0"})
            with pytest.raises(raygen.OutputError, match="was begun with other means"):
                write(rows=120)
        here(*arguments)

    plan = document(write(rows=120, by=another), "plan")
    assert plan["made_by"]["torch"] == real()["torch"]


@pytest.mark.parametrize("moment", ["before its first shard", "between two shards", "before it commits"])
def test_another_attempt_replaces_a_dataset_while_this_one_is_at_it(moment: str, write: Write, tmp_path: Path) -> None:
    """Both have written the same beside the old one; whoever is first puts it in place, which is fine by the other."""
    expected = parts(write("alone", rows=230, seed=8) / "data")
    out = write(rows=230, seed=7)

    def overtaken(project: Project, planned: Any, artifact: Any, output: Any, each: Any, todo: list[Any]) -> None:
        first = {"before its first shard": 0, "between two shards": 2, "before it commits": len(todo)}[moment]
        here(project, planned, artifact, output, each, todo[:first])
        write(rows=230, seed=8, overwrite=True)
        here(project, planned, artifact, output, each, todo[first:])

    write(rows=230, seed=8, overwrite=True, by=overtaken)
    assert parts(out / "data") == expected
    assert not [file.name for file in (out / "_raygen").iterdir() if file.name.startswith(("next-", "moving"))]


def test_a_gate_that_was_raised_is_asked_before_a_dataset_is_called_up_to_date(
    base: dict[str, Any], write: Write, tmp_path: Path
) -> None:
    out = write(rows=120)
    spec = tmp_path / "spec.yaml"
    document = {**base, "augment": {"output": str(out), "shard_rows": 50, "rows": 120}}
    spec.write_text(yaml.safe_dump(document))
    said = CliRunner().invoke(app, ["augment", str(spec)])
    assert "up to date" in said.output, said.output
    spec.write_text(yaml.safe_dump({**document, "gate": [{"metric": "label_agreement", "min": 0.99}]}))
    said = CliRunner().invoke(app, ["augment", str(spec)])
    assert said.exit_code == 2, said.output
    assert "has a gate, and is not evaluated yet" in said.output
    assert "up to date" not in said.output


def document(out: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "_raygen" / f"{name}.json").read_text())
    return found["plan"] if name == "manifest" else found  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_killed_driver_goes_on_to_the_same_bytes(ray: None, small: dict[str, Any], tmp_path: Path) -> None:
    """SIGKILL half-way through; then the same command, and an undisturbed one elsewhere."""
    small["augment"] |= {"rows": 6000, "shard_rows": 100, "workers": 2}
    raygen.train(small)
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(small))
    call = [str(Path(sys.executable).with_name("raygen")), "augment", str(path)]
    output = Path(small["storage"]) / "small" / "dataset"
    receipts = output / "_raygen" / "receipts"
    with subprocess.Popen(call) as process:
        deadline = time.monotonic() + 120
        while not receipts.exists() or len(list(receipts.glob("0*.json"))) < 5:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    assert not (output / "_raygen" / "manifest.json").exists()
    done = {file.name: file.stat().st_mtime_ns for file in receipts.glob("0*.json")}
    assert 5 <= len(done) < 60

    manifest = raygen.augment(small)
    assert {name: (receipts / name).stat().st_mtime_ns for name in done} == done  # what was done is not done again
    assert [part["shard"] for part in manifest["parts"]] == list(range(60))
    assert set(manifest["counts"].values()) == {600}
    elsewhere = tmp_path / "elsewhere"
    raygen.augment({**small, "augment": {**small["augment"], "output": str(elsewhere)}})
    assert parts(output / "data") == parts(elsewhere / "data")
