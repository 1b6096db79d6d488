"""Bounds: which tokens a column of a table may have, and which places within each."""

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

Bounds: TypeAlias = Mapping[int, Tensor]
"""By the index of a column: float64 ``(tokens, 2)``, from which place on and below which, in [0, 1]; the same where there is
none in the token. At least one token has some."""

CANDIDATES = 32
"""For what several columns with bounds are together, of which one is taken."""


def allowed(bounds: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens that have a place within bounds, int64 ``(allowed,)``, and the log of how much of each that is."""
    sizes = bounds[:, 1] - bounds[:, 0]
    tokens = (sizes > 0).nonzero()[:, 0]
    return tokens, sizes[tokens].log().float()


def cells(tokens: Tensor, places: Tensor, bounds: Tensor) -> Tensor:
    """Cells ``(n,)`` of allowed tokens, whose places in [0, 1) are moved to where the bounds are within each."""
    number = torch.arange(len(bounds), dtype=torch.float64, device=bounds.device)
    low, high = bounds.unbind(1)
    # The sums are rounded: to what is still within.
    least, most = number + low, number + high
    least = torch.where(least - number < low, torch.nextafter(least, least + 1), least)
    most = torch.where(most - number >= high, torch.nextafter(most, number), most)
    found = tokens + (low[tokens] + places * (high - low)[tokens])
    return found.clamp(least[tokens], most[tokens])


class Choice:
    """Of each row's candidates, one in proportion to its weight; they come one by one, as do the weights.

    The weights are at most 1, and so a candidate can be taken with a chance of its weight, and no more is needed: that is
    rejection sampling, and exact. A row that has taken none in the end has one of those that there were, in proportion to
    the weights: sampling importance resampling (Rubin 1987, "A noniterative sampling/importance resampling alternative to
    the data augmentation algorithm"), which is the closer the more candidates there are.

    Attributes:
        tokens: what each row has so far, int64 ``(n, columns)``.
        taken: which rows need no more candidates, bool ``(n,)``.
    """

    def __init__(self, rows: int, columns: int, device: torch.device) -> None:
        self.tokens = torch.zeros(rows, columns, dtype=torch.int64, device=device)
        self.taken = torch.zeros(rows, dtype=torch.bool, device=device)
        self._total = torch.full((rows,), -torch.inf, dtype=torch.float64, device=device)  # of the weights, its log

    def offer(self, tokens: Tensor, log_weight: Tensor, uniform: Tensor) -> None:
        """Another candidate of each row.

        Args:
            tokens: int64 ``(n, columns)``.
            log_weight: float64 ``(n,)``, at most 0.
            uniform: in [0, 1), ``(n,)``: what decides.
        """
        weight = log_weight.exp()
        takes = uniform < weight
        # What is left of the number is uniform again, and gives each its share of the total of those so far (Chao 1982).
        self._total = torch.logaddexp(self._total, log_weight)
        rest = (uniform - weight) / (1 - weight)
        prefers = takes | (rest < (log_weight - self._total).exp())
        self.tokens = torch.where((prefers & ~self.taken)[:, None], tokens, self.tokens)
        self.taken |= takes
