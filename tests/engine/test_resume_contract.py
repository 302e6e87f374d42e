"""What every strategy of the catalogue owes: stopped at any stage's edges or inside a stage, it ends with the very same
files. A new strategy, recipe or space is held to it by being in the catalogue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small import RAW, configuration

from nasengine import catalogue, events
from nasengine.config import METHODS
from nasengine.control import Control
from nasengine.errors import Interrupted
from nasengine.events import Event
from nasengine.search import search

SPACES: dict[str, dict[str, Any]] = {
    "cells": RAW["space"],
    "chain": {"kind": "chain", "layers": 3, "channels": 4, "kernels": [3, 5], "reductions": [1]},
    "imported": {"kind": "imported", "model": "test_resnet"},
}
"""One small space of each kind."""
PAIRS = [
    (kind, recipe, space)
    for kind, entry in catalogue.STRATEGIES.items()
    for recipe in entry.paths
    for space in entry.spaces
    if not METHODS[kind](recipe=recipe).wants_trained  # those are held to it in test_dms_recipes.py
]
REACHES: dict[str, dict[str, Any]] = {"msgdas": {"target.value": "60%"}, "dna": {"target.value": "60%"}}
"""Of methods that prune operations alone, a target that they reach in these spaces."""
FURTHER: list[tuple[str, str, str, dict[str, Any]]] = [
    ("dms", "scale", "chain", {"retrain.teacher": "full"}),
    ("msgdas", "reconstructed", "cells", {"strategy.then": "mgas"}),
    ("msgdas", "reconstructed", "chain", {"space.attention": [4]}),
    ("msgdas", "reconstructed", "cells", {"strategy.memory": "sequential"}),
]
BY_NIGHT = {
    *((kind, recipe, space) for kind, recipe, space, _ in FURTHER),  # with more besides by day
    *(("mgas", "published", space) for space in ("cells", "imported")),
    ("mgas", "coppice", "imported"),
}
"""Pairs that are held to it by themselves among the long tests alone."""
CASES = [*(pytest.param(*pair, {}, marks=[pytest.mark.long] * (pair in BY_NIGHT)) for pair in PAIRS), *FURTHER]
FILES = ("model.safetensors", "model.onnx", "architecture.json", "pictures.png")


Place = tuple[str, Any, Any, Any]


def place_of(event: Event) -> Place:
    """What an event tells of, whatever its number: how often progress is told is a matter of time."""
    return (event.kind, *(getattr(event, part, None) for part in ("stage", "epoch", "network")))


def ran_until(folder: Path, changes: dict[str, Any], stops: list[Place]) -> list[Event]:
    """What it says until it has told of one of these places and has saved; without any, until its end."""
    control, said = Control(), []
    try:
        for event in search(configuration(changes), folder, control=control):
            said.append(event)
            if place_of(event) in stops:
                control.requested = "a test"
    except Interrupted:
        assert stops
    return said


def places(said: list[Event]) -> list[Place]:
    """Every stage's edges, and one inside every stage and the training of each network, in order."""
    edges = {place_of(event) for event in said if isinstance(event, events.StageStarted | events.StageFinished)}
    firsts = {event.stage: place_of(event) for event in reversed(said) if isinstance(event, events.EpochFinished)}
    trained = [place_of(event) for event in said if isinstance(event, events.RetrainEpoch) and event.epoch == 1]
    wanted = {*edges, *firsts.values(), *trained}
    return [place for place in dict.fromkeys(map(place_of, said)) if place in wanted]


@pytest.mark.parametrize(("kind", "recipe", "space", "further"), CASES)
def test_stopped_at_every_edge_and_inside_every_stage_it_ends_with_the_very_same_files(
    kind: str, recipe: str, space: str, further: dict[str, Any], tmp_path: Path, cache: None
) -> None:
    method = {"kind": kind, "recipe": recipe}
    changes = {"strategy": method, "space": SPACES[space], "retrain.epochs": 2, **REACHES.get(kind, {}), **further}
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    said = ran_until(undisturbed, changes, [])
    stops, attempts = places(said), 0
    (started,) = (event for event in said if isinstance(event, events.SearchStarted))
    stages = len(started.stages)
    teachers = METHODS[kind](recipe=recipe).teachers(2)[0]
    assert [kind for kind, *_ in stops] == [
        *(["retrain_epoch"] * teachers),
        *(["stage_started", "epoch_finished", "stage_finished"] * stages),
        *(["retrain_epoch"] * (2 if "retrain.teacher" in further else 1)),
    ]
    while stops:
        told = set(map(place_of, ran_until(disturbed, changes, stops)))
        assert stops[0] in told and not any(kind == "search_finished" for kind, *_ in told)
        stops, attempts = [place for place in stops if place not in told], attempts + 1
    assert attempts >= 2 * stages + 1, "a stage that begins where the one before was stopped is an edge with it"
    ran_until(disturbed, changes, [])
    for name in FILES:
        found = [(folder / "result" / name).read_bytes() for folder in (undisturbed, disturbed)]
        assert found[0] == found[1], name
    reports = [json.loads((folder / "result" / "report.json").read_text()) for folder in (undisturbed, disturbed)]
    for key in ("confusion", "confused", "examples", "mistakes"):
        assert reports[0][key] == reports[1][key], key
