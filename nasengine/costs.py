"""Parameters and multiply-adds of a plan as differentiable functions of masks.

At hard masks they equal the count of the lowered network, but for channels and layers that `lowered` finds without
reader: those still count here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from nasengine.architecture import Layer, Plan

Masks = Mapping[str, Tensor]
"""Choice -> mask over its live units; a weight choice's mask has the shape of the live weight."""


def size(
    plan: Plan, layers: Iterable[Layer], masks: Masks, metric: str, kept: Mapping[str, Sequence[int]] | None = None
) -> Tensor:
    """Size under `masks`, a scalar with gradient to all of them.

    Args:
        plan: the full space.
        layers: the layers that count, from ``plan.program``.
        masks: operation and filter masks for every choice that is not dense; weight masks where weights are pruned.
        metric: params or macs.
        kept: live units of each operation choice, in the order of its mask; all if not given.
    """
    count = _Count(plan, masks, metric, kept or {})
    return torch.stack([term for layer in layers for term in count.terms(layer)]).sum()


class _Count:
    def __init__(self, plan: Plan, masks: Masks, metric: str, kept: Mapping[str, Sequence[int]]) -> None:
        self.plan, self.masks, self.metric = plan, masks, metric
        self.place = {name: {unit: place for place, unit in enumerate(units)} for name, units in kept.items()}
        self.channel_masks: dict[tuple[str, ...], Tensor] = {}
        self.sums: dict[tuple[str, ...], Tensor] = {}
        self.units: dict[str, tuple[Tensor, ...]] = {}
        self.like = next(iter(masks.values()))
        self.sides = plan.sides

    def terms(self, layer: Layer) -> list[Tensor]:
        own = self.own(layer)
        return [] if own is None else [own * self.unit(layer) if layer.owner else own]

    def own(self, layer: Layer) -> Tensor | None:
        """The layer's size, were its candidate on."""
        macs = self.metric == "macs"
        pixels = self.sides[layer.name] ** 2 if macs else 1
        if layer.op in ("conv", "factorized_reduce"):
            return self.convolution(layer) * pixels
        if layer.op == "linear":
            inputs, outputs = self.sum(self.plan.layer[layer.inputs[0]].channels), self.sum(layer.channels)
            return inputs * outputs if macs else (inputs + 1) * outputs
        if macs:
            return None
        if layer.op == "batch_norm":
            return 2 * self.sum(layer.channels)
        return self.like.new_ones(()) if layer.name in self.plan.ends else None  # a factor, see architecture.lowered

    def convolution(self, layer: Layer) -> Tensor:
        sources = self.plan.layer[layer.inputs[0]].channels
        weights = self.masks.get(layer.weights) if self.metric == "params" and layer.prunable else None
        if weights is None:
            dense = self.sum(layer.channels) * layer.kernel**2
            return dense if layer.depthwise else dense * self.sum(sources)
        rows = self.channels(layer.channels)
        taps = weights.flatten(2).sum(2) if layer.kernel > 1 else weights.flatten(1)
        return (rows * taps[:, 0]).sum() if layer.depthwise else rows @ (taps @ self.channels(sources))

    def channels(self, groups: tuple[str, ...]) -> Tensor:
        if groups not in self.channel_masks:
            parts = [
                self.masks[group] if group in self.masks else self.like.new_ones(self.plan.groups[group])
                for group in groups
            ]
            self.channel_masks[groups] = parts[0] if len(parts) == 1 else torch.cat(parts)
        return self.channel_masks[groups]

    def sum(self, groups: tuple[str, ...]) -> Tensor:
        if groups not in self.sums:
            self.sums[groups] = self.channels(groups).sum()
        return self.sums[groups]

    def unit(self, layer: Layer) -> Tensor:
        """Mask of the candidate that the layer belongs to."""
        choice, unit = layer.owner
        if choice not in self.units:
            self.units[choice] = self.masks[choice].unbind()
        return self.units[choice][self.place.get(choice, {}).get(unit, unit)]
