"""``gan``: generative adversarial networks with the non-saturating loss (Goodfellow et al. 2014, arXiv 1406.2661)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from raygen.generators import networks
from raygen.generators.base import Family, Sampler, local
from raygen.spec import GanSpec


class Gan(Family):
    """Minimizes −log D(x) − log(1 − D(G(z))) over D and −log D(G(z)) over G, one step of each a batch.

    Two things keep it from collapsing to one image per class on small data, both off at 0: ``r1``, half of which weighs
    the squared gradient of D at real images (Mescheder et al. 2018, arXiv 1801.04406), and ``diff_augment``, the share of
    the image by which all that D sees is shifted at random (DiffAugment's translation, Zhao et al. 2020, arXiv 2006.10738).
    """

    spec: GanSpec

    def build(self) -> None:
        spec = self.spec
        generator = networks.decoder(spec.network, spec.latent, self.classes, self.shape, spec.width, class_scale=0.1)
        features = networks.encoder(spec.network, self.shape, spec.width, norm=False, dropout=0.3)
        discriminator = networks.Projection(features, self.classes)
        self.networks = {"generator": generator.to(self.device), "discriminator": discriminator.to(self.device)}

    def optimizer(self, name: str, network: nn.Module) -> Optimizer:
        rate = self.spec.learning_rate if name == "generator" else self.spec.discriminator_learning_rate
        return torch.optim.Adam(network.parameters(), lr=rate, betas=(0.5, 0.999))

    def sampler(self) -> Sampler:
        return TanhSampler(local(self.networks["generator"]), self.spec.latent)

    def step(self, images: Tensor, classes: Tensor | None) -> dict[str, Tensor]:
        generator, discriminator = self.networks["generator"], self.networks["discriminator"]
        noise = torch.randn(len(images), self.spec.latent, device=images.device)
        fake = torch.tanh(generator(noise, classes))

        real = self._augment(images).detach().requires_grad_(self.spec.r1 > 0)
        twice = None if classes is None else torch.cat([classes, classes])
        logits = discriminator(torch.cat([real, self._augment(fake.detach())]), twice).float()
        real_logits, fake_logits = logits.chunk(2)
        d_loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        penalty = self._penalty(real_logits, real) if self.spec.r1 else 0.0
        self.descend("discriminator", d_loss + penalty)

        # The discriminator's own gradients are neither needed nor to be synchronized here.
        judge = local(discriminator).requires_grad_(False)
        g_loss = F.softplus(-judge(self._augment(fake), classes).float()).mean()
        self.descend("generator", g_loss)
        judge.requires_grad_(True)
        return {
            "generator_loss": g_loss.detach(),
            "discriminator_loss": d_loss.detach(),
            "real_accuracy": (real_logits > 0).float().mean(),
            "fake_accuracy": (fake_logits < 0).float().mean(),
        }

    def _penalty(self, logits: Tensor, real: Tensor) -> Tensor:
        """R1: half the weight times the mean over rows of the squared norm of dD/dx."""
        (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        return self.spec.r1 / 2 * gradient.float().pow(2).sum((1, 2, 3)).mean()

    def _augment(self, images: Tensor) -> Tensor:
        """Shift each image by its own whole number of pixels; what comes in is black (−1)."""
        n, _, height, width = images.shape
        reach = round(self.spec.diff_augment * min(height, width))
        if not reach:
            return images
        padded = F.pad(images, (reach,) * 4, value=-1.0)
        down, right = torch.randint(0, 2 * reach + 1, (2, n, 1), device=images.device)
        y = down + torch.arange(height, device=images.device)
        x = right + torch.arange(width, device=images.device)
        row = torch.arange(n, device=images.device)
        # The two index arrays put the pixels first and the channels last.
        return padded[row[:, None, None], :, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


class TanhSampler(Sampler):
    """Noise is the latent; a row is the generator's output."""

    def __init__(self, decoder: nn.Module, latent: int) -> None:
        super().__init__()
        self.decoder, self.noise = decoder, latent

    def forward(self, noise: Tensor, classes: Tensor | None) -> Tensor:
        return torch.tanh(self.decoder(noise, classes))
