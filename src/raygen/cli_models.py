"""The commands ``raygen models …``: which generator of a project is the one to use."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raygen.console import Debug, Json, Overrides, Quiet, errors, figures

if TYPE_CHECKING:
    from raygen.jobs.registry import Registry

app = typer.Typer(help="The generators of a project: which there are, how good, which one is current.", no_args_is_help=True)

Project = Annotated[str, typer.Argument(metavar="PROJECT", help="A spec, or the folder or URI <storage>/<name>.")]
Digest = Annotated[str, typer.Argument(metavar="DIGEST", help="The generator: its digest, or the first digits of it.")]


@app.command("list")
def list_(
    project: Project,
    set_: Overrides = Quiet,
    history: Annotated[bool, typer.Option("--history", help="Every promotion and rollback instead, oldest first.")] = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """All generators: their verdicts, and when each was last promoted; * is current, a percentage a canary."""
    with errors(debug):
        registry = _registry(project, set_)
        from dataclasses import asdict

        if history:
            promotions = registry.promotions()
            if json_:
                _json([asdict(promotion) for promotion in promotions])
            else:
                print("\n".join(map(str, promotions)) or "nothing has been promoted")
            return
        versions = registry.versions()
        if json_:
            _json([{**v._asdict(), "promotion": v.promotion and asdict(v.promotion)} for v in versions])
            return
        from rich.console import Console
        from rich.table import Table

        from raygen.jobs.promotions import SHORT

        table = Table("", "digest", "family", "verdict", "gate", "promotion", box=None, header_style="")
        for version in versions:
            gate = ", ".join(f"{name} {'–' if value is None else f'{value:.3f}'}" for name, value in version.gate.items())
            last = version.promotion
            promotion = "" if last is None else f"{last.number}: {last.at[:16].replace('T', ' ')}"
            mark = "*" if version.current else "" if version.canary is None else f"{version.canary} %"
            table.add_row(mark, version.digest[:SHORT], version.family, version.verdict, gate, promotion)
        Console(highlight=False).print(table)


@app.command()
def show(
    project: Project,
    digest: Digest = "current",
    set_: Overrides = Quiet,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """A generator: its options, what it came from, its figures and its promotions. By default the current one."""
    with errors(debug):
        registry = _registry(project, set_)
        shown = registry.show(digest)
        if json_:
            _json(shown)
            return
        from raygen.dialect import dump

        brief = {name: shown[name] for name in ("digest", "current", "canary", "generator", "lineage")}
        brief["verdict"] = None if shown["evaluation"] is None else shown["evaluation"]["verdict"]
        brief["promotions"] = [str(found) for found in registry.promotions() if found.digest == shown["digest"]]
        print(dump(brief), end="")
        if shown["evaluation"] is not None:
            figures(shown["evaluation"])


@app.command()
def diff(
    project: Project,
    one: Digest,
    other: Digest = "current",
    set_: Overrides = Quiet,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """What differs between two generators: spec, data, versions, figures. By default from the current one."""
    with errors(debug):
        found = _registry(project, set_).diff(one, other)
        if json_:
            _json(found)
        else:
            for name, (ours, theirs) in found.items():
                print(f"{name}: {ours} | {theirs}")


@app.command()
def promote(
    project: Project,
    digest: Digest,
    force: Annotated[bool, typer.Option("--force", help="Though it has not passed its gate; the history tells so.")] = False,
    canary: Annotated[
        int | None,
        typer.Option(metavar="PERCENT", min=1, max=99, help="Of what endpoints are asked, beside the current one."),
    ] = None,
    set_: Overrides = Quiet,
    debug: Debug = False,
) -> None:
    """Make a generator current that has passed its gate, or a canary beside it. Exit code 3 where it has not."""
    with errors(debug):
        print(_registry(project, set_).promote(digest, force, canary=canary))


@app.command()
def rollback(
    project: Project,
    to: Annotated[str | None, typer.Option("--to", metavar="DIGEST", help="Further back, to this generator.")] = None,
    set_: Overrides = Quiet,
    debug: Debug = False,
) -> None:
    """Take away the canary; without one, make the generator current again that was so before."""
    with errors(debug):
        print(_registry(project, set_).rollback(to))


def _registry(project: str, overrides: list[str]) -> "Registry":
    from raygen.jobs.registry import Registry

    return Registry.of(project, overrides)


def _json(document: Any) -> None:
    print(json.dumps(document, indent=1, ensure_ascii=False))
