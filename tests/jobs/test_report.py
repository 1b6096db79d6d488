"""The report, looked at in a real browser."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import raygen

CHROMIUM = shutil.which("chromium")
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_pictures_show_and_nothing_is_fetched(ray: None, small: dict[str, Any]) -> None:
    from playwright.sync_api import sync_playwright

    raygen.run({**small, "train": {**small["train"], "watch": {"every": 2, "rows": 100}}})
    page_file = Path(small["storage"]) / "small" / "report" / "report.html"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS.split(), "--disable-sync"])
        inks = []
        for scheme in ("light", "dark"):
            page = browser.new_context(color_scheme=scheme).new_page()  # type: ignore[arg-type]
            asked: list[str] = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(page_file.as_uri())
            widths = page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
            assert len(widths) == 3
            assert all(width > 100 for width in widths)
            assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
            for curve in ("reconstruction", "frechet distance"):  # of every epoch, and of every other one
                assert page.locator("svg text", has_text=curve).count() == 1
            assert page.locator("tbody tr").count() == 8 + 10  # metrics, classes
            inks.append(page.eval_on_selector("svg text", "text => getComputedStyle(text).fill"))
        assert inks[0] != inks[1]  # the curves' labels can be read on both
        browser.close()
