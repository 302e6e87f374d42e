"""Promises of DMS's recipes for trained weights, and of a retraining of no epochs: what moves, and what it is worth.

The weights are those of a space of our own that was trained as a whole before; where they come from is not asked here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Whole
from safetensors.torch import load_file, save_file
from small import RAW, StopAt, configuration, digits, small_plan
from torch import Tensor, nn

from nasengine import data, events, export, packing, search, train, zoo
from nasengine.config import DataConfig, DMSConfig, SearchConfig, parse
from nasengine.device import generator
from nasengine.errors import Interrupted
from nasengine.outlook import plan_of
from nasengine.splits import builtin_facts
from nasengine.supernet import Supernet

CHANGES: dict[str, Any] = {
    "strategy": {"kind": "dms"}, "space.channels": 8, "target.value": "60%", "search.epochs": 6, "retrain.epochs": 0,
    "baseline.random": 2, "data.limit": 600,
}  # fmt: skip
FILES = ("model.safetensors", "model.onnx", "architecture.json")


def wanted(recipe: str) -> SearchConfig:
    """As `parse` gives it for a space that begins with trained weights."""
    found = configuration({**CHANGES, "search.lr": 0.05 if recipe == "scale" else 0.005, "search.weight_decay": 0.01})
    return found.model_copy(update={"strategy": DMSConfig(recipe=recipe)})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(cache: None) -> dict[str, Tensor]:
    """Values of the whole space after 12 epochs on the digits."""
    found, images = wanted("scale"), digits(600)
    plan = plan_of(found, builtin_facts("digits"))
    net = Supernet.born(plan, generator("cpu", 0, "trained")).train()
    feed = train.Feed(images=images, part=torch.arange(len(images.train)), batch_size=32, seed=0)
    optimizer = train.weights_optimizer(net, 0.05, 3e-4)
    for epoch in range(12):
        for step, indices in enumerate(feed.order("trained", epoch)):
            images_, labels = feed.batch(indices, "trained", epoch, step)
            optimizer.zero_grad()
            train.task_loss(net(images_), labels).backward()
            optimizer.step()
    net.store()
    accuracy = train.evaluated(net.eval(), images.validation, images)["accuracy"]
    assert accuracy is not None and accuracy > 0.85, accuracy
    return net.nursery


@contextmanager
def begun_with(values: dict[str, Tensor]) -> Iterator[None]:
    """Every search within begins with these weights."""
    born = Supernet.born

    def given(plan: Any, *arguments: Any) -> Supernet:
        net = born(plan, *arguments)
        return Supernet(plan, {name: value.clone() for name, value in values.items()}, net.kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Supernet, "born", given)
        yield


@pytest.fixture(scope="module")
def run_of(trained: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Whole]:
    """The uninterrupted search by a recipe, made when it is first asked for."""
    made: dict[str, Whole] = {}

    def of(recipe: str) -> Whole:
        if recipe not in made:
            with begun_with(trained):
                made[recipe] = ran(wanted(recipe), tmp_path_factory.mktemp(recipe))
        return made[recipe]

    return of


def ran(config: SearchConfig, folder: Path) -> Whole:
    control = StopAt(float("inf"))
    return Whole(folder, list(search.search(config, folder, control=control)), control.looks)


def report_of(run: Whole) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.folder / "result" / "report.json").read_text())
    return found


def is_statistic(name: str) -> bool:
    return name.endswith(("/mean", "/var"))


def left(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["net"]["nursery"]


# -- what moves -------------------------------------------------------------------------------------------------------


def test_gates_move_no_weight_whatever_decay_and_momentum_say(
    trained: dict[str, Tensor], run_of: Callable[[str], Whole]
) -> None:
    run = run_of("gates")
    assert sum(sum(event.pruned.values()) for event in run.of(events.Committed)) > 0
    now = left(run.folder)
    for name, value in trained.items():
        if not is_statistic(name):
            assert torch.equal(now[name], value), name
    assert any(not torch.equal(now[name], value) for name, value in trained.items() if is_statistic(name))


def test_what_gates_hand_out_are_the_very_weights_that_were_given(
    trained: dict[str, Tensor], run_of: Callable[[str], Whole]
) -> None:
    folder = run_of("gates").folder
    given = {one for name, value in trained.items() if not is_statistic(name) for one in value.flatten().tolist()}
    network = export.loaded(folder / "result")
    found = {name: value for name, value in network.named_parameters() if not name.endswith(".factor")}
    assert len(found) > 10
    for name, value in found.items():
        assert set(value.detach().flatten().tolist()) <= given, name
    assert export.verified(folder)["ok"]


def test_the_other_recipes_train_weights_on_and_prune_moves_them_less(
    trained: dict[str, Tensor], run_of: Callable[[str], Whole]
) -> None:
    moved = {}
    for recipe in ("scale", "prune"):
        now = left(run_of(recipe).folder)
        assert not torch.equal(now["stem_conv/weight"], trained["stem_conv/weight"])
        parts = [(now[name] - value).square().sum() for name, value in trained.items() if not is_statistic(name)]
        moved[recipe] = float(torch.stack(parts).sum())
    assert moved["prune"] < 0.25 * moved["scale"], moved


def test_where_weights_rest_batch_norms_alone_are_in_training_mode() -> None:
    net = Supernet.born(small_plan(), generator("cpu", 0, "modes"))
    net.other = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(2), nn.GELU())
    train.ready(net, weights=False)
    assert [module.training for module in (net, *net.other)] == [True, False, True, False]
    assert not any(parameter.requires_grad for parameter in net.live.values())
    train.ready(net, weights=True)
    assert all(module.training for module in net.modules())
    assert all(parameter.requires_grad for parameter in net.live.values())


# -- what it is worth -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["gates", "prune"])
def test_without_any_retraining_the_found_network_is_better_than_random_ones(
    recipe: str, run_of: Callable[[str], Whole]
) -> None:
    report = report_of(run_of(recipe))
    assert report["achieved"]["params"] <= report["target"]["value"]
    assert report["accuracy"]["test"] > max(report["baseline"]["best"], 0.3), report["baseline"]


# -- a retraining of no epochs ----------------------------------------------------------------------------------------


def test_no_epochs_are_neither_told_nor_waited_for(run_of: Callable[[str], Whole]) -> None:
    run = run_of("gates")
    assert not run.of(events.RetrainEpoch)
    epochs, told = wanted("gates").search.epochs, run.of(events.Progress)
    assert told and all(
        event.fraction == pytest.approx((event.epoch - 1 + event.step / event.steps) / epochs, abs=0.02)
        for event in told
    ), "the search is all that there is"
    (end,) = run.of(events.StageFinished)
    assert report_of(run)["accuracy"]["validation"] == pytest.approx(end.validation["accuracy"], abs=1e-6)


@pytest.mark.parametrize("strategy", [{"kind": "mgas", "cuts": []}, {"kind": "dms"}])
def test_statistics_of_random_networks_are_their_own_where_nothing_is_retrained(
    strategy: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they would be after a look at a few batches more; those of the search's network stay as they were."""
    runs = []
    keep = search._Run._keep_random

    def watched(run: Any, bounds: dict[str, int]) -> None:
        before = {name: value.clone() for name, value in run.net.nursery.items()}
        keep(run, bounds)
        runs.append(run)
        assert all(torch.equal(before[name], value) for name, value in run.net.nursery.items())

    monkeypatch.setattr(search._Run, "_keep_random", watched)
    changes = {"strategy": strategy, "retrain.epochs": 0, "baseline.random": 1, "data.limit": 600}
    done = ran(configuration({**CHANGES, **changes}), tmp_path)
    (run,) = runs
    network = run._network(run.randoms[0])
    statistics = {name: value.clone() for name, value in network.state_dict().items() if "running_var" in name}
    network.train()
    with torch.no_grad():
        for number in range(200):
            network(run.feeds.learning.plain(32, "again", number)[0])
    again = network.state_dict()
    moved = [float((again[name] - was).norm() / was.norm()) for name, was in statistics.items()]
    assert sum(moved) / len(moved) < 0.2, moved
    assert report_of(done)["baseline"]["random"][0]["test"] > 0


@pytest.mark.parametrize("recipe", ["gates", "prune"])
def test_stopped_and_continued_it_ends_with_the_very_same_network(
    recipe: str, trained: dict[str, Tensor], run_of: Callable[[str], Whole], tmp_path: Path
) -> None:
    whole, attempts = run_of(recipe), 0
    with begun_with(trained):
        while attempts < 8:
            try:
                list(search.search(wanted(recipe), tmp_path, control=StopAt(whole.looks // 4)))
                break
            except Interrupted:
                attempts += 1
    assert 3 <= attempts < 8
    for name in FILES:
        assert (tmp_path / "result" / name).read_bytes() == (whole.folder / "result" / name).read_bytes(), name


# -- a library's model ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def borrowed(tmp_path_factory: pytest.TempPathFactory, cache: None) -> dict[str, Any]:
    """A search of a library's model whose weights were trained a little and lie in a file."""
    model = zoo.built("timm", "test_resnet", classes=10, channels=1, image_size=32).train()
    images = data.images(
        packing.loaded(DataConfig(dataset="digits", image_size=32)), DataConfig(image_size=32, limit=300), 3, "cpu"
    )
    feed = train.Feed(images=images, part=torch.arange(len(images.train)), batch_size=32, seed=0)
    optimizer = train.retrain_optimizer(model, 5e-4)
    for epoch in range(4):
        for step, indices in enumerate(feed.order("trained", epoch)):
            train.retrain_step(model, feed.batch(indices, "trained", epoch, step), optimizer, {}, "fp32", 0.05)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_file(model.state_dict(), path)
    return {
        **RAW,
        "data": {"dataset": "digits", "limit": 300, "image_size": 32},
        "space": {"kind": "imported", "model": "test_resnet", "weights": "file", "path": str(path)},
        "target": {"metric": "macs", "value": "70%"},
        "search": {"epochs": 4, "batch_size": 32},
        "retrain": {"epochs": 0},
    }


def test_gates_leave_the_weights_of_a_library_s_model_as_its_file_has_them(
    borrowed: dict[str, Any], tmp_path: Path
) -> None:
    asked = parse({**borrowed, "strategy": {"kind": "dms", "recipe": "gates"}})
    whole = ran(asked, tmp_path / "whole")
    given = load_file(borrowed["space"]["path"])
    numbers = {one for name, value in given.items() if "running" not in name for one in value.flatten().tolist()}
    network, report = export.loaded(whole.folder / "result"), report_of(whole)
    assert all(set(value.detach().flatten().tolist()) <= numbers for value in network.parameters())
    assert report["achieved"]["macs"] <= report["target"]["value"]
    stopped, file = tmp_path / "stopped", Path(borrowed["space"]["path"])
    with pytest.raises(Interrupted):
        list(search.search(asked, stopped, control=StopAt(whole.looks // 2)))
    elsewhere = file.rename(file.with_suffix(".moved"))
    list(search.search(asked, stopped))  # the checkpoint has what the file had
    elsewhere.rename(file)
    for name in FILES:
        assert (stopped / "result" / name).read_bytes() == (whole.folder / "result" / name).read_bytes(), name


def test_weights_of_a_library_s_model_learn_on_by_prune_and_its_whole_can_teach(
    borrowed: dict[str, Any], tmp_path: Path
) -> None:
    asked = {"strategy": {"kind": "dms", "recipe": "prune"}, "retrain": {"epochs": 1, "teacher": "full"}}
    run = ran(parse({**borrowed, **asked}), tmp_path)
    assert [event.network for event in run.of(events.RetrainEpoch)] == ["teacher", "found"]
    (started,) = run.of(events.SearchStarted)
    report = report_of(run)
    assert report["teacher"]["macs"] == started.full_size > report["achieved"]["macs"]
    given = load_file(borrowed["space"]["path"])
    learned = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["net"]["nursery"]
    for name in ("layer2.0.conv1", "fc"):
        was, now = given[f"{name}.weight"], learned[f"{name}/weight"]
        assert 0 < float((now - was).norm() / was.norm()) < 0.5, "from where they were, with care"
