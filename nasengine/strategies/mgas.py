"""MGAS: learned thresholds prune operations, filters and weights while the network trains, stage by stage.

Source: "MG-DARTS / MGAS" (arXiv 2310.15074): step with surrogate gradient, learned score and threshold of each level,
single-level training, front-to-back stages with exits, re-pruning of earlier cells, regrowth.
Differs, with reasons in DESIGN.md: the size of everything stored is in the loss and a controller steers it to the
target; thresholds are held in the range of their scores; regrowth is by first-order saliency at all three levels and
gives units back with the values they had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nasengine import costs
from nasengine.architecture import Choice, Plan
from nasengine.discretise import fitted, floors
from nasengine.masks import step, threshold
from nasengine.objectives import size_penalty, task_loss
from nasengine.strategies.base import Batch, Decision, Draw, Moment, Point, Stage, Strategy
from nasengine.supernet import Kept, Supernet, architecture, everything

RAMP = 0.7
"""Share of a stage's pruning steps in which the wanted size falls from its start to the target; then it is held."""
HOLD_LR = 0.1
"""Learning rates of scores and thresholds fall to this share of themselves while the target is held."""
SCORE_SPREAD = 0.5
"""Standard deviation of the filters' first logits: equal scores would all meet their threshold in the same step."""
REFERENCE_STEPS = 600
"""Pruning steps for which the rates below are meant; shorter stages move faster, so that they get as far."""
RATES = {"operation": 0.04, "filter": 0.05, "threshold": 0.002, "weight_threshold": 0.005}
INTEGRAL, PROPORTIONAL, PRESSURE_LIMIT = 0.1, 5.0, 20.0
"""Controller on log(size / wanted size): negative pressure lets units return."""
OFF_SHARE = 0.1
"""A unit is pruned for good between stages only if it was on in less than this share of the recent steps."""
NUDGE = 1e-6
"""Mask of a dead filter while its return is judged: at exactly zero the rectifier behind it passes no gradient."""
HIGHEST = {"operation": 1.0, "filter": 1.0, "weight": 3.0}
"""Highest threshold: the range of the scores; of weights, in root mean squares of their layer."""


class MGAS(Strategy):
    """Scores are sigmoids of logits (operations, filters) and |w| / rms(layer) (weights).

    Args:
        plan: the full space.
        granularities: levels at which units may be pruned.
        epochs: of the whole search.
        target: size at the end, in `metric`.
        warmup_fraction, regrow_fraction: see MGASConfig.
        generator: for the first logits of the filters.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        granularities: Sequence[str],
        epochs: int,
        target: int,
        metric: str,
        warmup_fraction: float,
        regrow_fraction: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.granularities, self.epochs, self.target, self.metric = tuple(granularities), epochs, target, metric
        self.warmup_fraction, self.regrow_fraction = warmup_fraction, regrow_fraction
        self.choices = {g: [c for c in plan.choices if c.granularity == g] for g in ("operation", "filter", "weight")}
        total = {granularity: sum(choice.units for choice in choices) for granularity, choices in self.choices.items()}
        self.alpha = nn.Parameter(torch.zeros(total["operation"]))
        self.k = nn.Parameter(torch.randn(total["filter"], generator=generator) * SCORE_SPREAD)
        self.thresholds = nn.ParameterDict(
            {g: nn.Parameter(torch.zeros(len(choices))) for g, choices in self.choices.items()}
        )
        self.floors = {g: torch.tensor([c.floor for c in choices]) for g, choices in self.choices.items()}
        self.register_buffer("integral", torch.zeros(()))
        self.register_buffer("ramp_start", torch.zeros(()))
        self.register_buffer("on_operation", torch.ones(total["operation"]))
        self.register_buffer("on_filter", torch.ones(total["filter"]))

    # -- the five verbs ------------------------------------------------------------------------------------------

    def stages(self, net: Supernet) -> list[Stage]:
        """One stage an exit; epochs evenly, twice as many for the last; earlier targets are gentler.

        An early stage's blocks shall shrink to ratio ** (stage / stages): what a front must give up at once is least
        known at the start.
        """
        plan = net.plan
        count = len(plan.exits)
        alive = everything(plan)
        full = [architecture(plan, alive, exit_).size(self.metric) for exit_ in plan.exits]
        ratio = min(1.0, self.target / full[-1])
        early = self.epochs // (count + 1)
        stages = []
        for index, exit_ in enumerate(plan.exits):
            last = index == count - 1
            epochs = self.epochs - early * (count - 1) if last else early
            stages.append(
                Stage(
                    index=index,
                    name="the whole network" if last else _front(plan.exit_blocks[index] - 1),
                    exit=exit_,
                    blocks=plan.exit_blocks[index],
                    epochs=epochs,
                    warmup_epochs=min(epochs - 1, max(1, round(self.warmup_fraction * epochs))),
                    start_size=full[index],
                    target=self.target if last else int(full[index] * ratio ** ((index + 1) / count)),
                    opens=self.granularities,
                    last=last,
                )
            )
        return stages

    def draw(self, net: Supernet, moment: Moment) -> list[Draw]:
        gains = self._gains(net)
        if moment.warming:
            masks = {name: torch.ones_like(gain) for name, gain in gains.items()} | net.pruned_weights
        else:
            masks = self._masks(net)
        size = costs.size(net.plan, net.program, masks, self.metric, net.units)
        return [Draw(masks=masks, gains=gains, size=size, wanted=self._wanted(moment))]

    def losses(
        self, net: Supernet, moment: Moment, batch: Batch, draws: Sequence[Draw]
    ) -> tuple[dict[str, Tensor], Tensor]:
        images, labels = batch
        (draw,) = draws
        logits = net(images, draw.masks, draw.gains)
        losses = {"task": task_loss(logits, labels)}
        if not moment.warming:
            error = self._error(moment, draw.size)
            pressure = (self.integral + PROPORTIONAL * error).clamp(-PRESSURE_LIMIT, PRESSURE_LIMIT)
            losses["size"] = size_penalty(draw.size, pressure)
        return losses, logits

    @torch.no_grad()
    def after_backward(self, net: Supernet, moment: Moment, draws: Sequence[Draw]) -> None:
        """Moves the controller and the averages; at the end of a warm-up, puts thresholds just under the scores."""
        if moment.warming:
            if moment.closes_warmup:
                self._rest(net)
            return
        (draw,) = draws
        gain = INTEGRAL * self._haste(moment)
        self.integral.add_(gain * self._error(moment, draw.size)).clamp_(-PRESSURE_LIMIT, PRESSURE_LIMIT)
        for granularity, average in (("operation", self.on_operation), ("filter", self.on_filter)):
            units = net.flat[granularity]
            now = torch.cat([draw.masks[name] for name in units.choices])
            average[units.index] = 0.9 * average[units.index] + 0.1 * now
        for granularity, highest in HIGHEST.items():
            self.thresholds[granularity].clamp_(0, highest)

    def decide(self, net: Supernet, moment: Moment, point: Point, batches: Sequence[Batch]) -> list[Decision]:
        if point == "regrow":
            return self._regrown(net, batches)
        net.store()
        scores, thresholds, margins = self._margins(net)
        if point == "end" and moment.stage.last:
            kept = fitted(net.plan, margins, metric=self.metric, target=self.target, granularities=self.granularities)
            kept = {name: units.to(net.kept[name].device) for name, units in kept.items()}
        else:
            kept = self._pruned(net, margins, weights=point == "end", patient=point == "cadence")
        return [Decision(kept=kept, scores=scores, thresholds=thresholds)]

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
        return {granularity: float(values.detach().mean()) for granularity, values in self.thresholds.items()}

    # -- masks ---------------------------------------------------------------------------------------------------

    def _gains(self, net: Supernet) -> dict[str, Tensor]:
        """Scores double as factors, as in the paper; export folds them into batch norms."""
        found: dict[str, Tensor] = {}
        for granularity, logits in (("operation", self.alpha), ("filter", self.k)):
            units = net.flat[granularity]
            found |= units.split(torch.sigmoid(logits[units.index]))
        return found

    def _masks(self, net: Supernet) -> dict[str, Tensor]:
        masks: dict[str, Tensor] = {}
        for granularity, logits in (("operation", self.alpha), ("filter", self.k)):
            units = net.flat[granularity]
            scores = torch.sigmoid(logits[units.index])
            if granularity in self.granularities:
                limits = self._limits(granularity)[units.ordinal][units.group]
                flat = threshold(scores, limits, units.group, self.floors[granularity].to(scores.device)[units.ordinal])
            else:
                flat = torch.ones_like(scores)
            masks |= units.split(flat)
        return masks | (self._weight_masks(net) if "weight" in self.granularities else {})

    def _weight_masks(self, net: Supernet) -> dict[str, Tensor]:
        """All layers at once: one flat vector, one threshold a layer; a layer's largest weight is always on."""
        layers = [
            (number, choice.name) for number, choice in enumerate(self.choices["weight"]) if choice.name in net.running
        ]
        weights = [net.live[f"{name.removesuffix('_weights')}/weight"] for _, name in layers]
        flat = torch.cat([weight.flatten() for weight in weights])
        alive = torch.cat(
            [
                net.pruned_weights.get(name, torch.ones_like(w)).flatten()
                for (_, name), w in zip(layers, weights, strict=True)
            ]
        )
        counts = torch.tensor([weight.numel() for weight in weights], device=flat.device)
        layer = torch.repeat_interleave(torch.arange(len(weights), device=flat.device), counts)
        with torch.no_grad():
            squares = torch.zeros(len(weights), device=flat.device, dtype=flat.dtype).index_add_(
                0, layer, flat * flat * alive
            )
            numbers = torch.zeros_like(squares).index_add_(0, layer, alive).clamp_(min=1)
            scale = (squares / numbers).sqrt().clamp_(min=1e-12)
        scores = flat.abs() / scale[layer]
        limits = self._limits("weight")[torch.tensor([number for number, _ in layers], device=flat.device)]
        with torch.no_grad():
            best = torch.zeros_like(squares).scatter_reduce_(0, layer, scores * alive, "amax")
            held = (scores * alive >= best[layer]) & (alive > 0)
        mask = step(scores - limits[layer])
        mask = (mask + torch.where(held, 1 - mask.detach(), 0.0)) * alive
        parts = mask.split(counts.tolist())
        return {name: part.view_as(weight) for (_, name), weight, part in zip(layers, weights, parts, strict=True)}

    def _limits(self, granularity: str) -> Tensor:
        """The thresholds, held in their range also right after an optimizer's step.

        The gradient passes: a clamp's own is zero outside, and a threshold that momentum carried there would stay.
        """
        values = self.thresholds[granularity]
        return values + (values.clamp(0, HIGHEST[granularity]) - values).detach()

    # -- control -------------------------------------------------------------------------------------------------

    def _wanted(self, moment: Moment) -> float:
        """The wanted size: from what lives after the warm-up it goes geometrically to the target, and stays there."""
        stage = moment.stage
        if moment.warming:
            return float(stage.start_size)
        start = float(self.ramp_start)
        share = min(1.0, moment.progress / RAMP)
        return start * (stage.target / start) ** share

    def _error(self, moment: Moment, size: Tensor) -> Tensor:
        return torch.log(size.detach() / self._wanted(moment))

    @staticmethod
    def _haste(moment: Moment) -> float:
        return min(12.0, max(0.2, REFERENCE_STEPS / moment.pruning_steps))

    def _rest(self, net: Supernet) -> None:
        """Thresholds just under the lowest score of their choice, so that no time is lost till the first unit dies."""
        for granularity, logits in (("operation", self.alpha), ("filter", self.k)):
            units = net.flat[granularity]
            scores = units.split(torch.sigmoid(logits[units.index]))
            for number, name in zip(units.ordinal.tolist(), units.choices, strict=True):
                self.thresholds[granularity][number] = scores[name].min() - 0.02
        for number, choice in enumerate(self.choices["weight"]):
            if choice.name in net.running:
                weight = net.live[f"{choice.name.removesuffix('_weights')}/weight"].flatten()
                alive = net.pruned_weights.get(choice.name)
                weight = weight if alive is None else weight[alive.flatten() > 0]
                self.thresholds["weight"][number] = (
                    weight.abs() / weight.pow(2).mean().sqrt().clamp(min=1e-12)
                ).quantile(0.02)
        alive = {name: torch.ones_like(gain) for name, gain in self._gains(net).items()} | net.pruned_weights
        self.ramp_start.copy_(costs.size(net.plan, net.program, alive, self.metric, net.units))
        self.integral.zero_()
        self.on_operation.fill_(1)
        self.on_filter.fill_(1)

    # -- decisions -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _margins(self, net: Supernet) -> tuple[dict[str, Tensor], dict[str, float], dict[str, Tensor]]:
        """Scores, thresholds and margins of every unit, full size; what is pruned for good ranks below all else."""
        scores: dict[str, Tensor] = {}
        thresholds: dict[str, float] = {}
        margins: dict[str, Tensor] = {}
        for granularity, choices in self.choices.items():
            limits = self._limits(granularity).tolist()
            sizes = [choice.units for choice in choices]
            logits = {"operation": self.alpha, "filter": self.k}.get(granularity)
            parts = (
                torch.sigmoid(logits).split(sizes)
                if logits is not None
                else [self._weight_scores(net, c) for c in choices]
            )
            span = HIGHEST[granularity]
            for choice, part, limit in zip(choices, parts, limits, strict=True):
                scores[choice.name], thresholds[choice.name] = part, limit
                margin = ((part - limit) / span).clamp(-1, 1)
                margins[choice.name] = torch.where(net.kept[choice.name], margin, margin - 2)
        return scores, thresholds, margins

    @staticmethod
    def _weight_scores(net: Supernet, choice: Choice) -> Tensor:
        """|w| / rms of the living weights, in the weight's full shape; the live ones as `_weight_masks` sees them."""
        name = f"{choice.name.removesuffix('_weights')}/weight"
        value = net.nursery[name]
        if name in net.live:
            live = net.live[name]
            alive = net.pruned_weights.get(choice.name, torch.ones_like(live))
            scale = ((live * live * alive).sum() / alive.sum().clamp(min=1)).sqrt()
        else:
            scale = value.pow(2).mean().sqrt()
        return value.abs() / scale.clamp(min=1e-12)

    def _pruned(self, net: Supernet, margins: Mapping[str, Tensor], *, weights: bool, patient: bool) -> Kept:
        """What is off now; with patience only what was off for long."""
        held = floors(net.plan, margins)
        kept = dict(net.kept)
        for granularity in self.granularities:
            averages = {"operation": self.on_operation, "filter": self.on_filter}.get(granularity)
            if averages is None and not weights:
                continue
            parts = averages.split([c.units for c in self.choices[granularity]]) if averages is not None else None
            for number, choice in enumerate(self.choices[granularity]):
                if choice.name not in net.running:
                    continue
                off = margins[choice.name] <= 0
                if patient and parts is not None:
                    off &= parts[number] < OFF_SHARE
                kept[choice.name] = net.kept[choice.name] & (~off | held[choice.name])
        return kept

    def _regrown(self, net: Supernet, batches: Sequence[Batch]) -> list[Decision]:
        """Brings back the dead units whose return would change the loss most, by |dL/dmask| at zero.

        One block at a time is looked at, so that no more than a block's dead units ever live beside the network.
        """
        salience = {name: torch.zeros_like(alive, dtype=torch.float) for name, alive in net.kept.items()}
        for block in range(net.plan.exit_blocks[net.plan.exits.index(net.exit)]):
            dead = {
                c.name: ~net.kept[c.name]
                for c in net.plan.choices
                if c.block == block and bool((~net.kept[c.name]).any())
            }
            if dead:
                for name, value in self._salience(net, dead, batches).items():
                    salience[name] = value
        kept, thresholds = dict(net.kept), {}
        for granularity in self.granularities:
            names = [c.name for c in self.choices[granularity] if bool((salience[c.name] > 0).any())]
            if not names:
                continue
            flat = torch.cat([salience[name].flatten() for name in names])
            dead_count = sum(int((~net.kept[c.name]).sum()) for c in self.choices[granularity])
            count = (
                min(int((flat > 0).sum()), max(1, round(self.regrow_fraction * dead_count)))
                if self.regrow_fraction
                else 0
            )
            back = torch.zeros_like(flat, dtype=torch.bool)
            order = torch.sort(flat, descending=True, stable=True).indices[:count]
            back[order] = True
            lowest = float(flat[order[-1]]) if count else 0.0
            for name, part in zip(names, back.split([salience[n].numel() for n in names]), strict=True):
                kept[name] = net.kept[name] | part.view_as(net.kept[name])
                thresholds[name] = lowest
        self._welcome(net, kept)
        return [Decision(kept=kept, scores=salience, thresholds=thresholds)]

    def _salience(self, net: Supernet, dead: Mapping[str, Tensor], batches: Sequence[Batch]) -> dict[str, Tensor]:
        wide = net.widened({name: net.kept[name] | units for name, units in dead.items()}).train()
        gains = {name: gain.detach() for name, gain in self._gains(wide).items()}
        masks = {
            name: net.kept[name][wide.units[name]].to(gain.dtype).clamp(min=NUDGE if name in net.plan.groups else 0)
            for name, gain in gains.items()
        }
        for layer in wide.program:
            if layer.prunable:
                name = f"{layer.name}/weight"
                masks[layer.weights] = wide.gather(name, {name: net.kept[layer.weights]}).to(wide.live[name].dtype)
        probes = {name: masks[name].requires_grad_() for name in dead if name in masks and name in wide.running}
        if not probes:
            return {}
        for images, labels in batches:
            task_loss(wide(images, masks, gains), labels).backward()
        found = {}
        for name, probe in probes.items():
            full = torch.zeros_like(net.kept[name], dtype=torch.float)
            if name.endswith("_weights"):
                place = name.removesuffix("_weights")
                wide.scatter({f"{place}/weight": probe.grad.abs()}, {f"{place}/weight": full})
            else:
                full[torch.tensor(wide.units[name], device=full.device)] = probe.grad.abs().float()
            found[name] = full * dead[name]
        return found

    @torch.no_grad()
    def _welcome(self, net: Supernet, kept: Kept) -> None:
        """Gives regrown units the lowest living score of their choice: a new trial, no head start."""
        for granularity, logits in (("operation", self.alpha), ("filter", self.k)):
            for choice, part in zip(
                self.choices[granularity], logits.split([c.units for c in self.choices[granularity]]), strict=True
            ):
                new = kept[choice.name] & ~net.kept[choice.name]
                if bool(new.any()):
                    part[new] = part[net.kept[choice.name]].min()


def _front(cells: int) -> str:
    return "the first cell" if cells == 1 else f"the first {cells} cells"


def strategy(plan: Plan, config: Any, target: int, generator: torch.Generator) -> MGAS:
    """The strategy that a SearchConfig asks for."""
    part = config.strategy
    return MGAS(
        plan,
        granularities=part.granularities,
        epochs=config.search.epochs,
        target=target,
        metric=config.target.metric,
        warmup_fraction=part.warmup_fraction,
        regrow_fraction=part.regrow_fraction,
        generator=generator,
    )
