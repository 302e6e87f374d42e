"""A known model made smaller on one's own images, in a real browser by the real engine: from its name to trying it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.webapp.browsing import SOON, WIDE, expect_state, listened, shades, wait_until
from tests.webapp.stack import running
from webapp import runtime

pytestmark = [
    pytest.mark.browser, pytest.mark.redis, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900),
]  # fmt: skip

MODEL, BLOCKS = "mobilenetv3_small_100", 6

LOOKED_AT = 180_000
"""Milliseconds until it is known what may be cut, on a busy machine."""


def test_a_known_model_is_chosen_looked_at_searched_watched_downloaded_and_tried(
    browser: Browser, tmp_path: Path
) -> None:
    with running(tmp_path) as stack:
        context = browser.new_context(viewport=WIDE, base_url=stack.address, accept_downloads=True)  # type: ignore[arg-type]
        context.set_default_timeout(SOON)
        complaints = listened(context)
        page = context.new_page()
        page.goto(stack.link)
        upload(page, tmp_path)

        page.goto("/searches/new/")
        page.get_by_label("Name", exact=True).fill("Made smaller")
        page.get_by_label("Data set").select_option(label="Shades")
        page.get_by_text("A known model", exact=True).click()
        page.get_by_label("Model", exact=True).fill(MODEL)
        page.get_by_text("DMS", exact=True).click()
        page.get_by_text("Multiply-adds", exact=True).click()
        page.get_by_label("Target", exact=True).fill("40%")
        page.get_by_text("Advanced:").click()
        page.get_by_label("Search epochs").fill("8")
        page.get_by_label("Retraining epochs").fill("2")
        facts = page.locator("#survey [data-facts]")
        expect(facts).to_contain_text(f"{MODEL} (timm): ", timeout=LOOKED_AT)
        expect(facts).to_contain_text(re.compile(r"\d+ of \d+ channel groups can be narrowed; they reach \d+% of the"))
        expect(facts).to_contain_text(f"{BLOCKS} blocks")
        expect(page.locator("#outlook-sentence")).to_have_text("This can be reached.")
        target = int(re.sub(r"\D", "", page.locator("#outlook-target").inner_text()))
        page.get_by_role("button", name="Search", exact=True).click()

        expect(page.locator("#network .bars").first).to_be_visible(timeout=120_000)
        wait_until(lambda: narrower(page) > 0, "a layer that got narrower, without a reload", 240)
        expect_state(page, "Finished", 400)
        assert page.locator("#network .square").count() == BLOCKS

        for name in ("report.json", "architecture.json", "model.onnx"):
            link = page.locator("#artifacts").get_by_role("link", name=name, exact=True)
            with page.expect_download() as download:
                link.click()
            content = Path(download.value.path()).read_bytes()
            assert hashlib.sha256(content).hexdigest() == link.get_attribute("data-sha256")
            if name == "report.json":
                assert json.loads(content)["achieved"]["macs"] <= target
            if name == "architecture.json":
                assert (json.loads(content)["library"], json.loads(content)["model"]) == ("timm", MODEL)

        expect(page.locator("[data-where]")).to_contain_text(
            "The network runs here, in your browser" if runtime.is_there() else "The server runs the network"
        )
        page.locator(".tile").first.click()
        expect(page.locator("[data-said]")).to_contain_text(re.compile("dark|light"), timeout=60_000)
        expect(page.locator(".guesses li")).to_have_count(2)
        assert complaints == []
        context.close()


def upload(page: Page, folder: Path) -> None:
    page.goto("/datasets/")
    page.locator("input[type=file]").set_input_files(shades(folder))
    page.get_by_label("Name", exact=True).fill("Shades")
    page.get_by_role("button", name="Upload").click()
    expect(page.locator("#dataset .badge-state")).to_have_text("Ready", timeout=90_000)


def narrower(page: Page) -> int:
    """How many layers are drawn with fewer filters than they had."""
    numbers = page.locator("#network .bars g text:last-child").all_text_contents()
    return sum(kept != all_ for kept, all_ in (text.split(" of ") for text in numbers))
