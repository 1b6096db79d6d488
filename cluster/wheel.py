"""raygen as a wheel, made of what is installed here: the same code gives the same bytes, whenever and wherever it is made.

By these bytes code reaches a cluster. Nothing in them is compressed (another zlib would compress otherwise), nothing has a
time, and of the metadata only what installing needs is kept, for the rest depends on what installed raygen here.
"""

import base64
import hashlib
import io
import os
import stat
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from raygen.errors import RaygenError

SUFFIXES = (".py", ".typed", ".html", ".css", ".js")
"""Of the files that the package consists of; what else may lie about in a working copy does not belong to it."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The first moment that a zip file can tell."""


class Wheel(NamedTuple):
    """A wheel.

    Attributes:
        name: of its file.
        data: all of it.
        digest: SHA-256 of the code in it, in hexadecimal digits. What it says that it depends on is not part of that: an
            editable raygen says what it did when it was installed.
    """

    name: str
    data: bytes
    digest: str


@cache
def build() -> Wheel:
    """The wheel of the raygen that this process runs.

    Raises:
        RaygenError: raygen is here, but not installed, so that nobody knows its version.
    """
    try:
        installed = distribution("raygen")
    except PackageNotFoundError:
        raise RaygenError("raygen is not installed, only its files are there", "install it: pip install raygen") from None
    version = installed.version
    folder = f"raygen-{version}.dist-info"
    files = dict(_package(Path(__file__).parents[1]))
    digest = hashlib.sha256(archive(files)).hexdigest()
    files[f"{folder}/METADATA"] = _metadata(installed)
    files[f"{folder}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: raygen\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{folder}/entry_points.txt"] = _commands(installed)
    files[f"{folder}/RECORD"] = _record(files, f"{folder}/RECORD")
    return Wheel(f"raygen-{version}-py3-none-any.whl", archive(files), digest)


def archive(files: dict[str, bytes]) -> bytes:
    """A zip file that depends on nothing but what is in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as zipped:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system = 3  # Unix, whose permissions these are
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            zipped.writestr(info, files[name])
    return buffer.getvalue()


def _package(root: Path) -> Iterator[tuple[str, bytes]]:
    for parent, folders, names in os.walk(root, followlinks=True):  # in a working copy the folders are links
        folders[:] = [folder for folder in folders if not folder.startswith((".", "__pycache__"))]
        for path in (Path(parent, name) for name in names):
            if path.suffix in SUFFIXES and not path.name.startswith("."):
                yield f"raygen/{path.relative_to(root).as_posix()}", path.read_bytes()


def _metadata(installed: Distribution) -> bytes:
    told = installed.metadata
    lines = ["Metadata-Version: 2.1", f"Name: {told['Name']}", f"Version: {told['Version']}"]
    for key in ("Requires-Python", "Provides-Extra", "Requires-Dist"):
        lines += sorted(f"{key}: {value}" for value in told.get_all(key) or [])
    return ("\n".join(lines) + "\n").encode()


def _commands(installed: Distribution) -> bytes:
    scripts = sorted(f"{point.name} = {point.value}" for point in installed.entry_points if point.group == "console_scripts")
    return ("\n".join(["[console_scripts]", *scripts]) + "\n").encode()


def _record(files: dict[str, bytes], itself: str) -> bytes:
    lines = []
    for name in sorted(files):
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(files[name])}")
    return ("\n".join([*lines, f"{itself},,"]) + "\n").encode()
