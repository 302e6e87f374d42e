"""Promises of ``python -m nasengine model``: a paragraph for people, the same for programs, code 2 for a wrong name."""

from __future__ import annotations

import json

import pytest

from nasengine import __main__ as command_line


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = command_line.main(["model", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_paragraph_says_how_far_a_model_can_be_narrowed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "timm:vit_tiny_patch16_224", "--image-size", "32", "--classes", "10")
    assert code == 0
    assert out == (
        "vit_tiny_patch16_224 (timm): 5.49 M parameters, 27.2 M multiply-adds at 32 pixels. 37 of 37 channel groups "
        "can be narrowed; they reach 100% of the multiply-adds. 12 blocks can go as wholes. At the smallest less than "
        "0.1% of the multiply-adds are left.\n"
    )


def test_the_same_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "torchvision:resnet18", "--image-size", "32", "--json")
    said = json.loads(out)
    assert code == 0
    assert (said["library"], said["name"], said["classes"], said["image_size"]) == ("torchvision", "resnet18", 10, 32)
    assert (said["params"], said["macs"], said["reach"], said["frozen"]) == (11_181_642, 37_016_576, 1.0, [])
    assert [run["blocks"] for run in said["depth"]] == [
        ["layer1.0", "layer1.1"],
        ["layer2.1"],
        ["layer3.1"],
        ["layer4.1"],
    ]
    assert said["sentence"].startswith("resnet18 (torchvision): 11.2 M parameters, 37 M multiply-adds at 32 pixels. ")
    assert said["groups"][0] == {
        "name": "conv1",
        "width": 64,
        "layers": sorted(
            ["conv1", "bn1", "layer2.0.conv1", "layer2.0.downsample.0"]
            + [f"layer1.{block}.{layer}" for block in (0, 1) for layer in ("conv1", "conv2", "bn2")]
        ),
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["timm:resnet81"], "timm has no model 'resnet81' that sorts images into classes; did you mean resnet18"),
        (["resnet18"], "'resnet18' names no library; write it as in timm:resnet18 or torchvision:resnet18"),
        (["torchvision:resnet18", "--seconds", "1"], "its channel groups were not found within 1 s ("),
    ],
)
def test_a_wrong_name_ends_with_code_2_and_a_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert err.startswith(f"error: space.model: {sentence}")
    assert json.loads(out)["problems"][0][1].startswith(sentence)


def test_a_size_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command_line.main(["model", "timm:resnet18", "--image-size", "0"])
    assert end.value.code == 2
    assert "'0' is not a whole number of at least 1" in capsys.readouterr().err
