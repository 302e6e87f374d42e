"""Promises of `onnx_trace`: onnxruntime answers as the model does, for any number of images."""

from __future__ import annotations

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from nasengine import zoo
from nasengine.errors import ExportError
from nasengine.onnx_trace import onnx_of
from nasengine.proof import randomised

SIDE = 32
MODELS = [
    ("torchvision", "resnet18"),
    ("torchvision", "mobilenet_v3_small"),
    ("timm", "mobilenetv3_small_050"),
    ("timm", "vit_tiny_patch16_224"),
    ("torchvision", "vit_b_32"),
]


@pytest.mark.parametrize(("library", "name"), MODELS)
def test_onnxruntime_answers_as_the_model_for_any_number_of_images(library: str, name: str) -> None:
    model = zoo.built(library, name, classes=10, channels=3, image_size=SIDE)
    stream = torch.Generator().manual_seed(0)
    randomised(model, (1, 3, SIDE, SIDE), stream)
    file = onnx_of(model.train(), torch.randn((1, 3, SIDE, SIDE), generator=stream))
    assert model.training
    onnx.checker.check_model(file, full_check=True)
    assert not any(node.doc_string for node in onnx.load_from_string(file).graph.node), "no notes about Python lines"
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert [given.shape for given in session.get_inputs()] == [["batch", 3, SIDE, SIDE]]
    assert [made.name for made in session.get_outputs()] == ["logits"]
    for count in (1, 2, 5):
        images = torch.randn((count, 3, SIDE, SIDE), generator=stream)
        with torch.no_grad():
            expected = model.eval()(images)
        (found,) = session.run(["logits"], {"images": images.numpy()})
        assert found.shape == (count, 10)
        assert abs(torch.from_numpy(found) - expected).max() < 1e-4 * expected.abs().max()


class Wordless(nn.Module):
    """Torch has this function, ONNX has not."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x).mean((2, 3))


def test_what_onnx_has_no_word_for_is_refused_in_a_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    sentence = r"^the model cannot be written as ONNX \(.*bessel_j0.*\); keep it as PyTorch$"
    with pytest.raises(ExportError, match=sentence):
        onnx_of(Wordless(), torch.zeros(1, 3, 8, 8))
    assert capfd.readouterr().out == "", "events may be written there"
