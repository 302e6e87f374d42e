"""Settings of DMS."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from nasengine.config.methods.base import Method
from nasengine.config.part import check_once, option
from nasengine.config.training import MOST_EPOCHS


class DMSConfig(Method):
    """Differentiable model scaling (arXiv 2405.07194): how many stay of each kind is learned, importance says which."""

    kind: Literal["dms"] = option("dms", "The search method.", title="Method", advanced=False)
    recipe: Literal["scale", "prune", "gates"] = option(
        "scale",
        "scale: weights and ratios learn together. The others begin with trained weights. prune: the same at a tenth "
        "of the learning rate. gates: ratios alone learn, which takes minutes; the retraining may have 0 epochs.",
        title="Recipe",
    )
    granularities: tuple[Literal["operation", "filter"], ...] = option(
        ("operation", "filter"),
        "Levels at which units may be pruned. Single weights are not: what is found is small without zeros.",
        title="Levels",
        min_length=1,
        strict=False,
    )
    importance: Literal["fisher", "taylor"] = option(
        "fisher",
        "What ranks the units of a choice, as a moving average. fisher: the squared slope of the loss in a unit's "
        "mask. taylor: the same times the mask, as published; what is masked out is then soon forgotten.",
        title="Importance",
    )
    warmup_fraction: float = option(
        0.1, "Share of the search in which nothing goes yet and units are observed; at least one epoch.",
        title="Warm-up share", ge=0, le=0.8,
    )  # fmt: skip
    decay_fraction: float = option(
        0.8,
        "Share of the time after the warm-up in which the size falls to its target. In the rest operations are settled "
        "and widths alone move.",
        title="Share of the descent",
        gt=0,
        le=1,
    )
    pressure: float = option(
        1.0,
        "Least weight of the size in the loss, as long as the network is too large. It grows where the size does not "
        "follow.",
        title="Pressure",
        ge=0.01,
        le=100,
    )
    commit_every: int = option(
        2, "Prune for good what is far from staying, every so many epochs.", title="Commit every", unit="epochs",
        ge=1, le=MOST_EPOCHS,
    )  # fmt: skip

    stage_shares: ClassVar[None] = None

    @property
    def wants_trained(self) -> bool:
        return self.recipe != "scale"

    @model_validator(mode="after")
    def levels_are_sound(self) -> Self:
        check_once("strategy.granularities", self.granularities, "level")
        return self
