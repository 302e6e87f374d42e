"""DNA: blocks learn a teacher's maps one by one, every candidate is rated, the best network is found exactly.

Source: DNA (arXiv 1911.13053; code changlin31/DNA, read only: it has no licence) and the DNA family (arXiv 2403.01326),
of which the abstract alone could be read. From the code: the teacher's map before a block is what it reads, the one
behind it what it should make; one path at random a step; every candidate rated by the distance of `rating`. Ours: the
loss is over the variance of what is wanted, so that one learning rate serves all blocks; an operation stands beside the
layer's skip; the network is found exactly (`traversal`; the published loops are not exact) and lands just below the
target; widths of a block share its weights; later generations' teachers (DNA+) are what was found, made wider.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from scipy.stats import kendalltau
from torch import Tensor, nn

from nasengine import parallel, traversal
from nasengine.architecture import Plan, lowered
from nasengine.blocks import (
    Block,
    Prices,
    Shares,
    assignments,
    divided,
    extremes,
    filters,
    groups,
    kept_by,
    largest,
    prices,
)
from nasengine.config import DNAConfig
from nasengine.device import generator, number, seeded
from nasengine.discretise import fitted_by_clock
from nasengine.errors import TrainingError
from nasengine.rating import rated
from nasengine.sizes import LATENCY, TOLERANCE
from nasengine.spaces import chain
from nasengine.strategies.base import (
    Batch,
    Decision,
    Draw,
    Joined,
    Moment,
    Paths,
    Point,
    Rated,
    Stage,
    Strategy,
    TeacherWanted,
)  # fmt: skip
from nasengine.supernet import Kept, SubGraph, Supernet, everything
from nasengine.teacher import Teacher
from nasengine.traversal import Candidate

STEPS = 30.0
"""How much larger the slopes of a block are made than its loss, such as the learning rate is meant for.

Quick searches of the digits, one seed: composed of its blocks as they are, the found network is right in 41, 58, 76, 84
and 82 % of the validation images for 1, 3, 10, 30 and 100.
"""
ADAPTER_RATE = 2e-3
"""Learning rate of Adam for what brings channels of a teacher to those of the blocks."""
POINTS = 2000
"""Of a block, that are told."""
OTHERS, WAYS = 24, 512
"""Other targets whose networks are told, at most; fewer where blocks may have their widths in so many ways."""
PATIENCE = 0.02
"""With each of them, as a share of that with the target."""
TINY = 1e-12
UNRATED = 1e-6
"""By how much a candidate of a block that was not rated is better if it takes the whole target: where nothing is known,
more is better."""
TRIED = 5000
"""Networks of blocks that were not rated, at most."""
TRIES = 200
"""Random paths that are looked at for one of a size."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """Widths of all blocks.

    Attributes:
        shares: channel group -> share of its channels.
        fixed: of each metric, what a network takes beside its operations.
        rows: of each block all candidates, with what they take.
        lowest: no network is rated lower than this.
        largest: nor is any larger, by the first metric.
    """

    shares: Shares
    fixed: Sequence[float]
    rows: Sequence[Sequence[Candidate]]
    lowest: float
    largest: float


class DNA(Strategy):
    """One stage a block, in each of its generations; the last of all decides.

    Args:
        plan: the full space, a chain.
        part: its settings.
        ends: numbers of layers after which blocks end, the last included.
        epochs: of all stages.
        bounds: metric -> size that what is found does not exceed; the first is the target's.
        seed: of all that it draws.
        wider: the same space with the channels of later generations' teachers.
    """

    answers = False
    recalibrates = True
    passes = 1
    """How often each candidate is computed to be rated."""

    def __init__(
        self, plan: Plan, part: DNAConfig, *, ends: Sequence[int], epochs: int, bounds: Mapping[str, int], seed: int,
        wider: Plan,
    ) -> None:  # fmt: skip
        super().__init__()
        self.plan, self.part, self.epochs, self.bounds, self.seed, self.wider = plan, part, epochs, bounds, seed, wider
        self.decision_fraction, self.judged_on = part.decision_fraction, part.rating_images
        self.blocks = divided(plan, ends)
        self.rungs = [rung for block in self.blocks for rung in block.rungs]
        self.teacher: Teacher | None = None
        self.adapters = nn.ModuleDict()
        for block in self.blocks:  # what is not rated yet is -1
            self.register_buffer(
                f"ratings{block.number}", torch.full((len(part.widths), block.candidates), -1.0, dtype=torch.float64)
            )

    # -- the verbs -----------------------------------------------------------------------------------------------

    def stages(self, net: Supernet) -> list[Stage]:
        metric, target = next(iter(self.bounds.items()))
        turns = list(itertools.product(range(self.part.generations), self.blocks))
        epochs, rest = divmod(self.epochs, len(turns))
        return [
            Stage(
                index=index,
                name=f"block {block.number + 1}" + f", teacher {generation + 1}" * (self.part.generations > 1),
                exit=self.plan.exits[-1],
                blocks=len(self.plan.blocks),
                epochs=epochs + (index < rest),
                warmup_epochs=0,
                start_size=extremes(net.plan, self.part.widths, metric)[1],
                target=target,
                bounds=self.bounds,
                opens=self.part.granularities,
                fits=index == len(turns) - 1,
                last=index == len(turns) - 1,
            )
            for index, (generation, block) in enumerate(turns)
        ]

    def draw(self, net: Supernet, moment: Moment) -> list[Draw]:
        """One path through the stage's block, and one of its widths, each as likely as any other that can learn."""
        block, path, width = self._drawn(moment)
        graph = SubGraph(drawn=named(block.units(path)))
        return [self._still(net, moment.stage, graph, self._masks(net, block, width))]

    def losses(
        self, net: Supernet, moment: Moment, batch: Batch, draws: Sequence[Draw]
    ) -> tuple[dict[str, Tensor], None]:
        """The squared error over the variance of what is wanted."""
        block, _, width = self._drawn(moment)
        read, wanted = self._lesson(block, batch[0])
        made = net.stretch({block.source: read}, block.first, block.border, draws[0].sub_graph, draws[0].masks)
        found, wanted = (_wide(x) for x in (self._read_out(block, width)(made), wanted))
        loss = F.mse_loss(found, wanted) / wanted.var(correction=0).clamp(min=TINY)
        return {"feature": steeper(loss)}, None

    def after_backward(self, net: Supernet, moment: Moment, draws: Sequence[Draw]) -> None:
        """Nothing."""

    def points(self, moment: Moment) -> list[Point]:
        return ["end"] if moment.closes_stage else []

    @torch.no_grad()
    def rate(self, net: Supernet, moment: Moment, batches: Sequence[Batch]) -> Iterator[tuple[int, int]]:
        """Every candidate of the stage's block, once."""
        block, found = self._block(moment.stage), []
        (calibration, _), *lessons = (self._lesson(block, images) for images, _ in batches)
        parts, wanted = zip(*lessons, strict=True)
        for width in self.part.widths:
            masks, read_out = self._masks(net, block, width), self._read_out(block, width)
            for rating in rated(net, block, masks, calibration, parts, wanted, read_out):
                found.append(rating)
                yield len(found), len(self.part.widths) * block.candidates
        self._put(block, found)

    def rated_blocks(self) -> list[bool]:
        return [self._is_rated(block) for block in self.blocks]

    def told(self, net: Supernet, moment: Moment) -> Rated | None:
        block = self._block(moment.stage)
        if not self._is_rated(block):
            return None
        listed = self._listed(net, block)
        front = self._front(listed, block)
        rating, cost = [one.rating for one in listed], [one.costs[0] for one in listed]
        tau = float(kendalltau(rating, cost).statistic)
        by_rating = sorted(range(len(listed)), key=rating.__getitem__)
        shown = sorted({*by_rating[:: math.ceil(len(listed) / POINTS)], *front})
        return Rated(
            block=block.number,
            blocks=len(self.blocks),
            choices=[rung.choice for rung in block.rungs],
            candidates=len(listed),
            evaluations=self.passes * len(self.part.widths) * block.evaluations,
            one_by_one=self.passes * len(listed) * len(block.rungs),
            points=[(cost[place], rating[place]) for place in shown],
            front=[(cost[at], rating[at], self._units(block, at), self._width(block, at)) for at in front],
            correlation=None if math.isnan(tau) else tau,
        )

    def decide(self, net: Supernet, moment: Moment, point: Point, batches: Sequence[Batch]) -> list[Decision]:
        """Nothing before all blocks are rated; then the network whose ratings sum to the least within the bounds.

        It ends within 3 % below the target if there is one that does. Blocks that no stage has come to, in a search
        that was ended early, count nothing.
        """
        if not moment.stage.last:
            return []
        tried: list[tuple[Kept, Paths]] = []
        ways = self._ways(net)

        def fit(bounds: Mapping[str, int]) -> Kept:
            paths = self._best(ways, bounds)
            tried.append((self._kept(net, paths.chosen.units), paths))
            return tried[-1][0]

        if LATENCY in self.bounds:
            found = fitted_by_clock(
                lambda bound: fit({**self.bounds, LATENCY: bound}), net.clock, target=self.bounds[LATENCY],
                smallest=extremes(net.plan, self.part.widths, LATENCY)[0],
            )  # fmt: skip
        else:
            found = fit(self.bounds)
        networks = self._others(net, ways) if all(map(self._is_rated, self.blocks)) else []
        paths = next(paths for kept, paths in tried if kept is found)
        return [
            Decision(
                kept=found,
                ladder={round(network.size): self._kept(net, network.units) for _, network in networks},
                paths=replace(
                    paths,
                    chosen=replace(paths.chosen, costs=self._costs(net, paths.chosen)),
                    networks=[(target, self._told_of(net, network)) for target, network in networks],
                ),
            )
        ]  # fmt: skip

    def learning_rates(self, moment: Moment) -> list[dict[str, Any]]:
        return [{"params": list(self.adapters.parameters()), "lr": ADAPTER_RATE}]

    def gains(self, net: Supernet) -> Mapping[str, Tensor]:
        """None: an operation is there or not."""
        return {}

    def standing(self, net: Supernet, moment: Moment) -> Draw:
        """The largest network: nothing is decided before the end."""
        graph = SubGraph(drawn=named(self._all_largest()))
        return self._still(net, moment.stage, graph, {})

    def wants(self, net: Supernet, stage: Stage, known: int | None) -> TeacherWanted | None:
        """One a generation: the largest network of the space or a library's model, later what was found, wider."""
        generation, number_ = divmod(stage.index, len(self.blocks))
        if number_ or generation == known:
            return None
        borders = [block.border for block in self.blocks]
        wanted = TeacherWanted(
            generation=generation, borders=borders, sides=[self.plan.sides[border] for border in borders]
        )
        if generation:
            units = self._best(self._ways(net), self.bounds).chosen.units
            operations = {rung.choice: units[rung.choice] for rung in self.rungs}
            return replace(wanted, architecture=lowered(self.wider, operations).to_json())
        if self.part.teacher == "own":
            return replace(wanted, architecture=lowered(self.plan, self._all_largest()).to_json())
        return wanted

    def follow(self, teacher: Teacher, generation: int) -> None:
        """Makes what brings its channels to those of the blocks, where they differ."""
        self.teacher = teacher
        self.adapters = nn.ModuleDict()
        where = self._ratings(self.blocks[0]).device
        with seeded(number(self.seed, "adapters", generation)):
            for block, before in zip(self.blocks, [None, *self.blocks], strict=False):
                if before is not None:
                    self._adapt(f"in{block.number}", teacher.widths[before.number], self.plan.groups[before.group])
                for width in self.part.widths:
                    own, theirs = self.plan.groups[block.group], teacher.widths[block.number]
                    self._adapt(self._out(block, width), own, theirs, always=width < 1)
        self.adapters.to(where)

    def at_random(self, net: Supernet, stream: torch.Generator, bounds: Mapping[str, int]) -> Kept | None:
        """A random path within 3 % below the bounds, or the nearest to them that was seen.

        Layer by layer, in a random order, one of the options with which the rest can still end there.
        """
        nearest, best = 0.0, None
        for shares in _shuffled(assignments(self.rungs, self.part.widths), stream)[:TRIES]:
            found = [prices(net.plan, self.rungs, shares, metric) for metric in bounds]
            if any(one.least > bound for one, bound in zip(found, bounds.values(), strict=True)):
                continue
            for _ in range(TRIES):
                path = self._walked(found, list(bounds.values()), stream)
                sizes = (round(one.fixed + one.of(0, path)) for one in found)
                share = max(size / bound for size, bound in zip(sizes, bounds.values(), strict=True))
                if nearest < share <= 1:
                    nearest, best = share, (path, shares)
                if nearest >= 1 - TOLERANCE:
                    break
            if nearest >= 1 - TOLERANCE:
                break
        if best is None:
            return None
        path, shares = best
        return self._kept(net, kept_by(self.rungs, path) | filters(net.plan, self.rungs, shares))

    def _walked(self, costs: Sequence[Prices], bounds: Sequence[int], stream: torch.Generator) -> list[int]:
        """One option a layer, each as likely as the others that leave the rest a way to just below the bounds."""
        path = [0] * len(self.rungs)
        spent = [one.fixed for one in costs]
        least = [one.least - one.fixed for one in costs]
        most = [one.most - one.fixed for one in costs]
        for layer in torch.randperm(len(path), generator=stream).tolist():
            options = [one.options[layer] for one in costs]
            least = [rest - min(own) for rest, own in zip(least, options, strict=True)]
            most = [rest - max(own) for rest, own in zip(most, options, strict=True)]
            fit = [
                at
                for at in range(len(options[0]))
                if all(
                    paid + own[at] + rest <= bound
                    for paid, own, rest, bound in zip(spent, options, least, bounds, strict=True)
                )
            ]
            near = [at for at in fit if spent[0] + options[0][at] + most[0] >= (1 - TOLERANCE) * bounds[0]]
            among = near or fit or [min(range(len(options[0])), key=options[0].__getitem__)]
            path[layer] = among[_integer(len(among), stream)]
            spent = [paid + own[path[layer]] for paid, own in zip(spent, options, strict=True)]
        return path

    # -- a step --------------------------------------------------------------------------------------------------

    def _block(self, stage: Stage) -> Block:
        return self.blocks[stage.index % len(self.blocks)]

    def _drawn(self, moment: Moment) -> tuple[Block, list[int], float]:
        block = self._block(moment.stage)
        stream = generator("cpu", self.seed, "paths", moment.stage.index, moment.epoch, moment.step)
        while True:
            path = [_integer(len(rung.options), stream) for rung in block.rungs]
            width = self.part.widths[_integer(len(self.part.widths), stream)]
            if self._learns(block, path, width):
                return block, path, width

    def _learns(self, block: Block, path: Sequence[int], width: float) -> bool:
        """Whether a step has anything to change: skips alone have no weights, and adapters are not everywhere."""
        return block.learns(path) or f"in{block.number}" in self.adapters or self._out(block, width) in self.adapters

    def _still(self, net: Supernet, stage: Stage, graph: SubGraph, masks: Mapping[str, Tensor]) -> Draw:
        """Something drawn; the size stays that of the largest network until the end."""
        size = net.alive_weights.new_tensor(float(stage.start_size))
        return Draw(
            masks=masks, gains={}, size=size, wanted=float(stage.start_size), share=torch.ones_like(size),
            sub_graph=graph,
        )  # fmt: skip

    def _lesson(self, block: Block, images: Tensor) -> tuple[Tensor, Tensor]:
        """What a block reads of these images, and what it should make of them."""
        assert self.teacher is not None, "a stage begins with its teacher"
        if not block.number:
            (wanted,) = self.teacher.maps(images, 0, 0)
            return images, wanted
        read, wanted = self.teacher.maps(images, block.number - 1, block.number)
        return self._adapter(f"in{block.number}")(read), wanted

    def _read_out(self, block: Block, width: float) -> nn.Module:
        return self._adapter(self._out(block, width))

    def _out(self, block: Block, width: float) -> str:
        return f"out{block.number}_{self.part.widths.index(width)}"

    def _adapt(self, name: str, channels: int, wanted: int, *, always: bool = False) -> None:
        if always or channels != wanted:
            self.adapters[name] = nn.Conv2d(channels, wanted, 1, bias=False)

    def _adapter(self, name: str) -> nn.Module:
        return self.adapters[name] if name in self.adapters else nn.Identity()

    def _masks(self, net: Supernet, block: Block, width: float) -> dict[str, Tensor]:
        """Of a block's channels; what it reads has them all."""
        narrow = filters(self.plan, block.rungs, {block.group: width})
        found = {}
        for name, units in narrow.items():
            found[name] = net.alive_weights.new_zeros(self.plan.groups[name])
            found[name][units] = 1
        return found

    # -- what was rated ------------------------------------------------------------------------------------------

    def _ratings(self, block: Block) -> Tensor:
        return getattr(self, f"ratings{block.number}")

    def _put(self, block: Block, found: Sequence[float]) -> None:
        """Of several processes, what the first one found: different machines may round apart, and decide apart then."""
        ratings, found = self._ratings(block), parallel.agreed(lambda: list(found))
        ratings.copy_(torch.tensor(found, dtype=torch.float64).view_as(ratings))

    def _is_rated(self, block: Block) -> bool:
        return bool(self._ratings(block)[0, 0] >= 0)

    def _row(self, block: Block, width: float, costs: Sequence[Prices]) -> list[Candidate]:
        """All candidates of a block that has this width."""
        first = self.rungs.index(block.rungs[0])
        ratings = self._ratings(block)[self.part.widths.index(width)].tolist()
        prices_ = [tuple(one.of(first, path) for one in costs) for path in block.paths()]
        if not self._is_rated(block):
            target = next(iter(self.bounds.values()))
            ratings = [-UNRATED * price[0] / target for price in prices_]
        return [Candidate(rating=rating, costs=price) for rating, price in zip(ratings, prices_, strict=True)]

    def _ways(self, net: Supernet) -> list[Way]:
        """Every way to give the blocks widths; those in which a block's candidates cost the same share its row."""
        known: dict[tuple[Any, ...], list[Candidate]] = {}
        found = []
        for shares in assignments(self.rungs, self.part.widths):
            self.breathe()
            costs, rows, first = [prices(net.plan, self.rungs, shares, metric) for metric in self.bounds], [], 0
            for block in self.blocks:
                last = first + len(block.rungs)
                key = (block.number, shares[block.group], *(one.options[first:last] for one in costs))
                if key not in known:
                    known[key] = self._row(block, shares[block.group], costs)
                rows.append(known[key])
                first = last
            lowest = math.fsum(min(one.rating for one in row) for row in rows)
            largest_ = math.fsum([costs[0].fixed, *(max(one.costs[0] for one in row) for row in rows)])
            fixed = [one.fixed for one in costs]
            found.append(Way(shares=shares, fixed=fixed, rows=rows, lowest=lowest, largest=largest_))
        return sorted(found, key=lambda way: way.lowest)

    def _worth_trying(self, block: Block, row: Sequence[Candidate]) -> Sequence[int]:
        """Places of a row; of a block that was not rated only some, evenly by cost, since nothing tells them apart."""
        if self._is_rated(block):
            return range(len(row))
        unrated = sum(not self._is_rated(other) for other in self.blocks)
        by_cost = sorted(range(len(row)), key=lambda at: row[at].costs)
        return _some(by_cost, max(2, int(TRIED ** (1 / unrated))))

    def _listed(self, net: Supernet, block: Block) -> list[Candidate]:
        """All candidates of a block, width by width, with what they take where all other channels are there."""
        return [one for width in self.part.widths for one in self._row(block, width, [self._priced(net, block, width)])]

    def _priced(self, net: Supernet, block: Block, width: float) -> Prices:
        """What layers take where a block has this width and all other channels are there."""
        shares = {**dict.fromkeys(groups(self.rungs), 1.0), block.group: width}
        return prices(net.plan, self.rungs, shares, next(iter(self.bounds)))

    def _costs(self, net: Supernet, network: Joined) -> list[float]:
        """What each block's part of a network takes, in the same terms."""
        found = []
        for block, width in zip(self.blocks, network.widths, strict=True):
            path = [rung.options.index(tuple(network.units[rung.choice])) for rung in block.rungs]
            found.append(self._priced(net, block, width).of(self.rungs.index(block.rungs[0]), path))
        return found

    def _front(self, listed: Sequence[Candidate], block: Block) -> list[int]:
        """Places in that list: of each width those that no other undercuts in rating and cost."""
        n = block.candidates
        found = [
            place + first for first in range(0, len(listed), n) for place in traversal.pareto(listed[first : first + n])
        ]
        return sorted(found, key=lambda place: (listed[place].costs, place))

    def _width(self, block: Block, place: int) -> float:
        return self.part.widths[place // block.candidates]

    def _units(self, block: Block, place: int) -> dict[str, list[int]]:
        """What a candidate of that list keeps."""
        operations = block.units(block.path(place % block.candidates))
        return operations | filters(self.plan, block.rungs, {block.group: self._width(block, place)})

    def _told_of(self, net: Supernet, network: Joined) -> Joined:
        """With what its blocks take, and without the units of filters."""
        operations = {rung.choice: network.units[rung.choice] for rung in self.rungs}
        return replace(network, costs=self._costs(net, network), units=operations)

    def _best(self, ways: Sequence[Way], bounds: Mapping[str, int]) -> Paths:
        if (found := self._within(ways, bounds)) is not None:
            return found
        # The outlook refuses what it can know.
        sizes = ", ".join(f"{bound:,} {metric}" for metric, bound in bounds.items())
        raise TrainingError(f"no network with one operation a layer is within {sizes}; give more in a new search")

    def _within(self, ways: Sequence[Way], bounds: Mapping[str, int], patience: float = 1.0) -> Paths | None:
        """The network of the lowest sum of ratings within all bounds, and not far below the first if that can be."""
        visited, certain = 0, all(map(self._is_rated, self.blocks))
        for least in ((1 - TOLERANCE) * next(iter(bounds.values())), -math.inf):
            best: Joined | None = None
            for way in ways:
                if way.largest < least or (best is not None and way.lowest >= best.rating):
                    continue
                self.breathe()
                found, answer = self._best_of(way, bounds, least, patience)
                visited, certain = visited + answer.visited, certain and answer.certain
                if found is not None and (best is None or found.rating < best.rating):
                    best = found
            if best is not None:
                networks = math.prod(block.candidates for block in self.blocks) * len(ways)
                return Paths(chosen=best, networks=(), visited=visited, certain=certain, of=float(networks))
        return None

    def _others(self, net: Supernet, ways: Sequence[Way]) -> list[tuple[int, Joined]]:
        """Other targets, from the smallest network to the largest in even ratios, and what each would have taken.

        By rising size; each network once, with the lowest target that takes it.
        """
        metric = next(iter(self.bounds))
        least, most = extremes(net.plan, self.part.widths, metric)
        count = max(2, min(OTHERS, WAYS // len(ways)))
        found: dict[int, tuple[int, Joined]] = {}
        for step in range(count):
            target = math.ceil(least * (most / least) ** (step / (count - 1)))
            if (paths := self._within(ways, {**self.bounds, metric: target}, PATIENCE)) is not None:
                found.setdefault(round(paths.chosen.size), (target, paths.chosen))
        return [found[size] for size in sorted(found)]

    def _best_of(
        self, way: Way, bounds: Mapping[str, int], least: float, patience: float
    ) -> tuple[Joined | None, traversal.Answer]:
        places = [self._worth_trying(block, row) for block, row in zip(self.blocks, way.rows, strict=True)]
        tried = [[row[at] for at in own] for row, own in zip(way.rows, places, strict=True)]
        room = [bound - fixed for bound, fixed in zip(bounds.values(), way.fixed, strict=True)]
        answer = traversal.looked(tried, room, least - way.fixed[0], self.breathe, patience)
        if (found := answer.found) is None:
            return None, answer
        units = filters(self.plan, self.rungs, way.shares)
        for block, own, pick in zip(self.blocks, places, found.picks, strict=True):
            units |= block.units(block.path(own[pick]))
        network = Joined(
            size=way.fixed[0] + found.costs[0], rating=found.rating, costs=(),
            ratings=[row[pick].rating for row, pick in zip(tried, found.picks, strict=True)], units=units,
            widths=[way.shares[block.group] for block in self.blocks],
        )  # fmt: skip
        return network, answer

    def _all_largest(self) -> dict[str, list[int]]:
        return kept_by(self.rungs, largest(self.plan, self.rungs))

    def _kept(self, net: Supernet, units: Mapping[str, Sequence[int]]) -> Kept:
        """Everything, but of these choices these units alone."""
        found = everything(self.plan, net.alive_weights.device)
        for name, own in units.items():
            found[name] = torch.zeros_like(found[name])
            found[name][list(own)] = True
        return found


def strategy(
    plan: Plan, config: Any, targets: Sequence[int], limits: Mapping[str, int], make: type[DNA] | None = None
) -> DNA:
    """DNA as the configuration asks for it; `make` is a recipe of it."""
    part, space = config.strategy, config.space
    channels = 2 * round(part.growth * space.channels / 2)
    wider = chain.plan(
        space.model_copy(update={"channels": channels}), image_size=plan.image_size, channels=plan.groups["image"],
        classes=plan.groups["classes"], cuts=(),
    )  # fmt: skip
    return (make or DNA)(
        plan, part, ends=part.ends(space), epochs=config.search.epochs,
        bounds={config.target.metric: targets[0], **limits}, seed=config.seed, wider=wider,
    )  # fmt: skip


def _wide(x: Tensor) -> Tensor:
    """In fp32 at least: a variance of bf16 is a guess."""
    return x.float() if x.dtype == torch.bfloat16 else x


def steeper(loss: Tensor) -> Tensor:
    """The same number, with `STEPS` times its slopes."""
    return STEPS * loss - (STEPS - 1) * loss.detach()


def named(units: Mapping[str, Sequence[int]]) -> frozenset[tuple[str, int]]:
    """Choice -> units, as candidates."""
    return frozenset((choice, unit) for choice, own in units.items() for unit in own)


def _some(networks: Sequence[Any], most: int) -> list[Any]:
    """So many of them at most, evenly by number, the last one among them."""
    step = max(1, math.ceil(len(networks) / most))
    return list(networks[::-1][::step][::-1])


def _shuffled(ways: Sequence[Any], stream: torch.Generator) -> list[Any]:
    return [ways[at] for at in torch.randperm(len(ways), generator=stream).tolist()]


def _integer(below: int, stream: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=stream))
