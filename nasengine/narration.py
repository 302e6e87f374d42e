"""What is said of a search: its larger events, from the plan, the network and a decision. Changes nothing."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from nasengine import catalogue, events
from nasengine.architecture import Plan, lowered
from nasengine.config import SearchConfig
from nasengine.outlook import Outlook
from nasengine.sizes import outside
from nasengine.strategies.base import Decision, Draw, Joined, Lottery, Paths, Rated, Stage
from nasengine.supernet import Kept, Supernet

GRANULARITIES = ("operation", "filter", "weight", "depth")
CHANGES_SAID = 2000
LEARNED = ("task", "feature", "agreement")
"""What weights learn, by the name of its loss."""
RATING_DIGITS = 6


def search_started(
    config: SearchConfig, plan: Plan, look: Outlook, stages: Sequence[Stage], device: str
) -> events.SearchStarted:
    """The space, its blocks and choices, the stages."""
    sizes = [0] * len(plan.blocks)
    full = lowered(plan, {})
    for layer, params in zip(full.layers, full.params_of_layers, strict=True):
        sizes[plan.layer[str(layer["name"]).removesuffix("_scale")].block] += params
    return events.SearchStarted(
        name=config.name,
        method=catalogue.STRATEGIES[config.strategy.kind].label,
        space=config.space.kind,
        metric=look.metric,
        target=outside(look.metric, look.target),
        also=[outside(look.metric, size) for size in look.family if size != look.target],
        limits=dict(look.limits),
        full_size=outside(look.metric, look.full_size),
        smallest_size=outside(look.metric, look.smallest_size),
        blocks=[
            {"name": name, "size": size, "share": round(size / full.params, 4)}
            for name, size in zip(plan.blocks, sizes, strict=True)
        ],
        choices=[
            {"name": c.name, "granularity": c.granularity, "block": c.block, "units": c.units, "labels": list(c.labels)}
            for c in plan.choices
        ],
        stages=[
            {"name": s.name, "blocks": s.blocks, "epochs": s.epochs, "target": outside(s.metric, s.target)}
            for s in stages
        ],
        epochs=config.search.epochs,
        retrain_epochs=config.retrain.epochs,
        device=device,
    )


def stage_started(stage: Stage, size: int) -> events.StageStarted:
    """What the stage opens, and where its size stands."""
    return events.StageStarted(
        stage=stage.index,
        name=stage.name,
        blocks=stage.blocks,
        epochs=stage.epochs,
        warmup_epochs=stage.warmup_epochs,
        full_size=outside(stage.metric, stage.start_size),
        size=outside(stage.metric, size),
        target=outside(stage.metric, stage.target),
    )


def epoch_finished(
    net: Supernet,
    draw: Draw,
    stage: Stage,
    epoch: int,
    train: Mapping[str, float | None],
    validation: Mapping[str, float | None],
    limits: Mapping[str, float],
) -> events.EpochFinished:
    """Measures, and the units that `draw` has on, of the stage's blocks."""
    kept: dict[str, list[int]] = {}
    for choice in net.plan.choices_until(stage.blocks):
        on, total = kept.setdefault(choice.granularity, [0, 0])
        mask = draw.masks.get(choice.name, net.kept[choice.name])
        alive = int((mask > 0.5).sum()) if choice.name in net.running else 0
        kept[choice.granularity] = [on + alive, total + choice.units]
    return events.EpochFinished(
        stage=stage.index,
        epoch=epoch,
        train={
            "loss": next((train[name] for name in LEARNED if name in train), None),
            "accuracy": train.get("accuracy"),
        },
        validation=dict(validation),
        size=outside(stage.metric, int(draw.size)),
        target=outside(stage.metric, stage.target),
        kept=kept,
        thresholds=dict(limits),
    )


def drawn(plan: Plan, lottery: Lottery, *, stage: Stage, epoch: int) -> events.CandidatesDrawn:
    """Probabilities, counts and the last sub-graphs."""
    return events.CandidatesDrawn(
        stage=stage.index,
        epoch=epoch,
        edges=plan.edges,
        shares={name: packed_scores(shares) for name, shares in lottery.shares.items()},
        often={name: counts.tolist() for name, counts in lottery.often.items()},
        sub_graphs=[
            {
                name: [unit for edge in edges for unit in edge if (name, unit) in own]
                for name, edges in plan.edges.items()
            }
            for own in lottery.latest
        ],
    )


def block_rated(found: Rated, stage: Stage, epoch: int, seconds: float) -> events.BlockRated:
    """Ratings of a block's candidates against what they cost."""

    def told(cost: float, rating: float) -> list[float]:
        return [outside(stage.metric, round(cost)), round(rating, RATING_DIGITS)]

    return events.BlockRated(
        stage=stage.index,
        epoch=epoch,
        block=found.block,
        blocks=found.blocks,
        choices=list(found.choices),
        candidates=found.candidates,
        evaluations=found.evaluations,
        one_by_one=found.one_by_one,
        points=[told(*point) for point in found.points],
        front=[
            {**dict(zip(("cost", "rating"), told(cost, rating), strict=True)), "units": _lists(units), "width": width}
            for cost, rating, units, width in found.front
        ],
        correlation=found.correlation,
        seconds=seconds,
    )


def paths_found(paths: Paths, stage: Stage, epoch: int) -> events.PathsFound:
    """The network that was taken by the ratings of all blocks, and what other targets would have taken."""

    def size(number: float) -> float:
        return outside(stage.metric, round(number))

    def told(network: Joined) -> dict[str, object]:
        return {
            "size": size(network.size),
            "rating": round(network.rating, RATING_DIGITS),
            "costs": [size(cost) for cost in network.costs],
            "ratings": [round(rating, RATING_DIGITS) for rating in network.ratings],
            "units": _lists(network.units),
            "widths": list(network.widths),
        }

    return events.PathsFound(
        stage=stage.index,
        epoch=epoch,
        networks=[{"target": size(target), **told(network)} for target, network in paths.networks],
        chosen=told(paths.chosen),
        visited=paths.visited,
        certain=paths.certain,
        of=paths.of,
    )


def _lists(units: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    return {name: list(own) for name, own in units.items()}


def committed(
    net: Supernet, before: Mapping[str, Tensor], decision: Decision, *, stage: Stage, epoch: int, reason: str, size: int
) -> events.Committed:
    """What a commit changed; `net` is as it is after it, `before` holds the kept units before it."""
    totals: dict[str, list[int]] = {}
    counts: dict[str, dict[str, int]] = {"pruned": {}, "regrown": {}}
    changes: list[dict[str, object]] = []
    for choice in net.plan.choices:
        was, now = before[choice.name], net.kept[choice.name]
        on, total = totals.setdefault(choice.granularity, [0, 0])
        totals[choice.granularity] = [on + int(now.sum()), total + choice.units]
        for action, changed in (("pruned", was & ~now), ("regrown", ~was & now)):
            count = int(changed.sum())
            counts[action][choice.granularity] = counts[action].get(choice.granularity, 0) + count
            if count and len(changes) < CHANGES_SAID:
                changes += _changes(choice.name, choice.granularity, action, changed, decision)
    return events.Committed(
        stage=stage.index,
        epoch=epoch,
        reason=reason,
        pruned=counts["pruned"],
        regrown=counts["regrown"],
        asked=dict(decision.asked),
        kept={c.name: packed_bits(net.kept[c.name]) for c in net.plan.choices if c.granularity != "weight"},
        kept_weights=_living_weights(net, stage.blocks),
        **_standing(net.plan, decision, regrown=reason == "regrow"),
        changes=changes[:CHANGES_SAID],
        totals=totals,
        size=outside(stage.metric, size),
        target=outside(stage.metric, stage.target),
    )


def alternatives(plan: Plan, metric: str, fits: Mapping[int, Kept]) -> events.Alternatives:
    """Of fits to other sizes (size -> what stays), what the page draws."""
    return events.Alternatives(
        networks=[
            {
                "size": outside(metric, size),
                "kept": {name: packed_bits(alive) for name, alive in kept.items() if name not in plan.weighs},
            }
            for size, kept in sorted(fits.items())
        ]
    )


def _standing(plan: Plan, decision: Decision, *, regrown: bool) -> dict[str, Any]:
    """Scores and thresholds of all operations and filters."""
    names = [] if regrown else [name for name in decision.scores if name not in plan.weighs]
    return {
        "scores": {name: packed_scores(decision.scores[name]) for name in names},
        "thresholds": {name: _numbers(decision.thresholds[name]) for name in names},
    }


def packed_scores(scores: Tensor) -> str:
    """Base64 of a byte a unit, 255 for a score of one.

    >>> import torch
    >>> base64.b64decode(packed_scores(torch.tensor([0.0, 0.5, 1.0]))).hex()
    '0080ff'
    """
    return base64.b64encode(bytes((255 * scores).round().clamp(0, 255).int().tolist())).decode()


def _numbers(threshold: float | Tensor) -> list[float]:
    return [round(value, 4) for value in (threshold.tolist() if isinstance(threshold, Tensor) else [threshold])]


def packed_bits(alive: Tensor) -> str:
    """Base64 of one bit a unit, the first unit in the highest bit of the first byte.

    >>> import torch
    >>> base64.b64decode(packed_bits(torch.tensor([True, False, True]))).hex()
    'a0'
    """
    bits = "".join("1" if on else "0" for on in alive.tolist())
    padded = bits.ljust(-(-len(bits) // 8) * 8, "0")
    return base64.b64encode(bytes(int(padded[i : i + 8], 2) for i in range(0, len(padded), 8))).decode()


def _living_weights(net: Supernet, blocks: int) -> dict[str, int]:
    """Weights that run: none in dead candidates, rows and columns; all that are kept in blocks not yet open."""
    weights = [choice for choice in net.plan.choices if choice.granularity == "weight"]
    found = {choice.name: int(net.kept[choice.name].sum()) if choice.block >= blocks else 0 for choice in weights}
    for layer in net.program:
        if layer.prunable:
            mask = net.pruned_weights.get(layer.weights)
            found[layer.weights] = int(net.live[f"{layer.name}/weight"].numel() if mask is None else mask.sum())
    return found


def _changes(
    choice: str, granularity: str, action: str, changed: Tensor, decision: Decision
) -> list[dict[str, object]]:
    scores = decision.scores.get(choice)
    if granularity == "weight":
        mean = float(scores[changed].mean()) if scores is not None else None
        limit = decision.threshold(choice)
        return [{"choice": choice, "action": action, "count": int(changed.sum()), "score": mean, "threshold": limit}]
    return [
        {
            "choice": choice,
            "unit": unit,
            "action": action,
            "score": None if scores is None else float(scores[unit]),
            "threshold": decision.threshold(choice, unit),
            "cost": None if choice not in decision.costs else float(decision.costs[choice][unit]),
        }
        for unit in changed.nonzero().flatten().tolist()
    ]


def collapse_averted(net: Supernet, decision: Decision, *, stage: Stage, epoch: int) -> list[events.CollapseAverted]:
    """One for each block that would have kept skips and pools alone."""
    return [
        events.CollapseAverted(
            stage=stage.index,
            epoch=epoch,
            block=net.plan.blocks[net.plan.choice[name].block],
            choice=name,
            unit=unit,
            label=net.plan.choice[name].labels[unit],
            score=float(decision.scores[name][unit]),
            threshold=decision.threshold(name, unit),
        )
        for name, unit in decision.averted
    ]


def survivors(net: Supernet, returned: Mapping[str, Tensor]) -> dict[str, int]:
    """Granularity -> units that had returned and are in the found network."""
    counts = dict.fromkeys(GRANULARITIES, 0)
    for name, units in returned.items():
        if name not in net.running:
            continue
        choice = net.plan.choice[name]
        if choice.granularity == "weight":
            weight = f"{net.plan.weighs[name]}/weight"
            alive = net.gather(weight, {weight: units & net.kept[name]})
            counts["weight"] += int(alive.sum())
        else:
            counts[choice.granularity] += int((units & net.kept[name]).sum())
    return counts
