"""Densities on a latent space: a Gaussian per class, or a mixture of Gaussians per class."""

from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from raygen.generators import noise as addressed
from raygen.generators.gaussians import Moments, distributed, expectation_maximization

MOST = 250_000
"""Rows, of all workers, that a mixture is fitted to: those of a sample, where there are more."""


class Density(nn.Module):
    """A Gaussian per class: mean ``(classes, d)`` and the Cholesky factor of its covariance.

    Attributes:
        noise: how many standard normal numbers a draw is made from.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, classes: int, latent: int, components: int = 1) -> None:
        super().__init__()
        self.noise, self.classes = latent, classes
        self.register_buffer("mean", torch.zeros(classes * components, latent))
        self.register_buffer("scale", torch.eye(latent).repeat(classes * components, 1, 1))

    def learn(self, latents: Iterable[tuple[Tensor, Tensor | None]]) -> dict[str, float]:
        """Fit the latents of all workers' rows: a worker gives its own, a batch at a time, ``(n, d)`` and classes ``(n,)``.

        Returns:
            Figures of the fit.
        """
        self.fit(*self._moments(latents).of_all_workers())
        return {}

    def rehearse(self, latents: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Fit a Gaussian to each class of some latents, for a look before ``learn``; other workers know nothing of it."""
        components = len(self.mean) // self.classes
        self.fit(*(moment.repeat_interleave(components, 0) for moment in self._moments(latents)))

    def _moments(self, latents: Iterable[tuple[Tensor, Tensor | None]]) -> Moments:
        """By class."""
        moments = Moments.zeros(self.classes, self.mean.shape[1], self.mean.device)
        for z, given in latents:
            of, z = of_class(z, given), z.double()
            moments.rows.index_add_(0, of, torch.ones_like(z[:, 0]))
            moments.total.index_add_(0, of, z)
            moments.square.index_add_(0, of, z[:, :, None] * z[:, None, :])
        return moments

    def fit(self, count: Tensor, total: Tensor, square: Tensor) -> None:
        """From the number of rows, the sum of latents and the sum of their outer products, per component, in float64."""
        mean, covariance = Moments(count, total, square).gaussians()
        self.mean.copy_(mean)
        self.scale.copy_(torch.linalg.cholesky(covariance))

    def forward(self, noise: Tensor, classes: Tensor | None) -> Tensor:
        """Draws, ``(n, d)``, from standard normal noise ``(n, noise)``."""
        return self.mean[self.component(noise, classes)] + self.deviation(noise, classes)

    def deviation(self, noise: Tensor, classes: Tensor | None) -> Tensor:
        """How far from the mean of their component draws are, ``(n, d)``: its standard deviation in every direction."""
        # A sum of products, not a batched matrix product: its bits do not depend on what else is in the batch.
        along = noise[:, : self.mean.shape[1]]
        return (self.scale[self.component(noise, classes)] * along[:, None, :]).sum(2)

    def component(self, noise: Tensor, classes: Tensor | None) -> Tensor:
        """Which one draws come from, ``(n,)``."""
        return of_class(noise, classes)


class Mixture(Density):
    """A mixture of Gaussians per class, with the weights ``(classes, components)``; the last number of noise picks one."""

    weight: Tensor

    def __init__(self, classes: int, components: int, latent: int) -> None:
        super().__init__(classes, latent, components)
        self.noise = latent + 1
        self.register_buffer("weight", torch.full((classes, components), 1 / components))

    def learn(self, latents: Iterable[tuple[Tensor, Tensor | None]]) -> dict[str, float]:
        """Fit each class by :func:`expectation_maximization`.

        Returns:
            Means over all rows: the log-likelihood of a latent in nats, under the mixture and under one Gaussian per class;
            and how many components there are in effect, the exponential of their weights' entropy.
        """
        z, uniform, of = self._gathered(latents)
        rows, figures = 0.0, torch.zeros(3, dtype=torch.float64)
        for index, weight in enumerate(self.weight):
            fitted = expectation_maximization(z[of == index], uniform[of == index])
            here = slice(index * len(weight), (index + 1) * len(weight))
            weight.copy_(fitted.weight)
            self.mean[here].copy_(fitted.mean)
            self.scale[here].copy_(fitted.scale)
            effective = torch.special.entr(fitted.weight).sum().exp().item()
            rows += fitted.rows
            figures += fitted.rows * torch.tensor([fitted.history[-1], fitted.history[0], effective], dtype=torch.float64)
        names = ("latent_log_likelihood", "latent_log_likelihood_of_one_gaussian", "effective_components")
        return dict(zip(names, (figures / rows).tolist(), strict=True))

    def _gathered(self, latents: Iterable[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor, Tensor]:
        """This worker's latents, float64 ``(n, d)``, uniform numbers of their rows ``(n, components)``, and their classes.

        Workers take turns by the batch, so that a row has the same numbers among all of theirs however many they are. Of
        more than ``MOST`` rows, those whose last number, which is for that alone, is smallest are taken.
        """
        rank, workers = (dist.get_rank(), dist.get_world_size()) if distributed() else (0, 1)
        numbers = self.weight.shape[1] + 1
        none = self.mean.double()[:0], self.mean.new_zeros(0, numbers).double(), of_class(self.mean[:0], None)
        parts, size, rows, most = [none], 0, 0, -(-MOST // workers)
        for turn, (latent, classes) in enumerate(latents):
            size, rows = size or len(latent), rows + len(latent)
            first = (turn * workers + rank) * size
            words = addressed.words(0, "components", range(first, first + len(latent)), numbers)
            uniform = torch.from_numpy((words >> np.uint64(11)).astype(np.float64) * 2.0**-53).to(latent.device)
            parts.append((latent.double(), uniform, of_class(latent, classes)))
            if rows > 2 * most:
                parts, rows = [_least(parts, most)], most
        z, uniform, of = _least(parts, most)
        return z, uniform[:, :-1], of

    def component(self, noise: Tensor, classes: Tensor | None) -> Tensor:
        """By the cumulative weights, from the uniform number that the last one is by its distribution function."""
        of = of_class(noise, classes)
        cumulative = self.weight.double().cumsum(1)
        # Without the last, and in shares of it: a component of no weight is never picked, whatever was rounded.
        bounds = (cumulative / cumulative[:, -1:])[:, :-1]
        uniform: Tensor = torch.special.ndtr(noise[:, -1].double())
        return of * self.weight.shape[1] + (uniform[:, None] >= bounds[of]).sum(1)


def _least(parts: list[tuple[Tensor, Tensor, Tensor]], most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, numbers and classes of all parts; of those rows whose last numbers are smallest, where there are more."""
    z, uniform, of = map(torch.cat, zip(*parts, strict=True))
    chosen = uniform[:, -1].argsort(stable=True)[:most].sort().values
    return z[chosen], uniform[chosen], of[chosen]


def of_class(rows: Tensor, classes: Tensor | None) -> Tensor:
    """The class of each row, or the only one there is."""
    return torch.zeros(len(rows), dtype=torch.int64, device=rows.device) if classes is None else classes
