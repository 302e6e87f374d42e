"""What every part of a configuration is made of: frozen fields that carry their label, help and unit."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from nasengine.errors import ConfigError


class Part(BaseModel):
    """Base of every part: frozen, unknown keys refused, numbers never guessed from text."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def option(
    default: Any,
    help_: str,
    *,
    title: str,
    unit: str = "",
    advanced: bool = True,
    empty: str = "automatic",
    **bounds: Any,
) -> Any:
    """A field with its label, help and unit beside its bounds.

    `advanced` ones are folded away in the form; `empty` says in a word what it means to leave it out.
    """
    extra: dict[str, Any] = {"unit": unit, "advanced": advanced, "empty": empty}
    return Field(default, title=title, description=help_, json_schema_extra=extra, **bounds)


def check_once(field: str, values: tuple[Any, ...], what: str) -> None:
    """Raises ConfigError if any of the values stands there twice."""
    if len(set(values)) != len(values):
        raise ConfigError.at(field, f"name each {what} once")


def meant(given: str, known: list[str]) -> str:
    """How a sentence about an unknown name ends: with the known one that is near it, or with all.

    >>> meant("chian", ["cells", "chain"]), meant("?", ["cells", "chain"])
    ("; did you mean 'chain'?", '; use one of cells, chain')
    """
    close = difflib.get_close_matches(given, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; use one of {', '.join(known)}"
