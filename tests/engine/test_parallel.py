"""Several processes that torchrun starts search as one: they learn alike, and one of them hears, speaks and writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import assert_alike, leave, together, torchrun, watched_search
from small import ROOT, VARIANTS, configuration, digits, surroundings, written
from test_resume_contract import FILES, place_of, places, ran_until

from nasengine import device, latency, parallel, train
from nasengine.__main__ import BAD_INPUT, DONE, main
from nasengine.control import Control
from nasengine.errors import ConfigError, EngineError
from nasengine.events import RetrainEpoch
from nasengine.export import verified
from nasengine.search import search

SHORT: dict[str, Any] = {"retrain.epochs": 2}
UNTAUGHT = {"kind": "dna", "recipe": "dna++", "rating_images": 40}


def processes(patch: pytest.MonkeyPatch, n: int, rank: int = 0) -> None:
    """As if this one were of so many."""
    for name, value in {"WORLD_SIZE": n, "RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": n}.items():
        patch.setenv(name, str(value))
    patch.setenv("MASTER_ADDR", "localhost")


# -- alone -----------------------------------------------------------------------------------------------------------


def test_alone_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # left by something else than torchrun, which sets the others, too
    parallel.join("cuda")
    assert (parallel.world(), parallel.rank(), parallel.leads()) == (1, 0, True)
    assert parallel.uneven(1) is None and parallel.uneven(33) is None
    parallel.mean_(pytest.fail("nothing is looked at") for _ in range(1))
    value = object()
    assert parallel.agreed(lambda: value) is value
    batch = torch.arange(6.0).view(3, 2)
    assert parallel.share(batch).data_ptr() == batch.data_ptr() and torch.equal(parallel.share(batch), batch)
    assert list(parallel.told([1, 2])) == [1, 2] and list(parallel.first_then_others([1, 2])) == [1, 2]


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "n"), [(31, 2), (32, 3), (2, 2), (3, 3)])
def test_batches_that_cannot_be_shared_equally_are_told(images: int, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    processes(monkeypatch, n)
    told = f"{images} images are no equal shares for {n} processes; give a multiple of {n}, two for each at least"
    assert parallel.uneven(images) == told and parallel.uneven(2 * n) is None


def test_images_for_decisions_are_at_least_two_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    images = digits()
    processes(monkeypatch, 4)
    feeds = train.Feeds.of(images, 32, 3, 0.25)
    assert feeds.deciding.batch_size == 32, "sixteen for each, were the weights' batches as large"
    with pytest.raises(ConfigError) as refused:
        train.Feeds.of(images, 32, 3, 0.04)
    told = "6 images held out for decisions are not two for each of 4 processes; hold out more, or start fewer of them"
    assert refused.value.problems == (("strategy.decision_fraction", told),)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    processes(monkeypatch, 4)
    monkeypatch.setattr(device, "chosen", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError) as refused:
        parallel.join("auto")
    told = "4 processes were started here, where there are 2 usable GPUs; start one for each, or choose cpu"
    assert refused.value.problems == (("runtime.device", told),)


@pytest.mark.parametrize("rank", [0, 1])
def test_several_seeds_are_refused_by_each_process(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    processes(monkeypatch, 2, rank)
    assert main(["search", str(written(tmp_path)), "--out", str(tmp_path / "run"), "--seeds", "2"]) == BAD_INPUT
    told = capsys.readouterr()
    sentence = "--seeds is for one process; leave it out, or start without torchrun"
    assert told.err == f"{'' if rank == 0 else 'process 1: '}error: {sentence}\n"
    assert (sentence in told.out, bool(told.out)) == (rank == 0, rank == 0)


# -- together ----------------------------------------------------------------------------------------------------------


def stopped_and_measured(folder: Path) -> None:
    """One of two processes."""
    parallel.join("cpu")
    found: dict[str, Any] = {"errors": []}
    for number, changes in enumerate(({"search.batch_size": 31}, {"data": {"dataset": "folder", "path": "/none"}})):
        try:
            list(search(configuration(changes), folder / f"refused {number}"))
        except EngineError as error:
            found["errors"].append(type(error).__name__)
    passes: list[int] = []
    network = torch.nn.Identity()
    network.register_forward_hook(lambda *_: passes.append(parallel.rank()))
    taken = latency.timed(network.eval(), torch.zeros(1))
    found |= {"passes": len(passes), "taken": [taken.best, taken.usual]}

    said = ran_until(folder / "undisturbed", SHORT, [])  # others than the first are told nothing
    stops = parallel.agreed(lambda: [list(place) for place in places(said)][1:-1:2])
    attempts = []
    while stops:
        told = ran_until(folder / "disturbed", SHORT, [tuple(place) for place in stops])
        seen = parallel.agreed(lambda told=told: [list(place_of(event)) for event in told])
        stops = [place for place in stops if place not in seen]
        attempts.append(len(told))
    leave(folder, {**found, "attempts": attempts, "said": len(said)})
    ran_until(folder / "disturbed", SHORT, [])


@pytest.mark.long
def test_the_first_hears_and_measures_for_all_and_stopped_at_any_place_they_end_with_the_very_same_files(
    tmp_path: Path,
) -> None:
    one, other = together(stopped_and_measured, tmp_path)
    assert one["errors"] == ["ConfigError", "DataError"] and other["errors"] == ["ConfigError", "Interrupted"]
    assert one["taken"] == other["taken"] and (one["passes"] >= latency.FEWEST, other["passes"]) == (True, 0)
    assert len(one["attempts"]) >= 3 and one["said"] > 10
    assert other["attempts"] == [0] * len(one["attempts"]) and other["said"] == 0
    for name in FILES:
        found = [(tmp_path / folder / "result" / name).read_bytes() for folder in ("undisturbed", "disturbed")]
        assert found[0] == found[1], name
    assert json.loads((tmp_path / "disturbed" / "result" / "report.json").read_text())["processes"] == 2


def test_torchrun_writes_one_intact_result_and_one_log(tmp_path: Path) -> None:
    command = torchrun("-m", "nasengine", "search", written(tmp_path, SHORT), "--out", tmp_path / "run")
    run = subprocess.run(command, cwd=ROOT, env=surroundings(), capture_output=True, text=True, check=False)
    assert run.returncode == DONE and "error" not in run.stderr, run.stderr
    assert (tmp_path / "run" / "events.jsonl").read_text() == run.stdout
    events = [json.loads(line) for line in run.stdout.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["kind"] for event in events].count("result_ready") == 1 and events[-1]["kind"] == "search_finished"
    assert verified(tmp_path / "run")["ok"]
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {"config.json", "events.jsonl", "checkpoint.pt", "result"}


def by_all_methods(folder: Path) -> None:
    """One of two processes; what it leaves to one alone has one stage behind it."""
    parallel.join("cpu")
    published = {**VARIANTS["published"], "search.epochs": 8}
    found = {
        "published": watched_search(folder / "published", published),
        "teacher": watched_search(folder / "teacher", VARIANTS["teacher"]),
        "known model": watched_search(folder / "known model", VARIANTS["known model"]),
        "sub-graphs": watched_search(folder / "sub-graphs", VARIANTS["sub-graphs, then widths"]),
        "blocks": watched_search(folder / "blocks", VARIANTS["blocks"]),
        "untaught blocks": watched_search(folder / "untaught blocks", VARIANTS["blocks"] | {"strategy": UNTAUGHT}),
    }
    control, epochs = Control(), 0
    if not parallel.leads():
        control.requested = "nobody hears this"
    for event in search(configuration({"retrain.epochs": 6}), folder / "finished", control=control):
        control.finish = control.finish or isinstance(event, RetrainEpoch)
        epochs += isinstance(event, RetrainEpoch)
    ran_until(folder / "left to one", SHORT, [("stage_finished", 0, None, None)])
    leave(folder, {**found, "epochs": epochs})


@pytest.mark.long
def test_all_methods_learn_the_same_bit_by_bit_end_early_together_and_can_be_left_to_one_process(
    tmp_path: Path,
) -> None:
    one, other = together(by_all_methods, tmp_path)
    for name in ("published", "teacher", "known model", "sub-graphs", "blocks", "untaught blocks"):
        assert one[name]["search"] and one[name]["retrain"]
        assert_alike(one[name], other[name])
    assert (one["epochs"], other["epochs"]) == (1, 0)
    report = json.loads((tmp_path / "finished" / "result" / "report.json").read_text())
    assert report["ended_early"] == ["retraining"]
    left = tmp_path / "left to one"
    assert (left / "checkpoint.pt").exists() and not (left / "result").exists()
    assert ran_until(left, SHORT, [])[-1].kind == "search_finished" and verified(left)["ok"]


@pytest.mark.long
def test_a_process_that_dies_ends_all_and_started_again_they_finish(tmp_path: Path) -> None:
    command = torchrun("-m", "nasengine", "search", written(tmp_path), "--out", tmp_path / "run")
    with subprocess.Popen(command, cwd=ROOT, env=surroundings(), stdout=-1, stderr=-1, text=True) as run:
        for line in run.stdout:
            if json.loads(line)["kind"] == "checkpoint_saved":
                break
        os.kill(child_of(run.pid, "RANK=1"), signal.SIGKILL)
        _, told = run.communicate()
    assert run.returncode not in (DONE, None)
    assert "error: another process of this search has ended" in told or "stopped on request (SIGTERM)" in told, told
    again = subprocess.run(command, cwd=ROOT, env=surroundings(), capture_output=True, text=True, check=False)
    assert again.returncode == DONE and verified(tmp_path / "run")["ok"]


def child_of(parent: int, variable: str) -> int:
    """The child that has this in its environment."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if variable in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return int(child)
    raise AssertionError("there is none")
