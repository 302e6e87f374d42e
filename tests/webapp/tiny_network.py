"""The files of a real and tiny network: one layer over 8 x 8 grey pixels, with pictures and what it gets wrong."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

SIDE, COLUMNS, EXAMPLES = 8, 8, 8
CLASSES = [str(n) for n in range(10)]
MEAN, STD = 0.31, 0.38
WRONG = [(8, 1, 3), (9, 3, 1), (2, 7, 1)]
"""(true, predicted, images) of 215 validation images."""


def model() -> bytes:
    """`images` [batch, 1, 8, 8] to `logits` [batch, 10]."""
    weights = np.random.default_rng(0).normal(0, 0.15, (SIDE * SIDE, len(CLASSES))).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["images"], ["flat"], axis=1),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(CLASSES)])],
        [numpy_helper.from_array(weights, "weights")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


def architecture() -> bytes:
    told = {"image_size": SIDE, "classes": CLASSES, "mean": [MEAN], "std": [STD], "layers": [], "output": "logits"}
    return json.dumps(told).encode()


def pictures() -> bytes:
    """Blobs, each another one."""
    stream, steps = np.random.default_rng(1), np.arange(SIDE)
    rows = -(-(EXAMPLES + len(mistakes())) // COLUMNS)
    sheet = np.zeros((rows * SIDE, COLUMNS * SIDE), dtype=np.uint8)
    for tile in range(rows * COLUMNS):
        middle = stream.uniform(1, 6, (3, 2))
        heat = sum(np.exp(-((steps[:, None] - y) ** 2 + (steps - x) ** 2) / 3) for y, x in middle)
        top, left = tile // COLUMNS * SIDE, tile % COLUMNS * SIDE
        sheet[top : top + SIDE, left : left + SIDE] = np.clip(255 * heat, 0, 255)
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "PNG")
    return file.getvalue()


def mistakes() -> list[dict[str, Any]]:
    pairs = [(true, predicted) for true, predicted, count in WRONG for _ in range(count)]
    return [
        {
            "tile": EXAMPLES + n,
            "image": 7 * n,
            "true": true,
            "predicted": predicted,
            "probability": round(0.97 - 0.09 * n, 2),
        }
        for n, (true, predicted) in enumerate(pairs)
    ]


def judged() -> dict[str, Any]:
    """What its report says of that."""
    confusion = (np.eye(len(CLASSES), dtype=int) * 21).tolist()
    for true, predicted, count in WRONG:
        confusion[true][predicted] = count
    return {
        "classes": CLASSES,
        "confusion": confusion,
        "confused": [list(pair) for pair in WRONG],
        "pictures": {"file": "pictures.png", "side": SIDE, "columns": COLUMNS},
        "examples": [{"tile": n, "image": n, "true": n} for n in range(EXAMPLES)],
        "mistakes": mistakes(),
    }
