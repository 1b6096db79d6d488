"""Images that say something new help, a memory, noise and a single image do not; every training is as long."""

import importlib.util
import sys

import numpy as np
import pytest
import torch

from raygen.errors import DataError, RaygenError
from raygen.metrics import usefulness_images
from raygen.metrics.features import Classifier
from raygen.metrics.usefulness import AUGMENTED, CLASS_WEIGHTS, REAL, SYNTHETIC, TRANSFORMS
from raygen.metrics.usefulness_images import Rows, image_usefulness, transformed

CLASSES = ["along", "across", "askew"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def steps(request, monkeypatch):
    """How many a training takes, at least: enough for what a test looks at."""
    steps = getattr(request, "param", 20)
    monkeypatch.setattr(usefulness_images, "LEAST_STEPS", steps)
    return steps


def bars(counts, seed, channels=1):
    """Short bars of three directions anywhere in noise."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), counts)
    images = generator.integers(0, 100, size=(len(labels), channels, 8, 8), dtype=np.uint8)
    steps = np.arange(4)
    for image, label in zip(images, labels, strict=True):
        y, x = generator.integers(0, 5, size=(2, 1))
        image[:, y + steps * (label != 0), x + steps * (label != 1)] = generator.integers(110, 240)
    order = generator.permutation(len(labels))
    return Rows(images[order], labels[order])


REAL_ROWS, HELD = bars((90, 90, 9), 0), bars((200, 200, 200), 1)


def found(synthetic, added=None, real=REAL_ROWS, held=HELD, seed=0, epochs=1):
    return image_usefulness(real, held, synthetic, added or synthetic, CLASSES, seed, epochs)


@pytest.mark.parametrize("steps", [60], indirect=True)
def test_new_images_of_a_rare_class_help():
    useful = found([bars((90, 90, 90), seed) for seed in (2, 3, 4)], [bars((0, 0, 150), seed) for seed in (5, 6, 7)])
    assert useful.verdict == "helps"
    assert list(useful.scores) == [REAL, SYNTHETIC, AUGMENTED, CLASS_WEIGHTS, TRANSFORMS]
    assert useful.scores[AUGMENTED].by_class["askew"].lift.interval.low > 0
    assert useful.held == dict.fromkeys(CLASSES, 200)
    assert useful.untried == {}


def test_a_memory_makes_no_difference_for_every_training_is_as_long():
    useful = found([REAL_ROWS] * 3)
    assert useful.verdict == "makes no difference"
    assert useful.scores[SYNTHETIC].macro.lift.value == 0  # the same images, passes and seeds


@pytest.mark.parametrize("steps", [60], indirect=True)
def test_noise_teaches_nothing():
    generator = np.random.default_rng(0)
    noise = [Rows(generator.permutation(bars((60, 60, 60), seed).images), bars((60, 60, 60), 9).labels) for seed in (2, 3)]
    useful = found(noise)
    assert useful.scores[SYNTHETIC].macro.f1.value < 0.45
    assert useful.verdict != "helps"


@pytest.mark.parametrize("steps", [60], indirect=True)
def test_one_image_over_and_over_teaches_one_class():
    one = Rows(np.repeat(REAL_ROWS.images[:1], 50, axis=0), np.repeat(REAL_ROWS.labels[:1], 50))
    useful = found([one] * 2)
    assert useful.scores[SYNTHETIC].macro.f1.value == pytest.approx(1 / 2 / 3, abs=0.05)  # F1 of a third of all, and twice 0
    assert useful.verdict != "helps"


@pytest.mark.parametrize(("epochs", "taken"), [(1, 20), (200, 1000)])
def test_every_training_takes_as_many_steps_and_all_real_images(epochs, taken, monkeypatch):
    seen = []

    def fit(images, labels, classes, seed, epochs, batch_size, weights=None):
        seen.append((len(images), epochs * (len(images) // batch_size), seed, weights))
        return trained

    trained = Classifier.fit(REAL_ROWS.images, REAL_ROWS.labels, 3, seed=0, epochs=1)
    monkeypatch.setattr(usefulness_images.Classifier, "fit", fit)
    found([bars((21, 21, 23), 2)] * 2, [bars((0, 0, 189), 3)] * 2, seed=5, epochs=epochs)
    sizes, steps, seeds, weights = zip(*seen, strict=True)
    assert set(steps) == {taken}
    assert sizes == (189, 189, 65, 65, 378, 378, 189, 189, 378, 378)
    assert seeds == (5, 6) * 5
    np.testing.assert_allclose(weights[6], [189 / 3 / 90, 189 / 3 / 90, 189 / 3 / 9])
    assert all(of_class is None for of_class in (*weights[:6], *weights[8:]))


def test_images_without_a_class_are_left_out_and_no_images_teach_nothing():
    unknown = Rows(HELD.images[:40], np.full(40, -1))
    none = Rows(HELD.images[:0], HELD.labels[:0])
    useful = found([unknown, none], real=REAL_ROWS.plus(unknown), held=HELD.plus(unknown))
    assert useful.held == dict.fromkeys(CLASSES, 200)
    assert useful.scores[SYNTHETIC].macro.f1.value == 0
    assert useful.scores[AUGMENTED].macro.lift.value == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_transformed_images_are_of_the_classes_that_are_asked_for(channels):
    real = bars((5, 0, 2), 0, channels)
    made = transformed(real, np.array([2, 1, 0, 0, 0, 0, 0, 2]), seed=0)
    assert made.labels.tolist() == [2, 0, 0, 0, 0, 0, 2]  # there is no real image of 1
    assert made.images.shape == (7, channels, 8, 8)
    gaps = np.abs(made.images[:, None].astype(int) - real.images).mean(axis=(2, 3, 4))
    assert (real.labels[gaps.argmin(axis=1)] == made.labels).all()
    assert len({int(nearest) for nearest in gaps[1:6].argmin(axis=1)}) == 5  # each of the five once
    assert (gaps.min(axis=1) > 0).all()


def test_transformed_images_follow_the_seed():
    first, again, other = (transformed(REAL_ROWS, np.full(600, 1), seed).images for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_without_kornia_the_transforms_are_untried(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    useful = found([REAL_ROWS] * 2)
    assert TRANSFORMS not in useful.scores
    assert "raygen[transforms]" in useful.untried[TRANSFORMS]


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: found([REAL_ROWS]), "there are 1 synthetic and 1 added sets"),
        (lambda: found([REAL_ROWS] * 2, [REAL_ROWS] * 3), "there are 2 synthetic and 3 added sets"),
        (lambda: found([REAL_ROWS] * 2, real=bars((9, 0, 0), 0)), "the real images have fewer than 2 classes"),
        (lambda: found([Rows(REAL_ROWS.images / 255, REAL_ROWS.labels)] * 2), "images are float64"),
        (lambda: found([REAL_ROWS] * 2, held=Rows(HELD.images[:0], HELD.labels[:0])), "0 held-out rows have a class"),
    ],
)
def test_what_has_no_answer_is_refused(call, what):
    with pytest.raises(DataError, match=what):
        call()


def test_without_scipy_it_is_told_before_anything_is_trained(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    monkeypatch.setattr(usefulness_images, "Classifier", None)
    with pytest.raises(RaygenError, match=r"raygen\[quality\]"):
        found([REAL_ROWS] * 2)
