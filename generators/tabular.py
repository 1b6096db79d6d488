"""What families of tables share: what is seen of a row, the scores of each column's tokens, and cells drawn by them."""

import itertools
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raygen.generators.base import Sampler
from raygen.generators.networks import Tokens

PLACES = 2**32
"""Within a token: so few that the sum of the two is exact in float64, and the place stays below 1."""


class Seen(nn.Module):
    """Tokens int64 ``(n, columns)``, and which of them are seen, bool ``(n, columns)`` → what is known of rows,
    ``(n, width)``: a sum over those columns. A token is as many numbers as ``embedding``, however many tokens there are."""

    offsets: Tensor

    def __init__(self, tokens: Tokens, embedding: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(sum(tokens), embedding)
        self.linear = nn.Linear(len(tokens) * embedding, width)
        self.register_buffer("offsets", torch.tensor([0, *itertools.accumulate(tokens[:-1])]), persistent=False)

    def forward(self, tokens: Tensor, seen: Tensor) -> Tensor:
        embedded = self.embedding(tokens + self.offsets) * seen[..., None]
        return self.linear(embedded.flatten(1))  # type: ignore[no-any-return]


class Scores(nn.Module):
    """What is known of rows ``(n, width)`` → the scores of each column's tokens, ``(n, tokens)`` each, by some features that
    are the column's own."""

    def __init__(self, tokens: Tokens, width: int, features: int) -> None:
        super().__init__()
        self.features = nn.Linear(width, len(tokens) * features)
        self.columns = nn.ModuleList(nn.Linear(features, count) for count in tokens)

    def forward(self, known: Tensor) -> list[Tensor]:
        own = self.features(known).relu().chunk(len(self.columns), 1)
        return [column(features) for column, features in zip(self.columns, own, strict=True)]


def cross_entropy(scores: list[Tensor], tokens: Tensor) -> Tensor:
    """−log p of the tokens ``(n, columns)``, in nats, likewise."""
    pairs = zip(scores, tokens.unbind(1), strict=True)
    return torch.stack([F.cross_entropy(of.float(), token, reduction="none") for of, token in pairs], 1)


def given_in_training(uniform: Tensor) -> Tensor:
    """Which columns are given of each row: bool ``(n, columns)``.

    Of half of the rows none, as when nothing is asked for; of a quarter one, as by a condition; of the others each with a
    chance that is uniform itself.

    Args:
        uniform: in [0, 1], ``(n, columns + 3)``.
    """
    chance, (kind, share, which) = uniform[:, :-3], uniform[:, -3:, None].unbind(1)
    columns = chance.shape[1]
    one = torch.arange(columns, device=uniform.device) == (which * columns).floor().clamp(max=columns - 1)
    return (kind >= 0.5) & torch.where(kind < 0.75, one, chance < share)


def latents(uniform: Tensor) -> Tensor:
    """Standard normal, float32, of numbers that are uniform in [0, 1)."""
    normal: Tensor = torch.special.ndtri(uniform.clamp(2**-54, 1 - 2**-53))
    return normal.float()


def split(given: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens, and which of them are seen, of what is given: float64 ``(n, columns)``, NaN where a cell is free."""
    return given.nan_to_num().long(), ~given.isnan()


def cells(scores: list[Tensor], noise: Tensor, given: Tensor) -> Tensor:
    """Cells float64 ``(n, columns)``: what is given, and where that is NaN a token drawn by its score and a place.

    Args:
        noise: uniform in [0, 1), ``(n, 2 · columns)``: which token, and where within it.
    """
    which, where = noise.chunk(2, dim=1)
    tokens = [drawn(of.float().softmax(1), uniform) for of, uniform in zip(scores, which.unbind(1), strict=True)]
    made = torch.stack(tokens, 1) + (where * PLACES).floor() / PLACES
    return torch.where(given.isnan(), made, given)


def drawn(chances: Tensor, uniform: Tensor) -> Tensor:
    """Indices, int64 ``(n,)``, of chances ``(n, choices)`` by uniform numbers in [0, 1), ``(n,)``."""
    cumulative = chances.cumsum(1)
    below = uniform.float().clamp(0, 1 - 2**-23)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, below, right=True)[:, 0].clamp(max=chances.shape[1] - 1)


class LatentSampler(Sampler):
    """Of ``gan`` and ``vae``: a row's noise is the latent, and two numbers for each cell: which token, and where in it."""

    tile: ClassVar[int] = 1024
    uniform: ClassVar[bool] = True
    threads: ClassVar[int | None] = 1  # a column at a time they would wait for each other

    def __init__(self, latent: int, columns: int) -> None:
        super().__init__()
        self.latent, self.columns, self.noise = latent, columns, latent + 2 * columns

    def forward(self, noise: Tensor, given: Tensor | None) -> Tensor:
        of_latent, of_cells = noise.tensor_split([self.latent], dim=1)
        given = noise.new_full((len(noise), self.columns), torch.nan) if given is None else given
        return cells(self.scores(latents(of_latent), *split(given)), of_cells, given)

    @abstractmethod
    def scores(self, latent: Tensor, tokens: Tensor, given: Tensor) -> list[Tensor]:
        """Of each column's tokens, ``(n, tokens)``: of standard normals ``(n, latent)``, and of what is given: tokens int64
        ``(n, columns)``, and which of them are, bool ``(n, columns)``."""
