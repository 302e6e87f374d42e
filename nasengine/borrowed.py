"""A library's model as the network that is searched: its own modules run, narrowed to what is alive, under masks.

Masks multiply what the layers that read a group's channels are given, queries where they are made, and what a block
adds to its input. What a norm takes over channels is weighted by their masks, so that hard masks compute what the
narrowed model does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from nasengine import proof
from nasengine.compact import BATCH_NORMS, Borrowed, cut, named, without
from nasengine.coupling import Group, Member
from nasengine.flat import flat_units
from nasengine.supernet import Kept, Off, SubGraph, Supernet, architecture, everything, plain
from nasengine.survey import Survey, depth_choice, recipe_of


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The whole model, as it is before anything goes.

    Attributes:
        header: library, model, outputs, channels: what a result's ``architecture.json`` says of it.
        model: with its first weights, on the CPU.
        survey: what may be cut of it.
        fresh: names of what stayed random though weights were given.
    """

    header: Mapping[str, Any]
    model: nn.Module
    survey: Survey
    fresh: frozenset[str] = frozenset()
    numbers: nn.Module = field(init=False)
    """The same with the place of each number in place of the number: cut, it tells which numbers stay."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", _numbered(self.model))


class BorrowedNet(Supernet):
    """The live part of a library's model.

    Nursery, momentum and live values are named ``module/parameter``; a model has no exits before its end, is not
    computed twice to save memory, and not compiled. Gains count where channels are read, by the layers that masks
    silence; those of blocks are not used.

    Attributes:
        model: the narrowed module that runs.
    """

    def __init__(self, origin: Origin, nursery: dict[str, Tensor], kept: Kept, exit_: str | None = None) -> None:
        self.origin = origin
        self.fresh = frozenset(map(_key, origin.fresh))
        super().__init__(origin.survey.plan, nursery, kept, exit_)

    @classmethod
    def whole(cls, origin: Origin, device: torch.device | str = "cpu") -> BorrowedNet:
        """All of it, with its first weights."""
        nursery = {_key(name): value.detach().clone().to(device) for name, value in origin.model.state_dict().items()}
        return cls(origin, nursery, everything(origin.survey.plan, device))

    def with_(self, nursery: dict[str, Tensor], kept: Kept, exit_: str | None = None) -> BorrowedNet:
        net = BorrowedNet(self.origin, nursery, kept, exit_)
        net.plan = self.plan
        return net

    def bound(self, share: float) -> None:
        """Nothing: all is kept for the backward pass."""

    @property
    def tracks(self) -> bool:
        return self._tracks

    @tracks.setter
    def tracks(self, value: bool) -> None:
        self._tracks = value
        for norm, momentum in getattr(self, "_momenta", {}).items():
            norm.momentum = momentum if value else 0.0

    @property
    def running_statistics(self) -> list[Tensor]:
        return [part for norm in self._momenta for part in (norm.running_mean, norm.running_var)]

    def _forward(
        self, x: Tensor, masks: Mapping[str, Tensor], gains: Mapping[str, Tensor], off: Off, sub_graph: SubGraph | None
    ) -> Tensor:
        masks = {**self.pruned_weights, **masks}
        weights = {
            f"{layer}.weight": self.live[f"{layer}/weight"] * mask
            for choice, mask in masks.items()
            if (layer := self.plan.weighs.get(choice)) is not None
        }
        self._now = _Now(masks, gains)
        try:
            return torch.func.functional_call(self.model, weights, (x,)) if weights else self.model(x)
        finally:
            self._now = _NOTHING

    # -- alive and dead ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def store(self) -> None:
        values = {_key(name): value for name, value in self.model.state_dict().items()}
        for choice, alive in self.pruned_weights.items():
            name = f"{self.plan.weighs[choice]}/weight"
            values[name] = torch.where(alive > 0, values[name], self.gather(name, self.nursery))
        self.scatter(values, self.nursery)

    @torch.no_grad()
    def scatter(self, values: Mapping[str, Tensor], full: dict[str, Tensor]) -> None:
        for name, value in values.items():
            if name in self.numbers:
                full[name].view(-1)[self.numbers[name]] = value.to(full[name].dtype)
            else:
                full[name].copy_(value)

    def gather(self, name: str, full: Mapping[str, Tensor]) -> Tensor:
        return full[name].flatten()[self.numbers[name]] if name in self.numbers else full[name].clone()

    def _slice(self) -> None:
        like = next(iter(self.nursery.values()))
        survey, kept = self.origin.survey, plain(self.plan, self.kept)
        self.units, self.program = kept, self.plan.program(self.exit, kept)
        self.cuts, self.removed = recipe_of(survey.coupling.groups, survey.runs, kept)
        numbers = self._narrowed(self.origin.numbers).state_dict()
        whole = {_key(name): value.shape for name, value in self.origin.model.state_dict().items()}
        self.numbers = {
            _key(name): value.to(like.device) for name, value in numbers.items() if value.shape != whole[_key(name)]
        }
        self.model = self._narrowed(self.origin.model)
        self.model.to(device=like.device, dtype=like.dtype).load_state_dict(self._state(self.model))
        self.model.train(self.training)
        self.live = {_key(name): parameter for name, parameter in self.model.named_parameters()}
        self.pruned_weights = {}
        for layer in self.program:
            if layer.prunable:
                name = f"{layer.name}/weight"
                alive = self.gather(name, {name: self.kept[layer.weights]})
                if not bool(alive.all()):
                    self.pruned_weights[layer.weights] = alive.to(like.dtype)
        self.places = {
            layer.name: tuple(
                torch.tensor(self.plan.indices(side, kept), device=like.device)
                for side in (layer.channels, layer.reads)
            )
            for layer in self.program
            if layer.prunable
        }
        self.flat = flat_units(self.plan, self.program, kept, like.device)
        self.running = {name for units in self.flat.values() for name in units.choices}
        self.recomputed, self._counts, self._alive_weights, self._fast = 0, {}, None, None
        self._now, self._weighs = _NOTHING, True
        norms = [module for module in self.model.modules() if isinstance(module, BATCH_NORMS)]
        self._momenta = {norm: norm.momentum for norm in norms if norm.track_running_stats}
        self.tracks = True
        self._gate()

    def _narrowed(self, whole: nn.Module) -> nn.Module:
        """What of the whole model, or of its twin, is alive."""
        return cut(without(copy.deepcopy(whole), self.removed), self.cuts)

    def _state(self, narrowed: nn.Module) -> dict[str, Tensor]:
        """Its state dict out of the nursery."""
        return {name: self.gather(_key(name), self.nursery) for name in narrowed.state_dict()}

    def _gate(self) -> None:
        """Hooks that apply whatever masks and gains a pass is given.

        Gains count at the `readers` of channels, and for queries, which no layer reads, at their `makers`.
        """
        known = dict(self.model.named_modules())
        alive = {(one["layer"], one["side"]): one["keep"] for one in self.cuts}
        self.readers: dict[str, _Channels] = {}
        self.makers: dict[str, _Channels] = {}
        sides: dict[tuple[str, str], list[tuple[Group, Member]]] = {}
        for group in self.origin.survey.coupling.groups:
            for member in group.members:
                sides.setdefault((member.layer, member.side), []).append((group, member))
        for (layer, side), members in sides.items():
            module = known.get(layer)
            if module is None:
                continue
            living = alive.get((layer, side), range(members[0][1].of))
            if side == "queries":
                living = alive.get((layer, "out"), alive.get((layer, "through"), living))
            device = next(iter(self.nursery.values())).device
            channels = _Channels([_Cover(apart, self.units, living, device) for apart in _apart(members)])
            if side == "in" and not _is_part_of_way(self.origin.model.get_submodule(layer), members):
                self.readers[layer] = channels
                module.register_forward_pre_hook(self._reader(module, channels))
            elif side == "queries":
                self.makers[layer] = channels
                module.register_forward_hook(self._maker(module, channels))
            elif side == "through" and isinstance(module, nn.LayerNorm | nn.GroupNorm):
                module.register_forward_hook(self._normed(channels))
        for run in self.origin.survey.runs:
            name = depth_choice(run)
            for place, unit in enumerate(self.units[name]):
                known[run.blocks[unit]].register_forward_hook(self._added(name, place))

    def _reader(self, module: nn.Module, channels: _Channels) -> Callable[..., Any]:
        def hook(_: nn.Module, given: tuple[Any, ...]) -> Any:
            factor = channels.factor(self._now.both)
            if factor is None:
                return None
            x, *rest = given
            return proof.times(module, x, factor), *rest

        return hook

    def _maker(self, module: nn.Module, channels: _Channels) -> Callable[..., Any]:
        def hook(_: nn.Module, given: tuple[Any, ...], made: Tensor) -> Tensor | None:
            factor = channels.factor(self._now.both)
            return None if factor is None else proof.times(module, made, factor)

        return hook

    def _normed(self, channels: _Channels) -> Callable[..., Any]:
        def hook(norm: nn.Module, given: tuple[Any, ...], made: Tensor) -> Tensor | None:
            weights = channels.factor(self._now.mask) if self._weighs else None
            return None if weights is None else weighted_norm(norm, given[0], weights)

        return hook

    def _added(self, choice: str, place: int) -> Callable[..., Any]:
        def hook(_: nn.Module, given: tuple[Any, ...], made: Tensor) -> Tensor | None:
            mask = self._now.masks.get(choice)
            return None if mask is None else given[0] + mask[place] * (made - given[0])

        return hook

    # -- what comes of it ------------------------------------------------------------------------------------------

    def described(self, kept: Kept) -> dict[str, Any]:
        survey = self.origin.survey
        cuts, removed = recipe_of(survey.coupling.groups, survey.runs, plain(self.plan, kept))
        return {**architecture(self.plan, kept).to_json(), **self.origin.header, "cuts": cuts, "removed": removed}

    def compact(self, gains: Mapping[str, Tensor], header: Mapping[str, Any]) -> Borrowed:
        """The narrowed model on its own, in eval mode; gains are folded into the layers that they count at."""
        self.store()
        like, model = next(iter(self.nursery.values())), self._narrowed(self.origin.model)
        state = self._state(model)
        for choice, alive in self.pruned_weights.items():
            name = f"{self.plan.weighs[choice]}.weight"
            state[name] = state[name].masked_fill(alive == 0, 0.0)
        for layer, channels in self.readers.items():
            factor = channels.factor(gains.get)
            if factor is not None:
                weight = state[f"{layer}.weight"]
                state[f"{layer}.weight"] = _folded(named(model, layer), weight, factor.detach().to(weight.dtype))
        for layer, channels in self.makers.items():
            factor = channels.factor(gains.get)
            for name in (f"{layer}.weight", f"{layer}.bias") if factor is not None else ():
                if name in state:
                    value = state[name]
                    state[name] = value * factor.detach().to(value.dtype).view(-1, *[1] * (value.ndim - 1))
        model.to(device=like.device, dtype=like.dtype).load_state_dict(state)
        return Borrowed({**self.described(self.kept), **header}, model).to(like.device, like.dtype).eval()

    def weight_masks(self) -> dict[str, Tensor]:
        """State-dict name in the compact network -> 0/1 mask of each layer that has pruned weights."""
        return {f"model.{self.plan.weighs[choice]}.weight": mask for choice, mask in self.pruned_weights.items()}

    @contextmanager
    def silenced(self, kept: Kept) -> Iterator[None]:
        """Nothing but masks of zeros and ones at what is not kept, norms of any kind over the rest."""
        survey, units = self.origin.survey, plain(self.plan, kept)
        cuts, _ = recipe_of(survey.coupling.groups, survey.runs, units)
        self._weighs = False
        try:
            with proof.silenced(self.model, cuts):
                yield
        finally:
            self._weighs = True


@dataclass(frozen=True)
class _Now:
    """Masks and gains of the pass that is being made."""

    masks: Mapping[str, Tensor]
    gains: Mapping[str, Tensor]

    def mask(self, choice: str) -> Tensor | None:
        return self.masks.get(choice)

    def both(self, choice: str) -> Tensor | None:
        mask, gain = self.masks.get(choice), self.gains.get(choice)
        return gain if mask is None else mask if gain is None else mask * gain


_NOTHING = _Now({}, {})


@dataclass(frozen=True)
class _Channels:
    """Which living units each living channel of one side of a layer belongs to: of a head, and of its width."""

    covers: Sequence[_Cover]

    def factor(self, of: Callable[[str], Tensor | None]) -> Tensor | None:
        """[channels] product of what their units' factors are; nothing if no unit has any."""
        found = [factor for cover in self.covers if (factor := cover.factor(of)) is not None]
        return reduce(torch.mul, found) if found else None


class _Cover:
    """Which living unit each living channel belongs to, of groups that share no channel."""

    def __init__(
        self,
        members: Sequence[tuple[Group, Member]],
        units: Mapping[str, Sequence[int]],
        living: Sequence[int],
        device: torch.device,
    ) -> None:
        self.groups = [group.name for group, _ in members]
        self.sizes = [len(units[name]) for name in self.groups]
        at: dict[int, int] = {}
        start = 0
        for group, member in members:
            for place, unit in enumerate(units[group.name]):
                at.update(dict.fromkeys(member.channels[unit], start + place))
            start += len(units[group.name])
        self.index = torch.tensor([at.get(channel, start) for channel in living], device=device)

    def factor(self, of: Callable[[str], Tensor | None]) -> Tensor | None:
        """[channels] what their units' factors are, one for channels of no group; nothing if no unit has any."""
        parts = [of(group) for group in self.groups]
        like = next((part for part in parts if part is not None), None)
        if like is None:
            return None
        whole = [like.new_ones(size) if part is None else part for part, size in zip(parts, self.sizes, strict=True)]
        return torch.cat([*whole, like.new_ones(1)])[self.index]


def _apart(members: Sequence[tuple[Group, Member]]) -> list[list[tuple[Group, Member]]]:
    """The same, those that share channels in different lists."""
    found: list[tuple[set[int], list[tuple[Group, Member]]]] = []
    for group, member in members:
        own = {channel for element in member.channels for channel in element}
        fits = next((place for place in found if not place[0] & own), None)
        if fits is None:
            found.append(fits := (set(), []))
        fits[0].update(own)
        fits[1].append((group, member))
    return [its for _, its in found]


def weighted_norm(norm: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
    """What a norm over channels makes of `x` if each channel counts as much as its weight, from 0 to 1.

    With weights of zeros and ones, what is on is what the norm over those channels alone would make of them.

    Args:
        norm: a LayerNorm over one dimension, or a GroupNorm.
        x: [N, ..., C] for a LayerNorm whose class is not two-dimensional, else [N, C, ...].
        weights: [C].
    """
    last = isinstance(norm, nn.LayerNorm) and "2d" not in type(norm).__name__
    channels = x if last else x.movedim(1, -1)
    if isinstance(norm, nn.GroupNorm):
        # over the channels of a group and all positions
        grouped = channels.unflatten(-1, (norm.num_groups, -1)).movedim(-2, 1).flatten(2, -2)
        shares = weights.view(1, norm.num_groups, 1, -1).expand(1, -1, grouped.shape[2], -1)
        done = _standardised(grouped, shares, (-2, -1), norm.eps)
        middle = channels.shape[1:-1]
        done = done.unflatten(2, middle).movedim(1, -2).flatten(-2)
    else:
        done = _standardised(channels, weights, (-1,), norm.eps)
    if norm.weight is not None:
        done = done * norm.weight
    if norm.bias is not None:
        done = done + norm.bias
    for part in ("drop", "act"):  # timm has norms that go on
        done = getattr(norm, part, nn.Identity())(done)
    return done if last else done.movedim(-1, 1)


def _standardised(x: Tensor, weights: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    total = weights.expand_as(x).sum(dims, keepdim=True).clamp(min=1e-6)
    mean = (x * weights).sum(dims, keepdim=True) / total
    variance = ((x - mean).square() * weights).sum(dims, keepdim=True) / total
    return (x - mean) * (variance + eps).rsqrt()


def _is_part_of_way(module: nn.Module, members: Sequence[tuple[Group, Member]]) -> bool:
    """Whether channels only pass a convolution (depthwise, or group by group): who reads what it makes is masked."""
    if getattr(module, "groups", 1) == 1:
        return False
    size = module.in_channels // module.groups
    return all(len(own) == size * len({c // size for c in own}) for _, member in members for own in member.channels)


def _folded(module: nn.Module, weight: Tensor, factor: Tensor) -> Tensor:
    """The weight of a layer that is given channels without their factors."""
    if getattr(module, "transposed", False):
        return weight * factor.view(-1, *[1] * (weight.ndim - 1))
    if getattr(module, "groups", 1) > 1:  # channels of one place within the groups have one factor
        factor = factor[: weight.shape[1]]
    return weight * factor.view(1, -1, *[1] * (weight.ndim - 2))


def _numbered(model: nn.Module) -> nn.Module:
    """A copy in which every parameter and buffer that is kept counts its places from 0."""
    copied = copy.deepcopy(model)
    for name, value in list(copied.state_dict(keep_vars=True).items()):
        owner, _, last = name.rpartition(".")
        holder, places = copied.get_submodule(owner), torch.arange(value.numel()).view(value.shape)
        if isinstance(value, nn.Parameter):
            setattr(holder, last, nn.Parameter(places, requires_grad=False))
        else:
            setattr(holder, last, places)
    return copied


def _key(name: str) -> str:
    """``module/parameter`` of a name in a state dict."""
    owner, _, last = name.rpartition(".")
    return f"{owner}/{last}"
