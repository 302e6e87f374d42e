"""Benefit, cost, and the scores made of them."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nasengine.device import generator
from nasengine.importance import FREE, MEMORY, Importance

N = 24


def seen(seed: int, steps: int = 3, index: Tensor | None = None) -> tuple[Importance, list[tuple[Tensor, Tensor]]]:
    """After some steps, settled at the first; with what it was told. fp64."""
    stream = generator("cpu", seed, "importance")
    importance = Importance({"operation": N}).double()
    index = torch.arange(N) if index is None else index
    told = []
    for step in range(steps):
        slopes = torch.randn(len(index), generator=stream, dtype=torch.double)
        costs = torch.rand(len(index), generator=stream, dtype=torch.double)
        importance.observe("operation", index, slopes, costs)
        told.append((slopes, costs))
        if step == 0:
            importance.settle("operation", index)
    return importance, told


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_scores_equal_a_loop_over_units(seed: int) -> None:
    importance, told = seen(seed, steps=1)
    ((slopes, costs),) = told
    usual = statistics.fmean(costs.tolist())
    ratios = [
        math.log(g * g) - math.log(c / usual + FREE) for g, c in zip(slopes.tolist(), costs.tolist(), strict=True)
    ]
    low, high = (
        torch.tensor(ratios, dtype=torch.double).quantile(torch.tensor([0.16, 0.84], dtype=torch.double)).tolist()
    )
    expected = [
        1 / (1 + math.exp(-min(8.0, max(-8.0, (ratio - statistics.median(ratios)) / ((high - low) / 2)))))
        for ratio in ratios
    ]
    assert importance.scores("operation").tolist() == pytest.approx(expected, rel=1e-9)


def test_the_benefit_is_a_running_mean_of_squares() -> None:
    importance, told = seen(1)
    expected = told[0][0] ** 2
    for slopes, _ in told[1:]:
        expected = MEMORY * expected + (1 - MEMORY) * slopes**2
    assert torch.allclose(importance.benefit_operation, expected)


def test_of_two_equally_useful_units_the_costlier_scores_lower_and_of_two_equally_costly_the_more_useful_higher() -> (
    None
):
    importance = Importance({"operation": 4})
    slopes, costs = torch.tensor([1.0, 1.0, 2.0, 0.5]), torch.tensor([0.1, 0.3, 0.3, 0.3])
    importance.observe("operation", torch.arange(4), slopes, costs)
    importance.settle("operation", torch.arange(4))
    cheap, dear, useful, idle = importance.scores("operation").tolist()
    assert cheap > dear and useful > dear > idle


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_a_loss_of_another_scale_changes_no_score(factor: float) -> None:
    plain, told = seen(2)
    scaled = Importance({"operation": N}).double()
    for step, (slopes, costs) in enumerate(told):
        scaled.observe("operation", torch.arange(N), slopes * factor, costs)
        if step == 0:
            scaled.settle("operation", torch.arange(N))
    assert torch.allclose(plain.scores("operation"), scaled.scores("operation"))


def test_what_all_units_have_in_common_changes_no_score() -> None:
    """The slopes of all units grow, step by step: no unit is worth more than before."""
    importance, told = seen(3, steps=1)
    before = importance.scores("operation")
    slopes, costs = told[0]
    for growth in (2.0, 5.0, 30.0):
        importance.observe("operation", torch.arange(N), slopes * growth, costs)
    assert torch.allclose(importance.scores("operation"), before)


def test_no_score_jumps_when_others_are_pruned() -> None:
    importance, told = seen(4)
    before = importance.scores("operation")
    alive = torch.arange(0, N, 2)
    _, costs = told[-1]
    steady = importance.benefit_operation.sqrt()[alive]  # as useful as they were
    importance.observe("operation", alive, steady, costs[alive])
    assert torch.allclose(importance.scores("operation")[alive], before[alive])


def test_a_unit_that_nobody_misses_is_below_every_other() -> None:
    importance = Importance({"filter": 9})
    slopes = torch.tensor([0.0, *torch.logspace(-2, 1, 8).tolist()])
    importance.observe("filter", torch.arange(9), slopes, torch.tensor([1e-9] + [1.0] * 8))
    importance.settle("filter", torch.arange(9))
    scores = importance.scores("filter")
    assert scores[0] == scores.min() < 1e-3 < scores[1:].min()


@given(seed=st.integers(0, 10**6), score=st.floats(0.01, 0.99))
@settings(max_examples=20, deadline=None)
def test_a_unit_can_be_put_at_any_score_and_the_others_stay(seed: int, score: float) -> None:
    importance, _ = seen(seed)
    before = importance.scores("operation")
    importance.put("operation", torch.tensor([3, 5]), torch.tensor(score, dtype=torch.double))
    after = importance.scores("operation")
    assert after[[3, 5]].tolist() == pytest.approx([score, score])
    others = [unit for unit in range(N) if unit not in (3, 5)]
    assert torch.equal(before[others], after[others])


def test_equal_units_score_one_half_also_before_anything_was_seen() -> None:
    importance = Importance({"operation": 5})
    assert importance.scores("operation").tolist() == pytest.approx([0.5] * 5, abs=1e-4)
    importance.observe("operation", torch.arange(5), torch.ones(5), torch.ones(5))
    importance.settle("operation", torch.arange(5))
    assert importance.scores("operation").tolist() == pytest.approx([0.5] * 5, abs=1e-4)


def test_what_was_seen_goes_with_the_checkpoint() -> None:
    importance, _ = seen(5)
    other = Importance({"operation": N}).double()
    other.load_state_dict(importance.state_dict())
    assert torch.equal(importance.scores("operation"), other.scores("operation"))
