"""The imported space: a model that others have written, with the widths of its layers and its blocks open.

What may be cut of a model is found out once, by building and tracing it (`survey`, which needs torch and up to a
minute), and kept in a file of the cache. Plan and shapes of weights are read from there, so that a form can count, and
tell whether weights fit, in milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from nasengine.architecture import Choice, Cost, Layer, Plan
from nasengine.cache import cache_folder
from nasengine.config import ImportedSpace
from nasengine.errors import ConfigError
from nasengine.weights import left_over

FORMAT = 2
"""Of the files; those of another one are made anew."""
UNKNOWN = "nobody has looked yet at what may be cut of this model; wait for it"


class UnknownModelError(ConfigError):
    """Nobody has looked yet at what may be cut of this model."""


def plan(space: ImportedSpace, *, image_size: int, channels: int, classes: int, cuts: tuple[int, ...]) -> Plan:
    """The full space of a model for these images.

    Raises:
        UnknownModelError: if there is no survey of it yet.
    """
    return _plan(file(space.library, space.model, image_size=image_size, channels=channels, classes=classes))


def check_weights(space: ImportedSpace, *, image_size: int, channels: int, classes: int) -> None:
    """That the file which is to hold the weights of the model does so, if there is one.

    Raises:
        ConfigError: with the sentence that building the model would end with.
        UnknownModelError: if there is no survey of it yet.
    """
    if not space.path:
        return
    known = survey(file(space.library, space.model, image_size=image_size, channels=channels, classes=classes))
    if known is None:
        raise UnknownModelError.at("space.model", UNKNOWN)
    wanted = known["weights"]
    left_over(Path(space.path), wanted["shapes"], wanted["last"], f"{space.model} ({space.library})")


def file(library: str, model: str, *, image_size: int, channels: int, classes: int) -> Path:
    """Where the survey of a model is kept."""
    return cache_folder() / "models" / f"{library}-{model}-{image_size}-{channels}-{classes}.json"


def survey(path: Path) -> dict[str, Any] | None:
    """What a file says; nothing if it is missing, damaged or of another format. It is read anew when it has changed."""
    return _read(path, _changed(path))


def to_json(plan: Plan) -> dict[str, Any]:
    """A plan as plain data, without what is as usual."""
    return {
        "space": plan.space,
        "image_size": plan.image_size,
        "layers": [_own(layer) for layer in plan.layers],
        "groups": dict(plan.groups),
        "crossings": {name: list(both) for name, both in plan.crossings.items()},
        "choices": [_own(choice) for choice in plan.choices],
        "blocks": list(plan.blocks),
        "exits": list(plan.exits),
        "exit_blocks": list(plan.exit_blocks),
    }


def from_json(raw: Mapping[str, Any]) -> Plan:
    """What `to_json` gave."""
    return Plan(
        space=raw["space"],
        image_size=raw["image_size"],
        layers=tuple(_layer(layer) for layer in raw["layers"]),
        groups=raw["groups"],
        crossings=_tupled(raw["crossings"]),
        choices=tuple(Choice(**_tupled(choice)) for choice in raw["choices"]),
        blocks=tuple(raw["blocks"]),
        exits=tuple(raw["exits"]),
        exit_blocks=tuple(raw["exit_blocks"]),
    )


def _plan(path: Path) -> Plan:
    found = _read_plan(path, _changed(path))
    if found is None:
        raise UnknownModelError.at("space.model", UNKNOWN)
    return found


def _changed(path: Path) -> int | None:
    """When a file was written; nothing if it is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


@lru_cache(maxsize=16)
def _read(path: Path, changed: int | None) -> dict[str, Any] | None:
    """A file as it was at that time; not to be changed."""
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if found.get("format") == FORMAT else None


@lru_cache(maxsize=16)
def _read_plan(path: Path, changed: int | None) -> Plan | None:
    """Its plan."""
    found = _read(path, changed)
    return None if found is None else from_json(found["plan"])


def _layer(raw: Mapping[str, Any]) -> Layer:
    return Layer(**{**_tupled(raw), "costs": tuple(Cost(**_tupled(cost)) for cost in raw.get("costs", ()))})


def _tupled(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}


def _own(value: Layer | Choice) -> dict[str, Any]:
    """All that is not as it is by default."""
    usual = {field.name: field.default for field in fields(value)}
    return {name: own for name, own in asdict(value).items() if own != usual[name]}
