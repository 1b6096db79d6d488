"""``autoencoder``: deterministic autoencoders with a density fitted on their latent space (Ghosh et al. 2020,
"From variational to deterministic autoencoders", arXiv 1903.12436)."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from raygen.generators import networks
from raygen.generators.base import Family, Sampler, local
from raygen.spec import AutoencoderSpec


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

    When it has learnt, a Gaussian with full covariance is fitted to the latents of each class (of all rows, without a
    condition); new rows are decoded from draws of it.
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
        self.density = Density(max(1, self.classes), spec.latent).to(self.device)

    def optimizer(self, name: str, network: nn.Module) -> Optimizer:
        return torch.optim.Adam(network.parameters(), lr=self.spec.learning_rate)

    def sampler(self) -> Sampler:
        network = local(self.networks["autoencoder"])
        assert isinstance(network, Deterministic)
        return DensitySampler(network.encoder, network.decoder, self.density)

    def step(self, images: Tensor, classes: Tensor | None) -> dict[str, Tensor]:
        reconstructed, latent = self.networks["autoencoder"](images, classes)
        error = F.mse_loss(reconstructed.float(), images, reduction="sum") / len(images)
        loss = error + self.spec.latent_penalty * latent.float().pow(2).sum(1).mean()
        self.descend("autoencoder", loss)
        return {"loss": loss.detach(), "squared_error": error.detach()}

    @torch.no_grad()
    def finish(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Fit the density on the averaged encoder's latents of all workers' rows: its moments are sums, so workers add
        theirs up."""
        assert isinstance(self.average, DensitySampler)
        latent, components = self.spec.latent, max(1, self.classes)
        count = torch.zeros(components, dtype=torch.float64, device=self.device)
        total = torch.zeros(components, latent, dtype=torch.float64, device=self.device)
        square = torch.zeros(components, latent, latent, dtype=torch.float64, device=self.device)
        encoder = self.average.encoder.eval()
        for images, classes in batches:
            z = encoder(images, classes).double()
            component = _component(z, classes)
            count.index_add_(0, component, torch.ones_like(z[:, 0]))
            total.index_add_(0, component, z)
            square.index_add_(0, component, z[:, :, None] * z[:, None, :])
        if dist.is_available() and dist.is_initialized():
            for moment in (count, total, square):
                dist.all_reduce(moment)
        self.average.density.fit(count, total, square)


class Density(nn.Module):
    """A Gaussian per component: mean ``(components, d)`` and the Cholesky factor of its covariance."""

    mean: Tensor
    scale: Tensor

    def __init__(self, components: int, latent: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(components, latent))
        self.register_buffer("scale", torch.eye(latent).repeat(components, 1, 1))

    def fit(self, count: Tensor, total: Tensor, square: Tensor) -> None:
        """From the number of rows, the sum of latents and the sum of their outer products, per component, in float64."""
        n = count.clamp(min=1)[:, None]
        mean = total / n
        covariance = square / n[..., None] - mean[:, :, None] * mean[:, None, :]
        # A class with few rows has a singular covariance: a little of the identity keeps the factor defined.
        ridge = 1e-6 + 1e-4 * covariance.diagonal(dim1=1, dim2=2).mean(1)
        covariance += ridge[:, None, None] * torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device)
        self.mean.copy_(mean)
        self.scale.copy_(torch.linalg.cholesky(covariance))

    def forward(self, noise: Tensor, classes: Tensor | None) -> Tensor:
        """Draws, ``(n, d)``, from standard normal noise ``(n, d)``."""
        return self.mean[_component(noise, classes)] + self.deviation(noise, classes)

    def deviation(self, noise: Tensor, classes: Tensor | None) -> Tensor:
        """How far from the mean of their component draws are, ``(n, d)``: its standard deviation in every direction."""
        # A sum of products, not a batched matrix product: its bits do not depend on what else is in the batch.
        return (self.scale[_component(noise, classes)] * noise[:, None, :]).sum(2)


def _component(rows: Tensor, classes: Tensor | None) -> Tensor:
    """Of the density, for each row: its class, or the only one there is."""
    return torch.zeros(len(rows), dtype=torch.int64, device=rows.device) if classes is None else classes


class DensitySampler(Sampler):
    """Noise → a draw of the density → the decoder.

    A variant is decoded from the latent of its row, moved by ``strength`` standard deviations of the density.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, density: Density) -> None:
        super().__init__()
        self.encoder, self.decoder, self.density = encoder, decoder, density
        self.noise = density.mean.shape[1]

    def forward(self, noise: Tensor, classes: Tensor | None) -> Tensor:
        return self._decode(self.density(noise, classes), classes)

    def vary(self, images: Tensor, noise: Tensor, classes: Tensor | None, strength: float) -> Tensor:
        latent = self.encoder(images, classes) + strength * self.density.deviation(noise, classes)
        return self._decode(latent, classes)

    def _decode(self, latent: Tensor, classes: Tensor | None) -> Tensor:
        return torch.tanh(self.decoder(latent, classes))
