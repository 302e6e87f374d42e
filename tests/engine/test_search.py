"""Promises of nasengine.search: one network for one configuration, however often the run is interrupted."""

from __future__ import annotations

import base64
import dataclasses
import errno
import json
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Whole
from safetensors.torch import load_file
from small import VARIANTS, StopAt, configuration, digits, raw, watched

from nasengine import data, events, export, packing, retraining, train
from nasengine.compact import Network
from nasengine.config import DataConfig
from nasengine.errors import CheckpointError, ConfigError, EngineError, ExportError, Interrupted, TrainingError
from nasengine.events import Event
from nasengine.search import Control, search
from nasengine.strategies import mgas

SAME = ("architecture.json", "model.safetensors", "model.onnx")
"""What must be bit for bit the same; the report tells times."""


def ran(folder: Path, changes: dict | None = None, control: Control | None = None, **options: Any) -> list[Event]:
    return list(search(configuration(changes), folder, control=control, **options))


def interrupted(folder: Path, after: int, changes: dict | None = None) -> bool:
    """Runs until the control is looked at for the n-th time; whether the run ended before."""
    try:
        ran(folder, changes, StopAt(after))
    except Interrupted:
        return False
    return True


def content(folder: Path, *others: str) -> dict[str, bytes]:
    """The files of the result, and of `others`, that equal runs have in common."""
    places = [f"{part}/{name}" for part in ("result", *others) for name in SAME]
    return {place: (folder / place).read_bytes() for place in places}


def told(folder: Path) -> list[dict[str, Any]]:
    """What events.jsonl holds; its numbers rise by one from one."""
    found = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [event["seq"] for event in found] == list(range(1, len(found) + 1))
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event], int]:
    """An uninterrupted run: its folder, its events, and how often it looked whether to stop."""
    folder, control = tmp_path_factory.mktemp("whole"), StopAt(float("inf"))
    return folder, ran(folder, control=control), control.looks


# -- one run ----------------------------------------------------------------------------------------------------------


def test_the_story_of_a_run_has_its_order(whole: tuple[Path, list[Event], int]) -> None:
    _, said, _ = whole
    kinds = [event.kind for event in said if event.kind not in ("progress", "data_progress", "checkpoint_saved")]
    assert kinds[:3] == ["data_ready", "search_started", "stage_started"]
    assert kinds[-4:] == ["retrain_epoch", "retrain_epoch", "result_ready", "search_finished"]
    assert kinds.count("stage_started") == kinds.count("stage_finished") == 2
    assert kinds.count("epoch_finished") == 8
    reasons = [event.reason for event in said if isinstance(event, events.Committed)]
    assert reasons[:2] == ["stage_end", "regrow"] and reasons[-1] == "fit" and set(reasons[2:-1]) == {"cadence"}
    epochs = [event.epoch for event in said if isinstance(event, events.EpochFinished)]
    assert epochs == list(range(1, 9))
    assert {event.epoch for event in said if isinstance(event, events.Progress)} == set(epochs), "a point each at least"
    fractions = [event.fraction for event in said if isinstance(event, events.Progress | events.RetrainEpoch)]
    assert fractions == sorted(fractions) and fractions[0] >= 0 and fractions[-1] <= 1


def test_what_is_yielded_is_what_is_written(whole: tuple[Path, list[Event], int]) -> None:
    folder, said, _ = whole
    lines = (folder / "events.jsonl").read_text().splitlines()
    assert [events.to_line(event) for event in said] == lines
    assert [event["seq"] for event in told(folder)] == [event.seq for event in said]
    assert [events.from_line(line).seq for line in lines] == [event.seq for event in said]


def test_commits_tell_what_changed(whole: tuple[Path, list[Event], int]) -> None:
    _, said, _ = whole
    started = next(event for event in said if isinstance(event, events.SearchStarted))
    total = dict.fromkeys(("operation", "filter", "weight"), 0)
    for choice in started.choices:
        total[choice["granularity"]] += choice["units"]
    alive = dict(total)
    for event in said:
        if isinstance(event, events.Committed):
            for level in total:
                alive[level] += event.regrown[level] - event.pruned[level]
                assert event.totals[level] == [alive[level], total[level]]
            for change in event.changes:
                assert change["action"] in ("pruned", "regrown") and change["choice"]
            changed = [c for c in event.changes if "unit" in c]
            assert len(changed) == sum(event.pruned[g] + event.regrown[g] for g in ("operation", "filter"))
            assert len({(c["choice"], c["unit"]) for c in changed}) == len(changed)
    last = [event for event in said if isinstance(event, events.Committed)][-1]
    assert 0.97 * last.target <= last.size <= last.target


def test_commits_tell_the_scores_that_they_rest_on(whole: tuple[Path, list[Event], int]) -> None:
    """What is pruned scored below its threshold, and the byte of its score says so; a regrowth has no such scores."""
    _, said, _ = whole
    started = next(event for event in said if isinstance(event, events.SearchStarted))
    units = {c["name"]: c["units"] for c in started.choices if c["granularity"] != "weight"}
    decided = [event for event in said if isinstance(event, events.Committed)]
    for event in decided:
        if event.reason == "regrow":
            assert event.scores == event.thresholds == {}
            continue
        assert set(event.scores) == set(event.thresholds) == set(units)
        scores = {name: base64.b64decode(packed) for name, packed in event.scores.items()}
        assert {name: len(packed) for name, packed in scores.items()} == units
        for change in event.changes:
            if "unit" in change and event.reason == "cadence":
                assert scores[change["choice"]][change["unit"]] == round(255 * change["score"])
                assert change["score"] <= change["threshold"] and 0 < change["cost"] < 1
    assert {event.reason for event in decided} >= {"cadence", "fit"}


def test_the_search_tells_what_it_would_keep_at_other_sizes(whole: tuple[Path, list[Event], int]) -> None:
    _, said, _ = whole
    started = next(event for event in said if isinstance(event, events.SearchStarted))
    (told,) = (event for event in said if isinstance(event, events.Alternatives))
    sizes = [network["size"] for network in told.networks]
    assert sizes == sorted(set(sizes)) and len(sizes) > 4
    assert started.smallest_size <= sizes[0] < started.target < sizes[-1] <= min(started.full_size, 4 * started.target)
    living = [
        sum(bin(byte).count("1") for name in network["kept"] for byte in base64.b64decode(network["kept"][name]))
        for network in told.networks
    ]
    assert living == sorted(living) and living[0] < living[-1]
    ends = [
        type(event) for event in said if isinstance(event, events.Committed | events.Alternatives | events.RetrainEpoch)
    ]
    assert ends.index(events.Alternatives) == ends.index(events.RetrainEpoch) - 1


def test_the_report_counts_what_the_events_told(whole: tuple[Path, list[Event], int]) -> None:
    folder, said, _ = whole
    report = json.loads((folder / "result" / "report.json").read_text())
    for action in ("pruned", "regrown"):
        summed = dict.fromkeys(report[action], 0)
        for event in said:
            if isinstance(event, events.Committed):
                for level, count in getattr(event, action).items():
                    summed[level] += count
        assert report[action] == summed


def test_the_same_configuration_gives_the_same_network_and_another_seed_another(
    whole: tuple[Path, list[Event], int], tmp_path: Path
) -> None:
    ran(tmp_path / "again", {"name": "under another name"})
    assert content(tmp_path / "again") == content(whole[0])
    ran(tmp_path / "other", {"seed": 4})
    assert content(tmp_path / "other")["result/model.safetensors"] != content(whole[0])["result/model.safetensors"]


def test_the_test_split_is_unread_until_the_networks_are_trained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: list[Event] = []
    opened: list[int] = []
    make = data.images

    def watched(*arguments: Any) -> data.Images:
        found = make(*arguments)

        def open_test() -> data.Split:
            opened.append(sum(isinstance(event, events.RetrainEpoch) for event in said))
            return found.open_test()

        return dataclasses.replace(found, open_test=open_test)

    monkeypatch.setattr(data, "images", watched)
    for event in search(configuration(), tmp_path):
        said.append(event)
    assert opened and min(opened) == 2, "opened before both epochs of retraining were over"


def test_weights_never_see_the_images_that_decide_and_the_found_network_sees_them_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[object, set[int]] = {"search": set(), "decide": set(), "retrain": set(), "judged": set()}
    batch, plain = train.Feed.batch, train.Feed.plain

    def batched(self: train.Feed, indices: torch.Tensor, *key: object) -> Any:
        seen[key[0]].update(indices.tolist())
        return batch(self, indices, *key)

    def unchanged(self: train.Feed, n: int, *key: object) -> Any:
        seen["judged"].update(self.part.tolist())
        return plain(self, n, *key)

    monkeypatch.setattr(train.Feed, "batch", batched)
    monkeypatch.setattr(train.Feed, "plain", unchanged)
    ran(tmp_path, {"retrain.epochs": 4})
    everyone = set(range(len(digits().train)))
    assert seen["search"] and seen["judged"] and not seen["search"] & seen["decide"]
    assert not seen["judged"] & seen["search"] and seen["decide"] <= seen["judged"]
    assert seen["search"] | seen["judged"] == everyone == seen["retrain"]


def test_what_returned_and_survived_is_counted(whole: tuple[Path, list[Event], int]) -> None:
    report = json.loads((whole[0] / "result" / "report.json").read_text())
    levels = {"operation", "filter", "weight", "depth"}
    assert set(report["survived"]) == set(report["regrown"]) == levels
    assert all(0 <= report["survived"][level] <= report["regrown"][level] for level in levels)
    assert all(report["regrown"][level] > 0 for level in levels - {"depth"})


# -- other searches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_every_search_ends_within_its_epochs_at_its_target_with_a_sound_result(
    name: str, whole_of: Callable[[str], Whole]
) -> None:
    run, wanted = whole_of(name), configuration(VARIANTS[name])
    assert run.said[-1].kind == "search_finished"
    (started,), ready = run.of(events.SearchStarted), run.of(events.ResultReady)
    assert len(run.of(events.EpochFinished)) <= wanted.search.epochs
    rounds = wanted.strategy.rounds * wanted.strategy.repetitions(wanted.space)
    assert len(run.of(events.StageFinished)) == len(wanted.cuts) + rounds - 1 + len(ready)
    for event in ready:
        found = export.verified(run.folder / event.folder)
        assert found["ok"], found["problems"]
        target = event.report["target"]["value"]
        bounds = {event.report["target"]["metric"]: target, **event.report["limits"]}
        shares = [event.report["achieved"][metric] / bound for metric, bound in bounds.items()]
        assert 0.97 <= max(shares) <= 1
    share = float(raw(VARIANTS[name])["target"]["value"].rstrip("%")) / 100
    assert ready[-1].report["target"]["value"] == started.target == int(share * started.full_size)
    fractions = [event.fraction for event in run.of(events.Progress, events.RetrainEpoch)]
    assert fractions == sorted(fractions) and fractions[-1] == pytest.approx(1.0)


BY_DAY = ("family", "limits", "regrowth", "attention")
"""What test_resume_contract.py, which holds every method to it, has not: all others are among the long tests."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * (name not in BY_DAY)) for name in VARIANTS]
)
def test_every_search_stopped_and_continued_ends_with_the_very_same_networks(
    name: str, whole_of: Callable[[str], Whole], tmp_path: Path
) -> None:
    """Five stops or so, from the first stage to the last retraining; fewer where a rating would begin anew."""
    run, rates = whole_of(name), name == "blocks"
    places = [event.folder for event in run.of(events.ResultReady)]
    positions = []
    while not interrupted(tmp_path, run.looks // (3 if rates else 6) + 2, VARIANTS[name]):
        positions.append(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["position"])
        assert len(positions) < 8
    assert len(positions) >= (2 if rates else 4)
    assert len({(position["phase"], position["stage"]) for position in positions}) >= 2
    assert content(tmp_path, *places) == content(run.folder, *places)
    kinds = [event["kind"] for event in told(tmp_path)]
    for kind in {event.kind for event in run.said} - {"progress", "checkpoint_saved", "data_progress"}:
        assert kinds.count(kind) == sum(event.kind == kind for event in run.said), kind
    for place in places:
        was, now = (json.loads((root / place / "report.json").read_text()) for root in (run.folder, tmp_path))
        for member in (*was["family"], *now["family"]):
            del member["latency_ms"]  # what a clock says no seed repeats
        for key in ("target", "accuracy", "family", "parity", "pruned", "regrown", "survived"):
            assert now[key] == was[key], (place, key)


def test_a_family_has_a_network_a_target_each_with_files_of_its_own(whole_of: Callable[[str], Whole]) -> None:
    run = whole_of("family")
    (started,), ready = run.of(events.SearchStarted), run.of(events.ResultReady)
    large, small = int(0.6 * started.full_size), int(0.25 * started.full_size)
    assert started.also == [large, small]
    assert [stage["target"] for stage in started.stages][1:] == [large, started.target, small]
    assert [event.folder for event in ready] == [f"family/{large}", f"family/{small}", "result"]
    titles = list(dict.fromkeys(event.network for event in run.of(events.RetrainEpoch)))
    assert titles == [f"at {large}", "found", f"at {small}"]
    reports = {event.folder: event.report for event in ready}
    assert reports["result"]["family"] == [
        {
            "target": target,
            "folder": f"family/{target}",
            "params": reports[f"family/{target}"]["achieved"]["params"],
            "macs": reports[f"family/{target}"]["achieved"]["macs"],
            "latency_ms": reports[f"family/{target}"]["achieved"]["latency_ms"],
            **reports[f"family/{target}"]["accuracy"],
        }
        for target in (large, small)
    ]
    assert reports[f"family/{large}"]["family"] == []
    for event in ready:
        assert {file["name"] for file in event.files} == {*export.FILES, "SHA256SUMS"}
        assert json.loads((run.folder / event.folder / "report.json").read_text()) == event.report
    fits = [event for event in run.of(events.Committed) if event.reason == "fit"]
    assert [event.target for event in fits] == [large, started.target, small]
    counts = [reports[event.folder]["pruned"]["weight"] for event in (ready[0], ready[2], ready[1])]
    assert counts == sorted(counts) and counts[0] < counts[-1], "each tells what was pruned until it was found"


def test_a_finished_family_is_said_again_whole(whole_of: Callable[[str], Whole], tmp_path: Path) -> None:
    run = whole_of("family")
    shutil.copytree(run.folder, tmp_path / "copy")
    again = ran(tmp_path / "copy", VARIANTS["family"])
    assert [event.kind for event in again] == ["result_ready"] * 3 + ["search_finished"]
    assert [event.report for event in again[:3]] == [event.report for event in run.of(events.ResultReady)]
    shutil.rmtree(tmp_path / "copy" / again[1].folder)
    with pytest.raises(CheckpointError, match=r"result.*--fresh"):
        ran(tmp_path / "copy", VARIANTS["family"])
    with pytest.raises(Interrupted):
        ran(tmp_path / "copy", VARIANTS["family"], StopAt(4), fresh=True)
    assert not (tmp_path / "copy" / "family").exists() and not (tmp_path / "copy" / "result").exists()


def test_units_return_within_a_later_stage_and_only_at_the_levels_that_may(whole_of: Callable[[str], Whole]) -> None:
    commits = whole_of("regrowth").of(events.Committed)
    back = [event for event in commits if event.reason == "regrow"]
    ends = {event.stage: event.epoch for event in commits if event.reason in ("stage_end", "fit")}
    within = [event for event in back if event.stage == 1]
    assert within and all(event.epoch < ends[1] for event in within)
    assert [event.epoch for event in back if event.stage == 0] == [ends[0]]
    for event in back:
        assert set(event.asked) == {"filter", "weight"} and event.regrown["operation"] == 0
        assert event.regrown["filter"] <= event.asked["filter"] and event.regrown["weight"] <= event.asked["weight"]
        assert not any(event.pruned.values())
    assert all(sum(event.regrown[level] for event in back) for level in ("filter", "weight"))


def test_nothing_returns_if_nothing_may(whole_of: Callable[[str], Whole]) -> None:
    run = whole_of("no regrowth")
    assert {event.reason for event in run.of(events.Committed)} == {"cadence", "stage_end", "fit"}
    assert not any(run.of(events.ResultReady)[0].report["survived"].values())


def test_a_limit_beside_the_target_is_kept_by_the_found_network_and_by_random_ones(
    whole_of: Callable[[str], Whole],
) -> None:
    run = whole_of("limits")
    ((started,), (ready,)) = run.of(events.SearchStarted), run.of(events.ResultReady)
    report, limit = ready.report, started.limits["macs"]
    assert report["limits"] == started.limits == {"macs": limit}
    assert 0.97 * limit <= report["achieved"]["macs"] <= limit, "of the two it is the tighter one here"
    assert report["achieved"]["params"] < 0.97 * started.target
    checks = export.verified(run.folder / "result")["checks"]
    assert f"{report['achieved']['macs']:,} macs, at most {limit:,}" in checks
    assert f"| limit | {started.target:,} params and {limit:,} macs |" in (run.folder / "result/README.md").read_text()
    (other,) = report["baseline"]["random"]
    assert other["params"] <= report["achieved"]["params"] and other["macs"] <= report["achieved"]["macs"] <= limit


def test_a_chain_tells_of_its_layers(whole_of: Callable[[str], Whole]) -> None:
    run = whole_of("chain")
    ((started,), (ready,)) = run.of(events.SearchStarted), run.of(events.ResultReady)
    assert started.space == "chain"
    assert [block["name"] for block in started.blocks] == ["stem", "layer 0", "layer 1", "layer 2", "head"]
    assert [stage["name"] for stage in started.stages] == ["up to layer 0", "the whole network"]
    assert json.loads((run.folder / "result" / "architecture.json").read_text())["space"] == "chain"
    assert ready.report["space"] == "chain"


def test_bf16_gives_another_network_that_is_as_sound(whole: tuple[Path, list[Event], int], tmp_path: Path) -> None:
    """Only training is in bf16: what is found is stored, compared and certified in fp32 and fp64."""
    ran(tmp_path, {"runtime.precision": "bf16"})
    found = export.verified(tmp_path)
    assert found["ok"], found["problems"]
    report = json.loads((tmp_path / "result" / "report.json").read_text())
    assert report["parity"]["fp32"] <= 1e-5 and report["parity"]["fp64"] <= 1e-9
    state = load_file(tmp_path / "result" / "model.safetensors")
    assert {value.dtype for value in state.values()} <= {torch.float32, torch.int64}
    assert content(tmp_path)["result/model.safetensors"] != content(whole[0])["result/model.safetensors"]


def test_activations_that_are_computed_twice_change_no_bit_of_the_network(
    whole_of: Callable[[str], Whole], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without regrowth, which judges in smaller parts where there is less memory."""
    seen, recomputed = watched(monkeypatch), set()
    for event in search(configuration({**VARIANTS["no regrowth"], "runtime.memory_share": 0.2}), tmp_path):
        if event.kind == "epoch_finished":
            recomputed.add(seen.net.recomputed)
    assert min(recomputed) > 0
    assert content(tmp_path) == content(whole_of("no regrowth").folder)


def test_with_another_share_of_memory_a_run_ends_with_the_very_same_network_or_is_not_continued(
    whole: tuple[Path, list[Event], int], tmp_path: Path
) -> None:
    assert not interrupted(tmp_path, 3)
    try:
        ran(tmp_path, {"runtime.memory_share": 0.2})
    except ConfigError as refused:
        assert "holds a search with other settings" in str(refused)
    else:
        assert content(tmp_path) == content(whole[0])


# -- interrupted and continued ----------------------------------------------------------------------------------------


def test_a_run_stopped_again_and_again_ends_with_the_very_same_network(
    whole: tuple[Path, list[Event], int], tmp_path: Path
) -> None:
    """Each attempt makes four steps, of five an epoch: the stops fall in every stage and at every step of an epoch."""
    folder, _, looks = whole
    attempts, phases, stride = 0, set(), 5
    while not interrupted(tmp_path, stride):
        attempts += 1
        saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["position"]
        phases.add((saved["phase"], saved["stage"]))
        assert told(tmp_path)
        assert attempts < looks
    assert attempts >= looks // stride - 1
    assert {("search", 0), ("search", 1), ("retrain", 0)} <= phases
    assert content(tmp_path) == content(folder)
    kinds = [event["kind"] for event in told(tmp_path)]
    assert kinds.count("epoch_finished") == 8 and kinds.count("retrain_epoch") == 2
    assert kinds.count("stage_finished") == 2 and kinds[-1] == "search_finished"


def test_a_stop_at_the_very_first_and_the_very_last_step_changes_nothing(
    whole: tuple[Path, list[Event], int], tmp_path: Path
) -> None:
    folder, _, looks = whole
    assert not interrupted(tmp_path, 1), "after the images, before the first step"
    assert not interrupted(tmp_path, looks - 1), "before the last step"
    ran(tmp_path)
    assert content(tmp_path) == content(folder)
    told(tmp_path)


def test_a_run_from_before_a_setting_was_there_is_still_the_same_run(
    whole: tuple[Path, list[Event], int], tmp_path: Path
) -> None:
    folder = tmp_path / "old"
    shutil.copytree(whole[0], folder)
    settings = json.loads((folder / "config.json").read_text())
    del settings["target"]["limits"]
    (folder / "config.json").write_text(json.dumps(settings))
    assert [event.kind for event in ran(folder)] == ["result_ready", "search_finished"]


def test_random_networks_beside_the_found_one_survive_interruptions(tmp_path: Path) -> None:
    changes = {"baseline.random": 2, "retrain.start": "scratch"}
    control = StopAt(float("inf"))
    ran(tmp_path / "whole", changes, control)
    reported = json.loads((tmp_path / "whole" / "result" / "report.json").read_text())
    assert len(reported["baseline"]["random"]) == 2
    tests = [network["test"] for network in reported["baseline"]["random"]]
    assert reported["baseline"]["mean"] == sum(tests) / 2 and reported["baseline"]["best"] == max(tests)
    assert f"{100 * reported['accuracy']['test']:.1f} % on the test images" in reported["baseline"]["sentence"]
    assert "favours" not in reported["baseline"]["sentence"], "all of them from scratch"
    for stop, network in ((control.looks - 13, 1), (7, 2)):
        assert not interrupted(tmp_path / "stopped", stop, changes)
        position = torch.load(tmp_path / "stopped" / "checkpoint.pt", weights_only=True)["position"]
        assert (position["phase"], position["stage"]) == ("retrain", network)
    ran(tmp_path / "stopped", changes)
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")
    again = json.loads((tmp_path / "stopped" / "result" / "report.json").read_text())
    assert again["baseline"] == reported["baseline"] and again["accuracy"] == reported["accuracy"]


def test_what_a_dead_attempt_said_after_its_checkpoint_is_said_again(
    whole: tuple[Path, list[Event], int], tmp_path: Path
) -> None:
    """The process dies between two checkpoints, and in the middle of a line."""
    run = search(configuration(), tmp_path)
    for event in run:
        if event.kind == "epoch_finished" and event.epoch == 5:
            break
    run.close()
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["seq"]
    assert saved < event.seq
    with (tmp_path / "events.jsonl").open("a") as log:
        log.write('{"kind":"progress","seq":')
    said = ran(tmp_path)
    assert said[0].seq == saved + 1
    assert told(tmp_path)[-1]["kind"] == "search_finished"
    assert content(tmp_path) == content(whole[0])


def test_a_run_that_dies_while_publishing_is_published_by_the_next(
    whole: tuple[Path, list[Event], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not interrupted(tmp_path, whole[2] - 1)
    with monkeypatch.context() as patch:
        patch.setattr(export, "_model_card", lambda _report: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ran(tmp_path)
    assert not (tmp_path / "result").exists()
    ran(tmp_path)
    assert content(tmp_path) == content(whole[0])
    assert not (tmp_path / "result.part").exists()


def test_cancelling_saves_nothing_more(tmp_path: Path) -> None:
    control = Control()
    with pytest.raises(Interrupted, match=r"^stopped on request \(cancel\)$"):
        for event in search(configuration(), tmp_path, control=control):
            if event.kind == "checkpoint_saved":
                before = (tmp_path / "checkpoint.pt").read_bytes()
                control.requested = "cancel"
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_stop_before_anything_is_built_leaves_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match=r"^stopped on request \(a test\)$"):
        ran(tmp_path, control=StopAt(0))
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_finished_run_says_its_result_again_and_touches_nothing(whole: tuple[Path, list[Event], int]) -> None:
    folder, said, _ = whole
    before = content(folder)
    again = ran(folder)
    assert [event.kind for event in again] == ["result_ready", "search_finished"]
    assert again[0].report == next(event for event in said if event.kind == "result_ready").report
    first = next(event for event in said if event.kind == "result_ready").files
    assert sorted(again[0].files, key=str) == sorted(first, key=str)
    assert content(folder) == before
    told(folder)


# -- folders and checkpoints that do not fit --------------------------------------------------------------------------


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run that was stopped in its first stage."""
    folder = tmp_path / "begun"
    assert not interrupted(folder, 8)
    return folder


@pytest.mark.parametrize(
    ("changes", "part"), [({"seed": 9}, "seed"), ({"target.value": "50%"}, "target"), ({"search.lr": 0.1}, "search")]
)
def test_a_folder_with_another_search_is_refused(begun: Path, changes: dict, part: str) -> None:
    before = (begun / "checkpoint.pt").read_bytes()
    with pytest.raises(ConfigError) as caught:
        ran(begun, changes)
    assert caught.value.problems == (
        (part, f"{begun} holds a search with other settings; use another folder, or --fresh to start over"),
    )
    assert (begun / "checkpoint.pt").read_bytes() == before
    assert json.loads((begun / "config.json").read_text())["seed"] == 3


def test_another_name_and_another_runtime_may_continue(begun: Path) -> None:
    before = told(begun)[-1]["seq"]
    assert not interrupted(begun, 4, {"name": "new", "runtime.device": "auto"})
    assert told(begun)[-1]["seq"] > before
    assert json.loads((begun / "config.json").read_text())["name"] == "new"


def test_fresh_starts_over(begun: Path, whole: tuple[Path, list[Event], int]) -> None:
    said = ran(begun, fresh=True)
    assert said[0].seq == 1 and said[0].kind == "data_ready"
    assert content(begun) == content(whole[0])
    told(begun)


def test_fresh_forgets_the_result_of_the_search_before(whole: tuple[Path, list[Event], int], tmp_path: Path) -> None:
    shutil.copytree(whole[0], tmp_path / "copy")
    with pytest.raises(Interrupted):
        ran(tmp_path / "copy", {"seed": 5}, StopAt(8), fresh=True)
    assert not (tmp_path / "copy" / "result").exists()


def test_a_damaged_checkpoint_is_refused_with_a_sentence(begun: Path) -> None:
    path = begun / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt cannot be read \(\w+\); start over with --fresh$"):
        ran(begun)


@pytest.mark.parametrize(
    "lost", ["net", "strategy", "meter", "counts", "measured", "members", "randoms", "returned", "seconds", "meant"]
)
def test_a_checkpoint_of_another_version_is_refused_with_a_sentence(begun: Path, lost: str) -> None:
    state = torch.load(begun / "checkpoint.pt", weights_only=True)
    del state[lost]
    torch.save(state, begun / "checkpoint.pt")
    with pytest.raises(
        CheckpointError, match=r"^the checkpoint in .* is of another version of Coppice .*; start over with --fresh$"
    ):
        ran(begun)


@pytest.mark.parametrize(("setting", "value"), [("batch", 16), ("stage ends", [])])
def test_a_run_is_not_continued_with_other_values_for_what_was_left_empty(
    begun: Path, setting: str, value: object
) -> None:
    state = torch.load(begun / "checkpoint.pt", weights_only=True)
    state["meant"][setting] = value
    torch.save(state, begun / "checkpoint.pt")
    with pytest.raises(
        CheckpointError, match=r"of another version of Coppice \(it filled in other settings\); start over"
    ):
        ran(begun)


@pytest.mark.parametrize("settings", [None, "", '{"seed": 3', "[]"])
def test_a_checkpoint_whose_settings_are_lost_is_refused_with_a_sentence(begun: Path, settings: str | None) -> None:
    path = begun / "config.json"
    path.unlink()
    if settings is not None:
        path.write_text(settings)
    with pytest.raises(EngineError, match=r"use another folder, or --fresh to start over"):
        ran(begun)


def test_a_finished_run_whose_result_was_removed_says_so(whole: tuple[Path, list[Event], int], tmp_path: Path) -> None:
    shutil.copytree(whole[0], tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "result")
    with pytest.raises(CheckpointError, match=r"result.*--fresh"):
        ran(tmp_path / "copy")


# -- what can go wrong on the way -------------------------------------------------------------------------------------


def nothing(*_arguments: Any) -> torch.Tensor:
    return torch.tensor(float("nan"), requires_grad=True)


def test_a_loss_that_is_not_a_number_ends_the_search_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = search(configuration(), tmp_path)
    for event in run:
        if event.kind == "checkpoint_saved":
            break
    monkeypatch.setattr(mgas, "task_loss", nothing)
    with pytest.raises(
        TrainingError,
        match=r"^the loss became not a number in epoch 2.*; lower search\.lr in a new search, the last checkpoint of ",
    ):
        list(run)
    monkeypatch.undo()
    assert not interrupted(tmp_path, 3), "the checkpoint goes on"


def test_a_loss_that_is_not_a_number_ends_the_retraining_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = search(configuration(), tmp_path)
    with pytest.raises(
        TrainingError,
        match=r"^the loss became not a number .*; lower retrain\.lr in a new search, the last checkpoint "
        r"of this one is intact$",
    ):
        for event in run:
            if event.kind == "stage_finished" and event.stage == 1:
                monkeypatch.setattr(train, "task_loss", nothing)


def continued(folder: Path, changes: dict | None = None) -> list[Event]:
    """What a run says that goes on from the checkpoint: it begins right after it."""
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)["seq"]
    said = ran(folder, changes)
    assert said[0].seq == saved + 1 and said[-1].kind == "search_finished"
    told(folder)
    return said


def test_weights_that_explode_end_the_search_with_a_sentence(
    whole: tuple[Path, list[Event], int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A learning rate of 1e38: after one step the loss is really not a number."""
    with monkeypatch.context() as patch:
        seen = watched(patch)
        with pytest.raises(
            TrainingError,
            match=r"^the loss became not a number in epoch 2; lower search\.lr in a new search, the last "
            r"checkpoint of this one is intact$",
        ):
            for event in search(configuration(), tmp_path):
                if event.kind == "checkpoint_saved" and event.epoch == 1:
                    for group in seen.weights.param_groups:
                        group["lr"] = 1e38
    continued(tmp_path)
    assert content(tmp_path) == content(whole[0])


@pytest.mark.parametrize(("kind", "field"), [("epoch_finished", "search.lr"), ("retrain_epoch", "retrain.lr")])
def test_weights_that_exploded_in_the_last_step_of_an_epoch_are_not_saved(
    whole: tuple[Path, list[Event], int], kind: str, field: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The loss was still a number; the next one would not be, and no checkpoint could go on from there."""
    monkeypatch.setattr("nasengine.search.SAVE_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        seen = watched(patch)
        with pytest.raises(
            TrainingError,
            match=rf"^a weight became not a number; lower {re.escape(field)} in a new search, the last ",
        ):
            for event in search(configuration(), tmp_path):
                if event.kind == kind and event.epoch == (1 if kind == "retrain_epoch" else 2):
                    optimizer = seen.weights if kind == "epoch_finished" else seen.retraining
                    optimizer.param_groups[0]["params"][0].data.view(-1)[0] = torch.inf
    continued(tmp_path)
    assert content(tmp_path) == content(whole[0])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("could not create a primitive"),
    ],
)
def test_exhausted_memory_is_a_sentence(error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the GPU's allocator, Python, torch's on the CPU, and oneDNN say it; test_command_line makes it real."""

    def full(*_arguments: Any) -> None:
        raise error

    monkeypatch.setattr(train, "search_step", full)
    with pytest.raises(
        TrainingError,
        match=r"^the device ran out of memory; lower search\.batch_size, space\.channels or runtime\.memory_share, or "
        r"take a smaller model, in a new search; the last checkpoint of this one is intact$",
    ):
        ran(tmp_path)


def test_other_faults_of_the_arithmetic_are_not_called_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def wrong(*_arguments: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(train, "search_step", wrong)
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2 shapes"):
        ran(tmp_path)


def test_images_that_cannot_be_read_in_the_end_are_a_sentence(
    whole: tuple[Path, list[Event], int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make = data.images

    def without_test(*arguments: Any) -> data.Images:
        def open_test() -> data.Split:
            raise OSError(errno.EIO, "Input/output error", "digits.npz")

        return dataclasses.replace(make(*arguments), open_test=open_test)

    with monkeypatch.context() as patch:
        patch.setattr(data, "images", without_test)
        with pytest.raises(
            TrainingError,
            match=r"^a file could not be read or written \(.*Input/output error: 'digits\.npz'\); see that the disk is "
            r"there and not full, then start again; the last checkpoint is intact$",
        ):
            ran(tmp_path)
    assert not (tmp_path / "result").exists()
    continued(tmp_path)
    assert content(tmp_path) == content(whole[0])


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk that is full, in effect: the system refuses to let any file of this process grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


FULL = (
    r"^a file could not be read or written \(.*[Ff]ile too large.*\); see that the disk is there and not full, then "
    r"start again; the last checkpoint is intact$"
)


@pytest.mark.parametrize(
    ("kind", "epoch", "room"),
    [
        pytest.param("checkpoint_saved", 1, 60_000, id="checkpoint"),
        pytest.param("checkpoint_saved", 6, 10, id="events"),
        pytest.param("retrain_epoch", 2, 3_000, id="result"),
        pytest.param("retrain_epoch", 2, 60_000, id="last checkpoint"),
    ],
)
def test_a_full_disk_is_a_sentence_and_the_checkpoint_goes_on(
    whole: tuple[Path, list[Event], int], tmp_path: Path, kind: str, epoch: int, room: int
) -> None:
    """Whatever file is the first that does not fit; one that is there is whole."""
    run = search(configuration(), tmp_path)
    for event in run:
        if event.kind == kind and event.epoch == epoch:
            break
    with files_of_at_most(room), pytest.raises(TrainingError, match=FULL):
        list(run)
    for said in told(tmp_path):
        assert said["kind"] not in ("result_ready", "search_finished")
    assert not (tmp_path / "result").exists() or export.verified(tmp_path)["ok"]
    continued(tmp_path)
    assert content(tmp_path) == content(whole[0])


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/run cannot be made \(Not a directory\); give another folder$"):
        ran(tmp_path / "file" / "run")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^runtime\.device: this machine has no usable GPU; use auto or cpu$"):
        ran(tmp_path, {"runtime.device": "cuda"})


def spoiled(build: Callable[..., Network]) -> Callable[..., Network]:
    def built(*arguments: Any) -> Network:
        network = build(*arguments)
        with torch.no_grad():
            next(network.parameters()).mul_(1.01)
        return network

    return built


def test_a_compact_network_that_differs_is_not_published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(export, "compact_network", spoiled(export.compact_network))
    with pytest.raises(
        ExportError,
        match=r"^the compact network differs from the masked one by \S+ in fp32, allowed is 1e-05; nothing was "
        r"published\. This is a fault of Coppice, please report it$",
    ):
        ran(tmp_path)
    assert not (tmp_path / "result").exists()


def test_an_onnx_file_that_differs_is_not_published(
    whole: tuple[Path, list[Event], int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    network = export.loaded(whole[0] / "result")
    monkeypatch.setattr(export, "_onnx_difference", lambda *_: 0.5)
    with pytest.raises(
        ExportError,
        match=r"^the ONNX file differs from the network by 5\.0e-01, allowed is 1e-04; nothing was published$",
    ):
        export.write_onnx(network, torch.randn(2, 1, 8, 8), tmp_path / "model.onnx")


def test_a_caller_may_walk_away_and_gets_his_settings_back(tmp_path: Path) -> None:
    before = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
    run: Iterator[Event] = search(configuration({"runtime.threads": 2}), tmp_path)
    next(run)
    run.close()  # type: ignore[attr-defined]
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_other_images_are_not_continued_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not interrupted(tmp_path, after=40)
    unpacked = packing.load

    def other(settings: DataConfig) -> Any:
        packed = yield from unpacked(settings)
        return dataclasses.replace(packed, sha256="0" * 64)

    monkeypatch.setattr(packing, "load", other)
    with pytest.raises(ConfigError, match="the images are not those of the search in"):
        ran(tmp_path)


def test_precision_and_threads_decide_the_result_and_the_device_does_not(tmp_path: Path) -> None:
    assert not interrupted(tmp_path, after=40)
    for setting, value in (("threads", 2), ("precision", "bf16")):
        with pytest.raises(ConfigError, match="holds a search with other settings"):
            ran(tmp_path, {f"runtime.{setting}": value})
    assert not interrupted(tmp_path, 2, {"runtime.device": "auto"})


def test_a_size_that_no_random_network_meets_ends_the_comparison_not_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retraining, "fitted", _no_network)
    said = ran(tmp_path, {"baseline.random": 2})
    report = next(event for event in said if isinstance(event, events.ResultReady)).report
    assert report["baseline"] is None
    assert said[-1].kind == "search_finished"


def _no_network(*_: Any, **__: Any) -> None:
    raise EngineError("no network of the space has 1 params or less; raise the target")
