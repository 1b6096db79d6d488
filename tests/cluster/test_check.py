"""``raygen cluster check``: every mistake with its line, and what a file means."""

import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from click.testing import Result
from cluster_files import Block, chosen, filled, furnish
from typer.testing import CliRunner

from raygen.cli import app
from raygen.cluster import explain
from raygen.cluster.config import ClusterConfig
from raygen.cluster.mistakes import mistakes

Check = Callable[..., Result]
RAY, RAYGEN = version("ray"), version("raygen")
WHEEL = f"raygen-{RAYGEN}-py3-none-any.whl"
HEAD_IMAGE = "          ImageId: ami-0123456789abcdef0\n"
WORKER_START = "ulimit -n 65536; RAY_AUTH_MODE=token ray start --address"


class Broken(NamedTuple):
    """A change to the file, and what is said of it: the line where ``at`` is, how the error begins, and the hint."""

    block: Block
    old: str
    new: str
    at: str
    what: str
    hint: str


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """From where commands run; what the file names is there."""
    (tmp_path / "home").mkdir()
    furnish(tmp_path, tmp_path / "home")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def check(folder: Path) -> Check:
    """Write a file, and check it."""

    def run(text: str, *arguments: str) -> Result:
        (folder / "ray-config.yaml").write_text(text)
        return CliRunner().invoke(app, ["cluster", "check", *arguments])

    return run


def told(result: Result) -> list[tuple[str, str]]:
    """What was wrong, and what to do."""
    lines = result.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines[::2]), result.stderr
    assert all(line.startswith("  ") and line.strip() for line in lines[1::2]), result.stderr
    return [(line.removeprefix("error: "), hint.strip()) for line, hint in zip(lines[::2], lines[1::2], strict=True)]


@pytest.mark.parametrize("block", ["local", "aws"])
def test_what_is_filled_in_has_no_mistake(check: Check, block: Block) -> None:
    done = check(filled(block))
    assert done.stderr == ""
    assert done.exit_code == 0


@pytest.mark.parametrize(("block", "places"), [("local", 3), ("aws", 1)])
def test_what_is_to_be_filled_in_is_told(check: Check, block: Block, places: int) -> None:
    done = check(chosen(block))
    assert done.exit_code == 2
    mistakes = told(done)
    assert len(mistakes) == places
    for what, hint in mistakes:
        line = int(what.split(":")[1])
        assert " yours" in "".join(chosen(block).splitlines()[line - 4 : line])
        assert hint.startswith("put in your own ")


BROKEN = {
    "an unknown key": Broken(
        "aws", "    idle_timeout_minutes: 10 ", "    idle_timeout_minuts: 10 ", "idle_timeout_minuts",
        "unknown key idle_timeout_minuts; did you mean 'idle_timeout_minutes'?", "known keys: ",
    ),
    "an unknown key of a type": Broken(
        "aws", "      cpu:\n        max_workers: 16", "      cpu:\n        max_worker: 16", "max_worker: 16",
        "unknown key available_node_types.cpu.max_worker; did you mean 'max_workers'?",
        "known keys of available_node_types.cpu: ",
    ),
    "a word for a number": Broken(
        "aws", "    max_workers: 16 ", "    max_workers: many ", "max_workers: many",
        "max_workers is 'many'", "it should be of the type integer",
    ),
    "more at least than at most": Broken(
        "aws", "        max_workers: 4\n", "        min_workers: 5\n        max_workers: 4\n", "min_workers: 5",
        "gpu.min_workers is 5, more than gpu.max_workers, 4", "raise that, or lower this",
    ),
    "more of all types than there may be": Broken(
        "aws", "        max_workers: 8\n", "        max_workers: 17\n        min_workers: 17\n", "    max_workers: 16 ",
        "max_workers is 16, and the node types have 17 min_workers together", "raise it, or lower some min_workers",
    ),
    "a head that is not there": Broken(
        "aws", "head_node_type: head", "head_node_type: haed", "haed",
        "head_node_type is 'haed', which is not in available_node_types; did you mean 'head'?",
        "there are head, cpu, gpu-spot, gpu",
    ),
    "no head": Broken(
        "aws", "    head_node_type: head\n", "", "available_node_types:",
        "head_node_type is missing", "add it: one of head, cpu, gpu-spot, gpu",
    ),
    "a mount of nothing": Broken(
        "local", f"./dist/{WHEEL}", f"./dust/{WHEEL}", f"./dust/{WHEEL}",
        f"file_mounts: ./dust/{WHEEL} is not there below ", "raygen cluster wheel makes it; ",
    ),
    "no token": Broken(
        "local", "auth_token: ~/.ray/auth_token", "auth_token: ~/.ray/other/auth_token", "/other/",
        "file_mounts: ~/.ray/other/auth_token is not there", "ray get-auth-token --generate makes it",
    ),
    "another raygen": Broken(
        "local", WHEEL, "raygen-0.0.9-py3-none-any.whl", 'pip install --quiet "ray',
        f"installs raygen 0.0.9, and this client is raygen {RAYGEN}", "raygen cluster wheel makes that of this client; ",
    ),
    "any raygen": Broken(
        "local", f'"$HOME/{WHEEL}[report,s3,serve]"', '"raygen[s3]"', '"raygen[s3]"',
        "installs whichever raygen is the newest", f"write raygen=={RAYGEN}",
    ),
    "a wheel that nothing brings": Broken(
        "local", f'"$HOME/{WHEEL}[', f'"$HOME/wheels/{WHEEL}[', "wheels/",
        f"no file mount brings {WHEEL} to where it is installed from", "raygen cluster wheel makes that ",
    ),
    "no raygen": Broken(
        "local", f' "$HOME/{WHEEL}[report,s3,serve]"\n  - pip install --quiet --force-reinstall --no-deps ~/{WHEEL} ', "\n#",
        "\nsetup_commands:", "nothing installs raygen on the head and workers", "mount the wheel, and add: pip "
    ),
    "another Ray": Broken(
        "local", f"ray[default]=={RAY}", "ray[default]==2.59.0", "==2.59.0",
        f"Ray 2.59.0 on the head and workers, and this client has Ray {RAY}", f'write "ray[default]=={RAY}"',
    ),
    "any Ray": Broken(
        "local", f'"ray[default]=={RAY}"', '"ray[default]>=2.9"', '>=2.9"',
        "any version of Ray is installed on the head and workers: ", f'write "ray[default]=={RAY}"',
    ),
    "nothing of Ray": Broken(
        "local", f'"ray[default]=={RAY}" ', "", "\nsetup_commands:",
        "nothing says which Ray is installed on the head and workers: ", f'write "ray[default]=={RAY}"',
    ),
    "an image of another Ray and Python": Broken(
        "local", "file_mounts:", "docker: {image: 'rayproject/ray:2.9.0-py39-gpu', container_name: ray}\nfile_mounts:",
        "docker:", "Python 3.9 on the head and workers, and raygen needs 3.11 or newer", "name a newer one, such as ",
    ),
    "an old Python": Broken(
        "local", "|| python3 -m venv", "|| python3.10 -m venv", "python3.10",
        "Python 3.10 on the head and workers, and raygen needs 3.11 or newer", "name a newer one, such as the 3.",
    ),
    "a spot machine for the head": Broken(
        "aws", HEAD_IMAGE, f"{HEAD_IMAGE}          InstanceMarketOptions: {{MarketType: spot}}\n",
        "          InstanceMarketOptions: {MarketType: spot}\n",
        "the head, head, is a spot machine: when AWS takes it away, the cluster and its jobs are gone",
        "leave out its InstanceMarketOptions",
    ),
    "a GPU that a machine has not": Broken(
        "aws", "resources: {CPU: 8, memory: 24_000_000_000}", "resources: {CPU: 8, GPU: 1}", "resources: {CPU: 8, GPU: 1}",
        "cpu.resources has 1 GPU, and a machine m7i.2xlarge has none", "leave GPU out, or choose a machine that has some",
    ),
    "a GPU in small letters": Broken(
        "aws", "resources: {CPU: 8, memory: 24_000_000_000}", "resources: {CPU: 8, gpu: 0}", "gpu: 0",
        "cpu.resources.gpu is nothing that Ray knows", "write GPU",
    ),
    "memory without a unit": Broken(
        "aws", "resources: {CPU: 8, memory: 24_000_000_000}", "resources: {CPU: 8, memory: 24}", "memory: 24}",
        "cpu.resources.memory is 24 bytes", "memory is in bytes: 24 GiB are 25_769_803_776",
    ),
    "a wrong label": Broken(
        "aws", "_000}\n        labels: {ray.io/market-type: spot}", "_000}\n        labels: {ray.io/market-type: on-demand}",
        "labels: {ray.io/market-type: on-demand}\n        node_config: &spot",
        "cpu is labelled ray.io/market-type: on-demand, and is bought spot", "label it spot",
    ),
    "no image": Broken(
        "aws", HEAD_IMAGE, "", "node_config: &machine",
        "head has no ImageId: Ray would take Ubuntu 18.04", "name an image of your region with Python 3.11 or newer",
    ),
    "a key without a name": Broken(
        "aws", "ssh_user: ubuntu ", "ssh_user: ubuntu\n      ssh_private_key: ~/.ssh/id_ed25519 #", "node_config: &machine",
        "auth has a key of yours, and head.node_config no KeyName", "add what AWS calls the key, or leave ",
    ),
    "no boto3": Broken(
        "aws", "pip install --quiet boto3", "true", "head_setup_commands:",
        "nothing installs boto3 on the head", "add: pip install boto3",
    ),
    "a key twice": Broken(
        "local", "\nsetup_commands:\n", "\nsetup_commands: []\nsetup_commands:\n", "setup_commands:\n  - chmod",
        "setup_commands is there twice, first in line ", "the last one would count: leave one out",
    ),
    "both blocks": Broken(
        "local", "<<: *local ", "<<: *aws\n<<: *local ", "<<: *local  ",
        "<< is there twice, first in line ", "keep one of the two lines",
    ),
    "neither block": Broken(
        "local", "<<: *local ", "# ", "# A Ray cluster for raygen",
        "provider is missing", "add the line `<<: *local`, or `<<: *aws`",
    ),
    "an unknown cloud": Broken(
        "aws", "type: aws", "type: awz", "type: awz", "provider.type is 'awz'; did you mean 'aws'?", "known: local, aws, ",
    ),
    "one machine of two": Broken(
        "local", " RAY_enable_autoscaler_v2=0", "", "- >-\n        ulimit",
        f"the newer autoscaler of Ray {RAY} starts one of 2 machines of your own", "write RAY_enable_autoscaler_v2=0 ",
    ),
    "a machine twice": Broken(
        "local", "10.0.0.2, 10.0.0.3", "10.0.0.2, 10.0.0.1", "10.0.0.2, 10.0.0.1",
        "provider.worker_ips has 10.0.0.1, which line ", "the head works, too, without being named twice",
    ),
    "fewer machines than that": Broken(
        "local", "<<: *local ", "min_workers: 3\n<<: *local ", "min_workers: 3",
        "min_workers is 3, and provider.worker_ips has 2", "leave it out: then it is all of them",
    ),
    "types of machines of one's own": Broken(
        "local", "<<: *local ", "available_node_types: {}\n<<: *local ", "available_node_types: {}",
        "available_node_types does not go with machines of your own", "leave it out; ",
    ),
    "a worker without the token": Broken(
        "local", WORKER_START, WORKER_START.replace("RAY_AUTH_MODE=token ", ""), "ray start --address",
        "ray start without RAY_AUTH_MODE=token, which the other machines start with", "write RAY_AUTH_MODE=token before ",
    ),
    "a token that stays here": Broken(
        "local", "  ~/.ray/auth_token: ~/.ray/auth_token\nsetup_commands:\n  - chmod 600 ~/.ray/auth_token",
        "setup_commands:", "- >-\n        ulimit", "RAY_AUTH_MODE=token, and nothing brings the token ",
        "add to file_mounts: ~/.ray/auth_token: ~/.ray/auth_token",
    ),
    "a head without workers": Broken(
        "aws", "--port=6379 --autoscaling-config=~/ray_bootstrap_config.yaml\n\n", "--port=6379\n\n",
        "- >-\n        ulimit -n 65536; RAY_AUTH_MODE=token\n",
        "ray start has no --autoscaling-config: there would be no workers",
        "add --autoscaling-config=~/ray_bootstrap_config.yaml",
    ),
    "what only Ray sees": Broken(
        "local", "file_mounts:", "docker: {image: 'my/raygen:1'}\nfile_mounts:", "    provider:\n      type: local",
        "Ray refuses the file: Must provide a container & image name", "mend that; ray up would say the same",
    ),
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN.values(), ids=list(BROKEN))
def test_every_mistake_is_told_with_its_line(check: Check, folder: Path, broken: Broken) -> None:
    before = filled(broken.block)
    assert broken.old in before
    if "0.0.9" in broken.new:
        (folder / "dist" / broken.new).write_bytes(b"")
    text = before.replace(broken.old, broken.new)
    done = check(text)
    assert done.exit_code == 2, done.output
    line = text[: text.index(broken.at) + broken.at.startswith("\n")].count("\n") + 1
    start = f"ray-config.yaml:{line}: {broken.what}"
    mistakes = told(done)
    assert any(what.startswith(start) and hint.startswith(broken.hint) for what, hint in mistakes), (start, mistakes)


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("cluster_name: a\nprovider: {type: local\n", ":3: is not YAML: ", "mend the syntax there"),
        ("cluster_name: a\n\tprovider: b\n", ":2: is not YAML: ", "mend the syntax there"),
        ("- a\n", ":1: has no keys", "cluster_name and provider are needed at least"),
        ("", ":1: has no keys", "cluster_name and provider are needed at least"),
        ("cluster_name: 2026-99-99\n", ": has a value that cannot be read ", "put text in quotes"),
        ("<<: *aws\n", ":1: is not YAML: found undefined alias", "mend the syntax there"),
    ],
)
def test_what_is_not_yaml(check: Check, text: str, what: str, hint: str) -> None:
    done = check(text)
    assert done.exit_code == 2
    ((said, todo),) = told(done)
    assert said.startswith(f"ray-config.yaml{what}")
    assert todo == hint


def test_a_file_that_is_not_there(check: Check) -> None:
    done = check("", "clusters/lab.yaml")
    assert done.exit_code == 2
    assert told(done)[0][0] == "clusters/lab.yaml: there is no such file"


def test_whatever_a_file_says_is_answered(folder: Path) -> None:
    """By mistakes, not by errors, whatever is where something else should be."""
    document = yaml.safe_load(filled("aws"))
    types: dict[str, Any] = document["available_node_types"]
    for wrong in (None, [1], {"a": {"b": 1}}):
        broken = [{**document, key: wrong} for key in document if key != "metadata"]
        broken += [
            {**document, "available_node_types": {**types, "cpu": {**types["cpu"], key: wrong}}}
            for key in ("node_config", "resources", "labels", "min_workers")
        ]
        for text in broken:
            config = ClusterConfig("ray-config.yaml", text)
            assert all(mistake.what and mistake.hint for mistake in mistakes(config))
            told = explain.filled(config)
            assert len(list(explain.facts(told.node_types()))) == len(told.node_types())
            assert explain.totals(told)["machine"] is not None
            assert all(explain.costs(told))
            assert {"raygen", "Ray", "Python", "access"} <= set(dict(explain.setup(config)))


def test_a_key_that_ssh_does_not_take(check: Check, folder: Path) -> None:
    key = folder / "home" / ".ssh" / "id_ed25519"
    key.chmod(0o644)
    what = "auth.ssh_private_key: others may read ~/.ssh/id_ed25519, and ssh does not use such a key"
    assert told(check(filled("local"))) == [(f"ray-config.yaml:19: {what}", "chmod 600 ~/.ssh/id_ed25519")]
    key.unlink()
    assert told(check(filled("local")))[0][0] == "ray-config.yaml:19: auth.ssh_private_key: ~/.ssh/id_ed25519 is not there"


def test_several_mistakes_are_all_told_by_line(check: Check) -> None:
    text = filled("aws").replace("GPU: 1", "GPU: one").replace("head_node_type: head", "head_node_type: tail")
    lines = [int(what.split(":")[1]) for what, _ in told(check(text))]
    assert len(lines) == 3
    assert lines == sorted(lines)


def test_a_wheel_by_a_pattern_is_one_file(check: Check, folder: Path) -> None:
    text = (
        filled("local").replace(f"  ~/{WHEEL}: ./dist/{WHEEL}", "  ~/wheels: ./dist").replace(f"~/{WHEEL}", "~/wheels/*.whl")
    )
    text = text.replace(f"$HOME/{WHEEL}", "$HOME/wheels/raygen-*.whl")
    done = check(text)
    assert done.stderr == ""
    assert f"raygen     from dist/{WHEEL} (here: {RAYGEN}, the same code)" in done.stdout
    (folder / "dist" / "raygen-0.0.9-py3-none-any.whl").touch()
    assert told(check(text))[0][0].endswith(": raygen-*.whl is 2 files in dist, and should be one")


def test_a_wheel_of_other_code_is_told(check: Check, folder: Path) -> None:
    with zipfile.ZipFile(folder / "dist" / WHEEL, "a") as wheel:
        wheel.writestr("raygen/more.py", "")
    assert f"(here: {RAYGEN}, but other code; raygen cluster wheel makes it anew)" in check(filled("local")).stdout
    (folder / "dist" / WHEEL).write_bytes(b"no zip file")
    assert told(check(filled("local")))[0][0].endswith(f": dist/{WHEEL} is no wheel of raygen")


def test_the_wheel_that_a_cluster_gets(folder: Path) -> None:
    done = CliRunner().invoke(app, ["cluster", "wheel", "wheels"])
    assert done.stdout == f"wheel      wheels/{WHEEL}\n"
    assert (folder / "wheels" / WHEEL).read_bytes() == (folder / "dist" / WHEEL).read_bytes()


def test_what_a_cluster_of_aws_is(check: Check) -> None:
    lines = [" ".join(line.split()) for line in check(filled("aws")).stdout.splitlines()]
    assert lines == [
        "cluster raygen, aws us-west-2: ray-config.yaml",
        "type machine CPUs GPUs memory at least at most bought",
        "head m7i.xlarge 0 0 as found 1 1 on-demand",
        "cpu m7i.2xlarge 8 0 22.4 GiB 0 16 spot",
        "gpu-spot g5.2xlarge 8 1 A10G 22.4 GiB 0 8 spot",
        "gpu g5.2xlarge 8 1 A10G 22.4 GiB 0 4 on-demand",
        "at least 1 machine, 0 CPUs, 0 GPUs",
        "at most 17 machines, 128 CPUs, 12 GPUs",
        "costs always on, until raygen cluster down: m7i.xlarge, on-demand (the head)",
        "while there is work, and 10 minutes more: up to 16 × m7i.2xlarge, spot",
        "while there is work, and 10 minutes more: up to 8 × g5.2xlarge, with 1 GPU, spot",
        "while there is work, and 10 minutes more: up to 4 × g5.2xlarge, with 1 GPU, on-demand",
        "disks: 100 GB at least, 1,700 GB at most",
        f"raygen from dist/{WHEEL} (here: {RAYGEN}, the same code)",
        f"Ray {RAY} (here: {RAY})",
        f"Python whichever python3 is there (here: 3.{sys.version_info.minor})",
        "access with the token only; the dashboard by: ray dashboard ray-config.yaml",
    ]


def test_what_makes_a_cluster_expensive(check: Check) -> None:
    text = filled("aws").replace("      cache_stopped_nodes: false", "      # ")
    text = text.replace(
        "        max_workers: 4\n", "        max_workers: 4\n        min_workers: 2\n        idle_timeout_s: 30\n"
    )
    text = text.replace("RAY_AUTH_MODE=token ", "").replace("RAY_AUTH_MODE=token\n", "\n")
    costs = check(text).stdout.splitlines()
    assert (
        "           always on, until raygen cluster down: 2 × g5.2xlarge, with 1 GPU, on-demand (min_workers of gpu)"
        in costs
    )
    assert "           while there is work, and 30 seconds more: up to 2 × g5.2xlarge, with 1 GPU, on-demand" in costs
    assert "           2 GPUs are on always, with or without work" in costs
    assert any("their disks cost on, after down, too" in line for line in costs)
    assert "access     whoever reaches its ports can run code there: start Ray with RAY_AUTH_MODE=token" in costs


def test_what_machines_of_ones_own_are(check: Check) -> None:
    done = check(filled("local").replace("\n<<: *local", "\nmin_workers: 0\n<<: *local"))
    assert "at least   1 machine\nat most    3 machines\n" in done.stdout
    assert "Ray runs on 3 of them, on 1 always, on the others while there is work" in done.stdout
    assert done.stdout.count("as found") == 6


@pytest.fixture
def spec(folder: Path) -> str:
    """One that a cluster can run."""
    document = {
        "name": "pets",
        "storage": "s3://bucket/prefix",
        "dataset": {"path": "s3://bucket/data", "schema": {"a": {"kind": "category"}, "b": {"kind": "number"}}},
        "generator": {"family": "gan"},
        "train": {"workers": 4, "batch_size": 64},
        "resources": {"train": {"accelerator": "A10G"}, "serve": {"labels": {"ray.io/market-type": "on-demand"}}},
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(document))
    return str(folder / "spec.yaml")


def test_what_a_spec_would_use(check: Check, spec: str) -> None:
    done = check(filled("aws"), "--spec", spec)
    assert done.exit_code == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "storage s3://bucket/prefix, for all machines" in lines
    assert "train 4 × 1 CPU and 1 GPU (A10G) 0 12" in lines
    assert "serve 1 CPU on ray.io/market-type: on-demand 0 32" in lines


def test_what_a_spec_would_never_get(check: Check, spec: str) -> None:
    done = check(filled("aws"), "--spec", spec, "--set", "train.workers=16", "--set", "storage=./store")
    assert done.exit_code == 2
    (storage, _), (room, _) = told(done)
    assert storage == "storage: ./store is a place of one machine, and the cluster may grow to 17"
    assert room.startswith("train asks for 1 CPU and 1 GPU (A10G) for each of 16 workers; the cluster has 1 node")
    assert "never" in done.stdout


def test_a_bucket_that_workers_may_not_use(check: Check, spec: str) -> None:
    text = filled("aws").replace("          IamInstanceProfile: {Name: raygen-worker}\n\n", "\n")
    text = "\n".join(line for line in text.split("\n") if "IamInstanceProfile" not in line)
    assert check(text).exit_code == 0
    mistakes = told(check(text, "--spec", spec))
    assert [what.split(": ", 1)[1].split()[0] for what, _ in mistakes] == ["cpu", "gpu-spot", "gpu"]
    assert "has no IamInstanceProfile: its machines may not read or write s3://" in mistakes[0][0]


def test_machines_of_ones_own_and_a_spec(check: Check, spec: str) -> None:
    done = check(filled("local"), "--spec", spec, "--set", "storage=file:///mnt/store")
    assert done.exit_code == 0, done.stderr
    assert (
        "storage    file:///mnt/store, which every machine has to mount; a job begins by looking whether all do"
        in done.stdout
    )
    assert done.stdout.count("known when it is up") == 3  # train, evaluate and serve


def test_an_override_needs_a_spec(check: Check) -> None:
    done = check(filled("local"), "--set", "train.epochs=3")
    assert told(done) == [("--set overrides a value of a spec, and none is given", "give it with --spec SPEC")]


@pytest.mark.parametrize("command", ["up", "down"])
def test_nobody_is_asked_where_nobody_is(check: Check, command: str) -> None:
    assert check(filled("local")).exit_code == 0
    done = CliRunner().invoke(app, ["cluster", command])
    assert told(done) == [("this asks first, and there is no terminal to answer on", "add --yes")]


def test_what_is_mistaken_is_not_started(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raygen.cluster.launcher.run", lambda *arguments: pytest.fail("it was"))
    assert check(chosen("local")).exit_code == 2
    done = CliRunner().invoke(app, ["cluster", "up", "--yes"])
    assert done.exit_code == 2
    assert [what for what, _ in told(done)] == [
        f"ray-config.yaml:{line}: {name}.example.internal is a placeholder"
        for line, name in ((15, "head"), (16, "worker-1"), (16, "worker-2"))
    ]


@pytest.mark.parametrize("command", ["up", "down"])
def test_options_of_rays_come_after_the_file(check: Check, command: str) -> None:
    done = CliRunner().invoke(app, ["cluster", command, "--yes", "--no-restart"])
    assert done.exit_code == 2
    hint = f"raygen cluster {command} ray-config.yaml --no-restart"
    assert told(done) == [("--no-restart: options of Ray's come after the file", hint)]


def test_rays_own_command_has_the_last_word(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its exit code, and the options that are its own."""
    script = "import sys; sys.exit(7 if sys.argv[1:] == ['up', 'ray-config.yaml', '--yes', '--no-restart'] else 8)"
    monkeypatch.setattr("raygen.cluster.launcher._RAY", (sys.executable, "-c", script))
    assert check(filled("local")).exit_code == 0
    assert CliRunner().invoke(app, ["cluster", "up", "ray-config.yaml", "--yes", "--no-restart"]).exit_code == 7
    assert CliRunner().invoke(app, ["cluster", "down", "--yes"]).exit_code == 8


def test_what_ray_needs_here_for_a_cloud(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("raygen.cluster.launcher.run", lambda *arguments: pytest.fail("it was started"))
    assert check(filled("aws")).exit_code == 0
    done = CliRunner().invoke(app, ["cluster", "up", "--yes"])
    assert told(done) == [("ray up needs the package boto3 for aws", "pip install boto3")]
