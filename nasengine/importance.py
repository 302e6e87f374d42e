"""What a unit is worth: how much the loss would miss it, for what it costs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

MEMORY = 0.98
"""Share of an average that stays at each step."""
PRIOR = 0.2
"""Weight in the average, of one, of a benefit that was given and not seen: what is seen soon outweighs it."""
WIDEST = 8.0
"""Largest logit of a score, of either sign; the lowest is that of what nobody misses."""
NARROWEST_SPREAD, WIDEST_SPREAD = 1e-3, 10.0
"""Bounds of what logarithms are measured in."""


class Importance(nn.Module):
    """Follows benefit and cost of all units of some levels, and scores them by the ratio of the two.

    The benefit is the mean of the squared slope of the loss in the unit's mask. Where training has come to rest this is
    proportional to what the loss rises by when the unit goes; the slope itself has mean zero there and tells nothing.
    In a young network, full of candidates, no removal means much for long; but the square repeats, the slope does not.
    Source: Molchanov et al. (CVPR 2019, arXiv 1906.10771), eq. 8.

    What is usual is settled once a stage and moves with the mean of the units that are seen, so that no score jumps
    when others are pruned. What cannot be seen keeps its score.

    Args:
        totals: level -> number of its units, dead ones included.
        constant: what every unit costs besides, in mean costs: those without parameters would pile up otherwise.
    """

    def __init__(self, totals: Mapping[str, int], constant: float) -> None:
        super().__init__()
        self.constant = constant
        for level, total in totals.items():
            for part in ("squares", "weight", "cost"):
                self.register_buffer(f"{part}_{level}", torch.zeros(total))
            for part in ("middle", "spread", "usual"):
                self.register_buffer(f"{part}_{level}", torch.ones(()))

    def benefits(self, level: str) -> Tensor:
        """[units] mean squared slopes, recent ones counting most; zero for what was never seen, or never missed."""
        return self._of("squares", level) / self._of("weight", level).clamp(min=1e-12)

    def costs(self, level: str) -> Tensor:
        """[units] share of the size that goes with each, when it was last seen; zero before."""
        return self._of("cost", level)

    @torch.no_grad()
    def observe(self, level: str, index: Tensor, slopes: Tensor, costs: Tensor, seen: Tensor) -> None:
        """Adds what a step has shown.

        Args:
            level: granularity.
            index: [K] places of the living units.
            slopes: [K] of the loss in their masks.
            costs: [K] share of the size that goes with each.
            seen: [K] bool, of which units slope and cost tell anything; the others stay as they are.
        """
        known, before = self.benefits(level)[index] > 0, self._ratios(level)[index]
        squares, weight, cost = (self._of(part, level) for part in ("squares", "weight", "cost"))
        for values, new in (
            (squares, MEMORY * squares[index] + (1 - MEMORY) * slopes.to(squares.dtype).square()),
            (weight, MEMORY * weight[index] + (1 - MEMORY)),
            (cost, costs.to(cost.dtype)),
        ):
            values[index] = torch.where(seen, new, values[index])
        known &= seen & (self.benefits(level)[index] > 0)
        moved = torch.where(known, self._ratios(level)[index] - before, 0.0)
        self._of("middle", level).add_(moved.sum() / known.sum().clamp(min=1))

    @torch.no_grad()
    def settle(self, level: str, index: Tensor) -> None:
        """Takes the units at places `index` for what is usual: their median, half of what two thirds of them span."""
        self._of("usual", level).copy_(self._of("cost", level)[index].mean().clamp(min=1e-30))
        ratios = self._ratios(level)[index]
        missed = ratios[self.benefits(level)[index] > 0]
        if not len(missed):
            return
        low, middle, high = missed.quantile(missed.new_tensor([0.16, 0.5, 0.84]))
        self._of("middle", level).copy_(middle)
        self._of("spread", level).copy_(((high - low) / 2).clamp(NARROWEST_SPREAD, WIDEST_SPREAD))

    def scores(self, level: str) -> Tensor:
        """[units] in (0, 1): one half for the usual ratio of benefit to cost, and for what was never seen.

        The logit is the logarithm of the ratio, less what is usual, over its spread: whatever the loss, the network or
        its depth, scores are spread over their range.
        """
        logits = ((self._ratios(level) - self._of("middle", level)) / self._of("spread", level)).clamp(-WIDEST, WIDEST)
        idle = torch.where(self._of("weight", level) > 0, -WIDEST, 0.0)
        return torch.sigmoid(torch.where(self.benefits(level) > 0, logits, idle))

    @torch.no_grad()
    def put(self, level: str, places: Tensor | int, scores: Tensor) -> None:
        """Gives the units at `places` the benefits that make these scores, until they are seen."""
        ratios = self._of("middle", level) + self._of("spread", level) * torch.logit(scores)
        self._of("weight", level)[places] = PRIOR
        self._of("squares", level)[places] = PRIOR * (ratios + self._prices(level)[places]).exp()

    def _of(self, part: str, level: str) -> Tensor:
        return getattr(self, f"{part}_{level}")

    def _prices(self, level: str) -> Tensor:
        """[units] logarithms."""
        return (self._of("cost", level) / self._of("usual", level) + self.constant).log()

    def _ratios(self, level: str) -> Tensor:
        """[units] logarithms of benefit to price."""
        return self.benefits(level).clamp(min=1e-30).log() - self._prices(level)
