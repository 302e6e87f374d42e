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
    names = {series["colour"] for chart in CHARTS for series in chart["series"]}
    css = CSS.read_text()
    assert {name for name in names if len(re.findall(rf"--chart-{name}:", css)) != 2} == set()


def test_charts_have_names_of_their_own_and_are_plain_json() -> None:
    assert len({chart["id"] for chart in CHARTS}) == len(CHARTS)
    assert json.loads(json.dumps(CHARTS)) == CHARTS


def test_a_method_has_the_charts_that_it_fills() -> None:
    """What blocks that learn one by one do not measure has other words, or no chart."""
    usual = {chart["id"]: chart["sentence"] for chart in charts_of("operations", "mgas")}
    of_blocks = {chart["id"]: chart["sentence"] for chart in charts_of("operations", "dna")}
    assert set(OF_BLOCKS) <= set(usual)
    assert set(of_blocks) - set(usual) == {"likeness"}
    assert set(usual) - set(of_blocks) == {name for name, sentence in OF_BLOCKS.items() if sentence is None}
    assert "put none into a class" in of_blocks["accuracy"] != usual["accuracy"]


def _is_mapping(hint: Any) -> bool:
    return (typing.get_origin(hint) or hint) is dict and not isinstance(hint, types.UnionType)
