"""DiffAugment: what a discriminator sees is changed at random, real and made alike, so that few rows cannot be learnt by
heart (Zhao et al. 2020, arXiv 2006.10738).

Images ``(n, channels, height, width)`` in [-1, 1] → the same shape, differentiable, each image by its own draws; what is not
known of an image is black (−1).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def translation(images: Tensor, share: float) -> Tensor:
    """Shift by whole pixels, at most a share of the shorter side."""
    n, _, height, width = images.shape
    reach = round(share * min(height, width))
    if not reach:
        return images
    padded = F.pad(images, (reach,) * 4, value=-1.0)
    down, right = torch.randint(0, 2 * reach + 1, (2, n, 1), device=images.device)
    y = down + torch.arange(height, device=images.device)
    x = right + torch.arange(width, device=images.device)
    row = torch.arange(n, device=images.device)
    # The two index arrays put the pixels first and the channels last.
    return padded[row[:, None, None], :, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


def colour(images: Tensor) -> Tensor:
    """Brightness by up to a half either way, saturation by a factor of 0 to 2 where there are colours, and contrast by one
    of 0.5 to 1.5. Nothing is cut off at −1 or 1, where the gradient would end."""
    brightness, saturation, contrast = torch.rand(3, len(images), 1, 1, 1, device=images.device)
    images = images + (brightness - 0.5)
    if images.shape[1] > 1:
        grey = images.mean(1, keepdim=True)
        images = grey + (images - grey) * (2 * saturation)
    mean = images.mean((1, 2, 3), keepdim=True)
    return torch.lerp(mean, images, contrast + 0.5)


def cutout(images: Tensor) -> Tensor:
    """Make a rectangle of half the height and half the width black, its middle anywhere in the image."""
    n, _, height, width = images.shape
    rows = _inside(n, height, images.device)
    columns = _inside(n, width, images.device)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], -1.0)


def _inside(n: int, size: int, device: torch.device) -> Tensor:
    """Which pixels of a side are in the rectangle: ``(n, size)``."""
    first = torch.randint(0, size, (n, 1), device=device) - size // 4
    pixels = torch.arange(size, device=device)
    return (pixels >= first) & (pixels < first + size // 2)
