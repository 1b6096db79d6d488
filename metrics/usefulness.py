"""Whether synthetic rows are of use: what a downstream classifier scores on real held-out rows when it learns from them.

Train on synthetic, test on real (Esteban et al. 2017, arXiv 1706.02633), and augmentation lift: the same classifier trained
on the real rows, and on real and synthetic ones, beside what a user would try without a generator. `usefulness_tables` and
`usefulness_images` train; here is what is made of their predictions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from raygen.errors import DataError, RaygenError
from raygen.metrics.fidelity import Estimate, Floats, Interval

Labels = npt.NDArray[np.integer[Any]]

REAL, SYNTHETIC, AUGMENTED = "real", "synthetic", "real + synthetic"
CLASS_WEIGHTS, SMOTE, TRANSFORMS = "class weights", "SMOTE", "transforms"
NOTHING = -1  # what is predicted where there was nothing to learn from: no class

NOT_THERE = Estimate(float("nan"), Interval(float("nan"), float("nan")))


class Score(NamedTuple):
    """What a way to train scores on the held-out rows; nan for a class that has none of them.

    Attributes:
        f1: F1, the harmonic mean of precision and recall, 0 to 1, on average over the seeds.
        lift: how much more that is than what the real rows alone give, on the same rows under the same seeds.
    """

    f1: Estimate
    lift: Estimate


class Scores(NamedTuple):
    """What a way to train scores.

    Attributes:
        macro: the mean over the classes that held-out rows have, each counting as much as any other.
        by_class: of each class.
    """

    macro: Score
    by_class: dict[str, Score]


@dataclass(frozen=True)
class Usefulness:
    """What ways to train score on real held-out rows.

    Attributes:
        scores: by what was learned from: ``real``, ``synthetic`` and ``real + synthetic`` rows; or real rows and what a user
            would try instead of a generator.
        over: how much more macro F1 ``real + synthetic`` rows give than each of those rivals.
        untried: why rivals could not be tried.
        held: held-out rows of each class.
    """

    scores: dict[str, Scores]
    over: dict[str, Estimate]
    held: dict[str, int]
    untried: dict[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> Literal["helps", "hurts", "makes no difference"]:
        """Of augmentation: by whether the interval of its macro lift lies on one side of 0."""
        low, high = self.scores[AUGMENTED].macro.lift.interval
        return "helps" if low > 0 else "hurts" if high < 0 else "makes no difference"

    @property
    def summary(self) -> str:
        """The verdict in one line, with the figures that it is of, and the rivals that are better for sure."""
        of_both, of_real = (self.scores[name].macro for name in (AUGMENTED, REAL))
        low, high = of_both.lift.interval
        better = [name for name, lead in self.over.items() if lead.interval.high < 0]
        rivals = f"; better: {', '.join(better)}" if better else ""
        seen = " that could be seen" if self.verdict == "makes no difference" else ""
        return (
            f"augmentation {self.verdict}{seen}: macro F1 {of_both.f1.value:.3f} with synthetic rows, "
            f"{of_real.f1.value:.3f} without (lift {of_both.lift.value:+.3f}, {low:+.3f} to {high:+.3f}){rivals}"
        )


def judge(
    truth: Labels, predicted: Mapping[str, Labels], classes: Sequence[str], untried: Mapping[str, str] | None = None
) -> Usefulness:
    """Scores predictions of the same held-out rows by classifiers that learned from different rows.

    The 95 % intervals have two chances in them: which rows were held out, by linearization of F1 (the delta method), paired
    where two ways to train are compared; and the seed, by the spread over seeds, paired likewise. Their variances add up,
    for crossed effects on the wide side, and Student's t has the degrees of freedom of Welch & Satterthwaite (1946). One row
    more and one less of each class, as Agresti & Min (2005) have it for shares, keep a width where no row is told otherwise.
    What they leave out: that other real rows could have been learned from. An interval is not cut at 0 or 1.

    Args:
        truth: the class of each held-out row, its place in ``classes``, ``(rows,)``.
        predicted: by what was learned from, ``real`` and ``real + synthetic`` among them: integers ``(seeds, rows)``, at
            least 2 seeds; `NOTHING` is no class.
        classes: what they are called; each name once.
        untried: to be handed on.

    Raises:
        DataError: there are fewer than 2 held-out rows or seeds, or predictions that do not fit them.
        RaygenError: scipy is not installed.
    """
    _check(truth, predicted, len(classes))
    seeds, held = len(predicted[REAL]), np.bincount(truth, minlength=len(classes))
    present = np.flatnonzero(held)
    macro = {name: np.zeros(seeds + len(truth)) for name in predicted}
    by_class: dict[str, dict[str, Score]] = {name: {} for name in predicted}
    for index, called in enumerate(classes):
        if not held[index]:
            for scored in by_class.values():
                scored[called] = Score(NOT_THERE, NOT_THERE)
            continue
        found = {name: _f1(truth, of_name, index) for name, of_name in predicted.items()}
        for name, figure in found.items():
            by_class[name][called] = _score(figure, found[REAL], seeds, held[[index]])
            macro[name] += figure / len(present)
    scores = {name: Scores(_score(macro[name], macro[REAL], seeds, held[present]), by_class[name]) for name in predicted}
    rivals = [name for name in predicted if name not in (REAL, SYNTHETIC, AUGMENTED)]
    over = {name: _estimate(macro[AUGMENTED] - macro[name], seeds, held[present]) for name in rivals}
    return Usefulness(scores, over, dict(zip(classes, held.tolist(), strict=True)), dict(untried or {}))


def lifts(truth: Labels, base: Labels, others: Sequence[Labels], classes: Sequence[str]) -> list[Estimate]:
    """How much more macro F1 each of some ways to train gives than the first, with the intervals of `judge`.

    Args:
        truth: as of `judge`.
        base: predictions of the first, ``(seeds, rows)``.
        others: those of the others.

    Raises:
        DataError: as of `judge`.
        RaygenError: scipy is not installed.
    """
    judged = (judge(truth, {REAL: base, AUGMENTED: other}, classes) for other in others)
    return [found.scores[AUGMENTED].macro.lift for found in judged]


def halves(labels: Sequence[Any], seed: int) -> tuple[Labels, Labels]:
    """Split held-out rows in two, each with half of every class: those to decide by, and those to judge the decision by,
    since what was chosen as the best on some rows looks better on them than it is.

    Args:
        labels: the class of each row, None where it has none.

    Returns:
        The places of the rows of each half.
    """
    _, classes = np.unique([str(label) for label in labels], return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    return order[::2], order[1::2]


def _f1(truth: Labels, predicted: Labels, index: int) -> Floats:
    """F1 of a class as one vector, so that means and differences of figures are those of vectors: its value under each seed,
    then how much each held-out row moves the mean of those, ``(seeds + rows,)``."""
    is_there, said = (truth == index).astype(np.int8), (predicted == index).astype(np.int8)
    hits, either = is_there * said, is_there + said
    share = either.mean(axis=1)  # of rows that are there or said to be, those that are both counting twice
    f1 = 2 * hits.mean(axis=1) / share
    influence = ((2 * hits - f1[:, None] * either) / share[:, None]).mean(axis=0)
    return np.concatenate([f1, influence])


def _score(figure: Floats, of_real: Floats, seeds: int, held: Labels) -> Score:
    if figure is of_real:
        return Score(_estimate(figure, seeds, held), Estimate(0.0, Interval(0.0, 0.0)))
    return Score(_estimate(figure, seeds, held), _estimate(figure - of_real, seeds, held))


def _estimate(figure: Floats, seeds: int, held: Labels) -> Estimate:
    """The mean over seeds of a vector of `_f1`, or of a difference or a mean of such.

    Args:
        held: held-out rows of each class that it is the mean of.
    """
    values, influence = figure[:seeds], figure[seeds:]
    one_row = float((1 / held.astype(np.float64) ** 2).sum()) / len(held) ** 2
    of_rows = float((influence**2).mean()) / len(influence) + one_row
    of_seeds = float(values.var(ddof=1)) / seeds
    variance = of_rows + of_seeds
    freedom = variance**2 / (of_rows**2 / (len(influence) - 1) + of_seeds**2 / (seeds - 1))
    value, half = float(values.mean()), _student(freedom) * variance**0.5
    return Estimate(value, Interval(value - half, value + half))


def _student(freedom: float) -> float:
    """The 97.5 % point of Student's t."""
    try:
        from scipy.stats import t
    except ImportError:
        raise needs_extra("scipy") from None
    return float(t.ppf(0.975, freedom))


def check_ready(truth: Labels) -> None:
    """See that there are rows to test on, and what the intervals need, before anything is trained.

    Raises:
        DataError: there are fewer than 2 held-out rows.
        RaygenError: scipy is not installed.
    """
    _student(1.0)
    if len(truth) < 2:
        raise DataError(f"{len(truth)} held-out rows have a class, too few to test on", "hold out more rows")


def needs_extra(package: str) -> RaygenError:
    """What is raised where a package is not installed that the figures need."""
    return RaygenError(f"usefulness needs {package}, which is not installed", "pip install 'raygen[quality]'")


def _check(truth: Labels, predicted: Mapping[str, Labels], classes: int) -> None:
    check_ready(truth)
    if truth.min() < 0 or truth.max() >= classes:
        raise DataError(
            f"classes run from {truth.min()} to {truth.max()} where there are {classes}", "number the classes from 0"
        )
    for name in (REAL, AUGMENTED):
        if name not in predicted:
            raise DataError(f"nothing was predicted from {name} rows", "train on real rows, and on real + synthetic ones")
    shape = len(predicted[REAL]), len(truth)
    for name, of_name in predicted.items():
        if of_name.shape != shape or shape[0] < 2:
            raise DataError(
                f"predictions from {name} are {of_name.shape} for {len(truth)} held-out rows",
                "predict every held-out row under each of at least 2 seeds",
            )
