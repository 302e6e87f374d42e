"""Numbered checks of DNA in a network; those of its traversal (6) are in ``test_traversal``."""

from __future__ import annotations

import copy
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small import StopAt, chain_plan, configuration, digits, images_for, lived_in, packed_digits, raw, relative, sliced
from torch import Tensor, nn

from nasengine import events, export, report, splits, teacher, train, zoo
from nasengine.architecture import Plan, lowered
from nasengine.blocks import assignments, divided, extremes, filters, largest, prices, rungs
from nasengine.config import DNAConfig, parse
from nasengine.control import Control
from nasengine.device import generator
from nasengine.errors import ConfigError, Interrupted, TrainingError
from nasengine.outlook import outlook
from nasengine.rating import distance, rated
from nasengine.search import search
from nasengine.strategies import dna
from nasengine.strategies.base import Batch, Moment
from nasengine.supernet import SubGraph, Supernet, architecture, everything
from nasengine.teacher import Teacher

CHAIN: dict[str, Any] = {
    "kind": "chain", "layers": 4, "channels": 4, "kernels": [3, 5], "expansions": [2], "reductions": [2],
}  # fmt: skip
SHORT: dict[str, Any] = {
    "space": CHAIN,
    "strategy": {"kind": "dna", "teacher_epochs": 2, "rating_images": 40},
    "target": {"metric": "params", "value": "60%"},
    "search.epochs": 4,
    "retrain.epochs": 1,
}


FACTS = packed_digits().facts


def plan_of(**changes: Any) -> Plan:
    return chain_plan(**{"expansions": (2,), **changes})


def path_of(plan: Plan, seed: int) -> dict[str, list[int]]:
    """One option a layer."""
    stream = generator("cpu", seed, "path")
    return {
        rung.choice: list(rung.options[int(torch.randint(len(rung.options), (), generator=stream))])
        for rung in rungs(plan)
    }


def kept_of(plan: Plan, units: dict[str, list[int]]) -> dict[str, Tensor]:
    found = everything(plan)
    for name, own in units.items():
        found[name] = torch.zeros_like(found[name])
        found[name][own] = True
    return found


def named(units: dict[str, list[int]]) -> frozenset[tuple[str, int]]:
    return frozenset((choice, unit) for choice, own in units.items() for unit in own)


def largest_of(plan: Plan) -> dict[str, list[int]]:
    layers = rungs(plan)
    return {rung.choice: list(rung.options[at]) for rung, at in zip(layers, largest(plan, layers), strict=True)}


def taught(plan: Plan, net: Supernet, ends: tuple[int, ...] = (2, 4), units: Any = None) -> Teacher:
    """A network of the space with one option a layer, as the teacher of its blocks."""
    alone = sliced(net.eval(), kept_of(plan, units or largest_of(plan)))
    small = export.compact_network(alone, architecture(plan, alone.kept), {}, {})
    borders = [block.border for block in divided(plan, ends)]
    return teacher.own(small, borders, [plan.sides[border] for border in borders])


def strategy_of(plan: Plan, ends: tuple[int, ...] = (2, 4), share: float = 0.6, **changes: Any) -> dna.DNA:
    part = DNAConfig(**{"rating_images": 16, **changes})
    bounds = {"params": int(share * extremes(plan, part.widths, "params")[1])}
    return dna.DNA(plan, part, ends=ends, epochs=8, bounds=bounds, seed=1, wider=plan).double()


def at_work(
    seed: int = 0, ends: tuple[int, ...] = (2, 4), plan: Plan | None = None, **changes: Any
) -> tuple[Supernet, dna.DNA]:
    """In fp64, with a teacher that is another network of the space."""
    plan = plan or plan_of()
    net, strategy = lived_in(plan, seed).train(), strategy_of(plan, ends, **changes)
    strategy.follow(taught(plan, lived_in(plan, seed + 100), ends), 0)
    return net, strategy.double()


def moment_of(strategy: dna.DNA, net: Supernet, block: int, step: int = 0) -> Moment:
    return Moment(stage=strategy.stages(net)[block], epoch=0, step=step, steps=4)


def batch_of(plan: Plan, seed: int = 0, n: int = 8) -> Batch:
    return images_for(plan, seed, n), torch.arange(n) % 3


def rate_all(strategy: dna.DNA, net: Supernet, seed: int = 5) -> None:
    batches = [batch_of(net.plan, seed + number) for number in range(3)]
    for block in range(len(strategy.blocks)):
        assert [done for done, _ in strategy.rate(net, moment_of(strategy, net, block), batches)][-1] == (
            strategy.blocks[block].candidates * len(strategy.part.widths)
        )


# -- 1, 2: blocks and taps ------------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.booleans())
def test_01_blocks_one_after_the_other_are_the_whole_network(seed: int, training: bool) -> None:
    plan = plan_of()
    net, units, images = lived_in(plan, seed).train(training), path_of(plan, seed), images_for(plan, seed, 5)
    net.tracks = False
    graph, value = SubGraph(drawn=named(units)), images
    for block in divided(plan, (1, 2, 4)):
        value = net.stretch({block.source: value}, block.first, block.border, graph, {})
    head = net.stretch({"l3": value}, len(plan.blocks) - 1, plan.exits[-1], graph, {})
    assert torch.equal(head, net(images, sub_graph=graph))


@pytest.mark.parametrize("block", [0, 1])
def test_01_training_a_block_changes_nothing_else_and_never_the_teacher(block: int) -> None:
    net, strategy = at_work()
    moment = moment_of(strategy, net, block)
    before = {name: value.detach().clone() for name, value in net.live.items()}
    known = copy.deepcopy(strategy.teacher.network.state_dict())
    optimizer = torch.optim.SGD(list(net.live.values()), lr=0.1, weight_decay=0.1)
    for step in range(4):
        now = Moment(stage=moment.stage, epoch=0, step=step, steps=4)
        losses, logits = strategy.losses(net, now, batch_of(net.plan), strategy.draw(net, now))
        assert logits is None
        optimizer.zero_grad(set_to_none=True)
        losses["feature"].backward()
        optimizer.step()
    own = {rung.block for rung in strategy.blocks[block].rungs} | ({0} if block == 0 else set())
    changed = {name for name, value in net.live.items() if not torch.equal(value, before[name])}
    assert changed and {net.plan.layer[name.split("/")[0]].block for name in changed} <= own
    assert all(torch.equal(value, known[name]) for name, value in strategy.teacher.network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in strategy.teacher.network.parameters())
    assert not any("teacher" in name for name in strategy.state_dict())


def wider_teacher(plan: Plan, ends: tuple[int, ...]) -> Teacher:
    """One with other channels than the blocks have."""
    wider = plan_of(layers=len(rungs(plan)), channels=6, reductions=(2,))
    return taught(wider, lived_in(wider, 9), ends)


@settings(max_examples=25)
@given(
    st.integers(0, 10**6),
    st.sampled_from([(1, 2, 5), (2, 3, 4, 5), (2, 5), (1, 2, 4, 5)]),
    st.sampled_from([(1.0,), (0.5, 1.0)]),
    st.booleans(),
)
def test_01_every_step_has_something_to_learn_though_all_layers_of_a_block_can_be_left_out(
    seed: int, ends: tuple[int, ...], widths: tuple[float, ...], wider: bool
) -> None:
    plan = plan_of(layers=5, reductions=(2,), kernels=(3,))
    net, strategy = at_work(seed, ends, plan, widths=widths)
    if wider:
        strategy.follow(wider_teacher(plan, ends), 0)
        strategy.double()
    for block in range(len(ends)):
        for step in range(6):
            moment = moment_of(strategy, net, block, step)
            (draw,) = strategy.draw(net, moment)
            losses, _ = strategy.losses(net, moment, batch_of(plan, n=3), [draw])
            assert losses["feature"].requires_grad
            assert strategy.draw(net, moment)[0].sub_graph == draw.sub_graph


def test_01_of_the_paths_that_can_learn_each_is_as_likely() -> None:
    net, strategy = at_work(0, (2, 3, 5), plan_of(layers=5, reductions=(2,)))
    stage = strategy.stages(net)[2]
    often: dict[tuple[int, ...], int] = {}
    for epoch in range(800):
        _, path, _ = strategy._drawn(Moment(stage=stage, epoch=epoch, step=0, steps=1))
        often[tuple(path)] = often.get(tuple(path), 0) + 1
    assert set(often) == set(strategy.blocks[2].paths()) - {(0, 0)}
    assert max(often.values()) < 1.5 * 800 / len(often) and min(often.values()) > 0.6 * 800 / len(often)


def test_02_maps_have_the_shapes_of_what_blocks_make_and_the_first_block_has_the_stem() -> None:
    net, strategy = at_work()
    images = images_for(net.plan, 0, 3)
    maps = strategy.teacher.maps(images, 0, 1)
    value = images
    for block, map_ in zip(strategy.blocks, maps, strict=True):
        graph = SubGraph(drawn=named(block.units([0] * len(block.rungs))))
        value = net.stretch({block.source: value}, block.first, block.border, graph, {})
        assert value.shape == map_.shape
    assert (strategy.blocks[0].source, strategy.blocks[0].first) == ("image", 0)
    assert torch.equal(strategy.teacher.maps(images, 1, 1)[0], maps[1])


def test_02_a_teacher_is_run_no_further_than_its_map(monkeypatch: pytest.MonkeyPatch) -> None:
    net, strategy = at_work()
    asked: list[str] = []
    for name, module in strategy.teacher.network.named_modules():
        module.register_forward_hook(lambda *_, name=name: asked.append(name))
    strategy.teacher.maps(images_for(net.plan), 0, 0)
    assert "layers.l1" in asked and "layers.l2" not in asked


# -- 3, 4, 5: rating ------------------------------------------------------------------------------------------------


def test_03_every_candidate_is_rated_once_and_again_to_the_bit_whatever_statistics_were_there() -> None:
    net, strategy = at_work()
    rate_all(strategy, net)
    first = [strategy._ratings(block).clone() for block in strategy.blocks]
    assert [ratings.shape for ratings in first] == [(1, 2 * 3), (1, 2 * 3)]
    assert all(bool((ratings > 0).all()) and len(ratings.unique()) == ratings.numel() for ratings in first)
    known = {name: value.clone() for name, value in net.nursery.items()}
    rate_all(strategy, net)
    assert all(torch.equal(strategy._ratings(block), was) for block, was in zip(strategy.blocks, first, strict=True))
    for mean, var in net.statistics.values():  # poisoned: what is reset cannot matter
        mean.fill_(math.nan)
        var.fill_(math.inf)
    rate_all(strategy, net)
    assert all(torch.equal(strategy._ratings(block), was) for block, was in zip(strategy.blocks, first, strict=True))
    assert all(
        torch.equal(net.nursery[name], value) for name, value in known.items() if not name.endswith(("mean", "var"))
    )


def test_03_rating_changes_neither_the_network_nor_its_mode() -> None:
    net, strategy = at_work()
    before = [value.clone() for value in net.running_statistics]
    rate_all(strategy, net)
    assert net.training and net.forgets == 0.1
    assert all(torch.equal(value, was) for value, was in zip(net.running_statistics, before, strict=True))


def test_03_a_candidates_rating_does_not_depend_on_what_was_rated_before_it() -> None:
    net, strategy = at_work()
    block, images = strategy.blocks[1], [images_for(net.plan, seed, 6) for seed in (1, 2)]
    lessons = [strategy._lesson(block, x) for x in images]

    def all_of(options: Any) -> dict[tuple[tuple[int, ...], ...], float]:
        layers = tuple(
            rung.__class__(**{**vars(rung), "options": tuple(turned)})
            for rung, turned in zip(block.rungs, options, strict=True)
        )
        other = block.__class__(**{**vars(block), "rungs": layers})
        (calibration, _), (part, wanted) = lessons
        found = rated(net, other, {}, calibration, [part], [wanted], nn.Identity())
        return {
            tuple(rung.options[at] for rung, at in zip(layers, path, strict=True)): value
            for path, value in zip(other.paths(), found, strict=True)
        }

    forward = all_of([rung.options for rung in block.rungs])
    assert all_of([rung.options[::-1] for rung in block.rungs]) == forward and len(forward) == block.candidates


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_04_ratings_do_not_depend_on_the_scale_of_maps(seed: int, scale: float) -> None:
    stream = generator("cpu", seed)
    found, wanted = (torch.randn(4, 3, 5, 5, generator=stream, dtype=torch.float64) for _ in range(2))
    assert distance(scale * found, scale * wanted) == pytest.approx(distance(found, wanted), rel=1e-5)
    assert 0.5 < distance(found, wanted) < 2, "of maps that have nothing to do with each other, at any scale"


def test_04_the_loss_is_the_share_of_the_variance_that_is_missed_and_its_slope_larger() -> None:
    net, strategy = at_work()
    moment = moment_of(strategy, net, 0)
    batch, draws = batch_of(net.plan), strategy.draw(net, moment)
    net.tracks = False
    loss = strategy.losses(net, moment, batch, draws)[0]["feature"]
    block = strategy.blocks[0]
    made = net.stretch({"image": batch[0]}, 0, block.border, draws[0].sub_graph, {})
    (wanted,) = strategy.teacher.maps(batch[0], 0, 0)
    plain = ((made - wanted) ** 2).mean() / wanted.var(correction=0)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-9)
    name = "stem_conv/weight"
    (steep,), (flat,) = torch.autograd.grad(loss, net.live[name]), torch.autograd.grad(plain, net.live[name])
    assert relative(dna.STEPS * flat, steep) < 1e-9


@torch.no_grad()
@pytest.mark.parametrize("ends", [(2, 4), (1, 2, 4), (2, 3, 4)])
def test_05_sharing_what_candidates_share_changes_no_rating(ends: tuple[int, ...], monkeypatch: Any) -> None:
    net, strategy = at_work(ends=ends)
    computed: list[frozenset[tuple[str, int]]] = []
    stretch = Supernet.stretch

    def counting(self: Supernet, values: Any, first: int, border: str, graph: SubGraph, masks: Any) -> Tensor:
        if self.training:
            computed.append(frozenset(graph.drawn))
        return stretch(self, values, first, border, graph, masks)

    for block in strategy.blocks:
        (calibration, _), (part, wanted) = (strategy._lesson(block, images_for(net.plan, s, 6)) for s in (1, 2))
        monkeypatch.setattr(Supernet, "stretch", counting)
        computed.clear()
        found = list(rated(net, block, {}, calibration, [part[:4], part[4:]], [wanted[:4], wanted[4:]], nn.Identity()))
        assert (
            len(computed)
            == block.evaluations
            == sum(
                math.prod(len(rung.options) for rung in block.rungs[: depth + 1]) for depth in range(len(block.rungs))
            )
        )
        monkeypatch.setattr(Supernet, "stretch", stretch)
        for path, value in zip(block.paths(), found, strict=True):
            alone, graph = net.widened({}), SubGraph(drawn=named(block.units(path)))
            alone.forgets = 1.0
            alone.train().stretch({block.source: calibration}, block.first, block.border, graph, {})
            alone.eval()
            made = [
                alone.stretch({block.source: x}, block.first, block.border, graph, {}) for x in (part[:4], part[4:])
            ]
            expected = (4 * distance(made[0], wanted[:4]) + 2 * distance(made[1], wanted[4:])) / 6
            assert value == pytest.approx(expected, rel=1e-9)


def test_05_of_four_layers_with_six_options_1554_operations_are_computed_instead_of_5184() -> None:
    plan = chain_plan(layers=8, kernels=(3, 5, 7), expansions=(2, 3), reductions=(4,), channels=4)
    block = divided(plan, (4, 8))[0]
    six = block.__class__(**{**vars(block), "rungs": (block.rungs[0],) * 4})
    assert (six.candidates, six.evaluations, 4 * six.candidates) == (1296, 1554, 5184)


# -- 6: the network that is found -------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6), st.sampled_from(["params", "macs"]), st.floats(0, 1), st.none() | st.floats(0.2, 1),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_06_the_found_network_is_the_best_by_its_ratings_of_all_that_fit(
    seed: int, metric: str, share: float, limit: float | None, two: bool, excite: bool
) -> None:
    """So are those that other targets are said to take, within the same limit."""
    plan = plan_of(layers=3, reductions=(1,), squeeze_excite=excite, attention=(1,) if two else ())
    part = DNAConfig(widths=(0.5, 1.0) if two else (1.0,))
    other = "macs" if metric == "params" else "params"
    bounds = {}
    for name, part_ in ((metric, share), (other, limit)):
        low, high = extremes(plan, part.widths, name)
        if part_ is not None:
            bounds[name] = round(low + part_ * (high - low))
    strategy = dna.DNA(plan, part, ends=(1, 3), epochs=8, bounds=bounds, seed=1, wider=plan)
    net, stream = lived_in(plan, seed), generator("cpu", seed)
    for block in strategy.blocks:
        ratings = strategy._ratings(block)
        ratings.copy_(torch.rand(ratings.shape, generator=stream, dtype=torch.float64))
    layers, known = rungs(plan), []
    for shares in assignments(layers, part.widths):
        rows = [strategy._ratings(b)[part.widths.index(shares[b.group])].tolist() for b in strategy.blocks]
        for paths in itertools.product(*(list(enumerate(block.paths())) for block in strategy.blocks)):
            units = filters(plan, layers, shares)
            for block, (_, path) in zip(strategy.blocks, paths, strict=True):
                units |= block.units(path)
            rating = sum(row[number] for row, (number, _) in zip(rows, paths, strict=True))
            found = lowered(plan, units)
            known.append((rating, found.size(metric), found.size(other)))

    def best(target: int) -> tuple[float, int] | None:
        within = (
            (size < 0.97 * target, rating, size)
            for rating, size, beside in known
            if size <= target and beside <= bounds.get(other, beside)
        )
        return min(within, default=(None,))[1:] or None

    if best(bounds[metric]) is None:
        with pytest.raises(TrainingError, match="no network with one operation a layer is within"):
            strategy.decide(net, moment_of(strategy, net, 1), "end", ())
        return
    (decision,) = strategy.decide(net, moment_of(strategy, net, 1), "end", ())
    rating, size = best(bounds[metric])
    assert decision.paths.chosen.rating == pytest.approx(rating, rel=1e-12)
    found = architecture(plan, decision.kept)
    assert found.size(metric) == size == round(decision.paths.chosen.size) <= bounds[metric]
    sizes = [size for _, size, _ in known]
    ratio = max(sizes) / min(sizes)
    targets = [math.ceil(min(sizes) * ratio ** (step / (dna.OTHERS - 1))) for step in range(dna.OTHERS)]
    told = [(target, round(other.size), other.rating) for target, other in decision.paths.networks]
    wanted = {}
    for target in targets:
        if fitting := best(target):
            wanted.setdefault(fitting[1], (target, fitting[1], pytest.approx(fitting[0], rel=1e-12)))
    assert told == [wanted[size] for size in sorted(wanted)]
    assert list(decision.ladder) == [size for _, size, _ in told]
    for size, kept in decision.ladder.items():
        assert architecture(plan, kept).size(metric) == size


def test_06_many_ways_of_widths_are_decided_among_and_whoever_wants_to_end_does_not_wait_for_all() -> None:
    plan = plan_of(layers=6, reductions=(2, 4))
    net = lived_in(plan, 0).train()
    strategy = strategy_of(plan, (2, 4, 6), widths=[0.25, 0.5, 0.75, 1.0])
    for block in strategy.blocks:
        ratings = strategy._ratings(block)
        ratings.copy_(torch.rand(ratings.shape, generator=torch.Generator().manual_seed(block.number)) + 1)
    moment, breaths = moment_of(strategy, net, 2), []
    strategy.breathe = lambda: breaths.append(None)
    (decision,) = strategy.decide(net, moment, "end", [])
    assert len(breaths) > 4**3, "to list the ways, and to search those that may hold a better one"
    assert 2 <= len(decision.paths.networks) <= dna.WAYS // 4**3, "fewer of so many ways"
    size = architecture(plan, decision.kept).params
    assert 0.97 * strategy.bounds["params"] <= size <= strategy.bounds["params"] and size == decision.paths.chosen.size

    def ended() -> None:
        raise Interrupted("stopped on request (pause)")

    strategy.breathe = ended
    with pytest.raises(Interrupted):
        strategy.decide(net, moment, "end", [])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["params", "macs"]), st.booleans())
def test_06_what_operations_take_adds_up_to_what_the_network_takes(seed: int, metric: str, excite: bool) -> None:
    plan = plan_of(layers=5, reductions=(1, 3), squeeze_excite=excite, attention=(2,))
    layers, stream = rungs(plan), generator("cpu", seed, "shares")
    ways = assignments(layers, (0.3, 0.6, 1.0))
    shares = ways[int(torch.randint(len(ways), (), generator=stream))]
    found = prices(plan, layers, shares, metric)
    path = [int(torch.randint(len(rung.options), (), generator=stream)) for rung in layers]
    units = {rung.choice: list(rung.options[at]) for rung, at in zip(layers, path, strict=True)}
    size = lowered(plan, units | filters(plan, layers, shares)).size(metric)
    assert size == round(found.fixed + found.of(0, path)) and found.least <= size <= found.most
    low, high = extremes(plan, (0.3, 1.0), metric)
    assert low <= size <= high


def test_06_the_outlook_knows_the_smallest_and_the_largest_network() -> None:
    wanted = configuration(SHORT)
    look = outlook(wanted, packed_digits().facts)
    low, high = look.reach["params"]
    assert look.full_size == high and look.target == int(0.6 * high)
    below = configuration({**SHORT, "target.value": low - 1})
    assert outlook(below, packed_digits().facts).problems[0][0] == "target.value"
    assert outlook(configuration({**SHORT, "target.value": low}), packed_digits().facts).feasible


# -- 8: a teacher that is a candidate --------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6))
def test_08_a_teacher_that_is_a_candidate_ranks_first_in_every_block_unless_its_maps_are_of_other_images(
    seed: int,
) -> None:
    plan = plan_of()
    net, units = lived_in(plan, seed).train(), path_of(plan, seed)
    strategy, images = strategy_of(plan), images_for(plan, seed, 24)
    still = net.widened({})  # the teacher's statistics are those of the images, as a candidate's are
    still.forgets = 1.0
    still.train()(images, sub_graph=SubGraph(drawn=named(units)))
    still.store()
    strategy.follow(taught(plan, Supernet(plan, still.nursery, everything(plan)), units=units), 0)
    lesson = strategy._lesson
    for block in strategy.blocks:
        own = next(number for number, path in enumerate(block.paths()) if block.units(path).items() <= units.items())
        strategy._lesson = lesson
        list(strategy.rate(net, moment_of(strategy, net, block.number), [(images, None)] * 2))
        ratings = strategy._ratings(block)[0].clone()
        assert int(ratings.argmin()) == own and ratings[own] < 0.05
        strategy._lesson = lambda block, images: (lesson(block, images)[0], lesson(block, images)[1].roll(1, 0))
        list(strategy.rate(net, moment_of(strategy, net, block.number), [(images, None)] * 2))
        assert strategy._ratings(block)[0, own] > 5 * ratings[own], "what it makes is of no use"


def plan_of_search() -> Plan:
    return chain_plan(expansions=(2,), image_size=8, classes=10)


@pytest.mark.parametrize(
    ("generation", "knew", "found", "words"),
    [
        (0, 0.9, 0.8, ["the largest network of the space, trained first (77 parameters, 90.0 %"]),
        (0, 0.9, 0.95, ["What was found is better than its teacher (95.0 %)."]),
        (
            0,
            0.2,
            0.8,
            [
                "hardly more than one who always says the same",
                "more epochs (Teacher's epochs, strategy.teacher_epochs)",
            ],
        ),
        (1, 0.9, 0.8, ["the second teacher, which is what the one before had found, made wider"]),
    ],
)
def test_10_the_report_says_who_taught_and_whether_it_knew_enough(
    generation: int, knew: float, found: float, words: list[str]
) -> None:
    lesson = {"generation": generation, "measured": {"accuracy": knew, "params": 77, "loss": 1.0}, "trained": 1}
    told = report._lesson(configuration(SHORT), lesson, {"validation": found}, digits())
    assert all(word in told["sentence"] for word in words), told["sentence"]
    assert ("better than" in told["sentence"]) == (found > knew > 0.5)


def test_10_every_teacher_that_there_may_be_has_a_word_and_settings_are_called_as_in_the_form() -> None:
    fields = DNAConfig.model_fields
    assert len(report.ORDINALS) == next(one.le for one in fields["generations"].metadata if hasattr(one, "le"))
    assert fields["teacher_epochs"].title == "Teacher's epochs"


def test_10_the_report_names_a_librarys_teacher() -> None:
    method = {"kind": "dna", "teacher": "library", "teacher_model": "resnet18"}
    told = report._lesson(
        configuration({**SHORT, "strategy": method}), {"generation": 0, "measured": {}, "trained": 0}, {}, digits()
    )
    assert told == {
        "sentence": "The blocks learned from the maps of resnet18 (timm), with the weights that its library offers."
    }


@pytest.mark.parametrize(
    ("rated_blocks", "words"),
    [
        ([True, True], "Candidates were rated on 1,305 held-out images."),
        (
            [True, False, False, False],
            "Candidates were rated on 1,305 held-out images. Blocks 2, 3 and 4 were not rated before the search was "
            "ended, so their candidates were chosen by size alone, as large as the target leaves room for.",
        ),
        (
            [False],
            "No block was rated before the search was ended, so all candidates were chosen by size alone, as large as "
            "the target allows.",
        ),
    ],
)
def test_10_the_report_says_on_how_many_images_what_was_rated(rated_blocks: list[bool], words: str) -> None:
    assert report._rating(rated_blocks, 1305)["sentence"] == words


# -- 10: teachers, and whole searches ----------------------------------------------------------------------------------


def said_by(changes: dict[str, Any], folder: Path, control: Control | None = None) -> list[events.Event]:
    return list(search(configuration(changes), folder, control=control))


def test_10_a_teacher_of_its_own_is_trained_first_and_neither_it_nor_blocks_see_what_rates(tmp_path: Path) -> None:
    seen: dict[str, set[int]] = {"learning": set(), "deciding": set()}
    made = train.Feeds.of

    def watched(*arguments: Any) -> train.Feeds:
        feeds = made(*arguments)
        seen["learning"], seen["deciding"] = set(feeds.learning.part.tolist()), set(feeds.deciding.part.tolist())
        return feeds

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.Feeds, "of", watched)
        said = said_by(SHORT, tmp_path)
    kinds = [event.kind for event in said if event.kind not in ("progress", "data_progress", "checkpoint_saved")]
    taught = [e for e in said if isinstance(e, events.RetrainEpoch) and e.network == "teacher 1"]
    assert [e.epoch for e in taught] == [1, 2] and {e.epochs for e in taught} == {2}
    assert kinds.index("retrain_epoch") < kinds.index("stage_started")
    assert seen["learning"] and seen["deciding"] and not seen["learning"] & seen["deciding"]
    rated_ = [e for e in said if isinstance(e, events.BlockRated)]
    known = [(e.block, e.blocks, e.candidates, e.evaluations, e.one_by_one) for e in rated_]
    assert known == [(0, 2, 6, 8, 12), (1, 2, 6, 8, 12)]
    (paths,) = (e for e in said if isinstance(e, events.PathsFound))
    for ratings, *own in zip(rated_, paths.chosen["costs"], paths.chosen["ratings"], strict=True):
        assert own in ratings.points, "where it is told to lie, it was told before"
    assert paths.certain and paths.chosen["widths"] == [1.0, 1.0] == [e.front[0]["width"] for e in rated_]
    started = [e for e in said if isinstance(e, events.StageStarted)]
    assert {e.blocks for e in started} == {len(plan_of_search().blocks)}, "sizes are of the whole network"
    (told,) = (e.report for e in said if isinstance(e, events.ResultReady))
    assert told["achieved"]["params"] == paths.chosen["size"] <= told["target"]["value"]
    assert told["parity"]["fp64"] <= 1e-9
    assert told["teacher"]["params"] == lowered(plan_of_search(), largest_of(plan_of_search())).params
    assert told["teacher"]["validation"] == taught[-1].validation["accuracy"]
    for network in paths.networks:
        for ratings, *own in zip(rated_, network["costs"], network["ratings"], strict=True):
            assert own in ratings.points
        assert network["rating"] == pytest.approx(sum(network["ratings"]), abs=1e-5)
        assert network["units"].keys() == {choice for e in rated_ for choice in e.choices}
    fractions = [e.fraction for e in said if isinstance(e, events.Progress | events.RetrainEpoch)]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert not list(tmp_path.glob("teacher*.pt")), "what nobody needs any more"


def test_10_of_the_composed_blocks_the_head_is_the_teachers(tmp_path: Path) -> None:
    kept: dict[str, Tensor] = {}
    adopt = Supernet.adopt

    def adopting(self: Supernet, state: dict[str, Tensor], block: int) -> None:
        kept.update({name: value.clone() for name, value in state.items()})
        adopt(self, state, block)
        assert torch.equal(self.live["head/weight"], state["layers.head.weight"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Supernet, "adopt", adopting)
        said = said_by({**SHORT, "retrain.epochs": 0}, tmp_path)
    found = load_file(tmp_path / "result" / "model.safetensors")
    assert torch.equal(found["layers.head.weight"], kept["layers.head.weight"])
    last = [e for e in said if isinstance(e, events.StageFinished)][-1]
    assert last.validation["accuracy"] is not None


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"strategy.generations": 2, "search.epochs": 8},
        {"strategy.widths": [0.5, 1]},
        {"strategy.block_ends": [1, 2, 3], "search.epochs": 8},  # layers that can be left out are blocks of their own
    ],
)
def test_10_stopped_again_and_again_while_the_teacher_trains_it_ends_with_the_very_same_files(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dna, "OTHERS", 3)  # nobody ends while it decides

    class Often(Control):
        def __init__(self, every: int) -> None:
            self.left = every

        @property
        def requested(self) -> str | None:  # type: ignore[override]
            self.left -= 1
            return "a test" if self.left < 0 else None

    wanted = {**SHORT, **changes}
    said_by(wanted, tmp_path / "at once")
    for _ in range(100):
        try:
            said = said_by(wanted, tmp_path / "often", Often(29))
            break
        except Interrupted:
            continue
    assert said[-1].kind == "search_finished"
    check_same_files(tmp_path / "at once", tmp_path / "often")


def test_10_paused_while_it_decides_it_rates_and_tells_nothing_again(tmp_path: Path) -> None:
    whole = said_by(SHORT, tmp_path / "at once")
    control, rated_, decide, rate = Control(), list[int](), dna.DNA.decide, dna.DNA.rate

    def pausing(self: dna.DNA, *asked: Any) -> Any:
        if asked[1].stage.last and len(rated_) == 2:
            control.requested = "a test"
        return decide(self, *asked)

    def watched(self: dna.DNA, net: Supernet, moment: Moment, *rest: Any) -> Any:
        rated_.append(moment.stage.index)
        return rate(self, net, moment, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dna.DNA, "decide", pausing)
        patch.setattr(dna.DNA, "rate", watched)
        with pytest.raises(Interrupted):
            said_by(SHORT, tmp_path / "paused", control)
        rated_.append(-1)
        control.requested = None
        said_by(SHORT, tmp_path / "paused", control)
    assert rated_ == [0, 1, -1]
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "paused" / "events.jsonl").read_text().splitlines()]
    for kind in ("block_rated", "paths_found", "epoch_finished", "committed"):
        assert kinds.count(kind) == [event.kind for event in whole].count(kind)
    check_same_files(tmp_path / "at once", tmp_path / "paused")


@pytest.mark.parametrize("phase", ["teacher 2", "block 1, teacher 2"])
def test_10_a_pause_right_after_a_resume_costs_nothing(phase: str, tmp_path: Path) -> None:
    wanted = {**SHORT, "strategy": {**SHORT["strategy"], "generations": 2}, "search.epochs": 8}
    said_by(wanted, tmp_path / "at once")
    control = Control()
    with pytest.raises(Interrupted):
        for event in search(configuration(wanted), tmp_path / "paused", control=control):
            training = isinstance(event, events.RetrainEpoch) and event.network == phase
            if training or (isinstance(event, events.StageStarted) and event.name == phase):
                control.requested = "a test"
    for looks in (0, 1, 2, 3):
        with pytest.raises(Interrupted):
            said_by(wanted, tmp_path / "paused", StopAt(looks))
    assert said_by(wanted, tmp_path / "paused")[-1].kind == "search_finished"
    check_same_files(tmp_path / "at once", tmp_path / "paused")


def check_same_files(one: Path, other: Path) -> None:
    for name in ("model.safetensors", "architecture.json", "model.onnx"):
        assert (one / "result" / name).read_bytes() == (other / "result" / name).read_bytes(), name


def weights_of(model: str, folder: Path) -> Path:
    state = zoo.built("timm", model, classes=10, channels=3, image_size=32).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, folder / f"{model}.safetensors")
    return folder / f"{model}.safetensors"


def test_10_a_librarys_model_teaches_by_a_file_and_a_resumed_search_needs_it_no_more(tmp_path: Path) -> None:
    path = weights_of("test_resnet", tmp_path)
    method = {
        "kind": "dna", "teacher": "library", "teacher_model": "test_resnet", "teacher_weights": "file",
        "teacher_path": str(path), "rating_images": 40,
    }  # fmt: skip
    changes = {**SHORT, "strategy": method, "retrain.epochs": 1}
    said_by(changes, tmp_path / "at once")
    control = Control()
    with pytest.raises(Interrupted):
        for event in search(configuration(changes), tmp_path / "resumed", control=control):
            if isinstance(event, events.EpochFinished):
                control.requested = "a test"
    path.unlink()
    said_by(changes, tmp_path / "resumed")
    found = [(tmp_path / name / "result" / "model.safetensors").read_bytes() for name in ("at once", "resumed")]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"teacher_model": "test_resnt"}, "strategy.teacher_model", "did you mean test_resnet"),
        ({"teacher_model": "test_vit"}, "strategy.teacher_model", "has no maps of the image"),
        (
            {"teacher_image_size": 8},
            "strategy.teacher_image_size",
            "8 pixels as maps of 4x4 at the finest, and block 1 ends with 8x8; give a larger image size "
            "(strategy.teacher_image_size), or another model",
        ),
        ({"teacher_model": "test_efficientnet"}, "strategy.teacher_path", "have no conv_stem.weight"),
        ({"teacher_path": "/nowhere/at/all"}, "strategy.teacher_path", "the weights in all cannot be read"),
    ],
)
def test_10_a_teacher_that_cannot_teach_is_refused_in_a_sentence_before_anything_is_trained(
    changes: dict[str, Any], field: str, sentence: str, tmp_path: Path
) -> None:
    method = {
        "kind": "dna", "teacher": "library", "teacher_model": "test_resnet", "teacher_weights": "file",
        "teacher_path": str(weights_of("test_resnet", tmp_path)), **changes,
    }  # fmt: skip
    said: list[events.Event] = []
    with pytest.raises(ConfigError) as problem:
        for event in search(configuration({**SHORT, "strategy": method}), tmp_path / "run"):
            said.append(event)
    ((where, words),) = problem.value.problems
    assert where == field and sentence in words, words
    assert not any(isinstance(event, events.StageStarted | events.RetrainEpoch) for event in said)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("no network", "; give a file, or use own as the teacher"),
        ("other shapes", "; give strategy.teacher_image_size as its library trained it with, or a file"),
    ],
)
def test_10_a_teacher_whose_weights_do_not_come_is_told_what_helps_a_teacher(
    wrong: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(*_: Any) -> dict[str, Tensor]:
        if wrong == "no network":
            raise OSError(wrong)
        return {"conv1.weight": torch.zeros(1)}

    monkeypatch.setattr(zoo, "trained", trained)
    statistics = {"mean": (0.5,), "std": (0.5,)}
    with pytest.raises(ConfigError) as problem:
        teacher.of_library(
            "timm", "test_resnet", weights="pretrained", path=None, image_size=16, shown_size=32, sides=(4, 2),
            classes=3, **statistics,
        )  # fmt: skip
    ((field, words),) = problem.value.problems
    assert field == "strategy.teacher_weights" and words.endswith(hint), words


def test_10_where_no_larger_image_can_be_shown_none_is_asked_for() -> None:
    network = zoo.built("timm", "test_resnet", classes=3, channels=3, image_size=32)
    assert str(teacher._taps(network, 32, [32])).endswith(teacher.LARGER)
    assert str(teacher._taps(network, 512, [512])).endswith("take another model")


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"strategy.teacher_model": "resnet18"}, "strategy.teacher_model", "neither model nor file"),
        ({"strategy.block_ends": [1]}, "strategy.block_ends", "images are halved at layer 2, and no block ends there"),
        ({"strategy.teacher": "library"}, "strategy.teacher_model", "needs its name"),
        (
            {"strategy.teacher": "library", "strategy.teacher_model": "resnet18", "strategy.teacher_weights": "file"},
            "strategy.teacher_path",
            "need its path",
        ),
        (
            {"strategy.teacher": "library", "strategy.teacher_model": "resnet18", "strategy.teacher_path": "x"},
            "strategy.teacher_path",
            "take no file",
        ),
        ({"strategy.widths": [0.1, 1]}, "strategy.widths", "0.1 is out of range; give shares from 0.25 to 1"),
        ({"strategy.widths": [1, 1]}, "strategy.widths", "name each width once"),
        ({"strategy.block_ends": [3, 1]}, "strategy.block_ends", "in rising order"),
        ({"strategy.block_ends": [4]}, "strategy.block_ends", "after layer 4 of 4; use 1 to 3"),
        (
            {"strategy.block_ends": [1, 2, 3]},
            "search.epochs",
            "4 is too few for 4 blocks; use at least 8, or fewer block ends",
        ),
        (
            {"strategy.generations": 3},
            "search.epochs",
            "4 is too few for 2 blocks, each taught by 3 teachers; use at least 12, or fewer generations",
        ),
        (
            {"strategy.generations": 2, "strategy.block_ends": [1, 2]},
            "search.epochs",
            "for 3 blocks, each taught by 2 teachers; use at least 12, or fewer block ends or generations",
        ),
        ({"target.also": ["30%"], "search.epochs": 20}, "target.also", "DNA ends with one network"),
        ({"runtime.compile": True}, "runtime.compile", "cannot be compiled"),
        ({"retrain.teacher": "full"}, "retrain.teacher", "has a teacher of its own"),
        (
            {"retrain.teacher": "full", "strategy": {"kind": "dna", "recipe": "dna++"}},
            "retrain.teacher",
            "would be that teacher, and dna++ never trains all operations of a layer at once; leave it at none",
        ),
        (
            {"retrain.epochs": 0, "strategy.generations": 2, "search.epochs": 8},
            "retrain.epochs",
            "before they are trained",
        ),
        ({"retrain.epochs": 0, "strategy.teacher_epochs": None}, "strategy.teacher_epochs", "knows nothing"),
        (
            {"space": {"kind": "cells"}},
            "strategy.kind",
            "DNA searches the space chain, not cells; choose chain as the space, or another method",
        ),
    ],
)
def test_what_dna_cannot_do_is_said_where_it_was_asked_for(changes: dict[str, Any], field: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as problem:
        parse(raw({**SHORT, **changes}))
    assert field in dict(problem.value.problems) and sentence in dict(problem.value.problems)[field]


def test_too_many_candidates_are_refused_many_are_warned_of() -> None:
    def look(**method: Any) -> Any:
        space = {"kind": "chain", "layers": 8, "channels": 8, "reductions": [1, 7]}
        changes = {"strategy": {"kind": "dna", **method}, "space": space, "target.value": "50%", "search.epochs": 30}
        return outlook(configuration(changes), packed_digits().facts)

    (problem,) = look(block_ends=(1, 7)).problems
    assert problem[0] == "strategy.block_ends" and "block 2 has 100,842 candidates" in problem[1]
    there = look(block_ends=(1, 6, 7))
    assert not there.problems and "block 2 has 14,406" in dict(there.warnings)["strategy.block_ends"]
    many = look(widths=(0.25, 0.5, 0.75, 1.0))
    assert not many.problems


def test_a_share_of_memory_that_changes_nothing_is_warned_of() -> None:
    warned = dict(outlook(configuration({**SHORT, "runtime.memory_share": 0.5}), packed_digits().facts).warnings)
    assert "DNA alone keeps all" in warned["runtime.memory_share"]
    assert "give a smaller search.batch_size or fewer channels" in warned["runtime.memory_share"]
    assert "runtime.memory_share" not in dict(outlook(configuration(SHORT), packed_digits().facts).warnings)


@pytest.mark.parametrize("rated_blocks", [0, 1])
def test_with_blocks_that_were_not_rated_a_network_is_found_at_once_and_is_not_small(rated_blocks: int) -> None:
    plan = chain_plan(layers=9, kernels=(3, 5, 7), expansions=(2, 3), reductions=(3, 6))
    strategy, net = strategy_of(plan, (3, 6, 9), share=0.5), lived_in(plan)
    for block in strategy.blocks[:rated_blocks]:
        ratings = strategy._ratings(block)
        ratings.copy_(torch.rand(ratings.shape, generator=generator("cpu", 1), dtype=torch.float64))
    (decision,) = strategy.decide(net, moment_of(strategy, net, 2), "end", ())
    assert 0.9 < architecture(plan, decision.kept).params / strategy.bounds["params"] <= 1
    assert decision.paths.visited < 100_000 and not decision.paths.networks and not decision.ladder


def test_limits_that_no_network_meets_together_are_refused_beforehand() -> None:
    space = {**CHAIN, "kernels": [5], "expansions": [6], "attention": [1]}
    plan = chain_plan(kernels=(5,), expansions=(6,), attention=(1,), classes=10)
    (params, _), (macs, _) = (extremes(plan, (1.0,), metric) for metric in ("params", "macs"))
    changes = {**SHORT, "space": space, "target.value": params, "target.limits.macs": macs}
    (problem,) = outlook(configuration(changes), packed_digits().facts).problems
    assert problem[0] == "target.limits.macs" and "at once; give more of one of them" in problem[1]
    assert outlook(configuration({**changes, "target.limits.macs": "100%"}), packed_digits().facts).feasible


def test_too_few_images_to_rate_by_are_refused() -> None:
    changes = {**SHORT, "strategy.decision_fraction": 0.05, "data.limit": 24, "search.batch_size": 8}
    problems = dict(outlook(configuration(changes), packed_digits().facts).problems)
    assert "left to rate candidates by; hold out more" in problems["strategy.decision_fraction"]


def test_a_preset_asks_for_no_more_epochs_than_there_may_be() -> None:
    space = {"kind": "chain", "layers": 20}
    asked = parse({"preset": "thorough", "space": space, "strategy": {"kind": "dna", "generations": 5}})
    assert asked.search.epochs == 2000


def test_what_costs_more_is_estimated_to() -> None:
    def estimate(**method: Any) -> dict[str, float]:
        return outlook(
            configuration({**SHORT, "strategy": {"kind": "dna", **method}, "search.epochs": 16}), FACTS
        ).estimate

    plain = estimate()
    for costlier in ({"recipe": "dna++", "paths": 4}, {"generations": 3, "growth": 3.0}):
        assert estimate(**costlier)["seconds_cpu"] > 1.5 * plain["seconds_cpu"]
        assert estimate(**costlier)["memory_mib"] > plain["memory_mib"]


def test_no_more_images_are_estimated_to_be_rated_on_than_are_held_out() -> None:
    def estimate(images: int) -> dict[str, float]:
        changes = {**SHORT, "strategy.rating_images": images}
        return outlook(configuration({**changes, "strategy.decision_fraction": 0.5}), FACTS).estimate

    held = int(0.5 * splits.sizes(FACTS, configuration(SHORT).data)["train"])
    assert estimate(held) == estimate(held + 1) == estimate(20_000)
    fewer = estimate(held // 2)
    assert all(fewer[name] < estimate(held)[name] for name in ("seconds_cpu", "memory_mib"))


def test_an_epoch_is_told_once_though_the_rating_that_follows_is_interrupted(tmp_path: Path) -> None:
    class WhileRating(Control):
        looks = 0

        @property
        def requested(self) -> str | None:  # type: ignore[override]
            self.looks += 1
            return "a test" if self.looks == self.at else None

        at = 0

    counter = WhileRating()
    said_by(SHORT, tmp_path / "whole", counter)
    told: set[int] = set()
    for at in range(counter.looks // 2, counter.looks, 5):
        control, folder = WhileRating(), tmp_path / str(at)
        control.at = at
        with pytest.raises(Interrupted):
            said_by(SHORT, folder, control)
        said_by(SHORT, folder)
        lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        epochs = [(line["stage"], line["epoch"]) for line in lines if line["kind"] == "epoch_finished"]
        assert epochs == sorted(set(epochs)), at
        told.add(at)
    assert told


def test_stopped_early_it_hands_out_a_network_within_the_target(tmp_path: Path) -> None:
    for number, (kind, left, sentence) in enumerate(
        (
            (
                "retrain_epoch",
                [1, 2],
                "No block was rated before the search was ended, so all candidates were chosen by",
            ),
            ("block_rated", [2], "Block 2 was not rated before the search was ended, so its candidate was chosen by"),
        )
    ):
        control, said = Control(), []
        for event in search(configuration(SHORT), tmp_path / str(number), control=control):
            said.append(event)
            if event.kind == kind:
                control.stop = True
        (told,) = (event.report for event in said if isinstance(event, events.ResultReady))
        assert told["ended_early"] == ["search"] and told["rating"]["unrated"] == left
        assert f"{sentence} size alone" in told["rating"]["sentence"]
        card = (tmp_path / str(number) / "result" / "README.md").read_text()
        assert told["rating"]["sentence"] in card
        assert ("Found by dna" in card) == (len(left) < 2)
        assert 0.97 * told["target"]["value"] <= told["achieved"]["params"] <= told["target"]["value"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("widths", [(1.0,), (0.5, 1.0)])
def test_random_networks_have_one_operation_a_layer_and_the_size_that_was_found(
    share: float, widths: tuple[float, ...]
) -> None:
    plan = plan_of(layers=6, reductions=(2, 4), kernels=(3, 5, 7))
    net, strategy = lived_in(plan), strategy_of(plan, (2, 4, 6), widths=widths)
    low, high = extremes(plan, widths, "params")
    bounds = {"params": round(low + share * (high - low))}
    for number in range(10):
        kept = strategy.at_random(net, generator("cpu", number), bounds)
        assert 0.97 * bounds["params"] <= architecture(plan, kept).params <= bounds["params"]
        for rung in strategy.rungs:
            assert tuple(kept[rung.choice].nonzero().flatten().tolist()) in rung.options
