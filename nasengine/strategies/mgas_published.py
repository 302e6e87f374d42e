"""MGAS by its published schedule: one level, a controller on the regularisers' factor, operations regrow by their kin.

Source: the published search of arXiv 2310.15074. Kept of it: weights, scores and thresholds learn from the same batches
by SGD; thresholds start at zero and are pushed up by exp(-t), each candidate with its own; all masks are committed
every `commit_every` epochs; the factor follows the number of operations that just died; a stage ends when its size is
reached; a fifth of the operations it pruned is drawn again, after an epoch with frozen masks.
Ours: exact slicing, thresholds in the range of their scores, all parameters counted, a cap on the epochs (then the size
is fitted), regrown operations have the values they had when they were pruned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from nasengine import device, parallel
from nasengine.architecture import Plan
from nasengine.config import MGASConfig
from nasengine.flat import LEVELS
from nasengine.objectives import operation_spread, task_loss, threshold_push
from nasengine.pressure import Lambda, after_commit
from nasengine.strategies.base import Batch, Decision, Draw, Moment, Point, Stage, fit
from nasengine.strategies.mgas import MGAS, within
from nasengine.supernet import Kept, Supernet

SHARES = (0.5, 0.4, 0.3)
"""What stages one, two and three may keep, unless the target is gentler."""
RATES = {"score": 1.0, "threshold": 0.1, "weight_threshold": 0.001}
MOMENTUM = 0.9
LAST_DOMINANCE = 0.5
"""In the last phase the regulariser counts by this much when it is compared with the task loss."""


class PublishedMGAS(MGAS):
    """MGAS with the paper's schedule; `seed` is for the draws of what regrows."""

    lowest = MappingProxyType(dict.fromkeys(LEVELS, 0.0))

    def __init__(
        self, plan: Plan, part: MGASConfig, *, epochs: int, targets: Sequence[int], metric: str,
        limits: Mapping[str, int], seed: int,
    ) -> None:  # fmt: skip
        super().__init__(plan, part, epochs=epochs, targets=targets, metric=metric, limits=limits)
        self.seed = seed
        self.decision_fraction = 0.0
        for name, value in vars(Lambda()).items():
            self.register_buffer(f"lambda_{name}", torch.tensor(value, dtype=torch.double))
        self.register_buffer("alpha_momentum", torch.zeros(self.total["operation"]))
        self.register_buffer("task_sum", torch.zeros(()))
        self.register_buffer("spread_sum", torch.zeros(()))
        self.register_buffer("pruned_in_stage", torch.zeros(self.total["operation"], dtype=torch.bool))
        self.register_buffer("probing", torch.zeros((), dtype=torch.bool))

    def threshold_count(self, level: str) -> int:
        """Each candidate has a threshold of its own, and each choice of filters or weights."""
        return self.total[level] if level == "operation" else len(self.choices[level])

    def early_shares(self, ratio: float, stages: int) -> list[float]:
        """The paper's, or the target's own where that is gentler."""
        return [max(ratio, SHARES[min(index, len(SHARES) - 1)]) for index in range(stages - 1)]

    def draw(self, net: Supernet, moment: Moment) -> list[Draw]:
        frozen = replace(moment, epoch=0) if bool(self.probing) else moment  # as in a warm-up: all that lives is on
        return [replace(draw, wanted=float(moment.stage.target)) for draw in super().draw(net, frozen)]

    def losses(
        self, net: Supernet, moment: Moment, batch: Batch, draws: Sequence[Draw]
    ) -> tuple[dict[str, Tensor], Tensor]:
        images, labels = batch
        (draw,) = draws
        logits = net(images, draw.masks, draw.gains, draw.off)
        task = task_loss(logits, labels)
        if moment.warming:
            return {"task": task}, logits
        spread = self._spread(net)
        push = torch.cat([self.thresholds[level][self._running(net, level)] for level in self.part.granularities])
        self.task_sum += task.detach()
        self.spread_sum += spread.detach()
        return {"task": task, "size": float(self.lambda_value) * (spread + threshold_push(push))}, logits

    @torch.no_grad()
    def after_backward(self, net: Supernet, moment: Moment, draws: Sequence[Draw]) -> None:
        """At a stage's first step thresholds go to zero; later the momentum of the scores is followed."""
        if moment.warming:
            if moment.epoch == 0 and moment.step == 0:
                for values in self.thresholds.values():
                    values.zero_()
                for buffer in (self.alpha_momentum, self.task_sum, self.spread_sum, self.pruned_in_stage):
                    buffer.zero_()
                self.probing.zero_()
            return
        parallel.mean_([self.task_sum])
        if self.alpha.grad is not None:
            self.alpha_momentum.mul_(MOMENTUM).add_(self.alpha.grad)
        self.shelter_steps.sub_(1).clamp_(min=0)

    def points(self, moment: Moment) -> list[Point]:
        if moment.closes_stage or bool(self.probing):
            return ["end", "regrow"] if self._regrows(moment.stage) else ["end"]
        if moment.warming or (moment.epoch + 1 - moment.stage.warmup_epochs) % self.part.commit_every:
            return []
        return ["cadence"]

    def decide(self, net: Supernet, moment: Moment, point: Point, batches: Sequence[Batch]) -> list[Decision]:
        if point == "regrow":
            return self._drawn_again(net, moment)
        if bool(self.probing) and not moment.stage.fits:
            return [Decision(kept=dict(net.kept))]  # the masks were frozen, so nothing died
        net.store()
        scores, thresholds, margins = self._margins(net)
        kept = self._pruned(net, margins, weights=True, patient=False)
        averted = self._averted(net, kept, margins, self.part.protect_epochs * moment.steps)
        stage = moment.stage
        reached = within(net, kept, stage)
        if (stage.fits and reached) or (point == "end" and (stage.fits or not reached)):
            kept = fit(net, margins, stage)
        if reached and point == "cadence" and self._regrows(stage):
            self.probing.fill_(1)
            reached = False  # one more epoch, with frozen masks
        self._steer(net, kept, stage)
        return [self._told(kept, scores, thresholds, margins, averted, closes=reached)]

    def _regrows(self, stage: Stage) -> bool:
        """After the second stage and later ones, but not at the end."""
        return stage.index > 0 and not stage.fits and "operation" in self.returning

    def learning_rates(self, moment: Moment) -> list[dict[str, Any]]:
        return [
            {"params": [self.alpha, self.k], "lr": RATES["score"]},
            {"params": [self.thresholds["operation"], self.thresholds["filter"]], "lr": RATES["threshold"]},
            {"params": [self.thresholds["weight"]], "lr": RATES["weight_threshold"]},
        ]

    def optimizer(self, moment: Moment) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.learning_rates(moment), lr=RATES["score"], momentum=MOMENTUM, fused=True)

    @property
    def pressure(self) -> Lambda:
        """The controller's state."""
        return Lambda(**{name: float(getattr(self, f"lambda_{name}")) for name in vars(Lambda())})

    def _unit_thresholds(self, net: Supernet, level: str) -> Tensor:
        return (
            self._bounded(level)[net.flat[level].index]
            if level == "operation"
            else super()._unit_thresholds(net, level)
        )

    def _choice_thresholds(self, level: str) -> Sequence[float | Tensor]:
        if level != "operation":
            return super()._choice_thresholds(level)
        return self._bounded(level).detach().split(self._sizes(level))

    def scores(self, level: str) -> Tensor:
        """They double as factors."""
        return torch.sigmoid(self.logits(level))

    def _rank_last(self, level: str, places: Tensor, old: Tensor) -> None:
        """Nothing is left to do: they have the lowest factor."""

    def _put(self, level: str, places: Tensor | int, score: Tensor) -> None:
        self.logits(level)[places] = torch.logit(score)

    def _running(self, net: Supernet, level: str) -> Tensor:
        """Numbers of the thresholds of what is alive."""
        return net.flat[level].index if level == "operation" else net.flat[level].ordinal

    def _spread(self, net: Supernet) -> Tensor:
        units = net.flat["operation"]
        return operation_spread(torch.sigmoid(self.alpha[units.index]), units.group, units.sizes)

    def _steer(self, net: Supernet, kept: Kept, stage: Stage) -> None:
        """The controller's move after a commit."""
        died = torch.cat([net.kept[c.name] & ~kept[c.name] for c in self.choices["operation"]])
        self.pruned_in_stage |= died.to(self.pruned_in_stage.device)
        weight = LAST_DOMINANCE if stage.fits else 1.0
        dominant = float(self.task_sum) < weight * float(self.lambda_value) * float(self.spread_sum)
        for name, value in vars(after_commit(self.pressure, int(died.sum()), dominant=dominant)).items():
            getattr(self, f"lambda_{name}").fill_(value)
        self.task_sum.zero_()
        self.spread_sum.zero_()

    def _drawn_again(self, net: Supernet, moment: Moment) -> list[Decision]:
        """Draws `regrow_fraction` of the operations pruned in the stage, by how their living kin fare.

        A draw picks a block and a kind of operation with the probability that its scores and momentum give, then one of
        its dead candidates; where there is none the draw is lost.
        """
        asked = int(self.part.regrow_fraction * int(self.pruned_in_stage.sum()))
        stream = device.generator("cpu", self.seed, "regrowth", moment.stage.index)
        bins = _bins(net, moment.stage.blocks)
        kept = dict(net.kept)
        chance = self._chances(net, bins)
        if asked and float(chance.sum()) > 0:
            for pick in torch.multinomial(chance, asked, replacement=True, generator=stream).tolist():
                dead = [(name, unit) for name, unit in bins[pick][1] if not kept[name][unit]]
                if dead:
                    name, unit = dead[int(torch.randint(len(dead), (), generator=stream))]
                    kept[name] = kept[name].clone()
                    kept[name][unit] = True
        self._welcome(net, kept, moment)
        return [Decision(kept=kept, asked={"operation": asked})]

    @torch.no_grad()
    def _chances(self, net: Supernet, bins: Sequence[tuple[int, list[tuple[str, int]]]]) -> Tensor:
        """Weight of each (block, kind): half the mean score, half the mean momentum of its living kin, each as a share
        of its block, times the block's own such share.
        """  # noqa: D205
        scores = dict(zip(self._names(), torch.sigmoid(self.alpha).split(self._sizes("operation")), strict=True))
        momenta = dict(zip(self._names(), self.alpha_momentum.abs().split(self._sizes("operation")), strict=True))
        blocks = sorted({block for block, _ in bins})
        within, across = torch.zeros(len(bins)), []
        for block in blocks:
            own = [index for index, (b, _) in enumerate(bins) if b == block]
            means = []
            for values in (scores, momenta):
                kin = [[float(values[n][u]) for n, u in bins[i][1] if net.kept[n][u]] for i in own]
                known = [sum(part) / len(part) for part in kin if part]
                least = min(known, default=0.0) / 2
                means.append(torch.tensor([sum(part) / len(part) if part else least for part in kin]))
            within[own] = sum(_shares(mean) for mean in means) / 2
            living = sum(bool(net.kept[n][u]) for i in own for n, u in bins[i][1])
            across.append([float(mean.sum()) / max(1, living) for mean in means])
        shares = sum(_shares(column) for column in torch.tensor(across).T) / 2
        for share, block in zip(shares, blocks, strict=True):
            within[[index for index, (b, _) in enumerate(bins) if b == block]] *= share
        return within

    def _names(self) -> list[str]:
        return [choice.name for choice in self.choices["operation"]]


def _bins(net: Supernet, blocks: int) -> list[tuple[int, list[tuple[str, int]]]]:
    """(block, its candidates of one kind)."""
    found: dict[tuple[int, str], list[tuple[str, int]]] = {}
    for choice in net.plan.choices_until(blocks):
        for unit, label in enumerate(choice.labels):
            found.setdefault((choice.block, label.split()[-1]), []).append((choice.name, unit))
    return [(block, units) for (block, _), units in found.items()]


def _shares(values: Tensor) -> Tensor:
    total = values.sum()
    return values / total if total > 0 else torch.full_like(values, 1 / len(values))


def strategy(plan: Plan, config: Any, targets: Sequence[int], limits: Mapping[str, int]) -> PublishedMGAS:
    """The strategy that a SearchConfig asks for."""
    return PublishedMGAS(
        plan, config.strategy, epochs=config.search.epochs, targets=targets, metric=config.target.metric,
        limits=limits, seed=config.seed,
    )  # fmt: skip
