"""How far a model can be narrowed, told to people and to programs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from nasengine.coupling import Coupling, Frozen
from nasengine.depth import Run
from nasengine.multiply_adds import Count

HARDLY = 0.001
"""Share below which a figure says nothing."""


def facts(
    model: str, image_size: int, coupling: Coupling, depth: Sequence[Run], count: Count, least: float
) -> dict[str, Any]:
    """Plain data for JSON: sizes, groups with their layers, runs of blocks, what is frozen and why, and a sentence.

    Args:
        model: its name, for people.
        image_size: pixels a side.
        coupling: its channel groups.
        depth: its runs of removable blocks.
        count: of the whole model.
        least: share of its multiply-adds that is left with all that can go gone.
    """
    return {
        "params": count.params,
        "macs": count.macs,
        "reach": coupling.reach,
        "least": least,
        "difference": coupling.difference,
        "groups": [
            {"name": group.name, "width": group.width, "layers": sorted(group.layers)} for group in coupling.groups
        ],
        "frozen": [{"name": one.name, "width": one.width, "reason": one.reason} for one in coupling.frozen],
        "depth": [{"name": run.name, "blocks": list(run.blocks)} for run in depth],
        "sentence": _sentence(model, image_size, coupling, depth, count, least),
    }


def _sentence(model: str, image_size: int, coupling: Coupling, depth: Sequence[Run], count: Count, least: float) -> str:
    """The same in a few sentences."""
    all_groups, blocks = len(coupling.groups) + len(coupling.frozen), sum(len(run.blocks) for run in depth)
    left = f"{least:.1%}" if least >= HARDLY else f"less than {HARDLY:.1%}"
    sentences = [
        f"{model}: {_millions(count.params)} parameters, {_millions(count.macs)} multiply-adds at {image_size} pixels.",
        f"{len(coupling.groups)} of {all_groups} channel groups can be narrowed; they reach {coupling.reach:.0%} of "
        f"the multiply-adds.",
        f"{blocks} block{' can go as a whole' if blocks == 1 else 's can go as wholes'}." if blocks else "",
        f"At the smallest {left} of the multiply-adds are left.",
        f"Not: {_frozen(coupling.frozen)}." if coupling.frozen else "",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def kind(reason: str) -> str:
    """A reason without the figures in its brackets.

    >>> kind("cut, the model computes something else (by 0.07 of its output)")
    'cut, the model computes something else'
    """
    return reason.partition(" (")[0]


def _millions(n: int) -> str:
    """Three digits.

    >>> _millions(1_518_881), _millions(12_340_000), _millions(7_850)
    ('1.52 M', '12.3 M', '0.00785 M')
    """
    return f"{n / 1e6:.3g} M"


def reasons(frozen: tuple[Frozen, ...]) -> str:
    """Why what is frozen is so, in brackets; nothing if nothing is."""
    return f" ({_frozen(frozen)})" if frozen else ""


def _frozen(frozen: tuple[Frozen, ...]) -> str:
    """One name for each reason, and how many share it."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for one in frozen:
        by_reason[kind(one.reason)].append(one.name)
    return "; ".join(
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''} ({reason})"
        for reason, names in by_reason.items()
    )
