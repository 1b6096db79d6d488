"""Where work goes: on whatever a cluster has, and refused at once where it has too little."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faults
import psutil
import pyarrow.parquet as pq
import pytest
import yaml

import raygen
from raygen.datasets import stream
from raygen.datasets.storage import Folder
from raygen.jobs import elsewhere, placement, progress, ready, waiting
from raygen.jobs.project import Project
from raygen.jobs.workers import placed, pool
from raygen.load import load_spec
from raygen.machines import Resources
from raygen.resources import UNTOLD, Demand, Node, room
from raygen.spec import ElasticSpec

ONE = Demand("train", 1, 1, Resources())


@pytest.mark.parametrize(
    ("asked", "rows", "rooms", "expected"),
    [
        ("auto", 64, 4, 4),
        ("auto", 64, 6, 4),  # a batch of 64 is not shared evenly by 6 or 5
        ("auto", 64, 0, 1),  # a machine has to come first
        (2, 64, 0, 2),
        (ElasticSpec(min=1, max=4), 64, 2, (1, 4)),
    ],
)
def test_workers_that_the_spec_gives_resources(asked: Any, rows: int, rooms: int, expected: Any) -> None:
    assert placed(asked, rows, rooms) == expected


@pytest.mark.parametrize(
    ("asked", "shards", "now", "more", "expected"),
    [
        ("auto", 100, 2, 0, 2),  # nobody comes: no worker waits in vain
        ("auto", 3, 8, 0, 3),
        ("auto", 100, 2, 6, 8),
        ("auto", 100, 2, None, 25),  # whoever comes finds work for a while
        ("auto", 100, 0, 6, 6),
        ("auto", 3, 0, 6, 1),
        ("auto", 10**6, 1000, None, 1256),
        (4, 100, 2, 0, 4),
        (4, 3, 2, None, 3),
    ],
)
def test_workers_of_a_pool(asked: Any, shards: int, now: int, more: int | None, expected: int) -> None:
    assert pool(asked, shards, now, more) == expected


def answer(*nodes: dict[str, Any]) -> list[dict[str, Any]]:
    """What a dashboard says of its nodes."""
    told = {"state": "ALIVE", "is_head_node": False, "labels": {}}
    return [{**told, **node} for node in nodes]


HEAD = {"CPU": 2.0, "memory": 3e9, "object_store_memory": 1e9, "node:10.0.0.1": 1.0, "node:__internal_head__": 1.0}
SPOT = {"CPU": 8.0, "GPU": 1.0, "accelerator_type:T4": 1.0, "memory": 16e9, "object_store_memory": 1e9, "node:10.0.0.2": 1.0}
ANONYMOUS = {
    "data": {"clusterStatus": {"autoscalerReport": {"activeNodes": {"node36D81F7Cc1289Bc6527F5Ec75015F6859899Db2A": 1}}}}
}


def test_nodes_as_a_dashboard_tells_them() -> None:
    spots = [
        {"resources_total": {**SPOT, "memory": 16e9 + 4096 * n}, "labels": {"market": "spot", "ray.io/node-id": f"n{n}"}}
        for n in range(3)
    ]
    found = placement.of_dashboard(
        answer({"resources_total": HEAD}, *spots, {"resources_total": {}, "state": "DEAD"}), ANONYMOUS
    )
    assert [(node.name, node.count, node.most, dict(node.labels)) for node in found] == [
        ("head", 1, 1, {}),
        ("worker", 3, 3, {"market": "spot"}),  # machines of one kind differ by some pages of memory
    ]
    assert found[1].resources.keys() == {"CPU", "GPU", "accelerator_type:T4", "memory"}
    assert room(Resources(accelerator="T4", memory=8 << 30), found) == 3


@pytest.mark.parametrize(
    ("labels", "status"),
    [
        ({"ray.io/node-group": "head"}, {"data": {"clusterStatus": None}}),
        ({}, {"data": {"clusterStatus": {"autoscalerReport": {"activeNodes": {"headgroup": 1}}}}}),
    ],
)
def test_an_autoscaler_that_does_not_say_what_it_may_add(labels: dict[str, str], status: dict[str, Any]) -> None:
    found = placement.of_dashboard(answer({"resources_total": HEAD, "labels": labels}), status)
    assert found[-1] == UNTOLD
    placement.check(load_spec({**SPEC, "resources": {"train": {"gpus": 8}}}), ["run"], found)


SPEC: dict[str, Any] = {
    "name": "digits",
    "storage": "s3://bucket",
    "dataset": {"path": "sample:digits", "schema": {"image": {"kind": "image", "height": 28, "width": 28, "channels": 1}}},
    "generator": {"family": "vae"},
}


def test_nodes_that_an_autoscaler_may_start() -> None:
    types = {
        "cpu": {"resources": {"CPU": 4}, "max_workers": 2},
        "gpu": {"resources": {"CPU": 8, "GPU": 1}, "labels": {"market": "spot"}, "min_workers": 0, "max_workers": 9},
        "unknown": {"resources": {}, "max_workers": 1},
    }
    assert placement.of_types(types, 5) == [
        Node("cpu", {"CPU": 4}, {}, 0, 2),
        Node("gpu", {"CPU": 8, "GPU": 1}, {"market": "spot"}, 0, 5),
        Node("unknown", {}, {}, 0, 1, told=False),
    ]


@pytest.fixture
def held(ray: None) -> Iterator[Callable[[], None]]:
    """Somebody else holds every CPU, until this is called."""
    import ray as cluster

    cpus = int(cluster.cluster_resources()["CPU"])
    tasks = [cluster.remote(num_cpus=1)(lambda: time.sleep(600)).remote() for _ in range(cpus)]
    deadline = time.monotonic() + 60
    while placement.free(Resources()):
        assert time.monotonic() < deadline
        time.sleep(0.1)

    def free() -> None:
        for task in tasks:
            cluster.cancel(task, force=True)

    yield free
    free()


def test_waiting_for_room_is_told(
    held: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "FIRST", 0.5)
    monkeypatch.setattr(waiting, "LOOKS", 0.2)
    began = time.monotonic()
    threading.Timer(4, held).start()
    waiting.for_room(ONE)
    assert time.monotonic() - began > 3
    said = capfd.readouterr().err
    assert re.search(r"train waits for 1 CPU: there is room for 0 now \(0 of \d+ CPUs are free\)", said)


def test_waiting_for_room_is_given_up(held: Callable[[], None]) -> None:
    with pytest.raises(raygen.ResourceError, match=r"train waits for 1 CPU: .*, and nobody has made any"):
        waiting.for_room(ONE, patience=0.5)


def test_a_worker_reads_though_every_cpu_is_taken(held: Callable[[], None], dataset: dict[str, Any], tmp_path: Path) -> None:
    spec = load_spec({**SPEC, "dataset": dataset, "generator": {"family": "vae", "condition": "label"}})
    source = stream.open_source(spec.dataset, Folder(tmp_path))
    with stream.confined(2):
        codec = stream.fit(source, spec.dataset)
        assert len(stream.Reader(source, codec, spec.dataset.holdout).everything()[stream.ROW]) > 400


def test_what_is_done_elsewhere_is_as_if_it_were_done_here(
    ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Though it is lost the first time."""

    def counted(folder: str, to: int) -> int:
        with progress.bar("count", to, "numbers") as shown:
            for number in range(to):
                shown.update(number + 1, "counting")
                time.sleep(0.3)
        progress.say("done counting")
        if not (mark := Path(folder) / "lost").exists():
            mark.touch()
            os._exit(1)
        if to > 9:
            raise raygen.DataError(f"{to} is too much", "count less")
        return os.getpid()

    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.1)
    assert elsewhere.run(ONE, counted, str(tmp_path), 9) != os.getpid()
    said = capfd.readouterr().err
    assert "done counting" in said
    assert re.search(r"count .*/9 numbers .*counting", said)
    with pytest.raises(raygen.DataError, match="10 is too much"):
        elsewhere.run(ONE, counted, str(tmp_path), 10)


LOST = """
import sys, time
from pathlib import Path
from raygen.cluster.connect import connected
from raygen.jobs import elsewhere
from raygen.machines import Resources
from raygen.resources import Demand

def work(begun):
    import os
    with begun.open("a") as file:
        file.write(f"{os.getpid()}\\n")
    while len(begun.read_text().splitlines()) < 2:
        time.sleep(0.1)
    return "done"

with connected():
    print(elsewhere.run(Demand("evaluate", 1, 1, Resources()), work, Path(sys.argv[1])))
"""


@pytest.mark.faults
def test_what_is_done_elsewhere_begins_again_where_its_node_is_lost(home: Path, tmp_path: Path) -> None:
    (begun := tmp_path / "begun").touch()
    (tmp_path / "lost.py").write_text(LOST)
    with faults.nodes(cpus=0) as cluster:
        nodes = [faults.second_node(cluster) for _ in range(2)]
        words = [sys.executable, str(tmp_path / "lost.py"), str(begun)]
        process = subprocess.Popen(
            words,
            env={**os.environ, "RAY_ADDRESS": cluster.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            deadline = time.monotonic() + faults.PATIENCE
            while not begun.read_text().endswith("\n"):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            worker = psutil.Process(int(begun.read_text()))
            (node,) = [node for node in nodes if faults.raylet(node) in worker.parents()]
            faults.lose(node)
            out, err = process.communicate(timeout=faults.PATIENCE)
    assert (process.returncode, out) == (0, "done\n"), err
    assert "evaluate: its worker was lost, and it begins again" in err


def test_too_little_is_refused_before_anything_is_computed(ray: None, small: dict[str, Any]) -> None:
    with pytest.raises(raygen.ResourceError, match=r"train asks for 1 CPU and 1 GPU; the cluster has 1 node with 0 GPUs"):
        raygen.train({**small, "resources": {"train": {"gpus": 1}}})
    with pytest.raises(raygen.ResourceError, match=r"augment asks for 1 CPU and 900 GiB of memory; the cluster has 1 node"):
        raygen.run({**small, "resources": {"augment": {"memory": "900GiB"}}})
    assert not (Path(small["storage"]) / small["name"]).exists()
    with pytest.raises(raygen.ResourceError, match=r"serve asks for 1 CPU and 1 GPU for each of 2 workers; the cluster has"):
        ready.require_room(Demand("serve", 2, 4, Resources(gpus=1)), {})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_head_without_anything_and_nodes_of_several_kinds(
    ray: None, home: Path, small: dict[str, Any], tmp_path: Path
) -> None:
    """The whole job, each part on nodes of the kind that it asks for, comes to the very bytes that one machine makes."""
    small["train"]["epochs"] = 2
    raygen.run(small)
    here, there = Path(small["storage"]) / "small", tmp_path / "there"
    asked = {
        **small,
        "storage": f"file://{there}",
        "dataset": {**small["dataset"], "path": f"file://{small['dataset']['path']}"},
        "augment": {**small["augment"], "workers": "auto"},
        "resources": {
            "train": {"gpus": 1, "labels": {"market": "in(spot, cheap)"}},
            "evaluate": {"accelerator": "T4", "gpus": 0.5},
            "augment": {"cpus": 0.5, "labels": {"market": "!spot"}},
        },
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(asked))
    with faults.nodes(cpus=0) as cluster:
        gpu = cluster.add_node(num_cpus=1, num_gpus=1, resources={"accelerator_type:T4": 1}, labels={"market": "spot"})
        cluster.add_node(num_cpus=1)
        environment = {**os.environ, "RAY_ADDRESS": cluster.address}

        def run(*options: str) -> "subprocess.CompletedProcess[str]":
            words = [faults.RAYGEN, "run", str(tmp_path / "spec.yaml"), *options]
            return subprocess.run(words, env=environment, capture_output=True, text=True)

        local = run("--set", f"storage={there}")
        assert local.returncode == 2
        assert f"storage: {there} is a place of one machine, and the cluster has 3" in local.stderr
        done = run()
        assert done.returncode == 0, done.stderr
        assert gpu  # which stays until here
    found = [sorted(path.read_bytes() for path in (root / "dataset" / "data").iterdir()) for root in (here, there / "small")]
    assert found[0] == found[1]
    reports = [json.loads((root / "report" / "report.json").read_text()) for root in (here, there / "small")]
    assert reports[0]["metrics"] == reports[1]["metrics"]
    assert pq.read_table(there / "small" / "dataset" / "data").num_rows == 1000
    assert Project(load_spec(asked)).trained().name == Project(load_spec(small)).trained().name
