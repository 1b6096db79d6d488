"""The likelihood of held-out rows in the report, by a generator that was not trained."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from raygen.generators.generator import Generator
from raygen.jobs import evaluate, evaluate_images
from raygen.jobs.evaluate_images import Rows
from raygen.jobs.project import Project
from raygen.spec import GateRule

Spec = dict[str, Any]
NAME = "negative_log_likelihood"


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
    judged = evaluate._judge(GateRule(metric=NAME, max=500.0), [metric])
    assert not judged["passed"]
    assert because in judged["because"]
