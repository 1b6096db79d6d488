"""The commands ``raygen serve`` and ``raygen token``: what they refuse in two lines, and an endpoint from start to stop."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import Result
from endpoints import digits, promoted
from typer.testing import CliRunner

from raygen.cli import app
from raygen.datasets.storage import Folder
from raygen.jobs.registry import Registry
from raygen.load import load_spec
from raygen.serving import auth
from raygen.serving.auth import Doorkeeper, Token

RAYGEN = Path(sys.executable).with_name("raygen")


def raygen(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: str | Path) -> str:
    """What is said, in two lines, of a mistake that the user can mend."""
    done = raygen(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr.count("\n") == 2, done.stderr
    return done.stderr


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A storage with a project that has a current generator, and one that has none yet."""
    monkeypatch.delenv(auth.VARIABLE, raising=False)
    promoted(Folder(tmp_path / "digits"), digits(0))
    made = digits(1)
    made.save(Folder(tmp_path / "new") / "generators" / made.digest)
    return tmp_path


def test_a_token_is_told_once_and_its_digest_is_listed(tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    ana = raygen("token", "ana", "--file", file, "--rows", "100")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret = ana.stdout.strip()
    assert secret not in file.read_text()
    file.write_text("# ours\n" + file.read_text().rstrip("\n"))  # by hand, without the last end of a line
    other = raygen("token", "1e5", "--file", file)  # no number
    assert file.read_text().startswith("# ours\n")
    doorkeeper = Doorkeeper(auth.read(file))
    found = doorkeeper.who({"authorization": f"Bearer {secret}"})
    assert (found.name, found.rows) == ("ana", 100)
    assert doorkeeper.who({"authorization": f"Bearer {other.stdout.strip()}"}).name == "1e5"
    before = file.read_text()
    assert "same name" in refused("token", "ana", "--file", file)
    assert "no name for a token" in refused("token", "a b", "--file", file)
    assert "soon: is no date" in refused("token", "bo", "--file", file, "--expires", "soon")
    assert file.read_text() == before
    raygen("token", "bo", "--file", file, "--expires", "2027-07-01", "--metrics")
    assert auth.read(file)[-1].expires == datetime(2027, 7, 1, tzinfo=UTC)
    assert [token.metrics for token in auth.read(file)] == [False, False, True]


def test_without_a_file_the_line_to_add_is_told() -> None:
    done = raygen("token", "ana")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("- ")]
    (entry,) = yaml.safe_load(line)
    assert Token(**entry).sha256 == auth.digest(done.stdout.strip())


def test_nothing_is_added_to_what_is_no_list_of_tokens(tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    for text in ("tokens: 3\n", "[]\n", "- {name: ana}\n", "- a\n  b: ["):
        file.write_text(text)
        assert str(file) in refused("token", "ana", "--file", file)
        assert file.read_text() == text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digits"], "has no token, so nobody could ask"),
        (["digits", "--insecure", "--host", "0.0.0.0"], "would let in everybody there"),
        (["digits", "--insecure", "--host", "example.org"], "would let in everybody there"),
        (["digits", "--insecure", "--tokens", "t.yaml"], "leave one out"),
        (["digits", "--tokens", "t.yaml"], "t.yaml: cannot be read"),
        (["nope", "--insecure"], "nope: no generator is there"),
        (["nope.yaml", "--insecure"], "there is no such spec"),
        (["new", "--insecure"], "no generator is current"),
        (["digits", "digits", "--insecure"], "two projects are called 'digits'"),
        (["digits", "--insecure", "--set", "serve.replicas.max=2"], "does not know its spec"),
        (["../digits/generators", "--insecure"], "no generator is there"),
    ],
)
def test_refusals(store: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str) -> None:
    monkeypatch.chdir(store)
    assert said in refused("serve", *arguments, "--storage", store)


def test_a_broken_generator_is_told_before_anything_starts(store: Path) -> None:
    (weights,) = store.glob("digits/generators/*/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert "generators" in refused("serve", "digits", "--storage", store, "--insecure")


def test_a_taken_port_is_told_before_anything_starts(store: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"{port}: cannot be listened at" in refused(
            "serve", "digits", "--storage", store, "--insecure", "--port", str(port)
        )


def spec(store: Path, serve: dict[str, Any]) -> Path:
    schema = {"image": {"kind": "image", "height": 9, "width": 8, "channels": 1}, "label": {"kind": "category"}}
    document = {
        "name": "digits",
        "storage": str(store),
        "dataset": {"path": "nowhere.parquet", "schema": schema},
        "generator": {"family": "vae", "condition": "label"},
        "serve": serve,
    }
    file = store / "spec.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def test_a_generator_of_before_resources(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose spec says by ``serve.gpus`` what a replica reserves."""
    monkeypatch.chdir(store)
    for gpus in (0.0, 0.5):
        lineage = load_spec(spec(store, {})).model_dump(by_alias=True)
        lineage["serve"]["gpus"] = gpus
        del lineage["resources"]
        promoted(Folder(store / f"old-{gpus}"), replace(digits(3), lineage={"spec": lineage}))
        done = raygen("serve", f"./old-{gpus}", "--tokens", "t.yaml", "--print-config", "--set", "serve.queue=99")
        assert done.exit_code == 0, done.output
        arguments = yaml.safe_load(done.stdout)["applications"][0]["args"]
        assert (arguments["serve"]["queue"], arguments["resources"]["gpus"]) == (99, gpus)


def test_the_config_is_one_of_ray_serve(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve.schema import ServeDeploySchema

    from raygen.serving import deployment

    monkeypatch.chdir(store)
    path = spec(store, {"replicas": {"min": 0, "max": 4}})
    other = promoted(Folder(store / "elsewhere" / "others"), digits(2))
    done = raygen("serve", path, "elsewhere/others", "--tokens", "t.yaml", "--print-config", "--set", "serve.queue=99",
                  "--host", "0.0.0.0", "--port", "9000")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "# export RAY_SERVE_ENABLE_HA_PROXY=1\n" in done.stdout
    config = yaml.safe_load(done.stdout)
    ServeDeploySchema.model_validate(config)
    assert config["http_options"] == {"host": "0.0.0.0", "port": 9000}
    (application,) = config["applications"]
    assert application["import_path"] == "raygen.serving.deployment:build"
    arguments = deployment.Arguments.model_validate(application["args"])
    assert (arguments.serve.replicas.max, arguments.serve.queue) == (4, 99)
    assert {name: Registry(Folder(uri)).folder.name for name, uri in arguments.projects.items()} == {
        "digits": "digits", "others": "others"
    }  # fmt: skip
    assert Registry(Folder(arguments.projects["others"])).current().digest == other  # type: ignore[union-attr]
    assert arguments.tokens == store / "t.yaml"

    secret, entry = auth.issue("ana")
    (store / "t.yaml").write_text(entry)
    assert secret not in done.stdout
    assert deployment.build(arguments) is not None


@pytest.mark.parametrize("others", [set(), {"theirs"}])
def test_what_somebody_else_has_deployed_meanwhile_goes_on(others: set[str]) -> None:
    """With a stand-in for Ray Serve, which has one proxy, and so one endpoint, for each cluster."""
    from raygen.serving import deployment

    applications, stopped = dict.fromkeys({"raygen", *others}), []
    serve = SimpleNamespace(
        delete=applications.pop,
        status=lambda: SimpleNamespace(applications=applications),
        shutdown=lambda: stopped.append("all"),
    )
    deployment._stop(serve)
    assert (applications.keys(), stopped) == (others, [] if others else ["all"])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.slow
def test_an_endpoint_from_start_to_stop(store: Path, tmp_path: Path) -> None:
    port, (secret, entry) = free_port(), auth.issue("ana")
    (tmp_path / "t.yaml").write_text(entry)
    command = [RAYGEN, "serve", "digits", "--storage", store, "--tokens", tmp_path / "t.yaml", "--port", str(port)]
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    try:
        end = time.monotonic() + 120
        while "answering" not in (tmp_path / "out").read_text():
            assert process.poll() is None, (tmp_path / "err").read_text()
            assert time.monotonic() < end, "it did not start"
            time.sleep(0.1)
        url = f"http://127.0.0.1:{port}"
        with pytest.raises(urllib.error.HTTPError) as unknown:
            urllib.request.urlopen(f"{url}/v1/models", timeout=30)
        assert unknown.value.code == 401
        unknown.value.close()
        asked = urllib.request.Request(f"{url}/v1/models", headers={"authorization": f"Bearer {secret}"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            assert [model["id"] for model in json.load(answer)["data"]] == ["digits"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
    assert secret not in (tmp_path / "out").read_text() + (tmp_path / "err").read_text()
    with socket.socket() as freed, pytest.raises(ConnectionRefusedError):
        freed.connect(("127.0.0.1", port))
