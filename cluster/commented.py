"""YAML with comments, for people to edit."""

import hashlib
import re
from typing import Any

import yaml

from raygen.dialect import Dumper

Document = dict[str, Any]
"""What is written, in its order; some of it are comments, see ``said``."""


def said(*lines: str) -> Document:
    """Comments, to be put between the entries of a document."""
    return {f"#{hashlib.sha256(line.encode()).hexdigest()[:12]}": line for line in lines}


def dump(document: Document) -> str:
    """The YAML; text of several lines is shown as those."""
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return _COMMENT.sub(lambda found: f"{found[1]}# {yaml.safe_load(found[2])}", text)


class _Dumper(Dumper):
    pass


def _shown(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _shown)
_COMMENT = re.compile(r"^([ -]*)'#[0-9a-f]{12}': (.*)$", re.MULTILINE)
