"""The registry of families, by the name that a spec calls them."""

from raygen.errors import RaygenError, did_you_mean
from raygen.generators.autoencoder import Autoencoder
from raygen.generators.autoregressive import Autoregressive
from raygen.generators.base import Family
from raygen.generators.gan import Gan
from raygen.generators.transforms import Transforms
from raygen.generators.vae import Vae

FAMILIES: dict[str, type[Family]] = {
    "gan": Gan,
    "vae": Vae,
    "autoencoder": Autoencoder,
    "autoregressive": Autoregressive,
    "transforms": Transforms,
}


def family(name: str) -> type[Family]:
    """The family of a name.

    Raises:
        RaygenError: there is none; the known ones are listed.
    """
    if name not in FAMILIES:
        raise RaygenError(f"unknown family {name!r}{did_you_mean(name, FAMILIES)}", f"known: {', '.join(FAMILIES)}")
    return FAMILIES[name]
