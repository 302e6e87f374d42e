"""Layers made narrower: a plain module from a plain module and a recipe.

A recipe is a list of cuts, each a JSON object: the channels that one side of one layer keeps. It needs nobody who knows
which channels belong together (`coupling` finds that), so that it can be stored, and done again to a fresh model.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from nasengine.compact import Cut, cut
from nasengine.coupling import Group
from nasengine.errors import ConfigError


def recipe(groups: Iterable[Group], kept: Mapping[str, Sequence[int]]) -> list[Cut]:
    """The cuts that leave these elements of these groups; groups that are not named stay whole.

    Raises:
        ConfigError: if there is no such group or element, or none of a group is kept.
    """
    known = {group.name: group for group in groups}
    gone: dict[tuple[str, str, int], set[int]] = defaultdict(set)
    for name, elements in kept.items():
        if name not in known:
            raise ConfigError.at("space.model", f"'{name}' is no group of channels that can be narrowed")
        group = known[name]
        if not elements or not set(elements) <= set(range(group.width)):
            raise ConfigError.at(
                "space.model",
                f"'{name}' has the elements 0 to {group.width - 1}; keep at least one of them, and no others",
            )
        off = sorted(set(range(group.width)) - set(elements))
        for member in group.members:
            gone[member.layer, member.side, member.of].update(c for element in off for c in member.channels[element])
    return [
        {"layer": layer, "side": side, "of": of, "keep": [c for c in range(of) if c not in channels]}
        for (layer, side, of), channels in gone.items()
        if channels
    ]


def sliced(model: nn.Module, groups: Iterable[Group], kept: Mapping[str, Sequence[int]]) -> nn.Module:
    """A narrower copy of the model, with the elements that are kept; the model itself stays as it is.

    Args:
        model: whose groups they are.
        groups: as `coupling` found them.
        kept: name of a group -> numbers of its elements that stay.
    """
    return cut(copy.deepcopy(model), recipe(groups, kept))
