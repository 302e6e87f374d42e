"""What every page looks like, to eyes and to screen readers: axe-core's rules, pictures of the pages, narrow windows.

The pictures land in `screenshots/`, which is not committed: whoever changes a page looks at them. `make test` looks at
pages with one search, `make test-long` at those of every kind, narrow ones light and wide ones dark; `make pictures`
takes all.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.webapp import tiny_model
from tests.webapp.browsing import NARROW, WIDE, expect_state, shades, start
from tests.webapp.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(900)]

PICTURES = Path(__file__).resolve().parents[2] / "screenshots"
THEMES = ("light", "dark")
WINDOWS = (
    {"light": (NARROW,), "dark": (WIDE,)}
    if os.environ.get("PICTURES") != "all"
    else dict.fromkeys(THEMES, (WIDE, NARROW))
)
SERIOUS = ("serious", "critical")
in_both_themes = pytest.mark.parametrize(
    ("scenes", "themed"),
    [("few", "light"), *(pytest.param("all", theme, marks=pytest.mark.long) for theme in THEMES)],
    indirect=True,
)


@pytest.fixture
def scenes(request: pytest.FixtureRequest, few: dict[str, str]) -> dict[str, str]:
    """Name -> address."""
    return few | (request.getfixturevalue("others") if request.param == "all" else {})


@pytest.fixture(scope="module")
def alices(browser: Browser, cookies: list[dict[str, object]], stack: Stack) -> Iterator[Page]:
    """Where searches are started."""
    context = browser.new_context(viewport=WIDE, base_url=stack.address)  # type: ignore[arg-type]
    context.add_cookies(cookies)  # type: ignore[arg-type]
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def few(alices: Page) -> dict[str, str]:
    """Pages that wait for somebody, and one of what was found."""
    found = {
        "form": "/searches/new/", "form of blocks": "/searches/new/", "data sets": "/datasets/", "weights": "/weights/",
        "api": "/tokens/", "lost": "/no/", "list": "/",
    }  # fmt: skip
    found["finished"] = start(alices, "A quick one, 1 second")
    expect_state(alices, "Finished")
    return found


@pytest.fixture(scope="module")
def others(alices: Page, few: dict[str, str], tmp_path_factory: Any) -> dict[str, str]:
    """Of every other kind: things found, things under way, things gone wrong."""
    page, found = alices, {}
    page.goto("/weights/")
    weights = {"name": "oak.safetensors", "mimeType": "", "buffer": tiny_model.weights()}
    page.locator("input[type=file]").set_input_files(weights)  # type: ignore[arg-type]
    page.get_by_role("button", name="Upload").click()
    page.wait_for_url(re.compile(r"/searches/new/"))
    found["form with weights"] = page.url
    page.goto("/datasets/")
    page.locator("input[type=file]").set_input_files(shades(tmp_path_factory.mktemp("zip")))
    page.get_by_label("Name", exact=True).fill("Shades")
    page.get_by_role("button", name="Upload").click()
    page.wait_for_url(re.compile(r"/datasets/[0-9a-f-]{36}/$"))
    expect(page.locator("#dataset .badge-state")).to_have_text("Ready", timeout=90_000)
    found["data set"] = page.url
    another = start(page, "Another one, 1 second")
    expect_state(page, "Finished")
    found["a model"] = start(page, "A known model, 1 second", model="test_resnet")
    expect_state(page, "Finished")
    found["sub-graphs"] = start(page, "Drawn by lot, 1 second", method="msgdas")
    expect_state(page, "Finished")
    found["blocks"] = start(page, "One block by block, 1 second", method="dna", space="chain")
    expect_state(page, "Finished")
    expect(page.locator("#chart-likeness")).to_be_attached()  # of MGAS it would be others
    found["failed"] = start(page, "One that fails, 1 second")
    expect_state(page, "Failed")
    opened(page, "finished", few["finished"])
    page.locator("#sharing summary").click()
    page.get_by_role("button", name="Make a link").click()
    shared = page.get_by_text(re.compile(r"/shared/")).first
    found["shared"] = (shared.input_value() if shared.evaluate("e => 'value' in e") else shared.inner_text()).strip()
    ids = [re.search(r"[0-9a-f-]{36}", address) for address in (few["finished"], another)]
    found["compare"] = "/compare/?" + "&".join(f"search={match[0]}" for match in ids if match)
    found["live"] = start(page, "One that goes on, 600 seconds")
    expect(page.locator("#network .block").first).to_be_visible(timeout=60_000)
    return found


@pytest.fixture
def themed(request: pytest.FixtureRequest, context: BrowserContext) -> Iterator[Page]:
    page = context.new_page()
    page.emulate_media(color_scheme=request.param, reduced_motion="reduce")
    yield page
    page.close()


@in_both_themes
def test_no_page_breaks_a_serious_rule_of_axe(themed: Page, scenes: dict[str, str]) -> None:
    """With all that is folded unfolded, and a block of the network looked into."""
    source = axe().read_text()
    broken: dict[str, list[str]] = {}
    for name, address in scenes.items():
        opened(themed, name, address)
        themed.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
        if name == "form":
            themed.locator("[name=space__kind][value=imported]").check(force=True)
            themed.get_by_label("Model", exact=True).fill("test_resnet")
            expect(themed.locator("#survey [data-facts]")).to_be_visible()
        if themed.locator("#network .pick").count():
            themed.locator("#network .pick").nth(1).click()
        if name == "sub-graphs":
            themed.locator("#paths .pick").first.click()
        themed.wait_for_timeout(700)
        themed.evaluate(source)
        result = themed.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        for violation in result["violations"]:
            if violation["impact"] in SERIOUS:
                places = [node["html"][:160] for node in violation["nodes"][:3]]
                broken.setdefault(name, []).append(f"{violation['id']}: {violation['help']}: {places}")
    assert not broken, "\n".join(f"{name}: {what}" for name, whats in broken.items() for what in whats)


def axe() -> Path:
    found = importlib.util.find_spec("axe_playwright_python")
    assert found and found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "axe.min.js"


@in_both_themes
def test_pages_have_their_pictures_taken_and_fit_their_windows(themed: Page, scenes: dict[str, str]) -> None:
    """1280 and 390 px wide; nothing is wider than its window."""
    PICTURES.mkdir(exist_ok=True)
    wider = []
    theme = themed.evaluate("matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light'")
    for name, address in scenes.items():
        for window in WINDOWS[theme]:
            themed.set_viewport_size(window)  # type: ignore[arg-type]
            opened(themed, name, address)
            for chart in themed.locator(".plot").all():
                chart.scroll_into_view_if_needed()
            themed.wait_for_timeout(600)
            file = PICTURES / f"{name.replace(' ', '-')}-{window['width']}-{theme}.png"
            themed.screenshot(path=file, full_page=True)
            with Image.open(file) as picture:
                assert picture.width >= window["width"] and len(picture.convert("RGB").getcolors(1 << 24) or []) > 20
            if themed.evaluate("document.documentElement.scrollWidth > innerWidth"):
                wider.append((name, window["width"]))
    assert wider == []


JUMPED = """() => new Promise((done) => {
  new PerformanceObserver((list) => done(list.getEntries().reduce((sum, { value }) => sum + value, 0)))
    .observe({ type: "layout-shift", buffered: true });
  setTimeout(() => done(0), 300);
})"""
"""The cumulative layout shift of a page so far; below 0.1 is what Web Vitals call good."""


@pytest.mark.parametrize("scenes", ["few", pytest.param("all", marks=pytest.mark.long)], indirect=True)
def test_nothing_jumps_while_a_page_fills(context: BrowserContext, scenes: dict[str, str]) -> None:
    """Not even for who has scrolled down at once."""
    page = context.new_page()
    page.set_viewport_size(WIDE)  # type: ignore[arg-type]
    page.add_init_script("addEventListener('DOMContentLoaded', () => scrollTo(0, document.body.scrollHeight))")
    jumped = {}
    for name, address in scenes.items():
        opened(page, name, address)
        jumped[name] = page.evaluate(JUMPED)
    page.close()
    assert {name: shift for name, shift in jumped.items() if shift >= 0.1} == {}


def opened(page: Page, name: str, address: str) -> None:
    page.goto(address)
    if name == "form of blocks":
        page.get_by_text("DNA", exact=True).click()
        page.get_by_text("Chain", exact=True).click()
        expect(page.locator("#outlook-sentence")).to_have_text("This can be reached.")
    if name in ("finished", "failed", "live", "shared", "a model", "sub-graphs", "blocks"):
        expect(page.locator("#network .block").first).to_be_visible(timeout=60_000)
