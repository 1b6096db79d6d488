"""Sending a job to a cluster: what is sent, under which name, and what is refused before anything is.

The same spec, job, options and code have the same name, so that sending them twice is one job; Ray Jobs takes a name once.
The code goes as a wheel that nodes unpack. Ray would have pip install a file that is called a wheel, and with it all that it
depends on, from an index; so it goes as the zip file that a wheel is.
"""

import base64
import hashlib
import json
import re
import shlex
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import distribution, version
from typing import cast

import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from raygen.cluster import credentials, wheel
from raygen.cluster.dashboard import Dashboard
from raygen.cluster.kinds import Job
from raygen.cluster.submissions import STOP_SECONDS, Attempt, attempts, look
from raygen.dialect import Loader
from raygen.errors import RaygenError, ResourceError, SpecError
from raygen.jobs import placement
from raygen.load import load_spec
from raygen.resources import local_paths
from raygen.spec import Spec

SPEC = "spec.yaml"
SHOWN = 64
"""Characters of a spec's name that are in the name of a job, and so in that of a file."""
_PYTHON = re.compile(r"--python_worker_command=(\S+)")


@dataclass(frozen=True)
class Request:
    """What is asked of a cluster.

    Attributes:
        overwrite: another job's dataset may be replaced.
        retries: how often its driver is begun again where it dies.
        environment: variables for its driver and all its workers, by name; perhaps secrets.
    """

    job: Job
    spec: Spec
    overwrite: bool = False
    retries: int = 0
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @cached_property
    def name(self) -> str:
        """By all that decides what it does."""
        return name(self.job, self.spec, self.overwrite, wheel.build().digest)

    @property
    def output(self) -> str:
        """Where what it makes will be."""
        spec = self.spec
        project = f"{spec.storage.rstrip('/')}/{spec.name}"
        if self.job in ("run", "augment") and spec.augment is not None:
            return spec.augment.output or f"{project}/dataset"
        return f"{project}/report" if self.job == "evaluate" else project

    @property
    def metadata(self) -> dict[str, str]:
        """What the cluster shows of it, and what making it again takes. No secrets."""
        return {
            "raygen": version("raygen"),
            "wheel": wheel.build().digest,
            "job": self.job,
            "name": self.spec.name,
            "output": self.output,
            "overwrite": json.dumps(self.overwrite),
            "retries": str(self.retries),
            "spec": _packed(self.spec.to_yaml()),
        }

    @property
    def variables(self) -> dict[str, str]:
        """The environment of its driver and its workers."""
        ours = {"RAYGEN_JOB": self.name, "RAYGEN_PROGRESS": "json", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
        return {**self.environment, **ours}


def name(job: str, spec: Spec, overwrite: bool, digest: str) -> str:
    """The name of a job.

    Args:
        digest: of the wheel.
    """
    inputs = {"job": job, "spec": spec.model_dump(mode="json", by_alias=True), "overwrite": overwrite, "wheel": digest}
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return f"raygen-{job}-{spec.name[:SHOWN]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def entrypoint(request: Request, python: str = "python") -> str:
    """The command of its driver."""
    command = [request.job, SPEC, *["--overwrite"] * request.overwrite]
    supervised = ["raygen.cluster.supervise", str(request.retries), "--"] if request.retries else ["raygen"]
    return shlex.join([python, "-m", *supervised, *command])


def check(request: Request) -> None:
    """Fail where a spec cannot mean the same elsewhere.

    Raises:
        SpecError: it has relative paths, or a credential, or there is nothing to do.
    """
    credentials.refuse(request.spec.model_dump(mode="json", by_alias=True), "the spec")
    if request.job == "augment":
        request.spec.require_augment()
    for key, path in local_paths(request.spec).items():
        if not path.startswith("/"):
            raise SpecError(
                f"{key}: {path} is another folder on the cluster",
                f"give s3://…, or file:///mnt/… for one that all its machines mount (--set {key}=…)",
            )


def check_versions(dashboard: Dashboard) -> str:
    """Fail where raygen would not run on what the cluster has; returns its version of Ray.

    Raises:
        ResourceError: it has another Ray, or a Python that is too old.
    """
    theirs, python = dashboard.version(), dashboard.python()
    ours = version("ray")
    if Version(theirs).release[:2] != Version(ours).release[:2]:
        minor = ".".join(map(str, Version(ours).release[:2]))
        raise ResourceError(
            f"{dashboard.cluster}: has Ray {theirs}, and here is Ray {ours}, which this raygen was made for",
            f"bring the cluster to Ray {minor}, or use here the raygen that goes with Ray {theirs}",
        )
    needed = distribution("raygen").metadata["Requires-Python"]
    if python is not None and needed and python not in SpecifierSet(needed):
        raise ResourceError(
            f"{dashboard.cluster}: has Python {python}, and raygen needs {needed}", "start the cluster with another Python"
        )
    return theirs


def check_room(dashboard: Dashboard, request: Request) -> None:
    """Fail where the cluster can never give what is asked, or has several machines and paths are of one.

    Raises:
        RaygenError: so it is.
    """
    placement.check(request.spec, [request.job], placement.of_dashboard(dashboard.nodes(), dashboard.status()))


def send(dashboard: Dashboard, request: Request, number: int = 1) -> Attempt:
    """Send an attempt, unless somebody else has just sent it; returns it in either case.

    Raises:
        ResourceError: the cluster does not take it.
    """
    spec = wheel.archive({SPEC: request.spec.to_yaml().encode()})
    id_ = request.name if number == 1 else f"{request.name}-{number}"
    document = {
        "entrypoint": entrypoint(request, _python(dashboard)),
        "metadata": request.metadata,
        "runtime_env": {
            "py_modules": [dashboard.upload(wheel.build().data)],
            "working_dir": dashboard.upload(spec),
            "env_vars": request.variables,
        },
    }
    dashboard.submit(id_, document)
    return look(dashboard, id_)


def last(dashboard: Dashboard, request: Request) -> Attempt | None:
    """The last attempt of this very job, whoever has sent it; None where there was none."""
    return next(reversed(attempts(dashboard).get(request.name, [])), None)


def again(attempt: Attempt) -> Request:
    """What an attempt was asked, to be asked again by anybody, anywhere.

    Raises:
        RaygenError: it was asked by another raygen, whose code is not here.
    """
    told = attempt.metadata
    theirs, ours = told.get("wheel", "unknown"), wheel.build().digest
    if theirs != ours:
        raise RaygenError(
            f"{attempt.job}: was sent by raygen {told['raygen']} with the digest {theirs[:12]}, here is "
            f"{version('raygen')} with {ours[:12]}",
            "submit its spec anew: raygen submit SPEC; what is done is not done again",
        )
    spec = load_spec(yaml.load(_unpacked(told["spec"]), Loader=Loader))  # noqa: S506 - Loader is a SafeLoader
    return Request(cast(Job, told["job"]), spec, json.loads(told["overwrite"]), int(told["retries"]), attempt.environment)


def _packed(text: str) -> str:
    """Metadata come to a driver in one variable, of which Linux takes 128 KiB, and a table may have thousands of columns."""
    return base64.b64encode(zlib.compress(text.encode())).decode()


def _unpacked(text: str) -> str:
    return zlib.decompress(base64.b64decode(text)).decode()


def _python(dashboard: Dashboard) -> str:
    """The Python that Ray itself runs on there: `python` of the shell that begins a driver may be another one."""
    head = next((node["node_id"] for node in dashboard.nodes() if node["is_head_node"] and node["state"] == "ALIVE"), None)
    command = [] if head is None else dashboard.process(head)
    found = next((match[1] for part in command if (match := _PYTHON.match(part))), None)
    return found or "python"
