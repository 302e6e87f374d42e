"""Networks as plain data: the Plan of a space (everything still open) and the Architecture found in it (nothing open).

A `Plan` lists the layers of the full space in topological order. Channels are named by *group*: all layers that are
added together or read one another channel by channel carry the same group, so that one filter choice decides for
all of them. `lowered` turns a plan and a decision into an `Architecture`: only live layers, real widths, no gates.
Sizes are counted here and nowhere else. No torch, so that a form can ask for the reachable range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nasengine.guide import Guide, features
from nasengine.sizes import LATENCY

Kept = Mapping[str, Sequence[int]]
"""Operation or filter choice -> kept units in rising order. A choice that is not named keeps all."""

Nonzero = Callable[[str, Sequence[int], Sequence[int]], int]
"""(layer, kept output channels, kept input channels) -> number of weights that are not pruned."""

Product = tuple[float, tuple[str, ...], tuple[str, ...]]
"""(constant, groups read, groups made): the constant times the widths of both sides; no group stands for one."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One open decision: which of its units stay.

    Attributes:
        granularity: operation, filter or weight.
        block: index of the block (stem, cell, head) that it belongs to.
        floor: it always keeps its best `floor` units.
        labels: what each unit is called; only for operations.
        optional: whether it may end with nothing but a skip: the layer is then gone (depth).
    """

    name: str
    granularity: str
    block: int
    units: int
    floor: int = 1
    labels: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True)
class Cost:
    """Part of what a module takes: a number for each pair of channels of some groups; no group stands for one."""

    metric: str
    each: int
    channels: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One step of the full network.

    Attributes:
        op: image, conv, factorized_reduce, batch_norm, gate, relu, max_pool, avg_pool, align, mix, concat, mean,
            linear, excite, attention or module.
            `gate` multiplies by the mask of its group; `align` reads the channels of one group as those of another;
            `mix` adds candidates, each under its operation mask, and gates the sum; `excite` multiplies its first
            input, channel by channel, by the sigmoid of its second; `attention` reads queries, keys and values, all
            of one group that heads and places in a head make (`Plan.crossings`); `module` is a layer of a library's
            model, of which only the costs are known here: `inputs` merely say that it runs if its readers do.
        channels: groups of the output, concatenated.
        owner: the (operation choice, unit) it lives and dies with.
        prunable: whether a weight choice of the same name plus ``_weights`` exists.
        reads: of a module, groups of what its weight [channels, reads, *taps] reads.
        taps: of a module, the shape of its weight beyond channels; nothing if it has no such weight.
        positions: of a module, places in the image at which it computes.
        costs: of a module, all besides that weight.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    channels: tuple[str, ...]
    block: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    depthwise: bool = False
    owner: tuple[str, int] | None = None
    prunable: bool = False
    reads: tuple[str, ...] = ()
    taps: tuple[int, ...] | None = None
    positions: int = 0
    costs: tuple[Cost, ...] = ()

    @property
    def weights(self) -> str:
        """Name of its weight choice."""
        return f"{self.name}_weights"

    @property
    def weight_size(self) -> int:
        """Of a module: numbers in its weight for each pair of channels."""
        return 0 if self.taps is None else math.prod(self.taps)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The full space.

    Attributes:
        groups: channel group -> full width.
        crossings: channel group that two others make, such as heads and the width of a head -> those two: it has a
            channel for each pair of theirs, those of the second one after the other.
        exits: name of the logits layer of each stage, front to back; the last is the network's own.
        exit_blocks: number of blocks that each exit's stage contains.
        guide: what things cost in time, once that is known; without it no time is counted.
    """

    space: str
    image_size: int
    layers: tuple[Layer, ...]
    groups: Mapping[str, int]
    choices: tuple[Choice, ...]
    blocks: tuple[str, ...]
    exits: tuple[str, ...]
    exit_blocks: tuple[int, ...]
    guide: Guide | None = None
    crossings: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @cached_property
    def layer(self) -> dict[str, Layer]:
        """Layers by name."""
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def choice(self) -> dict[str, Choice]:
        """Choices by name."""
        return {choice.name: choice for choice in self.choices}

    @cached_property
    def ends(self) -> frozenset[str]:
        """Last layers of the candidates, those that a `mix` adds."""
        return frozenset(source for layer in self.layers if layer.op == "mix" for source in layer.inputs)

    @cached_property
    def weighs(self) -> dict[str, str]:
        """Weight choice -> the convolution whose weights it decides on."""
        return {layer.weights: layer.name for layer in self.layers if layer.prunable}

    @cached_property
    def active(self) -> dict[str, frozenset[int]]:
        """Operation choice -> units that compute something new: those with a convolution, so no skips and no pools."""
        found: dict[str, set[int]] = {c.name: set() for c in self.choices if c.granularity == "operation"}
        for layer in self.layers:
            if layer.op == "conv" and layer.owner is not None:
                found[layer.owner[0]].add(layer.owner[1])
        return {name: frozenset(units) for name, units in found.items()}

    @cached_property
    def edges(self) -> dict[str, list[list[int]]]:
        """Operation choice -> its units by the value that they read: the candidates of each connection."""
        found: dict[str, dict[str, list[int]]] = {c.name: {} for c in self.choices if c.granularity == "operation"}
        seen: set[tuple[str, int]] = set()
        for layer in self.layers:
            if layer.owner is None or layer.owner in seen:
                continue
            seen.add(layer.owner)
            source = self.layer[layer.inputs[0]]
            while source.owner is None and source.op in ("relu", "align"):  # what candidates share is nobody's
                source = self.layer[source.inputs[0]]
            found[layer.owner[0]].setdefault(source.name, []).append(layer.owner[1])
        return {name: list(edges.values()) for name, edges in found.items()}

    @cached_property
    def skips(self) -> frozenset[str]:
        """Last layers of the candidates that pass on what they read."""

        def passes(layer: Layer) -> bool:
            return layer.op == "align" or (
                layer.op == "batch_norm" and self.layer[layer.inputs[0]].op == "factorized_reduce"
            )

        return frozenset(name for name in self.ends if passes(self.layer[name]))

    @cached_property
    def guarded(self) -> list[list[str]]:
        """For each block its operation choices that must not all end with skips and pools; empty if one may."""
        blocks: list[list[str]] = [[] for _ in self.blocks]
        for choice in self.choices:
            if choice.granularity == "operation" and self.active[choice.name] and not choice.optional:
                blocks[choice.block].append(choice.name)
        return blocks

    @cached_property
    def sides(self) -> dict[str, int]:
        """Side of each layer's output in pixels."""
        return spatial_sizes(
            ({"name": x.name, "op": x.op, "inputs": x.inputs, "stride": x.stride} for x in self.layers), self.image_size
        )

    def reads(self, layer: Layer) -> tuple[str, ...]:
        """Groups of what a layer reads, of its first input."""
        if layer.op == "module" or not layer.inputs:
            return layer.reads
        return self.layer[layer.inputs[0]].channels

    def groups_of(self, layer: Layer) -> set[str]:
        """All groups that a layer's size depends on, those that cross in the place of their crossing."""
        sides = [layer.channels, layer.reads, *(side for cost in layer.costs for side in (cost.channels, cost.reads))]
        named = {group for side in sides for group in side}
        return {part for group in named for part in self.crossings.get(group, (group,))}

    def width(self, name: str) -> int:
        """Channels of a layer's output in the full space."""
        return sum(self.groups[group] for group in self.layer[name].channels)

    def heads(self, layer: Layer) -> tuple[str, str]:
        """Of an attention: the group of its heads and that of the places in each."""
        return self.crossings[layer.channels[0]]

    def living(self, group: str, kept: Kept) -> Sequence[int]:
        """Kept channels of a group."""
        if group not in self.crossings:
            return kept.get(group, range(self.groups[group]))
        first, second = self.crossings[group]
        size, inner = self.groups[second], self.living(second, kept)
        return [size * one + other for one in self.living(first, kept) for other in inner]

    def indices(self, groups: Iterable[str], kept: Kept) -> list[int]:
        """Kept channels of concatenated groups, counted in the full concatenation."""
        found: list[int] = []
        start = 0
        for group in groups:
            found += [start + channel for channel in self.living(group, kept)]
            start += self.groups[group]
        return found

    def alignment(self, layer: Layer, kept: Kept) -> list[int]:
        """For each kept output channel of an `align`: its place among the source's kept ones, -1 if it has none."""
        source = self.indices(self.layer[layer.inputs[0]].channels, kept)
        place = {channel: index for index, channel in enumerate(source)}
        return [place.get(channel, -1) for channel in self.indices(layer.channels, kept)]

    def program(self, exit_: str, kept: Kept | None = None) -> list[Layer]:
        """The layers that `exit_` needs, in order, when only `kept` candidates are alive."""
        alive = {name: set(units) for name, units in (kept or {}).items()}
        needed = {exit_}
        for layer in reversed(self.layers):
            if layer.name in needed:
                needed.update(source for source in layer.inputs if _alive(self.layer[source], alive, layer))
        return [layer for layer in self.layers if layer.name in needed]

    def choices_until(self, blocks: int) -> list[Choice]:
        """Choices of the first `blocks` blocks."""
        return [choice for choice in self.choices if choice.block < blocks]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A concrete network: ``architecture.json``, which ``model.py`` builds.

    Attributes:
        layers: JSON-able mappings with name, op, inputs and the numbers that the operation needs.
        kept: the decision, choice -> kept units (operations and filters).
        sources: layer -> (kept output channels, kept input channels) in the full space; for taking weights over.
        nanoseconds: that it should take for one image by the plan's guide; zero without one.
    """

    space: str
    image_size: int
    layers: tuple[Mapping[str, Any], ...]
    output: str
    kept: Mapping[str, Sequence[int]]
    sources: Mapping[str, tuple[Sequence[int], Sequence[int]]] = field(repr=False)
    nanoseconds: int = 0

    def to_json(self) -> dict[str, Any]:
        """What is stored: all but `sources` and time, which belong to the search."""
        return {
            "format": 1,
            "space": self.space,
            "image_size": self.image_size,
            "layers": [dict(layer) for layer in self.layers],
            "output": self.output,
            "kept": {name: list(units) for name, units in self.kept.items()},
        }

    @property
    def params(self) -> int:
        """Stored non-zero weights of the whole network, everything counted."""
        return sum(self.params_of_layers)

    @property
    def params_of_layers(self) -> list[int]:
        """The same of each layer."""
        return [layer_params(layer) for layer in self.layers]

    @property
    def params_dense(self) -> int:
        """The same with pruned weights counted as if they were there."""
        return sum(layer_params({**layer, "nonzero": None}) for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and the classifier for one image; zeros are multiplied too."""
        sizes = spatial_sizes(self.layers, self.image_size)
        return sum(_macs(layer, sizes[layer["name"]]) for layer in self.layers)

    def size(self, metric: str) -> int:
        """`params`, `macs`, or nanoseconds by the guide for `latency_ms`."""
        return {"params": lambda: self.params, "macs": lambda: self.macs, LATENCY: lambda: self.nanoseconds}[metric]()


def lowered(plan: Plan, kept: Kept, nonzero: Nonzero | None = None, exit_: str | None = None) -> Architecture:
    """The compact network that computes what the full one computes under hard masks.

    Drops candidates that are off, layers without reader, channels that nobody reads and channels that are always zero.

    Args:
        plan: the full space.
        kept: decisions on operations and filters.
        nonzero: counts unpruned weights; dense if not given.
        exit_: the logits layer; the network's own if not given.
    """
    exit_ = exit_ or plan.exits[-1]
    program = plan.program(exit_, kept)
    live = _live_channels(plan, program, kept)
    builder = _Lowering(plan, live, nonzero, {layer.name for layer in program})
    for layer in program:
        builder.add(layer)
    return Architecture(
        space=plan.space,
        image_size=plan.image_size,
        layers=tuple(builder.layers),
        output=builder.renamed[exit_],
        kept={
            choice.name: list(kept.get(choice.name, range(choice.units)))
            for choice in plan.choices
            if choice.granularity != "weight"
        },
        sources=builder.sources,
        nanoseconds=round(_time(plan, program, live)) if plan.guide else 0,
    )


def counted_features(plan: Plan, kept: Kept) -> dict[str, float]:
    """What `guide.features` counts -> how much of it the network of a decision has."""
    program = plan.program(plan.exits[-1], kept)
    widths = {group: len(channels) for group, channels in _live_channels(plan, program, kept).items()}
    found: dict[str, float] = {}
    for layer in program:
        for what, each, reads, makes in features(plan, layer):
            found[what] = found.get(what, 0) + _product(each, reads, makes, widths)
    return found


def _time(plan: Plan, program: Sequence[Layer], live: Mapping[str, Sequence[int]]) -> float:
    widths = {group: len(channels) for group, channels in live.items()}
    return sum(_product(*product, widths) for layer in program for product in products(plan, layer, LATENCY))


def smallest(
    plan: Plan, granularities: Collection[str], metric: str, exit_: str | None = None, kept: Kept | None = None
) -> int:
    """A size that every search can reach, whatever its scores say.

    Each choice at its floor, every state in use, each node with its costliest candidate (none where it may have none);
    with all that are `kept`, if operations are settled.
    """
    floors = {
        group: range(plan.choice[group].floor)
        for group in plan.groups
        if group in plan.choice and "filter" in granularities
    }
    widths = {group: len(plan.living(group, floors)) for group in plan.groups}
    total = 0.0
    owned: dict[str, dict[int, float]] = {}
    least = {choice.name: choice.floor for choice in plan.choices}
    for layer in plan.program(exit_ or plan.exits[-1], kept):
        size = _size_at(plan, layer, widths, metric, bare="weight" in granularities)
        if layer.owner is None or "operation" not in granularities:
            total += size
        else:
            choice, unit = layer.owner
            units = owned.setdefault(choice, {})
            units[unit] = units.get(unit, 0) + size
    return math.ceil(total + sum(max(units.values()) for choice, units in owned.items() if least[choice]))


def operation_sizes(plan: Plan, metric: str, widths: Mapping[str, int] | None = None) -> dict[tuple[str, int], float]:
    """(operation choice, unit) -> what it takes where channel groups have these widths, or all that there are."""
    found: dict[tuple[str, int], float] = {}
    for layer in plan.program(plan.exits[-1]):
        if layer.owner is not None:
            size = _size_at(plan, layer, widths or plan.groups, metric, bare=False)
            found[layer.owner] = found.get(layer.owner, 0) + size
    return found


def widest_path(plan: Plan) -> list[Layer]:
    """Layers of the sub-graph with one candidate an edge that keeps the most for the backward pass."""
    owned: dict[tuple[str, int], list[Layer]] = {}
    for layer in plan.layers:
        if layer.owner is not None:
            owned.setdefault(layer.owner, []).append(layer)
    held = {owner: activations(plan, layers, {}) for owner, layers in owned.items()}
    taken = {
        (name, max(edge, key=lambda unit: held[name, unit])) for name, edges in plan.edges.items() for edge in edges
    }
    return [layer for layer in plan.layers if layer.owner is None or layer.owner in taken]


def activations(plan: Plan, program: Iterable[Layer], kept: Kept) -> int:
    """Numbers for one image that training keeps for the backward pass.

    What a layer keeps depends on its kind: convolutions and batch norms their input, rectifiers their output, pools
    both and which pixel it was, attentions their inputs and how much each position heeds each other one. What two
    layers keep is there once.
    """
    found: dict[str, int] = {}
    same: dict[str, str] = {}  # layers whose output is their input
    maps = 0
    for layer in program:
        if layer.op == "attention":
            maps += len(plan.living(plan.heads(layer)[0], kept)) * plan.sides[layer.name] ** 4
        if layer.op == "gate" or (layer.op == "align" and _changes_nothing(plan, layer, kept)):
            same[layer.name] = same.get(layer.inputs[0], layer.inputs[0])
        for name, times in _kept_for_backward(layer, is_end=layer.name in plan.ends):
            name = same.get(name, name)
            found[name] = max(found.get(name, 0), times)
    return maps + sum(times * values(plan, name, kept) for name, times in found.items())


def values(plan: Plan, name: str, kept: Kept) -> int:
    """Numbers for one image in a layer's output."""
    width = sum(len(plan.living(group, kept)) for group in plan.layer[name].channels)
    return width * (plan.layer[name].positions or plan.sides[name] ** 2)


def _changes_nothing(plan: Plan, layer: Layer, kept: Kept) -> bool:
    def units(groups: Iterable[str]) -> list[Sequence[int]]:
        return [list(plan.living(group, kept)) for group in groups]

    return units(layer.channels) == units(plan.layer[layer.inputs[0]].channels)


def _kept_for_backward(layer: Layer, *, is_end: bool) -> list[tuple[str, int]]:
    match layer.op:
        case "conv" | "batch_norm":
            return [(layer.inputs[0], 1)]
        case "factorized_reduce":
            return [(layer.inputs[0], 2)]  # a shifted copy, too
        case "relu" | "module":
            return [(layer.name, 1)]
        case "excite":
            return [(layer.inputs[0], 1)]
        case "attention":
            return [(name, 1) for name in layer.inputs]
        case "max_pool":
            return [(layer.inputs[0], 1), (layer.name, 3)]  # which pixel: a whole number of twice the size
        case "avg_pool":
            return [(layer.inputs[0], 1), (layer.name, 1)]
        case "align" if is_end:
            return [(layer.name, 1)]
    return []


def spatial_sizes(layers: Iterable[Mapping[str, Any]], image_size: int) -> dict[str, int]:
    """Side of each layer's output in pixels; 1 behind the global mean."""
    sizes: dict[str, int] = {}
    for layer in layers:
        side = max((sizes[source] for source in layer["inputs"]), default=image_size)
        sizes[layer["name"]] = 1 if layer["op"] == "mean" else -(-side // layer.get("stride", 1))
    return sizes


def _alive(source: Layer, alive: Mapping[str, set[int]], reader: Layer) -> bool:
    if reader.op != "mix" or source.owner is None:
        return True
    choice, unit = source.owner
    return choice not in alive or unit in alive[choice]


def products(plan: Plan, layer: Layer, metric: str) -> Sequence[Product]:
    """What a layer's size is the sum of; not the parameters of weights that are counted one by one."""
    macs, makes, reads = metric == "macs", layer.channels, plan.reads(layer)
    if metric == LATENCY:
        assert plan.guide is not None, "times are counted once a device was measured"
        prices = plan.guide.nanoseconds
        return [(each * prices[what], ins, outs) for what, each, ins, outs in features(plan, layer) if prices.get(what)]
    if layer.op in ("conv", "factorized_reduce"):
        if layer.prunable and not macs:
            return []
        constant = layer.kernel**2 * (plan.sides[layer.name] ** 2 if macs else 1)
        return [(constant, () if layer.depthwise else reads, makes)]
    if layer.op == "module":
        found: list[Product] = [(cost.each, cost.reads, cost.channels) for cost in layer.costs if cost.metric == metric]
        if layer.taps is not None and not (layer.prunable and not macs):
            found.append((layer.weight_size * (layer.positions if macs else 1), reads, makes))
        return found
    if layer.op == "linear":
        return [(1, reads, makes)] + ([] if macs else [(1, (), makes)])
    if layer.op == "attention" and macs:  # queries times keys, and what comes of it times values
        return [(2 * plan.sides[layer.name] ** 4, (), makes)]
    if macs:
        return []
    if layer.op == "batch_norm":
        return [(2, (), makes)]
    return [(1, (), ())] if layer.name in plan.ends and layer.op != "mix" else []  # a factor, see `_Lowering.scaled`


def _product(each: float, reads: Sequence[str], makes: Sequence[str], widths: Mapping[str, int]) -> float:
    return each * math.prod(sum(widths[group] for group in side) for side in (reads, makes) if side)


def _size_at(plan: Plan, layer: Layer, widths: Mapping[str, int], metric: str, *, bare: bool) -> float:
    """A layer's size at given widths; `bare`: one weight a convolution."""
    size = sum(_product(*product, widths) for product in products(plan, layer, metric))
    if metric != "params" or not layer.prunable:
        return size
    if bare:
        return size + 1
    taps = layer.weight_size if layer.op == "module" else layer.kernel**2
    return size + _product(taps, () if layer.depthwise else plan.reads(layer), layer.channels, widths)


def module_costs(layer: Layer, metric: str, widths: Mapping[str, int]) -> int:
    """What a module takes besides its weight, with groups of these widths."""
    return sum(
        cost.each * math.prod(sum(widths[group] for group in side) for side in (cost.channels, cost.reads) if side)
        for cost in layer.costs
        if cost.metric == metric
    )


def _live_channels(plan: Plan, program: Sequence[Layer], kept: Kept) -> dict[str, list[int]]:
    """Channels of each group that carry something (forward) and are read by somebody (backward)."""
    names = {layer.name for layer in program}
    live = {group: list(plan.living(group, kept)) for group in plan.groups}
    for layer in program:  # forward: a channel that no producer fills is always zero
        if layer.op == "mix":
            group = layer.channels[0]
            filled: set[int] = set()
            for source in _live_inputs(plan, layer, names):
                aligned = _aligned_group(plan, source)
                filled |= set(live[group]) if aligned is None else set(live[aligned])
            live[group] = [channel for channel in live[group] if channel in filled] or live[group][:1]
    needs: dict[str, set[int]] = {}
    first = {layer.channels[0]: layer for layer in reversed(program) if layer.op in ("gate", "mix")}
    for layer in reversed(program):  # backward: a group is settled before the groups it is made of
        group = layer.channels[0]
        if first.get(group) is layer:
            live[group] = [channel for channel in live[group] if channel in needs.get(group, set())] or live[group][:1]
        if layer.op in ("align", "conv", "factorized_reduce", "mean"):
            for read in plan.layer[layer.inputs[0]].channels:
                needs.setdefault(read, set()).update(live[group if layer.op == "align" else read])
    return live


def _live_inputs(plan: Plan, layer: Layer, names: Collection[str]) -> list[Layer]:
    return [plan.layer[source] for source in layer.inputs if source in names]


def _aligned_group(plan: Plan, layer: Layer) -> str | None:
    """The source group of a candidate that only moves channels (skip, pools); None for convolutions."""
    group = None
    while layer.op in ("max_pool", "avg_pool", "align"):
        source = plan.layer[layer.inputs[0]]
        group = source.channels[0] if layer.op == "align" else group
        layer = source
    return group


class _Lowering:
    """Builds the compact layers one after the other; gates vanish, single sums collapse."""

    def __init__(self, plan: Plan, live: Mapping[str, list[int]], nonzero: Nonzero | None, names: set[str]) -> None:
        self.plan, self.live, self.nonzero, self.names = plan, live, nonzero, names
        self.layers: list[dict[str, Any]] = []
        self.sources: dict[str, tuple[list[int], list[int]]] = {}
        self.renamed: dict[str, str] = {}

    def add(self, layer: Layer) -> None:
        inputs = [self.renamed[source] for source in layer.inputs if source in self.names]
        outputs = self.indices(layer.channels)
        numbers: dict[str, Any] = {}
        if layer.op == "gate":  # folded into the batch norm before it
            self.renamed[layer.name] = inputs[0]
            return
        if layer.op in ("conv", "factorized_reduce"):
            numbers = self.convolution(layer, outputs)
        elif layer.op in ("max_pool", "avg_pool"):
            numbers = {"kernel": layer.kernel, "stride": layer.stride}
        elif layer.op == "batch_norm":
            numbers = {"channels": len(outputs)}
            self.sources[layer.name] = (outputs, [])
        elif layer.op == "module":
            numbers = self.module(layer, outputs)
        elif layer.op == "attention":
            heads, places = self.plan.heads(layer)
            numbers = {
                "heads": len(self.live[heads]), "channels": len(outputs), "scale": self.plan.groups[places] ** -0.5
            }  # fmt: skip
        elif layer.op == "linear":
            sources = self.indices(self.plan.layer[layer.inputs[0]].channels)
            numbers = {"in_features": len(sources), "out_features": len(outputs)}
            self.sources[layer.name] = (outputs, sources)
        elif layer.op == "align":
            index = self.plan.alignment(layer, self.live)
            if index == list(range(len(self.live[self.plan.layer[layer.inputs[0]].channels[0]]))):
                self.renamed[layer.name] = inputs[0]
                return
            self.emit(layer.name, "select", inputs, {"index": index})
            return
        elif layer.op == "mix":
            self.emit(
                layer.name, "sum", [self.scaled(source) for source in _live_inputs(self.plan, layer, self.names)], {}
            )
            return
        self.emit(layer.name, layer.op, inputs, numbers)

    def emit(self, name: str, op: str, inputs: list[str], numbers: dict[str, Any]) -> None:
        self.layers.append({"name": name, "op": op, "inputs": inputs, **numbers})
        self.renamed[name] = name

    def indices(self, groups: Sequence[str]) -> list[int]:
        return self.plan.indices(groups, self.live)

    def convolution(self, layer: Layer, outputs: list[int]) -> dict[str, Any]:
        sources = self.indices(self.plan.layer[layer.inputs[0]].channels)
        self.sources[layer.name] = (outputs, [0] if layer.depthwise else sources)
        numbers: dict[str, Any] = {"in_channels": len(sources), "out_channels": len(outputs)}
        if layer.op == "factorized_reduce":
            half = self.plan.width(layer.name) // 2
            numbers |= {"split": sum(channel < half for channel in outputs), "stride": 2, "kernel": 1, "groups": 1}
        else:
            numbers |= {
                "kernel": layer.kernel, "stride": layer.stride, "dilation": layer.dilation,
                "groups": len(outputs) if layer.depthwise else 1,
            }  # fmt: skip
        if layer.prunable and self.nonzero is not None:
            numbers["nonzero"] = self.nonzero(layer.name, *self.sources[layer.name])
        return numbers

    def module(self, layer: Layer, outputs: list[int]) -> dict[str, Any]:
        sources = self.indices(layer.reads)
        self.sources[layer.name] = (outputs, sources)
        widths = {group: len(channels) for group, channels in self.live.items()}
        numbers: dict[str, Any] = {
            "weights": layer.weight_size * len(outputs) * len(sources),
            "positions": layer.positions,
            "params": module_costs(layer, "params", widths),
            "macs": module_costs(layer, "macs", widths),
        }
        if layer.prunable and self.nonzero is not None:
            numbers["nonzero"] = self.nonzero(layer.name, outputs, sources)
        return numbers

    def scaled(self, source: Layer) -> str:
        """A candidate without weights keeps its factor as one learned number; others have it in their batch norm.

        A block of a library's model has none: it is there or it is not.
        """
        if source.op in ("batch_norm", "module", "mix"):
            return self.renamed[source.name]
        name = f"{source.name}_scale"
        self.emit(name, "scale", [self.renamed[source.name]], {})
        return name


def layer_params(layer: Mapping[str, Any]) -> int:
    """Stored weights of one layer of an architecture; `nonzero`, where it is given, instead of all."""
    match layer["op"]:
        case "conv" | "factorized_reduce":
            if layer.get("nonzero") is not None:
                return int(layer["nonzero"])
            return int(layer["out_channels"] * layer["in_channels"] // layer["groups"] * layer["kernel"] ** 2)
        case "batch_norm":
            return 2 * int(layer["channels"])
        case "module":
            nonzero = layer.get("nonzero")
            return int(layer["weights"] if nonzero is None else nonzero) + int(layer["params"])
        case "linear":
            return int((layer["in_features"] + 1) * layer["out_features"])
        case "scale":
            return 1
    return 0


def _macs(layer: Mapping[str, Any], side: int) -> int:
    if layer["op"] in ("conv", "factorized_reduce"):
        return layer_params({**layer, "nonzero": None}) * side**2
    if layer["op"] == "module":
        return int(layer["weights"] * layer["positions"] + layer["macs"])
    if layer["op"] == "attention":
        return int(2 * layer["channels"] * side**4)
    return int(layer["in_features"] * layer["out_features"]) if layer["op"] == "linear" else 0
