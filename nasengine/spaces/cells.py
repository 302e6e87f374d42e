"""The cells space: DARTS-like cells, any number of candidates on each connection, each cell for itself.

Source: DARTS (arXiv 1806.09055) for candidates and wiring, GOLD-NAS (arXiv 2007.03331) for "any number of operations,
every cell its own". Differs: a node keeps its own width and any set of channels, so a skip or a pool between two nodes
is an `align` (channels matched by their number in the full space).
"""

from __future__ import annotations

from nasengine.architecture import Plan
from nasengine.config import CellsSpace
from nasengine.spaces.builder import INNER_FLOOR, WIDTH_FLOOR, Builder


def plan(space: CellsSpace, *, image_size: int, channels: int, classes: int, cuts: tuple[int, ...]) -> Plan:
    """The full network of the space.

    Args:
        space: its part of the configuration.
        image_size: side of the images in pixels.
        channels: 1 for grey images, 3 for colour.
        classes: number of classes.
        cuts: numbers of cells after which an early stage ends with an exit of its own.
    """
    build = _Cells(image_size, channels, classes, cuts)
    width = space.channels
    before = last = build.stem(3 * width)
    reduced = False
    for number in range(space.cells):
        build.block = number + 1
        reduction = number in space.reduction_places
        width *= 2 if reduction else 1
        cell = build.cell(space, f"c{number}", before, last, width, reduction=reduction, after_reduction=reduced)
        before, last, reduced = last, cell, reduction
        build.closes(number + 1, last)
    build.block = space.cells + 1
    build.exit("head", last)
    return build.plan("cells", ["stem", *(f"cell {number}" for number in range(space.cells)), "head"])


class _Cells(Builder):
    """Adds cells of the space to a plan."""

    def cell(
        self, space: CellsSpace, name: str, before: str, last: str, width: int, *, reduction: bool,
        after_reduction: bool,
    ) -> str:  # fmt: skip
        """Two inputs, then nodes that may read the inputs and all earlier nodes; the output is all nodes."""
        states = []
        for index, source in enumerate((before, last)):
            group = self.group(f"{name}_s{index}", width, WIDTH_FLOOR)
            halved = after_reduction and index == 0
            op = "factorized_reduce" if halved else "conv"
            self.add(f"{group}_conv", op, [self.relu(source)], [group], stride=1 + halved, prunable=True)
            self.add(f"{group}_bn", "batch_norm", [f"{group}_conv"], [group])
            states.append(self.add(group, "gate", [f"{group}_bn"], [group]))
        for index in range(space.nodes):
            states.append(self.node(space, f"{name}_n{index}", states, width, stride_inputs=reduction))
        return self.add(
            f"{name}_out", "concat", states[2:], [group for state in states[2:] for group in self.channels_of(state)]
        )

    def node(self, space: CellsSpace, name: str, states: list[str], width: int, *, stride_inputs: bool) -> str:
        """The sum of all live candidates on all connections, then the gate of the node's channels."""
        choice = f"{name}_ops"
        group = self.group(name, width, WIDTH_FLOOR)
        ends: list[str] = []
        labels: list[str] = []
        for index, source in enumerate(states):
            stride = 2 if stride_inputs and index < 2 else 1
            short = source.split("_")[-1]
            for kind in space.candidates:
                first = self.candidate(kind, f"{name}_{short}_{kind}", source, group, stride)
                self.owned(first, choice, len(labels))
                labels.append(f"{short} {kind}")
                ends.append(f"{name}_{short}_{kind}")
        self.operations(choice, labels)
        return self.add(name, "mix", ends, [group])

    def candidate(self, kind: str, name: str, source: str, group: str, stride: int) -> int:
        """Adds one candidate; returns the number of its first layer."""
        if kind in ("avg_pool_3x3", "max_pool_3x3"):
            aligned = self.aligned(source, group)
            first = len(self.layers)
            self.add(name, kind.removesuffix("_3x3"), [aligned], [group], kernel=3, stride=stride)
        elif kind == "skip_connect" and stride == 1:
            aligned = self.aligned(source, group)
            first = len(self.layers)
            self.add(name, "align", [aligned], [group])
        else:
            relu = self.relu(source)  # shared, so it is nobody's
            first = len(self.layers)
            if kind == "skip_connect":
                self.add(f"{name}_conv", "factorized_reduce", [relu], [group], stride=2, prunable=True)
                self.add(name, "batch_norm", [f"{name}_conv"], [group])
            else:
                self.convolutions(kind, name, relu, self.channels_of(source), group, stride)
        return first

    def aligned(self, source: str, group: str) -> str:
        """The one copy of a state in a node's channels, which skip and pools share; nobody's, as the rectified one."""
        name = f"{group}_{source.split('_')[-1]}_aligned"
        return name if self.has(name) else self.add(name, "align", [source], [group])

    def convolutions(
        self, kind: str, name: str, relu: str, source_groups: tuple[str, ...], group: str, stride: int
    ) -> None:
        """ReLU, depth-wise, point-wise, batch norm; separable ones twice, with an inner width of their own."""
        kernel, dilation = int(kind[-1]), 2 if kind.startswith("dil") else 1
        if kind.startswith("sep"):
            mid = self.group(f"{name}_mid", sum(self.groups[source] for source in source_groups), INNER_FLOOR)
            self.add(
                f"{name}_dw1", "conv", [relu], list(source_groups), kernel=kernel, stride=stride, depthwise=True,
                prunable=True,
            )  # fmt: skip
            self.add(f"{name}_pw1", "conv", [f"{name}_dw1"], [mid], prunable=True)
            self.add(f"{name}_bn1", "batch_norm", [f"{name}_pw1"], [mid])
            self.add(mid, "gate", [f"{name}_bn1"], [mid])
            relu, source_groups, stride = self.add(f"{mid}_relu", "relu", [mid], [mid]), (mid,), 1
        self.add(
            f"{name}_dw", "conv", [relu], list(source_groups), kernel=kernel, stride=stride, dilation=dilation,
            depthwise=True, prunable=True,
        )  # fmt: skip
        self.add(f"{name}_pw", "conv", [f"{name}_dw"], [group], prunable=True)
        self.add(name, "batch_norm", [f"{name}_pw"], [group])
