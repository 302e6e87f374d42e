"""Small nets and short runs that several test files share."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from nasengine import data, packing, train
from nasengine.architecture import Plan
from nasengine.config import CANDIDATES, CellsSpace, ChainSpace, DataConfig, SearchConfig, parse
from nasengine.control import Control
from nasengine.data import Images
from nasengine.device import generator
from nasengine.spaces import cells, chain
from nasengine.strategies import mgas, mgas_published
from nasengine.strategies.base import Batch, Moment
from nasengine.supernet import Kept, Supernet, everything

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[2]
CONVOLUTIONS = [name for name in CANDIDATES if "conv" in name]
RAW: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "data": {"dataset": "digits", "limit": 200},
    "space": {
        "kind": "cells",
        "cells": 2,
        "channels": 4,
        "nodes": 1,
        "candidates": ["skip_connect", "sep_conv_3x3", "dil_conv_3x3", "max_pool_3x3"],
        "reductions": [1],
    },
    "strategy": {"kind": "mgas", "cuts": [1], "commit_every": 1},
    "target": {"metric": "params", "value": "40%"},
    "search": {"epochs": 8, "batch_size": 32},
    "retrain": {"epochs": 2},
    "runtime": {"device": "cpu", "threads": 1},
}
"""A search of some seconds that has everything: two stages, commits, regrowth, retraining from inherited weights."""
VARIANTS: dict[str, dict[str, Any]] = {
    "family": {"target.also": ["60%", "25%"], "search.epochs": 16, "retrain.epochs": 1},
    "chain": {
        "space": {"kind": "chain", "layers": 3, "channels": 4, "kernels": [3, 5], "reductions": [1]},
        "retrain.epochs": 1,
    },
    "chain with attention": {
        "space": {"kind": "chain", "layers": 3, "channels": 4, "kernels": [3], "attention": [1, 4], "reductions": [1]},
        "retrain.epochs": 1,
    },
    "published": {"strategy.recipe": "published", "retrain.epochs": 1},
    "limits": {"target.value": "60%", "target.limits.macs": "35%", "baseline.random": 1, "retrain.epochs": 1},
    "dms": {
        "strategy": {"kind": "dms"},
        "space.channels": 8,
        "target.value": "60%",
        "target.also": ["40%"],
        "search.epochs": 12,
        "retrain.epochs": 1,
    },
    "sub-graphs": {
        "strategy": {"kind": "msgdas", "sub_graphs": 3},
        "space.nodes": 2,
        "target.value": "60%",
        "search.epochs": 6,
        "retrain.epochs": 1,
        "baseline.random": 1,
    },
    "sub-graphs, then widths": {
        "strategy": {"kind": "msgdas", "then": "mgas", "memory": "sequential", "guidance": "supernet"},
        "space": {"kind": "chain", "layers": 3, "channels": 4, "kernels": [3, 5], "reductions": [1]},
        "target.also": ["25%"],
        "target.limits.macs": "30%",
        "search.epochs": 12,
        "retrain.epochs": 1,
    },
    "blocks": {
        "strategy": {"kind": "dna", "teacher_epochs": 2, "rating_images": 40, "widths": [0.5, 1.0]},
        "space": {
            "kind": "chain",
            "layers": 4,
            "channels": 4,
            "kernels": [3, 5],
            "expansions": [2],
            "attention": [1],
            "reductions": [2],
        },
        "target.value": "60%",
        "target.limits.macs": "60%",
        "search.epochs": 4,
        "retrain.epochs": 1,
        "baseline.random": 1,
    },
    "teacher": {"retrain.teacher": "full", "baseline.random": 1, "target.also": ["60%"], "search.epochs": 12},
    "known model": {
        "space": {"kind": "imported", "model": "test_resnet"},
        "strategy": {"kind": "dms"},
        "data.image_size": 16,
        "data.limit": 100,
        "target": {"metric": "macs", "value": "50%"},
        "search.epochs": 5,
        "retrain.epochs": 1,
        "baseline.random": 1,
    },
    "attention": {
        "space": {"kind": "imported", "model": "test_vit"},
        "strategy": {"kind": "dms"},
        "data.image_size": 32,
        "data.limit": 100,
        "target": {"metric": "macs", "value": "40%"},
        "search.epochs": 5,
        "retrain.epochs": 1,
        "baseline.random": 1,
    },
    "equal ratios": {"strategy.ratios": "equal", "retrain.epochs": 1},
    "no regrowth": {"strategy.regrow_fraction": 0, "retrain.epochs": 1},
    "regrowth": {
        "space.candidates": CANDIDATES,
        "target.value": "25%",
        "strategy.regrow_every": 1,
        "strategy.regrow_levels": ["filter", "weight"],
        "search.epochs": 10,
        "retrain.epochs": 1,
    },
}
"""Other searches of some seconds, as changes to RAW."""


def raw(changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """RAW with other values at dotted places."""
    found = copy.deepcopy(RAW)
    for place, value in (changes or {}).items():
        *parts, last = place.split(".")
        inner = found
        for part in parts:
            inner = inner.setdefault(part, {})
        inner[last] = copy.deepcopy(value)
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


class StopAt(Control):
    """Asks for the end at the n-th time that a run looks; counts how often it did."""

    def __init__(self, n: float) -> None:
        self.n, self.looks = n, 0

    @property
    def requested(self) -> str | None:  # type: ignore[override]
        self.looks += 1
        return "a test" if self.looks > self.n else None


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
    squeeze_excite: bool = False, attention: tuple[int, ...] = (), reductions: tuple[int, ...] = (2,),
    image_size: int = 8, cuts: tuple[int, ...] = (), colours: int = 1, classes: int = 3,
) -> Plan:  # fmt: skip
    space = ChainSpace(
        layers=layers, channels=channels, kernels=kernels, expansions=expansions, squeeze_excite=squeeze_excite,  # type: ignore[arg-type]
        attention=attention, reductions=reductions,  # type: ignore[arg-type]
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


def lively(plan: Plan, seed: int) -> Kept:
    """Random operations; every fourth filter and every third weight are gone, so that signals pass everywhere."""
    kept = random_kept(plan, seed, ["operation"])
    for choice in plan.choices:
        if choice.granularity != "operation":
            period = 4 if choice.granularity == "filter" else 3
            dead = torch.arange(choice.units) % period == seed % period
            kept[choice.name] = ~dead.view(kept[choice.name].shape)
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


def sliced(full: Supernet, kept: Kept) -> Supernet:
    """The network cut down to `kept`, in the mode of the full one."""
    nursery = {name: value.clone() for name, value in full.nursery.items()}
    return Supernet(full.plan, nursery, kept, full.exit).train(full.training)


def placed(net: Supernet, name: str) -> Tensor:
    """Where the living part of a full-size value is."""
    found = torch.zeros_like(net.nursery[name], dtype=torch.bool)
    net.scatter({name: torch.ones_like(net.live[name], dtype=torch.bool)}, {name: found})
    return found


def watched(patch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The newest `net`, `strategy`, `weights` and `retraining` (optimizers) that a search makes, while it runs."""
    seen = SimpleNamespace()

    def watch(owner: Any, name: str, what: str) -> None:
        make = getattr(owner, name)

        def made(*arguments: Any, **options: Any) -> Any:
            setattr(seen, what, make(*arguments, **options))
            return getattr(seen, what)

        patch.setattr(owner, name, made)

    watch(Supernet, "born", "net")
    watch(mgas, "strategy", "strategy")
    watch(mgas_published, "strategy", "strategy")
    watch(train, "weights_optimizer", "weights")
    watch(train, "retrain_optimizer", "retraining")
    return seen


def informed(net: Supernet, strategy: mgas.MGAS, moment: Moment, batch: Batch) -> None:
    """A pass that tells a strategy what units are good for; weights and statistics stay as they are."""
    net.tracks = False
    draws = strategy.draw(net, moment)
    strategy.losses(net, moment, batch, draws)[0]["task"].backward()
    strategy.after_backward(net, moment, draws)
    net.tracks = True
    for module in (net, strategy):
        module.zero_grad()


def give(strategy: mgas.MGAS, level: str, scores: Tensor) -> None:
    """Sets the scores of all units of a level."""
    with torch.no_grad():
        strategy._put(level, torch.arange(len(scores)), scores)


def packed_digits() -> packing.Packed:
    steps = packing.load(DataConfig(dataset="digits", image_size=8))
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def digits(limit: int = 200, seed: int = 3) -> Images:
    return data.images(packed_digits(), DataConfig(dataset="digits", image_size=8, limit=limit), seed, "cpu")
