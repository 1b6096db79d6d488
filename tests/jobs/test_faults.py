"""Augmentation, disturbed: whatever happened, the same command again makes the dataset that an undisturbed one makes.

benchmarks/faults.py does the same for longer, at random moments.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faults
import pytest
import yaml
from faults import Bucket, Command, Local, Scene
from s3 import Fault, Proxy, Server

from raygen.jobs.project import Project

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

SHARDS = 40
OTHER = ["--set", "augment.seed=8"]
Build = Callable[..., Scene]


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[Any]:
    """Ray nodes that outlive the jobs, which so start sooner."""
    with faults.nodes(cpus=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def spec(
    base: dict[str, Any], trained: Callable[[dict[str, Any]], Project], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    shared = {
        "storage": f"file://{base['storage']}",
        "dataset": {**base["dataset"], "path": f"file://{base['dataset']['path']}"},
    }
    document = {**base, **shared, "augment": {"rows": SHARDS * 500, "shard_rows": 500, "seed": 7, "workers": 2}}
    trained(document)
    path = tmp_path_factory.mktemp("spec") / "spec.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(scope="module")
def undisturbed(spec: Path, cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., faults.Hashes]:
    """What a dataset consists of, with other options as the case may be."""
    made: dict[str, faults.Hashes] = {}

    def undisturbed(*options: str) -> faults.Hashes:
        key = " ".join(options)
        if key not in made:
            scene = Scene(spec, Local(tmp_path_factory.mktemp("undisturbed")), {}, [*options], reach(cluster))
            ended = scene.end()
            assert ended.code == 0, ended
            made[key] = faults.hashes(scene.place)
        return made[key]

    return undisturbed


@pytest.fixture
def scene(spec: Path, undisturbed: Callable[..., faults.Hashes], cluster: Any, tmp_path: Path) -> Build:
    """A job in the cluster, or, by ``environment``, in a Ray of its own."""

    def build(place: faults.Place | None = None, **environment: str) -> Scene:
        return Scene(spec, place or Local(tmp_path / "out"), undisturbed(), environment=environment or reach(cluster))

    return build


def reach(cluster: Any) -> dict[str, str]:
    return {"RAY_ADDRESS": cluster.address}


def writing(command: Command) -> Callable[[], bool]:
    """Whether a part is being written at this moment."""
    return lambda: any(name.endswith(".tmp") for name in command.place.list("data"))


def test_killed_workers_and_a_killed_driver(scene: Build) -> None:
    job = scene(RAY_ADDRESS="local")
    draw = random.Random(0)
    with job.watched():
        with job.command() as command:
            for receipts in (3, 12):
                assert command.reach(receipts)
                assert command.wait_for(writing(command))
                assert command.kill_worker(draw)
            assert command.reach(20)
            assert command.wait_for(writing(command))
            assert command.kill()
            command.orphans_gone()
        assert len(job.place.list("data")) < SHARDS + 2
        job.recover()


def test_a_killed_driver_whose_workers_are_still_about(scene: Build) -> None:
    job = scene()
    with job.watched():
        for receipts in (1, 20):
            with job.command() as command:
                assert command.reach(receipts)
                assert command.kill()
        job.recover()


def test_a_node_that_comes_and_goes(scene: Build, undisturbed: Callable[..., faults.Hashes], cluster: Any) -> None:
    """It is used when it has come, and not missed when it is lost."""
    job, more = scene(), ["--set", f"augment.rows={4 * SHARDS * 500}"]  # there is still enough to do when it is up
    job.options, job.reference = [*more, "--set", "augment.workers=auto"], undisturbed(*more)
    with job.watched(), job.command() as command:
        assert command.reach(3)
        node = faults.second_node(cluster)
        assert command.wait_for(lambda: faults.working_on(node) > 0)
        faults.kill_raylet(node)
        ended = command.end()
    assert ended.code == 0, ended
    job.recover()


def test_s3_is_killed_and_comes_back(scene: Build, s3: str, s3_server: Server) -> None:
    job = scene(Bucket(s3_server, s3))
    with job.watched(), job.command() as command:
        assert command.reach(5)
        s3_server.kill()
        s3_server.start()
        ended = command.end()
    assert ended.code == 0 or ended.refused, ended
    job.recover()


def test_s3_is_away_for_long(scene: Build, s3: str, s3_server: Server) -> None:
    job = scene(Bucket(s3_server, s3))
    with job.command() as command:
        assert command.reach(5)
        s3_server.kill()
        try:
            ended = command.end()
        finally:
            s3_server.start()
    assert ended.refused, ended
    job.recover()


def test_connections_to_s3_break(scene: Build, s3: str, s3_server: Server) -> None:
    with Proxy(s3_server.port) as proxy:
        job = scene(Bucket(s3_server, s3), RAY_ADDRESS="local", **s3_server.environment(endpoint=proxy.url))
        proxy.order(Fault("request", "reset", 1000, times=None, match="^PUT .*/part-00007"))
        with job.watched():
            ended = job.end()
        assert ended.refused, ended
        assert "part-00007" in ended.said[0]
        assert not [name for name in job.place.list("_raygen/receipts") if name.startswith("00007")]
        proxy.order(
            Fault("request", "stall", 1000, seconds=3, times=2, match="^PUT .*part-0000[0-5]"),
            Fault("answer", "stall", 0, seconds=3, times=2, match="^PUT .*part-0000[6-9]"),
            Fault("request", "reset", 1000, probability=0.1, times=None, match="^PUT"),
            Fault("request", "close", 1000, probability=0.1, times=None, match="^PUT"),
            Fault("answer", "reset", 0, probability=0.1, times=None),
            Fault("answer", "close", 50, probability=0.1, times=None),
        )
        with job.watched(), job.command() as command:
            ended = command.end()
        assert ended.code == 0, ended
        assert len(proxy.struck) > 5
        job.recover()


def test_two_drivers_of_one_dataset(scene: Build, s3: str, s3_server: Server) -> None:
    job = scene(Bucket(s3_server, s3))
    one_each = ["--set", "augment.workers=1"]
    with job.watched(), job.command(*one_each) as one, job.command(*one_each) as two:
        ended = [one.end(), two.end()]
    assert all(end.code == 0 for end in ended), ended
    job.check()


def test_two_jobs_on_one_output(scene: Build, undisturbed: Callable[..., faults.Hashes]) -> None:
    job = scene()
    with job.command() as one, job.command(*OTHER) as two:
        ended = [one.end(), two.end()]
    assert sorted(end.code for end in ended) == [0, 2], ended
    won = int(ended[0].code != 0)
    assert ended[1 - won].refused
    assert "belongs to another job (augment.seed " in ended[1 - won].said[0]
    job.reference = undisturbed(*OTHER) if won else job.reference
    job.check()


def test_a_claim_that_comes_too_late(scene: Build, cluster: Any, s3: str, s3_server: Server) -> None:
    """Another job's plan arrives while this one's is on its way."""
    with Proxy(s3_server.port) as proxy:
        job = scene(Bucket(s3_server, s3), **reach(cluster), **s3_server.environment(endpoint=proxy.url))
        proxy.order(Fault("request", "stall", 0, seconds=10, times=1, match="^PUT .*/plan.json"))
        with job.command() as command:
            assert command.wait_for(lambda: bool(proxy.struck))
            bucket, _, key = s3.removeprefix("s3://").partition("/")
            theirs = b'{"augment": {"seed": 8}}'
            s3_server.client().put_object(Bucket=bucket, Key=f"{key}/_raygen/plan.json", Body=theirs)
            ended = command.end()
        assert ended.refused, ended
        assert "belongs to another job" in ended.said[0]
        assert job.place.read("_raygen/plan.json") == theirs
        assert not job.place.list("data")


def test_a_full_disk(scene: Build, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    try:
        with faults.tmpfs(disk, "1m"):
            job = scene(Local(disk / "out"))
            with job.watched():
                ended = job.end()
            assert ended.refused, ended
            assert "No space left on device" in ended.said[0]
            assert not [name for name in job.place.list("data") if name.endswith(".tmp")]
            faults.enlarge(disk, "200m")
            job.recover()
    except PermissionError as error:
        pytest.skip(str(error))


def test_a_killed_overwrite(scene: Build, undisturbed: Callable[..., faults.Hashes]) -> None:
    old = scene()
    assert old.end().code == 0
    new = Scene(old.spec, old.place, undisturbed(*OTHER), [*OTHER, "--overwrite"], old.environment, before=old.reference)

    def beside() -> int:
        return sum(name.startswith("next-") and name.endswith(".parquet") for name in new.place.list("_raygen"))

    with new.watched():
        with new.command() as command:
            assert command.wait_for(lambda: beside() >= 10)
            assert command.kill()
        old.check()
        new.recover()
    assert not [name for name in new.place.list("_raygen") if name.startswith(("next-", "moving"))]
