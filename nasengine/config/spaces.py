"""What is searched: cells, a chain, or a model of others; alternatives of each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from nasengine import models
from nasengine.config.part import Part, check_once, option
from nasengine.errors import ConfigError

Candidate = Literal[
    "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5", "avg_pool_3x3", "max_pool_3x3"
]

CANDIDATES: tuple[Candidate, ...] = (
    "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5", "avg_pool_3x3", "max_pool_3x3",
)  # fmt: skip

WIDEST = 1024
"""Channels after all halvings; looking ahead takes seconds there."""
MOST_SIDE = 16
"""Pixels a side of the largest maps that an attention looks at: how much it keeps grows with the fourth power."""


class BlocksSpace(Part, ABC):
    """Base of the spaces of our own: blocks in a row, some of which halve the image and double the channels."""

    stops_early: ClassVar[bool] = True
    """Whether blocks in the middle have an exit of their own, at which a stage can end."""
    begins_trained: ClassVar[bool] = False
    """Whether its weights were trained before the search begins."""
    parts: ClassVar[str]
    """What people call its blocks: the name of the setting that says how many there are."""

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

    parts: ClassVar[str] = "cells"

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
        check_once("space.candidates", self.candidates, "operation")
        return self

    @property
    def depth(self) -> int:
        """Blocks that a stage may end after."""
        return self.cells


class ChainSpace(BlocksSpace):
    """The chain space: MobileNet-like, one inverted bottleneck (MBConv) after the other."""

    parts: ClassVar[str] = "layers"

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
        (3, 6), "How many times wider a layer may be inside; methods that prune filters narrow each further.",
        title="Expansions", min_length=1, strict=False,
    )  # fmt: skip
    squeeze_excite: bool = option(
        default=False, help_="Let each layer weigh its channels by what the whole image holds.", title="Squeeze-excite"
    )
    attention: tuple[Literal[1, 2, 4, 8], ...] = option(
        (), "Numbers of heads of the attentions that stand beside the convolutions, in layers whose maps have up to "
        f"{MOST_SIDE} pixels a side; methods that prune filters prune heads, too, and channels within them.",
        title="Attention heads", empty="none", strict=False,
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
        check_once("space.kernels", self.kernels, "kernel")
        check_once("space.expansions", self.expansions, "expansion")
        check_once("space.attention", self.attention, "number of heads")
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
