"""``autoregressive``: a table's columns one after the other, each drawn given those before; any can be given instead."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from raygen.generators.base import Family, Losses, Sampler, local
from raygen.generators.conditionals import Conditionals
from raygen.spec import AutoregressiveSpec

PLACES = 2**32
"""Within a token: so few that the sum of the two is exact in float64, and the place stays below 1."""


class Autoregressive(Family):
    """Maximizes the likelihood of the columns that are hidden, given those that are seen, which are drawn for each row.

    With any subset seen, however large, this is the order-agnostic bound of Uria et al. (2014, "A deep and tractable density
    estimator", arXiv 1310.1757), on which half of the training is spent. Where nothing is given, rows are made in the order
    of the columns; so the other half sees those up to one of them.
    """

    spec: AutoregressiveSpec
    kinds = frozenset({"tables"})

    def build(self) -> None:
        spec = self.spec
        network = Conditionals(self.tokens, spec.embedding, spec.width, spec.features)
        self.networks = {"conditionals": network.to(self.device)}

    def optimizer(self, name: str, network: nn.Module) -> Optimizer:
        """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101)."""
        return torch.optim.AdamW(network.parameters(), lr=self.spec.learning_rate, fused=True)

    def sampler(self) -> Sampler:
        network = local(self.networks["conditionals"])
        assert isinstance(network, Conditionals)
        return ConditionalSampler(network)

    def step(self, images: Tensor, classes: Tensor | None) -> Losses:
        tokens = images.long()
        rows, columns = tokens.shape
        seen = visible(torch.special.ndtr(self.randn(rows, columns + 3)))
        return self.descend("conditionals", self._loss, self.cut(tokens, seen))

    def _loss(self, tokens: Tensor, seen: Tensor) -> tuple[Tensor, Losses]:
        hidden = ~seen
        log_likelihood = self.networks["conditionals"](tokens, seen)
        # As if all columns were hidden: in nats per row.
        whole = hidden.shape[1] / hidden.sum(1)
        loss = -((log_likelihood * hidden).sum(1) * whole).mean()
        return loss, {"loss": loss.detach()}


def visible(uniform: Tensor) -> Tensor:
    """Which columns of each row are seen, never all of them: bool ``(n, columns)``.

    Args:
        uniform: in [0, 1], ``(n, columns + 3)``.
    """
    chance, (kind, share, hidden) = uniform[:, :-3], uniform[:, -3:, None].unbind(1)
    columns = chance.shape[1]
    order = torch.arange(columns, device=uniform.device)
    up_to = order < (share * columns).floor().clamp(max=columns - 1)
    # One is hidden, and each of the others by a chance that is uniform, so that any number of them is as likely as another.
    some = (chance < share) & (order != (hidden * columns).floor().clamp(max=columns - 1))
    return torch.where(kind < 0.5, up_to, some)


class ConditionalSampler(Sampler):
    """Two numbers of noise are a cell: which token, by the inverse of its cumulative distribution, and where within it."""

    tile: ClassVar[int] = 1024

    def __init__(self, network: Conditionals) -> None:
        super().__init__()
        self.network = network
        self.noise = 2 * len(network.tokens)

    def forward(self, noise: Tensor, given: Tensor | None) -> Tensor:
        columns = len(self.network.tokens)
        which, where = torch.special.ndtr(noise.double()).chunk(2, dim=1)
        which = which.float().clamp(max=1 - 2**-23)
        places = (where * PLACES).floor().clamp(max=PLACES - 1) / PLACES
        cells = torch.full_like(places, torch.nan) if given is None else given.clone()
        free = cells.isnan()
        known = self.network.known(cells.nan_to_num().long(), ~free)
        for column in range(columns):
            asked = free[:, column]
            if not asked.any():
                continue
            chances = self.network.logits(known, column).float().softmax(1).cumsum(1)
            drawn = which[:, column, None] * chances[:, -1:]
            token = torch.searchsorted(chances, drawn, right=True)[:, 0].clamp(max=chances.shape[1] - 1)
            cells[:, column] = torch.where(asked, token + places[:, column], cells[:, column])
            nothing = chances.shape[1]  # the number of a term for rows whose token is known already
            known += F.embedding(token.masked_fill(~asked, nothing), F.pad(self.network.terms(column), (0, 0, 0, 1)))
        return cells
