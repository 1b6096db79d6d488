"""New identifiers look like the real ones, are none of them, and are all different."""

import json
import uuid

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raygen.datasets.identifiers import Identifier, Shape

ROWS = np.arange(2000)


def fitted(column: pa.Array, pieces: int = 3) -> Identifier:
    shape = Shape()
    for start in range(0, max(len(column), 1), -(-max(len(column), 1) // pieces)):
        piece = Shape()
        part = column.slice(start, -(-max(len(column), 1) // pieces))
        piece.add(part, np.zeros(len(part), bool))
        shape.merge(json.loads(json.dumps(piece.to_json())))
    return shape.fit()


def made(column: pa.Array) -> list[str]:
    identifier = fitted(column)
    found = identifier.decode(ROWS, column.type)
    assert found.type == column.type
    assert found.null_count == 0
    values = found.to_pylist()
    assert len(set(values)) == len(ROWS)
    assert not set(values) & set(column.to_pylist())
    assert identifier.decode(ROWS[7:9], column.type).to_pylist() == values[7:9]  # a row has the same in any batch
    return values


@pytest.mark.parametrize("kind", [pa.int16(), pa.int64(), pa.uint32(), pa.uint64()], ids=str)
def test_integers_go_on_after_the_greatest(kind: pa.DataType) -> None:
    assert made(pa.array([5, 901, None, 17], kind))[:3] == [902, 903, 904]


def test_integers_without_room_start_again() -> None:
    most = 2**63 - 1
    assert made(pa.array([most - 1, most - 100]))[:3] == [most, 0, 1]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()], ids=str)
def test_numbered_strings_are_numbered_on(kind: pa.DataType) -> None:
    real = pa.array([f"CUST-{row:06d}/x" for row in range(100, 400)], kind)
    assert made(real)[:2] == ["CUST-000400/x", "CUST-000401/x"]


def test_numbers_get_longer_where_they_run_out() -> None:
    values = Identifier(98, ("A", "0123456789", "0123456789")).decode(np.arange(4), pa.string()).to_pylist()
    assert values == ["A98", "A99", "A00-1", "A01-1"]


def test_uuids_are_uuids() -> None:
    rng = np.random.default_rng(0)
    real = [str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in range(500)]
    values = made(pa.array(real))
    assert all(uuid.UUID(value).version == 4 and value == str(uuid.UUID(value)) for value in values)
    assert len({value[:4] for value in values}) > 1500  # spread, not counted


def test_letters_stay_letters_and_digits_digits() -> None:
    rng = np.random.default_rng(0)
    real = ["".join(rng.choice(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), 3)) + f"{rng.integers(10**8):08d}" for _ in range(300)]
    for value in made(pa.array(real)):
        assert len(value) == 11
        assert value[:3].isalpha()
        assert value[:3].isupper()
        assert value[3:].isdigit()


@pytest.mark.parametrize(
    "real", [["a", "bb"], ["ä1", "ö2"], ["", "a"], ["x y", "x_y"], ["a" * 200, "b" * 200]], ids=lambda real: real[0][:3]
)
def test_what_does_not_look_alike_gets_plain_identifiers(real: list[str]) -> None:
    assert made(pa.array(real))[:2] == ["id-0", "id-1"]


def test_without_any() -> None:
    assert made(pa.array([None, None], pa.string()))[0] == "id-0"
    assert made(pa.array([], pa.int64()))[0] == 0


@settings(deadline=None)
@given(
    real=st.lists(st.text("ab01-", max_size=4), unique=True, max_size=20), rows=st.lists(st.integers(0, 2**53), unique=True)
)
def test_no_two_rows_share_one(real: list[str], rows: list[int]) -> None:
    values = fitted(pa.array(real, pa.string())).decode(np.array(rows, np.int64), pa.string()).to_pylist()
    assert len(set(values)) == len(rows)
