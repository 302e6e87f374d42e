"""Numbered checks 1, 3, 4 and 7 to 11 of MSG-DAS in a network; those of its sampler are in ``test_gumbel``."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import chain_plan, configuration, images_for, lived_in, masks_of, relative, sliced, small_plan
from test_supernet import watch_layers
from torch import Tensor

from nasengine import events, export, gumbel, parallel, supernet
from nasengine.architecture import Plan, lowered, smallest
from nasengine.device import generator
from nasengine.dropblock import dropblock
from nasengine.likeliest import likeliest
from nasengine.objectives import distillation
from nasengine.search import search
from nasengine.strategies import in_turn, msgdas
from nasengine.strategies.base import Batch, Draw, Moment, Stage, all_on
from nasengine.supernet import Kept, SubGraph, Supernet, architecture, everything, plain

PLANS: dict[str, Callable[[], Plan]] = {
    "cells": lambda: small_plan(channels=6, nodes=2),
    "chain": lambda: chain_plan(channels=6),
}
everywhere = pytest.mark.parametrize("which", PLANS)
QUIET: dict[str, Any] = {"keep_start": 1.0, "guidance": "off"}
"""Neither noise on skips nor a teacher."""


def strategy_of(plan: Plan, share: float = 0.6, *, limits: dict[str, int] | None = None, **changes: Any) -> Any:
    wanted = configuration({"strategy": {"kind": "msgdas", **changes}, "target.value": f"{100 * share}%"})
    return in_turn.msgdas(plan, wanted, (int(share * lowered(plan, {}).params),), limits or {})


def moment_of(stage: Stage, epoch: int | None = None, step: int = 0) -> Moment:
    """In the first epoch after the warm-up, unless told otherwise."""
    return Moment(stage=stage, epoch=stage.warmup_epochs if epoch is None else epoch, step=step, steps=4)


def batch_of(plan: Plan, seed: int = 0, n: int = 8) -> Batch:
    return images_for(plan, seed, n), torch.arange(n) % 3


def in_the_middle(plan: Plan, seed: int = 0, **options: Any) -> tuple[Supernet, msgdas.MSGDAS, Moment]:
    """In fp64, with scores anywhere; statistics of batch norms rest."""
    net, strategy = lived_in(plan, seed).eval(), strategy_of(plan, **options).double()
    with torch.no_grad():
        strategy.scores.copy_(torch.randn(strategy.scores.shape, generator=generator("cpu", seed, "middle")).double())
    (stage,) = strategy.stages(net)
    return net, strategy, moment_of(stage)


def kept_of(plan: Plan, draw: Draw) -> Kept:
    """The network of a sub-graph, as a decision."""
    kept = everything(plan)
    for choice in plan.choices:
        if choice.granularity == "operation":
            kept[choice.name] = torch.tensor(
                [(choice.name, unit) in draw.sub_graph.drawn for unit in range(choice.units)]
            )
    return kept


def slopes(net: Supernet, strategy: msgdas.MSGDAS, moment: Moment, batch: Batch) -> dict[str, Tensor]:
    """Gradients of everything after one step's passes, portion by portion."""
    net.zero_grad()
    strategy.zero_grad()
    draws = strategy.draw(net, moment)
    for losses, _ in strategy.portions(net, moment, batch, draws):
        torch.stack(list(losses.values())).sum().backward()
    found = {name: value.grad for name, value in net.live.items() if value.grad is not None}
    return {**found, "scores": strategy.scores.grad}


# -- 1 and 3: what is drawn -------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), which=st.sampled_from(sorted(PLANS)), k=st.integers(2, 4), step=st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_01_sub_graphs_have_one_operation_an_edge_and_none_in_common(seed: int, which: str, k: int, step: int) -> None:
    plan = PLANS[which]()
    net, strategy, moment = in_the_middle(plan, seed, sub_graphs=k)
    draws = strategy.draw(net, replace(moment, step=step))
    for name, edges in plan.edges.items():
        for edge in edges:
            own = [[unit for unit in edge if (name, unit) in draw.sub_graph.drawn] for draw in draws]
            assert all(len(units) == 1 for units in own)
            assert len({units[0] for units in own}) == k
    for draw in draws:
        masks = {(name, unit): x for name, mask in draw.masks.items() for unit, x in enumerate(mask.tolist())}
        assert {place for place, value in masks.items() if value == 1} == set(draw.sub_graph.drawn)
        assert all(value in (0, 1) for value in masks.values())


def test_01_as_many_sub_graphs_as_operations_share_out_all_of_them_and_more_are_an_error() -> None:
    plan = chain_plan(kernels=(3, 5), expansions=(2,), reductions=(0, 1, 2, 3), image_size=32)  # nowhere a skip
    net, strategy, moment = in_the_middle(plan, sub_graphs=2)
    drawn = [draw.sub_graph.drawn for draw in strategy.draw(net, moment)]
    assert set().union(*drawn) == {(name, unit) for name in plan.edges for unit in range(2)}
    assert not set(drawn[0]) & set(drawn[1])
    net, strategy, moment = in_the_middle(plan, sub_graphs=3)
    with pytest.raises(ValueError, match="3 distinct candidates of an edge that has 2"):
        strategy.draw(net, moment)


@everywhere
def test_01_what_was_pruned_is_never_drawn(which: str) -> None:
    plan = PLANS[which]()
    net, strategy, moment = in_the_middle(plan)
    kept = everything(plan)
    for name, edges in plan.edges.items():
        for edge in edges:
            kept[name][edge[1]] = False
    net.commit(kept)
    for step in range(40):
        for draw in strategy.draw(net, replace(moment, step=step)):
            assert all(bool(kept[name][unit]) for name, unit in draw.sub_graph.drawn)
    strategy.after_backward(net, moment, strategy.draw(net, moment))
    counted = strategy.lottery(net, moment)
    assert all(int(counted.often[name][edge[1]]) == 0 for name, edges in plan.edges.items() for edge in edges)
    assert all(float(counted.shares[name].sum()) == pytest.approx(len(edges)) for name, edges in plan.edges.items())


@pytest.mark.parametrize("warming", [False, True])
def test_01_a_sub_graph_of_skips_alone_teaches_what_no_skip_can_replace(warming: bool) -> None:
    plan = chain_plan(layers=5, reductions=())
    net, strategy, moment = in_the_middle(plan)
    skips = {layer.owner for layer in plan.layers if layer.name in plan.skips}
    assert len(skips) == 4
    moment = replace(moment, epoch=0 if warming else moment.epoch)
    alone = next(
        draw
        for step in range(10**4)
        for draw in strategy.draw(net, replace(moment, step=step))
        if skips <= set(draw.sub_graph.drawn)
    )
    losses, _ = strategy.losses(net, moment, batch_of(plan), [alone])
    torch.stack(list(losses.values())).sum().backward()
    assert net.live["head/weight"].grad.abs().sum() > 0


def test_03_temperature_changes_slopes_and_nothing_else() -> None:
    plan, found = PLANS["cells"](), []
    for temperature in (10.0, 0.1):
        net, strategy, moment = in_the_middle(plan, temperature_start=temperature, temperature_end=temperature)
        draws = strategy.draw(net, moment)
        losses, logits = strategy.losses(net, moment, batch_of(plan), draws)
        losses["task"].backward()
        found.append(([draw.sub_graph.drawn for draw in draws], logits, strategy.scores.grad))
    (drawn, logits, slope), (others, same, other) = found
    assert drawn == others and torch.equal(logits, same)
    assert relative(slope, other) > 0.1


def test_the_soft_part_cools_and_skips_settle_as_the_search_goes_on() -> None:
    net, strategy, moment = in_the_middle(PLANS["cells"]())
    stage = moment.stage
    found = []
    for epoch in (0, stage.warmup_epochs, stage.epochs - 1):
        (draw, _) = strategy.draw(net, moment_of(stage, epoch, step=3))
        found.append((strategy._temperature(moment_of(stage, epoch)), draw.sub_graph.keep))
    assert found[0] == (5.0, 0.8) and found[0][0] >= found[1][0] > found[2][0] > 0.1
    assert found[0][1] <= found[1][1] < found[2][1] < 1


# -- 4: hard forward --------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), which=st.sampled_from(sorted(PLANS)), form=st.sampled_from(["renorm", "full"]))
@settings(max_examples=8, deadline=None)
def test_04_a_sub_graph_is_its_own_network_bit_for_bit_and_as_exported(seed: int, which: str, form: str) -> None:
    plan = PLANS[which]()
    net, strategy, moment = in_the_middle(plan, seed, soft=form)
    x = images_for(plan, seed)
    for draw in strategy.draw(net, moment):
        kept = kept_of(plan, draw)
        alone = sliced(net, kept).eval()
        through = net(x, draw.masks, draw.gains, sub_graph=draw.sub_graph)
        assert torch.equal(through, alone(x))
        assert relative(net(x, masks_of(kept)), through) < 1e-12, "the full space under masks"
        found = architecture(plan, kept)
        header = {"classes": ["a", "b", "c"], "mean": [0.0], "std": [1.0]}
        compact = export.compact_network(alone, found, {}, header).double().eval()
        assert relative(through, compact(x)) < 1e-9


@everywhere
def test_04_what_is_not_drawn_is_not_computed_and_gets_no_slope(which: str) -> None:
    plan = PLANS[which]()
    net, strategy, moment = in_the_middle(plan)
    net.train()
    strategy.start.fill_(1e9)  # so that the size does not count
    ran = watch_layers(net)
    found = slopes(net, strategy, moment, batch_of(plan))
    drawn = set().union(*(draw.sub_graph.drawn for draw in strategy.draw(net, moment)))
    for layer in plan.layers:
        if layer.owner is None:
            continue
        assert (layer.name in ran) == (layer.owner in drawn), layer.name
        if layer.owner not in drawn:
            assert not any(name.split("/")[0] == layer.name for name in found)
    places = strategy.scores.grad.split([choice.units for choice in strategy.choices])
    felt = {c.name: part for c, part in zip(strategy.choices, places, strict=True)}
    assert all(abs(float(felt[name][unit])) > 1e-9 for name, unit in drawn)
    assert all(
        abs(float(felt[name][unit])) < 1e-12
        for name, edges in plan.edges.items()
        for edge in edges
        for unit in edge
        if (name, unit) not in drawn
    ), "of `renorm`"


def test_04_noise_and_teacher_leave_a_network_in_evaluation_alone() -> None:
    plan = PLANS["cells"]()
    net, strategy, moment = in_the_middle(plan, keep_start=0.5, keep_end=0.5)
    (draw, _), x = strategy.draw(net, moment), images_for(plan)
    quiet = replace(draw.sub_graph, keep=1.0)
    assert torch.equal(net(x, draw.masks, sub_graph=draw.sub_graph), net(x, draw.masks, sub_graph=quiet))
    net.train()
    assert not torch.equal(net(x, draw.masks, sub_graph=draw.sub_graph), net(x, draw.masks, sub_graph=quiet))


# -- 7: memory and modes ----------------------------------------------------------------------------------------------


@given(
    which=st.sampled_from(sorted(PLANS)), form=st.sampled_from(["renorm", "sequential", "full"]),
    guidance=st.sampled_from(["mean", "supernet", "off"]), training=st.booleans(),
)  # fmt: skip
@settings(max_examples=10, deadline=None)
def test_07_one_after_the_other_has_the_slopes_of_all_at_once(
    which: str, form: str, guidance: str, training: bool
) -> None:
    plan, found, statistics = PLANS[which](), [], []
    for memory in ("joint", "sequential"):
        net, strategy, moment = in_the_middle(
            plan, sub_graphs=3, soft=form, guidance=guidance, memory=memory, share=0.5
        )
        strategy.start.fill_(100.0)  # so that the size is too large, and counts
        found.append(slopes(net.train(training), strategy, moment, batch_of(plan)))
        statistics.append(torch.cat([torch.cat(pair) for pair in net.statistics.values()]))
    joint, sequential = found
    assert joint.keys() == sequential.keys()
    assert all(relative(joint[name], sequential[name]) < 1e-9 for name in joint if bool(joint[name].any()))
    assert torch.equal(*statistics)


def held_for_backward(k: int, memory: str, plan: Plan) -> int:
    """Bytes that are held at once for the backward passes of a step, at most, beside parameters."""
    net, strategy, moment = in_the_middle(plan, sub_graphs=k, memory=memory, **QUIET, soft="full")
    net.train()
    parameters = {p.untyped_storage().data_ptr() for p in (*net.live.values(), *strategy.parameters())}
    batch, draws, most = batch_of(plan), strategy.draw(net, moment), 0
    held: dict[int, tuple[int, int]] = {}

    class Held:
        """A saved tensor that counts itself as long as it is held."""

        def __init__(self, value: Tensor) -> None:
            nonlocal most
            self.value, self.place = value, value.untyped_storage().data_ptr()
            if self.place not in parameters:
                held[self.place] = (value.untyped_storage().nbytes(), held.get(self.place, (0, 0))[1] + 1)
            most = max(most, sum(size for size, _ in held.values()))

        def __del__(self) -> None:
            size, count = held.get(self.place, (0, 0))
            if count > 1:
                held[self.place] = (size, count - 1)
            else:
                held.pop(self.place, None)

    with torch.autograd.graph.saved_tensors_hooks(Held, lambda saved: saved.value):
        portions = strategy.portions(net, moment, batch, draws)
        while (portion := next(portions, None)) is not None:
            torch.stack(list(portion[0].values())).sum().backward()
            del portion
    return most


@everywhere
def test_07_memory_grows_with_the_sub_graphs_all_at_once_and_not_one_after_the_other(which: str) -> None:
    plan = PLANS[which]()
    one = held_for_backward(1, "joint", plan)
    for k in (2, 4):
        assert held_for_backward(k, "joint", plan) == pytest.approx(k * one, rel=0.25)
        assert held_for_backward(k, "sequential", plan) < 1.3 * one


@pytest.mark.parametrize("guidance", ["mean", "supernet"])
@pytest.mark.parametrize("memory", ["joint", "sequential"])
def test_07_the_teacher_leaves_no_graph_no_slope_and_no_statistics(guidance: str, memory: str) -> None:
    plan = PLANS["cells"]()
    net, strategy, moment = in_the_middle(plan, guidance=guidance, memory=memory)
    net.train()
    before = {name: [part.clone() for part in pair] for name, pair in net.statistics.items()}
    draws = strategy.draw(net, moment)
    answers = [] if memory == "sequential" else [msgdas._answer(net.eval(), batch_of(plan)[0], draw) for draw in draws]
    net.train()
    teacher = strategy._teacher(net, moment, batch_of(plan)[0], draws, answers)
    assert not teacher.requires_grad and teacher.grad_fn is None
    assert all(value.grad is None for value in (*net.live.values(), strategy.scores))
    assert all(torch.equal(a, b) for name in before for a, b in zip(before[name], net.statistics[name], strict=True))
    assert net.tracks


# -- 8: Dropblock-Identity --------------------------------------------------------------------------------------------


@given(
    keep=st.floats(0.5, 0.95), side=st.sampled_from([(16, 16), (9, 13), (7, 7)]), block=st.sampled_from([1, 2, 3, 7]),
    seed=st.integers(0, 999),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_08_about_so_much_is_zeroed_in_squares_and_the_mean_stays(
    keep: float, side: tuple[int, int], block: int, seed: int
) -> None:
    x = 1 + torch.rand(64, 16, *side, generator=generator("cpu", seed, "x"))
    y = dropblock(x, keep, generator("cpu", seed, "noise"), block)
    zero = y == 0
    share, chance = float(zero.double().mean()), 5 * math.sqrt((1 - keep) * block**2 / x.numel())
    least = 0.85 * (1 - math.exp(keep - 1))
    assert least - chance <= share <= (1 - keep) + chance, "squares may cover one another"
    assert float(y.mean()) == pytest.approx(float(x.mean()), rel=0.02)
    b = min(block, *side)
    whole = torch.nn.functional.avg_pool2d(zero.double(), b, stride=1) == 1  # squares that are zero all over
    spread = torch.nn.functional.max_pool2d(torch.nn.functional.pad(whole.double(), [b - 1] * 4), b, stride=1)
    assert torch.equal(spread.bool(), zero), "every zero stands in such a square"
    scale = y[~zero] / x[~zero]
    assert float(scale.min()) == pytest.approx(float(scale.max()), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_08_in_half_precision_squares_and_scale_are_those_of_single(dtype: torch.dtype) -> None:
    """More values than half precision can count."""
    x = torch.ones(32, 16, 16, 16)
    for seed, keep in enumerate(torch.linspace(0.55, 0.95, 12).tolist()):
        exact = dropblock(x, keep, generator("cpu", seed))
        assert torch.equal(dropblock(x.to(dtype), keep, generator("cpu", seed)), exact.to(dtype))


def test_08_with_all_kept_it_is_the_very_same() -> None:
    x = images_for(PLANS["cells"]())
    assert dropblock(x, 1.0, generator("cpu", 0)) is x


@given(st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=15, deadline=None)
def test_08_small_and_odd_maps_are_dropped_whole_or_not(height: int, width: int) -> None:
    y = dropblock(torch.ones(200, 4, height, width), 0.5, generator("cpu", height, width))
    assert y.shape == (200, 4, height, width) and bool(y.isfinite().all())
    assert bool((y == 0).any()) and float(y.mean()) == pytest.approx(1, abs=0.15)


@everywhere
def test_08_only_skips_are_disturbed_and_only_in_training(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of cells that halve the image, too."""
    plan, seen = PLANS[which](), []

    def disturbed(x: Tensor, graph: SubGraph, name: str) -> Tensor:
        seen.append(name)
        return x

    monkeypatch.setattr(supernet, "_disturbed", disturbed)
    everybody = SubGraph(drawn={(name, unit) for name in plan.edges for unit in range(plan.choice[name].units)})
    net = lived_in(plan)
    net.train()(images_for(plan), sub_graph=everybody)
    net.eval()(images_for(plan), sub_graph=everybody)
    owners = [plan.layer[name].owner for name in seen]
    labelled = [(c.name, unit) for c in plan.choices for unit, label in enumerate(c.labels) if "skip" in label]
    assert owners == labelled and len(labelled) >= 2


def test_08_what_is_exported_has_plain_skips() -> None:
    """A learned factor, or the two layers of a skip that halves the image."""
    plan = PLANS["cells"]()
    kept = everything(plan)
    for name, edges in plan.edges.items():
        skips = {layer.owner[1] for layer in plan.layers if layer.name in plan.skips and layer.owner[0] == name}
        kept[name] = torch.tensor([unit in skips for unit in range(plan.choice[name].units)])
        assert len(edges) == len(skips)
    ops = {layer["op"] for layer in lowered(plan, plain(plan, kept)).layers}
    assert ops == {
        "image", "conv", "factorized_reduce", "batch_norm", "relu", "scale", "sum", "concat", "mean", "linear",
    }  # fmt: skip


# -- 9: guidance ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", ["mean", "supernet"])
def test_09_a_weight_of_zero_is_the_plain_run_bit_for_bit(guidance: str) -> None:
    plan, found = PLANS["cells"](), []
    for changes in ({"guidance": "off"}, {"guidance": guidance, "guidance_weight": 0.0}):
        net, strategy, moment = in_the_middle(plan, **changes)
        found.append(slopes(net.train(), strategy, moment, batch_of(plan)))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("guidance", ["mean", "supernet"])
def test_09_there_is_guidance_after_the_warm_up_alone_and_it_is_a_divergence(guidance: str) -> None:
    plan = PLANS["cells"]()
    net, strategy, moment = in_the_middle(plan, guidance=guidance)
    for at, there in ((moment_of(moment.stage, 0), False), (moment, True)):
        with torch.no_grad():
            losses, logits = strategy.losses(net, at, batch_of(plan), strategy.draw(net, at))
        assert ("guidance" in losses) == there
    assert float(losses["guidance"]) > 0
    if guidance == "mean":
        mean = logits.detach().mean(0)
        each = [float(distillation(answer, mean, msgdas.GUIDANCE_TEMPERATURE)) for answer in logits]
        assert float(losses["guidance"]) == pytest.approx(sum(each) / len(each))
    own = logits.detach()
    assert float(distillation(own[0], own[0], 4.0)) == pytest.approx(0, abs=1e-12)


# -- 10: skips that lead early ----------------------------------------------------------------------------------------


def skips_chosen(keep: float) -> Tensor:
    """[20 seeds] skips among eight edges of a rigged race, which convolutions would win if they had the time to learn.

    A calculation: neither `dropblock` nor the strategy takes part.
    A skip is worth 0.5 from the first step, a convolution that was drawn n times 1 - exp(-n / 150). Of a disturbed skip
    the fourth power of what is kept counts, as if four stood in a row; the noise settles as in a search.
    """
    seeds, edges, m, steps = 20, 8, 5, 400
    scores, seen = torch.zeros(seeds, edges, m).double(), torch.zeros(seeds, edges, m).double()
    stream = generator("cpu", 0, "rigged")
    for step in range(steps):
        drawn = gumbel.drawn(torch.log_softmax(scores, -1) + gumbel.noise((seeds, edges, m), stream), 2)
        worth = 1 - torch.exp(-seen / 150)
        worth[..., 0] = 0.5 * msgdas._between(keep, 1.0, step / steps) ** 4
        seen.scatter_add_(2, drawn, torch.ones_like(drawn).double())
        reward = worth.gather(2, drawn)
        credit = (reward - reward.mean(-1, keepdim=True))[..., None]
        slope = credit * (gumbel.one_hot(drawn, m).double() - torch.softmax(scores, -1)[..., None, :])
        scores = scores + slope.mean(-2)
    return (scores.argmax(-1) == 0).sum(-1)


def test_10_by_calculation_noise_on_skips_leaves_fewer_of_those_that_lead_only_early() -> None:
    """Medians of 20 seeds: without noise, with the default's, with more."""
    found = [int(skips_chosen(keep).median()) for keep in (1.0, 0.8, 0.6)]
    assert found[0] == 8 and found[0] > found[1] > found[2]


# -- 11: size ---------------------------------------------------------------------------------------------------------


def brute_force(worth: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
    """[M**E] worth and cost of every choice of one candidate an edge."""
    rows = torch.arange(len(worth))
    every = torch.tensor(list(itertools.product(range(worth.shape[1]), repeat=len(worth))))
    return worth[rows, every].sum(-1), costs[rows, every].sum(-1)


@given(seed=st.integers(0, 10**6), edges=st.integers(1, 5), m=st.integers(1, 4), share=st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_11_the_likeliest_within_a_budget_is_that_of_brute_force(seed: int, edges: int, m: int, share: float) -> None:
    stream = generator("cpu", seed, "brute force")
    worth = torch.log_softmax(torch.randn(edges, m, generator=stream).double(), -1)
    costs = torch.randint(0, 12, (edges, m), generator=stream).double()
    budget = float(costs.amin(-1).sum()) * (1 - share) + float(costs.amax(-1).sum()) * share - 1
    values, total = brute_force(worth, costs)
    fits = total <= budget
    found = likeliest(worth, costs, budget)
    assert (found is None) == (not bool(fits.any()))
    if found is not None:
        assert float(costs.gather(1, found[:, None]).sum()) <= budget
        assert float(worth.gather(1, found[:, None]).sum()) == pytest.approx(float(values[fits].max()), abs=1e-9)


@given(seed=st.integers(0, 10**6), edges=st.integers(1, 6), m=st.integers(1, 4), whole=st.booleans())
@settings(max_examples=150, deadline=None)
def test_11_large_costs_and_a_budget_that_one_choice_just_meets_change_nothing(
    seed: int, edges: int, m: int, whole: bool
) -> None:
    """Costs about 1e8, whole numbers or not; the budget is added up in another order than the sums."""
    stream = generator("cpu", seed, "large costs")
    worth = torch.log_softmax(torch.randn(edges, m, generator=stream).double(), -1)
    costs = 1e8 * torch.rand(edges, m, generator=stream, dtype=torch.double)
    costs = costs.round() if whole else costs
    met = torch.randint(0, m, (edges, 1), generator=stream)
    for budget in (float(costs.gather(1, met).flip(0).cumsum(0)[-1]), float(costs.amin(-1).flip(0).cumsum(0)[-1])):
        values, total = brute_force(worth, costs)
        best = float(values[total <= budget + 1e-3].max())
        found = likeliest(worth, costs, budget)
        assert found is not None and float(costs.gather(1, found[:, None]).sum()) <= budget + 1e-3
        assert float(worth.gather(1, found[:, None]).sum()) == pytest.approx(best, abs=1e-9)
        if whole:
            assert float(costs.gather(1, found[:, None]).sum()) <= budget, "not one too many"


@pytest.mark.timeout(10)
@pytest.mark.parametrize("sharpness", [1e-6, 0.1, 3.0])
def test_11_in_a_large_space_it_takes_a_moment(sharpness: float) -> None:
    """And comes as near to what no choice can exceed, by Lagrange, as one edge can part them."""
    stream = generator("cpu", 1, "large")
    costs = torch.randint(0, 5000, (196, 7), generator=stream).double()
    worth = torch.log_softmax(sharpness * torch.randn(196, 7, generator=stream).double(), -1)
    budget = 0.6 * float(costs.amin(-1).sum()) + 0.4 * float(costs.gather(1, worth.argmax(-1)[:, None]).sum())
    found = likeliest(worth, costs, budget)
    assert float(costs.gather(1, found[:, None]).sum()) <= budget
    prices = sharpness * torch.logspace(-8, 0, 4000).double()
    most = torch.stack([(worth - price * costs).amax(-1).sum() + price * budget for price in prices]).min()
    short = float(most - worth.gather(1, found[:, None]).sum())
    one_edge = float((worth.amax(-1) - worth.amin(-1)).max())
    assert -1e-9 <= short <= 0.02 * one_edge


@given(
    seed=st.integers(0, 10**6), which=st.sampled_from(sorted(PLANS)), share=st.floats(0, 1),
    metric=st.sampled_from(["params", "macs"]),
)  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_11_a_decision_is_never_above_any_bound_and_leaves_no_room_for_another_operation(
    seed: int, which: str, share: float, metric: str
) -> None:
    plan = PLANS[which]()
    other = {"params": "macs", "macs": "params"}[metric]
    sizes = {name: (smallest(plan, ("operation",), name), lowered(plan, {}).size(name)) for name in (metric, other)}
    bounds = {name: int(least + share * (full - least)) for name, (least, full) in sizes.items()}
    net, strategy, _ = in_the_middle(plan, seed)
    strategy.bounds = bounds
    (stage,) = strategy.stages(net)
    (decision,) = strategy.decide(net, moment_of(stage), "end", ())
    found = architecture(plan, decision.kept)
    assert all(found.size(name) <= bound for name, bound in bounds.items())
    assert all(bool(decision.kept[c.name].all()) for c in plan.choices if c.granularity != "operation")
    if max(found.size(name) / bound for name, bound in bounds.items()) >= 0.97:
        return
    for name in plan.edges:
        for unit in (~decision.kept[name]).nonzero().flatten().tolist():
            more = decision.kept[name].clone()
            more[unit] = True
            grown = architecture(plan, {**decision.kept, name: more})
            assert any(grown.size(name) > bound for name, bound in bounds.items())


@everywhere
def test_11_where_one_operation_an_edge_comes_to_the_bound_it_is_the_likeliest_such_network(which: str) -> None:
    plan = PLANS[which]()
    net, strategy, _ = in_the_middle(plan, 3)
    edges = msgdas._Edges.of(net)
    shares = torch.softmax(edges.spread(strategy._living(net)), -1)
    fixed, each = msgdas._prices(net, "params")
    best = edges.joined(torch.nn.functional.one_hot(shares.argmax(-1), shares.shape[1]).double())
    strategy.bounds = {"params": round(fixed + float((best * each).sum())) + 5}
    (stage,) = strategy.stages(net)
    (decision,) = strategy.decide(net, moment_of(stage), "end", ())
    for name, own in plan.edges.items():
        scores = decision.scores[name]
        for edge in own:
            alive = [unit for unit in edge if decision.kept[name][unit]]
            assert alive == [max(edge, key=lambda unit: float(scores[unit]))]


@pytest.mark.parametrize("seed", range(4))
def test_11_a_decision_between_two_networks_is_the_likeliest_that_fits(seed: int) -> None:
    """The bound is the size of a network with one operation an edge, by brute force over all of them."""
    plan = chain_plan(layers=2, channels=6, reductions=(1,))
    net, strategy, _ = in_the_middle(plan, seed)
    scores, found = strategy._whole(net, strategy._living(net).detach()), []
    edges = [(name, edge) for name, own in plan.edges.items() for edge in own]
    for units in itertools.product(*(edge for _, edge in edges)):
        kept = everything(plan)
        for name in plan.edges:
            kept[name] = torch.zeros_like(kept[name])
        for (name, _), unit in zip(edges, units, strict=True):
            kept[name][unit] = True
        worth = sum(
            float(torch.log_softmax(scores[name][edge], -1)[edge.index(unit)])
            for (name, edge), unit in zip(edges, units, strict=True)
        )
        found.append((architecture(plan, kept).params, worth, units))
    sizes = sorted({size for size, _, _ in found})
    likeliest_of_all = max(found, key=lambda one: one[1])[0]
    binding = [size for size in sizes if size < likeliest_of_all] or sizes
    compared = 0
    for bound in binding[len(binding) // 2 :]:
        best = max((one for one in found if one[0] <= bound), key=lambda one: one[1])
        if best[0] < 0.97 * (bound + 1):
            continue  # then others get the room
        strategy.bounds = {"params": bound + 1}
        (stage,) = strategy.stages(net)
        (decision,) = strategy.decide(net, moment_of(stage), "end", ())
        chosen = [unit for name, edge in edges for unit in edge if decision.kept[name][unit]]
        assert chosen == list(best[2])
        compared += 1
    assert compared


@everywhere
def test_11_the_size_in_the_loss_is_the_mean_size_of_what_is_drawn_first(which: str) -> None:
    plan, sizes = PLANS[which](), []
    net, strategy, moment = in_the_middle(plan, 5, sub_graphs=1, soft="full", guidance="off")
    for step in range(500):
        (draw,) = strategy.draw(net, replace(moment, step=step))
        sizes.append(float(net.count("params")({**all_on(net), "operation": draw.flat["operation"]})))
    found = torch.tensor(sizes)
    assert abs(float(found.mean()) - float(draw.size.detach())) <= 4 * float(found.std()) / len(found) ** 0.5


# -- what follows it --------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), which=st.sampled_from(sorted(PLANS)), metric=st.sampled_from(["params", "macs"]))
@settings(max_examples=15, deadline=None)
def test_what_it_hands_on_can_be_narrowed_to_any_target_that_is_not_refused(seed: int, which: str, metric: str) -> None:
    plan = PLANS[which]()
    target = smallest(plan, ("operation", "filter", "weight"), metric)
    wanted = configuration({"strategy": {"kind": "msgdas", "then": "mgas"}, "target.metric": metric})
    both = in_turn.msgdas(plan, wanted, (target,), {})
    net = lived_in(plan, seed)
    stages = both.stages(net)
    assert [stage.index for stage in stages] == [0, 1] and [stage.fits for stage in stages] == [False, True]
    first = both.turns[0]
    with torch.no_grad():
        first.scores.copy_(torch.randn(first.scores.shape, generator=generator("cpu", seed, "scores")))
    (decision,) = both.decide(net, moment_of(stages[0]), "end", ())
    net.commit(decision.kept)
    both.double()
    (last,) = both.decide(net, moment_of(stages[1]), "end", ())
    assert architecture(plan, last.kept).size(metric) <= target
    for name in plan.edges:
        assert torch.equal(last.kept[name], decision.kept[name]), "operations are settled"


@everywhere
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_widths_follow_the_weights_if_nothing_was_learned_of_filters(which: str, share: float) -> None:
    """Ended in the first half: of each width those filters stay that the largest weights make, and the size holds."""
    plan = PLANS[which]()
    target = int(share * lowered(plan, {}).params)
    wanted = configuration({"strategy": {"kind": "msgdas", "then": "mgas"}})
    both, nursery = in_turn.msgdas(plan, wanted, (target,), {}), dict(lived_in(plan).nursery)
    orders = {
        choice.name: torch.randperm(choice.units, generator=generator("cpu", number, "order"))
        for number, choice in enumerate(plan.choices)
        if choice.granularity == "filter"
    }
    for layer in plan.layers:
        if layer.op in ("conv", "factorized_reduce") and not layer.depthwise and layer.channels[0] in orders:
            weight = nursery[f"{layer.name}/weight"].detach()
            rows = torch.nn.functional.normalize(weight.flatten(1)) * (1 + orders[layer.channels[0]])[:, None]
            nursery[f"{layer.name}/weight"] = rows.view_as(weight)
    net = Supernet(plan, nursery, everything(plan))
    stages = both.stages(net)
    (decision,) = both.decide(net, moment_of(stages[0]), "end", ())
    net.commit(decision.kept)
    both.double()
    (last,) = both.decide(net, moment_of(stages[1]), "end", ())
    assert 0.97 * target <= architecture(plan, last.kept).params <= target
    narrowed = 0
    for name, order in orders.items():
        kept = last.kept[name]
        if name in net.running and not kept.all():
            assert order[kept].min() > order[~kept].max(), name
            narrowed += 1
    assert narrowed

    seen = both.turns[1].scores("filter").clone()
    (again,) = both.decide(net, moment_of(stages[1]), "end", ())
    assert torch.equal(both.turns[1].scores("filter"), seen), "what is known is not judged anew"
    assert all(torch.equal(again.kept[name], last.kept[name]) for name in last.kept)


def test_the_first_trains_with_the_factors_that_the_second_will_learn() -> None:
    plan = PLANS["cells"]()
    both = strategy_of(plan, then="mgas").double()
    net = lived_in(plan)
    stages = both.stages(net)
    (draw, _), (whole,) = both.draw(net, moment_of(stages[0])), both.draw(net, moment_of(stages[1]))
    assert draw.gains.keys() == whole.gains.keys() and draw.gains
    assert all(torch.equal(draw.gains[name], whole.gains[name]) for name in draw.gains)
    assert not any(gain.requires_grad for gain in draw.gains.values())
    assert all(gain.requires_grad for gain in whole.gains.values())


def test_thresholds_are_told_once_they_are_learned_and_of_levels_that_have_them() -> None:
    plan = PLANS["cells"]()
    both, net = strategy_of(plan, then="mgas").double(), lived_in(plan)
    assert both.limits() == {}
    for stage, told in zip(both.stages(net), (set(), {"filter", "weight"}), strict=True):
        at, (images, labels) = moment_of(stage, 0), batch_of(plan)
        draws = both.draw(net, at)
        losses, _ = both.losses(net, at, (images, labels), draws)
        losses["task"].backward()
        both.after_backward(net, at, draws)
        assert set(both.limits()) == told
        again = strategy_of(plan, then="mgas").double()
        again.load_state_dict(both.state_dict())
        assert again.limits() == both.limits(), "also by one that goes on"
        both.zero_grad()


def test_the_turn_is_known_before_stages_are_asked_for() -> None:
    plan = PLANS["cells"]()
    net = lived_in(plan)
    first = strategy_of(plan, then="mgas").stages(net)[0]
    (draw, _) = strategy_of(plan, then="mgas").double().draw(net, moment_of(first))
    assert draw.sub_graph is not None


def test_noise_on_skips_differs_between_processes_and_what_is_drawn_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    net, strategy, moment = in_the_middle(PLANS["cells"]())
    found = []
    for rank in (0, 1):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        found.append([draw.sub_graph for draw in strategy.draw(net, moment)])
    for one, other in zip(*found, strict=True):
        assert one.drawn == other.drawn and one.seed != other.seed


# -- in a search ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, cache: None) -> Sequence[events.Event]:
    changes = {"strategy": {"kind": "msgdas"}, "target.value": "60%", "search.epochs": 6, "retrain.epochs": 1}
    return list(search(configuration(changes), Path(tmp_path_factory.mktemp("told"))))


def test_the_draw_is_told_after_each_epoch(told: Sequence[events.Event]) -> None:
    said = [event for event in told if isinstance(event, events.CandidatesDrawn)]
    epochs = [event for event in told if isinstance(event, events.EpochFinished)]
    assert [event.epoch for event in said] == [event.epoch for event in epochs] == [1, 2, 3, 4, 5, 6]
    steps = 4  # of 170 images a quarter decides, the rest come in batches of 32
    for number, event in enumerate(said, start=1):
        for name, edges in event.edges.items():
            for edge in edges:
                assert sum(event.often[name][unit] for unit in edge) == 2 * steps * number
                own = [[unit for unit in sub_graph[name] if unit in edge] for sub_graph in event.sub_graphs]
                assert all(len(units) == 1 for units in own) and own[0] != own[1]
        assert events.from_line(events.to_line(event)) == event
        assert len(events.to_line(event)) < 2000
    assert said[0].shares != said[-1].shares


def test_other_methods_tell_of_no_draw(whole_of: Any) -> None:
    assert not whole_of("no regrowth").of(events.CandidatesDrawn)


def test_statistics_are_estimated_anew_after_the_last_cut_if_it_ends_the_search() -> None:
    plan = PLANS["cells"]()
    assert strategy_of(plan).recalibrates and not strategy_of(plan, then="mgas").recalibrates
