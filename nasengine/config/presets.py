"""How much effort: what each preset fills in where a configuration says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from nasengine import catalogue
from nasengine.config.methods import METHODS
from nasengine.config.spaces import SPACES
from nasengine.config.training import MOST_EPOCHS
from nasengine.config.whole import FEWEST_EPOCHS, KINDS
from nasengine.errors import ConfigError

FEWEST_PIXELS = 32
"""Of images for a known model, unless it is said otherwise: most of them halve images five times."""
FINE_LR = 0.005
"""Of weights that are trained already: a tenth of what fresh ones begin with."""
PRESET_PARTS = {"data": "", "space": "cells", "strategy": "mgas", "search": "", "retrain": "", "runtime": ""}
"""Parts that a preset fills in, with the kind that is meant if none is given."""

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "quick": {
        "data": {"image_size": 16},
        "cells": {"cells": 4, "channels": 8, "nodes": 2, "reductions": (1, 3)},
        "chain": {"layers": 6, "channels": 8, "reductions": (2, 4)},
        "imported": {},
        "mgas": {},
        "dms": {},
        "msgdas": {},
        "dna": {},
        "search": {"epochs": 12},
        "retrain": {"epochs": 20},
        "runtime": {"memory_share": 1.0},
    },
    "standard": {
        "data": {"image_size": 32},
        "cells": {"cells": 8, "channels": 16, "nodes": 3},
        "chain": {"layers": 12, "channels": 16},
        "imported": {},
        "mgas": {},
        "dms": {},
        "msgdas": {},
        "dna": {},
        "search": {"epochs": 50},
        "retrain": {"epochs": 150},
    },
    "thorough": {
        "data": {"image_size": 32},
        "cells": {"cells": 14, "channels": 24, "nodes": 4},
        "chain": {"layers": 18, "channels": 24},
        "imported": {},
        "mgas": {},
        "dms": {},
        "msgdas": {},
        "dna": {},
        "search": {"epochs": 120},
        "retrain": {"epochs": 600},
    },
}
"""What each preset fills in: by part of the configuration, and by kind for the space and the strategy. Sizes and
lengths alone, never the recipe (and where there is memory for all, nothing is computed twice)."""


def completed(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`raw` with the preset's values where it says nothing."""
    preset = PRESETS.get(str(raw.get("preset", "quick")), PRESETS["quick"])
    filled = dict(raw)
    for part, default_kind in PRESET_PARTS.items():
        given = filled.setdefault(part, {})
        if not isinstance(given, Mapping):
            continue  # the validator says what is wrong with it
        kind = given.get("kind", default_kind) if default_kind else part
        known = list(KINDS.get(part, [part]))
        table = preset.get(kind, {}) if kind in known else {}
        filled[part] = {**({"kind": default_kind} if default_kind else {}), **table, **given}
    space = _part(raw, "space")
    if {"cells", "layers"} & set(space) and "reductions" not in space and isinstance(filled["space"], dict):
        filled["space"].pop("reductions", None)  # the preset's positions belong to the preset's number of blocks
    if _part(raw, "strategy").get("recipe") == "prune" and isinstance(filled["search"], dict):
        filled["search"].setdefault("lr", FINE_LR)
    also = _part(raw, "target").get("also")
    if isinstance(also, list | tuple) and isinstance(filled["search"], dict) and "epochs" not in _part(raw, "search"):
        filled["search"]["epochs"] += FEWEST_EPOCHS * len(also)  # each further target has a stage of its own
    if isinstance(filled["search"], dict) and "epochs" not in _part(raw, "search"):
        times = _repetitions(filled["space"], filled["strategy"])
        filled["search"]["epochs"] = min(times * filled["search"]["epochs"], MOST_EPOCHS)
    data = filled["data"]
    if isinstance(data, dict) and "image_size" not in _part(raw, "data"):
        builtin = catalogue.DATASETS.get(str(data.get("dataset", "digits")))
        if builtin is not None:
            data["image_size"] = min(data["image_size"], builtin.image_size)
        if space.get("kind") == "imported":
            data["image_size"] = max(data["image_size"], FEWEST_PIXELS)
    return filled


def _repetitions(space: Any, strategy: Any) -> int:
    """How often a preset's epochs are needed; once, where a part is wrong."""
    try:
        method = METHODS[strategy["kind"]].model_validate(strategy)
        return method.repetitions(SPACES[space["kind"]].model_validate(space))
    except (ValidationError, ConfigError, KeyError, TypeError):
        return 1  # the validator says what is wrong with it


def _part(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = raw.get(name)
    return part if isinstance(part, Mapping) else {}
