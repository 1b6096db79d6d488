"""How a budget of rows is spent, class by class, where a test says that it helps: a function of what that measures alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from raygen.jobs.plan import evened
from raygen.metrics.fidelity import Estimate

DOSES = (1 / 16, 1 / 4, 1.0)
"""Shares that are tried, of the rows that a class would get."""
MOST_GROUPS, MOST_PER_GROUP = 10, 100
"""Groups of classes that are decided on at most, and with how many classes all in all: trainings get dearer with each."""
BY_CHANCE, BEYOND = 0.05, 0.025
"""How likely it is at most that any class gets rows where none are of use; and that a figure is above its 95 % interval."""

Counts = tuple[int, ...]
Measure = Callable[[Counts, Sequence[Counts]], Sequence[Estimate]]
"""How much more macro F1 there is with each of some allocations than with the first one."""


@dataclass(frozen=True)
class Decision:
    """What a class gets.

    Attributes:
        rows: how many.
        lift: of macro F1, by the dose that was best, over what was decided before; None where nothing was tried.
        because: one line.
    """

    rows: int = 0
    lift: Estimate | None = None
    because: str = "not tried: no real row of it that could be learnt from"


def allocate(real: Sequence[int], budget: int, measure: Measure) -> list[Decision]:
    """Decide how many rows each class gets.

    From the rarest class on, each may get what would bring those not decided yet up to a common level, with the budget that
    is left. It gets the dose of that which is best on top of all that was decided before, if that is surely better than
    nothing; otherwise it gets nothing, and the others may get more. Those that made no difference which could be seen are
    tried together then, since what each adds may be too little; in the end what is left is tried on all that were helped. So
    whatever is written was seen to help, with all else that is written, and the budget need not be spent. With many classes,
    those of like size are decided together.

    The best of many trials looks good by chance. What is sure is therefore sure for all of them at once (Bonferroni): the
    intervals that tell are wider than those of one trial.

    Args:
        real: rows of each class; nothing is decided on classes without any.
        budget: rows to spend, at most.
        measure: the test, which is asked for ``len(DOSES)`` allocations or less, once for each group and twice more.
    """
    tests = trials(real)
    counts: Counts = (0,) * len(real)
    decisions = [Decision() for _ in real]
    open_ = sorted((index for index, n in enumerate(real) if n), key=lambda index: real[index])
    unseen: list[list[int]] = []
    for group in _groups(open_):
        found, lift = _best(counts, group, _wanted(real, counts, open_, budget), measure, tests)
        for index in group:
            decisions[index] = Decision(found[index], lift, _told(lift, found != counts, tests))
        if found == counts and lift is not None and lift.interval.high >= 0:
            unseen.append(group)
        counts, open_ = found, open_[len(group) :]
    if len(unseen) > 1:
        together = [index for group in unseen for index in group]
        found, lift = _best(counts, together, _wanted(real, counts, together, budget), measure, tests)
        more_of = [index for index in together if found[index] > counts[index]]
        for index in more_of:
            decisions[index] = Decision(found[index], lift, f"helps, as one of {len(more_of)} that were tried together")
        counts = found
    helped = [index for index, n in enumerate(counts) if n]
    found, _ = _best(counts, helped, _wanted(real, counts, helped, budget), measure, tests)
    for index in helped:
        if (more := found[index] - counts[index]) > 0:
            before = decisions[index]
            decisions[index] = Decision(found[index], before.lift, f"{before.because}, and so do {more:,} rows more")
    return decisions


def trials(real: Sequence[int]) -> int:
    """How many allocations are measured at most, beside the real rows alone."""
    return len(DOSES) * (len(_groups([index for index, n in enumerate(real) if n])) + 2)


def levelled(real: Sequence[int], rows: int) -> list[int]:
    """Spend rows on the smallest classes, so that those come up to one level; what is left over goes to the first."""
    counts = list(evened(rows, real)) if real else []
    there = [n + more for n, more in zip(real, counts, strict=True)]
    lowest = [index for index, n in enumerate(there) if n == min(there)]
    for index in lowest[: rows - sum(counts)]:
        counts[index] += 1
    return counts


def _groups(ordered: Sequence[int]) -> list[list[int]]:
    """Neighbours together where there are many, in groups of about one size."""
    n = len(ordered)
    groups = min(n, max(1, min(MOST_GROUPS, MOST_PER_GROUP // max(1, n))))
    return [list(ordered[n * g // groups : n * (g + 1) // groups]) for g in range(groups)]


def _wanted(real: Sequence[int], counts: Counts, open_: Sequence[int], budget: int) -> dict[int, int]:
    shares = levelled([real[index] + counts[index] for index in open_], budget - sum(counts))
    return dict(zip(open_, shares, strict=True))


def _best(
    counts: Counts, group: Sequence[int], wanted: dict[int, int], measure: Measure, tests: int
) -> tuple[Counts, Estimate | None]:
    """What is decided, with the best dose for a group, or as it was; and how much that dose helps."""

    def with_(dose: float) -> Counts:
        return tuple(n + round(dose * wanted[index]) if index in group else n for index, n in enumerate(counts))

    candidates = [found for found in dict.fromkeys(map(with_, DOSES)) if found != counts]
    if not candidates:
        return counts, None
    lifts = measure(counts, candidates)
    best = max(range(len(candidates)), key=lambda index: (lifts[index].value, -index))
    return (candidates[best] if _helps(lifts[best], tests) else counts), lifts[best]


def _helps(lift: Estimate, tests: int) -> bool:
    """Whether the interval lies above 0, once it is as wide as it has to be to hold in so many tests at once."""
    low, high = lift.interval
    wider = NormalDist().inv_cdf(BY_CHANCE / tests) / NormalDist().inv_cdf(BEYOND)
    return lift.value > wider * (high - low) / 2


def _told(lift: Estimate | None, spent: bool, tests: int) -> str:
    if lift is None:
        return "has as many rows as it would be brought up to"
    if spent:
        return "helps"
    if lift.interval.low > 0:
        return f"seems to help, which may be chance in one of {tests} trials"
    return "hurts" if lift.interval.high < 0 else "makes no difference that could be seen"
