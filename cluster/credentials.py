"""What looks like a credential in text that others will see."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raygen.errors import SpecError

_NAMES = r"token|secret|passw(?:or)?d|signature|credential|access[-_]?key|api[-_]?key|accountkey"
_LOOKS = (
    re.compile(r"://[^\s/@]*@"),  # user@host
    re.compile(r"://[^\s/@:]+:(?!\d+(?:/|$))[^\s@]*@"),  # user:password@host, and the password may have slashes
    re.compile(rf"[?&;#](?:sig|[^=&;#\s]*(?:{_NAMES})[^=&;#\s]*)=", re.IGNORECASE),  # a signed URL
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),  # the name of an AWS key
    re.compile(r"\brg_[A-Za-z0-9_-]{30,}"),  # raygen token
)


def refuse(document: Mapping[str, Any], where: str) -> None:
    """Fail where a document has one. It is not told, only its place.

    Raises:
        SpecError: it has.
    """
    for path, text in _texts(document, ()):
        if any(look.search(text) for look in _LOOKS):
            raise SpecError(
                f"{where}: what {'.'.join(path)} says looks like a credential, and everybody could read it",
                "leave it out: its client reads it from a variable, which the cluster has, or a Secret (--secret)",
            )


def _texts(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, (*path, str(key)))
    elif isinstance(value, Sequence):
        for number, inner in enumerate(value):
            yield from _texts(inner, (*path, str(number)))
