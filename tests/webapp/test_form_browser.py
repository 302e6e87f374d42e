"""Setting up a search and a first visit, in a real browser against a whole Coppice with a storyteller for an engine."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect

from nasengine.models import names
from tests.webapp.browsing import NARROW, SOON, WIDE
from tests.webapp.stack import Stack
from tests.webapp.tiny_model import REFUSAL, REFUSED
from webapp.templatetags import words

pytestmark = [pytest.mark.browser, pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(600)]

OUTLOOK = re.compile(r"/searches/new/outlook/$")
LIVE = re.compile(r"/searches/[0-9a-f-]{36}/$")


def visitor(browser: Browser, stack: Stack, cookies: list[dict[str, object]], *, script: bool = True) -> BrowserContext:
    context = browser.new_context(viewport=WIDE, base_url=stack.address, java_script_enabled=script)  # type: ignore[arg-type]
    context.add_cookies(cookies)  # type: ignore[arg-type]
    context.set_default_timeout(SOON)
    return context


@pytest.fixture
def page(browser: Browser, stack: Stack, cookies: list[dict[str, object]]) -> Iterator[Page]:
    context = visitor(browser, stack, cookies)
    complaints: list[str] = []
    context.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    yield context.new_page()
    context.close()
    left = "WebSocket is closed before the connection is established"  # a live page that a test has left at once
    assert [text for text in complaints if left not in text] == []


def expect_reachable(page: Page, further: str = "") -> None:
    expect(page.locator("#outlook-sentence")).to_have_text("This can be reached.")
    expect(page.locator("#outlook-further")).to_have_text(further)


def test_a_first_visit_leads_to_a_live_page_with_one_button(page: Page) -> None:
    page.goto("/")
    page.get_by_role("button", name="Watch the two-minute demo").click()
    page.wait_for_url(LIVE)
    expect(page.get_by_role("heading", name="Digits demo")).to_be_visible()
    page.goto("/searches/new/")
    page.get_by_role("button", name="Run the digits demo").click()
    page.wait_for_url(LIVE)


def test_of_milliseconds_the_form_says_when_they_will_be_known(page: Page) -> None:
    page.goto("/searches/new/")
    expect_reachable(page)
    page.locator("label.choice", has_text="Time for one image").click()
    expect(page.locator("#outlook-sentence")).to_contain_text("it measures its device first")
    expect(page.locator("#outlook-target")).to_have_text("—")
    expect(page.locator("#reach-full")).to_have_text("—")
    expect(page.locator("#outlook-memory")).to_contain_text("MiB")
    page.get_by_label("Target", exact=True).fill("0")
    expect(page.locator("#outlook-sentence")).to_have_text("Something has to be mended first:")
    page.get_by_label("Target", exact=True).fill("0.25")
    expect(page.locator("#outlook-sentence")).to_contain_text("It can start.")
    page.locator("label.choice", has_text="Parameters").click()
    page.get_by_label("Target", exact=True).fill("40%")
    expect_reachable(page)


def test_percentages_of_dna_are_of_the_largest_network(page: Page) -> None:
    page.goto("/searches/new/")
    expect_reachable(page)
    expect(page.locator("#reach-full")).to_have_text(re.compile("^all of it "))
    page.locator("[name=space__kind][value=chain]").check(force=True)
    page.locator("[name=strategy__kind][value=dna]").check(force=True)
    expect(page.locator("#reach-full")).to_have_text(re.compile("^largest "))


def test_fields_that_say_nothing_beside_others_are_neither_shown_nor_sent(page: Page) -> None:
    page.goto("/searches/new/")
    expect_reachable(page)
    page.locator("[name=space__kind][value=chain]").check(force=True)
    page.locator("[name=strategy__kind][value=dna]").check(force=True)
    page.get_by_text("Advanced:").click()
    recipe, teacher = (
        page.get_by_label("Recipe", exact=True).locator("visible=true"),
        page.get_by_label("Teacher of the"),
    )
    name, growth = page.get_by_label("Teacher's model"), page.get_by_label("Growth")
    epochs, dispersion = page.get_by_label("Teacher's epochs"), page.get_by_label("Dispersion")
    for field in (name, growth, dispersion):
        expect(field).to_be_hidden()
    teacher.select_option("library")
    name.fill("resnet18")
    page.get_by_label("Generations").fill("2")
    expect(growth).to_be_visible()
    recipe.select_option("dna++")
    for field in (
        teacher,
        name,
        epochs,
        growth,
        page.get_by_label("Generations"),
        page.get_by_text("Upload a safetens"),
    ):
        expect(field.last).to_be_hidden()
    expect(dispersion).to_be_visible()
    expect_reachable(page)
    recipe.select_option("dna")
    expect(name).to_have_value("resnet18")
    expect(name).to_be_visible()


def test_warnings_stand_beside_the_button_lead_to_their_fields_and_forbid_nothing(page: Page) -> None:
    page.goto("/searches/new/")
    expect_reachable(page)
    expect(page.locator("#outlook-warnings li")).to_have_count(0)
    page.get_by_label("Target", exact=True).fill("95%")
    expect_reachable(page, "Read the warning below the button first.")
    expect(page.locator("#outlook-warnings li")).to_contain_text("95 % of the whole space")
    page.get_by_text("Advanced:").click()
    expect(page.get_by_label("Image size (pixels)", exact=True)).to_have_attribute("placeholder", "8")
    page.get_by_label("Data set").select_option("cifar10")
    expect(page.get_by_label("Image size (pixels)", exact=True)).to_have_attribute("placeholder", "16")
    page.get_by_label("Data set").select_option("digits")
    page.get_by_label("Search epochs").fill("8")
    page.get_by_text("Advanced:").click()
    expect_reachable(page, "Read the 2 warnings below the button first.")
    page.get_by_role("link", name="8 epochs for 2 stages").click()
    expect(page.get_by_label("Search epochs")).to_be_focused()
    page.get_by_label("Name", exact=True).fill("warned, 2 seconds")
    page.get_by_role("button", name="Search", exact=True).click()
    page.wait_for_url(LIVE)


def test_a_limit_beside_the_target_has_a_range_of_its_own(page: Page) -> None:
    page.goto("/searches/new/")
    expect_reachable(page)
    limits = page.locator("#outlook-limits")
    expect(limits).to_be_hidden()
    page.get_by_text("Advanced:").click()
    page.get_by_label("Limit on multiply-adds").fill("50%")
    expect(limits).to_have_text(re.compile(r"^[\d,]+ multiply-adds \(\S+ k to \S+ M can be reached\)$"))
    page.get_by_label("Limit on multiply-adds").fill("10")
    expect(limits).to_have_text(re.compile(r"^10 multiply-adds"))
    expect(page.locator("#outlook-problems li")).to_contain_text("below what this space can surely reach")


def test_time_memory_and_file_are_told_with_what_they_rest_on(page: Page) -> None:
    page.goto("/searches/new/")
    expect(page.locator("#outlook-time")).to_have_text(re.compile(r" to \d+ (seconds|minutes)$|^about"))
    expect(page.locator("#outlook-memory")).to_have_text(re.compile(r"^about \d+ MiB$"))
    expect(page.locator("#outlook-file")).to_have_text(re.compile(r"^\d+ kB to \d+ kB$"))
    expect(page.locator("#outlook-basis")).to_have_text(
        re.compile(r"^Time: from (our benchmark|your last ).* zeros in it")
    )
    page.locator("[name=strategy__kind][value=dms]").check()  # which leaves no zeros
    expect(page.locator("#outlook-basis")).to_have_text(re.compile(r"^Time: (?!.*zeros)"))
    expect(page.locator("#outlook-sentence")).to_have_text("This can be reached.")


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_known_model_is_chosen_from_a_list_and_looked_at_first(page: Page, size: dict[str, int]) -> None:
    """By keyboard; meanwhile the button waits with its reason, then figures and facts stand there."""
    model = "mobilenetv3_small_050" if size == WIDE else "mobilenetv3_small_075"
    page.set_viewport_size(size)  # type: ignore[arg-type]
    page.goto("/searches/new/")
    expect_reachable(page)
    name, button = page.get_by_label("Model", exact=True), page.get_by_role("button", name="Search", exact=True)
    expect(name).to_be_hidden()
    page.locator("[name=space__kind]:checked").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(name).to_be_visible()
    expect(page.locator("#model-names option")).to_have_count(len(names("timm")), timeout=SOON)
    page.get_by_label("Library", exact=True).select_option("torchvision")
    expect(page.locator("#model-names option")).to_have_count(len(names("torchvision")))
    page.get_by_label("Library", exact=True).select_option("timm")
    name.fill(f"{model}x")
    error = page.locator("#id_space__imported__model_error")
    expect(error).to_contain_text(f"did you mean {model}")
    expect(button).to_be_enabled()
    name.fill(model)
    expect(page.locator("#survey [data-waits]")).to_contain_text("Looking at what may be cut of this model… ")
    expect(page.locator("#outlook-sentence")).to_have_text("It can start when the model has been looked at.")
    expect(button).to_be_disabled()
    expect(error).to_have_text("")
    expect_reachable(page)
    expect(button).to_be_enabled()
    expect(page.locator("#survey [data-facts]")).to_contain_text("12 of 14 channel groups can be narrowed")
    page.get_by_text("2 groups of channels stay whole; 6 blocks can be left out").click()
    expect(page.get_by_role("row", name="fc 10 its numbers are the answer")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    page.get_by_label("Name", exact=True).fill("a model, 2 seconds")
    button.click()
    page.wait_for_url(LIVE)


def test_a_model_that_was_refused_can_be_looked_at_again(page: Page) -> None:
    page.goto("/searches/new/")
    expect_reachable(page)
    page.locator("[name=space__kind][value=imported]").check(force=True)
    page.get_by_label("Library", exact=True).select_option("torchvision")
    page.get_by_label("Model", exact=True).fill(REFUSED)
    problem = page.locator("#outlook-problems li")
    for _ in range(2):
        expect(page.locator("#survey [data-waits]")).to_be_visible()
        expect(problem).to_have_text(f"Model: {REFUSAL}")
        expect(page.locator("#survey [data-waits]")).to_be_hidden()
        page.get_by_role("button", name="Look again").click()
    page.get_by_label("Model", exact=True).fill("resnet18")
    expect_reachable(page)
    expect(page.get_by_role("button", name="Look again")).to_be_hidden()


def spot(place: Locator) -> list[int]:
    """Where something stands in its part of the page, to the pixel, wherever that is scrolled to."""
    found = place.evaluate(
        """(element) => {
          const [own, part] = [element, element.closest("aside, form")].map((one) => one.getBoundingClientRect());
          return [own.x - part.x, own.y - part.y, own.width, own.height].map(Math.round);
        }"""
    )
    return list(found)


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_nothing_moves_while_the_first_answer_and_later_ones_come(page: Page, size: dict[str, int]) -> None:
    """Neither the button nor the fields: what is told has its room from the start."""
    waiting: list[Route] = []
    page.set_viewport_size(size)  # type: ignore[arg-type]
    page.route(OUTLOOK, lambda route: waiting.append(route))
    page.goto("/searches/new/")
    places = (page.get_by_role("button", name="Search", exact=True), page.get_by_label("Target", exact=True))
    page.wait_for_timeout(300)
    before = [spot(place) for place in places]
    (first,) = waiting
    first.continue_()
    expect_reachable(page)
    assert [spot(place) for place in places] == before
    page.unroute(OUTLOOK)
    page.get_by_label("Target", exact=True).fill("95%")
    expect_reachable(page, "Read the warning below the button first.")
    assert [spot(place) for place in places] == before
    page.get_by_label("Target", exact=True).fill("many")
    expect(page.locator("#outlook-basis")).to_have_text("These figures wait until the marked field is mended.")
    assert page.locator("#outlook-figures dd:visible").all_inner_texts() == ["—"] * 4, (
        "nothing of what was asked before"
    )
    assert [spot(place) for place in places] == before


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_everything_fits_with_long_input_and_all_unfolded(page: Page, size: dict[str, int], theme: str) -> None:
    page.set_viewport_size(size)  # type: ignore[arg-type]
    page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    page.goto("/searches/new/")
    page.get_by_text("Advanced:").click()
    page.get_by_label("Name", exact=True).fill("W" * 200)
    page.get_by_label("Target", exact=True).fill("9" * 200)
    page.get_by_label("Further targets").fill("x" * 200)
    expect(page.locator("#id_name_error")).to_contain_text("it has 200 characters; leave at most 80")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.locator(".picture:visible").count() >= 8
    for picture in page.locator(".picture:visible").all():
        box = picture.bounding_box()
        assert box is not None and box["width"] > 60 and box["x"] + box["width"] <= size["width"]


def test_without_javascript_the_form_works_and_nothing_empty_is_shown(
    browser: Browser, stack: Stack, cookies: list[dict[str, object]]
) -> None:
    context = visitor(browser, stack, cookies, script=False)
    page = context.new_page()
    page.goto("/searches/new/")
    expect(page.locator("#outlook-figures")).to_be_hidden()
    page.get_by_label("Target", exact=True).fill("12")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#id_target__value_error")).to_contain_text("give at least")
    page.get_by_label("Target", exact=True).fill("40%")
    page.get_by_label("Name", exact=True).fill("plain, 2 seconds")
    page.get_by_label("Name", exact=True).press("Enter")
    page.wait_for_url(LIVE)
    context.close()


def test_spans_of_time_are_worded_alike_on_both_sides(page: Page) -> None:
    numbers = [0, 7, 42, 50, 59, 70, 95, 170, 240, 3500, 3600, 4900, 9000, 86_000, 200_000, 3e6]
    pairs = [[least, most] for least in numbers for most in numbers if least <= most]
    page.goto("/searches/new/")
    theirs = page.evaluate(
        "async (pairs) => (await import('/static/js/words.js')).span && "
        "Promise.all(pairs.map(async ([a, b]) => (await import('/static/js/words.js')).span(a, b)))",
        pairs,
    )
    assert theirs == [words.span(least, most) for least, most in pairs]
