"""Promises of nasengine.discretise: never above the target, never an empty choice, as close as the units allow."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import small_plan
from torch import Tensor

from nasengine.architecture import Plan, lowered, smallest
from nasengine.discretise import fitted, floors
from nasengine.errors import EngineError
from nasengine.supernet import Kept, architecture, everything

LEVELS = ("operation", "filter", "weight")
SUBSETS = [levels for n in (1, 2, 3) for levels in itertools.combinations(LEVELS, n)]
CASES = [
    (metric, levels) for metric in ("params", "macs") for levels in SUBSETS if (metric, levels) != ("macs", ("weight",))
]
PLANS = [small_plan(), small_plan(cells_=2, nodes=2, channels=6, image_size=10)]


def margins_of(plan: Plan, seed: int, spread: float = 1.0) -> dict[str, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    return {name: torch.randn(alive.shape, generator=stream) * spread for name, alive in everything(plan).items()}


def one_more(plan: Plan, kept: Kept, levels: tuple[str, ...]) -> list[Kept]:
    """Every decision with one more operation or filter."""
    found = []
    for choice in plan.choices:
        if choice.granularity in levels and choice.granularity != "weight":
            for unit in (~kept[choice.name]).nonzero().flatten().tolist():
                more = {**kept, choice.name: kept[choice.name].clone()}
                more[choice.name][unit] = True
                found.append(more)
    return found


def assert_sound(plan: Plan, kept: Kept, margins: dict[str, Tensor], levels: tuple[str, ...]) -> None:
    for choice in plan.choices:
        alive = kept[choice.name]
        assert int(alive.sum()) >= choice.floor, choice.name
        if choice.granularity in levels:
            best = int(torch.argmax(margins[choice.name].flatten()))
            assert alive.flatten()[best], choice.name
        else:
            assert alive.all(), choice.name


@pytest.mark.parametrize(
    ("metric", "levels"), CASES, ids=lambda value: value if isinstance(value, str) else "+".join(value)
)
@given(seed=st.integers(0, 10**6), share=st.floats(0, 1), which=st.sampled_from([0, 1]))
@settings(max_examples=4, deadline=None)
def test_the_fit_is_below_the_target_and_within_three_percent(
    metric: str, levels: tuple[str, ...], seed: int, share: float, which: int
) -> None:
    """Where units are so coarse that three percent cannot be met, at least nothing more fits."""
    plan = PLANS[which]
    full, least = lowered(plan, {}).size(metric), smallest(plan, levels, metric)
    target = least + int(share * (full - least))
    margins = margins_of(plan, seed)
    kept = fitted(plan, margins, metric=metric, target=target, granularities=levels)
    size = architecture(plan, kept).size(metric)
    assert size <= target
    assert_sound(plan, kept, margins, levels)
    if size < 0.97 * target:
        assert all(architecture(plan, more).size(metric) > target for more in one_more(plan, kept, levels))
    if levels == ("weight",):
        assert size == target


@given(st.integers(0, 10**6), st.floats(0.1, 0.9), st.sampled_from([("filter", "weight"), LEVELS]))
@settings(max_examples=8, deadline=None)
def test_with_weights_open_the_target_is_met_exactly_unless_every_living_weight_is_kept(
    seed: int, share: float, levels: tuple[str, ...]
) -> None:
    plan = PLANS[1]
    full, least = lowered(plan, {}).params, smallest(plan, levels, "params")
    target = least + int(share * (full - least))
    kept = fitted(plan, margins_of(plan, seed), metric="params", target=target, granularities=levels)
    found = architecture(plan, kept)
    assert found.params == target or (found.params == found.params_dense and found.params >= 0.97 * target)


@pytest.mark.parametrize("metric", ["params", "macs"])
def test_a_space_of_ordinary_size_is_fitted_within_three_percent(metric: str) -> None:
    plan = small_plan(cells_=4, channels=8, nodes=2, reductions=(1, 3), image_size=16)
    full = lowered(plan, {}).size(metric)
    for seed, share in enumerate((0.1, 0.3, 0.6, 0.9)):
        kept = fitted(plan, margins_of(plan, seed), metric=metric, target=int(share * full), granularities=LEVELS)
        assert 0.97 * int(share * full) <= architecture(plan, kept).size(metric) <= int(share * full)


def test_at_the_full_size_everything_stays() -> None:
    plan = PLANS[0]
    for metric in ("params", "macs"):
        kept = fitted(
            plan, margins_of(plan, 0), metric=metric, target=lowered(plan, {}).size(metric), granularities=LEVELS
        )
        assert all(alive.all() for alive in kept.values())


def test_higher_margins_stay_longer() -> None:
    """Within a choice no unit that is off has a higher margin than one that is on, but for what fills the last gap."""
    plan = PLANS[1]
    margins = margins_of(plan, 7)
    full = lowered(plan, {}).params
    kept = fitted(plan, margins, metric="params", target=full // 2, granularities=("filter", "weight"))
    for choice in plan.choices:
        if choice.granularity == "filter":
            on, off = margins[choice.name][kept[choice.name]], margins[choice.name][~kept[choice.name]]
            assert not len(off) or off.max() < on.min(), choice.name


@pytest.mark.parametrize("spread", [0.0, 1e-12])
def test_equal_margins_are_fitted_too(spread: float) -> None:
    """All in one tie: the offset alone would take all or nothing, so single units and weights fill up."""
    plan = PLANS[0]
    target = lowered(plan, {}).params // 2
    margins = margins_of(plan, 1, spread)
    kept = fitted(plan, margins, metric="params", target=target, granularities=LEVELS)
    assert 0.97 * target <= architecture(plan, kept).params <= target
    assert_sound(plan, kept, margins, LEVELS)


def test_the_same_margins_give_the_same_fit() -> None:
    plan = PLANS[0]
    one, other = (
        fitted(plan, margins_of(plan, 5), metric="params", target=1500, granularities=LEVELS) for _ in range(2)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_target_below_the_floors_is_refused() -> None:
    plan = PLANS[0]
    with pytest.raises(EngineError, match=r"^no network of the space has 20 params or less; raise the target$"):
        fitted(plan, margins_of(plan, 0), metric="params", target=20, granularities=LEVELS)


def test_floors_hold_the_best_units_with_ties_to_the_lower_number() -> None:
    plan = PLANS[0]
    margins = {name: torch.zeros(alive.shape) for name, alive in everything(plan).items()}
    margins["stem"][7] = 1.0
    held = floors(plan, margins)
    assert held["stem"].nonzero().flatten().tolist() == [0, 1, 7]
    assert held["c0_n0_ops"].nonzero().flatten().tolist() == [0]
    assert all(int(held[choice.name].sum()) == choice.floor for choice in plan.choices)
