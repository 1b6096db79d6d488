"""Whether synthetic images give their training images away: copies, near copies, and who was a training image.

As `privacy` does for tables, by distances between features: they prove no privacy (arXiv 2505.01524). A bad figure is a
leak, and a good one is no guarantee. The features must have been learnt neither from the training nor from the held-out
images (`features.Thumbnails`, or a network of others): even principal components of a few training images spread those
further apart than others, and whoever looks at distances takes that for the generator's doing.
"""

import hashlib
from typing import NamedTuple

import numpy as np

from raygen.metrics.features import Images
from raygen.metrics.fidelity import Array, Estimate, nearest_distances, wilson_interval
from raygen.metrics.roc import auc, rate

ROWS = 5000  # as many are looked up in the others
CLOSE = 0.05  # share of the held-out rows that are called close


class Closeness(NamedTuple):
    """Shares of synthetic rows that are closer to training rows than all but a share `CLOSE` of the held-out rows are.

    Both are about `CLOSE` where the generator gives nothing away, and 1 where every row is a copy.

    Attributes:
        distance: by the distance to the closest training row.
        ratio: by that distance over the distance to the second closest: a near copy is much closer to one row than to any
            other, wherever it lies, while a crowded place makes all rows close.
    """

    distance: Estimate
    ratio: Estimate


def identical_share(images: Images, training: Images) -> Estimate:
    """Share of images that are equal to a training image in every pixel; ask for that of held-out images, too.

    Args:
        images: ``(n, channels, height, width)``, synthetic or held-out, at least 1.
        training: ``(m, channels, height, width)``, what the generator learned from.

    Returns:
        0 to 1, with Wilson's interval.

    Raises:
        DataError: there are no images.
    """
    known = {_digest(image) for image in training}
    copies = sum(_digest(image) in known for image in images)
    return Estimate(copies / max(1, len(images)), wilson_interval(copies, len(images)))


def membership_auc(synthetic: Array, training: Array, held: Array, seed: int, rows: int = ROWS) -> Estimate:
    """How well who sees only synthetic images can tell training images from held-out ones: 0.5 not at all, 1 always.

    The attack takes an image for a training image the closer it is to a synthetic one (GAN-Leaks, Chen et al. 2020, arXiv
    1909.03935, full black-box).

    Args:
        synthetic: features ``(n, d)`` of what the attacker has; the more rows, the stronger the attack.
        training: those of what the generator learned from.
        held: those of images of the same source that it did not.
        seed: decides which rows are attacked.
        rows: at most so many training rows are, and so many held-out rows.

    Raises:
        DataError: there are no rows, a value is not finite, or the widths differ.
    """
    generator = np.random.default_rng(seed)
    attacked = (_sample(real, rows, generator) for real in (training, held))
    of_training, of_held = (-nearest_distances(real, synthetic, 1)[:, 0] for real in attacked)
    return auc(of_training, of_held)


def closer_share(synthetic: Array, training: Array, held: Array, seed: int, rows: int = ROWS) -> Estimate:
    """Share of synthetic rows that are closer to a training row than to any held-out row, equally close ones counting half.

    0.5 where the generator knows its training rows no better than others, 1 where it repeats them. The two sets are cut to
    the same number of rows. The interval is Wilson's, of the synthetic rows; which real rows were held out is another
    chance, which it leaves out.

    Args:
        synthetic: features ``(n, d)`` of the rows to look at.
        training: those of what the generator learned from.
        held: those of images of the same source that it did not.
        seed: decides which rows are compared.
        rows: at most so many synthetic rows are.

    Raises:
        DataError: as `membership_auc`.
    """
    generator = np.random.default_rng(seed)
    queries, least = _sample(synthetic, rows, generator), min(len(training), len(held))
    real = (_sample(part, least, generator) for part in (training, held))
    to_training, to_held = (nearest_distances(queries, part, 1)[:, 0] for part in real)
    closer = float(((to_training < to_held) + (to_training == to_held) / 2).mean())
    return Estimate(closer, wilson_interval(round(closer * len(queries)), len(queries)))


def closeness(synthetic: Array, training: Array, held: Array, seed: int, rows: int = ROWS) -> Closeness:
    """How many synthetic rows are nearer to a training row than rows of the same source are by chance.

    Args:
        synthetic: features ``(n, d)`` of the rows to look at.
        training: those of what the generator learned from; at least 2 that differ.
        held: those of images of the same source that it did not.
        seed: decides which rows are compared.
        rows: at most so many synthetic rows are, and so many held-out rows.

    Raises:
        DataError: as `membership_auc`, or all training rows are equal.
    """
    generator = np.random.default_rng(seed)
    # Else the row that a copy is of would be its second closest, too, if the training rows have it twice: what is there
    # more than once is what generators learn by heart.
    distinct = np.unique(training, axis=0)
    parts = (_sample(part, rows, generator) for part in (synthetic, held))
    of_made, of_held = (nearest_distances(part, distinct, 2) for part in parts)
    distances = rate(-of_made[:, 0], -of_held[:, 0], CLOSE)
    return Closeness(distances, rate(-of_made[:, 0] / of_made[:, 1], -of_held[:, 0] / of_held[:, 1], CLOSE))


def _digest(image: Images) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


def _sample(rows: Array, most: int, generator: np.random.Generator) -> Array:
    if len(rows) <= most:
        return rows
    return rows[np.sort(generator.permutation(len(rows))[:most])]
