"""Memory of a staged search against a one-shot one: bytes that training keeps for the backward pass, for one image.

Each storage is counted once, parameters not at all. Numbers come from two batch sizes, so that what does not grow with
the batch (masks) falls out. Closed stages are closed at random, with the sizes that the search would give them. Of
sub-graphs that follow one another the largest counts; rows are means over some draws.

    python -m benchmarks.memory                 # 8 cells x 16 channels and 14 x 44
    python -m benchmarks.memory --sizes 8x16 --json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nasengine.architecture import Plan, lowered
from nasengine.config import MSGDASConfig, SearchConfig, parse
from nasengine.device import generator
from nasengine.discretise import fitted
from nasengine.spaces import cells
from nasengine.strategies import in_turn, mgas
from nasengine.strategies.base import Moment, Stage, Strategy
from nasengine.supernet import Kept, Supernet

PROMISE = 0.55
OPERATIONS_KEPT = 0.3
IMAGE, CLASSES = 32, 10
SUB_GRAPHS, DRAWS = (1, 2, 4), 5


@dataclass(frozen=True)
class Way:
    """How a search is staged: what closed blocks keep, and the memory share that is allowed."""

    name: str
    closes: Callable[[Supernet, Stage], Kept]
    memory_share: float
    promised: bool


def ways() -> list[Way]:
    return [
        Way(
            "stages; closed cells keep 30 % of their operations (the paper's share)", by_operations, 1.0, promised=True
        ),
        Way(
            "stages at our targets (30 % of params), memory_share 0.55 (the default)", by_target, PROMISE, promised=True
        ),
        Way("stages at our targets (30 % of params), everything kept (memory_share 1)", by_target, 1.0, promised=False),
    ]


def by_operations(net: Supernet, stage: Stage) -> Kept:
    """Cells that are not yet cut keep a random 30 % of their operations, every node one."""
    kept = dict(net.kept)
    stream = generator("cpu", "memory", stage.index)
    for choice in net.plan.choices_until(stage.blocks):
        if choice.granularity == "operation" and bool(kept[choice.name].all()):
            chance = torch.rand(choice.units, generator=stream)
            kept[choice.name] = (chance < OPERATIONS_KEPT) | (chance == chance.min())
    return kept


def by_target(net: Supernet, stage: Stage) -> Kept:
    """A random decision at all three levels at the stage's own target, within what is alive."""
    stream = generator("cpu", "memory", stage.index)
    margins = {
        name: torch.where(alive, 0.0, -1.0) + torch.rand(alive.shape, generator=stream)
        for name, alive in net.kept.items()
    }
    levels = ("operation", "filter", "weight")
    return fitted(net.plan, margins, bounds={"params": stage.target}, granularities=levels, exit_=stage.exit)


def measured(size: str) -> Iterator[dict[str, Any]]:
    """One row for each way and stage."""
    depth, channels = map(int, size.split("x"))
    config = parse(
        {
            "preset": "standard",
            "data": {"dataset": "cifar10"},
            "space": {"kind": "cells", "cells": depth, "channels": channels, "nodes": 4},
            "target": {"metric": "params", "value": "30%"},
        }
    )
    plan = cells.plan(config.space, image_size=IMAGE, channels=3, classes=CLASSES, cuts=config.cuts)
    net, strategy, stages = _built(plan, config)
    one_shot = per_image(net, strategy, beginning(stages[-1]))
    yield {"size": size, "way": "one shot", "stage": "", "mib": one_shot / 2**20, "ratio": 1.0, "promised": False}
    for way in ways():
        net, strategy, stages = _built(plan, config)
        net.bound(way.memory_share)
        for stage in stages:
            net.enter(stage.exit)
            found = per_image(net, strategy, beginning(stage))
            yield {
                "size": size, "way": way.name, "stage": stage.name, "mib": found / 2**20, "ratio": found / one_shot,
                "computed_twice": net.recomputed, "promised": way.promised,
            }  # fmt: skip
            if not stage.last:
                net.commit(way.closes(net, stage))

    for k in SUB_GRAPHS:
        for memory in ("joint", "sequential"):
            found = drawn(plan, config, k, memory)
            yield {
                "size": size, "way": f"{k} sub-graph{'s' * (k > 1)}, {memory}", "stage": "", "mib": found / 2**20,
                "ratio": found / one_shot, "promised": False,
            }  # fmt: skip


def drawn(plan: Plan, config: SearchConfig, k: int, memory: str) -> float:
    """Bytes for one more image where so many sub-graphs are drawn: the mean over some steps."""
    part = MSGDASConfig(sub_graphs=k, memory=memory, soft="full", guidance="off")
    net = Supernet.born(plan, generator("cpu", 0, "weights"))
    target = config.target.resolved(lowered(plan, {}).params)
    strategy = in_turn.msgdas(plan, config.model_copy(update={"strategy": part}), (target,), {})
    (stage,) = strategy.stages(net)
    moments = [Moment(stage=stage, epoch=stage.warmup_epochs, step=step, steps=DRAWS) for step in range(DRAWS)]
    return sum(per_image(net, strategy, moment) for moment in moments) / DRAWS


def beginning(stage: Stage) -> Moment:
    """When all units of a stage are on."""
    return Moment(stage=stage, epoch=0, step=0, steps=2)


def per_image(net: Supernet, strategy: Strategy, moment: Moment) -> float:
    """Bytes kept for backward at a moment, for one more image in the batch."""
    few, more = (kept_bytes(net, strategy, moment, batch) for batch in (2, 4))
    return (more - few) / 2


def kept_bytes(net: Supernet, strategy: Strategy, moment: Moment, batch: int) -> int:
    """The same for a whole batch."""
    parameters = {p.untyped_storage().data_ptr() for p in (*net.live.values(), *strategy.parameters())}
    found: dict[int, int] = {}

    def seen(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in parameters:
            found[storage.data_ptr()] = storage.nbytes()
        return value

    images = torch.zeros(batch, 3, IMAGE, IMAGE).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.long)
    most = 0
    with torch.autograd.graph.saved_tensors_hooks(seen, lambda value: value):
        for losses, _ in strategy.portions(net, moment, (images, labels), strategy.draw(net, moment)):
            most = max(most, sum(found.values()))
            found.clear()
            del losses
    return most


def _built(plan: Plan, config: SearchConfig) -> tuple[Supernet, mgas.MGAS, list[Stage]]:
    net = Supernet.born(plan, generator("cpu", 0, "weights"))
    target = config.target.resolved(lowered(plan, {}).params)
    strategy = mgas.strategy(plan, config, (target,), {})
    return net, strategy, strategy.stages(net)


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of a staged search against a one-shot one.")
    parser.add_argument("--sizes", nargs="+", default=["8x16", "14x44"], help="cells x channels")
    parser.add_argument("--json", action="store_true", help="one JSON object a row instead of a table")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for size in asked.sizes:
        for row in measured(size):
            rows.append(row)
            twice = f"  {row['computed_twice']} blocks computed twice" if row.get("computed_twice") else ""
            line = f"{row['size']:>6}  {row['mib']:8.1f} MiB  {row['ratio']:.3f}  {row['way']}; {row['stage']}{twice}"
            print(json.dumps(row) if asked.json else line, flush=True)
    worst = max(row["ratio"] for row in rows if row["promised"])
    summary = {"promise": PROMISE, "worst": worst, "kept": worst <= PROMISE}
    sentence = f"promised: at most {PROMISE}; highest of the promised ways: {worst:.3f}"
    print(json.dumps(summary) if asked.json else sentence)


if __name__ == "__main__":
    main()
