"""Likelihoods of pixels against closed forms and torch.distributions."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli as BernoulliVariable
from torch.distributions import Normal

from raygen.generators.likelihood import LIKELIHOODS, Bernoulli, Gaussian, Likelihood, Logistic, Scaled

LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1  # as uint8 pixels are scaled


def scaled(kind: type[Scaled], log_scale: float) -> Scaled:
    likelihood = kind().double()
    torch.nn.init.constant_(likelihood.log_scale, log_scale)
    return likelihood


def test_a_bernoulli_is_the_probability_of_black_and_white_pixels() -> None:
    logits = torch.randn(7, 3, 4, 5, dtype=torch.float64) * 4
    white = torch.rand(7, 3, 4, 5) < 0.5
    images = white.double() * 2 - 1
    expected = BernoulliVariable(logits=logits).log_prob(white.double())
    torch.testing.assert_close(Bernoulli()(images, logits), expected)
    both = [Bernoulli()(torch.full_like(logits, colour), logits).exp() for colour in (-1.0, 1.0)]
    torch.testing.assert_close(both[0] + both[1], torch.ones_like(logits))
    torch.testing.assert_close(Bernoulli().mean(logits), both[1] - both[0])


@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 2.0])
def test_a_gaussian_is_a_density_around_tanh(log_scale: float) -> None:
    likelihood = scaled(Gaussian, log_scale)
    values, images = torch.randn(2, 6, 1, 4, 4, dtype=torch.float64)
    deviation = math.exp(-6) * (1 + math.exp(log_scale + 6))  # of softplus: never below exp(-6)
    torch.testing.assert_close(likelihood.scale().item(), deviation)
    torch.testing.assert_close(likelihood(images, values), Normal(values.tanh(), deviation).log_prob(images))
    torch.testing.assert_close(likelihood.mean(values), values.tanh())


@pytest.mark.parametrize("log_scale", [-9.0, -4.0, -1.0, 3.0])
@pytest.mark.parametrize("value", [-9.0, -0.7, 0.0, 0.3, 2.0, 9.0])
def test_the_256_values_of_a_logistic_sum_to_one(log_scale: float, value: float) -> None:
    likelihood = scaled(Logistic, log_scale)
    logs = likelihood(LEVELS, torch.full((256,), value, dtype=torch.float64))
    assert logs.exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("log_scale", [-3.0, -1.0, 1.0])
def test_a_logistic_gives_a_value_what_lies_between_its_bounds(log_scale: float) -> None:
    likelihood = scaled(Logistic, log_scale)
    values = torch.randn(256, dtype=torch.float64)
    scale = likelihood.scale().item()
    below = lambda bound: torch.sigmoid((bound - values.tanh()) / scale)  # noqa: E731
    expected = below(LEVELS + 1 / 255) - below(LEVELS - 1 / 255)
    expected[0], expected[-1] = below(LEVELS[0] + 1 / 255)[0], 1 - below(LEVELS[-1] - 1 / 255)[-1]
    torch.testing.assert_close(likelihood(LEVELS, values).exp(), expected, rtol=1e-6, atol=1e-12)


def test_a_logistic_is_exact_in_float32_far_from_its_mean() -> None:
    """Where the difference of two sigmoids is 0, or rounding; and its gradient is finite."""
    likelihood = Logistic()
    torch.nn.init.constant_(likelihood.log_scale, -5.0)
    exact = scaled(Logistic, -5.0)
    values = torch.full((256,), 3.0, requires_grad=True)
    logs = likelihood(LEVELS.float(), values)
    logs.sum().backward()
    torch.testing.assert_close(logs.double(), exact(LEVELS, values.detach().double()), rtol=1e-4, atol=1e-4)
    assert logs.min() < -200  # e to that is 0
    assert values.grad is not None
    assert torch.isfinite(values.grad).all()


@pytest.mark.parametrize("kind", [Gaussian, Logistic])
def test_the_scale_is_learnt(kind: type[Scaled]) -> None:
    """Its best value for Gaussian residuals, and for logistic ones, is their own spread."""
    torch.manual_seed(0)
    spread = 0.1
    uniform = torch.rand(40_000).clamp(1e-6, 1 - 1e-6)
    residuals = torch.randn(40_000) if kind is Gaussian else torch.logit(uniform)
    likelihood = kind()
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.05)
    for _ in range(150):
        loss = -likelihood(spread * residuals, torch.zeros(40_000)).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert likelihood.scale().item() == pytest.approx(spread, rel=0.03)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_means_are_images(name: str) -> None:
    likelihood: Likelihood = LIKELIHOODS[name]()
    mean: Tensor = likelihood.mean(torch.linspace(-50, 50, 101))
    assert mean.min() == -1
    assert mean.max() == 1
    assert (mean.diff() >= 0).all()
