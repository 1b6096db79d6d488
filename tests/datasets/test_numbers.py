"""Numbers, dates and times become cells, and come back as the type, the nulls and about the values that they were."""

import json
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from arrow_columns import DECIMALS, FLOATS, TIMES, WHOLE, made, raw, units
from hypothesis import given, settings
from hypothesis import strategies as st

from raygen.datasets import numbers
from raygen.datasets.numbers import DISTINCT, RANGES, Number, Summary


def fitted(column: pa.Array, train: np.ndarray | None = None) -> Number:
    summary = Summary()
    summary.add(column, np.ones(len(column), bool) if train is None else train)
    again = Summary()
    again.merge(json.loads(json.dumps(summary.to_json())))
    assert again.fit(column.type) == summary.fit(column.type)
    return again.fit(column.type)


def there_and_back(column: pa.Array, number: Number) -> pa.Array:
    cells = number.encode(column)
    assert cells.dtype == np.float64
    assert ((cells >= 0) & (cells < number.tokens)).all()
    back = number.decode(cells, column.type)
    back.validate(full=True)
    assert back.type == column.type
    np.testing.assert_array_equal(np.floor(number.encode(back)), np.floor(cells))  # in the same bin
    return back


@settings(deadline=None, max_examples=300)
@given(data=st.data(), kind=st.sampled_from([*WHOLE, *FLOATS, *DECIMALS, *TIMES]))
def test_there_and_back(data: st.DataObject, kind: pa.DataType) -> None:
    column = made(data.draw(st.lists(st.none() | raw(kind), max_size=60)), kind)
    number = fitted(column)
    back = there_and_back(column, number)
    assert back.is_null().equals(column.is_null())
    here, there = ([v for v in units(it) if v is not None] for it in (column, back))
    finite = [v for v in here if math.isfinite(v)] if kind in FLOATS else here
    for value, found in zip(here, there, strict=True):
        if kind in FLOATS and not math.isfinite(value):
            assert str(found) == str(value)
        elif (kind in WHOLE and max(here) - min(here) < DISTINCT) or here.count(value) >= max(4, len(finite) / RANGES):
            assert found == value
        else:
            assert min(finite) <= found <= max(finite)
    start = data.draw(st.integers(0, len(column)))
    np.testing.assert_array_equal(number.encode(column.slice(start)), number.encode(column)[start:])


@settings(deadline=None)
@given(data=st.data(), kind=st.sampled_from([*WHOLE, *FLOATS, *DECIMALS, *TIMES]))
def test_what_only_other_rows_have_is_encoded_too(data: st.DataObject, kind: pa.DataType) -> None:
    column = made(data.draw(st.lists(st.none() | raw(kind), min_size=1, max_size=40)), kind)
    train = np.array(data.draw(st.lists(st.booleans(), min_size=len(column), max_size=len(column))))
    number = fitted(column, train)
    back = there_and_back(column, number)
    learnt = [v for v in units(column.filter(pa.array(train))) if v is not None]
    if kind not in FLOATS and learnt:
        assert all(min(learnt) <= value <= max(learnt) for value in units(back) if value is not None)
        assert back.is_null().equals(column.is_null())


def test_a_value_goes_to_the_nearest_bin() -> None:
    number = Number((0, 10, 100), (0, 20, 100), 1)
    column = pa.array([-5, 3, 8, 15, 25, 90, 1000, None])
    assert number.decode(number.encode(column), pa.int64()).to_pylist()[:-1] == [0, 0, 10, 15, 20, 100, 100]
    floats = Number((0.0, 10.0), (0.0, 20.0), None)
    found = floats.decode(floats.encode(pa.array([math.inf, -math.inf, 6.0, math.nan])), pa.float64()).to_pylist()
    np.testing.assert_allclose(found[:3], [20, 0, 10])
    assert found[3] is not None


def test_cells_are_in_the_order_of_the_values() -> None:
    """So that a range of values is a range of cells."""
    rng = np.random.default_rng(0)
    values = np.where(rng.random(20_000) < 0.9, 0, np.round(rng.normal(size=20_000) * 1e4))
    column = pa.array(np.append(values, [math.inf, -math.inf]))
    cells = fitted(column).encode(column)
    order = np.argsort(column.to_numpy(), kind="stable")
    assert (np.diff(cells[order]) >= 0).all()


def test_many_rows_of_one_value_are_a_token() -> None:
    """As the capital gains of a census: 92 % are zero, the others spread."""
    rng = np.random.default_rng(0)
    gains = np.where(rng.random(50_000) < 0.92, 0, rng.integers(100, 99_999, 50_000))
    gains[rng.random(50_000) < 0.01] = 15_024
    number = fitted(pa.array(gains))
    assert {0, 15_024} <= {low for low, high in zip(number.lows, number.highs, strict=True) if low == high}
    cells = number.encode(pa.array(gains))
    token, counts = np.unique(np.floor(cells), return_counts=True)
    assert number.decode(token, pa.int64()).to_pylist()[int(np.argmax(counts))] == 0
    others = np.sort(counts)[:-2]
    assert 50 <= len(others) <= RANGES + 20
    assert others.max() < 1.5 * np.median(others)  # about as many rows in each range


def test_few_integers_are_exact_and_rare_floats_are_not_remembered() -> None:
    ages = pa.array(np.arange(DISTINCT))
    assert fitted(ages).lows == fitted(ages).highs == tuple(range(DISTINCT))
    pay = pa.array(np.repeat(np.arange(DISTINCT) ** 3, 4))
    assert fitted(pay).tokens == DISTINCT
    assert fitted(pay.take(pa.array(np.arange(0, 4 * DISTINCT, 2)))).tokens < DISTINCT / 2
    few = fitted(pa.array([0.5, 1.25, 7.75, 2.0, 3.0]))
    assert (few.lows, few.highs) == ((0.5,), (7.75,))


@pytest.mark.parametrize(
    ("column", "rounded"),
    [
        (pa.array(np.round(np.arange(3000) * 0.01, 2)), lambda value: round(value, 2) == value),
        (pa.array((np.arange(3000) * 0.01).astype(np.float32)), lambda v: np.float32(round(v, 2)) == np.float32(v)),
        (pa.array([*np.arange(3000.0), None]), lambda value: value == int(value)),  # integers with nulls, in pandas
        (pa.array(np.arange(3000) * 25), lambda value: value % 25 == 0),
        (pa.array([Decimal(n) / 4 for n in range(3000)], pa.decimal128(12, 4)), lambda value: value % Decimal("0.25") == 0),
        (pa.array(np.arange(3000) * 3_600_000_000).view(pa.timestamp("us")), lambda v: (v.minute, v.second) == (0, 0)),
    ],
    ids=["float64", "float32", "whole", "steps", "decimal", "hours"],
)
def test_new_values_are_as_precise_as_the_real_ones(column: pa.Array, rounded: Any) -> None:
    number = fitted(column)
    cells = np.random.default_rng(0).uniform(0, number.tokens - number.null, 8000)
    values = number.decode(cells, column.type).to_pylist()
    assert len(set(values)) > 1000
    assert all(map(rounded, values))
    assert min(values) >= min(v for v in column.to_pylist() if v is not None)
    assert max(values) <= max(v for v in column.to_pylist() if v is not None)


def test_places_that_are_uniform_give_the_distribution() -> None:
    rng = np.random.default_rng(0)
    real = rng.lognormal(size=30_000)
    number = fitted(pa.array(real))
    cells = rng.permutation(np.floor(number.encode(pa.array(real)))) + rng.random(len(real))
    found = number.decode(cells, pa.float64()).to_numpy()
    grid = np.quantile(real, np.linspace(0, 1, 500))
    ranks = [np.searchsorted(np.sort(x), grid) / len(x) for x in (real, found)]
    assert np.abs(ranks[0] - ranks[1]).max() < 0.005


def test_nothing_but_nulls_or_nan_or_infinity() -> None:
    for values, kind, tokens in (
        ([None, None], pa.int8(), 1),
        ([None], pa.decimal256(50, 3), 1),
        ([], pa.float64(), 1),
        ([math.nan, None], pa.float32(), 2),
        ([math.inf, math.inf], pa.float16(), 1),
        ([-math.inf, math.inf, None, math.nan], pa.float64(), 4),
    ):
        column = pa.array(values, kind)
        number = fitted(column)
        assert number.tokens == tokens
        assert str(there_and_back(column, number).to_pylist()) == str(values)


@pytest.mark.parametrize("kind", [pa.float64(), pa.int64(), pa.decimal128(38, 2)], ids=str)
def test_summaries_of_many_pieces_are_about_those_of_the_whole(kind: pa.DataType) -> None:
    rng = np.random.default_rng(0)
    real = np.where(rng.random(200_000) < 0.3, 7, np.round(rng.normal(size=200_000) * 1e7))
    column = pa.array(real).cast(pa.int64()).cast(kind) if kind != pa.float64() else pa.array(real / 3)
    whole = Summary()
    for start in range(0, len(column), 5000):
        piece = Summary()
        piece.add(column.slice(start, 5000), np.ones(5000, bool))
        whole.merge(json.loads(json.dumps(piece.to_json())))
    assert len(whole.to_json()["quantiles"]["values"]) <= 4096
    number = whole.fit(kind)
    tokens, counts = np.unique(np.floor(number.encode(column)), return_counts=True)
    assert len(tokens) == number.tokens
    assert number.decode(np.array([tokens[np.argmax(counts)]]), kind)[0] == column[int(np.argmax(real == 7))]
    assert np.sort(counts)[-2] < 1.5 * np.median(counts)
    least, most = number.decode(np.array([0, number.tokens - 1e-9]), kind).to_pylist()
    assert least == min(column.to_pylist())
    assert float(most) == pytest.approx(float(max(column.to_pylist())), rel=1e-6)


def test_which_types_are_numbers_and_which_are_times() -> None:
    for kind in [*WHOLE, *FLOATS, *DECIMALS]:
        assert (numbers.is_number(kind), numbers.is_datetime(kind)) == (True, False)
    for kind in TIMES:
        assert (numbers.is_number(kind), numbers.is_datetime(kind)) == (False, True)
    for kind in (pa.bool_(), pa.string(), pa.month_day_nano_interval(), pa.dictionary(pa.int8(), pa.float64())):
        assert not numbers.is_number(kind)
        assert not numbers.is_datetime(kind)
