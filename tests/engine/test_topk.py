"""The differentiable top-k, by itself. Numbers are those of the verifying tests of the method."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nasengine import topk

SIZES = st.integers(1, 96)


def laid_out(sizes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """groups, starts and sizes of choices with so many elements."""
    counts = torch.tensor(sizes)
    return torch.arange(len(sizes)).repeat_interleave(counts), torch.cumsum(counts, 0) - counts, counts


def placed(importance: Tensor) -> Tensor:
    """Places among a single choice."""
    return topk.places(importance, *laid_out([len(importance)]))


def masks(n: int, ratio: float | Tensor, sharpness: float | None = None) -> Tensor:
    places = placed(torch.rand(n, generator=torch.Generator().manual_seed(n)))
    return topk.soft(places, torch.as_tensor(ratio, dtype=torch.double), torch.tensor(sharpness or float(n)))


@pytest.mark.parametrize("n", [16, 37, 64, 256])
@pytest.mark.parametrize("ratio", [0.25, 0.4, 0.5, 0.75])
def test_01_masks_sum_to_what_the_ratio_leaves(n: int, ratio: float) -> None:
    assert float(masks(n, ratio).sum()) == pytest.approx((1 - ratio) * n, abs=0.02)


def test_01_at_ratio_zero_the_least_important_are_not_wholly_on() -> None:
    assert float(masks(64, 0.0).sum()) - 64 == pytest.approx(-0.68, abs=0.02)


@pytest.mark.parametrize("level", ["filter", "operation"])
@pytest.mark.parametrize("n", [1, 2, 8, 64, 300])
def test_01_at_the_least_ratio_nothing_is_missing_and_the_way_is_no_longer_than_it_must_be(n: int, level: str) -> None:
    counts = torch.tensor([n])
    steepness = topk.sharpness(level, counts)
    least, _ = topk.bounds(counts, torch.tensor([1]), steepness)
    assert 0.95 < float(masks(n, least.item(), float(steepness)).min()) < 0.96


@given(n=SIZES, halves=st.integers(0, 192))
def test_02_the_hard_count_is_the_rounded_one(n: int, halves: int) -> None:
    left = min(max(halves / 2, 1), n)  # (1 - a) N on a grid of halves
    ratio = torch.tensor(1 - left / n, dtype=torch.double)
    count = int(topk.hard(placed(torch.rand(n)), ratio).sum())
    assert count == math.ceil(left - 0.5 - 1e-9)
    assert 1 <= count <= n


@given(n=SIZES, a=st.floats(-0.2, 1), b=st.floats(-0.2, 1))
def test_02_a_larger_ratio_never_keeps_more(n: int, a: float, b: float) -> None:
    places, (low, high) = placed(torch.rand(n)), sorted((a, b))
    assert topk.hard(places, torch.tensor(low)).sum() >= topk.hard(places, torch.tensor(high)).sum()


@given(n=SIZES, floor=st.integers(1, 96))
def test_02_at_its_bounds_a_choice_keeps_its_floor_and_everything(n: int, floor: int) -> None:
    floor = min(floor, n)
    sizes = torch.tensor([n]).double()
    least, most = topk.bounds(sizes, torch.tensor([floor]), topk.sharpness("filter", sizes))
    places = placed(torch.rand(n))
    assert int(topk.hard(places, most).sum()) == floor
    assert int(topk.hard(places, least).sum()) == n


def test_02_a_single_element_has_the_right_sign() -> None:
    assert masks(1, -0.5) > masks(1, 0.0) > masks(1, 0.5)
    assert masks(1, 0.0, 16.0) > 0.5 > masks(1, 1.0, 16.0)


@given(n=SIZES, seed=st.integers(0, 1000))
def test_03_permuting_importances_permutes_places(n: int, seed: int) -> None:
    stream = torch.Generator().manual_seed(seed)
    values, order = torch.randperm(n, generator=stream).float(), torch.randperm(n, generator=stream)
    assert torch.equal(placed(values[order]), placed(values)[order])


@given(values=st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=40))
def test_03_only_the_order_counts(values: list[float]) -> None:
    importance = torch.tensor(values, dtype=torch.double)
    assert torch.equal(placed(importance), placed(importance.log()))
    assert torch.isfinite(topk.soft(placed(importance), torch.tensor(0.3), torch.tensor(1e4))).all()


@pytest.mark.parametrize("n", [1, 5])
def test_03_equal_ones_are_told_apart_the_same_way_each_time(n: int) -> None:
    assert placed(torch.zeros(n)).tolist() == pytest.approx([1 - (i + 0.5) / n for i in range(n)])


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_03_choices_do_not_see_each_other(sizes: list[int], seed: int) -> None:
    values = torch.rand(sum(sizes), generator=torch.Generator().manual_seed(seed))
    together = topk.places(values, *laid_out(sizes))
    assert torch.equal(together, torch.cat([placed(part) for part in values.split(sizes)]))


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.83])
def test_04_the_slope_of_the_sum_is_minus_n(ratio: float) -> None:
    n, h = 64, 1e-5
    a = torch.tensor(ratio, dtype=torch.double, requires_grad=True)
    m = masks(n, a)
    m.sum().backward()
    assert float(a.grad) == pytest.approx(-float((n * m * (1 - m)).detach().sum()), rel=1e-12)
    central = (masks(n, ratio + h).sum() - masks(n, ratio - h).sum()) / (2 * h)
    assert float(a.grad) == pytest.approx(float(central), rel=1e-6)
    if 0.1 < ratio < 0.9:
        assert float(a.grad) == pytest.approx(-n, rel=0.002)


@pytest.mark.parametrize("n", [64, 128, 256])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.71])
def test_05_five_or_six_elements_are_undecided(n: int, ratio: float) -> None:
    m = masks(n, ratio)
    assert int(((m > 0.05) & (m < 0.95)).sum()) in (5, 6)


def test_the_hard_mask_has_the_soft_ones_gradient() -> None:
    a = torch.tensor(0.4, dtype=torch.double, requires_grad=True)
    places = placed(torch.rand(32))
    smooth = topk.soft(places, a, torch.tensor(32.0))
    mask = topk.straight_through(topk.hard(places, a), smooth)
    assert torch.equal(mask.detach(), topk.hard(places, a))
    (slope,) = torch.autograd.grad(mask.sum(), a, retain_graph=True)
    assert slope == torch.autograd.grad(smooth.sum(), a)[0]


def test_16_a_masked_out_element_is_forgotten_by_taylor_alone() -> None:
    slopes, out = torch.ones(2), torch.tensor([1.0, 0.0])
    assert topk.importance(slopes, out, "taylor").tolist() == [1, 0]
    assert topk.importance(slopes, out, "fisher").tolist() == [1, 1]
