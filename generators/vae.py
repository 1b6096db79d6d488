"""``vae``: variational autoencoders (Kingma and Welling 2013, arXiv 1312.6114)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from raygen.generators import networks
from raygen.generators.base import Family, Sampler, local
from raygen.spec import VaeSpec


class Variational(nn.Module):
    """Images ``(n, *shape)`` → pixel logits ``(n, *shape)`` of a sample of q(z|x), and q's mean and log variance."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, images: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(images, classes).chunk(2, dim=1)
        latent = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        return self.decoder(latent, classes), mean, log_variance


class Vae(Family):
    """Maximizes the evidence lower bound E log p(x|z) − KL(q(z|x) ‖ N(0, 1)), in nats per row.

    Pixels scaled to [0, 1] are scored as the means of Bernoulli variables, as is usual for digits.
    """

    spec: VaeSpec

    def build(self) -> None:
        spec = self.spec
        features = networks.encoder(spec.network, self.shape, spec.width, norm=True)
        network = Variational(
            networks.Head(features, self.classes, 2 * spec.latent),
            networks.decoder(spec.network, spec.latent, self.classes, self.shape, spec.width, class_scale=3.0),
        )
        self.networks = {"autoencoder": network.to(self.device)}

    def optimizer(self, name: str, network: nn.Module) -> Optimizer:
        return torch.optim.Adam(network.parameters(), lr=self.spec.learning_rate)

    def sampler(self) -> Sampler:
        network = local(self.networks["autoencoder"])
        assert isinstance(network, Variational)
        return MeanSampler(network.encoder, network.decoder, self.spec.latent)

    def step(self, images: Tensor, classes: Tensor | None) -> dict[str, Tensor]:
        logits, mean, log_variance = (part.float() for part in self.networks["autoencoder"](images, classes))
        pixels = (images + 1) / 2
        reconstruction = F.binary_cross_entropy_with_logits(logits, pixels, reduction="sum") / len(images)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
        loss = reconstruction + divergence
        self.descend("autoencoder", loss)
        return {
            "loss": loss.detach(),
            "reconstruction": reconstruction.detach(),
            "divergence": divergence.detach(),
        }


class MeanSampler(Sampler):
    """Noise is the latent; a row is the mean of the decoder's Bernoulli pixels, scaled to [-1, 1].

    A variant is decoded from the mean of q(z|x) and noise around it; strength 1 is as wide as the prior.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, latent: int) -> None:
        super().__init__()
        self.encoder, self.decoder, self.noise = encoder, decoder, latent

    def forward(self, noise: Tensor, classes: Tensor | None) -> Tensor:
        return torch.sigmoid(self.decoder(noise, classes)) * 2 - 1

    def vary(self, images: Tensor, noise: Tensor, classes: Tensor | None, strength: float) -> Tensor:
        mean, _ = self.encoder(images, classes).chunk(2, dim=1)
        return self(mean + strength * noise, classes)  # type: ignore[no-any-return]
