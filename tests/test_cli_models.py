"""The commands ``raygen models …``: what they print, and how they end."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner
from versions import add

from raygen.cli import app
from raygen.datasets.storage import Folder
from raygen.jobs.registry import Registry

Models = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "store" / "pets")


@pytest.fixture
def models(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Models:
    """Call one of them on the project."""
    monkeypatch.setenv("COLUMNS", "200")
    return lambda command, *arguments: CliRunner().invoke(app, ["models", command, folder.uri, *arguments])


def test_list(folder: Folder, models: Models) -> None:
    current, bad = add(folder, 1), add(folder, 2, "failed")
    Registry(folder).promote(current)
    done = models("list")
    assert done.exit_code == 0
    _, first, second = done.stdout.splitlines()
    assert first.split()[:6] == ["*", current[:12], "vae", "passed", "label_agreement", "0.510"]
    assert re.search(r" 1: \d{4}-\d\d-\d\d \d\d:\d\d +$", first)
    assert second.split() == [bad[:12], "vae", "failed", "label_agreement", "0.520"]
    listed = json.loads(models("list", "--json").stdout)
    assert [(version["digest"], version["current"]) for version in listed] == [(current, True), (bad, False)]
    assert listed[0]["promotion"]["evaluation"]["verdict"] == "passed"


def test_the_history(folder: Folder, models: Models) -> None:
    digests = [add(folder, 1), add(folder, 2)]
    assert models("list", "--history").stdout == "nothing has been promoted\n"
    for digest in digests:
        Registry(folder).promote(digest)
    Registry(folder).rollback()
    lines = models("list", "--history").stdout.splitlines()
    assert lines == list(map(str, Registry(folder).promotions()))
    assert lines[2].startswith("3: ")
    assert lines[2].endswith(f" rolled back to {digests[0][:12]}")
    history = json.loads(models("list", "--history", "--json").stdout)
    assert [promotion["number"] for promotion in history] == [1, 2, 3]


def test_show(folder: Folder, models: Models) -> None:
    digest = add(folder, 1, train={"epochs": 3})
    assert models("show").exit_code == 2  # nothing is current yet
    shown = models("show", digest[:8])
    assert shown.exit_code == 0
    for said in (f"digest: {digest}", "family: vae", "epochs: 3", "verdict: passed", "label_agreement  0.510"):
        assert said in shown.stdout
    Registry(folder).promote(digest)
    assert str(Registry(folder).current()) in models("show").stdout
    assert json.loads(models("show", "--json").stdout)["promotions"][0]["digest"] == digest


def test_diff(folder: Folder, models: Models) -> None:
    one, other = add(folder, 1), add(folder, 2)
    assert models("diff", one, other).stdout.splitlines() == [
        f"digest: {one} | {other}",
        "run: r1 | r2",
        "metrics.label_agreement: 0.51 | 0.52",
    ]
    Registry(folder).promote(other)
    assert json.loads(models("diff", one, "--json").stdout)["run"] == ["r1", "r2"]


def test_promote_and_rollback(folder: Folder, models: Models) -> None:
    digests = [add(folder, number) for number in range(3)]
    for digest in digests:
        done = models("promote", digest[:10])
        assert done.exit_code == 0
        assert done.stdout.endswith(f" promoted {digest[:12]}\n")
    assert models("rollback").stdout.endswith(f" rolled back to {digests[1][:12]}\n")
    assert models("promote", digests[2]).exit_code == 0
    assert models("rollback", "--to", digests[0][:10]).exit_code == 0
    assert Registry(folder).find("current") == digests[0]


def test_a_canary(folder: Folder, models: Models) -> None:
    current, canary = add(folder, 1), add(folder, 2)
    models("promote", current)
    done = models("promote", canary, "--canary", "10")
    assert done.stdout.endswith(f" promoted {canary[:12]} for 10 %\n")
    assert [line.split()[0] for line in models("list").stdout.splitlines()[1:]] == ["*", "10"]
    assert "canary: 10" in models("show", canary).stdout
    assert models("rollback").exit_code == 0
    assert "canary: null" in models("show", canary).stdout
    assert models("promote", canary, "--canary", "100").exit_code == 2


@pytest.mark.parametrize(("verdict", "code"), [("failed", 3), (None, 2)])
def test_what_has_not_passed_takes_force(folder: Folder, models: Models, verdict: str | None, code: int) -> None:
    digest = add(folder, 1, verdict)
    refused = models("promote", digest)
    assert refused.exit_code == code
    assert refused.stdout == ""
    *missed, what, hint = refused.stderr.splitlines()
    assert (what[:7], hint[:2]) == ("error: ", "  ")
    if code == 3:
        assert " ".join(missed[0].split()) == "metric needed found 95 % missed by"
        assert " ".join(missed[1].split()) == "label_agreement ≥ 0.9 0.51 0.41 to 0.61 0.390"
    assert Registry(folder).current() is None
    done = models("promote", digest, "--force")
    assert done.exit_code == 0
    assert done.stdout.endswith(", forced\n")


def test_a_project_without_generators(models: Models) -> None:
    refused = models("list")
    assert refused.exit_code == 2
    assert "no generator is there" in refused.stderr
