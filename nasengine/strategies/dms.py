"""DMS: how many units of each choice stay is learned by gradient, which ones their importance says.

Source: DMS (ICML 2024, arXiv 2405.07194). Its three pipelines are recipes: `scale` trains weights and ratios together
(DMS_np), `prune` does so from trained weights (DMS_p), `gates` trains ratios alone, with trained weights (DMS_p-).
Differs: places are mid-ranks and importance is Fisher's by default (`topk`); the current size is that of the hard
network at both levels; what is far from staying is pruned for good before the end, so that the search gets cheaper as
it goes on; the weight of the size grows where it lags behind, instead of being tuned by hand; the end is an exact fit,
by one common shift of all ratios. Operations of a node or layer are what blocks of a stage are in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nasengine import topk
from nasengine.architecture import Plan, lowered
from nasengine.config import DMSConfig
from nasengine.discretise import floors
from nasengine.flat import GATED, LEVELS
from nasengine.objectives import size_penalty, task_loss
from nasengine.pressure import wanted_size
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
from nasengine.supernet import Kept, Supernet

MEMORY = 0.99
"""Share of an average importance that stays at each step."""
TRAVEL = 2.0
"""How often a ratio could go through its whole range while the size falls: what learning rates follow from."""
BETAS = (0.0, 0.99)
GROWTH, STRONGEST = 200.0, 1000.0
"""The weight of the size grows by log(size / wanted), times this over the steps of the descent; its limit."""
GONE = 1e-3
"""Soft mask below which a unit is pruned for good before the end."""


class DMS(Strategy):
    """One ratio of pruned units for each choice of operations or filters.

    The cut at the end takes away what soft masks let through, so statistics of batch norms are estimated anew.

    Args:
        plan: the full space.
        part: its settings.
        epochs: of the whole search.
        targets: sizes in `metric` at which a network is handed out, from large to small.
        limits: further metric -> size that none of them exceeds.
    """

    recalibrates = True

    def __init__(
        self, plan: Plan, part: DMSConfig, *, epochs: int, targets: Sequence[int], metric: str,
        limits: Mapping[str, int],
    ) -> None:  # fmt: skip
        super().__init__()
        self.trains_weights = part.recipe != "gates"
        self.part, self.epochs, self.targets, self.metric = part, epochs, tuple(targets), metric
        self.further, self.metrics = dict(limits), (metric, *limits)
        self.choices = {level: [c for c in plan.choices if c.granularity == level] for level in LEVELS}
        self.ratios = nn.ParameterDict(
            {level: nn.Parameter(torch.zeros(len(self.choices[level]))) for level in part.granularities}
        )
        for level in part.granularities:
            units = torch.tensor([choice.units for choice in self.choices[level]])
            self.register_buffer(f"units_{level}", units, persistent=False)
            self.register_buffer(
                f"floors_{level}", torch.tensor([choice.floor for choice in self.choices[level]]), persistent=False
            )
            self.register_buffer(f"living_{level}", units.clone())
            self.register_buffer(f"importance_{level}", torch.zeros(int(units.sum())))
        self.register_buffer("start", torch.ones(len(self.metrics)))
        self.register_buffer("pressure", torch.tensor(part.pressure))

    # -- the verbs -----------------------------------------------------------------------------------------------

    def stages(self, net: Supernet) -> list[Stage]:
        """One for each target, the first twice as long as the others."""
        plan = net.plan
        full = lowered(plan, {})
        epochs = divided(self.epochs, [2] + [1] * (len(self.targets) - 1))
        return [
            Stage(
                index=index,
                name="the whole network" if index == 0 else f"on to {amount(self.metric, target)} {self.metric}",
                exit=plan.exits[-1],
                blocks=plan.exit_blocks[-1],
                epochs=duration,
                warmup_epochs=warmup_epochs(duration, self.part.warmup_fraction),
                start_size=full.size(self.metric),
                target=target,
                bounds={self.metric: target, **self.further},
                opens=self.part.granularities,
                fits=True,
                last=index == len(self.targets) - 1,
            )
            for index, (duration, target) in enumerate(zip(epochs, self.targets, strict=True))
        ]

    def draw(self, net: Supernet, moment: Moment) -> list[Draw]:
        counted = all_on(net)
        soft = {level: counted[level] for level in GATED}
        if not moment.warming:
            for level in self.part.granularities:
                soft[level], counted[level] = self._masks(net, level, settled=self._is_settled(level, moment))
        flat = {level: watched(mask) for level, mask in soft.items()}
        masks = {name: mask for level, mask in flat.items() for name, mask in net.flat[level].split(mask).items()}
        sizes = [net.count(metric)(counted) for metric in self.metrics]
        wanted = [float(size) for size in sizes] if moment.warming else self._wanted(moment)
        return [
            Draw(
                masks=masks,
                gains=self.gains(net),
                size=sizes[0],
                wanted=wanted[0],
                share=tightest(sizes, wanted),
                off=switched_off(net, soft["operation"]) if self._is_settled("operation", moment) else frozenset(),
                flat=flat,
            )
        ]

    def losses(
        self, net: Supernet, moment: Moment, batch: Batch, draws: Sequence[Draw]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The size counts as long as it is above what is wanted, and not at all below (section 3.3)."""
        images, labels = batch
        (draw,) = draws
        logits = net(images, draw.masks, draw.gains, draw.off)
        losses = {"task": task_loss(logits, labels)}
        if not moment.warming:
            losses["size"] = torch.relu(size_penalty(draw.share, self.pressure.clone()))
        return losses, logits

    @torch.no_grad()
    def after_backward(self, net: Supernet, moment: Moment, draws: Sequence[Draw]) -> None:
        """Follows importance, holds the ratios in their range; at the end of a warm-up they begin."""
        (draw,) = draws
        for level in self.part.granularities:
            mask, units = draw.flat[level], net.flat[level]
            if mask.grad is not None and not self._is_settled(level, moment):
                seen = topk.importance(mask.grad, mask.detach(), self.part.importance)
                average = getattr(self, f"importance_{level}")
                average[units.index] = MEMORY * average[units.index] + (1 - MEMORY) * seen
            if moment.closes_warmup:
                self.ratios[level].copy_(self._range(level)[0])
            elif not moment.warming:
                self.ratios[level].copy_(self._bounded(level))
        if not moment.warming:
            rate = GROWTH / self._descent(moment)
            self.pressure.mul_(torch.exp(rate * torch.log(draw.share.detach())))
            self.pressure.clamp_(self.part.pressure, STRONGEST)
        elif moment.closes_warmup:
            self.pressure.fill_(self.part.pressure)
            on = all_on(net)
            self.start.copy_(torch.stack([net.count(metric)(on) for metric in self.metrics]))

    def points(self, moment: Moment) -> list[Point]:
        if moment.closes_stage:
            return ["end"]
        done = moment.epoch + 1 - moment.stage.warmup_epochs
        return ["cadence"] if done > 0 and done % self.part.commit_every == 0 else []

    @torch.no_grad()
    def decide(self, net: Supernet, moment: Moment, point: Point, batches: Sequence[Batch]) -> list[Decision]:
        net.store()
        scores, thresholds, margins = self._margins(net)
        kept = fit(net, margins, moment.stage) if point == "end" else self._without_the_gone(net, margins)
        if point == "end":  # all ratios were shifted by as much as it took
            thresholds = {name: 1 - float(kept[name].double().mean()) for name in thresholds}
        decision = Decision(kept=kept, scores=scores, thresholds=thresholds, margins=margins, costs=self._costs(net))
        for level in self.part.granularities:
            living = [int(kept[choice.name].sum()) for choice in self.choices[level]]
            getattr(self, f"living_{level}").copy_(torch.tensor(living))
        return [decision]

    def learning_rates(self, moment: Moment) -> list[dict[str, Any]]:
        """Constant while the size falls and after; enough for a ratio to travel wherever it must."""
        return [{"params": list(self.ratios.values()), "lr": TRAVEL / self._descent(moment)}]

    def optimizer(self, moment: Moment) -> torch.optim.Optimizer:
        """Without momentum: ratios that run on would overshoot what is wanted."""
        return torch.optim.Adam(self.learning_rates(moment), betas=BETAS, fused=True)

    def gains(self, net: Supernet) -> Mapping[str, Tensor]:
        """None: what a unit weighs is in its weights."""
        return {}

    def limits(self) -> Mapping[str, float]:
        """Mean ratio of each level; what is below zero prunes nothing."""
        return {level: float(self._bounded(level).detach().clamp(min=0).mean()) for level in self.part.granularities}

    # -- masks ---------------------------------------------------------------------------------------------------

    def _masks(self, net: Supernet, level: str, *, settled: bool) -> tuple[Tensor, Tensor]:
        """[K] what the network computes with, and what it is counted by; both hard once the level is settled."""
        units = net.flat[level]
        places = self._places(net, level)
        ratios = units.spread(self._bounded(level)[units.ordinal])
        hard = topk.hard(places, ratios)
        if settled:
            return hard, hard
        steepness = topk.sharpness(level, getattr(self, f"units_{level}"))[units.ordinal]
        soft = topk.soft(places, ratios, units.spread(steepness))
        return soft, topk.straight_through(hard, soft)

    def _places(self, net: Supernet, level: str) -> Tensor:
        """[K] among all units of a choice, of which the dead are last."""
        units = net.flat[level]
        importance = getattr(self, f"importance_{level}")[units.index]
        return topk.places(importance, units.group, units.starts, getattr(self, f"units_{level}")[units.ordinal])

    def _bounded(self, level: str) -> Tensor:
        """[choices] ratios within their range also right after an optimizer's step, which the gradient passes."""
        values = self.ratios[level]
        return values + (values.clamp(*self._range(level)) - values).detach()

    def _range(self, level: str) -> tuple[Tensor, Tensor]:
        """[choices] ratios at which all that lives is on, and at which only floors are."""
        units, floors_, living = (getattr(self, f"{part}_{level}") for part in ("units", "floors", "living"))
        return topk.bounds(units, floors_, topk.sharpness(level, units), living)

    def _is_settled(self, level: str, moment: Moment) -> bool:
        """Whether nothing of it moves any more: operations make the size jump, so filters alone end the search."""
        return level == "operation" and "filter" in self.ratios and moment.progress >= self.part.decay_fraction

    def _descent(self, moment: Moment) -> float:
        """Steps in which the size falls to the target."""
        return max(1.0, self.part.decay_fraction * moment.pruning_steps)

    def _wanted(self, moment: Moment) -> list[float]:
        """By metric: geometrically down to the bound, which is then held (eq. 10, by steps instead of epochs)."""
        aims = zip(self.start.tolist(), moment.stage.bounds.values(), strict=True)
        return [wanted_size(start, bound, moment.progress / self.part.decay_fraction) for start, bound in aims]

    # -- decisions -----------------------------------------------------------------------------------------------

    def _margins(self, net: Supernet) -> tuple[dict[str, Tensor], dict[str, float | Tensor], dict[str, Tensor]]:
        """Places, ratios and the first less the second, of every unit; what is pruned for good ranks below all else."""
        places: dict[str, Tensor] = {}
        ratios: dict[str, float | Tensor] = {}
        margins = {name: torch.zeros_like(alive, dtype=torch.float) for name, alive in net.kept.items()}
        for level in self.part.granularities:
            found = self._whole(net, level, self._places(net, level))
            for choice, ratio in zip(self.choices[level], self._bounded(level).tolist(), strict=True):
                name = choice.name
                places[name], ratios[name] = found[name], max(0.0, ratio)
                margins[name] = torch.where(net.kept[name], found[name] - ratio, found[name] - 2)
        return places, ratios, margins

    def _whole(self, net: Supernet, level: str, values: Tensor) -> dict[str, Tensor]:
        """[K] of living units as choice -> [units], zero for dead ones."""
        choices = self.choices[level]
        whole = values.new_zeros(sum(choice.units for choice in choices))
        whole[net.flat[level].index] = values
        parts = whole.split([choice.units for choice in choices])
        return {choice.name: part for choice, part in zip(choices, parts, strict=True)}

    def _without_the_gone(self, net: Supernet, margins: Mapping[str, Tensor]) -> Kept:
        """All that lives, less those units whose masks are next to nothing."""
        held = floors(net.plan, margins)
        kept = dict(net.kept)
        for level in self.part.granularities:
            far = math.log(1 / GONE - 1) / topk.sharpness(level, getattr(self, f"units_{level}"))
            for choice, distance in zip(self.choices[level], far.tolist(), strict=True):
                if choice.name in net.running:
                    kept[choice.name] = net.kept[choice.name] & ((margins[choice.name] > -distance) | held[choice.name])
        return kept

    def _costs(self, net: Supernet) -> dict[str, Tensor]:
        """Choice -> share of the size that goes with each unit."""
        masks = all_on(net)
        for level in self.part.granularities:
            masks[level], _ = self._masks(net, level, settled=True)
        shares = cost_shares(net, self.metrics, masks)
        return {name: part for level in GATED for name, part in self._whole(net, level, shares[level]).items()}


def strategy(plan: Plan, config: Any, targets: Sequence[int], limits: Mapping[str, int]) -> DMS:
    """The strategy that a SearchConfig asks for."""
    return DMS(
        plan, config.strategy, epochs=config.search.epochs, targets=targets, metric=config.target.metric,
        limits=limits,
    )  # fmt: skip
