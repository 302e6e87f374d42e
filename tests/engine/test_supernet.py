"""Promises of nasengine.supernet: what is cut was silent, what returns is what it was, what is beyond does not move."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import CONVOLUTIONS, images_for, lived_in, living, masks_of, random_gains, random_kept, relative, small_plan
from torch import Tensor, nn

from nasengine import export, train
from nasengine.architecture import Plan
from nasengine.supernet import Kept, Supernet, architecture, everything

SHAPES = [
    {},
    {"image_size": 10, "cells_": 3, "reductions": (0, 2)},
    {"image_size": 14, "nodes": 2, "reductions": (0, 1), "colours": 3},
    {"cells_": 3, "nodes": 2, "reductions": (1,)},
    {"cells_": 4, "reductions": (), "channels": 6},
]
"""Odd sides after halving, reductions first, last and one after the other, two nodes, colour."""


def sliced(full: Supernet, kept: Kept) -> Supernet:
    """The network cut down to `kept`, in the mode of the full one."""
    nursery = {name: value.clone() for name, value in full.nursery.items()}
    return Supernet(full.plan, nursery, kept, full.exit).train(full.training)


def thrice(plan: Plan, kept: Kept, seed: int, dtype: torch.dtype, exit_: str | None = None) -> tuple[Tensor, ...]:
    """Logits of the masked full network, the sliced one and the compact one, in eval mode."""
    full = lived_in(plan, seed, dtype, exit_).eval()
    gains, x = random_gains(plan, seed, dtype), images_for(plan, seed, dtype=dtype)
    cut = sliced(full, kept)
    small = export.compact_network(cut, architecture(plan, kept, full.exit), living(cut, gains), {})
    with torch.no_grad():
        return full(x, masks_of(kept, dtype), living(full, gains)), cut(x, None, living(cut, gains)), small(x)


def assert_equal_functions(plan: Plan, kept: Kept, seed: int = 0, exit_: str | None = None) -> None:
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        masked, cut, small = thrice(plan, kept, seed, dtype, exit_)
        assert masked.abs().max() > 1e-3
        assert relative(masked, cut) <= tolerance
        assert relative(masked, small) <= tolerance


def assert_equal_in_training(plan: Plan, kept: Kept, seed: int) -> None:
    """Batch statistics: logits, gradients and the running averages that they leave behind."""
    full = lived_in(plan, seed)
    gains, x = random_gains(plan, seed), images_for(plan, seed, n=5)
    cut = sliced(full, kept)
    masked, found = full(x, masks_of(kept), living(full, gains)), cut(x, None, living(cut, gains))
    assert relative(masked, found) <= 1e-9
    direction = torch.linspace(-1, 1, masked.numel(), dtype=masked.dtype).view_as(masked)
    (masked * direction).sum().backward()
    (found * direction).sum().backward()
    scale = max(float(p.grad.abs().max()) for p in cut.live.values() if p.grad is not None)
    full.store()
    cut.store()
    for name, parameter in cut.live.items():
        if parameter.grad is not None:
            expected = cut.gather(name, {name: full.live[name].grad})
            assert float((expected - parameter.grad).abs().max()) <= 1e-8 * scale, name
    for layer in cut.statistics:
        for part in ("mean", "var"):
            name = f"{layer}/{part}"
            assert relative(cut.gather(name, full.nursery), cut.gather(name, cut.nursery)) <= 1e-9, name


@given(st.integers(0, 10**6), st.sampled_from(SHAPES))
@settings(max_examples=14, deadline=None)
def test_masked_sliced_and_compact_are_one_function(seed: int, shape: dict) -> None:
    plan = small_plan(**shape)
    assert_equal_functions(plan, random_kept(plan, seed), seed)


@given(st.integers(0, 10**6), st.sampled_from(SHAPES))
@settings(max_examples=10, deadline=None)
def test_masked_and_sliced_train_alike(seed: int, shape: dict) -> None:
    plan = small_plan(**shape)
    assert_equal_in_training(plan, random_kept(plan, seed), seed)


@given(st.integers(0, 10**6), st.sampled_from(["operation", "filter", "weight"]))
@settings(max_examples=6, deadline=None)
def test_each_granularity_alone_is_exact(seed: int, granularity: str) -> None:
    plan = small_plan(cells_=3, nodes=2)
    assert_equal_functions(plan, random_kept(plan, seed, [granularity]), seed)


@pytest.mark.parametrize("exit_", ["exit1", "exit2", "head"])
def test_every_exit_is_exact(exit_: str) -> None:
    plan = small_plan(cells_=4, reductions=(1, 2), cuts=(1, 3))
    kept = random_kept(plan, 11)
    assert_equal_functions(plan, kept, 11, exit_)
    assert len(architecture(plan, kept, "exit1").layers) < len(architecture(plan, kept, "head").layers)


def only(plan: Plan, wanted: Callable[[str], bool], kept: Kept | None = None) -> Kept:
    """All candidates whose label is wanted, the first of a node if none is."""
    kept = everything(plan) if kept is None else kept
    for choice in plan.choices:
        if choice.granularity == "operation":
            alive = torch.tensor([wanted(label) for label in choice.labels])
            alive[0] |= not alive.any()
            kept[choice.name] = alive
    return kept


CASES: dict[str, Callable[[Plan], Kept]] = {
    "only skips": lambda plan: only(plan, lambda label: "skip" in label),
    "only pools": lambda plan: only(plan, lambda label: "pool" in label),
    "skips and pools with other channels": lambda plan: only(
        plan, lambda label: "skip" in label or "pool" in label, random_kept(plan, 5, ["filter"], 0.5)
    ),
    "one candidate a node": lambda plan: only(plan, lambda label: label == "s1 sep_conv_3x3"),
    "one skip a node": lambda plan: only(plan, lambda label: label == "s1 skip_connect"),
    "a state that nobody reads": lambda plan: only(plan, lambda label: label.startswith("s0")),
    "nodes that nobody but the output reads": lambda plan: only(plan, lambda label: label[0] == "s"),
    "a chain of nodes": lambda plan: only(plan, lambda label: label.startswith("n0") or label == "s1 dil_conv_3x3"),
    "everything at its floor": lambda plan: random_kept(plan, 1, share=0.0),
    "weights at their floor": lambda plan: random_kept(plan, 2, ["weight"], 0.0),
    "everything": everything,
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shape", SHAPES[2:4], ids=["14 pixels", "8 pixels"])
def test_corner_cases_are_exact(case: str, shape: dict) -> None:
    plan = small_plan(**shape)
    kept = CASES[case](plan)
    assert_equal_functions(plan, kept)
    assert_equal_in_training(plan, kept, 0)


def test_a_skip_between_nodes_without_a_common_channel_gives_zero() -> None:
    """Node 1 reads node 0 by a skip alone; their channels are disjoint, so node 1 adds nothing, in all three forms."""
    plan = small_plan(nodes=2)
    kept = only(plan, lambda label: label == "n0 skip_connect")
    for cell in (0, 1):
        width = plan.groups[f"c{cell}_n0"]
        kept[f"c{cell}_n0"] = torch.arange(width) < width // 2
        kept[f"c{cell}_n1"] = torch.arange(width) >= width // 2
    assert_equal_functions(plan, kept)
    full = lived_in(plan).eval()
    cut = sliced(full, kept)
    seen: list[Tensor] = []
    small = export.compact_network(cut, architecture(plan, kept), living(cut, random_gains(plan, 0)), {})
    small.layers["c1_n1"].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    small(images_for(plan))
    assert seen[0].shape[1] == 1 and not seen[0].any()


def test_a_dead_channel_is_exactly_zero_also_behind_a_factorized_reduce() -> None:
    plan = small_plan(reductions=(0,), candidates=("skip_connect",))
    kept = everything(plan)
    kept["c0_n0"][1] = kept["c0_s0"][2] = False
    full = lived_in(plan).eval()
    seen: dict[str, Tensor] = {}
    run_layer = full._apply

    def watched(layer, inputs, factors, **options):  # type: ignore[no-untyped-def]
        seen[layer.name] = run_layer(layer, inputs, factors, **options)
        return seen[layer.name]

    full._apply = watched  # type: ignore[method-assign]
    full(images_for(plan), masks_of(kept), living(full, random_gains(plan, 0)))
    assert not seen["c0_n0"][:, 1].any() and seen["c0_n0"][:, 0].abs().max() > 0
    assert not seen["c0_s0"][:, 2].any() and seen["c0_s0"][:, 1].abs().max() > 0


def test_unnamed_masks_and_gains_are_one() -> None:
    plan = small_plan()
    net, x = lived_in(plan).eval(), images_for(plan)
    ones = {choice.name: torch.ones(choice.units).double() for choice in plan.choices if choice.granularity != "weight"}
    assert torch.equal(net(x), net(x, ones, ones))


# -- commit and regrow ------------------------------------------------------------------------------------------------


def moved(net: Supernet, by: float) -> None:
    with torch.no_grad():
        for parameter in net.live.values():
            parameter += by


def placed(net: Supernet, name: str) -> Tensor:
    """Where the living part of a full-size value is."""
    found = torch.zeros_like(net.nursery[name], dtype=torch.bool)
    net.scatter({name: torch.ones_like(net.live[name], dtype=torch.bool)}, {name: found})
    return found


def alive(net: Supernet, name: str) -> Tensor:
    """The same without the weights that are pruned in living rows."""
    choice = f"{name.split('/')[0]}_weights"
    return placed(net, name) & net.kept[choice] if choice in net.kept and name.endswith("weight") else placed(net, name)


@given(st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_what_regrows_has_the_values_it_was_pruned_with(seed: int) -> None:
    """Commit, move what lives, regrow, move, commit again: each value moved as often as it was alive, bit for bit."""
    plan = small_plan(nodes=2)
    net = lived_in(plan, seed)
    expected = {name: value.clone() for name, value in net.nursery.items()}
    for turn, kept in enumerate((random_kept(plan, seed, share=0.5), everything(plan), random_kept(plan, seed + 1))):
        net.commit(kept)
        for name in net.live:
            expected[name][alive(net, name)] += turn + 1
        moved(net, turn + 1)
    net.commit(everything(plan))
    assert all(torch.equal(expected[name], value) for name, value in net.nursery.items())


def test_pruning_and_regrowing_everything_gives_back_the_very_same_function() -> None:
    plan = small_plan(nodes=2)
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


def test_commit_makes_the_network_physically_smaller() -> None:
    plan = small_plan(nodes=2)
    net = lived_in(plan)
    before = sum(parameter.numel() for parameter in net.parameters())
    net.commit(random_kept(plan, 1, ["operation", "filter"], 0.3))
    assert sum(parameter.numel() for parameter in net.parameters()) < before / 2


def test_a_widened_network_shares_nothing_that_training_changes() -> None:
    plan = small_plan()
    net = lived_in(plan)
    net.commit(random_kept(plan, 1))
    before = {name: value.clone() for name, value in net.nursery.items()}
    wide = net.widened(everything(plan))
    wide(images_for(plan, n=8)).sum().backward()
    moved(wide, 1.0)
    net.store()
    assert all(torch.equal(before[name], value) for name, value in net.nursery.items())
    assert len(wide.live) > len(net.live)


# -- optimizers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_after_each_commit_the_optimizer_holds_the_live_parameters_with_their_momentum(seed: int) -> None:
    plan = small_plan(nodes=2)
    net = lived_in(plan, seed, torch.float32)
    x = images_for(plan, seed, n=6, dtype=torch.float32)
    optimizer = train.weights_optimizer(net, 0.01, 1e-3)
    for kept in (random_kept(plan, seed), random_kept(plan, seed, share=0.3), everything(plan)):
        net(x).square().mean().backward()
        optimizer.step()
        momenta = {name: optimizer.state[parameter]["momentum_buffer"] for name, parameter in net.live.items()}
        survivors = {name: placed(net, name) for name in net.live}
        full = {name: torch.zeros_like(net.nursery[name]) for name in momenta}
        net.scatter(momenta, full)
        net.keep_momentum(optimizer)
        net.commit(kept)
        optimizer = train.weights_optimizer(net, 0.01, 1e-3)
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        assert held == {id(parameter) for parameter in net.parameters()} and len(held) == len(net.live)
        for name, parameter in net.live.items():
            if name in survivors:
                still = net.gather(name, survivors)
                found = optimizer.state[parameter]["momentum_buffer"]
                assert torch.equal(found[still], net.gather(name, full)[still]), name


def test_one_step_moves_every_live_parameter() -> None:
    plan = small_plan(nodes=2)
    net = Supernet.born(plan, torch.Generator().manual_seed(0))
    net.commit(random_kept(plan, 0, ["operation"]))
    optimizer = train.weights_optimizer(net, 0.1, 0.0)
    before = {name: parameter.detach().clone() for name, parameter in net.live.items()}
    nn.functional.cross_entropy(net(images_for(plan, n=9, dtype=torch.float32)), torch.arange(9) % 3).backward()
    optimizer.step()
    still = [name for name, parameter in net.live.items() if torch.equal(before[name], parameter)]
    assert not still


# -- exits ------------------------------------------------------------------------------------------------------------


def test_layers_beyond_the_exit_neither_run_nor_change() -> None:
    plan = small_plan(cells_=3, cuts=(1,))
    net = lived_in(plan, dtype=torch.float32)
    net.enter("exit1")
    ran: list[str] = []
    run_layer = net._apply

    def watched(layer, inputs, factors, **options):  # type: ignore[no-untyped-def]
        ran.append(layer.name)
        return run_layer(layer, inputs, factors, **options)

    net._apply = watched  # type: ignore[method-assign]
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
    plan = small_plan(cells_=3, cuts=(1,))
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
