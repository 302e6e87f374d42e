"""Do several searches decide alike? Correlation of what they keep, by granularity and by type of operation."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from nasengine.architecture import Plan, layer_params

Place = tuple[str, int]
"""A unit: its choice and its number in it."""


def agreement(plan: Plan, networks: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Mean correlation (Pearson) of what each two of several searches keep.

    Which filters of a group stay is a matter of their random start; what searches can agree on is how wide each group
    is and how dense each convolution, where both have it. None where a search keeps all or nothing: there is nothing to
    compare. Where types of operation differ in how often they stay, `all` is high for that alone: look at
    `convolutions` and at the types.

    Args:
        plan: the space that all of them searched.
        networks: found ones, as in ``architecture.json``.

    Returns:
        operation: kept or not, of `all` candidates, of `convolutions`, of `free` ones (skips, pools), and of each type.
        filter: `widths`, the share of its filters that each channel group keeps.
        weight: `densities`, the share of its weights that each convolution keeps.
    """
    return {
        "operation": {kind: _mean(networks, _bits(places)) for kind, places in _kinds(plan).items()},
        "filter": {"widths": _mean(networks, lambda network: _widths(plan, network))},
        "weight": {"densities": _mean(networks, lambda network: _densities(network["layers"]))},
    }


def correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Pearson's; None if one of them is constant.

    >>> correlation([1, 0, 1, 0], [0, 1, 0, 1]), correlation([1, 1], [0, 1])
    (-1.0, None)
    """
    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return statistics.correlation(a, b)


def _kinds(plan: Plan) -> dict[str, list[Place]]:
    found: dict[str, list[Place]] = {"all": [], "convolutions": [], "free": []}
    for choice in plan.choices:
        for unit, label in enumerate(choice.labels):
            with_weights = unit in plan.active[choice.name]
            for kind in ("all", "convolutions" if with_weights else "free", label.split()[-1]):
                found.setdefault(kind, []).append((choice.name, unit))
    return found


def _bits(places: Sequence[Place]) -> Callable[[Mapping[str, Any]], dict[Any, float]]:
    def read(network: Mapping[str, Any]) -> dict[Any, float]:
        kept = {name: set(units) for name, units in network["kept"].items()}
        return {place: float(place[1] in kept.get(place[0], {place[1]})) for place in places}

    return read


def _widths(plan: Plan, network: Mapping[str, Any]) -> dict[Any, float]:
    """Of channel groups that the network has."""
    alive = {
        group
        for layer in network["layers"]
        if layer["name"] in plan.layer
        for group in plan.groups_of(plan.layer[layer["name"]])
    }
    return {
        choice.name: len(network["kept"].get(choice.name, range(choice.units))) / choice.units
        for choice in plan.choices
        if choice.granularity == "filter" and choice.name in alive
    }


def _densities(layers: Sequence[Mapping[str, Any]]) -> dict[Any, float]:
    """Of convolutions that may be thinned."""
    return {
        layer["name"]: layer["nonzero"] / layer_params({**layer, "nonzero": None})
        for layer in layers
        if layer.get("nonzero") is not None
    }


def _mean(networks: Sequence[Mapping[str, Any]], read: Callable[[Mapping[str, Any]], dict[Any, float]]) -> float | None:
    values = []
    for a, b in combinations(map(read, networks), 2):
        common = [name for name in a if name in b]
        values.append(correlation([a[name] for name in common], [b[name] for name in common]))
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
