"""The image: by a linter, and by what manifests take for granted of it. It is not built here."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from raygen.cluster import pods
from raygen.serving.haproxy import PROGRAM

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Comments in between are none of an instruction's lines.
INSTRUCTIONS = [
    re.sub(r"\s+", " ", line)
    for line in re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()
    if line.strip()
]


def lint(text: str) -> str:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "-"], input=text, capture_output=True, text=True)
    return done.stdout if done.returncode else ""


def test_it_is_a_good_one() -> None:
    assert lint(TEXT) == ""
    assert "DL3002" in lint(TEXT.replace("USER 1000:1000", "USER root"))
    assert "DL3013" in lint(TEXT.replace(" --constraint /constraints.txt torch", " torch"))
    assert "unexpected" in lint(TEXT.replace("FROM", "FORM"))


def arguments(name: str) -> list[str]:
    """What an instruction has, each time that it is there."""
    return [line.removeprefix(f"{name} ") for line in INSTRUCTIONS if line.startswith(f"{name} ")]


def test_what_is_installed_is_of_the_versions_that_were_tried() -> None:
    installed = [command for run in arguments("RUN") for command in run.split("&&") if "pip install" in command]
    assert len(installed) == 3
    assert all("--constraint /constraints.txt" in command for command in installed)


def test_it_has_what_a_cluster_needs() -> None:
    (extras,) = (value.removeprefix("EXTRAS=").split(",") for value in arguments("ARG") if value.startswith("EXTRAS="))
    assert {*extras} >= {"s3", "report", "quality", "serve"}
    assert {*extras} <= {*PROJECT["optional-dependencies"]} - {"dev", "bench"}
    (python,) = (value.removeprefix("PYTHON=") for value in arguments("ARG") if value.startswith("PYTHON="))
    assert python == PROJECT["requires-python"].removeprefix(">=")
    # The operator calls these by their names in bash, with the PATH of a login shell; its probes call wget.
    assert "wget" in " ".join(arguments("RUN"))
    assert PROGRAM in PROJECT["scripts"]
    assert f"RAY_SERVE_HAPROXY_BINARY_PATH=/usr/local/bin/{PROGRAM}" in " ".join(arguments("ENV"))


def test_it_runs_as_the_user_of_the_pods() -> None:
    assert arguments("USER") == [f"{pods.USER}:{pods.USER}"]
    assert f"--uid {pods.USER} " in " ".join(arguments("RUN"))


def test_nothing_but_what_the_wheel_is_made_of_gets_into_it() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    folders = {link.readlink().name for link in (ROOT / "src" / "raygen").iterdir() if link.is_symlink()}
    assert let_in == {*folders, "src", "pyproject.toml", "README.md", "LICENSE", "constraints.txt"}
