"""Noise is addressed: a pure function of seed, purpose and row, and normal."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raygen.generators import noise

FAR = 10**12
starts = st.one_of(st.integers(0, 300), st.integers(FAR, FAR + 300), st.integers(2**62, 2**62 + 300))


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@given(
    start=starts, before=st.integers(0, 40), length=st.integers(0, 70), after=st.integers(0, 40), width=st.integers(1, 33)
)
@settings(max_examples=150, deadline=None)
def test_a_part_is_the_slice_of_the_whole(start: int, before: int, length: int, after: int, width: int) -> None:
    whole = range(start, start + before + length + after)
    part = whole[before : before + length]
    for make in (noise.words, noise.normals, noise.uniforms):
        assert same_bits(make(3, "latent", part, width), make(3, "latent", whole, width)[before : before + length])


@pytest.mark.parametrize("width", [1, 7, 100])
@pytest.mark.parametrize("start", [0, FAR])
def test_rows_one_by_one_are_the_rows_of_a_long_range(width: int, start: int) -> None:
    # Long enough for numpy's vectorized loops, whose remainders must round like their bodies.
    whole = noise.normals(11, "latent", range(start, start + 2000), width)
    for row in range(2000):
        assert same_bits(noise.normals(11, "latent", range(start + row, start + row + 1), width)[0], whole[row])


def test_rows_do_not_overlap() -> None:
    for width in (1, 3, 4, 5, 8):
        words = noise.words(5, "latent", range(1000), width)
        assert len(np.unique(words)) == words.size
    near, far = noise.words(5, "latent", range(1000), 4), noise.words(5, "latent", range(FAR, FAR + 1000), 4)
    assert len(np.intersect1d(near, far)) == 0


def test_types_and_shapes() -> None:
    rows = range(5, 12)
    words, normals = noise.words(1, "latent", rows, 5), noise.normals(1, "latent", rows, 5)
    assert (words.dtype, words.shape) == (np.uint64, (7, 5))
    assert (normals.dtype, normals.shape) == (np.float32, (7, 5))
    assert noise.normals(1, "latent", range(9, 9), 5).shape == (0, 5)


def test_seeds_and_purposes_are_uncorrelated() -> None:
    rows, width = range(20_000), 4
    keys = [(0, "latent"), (1, "latent"), (2, "latent"), (1, "condition"), (2**63 - 1, "latent"), (11, "latent")]
    streams = np.stack([noise.normals(seed, purpose, rows, width).ravel() for seed, purpose in keys]).astype(np.float64)
    streams = np.concatenate([streams, np.roll(streams[:1], width, axis=1)])  # a row and the next
    correlations = np.corrcoef(streams) - np.eye(len(streams))
    assert np.abs(correlations).max() < 4.5 / math.sqrt(streams.shape[1])


def test_columns_are_uncorrelated_and_so_are_their_squares() -> None:
    columns = noise.normals(2, "latent", range(50_000), 6).astype(np.float64).T
    for values in (columns, columns**2):
        assert np.abs(np.corrcoef(values) - np.eye(6)).max() < 4.5 / math.sqrt(50_000)


@pytest.mark.parametrize("start", [0, FAR])
@pytest.mark.parametrize("width", [1, 2, 7])
def test_moments_are_those_of_the_normal(start: int, width: int) -> None:
    values = noise.normals(7, "latent", range(start, start + 60_000), width).astype(np.float64)
    assert np.isfinite(values).all()
    n = values.size
    deviation = values - values.mean()
    variance = (deviation**2).mean()
    assert abs(values.mean()) < 4 / math.sqrt(n)
    assert abs(math.sqrt(variance) - 1) < 4 / math.sqrt(2 * n)
    assert abs((deviation**3).mean() / variance**1.5) < 4 * math.sqrt(6 / n)
    assert abs((deviation**4).mean() / variance**2 - 3) < 4 * math.sqrt(24 / n)


@pytest.mark.parametrize("column", [0, 1])  # the cosine and the sine
def test_distribution_is_normal(column: int) -> None:
    """Kolmogorov and Smirnov's largest distance between the empirical and the normal distribution function."""
    values = np.sort(noise.normals(7, "latent", range(30_000), 2)[:, column].astype(np.float64))
    expected = np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in values])
    steps = np.arange(len(values) + 1) / len(values)
    distance = max((steps[1:] - expected).max(), (expected - steps[:-1]).max())
    assert distance < 1.95 / math.sqrt(len(values))  # exceeded by one sample in a thousand


def test_uniforms_are_uniform() -> None:
    values = np.sort(noise.uniforms(7, "condition", range(10_000), 3).ravel())
    assert values[0] >= 0
    assert values[-1] < 1
    steps = np.arange(len(values) + 1) / len(values)
    assert max((steps[1:] - values).max(), (values - steps[:-1]).max()) < 1.95 / math.sqrt(len(values))


def test_the_extreme_words_give_finite_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    extremes = np.array([[0, 2**64 - 1, 2**32 - 1, 2**64 - 2**32]], np.uint64)
    monkeypatch.setattr(noise, "words", lambda *_: extremes)
    normals = noise.normals(0, "latent", range(1), 8)
    assert np.isfinite(normals).all()
    assert 6 < np.abs(normals).max() < 7
    uniforms = noise.uniforms(0, "condition", range(1), 4)
    assert uniforms.min() == 0
    assert 1 - 2**-50 < uniforms.max() < 1


def test_the_format_does_not_change() -> None:
    """Every row ever made depends on these numbers: a change of them is a new format of noise ("raygen noise 2/…")."""
    assert noise.words(7, "latent", range(2), 4).tolist() == WORDS
    np.testing.assert_array_max_ulp(noise.normals(7, "latent", range(2), 4), np.array(NORMALS, np.float32), maxulp=2)
    assert noise.words(7, "latent", range(FAR, FAR + 1), 5).tolist() == [FAR_WORDS]
    assert noise.uniforms(7, "condition", range(2), 1)[:, 0].tolist() == UNIFORMS


WORDS = [
    [13471856086348533626, 9703899392480720121, 14193899566124192601, 18352432160649792478],
    [16616438470560720446, 16751432631518546696, 10265533798611406820, 15094169982645696523],
]
NORMALS = [
    [0.22993089258670807, -0.7587502598762512, -1.133151888847351, -0.026209291070699692],
    [-0.2341274619102478, 0.39265143871307373, -0.07984316349029541, -0.4317791759967804],
]
FAR_WORDS = [4528491953562021130, 7260567866419847233, 14635841074911292815, 10995417734651795036, 17473749640073183470]
UNIFORMS = [0.029795487852987135, 0.74042282798394]
