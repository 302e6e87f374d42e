"""The short form of `make chaos`: one kill of everything at once, and one of a worker alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.rounds import chaos

pytestmark = [pytest.mark.long, pytest.mark.redis]


def test_what_is_killed_comes_back_true_and_ends_with_the_very_same_files(tmp_path: Path) -> None:
    with chaos(tmp_path) as found:
        for number, (victim, share) in enumerate((("all", 0.6), ("worker", 0.4)), start=1):
            played = found.play(number, victim, share)
            assert played.hit and played.identical, played
