"""Distances between rows of numbers, datetimes, categories and nulls (Gower 1971, Biometrics 27), by quantiles."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raygen.metrics.encoding import Column, Ints, Kinds, encode

Floats = npt.NDArray[np.float32]

BLOCK = 2**18  # distances computed at once: 1 MiB, which the steps of the sum find in the processor's cache
NULL = np.float32(2)  # at least 1 from every quantile, and 0 from another null


class Points(NamedTuple):
    """Rows between which distances can be computed; column by column.

    Attributes:
        numbers: float32 ``(numbers and datetimes, rows)``: the quantile of each value, 0 to 1, or 2 for null.
        categories: int32 ``(categories, rows)``: equal where the values are; null is a value.
    """

    numbers: Floats
    categories: npt.NDArray[np.int32]


def points(tables: Mapping[str, pa.Table], kinds: Kinds, scale: Collection[str]) -> dict[str, Points]:
    """Encodes tables in such a way that their rows can be compared.

    Args:
        tables: by what errors call them; each has at least 1 row.
        kinds: which columns are ``number``, ``datetime`` or ``category``; others are not looked at.
        scale: the tables whose rows say what quantile a value is: the real ones, so that distances do not depend on what is
            compared with them.

    Raises:
        DataError: a table has no rows, or they do not fit each other or the kinds.
    """
    columns = encode(tables, kinds).values()
    counted = [called in scale for called in tables]
    numbers = [(column, _quantiles(column, counted)) for column in columns if not column.is_category]
    categories = [column for column in columns if column.is_category]
    placed = {}
    for index, (called, table) in enumerate(tables.items()):
        quantiles, codes = (
            np.empty((len(numbers), len(table)), np.float32),
            np.empty((len(categories), len(table)), np.int32),
        )
        for row, (column, of_codes) in zip(quantiles, numbers, strict=True):
            row[:] = of_codes[column.codes[index]]
        for row_, column in zip(codes, categories, strict=True):
            row_[:] = column.codes[index]
        placed[called] = Points(quantiles, codes)
    return placed


def closest(queries: Points, references: Points) -> tuple[Ints, Floats]:
    """Finds for every query the closest reference.

    The distance of two rows is the mean over columns: of the difference of quantiles for numbers and datetimes, of 0 (equal)
    or 1 for categories, of 1 between null and anything else. Time goes with queries x references x columns, about a second
    for 10⁹ on one core; memory stays bounded.

    Args:
        queries: at least 1 row.
        references: at least 1 row, of the same call of `points`.

    Returns:
        indices: int64 ``(queries,)`` into the references; the first of several that are equally close.
        distances: float32 ``(queries,)``, 0 (a copy) to 1.
    """
    rows, references_ = queries.numbers.shape[1], references.numbers.shape[1]
    indices, distances = np.empty(rows, np.int64), np.empty(rows, np.float32)
    step = max(1, BLOCK // references_)
    for start in range(0, rows, step):
        block = slice(start, start + step)
        total = np.zeros((len(range(*block.indices(rows))), references_), np.float32)
        gap = np.empty_like(total)
        for mine, others in zip(queries.numbers, references.numbers, strict=True):
            np.abs(np.subtract(mine[block, None], others, out=gap), out=gap)
            total += np.minimum(gap, 1, out=gap)
        for mine_, others_ in zip(queries.categories, references.categories, strict=True):
            total += mine_[block, None] != others_
        indices[block] = total.argmin(axis=1)
        distances[block] = total.min(axis=1)
    return indices, distances / np.float32(len(queries.numbers) + len(queries.categories))


def _quantiles(column: Column, in_scale: Collection[bool]) -> Floats:
    """The quantile of each code, in the middle of the rows that have it, and last that of null: ``(distinct + 1,)``."""
    codes = np.concatenate([codes for codes, counts in zip(column.codes, in_scale, strict=True) if counts])
    known = codes[codes >= 0]
    counts = np.bincount(known, minlength=column.distinct)
    return np.append((np.cumsum(counts) - counts / 2) / max(1, len(known)), NULL).astype(np.float32)
