"""What ``import raygen`` offers: each job as a function of a spec, on the Ray that is there, or on this machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from raygen.cluster.connect import connected
from raygen.generators.generator import Generator
from raygen.jobs import augment as augment_job
from raygen.jobs import evaluate as evaluate_job
from raygen.jobs import pipeline, report
from raygen.jobs import train as train_job
from raygen.jobs.project import Project
from raygen.spec import Spec, load_spec

Source = Spec | str | Path | Mapping[str, Any]
"""A spec, the path of its YAML, or the same as a mapping."""


def train(spec: Source) -> Generator:
    """Train the spec's generator, or go on where an earlier attempt stopped, or find that it is done.

    Raises:
        RaygenError: see ``raygen.errors``; nothing is lost by calling again.
    """
    project = Project(load_spec(spec))
    if project.result() is None:
        with connected():
            train_job.train(project)
    return Generator.load(project.trained().uri)


def evaluate(spec: Source) -> dict[str, Any]:
    """Evaluate the spec's trained generator; write and return the report (``verdict``, ``metrics``, …), passed or not.

    Raises:
        RaygenError: no generator has been trained, or the data cannot be read.
    """
    project = Project(load_spec(spec))
    report.require()
    if (result := evaluate_job.evaluated(project)) is None:
        with connected():
            result = evaluate_job.evaluate(project)
    report.write(project)
    return result


def augment(spec: Source) -> dict[str, Any]:
    """Write the dataset that the spec asks for, exactly once; return its manifest (``rows``, ``counts``, ``parts``, …).

    Raises:
        GateError: the generator is not good enough; nothing was written.
        RaygenError: no generator has been trained or evaluated, or the output is another job's.
    """
    project = Project(load_spec(spec))
    with connected():
        return augment_job.augment(project)


def sample(spec: Source, rows: range) -> pa.Table:
    """Rows of the dataset that the spec asks for, for example ``range(1000, 1100)``, without reading or writing it.

    Raises:
        RaygenError: no generator has been trained, or the dataset has no such rows.
    """
    return augment_job.sample(Project(load_spec(spec)), rows)


def run(spec: Source) -> None:
    """Train, evaluate, gate, augment and report; what is done for the same data and spec is not done again.

    Raises:
        GateError: the generator is not good enough; no dataset was written.
        RaygenError: anything else the user can mend.
    """
    project = Project(load_spec(spec))
    if not pipeline.up_to_date(project):
        with connected():
            pipeline.run(project)
