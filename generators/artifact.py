"""The artifact of a generator: a folder with ``generator.json``, ``weights.safetensors`` and a model card.

Its digest is the SHA-256 of what decides the rows: family and options, codec, tile and weights. The lineage (data, spec,
versions, training metrics) is told beside it and does not change it. Nothing in an artifact is a pickle.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from raygen.datasets.storage import Folder
from raygen.errors import OutputError

FORMAT = 1
DOCUMENT, WEIGHTS, CARD = "generator.json", "weights.safetensors", "README.md"


def digest(identity: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over the canonical JSON of the identity and over every tensor's name, type, shape and bytes."""
    state = hashlib.sha256(canonical(identity))
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        state.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        state.update(tensor.numpy().tobytes())
    return state.hexdigest()


def canonical(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def write(folder: Folder, document: Mapping[str, Any], weights: Mapping[str, Tensor], card: str) -> None:
    """Write an artifact; its document last, so that a folder without one is not an artifact yet."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    folder.write(WEIGHTS, safetensors.torch.save(contiguous))
    folder.write(CARD, card.encode())
    folder.write(DOCUMENT, json.dumps(document, indent=1, ensure_ascii=False).encode())


def read(folder: Folder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The document and the weights.

    Raises:
        OutputError: there is no artifact, it is of a newer format, or a file of it is broken.
    """
    try:
        document = json.loads(folder.read(DOCUMENT))
        if not isinstance(document, dict):
            raise ValueError(f"{DOCUMENT} is not an object")
        if document.get("format") != FORMAT:
            raise OutputError(
                f"{folder.uri}: its format is {document.get('format')!r}, this raygen reads {FORMAT}", "upgrade raygen"
            )
        if missing := {"digest", "identity", "lineage"} - document.keys():
            raise ValueError(f"{DOCUMENT} has no {min(missing)}")
        weights = safetensors.torch.load(folder.read(WEIGHTS))
    except FileNotFoundError as error:
        raise OutputError(
            f"{folder.uri}: is not a generator ({error.filename or error} is not there)",
            "give the folder of an artifact: <storage>/<name>/generators/<digest>",
        ) from None
    except (ValueError, SafetensorError) as error:
        raise OutputError(f"{folder.uri}: the generator is broken ({error})", "train it again") from None
    if digest(document["identity"], weights) != document["digest"]:
        raise OutputError(f"{folder.uri}: the generator is not what its digest says", "train it again")
    return document, weights
