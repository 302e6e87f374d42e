"""What a survey of a known model looks like: a made-up one of a few layers, in the engine's own format."""

from __future__ import annotations

from typing import Any

from nasengine.architecture import Choice, Cost, Layer, Plan
from nasengine.spaces import imported

STAGES, WIDTHS = 3, (8, 12, 16)
BLOCKS = 3
"""Of a stage; all but its first can be removed."""


def survey(*, library: str = "timm", model: str = "test_resnet", **shape: int) -> dict[str, Any]:
    """For images of `image_size` pixels and so many `channels` in so many `classes`."""
    plan = tiny_plan(**shape)
    return {
        "format": imported.FORMAT,
        "library": library,
        "model": model,
        **shape,
        "plan": imported.to_json(plan),
        "coupling": {},
        "depth": {},
        "facts": {
            "params": 12_345,
            "macs": 678_901,
            "reach": 0.92,
            "least": 0.05,
            "groups": 12,
            "frozen": [
                {"name": "fc", "width": shape["classes"], "reason": "its numbers are the answer"},
                {
                    "name": "norm",
                    "width": 8,
                    "reason": "cut, the model computes something else (by 0.07 of its output)",
                },
            ],
            "depth": [{"name": f"layer{n + 1}", "blocks": BLOCKS - 1} for n in range(STAGES)],
            "sentence": "12 of 14 channel groups can be narrowed; they reach 92% of the multiply-adds.",
        },
    }


def tiny_plan(*, image_size: int, channels: int, classes: int) -> Plan:
    """A row of stages; each has one width between its blocks and one inside of each of them."""
    groups = {"image": channels}
    layers = [Layer(name="image", op="image", inputs=(), channels=("image",), block=0)]
    choices: list[Choice] = []
    before, reads = "image", "image"
    for stage, width in enumerate(WIDTHS):
        name = f"layer{stage + 1}"
        depth = f"{name}_blocks"
        groups[name] = width
        positions = max(1, (image_size >> stage) ** 2)
        choices.append(Choice(name=name, granularity="filter", block=stage, units=width))
        labels = tuple(f"{name}.{n}" for n in range(1, BLOCKS))
        choices.append(
            Choice(
                name=depth,
                granularity="operation",
                block=stage,
                units=len(labels),
                floor=0,
                labels=labels,
                optional=True,
            )
        )
        ends = []
        for n in range(BLOCKS):
            block = f"{name}.{n}"
            inner = f"{block}.conv1"
            groups[inner] = width
            choices.append(Choice(name=inner, granularity="filter", block=stage, units=width))
            owner = None if n == 0 else (depth, n - 1)
            common: dict[str, Any] = {"op": "module", "block": stage, "owner": owner, "positions": positions}
            source = reads if n == 0 else name
            norm = (Cost(metric="params", each=2, channels=(inner,)),)
            layers += [
                Layer(name=inner, inputs=(before,), channels=(inner,), reads=(source,), taps=9, costs=norm, **common),
                Layer(name=f"{block}.conv2", inputs=(inner,), channels=(name,), reads=(inner,), taps=9, **common),
            ]
            if n == 0:
                before = f"{block}.conv2"
            else:
                ends.append(f"{block}.conv2")
        layers.append(Layer(name=f"{name}.sum", op="mix", inputs=(before, *ends), channels=(name,), block=stage))
        before, reads = f"{name}.sum", name
    groups["classes"] = classes
    head: dict[str, Any] = {"op": "module", "taps": 1, "positions": 1, "block": STAGES - 1}
    layers.append(Layer(name="fc", inputs=(before,), channels=("classes",), reads=(reads,), **head))
    return Plan(
        space="imported",
        image_size=image_size,
        layers=tuple(layers),
        groups=groups,
        choices=tuple(choices),
        blocks=tuple(f"layer{n + 1}" for n in range(STAGES)),
        exits=("fc",),
        exit_blocks=(STAGES,),
    )
