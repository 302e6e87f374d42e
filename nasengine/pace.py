"""Counts into progress events, at most four a second, with the time that is left."""

from __future__ import annotations

import time

from nasengine.events import DataProgress

SECONDS_BETWEEN = 0.25


class Pace:
    """Progress of one long thing.

    Args:
        what: one of downloading, packing.
        unit: one of bytes, images.
        total: how many there are, None if nobody knows.
    """

    def __init__(self, *, what: str, unit: str, total: int | None) -> None:
        self._what, self._unit, self._total = what, unit, total
        self._begun = self._said = time.monotonic()

    def at(self, done: int) -> list[DataProgress]:
        """The event that is due when so many are done: one or none."""
        now = time.monotonic()
        if now - self._said < SECONDS_BETWEEN:
            return []
        self._said = now
        left = None if self._total is None or not done else (now - self._begun) * (self._total - done) / done
        return [DataProgress(what=self._what, done=done, total=self._total, unit=self._unit, eta_seconds=left)]
