"""What a configuration promises before it runs: reachable sizes, the target, what is impossible, a rough estimate.

Form, API, `describe` and the search itself ask here, so that all of them say the same sentences. No torch.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nasengine import catalogue, splits
from nasengine.architecture import Plan, activations, lowered, smallest
from nasengine.config import SearchConfig
from nasengine.errors import ConfigError
from nasengine.splits import DataFacts

SECONDS_PER_LAYER, SECONDS_PER_VALUE = 4.1e-4, 4.4e-9
"""Forward and backward of a layer on one CPU core: a fixed part, and a part for each number it produces."""
FEWEST = 10
"""Training images without which nothing is tried."""
TORCH_MIB = 700
"""What PyTorch itself takes."""
SEARCH_SHARE = 0.9
"""Time of an average search step, pruned and with its look at held-out images, against a step of the full space."""
RETRAIN_SHARE = 0.55
"""Time of a retraining step against a step of the full space, roughly."""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a configuration and a data set amount to.

    Attributes:
        smallest_size: what every search can reach, whatever it finds.
        family: all targets from large to small, `target` among them.
        limits: further metric -> what none of them exceeds.
        problems: (field, sentence); empty if it can run.
        estimate: memory_mib of the engine's process at its peak; seconds_cpu of the whole run on one CPU core.
        choices: granularity -> units that can be pruned.
    """

    metric: str
    full_size: int
    smallest_size: int
    target: int
    family: tuple[int, ...]
    limits: dict[str, int]
    problems: tuple[tuple[str, str], ...]
    estimate: dict[str, float]
    choices: dict[str, int]

    @property
    def feasible(self) -> bool:
        """Whether the search can start."""
        return not self.problems

    def check(self) -> None:
        """Raises ConfigError with the problems, if there are any."""
        if self.problems:
            raise ConfigError(self.problems)


def plan_of(config: SearchConfig, facts: DataFacts) -> Plan:
    """The full space that the configuration asks for, for these images."""
    plan: Plan = resolved(catalogue.SPACES[config.space.kind].path)(
        config.space,
        image_size=config.data.image_size,
        channels=facts.channels,
        classes=len(facts.class_names),
        cuts=config.cuts,
    )
    return plan


def outlook(config: SearchConfig, facts: DataFacts) -> Outlook:
    """Looks ahead in milliseconds; nothing is built."""
    plan = plan_of(config, facts)
    metric = config.target.metric
    whole = lowered(plan, {})
    full, limits = whole.size(metric), config.target.further_limits(whole.size)
    least = smallest(plan, config.strategy.granularities, metric)
    target = config.target.resolved(full)
    family = config.target.family(full)
    counts = splits.sizes(facts, config.data)
    choices: dict[str, int] = {}
    for choice in plan.choices:
        if choice.granularity in config.strategy.granularities:
            choices[choice.granularity] = choices.get(choice.granularity, 0) + choice.units
    return Outlook(
        metric=metric,
        full_size=full,
        smallest_size=least,
        target=target,
        family=family,
        limits=limits,
        problems=tuple(_problems(config, plan, target, family, limits, full, least, counts)),
        estimate=_estimate(config, plan, counts["train"]),
        choices=choices,
    )


def resolved(path: str) -> Callable[..., Any]:
    """What a dotted path of the catalogue names."""
    module, name = path.split(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def learning_images(config: SearchConfig, train: int) -> int:
    """Training images that the weights learn from during the search."""
    fraction = config.strategy.decision_fraction if config.strategy.recipe == "coppice" else 0.0
    return train - splits.held_for_decisions(train, fraction)


def batch_size(config: SearchConfig, train: int) -> int:
    """Images a step of the search and of the retraining, given the size of the train split."""
    return config.search.batch(train, learning_images(config, train))


def _problems(
    config: SearchConfig,
    plan: Plan,
    target: int,
    family: tuple[int, ...],
    limits: dict[str, int],
    full: int,
    least: int,
    counts: dict[str, int],
) -> list[tuple[str, str]]:
    metric, found = config.target.metric, []
    for field, size in (("target.value", target), *(("target.also", size) for size in family if size != target)):
        if size > full:
            mend = f"give at most {full:,}, or a larger space (more blocks or channels)"
            found.append((field, f"{size:,} {metric} is more than the whole space has; {mend}"))
        if size < least:
            mend = f"give at least {least:,}, or a smaller space (fewer blocks or channels)"
            found.append((field, f"{size:,} {metric} is below what this space can surely reach; {mend}"))
    found += _limit_problems(config, plan, limits)
    found += _stage_problems(config, plan)
    learning = learning_images(config, counts["train"])
    if problem := splits.batch_problem(learning, batch_size(config, counts["train"])):
        found.append(("search.batch_size", problem))
    if counts["train"] < FEWEST:
        mend = f"use at least {FEWEST}, or hold out less for validation and test"
        found.append(("data.dataset", f"{counts['train']} training images are too few to learn from; {mend}"))
    for split in ("validation", "test"):
        if not counts[split]:
            found.append(
                (f"data.{split}_fraction", f"no image is left for the {split} split; add images, or raise this share")
            )
    return found


def _limit_problems(config: SearchConfig, plan: Plan, limits: dict[str, int]) -> list[tuple[str, str]]:
    found = []
    for metric, limit in limits.items():
        least = smallest(plan, config.strategy.granularities, metric)
        if limit < least:
            mend = f"give at least {least:,}, or a smaller space (fewer blocks or channels)"
            sentence = f"{limit:,} {metric} is below what this space can surely reach; {mend}"
            found.append((f"target.limits.{metric}", sentence))
    return found


def _stage_problems(config: SearchConfig, plan: Plan) -> list[tuple[str, str]]:
    found = []
    for share, exit_ in zip(config.strategy.stage_shares or (), plan.exits, strict=False):
        metric = config.target.metric
        full = lowered(plan, {}, exit_=exit_).size(metric)
        least = smallest(plan, config.strategy.granularities, metric, exit_)
        if int(share * full) < least:
            mend = f"give at least {math.ceil(100 * least / full) / 100:g}, or other stage ends"
            found.append(
                ("strategy.stage_shares", f"{share:g} of {full:,} {metric} is below what the stage can reach; {mend}")
            )
    return found


def fitting_batch(config: SearchConfig, facts: DataFacts, memory_mib: float) -> int | None:
    """The largest batch size whose estimated peak is no more than `memory_mib`.

    None if the estimate is of no help: it finds none, or none smaller than the one that is asked for.
    """
    plan = plan_of(config, facts)
    fixed, each = _memory(config, plan, activations(plan, plan.layers, {}))
    fitting = math.floor((memory_mib - fixed) / each)
    return fitting if 2 <= fitting < batch_size(config, splits.sizes(facts, config.data)["train"]) else None


def _memory(config: SearchConfig, plan: Plan, values: int) -> tuple[float, float]:
    """MiB of the engine's process at its peak: what it takes whatever the batch, and for each image of one."""
    weights = lowered(plan, {}).params_dense
    return TORCH_MIB + weights * 16 / 2**20, values * 8 * config.runtime.memory_share / 2**20


def _estimate(config: SearchConfig, plan: Plan, train: int) -> dict[str, float]:
    values = activations(plan, plan.layers, {})
    batch = batch_size(config, train)
    fixed, each = _memory(config, plan, values)
    step = len(plan.layers) * SECONDS_PER_LAYER + values * batch * SECONDS_PER_VALUE
    steps = max(1, train // batch)
    networks = 1 + len(config.target.also) + config.baseline.random
    epochs = SEARCH_SHARE * config.search.epochs + RETRAIN_SHARE * config.retrain.epochs * networks
    return {
        "memory_mib": fixed + each * batch,
        "seconds_cpu": step * steps * epochs,
    }
