"""Ticking, filtering, comparing and copying, in a real browser against a whole Coppice with a storyteller in it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests.webapp.browsing import CONTRASTS, NARROW, SOON, WIDE, expect_state, listened, start, wait_until
from tests.webapp.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def context(browser: Browser, stack: Stack) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport=WIDE, base_url=stack.address)  # type: ignore[arg-type]
    context.set_default_timeout(SOON)
    context.new_page().goto(stack.link)
    yield context
    context.close()


@pytest.fixture(scope="module")
def two(context: BrowserContext) -> tuple[str, str]:
    """Addresses of two finished searches, Oak and Elm."""
    page = context.new_page()
    found = []
    for name in ("Oak in 1 second", "Elm in 1 second"):
        found.append(start(page, name))
        expect_state(page, "Finished")
    page.close()
    return found[0], found[1]


@pytest.fixture
def page(context: BrowserContext, two: tuple[str, str]) -> Iterator[Page]:
    page = context.new_page()
    page.set_viewport_size(WIDE)  # type: ignore[arg-type]
    yield page
    page.close()


def test_two_are_ticked_and_stand_side_by_side_while_the_list_is_kept_fresh(
    context: BrowserContext, page: Page, two: tuple[str, str]
) -> None:
    complaints = listened(context)
    start(page, "watched for 12 seconds")
    page.goto("/?sort=name")
    for name in ("Oak", "Elm"):
        page.get_by_role("checkbox", name=f"Compare {name} in 1 second").check()
    page.evaluate("document.getElementById('searches').dataset.old = 'true'")
    wait_until(lambda: not page.evaluate("document.getElementById('searches').dataset.old"), "a fresher list", 30)
    assert page.url.endswith("/?sort=name")
    rows = page.locator(".rows h2").all_inner_texts()
    assert rows == sorted(rows), "fresh, and in the order that was asked for"
    badge = page.locator(".row-end .badge-state").first
    badge.evaluate("badge => { badge.textContent = 'Finished early'; }")
    place = "e => e.getBoundingClientRect().right"
    assert badge.evaluate(place) <= page.locator(".row-end").first.evaluate(place), "the longest state has room"
    box = page.get_by_role("checkbox", name="Compare Elm in 1 second")
    expect(box).to_be_checked()
    expect(box).to_be_focused()
    page.get_by_role("button", name="Compare ticked").click()
    expect(page.get_by_role("heading", name="Compare 2 searches")).to_be_visible()
    wait_until(lambda: page.evaluate("document.querySelectorAll('.js-plotly-plot').length") == 2, "two charts")
    lines = page.evaluate("document.getElementById('ways').data.map((trace) => [trace.name, trace.x.length])")
    assert [count for _, count in lines] == [12, 21, 12, 21], "training goes on from the last epoch of the search"
    assert {name for name, _ in lines} == {"1 · Elm in 1 second", "2 · Oak in 1 second"}
    for number in (0, 1):
        units = page.locator(f"[data-network='{number}'] .strand")
        assert units.count() > 20
    page.get_by_text("The numbers").first.click()
    expect(page.get_by_role("row", name=re.compile("^32"))).to_be_visible()
    assert complaints == []


def side_by_side(two: tuple[str, str]) -> str:
    ids = [address.rstrip("/").rpartition("/")[2] for address in two]
    return f"/compare/?search={ids[0]}&search={ids[1]}"


def test_a_point_leads_to_its_search(page: Page, two: tuple[str, str]) -> None:
    page.goto(side_by_side(two))
    wait_until(lambda: page.locator("#pareto .points path").count() == 2, "two points")
    page.locator("#pareto").scroll_into_view_if_needed()
    point = page.locator("#pareto .points path").last.bounding_box()
    assert point is not None
    page.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    page.mouse.click(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    page.wait_for_url(re.compile(r"/searches/[0-9a-f-]{36}/$"))
    assert page.url in two


def test_side_by_side_fits_a_phone_and_can_be_read(page: Page, two: tuple[str, str]) -> None:
    page.set_viewport_size(NARROW)  # type: ignore[arg-type]
    for address in ("/", side_by_side(two), "/tokens/", two[0]):
        page.goto(address)
        page.evaluate("for (const folded of document.querySelectorAll('details')) folded.open = true")
        assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"], address
    for theme in ("light", "dark"):
        found = page.evaluate(CONTRASTS, [theme, [f"chart-line-{n}" for n in range(1, 9)], ["surface"]])
        assert {pair: ratio for pair, ratio in found.items() if ratio < 4.5} == {}, theme


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_table_has_a_shade_where_it_goes_on(page: Page, two: tuple[str, str], theme: str) -> None:
    """At its right edge until it is scrolled to the end, then at its left one."""
    page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    page.set_viewport_size(NARROW)  # type: ignore[arg-type]
    page.goto(side_by_side(two))
    table = page.locator(".table-scroll").first
    assert shaded(table) == (False, True)
    table.evaluate("table => table.scrollTo(9999, 0)")
    assert shaded(table) == (True, False)
    page.set_viewport_size(WIDE)  # type: ignore[arg-type]
    assert shaded(table) == (False, False)


def shaded(place: Locator) -> tuple[bool, bool]:
    """Whether its left and its right edge differ from the ground between, above all text."""
    with Image.open(io.BytesIO(place.screenshot())) as picture:
        pixels = picture.convert("L")
        left, ground, right = (pixels.getpixel((x, 2)) for x in (3, pixels.width // 2, pixels.width - 4))
    return abs(left - ground) > 12, abs(right - ground) > 12  # type: ignore[operator]


def test_the_list_is_filtered_without_a_script(browser: Browser, context: BrowserContext, two: tuple[str, str]) -> None:
    plain = browser.new_context(
        java_script_enabled=False, base_url=two[0].partition("/searches")[0], storage_state=context.storage_state()
    )
    page = plain.new_page()
    page.goto("/")
    page.get_by_label("Name has").fill("oak")
    page.get_by_label("State").select_option("finished")
    page.get_by_role("button", name="Show").press("Enter")
    assert page.locator(".rows h2").all_inner_texts() == ["Oak in 1 second"]
    assert page.get_by_role("img", name=re.compile("^Validation accuracy: .* after 20 of training")).count() == 1
    page.get_by_role("link", name="All").click()
    page.get_by_role("button", name="Compare ticked").click()
    expect(page.get_by_text("Tick 2 to 8 searches in the list to compare them.")).to_be_visible()
    page.go_back()
    for name in ("Oak", "Elm"):
        page.get_by_role("checkbox", name=f"Compare {name} in 1 second").check()
    page.get_by_role("button", name="Compare ticked").click()
    expect(page.get_by_role("heading", name="Compare 2 searches")).to_be_visible()
    plain.close()


def test_a_clone_comes_with_its_settings_and_starts(page: Page, two: tuple[str, str]) -> None:
    page.goto(two[0])
    page.get_by_role("link", name="Clone and edit").click()
    expect(page.get_by_role("heading", name="Filled in like Oak in 1 second")).to_be_visible()
    page.get_by_label("Name", exact=True).fill("Oak again in 1 second")
    page.get_by_label("Target", exact=True).fill("30%")
    page.get_by_role("button", name="Search", exact=True).click()
    expect_state(page, "Finished")
    page.get_by_text("Name, note, tags").click()
    page.get_by_label("Tags").fill("Woods, again")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("link", name="woods").click()
    assert page.locator(".rows h2").all_inner_texts() == ["Oak again in 1 second"]


def test_what_is_shown_is_copied_or_else_selected(context: BrowserContext, page: Page, two: tuple[str, str]) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(two[0])
    page.get_by_text("Do it again elsewhere").click()
    button = page.get_by_role("button", name="Copy Command line")
    button.click()
    expect(page.locator("#elsewhere [data-copy='shell']")).to_have_text("Copied")
    shown = page.locator("#shell").text_content() or ""
    assert shown.startswith("cat > config.json") and page.evaluate("navigator.clipboard.readText()") == shown
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('refused')); }")
    page.get_by_role("button", name="Copy curl").click()
    expect(page.locator("#elsewhere [data-copy='curl']")).to_have_text("Selected: copy it with Ctrl+C")
    assert page.evaluate("getSelection().toString()").strip() == (page.locator("#curl").text_content() or "").strip()
    page.get_by_text("Share", exact=True).click()
    page.get_by_role("button", name="Make a link").click()
    page.get_by_role("button", name="Copy New link").click()
    link = page.evaluate("navigator.clipboard.readText()")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/shared/[\w-]{43}/", link)
    code = page.locator("pre.wraps")
    assert code.evaluate("pre => pre.scrollWidth <= pre.clientWidth"), "the whole link can be seen"
