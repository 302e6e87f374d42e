"""The chain space: MobileNet-like layers in a row, each a choice of inverted bottlenecks (MBConv) and a skip.

Source: MobileNetV2 (arXiv 1801.04381) for the layer, ProxylessNAS (arXiv 1812.00332) for kernels 3/5/7 times expansions
3/6 and for a layer that may be left out. Differs: the skip is a candidate beside the MBConvs, and any number of
candidates may stay. A layer that keeps its skip alone is gone (depth). Layers between two reductions share one set of
channels (their sums tie them); the inner width of each candidate is free.

On request attentions stand beside the MBConvs, so that a layer which keeps its skip, an attention and an MBConv is a
transformer's block with both its parts side by side (arXiv 2302.05442), the MBConv its feed-forward part.
"""

from __future__ import annotations

from nasengine.architecture import Plan
from nasengine.config import MOST_SIDE, ChainSpace
from nasengine.spaces.builder import INNER_FLOOR, WIDTH_FLOOR, Builder

HEAD_WIDTH = 4
"""Channels of the last 1x1 convolution, in those of the last layer."""
SQUEEZE = 4
"""A squeeze-excite squeezes to this fraction of the channels that the candidate reads."""
HEAD_PLACES = 16
"""Channels of each head of an attention."""


def plan(space: ChainSpace, *, image_size: int, channels: int, classes: int, cuts: tuple[int, ...]) -> Plan:
    """The full network of the space.

    Args:
        space: its part of the configuration.
        image_size: side of the images in pixels.
        channels: 1 for grey images, 3 for colour.
        classes: number of classes.
        cuts: numbers of layers after which an early stage ends with an exit of its own.
    """
    build = _Chain(image_size, channels, classes, cuts)
    width, side = space.channels, image_size
    last = build.relu(build.stem(width))
    group = ""
    for number in range(space.layers):
        build.block = number + 1
        reduction = number in space.reduction_places
        width, side = (2 * width, -(-side // 2)) if reduction else (width, side)
        new = reduction or not group
        if new:
            group = build.group(f"width{number}", width, WIDTH_FLOOR)
        last = build.layer(space, f"l{number}", last, group, side, stride=1 + reduction, skip=not new)
        build.closes(number + 1, last)
    build.block = space.layers + 1
    build.head(last, HEAD_WIDTH * width)
    return build.plan("chain", ["stem", *(f"layer {number}" for number in range(space.layers)), "head"])


class _Chain(Builder):
    """Adds layers of the space to a plan."""

    def layer(
        self, space: ChainSpace, name: str, source: str, group: str, side: int, *, stride: int, skip: bool
    ) -> str:
        """The sum of all live candidates, a map of so many pixels a side."""
        choice = f"{name}_ops"
        labels: list[str] = []
        ends: list[str] = []

        def candidate(label: str, first: int) -> None:
            self.owned(first, choice, len(labels))
            labels.append(label)
            ends.append(f"{name}_{label}")

        if skip:
            first = len(self.layers)
            self.add(f"{name}_skip", "align", [source], [group])
            candidate("skip", first)
        for kernel in space.kernels:
            for expansion in space.expansions:
                label = f"mbconv_{kernel}x{kernel}_e{expansion}"
                first = len(self.layers)
                self.mbconv(f"{name}_{label}", source, group, kernel, expansion, stride, excite=space.squeeze_excite)
                candidate(label, first)
        for heads in space.attention if side <= MOST_SIDE else ():
            label = f"attention_h{heads}"
            first = len(self.layers)
            self.attention(f"{name}_{label}", source, group, heads, stride)
            candidate(label, first)
        self.operations(choice, labels, optional=skip)
        return self.add(name, "mix", ends, [group])

    def mbconv(
        self, name: str, source: str, group: str, kernel: int, expansion: int, stride: int, *, excite: bool
    ) -> None:
        """1x1 to the inner width, depth-wise, 1x1 to the layer's width; its inner gate stands behind the second norm.

        Nothing between the two 1x1 convolutions mixes channels, so one gate, at the end, silences an inner channel.
        """
        read = sum(self.groups[part] for part in self.channels_of(source))
        inner = self.group(f"{name}_inner", expansion * read, INNER_FLOOR)
        self.add(f"{name}_expand", "conv", [source], [inner], prunable=True)
        self.add(f"{name}_bn1", "batch_norm", [f"{name}_expand"], [inner])
        self.add(f"{name}_relu1", "relu", [f"{name}_bn1"], [inner])
        self.add(
            f"{name}_dw", "conv", [f"{name}_relu1"], [inner], kernel=kernel, stride=stride, depthwise=True,
            prunable=True,
        )  # fmt: skip
        self.add(f"{name}_bn2", "batch_norm", [f"{name}_dw"], [inner])
        self.add(inner, "gate", [f"{name}_bn2"], [inner])
        last = self.add(f"{name}_relu2", "relu", [inner], [inner])
        if excite:
            last = self.squeeze_excite(name, last, inner, max(4, read // SQUEEZE))
        self.add(f"{name}_project", "conv", [last], [group], prunable=True)
        self.add(name, "batch_norm", [f"{name}_project"], [group])

    def attention(self, name: str, source: str, group: str, heads: int, stride: int) -> None:
        """Depth-wise 3x3, queries, keys and values by 1x1, attention of all positions to all, 1x1 to the layer's width.

        Source: CvT (arXiv 2103.15808) for the convolution before, which knows positions at any size and halves the
        image; LeViT (arXiv 2104.01136) for batch norms, a non-linearity behind and 16 channels a head. Heads, and
        places in all heads, are chosen. Queries and values are gated; of keys a zero query reads nothing.
        """
        count = self.group(f"{name}_heads", heads, INNER_FLOOR)
        places = self.group(f"{name}_places", HEAD_PLACES, INNER_FLOOR)
        inner = self.crossing(f"{name}_inner", count, places)
        read = list(self.channels_of(source))
        self.add(f"{name}_dw", "conv", [source], read, kernel=3, stride=stride, depthwise=True, prunable=True)
        for part in ("query", "key", "value"):
            self.add(f"{name}_{part}_conv", "conv", [f"{name}_dw"], [inner], prunable=True)
            self.add(f"{name}_{part}_bn", "batch_norm", [f"{name}_{part}_conv"], [inner])
        parts = [
            self.add(f"{name}_query", "gate", [f"{name}_query_bn"], [inner]),
            f"{name}_key_bn",
            self.add(f"{name}_value", "gate", [f"{name}_value_bn"], [inner]),
        ]
        self.add(f"{name}_attention", "attention", parts, [inner])
        self.add(f"{name}_relu", "relu", [f"{name}_attention"], [inner])
        self.add(f"{name}_join", "conv", [f"{name}_relu"], [group], prunable=True)
        self.add(name, "batch_norm", [f"{name}_join"], [group])

    def squeeze_excite(self, name: str, source: str, inner: str, squeezed: int) -> str:
        """Channels times a factor of 0 to 1 that follows from all channels' means (arXiv 1709.01507)."""
        narrow = f"{name}_squeezed"
        self.groups[narrow] = squeezed
        self.add(f"{name}_mean", "mean", [source], [inner])
        self.add(f"{name}_squeeze", "linear", [f"{name}_mean"], [narrow])
        self.add(f"{name}_relu3", "relu", [f"{name}_squeeze"], [narrow])
        self.add(f"{name}_attend", "linear", [f"{name}_relu3"], [inner])
        return self.add(f"{name}_excite", "excite", [source, f"{name}_attend"], [inner])

    def head(self, source: str, width: int) -> None:
        """A last 1x1 convolution before the classifier."""
        group = self.group("last", width, WIDTH_FLOOR)
        self.add("last_conv", "conv", [source], [group], prunable=True)
        self.add("last_bn", "batch_norm", ["last_conv"], [group])
        self.add(group, "gate", ["last_bn"], [group])
        self.exit("head", self.relu(group))
