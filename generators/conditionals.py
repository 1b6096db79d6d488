"""The network of ``autoregressive``: the distribution of each column of a table, given any of the others."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raygen.generators.networks import Tokens
from raygen.generators.tabular import cross_entropy


class Conditionals(nn.Module):
    """Tokens int64 ``(n, columns)``, and which of them are seen, bool ``(n, columns)`` → log p(token | those seen) of every
    cell, ``(n, columns)``, in nats.

    What is known of a row is a sum over the columns that are seen: one more costs one more term, not a pass through all.
    Each column has a layer of its own on top of it, and then the scores of its tokens.
    """

    offsets: Tensor

    def __init__(self, tokens: Tokens, embedding: int, width: int, features: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.first = [0, *itertools.accumulate(tokens)]  # of each column's tokens, among all
        self.embedding = nn.Embedding(sum(tokens), embedding)
        self.sees = nn.Linear(len(tokens) * embedding, width)
        self.norm = nn.LayerNorm(width)
        self.features = nn.Linear(width, len(tokens) * features)
        self.scores = nn.ModuleList(nn.Linear(features, count) for count in tokens)
        self.register_buffer("offsets", torch.tensor(self.first[:-1]), persistent=False)

    def forward(self, tokens: Tensor, seen: Tensor) -> Tensor:
        features = self.features(self.norm(self.known(tokens, seen)).relu_()).relu_()
        scores = [score(own) for score, own in zip(self.scores, features.chunk(len(self.tokens), 1), strict=True)]
        return -cross_entropy(scores, tokens)

    def known(self, tokens: Tensor, seen: Tensor) -> Tensor:
        """What is known of rows, ``(n, width)``, from the tokens that are seen."""
        embedded = self.embedding(tokens + self.offsets) * seen[..., None]
        return self.sees(embedded.flatten(1))  # type: ignore[no-any-return]

    def nothing(self, rows: int) -> Tensor:
        """What is known of rows before any token is seen, ``(n, width)``."""
        return self.sees.bias.expand(rows, -1).clone()

    def tell(self, known: Tensor, column: int, token: Tensor, seen: Tensor) -> None:
        """Add a column's token, int64 ``(n,)``, to what is known, in the rows where it is seen, bool ``(n,)``."""
        if not seen.any():
            return
        size, nothing = self.embedding.embedding_dim, self.tokens[column]
        embedded = self.embedding.weight[self.first[column] : self.first[column + 1]]
        terms = F.linear(embedded, self.sees.weight[:, column * size : (column + 1) * size])
        known += F.embedding(token.masked_fill(~seen, nothing), F.pad(terms, (0, 0, 0, 1)))

    def logits(self, known: Tensor, column: int) -> Tensor:
        """The scores of a column's tokens, ``(n, tokens)``, from what is known of rows."""
        size = self.features.out_features // len(self.tokens)
        own = slice(column * size, (column + 1) * size)
        features = F.linear(self.norm(known).relu_(), self.features.weight[own], self.features.bias[own])
        return self.scores[column](features.relu_())  # type: ignore[no-any-return]
