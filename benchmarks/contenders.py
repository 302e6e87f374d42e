"""What a user could have instead of a search: networks of a given size that cost nothing to find."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from nasengine import export
from nasengine.architecture import Plan
from nasengine.compact import Network
from nasengine.device import generator
from nasengine.errors import EngineError
from nasengine.flat import LEVELS
from nasengine.retraining import random_decision
from nasengine.supernet import Kept, Supernet, architecture, everything

HALVINGS = 20
"""Steps of a bisection over a width factor."""

Contender = tuple[nn.Module, Mapping[str, Tensor], dict[str, int]]
"""A network, masks of its pruned weights by state-dict name, its size by metric."""


def random_network(plan: Plan, header: Mapping[str, Any], metric: str, target: int, seed: int) -> Contender:
    """A network of the space in which every unit is as likely as any other of its level."""
    stream = generator("cpu", seed, "random network")
    kept = random_decision(plan, stream, bounds={metric: target}, granularities=LEVELS)
    if kept is None:
        raise EngineError(f"no random network has {target:,} {metric} or less; raise the size")
    return _compact(plan, kept, header)


def shrunk_network(plan: Plan, header: Mapping[str, Any], metric: str, target: int, _seed: int) -> Contender:
    """The full network with the same share of the channels everywhere: all operations, all weights."""
    groups = [choice for choice in plan.choices if choice.granularity == "filter"]

    def at(widths: Sequence[int]) -> Kept:
        narrow = {c.name: torch.arange(c.units) < width for c, width in zip(groups, widths, strict=True)}
        return everything(plan) | narrow

    widths = _widest([c.units for c in groups], 1.0, lambda w: architecture(plan, at(w)).size(metric) <= target)
    return _compact(plan, at(widths), header)


def narrow_resnet(plan: Plan, header: Mapping[str, Any], metric: str, target: int, _seed: int) -> Contender:
    """The ResNet for small images (He et al. 2016, sec. 4.2) with one block a stage, as wide as fits."""

    def at(widths: Sequence[int]) -> tuple[nn.Module, dict[str, int]]:
        network = ResNet(widths, len(header["classes"]))
        return network, _sizes(network, plan.image_size)

    network, sizes = at(_widest((16, 16, 32, 32, 64, 64), 8.0, lambda widths: at(widths)[1][metric] <= target))
    return network, {}, sizes


CONTENDERS: dict[str, Callable[[Plan, Mapping[str, Any], str, int, int], Contender]] = {
    "random": random_network,
    "shrunk": shrunk_network,
    "ResNet": narrow_resnet,
}


class ResNet(nn.Module):
    """Three stages of one basic block each, the later two at half the side; projections where shapes change.

    Args:
        widths: for each stage the inner width of its block, and its own.
        classes: number of logits.
    """

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        inner, outer = widths[::2], widths[1::2]
        self.stem = _conv(3, outer[0], 1)
        self.blocks = nn.ModuleList(
            _Block(reads, middle, makes, 1 if number == 0 else 2)
            for number, (reads, middle, makes) in enumerate(zip((outer[0], *outer[:-1]), inner, outer, strict=True))
        )
        self.classifier = nn.Linear(outer[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, 3, S, S]."""
        x = functional.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.classifier(x.mean(dim=(2, 3)))


class _Block(nn.Module):
    def __init__(self, inputs: int, middle: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = _conv(inputs, middle, stride), _conv(middle, outputs, 1)
        self.stride = stride
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _conv(inputs, outputs, 1, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        passed = x[:, :, :: self.stride, :: self.stride]  # not a 1x1 of stride 2: see `compact.factorized_reduce`
        return functional.relu(self.second(functional.relu(self.first(x))) + self.shortcut(passed))


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


def _widest(full: Sequence[int], highest: float, fits: Callable[[Sequence[int]], bool]) -> list[int]:
    """The largest common share of these widths that fits; then one channel more wherever it fits, from the last on.

    Rounded widths jump together: without the channels on top a small network stays far below its size.
    """

    def at(share: float) -> list[int]:
        return [max(1, round(share * width)) for width in full]

    low, high = 0.0, highest
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(at(middle)) else (low, middle)
    widths = at(low)
    for place in reversed(range(len(widths))):
        trial = [width + (number == place) for number, width in enumerate(widths)]
        if trial[place] <= highest * full[place] and fits(trial):
            widths = trial
    return widths
