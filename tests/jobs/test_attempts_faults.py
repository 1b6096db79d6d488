"""Attempts of one job, on a real S3 server: stopped, killed, frozen and thawed again, and two at once. What comes of it is
what an undisturbed one makes."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faults
import pytest
import yaml
from faults import SUPERVISED, Bucket, Command, Local, Scene
from s3 import Server

from raygen.datasets.storage import Folder
from raygen.jobs.attempts import Attempts
from raygen.jobs.project import Project

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

JOB, EPOCHS, STEPS = "raygen-test", 40, 16  # steps of an epoch, each of which ends with a checkpoint


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[Any]:
    """Ray nodes that outlive the jobs, which so start sooner."""
    with faults.nodes(cpus=2) as cluster:
        yield cluster


def test_a_training(small: dict[str, Any], cluster: Any, s3: str, s3_server: Server, tmp_path: Path) -> None:
    """The first attempt, in a Ray of its own, is stopped; the second is frozen while the third goes on, and thawed."""
    path, place = tmp_path / "spec.yaml", Bucket(s3_server, f"{s3}/small")
    train = {"epochs": EPOCHS, "batch_size": 32, "checkpoint_seconds": 0}
    path.write_text(yaml.safe_dump({**small, "storage": s3, "train": train}))

    def attempt(*options: str, address: str = cluster.address, job: str = JOB) -> Command:
        return Command(["train", str(path), *options], place, {"RAY_ADDRESS": address, "RAYGEN_JOB": job})

    def reached(epoch: int) -> Callable[[], bool]:
        def there() -> bool:
            time.sleep(0.05)
            return any(int(name[-12:-3]) >= epoch * STEPS for name in place.list("train") if name.endswith(".pt"))

        return there

    with attempt(address="local") as first:
        assert first.wait_for(reached(3))
        family, began = first.family(), time.monotonic()
        first.process.terminate()
        ended = first.end()
        assert (ended.code, ended.said[-1]) == (143, "stopped; the same command goes on from here")
        assert time.monotonic() - began < 10
        assert not [process for process in family if faults.is_alive(process)]
    with attempt() as second:
        assert second.wait_for(reached(8))
        second.process.send_signal(signal.SIGSTOP)
        with attempt() as third:
            assert third.wait_for(reached(16))
            second.process.send_signal(signal.SIGCONT)  # and works, too, until it has looked
            assert taken_over(second.end(), by=3)
            ended = third.end()
            assert ended.code == 0, ended

    project, undisturbed = Folder(place.uri), Folder(tmp_path / "alone" / "small")
    assert [found.number for found in Attempts.of(project, JOB).all()] == [1, 2, 3]
    with attempt("--set", f"storage={tmp_path / 'alone'}", job="") as alone:
        assert alone.end().code == 0
    assert told_of(project) == told_of(undisturbed)
    assert len(told_of(project)) == EPOCHS + 1
    (digest,) = (project / "generators").names()
    weights = [(folder / "generators" / digest).read("weights.safetensors") for folder in (project, undisturbed)]
    assert weights[0] == weights[1]


def taken_over(ended: faults.Ended, by: int) -> bool:
    ended = ended._replace(said=ended.said[-2:])  # before, it has said which attempt it is
    assert ended.refused, ended
    return ended.said[0].startswith(f"error: attempt {by} of this job, begun ") and ended.said[0].endswith("has taken over")


def told_of(project: Folder) -> list[dict[str, Any]]:
    """What a training has told of its epochs, and what came of it; without the time that it took."""
    (run,) = (project / "train").names()
    folder = project / "train" / run
    texts = [*folder.read("metrics.jsonl").splitlines(), folder.read("result.json")]
    return [{name: value for name, value in json.loads(text).items() if name != "seconds"} for text in texts]


def test_an_augmentation(
    base: dict[str, Any],
    trained: Callable[[dict[str, Any]], Project],
    cluster: Any,
    s3: str,
    s3_server: Server,
    tmp_path: Path,
) -> None:
    """The first attempt is killed and run again; that one is frozen while the third writes all, and thawed."""
    spec = {**base, "augment": {"rows": 10_000, "shard_rows": 500, "seed": 7, "workers": 1}}
    trained(spec)
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    environment = {"RAY_ADDRESS": cluster.address}
    alone = Scene(path, Local(tmp_path / "alone"), {}, environment=environment)
    assert alone.end().code == 0
    environment = {**environment, "RAYGEN_JOB": f"{JOB}-{tmp_path.name}"}  # of a project that others have, too
    scene = Scene(path, Bucket(s3_server, s3), faults.hashes(alone.place), environment=environment)
    with scene.command(program=SUPERVISED) as command:
        assert command.reach(3)
        command.driver().kill()
        assert command.reach(10)
        second = command.driver()
        second.suspend()
        ended = scene.end()
        assert ended.code == 0, ended
        second.resume()
        ended = command.end()
        assert ended.said[-4].startswith("supervise: the driver was killed by SIGKILL")
        assert taken_over(ended, by=3)
    scene.check()
