"""Generators of a project, and reports on them, that nobody has trained or evaluated."""

from typing import Any

import torch

from raygen.datasets.storage import Folder
from raygen.generators import artifact
from raygen.jobs.registry import Registry


def add(folder: Folder, number: int, verdict: str | None = "passed", **spec: Any) -> str:
    """Put a generator into a project, evaluated unless the verdict is None; returns its digest."""
    weights = {"weight": torch.full((2, 2), float(number))}
    identity = {"generator": {"family": "vae", "condition": "label", "width": 8}, "codec": {}, "tile": 64}
    digest = artifact.digest(identity, weights)
    lineage = {"data": "d0", "rows": 600, "run": f"r{number}", "spec": spec, "versions": {"raygen": "0.1.0"}, "metrics": {}}
    document = {"format": artifact.FORMAT, "digest": digest, "identity": identity, "lineage": lineage}
    artifact.write(folder / "generators" / digest, document, weights, "a card")
    if verdict is not None:
        Registry(folder).keep(report(digest, verdict, 0.5 + number / 100))
    return digest


def report(digest: str, verdict: str, value: float = 0.5) -> dict[str, Any]:
    passed = verdict != "failed"
    because = f"label_agreement is {value:.4g}" + ("" if passed else ", the least is 0.9")
    figures = {"value": value, "ceiling": 0.9, "interval": [value - 0.1, value + 0.1]}
    metric = {"name": "label_agreement", **figures}
    asked = {"metric": "label_agreement", "min": 0.9, "max": None, "at_least": None, "at_most": None, "of": None}
    judged = {"compared": value, "bound": 0.9, "passed": passed, "because": because}
    rules = [{**asked, **figures, **judged}]
    gate = [] if verdict == "no gate" else rules
    return {"verdict": verdict, "generator": digest, "gate": gate, "metrics": [metric]}
