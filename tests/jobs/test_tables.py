"""Tables from end to end, as a user runs them: learnt, judged, and written with conditions, completed and varied."""

import datetime
import json
import re
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import raygen
from raygen.cli import app
from raygen.errors import DataError, RaygenError, SpecError
from raygen.generators.generator import Generator
from raygen.jobs import evaluate_tables
from raygen.jobs.project import Project
from raygen.load import load_spec

pytestmark = pytest.mark.usefixtures("ray")

KINDS = {
    "id": "identifier",
    "age": "number",
    "wage": "number",
    "joined": "datetime",
    "city": "category",
    "senior": "category",
    "unit": "constant",
}


def people(rows: int) -> pa.Table:
    """Who is older earns more and is senior; a city has its own wages; some of it is not known."""
    random = np.random.default_rng(5)
    age = random.integers(18, 70, rows)
    city = random.choice(["Rome", "Oslo", "Kyiv"], rows, p=[0.5, 0.3, 0.2])
    wage = np.round(900 + 40 * age + 1500 * (city == "Oslo") + random.normal(0, 80, rows), 2)
    known = random.random(rows) > 0.1
    days = 15_000 - 100 * age + random.integers(0, 50, rows)
    return pa.table(
        {
            "id": [f"p-{n:06d}" for n in random.permutation(rows)],
            "age": pa.array(age, pa.int16()),
            "wage": pa.array(
                [Decimal(f"{x:.2f}") if k else None for x, k in zip(wage, known, strict=True)], pa.decimal128(9, 2)
            ),
            "joined": pa.array(days, pa.int32()).cast(pa.date32()),
            "city": pa.array(city).dictionary_encode(),
            "senior": pa.array(age >= 45),
            "unit": pa.array(["EUR"] * rows),
        }
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    table = people(2000)
    pq.write_table(table.slice(0, 1500), folder / "a.parquet", row_group_size=400)
    pq.write_table(table.slice(1500), folder / "b.parquet")
    return folder


@pytest.fixture(scope="module")
def spec(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One finished job, whose generator all tests share."""
    made = {
        "name": "people",
        "storage": str(tmp_path_factory.mktemp("store")),
        "dataset": {"path": str(source), "schema": {name: {"kind": kind} for name, kind in KINDS.items()}},
        "generator": {"family": "autoregressive", "condition": "city", "width": 128, "features": 32},
        "train": {"epochs": 90, "batch_size": 100, "schedule": "cosine", "watch": {"every": 45, "rows": 100}},
        "evaluate": {"target": "senior", "seeds": 2},
        "gate": [{"metric": "quality", "min": 0.8}, {"metric": "identical_share", "max": 0.05}],
        "augment": {"rows": 1500, "balance": "city", "seed": 7, "shard_rows": 400, "workers": 1},
    }
    raygen.run(made)
    return made


def asked(spec: dict[str, Any], tmp_path: Path, **augment: Any) -> dict[str, Any]:
    return {**spec, "gate": [], "augment": {"seed": 7, "workers": 1, "output": str(tmp_path / "out"), **augment}}


def root(spec: dict[str, Any]) -> Path:
    return Path(spec["storage"]) / spec["name"]


def written(spec: dict[str, Any]) -> pa.Table:
    raygen.augment(spec)
    return pq.read_table(Path(spec["augment"]["output"]) / "data")


def test_rows_are_of_the_types_of_the_source_and_as_many_of_each_class(spec: dict[str, Any], source: Path) -> None:
    data = root(spec) / "dataset" / "data"
    table = pq.read_table(data)
    assert table["_row"].to_pylist() == list(range(1500))
    real = pq.read_table(source)
    assert table.drop_columns(["_row"]).schema.remove_metadata().equals(real.schema.remove_metadata())
    assert sorted(pd.read_parquet(data)["city"].value_counts()) == [500, 500, 500]
    types = [duckdb.sql(f"describe select * from '{where}/*.parquet'").fetchall() for where in (data, source)]
    assert [column[:2] for column in types[0]][:-1] == [column[:2] for column in types[1]]
    assert len(set(table["id"].to_pylist())) == 1500
    assert table["unit"].unique().to_pylist() == ["EUR"]
    assert 0.03 < table["wage"].null_count / 1500 < 0.2


def test_what_goes_together_goes_together(spec: dict[str, Any]) -> None:
    frame = pd.read_parquet(root(spec) / "dataset" / "data")
    wage = frame["wage"].astype(float)
    at_home = frame["city"] == "Rome"
    assert wage[at_home].corr(frame["age"][at_home]) > 0.7
    assert wage[frame["city"] == "Oslo"].mean() > wage[frame["city"] == "Rome"].mean() + 900
    assert (frame["senior"] == (frame["age"] >= 45)).mean() > 0.9


def test_the_report_is_of_a_table(spec: dict[str, Any]) -> None:
    report = json.loads((root(spec) / "report" / "report.json").read_text())
    metrics = {metric["name"]: metric for metric in report["metrics"]}
    assert report["verdict"] == "passed"
    assert 0.8 < metrics["quality"]["value"] <= metrics["quality"]["ceiling"] + 0.05
    assert 0.3 < metrics["discriminator_auc"]["value"] < 0.9
    assert metrics["membership_auc"]["value"] < 0.6
    useful = report["usefulness"]
    assert (useful["target"], useful["held"].keys(), useful["seeds"]) == ("senior", {"False", "True"}, 2)
    assert metrics["synthetic_f1"]["value"] > 0.9  # who is senior can be told by the age
    assert metrics["synthetic_f1"]["ceiling"] == useful["scores"]["real"]["macro"]["f1"]["value"]
    assert metrics["lift"]["interval"] == useful["scores"]["real + synthetic"]["macro"]["lift"]["interval"]
    assert set(useful["over"]) == {"class weights", "SMOTE"}
    assert useful["summary"] == report["summary"][1]
    assert {column["column"] for column in report["by_column"]} == {"age", "wage", "joined", "city", "senior"}
    below = [pair["trend"] - pair["ceiling"] for pair in report["by_pair"]]
    assert below == sorted(below)
    assert ["age", "wage"] in [pair["columns"] for pair in report["by_pair"]]
    page = (root(spec) / "report" / "report.html").read_text()
    assert "data:image/png" not in page
    assert "pair trends" in page
    assert page.count("<figure data-name") == 5 + 2 + 3  # columns, usefulness, curves
    assert re.search(r"<text[^>]*>(19|20)\d\d-\d\d-\d\d<", page)  # when people joined, not the number of a day
    history = [
        json.loads(line) for file in root(spec).glob("train/*/metrics.jsonl") for line in file.read_text().splitlines()
    ]
    assert [row["epoch"] for row in history if "quality" in row] == [45, 90]
    assert history[-1]["diversity"] > 0.5


def test_of_more_rows_all_are_counted(spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    report = json.loads((root(spec) / "report" / "report.json").read_text())
    monkeypatch.setattr(evaluate_tables, "MOST_ROWS", 300)
    project = Project(load_spec(spec))
    found = evaluate_tables.compare(project, Generator.load(project.trained().uri), None)
    assert report["counted"] is None
    counted, rows = found["counted"], found["rows"]
    assert counted["training"] == counted["synthetic"] == rows["of_training"] > rows["training"] == 300
    assert 0.8 < counted["reference"] / counted["compared"] < 1.2
    assert counted["reference"] + counted["ceiling"] == 2000 - rows["of_training"]
    before, now = ({metric["name"]: metric for metric in figures["metrics"]} for figures in (report, found))
    assert now["quality"]["rows"] == counted["compared"]
    assert now["identical_share"]["rows"] == counted["training"] > now["membership_auc"]["rows"]
    assert now["identical_share"]["value"] == before["identical_share"]["value"]
    for name in ("quality", "column_shapes", "pair_trends"):
        assert now[name]["value"] == pytest.approx(before[name]["value"], abs=0.06)
    assert {column["column"]: column["kind"] for column in found["by_column"]} == {
        column["column"]: column["kind"] for column in report["by_column"]
    }


def test_it_is_done_once(spec: dict[str, Any]) -> None:
    files = {file: file.stat().st_mtime_ns for file in root(spec).rglob("*") if file.is_file()}
    raygen.run(spec)
    assert {file: file.stat().st_mtime_ns for file in root(spec).rglob("*") if file.is_file()} == files


def test_rows_are_verified_and_a_changed_one_is_told(spec: dict[str, Any], tmp_path: Path) -> None:
    wanted = asked(spec, tmp_path, rows=600, shard_rows=200)
    written(wanted)
    result = raygen.verify(tmp_path / "out", rows=None)
    assert (result.problems, result.made_again) == ([], 600)
    for name in ("plan", "manifest"):  # made by other means: pixels may then be a little off, but not cells
        file = tmp_path / "out" / "_raygen" / f"{name}.json"
        file.write_text(file.read_text().replace(f'"torch": "{version("torch")}"', '"torch": "1.0"'))
    assert '"torch": "1.0"' in file.read_text()
    assert raygen.verify(tmp_path / "out", rows=10).exact
    part = sorted((tmp_path / "out" / "data").iterdir())[1]
    table = pq.read_table(part)
    ages = table["age"].to_pylist()
    ages[17] += 1
    pq.write_table(table.set_column(1, table.schema.field("age"), pa.array(ages, pa.int16())), part)
    problems = raygen.verify(tmp_path / "out", rows=None).problems
    assert any("row 17: age is not what the generator makes (_row 217)" in problem for problem in problems)


def test_every_row_is_as_asked(spec: dict[str, Any], tmp_path: Path) -> None:
    where = {"age": [30, 40], "city": ["Oslo", "Kyiv"], "joined": [datetime.date(2001, 6, 1), None], "wage": [2000, 4000]}
    table = written(asked(spec, tmp_path, rows=500, where=where))
    assert len(table) == 500
    assert set(table["age"].to_pylist()) <= set(range(30, 41))
    assert set(table["city"].to_pylist()) == {"Oslo", "Kyiv"}
    assert min(table["joined"].to_pylist()) >= datetime.date(2001, 6, 1)
    assert Decimal(2000) <= min(table["wage"].to_pylist())
    assert max(table["wage"].to_pylist()) <= Decimal(4000)
    assert raygen.verify(tmp_path / "out", rows=None).problems == []
    # Who is younger than 45 is not senior: what is not asked for is what goes with the rest.
    assert pc.mean(table["senior"].cast(pa.int8())).as_py() < 0.15


def test_a_where_leaves_the_condition_free_unless_it_is_balanced(spec: dict[str, Any], tmp_path: Path) -> None:
    wage = {"wage": [4000, None]}
    free = written(asked(spec, tmp_path / "free", rows=400, where=wage))
    assert free["city"].to_pylist().count("Oslo") > 200  # most who earn that much are there
    even = written(asked(spec, tmp_path / "even", rows=300, balance="city", where=wage))
    assert sorted(pc.value_counts(even["city"]).field("counts").to_pylist()) == [100, 100, 100]
    assert min(even["wage"].to_pylist()) >= 4000


def test_the_same_rows_from_python(spec: dict[str, Any], tmp_path: Path) -> None:
    where = {"age": 33, "senior": False}
    table = written(asked(spec, tmp_path, rows=100, where=where))
    generator = Generator.load(next((root(spec) / "generators").iterdir()))
    again = generator.sample(range(40, 60), 7, where=where)
    assert again.equals(table.slice(40, 20).drop_columns(["_row"]).cast(again.schema))
    assert set(again["age"].to_pylist()) == {33}


def test_rows_are_completed_and_what_is_known_is_kept(spec: dict[str, Any], source: Path, tmp_path: Path) -> None:
    real = pq.read_table(source).slice(100, 300)
    wages = [None if n % 3 else wage for n, wage in enumerate(real["wage"].to_pylist())]
    partial = pa.table(
        {
            "id": real["id"],
            "note": [f"n{n}" for n in range(300)],
            "wage": pa.array(wages, pa.decimal128(12, 2)),
            "city": real["city"].cast(pa.string()),
            "age": real["age"].cast(pa.int64()),
        }
    )
    pq.write_table(partial, tmp_path / "partial.parquet", row_group_size=70)
    table = written(asked(spec, tmp_path, complete=True, source=str(tmp_path / "partial.parquet"), shard_rows=110))
    for name in ("id", "note"):
        assert table[name].to_pylist() == partial[name].to_pylist()
    assert table["city"].to_pylist() == partial["city"].to_pylist()
    assert table["age"].to_pylist() == partial["age"].to_pylist()
    assert [made for made, known in zip(table["wage"].to_pylist(), wages, strict=True) if known is not None] == [
        known for known in wages if known is not None
    ]
    assert table["wage"].null_count == 0  # what is missing is filled in, with a value
    assert table["age"].type == pa.int16()
    assert set(KINDS) | {"note", "_row"} == set(table.column_names)
    frame = table.to_pandas()
    assert (frame["senior"] == (frame["age"] >= 45)).mean() > 0.9
    filled = pd.Series(wages).isna() & real["wage"].is_valid().to_pandas()
    assert frame["wage"][filled].astype(float).corr(real["wage"].to_pandas()[filled].astype(float)) > 0.7
    assert raygen.verify(tmp_path / "out", rows=None).problems == []


def test_variants_keep_some_cells_of_their_row(spec: dict[str, Any], source: Path, tmp_path: Path) -> None:
    real = pq.read_table(source)
    same = written(asked(spec, tmp_path / "same", variants=1, strength=0.0, include_real=True))
    for number, of in ((0, "real"), (1, "synthetic")):
        chosen = same.filter(pc.equal(same["_variant"], number))
        assert set(chosen["_source"].to_pylist()) == {of}
        for name in ("age", "wage", "joined", "city", "senior"):
            assert chosen[name].to_pylist() == real[name].to_pylist()
    half = written(asked(spec, tmp_path / "half", variants=2, strength=0.5))
    assert len(half) == 4000
    assert len(set(half["id"].to_pylist())) == 4000
    kept = np.mean(np.asarray(half["age"]) == np.repeat(np.asarray(real["age"]), 2))
    assert 0.45 < kept < 0.75
    assert raygen.verify(tmp_path / "half" / "out").problems == []


@pytest.mark.parametrize(
    ("augment", "said", "hint"),
    [
        (
            {"rows": 5, "where": {"aeg": 3}},
            "augment.where is of 'aeg', which is not in dataset.schema; did you mean 'age'?",
            "",
        ),
        ({"rows": 5, "where": {"city": "Paris"}}, "city has no value 'Paris'", "its values are: 'Kyiv', 'Oslo', 'Rome'"),
        ({"rows": 5, "where": {"age": [40, 30]}}, "where.age: 40 is above 30", "[least, most]"),
        ({"rows": 5, "where": {"age": 300}}, "where.age: the data has no value 300", "from 18 to 69"),
        ({"rows": 5, "where": {"id": "p-1"}}, "augment.where is of 'id', an identifier, which is never learnt", ""),
        (
            {"rows": 5, "where": {"age": 30}, "format": {"partition_by": "city"}},
            "augment.format.partition_by needs to know how many rows each folder has",
            "",
        ),
        ({"rows": 5, "where": {"age": "old"}}, "where.age: 'old' is not a number", "give a number"),
        ({"rows": 5, "balance": "city", "where": {"city": "Oslo"}}, "both say what 'city' is", ""),
        ({"rows": 5, "where": {}}, "augment.where", ""),
        ({"complete": True}, "augment.complete fills in the rows of augment.source, which is not given", ""),
    ],
    ids=str,
)
def test_what_cannot_be_asked_for(
    spec: dict[str, Any], tmp_path: Path, augment: dict[str, Any], said: str, hint: str
) -> None:
    with pytest.raises(RaygenError) as caught:
        raygen.augment(asked(spec, tmp_path, **augment))
    assert said in caught.value.what
    assert hint in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_partial_row_of_an_unknown_class_is_told(spec: dict[str, Any], tmp_path: Path) -> None:
    pq.write_table(pa.table({"city": ["Oslo", None, "Paris"]}), tmp_path / "partial.parquet")
    with pytest.raises(DataError, match=r"partial.parquet, row 2: city is 'Paris', which the generator never saw"):
        raygen.augment(asked(spec, tmp_path, complete=True, source=str(tmp_path / "partial.parquet")))
    pq.write_table(pa.table({"town": ["Oslo"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="has no column of dataset"):
        raygen.augment(asked(spec, tmp_path, complete=True, source=str(tmp_path / "other.parquet")))
    pq.write_table(pa.table({"age": ["old"]}), tmp_path / "text.parquet")
    with pytest.raises(DataError, match="column 'age' is of type string"):
        raygen.augment(asked(spec, tmp_path, complete=True, source=str(tmp_path / "text.parquet")))


def test_two_commands_from_a_table_to_a_dataset(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cli = CliRunner()
    assert cli.invoke(app, ["init", str(source)]).exit_code == 0
    quick = ["train.epochs=4", "gate=[]", "augment.rows=300", "evaluate.usefulness=false"]
    result = cli.invoke(app, ["run", "spec.yaml", *(f"--set={override}" for override in quick)])
    assert result.exit_code == 0, result.output
    (data,) = tmp_path.rglob("dataset/data")
    assert len(pq.read_table(data)) == 300


@pytest.mark.parametrize("family", ["gan", "vae"])
def test_other_families_make_tables_too(family: str, source: Path, tmp_path: Path) -> None:
    wanted = {
        "name": family,
        "storage": str(tmp_path / "store"),
        "dataset": {"path": str(source), "schema": {name: {"kind": kind} for name, kind in KINDS.items()}},
        "generator": {"family": family, "condition": "senior", "width": 64},
        "train": {"epochs": 20, "batch_size": 100, "schedule": "cosine", "workers": 2},
        "evaluate": {"usefulness": False},
        "gate": [],
        "augment": {"rows": 600, "balance": "senior", "shard_rows": 250, "workers": 1},
    }
    raygen.run(wanted)
    data = root(wanted) / "dataset" / "data"
    frame = pd.read_parquet(data)
    assert frame["senior"].value_counts().to_dict() == {False: 300, True: 300}
    assert frame["age"][frame["senior"]].mean() > frame["age"][~frame["senior"]].mean() + 10
    assert raygen.verify(root(wanted) / "dataset").problems == []
    with pytest.raises(SpecError, match=r"augment.where is for tables that the family 'autoregressive' makes"):
        raygen.augment({**wanted, "augment": {"rows": 5, "where": {"age": 20}}})
    with pytest.raises(SpecError, match=r"unknown key generator.network"):
        raygen.train({**wanted, "generator": {"family": family, "network": "dense"}})
