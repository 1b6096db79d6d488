"""What is asked for of a manifest beside the spec, and whether the spec's places are the same in all pods."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from raygen.cluster.kinds import Job, Kind
from raygen.cluster.pods import Group
from raygen.errors import OutputError, SpecError, did_you_mean
from raygen.resources import is_plain, places
from raygen.spec import Spec

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_SELECTED = re.compile(
    r"([a-z0-9][a-z0-9-]*):((?:[a-z0-9.-]+/)?[A-Za-z0-9][A-Za-z0-9_.-]*)=([A-Za-z0-9][A-Za-z0-9_.-]{0,62})"
)
_TAKEN = ("/", "/dev", "/etc", "/home", "/proc", "/sys", "/tmp", "/usr")  # noqa: S108


@dataclass(frozen=True)
class Options:
    """What is asked for beside the spec.

    Attributes:
        kind: of what.
        job: which job a RayJob does.
        overwrite: whether it may replace another job's dataset.
        image: with raygen; without it, what the Dockerfile is said to make.
        namespace: of Kubernetes; without it, the one that whoever applies the manifest is in.
        secrets: names of Secrets whose entries become variables: credentials of S3, and ``RAYGEN_TOKENS``.
        volumes: ``CLAIM:/mnt/…``: claims of volumes, and where all pods mount them.
        selectors: ``GROUP:KEY=VALUE``: labels of the nodes that pods of a group may run on.
    """

    kind: Kind
    job: Job = "run"
    overwrite: bool = False
    image: str | None = None
    namespace: str | None = None
    secrets: Sequence[str] = ()
    volumes: Sequence[str] = ()
    selectors: Sequence[str] = ()


def check(options: Options) -> None:
    """Fail where a word of it is none.

    Raises:
        SpecError: it is not.
    """
    if options.kind == "service" and not options.secrets:
        raise SpecError(
            "an endpoint needs tokens, so that not everybody may ask",
            "kubectl create secret generic NAME --from-literal=RAYGEN_TOKENS=ana:$(raygen token ana), and --secret NAME",
        )
    for name in options.secrets:
        if not _NAME.fullmatch(name):
            raise SpecError("--secret: is no name of a Secret", "give its name, and no value: kubectl get secrets")
    if options.namespace is not None and not _LABEL.fullmatch(options.namespace):
        raise SpecError(f"--namespace {options.namespace}: is no name", "letters a to z, digits and -, at most 63")
    if options.image is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*", options.image):
        raise SpecError(f"--image {options.image!r}: is no image", "as in raygen:0.1.0, or example.org/raygen@sha256:…")


def volumes(given: Sequence[str]) -> dict[str, str]:
    """Claims, by where they are mounted.

    Raises:
        SpecError: one is none.
    """
    found: dict[str, str] = {}
    for volume in given:
        claim, _, path = volume.partition(":")
        folder = str(PurePosixPath(path))
        if not _NAME.fullmatch(claim) or not path.startswith("/") or ".." in PurePosixPath(path).parts or folder in _TAKEN:
            raise SpecError(f"--volume {volume}: is not of the form CLAIM:/mnt/…", "for example: --volume data:/mnt/data")
        if folder in found:
            raise SpecError(f"--volume: {folder} is there twice", "leave one out")
        found[folder] = claim
    return found


def check_shared(spec: Spec, mounted: Mapping[str, str]) -> None:
    """Fail where pods would each see another folder.

    Raises:
        OutputError: they would.
    """
    for key, path in places(spec).items():
        if is_plain(path):
            raise OutputError(
                f"{key}: {path} is a folder of one machine, and every pod has its own",
                "give s3://…, or file:///mnt/… on a volume that all of them mount (--volume CLAIM:/mnt/…)",
            )
        if not path.startswith("file:"):
            continue
        folder = PurePosixPath("/" + path.removeprefix("file:").lstrip("/"))
        if not any(folder.is_relative_to(mount) for mount in mounted) or ".." in folder.parts:
            raise OutputError(
                f"{key}: {path} is on no volume that the pods mount",
                f"name the claim of a volume that many may mount: --volume CLAIM:{folder.parent}",
            )


def selectors(given: Sequence[str], made: Sequence[Group]) -> dict[str, dict[str, str]]:
    """Labels of nodes, by group.

    Raises:
        SpecError: one is none, or of no group; or a kind of GPU is asked for, and nobody says which nodes have it.
    """
    known = [group.name for group in made]
    found: dict[str, dict[str, str]] = {}
    for selector in given:
        if not (match := _SELECTED.fullmatch(selector)):
            raise SpecError(
                f"--node-selector {selector}: is not of the form GROUP:KEY=VALUE",
                f"for example: --node-selector {known[-1]}:nvidia.com/gpu.product=NVIDIA-L4",
            )
        group, key, value = match.groups()
        if group not in known:
            raise SpecError(
                f"--node-selector {selector}: there is no group {group!r}{did_you_mean(group, known)}",
                f"groups of this spec: {', '.join(known)}",
            )
        found.setdefault(group, {})[key] = value
    for group in made:
        if group.accelerator is not None and group.name not in found:
            raise SpecError(
                f"a GPU of the kind {group.accelerator} is asked for, and Kubernetes does not know which nodes have it",
                f"name a label of theirs (kubectl get nodes --show-labels): --node-selector {group.name}:KEY=VALUE",
            )
    return found
