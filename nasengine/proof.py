"""That a group can be narrowed: the narrowed model computes what the whole one does with those channels silenced.

Silenced means: whoever reads the channels sees zeros (queries, which no layer reads, are made as zeros), and norms over
channels are taken over those that stay. All in fp64, in eval mode, with random weights, statistics and biases, since
zeros hide mistakes.
"""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nasengine.compact import BATCH_NORMS, Cut, cut, named, narrow
from nasengine.coupling import Frozen, Group
from nasengine.cutting import recipe
from nasengine.errors import told
from nasengine.written_sizes import sizes

TOLERANCE = 1e-12
"""Rounding stays a thousand times below; a group that is wrong may be felt in the output as little as 1e-8."""
GATED = ("in", "queries")
"""Sides of layers at which channels are silenced."""
LATE = "there was no time left to prove it"
UNSEEN = "nothing that it does is seen in the output"


def proved(
    model: nn.Module, candidates: Sequence[Group], images: Tensor, stream: torch.Generator, until: float = math.inf
) -> tuple[tuple[Group, ...], tuple[Frozen, ...], float]:
    """Groups that hold, all at once, those that do not, and the largest relative difference of those that do.

    Args:
        model: in fp64 and eval mode; it stays as it is.
        candidates: that may be wrong.
        images: [N, C, H, W] in fp64.
        stream: for which elements go.
        until: seconds of this process's own time; what is not proved by then is frozen.
    """
    seen = _seen(copy.deepcopy(model), candidates, images)
    frozen = [Frozen(group.name, group.width, UNSEEN) for group in candidates if group.name not in seen]
    largest = 0.0

    def with_more(held: tuple[Group, ...], more: tuple[Group, ...]) -> tuple[Group, ...]:
        nonlocal largest
        if not more:
            return held
        if time.process_time() > until:
            frozen.extend(Frozen(group.name, group.width, LATE) for group in more)
            return held
        difference, reason = _checked(model, held + more, images, stream)
        if not reason:
            largest = max(largest, difference)
            return held + more
        if len(more) == 1:
            (group,) = more
            if numbered := _with_sizes(model, group):
                return with_more(held, (numbered,))
            frozen.append(Frozen(more[0].name, more[0].width, reason))
            return held
        half = len(more) // 2
        return with_more(with_more(held, more[:half]), more[half:])

    groups = with_more((), tuple(group for group in candidates if group.name in seen))
    return groups, tuple(frozen), largest


def _checked(model: nn.Module, groups: Sequence[Group], images: Tensor, stream: torch.Generator) -> tuple[float, str]:
    """Relative difference with random elements off in all these groups, and what is wrong, if anything is."""
    kept = {group.name: _some(group.width, stream) for group in groups}
    try:
        difference = relative_difference(model, recipe(groups, kept), images)
    except Exception as error:  # a model that is cut wrongly may fail in any way
        return 0.0, f"cut, the model no longer runs ({told(error)})"
    if difference < TOLERANCE:
        return difference, ""
    return difference, f"cut, the model computes something else (by {difference:.1g} of its output)"


def _with_sizes(model: nn.Module, group: Group) -> Group | None:
    """The group with what the model may have written down of its channels; nothing if it has that already."""
    found = tuple(sizes(model, {member.of: member.channels for member in group.members}))
    return None if not found or set(found) <= set(group.members) else replace(group, members=(*group.members, *found))


def _some(width: int, stream: torch.Generator) -> list[int]:
    """At least half of the elements, and not all."""
    count = int(torch.randint((width + 1) // 2, width, (), generator=stream))
    return sorted(torch.randperm(width, generator=stream)[:count].tolist())


@torch.no_grad()
def relative_difference(model: nn.Module, cuts: Sequence[Cut], images: Tensor) -> float:
    """Largest difference between the model silenced and the model cut, over the largest output."""
    tensors = {id(value): value for value in (*model.parameters(), *model.buffers())}  # are shared, a cut makes others
    narrower = cut(copy.deepcopy(model, tensors), cuts).eval()  # in eval mode anew: some forget then what they kept
    found = narrower(images)
    with silenced(model, cuts):
        expected = model(images)
    if found.shape != expected.shape:
        raise ValueError(f"its output is {list(found.shape)} instead of {list(expected.shape)}")
    return float((found - expected).abs().max() / expected.abs().max())


@contextmanager
def silenced(model: nn.Module, cuts: Sequence[Cut]) -> Iterator[None]:
    """The model computes as if the channels that are cut were not there, at its full width."""
    hooks = []
    try:
        for one in cuts:
            layer = named(model, one["layer"])
            if one["side"] in GATED:
                mask = torch.zeros(one["of"], dtype=torch.float64)
                mask[one["keep"]] = 1
                hooks.append(_gated(layer, one["side"], mask))
            elif isinstance(layer, nn.LayerNorm | nn.GroupNorm):
                hooks.append(_over_the_rest(layer, narrow(copy.deepcopy(layer), {"through": one["keep"]}), one["keep"]))
        for name, its in _other_norms(model, cuts).items():
            norm = model.get_submodule(name)
            hooks.append(_over_the_rest(norm, cut(copy.deepcopy(norm), its), its[0]["keep"]))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _gated(module: nn.Module, side: str, mask: Tensor) -> Any:
    """What it reads, or the queries that it makes, times a factor for each channel."""

    def reads(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x, *rest = given
        return times(module, x, mask.to(x)), *rest

    def makes(_: nn.Module, __: tuple[Tensor, ...], made: Tensor) -> Tensor:
        return times(module, made, mask.to(made))

    return module.register_forward_pre_hook(reads) if side == "in" else module.register_forward_hook(makes)


def times(module: nn.Module, x: Tensor, factor: Tensor) -> Tensor:
    """What a layer reads or makes, its channels times a factor [C] each."""
    return x * (factor if isinstance(module, nn.Linear) else factor.view(-1, *[1] * (x.ndim - 2)))


def _other_norms(model: nn.Module, cuts: Sequence[Cut]) -> dict[str, list[Cut]]:
    """Norms of which torch knows the parameters alone (root mean squares, global responses): name -> their cuts."""
    found: dict[str, list[Cut]] = defaultdict(list)
    for one in cuts:
        owner, _, last = one["layer"].rpartition(".")
        module = model.get_submodule(owner)
        norm = "norm" in type(module).__name__.lower() and not any(module.children())
        if norm and isinstance(named(model, one["layer"]), Tensor):
            found[owner].append({**one, "layer": last})
    return found


def _over_the_rest(norm: nn.Module, narrower: nn.Module, keep: list[int]) -> Any:
    """Normalises over the channels that stay; the others are zero behind it."""
    dim = 1 if isinstance(norm, nn.GroupNorm) or "2d" in type(norm).__name__ else getattr(norm, "channel_dim", -1)
    index = torch.tensor(keep)

    def hook(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> Tensor:
        places = index.to(made.device)
        return torch.zeros_like(made).index_copy(dim, places, narrower(given[0].index_select(dim, places)))

    return norm.register_forward_hook(hook)


def _seen(model: nn.Module, groups: Sequence[Group], images: Tensor) -> set[str]:
    """Names of the groups that the output depends on; of others the proof would prove nothing."""
    gates = {
        (member.layer, member.side): torch.ones(member.of, dtype=torch.float64, requires_grad=True)
        for group in groups
        for member in group.members
        if member.side in GATED
    }
    if not gates:
        return set()
    hooks = [_gated(model.get_submodule(layer), side, gate) for (layer, side), gate in gates.items()]
    try:
        slopes = torch.autograd.grad(model(images).square().sum(), list(gates.values()), allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    felt = {place: slope for place, slope in zip(gates, slopes, strict=True) if slope is not None}
    return {
        group.name
        for group in groups
        for member in group.members
        if (place := (member.layer, member.side)) in felt
        if felt[place][[c for element in member.channels for c in element]].any()
    }


def randomised(model: nn.Module, shape: Sequence[int], stream: torch.Generator) -> nn.Module:
    """The model itself with random weights, none of them zero; batch norms know about what they meet."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(_random(parameter, stream))
        norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS) and module.track_running_stats]
        for norm in norms:
            norm.momentum = 1.0
        model.train()(torch.randn((4, *shape[1:]), generator=stream))
        for norm in norms:
            mean, variance = norm.running_mean, norm.running_var
            mean.add_(variance.mean().sqrt() * torch.randn(mean.shape, generator=stream) / 4)
            variance.add_(variance.mean() * (0.5 + torch.rand(mean.shape, generator=stream)))
    return model.eval()


def _random(parameter: Tensor, stream: torch.Generator) -> Tensor:
    noise = torch.randn(parameter.shape, generator=stream)
    if parameter.ndim < 2:
        return noise.sign() * (0.5 + torch.rand(parameter.shape, generator=stream))
    return noise * (2 / parameter[0].numel()) ** 0.5
