"""The discriminator tells what differs, says 0.5 of what does not, and answers whatever it is given."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from raygen.errors import DataError
from raygen.metrics.discriminator import discriminator_auc

KINDS = {"a": "number", "b": "number", "c": "category", "d": "datetime"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rows(size=1000, seed=0):
    generator = np.random.default_rng(seed)
    a = generator.normal(size=size)
    return pa.table(
        {
            "a": pa.array(a, mask=generator.random(size) < 0.2),
            "b": np.where(generator.random(size) < 0.5, 0, a + 0.2 * generator.normal(size=size)),
            "c": np.where(a > 0, "yes", "no"),
            "d": pa.array((18000 + 100 * generator.normal(size=size)).astype(np.int32)).cast(pa.date32()),
        }
    )


def changed(table, name, values):
    return table.set_column(table.schema.get_field_index(name), name, values)


def test_real_rows_are_not_told_from_real_rows():
    value, (low, high) = discriminator_auc(rows(), rows(seed=1), KINDS, seed=0)
    assert low < 0.5 < high
    assert abs(value - 0.5) < 0.06


def test_shuffled_columns_are_told_from_real_rows_that_have_the_same_shapes():
    fake, generator = rows(seed=1), np.random.default_rng(2)
    shuffled = pa.table({name: fake[name].take(generator.permutation(len(fake))) for name in fake.column_names})
    value, (low, _) = discriminator_auc(rows(), shuffled, KINDS, seed=0)
    assert low > 0.65
    assert low < value


@pytest.mark.parametrize(
    "change",
    [
        lambda fake: changed(fake, "a", fake["a"].fill_null(0.5)),
        lambda fake: changed(fake, "b", pa.array(np.where(fake["b"].to_numpy() == 0, 1e-9, fake["b"].to_numpy()))),
        lambda fake: changed(fake, "c", pa.array(np.where(np.arange(len(fake)) % 2, fake["c"].to_numpy(), "perhaps"))),
        lambda fake: changed(fake, "d", pa.array(fake["d"].cast(pa.int32()).to_numpy().clip(18000)).cast(pa.date32())),
    ],
    ids=["no nulls", "no point mass", "a value that is not there", "dates cut off"],
)
def test_a_column_that_differs_is_told(change):
    assert discriminator_auc(rows(), change(rows(seed=1)), KINDS, seed=0).interval.low > 0.55


def test_rare_values_of_many_are_told():
    generator = np.random.default_rng(0)
    real, fake = (pa.table({"k": generator.integers(low, 1000, 4000)}) for low in (0, 300))
    assert discriminator_auc(real, fake, {"k": "category"}, seed=0).interval.low > 0.6


def test_the_figure_follows_the_seed_and_leaves_torch_alone():
    state = torch.get_rng_state()
    first, again, other = (discriminator_auc(rows(100), rows(100, seed=1), KINDS, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("size", [4, 5])
def test_a_few_rows_of_odd_columns_have_a_wide_interval(size):
    real = pa.table(
        {
            "null": pa.nulls(size, pa.float64()),
            "none": pa.nulls(size, pa.string()),
            "same": pa.array([1] * size),
            "odd": pa.array([np.nan, np.inf, -np.inf, None, 1.0][:size]),
        }
    )
    kinds = {"null": "number", "none": "category", "same": "number", "odd": "number"}
    value, (low, high) = discriminator_auc(real, real, kinds, seed=0)
    assert 0 <= low <= value <= high <= 1
    assert high - low > 0.5


def test_a_wide_table():
    generator = np.random.default_rng(0)
    real, fake = (pa.table({f"c{n}": generator.normal(size=60) + gap for n in range(500)}) for gap in (0, 1))
    assert discriminator_auc(real, fake, dict.fromkeys(real.column_names, "number"), seed=0).value > 0.95


def test_too_few_rows_are_refused():
    with pytest.raises(DataError, match="the synthetic table has 3 rows where at least 4"):
        discriminator_auc(rows(10), rows(3), KINDS, seed=0)
