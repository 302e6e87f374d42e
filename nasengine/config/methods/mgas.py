"""Settings of MGAS, and where its early stages end."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from nasengine.config.methods.base import Granularity, Method
from nasengine.config.part import check_once, option
from nasengine.config.spaces import AnySpace, ImportedSpace
from nasengine.config.training import MOST_EPOCHS
from nasengine.errors import ConfigError

CONSTANT_COST = 0.1
SHORT_SEARCH = 24
"""Epochs below which a search has one early stage only, whatever the space: more would leave each too little."""


class MGASConfig(Method):
    """Multi-granularity architecture search (arXiv 2310.15074)."""

    kind: Literal["mgas"] = option("mgas", "The search method.", title="Method", advanced=False)
    granularities: tuple[Granularity, ...] = option(
        ("operation", "filter", "weight"),
        "Levels at which units may be pruned.",
        title="Levels",
        min_length=1,
        strict=False,
    )
    cuts: tuple[int, ...] | None = option(
        None, "Numbers of blocks after which an early stage ends; the last has all. Empty: at the reductions, or "
        "in the middle if the search has fewer than 24 epochs.",
        title="Stage ends", strict=False,
    )  # fmt: skip
    recipe: Literal["coppice", "published"] = option(
        "coppice",
        "coppice: decisions on held-out images, size in the loss, all levels regrow. published: the paper's schedule.",
        title="Recipe",
    )
    ratios: Literal["learned", "equal"] = option(
        "learned",
        "learned: how much each part of the network keeps follows from the thresholds. equal: every choice of a level "
        "keeps the same share of its units, for comparison.",
        title="Shares that stay",
    )
    stage_shares: tuple[float, ...] | None = option(
        None,
        "Share of its full size that each early stage may keep, one a stage end. Empty: follows from the target.",
        title="Stage shares",
        strict=False,
    )
    warmup_fraction: float = option(
        0.2, "Share of each stage that trains weights only; at least one epoch.", title="Warm-up share", ge=0, le=0.8
    )
    decision_fraction: float = option(
        0.25,
        "Share of the training images held out for decisions: once pruning begins, scores and thresholds learn from "
        "them alone, and what returns is judged by them. 0: no such split.",
        title="Decision share",
        ge=0,
        le=0.5,
    )
    constant_cost: float = option(
        CONSTANT_COST,
        "What each operation and filter costs besides its own size, as a share of what is usual. More of it leaves "
        "fewer skips and pools, which cost nothing else.",
        title="Constant cost",
        ge=0.01,
        le=10,
    )
    commit_every: int = option(
        2, "Prune for good every so many epochs.", title="Commit every", unit="epochs", ge=1, le=MOST_EPOCHS
    )
    regrow_fraction: float = option(
        0.15,
        "Share of the pruned units that get a second chance, each time. Worth 0 to 2 points in our benchmark: no more "
        "than chance may do.",
        title="Regrown share",
        ge=0,
        le=0.5,
    )
    regrow_levels: tuple[Granularity, ...] = option(
        ("operation", "filter", "weight"), "Levels at which units may return.", title="Regrown levels", strict=False
    )
    regrow_every: int | None = option(
        None,
        "Let units return every so many epochs of a later stage, too. Empty: only after each early stage.",
        title="Regrow every",
        unit="epochs",
        empty="only after early stages",
        ge=1,
        le=MOST_EPOCHS,
    )
    protect_epochs: int = option(
        1, "Epochs of pruning in which what returned cannot be switched off again.", title="Protection",
        unit="epochs", ge=0, le=MOST_EPOCHS,
    )  # fmt: skip

    @model_validator(mode="after")
    def levels_and_cuts_are_sound(self) -> Self:
        check_once("strategy.granularities", self.granularities, "level")
        check_once("strategy.regrow_levels", self.regrow_levels, "level")
        for share in self.stage_shares or ():
            if not 0 < share <= 1:
                raise ConfigError.at(
                    "strategy.stage_shares", f"{share:g} is out of range; give shares above 0 and up to 1"
                )
        if self.recipe == "published" and self.ratios != "learned":
            raise ConfigError.at("strategy.ratios", "the published recipe knows learned ones alone; use learned")
        if self.recipe == "published" and self.constant_cost != CONSTANT_COST:
            raise ConfigError.at("strategy.constant_cost", "the published recipe knows no such cost; leave it empty")
        if self.recipe == "published" and self.regrow_every is not None:
            raise ConfigError.at(
                "strategy.regrow_every", "by the published recipe units return after early stages alone; leave it empty"
            )
        if self.cuts is not None and list(self.cuts) != sorted(set(self.cuts)):
            raise ConfigError.at("strategy.cuts", "give each stage end once, in rising order")
        return self

    def stage_ends(self, space: AnySpace, epochs: int) -> tuple[int, ...]:
        """Numbers of blocks after which early stages end: in the middle for short searches, else at reductions."""
        if self.cuts is not None:
            return self.cuts
        if isinstance(space, ImportedSpace):
            return ()
        if epochs < SHORT_SEARCH:
            return (space.depth // 2,)
        return tuple(place for place in space.reduction_places if place > 0)

    @property
    def held_out(self) -> float:
        return self.decision_fraction if self.recipe == "coppice" else 0.0
