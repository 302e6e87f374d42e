"""Promises of nasengine.masks, against loops that a person can read."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nasengine.masks import ranks, step, step_slope, threshold

torch.set_num_threads(1)

coarse = st.integers(-6, 6).map(lambda n: n / 4)
"""Scores that often tie and often equal their threshold."""
grouped = st.lists(st.lists(coarse, min_size=1, max_size=7), min_size=1, max_size=5)


def flat(groups: list[list[float]]) -> tuple[Tensor, Tensor, Tensor]:
    """All values in one row, the group of each, and the place of each group's first."""
    values = torch.tensor([value for group in groups for value in group])
    numbers = torch.tensor([number for number, group in enumerate(groups) for _ in group])
    return values, numbers, torch.tensor([sum(map(len, groups[:number])) for number in range(len(groups))])


def best(groups: list[list[float]], floors: list[int]) -> Tensor:
    """The units that the floors of their groups hold."""
    numbers = flat(groups)[1]
    return ranks(*flat(groups)) < torch.tensor(floors)[numbers]


def test_step_is_strict_at_zero() -> None:
    """H(0) = 0, also for the smallest number on either side and for minus zero."""
    tiny = torch.finfo(torch.float32).tiny
    assert step(torch.tensor([-1.0, -tiny, -0.0, 0.0, tiny, 1.0])).tolist() == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("u", "slope"),
    [(0.0, 2.0), (0.1, 1.6), (-0.1, 1.6), (0.2, 1.2), (-0.2, 1.2), (0.4, 0.4), (-0.4, 0.4), (0.7, 0.4), (-1.0, 0.4),
     (1.0, 0.4), (1.2, 0.0), (-1.2, 0.0)],
)  # fmt: skip
def test_surrogate_slope_has_the_published_values(u: float, slope: float) -> None:
    """2 - 4|u| up to 0.4, then 0.4 up to 1, then nothing."""
    x = torch.tensor([u], dtype=torch.float64, requires_grad=True)
    step(x).sum().backward()
    assert x.grad.item() == pytest.approx(slope, abs=1e-7)
    assert step_slope(x.detach()).item() == pytest.approx(slope, abs=1e-7)


def test_surrogate_area_is_the_published_one() -> None:
    """Two triangles of 0.4 * 1.6 / 2 on a plateau of 0.4 from -1 to 1: 2 * 0.32 + 0.8 = 1.44."""
    u = torch.linspace(-2, 2, 400_001, dtype=torch.float64)
    assert torch.trapezoid(step_slope(u), u).item() == pytest.approx(1.44, abs=1e-4)


@given(grouped)
@settings(max_examples=100, deadline=None)
def test_ranks_equal_a_naive_loop_with_ties_to_the_lower_index(groups: list[list[float]]) -> None:
    expected = [
        sorted(range(len(group)), key=lambda i: (-group[i], i)).index(unit)
        for group in groups
        for unit in range(len(group))
    ]
    assert ranks(*flat(groups)).tolist() == expected


def naive(scores: list[float], limits: list[float], floor: int) -> list[float]:
    best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:floor]
    return [
        float(score > limit or unit in best) for unit, (score, limit) in enumerate(zip(scores, limits, strict=True))
    ]


@given(grouped, st.data())
@settings(max_examples=100, deadline=None)
def test_vectorised_masks_equal_a_naive_loop_bit_for_bit(groups: list[list[float]], data: st.DataObject) -> None:
    limits = [[data.draw(coarse) for _ in group] for group in groups]
    floors = [data.draw(st.integers(0, len(group))) for group in groups]
    found = threshold(flat(groups)[0], flat(limits)[0], best(groups, floors))
    expected = [
        m for group, limit, floor in zip(groups, limits, floors, strict=True) for m in naive(group, limit, floor)
    ]
    assert found.tolist() == expected


@given(grouped)
@settings(max_examples=50, deadline=None)
def test_with_all_thresholds_above_all_scores_the_best_of_each_group_stays(groups: list[list[float]]) -> None:
    scores, numbers, _ = flat(groups)
    mask = threshold(scores, torch.full_like(scores, 100.0), best(groups, [1] * len(groups)))
    for number, group in enumerate(groups):
        alive = mask[numbers == number].nonzero().flatten().tolist()
        assert alive == [group.index(max(group))]


def test_gradient_is_the_surrogate_also_where_a_unit_is_held() -> None:
    """Distances 0.2 (on), -0.2 (held on), -0.4 (off), 2 (on): slopes 1.2, 1.2, 0.4, 0."""
    scores = torch.tensor([0.6, 0.5, 0.3, 2.5], dtype=torch.float64, requires_grad=True)
    limits = torch.tensor([0.4, 0.7, 0.7, 0.5], dtype=torch.float64, requires_grad=True)
    mask = threshold(scores, limits, torch.tensor([True, True, False, False]))
    assert mask.tolist() == [1, 1, 0, 1]
    mask.sum().backward()
    assert scores.grad.tolist() == pytest.approx([1.2, 1.2, 0.4, 0.0])
    assert limits.grad.tolist() == pytest.approx([-1.2, -1.2, -0.4, 0.0])
