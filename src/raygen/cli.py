"""The command line: every job of a spec. Thin: parse, build, run, report."""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raygen.errors import RaygenError

if TYPE_CHECKING:
    from raygen.jobs.project import Project

app = typer.Typer(
    help="Parquet in; a trained generator and a synthetic dataset that can be trusted out. On one laptop or a Ray cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

SpecPath = Annotated[Path, typer.Argument(metavar="SPEC", help="The spec, a YAML file (raygen init writes one).")]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the spec, e.g. train.epochs=3. Repeatable."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved spec and what would be done; do nothing.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show Ray's own messages and its workers' output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Quiet: list[str] = []


@app.command()
def init(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Parquet: a file, folder, glob, s3:// URI, or sample:digits.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The spec to write.")] = Path("spec.yaml"),
    debug: Debug = False,
) -> None:
    """Look at Parquet and write a commented spec for it."""
    with _errors(debug):
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
    spec: SpecPath, set_: Overrides = Quiet, dry_run: DryRun = False, verbose: Verbose = False, debug: Debug = False
) -> None:
    """Train, evaluate, check the gate, augment and report; skip what is done."""
    with _job(spec, set_, dry_run, debug) as project:
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
    spec: SpecPath, set_: Overrides = Quiet, dry_run: DryRun = False, verbose: Verbose = False, debug: Debug = False
) -> None:
    """Train the generator, or go on where an earlier attempt stopped."""
    with _job(spec, set_, dry_run, debug) as project:
        from raygen.cluster.connect import connected
        from raygen.jobs import train as job

        if project.result() is not None:
            print("up to date")
        else:
            with connected(verbose):
                job.train(project)
        print(f"generator  {project.trained().uri}")


@app.command()
def evaluate(
    spec: SpecPath, set_: Overrides = Quiet, dry_run: DryRun = False, verbose: Verbose = False, debug: Debug = False
) -> None:
    """Say how good the trained generator is, beside real data; write the report."""
    with _job(spec, set_, dry_run, debug) as project:
        from raygen.cluster.connect import connected
        from raygen.jobs import evaluate as job
        from raygen.jobs import report

        report.require()
        if (result := job.evaluated(project)) is None:
            with connected(verbose):
                result = job.evaluate(project)
        report.write(project)
        _table(result)
        print(f"report     {project.report.uri}/{report.PAGE}")
        job.check_gate(result)


@app.command()
def augment(
    spec: SpecPath, set_: Overrides = Quiet, dry_run: DryRun = False, verbose: Verbose = False, debug: Debug = False
) -> None:
    """Write the dataset of generated rows, exactly once, or go on with it."""
    with _job(spec, set_, dry_run, debug) as project:
        from raygen.cluster.connect import connected
        from raygen.jobs import augment as job
        from raygen.jobs import evaluate as evaluate_job
        from raygen.jobs import report

        report.require()
        if (manifest := job.written(project)) is not None:
            print("up to date")
        else:
            with connected(verbose):
                manifest = job.augment(project)
            if evaluate_job.evaluated(project) is not None:
                report.write(project)
        print(f"dataset    {project.output.folder.uri}/data  {manifest['rows']:,} rows, {len(manifest['parts'])} files")


@contextlib.contextmanager
def _job(path: Path, overrides: list[str], dry_run: bool, debug: bool) -> Iterator["Project"]:
    """The project of a spec; with ``--dry-run`` a description instead of the job."""
    with _errors(debug):
        from raygen.spec import load_spec

        spec = load_spec(path, overrides)
        from raygen.jobs.project import Project

        project = Project(spec, looking=dry_run)
        if dry_run:
            _describe(project)
            raise typer.Exit
        yield project


@contextlib.contextmanager
def _errors(debug: bool) -> Iterator[None]:
    """One line what, one line what to do, and the exit code; a traceback only with ``--debug``."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except RaygenError as error:
        if debug:
            traceback.print_exc()
        typer.secho(f"error: {error.what}", err=True, fg="red")
        typer.echo(f"  {error.hint}", err=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on from here", err=True)
        raise typer.Exit(130) from None
    except Exception as error:
        if debug:
            traceback.print_exc()
        reason = (str(error).strip().splitlines() or [""])[0]
        typer.secho(f"error: unexpected {type(error).__name__}: {reason}", err=True, fg="red")
        typer.echo("  the same command goes on from here; --debug shows where it happened", err=True)
        raise typer.Exit(1) from None


def _describe(project: "Project") -> None:
    from raygen.jobs import pipeline

    plan = pipeline.describe(project)
    print(project.spec.to_yaml())
    for name, text in plan:
        print(f"# {name:<9} {text}")


def _table(report: dict[str, object]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "synthetic", "95 %", "real (ceiling)", box=None, header_style="")
    for metric in report["metrics"]:  # type: ignore[attr-defined]
        if metric["value"] is None:
            table.add_row(metric["name"], "–", "", f"not computed: {metric['because']}")
        else:
            low, high = metric["interval"]
            table.add_row(metric["name"], f"{metric['value']:.3f}", f"{low:.3f} to {high:.3f}", f"{metric['ceiling']:.3f}")
    Console(highlight=False).print(table)


def _tell(project: "Project") -> None:
    """Where everything is."""
    from raygen.jobs import evaluate as job
    from raygen.jobs import report

    if (result := job.evaluated(project)) is not None:
        _table(result)
        print(f"verdict    {result['verdict']}")
    print(f"generator  {project.trained().uri}")
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
