"""What a cluster's file has installed on its machines: raygen, Ray and Python, and whether they fit what is here."""

import io
import re
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from raygen.cluster.config import ClusterConfig, Mistake
from raygen.cluster.wheel import build

OLDEST_PYTHON = 11
"""Minor version of Python 3 that raygen needs."""
_AS_IMAGE = "as the image"
_INSTALL = re.compile(r"\b(?:pip3?|uv|conda|mamba)\b.*?\binstall\b(?P<what>.*)", re.DOTALL)
_WHEEL = re.compile(r"(?P<folder>[^\s\"'=]*/)?(?P<file>raygen-(?P<version>[^-\s\"'\[\]/]+)(?:-py3-none-any)?\.whl)")
_PACKAGE = r"(?<![\w./~@-])%s(?:\[[^\]]*\])?(?:\s*(?P<pin>[=<>!~]=?\s*[^\s\"';|&]+))?(?=[\s\"';|&]|$)"
_RAYGEN, _RAY = re.compile(_PACKAGE % "raygen"), re.compile(_PACKAGE % "ray")
_RAY_WHEEL = re.compile(r"\bray-(?P<version>\d[\w.+]*)-cp3")
_RAY_IMAGE = re.compile(r"(?:^|/)rayproject/ray(?:-\w+)?:(?P<version>\d[\w.]*|[a-z]+)(?:-py3(?P<python>\d+))?")
_PYTHON = re.compile(r"\bpython3\.(\d+)\b|(?:--python|-p|\bpython=+)[ =]?3\.(\d+)\b")


@dataclass(frozen=True)
class Installed:
    """What is installed on the head, on workers or on machines of one type.

    Attributes:
        on: which of them.
        raygen: how raygen comes there; None where it does not.
        wheel: the file here that it is, where it is a wheel that is here.
        ray: the version of Ray, empty where it is any, and the line; None where nothing says one.
        python: the minor version of Python 3, and the line; None where nothing says one.
    """

    on: str
    raygen: str | None
    wheel: Path | None
    ray: tuple[str, int] | None
    python: tuple[int, int] | None


def here(package: str) -> str:
    """The version of a package that this client has."""
    return metadata.version(package)


def installed(config: ClusterConfig) -> list[Installed]:
    """The head first."""
    return [_installed(config, on, commands) for on, commands in _commands(config).items()]


def mistakes(config: ClusterConfig) -> Iterator[Mistake]:
    for commands in _commands(config).values():
        for line, text in commands:
            yield from _of_raygen(config, line, text)
    where: dict[Mistake, list[str]] = {}
    for found in installed(config):
        for mistake in _unfit(config, found):
            where.setdefault(mistake, []).append(found.on)
    for mistake, on in where.items():
        yield replace(mistake, what=mistake.what.format(on=" and ".join(on)))


def _unfit(config: ClusterConfig, found: Installed) -> Iterator[Mistake]:
    """What of it does not fit this client, with ``{on}`` for where it is installed."""
    at = ("docker", "image") if config.at("docker", "image", kind=str) else ("setup_commands",)
    mine = here("ray")
    hint = f'write "ray[default]=={mine}"'
    if found.raygen is None:
        wheel = f"raygen-{here('raygen')}-py3-none-any.whl"
        yield Mistake(
            config.line(*at), "nothing installs raygen on {on}", f"mount the wheel, and add: pip install ~/{wheel}"
        )
    if found.ray is None or not found.ray[0]:
        if found.raygen is None or not found.raygen.startswith(_AS_IMAGE):
            how = "any version of Ray is" if found.ray else "nothing says which Ray is"
            line = found.ray[1] if found.ray else config.line(*at)
            what = how + " installed on {on}: machines that come later may get another, and cannot join"
            yield Mistake(line, what, hint)
    elif found.ray[0] != mine:
        yield Mistake(found.ray[1], f"Ray {found.ray[0]} on {{on}}, and this client has Ray {mine}", hint)
    if found.python is not None and found.python[0] < OLDEST_PYTHON:
        what = f"Python 3.{found.python[0]} on {{on}}, and raygen needs 3.{OLDEST_PYTHON} or newer"
        yield Mistake(found.python[1], what, f"name a newer one, such as the 3.{sys.version_info.minor} of this client")


def wheel_here(config: ClusterConfig, folder: str, file: str) -> tuple[Path | None, int]:
    """The file here that a machine has there, and the line of the mount that brings it; None where none does."""
    place = _home(folder + file)
    for remote, local in config.at("file_mounts").items():
        if not isinstance(local, str):
            continue
        line, mine, theirs = config.line("file_mounts", remote), Path(local).expanduser(), _home(str(remote)).rstrip("/")
        if theirs == place:
            return mine, line
        if place.startswith(f"{theirs}/"):
            within = place.removeprefix(f"{theirs}/")
            matches = sorted(mine.glob(within)) if "*" in within else [mine / within]
            return (matches[0] if len(matches) == 1 else mine / within), line
    return None, 0


def _commands(config: ClusterConfig) -> dict[str, list[tuple[int, str]]]:
    """The setup of the head, of workers, and of types with one of their own, each command with its line."""

    def said(*path: str) -> list[tuple[int, str]]:
        return [(config.line(*path, i), str(text)) for i, text in enumerate(config.at(*path, kind=list))]

    everywhere = said("setup_commands")
    found = {"the head": everywhere + said("head_setup_commands"), "workers": everywhere + said("worker_setup_commands")}
    for name, kind in config.machines():
        if kind.get("worker_setup_commands") is not None and name != config.document.get("head_node_type"):
            found[name] = said("available_node_types", name, "worker_setup_commands")
    return found


def _installed(config: ClusterConfig, on: str, commands: list[tuple[int, str]]) -> Installed:
    image, at = config.at("docker", "image", kind=str), config.line("docker", "image")
    raygen = f"{_AS_IMAGE} {image} has it" if "raygen" in image else None
    wheel: Path | None = None
    ray: tuple[str, int] | None = None
    python: tuple[int, int] | None = None
    if found := _RAY_IMAGE.search(image):
        ray = (found["version"] if found["version"][0].isdigit() else "", at)
        python = (int(found["python"]), at) if found["python"] else None
    for line, text in commands:
        if version := _PYTHON.search(text):
            python = (int(version[1] or version[2]), line)
        what = _what(text)
        if file := _WHEEL.search(what):
            wheel, _ = wheel_here(config, file["folder"] or "", file["file"])
            raygen = f"from {wheel or file['file']}"
        elif package := _RAYGEN.search(what):
            raygen = f"from a package index, {package['pin'] or 'any version'}"
        elif "raygen" in what and raygen is None:
            raygen = f"by `{text}`"
        if ray_wheel := _RAY_WHEEL.search(what):
            ray = (ray_wheel["version"], line)
        elif package := _RAY.search(what):
            ray = (_exact(package["pin"]), line)
    return Installed(on, raygen, wheel if wheel is not None and wheel.is_file() else None, ray, python)


def _of_raygen(config: ClusterConfig, line: int, text: str) -> Iterator[Mistake]:
    what, mine = _what(text), here("raygen")
    hint = "raygen cluster wheel makes that of this client; name it in file_mounts and setup_commands"
    for wheel in _WHEEL.finditer(what):
        file, mount = wheel_here(config, wheel["folder"] or "", wheel["file"])
        if file is None:
            yield Mistake(line, f"no file mount brings {wheel['file']} to where it is installed from", hint)
            continue
        version = wheel["version"]
        if "*" in wheel["file"]:
            found = sorted(file.parent.glob(file.name))
            if "*" in file.name and len(found) != 1:
                several = f"{len(found)} files" if found else "no file"
                yield Mistake(line, f"{wheel['file']} is {several} in {file.parent}, and should be one", hint)
                continue
            version = file.name.split("-")[1]
        if version != mine:
            yield Mistake(line, f"installs raygen {version}, and this client is raygen {mine}", hint)
        elif file.is_file():
            yield from _of_requirement(config, file, mount)
    if not _WHEEL.search(what) and (package := _RAYGEN.search(what)):
        if not _exact(package["pin"]):
            yield Mistake(line, "installs whichever raygen is the newest", f"write raygen=={mine}")
        elif package["pin"].replace(" ", "") != f"=={mine}":
            yield Mistake(
                line, f"installs raygen{package['pin']}, and this client is raygen {mine}", f"write raygen=={mine}"
            )


def _of_requirement(config: ClusterConfig, wheel: Path, line: int) -> Iterator[Mistake]:
    """What the wheel says that it needs of Ray."""
    wanted = needed_ray(wheel)
    if wanted is None:
        yield Mistake(line, f"{wheel} is no wheel of raygen", "make it anew: raygen cluster wheel")
        return
    for found in installed(config):
        if found.ray and _version(found.ray[0]) and not wanted.specifier.contains(found.ray[0], prereleases=True):
            what = f"Ray {found.ray[0]}, and {wheel} needs {wanted}"
            yield Mistake(found.ray[1], what, f'write "ray[default]=={here("ray")}"')


def same_code(wheel: Path) -> bool:
    """Whether a wheel has the raygen that this process runs."""
    mine = zipfile.ZipFile(io.BytesIO(build().data))
    try:
        with zipfile.ZipFile(wheel) as theirs:
            both = [{i.filename: i.CRC for i in of.infolist() if i.filename.startswith("raygen/")} for of in (mine, theirs)]
    except (OSError, zipfile.BadZipFile):
        return False
    return both[0] == both[1]


def needed_ray(wheel: Path) -> Requirement | None:
    """Which Ray a wheel of raygen needs; None where it is none."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            headers = HeaderParser().parsestr(archive.read(name).decode())
        needs = [Requirement(text) for text in headers.get_all("Requires-Dist", [])]
        return next(need for need in needs if need.name == "ray" and need.marker is None)
    except (OSError, zipfile.BadZipFile, StopIteration, InvalidRequirement, UnicodeDecodeError):
        return None


def _what(command: str) -> str:
    """What a command installs."""
    found = _INSTALL.search(command)
    return found["what"] if found else ""


def _exact(pin: str | None) -> str:
    """The one version that is taken; empty where it may be several."""
    found = (pin or "").replace(" ", "")
    return found.removeprefix("==") if found.startswith("==") and "*" not in found else ""


def _version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def _home(path: str) -> str:
    return re.sub(r"^(?:\$HOME|\$\{HOME\})(?=/|$)", "~", path)
