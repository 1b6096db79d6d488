"""One Ray for the whole test run, a private home, and the small real data that tests share."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq
import pytest

from raygen.datasets import samples
from raygen.datasets.storage import Folder

sys.path.append(str(Path(__file__).parent))
from s3 import Proxy, Server, clients, free_ports

os.environ["OMP_NUM_THREADS"] = "1"  # threads that wait for each other crawl where other processes want the cores too
os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # else a local Ray writes a token into the home folder
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


# S3 clients have to find the server in Ray's workers too, whose environment is that of the moment when Ray starts. So its
# port is chosen now; it starts when the first test asks for it.
S3_PORT = free_ports()
for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
    os.environ.pop(name, None)
os.environ.update(Server(Path(), S3_PORT).environment(), AWS_EC2_METADATA_DISABLED="true")


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing that a test does reaches the user's home."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def ray(home: Path) -> Iterator[None]:
    """The Ray of this test run."""
    from raygen.cluster.connect import connected

    with connected():
        yield


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six hundred real digits, sixty of each, in two Parquet files of several row groups."""
    folder = tmp_path_factory.mktemp("digits")
    whole = pq.read_table(samples.materialize("sample:digits", Folder(folder / "whole")))
    few = whole.take([row for row in range(len(whole)) if row % 500 < 60])
    (folder / "few").mkdir()
    few = few.take([row * 7 % len(few) for row in range(len(few))])
    pq.write_table(few.slice(0, 400), folder / "few" / "a.parquet", row_group_size=150)
    pq.write_table(few.slice(400), folder / "few" / "b.parquet", row_group_size=150)
    return folder / "few"


@pytest.fixture(scope="session")
def dataset(digits: Path) -> dict[str, Any]:
    """How a spec names those digits, as a mapping."""
    image = {"kind": "image", "height": 28, "width": 28, "channels": 1}
    return {"path": str(digits), "schema": {"image": image, "label": {"kind": "category"}}}


@pytest.fixture
def small(dataset: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A spec whose whole job takes seconds, as a mapping; what it learns in them is too little for a gate."""
    return {
        "name": "small",
        "storage": str(tmp_path / "store"),
        "dataset": dataset,
        "generator": {"family": "vae", "condition": "label", "width": 8},
        "train": {"epochs": 4, "batch_size": 32},
        "evaluate": {"usefulness": False},  # which takes longer than all the rest
        "gate": [],
        "augment": {"rows": 1000, "balance": "label", "seed": 7, "shard_rows": 130, "workers": 1},
    }


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The S3 server of this test run, with a bucket ``data``. Who kills it starts it again."""
    with Server(tmp_path_factory.mktemp("s3"), S3_PORT) as server:
        server.bucket("data")
        yield server


@pytest.fixture
def s3(s3_server: Server) -> Iterator[str]:
    """A URI on it where nothing is, which this process and Ray's workers may read and write."""
    with clients(s3_server.environment()):
        yield f"s3://data/{uuid4().hex}"


@pytest.fixture
def s3_proxy(s3_server: Server, s3: str) -> Iterator[Proxy]:
    """What stands between this process, but not Ray's workers, and the S3 server; it does nothing until a test orders it."""
    with Proxy(s3_server.port) as proxy, clients(s3_server.environment(endpoint=proxy.url)):
        yield proxy
