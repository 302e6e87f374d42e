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
from nasengine.importance import MEMORY, PRIOR, Importance

CONSTANT = 0.1
N = 24


def told(
    importance: Importance, slopes: Tensor, costs: Tensor, index: Tensor | None = None, seen: Tensor | None = None
) -> None:
    """One step; all units were seen, unless told otherwise."""
    everything = torch.ones(len(slopes), dtype=torch.bool)
    place = torch.arange(len(slopes)) if index is None else index
    importance.observe("operation", place, slopes, costs, everything if seen is None else seen)


def seen(seed: int, steps: int = 3) -> tuple[Importance, list[tuple[Tensor, Tensor]]]:
    """After some steps, settled at the first; with what it was told. fp64."""
    stream = generator("cpu", seed, "importance")
    importance = Importance({"operation": N}, CONSTANT).double()
    said = []
    for step in range(steps):
        slopes, costs = torch.randn(N, generator=stream).double(), torch.rand(N, generator=stream).double()
        told(importance, slopes, costs)
        said.append((slopes, costs))
        if step == 0:
            importance.settle("operation", torch.arange(N))
    return importance, said


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_scores_equal_a_loop_over_units(seed: int) -> None:
    importance, said = seen(seed, steps=1)
    ((slopes, costs),) = said
    usual = statistics.fmean(costs.tolist())
    ratios = [
        math.log(g * g) - math.log(c / usual + CONSTANT) for g, c in zip(slopes.tolist(), costs.tolist(), strict=True)
    ]
    low, high = (
        torch.tensor(ratios, dtype=torch.double).quantile(torch.tensor([0.16, 0.84], dtype=torch.double)).tolist()
    )
    expected = [
        1 / (1 + math.exp(-min(8.0, max(-8.0, (ratio - statistics.median(ratios)) / ((high - low) / 2)))))
        for ratio in ratios
    ]
    assert importance.scores("operation").tolist() == pytest.approx(expected, rel=1e-9)


def test_the_benefit_is_a_mean_of_squares_in_which_early_steps_count_no_more_than_late_ones() -> None:
    importance, said = seen(1, steps=5)
    parts = [MEMORY ** (len(said) - 1 - step) for step in range(len(said))]
    expected = sum(part * slopes**2 for part, (slopes, _) in zip(parts, said, strict=True)) / sum(parts)
    assert torch.allclose(importance.benefits("operation"), expected)


def test_of_two_equally_useful_units_the_costlier_scores_lower_and_of_two_equally_costly_the_more_useful_higher() -> (
    None
):
    importance = Importance({"operation": 4}, CONSTANT)
    told(importance, torch.tensor([1.0, 1.0, 2.0, 0.5]), torch.tensor([0.1, 0.3, 0.3, 0.3]))
    importance.settle("operation", torch.arange(4))
    cheap, dear, useful, idle = importance.scores("operation").tolist()
    assert cheap > dear and useful > dear > idle


def test_the_cost_is_the_present_one() -> None:
    importance, said = seen(6)
    before = importance.scores("operation")
    costs = said[-1][1].clone()
    costs[7] *= 5
    told(importance, importance.benefits("operation").sqrt(), costs)
    after = importance.scores("operation")
    assert after[7] < before[7] and (after[torch.arange(N) != 7] >= before[torch.arange(N) != 7]).all()


def test_a_unit_without_parameters_is_not_worth_any_number_of_others() -> None:
    """What it costs is a tenth of what is usual, so it must be of some use."""
    importance = Importance({"operation": 9}, CONSTANT)
    told(importance, torch.tensor([0.25] + [1.0] * 8), torch.tensor([0.0] + [0.125] * 8))
    importance.settle("operation", torch.arange(9))
    scores = importance.scores("operation")
    assert scores[0] < scores[1:].min(), "0.25 squared is less than a tenth"


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_a_loss_of_another_scale_changes_no_score(factor: float) -> None:
    plain, said = seen(2)
    scaled = Importance({"operation": N}, CONSTANT).double()
    for step, (slopes, costs) in enumerate(said):
        told(scaled, slopes * factor, costs)
        if step == 0:
            scaled.settle("operation", torch.arange(N))
    assert torch.allclose(plain.scores("operation"), scaled.scores("operation"))


def test_what_all_units_have_in_common_changes_no_score() -> None:
    """The slopes of all units grow, step by step: no unit is worth more than before."""
    importance, said = seen(3, steps=1)
    before = importance.scores("operation")
    slopes, costs = said[0]
    for growth in (2.0, 5.0, 30.0):
        told(importance, slopes * growth, costs)
    assert torch.allclose(importance.scores("operation"), before)


def test_what_is_not_seen_keeps_its_score_and_moves_no_other() -> None:
    """Half of the units are switched off one after another, long before they are pruned; nothing else changes."""
    importance, said = seen(4)
    before, costs = importance.scores("operation"), said[-1][1]
    steady, on = importance.benefits("operation").sqrt(), torch.ones(N, dtype=torch.bool)
    for unit in range(0, N, 2):
        on[unit] = False
        for _ in range(30):
            told(importance, steady * on, costs * on, seen=on)
    assert torch.allclose(importance.scores("operation"), before)


def test_no_score_jumps_when_others_are_pruned() -> None:
    importance, said = seen(4)
    before, alive = importance.scores("operation"), torch.arange(0, N, 2)
    steady = importance.benefits("operation").sqrt()[alive]  # as useful as they were
    told(importance, steady, said[-1][1][alive], index=alive)
    assert torch.allclose(importance.scores("operation")[alive], before[alive])


@pytest.mark.parametrize("idle", [1, 6, 20])
def test_units_that_nobody_misses_are_below_every_other_however_many_they_are(idle: int) -> None:
    importance = Importance({"operation": idle + 8}, CONSTANT)
    slopes = torch.tensor([0.0] * idle + torch.logspace(-2, 1, 8).tolist())
    told(importance, slopes, torch.tensor([1e-9] * idle + [1.0] * 8))
    importance.settle("operation", torch.arange(idle + 8))
    scores = importance.scores("operation")
    assert scores[:idle].max() == scores.min() < 1e-3 < 0.05 < scores[idle:].min() < 0.3 and scores.max() > 0.7


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


def test_what_was_given_is_soon_outweighed_by_what_is_seen() -> None:
    importance, said = seen(7, steps=200)
    true = importance.scores("operation")[3]
    importance.put("operation", 3, torch.tensor(0.02, dtype=torch.double))
    steady, costs = importance.benefits("operation").sqrt(), said[-1][1]
    steady[3] = said[-1][0].new_tensor([slopes[3] ** 2 for slopes, _ in said[-50:]]).mean().sqrt()
    for _ in range(40):
        told(importance, steady, costs)
    assert importance.scores("operation")[3] > 0.02 + 0.6 * (true - 0.02)
    assert MEMORY**40 * PRIOR < 0.2 * (1 - MEMORY**40)


def test_equal_units_score_one_half_also_before_anything_was_seen() -> None:
    importance = Importance({"operation": 5}, CONSTANT)
    assert importance.scores("operation").tolist() == pytest.approx([0.5] * 5)
    told(importance, torch.ones(5), torch.ones(5))
    importance.settle("operation", torch.arange(5))
    assert importance.scores("operation").tolist() == pytest.approx([0.5] * 5, abs=1e-4)


def test_what_was_seen_goes_with_the_checkpoint() -> None:
    importance, _ = seen(5)
    other = Importance({"operation": N}, CONSTANT).double()
    other.load_state_dict(importance.state_dict())
    assert torch.equal(importance.scores("operation"), other.scores("operation"))
