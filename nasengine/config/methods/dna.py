"""Settings of DNA, where its blocks end, and what both rule out elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from nasengine import models
from nasengine.config.methods.base import Granularity, Method, Rest
from nasengine.config.part import check_once, option
from nasengine.config.spaces import AnySpace, ChainSpace
from nasengine.errors import ConfigError

FEWEST_OF_A_BLOCK = 2
"""Epochs of a block that learns from a teacher, on average."""
USUAL_CANDIDATES = 2500
"""Of a block, unless it is said where blocks end."""
OF_A_LIBRARY = ("teacher_library", "teacher_model", "teacher_weights", "teacher_path", "teacher_image_size")
"""Settings of a teacher that is not the space's own."""
OF_LATER = ("generations", "growth")
"""Settings of the teachers after the first one."""
MOST_SHOWN = 512
"""Pixels a side of the images that a teacher of a library sees."""


class DNAConfig(Method):
    """Block-wise distillation (arXiv 1911.13053, 2403.01326): a teacher's features rate every candidate of a block."""

    kind: Literal["dna"] = option("dna", "The search method.", title="Method", advanced=False)
    recipe: Literal["dna", "dna++"] = option(
        "dna",
        "dna: a trained teacher's maps are what each block learns and is rated by. dna++: no teacher; a block agrees "
        "with a slow twin of itself about other views of an image.",
        title="Recipe",
    )
    teacher: Literal["own", "library"] = option(
        "own",
        "own: the largest network of the space, trained on your images first. library: a model of timm or torchvision "
        "with trained weights, whose maps are brought to the sizes of the blocks'.",
        title="Teacher of the blocks",
    )
    teacher_epochs: int | None = option(
        None, "Epochs of training for a teacher of its own. Empty: as many as the retraining has.",
        title="Teacher's epochs", unit="epochs", empty="as the retraining", ge=1, le=5000,
    )  # fmt: skip
    teacher_library: Literal["timm", "torchvision"] = option(
        "timm", "Whose model the teacher is.", title="Teacher's library"
    )
    teacher_model: str | None = option(
        None, "The teacher, by the name that its library gives it.", title="Teacher's model", empty="none"
    )
    teacher_weights: Literal["pretrained", "file"] = option(
        "pretrained",
        "What the teacher knows: what its library offers, downloaded once, or a safetensors file that holds its state "
        "dict.",
        title="Teacher's weights",
    )
    teacher_path: str | None = option(
        None, "The file that holds the teacher's weights.", title="Teacher's file", empty="no file"
    )
    teacher_image_size: int | None = option(
        None,
        "Images are shown to a teacher of a library with this many pixels a side. Empty: the least at which its maps "
        "are as fine as the blocks'.",
        title="Teacher's image size",
        unit="pixels",
        ge=8,
        le=MOST_SHOWN,
    )
    generations: int = option(
        1,
        "How many teachers follow one another (DNA+): each but the first is what was found with the one before, made "
        "wider and trained.",
        title="Generations",
        ge=1,
        le=5,
    )
    growth: float = option(1.5, "How much wider than the space each further teacher is.", title="Growth", ge=1, le=4)
    block_ends: tuple[int, ...] | None = option(
        None, "Numbers of layers after which a block ends. Empty: where images are halved, and within longer blocks.",
        title="Block ends", strict=False,
    )  # fmt: skip
    widths: tuple[float, ...] = option(
        (1.0,),
        "Shares of the channels that the layers between two halvings may have. Each makes candidates of its own.",
        title="Widths", min_length=1, max_length=4, strict=False,
    )  # fmt: skip
    decision_fraction: float = option(
        0.25, "Share of the training images held out for the rating: neither blocks nor a teacher of its own learn "
        "from them.", title="Decision share", ge=0.05, le=0.5,
    )  # fmt: skip
    rating_images: int = option(
        1000, "How many of these images a rating is over, at most.", title="Rating images", unit="images", ge=16,
        le=20_000,
    )  # fmt: skip

    paths: int = option(
        2, "Without a teacher: paths a step that share no operation, and agree with each other.", title="Paths",
        ge=1, le=16,
    )  # fmt: skip
    dispersion: float = option(
        1.0,
        "Without a teacher: how much it counts if different images are told apart too little. 0: they may all look "
        "alike.",
        title="Dispersion",
        ge=0,
        le=100,
    )

    stage_shares: ClassVar[None] = None
    idle: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
        "recipe": {"dna": ("paths", "dispersion"), "dna++": ("teacher", "teacher_epochs", *OF_A_LIBRARY, *OF_LATER)},
        "teacher": {"own": OF_A_LIBRARY},
        "teacher_weights": {"pretrained": ("teacher_path",)},
        "generations": {"1": ("growth",)},
    }

    @model_validator(mode="after")
    def teacher_and_widths_are_sound(self) -> Self:
        if self.recipe == "dna++" and self.teacher == "library":
            raise ConfigError.at("strategy.teacher", "dna++ has no teacher; leave it at own, or use the recipe dna")
        if self.recipe == "dna++" and self.generations > 1:
            raise ConfigError.at(
                "strategy.generations", "without teachers there is one generation; give 1, or use the recipe dna"
            )
        if self.teacher == "library":
            self._check_library()
        elif self.teacher_model or self.teacher_path:
            field = "teacher_model" if self.teacher_model else "teacher_path"
            mend = "" if self.recipe == "dna++" else ", or use library"
            raise ConfigError.at(
                f"strategy.{field}", f"a teacher of its own has neither model nor file; leave it empty{mend}"
            )
        for width in self.widths:
            if not 0.25 <= width <= 1:
                raise ConfigError.at("strategy.widths", f"{width:g} is out of range; give shares from 0.25 to 1")
        check_once("strategy.widths", self.widths, "width")
        if self.block_ends is not None and list(self.block_ends) != sorted(set(self.block_ends)):
            raise ConfigError.at("strategy.block_ends", "give each block end once, in rising order")
        return self

    def _check_library(self) -> None:
        if not self.teacher_model:
            raise ConfigError.at(
                "strategy.teacher_model", "a teacher of a library needs its name; give one, or use own"
            )
        if problem := models.unknown(self.teacher_library, self.teacher_model):
            raise ConfigError.at("strategy.teacher_model", problem)
        if self.teacher_weights == "file" and not self.teacher_path:
            raise ConfigError.at("strategy.teacher_path", "weights of a file need its path; give one, or other weights")
        if self.teacher_weights != "file" and self.teacher_path:
            raise ConfigError.at("strategy.teacher_path", "pretrained weights take no file; leave it out, or use file")

    @property
    def granularities(self) -> tuple[Granularity, ...]:
        """Levels at which units may be pruned."""
        return ("operation",) if set(self.widths) == {1.0} else ("operation", "filter")

    @property
    def drawn(self) -> int:
        return 1

    @property
    def held_out(self) -> float:
        return self.decision_fraction

    def teachers(self, retrain_epochs: int) -> tuple[int, int]:
        if self.recipe == "dna++":
            return 0, 0
        return self.generations - (self.teacher == "library"), self.teacher_epochs or retrain_epochs

    def ends(self, space: AnySpace) -> tuple[int, ...]:
        """Numbers of layers of a chain after which blocks end, the last one included.

        At the halvings, and evenly within what would have more than `USUAL_CANDIDATES` there.
        """
        assert isinstance(space, ChainSpace)
        if self.block_ends is not None:
            return (*self.block_ends, space.layers)
        borders = [0, *(place for place in space.reduction_places if place > 0), space.layers]
        found: list[int] = []
        for first, last in itertools.pairwise(borders):
            parts = 1
            while (space.operations + 1) ** -(-(last - first) // parts) > USUAL_CANDIDATES and parts < last - first:
                parts += 1
            found += [first + -(-(last - first) * part // parts) for part in range(1, parts + 1)]
        return tuple(found)

    def repetitions(self, space: AnySpace) -> int:
        return self.generations * len(self.ends(space)) if isinstance(space, ChainSpace) else 1

    def check_search(self, config: Rest) -> None:
        space = config.space
        assert isinstance(space, ChainSpace)
        for end in self.block_ends or ():
            if not 0 < end < space.layers:
                raise ConfigError.at(
                    "strategy.block_ends",
                    f"a block cannot end after layer {end} of {space.layers}; use 1 to {space.layers - 1}",
                )
        for place in space.reduction_places:
            if self.block_ends is not None and place and place not in self.block_ends:
                raise ConfigError.at(
                    "strategy.block_ends", f"images are halved at layer {place}, and no block ends there; end one there"
                )
        stages = self.repetitions(space)
        if config.search.epochs < FEWEST_OF_A_BLOCK * stages:
            blocks = stages // self.generations
            many = f"{blocks} block{'s' * (blocks > 1)}"
            if self.generations > 1:
                many += f", each taught by {self.generations} teachers"
            there = [word for word, ones in (("block ends", self.block_ends), ("generations", stages > blocks)) if ones]
            mend = f"use at least {FEWEST_OF_A_BLOCK * stages}" + f", or fewer {' or '.join(there)}" * bool(there)
            raise ConfigError.at("search.epochs", f"{config.search.epochs} is too few for {many}; {mend}")
        if config.target.also:
            raise ConfigError.at(
                "target.also",
                "DNA ends with one network, and its page shows what other targets would take; leave it empty",
            )
        if config.runtime.compile:
            raise ConfigError.at(
                "runtime.compile", "DNA runs other operations at each step, which cannot be compiled; leave it off"
            )
        if config.retrain.teacher != "none":
            why = "DNA has a teacher of its own, which the blocks learn from"
            if self.recipe == "dna++":
                why = "the whole space would be that teacher, and dna++ never trains all operations of a layer at once"
            raise ConfigError.at("retrain.teacher", f"{why}; leave it at none")
        trained, epochs = self.teachers(config.retrain.epochs)
        if trained and not epochs:
            raise ConfigError.at(
                "strategy.teacher_epochs", "a teacher that is not trained knows nothing; give some epochs"
            )
        if not config.retrain.epochs and (
            self.teacher == "library" or self.generations > 1 or self.recipe == "dna++" or self.widths != (1.0,)
        ):
            raise ConfigError.at(
                "retrain.epochs",
                "blocks that no network of their own kind and width has taught do not answer images before they are "
                "trained together; give some epochs",
            )
