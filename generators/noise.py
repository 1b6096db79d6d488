"""Addressed noise: what row i is made from depends on the seed, the purpose and i, and on nothing else.

Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") is a counter-based generator: any part of its
stream costs no more than the part. Each (seed, purpose) has a stream of its own, and row i owns the words
[i·W, (i+1)·W) of it, where W is what a row needs, rounded up to Philox's blocks of four.
"""

import functools
import hashlib
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np

_BLOCK = 4  # 64-bit words per Philox counter
_here = threading.local()  # a Philox for each thread: to make one takes longer than to set one


@functools.lru_cache(1024)
def _key(seed: int, purpose: str) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(f"raygen noise 1/{seed}/{purpose}".encode()).digest()[:16], np.uint64)


def words(seed: int, purpose: str, rows: range, width: int) -> np.ndarray:
    """Random words of rows: uint64, ``(len(rows), width)``."""
    if not hasattr(_here, "stream"):
        _here.stream = np.random.Philox(0)
        _here.state = _here.stream.state
    blocks = -(-width // _BLOCK)
    counter, state = rows.start * blocks, _here.state
    state["buffer_pos"] = _BLOCK  # nothing is left of what was made before
    state["state"]["key"] = _key(seed, purpose)
    state["state"]["counter"] = np.array([counter >> shift & (1 << 64) - 1 for shift in (0, 64, 128, 192)], np.uint64)
    _here.stream.state = state
    raw = _here.stream.random_raw(len(rows) * blocks * _BLOCK)
    return np.asarray(raw, np.uint64).reshape(len(rows), blocks * _BLOCK)[:, :width]


def normals(seed: int, purpose: str, rows: range, width: int) -> np.ndarray:
    """Standard normal numbers of rows: float32, ``(len(rows), width)``, by Box and Muller (1958): two from each word."""
    return normals_of([(seed, rows)], purpose, width)


def normals_of(asked: Iterable[tuple[int, range]], purpose: str, width: int) -> np.ndarray:
    """``normals`` of several seeds and rows, one after the other, in less time than for each by itself."""
    raw = _words_of(asked, purpose, -(-width // 2))
    first = ((raw >> np.uint64(32)).astype(np.float64) + 0.5) * 2.0**-32
    angle = (raw & np.uint64(0xFFFFFFFF)).astype(np.float64) * (2.0**-31 * np.pi)
    radius = np.sqrt(-2.0 * np.log(first))
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return pairs.reshape(len(raw), 2 * raw.shape[1])[:, :width].astype(np.float32)


def uniforms(seed: int, purpose: str, rows: range, width: int) -> np.ndarray:
    """Uniform numbers in [0, 1) of rows: float64, ``(len(rows), width)``, one from each word."""
    return uniforms_of([(seed, rows)], purpose, width)


def uniforms_of(asked: Iterable[tuple[int, range]], purpose: str, width: int) -> np.ndarray:
    """``uniforms`` of several seeds and rows, one after the other."""
    return (_words_of(asked, purpose, width) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _words_of(asked: Iterable[tuple[int, range]], purpose: str, width: int) -> np.ndarray:
    """In memory as they are numbered, so that what is computed of them is computed alike, however many there are."""
    drawn: list[Any] = [words(seed, purpose, rows, width) for seed, rows in asked]
    return np.ascontiguousarray(drawn[0] if len(drawn) == 1 else np.concatenate(drawn))
