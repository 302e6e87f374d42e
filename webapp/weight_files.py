"""Where does a configuration name a file with weights? Nothing is read of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """A setting that names such a file: a path to the engine, the reference of an upload to everybody else."""

    part: str
    name: str
    asked_by: Mapping[str, str]
    """What the part says if it wants a file: its kind, since others know no such settings."""
    otherwise: Mapping[str, str]
    """What it says instead to get other trained weights, which promise the very same."""

    @property
    def dotted(self) -> str:
        return f"{self.part}.{self.name}"

    def of(self, config: Mapping[str, Any]) -> Any:
        """What a configuration, sound or not, names there; None if nothing."""
        return self._part(config).get(self.name)

    def is_missing(self, config: Mapping[str, Any]) -> bool:
        """Whether a file is asked for, and none is named."""
        part = self._part(config)
        return self.of(config) is None and all(part.get(name) == value for name, value in self.asked_by.items())

    def put(self, config: Mapping[str, Any], value: str) -> dict[str, Any]:
        """The configuration with this name instead."""
        return self._changed(config, {self.name: value})

    def left_out(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration that wants no file."""
        return self._changed(config, self.otherwise)

    def _part(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        part = config.get(self.part)
        return part if isinstance(part, Mapping) else {}

    def _changed(self, config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
        return {**config, self.part: {**self._part(config), **changes}}


WEIGHT_FILES = (
    WeightFile(
        part="space", name="path", asked_by={"kind": "imported", "weights": "file"},
        otherwise={"weights": "pretrained"},
    ),
    WeightFile(
        part="strategy", name="teacher_path",
        asked_by={"kind": "dna", "teacher": "library", "teacher_weights": "file"},
        otherwise={"teacher_weights": "pretrained"},
    ),
)  # fmt: skip
"""Of the model that is searched and of that which teaches: no method has both, so a search has one file at most."""


def weight_file(config: Mapping[str, Any]) -> WeightFile | None:
    """Where a configuration names one; None if it names none.

    >>> weight_file({"strategy": {"kind": "dna", "teacher_path": "oak.safetensors"}}).dotted
    'strategy.teacher_path'
    """
    return next((place for place in WEIGHT_FILES if place.of(config) is not None), None)
