"""How long a network should take for one image: so much for each layer, multiply-add and number written, by kind.

What each costs on a device is fitted to measurements (`latency`). Here it is only put to use, in whole nanoseconds, so
that a time is one more size. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nasengine.architecture import Layer, Plan

KINDS = {
    "factorized_reduce": "convolution", "linear": "linear", "batch_norm": "norm", "max_pool": "pool",
    "avg_pool": "pool", "relu": "pass", "align": "pass", "mix": "pass", "concat": "pass", "mean": "pass",
    "excite": "pass", "attention": "attention",
}  # fmt: skip
"""Operation -> kind; a gate is folded into the norm before it, so it takes no time."""

Feature = tuple[str, float, tuple[str, ...], tuple[str, ...]]
"""(what is counted, a number, groups read, groups made): the number times the widths of both sides."""


@dataclass(frozen=True)
class Guide:
    """Nanoseconds of each thing that `features` counts, none below zero."""

    nanoseconds: Mapping[str, float]

    def scaled(self, factor: float) -> Guide:
        """Of a device that takes so many times as long."""
        return Guide({what: factor * each for what, each in self.nanoseconds.items()})


def features(plan: Plan, layer: Layer) -> Iterator[Feature]:
    """What of a layer takes time: that it is there, its multiply-adds, the numbers that it writes."""
    kind = _kind(plan, layer)
    if kind is None:
        return
    yield f"{kind} layer", 1, (), ()
    if kind == "network":
        return
    for cost in layer.costs:
        if cost.metric == "macs":
            yield f"{kind} macs", cost.each, cost.reads, cost.channels
    places = layer.positions if layer.op == "module" else plan.sides[layer.name] ** 2
    yield f"{kind} values", places, (), layer.channels
    if layer.op in ("conv", "factorized_reduce", "linear") or layer.taps is not None:
        taps = layer.weight_size if layer.op == "module" else layer.kernel**2
        yield f"{kind} macs", taps * places, () if layer.depthwise else plan.reads(layer), layer.channels
    if layer.op == "attention":
        yield "attention macs", 2 * places**2, (), layer.channels
        yield "attention values", places**2, (), (plan.heads(layer)[0],)
    if layer.name in plan.ends and layer.op not in ("mix", "module", "batch_norm"):  # a factor of its own
        yield "pass layer", 1, (), ()
        yield "pass values", places, (), layer.channels


def _kind(plan: Plan, layer: Layer) -> str | None:
    if not layer.inputs:
        return "network"
    if layer.op == "conv":
        return "depthwise" if layer.depthwise else "convolution"
    if layer.op == "mix" and plan.layer[layer.inputs[-1]].op == "module":
        return None  # blocks of a library's model add their input themselves
    if layer.op != "module":
        return KINDS.get(layer.op)
    if layer.taps is None:
        return "norm"
    if not layer.taps:
        return "linear"
    return "depthwise" if sum(plan.groups[group] for group in layer.reads) == 1 else "convolution"
