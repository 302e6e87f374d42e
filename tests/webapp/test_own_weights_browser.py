"""Weights of one's own in a browser, with a storyteller for an engine: uploaded, chosen, searched with, deleted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from tests.webapp import tiny_model
from tests.webapp.browsing import SOON, WIDE
from tests.webapp.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(600)]

LED_BACK = re.compile(r"/searches/new/\?weights=upload:[0-9a-f-]{36}$")


def written(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def test_from_the_form_to_an_upload_and_back_to_a_search_that_begins_with_it(
    context: BrowserContext, said: list[str], tmp_path: Path
) -> None:
    page = context.new_page()
    page.goto("/searches/new/")
    weights = page.get_by_label("Weights", exact=True)
    expect(weights).not_to_be_visible()
    page.get_by_text("A known model", exact=True).click()
    file = page.get_by_label("Weights file", exact=True)
    link = page.get_by_role("link", name="Upload a safetensors file")
    expect(link).not_to_be_visible()
    weights.select_option(label="A file of yours")
    link.click()

    expect(page.get_by_role("heading", name="No weights of your own yet")).to_be_visible()
    pickled = written(tmp_path, "oak.pt", b"\x80\x02}q\x00.")
    page.get_by_label("Safetensors file").set_input_files(pickled)
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.locator("#upload .problem:not(:empty)")).to_contain_text("'oak.pt' is a pickle, which may run anything")
    page.get_by_label("Safetensors file").set_input_files(written(tmp_path, "oak.safetensors", tiny_model.weights()))
    page.get_by_label("Name", exact=True).fill("Oak")
    page.get_by_role("button", name="Upload", exact=True).click()

    page.wait_for_url(LED_BACK)
    expect(file).to_be_visible()
    expect(file.locator("option:checked")).to_have_text("Oak")
    expect(page.get_by_text("3 tensors, 233 numbers, uploaded just now.")).to_be_visible()
    page.get_by_label("Name", exact=True).fill("One that goes on, 600 seconds")
    page.get_by_label("Model", exact=True).fill("test_vit")
    page.get_by_text("DMS", exact=True).click()
    page.get_by_text("Multiply-adds", exact=True).click()
    page.get_by_text("Advanced:").click()
    page.get_by_label("Recipe", exact=True).locator("visible=true").select_option("gates")
    expect(page.locator("#outlook-sentence")).to_have_text("This can be reached.", timeout=120_000)
    page.get_by_role("button", name="Search", exact=True).click()
    page.wait_for_url(re.compile(r"/searches/[0-9a-f-]{36}/$"))
    expect(page.locator(".asked")).to_contain_text("Oak")

    page.goto("/weights/")
    page.get_by_role("button", name="Delete… Oak").click()
    page.get_by_role("button", name="Delete them").click()
    expect(page.locator(".alert")).to_contain_text("'Oak' are used by the search")
    assert [text for text in said if "422" not in text] == []


def test_weights_that_do_not_fit_are_told_at_once(context: BrowserContext, tmp_path: Path) -> None:
    page = context.new_page()
    page.goto("/weights/")
    other = tiny_model.weights(**{"layer1.0.conv1.weight": [8, 3, 5]})
    page.get_by_label("Safetensors file").set_input_files(written(tmp_path, "elm.safetensors", other))
    page.get_by_role("button", name="Upload", exact=True).click()
    page.wait_for_url(LED_BACK)
    page.get_by_label("Model", exact=True).fill("test_resnet")
    problem = page.locator("[data-field=space__imported__path] .problem")
    expect(problem).to_contain_text(
        "elm.safetensors do not fit test_resnet (timm): layer1.0.conv1.weight is [8, 3, 5]", timeout=120_000
    )
    page.get_by_label("Weights", exact=True).select_option(label="Random")
    expect(problem).to_be_empty()


def test_without_javascript_it_is_the_same(
    browser: Browser, cookies: list[dict[str, object]], stack: Stack, tmp_path: Path
) -> None:
    context = browser.new_context(viewport=WIDE, base_url=stack.address, java_script_enabled=False)  # type: ignore[arg-type]
    context.add_cookies(cookies)  # type: ignore[arg-type]
    context.set_default_timeout(SOON)
    page = context.new_page()
    page.goto("/weights/")
    page.get_by_label("Safetensors file").set_input_files(
        written(tmp_path, "ash.safetensors", tiny_model.weights()[1:])
    )
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.locator("#upload .problem:not(:empty)")).to_contain_text("'ash.safetensors' cannot be read as a")
    page.get_by_label("Safetensors file").set_input_files(written(tmp_path, "ash.safetensors", tiny_model.weights()))
    page.get_by_role("button", name="Upload", exact=True).click()
    page.wait_for_url(LED_BACK)
    expect(page.locator("[name=space__kind][value=imported]")).to_be_checked()
    expect(page.get_by_label("Weights file").locator("option:checked")).to_have_text("ash")
    context.close()
