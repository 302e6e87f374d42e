"""The compact network as an ONNX model, layer by layer.

Written out by hand because there are few kinds of layers: torch's exporter takes most of a minute for what is
milliseconds here, and leaves notes about Python lines in the file. Every file is checked against the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from nasengine.architecture import spatial_sizes
from nasengine.compact import Network

OPSET, IR_VERSION = 17, 8
"""Old enough for every onnxruntime since 2022."""


def onnx_model(network: Network) -> onnx.ModelProto:
    """The model: `images` [batch, C, S, S], normalised as `preprocess` does, to `logits` [batch, classes]."""
    writer = _Writer(
        {name: value.detach().cpu().float().numpy() for name, value in network.state_dict().items()},
        spatial_sizes(network.architecture["layers"], network.image_size),
    )
    for layer in network.steps:
        writer.add(layer)
    side, channels = network.image_size, network.mean.numel()
    graph = helper.make_graph(
        [*writer.nodes, helper.make_node("Identity", [network.architecture["output"]], ["logits"])],
        "coppice",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", channels, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(network.classes) or None])],
        writer.values,
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="coppice")
    onnx.checker.check_model(model, full_check=True)
    return model


class _Writer:
    """Collects nodes and constants; each layer's output has the layer's name."""

    def __init__(self, state: Mapping[str, NDArray[Any]], sides: Mapping[str, int]) -> None:
        self.state, self.sides = state, sides
        self.nodes: list[onnx.NodeProto] = []
        self.values: list[onnx.TensorProto] = []

    def add(self, layer: Mapping[str, Any]) -> None:
        inputs = ["images" if source == "image" else source for source in layer["inputs"]]
        getattr(self, f"_{layer['op']}")(layer, inputs)

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.values.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def parameter(self, layer: Mapping[str, Any], part: str) -> str:
        return self.constant(f"{layer['name']}.{part}", self.state[f"layers.{layer['name']}.{part}"])

    def _conv(self, layer: Mapping[str, Any], inputs: list[str]) -> None:
        pad = layer["dilation"] * (layer["kernel"] - 1) // 2
        self.node(
            "Conv",
            [*inputs, self.parameter(layer, "weight")],
            layer["name"],
            kernel_shape=[layer["kernel"]] * 2,
            strides=[layer["stride"]] * 2,
            dilations=[layer["dilation"]] * 2,
            pads=[pad] * 4,
            group=layer["groups"],
        )

    def _factorized_reduce(self, layer: Mapping[str, Any], inputs: list[str]) -> None:
        """One 2x2 convolution: the first filters look at the upper left pixel, the others at the lower right."""
        weight, split = self.state[f"layers.{layer['name']}.weight"], layer["split"]
        wide = np.zeros((*weight.shape[:2], 2, 2), dtype=weight.dtype)
        wide[:split, :, 0, 0], wide[split:, :, 1, 1] = weight[:split, :, 0, 0], weight[split:, :, 0, 0]
        name = self.constant(f"{layer['name']}.weight", wide)
        self.node("Conv", [*inputs, name], layer["name"], kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1])

    def _batch_norm(self, layer: Mapping[str, Any], inputs: list[str]) -> None:
        parts = [self.parameter(layer, part) for part in ("weight", "bias", "running_mean", "running_var")]
        self.node("BatchNormalization", [*inputs, *parts], layer["name"], epsilon=1e-5)

    def _relu(self, layer: Mapping[str, Any], inputs: list[str]) -> None:
        self.node("Relu", inputs, layer["name"])

    def _max_pool(self, layer: Mapping[str, Any], inputs: list[str]) -> None:
        self.node("MaxPool", inputs, layer["name"], **_window(layer))

    def _avg_pool(self, layer: Mapping[str, Any], inputs: list[str]) -> None:
        self.node("AveragePool", inputs, layer["name"], count_include_pad=0, **_window(layer))

    def _select(self, layer: Mapping[str, Any], inputs: list[str]) -> None:
        name, index = layer["name"], np.array(layer["index"], dtype=np.int64)
        if (index < 0).any():  # one channel of zeros at the end, which -1 names
            pads = self.constant(f"{name}.pads", np.array([0, 0, 0, 0, 0, 1, 0, 0], dtype=np.int64))
            self.node("Pad", [*inputs, pads], f"{name}.padded")
            inputs = [f"{name}.padded"]
        self.node("Gather", [*inputs, self.constant(f"{name}.index", index)], name, axis=1)

    def _scale(self, layer: Mapping[str, Any], inputs: list[str]) -> None:
        self.node("Mul", [*inputs, self.parameter(layer, "factor")], layer["name"])

    def _sum(self, layer: Mapping[str, Any], inputs: list[str]) -> None:
        self.node("Sum", inputs, layer["name"])

    def _concat(self, layer: Mapping[str, Any], inputs: list[str]) -> None:
        self.node("Concat", inputs, layer["name"], axis=1)

    def _mean(self, layer: Mapping[str, Any], inputs: list[str]) -> None:
        self.node("GlobalAveragePool", inputs, f"{layer['name']}.square")
        self.node("Flatten", [f"{layer['name']}.square"], layer["name"], axis=1)

    def _excite(self, layer: Mapping[str, Any], inputs: list[str]) -> None:
        name = layer["name"]
        axes = self.constant(f"{name}.axes", np.array([2, 3], dtype=np.int64))
        self.node("Sigmoid", [inputs[1]], f"{name}.factor")
        self.node("Unsqueeze", [f"{name}.factor", axes], f"{name}.column")
        self.node("Mul", [inputs[0], f"{name}.column"], name)

    def _attention(self, layer: Mapping[str, Any], inputs: list[str]) -> None:
        name, heads, channels = layer["name"], layer["heads"], layer["channels"]
        apart, whole = [0, heads, channels // heads, -1], [0, channels, self.sides[name], self.sides[name]]
        split = self.constant(f"{name}.split", np.array(apart, dtype=np.int64))  # [N, heads, D, L]
        for part, source in zip("qkv", inputs, strict=True):
            self.node("Reshape", [source, split], f"{name}.{part}")
        self.node("Transpose", [f"{name}.q"], f"{name}.asked", perm=[0, 1, 3, 2])
        scale = self.constant(f"{name}.scale", np.array(layer["scale"], dtype=np.float32))
        self.node("Mul", [f"{name}.asked", scale], f"{name}.query")
        self.node("MatMul", [f"{name}.query", f"{name}.k"], f"{name}.scores")
        self.node("Softmax", [f"{name}.scores"], f"{name}.maps", axis=3)
        self.node("Transpose", [f"{name}.maps"], f"{name}.heeded", perm=[0, 1, 3, 2])
        self.node("MatMul", [f"{name}.v", f"{name}.heeded"], f"{name}.found")
        self.node("Reshape", [f"{name}.found", self.constant(f"{name}.whole", np.array(whole))], name)

    def _linear(self, layer: Mapping[str, Any], inputs: list[str]) -> None:
        parts = [self.parameter(layer, "weight"), self.parameter(layer, "bias")]
        self.node("Gemm", [*inputs, *parts], layer["name"], transB=1)


def _window(layer: Mapping[str, Any]) -> dict[str, list[int]]:
    kernel, stride = layer["kernel"], layer["stride"]
    return {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
