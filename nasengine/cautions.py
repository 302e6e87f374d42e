"""What makes a search hopeless before it starts: sentences that warn and forbid nothing. No torch.

Each says what, why, and how to mend it. What counts as too little was either measured (``benchmarks/RESULTS.md``) or
follows from the numbers that the sentence gives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from nasengine import catalogue, splits
from nasengine.architecture import Plan, operation_sizes
from nasengine.blocks import fullest
from nasengine.config import (
    FEWEST_EPOCHS,
    FEWEST_PIXELS,
    MOST_EPOCHS,
    PRESETS,
    DNAConfig,
    RuntimeConfig,
    SearchConfig,
)
from nasengine.durations import duration
from nasengine.names import brief
from nasengine.sizes import TOLERANCE, amount, sized
from nasengine.splits import DataFacts

FEW_A_CLASS = 20
"""Training images of a class below which a network mostly learns those very images."""
UNEQUAL = 10
"""How many times as many images as the rarest class the most frequent one may have."""
FEW_TO_TEST = 100
"""Test images below which one standard error of an accuracy is more than five points."""
LITTLE, MUCH = 0.02, 0.9
"""Shares of what can be chosen between which a target leaves the search something to do; measured were 0.05 to 0.6."""
MEASURED_EPOCHS = 6
"""Of each stage in the shortest searches that were measured."""
QUICK_STEPS = 336
"""Of the weights in a quick search of the digits, the shortest whose accuracy is known to be good."""
MANY_CANDIDATES = 10_000
"""Of a block; the method's authors rate up to 1,296."""
DAY = 86_400

Caution = tuple[str, str]
"""Dotted field and sentence."""


def cautions(
    config: SearchConfig,
    plan: Plan,
    facts: DataFacts,
    *,
    reach: Mapping[str, tuple[int, int]],
    family: Sequence[int],
    limits: Mapping[str, int],
    steps: int,
    seconds: float,
) -> list[Caution]:
    """What may well go wrong with a search that can start.

    Args:
        config: what is asked for.
        plan: its full space.
        facts: of the images.
        reach: metric -> smallest and full size of the space, of the target's metric and of those that are limited.
        family: all targets, as numbers; none where sizes are not known yet.
        limits: further metric -> what is not to be exceeded.
        steps: of the weights in an epoch of the search.
        seconds: estimate for one CPU core.
    """
    sizes: list[tuple[str, int]] = []
    if family:  # of times none is known yet
        target = config.target.resolved(reach[config.target.metric][1])
        sizes = [("target.value", target)] + [("target.also", size) for size in family if size != target]
    bounds: list[tuple[str, str, int]] = [(field, config.target.metric, size) for field, size in sizes]
    bounds += [(f"target.limits.{metric}", metric, size) for metric, size in limits.items()]
    return [
        *_images(config, facts),
        *_size_of_images(config),
        *(caution for field, size in sizes for caution in _edge(field, config.target.metric, size, reach)),
        *(
            caution
            for field, metric, size in bounds
            if metric == "params"
            for caution in _head(config, field, size, plan)
        ),
        *(caution for field, size in sizes for caution in _coarse(config, field, size, plan)),
        *_length(config, steps),
        *_many_candidates(config, plan),
        *_time(config, seconds),
        *_memory(config),
    ]


def _images(config: SearchConfig, facts: DataFacts) -> Iterator[Caution]:
    counts = splits.counts(facts, config.data)
    train, tested = counts["train"], sum(counts["test"])
    field, more = _where_more(config, facts)
    few = sum(n < FEW_A_CLASS for n in train)
    least, most = min(train), max(train)
    rare, frequent = (brief(facts.class_names[train.index(n)]) for n in (least, most))
    images = f"{least:,} training image{'' if least == 1 else 's'}"
    why = "a network learns such few by heart instead of what they share"
    if few == 1:
        yield field, f"'{rare}' has {images}: {why}; {more} to have {FEW_A_CLASS} or more of it"
    elif few:
        yield (
            field,
            f"{f'{few:,} of' if few < len(train) else 'all'} {len(train):,} classes have fewer than {FEW_A_CLASS} "
            f"training images ('{rare}' has {least:,}): {why}; {more}, or leave classes out",
        )
    if least and most >= UNEQUAL * least:
        yield (
            "data.dataset",
            f"'{frequent}' has {most:,} training images, '{rare}' {least:,}: answering '{frequent}' to everything is "
            f"right for {100 * most / sum(train):.0f} % of them, and such a class drowns the others; give the classes "
            "more equal numbers of images",
        )
    if 0 < tested < FEW_TO_TEST:
        error = 50 / math.sqrt(tested)
        yield (
            "data.dataset" if any(facts.given.get("test", ())) else "data.test_fraction",
            f"{tested:,} test image{'' if tested == 1 else 's'} tell accuracy to about ±{error:.0f} points only; add "
            f"images, or hold out more for the test, until it has {FEW_TO_TEST} or more",
        )


def _where_more(config: SearchConfig, facts: DataFacts) -> tuple[str, str]:
    """What holds the number of training images down, and what raises it."""
    unlimited = splits.counts(facts, config.data.model_copy(update={"limit": None}))["train"]
    if config.data.limit is not None and min(unlimited) >= FEW_A_CLASS:
        return "data.limit", "raise the limit"
    return "data.dataset", "add images"


def _size_of_images(config: SearchConfig) -> Iterator[Caution]:
    known, asked = catalogue.DATASETS.get(config.data.dataset), config.data.image_size
    needed = FEWEST_PIXELS if config.space.kind == "imported" else 0
    if known is not None and asked > max(known.image_size, needed):
        yield (
            "data.image_size",
            f"the images have {known.image_size} pixels a side: at {asked} they show no more and take "
            f"{(asked / known.image_size) ** 2:.2g} times the work; give {known.image_size}",
        )


def _edge(field: str, metric: str, size: int, reach: Mapping[str, tuple[int, int]]) -> Iterator[Caution]:
    least, full = reach[metric]
    share = (size - least) / max(1, full - least)
    if 0 <= share < LITTLE:
        yield (
            field,
            f"{sized(metric, size)} are hardly above the smallest network ({amount(metric, least)}): nearly everything "
            f"has to go, whatever it is worth; give {amount(metric, least + LITTLE * (full - least), math.ceil)} or "
            "more, or a smaller space",
        )
    elif full >= size > MUCH * full:
        yield (
            field,
            f"{sized(metric, size)} are {100 * size / full:.0f} % of the whole space, so hardly anything is "
            "pruned; in our benchmark searching led random networks by 5.7 points of accuracy at 5 %, by 1.6 at 30 %; "
            f"give less, such as {amount(metric, 0.3 * full, math.floor)}",
        )


def _head(config: SearchConfig, field: str, size: int, plan: Plan) -> Iterator[Caution]:
    """More classes than the rest of a network of this size can serve: the last layer alone takes most of it."""
    layer = plan.layer[plan.exits[-1]]
    classes = plan.width(layer.name)
    narrow = "filter" in config.strategy.granularities
    features = sum(
        plan.choice[group].floor if narrow and group in plan.choice else plan.groups[group]
        for group in plan.reads(layer)
    )
    head = (features + 1) * classes
    if 2 * head > size:
        yield (
            field,
            f"for {classes:,} classes the last layer alone takes {head:,} of the {size:,} parameters, however much is "
            f"pruned: little is left to look at images with; give {2 * head:,} or more, fewer classes, or fewer "
            "channels",
        )


def _coarse(config: SearchConfig, field: str, size: int, plan: Plan) -> Iterator[Caution]:
    """Where operations alone go, sizes move by whole operations; skips and pools take next to nothing."""
    metric = config.target.metric
    if set(config.strategy.granularities) != {"operation"} or isinstance(config.strategy, DNAConfig):
        return
    taken = operation_sizes(plan, metric)
    step = min((taken[name, unit] for name, units in plan.active.items() for unit in units), default=0)
    if step > TOLERANCE * size:
        yield (
            field,
            f"only whole operations are pruned, and the smallest convolution takes {sized(metric, step)}, "
            f"{100 * step / size:.0f} % of the target: the network may end so far below it; {config.strategy.finer}",
        )


def _length(config: SearchConfig, steps: int) -> Iterator[Caution]:
    stages, further = len(config.cuts) + config.strategy.rounds, len(config.target.also)
    epochs = config.search.epochs
    own = epochs - FEWEST_EPOCHS * further
    or_fewer = ", or fewer stage ends" if config.cuts else ""
    if own < MEASURED_EPOCHS * stages:
        yield (
            "search.epochs",
            f"{own} epochs for {stages} stage{'s' * (stages > 1)} are {own / stages:.2g} each, fewer than in any "
            f"search we measured ({MEASURED_EPOCHS}): what has not gone by a stage's end is cut at once; give "
            f"{MEASURED_EPOCHS * stages + FEWEST_EPOCHS * further} or more{or_fewer}",
        )
    if 2 * epochs * steps < QUICK_STEPS:
        enough = min(MOST_EPOCHS, math.ceil(QUICK_STEPS / steps))
        yield (
            "search.epochs",
            f"{epochs} epochs of so few images are {epochs * steps} steps of training, less than half of the "
            f"{QUICK_STEPS} in a quick search of the digits, the shortest we measured; give {enough:,} epochs, or add "
            "images",
        )


def _many_candidates(config: SearchConfig, plan: Plan) -> Iterator[Caution]:
    if not isinstance(config.strategy, DNAConfig):
        return
    largest = fullest(plan, config.strategy.ends(config.space))
    many = len(config.strategy.widths) * largest.candidates
    if many > MANY_CANDIDATES:
        yield (
            "strategy.block_ends",
            f"block {largest.number + 1} has {many:,} candidates, which share what a few epochs teach; give block ends "
            f"within it, so that no block has more than {MANY_CANDIDATES:,}",
        )


def _time(config: SearchConfig, seconds: float) -> Iterator[Caution]:
    if config.runtime.device != "cuda" and seconds > DAY:
        yield (
            "preset",
            f"without a GPU this takes {duration(seconds)} on one processor core; choose less effort, smaller images, "
            "or a limit on the images",
        )


def _memory(config: SearchConfig) -> Iterator[Caution]:
    """A share of memory that was asked for, where nothing heeds it: paths keep all that they compute."""
    method, given = config.strategy, config.runtime.memory_share
    usual = PRESETS[config.preset].get("runtime", {}).get("memory_share", RuntimeConfig().memory_share)
    if method.drawn and method.rounds == 1 and given != usual:
        label = catalogue.STRATEGIES[method.kind].label
        yield (
            "runtime.memory_share",
            f"{label} alone keeps all that its sub-graphs compute, so a share of {given:g} changes nothing; where "
            f"memory is short {method.leaner}",
        )
