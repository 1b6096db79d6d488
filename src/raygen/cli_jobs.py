"""The commands ``raygen submit``, which sends a job to a cluster, and ``raygen jobs …`` for those. They need no torch."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raygen.cluster.kinds import Job
from raygen.console import Debug, Json, Overrides, Quiet, errors
from raygen.errors import RaygenError

if TYPE_CHECKING:
    from raygen.cluster.dashboard import Dashboard
    from raygen.cluster.submissions import Attempt
    from raygen.cluster.submit import Request
    from raygen.jobs.progress import State

app = typer.Typer(
    help="Jobs that were sent to a cluster: how they stand, what they say, stopping them.", no_args_is_help=True
)

Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL|NAME",
        help="The cluster's dashboard, or a name of ~/.config/raygen/clusters.yaml; by default RAY_ADDRESS.",
    ),
]
Name = Annotated[str, typer.Argument(metavar="ID", help="The job: its name, or the beginning of it or of its digits.")]
NoFollow = Annotated[bool, typer.Option("--no-follow", help="Do not wait for it and show what it says.")]
WIDE = 240
"""Characters of a line of a table that a program reads."""
LAST_LINES = 100
"""Of what a job has printed, among which its last word of its progress is looked for."""
AT_ONCE = 8
"""Jobs that are asked for it."""


def submit(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The spec, a YAML file.")],
    job: Annotated[Job, typer.Option("--job", help="Which job of it.")] = "run",
    address: Address = None,
    set_: Overrides = Quiet,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="As of run and augment.")] = False,
    retries: Annotated[
        int, typer.Option("--retries", min=0, help="How often to begin its driver again where that dies.")
    ] = 0,
    env: Annotated[
        list[str],
        typer.Option("--env", metavar="NAME", help="Pass on this variable of here, such as a credential. Repeatable."),
    ] = Quiet,
    no_follow: NoFollow = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check it all, and send nothing.")] = False,
    debug: Debug = False,
) -> None:
    """Run a job of a spec on a cluster. The same again is the same job: it is followed, or said to be done."""
    with errors(debug):
        from raygen.cluster import submit as sending
        from raygen.load import load_spec

        request = sending.Request(job, load_spec(spec, set_), overwrite, retries, _environment(env))
        sending.check(request)
        dashboard = _dashboard(address)
        ray = sending.check_versions(dashboard)
        last = sending.last(dashboard, request)
        if last is None or not (last.active or last.state == "succeeded"):
            sending.check_room(dashboard, request)
        print(f"cluster    {dashboard.cluster}, Ray {ray}")
        if last is not None and last.state == "succeeded":
            print(f"job        {last.job}: has succeeded, {_when(last.ended)}")
            print(f"output     {request.output}")
            print(f"again      raygen jobs retry {last.job}{_option(address)}")
            return
        if dry_run:
            print(f"job        {request.name}: {'would be sent' if last is None or not last.active else last.state}")
            print(f"driver     {sending.entrypoint(request)}")
            print(request.spec.to_yaml())
            return
        if last is not None and last.active:
            print(f"job        {last.job}: is {last.state} already, attempt {last.number}, since {_when(last.began)}")
        else:
            last = _send(dashboard, request, 1 if last is None else last.number + 1)
        _watch(dashboard, last, address, no_follow)


@app.command("list")
def list_(address: Address = None, json_: Json = False, debug: Debug = False) -> None:
    """All jobs that the cluster knows of, the last one last."""
    with errors(debug):
        from raygen.cluster import submissions

        dashboard = _dashboard(address)
        jobs = submissions.attempts(dashboard)
        last = [all_[-1] for all_ in jobs.values()]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            rows = list(zip(last, pool.map(lambda attempt: _progress(dashboard, attempt), last), strict=True))
        if json_:
            print(json.dumps([_document(*row) for row in rows], indent=1, ensure_ascii=False))
            return
        _print_table(rows)


@app.command()
def status(name: Name, address: Address = None, json_: Json = False, debug: Debug = False) -> None:
    """One job: its attempts, how far it is, where its output is, and what became of it."""
    with errors(debug):
        from raygen.cluster import submissions

        dashboard = _dashboard(address)
        jobs = submissions.attempts(dashboard)
        attempt = submissions.find(jobs, name)
        progress = _progress(dashboard, attempt)
        if json_:
            all_ = [_document(each, None) for each in jobs[attempt.job]]
            print(json.dumps({**_document(attempt, progress), "attempts": all_}, indent=1, ensure_ascii=False))
            return
        print(f"job        {attempt.job}, of raygen {attempt.metadata['raygen']}")
        for each in jobs[attempt.job]:
            code = "" if each.exit_code in (None, 0) else f" with exit code {each.code}"
            print(f"attempt    {each.number}: {each.state}{code}, since {_when(each.began)}, {_took(each)}")
        if progress is not None:
            print(f"progress   {progress}")
        print(f"output     {attempt.metadata.get('output', '')}")
        if attempt.state == "failed" and attempt.exit_code is None:  # Ray's words; a driver's own are in its log
            print(f"message    {attempt.message}")


@app.command()
def logs(
    name: Name,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until it ends, with its progress.")] = False,
    debug: Debug = False,
) -> None:
    """What a job has printed. With --follow, until it ends, and with its exit code."""
    with errors(debug):
        from raygen.cluster import submissions
        from raygen.jobs.progress import from_line

        dashboard = _dashboard(address)
        attempt = submissions.find(submissions.attempts(dashboard), name)
        if follow:
            _watch(dashboard, attempt, address)
        printed = submissions.printed(dashboard, attempt)
        if not printed and not attempt.active:
            typer.echo(f"{attempt.id} has {attempt.state}; its log is not there any more, or it never began", err=True)
        for line in printed.splitlines():
            if from_line(line) is None:
                print(line)


@app.command()
def stop(name: Name, address: Address = None, debug: Debug = False) -> None:
    """Stop a job, and wait until it is. What it wrote is kept, and retry goes on from there."""
    with errors(debug):
        from raygen.cluster import submissions

        dashboard = _dashboard(address)
        attempt = submissions.find(submissions.attempts(dashboard), name)
        if not attempt.active:
            print(f"{attempt.id} is not running: it has {'been ' * (attempt.state == 'stopped')}{attempt.state}")
            return
        ended = submissions.stop(dashboard, attempt)
        print(f"{ended.state:<10} {ended.id}, attempt {ended.number}")
        if ended.state == "stopped":
            print(f"go on      raygen jobs retry {ended.job}{_option(address)}")


@app.command()
def retry(name: Name, address: Address = None, no_follow: NoFollow = False, debug: Debug = False) -> None:
    """Make the next attempt of a job. It goes on where the last one stopped, and does nothing twice."""
    with errors(debug):
        from raygen.cluster import submissions
        from raygen.cluster import submit as sending

        dashboard = _dashboard(address)
        jobs = submissions.attempts(dashboard)
        attempt = jobs[submissions.find(jobs, name).job][-1]
        if attempt.active:
            raise RaygenError(
                f"{attempt.job}: attempt {attempt.number} is {attempt.state}",
                f"stop it first: raygen jobs stop {attempt.job}{_option(address)}",
            )
        request = sending.again(attempt)
        sending.check_versions(dashboard)
        sending.check_room(dashboard, request)
        _watch(dashboard, _send(dashboard, request, attempt.number + 1), address, no_follow)


def _dashboard(address: str | None) -> "Dashboard":
    from raygen.cluster import addresses, dashboard

    return dashboard.Dashboard(addresses.find(address))


def _environment(names: list[str]) -> dict[str, str]:
    for name in names:
        if "=" in name:  # and is not repeated: what is behind it may be a secret
            raise RaygenError("--env takes the name of a variable, not its value", "set it here, and give --env NAME")
        if name not in os.environ:
            raise RaygenError(f"--env {name}: is not set here", f"set {name}, or leave it out")
    return {name: os.environ[name] for name in names}


def _send(dashboard: "Dashboard", request: "Request", number: int) -> "Attempt":
    from raygen.cluster import submit as sending

    attempt = sending.send(dashboard, request, number)
    print(f"job        {attempt.job}, attempt {attempt.number}")
    print(f"output     {request.output}")
    return attempt


def _watch(dashboard: "Dashboard", attempt: "Attempt", address: str | None, not_: bool = False) -> None:
    """Show what a job says until it ends, and end with its exit code; or say how to."""
    from raygen.cluster import submissions
    from raygen.jobs.progress import Mirror

    back = f"raygen jobs logs {attempt.job} --follow{_option(address)}"
    if not_:
        print(f"follow     {back}")
        return
    try:
        with Mirror() as mirror:
            ended = submissions.follow(dashboard, attempt, mirror.write)
    except KeyboardInterrupt:
        typer.echo("detached; the job goes on", err=True)
        typer.echo(f"  come back  {back}", err=True)
        typer.echo(f"  stop it    raygen jobs stop {attempt.job}{_option(address)}", err=True)
        raise typer.Exit(130) from None
    if ended.state != "succeeded":
        code = "" if ended.exit_code is None else f" with exit code {ended.code}"
        typer.secho(f"error: attempt {ended.number} of {ended.job} has {_has(ended)}{code}", err=True, fg="red")
        if ended.exit_code is None and ended.state == "failed":
            said = ended.message.strip().splitlines() or ["the cluster does not say why"]
            typer.echo(f"  {said[-1]}", err=True)
        typer.echo(f"  to go on from there: raygen jobs retry {ended.job}{_option(address)}", err=True)
    raise typer.Exit(ended.code)


def _print_table(rows: "Sequence[tuple[Attempt, State | None]]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="")
    for column in ("job", "state", "attempt", "progress", "speed", "since", "took", "output"):
        table.add_column(column, no_wrap=column == "job", overflow="fold")  # a name is there to be copied
    for last, progress in rows:
        speed = "" if progress is None else progress.speed
        output = last.metadata.get("output", "")
        cells = (str(last.number), _share(progress), speed, _when(last.began), _took(last), output)
        table.add_row(last.job, last.state, *cells)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    console.print(table)


def _has(attempt: "Attempt") -> str:
    return "been stopped" if attempt.state == "stopped" else attempt.state


def _progress(dashboard: "Dashboard", attempt: "Attempt") -> "State | None":
    """The last that it has told of it; None where it has not begun, or is over and done."""
    from raygen.cluster import submissions
    from raygen.jobs import progress

    if attempt.node is None or attempt.state == "succeeded":
        return None
    return progress.last(submissions.printed(dashboard, attempt, LAST_LINES))


def _document(attempt: "Attempt", progress: "State | None") -> dict[str, Any]:
    told = {key: attempt.metadata.get(key) for key in ("raygen", "name", "output")}
    return {
        "id": attempt.id, "job": attempt.job, "attempt": attempt.number, "state": attempt.state,
        "exit_code": attempt.exit_code, "began": attempt.began and attempt.began.isoformat(),
        "ended": attempt.ended and attempt.ended.isoformat(), "progress": progress and progress._asdict(), **told,
    }  # fmt: skip


def _share(progress: "State | None") -> str:
    if progress is None or not progress.total:
        return ""
    return f"{progress.name} {100 * progress.done / progress.total:.0f} %"


def _took(attempt: "Attempt") -> str:
    if attempt.seconds is None:
        return ""
    minutes, seconds = divmod(round(attempt.seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _when(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment.astimezone():%Y-%m-%d %H:%M}"


def _option(address: str | None) -> str:
    """Of the commands that are told, where it was given."""
    return "" if address is None else f" --address {address}"
