"""Identifier columns: values that tell rows apart. None is learnt; new ones look like them and are made of row numbers."""

import hashlib
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as at

GROUPS = ("0123456789", "abcdef", "ghijklmnopqrstuvwxyz", "ABCDEF", "GHIJKLMNOPQRSTUVWXYZ")
"""Letters that may stand for each other: decimal and hexadecimal digits stay such."""
LONGEST = 128
LARGE = 2**64
"""So many identifiers of one shape are possible where they are drawn at random, as UUIDs are."""

_GROUP = np.full(256, 1 << len(GROUPS), np.uint8)
for _index, _group in enumerate(GROUPS):
    _GROUP[list(_group.encode())] = 1 << _index


def is_identifier(kind: pa.DataType) -> bool:
    return bool(at.is_integer(kind) or at.is_string(kind) or at.is_large_string(kind))


@dataclass(frozen=True)
class Identifier:
    """How new identifiers are made.

    Attributes:
        start: the number of row 0: one more than that of the greatest real one, so that none is made again, where there is
            room. Else None: numbers are spread over all that are possible.
        shape: of strings that all look alike, the letters that may stand at each position; empty for others.
    """

    start: int | None
    shape: tuple[str, ...] = ()

    def decode(self, rows: np.ndarray, kind: pa.DataType) -> pa.Array:
        """An identifier for each row number, int64 ``(n,)``; a row always has the same one, and another row another."""
        if at.is_integer(kind):
            most = int(np.iinfo(kind.to_pandas_dtype()).max)
            return pa.array([((self.start or 0) + int(row)) % (most + 1) for row in rows], kind)
        if not self.shape:
            return pa.array([f"id-{row}" for row in rows], kind)
        possible = math.prod(map(len, self.shape))
        factor, offset = (1, self.start) if self.start is not None else self._spread(possible)
        return pa.array([self._text(int(row), possible, factor, offset) for row in rows], kind)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def _text(self, row: int, possible: int, factor: int, offset: int) -> str:
        again, number = divmod(offset + row, possible) if factor == 1 else (row // possible, row * factor + offset)
        letters = []
        for alphabet in reversed(self.shape):
            number, index = divmod(number, len(alphabet))
            letters.append(alphabet[index])
        return "".join(reversed(letters)) + (f"-{again}" if again else "")

    def _spread(self, possible: int) -> tuple[int, int]:
        """What to multiply row numbers by, without a divisor in common with how many are possible, so that no two give one;
        and what to add."""
        digest = hashlib.sha512("\n".join(self.shape).encode()).digest() * (1 + possible.bit_length() // 512)
        factor = int.from_bytes(digest, "big") % possible
        while math.gcd(factor, possible) != 1:
            factor += 1
        return factor, int.from_bytes(digest, "little") % possible


class Shape:
    """What a pass over an identifier column finds out about it: the greatest, and what may stand where."""

    def __init__(self) -> None:
        self.most: Any = None  # int or str
        self.alike = True
        self.groups: list[int] = []
        self.lows: list[int] = []
        self.highs: list[int] = []

    def add(self, column: pa.Array, train: np.ndarray) -> None:
        """Rows of the column, whichever are training rows: what is made must be none of the others either."""
        most = pc.max(column).as_py()
        if most is None:
            return
        state: dict[str, Any] = {"most": most, "alike": True, "groups": [], "lows": [], "highs": []}
        if isinstance(most, str):
            letters = _letters(column.drop_null())
            state["alike"] = letters is not None
            if letters is not None:
                state["groups"] = np.bitwise_or.reduce(_GROUP[letters], axis=0).tolist()
                state["lows"], state["highs"] = letters.min(axis=0).tolist(), letters.max(axis=0).tolist()
        self.merge(state)

    def merge(self, state: dict[str, Any]) -> None:
        if self.most is None or state["most"] is None:
            vars(self).update(state if self.most is None else {})
            return
        self.most = max(self.most, state["most"])
        self.alike = self.alike and state["alike"] and len(self.groups) == len(state["groups"])
        self.groups = [mine | other for mine, other in zip(self.groups, state["groups"], strict=False)]
        self.lows = [min(pair) for pair in zip(self.lows, state["lows"], strict=False)]
        self.highs = [max(pair) for pair in zip(self.highs, state["highs"], strict=False)]

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))

    def fit(self) -> Identifier:
        if not isinstance(self.most, str):
            return Identifier(0 if self.most is None else max(0, self.most + 1))
        shape = self._shape() if self.alike else ()
        if not shape:
            return Identifier(0)
        number = 0
        for letter, alphabet in zip(self.most, shape, strict=True):
            number = number * len(alphabet) + alphabet.index(letter)
        return Identifier(number + 1 if 2 * number < math.prod(map(len, shape)) else None, shape)

    def _shape(self) -> tuple[str, ...]:
        """What may stand at each position: where they are drawn at random, as UUIDs are, what lies between the least and the
        most that was there, so that the version of a UUID stays. Else any digit for a digit: numbers may go further."""
        shape, narrow = [], []
        for group, low, high in zip(self.groups, map(chr, self.lows), map(chr, self.highs), strict=True):
            if low != high and group >> len(GROUPS):
                return ()
            letters = sorted("".join(letters for bit, letters in enumerate(GROUPS) if group >> bit & 1)) or [low]
            narrow.append("".join(letter for letter in letters if low <= letter <= high))
            shape.append("".join(letters) if low != high or low.isdigit() else low)
        return tuple(narrow if math.prod(map(len, narrow)) >= LARGE else shape)


def _letters(column: pa.Array) -> np.ndarray | None:
    """uint8, ``(n, length)``, where all are ASCII and of one length."""
    values = column.to_pylist()
    length = len(values[0])
    if not 0 < length <= LONGEST or not all(len(value) == length and value.isascii() for value in values):
        return None
    return np.frombuffer("".join(values).encode(), np.uint8).reshape(len(values), length)
