"""Promises of nasengine.outlook: what is said before a run is what the run will find."""

from __future__ import annotations

import re
import time

import pytest
import torch
from safetensors.torch import save
from small import configuration

from nasengine.architecture import lowered, smallest
from nasengine.catalogue import METRICS
from nasengine.compact import Network
from nasengine.config import parse
from nasengine.discretise import fitted
from nasengine.errors import ConfigError
from nasengine.outlook import fitting_batch, outlook, plan_of
from nasengine.splits import DataFacts, builtin_facts
from nasengine.supernet import architecture, everything

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
        f"{full + 1:,} parameters are more than the whole space has; give at most {full:,}, "
        "or a larger space (more cells or channels)",
    )
    assert sentences({"target.value": full}) == ()


@pytest.mark.parametrize("metric", ["params", "macs"])
def test_a_target_below_the_floors_is_refused_with_the_smallest_that_is_not(metric: str) -> None:
    least = outlook(configuration({"target.metric": metric}), DIGITS).smallest_size
    (problem,) = sentences({"target.metric": metric, "target.value": least - 1})
    assert problem == (
        "target.value",
        f"{least - 1:,} {METRICS[metric]} are below what this space can surely reach; give at least {least:,}, "
        "or a smaller space (fewer cells or channels)",
    )
    assert sentences({"target.metric": metric, "target.value": least}) == ()


def test_what_a_space_is_made_of_is_called_as_in_its_settings() -> None:
    chain = {"space": {"kind": "chain", "layers": 4, "channels": 4}, "target.value": 1}
    ((_, problem),) = sentences(chain)
    assert problem.endswith("or a smaller space (fewer layers or channels)")


def test_each_further_target_out_of_reach_is_refused_where_it_was_given() -> None:
    look = outlook(configuration(), DIGITS)
    full, least = look.full_size, look.smallest_size
    found = sentences({"target.also": ["60%", full + 1, least - 1], "search.epochs": 40})
    assert found == (
        (
            "target.also",
            f"{full + 1:,} parameters are more than the whole space has; give at most {full:,}, "
            "or a larger space (more cells or channels)",
        ),
        (
            "target.also",
            f"{least - 1:,} parameters are below what this space can surely reach; give at least {least:,}, "
            "or a smaller space (fewer cells or channels)",
        ),
    )
    assert sentences({"target.also": [full, least], "search.epochs": 40}) == ()
    fields = [field for field, _ in sentences({"target.value": 1, "target.also": [2], "search.epochs": 40})]
    assert fields == ["target.value", "target.also"]


def test_all_targets_are_told_from_large_to_small() -> None:
    look = outlook(configuration({"target.also": ["20%", 3000, "40%"], "search.epochs": 40}), DIGITS)
    assert look.target == int(0.4 * look.full_size)
    assert look.family == (3000, look.target, int(0.2 * look.full_size))


@pytest.mark.parametrize("metric", ["params", "macs"])
def test_a_stage_share_that_no_search_reaches_is_refused_with_one_that_every_search_does(metric: str) -> None:
    changes = {"space.cells": 3, "strategy.cuts": [1, 2], "search.epochs": 20, "target.metric": metric}
    found = sentences({**changes, "strategy.stage_shares": [0.9, 0.001]})
    plan = plan_of(configuration(changes), DIGITS)
    full = lowered(plan, {}, exit_="exit2").size(metric)
    ((field, sentence),) = found
    assert field == "strategy.stage_shares"
    told = re.fullmatch(
        rf"0\.001 of {full:,} {METRICS[metric]} is below what the stage can reach; "
        r"give at least (0\.\d+), or other stage ends",
        sentence,
    )
    assert told, sentence
    enough = float(told[1])
    assert smallest(plan, ("operation", "filter", "weight"), metric, "exit2") <= enough * full
    assert sentences({**changes, "strategy.stage_shares": [0.9, enough]}) == ()
    assert sentences({**changes, "strategy.stage_shares": [0.9, round(enough - 0.01, 2)]}) != ()


CHAIN = {"space": {"kind": "chain", "layers": 4, "channels": 4, "reductions": [2]}, "strategy.cuts": [2]}


@pytest.mark.parametrize("metric", ["params", "macs"])
def test_the_range_of_a_chain_is_what_its_searches_reach(metric: str) -> None:
    changes = {**CHAIN, "target.metric": metric}
    look = outlook(configuration(changes), DIGITS)
    plan = plan_of(configuration(changes), DIGITS)
    assert plan.space == "chain" and look.feasible
    assert look.full_size == lowered(plan, {}).size(metric)
    for seed in range(3):
        stream = torch.Generator().manual_seed(seed)
        margins = {name: torch.randn(alive.shape, generator=stream) for name, alive in everything(plan).items()}
        kept = fitted(
            plan, margins, bounds={metric: look.smallest_size}, granularities=("operation", "filter", "weight")
        )
        assert architecture(plan, kept).size(metric) <= look.smallest_size
    assert [field for field, _ in sentences({**changes, "target.value": look.smallest_size - 1})] == ["target.value"]
    assert [field for field, _ in sentences({**changes, "target.value": look.full_size + 1})] == ["target.value"]
    assert sentences({**changes, "target.value": look.smallest_size}) == ()


def test_fewer_levels_reach_less_far() -> None:
    sizes = [
        outlook(configuration({"strategy.granularities": levels}), DIGITS).smallest_size
        for levels in (["operation", "filter", "weight"], ["operation", "filter"], ["filter"])
    ]
    assert sizes == sorted(set(sizes))
    (problem,) = sentences({"strategy.granularities": ["weight"], "target.metric": "macs"})
    assert problem[0] == "target.value" and "below what this space can surely reach" in problem[1]


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ({}, 128),
        ({"strategy.decision_fraction": 0.5}, 85),
        ({"strategy.decision_fraction": 0}, 170),
        ({"strategy.recipe": "published"}, 170),
    ],
)
def test_a_batch_larger_than_what_the_weights_learn_from_is_refused(changes: dict, most: int) -> None:
    """Of 170 training images a quarter, unless told otherwise, is held out for decisions."""
    ((field, sentence),) = sentences({"search.batch_size": most + 1, **changes})
    assert field == "search.batch_size"
    assert sentence.startswith(f"{most + 1} is larger than ") and sentence.endswith(f"; use at most {most}")
    assert sentences({"search.batch_size": most, **changes}) == ()


@pytest.mark.parametrize(
    ("space", "k", "where"),
    [
        (
            {"kind": "cells", "cells": 2, "channels": 4, "candidates": ["skip_connect", "sep_conv_3x3"]},
            3,
            "s0 to c0_n0 in cell 0 has 2 (skip_connect, sep_conv_3x3); give at most 2",
        ),
        (
            {"kind": "chain", "layers": 3, "channels": 4, "kernels": [3], "expansions": [3, 6], "reductions": [1]},
            3,
            "l0 in layer 0 has 2 (mbconv_3x3_e3, mbconv_3x3_e6); give at most 2",
        ),
    ],
)
def test_more_sub_graphs_than_a_connection_has_operations_are_refused(space: dict, k: int, where: str) -> None:
    """Named is the connection that has the fewest: in a chain the first, which cannot be skipped."""
    changes = {"space": space, "target.value": "80%"}
    sentence = f"{k} sub-graphs need as many operations on every connection, and {where}, or more operations"
    assert sentences({**changes, "strategy": {"kind": "msgdas", "sub_graphs": k}}) == (
        ("strategy.sub_graphs", sentence),
    )
    assert sentences({**changes, "strategy": {"kind": "msgdas", "sub_graphs": k - 1}}) == ()


def test_memory_of_sub_graphs_grows_with_their_number_unless_they_follow_one_another() -> None:
    def memory(**method: object) -> float:
        wanted = {"strategy": {"kind": "msgdas", "soft": "full", "guidance": "off", **method}, "target.value": "40%"}
        space = {"kind": "cells", "cells": 6, "channels": 16, "nodes": 3}
        return outlook(configuration({**wanted, "space": space}), DIGITS).estimate["memory_mib"]

    whole = {"space": {"kind": "cells", "cells": 6, "channels": 16, "nodes": 3}, "runtime.memory_share": 1.0}
    everything_ = outlook(configuration(whole), DIGITS).estimate["memory_mib"]
    assert memory(sub_graphs=2) < memory(sub_graphs=3) < memory(sub_graphs=4)
    assert memory(sub_graphs=2) < everything_
    assert len({memory(sub_graphs=k, memory="sequential") for k in (1, 2, 4)}) == 1
    assert memory(sub_graphs=1, memory="sequential") <= memory(sub_graphs=1)


def test_the_share_of_memory_bounds_what_follows_sub_graphs_and_not_themselves() -> None:
    """Half of the space is left for MGAS, geometrically between all and a quarter: a larger share bounds nothing."""

    def memory(then: str, share: float) -> float:
        wanted = {"strategy": {"kind": "msgdas", "then": then, "memory": "sequential"}, "target.value": "25%"}
        space = {"kind": "cells", "cells": 6, "channels": 16, "nodes": 3}
        changes = {**wanted, "space": space, "runtime.memory_share": share}
        return outlook(configuration(changes), DIGITS).estimate["memory_mib"]

    assert memory("mgas", 0.45) < memory("mgas", 0.5) == memory("mgas", 1.0)
    paths = memory("mgas", 0.01)
    assert paths == memory("mgas", 0.02) < memory("mgas", 0.45), "never below what the paths take"
    assert memory("nothing", 0.01) == memory("nothing", 1.0) >= paths


def test_more_sub_graphs_and_what_follows_them_take_longer() -> None:
    def seconds(**method: object) -> float:
        wanted = configuration({"strategy": {"kind": "msgdas", **method}, "target.value": "60%"})
        return outlook(wanted, DIGITS).estimate["seconds_cpu"]

    assert seconds(sub_graphs=2) < seconds(sub_graphs=4)


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
    base = outlook(configuration({"search.epochs": 12}), DIGITS).estimate
    for changes, part in (
        ({"search.epochs": 16}, "seconds_cpu"),
        ({"baseline.random": 2}, "seconds_cpu"),
        ({"target.also": ["30%"]}, "seconds_cpu"),
        ({"space.channels": 8}, "seconds_cpu"),
        ({"space.channels": 8}, "memory_mib"),
        ({"search.batch_size": 64}, "memory_mib"),
    ):
        more = outlook(configuration({"search.epochs": 12, **changes}), DIGITS).estimate
        assert more[part] > base[part], changes


@pytest.mark.parametrize("space", ["cells", "chain"])
@pytest.mark.parametrize("preset", ["quick", "standard", "thorough"])
def test_every_preset_is_feasible_for_every_built_in_data_set(preset: str, space: str) -> None:
    for dataset in ("digits", "cifar10", "cifar100", "fashion_mnist", "svhn"):
        wanted = parse({"preset": preset, "space": {"kind": space}, "data": {"dataset": dataset}})
        assert outlook(wanted, builtin_facts(dataset)).problems == (), dataset


@pytest.mark.parametrize("space", ["cells", "chain"])
def test_looking_ahead_is_fast_enough_for_every_keystroke(space: str) -> None:
    wanted = parse({"preset": "standard", "space": {"kind": space}, "data": {"dataset": "cifar10"}})
    started = time.process_time()
    outlook(wanted, builtin_facts("cifar10"))
    assert time.process_time() - started < 1


def test_a_limit_beside_the_target_is_resolved_and_refused_where_it_is_out_of_reach() -> None:
    plain = outlook(configuration(), DIGITS)
    by_macs = outlook(configuration({"target.metric": "macs"}), DIGITS)
    assert plain.limits == {}
    found = outlook(configuration({"target.limits.macs": "50%"}), DIGITS)
    assert found.limits == {"macs": by_macs.full_size // 2} and found.feasible and found.target == plain.target
    low = by_macs.smallest_size - 1
    assert outlook(configuration({"target.limits.macs": low + 1}), DIGITS).feasible
    assert sentences({"target.limits.macs": low}) == (
        (
            "target.limits.macs",
            f"{low:,} multiply-adds are below what this space can surely reach; give at least {low + 1:,}, or a "
            "smaller space (fewer cells or channels)",
        ),
    )
    assert sentences({"target.limits.macs": 10**12}) == (), "a device may be larger than the space"


def test_the_batch_that_fits_a_memory_is_the_largest_whose_estimate_does() -> None:
    def need(batch: int) -> float:
        return outlook(configuration({"search": {"batch_size": batch}}), DIGITS).estimate["memory_mib"]

    config = configuration({"search": {"batch_size": 256}})
    room = (need(100) + need(101)) / 2
    assert fitting_batch(config, DIGITS, room) == 100
    assert fitting_batch(config, DIGITS, need(2) - 1) is None, "PyTorch alone is larger"
    assert fitting_batch(config, DIGITS, need(256) + 1) is None, "by the estimate, the one asked for fits"


def test_what_describes_a_configuration_says_all_that_was_looked_at() -> None:
    look = outlook(configuration({"target.also": ["20%"], "target.limits.macs": "50%", "search.epochs": 40}), DIGITS)
    by_macs = outlook(configuration({"target.metric": "macs"}), DIGITS)
    told = look.to_json()
    assert set(look.reach) == {"params", "macs"}
    assert told["reach"] == {
        "params": [look.smallest_size, look.full_size],
        "macs": [by_macs.smallest_size, by_macs.full_size],
    }
    assert told["also"] == [look.family[1]] and told["feasible"] is True and told["problems"] == []
    assert told["estimate"] == look.estimate


def test_the_time_is_a_range_around_the_estimate() -> None:
    estimate = outlook(configuration(), DIGITS).estimate
    assert estimate["seconds_least"] < estimate["seconds_cpu"] < estimate["seconds_most"]


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("metric", ["params", "macs"])
def test_the_file_of_any_network_is_within_the_bytes_that_were_told(metric: str, zeros: bool) -> None:
    """The one at the target, and where single weights are pruned the full one, as safetensors writes them."""
    levels = ["operation", "filter", "weight"] if zeros else ["operation", "filter"]
    config = configuration({"target.metric": metric, "strategy.granularities": levels})
    look, plan = outlook(config, DIGITS), plan_of(config, DIGITS)
    stream = torch.Generator().manual_seed(0)
    margins = {name: torch.randn(alive.shape, generator=stream) for name, alive in everything(plan).items()}
    kept = fitted(plan, margins, bounds={metric: look.target}, granularities=("operation", "filter"))
    for found in (architecture(plan, kept), *([lowered(plan, {})] if zeros else [])):
        written = len(save(Network(found.to_json()).state_dict()))
        assert look.estimate["bytes_least"] <= written <= look.estimate["bytes_most"]
