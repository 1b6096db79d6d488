"""The likelihood of held-out rows in the report, by a generator that was not trained; what is said of privacy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from raygen.gate import GateRule
from raygen.generators.generator import Generator
from raygen.jobs import evaluate_images, gate
from raygen.jobs.evaluate_images import Rows
from raygen.jobs.project import Project
from raygen.metrics import fidelity
from raygen.metrics.features import Pixels, Thumbnails
from raygen.metrics.features import _thumbnails as thumbnails

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


class Corner:
    """The shades of six pixels."""

    name = "corner"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return images[:, 0, 0, :6].astype(np.float32)


def test_intervals_know_that_the_held_out_rows_are_few_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Synthetic rows are like the dark ones of real rows: how many of those there are is a matter of which are held out."""
    random, measured = np.random.default_rng(0), []
    images = random.integers(0, 20, (300, 1, 8, 8), np.uint8)
    synthetic, held = Rows(images[:100], None), Rows(images[100:], None)
    held.images[::2] += 200
    measure = fidelity.precision_recall_density_coverage
    monkeypatch.setattr(fidelity, "precision_recall_density_coverage", lambda *rows: measured.append(0) or measure(*rows))
    found = {m["name"]: m for m in evaluate_images._distribution(Corner(), None, synthetic, held, 0)}
    low, high = found["coverage"]["interval"]
    assert found["coverage"]["value"] == pytest.approx(0.5, abs=0.15)
    assert (high - low) / 2 == pytest.approx(1.96 * 0.5 / 100**0.5, rel=0.5)
    assert len(measured) < 60  # all four figures at once


def test_neighbours_are_looked_for_among_so_many_thumbnails(
    base: Spec, trained: Callable[[Spec], Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a generator that repeats the rows it has learnt: each picture is above itself."""
    project, drawn = trained(base), {}
    generator = Generator.load(project.trained().uri)
    images = np.random.default_rng(0).integers(0, 256, (60, 1, 28, 28), np.uint8)
    training = Rows(images, np.arange(60) % 4)
    monkeypatch.setattr(generator, "tensors", lambda rows, seed, classes: {"image": images[: len(rows)]})
    monkeypatch.setattr(evaluate_images, "grid", lambda rows: drawn.setdefault(len(drawn), rows) and b"")
    monkeypatch.setattr(Thumbnails, "__call__", lambda self, images: seen.append(len(images)) or thumbnails(images))
    seen: list[int] = []
    for most in (1000, 20):
        monkeypatch.setattr(evaluate_images, "PRIVACY_ROWS", most)
        evaluate_images._pictures(project, generator, training, generator.codec, 0, None)
    np.testing.assert_array_equal(*drawn[2])
    assert (drawn[5][0] != drawn[5][1]).any()
    assert seen == [8, 60, 8, 20]


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
