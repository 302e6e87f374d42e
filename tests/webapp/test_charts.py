"""The table of charts speaks of fields that exist."""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from pathlib import Path
from typing import Any

import pytest

from nasengine.events import KINDS
from webapp.charts import CHARTS, OF_BLOCKS, Chart, Series, charts_of

CSS = Path(__file__).parents[2] / "static" / "css" / "coppice.css"
GRANULARITIES = ("operation", "filter", "weight")
SERIES = [
    pytest.param(chart, series, id=f"{chart['id']}-{series['path']}-{series['event']}")
    for chart in CHARTS
    for series in chart["series"]
]


@pytest.mark.parametrize(("chart", "series"), SERIES)
def test_every_path_names_a_field_of_its_event(chart: Chart, series: Series) -> None:
    fields = typing.get_type_hints(KINDS[series["event"]])
    first, _, rest = series["path"].partition(".")
    assert first in fields, f"{series['event']} has no field {first}"
    assert ("." not in rest) and bool(rest) == _is_mapping(fields[first]), (
        f"{series['path']} does not fit {fields[first]}"
    )
    for other in [series["by"]] if "by" in series else []:
        assert other in fields


@pytest.mark.parametrize(("chart", "series"), SERIES)
def test_every_series_can_be_placed_and_measured(chart: Chart, series: Series) -> None:
    """What static/js/run.js reads beside the path, by the place on the axis and by the measure."""
    fields = {field.name for field in dataclasses.fields(KINDS[series["event"]])}
    at, measure = series.get("at", "epoch"), series.get("measure", "value")
    assert {"step": {"epoch", "step", "steps"}, "epoch": {"epoch"}, "retraining": {"epoch"}}.get(at, set()) <= fields
    if at == "commit":
        assert series["event"] == "committed"
    if measure == "share":
        assert "totals" in fields and series["path"].rpartition(".")[2] in GRANULARITIES
    hints = typing.get_type_hints(KINDS[series["event"]])
    if measure == "ratio":
        assert hints[series["path"].partition(".")[0]] == dict[str, list[int]]


def test_every_colour_stands_in_the_style_sheet_for_both_themes() -> None:
    lines = [series for chart in CHARTS for series in chart["series"]]
    names = {series["colour"] for series in lines} | {s["teacher_colour"] for s in lines if "teacher_colour" in s}
    css = CSS.read_text()
    assert {name for name in names if len(re.findall(rf"--chart-{name}:", css)) != 2} == set()


def test_charts_have_names_of_their_own_and_are_plain_json() -> None:
    assert len({chart["id"] for chart in CHARTS}) == len(CHARTS)
    assert json.loads(json.dumps(CHARTS)) == CHARTS


def test_a_method_has_the_charts_that_it_fills() -> None:
    """What blocks that learn one by one do not measure has other words, or no chart."""
    usual, of_blocks = told("mgas"), told("dna")
    assert set(OF_BLOCKS) <= set(usual)
    assert set(of_blocks) - set(usual) == {"likeness"}
    assert set(usual) - set(of_blocks) == {name for name, sentence in OF_BLOCKS.items() if sentence is None}
    assert "put none into a class" in of_blocks["accuracy"] != usual["accuracy"]


def test_nothing_untrue_is_said_of_blocks_that_are_decided_at_the_end() -> None:
    said = " ".join(told("dna").values())
    assert not re.search("ramp|prun|regrow", said, re.IGNORECASE)
    (size,) = (chart for chart in charts_of("operations", "dna") if chart["id"] == "size")
    assert [series["label"] for series in size["series"]] == ["target", "size now", "committed"]


@pytest.mark.parametrize(
    ("strategy", "before"),
    [
        ({}, "The teacher's line ends at epoch 0. Behind the search stands"),
        ({"recipe": "dna++"}, None),
        ({"teacher": "library"}, None),
        (
            {"generations": 2},
            "Teacher 1's line ends at epoch 0, that of each later one where blocks begin to learn from it. Behind",
        ),
        (
            {"teacher": "library", "generations": 2},
            "Teacher 1 has no line; that of each later one ends where blocks begin to learn from it. Behind",
        ),
    ],
)
def test_a_line_is_the_teachers_where_one_is_trained(strategy: dict[str, Any], before: str | None) -> None:
    said = told("dna", **strategy)["accuracy"]
    assert before in said if before else "epoch 0" not in said and "teacher" not in said


def test_blocks_without_a_teacher_have_none_in_their_charts() -> None:
    charts = charts_of("operations", "dna", recipe="dna++", teacher="own", generations=1)
    assert "teacher" not in json.dumps([chart | {"series": []} for chart in charts])
    (chart,) = (chart for chart in charts if chart["id"] in ("likeness", "agreement"))
    assert [series["path"] for series in chart["series"]] == ["losses.agreement", "losses.dispersion"]


def told(kind: str, **strategy: Any) -> dict[str, str]:
    return {chart["id"]: chart["sentence"] for chart in charts_of("operations", kind, **strategy)}


def _is_mapping(hint: Any) -> bool:
    return (typing.get_origin(hint) or hint) is dict and not isinstance(hint, types.UnionType)
