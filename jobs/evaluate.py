"""``evaluate``: say how good a generator is, each figure beside what real data scores against real data.

The held-out rows are split in two. One half is the reference; the other half, never seen by the generator nor by the
classifier, is the ceiling: it is compared with the reference just as the synthetic rows are, and as many of them.

What is evaluated is what ``augment`` will write: new rows, or variants of training rows, with the labels of those.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from raygen.datasets.storage import Folder
from raygen.generators import families
from raygen.generators.artifact import DOCUMENT
from raygen.generators.base import STRENGTH
from raygen.generators.generator import Generator
from raygen.jobs import allocate, elsewhere, evaluate_images, evaluate_tables, gate, ready, shared
from raygen.jobs.project import REPORT, Project, read_json, write_json
from raygen.jobs.registry import Registry
from raygen.metrics import pretrained
from raygen.resources import Demand
from raygen.spec import Spec

ADDED = {"rows", "balance", "allocate", "to", "classes", "variants", "where", "complete"}
"""What of ``augment`` decides which rows downstream models learn from."""
PACKAGES = ("scipy", "sklearn", "imblearn", "kornia")
"""What usefulness needs, and its rivals, and what may be missing."""
METRICS = 1
"""To be raised when a figure is computed in another way: reports with the earlier one are made anew."""


def evaluate(project: Project) -> dict[str, Any]:
    """Evaluate the spec's trained generator, or find that it has been.

    Returns:
        The report: ``summary``, a few lines; ``verdict`` (``passed``, ``failed``, or ``no gate``), ``metrics`` (``name``,
        ``value``, ``ceiling``, ``interval``, …), ``usefulness``, the gate's rules, figures by class or by column, and what
        was compared.

    Raises:
        RaygenError: no generator has been trained.
    """
    artifact = project.trained()
    if (known := evaluated(project)) is not None:
        return known
    require(project.spec)
    ready.require(project.spec, "evaluate")
    project.report.check_writable()
    report: dict[str, Any] = _where_asked(project, _evaluate, project, artifact)
    return report


def decide(project: Project, generator: Generator) -> dict[str, Any]:
    """Decide how many rows of each class are worth writing, or find that it is decided; see ``allocate``.

    Raises:
        RaygenError: as of ``allocate.decide``.
    """
    if (known := allocate.decided(project, generator)) is not None:
        return known
    ready.require(project.spec, "evaluate")
    decision: dict[str, Any] = _where_asked(project, allocate.decide, project, generator)
    return decision


def _where_asked(project: Project, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function here, or where the spec says that is evaluated."""
    if (each := project.spec.resources.evaluate) is None:
        return function(*arguments)
    return elsewhere.run(Demand("evaluate", 1, 1, each), function, *arguments)


def _evaluate(project: Project, artifact: Folder) -> dict[str, Any]:
    shared.require(artifact, DOCUMENT)
    generator = Generator.load(artifact.uri)
    spec, strength = project.spec, _strength(project.spec)
    allocation = allocate.decide(project, generator) if spec.allocates else None
    compare = evaluate_tables.compare if generator.codec.is_table else evaluate_images.compare
    compared = compare(project, generator, strength, None if allocation is None else allocation["counts"])
    rules = gate.judge(spec.gate, compared["metrics"])
    report = {
        "verdict": "no gate" if not rules else "passed" if all(rule["passed"] for rule in rules) else "failed",
        "project": spec.name,
        "generator": generator.digest,
        "family": spec.generator.family,
        "condition": spec.generator.condition,
        "variants": strength is not None,
        "gate": rules,
        "allocation": allocation,
        **compared,
        "packages": _packages(spec),
        "inputs": _inputs(project),
        "inputs_but_augment": _inputs(project, augment=False),
    }
    report["summary"] = _summary(report)
    Registry(project.folder).keep(report)
    write_json(project.report, REPORT, report)
    return report


def require(spec: Spec) -> None:
    """Fail now, rather than after the training, where the spec's generator could not be evaluated, or not by its gate.

    Raises:
        RaygenError: a package or file that ``evaluate.features`` or ``gate`` needs is missing, or will not do.
    """
    gate.require(spec)
    if not spec.is_table:
        evaluate_images.require(spec)


def evaluated(project: Project, augment: bool = True) -> dict[str, Any] | None:
    """The report on the spec's trained generator under the spec's gate, where there is one.

    Args:
        augment: whether it has to be of the rows that the spec asks for now.
    """
    known, name = read_json(project.report, REPORT), "inputs" if augment else "inputs_but_augment"
    if known is None or known.get(name) != _inputs(project, augment):
        return None
    # For want of a package something was not computed that can be now; where one is missing now, the report holds.
    return known if {*_packages(project.spec)} <= {*known["packages"]} else None


def _packages(spec: Spec) -> list[str]:
    """Those that are there, of those that usefulness needs."""
    return [name for name in PACKAGES if spec.evaluate.usefulness and find_spec(name) is not None]


def _inputs(project: Project, augment: bool = True) -> str:
    """All that decides the report but what is installed: the generator, the data it is compared with, the gate, and the rows
    that are added."""
    spec = project.spec
    rules = [rule.model_dump() for rule in spec.gate]
    judged = spec.evaluate.model_dump(mode="json")
    decides: list[Any] = [METRICS, project.trained().uri, project.run.uri, rules, _strength(spec), judged]
    if augment and spec.augment is not None and (spec.evaluate.usefulness or spec.allocates):
        decides.append(spec.augment.model_dump(mode="json", include=ADDED))
    if spec.evaluate.file is not None:
        decides.append(pretrained.version(spec.evaluate.file))
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()


def _strength(spec: Spec) -> float | None:
    """How far the variants go that ``augment`` will write; None where it writes new rows."""
    if spec.augment is not None and spec.augment.variants is not None:
        return STRENGTH if spec.augment.strength is None else spec.augment.strength
    return None if families.family(spec.generator.family).learns else STRENGTH


def _summary(report: Mapping[str, Any]) -> list[str]:
    """What is to be known of a report, the most important first."""
    metrics = {metric["name"]: metric for metric in report["metrics"] if metric["value"] is not None}
    useful = report["usefulness"]
    failed = ", ".join(dict.fromkeys(rule["metric"] for rule in report["gate"] if not rule["passed"]))
    verdict = {"passed": "passed its gate", "failed": f"failed its gate: {failed}", "no gate": "no gate was set"}
    lines = [verdict[report["verdict"]]]
    if (allocation := report["allocation"]) is not None:
        lines.append(allocation["because"])
    if allocation is not None and not any(allocation["counts"]):
        lines[0] += f"; augmentation is not worth it: {lines.pop()}"
    if useful is not None and "verdict" in useful:
        if useful["verdict"] != "helps":
            lines[0] += f"; {useful['summary'].partition(':')[0]}"
        lines.append(useful["summary"])
    elif useful is not None:
        lines.append(f"usefulness was not computed: {useful['because']}")
    if (member := metrics.get("membership_auc")) is not None:
        (low, high), copies = member["interval"], metrics["identical_share"]
        told = "can" if low > 0.5 else "could not"
        lines.append(
            f"privacy: training rows {told} be told from others (AUC {member['value']:.3f}, {low:.3f} to {high:.3f}); "
            f"{copies['value']:.2%} of rows equal a training row, {copies['ceiling']:.2%} of held-out ones; no guarantee"
        )
    return lines
