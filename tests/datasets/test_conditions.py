"""Conditions: whatever an allowed cell is decoded to meets them, and nothing that meets them is forbidden."""

import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from arrow_columns import DECIMALS, FLOATS, TIMES, WHOLE, made, raw, units
from hypothesis import given, settings
from hypothesis import strategies as st

from raygen.datasets.codec import CELLS, ROW, Codec
from raygen.datasets.numbers import Number
from raygen.datasets.statistics import Statistics
from raygen.errors import RaygenError
from raygen.spec import CategoryField, ConstantField, DataField, DatetimeField, IdentifierField, NumberField

NUMBER, DATETIME, CATEGORY = NumberField(), DatetimeField(), CategoryField()
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
WIDE_ZONE = "America/New_York"


def fitted(table: pa.Table, **fields: DataField) -> Codec:
    statistics = Statistics(fields)
    statistics.add(table, np.ones(len(table), bool))
    return statistics.codec(table.schema)


def allowed(bounds: np.ndarray, count: int) -> np.ndarray:
    """Cells within bounds, the first and the last of each token among them."""
    rng = np.random.default_rng(0)
    tokens = np.flatnonzero(bounds[:, 1] > bounds[:, 0])
    low, high = bounds[tokens].T
    which = rng.integers(0, len(tokens), count)
    inner = (tokens + low)[which] + rng.random(count) * (high - low)[which]
    last = np.nextafter(tokens + high, 0)
    return np.concatenate([tokens + low, last, np.minimum(inner, last[which])])


def rows(codec: Codec, asked: dict[str, Any], name: str) -> list[Any]:
    """Values of a conditioned column of new rows whose other cells are 0."""
    condition, index = codec.where(asked), list(codec.cells).index(name)
    cells = allowed(condition.bounds[index], 200)
    batch = np.zeros((len(cells), len(codec.cells)))
    batch[:, index] = cells
    table = condition.imposed(codec.decode({CELLS: batch, ROW: np.arange(len(cells))}))
    table.validate(full=True)
    assert table.schema.equals(codec.arrow)
    return list(table[name].to_pylist())


def sayable(value: Any, kind: pa.DataType) -> bool:
    """Whether a spec can say a value, in the units of a type: a finite number, or one of the years 2 to 9998."""
    if value is None or kind in FLOATS:
        return value is not None and math.isfinite(value)
    if not (pa.types.is_date(kind) or pa.types.is_timestamp(kind)):
        return True
    per_day = 1 if kind == pa.date32() else 86_400_000 if kind == pa.date64() else 86_400 * PER_SECOND[kind.unit]
    return bool(-718_000 < value // per_day < 2_932_000)


def said(value: Any, kind: pa.DataType) -> Any:
    """What a spec says for a value in the units of a type."""
    if kind in DECIMALS:
        return made([value], kind)[0].as_py()
    if kind not in TIMES:
        return value
    if pa.types.is_duration(kind):
        seconds, rest = divmod(abs(value), PER_SECOND[kind.unit])
        return f"{'-' * (value < 0)}PT{seconds}.{PER_SECOND['ns'] * rest // PER_SECOND[kind.unit]:09d}S"
    moment = made([value], kind)[0]
    if pa.types.is_timestamp(kind) and kind.tz:
        moment = moment.cast(pa.timestamp(kind.unit, "UTC"))
    return str(moment.cast(pa.string()))


@settings(deadline=None, max_examples=400)
@given(data=st.data(), kind=st.sampled_from([*WHOLE, *FLOATS, *DECIMALS, *TIMES]))
def test_a_range_is_what_lies_in_it_and_nothing_else(data: st.DataObject, kind: pa.DataType) -> None:
    """The cells of values that were seen, and others."""
    column = made(data.draw(st.lists(st.none() | raw(kind), min_size=1, max_size=60)), kind)
    codec = fitted(pa.table({"x": column}), x=DATETIME if kind in TIMES else NUMBER)
    seen = [value for value in units(column) if sayable(value, kind)]
    ends = raw(kind).filter(lambda value: sayable(value, kind)) | (st.sampled_from(seen) if seen else st.nothing())
    low, high = sorted([data.draw(ends), data.draw(ends)])
    number = codec.columns["x"]
    assert isinstance(number, Number)
    others = np.random.default_rng(0).uniform(0, np.nextafter(float(number.tokens), 0), 300)
    cells = np.concatenate([number.encode(column), others])
    meets = np.array([value is not None and low <= value <= high for value in units(number.decode(cells, kind))])
    try:
        condition = codec.where({"x": [said(low, kind), said(high, kind)]})
    except RaygenError:
        assert not meets.any()
        return
    token = np.floor(cells)
    first, end = condition.bounds[0][token.astype(int)].T
    inside = (first <= cells - token) & (cells - token < end)
    assert inside[meets].all()
    assert meets[inside].all() or "x" in condition.literals
    made_ = condition.imposed(codec.decode({CELLS: allowed(condition.bounds[0], 100)[:, None]}))
    assert made_.schema.equals(codec.arrow)
    assert all(value is not None and low <= value <= high for value in units(made_["x"].combine_chunks()))
    if low == high:
        assert set(units(condition.literals["x"])) == {low}


def ages() -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "age": pa.array(rng.integers(17, 91, 2000), mask=rng.random(2000) < 0.1),
            "gain": np.where(rng.random(2000) < 0.9, 0, rng.integers(1, 2000, 2000) * 25),
            "pay": np.round(rng.lognormal(9, 1, 2000), 2),
            "weight": rng.normal(70, 9, 2000),
            "income": pa.array(np.where(rng.random(2000) < 0.2, ">50K", "<=50K"), mask=rng.random(2000) < 0.1),
            "old": rng.random(2000) < 0.5,
            "town": [f"town {n * n // 1500}" for n in range(2000)],
            "born": pa.array(rng.integers(0, 2 * 10**9, 2000) * 10**6).view(pa.timestamp("us", WIDE_ZONE)),
            "seen": pa.array(rng.integers(0, 20_000, 2000), pa.int32()).view(pa.date32()),
            "at": pa.array(rng.integers(0, 86_400, 2000), pa.int32()).view(pa.time32("s")),
            "took": pa.array(rng.integers(0, 10**6, 2000)).view(pa.duration("s")),
            "plain": pa.array(rng.integers(0, 2 * 10**9, 2000) * 10**9).view(pa.timestamp("ns")),
            "id": range(2000),
            "source": ["census"] * 2000,
        }
    )


FIELDS: dict[str, DataField] = {
    **dict.fromkeys(("age", "gain", "pay", "weight"), NUMBER),
    **dict.fromkeys(("income", "old", "town"), CATEGORY),
    **dict.fromkeys(("born", "seen", "at", "took", "plain"), DATETIME),
    "id": IdentifierField(),
    "source": ConstantField(),
}


@pytest.fixture(scope="module")
def codec() -> Codec:
    return fitted(ages(), **FIELDS)


def test_values_and_lists_of_them(codec: Codec) -> None:
    assert set(rows(codec, {"age": [18, 25]}, "age")) == set(range(18, 26))
    assert set(rows(codec, {"age": [17.5, None]}, "age")) == set(range(18, 91))
    assert set(rows(codec, {"age": [None, 17]}, "age")) == {17}
    assert None not in rows(codec, {"age": [None, None]}, "age")
    assert set(rows(codec, {"age": None}, "age")) == {None}
    assert set(rows(codec, {"age": 30}, "age")) == {30}
    assert set(rows(codec, {"gain": 0}, "gain")) == {0}
    assert set(rows(codec, {"gain": [1, 100]}, "gain")) <= {25, 50, 75, 100}
    assert set(rows(codec, {"pay": 5000.25}, "pay")) == {5000.25}
    assert set(rows(codec, {"weight": 70.1}, "weight")) == {70.1}
    assert set(rows(codec, {"weight": [70.1, 70.1 + 1e-14]}, "weight")) <= {70.1, 70.1 + 1e-14}
    assert set(rows(codec, {"income": ">50K"}, "income")) == {">50K"}
    assert set(rows(codec, {"income": [">50K", None]}, "income")) == {">50K", None}
    assert set(rows(codec, {"old": True}, "old")) == {True}
    assert set(rows(codec, {"income": ">50K", "age": [18, 25]}, "age")) == set(range(18, 26))
    assert not codec.where({"source": "census"}).bounds


def test_very_many_values(codec: Codec) -> None:
    known = sorted(set(ages()["town"].to_pylist()))
    assert len(known) > 1000
    for town in (known[0], known[-1], *known[100:110]):
        assert set(rows(codec, {"town": town}, "town")) == {town}
    apart = [known[n] for n in (3, 500, 900)]
    assert set(rows(codec, {"town": apart}, "town")) == set(apart)
    vocabulary = codec.columns["town"]
    shared = list(vocabulary.shared[: 2 * vocabulary.starts[1]])  # type: ignore[union-attr]
    assert set(rows(codec, {"town": shared[::-1]}, "town")) == set(shared)
    with pytest.raises(RaygenError, match="cannot be asked for at once"):
        codec.where({"town": shared[:3:2]})
    with pytest.raises(RaygenError, match="town has no value 'town x'"):
        codec.where({"town": "town x"})
    with pytest.raises(RaygenError, match="town has no value None"):
        codec.where({"town": None})


def test_dates_and_times(codec: Codec) -> None:
    day = rows(codec, {"born": date(2001, 7, 1)}, "born")
    assert {moment.strftime("%Y-%m-%d") for moment in day} == {"2001-07-01"}
    year = rows(codec, {"born": ["2001-01-01", "2001-12-31"]}, "born")
    assert min(year).year == max(year).year == 2001
    noon = datetime(2001, 7, 1, 12, tzinfo=UTC)
    for moment in (noon, "2001-07-01T12:00:00Z", "2001-07-01 08:00:00", datetime(2001, 7, 1, 8)):
        assert set(rows(codec, {"born": moment}, "born")) == {noon}
    assert {moment.tzinfo is not None for moment in day} == {True}
    assert set(rows(codec, {"seen": "2010-02-28"}, "seen")) == {date(2010, 2, 28)}
    assert min(rows(codec, {"seen": ["2010-02-28 12:00", None]}, "seen")) == date(2010, 3, 1)
    assert set(rows(codec, {"at": ["12:30", time(12, 30, 1)]}, "at")) == {time(12, 30), time(12, 30, 1)}
    assert max(rows(codec, {"took": [None, "PT1H30M"]}, "took")) <= timedelta(hours=1.5)
    assert set(rows(codec, {"took": timedelta(days=2)}, "took")) == {timedelta(days=2)}
    found = codec.where({"plain": "2001-01-01 00:00:01.000000000"}).literals["plain"]
    assert found.view(pa.int64()).to_pylist() == [978_307_201_000_000_000]
    with pytest.raises(RaygenError, match="has no value 2001"):  # all others are whole seconds
        codec.where({"plain": "2001-01-01 00:00:01.000000001"})


def test_a_day_is_as_long_as_in_its_zone() -> None:
    """The last Sunday in March has 23 hours."""
    hours = pa.array(np.arange(10**9, 11 * 10**8, 3600)).view(pa.timestamp("s", "Europe/Berlin"))
    codec = fitted(pa.table({"x": hours}), x=DATETIME)
    day, hours_ = (
        codec.where({"x": asked}).bounds[0] for asked in ("2002-03-31", ["2002-03-30 23:00Z", "2002-03-31 21:59:59Z"])
    )
    np.testing.assert_array_equal(day, hours_)
    assert (day != codec.where({"x": ["2002-03-30 23:00Z", "2002-03-31 22:59:59Z"]}).bounds[0]).any()


@pytest.mark.parametrize(
    ("asked", "what", "hint"),
    [
        ({"agee": 3}, "where.agee: there is no such column; did you mean 'age'?", "known: age, gain"),
        ({"id": 3}, "where.id: the column is of kind 'identifier'", "those that can be asked for: age, gain"),
        ({"source": "x"}, "where.source: the column is of kind 'constant'", "leave it out"),
        ({"income": ">50k"}, "income has no value '>50k'; did you mean '>50K'?", "its values are: '<=50K', '>50K', None"),
        ({"income": []}, "where.income: the list is empty", "name at least one"),
        ({"old": 1}, "old has no value 1", "its values are: False, True"),
        ({"age": 91}, "where.age: the data has no value 91", "its values are from 17 to 90"),
        ({"age": [91, 99]}, "where.age: the data has no value 91 to 99", "its values are from 17 to 90"),
        ({"age": 18.5}, "where.age: the data has no value 18.5", "its values are from 17 to 90"),
        ({"age": [20, 18]}, "where.age: 20 is above 18", "[least, most]"),
        ({"age": [1, 2, 3]}, "where.age: 3 values in a list", "[least, most]"),
        ({"age": "18"}, "where.age: '18' is not a number, and the column is of type int64", "give a number"),
        ({"age": True}, "where.age: True is not a number", "give a number"),
        ({"age": [math.nan, 3]}, "where.age: nan is not a number", "give a number"),
        ({"pay": math.nan}, "where.pay: it is never nan", "its values are from"),
        ({"pay": None}, "where.pay: it is never null", "its values are from"),
        ({"pay": 10**400}, "where.pay: the data has no value", "with 2 decimal places"),
        ({"pay": 5000.001}, "where.pay: the data has no value 5000.001", "with 2 decimal places"),
        ({"gain": 30}, "where.gain: the data has no value 30", "each a multiple of 25"),
        ({"born": 5}, "where.born: 5 is not a date of timestamp[us, tz=America/New_York]", "2024-05-06 12:30:00+02:00"),
        ({"born": "May"}, "where.born: May is not a date or time in the form of ISO 8601", "2024-05-06 12:30:00+02:00"),
        ({"born": "9999-12-31"}, "where.born: 9999-12-31 is ", "2024-05-06"),
        ({"plain": "2001-01-01 00:00Z"}, "where.plain: 2001-01-01 00:00Z is a time with a zone", "2024-05-06 12:30:00'"),
        ({"at": 750}, "where.at: 750 is not a time of time32[s]", "in quotes: '12:30:00'"),
        ({"took": 5}, "where.took: 5 is not a duration in the form of ISO 8601", "PT2H30M"),
        ({"took": "P"}, "where.took: P is not a duration in the form of ISO 8601", "PT2H30M"),
        ({"seen": "1960-01-01"}, "where.seen: the data has no value 1960-01-01", "its values are from 19"),
    ],
)
def test_what_cannot_be_asked_for_is_said(codec: Codec, asked: dict[str, Any], what: str, hint: str) -> None:
    with pytest.raises(RaygenError) as caught:
        codec.where(asked)
    assert caught.value.what.startswith(what)
    assert hint in caught.value.hint


def test_infinity_nan_and_nothing_else() -> None:
    values = [1.0, 2.0, 3.0, 4.0] * 10 + [math.inf, math.nan, None] * 4
    codec = fitted(pa.table({"x": values, "y": pa.nulls(len(values), pa.int8())}), x=NUMBER, y=NUMBER)
    assert set(rows(codec, {"x": [3, None]}, "x")) == {3.0, 4.0, math.inf}
    assert set(rows(codec, {"x": [3, 10**400]}, "x")) == {3.0, 4.0}
    assert np.isnan(rows(codec, {"x": math.nan}, "x")).all()
    assert set(rows(codec, {"x": None}, "x")) == set(rows(codec, {"y": None}, "y")) == {None}
    with pytest.raises(RaygenError) as caught:
        codec.where({"y": 3})
    assert caught.value.hint == "the column has no values"


def test_a_gap_between_values_has_none() -> None:
    codec = fitted(pa.table({"x": [0] * 50 + [1000] * 50, "y": [Decimal("1.5"), Decimal("2.5")] * 50}), x=NUMBER, y=NUMBER)
    with pytest.raises(RaygenError, match=r"where\.x: the data has no value 5 to 900"):
        codec.where({"x": [5, 900]})
    assert set(rows(codec, {"y": 2.5}, "y")) == {Decimal("2.5")}
    assert set(rows(codec, {"y": [0.1, 2.49]}, "y")) == {Decimal("1.5")}
