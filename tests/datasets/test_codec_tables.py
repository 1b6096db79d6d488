"""A codec of a table gives back the types, the nulls and the values of its columns, and survives as JSON."""

import json
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raygen.datasets.codec import CELLS, ROW, Codec
from raygen.datasets.statistics import Statistics
from raygen.errors import DataError, RaygenError
from raygen.spec import CategoryField, ConstantField, DataField, DatetimeField, IdentifierField, NumberField

ROWS = 1200
RNG = np.random.default_rng(0)
TYPES: list[tuple[pa.DataType, DataField]] = [
    *((kind, NumberField()) for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())),
    *((kind, NumberField()) for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())),
    *((kind, NumberField()) for kind in (pa.float16(), pa.float32(), pa.float64())),
    *((kind, NumberField()) for kind in (pa.decimal128(20, 2), pa.decimal128(9, -2), pa.decimal256(60, 4))),
    *((kind, DatetimeField()) for kind in (pa.date32(), pa.date64(), pa.time32("ms"), pa.time64("us"))),
    *((pa.timestamp(unit, zone), DatetimeField()) for unit in ("ms", "us", "ns") for zone in (None, "Europe/Berlin")),
    *((pa.duration(unit), DatetimeField()) for unit in ("s", "ns")),
    *((kind, CategoryField()) for kind in (pa.bool_(), pa.string(), pa.large_string())),
    (pa.dictionary(pa.int32(), pa.string()), CategoryField()),
]
LEARNT = [*(str(kind) for kind, _ in TYPES), "code", "city"]


def values(kind: pa.DataType) -> pa.Array:
    numbers = pa.array(RNG.integers(0, 100, ROWS))
    if pa.types.is_boolean(kind):
        plain = pa.array((numbers.to_numpy() > 50).tolist())
    elif pa.types.is_decimal(kind):
        plain = pa.array([Decimal(n) * 100 for n in numbers.to_pylist()], kind)
    elif pa.types.is_date(kind):
        plain = numbers.cast(pa.int32()).cast(pa.date32()).cast(kind)
    elif pa.types.is_time(kind) and kind.bit_width == 32:
        plain = numbers.cast(pa.int32()).view(kind)
    elif pa.types.is_timestamp(kind) or pa.types.is_duration(kind) or pa.types.is_time(kind):
        plain = numbers.view(kind)
    elif pa.types.is_dictionary(kind):
        plain = numbers.cast(pa.string()).dictionary_encode()
    elif kind == pa.float16():
        plain = pa.array(numbers.to_numpy().astype(np.float16))
    else:
        plain = numbers.cast(kind)
    nulls = pa.array(RNG.random(ROWS) < 0.1)
    return plain.take(pa.array(np.arange(ROWS), mask=nulls.to_numpy(False)))


def table() -> tuple[pa.Table, dict[str, DataField]]:
    columns: dict[str, Any] = {str(kind): values(kind) for kind, _ in TYPES}
    fields: dict[str, DataField] = {str(kind): field for kind, field in TYPES}
    columns |= {
        "id": pa.array([f"N{row:05d}" for row in range(ROWS)]),
        "number": pa.array(range(ROWS), pa.uint32()),
        "code": values(pa.int16()),
        "city": pa.array([f"city {row % 1100}" for row in range(ROWS)], pa.dictionary(pa.int32(), pa.string())),
        "source": pa.array(["census"] * ROWS).dictionary_encode(),
        "rate": pa.array([float("nan")] * ROWS, pa.float32()),
        "nothing": pa.nulls(ROWS, pa.list_(pa.int8())),
        "note": pa.array(["left out"] * ROWS),
    }
    fields |= {"id": IdentifierField(), "number": IdentifierField(), "code": CategoryField(), "city": CategoryField()}
    fields |= {"source": ConstantField(), "rate": ConstantField(), "nothing": ConstantField()}
    made = pa.table(columns)
    return made.replace_schema_metadata({"kept": "yes", "pandas": "{}"}), fields


def fitted(made: pa.Table, fields: dict[str, DataField], train: np.ndarray | None = None) -> Codec:
    statistics = Statistics(fields)
    for start in range(0, len(made), 500):
        piece, part = Statistics(fields), made.slice(start, 500)
        piece.add(part, np.ones(len(part), bool) if train is None else train[start : start + 500])
        statistics.merge(json.loads(json.dumps(piece.to_json())))
    return statistics.codec(made.schema)


def test_every_type_there_and_back() -> None:
    made, fields = table()
    codec = fitted(made, fields)
    assert codec.is_table
    assert list(codec.cells) == LEARNT
    batch = codec.encode(made.select(LEARNT))
    assert list(batch) == [CELLS]
    assert (batch[CELLS].dtype, batch[CELLS].shape) == (np.dtype(np.float64), (ROWS, len(LEARNT)))
    assert ((batch[CELLS] >= 0) & (batch[CELLS] < list(codec.cells.values()))).all()
    back = codec.decode({**batch, ROW: np.arange(ROWS)})
    back.validate(full=True)
    expected = made.drop_columns("note")
    assert back.schema.equals(expected.schema)
    assert back.schema.metadata == {b"kept": b"yes"}
    for name in (*LEARNT, "source", "nothing"):
        assert back[name].to_pylist() == expected[name].to_pylist(), name
    assert np.isnan(back["rate"].to_numpy()).all()
    assert back["id"][0].as_py() == "N01200"
    assert back["number"].to_pylist() == list(range(ROWS, 2 * ROWS))


def test_json_there_and_back() -> None:
    made, fields = table()
    codec = fitted(made, fields)
    again = Codec.from_json(json.loads(json.dumps(codec.to_json(), allow_nan=False)))
    assert again == codec
    assert json.dumps(again.to_json()) == json.dumps(codec.to_json())
    batch = {**codec.encode(made), ROW: np.arange(ROWS)}
    assert again.decode(batch).equals(codec.decode(batch)) or again.decode(batch).drop_columns("rate").equals(
        codec.decode(batch).drop_columns("rate")
    )


def test_a_category_token_is_its_class() -> None:
    made, fields = table()
    codec = fitted(made, fields)
    cells = codec.encode(made)[CELLS][:, list(codec.cells).index("string")]
    row = made["string"].to_pylist().index("42")
    assert cells[row] == codec.class_index("string", "42")
    assert codec.cells["string"] == len(codec.categories["string"].values)
    with pytest.raises(RaygenError, match="city is no category of at most 1000 values"):
        codec.class_index("city", "city 7")


def test_some_columns_and_no_rows() -> None:
    made, fields = table()
    codec = fitted(made, fields).select(["city", "int8", "id"])
    assert list(codec.cells) == ["int8", "city"]
    none = codec.decode({**codec.encode(made.slice(0, 0)), ROW: np.arange(0)})
    assert none.schema.equals(made.select(["int8", "id", "city"]).schema)
    assert len(none) == 0


def test_values_that_no_token_is_for_are_taken_to_the_nearest() -> None:
    """Cells that a generator makes are floats: just below or above is none of the others."""
    made, fields = table()
    codec = fitted(made, fields)
    far = np.array([[-0.5], [1e9]]) * np.ones(len(codec.cells))
    codec.decode({CELLS: far, ROW: np.arange(2)}).validate(full=True)


def test_a_constant_that_is_none() -> None:
    made = pa.table({"x": pa.array([1, 2, 3]), "y": pa.array(["a", "a", "b"])})
    with pytest.raises(DataError) as caught:
        fitted(made, {"x": NumberField(), "y": ConstantField()})
    assert caught.value.what == "column 'y' is not constant: it has a and b"
    nullable = pa.table({"x": pa.array([1, 2, 3]), "y": pa.array(["a", "a", None])})
    with pytest.raises(DataError, match="it has a and None"):
        fitted(nullable, {"x": NumberField(), "y": ConstantField()})


def test_five_rows() -> None:
    made = pa.table({"x": [1.5, 2.5, None, 7.5, 8.0], "name": ["a", "b", "c", "d", None], "id": range(5)})
    fields: dict[str, DataField] = {"x": NumberField(), "name": CategoryField(), "id": IdentifierField()}
    for held in range(5):
        codec = fitted(made, fields, np.arange(5) != held)
        back = codec.decode({**codec.encode(made), ROW: np.arange(5)})
        assert back["name"].to_pylist() == made["name"].to_pylist()
        assert back["x"].is_null().equals(made["x"].is_null())


def test_two_thousand_columns() -> None:
    made = pa.table({f"c{column}": RNG.normal(size=50) for column in range(2000)})
    codec = fitted(made, {name: NumberField() for name in made.column_names})
    batch = codec.encode(made)
    assert batch[CELLS].shape == (50, 2000)
    assert codec.decode(batch).num_columns == 2000
