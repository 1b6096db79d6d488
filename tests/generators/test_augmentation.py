"""What a discriminator sees: the shape stays, the draws are each image's own, and gradients flow back."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from raygen.generators.augmentation import colour, cutout, translation
from raygen.generators.networks import Shape

POLICIES = {"translation": partial(translation, share=0.2), "colour": colour, "cutout": cutout}
Policy = Callable[[Tensor], Tensor]

policies = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())


@pytest.fixture(params=[(1, 10, 14), (3, 16, 10)], ids=["1x10x14", "3x16x10"])
def shape(request: pytest.FixtureRequest) -> Shape:
    return request.param


def images_of(shape: Shape, rows: int = 16) -> Tensor:
    torch.manual_seed(0)
    return torch.rand(rows, *shape) * 2 - 1


@policies
def test_a_policy_keeps_the_shape_and_the_gradient(policy: Policy, shape: Shape) -> None:
    images = images_of(shape)
    kept = images.clone()
    result = policy(images.requires_grad_(True))
    assert result.shape == images.shape
    assert result.dtype == images.dtype
    assert torch.equal(images, kept)
    (gradient,) = torch.autograd.grad(result.pow(2).sum(), images)
    assert torch.isfinite(gradient).all()
    assert (gradient.abs().sum((1, 2, 3)) > 0).all()


@policies
def test_each_image_has_draws_of_its_own(policy: Policy, shape: Shape) -> None:
    one = images_of(shape, 1)
    results = policy(one.expand(200, *shape))
    assert len(results.flatten(1).unique(dim=0)) > 15


class TestTranslation:
    def test_each_image_is_shifted_by_its_own_whole_pixels(self, shape: Shape, shifts_of: Any) -> None:
        images = images_of(shape, 300)
        result = translation(images, 0.2)  # 0.2 of the shorter side: 2 pixels
        assert result.shape == images.shape
        found = [shifts_of(image, moved, 2) for image, moved in zip(images, result, strict=True)]
        assert all(len(offsets) == 1 for offsets in found)
        assert {offsets[0] for offsets in found} == {(down, right) for down in range(-2, 3) for right in range(-2, 3)}

    def test_nothing_is_shifted_at_0(self, shape: Shape) -> None:
        images = images_of(shape)
        assert torch.equal(translation(images, 0.0), images)

    def test_the_gradient_flows_back_to_where_the_pixel_came_from(self, shape: Shape, shifted: Any, shifts_of: Any) -> None:
        images = images_of(shape)
        images.requires_grad_(True)
        result = translation(images, 0.2)
        weights = torch.rand_like(result)
        (gradient,) = torch.autograd.grad((result * weights).sum(), images)
        for image, moved, weight, got in zip(images, result, weights, gradient, strict=True):
            ((down, right),) = shifts_of(image, moved, 2)
            back = shifted(weight, -down, -right)  # −1: the pixel was shifted out of the image
            assert torch.equal(got, torch.where(back == -1, 0.0, back))


class TestColour:
    def test_it_is_affine_in_each_image_of_one_channel(self) -> None:
        """Out of brightness in [−½, ½] and contrast in [½, 1½]."""
        images = images_of((1, 8, 8), 4000)
        result = colour(images)
        mean, spread = images.mean((1, 2, 3)), images.std((1, 2, 3))
        contrast = result.std((1, 2, 3)) / spread
        brightness = result.mean((1, 2, 3)) - mean
        expected = (images - mean[:, None, None, None]) * contrast[:, None, None, None] + (mean + brightness)[
            :, None, None, None
        ]
        torch.testing.assert_close(result, expected)
        for draws, least, most in ((contrast, 0.5, 1.5), (brightness, -0.5, 0.5)):
            assert least - 1e-4 < draws.min() < least + 0.01
            assert most - 0.01 < draws.max() < most + 1e-4
            assert draws.mean() == pytest.approx((least + most) / 2, abs=0.02)

    def test_colours_are_made_paler_or_stronger(self) -> None:
        images = images_of((3, 8, 8), 4000)
        chroma = lambda x: (x - x.mean(1, keepdim=True)).std((1, 2, 3))  # noqa: E731
        result = colour(images)
        grey = lambda x: x.mean(1).std((1, 2))  # noqa: E731
        contrast = grey(result) / grey(images)
        saturation = chroma(result) / chroma(images) / contrast
        assert 0 <= saturation.min() < 0.01
        assert 1.99 < saturation.max() < 2 + 1e-3
        assert saturation.mean() == pytest.approx(1, abs=0.05)
        assert abs(float(torch.corrcoef(torch.stack([saturation, contrast]))[0, 1])) < 0.06


class TestCutout:
    def test_a_rectangle_is_black_and_all_else_as_it_was(self, shape: Shape) -> None:
        _, height, width = shape
        images = images_of(shape, 600)
        result = cutout(images)
        black = (result == -1).all(1)
        assert torch.equal(torch.where(black[:, None], images, result), images)
        seen = set()
        for hole in black:
            rows, columns = hole.any(1).nonzero()[:, 0], hole.any(0).nonzero()[:, 0]
            assert hole.sum() == len(rows) * len(columns)
            assert rows[-1] - rows[0] + 1 == len(rows)
            assert columns[-1] - columns[0] + 1 == len(columns)
            seen.add((len(rows), len(columns)))
        assert max(seen) == (height // 2, width // 2)  # less where it reaches over an edge
        assert black.float().mean(0).min() > 0.05  # anywhere
