"""Groups of channels that may stand or fall together, by the graph that Torch-Pruning traces.

Only the traced graph is Torch-Pruning's: layers and operations, and how a channel's number changes between two of them
(flattened, joined, split). Its own walk through that graph may never end, and forgets that two filters can meet further
on. Here channels are united edge by edge, each once, so the walk ends after as many steps as there are channels.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from nasengine.compact import channels
from nasengine.coupling import Frozen, Group, Member

Place = tuple[int, str, int]
"""Number of a node, side (out, in, through), number of a channel."""
CONVOLUTION = nn.modules.conv._ConvNd
LAST = 2**64 - 1
"""How autograd writes down dimension -1."""
LOST = "its channels are rearranged in a way that cannot be followed"
SINGLE = "it has a single element"
ATTENTION = "attention: heads stay as they are"


def groups(model: nn.Module, example: Tensor) -> tuple[tuple[Group, ...], tuple[Frozen, ...]]:
    """Candidates, and those that are known not to be any. The classes and the image's channels are in neither.

    Args:
        model: whose parameters all require gradients; it is put in eval mode.
        example: a batch of images.
    """
    trace = _traced(model, example)
    _tie(trace)
    lost, attentions = {trace.find(place) for place in trace.lost}, _attentions(model)
    found: list[Group] = []
    frozen: list[Frozen] = []
    names: Counter[str] = Counter()
    for elements in _bundles(trace):
        root = trace.names[_first_made(elements[0])[0]]
        names[root] += 1
        name = root if names[root] == 1 else f"{root}#{names[root]}"
        reason = _reason(trace, elements, lost, attentions)
        if reason:
            frozen.append(Frozen(name, len(elements), reason))
        else:
            found.append(Group(name, len(elements), tuple(_members(trace, elements))))
    return tuple(found), tuple(frozen)


@dataclass
class _Trace:
    """The graph's nodes by number, and their channels as disjoint sets (union-find)."""

    modules: list[Any]
    names: list[str]
    outputs: set[int]
    parent: dict[Place, Place] = field(default_factory=dict)
    lost: set[Place] = field(default_factory=set)
    """From here the way could not be followed."""

    def find(self, place: Place) -> Place:
        self.parent.setdefault(place, place)
        while (above := self.parent[place]) != place:
            self.parent[place] = place = self.parent[above]
        return place

    def join(self, one: Place, other: Place) -> None:
        self.parent[self.find(one)] = self.find(other)


def _traced(model: nn.Module, example: Tensor) -> _Trace:
    from torch_pruning import DependencyGraph, ops

    with _mended():
        # Times one, so that the classes end in an operation of their own, by which the output is known.
        graph = DependencyGraph().build_dependency(
            model, example, forward_fn=lambda net, x: net(x) * 1.0, verbose=False
        )
    names = {module: name for name, module in model.named_modules()} | dict(graph._param_to_name)
    order = {module: place for place, module in enumerate(names)}
    nodes = sorted(graph.module2node.values(), key=lambda node: order.get(node.module, len(order)))
    number = {node: n for n, node in enumerate(nodes)}
    trace = _Trace(
        [node.module for node in nodes],
        ["" if _passive(node.module) else names.get(node.module, "") for node in nodes],
        {number[node] for node in nodes if node.type == ops.OPTYPE.OUTPUT},
    )
    both = {
        node: (pruner.prune_in_channels, pruner.prune_out_channels)
        for node in nodes
        if isinstance(node.module, CONVOLUTION | nn.Linear) and (pruner := graph.get_pruner_of_module(node.module))
    }
    limit = max((max(channels(node.module, side) or 0 for side in ("in", "out")) for node in both), default=0)

    def place(node: Any, handler: Any, channel: int) -> Place:
        side = "through" if node not in both else "in" if handler == both[node][0] else "out"
        return number[node], side, channel

    seen: dict[Any, set[int]] = defaultdict(set)
    waiting = deque((node, makes, range(channels(node.module, "out") or 0)) for node, (_, makes) in both.items())
    while waiting:
        node, handler, given = waiting.popleft()
        new = [channel for channel in given if channel not in seen[node, handler]]
        seen[node, handler].update(new)
        for channel in new:
            trace.find(place(node, handler, channel))
        for edge in node.dependencies if new else ():
            if edge.is_triggered_by(handler):
                pairs, unclear = _along(edge, new, limit)
                trace.lost.update(place(node, handler, channel) for channel in unclear)
                for here, there in pairs:
                    trace.join(place(node, handler, here), place(edge.target, edge.handler, there))
                waiting.append((edge.target, edge.handler, [there for _, there in pairs]))
    return trace


@contextmanager
def _mended() -> Iterator[None]:
    """Torch-Pruning with two faults of its index maps put right.

    Where channels do not divide it would end; here it goes on, and those are lost. Of splits it follows those of the
    second dimension alone; here those of the last one too, where tokens have their channels.
    """
    from torch_pruning.dependency import index_mapping

    reshape, split = index_mapping.update_reshape_index_mapping, index_mapping.update_split_index_mapping

    def reshaped(graph: Any, node: Any) -> None:
        try:
            reshape(graph, node)
        except ZeroDivisionError:
            for edge in (edge for near in (node, *node.inputs, *node.outputs) for edge in near.dependencies):
                if node in (edge.source, edge.target):
                    edge.index_mapping[0] = _nowhere

    def parted(graph: Any, node: Any) -> None:
        operation = node.grad_fn
        dim, sizes = (getattr(operation, f"_saved_{name}", None) for name in ("dim", "self_sym_sizes"))
        if sizes is not None and len(sizes) > 2 and dim in (len(sizes) - 1, LAST):
            node.grad_fn = None  # by which it sees that the dimension is not the second
            node.enable_index_mapping = True  # not so behind a class token
        split(graph, node)
        node.grad_fn = operation

    index_mapping.update_reshape_index_mapping, index_mapping.update_split_index_mapping = reshaped, parted
    try:
        yield
    finally:
        index_mapping.update_reshape_index_mapping, index_mapping.update_split_index_mapping = reshape, split


def _nowhere(_: Any) -> Any:
    raise IndexError


def _along(edge: Any, given: Sequence[int], limit: int) -> tuple[list[tuple[int, int]], list[int]]:
    """Pairs of channel numbers before and behind an edge; and those of which it is not clear where they go."""
    from torch_pruning._helpers import _HybridIndex

    found = [_HybridIndex(idx=channel, root_idx=channel) for channel in given]
    try:
        for mapping in edge.index_mapping:
            found = found if mapping is None else mapping(found)
    except (ZeroDivisionError, IndexError):  # a map that was worked out wrongly
        return [], list(given)
    if any(here is None for _, here in found):
        return [], list(given)
    pairs = [(here, there) for there, here in found if 0 <= there < limit]
    return pairs, [here for there, here in found if not 0 <= there < limit]


def _passive(module: Any) -> bool:
    """Whether channels pass it unseen, though Torch-Pruning takes it for a layer."""
    return isinstance(module, nn.PReLU) and module.num_parameters == 1


def _tie(trace: _Trace) -> None:
    """Groups inside a layer must stay equally wide: they go as wholes, or their channels of the same place together.

    What leaves more elements. Where they go as wholes, both sides of a convolution go together (all depthwise ones).
    """
    for number, layer in enumerate(trace.modules):
        if isinstance(layer, nn.GroupNorm) and layer.num_groups > 1:
            wholes = _wholes(layer.num_channels, layer.num_groups)
            _tie_side(trace, (number, "through"), layer.num_channels, layer.num_groups, wholes=wholes)
        elif isinstance(layer, CONVOLUTION) and layer.groups > 1:
            wholes = _wholes(layer.in_channels, layer.groups)
            strange = layer.groups == layer.out_channels != layer.in_channels  # to Torch-Pruning it is depthwise
            ins = {(number, "in", channel) for channel in range(layer.in_channels)}
            trace.lost |= ins if strange else ins - trace.parent.keys()  # those that read the image
            _tie_side(trace, (number, "in"), layer.in_channels, layer.groups, wholes=wholes)
            _tie_side(trace, (number, "out"), layer.out_channels, layer.groups, wholes=wholes)
            for block in range(layer.groups) if wholes else ():
                first, made = (block * width // layer.groups for width in (layer.in_channels, layer.out_channels))
                trace.join((number, "in", first), (number, "out", made))


def _wholes(width: int, blocks: int) -> bool:
    return blocks > width // blocks


def _tie_side(trace: _Trace, side: tuple[int, str], width: int, blocks: int, *, wholes: bool) -> None:
    size = width // blocks
    for channel in range(width):
        trace.join((*side, channel), (*side, channel - channel % size if wholes else channel % size))


def _bundles(trace: _Trace) -> list[list[tuple[Place, ...]]]:
    """Elements that run through the same layers, together: each its places in layers, first maker first."""
    sets: dict[Place, list[Place]] = defaultdict(list)
    for place in trace.parent:
        sets[trace.find(place)].append(place)
    bundles: dict[Any, list[tuple[Place, ...]]] = defaultdict(list)
    for places in sets.values():
        layers = sorted(place for place in places if trace.names[place[0]])
        makes = any(side == "out" for _, side, _ in layers)
        if makes and not any(number in trace.outputs for number, _, _ in places):
            bundles[frozenset(Counter(place[:2] for place in layers).items())].append(tuple(layers))
    return sorted((sorted(elements, key=_first_made) for elements in bundles.values()), key=lambda b: _first_made(b[0]))


def _first_made(places: Sequence[Place]) -> Place:
    return next(place for place in places if place[1] == "out")


def _members(trace: _Trace, elements: Sequence[Sequence[Place]]) -> Iterator[Member]:
    for number, side in sorted({place[:2] for place in elements[0]}):
        its = tuple(tuple(channel for n, s, channel in places if (n, s) == (number, side)) for places in elements)
        yield Member(trace.names[number], side, channels(trace.modules[number], side), its)


def _reason(trace: _Trace, elements: Sequence[Sequence[Place]], lost: set[Place], attentions: Sequence[str]) -> str:
    """Why these elements are known to be no group that can be narrowed; empty if nothing is known against them."""
    sides = {place[:2] for place in elements[0]}
    widths = {(number, side): channels(trace.modules[number], side) for number, side in sides}
    foreign = sorted({type(trace.modules[number]).__name__ for (number, _), width in widths.items() if width is None})
    if foreign:
        return f"it runs through {', '.join(foreign)}, a kind of layer that cannot be cut"
    if any(trace.find(places[0]) in lost for places in elements):
        return LOST
    if any(channel >= widths[number, side] for places in elements for number, side, channel in places):
        return LOST
    if any(all(trace.names[number].startswith(f"{name}.") for number, _ in sides) for name in attentions):
        return ATTENTION
    return SINGLE if len(elements) == 1 else ""


def _attentions(model: nn.Module) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if "attention" in type(module).__name__.lower()
        and any(hasattr(module, heads) for heads in ("num_heads", "heads"))
    ]
