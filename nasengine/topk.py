"""The differentiable top-k: one learned ratio says how many elements of a choice go, importance says which.

Source: DMS (ICML 2024, arXiv 2405.07194), section 3.1. The ratio `a` is always that of what is *pruned*.
Differs: places are mid-ranks, so that soft masks sum to (1 - a) N; by eq. 2 they sum to half an element less.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nasengine.masks import ranks

SHARPEST = {"operation": 4.0, "filter": 1.0}
"""Sharpness for each element of a choice: 4 N where a choice has few elements (appendix A), N for widths."""
SOFTEST = 16.0
"""Least sharpness: with fewer elements the masks of all of them would be half on."""
HARMLESS = 3.0
"""Logit of the least important mask at the least ratio: all are above 0.95, so a search starts without harm."""


def places(importance: Tensor, groups: Tensor, starts: Tensor, sizes: Tensor) -> Tensor:
    """Mid-rank of each element among those of its choice: (r + 1/2) / N, near 1 for the most important (after eq. 2).

    Args:
        importance: [K], finite; of ties the lower index is the more important.
        groups: [K] number of each element's choice, in rising order.
        starts: [G] place of each choice's first element.
        sizes: [G] elements of each choice.

    Returns:
        [K] double: places of a thousand elements lie close together.

    >>> groups, starts, sizes = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 2]), torch.tensor([2, 2])
    >>> places(torch.tensor([5.0, 9.0, 7.0, 7.0]), groups, starts, sizes).tolist()
    [0.25, 0.75, 0.75, 0.25]
    """
    return 1 - (ranks(importance, groups, starts).double() + 0.5) / sizes[groups]


def soft(place: Tensor, ratio: Tensor, steepness: Tensor) -> Tensor:
    """Masks in (0, 1) of the ratios' kind, with gradient to them (eq. 3); all arguments [K]."""
    return torch.sigmoid((steepness * (place - ratio)).to(ratio.dtype))


def hard(place: Tensor, ratio: Tensor) -> Tensor:
    """Masks of zeros and ones, as many as the ratio leaves: round((1 - a) N), a half rounded down; [K]."""
    return (place > ratio).to(ratio.dtype)


def straight_through(forward: Tensor, backward: Tensor) -> Tensor:
    """The values of the first mask, with the gradient of the second."""
    return forward + (backward - backward.detach())


def sharpness(level: str, sizes: Tensor) -> Tensor:
    """[G] steepness of the soft masks of choices of this level with so many elements."""
    return (SHARPEST[level] * sizes).clamp(min=SOFTEST)


def bounds(sizes: Tensor, floors: Tensor, steepness: Tensor, living: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """[G] least and largest ratio: from all elements that live, wholly on, to `floors` elements left."""
    dead = 0 if living is None else sizes - living
    return (dead + 0.5) / sizes - HARMLESS / steepness, 1 - floors / sizes


def importance(slopes: Tensor, masks: Tensor, kind: str) -> Tensor:
    """What a step says of each element: the squared slope of the task loss in its mask, for `taylor` times the mask.

    Source: DMS, section 3.1.3. An element that is masked out has next to no Taylor importance, whatever it is worth, so
    it returns only while the target falls slowly; Fisher does not look at the mask.

    Args:
        slopes: [K] of the task loss alone.
        masks: [K] soft ones.
        kind: fisher or taylor.
    """
    return slopes.square() if kind == "fisher" else (masks * slopes).square()
