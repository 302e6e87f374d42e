"""What the web reads of a survey of a known model: plan, shapes and facts, of a made-up one of a few layers.

`look` takes the place of the engine's command where the real one would take half a minute.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from safetensors.numpy import save

from nasengine.architecture import Choice, Cost, Layer, Plan
from nasengine.cache import whole
from nasengine.spaces import imported

WIDTHS = (8, 12, 16)
"""Of each stage."""
REFUSED, REFUSAL = (
    "alexnet",
    "alexnet (torchvision) does not take images of 8 pixels and 1 channel; try another image size or model",
)
"""A model of which nothing may be cut, and why."""
STATE = {"layer1.0.conv1.weight": [8, 3, 3], "norm.num_batches_tracked": [], "fc.weight": [10, 16]}
"""Shapes of what its state dict holds; its last layer is for ten classes."""
BLOCKS = 3
"""Of a stage; all but its first can be left out."""


def look(arguments: Sequence[str]) -> dict[str, Any]:
    """Writes the survey that `model LIBRARY:NAME --classes N --channels N --image-size S` asks for; its facts."""
    library, _, name = arguments[0].partition(":")
    options = ("--image-size", "--channels", "--classes")
    shape = {word[2:].replace("-", "_"): int(arguments[arguments.index(word) + 1]) for word in options}
    found = survey(library=library, model=name, **shape)
    with whole(imported.file(library, name, **shape)) as stream:
        stream.write(json.dumps(found).encode())
    facts: dict[str, Any] = found["facts"]
    return facts


def survey(*, library: str = "timm", model: str = "test_resnet", **shape: int) -> dict[str, Any]:
    """For images of `image_size` pixels and so many `channels` in so many `classes`."""
    stages = [f"layer{n + 1}" for n in range(len(WIDTHS))]
    plan = tiny_plan(**shape)
    filters = [choice for choice in plan.choices if choice.granularity == "filter"]
    noise = "cut, the model computes something else (by 0.07 of its output)"
    return {
        "format": imported.FORMAT,
        "library": library,
        "model": model,
        **shape,
        "plan": imported.to_json(plan),
        "weights": {"shapes": STATE | {"fc.weight": [shape["classes"], 16]}, "last": ["fc.weight"]},
        "facts": {
            "params": 12_345,
            "macs": 678_901,
            "reach": 0.92,
            "least": 0.05,
            "groups": [{"name": choice.name, "width": choice.units, "layers": [choice.name]} for choice in filters],
            "frozen": [
                {"name": "fc", "width": shape["classes"], "reason": "its numbers are the answer"},
                {"name": "norm", "width": 8, "reason": noise},
            ],
            "depth": [{"name": stage, "blocks": [f"{stage}.{n}" for n in range(1, BLOCKS)]} for stage in stages],
            "sentence": "12 of 14 channel groups can be narrowed; they reach 92% of the multiply-adds.",
        },
    }


def weights(**changes: list[int] | None) -> bytes:
    """A safetensors file for it, full of ones; what is None is left out."""
    shapes = {name: shape for name, shape in (STATE | changes).items() if shape is not None}
    return save({name: np.ones(shape, np.float32) for name, shape in shapes.items()})


def tiny_plan(*, image_size: int, channels: int, classes: int) -> Plan:
    """Stages in a row; each has one width between its blocks and one inside of each of them."""
    found = _Plan(channels)
    for stage, width in enumerate(WIDTHS):
        found.stage(f"layer{stage + 1}", width, positions=max(1, image_size >> stage) ** 2)
    found.groups["classes"] = classes
    found.layer("fc", "fc", found.last, "classes", found.reads, taps=(), positions=1)
    return Plan(
        space="imported",
        image_size=image_size,
        layers=tuple(found.layers),
        groups=found.groups,
        choices=tuple(found.choices),
        blocks=tuple(found.blocks),
        exits=("fc",),
        exit_blocks=(len(found.blocks),),
    )


class _Plan:
    def __init__(self, channels: int) -> None:
        self.groups = {"image": channels}
        self.layers = [Layer(name="image", op="image", inputs=(), channels=("image",), block=0)]
        self.choices: list[Choice] = []
        self.blocks: list[str] = []
        self.last = self.reads = "image"

    def stage(self, name: str, width: int, *, positions: int) -> None:
        between, labels = f"{name}.0.conv2", tuple(f"{name}.{n}" for n in range(1, BLOCKS))
        depth = f"depth of {labels[0]}"
        ends = []
        for n in range(BLOCKS):
            block = f"{name}.{n}"
            owner = (depth, n - 1) if n else None
            inner = f"{block}.conv1"
            self.layer(
                block, inner, self.last, inner, self.reads, taps=(3, 3), positions=positions, owner=owner, width=width
            )
            end = f"{block}.conv2"
            self.layer(block, end, inner, between, inner, taps=(3, 3), positions=positions, owner=owner, width=width)
            if n:
                ends.append(end)
            else:
                self.last, self.reads = end, between
        at = self.blocks.index(labels[0])
        self.choices.append(
            Choice(
                name=depth, granularity="operation", block=at, units=len(labels), floor=0, labels=labels, optional=True
            )
        )
        self.layers.append(Layer(name=name, op="mix", inputs=(self.last, *ends), channels=(between,), block=at))
        self.last = name

    def layer(self, block: str, name: str, source: str, makes: str, reads: str, *, width: int = 0, **rest: Any) -> None:
        if block not in self.blocks:
            self.blocks.append(block)
        at = self.blocks.index(block)
        if makes not in self.groups:
            self.groups[makes] = width
            self.choices.append(Choice(name=makes, granularity="filter", block=at, units=width))
        units = math.prod(rest["taps"]) * self.groups[makes] * self.groups[reads]
        self.choices.append(Choice(name=f"{name}_weights", granularity="weight", block=at, units=units))
        norm = (Cost(metric="params", each=2, channels=(makes,)),)
        self.layers.append(
            Layer(
                name=name, op="module", inputs=(source,), channels=(makes,), reads=(reads,), block=at, prunable=True,
                costs=norm, **rest,
            )
        )  # fmt: skip
