"""The commands ``raygen serve``, an endpoint, and ``raygen token``, for whoever may ask it."""

import importlib.util
import ipaddress
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from raygen.console import Debug, Quiet, errors
from raygen.errors import RaygenError


def serve(
    projects: Annotated[
        list[str],
        typer.Argument(metavar="PROJECT...", help="Each a spec, a folder or URI <storage>/<name>, or a NAME in --storage."),
    ],
    host: Annotated[str, typer.Option("--host", help="Where to listen; 0.0.0.0 is everywhere.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8000,
    tokens: Annotated[
        Path | None, typer.Option("--tokens", metavar="FILE", help="Who may ask (raygen token); or RAYGEN_TOKENS says it.")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let everybody on this machine ask: no tokens.")] = False,
    storage: Annotated[str, typer.Option("--storage", metavar="URI", help="Where a NAME is a project.")] = "./store",
    set_: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the first spec: serve.replicas.max=4."),
    ] = Quiet,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the same as a config of Ray Serve, for serve deploy; do nothing.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show Ray's own messages, and every request.")] = False,
    debug: Debug = False,
) -> None:
    """Answer for current generators by HTTP, with a page to try them, until it is interrupted."""
    with errors(debug):
        _check_who_is_let_in(host, insecure, tokens)
        from raygen.serving import auth, deployment, haproxy
        from raygen.serving.projects import Projects

        served = Projects.of(projects, storage, set_)
        if print_config:
            from raygen.dialect import dump

            print(haproxy.exports(served.spec.timeout_s) + dump(served.config(host, port, tokens, insecure)), end="")
            return
        known = None if insecure else auth.known(tokens)
        _require("fastapi", "prometheus_client")
        deployment.check_free(host, port)
        served.check()
        for name, digest in served.digests.items():
            print(f"serving    {name} {digest[:12]}", flush=True)
        from raygen.cluster.connect import connected

        with (
            haproxy.prepared(served.spec.timeout_s),
            connected(verbose, training=False, meanwhile="raygen.serving.endpoint"),
            deployment.served(served.uris, served.spec, known, host, port, resources=served.resources) as url,
        ):
            stop = _on_signals()  # now: Ray has handlers of its own
            print(f"page       {url}/", flush=True)
            print(f"API        {url}/v1/generate, told by {url}/openapi.json", flush=True)
            print("answering  until it is interrupted (Ctrl-C)", flush=True)
            stop.wait()
            print("stopping   what is under way is answered first", flush=True)
            if not verbose:
                sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - Ray tells of what it has ended


def token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who is to have it; for the log and the limits.")],
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Add it to this list of tokens, for serve --tokens.")
    ] = None,
    rows: Annotated[int | None, typer.Option("--rows", min=1, help="It may ask for in 24 hours.")] = None,
    concurrent: Annotated[int | None, typer.Option("--concurrent", min=1, help="Rows under way at once.")] = None,
    requests: Annotated[int | None, typer.Option("--requests", min=1, help="Requests in a minute.")] = None,
    metrics: Annotated[bool, typer.Option("--metrics", help="/metrics tells it the names of all tokens.")] = False,
    expires: Annotated[str | None, typer.Option("--expires", metavar="DATE", help="From when on it is not good.")] = None,
    debug: Debug = False,
) -> None:
    """Make a token for whoever is to ask an endpoint. It is printed once; the list has only its SHA-256."""
    with errors(debug):
        from raygen.serving import auth

        limits = {"rows": rows, "concurrent": concurrent, "requests": requests, "metrics": metrics or None}
        secret, entry = auth.issue(name, **limits, expires=expires)
        if file is None:
            typer.echo("add this line to the list of tokens, and give the token to whoever it is for:", err=True)
            typer.echo(entry, err=True)
        else:
            auth.add(file, entry)
            typer.echo(f"added {name} to {file}; the token, which is nowhere else:", err=True)
        print(secret)


def _require(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise RaygenError(f"raygen serve needs the package {package}", "pip install 'raygen[serve]'")


def _check_who_is_let_in(host: str, insecure: bool, tokens: Path | None) -> None:
    if not insecure:
        return
    if tokens is not None:
        raise RaygenError("--insecure and --tokens say different things", "leave one out")
    if not _is_loopback(host):
        raise RaygenError(f"--insecure on {host} would let in everybody there", "leave out --host, or give --tokens FILE")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _on_signals() -> threading.Event:
    """What the first interrupt sets; the second ends everything at once."""
    stop = threading.Event()

    def stopping(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(130)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stopping)
    return stop
