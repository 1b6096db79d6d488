"""What a job is called, what its driver is told, and what is refused before anything is sent."""

import json
from typing import Any

import pytest

from raygen.cluster import submissions, submit
from raygen.cluster.submissions import Attempt
from raygen.cluster.submit import Request
from raygen.errors import RaygenError
from raygen.load import load_spec
from raygen.spec import Spec

DIGEST = "0" * 64


def spec(*overrides: str, **changes: Any) -> Spec:
    document = {
        "name": "people",
        "storage": "s3://data/store",
        "dataset": {"path": "s3://data/a.parquet", "schema": {"income": {"kind": "category"}, "age": {"kind": "number"}}},
        "generator": {"family": "autoregressive", "condition": "income"},
        "augment": {"classes": {">50K": 10, "<=50K": 3}},
    }
    return load_spec({**document, **changes}, overrides)


def test_a_job_is_called_by_all_that_decides_it() -> None:
    name = submit.name("run", spec(), False, DIGEST)
    assert name == submit.name("run", load_spec(spec()), False, DIGEST)
    assert name == submit.name("run", spec("train.epochs=40"), False, DIGEST)  # which is the default
    assert name.startswith("raygen-run-people-")
    assert len(name.rpartition("-")[2]) == 12
    others = [
        submit.name("train", spec(), False, DIGEST),
        submit.name("run", spec("train.epochs=41"), False, DIGEST),
        submit.name("run", spec("storage=s3://data/other"), False, DIGEST),
        submit.name("run", spec(), True, DIGEST),
        submit.name("run", spec(), False, "1" * 64),
    ]
    assert len({name, *others}) == 6
    assert len(submit.name("run", spec(name="x" * 300), False, DIGEST)) < 100  # it is part of a file's name


def test_what_it_is_sent_with_is_no_part_of_its_name() -> None:
    plain, other = Request("run", spec()), Request("run", spec(), retries=3, environment={"A": "secret"})
    assert plain.name == other.name
    assert "secret" not in repr(other)
    assert "secret" not in str(other.metadata)
    assert other.variables["A"] == "secret"
    assert other.variables["RAYGEN_JOB"] == other.name


def test_the_command_of_its_driver() -> None:
    assert submit.entrypoint(Request("run", spec())) == "python -m raygen run spec.yaml"
    assert submit.entrypoint(Request("augment", spec(), overwrite=True), "/a b/python") == (
        "'/a b/python' -m raygen augment spec.yaml --overwrite"
    )
    assert submit.entrypoint(Request("train", spec(), retries=3)).endswith(
        "-m raygen.cluster.supervise 3 -- train spec.yaml"
    )


@pytest.mark.parametrize(
    ("job", "output"),
    [
        ("run", "s3://data/store/people/dataset"),
        ("augment", "s3://data/store/people/dataset"),
        ("train", "s3://data/store/people"),
        ("evaluate", "s3://data/store/people/report"),
    ],
)
def test_where_its_output_will_be(job: str, output: str) -> None:
    assert Request(job, spec()).output == output


@pytest.mark.parametrize(
    "override",
    [
        "storage=./store",
        "storage=~/store",
        "dataset.path=data/*.parquet",
        "augment.output=out",
        "train.start_from=store/people/train/x",
    ],
)
def test_a_relative_path_is_refused(override: str) -> None:
    key, _, path = override.partition("=")
    with pytest.raises(RaygenError) as caught:
        submit.check(Request("run", spec(override)))
    assert caught.value.what == f"{key}: {path} is another folder on the cluster"
    submit.check(Request("run", spec(f"{key}=/mnt/{path}")))
    submit.check(Request("run", spec(f"{key}=file:///mnt/{path}")))


def test_a_sample_is_no_path() -> None:
    submit.check(Request("run", spec("dataset.path=sample:digits")))


def test_what_is_no_job() -> None:
    with pytest.raises(RaygenError, match="augment is missing"):
        submit.check(Request("augment", spec("augment=null")))


@pytest.mark.parametrize("override", ["dataset.path=s3://me:hunter2@data/x", "storage=https://x.example/?sig=abcdef"])
def test_a_credential_is_not_sent(override: str) -> None:
    """Whoever sees the cluster's jobs would see it."""
    with pytest.raises(RaygenError, match="looks like a credential") as caught:
        submit.check(Request("run", spec(override)))
    assert "hunter2" not in str(caught.value)
    assert "abcdef" not in str(caught.value)


def test_what_is_told_of_a_job_fits_into_one_variable() -> None:
    """Of its driver: Linux takes 128 KiB."""
    columns = {f"column_{number}": {"kind": "number"} for number in range(5000)}
    told = {"dataset": {"path": "s3://data/wide", "schema": columns}, "generator": {"family": "autoregressive"}}
    wide = load_spec({**spec().model_dump(by_alias=True), **told, "augment": {"rows": 9}, "gate": []})
    request = Request("run", wide)
    assert len(request.spec.to_yaml()) > 150_000
    assert len(json.dumps(request.metadata)) < 100_000
    assert submit.again(attempt(1, metadata=request.metadata)).spec == request.spec


def attempt(number: int, digits: str = "0123456789ab", name: str = "people", **changes: Any) -> Attempt:
    job = f"raygen-run-{name}-{digits}"
    found = {
        "id": job if number == 1 else f"{job}-{number}", "job": job, "number": number, "state": "failed", "began": None,
        "ended": None, "exit_code": 2, "message": "", "node": None, "metadata": {}, "environment": {},
    }  # fmt: skip
    return Attempt(**{**found, **changes})


def test_a_job_is_found_by_the_beginning_of_its_name_or_digits() -> None:
    people = [attempt(1), attempt(2)]
    pets = [attempt(1, "0f23456789ab", "pets")]
    jobs = {all_[0].job: all_ for all_ in (people, pets)}
    assert submissions.find(jobs, people[0].job) is people[1]  # the last one
    assert submissions.find(jobs, "01") is people[1]
    assert submissions.find(jobs, "raygen-run-pet") is pets[0]
    assert submissions.find(jobs, people[1].id) is people[1]
    assert submissions.find(jobs, "0f") is pets[0]
    with pytest.raises(RaygenError, match="0: may be any of"):
        submissions.find(jobs, "0")
    with pytest.raises(RaygenError, match=r"there is no such job; did you mean 'raygen-run-people-0123456789ab'\?"):
        submissions.find(jobs, "raygen-run-poeple-0123456789ab")
    with pytest.raises(RaygenError, match="the cluster knows no jobs of raygen"):
        submissions.find({}, "0")


@pytest.mark.parametrize(
    ("state", "exit_code", "code"),
    [("succeeded", 0, 0), ("failed", 3, 3), ("failed", -9, 137), ("failed", None, 1), ("stopped", None, 143)],
)
def test_the_exit_code_of_who_has_followed_it(state: str, exit_code: int | None, code: int) -> None:
    assert attempt(1, state=state, exit_code=exit_code).code == code


def test_what_was_asked_is_asked_again_from_what_the_cluster_knows() -> None:
    asked = Request("augment", spec(), overwrite=True, retries=2, environment={"A": "b"})
    found = submit.again(attempt(1, metadata=asked.metadata, environment=asked.variables))
    assert (found.name, found.retries, found.variables) == (asked.name, 2, asked.variables)
    with pytest.raises(RaygenError, match=r"was sent by raygen .* with the digest 1111.*\n.*raygen submit SPEC"):
        submit.again(attempt(1, metadata={**asked.metadata, "wheel": "1" * 64}))
