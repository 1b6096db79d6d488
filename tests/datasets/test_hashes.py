"""Hashes tell values and rows apart, and are the same wherever, and in whatever pieces, they are made."""

import numpy as np
import pyarrow as pa
import pytest

from raygen.datasets.hashes import of_addresses, of_rows, of_values
from raygen.metrics.encoding import row_codes

COLUMNS = {
    "int": pa.array([3, 1, None, 2, 1, -1], pa.int8()),
    "large": pa.array([2**64 - 1, 1, None, 2**63, 1, 0], pa.uint64()),
    "float": pa.array([0.1, float("nan"), None, float("inf"), float("nan"), 0.0]),
    "half": pa.array(np.array([0.5, 1, 2, 3, 1, np.nan], np.float16)),
    "bool": pa.array([True, False, None, True, True, False]),
    "date": pa.array([1, 2, None, 3, 2, 0], pa.date32()),
    "time": pa.array([1, 2, None, 3, 2, 0], pa.timestamp("ns", "Europe/Berlin")),
    "decimal": pa.array([1, 2, None, 10**30, 2, 0], pa.decimal128(38, 2)),
    "long": pa.array([1, 2, None, 10**50, 2, 0], pa.decimal256(60, 2)),
    "text": pa.array(["a", "", None, "ä", "", "aa"]),
    "coded": pa.array(["a", "", None, "ä", "", "aa"]).dictionary_encode(),
    "null": pa.nulls(6),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_equal_values_and_no_others_have_equal_hashes(name: str) -> None:
    column = COLUMNS[name]
    values = [str(value) for value in column.to_pylist()]
    hashes = of_values(pa.chunked_array([column])).tolist()
    assert len(set(hashes)) == len(set(values))
    assert len(set(zip(values, hashes, strict=True))) == len(set(values))
    pieces = pa.chunked_array([column.slice(0, 1), column.slice(1, 3), column.slice(4)])
    assert of_values(pieces).tolist() == hashes
    assert of_values(pa.chunked_array([column.slice(2)])).tolist() == hashes[2:]


def test_they_are_the_same_in_every_version() -> None:
    table = pa.table({"a": ["x", None], "b": [1.5, 2.0]})
    assert of_rows(table, ["a", "b"]).tolist() == [764438852908756964, 3471006682692368398]
    assert of_addresses("a.parquet", np.array([7])).tolist() == [13703430313001831078]


def test_rows_are_equal_where_all_their_columns_are() -> None:
    random = np.random.default_rng(0)
    table = pa.table({name: column.take(random.integers(0, 6, 3000)) for name, column in COLUMNS.items() if name != "null"})
    table = table.select(["int", "bool", "text", "decimal"])
    (codes,) = row_codes({"all": table}, dict.fromkeys(table.column_names, "category") | {"decimal": "number"})
    hashes = of_rows(table, table.column_names)
    assert (
        len(np.unique(hashes))
        == len(np.unique(codes))
        == len(np.unique(np.stack([hashes, codes.view(np.uint64)]), axis=1).T)
    )
    assert (of_rows(table, table.column_names[::-1]) != hashes).mean() > 0.99  # but where all are null
