"""Rows that say something new help, a memory, noise and a single row do not, and odd tables have an answer."""

import sys

import numpy as np
import pyarrow as pa
import pytest

from raygen.errors import DataError, RaygenError
from raygen.metrics import usefulness_tables
from raygen.metrics.usefulness import AUGMENTED, CLASS_WEIGHTS, REAL, SMOTE, SYNTHETIC
from raygen.metrics.usefulness_tables import Rows, table_usefulness

KINDS = {"a": "number", "b": "number", "c": "category", "d": "datetime", "label": "category"}


def rows(size, seed):
    """One row of six is of the class yes."""
    generator = np.random.default_rng(seed)
    a, b = generator.normal(size=(2, size))
    c = generator.choice(["x", "y", "z"], size)
    yes = np.select([c == "x", c == "y"], [a + b, a - b], b - a) > 1.4
    return pa.table(
        {
            "a": pa.array(a, mask=generator.random(size) < 0.1),
            "b": b,
            "c": pa.array(c, mask=generator.random(size) < 0.05),
            "d": pa.array((18000 + 100 * generator.normal(size=size)).astype(np.int32)).cast(pa.date32()),
            "label": np.where(yes, "yes", "no"),
        }
    )


TRAINING, HELD = rows(150, 0), rows(1500, 1)


def found(tables, added=None, training=TRAINING, held=HELD, kinds=KINDS, seed=0):
    return table_usefulness(training, held, tables, added or tables, kinds, "label", seed)


def test_new_rows_of_the_same_source_help_and_more_than_the_rivals():
    useful = found([rows(1500, seed) for seed in (2, 3, 4)])
    assert useful.verdict == "helps"
    assert set(useful.scores) == {REAL, SYNTHETIC, AUGMENTED, CLASS_WEIGHTS, SMOTE}
    assert useful.scores[AUGMENTED].by_class["yes"].lift.interval.low > 0
    assert useful.scores[SYNTHETIC].macro.lift.interval.low > 0  # ten times as many
    assert useful.over[SMOTE].interval.low > 0
    assert "better" not in useful.summary
    assert useful.held == {name: HELD["label"].to_pylist().count(name) for name in ("no", "yes")}


def test_a_memory_makes_no_difference():
    memory = [TRAINING.take(np.random.default_rng(seed).permutation(len(TRAINING))) for seed in range(3)]
    useful = found(memory)
    assert useful.scores[SYNTHETIC].macro.lift.value == pytest.approx(0, abs=0.01)
    assert abs(useful.scores[AUGMENTED].macro.lift.value) < 0.04
    assert useful.verdict != "helps"


def test_noise_teaches_nothing_and_hurts():
    noise = []
    for seed in (2, 3, 4):
        generator, fresh = np.random.default_rng(seed), rows(750, seed)
        noise.append(pa.table({name: fresh[name].take(generator.permutation(750)) for name in KINDS}))
    useful = found(noise)
    assert useful.scores[SYNTHETIC].macro.f1.value < 0.6  # that of saying no always is 0.46
    assert useful.verdict == "hurts"
    assert useful.summary.startswith("augmentation hurts")


def test_one_row_over_and_over_teaches_one_class():
    useful = found([TRAINING.take([TRAINING["label"].to_pylist().index("yes")] * 100)] * 2)
    share = useful.held["yes"] / len(HELD)
    assert useful.scores[SYNTHETIC].by_class["yes"].f1.value == pytest.approx(2 * share / (1 + share))
    assert useful.scores[SYNTHETIC].by_class["no"].f1.value == 0
    assert useful.verdict != "helps"


def test_the_figures_follow_the_seed():
    made = [rows(150, 2), rows(150, 3)]
    first, again, other = (found(made, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.scores[SMOTE] != other.scores[SMOTE]
    assert first.scores[AUGMENTED] == other.scores[AUGMENTED]  # there is no chance in the trees


def test_rows_without_a_class_and_other_columns_are_left_out():
    blank = TRAINING.slice(0, 50).set_column(4, "label", pa.nulls(50, pa.string()))
    more = pa.concat_tables([TRAINING, blank]).append_column("id", pa.array(range(200)))
    made = [rows(100, 2), rows(100, 3)]
    assert found(made, training=more).scores == found(made).scores
    useful = found([blank] * 2)
    assert useful.scores[SYNTHETIC].macro.f1.value == 0  # there was nothing to learn from
    assert useful.scores[AUGMENTED].macro.lift.value == 0


def test_odd_columns():
    size, generator = 400, np.random.default_rng(0)
    odd = pa.table(
        {
            "null": pa.nulls(size, pa.float64()),
            "none": pa.nulls(size, pa.string()),
            "same": [1] * size,
            "huge": generator.choice([np.nan, np.inf, -np.inf, 1e308, -1e308, 1.0], size),
            "many": pa.array(generator.integers(300, size=size)),
            "label": generator.choice([1.5, 2.5], size).astype(str),
        }
    )
    kinds = {name: "category" if name in ("none", "many", "label") else "number" for name in odd.column_names}
    useful = table_usefulness(odd, odd, [odd, odd], [odd, odd], kinds, "label", 0)
    assert useful.scores[REAL].macro.f1.value > 0.52
    assert np.isfinite(useful.scores[SMOTE].macro.f1.value)
    assert set(useful.held) == {"1.5", "2.5"}


def test_more_values_than_the_trees_tell_apart():
    generator = np.random.default_rng(0)
    key = np.concatenate([np.arange(600), generator.integers(20, size=3000)])
    table = pa.table({"key": key, "label": np.where(key % 2, "odd", "even")})
    useful = table_usefulness(table, table, [table] * 2, [table] * 2, {"key": "category", "label": "category"}, "label", 0)
    assert useful.scores[REAL].macro.f1.value > 0.9  # the frequent ones are among those
    assert useful.untried == {SMOTE: "it makes rows between numbers, and there are none"}


def test_smote_makes_rows_between_rows_of_a_class_as_many_as_are_wanted():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], [90, 10])
    features = np.column_stack([generator.normal(size=100) + 9 * labels, generator.integers(2, size=100)]).astype(float)
    features[::7, 0] = features[::5, 1] = np.nan
    real = Rows(features, labels)
    made = usefulness_tables._oversampled(real, {1: 60}, np.array([False, True]), seed=0)
    np.testing.assert_array_equal(made.features[:100], features)
    assert made.labels[100:].tolist() == [1] * 50
    between, values = made.features[100:].T
    assert (between > 6).all()
    assert len(np.unique(between)) > 40
    assert set(np.unique(values[~np.isnan(values)])) <= {0, 1}


def test_smote_is_untried_where_it_would_take_too_much_memory(monkeypatch):
    monkeypatch.setattr(usefulness_tables, "MOST_CELLS", 100)
    useful = found([rows(400, 2)] * 2, [rows(400, 3)] * 2)
    assert useful.untried == {SMOTE: "the categories have too many values for it"}


def test_smote_is_untried_where_no_class_has_two_rows():
    training = pa.concat_tables([TRAINING.filter(pa.compute.equal(TRAINING["label"], "no")), rows(50, 0).slice(0, 0)])
    one = TRAINING.take([TRAINING["label"].to_pylist().index("yes")])
    fresh = rows(400, 2)
    only = fresh.filter(pa.compute.equal(fresh["label"], "yes"))
    useful = found([fresh] * 2, [only] * 2, training=pa.concat_tables([training, one]))
    assert useful.untried == {SMOTE: "no class that rows were added of has 2 real rows"}
    assert useful.scores[AUGMENTED].by_class["yes"].lift.interval.low > 0


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: found([TRAINING]), "there are 1 synthetic and 1 added tables"),
        (lambda: found([TRAINING] * 2, [TRAINING] * 3), "there are 2 synthetic and 3 added tables"),
        (lambda: found([TRAINING] * 2, kinds={**KINDS, "label": "number"}), "the target 'label' is no category"),
        (lambda: found([TRAINING] * 2, kinds={"label": "category"}), "there is no column to tell 'label' from"),
        (lambda: found([TRAINING, TRAINING.drop_columns("c")]), r"the synthetic \(1\) table has no column called 'c'"),
        (
            lambda: found([TRAINING] * 2, held=HELD.set_column(4, "label", pa.nulls(len(HELD), pa.string()))),
            "0 held-out rows have a class",
        ),
        (lambda: found([TRAINING] * 2, training=TRAINING.slice(0, 1)), "the real rows have fewer than 2 values of 'label'"),
    ],
)
def test_what_has_no_answer_is_refused(call, what):
    with pytest.raises(DataError, match=what):
        call()


@pytest.mark.parametrize(("module", "package"), [("sklearn.ensemble", "scikit-learn"), ("imblearn", "imbalanced-learn")])
def test_without_its_packages_it_is_told_what_to_install(module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RaygenError, match=rf"usefulness needs {package}.*\n.*raygen\[quality\]"):
        found([TRAINING] * 2)
