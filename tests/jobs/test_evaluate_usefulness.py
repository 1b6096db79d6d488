"""What downstream models are trained on and told to be good for, by generators that were not trained."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from raygen import console
from raygen.datasets.codec import Codec
from raygen.datasets.statistics import Statistics
from raygen.errors import RaygenError
from raygen.generators.generator import Generator, untrained
from raygen.jobs import allocate, evaluate, evaluate_images, evaluate_tables
from raygen.jobs.evaluate_images import Rows
from raygen.jobs.evaluate_usefulness import added
from raygen.jobs.project import REPORT, Project, write_json
from raygen.load import load_spec
from raygen.metrics import usefulness_images
from raygen.metrics.features import Pixels
from raygen.spec import Spec

Document = dict[str, Any]
FIELDS = {"age": "number", "wage": "number", "town": "category", "code": "category", "rich": "category"}
TABLE: Document = {
    "name": "people",
    "dataset": {"path": "people.parquet", "schema": {name: {"kind": kind} for name, kind in FIELDS.items()}},
    "generator": {"family": "autoregressive", "condition": "rich", "width": 16, "features": 8},
    "evaluate": {"seeds": 2},
}


def people(rows: int, share: float = 0.02, seed: int = 0) -> pa.Table:
    """A few of whom are rich, which their wage tells, and their code gives away."""
    random = np.random.default_rng(seed)
    rich = np.arange(rows) < share * rows
    table = {
        "age": random.integers(18, 70, rows),
        "wage": random.normal(1000, 300, rows) + 500 * rich,
        "town": random.choice(["Oslo", "Rome"], rows),
        "code": np.where(rich, 7, 3),
        "rich": np.where(rich, "yes", "no"),
    }
    return pa.table(table).take(random.permutation(rows))


def of_table(table: pa.Table, **changed: Any) -> tuple[Spec, Generator]:
    """A spec, and a generator of such rows."""
    spec = load_spec({**TABLE, **changed})
    statistics = Statistics(spec.dataset.fields)
    statistics.add(table, np.full(len(table), True))
    codec = statistics.codec(table.schema)
    torch.manual_seed(0)
    return spec, Generator(spec.generator, codec, untrained(spec.generator, codec, torch.device("cpu")).sampler().eval())


def useful(training: pa.Table, held: pa.Table, seed: int = 0, **changed: Any) -> tuple[list[Document], Document | None]:
    spec, generator = of_table(training, **changed)
    whole = len(training)
    return evaluate_tables.useful(spec, generator, training, held, whole, None, seed)


def in_order(estimate: Document) -> bool:
    low, high = estimate["interval"]
    return bool(low <= estimate["value"] <= high and low < high)


def because(found: tuple[list[Document], Document | None]) -> str:
    """Why nothing was computed, which metrics and document say alike."""
    metrics, document = found
    assert document is not None
    assert [metric["name"] for metric in metrics] == ["synthetic_f1", "lift"]
    assert all(metric["value"] is None and metric["because"] == document["because"] for metric in metrics)
    return str(document["because"])


def test_a_rare_class_of_a_table_gets_its_line_with_intervals() -> None:
    (alone, lift), document = useful(people(1500), people(1000, seed=1))
    assert document is not None
    assert document["rows"] == {"real": 1500, "synthetic": 1500, "added": 1500, "asked": 1500, "held_out": 1000}
    assert "asked for" not in document["summary"]
    assert document["held"] == {"no": 980, "yes": 20}
    assert document["scores"].keys() == {"real", "synthetic", "real + synthetic", "class weights", "SMOTE"}
    for way, scores in document["scores"].items():
        assert scores["by_class"].keys() == {"no", "yes"}
        assert all(in_order(score["f1"]) for score in (scores["macro"], *scores["by_class"].values())), way
    rare = document["scores"]["real + synthetic"]["by_class"]["yes"]["lift"]
    assert in_order(rare)
    assert alone["interval"] == document["scores"]["synthetic"]["macro"]["f1"]["interval"]
    assert (lift["ceiling"], lift["rows"], lift["better"]) == (None, 1000, "higher")
    assert document["scores"]["real"]["macro"]["f1"]["value"] < 0.97  # the code was not among what it was told from
    assert alone["value"] < 0.6  # of a generator that has learnt nothing


def test_other_seeds_give_other_rows_and_the_same_ones_the_same_figures() -> None:
    training, held = people(300, 0.3), people(300, 0.3, seed=1)
    first, again, other = (useful(training, held, seed)[1] for seed in (3, 3, 9))
    assert first is not None
    assert other is not None
    assert first == again
    for way in ("synthetic", "real + synthetic"):
        assert first["scores"][way]["macro"]["f1"] != other["scores"][way]["macro"]["f1"]


@pytest.mark.parametrize("seed", [2**40, 2**63 - 1])
def test_any_seed_will_do(seed: int) -> None:
    (_, lift), _ = useful(people(200, 0.3), people(200, 0.3, 1), seed)
    assert lift["value"] is not None


@pytest.mark.parametrize(
    ("augment", "expected"),
    [
        (None, (20, 980)),  # as many as there are real ones, and so that both classes have as many
        ({"rows": 300}, (294, 6)),
        ({"rows": 300, "balance": "rich"}, (150, 150)),
        ({"rows": 90_000, "balance": "rich"}, (10_000, 10_000)),  # more than there may be: the same shares
        ({"balance": "rich"}, (0, 960)),
        ({"balance": "rich", "to": 1000, "include_real": True}, (20, 980)),
        ({"classes": {"yes": 70}}, (0, 70)),
    ],
)
def test_what_is_added_is_what_would_be_written(augment: Document | None, expected: tuple[int, int]) -> None:
    training = people(1000)
    spec, generator = of_table(training, augment=augment)
    trial = evaluate_tables.Trial(generator, "rich", FIELDS, training, people(50), 1000, 20_000, None, None)
    rows, counts, asked = added(trial, spec.augment)
    assert (rows, counts) == (sum(expected), expected)
    assert asked == (90_000 if rows == trial.most else rows)
    made = trial.make(range(5000, 5000 + rows), 0, np.repeat([0, 1], expected), True)
    assert made["rich"].to_pylist() == ["no"] * expected[0] + ["yes"] * expected[1]


def test_of_a_part_of_the_real_rows_it_is_the_same_part() -> None:
    training = people(1000)
    spec, generator = of_table(training, augment={"rows": 300, "balance": "rich"})
    trial = evaluate_tables.Trial(generator, "rich", FIELDS, training.slice(0, 100), people(50), 1000, 20_000, None, None)
    assert added(trial, spec.augment) == (30, (15, 15), 30)


def test_what_is_added_is_as_it_is_asked_to_be() -> None:
    training = people(500)
    spec, generator = of_table(training, augment={"rows": 100, "where": {"age": [30, 40]}})
    where = spec.augment and spec.augment.where
    trial = evaluate_tables.Trial(generator, "rich", FIELDS, training, people(50), 500, 20_000, None, where)
    assert added(trial, spec.augment) == (100, None, 100)
    assert set(trial.make(range(100), 0, None, True)["age"].to_pylist()) <= set(range(30, 41))
    assert max(trial.make(range(100), 0, None, False)["age"].to_pylist()) > 40


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"generator": {"family": "autoregressive"}}, "there are several categories: name one in evaluate.target"),
        ({"augment": {"balance": "rich", "to": 1}}, "every rich has 1 rows already"),
    ],
)
def test_what_cannot_be_measured_is_not_and_says_why(changed: Document, said: str) -> None:
    assert said in because(useful(people(200), people(100), **changed))


def test_too_few_rows_or_classes_are_told() -> None:
    rows, none = people(200), people(200).slice(0, 0)
    assert "0 held-out rows have a class" in because(useful(rows, none))
    assert "the held-out rows have fewer than 2 values of 'rich'" in because(useful(rows, people(200, 0.0)))
    assert "the training rows have fewer than 2 values of 'rich'" in because(useful(people(200, 0.0), rows))
    only = {name: {"kind": "category"} for name in ("code", "rich")}
    spec = {"dataset": {**TABLE["dataset"], "schema": only}}
    assert "there is no column to tell 'rich' from" in because(useful(rows, rows, **spec))


@pytest.mark.parametrize(("called", "strength"), [("c{}", None), (None, 0.5)])
def test_of_many_classes_the_rarest_share_one(
    called: str | None, strength: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least frequent 3 of 5, and one that is held out alone; and rows without a class."""
    monkeypatch.setattr(evaluate_tables, "MOST_CLASSES", 2)
    n = np.repeat(np.arange(5), [60, 60, 20, 20, 20])
    values = [None, *(int(i) if called is None else called.format(i) for i in n)]
    table = pa.table({"age": np.append(0, n), "wage": np.random.default_rng(0).normal(size=len(values)), "rich": values})
    fields = {"age": {"kind": "number"}, "wage": {"kind": "number"}, "rich": {"kind": "category"}}
    spec, generator = of_table(table, dataset={**TABLE["dataset"], "schema": fields})
    new = [*values[:-1], 99 if called is None else "new"]
    held = table.set_column(2, "rich", pa.array(new, table["rich"].type))
    (alone, lift), document = evaluate_tables.useful(spec, generator, table, held, len(table), strength, 0)
    assert document is not None
    assert None not in (alone["value"], lift["value"])
    assert (document["target"], document["others"]) == ("rich", 3)
    assert document["held"] == {str(values[1]): 60, str(values[61]): 60, "others": 60}
    assert document["scores"]["real"]["macro"]["f1"]["value"] > 0.9  # the age tells


def test_of_few_classes_none_is_shared() -> None:
    _, document = useful(people(200, 0.3), people(200, 0.3, 1))
    assert document is not None
    assert document["others"] == 0
    assert document["held"].keys() == {"no", "yes"}


def test_rows_with_nulls_are_learnt_from() -> None:
    rows = people(400, 0.3)
    for index, name in enumerate(("age", "wage")):
        values = rows[name].to_pylist()
        holes = pa.array([None if n % 3 == index else float(value) for n, value in enumerate(values)])
        rows = rows.set_column(index, name, holes)
    (alone, lift), _ = useful(rows, rows)
    assert alone["value"] is not None
    assert in_order(lift)


@pytest.mark.parametrize("package", ["scipy.stats", "sklearn.ensemble", "imblearn"])
def test_without_the_packages_it_says_how_to_get_them(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert "is not installed: pip install 'raygen[quality]'" in because(useful(people(200, 0.3), people(200, 0.3, 1)))


def test_it_is_not_computed_where_nobody_wants_it() -> None:
    metrics, document = useful(people(50), people(50), evaluate={"usefulness": False})
    assert document is None
    assert {metric["because"] for metric in metrics} == {"evaluate.usefulness is false"}


# Images.


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usefulness_images, "LEAST_STEPS", 5)
    monkeypatch.setattr(evaluate_images, "EPOCHS", 1)


def pictures(counts: list[int], seed: int = 0) -> dict[str, np.ndarray]:
    """Encoded: the shade says the class."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    noise = np.random.default_rng(seed).integers(0, 50, (len(labels), 1, 28, 28))
    return {"image": (noise + 60 * labels[:, None, None, None]).astype(np.uint8), "label": labels}


def of_images(base: Document, trained: Callable[[Document], Project], **changed: Any) -> tuple[Spec, Generator, Codec]:
    project = trained({**base, "evaluate": {"seeds": 2}, **changed})
    generator = Generator.load(project.trained().uri)
    return project.spec, generator, generator.codec


def test_a_rare_class_of_images_gets_its_line_with_intervals(
    base: Document, trained: Callable[[Document], Project], short: None
) -> None:
    sides = pictures([100, 100, 100, 6]), pictures([50, 50, 50, 3], 1)
    (alone, lift), document = evaluate_images.useful(*of_images(base, trained), sides, None, 0)
    assert document is not None
    assert (document["target"], document["held"]) == ("label", {"0": 50, "1": 50, "2": 50, "3": 3})
    assert (document["rows"]["real"], document["rows"]["held_out"]) == (306, 153)
    assert {"real", "synthetic", "real + synthetic", "class weights"} <= document["scores"].keys()
    assert all(in_order(scores["by_class"]["3"]["f1"]) for scores in document["scores"].values())
    assert in_order(document["scores"]["real + synthetic"]["by_class"]["3"]["lift"])
    assert in_order(lift)
    assert alone["ceiling"] == document["scores"]["real"]["macro"]["f1"]["value"]


def test_large_data_are_cut_at_random_and_so_are_large_plans(
    base: Document, trained: Callable[[Document], Project], short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_images, "TAUGHT", 80)
    monkeypatch.setattr(evaluate_images, "LEAST_TAUGHT", 10)
    monkeypatch.setattr(evaluate_images, "TESTED", 60)
    sides = pictures([100, 100, 100, 20]), pictures([50, 50, 50, 50], 1)
    spec, generator, codec = of_images(base, trained, augment={"rows": 5000, "balance": "label"})
    _, document = evaluate_images.useful(spec, generator, codec, sides, None, 0)
    assert document is not None
    assert document["rows"] == {"real": 80, "synthetic": 80, "added": 80, "asked": 1250, "held_out": 60}
    assert document["summary"].endswith("; synthetic rows for each real one: 1 tried, 15.6 asked for")


def test_variants_have_the_labels_of_their_rows(base: Document, trained: Callable[[Document], Project], short: None) -> None:
    spec, generator, _ = of_images(base, trained, augment={"variants": 3})
    assert spec.target() == "label"
    rows = Rows(*pictures([10, 10, 10, 10]).values())
    trial = evaluate_images.Trial(generator, "label", "0123", rows, rows, 40, 100, 0.5)
    assert added(trial, spec.augment) == (100, None, 120)
    made = trial.make(range(100), 0, None, True)
    assert made.labels.tolist() == np.resize(rows.classes, 100).tolist()


@pytest.mark.parametrize("strength", [None, 0.5])
def test_no_more_of_large_images_is_kept_than_a_model_looks_at(
    base: Document, trained: Callable[[Document], Project], strength: float | None
) -> None:
    large = {**base["dataset"]["schema"], "image": {"kind": "image", "height": 96, "width": 48, "channels": 1}}
    _, generator, codec = of_images(base, trained, dataset={**base["dataset"], "schema": large})
    sides = (Rows(np.zeros((n, 1, 96, 48), np.uint8), np.arange(n) % 4) for n in (30, 20))
    trial = evaluate_images._trial(generator, codec, *sides, strength, 0, "label")
    classes = np.arange(6) % 4
    kept = [
        trial.make(range(6), 0, classes, True).images,
        trial.candidates(range(6), 0, classes)["image"],
        trial.held.images,
    ]
    assert [images.shape[1:] for images in kept] == [(1, 64, 48)] * 3
    assert trial.real.images.shape[2] == (64 if strength is None else 96)  # which variants are made of
    assert allocate._Pool(trial)((2, 0, 1, 0), 0)["image"].shape == (3, 1, 64, 48)
    assert len(trial.told(trial.candidates(range(6), 0, classes))) == 20


def test_quick_models_find_the_components_of_the_real_images_once(
    base: Document, trained: Callable[[Document], Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, generator, codec = of_images(base, trained)
    sides = (Rows(*pictures(counts, seed).values()) for counts, seed in (([20] * 4, 0), ([10] * 4, 1)))
    trial = evaluate_images._trial(generator, codec, *sides, None, 0, "label")
    added, fit, fits = pictures([5] * 4, 2), Pixels.fit, []
    monkeypatch.setattr(Pixels, "fit", lambda images: fits.append(len(images)) or fit(images))
    for rows in (None, added, None):
        assert (trial.told(rows) == trial.places[1]).all()  # the shade says it
    assert fits == [80]
    misled = {**added, "label": (added["label"] + 1) % 4}
    assert (trial.told({name: np.repeat(values, 9, axis=0) for name, values in misled.items()}) != trial.places[1]).any()


def test_images_without_labels_are_told(base: Document, trained: Callable[[Document], Project]) -> None:
    _, generator, _ = of_images(base, trained)
    spec = load_spec({**base, "generator": {"family": "vae", "width": 4, "latent": 6}})
    sides = pictures([9, 9]), pictures([9, 9])
    found = evaluate_images.useful(spec, generator, generator.codec, sides, None, 0)
    assert "has no condition, so its rows have no label" in because(found)


# The report.


def test_a_report_is_of_the_rows_that_are_added_and_of_how_it_is_judged(
    base: Document, trained: Callable[[Document], Project]
) -> None:
    def inputs(augment: bool = True, **changed: Any) -> str:
        return evaluate._inputs(trained({**base, **changed}), augment)

    few, many = {"rows": 10}, {"rows": 20}
    assert inputs(augment=True) != inputs(evaluate={"seeds": 4})
    reports = {evaluate._inputs(trained({**base, "augment": asked})) for asked in (few, many, {**few, "balance": "label"})}
    assert len(reports) == 3
    elsewhere = {**few, "seed": 3, "output": "there", "start": 5, "workers": 2, "shard_rows": 10}
    assert evaluate._inputs(trained({**base, "augment": elsewhere})) in reports
    assert len({evaluate._inputs(trained({**base, "augment": asked}), augment=False) for asked in (few, many)}) == 1


def test_a_report_without_a_package_is_made_anew_once_that_is_there_and_is_kept_where_one_is_gone(
    ray: None, base: Document, trained: Callable[[Document], Project], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = trained({**base, "storage": str(tmp_path), "evaluate": {"seeds": 2}})
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "scipy.stats", None)
        without.setitem(sys.modules, "scipy", None)
        found = evaluate.evaluate(project)
        assert "needs scipy" in found["usefulness"]["because"]
        assert evaluate.evaluated(project) == found
    assert evaluate.evaluated(project) is None
    found["packages"].append("scipy")
    write_json(project.report, REPORT, found)
    assert evaluate.evaluated(project) == found
    monkeypatch.setitem(sys.modules, "kornia", None)
    assert evaluate.evaluated(project) == found
    monkeypatch.setattr(evaluate, "METRICS", evaluate.METRICS + 1)
    assert evaluate.evaluated(project) is None


@pytest.mark.parametrize(
    ("useful", "first", "second"),
    [
        ({"verdict": "helps", "summary": "augmentation helps: a lift"}, "passed its gate", "augmentation helps: a lift"),
        (
            {"verdict": "hurts", "summary": "augmentation hurts: a loss"},
            "passed its gate; augmentation hurts",
            "augmentation hurts: a loss",
        ),
        (
            {"target": None, "because": "no rows"},
            "passed its gate",
            "usefulness was not computed: no rows",
        ),
    ],
)
def test_that_augmentation_does_not_help_is_said_first(useful: Document, first: str, second: str) -> None:
    report = {"verdict": "passed", "gate": [], "metrics": [], "usefulness": useful, "allocation": None}
    assert evaluate._summary(report) == [first, second]


@pytest.mark.parametrize(
    ("useful", "line"),
    [
        ({"summary": "augmentation helps: so much"}, "usefulness augmentation helps: so much\n"),
        ({"target": None, "because": "no rows"}, "usefulness not computed: no rows\n"),
        (None, ""),
    ],
)
def test_the_command_line_says_what_the_rows_are_good_for(
    useful: Document | None, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    console.figures({"metrics": [], "usefulness": useful})
    assert capsys.readouterr().out.split("real (ceiling)")[1].strip(" \n") == line.strip()


def test_a_target_has_to_be_a_category() -> None:
    with pytest.raises(RaygenError, match=r"evaluate.target is 'age', which is of kind 'number', not 'category'"):
        load_spec({**TABLE, "evaluate": {"target": "age"}})
