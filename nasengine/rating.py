"""What every candidate of a block is worth: how far its answer is from a map that it should reproduce.

Source: DNA (arXiv 1911.13053): batch norms take their statistics anew for each candidate, the distance is the mean
absolute difference over the deviation of what is wanted, so that those of different blocks add up. What candidates
share is computed once: their layers are walked as a tree, and the statistics of a layer do not depend on what follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from nasengine.blocks import Block, Option, Rung
from nasengine.supernet import Masks, SubGraph, Supernet

TINY = 1e-9


def distance(found: Tensor, wanted: Tensor) -> float:
    """Mean absolute difference over the deviation of all that is wanted: the same for any scale of both.

    >>> wanted = torch.tensor([0.0, 2.0])
    >>> round(distance(wanted + 3, wanted), 6), round(distance(10 * (wanted + 3), 10 * wanted), 6)
    (3.0, 3.0)
    """
    wanted = wanted.double()
    return float((found.detach().double() - wanted).abs().mean() / (wanted.std(correction=0) + TINY))


@torch.no_grad()
def measuring(net: Supernet) -> Supernet:
    """A copy whose batch norms take, from each batch in training mode, the statistics of that batch alone."""
    copy = net.widened({})
    copy.forgets = 1.0
    for mean, var in copy.statistics.values():  # what is no number would stay, whatever its share
        mean.zero_()
        var.fill_(1)
    return copy


@torch.no_grad()
def answers(
    net: Supernet, block: Block, masks: Masks, calibration: Tensor, parts: Sequence[Tensor]
) -> Iterator[list[Tensor]]:
    """What each candidate of a block makes of these parts, in the order of `Block.paths`.

    Args:
        net: of which the block is a part; a copy of it is made, which alone changes.
        block: whose candidates are asked.
        masks: of channels, the same for all of them.
        calibration: what the block reads [N, ...], of images from which batch norms take their statistics.
        parts: what it reads, in batches.
    """
    copy = measuring(net)

    def after(rung: Rung, option: Option, source: str, calibrated: Tensor, found: list[Tensor]) -> _State:
        drawn = SubGraph(drawn={(rung.choice, unit) for unit in option})
        first = block.first if rung is block.rungs[0] else rung.block
        calibrated = copy.train().stretch({source: calibrated}, first, rung.output, drawn, masks)
        copy.eval()
        return calibrated, [copy.stretch({source: x}, first, rung.output, drawn, masks) for x in found]

    def walk(level: int, source: str, state: _State) -> Iterator[list[Tensor]]:
        if level == len(block.rungs):
            yield state[1]
            return
        rung = block.rungs[level]
        for option in rung.options:
            yield from walk(level + 1, rung.output, after(rung, option, source, *state))

    yield from walk(0, block.source, (calibration, list(parts)))


_State = tuple[Tensor, list[Tensor]]
"""Of the images for statistics, and of the parts."""


def rated(
    net: Supernet,
    block: Block,
    masks: Masks,
    calibration: Tensor,
    parts: Sequence[Tensor],
    wanted: Sequence[Tensor],
    read_out: Callable[[Tensor], Tensor],
) -> Iterator[float]:
    """The rating of each candidate, lower is better.

    Args:
        net: as for `answers`, like the following three.
        block: whose candidates are rated.
        masks: of channels.
        calibration: what the block reads, for statistics.
        parts: what it reads, of the images that count.
        wanted: what it should make of each part.
        read_out: from what it makes to what can be compared with that.
    """
    total = sum(map(len, parts))
    for found in answers(net, block, masks, calibration, parts):
        distances = (distance(read_out(x), y) * len(x) for x, y in zip(found, wanted, strict=True))
        yield sum(distances) / total
