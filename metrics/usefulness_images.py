"""What a small network learns from synthetic images, beside real ones, class weights and classical transforms."""

import importlib.util
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from raygen.errors import DataError
from raygen.generators.transforms import TransformSampler
from raygen.metrics import usefulness
from raygen.metrics.features import CHUNK, LEAST_STEPS, Classifier, Images, Labels
from raygen.metrics.fidelity import Array, Floats
from raygen.metrics.usefulness import AUGMENTED, CLASS_WEIGHTS, NOTHING, REAL, SYNTHETIC, TRANSFORMS, Usefulness
from raygen.options import TransformsSpec

BATCH = 64


class Rows(NamedTuple):
    """Images uint8 ``(n, channels, height, width)`` and their classes, integers ``(n,)``; less than 0 for none."""

    images: Images
    labels: Labels

    def labelled(self) -> "Rows":
        return Rows(self.images[self.labels >= 0], self.labels[self.labels >= 0])

    def plus(self, other: "Rows") -> "Rows":
        return Rows(np.concatenate([self.images, other.images]), np.concatenate([self.labels, other.labels]))


def image_usefulness(
    real: Rows,
    held: Rows,
    synthetic: Sequence[Rows],
    added: Sequence[Rows],
    classes: Sequence[str],
    seed: int,
    epochs: int = 6,
) -> Usefulness:
    """What `features.Classifier`'s network scores on real held-out images; it moves all images by 2 pixels itself.

    Every training takes about as many steps, those of ``epochs`` passes over the largest set or `LEAST_STEPS`, so that more
    images are no longer training. All real images are learned from every time: a part of them would leave it to the
    synthetic ones to tell of the rest, which the generator has seen. The transforms are those of the generator family of
    this name with its defaults, and make as many images of each class as were added.

    Args:
        real: what the generator learned from.
        held: images of the same source that it did not.
        synthetic: images to learn from alone, best as many as the real ones and distributed like them: for each seed other
            ones; at least 2 sets.
        added: images to learn from beside the real ones, such as a job would write: for each seed other ones.
        classes: what the classes are called, in the order of the labels; at least 2.
        seed: the first of ``len(added)`` seeds.
        epochs: passes over the largest set, for enough steps where it is small.

    Raises:
        DataError: images or labels are not what `features.Classifier.fit` takes, the real images have fewer than 2 classes,
            fewer than 2 held-out images have one, or there are not as many synthetic as added sets, at least 2.
        RaygenError: scipy is not installed.
    """
    if len(synthetic) != len(added) or len(added) < 2:
        raise DataError(
            f"there are {len(synthetic)} synthetic and {len(added)} added sets",
            "give one of each for each of 2 seeds or more",
        )
    real, tested = real.labelled(), held.labelled()
    usefulness.check_ready(tested.labels)
    if len(np.unique(real.labels)) < 2:
        raise DataError("the real images have fewer than 2 classes", "name another label, or give more rows")
    alone, beside = ([rows.labelled() for rows in sets] for sets in (synthetic, added))
    most = max(*(len(real.labels) + len(rows.labels) for rows in beside), *(len(rows.labels) for rows in alone))
    steps = max(LEAST_STEPS, epochs * (most // BATCH))
    seeds = range(seed, seed + len(added))

    def predict(rows: Rows, seed: int, weights: Floats | None = None) -> Labels:
        if len(rows.labels) < 2:
            return np.full(len(tested.labels), NOTHING)
        passes = max(1, round(steps / max(1, len(rows.labels) // BATCH)))
        network = Classifier.fit(rows.images, rows.labels, len(classes), seed, passes, BATCH, weights=weights)
        return np.asarray(network.probabilities(tested.images).argmax(axis=1))

    balanced = _balanced(real.labels, len(classes))
    predicted = {
        REAL: np.stack([predict(real, seed) for seed in seeds]),
        SYNTHETIC: np.stack([predict(rows, seed) for rows, seed in zip(alone, seeds, strict=True)]),
        AUGMENTED: np.stack([predict(real.plus(rows), seed) for rows, seed in zip(beside, seeds, strict=True)]),
        CLASS_WEIGHTS: np.stack([predict(real, seed, balanced) for seed in seeds]),
    }
    untried = {}
    if importlib.util.find_spec("kornia") is None:
        untried[TRANSFORMS] = "kornia is not installed: pip install 'raygen[transforms]'"
    else:
        made = [transformed(real, rows.labels, seed) for rows, seed in zip(beside, seeds, strict=True)]
        predicted[TRANSFORMS] = np.stack([predict(real.plus(rows), seed) for rows, seed in zip(made, seeds, strict=True)])
    return usefulness.judge(tested.labels, predicted, classes, untried)


def image_trial(learned: Array, labels: Labels, held: Array) -> Labels:
    """What a support vector machine predicts of held-out images once it has learnt from others: a hundred times as fast as
    a network, and as good where there are a thousand images of digits.

    Args:
        learned: features of the images to learn from, ``(m, d)``.
        labels: of those, integers ``(m,)``; less than 0 for none.
        held: features of the held-out images, ``(n, d)``.

    Returns:
        The class of each held-out image, ``(n,)``.

    Raises:
        RaygenError: scikit-learn is not installed.
    """
    try:
        from sklearn.svm import SVC
    except ImportError:
        raise usefulness.needs_extra("scikit-learn") from None
    learned, labels = learned[labels >= 0], labels[labels >= 0]
    if len(np.unique(labels)) < 2:
        return np.full(len(held), labels[0] if len(labels) else NOTHING)
    return np.asarray(SVC(C=10.0).fit(learned, labels).predict(held))


def transformed(real: Rows, labels: Labels, seed: int) -> Rows:
    """Real images, turned, moved, scaled, brightened and darkened by chance: one of the class of each label.

    Every image of a class is taken once before one is taken again. Labels that no real image has are left out.

    Args:
        real: to be transformed.
        labels: of the images to make, ``(n,)``.
        seed: decides which images, and what becomes of them.
    """
    generator = np.random.default_rng(seed)
    labels = labels[np.isin(labels, real.labels)]
    chosen = np.empty(len(labels), dtype=np.int64)
    for index in np.unique(labels):
        asked, pool = labels == index, generator.permutation(np.flatnonzero(real.labels == index))
        chosen[asked] = np.resize(pool, asked.sum())
    _, channels, height, width = real.images.shape
    sampler = TransformSampler(TransformsSpec(), (channels, height, width))
    noise = torch.from_numpy(generator.standard_normal((len(labels), sampler.noise)))
    images = np.empty((len(labels), channels, height, width), dtype=np.uint8)
    for start in range(0, len(labels), CHUNK):
        part = slice(start, start + CHUNK)
        varied = sampler.vary(torch.from_numpy(real.images[chosen[part]]) / 127.5 - 1, noise[part], None, 1.0)
        images[part] = ((varied + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    return Rows(images, labels)


def _balanced(labels: Labels, classes: int) -> Floats:
    """Weights that let every class there is count alike: ``(classes,)``, 1 on average over the images."""
    counts = np.bincount(labels, minlength=classes)
    return np.where(counts > 0, len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1)), 0.0)
