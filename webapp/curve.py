"""How did a search's accuracy go, in a few points? Pure: kept in its row as epochs end, drawn by the list of searches.

A point is [number of its event, phase, epoch, accuracy on validation images]; phases are SEARCHING and, for the found
network, TRAINING. Their order is that of the events.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

SEARCHING, TRAINING = 0, 1
MOST = {SEARCHING: 36, TRAINING: 24}
"""Points of a phase before every other one is left out."""

Point = Sequence[Any]


def extended(curve: Iterable[Point], fresh: Iterable[Point], *, anew: int) -> list[Point]:
    """The curve with fresh points. What stands there of events from number `anew` on is said again: it is dropped.

    >>> extended([[3, 0, 1, 0.5], [6, 0, 2, 0.7]], [[5, 0, 2, 0.6]], anew=4)
    [[3, 0, 1, 0.5], [5, 0, 2, 0.6]]
    """
    points = [*(point for point in curve if point[0] < anew), *fresh]
    return [point for phase in MOST for point in thinned([each for each in points if each[1] == phase], MOST[phase])]


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most so many, evenly over the epochs; the first and the last are among them.

    >>> [epoch for _, _, epoch, _ in thinned([[n, 0, n, 0.5] for n in range(1, 10)], 8)]
    [1, 3, 5, 7, 9]
    """
    if len(points) <= most:
        return list(points)
    first, last = points[0][2], points[-1][2]
    width = 2 * max(1, last - first) / most
    kept: dict[int, Point] = {}
    for point in points[:-1]:
        kept.setdefault(int((point[2] - first) / width), point)
    return [*kept.values(), points[-1]]


def placed(curve: Iterable[Point]) -> list[tuple[int, float, int]]:
    """(epoch, accuracy, phase), with training counted on from the last epoch of the search.

    >>> placed([[3, 0, 1, 0.5], [6, 0, 2, 0.7], [9, 1, 1, 0.9]])
    [(1, 0.5, 0), (2, 0.7, 0), (3, 0.9, 1)]
    """
    searched, found = 0, []
    for _, phase, epoch, accuracy in curve:
        if phase == SEARCHING:
            searched = max(searched, epoch)
        found.append((epoch + (searched if phase == TRAINING else 0), accuracy, phase))
    return found
