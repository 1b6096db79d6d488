"""How a budget is spent, on tests whose answers are known."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raygen.jobs.allocation import MOST_GROUPS, Counts, Measure, allocate, levelled, trials
from raygen.metrics.fidelity import Estimate, Interval

ERROR = 0.01


def measured(f1: Callable[[Counts], float]) -> Measure:
    """A test that finds these macro F1, each with the same standard error."""

    def measure(over: Counts, candidates: Sequence[Counts]) -> list[Estimate]:
        lifts = [f1(rows) - f1(over) for rows in candidates]
        return [Estimate(lift, Interval(lift - 1.96 * ERROR, lift + 1.96 * ERROR)) for lift in lifts]

    return measure


def spent(real: Sequence[int], budget: int, f1: Callable[[Counts], float]) -> list[int]:
    return [decision.rows for decision in allocate(real, budget, measured(f1))]


def test_what_helps_is_brought_up_to_a_common_level() -> None:
    assert spent([900, 100, 50], 1100, lambda rows: 0.001 * (rows[1] + rows[2] - rows[0])) == [0, 525, 575]


def test_what_hurts_gets_nothing_and_the_others_may_get_more() -> None:
    decisions = allocate([100, 100], 100, measured(lambda rows: 0.001 * rows[1] - 0.1 * (rows[0] > 0)))
    assert [decision.rows for decision in decisions] == [0, 100]
    assert [decision.because for decision in decisions] == ["hurts", "helps"]
    assert decisions[0].lift is not None
    assert decisions[0].lift.value == pytest.approx(-0.1)


def test_what_makes_no_difference_gets_nothing() -> None:
    decisions = allocate([100, 100], 100, measured(lambda rows: 0.9 * ERROR * (sum(rows) > 0)))
    assert {(decision.rows, decision.because) for decision in decisions} == {(0, "makes no difference that could be seen")}


def by_chance(f1: Callable[[Counts], float], seed: int) -> Measure:
    """A test that is off by chance, by as much as its intervals tell, and half of that is common to all doses."""
    random = np.random.default_rng(seed)

    def measure(over: Counts, candidates: Sequence[Counts]) -> list[Estimate]:
        off = (random.normal(0, ERROR) + random.normal(0, ERROR, len(candidates))) / 2**0.5
        lifts = [f1(rows) - f1(over) + more for rows, more in zip(candidates, off, strict=True)]
        return [Estimate(lift, Interval(lift - 1.96 * ERROR, lift + 1.96 * ERROR)) for lift in lifts]

    return measure


@pytest.mark.parametrize("classes", [2, 10, 30])
def test_a_generator_of_no_use_hardly_ever_gets_a_row(classes: int) -> None:
    runs = [allocate([400] * classes, 4000, by_chance(lambda rows: 0.0, seed)) for seed in range(200)]
    assert sum(any(decision.rows for decision in run) for run in runs) <= 0.05 * len(runs)


def test_classes_that_help_a_little_each_are_found_together() -> None:
    """As digits of a GAN do: all of them by nine standard errors (0.059, 0.047 to 0.072), and each by a tenth of that."""
    for seed in range(50):
        decisions = allocate([400] * 10, 4000, by_chance(lambda rows: 0.009 * sum(min(n, 400) / 400 for n in rows), seed))
        assert sum(decision.rows for decision in decisions) >= 2000
        assert {decision.because.partition(",")[0] for decision in decisions if decision.rows} <= {"helps"}


def test_one_class_that_helps_is_found_and_the_others_get_nothing() -> None:
    runs = [allocate([400] * 10, 4000, by_chance(lambda rows: 0.09 * (rows[0] > 0), seed)) for seed in range(100)]
    assert all(decisions[0].rows for decisions in runs)
    assert sum(any(decision.rows for decision in decisions[1:]) for decisions in runs) <= 0.05 * len(runs)


def test_what_is_above_nothing_in_its_own_interval_alone_gets_nothing() -> None:
    decisions = allocate([100, 100], 100, measured(lambda rows: 2.1 * ERROR * (sum(rows) > 0)))
    assert {decision.rows for decision in decisions} == {0}
    assert {decision.because for decision in decisions} == {"seems to help, which may be chance in one of 12 trials"}


def test_it_stops_where_more_hurts() -> None:
    """F1 rises up to 100 rows of the rare class, and falls beyond."""
    assert spent([500, 100], 400, lambda rows: 0.001 * (min(rows[1], 100) - max(0, rows[1] - 100))) == [0, 100]


def test_a_budget_smaller_than_what_would_help_goes_to_the_rarest() -> None:
    assert spent([900, 40, 30], 20, lambda rows: 0.01 * sum(rows)) == [0, 5, 15]


def test_what_is_left_goes_to_what_was_helped_if_that_helps_more() -> None:
    decisions = allocate([100, 100, 100], 300, measured(lambda rows: 0.001 * rows[0] - 0.1 * (rows[1] + rows[2] > 0)))
    assert [decision.rows for decision in decisions] == [300, 0, 0]
    assert decisions[0].because == "helps, and so do 200 rows more"
    assert spent([100, 100, 100], 300, lambda rows: 0.1 * (rows[0] > 0) - 0.1 * (rows[1] + rows[2] > 0)) == [6, 0, 0]


def test_classes_that_are_helped_only_alone_do_not_all_get_rows() -> None:
    """Each helps by itself, and the second hurts where the first is there."""
    assert spent([500, 20, 10], 800, lambda rows: 0.1 * ((rows[1] > 0) != (rows[2] > 0)))[1] == 0


def test_a_class_without_rows_is_left_out() -> None:
    decisions = allocate([0, 10, 20], 100, measured(lambda rows: float(sum(rows))))
    assert (decisions[0].rows, decisions[0].lift) == (0, None)
    assert "not tried" in decisions[0].because


def test_a_class_that_has_enough_is_left_alone() -> None:
    decisions = allocate([10, 5000], 100, measured(lambda rows: float(sum(rows))))
    assert [decision.rows for decision in decisions] == [100, 0]
    assert "has as many rows" in decisions[1].because


def test_many_classes_are_decided_in_a_few_groups() -> None:
    seen: list[Counts] = []

    def measure(over: Counts, candidates: Sequence[Counts]) -> Sequence[Estimate]:
        seen.extend(candidates)
        return measured(lambda rows: 0.1 * (rows[0] > 0))(over, candidates)

    real = [10 * (n + 1) for n in range(60)]
    decisions = allocate(real, 5000, measure)
    assert len(seen) <= trials(real) <= 3 * (MOST_GROUPS + 2)
    helped = [n for n, decision in enumerate(decisions) if decision.rows]
    assert 0 in helped
    assert helped == [*range(len(helped))]
    assert len(helped) < 60


@given(real=st.lists(st.integers(1, 500), min_size=1, max_size=30), rows=st.integers(0, 2000))
def test_levels_are_as_even_as_can_be(real: list[int], rows: int) -> None:
    counts = levelled(real, rows)
    assert sum(counts) == rows
    there = [a + b for a, b in zip(real, counts, strict=True)]
    assert not rows or max(there[i] for i, n in enumerate(counts) if n) - min(there) <= 1


@given(
    real=st.lists(st.integers(0, 500), min_size=1, max_size=30),
    budget=st.integers(1, 2000),
    gains=st.lists(st.floats(-1, 1), min_size=30, max_size=30),
)
def test_no_more_is_spent_than_there_is(real: list[int], budget: int, gains: list[float]) -> None:
    rows = spent(real, budget, lambda rows: sum(gain * (n > 0) for gain, n in zip(gains, rows, strict=False)))
    assert 0 <= sum(rows) <= budget
    assert all(there or not n for there, n in zip(real, rows, strict=True))
