"""The cells space: DARTS-like cells, any number of candidates on each connection, each cell for itself.

Source: DARTS (arXiv 1806.09055) for candidates and wiring, GOLD-NAS (arXiv 2007.03331) for "any number of operations,
every cell its own". Differs: a node keeps its own width and any set of channels, so a skip or a pool between two nodes
is an `align` (channels matched by their number in the full space).
"""

from __future__ import annotations

import math
from dataclasses import replace

from nasengine.architecture import Choice, Layer, Plan
from nasengine.config import CellsSpace

WIDTH_FLOOR, MID_FLOOR = 0.25, 0.125
"""Shares of a node's and of a separable convolution's inner channels that always stay (see DESIGN.md, collapse)."""


def plan(space: CellsSpace, *, image_size: int, channels: int, classes: int, cuts: tuple[int, ...]) -> Plan:
    """The full network of the space.

    Args:
        space: its part of the configuration.
        image_size: side of the images in pixels.
        channels: 1 for grey images, 3 for colour.
        classes: number of classes.
        cuts: numbers of cells after which an early stage ends with an exit of its own.
    """
    return _Cells(space, image_size, channels, classes, cuts).built()


class _Cells:
    """Collects layers, groups and choices while walking front to back."""

    def __init__(self, space: CellsSpace, image_size: int, channels: int, classes: int, cuts: tuple[int, ...]) -> None:
        self.space, self.image_size, self.cuts = space, image_size, cuts
        self.layers: list[Layer] = []
        self.choices: list[Choice] = []
        self.groups = {"image": channels, "classes": classes}
        self.block = 0

    def built(self) -> Plan:
        space = self.space
        self.add("image", "image", [], ["image"])
        width = space.channels
        self.group("stem", 3 * width, WIDTH_FLOOR)
        self.add("stem_conv", "conv", ["image"], ["stem"], kernel=3)
        self.add("stem_bn", "batch_norm", ["stem_conv"], ["stem"])
        before = last = self.add("stem", "gate", ["stem_bn"], ["stem"])
        exits: list[str] = []
        exit_blocks: list[int] = []
        reduced = False
        for cell in range(space.cells):
            self.block = cell + 1
            reduction = cell in space.reduction_cells
            width *= 2 if reduction else 1
            before, last = (
                last,
                self.cell(f"c{cell}", before, last, width, reduction=reduction, after_reduction=reduced),
            )
            reduced = reduction
            if cell + 1 in self.cuts:
                exits.append(self.exit(f"exit{len(exits) + 1}", last))
                exit_blocks.append(cell + 2)
        self.block = space.cells + 1
        exits.append(self.exit("head", last))
        exit_blocks.append(space.cells + 2)
        return Plan(
            space="cells",
            image_size=self.image_size,
            layers=tuple(self.layers),
            groups=self.groups,
            choices=tuple(self.choices),
            blocks=("stem", *(f"cell {cell}" for cell in range(space.cells)), "head"),
            exits=tuple(exits),
            exit_blocks=tuple(exit_blocks),
        )

    def cell(self, name: str, before: str, last: str, width: int, *, reduction: bool, after_reduction: bool) -> str:
        """Two inputs, then nodes that may read the inputs and all earlier nodes; the output is all nodes."""
        states = []
        for index, source in enumerate((before, last)):
            group = self.group(f"{name}_s{index}", width, WIDTH_FLOOR)
            halved = after_reduction and index == 0
            self.add(
                f"{group}_conv",
                "factorized_reduce" if halved else "conv",
                [self.relu(source)],
                [group],
                stride=1 + halved,
                prunable=True,
            )
            self.add(f"{group}_bn", "batch_norm", [f"{group}_conv"], [group])
            states.append(self.add(group, "gate", [f"{group}_bn"], [group]))
        for index in range(self.space.nodes):
            states.append(self.node(f"{name}_n{index}", states, width, stride_inputs=reduction))
        return self.add(
            f"{name}_out", "concat", states[2:], [group for state in states[2:] for group in self.channels_of(state)]
        )

    def node(self, name: str, states: list[str], width: int, *, stride_inputs: bool) -> str:
        """The sum of all live candidates on all connections, then the gate of the node's channels."""
        choice = f"{name}_ops"
        group = self.group(name, width, WIDTH_FLOOR)
        ends: list[str] = []
        labels: list[str] = []
        for source_index, source in enumerate(states):
            stride = 2 if stride_inputs and source_index < 2 else 1
            for candidate in self.space.candidates:
                owner = (choice, len(labels))
                labels.append(f"{source.split('_')[-1]} {candidate}")
                ends.append(
                    self.candidate(
                        candidate, f"{name}_{source.split('_')[-1]}_{candidate}", source, group, stride, owner
                    )
                )
        self.choices.append(
            Choice(name=choice, granularity="operation", block=self.block, units=len(labels), labels=tuple(labels))
        )
        return self.add(name, "mix", ends, [group])

    def candidate(self, kind: str, name: str, source: str, group: str, stride: int, owner: tuple[str, int]) -> str:
        """Adds one candidate; returns its last layer."""
        first = len(self.layers)
        if kind == "skip_connect" and stride == 1:
            self.add(name, "align", [source], [group])
        elif kind == "skip_connect":
            relu = self.relu(source)
            first = len(self.layers)
            self.add(f"{name}_conv", "factorized_reduce", [relu], [group], stride=2, prunable=True)
            self.add(name, "batch_norm", [f"{name}_conv"], [group])
        elif kind in ("avg_pool_3x3", "max_pool_3x3"):
            self.add(f"{name}_align", "align", [source], [group])
            self.add(name, kind.removesuffix("_3x3"), [f"{name}_align"], [group], kernel=3, stride=stride)
        else:
            relu = self.relu(source)
            first = len(self.layers)
            self.convolutions(kind, name, relu, self.channels_of(source), group, stride)
        self.layers[first:] = [replace(layer, owner=owner) for layer in self.layers[first:]]
        return name

    def convolutions(
        self, kind: str, name: str, relu: str, source_groups: tuple[str, ...], group: str, stride: int
    ) -> None:
        """ReLU, depth-wise, point-wise, batch norm; separable ones twice, with an inner width of their own."""
        kernel, dilation = int(kind[-1]), 2 if kind.startswith("dil") else 1
        if kind.startswith("sep"):
            mid = self.group(f"{name}_mid", sum(self.groups[source] for source in source_groups), MID_FLOOR)
            self.add(
                f"{name}_dw1",
                "conv",
                [relu],
                list(source_groups),
                kernel=kernel,
                stride=stride,
                depthwise=True,
                prunable=True,
            )
            self.add(f"{name}_pw1", "conv", [f"{name}_dw1"], [mid], prunable=True)
            self.add(f"{name}_bn1", "batch_norm", [f"{name}_pw1"], [mid])
            self.add(mid, "gate", [f"{name}_bn1"], [mid])
            relu, source_groups, stride = self.add(f"{mid}_relu", "relu", [mid], [mid]), (mid,), 1
        self.add(
            f"{name}_dw",
            "conv",
            [relu],
            list(source_groups),
            kernel=kernel,
            stride=stride,
            dilation=dilation,
            depthwise=True,
            prunable=True,
        )
        self.add(f"{name}_pw", "conv", [f"{name}_dw"], [group], prunable=True)
        self.add(name, "batch_norm", [f"{name}_pw"], [group])

    def exit(self, name: str, source: str) -> str:
        """Global mean and a linear classifier."""
        self.add(f"{name}_mean", "mean", [source], list(self.channels_of(source)))
        return self.add(name, "linear", [f"{name}_mean"], ["classes"])

    def relu(self, source: str) -> str:
        """The one rectified copy of a state that all its readers share."""
        name = f"{source}_relu"
        if not any(layer.name == name for layer in reversed(self.layers)):
            self.add(name, "relu", [source], list(self.channels_of(source)))
        return name

    def group(self, name: str, width: int, floor: float) -> str:
        self.groups[name] = width
        self.choices.append(
            Choice(name=name, granularity="filter", block=self.block, units=width, floor=math.ceil(floor * width))
        )
        return name

    def channels_of(self, name: str) -> tuple[str, ...]:
        return next(layer.channels for layer in reversed(self.layers) if layer.name == name)

    def add(
        self, name: str, op: str, inputs: list[str], channels: list[str], *, kernel: int = 1, stride: int = 1,
        dilation: int = 1, depthwise: bool = False, prunable: bool = False,
    ) -> str:  # fmt: skip
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
