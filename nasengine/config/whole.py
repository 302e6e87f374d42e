"""The whole configuration: its parts, and whether they agree with each other."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from nasengine import catalogue
from nasengine.config.images import DataConfig
from nasengine.config.methods import METHODS, AnyMethod
from nasengine.config.methods.mgas import MGASConfig
from nasengine.config.part import Part, option
from nasengine.config.spaces import SPACES, AnySpace, CellsSpace
from nasengine.config.target import TargetConfig
from nasengine.config.training import BaselineConfig, RetrainConfig, RuntimeConfig, SearchPlan
from nasengine.errors import ConfigError
from nasengine.names import CONTROL, shown

Preset = Literal["quick", "standard", "thorough"]

HIGHEST_SEED = 2**31 - 1
FEWEST_EPOCHS = 4
"""Of a stage, on average."""

KINDS: dict[str, dict[str, Any]] = {"space": SPACES, "strategy": METHODS}
"""Parts that have a choice of kinds."""


class SearchConfig(Part):
    """Everything that decides a search; equal configurations give equal networks."""

    name: str = option("", "A name to find it again.", title="Name", advanced=False, max_length=80)
    seed: int = option(0, "Equal seeds give equal results.", title="Seed", ge=0, le=HIGHEST_SEED)
    preset: Preset = option("quick", "How much effort: minutes, hours or days.", title="Effort", advanced=False)
    data: DataConfig = Field(default_factory=DataConfig)
    space: Annotated[AnySpace, Field(discriminator="kind")] = Field(default_factory=CellsSpace)
    strategy: Annotated[AnyMethod, Field(discriminator="kind")] = Field(default_factory=MGASConfig)
    target: TargetConfig = Field(default_factory=TargetConfig)
    search: SearchPlan = Field(default_factory=SearchPlan)
    retrain: RetrainConfig = Field(default_factory=RetrainConfig)
    baseline: BaselineConfig = Field(default_factory=BaselineConfig)
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig)

    @model_validator(mode="after")
    def parts_agree(self) -> Self:
        entry = catalogue.STRATEGIES[self.strategy.kind]
        if self.space.kind not in entry.spaces:
            several = "s" * (len(entry.spaces) > 1)
            raise ConfigError.at(
                "strategy.kind",
                f"{entry.label} searches the space{several} {', '.join(entry.spaces)}, not {self.space.kind}; "
                f"choose {' or '.join(entry.spaces)} as the space, or another method",
            )
        if self.strategy.wants_trained and not self.space.begins_trained:
            raise ConfigError.at(
                "strategy.recipe",
                f"'{self.strategy.recipe}' begins with trained weights, and here they are random; use scale, or a "
                "known model with weights",
            )
        depth = self.space.depth
        if self.runtime.compile and self.space.kind == "imported":
            raise ConfigError.at("runtime.compile", "a known model is not compiled while it is searched; leave it off")
        self.strategy.check_search(self)
        if self.cuts and not self.space.stops_early:
            raise ConfigError.at(
                "strategy.cuts", "a model of a library has no exits before its end; leave the stage ends empty"
            )
        for cut in self.cuts:
            if not 0 < cut < depth:
                raise ConfigError.at(
                    "strategy.cuts", f"a stage cannot end after block {cut} of {depth}; use 1 to {depth - 1}"
                )
        shares = self.strategy.stage_shares
        if shares is not None and len(shares) != len(self.cuts):
            raise ConfigError.at(
                "strategy.stage_shares", f"{len(shares)} shares for {len(self.cuts)} early stages; give one for each"
            )
        stages = len(self.cuts) + self.strategy.rounds + len(self.target.also)
        if self.search.epochs < FEWEST_EPOCHS * stages:
            raise ConfigError.at(
                "search.epochs",
                f"{self.search.epochs} is too few for {stages} stage{'s' * (stages > 1)}; use at least "
                f"{FEWEST_EPOCHS * stages}{self.or_fewer}",
            )
        if CONTROL.search(self.name):
            raise ConfigError.at("name", f"'{shown(self.name)}' has control characters; write it without them")
        self.space.check_images(self.data.image_size)
        return self

    @property
    def or_fewer(self) -> str:
        """What else shortens a search that has too few epochs for its stages; empty if nothing does."""
        there = [word for word, ones in (("stage ends", self.cuts), ("further targets", self.target.also)) if ones]
        return f", or fewer {' and '.join(there)}" if there else ""

    @property
    def cuts(self) -> tuple[int, ...]:
        """Numbers of blocks after which the early stages end."""
        return self.strategy.stage_ends(self.space, self.search.epochs - FEWEST_EPOCHS * len(self.target.also))
