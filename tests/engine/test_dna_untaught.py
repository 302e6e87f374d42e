"""Check 9 of DNA: blocks that learn without a teacher (DNA++), by agreeing with a slow twin of themselves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import chain_plan, configuration, images_for, raw
from torch import Tensor, nn

from nasengine import events
from nasengine.blocks import extremes
from nasengine.config import DNAConfig, parse
from nasengine.device import generator
from nasengine.errors import ConfigError
from nasengine.search import search
from nasengine.strategies import dna_untaught
from nasengine.strategies.base import Batch, Moment
from nasengine.strategies.dna_untaught import Untaught, spread, view_of
from nasengine.supernet import Supernet

UNTAUGHT: dict[str, Any] = {
    "space": {
        "kind": "chain", "layers": 4, "channels": 4, "kernels": [3, 5], "expansions": [2], "reductions": [2],
    },
    "strategy": {"kind": "dna", "recipe": "dna++", "rating_images": 40},
    "target": {"metric": "params", "value": "60%"},
    "search.epochs": 4,
    "retrain.epochs": 1,
}  # fmt: skip


def untaught(seed: int = 0, **changes: Any) -> tuple[Supernet, Untaught]:
    plan = chain_plan(expansions=(2,), image_size=8)
    net = Supernet.born(plan, generator("cpu", seed)).train()
    part = DNAConfig(**{"recipe": "dna++", "rating_images": 16, **changes})
    bounds = {"params": int(0.6 * extremes(plan, part.widths, "params")[1])}
    strategy = Untaught(plan, part, ends=(2, 4), epochs=8, bounds=bounds, seed=seed, wider=plan)
    strategy.stages(net)
    return net, strategy


def moment_of(strategy: Untaught, net: Supernet, block: int = 0, step: int = 0, steps: int = 100) -> Moment:
    return Moment(stage=strategy.stages(net)[block], epoch=0, step=step, steps=steps)


def batch_of(net: Supernet, seed: int = 0, n: int = 12) -> Batch:
    return images_for(net.plan, seed, n, torch.float32), torch.arange(n) % 3


def trained(net: Supernet, strategy: Untaught, steps: int, block: int = 0) -> list[float]:
    """Steps of a block; the spread of its projections at each."""
    weights = torch.optim.SGD(list(net.live.values()), lr=0.05, momentum=0.9)
    scores = strategy.optimizer(moment_of(strategy, net, block))
    seen = []
    for step in range(steps):
        moment = moment_of(strategy, net, block, step, steps)
        draws, batch = strategy.draw(net, moment), batch_of(net, step, 16)
        losses, logits = strategy.losses(net, moment, batch, draws)
        assert logits is None and set(losses) <= {"agreement", "dispersion"}
        weights.zero_grad(set_to_none=True)
        scores.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(list(net.live.values()), 5.0)
        strategy.after_backward(net, moment, draws)
        weights.step()
        scores.step()
        with torch.no_grad():
            read = strategy._read(net, strategy.blocks[block], batch[0])
            made = strategy._made(net, strategy.blocks[block], draws[0], read)
            seen.append(float(spread(strategy.projectors[block](made)).mean()))
    return seen


def test_09_twins_begin_as_what_they_follow_and_move_by_exactly_their_share() -> None:
    net, strategy = untaught()
    block = strategy.blocks[0]
    names = strategy._weights(net, block)
    twin = {name: strategy.get_buffer(strategy._place(name)) for name in names}
    with torch.no_grad():
        for name in names:
            net.live[name].add_(1)
    first, later = moment_of(strategy, net, 0, 0), moment_of(strategy, net, 0, 3)
    strategy.after_backward(net, first, ())
    assert all(torch.equal(twin[name], net.live[name]) for name in names)
    before = {name: value.clone() for name, value in twin.items()}
    slow = {name: value.clone() for name, value in strategy.slow[0].state_dict().items()}
    with torch.no_grad():
        for name in names:
            net.live[name].mul_(3)
        for parameter in strategy.projectors[0].parameters():
            parameter.add_(2)
    strategy.after_backward(net, later, ())
    share = (1 - dna_untaught.INERTIA) * (math.cos(math.pi * later.progress) + 1) / 2
    for name in names:
        assert torch.allclose(twin[name], before[name] + share * (net.live[name] - before[name]), atol=1e-7)
    for name, value in strategy.slow[0].state_dict().items():
        if value.is_floating_point():
            fast = strategy.projectors[0].state_dict()[name]
            assert torch.allclose(value, slow[name] + share * (fast - slow[name]), atol=1e-6)
    others = [name for name in net.live if name not in names and strategy._place(name) in strategy._buffers]
    assert others and all(torch.equal(strategy.get_buffer(strategy._place(name)), net.live[name]) for name in others)


def test_09_all_that_it_begins_with_follows_from_the_seed() -> None:
    states = []
    for _ in range(2):
        torch.rand(1)  # whatever else was drawn before
        states.append(untaught()[1].state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_09_the_twins_side_has_no_slope_and_leaves_the_network_as_it_was() -> None:
    net, strategy = untaught()
    moment, batch = moment_of(strategy, net), batch_of(net)
    live = {name: value.detach().clone() for name, value in net.live.items()}
    pointers = {name: value.data_ptr() for name, value in net.live.items()}
    losses, _ = strategy.losses(net, moment, batch, strategy.draw(net, moment))
    losses["agreement"].backward()
    assert all(parameter.grad is None for parameter in strategy.slow.parameters())
    assert all(
        value.data_ptr() == pointers[name] and torch.equal(value, live[name]) for name, value in net.live.items()
    )
    own = {name for name, value in net.live.items() if value.grad is not None}
    assert own and own <= set(strategy._weights(net, strategy.blocks[0]))


def test_09_paths_of_a_step_share_no_operation_as_long_as_there_are_others() -> None:
    net, strategy = untaught(paths=3)
    for step in range(20):
        draws = strategy.draw(net, moment_of(strategy, net, 1, step))
        for rung in strategy.blocks[1].rungs:
            taken = [{unit for choice, unit in draw.sub_graph.drawn if choice == rung.choice} for draw in draws]
            alone = [frozenset(units) for units in taken]
            assert len(set(alone)) == min(len(draws), len(rung.options))


def test_09_without_a_floor_under_their_variance_projections_collapse_with_it_they_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rigged: nothing but the floor holds them apart, neither a predictor nor a twin that is slow."""
    monkeypatch.setattr(dna_untaught, "INERTIA", 0.0)
    left = {}
    for dispersion in (0.0, 5.0):
        net, strategy = untaught(dispersion=dispersion)
        strategy.predictors = nn.ModuleList(nn.Identity() for _ in strategy.blocks)
        left[dispersion] = sum(trained(net, strategy, 120)[-20:]) / 20
    assert left[0.0] < 0.03 < 0.08 < left[5.0], left


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10**6))
def test_09_a_rating_does_not_depend_on_the_order_of_candidates(seed: int) -> None:
    net, strategy = untaught(seed)
    trained(net, strategy, 3)
    batches = [batch_of(net, seed + number) for number in range(3)]
    moment = moment_of(strategy, net)

    def all_of() -> dict[tuple[tuple[int, ...], ...], float]:
        list(strategy.rate(net, moment, batches))
        block = strategy.blocks[0]
        ratings = strategy._ratings(block)[0].tolist()
        return {
            tuple(rung.options[at] for rung, at in zip(block.rungs, path, strict=True)): value
            for path, value in zip(block.paths(), ratings, strict=True)
        }

    forward, again = all_of(), all_of()
    assert forward == again
    block = strategy.blocks[0]
    turned = [rung.__class__(**{**vars(rung), "options": rung.options[::-1]}) for rung in block.rungs]
    strategy.blocks[0] = block.__class__(**{**vars(block), "rungs": tuple(turned)})
    backward = all_of()
    assert backward.keys() == forward.keys()
    assert all(backward[path] == pytest.approx(value, rel=1e-5) for path, value in forward.items())


def test_09_blocks_before_are_fixed_to_their_best_candidate() -> None:
    net, strategy = untaught()
    images = batch_of(net)[0]
    strategy._ratings(strategy.blocks[0]).copy_(torch.arange(6, 0, -1)[None])  # the last is the best
    seen: list[frozenset[tuple[str, int]]] = []
    stretch = net.stretch

    def noting(values: Any, first: int, border: str, graph: Any, masks: Any) -> Tensor:
        seen.append(frozenset(graph.drawn))
        return stretch(values, first, border, graph, masks)

    net.stretch = noting  # type: ignore[method-assign]
    strategy._read(net, strategy.blocks[1], images)
    *_, last = strategy.blocks[0].paths()
    assert seen == [frozenset((choice, unit) for choice, own in strategy.blocks[0].units(last).items() for unit in own)]
    assert torch.equal(strategy._read(net, strategy.blocks[0], images), images)


def test_09_views_are_of_their_own_and_as_large() -> None:
    images = images_for(chain_plan(), 0, 4, torch.float32)
    first, again, other = (view_of(images, generator("cpu", seed)) for seed in (1, 1, 2))
    assert first.shape == images.shape and torch.equal(first, again)
    assert not torch.equal(first, other) and not torch.equal(first, images)


def test_10_it_runs_with_no_teacher_at_all(tmp_path: Path) -> None:
    said = list(search(configuration(UNTAUGHT), tmp_path))
    assert not any(isinstance(event, events.RetrainEpoch) and event.network.startswith("teacher") for event in said)
    assert [e.block for e in said if isinstance(e, events.BlockRated)] == [0, 1]
    (report,) = (event.report for event in said if isinstance(event, events.ResultReady))
    assert report["achieved"]["params"] <= report["target"]["value"] and report["parity"]["fp64"] <= 1e-9


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"strategy.teacher": "library"}, "strategy.teacher", "dna++ has no teacher"),
        ({"strategy.generations": 2}, "strategy.generations", "there is one generation"),
        ({"retrain.epochs": 0}, "retrain.epochs", "before they are trained together"),
    ],
)
def test_what_has_no_teacher_takes_no_setting_of_one(changes: dict[str, Any], field: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as problem:
        parse(raw({**UNTAUGHT, **changes}))
    assert sentence in dict(problem.value.problems)[field]
