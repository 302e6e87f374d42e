"""How far searches agree: of what, and when there is nothing to compare."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import chain_plan, raw, small_plan

from nasengine import __main__ as command_line
from nasengine import events, repeated
from nasengine.agreement import agreement
from nasengine.errors import TrainingError
from nasengine.supernet import architecture, everything

PLAN = small_plan(nodes=2)
FREE = {"skip_connect", "avg_pool_3x3", "max_pool_3x3"}


def network(decision: dict[str, torch.Tensor]) -> dict[str, Any]:
    return architecture(PLAN, decision).to_json()


def decision(seed: int, share: float = 0.6) -> dict[str, torch.Tensor]:
    stream = torch.Generator().manual_seed(seed)
    kept = {name: torch.rand(units.shape, generator=stream) < share for name, units in everything(PLAN).items()}
    for units in kept.values():
        units.view(-1)[0] = True
    return kept


@given(st.integers(0, 10**6))
def test_a_search_agrees_with_itself_and_order_does_not_matter(seed: int) -> None:
    a, b, c = (network(decision(seed + i)) for i in range(3))
    for values in agreement(PLAN, [a, a, a]).values():
        assert all(value is None or value == pytest.approx(1) for value in values.values())
    both = [agreement(PLAN, order) for order in ([a, b, c], [c, a, b])]
    for level in both[0]:
        assert both[0][level] == pytest.approx(both[1][level])
        assert all(value is None or -1.001 <= value <= 1.001 for value in both[0][level].values())


def test_opposite_decisions_disagree_wholly_and_by_type() -> None:
    kept = everything(PLAN)
    turned = dict(kept)
    for choice in PLAN.choices:
        if choice.granularity == "operation":
            kept[choice.name] = torch.tensor([unit % 2 == 0 for unit in range(choice.units)])
            turned[choice.name] = ~kept[choice.name]
    found = agreement(PLAN, [network(kept), network(turned)])["operation"]
    assert {"all", "convolutions", "free"} | FREE < set(found)
    assert found["all"] == pytest.approx(-1) == found["convolutions"] == found["free"] == found["skip_connect"]


def test_what_all_keep_is_nothing_to_compare() -> None:
    kept = everything(PLAN)
    for name in PLAN.active:
        kept[name] = torch.tensor([unit in PLAN.active[name] for unit in range(PLAN.choice[name].units)])
    found = agreement(PLAN, [network(kept), network(kept)])
    assert found["operation"]["convolutions"] is found["operation"]["free"] is found["filter"]["widths"] is None
    assert found["operation"]["all"] == pytest.approx(1)


def test_widths_of_candidates_that_are_gone_do_not_count() -> None:
    (name, unit), *_ = [(name, unit) for name, units in PLAN.active.items() for unit in sorted(units)]
    layers = {layer.name: layer for layer in PLAN.layers if layer.owner == (name, unit)}
    own = {group for layer in layers.values() for group in layer.channels if group in PLAN.choice} - {name[:-4]}
    own -= {group for layer in PLAN.layers if layer.owner != (name, unit) for group in layer.channels}
    assert own, "a separable convolution has an inner width of its own"
    a, b = decision(0, 0.5), decision(1, 0.5)
    for kept in (a, b):
        kept[name] = torch.tensor([u != unit for u in range(PLAN.choice[name].units)])
    before = agreement(PLAN, [network(a), network(b)])["filter"]["widths"]
    for group in own:
        b[group] = ~b[group] | (torch.arange(len(b[group])) == 0)
    assert agreement(PLAN, [network(a), network(b)])["filter"]["widths"] == before


def test_a_chain_names_its_candidates() -> None:
    plan = chain_plan()
    kept = everything(plan)
    kinds = agreement(plan, [architecture(plan, kept).to_json()] * 2)["operation"]
    assert {"skip", "mbconv_3x3_e2", "mbconv_5x5_e3", "convolutions"} < set(kinds)


# -- several seeds ----------------------------------------------------------------------------------------------------


def test_several_seeds_end_in_one_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(raw({"retrain.epochs": 1, "baseline.random": 1})))
    asked = ["search", str(config), "--out", str(tmp_path / "out"), "--seeds", "2"]

    def ran() -> list[dict[str, Any]]:
        assert command_line.main(asked) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    *_, last = lines = ran()
    assert [line["report"]["seed"] for line in lines if line.get("kind") == "result_ready"] == [3, 4]
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert {**report, "ok": True, "folder": str(tmp_path / "out")} == last
    found = [json.loads((tmp_path / f"out/seed-{seed}/result/report.json").read_text()) for seed in (3, 4)]
    tests = [one["accuracy"]["test"] for one in found]
    assert [seed["test"] for seed in report["seeds"]] == tests
    assert report["accuracy"]["mean"] == pytest.approx(sum(tests) / 2)
    assert report["accuracy"]["spread"] == pytest.approx(abs(tests[0] - tests[1]) / 2**0.5)
    random = [network["test"] for one in found for network in one["baseline"]["random"]]
    assert report["baseline"]["best"] == max(random) and "2 searches" in report["baseline"]["sentence"]
    assert set(report["agreement"]) == {"operation", "filter", "weight"}
    assert ran()[-1] == last, "started again it says the same"


def test_a_seed_that_fails_is_named_and_the_others_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def stub(config: Any, folder: Path, **_: Any) -> Iterator[events.Event]:
        yield events.CheckpointSaved(phase="search", epoch=1)
        if config.seed == 4:
            raise TrainingError("the loss became not a number")
        (folder / "result").mkdir(parents=True)
        (folder / "result/architecture.json").write_text("{}")

    monkeypatch.setattr(repeated, "search", stub)
    (tmp_path / "report.json").write_text("of an older run")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(raw()))
    assert command_line.main(["search", str(config), "--out", str(tmp_path), "--seeds", "3"]) == 1
    assert "error: seed 4: the loss became not a number" in capsys.readouterr().err
    assert (tmp_path / "seed-3/result").exists() and not (tmp_path / "report.json").exists()


@pytest.mark.parametrize(
    ("changes", "options", "sentence"),
    [
        ({"seed": 2**31 - 1}, ["--seeds", "2"], "2 seeds from 2147483647 on end above 2147483647; give a lower one"),
        ({}, ["--seeds", "2", "--supervised"], "--supervised is for one search; leave out --seeds, or start one run"),
    ],
)
def test_seeds_that_cannot_be_are_refused_before_anything_runs(
    changes: dict[str, Any], options: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("signal.signal", lambda *_: None)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(raw(changes)))
    assert command_line.main(["search", str(config), "--out", str(tmp_path / "out"), *options]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", ["0", "-1", "two", "21"])
def test_a_number_of_seeds_that_is_none_is_refused(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command_line.main(["search", "x.json", "--out", "x", f"--seeds={number}"])
    assert end.value.code == 2
    assert f"'{number}' is not a number of seeds; give 1 to 20" in capsys.readouterr().err
