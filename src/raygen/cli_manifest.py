"""The command ``raygen cluster manifest``: a spec for Kubernetes."""

from pathlib import Path
from typing import Annotated

import typer

from raygen.cluster.kinds import Job, Kind
from raygen.console import Debug, Overrides, Quiet, errors
from raygen.errors import RaygenError


def manifest(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The spec, a YAML file (raygen init writes one).")],
    kind: Annotated[Kind, typer.Option("--kind", help="A job, an endpoint, or a cluster to submit jobs to.")],
    job: Annotated[Job, typer.Option("--job", help="Which job, with --kind job.")] = "run",
    image: Annotated[
        str | None, typer.Option("--image", metavar="IMAGE", help="What the Dockerfile made; raygen:VERSION by default.")
    ] = None,
    set_: Overrides = Quiet,
    namespace: Annotated[str | None, typer.Option("--namespace", metavar="NAME", help="Of Kubernetes.")] = None,
    secret: Annotated[
        list[str],
        typer.Option(
            "--secret", metavar="NAME", help="A Secret whose entries become variables: S3's, RAYGEN_TOKENS. Repeatable."
        ),
    ] = Quiet,
    volume: Annotated[
        list[str], typer.Option("--volume", metavar="CLAIM:/mnt/…", help="A volume that all pods mount. Repeatable.")
    ] = Quiet,
    node_selector: Annotated[
        list[str],
        typer.Option(
            "--node-selector", metavar="GROUP:KEY=VALUE", help="A label of the nodes for a group of pods. Repeatable."
        ),
    ] = Quiet,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="The job may replace another job's dataset.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Instead of printing it.")] = None,
    debug: Debug = False,
) -> None:
    """Write what Kubernetes needs to run a spec: a RayJob, a RayService or a RayCluster, for the operator KubeRay."""
    with errors(debug):
        if kind != "job" and (job != "run" or overwrite):
            given = "--overwrite" if overwrite else "--job"
            raise RaygenError(f"{given} is about a job, and --kind is {kind}", f"leave {given} out, or give --kind job")
        from raygen.cluster.manifests import written
        from raygen.cluster.options import Options
        from raygen.load import load_spec

        options = Options(kind, job, overwrite, image, namespace, secret, volume, node_selector)
        text = written(load_spec(spec, set_), options)
        if output is None:
            print(text, end="")
            return
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise RaygenError(f"{output}: cannot be written ({error.strerror})", "choose another place") from None
        print(f"wrote {output}; now: kubectl apply --filename {output}")
