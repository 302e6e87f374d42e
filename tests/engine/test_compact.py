"""Promises of nasengine.compact: a result opened by a stranger, and what its network accepts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Finished
from PIL import Image
from small import configuration, lived_in, living, packed_digits, random_gains, small_plan

from nasengine import compact, data, export, splits
from nasengine.compact import Network, factorized_reduce, layer_module
from nasengine.config import parse
from nasengine.packing import load
from nasengine.supernet import architecture, everything

STRANGER = """
import importlib.abc, json, sys
BLOCKED = {
    "nasengine", "webapp", "django", "pydantic", "torchvision", "sklearn", "scipy", "PIL", "onnx", "onnxruntime",
    "tqdm", "plotly",
}

class Refused(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is not for strangers", name=name)

sys.meta_path.insert(0, Refused())
sys.path[:] = [place for place in sys.path if place not in ("", sys.argv[3])]
sys.path.insert(0, sys.argv[1])
import numpy as np
from model import load

network = load(sys.argv[1])
images = np.load(sys.argv[2])
import torch
torch.set_num_threads(1)
with torch.no_grad():
    logits = torch.cat([network(network.preprocess(part)) for part in torch.from_numpy(images["x"]).split(500)])
held = {name.split(".")[0] for name in sys.modules}
print(json.dumps({
    "training": network.training,
    "accuracy": float((logits.argmax(1).numpy() == images["y"]).mean()),
    "params": sum(int(p.count_nonzero()) for p in network.parameters()),
    "params_dense": sum(p.numel() for p in network.parameters()),
    "classes": network.classes,
    "foreign": sorted(held & BLOCKED),
}))
"""


def test_a_stranger_opens_the_result_and_gets_the_reported_accuracy(run: Finished, tmp_path: Path) -> None:
    """A fresh interpreter in isolated mode, with nothing of ours, sees the same test images as raw bytes."""
    wanted = parse(run.config)
    steps = load(wanted.data)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            packed = end.value
            break
    test = splits.split(packed.labels.tolist(), packed.parts.tolist(), wanted.data, wanted.seed, 10)["test"]
    np.savez(tmp_path / "images.npz", x=packed.images[test], y=packed.labels[test])
    root = str(Path(compact.__file__).parents[1])
    shutil.copytree(run.result, tmp_path / "result")
    command = [sys.executable, "-I", "-c", STRANGER, str(tmp_path / "result"), str(tmp_path / "images.npz"), root]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    seen = json.loads(found.stdout)
    report = run.report
    assert seen["accuracy"] == pytest.approx(report["accuracy"]["test"], abs=1e-6)
    assert (seen["params"], seen["params_dense"]) == (report["achieved"]["params"], report["achieved"]["params_dense"])
    assert seen["classes"] == [str(digit) for digit in range(10)]
    assert seen["foreign"] == [] and seen["training"] is False


def test_the_source_needs_torch_and_safetensors_only_and_a_library_for_its_models() -> None:
    source = Path(compact.__file__).read_text()
    imported = set(re.findall(r"^\s*(?:import|from) (\w+)", source, flags=re.MULTILINE))
    inside = set(re.findall(r"^ +(?:import|from) (\w+)", source, flags=re.MULTILINE))
    assert inside == {"model", "numpy", "safetensors", "timm", "torchvision"}
    assert imported - inside <= {
        "__future__",
        "json",
        "collections",
        "pathlib",
        "typing",
        "torch",
        "safetensors",
        "numpy",
        "model",
    }


# -- preprocess -------------------------------------------------------------------------------------------------------


def network_of(colours: int, side: int = 8) -> Network:
    """Classes, mean and deviation as a real result has them."""
    plan = small_plan(colours=colours, image_size=side)
    net = lived_in(plan, dtype=torch.float32)
    gains = living(net, random_gains(plan, 0, torch.float32))
    header = {"classes": ["a", "b", "c"], "mean": [0.5, 0.4, 0.3][:colours], "std": [0.2, 0.3, 0.4][:colours]}
    return export.compact_network(net, architecture(plan, everything(plan)), gains, header)


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize(
    "shape",
    [
        (8, 8),
        (8, 8, 1),
        (8, 8, 3),
        (5, 8, 8),
        (5, 8, 8, 1),
        (5, 8, 8, 3),
        (20, 13),
        (13, 20, 3),
        (2, 40, 9, 1),
        (8, 300),
    ],
)
def test_images_of_every_layout_and_size_are_taken(colours: int, shape: tuple[int, ...]) -> None:
    network = network_of(colours)
    x = pixels(*shape)
    many = len(shape) == 4 or (len(shape) == 3 and shape[-1] not in (1, 3))
    found = network.preprocess(x)
    assert found.shape == (shape[0] if many else 1, colours, 8, 8) and found.dtype == torch.float32
    assert torch.equal(found, network.preprocess(torch.from_numpy(x)))
    assert network(found).shape == (found.shape[0], 3)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("colours", [1, 3])
def test_images_of_the_right_size_are_normalised_and_nothing_else(colours: int) -> None:
    network, x = network_of(colours), pixels(4, 8, 8, colours)
    expected = (
        torch.from_numpy(x).permute(0, 3, 1, 2).double() / 255 - network.mean.view(1, -1, 1, 1)
    ) / network.std.view(1, -1, 1, 1)
    assert torch.allclose(network.preprocess(x).double(), expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("colours", [1, 3])
def test_pillow_images_are_taken_as_arrays_are(mode: str, colours: int) -> None:
    x = pixels(12, 17) if mode == "L" else pixels(12, 17, 3)
    network = network_of(colours)
    assert torch.equal(network.preprocess(Image.fromarray(x, mode)), network.preprocess(x))


def test_colours_become_grey_by_their_weight_and_grey_becomes_three_equal_colours() -> None:
    red = np.zeros((8, 8, 3), dtype=np.uint8)
    red[..., 0] = 200
    grey = network_of(1)
    value = (0.299 * 200 / 255 - 0.5) / 0.2
    assert torch.allclose(grey.preprocess(red), torch.full((1, 1, 8, 8), value), atol=1e-5)
    colour = network_of(3).preprocess(np.full((8, 8), 51, dtype=np.uint8))
    assert colour[0, :, 0, 0].tolist() == pytest.approx(
        [(0.2 - 0.5) / 0.2, (0.2 - 0.4) / 0.3, (0.2 - 0.3) / 0.4], abs=1e-6
    )


@pytest.mark.parametrize("shape", [(8, 8, 4), (2, 8, 8, 4), (2, 8, 8, 2), (3, 8, 8, 5), (2, 2, 8, 8, 3), (8,)])
def test_what_is_neither_grey_nor_rgb_is_refused_with_a_sentence(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"images must be \[H, W\], \[H, W, C\], \[N, H, W\] or \[N, H, W, C\] with C = 1 or 3, not "
    ):
        network_of(3).preprocess(pixels(*shape))


@pytest.mark.parametrize("size", [(40, 31), (32, 64), (16, 16), (9, 70)])
def test_other_sizes_are_cropped_and_scaled_as_in_training(size: tuple[int, int]) -> None:
    """Against the packing that training images go through: Pillow's antialiased bilinear on the middle square."""
    from nasengine.pixels import fitted

    rng = np.random.default_rng(2)
    smooth = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    network = network_of(3, side=8)
    expected = torch.from_numpy(fitted(smooth, 8).copy()).permute(2, 0, 1).float()
    found = (network.preprocess(smooth)[0] * network.std.view(-1, 1, 1) + network.mean.view(-1, 1, 1)) * 255
    assert (found - expected).abs().mean() < 4 and (found - expected).abs().max() < 24


def test_a_network_in_double_precision_gets_doubles() -> None:
    assert network_of(1).double().preprocess(pixels(8, 8)).dtype == torch.float64


# -- modules ----------------------------------------------------------------------------------------------------------


def test_an_operation_of_a_newer_file_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^unknown operation 'warp' in the architecture; this model\.py is older than the file$"
    ):
        layer_module({"op": "warp"})


@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize("split", [0, 2, 5])
def test_a_factorized_reduce_looks_at_even_and_at_odd_pixels(side: int, split: int) -> None:
    """With weights of one: filters before the split see x[2i, 2j], the others x[2i + 1, 2j + 1], zero outside."""
    x = torch.arange(side * side, dtype=torch.float32).view(1, 1, side, side) + 1
    found = factorized_reduce(x, torch.ones(5, 1, 1, 1), split)
    half = -(-side // 2)
    assert found.shape == (1, 5, half, half)
    odd = torch.zeros(half, half)
    seen = x[0, 0, 1::2, 1::2]
    odd[: seen.shape[0], : seen.shape[1]] = seen
    for channel in range(5):
        assert torch.equal(found[0, channel], x[0, 0, ::2, ::2] if channel < split else odd)


@pytest.mark.parametrize("channels", range(1, 9))
def test_a_factorized_reduce_of_few_channels_has_exact_gradients(channels: int) -> None:
    """A 1x1 convolution of stride 2 would end this process here, on a CPU without AVX-512."""
    draw = torch.Generator().manual_seed(channels)
    for _ in range(20):
        x = torch.randn(32, channels, 16, 16, generator=draw).contiguous(memory_format=torch.channels_last)
        weight, seen = torch.randn(8, channels, 1, 1, generator=draw), torch.randn(32, 8, 8, 8, generator=draw)
        gradients = []
        for dtype in (torch.float32, torch.float64):
            inputs = [x.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()]
            gradients.append(torch.autograd.grad(factorized_reduce(*inputs, 4), inputs, seen.to(dtype)))
        for single, double in zip(*gradients, strict=True):
            assert torch.allclose(single.double(), double, rtol=1e-4, atol=1e-4)


def test_the_images_of_the_helper_are_those_of_the_run() -> None:
    images = data.images(packed_digits(), configuration().data, 3, "cpu")
    assert len(images.train) == 170 and len(images.validation) == 30
