"""Promises of a run that is asked to end early: a whole result, of the asked size, from what was found so far."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Whole
from small import VARIANTS, StopAt, configuration

from nasengine import events, export
from nasengine.config import CANDIDATES, parse
from nasengine.control import Control
from nasengine.errors import Interrupted
from nasengine.outlook import plan_of
from nasengine.search import search
from nasengine.splits import builtin_facts
from nasengine.strategies import mgas_published
from nasengine.supernet import architecture

SAME = ("architecture.json", "model.safetensors", "model.onnx")


class Early(StopAt):
    """Asks to stop, and to finish, at the n-th look; and to end at once at the look `end`."""

    def __init__(self, stop: float = float("inf"), finish: float = float("inf"), end: float = float("inf")) -> None:
        super().__init__(end)
        self.when = {"stop": stop, "finish": finish}

    @property
    def stop(self) -> bool:  # type: ignore[override]
        return self.looks > self.when["stop"]

    @property
    def finish(self) -> bool:  # type: ignore[override]
        return self.looks > self.when["finish"]


class Told(Control):
    """Asks from the first moment on, as a supervisor does that takes over."""

    def __init__(self, **asked: bool) -> None:
        self.stop, self.finish = asked.get("stop", False), asked.get("finish", False)


def ran(folder: Path, control: Control, changes: dict[str, Any] | None = None) -> Whole:
    said = list(search(configuration(changes), folder, control=control))
    return Whole(folder, said, getattr(control, "looks", 0))


def report_of(run: Whole, place: str = "result") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.folder / place / "report.json").read_text())
    return found


def bytes_of(folder: Path) -> list[bytes]:
    return [(folder / "result" / name).read_bytes() for name in SAME]


def sound(run: Whole) -> None:
    """Every announced network is there, checked and within its limits; numbers rise."""
    assert run.said[-1].kind == "search_finished"
    for event in run.of(events.ResultReady):
        found = export.verified(run.folder / event.folder)
        assert found["ok"], found["problems"]
        report = event.report
        limits = {report["target"]["metric"]: report["target"]["value"], **report["limits"]}
        assert all(report["achieved"][metric] <= limit for metric, limit in limits.items())
        share = max(report["achieved"][metric] / limit for metric, limit in limits.items())
        assert share >= 0.97 or none_fits(run.folder, report["target"]["value"], limits)
    fractions = [event.fraction for event in run.of(events.Progress, events.RetrainEpoch)]
    assert fractions == sorted(fractions)
    assert [event.seq for event in run.said] == list(range(1, len(run.said) + 1))


def none_fits(folder: Path, target: int, limits: dict[str, int]) -> bool:
    """Whether no single further operation or filter would: blocks that were never seen fall in large parts."""
    plan = plan_of(parse(json.loads((folder / "config.json").read_text())), builtin_facts("digits"))
    members = torch.load(folder / "checkpoint.pt", weights_only=True)["members"]
    (kept,) = (member["kept"] for member in members if member["target"] == target)
    for choice in plan.choices:
        for unit in (~kept[choice.name]).nonzero().flatten().tolist() if choice.granularity != "weight" else ():
            more = kept[choice.name].clone()
            more[unit] = True
            grown = architecture(plan, {**kept, choice.name: more})
            if all(grown.size(metric) <= limit for metric, limit in limits.items()):
                return False
    return True


MOMENTS = [
    pytest.param(name, share, marks=[pytest.mark.long] * ((n + 2 * late) % 4 > 0))
    for n, name in enumerate(VARIANTS)
    for late, share in enumerate((0.1, 0.5))
]
"""Every search early and late; one in four is not among the long tests."""


@pytest.mark.parametrize(("name", "share"), MOMENTS)
def test_a_stopped_search_trains_what_it_has_found(
    name: str, share: float, whole_of: Callable[[str], Whole], tmp_path: Path
) -> None:
    whole = whole_of(name)
    asked = configuration(VARIANTS[name])
    looks_on = asked.retrain.teacher == "full" or asked.strategy.kind == "dna"  # behind the last epoch of the search
    run = ran(tmp_path, Early(stop=share * whole.looks * (0.5 if looks_on else 1) + 2), VARIANTS[name])
    sound(run)
    places = [event.folder for event in whole.of(events.ResultReady)]
    assert [event.folder for event in run.of(events.ResultReady)] == places
    assert len(run.of(events.EpochFinished)) < len(whole.of(events.EpochFinished))
    wanted = asked.retrain
    epochs = wanted.epochs * (len(places) + (wanted.teacher == "full"))
    trained = [event for event in run.of(events.RetrainEpoch) if not event.network.startswith("teacher ")]
    assert len(trained) == epochs, "trained as planned, random networks left out"
    for place in places:
        report = report_of(run, place)
        assert report["ended_early"][0] == "search" and report["baseline"] is None
    assert "Ended early on request: search" in (tmp_path / "result" / "README.md").read_text()


@pytest.mark.parametrize("name", [pytest.param("family", marks=pytest.mark.long), "limits"])
def test_a_stopped_search_that_is_killed_ends_with_the_very_same_network(
    name: str, whole_of: Callable[[str], Whole], tmp_path: Path
) -> None:
    """Killed at any step once the end of the search is saved; whoever takes over says stop again, or has forgotten."""
    stop = whole_of(name).looks // 3
    run = ran(tmp_path / "whole", Early(stop=stop), VARIANTS[name])
    for number, end in enumerate(range(stop + 3, run.looks, max(1, (run.looks - stop) // 4))):
        folder = tmp_path / str(end)
        with pytest.raises(Interrupted):
            ran(folder, Early(stop=stop, end=end), VARIANTS[name])
        sound_again = ran(folder, Told(stop=bool(number % 2)), VARIANTS[name])
        assert bytes_of(folder) == bytes_of(tmp_path / "whole")
        assert report_of(sound_again)["ended_early"] == report_of(run)["ended_early"]


def test_finish_ends_search_and_training_within_two_looks(whole_of: Callable[[str], Whole], tmp_path: Path) -> None:
    middle = whole_of("family").looks // 4
    run = ran(tmp_path, Early(finish=middle), VARIANTS["family"])
    sound(run)
    networks = len(run.of(events.ResultReady))
    assert run.looks <= middle + 2 * networks + 2
    assert not run.of(events.RetrainEpoch)
    assert report_of(run)["ended_early"] == ["search", "retraining"]


def test_a_training_that_ends_early_keeps_the_better_network(tmp_path: Path) -> None:
    """From scratch, ended at its first step: what inheriting starts with, byte by byte. Later: what was trained."""
    changes: dict[str, Any] = {
        "data.limit": 800, "space.candidates": CANDIDATES, "target.value": "80%",
        "retrain.epochs": 4, "retrain.lr": 0.1,
    }  # fmt: skip
    searched = False
    for event in search(configuration({**changes, "retrain.start": "scratch"}), tmp_path / "searched"):
        searched = searched or (isinstance(event, events.StageFinished) and event.last)
        if searched and isinstance(event, events.CheckpointSaved):
            break
    runs = {}
    for start, after in (("inherit", 0), ("scratch", 0), ("scratch", 60)):
        folder = tmp_path / f"{start}{after}"
        shutil.copytree(tmp_path / "searched", folder)
        asked = {**changes, "retrain.start": start}
        (folder / "config.json").write_text(configuration(asked).model_dump_json())  # the search was the same
        runs[start, after] = ran(folder, Early(finish=after), asked)
        assert report_of(runs[start, after])["ended_early"] == ["retraining"]
    assert bytes_of(runs["scratch", 0].folder) == bytes_of(runs["inherit", 0].folder)
    untrained, trained = (report_of(runs["scratch", after])["accuracy"]["validation"] for after in (0, 60))
    assert trained > untrained > 0.3
    assert bytes_of(runs["scratch", 60].folder) != bytes_of(runs["scratch", 0].folder)


def test_stop_while_a_random_network_is_trained_drops_the_comparison(
    whole_of: Callable[[str], Whole], tmp_path: Path
) -> None:
    whole = whole_of("limits")
    run = ran(tmp_path, Early(stop=whole.looks - 3), VARIANTS["limits"])
    sound(run)
    assert bytes_of(tmp_path) == bytes_of(whole.folder), "the found network was trained by then"
    report = report_of(run)
    assert report["ended_early"] == ["comparison"] and report["baseline"] is None


def test_finish_while_a_random_network_is_trained_leaves_the_found_one_whole(
    whole_of: Callable[[str], Whole], tmp_path: Path
) -> None:
    whole = whole_of("limits")
    run = ran(tmp_path, Early(finish=whole.looks - 3), VARIANTS["limits"])
    assert bytes_of(tmp_path) == bytes_of(whole.folder) and report_of(run)["ended_early"] == ["comparison"]


def test_a_stop_while_a_published_search_only_looks_on_still_fits_the_network(tmp_path: Path) -> None:
    """Its probe: an epoch with frozen masks after which nothing is cut."""
    changes = {
        "strategy.recipe": "published", "strategy.cuts": [1, 2], "space.cells": 3, "search.epochs": 30,
        "target.value": "25%", "retrain.epochs": 1, "data.limit": 100,
    }  # fmt: skip
    seen: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        make = mgas_published.strategy

        def made(*arguments: Any) -> Any:
            seen["strategy"] = make(*arguments)
            return seen["strategy"]

        patch.setattr(mgas_published, "strategy", made)
        control = Told()
        for event in search(configuration(changes), tmp_path, control=control):
            if isinstance(event, events.CheckpointSaved) and bool(seen["strategy"].probing):
                control.stop = True
            seen.setdefault("said", []).append(event)
    assert control.stop, "it never looked on"
    sound(Whole(tmp_path, seen["said"], 0))


def test_a_whole_run_did_not_end_early(whole_of: Callable[[str], Whole]) -> None:
    run = whole_of("limits")
    assert report_of(run)["ended_early"] == []
    assert "Ended early" not in (run.folder / "result" / "README.md").read_text()


def test_a_finished_run_stays_finished_whatever_is_asked(tmp_path: Path) -> None:
    first = ran(tmp_path, Told(finish=True))
    before = bytes_of(tmp_path)
    again = ran(tmp_path, Told(stop=True, finish=True))
    assert [event.kind for event in again.said] == ["result_ready", "search_finished"]
    assert bytes_of(tmp_path) == before and torch.load(tmp_path / "checkpoint.pt", weights_only=True)["ended"][2]
    assert report_of(first)["ended_early"] == ["search", "retraining"]
