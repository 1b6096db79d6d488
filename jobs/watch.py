"""Whether a training works, looked at while it goes on: are its losses sound, do fixed probes differ from each other, and
how near are generated rows to held-out ones?"""

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from raygen.datasets.codec import CELLS, Batch, Codec
from raygen.datasets.storage import Folder
from raygen.generators.base import Sampler
from raygen.generators.generator import Generator, classes_of
from raygen.jobs.figures import HIGHER
from raygen.metrics import fidelity, tables
from raygen.metrics.features import Classifier, Features, Pixels
from raygen.options import GeneratorSpec

EXPLODED = 100.0
"""Times what a loss was at first."""
COLLAPSED = 0.1
"""Of the diversity of real rows."""
PROBES = 64


def unsound(losses: Mapping[str, float], first: Mapping[str, float]) -> str:
    """What is wrong with losses, given what they were at first; nothing where they are sound. To fall is no mistake."""
    for name, value in losses.items():
        if not math.isfinite(value):
            return f"{name} is {value}"
        if value > EXPLODED * max(1.0, abs(first.get(name, math.inf))):
            return f"{name} is {value:.3g}, and was {first[name]:.3g} at first"
    return ""


@dataclass(frozen=True)
class Making:
    """How rows are made with a sampler in training: as a generator makes them, the same ones every time."""

    spec: GeneratorSpec
    codec: Codec
    seed: int

    def rows(self, sampler: Sampler, count: int, classes: np.ndarray | None) -> np.ndarray:
        """So many rows, encoded; the sampler is left in the mode that it was in."""
        training = sampler.training
        sampler.eval()
        made = Generator(self.spec, self.codec, sampler, sampler.tile).tensors(range(count), self.seed, classes)
        sampler.train(training)
        return self.encoded(made)

    def encoded(self, batch: Batch) -> np.ndarray:
        """Of a batch: images uint8 ``(n, channels, height, width)``, or cells float64 ``(n, columns)``."""
        return batch[CELLS if self.codec.is_table else self.codec.image[0]]

    def classes(self, batch: Batch) -> np.ndarray | None:
        """Of a batch: int64 ``(n,)``, or None where the generator has no condition."""
        return classes_of(batch, self.spec, self.codec)


@dataclass
class Probes:
    """Rows made of the same noise and for the same classes every time, and real rows of those classes.

    Attributes:
        real: encoded.
        classes: ``(n,)``, or None.
    """

    make: Making
    real: np.ndarray
    classes: np.ndarray | None

    @classmethod
    def of(cls, make: Making, rows: Batch) -> "Probes":
        return cls(make, make.encoded(rows), make.classes(rows))

    def made(self, sampler: Sampler) -> np.ndarray:
        return self.make.rows(sampler, len(self.real), self.classes)

    def diversity(self, made: np.ndarray) -> float:
        """How much two rows of a class differ on average, relative to real rows: near 0 when all rows of a class look the
        same, which is what a GAN does when it collapses. Images by their distance in pixels, rows of a table by the share
        of columns that are not in the same bin."""
        real = _spread(self.real, self.classes)
        return _spread(made, self.classes) / real if real else math.nan


def _spread(rows: np.ndarray, classes: np.ndarray | None) -> float:
    if rows.dtype == np.uint8:
        flat = rows.reshape(len(rows), -1).astype(np.float64)
        squares = (flat**2).sum(1)
        distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * flat @ flat.T, 0))
    else:
        tokens = np.floor(rows)
        distances = (tokens[:, None] != tokens).mean(2)
    pairs = ~np.eye(len(rows), dtype=bool)
    if classes is not None:
        pairs &= classes[:, None] == classes
    return float(distances[pairs].mean()) if pairs.any() else 0.0


class Judge(Protocol):
    """Compares generated rows with held-out ones."""

    def scores(self, sampler: Sampler) -> dict[str, float]:
        """By metric."""


def judge(make: Making, rows: Mapping[str, Batch]) -> Judge:
    """Compares with ``held`` rows; images by what is learnt from ``training`` rows."""
    if make.codec.is_table:
        return JudgeOfTables(make, make.encoded(rows["held"]), make.classes(rows["held"]))
    return JudgeOfImages.of(make, rows)


@dataclass
class JudgeOfTables:
    """By the metrics of tables. The held-out rows are as precise as the codec is."""

    make: Making
    held: np.ndarray
    classes: np.ndarray | None

    def __post_init__(self) -> None:
        fields = self.make.codec.fields
        self.codec = self.make.codec.select(self.make.codec.cells)
        self.kinds = {name: fields[name].kind for name in self.codec.fields}
        self.real = self.codec.decode({CELLS: self.held})

    def scores(self, sampler: Sampler) -> dict[str, float]:
        made = self.make.rows(sampler, len(self.held), self.classes)
        found = tables.quality(self.real, self.codec.decode({CELLS: made}), self.kinds)
        return {"quality": found.overall}


@dataclass
class JudgeOfImages:
    """By features of a classifier that learns from real rows, or of pixels where they have no two classes."""

    make: Making
    features: Features
    held: np.ndarray
    classes: np.ndarray | None

    def __post_init__(self) -> None:
        self.reference = self.features(self.held)

    @classmethod
    def of(cls, make: Making, rows: Mapping[str, Batch]) -> "JudgeOfImages":
        (images, classes), (held, given) = ((make.encoded(rows[n]), make.classes(rows[n])) for n in ("training", "held"))
        known = slice(None) if given is None else given >= 0
        features: Features
        if classes is not None and len(np.unique(classes)) > 1:
            count = len(make.codec.categories[str(make.spec.condition)].values)
            features = Classifier.fit(images, classes, count, make.seed)
        else:
            features = Pixels.fit(images)
        return cls(make, features, held[known], None if given is None else given[known])

    def scores(self, sampler: Sampler) -> dict[str, float]:
        made = self.make.rows(sampler, len(self.held), self.classes)
        found = {"frechet_distance": fidelity.frechet_distance(self.reference, self.features(made))}
        if isinstance(self.features, Classifier) and self.classes is not None:
            found["label_agreement"] = fidelity.label_agreement(self.features.probabilities(made), self.classes)
        return found


@dataclass
class Best:
    """The best generator so far by a metric, and how many evaluations in a row have found no better one."""

    value: float
    epoch: int
    weights: dict[str, Tensor]
    since: int = 0

    def beaten(self, metric: str, value: float) -> bool:
        return value > self.value if metric in HIGHER else value < self.value


class Notes:
    """What is noted of a training beside its losses: in ``metrics.jsonl``, and for TensorBoard.

    Args:
        judge: made when it is first asked for, since its classifier has to be trained.
        some: of the training rows, for families that have to see some before rows of theirs can be looked at.
    """

    def __init__(self, probes: Probes, judge: Callable[[], Judge], run: Folder, some: Sequence[Batch] = ()) -> None:
        self.probes, self.run, self.some = probes, run / "tensorboard", some
        self.judge = cache(judge)
        self.place = self.run.local or Path(tempfile.mkdtemp())
        self.writer: Any = None

    def look(self, sampler: Sampler, step: int, row: Mapping[str, Any]) -> dict[str, float]:
        """How diverse the probes are, where real rows are; they and the row become curves and pictures."""
        made = self.probes.made(sampler)
        diversity = self.probes.diversity(made)
        found = {"diversity": round(diversity, 6)} if math.isfinite(diversity) else {}
        if self.writer is None:
            from tensorboardX import SummaryWriter

            suffix = f".{os.getpid()}"  # two that begin within a second would write to one file
            # What a lost attempt wrote after this step is not shown.
            self.writer = SummaryWriter(str(self.place), purge_step=step, filename_suffix=suffix)
        for name, value in {**row, **found}.items():
            if name not in ("epoch", "step"):
                self.writer.add_scalar(name, value, step)
        if made.dtype == np.uint8:
            self.writer.add_images("probes", made, step)
        self.writer.flush()
        return found

    def scores(self, sampler: Sampler) -> dict[str, float]:
        """How near generated rows are to held-out ones."""
        return {name: round(value, 6) for name, value in self.judge().scores(sampler).items()}

    def publish(self) -> None:
        """Bring the curves to where the run is, where that is not this machine."""
        if self.run.local is None:
            for file in self.place.iterdir():
                self.run.write(file.name, file.read_bytes())

    def close(self) -> None:
        """There is no more to note."""
        if self.writer is not None:
            self.writer.close()
        if self.run.local is None:
            shutil.rmtree(self.place, ignore_errors=True)
