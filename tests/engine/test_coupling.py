"""Promises of `coupling`, `cutting` and `multiply_adds`: what is cut computes what was silenced, and no more is cut."""

from __future__ import annotations

import copy
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import nets
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from small import ROOT
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nasengine import zoo
from nasengine.compact import cut
from nasengine.coupling import Coupling, Frozen, Group, candidates, coupling
from nasengine.cutting import recipe, sliced
from nasengine.errors import ConfigError
from nasengine.multiply_adds import counted
from nasengine.onnx_trace import onnx_of
from nasengine.proof import proved, randomised, relative_difference, silenced
from nasengine.tracing import LOST

SIDE = 16
REAL = {
    ("timm", "mobilenetv3_small_050"): 32,
    ("timm", "vit_tiny_patch16_224"): 32,
    ("timm", "regnety_002"): 32,
    ("torchvision", "resnet18"): 32,
}


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def found(model: nn.Module, side: int) -> tuple[nn.Module, tuple[Group, ...], tuple[Frozen, ...]]:
    """The model with random weights in fp64, and its groups, in this process."""
    shape = (1, 3, side, side)
    randomised(model, shape, stream())
    possible, frozen = candidates(model, shape, stream())
    held, failed, difference = proved(model.double(), possible, images(side), stream())
    assert difference < 1e-9
    return model, held, (*frozen, *failed)


def images(side: int = SIDE) -> torch.Tensor:
    return torch.randn((2, 3, side, side), generator=stream(1), dtype=torch.float64)


@cache
def hand_made(kind: type[nn.Module]) -> tuple[nn.Module, tuple[Group, ...], tuple[Frozen, ...]]:
    torch.manual_seed(0)
    return found(kind(), SIDE)


@cache
def real(library: str, name: str) -> tuple[nn.Module, tuple[Group, ...], tuple[Frozen, ...]]:
    side = REAL[library, name]
    return found(zoo.built(library, name, classes=10, channels=3, image_size=side), side)


def some(held: tuple[Group, ...], seed: int) -> dict[str, list[int]]:
    """Elements that stay, of each group at least one."""
    source = stream(seed)
    kept = {}
    for group in held:
        count = int(torch.randint(1, group.width + 1, (), generator=source))
        kept[group.name] = sorted(torch.randperm(group.width, generator=source)[:count].tolist())
    return kept


def independent(model: nn.Module, side: int) -> tuple[int, int]:
    with FlopCounterMode(display=False) as mode, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(images(side)[:1].to(next(model.parameters()).dtype))
    return sum(value.numel() for value in model.parameters()), mode.get_total_flops() // 2


WIDTHS = {
    nets.Residual: {"stem.0": 8, "first.0": 6},
    nets.Dense: {"stem.0": 8, "first.0": 4, "second.0": 3},
    nets.Squeezed: {"stem.0": 8, "up.0": 12, "squeeze": 4, "down.0": 8},
    nets.Grouped: {"stem.0": 2, "wide.0": 6, "last.0": 8},
    nets.Gated: {"stem.0": 8, "both.0": 6, "after.0": 8},
    nets.GatedTokens: {"stem.0": 8, "both": 6},
    nets.Normed: {"stem.0": 8, "into": 4, "up": 10},
    nets.RootNormed: {"stem.0": 8, "into": 6},
    nets.Flat: {"features.0.0": 6, "features.2.0": 4, "hidden": 7},
    nets.Noted: {"stem.0": 8, "stiff.0": 6},
}


@pytest.mark.parametrize("kind", nets.SOUND)
def test_what_belongs_together_is_one_element(kind: type[nn.Module]) -> None:
    _, held, frozen = hand_made(kind)
    assert ({group.name: group.width for group in held}, frozen) == (WIDTHS[kind], ())


@pytest.mark.parametrize("kind", nets.SOUND)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_cut_computes_what_was_silenced_and_counts_are_exact(kind: type[nn.Module], seed: int) -> None:
    model, held, _ = hand_made(kind)
    kept = some(held, seed)
    assert relative_difference(model, recipe(held, kept), images()) < 1e-9
    small = sliced(model, held, kept)
    count = counted(small, images()[:1])
    assert (count.params, count.macs) == independent(small, SIDE)
    assert count.macs == sum(count.by_layer.values())


def test_norms_of_a_narrower_model_are_over_the_channels_that_stay() -> None:
    model, held, _ = hand_made(nets.Normed)
    small = sliced(model, held, {"into": [0, 2, 3]})
    kept, x = [c + 4 * block for block in range(3) for c in (0, 2, 3)], torch.randn(2, 9, 4, 4, dtype=torch.float64)
    rest = (x - x.mean(1, keepdim=True)) * (x.var(1, unbiased=False, keepdim=True) + 1e-5).rsqrt()
    column = (1, 9, 1, 1)
    assert torch.allclose(
        small.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        rest * model.norm.weight[kept].view(column) + model.norm.bias[kept].view(column),
    )
    assert (small.grouped.num_groups, small.grouped.num_channels) == (3, 9)
    assert torch.equal(small.grouped.weight, model.grouped.weight[kept])


@pytest.mark.parametrize(("library", "name"), REAL)
def test_real_models_are_cut_exactly(library: str, name: str) -> None:
    model, held, frozen = real(library, name)
    side = REAL[library, name]
    assert held and not frozen
    for seed in range(2):
        kept = some(held, seed)
        assert relative_difference(model, recipe(held, kept), images(side)) < 1e-9
        small = sliced(model, held, kept)
        count = counted(small, images(side)[:1])
        assert (count.params, count.macs) == independent(small, side)


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        (nets.Rigid, "rigid.0", "cut, the model no longer runs (shape '[2, 6, 16, 16]' is invalid for input of size"),
        (nets.Pieced, "piece", "cut, the model no longer runs (addmm: mat1 and mat2 shapes cannot be multiplied"),
        (nets.Striped, "stem.0", LOST),
        (nets.Paired, "made.0", LOST),
        (nets.Mixing, "mixed.0", "cut, the model computes something else (by 0."),
        (nets.Idle, "idle.0", "nothing that it does is seen in the output"),
        (nets.Lone, "lone.0", "it has a single element"),
        (nets.Attentive, "stem.0", "it runs through MultiheadAttention, a kind of layer that cannot be cut"),
    ],
)
def test_20_a_group_that_cannot_be_proved_stays_whole_with_its_reason(
    kind: type[nn.Module], name: str, reason: str
) -> None:
    _, held, frozen = hand_made(kind)
    assert [one.name for one in frozen if one.reason.startswith(reason)] == [name]
    assert name not in {group.name for group in held}
    assert held, "the others are not held up"


@pytest.mark.parametrize(("library", "name"), [("torchvision", "shufflenet_v2_x0_5"), ("timm", "twins_svt_small")])
def test_where_torch_prunings_index_maps_end_in_an_error_only_those_channels_are_given_up(
    library: str, name: str
) -> None:
    model = zoo.built(library, name, classes=10, channels=3, image_size=64)
    possible, frozen = candidates(randomised(model, (1, 3, 64, 64), stream()), (1, 3, 64, 64), stream())
    assert len(possible) > 10 and frozen


def test_20_what_there_was_no_time_for_stays_whole() -> None:
    model, held, _ = hand_made(nets.Residual)
    assert proved(model, held, images(), stream(), until=0.0) == (
        (),
        tuple(Frozen(group.name, group.width, "there was no time left to prove it") for group in held),
        0.0,
    )


def test_19_the_original_is_untouched_and_what_was_not_to_learn_still_is_not() -> None:
    model = copy.deepcopy(hand_made(nets.Squeezed)[0])
    held = hand_made(nets.Squeezed)[1]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith("stem"))
    before = copy.deepcopy(model.state_dict())
    small = sliced(model, held, some(held, 3))
    flags = {name: parameter.requires_grad for name, parameter in small.named_parameters()}
    assert flags == {name: not name.startswith("stem") for name in flags}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in [*model.modules(), *small.modules()]
    )
    small.train()(images()).sum().backward()
    assert small.up[0].weight.grad is not None and small.stem[0].weight.grad is None


@pytest.mark.parametrize(
    ("library", "name"), [("torchvision", "resnet18"), ("timm", "mobilenetv3_small_050"), ("timm", "regnety_002")]
)
def test_silenced_and_cut_also_learn_the_same_statistics(library: str, name: str) -> None:
    model, held, _ = real(library, name)
    cuts, x = recipe(held, some(held, 7)), images(REAL[library, name])
    small, model = cut(copy.deepcopy(model), cuts).train(), copy.deepcopy(model).train()
    with silenced(model, cuts), torch.no_grad():
        expected = model(x)
    with torch.no_grad():
        assert torch.allclose(small(x), expected, rtol=0, atol=1e-9 * expected.abs().max().item())
    for key, value in cut(model, cuts).state_dict().items():
        assert torch.allclose(small.state_dict()[key], value, rtol=1e-9, atol=1e-9), key


def check_runs_as(model: nn.Module, other: Callable[[torch.Tensor], torch.Tensor], count: int) -> None:
    x = images(32)[:1].repeat(count, 1, 1, 1).float()
    with torch.no_grad():
        expected = model(x)
        assert (other(x) - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize(("library", "name"), [("torchvision", "resnet18"), ("timm", "vit_tiny_patch16_224")])
def test_19_a_cut_model_can_be_exported_and_compiled(library: str, name: str) -> None:
    model, held, _ = real(library, name)
    small = sliced(model, held, some(held, 9)).float()
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(small, (images(32).float(),), dynamic_shapes=({0: batch},))
    check_runs_as(small, program.module(), 5)
    compiled = torch.compile(small, backend="aot_eager", fullgraph=True)  # needs no compiler of C++
    check_runs_as(small, compiled, 2)
    session = onnxruntime.InferenceSession(onnx_of(small, images(32).float()), providers=["CPUExecutionProvider"])
    check_runs_as(small, lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0]), 3)


def test_a_group_that_is_not_named_stays_whole_and_bad_wishes_are_refused() -> None:
    model, held, _ = hand_made(nets.Residual)
    assert recipe(held, {}) == []
    cuts = recipe(held, {"first.0": [4, 1]})
    assert cuts[0] == {"layer": "first.0", "side": "out", "of": 6, "keep": [1, 4]}
    with pytest.raises(ConfigError, match=r"^space.model: 'third' is no group of channels that can be narrowed$"):
        recipe(held, {"third": [0]})
    for elements in ([], [6], [-1, 2]):
        with pytest.raises(ConfigError, match=r"'first.0' has the elements 0 to 5; keep at least one of them, and no "):
            recipe(held, {"first.0": elements})
    with pytest.raises(ValueError, match=r"the recipe cuts 6 channels of first.0, which has 2; use it with the model"):
        cut(cut(copy.deepcopy(model), cuts), cuts)


FRESH = """
import json, sys
import torch
from safetensors.torch import load_file
from nasengine.compact import rebuilt
folder, library, name = sys.argv[1:]
shape = {"outputs": 10, "channels": 3, "image_size": 32, "removed": []}
cuts = json.load(open(f"{folder}/recipe.json"))
model = rebuilt({"library": library, "model": name, "cuts": cuts, **shape}).double().eval()
model.load_state_dict(load_file(f"{folder}/weights.safetensors"))
print(model(torch.ones(1, 3, 32, 32, dtype=torch.float64)).sum().item(), "torch_pruning" in sys.modules)
"""


@pytest.mark.parametrize(("library", "name"), [("torchvision", "resnet18"), ("timm", "vit_tiny_patch16_224")])
def test_19_a_recipe_rebuilds_the_model_in_a_fresh_process_without_torch_pruning(
    library: str, name: str, tmp_path: Path
) -> None:
    model, held, _ = real(library, name)
    kept = some(held, 5)
    small = sliced(model, held, kept)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe(held, kept)))
    save_file(small.state_dict(), tmp_path / "weights.safetensors")
    command = [sys.executable, "-c", FRESH, str(tmp_path), library, name]
    total, loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert float(total) == pytest.approx(small(torch.ones(1, 3, 32, 32, dtype=torch.float64)).sum().item(), rel=1e-12)
    assert loaded == "False"


def test_couplings_are_found_in_another_process_and_are_plain_data() -> None:
    torch.manual_seed(0)
    model = nets.Rigid().train()
    before = copy.deepcopy(model.state_dict())
    coupled = coupling(model, torch.zeros(1, 3, SIDE, SIDE))
    assert Coupling.from_json(json.loads(json.dumps(coupled.to_json()))) == coupled
    assert [group.name for group in coupled.groups] == ["stem.0", "inner.0"]
    assert coupled.reach == 1.0  # the rigid layers read and make the stem's channels
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_20_a_model_that_never_returns_is_cut_off() -> None:
    began = time.monotonic()
    sentence = (
        r"^space.model: its channel groups were not found within 3 s \(still (starting|tracing the model)\); take"
    )
    with pytest.raises(ConfigError, match=sentence):
        coupling(nets.Asleep(), torch.zeros(1, 3, SIDE, SIDE), seconds=3)
    assert time.monotonic() - began < 60  # the model itself sleeps for ten minutes
    assert not multiprocessing.active_children()


def test_a_model_that_cannot_be_traced_is_refused_with_what_it_said() -> None:
    sentence = r"^space.model: its channel groups cannot be found \(Given groups=1, weight of size"
    with pytest.raises(ConfigError, match=sentence):
        coupling(nets.Residual(), torch.zeros(1, 4, SIDE, SIDE))


def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(ConfigError, match=r"^space.model: the process that looks for channel groups ended while"):
        coupling(nets.Dying(), torch.zeros(1, 3, SIDE, SIDE))


def test_a_class_of_no_module_cannot_be_sent() -> None:
    class Local(nets.Net):
        pass

    with pytest.raises(ConfigError, match=r"^space.model: the model cannot be handed to another process \("):
        coupling(Local(), torch.zeros(1, 3, SIDE, SIDE))


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(3, 6, 3, stride=2, groups=3),
        nn.Conv2d(3, 6, 3, dilation=2, padding="same"),
        nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 4, 5), nn.Linear(252, 3)),
        nn.Sequential(nn.Flatten(2), nn.MultiheadAttention(256, 4, batch_first=True)),
        nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(256, 4, dim_feedforward=8)),
    ],
    ids=lambda layer: type(layer[-1] if isinstance(layer, nn.Sequential) else layer).__name__,
)
def test_multiply_adds_agree_with_torchs_own_counter(layer: nn.Module) -> None:
    model = nets.Around(layer)
    count = counted(model, images()[:1].float())
    assert (count.params, count.macs) == independent(model, SIDE)


def test_multiply_adds_go_to_the_layer_that_makes_them() -> None:
    model, *_ = real("timm", "vit_tiny_patch16_224")
    by_layer = counted(model, images(32)[:1]).by_layer
    tokens, width = 5, 192
    assert by_layer["blocks.0.attn.qkv"] == tokens * width * 3 * width
    assert by_layer["blocks.0.attn"] == 2 * tokens * tokens * width
