"""Whether a classifier can tell synthetic rows of a table from real ones, by the area under its ROC curve.

A classifier two-sample test (Lopez-Paz & Oquab 2017, arXiv 1610.06545). The classifier is a small network on bins and ranks
of each column, so that it sees values, nulls, point masses and how columns go together.
"""

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from torch.nn import functional

from raygen.metrics.encoding import Column, Floats, Ints, Kinds, encode
from raygen.metrics.fidelity import Estimate
from raygen.metrics.roc import auc

BINS = 64  # of each column; fewer in wide tables
MOST_BINS = 2**14  # of all columns together, so that a step costs no more for 2,000 columns
WIDTH = 64
BATCH = 256
CHUNK = 2**14  # rows judged at once
EPOCHS = 5  # more of them learn rows by heart, and tell fewer others apart
LEAST_STEPS, MOST_STEPS = 150, 3000


def discriminator_auc(real: pa.Table, synthetic: pa.Table, kinds: Kinds, seed: int) -> Estimate:
    """How well a classifier tells synthetic rows from real ones: 0.5 not at all, 1 always.

    It is trained on half of the rows of either table and judged on the other half. On the CPU the same arguments give the
    same figure (same machine, library version and number of threads). The interval is that of the rows judged (`roc.auc`),
    not of the training.

    Args:
        real: at least 4 rows, none of which the generator learned from, or the figure is of its memory, too.
        synthetic: at least 4 rows, of the same schema.
        kinds: which columns are ``number``, ``datetime`` or ``category``; others are not looked at.
        seed: decides the halves, the first weights and the order.

    Raises:
        DataError: fewer than 4 rows, or the tables do not fit each other or the kinds.
    """
    columns = encode({"real": real, "synthetic": synthetic}, kinds, least=4)
    bins = max(4, min(BINS, MOST_BINS // len(columns)))
    encoded = [_encoded(column, bins) for column in columns.values()]
    tokens = torch.from_numpy(np.stack([of_column for of_column, _ in encoded], axis=1))
    places = torch.from_numpy(np.stack([of_column for _, of_column in encoded], axis=1).astype(np.float32))
    targets = (torch.arange(len(tokens)) >= len(real)).float()
    learned, judged = _halves(len(real), len(synthetic), np.random.default_rng(seed))
    # The layers draw their first weights from torch's global generator, which is put back.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = _Network(len(columns), bins)
    _train(network, tokens[learned], places[learned], targets[learned], torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        scores = torch.cat([network(tokens[part], places[part]) for part in judged.tensor_split(1 + len(judged) // CHUNK)])
    is_synthetic = targets[judged].numpy() == 1
    return auc(scores.numpy()[is_synthetic], scores.numpy()[~is_synthetic])


class _Network(nn.Module):
    """Bins and places of each column in, the logit of being synthetic out."""

    def __init__(self, columns: int, bins: int) -> None:
        super().__init__()
        # A sum of one vector for each column's bin is a linear layer on one-hot bins, which are never made.
        self.bins = nn.EmbeddingBag(columns * bins, WIDTH, mode="sum")
        nn.init.normal_(self.bins.weight, std=columns**-0.5)
        self.places = nn.Linear(columns, WIDTH)
        self.body = nn.Sequential(nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))
        self.first = torch.arange(columns) * bins  # of each column's bins

    def forward(self, bins: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Maps int64 and float32 ``(batch, columns)`` to logits ``(batch,)``."""
        logits: torch.Tensor = self.body(self.bins(bins + self.first) + self.places(places))
        return logits.squeeze(1)


def _train(
    network: _Network, tokens: torch.Tensor, places: torch.Tensor, targets: torch.Tensor, generator: torch.Generator
) -> None:
    """Fits the network in place by cross-entropy, with the one-cycle schedule of Smith & Topin (2018)."""
    batches = -(-len(targets) // BATCH)
    steps = int(np.clip(EPOCHS * batches, LEAST_STEPS, MOST_STEPS))
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    done = 0
    while done < steps:
        for index in torch.randperm(len(targets), generator=generator).tensor_split(batches)[: steps - done]:
            loss = functional.binary_cross_entropy_with_logits(network(tokens[index], places[index]), targets[index])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            done += 1


def _encoded(column: Column, bins: int) -> tuple[Ints, Floats]:
    """A bin, 0 (null) to ``bins - 1``, and a place, -1 to 1, of each row: ``(rows,)``, one table's after the other's.

    A number's bin holds about as many rows as any other, and its place is its rank. The most frequent values of a category
    have a bin each and the rest share the others; a value's place is how frequent it is.
    """
    codes = np.concatenate(column.codes)
    known = codes[codes >= 0]
    counts = np.bincount(known, minlength=column.distinct)
    if column.is_category:
        rank = np.empty(column.distinct, np.int64)
        rank[np.argsort(-counts, kind="stable")] = np.arange(column.distinct)
        tokens = 1 + np.where(rank < bins // 2, rank, bins // 2 + rank % (bins - 1 - bins // 2))
        tokens = rank + 1 if column.distinct < bins else tokens
        places = counts / counts.max(initial=1)
    else:
        middle = (np.cumsum(counts) - counts / 2) / max(1, len(known))
        tokens = 1 + (middle * (bins - 1)).astype(np.int64)
        places = 2 * middle - 1
    return np.append(tokens, 0)[codes], np.append(places, 0.0)[codes]


def _halves(real: int, synthetic: int, generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Row numbers to learn from, and those to judge by: half of either table's each."""
    first, second = generator.permutation(real), real + generator.permutation(synthetic)
    learned = np.concatenate([first[: real // 2], second[: synthetic // 2]])
    judged = np.concatenate([first[real // 2 :], second[synthetic // 2 :]])
    return torch.from_numpy(learned), torch.from_numpy(judged)
