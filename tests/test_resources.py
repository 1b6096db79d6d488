"""What a spec asks of machines, and whether a cluster can ever give it: told at once, with the numbers."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raygen.errors import SpecError
from raygen.load import load_spec
from raygen.machines import Resources, matches, parse_size, told_size
from raygen.resources import UNTOLD, Demand, Node, demands, local_paths, refusal, storage_refusal
from raygen.spec import Spec

SPEC: dict[str, Any] = {
    "name": "digits",
    "storage": "s3://bucket/store",
    "dataset": {
        "path": "sample:digits",
        "schema": {
            "image": {"kind": "image", "height": 28, "width": 28, "channels": 1},
            "label": {"kind": "category"},
        },
    },
    "generator": {"family": "vae", "condition": "label"},
    "train": {"workers": 2},
    "augment": {"rows": 100},
    "serve": {"replicas": {"min": 0, "max": 4}},
}
ASKED = "{cpus: 4, gpus: 1, accelerator: A100, memory: 16GiB, labels: {ray.io/market-type: spot}}"
SMALL = Node("small", {"CPU": 2, "memory": 8 << 30}, count=3, most=3)
GPU = Node("gpu", {"CPU": 8, "GPU": 2, "memory": 64 << 30, "accelerator_type:A100": 1}, {"market": "spot"}, 1, 4)


def spec(*overrides: str) -> Spec:
    return load_spec(SPEC, overrides)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("16GiB", 16 << 30),
        ("16 GiB", 16 << 30),
        ("16Gi", 16 << 30),
        ("1.5TiB", 3 << 39),
        ("500MB", 500_000_000),
        ("500M", 500_000_000),
        ("2048KiB", 2 << 20),
        (3 << 20, 3 << 20),
        ("3145728", 3 << 20),
    ],
)
def test_a_size_has_a_unit(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["16", 16, "16 gigs", "GiB", "-1GiB", True, None, 1.5, "1e9GiB"])
def test_what_is_no_size(text: Any) -> None:
    with pytest.raises(ValueError, match="give it with a unit, such as 16GiB"):
        parse_size(text)


@given(st.integers(1 << 20, 1 << 50))
def test_a_size_is_written_as_it_was(size: int) -> None:
    written = Resources(memory=size).model_dump(mode="json")["memory"]
    assert parse_size(written) == size


def test_sizes_for_people() -> None:
    assert [told_size(size) for size in (512, 1 << 30, 3 << 29)] == ["512 bytes", "1 GiB", "1.5 GiB"]


def test_what_is_asked_reads_back_the_same() -> None:
    asked = spec(f"resources.train={ASKED}", "resources.serve={gpus: 0.5}")
    assert load_spec(asked) == asked
    assert "memory: 16GiB" in asked.to_yaml()
    assert asked.resources.train == Resources(
        cpus=4, gpus=1, accelerator="A100", memory=16 << 30, labels={"ray.io/market-type": "spot"}
    )
    assert asked.resources.serve == Resources(cpus=1, gpus=0.5)
    assert asked.resources.augment is None
    assert str(asked.resources.train) == "4 CPUs, 1 GPU (A100) and 16 GiB of memory"


def test_an_accelerator_is_a_gpu() -> None:
    assert spec("resources.train={accelerator: L4}").resources.train == Resources(gpus=1, accelerator="L4")


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("serve.gpus=1", "unknown key serve.gpus; did you mean 'resources.serve.gpus'?"),
        ("resources.trian={gpus: 1}", "unknown key resources.trian; did you mean 'train'?"),
        ("resources.train={gpu: 1}", "unknown key resources.train.gpu; did you mean 'gpus'?"),
        ("resources.train={gpus: -1}", "resources.train.gpus is -1: "),
        ("resources.train={gpus: many}", "resources.train.gpus is 'many': "),
        ("resources.train={gpus: 1.5}", "gpus is 1.5: Ray reserves whole GPUs, or a share of one"),
        ("resources.train={gpus: 0, accelerator: A100}", "accelerator is 'A100', and gpus is 0: leave one out"),
        ("resources.train={cpus: 0}", "cpus and gpus are both 0"),
        ("resources.train={memory: 16}", "memory is 16, which is 16 bytes: give it with a unit, such as 16GiB"),
        ("resources.train={memory: lots}", "memory is 'lots', which is no size"),
        ("resources.train={labels: {zone: true}}", "resources.train.labels.zone is True: "),
        ("resources.train={labels: {zone: 'in(a; b)'}}", "labels.zone is 'in(a; b)': give a value, !value, in(a, b)"),
        ("resources.train={labels: {'zo ne': a}}", "labels has the key 'zo ne', which no label has"),
    ],
)
def test_every_mistake_is_one_error(override: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=re.escape(what)):
        spec(override)


@pytest.mark.parametrize(
    ("wanted", "value", "expected"),
    [
        ("spot", "spot", True),
        ("spot", "on-demand", False),
        ("spot", None, False),
        ("!spot", "on-demand", True),
        ("!spot", "spot", False),
        ("!spot", None, True),
        ("in(a, b)", "b", True),
        ("in(a,b)", "c", False),
        ("in(a, b)", None, False),
        ("!in(a, b)", "b", False),
        ("!in(a, b)", "c", True),
        ("!in(a, b)", None, True),
    ],
)
def test_labels_as_ray_selects_them(wanted: str, value: str | None, expected: bool) -> None:
    assert matches(wanted, value) is expected


def test_what_jobs_ask_for() -> None:
    given = spec("resources.train={gpus: 1}", "resources.serve={gpus: 0.5}")
    assert demands(given, ["run"]) == [
        Demand("train", 2, 2, Resources(gpus=1)),
        Demand("evaluate", 1, 1, Resources(), given=False),
        Demand("augment", 1, None, Resources(), given=False),
    ]
    assert demands(given, ["serve"]) == [Demand("serve", 1, 4, Resources(gpus=0.5))]
    elastic = spec("train.workers={min: 1, max: 2}", "resources.train={}")
    assert demands(elastic, ["train"]) == [Demand("train", 1, 2, Resources())]
    assert demands(spec("train.workers=auto", "resources.train={}"), ["train"]) == [Demand("train", 1, None, Resources())]
    # Who says nothing shares what is there: two workers run on one CPU.
    assert demands(spec(), ["train"]) == [Demand("train", 1, 2, Resources(), given=False)]
    assert demands(spec("augment=null"), ["augment", "run"]) == demands(spec(), ["train", "evaluate"])


@pytest.mark.parametrize(
    ("asked", "node", "expected"),
    [
        (Resources(), SMALL, 2),
        (Resources(cpus=0.5), SMALL, 4),
        (Resources(cpus=0.1), SMALL, 20),
        (Resources(memory=3 << 30), SMALL, 2),
        (Resources(memory=5 << 30), SMALL, 1),
        (Resources(gpus=1), SMALL, 0),
        (Resources(gpus=1), GPU, 2),
        (Resources(gpus=0.4), GPU, 4),  # two on each of two, and none across
        (Resources(gpus=0.5, cpus=4), GPU, 2),
        (Resources(gpus=0.5), Node("gpu", {"CPU": 8, "GPU": 1.5}), 3),  # of what is free
        (Resources(gpus=2, accelerator="A100"), GPU, 1),
        (Resources(gpus=1, accelerator="H100"), GPU, 0),
        (Resources(labels={"market": "spot"}), GPU, 8),
        (Resources(labels={"market": "!spot"}), GPU, 0),
    ],
)
def test_for_how_many_a_node_has_room(asked: Resources, node: Node, expected: int) -> None:
    assert node.room(asked) == expected


@pytest.mark.parametrize(
    ("workers", "asked", "nodes", "what"),
    [
        (2, {"gpus": 1}, [SMALL], "1 CPU and 1 GPU for each of 2 workers; the cluster has 3 nodes with 0 GPUs"),
        (1, {"accelerator": "H100"}, [SMALL], "1 CPU and 1 GPU (H100); the cluster has 3 nodes with 0 GPUs"),
        (
            1,
            {"accelerator": "H100"},
            [SMALL, GPU],
            "the cluster has 4 nodes with GPUs of the kind A100, and may grow to 7 with GPUs of the kind A100",
        ),
        (1, {"cpus": 9}, [SMALL, GPU], "9 CPUs; the cluster has 4 nodes with at most 8 CPUs each, and may grow to 7 with"),
        (1, {"cpus": 4}, [SMALL], "train asks for 4 CPUs; the cluster has 3 nodes with at most 2 CPUs each"),
        (1, {"memory": 9 << 30}, [SMALL], "1 CPU and 9 GiB of memory; the cluster has 3 nodes with at most 8 GiB of memory"),
        (7, {}, [SMALL], "1 CPU for each of 7 workers; the cluster has 3 nodes with room for 6 of them"),
        (9, {"gpus": 1}, [GPU], "the cluster has 1 node with room for 2 of them, and may grow to 4 with room for 8 of them"),
        (
            1,
            {"labels": {"market": "spot"}},
            [SMALL],
            "1 CPU on nodes with market: spot; the cluster has 3 nodes with no market",
        ),
        (
            1,
            {"labels": {"market": "on-demand"}},
            [SMALL, GPU],
            "the cluster has 4 nodes with market: spot, and may grow to 7 with market: spot",
        ),
        (1, {"gpus": 4, "labels": {"market": "spot"}}, [GPU], "1 node with at most 2 GPUs each with these labels, and may"),
        (1, {"gpus": 1, "labels": {"market": "!spot"}}, [SMALL, GPU], "4 nodes with 0 GPUs with these labels"),
        (
            1,
            {"gpus": 1, "memory": 8 << 30},
            [SMALL, Node("odd", {"CPU": 1, "GPU": 1, "memory": 1 << 30})],
            "the cluster has 4 nodes none of which has all of it",
        ),
        (1, {}, [], "train asks for 1 CPU; the cluster has no nodes"),
        (1, {}, [Node("head", {"CPU": 0})], "train asks for 1 CPU; the cluster has 1 node with 0 CPUs"),
        (
            1,
            {"gpus": 4},
            [Node("gpu", {"CPU": 4, "GPU": 2}, count=0, most=3)],
            "has 0 nodes, and may grow to 3 with at most 2 GPUs",
        ),
    ],
)
def test_what_can_never_be_is_refused_with_the_numbers(workers: int, asked: Any, nodes: list[Node], what: str) -> None:
    error = refusal(Demand("train", workers, workers, Resources(**asked)), nodes)
    assert error is not None
    assert what in error.what
    assert error.hint == "lower resources.train in the spec, or add such nodes to the cluster"


@pytest.mark.parametrize(
    ("workers", "asked", "nodes"),
    [
        (6, {}, [SMALL]),
        (2, {"gpus": 1, "labels": {"market": "in(spot, cheap)"}}, [GPU]),
        (8, {"gpus": 1}, [SMALL, GPU]),  # of which six would have to come
        (1, {"gpus": 1}, [Node("gpu", {"CPU": 1, "GPU": 1}, count=0, most=1)]),
        (100, {"gpus": 8}, [SMALL, UNTOLD]),
    ],
)
def test_what_can_be_is_not_refused(workers: int, asked: Any, nodes: list[Node]) -> None:
    assert refusal(Demand("train", workers, workers, Resources(**asked)), nodes) is None


def test_local_paths_of_a_spec() -> None:
    assert local_paths(spec()) == {}
    given = spec(
        "storage=./store",
        "dataset.path=/data/*.parquet",
        "augment={variants: 2, source: more.parquet, output: file:///mnt/out}",
        "train.start_from=store/old",
        "evaluate.features=inception:net.pt",
    )
    assert local_paths(given) == {
        "storage": "./store",
        "dataset.path": "/data/*.parquet",
        "train.start_from": "store/old",
        "evaluate.features": "net.pt",
        "augment.source": "more.parquet",
    }


@pytest.mark.parametrize(
    ("nodes", "has"),
    [
        ([SMALL], "has 3"),
        ([GPU], "may grow to 4"),
        ([Node("head", {"CPU": 2}), UNTOLD], "may grow"),
    ],
)
def test_a_local_path_is_refused_with_several_nodes(nodes: list[Node], has: str) -> None:
    error = storage_refusal({"storage": "./store"}, nodes)
    assert error is not None
    assert error.what == f"storage: ./store is a place of one machine, and the cluster {has}"
    assert "file:///mnt/…" in error.hint
    assert storage_refusal({}, nodes) is None


def test_a_local_path_is_fine_on_one_machine() -> None:
    assert storage_refusal({"storage": "./store"}, [Node("head", {"CPU": 2})]) is None
