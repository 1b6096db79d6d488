"""The likelihood of held-out rows in the report, by a generator that was not trained; what is said of privacy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from raygen.generators.generator import Generator
from raygen.jobs import evaluate_images, gate
from raygen.jobs.evaluate_images import Rows
from raygen.jobs.project import Project
from raygen.metrics.features import Pixels
from raygen.spec import GateRule

Spec = dict[str, Any]
NAME = "negative_log_likelihood"
PRIVACY = ["identical_share", "membership_auc", "closer_share", "close_share", "close_ratio"]


def generator_of(base: Spec, trained: Callable[[Spec], Project], **options: Any) -> Generator:
    return Generator.load(trained({**base, "generator": {**base["generator"], **options}}).trained().uri)


@pytest.fixture
def held() -> Rows:
    """Fifty pictures; the classes of two are unknown."""
    images = np.random.default_rng(0).integers(0, 256, (50, 1, 28, 28), np.uint8)
    return Rows(images, np.where(np.arange(50) < 2, -1, np.arange(50) % 3))


def test_it_is_the_mean_over_held_out_rows_of_known_classes(
    base: Spec, trained: Callable[[Spec], Project], held: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = generator_of(base, trained, likelihood="logistic")

    def known(images: np.ndarray, rows: range, seed: int, classes: np.ndarray) -> np.ndarray:
        assert len(images) == len(rows) == len(classes)
        assert classes.min() >= 0
        return -images[:, 0, 0, 0].astype(np.float64)

    monkeypatch.setattr(generator, "log_likelihood", known)
    metric = evaluate_images._likelihood(generator, held, 0, None)
    nats = held.images[2:, 0, 0, 0]
    assert (metric["name"], metric["rows"], metric["samples"], metric["ceiling"]) == (NAME, 48, 100, None)
    assert metric["better"] == "lower"
    assert metric["value"] == pytest.approx(nats.mean())
    low, high = metric["interval"]
    assert (low + high) / 2 == pytest.approx(metric["value"])
    assert high - low == pytest.approx(2 * 1.96 * nats.std() / 48**0.5, rel=0.3)


def test_it_is_the_same_every_time(base: Spec, trained: Callable[[Spec], Project], held: Rows) -> None:
    generator = generator_of(base, trained, likelihood="logistic")
    metric = evaluate_images._likelihood(generator, held, 0, None)
    assert np.isfinite(metric["value"])
    assert evaluate_images._likelihood(generator, held, 0, None) == metric


def test_no_more_rows_than_are_needed(
    base: Spec, trained: Callable[[Spec], Project], held: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_images, "LIKELIHOOD_ROWS", 10)
    metric = evaluate_images._likelihood(generator_of(base, trained, likelihood="gaussian"), held, 0, None)
    assert metric["rows"] == 10


def test_without_held_out_rows_nothing_is_said_of_privacy(held: Rows) -> None:
    found = evaluate_images._privacy(held, held, held.take(slice(0, 0)), 0)
    assert [metric["name"] for metric in found] == PRIVACY
    assert {(metric["value"], metric["because"]) for metric in found} == {(None, "no rows are held out")}


def test_of_training_rows_that_are_all_alike_nothing_is_said_but_that_they_are_not_repeated(held: Rows) -> None:
    alike = held.take(np.zeros(20, int))
    copies, *others = evaluate_images._privacy(held, alike, held, 0)
    assert (copies["value"], copies["ceiling"]) == (0.02, 0.02)
    assert all(metric["value"] is None and metric["because"] for metric in others)


def test_copies_of_training_rows_are_told(held: Rows) -> None:
    training, others = held.take(slice(0, 25)), held.take(slice(25, 50))
    leaked, kept = (
        {metric["name"]: metric for metric in evaluate_images._privacy(made, training, others, 0)}
        for made in (training, Rows(np.random.default_rng(5).integers(0, 256, (25, 1, 28, 28), np.uint8), None))
    )
    assert [leaked[name]["value"] for name in PRIVACY] == [1, 1, 1, 1, 1]
    assert all(kept[name]["interval"][0] <= kept[name]["ceiling"] <= kept[name]["interval"][1] for name in PRIVACY[1:])


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_too_few_rows_for_a_kernel_are_told(held: Rows, rows: int) -> None:
    features = Pixels.fit(held.images)
    found = {m["name"]: m for m in evaluate_images._distribution(features, None, held, held.take(slice(0, rows)), 0)}
    assert found["kernel_distance"]["value"] is None
    assert found["kernel_distance"]["because"]


@pytest.mark.parametrize(
    ("rows", "strength", "because"),
    [(50, None, "not all black or white"), (50, 0.5, "variants"), (0, None, "no rows are held out"), (2, None, "no rows")],
)
def test_where_there_is_none_it_says_why(
    base: Spec, trained: Callable[[Spec], Project], held: Rows, rows: int, strength: float | None, because: str
) -> None:
    metric = evaluate_images._likelihood(generator_of(base, trained), held.take(slice(0, rows)), 0, strength)
    assert metric["value"] is None
    assert because in metric["because"]
    (judged,) = gate.judge([GateRule(metric=NAME, max=500.0)], [metric])
    assert not judged["passed"]
    assert because in judged["because"]
