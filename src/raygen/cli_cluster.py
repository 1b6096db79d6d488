"""The commands ``raygen cluster …``: what a cluster's file says, the cluster that Ray makes of it, and how that is."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raygen.console import Debug, Json, Overrides, Quiet, errors
from raygen.errors import RaygenError

if TYPE_CHECKING:
    from raygen.cluster.config import ClusterConfig, Mistake
    from raygen.cluster.status import Status
    from raygen.spec import Spec

app = typer.Typer(
    help="The cluster that jobs run on: what its file says and costs; starting it, looking at it and ending it.",
    no_args_is_help=True,
)

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="The cluster's file, as ray up has it.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
HERE = Path("ray-config.yaml")
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Of ``up`` and ``down``: options that Ray's own command has, such as ``--no-restart``."""


@app.command()
def check(
    config: Config = HERE,
    spec: Annotated[Path | None, typer.Option("--spec", metavar="SPEC", help="Say what this one would use of it.")] = None,
    set_: Overrides = Quiet,
    debug: Debug = False,
) -> None:
    """Say what a cluster's file means and costs, and every mistake in it with its line. Nothing is asked by the network."""
    with errors(debug):
        from raygen.cluster.config import read
        from raygen.cluster.mistakes import mistakes
        from raygen.load import load_spec

        if set_ and spec is None:
            raise RaygenError("--set overrides a value of a spec, and none is given", "give it with --spec SPEC")
        asked = None if spec is None else load_spec(spec, set_)
        file = read(config)
        found = mistakes(file)
        _explain(file)
        refused = _use(file, found, asked) if asked is not None else []
        _tell(file, found, refused)


@app.command(context_settings=PASSED_ON)
def up(context: typer.Context, config: Config = HERE, yes: Yes = False, debug: Debug = False) -> None:
    """Check the file, then start the cluster, or bring it up to date, by ray up. Further options are Ray's."""
    with errors(debug):
        from raygen.cluster import launcher
        from raygen.cluster.clouds import missing_here
        from raygen.cluster.config import read
        from raygen.cluster.mistakes import mistakes

        _options_of_ray("up", config)
        file = read(config)
        _tell(file, mistakes(file))
        if (package := missing_here(file)) is not None:
            raise RaygenError(f"ray up needs the package {package} for {file.provider}", f"pip install {package}")
        _somebody_answers(yes)
        code = launcher.run("up", config, [*["--yes"] * yes, *context.args])
        if code == 0:
            print(f"up         the head; raygen cluster status {config} tells when the others are, too")
        raise typer.Exit(code)


@app.command(context_settings=PASSED_ON)
def down(context: typer.Context, config: Config = HERE, yes: Yes = False, debug: Debug = False) -> None:
    """End the cluster, and all that runs on it, by ray down. Further options are Ray's."""
    with errors(debug):
        from raygen.cluster import launcher
        from raygen.cluster.config import read

        _options_of_ray("down", config)
        file = read(config)
        _somebody_answers(yes)
        if not yes:
            typer.confirm(f"End the cluster {file.document.get('cluster_name')}, and all that runs on it?", abort=True)
        code = launcher.run("down", config, ["--yes", *context.args])
        if code == 0 and file.provider == "local":
            print("down       the head; Ray on the others ends by itself within a minute or two")
        raise typer.Exit(code)


@app.command()
def status(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="The cluster's file; its head is asked, by ssh.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="URL|NAME", help="Ask this dashboard instead, or the cluster of this name."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the nodes of a running cluster, what of them is in use, and what its autoscaler is about to do."""
    with errors(debug):
        if config is not None and address is not None:
            raise RaygenError("CONFIG and --address both say which cluster", "leave one out")
        from raygen.cluster import launcher
        from raygen.cluster import status as running
        from raygen.cluster.addresses import VARIABLES, find
        from raygen.cluster.config import read
        from raygen.cluster.dashboard import Dashboard

        named = address is not None or any(os.environ.get(name) for name in VARIABLES)
        if config is not None or (HERE.exists() and not named):
            found = launcher.status(read(config or HERE))
        else:
            found = running.status(Dashboard(find(address)))
        if as_json:
            print(json.dumps(found.document()))
        else:
            _show(found)


@app.command()
def wheel(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write it.")] = Path("dist"),
    debug: Debug = False,
) -> None:
    """Write this raygen as a wheel, as a cluster's file mounts and installs it. The same code gives the same bytes."""
    with errors(debug):
        from raygen.cluster.wheel import build

        made = build()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / made.name).write_bytes(made.data)
        except OSError as error:
            raise RaygenError(f"{folder}: cannot be written to ({error.strerror})", "choose another folder") from None
        print(f"wheel      {folder / made.name}")


def _somebody_answers(yes: bool) -> None:
    if not yes and not sys.stdin.isatty():
        raise RaygenError("this asks first, and there is no terminal to answer on", "add --yes")


def _show(found: "Status") -> None:
    from rich.console import Console
    from rich.table import Table

    from raygen.machines import told_size

    table = Table("node", "type", "CPUs", "GPUs", "memory", box=None, header_style="")
    for node in found.nodes:
        cpus, gpus = (
            f"{'?' if share.used is None else f'{share.used:g}'}/{share.total:g}" for share in (node.cpus, node.gpus)
        )
        used = "" if node.memory.used is None else f"{told_size(node.memory.used)} of "
        kind = ", ".join(dict.fromkeys(filter(None, [node.type, "head" if node.head else ""]))) or "worker"
        table.add_row(node.address, kind, cpus, gpus, f"{used}{told_size(node.memory.total)}")
    Console(highlight=False).print(table)
    for label, lines in (("pending", found.pending), ("failed", found.failed), ("waiting", found.waiting)):
        for index, line in enumerate(lines or ["nothing"]):
            print(f"{'' if index else label:<10} {line}")


def _options_of_ray(command: str, config: Path) -> None:
    """Fail where an option of Ray's stands where the file does."""
    if str(config).startswith("-"):
        raise RaygenError(f"{config}: options of Ray's come after the file", f"raygen cluster {command} {HERE} {config}")


def _explain(file: "ClusterConfig") -> None:
    from rich.console import Console
    from rich.table import Table

    from raygen.cluster import explain

    filled = explain.filled(file)
    where = " ".join(filter(None, [file.provider, file.at("provider", "region", kind=str)]))
    print(f"cluster    {file.document.get('cluster_name', 'without a name')}, {where or 'nowhere'}: {file.path}")
    table = Table("type", "machine", "CPUs", "GPUs", "memory", "at least", "at most", "bought", box=None, header_style="")
    for row in explain.facts(filled.node_types()):
        table.add_row(*row)
    if table.row_count:
        Console(highlight=False).print(table)
        ends = explain.totals(filled)
        for label, end in (("at least", 0), ("at most", 1)):
            counts = [f"{both[end]:g} {name}{'s' * (both[end] != 1)}" for name, both in ends.items() if both is not None]
            print(f"{label:<10} {', '.join(counts)}")
        for index, line in enumerate(explain.costs(filled)):
            print(f"{'' if index else 'costs':<10} {line}")
    for label, line in explain.setup(file):
        print(f"{label:<10} {line}")


def _use(file: "ClusterConfig", found: "list[Mistake]", spec: "Spec") -> list[RaygenError]:
    """Say what a spec would use; return what it cannot have, and add to the mistakes what is wrong in the file for it."""
    from rich.console import Console
    from rich.table import Table

    from raygen.cluster import clouds, explain

    filled = explain.filled(file)
    print(f"storage    {explain.storage(spec)}")
    if spec.storage.startswith("s3://"):
        found += clouds.without_bucket(file)
    uses = explain.uses(filled, spec)
    table = Table("job", "asks for", "room always", "room at most", "", box=None, header_style="")
    for use in uses:
        workers = f"{use.demand.workers} × " if use.demand.workers > 1 else ""
        labels = ", ".join(f"{key}: {wanted}" for key, wanted in use.demand.each.labels.items())
        each = f"{use.demand.each}{f' on {labels}' if labels else ''}" if use.demand.given else "what is there"
        rooms = ["known when it is up", ""] if use.most is None else [f"{use.always}", f"{use.most}"]
        table.add_row(use.demand.job, f"{workers}{each}", *rooms, "never" if use.refused else "")
    Console(highlight=False).print(table)
    unshared = explain.unshared(filled, spec)
    return [refused for refused in (unshared, *(use.refused for use in uses)) if refused is not None]


def _tell(file: "ClusterConfig", found: "Sequence[Mistake]", refused: Sequence[RaygenError] = ()) -> None:
    """Every mistake, and exit code 2 where there is one."""
    sys.stdout.flush()
    told = [(f"{file.path}:{mistake.line}: {mistake.what}", mistake.hint) for mistake in sorted(set(found))]
    for what, hint in [*told, *((error.what, error.hint) for error in refused)]:
        typer.secho(f"error: {what}", err=True, fg="red")
        typer.echo(f"  {hint}", err=True)
    if told or refused:
        raise typer.Exit(2)
