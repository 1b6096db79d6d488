"""The command line as people meet it: what it offers, what it refuses in two lines, and what it leaves alone."""

import io
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from raygen.load import load_spec

RAYGEN = Path(sys.executable).with_name("raygen")
COMMANDS = ["init", "run", "train", "evaluate", "augment", "verify", "models", "submit", "jobs"]


def raygen(*arguments: str | Path, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([RAYGEN, *arguments], capture_output=True, text=True, cwd=folder, check=False, timeout=120)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A spec and its data, in a folder of their own; nothing has been done yet."""
    table = pa.table({"image": pa.array([png()] * 40), "label": [row % 2 for row in range(40)]})
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "a.parquet")
    document = {
        "name": "pets",
        "storage": str(tmp_path / "store"),
        "dataset": {
            "path": str(tmp_path / "data"),
            "schema": {
                "image": {"kind": "image", "height": 8, "width": 8, "channels": 1},
                "label": {"kind": "category"},
            },
        },
        "generator": {"family": "vae", "condition": "label"},
        "train": {"epochs": 1, "batch_size": 8},
        "augment": {"rows": 100, "balance": "label"},
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return tmp_path


def everything(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))


def refused(folder: Path, *arguments: str | Path) -> str:
    """What is said, in two lines, of a mistake that the user can mend; nothing is left behind."""
    before = everything(folder)
    done = raygen(*arguments, folder=folder)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("  ")
    assert lines[1].strip()
    assert "Traceback" not in done.stderr
    assert everything(folder) == before
    return done.stderr


def test_help_lists_the_commands() -> None:
    done = raygen("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for command in COMMANDS:
        assert f" {command} " in done.stdout
    assert "--version" in done.stdout


@pytest.mark.parametrize("command", ["run", "train", "evaluate", "augment"])
def test_every_job_has_the_same_options(command: str) -> None:
    done = raygen(command, "--help")
    assert done.returncode == 0
    for option in ("SPEC", "--set", "--dry-run", "--verbose", "--debug"):
        assert option in done.stdout


def test_jobs_that_write_a_dataset_can_replace_one() -> None:
    for command in ("run", "train", "evaluate", "augment"):
        offered = "--overwrite" in raygen(command, "--help").stdout
        assert offered is (command in ("run", "augment"))


def test_what_verify_offers() -> None:
    done = raygen("verify", "--help")
    assert done.returncode == 0
    for option in ("OUT", "--rows", "--all", "--generator", "--verbose", "--debug"):
        assert option in done.stdout
    assert "--set" not in done.stdout


def test_version() -> None:
    done = raygen("--version")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, version("raygen"), "")


def test_an_unknown_command() -> None:
    done = raygen("trian")
    assert done.returncode == 2
    assert "No such command 'trian'" in done.stderr
    assert "Traceback" not in done.stderr


HEAVY = """
import sys
from raygen.cli import app
try:
    app({arguments!r})
except SystemExit as done:
    assert done.code in (0, 2), done.code
print("imported:", *sorted({{"torch", "ray"}} & set(sys.modules)))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["run", "nowhere.yaml"], ["submit", "--help"], ["jobs", "--help"]])
def test_what_needs_neither_torch_nor_ray_imports_neither(arguments: list[str]) -> None:
    code = HEAVY.format(arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "imported:", done.stderr


def test_a_spec_that_is_not_there(project: Path) -> None:
    assert "nowhere.yaml: there is no such spec" in refused(project, "run", "nowhere.yaml")


def test_a_typo_in_the_spec(project: Path) -> None:
    spec = project / "spec.yaml"
    spec.write_text(spec.read_text().replace("epochs", "epoch"))
    said = refused(project, "run", "spec.yaml")
    line = next(number for number, text in enumerate(spec.read_text().splitlines(), 1) if "epoch" in text)
    assert f"spec.yaml:{line}: unknown key train.epoch; did you mean 'epochs'?" in said
    assert "known keys of train: " in said


def test_a_typo_in_an_override(project: Path) -> None:
    said = refused(project, "train", "spec.yaml", "--set", "train.epochs=2", "--set", "train.sed=3")
    assert "--set train.sed: unknown key train.sed; did you mean 'seed'?" in said


def test_a_dataset_that_is_not_there(project: Path) -> None:
    said = refused(project, "run", "spec.yaml", "--set", "dataset.path=nowhere.parquet")
    assert "nowhere.parquet: there is no such file or folder" in said


def test_a_dataset_without_the_column(project: Path) -> None:
    said = refused(project, "run", "spec.yaml", "--set", "dataset.schema.lable={kind: category}")
    assert "there is no column 'lable'; did you mean 'label'?" in said


def test_a_dataset_that_is_no_parquet(project: Path) -> None:
    (project / "data" / "a.parquet").write_bytes(b"PAR1 not really PAR1")
    assert "a.parquet: is not a readable Parquet file" in refused(project, "train", "spec.yaml")


def test_a_job_before_its_time(project: Path) -> None:
    assert "no generator has been trained for this spec and data" in refused(project, "augment", "spec.yaml")


@pytest.mark.parametrize("key", ["storage", "augment.output"])
def test_an_output_that_would_be_read_as_data(project: Path, key: str) -> None:
    """Before anything is written there, and not only when it is there."""
    arguments = ["train", "spec.yaml", "--set", "dataset.path=.", "--set", "storage=_store", "--set", f"{key}=data/out"]
    said = refused(project, *arguments)
    assert f"error: {key}: {project}/data/out" in said
    assert "is in dataset.path, ., and would be read as data" in said


def test_a_spec_for_data_all_around(project: Path) -> None:
    assert raygen("init", ".", folder=project / "data").returncode == 0
    (spec,) = (project / "data").glob("*.yaml")
    assert load_spec(spec).storage == "./_store"
    assert raygen("train", spec, "--dry-run", folder=project / "data").returncode == 0


def test_a_storage_that_is_no_folder(project: Path) -> None:
    (project / "store").write_text("a file")
    assert "store" in refused(project, "run", "spec.yaml")


def test_debug_shows_the_traceback(project: Path) -> None:
    done = raygen("run", "nowhere.yaml", "--debug", folder=project)
    assert done.returncode == 2
    assert "Traceback (most recent call last)" in done.stderr
    assert "SpecError" in done.stderr
    assert done.stderr.splitlines()[-2].startswith("error: nowhere.yaml: there is no such spec")


def test_dry_run_prints_the_resolved_spec_and_does_nothing(project: Path) -> None:
    before = everything(project)
    done = raygen("run", "spec.yaml", "--set", "train.epochs=3", "--dry-run", folder=project)
    assert (done.returncode, done.stderr) == (0, "")
    assert everything(project) == before
    printed = project / "printed.yaml"
    printed.write_text(done.stdout)
    assert load_spec(printed) == load_spec(project / "spec.yaml", ["train.epochs=3"])
    for said in (
        "40 rows in 1 files",
        "3 epochs",
        "100 rows, in shards of at most 5,000 rows",
        str(project / "store" / "pets"),
    ):
        assert said in done.stdout


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("augment={balance: label}", "as many rows as bring each label up to the largest class, in shards of at most 5,000"),
        ("augment={balance: label, to: 2000}", "as many rows as bring each label up to 2,000 rows, in shards"),
        ("augment={classes: {0: 1000, 1: 500}, include_real: true}", "1,500 rows beside the real ones, in shards"),
        ("augment={variants: 3}", "3 variants of each of 40 rows, in shards"),
        ("augment={variants: 1, include_real: true}", "1 variants of each of 40 rows beside the real ones"),
    ],
)
def test_dry_run_says_what_would_be_made(project: Path, override: str, said: str) -> None:
    done = raygen("augment", "spec.yaml", "--set", override, "--dry-run", folder=project)
    assert (done.returncode, done.stderr) == (0, "")
    assert said in done.stdout
    assert not (project / "store").exists()


def test_verify_of_what_is_no_dataset(project: Path) -> None:
    for place in ("data", "nowhere"):
        said = refused(project, "verify", place)
        assert f"{project}/{place}: there is no committed dataset" in said
    (project / "data" / "_raygen").mkdir()
    (project / "data" / "_raygen" / "manifest.json").write_text("{}")
    assert "manifest.json: is not a manifest any more" in refused(project, "verify", "data")
    assert "Invalid value for '--rows'" in raygen("verify", "data", "--rows", "-1", folder=project).stderr


def test_verify_says_what_differs_and_exits_with_1(project: Path) -> None:
    """A dataset of files only: with ``--rows 0`` nobody needs its generator."""
    import hashlib

    from raygen.datasets.commit import Output, Part
    from raygen.datasets.storage import Folder

    class Shard:
        number, file = 0, "part-00000-of-00001.parquet"

    part: Part = Shard()
    output = Output(Folder(project / "out"))
    output.claim({"seed": 7})
    output.write_part(part, [pa.table({"label": [1, 2, 3]})], {})
    output.commit({"seed": 7}, [(part, 3)], {}, [])
    size = (project / "out" / "data" / part.file).stat().st_size
    done = raygen("verify", "out", "--rows", "0", folder=project)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"read       1 files, 3 rows, {size:,} bytes",
        "made again 0 rows, all the same",
        "verified",
    ]
    file = project / "out" / "data" / part.file
    data = bytearray(file.read_bytes())
    digests = [hashlib.sha256(data).hexdigest()[:12]]
    data[20] ^= 1
    digests.append(hashlib.sha256(data).hexdigest()[:12])
    file.write_bytes(data)
    done = raygen("verify", "out", "--rows", "0", folder=project)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == f"data/{part.file}: has SHA-256 {digests[1]}…, {digests[0]}… was committed"
    assert "verified" not in done.stdout
    assert (done.stderr, "Traceback" in done.stdout) == ("", False)
    done = raygen("verify", "out", folder=project)  # whose plan names no generator
    assert done.returncode == 2
    assert "plan.json: is not a plan of augment's any more" in done.stderr


def test_init_writes_a_spec_that_loads_and_never_over_another(project: Path) -> None:
    done = raygen("init", "data", "--output", "first.yaml", folder=project)
    assert (done.returncode, done.stderr) == (0, "")
    assert "raygen run first.yaml" in done.stdout
    assert load_spec(project / "first.yaml").generator.condition == "label"
    text = (project / "first.yaml").read_text()
    assert "first.yaml: is there already" in refused(project, "init", "data", "--output", "first.yaml")
    assert (project / "first.yaml").read_text() == text
    assert "there is no such file" in refused(project, "init", "nowhere", "--output", "second.yaml")
