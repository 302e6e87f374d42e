"""Promises of nasengine.search: one network for one configuration, however often the run is interrupted."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small import configuration

from nasengine import data, events, export, packing, retraining, train
from nasengine.compact import Network
from nasengine.config import DataConfig
from nasengine.errors import CheckpointError, ConfigError, EngineError, ExportError, Interrupted, TrainingError
from nasengine.events import Event
from nasengine.search import Control, search
from nasengine.strategies import mgas

SAME = ("architecture.json", "model.safetensors", "model.onnx")
"""What must be bit for bit the same; the report tells times."""


class StopAt(Control):
    """Asks for the end at the n-th time that the run looks; counts how often it did."""

    def __init__(self, n: float) -> None:
        self.n, self.looks = n, 0

    @property
    def requested(self) -> str | None:  # type: ignore[override]
        self.looks += 1
        return "a test" if self.looks > self.n else None


def ran(folder: Path, changes: dict | None = None, control: Control | None = None, **options: Any) -> list[Event]:
    return list(search(configuration(changes), folder, control=control, **options))


def interrupted(folder: Path, after: int, changes: dict | None = None) -> bool:
    """Runs until the control is looked at for the n-th time; whether the run ended before."""
    try:
        ran(folder, changes, StopAt(after))
    except Interrupted:
        return False
    return True


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "result" / name).read_bytes() for name in SAME}


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
    assert content(tmp_path / "other")["model.safetensors"] != content(whole[0])["model.safetensors"]


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


def test_random_networks_beside_the_found_one_survive_interruptions(tmp_path: Path) -> None:
    changes = {"baseline.random": 2, "retrain.start": "scratch"}
    control = StopAt(float("inf"))
    ran(tmp_path / "whole", changes, control)
    reported = json.loads((tmp_path / "whole" / "result" / "report.json").read_text())
    assert len(reported["baseline"]["random"]) == 2
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


@pytest.mark.parametrize("lost", ["net", "strategy", "meter", "counts"])
def test_a_checkpoint_of_another_version_is_refused_with_a_sentence(begun: Path, lost: str) -> None:
    state = torch.load(begun / "checkpoint.pt", weights_only=True)
    del state[lost]
    torch.save(state, begun / "checkpoint.pt")
    with pytest.raises(
        CheckpointError, match=r"^the checkpoint in .* is of another version of Coppice .*; start over with --fresh$"
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
        match=r"^the loss became not a number in epoch 2.*; lower search\.lr and start again, the last checkpoint is",
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
        match=r"^the loss became not a number .*; lower retrain\.lr and start again, the last checkpoint is intact$",
    ):
        for event in run:
            if event.kind == "stage_finished" and event.stage == 1:
                monkeypatch.setattr(train, "task_loss", nothing)


def test_exhausted_memory_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_arguments: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(train, "search_step", full)
    with pytest.raises(
        TrainingError,
        match=r"^the device ran out of memory; lower search\.batch_size or space\.channels and start again",
    ):
        ran(tmp_path)


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
