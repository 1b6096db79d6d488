"""One thread, and every family that learns × network in a small size."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import get_args

import pytest
import torch

from raygen.generators.families import FAMILIES
from raygen.spec import FamilySpec, GeneratorSpec

SPECS: dict[str, type[FamilySpec]] = {
    get_args(model.model_fields["family"].annotation)[0]: model for model in get_args(get_args(GeneratorSpec)[0])
}
KINDS = [
    (name, network)
    for name, family in FAMILIES.items()
    if family.learns
    for network in get_args(SPECS[name].model_fields["network"].annotation)
]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", params=KINDS, ids="-".join)
def make_spec(request: pytest.FixtureRequest) -> Callable[..., FamilySpec]:
    """Makes the spec of a family and network, small unless told otherwise; a test runs once for each."""
    family, network = request.param
    return partial(SPECS[family], network=network, latent=6, width=4)
