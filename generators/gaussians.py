"""Gaussians, and mixtures of them, fitted to the rows of all workers."""

import math
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

BLOCK = 4096  # rows whose densities are computed at once
ITERATIONS = 100
ENOUGH = 1e-4  # nats per row: what gains less is the last iteration


class Moments(NamedTuple):
    """Of k components, in float64: rows ``(k,)``, the sums of their latents ``(k, d)`` and outer products ``(k, d, d)``."""

    rows: Tensor
    total: Tensor
    square: Tensor

    @classmethod
    def zeros(cls, components: int, latent: int, device: torch.device) -> "Moments":
        shapes = (components,), (components, latent), (components, latent, latent)
        return cls(*(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def add(self, z: Tensor, shares: Tensor) -> None:
        """Rows ``(n, d)``, each with its share in every component, ``(n, k)``."""
        self.rows.add_(shares.sum(0))
        self.total.add_(shares.T @ z)
        for component, share in enumerate(shares.T):
            self.square[component].add_((z * share[:, None]).T @ z)

    def of_all_workers(self) -> "Moments":
        return Moments(*(over_workers(moment) for moment in self))

    def gaussians(self) -> tuple[Tensor, Tensor]:
        """Mean ``(k, d)`` and covariance ``(k, d, d)``."""
        n = self.rows.clamp(min=1)[:, None]
        mean = self.total / n
        covariance = self.square / n[..., None] - mean[:, :, None] * mean[:, None, :]
        # A class with few rows has a singular covariance: a little of the identity keeps the factor defined.
        ridge = 1e-6 + 1e-4 * covariance.diagonal(dim1=1, dim2=2).mean(1)
        covariance += ridge[:, None, None] * torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device)
        return mean, covariance


class Fitted(NamedTuple):
    """A mixture: weight ``(k,)``, mean ``(k, d)``, Cholesky factor of the covariance ``(k, d, d)``, all in float64.

    ``history`` has the mean log-likelihood of the ``rows``: under one Gaussian, then under the mixture of each iteration.
    """

    weight: Tensor
    mean: Tensor
    scale: Tensor
    history: list[float]
    rows: float


def expectation_maximization(z: Tensor, uniform: Tensor, iterations: int = ITERATIONS) -> Fitted:
    """Fit a mixture of Gaussians with full covariances to the latents of all workers (Dempster et al. 1977).

    What rises is the log-likelihood less ½ d (log |Σ| + tr(S Σ⁻¹)) for each component, S being the covariance of all rows:
    it is as if each had d more rows, spread as all are (Fraley and Raftery 2007, "Bayesian regularization for normal mixture
    estimation", do the same with a prior). So a component of few rows does not shrink to a point, and one without any
    stays defined; where there are many rows it is not noticed.

    Args:
        z: this worker's latents, float64 ``(n, d)``; there may be none.
        uniform: numbers in [0, 1) that belong to these rows whoever has them, ``(n, k)``: the first components are chosen
            by them.
        iterations: the most.
    """
    width, components = z.shape[1], uniform.shape[1]
    whole = Moments.zeros(1, width, z.device)
    whole.add(z, torch.ones_like(z[:, :1]))
    whole = whole.of_all_workers()
    rows = whole.rows.item()
    middle, spread = whole.gaussians()
    scale = torch.linalg.cholesky(spread)
    history = [_expect(z, torch.ones_like(whole.rows), middle, scale)[1] / max(1.0, rows)]

    white = torch.linalg.solve_triangular(scale[0], (z - middle).T, upper=False).T
    nearest = torch.cdist(white, _far_apart(white, uniform)).argmin(1)
    shares = nn.functional.one_hot(nearest, components).double()
    for _ in range(iterations):
        moments = Moments.zeros(components, width, z.device)
        moments.add(z, shares)
        count, total, square = moments.of_all_workers()
        weight = count / rows if rows else torch.full_like(count, 1 / components)
        n = count[:, None]
        mean = torch.where(n > 0, total / n, middle)
        scatter = square - n[..., None] * mean[:, :, None] * mean[:, None, :]
        scale = torch.linalg.cholesky((scatter + width * spread) / (n[..., None] + width))
        shares, likelihood = _expect(z, weight, mean, scale)
        history.append(likelihood / max(1.0, rows))
        if len(history) > 2 and history[-1] - history[-2] < ENOUGH:
            break
    return Fitted(weight, mean, scale, history, rows)


def log_densities(z: Tensor, weight: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """log of weight times N(z; mean, scale scaleᵀ), ``(n, k)``, in nats."""
    white: Tensor = torch.linalg.solve_triangular(scale, (z - mean[:, None, :]).mT, upper=False)  # (k, d, n)
    volume = scale.diagonal(dim1=1, dim2=2).log().sum(1) + 0.5 * z.shape[1] * math.log(2 * math.pi)
    return weight.log() - volume - 0.5 * white.pow(2).sum(1).T


def _expect(z: Tensor, weight: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, float]:
    """The share of every component in each of this worker's rows, ``(n, k)``, and the log-likelihood of all workers'."""
    densities = torch.cat([log_densities(block, weight, mean, scale) for block in torch.split(z, BLOCK)])
    likelihood = densities.logsumexp(1, keepdim=True)
    return (densities - likelihood).exp(), over_workers(likelihood.sum()).item()


def _far_apart(z: Tensor, uniform: Tensor) -> Tensor:
    """Rows far from each other, ``(k, d)``: k-means++ (Arthur and Vassilvitskii 2007), which draws each with a probability
    in proportion to its squared distance from those before.

    The draw is a race: every row takes a time with that rate, and the first one wins, on whichever worker it is.
    """
    picked: list[Tensor] = []
    distance = torch.ones_like(z[:, 0])
    for numbers in uniform.T:
        times = -torch.log1p(-numbers) / distance
        first = over_workers(torch.cat([times, times.new_tensor([math.inf])]).min(), dist.ReduceOp.MIN)
        winners = z[times == first]  # all of them, where no row is apart from those before
        number = over_workers(times.new_tensor(float(len(winners))))
        picked.append(over_workers(winners.sum(0)) / number.clamp(min=1))
        nearest = (z - picked[-1]).pow(2).sum(1)
        distance = torch.minimum(distance, nearest) if len(picked) > 1 else nearest
    return torch.stack(picked)


def over_workers(value: Tensor, operation: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
    """The sum, or another reduction, of all workers' values; in place."""
    if distributed():
        dist.all_reduce(value, operation)
    return value


def distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
