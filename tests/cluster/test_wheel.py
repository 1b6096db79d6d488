"""The wheel that goes to clusters: the same code is the same bytes. That it holds all of it is in ``test_package.py``."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import raygen
from raygen.cluster import wheel

HERE = Path(raygen.__file__).parent
MAKE = "import sys; from raygen.cluster import wheel; w = wheel.build(); sys.stdout.buffer.write(w.digest.encode() + w.data)"
DIGITS = 64


def made(package: Path, **environment: str) -> tuple[str, bytes]:
    """The digest and the bytes, by a process of its own, of the raygen in a folder."""
    settings = {**os.environ, "PYTHONPATH": str(package), **environment}
    done = subprocess.run([sys.executable, "-c", MAKE], env=settings, capture_output=True, check=True).stdout
    return done[:DIGITS].decode(), done[DIGITS:]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same code in another place, in folders rather than links, at another time."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(HERE, folder / "raygen", ignore=shutil.ignore_patterns("__pycache__"))
    for file in folder.rglob("*"):
        os.utime(file, (1_000_000_000, 1_000_000_000))
        if file.is_file():
            file.chmod(0o600)
    return folder


def test_the_same_code_is_the_same_bytes_anywhere_and_at_any_time(elsewhere: Path, tmp_path: Path) -> None:
    (tmp_path / "raygen").symlink_to(HERE)
    first, second = made(elsewhere), made(tmp_path, TZ="Asia/Tokyo", PYTHONHASHSEED="1")
    assert first == second
    assert first[0] == wheel.build().digest


def test_other_code_is_another_digest_and_what_lies_about_is_not_code(elsewhere: Path) -> None:
    before = made(elsewhere)
    notes = [elsewhere / "raygen" / name for name in ("notes.txt", "jobs/.hidden.py", "jobs/data.parquet")]
    for note in notes:
        note.write_text("1")
    (elsewhere / "raygen" / "__pycache__").mkdir(exist_ok=True)
    (elsewhere / "raygen" / "__pycache__" / "x.py").write_text("1")
    assert made(elsewhere) == before
    changed = elsewhere / "raygen" / "jobs" / "__init__.py"
    changed.write_text(changed.read_text() + "\n")
    assert made(elsewhere)[0] != before[0]


def test_pip_installs_it(tmp_path: Path) -> None:
    built = wheel.build()
    (tmp_path / built.name).write_bytes(built.data)
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(tmp_path / "site")]
    subprocess.run([*pip, str(tmp_path / built.name)], check=True, capture_output=True)
    code = "import raygen, importlib.metadata as m; print(raygen.__file__, m.version('raygen'), len(m.requires('raygen')))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    file, version, requirements = done.stdout.split()
    assert file.startswith(str(tmp_path))
    assert built.name == f"raygen-{version}-py3-none-any.whl"
    assert int(requirements) > 10
    assert (tmp_path / "site" / "bin" / "raygen").exists()
