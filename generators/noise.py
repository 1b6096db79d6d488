"""Addressed noise: what row i is made from depends on the seed, the purpose and i, and on nothing else.

Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") is a counter-based generator: any part of its
stream costs no more than the part. Each (seed, purpose) has a stream of its own, and row i owns the words
[i·W, (i+1)·W) of it, where W is what a row needs, rounded up to Philox's blocks of four.
"""

import hashlib

import numpy as np

_BLOCK = 4  # 64-bit words per Philox counter


def words(seed: int, purpose: str, rows: range, width: int) -> np.ndarray:
    """Random words of rows: uint64, ``(len(rows), width)``."""
    blocks = -(-width // _BLOCK)
    key = np.frombuffer(hashlib.sha256(f"raygen noise 1/{seed}/{purpose}".encode()).digest()[:16], np.uint64)
    stream = np.random.Philox(key=key).advance(rows.start * blocks)
    raw = stream.random_raw(len(rows) * blocks * _BLOCK)
    return np.asarray(raw, np.uint64).reshape(len(rows), blocks * _BLOCK)[:, :width]


def normals(seed: int, purpose: str, rows: range, width: int) -> np.ndarray:
    """Standard normal numbers of rows: float32, ``(len(rows), width)``, by Box and Muller (1958): two from each word."""
    raw = np.ascontiguousarray(words(seed, purpose, rows, -(-width // 2)))
    first = ((raw >> np.uint64(32)).astype(np.float64) + 0.5) * 2.0**-32
    angle = (raw & np.uint64(0xFFFFFFFF)).astype(np.float64) * (2.0**-31 * np.pi)
    radius = np.sqrt(-2.0 * np.log(first))
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return pairs.reshape(len(rows), 2 * raw.shape[1])[:, :width].astype(np.float32)


def uniforms(seed: int, purpose: str, rows: range, width: int) -> np.ndarray:
    """Uniform numbers in [0, 1) of rows: float64, ``(len(rows), width)``, one from each word."""
    return (words(seed, purpose, rows, width) >> np.uint64(11)).astype(np.float64) * 2.0**-53
