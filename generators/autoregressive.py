"""``autoregressive``: a table's columns one after the other, each drawn given those before; any can be given instead."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from raygen.generators.base import Family, Losses, Sampler, local
from raygen.generators.bounds import CANDIDATES, Bounds, Choice, allowed
from raygen.generators.bounds import cells as bounded
from raygen.generators.conditionals import Conditionals
from raygen.generators.tabular import PLACES, drawn
from raygen.options import AutoregressiveSpec


class Autoregressive(Family):
    """Maximizes the likelihood of the columns that are hidden, given those that are seen, which are drawn for each row.

    With any subset seen, however large, this is the order-agnostic bound of Uria et al. (2014, "A deep and tractable density
    estimator", arXiv 1310.1757), on which half of the training is spent. Where nothing is given, rows are made in the order
    of the columns; so the other half sees those up to one of them.
    """

    spec: AutoregressiveSpec

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
    """Two numbers of noise are a cell: which token, by the inverse of its cumulative distribution, and where within it.

    Columns that have bounds come before those that have none. Each is drawn from what the network says of it, cut to its
    bounds. Of several, a later one says nothing to the earlier ones so: therefore a row has ``CANDIDATES``, and each weighs
    as much as the later columns' chance to be within bounds. That is exact if one column has bounds, and if more have, but
    for rows none of whose candidates was taken (see ``Choice``): few where much is allowed, most where the later columns
    are rarely within, and then as close as the best of so many. Every row is within the bounds in any case.

    Exact means as the network has it in this order. What it says in another is learnt, not derived, and may differ a little.
    """

    tile: ClassVar[int] = 1024
    uniform: ClassVar[bool] = True
    threads: ClassVar[int | None] = 1  # which wait for each other longer than they compute, a column at a time
    has_bounds: ClassVar[bool] = True

    def __init__(self, network: Conditionals) -> None:
        super().__init__()
        self.network = network
        self.noise = 2 * len(network.tokens)

    def noise_within(self, columns: int) -> int:
        return self.noise + CANDIDATES * (columns + 1)

    def forward(self, noise: Tensor, given: Tensor | None, bounds: Bounds | None = None) -> Tensor:
        columns, bounds = len(self.network.tokens), dict(sorted((bounds or {}).items()))
        which, where, candidates = noise.tensor_split([columns, 2 * columns], dim=1)
        places = (where * PLACES).floor() / PLACES
        cells = torch.full_like(places, torch.nan) if given is None else given.clone()
        free = cells.isnan()
        known = self.network.nothing(len(cells))
        for column in range(columns):
            self.network.tell(known, column, cells[:, column].nan_to_num().long(), ~free[:, column])
        if bounds:
            tokens = self._within(known, free, candidates, bounds)
            for (column, of), token in zip(bounds.items(), tokens.unbind(1), strict=True):
                within = bounded(token, places[:, column], of)
                cells[:, column] = torch.where(free[:, column], within, cells[:, column])
                self.network.tell(known, column, token, free[:, column])
        for column in range(columns):
            if column in bounds or not free[:, column].any():
                continue
            token = drawn(self.network.logits(known, column).softmax(1), which[:, column])
            cells[:, column] = torch.where(free[:, column], token + places[:, column], cells[:, column])
            self.network.tell(known, column, token, free[:, column])
        return cells

    def _within(self, known: Tensor, free: Tensor, noise: Tensor, bounds: Bounds) -> Tensor:
        """The tokens of the columns that have bounds, int64 ``(n, columns with bounds)``; where a cell is given, any."""
        choice = Choice(len(known), len(bounds), known.device)
        for *uniform, chance in (candidate.unbind(1) for candidate in noise.chunk(CANDIDATES, 1)):
            seen, log_weight, tokens = known.clone(), torch.zeros_like(chance), list[Tensor]()
            first = torch.ones_like(choice.taken)
            for (column, of), number in zip(bounds.items(), uniform, strict=True):
                asked, (may, log_size) = free[:, column], allowed(of)
                scores = self.network.logits(seen, column).log_softmax(1)[:, may] + log_size
                log_mass = scores.logsumexp(1)
                # The first of a row has the same for all candidates.
                log_weight += log_mass.masked_fill(first | ~asked, 0)
                first &= ~asked
                tokens.append(may[drawn(scores.softmax(1), number)])
                self.network.tell(seen, column, tokens[-1], asked)
            choice.offer(torch.stack(tokens, 1), log_weight, chance)
            if choice.taken.all():
                break
        return choice.tokens

    def vary(self, images: Tensor, noise: Tensor, classes: Tensor | None, strength: float) -> Tensor:
        """Rows of which each cell is kept with a chance of 1 − strength; the others are drawn given those.

        Args:
            images: the cells of the rows, float64 ``(n, columns)``.
            noise: uniform in [0, 1), ``(n, noise)``.
            classes: what is given of the variants, whatever the rows have there, as to ``forward``; or None.
            strength: from 0, the rows themselves, to 1, what ``forward`` makes of the noise.
        """
        which, where = noise.chunk(2, dim=1)
        kept = which < 1 - strength
        rest = torch.where(kept, which, (which - (1 - strength)) / strength)  # of those drawn, it is uniform again
        cells = images.masked_fill(~kept, torch.nan)
        given = cells if classes is None else torch.where(classes.isnan(), cells, classes)
        return self(torch.cat([rest, where], 1), given)  # type: ignore[no-any-return]
