"""On the way from one row to another, in the latent space that they are made from."""

import torch
from torch import Tensor


def slerp(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Spherical interpolation (White 2016, "Sampling generative networks", arXiv 1609.04468).

    A straight line between two normal draws of many dimensions comes nearer to the origin than any draw does, and what is
    made there is no row of the generator's. An arc stays as far out as its ends are.

    Args:
        start: ``(n, d)``; and so ``end``.
        share: of the way, in [0, 1], ``(n,)``.

    Returns:
        ``(n, d)``; where the ends have one direction, or opposite ones, on the straight line, for there is no one arc.
    """
    directions = (torch.nn.functional.normalize(part.double(), dim=1) for part in (start, end))
    angle = torch.linalg.vecdot(*directions).clamp(-1, 1).arccos()[:, None]
    sine, way = angle.sin(), share.double()[:, None]
    first, last = (torch.where(sine < 1e-6, part, (part * angle).sin() / sine) for part in (1 - way, way))
    return (first * start + last * end).to(start.dtype)


def nearer(start: Tensor | None, end: Tensor | None, share: Tensor) -> Tensor | None:
    """The classes ``(n,)`` of the ends that are nearer, or None where there are none."""
    return None if start is None or end is None else torch.where(share <= 0.5, start, end)
