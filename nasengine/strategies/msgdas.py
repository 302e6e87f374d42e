"""MSG-DAS: each step trains a few single paths that share no operation; what is drawn more often is what helps more.

Source: "Mutually-aware Sub-Graphs Differentiable Architecture Search" (arXiv 2107.04324). Of it the abstract alone
could be read. From there: K mutually exclusive single-path sub-graphs of one super-net, drawn by a differentiable
Gumbel-TopK sampler; Dropblock-Identity against skips; guidance by the super-net and its sub-graphs, in little memory.
Reconstructed, so ours and not the authors': every equation (`gumbel`, `dropblock`), all schedules and rates, that
scores learn from held-out images, and how the end is decided. The size of what is drawn on average is in the loss,
since the method has no limit on it and every search here has one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nasengine import gumbel, parallel
from nasengine.architecture import Plan, lowered, smallest
from nasengine.config import MSGDASConfig
from nasengine.costs import savings
from nasengine.device import generator, number
from nasengine.discretise import floors
from nasengine.likeliest import likeliest
from nasengine.objectives import distillation, size_penalty, task_loss
from nasengine.pressure import wanted_size
from nasengine.sizes import LATENCY, TOLERANCE
from nasengine.strategies.base import (
    Batch,
    Decision,
    Draw,
    Lottery,
    Moment,
    Point,
    Stage,
    Strategy,
    all_on,
    fit,
    tightest,
    warmup_epochs,
)  # fmt: skip
from nasengine.supernet import Kept, Off, SubGraph, Supernet, architecture, plain

TRAVEL = 6.0
"""How far a score could go in all its steps: what learning rates follow from. DARTS's 3e-4 in 50 epochs of CIFAR-10."""
BETAS = (0.5, 0.999)
"""Of the scores' Adam, as in DARTS; without its decay, which is stronger than slopes as small as these."""
RAMP = 0.7
"""Share of the steps after the warm-up in which the wanted size falls to the target."""
GROWTH, STRONGEST = 200.0, 1000.0
"""The weight of the size grows by log(size / wanted), times this over those steps; its limit."""
GUIDANCE_TEMPERATURE = 4.0
LATER = ("filter", "weight")
"""Levels that are pruned by what follows it."""
SMALLER = 0.9
"""By how much the bound is lowered as long as what is kept could not be narrowed to the target; to times by as much."""


class MSGDAS(Strategy):
    """One score for each operation; on every edge a softmax of them says what is drawn.

    Args:
        plan: the full space.
        part: its settings.
        epochs: of its stage.
        bounds: metric -> size that the operations it chooses do not exceed; the first is the target's.
        seed: of all that it draws.
        later: metric -> size to which filters and weights must be able to be pruned afterwards; empty if it ends the
            search, with a network for the user.
    """

    def __init__(
        self, plan: Plan, part: MSGDASConfig, *, epochs: int, bounds: Mapping[str, int], seed: int,
        later: Mapping[str, int],
    ) -> None:  # fmt: skip
        super().__init__()
        self.part, self.epochs, self.bounds, self.seed, self.later = part, epochs, dict(bounds), seed, dict(later)
        self.decision_fraction = part.decision_fraction
        self.recalibrates = not later  # all sub-graphs moved the same statistics
        self.choices = [choice for choice in plan.choices if choice.granularity == "operation"]
        total = sum(choice.units for choice in self.choices)
        self.scores = nn.Parameter(torch.zeros(total))
        self.register_buffer("often", torch.zeros(total, dtype=torch.long))
        self.register_buffer("start", torch.ones(len(bounds)))
        self.register_buffer("pressure", torch.ones(()))

    # -- the verbs -----------------------------------------------------------------------------------------------

    def stages(self, net: Supernet) -> list[Stage]:
        """One, over the whole network."""
        plan = net.plan
        metric, target = next(iter(self.bounds.items()))
        return [
            Stage(
                index=0,
                name="operations" if self.later else "the whole network",
                exit=plan.exits[-1],
                blocks=plan.exit_blocks[-1],
                epochs=self.epochs,
                warmup_epochs=warmup_epochs(self.epochs, self.part.warmup_fraction),
                start_size=lowered(plan, {}).size(metric),
                target=target,
                bounds=self.bounds,
                opens=("operation",),
                fits=not self.later,
                last=not self.later,
            )
        ]

    def draw(self, net: Supernet, moment: Moment) -> list[Draw]:
        """K sub-graphs, each with one operation on every edge and none in common.

        A step's two batches, for the weights and for the scores, get the same. Each draw's masks come of a graph of
        their own, so that their backward passes can follow one another.
        """
        edges = _Edges.of(net)
        place = (moment.stage.index, moment.epoch, moment.step)
        stream = generator("cpu", self.seed, "sub-graphs", *place)
        noise = gumbel.noise(edges.live.shape, stream).to(self.scores)
        taken = gumbel.ranks(edges.live.shape[:1], self.part.sub_graphs, self.part.align, stream).to(noise.device)
        sizes = self._sizes(net, edges, moment)
        wanted = [float(size) for size in sizes] if moment.warming else self._wanted(moment)
        found = []
        for turn in range(self.part.sub_graphs):
            mask, drawn = self._mask(edges, noise, taken[:, turn], moment)
            noisy = number(self.seed, "noise on skips", *place, turn) + parallel.rank()  # of each process its own
            graph = SubGraph(drawn=drawn, keep=self._keep(moment), seed=noisy)
            found.append(_draw(net, mask, graph, sizes, wanted))
        return found

    def losses(
        self, net: Supernet, moment: Moment, batch: Batch, draws: Sequence[Draw]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Means over the sub-graphs, and the size."""
        images, labels = batch
        answers = [_answer(net, images, draw) for draw in draws]
        teacher = self._teacher(net, moment, images, draws, answers)
        parts = [self._learned(answer, labels, teacher) for answer in answers]
        means = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        return means | self._pressed(moment, draws[0]), torch.stack(answers)

    def portions(
        self, net: Supernet, moment: Moment, batch: Batch, draws: Sequence[Draw]
    ) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """All at once, or one sub-graph after the other: the same sums."""
        if self.part.memory == "joint":
            yield self.losses(net, moment, batch, draws)
            return
        teacher = self._teacher(net, moment, batch[0], draws)
        for draw in draws:
            yield self._portion(net, moment, batch, draw, teacher, size=draw is draws[0])

    @torch.no_grad()
    def after_backward(self, net: Supernet, moment: Moment, draws: Sequence[Draw]) -> None:
        """Counts what was drawn; moves the weight of the size."""
        for draw in draws:
            self.often[net.flat["operation"].index] += draw.flat["operation"].long()
        if not moment.warming:
            rate = GROWTH / max(1.0, RAMP * moment.pruning_steps)
            self.pressure.mul_(torch.exp(rate * torch.log(draws[0].share))).clamp_(1, STRONGEST)
        elif moment.closes_warmup:
            self.start.copy_(torch.stack(self._sizes(net, _Edges.of(net), moment)))

    def points(self, moment: Moment) -> list[Point]:
        return ["end"] if moment.closes_stage else []

    @torch.no_grad()
    def decide(self, net: Supernet, moment: Moment, point: Point, batches: Sequence[Batch]) -> list[Decision]:
        """The likeliest network with one operation an edge within all bounds.

        If that leaves too much room, the likeliest of the others get it; if there is none, edges go, those first that
        are least sure of their operation. So every size is reached that operations alone can reach.
        """
        net.store()
        edges, bounds = _Edges.of(net), dict(self.bounds)
        least = {metric: smallest(net.plan, ("operation",), metric) for metric in bounds}
        shares = torch.softmax(edges.spread(self._living(net)), -1)
        while True:
            margins = self._margins(net, edges, shares, bounds)
            kept = self._fitted(net, margins, moment.stage, bounds)
            if not self.later or self._can_be_narrowed(net.plan, kept):
                break
            smaller = {metric: max(least[metric], int(SMALLER * bound)) for metric, bound in bounds.items()}
            if smaller == bounds:
                kept = self._with(net, floors(net.plan, {name: margin.cpu() for name, margin in margins.items()}))
                break
            bounds = smaller
        scores = self._whole(net, edges.joined(shares))
        fixed, each = _prices(net, self.metric)
        costs = self._whole(net, each / (fixed + each.sum()))
        thresholds = {name: _thresholds(net.plan.edges[name], scores[name], kept[name]) for name in scores}
        return [Decision(kept=kept, scores=scores, thresholds=thresholds, margins=margins, costs=costs)]

    def learning_rates(self, moment: Moment) -> list[dict[str, Any]]:
        return [{"params": [self.scores], "lr": TRAVEL / max(1, moment.pruning_steps)}]

    def optimizer(self, moment: Moment) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.learning_rates(moment), betas=BETAS, fused=True)

    def gains(self, net: Supernet) -> Mapping[str, Tensor]:
        """None: an operation is there or not."""
        return {}

    @torch.no_grad()
    def standing(self, net: Supernet, moment: Moment) -> Draw:
        """The likeliest operation of every edge; while all are alike, the first sub-graph."""
        if moment.warming:
            return self.draw(net, moment)[0]
        edges = _Edges.of(net)
        best = edges.spread(self._living(net)).argmax(-1)
        mask = edges.joined(gumbel.one_hot(best, edges.live.shape[1]).to(self.scores))
        return _draw(
            net, mask, SubGraph(drawn=edges.named(best)), self._sizes(net, edges, moment), self._wanted(moment)
        )

    @torch.no_grad()
    def lottery(self, net: Supernet, moment: Moment) -> Lottery:
        edges = _Edges.of(net)
        shares = edges.joined(torch.exp(self._log_shares(edges, self._living(net), moment)))
        often = self.often.split([choice.units for choice in self.choices])
        return Lottery(
            shares=self._whole(net, shares),
            often={choice.name: part for choice, part in zip(self.choices, often, strict=True)},
            latest=[draw.sub_graph.drawn for draw in self.draw(net, moment)],
        )

    @property
    def metric(self) -> str:
        """What the target is on."""
        return next(iter(self.bounds))

    # -- what is drawn -------------------------------------------------------------------------------------------

    def _living(self, net: Supernet) -> Tensor:
        """[N] scores of what lives."""
        return self.scores[net.flat["operation"].index]

    def _log_shares(self, edges: _Edges, scores: Tensor, moment: Moment) -> Tensor:
        """[E, M] logarithm of the probabilities; while weights warm up, all that lives is as likely."""
        return torch.log_softmax(edges.spread(torch.zeros_like(scores) if moment.warming else scores), -1)

    def _mask(self, edges: _Edges, noise: Tensor, taken: Tensor, moment: Moment) -> tuple[Tensor, Off]:
        """[N] mask of the sub-graph that takes the draw `taken` on each edge, and what it drew."""
        scores = self.scores[edges.index]
        perturbed = self._log_shares(edges, scores, moment) + noise
        ranked = gumbel.drawn(perturbed.detach(), self.part.sub_graphs)
        slopes = gumbel.soft(perturbed, ranked, self._temperature(moment), self.part.soft)
        rows = torch.arange(len(ranked), device=ranked.device)
        drawn = ranked[rows, taken]
        hard = gumbel.one_hot(drawn, perturbed.shape[1])
        return edges.joined(gumbel.straight_through(hard, slopes[rows, taken])), edges.named(drawn)

    def _temperature(self, moment: Moment) -> float:
        return _between(self.part.temperature_start, self.part.temperature_end, moment.progress)

    def _keep(self, moment: Moment) -> float:
        return _between(self.part.keep_start, self.part.keep_end, moment.progress)

    # -- losses --------------------------------------------------------------------------------------------------

    def _portion(
        self, net: Supernet, moment: Moment, batch: Batch, draw: Draw, teacher: Tensor | None, *, size: bool
    ) -> tuple[dict[str, Tensor], Tensor]:
        """What one sub-graph adds to the means; one of them brings the size along."""
        images, labels = batch
        answer = _answer(net, images, draw)
        learned = self._learned(answer, labels, teacher)
        means = {name: value / self.part.sub_graphs for name, value in learned.items()}
        return means | (self._pressed(moment, draw) if size else {}), answer

    def _learned(self, answer: Tensor, labels: Tensor, teacher: Tensor | None) -> dict[str, Tensor]:
        """From the labels, and from the teacher."""
        found = {"task": task_loss(answer, labels)}
        if teacher is not None:
            found["guidance"] = self.part.guidance_weight * distillation(answer, teacher, GUIDANCE_TEMPERATURE)
        return found

    def _pressed(self, moment: Moment, draw: Draw) -> dict[str, Tensor]:
        """The size counts as long as it is above what is wanted."""
        return {} if moment.warming else {"size": torch.relu(size_penalty(draw.share, self.pressure.clone()))}

    def _teacher(
        self, net: Supernet, moment: Moment, images: Tensor, draws: Sequence[Draw], answers: Sequence[Tensor] = ()
    ) -> Tensor | None:
        """Answers that each sub-graph learns from; no gradient, and statistics of batch norms rest."""
        if moment.warming or self.part.guidance == "off" or not self.part.guidance_weight:
            return None
        with _silent(net):
            if self.part.guidance == "supernet":
                edges = _Edges.of(net)
                mixed = edges.joined(torch.softmax(edges.spread(self._living(net)), -1))
                return net(images, net.flat["operation"].split(mixed), draws[0].gains)
            return torch.stack(list(answers) or [_answer(net, images, draw) for draw in draws]).mean(0)

    def _sizes(self, net: Supernet, edges: _Edges, moment: Moment) -> list[Tensor]:
        """Of each metric the mean size of what is drawn first: scalars with gradient."""
        shares = edges.joined(torch.exp(self._log_shares(edges, self._living(net), moment)))
        return [net.count(metric)({**all_on(net), "operation": shares}) for metric in self.bounds]

    def _wanted(self, moment: Moment) -> list[float]:
        aims = zip(self.start.tolist(), self.bounds.values(), strict=True)
        return [wanted_size(start, bound, moment.progress / RAMP) for start, bound in aims]

    # -- decisions -----------------------------------------------------------------------------------------------

    def _margins(self, net: Supernet, edges: _Edges, shares: Tensor, bounds: Mapping[str, int]) -> dict[str, Tensor]:
        """Probabilities, those of what is not chosen less one: first all that is chosen, then the others."""
        hard = gumbel.one_hot(_chosen(net, edges, shares, bounds), shares.shape[1])
        margins = {name: torch.zeros_like(alive, dtype=torch.float) for name, alive in net.kept.items()}
        return margins | self._whole(net, edges.joined(shares - (~hard).to(shares)), pruned=-2)

    def _fitted(self, net: Supernet, margins: Mapping[str, Tensor], stage: Stage, bounds: Mapping[str, int]) -> Kept:
        """What is chosen, if that is just below a bound; else what an exact fit makes of it."""
        held = floors(net.plan, {name: margin.cpu() for name, margin in margins.items()})
        chosen = {choice.name: (margins[choice.name] > 0).cpu() | held[choice.name] for choice in self.choices}
        kept = self._with(net, chosen)
        found = architecture(net.plan, kept)
        share = max(found.size(metric) / bound for metric, bound in bounds.items())
        if 1 - TOLERANCE <= share <= 1 and LATENCY not in bounds:
            return kept
        return fit(net, margins, replace(stage, bounds=dict(bounds)))

    def _can_be_narrowed(self, plan: Plan, kept: Kept) -> bool:
        """Whether filters and weights alone can bring it to where it shall end; of a time, the guide's may be off."""
        units = plain(plan, kept)
        margins = {metric: SMALLER if metric == LATENCY else 1.0 for metric in self.later}
        return all(
            smallest(plan, LATER, metric, kept=units) <= margins[metric] * bound for metric, bound in self.later.items()
        )

    def _with(self, net: Supernet, operations: Kept) -> Kept:
        """What lives, of operations these alone."""
        own = {choice.name: operations[choice.name].to(self.scores.device) for choice in self.choices}
        return {**net.kept, **own}

    def _whole(self, net: Supernet, values: Tensor, pruned: float = 0.0) -> dict[str, Tensor]:
        """[N] of what lives as choice -> [units]."""
        whole = values.new_full(self.scores.shape, pruned)
        whole[net.flat["operation"].index] = values
        parts = whole.split([choice.units for choice in self.choices])
        return {choice.name: part for choice, part in zip(self.choices, parts, strict=True)}


@dataclass(frozen=True, kw_only=True)
class _Edges:
    """Where the living operations of each edge stand among all that live.

    Attributes:
        places: [E, M] in the flat order of the network's operations; zero where an edge has fewer than M.
        live: [E, M] whether there is one.
        index: [N] number of each living operation among all, pruned ones included.
        names: of the living operations, in their flat order.
    """

    places: Tensor
    live: Tensor
    index: Tensor
    names: Sequence[tuple[str, int]]

    @classmethod
    def of(cls, net: Supernet) -> _Edges:
        flat = net.flat["operation"]
        names = [(name, unit) for name in flat.choices for unit in net.units[name]]
        place = {name: number for number, name in enumerate(names)}
        rows = [
            [place[name, unit] for unit in edge if (name, unit) in place]
            for name in flat.choices
            for edge in net.plan.edges[name]
        ]
        widest = max(map(len, rows))
        padded = torch.tensor([row + [-1] * (widest - len(row)) for row in rows if row], device=flat.index.device)
        return cls(places=padded.clamp(min=0), live=padded >= 0, index=flat.index, names=names)

    def spread(self, flat: Tensor) -> Tensor:
        """[N] to [E, M]; minus infinity where there is none."""
        return flat[self.places].masked_fill(~self.live, -torch.inf)

    def joined(self, values: Tensor) -> Tensor:
        """[E, M] to [N]."""
        return values.new_zeros(len(self.names)).index_copy(0, self.places[self.live], values[self.live])

    def named(self, chosen: Tensor) -> Off:
        """[E] one of each edge, by name."""
        places = self.places.gather(1, chosen[:, None]).flatten().tolist()
        return frozenset(self.names[place] for place in places)


def _draw(net: Supernet, mask: Tensor, graph: SubGraph, sizes: Sequence[Tensor], wanted: Sequence[float]) -> Draw:
    return Draw(
        masks=net.flat["operation"].split(mask), gains={}, size=sizes[0], wanted=wanted[0],
        share=tightest(sizes, wanted), sub_graph=graph, flat={"operation": mask.detach()},
    )  # fmt: skip


def _answer(net: Supernet, images: Tensor, draw: Draw) -> Tensor:
    return net(images, draw.masks, draw.gains, sub_graph=draw.sub_graph)


@contextmanager
def _silent(net: Supernet) -> Iterator[None]:
    """Passes that leave nothing behind: no graph, and running statistics as they were."""
    tracks, net.tracks = net.tracks, False
    try:
        with torch.no_grad():
            yield
    finally:
        net.tracks = tracks


def _chosen(net: Supernet, edges: _Edges, shares: Tensor, bounds: Mapping[str, int]) -> Tensor:
    """[E] the likeliest operations within all bounds, or the likeliest of all if there are none.

    Exact for one bound; of several that of the metric is taken that keeps the others, too.
    """
    prices = {metric: _prices(net, metric) for metric in bounds}
    for metric, bound in bounds.items():
        fixed, each = prices[metric]
        found = likeliest(shares.log(), edges.spread(each).masked_fill(~edges.live, 0), bound - fixed)
        if found is None:
            continue
        found = found.to(shares.device)
        if all(
            start + float(edges.spread(own).gather(1, found[:, None]).sum()) <= bounds[other]
            for other, (start, own) in prices.items()
        ):
            return found
    return shares.argmax(-1)


def _prices(net: Supernet, metric: str) -> tuple[float, Tensor]:
    """The size without any operation, and [N] that of each: they add up, as long as filters and weights are all on."""
    on = {level: mask.double() for level, mask in all_on(net).items()}
    whole = net.count(metric)(on)
    each = savings(net.count(metric), on)["operation"] * whole
    return float(whole - each.sum()), each


def _thresholds(edges: Sequence[Sequence[int]], scores: Tensor, kept: Tensor) -> Tensor:
    """[units] the lowest score that stayed on each one's edge; one where none did."""
    limits = torch.ones_like(scores)
    for edge in edges:
        own = torch.tensor(edge, device=scores.device)
        stay = scores[own][kept[own]]
        limits[own] = stay.min() if len(stay) else 1.0
    return limits


def _between(start: float, end: float, progress: float) -> float:
    return start + (end - start) * min(1.0, progress)
