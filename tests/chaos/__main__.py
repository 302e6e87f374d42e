"""`python -m tests.chaos --rounds 20`: a table of kills, one row each; status 1 if a promise was broken."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
django.setup()

from tests.chaos.rounds import VICTIMS, chaos, moments  # noqa: E402 -- models exist only after the line above

HEADS = ("round", "victim", "moment", "time to truth", "attempts", "result identical")
WIDTHS = (5, 7, 20, 13, 8, 16)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the moments (default: the time)")
    asked = parser.parse_args()
    victims = list(itertools.islice(itertools.cycle(VICTIMS), asked.rounds))
    broken = missed = 0
    with tempfile.TemporaryDirectory(prefix="coppice-chaos-") as folder, chaos(Path(folder)) as found:
        say(f"A search that nobody disturbs says {found.events} events; seed {asked.seed}.")
        say(row(HEADS))
        for number, (victim, share) in enumerate(moments(victims, asked.seed), start=1):
            try:
                played = found.play(number, victim, share)
            except AssertionError as broke:
                broken += 1
                say(f"{number:>5}  {victim:<7}  BROKEN: {broke}")
                continue
            broken += not played.identical
            missed += not played.hit
            say(row(played.cells))
    late = f"; {missed} came when there was nothing to interrupt" if missed else ""
    say(f"{asked.rounds - broken} of {asked.rounds} rounds kept every promise{late}.")
    return 1 if broken else 0


def row(cells: tuple[str, ...]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 -- it is a table for people


if __name__ == "__main__":
    sys.exit(main())
