"""Promises of nasengine.supernet: what returns is as it was, what is beyond stands still, what is off is free."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import (
    CONVOLUTIONS,
    chain_plan,
    images_for,
    lived_in,
    living,
    masks_of,
    placed,
    random_gains,
    random_kept,
    relative,
    sliced,
    small_plan,
)
from torch import Tensor

from nasengine import train
from nasengine.architecture import Layer, Plan
from nasengine.supernet import Off, Supernet, everything

PLANS: dict[str, Callable[[], Plan]] = {
    "cells": lambda: small_plan(nodes=2, cuts=(1,)),
    "chain": lambda: chain_plan(squeeze_excite=True, layers=3, reductions=(1,), cuts=(1,)),
    "chain with attention": lambda: chain_plan(attention=(1, 4), kernels=(3,), layers=3, reductions=(1,), cuts=(1,)),
}
both_spaces = pytest.mark.parametrize("which", PLANS)


def watch_layers(net: Supernet) -> list[str]:
    """Names of the layers that run from now on."""
    ran: list[str] = []
    apply = net._apply

    def watched(layer: Layer, *arguments: object, **options: object) -> Tensor:
        ran.append(layer.name)
        return apply(layer, *arguments, **options)  # type: ignore[arg-type]

    net._apply = watched  # type: ignore[method-assign]
    return ran


@both_spaces
def test_unnamed_masks_and_gains_are_one(which: str) -> None:
    plan = PLANS[which]()
    net, x = lived_in(plan).eval(), images_for(plan)
    ones = {choice.name: torch.ones(choice.units).double() for choice in plan.choices if choice.granularity != "weight"}
    assert torch.equal(net(x), net(x, ones, ones))


# -- commit and regrow ------------------------------------------------------------------------------------------------


def moved(net: Supernet, by: float) -> None:
    with torch.no_grad():
        for parameter in net.live.values():
            parameter += by


def alive(net: Supernet, name: str) -> Tensor:
    """The same without the weights that are pruned in living rows."""
    choice = f"{name.split('/')[0]}_weights"
    return placed(net, name) & net.kept[choice] if choice in net.kept and name.endswith("weight") else placed(net, name)


@given(st.integers(0, 10**6), st.sampled_from(sorted(PLANS)))
@settings(max_examples=8, deadline=None)
def test_what_regrows_has_the_values_it_was_pruned_with(seed: int, which: str) -> None:
    """Commit, move what lives, regrow, move, commit again: each value moved as often as it was alive, bit for bit."""
    plan = PLANS[which]()
    net = lived_in(plan, seed)
    expected = {name: value.clone() for name, value in net.nursery.items()}
    for turn, kept in enumerate((random_kept(plan, seed, share=0.5), everything(plan), random_kept(plan, seed + 1))):
        net.commit(kept)
        for name in net.live:
            expected[name][alive(net, name)] += turn + 1
        moved(net, turn + 1)
    net.commit(everything(plan))
    assert all(torch.equal(expected[name], value) for name, value in net.nursery.items())


@both_spaces
def test_pruning_and_regrowing_everything_gives_back_the_very_same_function(which: str) -> None:
    plan = PLANS[which]()
    net, x = lived_in(plan).eval(), images_for(plan)
    before = net(x)
    net.commit(random_kept(plan, 3))
    assert relative(before, net(x)) > 1e-3
    net.commit(everything(plan))
    assert torch.equal(before, net(x))


def test_a_pruned_weight_keeps_its_value_while_its_layer_trains() -> None:
    """Neither momentum from before nor weight decay moves it, though it stands in a living row."""
    plan = small_plan()
    net = lived_in(plan, dtype=torch.float32)
    optimizer = train.weights_optimizer(net, 1e-3, 0.1)
    x = images_for(plan, n=8, dtype=torch.float32)

    def step(optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()

    step(optimizer)
    net.keep_momentum(optimizer)
    kept = random_kept(plan, 4, ["weight"], 0.5)
    net.commit(kept)
    before = {name: value.clone() for name, value in net.nursery.items()}
    optimizer = train.weights_optimizer(net, 1e-3, 0.1)
    for _ in range(3):
        step(optimizer)
    net.store()
    for layer in plan.layers:
        if layer.prunable:
            name, alive = f"{layer.name}/weight", kept[layer.weights]
            assert torch.equal(before[name][~alive], net.nursery[name][~alive]), name
    changed = before["c0_s0_conv/weight"] != net.nursery["c0_s0_conv/weight"]
    assert torch.equal(changed, kept["c0_s0_conv_weights"])


@both_spaces
def test_commit_makes_the_network_physically_smaller(which: str) -> None:
    plan = PLANS[which]()
    net = lived_in(plan)
    before = sum(parameter.numel() for parameter in net.parameters())
    net.commit(random_kept(plan, 1, ["operation", "filter"], 0.3))
    assert sum(parameter.numel() for parameter in net.parameters()) < before / 2


@both_spaces
def test_a_widened_network_shares_nothing_that_training_changes(which: str) -> None:
    plan = PLANS[which]()
    net = lived_in(plan)
    net.commit(random_kept(plan, 1))
    before = {name: value.clone() for name, value in net.nursery.items()}
    wide = net.widened(everything(plan))
    wide(images_for(plan, n=8)).sum().backward()
    moved(wide, 1.0)
    net.store()
    assert all(torch.equal(before[name], value) for name, value in net.nursery.items())
    assert len(wide.live) > len(net.live)


# -- exits ------------------------------------------------------------------------------------------------------------


@both_spaces
def test_layers_beyond_the_exit_neither_run_nor_change(which: str) -> None:
    plan = PLANS[which]()
    net = lived_in(plan, dtype=torch.float32)
    net.enter("exit1")
    ran = watch_layers(net)
    before = {name: value.clone() for name, value in net.nursery.items()}
    optimizer = train.weights_optimizer(net, 0.1, 1e-2)
    for _ in range(2):
        net(images_for(plan, n=8, dtype=torch.float32)).square().sum().backward()
        optimizer.step()
    net.store()
    blocks = plan.exit_blocks[0]
    assert {plan.layer[name].block for name in ran} == set(range(blocks))
    changed = {
        plan.layer[name.split("/")[0]].block for name, value in before.items() if not value.equal(net.nursery[name])
    }
    assert changed == set(range(blocks))
    assert not any(name.startswith("head") for name in net.live)


def test_another_exit_continues_from_what_was_learned() -> None:
    plan = PLANS["cells"]()
    net = lived_in(plan)
    net.enter("exit1")
    moved(net, 0.5)
    net.enter("head")
    assert torch.equal(net.live["stem_conv/weight"], net.nursery["stem_conv/weight"])
    fresh = lived_in(plan)
    assert torch.equal(net.live["stem_conv/weight"], fresh.live["stem_conv/weight"] + 0.5)
    assert torch.equal(net.live["head/weight"], fresh.live["head/weight"])


def test_the_same_stream_gives_the_same_newborn_network() -> None:
    plan = small_plan(candidates=CONVOLUTIONS)
    one, other = (Supernet.born(plan, torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(value, other.nursery[name]) for name, value in one.nursery.items())


# -- what is off, what is computed twice, what is compiled ------------------------------------------------------------

Pass = tuple[Tensor, dict[str, Tensor | None], dict[str, Tensor]]


def trained(net: Supernet, seed: int, dead: Off = frozenset(), *, told: bool = False) -> Pass:
    """Logits of a training pass under random masks, every gradient, and the running statistics that it leaves.

    The masks of `dead` candidates are zero; with `told` the network knows it beforehand.
    """
    plan, dtype = net.plan, net.live["stem_conv/weight"].dtype
    masks: dict[str, Tensor] = {}
    for name, alive in random_kept(plan, seed + 1, share=0.6).items():
        if name in net.running and name in plan.weighs:
            weight = f"{plan.weighs[name]}/weight"
            masks[name] = net.gather(weight, {weight: alive}).to(dtype)
        elif name in net.running:
            masks[name] = alive[torch.tensor(net.units[name])].to(dtype)
    for name, unit in dead:
        masks[name][net.units[name].index(unit)] = 0
    gains = living(net, random_gains(plan, seed, dtype))
    for value in (*masks.values(), *gains.values()):
        value.requires_grad_()
    logits = net(images_for(plan, seed, n=6, dtype=dtype), masks, gains, dead if told else frozenset())
    direction = torch.linspace(-1, 1, logits.numel(), dtype=dtype).view_as(logits)
    (logits * direction).sum().backward()
    slopes = {f"mask {name}": mask.grad for name, mask in masks.items()}
    slopes |= {f"gain {name}": gain.grad for name, gain in gains.items()}
    slopes |= {name: parameter.grad for name, parameter in net.live.items()}
    state = {f"{name} {part}": v for name, pair in net.statistics.items() for part, v in enumerate(pair)}
    return logits.detach(), slopes, state


def assert_same(one: Pass, other: Pass, tolerance: float = 1e-9) -> None:
    """Equal logits, gradients (none counts as zero) and statistics, relative to the largest."""
    assert relative(one[0], other[0]) <= tolerance
    assert one[1].keys() == other[1].keys()
    scale = max(float(slope.abs().max()) for slope in one[1].values() if slope is not None)
    for name, slope in one[1].items():
        a, b = (torch.zeros(()) if value is None else value for value in (slope, other[1][name]))
        assert float((a - b).abs().max()) <= tolerance * scale, name
    for name, value in one[2].items():
        assert relative(value, other[2][name]) <= tolerance, name


def some_candidates(net: Supernet, seed: int) -> Off:
    """Living candidates, never all of a node."""
    chance = random_kept(net.plan, seed + 2, ["operation"], 0.5)
    return {
        (name, unit)
        for name in net.flat["operation"].choices
        for unit in net.units[name][1:]
        if not bool(chance[name][unit])
    }


@both_spaces
@given(seed=st.integers(0, 10**6), share=st.sampled_from([None, 0.6]))
@settings(max_examples=5, deadline=None)
def test_candidates_that_are_off_cost_no_backward_pass_and_change_no_gradient(
    which: str, seed: int, share: float | None
) -> None:
    plan = PLANS[which]()
    full = lived_in(plan, seed)
    kept = everything(plan) if share is None else random_kept(plan, seed, share=share)
    one, other = sliced(full, kept), sliced(full, kept)
    dead = some_candidates(one, seed)
    found = trained(other, seed, dead, told=True)
    assert_same(trained(one, seed, dead), found)
    for name in other.live:
        layer = plan.layer[name.split("/")[0]]
        if layer.owner in dead and layer.name not in plan.ends:
            assert found[1][name] is None, "nothing but its last layer has a backward pass"


@both_spaces
def test_candidates_that_are_off_are_not_computed_in_evaluation(which: str) -> None:
    plan = PLANS[which]()
    net = lived_in(plan).eval()
    dead, x, gains = some_candidates(net, 0), images_for(plan), random_gains(plan, 0)
    kept = everything(plan)
    for name, unit in dead:
        kept[name][unit] = False
    with torch.no_grad():
        expected = net(x, masks_of(kept), gains)
        ran = watch_layers(net)
        assert torch.equal(expected, net(x, masks_of(kept), gains, dead))
    assert dead and not {plan.layer[name].owner for name in ran} & dead
    assert set(ran) == {layer.name for layer in plan.program("head") if layer.owner not in dead} - {"image"}


@both_spaces
@given(seed=st.integers(0, 10**6), blocks=st.integers(1, 5), told=st.booleans())
@settings(max_examples=5, deadline=None)
def test_blocks_that_are_computed_twice_learn_the_same_and_count_their_statistics_once(
    which: str, seed: int, blocks: int, told: bool
) -> None:
    plan = PLANS[which]()
    full = lived_in(plan, seed)
    one, other = sliced(full, everything(plan)), sliced(full, everything(plan))
    other.recomputed = blocks
    dead, ran = some_candidates(one, seed), watch_layers(other)
    found = trained(other, seed, dead, told=told)
    assert_same(trained(one, seed, dead, told=told), found)
    twice = {plan.layer[name].block for name in ran if ran.count(name) == 2}
    assert twice == set(range(min(blocks, len(plan.blocks))))


def test_evaluation_computes_nothing_twice() -> None:
    net = lived_in(PLANS["cells"]()).eval()
    net.recomputed, ran = 5, watch_layers(net)
    with torch.no_grad():
        net(images_for(net.plan))
    assert len(ran) == len(set(ran))


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a C++ compiler")
@pytest.mark.slow
def test_a_compiled_step_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest network of the space, in fp32; after a commit it is compiled anew, and evaluation never is."""
    plan = small_plan(reductions=(), candidates=("dil_conv_3x3",))
    full, compiled = lived_in(plan, dtype=torch.float32), []
    make = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *given, **options: compiled.append(given) or make(*given, **options))
    one, other = sliced(full, everything(plan)), sliced(full, everything(plan))
    other.compiled = True
    assert_same(trained(one, 0), trained(other, 0), 1e-5)
    assert len(compiled) == 1
    other.eval()(images_for(plan, dtype=torch.float32))
    assert len(compiled) == 1
