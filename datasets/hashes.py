"""64-bit hashes that are the same in every process: of where rows are, of values, and of whole rows."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as at

Hashes = npt.NDArray[np.uint64]

NULL = np.uint64(0x5851F42D4C957F2D)


def mix(x: Hashes) -> Hashes:
    """SplitMix64's finalizer (Steele et al. 2014): one to one, and every bit of ``x`` changes half of the bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def of_addresses(name: str, rows: np.ndarray) -> Hashes:
    """Of rows of a file by their numbers in it, ``(n,)``; ``name`` is relative to the root of the source."""
    base = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return mix(np.asarray(rows, np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(base))


def of_values(column: pa.ChunkedArray) -> Hashes:
    """Of the values of a column, ``(n,)``: equal where they are equal, as for Arrow's ``dictionary_encode``: null is a value
    of its own, NaN another, and 0 is not -0."""
    values = column.combine_chunks()
    values = values.cast(values.type.value_type) if at.is_dictionary(values.type) else values
    hashed = mix(_words(values))
    if values.null_count:
        hashed[np.asarray(values.is_null())] = NULL
    return hashed


def of_rows(table: pa.Table, names: Sequence[str]) -> Hashes:
    """Of rows, by some of their columns, ``(n,)``."""
    hashed = np.zeros(len(table), np.uint64)
    for name in names:
        hashed = mix(hashed * np.uint64(0x9E3779B97F4A7C15) + of_values(table[name]))
    return hashed


def _words(values: pa.Array) -> Hashes:
    """One number for each value, whatever stands where there is none."""
    kind = values.type
    if at.is_null(kind):
        return np.zeros(len(values), np.uint64)
    if at.is_boolean(kind):
        values, kind = values.cast(pa.uint8()), pa.uint8()
    if at.is_floating(kind):
        floats = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
        return np.asarray(np.where(np.isnan(floats), np.nan, floats)).view(np.uint64)
    if at.is_primitive(kind) or at.is_decimal(kind):
        return _folded(values)
    encoded = values.dictionary_encode()
    digests = [hashlib.blake2b(str(value).encode(), digest_size=8).digest() for value in encoded.dictionary.to_pylist()]
    of_each = np.append(np.frombuffer(b"".join(digests), np.uint64), NULL)
    return np.asarray(of_each[encoded.indices.fill_null(len(digests)).to_numpy(zero_copy_only=False)])


def _folded(values: pa.Array) -> Hashes:
    """The bytes of values of a fixed width, of which those of decimals are longer than a word."""
    width = values.type.bit_width // 8
    _, data = values.buffers()
    if data is None:
        return np.zeros(len(values), np.uint64)
    raw = np.frombuffer(data, np.uint8, len(values) * width, values.offset * width)
    if width <= 8:
        return raw.view(f"<u{width}").astype(np.uint64)
    words = raw.view(np.uint64).reshape(len(values), -1)
    folded = words[:, 0]
    for word in words.T[1:]:
        folded = mix(folded) + word
    return np.asarray(folded, np.uint64)
