"""What the commands share: how they tell of errors and of figures."""

import contextlib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from raygen.errors import GateError, RaygenError

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the spec, e.g. train.epochs=3. Repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Quiet: list[str] = []
"""Of an option that may be repeated, and is not given."""


@contextlib.contextmanager
def errors(debug: bool) -> Iterator[None]:
    """One line what, one line what to do, and the exit code; a traceback only with ``--debug``."""
    try:
        yield
    except (typer.Exit, typer.Abort, BrokenPipeError):  # nobody reads on: `… | head`
        raise
    except RaygenError as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, GateError) and error.failed:
            _missed(error.failed)
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


def figures(report: Mapping[str, Any]) -> None:
    """Print the metrics of a report."""
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "synthetic", "95 %", "real (ceiling)", box=None, header_style="")
    for metric in report["metrics"]:
        if metric["value"] is None:
            table.add_row(metric["name"], "–", "", f"not computed: {metric['because']}")
        else:
            low, high = metric["interval"]
            ceiling = "–" if metric["ceiling"] is None else f"{metric['ceiling']:.3f}"
            table.add_row(metric["name"], f"{metric['value']:.3f}", f"{low:.3f} to {high:.3f}", ceiling)
    Console(highlight=False).print(table)
    if (useful := report.get("usefulness")) is not None:
        print(f"usefulness {useful['summary'] if 'summary' in useful else 'not computed: ' + useful['because']}")


def _missed(rules: Sequence[Mapping[str, Any]]) -> None:
    """Print what of a gate was not met, and by how much."""
    from rich.console import Console
    from rich.table import Table

    from raygen.jobs import glossary as words

    table = Table("metric", "needed", "found", "95 %", "missed by", box=None, header_style="")
    for rule in rules:
        interval = rule.get("interval")  # which earlier reports do not have
        found = "not computed" if rule["value"] is None else words.told(rule["value"], interval)
        missed = words.gap(rule).removeprefix("missed by ") or "–"
        table.add_row(rule["metric"], words.needed(rule), found, words.told_interval(interval), missed)
    Console(highlight=False, stderr=True).print(table)
