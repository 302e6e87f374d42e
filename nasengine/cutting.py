"""Layers made narrower: a plain module from a plain module and a recipe.

A recipe is a list of cuts, each a JSON object: the channels that one side of one layer keeps. It needs nobody who knows
which channels belong together (`coupling` finds that), so that it can be stored, and done again to a fresh model.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nasengine.coupling import Group
from nasengine.errors import ConfigError

Cut = dict[str, Any]
"""layer: dotted name of a module or parameter. side: out, in, or through (channels pass one by one, or are normalised).
of: its channels now. keep: numbers of those that stay, ascending."""

UNEVEN = "the groups inside a layer would differ in size"
BATCH_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


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


def rebuilt(library: str, name: str, cuts: Iterable[Cut], **built: Any) -> nn.Module:
    """A model of the zoo with random weights, cut by a recipe: the state dict of what was sliced fits into it.

    Args:
        library: as for `zoo.built`.
        name: as for `zoo.built`.
        cuts: the recipe.
        built: what else `zoo.built` takes.
    """
    from nasengine import zoo

    return cut(zoo.built(library, name, **built), cuts)


def cut(model: nn.Module, cuts: Iterable[Cut]) -> nn.Module:
    """The model itself, its layers made narrower."""
    sides: dict[str, dict[str, Cut]] = defaultdict(dict)
    for one in cuts:
        sides[one["layer"]][one["side"]] = one
    for layer, by_side in sides.items():
        _narrow(model, layer, by_side)
    return model


def named(model: nn.Module, name: str) -> Any:
    """The module or parameter of a dotted name."""
    owner, _, last = name.rpartition(".")
    return getattr(model.get_submodule(owner), last)


def _narrow(model: nn.Module, name: str, cuts: Mapping[str, Cut]) -> None:
    layer = named(model, name)
    for side, one in cuts.items():
        if one["of"] != channels(layer, side):
            raise ConfigError.at(
                "space.model",
                f"the recipe cuts {one['of']} channels of {name}, which has {channels(layer, side)}; use it with the "
                "model, the classes and the image size that it was made for",
            )
    keeps = {side: one["keep"] for side, one in cuts.items()}
    if isinstance(layer, nn.Parameter):
        owner, _, last = name.rpartition(".")
        holder, keep = model.get_submodule(owner), keeps["through"]
        setattr(holder, last, _chosen(layer, keep, parameter_dim(layer)))
        if getattr(holder, "normalized_shape", None) == (layer.numel(),):
            holder.normalized_shape = (len(keep),)
    else:
        narrow(layer, keeps)


def narrow(layer: nn.Module, keeps: Mapping[str, list[int]]) -> nn.Module:
    """The layer itself, with these channels of its sides."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        _narrow_convolution(layer, keeps)
    elif isinstance(layer, nn.Linear):
        _narrow_linear(layer, keeps)
    else:
        _narrow_norm(layer, keeps["through"])
    return layer


def parameter_dim(parameter: Tensor) -> int | None:
    """The dimension of a free parameter that counts channels: the last one that is not of size 1."""
    return next((d for d in reversed(range(parameter.ndim)) if parameter.shape[d] > 1), None)


def channels(layer: nn.Module | Tensor, side: str) -> int | None:
    """How many channels a side of a layer has; nothing if it is of a kind that cannot be cut."""
    if isinstance(layer, Tensor):
        dim = parameter_dim(layer)
        return None if dim is None else layer.shape[dim]
    match layer:
        case nn.Linear():
            return {"out": layer.out_features, "in": layer.in_features}.get(side)
        case nn.modules.conv._ConvTransposeNd() if layer.groups > 1:
            return None
        case nn.modules.conv._ConvNd():
            return {"out": layer.out_channels, "in": layer.in_channels}.get(side)
        case nn.GroupNorm():
            return layer.num_channels
        case nn.LayerNorm():
            return layer.normalized_shape[0] if len(layer.normalized_shape) == 1 else None
        case nn.PReLU():
            return layer.num_parameters if layer.num_parameters > 1 else None
    return layer.num_features if isinstance(layer, BATCH_NORMS) else None


def _narrow_convolution(layer: nn.Module, keeps: Mapping[str, list[int]]) -> None:
    """Of a grouped convolution each group that stays keeps as many channels as the others, in and out."""
    ins = keeps.get("in", list(range(layer.in_channels)))
    outs = keeps.get("out", list(range(layer.out_channels)))
    size = layer.in_channels // layer.groups
    into, out_of = _blocks(ins, size), _blocks(outs, layer.out_channels // layer.groups)
    if into.keys() != out_of.keys() or not (_even(into) and _even(out_of)):
        raise ValueError(UNEVEN)
    weight = layer.weight.detach()
    if layer.transposed:
        weight = weight[ins][:, outs]
    else:
        weight = torch.cat([weight[out_of[b]][:, [c % size for c in into[b]]] for b in into])
    layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    if layer.bias is not None:
        layer.bias = _chosen(layer.bias, outs)
    layer.in_channels, layer.out_channels, layer.groups = len(ins), len(outs), len(into)


def _blocks(kept: Sequence[int], size: int) -> dict[int, list[int]]:
    blocks: dict[int, list[int]] = defaultdict(list)
    for channel in kept:
        blocks[channel // size].append(channel)
    return dict(blocks)


def _even(blocks: Mapping[int, list[int]]) -> bool:
    return len({len(block) for block in blocks.values()}) == 1


def _narrow_linear(layer: nn.Linear, keeps: Mapping[str, list[int]]) -> None:
    if "out" in keeps:
        layer.weight = _chosen(layer.weight, keeps["out"])
        layer.out_features = len(keeps["out"])
        if layer.bias is not None:
            layer.bias = _chosen(layer.bias, keeps["out"])
    if "in" in keeps:
        layer.weight = _chosen(layer.weight, keeps["in"], 1)
        layer.in_features = len(keeps["in"])


def _narrow_norm(layer: nn.Module, keep: list[int]) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = getattr(layer, name, None)
        if value is not None:
            setattr(layer, name, _chosen(value, keep))
    match layer:
        case nn.GroupNorm():
            blocks = _blocks(keep, layer.num_channels // layer.num_groups)
            if not _even(blocks):
                raise ValueError(UNEVEN)
            layer.num_channels, layer.num_groups = len(keep), len(blocks)
        case nn.LayerNorm():
            layer.normalized_shape = (len(keep),)
        case nn.PReLU():
            layer.num_parameters = len(keep)
        case _:
            layer.num_features = len(keep)


def _chosen(value: Tensor, keep: Sequence[int], dim: int | None = 0) -> Tensor:
    """These slices of a parameter or buffer, as one again."""
    part = value.detach().index_select(dim or 0, torch.tensor(keep, device=value.device))
    return nn.Parameter(part, requires_grad=value.requires_grad) if isinstance(value, nn.Parameter) else part
