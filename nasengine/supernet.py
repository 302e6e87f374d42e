"""The network that is searched: all that is still alive of a plan, under masks that are arguments.

Full-size parameters of everything, dead or alive, live in the *nursery*; the live network is always
``slice(nursery, kept)``. Commit and regrow are the same act with another `kept`: write live values back, change `kept`,
slice again. What regrows has the values it had when it was pruned.

Masks and gains act on gamma and beta of the batch norm before them, so that a dead channel is exactly zero and no
extra pass over the activations is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nasengine.architecture import Architecture, Layer, Plan, activations, lowered, values
from nasengine.compact import attended, factorized_reduce, last_uses, selected_channels
from nasengine.costs import Count
from nasengine.device import generator
from nasengine.dropblock import dropblock
from nasengine.flat import flat_units, weight_shape
from nasengine.guide import Guide

Off = Collection[tuple[str, int]]
"""Candidates, each as (operation choice, unit)."""


@dataclass(frozen=True, kw_only=True)
class SubGraph:
    """One sub-graph of the network: of its candidates only those that were drawn.

    Attributes:
        drawn: candidates that are computed. The others take no part, whatever their masks; no gradient reaches those.
        keep: share of the values of skips that training leaves, see `dropblock`.
        seed: of that noise: the same sub-graph is disturbed alike, however often it is computed.
    """

    drawn: Off
    keep: float = 1.0
    seed: int = 0


MISCOUNT = 0.02
"""How far `architecture.activations` may be from what autograd really keeps."""

Masks = Mapping[str, Tensor]
"""Choice -> mask over its living units."""
Kept = dict[str, Tensor]
"""Choice -> which of its units are alive, bool [units], for weight choices bool of the full weight's shape."""


@dataclass(frozen=True, kw_only=True)
class _Segment:
    """The layers of one block that run.

    Attributes:
        inputs: values that they read of earlier blocks.
        outputs: their values that later blocks read.
        spent: values that no later block reads.
        within: for each layer, the values of the segment that nobody reads after it.
    """

    block: int
    layers: list[Layer]
    inputs: list[str]
    outputs: list[str]
    spent: list[str]
    within: list[list[str]]


class Supernet(nn.Module):
    """The live network of a plan up to one exit.

    Attributes:
        plan: the full space.
        nursery: ``layer/parameter`` -> full-size tensor (batch statistics included), stale for what is live.
        momentum: the same for the optimizer's momentum; missing where there never was one.
        kept: which units are alive; change it only through `commit`.
        live: the live parameters; the only ones an optimizer may hold.
        program: the layers that run, in order.
        units: operation or filter choice -> numbers of its living units, in the order of its masks.
        running: choices that the program meets.
        flat: granularity -> its living units in one flat order.
        memory: numbers for one image that training may keep for backward, if it is bounded.
        recomputed: blocks from the front whose activations are computed twice instead of kept, so that `memory` holds.
        tracks: whether training passes move the running statistics of batch norms.
        forgets: share of those statistics that a training pass replaces.
        compiled: whether training steps are compiled, anew after each change of the shape.
        fresh: names of live values that learn even where trained weights rest, since they are none.
        clock: measures the exported network of a decision, in nanoseconds; only where time is the target.
    """

    fresh: frozenset[str] = frozenset()

    def __init__(self, plan: Plan, nursery: dict[str, Tensor], kept: Kept, exit_: str | None = None) -> None:
        super().__init__()
        self.plan, self.nursery, self.kept = plan, nursery, kept
        self.momentum: dict[str, Tensor] = {}
        self.exit = exit_ or plan.exits[-1]
        self.folds = _fold_targets(plan)
        self.memory: int | None = None
        self.tracks, self.forgets = True, 0.1
        self.compiled = False
        self.clock: Callable[[Kept], int] | None = None
        self._slice()

    @classmethod
    def born(cls, plan: Plan, generator: torch.Generator, device: torch.device | str = "cpu") -> Supernet:
        """The full network with fresh weights; the same for the same generator state on any device."""
        nursery = {name: value.to(device) for name, value in _fresh(plan, generator).items()}
        return cls(plan, nursery, everything(plan, device))

    def forward(
        self,
        x: Tensor,
        masks: Mapping[str, Tensor] | None = None,
        gains: Mapping[str, Tensor] | None = None,
        off: Off = frozenset(),
        sub_graph: SubGraph | None = None,
    ) -> Tensor:
        """Logits [N, classes] at the current exit.

        Args:
            x: normalised images [N, C, S, S].
            masks: choice -> mask over its live units (`units`); for weight choices in the live weight's shape,
                zero where the weight is pruned for good. What is left out is on, pruned weights stay off.
            gains: operation or filter choice -> positive factors beside the masks; one if left out.
            off: candidates whose mask is known to be zero. They are not computed; where gradients are wanted, they are
                computed forward only: the mask needs their value, and nothing else would get a gradient but zero.
            sub_graph: which candidates take part; all if not given. It is not compiled, and keeps all that it computes
                for the backward pass, whatever `bound` says.
        """
        if self.compiled and self.training and sub_graph is None:
            if self._fast is None:
                torch.compiler.reset()
                self._fast = torch.compile(self._forward, dynamic=False)
            # Candidates that are off are others at each step, and each set would be compiled.
            return self._fast(x, masks or {}, gains or {}, frozenset(), None)
        return self._forward(x, masks or {}, gains or {}, off, sub_graph)

    def _forward(
        self, x: Tensor, masks: Mapping[str, Tensor], gains: Mapping[str, Tensor], off: Off, sub_graph: SubGraph | None
    ) -> Tensor:
        masks = {**self.pruned_weights, **masks}
        values = {"image": x}
        for segment in self._segments:
            inputs = [values[name] for name in segment.inputs]
            run = partial(self._run, segment, masks, gains, off, sub_graph)
            if segment.block < self.recomputed and self.training and torch.is_grad_enabled() and sub_graph is None:
                found = checkpoint(
                    _once_tracked(run, track=self.tracks), *inputs, use_reentrant=False, preserve_rng_state=False
                )
            else:
                found = run(*inputs, track=self.tracks)
            values |= zip(segment.outputs, found, strict=True)
            for name in segment.spent:
                del values[name]
        return values[self.exit]

    def stretch(
        self, values: Mapping[str, Tensor], first: int, border: str, sub_graph: SubGraph, masks: Masks
    ) -> Tensor:
        """The value `border` as the blocks from number `first` on make it of `values`; nothing else is computed."""
        values, masks = dict(values), {**self.pruned_weights, **masks}
        for segment in self._segments:
            if segment.block < first:
                continue
            inputs = [values[name] for name in segment.inputs]
            found = self._run(segment, masks, {}, frozenset(), sub_graph, *inputs, track=self.tracks)
            values |= zip(segment.outputs, found, strict=True)
            if border in segment.outputs:
                break
        return values[border]

    def _run(
        self, segment: _Segment, masks: Mapping[str, Tensor], gains: Mapping[str, Tensor], off: Off,
        sub_graph: SubGraph | None, *inputs: Tensor, track: bool,
    ) -> list[Tensor]:  # fmt: skip
        """One block; `track`: whether batch norms move their running statistics."""
        learning = torch.is_grad_enabled()
        factors = _Factors(self, masks, gains)  # anew for each block: a second computation must save what the first did
        values = dict(zip(segment.inputs, inputs, strict=True))
        for layer, spent in zip(segment.layers, segment.within, strict=True):
            sleeps = layer.owner in off
            takes_part = sub_graph is None or layer.owner is None or layer.owner in sub_graph.drawn
            if takes_part and (learning or not sleeps):
                arguments = [values[name] for name in self.inputs[layer.name] if name in values]
                with torch.set_grad_enabled(learning and not (sleeps and layer.name not in self.plan.ends)):
                    values[layer.name] = self._apply(layer, arguments, factors, track=track)
                if sub_graph is not None and self.training and layer.name in self.plan.skips:
                    values[layer.name] = _disturbed(values[layer.name], sub_graph, layer.name)
            for name in spent:
                values.pop(name, None)
        return [values[name] for name in segment.outputs]

    def _apply(self, layer: Layer, inputs: list[Tensor], factors: _Factors, *, track: bool) -> Tensor:
        x = inputs[0]
        match layer.op:
            case "conv":
                weight = factors.weight(layer)
                padding = layer.dilation * (layer.kernel - 1) // 2
                groups = weight.shape[0] if layer.depthwise else 1
                y = F.conv2d(x, weight, None, layer.stride, padding, layer.dilation, groups)
                # Depth-wise convolutions are up to three times as fast with channels last; the others keep the order.
                return y.contiguous(memory_format=torch.channels_last) if layer.inputs == ("image",) else y
            case "factorized_reduce":
                return factorized_reduce(x, factors.weight(layer), self.splits[layer.name])
            case "batch_norm":
                gamma, beta = factors.affine(layer)
                mean, var = self.statistics[layer.name]
                if not track:
                    mean, var = mean.clone(), var.clone()  # without any, it would save fewer tensors than before
                return F.batch_norm(x, mean, var, gamma, beta, training=self.training, momentum=self.forgets)
            case "relu":
                return F.relu(x)
            case "max_pool":
                return factors.scaled(layer, F.max_pool2d(x, layer.kernel, layer.stride, layer.kernel // 2))
            case "avg_pool":
                pooled = F.avg_pool2d(x, layer.kernel, layer.stride, layer.kernel // 2, count_include_pad=False)
                return factors.scaled(layer, pooled)
            case "align":
                return factors.scaled(layer, self._aligned(layer, x))
            case "mix":
                return _total(inputs)
            case "gate":
                return x  # its mask and gain are in the batch norm before it
            case "concat":
                return torch.cat(inputs, dim=1)
            case "mean":
                return x.mean(dim=(2, 3))
            case "excite":
                return x * torch.sigmoid(inputs[1])[:, :, None, None]
            case "attention":
                heads, places = self.plan.heads(layer)
                return attended(*inputs, len(self.units[heads]), self.plan.groups[places] ** -0.5)
            case "linear":
                return F.linear(x, self.live[f"{layer.name}/weight"], self.live[f"{layer.name}/bias"])
        raise AssertionError(layer.op)

    def _aligned(self, layer: Layer, x: Tensor) -> Tensor:
        index = self.alignments[layer.name]
        if index is None:
            return x
        return selected_channels(x, index, pad=self._pads[layer.name])

    def bound(self, share: float) -> None:
        """Lets training keep this share of what the full space keeps for backward; with 1 all that there is.

        What is more is computed twice, from the front on.
        """
        full = activations(self.plan, self.plan.layers, {})
        self.memory = int(share * (1 - MISCOUNT) * full) if share < 1 else None
        self.recomputed = self._recomputed()

    def _recomputed(self) -> int:
        if self.memory is None:
            return 0
        entrances: set[str] = set()
        rest = list(self.program)
        for segment in self._segments:
            held = sum(values(self.plan, name, self.units) for name in entrances)
            if held + activations(self.plan, rest, self.units) <= self.memory:
                return segment.block
            entrances |= set(segment.inputs)
            rest = [layer for layer in rest if layer.block > segment.block]
        return self._segments[-1].block

    @property
    def running_statistics(self) -> list[Tensor]:
        """Of batch norms: what training passes move."""
        return [part for parts in self.statistics.values() for part in parts]

    def count(self, metric: str) -> Count:
        """The size of what runs, as a function of flat masks."""
        if metric not in self._counts:
            self._counts[metric] = Count(self.plan, self.program, self.units, self.flat, metric)
        return self._counts[metric]

    @property
    def alive_weights(self) -> Tensor:
        """[K] in the order of ``flat["weight"]``: 1, or 0 where a weight is pruned for good."""
        if self._alive_weights is None:
            self._alive_weights = self.flat["weight"].joined(self.pruned_weights)
        return self._alive_weights

    # -- alive and dead ------------------------------------------------------------------------------------------

    def commit(self, kept: Mapping[str, Tensor]) -> None:
        """Makes `kept` the truth and slices the network to it.

        Every parameter in `live` is new afterwards; the optimizer must be built again. Call `keep_momentum` before.
        """
        self.store()
        self.kept = {**self.kept, **kept}
        self._slice()

    def enter(self, exit_: str) -> None:
        """Lets the network end at another exit; layers beyond it neither run nor change."""
        self.store()
        self.exit = exit_
        self._slice()

    def widened(self, kept: Mapping[str, Tensor]) -> Supernet:
        """A network of its own with more units alive, for looking only: training it changes nothing here."""
        self.store()
        return self.with_(self.nursery, {**self.kept, **kept}, self.exit).train(self.training)

    @torch.no_grad()
    def adopt(self, state: Mapping[str, Tensor], block: int) -> None:
        """Takes a block's values from the state dict of a compact network that has all their channels."""
        names = {"mean": "running_mean", "var": "running_var"}
        self.store()
        for name, value in self.nursery.items():
            layer, part = name.split("/")
            if self.plan.layer[layer].block == block:
                value.copy_(state[f"layers.{layer}.{names.get(part, part)}"])
        self._slice()

    def with_(self, nursery: dict[str, Tensor], kept: Kept, exit_: str | None = None) -> Supernet:
        """A network of the same space with these values, of which that much is alive."""
        return Supernet(self.plan, nursery, kept, exit_)

    def guide(self, guide: Guide) -> None:
        """Counts times by this guide from now on."""
        self.plan = replace(self.plan, guide=guide)
        self._counts = {}

    @contextmanager
    def silenced(self, kept: Kept) -> Iterator[None]:
        """What masks do not silence by themselves; nothing here."""
        yield

    def described(self, kept: Kept) -> dict[str, Any]:
        """What ``architecture.json`` says of a decision."""
        return architecture(self.plan, kept).to_json()

    @torch.no_grad()
    def store(self) -> None:
        """Writes live values back into the nursery; pruned weights keep what they had, whatever the optimizer did."""
        values = dict(self.live)
        for choice, alive in self.pruned_weights.items():
            name = f"{choice.removesuffix('_weights')}/weight"
            values[name] = torch.where(alive > 0, values[name], self.gather(name, self.nursery))
        self.scatter(values, self.nursery)
        for name, (mean, var) in self.statistics.items():
            self.scatter({f"{name}/mean": mean, f"{name}/var": var}, self.nursery)

    @torch.no_grad()
    def scatter(self, values: Mapping[str, Tensor], full: dict[str, Tensor]) -> None:
        """Writes live-shaped values to their places in full-size ones."""
        for name, value in values.items():
            index = self.places[name.split("/")[0]]
            target = full[name]
            if target.shape == value.shape:
                target.copy_(value)
            elif target.ndim == 1:
                target[index[0]] = value
            else:
                target[index[0][:, None], index[1][None, :]] = value

    def gather(self, name: str, full: Mapping[str, Tensor]) -> Tensor:
        """The live part of a full-size value, as a copy."""
        value = full[name]
        rows, columns = self.places[name.split("/")[0]]
        if len(rows) < value.shape[0]:
            value = value.index_select(0, rows)
        if value.ndim > 1 and len(columns) < value.shape[1]:
            value = value.index_select(1, columns)
        return value.clone()

    def keep_momentum(self, optimizer: torch.optim.Optimizer) -> None:
        """Stores the optimizer's momentum, full-size, before `commit` or `enter`; pruned weights keep what they had."""
        pruned = {f"{self.plan.weighs[choice]}/weight": alive for choice, alive in self.pruned_weights.items()}
        for name, parameter in self.live.items():
            buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
            if buffer is not None:
                self.momentum.setdefault(name, torch.zeros_like(self.nursery[name]))
                if name in pruned:
                    buffer = torch.where(pruned[name] > 0, buffer, self.gather(name, self.momentum))
                self.scatter({name: buffer}, self.momentum)

    def _slice(self) -> None:
        kept = plain(self.plan, self.kept)
        self.units = kept
        self.program = self.plan.program(self.exit, kept)
        names = {layer.name for layer in self.program}
        self.inputs = {layer.name: [source for source in layer.inputs if source in names] for layer in self.program}
        self._segments = _segments(self.program, self.inputs, self.exit)
        self.places, self.splits, self.alignments, self._pads = {}, {}, {}, {}
        self.statistics: dict[str, tuple[Tensor, Tensor]] = {}
        self.pruned_weights: dict[str, Tensor] = {}
        self.live = nn.ParameterDict()
        for layer in self.program:
            self._slice_layer(layer)
        self.flat = flat_units(self.plan, self.program, kept, next(iter(self.nursery.values())).device)
        self.running = {name for units in self.flat.values() for name in units.choices}
        self.recomputed = self._recomputed()
        self._counts: dict[str, Count] = {}
        self._alive_weights: Tensor | None = None
        self._fast: Callable[..., Tensor] | None = None

    def _slice_layer(self, layer: Layer) -> None:
        rows = self._indices(layer.channels)
        if layer.op == "align":
            self._slice_alignment(layer)
        if layer.op not in ("conv", "factorized_reduce", "batch_norm", "linear"):
            return
        single = layer.op == "batch_norm" or layer.depthwise
        columns = [0] if single else self._indices(self.plan.layer[layer.inputs[0]].channels)
        device = self.nursery[f"{layer.name}/weight"].device
        self.places[layer.name] = (torch.tensor(rows, device=device), torch.tensor(columns, device=device))
        for parameter in ("weight", "bias"):
            name = f"{layer.name}/{parameter}"
            if name in self.nursery:
                self.live[name] = nn.Parameter(self.gather(name, self.nursery))
        if layer.op == "batch_norm":
            self.statistics[layer.name] = tuple(
                self.gather(f"{layer.name}/{part}", self.nursery) for part in ("mean", "var")
            )
        if layer.op == "factorized_reduce":
            half = self.plan.width(layer.name) // 2
            self.splits[layer.name] = sum(row < half for row in rows)
        if layer.prunable:
            alive = self.gather(f"{layer.name}/weight", {f"{layer.name}/weight": self.kept[layer.weights]})
            if not bool(alive.all()):
                self.pruned_weights[layer.weights] = alive.to(self.nursery[f"{layer.name}/weight"].dtype)

    def _slice_alignment(self, layer: Layer) -> None:
        index = self.plan.alignment(layer, self.units)
        unchanged = list(range(len(self._indices(self.plan.layer[layer.inputs[0]].channels))))
        device = next(iter(self.nursery.values())).device
        self.alignments[layer.name] = None if index == unchanged else torch.tensor(index, device=device)
        self._pads[layer.name] = -1 in index

    def _indices(self, groups: Iterable[str]) -> list[int]:
        return self.plan.indices(groups, self.units)


class _Factors:
    """Masks and gains, as the factors that layers apply."""

    def __init__(self, net: Supernet, masks: Mapping[str, Tensor], gains: Mapping[str, Tensor]) -> None:
        self.net, self.masks, self.gains = net, masks, gains
        self.vectors: dict[tuple[str, bool], Tensor | None] = {}
        self.scalars: dict[str, tuple[Tensor, ...] | None] = {}

    def weight(self, layer: Layer) -> Tensor:
        weight = self.net.live[f"{layer.name}/weight"]
        mask = self.masks.get(layer.weights) if layer.prunable else None
        return weight if mask is None else weight * mask

    def affine(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """Gamma and beta with the gate behind the batch norm and the operation's factor folded in."""
        gamma, beta = self.net.live[f"{layer.name}/weight"], self.net.live[f"{layer.name}/bias"]
        group = self.net.folds.get(layer.name)
        factor = self.channels(group, with_gain=True) if group else None
        if layer.name in self.net.plan.ends:
            factor = _product(factor, self.operation(layer))
        return (gamma, beta) if factor is None else (gamma * factor, beta * factor)

    def scaled(self, layer: Layer, x: Tensor) -> Tensor:
        """A candidate without batch norm, under its operation's factor and its node's mask."""
        if layer.name not in self.net.plan.ends:
            return x
        factor = _product(self.channels(layer.channels[0], with_gain=False), self.operation(layer))
        if factor is None:
            return x
        return x * (factor.view(1, -1, 1, 1) if factor.ndim else factor)

    def channels(self, group: str, *, with_gain: bool) -> Tensor | None:
        key = (group, with_gain)
        if key not in self.vectors and group in self.net.plan.crossings:
            self.vectors[key] = self.crossed(*self.net.plan.crossings[group], with_gain=with_gain)
        elif key not in self.vectors:
            self.vectors[key] = _product(self.masks.get(group), self.gains.get(group) if with_gain else None)
        return self.vectors[key]

    def crossed(self, first: str, second: str, *, with_gain: bool) -> Tensor | None:
        one, other = (self.channels(group, with_gain=with_gain) for group in (first, second))
        if one is None:
            return None if other is None else other.repeat(len(self.net.units[first]))
        ones = one.new_ones(len(self.net.units[second]))
        return torch.outer(one, ones if other is None else other).flatten()

    def operation(self, layer: Layer) -> Tensor | None:
        choice, unit = layer.owner
        if choice not in self.scalars:
            factor = _product(self.masks.get(choice), self.gains.get(choice))
            self.scalars[choice] = None if factor is None else factor.unbind()
        factors = self.scalars[choice]
        return None if factors is None else factors[self.net.units[choice].index(unit)]


def _segments(program: Sequence[Layer], inputs: Mapping[str, list[str]], exit_: str) -> list[_Segment]:
    blocks: dict[int, list[Layer]] = {}
    for layer in program:
        if layer.op != "image":
            blocks.setdefault(layer.block, []).append(layer)
    reads = [{name for layer in layers for name in inputs[layer.name]} for layers in blocks.values()]
    held, found = {"image"}, []
    for number, (block, layers) in enumerate(blocks.items()):
        own = {layer.name for layer in layers}
        later = set[str]().union(*reads[number + 1 :], {exit_})
        outputs = sorted(own & later)
        spent = sorted(held - later)
        found.append(
            _Segment(
                block=block,
                layers=layers,
                inputs=sorted(reads[number] - own),
                outputs=outputs,
                spent=spent,
                within=[
                    [name for name in names if name not in outputs]
                    for names in last_uses([inputs[layer.name] for layer in layers])
                ],
            )
        )
        held = (held - set(spent)) | set(outputs)
    return found


def _once_tracked(run: Callable[..., list[Tensor]], *, track: bool) -> Callable[..., list[Tensor]]:
    """`run`, with running statistics moved at its first call at most: the second is the recomputation."""
    calls = iter((track,))
    return lambda *inputs: run(*inputs, track=next(calls, False))


def everything(plan: Plan, device: torch.device | str = "cpu") -> Kept:
    """All units alive."""
    shapes = {layer.weights: weight_shape(plan, layer) for layer in plan.layers if layer.prunable}
    return {
        choice.name: torch.ones(shapes.get(choice.name, (choice.units,)), dtype=torch.bool, device=device)
        for choice in plan.choices
    }


def plain(plan: Plan, kept: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Kept operations and filters as lists of unit numbers."""
    return {c.name: kept[c.name].nonzero().flatten().tolist() for c in plan.choices if c.granularity != "weight"}


def architecture(plan: Plan, kept: Mapping[str, Tensor], exit_: str | None = None) -> Architecture:
    """The compact network of a decision at all three granularities."""

    def nonzero(layer: str, outputs: Any, inputs: Any) -> int:
        alive = kept[f"{layer}_weights"]
        if bool(alive.all()):
            return len(outputs) * len(inputs) * alive.shape[2:].numel()
        return int(alive[torch.tensor(outputs)][:, torch.tensor(inputs)].sum())

    return lowered(plan, plain(plan, kept), nonzero, exit_)


def _fresh(plan: Plan, generator: torch.Generator) -> dict[str, Tensor]:
    """Kaiming weights for convolutions, torch's default for the classifier, neutral batch norms."""
    values: dict[str, Tensor] = {}
    for layer in plan.layers:
        width = plan.width(layer.name)
        if layer.op in ("conv", "factorized_reduce"):
            shape = weight_shape(plan, layer)
            fan_out = shape[2] * shape[3] * (1 if layer.depthwise else shape[0])
            values[f"{layer.name}/weight"] = torch.randn(shape, generator=generator) * math.sqrt(2 / fan_out)
        elif layer.op == "batch_norm":
            values |= {f"{layer.name}/weight": torch.ones(width), f"{layer.name}/bias": torch.zeros(width)}
            values |= {f"{layer.name}/mean": torch.zeros(width), f"{layer.name}/var": torch.ones(width)}
        elif layer.op == "linear":
            bound = 1 / math.sqrt(plan.width(layer.inputs[0]))
            for name, shape in (("weight", (width, plan.width(layer.inputs[0]))), ("bias", (width,))):
                values[f"{layer.name}/{name}"] = (torch.rand(shape, generator=generator) * 2 - 1) * bound
    return values


def _fold_targets(plan: Plan) -> dict[str, str]:
    """Batch norm -> the filter group whose mask and gain it carries."""
    gated = {layer.inputs[0]: layer.channels[0] for layer in plan.layers if layer.op == "gate"}
    ends = {name: plan.layer[name].channels[0] for name in plan.ends if plan.layer[name].op == "batch_norm"}
    return {**gated, **ends}


def _product(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a * b


def _disturbed(x: Tensor, sub_graph: SubGraph, name: str) -> Tensor:
    """A skip under its noise."""
    if sub_graph.keep >= 1:
        return x
    return dropblock(x, sub_graph.keep, generator(x.device, sub_graph.seed, name))


def _total(inputs: list[Tensor]) -> Tensor:
    total = inputs[0]
    for x in inputs[1:]:
        total = total + x
    return total
