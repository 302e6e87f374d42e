"""Promises of nasengine.outlook: what is said before a run is what the run will find."""

from __future__ import annotations

import time

import pytest
from small import configuration

from nasengine.architecture import lowered, smallest
from nasengine.config import parse
from nasengine.errors import ConfigError
from nasengine.outlook import outlook, plan_of
from nasengine.splits import DataFacts, builtin_facts

DIGITS = builtin_facts("digits")


def sentences(changes: dict, facts: DataFacts = DIGITS) -> tuple[tuple[str, str], ...]:
    return outlook(configuration(changes), facts).problems


def test_a_sound_configuration_has_no_problem() -> None:
    look = outlook(configuration(), DIGITS)
    assert look.feasible and look.problems == ()
    look.check()
    plan = plan_of(configuration(), DIGITS)
    assert look.full_size == lowered(plan, {}).params
    assert look.smallest_size == smallest(plan, ("operation", "filter", "weight"), "params")
    assert look.target == int(0.4 * look.full_size)
    assert set(look.choices) == {"operation", "filter", "weight"}
    assert all(value > 0 for value in look.estimate.values())


def test_a_target_above_the_space_is_refused_with_the_largest_that_is_not() -> None:
    full = outlook(configuration(), DIGITS).full_size
    (problem,) = sentences({"target.value": full + 1})
    assert problem == (
        "target.value",
        f"{full + 1:,} params is more than the whole space has; give at most {full:,}, "
        "or a larger space (more cells or channels)",
    )
    assert sentences({"target.value": full}) == ()


@pytest.mark.parametrize("metric", ["params", "macs"])
def test_a_target_below_the_floors_is_refused_with_the_smallest_that_is_not(metric: str) -> None:
    least = outlook(configuration({"target.metric": metric}), DIGITS).smallest_size
    (problem,) = sentences({"target.metric": metric, "target.value": least - 1})
    assert problem == (
        "target.value",
        f"{least - 1:,} {metric} is below what this space can surely reach; give at least {least:,}, "
        "or a smaller space (fewer cells or channels)",
    )
    assert sentences({"target.metric": metric, "target.value": least}) == ()


def test_fewer_levels_reach_less_far() -> None:
    sizes = [
        outlook(configuration({"strategy.granularities": levels}), DIGITS).smallest_size
        for levels in (["operation", "filter", "weight"], ["operation", "filter"], ["filter"])
    ]
    assert sizes == sorted(set(sizes))
    (problem,) = sentences({"strategy.granularities": ["weight"], "target.metric": "macs"})
    assert problem[0] == "target.value" and "is below what this space can surely reach" in problem[1]


def test_a_batch_larger_than_the_train_split_is_refused() -> None:
    assert sentences({"search.batch_size": 171}) == (
        ("search.batch_size", "171 is larger than the train split of 170 images; use at most 170"),
    )
    assert sentences({"search.batch_size": 170}) == ()


def test_a_split_without_images_is_refused() -> None:
    facts = DataFacts("few", 1, ("a", "b"), {"all": (2, 2)})
    found = dict(sentences({"search.batch_size": 2, "data.limit": None}, facts))
    assert (
        found["data.validation_fraction"]
        == "no image is left for the validation split; add images, or raise this share"
    )
    lonely = DataFacts("fewer", 1, ("a", "b"), {"all": (1, 1)})
    found = dict(sentences({"search.batch_size": 2, "data.limit": None}, lonely))
    assert found["data.test_fraction"] == "no image is left for the test split; add images, or raise this share"


def test_check_raises_all_problems_at_once() -> None:
    with pytest.raises(ConfigError, match=r"^target\.value: .*; search\.batch_size: ") as caught:
        outlook(configuration({"target.value": 1, "search.batch_size": 4000}), DIGITS).check()
    assert [field for field, _ in caught.value.problems] == ["target.value", "search.batch_size"]


def test_more_work_is_estimated_longer_and_larger() -> None:
    base = outlook(configuration(), DIGITS).estimate
    for changes, part in (
        ({"search.epochs": 16}, "seconds_cpu"),
        ({"baseline.random": 2}, "seconds_cpu"),
        ({"space.channels": 8}, "seconds_cpu"),
        ({"space.channels": 8}, "memory_mib"),
        ({"search.batch_size": 64}, "memory_mib"),
    ):
        assert outlook(configuration(changes), DIGITS).estimate[part] > base[part], changes


@pytest.mark.parametrize("preset", ["quick", "standard", "thorough"])
def test_every_preset_is_feasible_for_every_built_in_data_set(preset: str) -> None:
    for dataset in ("digits", "cifar10", "cifar100", "fashion_mnist", "svhn"):
        wanted = parse({"preset": preset, "data": {"dataset": dataset}})
        assert outlook(wanted, builtin_facts(dataset)).problems == (), dataset


def test_looking_ahead_is_fast_enough_for_every_keystroke() -> None:
    wanted = parse({"preset": "standard", "data": {"dataset": "cifar10"}})
    started = time.process_time()
    outlook(wanted, builtin_facts("cifar10"))
    assert time.process_time() - started < 1
