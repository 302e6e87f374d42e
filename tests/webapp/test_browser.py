"""What people see and do, in a real browser against a whole Coppice: web server, workers, Redis.

The engine is real in the first test; the others have a storyteller in its place, quick and able to fail.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from nasengine import events
from tests.webapp.browsing import (
    CONTRASTS,
    NARROW,
    SOON,
    WIDE,
    drawn,
    expect_state,
    listened,
    shades,
    start,
    wait_until,
)
from tests.webapp.cast import result_ready
from tests.webapp.stack import running
from tests.webapp.story import FILES, story
from webapp.charts import CHARTS, charts_of
from webapp.templatetags import words

pytestmark = [pytest.mark.browser, pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(900)]

# The main way through, with the real engine


def test_a_newcomer_searches_digits_from_the_form_to_the_files(browser: Browser, tmp_path: Path) -> None:
    """Link, form, live charts, files with their checksums, reload, second tab; quick preset, 40 % of the parameters."""
    with running(tmp_path) as stack:
        context = browser.new_context(viewport=WIDE, base_url=stack.address, accept_downloads=True)  # type: ignore[arg-type]
        context.set_default_timeout(SOON)
        complaints = listened(context)
        page = context.new_page()
        page.goto(stack.link)
        page.get_by_role("link", name="Start your first search").click()
        page.get_by_label("Name", exact=True).fill("First search")
        page.get_by_text("Quick", exact=True).click()
        page.get_by_label("Data set").select_option("digits")
        page.get_by_text("Parameters", exact=True).click()
        page.get_by_label("Target", exact=True).fill("40%")
        page.get_by_text("Advanced:").click()
        page.get_by_label("Limit (images)").fill("300")
        page.get_by_label("Search epochs").fill("8")
        page.get_by_label("Retraining epochs").fill("2")
        expect(page.locator("#outlook-sentence")).to_have_text("This can be reached.")
        target = int(re.sub(r"\D", "", page.locator("#outlook-target").inner_text()))
        page.get_by_role("button", name="Search", exact=True).click()

        page.locator("#chart-losses").scroll_into_view_if_needed(timeout=120_000)
        wait_until(lambda: drawn(page, "losses") > 2, "first points of the losses", 120)
        before = drawn(page, "losses")
        expect(page.locator("#state")).to_have_text("Running")
        wait_until(lambda: drawn(page, "losses") > before, "more points while it runs", 120)
        wait_until(
            lambda: page.locator("#network .strand:is([data-state='off'], [data-state='cut'])").count() > 0,
            "a pruned operation",
            240,
        )
        expect_state(page, "Finished", 400)
        expect(page.locator("#result")).to_contain_text("of the test images")

        links = page.locator("#artifacts .files a[download]")
        names = links.all_inner_texts()
        assert {
            "architecture.json",
            "model.safetensors",
            "model.py",
            "model.onnx",
            "pictures.png",
            "report.json",
            "README.md",
            "SHA256SUMS",
        } <= set(names)
        for index, name in enumerate(names):
            with page.expect_download() as download:
                links.nth(index).click()
            found = hashlib.sha256(Path(download.value.path()).read_bytes()).hexdigest()
            assert found == links.nth(index).get_attribute("data-sha256"), name
            if name == "report.json":
                report = json.loads(Path(download.value.path()).read_text())
                assert 0.97 * target <= report["achieved"]["params"] <= target

        first = shown(page)
        page.reload()
        assert shown(page) == first
        second = context.new_page()
        second.goto(page.url)
        assert shown(second) == first
        assert complaints == []
        context.close()


def shown(page: Page) -> dict[str, object]:
    """What a finished search's page says, when it has said all."""
    page.bring_to_front()  # behind another one charts are drawn slowly
    expect(page.locator("#stage-line")).to_have_text("Done")
    charts = charts_of("operations", "mgas")
    for chart in charts:
        page.locator(f"#chart-{chart['id']}").scroll_into_view_if_needed()
        wait_until(lambda chart=chart: drawn(page, chart["id"]) > 0, f"points in {chart['id']}")  # type: ignore[misc]
    return {
        "points": {chart["id"]: drawn(page, chart["id"]) for chart in charts},
        "log": page.locator("#log li").all_inner_texts(),
        "figures": page.locator(".figures dd").all_inner_texts(),
        "on": page.locator(".unit:is([data-state='on'], [data-state^='back'])").count(),
        "result": page.locator("#result").inner_text(),
    }


# The feed


def test_a_page_whose_sockets_are_blocked_asks_instead_and_misses_nothing(context: BrowserContext) -> None:
    page = context.new_page()
    address = start(page, "seen twice in 6 seconds")
    blocked = context.new_page()
    blocked.route_web_socket(re.compile("/ws/"), lambda socket: socket.close())
    blocked.goto(address)
    expect(blocked.locator("#link")).to_contain_text("asks for news every two seconds", timeout=SOON)
    expect_state(blocked, "Finished")
    expect_state(page, "Finished")
    assert shown(blocked) == shown(page)


def test_a_lost_connection_is_said_and_caught_up_with(context: BrowserContext) -> None:
    page = context.new_page()
    page.add_init_script(
        """const Real = WebSocket;
        window.sockets = [];
        window.WebSocket = class extends Real {
          constructor(url) { super(url); sockets.push(this); }
        };"""
    )
    address = start(page, "steady for 60 seconds")
    expect_state(page, "Running")
    expect(page.locator("#live")).to_be_visible()
    context.set_offline(True)
    page.evaluate("sockets.forEach((socket) => socket.close())")
    expect(page.locator("#link")).to_contain_text("Connection lost, reconnecting")
    expect(page.locator("#state")).to_have_text("Running")
    before = page.locator("#stage-line").inner_text()
    context.set_offline(False)
    page.evaluate("window.dispatchEvent(new Event('online'))")
    expect(page.locator("#link")).to_be_hidden()
    expect(page.locator("#stage-line")).not_to_have_text(before)
    urls = page.evaluate("sockets.map((socket) => socket.url)")
    assert int(re.search(r"after=(\d+)", urls[-1])[1]) > 0, "it goes on where it was"  # type: ignore[index]
    other = context.new_page()
    other.goto(address)
    expect(other.locator("#live")).to_be_visible()
    assert set(page.locator("#log li").all_inner_texts()) >= set(other.locator("#log li").all_inner_texts()[1:])
    cancel(page)


def cancel(page: Page) -> None:
    page.get_by_role("button", name="Cancel…").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the search").click()
    expect_state(page, "Cancelled")


def test_what_a_dead_attempt_said_after_its_checkpoint_is_forgotten(context: BrowserContext) -> None:
    """The open page is told to rewind and ends up with what a fresh page shows."""
    page = context.new_page()
    frames: list[str] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(str(frame))))
    address = start(page, "dies once")
    expect_state(page, "Finished", 120)
    assert any('"rewind"' in frame for frame in frames)
    expect(page.locator("#log")).to_contain_text("Attempt 2 goes on here")
    fresh = context.new_page()
    fresh.goto(address)
    assert shown(fresh) == shown(page)


def test_cancel_asks_first_and_the_page_says_what_became_of_it(context: BrowserContext, said: list[str]) -> None:
    page = context.new_page()
    start(page, "60 seconds, unwanted")
    expect_state(page, "Running")
    page.get_by_role("button", name="Cancel…").click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.locator("#state")).to_have_text("Running")
    cancel(page)
    expect(page.locator("#trouble")).to_contain_text("was ended on request and has no result")
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete it").click()
    expect(page.get_by_role("status").first).to_contain_text("was deleted")
    assert said == []


def test_a_failed_search_shows_the_engines_sentence_and_what_to_do(context: BrowserContext) -> None:
    page = context.new_page()
    start(page, "fails")
    expect_state(page, "Failed")
    expect(page.locator("#trouble")).to_contain_text("The loss is not a number any more; use a smaller learning rate.")
    expect(page.locator("#trouble")).to_contain_text("start a new search")


def test_the_list_follows_a_search_to_its_end_without_reload(context: BrowserContext) -> None:
    page = context.new_page()
    start(page, "watched for 6 seconds")
    page.goto("/")
    row = page.get_by_role("listitem").filter(has_text="watched for 6 seconds")
    expect(row.get_by_role("progressbar")).to_be_visible()
    page.evaluate("window.same = true")
    expect(row.locator(".badge-state")).to_have_text("Finished", timeout=60_000)
    expect(row).to_contain_text("97.2 %")
    assert page.evaluate("window.same")


# The form


def test_the_outlook_follows_the_fields_and_says_why_a_target_is_out_of_reach(context: BrowserContext) -> None:
    page = context.new_page()
    page.goto("/searches/new/")
    sentence = page.locator("#outlook-sentence")
    expect(sentence).to_have_text("This can be reached.")
    page.get_by_label("Target", exact=True).fill("12")
    expect(sentence).to_have_text("This cannot be reached as it stands:")
    expect(page.locator("#id_target__value_error")).to_contain_text("12")
    target = page.get_by_label("Target", exact=True)
    expect(target).to_have_attribute("aria-invalid", "true")
    expect(target).to_have_accessible_description(re.compile("12 parameters are below what"))
    expect(page.locator("#outlook-problems li")).to_have_text(re.compile("^Target: 12 parameters are below"))
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("cannot start yet")
    expect(page.locator("#id_target__value_error")).to_contain_text("12")
    slider = page.locator("#target-slider")
    slider.focus()
    slider.press("End")
    assert page.get_by_label("Target", exact=True).input_value() == "100%"
    expect(sentence).to_have_text("This can be reached.")
    expect(page.locator("#id_target__value_error")).to_be_empty()
    expect(target).not_to_have_attribute("aria-invalid", "true")


def test_a_problem_in_the_folded_part_leads_there(context: BrowserContext) -> None:
    page = context.new_page()
    page.goto("/searches/new/")
    page.get_by_text("Advanced:").click()
    page.get_by_label("Search epochs").fill("2")
    page.get_by_text("Advanced:").click()
    page.locator("#outlook-problems a").first.click()
    expect(page.get_by_label("Search epochs")).to_be_focused()


def test_a_chain_is_asked_for_and_a_family_comes_back(context: BrowserContext, said: list[str]) -> None:
    """Only the chosen space's settings are shown and sent; each further target has its row, files and sentences."""
    page = context.new_page()
    page.goto("/searches/new/")
    page.get_by_label("Name", exact=True).fill("A family in 1 second")
    page.get_by_text("Advanced:").click()
    page.get_by_label("Nodes").fill("99")
    expect(page.locator("#outlook-sentence")).to_have_text("Something has to be mended first:")
    page.get_by_text("Chain", exact=True).click()
    expect(page.get_by_role("group", name="Space: Cells")).to_be_hidden()
    chain = page.get_by_role("group", name="Space: Chain")
    expect(chain.get_by_label("Channels")).to_have_attribute("placeholder", "8")
    page.get_by_text("Thorough", exact=True).click()
    expect(chain.get_by_label("Channels")).to_have_attribute("placeholder", "24")
    page.get_by_text("Quick", exact=True).click()
    chain.get_by_label("Layers").fill("4")
    page.get_by_label("Further targets").fill("20%")
    expect(page.locator("#outlook-sentence")).to_have_text("This can be reached.")
    expect(page.locator("#outlook-also")).not_to_be_empty()
    assert "nodes" not in page.evaluate("[...new FormData(document.getElementById('new-search')).keys()].join()")
    page.get_by_role("button", name="Search", exact=True).click()
    expect_state(page, "Finished")
    expect(page.locator("#network")).to_contain_text("Layer 4")
    row = page.get_by_role("table", name="Networks for the further targets").get_by_role("row").nth(1)
    target = row.get_by_role("rowheader").inner_text()
    expect(page.locator("#log")).to_contain_text(f"The network for the target {target} is ready")
    expect(page.locator("#artifacts .files a[download]")).to_have_count(len(FILES))
    page.get_by_text(f"{len(FILES)} files").click()
    link = page.locator(".family a[download]", has_text="model.onnx")
    with page.expect_download() as download:
        link.click()
    assert f"/family/{target.replace(',', '')}/" in download.value.url
    assert Path(download.value.path()).read_bytes() == FILES["model.onnx"]
    page.set_viewport_size(NARROW)  # type: ignore[arg-type]
    shown(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    assert said == []


# Data sets


def test_a_zip_is_uploaded_packed_shown_and_offered_to_search_on(
    context: BrowserContext, said: list[str], tmp_path: Path
) -> None:
    page = context.new_page()
    page.goto("/datasets/")
    page.get_by_label("Name", exact=True).fill("Shades")
    page.get_by_label("Zip file").set_input_files(shades(tmp_path))
    page.get_by_role("button", name="Upload").click()
    page.wait_for_url(re.compile(r"/datasets/[0-9a-f-]{36}/$"))
    expect(page.locator("#dataset .badge-state")).to_have_text("Ready", timeout=90_000)
    expect(page.get_by_role("row", name=re.compile("dark"))).to_contain_text("60")
    assert page.locator(".thumbs img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    page.get_by_text("1 file left out").click()
    expect(page.get_by_role("row", name=re.compile("notes.jpg"))).to_be_visible()
    page.get_by_role("link", name="Search on these images").click()
    expect(page.get_by_label("Data set").locator("option:checked")).to_have_text("Shades")
    expect(page.locator("#outlook-sentence")).to_have_text("This can be reached.")
    assert said == []


def test_a_refused_upload_says_why_and_keeps_the_page(context: BrowserContext, tmp_path: Path) -> None:
    page = context.new_page()
    page.goto("/datasets/")
    (tmp_path / "words.zip").write_text("these are words, not a zip")
    page.get_by_label("Zip file").set_input_files(tmp_path / "words.zip")
    page.get_by_role("button", name="Upload").click()
    expect(page.locator("#id_file_error")).to_contain_text("zip")
    expect(page.get_by_role("button", name="Upload")).to_be_enabled()
    expect(page.get_by_label("Zip file")).to_be_focused()


# Every page


@pytest.mark.parametrize("address", ["/", "/searches/new/", "/datasets/", "/nothing-here/"])
def test_pages_fit_a_phone_and_start_with_a_way_past_the_menu(context: BrowserContext, address: str) -> None:
    page = context.new_page()
    page.set_viewport_size(NARROW)  # type: ignore[arg-type]
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    assert page.evaluate("document.querySelectorAll('h1').length") == 1
    fields = page.locator("input:not([type=hidden]), select, textarea")
    nameless = (
        "fields => fields.filter((field) => !field.labels?.length && !field.ariaLabel).map((field) => field.name)"
    )
    assert fields.evaluate_all(nameless) == []


def test_a_live_search_fits_a_phone(context: BrowserContext) -> None:
    page = context.new_page()
    page.set_viewport_size(NARROW)  # type: ignore[arg-type]
    start(page, "on the way home in 1 second")
    expect_state(page, "Finished")
    shown(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]


def test_the_theme_follows_the_system_until_somebody_chooses(context: BrowserContext) -> None:
    page = context.new_page()
    page.emulate_media(color_scheme="dark")
    page.goto("/")
    html = page.locator("html")
    expect(html).to_have_attribute("data-bs-theme", "dark")
    page.emulate_media(color_scheme="light")
    expect(html).to_have_attribute("data-bs-theme", "light")
    page.get_by_role("button", name="Switch between light and dark").click()
    expect(html).to_have_attribute("data-bs-theme", "dark")
    page.reload()
    expect(html).to_have_attribute("data-bs-theme", "dark")


def test_text_can_be_read_in_both_themes(context: BrowserContext) -> None:
    """At least 4.5 : 1 (WCAG AA) for every pair of ink and ground of the style sheet."""
    page = context.new_page()
    page.goto("/")
    inks = [
        "ink",
        "soft-ink",
        "leaf",
        "cut",
        "chart-ink",
        "chart-operation",
        "chart-filter",
        "chart-weight",
        "chart-target",
    ]
    for theme in ("light", "dark"):
        found = page.evaluate(CONTRASTS, [theme, inks, ["ground", "surface"]])
        found |= page.evaluate(CONTRASTS, [theme, ["on-leaf"], ["leaf", "leaf-deep"]])
        found |= page.evaluate(CONTRASTS, [theme, ["ink", "leaf"], ["leaf-soft"]])
        assert {pair: ratio for pair, ratio in found.items() if ratio < 4.5} == {}, theme


# The modules by themselves


TOLD = [json.loads(events.to_line(event)) for event in story()]
A_FAMILY = [
    json.loads(events.to_line(event))
    for event in story(
        {"space": {"kind": "chain"}, "target": {"value": "40%", "also": ["30%", 20_000]}, "search": {"epochs": 16}}
    )
]
"""Of a chain."""
TALES = pytest.mark.parametrize(
    "told", [pytest.param(TOLD, id="cells"), pytest.param(A_FAMILY, id="a family of chains")]
)


def test_a_rewound_run_equals_one_that_never_saw_the_rest(script: Page) -> None:
    """Also when events come twice: known numbers are ignored."""
    half = TOLD[len(TOLD) // 2]["seq"]
    seen, plain = script.evaluate(
        """async ([told, charts, half]) => {
          const { add, emptyRun, rewind } = await import("/static/js/run.js");
          const plainly = (_, value) => (value instanceof Map || value instanceof Set ? [...value].sort() : value);
          const write = (run) => JSON.stringify(run, plainly);
          const [seen, plain] = [emptyRun(charts), emptyRun(charts)];
          add(seen, told);
          rewind(seen, half);
          add(seen, told.slice(0, 40));
          add(plain, told.filter((event) => event.seq <= half));
          const halves = write(seen) === write(plain);
          add(seen, told);
          add(plain, told);
          return [halves && write(seen), halves && write(plain)];
        }""",
        [TOLD, CHARTS, half],
    )
    assert seen and seen == plain


def test_every_chart_gets_points_from_a_whole_run(script: Page) -> None:
    points = script.evaluate(
        """async ([told, charts]) => {
          const { add, emptyRun } = await import("/static/js/run.js");
          const run = emptyRun(charts);
          add(run, told);
          const lines = (id) => [...run.model.traces[id].values()].map((line) => [line.label, line.x.length]);
          return Object.fromEntries(charts.map(({ id }) => [id, lines(id)]));
        }""",
        [TOLD, charts_of("operations", "mgas")],
    )
    commits = sum(event["kind"] == "committed" for event in TOLD)
    assert dict(points["kept"]) == {"operations": 12, "filters": 12, "weights": 12}
    assert points["changes"] == [[name, commits] for name in ("operations", "filters", "weights")] * 2
    assert all(count > 0 for lines in points.values() for _, count in lines) and all(points.values())


def test_a_teachers_line_has_its_own_name_in_the_legend(script: Page) -> None:
    """What else is trained beside the found network is named on hover alone."""
    some = next(event for event in TOLD if event["kind"] == "retrain_epoch")
    networks = ("teacher 1", "teacher 2", "teacher", "found", "random 1")
    told = [{**some, "seq": seq, "network": network} for seq, network in enumerate(networks, start=1)]
    drawn = script.evaluate(
        """async ([told, charts]) => {
          const { add, emptyRun } = await import("/static/js/run.js");
          const { Charts } = await import("/static/js/draw.js");
          const run = emptyRun(charts);
          add(run, told);
          const place = document.querySelector("main");
          place.replaceChildren();
          const traces = await new Promise((done) => {
            window.Plotly = { react: (_, traces) => done(traces) };
            const shown = new Charts(place, charts);
            shown.onWanted(() => shown.draw(run.model));
          });
          return traces.map(({ name, showlegend, hovertemplate }) => [
            name, showlegend, hovertemplate.endsWith(`>${name}</extra>`),
          ]);
        }""",
        [told, [chart for chart in CHARTS if chart["id"] == "accuracy"]],
    )
    assert sorted(drawn) == [
        ["retraining, training", True, True],
        ["retraining, validation", True, True],
        ["retraining, validation, random 1", False, True],
        ["teacher 2 of the blocks, validation", True, True],
        ["teacher of the blocks, validation", True, True],
        ["teacher, validation", True, True],
    ]


@pytest.mark.parametrize("learned", ["task", "feature"])
def test_a_very_long_run_stays_small_and_keeps_its_spikes(script: Page, learned: str) -> None:
    """50,000 progress events: a bounded number is kept, among them the highest and the lowest loss."""
    kept, low, high, last = script.evaluate(
        """async ([charts, some, learned]) => {
          const { add, emptyRun } = await import("/static/js/run.js");
          const run = emptyRun(charts);
          for (let seq = 1; seq <= 50000; seq += 100) {
            const loss = (seq) => ({ 1234: 99, 4321: -99 })[seq] ?? 1;
            const event = (seq) => ({ ...some, seq, losses: { [learned]: loss(seq) } });
            add(run, Array.from({ length: 100 }, (_, n) => event(seq + n)));
          }
          const y = run.events.map((event) => event.losses[learned]);
          return [run.events.length, Math.min(...y), Math.max(...y), run.lastSeq];
        }""",
        [CHARTS, next(event for event in TOLD if event["kind"] == "progress"), learned],
    )
    assert 700 < kept <= 2000 and (low, high, last) == (-99, 99, 50_000)


def test_thinned_lines_keep_their_ends_and_extremes(script: Page) -> None:
    x, y = script.evaluate(
        """async () => {
          const { decimated } = await import("/static/js/draw.js");
          const y = Array.from({ length: 9000 }, (_, n) => (n === 4000 ? 50 : n === 7001 ? -50 : Math.sin(n)));
          return decimated(y.map((_, n) => n), y, 500);
        }"""
    )
    assert len(x) <= 500 and (x[0], x[-1]) == (0, 8999) and (min(y), max(y)) == (-50, 50) and x == sorted(x)


def test_packed_units_are_read_as_the_engine_packs_them(script: Page) -> None:
    """{0, 9} of 10: the first bit of the first byte and the second of the second: 0x80 0x40, base64 gEA=."""
    assert script.evaluate("import('/static/js/run.js').then(({ unitsOn }) => [...unitsOn('gEA=', 10)])") == [
        1,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        1,
    ]


def test_numbers_are_worded_alike_on_both_sides(script: Page) -> None:
    numbers = [
        0,
        0.09,
        0.84,
        7,
        42,
        49.9,
        59,
        99.4,
        950,
        999.4,
        999.6,
        1000,
        4900,
        7100,
        9994,
        18_314,
        86_000,
        88_200,
        99_960,
        129_599,
        129_600,
        200_000,
        1_204_992,
        3e9,
    ]
    pairs = [
        ("count", words.count),
        ("whole", words.whole),
        ("percent", words.percent),
        ("bytes", words.size),
        ("memory", words.memory),
        ("duration", words.duration),
        ("milliseconds", words.milliseconds),
    ]
    for name, ours in pairs:
        theirs = script.evaluate(
            """async ([name, numbers]) => {
              const word = (await import("/static/js/words.js"))[name];
              return numbers.map((number) => word(number));
            }""",
            [name, numbers],
        )
        assert dict(zip(numbers, theirs, strict=True)) == {number: ours(number) for number in numbers}, name


SIZES = """async ([told, charts]) => {
  const { add, emptyRun } = await import("/static/js/run.js");
  const { figures } = await import("/static/js/header.js");
  const ids = ["size", "size-note", "accuracy", "accuracy-note", "operation", "filter", "weight", "speed"];
  document.body.innerHTML = ids.map((id) => `<p id="figure-${id}"></p>`).join("");
  const run = emptyRun(charts);
  const found = [];
  for (const event of told) {
    add(run, [event]);
    const { stage, started } = run.model;
    if (!["fit", "stage_end"].includes(event.reason) || stage.blocks < started.blocks.length) continue;
    figures(run.model);
    const [size, note] = ["size", "size-note"].map((id) => document.getElementById(`figure-${id}`).textContent);
    found.push([run.model.log.at(-1).text.split(". ").at(-1), size, note]);
  }
  return found;
}"""
"""[what the log says is left, what the card says is the size, its note] whenever a stage or a network is done."""


@TALES
def test_every_kind_of_event_the_log_tells_is_a_sentence(script: Page, told: list[dict[str, Any]]) -> None:
    texts = script.evaluate(
        """async ([told, charts]) => {
          const { add, emptyRun } = await import("/static/js/run.js");
          const run = emptyRun(charts);
          add(run, told);
          return run.model.log.map((entry) => entry.text);
        }""",
        [told, CHARTS],
    )
    assert all(re.fullmatch(r"[A-Z].*\.", text) for text in texts)
    assert not any(word in text for text in texts for word in ("undefined", "NaN", "null", "[object"))
    assert any("regrown" in text for text in texts) and any("pruned" in text for text in texts)
    sizes = script.evaluate(SIZES, [told, CHARTS])
    assert sizes and all(said.startswith(f"{card} parameters are left") for said, card, _ in sizes)
    for *_, note in sizes:
        targets = re.findall(r"[\d,]*\d", note)
        assert len(targets) == len(set(targets)) == (3 if told is A_FAMILY else 1), "each is named once"
    assert not any("exactly" in text for text in texts)
    assert len(FILES) == 8


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        (
            events.CollapseAverted(
                stage=0, epoch=3, block="cell 1", choice="c1_n0_ops", unit=1, label="s0 sep_conv_3x3", score=0.4,
                threshold=0.5,
            ),
            "Cell 2 would have kept only skips and pools; separable convolution 3\u00d73 (in1 → n1) is kept.",
        ),
        (
            events.SearchFailed(error="", message="It ended with exit status 7.\nIts last words:\nno", problems=[]),
            "It ended with exit status 7.",
        ),
        (
            events.StageStarted(
                stage=1, name="on to 12,000 params", blocks=3, epochs=4, warmup_epochs=0, full_size=9, size=9, target=9
            ),
            "Stage 1 begins: down to 12,000 parameters.",
        ),
        (
            events.RetrainEpoch(
                network="at 12000", epoch=1, epochs=20, train={}, validation={}, fraction=0.5, eta_seconds=None
            ),
            "The network for the target 12,000 is now built for real, without masks, and is to train for 20 epochs.",
        ),
        (
            result_ready(1, "family/12000", achieved={"params": 11_987}, accuracy={"test": 0.951}),
            "The network for the target 12,000 is ready: 11,987 parameters, test accuracy 95.1 %.",
        ),
        (
            result_ready(1, achieved={"params": 19_987}, accuracy={"test": 0.962}),
            "The result is ready: 19,987 parameters, test accuracy 96.2 %.",
        ),
        (
            result_ready(1, achieved={"params": 9}, accuracy={"test": 0.5}, ended_early=["search", "retraining"]),
            "The result is ready: 9 parameters, test accuracy 50.0 %. The search and the training were ended early on "
            "request.",
        ),
    ],
)  # fmt: skip
def test_what_the_log_says(script: Page, event: events.Event, sentence: str) -> None:
    said = "async (event) => (await import('/static/js/sentences.js')).sentence(event, {}).text"
    assert script.evaluate(said, json.loads(events.to_line(event))) == sentence


def test_a_run_of_before_there_were_families_can_still_be_shown(script: Page) -> None:
    old = [{key: value for key, value in event.items() if key not in ("folder", "also")} for event in TOLD]
    done = script.evaluate(
        """async ([told, charts]) => {
          const { add, emptyRun } = await import("/static/js/run.js");
          const run = emptyRun(charts);
          add(run, told);
          return [run.model.phase, run.model.result?.kind];
        }""",
        [old, CHARTS],
    )
    assert done == ["finished", "result_ready"]


def test_steps_of_stages_are_over_unless_the_search_was_stopped_before_them(script: Page) -> None:
    """Also where an attempt was lost and another goes on; who stops early goes on with the last stage."""
    headed = """async ([told, charts]) => {
      const { add, emptyRun, rewind } = await import("/static/js/run.js");
      const { header } = await import("/static/js/header.js");
      const ids = ["progress", "progress-percent", "stage-line", "eta", "steps", "facts"];
      document.body.innerHTML = ids.map((id) => `<div id="${id}"></div>`).join("");
      const run = emptyRun(charts);
      add(run, told);
      rewind(run, told[Math.floor(told.length / 2)].seq);
      add(run, told);
      header(run.model, { state: "running", attempt: 1 });
      return [...document.querySelectorAll("#steps li")].map((step) => [step.textContent, step.className]);
    }"""
    steps = script.evaluate(headed, [TOLD, CHARTS])
    stages = next(event["stages"] for event in TOLD if event["kind"] == "search_started")
    assert len(steps) == len(stages) + 3 and {tone for _, tone in steps} == {"over"}
    first = next(event["seq"] for event in TOLD if event["kind"] == "epoch_finished")
    last = [event for event in TOLD if event["kind"] in ("stage_started", "stage_finished")][-2:]
    stopped = [*TOLD[:first], *last, *(event for event in TOLD if event["kind"] == "retrain_epoch")]
    steps = script.evaluate(headed, [[{**event, "seq": seq} for seq, event in enumerate(stopped, 1)], CHARTS])
    assert steps[1][0].endswith(", cut short") and steps[1][1] == "missed"
    assert steps[len(stages)][0].endswith(", left out") and steps[len(stages) + 1] == ["training", "now"]
    (ready,) = (event for event in TOLD if event["kind"] == "result_ready" and event["folder"] == "result")
    told = [
        *TOLD[: ready["seq"] - 1],
        {**ready, "report": {**ready["report"], "ended_early": ["search", "retraining"]}},
    ]
    steps = script.evaluate(headed, [told, CHARTS])
    assert [name.rpartition(", ")[2] for name, _ in steps[-3:]] == ["cut short", "cut short", "result"]
    assert [tone for _, tone in steps[-3:]] == ["missed", "missed", "over"]
