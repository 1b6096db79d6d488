"""raygen: Parquet in; a trained generator, a synthetic dataset that can be trusted, and an endpoint out. On Ray.

    import raygen

    spec = raygen.load_spec("digits.yaml", ["train.epochs=10"])
    generator = raygen.train(spec)                       # a raygen.Generator
    report = raygen.evaluate(spec)                       # report.json as a dict
    manifest = raygen.augment(spec)                      # what was written
    raygen.verify("store/digits/dataset").problems       # files and rows that are not as they were made
    raygen.sample(spec, range(1000, 1100))               # the dataset's rows 1000 to 1099, made again
    raygen.models("store/digits").promote("3f2a")        # the generator that endpoints are to use from now on
    generator.sample(range(100), seed=1, condition=3)    # any rows, as a pyarrow.Table
    raygen.Client("http://127.0.0.1:8000").generate(100) # the same from an endpoint

Everything is imported when it is first used: ``import raygen`` costs neither torch nor Ray.
"""

import importlib
from typing import TYPE_CHECKING, Any

from raygen.errors import DataError, GateError, OutputError, RaygenError, ResourceError, SpecError

if TYPE_CHECKING:
    from raygen.api import augment, evaluate, models, run, sample, train, verify
    from raygen.generators.generator import Generator
    from raygen.load import load_spec
    from raygen.serving.client import Client
    from raygen.spec import Spec

__all__ = [
    "Client",
    "DataError",
    "GateError",
    "Generator",
    "OutputError",
    "RaygenError",
    "ResourceError",
    "Spec",
    "SpecError",
    "augment",
    "evaluate",
    "load_spec",
    "models",
    "run",
    "sample",
    "train",
    "verify",
]

_WHERE = {
    "Client": "raygen.serving.client",
    "Generator": "raygen.generators.generator",
    "Spec": "raygen.spec",
    "load_spec": "raygen.load",
    "augment": "raygen.api",
    "evaluate": "raygen.api",
    "models": "raygen.api",
    "run": "raygen.api",
    "sample": "raygen.api",
    "train": "raygen.api",
    "verify": "raygen.api",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'raygen' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
