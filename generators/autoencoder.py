"""``autoencoder``: deterministic autoencoders with a density fitted on their latent space (Ghosh et al. 2020,
"From variational to deterministic autoencoders", arXiv 1903.12436)."""

from collections.abc import Iterable, Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raygen.generators import networks
from raygen.generators.base import Family, Given, Losses, Sampler, local
from raygen.generators.density import Density, Mixture
from raygen.generators.latent import nearer, slerp
from raygen.options import AutoencoderSpec


class Deterministic(nn.Module):
    """Images ``(n, *shape)`` → reconstructed images in [-1, 1] and latents ``(n, latent)``."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, images: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor]:
        latent = self.encoder(images, classes)
        return torch.tanh(self.decoder(latent, classes)), latent


class Autoencoder(Family):
    """Minimizes the squared reconstruction error, and ``latent_penalty`` times the square of the latent, as in RAE-L2.

    When it has learnt, a Gaussian with full covariance, or a mixture of them, is fitted to the latents of each class (of all
    rows, without a condition); new rows are decoded from draws of it.
    """

    spec: AutoencoderSpec

    def build(self) -> None:
        spec = self.spec
        features = networks.encoder(spec.network, self.shape, spec.width, norm=True)
        network = Deterministic(
            networks.Head(features, self.classes, spec.latent),
            networks.decoder(spec.network, spec.latent, self.classes, self.shape, spec.width, class_scale=3.0),
        )
        self.networks = {"autoencoder": network.to(self.device)}
        classes = max(1, self.classes)
        mixed = spec.density == "mixture"
        density = Mixture(classes, spec.components, spec.latent) if mixed else Density(classes, spec.latent)
        self.density = density.to(self.device)

    def sampler(self) -> Sampler:
        network = local(self.networks["autoencoder"])
        assert isinstance(network, Deterministic)
        return DensitySampler(network.encoder, network.decoder, self.density)

    def step(self, images: Tensor, classes: Tensor | None) -> Losses:
        return self.descend("autoencoder", self._loss, self.cut(images, classes))

    def _loss(self, images: Tensor, classes: Tensor | None) -> tuple[Tensor, Losses]:
        reconstructed, latent = self.networks["autoencoder"](images, classes)
        error = F.mse_loss(reconstructed.float(), images, reduction="sum") / len(images)
        loss = error + self.spec.latent_penalty * latent.float().pow(2).sum(1).mean()
        return loss, {"loss": loss.detach(), "squared_error": error.detach()}

    @torch.no_grad()
    def finish(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> dict[str, float]:
        """Fit the density on the averaged encoder's latents of all workers' rows."""
        assert isinstance(self.average, DensitySampler)
        self.average.encoder.eval()
        return self.average.density.learn(self._latents(batches))

    @torch.no_grad()
    def rehearse(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Fit Gaussians, which are quickly fitted, on some rows."""
        assert isinstance(self.average, DensitySampler)
        training = self.average.training
        self.average.eval()
        self.average.density.rehearse(self._latents(batches))
        self.average.train(training)

    def _latents(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> Iterator[tuple[Tensor, Tensor | None]]:
        assert isinstance(self.average, DensitySampler)
        return ((self.average.encoder(images, classes), classes) for images, classes in batches)


class DensitySampler(Sampler):
    """Noise → a draw of the density → the decoder.

    A variant is decoded from the latent of its row, moved by ``strength`` standard deviations of the density.
    """

    has_latent: ClassVar[bool] = True

    def __init__(self, encoder: nn.Module, decoder: nn.Module, density: Density) -> None:
        super().__init__()
        self.encoder, self.decoder, self.density = encoder, decoder, density
        self.noise = density.noise

    def forward(self, noise: Tensor, classes: Tensor | None) -> Tensor:
        return self._decode(self.density(noise, classes), classes)

    def vary(self, images: Tensor, noise: Tensor, classes: Tensor | None, strength: float) -> Tensor:
        latent = self.encoder(images, classes) + strength * self.density.deviation(noise, classes)
        return self._decode(latent, classes)

    def between(self, start: Given, end: Given, share: Tensor) -> Tensor:
        """On a straight line from the mean of one component to that of the other, and on an arc around it: the number that
        picks a component is none to go along."""
        mean, other = (self.density.mean[self.density.component(*given)] for given in (start, end))
        around = slerp(self.density.deviation(*start), self.density.deviation(*end), share)
        latent = torch.lerp(mean, other, share[:, None]) + around
        return self._decode(latent, nearer(start[1], end[1], share))

    def _decode(self, latent: Tensor, classes: Tensor | None) -> Tensor:
        return torch.tanh(self.decoder(latent, classes))
