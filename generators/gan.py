"""``gan``: generative adversarial networks (Goodfellow et al. 2014, arXiv 1406.2661)."""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from raygen.generators import augmentation, discriminators, networks
from raygen.generators.base import Family, Losses, Sampler, local
from raygen.options import GanSpec


class Gan(Family):
    """Trains D to tell real rows from made ones and G to be taken for real, a step of D and at most one of G a batch.

    What keeps it from collapsing to one image per class on small data is off at 0: ``r1``, half of which weighs the squared
    gradient of D at real images (Mescheder et al. 2018, arXiv 1801.04406), and ``diff_augment`` with its policies. R1 may be
    lazy (StyleGAN2, Karras et al. 2019, arXiv 1912.04958): every k-th batch, and k times as much then.
    """

    spec: GanSpec

    def build(self) -> None:
        spec = self.spec
        generator = networks.decoder(spec.network, spec.latent, self.classes, self.shape, spec.width, class_scale=0.1)
        features = networks.encoder(spec.network, self.shape, spec.width, norm=False, dropout=0.3)
        kind = discriminators.Auxiliary if spec.conditioning == "auxiliary" else discriminators.Projection
        discriminator = kind(features, self.classes)
        if spec.spectral_norm:
            discriminators.normalize(discriminator)
        self.networks = {"generator": generator.to(self.device), "discriminator": discriminator.to(self.device)}

    def optimizer(self, name: str, network: nn.Module) -> Optimizer:
        rate = self.spec.learning_rate if name == "generator" else self.spec.discriminator_learning_rate
        return torch.optim.Adam(network.parameters(), lr=rate, betas=(self.spec.beta1, self.spec.beta2), fused=True)

    def compile(self) -> None:
        """Without the discriminator: torch does not compile what is differentiated twice, as for its penalties."""
        self.networks["generator"].compile()

    def sampler(self) -> Sampler:
        return TanhSampler(local(self.networks["generator"]), self.spec.latent)

    def step(self, images: Tensor, classes: Tensor | None) -> Losses:
        generator, discriminator = self.networks["generator"], self.networks["discriminator"]
        learns = self.steps % self.spec.discriminator_steps == 0
        noise = self.randn(len(images), self.spec.latent)
        # Of several pieces the rows alone are kept for the generator's step, which makes them again: that saves memory.
        once = self.pieces == 1
        with torch.set_grad_enabled(learns and once):
            fakes = [torch.tanh(generator(noise, classes)) for noise, classes in self.cut(noise, classes)]
        pieces = [(*piece, fake) for piece, fake in zip(self.cut(images, noise, classes), fakes, strict=True)]

        judged = self.descend(
            "discriminator", lambda real, _, classes, fake: self._judge(real, fake.detach(), classes), pieces
        )
        # The discriminator's own gradients are neither needed nor to be synchronized here.
        local(discriminator).requires_grad_(False)

        def fool(_: Tensor, noise: Tensor, classes: Tensor | None, fake: Tensor) -> tuple[Tensor, Losses]:
            return self._fool(fake if once else torch.tanh(generator(noise, classes)), classes)

        if learns:
            fooled = self.descend("generator", fool, pieces)
        else:
            with torch.no_grad():
                _, fooled = fool(*pieces[0])
        local(discriminator).requires_grad_(True)
        return {**fooled, **judged}

    def _judge(self, real: Tensor, fake: Tensor, classes: Tensor | None) -> tuple[Tensor, Losses]:
        """What the discriminator descends, all in one forward pass, which is what DistributedDataParallel synchronizes."""
        spec, discriminator = self.spec, self.networks["discriminator"]
        regularized = spec.r1 > 0 and self.steps % spec.r1_every == 0
        seen = [self._augment(real).detach().requires_grad_(regularized), self._augment(fake)]
        if spec.loss == "wgan_gp":
            seen.append(between(*seen).requires_grad_())
        logits, guesses = discriminator(torch.cat(seen), None if classes is None else classes.repeat(len(seen)))
        real_logits, fake_logits, *_ = parts = logits.float().split(len(real))
        loss = discriminator_loss(spec.loss, real_logits, fake_logits)
        of_class = class_loss(guesses, classes)
        shown = {"discriminator_loss": loss.detach()}
        if spec.loss != "wgan_gp":  # whose logits mean something by their differences only
            shown["real_accuracy"] = (real_logits > 0).float().mean()
            shown["fake_accuracy"] = (fake_logits < 0).float().mean()
        if isinstance(of_class, Tensor):
            shown["class_loss"] = of_class.detach()
        return loss + spec.auxiliary_weight * of_class + self._penalty(parts, seen), shown

    def _fool(self, fake: Tensor, classes: Tensor | None) -> tuple[Tensor, Losses]:
        """What the generator descends."""
        logits, guesses = local(self.networks["discriminator"])(self._augment(fake), classes)
        loss = generator_loss(self.spec.loss, logits.float())
        # The level of a critic means nothing, so neither does that of its logits.
        shown = {} if self.spec.loss == "wgan_gp" else {"generator_loss": loss.detach()}
        return loss + self.spec.auxiliary_weight * class_loss(guesses, classes), shown

    def _penalty(self, logits: Sequence[Tensor], seen: Sequence[Tensor]) -> Tensor | float:
        """Of the slope at real images or at those between, whichever is differentiable."""
        if self.spec.loss == "wgan_gp":
            return self.spec.gradient_penalty * slope_penalty(logits[2], seen[2])
        return self.spec.r1_every * self.spec.r1 * r1_penalty(logits[0], seen[0]) if seen[0].requires_grad else 0.0

    def _augment(self, images: Tensor) -> Tensor:
        for policy in self.spec.diff_augment_policy:
            if policy == "translation":
                images = augmentation.translation(images, self.spec.diff_augment)
            else:
                images = augmentation.colour(images) if policy == "colour" else augmentation.cutout(images)
        return images


def discriminator_loss(kind: str, real: Tensor, fake: Tensor) -> Tensor:
    """Of logits of real and made rows, each ``(n,)``: −log D(x) − log(1 − D(G(z))) where the logits are of a probability D;
    a margin of 1 (``hinge``, Lim and Ye 2017, arXiv 1705.02894); or the Wasserstein distance, negative (``wgan_gp``)."""
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if kind == "wgan_gp":
        return fake.mean() - real.mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(kind: str, fake: Tensor) -> Tensor:
    """−log D(G(z)) if ``non_saturating``, else the negative logit."""
    return F.softplus(-fake).mean() if kind == "non_saturating" else -fake.mean()


def class_loss(guesses: Tensor | None, classes: Tensor | None) -> Tensor | float:
    """Cross-entropy of what the discriminator guesses of the first rows, as many as there are classes given."""
    if guesses is None or classes is None:
        return 0.0
    return F.cross_entropy(guesses[: len(classes)].float(), classes)


def between(real: Tensor, fake: Tensor) -> Tensor:
    """A point between each real row and a made one, all as likely (Gulrajani et al. 2017, arXiv 1704.00028)."""
    share = torch.rand(len(real), 1, 1, 1, device=real.device)
    return torch.lerp(real, fake.to(real.dtype), share).detach()


def gradient(logits: Tensor, images: Tensor) -> Tensor:
    """dD/dx at each image, of the shape of the images and itself differentiable."""
    (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return slope.float()


def r1_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """The mean over rows of half the squared norm of dD/dx."""
    return 0.5 * gradient(logits, images).pow(2).sum((1, 2, 3)).mean()


def slope_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """The mean over rows of the squared difference of the norm of dD/dx and 1."""
    steepness: Tensor = torch.linalg.vector_norm(gradient(logits, images), dim=(1, 2, 3))
    return (steepness - 1).pow(2).mean()


class TanhSampler(Sampler):
    """Noise is the latent; a row is the generator's output."""

    has_latent: ClassVar[bool] = True

    def __init__(self, decoder: nn.Module, latent: int) -> None:
        super().__init__()
        self.decoder, self.noise = decoder, latent

    def forward(self, noise: Tensor, classes: Tensor | None) -> Tensor:
        return torch.tanh(self.decoder(noise, classes))
