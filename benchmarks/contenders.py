"""What a user could have instead of a search: networks of a given size that cost nothing to find."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from nasengine import export
from nasengine.architecture import Plan
from nasengine.compact import Network
from nasengine.device import generator
from nasengine.retraining import random_decision
from nasengine.supernet import Kept, Supernet, architecture, everything

LEVELS = ("operation", "filter", "weight")
HALVINGS = 40
"""Steps of a bisection over a width factor."""

Contender = tuple[nn.Module, Mapping[str, Tensor], dict[str, int]]
"""A network, masks of its pruned weights by state-dict name, its size by metric."""


def random_network(plan: Plan, header: Mapping[str, Any], metric: str, target: int, seed: int) -> Contender:
    """A network of the space in which every unit is as likely as any other of its level."""
    stream = generator("cpu", seed, "random network")
    kept = random_decision(plan, stream, bounds={metric: target}, granularities=LEVELS)
    if kept is None:
        raise SystemExit(f"no random network has {target:,} {metric} or less")
    return _compact(plan, kept, header)


def shrunk_network(plan: Plan, header: Mapping[str, Any], metric: str, target: int, _seed: int) -> Contender:
    """The full network with the same share of the channels everywhere: all operations, all weights."""

    def at(factor: float) -> Kept:
        kept = everything(plan)
        for choice in plan.choices:
            if choice.granularity == "filter":
                kept[choice.name] = torch.arange(choice.units) < max(1, round(factor * choice.units))
        return kept

    factor = _largest(lambda factor: architecture(plan, at(factor)).size(metric) <= target)
    return _compact(plan, at(factor), header)


def narrow_resnet(plan: Plan, header: Mapping[str, Any], metric: str, target: int, _seed: int) -> Contender:
    """The ResNet for small images (He et al. 2016, sec. 4.2) with one block a stage, as wide as fits."""

    def at(factor: float) -> tuple[nn.Module, dict[str, int]]:
        network = ResNet([max(1, round(factor * width)) for width in (16, 32, 64)], len(header["classes"]))
        return network, _sizes(network, plan.image_size)

    factor = _largest(lambda factor: at(factor)[1][metric] <= target, highest=8.0)
    network, sizes = at(factor)
    return network, {}, sizes


CONTENDERS: dict[str, Callable[[Plan, Mapping[str, Any], str, int, int], Contender]] = {
    "random": random_network,
    "shrunk": shrunk_network,
    "ResNet": narrow_resnet,
}


class ResNet(nn.Module):
    """Three stages of one basic block each, the later two at half the side; projections where shapes change."""

    def __init__(self, widths: list[int], classes: int) -> None:
        super().__init__()
        self.stem = _conv(3, widths[0], 1)
        inputs = (widths[0], *widths)
        self.blocks = nn.ModuleList(_Block(inputs[i], widths[i], 1 if i == 0 else 2) for i in range(len(widths)))
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, 3, S, S]."""
        x = functional.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.classifier(x.mean(dim=(2, 3)))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = _conv(inputs, outputs, stride), _conv(outputs, outputs, 1)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _conv(inputs, outputs, stride, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.second(functional.relu(self.first(x))) + self.shortcut(x))


def _conv(inputs: int, outputs: int, stride: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)
    )


def _compact(plan: Plan, kept: Kept, header: Mapping[str, Any]) -> Contender:
    found = architecture(plan, kept)
    net = Supernet(plan, Supernet.born(plan, generator("cpu", 0, "weights")).nursery, dict(kept))
    network = Network({**found.to_json(), **header})
    return network, export.weight_masks(net, found), {"params": found.params, "macs": found.macs}


def _sizes(network: nn.Module, side: int) -> dict[str, int]:
    """Parameters, and multiply-adds for one image."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network.eval()(torch.zeros(1, 3, side, side))
    params = sum(parameter.numel() for parameter in network.parameters())
    return {"params": params, "macs": counter.get_total_flops() // 2}


def _largest(fits: Callable[[float], bool], highest: float = 1.0) -> float:
    """The largest factor up to `highest` that fits, to a hair; sizes grow with it."""
    low, high = 0.0, highest
    if fits(high):
        return high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
