"""MGAS: learned thresholds prune operations, filters and weights while the network trains, stage by stage.

Source: "MG-DARTS / MGAS" (arXiv 2310.15074): step with surrogate gradient, learned score and threshold of each level,
front-to-back stages with exits, re-pruning of earlier cells, regrowth. Its own schedule is in ``mgas_published``.
Differs, with reasons in DESIGN.md: scores of operations and filters are what the loss would miss of them for what they
cost; once pruning begins they are seen on held-out images, from which thresholds learn, too; the size of everything
stored is in the loss and a controller steers it to the target; thresholds are held in the range of their scores; what
returns is chosen by first-order saliency at all three levels and has the values that it had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from nasengine import topk
from nasengine.architecture import Architecture, Plan, activations, lowered, smallest
from nasengine.config import MGASConfig
from nasengine.discretise import floors
from nasengine.flat import GATED, LEVELS, Units
from nasengine.importance import Importance
from nasengine.masks import ranks, threshold
from nasengine.objectives import size_penalty, task_loss
from nasengine.pressure import wanted_size
from nasengine.saliency import returning, saliencies
from nasengine.sizes import amount
from nasengine.strategies.base import (
    Batch,
    Decision,
    Draw,
    Moment,
    Point,
    Stage,
    Strategy,
    all_on,
    cost_shares,
    divided,
    fit,
    switched_off,
    tightest,
    warmup_epochs,
    watched,
)  # fmt: skip
from nasengine.supernet import Kept, Supernet, architecture

RAMP = 0.7
"""Share of a stage's pruning steps in which the wanted size falls from its start to the target; then it is held."""
HOLD_LR = 0.1
"""Learning rates of factors and thresholds fall to this share of themselves while the target is held."""
REFERENCE_STEPS = 600
"""Pruning steps for which the rates below are meant; shorter stages move faster, so that they get as far."""
RATES = {"operation": 0.004, "filter": 0.005, "threshold": 0.002, "weight_threshold": 0.005}
"""Of factors (operations, filters) and thresholds. Factors that jump would change what their units seem to be worth."""
LOW = 0.02
"""Share of a level's units that are below their threshold when pruning starts, so that no time is lost till then."""
INTEGRAL, PROPORTIONAL, PRESSURE_LIMIT = 0.1, 5.0, 20.0
"""Controller on log(size / wanted size): negative pressure lets units return."""
OFF_SHARE = 0.1
"""A unit is pruned for good between stages only if it was on in less than this share of the recent steps."""
HIGHEST = {"operation": 1.0, "filter": 1.0, "weight": 3.0}
"""Highest threshold: the range of the scores; of weights, in root mean squares of their layer."""
LATEST_REGROWTH = 0.6
"""Share of a stage's pruning steps after which nothing returns within it: what comes late cannot earn its place."""
RAISED, HIGHEST_RAISED = 0.05, 0.999
"""How far above its threshold an operation is put that a collapsing block is made to keep; its highest score then."""


class MGAS(Strategy):
    """Scores are benefit to cost (operations, filters; `Importance`) and |w| / rms(layer) (weights).

    Factors of operations and filters are sigmoids of the logits `alpha` and `k`, which learn like the thresholds.

    Args:
        plan: the full space.
        part: its settings.
        epochs: of the whole search.
        targets: sizes in `metric` at which a network is handed out, from large to small.
        limits: further metric -> size that none of them exceeds.
    """

    lowest: Mapping[str, float] = MappingProxyType({"operation": 1e-3, "filter": 1e-3, "weight": 0.0})
    """Lowest threshold: above the score of what nobody misses, so that this is off however much may live."""

    def __init__(
        self, plan: Plan, part: MGASConfig, *, epochs: int, targets: Sequence[int], metric: str,
        limits: Mapping[str, int],
    ) -> None:  # fmt: skip
        super().__init__()
        self.further, self.metrics = dict(limits), (metric, *limits)
        self.part, self.epochs, self.targets, self.metric = part, epochs, tuple(targets), metric
        self.decision_fraction = part.decision_fraction
        self.equal = part.ratios == "equal"
        self.highest = dict.fromkeys(LEVELS, 1.0) if self.equal else HIGHEST
        self.choices = {level: [c for c in plan.choices if c.granularity == level] for level in LEVELS}
        self.total = {level: sum(choice.units for choice in choices) for level, choices in self.choices.items()}
        self.alpha = nn.Parameter(torch.zeros(self.total["operation"]))
        self.k = nn.Parameter(torch.zeros(self.total["filter"]))
        self.thresholds = nn.ParameterDict(
            {level: nn.Parameter(torch.zeros(self.threshold_count(level))) for level in LEVELS}
        )
        self.importance = Importance({level: self.total[level] for level in GATED}, part.constant_cost)
        for level in LEVELS:
            self.register_buffer(
                f"floors_{level}", torch.tensor([c.floor for c in self.choices[level]]), persistent=False
            )
            self.register_buffer(
                f"units_{level}", torch.tensor([c.units for c in self.choices[level]]), persistent=False
            )
            self.register_buffer(f"sheltered_{level}", torch.zeros(self.total[level], dtype=torch.bool))
        self.register_buffer("shelter_steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("integral", torch.zeros(()))
        self.register_buffer("ramp_start", torch.ones(1 + len(limits)))
        self.register_buffer("budget", torch.zeros((), dtype=torch.long))
        self.register_buffer("on_operation", torch.ones(self.total["operation"]))
        self.register_buffer("on_filter", torch.ones(self.total["filter"]))

    # -- the verbs -----------------------------------------------------------------------------------------------

    def stages(self, net: Supernet) -> list[Stage]:
        """One stage an exit, then one for each smaller target; epochs evenly, twice as many for the first whole one."""
        plan, exits = net.plan, net.plan.exits
        full = [lowered(plan, {}, exit_=exit_) for exit_ in exits]
        shares = [1] * (len(exits) - 1) + [2] + [1] * (len(self.targets) - 1)
        epochs = divided(self.epochs, shares)
        early = self._early_bounds(plan, full)
        stages = []
        for index, duration in enumerate(epochs):
            number = min(index, len(exits) - 1)
            fits = index >= len(exits) - 1
            bounds = {self.metric: self.targets[index - len(exits) + 1], **self.further} if fits else early[index]
            target = bounds[self.metric]
            stages.append(
                Stage(
                    index=index,
                    name=self._name(plan, number, target),
                    exit=exits[number],
                    blocks=plan.exit_blocks[number],
                    epochs=duration,
                    warmup_epochs=warmup_epochs(duration, self.part.warmup_fraction),
                    start_size=full[number].size(self.metric),
                    target=target,
                    bounds=bounds,
                    opens=self.part.granularities,
                    fits=fits,
                    last=index == len(epochs) - 1,
                )
            )
        return stages

    def early_shares(self, ratio: float, stages: int) -> list[float]:
        """What each early stage may keep of its blocks: ratio ** (stage / stages), unless it is set by hand.

        What a front must give up at once is least known at the start, so earlier stages give up less.
        """
        return [ratio ** ((index + 1) / stages) for index in range(stages - 1)]

    def _early_bounds(self, plan: Plan, full: Sequence[Architecture]) -> list[dict[str, int]]:
        """For each early stage, metric -> size; never what it cannot reach."""
        found: list[dict[str, int]] = [{} for _ in full[:-1]]
        for metric, last in {self.metric: self.targets[0], **self.further}.items():
            ratio = min(1.0, last / full[-1].size(metric))
            by_hand = self.part.stage_shares if metric == self.metric else None
            shares = by_hand or self.early_shares(ratio, len(full))
            for bounds, share, whole, exit_ in zip(found, shares, full, plan.exits, strict=False):
                least = smallest(plan, self.part.granularities, metric, exit_)
                bounds[metric] = max(int(share * whole.size(metric)), least)
        return found

    def draw(self, net: Supernet, moment: Moment) -> list[Draw]:
        counted = all_on(net) if moment.warming else self._flat_masks(net)
        flat = counted | {level: watched(counted[level]) for level in GATED}
        masks: dict[str, Tensor] = {}
        for level in (*GATED, *(["weight"] if "weight" in self.part.granularities else [])):
            masks |= net.flat[level].split(flat[level])
        sizes = [net.count(metric)(counted) for metric in self.metrics]
        wanted = self._wanted(moment)
        return [
            Draw(
                masks=masks,
                gains=self.gains(net),
                size=sizes[0],
                wanted=wanted[0],
                share=tightest(sizes, wanted),
                off=frozenset() if moment.warming else switched_off(net, flat["operation"]),
                flat=flat,
            )
        ]

    def losses(
        self, net: Supernet, moment: Moment, batch: Batch, draws: Sequence[Draw]
    ) -> tuple[dict[str, Tensor], Tensor]:
        images, labels = batch
        (draw,) = draws
        logits = net(images, draw.masks, draw.gains, draw.off)
        losses = {"task": task_loss(logits, labels)}
        if not moment.warming:
            pressure = self.integral + PROPORTIONAL * self._error(draw)
            losses["size"] = size_penalty(draw.share, pressure.clamp(-PRESSURE_LIMIT, PRESSURE_LIMIT))
        return losses, logits

    @torch.no_grad()
    def after_backward(self, net: Supernet, moment: Moment, draws: Sequence[Draw]) -> None:
        """Moves the controller and the averages; at the end of a warm-up, puts thresholds under nearly all scores."""
        (draw,) = draws
        self._observe(net, draw)
        if moment.warming:
            if moment.closes_warmup:
                self._rest(net)
                self._begin(net)
            return
        gain = INTEGRAL * self._haste(moment)
        self.integral.add_(gain * self._error(draw)).clamp_(-PRESSURE_LIMIT, PRESSURE_LIMIT)
        for level, average in (("operation", self.on_operation), ("filter", self.on_filter)):
            units = net.flat[level]
            average[units.index] = 0.9 * average[units.index] + 0.1 * units.joined(draw.masks)
        for level, limits in self.thresholds.items():
            limits.clamp_(self.lowest[level], self.highest[level])
        self.shelter_steps.sub_(1).clamp_(min=0)

    def points(self, moment: Moment) -> list[Point]:
        regrows = bool(self.returning)
        if moment.closes_stage:
            return ["end", "regrow"] if regrows and not moment.stage.last else ["end"]
        if moment.warming:
            return []
        done = moment.epoch + 1 - moment.stage.warmup_epochs
        found: list[Point] = ["cadence"] if done % self.part.commit_every == 0 else []
        every = self.part.regrow_every
        if regrows and every and moment.stage.index and done % every == 0 and moment.progress <= LATEST_REGROWTH:
            found.append("regrow")
        return found

    def decide(self, net: Supernet, moment: Moment, point: Point, batches: Sequence[Batch]) -> list[Decision]:
        if point == "regrow":
            return self._regrown(net, moment, batches)
        net.store()
        scores, thresholds, margins = self._margins(net)
        averted: list[tuple[str, int]] = []
        if point == "end" and moment.stage.fits:
            kept = fit(net, margins, moment.stage)
        else:
            kept = self._pruned(net, margins, weights=point == "end", patient=point == "cadence")
            averted = self._averted(net, kept, margins, self.part.protect_epochs * moment.steps)
            if point == "end" and not within(net, kept, moment.stage):
                kept = fit(net, margins, moment.stage)
        return [self._told(kept, scores, thresholds, margins, averted)]

    def _told(
        self, kept: Kept, scores: Mapping[str, Tensor], thresholds: Mapping[str, float | Tensor],
        margins: Mapping[str, Tensor], averted: Sequence[tuple[str, int]], *, closes: bool = False,
    ) -> Decision:  # fmt: skip
        """The decision with all that it rests on."""
        costs = {
            choice.name: part
            for level in GATED
            for choice, part in zip(
                self.choices[level], self.importance.costs(level).split(self._sizes(level)), strict=True
            )
        }
        return Decision(
            kept=kept, scores=scores, thresholds=thresholds, margins=margins, costs=costs, averted=averted,
            closes=closes,
        )  # fmt: skip

    def learning_rates(self, moment: Moment) -> list[dict[str, Any]]:
        hold = max(0.0, (moment.progress - RAMP) / (1 - RAMP))
        factor = self._haste(moment) * HOLD_LR**hold
        return [
            {"params": [self.alpha], "lr": RATES["operation"] * factor},
            {"params": [self.k], "lr": RATES["filter"] * factor},
            {"params": [self.thresholds["operation"], self.thresholds["filter"]], "lr": RATES["threshold"] * factor},
            {"params": [self.thresholds["weight"]], "lr": RATES["weight_threshold"] * factor},
        ]

    def limits(self) -> Mapping[str, float]:
        return {level: float(self.thresholds[level].detach().mean()) for level in self.part.granularities}

    @property
    def returning(self) -> list[str]:
        """Levels at which units return."""
        levels = [level for level in self.part.granularities if level in self.part.regrow_levels]
        return levels if self.part.regrow_fraction > 0 else []

    # -- masks ---------------------------------------------------------------------------------------------------

    def threshold_count(self, level: str) -> int:
        """How many thresholds a level has: one for all operations, one for all filters, one for each convolution.

        Scores of operations and filters are measured by what is usual in their level, so that one height serves all.
        """
        return 1 if level in GATED or self.equal else len(self.choices[level])

    def logits(self, level: str) -> Tensor:
        """[units] of the factors of all operations or filters, dead ones included."""
        return self.alpha if level == "operation" else self.k

    def scores(self, level: str) -> Tensor:
        """[units] scores of all operations or filters, dead ones included."""
        return self.importance.scores(level)

    def _observe(self, net: Supernet, draw: Draw) -> None:
        """Follows what each unit is good for and what it costs, where that shows.

        A filter that is off lies at the edge of a rectifier, where no slope passes, and one of a candidate that is off
        has neither slope nor cost: they keep what was seen of them.
        """
        shares = cost_shares(net, self.metrics, draw.flat)
        for level in GATED:
            masks = draw.flat[level]
            if masks.grad is None:
                continue
            seen = torch.ones_like(masks, dtype=torch.bool)
            if level == "filter":
                seen = (masks.detach() > 0) & (shares[level] > 0)
            self.importance.observe(level, net.flat[level].index, masks.grad, shares[level], seen)

    def gains(self, net: Supernet) -> dict[str, Tensor]:
        """Operation or filter choice -> factors of its living units."""
        found: dict[str, Tensor] = {}
        for level in GATED:
            units = net.flat[level]
            found |= units.split(torch.sigmoid(self.logits(level)[units.index]))
        return found

    def _flat_masks(self, net: Supernet) -> dict[str, Tensor]:
        masks: dict[str, Tensor] = {}
        for level in GATED:
            units = net.flat[level]
            scores = self.scores(level)[units.index]
            if level in self.part.granularities:
                scores = self._compared(scores, units, getattr(self, f"units_{level}")[units.ordinal])
                place = ranks(scores.detach(), units.group, units.starts)
                held = place < getattr(self, f"floors_{level}")[units.ordinal][units.group]
                held |= self._sheltered(net, level)
                masks[level] = threshold(scores, self._unit_thresholds(net, level), held)
            else:
                masks[level] = torch.ones_like(scores)
        alive = net.alive_weights
        if "weight" not in self.part.granularities:
            return masks | {"weight": alive}
        units = net.flat["weight"]
        values = _weight_scores(net)
        standing = values.detach() * alive
        best = torch.segment_reduce(standing, "max", lengths=units.sizes, unsafe=True)
        held = ((standing >= units.spread(best)) & (alive > 0)) | self._sheltered(net, "weight")
        values = self._compared(torch.where(alive > 0, values, -1.0) if self.equal else values, units, units.sizes)
        masks["weight"] = threshold(values, self._unit_thresholds(net, "weight"), held) * alive
        return masks

    def _compared(self, scores: Tensor, units: Units, whole: Tensor) -> Tensor:
        """[K] what is held against the thresholds: scores, or for equal ratios places among the `whole` of each choice.

        Args:
            scores: [K].
            units: of the level.
            whole: [choices] number of units that count, whether or not they live.
        """
        if not self.equal:
            return scores
        places = topk.places(scores.detach(), units.group, units.starts, whole).to(scores.dtype)
        return places + scores - scores.detach()

    def _unit_thresholds(self, net: Supernet, level: str) -> Tensor:
        """[K] threshold of each living unit."""
        units = net.flat[level]
        return units.spread(self._bounded(level).expand(len(self.choices[level]))[units.ordinal])

    def _bounded(self, level: str) -> Tensor:
        """The thresholds, held in their range also right after an optimizer's step.

        The gradient passes: a clamp's own is zero outside, and a threshold that momentum carried there would stay.
        """
        values = self.thresholds[level]
        return values + (values.clamp(self.lowest[level], self.highest[level]) - values).detach()

    def _sheltered(self, net: Supernet, level: str) -> Tensor:
        """[K] living units that cannot be switched off now."""
        units = net.flat[level]
        flags = getattr(self, f"sheltered_{level}")
        if not int(self.shelter_steps):
            return torch.zeros(sum(units.counts), dtype=torch.bool, device=flags.device)
        if level != "weight":
            return flags[units.index]
        return units.joined(
            {
                name: net.gather(weight, {weight: part.view_as(net.kept[name])})
                for choice, part in zip(
                    self.choices[level], flags.split([c.units for c in self.choices[level]]), strict=True
                )
                if (name := choice.name) in net.running and (weight := f"{net.plan.weighs[name]}/weight")
            },
            torch.bool,
        )

    # -- control -------------------------------------------------------------------------------------------------

    def _wanted(self, moment: Moment) -> list[float]:
        """By metric: from what lives after the warm-up it goes geometrically to the bound, and stays there."""
        stage = moment.stage
        if moment.warming:
            return [float(stage.start_size)] * len(self.metrics)  # nothing is pressed yet
        aims = zip(self.ramp_start.tolist(), stage.bounds.values(), strict=True)
        return [wanted_size(start, bound, moment.progress / RAMP) for start, bound in aims]

    @staticmethod
    def _error(draw: Draw) -> Tensor:
        return torch.log(draw.share.detach())

    @staticmethod
    def _haste(moment: Moment) -> float:
        return min(12.0, max(0.2, REFERENCE_STEPS / moment.pruning_steps))

    def _rest(self, net: Supernet) -> None:
        """Thresholds under all but the lowest scores: one height for a level, so that scores decide between choices."""
        for level in GATED:
            index = net.flat[level].index
            if not len(index):  # a known model may have nothing to decide at a level
                continue
            self.importance.settle(level, index)
            lowest = LOW if self.equal else self.scores(level)[index].quantile(LOW)
            self.thresholds[level].fill_(lowest)
        if self.equal:
            self.thresholds["weight"].fill_(LOW)
            return
        units = net.flat["weight"]
        parts = zip(_weight_scores(net).split(units.counts), net.alive_weights.split(units.counts), strict=True)
        low = [part[alive > 0].quantile(LOW) if bool(alive.any()) else part.new_zeros(()) for part, alive in parts]
        if low:
            self.thresholds["weight"][units.ordinal] = torch.stack(low)

    def _begin(self, net: Supernet) -> None:
        """Puts the controller and the averages at their start."""
        on = all_on(net)
        self.ramp_start.copy_(torch.stack([net.count(metric)(on) for metric in self.metrics]))
        need = activations(net.plan, net.program, net.units)
        self.budget.fill_(need if net.memory is None else min(need, net.memory))
        self.integral.zero_()
        self.on_operation.fill_(1)
        self.on_filter.fill_(1)

    # -- decisions -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _margins(self, net: Supernet) -> tuple[dict[str, Tensor], dict[str, float | Tensor], dict[str, Tensor]]:
        """Scores, thresholds and margins of every unit, full size; what is pruned for good ranks below all else."""
        scores: dict[str, Tensor] = {}
        thresholds: dict[str, float | Tensor] = {}
        margins: dict[str, Tensor] = {}
        scales = dict(zip(net.flat["weight"].choices, _weight_scales(net, _flat_weights(net)).tolist(), strict=True))
        for level, choices in self.choices.items():
            parts = self.scores(level).split(self._sizes(level)) if level in GATED else None
            for number, (choice, limit) in enumerate(zip(choices, self._choice_thresholds(level), strict=True)):
                if parts is not None:
                    score = parts[number]
                else:
                    value = net.nursery[f"{net.plan.weighs[choice.name]}/weight"]
                    score = value.abs() / (scales.get(choice.name) or max(1e-12, float(value.pow(2).mean().sqrt())))
                scores[choice.name], thresholds[choice.name] = score, limit
                if self.equal:
                    score = places(score, net.kept[choice.name], self._counted(net, level, choice.name))
                margin = ((score - limit) / self.highest[level]).clamp(-1, 1)
                margins[choice.name] = torch.where(net.kept[choice.name], margin, margin - 2)
        return scores, thresholds, margins

    @staticmethod
    def _counted(net: Supernet, level: str, name: str) -> Tensor:
        """Full-size bool: units of a choice that its ratio is about; of weights those in living rows and columns."""
        kept = net.kept[name]
        if level != "weight":
            return torch.ones_like(kept)
        rows, columns = net.places.get(net.plan.weighs[name], ([], []))
        inside = torch.zeros_like(kept)
        inside[rows] = True
        if kept.shape[1] > 1:
            outside = torch.ones(kept.shape[1], dtype=torch.bool, device=kept.device)
            outside[columns] = False
            inside[:, outside] = False
        return inside

    def _choice_thresholds(self, level: str) -> Sequence[float | Tensor]:
        return self._bounded(level).expand(len(self.choices[level])).tolist()

    def _pruned(self, net: Supernet, margins: Mapping[str, Tensor], *, weights: bool, patient: bool) -> Kept:
        """What is off now; with patience only what was off for long. What is sheltered stays."""
        held = floors(net.plan, margins)
        kept = dict(net.kept)
        for level in self.part.granularities:
            averages = {"operation": self.on_operation, "filter": self.on_filter}.get(level)
            if averages is None and not weights:
                continue
            sizes = [c.units for c in self.choices[level]]
            parts = averages.split(sizes) if averages is not None else None
            sheltered = (getattr(self, f"sheltered_{level}") & (self.shelter_steps > 0)).split(sizes)
            for number, choice in enumerate(self.choices[level]):
                if choice.name not in net.running:
                    continue
                off = (margins[choice.name] <= 0) & ~sheltered[number].view_as(margins[choice.name])
                if patient and parts is not None:
                    off &= parts[number] < OFF_SHARE
                kept[choice.name] = net.kept[choice.name] & (~off | held[choice.name])
        return kept

    @torch.no_grad()
    def _averted(self, net: Supernet, kept: Kept, margins: Mapping[str, Tensor], steps: int) -> list[tuple[str, int]]:
        """Blocks in which the masks leave only skips and pools: the best other operation is put above its threshold.

        `floors` has kept it; here it is switched on, and sheltered, so that it gets its chance.
        """
        if "operation" not in self.part.granularities:
            return []
        found = []
        starts = self._starts("operation")
        limits = dict(zip(starts, self._choice_thresholds("operation"), strict=True))
        for names in net.plan.guarded:
            alive = [
                (name, u)
                for name in names
                if name in net.running
                for u in sorted(net.plan.active[name])
                if kept[name][u]
            ]
            if not alive or any(margins[name][unit] > 0 for name, unit in alive):
                continue
            name, unit = max(alive, key=lambda place: float(margins[place[0]][place[1]]))
            limit = limits[name]
            wanted = float(limit[unit] if isinstance(limit, Tensor) else limit) + RAISED
            if self.equal:  # what counts is the place among its choice: the best
                wanted = float(self.scores("operation")[starts[name] :][: len(kept[name])].max()) + RAISED
            self._put("operation", starts[name] + unit, self.alpha.new_tensor(min(wanted, HIGHEST_RAISED)))
            self._shelter({name: torch.arange(len(kept[name]), device=kept[name].device) == unit}, steps)
            found.append((name, unit))
        return found

    def _put(self, level: str, places: Tensor | int, score: Tensor) -> None:
        """Gives the units at these places of a level a score."""
        self.importance.put(level, places, score)

    def has_seen(self, level: str) -> bool:
        """Whether anything is known of what units of a level are good for."""
        return bool(self.importance.benefits(level).any())

    def rank(self, level: str, kept: Kept, worth: Mapping[str, Tensor]) -> None:
        """Scores the units of each choice by their order in `worth` alone, evenly: for where nothing else is known."""
        starts = self._starts(level)
        for choice in self.choices[level]:
            values = worth[choice.name].float()
            scores = places(values, kept[choice.name], torch.ones_like(values, dtype=torch.bool))
            self._put(level, starts[choice.name] + torch.arange(choice.units, device=values.device), scores.to(self.k))

    def _sizes(self, level: str) -> list[int]:
        return [choice.units for choice in self.choices[level]]

    def _starts(self, level: str) -> dict[str, int]:
        """Choice -> place of its first unit among all of its level."""
        ends = accumulate(self._sizes(level))
        return {c.name: end - c.units for c, end in zip(self.choices[level], ends, strict=True)}

    def _regrown(self, net: Supernet, moment: Moment, batches: Sequence[Batch]) -> list[Decision]:
        """Brings back the dead units whose return would change the loss most, level by level."""
        found = saliencies(net, self.gains, self.returning, batches, int(self.budget))
        kept, thresholds, asked = dict(net.kept), {}, {}
        for level in self.returning:
            own = {
                choice.name: found[choice.name] for choice in self.choices[level] if choice.block < moment.stage.blocks
            }
            alive, lowest, asked[level] = returning(own, net.kept, self.part.regrow_fraction)
            kept |= alive
            thresholds |= dict.fromkeys(own, lowest)
        self._welcome(net, kept, moment)
        return [Decision(kept=kept, scores=found, thresholds=thresholds, asked=asked)]

    @torch.no_grad()
    def _welcome(self, net: Supernet, kept: Kept, moment: Moment) -> None:
        """Gives regrown units the lowest living score of their choice, no head start, and shelters them for a while.

        Of a run of blocks none may be left: then it is the lowest of the level, and their own where that has none.
        """
        for level in GATED:
            logits = self.logits(level)
            for name, start in self._starts(level).items():
                new = kept[name] & ~net.kept[name]
                if bool(new.any()):
                    places, old = (start + units.nonzero().flatten() for units in (new, net.kept[name]))
                    old = old if len(old) else net.flat[level].index
                    if len(old):
                        logits[places] = logits[old].min()
                        self._rank_last(level, places, old)
        new = {name: alive & ~net.kept[name] for name, alive in kept.items()}
        self._shelter(new, self.part.protect_epochs * moment.steps)

    def _rank_last(self, level: str, places: Tensor, old: Tensor) -> None:
        """Gives the units at `places` the lowest score of those at `old`."""
        self._put(level, places, self.scores(level)[old].min())

    def _shelter(self, new: Kept, steps: int) -> None:
        """For so many pruning steps these units cannot be switched off, nor those that are sheltered already."""
        if not int(self.shelter_steps):
            for level in LEVELS:
                getattr(self, f"sheltered_{level}").zero_()
        for level in LEVELS:
            flags = getattr(self, f"sheltered_{level}").split(self._sizes(level))
            for choice, part in zip(self.choices[level], flags, strict=True):
                if choice.name in new:
                    part |= new[choice.name].flatten()
        self.shelter_steps.fill_(max(int(self.shelter_steps), steps))

    def _name(self, plan: Plan, number: int, target: int) -> str:
        if number < len(plan.exits) - 1:
            return f"up to {plan.blocks[plan.exit_blocks[number] - 1]}"
        return (
            "the whole network" if target == self.targets[0] else f"on to {amount(self.metric, target)} {self.metric}"
        )


def within(net: Supernet, kept: Kept, stage: Stage) -> bool:
    """Whether a decision keeps to all bounds of a stage."""
    found = architecture(net.plan, kept, net.exit)
    return all(found.size(metric) <= bound for metric, bound in stage.bounds.items())


def places(scores: Tensor, alive: Tensor, counted: Tensor) -> Tensor:
    """Places among the units of a choice that are `counted`: near 1 for the best, near 0 for the last, evenly.

    Dead ones come last; what is not counted is nowhere near a threshold.
    """
    standing = scores.masked_fill(~alive, -1.0)[counted]
    order = torch.sort(standing, descending=True, stable=True).indices
    own = torch.empty(len(order), device=scores.device)
    own[order] = 1 - (torch.arange(len(order), device=scores.device) + 0.5) / len(order)
    places = torch.ones_like(scores)
    places[counted] = own
    return places


def _flat_weights(net: Supernet) -> Tensor:
    units = net.flat["weight"]
    return units.joined({name: net.live[f"{net.plan.weighs[name]}/weight"] for name in units.choices})


@torch.no_grad()
def _weight_scales(net: Supernet, flat: Tensor) -> Tensor:
    """[choices] root mean square of each convolution's living weights."""
    sizes, alive = net.flat["weight"].sizes, net.alive_weights
    squares = torch.segment_reduce(flat * flat * alive, "sum", lengths=sizes, unsafe=True)
    counts = torch.segment_reduce(alive, "sum", lengths=sizes, unsafe=True)
    return (squares / counts.clamp(min=1)).sqrt().clamp(min=1e-12)


def _weight_scores(net: Supernet) -> Tensor:
    """[K] |w| / rms of its convolution; the rms passes no gradient."""
    flat = _flat_weights(net)
    return flat.abs() / net.flat["weight"].spread(_weight_scales(net, flat))


def strategy(plan: Plan, config: Any, targets: Sequence[int], limits: Mapping[str, int]) -> MGAS:
    """The strategy that a SearchConfig asks for."""
    return MGAS(
        plan, config.strategy, epochs=config.search.epochs, targets=targets, metric=config.target.metric,
        limits=limits,
    )  # fmt: skip
