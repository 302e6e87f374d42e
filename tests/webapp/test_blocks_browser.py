"""Blocks that are rated one by one: what their panels show at any moment, and the path that the slider moves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import Client
from playwright.sync_api import BrowserContext, Page, expect

from nasengine import config as engine_config
from nasengine import events
from nasengine.outlook import plan_of
from nasengine.splits import builtin_facts
from nasengine.strategies import dna
from tests.webapp.browsing import NARROW, expect_state, start
from tests.webapp.story_of_blocks import EPOCHS, HALVED, story
from webapp.charts import CHARTS, charts_of
from webapp.models import Search

pytestmark = [pytest.mark.browser, pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(900)]

TOLD = [json.loads(events.to_line(event)) for event in story()]
RATED = [event for event in TOLD if event["kind"] == "block_rated"]
RETRAINED = next(event for event in TOLD if event["kind"] == "retrain_epoch")
PATHS = next(event for event in TOLD if event["kind"] == "paths_found")

FED = """async ([charts, steps]) => {
  const { add, emptyRun, rewind } = await import("/static/js/run.js");
  const { Blocks } = await import("/static/js/blocks.js");
  document.body.innerHTML = `<section id="blocks" data-ends="2 5 6"><p data-summary></p><p data-found hidden></p>
    <div data-wish hidden><input type="range" min="0" max="0" value="0"><p data-words></p></div><ol data-panels></ol>
  </section>`;
  const place = document.getElementById("blocks");
  const [run, blocks] = [emptyRun(charts), new Blocks(place)];
  let state = { state: "running", finished: false };
  for (const [what, given] of steps) {
    if (what === "add") add(run, given);
    if (what === "rewind") rewind(run, given);
    if (what === "state") state = given;
    if (what === "wish") blocks.wish(given);
    else blocks.show(run.model, state);
  }
  return place.outerHTML;
}"""


HEADED = """async ([charts, told, state = "running"]) => {
  const { add, emptyRun } = await import("/static/js/run.js");
  const { header } = await import("/static/js/header.js");
  const run = emptyRun(charts);
  add(run, told);
  header(run.model, { state, attempt: 1 });
  const steps = [...document.querySelectorAll("#steps li")].map((step) => [step.textContent, step.className]);
  return [document.getElementById("stage-line").textContent, steps];
}"""
"""What the head of a page says in the middle of a run; read at once, since the page goes on drawing its own."""


def shown(page: Page, *steps: tuple[str, Any]) -> Page:
    """The section after `add`, `rewind`, `state` and `wish`, one after another."""
    page.evaluate(FED, [CHARTS, [list(step) for step in steps]])
    return page


def until(kind: str, count: int = 1) -> list[dict[str, Any]]:
    """What is told up to the so-manieth event of a kind."""
    last = [event["seq"] for event in TOLD if event["kind"] == kind][count - 1]
    return TOLD[:last]


def test_the_story_has_the_stages_that_the_engine_has() -> None:
    """Sizes are told of the whole network from the first block on, so all blocks are open in every stage."""
    for generations in (1, 2):
        settings = {"kind": "dna", "generations": generations}
        asked = {"name": "Digits", "target": {"value": "40%"}, "strategy": settings}
        space, epochs = {"kind": "chain", "reductions": HALVED}, EPOCHS * (len(HALVED) + 1) * generations
        config = engine_config.parse({**asked, "space": space, "search": {"epochs": epochs}})
        plan = plan_of(config, builtin_facts("digits"))
        stages = dna.strategy(plan, config, [20_000], {}).stages(SimpleNamespace(plan=plan))  # type: ignore[arg-type]
        started = next(event for event in story(asked) if isinstance(event, events.SearchStarted))
        told = [(stage["name"], stage["blocks"], stage["epochs"]) for stage in started.stages]
        assert told == [(stage.name, stage.blocks, stage.epochs) for stage in stages]


def test_nothing_waits_for_its_stage_and_all_is_on_until_the_only_commit(script: Page) -> None:
    begun = until("epoch_finished")
    cards = """async ([charts, told]) => {
      const { add, emptyRun } = await import("/static/js/run.js");
      const { Network } = await import("/static/js/network.js");
      const { figures } = await import("/static/js/header.js");
      const figure = ["size", "size-note", "accuracy", "accuracy-note", "operation", "filter", "weight", "speed"];
      const places = ["network", ...figure.map((name) => `figure-${name}`)];
      document.body.innerHTML = places.map((id) => `<div id="${id}"></div>`).join("");
      const [run, network] = [emptyRun(charts), new Network(document.getElementById("network"))];
      add(run, told);
      figures(run.model);
      network.show(run.model, run.model.commits.length - 1);
      return document.body.innerText + run.model.log.map(({ text }) => text).join(" ");
    }"""
    for told in (begun, TOLD):
        words = script.evaluate(cards, [CHARTS, told])
        assert "open blocks" not in words
        assert "waits for its stage" not in words
    assert "6 of 6 operations on" in script.evaluate(cards, [CHARTS, begun])
    assert "parameters, the largest network, target" in script.evaluate(cards, [CHARTS, begun])
    assert "The largest network of this space holds " in script.evaluate(cards, [CHARTS, begun])
    assert "the largest network, target" not in script.evaluate(cards, [CHARTS, TOLD])
    commit = next(event for event in TOLD if event["kind"] == "committed")
    assert commit["pruned"] == {"operation": 30, "filter": 0, "weight": 0}


def test_a_panel_says_in_words_what_it_waits_for_and_fills_when_it_is_rated(script: Page) -> None:
    panels = script.locator("[data-panels] > li")
    shown(script, ("add", until("data_ready")))
    expect(script.locator("#blocks")).to_be_hidden()
    shown(script, ("add", [{**event, "stages": [{"name": "the whole network"}]} for event in until("search_started")]))
    expect(script.locator("#blocks")).to_be_hidden()  # of another method it is nothing
    shown(script, ("add", until("search_started")))
    expect(panels).to_have_text([f"Block {n}not rated yet" for n in (1, 2, 3)])
    shown(script, ("add", until("stage_started")))
    expect(panels).to_have_text(["Block 1training now", "Block 2not rated yet", "Block 3not rated yet"])
    shown(script, ("add", until("stage_started", 2)))
    expect(panels.nth(1)).to_have_text("Block 2training now")
    expect(panels.nth(0)).to_contain_text("42 candidates of 2 layers; tau \N{MINUS SIGN}0.86")
    dots = panels.nth(0).locator(".candidates").get_attribute("d") or ""
    assert dots.count("M") == len(RATED[0]["points"]) == 42
    line = panels.nth(0).locator(".front-points").get_attribute("d") or ""
    assert line.count("M") == len(RATED[0]["front"])
    expect(script.locator("[data-wish]")).to_be_hidden()


RATING = {"kind": "data_progress", "what": "rating", "done": 3, "total": 42, "unit": "candidates", "eta_seconds": 65}


def after(told: list[dict[str, Any]], **event: Any) -> list[dict[str, Any]]:
    """Something else is said behind this."""
    return [*told, {"attempt": 1, **event, "seq": told[-1]["seq"] + 1}]


@pytest.mark.parametrize(
    ("state", "words"),
    [("running", "training now"), ("stopping", "training now"), ("paused", "waits to go on"),
     ("interrupted", "waits to go on"), ("queued", "waits to go on"), ("cancelled", "was not rated")],
)  # fmt: skip
def test_a_panel_says_training_only_while_it_trains(script: Page, state: str, words: str) -> None:
    at_rest = state not in ("running", "stopping")
    frame = {"state": state, "finished": state == "cancelled"}
    panels = script.locator("[data-panels] > li")
    rest = "was not rated" if state == "cancelled" else "not rated yet"
    shown(script, ("state", frame), ("add", until("progress", 2)))
    expect(panels).to_have_text([f"Block 1{words}", f"Block 2{rest}", f"Block 3{rest}"])
    assert panels.first.get_attribute("class") == (None if at_rest else "now")
    shown(script, ("state", frame), ("add", after(until("progress", 2), **RATING)))
    expect(panels.first).to_have_text(f"Block 1{words if at_rest else 'being rated'}")


def test_of_a_search_that_failed_a_block_was_not_rated(script: Page) -> None:
    shown(script, ("add", after(until("progress", 2), kind="search_failed", message="No memory.", error="")))
    expect(script.locator("[data-panels] > li").first).to_have_text("Block 1was not rated")


def ended_after(blocks: int) -> list[dict[str, Any]]:
    """What is told of a search that is ended when so many blocks are rated."""
    begun = until("block_rated", blocks) if blocks else until("progress", 2)
    chosen = {**PATHS["chosen"]}
    chosen["ratings"] = [rating if at < blocks else -0.000001 for at, rating in enumerate(chosen["ratings"])]
    return after(begun, **{**PATHS, "networks": [], "chosen": chosen, "visited": 70, "of": 74088.0})


def test_of_a_search_that_is_ended_early_it_is_said_which_blocks_were_not_rated(script: Page) -> None:
    panels, summary = script.locator("[data-panels] > li"), script.locator("[data-summary]")
    says = "Blocks 2 and 3 were not rated before the search was ended; larger candidates were taken of them."
    shown(script, ("add", ended_after(1)))
    expect(summary).to_contain_text(says)
    expect(panels.nth(0)).to_contain_text("23,800 parameters, rated 0.568:")
    expect(panels.nth(0).locator(".taken")).to_have_attribute("visibility", "visible")
    expect(panels.nth(0).locator(".wished")).to_have_attribute("visibility", "hidden")
    expect(panels.nth(1)).to_contain_text(
        re.compile(
            "^Block 2was not ratedIn the network stands, chosen by its size and not by a rating, [0-9,]+ parameters"
        )
    )
    expect(script.locator("[data-wish]")).to_be_hidden()
    assert "0.000001" not in script.locator("#blocks").inner_text()
    logged = script.evaluate(LOGGED, [CHARTS, ended_after(1)])
    assert logged[-1] == f"{says} Taken is a network of 47,640 parameters."
    shown(script, ("add", ended_after(2)))
    expect(summary).to_contain_text(
        "Block 3 was not rated before the search was ended; a larger candidate was taken of it."
    )
    shown(script, ("add", ended_after(0)))
    expect(summary).to_have_text("No block was rated before the search was ended; larger candidates were taken of all.")
    found = [panels.nth(number).locator("li").all_inner_texts() for number in range(len(RATED))]
    shown(script, ("add", TOLD))
    assert found == [panels.nth(number).locator("li").all_inner_texts() for number in range(len(RATED))]


LOGGED = """async ([charts, told]) => {
  const { add, emptyRun } = await import("/static/js/run.js");
  const run = emptyRun(charts);
  add(run, told);
  return run.model.log.map(({ text }) => text);
}"""


def chosen_beside(size: float, rating: float) -> dict[str, Any]:
    """The networks are known, and such a one was taken."""
    return {**PATHS, "chosen": {**PATHS["chosen"], "size": size, "rating": rating}}


def test_what_was_taken_is_the_best_of_those_just_below_the_target(script: Page) -> None:
    words, flatter = (
        script.locator("[data-words]"),
        "ratings may flatter small networks, and the target is there to be used",
    )
    begun = until("block_rated", 3)
    shown(script, ("add", after(begun, **PATHS)))
    expect(words).to_contain_text("the network that was taken, the best one of those just below the target. Move")
    logged = script.evaluate(LOGGED, [CHARTS, after(begun, **PATHS)])
    assert logged[-1].startswith("Of 74.1 k networks the best one of those just below the target: 47,640 parameters.")
    assert "flatter" not in logged[-1] and "That is certain after a look at" in logged[-1]
    logged = script.evaluate(LOGGED, [CHARTS, after(begun, **{**PATHS, "certain": False})])
    assert "It is the best that was seen in a look at" in logged[-1] and "there may be a better one." in logged[-1]
    flattered = after(begun, **chosen_beside(47_640, 1.6) | {"of": 7.9792266e16})
    shown(script, ("add", flattered))
    expect(words).to_contain_text(f"just below the target. A smaller one is rated better, but {flatter}. Move")
    logged = script.evaluate(LOGGED, [CHARTS, flattered])
    assert logged[-1].startswith("Of about 8·10¹⁶ networks the best one")
    assert logged[-1].endswith(f"A smaller one is rated better, but {flatter}.")
    smaller = next(one for one in PATHS["networks"] if one["rating"] < 1.55)
    shown(script, ("add", flattered), ("wish", smaller["size"]))
    expect(words).to_contain_text(f"better. It was not built: {flatter}.")
    shown(script, ("add", after(begun, **chosen_beside(30_000, 1.6))))
    expect(words).to_contain_text("the network that was taken, the best one within the target.")
    shown(script, ("add", after(begun, **chosen_beside(47_640, smaller["rating"]))), ("wish", smaller["size"]))
    expect(words).to_contain_text("of the size of the one that was taken, rated alike. It was not built.")


def test_below_the_smallest_network_the_smallest_is_shown_and_said_so(script: Page) -> None:
    smallest = PATHS["networks"][0]["size"]
    shown(script, ("add", TOLD), ("wish", smallest - 1))
    says = f"No network is that small; the smallest: {round(smallest):,} parameters"
    expect(script.locator("[data-words]")).to_contain_text(says)
    shown(script, ("add", TOLD), ("wish", smallest))
    expect(script.locator("[data-words]")).not_to_contain_text("No network")


def narrowed() -> list[dict[str, Any]]:
    """The story with two widths: narrow candidates take 0.6 of the cost, and some are rated worse than wide ones."""
    told = []
    for event in TOLD:
        if event["kind"] == "block_rated":
            narrow = [
                {**one, "cost": 0.6 * one["cost"], "rating": one["rating"] + 0.1 * (at % 2), "width": 0.5}
                for at, one in enumerate(event["front"])
            ]
            front = sorted([*event["front"], *narrow], key=lambda one: one["cost"])
            event = {**event, "front": front, "points": [*event["points"], *([n["cost"], n["rating"]] for n in narrow)]}
        if event["kind"] == "paths_found":
            event = {**event, "chosen": {**event["chosen"], "widths": [1.0, 0.5, 0.75]}}
        told.append(event)
    return told


def test_with_several_widths_the_front_is_that_of_all_and_panels_say_how_many_channels(script: Page) -> None:
    told = narrowed()
    shown(script, ("add", told))
    for panel, event in zip(
        script.locator("[data-panels] > li").all(), [one for one in told if one["kind"] == "block_rated"], strict=True
    ):
        better = [
            one
            for one in event["front"]
            if not any(
                other["cost"] <= one["cost"] and other["rating"] <= one["rating"] and other is not one
                for other in event["front"]
            )
        ]
        assert len(better) < len(event["front"])
        assert (panel.locator(".front-points").get_attribute("d") or "").count("M") == len(better)
    panels = script.locator("[data-panels] > li")
    expect(panels.nth(0)).to_contain_text("parameters with all of its channels, rated")
    expect(panels.nth(1)).to_contain_text("parameters with half of its channels, rated")
    expect(panels.nth(2)).to_contain_text("parameters with 75 % of its channels, rated")
    expect(script.locator("[data-summary]")).to_contain_text(
        "Sizes of candidates are those with all other channels there."
    )
    shown(script, ("add", TOLD))
    expect(script.locator("#blocks")).not_to_contain_text("channels")


def test_a_single_block_and_a_single_candidate_are_one(script: Page) -> None:
    begun = until("block_rated")
    single = {**RATED[0], "blocks": 1}
    shown(script, ("add", [*begun[:-1], single]))
    expect(script.locator("[data-summary]")).to_contain_text("42 candidates of 1 block are rated.")
    shown(script, ("add", [*begun[:-1], {**single, "candidates": 1}]))
    expect(script.locator("[data-summary]")).to_contain_text("1 candidate of 1 block is rated.")


def test_times_on_the_axes_keep_their_digits(script: Page) -> None:
    told = [{**event, "metric": "latency_ms"} if event["kind"] == "search_started" else event for event in TOLD]
    first = {
        **RATED[0],
        "front": [{**one, "cost": one["cost"] / 1e6} for one in RATED[0]["front"]],
        "points": [[cost / 1e6, rating] for cost, rating in RATED[0]["points"]],
    }
    shown(script, ("add", [*told[: first["seq"] - 1], first]))
    texts = script.locator("[data-panels] > li svg text").all_text_contents()
    costs = [one["cost"] for one in first["front"]]
    assert f"{min(costs):.3g}" in texts, texts
    assert any(text.endswith(" ms") and text != "0 ms" for text in texts)
    expect(script.locator("[data-summary]")).to_contain_text("Times here are estimates")


@pytest.mark.parametrize("networks", [[], PATHS["networks"]])
def test_a_time_that_was_estimated_is_called_an_estimate(script: Page, networks: list[dict[str, Any]]) -> None:
    """What was measured follows in the next line, and is another."""
    told = [{**event, "metric": "latency_ms"} if event["kind"] == "search_started" else event for event in TOLD]
    found = {**PATHS, "networks": networks, "chosen": {**PATHS["chosen"], "size": 0.661}}
    logged = script.evaluate(LOGGED, [CHARTS, [*told[: found["seq"] - 1], found]])[-1]
    assert "about 0.66 ms as estimated" in logged and "0.661" not in logged
    if networks:
        shown(script, ("add", [*told[: found["seq"] - 1], found]))
        expect(script.locator("[data-words]")).to_contain_text("0.661 ms as estimated, summed rating")
    assert not networks or logged.startswith(
        "Of 74.1 k networks the best one of those with about 0.66 ms as estimated."
    )
    assert not networks or "Measured, it is within the target." in logged


TWICE = [
    json.loads(events.to_line(event))
    for event in story({"name": "Digits", "target": {"value": "40%"}, "strategy": {"generations": 2}})
]
"""Two teachers: the second learns when all blocks are rated by the first."""


def twice_until(kind: str, count: int = 1, **fields: Any) -> list[dict[str, Any]]:
    wanted = [event["seq"] for event in TWICE if event["kind"] == kind and fields.items() <= event.items()]
    return TWICE[: wanted[count - 1]]


def test_with_two_teachers_a_block_has_one_panel_that_says_whose_ratings_it_shows(script: Page) -> None:
    panels, again = script.locator("[data-panels] > li"), "these are the ratings by the teacher before"
    shown(script, ("add", twice_until("stage_started")))
    expect(panels).to_have_text(["Block 1training now", "Block 2not rated yet", "Block 3not rated yet"])
    shown(script, ("add", twice_until("stage_started", 2)))
    assert [panel.get_attribute("class") for panel in panels.all()] == [None, "now", None]
    expect(panels.nth(0)).not_to_contain_text(again)
    shown(script, ("add", twice_until("retrain_epoch", network="teacher 2")))
    assert [panel.get_attribute("class") for panel in panels.all()] == [None, None, None]
    begun = twice_until("stage_started", 4)
    shown(script, ("add", begun))
    assert [panel.get_attribute("class") for panel in panels.all()] == ["now", None, None]
    expect(panels.nth(0)).to_contain_text(f"Learning again from teacher 2; {again}")
    expect(panels.nth(0)).to_contain_text("42 candidates of 2 layers; tau \N{MINUS SIGN}0.86; by teacher 1")
    expect(panels.nth(1)).not_to_contain_text(again)
    shown(script, ("add", after(begun, **RATING)))
    expect(panels.nth(0)).to_contain_text(f"Being rated again, by teacher 2; {again}")
    shown(script, ("state", {"state": "paused", "finished": False}), ("add", begun))
    expect(panels.nth(0)).to_contain_text(f"Waits to go on learning from teacher 2; {again}")
    shown(script, ("add", twice_until("stage_started", 5)))
    expect(panels.nth(0)).to_contain_text("; by teacher 2")
    expect(panels.nth(0)).not_to_contain_text(again)
    expect(panels.nth(1)).to_contain_text(f"Learning again from teacher 2; {again}")
    shown(script, ("add", TWICE))
    expect(script.locator("#blocks")).not_to_contain_text(again)


def test_a_later_teacher_is_trained_at_the_boundary_of_its_generation(script: Page) -> None:
    """Its curve ends there, and no step of the head is over that never was one."""
    curves = dict(script.evaluate(LINES, [charts_of("operations", "dna"), TWICE])["accuracy"])
    assert curves["retraining, validation, teacher 1 of the blocks"] == [-4, -3, -2, -1, 0]
    assert curves["retraining, validation, teacher 2 of the blocks"] == [8, 9, 10, 11, 12]
    long = [
        {**one, "epochs": 100, "epoch": 20 * one["epoch"]} if one["kind"] == "retrain_epoch" else one for one in TWICE
    ]
    curves = dict(script.evaluate(LINES, [charts_of("operations", "dna"), long])["accuracy"])
    assert curves["retraining, validation, teacher 2 of the blocks"] == pytest.approx(
        [2.4, 4.8, 7.2, 9.6, 12]
    )  # not before its blocks
    own = twice_until("retrain_epoch", network="teacher 2")
    of_a_library = [event for event in own if event.get("network") != "teacher 1"]
    stages = [f"block {block}, teacher {teacher}" for teacher in (1, 2) for block in (1, 2, 3)]
    for told, before in ((own, ["images", "teacher"]), (of_a_library, ["images"])):
        script.evaluate(A_HEAD)
        line, steps = script.evaluate(HEADED, [CHARTS, told])
        assert line == "Training teacher 2 of the blocks, epoch 1 of 5"
        assert [name for name, _ in steps] == [*before, *stages, "training", "result"]
        assert [name for name, tone in steps if tone == "now"] == ["block 1, teacher 2"]
        boundaries = script.evaluate(BOUNDARIES, [CHARTS, told])
        assert ("search" in boundaries) == (told is own)


A_HEAD = """() => {
  const ids = ["progress", "progress-percent", "stage-line", "eta", "steps", "facts"];
  document.body.innerHTML = ids.map((id) => `<div id="${id}"></div>`).join("");
}"""


DRAWN = """async ([charts, told]) => {
  if (!window.Plotly) await new Promise((done) => {
    const src = "/static/vendor/plotly.min.js";
    const script = Object.assign(document.createElement("script"), { src, onload: done });
    document.head.append(script);
  });
  const { add, emptyRun } = await import("/static/js/run.js");
  const { Charts } = await import("/static/js/draw.js");
  document.body.innerHTML = "<div id='charts'></div>";
  const run = emptyRun(charts);
  add(run, told);
  const drawn = new Charts(document.getElementById("charts"), charts);
  await new Promise((done) => { drawn.onWanted(done); });
  drawn.draw(run.model);
  const plot = document.getElementById("chart-accuracy");
  const lines = plot.data.map(({ name, line }) => [name, line.dash]);
  const { xaxis, yaxis } = plot._fullLayout;
  return [lines, [xaxis.visible, yaxis.visible], plot.layout.annotations.map(({ text }) => text)];
}"""


def test_teachers_are_told_apart_in_the_chart(script: Page) -> None:
    lines, axes, _ = script.evaluate(DRAWN, [charts_of("operations", "dna", generations=2), TWICE])
    dashes = dict(lines)
    assert dashes["teacher 1 of the blocks, validation"] != dashes["teacher 2 of the blocks, validation"]
    assert axes == [True, True]
    lines, _, _ = script.evaluate(DRAWN, [charts_of("operations", "dna"), TOLD])
    assert "teacher of the blocks, validation" in dict(lines)


def test_a_chart_without_points_has_words_and_no_axes(script: Page) -> None:
    charts = charts_of("operations", "dna", recipe="dna++")
    untaught = [event for event in TOLD if event["kind"] != "retrain_epoch"]
    begun = [event for event in until("progress", 2) if event in untaught]
    assert script.evaluate(DRAWN, [charts, begun]) == [[], [False, False], ["Nothing yet"]]
    assert script.evaluate(DRAWN, [charts, untaught]) == [[], [False, False], ["Nothing was measured"]]


def ended_while_taught(teacher: int) -> list[dict[str, Any]]:
    """A search that is ended in the first epoch of this teacher: only the last stage begins, to put it together."""
    begun = twice_until("retrain_epoch", network=f"teacher {teacher}")
    last = next(event for event in reversed(TWICE) if event["kind"] == "stage_started")
    found = next(event for event in TWICE if event["kind"] == "paths_found")
    trained = next(event for event in TWICE if event["kind"] == "retrain_epoch" and event["network"] == "found")
    for event in (last, found, trained):
        begun = after(begun, **{**event, "attempt": 1})
    return begun


def test_steps_that_never_ran_are_not_ticked(script: Page) -> None:
    script.evaluate(A_HEAD)
    _, steps = script.evaluate(HEADED, [CHARTS, ended_while_taught(1)])
    stages = [f"block {block}, teacher {teacher}" for teacher in (1, 2) for block in (1, 2, 3)]
    assert steps[:2] == [["images", "over"], ["teacher, cut short", "missed"]]
    assert steps[2:8] == [[f"{stage}, left out", "missed"] for stage in stages]
    assert steps[8:] == [["training", "now"], ["result", "ahead"]]
    _, steps = script.evaluate(HEADED, [CHARTS, ended_while_taught(2)])
    assert [tone for _, tone in steps] == [*["over"] * 5, *["missed"] * 3, "now", "ahead"]
    stopped = after(until("epoch_finished", EPOCHS + 1), **{**RETRAINED, "network": "found"})
    _, steps = script.evaluate(HEADED, [CHARTS, stopped])
    assert steps[1:5] == [
        ["teacher", "over"],
        ["block 1", "over"],
        ["block 2, cut short", "missed"],
        ["block 3, left out", "missed"],
    ]
    _, steps = script.evaluate(HEADED, [CHARTS, TWICE])
    assert {tone for _, tone in steps} == {"over"}


SO_FAR = """async ([charts, told]) => {
  const { add, emptyRun } = await import("/static/js/run.js");
  const { ratedSoFar } = await import("/static/js/omitted.js");
  const run = emptyRun(charts);
  add(run, told);
  return ratedSoFar(run.model);
}"""


def test_whoever_stops_early_is_told_what_is_rated_so_far(script: Page) -> None:
    def says(told: list[dict[str, Any]]) -> str:
        return str(script.evaluate(SO_FAR, [CHARTS, told]))

    assert says(until("data_ready")) == ""
    assert says(until("stage_started")).startswith(
        "Nothing is rated yet: the network would be one that fits the target"
    )
    assert says(until("block_rated")).startswith("1 of 3 blocks is rated so far; what stands in the others")
    assert says(TOLD) == "All blocks are rated."
    assert says(twice_until("stage_started", 4)) == "All blocks are rated, by the teacher before."
    assert says(twice_until("block_rated", 4)) == "All blocks are rated, 2 of them by the teacher before."


BOUNDARIES = """async ([charts, told]) => {
  const { add, emptyRun } = await import("/static/js/run.js");
  const run = emptyRun(charts);
  add(run, told);
  return run.model.boundaries.map(({ label }) => label);
}"""


@pytest.mark.parametrize("state", ["running", "paused", "interrupted", "cancelled"])
def test_the_head_says_how_long_a_rating_takes_only_while_it_goes_on(script: Page, state: str) -> None:
    script.evaluate(A_HEAD)
    line, _ = script.evaluate(HEADED, [CHARTS, after(until("progress", 2), **RATING), state])
    left = ", rated in about 1 minute" if state == "running" else ""
    assert line == f"Stage 1 of 3, rating its block: 3 of 42 candidates{left}"


def test_the_head_tells_the_whole_time_apart_from_that_of_the_work(script: Page) -> None:
    script.evaluate(A_HEAD)
    told = """async ([charts, events]) => {
      const { add, emptyRun } = await import("/static/js/run.js");
      const { header } = await import("/static/js/header.js");
      const run = emptyRun(charts);
      add(run, events);
      const at = { state: "finished", started_at: "2026-01-01T10:00:00Z", finished_at: "2026-01-01T10:00:42Z" };
      header(run.model, { ...at, finished: true, attempt: 1 });
      return [document.getElementById("facts").textContent, run.model.log.at(-1).text];
    }"""
    finished = after(TOLD[:-1], kind="search_finished", seconds=31.0)
    facts, logged = script.evaluate(told, [CHARTS, finished])
    assert facts.endswith(" · about 40 seconds from start to end")
    assert logged == "Finished. Searching and training took about 30 seconds."


def test_with_several_widths_sizes_add_up_only_while_they_stay(page: Client, new_search: Callable[..., Search]) -> None:
    only = "so do sizes (as long as the blocks keep the same widths): once"
    for widths in ([1.0], [0.5, 1.0]):
        strategy = {"kind": "dna", "widths": widths}
        search = new_search(space={"kind": "chain"}, strategy=strategy, target={"value": "60%"})
        text = page.get(f"/searches/{search.pk}/").content.decode()
        assert (only in text) == (len(widths) > 1)
        assert ("so do sizes: once" in text) == (len(widths) == 1)


def test_inside_a_block_nothing_is_said_of_scores_that_there_are_not(script: Page) -> None:
    look = """async ([charts, told, number]) => {
      const { add, emptyRun } = await import("/static/js/run.js");
      const { Inside } = await import("/static/js/inside.js");
      document.body.innerHTML = "<section id='inside'></section>";
      const run = emptyRun(charts);
      add(run, told);
      const place = document.getElementById("inside");
      new Inside(place, { onClose: () => {} }).show(run.model, run.model.commits.length - 1, number);
      return place.innerText;
    }"""
    for told in (until("search_started"), TOLD):
        words = script.evaluate(look, [CHARTS, told, 1])
        assert "Each square is a filter; a hollow one is off." in words
        assert "what is rated are whole candidates of a block" in words
        assert not re.search("threshold|colour|not told|higher", words, re.IGNORECASE)
    assert "fell in epoch 12" in words


def test_the_page_says_whom_blocks_learn_from(page: Client, new_search: Callable[..., Search]) -> None:
    for recipe, says, never in (
        ("dna", "to answer as the same part of the teacher does", "There is no teacher"),
        ("dna++", "There is no teacher: each block learns", "of the teacher"),
    ):
        strategy = {"kind": "dna", "recipe": recipe}
        search = new_search(space={"kind": "chain"}, strategy=strategy, target={"value": "60%"})
        text = page.get(f"/searches/{search.pk}/").content.decode()
        about = text[text.index('id="blocks-title"') : text.index("data-summary")]
        assert says in about
        assert never not in about
        assert "once all blocks are rated it is certain which candidates" in about
        assert "the stage ends here" not in text


def test_marks_of_blocks_are_drawn_in_blocks_alone(script: Page) -> None:
    """The list of mistakes has something taken, too."""
    strokes = script.evaluate("""() => {
      const [inside, beside] = ["blocks", "mistakes"].map((id) => {
        document.body.insertAdjacentHTML("beforeend", `<div id="${id}"><div class="taken"></div></div>`);
        return getComputedStyle(document.body.lastElementChild.firstElementChild).stroke;
      });
      return [inside, beside];
    }""")
    assert strokes[0] != "none"
    assert strokes[1] == "none"


def test_lower_ratings_are_lower_and_costs_go_to_the_right(script: Page) -> None:
    shown(script, ("add", until("block_rated")))
    dots = script.locator(".candidates").first.get_attribute("d") or ""
    places = [tuple(map(float, pair)) for pair in re.findall(r"M([\d.]+) ([\d.]+)h0", dots)]
    costs, ratings = zip(*RATED[0]["points"], strict=True)
    assert [place for place, _ in places].index(max(place for place, _ in places)) == costs.index(max(costs))
    down = [place for _, place in places]
    assert down.index(max(down)) == ratings.index(min(ratings))


def test_the_summary_says_what_it_took_and_where_the_rating_says_little(script: Page) -> None:
    shown(script, ("add", TOLD))
    summary = script.locator("[data-summary]")
    expect(summary).to_contain_text("342 candidates of 3 blocks are rated. That took 396 evaluations of an operation")
    expect(summary).to_contain_text("where one by one would have taken 972")
    expect(summary).to_contain_text("\N{MINUS SIGN}0.86 to \N{MINUS SIGN}0.42")
    expect(summary).to_contain_text("So the rating says little more than the size does in block 1.")
    shown(script, ("add", until("block_rated")))
    expect(summary).to_contain_text("42 candidates of 1 of 3 blocks are rated.")


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_the_slider_shows_the_largest_network_that_is_no_larger(script: Page, share: float) -> None:
    smallest, largest = PATHS["networks"][0]["size"], PATHS["networks"][-1]["size"]
    wanted = smallest + share * (largest - smallest)
    known = [*(one for one in PATHS["networks"] if one["size"] != PATHS["chosen"]["size"]), PATHS["chosen"]]
    network = max((one for one in known if one["size"] <= wanted), key=lambda one: one["size"])
    shown(script, ("add", TOLD), ("wish", wanted))
    words = script.locator("[data-words]")
    expect(words).to_contain_text(f"{round(network['size']):,} parameters, summed rating {network['rating']:.3g}")
    assert script.locator("input").get_attribute("aria-valuetext") == words.inner_text()
    panels = script.locator("[data-panels] > li")
    for number, event in enumerate(RATED):
        expect(panels.nth(number)).to_contain_text(f"{round(network['costs'][number]):,} parameters, rated")
        assert panels.nth(number).locator("li").count() == len(event["choices"])
        expect(panels.nth(number).locator(".taken")).to_have_attribute("visibility", "visible")
        layer = panels.nth(number).locator("li").first
        expect(layer).to_contain_text(re.compile("inverted bottleneck|skip connection"))


def test_what_was_taken_is_ringed_and_the_slider_begins_there(script: Page) -> None:
    shown(script, ("add", TOLD))
    expect(script.locator("[data-words]")).to_contain_text("the network that was taken")
    for panel in script.locator("[data-panels] > li").all():
        ring, mark = panel.locator(".taken"), panel.locator(".wished")
        assert ring.get_attribute("transform") == mark.get_attribute("transform") != None  # noqa: E711


def test_a_rewind_leaves_what_a_page_that_is_opened_later_shows(script: Page) -> None:
    """In the middle of blocks, of a block, and with the networks known; also where nothing is said again."""
    for kind, count in (("retrain_epoch", 2), ("stage_started", 2), ("block_rated", 2), ("paths_found", 1)):
        kept = until(kind, count)
        fresh = script.evaluate(FED, [CHARTS, [["add", kept]]])
        assert script.evaluate(FED, [CHARTS, [["add", TOLD], ["rewind", len(kept)]]]) == fresh
    fresh = script.evaluate(FED, [CHARTS, [["add", TOLD]]])
    again = [["add", until("paths_found")], ["rewind", len(until("stage_started", 2))], ["add", TOLD]]
    assert script.evaluate(FED, [CHARTS, again]) == fresh


LINES = """async ([charts, told]) => {
  const { add, emptyRun } = await import("/static/js/run.js");
  const run = emptyRun(charts);
  add(run, told);
  const lines = ({ id }) => [...run.model.traces[id].values()].map(({ label, x }) => [label, x]);
  return Object.fromEntries(charts.map((chart) => [chart.id, lines(chart)]));
}"""


def test_charts_show_the_teacher_before_the_search_and_how_far_each_block_is_from_it(script: Page) -> None:
    lines = script.evaluate(LINES, [charts_of("operations", "dna"), TOLD])
    accuracy = dict(lines["accuracy"])
    assert accuracy["retraining, validation, teacher of the blocks"] == [-4, -3, -2, -1, 0]
    assert min(accuracy["retraining, validation"]) == 13 and "validation" not in accuracy
    [[label, places]] = lines["likeness"]
    assert label == "mean square"
    assert len(places) == sum(event["kind"] == "progress" for event in TOLD)
    assert not {"losses", "pull", "thresholds"} & set(lines)


def test_it_is_watched_to_its_end(context: BrowserContext, said: list[str]) -> None:
    """Blocks, then the network; the slider moves by keys, and follows its neighbour; head, charts and list agree."""
    page = context.new_page()
    address = start(page, "Digits block by block, 8 seconds")
    expect(page.locator("#figure-accuracy-note")).to_have_text("once the blocks are one network")
    expect_state(page, "Finished")
    expect(page.locator("#figure-accuracy")).to_have_text("97.7 %")
    for words in (
        "The teacher is trained first",
        "Block 2 of 3: 294 candidates rated",
        "the best one of those just below the target",
    ):
        expect(page.locator("#log")).to_contain_text(words)
    slider, words = page.locator("#wish-size"), page.locator("#blocks [data-words]")
    slider.focus()
    page.keyboard.press("Home")
    expect(words).to_contain_text("worse. It was not built.")
    smallest = words.inner_text()
    page.keyboard.press("ArrowRight")
    expect(words).not_to_have_text(smallest)
    page.locator("#what-if-size").focus()
    page.keyboard.press("Home")  # 30 % of the target; the panels follow
    size = int((page.locator("#what-if-text").inner_text().split()[0]).replace(",", ""))
    assert int(words.inner_text().split()[0].replace(",", "")) <= size
    line, steps = page.evaluate(HEADED, [CHARTS, until("retrain_epoch", 2)])
    assert line == "Training the teacher of the blocks, epoch 2 of 5"
    assert [name for name, _ in steps] == ["images", "teacher", "block 1", "block 2", "block 3", "training", "result"]
    assert [name for name, tone in steps if tone == "now"] == ["teacher"]
    rating = {"kind": "data_progress", "what": "rating", "done": 3, "total": 1252, "unit": "candidates"}
    begun = until("progress", 2)
    after = {"seq": begun[-1]["seq"] + 1, "attempt": 1}
    line, steps = page.evaluate(HEADED, [CHARTS, [*begun, {**rating, **after, "eta_seconds": 65}]])
    assert line == "Stage 1 of 3, rating its block: 3 of 1,252 candidates, rated in about 1 minute"
    assert [name for name, tone in steps if tone == "now"] == ["block 1"]
    line, steps = page.evaluate(HEADED, [CHARTS, [*begun, {**RETRAINED, **after, "network": "teacher 2"}]])
    assert line == "Training teacher 2 of the blocks, epoch 1 of 5"
    assert [name for name, tone in steps if tone == "now"] == ["block 1"]
    page.set_viewport_size(NARROW)  # type: ignore[arg-type]
    page.reload()  # charts that are there already follow the window a moment later
    expect(page.locator("#blocks .panels .wished").last).to_be_visible()
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
    page.goto("/")
    expect(page.locator(f"a[href$='{address.split('/')[-2]}/']").first).to_be_visible()
    assert said == []
