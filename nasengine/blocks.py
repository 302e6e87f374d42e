"""A chain as layers with options, and as blocks that are searched one by one: what they hold and what they cost.

Source: DNA (arXiv 1911.13053). A candidate of a block takes one option of each of its layers: an operation, beside the
layer's skip where it has one (a residual block, as in MobileNetV2), or that skip alone, which leaves the layer out.
Besides, the layers between two halvings may have one of several widths, a share of their channels. No torch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from nasengine.architecture import Plan, lowered, operation_sizes

Option = tuple[int, ...]
"""Units of one layer's choice that run together."""
Shares = Mapping[str, float]
"""Channel group of the layers between two halvings -> share of its channels."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """A layer with its options.

    Attributes:
        choice: its operation choice.
        block: number of the plan's block that it is.
        output: the value that it makes.
        group: channels of that value.
        reads: channels of the value that it reads.
        options: a skip alone first, if there is one, then one for each operation.
        inner: channel groups inside of its operations.
    """

    choice: str
    block: int
    output: str
    group: str
    reads: str
    options: tuple[Option, ...]
    inner: tuple[str, ...]

    def runs(self, place: int) -> bool:
        """Whether the option of this place has an operation, with weights of its own; a skip alone has none."""
        return len(self.options[place]) == len(self.options[-1])


@dataclass(frozen=True, kw_only=True)
class Block:
    """Layers that are rated together.

    Attributes:
        first: number of the plan's first block that belongs to it; the stem belongs to the first one.
        source: the value that it reads: the image, or what the block before ends with.
    """

    number: int
    first: int
    source: str
    rungs: tuple[Rung, ...]

    @property
    def border(self) -> str:
        """The value that it ends with."""
        return self.rungs[-1].output

    @property
    def group(self) -> str:
        """Channels of what it ends with."""
        return self.rungs[-1].group

    @property
    def candidates(self) -> int:
        """Of one width."""
        return math.prod(len(rung.options) for rung in self.rungs)

    @property
    def evaluations(self) -> int:
        """Operations to be computed if what candidates share is computed once; for n options each the sum of n^l."""
        return sum(itertools.accumulate((len(rung.options) for rung in self.rungs), lambda a, b: a * b))

    def learns(self, path: Sequence[int]) -> bool:
        """Whether a candidate has weights of its own: the stem's, or those of an operation."""
        return not self.number or any(rung.runs(place) for rung, place in zip(self.rungs, path, strict=True))

    def paths(self) -> Iterator[tuple[int, ...]]:
        """Each candidate as places of its options, those of the last layer moving fastest: the order of all ratings."""
        return itertools.product(*(range(len(rung.options)) for rung in self.rungs))

    def path(self, number: int) -> tuple[int, ...]:
        """The candidate of this number in that order."""
        return next(itertools.islice(self.paths(), number, None))

    def units(self, path: Sequence[int]) -> dict[str, list[int]]:
        """Operation choice -> units that a candidate keeps."""
        return kept_by(self.rungs, path)


def kept_by(layers: Sequence[Rung], path: Sequence[int]) -> dict[str, list[int]]:
    """Operation choice -> units that stay, where each of these layers takes the option of this place."""
    return {rung.choice: list(rung.options[place]) for rung, place in zip(layers, path, strict=True)}


def rungs(plan: Plan) -> list[Rung]:
    """The layers of a chain, from front to back."""
    found = []
    for mix in (layer for layer in plan.layers if layer.op == "mix"):
        ends = [plan.layer[name] for name in mix.inputs]
        choice = ends[0].owner[0]  # type: ignore[index]
        skip = tuple(end.owner[1] for end in ends if end.name in plan.skips)  # type: ignore[index]
        others = [(*skip, unit) for unit in range(plan.choice[choice].units) if unit not in skip]
        own = [layer for layer in plan.layers if layer.owner is not None and layer.owner[0] == choice]
        reads = plan.layer[own[0].inputs[0]].channels[0]
        inner = dict.fromkeys(group for layer in own for group in layer.channels if group in plan.choice)
        found.append(
            Rung(
                choice=choice, block=plan.choice[choice].block, output=mix.name, group=mix.channels[0],
                reads=reads, options=tuple([skip, *others] if skip else others),
                inner=tuple(group for group in inner if group not in (mix.channels[0], reads)),
            )
        )  # fmt: skip
    return found


def divided(plan: Plan, ends: Sequence[int]) -> list[Block]:
    """The blocks of a chain; `ends` has the numbers of layers after which one ends, the last layer's included."""
    layers, found = rungs(plan), list[Block]()
    for number, (first, last) in enumerate(itertools.pairwise((0, *ends))):
        own = tuple(layers[first:last])
        found.append(
            Block(
                number=number,
                first=own[0].block if number else 0,
                source=found[-1].border if number else "image",
                rungs=own,
            )
        )
    return found


def fullest(plan: Plan, ends: Sequence[int]) -> Block:
    """The block with the most candidates."""
    return max(divided(plan, ends), key=lambda block: block.candidates)


def groups(layers: Sequence[Rung]) -> list[str]:
    """Channel groups that layers share, from front to back."""
    return list(dict.fromkeys(rung.group for rung in layers))


def assignments(layers: Sequence[Rung], widths: Sequence[float]) -> list[dict[str, float]]:
    """Every way to give each group one of these shares of its channels."""
    names = groups(layers)
    return [dict(zip(names, shares, strict=True)) for shares in itertools.product(widths, repeat=len(names))]


def filters(plan: Plan, layers: Sequence[Rung], shares: Shares) -> dict[str, list[int]]:
    """Filter choice -> the first channels, as many as these shares are; inside of a layer by what it reads.

    No choice keeps fewer than its floor. What keeps all is not named.
    """
    found: dict[str, list[int]] = {}
    for rung in layers:
        for name, share in (
            (rung.group, shares[rung.group]),
            *((name, shares.get(rung.reads, 1)) for name in rung.inner),
        ):
            choice = plan.choice[name]
            if share < 1:
                found[name] = list(range(max(choice.floor, math.ceil(share * choice.units))))
    return found


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What a chain takes of one metric, at certain widths.

    Attributes:
        fixed: all but the operations.
        options: for each layer what each of its options takes.
    """

    fixed: float
    options: tuple[tuple[float, ...], ...]

    @property
    def least(self) -> float:
        """The smallest network."""
        return self.fixed + sum(map(min, self.options))

    @property
    def most(self) -> float:
        """The largest network with one option a layer."""
        return self.fixed + sum(map(max, self.options))

    def of(self, first: int, path: Sequence[int]) -> float:
        """What a candidate of a block takes that begins with the layer of this number."""
        return sum(options[place] for options, place in zip(self.options[first:], path, strict=False))


def prices(plan: Plan, layers: Sequence[Rung], shares: Shares, metric: str) -> Prices:
    """They add up: no operation changes what another takes."""
    narrow = filters(plan, layers, shares)
    each = operation_sizes(plan, metric, {name: len(plan.living(name, narrow)) for name in plan.groups})
    return Prices(
        fixed=lowered(plan, narrow).size(metric) - sum(each.values()),
        options=tuple(
            tuple(sum(each[rung.choice, unit] for unit in option) for option in rung.options) for rung in layers
        ),
    )


def extremes(plan: Plan, widths: Sequence[float], metric: str) -> tuple[int, int]:
    """Sizes of the smallest and of the largest network with one option a layer, at any of these widths."""
    layers = rungs(plan)
    ends = [prices(plan, layers, dict.fromkeys(groups(layers), share), metric) for share in (min(widths), max(widths))]
    return math.ceil(ends[0].least), round(ends[1].most)


def largest(plan: Plan, layers: Sequence[Rung]) -> tuple[int, ...]:
    """Of each layer the option with the most multiply-adds; of equals the first."""
    found = prices(plan, layers, dict.fromkeys(groups(layers), 1.0), "macs")
    return tuple(max(range(len(options)), key=options.__getitem__) for options in found.options)
