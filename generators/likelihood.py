"""Likelihoods: what a decoder's values say of the pixels, p(x|z), one pixel at a time."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Likelihood(nn.Module, ABC):
    """log p(x|z) of every pixel, in nats: of images in [-1, 1] and a decoder's values, both ``(n, *shape)``.

    Attributes:
        binary: whether it is a probability of black and white pixels only, −1 and 1.
    """

    binary: ClassVar[bool] = False

    @abstractmethod
    def forward(self, images: Tensor, values: Tensor) -> Tensor:
        """Log-probabilities, or log-densities, ``(n, *shape)``."""

    @abstractmethod
    def mean(self, values: Tensor) -> Tensor:
        """The pixels to expect, in [-1, 1]: ``(n, *shape)``."""


class Bernoulli(Likelihood):
    """Values are logits. Pixels in between black and white are scored as the means of Bernoulli variables, as is usual for
    digits; it is a score then, and not a probability."""

    binary = True

    def forward(self, images: Tensor, values: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(values, (images + 1) / 2, reduction="none")

    def mean(self, values: Tensor) -> Tensor:
        return torch.sigmoid(values) * 2 - 1


class Scaled(Likelihood):
    """Distributions around tanh of the values, of one learned scale for all pixels."""

    least: ClassVar[float] = -6.0  # of the log scale, as in sigma-VAE: narrower than a 256th of the range means nothing

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def mean(self, values: Tensor) -> Tensor:
        return torch.tanh(values)

    def scale(self) -> Tensor:
        return torch.exp(self.least + F.softplus(self.log_scale - self.least))


class Gaussian(Scaled):
    """A density on [-1, 1], whose standard deviation is the scale (sigma-VAE, Rybkin et al. 2021, arXiv 2006.13202)."""

    def forward(self, images: Tensor, values: Tensor) -> Tensor:
        return torch.distributions.Normal(self.mean(values), self.scale(), validate_args=False).log_prob(images)  # type: ignore[no-any-return, no-untyped-call]


class Logistic(Scaled):
    """The probability that a logistic distribution gives to each of the 256 values, those at the edges with all beyond
    (Kingma et al. 2016, arXiv 1606.04934; Salimans et al. 2017, arXiv 1701.05517)."""

    reach: ClassVar[float] = 1 / 255  # half the distance between two values

    def forward(self, images: Tensor, values: Tensor) -> Tensor:
        scale = self.scale()
        off = images - self.mean(values)
        below, above = F.logsigmoid((self.reach + off) / scale), F.logsigmoid((self.reach - off) / scale)
        # sigmoid(a) − sigmoid(b) = sigmoid(a) sigmoid(−b) (1 − exp(b − a)): nothing is lost where both are near 0 or 1.
        inside = below + above + torch.log(-torch.expm1(-2 * self.reach / scale))
        return torch.where(images < self.reach - 1, below, torch.where(images > 1 - self.reach, above, inside))


LIKELIHOODS: dict[str, type[Likelihood]] = {"bernoulli": Bernoulli, "gaussian": Gaussian, "logistic": Logistic}
