"""Promises of `zoo`: models by name, and sentences where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.request import install_opener

import pytest
import timm
import torch
from huggingface_hub import close_session, constants
from safetensors.torch import save_file

from nasengine import compact, models, zoo
from nasengine.errors import ConfigError

SHAPE = {"classes": 7, "channels": 1, "image_size": 32}


def test_names_are_those_of_the_installed_libraries_that_sort_images() -> None:
    for library in models.LIBRARIES:
        assert list(models.names(library)) == zoo.installed(library)
    assert {"resnet18", "vit_b_32"} <= set(models.names("torchvision"))
    assert not {"raft_large", "fasterrcnn_resnet50_fpn", "fcn_resnet50"} & set(models.names("torchvision"))
    assert "mobilenetv3_small_050" in models.names("timm")


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
    second = zoo.built("torchvision", "resnet18", **SHAPE, weights="file", path=tmp_path / "weights.safetensors")
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


@pytest.mark.parametrize(
    ("library", "name", "last"),
    [
        ("timm", "mobilenetv3_small_050", ["classifier.bias", "classifier.weight"]),
        ("timm", "test_vit", ["head.bias", "head.weight"]),
        ("torchvision", "squeezenet1_0", ["classifier.1.bias", "classifier.1.weight"]),
    ],
)
def test_what_a_file_has_to_hold_is_known_without_building(library: str, name: str, last: list[str]) -> None:
    state = compact.library_model(library, name, 7, 1, 32).state_dict()
    shapes = {key: list(value.shape) for key, value in state.items()}
    assert zoo.shapes(library, name, **SHAPE) == {"shapes": shapes, "last": last}


NO_SUCH = "torchvision has no model '{}' that sorts images into classes; "
REFUSED = [
    ("tim", "resnet18", {}, "'tim' is no library of models; use timm or torchvision"),
    ("torchvision", "resnet81", {}, NO_SUCH.format("resnet81") + "did you mean resnet18"),
    ("torchvision", "zzz", {}, NO_SUCH.format("zzz") + "torchvision has "),
    ("torchvision", "fcn_resnet50", {}, NO_SUCH.format("fcn_resnet50") + "did you mean "),
    ("torchvision", "raft_small", {}, NO_SUCH.format("raft_small")),
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
            zoo.built("torchvision", "resnet18", **SHAPE, weights="file", path=file)
        return refusal.value.problems[0][1]

    told, mend = "resnet18 (torchvision)", "give those of this model for such images"
    wrong = {**state, "layer1.0.bn1.bias": torch.zeros(10)}
    assert (
        refused(wrong)
        == f"the weights in {file.name} do not fit {told}: layer1.0.bn1.bias is [10], expected [64]; {mend}"
    )
    wrong = {**state, "fc.weight": torch.zeros(7, 500)}
    assert (
        refused(wrong)
        == f"the weights in {file.name} do not fit {told}: fc.weight is [7, 500], expected [7, 512]; {mend}"
    )
    for name in ("layer1.0.bn1.bias", "layer1.0.bn1.running_var"):
        broken = {**state, name: torch.full((64,), torch.nan)}
        assert refused(broken) == (
            f"the weights in {file.name} are not all numbers: {name}; give those of a sound model"
        )
    assert refused({**state, "more": torch.zeros(1)}) == f"the weights in {file.name} have more, which {told} has not"
    del state["fc.bias"]
    assert refused(state) == f"the weights in {file.name} have no fc.bias; give those of {told}"
    file.write_bytes(b"no tensors")
    with pytest.raises(
        ConfigError, match=r"cannot be read \(it does not begin with the length of a header\); give a safetensors file"
    ):
        zoo.built("torchvision", "resnet18", **SHAPE, weights="file", path=file)
    with pytest.raises(ConfigError, match=r"the weights in nowhere cannot be read \(No such file"):
        zoo.built("torchvision", "resnet18", **SHAPE, weights="file", path="/nowhere")


def test_a_last_layer_for_other_classes_is_learned_anew(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    others = zoo.built("torchvision", "resnet18", **{**SHAPE, "classes": 1000}).state_dict()
    save_file(others, file)
    found = zoo.built("torchvision", "resnet18", **SHAPE, weights="file", path=file).state_dict()
    assert found["fc.weight"].shape == (7, 512)
    assert all(torch.equal(value, others[name]) for name, value in found.items() if not name.startswith("fc."))


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nobody is behind the proxy; the folder of timm's weights that are here already, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    _forget_proxies()
    yield tmp_path
    _forget_proxies()


def _forget_proxies() -> None:
    """What asks next looks at the environment again: timm's session, torchvision's opener."""
    close_session()
    install_opener(None)


@pytest.mark.timeout(30)  # timm's hub by itself is asked for 46 seconds
@pytest.mark.parametrize(("library", "name"), [("timm", "resnet10t"), ("torchvision", "resnet18")])
def test_trained_weights_that_cannot_be_had_are_told(library: str, name: str, offline: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        zoo.built(library, name, **{**SHAPE, "channels": 3}, weights="pretrained")
    ((field, text),) = refusal.value.problems
    assert field == "space.weights"
    assert text.startswith(f"the trained weights of {name} ({library}) cannot be had (")
    assert "Connection refused" in text and text.endswith("; give a file, or none")
    assert not constants.HF_HUB_OFFLINE, "the next model may be had"


def test_trained_weights_that_are_here_already_need_no_network(offline: Path) -> None:
    state = timm.create_model("test_resnet").state_dict()
    repository = offline / f"models--{timm.get_pretrained_cfg('test_resnet').hf_hub_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("1" * 40)
    (repository / "snapshots" / ("1" * 40)).mkdir(parents=True)
    save_file(state, repository / "snapshots" / ("1" * 40) / "model.safetensors")
    model = zoo.built("timm", "test_resnet", classes=1000, channels=3, image_size=32, weights="pretrained")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """What a library would send: the state dict of its own resnet18, for a thousand classes and coloured images."""
    state = zoo.built("torchvision", "resnet18", classes=1000, channels=3, image_size=32).state_dict()
    monkeypatch.setattr(zoo, "trained", lambda *_: state)
    return state


def test_trained_weights_are_taken_but_for_a_last_layer_of_other_classes(offered: dict[str, torch.Tensor]) -> None:
    asked = {"channels": 3, "image_size": 32, "weights": "pretrained", "path": None}
    model, left = zoo.started("torchvision", "resnet18", classes=7, **asked)
    assert left == {"fc.weight", "fc.bias"}
    for name, value in model.state_dict().items():
        assert name in left or torch.equal(value, offered[name]), name
    _, left = zoo.started("torchvision", "resnet18", classes=1000, **asked)
    assert not left


def test_trained_weights_for_other_images_are_refused_by_the_tensor(offered: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ConfigError) as refusal:
        zoo.built("torchvision", "resnet18", **SHAPE, weights="pretrained")
    ((field, text),) = refusal.value.problems
    assert field == "space.weights"
    assert text.startswith(
        "the trained weights of resnet18 (torchvision) are not for images of 32 pixels and 1 channel: conv1.weight is "
        "of another shape; use images as its library trained it with"
    )


def test_weights_of_older_files_and_of_wrapped_models_are_taken(tmp_path: Path) -> None:
    first = zoo.built("torchvision", "resnet18", **SHAPE)
    state = {f"module.{name}": v for name, v in first.state_dict().items() if not name.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "weights.safetensors")
    second = zoo.built("torchvision", "resnet18", **SHAPE, weights="file", path=tmp_path / "weights.safetensors")
    assert torch.equal(second.fc.weight, first.fc.weight)


def test_giants_are_refused_before_they_are_built() -> None:
    with pytest.raises(
        ConfigError, match=r"has 6,7\d\d million parameters, more than the 250 million that are looked at"
    ):
        zoo.built("timm", "vit_7b_patch16_dinov3", classes=7, channels=3, image_size=32)
