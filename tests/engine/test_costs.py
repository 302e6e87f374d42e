"""Promises of nasengine.costs and of the counts in nasengine.architecture: soft, counted and summed sizes agree."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import chain_plan, images_for, lived_in, living, masks_of, random_gains, random_kept, small_plan
from torch import Tensor

from nasengine import costs, export
from nasengine.architecture import Plan, lowered, smallest
from nasengine.discretise import fitted
from nasengine.multiply_adds import counted
from nasengine.supernet import Supernet, architecture, everything

PLANS = {
    "cells": small_plan(),
    "more cells": small_plan(cells_=3, nodes=2, reductions=(0, 1), image_size=14, colours=3),
    "odd sides": small_plan(image_size=10, cells_=3, reductions=(1, 2)),
    "chain": chain_plan(),
    "chain with squeeze-excite": chain_plan(layers=3, squeeze_excite=True, reductions=(0, 2), image_size=10, colours=3),
    "chain with attention": chain_plan(layers=3, attention=(2, 4), reductions=(1,), image_size=10),
}
METRICS = ["params", "macs"]


def soft_size(plan: Plan, masks: dict[str, Tensor], metric: str, exit_: str | None = None) -> Tensor:
    return costs.size(plan, plan.program(exit_ or plan.exits[-1]), masks, metric)


@given(st.integers(0, 10**6), st.sampled_from([*PLANS]), st.sampled_from(METRICS))
@settings(max_examples=30, deadline=None)
def test_size_at_hard_masks_is_the_count_when_every_candidate_is_on(seed: int, which: str, metric: str) -> None:
    """Then every channel has a reader, so that nothing is dropped that the masks still count."""
    plan = PLANS[which]
    kept = random_kept(plan, seed, ["filter", "weight"])
    assert soft_size(plan, masks_of(kept), metric).item() == architecture(plan, kept).size(metric)


@given(st.integers(0, 10**6), st.sampled_from([*PLANS]), st.sampled_from(METRICS))
@settings(max_examples=30, deadline=None)
def test_size_is_never_below_the_count(seed: int, which: str, metric: str) -> None:
    plan = PLANS[which]
    kept = random_kept(plan, seed)
    assert soft_size(plan, masks_of(kept), metric).item() >= architecture(plan, kept).size(metric)


def summed(net: Supernet, masks: dict[str, Tensor], metric: str) -> float:
    """The size as a sum over layers that a person can read; masks may be fractions."""
    plan = net.plan

    def channels(name: str) -> Tensor:
        return torch.cat([channel(group) for group in plan.layer[name].channels])

    def channel(group: str) -> Tensor:
        if group in plan.crossings:
            return torch.outer(*map(channel, plan.crossings[group])).flatten()
        return masks.get(group, torch.ones(plan.groups[group], dtype=torch.double))

    total = 0.0
    for layer in net.program:
        if layer.op == "image":
            continue
        choice, unit = layer.owner or ("", 0)
        on = masks[choice][net.units[choice].index(unit)] if choice else 1.0
        makes, reads = channels(layer.name), channels(layer.inputs[0])
        pixels = plan.sides[layer.name] ** 2
        pairs = makes[:, None] if layer.depthwise else torch.outer(makes, reads)
        if layer.op in ("conv", "factorized_reduce") and metric == "macs":
            total += on * pairs.sum() * layer.kernel**2 * pixels
        elif layer.op in ("conv", "factorized_reduce"):
            kernel = masks[layer.weights] if layer.prunable else torch.ones(1, 1, layer.kernel, layer.kernel)
            total += on * (pairs[:, :, None, None] * kernel).sum()
        elif layer.op == "attention" and metric == "macs":
            total += on * 2 * pixels**2 * makes.sum()
        elif layer.op == "linear":
            total += on * (pairs.sum() + (makes.sum() if metric == "params" else 0))
        elif metric == "params" and layer.op == "batch_norm":
            total += on * 2 * makes.sum()
        elif metric == "params" and layer.name in plan.ends:
            total += on
    return float(total)


@pytest.mark.parametrize("metric", METRICS)
@given(seed=st.integers(0, 10**6), which=st.sampled_from([*PLANS]))
@settings(max_examples=12, deadline=None)
def test_what_a_cut_network_counts_is_the_sum_over_its_layers_also_for_fractions(
    metric: str, seed: int, which: str
) -> None:
    plan = PLANS[which]
    net = Supernet(plan, lived_in(plan, seed).nursery, random_kept(plan, seed))
    stream = torch.Generator().manual_seed(seed)
    masks = {
        level: torch.rand(sum(units.counts), generator=stream, dtype=torch.double) for level, units in net.flat.items()
    }
    masks["weight"] *= net.alive_weights
    named = {name: mask for level, units in net.flat.items() for name, mask in units.split(masks[level]).items()}
    assert net.count(metric)(masks).item() == pytest.approx(summed(net, named, metric), rel=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_size_over_living_units_is_that_over_all(metric: str) -> None:
    """What the supernet counts after a commit is what the full space counts under the same masks."""
    plan = small_plan(nodes=2)
    kept = random_kept(plan, 3)
    net = Supernet(plan, lived_in(plan).nursery, kept)
    masks = living(net, masks_of(kept)) | net.pruned_weights
    alive = costs.size(plan, net.program, masks, metric, net.units).item()
    program = plan.program(plan.exits[-1], net.units)
    assert alive == costs.size(plan, program, masks_of(kept), metric).item()


@pytest.mark.parametrize("exit_", ["exit1", "head"])
@pytest.mark.parametrize("metric", METRICS)
def test_every_open_mask_feels_the_size(metric: str, exit_: str) -> None:
    """Multiply-adds do not feel single weights: zeros are multiplied all the same."""
    plan = small_plan(cells_=3, nodes=2, cuts=(2,))
    stream = torch.Generator().manual_seed(0)
    masks = {
        name: (0.3 + 0.7 * torch.rand(alive.shape, generator=stream, dtype=torch.float64)).requires_grad_()
        for name, alive in everything(plan).items()
    }
    soft_size(plan, masks, metric, exit_).backward()
    blocks = plan.exit_blocks[plan.exits.index(exit_)]
    for choice in plan.choices:
        gradient = masks[choice.name].grad
        if choice.block >= blocks or (metric == "macs" and choice.granularity == "weight"):
            assert gradient is None, choice.name
        elif choice.granularity == "operation" and metric == "macs":
            free = torch.tensor(
                [("pool" in label or (label.startswith("n") and "skip" in label)) for label in choice.labels]
            )
            assert (gradient[~free] >= 0).all() and (gradient > 0).any(), choice.name
        else:
            assert (gradient > 0).all(), choice.name


@given(st.integers(0, 10**6), st.sampled_from([*PLANS]))
@settings(max_examples=20, deadline=None)
def test_counts_are_those_of_the_real_network(seed: int, which: str) -> None:
    plan = PLANS[which]
    kept = random_kept(plan, seed)
    net = Supernet(plan, lived_in(plan, seed).nursery, kept)
    found = architecture(plan, kept)
    network = export.compact_network(net, found, living(net, random_gains(plan, seed)), {})
    assert found.params_dense == sum(parameter.numel() for parameter in network.parameters())
    assert found.params == export.nonzero(network)
    assert found.macs == counted(network, images_for(plan, n=1)).macs


@given(st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_cutting_more_never_makes_it_larger(seed: int) -> None:
    plan = small_plan(nodes=2)
    more = random_kept(plan, seed, share=0.7)
    held = random_kept(plan, seed, share=0.0)
    less = {name: alive & (random_kept(plan, seed + 1, share=0.6)[name] | held[name]) for name, alive in more.items()}
    for metric in METRICS:
        assert architecture(plan, less).size(metric) <= architecture(plan, more).size(metric)


@pytest.mark.parametrize("metric", METRICS)
@given(seed=st.integers(0, 10**6), which=st.sampled_from([*PLANS]))
@settings(max_examples=12, deadline=None)
def test_the_smallest_size_can_be_reached_whatever_the_margins(metric: str, seed: int, which: str) -> None:
    plan = PLANS[which]
    levels = ("operation", "filter", "weight")
    least = smallest(plan, levels, metric)
    stream = torch.Generator().manual_seed(seed)
    margins = {name: torch.randn(alive.shape, generator=stream) for name, alive in everything(plan).items()}
    assert architecture(plan, fitted(plan, margins, bounds={metric: least}, granularities=levels)).size(metric) <= least


def test_without_levels_the_smallest_is_the_full_size() -> None:
    plan = small_plan(nodes=2)
    for metric in METRICS:
        assert smallest(plan, (), metric) == lowered(plan, {}).size(metric)


def test_a_small_network_counted_by_hand() -> None:
    """One 3x3 stem to 12 channels, one cell without reduction that keeps only the skip from its second input.

    Parameters: stem 12*9 and its batch norm 24; s1 is 4*12 and batch norm 8; a factor for the skip; the classifier
    (4 + 1) * 3. The same again for the second cell, whose input is 4 wide: 4*4, 8, 1. Multiply-adds: 64 pixels.
    """
    plan = small_plan(reductions=(), candidates=("skip_connect",))
    found = lowered(plan, {"c0_n0_ops": [1], "c1_n0_ops": [1]})
    assert found.params == found.params_dense == (108 + 24) + (48 + 8 + 1) + (16 + 8 + 1) + 15
    assert found.macs == 64 * (108 + 48 + 16) + 12
    assert [layer["name"] for layer in found.layers if layer["op"] == "scale"] == [
        "c0_n0_s1_skip_connect_scale",
        "c1_n0_s1_skip_connect_scale",
    ]


def test_the_full_network_is_never_smaller_than_any_part() -> None:
    plan = small_plan(cells_=3, cuts=(1, 2))
    sizes = [lowered(plan, {}, exit_=exit_).params for exit_ in plan.exits]
    assert sizes == sorted(sizes)


def test_an_architecture_is_plain_json_without_the_search_in_it() -> None:
    plan = small_plan()
    found = architecture(plan, random_kept(plan, 0)).to_json()
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {"format", "space", "image_size", "layers", "output", "kept"}


@given(st.integers(0, 10**6), st.sampled_from([*PLANS]), st.sampled_from(METRICS))
@settings(max_examples=15, deadline=None)
def test_savings_are_what_the_size_loses_with_each_unit(seed: int, which: str, metric: str) -> None:
    """With all else as the masks have it; for a unit that is off, what it would add."""
    plan = PLANS[which]
    net = Supernet(plan, lived_in(plan).nursery, everything(plan))
    count = net.count(metric)
    kept = masks_of(random_kept(plan, seed, share=0.7))
    masks = {level: units.joined(kept, torch.double) for level, units in net.flat.items()}
    found = costs.savings(count, masks)
    assert set(found) == {"operation", "filter"} and all((share >= 0).all() for share in found.values())
    size = count(masks)
    for level, shares in found.items():
        for place in range(seed % 5, len(shares), 7):
            on, off = masks[level].clone(), masks[level].clone()
            on[place], off[place] = 1, 0
            change = count({**masks, level: on}) - count({**masks, level: off})
            assert shares[place].item() == pytest.approx((change / size).item(), rel=1e-9, abs=1e-12)
