"""``transforms``: classical image transforms, computed by kornia; their parameters are addressed like all other noise.

kornia's own random transforms draw from torch's global generator, so what a row becomes would depend on all that was made
before it. Here the parameters of a row are its noise, and kornia is told what to do.
"""

import importlib.util
import math

import torch
from torch import Tensor

from raygen.errors import RaygenError
from raygen.generators.base import Family, Sampler
from raygen.generators.networks import Shape
from raygen.options import TransformsSpec

DRAWS = (
    *("horizontal_flip", "vertical_flip", "crop", "crop_right", "crop_down", "rotate", "right", "down", "scale", "shear"),
    *("brightness", "contrast", "saturation", "hue"),
    *("erase", "erase_area", "erase_shape", "erase_right", "erase_down"),
)
"""What is drawn for each row, whichever options are on: turning one on changes nothing that another does."""

ERASED_SHAPE = 3.3  # the most that a side of what is erased is longer than the other, as in the paper


class Transforms(Family):
    """Nothing to learn: the options are the generator."""

    spec: TransformsSpec
    learns = False
    engine = "kornia"

    def build(self) -> None:
        if importlib.util.find_spec("kornia") is None:  # importing it would cost two seconds, now and for nothing
            raise RaygenError("the family transforms needs kornia", "pip install 'raygen[transforms]'")

    def sampler(self) -> Sampler:
        return TransformSampler(self.spec, self.shape).to(self.device)

    def step(self, images: Tensor, classes: Tensor | None) -> dict[str, Tensor]:
        raise NotImplementedError("there is nothing to learn")


class TransformSampler(Sampler):
    """Makes variants of rows: one resampling of the image for crop, flips and affine map, then colours, then the eraser."""

    size: Tensor
    noise = len(DRAWS)

    def __init__(self, spec: TransformsSpec, shape: Shape) -> None:
        super().__init__()
        self.spec = spec
        _, height, width = shape
        self.register_buffer("size", torch.tensor([width, height], dtype=torch.float64), persistent=False)

    def forward(self, noise: Tensor, classes: Tensor | None) -> Tensor:
        raise RaygenError("a transforms generator makes variants of rows only, none from nothing", "use augment.variants")

    def vary(self, images: Tensor, noise: Tensor, classes: Tensor | None, strength: float) -> Tensor:
        """As the options say, whatever the class and the strength."""
        draws = dict(zip(DRAWS, torch.special.ndtr(noise.double()).unbind(1), strict=True))  # uniform in (0, 1)
        return self._erased(self._coloured(self._mapped((images + 1) / 2, draws), draws), draws) * 2 - 1

    def _mapped(self, pixels: Tensor, draws: dict[str, Tensor]) -> Tensor:
        spec = self.spec
        whole = (spec.crop, spec.scale) == ([1, 1], [1, 1])
        if whole and not any((spec.horizontal_flip, spec.vertical_flip, spec.rotate, spec.translate, spec.shear)):
            return pixels
        from kornia.geometry.transform import warp_affine

        matrix = self.matrix(draws).to(pixels.dtype)
        return warp_affine(pixels, matrix, (pixels.shape[2], pixels.shape[3]), padding_mode=spec.padding)

    def matrix(self, draws: dict[str, Tensor]) -> Tensor:
        """Where pixels go: ``(n, 2, 3)``, from (x, y, 1) to (x, y), whole numbers being the centres of pixels.

        The crop is blown up to the image, and mirrored; then scaled, sheared, turned about the centre, and shifted.
        """
        spec, (width, height) = self.spec, self.size
        kept = _between(draws["crop"], *spec.crop).sqrt()  # of each side
        zoom = _between(draws["scale"], *spec.scale) / kept
        across = torch.where(draws["horizontal_flip"] < spec.horizontal_flip, -zoom, zoom)
        along = torch.where(draws["vertical_flip"] < spec.vertical_flip, -zoom, zoom)
        turn = torch.deg2rad(_between(draws["rotate"], -spec.rotate, spec.rotate))
        slant = torch.tan(torch.deg2rad(_between(draws["shear"], -spec.shear, spec.shear)))
        cos, sin = turn.cos(), turn.sin()
        (xx, xy), (yx, yy) = (cos * across, (cos * slant - sin) * along), (sin * across, (sin * slant + cos) * along)

        # The centre of the crop goes to the centre of the image, and from there is shifted.
        x = (width - 1) / 2 + (draws["crop_right"] - 0.5) * (1 - kept) * width
        y = (height - 1) / 2 + (draws["crop_down"] - 0.5) * (1 - kept) * height
        to_x = (width - 1) / 2 + _between(draws["right"], -spec.translate, spec.translate) * width
        to_y = (height - 1) / 2 + _between(draws["down"], -spec.translate, spec.translate) * height
        rows = [xx, xy, to_x - xx * x - xy * y], [yx, yy, to_y - yx * x - yy * y]
        return torch.stack([torch.stack(row, 1) for row in rows], 1)

    def _coloured(self, pixels: Tensor, draws: dict[str, Tensor]) -> Tensor:
        """The conventions of PIL and torchvision: factors of 1 change nothing."""
        spec = self.spec
        if not any((spec.brightness, spec.contrast, spec.saturation, spec.hue)):
            return pixels
        from kornia import enhance

        def drawn(name: str, middle: float, reach: float) -> Tensor:
            return _between(draws[name], middle - reach, middle + reach).to(pixels.dtype)

        if spec.brightness:
            pixels = enhance.adjust_brightness_accumulative(pixels, drawn("brightness", 1, spec.brightness))
        if spec.contrast:
            pixels = enhance.adjust_contrast_with_mean_subtraction(pixels, drawn("contrast", 1, spec.contrast))
        if spec.saturation:
            pixels = enhance.adjust_saturation_with_gray_subtraction(pixels, drawn("saturation", 1, spec.saturation))
        if spec.hue:
            pixels = enhance.adjust_hue(pixels, drawn("hue", 0, 2 * math.pi * spec.hue))
        return pixels

    def _erased(self, pixels: Tensor, draws: dict[str, Tensor]) -> Tensor:
        if not self.spec.erase:
            return pixels
        width, height = self.size
        area = _between(draws["erase_area"], *self.spec.erase_area) * width * height
        ratio = torch.exp(_between(draws["erase_shape"], -math.log(ERASED_SHAPE), math.log(ERASED_SHAPE)))
        tall = (area * ratio).sqrt().round().maximum((area / width).ceil()).minimum(height)  # it fits into the width
        wide = (area / tall).round().clamp(min=1)
        top, left = (draws["erase_down"] * (height - tall + 1)).floor(), (draws["erase_right"] * (width - wide + 1)).floor()
        y = torch.arange(pixels.shape[2], device=pixels.device)
        x = torch.arange(pixels.shape[3], device=pixels.device)
        rows = (y >= top[:, None]) & (y < (top + tall)[:, None])
        columns = (x >= left[:, None]) & (x < (left + wide)[:, None])
        chosen = (draws["erase"] < self.spec.erase)[:, None, None] & rows[:, :, None] & columns[:, None, :]
        return pixels.masked_fill(chosen[:, None], 0.0)


def _between(uniform: Tensor, least: float, most: float) -> Tensor:
    return least + (most - least) * uniform
