"""A generator that memorizes is caught, one that does not is not, and what has no answer is refused."""

import numpy as np
import pyarrow as pa
import pytest

from raygen.errors import DataError
from raygen.metrics.privacy import closer_share, identical_share, membership_auc

KINDS = {"a": "number", "b": "number", "c": "category", "d": "datetime"}


def rows(size, seed):
    generator = np.random.default_rng(seed)
    a = generator.normal(size=size)
    return pa.table(
        {
            "a": pa.array(a, mask=generator.random(size) < 0.2),
            "b": a + 0.2 * generator.normal(size=size),
            "c": generator.choice(["x", "y", "z"], size),
            "d": pa.array((18000 + 100 * a + 10 * generator.normal(size=size)).astype(np.int32)).cast(pa.date32()),
            "id": np.arange(size),
        }
    )


TRAINING, HELD = rows(600, 0), rows(300, 1)


def test_fresh_rows_give_nothing_away():
    fresh = rows(1000, 2)
    assert identical_share(fresh, TRAINING, KINDS).value == 0
    for found in (membership_auc(fresh, TRAINING, HELD, KINDS, 0), closer_share(fresh, TRAINING, HELD, KINDS, 0)):
        assert found.interval.low < 0.5 < found.interval.high
        assert found.interval.high - found.interval.low < 0.1


def test_a_generator_that_memorizes_is_caught():
    memory = TRAINING.take(np.random.default_rng(0).integers(0, len(TRAINING), 3000))
    share = identical_share(memory, TRAINING, KINDS)
    assert share.value == share.interval.high == 1
    assert share.interval.low > 0.99
    membership = membership_auc(memory, TRAINING, HELD, KINDS, seed=0)
    assert membership.value > 0.99
    assert membership.interval.low > 0.97
    # A half of the training rows is compared, since there are half as many held-out rows; the other half is far from both.
    assert closer_share(memory, TRAINING, HELD, KINDS, seed=0).interval.low > 0.7


def test_a_generator_that_adds_a_little_noise_to_its_memory_is_caught_by_membership_alone():
    noisy = TRAINING.set_column(0, "a", pa.array(TRAINING["a"].to_numpy() + 1e-6, from_pandas=True))
    assert identical_share(noisy, TRAINING, KINDS).value < 0.3
    assert membership_auc(noisy, TRAINING, HELD, KINDS, seed=0).interval.low > 0.95


def test_identical_rows_are_counted_at_the_precision_of_the_columns():
    training = pa.table({"x": [2**53, 2**53 + 2], "k": ["a", None]})
    made = pa.table({"x": [2**53, 2**53 + 1, 2**53 + 2, 2**53 + 2], "k": ["a", "a", None, "a"]})
    assert identical_share(made, training, {"x": "number", "k": "category"}).value == 2 / 4
    assert identical_share(made, training, {"x": "number"}).value == 3 / 4


def test_identical_rows_of_more_combinations_than_an_integer_holds():
    generator = np.random.default_rng(0)
    training = pa.table({f"c{index}": generator.integers(0, 1000, 1000) for index in range(30)})
    made = pa.concat_tables([training.slice(100, 50), training.slice(0, 50).set_column(29, "c29", pa.array([-1] * 50))])
    assert identical_share(made, training, dict.fromkeys(training.column_names, "category")).value == 1 / 2


def test_no_more_rows_than_asked_for_are_looked_at_and_the_seed_says_which():
    fresh = rows(200, 2)
    for figure in (membership_auc, closer_share):
        whole = figure(fresh, TRAINING, HELD, KINDS, seed=0)
        few, again, other = (figure(fresh, TRAINING, HELD, KINDS, seed=seed, rows=50) for seed in (1, 1, 2))
        assert few == again != other
        assert few.interval.high - few.interval.low > whole.interval.high - whole.interval.low


def test_five_rows_of_odd_columns():
    odd = pa.table(
        {
            "null": pa.nulls(5, pa.float64()),
            "none": pa.nulls(5, pa.string()),
            "same": [1] * 5,
            "odd": [np.nan, np.inf, -np.inf, None, 1e308],
        }
    )
    kinds = {"null": "number", "none": "category", "same": "number", "odd": "number"}
    assert identical_share(odd, odd, kinds).value == 1
    assert membership_auc(odd, odd, odd, kinds, seed=0).value == 0.5
    assert closer_share(odd, odd, odd, kinds, seed=0).value == 0.5
    low, high = membership_auc(odd, odd, odd, kinds, seed=0).interval
    assert high - low > 0.5


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: identical_share(TRAINING.slice(0, 0), TRAINING, KINDS), "the compared table has 0 rows"),
        (lambda: membership_auc(HELD, TRAINING, HELD.slice(0, 0), KINDS, 0), "the held-out table has 0 rows"),
        (lambda: closer_share(HELD, TRAINING, HELD.slice(0, 0), KINDS, 0), "the held-out table has 0 rows"),
        (
            lambda: closer_share(HELD, TRAINING.drop_columns("c"), HELD, KINDS, 0),
            "the training table has no column called 'c'",
        ),
    ],
)
def test_what_has_no_answer_is_refused(call, what):
    with pytest.raises(DataError, match=what):
        call()
