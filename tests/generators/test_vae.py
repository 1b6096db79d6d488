"""What the divergence costs, and the importance-weighted bound where the truth is known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from raygen.errors import RaygenError
from raygen.generators.likelihood import Bernoulli, Gaussian, Likelihood
from raygen.generators.vae import MeanSampler, Vae
from raygen.options import VaeSpec

CPU = torch.device("cpu")
SHAPE, ROWS = (1, 8, 8), 12


def new(**options: object) -> Vae:
    torch.manual_seed(0)
    return Vae(VaeSpec(network="dense", latent=3, width=2, **options), SHAPE, 0, CPU)  # type: ignore[arg-type]


def images() -> Tensor:
    return torch.rand(ROWS, *SHAPE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def divergences(learner: Vae) -> Tensor:
    """Of each row and dimension of the latent, by the network as it is."""
    with torch.no_grad():
        _, mean, log_variance = learner.networks["autoencoder"](images(), None, torch.zeros(len(images()), 3))
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)


def test_beta_weighs_the_divergence() -> None:
    losses = new(beta=3.5).step(images(), None)
    torch.testing.assert_close(losses["loss"], losses["reconstruction"] + 3.5 * losses["divergence"])
    plain = new().step(images(), None)
    torch.testing.assert_close(plain["divergence"], losses["divergence"])


@pytest.mark.parametrize(("progress", "weight"), [(0.0, 0.0), (0.1, 0.5), (0.3, 1.5), (0.4, 2.0), (0.9, 2.0)])
def test_the_weight_rises_with_the_progress(progress: float, weight: float) -> None:
    learner = new(beta=2.0, kl_warmup=0.4)
    learner.progress = progress
    losses = learner.step(images(), None)
    torch.testing.assert_close(losses["loss"], losses["reconstruction"] + weight * losses["divergence"])


def test_without_a_warm_up_progress_is_no_matter() -> None:
    one, other = new(), new()
    other.progress = 0.5
    torch.manual_seed(5)
    first = one.step(images(), None)
    torch.manual_seed(5)
    second = other.step(images(), None)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_dimension_below_its_free_nats_costs_them_and_learns_nothing() -> None:
    by_dimension = divergences(new()).mean(0).sort().values
    free = float(by_dimension[:2].mean())  # one dimension is below, two are above
    learner = new(free_bits=free)
    losses = learner.step(images(), None)
    expected = by_dimension.clamp(min=free).sum()
    assert expected > by_dimension.sum()
    torch.testing.assert_close(losses["loss"], losses["reconstruction"] + expected)
    torch.testing.assert_close(losses["divergence"], by_dimension.sum())  # what there is, not what it costs

    plenty = new(free_bits=100.0, beta=1e6)
    without = new(beta=0.0)
    for one in (plenty, without):
        torch.manual_seed(5)
        one.step(images(), None)
    for one, other in zip(plenty.sampler().parameters(), without.sampler().parameters(), strict=True):
        torch.testing.assert_close(one, other)


class Posterior(nn.Module):
    """q(z|x): the mean and the log variance are affine in the image."""

    def __init__(self, weight: Tensor, bias: Tensor, log_variance: Tensor) -> None:
        super().__init__()
        self.weight, self.bias, self.log_variance = weight, bias, log_variance

    def forward(self, images: Tensor, classes: Tensor | None) -> Tensor:
        mean = images.flatten(1) @ self.weight.T + self.bias
        return torch.cat([mean, self.log_variance.expand_as(mean)], 1)


class Affine(nn.Module):
    """Values whose tanh is affine in the latent."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, latent: Tensor, classes: Tensor | None) -> Tensor:
        return torch.atanh(latent @ self.weight.T + self.bias)[:, None, None, :]


class TestLinearGaussian:
    """x = W z + b + 0.1 ε has a known likelihood, N(b, W Wᵀ + 0.01), and a known posterior; q is another Gaussian."""

    weight = torch.tensor([[0.10, 0.00], [0.05, -0.08], [0.0, 0.06]], dtype=torch.float64)
    bias = torch.tensor([0.1, -0.2, 0.0], dtype=torch.float64)
    deviation = 0.1

    def likelihood(self) -> Likelihood:
        likelihood = Gaussian().double()
        nn.init.constant_(likelihood.log_scale, math.log(math.expm1(math.log(self.deviation) + 6)) - 6)
        assert likelihood.scale().item() == pytest.approx(self.deviation)
        return likelihood

    def sampler(self, off: float) -> MeanSampler:
        """With the true posterior at 0; the farther off, the wider and the more beside it."""
        precision = torch.eye(2, dtype=torch.float64) + self.weight.T @ self.weight / self.deviation**2
        gain = torch.linalg.solve(precision, self.weight.T / self.deviation**2)
        # q has a diagonal covariance: W's columns make the true one diagonal enough to be near.
        log_variance = -precision.diagonal().log() + off
        posterior = Posterior(gain, -gain @ self.bias + off, log_variance)
        return MeanSampler(posterior, Affine(self.weight, self.bias), self.likelihood(), 2)

    def rows(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(400, 2, generator=generator, dtype=torch.float64)
        x = z @ self.weight.T + self.bias + self.deviation * torch.randn(400, 3, generator=generator, dtype=torch.float64)
        covariance = self.weight @ self.weight.T + self.deviation**2 * torch.eye(3, dtype=torch.float64)
        return x[:, None, None, :], MultivariateNormal(self.bias, covariance).log_prob(x)

    @torch.no_grad()
    def bound(self, samples: int, off: float = 0.5) -> float:
        noise = torch.randn(samples, 400, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        return self.sampler(off).log_likelihood(self.rows()[0], noise, None).mean().item()

    @torch.no_grad()
    def elbo(self, off: float = 0.5) -> float:
        """In closed form: E log p(x|z) is quadratic in z."""
        x, _ = self.rows()
        mean, log_variance = self.sampler(off).encoder(x, None).chunk(2, 1)
        variance = log_variance.exp()
        residual = (x.flatten(1) - mean @ self.weight.T - self.bias).pow(2) + variance @ self.weight.pow(2).T
        reconstruction = -0.5 * (residual / self.deviation**2 + math.log(2 * math.pi * self.deviation**2)).sum(1)
        divergence = 0.5 * (mean**2 + variance - 1 - log_variance).sum(1)
        return (reconstruction - divergence).mean().item()

    def test_the_bound_rises_from_the_evidence_lower_bound_to_the_truth(self) -> None:
        truth = self.rows()[1].mean().item()
        bounds = [self.bound(samples) for samples in (1, 3, 10, 100, 1000)]
        assert bounds == sorted(bounds)
        assert bounds[0] == pytest.approx(self.elbo(), abs=0.1)
        assert self.elbo() < truth - 0.2
        assert truth - 0.01 < bounds[-1] < truth + 0.005

    @torch.no_grad()
    def test_it_is_right_for_every_row(self) -> None:
        x, truth = self.rows()
        noise = torch.randn(3000, 400, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        torch.testing.assert_close(self.sampler(0.1).log_likelihood(x, noise, None), truth, rtol=0, atol=0.2)


def test_a_bernoulli_says_nothing_of_grey_pixels() -> None:
    sampler = new().exported()
    noise = torch.randn(5, ROWS, 3)
    with pytest.raises(RaygenError, match="not all black or white") as caught:
        sampler.log_likelihood(images(), noise, None)
    assert "logistic" in caught.value.hint
    assert torch.isfinite(sampler.log_likelihood(images().sign(), noise, None)).all()


@torch.no_grad()
def test_a_bernoullis_bound_is_below_the_probability_of_all_images() -> None:
    """Four pixels have sixteen pictures, whose probabilities add up to 1."""

    class Pixels(nn.Module):
        def forward(self, latent: Tensor, classes: Tensor | None) -> Tensor:
            return 2 * latent.repeat(1, 2)[:, None, None, :]

    pictures = torch.tensor(list(np.ndindex(2, 2, 2, 2)), dtype=torch.float64)[:, None, None, :] * 2 - 1
    posterior = Posterior(torch.zeros(2, 4).double(), torch.zeros(2).double(), torch.zeros(2).double())  # the prior
    sampler = MeanSampler(posterior, Pixels(), Bernoulli(), 2)
    noise = torch.randn(20_000, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).expand(-1, 16, -1)
    assert sampler.log_likelihood(pictures, noise, None).exp().sum().item() == pytest.approx(1, abs=1e-9)


def test_a_learned_scale_is_averaged_and_exported() -> None:
    learner = new(likelihood="gaussian", ema=0.5)
    for _ in range(3):
        learner.step(images(), None)
        learner.average_weights()
    exported, current = learner.exported().state_dict(), learner.sampler().state_dict()
    assert "likelihood.log_scale" in exported
    assert 0 > exported["likelihood.log_scale"] > current["likelihood.log_scale"]
