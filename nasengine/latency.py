"""How long networks take on this device: measured one by one, and the guide that follows from some dozens of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from nasengine import parallel
from nasengine.architecture import Plan, counted_features, lowered
from nasengine.discretise import floors
from nasengine.guide import Guide
from nasengine.supernet import Kept, everything, plain

SECONDS, FEWEST, MOST = 0.12, 12, 200
"""How long a measurement should last, and the passes that it has."""
NETWORKS = 40
"""That are measured for a guide, the whole one first and last among them."""
WHOLE = 5.0
"""How much more an error counts of the whole network, of which targets are shares."""


@dataclass(frozen=True)
class Timing:
    """Nanoseconds for one image.

    Attributes:
        best: that a tenth of the passes does not exceed: what else a machine does makes them slower, never faster.
        usual: the median, which says how busy the machine was.
    """

    best: int
    usual: int


def timed(network: nn.Module, image: Tensor) -> Timing:
    """Measures a network in eval mode, where it and its image [1, C, S, S] are, after a warm-up."""
    return Timing(*parallel.agreed(lambda: _best_and_usual(network, image)))


@torch.no_grad()
def _best_and_usual(network: nn.Module, image: Tensor) -> tuple[int, int]:
    def once() -> int:
        started = time.perf_counter_ns()
        network(image)
        if image.is_cuda:
            torch.cuda.synchronize(image.device)
        return time.perf_counter_ns() - started

    expected = min(once() for _ in range(3))
    took = sorted(once() for _ in range(int(min(MOST, max(FEWEST, 1e9 * SECONDS / expected)))))
    return took[len(took) // 10], took[len(took) // 2]


@dataclass
class Stopwatch:
    """Measures the exported networks of decisions, each once.

    Attributes:
        build: makes the network of a decision, on the device.
    """

    build: Callable[[Kept], nn.Module]
    image: Tensor
    known: dict[str, Timing] = field(default_factory=dict)

    def timing(self, plan: Plan, kept: Kept) -> Timing:
        """Of the network that keeps these operations and filters; which weights are zero makes no difference."""
        key = repr(plain(plan, kept))
        if key not in self.known:
            self.known[key] = timed(self.build(kept), self.image)
        return self.known[key]


def drawn(plan: Plan, stream: torch.Generator, granularities: Collection[str]) -> Kept:
    """A random sub-network: any share of its operations and filters, each choice another share."""
    kept = everything(plan)
    margins = {name: torch.rand(alive.shape, generator=stream) for name, alive in kept.items()}
    held = floors(plan, margins)
    for level in {"operation", "filter"} & set(granularities):
        most = float(torch.rand((), generator=stream))
        for choice in plan.choices:
            if choice.granularity == level:
                share = most * float(torch.rand((), generator=stream)) ** 0.5
                kept[choice.name] = (margins[choice.name] < share) | held[choice.name]
    return kept


def fitted_guide(plan: Plan, measured: Sequence[tuple[Kept, int]]) -> Guide:
    """The costs, none below zero, with the least squared relative error on measured networks (kept, nanoseconds)."""
    counts = [counted_features(plan, plain(plan, kept)) for kept, _ in measured]
    names = sorted({name for found in counts for name in found})
    rows = np.array([[found.get(name, 0.0) for name in names] for found in counts])
    scales = rows.max(axis=0)  # numbers of very different sizes, such as layers and multiply-adds
    times = np.array([float(took) for _, took in measured])
    trust = np.array([WHOLE if bool(np.all(row >= scales)) else 1.0 for row in rows])
    costs, _ = nnls(rows / scales * (trust / times)[:, None], trust)
    return Guide(dict(zip(names, (costs / scales).tolist(), strict=True)))


def measured(
    plan: Plan, watch: Stopwatch, stream: torch.Generator, granularities: Collection[str]
) -> Generator[int, None, dict[str, Any]]:
    """Measures the whole network and random parts of it; yields how many of `NETWORKS` are done.

    Returns:
        Plain values for a checkpoint: `nanoseconds` of the guide, `error` (median share by which it is wrong on what
        was measured), `whole` (nanoseconds of the whole network).
    """
    found: list[tuple[Kept, int]] = []
    whole = everything(plan)
    for number in range(NETWORKS):
        kept = whole if number in (0, NETWORKS - 1) else drawn(plan, stream, granularities)
        found.append((kept, timed(watch.build(kept), watch.image).best))
        yield number + 1
    least = min(found[0][1], found[-1][1])
    found[0] = found[-1] = (whole, least)
    guide = fitted_guide(plan, found)
    guided = replace(plan, guide=guide)
    wrong = [abs(lowered(guided, plain(plan, kept)).nanoseconds / took - 1) for kept, took in found]
    return {"nanoseconds": dict(guide.nanoseconds), "error": median(wrong), "whole": least}
