"""``augment.allocate: auto``: how many rows of each class are worth writing, as held-out rows tell before any is written.

A quick classifier learns from the real rows and from candidate allocations of synthetic rows beside them, and is tested on
one half of the held-out rows, class by class; see ``allocation`` for how it is decided. What the report says that
augmentation gains is tested on the other half (``usefulness.halves``).

It is decided once for a (generator, data, budget), and kept in ``<storage>/<name>/allocations``: of all who decide, on any
machine, the first one's decision holds for all, so that the plan is the same for all.

It takes at most ``3 · (groups + 2) · seeds`` quick trainings, with at most 10 groups of classes, on at most so many rows as
is said below; where there are more, a sample of them in which the classes are as frequent as in all. No more synthetic rows
are written for each real one than were tried.
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from raygen.datasets.codec import Batch, Codec
from raygen.errors import DataError, GateError, RaygenError
from raygen.generators.generator import Generator
from raygen.jobs import allocation, evaluate_images, evaluate_tables, progress
from raygen.jobs.allocation import Counts, Decision
from raygen.jobs.evaluate_usefulness import Trial
from raygen.jobs.figures import number
from raygen.jobs.plan import proportional
from raygen.jobs.project import Project, read_json
from raygen.metrics import usefulness
from raygen.metrics.fidelity import Estimate
from raygen.metrics.usefulness import Labels
from raygen.spec import Spec

FAR, APART = 1 << 52, 1 << 32
"""Where the rows that are tried begin, far from those that are written, and how far apart those of two classes are."""


def check(spec: Spec, codec: Codec) -> None:
    """Fail before the training, rather than after it, where there are too many classes to decide on.

    Raises:
        DataError: there are.
    """
    if not spec.allocates or not codec.is_table or spec.augment is None:
        return
    values = sum(value is not None for value in codec.categories[str(spec.augment.balance)].values)
    if values > (most := evaluate_tables.MOST_CLASSES):
        raise DataError(
            f"augment.allocate is for at most {most} classes, and {spec.augment.balance!r} has {values}", "leave it out"
        )


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
        DataError: there is too little to decide by, or there are too many classes.
        RaygenError: scikit-learn or scipy is not installed.
    """
    if (known := decided(project, generator)) is not None:
        return known
    asked, spec = project.augment, project.spec
    check(spec, generator.codec)
    kind = evaluate_tables if generator.codec.is_table else evaluate_images
    trial = kind.deciding(project, generator, str(asked.balance))
    document = settle(trial, int(asked.rows or 0), range(spec.train.seed, spec.train.seed + spec.evaluate.seeds))
    text = json.dumps(document, indent=1, ensure_ascii=False)
    (project.folder / "allocations").create(_name(project, generator), text.encode())
    return decided(project, generator) or document


def settle(trial: Trial, budget: int, seeds: range) -> dict[str, Any]:
    """Decide by a trial how many rows each value of its target gets.

    Raises:
        DataError: there is too little to decide by.
        RaygenError: scikit-learn or scipy is not installed.
    """
    category = trial.generator.codec.categories[trial.target]
    values = [str(value) for value in category.values]
    learned, tested = (places[places >= 0] for places in trial.places)
    usefulness.check_ready(tested)
    real = np.bincount(learned, minlength=len(values)).tolist()
    part = len(trial.places[0]) / trial.whole
    asked = max(1, round(budget * part))
    tried = min(trial.most, asked)
    pool, total = _Pool(trial), allocation.trials(real)
    with progress.bar("allocate", total, "trials") as shown:

        @functools.cache
        def told(rows: Counts) -> Labels:
            if not any(rows):
                return np.tile(trial.told(None), (len(seeds), 1))
            found = np.stack([trial.told(pool(rows, seed)) for seed in seeds])
            shown.update(shown.done + 1)
            return found

        def measure(over: Counts, candidates: Sequence[Counts]) -> list[Estimate]:
            return usefulness.lifts(tested, told(over), [told(rows) for rows in candidates], values)

        decisions = allocation.allocate(real, tried, measure)
        shown.update(total)
    spent = [decision.rows for decision in decisions]
    counts = proportional(min(budget, round(sum(spent) / part)), spent) if any(spent) else (0,) * len(spent)
    return {
        "target": trial.target,
        "budget": budget,
        "because": _because(trial.target, budget, counts, len(tested), round(tried / part) if tried < asked else None),
        "by_class": [
            _by_class(value, n, rows, budget, decision)
            for value, n, rows, decision in zip(values, category.counts, counts, decisions, strict=True)
            if n
        ],
        "rows": {"real": len(learned), "added": tried, "held_out": len(tested)},
        "seeds": len(seeds),
        "counts": list(counts),
    }


def _name(project: Project, generator: Generator) -> str:
    """Of the file, by all that decides: the generator, its data and seed, and what is asked."""
    asked = project.augment
    inputs = [generator.digest, project.run.name, asked.rows, asked.balance, project.spec.evaluate.seeds]
    return f"{hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]}.json"


class _Pool:
    """Rows to try: of each class and seed the first ones, so that a larger dose is a smaller one and more."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.made: dict[tuple[int, int], list[Batch]] = {}

    def __call__(self, rows: Counts, seed: int) -> Batch:
        parts = [part for index, n in enumerate(rows) if n for part in self._of(index, seed, n)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _of(self, index: int, seed: int, n: int) -> Iterator[Batch]:
        parts = self.made.setdefault((index, seed), [])
        first, there = FAR + index * APART, sum(map(_len, parts))
        if there < n:
            more = range(first + there, first + n)
            parts.append(self.trial.candidates(more, seed, np.full(len(more), index, np.int64)))
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


def _because(target: str, budget: int, rows: Sequence[int], tested: int, most: int | None) -> str:
    told = f"on {tested:,} held-out rows that nothing else is tested on"
    if most is not None:
        told += f"; for more than {most:,} it could not be tried"
    if not any(rows):
        return f"synthetic rows of no {target} were seen to help, {told}"
    helped = sum(n > 0 for n in rows)
    values = f"{helped} value{'s' if helped > 1 else ''} of {target}"
    return f"{sum(rows):,} of {budget:,} rows, of {values}, were seen to help, {told}"
