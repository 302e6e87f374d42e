"""What may be cut of a model, found out once: its channel groups, its blocks, and a plan that counts it exactly.

The plan's layers are the model's own modules, each with what it takes as a function of the channels that groups keep.
That it counts what is really there is tried on the model cut at random.
"""

from __future__ import annotations

import copy
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nasengine import narrowing, zoo
from nasengine.architecture import Choice, Cost, Layer, Plan, lowered, smallest
from nasengine.cache import whole
from nasengine.compact import channels as channels_of
from nasengine.compact import cut, parameter_dim, without
from nasengine.config import SearchConfig
from nasengine.coupling import SECONDS, Coupling, Group, coupling
from nasengine.cutting import recipe
from nasengine.depth import Run, run_watched, runs
from nasengine.errors import ConfigError, ExportError, told
from nasengine.flat import weight_shape
from nasengine.multiply_adds import Count, counted
from nasengine.onnx_trace import onnx_of
from nasengine.spaces import imported
from nasengine.splits import DataFacts

TRIALS = 3
"""Random cuts on which the plan's count is compared with the model's own."""
PLAIN_WEIGHTS = ("Conv2d", "Conv2dSame", "Linear")
"""Kinds of layers that use their weight as it is, so that single numbers of it can be off."""
OTHER, ONE = "(other)", "(one)"
"""The layer of what belongs to no module, and the group of what has no channels."""


@dataclass(frozen=True)
class Survey:
    """All that is known of a model for images of one kind.

    Attributes:
        plan: of everything that may go; the blocks of a run are the units of an operation choice.
        coupling: channel groups, each a filter choice of the plan.
        runs: of removable blocks, in the order of the plan's operation choices.
        facts: sizes, and what can be cut and what not, for people and programs (see `narrowing.facts`).
    """

    plan: Plan
    coupling: Coupling
    runs: tuple[Run, ...]
    facts: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "plan": imported.to_json(self.plan),
            "coupling": self.coupling.to_json(),
            "runs": [asdict(run) for run in self.runs],
            "facts": dict(self.facts),
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Survey:
        """What `to_json` gave, also after a way through a file."""
        found = tuple(Run(run["name"], tuple(run["blocks"])) for run in raw["runs"])
        return cls(imported.from_json(raw["plan"]), Coupling.from_json(raw["coupling"]), found, raw["facts"])


def ensured(config: SearchConfig, facts: DataFacts) -> Survey | None:
    """What is known of the model of an imported space, after a first look if need be; nothing for other spaces.

    Raises:
        ConfigError: if the model cannot be built for these images, or cannot be followed.
    """
    if config.space.kind != "imported":
        return None
    space, shape = config.space, _shape(config, facts)
    known = imported.survey(imported.file(space.library, space.model, **shape))
    return Survey.from_json(known) if known else written(space.library, space.model, **shape)


def is_due(config: SearchConfig, facts: DataFacts) -> bool:
    """Whether there is a model that nobody has looked at: `ensured` will take its time."""
    space = config.space
    return space.kind == "imported" and not imported.survey(
        imported.file(space.library, space.model, **_shape(config, facts))
    )


def _shape(config: SearchConfig, facts: DataFacts) -> dict[str, int]:
    return {"image_size": config.data.image_size, "channels": facts.channels, "classes": len(facts.class_names)}


def written(
    library: str, model: str, *, image_size: int, channels: int, classes: int, seconds: float = SECONDS
) -> Survey:
    """Looks at a model and keeps what was found in the cache; arguments as of `zoo.built` and `surveyed`."""
    shape = {"image_size": image_size, "channels": channels, "classes": classes}
    net = zoo.built(library, model, **shape)
    found = surveyed(net, torch.zeros(1, channels, image_size, image_size), f"{model} ({library})", seconds=seconds)
    said = {"format": imported.FORMAT, "library": library, "model": model, **shape, **found.to_json()}
    said["weights"] = zoo.shapes(library, model, **shape)
    with whole(imported.file(library, model, **shape)) as file:
        file.write(json.dumps(said, separators=(",", ":")).encode())
    return found


def surveyed(model: nn.Module, example: Tensor, name: str, *, seconds: float = SECONDS) -> Survey:
    """Finds what may be cut.

    Args:
        model: on the CPU, in eval mode; it stays as it is.
        example: a batch of one image.
        name: for the words about it.
        seconds: for finding and proving its channel groups.

    Raises:
        ConfigError: if they are not found in that time, or its size cannot be followed.
    """
    count = counted(model, example)
    try:
        onnx_of(model, example)
    except ExportError as error:
        raise ConfigError.at(zoo.FIELD, f"{name}: {error}") from None
    found = coupling(model, example, seconds=seconds)
    depth = runs(model, example)
    if not found.groups and not depth:
        reasons = narrowing.reasons(found.frozen)
        raise ConfigError.at(zoo.FIELD, f"nothing of {name} can be cut{reasons}; take another model")
    plan = planned(model, example, found.groups, depth, count)
    _check(plan, model, example, found.groups, depth)
    least = smallest(plan, ("operation", "filter"), "macs") / count.macs
    return Survey(plan, found, depth, narrowing.facts(name, example.shape[-1], found, depth, count, least))


def depth_choice(run: Run) -> str:
    """Name of the operation choice whose units are the blocks of a run."""
    return f"depth of {run.blocks[0]}"


def recipe_of(
    groups: Iterable[Group], depth: Iterable[Run], kept: Mapping[str, Sequence[int]]
) -> tuple[list[Any], list[str]]:
    """The cuts and the removed blocks of a decision on operations and filters (see `compact.Borrowed`)."""
    removed = [
        block
        for run in depth
        for number, block in enumerate(run.blocks)
        if number not in kept.get(depth_choice(run), range(len(run.blocks)))
    ]
    inside = tuple(f"{block}." for block in removed)
    cuts = recipe(groups, {group.name: kept[group.name] for group in groups if group.name in kept})
    return [one for one in cuts if not (one["layer"] in removed or one["layer"].startswith(inside))], removed


# -- the plan ------------------------------------------------------------------------------------------------------


def planned(model: nn.Module, example: Tensor, groups: Sequence[Group], depth: Sequence[Run], count: Count) -> Plan:
    """The plan of a model; its size with all kept is that of the model."""
    places, own = _places(model, example), _owners(model)
    order = [name for name in places if name and (own[name] or count.by_layer.get(name))]
    blocks: dict[str, str] = {}
    for before, name in zip(("", *order), order, strict=False):  # a norm on its own is shown with what it is behind
        alone = channels_of(model.get_submodule(name), "through") is not None and "." not in name
        blocks[name] = blocks[before] if before and alone else _block(model, name, depth)
    names = list(dict.fromkeys(blocks.values()))
    number = {name: names.index(block) for name, block in blocks.items()}
    sides = _Sides(groups)
    modules = [_layer(model, name, own[name], sides, count, places[name], number[name]) for name in order]
    other = replace(_layer(model, "", own[""], sides, count, 0, 0), name=OTHER)
    layers = _threaded(modules, other, depth)
    widths = {**{group.name: group.width for group in groups}, **sides.fixed, ONE: 1}
    widths |= {name: widths[first] * widths[second] for name, (first, second) in sides.crossings.items()}
    plan = Plan(
        space="imported", image_size=example.shape[-1], layers=layers, groups=widths, crossings=sides.crossings,
        choices=(), blocks=tuple(names), exits=(layers[-1].name,), exit_blocks=(len(names),),
    )  # fmt: skip
    return replace(plan, choices=tuple(_choices(plan, groups, depth, number)))


def _choices(plan: Plan, groups: Sequence[Group], depth: Sequence[Run], number: Mapping[str, int]) -> list[Choice]:
    found = [
        Choice(
            name=depth_choice(run), granularity="operation", block=plan.layer[depth_choice(run)].block,
            units=len(run.blocks), floor=0, labels=run.blocks, optional=True,
        )
        for run in depth
    ]  # fmt: skip
    for group in groups:
        makers = [_module_of(member.layer, number) for member in group.members if member.side == "out"]
        found.append(Choice(name=group.name, granularity="filter", block=number[makers[0]], units=group.width))
    for layer in plan.layers:
        if layer.prunable:
            units = torch.Size(weight_shape(plan, layer)).numel()
            found.append(Choice(name=layer.weights, granularity="weight", block=layer.block, units=units))
    return found


def _layer(
    model: nn.Module, name: str, own: dict[str, nn.Parameter], sides: _Sides, count: Count, made: int, block: int
) -> Layer:
    """What a module takes: its weight, and the rest of its own parameters (which are taken out of `own`)."""
    module, macs = model.get_submodule(name), count.by_layer.get(name, 0)
    costs: list[Cost] = []
    weight: dict[str, Any] = {}
    if isinstance(module, nn.modules.conv._ConvNd | nn.Linear) and "weight" in own:
        out, reads, ordered = sides.of_weight(name, module)
        size = own.pop("weight").numel()
        is_followed = macs % size == 0
        weight = {
            "channels": out,
            "reads": reads,
            "taps": tuple(module.weight.shape[2:]),
            "positions": macs // size if is_followed else 0,
            "prunable": ordered and type(module).__name__ in PLAIN_WEIGHTS and macs >= size and set(own) <= {"bias"},
        }
        macs = 0 if is_followed else macs
        if "bias" in own:
            costs.append(Cost("params", 1, sides.listed(name, "out", own.pop("bias").numel())))
    for parameter, value in own.items():
        costs += sides.of_parameter(name, parameter, value, module)
    if macs and sides.members.keys() & {(name, "heads"), (name, "width")}:  # products of queries, keys and values
        heads, width = module.num_heads, channels_of(module, "width") if (name, "width") in sides.members else 0
        each, macs = divmod(macs, heads * (width or 1))
        costs.append(Cost("macs", each, sides.listed(name, "heads", heads), sides.listed(name, "width", width)))
    through = channels_of(module, "through")
    usual = {
        "channels": sides.listed(name, "through", through) if through else (ONE,),
        "positions": made // through if through else 0,
    }
    return Layer(
        name=name, op="module", inputs=(), block=block, **{**usual, **weight}, costs=(*costs, *_constants(0, macs))
    )


class _Sides:
    """Which groups the channels of each side of each layer belong to; the rest are groups that stay whole."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.fixed: dict[str, int] = {}
        self.crossings: dict[str, tuple[str, str]] = {}
        self.members: dict[tuple[str, str], list[tuple[str, tuple[tuple[int, ...], ...]]]] = defaultdict(list)
        for group in groups:
            for member in group.members:
                self.members[member.layer, member.side].append((group.name, member.channels))

    def listed(self, layer: str, side: str, width: int) -> tuple[str, ...]:
        """Groups of a side's channels, each as often as an element of it has channels there."""
        return self._listed(self.members[layer, side], width)[0]

    def of_weight(self, layer: str, module: nn.Module) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
        """Groups of both dimensions of a weight, and whether they list its channels in their order."""
        sides = ("in", "out") if getattr(module, "transposed", False) else ("out", "in")
        first, second = (self.members[layer, side] for side in sides)
        rows, columns = module.weight.shape[:2]
        if getattr(module, "groups", 1) > 1 and not module.transposed:  # the second counts within each of the groups
            second = [] if _goes_as_wholes(second, columns) else _within(second, columns)
        (out, is_first), (reads, is_second) = self._listed(first, rows), self._listed(second, columns)
        return out, reads, is_first and is_second

    def of_parameter(self, layer: str, name: str, value: Tensor, module: nn.Module) -> list[Cost]:
        """What a parameter takes that is no weight of a convolution or a linear layer."""
        free = f"{layer}.{name}" if layer else name
        dims = {
            side: dim for side, dim in (("rows", 0), ("through", parameter_dim(value))) if (free, side) in self.members
        }
        if dims:
            widths = [value.shape[dim] for dim in dims.values()]
            listings = [self.listed(free, side, width) for side, width in zip(dims, widths, strict=True)]
            return [Cost("params", value.numel() // math.prod(widths), *listings)]
        width = channels_of(module, "through") or 0
        if (layer, "through") in self.members and value.numel() == width:
            return [Cost("params", 1, self.listed(layer, "through", width))]
        return list(_constants(value.numel(), 0))

    def _listed(self, members: Sequence[Any], width: int) -> tuple[tuple[str, ...], bool]:
        owner, sizes = self._owners(members)
        found: list[str] = []
        at = 0
        while at < width:
            if at not in owner:
                end = next((c for c in range(at, width) if c in owner), width)
                found.append(self._whole(end - at))
            else:
                group = owner[at][0]
                end = at + sizes[group]
                if [owner.get(c) for c in range(at, end)] != [(group, e) for e in range(sizes[group])]:
                    return self._counted(owner, sizes, width), False
                found.append(group)
            at = end
        return tuple(found), True

    def _owners(self, members: Sequence[Any]) -> tuple[dict[int, tuple[str, int]], dict[str, int]]:
        """Channel -> its group, or the crossing of its two, and which element of that; and how wide these are."""
        owner: dict[int, tuple[str, int]] = {}
        sizes = {group: len(elements) for group, elements in members}
        for group, elements in members:
            for element, own in enumerate(elements):
                for channel in own:
                    if channel in owner:
                        other, place = owner[channel]
                        owner[channel] = self._crossing(other, group), place * len(elements) + element
                    else:
                        owner[channel] = group, element
        crossed = {group for group, _ in owner.values()} - sizes.keys()
        return owner, sizes | {name: math.prod(sizes[part] for part in self.crossings[name]) for name in crossed}

    def _crossing(self, first: str, second: str) -> str:
        name = f"{first} by {second}"
        self.crossings[name] = first, second
        return name

    def _counted(self, owner: Mapping[int, tuple[str, int]], sizes: Mapping[str, int], width: int) -> tuple[str, ...]:
        owned = Counter(group for group, _ in owner.values())
        names = [group for group, channels in owned.items() for _ in range(channels // sizes[group])]
        return (*names, *([self._whole(width - len(owner))] if len(owner) < width else []))

    def _whole(self, width: int) -> str:
        name = f"{width} channels"
        self.fixed[name] = width
        return name


def _goes_as_wholes(members: Sequence[Any], size: int) -> bool:
    """Whether each element has all channels of the groups inside a layer in which it has any."""
    return all(len(own) == size * len({c // size for c in own}) for _, elements in members for own in elements)


def _within(members: Sequence[Any], size: int) -> list[Any]:
    """Elements by their channels' places within the groups inside a layer, the same in all of them."""
    return [(group, tuple(tuple(sorted({c % size for c in own})) for own in elements)) for group, elements in members]


def _threaded(modules: Sequence[Layer], other: Layer, depth: Sequence[Run]) -> tuple[Layer, ...]:
    """All layers so that each reads the one before it; the blocks of a run stand side by side before a `mix`."""
    at = {block: (run, number) for run in depth for number, block in enumerate(run.blocks)}
    found, last, done = [other], other.name, set[str]()
    for layer in modules:
        block = next((block for block in at if layer.name.startswith(f"{block}.") or layer.name == block), None)
        if block is None:
            found.append(replace(layer, inputs=(last,)))
            last = layer.name
        elif (run := at[block][0]).blocks[0] not in done:
            done.add(run.blocks[0])
            name, ends = depth_choice(run), []
            for number, its in enumerate(run.blocks):
                before = last
                for part in (m for m in modules if m.name.startswith(f"{its}.") or m.name == its):
                    found.append(replace(part, inputs=(before,), owner=(name, number)))
                    before = part.name
                ends.append(before)
            found.append(Layer(name=name, op="mix", inputs=(last, *ends), channels=(ONE,), block=layer.block))
            last = name
    return tuple(found)


def _places(model: nn.Module, example: Tensor) -> dict[str, int]:
    """Module -> numbers in what it answers, in the order in which modules begin; those that never run come first."""
    made: dict[str, int] = {}

    def watched(name: str, module: nn.Module) -> list[Any]:
        def enters(*_: Any) -> None:
            made.setdefault(name, 0)

        def leaves(_: nn.Module, __: Any, answer: Any) -> None:
            made[name] += answer.numel() if isinstance(answer, Tensor) else 0

        return [module.register_forward_pre_hook(enters), module.register_forward_hook(leaves)]

    run_watched(model, example, (hook for name, module in model.named_modules() for hook in watched(name, module)))
    return {name: 0 for name, _ in model.named_modules() if name not in made} | made


def _owners(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """Module -> its own parameters by name; one that several have belongs to the first."""
    found: dict[str, dict[str, nn.Parameter]] = {name: {} for name, _ in model.named_modules()}
    for full, parameter in model.named_parameters():
        owner, _, last = full.rpartition(".")
        found[owner][last] = parameter
    return found


def _block(model: nn.Module, name: str, depth: Sequence[Run]) -> str:
    """What a module is shown as a part of: a block that may go, else what the model itself is made of."""
    for run in depth:
        for block in run.blocks:
            if name == block or name.startswith(f"{block}."):
                return block
    first, *rest = name.split(".")
    holder = model.get_submodule(first)
    several = isinstance(holder, nn.Sequential | nn.ModuleList | nn.ModuleDict) and len(holder) > 1
    return f"{first}.{rest[0]}" if several and rest else first


def _module_of(layer: str, known: Mapping[str, int]) -> str:
    """The module of a member of a group, which may be a parameter."""
    return layer if layer in known else layer.rpartition(".")[0]


def _constants(params: int, macs: int) -> tuple[Cost, ...]:
    return tuple(Cost(metric, each) for metric, each in (("params", params), ("macs", macs)) if each)


def _check(plan: Plan, model: nn.Module, example: Tensor, groups: Sequence[Group], depth: Sequence[Run]) -> None:
    """Cuts copies at random, runs and counts them.

    Raises:
        ConfigError: if one does not run, or counts differ.
    """
    stream = torch.Generator().manual_seed(0)
    for _ in range(TRIALS):
        kept = {group.name: _some(group.width, 1, stream) for group in groups}
        kept |= {depth_choice(run): _some(len(run.blocks), 0, stream) for run in depth}
        cuts, removed = recipe_of(groups, depth, kept)
        try:
            found = counted(cut(without(copy.deepcopy(model), removed), cuts), example)
        except Exception as error:  # a model that is cut wrongly may fail in any way
            raise ConfigError.at(
                zoo.FIELD, f"made smaller, it no longer runs ({told(error)}); take larger images or another model"
            ) from None
        expected = lowered(plan, kept)
        for metric, there in (("params", found.params), ("macs", found.macs)):
            if there != expected.size(metric):
                raise ConfigError.at(
                    zoo.FIELD,
                    f"made smaller, it has {there:,} {metric} where {expected.size(metric):,} were foreseen, so no "
                    "size could be promised; take another model",
                )


def _some(width: int, least: int, stream: torch.Generator) -> list[int]:
    count = int(torch.randint(least, width + 1, (), generator=stream))
    return sorted(torch.randperm(width, generator=stream)[:count].tolist())
