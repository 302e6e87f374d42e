"""Time of a search step: against a plain module of the same live operations, and after commits against the full one.

All pairs are timed alternately in one process on one thread, as CPU time of the process; the fastest counts. A step is
forward, backward, clipping and the optimizers', on one batch.

    python -m benchmarks.step                       # 4 cells x 16 channels, some minutes
    python -m benchmarks.step --size 4x44 --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from nasengine import device, export, train
from nasengine.architecture import Plan
from nasengine.config import parse
from nasengine.device import generator
from nasengine.discretise import fitted
from nasengine.spaces import cells
from nasengine.strategies import mgas
from nasengine.strategies.base import Batch, Moment
from nasengine.supernet import Kept, Supernet, architecture, everything

GATED, FOLLOWS = 1.10, 1.15
"""Promised: at most this much of a plain step; at most this much of the share of multiply-adds that is left."""
LEVELS = {"operations": ("operation",), "operations and filters": ("operation", "filter")}
DECISIONS = 3
"""Random decisions of each size: which operations stay decides what kind of arithmetic is left."""


class Bench:
    """A supernet with all that a step needs; nothing learns, so that every step is the same."""

    def __init__(self, size: str, batch: int, image: int) -> None:
        depth, channels = map(int, size.split("x"))
        config = parse(
            {
                "preset": "standard",
                "data": {"dataset": "cifar10"},
                "space": {"kind": "cells", "cells": depth, "channels": channels},
                "strategy": {"cuts": []},
            }
        )
        self.plan: Plan = cells.plan(config.space, image_size=image, channels=3, classes=10, cuts=())
        self.net = Supernet.born(self.plan, generator("cpu", 0, "weights"))
        self.full = architecture(self.plan, self.net.kept)
        self.strategy = mgas.strategy(self.plan, config, (self.full.params // 2,), {})
        self.strategy.learning_rates = self.frozen  # type: ignore[method-assign]
        stage = self.strategy.stages(self.net)[-1]
        self.moment = Moment(stage=stage, epoch=stage.warmup_epochs, step=0, steps=2)
        self.scores = self.strategy.optimizer(self.moment)
        stream = generator("cpu", 0, "images")
        images = torch.randn(batch, 3, image, image, generator=stream).contiguous(memory_format=torch.channels_last)
        self.batch: Batch = (images, torch.randint(0, 10, (batch,), generator=stream))
        self.held: Batch = (images[: batch // 3], self.batch[1][: batch // 3])
        self.commit(everything(self.plan))
        closing = Moment(stage=stage, epoch=stage.warmup_epochs - 1, step=1, steps=2)
        train.search_step(self.net, self.strategy, closing, self.batch, None, self.weights, self.scores, "fp32")
        for limits in self.strategy.thresholds.values():
            limits.data.zero_()

    def frozen(self, _moment: Moment) -> list[dict[str, Any]]:
        return [{"params": [values], "lr": 0.0} for values in self.strategy.parameters()]

    def commit(self, kept: Kept) -> None:
        self.net.commit(kept)
        self.weights = train.weights_optimizer(self.net, 0.0, 0.0)

    def step(self) -> None:
        """One step of the search, masks learned and all that lives on."""
        train.search_step(self.net, self.strategy, self.moment, self.batch, None, self.weights, self.scores, "fp32")

    def whole_step(self) -> None:
        """The same with a decision batch, a third as large: a step of the default recipe."""
        train.search_step(
            self.net, self.strategy, self.moment, self.batch, self.held, self.weights, self.scores, "fp32"
        )

    def plain(self, *batches: Batch) -> Callable[[], object]:
        """Steps of the network without gates, as it is trained at the end, on each of these batches."""
        found = architecture(self.plan, self.net.kept)
        network = export.compact_network(self.net, found, self.strategy.gains(self.net), {})
        network.to(memory_format=torch.channels_last).train()
        optimizer = train.retrain_optimizer(network, 0.0)
        return lambda: [train.retrain_step(network, batch, optimizer, {}, "fp32", 0.0) for batch in batches]

    def decision(self, levels: Sequence[str], share: float, number: int) -> Kept:
        """A random one that leaves this share of the multiply-adds."""
        stream = generator("cpu", "step", number)
        margins = {name: torch.rand(alive.shape, generator=stream) for name, alive in everything(self.plan).items()}
        target = int(share * self.full.macs)
        return fitted(self.plan, margins, bounds={"macs": target}, granularities=levels)


def measured(size: str, batch: int, image: int, repeats: int) -> Iterator[dict[str, Any]]:
    bench = Bench(size, batch, image)
    pairs = {
        "gated against plain": (bench.step, bench.plain(bench.batch)),
        "gated with a decision batch against plain on both": (bench.whole_step, bench.plain(bench.batch, bench.held)),
    }
    for name, pair in pairs.items():
        gated, plain = timed(pair, repeats)
        yield {
            "what": name, "seconds": gated, "against": plain, "ratio": gated / plain, "limit": GATED, "promised": True,
        }  # fmt: skip
    for name, levels in LEVELS.items():
        for share in (0.75, 0.5, 0.25):
            ratios, left, seconds = [], [], []
            for number in range(DECISIONS):
                other = Bench(size, batch, image)
                other.commit(bench.decision(levels, share, number))
                small, full = timed([other.step, bench.step], repeats)
                ratios.append(small / full)
                seconds.append(small)
                left.append(architecture(bench.plan, other.net.kept).macs / bench.full.macs)
            ratio, macs = statistics.mean(ratios), statistics.mean(left)
            yield {
                "what": f"{share:.0%} of the MACs, {name}", "seconds": statistics.mean(seconds), "against": full,
                "ratio": ratio, "macs": macs, "spread": max(ratios) - min(ratios), "limit": FOLLOWS * macs,
                "promised": name == "operations",
            }  # fmt: skip


def timed(steps: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """CPU seconds of each at its fastest, in turns after two rounds to warm up: what else runs can only add."""
    found: list[list[float]] = [[] for _ in steps]
    for turn in range(repeats + 2):
        for times, step in zip(found, steps, strict=True):
            started = time.process_time()
            step()
            if turn > 1:
                times.append(time.process_time() - started)
    return [min(times) for times in found]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of a search step.")
    parser.add_argument("--size", default="4x16", help="cells x channels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--image", type=int, default=32, help="pixels a side")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object a row instead of a table")
    asked = parser.parse_args()
    missed = []
    with device.deterministic(threads=1):
        for row in measured(asked.size, asked.batch, asked.image, asked.repeats):
            row |= {"size": asked.size, "kept": row["ratio"] <= row["limit"]}
            missed += [] if row["kept"] else [row["what"]]
            line = f"{row['ratio']:.3f}  limit {row['limit']:.3f}  {row['what']}  ({row['seconds']:.3f} s)"
            print(json.dumps(row) if asked.json else line, flush=True)
    print(json.dumps({"missed": missed}) if asked.json else f"above the limit: {', '.join(missed) or 'none'}")


if __name__ == "__main__":
    main()
