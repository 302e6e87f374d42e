"""How is the same asked for once more? A stored configuration without what its preset says anyway; nothing is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nasengine.config import parse
from nasengine.errors import ConfigError
from webapp.models import UPLOAD, Search, usual_name
from webapp.weight_files import weight_file

ZIP, WEIGHTS = "images.zip", "weights.safetensors"
SHELL = """cat > config.json <<'END'
{json}
END
python -m nasengine search config.json --out runs/again
"""
CURL = """curl {address} \\
  -H "Authorization: Bearer $COPPICE_TOKEN" \\
  -H "Content-Type: application/json" \\
  --data-binary @- <<'END'
{json}
END
"""
PYTHON = """from pathlib import Path

from nasengine.config import parse
from nasengine.search import search

config = parse({config})
for event in search(config, Path("runs/again")):
    print(event)
"""
"""No line of a configuration is END: all of its lines begin with a brace or a blank."""
ALWAYS = (
    "preset", "data.dataset", "space.kind", "space.library", "space.model", "strategy.kind", "target.metric",
    "target.value",
)  # fmt: skip
"""Said even if it is the default: it should be seen what a configuration is about."""
FIRST = ("name", *ALWAYS)
"""So that a configuration begins like one that somebody wrote."""


def again(search: Search, *, target: str = "") -> dict[str, Any]:
    """The least that asks for the search once more, by the name that somebody gave it.

    Args:
        target: instead of its own, as it was typed.
    """
    given = "" if search.name == usual_name(search.dataset_label, search.config["target"]) else search.name
    brief = briefly({**search.config, "name": given})
    if target:
        brief["target"]["value"] = target
    return brief


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Text that asks for the same elsewhere, as it can be pasted."""

    key: str
    title: str
    text: str
    needs_zip: bool = False
    needs_weights: bool = False
    """Whether the path of the zip, or of the weights, has to be put in."""
    needs_token: bool = False


def recipes(search: Search, *, address: str) -> list[Recipe]:
    """How to do it again on the command line, over HTTP and in Python.

    Args:
        address: where searches are posted to.
    """
    brief = again(search)
    named = weight_file(brief)
    needs = {"needs_zip": str(brief["data"]["dataset"]).startswith(UPLOAD), "needs_weights": named is not None}
    local = named.put(brief, WEIGHTS) if named else dict(brief)
    if needs["needs_zip"]:
        local["data"] = {**brief["data"], "dataset": "zip", "path": ZIP}
    return [
        Recipe(key="shell", title="Command line", text=SHELL.format(json=_lines(local, _json, "  ")), **needs),
        Recipe(
            key="curl",
            title="curl",
            text=CURL.format(json=_lines(brief, _json, "  "), address=address),
            needs_token=True,
        ),
        Recipe(key="python", title="Python", text=PYTHON.format(config=_lines(local, _python, "    ")), **needs),
    ]


def _lines(config: Mapping[str, Any], written: Callable[[Any], str], indent: str) -> str:
    """A configuration with a line for each of its parts, as JSON or Python have it."""
    return (
        "\n".join(
            ["{", *(f"{indent}{written(name)}: {written(value)}," for name, value in config.items())]
        ).removesuffix(",")
        + "\n}"
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _python(value: Any) -> str:
    """A literal, with the quotes of JSON, whose texts Python reads alike.

    >>> print(_python({"crop": True, "limit": None, "also": ["30%", 9000]}))
    {"crop": True, "limit": None, "also": ["30%", 9000]}
    """
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_json(name)}: {_python(inner)}' for name, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_python, value))}]"
    return _json(value) if isinstance(value, str) else repr(value)


def briefly(config: Mapping[str, Any]) -> dict[str, Any]:
    """The least that has to be said to ask for this configuration: `parse` fills in the rest.

    What a setting is without being said depends on others (the preset's halvings belong to the preset's number of
    cells), so settings are added until nothing differs, and left out again where nothing comes of it.

    >>> stored = parse({"name": "a", "search": {"epochs": 20}, "space": {"cells": 6}}).model_dump(mode="json")
    >>> brief = briefly(stored)
    >>> brief["name"], brief["search"], brief["space"]
    ('a', {'epochs': 20}, {'kind': 'cells', 'cells': 6})
    """
    asked = dict(leaves(_plain_images(config)))
    said = {dotted: asked[dotted] for dotted in ALWAYS if dotted in asked}
    while missing := _missing(asked, said):
        said |= missing
    for dotted in [dotted for dotted in said if dotted not in ALWAYS]:
        without = {other: value for other, value in said.items() if other != dotted}
        if not _missing(asked, without):
            said = without
    if "data.dataset" in said:
        said["data.dataset"] = config["data"]["dataset"]
    return nested({dotted: _whole(said[dotted]) for dotted in sorted(said, key=_place) if dotted != "data.path"})


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every setting.

    >>> list(leaves({"seed": 1, "target": {"value": "40%", "limits": {"macs": None}}}))
    [('seed', 1), ('target.value', '40%'), ('target.limits.macs', None)]
    """
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name as the configuration that has them.

    >>> nested({"seed": 1, "target.limits.macs": "30%"})
    {'seed': 1, 'target': {'limits': {'macs': '30%'}}}
    """
    result: dict[str, Any] = {}
    for dotted, value in settings.items():
        *parts, name = dotted.split(".")
        inner = result
        for part in parts:
            inner = inner.setdefault(part, {})
        inner[name] = value
    return result


def _missing(asked: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """What still differs if only this much is said; all of it, if so little makes no sense by itself."""
    path = {"data.path": asked["data.path"]} if asked.get("data.path") else {}
    try:
        understood = dict(leaves(parse(nested({**said, **path})).model_dump(mode="json")))
    except ConfigError:
        understood = {}
    return {
        dotted: value
        for dotted, value in asked.items()
        if dotted not in said and dotted != "data.path" and (dotted not in understood or understood[dotted] != value)
    }


def _plain_images(config: Mapping[str, Any]) -> dict[str, Any]:
    """With a zip in the place of an upload, which only the web application knows."""
    data = config["data"]
    upload = str(data["dataset"]).startswith(UPLOAD)
    return {**config, "data": {**data, **({"dataset": "zip", "path": "images.zip"} if upload else {})}}


def _whole(value: Any) -> Any:
    """Amounts are stored as 20000.0, and written as 20000."""
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _place(dotted: str) -> tuple[int, str]:
    """Beginners' settings first, then by part."""
    return (FIRST.index(dotted), "") if dotted in FIRST else (len(FIRST), "")
