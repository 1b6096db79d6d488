"""What `import raygen` promises: these names, documented, cheap to import, and errors that cross processes."""

import importlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import raygen

PUBLIC = [
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
ERRORS = [raygen.DataError, raygen.GateError, raygen.OutputError, raygen.ResourceError, raygen.SpecError]


def modules() -> list[str]:
    """Every module of raygen; its folders are links."""
    root = Path(raygen.__file__).parent
    found = []
    for folder, _, files in os.walk(root, followlinks=True):
        for file in files:
            if file.endswith(".py"):
                parts = (Path(folder) / file).relative_to(root).with_suffix("").parts
                found.append(".".join(("raygen", *parts)).removesuffix(".__init__"))
    return sorted(found)


def test_the_public_names_are_these() -> None:
    assert raygen.__all__ == dir(raygen) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_documented(name: str) -> None:
    exported = getattr(raygen, name)
    assert exported.__module__.startswith("raygen.")
    assert len((exported.__doc__ or "").split()) > 3


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'raygen' has no attribute 'trian'"):
        raygen.trian  # noqa: B018
    assert not hasattr(raygen, "Plan")


def heavy(code: str) -> list[str]:
    """Which of the slow packages some code imports."""
    code += "\nimport sys; print(*sorted({'torch', 'ray', 'pyarrow', 'pandas'} & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_raygen_is_cheap() -> None:
    assert heavy("import raygen") == []
    assert heavy("import raygen\nraygen.load_spec, raygen.SpecError") == []


def test_a_generator_needs_no_ray() -> None:
    assert "ray" not in heavy("import raygen\nraygen.Generator")


def test_a_client_needs_neither_torch_nor_ray() -> None:
    assert heavy("import raygen\nraygen.Client('http://127.0.0.1:1')") == ["pyarrow"]


def test_every_module_is_there() -> None:
    found = modules()
    assert {"raygen", "raygen.cli", "raygen.datasets.codec", "raygen.jobs.plan", "raygen.generators"} <= set(found)
    assert len(found) > 25


@pytest.mark.parametrize("name", modules())
def test_a_module_can_be_imported_and_says_what_it_is(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__


@pytest.mark.parametrize("error", ERRORS)
def test_errors_survive_pickling(error: type[raygen.RaygenError]) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error("a.parquet, row 3: is null", "remove it"), protocol))
        assert type(again) is error
        assert (again.what, again.hint) == ("a.parquet, row 3: is null", "remove it")
        assert str(again) == "a.parquet, row 3: is null\n  remove it"


@pytest.mark.parametrize("error", ERRORS)
def test_errors_are_two_lines_and_an_exit_code(error: type[raygen.RaygenError]) -> None:
    assert issubclass(error, raygen.RaygenError)
    raised = error("many\nlines\r\nof a library", "do\nthis")
    assert (raised.what, raised.hint) == ("many lines of a library", "do this")
    assert raised.exit_code == (3 if error is raygen.GateError else 2)
