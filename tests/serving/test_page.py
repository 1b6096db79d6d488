"""The web page in a real browser, before a real server: what is chosen is what is seen, and all of it by keyboard, too."""

import base64
import io
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import uvicorn
from endpoints import pictures, promoted
from starlette.applications import Starlette
from starlette.routing import Mount

from raygen.datasets.codec import Codec
from raygen.datasets.columns import Category
from raygen.datasets.numbers import Number
from raygen.datasets.storage import Folder
from raygen.generators.generator import Generator, untrained
from raygen.jobs.registry import Registry
from raygen.options import AutoregressiveSpec
from raygen.serving import auth
from raygen.serving.app import app
from raygen.serving.auth import Doorkeeper, Token
from raygen.serving.models import Models
from raygen.spec import CategoryField, NumberField

CHROMIUM = shutil.which("chromium")
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]
TOKEN, DIGEST = auth.make()
BAD_NAME = "<b onclick='x'>it's</b><script>document.title = 'taken over'</script>"
NAME = "e => `${e.labels?.[0]?.innerText} ${e.ariaLabel} ${e.innerText} ${e.querySelector('img')?.alt}`"
EVALUATION = {
    "verdict": "passed",
    "summary": ["passed its gate"],
    "gate": [{"metric": "recall", "passed": True}],
    "metrics": [
        {"name": "lift", "value": -0.0123, "ceiling": None, "interval": [-0.02, 0.01], "better": "higher"},
        {"name": "recall", "value": 0.8134, "ceiling": 0.937, "interval": [0.7645, 0.8491], "better": "higher"},
    ],
}


def people() -> Generator:
    fields = {"age": NumberField(), "wage": NumberField(), "city": CategoryField()}
    schema = pa.schema([("age", pa.int64()), ("wage", pa.float64()), ("city", pa.string())])
    numbers = {"age": Number((18, 40), (39, 90), 1), "wage": Number((-2e4,), (9e4,), None, null=True)}
    codec = Codec.of(fields, schema, {"city": Category(("Rome", BAD_NAME), (1, 1))}, numbers)
    torch.manual_seed(0)
    spec = AutoregressiveSpec(embedding=4, width=8, features=4, condition="city")
    sampler = untrained(spec, codec, torch.device("cpu")).sampler().eval()
    return Generator(spec, codec, sampler, sampler.tile)


class Site:
    """Two projects, served; and what they make."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.digits, self.people = pictures(0), people()
        for name, generator in (("digits", self.digits), ("people", self.people)):
            promoted(folder / name, generator, EVALUATION)
        self.models = Models({name: Registry(folder / name) for name in ("digits", "people")})

    def api(self, *tokens: Token) -> Any:
        doorkeeper = Doorkeeper([*tokens] or None)
        return app(self.models, doorkeeper, most_rows=10_000)

    def uris(self, rows: range, **asked: Any) -> list[str]:
        """Of the pictures of rows."""
        table = self.digits.sample(rows, **asked)
        return [f"data:image/png;base64,{base64.b64encode(file).decode()}" for file in table["picture"].to_pylist()]


class Served:
    """An application under uvicorn, in a thread."""

    def __init__(self, api: Any) -> None:
        self.server = uvicorn.Server(uvicorn.Config(api, port=0, ws="none", lifespan="off", log_level="error"))
        self.up = threading.Event()
        startup = self.server.startup

        async def told(*arguments: Any, **more: Any) -> None:
            await startup(*arguments, **more)
            self.up.set()

        self.server.startup = told  # type: ignore[method-assign]
        self.thread = threading.Thread(target=self.server.run)

    def __enter__(self) -> str:
        self.thread.start()
        assert self.up.wait(30)
        return f"http://localhost:{self.server.servers[0].sockets[0].getsockname()[1]}/"

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(30)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(Folder(tmp_path_factory.mktemp("site")))


@pytest.fixture(scope="module")
def url(site: Site) -> Iterator[str]:
    with Served(site.api()) as url:
        yield url


@pytest.fixture(scope="module")
def guarded(site: Site) -> Iterator[str]:
    with Served(site.api(Token(name="ana", sha256=DIGEST))) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS.split(), "--disable-sync"])


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """One that asks nobody but its own server, and that nothing goes wrong in, but for what the API refuses."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"], accept_downloads=True)
    page, told, asked = context.new_page(), list[str](), list[str]()
    page.set_default_timeout(10_000)
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    yield page
    context.close()
    assert [text for text in told if not re.match(r"Failed to load resource: .*( status of 4\d\d|DISCONNECTED)", text)] == []
    assert {url.split("/")[2].split(":")[0] for url in asked if not url.startswith(("data:", "blob:"))} == {"localhost"}


def title(page: Any, text: str) -> None:
    page.locator("#title", has_text=text).wait_for()


def shown(page: Any) -> list[str]:
    return page.eval_on_selector_all("#rows img", "all => all.map(image => image.src)")  # type: ignore[no-any-return]


class TestPictures:
    def test_they_are_the_rows_that_were_chosen(self, page: Any, url: str, site: Site) -> None:
        page.goto(url)
        title(page, "digits: rows 0 to 23 of seed 0")
        assert shown(page) == site.uris(range(24))
        page.get_by_label("Class").select_option("7")
        title(page, "digits, digit 7: rows 0 to 23 of seed 0")
        assert (
            page.get_by_role("img", name="row 12, digit 7").get_attribute("src") == site.uris(range(12, 13), condition=7)[0]
        )
        assert page.get_by_label("Class").locator("option").all_inner_texts() == ["any", "3", "7"]
        page.get_by_label("Class").select_option("any")
        page.get_by_label("Rows", exact=True).fill("5")
        page.get_by_label("Seed", exact=True).fill("3")
        page.get_by_role("button", name="Later rows").click()
        title(page, "digits: rows 5 to 9 of seed 3")
        assert shown(page) == site.uris(range(5, 10), seed=3)
        assert page.locator("#rows img[alt$=none]").count() == site.digits.sample(range(5, 10), seed=3)["digit"].null_count
        page.get_by_role("button", name="Earlier rows").click()
        title(page, "rows 0 to 4 of seed 3")
        assert page.get_by_role("button", name="Earlier rows").is_disabled()
        page.get_by_role("button", name="Another").click()
        page.locator("#title", has_not_text=re.compile("seed 3$")).wait_for()  # another one may begin with 3

    def test_a_link_shows_the_same(self, page: Any, url: str, site: Site) -> None:
        page.goto(f"{url}#model=digits&seed=3&condition=7&rows=4&start=9&between=10-12&steps=5")
        title(page, "digits, digit 7: rows 9 to 12 of seed 3")
        page.locator("#strip img").nth(4).wait_for()
        address = page.url
        assert f"generator={site.digits.digest[:12]}" in address
        page.goto("about:blank")
        page.goto(address)
        title(page, "digits, digit 7: rows 9 to 12 of seed 3")
        assert shown(page) == site.uris(range(9, 13), seed=3, condition=7)
        assert page.get_by_role("button", pressed=True).count() == 2
        page.evaluate("location.hash = '#model=digits&seed=4&rows=2&generator=0123456789ab'")
        title(page, "rows 0 to 1 of seed 4")
        assert "made with the generator 0123456789ab" in page.locator("#notice").inner_text()

    def test_what_is_between_two_of_them(self, page: Any, url: str, site: Site) -> None:
        page.goto(f"{url}#seed=5")
        page.get_by_role("button", name="row 3,").click()
        page.get_by_role("button", name="row 8,").click()
        page.locator("#strip img").nth(8).wait_for()
        way = site.digits.between((3, 8), 9, seed=5)["picture"].to_pylist()
        sources = page.eval_on_selector_all("#strip img", "all => all.map(image => image.src.split(',')[1])")
        assert [base64.b64decode(source) for source in sources] == way
        assert [sources[0], sources[-1]] == [shown(page)[row].split(",")[1] for row in (3, 8)]
        slider = page.get_by_role("slider", name="Position")
        for key, step in (("End", 9), ("ArrowLeft", 8), ("Home", 1)):
            slider.press(key)
            assert page.locator("#here").get_attribute("alt").startswith(f"step {step} of 9 from row 3 to row 8, digit ")
            assert page.locator("#here").get_attribute("src") == page.locator("#strip img").nth(step - 1).get_attribute(
                "src"
            )
        page.get_by_label("Steps").fill("3")
        page.locator("#strip img").nth(8).wait_for(state="detached")
        assert page.locator("#strip img").count() == 3
        page.get_by_role("button", name="row 3,").click()
        page.locator("#way").wait_for(state="hidden")

    def test_all_by_keyboard(self, page: Any, url: str) -> None:
        page.goto(url)
        title(page, "rows 0 to 23")
        reached = list[str]()

        def tab_to(name: str) -> None:
            while not reached or name not in reached[-1]:
                assert len(reached) < 60, reached
                page.keyboard.press("Tab")
                reached.append(page.locator(":focus").evaluate(NAME))
                assert page.locator(":focus").evaluate("e => getComputedStyle(e).outlineStyle") == "solid"  # and is seen

        tab_to("Class")
        page.keyboard.press("ArrowDown")
        title(page, "digits, digit 3: ")
        tab_to("Seed")
        page.keyboard.type("8")
        title(page, "of seed 8")
        tab_to("row 0,")
        page.keyboard.press("Enter")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Space")
        page.locator("#strip img").nth(8).wait_for()
        tab_to("Position")
        page.keyboard.press("ArrowRight")
        assert page.locator("#here").get_attribute("alt").startswith("step 2 of 9 from row 0 to row 2")
        tab_to("Copy")
        page.keyboard.press("Enter")
        page.get_by_text("The command is copied").wait_for()

    def test_what_cannot_be_asked_is_told(self, page: Any, url: str) -> None:
        page.goto(url)
        title(page, "rows 0 to 23")
        page.get_by_label("Rows", exact=True).fill("2000")
        assert page.get_by_role("alert").get_by_text("Rows: ").inner_text().endswith("1000.")
        page.get_by_label("Rows", exact=True).fill("2")
        title(page, "rows 0 to 1 ")
        assert page.get_by_role("alert").inner_text() == ""


class TestTables:
    def test_rows_are_a_table(self, page: Any, url: str, site: Site) -> None:
        page.goto(f"{url}#model=people&rows=30&seed=2")
        title(page, "people: rows 0 to 29 of seed 2")
        heads = page.locator("#rows th[scope=col]").all_inner_texts()
        assert [head.split() for head in heads] == [["Row"], ["age", "int64"], ["wage", "double"], ["city", "string"]]
        rows = site.people.sample(range(30), seed=2).to_pylist()
        for at, row in enumerate(rows):
            age, wage, city = page.locator("#rows tbody tr").nth(at).locator("td").all_inner_texts()
            assert age == str(row["age"])
            number = wage.replace(",", "").replace("−", "-")
            assert (None if wage == "null" else float(number)) == (row["wage"] and pytest.approx(row["wage"], rel=1e-5))
            assert city == row["city"]
        assert {row["wage"] is None for row in rows} == {True, False}
        assert {row["city"] for row in rows} == {"Rome", BAD_NAME}
        assert page.title() == "people · raygen"  # no value has run as a script
        assert page.locator("#between").is_hidden()
        assert page.get_by_label("Format").locator("option").all_inner_texts() == ["Parquet", "Arrow stream", "JSON"]

    def test_only_some_of_them(self, page: Any, url: str, site: Site) -> None:
        page.goto(f"{url}#model=people&rows=9")
        where = page.get_by_label("Only rows where")
        where.fill('{"age": [20, 25]}')
        title(page, "rows 0 to 8")
        page.locator("#curl", has_text="where").wait_for()
        page.wait_for_load_state("networkidle")
        ages = page.locator("#rows td:nth-child(2)").all_inner_texts()
        assert ages == [str(age) for age in site.people.sample(range(9), where={"age": [20, 25]})["age"].to_pylist()]
        where.fill('{"years": 3}')
        alert = page.get_by_role("alert")
        alert.get_by_text("where.years: there is no such column").wait_for()
        assert "known: age, wage, city" in alert.inner_text()
        where.fill("age 3")
        alert.get_by_text("It is no JSON object").wait_for()
        where.fill("")
        alert.get_by_text("JSON").wait_for(state="detached")
        assert alert.inner_text() == ""


class TestTakingAway:
    def test_a_file(self, page: Any, url: str, site: Site) -> None:
        page.goto(f"{url}#seed=3&rows=12&condition=7")
        title(page, "rows 0 to 11")
        for name, magic in {"png": b"\x89PNG", "zip": b"PK", "parquet": b"PAR1"}.items():
            page.get_by_label("Format").select_option(name)
            with page.expect_download() as waiting:
                page.get_by_role("button", name="Download").click()
            assert waiting.value.suggested_filename == f"digits-seed3-row0.{name}"
            data = Path(waiting.value.path()).read_bytes()
            assert data.startswith(magic)
        assert pq.read_table(io.BytesIO(data)).equals(site.digits.sample(range(12), seed=3, condition=7))

    def test_the_command_that_is_copied_makes_the_same_file(
        self, page: Any, guarded: str, site: Site, tmp_path: Path
    ) -> None:
        page.goto(f"{guarded}#model=people&rows=5")
        page.get_by_label("Token", exact=True).fill(TOKEN)
        page.get_by_role("button", name="Enter").click()
        page.get_by_label("Class").select_option(BAD_NAME)
        title(page, "people, city <b")
        page.get_by_role("button", name="Copy").click()
        page.get_by_text("The command is copied").wait_for()
        command = page.evaluate("navigator.clipboard.readText()")
        assert TOKEN not in command
        done = subprocess.run(
            ["/bin/bash", "-c", command],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "RAYGEN_TOKEN": TOKEN},
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
        wanted = site.people.sample(range(5), condition=BAD_NAME)
        assert pq.read_table(tmp_path / "people-seed0-row0.parquet").equals(wanted)


class TestWhoAnswers:
    def test_how_good_it_is(self, page: Any, url: str, site: Site) -> None:
        page.goto(url)
        title(page, "rows 0 to 23")
        verdict = page.locator("#verdict").inner_text()
        assert "✓ Passed its gate" in verdict
        assert site.digits.digest[:12] in verdict
        assert page.locator("#summary").inner_text() == "Passed its gate."
        told = [row.split() for row in page.locator("#figures tbody tr").all_inner_texts()]
        assert told[0][:7] == ["recall", "↑", "0.813", "0.765", "to", "0.849", "0.937"]
        assert told[1][:7] == ["lift", "↑", "−0.012", "−0.020", "to", "0.010", "–"]

    def test_a_token_is_asked_for_and_kept_to_itself(self, page: Any, guarded: str) -> None:
        page.goto(guarded)
        door = page.get_by_role("dialog", name="A token, please")
        door.wait_for()
        assert page.locator(":focus").get_attribute("id") == "token"
        page.keyboard.type("rg_of_nobody")
        page.keyboard.press("Enter")
        door.get_by_text("That was not it: the bearer token is not known.").wait_for()
        page.keyboard.press("Escape")
        page.get_by_role("alert").get_by_text("the bearer token is not known").wait_for()
        page.get_by_role("button", name="Try again").click()
        page.get_by_label("Token", exact=True).fill(TOKEN)
        page.keyboard.press("Enter")
        title(page, "rows 0 to 23")
        assert page.get_by_role("alert").inner_text() == ""
        assert TOKEN not in page.url + page.content()
        assert page.evaluate("JSON.stringify([localStorage, document.cookie])") == '[{},""]'
        page.reload()
        title(page, "rows 0 to 23")
        page.get_by_role("button", name="Forget token").click()
        door.wait_for()

    def test_that_another_generator_answers_is_said(self, page: Any, tmp_path: Path) -> None:
        site = Site(Folder(tmp_path))
        with Served(site.api()) as url:
            page.goto(f"{url}#rows=3&between=0-1")
            title(page, "rows 0 to 2 of seed 0")
            before, site.digits = site.digits.digest, pictures(1)
            promoted(site.folder / "digits", site.digits, EVALUATION)
            site.models.refresh()
            page.get_by_label("Seed", exact=True).fill("2")
            title(page, "of seed 2")
            notice = page.locator("#notice").inner_text()
            assert f"Another generator answers now: {site.digits.digest[:12]}, and no longer {before[:12]}." in notice
            assert shown(page) == site.uris(range(3), seed=2)
            verdict = page.locator("#verdict")
            assert site.digits.digest[:12] in verdict.inner_text()

            canary = pictures(2)
            promoted(site.folder / "digits", canary, EVALUATION, percent=10)
            site.models.refresh()
            page.reload()
            verdict.get_by_text(f"10 % of requests are answered by a canary, {canary.digest[:12]}").wait_for()
            title(page, "of seed 2")
            assert shown(page) == site.uris(range(3), seed=2)

    def test_an_endpoint_that_is_gone_and_comes_back(self, page: Any, url: str) -> None:
        page.goto(url)
        title(page, "rows 0 to 23")
        page.context.set_offline(True)
        page.get_by_label("Seed", exact=True).fill("9")
        page.get_by_role("alert").get_by_text("the endpoint does not answer").wait_for()
        page.context.set_offline(False)
        page.get_by_role("button", name="Try again").click()
        title(page, "of seed 9")

    def test_behind_a_prefix(self, page: Any, site: Site) -> None:
        with Served(Starlette(routes=[Mount("/here/it/is", site.api())])) as url:
            page.goto(f"{url}here/it/is/")
            title(page, "rows 0 to 23")
            assert "/here/it/is/v1/generate" in page.locator("#curl").inner_text()


class TestForEverybody:
    @pytest.mark.parametrize(("model", "scheme"), [("digits", "light"), ("people", "dark")])
    def test_nothing_stands_in_the_way_of_a_screen_reader(self, page: Any, url: str, model: str, scheme: str) -> None:
        from axe_playwright_python.sync_playwright import Axe

        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.goto(f"{url}#model={model}&between=1-2")
        title(page, "rows 0 to 23")
        page.wait_for_load_state("networkidle")
        found = Axe().run(page)
        assert not found.response["violations"], found.generate_report()

    def test_nor_of_who_has_no_token(self, page: Any, guarded: str) -> None:
        from axe_playwright_python.sync_playwright import Axe

        page.goto(guarded)
        page.get_by_role("dialog").wait_for()
        found = Axe().run(page)
        assert not found.response["violations"], found.generate_report()

    @pytest.mark.parametrize("model", ["digits", "people"])
    def test_it_fits(self, page: Any, url: str, model: str) -> None:
        page.goto(f"{url}#model={model}&between=1-2")
        title(page, "rows 0 to 23")
        for width in (1280, 768, 390, 320):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") == width

    def test_it_says_that_it_needs_scripts(self, browser: Any, url: str) -> None:
        page = browser.new_context(java_script_enabled=False).new_page()
        page.goto(url)
        assert "openapi.json" in page.locator("body").inner_text()
        page.context.close()
