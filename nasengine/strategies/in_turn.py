"""Two methods in one search: the one decides its levels, the other goes on from there with its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nasengine.architecture import Plan, lowered, smallest
from nasengine.config import MGASConfig
from nasengine.strategies.base import Batch, Decision, Draw, Lottery, Moment, Point, Stage, Strategy
from nasengine.strategies.mgas import MGAS
from nasengine.strategies.msgdas import LATER, MSGDAS
from nasengine.supernet import Supernet


class InTurn(Strategy):
    """The stages of one strategy, then those of another; each is asked in its own.

    Factors that the second will learn are there from the beginning, at rest, so that the network is the same to both.

    Args:
        first: has the first `early` stages.
        then: has all that follow.
        early: how many stages the first has.
    """

    def __init__(self, first: Strategy, then: Strategy, *, early: int) -> None:
        super().__init__()
        self.turns, self.early = nn.ModuleList([first, then]), early
        self.decision_fraction = then.decision_fraction
        self.recalibrates = then.recalibrates
        self.register_buffer("turn", torch.zeros((), dtype=torch.long))

    def stages(self, net: Supernet) -> list[Stage]:
        stages = [stage for turn in self.turns for stage in turn.stages(net)]
        return [replace(stage, index=index) for index, stage in enumerate(stages)]

    def draw(self, net: Supernet, moment: Moment) -> list[Draw]:
        return [self._whole(net, moment, draw) for draw in self._at(moment).draw(net, moment)]

    def standing(self, net: Supernet, moment: Moment) -> Draw:
        return self._whole(net, moment, self._at(moment).standing(net, moment))

    def lottery(self, net: Supernet, moment: Moment) -> Lottery | None:
        return self._at(moment).lottery(net, moment)

    def losses(
        self, net: Supernet, moment: Moment, batch: Batch, draws: Sequence[Draw]
    ) -> tuple[dict[str, Tensor], Tensor]:
        return self._at(moment).losses(net, moment, batch, draws)

    def portions(
        self, net: Supernet, moment: Moment, batch: Batch, draws: Sequence[Draw]
    ) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        return self._at(moment).portions(net, moment, batch, draws)

    def after_backward(self, net: Supernet, moment: Moment, draws: Sequence[Draw]) -> None:
        self.turn.fill_(self._turn(moment))
        self._at(moment).after_backward(net, moment, draws)

    def points(self, moment: Moment) -> Sequence[Point]:
        return self._at(moment).points(moment)

    def decide(self, net: Supernet, moment: Moment, point: Point, batches: Sequence[Batch]) -> list[Decision]:
        """If the search was ended before the second had its turn, filters are judged by their weights."""
        turn = self._at(moment)
        if isinstance(turn, MGAS) and not turn.has_seen("filter"):
            net.store()
            turn.rank("filter", net.kept, filter_norms(net))
        return turn.decide(net, moment, point, batches)

    def learning_rates(self, moment: Moment) -> list[dict[str, Any]]:
        return self._at(moment).learning_rates(moment)

    def optimizer(self, moment: Moment) -> torch.optim.Optimizer:
        return self._at(moment).optimizer(moment)

    def gains(self, net: Supernet) -> Mapping[str, Tensor]:
        return self.turns[1].gains(net)

    def limits(self) -> Mapping[str, float]:
        """Of the one that took the last step."""
        return self.turns[int(self.turn)].limits()

    def _at(self, moment: Moment) -> Strategy:
        return self.turns[self._turn(moment)]

    def _turn(self, moment: Moment) -> int:
        return int(moment.stage.index >= self.early)

    def _whole(self, net: Supernet, moment: Moment, draw: Draw) -> Draw:
        if self._turn(moment):
            return draw
        return replace(draw, gains={name: gain.detach() for name, gain in self.gains(net).items()})


def filter_norms(net: Supernet) -> dict[str, Tensor]:
    """Filter choice -> [units] norm of the weights that produce each filter in what is alive; zero where nothing does.

    Per-channel convolutions produce nothing: they pass on the filters that they read.
    """
    squares = {choice.name: torch.zeros(choice.units) for choice in net.plan.choices if choice.granularity == "filter"}
    for layer in net.program:
        (group, *others) = layer.channels
        if layer.op in ("conv", "factorized_reduce") and not layer.depthwise and not others and group in squares:
            weight = net.nursery[f"{layer.name}/weight"].detach()
            squares[group] = squares[group].to(weight) + weight.square().flatten(1).sum(1)
    return {name: found.sqrt() for name, found in squares.items()}


def msgdas(plan: Plan, config: Any, targets: Sequence[int], limits: Mapping[str, int]) -> Strategy:
    """MSG-DAS alone, or with MGAS's filters and weights in the second half."""
    part, epochs, metric = config.strategy, config.search.epochs, config.target.metric
    bounds = {metric: targets[0], **limits}
    if part.then == "nothing":
        return MSGDAS(plan, part, epochs=epochs, bounds=bounds, seed=config.seed, later={})
    own = 2 * epochs // (3 + len(targets))  # what follows has as many, and half as many for each further target
    halfway = {name: _halfway(plan, name, bound) for name, bound in bounds.items()}
    last = {metric: targets[-1], **limits}
    rest = MGASConfig(granularities=LATER, regrow_levels=LATER, decision_fraction=part.decision_fraction)
    return InTurn(
        MSGDAS(plan, part, epochs=own, bounds=halfway, seed=config.seed, later=last),
        MGAS(plan, rest, epochs=epochs - own, targets=targets, metric=metric, limits=limits),
        early=1,
    )


def _halfway(plan: Plan, metric: str, bound: int) -> int:
    """The geometric middle between the whole space and a bound; never what operations cannot reach."""
    full = lowered(plan, {}).size(metric)
    return max(int(math.sqrt(full * bound)), smallest(plan, ("operation",), metric))
