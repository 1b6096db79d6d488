"""Whether a training works, looked at while it goes on: are its losses sound, do fixed probes differ from each other, and
how near are generated rows to held-out ones?"""

import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raygen.datasets.codec import Batch, Codec
from raygen.datasets.storage import Folder
from raygen.generators import noise
from raygen.generators.base import TILE, Sampler
from raygen.jobs.evaluate import HIGHER
from raygen.metrics import fidelity
from raygen.metrics.features import Classifier, Features, Pixels
from raygen.spec import TrainSpec

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


@dataclass
class Probes:
    """Rows made of the same noise and for the same classes every time, and real rows of those classes.

    Attributes:
        real: uint8 ``(n, channels, height, width)``.
        classes: ``(n,)``, or None.
    """

    real: np.ndarray
    classes: np.ndarray | None
    seed: int

    def made(self, sampler: Sampler) -> np.ndarray:
        return generated(sampler, self.classes, len(self.real), self.seed)

    def diversity(self, made: np.ndarray) -> float:
        """The mean distance between two rows of a class, in pixels, relative to that of real rows: near 0 when all rows of
        a class look the same, which is what a GAN does when it collapses."""
        real = _spread(self.real, self.classes)
        return _spread(made, self.classes) / real if real else math.nan


def _spread(images: np.ndarray, classes: np.ndarray | None) -> float:
    flat = images.reshape(len(images), -1).astype(np.float64)
    squares = (flat**2).sum(1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * flat @ flat.T, 0))
    pairs = ~np.eye(len(images), dtype=bool)
    if classes is not None:
        pairs &= classes[:, None] == classes
    return float(distances[pairs].mean()) if pairs.any() else 0.0


def generated(sampler: Sampler, classes: np.ndarray | None, count: int, seed: int) -> np.ndarray:
    """Rows of a sampler in training, uint8; it is left in the mode that it was in."""
    device = next(iter([*sampler.parameters(), *sampler.buffers()])).device
    training = sampler.training
    sampler.eval()
    made = []
    with torch.inference_mode():
        for first in range(0, count, TILE):
            rows = range(first, min(first + TILE, count))
            z = torch.from_numpy(noise.normals(seed, "watch", rows, sampler.noise)).to(device)
            of = None if classes is None else torch.tensor(classes[first : rows.stop], device=device)
            made.append(sampler(z, of).float().add(1).mul(127.5).round().clamp(0, 255).byte().cpu().numpy())
    sampler.train(training)
    return np.concatenate(made)


@dataclass
class Judge:
    """Compares generated rows with held-out ones."""

    features: Features
    held: np.ndarray
    classes: np.ndarray | None
    seed: int

    def __post_init__(self) -> None:
        self.reference = self.features(self.held)

    @classmethod
    def of(cls, options: TrainSpec, rows: Mapping[str, Batch], codec: Codec, condition: str | None) -> "Judge":
        """On ``held`` rows, by features of a classifier that learns from ``training`` rows, or of pixels where they have
        no two classes."""
        image = codec.image[0]
        images, classes = rows["training"][image], rows["training"].get(condition or "")
        held, given = rows["held"][image], rows["held"].get(condition or "")
        known = slice(None) if given is None else given >= 0
        features: Features
        if condition is not None and classes is not None and len(np.unique(classes)) > 1:
            features = Classifier.fit(images, classes, len(codec.categories[condition].values), options.seed)
        else:
            features = Pixels.fit(images)
        return cls(features, held[known], None if given is None else given[known], options.seed)

    def scores(self, sampler: Sampler) -> dict[str, float]:
        made = generated(sampler, self.classes, len(self.held), self.seed)
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

            self.writer = SummaryWriter(str(self.place), purge_step=step)  # what a lost attempt wrote after is not shown
        for name, value in {**row, **found}.items():
            if name not in ("epoch", "step"):
                self.writer.add_scalar(name, value, step)
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
