"""What ``evaluate`` says of tables: shapes of columns, trends of pairs, whether a classifier tells synthetic rows from real
ones, and whether they give training rows away."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from raygen.datasets import stream
from raygen.datasets.codec import CELLS
from raygen.errors import RaygenError
from raygen.generators.generator import Generator, classes_of
from raygen.jobs import batches, progress
from raygen.jobs.figures import metric, missing, number
from raygen.jobs.project import Project
from raygen.metrics import discriminator, privacy, tables
from raygen.metrics.encoding import Column, encode

MOST_ROWS = 50_000  # of training rows, of held-out rows and of synthetic rows, each: what is looked at, at most
FEWEST = 4  # to compare
BINS = 16  # of a column's histogram
SHOWN = 10  # synthetic rows in the report
FEATURES = "columns"


def compare(project: Project, generator: Generator, strength: float | None) -> dict[str, Any]:
    """The figures of a generator's rows.

    Args:
        strength: how far the variants go that are to be written; None where those are new rows.

    Returns:
        What the report says of them: ``metrics``, ``by_column``, ``features``, ``rows``, and some rows.
    """
    codec, seed, holdout = generator.codec, project.spec.train.seed, project.spec.dataset.holdout
    kinds = {name: codec.fields[name].kind for name in codec.cells}
    with progress.bar("evaluate", 4, "steps") as shown:
        reader = stream.Reader(project.source, codec, holdout)
        training = batches.some_rows(reader, MOST_ROWS, seed)
        held = batches.some_rows(stream.Reader(project.source, codec, holdout, held=True), MOST_ROWS, seed)
        shown.update(1)
        synthetic = _made(generator, training, seed, strength)
        shown.update(2)
        half = min(len(held) // 2, len(synthetic))
        reference, ceiling, candidate = held[:half], held[half : 2 * half], synthetic[:half]
        metrics, by_column = _fidelity(reference, ceiling, candidate, kinds, seed)
        shown.update(3)
        metrics += _privacy(synthetic, training, held, kinds, seed)
        shown.update(4)
    sizes = {"training": len(training), "held_out": len(held), "compared": half, "synthetic": len(synthetic)}
    return {
        "features": FEATURES,
        "rows": {**sizes, "of_training": sum(reader.counts())},
        "metrics": metrics,
        "by_column": by_column,
        "by_class": [],
        "shown": {name: [str(value) for value in synthetic[name][:SHOWN].to_pylist()] for name in synthetic.column_names},
    }


def _made(generator: Generator, training: pa.Table, seed: int, strength: float | None) -> pa.Table:
    """As many rows as there are training rows: new ones, or a variant of each."""
    rows = range(max(FEWEST, len(training)))
    if strength is None:
        return generator.sample(rows, seed)
    batch = generator.codec.encode(training)
    classes = classes_of(batch, generator.spec, generator.codec)
    cells = generator.variants(batch[CELLS], range(len(training)), seed, classes, 1, strength)
    return generator.codec.decode({CELLS: cells, stream.ROW: np.arange(len(cells))})


def _fidelity(
    reference: pa.Table, ceiling: pa.Table, candidate: pa.Table, kinds: Mapping[str, str], seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """How close rows come to the reference, beside other real rows; and the shapes of columns."""
    names, n = ("quality", "column_shapes", "pair_trends"), len(reference)
    if n < FEWEST:
        because = f"{2 * n} rows are held out, too few to compare with"
        return [missing(name, because) for name in (*names, "discriminator_auc")], []
    try:
        found, best = (tables.quality(reference, rows, kinds) for rows in (candidate, ceiling))
        intervals = tables.quality_intervals(reference, candidate, kinds, seed)
    except RaygenError as error:
        return [missing(name, error.what) for name in (*names, "discriminator_auc")], []
    metrics = [
        missing(name, "no two columns are related in the real rows")
        if np.isnan(value)
        else metric(name, value, number(real), interval, FEATURES, n)
        for name, value, real, interval in zip(names, found[:3], best[:3], intervals, strict=True)
    ]
    told, real = (discriminator.discriminator_auc(reference, rows, kinds, seed) for rows in (candidate, ceiling))
    metrics.append(metric("discriminator_auc", told.value, real.value, told.interval, "classifier", n))
    columns = encode({"real": reference, "synthetic": candidate}, kinds)
    by_column = [
        {
            "column": name,
            "kind": kinds[name],
            "shape": value,
            "ceiling": best.by_column.get(name),
            "histogram": _histogram(columns[name], reference[name], candidate[name]),
        }
        for name, value in found.by_column.items()
    ]
    return metrics, by_column


def _histogram(column: Column, real: pa.ChunkedArray, synthetic: pa.ChunkedArray) -> dict[str, Any]:
    """The share of rows with each of the most frequent values, or in bins of equal width of where nearly all numbers are;
    what is null is in none."""
    if column.is_category:
        counts = [np.bincount(codes[codes >= 0], minlength=column.distinct) for codes in column.codes]
        chosen = np.argsort(-counts[0], kind="stable")[:BINS]
        names = {int(code): str(value) for code, value in zip(column.codes[1], synthetic.to_pylist(), strict=True)}
        names |= {int(code): str(value) for code, value in zip(column.codes[0], real.to_pylist(), strict=True)}
        places: list[Any] = [names[int(code)] for code in chosen]
        shares = [counted[chosen] / max(1, len(codes)) for counted, codes in zip(counts, column.codes, strict=True)]
    else:
        values = [column.values[codes[codes >= 0]] for codes in column.codes]
        finite = values[0][np.isfinite(values[0])]
        ends = np.quantile(finite, [0.005, 0.995]) if len(finite) else np.array([0.0, 1.0])
        counts = [np.histogram(of_rows, BINS, tuple(ends))[0] for of_rows in values]
        places = np.histogram_bin_edges([], BINS, tuple(ends)).tolist()
        shares = [counted / max(1, len(codes)) for counted, codes in zip(counts, column.codes, strict=True)]
    return {"places": places, "real": shares[0].tolist(), "synthetic": shares[1].tolist()}


def _privacy(
    synthetic: pa.Table, training: pa.Table, held: pa.Table, kinds: Mapping[str, str], seed: int
) -> list[dict[str, Any]]:
    """Whether synthetic rows are nearer to training rows than held-out rows are."""
    if not len(held):
        because = "no rows are held out"
        return [missing(name, because) for name in ("identical_share", "membership_auc", "closer_share")]
    copies, by_chance = (privacy.identical_share(rows, training, kinds) for rows in (synthetic, held))
    member = privacy.membership_auc(synthetic, training, held, kinds, seed)
    closer = privacy.closer_share(synthetic, training, held, kinds, seed)
    return [
        metric("identical_share", copies.value, by_chance.value, copies.interval, "rows", len(synthetic)),
        metric("membership_auc", member.value, None, member.interval, "distances", len(synthetic)),
        metric("closer_share", closer.value, None, closer.interval, "distances", len(synthetic)),
    ]
