"""Scores by hand and as scikit-learn has them, intervals that cover, verdicts that say what was seen."""

import sys
from statistics import NormalDist

import numpy as np
import pytest
from sklearn.metrics import f1_score

from raygen.errors import DataError, RaygenError
from raygen.metrics.usefulness import AUGMENTED, NOTHING, REAL, SYNTHETIC, halves, judge, lifts

GENERATOR = np.random.default_rng(0)
TRUTH = GENERATOR.choice(3, p=[0.6, 0.3, 0.1], size=900)


def predictions(right, seeds=4, truth=TRUTH, generator=GENERATOR):
    """Of the classes those that are right, and any others, by chance."""
    others = generator.integers(3, size=(seeds, len(truth)))
    return np.where(generator.random((seeds, len(truth))) < right, truth, others)


def test_scores_are_those_of_scikit_learn():
    real, both = predictions(0.6), predictions(0.7)
    found = judge(TRUTH, {REAL: real, AUGMENTED: both}, list("abc"))
    of_real, of_both = (np.mean([f1_score(TRUTH, row, average=None) for row in rows], axis=0) for rows in (real, both))
    assert [score.f1.value for score in found.scores[REAL].by_class.values()] == pytest.approx(list(of_real))
    assert [score.lift.value for score in found.scores[AUGMENTED].by_class.values()] == pytest.approx(
        list(of_both - of_real)
    )
    assert found.scores[AUGMENTED].macro.f1.value == pytest.approx(of_both.mean())
    assert found.scores[AUGMENTED].macro.lift.value == pytest.approx((of_both - of_real).mean())
    assert found.scores[REAL].macro.lift == (0, (0, 0))
    assert found.held == {"a": (TRUTH == 0).sum(), "b": (TRUTH == 1).sum(), "c": (TRUTH == 2).sum()}


def test_what_helps_hurts_and_makes_no_difference_is_told():
    good, better = predictions(0.6), predictions(0.75)
    for real, both, verdict in ((good, better, "helps"), (better, good, "hurts")):
        found = judge(TRUTH, {REAL: real, AUGMENTED: both}, list("abc"))
        assert found.verdict == verdict
        assert found.summary.startswith(f"augmentation {verdict}: macro F1 0.")
    found = judge(TRUTH, {REAL: good, AUGMENTED: predictions(0.6)}, list("abc"))
    assert found.verdict == "makes no difference"
    assert found.summary.startswith("augmentation makes no difference that could be seen: ")


def test_rivals_that_are_better_are_named():
    given = {REAL: predictions(0.5), AUGMENTED: predictions(0.6), "good": predictions(0.75), "bad": predictions(0.5)}
    found = judge(TRUTH, given, list("abc"), {"odd": "it is not there"})
    assert found.summary.endswith("; better: good")
    assert list(found.over) == ["good", "bad"]
    assert found.over["good"].interval.high < 0 < found.over["bad"].interval.low
    assert found.untried == {"odd": "it is not there"}


def test_equal_predictions_have_no_lift_and_still_a_width_of_about_a_row_of_each_class():
    rows = predictions(0.6)
    found = judge(TRUTH, {REAL: rows, AUGMENTED: rows.copy()}, list("abc"))
    assert found.verdict == "makes no difference"
    for name, score in found.scores[AUGMENTED].by_class.items():
        assert score.lift.value == 0
        assert score.lift.interval.high == pytest.approx(1.96 / found.held[name], rel=0.01)


def test_what_is_compared_is_paired():
    real = predictions(0.6)
    both = np.where(GENERATOR.random(real.shape) < 0.05, TRUTH, real)  # nearly the same
    scores = judge(TRUTH, {REAL: real, AUGMENTED: both}, list("abc")).scores
    f1, lift = scores[AUGMENTED].macro
    assert lift.interval.high - lift.interval.low < (f1.interval.high - f1.interval.low) / 2


@pytest.mark.parametrize(("of_seeds", "of_each"), [(0.0, 0.0), (0.0, 0.5), (0.4, 0.5)])
def test_intervals_of_lift_cover(of_seeds, of_each):
    # Whether a row is told right goes by how hard it is, the skill of what was learned, and the luck of the seed.
    generator, normal = np.random.default_rng(1), NormalDist()
    skills, seeds, n = {REAL: 0.0, AUGMENTED: 0.3}, 4, 300

    def told(skill, hard, luck):
        wrong = of_each * generator.normal(size=(seeds, n)) + hard + luck > 1 + skill
        return np.where(wrong, 1 - truth, truth)

    covered, width = [], (1 + of_each**2 + of_seeds**2) ** 0.5
    truth = np.arange(n) % 2  # as many of both, which are told alike: F1 is the share that is right
    right = {name: normal.cdf((1 + skill) / width) for name, skill in skills.items()}
    for _ in range(300):
        hard = generator.normal(size=n)
        given = {name: told(skill, hard, of_seeds * generator.normal(size=(seeds, 1))) for name, skill in skills.items()}
        found = judge(truth, given, ["a", "b"]).scores[AUGMENTED].macro.lift
        covered.append(found.interval.low < right[AUGMENTED] - right[REAL] < found.interval.high)
    assert 0.93 <= np.mean(covered) <= 0.995


def test_a_class_without_held_out_rows_has_no_figure_and_does_not_count():
    truth = np.where(TRUTH == 2, 1, TRUTH)
    real, both = predictions(0.8, truth=truth), predictions(0.9, truth=truth)
    scores = judge(truth, {REAL: real, AUGMENTED: both}, list("abc")).scores[AUGMENTED]
    assert np.isnan(scores.by_class["c"].f1.value)
    assert np.isnan(scores.by_class["c"].lift.interval.low)
    assert scores.macro.f1.value == pytest.approx(np.mean([scores.by_class[name].f1.value for name in "ab"]))


def test_a_class_that_is_never_told_and_one_that_is_nothing():
    nothing = np.full((2, len(TRUTH)), NOTHING)
    found = judge(TRUTH, {REAL: predictions(1, 2), SYNTHETIC: nothing, AUGMENTED: predictions(1, 2)}, list("abc"))
    assert found.scores[SYNTHETIC].macro.f1.value == 0
    assert found.scores[SYNTHETIC].macro.lift.value == -1
    assert found.scores[AUGMENTED].macro.f1.value == 1


GOOD = predictions(0.6, seeds=2)


@pytest.mark.parametrize(
    ("truth", "given", "what"),
    [
        (TRUTH[:1], {REAL: GOOD[:, :1], AUGMENTED: GOOD[:, :1]}, "1 held-out rows have a class"),
        (TRUTH + 1, {REAL: GOOD, AUGMENTED: GOOD}, "classes run from 1 to 3 where there are 3"),
        (TRUTH, {REAL: GOOD}, r"nothing was predicted from real \+ synthetic rows"),
        (TRUTH, {REAL: GOOD, AUGMENTED: GOOD[:, 1:]}, r"predictions from real \+ synthetic are \(2, 899\) for 900"),
        (TRUTH, {REAL: GOOD[:1], AUGMENTED: GOOD[:1]}, r"predictions from real are \(1, 900\)"),
    ],
)
def test_what_has_no_answer_is_refused(truth, given, what):
    with pytest.raises(DataError, match=what):
        judge(truth, given, list("abc"))


def test_without_scipy_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(RaygenError, match=r"usefulness needs scipy.*\n.*raygen\[quality\]"):
        judge(TRUTH, {REAL: GOOD, AUGMENTED: GOOD}, list("abc"))


def test_lifts_are_those_over_the_first():
    base, others = predictions(0.6), [predictions(0.7), predictions(0.5)]
    found = lifts(TRUTH, base, others, list("abc"))
    for lift, other in zip(found, others, strict=True):
        assert lift == judge(TRUTH, {REAL: base, AUGMENTED: other}, list("abc")).scores[AUGMENTED].macro.lift
    assert found[0].value > 0 > found[1].value


def test_halves_share_no_row_and_have_half_of_each_class():
    labels = ["rare" if n % 50 == 0 else None if n % 7 == 0 else "common" for n in range(400)]
    one, other = halves(labels, seed=3)
    assert sorted([*one, *other]) == [*range(400)]
    for label in ("rare", None, "common"):
        counts = [sum(labels[row] == label for row in half) for half in (one, other)]
        assert abs(counts[0] - counts[1]) <= 1
    assert (halves(labels, seed=3)[0] == one).all()
    assert (halves(labels, seed=4)[0] != one).any()
    assert [len(half) for half in halves([], seed=0)] == [0, 0]
