"""What a spec may ask of machines: `resources:`, for each worker of a job."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer
from pydantic import model_validator as validator

from raygen.options import Strict

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KkMGTP])(i?))?B?")
_POWERS = "KMGTP"
MARKET, ACCELERATOR_TYPE = "ray.io/market-type", "ray.io/accelerator-type"
"""Labels that Ray's own tools give nodes: how they are bought, and their kind of GPU."""
LEAST_MEMORY = 1 << 20
"""Bytes below which a size has surely lost its unit."""

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_KEY = re.compile(rf"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{{0,251}}[A-Za-z0-9])?/)?{_NAME}")
_ONE = re.compile(rf"(!?)({_NAME})")
_LISTED = re.compile(rf"(!?)in\(({_NAME}(?:, ?{_NAME})*)\)")


def parse_size(value: Any) -> int:
    """Bytes, as in ``16GiB``: by powers of 1024 (``KiB``, ``MiB``, …, also ``Ki``), or of 1000 (``GB``, also ``G``).

    Raises:
        ValueError: it is no size.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (found := _SIZE.fullmatch(value.strip())):
        number, letter, binary = found.groups()
        power = _POWERS.index(letter.upper()) + 1 if letter else 0
        size = int(float(number) * (1024 if binary else 1000) ** power)
    else:
        raise ValueError(f"memory is {value!r}, which is no size: give it with a unit, such as 16GiB")
    if size < LEAST_MEMORY:
        raise ValueError(f"memory is {value!r}, which is {size} bytes: give it with a unit, such as 16GiB")
    return size


def told_size(size: float) -> str:
    """A size for people: ``1.5 GiB``."""
    for power in range(len(_POWERS), 0, -1):
        if size >= 1024**power:
            return f"{round(size / 1024**power, 1):g} {_POWERS[power - 1]}iB"
    return f"{size:g} bytes"


def _written(size: int | None) -> str | int | None:
    """A size as a spec says it, and nothing is lost."""
    if size is None:
        return None
    power = next(power for power in range(len(_POWERS), -1, -1) if size % 1024**power == 0)
    return f"{size // 1024**power}{_POWERS[power - 1]}iB" if power else size


def matches(wanted: str, value: str | None) -> bool:
    """Whether a label of a node is what is wanted of it, as Ray sees it: ``spot``, ``!spot``, ``in(a, b)``, ``!in(a, b)``.

    Args:
        value: None where the node has no such label; then it is none of those that are not wanted.
    """
    found = _LISTED.fullmatch(wanted) or _ONE.fullmatch(wanted)
    negated, listed = found.groups() if found else ("", wanted)
    return (value in re.split(", ?", listed)) != bool(negated)


class Resources(Strict):
    """What is reserved for each worker.

    Attributes:
        cpus: which what a worker reads and writes takes, too.
        gpus: whole ones, or a share of one.
        accelerator: the kind of GPU, as Ray names it: ``A100``, ``L4``, ….
        memory: bytes; written as ``16GiB``.
        labels: of the nodes to work on, as Ray selects them: a value, ``!`` a value, ``in(a, b)`` or ``!in(a, b)``.
    """

    cpus: NonNegative = 1.0
    gpus: NonNegative = 0.0
    accelerator: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] | None = None
    memory: Annotated[
        Annotated[int, BeforeValidator(parse_size)] | None, PlainSerializer(_written, return_type=str | int | None)
    ] = None
    labels: dict[str, str] = Field(default_factory=dict)

    @validator(mode="before")
    @classmethod
    def _an_accelerator_is_one(cls, document: Any) -> Any:
        if isinstance(document, dict) and document.get("accelerator") is not None:
            return {"gpus": 1.0, **document}
        return document

    @validator(mode="after")
    def _can_be_reserved(self) -> "Resources":
        if self.gpus > 1 and self.gpus % 1:
            raise ValueError(f"gpus is {self.gpus:g}: Ray reserves whole GPUs, or a share of one")
        if self.accelerator is not None and not self.gpus:
            raise ValueError(f"accelerator is {self.accelerator!r}, and gpus is 0: leave one out")
        if not self.gpus and not self.cpus:
            raise ValueError("cpus and gpus are both 0: a worker takes one of them at least")
        for key, wanted in self.labels.items():
            if not _KEY.fullmatch(key):
                raise ValueError(f"labels has the key {key!r}, which no label has: letters, digits, - _ . and one /")
            if not (_ONE.fullmatch(wanted) or _LISTED.fullmatch(wanted)):
                raise ValueError(f"labels.{key} is {wanted!r}: give a value, !value, in(a, b) or !in(a, b)")
        return self

    def __str__(self) -> str:
        """``4 CPUs, 1 GPU (A100) and 16 GiB of memory``."""
        parts = [f"{self.cpus:g} CPU{'s' * (self.cpus != 1)}"] * bool(self.cpus)
        if self.gpus:
            kind = f" ({self.accelerator})" if self.accelerator else ""
            parts.append(f"{self.gpus:g} GPU{'s' * (self.gpus > 1)}{kind}")
        if self.memory is not None:
            parts.append(f"{told_size(self.memory)} of memory")
        return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]])) or "no resources"


class ResourcesSpec(Strict):
    """By job. A job that is not named here takes what is there: see the README's "Clusters"."""

    train: Resources | None = None
    evaluate: Resources | None = None
    augment: Resources | None = None
    serve: Resources | None = None
