"""What a unit is worth: how much the loss would miss it, for what it costs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

MEMORY = 0.98
"""Share of an average that stays at each step."""
FREE = 0.1
"""What every unit costs besides, in mean costs: those without parameters would pile up otherwise."""
WIDEST = 8.0
"""Largest logit of a score, of either sign."""


class Importance(nn.Module):
    """Follows benefit and cost of all units of some levels, and scores them by the ratio of the two.

    The benefit is the mean of the squared slope of the loss in the unit's mask. Where training has come to rest this is
    proportional to what the loss rises by when the unit goes; the slope itself has mean zero there and tells nothing.
    Source: Molchanov et al. (CVPR 2019, arXiv 1906.10771), eq. 8.

    What is usual is settled once a stage and follows what all units have in common, so that no score jumps when others
    are pruned.

    Args:
        totals: level -> number of its units, dead ones included.
    """

    def __init__(self, totals: Mapping[str, int]) -> None:
        super().__init__()
        for level, total in totals.items():
            for part in ("benefit", "cost"):
                self.register_buffer(f"{part}_{level}", torch.zeros(total))
            for part in ("middle", "spread", "usual"):
                self.register_buffer(f"{part}_{level}", torch.ones(()))
            self._of("middle", level).copy_(self._ratios(level).mean())

    @torch.no_grad()
    def observe(self, level: str, index: Tensor, slopes: Tensor, costs: Tensor) -> None:
        """Adds what a step has shown.

        Args:
            level: granularity.
            index: [K] places of the living units.
            slopes: [K] of the loss in their masks.
            costs: [K] share of the size that goes with each.
        """
        benefit = self._of("benefit", level)
        before, ratios = benefit[index], self._ratios(level)[index]
        now = slopes.to(benefit.dtype).square()
        benefit[index] = torch.where(before > 0, MEMORY * before + (1 - MEMORY) * now, now)
        self._of("cost", level)[index] = costs.to(benefit.dtype)
        known = (before > 0) & (benefit[index] > 0)
        moved = torch.where(known, self._ratios(level)[index] - ratios, 0.0).sum() / known.sum().clamp(min=1)
        self._of("middle", level).add_(moved)

    @torch.no_grad()
    def settle(self, level: str, index: Tensor) -> None:
        """Takes the units at places `index` for what is usual: their median, half of what two thirds of them span."""
        self._of("usual", level).copy_(self._of("cost", level)[index].mean().clamp(min=1e-30))
        ratios = self._ratios(level)[index]
        low, middle, high = ratios.quantile(ratios.new_tensor([0.16, 0.5, 0.84]))
        self._of("middle", level).copy_(middle)
        self._of("spread", level).copy_(((high - low) / 2).clamp(min=1e-3))

    def scores(self, level: str) -> Tensor:
        """[units] in (0, 1): one half for the usual ratio of benefit to cost.

        The logit is the logarithm of the ratio, less what is usual, over its spread: whatever the loss, the network or
        its depth, scores are spread over their range.
        """
        logits = (self._ratios(level) - self._of("middle", level)) / self._of("spread", level)
        return torch.sigmoid(logits.clamp(-WIDEST, WIDEST))

    @torch.no_grad()
    def put(self, level: str, places: Tensor | int, scores: Tensor) -> None:
        """Gives the units at `places` the benefits that make these scores."""
        ratios = self._of("middle", level) + self._of("spread", level) * torch.logit(scores)
        self._of("benefit", level)[places] = (ratios + self._prices(level)[places]).exp()

    def _of(self, part: str, level: str) -> Tensor:
        return getattr(self, f"{part}_{level}")

    def _prices(self, level: str) -> Tensor:
        """[units] logarithms."""
        return (self._of("cost", level) / self._of("usual", level) + FREE).log()

    def _ratios(self, level: str) -> Tensor:
        """[units] logarithms of benefit to price."""
        return self._of("benefit", level).clamp(min=1e-30).log() - self._prices(level)
