"""What Ray itself thinks of a cluster's file: its schema, and how ``ray up`` prepares the file before all else."""

import contextlib
import copy
import functools
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raygen.cluster.config import ClusterConfig, Mistake
from raygen.errors import did_you_mean

ASKED = ("aws", "gcp")
"""Clouds that Ray asks for the resources of a machine, where the file does not say them."""
_LEGACY = ("head_node", "worker_nodes")


@functools.cache
def schema() -> dict[str, Any]:
    """Ray's."""
    import ray.autoscaler

    found: dict[str, Any] = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    return found


def mistakes(config: ClusterConfig) -> Iterator[Mistake]:
    """Everything that is not as the schema has it."""
    from jsonschema import Draft7Validator

    for error in Draft7Validator(schema()).iter_errors(config.document):
        path, line = tuple(error.absolute_path), config.line(*error.absolute_path)
        name = ".".join(map(str, path))
        if error.validator == "additionalProperties":
            known = list(error.schema.get("properties", ()))
            for key in sorted(set(map(str, error.instance)) - set(known)):
                if path or (found := _outdated(config, key)) is None:
                    told = ".".join([*map(str, path), key])
                    found = Mistake(
                        config.line(*path, key),
                        f"unknown key {told}{did_you_mean(key, known)}",
                        f"known keys{f' of {name}' if path else ''}: {', '.join(known)}",
                    )
                if found.what:
                    yield found
        elif error.validator == "required":
            for key in error.validator_value:
                if key not in error.instance and not (key == "resources" and config.provider in ASKED):
                    yield Mistake(line, f"{'.'.join([*map(str, path), key])} is missing", _how_to_add(config, key))
        elif error.validator == "type":
            kinds = error.validator_value if isinstance(error.validator_value, list) else [error.validator_value]
            yield Mistake(line, f"{name} is {error.instance!r}", f"it should be of the type {' or '.join(kinds)}")
        else:
            yield Mistake(line, f"{name}: {error.message}", "see Ray's schema of cluster files")


def _outdated(config: ClusterConfig, key: str) -> Mistake | None:
    """Keys at the top that the schema does not know, but Ray does."""
    if key == "min_workers":
        hint = "write it into the node types that are to be there always"
        return Mistake(config.line(key), "" if config.provider == "local" else "min_workers at the top does nothing", hint)
    if key in _LEGACY:
        hint = "use available_node_types and head_node_type" if config.provider != "local" else "leave it out"
        return Mistake(config.line(key), f"{key} is of another age: Ray does not read it any more", hint)
    return None


def _how_to_add(config: ClusterConfig, key: str) -> str:
    blocks = [name for name, block in config.at("metadata").items() if isinstance(block, dict) and key in block]
    if blocks:
        return f"add the line `<<: *{blocks[0]}`" + "".join(f", or `<<: *{name}`" for name in blocks[1:])
    return "add it"


def prepared(config: ClusterConfig) -> dict[str, Any]:
    """The file with Ray's defaults, as ``ray up`` prepares it.

    Raises:
        Exception: of any kind; Ray refuses it.
    """
    from ray.autoscaler._private.util import prepare_config

    with _hushed():
        found: dict[str, Any] = prepare_config(copy.deepcopy(config.document))
    return found


def refusal(config: ClusterConfig) -> Mistake | None:
    """Why Ray refuses the file; None where it does not."""
    from ray.autoscaler._private.providers import _NODE_PROVIDERS
    from ray.autoscaler._private.util import validate_config

    if config.provider not in _NODE_PROVIDERS:
        known = [name for name in _NODE_PROVIDERS if name not in ("readonly", "external") and not name.startswith("fake")]
        return Mistake(
            config.line("provider", "type"),
            f"provider.type is {config.provider!r}{did_you_mean(config.provider, known)}",
            f"known: {', '.join(known)}",
        )
    try:
        document = prepared(config)
        for kind in document.get("available_node_types", {}).values():
            if config.provider in ASKED:
                kind.setdefault("resources", {})
        validate_config(document)
    except Exception as error:
        reason = " ".join(str(getattr(error, "message", None) or error).split()) or type(error).__name__
        return Mistake(config.line("provider"), f"Ray refuses the file: {reason}", "mend that; ray up would say the same")
    return None


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Ray prints what it thinks of a file, besides raising it; and logs what it fills in."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
