"""How far a model can be narrowed, told to people and to programs."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from nasengine.coupling import Coupling, Frozen
from nasengine.multiply_adds import Count


def facts(coupling: Coupling, count: Count) -> dict[str, Any]:
    """Plain data for JSON: sizes, groups with their layers, what is frozen and why."""
    return {
        "params": count.params,
        "macs": count.macs,
        "reach": coupling.reach,
        "least": coupling.least,
        "difference": coupling.difference,
        "groups": [
            {"name": group.name, "width": group.width, "layers": sorted(group.layers)} for group in coupling.groups
        ],
        "frozen": [{"name": one.name, "width": one.width, "reason": one.reason} for one in coupling.frozen],
    }


def paragraph(model: str, image_size: int, coupling: Coupling, count: Count) -> str:
    """The same in a few sentences."""
    all_groups = len(coupling.groups) + len(coupling.frozen)
    sentences = [
        f"{model}: {_millions(count.params)} parameters, {_millions(count.macs)} multiply-adds at {image_size} pixels.",
        f"{len(coupling.groups)} of {all_groups} channel groups can be narrowed; they reach {coupling.reach:.0%} of "
        f"the multiply-adds. At the narrowest {coupling.least:.1%} of all are left.",
    ]
    if coupling.frozen:
        sentences.append(f"Not: {_frozen(coupling.frozen)}.")
    return " ".join(sentences)


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


def _frozen(frozen: tuple[Frozen, ...]) -> str:
    """One name for each reason, and how many share it."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for one in frozen:
        by_reason[kind(one.reason)].append(one.name)
    return "; ".join(
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''} ({reason})"
        for reason, names in by_reason.items()
    )
