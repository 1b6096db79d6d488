"""``gan`` on tables, in the manner of CTGAN (Xu et al. 2019, arXiv 1907.00503)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from raygen.generators import tabular
from raygen.generators.base import Family, Losses, Sampler, local
from raygen.generators.gan import discriminator_loss, generator_loss
from raygen.generators.networks import Tokens
from raygen.options import TabularGanSpec


class TabularGenerator(nn.Module):
    """Latent ``(n, latent)``, tokens int64 ``(n, columns)`` and which of them are given, bool ``(n, columns)`` → the scores
    of each column's tokens, ``(n, tokens)`` each. What is given is CTGAN's conditional vector, of any number of columns."""

    def __init__(self, tokens: Tokens, spec: TabularGanSpec) -> None:
        super().__init__()
        self.tokens = tokens
        self.latent = nn.Linear(spec.latent, spec.width, bias=False)
        self.given = tabular.Seen(tokens, spec.embedding, spec.width)
        self.layers = nn.Sequential(
            nn.BatchNorm1d(spec.width),
            nn.ReLU(),
            nn.Linear(spec.width, spec.width, bias=False),
            nn.BatchNorm1d(spec.width),
            nn.ReLU(),
            tabular.Scores(tokens, spec.width, spec.features),
        )

    def forward(self, latent: Tensor, tokens: Tensor, given: Tensor) -> list[Tensor]:
        return self.layers(self.latent(latent) + self.given(tokens, given))  # type: ignore[no-any-return]


class TabularDiscriminator(nn.Module):
    """Tokens int64 ``(n, columns)``, their chances or None, and which are given, bool ``(n, columns)`` → logits
    ``(n / pack,)``, high where rows look real, and the numbers that tokens are to it, ``(n, columns, embedding)``.

    It judges ``pack`` rows at once (Lin et al. 2018, "PacGAN", arXiv 1712.04086). The gradient of a token goes to the
    chances that it was drawn by, as if each had its share of what the network sees (straight through).
    """

    def __init__(self, tokens: Tokens, spec: TabularGanSpec) -> None:
        super().__init__()
        self.tokens, self.pack = tokens, spec.pack
        self.embedding = nn.Embedding(sum(tokens), spec.embedding)
        inputs = len(tokens) * (spec.embedding + 1) * spec.pack
        self.layers = nn.Sequential(
            nn.Linear(inputs, spec.width),
            nn.LeakyReLU(0.2),
            nn.Linear(spec.width, spec.width),
            nn.LeakyReLU(0.2),
        )
        self.linear = nn.Linear(spec.width, 1)

    def forward(self, tokens: Tensor, chances: list[Tensor] | None, given: Tensor) -> tuple[Tensor, Tensor]:
        of_columns = torch.split(self.embedding.weight, list(self.tokens))
        seen = [F.embedding(token, weight) for token, weight in zip(tokens.unbind(1), of_columns, strict=True)]
        embedded = torch.stack(seen, 1)
        if chances is not None:
            mixed = [of @ weight for of, weight in zip(chances, of_columns, strict=True)]
            through = torch.stack(mixed, 1).masked_fill(given[..., None], 0)
            embedded = embedded + through - through.detach()
        packed = torch.cat([embedded, given[..., None]], 2).view(len(tokens) // self.pack, -1)
        return self.linear(self.layers(packed)).squeeze(1), embedded


class TabularGan(Family):
    """Trains D to tell real rows from made ones and G to be taken for real, a step of each a batch.

    Of half of the rows one column is given: any, as likely, and its token by the logarithm of how many rows of the batch
    have it, so that rare ones are learnt too. Both networks are told, and the real rows are such ones (training by
    sampling). Where there is a condition, that is the column, and it is given of the other rows too.
    In addition G is rewarded for columns whose ``marginals`` are as the real rows'. ``r1`` weighs half the squared gradient
    of D at real rows' embeddings (Mescheder et al. 2018, arXiv 1801.04406). Tokens are drawn with Gumbel noise, and the
    gradient goes through the softmax of the scores with it, at a ``temperature`` (Jang et al. 2017, arXiv 1611.01144).
    """

    spec: TabularGanSpec

    def build(self) -> None:
        generator, discriminator = TabularGenerator(self.tokens, self.spec), TabularDiscriminator(self.tokens, self.spec)
        self.networks = {"generator": generator.to(self.device), "discriminator": discriminator.to(self.device)}

    def optimizer(self, name: str, network: nn.Module) -> Optimizer:
        """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101)."""
        spec = self.spec
        rate = spec.learning_rate if name == "generator" else spec.discriminator_learning_rate
        return torch.optim.AdamW(network.parameters(), lr=rate, betas=(spec.beta1, spec.beta2), fused=True)

    def compile(self) -> None:
        """Without the discriminator: torch does not compile what is differentiated twice, as for its penalty."""
        self.networks["generator"].compile()

    def sampler(self) -> Sampler:
        network = local(self.networks["generator"])
        assert isinstance(network, TabularGenerator)
        return TabularGanSampler(network, self.spec.latent)

    def step(self, images: Tensor, classes: Tensor | None) -> Losses:
        discriminator, rows = self.networks["discriminator"], len(images)
        latent, uniform = self.randn(rows, self.spec.latent + 3).tensor_split([self.spec.latent], dim=1)
        tokens, given = by_sampling(images.long(), torch.special.ndtr(uniform), self.tokens)
        packs = self.spec.pack * self.pieces
        whole = torch.arange(-(-rows // packs) * packs, device=images.device) % rows  # some rows twice, to fill the packs
        pieces = self.cut(tokens[whole], given[whole], latent[whole])
        # Of several pieces the tokens alone are kept for the generator's step, which makes others: that saves memory.
        once = self.pieces == 1
        with torch.set_grad_enabled(once):
            made = [self._draw(*piece) for piece in pieces]

        judged = self.descend(
            "discriminator",
            lambda real, given, _, fake: self._judge(real, given, fake[0]),
            [(*piece, fake) for piece, fake in zip(pieces, made, strict=True)],
        )
        # The discriminator's own gradients are neither needed nor to be synchronized here.
        local(discriminator).requires_grad_(False)

        def fool(real: Tensor, given: Tensor, latent: Tensor) -> tuple[Tensor, Losses]:
            fake, chances = made[0] if once else self._draw(real, given, latent)
            logits, _ = local(discriminator)(fake, chances, given)
            loss = generator_loss(self.spec.loss, logits.float())
            return loss + self.spec.marginals * apart(real, chances), {"generator_loss": loss.detach()}

        fooled = self.descend("generator", fool, pieces)
        local(discriminator).requires_grad_(True)
        return {**fooled, **judged}

    def _draw(self, tokens: Tensor, given: Tensor, latent: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Made rows' tokens, and the chances that their gradient goes to."""
        scores = torch.cat(self.networks["generator"](latent, tokens, given), 1).float()
        noisy = scores - torch.rand_like(scores).clamp(1e-20, 1 - 2**-24).log().neg().log()
        by_column = torch.split(noisy, list(self.tokens), 1)
        drawn = torch.stack([column.argmax(1) for column in by_column], 1)
        return torch.where(given, tokens, drawn), [(column / self.spec.temperature).softmax(1) for column in by_column]

    def _judge(self, real: Tensor, given: Tensor, fake: Tensor) -> tuple[Tensor, Losses]:
        """What the discriminator descends, all in one forward pass, which is what DistributedDataParallel synchronizes."""
        logits, embedded = self.networks["discriminator"](torch.cat([real, fake]), None, given.repeat(2, 1))
        of_real, of_fake = logits.float().chunk(2)
        loss = discriminator_loss(self.spec.loss, of_real, of_fake)
        shown = {
            "discriminator_loss": loss.detach(),
            "real_accuracy": (of_real > 0).float().mean(),
            "fake_accuracy": (of_fake < 0).float().mean(),
        }
        if self.spec.r1:
            (slope,) = torch.autograd.grad(of_real.sum(), embedded, create_graph=True)
            loss = loss + 0.5 * self.spec.r1 * slope.float().pow(2).sum() / len(of_real)
        return loss, shown


def by_sampling(tokens: Tensor, uniform: Tensor, counts: Tokens) -> tuple[Tensor, Tensor]:
    """Rows of a batch, int64 ``(n, columns)``, and what is given of each, bool ``(n, columns)``.

    Half are the batch's own, of which nothing is given. Of the others one column is, any as likely; they are drawn so that
    its tokens are there as the logarithms of how many rows have them. Where there is a condition, that is the column, and it
    is given of all.

    Args:
        uniform: in [0, 1], ``(n, 3)``.
    """
    rows, columns = tokens.shape
    kind, which, row = uniform.unbind(1)
    column = (which * columns).long().clamp(max=columns - 1)
    if counts.condition is not None:
        column = torch.full_like(column, counts.condition)
    sizes = [torch.bincount(of, minlength=count)[of].float() for of, count in zip(tokens.unbind(1), counts, strict=True)]
    weights = torch.stack([size.log1p() / size for size in sizes]).cumsum(1)[column]
    chosen = torch.searchsorted(weights, row[:, None] * weights[:, -1:])[:, 0].clamp(max=rows - 1)
    some = kind < 0.5
    given = F.one_hot(column, columns).bool() & (some | (counts.condition is not None))[:, None]
    return tokens[torch.where(some, chosen, torch.arange(rows, device=tokens.device))], given


def apart(tokens: Tensor, chances: list[Tensor]) -> Tensor:
    """How far the mean of some chances, ``(n, tokens)`` for each column, is from how many rows have which tokens,
    ``(n, columns)``: the mean over columns of the Kullback–Leibler divergence, in nats."""
    apart = []
    for of, made in zip(tokens.unbind(1), chances, strict=True):
        shares = torch.bincount(of, minlength=made.shape[1]) / len(of)
        apart.append(F.kl_div((made.mean(0) + 1e-6).log(), shares, reduction="sum"))
    return torch.stack(apart).mean()


class TabularGanSampler(tabular.LatentSampler):
    def __init__(self, network: TabularGenerator, latent: int) -> None:
        super().__init__(latent, len(network.tokens))
        self.network = network

    def scores(self, latent: Tensor, tokens: Tensor, given: Tensor) -> list[Tensor]:
        return self.network(latent, tokens, given)  # type: ignore[no-any-return]
