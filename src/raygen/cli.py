"""The command line: every job of a spec. Thin: parse, build, run, report."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raygen import cli_cluster, cli_jobs, cli_manifest, cli_models, cli_serve
from raygen.console import Debug, Overrides, Quiet, errors, figures
from raygen.errors import RaygenError

if TYPE_CHECKING:
    from raygen.jobs.project import Project

app = typer.Typer(
    help="Parquet in; a trained generator and a synthetic dataset that can be trusted out. On one laptop or a Ray cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_models.app, name="models")
app.add_typer(cli_cluster.app, name="cluster")
cli_cluster.app.command()(cli_manifest.manifest)
app.command()(cli_jobs.submit)
app.add_typer(cli_jobs.app, name="jobs")
app.command()(cli_serve.serve)
app.command()(cli_serve.token)

SpecPath = Annotated[Path, typer.Argument(metavar="SPEC", help="The spec, a YAML file (raygen init writes one).")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved spec and what would be done; do nothing.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show Ray's own messages and its workers' output.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace another job's dataset; it stays until the new one is whole.")
]


@app.command()
def init(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Parquet: a file, folder, glob, s3:// URI, or sample:digits.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The spec to write.")] = Path("spec.yaml"),
    debug: Debug = False,
) -> None:
    """Look at Parquet and write a commented spec for it."""
    with errors(debug):
        from raygen.jobs.init import first_spec

        if output.exists():
            raise RaygenError(f"{output}: is there already", "give another name with --output, or remove it")
        text = first_spec(data)
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise RaygenError(f"{output}: cannot be written ({error.strerror})", "choose another place") from None
        print(f"wrote {output}; now: raygen run {output}")


@app.command()
def run(
    spec: SpecPath,
    set_: Overrides = Quiet,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Train, evaluate, check the gate, augment and report; skip what is done."""
    with _job(spec, set_, dry_run, debug, overwrite) as project:
        from raygen.cluster.connect import connected
        from raygen.jobs import pipeline

        if pipeline.up_to_date(project):
            print("up to date")
        else:
            with connected(verbose):
                pipeline.run(project)
        _tell(project)


@app.command()
def train(
    spec: SpecPath,
    set_: Overrides = Quiet,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="DIR", help="Begin with the weights of a generator, or of a training run."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Fail unless there is a training to go on with.")] = False,
    dry_run: DryRun = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Train the generator, or go on where an earlier attempt stopped."""
    overrides = set_ if from_ is None else [*set_, f"train.start_from={json.dumps(from_)}"]
    with _job(spec, overrides, dry_run, debug) as project:
        from raygen.cluster.connect import connected

        if resume and project.result() is None and not (project.run / "checkpoints").names():
            raise RaygenError(
                f"{project.run.uri}: has no checkpoint to go on from",
                "leave --resume out to begin one",
            )
        if project.result() is not None:
            print("up to date")
        else:
            with connected(verbose, meanwhile="raygen.jobs.train"):
                from raygen.jobs import train as job

                job.train(project)
        print(f"generator  {project.trained().uri}")
        if from_ is not None:
            print(f"spec       from now on add --set train.start_from={from_}, or write that into {spec}")


@app.command()
def evaluate(
    spec: SpecPath, set_: Overrides = Quiet, dry_run: DryRun = False, verbose: Verbose = False, debug: Debug = False
) -> None:
    """Say how good the trained generator is, beside real data; write the report."""
    with _job(spec, set_, dry_run, debug) as project:
        from raygen.cluster.connect import connected
        from raygen.jobs import evaluate as job
        from raygen.jobs import gate, report

        report.require()
        if (result := job.evaluated(project)) is None:
            with connected(verbose, training=False):
                result = job.evaluate(project)
        report.write(project)
        figures(result)
        print(f"report     {project.report.uri}/{report.PAGE}")
        gate.check(result)


@app.command()
def augment(
    spec: SpecPath,
    set_: Overrides = Quiet,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Write the dataset of generated rows, exactly once, or go on with it."""
    with _job(spec, set_, dry_run, debug, overwrite) as project:
        from raygen.cluster.connect import connected
        from raygen.jobs import report

        report.require()
        project.trained()  # or fail at once
        manifest = None
        if project.output.manifest() is not None:
            from raygen.jobs import augment as job

            manifest = job.written(project)
        if manifest is not None:
            print("up to date")
        else:
            with connected(verbose, training=False, meanwhile="raygen.jobs.augment"):
                from raygen.jobs import augment as job
                from raygen.jobs import evaluate as evaluate_job

                manifest = job.augment(project)
            if evaluate_job.evaluated(project) is not None:
                report.write(project)
        print(f"dataset    {project.output.folder.uri}/data  {manifest['rows']:,} rows, {len(manifest['parts'])} files")


@app.command()
def verify(
    output: Annotated[str, typer.Argument(metavar="OUT", help="What augment wrote: a folder or an s3:// URI.")],
    rows: Annotated[int, typer.Option("--rows", min=0, help="How many rows to make again and compare; 0 for none.")] = 1000,
    all_: Annotated[bool, typer.Option("--all", help="Make all rows again, on all CPUs or GPUs.")] = False,
    generator: Annotated[
        str | None, typer.Option("--generator", metavar="DIR", help="The generator, where it is not where it was.")
    ] = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Compare a dataset with its manifest, and its rows with what its generator makes. Exit code 1 on a difference."""
    with errors(debug):
        from raygen.datasets.storage import Folder
        from raygen.jobs import verify as job

        place = None if generator is None else Folder(generator)
        if all_:
            from raygen.cluster.connect import connected

            with connected(verbose, training=False):
                result = job.verify(Folder(output), None, place)
        else:
            result = job.verify(Folder(output), rows, place)
        for problem in result.problems:
            print(problem)
        how = "all the same" if result.exact else f"the same within {job.TOLERANCE} of 255: they were made by other means"
        print(f"read       {result.parts} files, {result.rows:,} rows, {result.bytes:,} bytes")
        print(f"made again {result.made_again:,} rows{'' if result.problems else f', {how}'}")
        if result.problems:
            raise typer.Exit(1)
        print("verified")


@contextlib.contextmanager
def _job(path: Path, overrides: list[str], dry_run: bool, debug: bool, overwrite: bool = False) -> Iterator["Project"]:
    """The project of a spec; with ``--dry-run`` a description instead of the job. The block is one attempt of it."""
    with errors(debug):
        from raygen.load import load_spec

        spec = load_spec(path, overrides)
        from raygen.jobs.project import Project

        project = Project(spec, looking=dry_run, overwrite=overwrite)
        if dry_run:
            _describe(project)
            raise typer.Exit
        from raygen.cluster.stop import stoppable
        from raygen.jobs import attempts

        with stoppable() as stop, attempts.the_newest(project.folder, stop):
            yield project


def _describe(project: "Project") -> None:
    from raygen.jobs import pipeline

    plan = pipeline.describe(project)
    print(project.spec.to_yaml())
    for name, text in plan:
        print(f"# {name:<9} {text}")


def _tell(project: "Project") -> None:
    """Where everything is."""
    from raygen.jobs import evaluate as job
    from raygen.jobs import report
    from raygen.jobs.registry import Registry

    if (result := job.evaluated(project)) is not None:
        figures(result)
        print(f"verdict    {result['verdict']}")
    print(f"generator  {project.trained().uri}")
    if (now := Registry(project.folder).current()) is not None:
        print(f"current    {'this one' if now.digest == project.trained().name else now.digest}, by promotion {now}")
    print(f"report     {project.report.uri}/{report.PAGE}")
    if project.spec.augment is not None and (manifest := project.output.manifest()) is not None:
        print(f"dataset    {project.output.folder.uri}/data  {manifest['rows']:,} rows, {len(manifest['parts'])} files")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(version("raygen"))
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    pass


def main() -> None:
    """The entry point ``raygen``."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # for Ray's processes; this one is in connect.py
    # OpenMP threads that spin while they wait make training several times slower where other programs want the cores too.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    sys.exit(app())
