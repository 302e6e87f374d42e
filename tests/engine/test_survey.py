"""Promises of nasengine.survey and depth: what a plan counts is there, what may go is known, and nobody looks twice."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from known import MODELS, SIZE, origin
from safetensors.torch import save_file
from small import configuration, random_kept
from torch import Tensor, nn

from nasengine import coupling, survey, zoo
from nasengine.architecture import layer_params, lowered, smallest
from nasengine.compact import cut, without
from nasengine.config import ImportedSpace, parse
from nasengine.depth import Run, runs
from nasengine.errors import ConfigError
from nasengine.multiply_adds import counted
from nasengine.outlook import outlook
from nasengine.spaces import imported
from nasengine.splits import DataFacts, builtin_facts
from nasengine.supernet import plain

all_models = pytest.mark.parametrize("which", MODELS)
KNOWN = {
    "space": {"kind": "imported", "model": "test_resnet"}, "strategy": {"kind": "dms"}, "data.image_size": 16,
    "target": {"metric": "macs", "value": "50%"},
}  # fmt: skip


@all_models
def test_each_layer_of_a_plan_takes_what_the_cut_models_layer_takes(which: str) -> None:
    whole, x = origin(which), torch.zeros(1, 3, SIZE, SIZE)
    plan, groups, depth = whole.survey.plan, whole.survey.coupling.groups, whole.survey.runs
    for seed in range(4):
        kept = plain(plan, random_kept(plan, seed, ("operation", "filter")))
        cuts, removed = survey.recipe_of(groups, depth, kept)
        small = cut(without(copy.deepcopy(whole.model), removed), cuts)
        found, expected = counted(small, x), lowered(plan, kept)
        assert (found.params, found.macs) == (expected.params, expected.macs)
        for layer in expected.layers:
            if layer["op"] == "module" and layer["name"] != survey.OTHER:
                own = small.get_submodule(layer["name"]).parameters(recurse=False)
                assert sum(p.numel() for p in own) == layer_params(layer), layer["name"]


@all_models
def test_the_smallest_size_is_below_all_others_and_reached(which: str) -> None:
    plan = origin(which).survey.plan
    floors = {c.name: list(range(c.floor)) for c in plan.choices if c.granularity != "weight"}
    for metric in ("params", "macs"):
        least = smallest(plan, ("operation", "filter"), metric)
        assert lowered(plan, floors).size(metric) == least
        for seed in range(3):
            kept = plain(plan, random_kept(plan, seed, ("operation", "filter")))
            assert lowered(plan, kept).size(metric) >= least


@all_models
def test_a_survey_comes_back_from_a_file_as_it_was(which: str) -> None:
    found = origin(which).survey
    again = survey.Survey.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found


def test_a_model_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    config, facts = configuration(KNOWN), builtin_facts("digits")
    first = survey.ensured(config, facts)
    monkeypatch.setattr(coupling, "_work", None)  # whoever starts it fails
    assert survey.ensured(config, facts) == first
    assert outlook(config, facts).feasible


def test_a_target_below_what_the_model_can_reach_is_refused_in_a_sentence() -> None:
    config, facts = configuration({**KNOWN, "target.value": 1000}), builtin_facts("digits")
    survey.ensured(config, facts)
    look = outlook(config, facts)
    ((field, text),) = look.problems
    assert field == "target.value"
    assert text.startswith("1,000 multiply-adds are below what this space can surely reach; give at least ")


def test_without_a_survey_nothing_is_counted() -> None:
    shape = DataFacts(name="x", channels=3, class_names=("a", "b", "c"), given={"train": (9, 9, 9)})
    with pytest.raises(imported.UnknownModelError, match=r"^space.model: nobody has looked yet"):
        outlook(configuration(KNOWN), shape)


def test_whether_weights_fit_is_told_as_by_building_the_model(tmp_path: Path) -> None:
    config, facts = configuration(KNOWN), builtin_facts("digits")
    survey.ensured(config, facts)
    shape = {"image_size": 16, "channels": 1, "classes": 10}
    file = tmp_path / "mine.safetensors"
    space = ImportedSpace(kind="imported", model="test_resnet", weights="file", path=str(file))
    state = zoo.built("timm", "test_resnet", **{**shape, "classes": 1000}).state_dict()
    save_file(state, file)
    imported.check_weights(space, **shape)
    for wrong in (
        {**state, "conv1.weight": torch.zeros(3)},
        {**state, "more": torch.zeros(3)},
        {"more": torch.zeros(1)},
    ):
        save_file(wrong, file)
        with pytest.raises(ConfigError) as told:
            imported.check_weights(space, **shape)
        with pytest.raises(ConfigError) as built:
            zoo.built("timm", "test_resnet", **shape, weights="file", path=file)
        assert told.value.problems == built.value.problems


@pytest.mark.parametrize("damage", [b"", b"{", b'{"format": 0}'])
def test_a_survey_that_cannot_be_read_counts_as_none(damage: bytes, tmp_path: object) -> None:
    file = imported.file("timm", "test_resnet", image_size=99, channels=3, classes=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(damage)
    assert imported.survey(file) is None


def test_a_plan_that_counts_what_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a model would be whose cut layers took their sizes from elsewhere."""
    whole, x = origin("residual"), torch.zeros(1, 3, SIZE, SIZE)
    found = whole.survey
    wrong = survey.planned(whole.model, x, found.coupling.groups, found.runs, counted(whole.model, x))
    layers = tuple(
        layer if layer.taps is None else survey.replace(layer, taps=(*layer.taps, 2)) for layer in wrong.layers
    )
    with pytest.raises(ConfigError, match=r"made smaller, it has [\d,]+ params where [\d,]+ were foreseen, so no size"):
        survey._check(survey.replace(wrong, layers=layers), whole.model, x, found.coupling.groups, found.runs)


# -- depth ------------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Adds what its convolution makes, or does not; or adds it to half of what it is given."""

    def __init__(self, kind: str = "residual") -> None:
        super().__init__()
        self.kind, self.conv, self.norm = kind, nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return torch.relu({"residual": x + y, "plain": y, "half": x / 2 + y}[self.kind])


def removable(*layers: nn.Module) -> tuple[Run, ...]:
    return runs(nn.Sequential(*layers).eval(), torch.zeros(1, 4, 8, 8))


def test_blocks_that_add_to_what_they_are_given_may_go() -> None:
    assert removable(Block(), Block("plain"), Block(), Block(), nn.Conv2d(4, 2, 1)) == (
        Run("", ("0",)),
        Run("", ("2", "3")),
    )
    assert removable(Block("plain"), Block("half")) == ()


def test_what_has_no_parameters_between_blocks_does_not_part_them() -> None:
    assert removable(Block(), nn.ReLU(), Block()) == (Run("", ("0", "2")),)


def test_of_blocks_within_blocks_the_inner_ones_go() -> None:
    assert removable(nn.Sequential(Block(), Block()), nn.Conv2d(4, 2, 1)) == (Run("0", ("0.0", "0.1")),)


def test_a_block_that_runs_twice_stays() -> None:
    block = Block()
    assert removable(block, block) == ()


def test_small_images_are_enlarged_for_a_known_model_and_nobody_is_warned_of_it() -> None:
    config = parse({"space": {"kind": "imported", "model": "test_resnet"}, "target": {"value": "50%"}})
    assert config.data.image_size == 32
    survey.ensured(config, builtin_facts("digits"))
    look = outlook(config, builtin_facts("digits"))
    assert look.feasible and "data.image_size" not in dict(look.warnings)
    ((_, text),) = outlook(parse({**config.model_dump(), "target": {"value": 10**9}}), builtin_facts("digits")).problems
    assert text.endswith("or a larger model")
