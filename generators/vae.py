"""``vae``: variational autoencoders (Kingma and Welling 2013, arXiv 1312.6114)."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from raygen.errors import RaygenError
from raygen.generators import networks
from raygen.generators.base import Family, Losses, Sampler, local
from raygen.generators.likelihood import LIKELIHOODS, Likelihood
from raygen.options import VaeSpec


class Variational(nn.Module):
    """Images ``(n, *shape)`` and standard normal noise ``(n, latent)`` → log p(x|z) of every pixel, likewise, at the sample
    of q(z|x) that the noise makes; and q's mean and log variance."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood

    def forward(self, images: Tensor, classes: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(images, classes).chunk(2, dim=1)
        latent = mean + noise * torch.exp(0.5 * log_variance)
        return self.likelihood(images, self.decoder(latent, classes).float()), mean, log_variance


class Vae(Family):
    """Maximizes the evidence lower bound E log p(x|z) − KL(q(z|x) ‖ N(0, 1)), in nats per row.

    Three options change what the divergence costs: ``beta`` weighs it (Higgins et al. 2017, "beta-VAE"); ``kl_warmup`` is
    the share of the training over which that weight rises from 0 (Sønderby et al. 2016, arXiv 1602.02282); of each
    dimension of the latent, ``free_bits`` nats cost nothing more, on the mean over the rows that a worker sees at once
    (Kingma et al. 2016, arXiv 1606.04934). ``loss`` is what is descended; ``reconstruction`` and ``divergence`` add up to
    the bound.
    """

    spec: VaeSpec

    def build(self) -> None:
        spec = self.spec
        features = networks.encoder(spec.network, self.shape, spec.width, norm=True)
        network = Variational(
            networks.Head(features, self.classes, 2 * spec.latent),
            networks.decoder(spec.network, spec.latent, self.classes, self.shape, spec.width, class_scale=3.0),
            LIKELIHOODS[spec.likelihood](),
        )
        self.networks = {"autoencoder": network.to(self.device)}

    def sampler(self) -> Sampler:
        network = local(self.networks["autoencoder"])
        assert isinstance(network, Variational)
        return MeanSampler(network.encoder, network.decoder, network.likelihood, self.spec.latent)

    def step(self, images: Tensor, classes: Tensor | None) -> Losses:
        noise = self.randn(len(images), self.spec.latent)
        return self.descend("autoencoder", self._loss, self.cut(images, classes, noise))

    def _loss(self, images: Tensor, classes: Tensor | None, noise: Tensor) -> tuple[Tensor, Losses]:
        found = self.networks["autoencoder"](images, classes, noise)
        log_likelihood, mean, log_variance = (part.float() for part in found)
        reconstruction = -log_likelihood.sum() / len(images)
        by_dimension = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)
        divergence = by_dimension.sum(1).mean()
        cost = by_dimension.mean(0).clamp(min=self.spec.free_bits).sum() if self.spec.free_bits else divergence
        loss = reconstruction + self._weight() * cost
        shown = {"loss": loss, "reconstruction": reconstruction, "divergence": divergence}
        return loss, {name: value.detach() for name, value in shown.items()}

    def _weight(self) -> float:
        """Of the divergence, now."""
        risen = min(1.0, self.progress / self.spec.kl_warmup) if self.spec.kl_warmup else 1.0
        return self.spec.beta * risen


class MeanSampler(Sampler):
    """Noise is the latent; a row is the mean of the pixels' distribution.

    A variant is decoded from the mean of q(z|x) and noise around it; strength 1 is as wide as the prior.
    """

    has_likelihood: ClassVar[bool] = True
    has_latent: ClassVar[bool] = True

    def __init__(self, encoder: nn.Module, decoder: nn.Module, likelihood: Likelihood, latent: int) -> None:
        super().__init__()
        self.encoder, self.decoder, self.likelihood, self.noise = encoder, decoder, likelihood, latent

    def forward(self, noise: Tensor, classes: Tensor | None) -> Tensor:
        return self.likelihood.mean(self.decoder(noise, classes))

    def vary(self, images: Tensor, noise: Tensor, classes: Tensor | None, strength: float) -> Tensor:
        mean, _ = self.encoder(images, classes).chunk(2, dim=1)
        return self(mean + strength * noise, classes)  # type: ignore[no-any-return]

    def log_likelihood(self, images: Tensor, noise: Tensor, classes: Tensor | None) -> Tensor:
        """The importance-weighted bound log ¹⁄ₖ Σ p(x, z) / q(z|x) over k draws of q (Burda et al. 2016, arXiv 1509.00519).

        With one draw it is the evidence lower bound's estimate; with more it rises, on average, towards log p(x).

        Raises:
            RaygenError: the likelihood is one of black and white pixels, and there are others.
        """
        if self.likelihood.binary and (images.abs() != 1).any():
            raise RaygenError(
                "the pixels are not all black or white, and a Bernoulli variable has no probability of others",
                "set generator.likelihood to logistic",
            )
        mean, log_variance = self.encoder(images, classes).chunk(2, dim=1)
        weights = []
        for normal in noise:
            latent = mean + normal * torch.exp(0.5 * log_variance)
            pixels = self.likelihood(images, self.decoder(latent, classes)).double().flatten(1).sum(1)
            prior_to_posterior = 0.5 * (normal**2 + log_variance - latent**2).double().sum(1)
            weights.append(pixels + prior_to_posterior)
        return torch.stack(weights).logsumexp(0) - math.log(len(noise))
