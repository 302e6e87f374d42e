"""The drawing of the network: what it shows at any commit, how it is watched, rewound and looked into.

The modules run in a real browser, fed with the events of the storyteller.
"""

from __future__ import annotations

import base64
import json
import math
import re
import subprocess
import sys
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from nasengine import events
from tests.webapp.browsing import expect_state, start
from tests.webapp.story import story
from webapp.charts import CHARTS

pytestmark = [pytest.mark.browser, pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(900)]


def told_by(raw: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    return [json.loads(events.to_line(event)) for event in story(raw)]


TOLD = told_by()
A_FAMILY = told_by(
    {
        "space": {"kind": "chain", "attention": [2]},
        "target": {"value": "40%", "also": ["30%", 20_000]},
        "search": {"epochs": 16},
    }
)
A_MODEL = told_by({"space": {"kind": "imported", "model": "test_resnet"}, "target": {"value": "40%"}})
TALES = pytest.mark.parametrize(
    "told", [pytest.param(TOLD, id="cells"), pytest.param(A_FAMILY, id="a family of chains")]
)


@TALES
def test_the_picture_shows_what_was_cut_and_what_came_back(script: Page, told: list[dict[str, Any]]) -> None:
    """At any commit: filled where the engine's bits are set, and marked where a unit had been off before."""
    commits = [event for event in told if event["kind"] == "committed"]
    choices = next(event for event in told if event["kind"] == "search_started")["choices"]
    operations = {choice["name"]: choice["units"] for choice in choices if choice["granularity"] == "operation"}
    last = len(commits) - 1
    for index in (last, 2, last):  # also backwards
        was_off: set[tuple[str, int]] = set()
        for commit in commits[: index + 1]:
            now = {(name, unit) for name, units in operations.items() for unit in bits(commit["kept"][name], units)}
            back = now & was_off
            was_off |= {(name, unit) for name, units in operations.items() for unit in range(units)} - now
        found = script.evaluate(PICTURE, [told, CHARTS, index])
        assert {(name, unit) for name, unit, state in found if state in ("on", "back", "back-now")} == now
        assert {(name, unit) for name, unit, state in found if state in ("back", "back-now")} == back
    assert back, "the story brings something back"


def bits(text: str, units: int) -> list[int]:
    data = base64.b64decode(text)
    return [unit for unit in range(units) if data[unit // 8] & 128 >> unit % 8]


SHOWN = """async ([told, charts, index]) => {
  const { add, emptyRun } = await import("/static/js/run.js");
  const { Network } = await import("/static/js/network.js");
  if (!window.picture) {
    const run = emptyRun(charts);
    add(run, told);
    window.picture = { run, network: new Network(document.getElementById("main")) };
  }
  window.picture.network.show(window.picture.run.model, index);
"""
"""The beginning of a script: the network of these events at one of its commits."""
PICTURE = (
    SHOWN
    + """  const units = [...document.querySelectorAll(".reach")];
  return units.map(({ dataset: { choice, unit, state } }) => [choice, Number(unit), state]);
}"""
)


@TALES
def test_a_line_is_as_wide_as_the_filters_that_pass(script: Page, told: list[dict[str, Any]]) -> None:
    """Between 1 and 3.6, by the share that is left inside the operation, or of what it feeds if that is less."""
    widths = script.evaluate(
        """async ([told, charts]) => {
          const { add, emptyRun } = await import("/static/js/run.js");
          const { Network, choicesOf } = await import("/static/js/network.js");
          const { blockGraph } = await import("/static/js/graph.js");
          const run = emptyRun(charts);
          add(run, told);
          new Network(document.getElementById("main")).show(run.model, run.model.commits.length - 1);
          const { started } = run.model;
          const strands = started.blocks.flatMap((_, n) => blockGraph(choicesOf(started, n))?.strands ?? []);
          return [...document.querySelectorAll(".strand")].map((line, n) => {
            const { inner, feeds } = strands[n];
            return [inner, feeds, line.dataset.state, Number(line.getAttribute("stroke-width"))];
          });
        }""",
        [told, CHARTS],
    )
    started = next(event for event in told if event["kind"] == "search_started")
    units = {choice["name"]: choice["units"] for choice in started["choices"]}
    kept = [event for event in told if event["kind"] == "committed"][-1]["kept"]

    def share(name: str | None) -> float:
        return len(bits(kept[name], units[name])) / units[name] if name else 1.0

    alive = [(inner, feeds, width) for inner, feeds, state, width in widths if state in ("on", "back", "back-now")]
    assert any(inner for inner, _, _ in alive)
    for inner, feeds, width in alive:
        inside = math.prod(map(share, inner))
        assert width == pytest.approx(1 + 2.6 * min(inside, share(feeds)), abs=0.006)


def test_the_parts_of_an_attention_are_named(script: Page) -> None:
    """Its heads and the channels of each are widths of one operation, so each says which it is."""
    words = script.evaluate(
        """async () => {
          const { candidate, partName, widthName } = await import("/static/js/names.js");
          const name = candidate("l1_ops", "attention_h1");
          const parts = ["heads", "places", "inner"].map((part) => widthName({ name, part }));
          return [candidate("l0_ops", "attention_h4"), ...parts, partName("query_conv_weights")];
        }"""
    )
    one = "attention of all positions to all (1 head)"
    assert words == [
        "attention of all positions to all (4 heads)", f"heads of {one}", f"channels of each head of {one}",
        f"inside {one}", "queries",
    ]  # fmt: skip


def test_a_known_model_is_drawn_as_bars_and_squares(script: Page) -> None:
    """At any commit: each bar as long as what stays, its ends as long as what changed; each block on or out."""
    commits = [event for event in A_MODEL if event["kind"] == "committed"]
    choices = next(event for event in A_MODEL if event["kind"] == "search_started")["choices"]
    decided = {choice["name"]: choice for choice in choices if choice["granularity"] != "weight"}
    assert {choice["granularity"] for choice in decided.values()} == {"filter", "operation"}
    last = len(commits) - 1
    for index in (last, 2, -1, last):  # also backwards
        on = {name: set(range(choice["units"])) for name, choice in decided.items()}
        before, was_off = on, {name: set() for name in on}
        for commit in commits[: index + 1]:
            before, on = on, {name: set(bits(commit["kept"][name], decided[name]["units"])) for name in decided}
            was_off = {name: was_off[name] | (set(range(decided[name]["units"])) - on[name]) for name in on}
        drawn = script.evaluate(BARS, [A_MODEL, CHARTS, index])
        assert {bar["name"] for bar in drawn["bars"]} == {
            name for name, choice in decided.items() if choice["granularity"] == "filter"
        }
        for bar in drawn["bars"]:
            name, units = bar["name"], decided[bar["name"]]["units"]
            assert bar["text"] == f"{len(on[name])} of {units}"
            assert bar["fill"] == pytest.approx(len(on[name]) / units, abs=0.01)
            assert bar["cut"] == pytest.approx(len(before[name] - on[name]) / units, abs=0.01)
            assert bar["back"] == pytest.approx(len(on[name] & was_off[name]) / units, abs=0.01)
        squares = {(name, unit): state for name, unit, state in drawn["squares"]}
        depth = {name: choice["labels"] for name, choice in decided.items() if choice["granularity"] == "operation"}
        labels = {(name, unit): label for name, own in depth.items() for unit, label in enumerate(own)}
        assert set(squares) == set(labels)
        for (name, unit), state in squares.items():
            assert (state in ("on", "back", "back-now")) == (unit in on[name])
        out = {labels[name, unit] for name, unit in labels if unit not in on[name]}
        assert set(drawn["gone"]) == out
    assert out and drawn["said"].startswith("layer1.0: "), "the story leaves blocks out"


BARS = (
    SHOWN
    + """  const long = (row, kind) => Number(row.querySelector(`.${kind}`).getAttribute("width"));
  return {
    bars: [...document.querySelectorAll(".bars g")].map((row) => ({
      name: row.querySelector("title").textContent.split(": ")[0],
      text: row.lastElementChild.textContent,
      ...Object.fromEntries(["fill", "cut", "back"].map((kind) => [kind, long(row, kind) / long(row, "frame")])),
    })),
    squares: [...document.querySelectorAll(".square")].map(({ dataset: { choice, unit, state } }) =>
      [choice, Number(unit), state]),
    gone: [...document.querySelectorAll(".block.gone h3")].map((title) => title.textContent),
    said: document.querySelector(".bars").getAttribute("aria-label"),
  };
}"""
)


def test_a_unit_says_when_it_fell_why_and_when_it_came_back(script: Page) -> None:
    """Of every unit that ever changed: as many sentences as changes, with score, threshold and cost."""
    stories = script.evaluate(
        """async ([told, charts]) => {
          const { add, emptyRun } = await import("/static/js/run.js");
          const { told: story } = await import("/static/js/history.js");
          const run = emptyRun(charts);
          add(run, told);
          const last = run.model.commits.length - 1;
          const units = run.model.commits.flatMap(({ changes }) => changes.map(({ choice, unit }) => [choice, unit]));
          return units.map(([choice, unit]) => [choice, unit, story(run.model, last, choice, unit)]);
        }""",
        [TOLD, CHARTS],
    )
    changes = [change for event in TOLD if event["kind"] == "committed" for change in event["changes"]]
    for choice, unit, said in stories:
        own = [change for change in changes if (change["choice"], change["unit"]) == (choice, unit)]
        assert said.count("fell in epoch") + said.count("came back in epoch") == len(own)
    fallen = next(said for _, _, said in stories if said.startswith("fell"))
    assert re.match(r"fell in epoch \d+: score 0\.\d{3}, threshold 0\.450, 0\.0\d+ % of the size went with it", fallen)
    assert (
        script.evaluate("import('/static/js/history.js').then(({ told }) => told({ commits: [] }, -1, 'c0_n0_ops', 1))")
        is None
    )


@pytest.mark.parametrize(
    ("model", "method", "often"),
    [
        pytest.param("", "", 6, id="cells"),
        pytest.param("", "", 50, id="cells, often", marks=pytest.mark.long),
        pytest.param("test_resnet", "", 50, id="a known model", marks=pytest.mark.long),
        pytest.param("", "msgdas", 50, id="sub-graphs", marks=pytest.mark.long),
    ],
)
def test_a_replayed_page_and_a_page_that_was_cut_off_again_and_again_draw_the_very_same(
    context: BrowserContext, model: str, method: str, often: int
) -> None:
    """The socket is cut on purpose while the run goes on; its drawing ends as that of a page opened afterwards."""
    page = context.new_page()
    cuts = {"n": 0}

    def cutting(route: Any) -> None:
        server = route.connect_to_server()
        frames = {"n": 0}

        def passed_on(message: str) -> None:
            frames["n"] += 1
            if frames["n"] > 1 and cuts["n"] < often:
                cuts["n"] += 1
                route.close(code=1011)  # this frame is lost
                return
            route.send(message)

        server.on_message(passed_on)

    page.route_web_socket(re.compile(r"/ws/searches/"), cutting)
    page.add_init_script(
        "const wait = window.setTimeout; window.setTimeout = (f, ms, ...a) => wait(f, Math.min(ms, 40), ...a);"
    )
    start(page, f"Cut off, {often + 2} seconds", model=model, method=method)
    expect_state(page, "Finished", 180)
    expect(page.locator("#network .block").first).to_be_visible()
    expect(page.locator("#log li").first).to_contain_text("Finished")
    assert cuts["n"] == often
    undisturbed = context.new_page()
    undisturbed.goto(page.url)
    expect(undisturbed.locator("#log li").first).to_contain_text("Finished")
    assert pictures(page) == pictures(undisturbed)
    assert len(pictures(page)) >= 4
    for other in (page, undisturbed):  # and at an earlier moment
        other.locator("#commit").focus()
        other.keyboard.press("Home")
        other.keyboard.press("ArrowRight")
        other.keyboard.press("ArrowRight")
        expect(other.locator("#commit-text")).to_contain_text("Commit 2 of")
        if method:
            other.locator("#paths input").press("Home")
            other.locator("#paths input").press("ArrowRight")
            expect(other.locator("#paths .time p")).to_contain_text("Epoch 1 of")
    assert pictures(page) == pictures(undisturbed)


def pictures(page: Page) -> list[str]:
    page.wait_for_timeout(500)
    places = "#network svg, #paths svg, #paths li, #paths p"
    found: list[str] = page.evaluate(f"[...document.querySelectorAll('{places}')].map((one) => one.outerHTML)")
    return found


def test_a_search_is_replayed_followed_and_looked_into(context: BrowserContext, said: list[str]) -> None:
    """Keyboard alone: play from the start, go to the end, open a block, read it, close it."""
    page = context.new_page()
    scripts: list[str] = []
    page.on("request", lambda request: scripts.append(request.url))
    start(page, "Watched, 1 second")
    expect_state(page, "Finished")
    expect(page.locator("#commit-text")).to_contain_text(re.compile(r"Commit (\d+) of \1,"))
    expect(page.locator("#follow")).to_be_hidden()
    assert page.locator("#ticks i").count() == int(page.locator("#commit").get_attribute("max") or 0) > 4

    page.locator("#play").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#commit-text")).to_contain_text("Commit 1 of")
    expect(page.locator("#network .strand[data-state=cut]").first).to_be_attached()
    page.keyboard.press("Enter")
    expect(page.locator("#play")).to_have_text("Replay")
    expect(page.locator("#follow")).to_be_hidden()  # nothing more will come
    page.locator("#commit").focus()
    page.keyboard.press("End")
    expect(page.locator("#commit-text")).to_contain_text(re.compile(r"Commit (\d+) of \1,"))

    page.get_by_role("button", name="Cell 2").focus()
    page.keyboard.press("Enter")
    inside = page.locator("#inside")
    expect(inside.get_by_role("heading", name="Inside cell 2")).to_be_focused()
    assert inside.locator(".operations tbody tr").count() == 35
    expect(inside.locator(".operations tbody tr").first).to_contain_text(re.compile(r"0\.\d\d against 0\.45"))
    units = inside.locator(".strips li").evaluate_all(HEAT_MAPS)
    assert units and all(text == f"{on} of {count}" for count, on, text in units)
    page.keyboard.press("Escape")
    expect(inside).to_be_hidden()
    expect(page.get_by_role("button", name="Cell 2")).to_be_focused()

    page.locator("#network .reach[data-state=off]").first.dispatch_event("pointerover")
    expect(page.locator("#tip")).to_contain_text("fell in epoch")
    assert page.locator("#paths").count() == 0
    assert any("/detail." in url for url in scripts) and not any("/paths." in url for url in scripts)
    assert said == []


HEAT_MAPS = """rows => rows.map((row) => [
  row.querySelectorAll("i").length,
  row.querySelectorAll("i[data-state=on], i[data-state^=back]").length,
  row.querySelector(".value").textContent,
])"""


def test_a_known_model_is_looked_into(context: BrowserContext, said: list[str]) -> None:
    """Its widths as heat maps by their layers' names, its blocks by score; no word of operations or cells."""
    page = context.new_page()
    start(page, "A model, 1 second", model="test_resnet")
    expect_state(page, "Finished")
    expect(page.locator("#network .block")).to_have_count(10)
    page.get_by_role("button", name="layer1.1").click()
    inside = page.locator("#inside")
    expect(inside.get_by_role("heading", name="Inside layer1.1")).to_be_focused()
    expect(inside.locator(".operations tbody th")).to_have_text(["layer1.1"])
    expect(inside.locator(".strips .name")).to_have_text(["layer1.1.conv1"])
    units = inside.locator(".strips li").evaluate_all(HEAT_MAPS)
    assert units and all(text == f"{on} of {count}" for count, on, text in units)
    page.locator("#network .square").first.dispatch_event("pointerover")
    expect(page.locator("#tip")).to_contain_text("block layer1.1")
    expect(page.locator("#network-found .bars").first).to_be_visible()
    expect(page.locator("#what-if-text")).to_contain_text("the network that was found")
    expect(page.locator("#log")).to_contain_text(re.compile(r"\d+ blocks?.* pruned"))
    shown = "\n".join(page.locator("#result, #live").all_inner_texts())
    assert not re.search(r"\b(operations?|cells?)\b", shown, re.IGNORECASE), shown
    assert said == []


# How sub-graphs are drawn

PATHS = told_by({"strategy": {"kind": "msgdas"}, "target": {"value": "60%"}})
PATHS_OF_A_CHAIN = told_by(
    {
        "space": {"kind": "chain"},
        "strategy": {"kind": "msgdas", "then": "mgas", "sub_graphs": 3},
        "target": {"value": "40%"},
    }
)


@pytest.fixture(scope="module")
def said_by_the_engine(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of a search of some seconds."""
    folder = tmp_path_factory.mktemp("engine")
    asked = {
        "data": {"dataset": "digits", "limit": 100},
        "space": {"kind": "cells", "cells": 2, "channels": 4, "nodes": 2, "reductions": [1]},
        "strategy": {"kind": "msgdas", "sub_graphs": 3},
        "target": {"value": "60%"},
        "search": {"epochs": 4, "batch_size": 32},
        "retrain": {"epochs": 0},
        "baseline": {"random": 0},
        "runtime": {"device": "cpu", "threads": 1},
    }
    (folder / "config.json").write_text(json.dumps(asked))
    command = [sys.executable, "-m", "nasengine", "search", folder / "config.json", "--out", folder / "run"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in told.splitlines()]


@pytest.fixture(params=["cells", "chain", "engine"])
def drawn(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    if request.param == "engine":
        found: list[dict[str, Any]] = request.getfixturevalue("said_by_the_engine")
        return found
    return {"cells": PATHS, "chain": PATHS_OF_A_CHAIN}[request.param]


PLACE = """() => {
  document.getElementById("main").innerHTML = `<section id="paths"><p data-part="empty"></p><div data-part="shown">
    <input type="range" data-part="epoch"><button data-part="play"></button><button data-part="follow"></button>
    <p data-part="text"></p><ul data-part="counts"></ul><ul data-part="lines"></ul><div data-part="blocks"></div>
    <section data-part="inside"></section></div></section>`;
}"""
PATHS_SHOWN = """async ([told, charts, moment, isLive]) => {
  const { add, emptyRun } = await import("/static/js/run.js");
  const { Paths } = await import("/static/js/paths.js");
  const run = emptyRun(charts);
  add(run, told);
  const place = document.getElementById("paths");
  window.lot ??= new Paths(place);
  window.lot.show(run.model, isLive);
  const slider = place.querySelector("input");
  if (moment !== null) {
    slider.value = moment;
    slider.dispatchEvent(new Event("input"));
  }
  const said = (part) => place.querySelector(`[data-part=${part}]`);
  const height = (band) => {
    const points = band.getAttribute("d").slice(1, -1).split("L").map((point) => point.split(" ").map(Number));
    const right = Math.max(...points.map(([x]) => x));
    const ends = points.filter(([x]) => x === right).map(([, y]) => y);
    return Math.max(...ends) - Math.min(...ends);
  };
  return {
    text: said("text").textContent,
    empty: said("empty").hidden ? null : said("empty").textContent,
    lines: [...said("lines").children].map((line) => line.textContent),
    counts: [...said("counts").children].map((row) => row.querySelector(".value").textContent),
    taken: [...place.querySelectorAll(".block .cell:not(.streams) .reach title")].map((title) => title.textContent),
    on: place.querySelectorAll(".block .strand[data-state=on]").length,
    heights: [...place.querySelectorAll(".block .streams")].flatMap((svg) =>
      [...svg.querySelectorAll(".band")].map((band) => band.getAttribute("d") && height(band))),
  };
}"""


def test_paths_chances_and_counts_are_those_of_the_event(script: Page, drawn: list[dict[str, Any]]) -> None:
    """At any epoch, backwards, too: each path one operation a connection, each band as high as it is likely."""
    script.evaluate(PLACE)
    lots = [event for event in drawn if event["kind"] == "candidates_drawn"]
    choices = next(event for event in drawn if event["kind"] == "search_started")["choices"]
    labels = {choice["name"]: choice.get("labels", []) for choice in choices}
    for moment in (len(lots), 1, len(lots) - 1):
        event = lots[moment - 1]
        shown = script.evaluate(PATHS_SHOWN, [drawn, CHARTS, moment, True])
        edges = [(name, edge) for name, found in event["edges"].items() for edge in found]
        assert shown["lines"] == [f"path {letter}" for letter in "ABCD"[: len(event["sub_graphs"])]]
        assert shown["on"] == len(edges) * len(event["sub_graphs"])
        for letter in "ABCD"[: len(event["sub_graphs"])]:
            assert sum(text.endswith(f": path {letter}") for text in shown["taken"]) == len(edges)

        height = 40 if all(len(found) == 1 for found in event["edges"].values()) else 30
        expected = []
        for name, edge in edges:
            own = [base64.b64decode(event["shares"][name])[unit] for unit in edge]
            expected += [height * share / sum(own) for share in own]
        assert shown["heights"] == pytest.approx(expected, abs=0.11)

        often: dict[str, int] = {}
        for name, edge in edges:
            for unit in edge:
                kind = labels[name][unit].split(" ")[-1]
                often[kind] = often.get(kind, 0) + event["often"][name][unit]
        total = sum(often.values())
        assert [text.split(", ", 1)[1] for text in shown["counts"]] == [f"{times:,} times" for times in often.values()]
        for text, times in zip(shown["counts"], often.values(), strict=True):
            assert float(text.split(" ")[0]) == pytest.approx(100 * times / total, abs=0.51)


def test_words_say_how_sure_the_lot_is(script: Page) -> None:
    """Before, during the warm-up, afterwards, and at the end; and what is not known is said so, too."""
    script.evaluate(PLACE)

    def text(moment: int | None) -> str:
        found: str = script.evaluate(PATHS_SHOWN, [PATHS, CHARTS, moment, True])["text"]
        return found

    assert text(0) == "Before the first epoch: nothing was drawn yet."
    assert text(1) == "Epoch 1 of 12: at first only weights learn, and every operation is as likely as any other."
    assert re.fullmatch(
        r"Epoch 8 of 12: on average the likeliest operation of a connection has a chance of \d\d %; "
        r"if all were alike it would be 14 %\.",
        text(8),
    )
    assert text(12).endswith("Drawing is over: look into a block to see what was chosen.")

    before = PATHS[: next(n for n, event in enumerate(PATHS) if event["kind"] == "candidates_drawn")]
    script.evaluate("() => (window.lot = null)")
    waits = script.evaluate(PATHS_SHOWN, [before, CHARTS, None, True])["empty"]
    assert waits == "The first paths are being drawn. What they were is shown here when the first epoch is over."
    ended = script.evaluate(PATHS_SHOWN, [before, CHARTS, None, False])["empty"]
    assert ended == "It ended before its first epoch was over, so nothing is known of the paths that were drawn."
    assert script.evaluate(PATHS_SHOWN, [PATHS, CHARTS, None, False])["empty"] is None


def test_what_is_said_again_after_a_rewind_is_drawn_once(script: Page) -> None:
    """A resumed attempt draws the same epochs again: streams and counts are those of the newer lot."""
    again = told_by({"strategy": {"kind": "msgdas"}, "target": {"value": "60%"}, "name": "another"})
    for event in again:
        if event["kind"] == "candidates_drawn" and event["epoch"] > 6:
            event["often"] = {name: [7 * n for n in times] for name, times in event["often"].items()}
    markup = script.evaluate(
        f"""async ([told, again, charts]) => {{
          const {{ add, emptyRun, rewind }} = await import("/static/js/run.js");
          const {{ Paths }} = await import("/static/js/paths.js");
          const drawn = (...turns) => {{
            ({PLACE})();
            const run = emptyRun(charts);
            const paths = new Paths(document.getElementById("paths"));
            for (const turn of turns) {{
              if (run.lastSeq) rewind(run, Math.floor(told.length / 3));
              add(run, turn);
              paths.show(run.model, true);
            }}
            return document.getElementById("paths").innerHTML;
          }};
          return [drawn(told), drawn(told, again), drawn(again)];
        }}""",
        [PATHS, again, CHARTS],
    )
    first, resumed, fresh = markup
    assert resumed == fresh != first


def test_a_block_is_looked_into_for_its_chances(context: BrowserContext, said: list[str]) -> None:
    """Keyboard alone: an epoch, a block, what was chosen in it, and back."""
    page = context.new_page()
    start(page, "Paths, 3 seconds", method="msgdas")
    expect_state(page, "Finished")
    paths = page.locator("#paths")
    expect(paths.locator(".time p")).to_contain_text(re.compile(r"^Epoch (\d+) of \1: .*Drawing is over"))
    expect(paths.get_by_role("button", name="Follow live")).to_be_hidden()  # nothing more will be drawn
    paths.get_by_role("button", name="Cell 1").press("Enter")
    inside = paths.locator(".inside-block")
    expect(inside.get_by_role("heading", name="Chances in cell 1")).to_be_focused()
    connections = inside.locator("figure")
    assert connections.count() == paths.locator(".block").first.locator(".bed").count() > 1
    for text in connections.all_inner_texts():
        assert text.count("path A") == text.count("path B") == 1
        chances = [int(chance) for chance in re.findall(r"(\d+) %", text)]
        assert sum(chances) == pytest.approx(100, abs=len(chances) / 2)
    assert inside.get_by_text("✓ chosen").count() > 0
    paths.locator("input").press("ArrowLeft")
    expect(inside.get_by_text("✓ chosen")).to_have_count(0)
    inside.get_by_role("button", name="Close").focus()
    page.keyboard.press("Escape")
    expect(inside).to_be_hidden()
    expect(paths.get_by_role("button", name="Cell 1")).to_be_focused()
    assert said == []


# The result as pictures


def test_the_result_shows_start_and_found_and_other_sizes(context: BrowserContext, said: list[str]) -> None:
    page = context.new_page()
    start(page, "Pictured, 1 second")
    expect_state(page, "Finished")
    expect(page.locator("#network-start .strand[data-state=on]").first).to_be_attached()
    assert page.locator("#network-start .strand[data-state=off]").count() == 0
    assert page.locator("#network-found .strand[data-state=off]").count() > 0
    shown = "svgs => svgs.map((svg) => svg.querySelectorAll('.strand:is([data-state=on], [data-state^=back])').length)"
    assert page.locator("#network-found svg").evaluate_all(shown) == page.locator("#network svg").evaluate_all(shown)
    expect(page.locator("#what-if-text")).to_contain_text("the network that was found")
    expect(page.locator("#what-if-search")).to_be_hidden()
    page.locator("#what-if-size").focus()
    page.keyboard.press("Home")
    expect(page.locator("#what-if-text")).to_contain_text(
        re.compile(r"^11,481 parameters .*operations and .* filters would go")
    )
    expect(page.locator("#network-other .strand[data-state=cut]").first).to_be_attached()
    expect(page.locator("#what-if-search")).to_have_attribute("href", re.compile(r"\?from=[0-9a-f-]{36}&target=11481$"))
    page.get_by_text("Certificate: ").click()
    expect(page.locator(".certificate p")).to_contain_text("above 1e-5 (1e-9) nothing is published")
    assert said == []


FORECAST = """async (asked) => {
  const { forecast } = await import("/static/js/forecast.js");
  return forecast(...asked);
}"""


def test_a_forecast_is_exact_where_it_was_measured_and_honest_elsewhere(script: Page) -> None:
    trained = [{"size": 10_000, "accuracy": 0.6}, {"size": 40_000, "accuracy": 0.8}]

    def asked(size: int, trail: list[dict[str, float]], known: list[dict[str, float]] = trained) -> Any:
        return script.evaluate(FORECAST, [known, trail, size, 1000])

    assert asked(10_000, [])["middle"] == pytest.approx(0.6) and asked(40_000, [])["middle"] == pytest.approx(0.8)
    assert asked(20_000, [])["middle"] == pytest.approx(0.7)  # half way on a logarithmic scale
    assert asked(20_000, [])["high"] - 0.7 == pytest.approx(2 * (0.8 * 0.2 / 1000) ** 0.5)
    assert asked(5_000, []) is None and asked(5_000, [], []) is None
    # accuracy = 0.2 + 0.05 log(size) + 0.03 log(epoch): the slope is found although training goes on meanwhile
    trail = [
        {"size": size, "epoch": epoch, "accuracy": 0.2 + 0.05 * math.log(size) + 0.03 * math.log(epoch)}
        for epoch, size in enumerate([90_000, 90_000, 80_000, 60_000, 45_000, 40_000, 40_000, 40_000], start=5)
    ]
    below = asked(5_000, trail)
    assert below["middle"] == pytest.approx(0.6 - 0.05 * math.log(2)) and below["low"] < below["middle"] < below["high"]
    assert asked(4_900, trail) is None and asked(190_000, trail) is None  # too far from all that was measured
    falling = [{**one, "accuracy": 1 - one["accuracy"]} for one in trail]
    assert asked(6_000, falling) is None  # the larger the worse: it says nothing of the size
    in_step = [{"size": 100_000 / epoch, "epoch": epoch, "accuracy": 0.5} for epoch in range(1, 10)]
    assert asked(5_000, in_step) is None  # size and time cannot be told apart


# What the page tells besides


def test_whoever_asked_is_told_on_the_desktop_when_a_search_ends(context: BrowserContext, stack: Any) -> None:
    """Once, by the tab that is open; nothing of a search for which nobody asked."""
    context.grant_permissions(["notifications"], origin=stack.address)
    context.add_init_script("""{
      window.told = [];
      window.Notification = class extends EventTarget {
        static permission = "granted";
        static requestPermission = async () => "granted";
        constructor(title, { body }) { super(); window.told.push([title, body]); }
      };
    }""")  # the desktop is the outside world
    page = context.new_page()
    start(page, "Told, 6 seconds")
    button = page.get_by_role("button", name="Tell me when it ends")
    button.click()
    expect(page.get_by_role("button", name="You will be told when it ends")).to_have_attribute("aria-pressed", "true")
    expect_state(page, "Finished")
    assert page.evaluate("window.told") == [["Told, 6 seconds: Finished", "Done; the network is ready to download."]]
    expect(page.locator("#notify")).to_be_hidden()
    page.reload()
    expect(page.locator("#network .block").first).to_be_visible()
    assert page.evaluate("window.told") == []
    start(page, "Untold, 1 second")
    expect_state(page, "Finished")
    assert page.evaluate("window.told") == []


def test_each_chart_can_be_read_as_a_table(context: BrowserContext) -> None:
    page = context.new_page()
    start(page, "Read, 1 second")
    expect_state(page, "Finished")
    figure = page.locator("figure", has=page.locator("#chart-kept"))
    figure.scroll_into_view_if_needed()
    figure.locator(".legend").wait_for()
    beneath = (
        "plot => plot.getBoundingClientRect().bottom - plot.querySelector('.legend').getBoundingClientRect().bottom"
    )
    assert 0 <= figure.locator(".plot").evaluate(beneath) < 20, "no empty room under the legend"
    figure.get_by_text("As a table").click()
    expect(figure.locator("thead th")).to_have_text(["epoch", "operations", "filters", "weights"])
    expect(figure.locator("tbody tr")).to_have_count(12)
    expect(figure.locator("tbody tr").first).to_contain_text("100.0 %")
