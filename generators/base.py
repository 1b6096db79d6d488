"""The contract of a family: how a generator learns, and what it is when it has learnt."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from raygen.generators.latent import nearer, slerp
from raygen.generators.networks import Layout, Shape, Tokens
from raygen.options import FamilySpec, LearnedSpec

Losses = dict[str, Tensor]
"""Scalars to show, detached and left on the device."""

Given = tuple[Tensor, Tensor | None]
"""What rows are made from: noise ``(n, noise)``, and class indices ``(n,)`` where there is a condition."""

TILE = 64
"""Rows: on CPUs, batches smaller than this differ from larger ones in the last bit."""
STRENGTH = 0.5
"""How far a variant goes from its row where nothing else is asked for."""


class Sampler(nn.Module, ABC):
    """The networks of a generator that make rows, and variants of rows.

    Attributes:
        noise: how many numbers a row, or a variant of one, is made from.
        uniform: whether these are uniform in [0, 1), float64, and not standard normal, float32.
        tile: how many rows are best made at once.
        threads: how many threads of a CPU a tile is best made with; None is as many as torch has.
        has_likelihood: whether it can say how likely an image is.
        has_bounds: whether the cells it makes of a table can be asked to be within bounds.
        has_latent: whether a row's noise is a place in a latent space, between any two of which there are others.
    """

    noise: int
    uniform: ClassVar[bool] = False
    tile: ClassVar[int] = TILE
    threads: ClassVar[int | None] = None
    has_likelihood: ClassVar[bool] = False
    has_bounds: ClassVar[bool] = False
    has_latent: ClassVar[bool] = False

    @abstractmethod
    def forward(self, noise: Tensor, classes: Tensor | None) -> Tensor:
        """Noise ``(n, noise)``, class indices ``(n,)`` or None → images in [-1, 1], ``(n, channels, height, width)``.

        Of a table: noise, and what is given of the cells, float64 ``(n, columns)`` with NaN where a cell is free, or None →
        cells, float64 ``(n, columns)``: a token, and a place in [0, 1) within it, added up. What was given comes back bit
        for bit. Where there is ``has_bounds``, a third argument is ``Bounds``, which hold where a cell is free.

        In evaluation mode a row depends on its own noise and on its own class, or what is given of it, only.
        """

    def noise_within(self, columns: int) -> int:
        """How many numbers a row is made from of which some columns have bounds; where there is ``has_bounds``."""
        raise NotImplementedError

    def vary(self, images: Tensor, noise: Tensor, classes: Tensor | None, strength: float) -> Tensor:
        """Variants of rows, by default fresh rows of their classes: what a generator can do that does not look at them.

        Args:
            images: the rows, in [-1, 1], ``(n, channels, height, width)``; or a table's cells, float64 ``(n, columns)``.
            noise: as ``forward`` takes it, ``(n, noise)``.
            classes: int64 ``(n,)``, or None; or, of a table, what is given of the variants, as ``forward`` takes it.
            strength: how far to go, for families that encode: in standard deviations of their latent space.

        Returns:
            As ``forward`` makes them. In evaluation mode one depends on its own row, noise and class only.
        """
        return self(noise, classes)  # type: ignore[no-any-return]

    def between(self, start: Given, end: Given, share: Tensor) -> Tensor:
        """Rows on the way from some to others; where there is ``has_latent``.

        Args:
            start: noise ``(n, noise)`` and classes, int64 ``(n,)`` or None; and so ``end``.
            share: of the way, in [0, 1], ``(n,)``.

        Returns:
            As ``forward`` makes them, each of the class of the end that is nearer. In evaluation mode one depends on its
            own ends and share only.
        """
        (noise, classes), (other, others) = start, end
        return self(slerp(noise, other, share), nearer(classes, others, share))  # type: ignore[no-any-return]

    def log_likelihood(self, images: Tensor, noise: Tensor, classes: Tensor | None) -> Tensor:
        """log p(image), given its class, or an estimate that is below it on average; where there is ``has_likelihood``.

        Args:
            images: in [-1, 1], ``(n, channels, height, width)``.
            noise: standard normal, ``(samples, n, noise)``: what the estimate is made from.
            classes: int64 ``(n,)``, or None.

        Returns:
            Nats, float64 ``(n,)``. In evaluation mode one depends on its own image, noise and class only.
        """
        raise NotImplementedError


class Family(ABC):
    """How a kind of generator learns: its networks, losses and optimizers. The train loop knows no family by name.

    Args:
        spec: the family's options.
        layout: channels, height and width of the images; or, of a table, how many tokens each column has.
        classes: how many the condition has; 0 without a condition.
        device: where the networks live.

    Attributes:
        learns: whether there is anything to learn; without, ``step`` is never called.
        engine: the package beside raygen's own whose version decides what it makes, where there is one.
        progress: the share of the training that is done, set by whoever trains, before each step.
        pieces: into how many a batch is cut, to need less memory; their gradients are added up.
        clip: the largest norm that the gradient of a network may have.
        draws: where the noise of a batch comes from, if not from torch's global generator; the same on every worker.
        rank: which of ``world`` workers this is, each of which has an equal part of a batch.
    """

    learns: ClassVar[bool] = True
    engine: ClassVar[str | None] = None
    progress: float = 0.0
    pieces: int = 1
    clip: float | None = None
    draws: torch.Generator | None = None
    rank: int = 0
    world: int = 1

    def __init__(self, spec: FamilySpec, layout: Layout, classes: int, device: torch.device) -> None:
        self.spec, self.layout, self.classes, self.device = spec, layout, classes, device
        self.networks: dict[str, nn.Module] = {}
        self.build()
        self.average = copy.deepcopy(self.sampler())
        self.steps = 0

    @property
    def shape(self) -> Shape:
        """Of the images."""
        assert not isinstance(self.layout, Tokens)
        return self.layout

    @property
    def tokens(self) -> Tokens:
        """Of a table's columns."""
        assert isinstance(self.layout, Tokens)
        return self.layout

    @abstractmethod
    def build(self) -> None:
        """Make ``networks``, on ``device``."""

    @cached_property
    def optimizers(self) -> dict[str, Optimizer]:
        """Of each network. They are made when they are first asked for: rows are made without, and torch takes more than a
        second to import what they need."""
        return {name: self.optimizer(name, network) for name, network in self.networks.items()}

    def optimizer(self, name: str, network: nn.Module) -> Optimizer:
        """The optimizer of a network, by default Adam (Kingma and Ba 2015, arXiv 1412.6980)."""
        assert isinstance(self.spec, LearnedSpec)
        return torch.optim.Adam(network.parameters(), lr=self.spec.learning_rate, fused=True)

    @abstractmethod
    def sampler(self) -> Sampler:
        """The part of the networks that makes rows, sharing their parameters."""

    @abstractmethod
    def step(self, images: Tensor, classes: Tensor | None) -> Losses:
        """Learn from a batch.

        Args:
            images: in [-1, 1], ``(n, channels, height, width)``; or a table's cells, float64 ``(n, columns)``.
            classes: int64 ``(n,)``, or None, as of a table, where the class is one of the cells.

        Returns:
            Scalars to show, detached and left on the device.
        """

    def finish(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> dict[str, float]:
        """Called once after the last step, with one pass over this worker's training rows. Most have nothing to do.

        Returns:
            Figures of what was done, to be kept with the metrics of the training.
        """
        return {}

    def rehearse(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:  # noqa: B027  # most have nothing to do
        """Called before rows of the averaged sampler are looked at in the midst of a training, on one worker alone, with
        some training rows."""

    def synchronize(self) -> None:
        """Take rank 0's buffers, such as the running statistics of batch normalization, of which each worker has its own."""
        if dist.is_available() and dist.is_initialized():
            for network in (*self.networks.values(), self.average):
                for buffer in local(network).buffers():
                    dist.broadcast(buffer, 0)

    def pace(self, progress: float, rate: float) -> None:
        """Say which share of the training is done, and set the learning rates to a share of the full ones."""
        self.progress = progress
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * rate

    def randn(self, rows: int, width: int) -> Tensor:
        """Standard normal noise for this worker's rows: its part of what is drawn for the whole batch, so that it does not
        depend on how many workers share that."""
        drawn = torch.randn(rows * self.world, width, device=self.device, generator=self.draws)
        return drawn[rows * self.rank : rows * (self.rank + 1)]

    def cut(self, *tensors: Tensor | None) -> list[tuple[Any, ...]]:
        """The rows of some tensors in pieces; what is None stays None."""
        parts = [[None] * self.pieces if tensor is None else tensor.chunk(self.pieces) for tensor in tensors]
        return list(zip(*parts, strict=True))

    def descend(self, name: str, loss: Callable[..., tuple[Tensor, Losses]], pieces: Sequence[tuple[Any, ...]]) -> Losses:
        """One step of a network's optimizer down the gradient of the mean of a loss.

        Args:
            loss: makes of a piece of a batch what to descend, and what to show.
            pieces: each is used when the one before is not needed any more.

        Returns:
            The mean of what is to be shown.
        """
        network, optimizer, shown = self.networks[name], self.optimizers[name], list[Losses]()
        optimizer.zero_grad(set_to_none=True)
        for piece in pieces:
            waits = len(shown) + 1 < len(pieces) and isinstance(network, nn.parallel.DistributedDataParallel)
            with network.no_sync() if waits else nullcontext():  # type: ignore[operator]  # workers exchange the sum, once
                value, of_piece = loss(*piece)
                (value / len(pieces)).backward()  # type: ignore[no-untyped-call]
            shown.append(of_piece)
        if self.clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), self.clip)
        optimizer.step()
        return mean(shown)

    def distribute(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """Replace every network by what synchronizes its gradients with the other workers."""
        self.networks = {name: wrap(network) for name, network in self.networks.items()}

    def compile(self) -> None:
        """Have torch compile the networks, where it can."""
        for network in self.networks.values():
            network.compile()

    def average_weights(self) -> None:
        """Move the exponential moving average of the sampler, which is what gets exported, towards its weights."""
        assert isinstance(self.spec, LearnedSpec)
        self.steps += 1
        decay = min(self.spec.ema, self.steps / (self.steps + 10))  # short runs are not an average with their first weights
        with torch.no_grad():
            for average, current in zip(_state(self.average), _state(self.sampler()), strict=True):
                if average.is_floating_point():
                    average.lerp_(current, 1 - decay)
                else:
                    average.copy_(current)

    def exported(self) -> Sampler:
        """The averaged sampler, ready to make rows."""
        return self.average.eval()

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on, the same whether or not the networks are distributed."""
        return {
            "networks": {name: local(network).state_dict() for name, network in self.networks.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "average": self.average.state_dict(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, network in self.networks.items():
            local(network).load_state_dict(state["networks"][name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.average.load_state_dict(state["average"])
        self.steps = state["steps"]


def mean(shown: Sequence[Losses]) -> Losses:
    """Of scalars by name."""
    return {name: torch.stack([part[name] for part in shown]).mean() for name in shown[0]}


def _state(module: nn.Module) -> list[Tensor]:
    return list(module.state_dict().values())


def local(network: nn.Module) -> nn.Module:
    """The network itself, where DistributedDataParallel is wrapped around it."""
    return network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Torch's threads on the CPU, for the length of the block; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
