"""Whether searching paid: found networks against random ones of their size, in numbers and in one sentence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Student's t, two-sided, 95 %, for 2 to 10 values."""
FAVOUR = (
    " All of them started from weights of the search, which suit the found network best; to compare without that, set "
    "Start from (retrain.start) to scratch."
)


def verdict(
    found: float, random: Sequence[float], images: int, *, inherited: bool = False
) -> dict[str, float | str | None]:
    """Found against random, by accuracy on the same images.

    A difference counts if one more random network would have it in less than one case of twenty (Student's t, by how
    much the random ones differ), and if it is more than two standard errors by the choice of the images.

    Args:
        found: accuracy of the found network, 0 to 1.
        random: accuracies of at least one random network of its size, trained by the same recipe.
        images: number of images that they were measured on.
        inherited: whether all of them started from weights of the search, which suit the found one best.

    Returns:
        `mean`, `best` and `spread` of the random ones (standard deviation, None for a single one), `error` (standard
        error by the choice of images), and the `sentence`.

    >>> verdict(0.9, [0.82, 0.82, 0.83, 0.81, 0.82], 1000)["sentence"]
    'The search paid: 90.0 % on the test images, against 82.0 % ± 0.7 % on average and 83.0 % at best of 5 random \
networks of this size (one search).'
    """
    numbers = _numbers(random, images)
    mean, best, spread, error = numbers.values()
    if spread is None:
        sentence = (
            f"One random network is no evidence whether the search paid: the found one has {_percent(found)} on the "
            f"test images, it has {_percent(best)}; compare with five."
        )
        return {**numbers, "sentence": sentence}
    n = len(random)
    margin = max(_t(n) * spread * math.sqrt(1 + 1 / n), 2 * error)
    against = (
        f"{_percent(found)} on the test images, against {_percent(mean)} ± {_percent(spread)} on average and "
        f"{_percent(best)} at best of {len(random)} random networks of this size (one search)."
    )
    favour = FAVOUR if inherited else ""
    return {**numbers, "sentence": f"{_opening(found - mean, found - best, margin)}: {against}{favour}"}


def verdict_of_seeds(
    pairs: Sequence[tuple[float, Sequence[float]]], images: int, *, inherited: bool = False
) -> dict[str, float | str | None]:
    """The same over at least two searches with different seeds, each with random networks of its own.

    Networks of one seed share images, and perhaps weights, so it is their difference that counts: found less the mean
    of that seed's random ones. It must be more than chance would make the mean of so many differences in one case of
    twenty (Student's t), and more than two standard errors by the choice of the images.

    Args:
        pairs: for each seed the found network's accuracy, and those of at least one random network.
        images: number of images that each seed measured on.
        inherited: as in `verdict`.

    Returns:
        as `verdict` does; `spread` is that of the random networks of all seeds.
    """
    found, random = [own for own, _ in pairs], [value for _, values in pairs for value in values]
    differences = [own - statistics.fmean(values) for own, values in pairs]
    numbers = _numbers(random, images)
    mean, best, spread, error = numbers.values()
    own, m = statistics.fmean(found), len(pairs)
    margin = max(_t(m) * statistics.stdev(differences) / math.sqrt(m), 2 * error)
    against = (
        f"{_percent(own)} ± {_percent(statistics.stdev(found))} on the test images, against {_percent(mean)} ± "
        f"{_percent(spread)} on average and {_percent(best)} at best of {len(random)} random networks of this size "
        f"({m} searches)."
    )
    opening = _opening(statistics.fmean(differences), own - best, margin)
    sentence = f"{opening}: {against}{FAVOUR if inherited else ''}"
    return {**numbers, "sentence": sentence}


def _numbers(random: Sequence[float], images: int) -> dict[str, Any]:
    """Of random networks, in this order: mean, best, spread (None for a single one), error by the choice of images."""
    mean = statistics.fmean(random)
    return {
        "mean": mean,
        "best": max(random),
        "spread": statistics.stdev(random) if len(random) > 1 else None,
        "error": math.sqrt(mean * (1 - mean) / images),
    }


def _t(values: int) -> float:
    return T95[min(values, len(T95) + 1) - 2]


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
