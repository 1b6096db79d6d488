"""One thread, and every family that learns × network in a small size, and a GAN with all that it has beside."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from raygen.generators.families import FAMILIES
from raygen.options import FAMILIES as OPTIONS
from raygen.options import FamilySpec

SPECS = OPTIONS["images"]

Shift = Callable[[Tensor, int, int], Tensor]

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    f"{name}-{network}": (name, {"network": network})
    for name, family in FAMILIES.items()
    if family.learns and name in SPECS
    for network in get_args(SPECS[name].model_fields["network"].annotation)
}
KINDS["gan-hinge"] = (
    "gan",
    {
        "network": "resnet",
        "loss": "hinge",
        "r1_every": 2,
        "spectral_norm": True,
        "conditioning": "auxiliary",
        "diff_augment_policy": ["colour", "translation", "cutout"],
        "beta1": 0.0,
        "beta2": 0.9,
    },
)
KINDS["gan-wgan_gp"] = ("gan", {"network": "dcgan", "loss": "wgan_gp", "r1": 0.0, "discriminator_steps": 2})
# Options that are another way to learn or to make rows; they have nothing to do with the network.
KINDS["vae-gaussian"] = ("vae", {"network": "dense", "likelihood": "gaussian"})
KINDS["vae-logistic"] = ("vae", {"network": "dense", "likelihood": "logistic", "free_bits": 0.1})
KINDS["autoencoder-mixture"] = ("autoencoder", {"network": "dense", "density": "mixture", "components": 3})


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", params=KINDS.values(), ids=KINDS.keys())
def make_spec(request: pytest.FixtureRequest) -> Callable[..., FamilySpec]:
    """Makes the spec of a family and its options, small unless told otherwise; a test runs once for each."""
    family, options = request.param
    return partial(SPECS[family], **{**options, "latent": 6, "width": 4})


@pytest.fixture(scope="session")
def shifted() -> Shift:
    """What an image is when it is shifted down and right."""

    def shifted(image: Tensor, down: int, right: int) -> Tensor:
        """By hand: out[y, x] = in[y - down, x - right], and −1 where that is outside."""
        _, height, width = image.shape
        result = torch.full_like(image, -1.0)
        inside = image[:, max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)]
        result[:, max(0, down) : height - max(0, -down), max(0, right) : width - max(0, -right)] = inside
        return result

    return shifted


@pytest.fixture(scope="session")
def shifts_of(shifted: Shift) -> Callable[[Tensor, Tensor, int], list[tuple[int, int]]]:
    """All shifts, of at most so many pixels, that make one image of another."""

    def shifts_of(image: Tensor, result: Tensor, reach: int) -> list[tuple[int, int]]:
        offsets = range(-reach, reach + 1)
        return [(down, right) for down in offsets for right in offsets if torch.equal(result, shifted(image, down, right))]

    return shifts_of
