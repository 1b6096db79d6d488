"""The report: what it says, and how it looks and works in a real browser."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

import raygen
from raygen.gate import MetricOfImages, MetricOfTables
from raygen.generators.card import WARNING
from raygen.jobs import glossary, plots, report
from raygen.jobs.project import Project
from raygen.load import load_spec

CHROMIUM = shutil.which("chromium")
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update"
browsed = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]
NONE = {"value": None, "interval": None}
BAD_NAME = "<b onclick='x'>3</b><script>document.title = 'taken over'</script>"


def about(value: float, half: float = 0.01) -> dict[str, Any]:
    return {"value": value, "interval": [value - half, value + half]}


def scored(f1: float, lift: float) -> dict[str, Any]:
    by_class = {"1": {"f1": about(f1 + 0.1), "lift": about(lift)}, BAD_NAME: {"f1": about(f1 - 0.1), "lift": about(lift)}}
    return {"macro": {"f1": about(f1), "lift": about(lift)}, "by_class": {**by_class, "9": {"f1": NONE, "lift": NONE}}}


USEFULNESS = {
    "target": "label",
    "summary": "augmentation helps: macro F1 0.850 with synthetic rows, 0.800 without",
    "verdict": "helps",
    "seeds": 3,
    "rows": {"real": 480, "synthetic": 480, "added": 520, "asked": 6100, "held_out": 120},
    "held": {"1": 100, BAD_NAME: 20, "9": 0},
    "scores": {"real": scored(0.8, 0), "synthetic": scored(0.7, -0.1), "real + synthetic": scored(0.85, 0.05)}
    | {"class weights": scored(0.81, 0.01)},
    "over": {"class weights": about(0.04)},
    "untried": {"transforms": "kornia is not installed"},
}
RULE = {"min": None, "max": None, "at_least": None, "at_most": None, "of": None}
GATE = [
    {**RULE, "metric": "recall", "at_least": 0.9, "of": "ceiling", "value": 0.5, "bound": 0.81, "compared": 0.45}
    | {"passed": False, "because": "recall is 0.45 at least, the least is 0.81"},
    {**RULE, "metric": "precision", "min": 0.1, "value": 0.5, "bound": 0.1, "compared": 0.5, "passed": True}
    | {"because": "precision is 0.5"},
]
ALLOCATION = {
    "target": "label",
    "budget": 1000,
    "because": "rows go where they help",
    "by_class": [
        {"class": "1", "real": 60, "share": 0.25, "rows": 250, "lift": about(0.02), "decision": "helps"},
        {"class": "2", "real": 60, "share": 0.0, "rows": 0, "lift": NONE, "decision": "not tried"},
    ],
}
SUMMARY = ["augmentation hurts, and its gate failed", "usefulness in a sentence", "privacy in a sentence"]


def column(name: str, kind: str, shape: float) -> dict[str, Any]:
    places = ["Rome", "Oslo"] if kind == "category" else [0.0, 20_000.0, 40_000.0]
    histogram = {"places": places, "real": [0.75, 0.25], "synthetic": [0.5, 0.5]}
    return {"column": name, "kind": kind, "shape": shape, "ceiling": 0.98, "histogram": histogram}


TABLE = {
    "by_column": [column("city", "category", 0.75), column("wage", "number", 0.9)],
    "by_pair": [
        {"columns": ["city", "wage"], "trend": 0.6, "ceiling": 0.65},
        {"columns": ["age", "wage"], "trend": 0.7, "ceiling": 0.99},
    ],
    "shown": {"city": ["Rome"], "wage": ["1200"]},
}


class Page:
    """Of a finished job, with other figures in its report where a test asks for them."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.project = Project(load_spec(spec))
        self.folder = Path(spec["storage"]) / spec["name"]
        self._found = json.loads((self.folder / "report" / "report.json").read_text())

    def write(self, **keys: Any) -> Path:
        (self.folder / "report" / "report.json").write_text(json.dumps({**self._found, **keys}))
        report.write(self.project)
        return self.folder / "report" / report.PAGE


@pytest.fixture(scope="module")
def made(ray: None, dataset: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Page:
    spec = {
        "name": "small",
        "storage": str(tmp_path_factory.mktemp("store")),
        "dataset": dataset,
        "generator": {"family": "vae", "condition": "label", "width": 8},
        "train": {"epochs": 4, "batch_size": 32, "watch": {"every": 2, "rows": 100}},
        "evaluate": {"usefulness": False},
        "gate": [],
        "augment": {"rows": 100, "balance": "label", "seed": 7, "workers": 1},
    }
    raygen.run(spec)
    return Page(spec)


@pytest.fixture(scope="module")
def browser(made: Page) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS.split(), "--disable-sync"])


def full(made: Page) -> Path:
    return made.write(usefulness=USEFULNESS, gate=GATE, allocation=ALLOCATION, summary=SUMMARY, verdict="failed")


def test_every_metric_is_explained() -> None:
    names = {*get_args(MetricOfImages), *get_args(MetricOfTables)}
    assert names <= set(glossary.EXPLAINED)
    assert {name for grouped in glossary.GROUPS.values() for name in grouped} <= set(glossary.EXPLAINED)


def test_that_fewer_rows_were_tried_than_are_asked_for_is_told(made: Page) -> None:
    assert "520 added synthetic ones (of 6,100 that the spec asks for beside so many);" in full(made).read_text()


@pytest.mark.parametrize(
    ("value", "interval", "text"),
    [
        (0.969, (0.9604, 0.9757), "0.969"),
        (0.00012, (-0.00023, 0.00047), "0.00012"),
        (-0.00012, (-0.00023, 0.00001), "−0.00012"),
        (493.21, (480.0, 500.0), "493"),
        (12345.6, None, "12,346"),
        (0.0000421, None, "0.0000421"),
        (1e-12, None, "1.00e−12"),
        (0.0, None, "0"),
        (None, None, "–"),
    ],
)
def test_figures_have_the_digits_that_they_bear(
    value: float | None, interval: tuple[float, float] | None, text: str
) -> None:
    assert glossary.told(value, interval) == text


def test_a_figure_is_named_after_its_features() -> None:
    metric = {"name": "frechet_distance", "features": "classifier"}
    assert (glossary.title(metric["name"]), glossary.features(metric)) == ("Fréchet distance", "on classifier features")


def test_a_rule_says_by_how_much_it_was_missed_also_in_reports_of_old() -> None:
    assert glossary.needed(GATE[0]) == "low end ≥ 0.9 × ceiling = 0.81"
    assert [glossary.gap(rule) for rule in GATE] == ["missed by 0.360", "0.400 to spare"]
    old = {"metric": "recall", "min": None, "max": 2.5, "value": 3.0, "passed": False, "because": ""}
    assert (glossary.needed(old), glossary.gap(old)) == ("≤ 2.5", "missed by 0.500")
    assert glossary.gap({**old, "value": None}) == ""


def test_names_and_values_are_shown_whatever_they_are(recwarn: pytest.WarningsRecorder) -> None:
    odd = column("city", "category", 0.5)
    odd["histogram"]["places"] = ["日本 $x^2$ #000000", "a\x00</svg>\x1b"]
    (panel,) = plots.columns([odd], 1)
    for shown in ("日本 $x^2$ #000000", "a\ufffd&lt;/svg&gt;\ufffd"):
        assert shown in panel.svg
    assert not recwarn.list


def test_only_the_columns_that_are_least_alike_are_drawn() -> None:
    columns = [column(name, "number", shape) for name, shape in (("a", 0.9), ("b", 0.5), ("c", 0.7))]
    assert [panel.name for panel in plots.columns(columns, 2)] == ["b", "c"]


@pytest.mark.parametrize("few", [0.05, 3.0])
def test_a_class_of_few_rows_does_not_squeeze_the_others(few: float) -> None:
    """Its whiskers are cut, but never its value, nor more than is needed."""
    shown = [(0.01 * n, 0.01 * n - 0.03, 0.01 * n + 0.03) for n in range(9)]
    low, high = plots._room([*shown, (0.2, 0.2 - few, 0.2 + few)], -1.0)
    assert -0.25 < low < -0.03
    assert 0.2 < high < 0.45


def test_the_cards_warn(made: Page) -> None:
    (card,) = made.folder.glob("generators/*/README.md")
    for text in (card.read_text(), (made.folder / "dataset" / "README.md").read_text(), made.write().read_text()):
        assert WARNING in text


def test_a_report_of_old_is_drawn(made: Page) -> None:
    rule = {"metric": "recall", "min": 0.9, "max": None, "value": None, "passed": False, "because": "few rows"}
    page = made.write(gate=[rule], verdict="failed", summary=None, usefulness=None).read_text()
    assert page.startswith("<!doctype html>")
    assert "Failed its gate; nothing was published: few rows." in page
    assert "missed by" not in page


def test_what_was_not_computed_says_why(made: Page) -> None:
    page = made.write(usefulness={"target": None, "because": "the data has no category column"}).read_text()
    assert "Not computed: the data has no category column." in page
    assert "F1 on real held-out rows" not in page


@pytest.mark.parametrize("scheme", ["light", "dark"])
class TestInABrowser:
    pytestmark = browsed

    def test_it_needs_nothing_else_and_fits_any_screen(self, made: Page, browser: Any, scheme: str) -> None:
        page = browser.new_context(color_scheme=scheme).new_page()
        asked: list[str] = []
        told: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        for figures in (full(made), made.write(**TABLE, usefulness=USEFULNESS)):
            page.goto(figures.as_uri())
            widths = page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
            assert all(width > 100 for width in widths)
            for width in (1280, 390):
                page.set_viewport_size({"width": width, "height": 800})
                assert page.evaluate("document.documentElement.scrollWidth") == width
            for selector, colour in (("svg text", "fill"), ("code", "color"), ("td", "color"), (".soft", "color")):
                ink, paper = page.eval_on_selector(
                    selector,
                    f"one => [one, document.body].map(e => getComputedStyle(e)[e == one ? '{colour}' : 'backgroundColor'])",
                )
                assert contrast(ink, paper) > 4.5, selector
            assert page.title() == "small: report"  # no name of a class has run as a script
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        assert told == []  # nor has the policy stopped anything
        page.context.close()


@pytest.fixture
def page(made: Page, browser: Any) -> Iterator[Any]:
    context = browser.new_context()
    page = context.new_page()
    page.goto(full(made).as_uri())
    yield page
    context.close()


class TestWithScripts:
    pytestmark = browsed

    def test_the_first_lines_are_the_summary_and_the_rules_that_failed_are_told(self, page: Any) -> None:
        lines = page.locator(".verdict p").all_inner_texts()
        assert lines == ["Augmentation hurts, and its gate failed.", *(f"{line.capitalize()}." for line in SUMMARY[1:])]
        failed = page.locator("#gate tr.failed").inner_text()
        for text in ("✗ failed", "recall", "low end ≥ 0.9 × ceiling = 0.81", "missed by 0.360"):
            assert text in failed
        assert page.locator("#gate tr.passed").count() == 1
        assert page.locator("#allocation tbody tr").count() == 2
        assert page.locator("#training figure").count() > 2

    def test_headings_sort_with_what_has_no_value_last(self, page: Any) -> None:
        heading = page.locator("#usefulness th button", has_text="held-out rows")
        rows = page.locator("#usefulness table").last.locator("tbody").last.locator("tr td:nth-child(2)")
        heading.click()
        assert rows.all_inner_texts() == ["0", "20", "100"]
        heading.press("Enter")
        assert rows.all_inner_texts() == ["100", "20", "0"]
        page.locator("#usefulness th button", has_text="class weights").click()
        assert rows.all_inner_texts() == ["20", "100", "0"]  # it has no F1
        assert page.locator("#usefulness tr.macro").count() == 1

    def test_marks_say_what_they_are_to_the_pointer_and_on_the_keyboard(self, page: Any) -> None:
        tip, plot = page.locator(".tip"), page.locator("#usefulness .panels svg").first
        plot.locator(".mark").nth(2).hover()
        assert tip.inner_text() == "macro, real + synthetic: 0.850 (0.840 to 0.860)"
        page.mouse.move(0, 0)
        assert tip.is_hidden()
        plot.focus()
        plot.press("ArrowRight")
        assert tip.inner_text().startswith("macro, real: 0.800")
        plot.press("ArrowLeft")
        assert "class weights" in tip.inner_text()

    def test_a_key_of_the_legend_hides_its_series(self, page: Any) -> None:
        key = page.locator("#usefulness .keys button", has_text="class weights")
        before = page.locator("#usefulness .mark:visible").count()
        key.click()
        assert page.locator("#usefulness .mark:visible").count() == before - 6  # macro and two classes, F1 and lift
        key.click()
        assert page.locator("#usefulness .mark:visible").count() == before

    def test_columns_are_found_by_their_names(self, page: Any, made: Page) -> None:
        page.goto(made.write(**TABLE).as_uri())
        assert page.locator("#rows figure").count() == 2
        assert page.locator("#rows table").nth(1).locator("tbody tr").count() == 2  # pairs
        page.fill("input[type=search]", "WAG")
        assert page.locator("#rows figure:visible figcaption").all_inner_texts() == ["wage"]
        assert page.locator("#rows svg text", has_text="40,000").count() == 1


class TestWithoutScripts:
    pytestmark = browsed

    def test_everything_can_be_read(self, made: Page, browser: Any) -> None:
        page = browser.new_context(java_script_enabled=False).new_page()
        page.goto(full(made).as_uri())
        text = page.locator("body").inner_text()
        for shown in (
            "Fréchet distance",
            "on classifier features",
            "macro",
            BAD_NAME,
            "kornia is not installed",
            "raygen run",
        ):
            assert shown in text
        assert page.locator("button, input").locator("visible=true").count() == 0
        assert page.locator("svg .mark title").first.text_content().startswith("macro, real: 0.800")
        page.context.close()


def contrast(ink: str, paper: str) -> float:
    """Of two colours as browsers write them, as WCAG 2 has it."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour[4:-1].split(",")]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
