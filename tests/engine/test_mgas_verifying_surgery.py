"""Numbered checks 13 and 16 to 18 of the method: masked, sliced and exported networks are one function, always."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from small import (
    chain_plan,
    configuration,
    images_for,
    lived_in,
    lively,
    living,
    masks_of,
    placed,
    random_gains,
    random_kept,
    relative,
    sliced,
    small_plan,
    watched,
)
from torch import Tensor

from nasengine import compact, costs, export, train
from nasengine.architecture import Layer, Plan, lowered
from nasengine.compact import Network
from nasengine.device import generator
from nasengine.onnx_file import onnx_model
from nasengine.search import search
from nasengine.strategies import mgas
from nasengine.strategies.base import Moment
from nasengine.supernet import Kept, Supernet, architecture, everything, plain

EXACT, SINGLE = 1e-10, 1e-5
"""Largest difference relative to the largest output, in fp64 and fp32."""
STEEP = 1e-8
"""The same of gradients and statistics in fp64: a batch norm over equal numbers makes rounding 300 times larger."""

PLANS: dict[str, Callable[[], Plan]] = {
    "cells": small_plan,
    "cells, odd sides": lambda: small_plan(image_size=10, cells_=3, reductions=(0, 2)),
    "cells, two nodes in colour": lambda: small_plan(image_size=14, nodes=2, reductions=(0, 1), colours=3),
    "cells, no reduction": lambda: small_plan(cells_=3, reductions=(), channels=6),
    "chain": chain_plan,
    "chain, odd sides": lambda: chain_plan(layers=3, reductions=(0, 2), image_size=10, colours=3),
    "chain, squeeze-excite": lambda: chain_plan(layers=3, squeeze_excite=True, reductions=(1,)),
    "chain, attention": lambda: chain_plan(layers=3, kernels=(3,), attention=(1, 4), reductions=(1,), image_size=10),
}
DECISIONS: dict[str, Callable[[Plan, int], Kept]] = {
    "every level": random_kept,
    "half of everything": lambda plan, seed: random_kept(plan, seed, share=0.5),
    "floors": lambda plan, seed: random_kept(plan, seed, share=0.0),
    "one operation a node": lambda plan, seed: random_kept(plan, seed, ["operation"], 0.0),
    "operations": lambda plan, seed: random_kept(plan, seed, ["operation"]),
    "filters": lambda plan, seed: random_kept(plan, seed, ["filter"]),
    "weights": lambda plan, seed: random_kept(plan, seed, ["weight"]),
    "hardly a weight": lambda plan, seed: random_kept(plan, seed, ["weight"], 0.02),
}
plans, decisions, seeds = st.sampled_from(sorted(PLANS)), st.sampled_from(sorted(DECISIONS)), st.integers(0, 10**6)


def header(plan: Plan) -> dict[str, list[float]]:
    """What the file says beside the architecture: here that images are normalised already."""
    return {"mean": [0.0] * plan.groups["image"], "std": [1.0] * plan.groups["image"]}


class Forms:
    """One decision on one network in its three forms, each with parameters of its own.

    Attributes:
        full, cut, small: the full network for masks, the sliced one, the compact one.
        found: the architecture.
    """

    def __init__(
        self, plan: Plan, kept: Kept, seed: int, dtype: torch.dtype = torch.float64, exit_: str | None = None
    ) -> None:
        self.full = lived_in(plan, seed, dtype, exit_)
        self.masks, self.gains = masks_of(kept, dtype), random_gains(plan, seed, dtype)
        self.cut = sliced(self.full, kept)
        self.found = architecture(plan, kept, self.full.exit)
        self.small = export.compact_network(self.cut, self.found, living(self.cut, self.gains), header(plan))

    def masked(self, x: Tensor) -> Tensor:
        return self.full(x, self.masks, living(self.full, self.gains))

    def sliced(self, x: Tensor) -> Tensor:
        return self.cut(x, None, living(self.cut, self.gains))

    def train(self, mode: bool) -> Forms:
        for network in (self.full, self.cut, self.small):
            network.train(mode)
        return self


def onnx_logits(network: Network, x: Tensor) -> Tensor:
    model = onnx_model(network).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": x.numpy()})[0])


# -- 16: masked = sliced = exported -----------------------------------------------------------------------------------


def assert_one_function(plan: Plan, kept: Kept, seed: int = 0, exit_: str | None = None) -> None:
    for dtype, tolerance in ((torch.float64, EXACT), (torch.float32, SINGLE)):
        forms, x = Forms(plan, kept, seed, dtype, exit_).train(False), images_for(plan, seed, dtype=dtype)
        with torch.no_grad():
            expected = forms.masked(x)
            assert expected.abs().max() > 1e-3
            assert relative(expected, forms.sliced(x)) <= tolerance
            assert relative(expected, forms.small(x)) <= tolerance


def assert_trains_alike(plan: Plan, kept: Kept, seed: int = 0) -> None:
    """Batch statistics: logits, gradients and the running averages that they leave behind, in all three forms."""
    forms, x = Forms(plan, kept, seed).train(True), images_for(plan, seed, n=5)
    logits = [forms.masked(x), forms.sliced(x), forms.small(x)]
    direction = torch.linspace(-1, 1, logits[0].numel(), dtype=x.dtype).view_as(logits[0])
    for found in logits:
        assert relative(logits[0], found) <= EXACT
        (found * direction).sum().backward()
    full, cut, small = forms.full, forms.cut, dict(forms.small.named_parameters())
    full.store()
    cut.store()
    slopes = {name: p.grad for name, p in full.live.items() if p.grad is not None}
    scale = max(float(slope.abs().max()) for slope in slopes.values())
    for name, parameter in cut.live.items():
        if parameter.grad is not None:
            assert float((cut.gather(name, slopes) - parameter.grad).abs().max()) <= STEEP * scale, name
    for name, (rows, columns) in forms.found.sources.items():
        if plan.layer[name].prunable:
            alive = kept[plan.layer[name].weights][list(rows)][:, list(columns)]
            expected = slopes[f"{name}/weight"][list(rows)][:, list(columns)]
            found = small[f"layers.{name}.weight"].grad * alive
            assert float((expected - found).abs().max()) <= STEEP * scale, name
    state = forms.small.state_dict()
    for name, pair in cut.statistics.items():
        for value, part in zip(pair, ("mean", "var"), strict=True):
            expected = full.nursery[f"{name}/{part}"]
            assert relative(cut.gather(f"{name}/{part}", full.nursery), value) <= STEEP, name
            if name in forms.found.sources:
                rows = list(forms.found.sources[name][0])
                assert relative(expected[rows], state[f"layers.{name}.running_{part}"]) <= STEEP, name


@given(plans, decisions, seeds)
@settings(max_examples=20, deadline=None)
def test_16a_masked_sliced_and_exported_are_one_function(which: str, how: str, seed: int) -> None:
    plan = PLANS[which]()
    assert_one_function(plan, DECISIONS[how](plan, seed), seed)


@given(plans, decisions, seeds)
@settings(max_examples=20, deadline=None)
def test_16b_they_train_alike(which: str, how: str, seed: int) -> None:
    plan = PLANS[which]()
    assert_trains_alike(plan, DECISIONS[how](plan, seed), seed)


@pytest.mark.parametrize("exit_", ["exit1", "exit2", "head"])
@pytest.mark.parametrize(
    "plan",
    [
        small_plan(cells_=4, reductions=(1, 2), cuts=(1, 3)),
        chain_plan(squeeze_excite=True, reductions=(1, 2), cuts=(1, 3)),
    ],
    ids=["cells", "chain"],
)
def test_16c_at_every_exit(plan: Plan, exit_: str) -> None:
    kept = random_kept(plan, 11)
    assert_one_function(plan, kept, 11, exit_)
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


def idle(label: str) -> bool:
    return "skip" in label or "pool" in label


CORNERS: dict[str, Callable[[Plan], Kept]] = {
    "only skips": lambda plan: only(plan, lambda label: "skip" in label),
    "only pools": lambda plan: only(plan, lambda label: "pool" in label),
    "skips and pools with other channels": lambda plan: only(plan, idle, random_kept(plan, 5, ["filter"], 0.5)),
    "one candidate a node": lambda plan: only(plan, lambda label: label == "s1 sep_conv_3x3"),
    "one skip a node": lambda plan: only(plan, lambda label: label in ("s1 skip_connect", "skip")),
    "a state that nobody reads": lambda plan: only(plan, lambda label: label.startswith("s0")),
    "nodes that nobody but the output reads": lambda plan: only(plan, lambda label: label[0] == "s"),
    "a chain of nodes": lambda plan: only(plan, lambda label: label.startswith("n0") or label == "s1 dil_conv_3x3"),
    "everything": everything,
}


@pytest.mark.parametrize("case", CORNERS)
@pytest.mark.parametrize("which", ["cells, two nodes in colour", "chain, squeeze-excite"])
def test_16d_in_the_corners(case: str, which: str) -> None:
    plan = PLANS[which]()
    kept = CORNERS[case](plan)
    assert_one_function(plan, kept)
    assert_trains_alike(plan, kept)


CELLS = {"search.batch_size": 8, "data.limit": 150}
CHAIN = {
    **CELLS,
    "space": {
        "kind": "chain", "layers": 4, "channels": 4, "kernels": [3, 5], "expansions": [2], "squeeze_excite": True,
        "reductions": [1],
    },
    "strategy.cuts": [2],
}  # fmt: skip
SEARCHES: dict[str, dict[str, Any]] = {
    "cells": CELLS,
    "chain": CHAIN,
    "cells, published": {**CELLS, "strategy.recipe": "published", "search.epochs": 12, "strategy.cuts": [1]},
    "chain, published": {**CHAIN, "strategy.recipe": "published", "search.epochs": 16, "strategy.cuts": [1, 2]},
}


def three_forms(net: Supernet, gains: dict[str, Tensor], dtype: torch.dtype) -> tuple[Network, list[Tensor], Tensor]:
    """The compact network, and logits masked, sliced and compact on noise, of a network in the middle of a search."""
    net.store()
    plan = net.plan
    nursery = {name: value.to(dtype) for name, value in net.nursery.items()}
    full = Supernet(plan, nursery, everything(plan), net.exit).eval()
    cut = Supernet(plan, nursery, net.kept, net.exit).eval()
    own = {name: gain.detach().to(dtype) for name, gain in gains.items()}
    wide = {name: torch.ones(plan.choice[name].units, dtype=dtype) for name in own}
    for name, gain in own.items():
        wide[name][torch.tensor(net.units[name])] = gain
    small = export.compact_network(cut, architecture(plan, net.kept, net.exit), own, header(plan))
    x = images_for(plan, 1, n=8, dtype=dtype)
    with torch.no_grad():
        return small, [full(x, masks_of(net.kept, dtype), wide), cut(x, None, own), small(x)], x


@pytest.mark.parametrize("which", SEARCHES)
def test_16e_and_13a_at_every_commit_of_a_search(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masked = sliced = exported = its ONNX file; the optimizer holds what lives, once, with the momentum it had."""
    seen = watched(monkeypatch)
    before: dict[str, tuple[Tensor, Tensor]] = {}
    keep = Supernet.keep_momentum

    def kept_momentum(net: Supernet, optimizer: torch.optim.Optimizer) -> None:
        before.clear()
        for name, parameter in net.live.items():
            full = torch.zeros_like(net.nursery[name])
            net.scatter({name: optimizer.state[parameter]["momentum_buffer"]}, {name: full})
            there, choice = placed(net, name), f"{name.removesuffix('/weight')}_weights"
            before[name] = (full, there & net.kept[choice] if choice in net.kept else there)
        keep(net, optimizer)

    monkeypatch.setattr(Supernet, "keep_momentum", kept_momentum)
    reasons, cut = [], 0
    for event in search(configuration(SEARCHES[which]), tmp_path):
        if event.kind == "retrain_epoch":
            break
        if event.kind != "committed":
            continue
        net = seen.net
        reasons.append(event.reason)
        cut += sum(event.pruned.values())
        for dtype, tolerance in ((torch.float64, EXACT), (torch.float32, SINGLE)):
            small, (expected, *others), x = three_forms(net, seen.strategy.gains(net), dtype)
            assert all(relative(expected, found) <= tolerance for found in others), reasons
        assert relative(expected, onnx_logits(small, x)) <= export.ONNX_TOLERANCE
        assert export.nonzero(small) == event.size
        assert_held_once(net, seen.weights)
        assert_momentum(net, seen.weights, before)
    assert cut and reasons[-1] == "fit" and "stage_end" in reasons and "cadence" in reasons
    assert ("regrow" in reasons) == (which != "cells, published"), "the published one regrows from its second stage on"


# -- 13: the optimizer ------------------------------------------------------------------------------------------------


def assert_held_once(net: Supernet, optimizer: torch.optim.Optimizer) -> None:
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert len(held) == len(set(held)) and set(held) == {id(parameter) for parameter in net.parameters()}
    assert len(held) == len(net.live)


def assert_momentum(net: Supernet, optimizer: torch.optim.Optimizer, before: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Whatever lived before has its momentum, by its place in the full network; some of it is not zero."""
    moving = 0
    for name, parameter in net.live.items():
        if name in before:
            full, there = before[name]
            survived = net.gather(name, {name: there})
            expected = net.gather(name, {name: full})[survived]
            assert torch.equal(optimizer.state[parameter]["momentum_buffer"][survived], expected), name
            moving += int(expected.count_nonzero())
    assert moving


def strategy_of(plan: Plan, **changes: Any) -> mgas.MGAS:
    wanted = configuration({"strategy.cuts": [], **changes})
    target = int(0.4 * lowered(plan, {}).params)
    return mgas.strategy(plan, wanted, (target,), {})


@pytest.mark.parametrize("which", ["cells, odd sides", "chain, squeeze-excite"])
@given(seed=seeds)
@settings(max_examples=3, deadline=None)
def test_13b_after_each_change_one_step_moves_all_that_has_a_gradient(which: str, seed: int) -> None:
    plan, lr = PLANS[which](), 0.1
    net, strategy = Supernet.born(plan, generator("cpu", seed, "weights")), strategy_of(plan)
    (stage,) = strategy.stages(net)
    moment = Moment(stage=stage, epoch=0, step=0, steps=4)
    optimizer, scores = train.weights_optimizer(net, lr, 0.0), strategy.optimizer(moment)
    for turn, kept in enumerate((lively(plan, seed), lively(plan, seed + 1), everything(plan))):
        net.keep_momentum(optimizer)
        net.commit(kept)
        optimizer = train.weights_optimizer(net, lr, 0.0)
        assert_held_once(net, optimizer)
        before = {name: parameter.detach().clone() for name, parameter in net.live.items()}
        x = images_for(plan, seed + turn, n=12, dtype=torch.float32)
        train.search_step(net, strategy, moment, (x, torch.arange(12) % 3), None, optimizer, scores, "fp32")
        pushed = [
            name
            for name, p in net.live.items()
            if p.grad is not None and (p.grad.abs() * lr > 1e-6 * before[name].abs()).any()
        ]
        assert [name for name in pushed if torch.equal(before[name], net.live[name])] == []
        assert len(pushed) >= 0.75 * len(net.live)


# -- 17: the export ---------------------------------------------------------------------------------------------------


@given(plans, decisions, seeds)
@settings(max_examples=12, deadline=None)
def test_17a_the_onnx_file_answers_as_the_masked_network(which: str, how: str, seed: int) -> None:
    plan = PLANS[which]()
    forms, x = Forms(plan, DECISIONS[how](plan, seed), seed, torch.float32).train(False), images_for(plan, seed).float()
    with torch.no_grad():
        assert relative(forms.masked(x), onnx_logits(forms.small, x)) <= SINGLE


@given(plans, decisions, seeds)
@settings(max_examples=12, deadline=None)
def test_17b_nothing_but_weights_is_exported_and_as_many_as_were_counted(which: str, how: str, seed: int) -> None:
    plan = PLANS[which]()
    kept = DECISIONS[how](plan, seed)
    forms = Forms(plan, kept, seed)
    state = forms.small.state_dict()
    parts = {name.rsplit(".", 1)[1] for name in state}
    assert parts <= {"weight", "bias", "running_mean", "running_var", "num_batches_tracked", "factor"}
    layers = {name.split(".")[1] for name in state}
    gates = {layer.name for layer in plan.layers if layer.op == "gate"} | {choice.name for choice in plan.choices}
    assert not layers & gates
    sizes = [parameter.count_nonzero().item() for parameter in forms.small.parameters()]
    assert sum(sizes) == forms.found.params
    assert sum(parameter.numel() for parameter in forms.small.parameters()) == forms.found.params_dense
    soft = costs.size(plan, plan.program(plan.exits[-1], plain(plan, kept)), masks_of(kept), "params").item()
    assert soft >= forms.found.params


@pytest.mark.parametrize("which", PLANS)
def test_17c_what_is_read_back_is_the_very_same(which: str, tmp_path: Path) -> None:
    plan = PLANS[which]()
    forms, x = Forms(plan, random_kept(plan, 8), 8, torch.float32).train(False), images_for(plan, 8).float()
    (tmp_path / "architecture.json").write_text(json.dumps(forms.found.to_json()))
    save_file(forms.small.state_dict(), tmp_path / "model.safetensors")
    again = compact.load(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(x), forms.small(x))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in forms.small.state_dict().items())


# -- 18: widths and dead channels -------------------------------------------------------------------------------------


def outputs(net: Supernet, x: Tensor, masks: dict[str, Tensor], gains: dict[str, Tensor]) -> dict[str, Tensor]:
    """What every layer of a network gives."""
    seen: dict[str, Tensor] = {}
    apply = net._apply

    def watched_layer(layer: Layer, *arguments: Any, **options: Any) -> Tensor:
        seen[layer.name] = apply(layer, *arguments, **options)
        return seen[layer.name]

    net._apply = watched_layer  # type: ignore[method-assign]
    with torch.no_grad():
        net(x, masks, living(net, gains))
    net._apply = apply  # type: ignore[method-assign]
    return seen


@given(seeds)
@settings(max_examples=3, deadline=None)
def test_18a_nodes_of_a_cell_have_widths_of_their_own(seed: int) -> None:
    plan = small_plan(nodes=3, channels=6, candidates=("skip_connect", "sep_conv_3x3", "max_pool_3x3"))
    kept = everything(plan)
    stream = generator("cpu", seed)
    for cell, widths in ((0, (2, 6, 3)), (1, (12, 5, 3))):
        for node, width in enumerate(widths):
            name = f"c{cell}_n{node}"
            kept[name] = torch.zeros(plan.groups[name], dtype=torch.bool)
            kept[name][torch.randperm(plan.groups[name], generator=stream)[:width]] = True
    assert_one_function(plan, kept, seed)
    assert_trains_alike(plan, kept, seed)
    cut = Forms(plan, kept, seed).cut.eval()
    seen = outputs(cut, images_for(plan), {}, random_gains(plan, seed))
    assert [seen[f"c1_n{node}"].shape[1] for node in range(3)] == [12, 5, 3]
    assert seen["c1_out"].shape[1] == 20


@given(
    st.sampled_from(["cells, odd sides", "chain, squeeze-excite", "chain, attention"]), decisions, seeds, st.booleans()
)
@settings(max_examples=12, deadline=None)
def test_18b_a_dead_channel_is_exactly_zero_wherever_it_is_read(
    which: str, how: str, seed: int, training: bool
) -> None:
    """Behind every gate and sum, also of a factorised reduce; in the chain also behind squeeze-excite and attention."""
    plan = PLANS[which]()
    kept = DECISIONS[how](plan, seed)
    forms = Forms(plan, kept, seed).train(training)
    seen = outputs(forms.full, images_for(plan, seed), forms.masks, forms.gains)
    alive = kept | {
        group: (kept[first][:, None] & kept[second]).flatten() for group, (first, second) in plan.crossings.items()
    }
    for layer in plan.layers:
        group = layer.channels[0]
        if layer.op in ("gate", "mix", "excite", "attention") and group in alive:
            assert not seen[layer.name][:, ~alive[group]].any(), layer.name
            assert seen[layer.name][:, alive[group]].any() or layer.op != "gate", layer.name


def test_18c_a_dead_channel_behind_a_factorized_reduce_is_zero_and_a_living_one_is_not() -> None:
    plan = small_plan(reductions=(0,), candidates=("skip_connect",))
    kept = everything(plan)
    kept["c0_n0"][1] = kept["c0_s0"][2] = kept["c1_s0"][0] = False
    assert {layer.op for layer in plan.layers if layer.name in ("c0_n0_s0_skip_connect_conv", "c1_s0_conv")} == {
        "factorized_reduce"
    }
    seen = outputs(lived_in(plan).eval(), images_for(plan), masks_of(kept), random_gains(plan, 0))
    for name, dead in (("c0_n0", 1), ("c0_s0", 2), ("c1_s0", 0)):
        assert not seen[name][:, dead].any() and seen[name][:, 3].abs().max() > 0
    assert seen["c1_s0_conv"][:, 0].abs().max() > 0, "it is the gate that silences it"


def test_18d_a_skip_between_nodes_without_a_common_channel_gives_zero() -> None:
    """Node 1 reads node 0 by a skip alone; their channels are disjoint, so node 1 adds nothing, in all three forms."""
    plan = small_plan(nodes=2)
    kept = only(plan, lambda label: label == "n0 skip_connect")
    for cell in (0, 1):
        width = plan.groups[f"c{cell}_n0"]
        kept[f"c{cell}_n0"] = torch.arange(width) < width // 2
        kept[f"c{cell}_n1"] = torch.arange(width) >= width // 2
    assert_one_function(plan, kept)
    seen: list[Tensor] = []
    small = Forms(plan, kept, 0).train(False).small
    small.layers["c1_n1"].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    small(images_for(plan))
    assert seen[0].shape[1] == 1 and not seen[0].any()
