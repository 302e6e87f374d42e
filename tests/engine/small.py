"""Small nets and short runs that several test files share."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nasengine import data, packing
from nasengine.architecture import Plan
from nasengine.config import CANDIDATES, CellsSpace, ChainSpace, DataConfig, SearchConfig, parse
from nasengine.data import Images
from nasengine.device import generator
from nasengine.spaces import cells, chain
from nasengine.supernet import Kept, Supernet, everything

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[2]
CONVOLUTIONS = [name for name in CANDIDATES if "conv" in name]
RAW: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "data": {"dataset": "digits", "limit": 200},
    "space": {"kind": "cells", "cells": 2, "channels": 4, "nodes": 1, "reductions": [1]},
    "strategy": {"kind": "mgas", "cuts": [1], "commit_every": 1},
    "target": {"metric": "params", "value": "40%"},
    "search": {"epochs": 8, "batch_size": 32},
    "retrain": {"epochs": 2},
    "runtime": {"device": "cpu", "threads": 1},
}
"""A search of some seconds that has everything: two stages, commits, regrowth, retraining from inherited weights."""


def raw(changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """RAW with other values at dotted places."""
    found = copy.deepcopy(RAW)
    for place, value in (changes or {}).items():
        *parts, last = place.split(".")
        inner = found
        for part in parts:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return found


def configuration(changes: Mapping[str, Any] | None = None) -> SearchConfig:
    return parse(raw(changes))


def written(folder: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """A configuration file."""
    path = folder / "config.json"
    path.write_text(json.dumps(raw(changes)))
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "nasengine", *map(str, arguments)]


def surroundings() -> dict[str, str]:
    """The environment of a child: as most people have it, with byte code written."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def called(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command line, run to its end in a process of its own."""
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=surroundings(), capture_output=True, text=True, check=False, **options
    )


def small_plan(
    *, cells_: int = 2, channels: int = 4, nodes: int = 1, reductions: tuple[int, ...] = (1,), image_size: int = 8,
    cuts: tuple[int, ...] = (), colours: int = 1, candidates: Iterable[str] = CANDIDATES, classes: int = 3,
) -> Plan:  # fmt: skip
    space = CellsSpace(
        cells=cells_, channels=channels, nodes=nodes, reductions=reductions, candidates=tuple(candidates)  # type: ignore[arg-type]
    )  # fmt: skip
    return cells.plan(space, image_size=image_size, channels=colours, classes=classes, cuts=cuts)


def chain_plan(
    *, layers: int = 4, channels: int = 4, kernels: tuple[int, ...] = (3, 5), expansions: tuple[int, ...] = (2, 3),
    squeeze_excite: bool = False, reductions: tuple[int, ...] = (2,), image_size: int = 8, cuts: tuple[int, ...] = (),
    colours: int = 1, classes: int = 3,
) -> Plan:  # fmt: skip
    space = ChainSpace(
        layers=layers, channels=channels, kernels=kernels, expansions=expansions, squeeze_excite=squeeze_excite,  # type: ignore[arg-type]
        reductions=reductions,
    )  # fmt: skip
    return chain.plan(space, image_size=image_size, channels=colours, classes=classes, cuts=cuts)


def lived_in(plan: Plan, seed: int = 0, dtype: torch.dtype = torch.float64, exit_: str | None = None) -> Supernet:
    """The full network with batch norms as after long training: gammas of both signs, betas, means, variances."""
    stream = generator("cpu", seed, "lived in")
    nursery = {name: value.to(dtype) for name, value in Supernet.born(plan, stream).nursery.items()}
    for layer in plan.layers:
        if layer.op == "batch_norm":
            for part in ("weight", "bias", "mean"):
                value = nursery[f"{layer.name}/{part}"]
                nursery[f"{layer.name}/{part}"] = torch.randn(value.shape, generator=stream, dtype=dtype)
            variance = nursery[f"{layer.name}/var"]
            nursery[f"{layer.name}/var"] = 0.5 + torch.rand(variance.shape, generator=stream, dtype=dtype)
    return Supernet(plan, nursery, everything(plan), exit_)


def images_for(plan: Plan, seed: int = 0, n: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    stream = generator("cpu", seed, "images")
    return torch.randn(n, plan.groups["image"], plan.image_size, plan.image_size, generator=stream, dtype=dtype)


def random_kept(
    plan: Plan, seed: int, granularities: Iterable[str] = ("operation", "filter", "weight"), share: float | None = None
) -> Kept:
    """Any decision that respects the floors; each choice keeps a share of its own, or `share`."""
    stream = generator("cpu", seed, "kept")
    kept = everything(plan)
    for choice in plan.choices:
        if choice.granularity in granularities:
            alive = kept[choice.name]
            own = float(torch.rand((), generator=stream)) if share is None else share
            chance = torch.rand(alive.shape, generator=stream)
            kept[choice.name] = chance < own
            best = torch.topk(-chance.flatten(), choice.floor).indices
            kept[choice.name].view(-1)[best] = True
    return kept


def random_gains(plan: Plan, seed: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """A positive factor for every operation and filter of the full space."""
    stream = generator("cpu", seed, "gains")
    return {
        choice.name: 0.1 + torch.rand(choice.units, generator=stream, dtype=dtype)
        for choice in plan.choices
        if choice.granularity != "weight"
    }


def living(net: Supernet, full: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values of all units -> those of the living ones, as `Supernet.forward` takes them."""
    names = (*net.flat["operation"].choices, *net.flat["filter"].choices)
    return {name: full[name][torch.tensor(net.units[name])] for name in names}


def masks_of(kept: Kept, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Hard masks over the full space."""
    return {name: alive.to(dtype) for name, alive in kept.items()}


def relative(expected: Tensor, found: Tensor) -> float:
    """Largest difference relative to the largest expected value."""
    return float((expected - found).detach().abs().max() / expected.detach().abs().max().clamp(min=1e-12))


def packed_digits() -> packing.Packed:
    steps = packing.load(DataConfig(dataset="digits", image_size=8))
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def digits(limit: int = 200, seed: int = 3) -> Images:
    return data.images(packed_digits(), DataConfig(dataset="digits", image_size=8, limit=limit), seed, "cpu")
