"""The report: one HTML file that needs nothing else, made of what ``evaluate``, ``train`` and ``augment`` wrote."""

import base64
import hashlib
import io
import json
from itertools import chain
from typing import Any

import numpy as np

from raygen.datasets.storage import Folder
from raygen.errors import RaygenError
from raygen.jobs.project import REPORT, Project, read_json

PAGE = "report.html"
MOST_COLUMNS = 24
"""Of a table, that are drawn."""
EXPLAINED = {
    "label_agreement": "share of rows that a classifier trained on real rows takes for the class that was asked for",
    "frechet_distance": "distance of the features' means and covariances from those of held-out real rows",
    "classifier_score": "certainty and variety of the classifier's predictions: the Inception Score's formula",
    "precision": "share of synthetic rows that lie among real ones: are they plausible?",
    "recall": "share of real rows that lie among synthetic ones: is the variety there?",
    "density": "how deep among real rows the synthetic ones lie; 1 is like real rows",
    "coverage": "share of real rows with a synthetic one nearby: is anything left out?",
    "quality": "the mean of the next two, as SDMetrics has it",
    "column_shapes": "how alike the columns' distributions are: 1 − Kolmogorov–Smirnov, or 1 − total variation distance",
    "pair_trends": "how alike correlations and contingency tables of related columns are",
    "discriminator_auc": "how well a classifier tells synthetic rows from real ones: 0.5 not at all, 1 always",
    "identical_share": "share of rows that equal a training row; beside it, that of held-out rows, which do so by chance",
    "membership_auc": "how well training rows are told from held-out ones by the nearest synthetic row: 0.5 not at all",
    "closer_share": "share of synthetic rows that are closer to training rows than to as many held-out ones: 0.5 is even",
    "kernel_distance": "distance of the features under a kernel, whatever the number of rows; around 0 for real rows",
    "close_share": "share of synthetic rows nearer to a training row than all but 5 % of held-out rows are",
    "close_ratio": "the same of the nearest training row’s distance over the second nearest’s: near copies",
    "synthetic_f1": "macro F1 on held-out real rows of a model that learnt from synthetic rows alone; beside it, from real",
    "lift": "how much more macro F1 real and synthetic rows give than real ones alone",
    "negative_log_likelihood": "−log p of a held-out row, in nats, at most (importance-weighted bound)",
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
    environment = jinja2.Environment(loader=jinja2.PackageLoader("raygen.jobs", "."), autoescape=True)
    manifest = project.output.manifest() if project.spec.augment else None
    history = _history(project.run)
    page = environment.get_template("report.html").render(
        report=report,
        manifest=manifest,
        output=project.output.folder.uri if manifest else None,
        classes=_classes(report, manifest),
        explained=EXPLAINED,
        pictures=None if report.get("by_column") is not None else _pictures(project.report),
        most_columns=MOST_COLUMNS,
        columns=_columns(report["by_column"]) if report.get("by_column") else None,
        curves=_curves(history) if history else None,
        epochs=len(history),
        spec=project.spec.to_yaml(),
        run=project.run.uri,
        mark=_mark(project),
    )
    project.report.write(PAGE, page.encode())
    return project.report


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
    files = {name: folder.read(f"{name}.png") for name in ("real", "synthetic", "neighbours")}
    return {name: "data:image/png;base64," + base64.b64encode(file).decode() for name, file in files.items()}


def _columns(by_column: list[dict[str, Any]]) -> str:
    """The distributions of columns as one SVG: real rows as bars, synthetic ones as a line; of many the worst."""
    from matplotlib.figure import Figure

    worst = sorted(by_column, key=lambda column: column["shape"])[:MOST_COLUMNS]
    shown = [column for column in by_column if column in worst]
    figure = Figure(figsize=(9, 1.9 * -(-len(shown) // 3)), layout="constrained")
    for index, column in enumerate(shown):
        axes, found = figure.add_subplot(-(-len(shown) // 3), 3, index + 1), column["histogram"]
        places = np.arange(len(found["real"]))
        axes.bar(places, found["real"], color="#8a94a6", width=0.9)
        axes.step(places, found["synthetic"], where="mid", color="#3b7dd8", linewidth=1.5)
        axes.set_title(_short(column["column"], 28), fontsize=9, loc="left", parse_math=False)
        ends = found["places"][:: max(1, len(found["places"]) - 1)]
        axes.set_xticks([places[0], places[-1]] if len(places) > 1 else places, [_end(value) for value in ends[:2]])
        for label, side in zip(axes.get_xticklabels(), ("left", "right"), strict=False):
            label.set(horizontalalignment=side, parse_math=False)
        _plain(axes)
    return _svg(figure)


def _end(value: Any) -> str:
    """A value below an axis."""
    return _short(value, 14) if isinstance(value, str) else f"{value:.4g}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _plain(axes: Any) -> None:
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)


def _svg(figure: Any) -> str:
    """In the colours of the page around it."""
    import matplotlib

    figure.patch.set_alpha(0)
    buffer = io.StringIO()
    # Text and lines in black become the page's own colour; text stays text.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "raygen"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace("#000000", "currentColor")


def _curves(history: list[dict[str, Any]]) -> str:
    """Every training metric over epochs as one SVG, some are not of every epoch."""
    from matplotlib.figure import Figure

    names = [name for name in dict.fromkeys(chain.from_iterable(history)) if name not in ("epoch", "step", "seconds")]
    figure = Figure(figsize=(9, 2.6 * -(-len(names) // 2)), layout="constrained")
    for index, name in enumerate(names):
        axes = figure.add_subplot(-(-len(names) // 2), min(2, len(names)), index + 1)
        known = [row for row in history if name in row]
        marker = "." if len(known) < len(history) or len(known) == 1 else ""
        epochs, values = [row["epoch"] for row in known], [row[name] for row in known]
        axes.plot(epochs, values, marker=marker, color="#3b7dd8", linewidth=1.5)
        axes.set_title(name.replace("_", " "), fontsize=10, loc="left")
        axes.set_xlabel("epoch", fontsize=8)
        _plain(axes)
    return _svg(figure)
