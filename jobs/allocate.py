"""``augment.allocate: auto``: how many rows of each class are worth writing, as held-out rows tell before any is written.

A quick classifier learns from the real rows and from candidate allocations of synthetic rows beside them, and is tested on
one half of the held-out rows, class by class; see ``allocation`` for how it is decided. What the report says that
augmentation gains is tested on the other half (``usefulness.halves``).

It is decided once for a (generator, data, budget), and kept in ``<storage>/<name>/allocations``: of all who decide, on any
machine, the first one's decision holds for all, so that the plan is the same for all.

It takes at most ``3 · (groups + 1) · seeds`` quick trainings, with at most 10 groups of classes, on at most so many rows as
is said below; where there are more, a sample of them in which the classes are as frequent as in all.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from raygen.datasets import columns, stream
from raygen.datasets.codec import Batch
from raygen.errors import GateError, RaygenError
from raygen.generators.generator import Generator
from raygen.jobs import allocation, batches, evaluate_tables, progress
from raygen.jobs.allocation import Counts, Decision
from raygen.jobs.figures import number
from raygen.jobs.plan import proportional
from raygen.jobs.project import Project, read_json
from raygen.metrics import usefulness
from raygen.metrics.features import Pixels
from raygen.metrics.fidelity import Estimate
from raygen.metrics.usefulness import Labels
from raygen.metrics.usefulness_images import Rows, image_trial
from raygen.metrics.usefulness_tables import table_trial

MOST_OF_TABLES, MOST_OF_IMAGES = 20_000, 2_000
"""Real rows that are learnt from, and synthetic ones beside them, each; support vector machines take the square of it."""
MOST_HELD = 5_000
"""Held-out rows that decide."""
FAR, APART = 1 << 52, 1 << 32
"""Where the rows that are tried begin, far from those that are written, and how far apart those of two classes are."""


class Setting(NamedTuple):
    """What is tried on.

    Attributes:
        real: the class of each real row that is learnt from, ``(rows,)``; -1 for none.
        truth: the class of each held-out row that decides, ``(rows,)``.
        predict: the classes of those, as told by what has learnt from the real rows, and from others.
    """

    real: Labels
    truth: Labels
    predict: Callable[[Batch | None], Labels]


def counts(project: Project, generator: Generator) -> list[int]:
    """The rows of each class, as decided before.

    Raises:
        GateError: no class is helped, so there is nothing to write.
        RaygenError: it is not decided yet.
    """
    found = decided(project, generator)
    if found is None:
        raise RaygenError(
            f"{project.spec.name}: it is not decided yet which classes augment.rows are spent on",
            "first: raygen evaluate SPEC",
        )
    if not any(found["counts"]):
        raise GateError(
            f"augmentation is not worth it: {found['because']}",
            "nothing was written; train better, hold out more rows (dataset.holdout), or leave augment.allocate out",
        )
    return list(found["counts"])


def decided(project: Project, generator: Generator) -> dict[str, Any] | None:
    """The decision, where it has been made: ``target``, ``budget``, ``because``, ``by_class``, and the ``counts`` of all
    classes of the generator."""
    name = _name(project, generator)
    return read_json(project.folder / "allocations", name)


def decide(project: Project, generator: Generator) -> dict[str, Any]:
    """The same, and make it, where it has not been made.

    Raises:
        DataError: there is too little to decide by.
        RaygenError: scikit-learn or scipy is not installed.
    """
    if (known := decided(project, generator)) is not None:
        return known
    target, budget = str(project.augment.balance), int(project.augment.rows or 0)
    category = generator.codec.categories[target]
    values = [str(value) for value in category.values]
    setting = (_of_table if generator.codec.is_table else _of_images)(project, generator, target)
    usefulness.check_ready(setting.truth)
    most = MOST_OF_TABLES if generator.codec.is_table else MOST_OF_IMAGES
    real = np.bincount(setting.real[setting.real >= 0], minlength=len(values)).tolist()
    tried = max(1, min(most, round(budget * len(setting.real) / sum(category.counts))))
    seeds = range(project.spec.train.seed, project.spec.train.seed + project.spec.evaluate.seeds)
    pool = _Pool(generator)
    total = allocation.trials(real)
    with progress.bar("allocate", total, "trials") as shown:

        @functools.cache
        def predicted(rows: Counts) -> Labels:
            if not any(rows):
                return np.tile(setting.predict(None), (len(seeds), 1))
            found = np.stack([setting.predict(pool(rows, seed)) for seed in seeds])
            shown.update(min(total, shown.done + 1))
            return found

        def measure(over: Counts, candidates: Sequence[Counts]) -> list[Estimate]:
            return usefulness.lifts(setting.truth, predicted(over), [predicted(rows) for rows in candidates], values)

        decisions = allocation.allocate(real, tried, measure)
        shown.update(total)
    spent = [decision.rows for decision in decisions]
    whole = proportional(round(budget * sum(spent) / tried), spent) if any(spent) else (0,) * len(spent)
    document = {
        "target": target,
        "budget": budget,
        "because": _because(target, budget, whole, setting),
        "by_class": [
            _by_class(value, n, rows, budget, decision)
            for value, n, rows, decision in zip(values, category.counts, whole, decisions, strict=True)
            if n
        ],
        "rows": {"real": len(setting.real), "added": tried, "held_out": len(setting.truth)},
        "seeds": len(seeds),
        "counts": list(whole),
    }
    folder, name = project.folder / "allocations", _name(project, generator)
    folder.create(name, json.dumps(document, indent=1, ensure_ascii=False).encode())
    return decided(project, generator) or document


def _name(project: Project, generator: Generator) -> str:
    """Of the file, by all that decides: the generator, its data and seed, and what is asked."""
    asked = project.augment
    inputs = [generator.digest, project.run.name, asked.rows, asked.balance, project.spec.evaluate.seeds]
    return f"{hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]}.json"


def _of_table(project: Project, generator: Generator, target: str) -> Setting:
    codec, seed, holdout = generator.codec, project.spec.train.seed, project.spec.dataset.holdout
    kinds = {name: codec.fields[name].kind for name in codec.cells}
    classes = [str(value) for value in codec.categories[target].values]
    real = batches.some_rows(stream.Reader(project.source, codec, holdout), MOST_OF_TABLES, seed)
    held = batches.some_rows(stream.Reader(project.source, codec, holdout, held=True), evaluate_tables.MOST_ROWS, seed)
    deciding, _ = usefulness.halves(held[target].to_pylist(), seed)
    held = held.take(pa.array(deciding[:: -(-len(deciding) // MOST_HELD) or 1]))
    held = held.filter(held[target].is_valid())

    def labels(rows: pa.Table) -> Labels:
        found = columns.encode(rows[target].combine_chunks(), codec.categories[target])
        return np.where(rows[target].is_valid().to_numpy(), found, -1)

    def predict(added: Batch | None) -> Labels:
        return table_trial(real, None if added is None else codec.decode(added), held, kinds, target, classes)

    return Setting(labels(real), labels(held), predict)


def _of_images(project: Project, generator: Generator, target: str) -> Setting:
    codec, seed, values = generator.codec, project.spec.train.seed, generator.codec.categories[target].values
    null = values.index(None) if None in values else -1
    name, _ = codec.image

    def rows(batch: Batch) -> Rows:
        return Rows(batch[name], np.where(batch[target] == null, -1, batch[target]))

    training, held = map(rows, stream.load(project.source, codec, project.spec.dataset.holdout))
    chosen = np.random.default_rng(seed).permutation(len(training.labels))[:MOST_OF_IMAGES]
    real = Rows(training.images[chosen], training.labels[chosen])
    deciding, _ = usefulness.halves(held.labels.tolist(), seed)
    deciding = deciding[:: -(-len(deciding) // MOST_HELD) or 1]
    tested = Rows(held.images[deciding], held.labels[deciding]).labelled()
    features = Pixels.fit(real.images)

    def predict(added: Batch | None) -> Labels:
        return image_trial(features, real, None if added is None else rows(added), tested.images)

    return Setting(real.labels, tested.labels, predict)


class _Pool:
    """Rows to try: of each class and seed the first ones, so that a larger dose is a smaller one and more."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.made: dict[tuple[int, int], list[Batch]] = {}

    def __call__(self, rows: Counts, seed: int) -> Batch:
        parts = [part for index, n in enumerate(rows) if n for part in self._of(index, seed, n)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _of(self, index: int, seed: int, n: int) -> Iterator[Batch]:
        parts = self.made.setdefault((index, seed), [])
        first, there = FAR + index * APART, sum(map(_len, parts))
        if there < n:
            more = range(first + there, first + n)
            parts.append(self.generator.tensors(more, seed, np.full(len(more), index, np.int64)))
        for part in parts:
            yield {name: values[:n] for name, values in part.items()}
            n = max(0, n - _len(part))


def _len(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _by_class(value: str, real: int, rows: int, budget: int, decision: Decision) -> dict[str, Any]:
    lift: dict[str, Any] = {"value": None, "interval": None}
    if decision.lift is not None:
        low, high = map(number, decision.lift.interval)
        lift = {"value": number(decision.lift.value), "interval": None if low is None else [low, high]}
    return {
        "class": value,
        "real": real,
        "share": rows / budget,
        "rows": rows,
        "lift": lift,
        "decision": decision.because,
    }


def _because(target: str, budget: int, rows: Sequence[int], setting: Setting) -> str:
    told = f"on {len(setting.truth):,} held-out rows that nothing else is tested on"
    if not any(rows):
        return f"synthetic rows of no {target} were seen to help, {told}"
    helped = sum(n > 0 for n in rows)
    values = f"{helped} value{'s' if helped > 1 else ''} of {target}"
    return f"{sum(rows):,} of {budget:,} rows, of {values}, were seen to help, {told}"
