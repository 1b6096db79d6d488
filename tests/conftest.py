"""One Ray for the whole test run, a private home, and the small real data that tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # else a local Ray writes a token into the home folder
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing that a test does reaches the user's home."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def ray(home: Path) -> Iterator[None]:
    """The Ray of this test run: two CPUs, as many as the smallest machine that tests run on."""
    import ray

    from raygen.cluster.connect import connected

    with connected():
        yield
    assert not ray.is_initialized()
