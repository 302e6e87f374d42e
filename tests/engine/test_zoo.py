"""Promises of `zoo`: models by name, and sentences where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nasengine import zoo
from nasengine.errors import ConfigError

SHAPE = {"classes": 7, "channels": 1, "image_size": 32}


def test_names_are_those_that_sort_images() -> None:
    assert {"resnet18", "vit_b_32"} <= set(zoo.names("torchvision"))
    assert not {"raft_large", "fasterrcnn_resnet50_fpn", "fcn_resnet50"} & set(zoo.names("torchvision"))
    assert "mobilenetv3_small_050" in zoo.names("timm")


@pytest.mark.parametrize(
    ("library", "name"),
    [("timm", "mobilenetv3_small_050"), ("timm", "vit_tiny_patch16_224"), ("torchvision", "vit_b_32")]
    + [("torchvision", name) for name in ("resnet18", "mnasnet0_5")],
)
def test_a_model_is_built_for_the_classes_channels_and_size_that_are_asked_for(library: str, name: str) -> None:
    model = zoo.built(library, name, **SHAPE)
    assert not model.training
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


def test_the_weights_of_a_file_are_taken(tmp_path: Path) -> None:
    first = zoo.built("torchvision", "resnet18", **SHAPE)
    save_file(first.state_dict(), tmp_path / "weights.safetensors")
    second = zoo.built("torchvision", "resnet18", **SHAPE, weights=tmp_path / "weights.safetensors")
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


REFUSED = [
    ("tim", "resnet18", {}, "'tim' is no library of models; use timm or torchvision"),
    ("torchvision", "resnet81", {}, "torchvision has no model 'resnet81'; did you mean resnet18"),
    ("torchvision", "zzz", {}, "torchvision has no model 'zzz'; torchvision has "),
    ("torchvision", "fcn_resnet50", {}, "fcn_resnet50 (torchvision) does not sort images into classes; take one that"),
    ("torchvision", "raft_small", {}, "raft_small (torchvision) does not sort images into classes; take one that does"),
    ("torchvision", "alexnet", {}, "alexnet (torchvision) does not take images of 32 pixels and 1 channel ("),
    ("timm", "convit_tiny", {"image_size": 8}, "convit_tiny (timm) does not take images of 8 pixels and 1 channel ("),
]


@pytest.mark.parametrize(("library", "name", "changes", "sentence"), REFUSED, ids=lambda value: str(value)[:20])
def test_what_cannot_be_built_is_refused_in_a_sentence(library: str, name: str, changes: dict, sentence: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        zoo.built(library, name, **{**SHAPE, **changes})
    ((field, text),) = refusal.value.problems
    assert field == "space.model" and text.startswith(sentence)


def test_weights_of_another_model_are_refused_by_the_tensor(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    state = zoo.built("torchvision", "resnet18", **SHAPE).state_dict()

    def refused(given: dict[str, torch.Tensor]) -> str:
        save_file(given, file)
        with pytest.raises(ConfigError) as refusal:
            zoo.built("torchvision", "resnet18", **SHAPE, weights=file)
        return refusal.value.problems[0][1]

    told = "resnet18 (torchvision)"
    wrong = {**state, "fc.weight": torch.zeros(10, 512)}
    assert refused(wrong) == f"the weights in {file} do not fit {told}: fc.weight is [10, 512], expected [7, 512]"
    assert refused({**state, "more": torch.zeros(1)}) == f"the weights in {file} have more, which {told} has not"
    del state["fc.bias"]
    assert refused(state) == f"the weights in {file} have no fc.bias; give those of {told}"
    file.write_bytes(b"no tensors")
    with pytest.raises(ConfigError, match=r"cannot be read \(.*\); give a safetensors file"):
        zoo.built("torchvision", "resnet18", **SHAPE, weights=file)
    with pytest.raises(ConfigError, match=r"the weights in /nowhere cannot be read \(No such file"):
        zoo.built("torchvision", "resnet18", **SHAPE, weights="/nowhere")
