"""Promises of nasengine.events: one JSON line each, there and back."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import Any

import pytest

from nasengine import events
from nasengine.errors import EngineError

VALUES: dict[str, Any] = {
    "int": 3, "float": 0.5, "str": "text with \n and ü", "float | None": None, "int | None": 7, "list[str]": ["a"],
    "list[list[str]]": [["field", "sentence"]],
}  # fmt: skip


def example(cls: type[events.Event]) -> events.Event:
    """An event with a value in each field that its annotation allows."""
    found = {}
    for field in fields(cls):
        kind = str(field.type)
        found[field.name] = VALUES.get(kind, {"x": 1} if kind.startswith("dict") else [{"x": 1}])
    return cls(**found)


@pytest.mark.parametrize("kind", events.KINDS)
def test_every_event_survives_its_line(kind: str) -> None:
    event = example(events.KINDS[kind])
    line = events.to_line(event)
    assert "\n" not in line and json.loads(line)["kind"] == kind
    assert events.from_line(line) == event


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_becomes_null_however_deep(number: float) -> None:
    event = events.RetrainEpoch(
        network="found", epoch=1, epochs=2, train={"loss": number}, validation={"deep": [number, {"er": number}]},  # type: ignore[dict-item,list-item]
        fraction=0.5, eta_seconds=number,
    )  # fmt: skip
    found = json.loads(events.to_line(event))
    assert found["train"] == {"loss": None} and found["eta_seconds"] is None
    assert found["validation"] == {"deep": [None, {"er": None}]}


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", "3", "null", '{"seq":1}', '{"kind":"unheard","seq":1}', '{"kind":"search_finished","seq":1}'],
)
def test_what_is_no_event_is_refused(line: str) -> None:
    with pytest.raises(
        EngineError, match=r"^not an event line \((JSONDecodeError|KeyError|TypeError|AttributeError): "
    ):
        events.from_line(line)


def test_an_event_with_more_than_we_know_is_read_all_the_same() -> None:
    assert events.from_line('{"kind":"search_finished","seq":2,"seconds":1.5,"new":1}') == events.SearchFinished(
        seq=2, seconds=1.5
    )


def test_kinds_are_named_after_their_classes() -> None:
    for kind, cls in events.KINDS.items():
        assert cls.__name__ == "".join(part.title() for part in kind.split("_"))
