"""What a configuration promises before it runs: reachable sizes, target, what is impossible, what is doubtful, time.

Form, API, `describe` and the search itself ask here, so that all of them say the same sentences. No torch.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from nasengine import catalogue, splits
from nasengine.architecture import Architecture, Plan, activations, lowered, smallest, values, widest_path
from nasengine.blocks import divided, extremes, fullest, groups, prices, rungs
from nasengine.cautions import cautions
from nasengine.config import DNAConfig, SearchConfig
from nasengine.errors import ConfigError
from nasengine.guide import Guide
from nasengine.names import brief
from nasengine.sizes import LATENCY, amount, sized
from nasengine.splits import DataFacts
from nasengine.traversal import Candidate, best

SECONDS_PER_LAYER, SECONDS_PER_VALUE = 4.1e-4, 4.4e-9
"""Forward and backward of a layer on one CPU core: a fixed part, and a part for each number it produces."""
SECONDS_PER_MODULE, SECONDS_PER_MAC = 1e-3, 8e-11
"""The same of a library's module, and for each multiply-add; six models of five families took 0.6 to 1.1 times that."""
TWIN_BYTES = 16
"""For each weight of a known model besides: it as it was, and the places of its numbers, twice."""
FEWEST = 10
"""Training images without which nothing is tried."""
TORCH_MIB = 700
"""What PyTorch itself takes."""
SEARCH_SHARE = 0.9
"""Time of an average search step, pruned and with its look at held-out images, against a step of the full space."""
RETRAIN_SHARE = 0.55
"""Time of a retraining step against a step of the full space, roughly."""
FORWARD_SHARE = 0.3
"""Time of a forward pass against that of a step."""
TEACHER_SHARE, ANSWERS_SHARE = 0.8, 0.2
"""The same of the teacher's own training, and of its answers in each step of those that it helps."""
QUICKEST, SLOWEST = 0.55, 1.25
"""Time of measured searches against their estimate, on one core of an AMD EPYC: 0.58 for a quick search of the digits,
0.68 to 1.23 for those of `benchmarks/accuracy_at_size.jsonl`. A smaller target takes less."""
MOST_CANDIDATES, MOST_WAYS = 50_000, 256
"""Of one block, and of widths."""
NUMBER_BYTES, TENSOR_BYTES = 4, 120
"""Of `model.safetensors`: a number, and what names a tensor."""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a configuration and a data set amount to.

    Attributes:
        full_size: of the whole space; it, the smallest and the targets are not known of times (whole nanoseconds)
            before the device was measured.
        smallest_size: what every search can reach, whatever it finds.
        family: all targets from large to small, `target` among them.
        limits: further metric -> what none of them exceeds.
        reach: metric -> smallest and full size, of the target's metric and of those that are limited.
        problems: (field, sentence); empty if it can run.
        warnings: (field, sentence) of what may well go wrong; empty if there are problems.
        estimate: memory_mib of the engine's process at its peak; seconds_cpu of the whole run on one CPU core, within
            what measured searches took (seconds_least, seconds_most); bytes_least and bytes_most of model.safetensors.
        choices: granularity -> units that can be pruned.
    """

    metric: str
    full_size: int | None
    smallest_size: int | None
    target: int | None
    family: tuple[int, ...]
    limits: dict[str, int]
    reach: dict[str, tuple[int, int]]
    problems: tuple[tuple[str, str], ...]
    warnings: tuple[tuple[str, str], ...]
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

    def to_json(self) -> dict[str, Any]:
        """Plain values, for whoever describes a configuration."""
        return {
            "metric": self.metric,
            "full_size": self.full_size,
            "smallest_size": self.smallest_size,
            "target": self.target,
            "also": [size for size in self.family if size != self.target],
            "limits": self.limits,
            "reach": {metric: list(sizes) for metric, sizes in self.reach.items()},
            "feasible": self.feasible,
            "problems": [list(problem) for problem in self.problems],
            "warnings": [list(warning) for warning in self.warnings],
            "choices": self.choices,
            "estimate": self.estimate,
        }


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


def outlook(config: SearchConfig, facts: DataFacts, guide: Guide | None = None) -> Outlook:
    """Looks ahead in milliseconds; nothing is built. `guide` tells times, once the device is measured."""
    plan = replace(plan_of(config, facts), guide=guide)
    metric = config.target.metric
    whole = lowered(plan, {})
    levels = config.strategy.granularities
    limits = config.target.further_limits(lambda name: _reach(config, plan, whole, name)[1])
    countable = [name for name in (metric, *limits) if name != LATENCY or guide]
    reach = {name: _reach(config, plan, whole, name) for name in countable}
    least, full = reach.get(metric, (None, None))
    target = None if full is None else config.target.resolved(full)
    family = () if full is None else config.target.family(full)
    counts = splits.sizes(facts, config.data)
    choices: dict[str, int] = {}
    for choice in plan.choices:
        if choice.granularity in levels:
            choices[choice.granularity] = choices.get(choice.granularity, 0) + choice.units
    problems = tuple(
        (field, brief(problem)) for field, problem in _problems(config, plan, target, family, limits, reach, counts)
    )
    estimate = _estimate(config, plan, whole, target, counts["train"])
    doubts = cautions(
        config, plan, facts, reach=reach, family=family, limits=limits, seconds=estimate["seconds_cpu"],
        steps=learning_images(config, counts["train"]) // batch_size(config, counts["train"]),
    ) if not problems else ()  # fmt: skip
    return Outlook(
        metric=metric,
        full_size=full,
        smallest_size=least,
        target=target,
        family=family,
        limits=limits,
        reach=reach,
        problems=problems,
        warnings=tuple(doubts),
        estimate=estimate,
        choices=choices,
    )


def _reach(config: SearchConfig, plan: Plan, whole: Architecture, metric: str) -> tuple[int, int]:
    """Smallest and largest size that the search can end with."""
    if isinstance(config.strategy, DNAConfig):
        return extremes(plan, config.strategy.widths, metric)
    return smallest(plan, config.strategy.granularities, metric), whole.size(metric)


def resolved(path: str) -> Callable[..., Any]:
    """What a dotted path of the catalogue names."""
    module, name = path.split(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def learning_images(config: SearchConfig, train: int) -> int:
    """Training images that the weights learn from during the search."""
    return train - splits.held_for_decisions(train, config.strategy.held_out)


def batch_size(config: SearchConfig, train: int) -> int:
    """Images a step of the search and of the retraining, given the size of the train split."""
    return config.search.batch(train, learning_images(config, train))


def _problems(
    config: SearchConfig,
    plan: Plan,
    target: int | None,
    family: tuple[int, ...],
    limits: dict[str, int],
    reach: dict[str, tuple[int, int]],
    counts: dict[str, int],
) -> list[tuple[str, str]]:
    metric, found = config.target.metric, []
    sizes = [("target.value", target)] if target is not None else []
    for field, size in (*sizes, *(("target.also", size) for size in family if size != target)):
        least, full = reach[metric]
        if size > full:
            mend = f"give at most {amount(metric, full, math.floor)}, or {_another(config, 'larger')}"
            one_path = isinstance(config.strategy, DNAConfig)
            whole = "largest network with one operation a layer" if one_path else "whole space"
            found.append((field, f"{sized(metric, size)} are more than the {whole} has; {mend}"))
        if size < least:
            found.append((field, _too_small(config, metric, size, least, full)))
    found += _limit_problems(config, limits, reach)
    if metric in reach:
        found += _stage_problems(config, plan)
    if not any(choice.granularity in config.strategy.granularities for choice in plan.choices):
        there = ", ".join(sorted({choice.granularity for choice in plan.choices}))
        found.append(
            ("strategy.granularities", f"there is nothing to prune at these levels; this space has {there or 'none'}")
        )
    found += _draw_problems(config, plan)
    found += _block_problems(config, plan, counts["train"])
    if target is not None and not found:
        found += _joint_problems(config, plan, {metric: target, **limits})
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


def _another(config: SearchConfig, size: str) -> str:
    """What space would do."""
    if config.space.kind == "imported":
        return f"a {size} model"
    return f"a {size} space ({'more' if size == 'larger' else 'fewer'} {config.space.parts} or channels)"


def _limit_problems(
    config: SearchConfig, limits: dict[str, int], reach: dict[str, tuple[int, int]]
) -> list[tuple[str, str]]:
    found = []
    for metric, limit in limits.items():
        least, _ = reach[metric]
        if limit < least:
            found.append((f"target.limits.{metric}", _too_small(config, metric, limit, *reach[metric])))
    return found


def _too_small(config: SearchConfig, metric: str, size: int, least: int, full: int) -> str:
    share = f" ({math.ceil(100 * least / full)}%)" if metric == LATENCY else ""
    mend = f"give at least {amount(metric, least, math.ceil)}{share}, or {_another(config, 'smaller')}"
    return f"{sized(metric, size)} are below what this space can surely reach; {mend}"


def _stage_problems(config: SearchConfig, plan: Plan) -> list[tuple[str, str]]:
    found = []
    for share, exit_ in zip(config.strategy.stage_shares or (), plan.exits, strict=False):
        metric = config.target.metric
        full = lowered(plan, {}, exit_=exit_).size(metric)
        least = smallest(plan, config.strategy.granularities, metric, exit_)
        if int(share * full) < least:
            mend = f"give at least {math.ceil(100 * least / full) / 100:g}, or other stage ends"
            problem = f"{share:g} of {sized(metric, full)} is below what the stage can reach; {mend}"
            found.append(("strategy.stage_shares", problem))
    return found


def _draw_problems(config: SearchConfig, plan: Plan) -> list[tuple[str, str]]:
    """More operations to be drawn at once than the connection with the fewest of them has."""
    k = config.strategy.drawn
    edges = [(name, edge) for name, found in plan.edges.items() for edge in found] if k else []
    name, edge = min(edges, key=lambda place: len(place[1]), default=("", []))
    if len(edge) >= k:
        return []
    choice = plan.choice[name]
    *source, _ = choice.labels[edge[0]].split()
    where = " to ".join([*source, name.removesuffix("_ops")])
    there = ", ".join(choice.labels[unit].split()[-1] for unit in edge)
    sentence = (
        f"{k} sub-graphs need as many operations on every connection, and {where} in {plan.blocks[choice.block]} has "
        f"{len(edge)} ({there}); give at most {len(edge)}, or more operations"
    )
    return [("strategy.sub_graphs", sentence)]


def _joint_problems(config: SearchConfig, plan: Plan, bounds: dict[str, int]) -> list[tuple[str, str]]:
    """Several sizes, each of which can be reached, but by networks with other operations."""
    if not isinstance(config.strategy, DNAConfig) or len(bounds) < 2:
        return []
    layers = rungs(plan)
    shares = dict.fromkeys(groups(layers), min(config.strategy.widths))
    found = [prices(plan, layers, shares, metric) for metric in bounds]
    rows = [
        [Candidate(rating=0.0, costs=costs) for costs in zip(*(one.options[at] for one in found), strict=True)]
        for at in range(len(layers))
    ]
    if best(rows, [bound - one.fixed for bound, one in zip(bounds.values(), found, strict=True)]):
        return []
    sizes = " and ".join(sized(metric, size) for metric, size in bounds.items())
    field = f"target.limits.{list(bounds)[1]}"
    return [(field, f"no network with one operation a layer is within {sizes} at once; give more of one of them")]


def _block_problems(config: SearchConfig, plan: Plan, train: int) -> list[tuple[str, str]]:
    """No image to rate by, or more candidates of a block, or of networks of widths, than can be looked at."""
    if not isinstance(config.strategy, DNAConfig):
        return []
    found, method = [], config.strategy
    if train >= FEWEST and not splits.held_for_decisions(train, method.held_out):
        found.append(
            (
                "strategy.decision_fraction",
                f"no image of {train} is left to rate candidates by; hold out more, or add images",
            )
        )
    largest = fullest(plan, method.ends(config.space))
    many = len(method.widths) * largest.candidates
    if many > MOST_CANDIDATES:
        found.append(
            (
                "strategy.block_ends",
                f"block {largest.number + 1} has {many:,} candidates, and each has to be rated; give block ends within "
                f"it, or fewer operations, so that no block has more than {MOST_CANDIDATES:,}",
            )
        )
    parts = len(groups(rungs(plan)))
    ways = len(method.widths) ** parts
    if ways > MOST_WAYS:
        found.append(
            (
                "strategy.widths",
                f"{len(method.widths)} widths of {parts} parts between halvings are {ways:,} combinations, each with a "
                f"best network of its own; give fewer, so that they are no more than {MOST_WAYS:,}",
            )
        )
    return found


def fitting_batch(config: SearchConfig, facts: DataFacts, memory_mib: float) -> int | None:
    """The largest batch size whose estimated peak is no more than `memory_mib`.

    None if the estimate is of no help: it finds none, or none smaller than the one that is asked for.
    """
    plan = plan_of(config, facts)
    train = splits.sizes(facts, config.data)["train"]
    fixed, each = _memory(config, plan, train)
    fitting = math.floor((memory_mib - fixed) / each)
    return fitting if 2 <= fitting < batch_size(config, train) else None


def _memory(config: SearchConfig, plan: Plan, train: int) -> tuple[float, float]:
    """MiB of the engine's process at its peak: what it takes whatever the batch, and for each image of one."""
    weights = lowered(plan, {}).params_dense
    held = TWIN_BYTES if config.space.kind == "imported" else 0
    fixed = TORCH_MIB + (weights * (16 + held) + NUMBER_BYTES * _rated_at_once(config, plan, train)) / 2**20
    return fixed, _held(config, plan) * 8 / 2**20


def _rated_at_once(config: SearchConfig, plan: Plan, train: int) -> int:
    """Numbers that are there while candidates are rated: what each layer of a block makes of all images for that."""
    if not isinstance(config.strategy, DNAConfig):
        return 0
    return _rated_on(config.strategy, train) * max(
        sum(values(plan, rung.output, {}) for rung in block.rungs) + values(plan, block.border, {})
        for block in divided(plan, config.strategy.ends(config.space))
    )


def _rated_on(method: DNAConfig, train: int) -> int:
    """Images that candidates are rated on: as many as are asked for, if so many are held out."""
    return min(method.rating_images, splits.held_for_decisions(train, method.held_out))


def _held(config: SearchConfig, plan: Plan) -> float:
    """Numbers for one image that are kept for the backward pass, at most.

    Of a teacher, which is the whole space at once, and of a known model nothing is computed twice; of paths that are
    drawn neither. It is theirs, or what is left for whatever trains the whole network after them, within its share.
    """
    values = activations(plan, plan.layers, {})
    if config.retrain.teacher != "none" or config.space.kind == "imported":
        return values
    if not config.strategy.drawn:
        return values * config.runtime.memory_share
    paths = config.strategy.drawn_at_once * activations(plan, widest_path(plan), {})
    if isinstance(config.strategy, DNAConfig):
        return paths * (
            2 * config.strategy.paths if config.strategy.recipe == "dna++" else _widest_teacher(config.strategy)
        )
    left = _left(config, plan)
    return max(paths, values * (min(left, config.runtime.memory_share) if config.strategy.rounds > 1 else left))


def _widest_teacher(method: DNAConfig) -> float:
    """In channels of the space."""
    return method.growth if method.generations > 1 else 1.0


def _left(config: SearchConfig, plan: Plan) -> float:
    """Share of the network that is left once operations were drawn and chosen; all, where sizes are not yet known."""
    if config.target.metric == LATENCY:
        return 1.0
    full = lowered(plan, {}).size(config.target.metric)
    share = config.target.family(full)[0] / full
    return min(1.0, math.pow(share, 1 / config.strategy.rounds))


def _estimate(
    config: SearchConfig, plan: Plan, whole: Architecture, target: int | None, train: int
) -> dict[str, float]:
    values = activations(plan, plan.layers, {})
    batch = batch_size(config, train)
    fixed, each = _memory(config, plan, train)
    step = values * batch * SECONDS_PER_VALUE
    if config.space.kind == "imported":
        step += len(plan.layers) * SECONDS_PER_MODULE + whole.macs * batch * SECONDS_PER_MAC
    else:
        step += len(plan.layers) * SECONDS_PER_LAYER
    steps = max(1, train // batch)
    networks = 1 + len(config.target.also) + config.baseline.random
    retraining = RETRAIN_SHARE * networks
    if config.retrain.teacher == "full":
        retraining += TEACHER_SHARE + ANSWERS_SHARE * networks
    if isinstance(config.strategy, DNAConfig):
        seconds = _blockwise(config, config.strategy, plan, batch, steps, _rated_on(config.strategy, train))
    else:
        searching = SEARCH_SHARE * step if not config.strategy.drawn else _drawing(config, plan, batch, step)
        seconds = steps * (searching * config.search.epochs + step * retraining * config.retrain.epochs)
    smallest_stored = smallest(plan, config.strategy.granularities, "params")
    stored = target if config.target.metric == "params" else None
    least, most = _file_bytes(whole, stored, smallest_stored, zeros="weight" in config.strategy.granularities)
    return {
        "memory_mib": fixed + each * batch,
        "seconds_cpu": seconds,
        "seconds_least": QUICKEST * seconds,
        "seconds_most": SLOWEST * seconds,
        "bytes_least": least,
        "bytes_most": most,
    }


def _drawing(config: SearchConfig, plan: Plan, batch: int, whole: float) -> float:
    """Seconds of an average search step that runs paths, given those of a step of the whole network.

    Each path is run for the weights and, by fewer images, for the scores.
    """
    method, path = config.strategy, widest_path(plan)
    numbers = activations(plan, path, {}) * batch * SECONDS_PER_VALUE
    paths = method.drawn * (numbers + 2 * len(path) * SECONDS_PER_LAYER)
    after = SEARCH_SHARE * _left(config, plan) * whole
    return (paths + (method.rounds - 1) * after) / method.rounds


def _blockwise(config: SearchConfig, method: DNAConfig, plan: Plan, batch: int, steps: int, rated_on: int) -> float:
    """Seconds of a search that trains teachers, then block by block, rates all candidates and trains what it found."""
    path = widest_path(plan)
    blocks = divided(plan, method.ends(config.space))
    step = activations(plan, path, {}) * batch * SECONDS_PER_VALUE + 2 * len(path) * SECONDS_PER_LAYER
    teachers, epochs = method.teachers(config.retrain.epochs)
    teaching = epochs * step * (bool(teachers) + (method.generations - 1) * method.growth**2)
    views = 2 * method.paths if method.recipe == "dna++" else 1
    of_a_block = views * step * (1 / len(blocks) + FORWARD_SHARE * len(blocks) / (len(blocks) + 1))
    rated = method.generations * len(method.widths) * sum(block.evaluations for block in blocks)
    layers = sum(len(block.rungs) for block in blocks)
    rating = rated * rated_on / batch * FORWARD_SHARE * step / layers
    networks = 1 + config.baseline.random
    trained = teaching + step * networks * config.retrain.epochs
    return steps * (of_a_block * config.search.epochs + trained) + rating


def _file_bytes(whole: Architecture, target: int | None, least: int, *, zeros: bool) -> tuple[int, int]:
    """Least and most of `model.safetensors`: pruned weights stand in it, too, as zeros, and statistics of batch norms.

    Args:
        whole: the full network.
        target: parameters that are not exceeded, if that is the target.
        least: parameters that the smallest network has.
        zeros: whether single weights are pruned.
    """
    norms = [layer for layer in whole.layers if layer["op"] in ("batch_norm", "module")]
    statistics = 2 * sum(layer.get("channels", layer.get("params", 0)) for layer in norms)
    tensors = len(whole.layers) + 3 * len(norms)
    stored = least if target is None else target
    dense = whole.params_dense if zeros or target is None else target
    return NUMBER_BYTES * stored, NUMBER_BYTES * (dense + statistics) + TENSOR_BYTES * tensors
