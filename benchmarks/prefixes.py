"""Time of rating a block: what candidates share computed once, against every candidate from its first layer on.

Blocks of one to four layers, each with n options: the sum of n^l operations instead of L n^L. Both ways are timed by
turns in one process on one thread, as CPU time; the fastest of each counts, and their answers are compared bit by bit.

    python -m benchmarks.prefixes            # two minutes
    python -m benchmarks.prefixes --json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.step import timed
from nasengine import device
from nasengine.blocks import Block, divided
from nasengine.config import parse
from nasengine.device import generator
from nasengine.rating import answers, measuring
from nasengine.spaces import chain
from nasengine.supernet import SubGraph, Supernet

IMAGES, SIDE = 64, 16
"""In the batch for statistics, and in the one that is rated."""


class Bench:
    """The second block of a chain, so many layers of one side, on random maps."""

    def __init__(self, layers: int, channels: int) -> None:
        config = parse(
            {
                "data": {"dataset": "digits"},
                "space": {
                    "kind": "chain", "layers": layers + 1, "channels": channels, "kernels": (3, 5),
                    "expansions": (2, 4), "reductions": (),
                },
            }
        )  # fmt: skip
        plan = chain.plan(config.space, image_size=SIDE, channels=1, classes=10, cuts=())
        self.net = Supernet.born(plan, generator("cpu", 0, "weights"))
        self.block: Block = divided(plan, (1, layers + 1))[1]
        stream = generator("cpu", 0, "maps")
        shape = (IMAGES, plan.groups[self.block.group], SIDE, SIDE)
        self.calibration, self.part = (
            torch.randn(shape, generator=stream).contiguous(memory_format=torch.channels_last) for _ in range(2)
        )

    def shared(self) -> list[Tensor]:
        """As the search does it."""
        return [found for (found,) in answers(self.net, self.block, {}, self.calibration, [self.part])]

    @torch.no_grad()
    def one_by_one(self) -> list[Tensor]:
        """Each candidate alone, on one copy of the network."""
        copy, found = measuring(self.net), []
        for path in self.block.paths():
            source, calibrated, x = self.block.source, self.calibration, self.part
            for rung, place in zip(self.block.rungs, path, strict=True):
                drawn = SubGraph(drawn={(rung.choice, unit) for unit in rung.options[place]})
                first = self.block.first if rung is self.block.rungs[0] else rung.block
                calibrated = copy.train().stretch({source: calibrated}, first, rung.output, drawn, {})
                x = copy.eval().stretch({source: x}, first, rung.output, drawn, {})
                source = rung.output
            found.append(x)
        return found


def measured(layers: int, channels: int, repeats: int) -> Iterator[dict[str, Any]]:
    """For each number of layers: operations and seconds of both ways, and their ratios."""
    for number in range(1, layers + 1):
        bench = Bench(number, channels)
        pairs = zip(bench.shared(), bench.one_by_one(), strict=True)
        if not all(torch.equal(one, other) for one, other in pairs):
            raise SystemExit("what shares its layers answers something else")
        shared, alone = timed([bench.shared, bench.one_by_one], repeats)
        operations = bench.block.candidates * number
        yield {
            "layers": number,
            "candidates": bench.block.candidates,
            "operations": bench.block.evaluations,
            "one by one": operations,
            "ratio of operations": bench.block.evaluations / operations,
            "seconds": shared,
            "seconds one by one": alone,
            "ratio of seconds": shared / alone,
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line for each block as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4, help="of the longest block")
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="a JSON line for each block")
    asked = parser.parse_args(arguments)
    with device.deterministic(1):
        if not asked.json:
            print("| layers | candidates | operations | one by one | ratio | seconds | one by one | ratio |")
            print("|---|---|---|---|---|---|---|---|")
        for row in measured(asked.layers, asked.channels, asked.repeats):
            told = (f"{value:.3f}" if isinstance(value, float) else f"{value:,}" for value in row.values())
            print(json.dumps(row) if asked.json else f"| {' | '.join(told)} |", flush=True)


if __name__ == "__main__":
    main()
