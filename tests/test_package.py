"""What a user installs: the wheel that is built from the sdist, in a clean virtual environment."""

import io
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from raygen.cluster import wheel as to_send

ROOT = Path(__file__).parents[1]
FOLDERS = ("datasets", "generators", "metrics", "jobs", "serving", "cluster")
IMPORT_ALL = """
import importlib, pathlib, raygen
root = pathlib.Path(raygen.__file__).parent
assert SITE in str(root), root
names = sorted(str(f.relative_to(root).with_suffix("")).replace("/", ".") for f in root.rglob("*.py"))
for name in names:
    importlib.import_module("raygen." + name.removesuffix("__init__").rstrip(".") if name != "__init__" else "raygen")
print(len(names))
"""


@pytest.mark.slow
def test_the_wheel_built_from_the_sdist_imports_everywhere(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(ROOT)]  # the sdist, then the wheel from it
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert len(list(tmp_path.glob("*.tar.gz"))) == 1

    built = zipfile.ZipFile(wheel)
    names = built.namelist()
    sources = {f"raygen/{f.relative_to(ROOT)}" for folder in FOLDERS for f in (ROOT / folder).glob("*.py")}
    sources |= {f"raygen/{f.name}" for f in (ROOT / "src" / "raygen").glob("*.py")}
    assert sources <= set(names)
    assert {"raygen/py.typed", *(f"raygen/jobs/report.{kind}" for kind in ("html", "css", "js"))} <= set(names)
    assert {f"raygen/serving/web/{f.name}" for f in (ROOT / "serving" / "web").iterdir()} <= set(names)
    assert not [name for name in names if name.startswith(("datasets/", "tests/"))]  # no top-level package but raygen

    # What goes to clusters is the same, though nothing is built for it.
    sent = zipfile.ZipFile(io.BytesIO(to_send.build().data))
    assert contents(sent) == contents(built)

    # What raygen depends on is lent from this environment: only raygen itself is what is tested.
    home = tmp_path / "clean"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    site = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    (Path(site) / "lent.pth").write_text(_without_editable(tmp_path))
    code = IMPORT_ALL.replace("SITE", repr(site))
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(sources)
    assert (home / "bin" / "raygen").exists()


def contents(wheel: zipfile.ZipFile) -> dict[str, bytes]:
    return {name: wheel.read(name) for name in wheel.namelist() if name.startswith("raygen/")}


def _without_editable(folder: Path) -> str:
    """This environment's packages, one link each, without the editable raygen."""
    lent = folder / "lent"
    lent.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "raygen" not in entry.name and entry.suffix != ".pth":
            (lent / entry.name).symlink_to(entry)
    return f"{lent}\n"
