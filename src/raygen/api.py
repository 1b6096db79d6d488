"""What ``import raygen`` offers: each job as a function of a spec, on the Ray that is there, or on this machine."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from raygen.cluster.connect import connected
from raygen.datasets.storage import Folder
from raygen.generators.generator import Generator
from raygen.jobs import augment as augment_job
from raygen.jobs import evaluate as evaluate_job
from raygen.jobs import pipeline, report
from raygen.jobs import train as train_job
from raygen.jobs import verify as verify_job
from raygen.jobs.project import Project
from raygen.jobs.registry import Registry
from raygen.load import load_spec
from raygen.spec import Spec

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
    """Evaluate the spec's trained generator; write and return the report, passed or not.

    Returns:
        ``summary``, ``verdict``, ``metrics``, ``usefulness``, ….

    Raises:
        RaygenError: no generator has been trained, or the data cannot be read.
    """
    project = Project(load_spec(spec))
    report.require()
    if (result := evaluate_job.evaluated(project)) is None:
        with connected(training=False):
            result = evaluate_job.evaluate(project)
    report.write(project)
    return result


def augment(spec: Source, overwrite: bool = False) -> dict[str, Any]:
    """Write the dataset that the spec asks for, exactly once; return its manifest (``rows``, ``counts``, ``parts``, …).

    Args:
        overwrite: let it take the place of another job's dataset, when it is whole.

    Raises:
        GateError: the generator is not good enough; nothing was written.
        RaygenError: no generator has been trained or evaluated, or the output is another job's.
    """
    project = Project(load_spec(spec), overwrite=overwrite)
    with connected(training=False):
        return augment_job.augment(project)


def sample(spec: Source, rows: range) -> pa.Table:
    """Rows of the dataset that the spec asks for, for example ``range(1000, 1100)``, without reading or writing it.

    Raises:
        RaygenError: no generator has been trained, or the dataset has no such rows.
    """
    return augment_job.sample(Project(load_spec(spec)), rows)


def verify(output: str | Path, rows: int | None = 1000, generator: str | Path | None = None) -> verify_job.Result:
    """Check a dataset against its manifest, and some of its rows (None: all) against its generator.

    Returns:
        What was found; ``problems`` has a line for each file or row that is not as it should be.

    Raises:
        RaygenError: there is no committed dataset, or what it was made from is not there any more.
    """
    place = None if generator is None else Folder(generator)
    with connected(training=False) if rows is None else contextlib.nullcontext():
        return verify_job.verify(Folder(output), rows, place)


def run(spec: Source, overwrite: bool = False) -> None:
    """Train, evaluate, gate, promote, augment and report; what is done for the same data and spec is not done again.

    Args:
        overwrite: as for :func:`augment`.

    Raises:
        GateError: the generator is not good enough; no dataset was written.
        RaygenError: anything else the user can mend.
    """
    project = Project(load_spec(spec), overwrite=overwrite)
    if not pipeline.up_to_date(project):
        with connected():
            pipeline.run(project)


def models(project: Source) -> Registry:
    """The registry of a project: its generators and which one is current, with ``versions``, ``promotions``, ``current``,
    ``show``, ``diff``, ``promote`` and ``rollback``.

    Args:
        project: a spec, or the folder or URI ``<storage>/<name>``.

    Raises:
        RaygenError: no generator is there.
    """
    return Registry.of(project)
