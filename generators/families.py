"""The registry of families, by the name that a spec calls them."""

from raygen.errors import RaygenError, did_you_mean
from raygen.generators.autoencoder import Autoencoder
from raygen.generators.autoregressive import Autoregressive
from raygen.generators.base import Family
from raygen.generators.gan import Gan
from raygen.generators.tabular_gan import TabularGan
from raygen.generators.tabular_vae import TabularVae
from raygen.generators.transforms import Transforms
from raygen.generators.vae import Vae

FAMILIES: dict[str, type[Family]] = {
    "gan": Gan,
    "vae": Vae,
    "autoencoder": Autoencoder,
    "autoregressive": Autoregressive,
    "transforms": Transforms,
}


OF_TABLES: dict[str, type[Family]] = {"gan": TabularGan, "vae": TabularVae}
"""Of families that make both, what makes tables."""


def family(name: str, kind: str | None = None) -> type[Family]:
    """The family of a name; where it makes both kinds of datasets, ``images`` and ``tables``, what makes the one asked for.

    Raises:
        RaygenError: there is none; the known ones are listed.
    """
    if name not in FAMILIES:
        raise RaygenError(f"unknown family {name!r}{did_you_mean(name, FAMILIES)}", f"known: {', '.join(FAMILIES)}")
    return OF_TABLES[name] if kind == "tables" and name in OF_TABLES else FAMILIES[name]
