"""What turns images into the vectors that fidelity, diversity and privacy are measured on.

No pretrained network is downloaded: by default features come from the real images alone, so that a metric means the same
on a machine without internet, and says something on images that look nothing like ImageNet's. Networks that have learnt
elsewhere are in pretrained.py.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from raygen.errors import DataError

Images = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.integer[Any]]

SMALLEST = 8  # pixels; two poolings leave 2 of them
SIDE = 64  # pixels a side that a classifier looks at, at most
THUMBNAIL = 16  # pixels a side where the pixels themselves are the features, at most
EPOCHS = 6
LEAST_STEPS = 150  # with fewer the network has learnt nothing yet
CHUNK = 512  # images a network sees at once when it predicts
BATCH = 64  # images of any size that are made small at once


class Features(Protocol):
    """Turns uint8 images ``(n, channels, height, width)`` into float32 vectors ``(n, d)``."""

    @property
    def name(self) -> str:
        """What reports call these features."""

    def __call__(self, images: Images) -> Floats:
        """Returns one vector per image, in the same order."""


class Classifier:
    """A small convolutional network trained on real images, and the features that it learned.

    Args:
        network: trained; prediction leaves it as it is.
        channels: channels of the images that it was trained on, 1 or 3.
    """

    name = "classifier"

    def __init__(self, network: "Network", channels: int) -> None:
        self.network = network.eval()
        self.channels = channels
        self.device = next(network.parameters()).device

    @classmethod
    def fit(
        cls,
        images: Images,
        labels: Labels,
        classes: int,
        seed: int,
        epochs: int | None = None,
        batch_size: int = 64,
        progress: Callable[[int, int], None] | None = None,
        weights: npt.ArrayLike | None = None,
    ) -> "Classifier":
        """Trains on real images only; on the GPU where there is one.

        On the CPU the same arguments give the same weights (same machine, library version and number of threads).
        The global random number generators of torch and numpy are neither read nor moved.

        Args:
            images: uint8 ``(n, channels, height, width)``; 1 or 3 channels, height and width of at least 8 pixels.
            labels: integers ``(n,)`` in ``0 … classes - 1``.
            classes: how many classes there are, at least 2.
            seed: decides the first weights, the order and the shifts.
            epochs: passes over the images; by default `EPOCHS`, and more where those are fewer than `LEAST_STEPS` steps.
            batch_size: images per step, at least 2.
            progress: called after each epoch with (epochs done, epochs).
            weights: how much an image of each class counts, ``(classes,)``, 0 or more; by default as much as any other.

        Raises:
            DataError: the images or the labels are not what is said above, or fewer than 2.
        """
        check(images, least=2)
        if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
            raise DataError(
                f"labels are {labels.dtype} {labels.shape} for {len(images)} images", "give one integer label per image"
            )
        if classes < 2 or labels.min() < 0 or labels.max() >= classes:
            raise DataError(
                f"labels run from {labels.min()} to {labels.max()} but there are {classes} classes",
                "number the classes from 0, and give at least 2 of them",
            )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # The layers draw their first weights on the CPU from torch's global generator, so that one alone is seeded and
        # put back: torch.manual_seed would also reseed every GPU.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network = Network(images.shape[1], classes)
        network.to(device)
        of_class = None if weights is None else torch.from_numpy(np.asarray(weights, dtype=np.float32)).to(device)
        if epochs is None:
            epochs = max(EPOCHS, -(-LEAST_STEPS // max(1, len(images) // batch_size)))
        _train(network, images, labels, epochs, batch_size, torch.Generator().manual_seed(seed), progress, of_class)
        return cls(network, images.shape[1])

    def __call__(self, images: Images) -> Floats:
        """Returns the activations of the last hidden layer, float32 ``(n, 64)``, not negative.

        Raises:
            DataError: not uint8 ``(n, channels, height, width)`` with the channels it was trained on, or too small.
        """
        return self._predict(images, self.network.embed)

    def probabilities(self, images: Images) -> Floats:
        """Returns the probability of each class, float32 ``(n, classes)``; every row sums to 1.

        Raises:
            DataError: as for the features.
        """
        return self._predict(images, lambda batch: self.network(batch).softmax(dim=1))

    @torch.inference_mode()
    def _predict(self, images: Images, output: Callable[[torch.Tensor], torch.Tensor]) -> Floats:
        check(images, least=1, channels=(self.channels,))
        outputs = [output(chunk.to(self.device)).cpu() for chunk in chunks(images)]
        return np.asarray(torch.cat(outputs).numpy(), dtype=np.float32)


class Network(nn.Module):
    """Two convolutions and 64 hidden units, for images of any size: uint8 images in, logits out."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(channels, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.AdaptiveMaxPool2d(4), nn.Flatten()),
            # Without the norm, a third of the hidden units never fire and the features have that many dimensions less.
            *(nn.Linear(64 * 4 * 4, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU()),
        )
        self.head = nn.Linear(64, classes)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Maps uint8 ``(batch, channels, height, width)`` to ``(batch, 64)``."""
        # The cost of a photograph stays that of a thumbnail.
        hidden: torch.Tensor = self.body(_shrink(images, SIDE) - 0.5)
        return hidden

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps uint8 ``(batch, channels, height, width)`` to logits ``(batch, classes)``."""
        logits: torch.Tensor = self.head(self.embed(images))
        return logits


class Pixels:
    """Principal components of the pixels, for data without labels: coarse, but the same everywhere.

    Args:
        mean: float32 ``(pixels,)``, of the shrunken real images.
        components: float32 ``(pixels, d)``, orthonormal columns, the most variance first; d is at most 64.
        channels: channels of the images that it was fitted on, 1 or 3.
        size: (height, width) of those images.
    """

    name = "pixels"
    most = 64  # at most so many components

    def __init__(self, mean: Floats, components: Floats, channels: int, size: tuple[int, int]) -> None:
        self.mean = mean
        self.components = components
        self.channels = channels
        self.size = size

    @classmethod
    def fit(cls, images: Images) -> "Pixels":
        """Finds the components of real images, uint8 ``(n, channels, height, width)``, by eigendecomposition.

        Raises:
            DataError: fewer than 2 images, neither 1 nor 3 channels, or fewer than 8 pixels a side.
        """
        check(images, least=2)
        pixels = _thumbnails(images)
        mean = pixels.mean(axis=0, dtype=np.float64)
        _, vectors = np.linalg.eigh(np.cov(pixels, rowvar=False, dtype=np.float64))
        d = min(cls.most, len(images) - 1, len(mean))
        components = vectors[:, ::-1][:, :d]
        return cls(mean.astype(np.float32), components.astype(np.float32), images.shape[1], images.shape[2:])

    def __call__(self, images: Images) -> Floats:
        """Returns the components of each image, float32 ``(n, d)``; pixels count from 0 to 1.

        Raises:
            DataError: not uint8 images of the channels and size that it was fitted on.
        """
        check(images, least=1, channels=(self.channels,))
        if images.shape[2:] != self.size:
            raise DataError(
                f"images are {images.shape[2:]} pixels where {self.size} are wanted",
                "compare images of the size that the features were fitted on",
            )
        return np.asarray((_thumbnails(images) - self.mean) @ self.components, dtype=np.float32)


class Thumbnails:
    """The pixels themselves, of images made small: learnt from nothing, so that no set of images is nearer for having been
    learnt from. What says whether training images are given away needs that."""

    name = "thumbnails"

    def __call__(self, images: Images) -> Floats:
        """Returns the pixels, 0 to 1, averaged by area to at most 16 x 16: float32 ``(n, up to 256 · channels)``.

        Raises:
            DataError: no images, neither 1 nor 3 channels, or fewer than 8 pixels a side.
        """
        check(images, least=1)
        return _thumbnails(images)


def _train(
    network: Network,
    images: Images,
    labels: Labels,
    epochs: int,
    batch_size: int,
    generator: torch.Generator,
    progress: Callable[[int, int], None] | None,
    weights: torch.Tensor | None,
) -> None:
    """Fits ``network`` in place by cross-entropy, with the one-cycle schedule of Smith & Topin (2018)."""
    device = next(network.parameters()).device
    targets = torch.from_numpy(labels.astype(np.int64))
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    batches = max(1, len(images) // batch_size)  # of nearly equal size: a batch of 1 left over could not be normed
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=epochs * batches)
    network.train()
    for epoch in range(epochs):
        for index in torch.randperm(len(images), generator=generator).tensor_split(batches):
            logits = network(_shifted(images, index, generator).to(device))
            loss = functional.cross_entropy(logits, targets[index].to(device), weights, label_smoothing=0.05)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        if progress is not None:
            progress(epoch + 1, epochs)


def _shifted(images: Images, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Takes the images at ``index``, each moved by up to 2 pixels each way; the edge is repeated."""
    height, width = images.shape[2:]
    down, right = torch.randint(-2, 3, (2, len(index), 1), generator=generator).numpy()
    rows = (np.arange(height) + down).clip(0, height - 1)
    columns = (np.arange(width) + right).clip(0, width - 1)
    # Indices around a slice put the sliced axis, the channels, last.
    return torch.from_numpy(images[index.numpy()[:, None, None], :, rows[:, :, None], columns[:, None, :]]).movedim(-1, 1)


def chunks(images: Images, size: int = CHUNK) -> Iterator[torch.Tensor]:
    """Yields the images ``size`` at a time; copied, for torch takes no read-only arrays, which Arrow's are."""
    return (torch.from_numpy(images[start : start + size].copy()) for start in range(0, len(images), size))


def _shrink(images: torch.Tensor, side: int) -> torch.Tensor:
    """Maps uint8 images to floats from 0 to 1, averaged by area down to at most ``side`` pixels each way."""
    height, width = images.shape[2:]
    return functional.adaptive_avg_pool2d(images.float() / 255, (min(height, side), min(width, side)))


def shrunk(images: Images) -> Images:
    """Images no larger than a classifier looks at: uint8, averaged by area down to at most 64 x 64 pixels."""
    n, channels, height, width = images.shape
    if max(height, width) <= SIDE:
        return images
    small = np.empty((n, channels, min(height, SIDE), min(width, SIDE)), np.uint8)
    for start in range(0, n, BATCH):
        chunk = torch.from_numpy(images[start : start + BATCH].copy())
        small[start : start + BATCH] = (_shrink(chunk, SIDE) * 255).round().to(torch.uint8).numpy()
    return small


def _thumbnails(images: Images) -> Floats:
    shrunken = [_shrink(chunk, THUMBNAIL).flatten(1) for chunk in chunks(images)]
    return np.asarray(torch.cat(shrunken).numpy(), dtype=np.float32)


def check(images: Images, least: int, channels: tuple[int, ...] = (1, 3)) -> None:
    """Refuse what is not uint8 ``(n, channels, height, width)``, at least 8 pixels each way and ``least`` images.

    Raises:
        DataError: it is not.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in channels:
        raise DataError(
            f"images are {images.dtype} {images.shape}",
            f"give uint8 (n, channels, height, width) with {' or '.join(map(str, channels))} channels",
        )
    if min(images.shape[2:]) < SMALLEST:
        raise DataError(
            f"images are {images.shape[2]} x {images.shape[3]} pixels", f"give at least {SMALLEST} pixels each way"
        )
    if len(images) < least:
        raise DataError(f"there are {len(images)} images", f"give at least {least}")
