"""Whether a synthetic table gives its training rows away: copies, rows that are too close, and who was a training row.

Distances prove no privacy (arXiv 2505.01524): a bad figure is a leak, and a good one is no guarantee. Every figure needs
held-out rows of the same source beside it, which the generator never saw.
"""

import numpy as np
import pyarrow as pa

from raygen.metrics.encoding import Kinds, row_codes
from raygen.metrics.fidelity import Estimate, wilson_interval
from raygen.metrics.gower import closest, points
from raygen.metrics.roc import auc

ROWS = 5000  # as many rows are looked up in the others; 15 columns and 25,000 others take some seconds


def identical_share(rows: pa.Table, training: pa.Table, kinds: Kinds) -> Estimate:
    """Share of rows that are equal to a training row in every column of ``kinds``, at the columns' own precision.

    Rows of few values repeat by chance: it is a leak if synthetic rows do so more than held-out rows, so ask for both.

    Args:
        rows: synthetic or held-out rows, at least 1.
        training: what the generator learned from, at least 1 row, of the same schema.
        kinds: which columns are ``number``, ``datetime`` or ``category``; others are not looked at.

    Returns:
        0 to 1, with Wilson's interval.

    Raises:
        DataError: a table has no rows, or they do not fit each other or the kinds.
    """
    found, known = row_codes({"compared": rows, "training": training}, kinds)
    copies = int(np.isin(found, known).sum())
    return Estimate(copies / len(found), wilson_interval(copies, len(found)))


def membership_auc(
    synthetic: pa.Table, training: pa.Table, held: pa.Table, kinds: Kinds, seed: int, rows: int = ROWS
) -> Estimate:
    """How well who sees only synthetic rows can tell training rows from held-out rows: 0.5 not at all, 1 always.

    The attack takes a row for a training row the closer it is to a synthetic row (GAN-Leaks, Chen et al. 2020, arXiv
    1909.03935, full black-box), by `gower.closest`.

    Args:
        synthetic: what the attacker has; the more rows, the stronger the attack.
        training: what the generator learned from.
        held: rows of the same source that it did not.
        kinds: which columns are ``number``, ``datetime`` or ``category``; others are not looked at.
        seed: decides which rows are attacked.
        rows: at most so many training rows are, and so many held-out rows.

    Raises:
        DataError: a table has no rows, or they do not fit each other or the kinds.
    """
    generator = np.random.default_rng(seed)
    tables = {"training": _sample(training, rows, generator), "held-out": _sample(held, rows, generator)}
    placed = points({"synthetic": synthetic, **tables}, kinds, scale=tables)
    of_training, of_held = (-closest(placed[name], placed["synthetic"])[1] for name in tables)
    return auc(of_training, of_held)


def closer_share(
    synthetic: pa.Table, training: pa.Table, held: pa.Table, kinds: Kinds, seed: int, rows: int = ROWS
) -> Estimate:
    """Share of synthetic rows that are closer to a training row than to any held-out row, equally close ones counting half.

    0.5 where the generator knows its training rows no better than others, 1 where it repeats them. The two tables are cut to
    the same number of rows, by `gower.closest`. The interval is Wilson's, of the synthetic rows; which real rows
    were held out is another chance, which it leaves out.

    Args:
        synthetic: rows to look at.
        training: what the generator learned from.
        held: rows of the same source that it did not.
        kinds: which columns are ``number``, ``datetime`` or ``category``; others are not looked at.
        seed: decides which rows are compared.
        rows: at most so many synthetic rows are.

    Raises:
        DataError: a table has no rows, or they do not fit each other or the kinds.
    """
    generator = np.random.default_rng(seed)
    least = max(1, min(len(training), len(held)))
    tables = {"training": _sample(training, least, generator), "held-out": _sample(held, least, generator)}
    placed = points({"synthetic": _sample(synthetic, rows, generator), **tables}, kinds, scale=tables)
    to_training, to_held = (closest(placed["synthetic"], placed[name])[1] for name in tables)
    closer = float(((to_training < to_held) + (to_training == to_held) / 2).mean())
    return Estimate(closer, wilson_interval(round(closer * len(to_held)), len(to_held)))


def _sample(table: pa.Table, rows: int, generator: np.random.Generator) -> pa.Table:
    if len(table) <= rows:
        return table
    return table.take(np.sort(generator.permutation(len(table))[:rows]))
