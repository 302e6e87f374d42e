"""Heads of attention as groups, and the width that they share, found by what each channel depends on.

A head's part of the attended values is laid out one head after the other in what the last layer of an attention reads.
The slopes of that part say which rows of which layers are the head's own: so it does not matter whether queries, keys
and values are one layer or three, and in what order. Heads that are mixed, or laid out otherwise, have slopes in each
other's rows.

An element of the width is the channels of one place in all heads, of values as of queries and keys. What is read of a
place moves with the values of that place alone, but with all queries and keys of its head: so they are told apart.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from nasengine.compact import channels, cut, named, parameter_dim
from nasengine.coupling import Frozen, Group, Member
from nasengine.cutting import recipe
from nasengine.errors import told
from nasengine.tracing import SINGLE
from nasengine.written_sizes import sizes

CONVOLUTION = nn.modules.conv._ConvNd
MIXED = "attention: its heads cannot be told apart"
STIFF = "attention: with fewer heads it no longer runs"
NARROW = "attention: with narrower heads it no longer runs"
UNSCALED = "attention: no scale is written down that could stay when heads get narrower"
HIDDEN = "attention: its queries and keys cannot be seen"
Rows = tuple[int, ...]


def groups(model: nn.Module, images: Tensor) -> tuple[tuple[Group, ...], tuple[Frozen, ...]]:
    """Candidates for each attention with several heads, those for widths last, and what of them cannot be cut.

    Args:
        model: with weights that are not zero, all of which require gradients, in eval mode.
        images: [N, C, H, W], some, lest a row be found idle by chance.
    """
    with sdpa_kernel(SDPBackend.MATH):  # others leave rounding where a slope is exactly 0
        return _groups(model, _calls(model, images))


def _groups(model: nn.Module, calls: dict[str, _Call]) -> tuple[tuple[Group, ...], tuple[Frozen, ...]]:
    found: list[Group] = []
    widths: list[Group] = []
    frozen: list[Frozen] = []
    for name, call in calls.items():
        attention, heads = model.get_submodule(name), model.get_submodule(name).num_heads
        width = channels(named(attention, call.reader), "in") if call.reader else None
        if not width or width % heads:
            continue
        members = _members(attention, call, heads, width)
        if members is None:
            frozen.append(Frozen(name, heads, MIXED))
        elif any(member.side == "out" for member in members):
            whole = Group(name, heads, tuple(members))
            across = _width(attention, call, f"{name} width", whole)
            for one, stiff, those in ((whole, STIFF, found), (across, NARROW, widths)):
                if isinstance(one, Frozen):
                    frozen.append(one)
                elif said := _stiff(attention, call, one):
                    frozen.append(Frozen(one.name, one.width, f"{stiff} ({said})"))
                else:
                    prefixed = (replace(member, layer=f"{name}.{member.layer}".rstrip(".")) for member in one.members)
                    those.append(replace(one, members=tuple(prefixed)))
    return (*found, *widths), tuple(frozen)


@dataclass
class _Call:
    """What an attention was given, the layer in it that ran last, and what that layer read."""

    given: tuple[Any, ...] = ()
    named: dict[str, Any] = field(default_factory=dict)
    reader: str = ""
    read: Tensor | None = None


def _calls(model: nn.Module, images: Tensor) -> dict[str, _Call]:
    """Each attention with several heads that holds no other such."""
    several = [
        name
        for name, module in model.named_modules()
        if name and isinstance(heads := getattr(module, "num_heads", None), int) and heads > 1
    ]
    calls = {name: _Call() for name in several if not any(other.startswith(f"{name}.") for other in several)}
    with ExitStack() as hooks:
        for name, call in calls.items():
            attention = model.get_submodule(name)
            hooks.callback(attention.register_forward_pre_hook(_notes_call(call), with_kwargs=True).remove)
            for within, layer in attention.named_modules():
                if isinstance(layer, CONVOLUTION | nn.Linear):
                    hooks.callback(layer.register_forward_pre_hook(_notes_read(call, within)).remove)
        if calls:
            model(images)
    return calls


def _notes_call(call: _Call) -> Any:
    def hook(_: nn.Module, given: tuple[Any, ...], its: dict[str, Any]) -> None:
        call.given, call.named = given, its

    return hook


def _notes_read(call: _Call, name: str) -> Any:
    def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        call.reader, call.read = name, given[0]

    return hook


def _stiff(attention: nn.Module, call: _Call, group: Group) -> str:
    """What the attention says if a head is taken from it; nothing if it runs."""
    cuts = recipe([group], {group.name: range(1, group.width)})
    attention.eval()  # anew: some forget then what they kept, which could not be copied
    try:
        with torch.no_grad():
            cut(copy.deepcopy(attention), cuts)(*call.given, **call.named)
    except Exception as error:  # an attention that is cut may fail in any way
        return told(error)
    return ""


def _members(attention: nn.Module, call: _Call, heads: int, width: int) -> list[Member] | None:
    """All that has rows for each head; nothing if heads share some of their rows, but not all."""
    names, parameters = zip(*attention.named_parameters(), strict=True)
    parts = call.read.chunk(heads, dim=1 if isinstance(named(attention, call.reader), CONVOLUTION) else -1)
    members: list[Member] = []
    for name, slopes in zip(names, zip(*_slopes(parts, parameters), strict=True), strict=True):
        if any(slope is None for slope in slopes):
            continue
        places = _sides(attention, name)
        found = {(layer, sides): _alike([_touched(slope, dim) for slope in slopes]) for layer, sides, dim in places}
        own = next((place for place, rows in found.items() if _apart(rows)), None)
        if own:
            layer, sides = own
            of = channels(named(attention, layer), sides[0])
            members += [Member(layer, side, of, tuple(found[own])) for side in sides]
        elif any(len(set(rows)) > 1 for rows in found.values()):
            return None
    size = width // heads
    read = tuple(tuple(range(head * size, (head + 1) * size)) for head in range(heads))
    reader = Member(call.reader, "in", width, read)
    return [*members, reader, *sizes(attention, {width: read}), *_counts(attention, heads)]


def _width(attention: nn.Module, call: _Call, name: str, heads: Group) -> Group | Frozen:
    """The channels of one place in all heads, together; of several places where values are wider than keys."""
    reader = next(member for member in heads.members if (member.layer, member.side) == (call.reader, "in"))
    valued = reader.of // heads.width
    if not isinstance(getattr(attention, "scale", None), float):
        return Frozen(name, valued, UNSCALED)
    compared = channels(attention, "width") or 1
    width = math.gcd(compared, valued)
    if width == 1:
        return Frozen(name, width, SINGLE)
    members: list[Member] = []
    queries: tuple[Member, ...] = ()
    for member, moving in _moving(attention, call, heads, valued):
        places = range(len(member.channels[0]))
        asked = [place for place in places if any(own[place] in moving for own in member.channels)]
        given = [place for place in places if place not in asked]
        if len(asked) % compared or len(given) % valued:
            continue  # it has one number for each head
        members.append(_across(member, asked, given, width))
        if asked and isinstance(named(attention, member.layer), nn.Module):
            queries = (replace(_across(member, asked[:compared], [], width), side="queries"),)
    if not queries:
        return Frozen(name, width, HIDDEN)
    each = {n: _combed(range(n), width) for n in (compared, valued, heads.width * compared, reader.of)}
    members += [replace(reader, channels=each[reader.of]), *queries, Member("", "width", compared, each[compared])]
    return Group(name, width, (*members, *sizes(attention, each)))


def _moving(attention: nn.Module, call: _Call, heads: Group, width: int) -> Iterator[tuple[Member, set[int]]]:
    """What makes a head's channels, and those that move what is read of its even places as well as of the odd ones."""
    names, parameters = zip(*attention.named_parameters(), strict=True)
    dim = 1 if isinstance(named(attention, call.reader), CONVOLUTION) else -1
    parts = [
        call.read.index_select(dim, torch.tensor([c for c in range(heads.width * width) if c % width % 2 == parity]))
        for parity in (0, 1)
    ]
    slopes = dict(zip(names, zip(*_slopes(parts, parameters), strict=True), strict=True))
    for member in heads.members:
        layer = named(attention, member.layer)
        parameter = member.layer if isinstance(layer, Tensor) else f"{member.layer}.weight"
        if parameter in slopes and (member.layer, member.side) != (call.reader, "in"):
            across = parameter_dim(layer) if isinstance(layer, Tensor) and member.side == "through" else 0
            even, odd = (set(_touched(slope, across)) for slope in slopes[parameter])
            yield member, even & odd


def _across(member: Member, asked: list[int], given: list[int], width: int) -> Member:
    """The same, by places within heads: of queries and keys those asked, of values those given."""
    elements = [(*a, *b) for a, b in zip(_combed(asked, width), _combed(given, width), strict=True)]
    its = (tuple(sorted(own[place] for own in member.channels for place in places)) for places in elements)
    return replace(member, channels=tuple(its))


def _combed(places: Sequence[int], width: int) -> tuple[tuple[int, ...], ...]:
    """So many lots: each has every `width`-th place."""
    return tuple(tuple(places[first::width]) for first in range(width))


def _slopes(parts: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[tuple[Tensor | None, ...]]:
    """For each head, how its part of what was read moves with each parameter."""
    stream = torch.Generator().manual_seed(0)
    sums = [(part * torch.randn(part.shape, generator=stream)).sum() for part in parts]
    return [torch.autograd.grad(one, parameters, retain_graph=True, allow_unused=True) for one in sums]


def _sides(attention: nn.Module, parameter: str) -> list[tuple[str, tuple[str, ...], int]]:
    """Where a parameter may hold rows of heads: its layer (or itself), the sides that go with them, its dimension."""
    owner, _, last = parameter.rpartition(".")
    layer = attention.get_submodule(owner)
    if isinstance(layer, CONVOLUTION | nn.Linear):
        depthwise = isinstance(layer, CONVOLUTION) and layer.groups > 1
        return [(owner, ("out", "in") if depthwise else ("out",), 0)] if last == "weight" else []
    if channels(layer, "through") is not None:
        return [(owner, ("through",), 0)] if last == "weight" else []
    across = parameter_dim(getattr(layer, last))
    through = [] if across is None else [(parameter, ("through",), across)]
    return through if across == 0 else [(parameter, ("rows",), 0), *through]


def _touched(slope: Tensor, dim: int) -> Rows:
    """Numbers of the slices that are not all zero."""
    slices = slope.movedim(dim, 0).reshape(slope.shape[dim], -1)
    return tuple(slices.any(1).nonzero().flatten().tolist())


def _alike(rows: list[Rows]) -> list[Rows]:
    """Heads lie at equal distances; where one has a row, all have, but some are idle by chance behind an activation."""
    if not all(rows) or len({row for its in rows for row in its}) < sum(map(len, rows)):
        return rows
    step = int(median(after[0] - before[0] for before, after in pairwise(rows)))
    first = {row - head * step for head, its in enumerate(rows) for row in its}
    return [tuple(sorted(row + head * step for row in first)) for head in range(len(rows))]


def _apart(rows: Sequence[Rows]) -> bool:
    """Whether each head has rows, as many as the others, and none of theirs."""
    each = {len(its) for its in rows}
    return len(each) == 1 and 0 not in each and len({row for its in rows for row in its}) == len(rows[0]) * len(rows)


def _counts(attention: nn.Module, heads: int) -> Iterator[Member]:
    """The number of heads itself, and others that say the same."""
    each = tuple((head,) for head in range(heads))
    yield Member("", "heads", heads, each)
    for name, value in vars(attention).items():
        if type(value) is int and value == heads and "heads" in name and name != "num_heads":
            yield Member(name, "size", heads, each)
