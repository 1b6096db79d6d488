"""What ``evaluate`` says of usefulness: how much better, or worse, a downstream model gets by synthetic rows.

Under each of some seeds the generator makes other rows: as many as there are real ones, with the classes as they are there,
to learn from alone; and to learn from beside the real ones those that ``augment`` would write. Where only a part of the real
rows is learned from, the rows that are added are the same part of what is asked for, up to a limit: beyond it, the verdict
is of fewer rows than are asked for, and says so. With fewer real rows too the mixture would be the same, and the verdict
wrong: the generator has seen all of them, so that its rows would tell what those that are left out could have told.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from raygen.datasets.codec import Batch
from raygen.errors import DataError, RaygenError
from raygen.generators.generator import Generator
from raygen.jobs import progress
from raygen.jobs.figures import metric, missing, number
from raygen.jobs.plan import NewRows, evened, plan, proportional
from raygen.metrics.fidelity import Estimate
from raygen.metrics.usefulness import AUGMENTED, REAL, SYNTHETIC, Usefulness, check_ready
from raygen.spec import AugmentSpec, Spec

NAMES = ("synthetic_f1", "lift")
FEATURES = "classifier"


class Trial(Protocol):
    """Real rows and a generator, and the downstream model that learns to tell a target.

    Attributes:
        target: the column whose values are the classes.
        labels: of the real rows to learn from, and of the held-out ones: integers, less than 0 for none.
        most: rows to add, at most.
        whole: training rows that the real ones are some of.
        varies: whether rows are made by varying the real ones.
        others: how many values of the target share one class.
        decided: how many rows of each class of the generator are added, where ``allocate`` has decided it.
    """

    @property
    def generator(self) -> Generator: ...
    @property
    def target(self) -> str: ...
    @property
    def labels(self) -> tuple[np.ndarray, np.ndarray]: ...
    @property
    def most(self) -> int: ...
    @property
    def whole(self) -> int: ...
    @property
    def varies(self) -> bool: ...
    @property
    def others(self) -> int: ...
    @property
    def decided(self) -> Sequence[int] | None: ...

    @property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """The labels as places among the values of the codec; less than 0 for none."""

    def candidates(self, rows: range, seed: int, classes: np.ndarray) -> Batch:
        """So many rows of classes of the generator's condition, before they are decoded: what of them ``told`` looks at."""

    def told(self, added: Batch | None) -> np.ndarray:
        """Of the held-out rows that have a label, the places that a quick model tells which has learnt from the real rows,
        and from candidates beside them."""

    def make(self, rows: range, seed: int, classes: np.ndarray | None, asked: bool) -> Any:
        """So many rows, of classes of the generator's condition; and as ``augment.where`` has it, if that is asked."""

    def judge(self, synthetic: Sequence[Any], added: Sequence[Any], seed: int) -> Usefulness:
        """What is learned from rows that were made: for each seed other ones."""


class Added(NamedTuple):
    """How many rows are added, and of which classes, where the generator has some.

    Attributes:
        asked: how many it would be without a limit: as many for each real row as are asked for.
    """

    rows: int
    counts: tuple[int, ...] | None
    asked: int


def measure(spec: Spec, prepare: Callable[[str], Trial], seed: int) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Train downstream models, and score them on held-out rows.

    Args:
        prepare: makes the trial of a target.
        seed: the first of those under which it is done.

    Returns:
        The metrics of the report, and what it says of usefulness; or why there is nothing to say.
    """
    of = None
    if not spec.evaluate.usefulness:
        return [missing(name, "evaluate.usefulness is false") for name in NAMES], None
    try:
        of = spec.target()
        trial = prepare(of)
        wanted, found = compared(trial, spec.augment, spec.evaluate.seeds, seed)
    except RaygenError as error:
        because = f"{error.what}: {error.hint}"
        return [missing(name, because) for name in NAMES], {"target": of, "because": because}
    macro, tested = {way: found.scores[way].macro for way in (REAL, SYNTHETIC, AUGMENTED)}, sum(found.held.values())
    alone, lift = macro[SYNTHETIC].f1, macro[AUGMENTED].lift
    metrics = [
        metric("synthetic_f1", alone.value, macro[REAL].f1.value, alone.interval, FEATURES, tested),
        metric("lift", lift.value, None, lift.interval, FEATURES, tested),
    ]
    real = int((trial.labels[0] >= 0).sum())
    rows = {"real": real, "synthetic": len(trial.labels[0]), "added": wanted.rows, "asked": wanted.asked, "held_out": tested}
    return metrics, {**_document(of, found, spec.evaluate.seeds, rows), "others": trial.others}


def compared(trial: Trial, asked: AugmentSpec | None, seeds: int, seed: int) -> tuple[Added, Usefulness]:
    """How many rows were added, and what came of it.

    Raises:
        RaygenError: there are too few rows or classes, the generator cannot make what is asked, or a package is missing.
    """
    learned, tested = trial.labels
    check_ready(tested[tested >= 0])
    for name, labels in (("training", learned), ("held-out", tested)):
        if len(np.unique(labels[labels >= 0])) < 2:
            raise DataError(
                f"the {name} rows have fewer than 2 values of {trial.target!r}", "name another, or give more rows"
            )
    real, wanted = len(learned), added(trial, asked)
    beside = range(real, real + wanted.rows)
    synthetic, more = [], []
    seed %= 2**31  # the most that scikit-learn takes
    with progress.bar("usefulness", seeds + 1, "steps") as shown:
        for number_ in range(seeds):
            alone, of = range(real), seed + number_
            synthetic.append(trial.make(alone, of, trial.generator.classes(alone, of), False))
            dealt = NewRows(wanted.rows, of, wanted.rows, wanted.counts, beside.start).classes(beside)
            more.append(trial.make(beside, of, dealt, True))
            shown.update(number_ + 1)
        found = trial.judge(synthetic, more, seed)
        shown.update(seeds + 1)
    return wanted, found


def added(trial: Trial, asked: AugmentSpec | None) -> Added:
    """What is added to the real rows of a trial.

    Raises:
        RaygenError: the generator cannot make what is asked.
    """
    generator, condition, real = trial.generator, trial.generator.spec.condition, len(trial.labels[0])
    if trial.varies:
        every = real * (asked.variants or 1 if asked else 1)
        return Added(min(trial.most, every), None, every)
    counts: Sequence[int] | None = None
    rows = trial.whole
    if asked is not None and not asked.of_real:
        # Where nothing is worth writing, what is added is what would be written if nobody had asked whether it is.
        of_all = asked.model_copy(update={"include_real": False, "allocate": None})
        new = plan(of_all, generator, None, trial.decided if trial.decided and any(trial.decided) else None).new
        assert new is not None
        rows, counts = new.rows, new.counts
    elif condition == trial.target:
        counts = evened(rows, generator.codec.categories[condition].counts)
        rows = sum(counts)
    every = max(1, round(rows * real / trial.whole))
    few = min(trial.most, every)
    return Added(few, None if counts is None else proportional(few, counts), every)


def _document(of: str, found: Usefulness, seeds: int, rows: Mapping[str, int]) -> dict[str, Any]:
    def both(score: Any) -> dict[str, Any]:
        return {"f1": _estimate(score.f1), "lift": _estimate(score.lift)}

    return {
        "target": of,
        "summary": found.summary + _mixture(rows),
        "verdict": found.verdict,
        "seeds": seeds,
        "rows": dict(rows),
        "held": found.held,
        "scores": {
            way: {"macro": both(scores.macro), "by_class": {name: both(score) for name, score in scores.by_class.items()}}
            for way, scores in found.scores.items()
        },
        "over": {rival: _estimate(lead) for rival, lead in found.over.items()},
        "untried": found.untried,
    }


def _mixture(rows: Mapping[str, int]) -> str:
    """That another mixture was tried than is asked for, where it was."""
    if rows["asked"] <= rows["added"]:
        return ""
    tried, asked = (rows[name] / rows["synthetic"] for name in ("added", "asked"))
    return f"; synthetic rows for each real one: {tried:.3g} tried, {asked:.3g} asked for"


def _estimate(found: Estimate) -> dict[str, Any]:
    value = number(found.value)
    return {"value": value, "interval": None if value is None else [float(end) for end in found.interval]}
