"""What a person may ask for: SearchConfig and its parts, every bound and help text once.

Form, API and command line all read these fields. `parse` is the only way in: it fills what is left out from the
preset and turns what is wrong into one ConfigError that names each field and its mend. Checks that need the data are
in ``outlook``.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nasengine import catalogue, models
from nasengine.errors import ConfigError
from nasengine.names import CONTROL, brief, shown
from nasengine.refusals import named, refusal
from nasengine.sizes import LATENCY, unit

Preset = Literal["quick", "standard", "thorough"]
Granularity = Literal["operation", "filter", "weight"]
Candidate = Literal[
    "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5", "avg_pool_3x3", "max_pool_3x3"
]

CANDIDATES: tuple[Candidate, ...] = (
    "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5", "avg_pool_3x3", "max_pool_3x3",
)  # fmt: skip

USUAL_BATCH, SMALL_BATCH, FEW_IMAGES = 64, 32, 8000
"""Images a step; the small batch where there are so few that the number of steps is what limits training."""
HIGHEST_SEED = 2**31 - 1
MOST_EPOCHS = 2000
WIDEST = 1024
"""Channels after all halvings; looking ahead takes seconds there."""
MOST_SIDE = 16
"""Pixels a side of the largest maps that an attention looks at: how much it keeps grows with the fourth power."""
NO_AMOUNT = "is neither a number nor a percentage; write for example 20000 or 40%"
MOST_PROBLEMS = 50
"""Said at once."""
FEWEST_PIXELS = 32
"""Of images for a known model, unless it is said otherwise: most of them halve images five times."""
FEWEST_EPOCHS = 4
"""Of a stage, on average."""
FEWEST_OF_A_BLOCK = 2
"""The same of a block that learns from a teacher."""
USUAL_CANDIDATES = 2500
"""Of a block, unless it is said where blocks end."""
CONSTANT_COST = 0.1
FINE_LR = 0.005
"""Of weights that are trained already: a tenth of what fresh ones begin with."""
SHORT_SEARCH = 24
"""Epochs below which a search has one early stage only, whatever the space: more would leave each too little."""
PRESET_PARTS = {"data": "", "space": "cells", "strategy": "mgas", "search": "", "retrain": "", "runtime": ""}
"""Parts that a preset fills in, with the kind that is meant if none is given."""

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "quick": {
        "data": {"image_size": 16},
        "cells": {"cells": 4, "channels": 8, "nodes": 2, "reductions": (1, 3)},
        "chain": {"layers": 6, "channels": 8, "reductions": (2, 4)},
        "imported": {},
        "mgas": {},
        "dms": {},
        "msgdas": {},
        "dna": {},
        "search": {"epochs": 12},
        "retrain": {"epochs": 20},
        "runtime": {"memory_share": 1.0},
    },
    "standard": {
        "data": {"image_size": 32},
        "cells": {"cells": 8, "channels": 16, "nodes": 3},
        "chain": {"layers": 12, "channels": 16},
        "imported": {},
        "mgas": {},
        "dms": {},
        "msgdas": {},
        "dna": {},
        "search": {"epochs": 50},
        "retrain": {"epochs": 150},
    },
    "thorough": {
        "data": {"image_size": 32},
        "cells": {"cells": 14, "channels": 24, "nodes": 4},
        "chain": {"layers": 18, "channels": 24},
        "imported": {},
        "mgas": {},
        "dms": {},
        "msgdas": {},
        "dna": {},
        "search": {"epochs": 120},
        "retrain": {"epochs": 600},
    },
}
"""What each preset fills in: by part of the configuration, and by kind for the space and the strategy. Sizes and
lengths alone, never the recipe (and where there is memory for all, nothing is computed twice)."""


class Part(BaseModel):
    """Base of every part: frozen, unknown keys refused, numbers never guessed from text."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def option(
    default: Any,
    help_: str,
    *,
    title: str,
    unit: str = "",
    advanced: bool = True,
    empty: str = "automatic",
    **bounds: Any,
) -> Any:
    """A field with its label, help and unit beside its bounds.

    `advanced` ones are folded away in the form; `empty` says in a word what it means to leave it out.
    """
    extra: dict[str, Any] = {"unit": unit, "advanced": advanced, "empty": empty}
    return Field(default, title=title, description=help_, json_schema_extra=extra, **bounds)


class DataConfig(Part):
    """Which images, and how they are split."""

    dataset: str = option(
        "digits", "A built-in data set, or your own as a zip file or folder.", title="Data set", advanced=False
    )
    path: str | None = option(None, "Where the zip file or folder is.", title="Path")
    image_size: int = option(
        32,
        "Images are resized to this many pixels a side.",
        title="Image size",
        unit="pixels",
        ge=8,
        le=256,
        multiple_of=2,
    )
    limit: int | None = option(
        None, "Use at most this many training images (validation included), for a quick trial.",
        title="Limit", unit="images", empty="all", ge=20,
    )  # fmt: skip
    validation_fraction: float = option(
        0.15, "Share of the training images held out to watch progress.", title="Validation share", gt=0, le=0.5
    )
    test_fraction: float = option(
        0.2, "Share held out for the final report, when the data has no test part of its own.",
        title="Test share", gt=0, le=0.5,
    )  # fmt: skip
    crop: bool = option(
        default=True, help_="Shift training images by up to an eighth of their side.", title="Random shifts"
    )
    flip: bool | None = option(
        None, "Mirror training images at random. Empty: yes, unless the data set is known to mind.", title="Mirror"
    )

    @model_validator(mode="after")
    def path_goes_with_files(self) -> Self:
        known = [*catalogue.DATASETS, *catalogue.FILE_DATASETS]
        if self.dataset not in known:
            raise ConfigError.at(
                "data.dataset", f"'{self.dataset}' is not a known data set{_meant(self.dataset, known)}"
            )
        if self.dataset in catalogue.FILE_DATASETS and not self.path:
            raise ConfigError.at(
                "data.path", f"a data set of kind '{self.dataset}' needs the path of the {self.dataset}"
            )
        if self.dataset in catalogue.DATASETS and self.path:
            raise ConfigError.at(
                "data.path", f"'{self.dataset}' is built in and takes no path; leave it out, or use zip or folder"
            )
        return self


class BlocksSpace(Part, ABC):
    """Base of the spaces of our own: blocks in a row, some of which halve the image and double the channels."""

    stops_early: ClassVar[bool] = True
    """Whether blocks in the middle have an exit of their own, at which a stage can end."""
    begins_trained: ClassVar[bool] = False
    """Whether its weights were trained before the search begins."""

    @property
    @abstractmethod
    def depth(self) -> int:
        """Blocks that a stage may end after."""

    @property
    def reduction_places(self) -> tuple[int, ...]:
        """The blocks that halve the image, DARTS's thirds unless set."""
        return _thirds(self.depth) if self.reductions is None else self.reductions  # type: ignore[attr-defined]

    def check_images(self, image_size: int) -> None:
        """Raises ConfigError unless images of this many pixels can be halved so often, and channels doubled."""
        halvings, channels = len(self.reduction_places), self.channels  # type: ignore[attr-defined]
        if image_size >> halvings < 2:
            raise ConfigError.at(
                "data.image_size",
                f"{image_size} pixels are too few for {halvings} halvings; use at least {2 << halvings}, "
                "or fewer reductions",
            )
        if channels << halvings > WIDEST:
            raise ConfigError.at(
                "space.channels",
                f"{channels} channels, doubled {halvings} times, are more than {WIDEST:,}; use at most "
                f"{WIDEST >> halvings}, or fewer reductions",
            )


class CellsSpace(BlocksSpace):
    """The cells space: DARTS-like cells, each with decisions of its own."""

    kind: Literal["cells"] = option("cells", "The kind of space.", title="Kind", advanced=False)
    cells: int = option(8, "How many cells stand one after the other.", title="Cells", ge=2, le=20)
    channels: int = option(
        16,
        "Channels of each node in the first cells; doubled at each reduction.",
        title="Channels",
        ge=4,
        le=64,
        multiple_of=2,
    )
    nodes: int = option(
        3,
        "Inner nodes of a cell; each may read the cell's two inputs and all earlier nodes.",
        title="Nodes",
        ge=1,
        le=4,
    )
    candidates: tuple[Candidate, ...] = option(
        CANDIDATES, "Operations that each connection may hold.", title="Operations", min_length=1, strict=False
    )
    reductions: tuple[int, ...] | None = option(
        None,
        "Cells (counted from 0) that halve the image. Empty: at one third and two thirds.",
        title="Reductions",
        strict=False,
    )

    @model_validator(mode="after")
    def reductions_are_cells(self) -> Self:
        _check_reductions(self.reduction_places, self.cells, "cell")
        _check_once("space.candidates", self.candidates, "operation")
        return self

    @property
    def depth(self) -> int:
        """Blocks that a stage may end after."""
        return self.cells


class ChainSpace(BlocksSpace):
    """The chain space: MobileNet-like, one inverted bottleneck (MBConv) after the other."""

    kind: Literal["chain"] = option("chain", "The kind of space.", title="Kind", advanced=False)
    layers: int = option(12, "How many layers stand one after the other.", title="Layers", ge=2, le=40)
    channels: int = option(
        16, "Channels of the first layers; doubled at each reduction.", title="Channels", ge=4, le=64, multiple_of=2
    )
    kernels: tuple[Literal[3, 5, 7], ...] = option(
        (3, 5, 7), "Sizes of the depth-wise convolution that each layer may use.", title="Kernels",
        min_length=1, strict=False,
    )  # fmt: skip
    expansions: tuple[Literal[1, 2, 3, 4, 6], ...] = option(
        (3, 6), "How many times wider a layer may be inside; the search narrows each filter by filter.",
        title="Expansions", min_length=1, strict=False,
    )  # fmt: skip
    squeeze_excite: bool = option(
        default=False, help_="Let each layer weigh its channels by what the whole image holds.", title="Squeeze-excite"
    )
    attention: tuple[Literal[1, 2, 4, 8], ...] = option(
        (), "Numbers of heads of the attentions that stand beside the convolutions, in layers whose maps have up to "
        f"{MOST_SIDE} pixels a side; the search prunes heads, and channels within them.", title="Attention heads",
        empty="none", strict=False,
    )  # fmt: skip
    reductions: tuple[int, ...] | None = option(
        None,
        "Layers (counted from 0) that halve the image. Empty: at one third and two thirds.",
        title="Reductions",
        strict=False,
    )

    @model_validator(mode="after")
    def reductions_are_layers(self) -> Self:
        _check_reductions(self.reduction_places, self.layers, "layer")
        _check_once("space.kernels", self.kernels, "kernel")
        _check_once("space.expansions", self.expansions, "expansion")
        _check_once("space.attention", self.attention, "number of heads")
        return self

    def check_images(self, image_size: int) -> None:
        """Raises ConfigError also if all maps are too large for the attentions that are asked for."""
        super().check_images(image_size)
        side = -(-image_size >> len(self.reduction_places))
        if self.attention and side > MOST_SIDE:
            raise ConfigError.at(
                "space.attention",
                f"attention is for maps of up to {MOST_SIDE} pixels a side, and the last layers have {side}; use "
                f"images of at most {MOST_SIDE << len(self.reduction_places)}, more reductions, or no attention",
            )

    @property
    def depth(self) -> int:
        """Blocks that a stage may end after."""
        return self.layers

    @property
    def operations(self) -> int:
        """Candidates of a layer at most, its skip not counted."""
        return len(self.kernels) * len(self.expansions) + len(self.attention)


class ImportedSpace(Part):
    """A model that others have written: its widths and its depth are open, nothing else of it changes."""

    stops_early: ClassVar[bool] = False
    depth: ClassVar[int] = 1

    kind: Literal["imported"] = option("imported", "The kind of space.", title="Kind", advanced=False)
    library: Literal["timm", "torchvision"] = option("timm", "Whose model it is.", title="Library", advanced=False)
    model: str = option(
        "mobilenetv3_small_100", "The model, by the name that its library gives it.", title="Model", advanced=False
    )
    weights: Literal["none", "file", "pretrained"] = option(
        "none",
        "What it starts from: random numbers, a safetensors file that holds its state dict, or what its library "
        "offers, downloaded once. A last layer for other classes is learned anew.",
        title="Weights", advanced=False,
    )  # fmt: skip
    path: str | None = option(
        None, "The file that holds the weights.", title="Weights file", advanced=False, empty="no file"
    )

    @model_validator(mode="after")
    def model_and_weights_are_there(self) -> Self:
        if problem := models.unknown(self.library, self.model):
            raise ConfigError.at("space.model", problem)
        if self.weights == "file" and not self.path:
            raise ConfigError.at("space.path", "weights of a file need its path; give one, or other weights")
        if self.weights != "file" and self.path:
            raise ConfigError.at("space.path", f"weights '{self.weights}' take no file; leave it out, or use file")
        return self

    @property
    def begins_trained(self) -> bool:
        """Whether its weights were trained before the search begins."""
        return self.weights != "none"

    def check_images(self, image_size: int) -> None:
        """Nothing: which images it takes shows when it is built."""


AnySpace = CellsSpace | ChainSpace | ImportedSpace
SPACES: dict[str, type[AnySpace]] = {"cells": CellsSpace, "chain": ChainSpace, "imported": ImportedSpace}


class Method(Part):
    """Base of the search methods: what the others ask of any of them."""

    @property
    def rounds(self) -> int:
        """Stages over the whole network down to the first target."""
        return 1

    @property
    def held_out(self) -> float:
        """Share of the training images that weights do not learn from while it searches."""
        return 0.0

    @property
    def wants_trained(self) -> bool:
        """Whether it makes sense with weights alone that were trained before the search."""
        return False

    @property
    def drawn(self) -> int:
        """Sub-graphs that a step runs, each with one operation on every connection; 0 if it runs the whole network."""
        return 0

    @property
    def drawn_at_once(self) -> int:
        """Those of them that are in memory together."""
        return self.drawn

    @property
    def finer(self) -> str:
        """What makes the steps smaller in which sizes can be met."""
        return "open filters or weights as well"

    @property
    def leaner(self) -> str:
        """What takes less memory."""
        return "give a smaller search.batch_size or fewer channels"

    def teachers(self, retrain_epochs: int) -> tuple[int, int]:
        """How many networks are trained for the search to learn from, and for how many epochs each."""
        return 0, 0

    def stage_ends(self, space: AnySpace, epochs: int) -> tuple[int, ...]:
        """Numbers of blocks after which early stages end; none, so the whole network is searched at once.

        Args:
            space: which is searched.
            epochs: of the search down to its first target.
        """
        return ()

    def repetitions(self, space: AnySpace) -> int:
        """How often a preset's epochs are needed, since parts of the network learn one after the other."""
        return 1

    def check_search(self, config: SearchConfig) -> None:
        """Raises ConfigError if the rest of the configuration asks for what the method cannot do."""


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
        _check_once("strategy.granularities", self.granularities, "level")
        _check_once("strategy.regrow_levels", self.regrow_levels, "level")
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
        _check_once("strategy.granularities", self.granularities, "level")
        return self


class MSGDASConfig(Method):
    """Mutually-aware sub-graphs (arXiv 2107.04324): each step trains a few single paths that share no operation."""

    kind: Literal["msgdas"] = option("msgdas", "The search method.", title="Method", advanced=False)
    recipe: Literal["reconstructed"] = option(
        "reconstructed",
        "reconstructed: the parts that the paper's abstract names, as we understand them. More of it could not be "
        "read, so equations and settings are ours.",
        title="Recipe",
    )
    then: Literal["nothing", "mgas"] = option(
        "nothing",
        "What follows once operations are chosen. nothing: what is found differs from the whole space in its "
        "operations alone. mgas: in the second half of the search MGAS prunes filters and weights to the target.",
        title="Then",
    )
    sub_graphs: int = option(
        2,
        "How many paths are drawn at each step: on every connection as many different operations. More of them see "
        "more of the space at once and take more memory and time.",
        title="Sub-graphs",
        ge=1,
        le=16,
    )
    memory: Literal["joint", "sequential"] = option(
        "joint",
        "joint: all sub-graphs of a step are kept until its backward pass. sequential: one after the other, with the "
        "same gradients, so that memory does not grow with their number.",
        title="Memory",
    )
    soft: Literal["renorm", "sequential", "full"] = option(
        "renorm",
        "What scores learn from: a softmax over the operations that were drawn (renorm, two sub-graphs at least), over "
        "those that earlier draws left (sequential), or over all (full, as GDAS does).",
        title="Soft part",
    )
    align: Literal["shuffled", "rank"] = option(
        "shuffled",
        "Which sub-graph gets which draw. shuffled: on each connection another order. rank: the first sub-graph gets "
        "the best one everywhere.",
        title="Alignment",
    )
    temperature_start: float = option(
        5.0, "Of the soft part when scores begin to learn. It shapes gradients only, never what is drawn.",
        title="Temperature at first", ge=0.01, le=100,
    )  # fmt: skip
    temperature_end: float = option(
        0.1, "Of the soft part at the end; it falls evenly.", title="Temperature at the end", ge=0.01, le=100
    )
    warmup_fraction: float = option(
        0.15, "Share of the search in which only weights learn and every operation is as likely; at least one epoch.",
        title="Warm-up share", ge=0, le=0.8,
    )  # fmt: skip
    decision_fraction: float = option(
        0.25,
        "Share of the training images held out for decisions: once the warm-up is over, scores learn from them alone. "
        "0: no such split.",
        title="Decision share",
        ge=0,
        le=0.5,
    )
    keep_start: float = option(
        0.8,
        "Share of a skip's values that training leaves at first: squares of the rest are zeroed (DropBlock), so that "
        "skips do not lead only because they need not learn. 1: no such noise.",
        title="Kept of skips at first",
        ge=0.1,
        le=1,
    )
    keep_end: float = option(
        1.0, "The same at the end; it moves evenly.", title="Kept of skips at the end", ge=0.1, le=1
    )
    guidance: Literal["mean", "supernet", "off"] = option(
        "mean",
        "Whose answers each sub-graph learns from beside the labels, after the warm-up. mean: those of the sub-graphs "
        "together. supernet: those of all operations, mixed by their probabilities; a forward pass more.",
        title="Guidance",
    )
    guidance_weight: float = option(
        1.0, "How much these answers count; the labels count 1.", title="Guidance weight", ge=0, le=10
    )

    stage_shares: ClassVar[None] = None

    @model_validator(mode="after")
    def one_sub_graph_has_no_others(self) -> Self:
        if self.sub_graphs > 1:
            return self
        if self.soft == "renorm":
            raise ConfigError.at(
                "strategy.soft", "among one draw there is nothing to weigh, so scores would never learn; use full"
            )
        if self.guidance == "mean" and self.guidance_weight:
            raise ConfigError.at(
                "strategy.guidance", "the mean of one sub-graph is itself and teaches it nothing; use supernet or off"
            )
        return self

    @property
    def granularities(self) -> tuple[Granularity, ...]:
        """Levels at which units may be pruned."""
        return ("operation",) if self.then == "nothing" else ("operation", "filter", "weight")

    @property
    def rounds(self) -> int:
        return 1 if self.then == "nothing" else 2

    @property
    def drawn(self) -> int:
        return self.sub_graphs

    @property
    def drawn_at_once(self) -> int:
        return self.sub_graphs if self.memory == "joint" else 1

    @property
    def finer(self) -> str:
        return "let strategy.then be mgas, which prunes filters and weights as well"

    @property
    def leaner(self) -> str:
        return "give fewer strategy.sub_graphs, or let strategy.memory be sequential"

    @property
    def held_out(self) -> float:
        return self.decision_fraction

    def check_search(self, config: SearchConfig) -> None:
        if self.then == "nothing" and config.runtime.compile:
            raise ConfigError.at(
                "runtime.compile", "MSG-DAS runs other operations at each step, which cannot be compiled; leave it off"
            )
        if self.then == "nothing" and config.target.also:
            raise ConfigError.at(
                "target.also",
                "MSG-DAS chooses operations once, so it ends with one network; leave it empty, or let strategy.then be "
                "mgas",
            )


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
        le=512,
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
        _check_once("strategy.widths", self.widths, "width")
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

    def check_search(self, config: SearchConfig) -> None:
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
            many = f"{stages} times a block" if self.generations > 1 else f"{stages} blocks"
            mend = f"use at least {FEWEST_OF_A_BLOCK * stages}" + ", or fewer block ends" * bool(self.block_ends)
            raise ConfigError.at("search.epochs", f"{config.search.epochs} is too few for {many}; {mend}")
        if config.target.also:
            raise ConfigError.at(
                "target.also",
                "DNA ends with one network, and its page shows what every other target would take; leave it empty",
            )
        if config.runtime.compile:
            raise ConfigError.at(
                "runtime.compile", "DNA runs other operations at each step, which cannot be compiled; leave it off"
            )
        if config.retrain.teacher != "none":
            raise ConfigError.at(
                "retrain.teacher", "DNA has a teacher of its own, which the blocks learn from; leave it at none"
            )
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


AnyMethod = MGASConfig | DMSConfig | MSGDASConfig | DNAConfig
METHODS: dict[str, type[AnyMethod]] = {"mgas": MGASConfig, "dms": DMSConfig, "msgdas": MSGDASConfig, "dna": DNAConfig}
KINDS: dict[str, dict[str, Any]] = {"space": SPACES, "strategy": METHODS}
"""Parts that have a choice of kinds."""
KIND_WORDS = {"space": "space", "strategy": "method"}


class LimitsConfig(Part):
    """Limits beside the target."""

    params: float | str | None = option(
        None, "At most so many parameters as well, where the target is on multiply-adds; a number or a percentage of "
        "the full space. Empty: no such limit.", title="Limit on parameters", empty="none",
    )  # fmt: skip
    macs: float | str | None = option(
        None, "At most so many multiply-adds as well, where the target is on parameters: equal parameters is not equal "
        "time. A number or a percentage of the full space. Empty: no such limit.",
        title="Limit on multiply-adds", empty="none",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def milliseconds_are_a_target(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "latency_ms" in given:
            raise ConfigError.at(
                "target.limits.latency_ms",
                "milliseconds can be the target alone; give them there (target.metric: latency_ms), and params or macs "
                "as limits beside it",
            )
        return given


class TargetConfig(Part):
    """How large the found network may be."""

    metric: Literal["params", "macs", "latency_ms"] = option(
        "params",
        "What is limited: stored non-zero weights, multiply-adds for one image, or milliseconds for one image, "
        "measured on the device that searches.",
        title="Limit on",
        advanced=False,
    )
    value: float | str = option(
        "40%",
        "A number, or a percentage of the full space such as 40%; with DNA, of its largest network, which has one "
        "operation a layer. How many milliseconds can be reached is known once a search has begun and measured its "
        "device.",
        title="Target",
        advanced=False,
    )

    also: tuple[float | str, ...] = option(
        (), "Further targets of the same search, each with a trained network of its own.", title="Further targets",
        max_length=8, strict=False,
    )  # fmt: skip
    limits: LimitsConfig = Field(default_factory=LimitsConfig)

    @model_validator(mode="after")
    def values_are_amounts(self) -> Self:
        _check_amount("target.value", self.value, self.metric)
        for value in self.also:
            _check_amount("target.also", value, self.metric)
        for metric, value in self.limits:
            if value is None:
                continue
            _check_amount(f"target.limits.{metric}", value, metric)
            if metric == self.metric:
                raise ConfigError.at(
                    f"target.limits.{metric}",
                    f"the target is on {catalogue.METRICS[metric]} already; leave it empty, or limit another",
                )
        return self

    def resolved(self, full: int) -> int:
        """The target as a whole number (of nanoseconds, if it is a time), given the size of the full space.

        >>> TargetConfig(value="40%").resolved(1000), TargetConfig(value=250).resolved(1000)
        (400, 250)
        >>> TargetConfig(metric="latency_ms", value=0.25).resolved(10**6)
        250000
        """
        return _resolved("target.value", self.value, full, self.metric)

    def family(self, full: int) -> tuple[int, ...]:
        """All targets from large to small, the main one among them.

        >>> TargetConfig(value="40%", also=("60%", 250)).family(1000)
        (600, 400, 250)
        """
        further = (_resolved("target.also", value, full, self.metric) for value in self.also)
        return tuple(sorted({self.resolved(full), *further}, reverse=True))

    def further_limits(self, full: Callable[[str], int]) -> dict[str, int]:
        """Metric -> what is not to be exceeded beside the target; `full` gives the size of the full space.

        >>> TargetConfig(value="40%", limits=LimitsConfig(macs="30%")).further_limits(lambda metric: 2000)
        {'macs': 600}
        """
        return {
            metric: _resolved(f"target.limits.{metric}", value, full(metric), metric)
            for metric, value in self.limits
            if value is not None
        }


class SearchPlan(Part):
    """How the search itself trains."""

    epochs: int = option(
        50,
        "Epochs of the whole search, all stages together.",
        title="Search epochs",
        unit="epochs",
        ge=4,
        le=MOST_EPOCHS,
    )
    batch_size: int | None = option(
        None, "Images a step. Empty: 64, or 32 if there are fewer than 8,000 training images.",
        title="Batch size", unit="images", ge=2, le=4096,
    )  # fmt: skip
    lr: float = option(
        0.05, "Learning rate of the weights (SGD); a tenth of the usual for DMS's recipe prune, none for gates.",
        title="Learning rate", gt=0, le=1,
    )  # fmt: skip
    weight_decay: float = option(3e-4, "Weight decay of the weights.", title="Weight decay", ge=0, le=0.1)

    def batch(self, train: int, learning: int) -> int:
        """Images a step, given the size of the train split, and how many of it the search's weights learn from."""
        return self.batch_size or min(SMALL_BATCH if train < FEW_IMAGES else USUAL_BATCH, learning)


class RetrainConfig(Part):
    """How the found network is trained at the end."""

    epochs: int = option(
        150, "Epochs of training for the found network. 0: it stays as the search left it.",
        title="Retraining epochs", unit="epochs", ge=0, le=5000,
    )  # fmt: skip
    start: Literal["scratch", "inherit"] = option(
        "inherit", "Start from the weights that the search learned, or from fresh ones.", title="Start from"
    )
    lr: float = option(
        0.05, "Highest learning rate of the one-cycle schedule.", title="Retraining learning rate", gt=0, le=1
    )
    weight_decay: float = option(5e-4, "Weight decay.", title="Retraining weight decay", ge=0, le=0.1)
    teacher: Literal["none", "full"] = option(
        "none",
        "full: the whole space is trained first, by the same recipe, and the found network learns from its answers "
        "beside the labels; so do the random ones. It takes longer, and may or may not help.",
        title="Teacher",
    )
    teacher_weight: float = option(
        0.5, "Share of the teacher's answers in what is learned; the labels have the rest.", title="Teacher's weight",
        ge=0, le=1,
    )  # fmt: skip
    temperature: float = option(
        4.0,
        "How much the answers of the teacher are softened: above 1, what it takes for unlikely counts more.",
        title="Teacher's temperature",
        ge=0.5,
        le=20,
    )

    @model_validator(mode="after")
    def no_epochs_change_nothing(self) -> Self:
        if not self.epochs and self.start == "scratch":
            raise ConfigError.at(
                "retrain.start", "fresh weights that are not trained know nothing; use inherit, or some retrain.epochs"
            )
        if not self.epochs and self.teacher != "none":
            raise ConfigError.at(
                "retrain.teacher", "a teacher helps while a network is trained; use none, or some retrain.epochs"
            )
        return self


class BaselineConfig(Part):
    """What the found network is compared with."""

    random: int = option(
        0,
        "Also train this many random networks of the same size, with the same recipe: did the search pay? Most fairly "
        "if all start from fresh weights.",
        title="Random networks",
        ge=0,
        le=10,
    )


class RuntimeConfig(Part):
    """Where it runs."""

    device: Literal["auto", "cpu", "cuda"] = option("auto", "auto takes a GPU if there is one.", title="Device")
    precision: Literal["fp32", "bf16"] = option("fp32", "bf16 is faster on recent GPUs.", title="Precision")
    threads: int = option(1, "Threads for training on the CPU.", title="CPU threads", ge=1, le=64)
    compile: bool = option(
        default=False,
        help_="Compile the network's steps (torch.compile): faster on large networks, slow to start, again after "
        "each commit.",
        title="Compile",
    )
    memory_share: float = option(
        0.55,
        "Share of the memory that training the whole space at once takes. What does not fit is computed twice instead "
        "of kept, earlier blocks first: more time. 1: keep everything. A known model keeps everything.",
        title="Memory share",
        gt=0,
        le=1,
    )


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


def document(text: bytes) -> Any:
    """The plain value that a JSON document spells.

    Raises:
        ValueError: if it is none, says a thing twice, or spells half a character, which no text can hold.
    """
    try:
        value = json.loads(text.decode("utf-8-sig"), object_pairs_hook=_once)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError(str(error)) from None
    except UnicodeEncodeError:
        raise ValueError("one of its \\u escapes is half a character") from None
    return value


def parse(raw: Mapping[str, Any]) -> SearchConfig:
    """The configuration that `raw` (parsed JSON) asks for, completed by its preset.

    Raises:
        ConfigError: with one problem for each wrong field.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError.at("", "the configuration must be a JSON object")
    try:
        return SearchConfig.model_validate(_completed(raw))
    except ValidationError as error:
        raise ConfigError(_problems(error)) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"'{shown(name)}' is given twice")
        found[name] = value
    return found


def _completed(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`raw` with the preset's values where it says nothing."""
    preset = PRESETS.get(str(raw.get("preset", "quick")), PRESETS["quick"])
    filled = dict(raw)
    for part, default_kind in PRESET_PARTS.items():
        given = filled.setdefault(part, {})
        if not isinstance(given, Mapping):
            continue  # the validator says what is wrong with it
        kind = given.get("kind", default_kind) if default_kind else part
        known = list(KINDS.get(part, [part]))
        table = preset.get(kind, {}) if kind in known else {}
        filled[part] = {**({"kind": default_kind} if default_kind else {}), **table, **given}
    space = _part(raw, "space")
    if {"cells", "layers"} & set(space) and "reductions" not in space and isinstance(filled["space"], dict):
        filled["space"].pop("reductions", None)  # the preset's positions belong to the preset's number of blocks
    if _part(raw, "strategy").get("recipe") == "prune" and isinstance(filled["search"], dict):
        filled["search"].setdefault("lr", FINE_LR)
    also = _part(raw, "target").get("also")
    if isinstance(also, list | tuple) and isinstance(filled["search"], dict) and "epochs" not in _part(raw, "search"):
        filled["search"]["epochs"] += FEWEST_EPOCHS * len(also)  # each further target has a stage of its own
    if isinstance(filled["search"], dict) and "epochs" not in _part(raw, "search"):
        times = _repetitions(filled["space"], filled["strategy"])
        filled["search"]["epochs"] = min(times * filled["search"]["epochs"], MOST_EPOCHS)
    data = filled["data"]
    if isinstance(data, dict) and "image_size" not in _part(raw, "data"):
        builtin = catalogue.DATASETS.get(str(data.get("dataset", "digits")))
        if builtin is not None:
            data["image_size"] = min(data["image_size"], builtin.image_size)
        if space.get("kind") == "imported":
            data["image_size"] = max(data["image_size"], FEWEST_PIXELS)
    return filled


def _repetitions(space: Any, strategy: Any) -> int:
    """How often a preset's epochs are needed; once, where a part is wrong."""
    try:
        method = METHODS[strategy["kind"]].model_validate(strategy)
        return method.repetitions(SPACES[space["kind"]].model_validate(space))
    except (ValidationError, ConfigError, KeyError, TypeError):
        return 1  # the validator says what is wrong with it


def _part(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = raw.get(name)
    return part if isinstance(part, Mapping) else {}


def _problems(error: ValidationError) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for item in error.errors(include_url=False)[:MOST_PROBLEMS]:
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            found += cause.problems
            continue
        owner, names = _place([part for part in item["loc"] if not isinstance(part, int)])
        if item["type"].startswith("union_tag"):
            names.append("kind")
        found.append((".".join(names), _sentence(item, owner, names)))
    first: dict[str, str] = {}
    for field, sentence in found:
        first.setdefault(brief(shown(field)), brief(sentence))
    return list(first.items())


def _place(location: list[Any]) -> tuple[Any, list[str]]:
    """The part that a location is about, and the names up to its field; not the kinds of a part nor of values."""
    owner: Any = SearchConfig
    names: list[str] = []
    for name in location:
        if isinstance(owner, dict):
            owner = owner[name]
            continue
        names.append(name)
        field = owner.model_fields.get(name)
        inner = KINDS.get(name, getattr(field, "annotation", None))
        if not isinstance(inner, dict) and not hasattr(inner, "model_fields"):
            break
        owner = inner
    return owner, names


def _sentence(item: Any, owner: Any, names: list[str]) -> str:
    if item["type"] == "extra_forbidden":
        return f"there is no such setting{_meant(names[-1], list(owner.model_fields))}"
    if item["type"].startswith("union_tag"):
        tag = item["ctx"].get("tag", "nothing")
        return f"{tag!r} is not a known {KIND_WORDS[names[0]]}{_meant(str(tag), list(owner))}"
    if item["type"] in ("float_type", "finite_number") and item["loc"][-1] == "float":  # or a percentage
        return f"{named(item['input'])} {NO_AMOUNT}"
    return refusal(item)


def _meant(given: str, known: list[str]) -> str:
    close = difflib.get_close_matches(given, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; use one of {', '.join(known)}"


def _thirds(depth: int) -> tuple[int, ...]:
    return tuple(sorted({depth // 3, 2 * depth // 3} - {0}))


def _check_reductions(places: tuple[int, ...], depth: int, what: str) -> None:
    for place in places:
        if not 0 <= place < depth:
            raise ConfigError.at(
                "space.reductions", f"{what} {place} does not exist; use numbers from 0 to {depth - 1}"
            )
    if list(places) != sorted(set(places)):
        raise ConfigError.at("space.reductions", f"give each reduction {what} once, in rising order")


def _check_once(field: str, values: tuple[Any, ...], what: str) -> None:
    if len(set(values)) != len(values):
        raise ConfigError.at(field, f"name each {what} once")


def _check_amount(field: str, value: float | str, metric: str) -> None:
    fraction, amount = _amount(field, value)
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    if fraction is not None and not 0 < fraction <= 1:
        raise ConfigError.at(field, f"{value} is out of range; give a percentage above 0% and up to 100%")
    if amount is not None and metric == LATENCY and not 0.000001 <= amount < math.inf:
        raise ConfigError.at(field, f"{value} is out of range; give milliseconds above 0, or a percentage such as 40%")
    if amount is not None and metric != LATENCY and not 1 <= amount < math.inf:
        raise ConfigError.at(
            field, f"{value} is out of range; give a number of at least 1, or a percentage such as 40%"
        )


def _resolved(field: str, value: float | str, full: int, metric: str) -> int:
    fraction, amount = _amount(field, value)
    return int(amount * unit(metric) if amount is not None else (fraction or 0) * full)


def _amount(field: str, value: float | str) -> tuple[float | None, float | None]:
    """(fraction, None) for a percentage, (None, number) for a number."""
    text = str(value).strip().replace(",", "").replace("_", "")
    try:
        return (float(text[:-1]) / 100, None) if text.endswith("%") else (None, float(text))
    except ValueError:
        raise ConfigError.at(field, f"'{value}' {NO_AMOUNT}") from None
