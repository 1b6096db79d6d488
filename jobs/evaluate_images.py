"""What ``evaluate`` says of images: figures on features of them, and pictures to look at."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from raygen.datasets import stream
from raygen.datasets.codec import Batch, Codec
from raygen.errors import DataError, RaygenError, SpecError
from raygen.generators.generator import SAMPLES, Generator
from raygen.jobs import evaluate_usefulness, progress
from raygen.jobs.figures import metric, missing, number
from raygen.jobs.project import Project
from raygen.metrics import fidelity, pretrained, privacy_images, usefulness_images
from raygen.metrics.features import SIDE, Classifier, Features, Pixels, Thumbnails, shrunk
from raygen.metrics.kernel import kernel_distance
from raygen.metrics.usefulness import Usefulness, halves
from raygen.spec import ImageField, Spec

AGREEMENT_ROWS = 2000
PER_CLASS = 10
MOST_CLASSES = 20  # that pictures are shown of
NEIGHBOURS = 8
LIKELIHOOD_ROWS = 1000
PRIVACY_ROWS = 50_000  # training rows that others are compared with, at most; and held-out rows
TAUGHT = 2000  # real images of 28 x 28 pixels that downstream models learn from, at most; and as many synthetic ones
LEAST_TAUGHT = 500  # of any size
EPOCHS = 2  # of downstream models, if that is more than the least number of steps
TESTED = 10_000  # held-out images that those are tested on, at most
LEARNT_HERE = ("auto", "classifier", "pixels")
ON_FEATURES = ("frechet_distance", "kernel_distance", *fidelity.Manifold._fields)


class Rows(NamedTuple):
    """Images uint8 ``(n, channels, height, width)`` and class indices ``(n,)``, where there are any."""

    images: np.ndarray
    classes: np.ndarray | None

    def take(self, rows: np.ndarray | slice) -> "Rows":
        return Rows(self.images[rows], None if self.classes is None else self.classes[rows])


def compare(
    project: Project, generator: Generator, strength: float | None, decided: Sequence[int] | None = None
) -> dict[str, Any]:
    """The figures of a generator's images, and pictures of them beside the report.

    Args:
        strength: how far the variants go that are to be written; None where those are new rows.
        decided: how many rows of each class are to be written, where ``allocate`` has decided it.

    Returns:
        What the report says of them: ``metrics``, ``usefulness``, ``by_class``, ``features``, ``rows``.
    """
    spec = project.spec
    codec = stream.fit(project.source, spec.dataset)
    label = spec.generator.condition or next(iter(codec.categories), None)
    sides = stream.load(project.source, codec, spec.dataset.holdout)
    training, held = (_rows(batch, codec, label) for batch in sides)
    seed = spec.train.seed
    classifier, because = _classifier(training, codec, label, seed)
    features = _features(spec.evaluate.features, training, classifier, because)
    if strength is None:
        made = generator.tensors(range(AGREEMENT_ROWS), seed, generator.classes(range(AGREEMENT_ROWS), seed))
        synthetic = _rows(made, codec, spec.generator.condition)
    else:
        chosen = np.random.default_rng(seed).permutation(len(training.images))
        synthetic = variants(generator, training.take(chosen[:AGREEMENT_ROWS]), AGREEMENT_ROWS, seed, strength)

    with progress.bar("evaluate", 3, "steps") as shown:
        metrics = _distribution(features, classifier, synthetic, held, seed) + _privacy(synthetic, training, held, seed)
        shown.update(1)
        by_class: list[dict[str, Any]] = []
        if classifier is not None:
            assert label is not None
            values = [str(value) for value in codec.categories[label].values]
            agreement, by_class = _agreement(classifier, synthetic, held, values, strength is not None)
            metrics = [agreement, *metrics]
        else:
            metrics = [missing(name, because) for name in ("label_agreement", "classifier_score")] + metrics
        if generator.sampler.has_likelihood:
            metrics = [*metrics, _likelihood(generator, held, seed, strength)]
        shown.update(2)
        _pictures(project, generator, training, codec, seed, strength)
        shown.update(3)
    taught, usefulness = useful(spec, generator, codec, sides, strength, seed, decided)
    metrics += taught
    rows = {
        "training": len(training.images),
        "held_out": len(held.images),
        "compared": min(len(held.images) // 2, AGREEMENT_ROWS),
        "label_agreement": AGREEMENT_ROWS,
        "neighbours": min(len(training.images), PRIVACY_ROWS),
    }
    return {"features": features.name, "rows": rows, "metrics": metrics, "usefulness": usefulness, "by_class": by_class}


def variants(generator: Generator, real: Rows, count: int, seed: int, strength: float) -> Rows:
    """Variants of rows, with their labels: the first of each row, then the second of each, until there are ``count``."""
    classes = None if generator.spec.condition is None else real.classes
    turns = range(1, 1 + -(-count // len(real.images)))
    n = range(len(real.images))
    made = [generator.variants(real.images, n, seed, classes, turn, strength) for turn in turns]
    return real.take(np.arange(count) % len(n))._replace(images=np.concatenate(made)[:count])


def _rows(batch: Batch, codec: Codec, label: str | None) -> Rows:
    return Rows(batch[codec.image[0]], None if label is None else batch[label])


def require(spec: Spec) -> None:
    """Fail now, rather than after the training, where the features cannot be had of such images.

    Raises:
        RaygenError: a package or a file is missing, or the network in it will not do.
    """
    for field in spec.dataset.fields.values():
        if isinstance(field, ImageField) and spec.evaluate.features not in LEARNT_HERE:
            pretrained.load(spec.evaluate.features).require(field.channels, field.height, field.width)


def _classifier(training: Rows, codec: Codec, label: str | None, seed: int) -> tuple[Classifier | None, str]:
    """A classifier trained on the real training rows, or why it cannot be."""
    if label is None or training.classes is None:
        return None, "the data has no category column to train a classifier on"
    if len(np.unique(training.classes)) < 2:
        return None, f"the training rows have one value of {label!r} only"
    with progress.bar("classifier", 1, "epochs") as shown:

        def tell(done: int, total: int) -> None:
            shown.total = total
            shown.update(done)

        classes = len(codec.categories[label].values)
        return Classifier.fit(training.images, training.classes, classes, seed, progress=tell), ""


def _features(name: str, training: Rows, classifier: Classifier | None, because: str) -> Features:
    """Those that ``evaluate.features`` names; ``because`` says why there is no classifier, where there is none."""
    if name not in LEARNT_HERE:
        return pretrained.load(name).require(*training.images.shape[1:])
    if name == "classifier" and classifier is None:
        raise SpecError(f"evaluate.features is 'classifier', but {because}", "choose pixels, or auto")
    return Pixels.fit(training.images) if name == "pixels" or classifier is None else classifier


def _distribution(
    features: Features, classifier: Classifier | None, synthetic: Rows, held: Rows, seed: int
) -> list[dict[str, Any]]:
    """Metrics of one set of rows against another: synthetic against half of the held-out rows, beside its other half."""
    order = np.random.default_rng(seed).permutation(len(held.images))
    n = min(len(order) // 2, len(synthetic.images))
    if n == 0:
        because = f"{len(held.images)} rows are held out, too few to compare with"
        return [missing(name, because) for name in (*ON_FEATURES, *["classifier_score"] * (classifier is not None))]
    halves = held.images[order[:n]], held.images[order[n : 2 * n]]
    scored: list[dict[str, Any]] = []

    def score(names: Sequence[str], statistics: Callable[[np.ndarray, np.ndarray], Sequence[float]]) -> None:
        try:
            found, best = (statistics(reference, rows) for rows in (candidate, ceiling))
            intervals = fidelity.subset_intervals(statistics, reference, candidate, seed=seed)
        except RaygenError as error:
            scored.extend(missing(name, error.what) for name in names)
        else:
            told = zip(names, found, best, intervals, strict=True)
            scored.extend(metric(*figures, features.name, n) for figures in told)

    try:
        reference, ceiling, candidate = (features(images) for images in (*halves, synthetic.images[:n]))
    except DataError as error:  # some are not finite: no figure rather than a wrong one
        scored = [missing(name, error.what) for name in ON_FEATURES]
    else:
        score(["frechet_distance"], lambda real, rows: [fidelity.frechet_distance(real, rows)])
        try:
            found, best = (kernel_distance(reference, rows) for rows in (candidate, ceiling))
            scored.append(metric("kernel_distance", found.value, best.value, found.interval, features.name, n))
        except RaygenError as error:
            scored.append(missing("kernel_distance", error.what))
        score(fidelity.Manifold._fields, fidelity.precision_recall_density_coverage)
    if classifier is not None:
        made, real = (classifier.probabilities(images) for images in (synthetic.images[:n], halves[1]))
        try:
            interval = fidelity.bootstrap_interval(fidelity.classifier_score, made, seed=seed, resamples=50)
            of_made, of_real = map(fidelity.classifier_score, (made, real))
            scored.append(metric("classifier_score", of_made, of_real, interval, classifier.name, n))
        except RaygenError as error:
            scored.append(missing("classifier_score", error.what))
    return scored


def _privacy(synthetic: Rows, training: Rows, held: Rows, seed: int) -> list[dict[str, Any]]:
    """Whether synthetic images are nearer to training images than held-out ones are."""
    names = ("identical_share", "membership_auc", "closer_share", "close_share", "close_ratio")
    if not len(held.images):
        return [missing(name, "no rows are held out") for name in names]
    n = len(synthetic.images)
    copies, by_chance = (privacy_images.identical_share(part.images, training.images) for part in (synthetic, held))
    found = [metric("identical_share", copies.value, by_chance.value, copies.interval, "pixels", n)]
    try:
        thumbnails, random = Thumbnails(), np.random.default_rng(seed)
        few = [part.images[random.permutation(len(part.images))[:PRIVACY_ROWS]] for part in (training, held)]
        made, learned, others = (thumbnails(images) for images in (synthetic.images, *few))
        estimates = [
            privacy_images.membership_auc(made, learned, others, seed),
            privacy_images.closer_share(made, learned, others, seed),
            *privacy_images.closeness(made, learned, others, seed),
        ]
    except RaygenError as error:
        return found + [missing(name, error.what) for name in names[1:]]
    # What these are where nothing is given away, as by real rows that the generator never saw.
    fair = (0.5, 0.5, privacy_images.CLOSE, privacy_images.CLOSE)
    return found + [
        metric(name, estimate.value, ceiling, estimate.interval, thumbnails.name, n)
        for name, estimate, ceiling in zip(names[1:], estimates, fair, strict=True)
    ]


def useful(
    spec: Spec,
    generator: Generator,
    codec: Codec,
    sides: Sequence[Batch],
    strength: float | None,
    seed: int,
    decided: Sequence[int] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """What is learned from a generator's images: see ``evaluate_usefulness.measure``.

    Args:
        sides: training rows, and held-out rows.
        seed: the first of those that decide what is made and how it is learned.
        decided: how many rows of each class are added, where ``allocate`` has decided it.
    """

    def prepare(target: str) -> Trial:
        training, held = (_rows(batch, codec, target) for batch in sides)
        if spec.allocates:
            held = held.take(halves(np.asarray(held.classes).tolist(), spec.train.seed)[1])
        return _trial(generator, codec, training, held, strength, seed, target, decided)

    return evaluate_usefulness.measure(spec, prepare, seed)


def deciding(project: Project, generator: Generator, target: str) -> "Trial":
    """What ``allocate`` decides by: on the half of the held-out rows that usefulness is not tested on."""
    spec = project.spec
    codec = stream.fit(project.source, spec.dataset)
    training, held = (_rows(side, codec, target) for side in stream.load(project.source, codec, spec.dataset.holdout))
    held = held.take(halves(np.asarray(held.classes).tolist(), spec.train.seed)[0])
    return _trial(generator, codec, training, held, None, spec.train.seed, target)


def _trial(
    generator: Generator,
    codec: Codec,
    training: Rows,
    held: Rows,
    strength: float | None,
    seed: int,
    target: str,
    decided: Sequence[int] | None = None,
) -> "Trial":
    _, size = codec.image
    cost = min(size.height, SIDE) * min(size.width, SIDE) / (28 * 28)
    most = max(LEAST_TAUGHT, round(TAUGHT / max(1.0, cost)))
    random = np.random.default_rng(seed)
    real, tested = (part.take(random.permutation(len(part.images))[:n]) for part, n in ((training, most), (held, TESTED)))
    if strength is None:  # else they are varied as they are
        real = _small(real)
    values = [str(value) for value in codec.categories[target].values]
    return Trial(generator, target, values, real, _small(tested), len(training.images), most, strength, decided)


@dataclass(frozen=True)
class Trial:
    """Images that a small network learns to tell classes of: see ``evaluate_usefulness``.

    It looks at small images only, so that no others are kept: but for real ones that are to be varied.
    """

    generator: Generator
    target: str
    values: Sequence[str]
    real: Rows
    held: Rows
    whole: int
    most: int
    strength: float | None
    decided: Sequence[int] | None = None
    others: int = 0

    @property
    def varies(self) -> bool:
        return self.strength is not None

    @property
    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(self.real.classes), np.asarray(self.held.classes)

    @property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        return self.labels

    @cached_property
    def seen(self) -> tuple[Pixels, np.ndarray, np.ndarray]:
        """What quick models see of an image, and that of the real ones and of the held-out ones that have a label."""
        images = shrunk(self.real.images)
        pixels = Pixels.fit(images)
        return pixels, pixels(images), pixels(_taught(self.held).labelled().images)

    def candidates(self, rows: range, seed: int, classes: np.ndarray) -> Batch:
        made, image = self.generator.tensors(rows, seed, classes), self.generator.codec.image[0]
        return {**made, image: shrunk(made[image])}

    def told(self, added: Batch | None) -> np.ndarray:
        pixels, learned, tested = self.seen
        labels, _ = self.labels
        if added is not None:
            more = _rows(added, self.generator.codec, self.target)
            learned, labels = np.concatenate([learned, pixels(more.images)]), np.concatenate([labels, _taught(more).labels])
        return usefulness_images.image_trial(learned, labels, tested)

    def make(self, rows: range, seed: int, classes: np.ndarray | None, asked: bool) -> usefulness_images.Rows:
        if self.strength is None:
            made = _rows(self.generator.tensors(rows, seed, classes), self.generator.codec, self.target)
        else:
            made = variants(self.generator, self.real, len(rows), seed, self.strength)
        return _taught(_small(made))

    def judge(self, synthetic: Sequence[Any], added: Sequence[Any], seed: int) -> Usefulness:
        real, held = _taught(_small(self.real)), _taught(self.held)
        return usefulness_images.image_usefulness(real, held, synthetic, added, self.values, seed, EPOCHS)


def _small(rows: Rows) -> Rows:
    return rows._replace(images=shrunk(rows.images))


def _taught(rows: Rows) -> usefulness_images.Rows:
    return usefulness_images.Rows(rows.images, np.asarray(rows.classes))


def _agreement(
    classifier: Classifier, synthetic: Rows, held: Rows, values: list[str], varies: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Label agreement, over all rows and by class; its ceiling is the classifier's accuracy on held-out real rows.

    Variants have none: they are of the very rows that the classifier has learnt, and held-out rows are not.
    """
    if synthetic.classes is None:
        return missing("label_agreement", "the generator has no condition, so its rows have no label"), []
    if held.classes is None or not len(held.images):
        return missing("label_agreement", "no rows are held out"), []
    known = held.take(held.classes >= 0)
    made, real = classifier.probabilities(synthetic.images), classifier.probabilities(known.images)
    share, n = fidelity.label_agreement(made, synthetic.classes), len(made)
    interval = fidelity.wilson_interval(round(share * n), n)
    ceiling = None if varies else fidelity.label_agreement(real, np.asarray(known.classes))
    of_made = fidelity.label_agreement_by_class(made, synthetic.classes, len(values))
    of_real = fidelity.label_agreement_by_class(real, np.asarray(known.classes), len(values))
    by_class = [
        {"class": value, "label_agreement": number(a), "ceiling": None if varies else number(b)}
        for value, a, b in zip(values, of_made, of_real, strict=True)
    ]
    return metric("label_agreement", share, ceiling, interval, classifier.name, n), by_class


def _likelihood(generator: Generator, held: Rows, seed: int, strength: float | None) -> dict[str, Any]:
    """Nats that held-out rows cost on average. Real data has no such figure of its own, so there is no ceiling."""
    name = "negative_log_likelihood"
    if strength is not None:
        return missing(name, "it says how likely new rows are, and these are variants")
    known = held if generator.spec.condition is None or held.classes is None else held.take(held.classes >= 0)
    shown = known.take(np.random.default_rng(seed).permutation(len(known.images))[:LIKELIHOOD_ROWS])
    n = len(shown.images)
    if n == 0:
        return missing(name, "no rows are held out")
    classes = None if generator.spec.condition is None else shown.classes
    try:
        nats = -generator.log_likelihood(shown.images, range(n), seed, classes)
    except RaygenError as error:
        return missing(name, error.what)
    interval = fidelity.bootstrap_interval(lambda rows: float(rows.mean()), nats, seed=seed)
    return {**metric(name, nats.mean(), None, interval, "likelihood", n), "samples": SAMPLES}


def _pictures(
    project: Project,
    generator: Generator,
    training: Rows,
    codec: Codec,
    seed: int,
    strength: float | None,
) -> None:
    """Beside the report: real and synthetic rows by class, and synthetic rows with the training rows that look most alike.

    Where ``strength`` says that they are variants, they are shown as columns, each below the real row that it varies.
    """
    condition = generator.spec.condition
    classes = range(min(MOST_CLASSES, len(codec.categories[condition].values)) if condition else PER_CLASS)
    real, made = [], []
    for index in classes:
        if condition is None or training.classes is None:
            pool, given = np.arange(index * PER_CLASS, (index + 1) * PER_CLASS) % len(training.images), None
        else:
            pool, given = np.flatnonzero(training.classes == index), np.full(PER_CLASS, index)
        if not len(pool):
            continue  # held-out rows alone have this class
        real.append(training.images[pool[np.arange(PER_CLASS) % len(pool)]])
        if strength is None:
            rows = range(index * PER_CLASS, (index + 1) * PER_CLASS)
            made.append(generator.tensors(rows, seed, given)[codec.image[0]])
        else:
            varied = Rows(real[-1][:1], None if given is None else given[:1])
            made.append(variants(generator, varied, PER_CLASS, seed, strength).images)
    shown = np.concatenate(made)[:: max(1, len(made) * PER_CLASS // NEIGHBOURS)][:NEIGHBOURS]
    if strength is not None:
        made = list(np.stack([np.concatenate([row[:1], column]) for row, column in zip(real, made, strict=True)], axis=1))
    # By thumbnails, as privacy is: a network that has learnt elsewhere would take minutes for these few.
    thumbnails, few = Thumbnails(), np.random.default_rng(seed).permutation(len(training.images))[:PRIVACY_ROWS]
    nearest, _ = fidelity.nearest(thumbnails(shown), thumbnails(training.images[few]))
    pictures = {"real": real, "synthetic": made, "neighbours": [shown, training.images[few[nearest]]]}
    for name, rows_ in pictures.items():
        project.report.write(f"{name}.png", grid(rows_))


def grid(rows: list[np.ndarray]) -> bytes:
    """A PNG of rows of images, each uint8 ``(n, channels, height, width)`` with the same n, one pixel apart."""
    images = np.stack(rows)
    padded = np.pad(images, ((0, 0), (0, 0), (0, 0), (1, 1), (1, 1)), constant_values=128)
    across = padded.transpose(0, 3, 1, 4, 2).reshape(padded.shape[0] * padded.shape[3], -1, padded.shape[2])
    buffer = io.BytesIO()
    Image.fromarray(across[:, :, 0] if across.shape[2] == 1 else across).save(buffer, "PNG")
    return buffer.getvalue()
