"""``vae`` on tables, in the manner of TVAE (Xu et al. 2019, arXiv 1907.00503)."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from raygen.generators import tabular
from raygen.generators.base import Family, Losses, Sampler, local
from raygen.generators.networks import Tokens
from raygen.options import TabularVaeSpec


class TabularVariational(nn.Module):
    """Tokens int64 ``(n, columns)``, which of them are given, bool ``(n, columns)``, and standard normal noise
    ``(n, latent)`` → log p(token | z, those given) of each, ``(n, columns)``, in nats, at the sample z of q(z | row) that
    the noise makes; and KL(q(z | row) ‖ p(z | those given)) of each dimension, ``(n, latent)``.

    That any columns can be given is after Ivanov et al. (2019, "Variational autoencoder with arbitrary conditioning", arXiv
    1806.02382). Where none is, p(z) is standard normal.
    """

    def __init__(self, tokens: Tokens, spec: TabularVaeSpec) -> None:
        super().__init__()
        self.tokens = tokens
        self.row = tabular.Seen(tokens, spec.embedding, spec.width)
        self.posterior = nn.Sequential(nn.LayerNorm(spec.width), nn.ReLU(), nn.Linear(spec.width, 2 * spec.latent))
        self.given = tabular.Seen(tokens, spec.embedding, spec.width)
        self.prior = nn.Sequential(nn.LayerNorm(spec.width), nn.ReLU(), nn.Linear(spec.width, 2 * spec.latent))
        self.latent = nn.Linear(spec.latent, spec.width)
        self.decoder = nn.Sequential(nn.LayerNorm(spec.width), nn.ReLU(), tabular.Scores(tokens, spec.width, spec.features))

    def forward(self, tokens: Tensor, given: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        every = torch.ones_like(given)
        mean, log_variance = self.posterior(self.row(tokens, every)).float().chunk(2, dim=1)
        latent = mean + noise * torch.exp(0.5 * log_variance)
        known, of_mean, of_log_variance = self.known(tokens, given)
        apart = ((mean - of_mean) ** 2 + log_variance.exp()) / of_log_variance.exp()
        divergence = 0.5 * (apart - 1 - log_variance + of_log_variance)
        return -tabular.cross_entropy(self.scores(latent, known), tokens), divergence

    def known(self, tokens: Tensor, given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is known of rows by what is given, ``(n, width)``, and p(z)'s mean and log variance, ``(n, latent)``."""
        known, some = self.given(tokens, given), given.any(1, keepdim=True)
        mean, log_variance = (self.prior(known).float() * some).chunk(2, dim=1)
        return known, mean, log_variance

    def scores(self, latent: Tensor, known: Tensor) -> list[Tensor]:
        """Of each column's tokens, ``(n, tokens)``."""
        return self.decoder(self.latent(latent) + known)  # type: ignore[no-any-return]


class TabularVae(Family):
    """Maximizes the evidence lower bound E log p(row | z) − KL(q(z | row) ‖ p(z)), in nats per row, of the columns that are
    not given, given those that are, which are drawn for each row.

    ``beta`` weighs the divergence (Higgins et al. 2017, "beta-VAE"). ``loss`` is what is descended; ``reconstruction`` and
    ``divergence`` add up to the bound.
    """

    spec: TabularVaeSpec

    def build(self) -> None:
        self.networks = {"autoencoder": TabularVariational(self.tokens, self.spec).to(self.device)}

    def optimizer(self, name: str, network: nn.Module) -> Optimizer:
        """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101)."""
        return torch.optim.AdamW(network.parameters(), lr=self.spec.learning_rate, fused=True)

    def sampler(self) -> Sampler:
        network = local(self.networks["autoencoder"])
        assert isinstance(network, TabularVariational)
        return TabularVaeSampler(network, self.spec.latent)

    def step(self, images: Tensor, classes: Tensor | None) -> Losses:
        tokens = images.long()
        rows, columns = tokens.shape
        noise, drawn = self.randn(rows, self.spec.latent + columns + 3).tensor_split([self.spec.latent], dim=1)
        given = tabular.given_in_training(torch.special.ndtr(drawn))
        return self.descend("autoencoder", self._loss, self.cut(tokens, given, noise))

    def _loss(self, tokens: Tensor, given: Tensor, noise: Tensor) -> tuple[Tensor, Losses]:
        log_likelihood, by_dimension = self.networks["autoencoder"](tokens, given, noise)
        reconstruction = -(log_likelihood * ~given).sum() / len(tokens)
        divergence = by_dimension.sum(1).mean()
        loss = reconstruction + self.spec.beta * divergence
        shown = {"loss": loss, "reconstruction": reconstruction, "divergence": divergence}
        return loss, {name: value.detach() for name, value in shown.items()}


class TabularVaeSampler(tabular.LatentSampler):
    """The latent is one of p(z | what is given)."""

    def __init__(self, network: TabularVariational, latent: int) -> None:
        super().__init__(latent, len(network.tokens))
        self.network = network

    def scores(self, latent: Tensor, tokens: Tensor, given: Tensor) -> list[Tensor]:
        known, mean, log_variance = self.network.known(tokens, given)
        return self.network.scores(mean + latent * torch.exp(0.5 * log_variance), known)
