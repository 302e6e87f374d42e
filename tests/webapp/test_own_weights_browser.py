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
    page.get_by_label("Name", exact=True).fill("One that goes on, 600 seconds")
    page.get_by_label("Model", exact=True).fill("test_vit")
    page.get_by_text("Thorough", exact=True).click()
    page.get_by_text("DMS", exact=True).click()
    page.get_by_text("Multiply-adds", exact=True).click()
    page.get_by_label("Target", exact=True).fill("60%")
    page.get_by_text("Advanced:").click()
    page.get_by_label("Recipe", exact=True).locator("visible=true").select_option("gates")
    weights.select_option(label="A file of yours")
    sentence = page.locator("#outlook-sentence")
    expect(page.locator("#outlook-target")).to_contain_text("multiply-adds", timeout=120_000)  # known all the same
    expect(page.locator("#outlook-time")).not_to_have_text("—")
    expect(sentence).to_have_text("Something has to be mended first:")
    expect(page.locator("[data-field=space__imported__path] .problem")).to_contain_text("no file is chosen")
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
    expect(page.get_by_label("Model", exact=True)).to_have_value("test_vit")  # as it was left
    expect(page.get_by_label("Target", exact=True)).to_have_value("60%")
    expect(page.locator("[name=target__metric]:checked")).to_have_value("macs")
    page.get_by_text("Advanced:").click()
    expect(page.get_by_label("Recipe", exact=True).locator("visible=true")).to_have_value("gates")
    expect(sentence).to_have_text("This can be reached.", timeout=120_000)
    page.get_by_role("button", name="Search", exact=True).click()
    page.wait_for_url(re.compile(r"/searches/[0-9a-f-]{36}/$"))
    expect(page.get_by_role("heading", name="One that goes on, 600 seconds")).to_be_visible()
    expect(page.locator(".asked")).to_contain_text("Oak")
    page.goto("/searches/new/")
    expect(page.get_by_label("Name", exact=True)).to_have_value("")  # once, and for that search
    expect(page.locator("[name=preset]:checked")).to_have_value("quick")

    page.goto("/weights/")
    page.get_by_role("button", name="Delete… Oak").click()
    page.get_by_role("button", name="Delete them").click()
    expect(page.locator(".alert")).to_contain_text("'Oak' are used by the search")
    assert [text for text in said if "422" not in text] == []


def test_what_was_filled_in_comes_back_whatever_was_uploaded_or_not(context: BrowserContext) -> None:
    page = context.new_page()
    page.goto("/searches/new/")
    page.get_by_label("Name", exact=True).fill("Half of it")
    page.get_by_role("link", name="Upload images of your own").click()
    page.get_by_role("link", name="Searches").click()
    page.get_by_role("link", name="New search").click()
    expect(page.get_by_label("Name", exact=True)).to_have_value("Half of it")
    page.goto("/searches/new/")
    expect(page.get_by_label("Name", exact=True)).to_have_value("")


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
