"""The YAML that specs are written in: YAML 1.1, but that ``5e-4`` is a number."""

import re
from typing import Any

import yaml


class Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``5e-4`` as text; people mean the number."""


class Dumper(yaml.SafeDumper):
    """Puts in quotes what the loader would read as a number."""


for _class in (Loader, Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )

UNREADABLE = (ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What PyYAML lets through on values that only look like a date or a number, and on documents without an end."""


def told(error: yaml.YAMLError, where: str) -> str:
    """What is wrong with a file, and in which line."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{where}{f':{mark.line + 1}' if mark else ''}: is not YAML: {problem}"


def dump(document: dict[str, Any]) -> str:
    return str(yaml.dump(document, Dumper=Dumper, sort_keys=False))
