"""A made-up but well-formed run of a search that rates its blocks: a teacher first, then block after block.

What a candidate costs and is rated is made up; which networks are the best of these candidates is computed for real.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import product

from nasengine import config as engine_config
from nasengine import events
from nasengine.architecture import Choice
from nasengine.traversal import Candidate, best, network_front, pareto
from tests.webapp.story import STEPS, Run, numbered

LAYERS = (2, 3, 1)
"""Of each block; a chain of quick has six."""
TEACHER_EPOCHS = 5
MOST_POINTS = 2000


def story(raw: dict[str, object] | None = None, *, seed: int = 0) -> list[events.Event]:
    """All events of one run that ends well, numbered from 1; whatever is asked for, of a chain."""
    asked = raw or {"name": "Digits block by block", "target": {"value": "40%"}}
    return numbered(_Rated(engine_config.parse({**asked, "space": {"kind": "chain"}}), random.Random(seed)))


class _Rated(Run):
    method = "dna"

    def __init__(self, config: engine_config.SearchConfig, chance: random.Random) -> None:
        super().__init__(config, chance)
        self.each = config.search.epochs // len(LAYERS)
        operations = iter([choice for choice in self.plan.choices if choice.granularity == "operation"])
        self.blocks: list[list[Choice]] = [[next(operations) for _ in range(layers)] for layers in LAYERS]

    def stages(self) -> list[dict[str, object]]:
        return [
            {"name": f"block {n}", "blocks": len(self.plan.blocks), "epochs": self.each, "target": self.target}
            for n, _ in enumerate(self.blocks, start=1)
        ]

    def searched(self) -> Iterator[events.Event]:
        for epoch in range(1, TEACHER_EPOCHS + 1):
            accuracy = 0.98 - 0.5 * math.exp(-epoch)
            yield events.RetrainEpoch(
                network="teacher",
                epoch=epoch,
                epochs=TEACHER_EPOCHS,
                train={"loss": 1.02 - accuracy, "accuracy": accuracy + 0.01},
                validation={"loss": 1.05 - accuracy, "accuracy": accuracy},
                fraction=0.1 * epoch / TEACHER_EPOCHS,
                eta_seconds=100.0,
            )
        rated = []
        for number, choices in enumerate(self.blocks):
            yield from self.learned(number)
            candidates, units = self.candidates(number, choices)
            front = pareto(candidates)
            rated.append((candidates, units, front))
            yield self.block_rated(number, choices, *rated[-1])
            yield events.StageFinished(
                stage=number,
                name=f"block {number + 1}",
                size=self.full,
                target=self.target,
                validation={"loss": None, "accuracy": None},
                seconds=self.seconds,
                last=number == len(self.blocks) - 1,
            )
        yield self.paths(rated)
        yield self.committed(len(self.blocks) - 1, self.each * len(self.blocks), "fit", 0.5)
        yield self.alternatives()

    def learned(self, number: int) -> Iterator[events.Event]:
        yield events.StageStarted(
            stage=number,
            name=f"block {number + 1}",
            blocks=len(self.plan.blocks),
            epochs=self.each,
            warmup_epochs=0,
            full_size=self.full,
            size=self.full,
            target=self.target,
        )
        for local in range(1, self.each + 1):
            epoch = number * self.each + local
            for step in range(1, STEPS + 1):
                self.seconds += 0.9
                along = (epoch - 1 + step / STEPS) / (self.each * len(self.blocks))
                yield events.Progress(
                    stage=number,
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
                stage=number,
                epoch=epoch,
                train={"loss": math.exp(-local), "accuracy": None},
                validation={"loss": None, "accuracy": None},
                size=self.full,
                target=self.target,
                kept={},
                thresholds={},
            )
            yield events.CheckpointSaved(phase="search", epoch=epoch)

    def candidates(self, number: int, choices: list[Choice]) -> tuple[list[Candidate], list[dict[str, list[int]]]]:
        """All of a block: the costlier, the better rated, more or less; and the units that each keeps."""
        found, units = [], []
        for picked in product(*(range(choice.units) for choice in choices)):
            cost = sum(360 * (number + 1) * (1 + unit) ** 2 for unit in picked)
            rating = 0.3 + 0.5 / (number + 1) / (1 + cost / 27_000) + abs(self.luck.gauss(0, 0.02 * (number + 1)))
            found.append(Candidate(rating=rating, costs=(cost,)))
            units.append({choice.name: [unit] for choice, unit in zip(choices, picked, strict=True)})
        return found, units

    def block_rated(
        self,
        number: int,
        choices: list[Choice],
        candidates: list[Candidate],
        units: list[dict[str, list[int]]],
        front: list[int],
    ) -> events.BlockRated:
        return events.BlockRated(
            stage=number,
            epoch=self.each * (number + 1),
            block=number,
            blocks=len(self.blocks),
            choices=[choice.name for choice in choices],
            candidates=len(candidates),
            evaluations=sum(math.prod(c.units for c in choices[: n + 1]) for n in range(len(choices))),
            one_by_one=len(choices) * len(candidates),
            points=[[*candidate.costs, candidate.rating] for candidate in candidates][:MOST_POINTS],
            front=[
                {"cost": candidates[at].costs[0], "rating": candidates[at].rating, "units": units[at]} for at in front
            ],
            correlation=(-0.86, -0.42, None)[number],
            seconds=12.0,
        )

    def paths(self, rated: list[tuple[list[Candidate], list[dict[str, list[int]]], list[int]]]) -> events.PathsFound:
        """The rest of the network costs 2,000."""
        blocks = [candidates for candidates, _, _ in rated]
        found = best(blocks, [self.target - 2000])
        assert found is not None
        units: dict[str, list[int]] = {}
        for (_, kept, _), pick in zip(rated, found.picks, strict=True):
            units |= kept[pick]
        taken = [block[pick] for block, pick in zip(blocks, found.picks, strict=True)]
        return events.PathsFound(
            stage=len(blocks) - 1,
            epoch=self.each * len(blocks),
            networks=[
                {
                    "size": network.costs[0] + 2000,
                    "rating": network.rating,
                    "picks": [front.index(pick) for (_, _, front), pick in zip(rated, network.picks, strict=True)],
                }
                for network in network_front(blocks, most=400)
            ],
            chosen={
                "size": found.costs[0] + 2000,
                "rating": found.rating,
                "costs": [candidate.costs[0] for candidate in taken],
                "ratings": [candidate.rating for candidate in taken],
                "units": units,
            },
            visited=found.visited,
            of=float(math.prod(len(block) for block in blocks)),
        )
