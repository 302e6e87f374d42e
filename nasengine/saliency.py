"""What a dead unit would do if it came back: the slope of the loss in its mask, at zero.

Dead units are judged in chunks, so that no more of them ever live beside the network than the stage had memory for.
Source: first-order saliency as in RigL (arXiv 1911.11134), for operations and filters as well as weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from nasengine import parallel
from nasengine.architecture import activations
from nasengine.objectives import task_loss
from nasengine.supernet import Kept, Supernet, plain

NUDGE = 1e-6
"""Mask of a dead filter while its return is judged: at exactly zero the rectifier behind it passes no gradient."""

Gains = Callable[[Supernet], Mapping[str, Tensor]]


def saliencies(
    net: Supernet, gains: Gains, levels: Sequence[str], batches: Sequence[tuple[Tensor, Tensor]], budget: int
) -> dict[str, Tensor]:
    """|dL/dmask| of every dead unit of the open blocks; zero for living ones.

    Args:
        net: not changed.
        gains: factors of the living units of a network, as the strategy has them.
        levels: granularities that are judged.
        batches: images and labels.
        budget: numbers that may be kept for backward, for one image (`architecture.activations`). Where a single unit
            is more than that, it is judged on fewer images at a time.

    Returns:
        choice -> [units], for weights in the weight's full shape.
    """
    found = {name: torch.zeros_like(alive, dtype=torch.float) for name, alive in net.kept.items()}
    for chunk in chunks(net, levels, budget):
        for name, value in _of_chunk(net, gains, chunk, batches, budget).items():
            found[name] += value
    return found


def chunks(net: Supernet, levels: Sequence[str], budget: int) -> list[Kept]:
    """The dead units of the open blocks, in parts that fit into the budget beside the living network if possible.

    Returns:
        choice -> bool mask of dead units, full size, for each part.
    """
    blocks = net.plan.exit_blocks[net.plan.exits.index(net.exit)]
    parts: list[Kept] = []
    for block in range(blocks):
        pieces: list[Kept] = []
        for choice in net.plan.choices:
            dead = ~net.kept[choice.name]
            if choice.block != block or choice.granularity not in levels or not bool(dead.any()):
                continue
            if choice.granularity == "operation":
                for unit in dead.nonzero().flatten().tolist():
                    one = torch.zeros_like(dead)
                    one[unit] = True
                    pieces.append({choice.name: one})
            else:
                pieces.append({choice.name: dead})
        parts += _fitting(net, pieces, budget)
    return parts


def returning(saliency: Mapping[str, Tensor], kept: Kept, fraction: float) -> tuple[Kept, float, int]:
    """The most salient `fraction` of the dead units that could do anything, at least one.

    A weight in a dead filter cannot: it is not counted.

    Args:
        saliency: choice -> values of one level, as `saliencies` gives them.
        kept: choice -> what is alive.
        fraction: 0 to 1.

    Returns:
        choice -> what is alive then; the lowest saliency that returned; how many returned.
    """
    names = list(saliency)
    flat = torch.cat([saliency[name].flatten() for name in names])
    able = int((flat > 0).sum())
    asked = max(1, round(fraction * able)) if fraction and able else 0
    order = torch.sort(flat, descending=True, stable=True).indices[:asked]
    back = torch.zeros_like(flat, dtype=torch.bool)
    back[order] = True
    parts = back.split([saliency[name].numel() for name in names])
    alive = {name: kept[name] | part.view_as(kept[name]) for name, part in zip(names, parts, strict=True)}
    return alive, float(flat[order[-1]]) if len(order) else 0.0, asked


def _fitting(net: Supernet, pieces: list[Kept], budget: int) -> list[Kept]:
    """One part if all pieces fit together, else halves of them, each on its own."""
    if not pieces:
        return []
    part: Kept = {}
    for piece in pieces:
        for name, units in piece.items():
            part[name] = part[name] | units if name in part else units
    if len(pieces) == 1 or _need(net, part) <= budget:
        return [part]
    middle = len(pieces) // 2
    return _fitting(net, pieces[:middle], budget) + _fitting(net, pieces[middle:], budget)


def _need(net: Supernet, part: Kept) -> int:
    kept = plain(net.plan, {**net.kept, **{name: net.kept[name] | units for name, units in part.items()}})
    return activations(net.plan, net.plan.program(net.exit, kept), kept)


def _of_chunk(
    net: Supernet, gains: Gains, dead: Kept, batches: Sequence[tuple[Tensor, Tensor]], budget: int
) -> dict[str, Tensor]:
    wide = (
        net.widened({name: net.kept[name] | units for name, units in dead.items()})
        .train()
        .requires_grad_(requires_grad=False)
    )
    factors = {name: gain.detach() for name, gain in gains(wide).items()}
    masks = {
        name: net.kept[name][wide.units[name]].to(gain.dtype).clamp(min=NUDGE if name in net.plan.groups else 0)
        for name, gain in factors.items()
    }
    for choice in wide.flat["weight"].choices:
        name = f"{net.plan.weighs[choice]}/weight"
        masks[choice] = wide.gather(name, {name: net.kept[choice]}).to(wide.live[name].dtype)
    probes = {name: masks[name].requires_grad_() for name in dead if name in masks and name in wide.running}
    if not probes:
        return {}
    share = min(1.0, budget / max(1, _need(net, dead)))
    for images, labels in batches:
        size = max(2, int(share * len(labels)))
        for x, y in zip(images.split(size), labels.split(size), strict=True):
            if len(y) > 1:  # batch norms need two
                (task_loss(wide(x, masks, factors), y) * (len(y) / len(labels))).backward()
    parallel.mean_(probe.grad for probe in probes.values() if probe.grad is not None)
    found = {}
    for name, probe in probes.items():
        full = torch.zeros_like(net.kept[name], dtype=torch.float)
        if probe.grad is None:
            continue
        if name in net.plan.weighs:
            place = f"{net.plan.weighs[name]}/weight"
            wide.scatter({place: probe.grad.abs()}, {place: full})
        else:
            full[torch.tensor(wide.units[name], device=full.device)] = probe.grad.abs().float()
        found[name] = full * dead[name]
    return found
