"""Whether a search paid: the found network against random ones of its size, in numbers and in one sentence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Student's t, two-sided, 95 %, for 2 to 10 values."""


def verdict(
    found: Sequence[float], random: Sequence[float], images: int, *, inherited: bool = False
) -> dict[str, float | str | None]:
    """Found against random, by accuracy on the same images.

    A difference counts if one more random network (or the means of several searches and of the random networks) would
    have it by chance in less than one case of twenty (Student's t, by how much they differ), and if it is more than two
    standard errors by the choice of the images.

    Args:
        found: accuracy of the network that each search found, 0 to 1.
        random: accuracies of at least one random network of its size, trained by the same recipe.
        images: number of images that they were measured on.
        inherited: whether all of them started from weights of the search, which suit the found one best.

    Returns:
        `mean`, `best` and `spread` of the random ones (standard deviation, None for a single one), `error` (standard
        error by the choice of images), and the `sentence`.

    >>> verdict([0.9], [0.82, 0.82, 0.83, 0.81, 0.82], 1000)["sentence"]
    'The search paid: 90.0 % on the test images, against 82.0 % ± 0.7 % on average and 83.0 % at best of 5 random \
networks of this size (one search).'
    """
    own, mean, best = statistics.fmean(found), statistics.fmean(random), max(random)
    spread = statistics.stdev(random) if len(random) > 1 else None
    error = math.sqrt(mean * (1 - mean) / images)
    numbers = {"mean": mean, "best": best, "spread": spread, "error": error}
    if spread is None:
        sentence = (
            f"One random network is no evidence whether the search paid: the found one has {_percent(own)} on the "
            f"test images, it has {_percent(best)}; compare with five."
        )
        return {**numbers, "sentence": sentence}
    searches = "one search" if len(found) == 1 else f"{len(found)} searches"
    said = _percent(own) if len(found) == 1 else f"{_percent(own)} ± {_percent(statistics.stdev(found))}"
    margin = max(_chance(found, random), 2 * error)
    favour = "; all started from its weights, which favours the found one" if inherited else ""
    against = (
        f"{said} on the test images, against {_percent(mean)} ± {_percent(spread)} on average and "
        f"{_percent(best)} at best of {len(random)} random networks of this size ({searches}{favour})."
    )
    return {**numbers, "sentence": f"{_opening(own - mean, own - best, margin)}: {against}"}


def _chance(found: Sequence[float], random: Sequence[float]) -> float:
    """What the difference of the means exceeds by chance in one case of twenty."""
    m, n = len(found), len(random)
    deviations = statistics.variance(random) / n
    deviations += statistics.variance(random if m == 1 else found) / m
    freedom = (n if m == 1 else min(m, n)) - 1
    return T95[min(freedom, len(T95)) - 1] * math.sqrt(deviations)


def _opening(above_mean: float, above_best: float, margin: float) -> str:
    if above_mean < -margin:
        return "The search did not pay"
    if above_mean <= margin:
        return "Whether the search paid cannot be told from chance"
    if above_best <= 0:
        return "The search paid on average, but the best random network is at least as good"
    return "The search paid"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
