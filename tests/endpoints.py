"""A real HTTP server of generators that have learnt nothing: what Ray Serve runs in each replica, without Ray.

    with served(api(Path("store"))) as port: ...

Their rows mean nothing, and are rows all the same: of pictures of digits, and of a table of people.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import uvicorn
from starlette.types import ASGIApp

from raygen.datasets.codec import Codec
from raygen.datasets.columns import Category
from raygen.datasets.statistics import Statistics
from raygen.datasets.storage import Folder
from raygen.generators.generator import Generator, untrained
from raygen.jobs.registry import Registry
from raygen.options import AutoregressiveSpec, FamilySpec, VaeSpec
from raygen.serving.app import app
from raygen.serving.auth import Doorkeeper, Token
from raygen.serving.models import Models
from raygen.spec import CategoryField, ImageField, NumberField

MOST_ROWS = 10_000
LOOPBACK = "127.0.0.1"
NOTHING: Mapping[str, Any] = {"verdict": "passed", "gate": [], "metrics": []}


def digits(seed: int = 0) -> Generator:
    """Pictures of 8 × 9, and what they show."""
    fields = {"image": ImageField(height=9, width=8, channels=1), "label": CategoryField()}
    schema = pa.schema([pa.field("image", pa.binary()), pa.field("label", pa.int64())])
    codec = Codec.of(fields, schema, {"label": Category(tuple(range(10)), (1,) * 10)})
    return _made(VaeSpec(network="dense", latent=6, width=4, condition="label"), codec, seed)


def pictures(seed: int = 0) -> Generator:
    """The same of two digits, and of none: a class that is null."""
    fields = {"picture": ImageField(height=9, width=8, channels=1), "digit": CategoryField()}
    schema = pa.schema([pa.field("picture", pa.binary()), pa.field("digit", pa.int64())])
    codec = Codec.of(fields, schema, {"digit": Category((3, 7, None), (1, 1, 1))})
    return _made(VaeSpec(network="dense", latent=6, width=4, condition="digit"), codec, seed)


def adult(seed: int = 0) -> Generator:
    """People by their age and income, who can be asked for by ranges."""
    fields = {"age": NumberField(), "income": CategoryField()}
    table = pa.table({"age": pa.array(np.arange(17, 91).repeat(20)), "income": ["<=50K", ">50K"] * 740})
    statistics = Statistics(fields)
    statistics.add(table, np.ones(len(table), bool))
    return _made(
        AutoregressiveSpec(embedding=4, width=8, features=4, condition="income"), statistics.codec(table.schema), seed
    )


def _made(spec: FamilySpec, codec: Codec, seed: int) -> Generator:
    torch.manual_seed(seed)
    return Generator(spec, codec, untrained(spec, codec, torch.device("cpu")).sampler().eval())


def promoted(
    folder: Folder, generator: Generator, evaluation: Mapping[str, Any] = NOTHING, percent: int | None = None
) -> str:
    """Make it the current one of a project, or a canary, with what its evaluation has found: its digest."""
    generator.save(folder / "generators" / generator.digest)
    registry = Registry(folder)
    registry.keep({"generator": generator.digest, **evaluation})
    registry.promote(generator.digest, canary=percent)
    return generator.digest


def models(store: Path) -> Models:
    """Of two projects, ``digits`` and ``adult``, in a folder."""
    for name, generator in (("digits", digits()), ("adult", adult())):
        promoted(Folder(store / name), generator)
    return Models({name: Registry(Folder(store / name)) for name in ("digits", "adult")})


def api(of: Models, tokens: Sequence[Token] | None = None, most_rows: int = MOST_ROWS) -> ASGIApp:
    return app(of, Doorkeeper(tokens), most_rows)


@contextlib.contextmanager
def served(asgi: Any, **options: Any) -> Iterator[int]:
    """The port, on loopback, where uvicorn serves it, with the options that Ray Serve's replicas give it."""
    config = uvicorn.Config(
        asgi, host=LOOPBACK, port=0, lifespan="off", access_log=False, log_level=None, log_config=None, **options
    )
    server = uvicorn.Server(config)
    socket = config.bind_socket()
    socket.listen(1024)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, name="uvicorn")
    thread.start()
    try:
        yield socket.getsockname()[1]  # it listens, so whoever comes before it has started waits
    finally:
        server.should_exit = server.force_exit = True
        thread.join(20)
        socket.close()
        assert not thread.is_alive()
