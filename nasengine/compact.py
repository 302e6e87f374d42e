"""The found network as a plain PyTorch module.

This very file is stored as ``model.py`` beside the weights. It needs torch and safetensors, and for a library's model
that library:

    from model import load
    network = load("result")                        # in eval mode
    logits = network(network.preprocess(images))    # uint8 images [H, W], [H, W, C], [N, H, W] or [N, H, W, C]
    names = [network.classes[i] for i in logits.argmax(1)]
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SPARSE_FILE = "model.sparse.safetensors"
BITS, VALUES = ".bits", ".values"
"""Ends of the names under which the sparse file keeps a weight: which of its numbers are there, and those numbers."""

Cut = Mapping[str, Any]
"""layer: dotted name of a module, a parameter or a number. side: out, in, or through (channels pass one by one, or are
normalised), rows (first dimension of a parameter), heads (of an attention), width (of each of its heads, where queries
meet keys), queries (what of them a layer makes; it loses them by another side), size (a number or a shape that counts
channels). of: its channels now. keep: numbers of those that stay, ascending."""
UNEVEN = "the groups inside a layer would differ in size"
BATCH_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


class Relu(nn.ReLU):
    """Rectifier; never in place, since other layers read the same input."""


class Scale(nn.Module):
    """One learned factor for an operation without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Select(nn.Module):
    """Channels in another order; zeros where the source has none (index -1)."""

    def __init__(self, index: Sequence[int]) -> None:
        super().__init__()
        self.pad = -1 in index
        self.register_buffer("index", torch.tensor(index), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return selected_channels(x, self.index, pad=self.pad)


class FactorizedReduce(nn.Module):
    """Halves the image with 1x1 convolutions; the second part of the filters looks one pixel down and right."""

    def __init__(self, in_channels: int, out_channels: int, split: int) -> None:
        super().__init__()
        self.split = split
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 1, 1))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # as nn.Conv2d does

    def forward(self, x: Tensor) -> Tensor:
        return factorized_reduce(x, self.weight, self.split)


class Sum(nn.Module):
    """Adds its inputs."""

    def forward(self, *inputs: Tensor) -> Tensor:
        total = inputs[0]
        for x in inputs[1:]:
            total = total + x
        return total


class Concat(nn.Module):
    """Joins its inputs' channels."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, dim=1)


class Excite(nn.Module):
    """Channels of the first input [N, C, H, W] times the sigmoid of the second [N, C]."""

    def forward(self, x: Tensor, attention: Tensor) -> Tensor:
        return x * torch.sigmoid(attention)[:, :, None, None]


class MapAttention(nn.Module):
    """Attention of each position of a map [N, C, H, W] to all; inputs are queries, keys and values."""

    def __init__(self, heads: int, scale: float) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attended(query, key, value, self.heads, self.scale)


class Mean(nn.Module):
    """Mean over the image: [N, C, H, W] to [N, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def last_uses(inputs: Sequence[Sequence[str]]) -> list[list[str]]:
    """For each step, the values that no later step reads, so that memory is given back on the way.

    >>> last_uses([["a"], ["a", "b"], ["b"]])
    [[], ['a'], ['b']]
    """
    seen: set[str] = set()
    spent = []
    for names in reversed(inputs):
        spent.append([name for name in dict.fromkeys(names) if name not in seen])
        seen.update(names)
    return spent[::-1]


def selected_channels(x: Tensor, index: Tensor, *, pad: bool) -> Tensor:
    """[N, I, H, W] to [N, O, H, W]: channel `index[o]` of `x`, or zeros where that is -1 (if `pad`)."""
    # Channels last, there and back: in that order convolutions are several times as fast on the CPU.
    last = x.permute(0, 2, 3, 1)
    if pad:
        last, index = F.pad(last, (0, 1)), torch.where(index < 0, x.shape[1], index)
    return last.index_select(3, index).permute(0, 3, 1, 2)


def factorized_reduce(x: Tensor, weight: Tensor, split: int) -> Tensor:
    """[N, I, H, W] to [N, O, ceil(H/2), ceil(W/2)]: filters before `split` see even pixels, the others odd ones."""
    # Every second pixel first, then a convolution of stride 1: oneDNN's own 1x1 of stride 2 writes past its memory on
    # CPUs with no more than AVX2 where there are fewer than 8 input channels (oneDNN issue 6035).
    parts = []
    if split > 0:
        parts.append(F.conv2d(x[:, :, ::2, ::2], weight[:split]))
    if split < weight.shape[0]:
        parts.append(F.conv2d(F.pad(x, (0, 1, 0, 1))[:, :, 1::2, 1::2], weight[split:]))
    return torch.cat(parts, dim=1)


def attended(query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float) -> Tensor:
    """For each head softmax(scale q k^T) v over all positions; all [N, C, H, W], the channels of a head together."""
    q, k, v = (x.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3) for x in (query, key, value))  # [N, heads, L, D]
    if torch.is_grad_enabled():  # what a fused kernel keeps for the way back, and how it adds there, is the device's
        found = ((scale * q) @ k.transpose(2, 3)).softmax(dim=3) @ v
    else:
        found = F.scaled_dot_product_attention(q, k, v, scale=scale)  # without maps of all images at once
    found = found.transpose(1, 2).flatten(2)  # [N, L, C]: channels last, as convolutions like it
    return found.transpose(1, 2).unflatten(2, value.shape[2:])


def layer_module(layer: Mapping[str, Any]) -> nn.Module:
    """The module of one line of ``architecture.json``."""
    match layer["op"]:
        case "conv":
            return nn.Conv2d(
                layer["in_channels"],
                layer["out_channels"],
                layer["kernel"],
                stride=layer["stride"],
                padding=layer["dilation"] * (layer["kernel"] - 1) // 2,
                dilation=layer["dilation"],
                groups=layer["groups"],
                bias=False,
            )
        case "factorized_reduce":
            return FactorizedReduce(layer["in_channels"], layer["out_channels"], layer["split"])
        case "batch_norm":
            return nn.BatchNorm2d(layer["channels"])
        case "relu":
            return Relu()
        case "max_pool":
            return nn.MaxPool2d(layer["kernel"], stride=layer["stride"], padding=layer["kernel"] // 2)
        case "avg_pool":
            return nn.AvgPool2d(
                layer["kernel"], stride=layer["stride"], padding=layer["kernel"] // 2, count_include_pad=False
            )
        case "select":
            return Select(layer["index"])
        case "scale":
            return Scale()
        case "sum":
            return Sum()
        case "concat":
            return Concat()
        case "mean":
            return Mean()
        case "excite":
            return Excite()
        case "attention":
            return MapAttention(layer["heads"], layer["scale"])
        case "linear":
            return nn.Linear(layer["in_features"], layer["out_features"])
    raise ValueError(f"unknown operation {layer['op']!r} in the architecture; this model.py is older than the file")


class Classifier(nn.Module):
    """What every found network is: logits [N, classes] of preprocessed images [N, C, S, S].

    Attributes:
        architecture: what it was built from.
        classes: name of each logit.
        image_size: S.
    """

    def __init__(self, architecture: Mapping[str, Any]) -> None:
        super().__init__()
        self.architecture = architecture
        self.classes: list[str] = list(architecture.get("classes", []))
        self.image_size: int = architecture["image_size"]
        self.register_buffer("mean", torch.tensor(architecture.get("mean", [0.0])), persistent=False)
        self.register_buffer("std", torch.tensor(architecture.get("std", [1.0])), persistent=False)

    @torch.no_grad()
    def preprocess(self, images: Any) -> Tensor:
        """Network input of images with values 0 to 255.

        Args:
            images: a picture or array [H, W], [H, W, C], or a batch [N, H, W], [N, H, W, C]. A batch of grey images
                must have three axes, or four with C = 1. Other sizes are scaled by the shorter side and cropped.

        Returns:
            [N, C, S, S], normalised as in training.

        Raises:
            ValueError: if they are of another shape.
        """
        x = images if isinstance(images, Tensor) else torch.tensor(_array(images))
        channels = self.mean.numel()
        if x.ndim not in (2, 3, 4) or (x.ndim == 4 and x.shape[-1] not in (1, 3)) or (x.ndim == 3 and x.shape[-1] == 4):
            raise ValueError(
                f"images must be [H, W], [H, W, C], [N, H, W] or [N, H, W, C] with C = 1 or 3, not {list(x.shape)}; "
                "convert them to grey or RGB"
            )
        if x.ndim == 2:
            x = x[None, :, :, None]
        elif x.ndim == 3:
            x = x[None] if x.shape[-1] in (1, 3) else x[..., None]
        x = x.permute(0, 3, 1, 2).to(device=self.mean.device, dtype=torch.float32)
        if x.shape[1] == 3 and channels == 1:
            x = (x * x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
        elif x.shape[1] == 1 and channels == 3:
            x = x.expand(-1, 3, -1, -1)
        x = _square(x, self.image_size) / 255
        dtype = next(self.parameters()).dtype
        return ((x - self.mean.view(1, -1, 1, 1)) / self.std.view(1, -1, 1, 1)).to(dtype)


class Network(Classifier):
    """The layers of an architecture, run in their order."""

    def __init__(self, architecture: Mapping[str, Any]) -> None:
        super().__init__(architecture)
        self.steps = [layer for layer in architecture["layers"] if layer["op"] != "image"]
        self.spent = last_uses([layer["inputs"] for layer in self.steps])
        self.layers = nn.ModuleDict({layer["name"]: layer_module(layer) for layer in self.steps})

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] of preprocessed images [N, C, S, S]."""
        values = {"image": x}
        for layer, spent in zip(self.steps, self.spent, strict=True):
            values[layer["name"]] = self.layers[layer["name"]](*(values[source] for source in layer["inputs"]))
            for name in spent:
                del values[name]
        return values[self.architecture["output"]]


def _array(images: Any) -> Any:
    """Numbers of anything that numpy can read, such as a Pillow image."""
    import numpy as np  # only here, so that tensors need no numpy

    return np.asarray(images)


def _square(x: Tensor, size: int) -> Tensor:
    height, width = x.shape[2:]
    if (height, width) != (size, size):
        scale = size / min(height, width)
        shape = (max(size, round(height * scale)), max(size, round(width * scale)))
        x = F.interpolate(x, shape, mode="bilinear", antialias=True, align_corners=False).round().clamp(0, 255)
        top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
        x = x[:, :, top : top + size, left : left + size]
    return x


class Borrowed(Classifier):
    """A model of timm or torchvision, made smaller: layers narrowed, blocks taken out.

    Args:
        architecture: names library and model, how many `outputs` and image `channels` it has, its `cuts` (see `Cut`)
            and the blocks that were `removed`.
        model: that very model, if it is there already; it is built if not.
    """

    def __init__(self, architecture: Mapping[str, Any], model: nn.Module | None = None) -> None:
        super().__init__(architecture)
        self.model = rebuilt(architecture) if model is None else model

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] of preprocessed images [N, C, S, S]."""
        return self.model(x)


def built(architecture: Mapping[str, Any]) -> Classifier:
    """The network of an ``architecture.json``, without its weights."""
    return Borrowed(architecture) if "library" in architecture else Network(architecture)


def rebuilt(architecture: Mapping[str, Any]) -> nn.Module:
    """The library's model with random weights, made smaller by the recipe."""
    model = library_model(
        architecture["library"], architecture["model"], architecture["outputs"], architecture["channels"],
        architecture["image_size"],
    )  # fmt: skip
    return cut(without(opened(model), architecture["removed"]), architecture["cuts"])


def library_model(library: str, name: str, classes: int, channels: int, image_size: int) -> nn.Module:
    """A model of timm or torchvision with random weights, for these classes and images."""
    return (_timm if library == "timm" else _torchvision)(name, classes, channels, image_size)


def _timm(name: str, classes: int, channels: int, image_size: int) -> nn.Module:
    import timm

    wanted: dict[str, Any] = {"pretrained": False, "num_classes": classes, "in_chans": channels}
    try:
        return timm.create_model(name, **wanted, img_size=image_size)
    except TypeError as error:  # what works at any size is not told one
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, **wanted)


def _torchvision(name: str, classes: int, channels: int, image_size: int) -> nn.Module:
    from torchvision import models

    builder = models.get_model_builder(name)
    own: dict[str, Any] = {}
    if name.startswith("vit_"):
        own["image_size"] = image_size
    if name == "maxvit_t":
        own["input_size"] = (image_size, image_size)
    if name in ("googlenet", "inception_v3"):
        own |= {"aux_logits": False, "init_weights": True}
    model = builder(weights=None, num_classes=classes, **own)
    if channels != 3:
        _read_channels(model, channels)
    return model


def _read_channels(model: nn.Module, channels: int) -> None:
    """Another first convolution, which reads other images than coloured ones."""
    name, first = next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    model.set_submodule(
        name,
        nn.Conv2d(
            channels,
            first.out_channels,
            first.kernel_size,
            stride=first.stride,
            padding=first.padding,
            dilation=first.dilation,
            bias=first.bias is not None,
        ),
    )


class Attention(nn.Module):
    """Attention of tokens [N, L, E] to each other, as torch's own, in two layers that can be cut.

    Args:
        torchs: that it computes the same as.
    """

    def __init__(self, torchs: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.scale, self.dropout = torchs.num_heads, torchs.head_dim**-0.5, torchs.dropout
        self.qkv, self.proj = nn.Linear(torchs.embed_dim, 3 * torchs.embed_dim), torchs.out_proj
        self.qkv.weight, self.qkv.bias = torchs.in_proj_weight, torchs.in_proj_bias

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **other: Any) -> tuple[Tensor, None]:
        """What attention makes of them, and never its weights; all three must be the same tensor."""
        if key is not query or value is not query:
            raise ValueError("this attention is of tokens to each other; queries, keys and values must be the same")
        if other.get("attn_mask") is not None or other.get("key_padding_mask") is not None or other.get("is_causal"):
            raise ValueError("this attention is of all tokens to each other; it takes no mask")
        q, k, v = self.qkv(query).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)
        return self.proj(seen.transpose(1, 2).flatten(2)), None


def _is_plain(attention: nn.MultiheadAttention) -> bool:
    plain = attention.in_proj_weight is not None and attention.bias_k is None and not attention.add_zero_attn
    return attention.batch_first and plain


def opened(model: nn.Module) -> nn.Module:
    """The model itself, with torch's attention, which nobody can look into, as layers."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.MultiheadAttention) and _is_plain(module):
            model.set_submodule(name, Attention(module))
    return model


def without(model: nn.Module, blocks: Iterable[str]) -> nn.Module:
    """The model itself, with nothing in the place of these blocks."""
    for block in blocks:
        model.set_submodule(block, nn.Identity())
    return model


def cut(model: nn.Module, cuts: Iterable[Cut]) -> nn.Module:
    """The model itself, its layers made narrower."""
    sides: dict[str, dict[str, Cut]] = defaultdict(dict)
    for one in cuts:
        sides[one["layer"]][one["side"]] = one
    for layer, by_side in sides.items():
        _narrow(model, layer, by_side)
    return model


def named(model: nn.Module, name: str) -> Any:
    """The module, parameter or number of a dotted name; the model itself of none."""
    owner, _, last = name.rpartition(".")
    return getattr(model.get_submodule(owner), last) if name else model


def _narrow(model: nn.Module, name: str, cuts: Mapping[str, Cut]) -> None:
    layer = named(model, name)
    for side, one in cuts.items():
        if one["of"] != channels(layer, side):
            raise ValueError(
                f"the recipe cuts {one['of']} channels of {name}, which has {channels(layer, side)}; use it with the "
                "model, the classes and the image size that it was made for"
            )
    keeps = {side: one["keep"] for side, one in cuts.items()}
    owner, _, last = name.rpartition(".")
    if isinstance(layer, nn.Module):
        narrow(layer, keeps)
    elif isinstance(layer, Tensor):
        holder = model.get_submodule(owner)
        for side, keep in keeps.items():
            setattr(holder, last, _chosen(getattr(holder, last), keep, 0 if side == "rows" else parameter_dim(layer)))
            if getattr(holder, "normalized_shape", None) == (layer.numel(),):
                holder.normalized_shape = (len(keep),)
    else:
        size = len(keeps["size"])
        fewer = tuple(n if n == 1 else size for n in layer) if isinstance(layer, tuple) else size
        setattr(model.get_submodule(owner), last, fewer)


def narrow(layer: nn.Module, keeps: Mapping[str, list[int]]) -> nn.Module:
    """The layer itself, with these channels of its sides."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        _narrow_convolution(layer, keeps)
    elif isinstance(layer, nn.Linear):
        _narrow_linear(layer, keeps)
    elif keeps.keys() & {"heads", "width"}:
        _narrow_attention(layer, keeps)
    else:
        _narrow_norm(layer, keeps["through"])
    return layer


def parameter_dim(parameter: Tensor) -> int | None:
    """The dimension of a free parameter that counts channels: the last one that is not of size 1."""
    return next((d for d in reversed(range(parameter.ndim)) if parameter.shape[d] > 1), None)


def written(value: Any) -> int | None:
    """The number of channels that a number or a shape may stand for: of a shape the only one that is not 1."""
    numbers = [n for n in value if n != 1] if type(value) is tuple else [value]
    return numbers[0] if len(numbers) == 1 and type(numbers[0]) is int else None


def channels(layer: nn.Module | Tensor | int | tuple[int, ...], side: str) -> int | None:
    """How many channels a side of a layer has; nothing if it is of a kind that cannot be cut."""
    if isinstance(layer, int | tuple):
        return written(layer)
    if isinstance(layer, Tensor):
        dim = 0 if side == "rows" else parameter_dim(layer)
        return None if dim is None else layer.shape[dim]
    if side == "heads":
        return layer.num_heads
    if side == "width":  # 1/sqrt(D) stays as it is, so this is what the heads were made with
        return round(layer.scale**-2)
    if side == "queries":
        return channels(layer, "out") or channels(layer, "through")
    match layer:
        case nn.Linear():
            return {"out": layer.out_features, "in": layer.in_features}.get(side)
        case nn.modules.conv._ConvTransposeNd() if layer.groups > 1:
            return None
        case nn.modules.conv._ConvNd():
            return {"out": layer.out_channels, "in": layer.in_channels}.get(side)
        case nn.GroupNorm():
            return layer.num_channels
        case nn.LayerNorm():
            return layer.normalized_shape[0] if len(layer.normalized_shape) == 1 else None
        case nn.PReLU():
            return layer.num_parameters if layer.num_parameters > 1 else None
    return layer.num_features if isinstance(layer, BATCH_NORMS) else None


def _narrow_convolution(layer: nn.Module, keeps: Mapping[str, list[int]]) -> None:
    """Of a grouped convolution each group that stays keeps as many channels as the others, in and out."""
    ins = keeps.get("in", list(range(layer.in_channels)))
    outs = keeps.get("out", list(range(layer.out_channels)))
    size = layer.in_channels // layer.groups
    into, out_of = _blocks(ins, size), _blocks(outs, layer.out_channels // layer.groups)
    if into.keys() != out_of.keys() or not (_even(into) and _even(out_of)):
        raise ValueError(UNEVEN)
    weight = layer.weight.detach()
    if layer.transposed:
        weight = weight[ins][:, outs]
    else:
        weight = torch.cat([weight[out_of[b]][:, [c % size for c in into[b]]] for b in into])
    layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    if layer.bias is not None:
        layer.bias = _chosen(layer.bias, outs)
    layer.in_channels, layer.out_channels, layer.groups = len(ins), len(outs), len(into)


def _blocks(kept: Sequence[int], size: int) -> dict[int, list[int]]:
    blocks: dict[int, list[int]] = defaultdict(list)
    for channel in kept:
        blocks[channel // size].append(channel)
    return dict(blocks)


def _even(blocks: Mapping[int, list[int]]) -> bool:
    return len({len(block) for block in blocks.values()}) == 1


def _narrow_linear(layer: nn.Linear, keeps: Mapping[str, list[int]]) -> None:
    if "out" in keeps:
        layer.weight = _chosen(layer.weight, keeps["out"])
        layer.out_features = len(keeps["out"])
        if layer.bias is not None:
            layer.bias = _chosen(layer.bias, keeps["out"])
    if "in" in keeps:
        layer.weight = _chosen(layer.weight, keeps["in"], 1)
        layer.in_features = len(keeps["in"])


def _narrow_attention(layer: nn.Module, keeps: Mapping[str, list[int]]) -> None:
    if "heads" in keeps:
        layer.num_heads = len(keeps["heads"])
    if "width" in keeps:
        layer.fused_attn = False  # where timm has torch scale, it would be by the width that is left


def _narrow_norm(layer: nn.Module, keep: list[int]) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = getattr(layer, name, None)
        if value is not None:
            setattr(layer, name, _chosen(value, keep))
    match layer:
        case nn.GroupNorm():
            blocks = _blocks(keep, layer.num_channels // layer.num_groups)
            if not _even(blocks):
                raise ValueError(UNEVEN)
            layer.num_channels, layer.num_groups = len(keep), len(blocks)
        case nn.LayerNorm():
            layer.normalized_shape = (len(keep),)
        case nn.PReLU():
            layer.num_parameters = len(keep)
        case _:
            layer.num_features = len(keep)


def _chosen(value: Tensor, keep: Sequence[int], dim: int | None = 0) -> Tensor:
    """These slices of a parameter or buffer, as one again."""
    part = value.detach().index_select(dim or 0, torch.tensor(keep, device=value.device))
    return nn.Parameter(part, requires_grad=value.requires_grad) if isinstance(value, nn.Parameter) else part


def dense(stored: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The state dict of `network` from a file in which zeros were left out."""
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    state = {}
    for name, value in stored.items():
        if name.endswith(BITS):
            name = name.removesuffix(BITS)
            powers = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8)
            there = ((value[:, None] & powers) != 0).flatten()[: shapes[name].numel()]
            values = stored[name + VALUES]
            state[name] = values.new_zeros(shapes[name])
            state[name].view(-1)[there] = values
        elif not name.endswith(VALUES):
            state[name] = value
    return state


def load(folder: str | Path) -> Classifier:
    """The trained network of a result folder, in eval mode; of the sparse file where the dense one is not there."""
    from safetensors.torch import load_file

    folder = Path(folder)
    network = built(json.loads((folder / "architecture.json").read_text()))
    file = folder / "model.safetensors"
    network.load_state_dict(dense(load_file(file if file.exists() else folder / SPARSE_FILE), network))
    return network.eval()
