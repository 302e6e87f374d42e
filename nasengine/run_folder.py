"""The folder of a run: its settings, what was said so far, and whether there is something to continue."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from nasengine.cache import whole
from nasengine.config import SearchConfig, parse
from nasengine.errors import ConfigError

RESULT, FAMILY = "result", "family"
"""Folders in it: of the main target's network, and of those of further targets."""
DECISIVE = ("precision", "threads", "compile", "memory_share")
"""Of where a search runs, what its result depends on."""


class RunFolder:
    """Paths in it, and what is read and written there but for checkpoints and results themselves.

    Args:
        path: it is made if it is not there.

    Raises:
        ConfigError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError.at("", f"{path} cannot be made ({error.strerror}); give another folder") from None
        self.path = path
        self.checkpoint, self.events, self.config = path / "checkpoint.pt", path / "events.jsonl", path / "config.json"

    def teacher(self, generation: int) -> Path:
        """The file of one that stages learn from."""
        return self.path / f"teacher{generation}.pt"

    def forget_teachers(self) -> None:
        """Removes the files of all."""
        for path in self.path.glob("teacher*.pt"):
            path.unlink()

    def forget(self) -> None:
        """Removes what an earlier search left."""
        for path in (self.checkpoint, self.events):
            path.unlink(missing_ok=True)
        self.forget_teachers()
        for name in (RESULT, FAMILY):
            shutil.rmtree(self.path / name, ignore_errors=True)

    def is_of(self, config: SearchConfig) -> bool:
        """Whether there is a checkpoint, surely of this configuration.

        Raises:
            ConfigError: it is of another one.
        """
        if not self.checkpoint.exists():
            return False
        before, now = _decisive(self._settings()), _decisive(config.model_dump(mode="json"))
        different = sorted(part for part in now if before.get(part) != now[part])
        if different:
            raise ConfigError.at(
                different[0],
                f"{self.path} holds a search with other settings; use another folder, or --fresh to start over",
            )
        return True

    def begin(self, config: SearchConfig, seq: int) -> None:
        """Writes the configuration, and drops what was said after the event of this number."""
        with whole(self.config) as file:
            file.write(json.dumps(config.model_dump(mode="json"), indent=1).encode())
        kept = _up_to(seq, self.events.read_text().splitlines() if self.events.exists() else [])
        with whole(self.events) as file:
            file.write("".join(f"{line}\n" for line in kept).encode())

    def log(self) -> TextIO:
        """The file of events, for more of them."""
        return self.events.open("a")

    def _settings(self) -> dict[str, Any]:
        """What config.json says; nothing if it is lost or damaged."""
        try:
            known = json.loads(self.config.read_text())
        except (OSError, ValueError):
            return {}
        with contextlib.suppress(ConfigError):
            return parse(known).model_dump(mode="json")  # settings that are new since then have the value they had
        return known if isinstance(known, dict) else {}


def _up_to(seq: int, lines: Sequence[str]) -> list[str]:
    """The lines of events up to a number, and up to the one that a kill cut off."""
    kept = []
    for line in lines:
        try:
            if json.loads(line)["seq"] <= seq:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            break
    return kept


def _decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide the result, by part: not the name, not where it runs."""
    runtime = settings.get("runtime")
    bits = {key: runtime.get(key) for key in DECISIVE} if isinstance(runtime, dict) else None
    return {**{part: value for part, value in settings.items() if part != "name"}, "runtime": bits}
