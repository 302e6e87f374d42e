"""A newcomer's way through a search with DNA, in a real browser, with the real engine, from the form to the files."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.webapp.browsing import NARROW, SOON, WIDE, expect_state, listened, wait_until
from tests.webapp.stack import running

pytestmark = [
    pytest.mark.browser, pytest.mark.redis, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900),
]  # fmt: skip

SMALL = {"Layers": "4", "Limit (images)": "200", "Teacher's epochs (epochs)": "2", "Search epochs (epochs)": "6"}
"""What keeps it short: a chain of three blocks with few images."""


def test_a_newcomer_searches_digits_block_by_block(browser: Browser, tmp_path: Path) -> None:
    """A space that DNA does not search is refused in words; blocks fill one by one; what was found is no larger."""
    with running(tmp_path) as stack:
        context = browser.new_context(viewport=WIDE, base_url=stack.address, accept_downloads=True)  # type: ignore[arg-type]
        context.set_default_timeout(4 * SOON)
        complaints = listened(context)
        page = context.new_page()
        page.goto(stack.link)
        page.get_by_role("link", name="Start your first search").click()
        page.get_by_text("DNA", exact=True).click()
        refused = page.locator("[data-field=strategy__kind] .problem")
        expect(refused).to_have_text(re.compile("^DNA searches the space chain, not cells; choose chain as the space"))
        page.get_by_text("Chain", exact=True).click()
        expect(refused).to_be_empty()
        page.get_by_text("Advanced:").click()
        for label, text in SMALL.items():
            page.get_by_label(label, exact=True).locator("visible=true").fill(text)
        page.get_by_label("Retraining epochs").fill("2")
        with page.expect_response(lambda answer: "60%" in unquote(answer.request.post_data or answer.url)) as told:
            page.get_by_label("Target", exact=True).fill("60%")
        expect(page.locator("#outlook-sentence")).to_have_text("This can be reached.")
        pictured(page, "form")
        target = told.value.json()["target"]
        expect(page.locator("#outlook-target")).to_have_text(f"{target:,} parameters")
        page.get_by_role("button", name="Search", exact=True).click()

        panels = page.locator("#blocks [data-panels] > li")
        wait_until(lambda: panels.locator("svg").count() > 0, "the first block that is rated", 240)
        expect(page.locator("#log")).to_contain_text("The teacher is trained first")
        assert "NaN" not in page.locator("main").inner_text()
        expect_state(page, "Finished", 400)
        assert panels.locator("svg").count() == panels.count() == 3
        expect(page.locator("#blocks [data-found]").first).to_be_visible()
        expect(page.locator("#result")).to_contain_text("The blocks learned from")
        pictured(page, "page")
        with page.expect_download() as download:
            page.locator("#artifacts .files a[download]", has_text="report.json").click()
        report = json.loads(Path(download.value.path()).read_text())
        assert 0 < report["achieved"]["params"] <= target
        for address in (page.url, "/"):
            page.goto(address)
            assert not re.search(r"\b(NaN|null|undefined)\b", page.locator("main").inner_text()), address
        assert complaints == []
        context.close()


def pictured(page: Page, name: str) -> None:
    """Takes its picture, light and dark, wide and narrow, if somebody wants to look (`PICTURES`, a folder)."""
    if not (folder := os.environ.get("PICTURES")):
        return
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        for window in (WIDE, NARROW):
            page.set_viewport_size(window)  # type: ignore[arg-type]
            page.wait_for_timeout(600)
            page.screenshot(path=Path(folder) / f"dna-{name}-{window['width']}-{theme}.png", full_page=True)
    page.set_viewport_size(WIDE)  # type: ignore[arg-type]
    page.emulate_media(color_scheme="light")
