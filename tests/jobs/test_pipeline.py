"""The whole job on real digits, as a user runs it from Python, and what it leaves behind."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

import raygen
from raygen.cli import app
from raygen.jobs import evaluate_images
from raygen.metrics import usefulness_images

pytestmark = pytest.mark.usefixtures("ray")


def files(folder: Path) -> dict[str, str]:
    """Every file below a folder and the SHA-256 of its bytes."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def root(spec: dict[str, Any]) -> Path:
    return Path(spec["storage"]) / spec["name"]


@pytest.fixture(scope="module")
def made(dataset: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One finished job that the tests below look at."""
    spec = {
        "name": "made",
        "storage": str(tmp_path_factory.mktemp("store")),
        "dataset": dataset,
        "generator": {"family": "autoencoder", "condition": "label", "width": 8},
        "train": {"epochs": 25, "batch_size": 16},
        "evaluate": {"seeds": 2},
        "gate": [{"metric": "label_agreement", "min": 0.3}],
        "augment": {"rows": 1003, "balance": "label", "seed": 7, "shard_rows": 130, "workers": 1},
    }
    with pytest.MonkeyPatch.context() as patch:  # downstream models that learn little, in seconds
        patch.setattr(usefulness_images, "LEAST_STEPS", 30)
        patch.setattr(evaluate_images, "EPOCHS", 1)
        raygen.run(spec)
    return spec


def test_every_reader_reads_exactly_the_rows_that_were_asked_for(made: dict[str, Any]) -> None:
    data = root(made) / "dataset" / "data"
    table = pq.read_table(data)
    assert table["_row"].to_pylist() == list(range(1003))
    counts = pd.read_parquet(data)["label"].value_counts()
    assert sorted(counts) == [100] * 7 + [101] * 3
    query = f"select count(*), count(distinct _row), min(octet_length(image.bytes)) from '{data}/*.parquet'"
    rows, distinct, least = duckdb.sql(query).fetchall()[0]
    assert (rows, distinct) == (1003, 1003)
    assert least > 50


def test_the_rows_show_what_they_say(made: dict[str, Any]) -> None:
    report = json.loads((root(made) / "report" / "report.json").read_text())
    metrics = {metric["name"]: metric for metric in report["metrics"]}
    agreement = metrics["label_agreement"]
    assert agreement["value"] > 0.3  # a generator that ignored the label would score 0.1
    assert agreement["interval"][0] < agreement["value"] < agreement["interval"][1]
    assert agreement["ceiling"] > 0.8
    distance = metrics["frechet_distance"]
    assert 0 <= distance["ceiling"] < distance["value"]
    distance = metrics["kernel_distance"]
    assert abs(distance["ceiling"]) < distance["interval"][0] < distance["value"]
    assert report["verdict"] == "passed"


def test_the_report_says_what_the_rows_are_good_for(made: dict[str, Any]) -> None:
    report = json.loads((root(made) / "report" / "report.json").read_text())
    useful = report["usefulness"]
    assert (useful["target"], useful["seeds"], list(useful["held"])) == ("label", 2, [*map(str, range(10))])
    assert {"real", "synthetic", "real + synthetic", "class weights", "transforms"} == {*useful["scores"]}
    assert useful["rows"]["added"] == 1003
    assert useful["rows"]["real"] + useful["rows"]["held_out"] == 600
    macro = useful["scores"]["real + synthetic"]["macro"]
    metrics = {metric["name"]: metric for metric in report["metrics"]}
    assert (metrics["lift"]["value"], metrics["lift"]["interval"]) == (macro["lift"]["value"], macro["lift"]["interval"])
    assert metrics["synthetic_f1"]["value"] > 0.2  # by chance: 0.1
    assert metrics["synthetic_f1"]["ceiling"] == useful["scores"]["real"]["macro"]["f1"]["value"]
    assert useful["summary"] == report["summary"][1]


def test_the_report_says_whether_training_rows_are_given_away(made: dict[str, Any]) -> None:
    report = json.loads((root(made) / "report" / "report.json").read_text())
    metrics = {metric["name"]: metric for metric in report["metrics"]}
    assert (metrics["identical_share"]["value"], metrics["identical_share"]["ceiling"]) == (0, 0)
    for name, fair in (("membership_auc", 0.5), ("closer_share", 0.5), ("close_share", 0.05), ("close_ratio", 0.05)):
        found = metrics[name]
        assert (found["ceiling"], found["features"], found["better"]) == (fair, "thumbnails", "lower")
        assert 0 < found["interval"][0] < found["value"] < found["interval"][1] < 0.8
    assert report["summary"][2].startswith("privacy: ")


def test_what_passes_is_current_on_its_report(made: dict[str, Any]) -> None:
    (promotion,) = raygen.models(made).promotions()
    (artifact,) = (root(made) / "generators").iterdir()
    assert (promotion.digest, promotion.action, promotion.forced) == (artifact.name, "promote", False)
    evaluated = [root(made) / "report" / "report.json", root(made) / "registry" / "evaluations" / f"{artifact.name}.json"]
    assert [json.loads(file.read_text()) for file in evaluated] == [promotion.evaluation] * 2


def test_the_report_needs_nothing_else(made: dict[str, Any]) -> None:
    page = (root(made) / "report" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons", ""
    )
    assert "1,003 rows" in page


def test_a_row_is_the_same_alone_as_in_the_dataset(made: dict[str, Any]) -> None:
    table = pq.read_table(root(made) / "dataset" / "data")
    (artifact,) = (root(made) / "generators").iterdir()
    generator = raygen.Generator.load(artifact)
    wanted = table.slice(321, 100)
    sampled = generator.sample(range(321, 421), seed=7, condition=wanted["label"])
    assert sampled.equals(wanted.drop_columns(["_row"]))
    assert raygen.sample(made, range(321, 421)).equals(wanted)
    with pytest.raises(raygen.RaygenError, match="is not a range of rows of this dataset"):
        raygen.sample(made, range(1000, 1004))


def test_a_stale_report_is_written_again(made: dict[str, Any]) -> None:
    page = root(made) / "report" / "report.html"
    before = page.read_text()
    page.write_text(re.sub('name="raygen" content="[0-9a-f]*"', 'name="raygen" content=""', before))
    raygen.run(made)
    assert page.read_text() == before


def test_a_dataset_is_not_finished_by_another_version(made: dict[str, Any], tmp_path: Path) -> None:
    spec = {**made, "augment": {**made["augment"], "output": str(tmp_path)}}
    raygen.augment(spec)
    plan = tmp_path / "_raygen" / "plan.json"
    plan.write_text(plan.read_text().replace('"torch": "', '"torch": "1.'))
    raygen.augment(spec)  # it is finished: nothing is made
    (tmp_path / "data" / "part-00003-of-00008.parquet").unlink()
    with pytest.raises(raygen.OutputError, match=r'was begun with other means \(torch "1\.'):
        raygen.augment(spec)


def test_a_footer_tells_where_its_rows_come_from(made: dict[str, Any]) -> None:
    (artifact,) = (root(made) / "generators").iterdir()
    metadata = pq.read_schema(root(made) / "dataset" / "data" / "part-00001-of-00008.parquet").metadata
    assert metadata[b"raygen.generator"].decode() == artifact.name
    assert (metadata[b"raygen.seed"], metadata[b"raygen.rows"]) == (b"7", b"130-260")
    assert json.loads(metadata[b"huggingface"])["info"]["features"]["image"] == {"_type": "Image"}


def test_running_again_changes_nothing(made: dict[str, Any]) -> None:
    before = {file: file.stat().st_mtime_ns for file in root(made).rglob("*") if file.is_file()}
    raygen.run(made)
    assert {file: file.stat().st_mtime_ns for file in root(made).rglob("*") if file.is_file()} == before


def test_a_lost_part_is_made_again(made: dict[str, Any]) -> None:
    data = root(made) / "dataset" / "data"
    before = files(data)
    (data / "part-00003-of-00008.parquet").unlink()
    raygen.run(made)
    assert files(data) == before


def test_the_number_of_workers_changes_no_byte(made: dict[str, Any], tmp_path: Path) -> None:
    expected = files(root(made) / "dataset" / "data")
    for workers in (2, 4):
        output = tmp_path / str(workers)
        raygen.augment({**made, "augment": {**made["augment"], "workers": workers, "output": str(output)}})
        assert files(output / "data") == expected


def test_another_job_is_refused_the_output(made: dict[str, Any]) -> None:
    before = files(root(made))
    with pytest.raises(raygen.OutputError, match=r"belongs to another job.*seed 7 there, 8 here"):
        raygen.augment({**made, "augment": {**made["augment"], "seed": 8}})
    with pytest.raises(raygen.OutputError, match="belongs to another job"):  # found before training, not after
        raygen.run({**made, "train": {**made["train"], "seed": 1}})
    assert files(root(made)) == before


def test_a_failed_gate_stops_before_anything_is_published(small: dict[str, Any], tmp_path: Path) -> None:
    """Through the command line: what failed by how much, and nothing that this generator could be reached by."""
    file = tmp_path / "spec.yaml"
    rules = [{"metric": "label_agreement", "at_least": 0.99, "of": "ceiling"}, {"metric": "recall", "min": 0}]
    file.write_text(yaml.safe_dump({**small, "gate": rules}))
    for job in ("run", "run", "evaluate", "augment"):  # nor later
        said = CliRunner().invoke(app, [job, str(file)], env={"COLUMNS": "200"})
        assert said.exit_code == 3, said.output
        *_, head, missed, what, hint = said.stderr.splitlines()
        assert " ".join(head.split()) == "metric needed found 95 % missed by"
        shown = " ".join(missed.split())
        assert re.fullmatch(r"label_agreement low end ≥ 0.99 × ceiling = 0\.\d+ 0\.\d+ 0\.\d+ to 0\.\d+ 0\.\d+", shown)
        assert re.match(r"error: the gate failed: label_agreement is 0\.\d+ \(0\.\d+ at worst\), the least is 0", what)
        assert "recall" not in what
        assert hint.startswith("  nothing was published")
    report = json.loads((root(small) / "report" / "report.json").read_text())
    assert (report["verdict"], [rule["passed"] for rule in report["gate"]]) == ("failed", [False, True])
    assert not (root(small) / "dataset").exists()
    assert raygen.models(small).current() is None
    digest = report["generator"]
    assert CliRunner().invoke(app, ["models", "promote", str(file), digest]).exit_code == 3
    assert raygen.models(small).current() is None
    assert CliRunner().invoke(app, ["models", "promote", str(file), digest, "--force"]).exit_code == 0
    (forced,) = json.loads(CliRunner().invoke(app, ["models", "list", str(file), "--history", "--json"]).stdout)
    assert (forced["digest"], forced["forced"], forced["evaluation"]["verdict"]) == (digest, True, "failed")


def test_without_labels_there_is_no_label_agreement_and_the_gate_fails_closed(small: dict[str, Any]) -> None:
    dataset = {**small["dataset"], "schema": {"image": small["dataset"]["schema"]["image"]}}
    spec = {**small, "dataset": dataset, "generator": {"family": "autoencoder", "width": 8}}
    spec |= {"augment": {"rows": 100, "workers": 1}, "evaluate": {"usefulness": True}}
    with pytest.raises(raygen.GateError, match="classifier_score was not computed: the data has no category column"):
        raygen.run({**spec, "gate": [{"metric": "classifier_score", "min": 0.1}]})
    raygen.run(spec)
    report = json.loads((root(spec) / "report" / "report.json").read_text())
    assert (report["features"], report["verdict"]) == ("pixels", "no gate")
    assert report["usefulness"] == {
        "target": None,
        "because": "the data has no category column: add one that a model could tell from the others",
    }
    assert report["summary"][0] == "no gate was set"
    table = pq.read_table(root(spec) / "dataset" / "data")
    assert table.column_names == ["image", "_row"]
    assert len({row["bytes"] for row in table["image"].to_pylist()}) > 90  # not one picture a hundred times


def test_tensors_come_back_as_tensors(small: dict[str, Any], digits: Path, tmp_path: Path) -> None:
    import pyarrow as pa

    from raygen.datasets import images
    from raygen.spec import ImageField

    table = pq.read_table(digits)
    pixels = images.decode(table["image"].combine_chunks(), ImageField(height=28, width=28, channels=1), str)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(pixels[:, 0]))
    path = tmp_path / "tensors.parquet"
    pq.write_table(pa.table({"image": tensors, "label": table["label"]}), path)
    spec = {**small, "dataset": {**small["dataset"], "path": str(path)}, "augment": {"rows": 50, "workers": 1}}
    raygen.train(spec)
    raygen.augment(spec)
    written = pq.read_table(root(spec) / "dataset" / "data")
    assert written.schema.field("image").type == tensors.type
