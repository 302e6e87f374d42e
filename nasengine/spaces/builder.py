"""What every space needs to write its plan down: layers, channel groups and choices, collected front to back."""

from __future__ import annotations

import math
from dataclasses import replace

from nasengine.architecture import Choice, Layer, Plan

WIDTH_FLOOR, INNER_FLOOR = 0.25, 0.125
"""Shares of the channels between blocks, and of those inside of a candidate, that always stay (see DESIGN.md)."""


class Builder:
    """A plan under construction.

    Attributes:
        block: index of the block that is being written; what is added belongs to it.
    """

    def __init__(self, image_size: int, channels: int, classes: int, cuts: tuple[int, ...]) -> None:
        self.image_size, self.cuts = image_size, cuts
        self.layers: list[Layer] = []
        self.choices: list[Choice] = []
        self.groups = {"image": channels, "classes": classes}
        self.crossings: dict[str, tuple[str, str]] = {}
        self.block = 0
        self.exits: list[str] = []
        self.exit_blocks: list[int] = []
        self.add("image", "image", [], ["image"])

    def plan(self, space: str, blocks: list[str]) -> Plan:
        """The finished plan; `blocks` names stem, bodies and head."""
        return Plan(
            space=space,
            image_size=self.image_size,
            layers=tuple(self.layers),
            groups=self.groups,
            choices=tuple(self.choices),
            blocks=tuple(blocks),
            exits=tuple(self.exits),
            exit_blocks=tuple(self.exit_blocks),
            crossings=self.crossings,
        )

    def stem(self, width: int) -> str:
        """A 3x3 convolution of the image."""
        group = self.group("stem", width, WIDTH_FLOOR)
        self.add("stem_conv", "conv", ["image"], [group], kernel=3)
        self.add("stem_bn", "batch_norm", ["stem_conv"], [group])
        return self.add("stem", "gate", ["stem_bn"], [group])

    def closes(self, depth: int, last: str) -> None:
        """An exit behind the block number `depth` of the body, if a stage ends there."""
        if depth in self.cuts:
            self.exit(f"exit{len(self.exits) + 1}", last)

    def exit(self, name: str, source: str) -> str:
        """Global mean and a linear classifier: the end of a stage whose last block is the current one."""
        self.add(f"{name}_mean", "mean", [source], list(self.channels_of(source)))
        self.exits.append(self.add(name, "linear", [f"{name}_mean"], ["classes"]))
        self.exit_blocks.append(self.block + 1)
        return name

    def relu(self, source: str) -> str:
        """The one rectified copy of a value that all its readers share."""
        name = f"{source}_relu"
        if not self.has(name):
            self.add(name, "relu", [source], list(self.channels_of(source)))
        return name

    def group(self, name: str, width: int, floor: float) -> str:
        """A channel group whose filters are chosen."""
        self.groups[name] = width
        self.choices.append(
            Choice(name=name, granularity="filter", block=self.block, units=width, floor=math.ceil(floor * width))
        )
        return name

    def crossing(self, name: str, first: str, second: str) -> str:
        """A channel group that two others make: a channel for each pair of theirs."""
        self.groups[name], self.crossings[name] = self.groups[first] * self.groups[second], (first, second)
        return name

    def owned(self, first: int, choice: str, unit: int) -> None:
        """Layers from number `first` on live and die with a unit."""
        self.layers[first:] = [replace(layer, owner=(choice, unit)) for layer in self.layers[first:]]

    def operations(self, name: str, labels: list[str], *, optional: bool = False) -> None:
        """An operation choice over the candidates that were added for it."""
        self.choices.append(
            Choice(
                name=name,
                granularity="operation",
                block=self.block,
                units=len(labels),
                labels=tuple(labels),
                optional=optional,
            )
        )

    def has(self, name: str) -> bool:
        """Whether there is a layer of that name."""
        return any(layer.name == name for layer in reversed(self.layers))

    def channels_of(self, name: str) -> tuple[str, ...]:
        """Groups of a layer's output."""
        return next(layer.channels for layer in reversed(self.layers) if layer.name == name)

    def add(
        self, name: str, op: str, inputs: list[str], channels: list[str], *, kernel: int = 1, stride: int = 1,
        dilation: int = 1, depthwise: bool = False, prunable: bool = False,
    ) -> str:  # fmt: skip
        """One layer, and its weight choice if it is prunable."""
        layer = Layer(
            name=name, op=op, inputs=tuple(inputs), channels=tuple(channels), block=self.block, kernel=kernel,
            stride=stride, dilation=dilation, depthwise=depthwise, prunable=prunable,
        )  # fmt: skip
        self.layers.append(layer)
        if prunable:
            fan_in = 1 if depthwise else sum(self.groups[group] for group in self.channels_of(inputs[0]))
            units = sum(self.groups[group] for group in channels) * fan_in * kernel**2
            self.choices.append(Choice(name=layer.weights, granularity="weight", block=self.block, units=units))
        return name
