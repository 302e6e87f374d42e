"""Time as the target: the guide, the fit to what is measured, and searches by a clock that a test can foretell."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import known
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import StopAt, chain_plan, configuration, lived_in, masks_of, random_kept, small_plan
from torch import Tensor, nn

from nasengine import costs, device, events, export, latency
from nasengine.architecture import Plan, counted_features, smallest
from nasengine.config import parse
from nasengine.device import generator
from nasengine.discretise import fitted, fitted_by_clock
from nasengine.errors import ConfigError, EngineError, Interrupted, TrainingError
from nasengine.guide import Guide
from nasengine.latency import Timing, drawn, fitted_guide
from nasengine.outlook import outlook
from nasengine.search import search
from nasengine.splits import builtin_facts
from nasengine.strategies import in_turn
from nasengine.strategies.base import Moment
from nasengine.supernet import Kept, architecture, everything, plain

LEVELS = ("operation", "filter", "weight")
PLANS = {
    "cells": lambda: small_plan(cells_=3, nodes=2, cuts=(2,)),
    "chain": lambda: chain_plan(squeeze_excite=True, attention=(2,)),
    "a library's model": lambda: known.origin("residual").survey.plan,
    "a library's model with attention": lambda: known.origin("attention").survey.plan,
}
TIMED = {"target.metric": "latency_ms", "target.value": "60%", "retrain.epochs": 1}
SEARCHES: dict[str, dict[str, Any]] = {
    "mgas": {},
    "published": {"strategy.recipe": "published"},
    "dms": {"strategy": {"kind": "dms"}, "space.channels": 8},
    "family": {
        "strategy": {"kind": "dms"}, "space.channels": 8, "target.also": ["40%"], "search.epochs": 12,
        "target.limits.macs": "80%", "baseline.random": 1,
    },
    "msgdas": {"strategy": {"kind": "msgdas"}, "space.nodes": 2, "search.epochs": 6},
    "a library's model": {
        "space": {"kind": "imported", "model": "test_resnet"}, "strategy": {"kind": "dms"}, "data.image_size": 16,
        "data.limit": 100, "search.epochs": 5, "target.value": "90%",
    },
}  # fmt: skip


def guided(which: str, seed: int = 0) -> Plan:
    """A plan with costs of any size, for each thing that takes time in it."""
    plan = PLANS[which]()
    stream = generator("cpu", seed, "costs")
    names = sorted({name for exit_ in plan.exits for name in counted_features(replace(plan, exits=(exit_,)), {})})
    # A layer takes microseconds, a multiply-add a fraction of a nanosecond.
    usual = {"layer": 5000.0, "macs": 0.3, "values": 2.0}
    prices = {name: usual[name.split()[1]] * (0.1 + float(torch.rand((), generator=stream))) for name in names}
    return replace(plan, guide=Guide(prices))


def took(plan: Plan, kept: Kept) -> int:
    return architecture(plan, kept).size("latency_ms")


@pytest.mark.parametrize("which", PLANS)
def test_the_guide_recovers_planted_costs(which: str) -> None:
    plan = guided(which)
    stream = generator("cpu", 1, "draws")
    seen = [everything(plan), *(drawn(plan, stream, LEVELS) for _ in range(60))]
    found = replace(plan, guide=fitted_guide(plan, [(kept, took(plan, kept)) for kept in seen]))
    for kept in (everything(plan), *(random_kept(plan, seed, ["operation", "filter"]) for seed in range(10))):
        assert took(found, kept) == pytest.approx(took(plan, kept), rel=0.01)


@given(which=st.sampled_from(sorted(PLANS)), seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_foretold_time_is_the_count_under_hard_masks(which: str, seed: int) -> None:
    plan = guided(which, seed)
    whole = everything(plan)
    program = plan.program(plan.exits[-1])

    def counted(kept: Kept) -> float:
        return costs.size(plan, program, masks_of(kept), "latency_ms").item()

    assert counted(whole) == pytest.approx(took(plan, whole), abs=1)
    kept = random_kept(plan, seed)
    assert counted(kept) >= took(plan, kept) - 1, "what has no reader still counts"
    assert took(plan, kept) <= took(plan, whole)


@pytest.mark.parametrize("which", PLANS)
def test_the_slope_of_foretold_time_is_that_of_differences(which: str) -> None:
    plan = guided(which)
    program = plan.program(plan.exits[-1])
    stream = generator("cpu", 3, "soft")
    masks = {
        name: torch.rand(mask.shape, generator=stream).double() for name, mask in masks_of(everything(plan)).items()
    }
    opened = {name: mask.clone().requires_grad_() for name, mask in masks.items()}
    costs.size(plan, program, opened, "latency_ms").backward()
    names = [choice.name for choice in plan.choices if choice.granularity != "weight"]
    for name in names[:: max(1, len(names) // 12)]:
        step = torch.zeros_like(masks[name])
        step[0] = 1e-4
        ends = [
            costs.size(plan, program, masks | {name: masks[name] + way * step}, "latency_ms").item() for way in (1, -1)
        ]
        slope = opened[name].grad[0].item()
        assert (ends[0] - ends[1]) / 2e-4 == pytest.approx(slope, rel=1e-4, abs=1e-2) and slope >= 0


@given(which=st.sampled_from(["cells", "chain"]), seed=st.integers(0, 10**6), share=st.floats(0.2, 1))
@settings(max_examples=15, deadline=None)
def test_what_is_fitted_never_exceeds_the_target_by_the_clock(which: str, seed: int, share: float) -> None:
    plan = guided(which)
    other = guided(which, seed)  # a device that is nothing like its guide
    stream = generator("cpu", seed, "margins")
    margins = {name: torch.rand(kept.shape, generator=stream) for name, kept in everything(plan).items()}
    least, full = smallest(plan, LEVELS, "latency_ms"), took(plan, everything(plan))
    target = int(share * full)
    asked: list[int] = []

    def clock(kept: Kept) -> int:
        asked.append(took(other, kept))
        return asked[-1]

    def fit(bound: int) -> Kept:
        return fitted(plan, margins, bounds={"latency_ms": bound}, granularities=LEVELS)

    try:
        found = fitted_by_clock(fit, clock, target=max(target, least), smallest=least)
    except TrainingError as error:
        assert min(asked) > target and "busier than when the search began" in str(error)
    else:
        assert took(other, found) <= max(target, least)
        assert took(other, found) == max(time for time in asked if time <= max(target, least))


@pytest.mark.parametrize("factor", [0.6, 0.9, 1, 1.3, 1.7])
def test_a_device_that_is_slower_or_faster_than_its_guide_is_met_to_three_per_cent(factor: float) -> None:
    plan = guided("cells")
    stream = generator("cpu", 5, "margins")
    margins = {name: torch.rand(kept.shape, generator=stream) for name, kept in everything(plan).items()}
    least, full = smallest(plan, LEVELS, "latency_ms"), took(plan, everything(plan))
    target = int(0.5 * factor * full)
    found = fitted_by_clock(
        lambda bound: fitted(plan, margins, bounds={"latency_ms": bound}, granularities=LEVELS),
        lambda kept: int(factor * took(plan, kept)), target=target, smallest=least,
    )  # fmt: skip
    assert 0.95 <= int(factor * took(plan, found)) / target <= 1


@given(which=st.sampled_from(["cells", "chain"]), seed=st.integers(0, 10**6), room=st.floats(1.3, 3))
@settings(max_examples=15, deadline=None)
def test_operations_that_are_handed_on_leave_filters_room_for_a_guide_that_is_off(
    which: str, seed: int, room: float
) -> None:
    plan = guided(which, seed)
    target = int(room * smallest(plan, LEVELS, "latency_ms"))
    wanted = configuration({**TIMED, "strategy": {"kind": "msgdas", "then": "mgas"}})
    both, net = in_turn.msgdas(plan, wanted, (target,), {}), lived_in(plan, seed)
    with torch.no_grad():
        both.turns[0].scores.normal_(generator=generator("cpu", seed, "scores"))
    stage = both.stages(net)[0]
    moment = Moment(stage=stage, epoch=stage.warmup_epochs, step=0, steps=4)
    (decision,) = both.decide(net, moment, "end", ())
    assert smallest(plan, ("filter", "weight"), "latency_ms", kept=plain(plan, decision.kept)) <= 0.9 * target


# -- searches ------------------------------------------------------------------------------------------------------


class Clock:
    """Stands for the outside world: a device whose times follow from a network's multiply-adds and layers alone."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, network: nn.Module, image: Tensor) -> Timing:
        self.asked += 1
        layers = sum(1 for module in network.modules() if not list(module.children()))
        time = 20_000 + 3_000 * layers + 2 * export.macs(network)
        return Timing(time, time + 1000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    planted = Clock()
    monkeypatch.setattr(latency, "timed", planted)
    return planted


def ran(which: str, folder: Path, **options: Any) -> list[events.Event]:
    return list(search(configuration({**TIMED, **SEARCHES[which]}), folder, **options))


@pytest.mark.parametrize("which", ["mgas", pytest.param("dms", marks=pytest.mark.long), "a library's model"])
def test_a_search_by_the_real_clock_ends_at_or_under_its_target(which: str, tmp_path: Path, cache: None) -> None:
    """On a machine that was busier while it measured than after, or before, the engine says so and gives up."""
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        with contextlib.suppress(EngineError):
            said = ran(which, folder)
            break
    (started,) = (event for event in said if isinstance(event, events.SearchStarted))
    (report,) = (event.report for event in said if isinstance(event, events.ResultReady))
    assert report["target"] == {"metric": "latency_ms", "value": started.target}
    assert 0 < report["achieved"]["latency_ms"] == report["timing"]["measured_ms"] <= started.target
    assert started.smallest_size <= started.target < started.full_size
    timing = [event for event in said if isinstance(event, events.DataProgress) and event.what == "timing"]
    assert timing[0].done == 0 and all(event.total == latency.NETWORKS for event in timing)
    assert said.index(timing[-1]) < said.index(started)
    found = export.verified(folder)
    assert found["ok"] and any(check.startswith("time is not checked: One image takes") for check in found["checks"])
    assert report["timing"]["sentence"] in (folder / "result" / "README.md").read_text()


@pytest.mark.parametrize("which", ["published", "family", "msgdas"])
def test_by_a_planted_clock_every_network_ends_right_under_its_target(
    which: str, clock: Clock, tmp_path: Path, cache: None
) -> None:
    said = ran(which, tmp_path)
    (started,) = (event for event in said if isinstance(event, events.SearchStarted))
    ready = [event for event in said if isinstance(event, events.ResultReady)]
    assert [event.report["target"]["value"] for event in ready] == [*started.also, started.target]
    for event in ready:
        target, found = event.report["target"]["value"], event.report["achieved"]["latency_ms"]
        assert found == clock(export.loaded(tmp_path / event.folder), torch.zeros(1)).best / 1e6
        assert 0.8 * target <= found <= target, "as near as so small a space allows"
    fits = [event for event in said if isinstance(event, events.Committed) and event.reason == "fit"]
    assert [fit.size for fit in fits] == sorted([event.report["achieved"]["latency_ms"] for event in ready])[::-1]
    if started.also:
        assert [event.folder for event in ready] == [f"family/{started.also[0]}", "result"]
        named = {event.network for event in said if isinstance(event, events.RetrainEpoch)}
        assert named == {"found", f"at {started.also[0]}", "random 1"}
        assert all(event.report["achieved"]["macs"] <= started.limits["macs"] for event in ready)


@pytest.mark.parametrize("which", ["mgas", "family"])
def test_a_resumed_search_does_not_measure_its_device_anew_and_ends_the_same(
    which: str, clock: Clock, tmp_path: Path, cache: None
) -> None:
    undisturbed, disturbed, control = tmp_path / "undisturbed", tmp_path / "disturbed", StopAt(float("inf"))
    ran(which, undisturbed, control=control)
    once = clock.asked
    left = control.looks - latency.NETWORKS
    for looks in (latency.NETWORKS + left // 4, left // 4, left // 4):
        with pytest.raises(Interrupted):
            ran(which, disturbed, control=StopAt(looks))
    ran(which, disturbed)
    assert clock.asked - once < latency.NETWORKS + 2 * (once - latency.NETWORKS), "no second time forty networks"
    for name in ("model.safetensors", "architecture.json"):
        assert (undisturbed / "result" / name).read_bytes() == (disturbed / "result" / name).read_bytes()


def test_a_search_that_is_stopped_while_it_measures_begins_again(clock: Clock, tmp_path: Path, cache: None) -> None:
    with pytest.raises(Interrupted):
        ran("mgas", tmp_path, control=StopAt(10))
    assert 0 < clock.asked < latency.NETWORKS and not (tmp_path / "checkpoint.pt").exists()
    assert isinstance(ran("mgas", tmp_path)[-1], events.SearchFinished)


def test_times_of_another_device_are_refused_in_the_middle_of_a_search(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: None
) -> None:
    with pytest.raises(Interrupted):
        ran("mgas", tmp_path, control=StopAt(latency.NETWORKS + 20))
    monkeypatch.setattr(device, "label", lambda _: "another device")
    with pytest.raises(ConfigError, match=r"were measured on CPU .*, and this is another device; go on there"):
        ran("mgas", tmp_path)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (0.001, r"0\.001 ms are below what this space can surely reach; give at least [\d.]+ \(\d+%\), or a smaller"),
        (9000, r"9,000 ms are more than the whole space has; give at most [\d.]+, or a larger space"),
    ],
)
def test_milliseconds_out_of_reach_are_refused_after_measuring_and_before_training(
    value: float, sentence: str, clock: Clock, tmp_path: Path, cache: None
) -> None:
    with pytest.raises(ConfigError, match=sentence) as refused:
        list(search(configuration({**TIMED, "target.value": value}), tmp_path))
    assert [field for field, _ in refused.value.problems] == ["target.value"] and clock.asked == latency.NETWORKS


@pytest.mark.parametrize("value", [0, -1, "0%", "fast"])
def test_a_time_that_is_none_is_refused_at_once(value: Any) -> None:
    with pytest.raises(ConfigError) as refused:
        parse({"target": {"metric": "latency_ms", "value": value}})
    assert refused.value.problems[0][0] == "target.value"


def test_before_a_device_is_measured_nothing_is_said_of_its_times() -> None:
    wanted = parse({"target": {"metric": "latency_ms", "value": "40%", "also": [0.2], "limits": {"params": "50%"}}})
    told = outlook(wanted, builtin_facts("digits")).to_json()
    assert told["feasible"] and told["metric"] == "latency_ms"
    assert [told[name] for name in ("full_size", "smallest_size", "target")] == [None] * 3
    assert told["also"] == [] and list(told["reach"]) == ["params"] == list(told["limits"])


def test_measuring_tells_a_slow_network_from_a_fast_one() -> None:
    class Naps(nn.Module):
        def __init__(self, seconds: float) -> None:
            super().__init__()
            self.seconds = seconds

        def forward(self, x: Tensor) -> Tensor:
            time.sleep(self.seconds)
            return x

    short, long = (latency.timed(Naps(seconds), torch.zeros(1)) for seconds in (0.001, 0.004))
    assert 1e6 <= short.best <= short.usual and short.best < long.best and long.best >= 4e6
