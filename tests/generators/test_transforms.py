"""Image transforms: each option does what it says, alone, and nothing is drawn from anywhere but the row's noise."""

import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from raygen.datasets.codec import Codec
from raygen.datasets.columns import Category
from raygen.datasets.storage import Folder
from raygen.errors import RaygenError, SpecError
from raygen.generators.generator import Generator, untrained
from raygen.generators.transforms import DRAWS, TransformSampler
from raygen.load import load_spec
from raygen.options import TransformsSpec
from raygen.spec import CategoryField, ImageField

OFF: dict[str, Any] = {"rotate": 0, "translate": 0, "scale": [1, 1], "brightness": 0, "contrast": 0}
EVERYTHING: dict[str, Any] = dict(
    TransformsSpec(
        horizontal_flip=0.5,
        vertical_flip=0.5,
        crop=[0.5, 1],
        rotate=30,
        translate=0.2,
        scale=[0.7, 1.4],
        shear=15,
        brightness=0.4,
        contrast=0.4,
        erase=0.5,
    )
)
del EVERYTHING["condition"]
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FAR = 10**12 + 5


def of(channels: int = 1, height: int = 16, width: int = 12, **options: Any) -> Generator:
    fields = {"image": ImageField(height=height, width=width, channels=channels), "label": CategoryField()}  # type: ignore[arg-type]
    arrow = pa.schema([("image", PICTURE), ("label", pa.int64())])
    codec = Codec.of(fields, arrow, {"label": Category((0, 1, 2), (5, 5, 5))})
    spec = TransformsSpec(condition="label", **{**OFF, **options})
    return Generator(spec, codec, untrained(spec, codec, torch.device("cpu")).exported())


def pictures(n: int = 70, channels: int = 1, height: int = 16, width: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, channels, height, width), np.uint8)


def varied(images: np.ndarray, first: int = 0, seed: int = 7, variant: int = 1, **options: Any) -> np.ndarray:
    n, channels, height, width = images.shape
    generator = of(channels, height, width, **options)
    return generator.variants(images, range(first, first + n), seed, np.zeros(n, np.int64), variant)


@pytest.mark.parametrize("channels", [1, 3])
def test_with_every_option_off_a_variant_is_its_row(channels: int) -> None:
    images = pictures(channels=channels)
    images[:8].reshape(-1)[:256] = np.arange(256)
    np.testing.assert_array_equal(varied(images), images)


@pytest.mark.parametrize(
    ("option", "flipped"), [("horizontal_flip", np.s_[..., ::-1]), ("vertical_flip", np.s_[..., ::-1, :])]
)
def test_a_flip_is_a_flip(option: str, flipped: Any) -> None:
    images = pictures(400, channels=3)
    np.testing.assert_array_equal(varied(images, **{option: 1}), images[flipped])
    made = varied(images, **{option: 0.25})
    mirrored = [np.array_equal(a, b) for a, b in zip(made, images[flipped], strict=True)]
    as_before = [np.array_equal(a, b) for a, b in zip(made, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, as_before, strict=True))
    assert 65 < sum(mirrored) < 140  # 100 expected, 4 standard deviations


def draws_of(**values: float) -> dict[str, torch.Tensor]:
    """Draws at the middle of their ranges, but for some."""
    return {name: torch.tensor([values.get(name, 0.5)], dtype=torch.float64) for name in DRAWS}


def sampler_of(height: int = 31, width: int = 31, **options: Any) -> TransformSampler:
    return TransformSampler(TransformsSpec(**{**OFF, **options}), (1, height, width))


def mapped(image: np.ndarray, sampler: TransformSampler, **values: float) -> np.ndarray:
    return sampler._mapped(torch.from_numpy(image)[None, None], draws_of(**values))[0, 0].numpy()


def smooth(height: int = 31, width: int = 31) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    spot = np.exp(-((x - width * 0.6) ** 2 + (y - height * 0.45) ** 2) / 18)
    return (spot + 0.5 * np.exp(-((x - width * 0.35) ** 2 + (y - height * 0.6) ** 2) / 9)).astype(np.float32) / 1.5


def test_a_rotation_is_that_of_scipy() -> None:
    image = smooth()
    for draw, angle in ((1.0, 20.0), (0.25, -10.0)):
        expected = ndimage.rotate(image, -angle, reshape=False, order=1, mode="grid-constant", prefilter=False)
        np.testing.assert_allclose(mapped(image, sampler_of(rotate=20), rotate=draw), expected, atol=2e-5)


def test_a_rotation_by_quarters_is_exact() -> None:
    images = pictures(1, height=15, width=15)[0, 0].astype(np.float32)
    turned = mapped(images, sampler_of(15, 15, rotate=90), rotate=1.0)
    np.testing.assert_allclose(turned, np.rot90(images, -1), atol=1e-3)


@pytest.mark.parametrize("height", [20, 31])
def test_a_shift_is_by_a_share_of_the_image(height: int) -> None:
    image = smooth(height, 20)
    moved = mapped(image, sampler_of(height, 20, translate=0.2), right=1.0, down=0.0)
    expected = ndimage.shift(image, (-0.2 * height, 0.2 * 20), order=1, mode="grid-constant", prefilter=False)
    np.testing.assert_allclose(moved[:-1, 1:], expected[:-1, 1:], atol=2e-5)


def test_scale_and_shear_are_about_the_centre() -> None:
    image = smooth()
    middle = np.array([15.0, 15.0])
    slant = np.tan(np.deg2rad(20))
    for sampler, draws, inverse in (
        (sampler_of(scale=[0.5, 1.5]), {"scale": 1.0}, np.eye(2) / 1.5),
        (sampler_of(shear=20), {"shear": 1.0}, np.array([[1.0, 0.0], [-slant, 1.0]])),  # in (y, x)
    ):
        offset = middle - inverse @ middle
        expected = ndimage.affine_transform(image, inverse, offset, order=1, mode="grid-constant", prefilter=False)
        np.testing.assert_allclose(mapped(image, sampler, **draws)[2:-2, 2:-2], expected[2:-2, 2:-2], atol=2e-5)


def test_a_crop_fills_the_image_with_a_part_of_it() -> None:
    """A quarter of the area is half of each side: a corner of the image is blown up twice."""
    image = smooth(32, 24)
    corner = mapped(image, sampler_of(32, 24, crop=[0.25, 0.25]), crop_right=1.0, crop_down=0.0)
    y, x = np.meshgrid(np.arange(32) / 2 - 0.25, np.arange(24) / 2 - 0.25 + 12, indexing="ij")
    expected = ndimage.map_coordinates(image, [y, x], order=1, prefilter=False)
    np.testing.assert_allclose(corner[1:, :-1], expected[1:, :-1], atol=2e-5)
    white = np.full((300, 1, 16, 12), 255, np.uint8)
    assert (varied(white, crop=[0.3, 0.9])[:, :, 1:-1, 1:-1] == 255).all()  # nothing from beyond the edges


def test_the_order_of_a_map_is_crop_flip_and_affine() -> None:
    """All at once is one resampling of what one after the other would be."""
    options = {"crop": [0.5, 0.5], "horizontal_flip": 1, "rotate": 40, "translate": 0.1, "scale": [0.8, 0.8], "shear": 10}
    drawn = {"crop_right": 0.9, "crop_down": 0.2, "rotate": 0.8, "right": 0.1, "down": 0.7, "shear": 0.9}
    parts = (("crop",), ("horizontal_flip",), ("rotate", "scale", "shear", "translate"))
    whole = torch.eye(3, dtype=torch.float64)
    for names in parts:
        part = sampler_of(20, 30, **{name: options[name] for name in names}).matrix(draws_of(**drawn))[0]
        whole = torch.cat([part, torch.tensor([[0.0, 0.0, 1.0]])]) @ whole
    torch.testing.assert_close(sampler_of(20, 30, **options).matrix(draws_of(**drawn))[0], whole[:2])


@pytest.mark.parametrize(("padding", "shade"), [("zeros", 0), ("border", 255), ("reflection", 255)])
def test_what_is_beyond_the_edges(padding: str, shade: int) -> None:
    white = np.full((20, 3, 16, 12), 255, np.uint8)
    made = varied(white, scale=[0.5, 0.5], padding=padding)
    assert (made[:, :, 0] == shade).all()
    assert (made[:, :, 8, 6] == 255).all()


def test_brightness_and_contrast_are_factors() -> None:
    image = np.linspace(60, 120, 16 * 12).astype(np.uint8).reshape(1, 1, 16, 12).repeat(200, 0)
    brighter = varied(image, brightness=0.3) / image
    factors = brighter.mean((1, 2, 3))
    np.testing.assert_allclose(brighter, np.broadcast_to(factors[:, None, None, None], brighter.shape), atol=0.02)
    assert 0.69 < factors.min() < 0.75
    assert 1.25 < factors.max() < 1.31
    contrasted = varied(image, contrast=0.3).astype(float)
    np.testing.assert_allclose(contrasted.mean((1, 2, 3)), image[0].mean(), atol=0.5)
    spread = contrasted.std((1, 2, 3)) / image[0].std()
    assert 0.69 < spread.min() < 0.75
    assert 1.25 < spread.max() < 1.31


def test_saturation_and_hue_leave_grey_as_it_is_and_change_colours() -> None:
    grey = pictures(60).repeat(3, 1)
    for options in ({"saturation": 0.5}, {"hue": 0.5}):
        assert (np.abs(varied(grey, **options).astype(int) - grey) <= 1).all()
    red = np.zeros((60, 3, 16, 12), np.uint8) + np.array([200, 60, 60], np.uint8)[:, None, None]
    paler = varied(red, saturation=1.0).astype(int)
    assert (paler.max(1) - paler.min(1)).min() < 30
    turned = varied(red, hue=0.5).astype(int)
    assert {tuple(order) for order in turned[:, :, 0, 0].argsort(1)} >= {(0, 1, 2), (2, 0, 1), (1, 2, 0)}
    np.testing.assert_allclose(turned.max(1), 200, atol=1)
    np.testing.assert_allclose(turned.min(1), 60, atol=1)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (64, 8)])
def test_what_is_erased_is_a_rectangle_of_an_area_in_range(height: int, width: int) -> None:
    white = np.full((400, 3, height, width), 255, np.uint8)
    made = varied(white, erase=0.5, erase_area=[0.1, 0.4])
    holes = (made == 0).all(1)
    assert np.isin(made, (0, 255)).all()
    areas, shapes = [], set()
    for hole in holes[holes.any((1, 2))]:
        rows, columns = hole.any(1).nonzero()[0], hole.any(0).nonzero()[0]
        assert hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        tall, wide = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert hole.sum() == tall * wide
        assert 0.1 * height * width - tall / 2 <= hole.sum() <= 0.4 * height * width + tall / 2  # whole pixels
        areas.append(tall * wide / (height * width))
        shapes.add((tall, wide))
    assert 160 < len(areas) < 240
    assert min(areas) < 0.15
    assert max(areas) > 0.35
    assert len(shapes) > 20
    assert holes.any(0).mean() > 0.98  # it comes about everywhere


def test_turning_an_option_on_changes_nothing_that_another_does() -> None:
    images = pictures(100)
    assert np.array_equal(varied(images, vertical_flip=0.5), varied(images, vertical_flip=0.5, erase=1e-12))
    both = varied(images, vertical_flip=0.5, horizontal_flip=0.5)
    once, twice = varied(images, vertical_flip=0.5), varied(images, horizontal_flip=0.5)
    turned = np.array([not np.array_equal(a, b) for a, b in zip(once, images, strict=True)])
    mirrored = np.array([not np.array_equal(a, b) for a, b in zip(twice, images, strict=True)])
    for row in range(100):
        expected = images[row][:, ::-1] if turned[row] else images[row]
        np.testing.assert_array_equal(both[row], expected[..., ::-1] if mirrored[row] else expected)


@pytest.mark.parametrize("channels", [1, 3])
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_a_variant_is_the_same_whatever_else_is_asked_for(channels: int, data: st.DataObject) -> None:
    colours = {"saturation": 0.4, "hue": 0.2} if channels == 3 else {}
    generator = of(channels, **{**EVERYTHING, **colours})
    images, classes = pictures(200, channels), np.zeros(200, np.int64)
    start = data.draw(st.sampled_from([0, FAR]))
    whole = generator.variants(images, range(start, start + 200), 7, classes, 3)
    first = data.draw(st.one_of(st.sampled_from([0, 63, 64, 65, 128]), st.integers(0, 199)))
    length = data.draw(st.one_of(st.sampled_from([1, 64]), st.integers(1, 200)).map(lambda n: min(n, 200 - first)))
    torch.manual_seed(data.draw(st.integers(0, 5)))
    part = slice(first, first + length)
    made = generator.variants(images[part], range(start + first, start + first + length), 7, classes[part], 3)
    np.testing.assert_array_equal(made, whole[part])
    others = 255 - images
    others[first] = images[first]
    np.testing.assert_array_equal(generator.variants(others, range(start, start + 200), 7, classes, 3)[first], whole[first])


def test_every_variant_is_another() -> None:
    images = pictures(1).repeat(70, 0)
    asked = ((0, 7, 1), (0, 7, 2), (0, 8, 1), (70, 7, 1))
    made = [varied(images, first, seed, variant, **EVERYTHING) for first, seed, variant in asked]
    assert len(np.unique(np.concatenate(made).reshape(280, -1), axis=0)) == 280


def test_an_artifact_makes_the_same_variants_and_says_what_it_is(tmp_path: Any) -> None:
    generator = of(**EVERYTHING)
    generator.save(Folder(tmp_path))
    again = Generator.load(tmp_path, "cpu")
    assert again.digest == generator.digest != of(**{**EVERYTHING, "rotate": 31}).digest
    images, classes = pictures(70), np.zeros(70, np.int64)
    one, two = (which.variants(images, range(70), 1, classes, 1) for which in (generator, again))
    np.testing.assert_array_equal(one, two)
    card = (tmp_path / "README.md").read_text()
    assert "Makes variants of rows" in card
    assert "generator.variants" in card
    assert "generator.sample" not in card
    assert "kornia" in again.lineage["versions"]


def test_it_makes_no_rows_from_nothing() -> None:
    with pytest.raises(RaygenError, match="variants of rows only") as caught:
        of().sample(range(3))
    assert "augment.variants" in caught.value.hint


def test_without_kornia_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(RaygenError, match="needs kornia") as caught:
        of()
    assert "raygen[transforms]" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": [1.2, 0.9]}, r"generator.scale is \[1.2, 0.9\]: the least comes first"),
        ({"crop": [0.9, 0.5]}, "generator.crop is"),
        ({"crop": [0.5, 1.5]}, "less than or equal to 1"),
        ({"scale": [0, 1]}, "greater than 0"),
        ({"erase_area": [0.5]}, "at least 2 items"),
        ({"rotate": 200}, "less than or equal to 180"),
        ({"shear": 90}, "less than 90"),
        ({"hue": 0.6}, "less than or equal to 0.5"),
        ({"horizontal_flip": -0.1}, "greater than or equal to 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformsSpec(**options)


SPEC: dict[str, Any] = {
    "name": "t",
    "dataset": {
        "path": "sample:digits",
        "schema": {"image": {"kind": "image", "height": 28, "width": 28, "channels": 1}, "label": {"kind": "category"}},
    },
    "generator": {"family": "transforms", "condition": "label"},
    "augment": {"variants": 2},
}


@pytest.mark.parametrize("asked", [{"rows": 5}, {"balance": "label"}, {"classes": {3: 5}}])
def test_a_spec_that_asks_for_new_rows_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=f"augment.{next(iter(asked))} asks for new rows.*augment.variants"):
        load_spec({**SPEC, "augment": asked})


@pytest.mark.parametrize("option", ["saturation", "hue"])
def test_colours_need_three_channels(option: str) -> None:
    with pytest.raises(SpecError, match=f"generator.{option} is about colours.*'image' has one channel"):
        load_spec({**SPEC, "generator": {**SPEC["generator"], option: 0.2}})
    coloured = {
        "path": "x",
        "schema": {"image": {"kind": "image", "height": 28, "width": 28}, "label": {"kind": "category"}},
    }
    load_spec({**SPEC, "dataset": coloured, "generator": {**SPEC["generator"], option: 0.2}})


def test_a_spec_reads_back_the_same_and_the_average_is_none_of_its_options(tmp_path: Any) -> None:
    spec = load_spec(SPEC)
    (tmp_path / "spec.yaml").write_text(spec.to_yaml())
    assert load_spec(tmp_path / "spec.yaml") == spec
    with pytest.raises(SpecError, match=r"unknown key generator\.ema"):
        load_spec({**SPEC, "generator": {**SPEC["generator"], "ema": 0.5}})
