"""Promises of the teacher: what is learned from it, and that it is trained like all others and changes nothing else."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Whole
from small import VARIANTS, StopAt, configuration, packed_digits
from test_early_end import Early, bytes_of, ran, report_of, sound
from torch import nn

from nasengine import events, search, train
from nasengine.objectives import distillation, task_loss
from nasengine.outlook import outlook

TAUGHT = {"retrain.teacher": "full"}


def answers(seed: int, n: int = 5, classes: int = 4) -> torch.Tensor:
    return 3 * torch.randn(n, classes, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


# -- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_the_slope_is_that_of_finite_differences(temperature: float) -> None:
    logits, teacher = answers(0).requires_grad_(), answers(1)
    distillation(logits, teacher, temperature).backward()
    for place in torch.cartesian_prod(torch.arange(5), torch.arange(4)).tolist():
        step = torch.zeros_like(teacher)
        step[tuple(place)] = 1e-6
        ends = [distillation(logits.detach() + sign * step, teacher, temperature) for sign in (1, -1)]
        assert float(logits.grad[tuple(place)]) == pytest.approx(float(ends[0] - ends[1]) / 2e-6, abs=1e-7)


def test_softened_answers_pull_by_the_difference_of_probabilities() -> None:
    """By hand: the slope of T^2 KL(p || q) in a logit is T (q - p), the mean over images."""
    logits, teacher, temperature = answers(2).requires_grad_(), answers(3), 4.0
    distillation(logits, teacher, temperature).backward()
    student, wanted = ((x.detach() / temperature).softmax(1) for x in (logits, teacher))
    torch.testing.assert_close(logits.grad, temperature * (student - wanted) / len(logits))


def test_the_weight_divides_what_is_learned_between_labels_and_teacher() -> None:
    network, images = nn.Linear(3, 4).double(), torch.randn(5, 3, dtype=torch.double)
    logits, labels = answers(4), torch.tensor([0, 1, 2, 3, 0])
    task = task_loss(logits, labels)
    for weight in (0.0, 0.25, 1.0):
        teacher = train.Teacher(network=network, weight=weight, temperature=2.0)
        expected = (1 - weight) * task + weight * distillation(logits, network(images), 2.0)
        torch.testing.assert_close(teacher.blended(task, logits, images), expected)


# -- the run ----------------------------------------------------------------------------------------------------------


def test_the_teacher_is_the_whole_space_trained_first_and_told_of(whole_of: Callable[[str], Whole]) -> None:
    run = whole_of("teacher")
    trained = [(event.network, event.epoch) for event in run.of(events.RetrainEpoch)]
    (started,) = run.of(events.SearchStarted)
    names = ["teacher", f"at {started.also[0]}", "found", "random 1"]
    assert trained == [(name, epoch) for name in names for epoch in (1, 2)]
    report = report_of(run)
    assert report["teacher"]["params"] == started.full_size, "nothing of it is pruned"
    last = [event for event in run.of(events.RetrainEpoch) if event.network == "teacher"][-1]
    assert report["teacher"]["validation"] == last.validation["accuracy"]
    percent = f"{100 * report['teacher']['test']:.1f} %"
    assert f"{started.full_size:,} parameters, {percent}" in report["teacher"]["sentence"]
    assert report["teacher"]["sentence"] in (run.folder / "result" / "README.md").read_text()
    (further,) = run.folder.glob("family/*/report.json")
    assert json.loads(further.read_text())["teacher"] == report["teacher"]


def test_a_run_without_a_teacher_tells_of_none(whole_of: Callable[[str], Whole]) -> None:
    run = whole_of("limits")
    assert report_of(run)["teacher"] is None and "teacher" not in (run.folder / "result" / "README.md").read_text()


def test_a_teacher_that_has_no_say_changes_no_bit(whole_of: Callable[[str], Whole], tmp_path: Path) -> None:
    """Nor does its training: whatever it draws is its own."""
    alone = ran(tmp_path / "alone", Early(), {"baseline.random": 1})
    silent = ran(tmp_path / "silent", Early(), {"baseline.random": 1, **TAUGHT, "retrain.teacher_weight": 0.0})
    heard = ran(tmp_path / "heard", Early(), {"baseline.random": 1, **TAUGHT})
    assert bytes_of(silent.folder) == bytes_of(alone.folder) != bytes_of(heard.folder)
    random = [report_of(run)["baseline"]["random"] for run in (alone, silent)]
    assert random[0] == random[1]


def test_who_teaches_does_not_change(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found: list[tuple[train.Teacher, dict[str, Any]]] = []
    step, steps = train.retrain_step, []

    def seen(*arguments: Any) -> dict[str, float]:
        teacher = arguments[-1]
        if teacher is not None and not found:
            found.append((teacher, copy.deepcopy(teacher.network.state_dict())))
        steps.append(teacher)
        return step(*arguments)

    monkeypatch.setattr(train, "retrain_step", seen)
    ran(tmp_path, Early(), {**TAUGHT, "baseline.random": 1})
    ((teacher, before),) = found
    taught = [one for one in steps if one is not None]
    assert len(taught) == 2 * (len(steps) - len(taught)), "the found network and a random one, after the teacher"
    assert all(one is teacher for one in taught)
    assert {"layers.stem_bn.running_mean", "layers.stem_bn.weight"} <= before.keys()
    for name, value in teacher.network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())


@pytest.mark.parametrize("inside", ["teacher", "found"])
def test_a_run_killed_while_it_teaches_or_is_taught_ends_with_the_very_same_network(
    inside: str, whole_of: Callable[[str], Whole], tmp_path: Path
) -> None:
    whole, control = whole_of("teacher"), StopAt(float("inf"))
    with pytest.raises(search.Interrupted):
        for event in search.search(configuration(VARIANTS["teacher"]), tmp_path, control=control):
            if isinstance(event, events.RetrainEpoch) and event.network == inside:
                control.n = control.looks + 1  # in the middle of its second epoch
    position = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["position"]
    assert (position["phase"], position["epoch"], position["step"] > 0) == (
        "teach" if inside == "teacher" else "retrain", 1, True,
    )  # fmt: skip
    again = ran(tmp_path, Early(), VARIANTS["teacher"])
    assert bytes_of(tmp_path) == bytes_of(whole.folder)
    assert report_of(again)["teacher"] == report_of(whole)["teacher"]


def test_finish_while_the_teacher_is_trained_leaves_the_networks_as_the_search_did(
    whole_of: Callable[[str], Whole], tmp_path: Path
) -> None:
    control, said = Early(), []
    for event in search.search(configuration(VARIANTS["teacher"]), tmp_path, control=control):
        said.append(event)
        if isinstance(event, events.RetrainEpoch):
            control.when["finish"] = 0
    run = Whole(tmp_path, said, control.looks)
    sound(run)
    assert [event.network for event in run.of(events.RetrainEpoch)] == ["teacher"]
    report = report_of(run)
    assert report["teacher"] is None, "it helped nobody"
    assert report["ended_early"] == ["comparison", "retraining"]


# -- what is asked for ------------------------------------------------------------------------------------------------


def test_the_time_and_the_memory_of_a_teacher_are_foreseen() -> None:
    facts = packed_digits().facts
    changes = {"runtime.memory_share": 0.55}
    alone, taught = (outlook(configuration({**changes, **more}), facts).estimate for more in ({}, TAUGHT))
    assert taught["seconds_cpu"] > 1.2 * alone["seconds_cpu"]
    assert taught["memory_mib"] > alone["memory_mib"]
    with_all = outlook(configuration({"runtime.memory_share": 1.0}), facts).estimate
    assert taught["memory_mib"] == with_all["memory_mib"], "a teacher keeps everything"
