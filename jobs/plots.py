"""The report's plots: SVG in the colours of the page around it, to be read without JavaScript, and hovered over with it."""

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from raygen.jobs.glossary import UNBOUNDED, title, told, told_interval

MOST_MARKS = 60  # of a curve that tell their value
MOST_VALUES = 10  # of a category that are drawn
SIGNS = {"real": ("o", "●"), "synthetic": ("D", "◆"), "real + synthetic": ("s", "■"), "class weights": ("^", "▲")}
"""How ways to train are marked, in plots and in text, so that colour is not all that tells them apart."""
OTHER = ("v", "▼")
COLOURS = ["#000001", "#000002", "#000003", "#000004", "#000005"]
"""Stand for the page's ``--series-0`` …, which are others in the dark."""
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


class Panel(NamedTuple):
    """A plot: its name, its SVG, and text that says the same."""

    name: str
    svg: str
    told: str


class Drawing:
    """A figure of matplotlib whose marks belong to a series and say what they are."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(width, height), layout="constrained")
        self.axes = self.figure.add_subplot()
        self._marks: dict[str, tuple[int, str]] = {}

    def mark(self, artist: Any, series: int, told: str) -> None:
        name = f"mark-{len(self._marks)}"
        artist.set_gid(name)
        self._marks[name] = (series, told)

    def svg(self) -> str:
        """Text stays text, black becomes the page's own colour, and marks get a title, which browsers show on hovering."""
        import matplotlib

        self.axes.tick_params(labelsize=8)
        self.axes.grid(alpha=0.25)
        self.axes.set_axisbelow(True)
        self.axes.patch.set_alpha(0)
        self.figure.patch.set_alpha(0)
        self.axes.spines[["top", "right"]].set_visible(False)
        for label in (*self.axes.get_xticklabels(), *self.axes.get_yticklabels()):
            label.set_parse_math(False)
        buffer = io.StringIO()
        text_stays = matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "raygen"})
        with text_stays, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the browser's fonts have what matplotlib's lack
            self.figure.savefig(buffer, format="svg", metadata={"Date": None})
        # A name or a value may have characters that XML has not.
        text = re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", buffer.getvalue())
        return self._finished(text)

    def _finished(self, text: str) -> str:
        inks = {"#000000": "currentColor"} | {colour: f"var(--series-{n})" for n, colour in enumerate(COLOURS)}
        ElementTree.register_namespace("", SVG)
        ElementTree.register_namespace("xlink", XLINK)
        root = ElementTree.fromstring(text)  # noqa: S314  # it is matplotlib's
        used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
        for element in root.iter():
            for child in element.findall(f"{{{SVG}}}metadata"):
                element.remove(child)
            if style := element.get("style"):
                element.set("style", re.sub("#00000[0-5]", lambda found: inks[found[0]], style))
            name = element.get("id")
            if name in self._marks:
                series, told = self._marks[name]
                element.set("class", "mark")
                element.set("data-series", str(series))
                said = ElementTree.Element(f"{{{SVG}}}title")
                said.text = told
                element.insert(0, said)
            if name and name not in used:  # the page has several plots, and all begin to count at 1
                del element.attrib["id"]
        root.attrib.pop("width", None)
        root.attrib.pop("height", None)
        return ElementTree.tostring(root, encoding="unicode")


def columns(by_column: Sequence[Mapping[str, Any]], most: int) -> list[Panel]:
    """The distributions of columns, real rows as bars and synthetic ones as a line; of many columns the worst."""
    worst = {column["column"] for column in sorted(by_column, key=lambda column: column["shape"])[:most]}
    return [_column(column) for column in by_column if column["column"] in worst]


def _column(column: Mapping[str, Any]) -> Panel:
    found = column["histogram"]
    real, made, places = 100 * np.array(found["real"]), 100 * np.array(found["synthetic"]), found["places"]
    if of_values := len(places) == len(real):
        real, made, places = real[:MOST_VALUES], made[:MOST_VALUES], places[:MOST_VALUES]
        names = [short(str(value), 18) for value in places]
    else:
        names = [f"{_end(low)} to {_end(high)}" for low, high in pairwise(places)]
    said = [f"{name}: real {n:.1f} %, synthetic {m:.1f} %" for name, n, m in zip(names, real, made, strict=True)]
    drawing = Drawing(3.4, 0.45 + 0.17 * len(real) if of_values else 1.7)
    axes, at = drawing.axes, np.arange(len(real))
    bars = (axes.barh if of_values else axes.bar)(at, real, 0.8, color=COLOURS[0], alpha=0.45)
    lines = axes.vlines if of_values else axes.hlines
    for place, bar, m, text in zip(at, bars, made, said, strict=True):
        drawing.mark(bar, 0, text)
        drawing.mark(lines(m, place - 0.45, place + 0.45, color=COLOURS[1], linewidth=2.5), 1, text)
    if of_values:
        axes.set_yticks(at, names)
        axes.invert_yaxis()
        axes.xaxis.set_major_formatter("{x:g} %")
    else:
        axes.set_xticks([-0.5, len(real) - 0.5], [_end(places[0]), _end(places[-1])])
        first, last = axes.get_xticklabels()
        first.set_horizontalalignment("left")
        last.set_horizontalalignment("right")
        axes.yaxis.set_major_formatter("{x:g} %")
    return Panel(column["column"], drawing.svg(), "; ".join(said))


def _end(value: Any) -> str:
    """A value on an axis of numbers, or of times, which are text already."""
    return short(value, 19) if isinstance(value, str) else f"{value:,.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:.4g}"


def curves(history: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Every training metric over epochs; some are not of every epoch."""
    names = [name for name in dict.fromkeys(chain.from_iterable(history)) if name not in ("epoch", "step", "seconds")]
    return [_curve(name, [row for row in history if name in row], len(history)) for name in names]


def _curve(name: str, known: Sequence[Mapping[str, Any]], epochs: int) -> Panel:
    drawing = Drawing(4.4, 2.2)
    axes, few = drawing.axes, len(known) < epochs or len(known) == 1
    at, values = [row["epoch"] for row in known], [row[name] for row in known]
    axes.plot(at, values, marker="." if few else "", color=COLOURS[1], linewidth=1.5)
    for row in {id(row): row for row in (*known[:: -(-len(known) // MOST_MARKS)], known[-1])}.values():
        (point,) = axes.plot([row["epoch"]], [row[name]], marker="o", markersize=5, color=COLOURS[1])
        drawing.mark(point, 1, f"epoch {row['epoch']}: {row[name]:.4g}")
        point.set_alpha(0)
    axes.set_xlabel("epoch", fontsize=8)
    return Panel(title(name), drawing.svg(), f"from {values[0]:.4g} in epoch {at[0]} to {values[-1]:.4g} in epoch {at[-1]}")


def scores(usefulness: Mapping[str, Any], classes: Sequence[str]) -> list[Panel]:
    """F1 of every way to train, and what it gains over the real rows alone, overall and of classes, with 95 % intervals."""
    ways = list(usefulness["scores"])
    gains = [way for way in ways if way not in ("real", "synthetic")]
    return [
        _dots("F1 on real held-out rows", usefulness, classes, ways, "f1"),
        _dots("lift: F1 gained over real rows alone", usefulness, classes, gains, "lift"),
    ]


def _dots(name: str, usefulness: Mapping[str, Any], classes: Sequence[str], ways: Sequence[str], figure: str) -> Panel:
    lines = ["macro", *classes]
    every, sign, shown = list(usefulness["scores"]), figure == "lift", []
    drawing = Drawing(4.6, 0.5 + len(lines) * (0.15 + 0.085 * len(every)))  # so that lines lie beside each other's
    axes = drawing.axes
    for at, line in enumerate(lines):
        for turn, way in enumerate(ways):
            scored = usefulness["scores"][way]
            estimate = (scored["macro"] if at == 0 else scored["by_class"].get(line, {})).get(figure, {})
            if estimate.get("value") is None:
                continue
            value, interval = estimate["value"], estimate["interval"]
            shown.append((value, *interval))
            place = at + (turn - (len(ways) - 1) / 2) * 0.75 / max(2, len(ways))
            colour = min(every.index(way), len(COLOURS) - 1)
            look: dict[str, Any] = {
                "marker": SIGNS.get(way, OTHER)[0],
                "markersize": 4,
                "linewidth": 1.4,
                "color": COLOURS[colour],
            }
            (point,) = axes.plot([interval[0], value, interval[1]], [place] * 3, markevery=[1], **look)
            drawing.mark(point, colour, f"{line}, {way}: {told(value, interval, sign)} ({told_interval(interval, sign)})")
    axes.set_yticks(range(len(lines)), [short(line, 16) for line in lines])
    axes.set_ylim(len(lines) - 0.45, -0.55)
    axes.axhline(0.5, color="#000000", alpha=0.35, linewidth=0.8)
    axes.set_xlim(*_room(shown, -1.0 if sign else 0.0))
    if sign:
        axes.axvline(0, color="#000000", alpha=0.6, linewidth=1, linestyle="--")
    return Panel(name, drawing.svg(), "with 95 % intervals; the table below says the same")


def _room(shown: Sequence[tuple[float, float, float]], least: float) -> tuple[float, float]:
    """Ends of an axis with all values, and all whiskers but those that are so long, of a class with few rows, that nothing
    would be seen of the others: these end at the frame."""
    values, lows, highs = np.array(shown).T
    low, high = min(np.quantile(lows, 0.2), values.min()), max(np.quantile(highs, 0.8), values.max())
    wide = 0.3 * (high - low) + 0.01
    low, high = max(low - wide, min(lows.min(), low), least), min(high + wide, max(highs.max(), high), 1.0)
    edge = 0.04 * (high - low) + 0.005
    return float(low - edge), float(high + edge)


def interval(
    name: str, value: float, ends: Sequence[float] | None, ceiling: float | None, bounds: Sequence[float] = ()
) -> str:
    """A figure as small as text: a dot with whiskers, a tick for the ceiling, dashed ones for what the gate needs."""
    shown = [value, *(ends or ()), *([] if ceiling is None else [ceiling]), *bounds]
    low, high = (min(0.0, *shown), max(1.0, *shown)) if name not in UNBOUNDED else (min(0.0, *shown), max(0.0, *shown))
    width = (high - low) or 1.0
    place: Callable[[float], str] = lambda x: f"{4 + 152 * (x - low) / width:.1f}"  # noqa: E731
    marks = [f'<path class="axis" d="M4 8H156M{place(0)} 5V11"/>']
    if ceiling is not None:
        marks.append(f'<path class="ceiling" d="M{place(ceiling)} 1V15"/>')
    marks += [f'<path class="bound" d="M{place(bound)} 0V16"/>' for bound in bounds]
    if ends is not None:
        marks.append(f'<path class="whisker" d="M{place(ends[0])} 8H{place(ends[1])}"/>')
    marks.append(f'<circle cx="{place(value)}" cy="8" r="3.2"/>')
    return f'<svg class="interval" viewBox="0 0 160 16" aria-hidden="true">{"".join(marks)}</svg>'


def short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
