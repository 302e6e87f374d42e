"""From text to a configuration, or to one sentence for each field that is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from nasengine.config.part import meant
from nasengine.config.presets import completed
from nasengine.config.target import NO_AMOUNT
from nasengine.config.whole import KINDS, SearchConfig
from nasengine.errors import ConfigError
from nasengine.names import brief, shown
from nasengine.refusals import named, refusal

MOST_PROBLEMS = 50
"""Said at once."""
KIND_WORDS = {"space": "space", "strategy": "method"}


def document(text: bytes) -> Any:
    """The plain value that a JSON document spells.

    Raises:
        ValueError: if it is none, says a thing twice, or spells half a character, which no text can hold.
    """
    try:
        value = json.loads(text.decode("utf-8-sig"), object_pairs_hook=_once)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError(str(error)) from None
    except UnicodeEncodeError:
        raise ValueError("one of its \\u escapes is half a character") from None
    return value


def parse(raw: Mapping[str, Any]) -> SearchConfig:
    """The configuration that `raw` (parsed JSON) asks for, completed by its preset.

    Raises:
        ConfigError: with one problem for each wrong field.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError.at("", "the configuration must be a JSON object")
    try:
        return SearchConfig.model_validate(completed(raw))
    except ValidationError as error:
        raise ConfigError(_problems(error)) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"'{shown(name)}' is given twice")
        found[name] = value
    return found


def _problems(error: ValidationError) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for item in error.errors(include_url=False)[:MOST_PROBLEMS]:
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            found += cause.problems
            continue
        owner, names = _place([part for part in item["loc"] if not isinstance(part, int)])
        if item["type"].startswith("union_tag"):
            names.append("kind")
        found.append((".".join(names), _sentence(item, owner, names)))
    first: dict[str, str] = {}
    for field, sentence in found:
        first.setdefault(brief(shown(field)), brief(sentence))
    return list(first.items())


def _place(location: list[Any]) -> tuple[Any, list[str]]:
    """The part that a location is about, and the names up to its field; not the kinds of a part nor of values."""
    owner: Any = SearchConfig
    names: list[str] = []
    for name in location:
        if isinstance(owner, dict):
            owner = owner[name]
            continue
        names.append(name)
        field = owner.model_fields.get(name)
        inner = KINDS.get(name, getattr(field, "annotation", None))
        if not isinstance(inner, dict) and not hasattr(inner, "model_fields"):
            break
        owner = inner
    return owner, names


def _sentence(item: Any, owner: Any, names: list[str]) -> str:
    if item["type"] == "extra_forbidden":
        return f"there is no such setting{meant(names[-1], list(owner.model_fields))}"
    if item["type"].startswith("union_tag"):
        tag = item["ctx"].get("tag", "nothing")
        return f"{tag!r} is not a known {KIND_WORDS[names[0]]}{meant(str(tag), list(owner))}"
    if item["type"] in ("float_type", "finite_number") and item["loc"][-1] == "float":  # or a percentage
        return f"{named(item['input'])} {NO_AMOUNT}"
    return refusal(item)
