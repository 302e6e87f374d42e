"""A made-up but well-formed run of a search that rates its blocks: a teacher first, then block after block.

What a candidate costs and is rated is made up; which networks are the best of these candidates is computed for real.
All units are on until the only commit, which leaves each layer one of its options.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

from nasengine import config as engine_config
from nasengine import events
from nasengine.blocks import Block, divided
from nasengine.sizes import TOLERANCE
from nasengine.traversal import Candidate, best, pareto
from tests.webapp.story import LEVELS, STEPS, Run, numbered, packed

HALVED = (2, 5)
"""Where the six layers halve images: so there are blocks of two, of three, and of one."""
EPOCHS = 4
"""Of each block, in each generation."""
TEACHER_EPOCHS = 5
OTHERS = 24
"""How many other sizes the page can look at, at most."""
HEAD = 2000
"""What a network costs beside its blocks."""


def story(raw: Mapping[str, Any] | None = None, *, seed: int = 0) -> list[events.Event]:
    """All events of one run that ends well, numbered from 1; whatever is asked for, of a chain.

    Of `strategy` only `generations` are told of.
    """
    asked = raw or {"name": "Digits block by block", "target": {"value": "40%"}}
    generations = asked.get("strategy", {}).get("generations", 1)
    told = {
        "space": {"kind": "chain", "reductions": HALVED},
        "strategy": {"kind": "dna", "generations": generations},
        "search": {"epochs": EPOCHS * (len(HALVED) + 1) * generations},
    }
    return numbered(_Rated(engine_config.parse({**asked, **told}), random.Random(seed)))


class _Stage(NamedTuple):
    index: int
    name: str
    last: bool


class _Block(NamedTuple):
    """Its candidates, what each keeps, and the places of those that none undercuts."""

    candidates: list[Candidate]
    units: list[dict[str, list[int]]]
    front: list[int]


class _Rated(Run):
    method = "DNA"

    def __init__(self, config: engine_config.SearchConfig, chance: random.Random) -> None:
        super().__init__(config, chance)
        self.blocks: list[Block] = divided(self.plan, config.strategy.ends(config.space))
        generations = config.strategy.generations
        names = [
            f"block {block.number + 1}" + f", teacher {generation + 1}" * (generations > 1)
            for generation in range(generations)
            for block in self.blocks
        ]
        self.turns = [_Stage(index, name, index == len(names) - 1) for index, name in enumerate(names)]

    def stages(self) -> list[dict[str, object]]:
        return [
            {"name": stage.name, "blocks": len(self.plan.blocks), "epochs": EPOCHS, "target": self.target}
            for stage in self.turns
        ]

    def searched(self) -> Iterator[events.Event]:
        rated: list[_Block] = []
        for stage in self.turns:
            generation, number = divmod(stage.index, len(self.blocks))
            if not number:
                rated.clear()
                yield from self.taught(generation)
            yield from self.learned(stage)
            rated.append(self.rated(number))
            yield self.block_rated(stage, rated[-1])
            if stage.last:
                paths = self.paths(stage, rated)
                yield paths
                yield self.fitted(stage, paths)
                yield self.ladder(paths)
            yield events.StageFinished(
                stage=stage.index,
                name=stage.name,
                size=paths.chosen["size"] if stage.last else self.full,
                target=self.target,
                validation={"loss": 0.6, "accuracy": 0.84} if stage.last else {"loss": None, "accuracy": None},
                seconds=self.seconds,
                last=stage.last,
            )

    def taught(self, generation: int) -> Iterator[events.Event]:
        done = 0.5 * generation / self.config.strategy.generations
        for epoch in range(1, TEACHER_EPOCHS + 1):
            accuracy = 0.98 - 0.5 * math.exp(-epoch)
            yield events.RetrainEpoch(
                network=f"teacher {generation + 1}",
                epoch=epoch,
                epochs=TEACHER_EPOCHS,
                train={"loss": 1.02 - accuracy, "accuracy": accuracy + 0.01},
                validation={"loss": 1.05 - accuracy, "accuracy": accuracy},
                fraction=done + 0.1 * epoch / TEACHER_EPOCHS,
                eta_seconds=100.0,
            )

    def learned(self, stage: _Stage) -> Iterator[events.Event]:
        before = EPOCHS * stage.index
        yield events.StageStarted(
            stage=stage.index,
            name=stage.name,
            blocks=len(self.plan.blocks),
            epochs=EPOCHS,
            warmup_epochs=0,
            full_size=self.full,
            size=self.full,
            target=self.target,
        )
        for local in range(1, EPOCHS + 1):
            epoch = before + local
            for step in range(1, STEPS + 1):
                self.seconds += 0.9
                along = (epoch - 1 + step / STEPS) / self.config.search.epochs
                yield events.Progress(
                    stage=stage.index,
                    epoch=epoch,
                    step=step,
                    steps=STEPS,
                    losses={"feature": math.exp(-local - step / STEPS) + 0.02 * self.chance.random()},
                    images_per_second=640 + self.chance.gauss(0, 25),
                    size=self.full,
                    target=self.target,
                    reference=self.full,
                    memory_mib=380.0,
                    fraction=0.1 + 0.5 * along,
                    eta_seconds=90 * (1 - along),
                )
            yield events.EpochFinished(
                stage=stage.index,
                epoch=epoch,
                train={"loss": math.exp(-local), "accuracy": None},
                validation={"loss": None, "accuracy": None},
                size=self.full,
                target=self.target,
                kept={level: self.kept(level) for level in LEVELS},
                thresholds={},
            )
            yield events.CheckpointSaved(phase="search", epoch=epoch)

    def rated(self, number: int) -> _Block:
        """All of a block: the costlier, the better rated, more or less; and the units that each keeps."""
        block, found, units = self.blocks[number], [], []
        for path in product(*(range(len(rung.options)) for rung in block.rungs)):
            cost = sum(280 * (number + 1) * (1 + place) ** 2 for place in path)
            rating = 0.3 + 0.5 / (number + 1) / (1 + cost / 27_000) + abs(self.luck.gauss(0, 0.02 * (number + 1)))
            found.append(Candidate(rating=rating, costs=(cost,)))
            units.append(block.units(path))
        return _Block(found, units, pareto(found))

    def block_rated(self, stage: _Stage, told: _Block) -> events.BlockRated:
        block = self.blocks[stage.index % len(self.blocks)]
        return events.BlockRated(
            stage=stage.index,
            epoch=EPOCHS * (stage.index + 1),
            block=block.number,
            blocks=len(self.blocks),
            choices=[rung.choice for rung in block.rungs],
            candidates=len(told.candidates),
            evaluations=block.evaluations,
            one_by_one=len(block.rungs) * len(told.candidates),
            points=[[*candidate.costs, candidate.rating] for candidate in told.candidates],
            front=[
                {
                    "cost": told.candidates[at].costs[0],
                    "rating": told.candidates[at].rating,
                    "units": told.units[at],
                    "width": 1.0,
                }
                for at in told.front
            ],
            correlation=(-0.86, -0.42, None)[block.number],
            seconds=12.0,
        )

    def paths(self, stage: _Stage, rated: Sequence[_Block]) -> events.PathsFound:
        ends = [HEAD + sum(end(each.costs[0] for each in told.candidates) for told in rated) for end in (min, max)]
        steps = [ends[0] * (ends[1] / ends[0]) ** (step / (OTHERS - 1)) for step in range(OTHERS)]
        chosen, visited = taken(rated, self.target)
        return events.PathsFound(
            stage=stage.index,
            epoch=self.config.search.epochs,
            networks=list({one["size"]: one for one in (taken(rated, math.ceil(step))[0] for step in steps)}.values()),
            chosen=chosen,
            visited=visited,
            of=float(math.prod(len(told.candidates) for told in rated)),
        )

    def fitted(self, stage: _Stage, paths: events.PathsFound) -> events.Committed:
        """Of each layer one option stays, with all its filters and weights."""
        changes: list[dict[str, object]] = []
        for name, own in paths.chosen["units"].items():
            for unit in sorted(self.on[name] - set(own)):
                change = {"choice": name, "unit": unit, "action": "pruned"}
                changes.append({**change, "score": None, "threshold": None, "cost": None})
            self.on[name] = set(own)
        pruned = {**dict.fromkeys(LEVELS, 0), "operation": len(changes)}
        told = self.commit(stage.index, paths.epoch, "fit", pruned, dict.fromkeys(LEVELS, 0), changes)
        return replace(told, kept_weights=self.running(), scores={}, thresholds={}, size=paths.chosen["size"])

    def running(self) -> dict[str, int]:
        """Weights that are left: none of operations that are gone."""
        found = dict(self.weights)
        for layer in self.plan.layers:
            if layer.prunable and layer.owner and layer.owner[1] not in self.on[layer.owner[0]]:
                found[layer.weights] = 0
        return found

    def ladder(self, paths: events.PathsFound) -> events.Alternatives:
        """The networks that other targets would have taken."""
        told: list[dict[str, object]] = []
        for network in paths.networks:
            on = self.on | {name: set(own) for name, own in network["units"].items()}
            kept = {name: packed(units, self.plan.choice[name].units) for name, units in on.items()}
            told.append({"size": network["size"], "kept": kept})
        return events.Alternatives(networks=told)


def taken(rated: Sequence[_Block], target: float) -> tuple[dict[str, Any], int]:
    """The network that this target takes, and how many were looked at for it."""
    blocks = [told.candidates for told in rated]
    bounds = [target - HEAD]
    found = best(blocks, bounds, (1 - TOLERANCE) * target - HEAD) or best(blocks, bounds)
    assert found is not None
    candidates = [block[pick] for block, pick in zip(blocks, found.picks, strict=True)]
    units: dict[str, list[int]] = {}
    for told, pick in zip(rated, found.picks, strict=True):
        units |= told.units[pick]
    return {
        "target": target,
        "size": found.costs[0] + HEAD,
        "rating": found.rating,
        "costs": [candidate.costs[0] for candidate in candidates],
        "ratings": [candidate.rating for candidate in candidates],
        "units": units,
        "widths": [1.0] * len(candidates),
    }, found.visited
