"""A generator of images that memorizes is caught, one that does not is not, and what has no answer is refused."""

import numpy as np
import pytest

from raygen.errors import DataError
from raygen.metrics.features import Thumbnails
from raygen.metrics.privacy_images import closeness, closer_share, identical_share, membership_auc


def images(n, seed):
    """Bright spots at random places, in noise."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:12, :12]
    places = generator.uniform(2, 9, size=(n, 2, 1, 1))
    spots = 200 * np.exp(-((y - places[:, 0]) ** 2 + (x - places[:, 1]) ** 2) / 4)
    return (spots + generator.uniform(0, 55, size=spots.shape)).astype(np.uint8)[:, None]


TRAINING, HELD = images(600, 0), images(300, 1)
SMALL = Thumbnails()
REAL = SMALL(TRAINING), SMALL(HELD)


def test_fresh_images_give_nothing_away():
    fresh = images(1000, 2)
    assert identical_share(fresh, TRAINING).value == 0
    for found in (membership_auc(SMALL(fresh), *REAL, 0), closer_share(SMALL(fresh), *REAL, 0)):
        assert found.interval.low < 0.5 < found.interval.high
        assert found.interval.high - found.interval.low < 0.1
    for share in closeness(SMALL(fresh), *REAL, 0):
        assert share.interval.low < 0.05 < share.interval.high
        assert share.interval.high < 0.15


def test_a_generator_that_memorizes_is_caught():
    memory = TRAINING[np.random.default_rng(0).integers(0, len(TRAINING), 2000)]
    share = identical_share(memory, TRAINING)
    assert share.value == share.interval.high == 1
    assert share.interval.low > 0.99
    assert membership_auc(SMALL(memory), *REAL, 0).interval.low > 0.9
    # A half of the training images is compared, since there are half as many held-out ones.
    assert closer_share(SMALL(memory), *REAL, 0).interval.low > 0.65
    for close in closeness(SMALL(memory), *REAL, 0):
        assert close.value == close.interval.high == 1
        assert close.interval.low > 0.95


def test_a_generator_that_adds_a_little_noise_to_its_memory_is_caught_by_distances_alone():
    noise = np.random.default_rng(0).integers(0, 4, size=TRAINING.shape, dtype=np.uint8)
    noisy = TRAINING + np.minimum(noise, 255 - TRAINING)
    assert identical_share(noisy, TRAINING).value == 0
    assert membership_auc(SMALL(noisy), *REAL, 0).interval.low > 0.9
    assert all(share.interval.low > 0.9 for share in closeness(SMALL(noisy), *REAL, 0))


def test_a_generator_that_memorizes_now_and_then_is_caught_by_its_closest_rows():
    now_and_then = np.concatenate([images(900, 2), TRAINING[:100]])
    assert abs(closer_share(SMALL(now_and_then), *REAL, 0).value - 0.5) < 0.07
    assert closeness(SMALL(now_and_then), *REAL, 0).ratio.interval.low > 0.08


def test_one_training_image_over_and_over_is_caught():
    collapsed = np.repeat(TRAINING[:1], 500, axis=0)
    assert identical_share(collapsed, TRAINING).value == 1
    assert all(share.value == 1 for share in closeness(SMALL(collapsed), *REAL, 0))
    # Whoever looks for members finds only one of them.
    assert membership_auc(SMALL(collapsed), *REAL, 0).interval.low < 0.5


def test_copies_of_images_that_the_training_has_twice_are_caught():
    twice = np.concatenate([TRAINING, TRAINING])
    assert closeness(SMALL(TRAINING), SMALL(twice), REAL[1], 0).ratio.value == 1


def test_noise_is_far_from_everything():
    noise = SMALL(np.random.default_rng(0).integers(0, 256, size=TRAINING.shape, dtype=np.uint8))
    assert closeness(noise, *REAL, 0).distance.value == 0
    found = membership_auc(noise, *REAL, 0).interval
    assert found.low < 0.5 < found.high


def test_no_more_rows_than_asked_for_are_looked_at_and_the_seed_says_which():
    fresh = SMALL(images(400, 2))
    for figure in (membership_auc, closer_share, lambda *given, **most: closeness(*given, **most).distance):
        whole = figure(fresh, *REAL, seed=0)
        few, again, other = (figure(fresh, *REAL, seed=seed, rows=50) for seed in (1, 1, 2))
        assert few == again
        assert few != other
        assert few.interval.high - few.interval.low > whole.interval.high - whole.interval.low


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: identical_share(TRAINING[:0], TRAINING), "0 successes of 0 trials"),
        (lambda: membership_auc(REAL[0][:0], *REAL, 0), "0 rows where at least 1"),
        (lambda: membership_auc(REAL[0], REAL[0], REAL[1][:0], 0), "0 rows where at least 1"),
        (lambda: closer_share(REAL[0], REAL[0], REAL[1][:0], 0), "0 rows where at least 1"),
        (lambda: closer_share(REAL[0][:, :3], *REAL, 0), "features are 3 and"),
        (lambda: closeness(np.full((5, 3), np.nan), np.eye(3), np.eye(3), 0), "not finite"),
        (lambda: closeness(REAL[0], REAL[0][[0, 0, 0]], REAL[1], 0), "there are 1 rows, and 2 neighbours"),
    ],
)
def test_what_has_no_answer_is_refused(call, what):
    with pytest.raises(DataError, match=what):
        call()
