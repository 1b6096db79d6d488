"""The report: one HTML file that needs nothing else, made of what ``evaluate``, ``train`` and ``augment`` wrote."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from raygen.datasets.storage import Folder
from raygen.errors import RaygenError
from raygen.generators import artifact
from raygen.generators.card import WARNING
from raygen.jobs import glossary, plots
from raygen.jobs.project import REPORT, Project, read_json
from raygen.metrics.usefulness import AUGMENTED

PAGE = "report.html"
MOST_COLUMNS = 24
"""Of a table, that are drawn; of more the least alike."""
MOST_CLASSES = 20
"""That usefulness is drawn of."""
SECTIONS = {
    "gate": "Gate",
    "fidelity": "Fidelity and diversity",
    "usefulness": "Usefulness",
    "privacy": "Privacy",
    "rows": "Real beside synthetic",
    "classes": "By class",
    "allocation": "Allocation",
    "training": "How it learnt",
    "dataset": "The dataset",
    "again": "How to make it again",
}


def require() -> None:
    """Fail now, rather than at the end, where the report could not be drawn.

    Raises:
        RaygenError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise RaygenError("the report needs matplotlib", "pip install 'raygen[report]'") from None


def current(project: Project) -> bool:
    """Whether the page shows the figures and the dataset of now."""
    try:
        return _mark(project).encode() in project.report.read(PAGE)
    except FileNotFoundError:
        return False


def _mark(project: Project) -> str:
    """Changes when what the page is made of does."""
    manifest = project.output.manifest() if project.spec.augment else None
    shown = [read_json(project.report, REPORT), manifest and manifest["plan"]]
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()


def write(project: Project) -> Folder:
    """Write ``report.html`` beside ``report.json`` and return its folder."""
    import jinja2

    report = read_json(project.report, REPORT)
    if report is None:
        raise RaygenError(f"{project.report.uri}: there is no {REPORT}", "evaluate first: raygen evaluate SPEC")
    # A table tells nothing of pictures, and the other way round.
    pictures = None if report.get("by_column") is not None else _pictures(project.report)
    environment = jinja2.Environment(loader=jinja2.PackageLoader("raygen.jobs", "."), autoescape=True)
    manifest = project.output.manifest() if project.spec.augment else None
    history = _history(project.run)
    use = report.get("usefulness")
    scored = _scored(use) if use and "scores" in use else []
    shown = {
        "gate": report["gate"],
        "usefulness": use,
        "classes": (classes := _classes(report, manifest)),
        "allocation": report.get("allocation"),
    }
    script, style = (Path(__file__).with_name(f"report.{kind}").read_text() for kind in ("js", "css"))
    page = environment.get_template("report.html").render(
        report=report,
        summary=report.get("summary") or [_verdict(report)],
        sections=[(name, called) for name, called in SECTIONS.items() if shown.get(name, True)],
        by_name={metric["name"]: metric for metric in report["metrics"]},
        bounds=_bounds(report["gate"]),
        explained=glossary.EXPLAINED,
        words=glossary,
        plots=plots,
        warning=WARNING,
        use=use,
        scored=scored,
        scores=plots.scores(use, scored) if use and scored else [],
        pictures=pictures,
        columns=plots.columns(_dated(project, report.get("by_column") or []), MOST_COLUMNS),
        classes=classes,
        curves=plots.curves(history),
        epochs=len(history),
        manifest=manifest,
        output=project.output.folder.uri if manifest else None,
        spec=project.spec.to_yaml(),
        watched=project.spec.train.watch is not None,
        run=project.run.uri,
        lineage=_lineage(project, report),
        mark=_mark(project),
        style=style,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    project.report.write(PAGE, page.lstrip().encode())  # macros leave their line ends
    return project.report


def _verdict(report: Mapping[str, Any]) -> str:
    """In a sentence, of a report that has none."""
    rules = [rule["because"] for rule in report["gate"] if report["verdict"] == "passed" or not rule["passed"]]
    told = {"passed": "Passed its gate: ", "failed": "Failed its gate; nothing was published: "}
    return told.get(report["verdict"], "No gate was set: judge the figures below, and add gate: to the spec") + "; ".join(
        rules
    )


def _bounds(gate: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """What the gate compares each metric with."""
    found: dict[str, list[float]] = {}
    for rule in gate:
        bounds = [rule["bound"]] if "bound" in rule else [rule.get("min"), rule.get("max")]
        found.setdefault(rule["metric"], []).extend(bound for bound in bounds if bound is not None)
    return found


def _scored(usefulness: Mapping[str, Any]) -> list[str]:
    """The classes that are drawn, in their order: of many, those with the largest lift either way."""
    by_class = usefulness["scores"].get(AUGMENTED, {}).get("by_class", {})
    lifts = {name: scored["lift"]["value"] for name, scored in by_class.items()}
    most = sorted(lifts, key=lambda name: -abs(lifts[name] or 0.0))[:MOST_CLASSES]
    return [name for name in lifts if name in most]


def _dated(project: Project, by_column: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The columns with times as text, instead of numbers in the unit of their Arrow type."""
    dated = []
    for column in by_column:
        column = {**column, "histogram": dict(column["histogram"])}
        if column["kind"] == "datetime":
            type_ = project.source.arrow.field(column["column"]).type
            counted = pa.array([round(place) for place in column["histogram"]["places"]], pa.int64())
            times = counted.cast(pa.int32() if type_.bit_width == 32 else pa.int64()).cast(type_).cast(pa.string())
            column["histogram"]["places"] = [time[:19] for time in times.to_pylist()]  # seconds are enough
        dated.append(column)
    return dated


def _lineage(project: Project, report: Mapping[str, Any]) -> dict[str, Any]:
    """What the generator is made of."""
    document = read_json(project.folder / "generators" / report["generator"], artifact.DOCUMENT)
    return document["lineage"] if document else {}


def _classes(report: dict[str, Any], manifest: dict[str, Any] | None) -> list[dict[str, Any]]:
    """By class: agreement, ceiling and the rows of the dataset."""
    counts = {} if manifest is None else {str(json.loads(key)): count for key, count in manifest["counts"].items()}
    rows = report["by_class"] or [{"class": value} for value in counts]
    return [{**row, "rows": counts.get(row["class"])} for row in rows]


def _history(run: Folder) -> list[dict[str, Any]]:
    """The metrics of every epoch; none where there was nothing to learn."""
    try:
        return [json.loads(line) for line in run.read("metrics.jsonl").splitlines()]
    except FileNotFoundError:
        return []


def _pictures(folder: Folder) -> dict[str, str]:
    names = [name for name in ("real", "synthetic", "neighbours") if folder.exists(f"{name}.png")]
    files = {name: folder.read(f"{name}.png") for name in names}
    return {name: "data:image/png;base64," + base64.b64encode(file).decode() for name, file in files.items()}
