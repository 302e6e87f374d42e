"""Scores to masks: pure functions on tensors."""

from __future__ import annotations

import torch
from torch import Tensor


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return gradient * step_slope(u)


def step(u: Tensor) -> Tensor:
    """One where `u` is above zero, else zero; backward uses `step_slope`.

    Source: MGAS (arXiv 2310.15074), the discretization function; Dynamic Sparse Training (ICLR 2020).

    >>> step(torch.tensor([-0.1, 0.0, 0.1]))
    tensor([0., 0., 1.])
    """
    return _Step.apply(u)


def step_slope(u: Tensor) -> Tensor:
    """Surrogate slope of the step: 2 - 4|u| up to 0.4, then 0.4 up to 1, then zero.

    >>> step_slope(torch.tensor([0.0, 0.2, -0.4, 1.0, 1.2]))
    tensor([2.0000, 1.2000, 0.4000, 0.4000, 0.0000])
    """
    size = u.abs()
    return torch.where(size <= 0.4, 2 - 4 * size, torch.where(size <= 1, 0.4, 0.0).to(u.dtype))


def ranks(scores: Tensor, groups: Tensor, starts: Tensor) -> Tensor:
    """Place of each unit among those of its group, best first, counted from 0; ties go to the lower index.

    Args:
        scores: [K], finite.
        groups: [K] group numbers, in rising order.
        starts: [G] place of each group's first unit.

    >>> ranks(torch.tensor([0.1, 0.9, 0.5, 0.5]), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 2]))
    tensor([1, 0, 0, 1])
    """
    by_score = torch.sort(scores, descending=True, stable=True).indices
    order = by_score[torch.sort(groups[by_score], stable=True).indices]
    place = torch.empty_like(groups)
    place[order] = torch.arange(len(groups), device=groups.device)
    return place - starts[groups]


def threshold(scores: Tensor, thresholds: Tensor, held: Tensor) -> Tensor:
    """Mask of the units above their threshold; units that are `held` (bool) are on in any case.

    The gradient is the surrogate's everywhere, also where a unit is held.

    >>> threshold(torch.tensor([0.2, 0.4, 0.6]), torch.tensor(0.5), torch.tensor([True, False, False]))
    tensor([1., 0., 1.])
    """
    mask = step(scores - thresholds)
    return mask + torch.where(held, 1 - mask.detach(), 0.0)
