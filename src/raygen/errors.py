"""What raygen raises.

    RaygenError          a mistake the user can mend: one line what and where, one line what to do
    ├── SpecError        the spec, or a --set
    ├── DataError        the dataset
    ├── OutputError      the storage, an output, a file that raygen wrote
    ├── ResourceError    the cluster has not got what was asked for
    └── GateError        the generator was made, but is not good enough to publish

The command line prints both lines, shows no traceback (``--debug`` does), and exits with ``exit_code``.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class RaygenError(Exception):
    """A mistake the user can mend.

    Args:
        what: what was wrong, and where (key path, file, row, URI); one line.
        hint: what to do about it; one line.
    """

    exit_code = 2

    def __init__(self, what: str, hint: str) -> None:
        what, hint = (" ".join(text.splitlines()) for text in (what, hint))  # reasons and names may bring lines of their own
        super().__init__(what, hint)  # both in args, so that it survives pickling between Ray processes
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}\n  {self.hint}"


class SpecError(RaygenError):
    """The spec, or a ``--set``, is wrong."""


class DataError(RaygenError):
    """The dataset is missing, empty, unreadable or not what the spec says."""


class OutputError(RaygenError):
    """The storage or an output cannot be used."""


class ResourceError(RaygenError):
    """The cluster has not got what was asked for."""


class GateError(RaygenError):
    """The generator did not pass its gate; nothing is published.

    Args:
        failed: the entries of the report's ``gate`` that were not passed.
    """

    exit_code = 3

    def __init__(self, what: str, hint: str, failed: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(what, hint)
        self.failed = failed


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'epochs'?"``, or nothing where nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
