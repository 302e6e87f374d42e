"""Promises of the MGAS strategy: what learns, in which direction, what is cut, and what comes back."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from small import configuration, digits, give, informed, living, small_plan
from torch import Tensor, nn

from nasengine import catalogue, narration, train
from nasengine.architecture import Plan, lowered, smallest
from nasengine.costs import savings
from nasengine.data import Images
from nasengine.device import generator
from nasengine.objectives import size_penalty, task_loss
from nasengine.outlook import resolved
from nasengine.strategies import mgas
from nasengine.strategies.base import Batch, Decision, Moment, Stage
from nasengine.supernet import Supernet, architecture, everything

LEVELS = ("operation", "filter", "weight")
STEPS = 4


def plan_of(**shape: Any) -> Plan:
    return small_plan(**{"cells_": 2, "nodes": 1, "cuts": (1,), **shape})


def strategy_of(plan: Plan, *shares: float, **changes: Any) -> mgas.MGAS:
    """With targets at these shares of the full size, from large to small; at 40 % unless told otherwise."""
    wanted = configuration({key.replace("__", "."): value for key, value in changes.items()})
    full = lowered(plan, {}).size(wanted.target.metric)
    make = resolved(catalogue.STRATEGIES["mgas"].paths[wanted.strategy.recipe])
    return make(plan, wanted, tuple(int(share * full) for share in shares or (0.4,)), {})


def born(plan: Plan) -> Supernet:
    return Supernet.born(plan, generator("cpu", 1, "weights"))


def moment_of(stage: Stage, epoch: int | None = None, step: int = 0) -> Moment:
    """In the first pruning epoch, unless told otherwise."""
    return Moment(stage=stage, epoch=stage.warmup_epochs if epoch is None else epoch, step=step, steps=STEPS)


def batches(plan: Plan, n: int = 2, size: int = 8) -> list[Batch]:
    stream = generator("cpu", 2, "batches")
    side = plan.image_size
    return [
        (torch.randn(size, plan.groups["image"], side, side, generator=stream), torch.arange(size) % 3)
        for _ in range(n)
    ]


def rested(plan: Plan, *shares: float, **changes: Any) -> tuple[Supernet, mgas.MGAS, Stage]:
    """At the end of the last stage's warm-up: thresholds stand under nearly all scores."""
    net, strategy = born(plan), strategy_of(plan, *shares, **changes)
    stage = strategy.stages(net)[-1]
    warmed(net, strategy, stage)
    return net, strategy, stage


def warmed(net: Supernet, strategy: mgas.MGAS, stage: Stage) -> None:
    informed(net, strategy, moment_of(stage, stage.warmup_epochs - 1, STEPS - 1), batches(net.plan)[0])


def masks_at(net: Supernet, strategy: mgas.MGAS, stage: Stage) -> dict[str, Tensor]:
    return dict(strategy.draw(net, moment_of(stage))[0].masks)


# -- stages -----------------------------------------------------------------------------------------------------------


def test_stages_share_out_the_epochs_and_end_at_the_target() -> None:
    plan = plan_of(cells_=3, cuts=(1, 2))
    net = born(plan)
    for epochs in (12, 13, 29):
        strategy = strategy_of(plan, search__epochs=epochs)
        stages = strategy.stages(net)
        assert [stage.exit for stage in stages] == ["exit1", "exit2", "head"]
        assert sum(stage.epochs for stage in stages) == epochs
        assert [stage.last for stage in stages] == [False, False, True]
        assert [stage.fits for stage in stages] == [False, False, True]
        assert strategy.targets == (stages[-1].target,)
        assert all(1 <= stage.warmup_epochs < stage.epochs and stage.opens for stage in stages)
        shares = [stage.target / stage.start_size for stage in stages]
        assert shares == sorted(shares, reverse=True)


def test_each_further_target_has_a_stage_of_the_whole_network() -> None:
    plan = plan_of(cells_=3, cuts=(1,))
    strategy = strategy_of(plan, 0.5, 0.3, 0.2, search__epochs=23)
    stages = strategy.stages(born(plan))
    assert [stage.exit for stage in stages] == ["exit1", "head", "head", "head"]
    assert [stage.fits for stage in stages] == [False, True, True, True]
    assert [stage.last for stage in stages] == [False, False, False, True]
    assert tuple(stage.target for stage in stages[1:]) == strategy.targets
    assert sum(stage.epochs for stage in stages) == 23 and stages[1].epochs == max(stage.epochs for stage in stages)
    assert stages[2].name == f"on to {strategy.targets[1]:,} params" and stages[1].name == "the whole network"


@pytest.mark.parametrize("recipe", ["coppice", "published"])
def test_early_stages_close_at_the_shares_that_were_asked_for(recipe: str) -> None:
    plan = plan_of(cells_=3, cuts=(1, 2))
    asked = {"space__cells": 3, "strategy__cuts": [1, 2], "search__epochs": 20, "strategy__recipe": recipe}
    stages = strategy_of(plan, strategy__stage_shares=[0.7, 0.55], **asked).stages(born(plan))
    assert [stage.target for stage in stages[:2]] == [
        int(share * stage.start_size) for share, stage in zip((0.7, 0.55), stages, strict=False)
    ]
    low = strategy_of(plan, strategy__stage_shares=[0.001, 0.001], **asked).stages(born(plan))
    for stage in low[:2]:
        assert stage.target == smallest(plan, LEVELS, "params", stage.exit), "never what cannot be reached"


def test_a_warm_up_trains_weights_only() -> None:
    plan = plan_of()
    net, strategy = born(plan), strategy_of(plan)
    stage = strategy.stages(net)[-1]
    moment = moment_of(stage, 0)
    scores = strategy.optimizer(moment)
    before = {name: value.clone() for name, value in strategy.state_dict().items()}
    weights = train.weights_optimizer(net, 0.05, 0.0)
    batch, held = batches(plan)
    losses, draw = train.search_step(net, strategy, moment, batch, held, weights, scores, "fp32")
    assert set(losses) == {"task", "accuracy"} and draw.size.item() == stage.start_size
    after = strategy.state_dict()
    seen = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert seen and all(name.startswith("importance.") for name in seen), "it looks on"


def test_next_to_nothing_is_off_when_pruning_begins_and_soon_more_is() -> None:
    net, strategy, stage = rested(plan_of(nodes=2))

    def off(level: str) -> int:
        masks = masks_at(net, strategy, stage)
        return sum(int((masks[choice.name] == 0).sum()) for choice in strategy.choices[level])

    for level in LEVELS[:2]:
        assert off(level) <= 1 + mgas.LOW * strategy.total[level]
        with torch.no_grad():
            strategy.thresholds[level] += 0.1
        assert off(level) > 1 + mgas.LOW * strategy.total[level]


def test_what_is_usual_is_settled_anew_in_each_stage() -> None:
    """New blocks are judged beside the old ones, whatever these were like when they were alone."""
    plan = plan_of(cells_=3, nodes=2, cuts=(1, 2))
    net = born(plan)
    strategy = strategy_of(plan, space__cells=3, strategy__cuts=[1, 2], search__epochs=20)
    for stage in strategy.stages(net):
        net.enter(stage.exit)
        warmed(net, strategy, stage)
        for level in LEVELS[:2]:
            assert strategy.scores(level)[net.flat[level].index].median() == pytest.approx(0.5, abs=0.05)


def test_a_filter_that_is_off_keeps_what_was_seen_of_it() -> None:
    """No slope passes the rectifier behind it; also of those within a candidate that is off."""
    net, strategy, stage = rested(plan_of(nodes=2))
    scores = {level: strategy.scores(level) for level in LEVELS[:2]}
    for level in LEVELS[:2]:
        strategy.thresholds[level].data.fill_(float(scores[level].median()))
    off = torch.ones(len(net.flat["filter"].index), dtype=torch.bool)
    for batch in batches(net.plan, 6):
        off &= strategy.draw(net, moment_of(stage))[0].flat["filter"] == 0
        informed(net, strategy, moment_of(stage), batch)
    assert 3 < int(off.sum()) < len(off) - 3
    now = strategy.importance.benefits("filter")[net.flat["filter"].index]
    net2, fresh, _ = rested(plan_of(nodes=2))
    before = fresh.importance.benefits("filter")[net2.flat["filter"].index]
    assert torch.equal(now[off], before[off]) and (now[~off] != before[~off]).float().mean() > 0.5
    operations = strategy.importance.benefits("operation") != fresh.importance.benefits("operation")
    assert operations.float().mean() > 0.9, "candidates are seen also where they are off"


def limited(**changes: Any) -> tuple[Plan, Supernet, mgas.MGAS]:
    """With a target of 40 % of the parameters and a limit of 20 % of the multiply-adds."""
    plan = plan_of(nodes=2)
    limit = lowered(plan, {}).macs // 5
    wanted = configuration({key.replace("__", "."): value for key, value in changes.items()})
    return plan, born(plan), mgas.strategy(plan, wanted, (int(0.4 * lowered(plan, {}).params),), {"macs": limit})


def test_early_stages_leave_room_for_each_limit_by_itself() -> None:
    plan, net, strategy = limited()
    early, last = strategy.stages(net)
    assert last.bounds == {"params": last.target, "macs": lowered(plan, {}).macs // 5}
    front = lowered(plan, {}, exit_="exit1")
    assert early.bounds["macs"] == max(int(0.2**0.5 * front.macs), smallest(plan, LEVELS, "macs", "exit1"))
    assert early.bounds["params"] == max(int(0.4**0.5 * front.params), smallest(plan, LEVELS, "params", "exit1"))
    by_hand = limited(strategy__stage_shares=[0.9])[2].stages(net)[0]
    assert by_hand.bounds == {"params": int(0.9 * front.params), "macs": early.bounds["macs"]}


def test_the_limit_that_is_most_exceeded_steers() -> None:
    """Its slope is what the thresholds feel, and units cost by both metrics."""
    _, net, strategy = limited()
    stage = strategy.stages(net)[-1]
    warmed(net, strategy, stage)
    late = moment_of(stage, stage.epochs - 1, STEPS - 1)
    draw = strategy.draw(net, late)[0]
    flat = {level: masks.detach() for level, masks in draw.flat.items()}
    shares = {metric: net.count(metric)(flat).item() / bound for metric, bound in stage.bounds.items()}
    assert shares["macs"] > shares["params"] > 1, "a fifth is less than two fifths"
    assert draw.share.item() == pytest.approx(shares["macs"], rel=1e-5) and draw.wanted == stage.target
    draw.share.backward()
    felt = strategy.thresholds["filter"].grad.clone()
    strategy.zero_grad()
    net.count("macs")(strategy.draw(net, late)[0].flat).backward()
    assert torch.allclose(felt * stage.bounds["macs"], strategy.thresholds["filter"].grad, rtol=1e-4)
    index = net.flat["operation"].index
    both = [savings(net.count(metric), flat)["operation"] for metric in stage.bounds]
    informed(net, strategy, late, batches(net.plan)[0])
    assert torch.allclose(strategy.importance.cost_operation[index], sum(both) / 2, rtol=1e-4)


# -- what learns from what --------------------------------------------------------------------------------------------


def stepped(seen: int, held: int | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and scores after one pruning step with batches of these numbers; none held out means one pass for all."""
    plan = plan_of()
    net, strategy, stage = rested(plan)
    given = batches(plan, 4)
    moment = moment_of(stage)
    weights, scores = train.weights_optimizer(net, 0.05, 0.0), strategy.optimizer(moment)
    train.search_step(
        net, strategy, moment, given[seen], None if held is None else given[held], weights, scores, "fp32"
    )
    return {name: value.detach() for name, value in net.live.items()}, {
        name: value.detach() for name, value in strategy.named_parameters()
    }


def test_weights_learn_from_the_one_batch_and_scores_and_thresholds_from_the_other() -> None:
    weights, scores = stepped(0, 1)
    others, other_scores = stepped(0, 2)
    assert all(torch.equal(value, others[name]) for name, value in weights.items()), "no weight saw what was held out"
    assert not torch.equal(scores["alpha"], other_scores["alpha"])
    assert not torch.equal(scores["thresholds.weight"], other_scores["thresholds.weight"])
    assert not all(torch.equal(value, stepped(3, 1)[0][name]) for name, value in weights.items())


def test_scores_move_as_the_loss_on_the_held_out_batch_says() -> None:
    """Adam's first step goes by the sign of the gradient: that of task and size on the held-out batch, after the
    weights have moved."""
    plan = plan_of()
    net, strategy, stage = rested(plan)
    seen, held = batches(plan)
    moment = moment_of(stage)
    before = {name: value.clone() for name, value in strategy.state_dict().items()}
    weights, scores = train.weights_optimizer(net, 0.05, 0.0), strategy.optimizer(moment)
    train.search_step(net, strategy, moment, seen, held, weights, scores, "fp32")
    moved = {name: value.detach() - before[name] for name, value in strategy.named_parameters()}
    strategy.load_state_dict(before)
    strategy.zero_grad()
    draws = strategy.draw(net, moment)
    losses, _ = strategy.losses(net, moment, held, draws)
    sum(losses.values()).backward()
    for name, value in strategy.named_parameters():
        clear = value.grad.abs() > 1e-4
        assert clear.any(), name
        assert torch.equal(moved[name][clear].sign(), -value.grad[clear].sign()), name


def test_without_a_held_out_batch_one_pass_teaches_both() -> None:
    (weights, scores), (same, others) = stepped(0, None), stepped(0, 1)
    assert all(torch.equal(value, same[name]) for name, value in weights.items())
    assert not torch.equal(scores["alpha"], others["alpha"])


# -- masks and gradients ----------------------------------------------------------------------------------------------


def test_a_negative_pressure_lets_units_return() -> None:
    net, strategy, stage = rested(plan_of())
    draw = strategy.draw(net, moment_of(stage))[0]
    size_penalty(draw.size, -1.0).backward()
    assert (strategy.thresholds["filter"].grad > 0).any() and (strategy.thresholds["filter"].grad >= 0).all()


@pytest.mark.parametrize("closed", LEVELS)
def test_a_level_that_is_closed_is_never_cut(closed: str) -> None:
    levels = [level for level in LEVELS if level != closed]
    net, strategy, stage = rested(plan_of(), 0.6, strategy__granularities=levels)
    with torch.no_grad():
        for level in LEVELS:
            strategy.thresholds[level].fill_(0.9)
    for point in ("cadence", "end"):
        (decision,) = strategy.decide(net, moment_of(stage, stage.epochs - 1), point, [])
        for choice in net.plan.choices:
            if choice.granularity == closed:
                assert decision.kept[choice.name].all()
    assert architecture(net.plan, decision.kept).params <= stage.target


# -- control ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height", [0.1, 0.35, 0.8])
def test_equal_ratios_keep_the_same_share_of_every_choice_and_the_best_of_it(height: float) -> None:
    net, strategy, stage = rested(plan_of(nodes=2), strategy__ratios="equal")
    with torch.no_grad():
        for limits in strategy.thresholds.values():
            assert len(limits) == 1
            limits.fill_(height)
    masks = masks_at(net, strategy, stage)
    for choice in net.plan.choices:
        on = int(masks[choice.name].sum())
        assert abs(on - (1 - height) * choice.units) <= 0.51 or on == choice.floor, choice.name
    for level in ("operation", "filter"):
        scores = net.flat[level].split(strategy.scores(level)[net.flat[level].index])
        for name, score in scores.items():
            on = masks[name] > 0
            assert on.all() or score[on].min() >= score[~on].max(), name
    (cut,) = strategy.decide(net, moment_of(stage, stage.epochs - 1, STEPS - 1), "end", ())
    full = lowered(net.plan, {}).params
    assert 0.97 * strategy.targets[0] <= architecture(net.plan, cut.kept).params <= strategy.targets[0] < full
    shares = [
        float(cut.kept[c.name].float().mean()) for c in net.plan.choices if c.units >= 8 and c.granularity != "weight"
    ]
    assert max(shares) - min(shares) <= 2 / 8


def test_pruning_for_good_leaves_equal_ratios_where_they_are() -> None:
    net, strategy, stage = rested(plan_of(nodes=2), strategy__ratios="equal")
    with torch.no_grad():
        for limits in strategy.thresholds.values():
            limits.fill_(0.4)
    before = {name: int(mask.sum()) for name, mask in masks_at(net, strategy, stage).items()}
    strategy.on_operation.zero_()
    strategy.on_filter.zero_()
    (cut,) = strategy.decide(net, moment_of(stage), "cadence", ())
    net.commit(cut.kept)
    after = masks_at(net, strategy, stage)
    for name, mask in after.items():
        if net.plan.choice[name].granularity != "weight":
            assert int(mask.sum()) == before[name], name
        else:
            assert abs(float(mask.detach().mean()) - 0.6) <= 0.51 / mask.numel() or int(mask.sum()) == 1, name
    _, _, margins = strategy._margins(net)
    for name, mask in after.items():
        margin = margins[name][net.kept[name]]
        if name in net.plan.weighs:
            weight = f"{net.plan.weighs[name]}/weight"
            margin = net.gather(weight, {weight: margins[name]})
        held = mask.sum() <= net.plan.choice[name].floor
        assert held or torch.equal(margin.flatten() > 0, mask.flatten() > 0), f"{name}: what is judged is what is on"


def test_the_wanted_size_falls_from_the_full_size_to_the_target_and_stays() -> None:
    net, strategy, stage = rested(plan_of())
    wanted = [
        strategy.draw(net, moment_of(stage, epoch, step))[0].wanted
        for epoch in range(stage.epochs)
        for step in range(STEPS)
    ]
    assert wanted[0] == stage.start_size and wanted == sorted(wanted, reverse=True)
    assert wanted[-1] == pytest.approx(stage.target)


def test_too_large_means_pressure_and_too_small_means_its_opposite() -> None:
    net, strategy, stage = rested(plan_of())
    late = moment_of(stage, stage.epochs - 1, STEPS - 1)
    draws = strategy.draw(net, late)
    strategy.after_backward(net, late, draws)
    assert strategy.integral > 0
    losses, _ = strategy.losses(net, late, batches(net.plan)[0], draws)
    assert losses["size"] > 0
    for _ in range(200):
        strategy.after_backward(net, late, draws)
    assert strategy.integral == mgas.PRESSURE_LIMIT
    small = [dataclasses.replace(draws[0], share=torch.tensor(0.01))]
    for _ in range(200):
        strategy.after_backward(net, late, small)
    assert strategy.integral == -mgas.PRESSURE_LIMIT


def trained(net: Supernet, strategy: mgas.MGAS, stage: Stage, images: Images, batch: int = 34) -> list[float]:
    """A whole stage without commits; the size at each step."""
    feeds = train.Feeds.of(images, batch, 1, strategy.decision_fraction)
    learning, deciding = feeds.learning, feeds.deciding
    weights = train.weights_optimizer(net, 0.05, 3e-4)
    scores = strategy.optimizer(Moment(stage=stage, epoch=0, step=0, steps=learning.steps))
    sizes = []
    for epoch in range(stage.epochs):
        order, decisions = learning.order("search", epoch), deciding.order("decide", epoch)
        for step in range(learning.steps):
            moment = Moment(stage=stage, epoch=epoch, step=step, steps=learning.steps)
            batch_ = learning.batch(order[step], "search", epoch, step)
            held = deciding.batch(decisions[step % len(decisions)], "decide", epoch, step)
            _, draw = train.search_step(net, strategy, moment, batch_, held, weights, scores, "fp32")
            sizes.append(float(draw.size.detach()))
    return sizes


def test_the_size_follows_the_target_without_any_commit() -> None:
    plan = small_plan(classes=10)
    net, strategy = born(plan), strategy_of(plan, search__epochs=16, strategy__cuts=[])
    (stage,) = strategy.stages(net)
    sizes = trained(net, strategy, stage, digits(200))
    assert sizes[0] == stage.start_size
    assert 0.6 * stage.target < sum(sizes[-5:]) / 5 < 1.4 * stage.target


# -- decisions --------------------------------------------------------------------------------------------------------


def test_the_last_stage_ends_at_the_target_and_never_above() -> None:
    for share in (0.15, 0.4, 0.8):
        net, strategy, stage = rested(plan_of(nodes=2), share)
        (decision,) = strategy.decide(net, moment_of(stage, stage.epochs - 1, STEPS - 1), "end", [])
        assert 0.97 * stage.target <= architecture(net.plan, decision.kept).params <= stage.target


def test_an_early_stage_above_its_target_is_cut_to_it_and_one_below_is_left_as_it_is() -> None:
    plan = plan_of(cells_=3, nodes=2)
    net, strategy = born(plan), strategy_of(plan)
    early = strategy.stages(net)[0]
    net.enter(early.exit)
    warmed(net, strategy, early)
    (decision,) = strategy.decide(net, moment_of(early, early.epochs - 1), "end", [])
    size = architecture(plan, decision.kept, early.exit).params
    assert 0.97 * early.target <= size <= early.target
    assert all(decision.kept[choice.name].all() for choice in plan.choices if choice.block >= early.blocks)
    with torch.no_grad():
        for level in LEVELS:
            strategy.thresholds[level].fill_(0.95)
    (decision,) = strategy.decide(net, moment_of(early, early.epochs - 1), "end", [])
    masks = masks_at(net, strategy, early)
    assert architecture(plan, decision.kept, early.exit).params < 0.9 * early.target
    for name in net.running:
        assert int(decision.kept[name].sum()) <= int(masks[name].sum()) + 1, "nothing is brought back to fill it up"


def test_a_cadence_cuts_only_what_was_off_for_long() -> None:
    net, strategy, stage = rested(plan_of())
    unit = 5
    for level in LEVELS:
        strategy.thresholds[level].data.fill_(0.1)
    for level in LEVELS[:2]:
        scores = torch.full((strategy.total[level],), 0.9)
        scores[unit] = 0.9 if level == "operation" else 0.002  # a unit of the stem, far below its threshold from now on
        give(strategy, level, scores)
    (decision,) = strategy.decide(net, moment_of(stage), "cadence", [])
    assert all(torch.equal(decision.kept[name], alive) for name, alive in net.kept.items())
    moment = moment_of(stage)
    for _ in range(40):
        strategy.after_backward(net, moment, strategy.draw(net, moment))
    (decision,) = strategy.decide(net, moment, "cadence", [])
    assert (~decision.kept["stem"]).nonzero().flatten().tolist() == [unit]


def test_an_earlier_cell_is_judged_again_in_a_later_stage() -> None:
    """Alive through the first stage, a filter of cell 0 dies in the second; what the first stage cut stays cut."""
    plan = plan_of(cells_=3)
    net, strategy = born(plan), strategy_of(plan)
    first, second = strategy.stages(net)
    net.enter(first.exit)
    warmed(net, strategy, first)
    place = sum(
        c.units for c in strategy.choices["filter"][: [c.name for c in strategy.choices["filter"]].index("c0_n0")]
    )
    scores = torch.full((strategy.total["filter"],), 0.9)
    scores[place] = 0.002
    give(strategy, "filter", scores)
    strategy.thresholds["filter"].data.fill_(0.1)
    net.commit(strategy.decide(net, moment_of(first), "end", [])[0].kept)
    assert net.kept["c0_n0"].tolist() == [False, True, True, True]
    net.enter(second.exit)
    warmed(net, strategy, second)
    scores[place + 2] = 0.002
    give(strategy, "filter", scores)
    strategy.thresholds["filter"].data.fill_(0.1)
    moment = moment_of(second)
    for _ in range(40):
        strategy.after_backward(net, moment, strategy.draw(net, moment))
    net.commit(strategy.decide(net, moment, "cadence", [])[0].kept)
    assert net.kept["c0_n0"].tolist() == [False, True, False, True]


def points_of(strategy: mgas.MGAS, net: Supernet) -> list[list[tuple[str, ...]]]:
    """Stage by stage what is decided after each epoch."""
    return [
        [tuple(strategy.points(moment_of(stage, epoch, STEPS - 1))) for epoch in range(stage.epochs)]
        for stage in strategy.stages(net)
    ]


def test_pruning_is_decided_at_the_cadence_and_what_returns_after_each_stage_but_the_last() -> None:
    plan = plan_of()
    strategy = strategy_of(plan, search__epochs=24, strategy__commit_every=2)
    assert points_of(strategy, born(plan)) == [
        [(), (), (), ("cadence",), (), ("cadence",), (), ("end", "regrow")],
        [(), (), (), *[(), ("cadence",)] * 6, ("end",)],
    ]


def test_units_may_return_within_later_stages_but_neither_in_a_warm_up_nor_late() -> None:
    plan = plan_of()
    changes = {"search__epochs": 24, "strategy__commit_every": 1, "strategy__regrow_every": 3}
    first, second = points_of(strategy_of(plan, **changes), born(plan))
    assert [epoch for epoch, points in enumerate(first) if "regrow" in points] == [7]
    assert [epoch for epoch, points in enumerate(second) if "regrow" in points] == [5, 8], "of 13 pruning epochs"
    assert second[5] == ("cadence", "regrow")


@pytest.mark.parametrize("changes", [{"strategy__regrow_fraction": 0}, {"strategy__regrow_levels": []}])
def test_regrowth_can_be_switched_off(changes: dict[str, Any]) -> None:
    plan = plan_of()
    strategy = strategy_of(plan, strategy__regrow_every=1, search__epochs=16, **changes)
    assert not any("regrow" in points for stage in points_of(strategy, born(plan)) for points in stage)


def cut(plan: Plan) -> dict[str, Tensor]:
    """A third of the operations and filters and half of the weights are gone."""
    kept = everything(plan)
    for choice in plan.choices:
        kept[choice.name].view(-1)[1 :: 2 if choice.granularity == "weight" else 3] = False
    return kept


@pytest.mark.parametrize("levels", [["operation"], ["filter"], ["weight"], ["operation", "weight"]])
def test_only_the_levels_that_may_return_do(levels: list[str]) -> None:
    plan = plan_of(nodes=2, cuts=())
    net, strategy, stage = rested(plan, strategy__regrow_levels=levels, strategy__cuts=[])
    net.commit(cut(plan))
    returned, _ = regrowth(net, strategy, stage, batches(plan))
    back = {choice.granularity for choice in plan.choices if bool(returned[choice.name].any())}
    assert back == set(levels)


def here(net: Supernet, name: str, units: Tensor) -> Tensor:
    """Flags of all units of a choice -> those of the units that live."""
    weight = f"{net.plan.weighs.get(name)}/weight"
    return net.gather(weight, {weight: units}) if name in net.plan.weighs else units[net.units[name]]


@pytest.mark.parametrize("epochs", [0, 1, 2])
def test_what_returned_is_sheltered_for_as_long_as_asked_and_then_judged_like_all_others(epochs: int) -> None:
    plan = plan_of(nodes=2, cuts=())
    net, strategy, stage = rested(plan, strategy__protect_epochs=epochs, strategy__cuts=[])
    net.commit(cut(plan))
    returned, _ = regrowth(net, strategy, stage, batches(plan))
    net.commit({name: net.kept[name] | units for name, units in returned.items()})
    with torch.no_grad():
        for level in LEVELS:
            strategy.thresholds[level].fill_(100.0)
    moment = moment_of(stage)
    back = {name: here(net, name, returned[name]) for name in net.running}
    assert all(any(bool(back[c.name].any()) for c in strategy.choices[level] if c.name in back) for level in LEVELS)
    for _ in range(epochs * STEPS):
        masks = masks_at(net, strategy, stage)
        assert all(bool(masks[name][units].all()) for name, units in back.items())
        strategy.after_backward(net, moment, strategy.draw(net, moment))
    masks = masks_at(net, strategy, stage)
    assert all(int(masks[choice.name].sum()) == choice.floor for choice in plan.choices if choice.name in net.running)


def test_a_cell_whose_masks_leave_skips_and_pools_alone_keeps_its_best_convolution_and_switches_it_on() -> None:
    plan = plan_of(cuts=(), cells_=3, reductions=())
    net, strategy, stage = rested(plan, strategy__cuts=[])
    labels = plan.choice["c1_n0_ops"].labels
    scores = torch.full((strategy.total["operation"],), 0.9)
    sizes = [choice.units for choice in strategy.choices["operation"]]
    own = scores.split(sizes)[[c.name for c in strategy.choices["operation"]].index("c1_n0_ops")]
    for unit, label in enumerate(labels):
        own[unit] = 0.2 if "conv" in label else 0.9
    own[labels.index("s1 dil_conv_5x5")] = 0.3
    give(strategy, "operation", scores)
    strategy.thresholds["operation"].data.fill_(0.5)
    masks = masks_at(net, strategy, stage)
    assert {labels[i] for i in masks["c1_n0_ops"].nonzero().flatten().tolist()} == {
        label for label in labels if "conv" not in label
    }
    moment = moment_of(stage)
    for _ in range(40):
        strategy.after_backward(net, moment, strategy.draw(net, moment))
    (decision,) = strategy.decide(net, moment, "cadence", [])
    unit = labels.index("s1 dil_conv_5x5")
    assert decision.averted == [("c1_n0_ops", unit)]
    assert {labels[i] for i in decision.kept["c1_n0_ops"].nonzero().flatten().tolist()} == {
        "s1 dil_conv_5x5",
        *(label for label in labels if "conv" not in label),
    }
    (event,) = narration.collapse_averted(net, decision, stage=stage, epoch=3)
    assert (event.block, event.choice, event.label) == ("cell 1", "c1_n0_ops", "s1 dil_conv_5x5")
    assert event.threshold == pytest.approx(0.5) and event.score < event.threshold
    net.commit(decision.kept)
    place = net.units["c1_n0_ops"].index(unit)
    assert strategy.decide(net, moment, "cadence", [])[0].averted == []
    with torch.no_grad():
        strategy.thresholds["operation"].fill_(100.0)
    for _ in range(STEPS):
        assert masks_at(net, strategy, stage)["c1_n0_ops"][place] == 1, "it has an epoch to prove itself"
        strategy.after_backward(net, moment, strategy.draw(net, moment))
    assert masks_at(net, strategy, stage)["c1_n0_ops"][place] == 0


def test_a_published_stage_closes_at_its_size_and_a_later_one_looks_for_an_epoch_before_operations_return() -> None:
    """Thresholds far above all scores: the first cadence brings each stage far below its size."""
    plan = plan_of(cells_=3, cuts=(1, 2))
    asked = {"space__cells": 3, "strategy__cuts": [1, 2], "search__epochs": 20, "strategy__recipe": "published"}
    net, strategy = born(plan), strategy_of(plan, **asked)
    first, second, last = strategy.stages(net)

    def pressed(stage: Stage) -> Decision:
        net.enter(stage.exit)
        strategy.after_backward(net, moment_of(stage, 0), [])
        with torch.no_grad():
            for level in ("operation", "filter"):
                strategy.thresholds[level].fill_(0.9)
        (decision,) = strategy.decide(net, moment_of(stage), "cadence", [])
        net.commit(decision.kept)
        return decision

    assert pressed(first).closes and not strategy.probing
    assert architecture(plan, net.kept, first.exit).params <= first.target
    assert not pressed(second).closes and strategy.probing
    moment = moment_of(second, second.warmup_epochs + 2, STEPS - 1)
    assert strategy.points(moment) == ["end", "regrow"]
    with torch.no_grad():
        strategy.alpha.fill_(-9.0)
    assert all(bool(mask.all()) for name, mask in masks_at(net, strategy, second).items() if name in net.units)
    (decision,) = strategy.decide(net, moment, "end", [])
    assert all(torch.equal(decision.kept[name], alive) for name, alive in net.kept.items()), "nothing dies unseen"
    returned, _ = regrowth(net, strategy, second, [])
    died = int(strategy.pruned_in_stage.sum())
    operations = {choice.name for choice in strategy.choices["operation"]}
    assert 1 <= sum(int(units.sum()) for units in returned.values()) <= int(0.15 * died)
    assert all(not units.any() for name, units in returned.items() if name not in operations)
    decision = pressed(last)
    assert decision.closes and not strategy.probing
    assert 0.97 * last.target <= architecture(plan, decision.kept).params <= last.target


@pytest.mark.parametrize("changes", [{"regrow_fraction": 0}, {"regrow_levels": ["filter"]}, {"regrow_levels": []}])
def test_operations_of_the_published_recipe_return_only_if_they_may(changes: dict[str, Any]) -> None:
    plan = plan_of(cells_=3, cuts=(1, 2))
    asked = {"space__cells": 3, "strategy__cuts": [1, 2], "search__epochs": 20, "strategy__recipe": "published"}
    strategy = strategy_of(plan, **asked, **{f"strategy__{name}": value for name, value in changes.items()})
    assert not any("regrow" in points for stage in points_of(strategy, born(plan)) for points in stage)
    allowed = points_of(strategy_of(plan, **asked), born(plan))
    assert [any("regrow" in points for points in stage) for stage in allowed] == [False, True, False]


def regrowth(
    net: Supernet, strategy: mgas.MGAS, stage: Stage, judged: list[Batch]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    before = {name: alive.clone() for name, alive in net.kept.items()}
    (decision,) = strategy.decide(net, moment_of(stage, stage.epochs - 1), "regrow", judged)
    assert all(torch.equal(before[name], alive) for name, alive in net.kept.items()), "decide changes nothing"
    assert all(bool((decision.kept[name] | ~alive).all()) for name, alive in before.items()), "nothing is cut"
    return {name: decision.kept[name] & ~alive for name, alive in before.items()}, dict(decision.scores)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5])
def test_the_asked_share_of_the_dead_that_could_do_anything_returns_at_each_level(fraction: float) -> None:
    plan = plan_of(nodes=2, cuts=())
    net, strategy, stage = rested(plan, strategy__regrow_fraction=fraction, strategy__cuts=[])
    net.commit(cut(plan))
    returned, scores = regrowth(net, strategy, stage, batches(plan))
    for level in LEVELS:
        names = [choice.name for choice in strategy.choices[level]]
        salient = sum(int((scores[name] > 0).sum()) for name in names)
        back = sum(int(returned[name].sum()) for name in names)
        assert not any(bool(scores[name][net.kept[name]].any()) for name in names), "only what is dead has a saliency"
        assert salient <= sum(int((~net.kept[name]).sum()) for name in names)
        assert back == (max(1, round(fraction * salient)) if fraction else 0), level
        assert (salient > 0) is (fraction > 0)
        if back:
            lowest = min(float(scores[name][returned[name]].min()) for name in names if returned[name].any())
            left = [scores[name][~net.kept[name] & ~returned[name]] for name in names]
            assert max(float(part.max()) for part in left if len(part)) <= lowest, level


def test_regrown_units_start_with_the_lowest_living_score_of_their_choice() -> None:
    plan = plan_of(cuts=())
    net, strategy, stage = rested(plan, strategy__regrow_fraction=0.5, strategy__cuts=[])
    kept = everything(plan)
    kept["stem"][2:6] = False
    net.commit(kept)
    with torch.no_grad():
        strategy.k[2:6] = 5.0
    returned, _ = regrowth(net, strategy, stage, batches(plan))
    assert returned["stem"].any()
    living_ = strategy.k[: plan.groups["stem"]][net.kept["stem"]]
    assert (strategy.k[: plan.groups["stem"]][returned["stem"]] == living_.min()).all()


def test_a_vital_candidate_that_was_killed_on_purpose_returns_first() -> None:
    """One convolution has learned all there is; it goes together with others that hardly reach the node."""
    plan = plan_of(cuts=(), reductions=())
    net, strategy, stage = rested(plan, strategy__regrow_fraction=0.1, strategy__cuts=[])
    vital = plan.choice["c1_n0_ops"].labels.index("s1 sep_conv_3x3")
    for unit, label in enumerate(plan.choice["c1_n0_ops"].labels):
        if unit != vital and "conv" in label:  # the others hardly reach the node
            net.nursery[f"c1_n0_{label.replace(' ', '_')}/weight"].mul_(1e-3)
    net = Supernet(plan, net.nursery, net.kept)
    judged = batches(plan, 4)
    optimizer = train.weights_optimizer(net, 0.05, 0.0)
    for _ in range(10):
        for images, labels in judged:
            optimizer.zero_grad()
            task_loss(net(images), labels).backward()
            optimizer.step()
    kept = everything(plan)
    kept["c1_n0_ops"] = torch.tensor(["pool" in label for label in plan.choice["c1_n0_ops"].labels])
    kept["c1_n0_ops"] |= torch.tensor(["skip" in label for label in plan.choice["c1_n0_ops"].labels])
    net.commit(kept)
    returned, scores = regrowth(net, strategy, stage, judged)
    assert int(scores["c1_n0_ops"].argmax()) == vital
    assert returned["c1_n0_ops"].nonzero().flatten().tolist() == [vital]
    before = net.nursery["c1_n0_s1_sep_conv_3x3_pw/weight"].clone()
    net.commit({name: net.kept[name] | units for name, units in returned.items()})
    assert torch.equal(net.nursery["c1_n0_s1_sep_conv_3x3_pw/weight"], before)
    assert vital in net.units["c1_n0_ops"]


def test_saliency_is_the_slope_of_the_loss_in_the_dead_unit_s_mask() -> None:
    """Against a finite difference on the masked full network, in fp64, at all three levels; the stem's filter stands
    behind a rectifier, where only a step to the right has a slope."""
    plan = plan_of(cuts=())
    net, strategy, stage = rested(plan, strategy__regrow_fraction=0.5, strategy__cuts=[])
    kept = everything(plan)
    dead = {"c1_n0_ops": 3, "c1_n0": 2, "stem": 4, "c1_s1_conv_weights": 5}
    for name, unit in dead.items():
        kept[name].view(-1)[unit] = False
    net.commit(kept)
    ((images, labels),) = judged = batches(plan, 1)
    logits_then = {"operation": strategy.alpha.detach().double(), "filter": strategy.k.detach().double()}
    _, scores = regrowth(net, strategy, stage, judged)
    full = Supernet(plan, {name: value.double() for name, value in net.nursery.items()}, everything(plan))
    units = {
        choice.name: torch.sigmoid(part)
        for level, logits in logits_then.items()
        for choice, part in zip(
            strategy.choices[level], logits.split([c.units for c in strategy.choices[level]]), strict=True
        )
    }
    gains = living(full, units)

    def loss(name: str, unit: int, value: float) -> float:
        masks = {key: alive.double() for key, alive in kept.items()}
        masks[name].view(-1)[unit] = value
        with torch.no_grad():
            return float(nn.functional.cross_entropy(full(images.double(), masks, gains), labels))

    for name, unit in dead.items():
        slope = (loss(name, unit, 1e-5) - loss(name, unit, 0.0)) / 1e-5
        assert float(scores[name].view(-1)[unit]) == pytest.approx(abs(slope), rel=2e-2, abs=1e-6), name


def test_looking_for_regrowth_changes_nothing_in_the_network() -> None:
    plan = plan_of(cuts=())
    net, strategy, stage = rested(plan, strategy__cuts=[])
    kept = everything(plan)
    kept["stem"][3:] = False
    net.commit(kept)
    before = {name: value.clone() for name, value in net.nursery.items()}
    live = {name: value.detach().clone() for name, value in net.live.items()}
    regrowth(net, strategy, stage, batches(plan))
    net.store()
    assert all(torch.equal(value, net.nursery[name]) for name, value in before.items())
    assert all(torch.equal(value, net.live[name]) for name, value in live.items())
    assert all(parameter.grad is None for parameter in net.live.values())


def test_a_threshold_that_momentum_carried_below_its_range_acts_as_zero_and_still_learns() -> None:
    net, strategy, stage = rested(plan_of())
    for values in strategy.thresholds.values():
        values.data.fill_(0.0)
    at_zero = masks_at(net, strategy, stage)
    for values in strategy.thresholds.values():
        values.data.fill_(-0.05)
    draw = strategy.draw(net, moment_of(stage))[0]
    assert all(torch.equal(draw.masks[name], mask) for name, mask in at_zero.items())
    draw.size.backward()
    for level, values in strategy.thresholds.items():
        assert values.grad is not None and (values.grad != 0).any(), level
