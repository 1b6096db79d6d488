"""What ``evaluate`` says of tables: shapes of columns, trends of pairs, whether a classifier tells synthetic rows from real
ones, and whether they give training rows away."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raygen.datasets import columns, stream
from raygen.datasets.codec import CELLS, Batch
from raygen.errors import DataError, RaygenError
from raygen.generators.generator import Generator, classes_of
from raygen.jobs import batches, evaluate_usefulness, progress
from raygen.jobs.figures import metric, missing, number
from raygen.jobs.project import Project
from raygen.jobs.tally import Tally, tally
from raygen.metrics import discriminator, privacy, tables
from raygen.metrics.encoding import Column, decoded, encode
from raygen.metrics.usefulness import Usefulness, halves
from raygen.metrics.usefulness_tables import table_trial, table_usefulness
from raygen.spec import Spec

MOST_ROWS = 50_000  # of training rows, of held-out rows and of synthetic rows, each: what is looked at together, at most;
# where there are more, all are counted too
FEWEST = 4  # to compare
BINS = 16  # of a column's histogram
SHOWN = 10  # synthetic rows in the report
MOST_PAIRS = 20  # of columns
FEATURES = "columns"
TAUGHT = 20_000  # rows that downstream models learn from, at most, and as many synthetic ones; of many classes fewer
LEAST_TAUGHT = 2000
MOST_CLASSES = 30  # that those tell, each of which has trees of its own; rarer values are one more
OTHERS = "others"


def compare(
    project: Project, generator: Generator, strength: float | None, decided: Sequence[int] | None = None
) -> dict[str, Any]:
    """The figures of a generator's rows.

    Args:
        strength: how far the variants go that are to be written; None where those are new rows.
        decided: how many rows of each class are to be written, where ``allocate`` has decided it.

    Returns:
        What the report says of them: ``metrics``, ``usefulness``, ``by_column``, ``by_pair``, ``features``, ``rows``, and
        some rows.
    """
    codec, seed = generator.codec, project.spec.train.seed
    kinds = {name: codec.fields[name].kind for name in codec.cells}
    with progress.bar("evaluate", 4, "steps") as shown:
        training, held, whole = _read(project, generator)
        shown.update(1)
        synthetic = _made(generator, training, range(max(FEWEST, len(training))), seed, strength)
        shown.update(2)
        half = min(len(held) // 2, len(synthetic))
        reference, ceiling, candidate = held[:half], held[half : 2 * half], synthetic[:half]
        rows, counted = (whole, project.source.rows - whole), None
        if strength is None and half >= FEWEST and max(rows) > MOST_ROWS:
            told = partial(shown.update, 2)
            holdout, uri = project.spec.dataset.holdout, project.trained().uri
            counted = tally(project.source, holdout, uri, rows, (training, held), kinds, seed, told)
        metrics, by_column, by_pair = _fidelity(reference, ceiling, candidate, kinds, seed, counted)
        shown.update(3)
        metrics += _privacy(synthetic, training, held, kinds, seed, counted)
        shown.update(4)
    taught, usefulness = useful(project.spec, generator, training, held, whole, strength, seed, decided)
    metrics += taught
    error = float(np.mean([column["error"] for column in by_column] or [0.0]))
    sizes = {"training": len(training), "held_out": len(held), "compared": half, "synthetic": len(synthetic)}
    return {
        "features": FEATURES,
        "rows": {**sizes, "of_training": whole},
        "counted": None if counted is None else {**counted.document, "error": error},
        "metrics": metrics,
        "usefulness": usefulness,
        "by_column": by_column,
        "by_pair": by_pair,
        "by_class": [],
        "shown": {name: [str(value) for value in synthetic[name][:SHOWN].to_pylist()] for name in synthetic.column_names},
    }


def _read(project: Project, generator: Generator) -> tuple[pa.Table, pa.Table, int]:
    """Training rows and held-out rows, in no order, and how many training rows there are."""
    seed, holdout = project.spec.train.seed, project.spec.dataset.holdout
    reader, held = (stream.Reader(project.source, generator.codec, holdout, side) for side in (False, True))
    return batches.some_rows(reader, MOST_ROWS, seed), batches.some_rows(held, MOST_ROWS, seed), sum(reader.counts())


def _made(generator: Generator, training: pa.Table, rows: range, seed: int, strength: float | None) -> pa.Table:
    """So many rows: new ones; or the first variant of each training row, then the second of each."""
    if strength is None:
        return generator.sample(rows, seed)
    batch, n = generator.codec.encode(training), range(len(training))
    classes = classes_of(batch, generator.spec, generator.codec)
    turns = range(1, 1 + -(-len(rows) // len(n)))
    made = [generator.variants(batch[CELLS], n, seed, classes, turn, strength) for turn in turns]
    cells = np.concatenate(made)[: len(rows)]
    return generator.codec.decode({CELLS: cells, stream.ROW: np.arange(len(cells))})


def _fidelity(
    reference: pa.Table, ceiling: pa.Table, candidate: pa.Table, kinds: Mapping[str, str], seed: int, counted: Tally | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """How close rows come to the reference, beside other real rows; the shapes of columns; and the pairs of columns that
    are furthest below what real rows score."""
    names, n = ("quality", "column_shapes", "pair_trends"), len(reference)
    if n < FEWEST:
        because = f"{2 * n} rows are held out, too few to compare with"
        return [missing(name, because) for name in (*names, "discriminator_auc")], [], []
    try:
        if counted is not None:
            found, best, intervals, errors, compared = counted.scores()
        else:
            found, best = (tables.quality(reference, rows, kinds) for rows in (candidate, ceiling))
            intervals, errors, compared = tables.quality_intervals(reference, candidate, kinds, seed), {}, n
    except RaygenError as error:
        return [missing(name, error.what) for name in (*names, "discriminator_auc")], [], []
    metrics = [
        missing(name, "no two columns are related in the real rows")
        if np.isnan(value)
        else metric(name, value, number(real), interval, FEATURES, compared)
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
            "error": errors.get(name, 0.0),
            "histogram": _histogram(columns[name], reference[name], candidate[name]),
        }
        for name, value in found.by_column.items()
    ]
    return metrics, by_column, _worst(found.by_pair, best.by_pair)


def _worst(trends: Mapping[tuple[str, str], float], ceilings: Mapping[tuple[str, str], float]) -> list[dict[str, Any]]:
    """The pairs of columns that are furthest below what real rows score."""
    worst = sorted(trends, key=lambda pair: trends[pair] - ceilings.get(pair, 1.0))[:MOST_PAIRS]
    return [{"columns": list(pair), "trend": trends[pair], "ceiling": ceilings.get(pair)} for pair in worst]


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
    synthetic: pa.Table, training: pa.Table, held: pa.Table, kinds: Mapping[str, str], seed: int, counted: Tally | None
) -> list[dict[str, Any]]:
    """Whether synthetic rows are nearer to training rows than held-out rows are."""
    if not len(held):
        because = "no rows are held out"
        return [missing(name, because) for name in ("identical_share", "membership_auc", "closer_share")]
    if counted is not None:
        copies, by_chance, made = counted.copies, counted.by_chance, counted.made
    else:
        copies, by_chance = (privacy.identical_share(rows, training, kinds) for rows in (synthetic, held))
        made = len(synthetic)
    member = privacy.membership_auc(synthetic, training, held, kinds, seed)
    closer = privacy.closer_share(synthetic, training, held, kinds, seed)
    return [
        metric("identical_share", copies.value, by_chance.value, copies.interval, "rows", made),
        # Real rows that the generator never saw would have 0.5.
        metric("membership_auc", member.value, 0.5, member.interval, "distances", len(synthetic)),
        metric("closer_share", closer.value, 0.5, closer.interval, "distances", len(synthetic)),
    ]


def useful(
    spec: Spec,
    generator: Generator,
    training: pa.Table,
    held: pa.Table,
    whole: int,
    strength: float | None,
    seed: int,
    decided: Sequence[int] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """What is learned from a generator's rows: see ``evaluate_usefulness.measure``.

    Args:
        training: some of the training rows, in no order.
        held: held-out rows.
        whole: how many training rows there are.
        seed: the first of those that decide what is made.
        decided: how many rows of each class are added, where ``allocate`` has decided it.
    """

    def prepare(target: str) -> Trial:
        tested = held
        if spec.allocates:
            tested = held.take(pa.array(halves(held[target].to_pylist(), spec.train.seed)[1]))
        return _trial(spec, generator, training, tested, whole, strength, target, decided)

    return evaluate_usefulness.measure(spec, prepare, seed)


def deciding(project: Project, generator: Generator, target: str) -> "Trial":
    """What ``allocate`` decides by: on the half of the held-out rows that usefulness is not tested on."""
    training, held, whole = _read(project, generator)
    if (distinct := len(_values(training[target]))) > MOST_CLASSES:
        raise DataError(
            f"{target!r} has {distinct} values, more than the {MOST_CLASSES} that augment.allocate decides about",
            "leave augment.allocate out",
        )
    tested, _ = halves(held[target].to_pylist(), project.spec.train.seed)
    return _trial(project.spec, generator, training, held.take(pa.array(tested)), whole, None, target)


def _trial(
    spec: Spec,
    generator: Generator,
    training: pa.Table,
    held: pa.Table,
    whole: int,
    strength: float | None,
    target: str,
    decided: Sequence[int] | None = None,
) -> "Trial":
    kinds = {name: generator.codec.fields[name].kind for name in generator.codec.cells}
    values = _values(training[target])
    own = values[:MOST_CLASSES]
    most = max(LEAST_TAUGHT, round(TAUGHT * min(1.0, 4 / max(1, len(own)))))
    asked = None if spec.augment is None else spec.augment.where
    real = training.slice(0, most)
    learned = {name: kind for name, kind in kinds.items() if name == target or not _same(real, name, kind, target)}
    others = len(values) - len(own)
    return Trial(generator, target, learned, real, held, whole, most, strength, asked, decided, own, others)


def _values(column: pa.ChunkedArray) -> pa.Array:
    """Those of a column, the most frequent first."""
    counted = pc.value_counts(decoded(column).drop_null())
    return counted.field("values").take(pa.array(np.argsort(-np.asarray(counted.field("counts")), kind="stable")))


def _same(table: pa.Table, name: str, kind: str, target: str) -> bool:
    """Whether a column says the same as the target in other words, as its code does: it would give it away."""
    columns = encode({"training": table}, {name: kind, target: "category"})
    of, told = (columns[column].codes[0] for column in (name, target))
    pairs = {*zip(of.tolist(), told.tolist(), strict=True)}
    return len(pairs) == len({*of.tolist()}) == len({*told.tolist()})


@dataclass(frozen=True)
class Trial:
    """A table of whose rows gradient-boosted trees learn to tell a target: see ``evaluate_usefulness``.

    Attributes:
        own: the values of the target that are classes of their own; there are so many ``others``, which share one.
    """

    generator: Generator
    target: str
    kinds: Mapping[str, str]
    real: pa.Table
    held: pa.Table
    whole: int
    most: int
    strength: float | None
    where: Mapping[str, Any] | None
    decided: Sequence[int] | None = None
    own: pa.Array | None = None
    others: int = 0

    @property
    def varies(self) -> bool:
        return self.strength is not None

    @property
    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        tables = {"training": self._classed(self.real), "held-out": self._classed(self.held)}
        learned, tested = encode(tables, {self.target: "category"}, least=0)[self.target].codes
        return learned, tested

    @property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        category = self.generator.codec.categories[self.target]
        sides = [table[self.target].combine_chunks() for table in (self.real, self.held)]
        learned, tested = (np.where(side.is_valid(), columns.encode(side, category), -1) for side in sides)
        return learned, tested

    def candidates(self, rows: range, seed: int, classes: np.ndarray) -> Batch:
        return self.generator.tensors(rows, seed, classes)

    def told(self, added: Batch | None) -> np.ndarray:
        rows = None if added is None else self.generator.codec.decode(added)
        values = [str(value) for value in self.generator.codec.categories[self.target].values]
        return table_trial(self.real, rows, self.held, self.kinds, self.target, values)

    def make(self, rows: range, seed: int, classes: np.ndarray | None, asked: bool) -> pa.Table:
        if self.strength is not None:
            return _made(self.generator, self.real, rows, seed, self.strength)
        where, condition = self.where if asked else None, self.generator.spec.condition
        if classes is None or condition is None:
            return self.generator.sample(rows, seed, where=where)
        values = self.generator.codec.categories[condition].values
        return self.generator.sample(rows, seed, [values[index] for index in classes], where)

    def judge(self, synthetic: Sequence[Any], added: Sequence[Any], seed: int) -> Usefulness:
        real, held, *made = map(self._classed, (self.real, self.held, *synthetic, *added))
        alone, beside = made[: len(synthetic)], made[len(synthetic) :]
        return table_usefulness(real, held, alone, beside, self.kinds, self.target, seed)

    def _classed(self, table: pa.Table) -> pa.Table:
        """With one class, as text, for values of the target that have none of their own."""
        if not self.others:
            return table
        values = decoded(table[self.target])
        kept = pc.or_(pc.is_in(values, self.own), pc.is_null(values))
        classes = pc.if_else(kept, values.cast(pa.string()), OTHERS)
        return table.set_column(table.column_names.index(self.target), self.target, classes)
