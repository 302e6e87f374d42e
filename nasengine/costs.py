"""Parameters, multiply-adds and foretold time of a plan as differentiable functions of masks.

At hard masks they equal the count of the lowered network, but for channels and layers that `lowered` finds without
reader: those still count here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from nasengine.architecture import Layer, Plan, products
from nasengine.flat import GATED, Units, flat_units


def size(
    plan: Plan,
    layers: Sequence[Layer],
    masks: Mapping[str, Tensor],
    metric: str,
    kept: Mapping[str, Sequence[int]] | None = None,
) -> Tensor:
    """Size under `masks`, a scalar with gradient to all of them.

    Args:
        plan: the full space.
        layers: the layers that count, from ``plan.program``.
        masks: choice -> mask over its living units, weight masks in the living weight's shape; the rest is on.
        metric: params, macs, or latency_ms, which is counted in nanoseconds.
        kept: living units of operation and filter choices, in the order of their masks; all if not given.
    """
    like = next(iter(masks.values()))
    flat = flat_units(plan, layers, kept or {}, like.device)
    count = Count(plan, layers, kept or {}, flat, metric)
    return count({level: units.joined(masks, like.dtype) for level, units in flat.items()})


class Count:
    """The size of a program as a function of three flat mask vectors; built once for each shape of the network.

    A layer's size is a constant, times the channels it reads, times those it makes, times the mask of the candidate it
    belongs to. A prunable convolution's parameters are counted weight by weight instead.
    """

    def __init__(
        self, plan: Plan, layers: Iterable[Layer], kept: Mapping[str, Sequence[int]], flat: Mapping[str, Units],
        metric: str,
    ) -> None:  # fmt: skip
        self.metric = metric
        self.device = flat["filter"].sizes.device
        channels = _Channels(plan, kept, flat["filter"])
        owners = _Owners(kept, flat["operation"])
        terms, weights = _Products(), _Weights()
        for layer in layers:
            reads = plan.reads(layer)
            owner = owners.place(layer)
            for constant, inputs, outputs in products(plan, layer, metric):
                terms.add(constant, channels.groups(inputs), channels.groups(outputs), owner)
            if metric == "params" and layer.prunable:
                columns = None if layer.depthwise else channels.places(reads)
                weights.add(channels.places(layer.channels), columns, layer.weight_size or layer.kernel**2, owner)
        self.fixed = torch.tensor(channels.fixed, device=self.device)
        self.crossed = torch.tensor(channels.crossed, dtype=torch.long, device=self.device).view(-1, 2).T
        self.group = torch.tensor(channels.group, dtype=torch.long, device=self.device)
        self.group_total = len(channels.number)
        self.products = terms.tensors(self.device)
        self.weights = weights.tensors(self.device, one=len(channels.group)) if weights.rows else None

    def __call__(self, masks: Mapping[str, Tensor]) -> Tensor:
        """The size, a scalar.

        Args:
            masks: operation, filter and (for params) weight -> mask of all living units, in the order of the `Units`.
        """
        like = masks["filter"]
        one = like.new_ones(1)
        channels = torch.cat([like, self.fixed.to(like.dtype)])
        first, second = self.crossed
        channels = torch.cat([channels, channels[first] * channels[second]])
        owners = torch.cat([masks["operation"], one])
        sums = like.new_zeros(self.group_total).index_add(0, self.group, channels)
        part = self.products
        terms = part["constant"].to(like.dtype) * owners[part["owner"]]
        for side in ("inputs", "outputs"):
            widths = like.new_zeros(len(terms)).index_add(0, part[f"{side}_term"], sums[part[f"{side}_group"]])
            terms = terms * torch.where(part[f"{side}_none"], 1.0, widths)
        total = terms.sum()
        if self.weights is None:
            return total
        part = self.weights
        columns = torch.cat([channels, one]).index_select(0, part["column"])
        rows = like.new_zeros(len(part["row"])).index_add(0, part["row_of"], masks["weight"] * columns)
        return total + (rows * channels[part["row"]] * owners[part["owner"]]).sum()


def savings(count: Count, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Share of the size that goes with each operation and filter: the slope of its logarithm in their masks.

    Args:
        count: of a network.
        masks: level -> flat mask of all living units.

    Returns:
        operation, filter -> [K], at least zero; for a unit that is off, what would come with it alone.
    """
    open_ = {level: masks[level].detach().clone().requires_grad_() for level in GATED}
    with torch.enable_grad():
        size = count({**masks, **open_})
        slopes = torch.autograd.grad(size, list(open_.values()), materialize_grads=True)
    return {level: slope / size.detach() for level, slope in zip(open_, slopes, strict=True)}


class _Channels:
    """Places of channels in one vector: living filters first, then those of groups without a choice, always on.

    Behind them are the channels where two groups cross, each the product of two places before.
    """

    def __init__(self, plan: Plan, kept: Mapping[str, Sequence[int]], filters: Units) -> None:
        self.number: dict[str, int] = {}
        self.group: list[int] = []
        self.start: dict[str, int] = {}
        chosen = dict(zip(filters.choices, filters.counts, strict=True))
        others = {
            group: len(plan.living(group, kept))
            for group in plan.groups
            if group not in chosen and group not in plan.crossings
        }
        for name, count in (*chosen.items(), *others.items()):
            self.number[name], self.start[name] = len(self.number), len(self.group)
            self.group += [self.number[name]] * count
        self.fixed = [1.0] * sum(others.values())
        self.crossed: list[tuple[int, int]] = []
        for name, both in plan.crossings.items():
            first, second = (self.places((part,)) for part in both)
            self.number[name], self.start[name] = len(self.number), len(self.group)
            self.group += [self.number[name]] * (len(first) * len(second))
            self.crossed += product(first, second)

    def groups(self, names: tuple[str, ...]) -> list[int]:
        return [self.number[name] for name in names]

    def places(self, names: tuple[str, ...]) -> list[int]:
        number = self.number
        ends = [*self.start.values(), len(self.group)]
        return [place for name in names for place in range(self.start[name], ends[number[name] + 1])]


class _Owners:
    """Places of candidates in the operation vector; what is nobody's is at its end, always on."""

    def __init__(self, kept: Mapping[str, Sequence[int]], operations: Units) -> None:
        self.nobody = sum(operations.counts)
        self.places: dict[tuple[str, int], int] = {}
        start = 0
        for name, count in zip(operations.choices, operations.counts, strict=True):
            for offset, unit in enumerate(kept.get(name, range(count))):
                self.places[name, unit] = start + offset
            start += count

    def place(self, layer: Layer) -> int:
        return self.places[layer.owner] if layer.owner else self.nobody


class _Products:
    def __init__(self) -> None:
        self.constant: list[float] = []
        self.owner: list[int] = []
        self.sides: dict[str, tuple[list[int], list[int], list[bool]]] = {
            "inputs": ([], [], []), "outputs": ([], [], []),
        }  # fmt: skip

    def add(self, constant: float, inputs: list[int], outputs: list[int], owner: int) -> None:
        for side, groups in (("inputs", inputs), ("outputs", outputs)):
            terms, found, none = self.sides[side]
            terms += [len(self.constant)] * len(groups)
            found += groups
            none.append(not groups)
        self.constant.append(constant)
        self.owner.append(owner)

    def tensors(self, device: torch.device) -> dict[str, Tensor]:
        found: dict[str, Any] = {
            "constant": torch.tensor(self.constant, dtype=torch.double, device=device),
            "owner": torch.tensor(self.owner, dtype=torch.long, device=device),
        }
        for side, (terms, groups, none) in self.sides.items():
            found[f"{side}_term"] = torch.tensor(terms, dtype=torch.long, device=device)
            found[f"{side}_group"] = torch.tensor(groups, dtype=torch.long, device=device)
            found[f"{side}_none"] = torch.tensor(none, dtype=torch.bool, device=device)
        return found


class _Weights:
    """Every living weight by its row (a filter of a layer) and its column (a channel that it reads)."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.owner: list[int] = []
        self.columns: list[list[int] | None] = []
        self.repeats: list[tuple[int, int]] = []

    def add(self, rows: list[int], columns: list[int] | None, taps: int, owner: int) -> None:
        self.rows += rows
        self.owner += [owner] * len(rows)
        self.columns.append(columns)
        self.repeats.append((len(rows), taps))

    def tensors(self, device: torch.device, one: int) -> dict[str, Tensor]:
        """`one` is the place of a channel that is always on, for depth-wise convolutions, which read but one."""
        parts, lengths = [], []
        for columns, (rows, taps) in zip(self.columns, self.repeats, strict=True):
            read = torch.tensor([one] if columns is None else columns, dtype=torch.int32)
            parts.append(read.repeat_interleave(taps).repeat(rows))
            lengths += [len(read) * taps] * rows
        return {
            "column": torch.cat(parts).to(device),
            "row_of": torch.arange(len(lengths), dtype=torch.int32)
            .repeat_interleave(torch.tensor(lengths), output_size=sum(lengths))
            .to(device),
            "row": torch.tensor(self.rows, dtype=torch.long, device=device),
            "owner": torch.tensor(self.owner, dtype=torch.long, device=device),
        }
