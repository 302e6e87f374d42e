"""All living units of a level in one flat order, so that scores, masks and sizes are a few operations on one vector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nasengine.architecture import Layer, Plan

LEVELS = ("operation", "filter", "weight")
GATED = LEVELS[:2]
"""Levels whose units have a factor, and a mask of one number each."""


@dataclass(frozen=True, kw_only=True)
class Units:
    """The living units of one granularity.

    Attributes:
        choices: name of each choice that runs, in the order of the plan.
        shapes: shape of each choice's mask.
        sizes: [choices] its living units.
        ordinal: [choices] its number among all choices of the granularity.
        index: [K] place of each living unit among all units of the granularity, dead ones included; empty for weights,
            which are too many to be numbered.
    """

    choices: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    sizes: Tensor
    ordinal: Tensor
    index: Tensor

    @cached_property
    def counts(self) -> list[int]:
        """`sizes` as plain numbers."""
        return [torch.Size(shape).numel() for shape in self.shapes]

    @cached_property
    def group(self) -> Tensor:
        """[K] which of `choices` each unit belongs to."""
        return self.spread(torch.arange(len(self.choices), device=self.sizes.device))

    @cached_property
    def starts(self) -> Tensor:
        """[choices] place of its first unit."""
        return torch.cumsum(self.sizes, 0) - self.sizes

    def spread(self, values: Tensor) -> Tensor:
        """[choices] to [K]: each unit gets its choice's value."""
        return values.repeat_interleave(self.sizes, output_size=sum(self.counts))

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """[K] by choice, each in the shape of its mask."""
        parts = flat.split(self.counts)
        return {
            name: part.view(shape) if len(shape) > 1 else part
            for name, part, shape in zip(self.choices, parts, self.shapes, strict=True)
        }

    def joined(self, values: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
        """The reverse of `split`; ones for choices that `values` leaves out."""
        device = self.sizes.device
        parts = [
            values[name].flatten() if name in values else torch.ones(count, dtype=dtype, device=device)
            for name, count in zip(self.choices, self.counts, strict=True)
        ]
        return torch.cat(parts) if parts else torch.ones(0, dtype=dtype, device=device)


def flat_units(
    plan: Plan, program: Sequence[Layer], units: Mapping[str, Sequence[int]], device: torch.device | str
) -> dict[str, Units]:
    """Granularity -> the living units that a program meets.

    Args:
        plan: the full space.
        program: the layers that run.
        units: operation or filter choice -> numbers of its living units; all of what is not named.
        device: of the tensors.
    """
    running = {layer.owner[0] for layer in program if layer.owner}
    running |= {group for layer in program if layer.op in ("gate", "mix", "module") for group in plan.groups_of(layer)}
    shapes = {layer.weights: weight_shape(plan, layer, units) for layer in program if layer.prunable}
    found = {}
    for level in LEVELS:
        choices = [choice for choice in plan.choices if choice.granularity == level]
        names, own, ordinal, index, start = [], [], [], [], 0
        for number, choice in enumerate(choices):
            alive = units.get(choice.name, range(choice.units)) if level != "weight" else ()
            if choice.name in (shapes if level == "weight" else running):
                names.append(choice.name)
                own.append(shapes.get(choice.name, (len(alive),)))
                ordinal.append(number)
                index += [start + unit for unit in alive]
            start += choice.units
        sizes = [torch.Size(shape).numel() for shape in own]
        found[level] = Units(
            choices=tuple(names),
            shapes=tuple(own),
            sizes=torch.tensor(sizes, dtype=torch.long, device=device),
            ordinal=torch.tensor(ordinal, dtype=torch.long, device=device),
            index=torch.tensor(index, dtype=torch.long, device=device),
        )
    return found


def weight_shape(plan: Plan, layer: Layer, units: Mapping[str, Sequence[int]] | None = None) -> tuple[int, ...]:
    """Shape of a living weight, or whole: of a convolution [out, in, k, k], of a module [out, in, *taps]."""

    def width(groups: Iterable[str]) -> int:
        return sum(len(plan.living(group, units or {})) for group in groups)

    if layer.op == "module":
        return (width(layer.channels), width(layer.reads), *(layer.taps or ()))
    return (width(layer.channels), 1 if layer.depthwise else width(plan.reads(layer)), layer.kernel, layer.kernel)
