"""What a person may ask for: SearchConfig and its parts, every bound and help text once.

Form, API and command line all read these fields. `parse` is the only way in: it fills what is left out from the
preset and turns what is wrong into one ConfigError that names each field and its mend. Checks that need the data are
in ``outlook``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nasengine import catalogue
from nasengine.errors import ConfigError

Preset = Literal["quick", "standard", "thorough"]
Granularity = Literal["operation", "filter", "weight"]
Candidate = Literal[
    "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5", "avg_pool_3x3", "max_pool_3x3"
]

CANDIDATES: tuple[Candidate, ...] = (
    "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5", "avg_pool_3x3", "max_pool_3x3",
)  # fmt: skip

USUAL_BATCH = 64

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "quick": {
        "data": {"image_size": 16},
        "cells": {"cells": 4, "channels": 8, "nodes": 2, "reductions": (1, 3)},
        "mgas": {"cuts": (2,)},
        "search": {"epochs": 12},
        "retrain": {"epochs": 20, "start": "inherit", "lr": 0.05},
    },
    "standard": {
        "data": {"image_size": 32},
        "cells": {"cells": 8, "channels": 16, "nodes": 3},
        "mgas": {},
        "search": {"epochs": 50},
        "retrain": {"epochs": 150, "start": "scratch"},
    },
    "thorough": {
        "data": {"image_size": 32},
        "cells": {"cells": 14, "channels": 24, "nodes": 4},
        "mgas": {},
        "search": {"epochs": 120},
        "retrain": {"epochs": 600, "start": "scratch"},
    },
}
"""What each preset fills in: by part of the configuration, and by kind for the space and the strategy."""


class Part(BaseModel):
    """Base of every part: frozen, unknown keys refused, numbers never guessed from text."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def option(default: Any, help_: str, *, title: str, unit: str = "", advanced: bool = True, **bounds: Any) -> Any:
    """A field with its label, help and unit beside its bounds; `advanced` ones are folded away in the form."""
    return Field(
        default, title=title, description=help_, json_schema_extra={"unit": unit, "advanced": advanced}, **bounds
    )


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
        title="Limit", unit="images", ge=20,
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


class CellsSpace(Part):
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
        for cell in self.reduction_cells:
            if not 0 <= cell < self.cells:
                raise ConfigError.at(
                    "space.reductions", f"cell {cell} does not exist; use numbers from 0 to {self.cells - 1}"
                )
        if list(self.reduction_cells) != sorted(set(self.reduction_cells)):
            raise ConfigError.at("space.reductions", "give each reduction cell once, in rising order")
        if len(set(self.candidates)) != len(self.candidates):
            raise ConfigError.at("space.candidates", "name each operation once")
        return self

    @property
    def reduction_cells(self) -> tuple[int, ...]:
        """The cells that halve the image, DARTS's thirds unless set."""
        if self.reductions is not None:
            return self.reductions
        return tuple(sorted({self.cells // 3, 2 * self.cells // 3} - {0}))


class MGASConfig(Part):
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
        None, "Numbers of cells after which an early stage ends; the last has all cells. Empty: at the reductions.",
        title="Stage ends", strict=False,
    )  # fmt: skip
    warmup_fraction: float = option(
        0.2, "Share of each stage that trains weights only; at least one epoch.", title="Warm-up share", ge=0, le=0.8
    )
    commit_every: int = option(2, "Prune for good every so many epochs.", title="Commit every", unit="epochs", ge=1)
    regrow_fraction: float = option(
        0.15,
        "Share of the pruned units that get a second chance after each early stage.",
        title="Regrown share",
        ge=0,
        le=0.5,
    )

    @model_validator(mode="after")
    def levels_and_cuts_are_sound(self) -> Self:
        if len(set(self.granularities)) != len(self.granularities):
            raise ConfigError.at("strategy.granularities", "name each level once")
        if self.cuts is not None and list(self.cuts) != sorted(set(self.cuts)):
            raise ConfigError.at("strategy.cuts", "give each stage end once, in rising order")
        return self


class TargetConfig(Part):
    """How large the found network may be."""

    metric: Literal["params", "macs"] = option(
        "params",
        "What is limited: stored non-zero weights, or multiply-adds for one image.",
        title="Limit on",
        advanced=False,
    )
    value: float | str = option(
        "40%", "A number, or a percentage of the full space such as 40%.", title="Target", advanced=False
    )

    @model_validator(mode="after")
    def value_is_an_amount(self) -> Self:
        fraction, amount = _amount(self.value)
        if fraction is not None and not 0 < fraction <= 1:
            raise ConfigError.at(
                "target.value", f"{self.value} is out of range; give a percentage above 0% and up to 100%"
            )
        if amount is not None and not 1 <= amount < math.inf:
            raise ConfigError.at(
                "target.value",
                f"{self.value} is out of range; give a number of at least 1, or a percentage such as 40%",
            )
        return self

    def resolved(self, full: int) -> int:
        """The target as a whole number, given the size of the full space.

        >>> TargetConfig(value="40%").resolved(1000), TargetConfig(value=250).resolved(1000)
        (400, 250)
        """
        fraction, amount = _amount(self.value)
        return int(amount if amount is not None else (fraction or 0) * full)


class SearchPlan(Part):
    """How the search itself trains."""

    epochs: int = option(
        50, "Epochs of the whole search, all stages together.", title="Search epochs", unit="epochs", ge=4, le=2000
    )
    batch_size: int | None = option(
        None, "Images a step. Empty: 64, or all training images if they are fewer.",
        title="Batch size", unit="images", ge=2, le=4096,
    )  # fmt: skip
    lr: float = option(0.05, "Learning rate of the weights (SGD).", title="Learning rate", gt=0, le=1)
    weight_decay: float = option(3e-4, "Weight decay of the weights.", title="Weight decay", ge=0, le=0.1)

    def batch(self, train: int) -> int:
        """Images a step, given the size of the train split."""
        return self.batch_size or min(USUAL_BATCH, train)


class RetrainConfig(Part):
    """How the found network is trained at the end."""

    epochs: int = option(
        150, "Epochs of training for the found network.", title="Retraining epochs", unit="epochs", ge=1, le=5000
    )
    start: Literal["scratch", "inherit"] = option(
        "scratch", "Start from fresh weights, or from those the search learned.", title="Start from"
    )
    lr: float = option(
        0.1, "Highest learning rate of the one-cycle schedule.", title="Retraining learning rate", gt=0, le=1
    )
    weight_decay: float = option(5e-4, "Weight decay.", title="Retraining weight decay", ge=0, le=0.1)


class BaselineConfig(Part):
    """What the found network is compared with."""

    random: int = option(
        0,
        "Also train this many random networks of the same size, with the same recipe.",
        title="Random networks",
        ge=0,
        le=10,
    )


class RuntimeConfig(Part):
    """Where it runs."""

    device: Literal["auto", "cpu", "cuda"] = option("auto", "auto takes a GPU if there is one.", title="Device")
    precision: Literal["fp32", "bf16"] = option("fp32", "bf16 is faster on recent GPUs.", title="Precision")
    threads: int = option(1, "Threads for training on the CPU.", title="CPU threads", ge=1, le=64)


class SearchConfig(Part):
    """Everything that decides a search; equal configurations give equal networks."""

    name: str = option("", "A name to find it again.", title="Name", advanced=False, max_length=80)
    seed: int = option(0, "Equal seeds give equal results.", title="Seed", ge=0, lt=2**31)
    preset: Preset = option("quick", "How much effort: minutes, hours or days.", title="Effort", advanced=False)
    data: DataConfig = Field(default_factory=DataConfig)
    space: CellsSpace = Field(default_factory=CellsSpace)
    strategy: MGASConfig = Field(default_factory=MGASConfig)
    target: TargetConfig = Field(default_factory=TargetConfig)
    search: SearchPlan = Field(default_factory=SearchPlan)
    retrain: RetrainConfig = Field(default_factory=RetrainConfig)
    baseline: BaselineConfig = Field(default_factory=BaselineConfig)
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig)

    @model_validator(mode="after")
    def parts_agree(self) -> Self:
        entry = catalogue.STRATEGIES[self.strategy.kind]
        if self.space.kind not in entry.spaces:
            raise ConfigError.at(
                "strategy.kind", f"{entry.label} searches the spaces {', '.join(entry.spaces)}, not {self.space.kind}"
            )
        for cut in self.cuts:
            if not 0 < cut < self.space.cells:
                raise ConfigError.at(
                    "strategy.cuts",
                    f"a stage cannot end after cell {cut} of {self.space.cells}; use 1 to {self.space.cells - 1}",
                )
        stages = len(self.cuts) + 1
        if self.search.epochs < 4 * stages:
            raise ConfigError.at(
                "search.epochs",
                f"{self.search.epochs} is too few for {stages} stages; use at least {4 * stages}, or fewer stage ends",
            )
        halvings = len(self.space.reduction_cells)
        if self.data.image_size >> halvings < 2:
            raise ConfigError.at(
                "data.image_size",
                f"{self.data.image_size} pixels are too few for {halvings} halvings; use at least {2 << halvings}, "
                "or fewer reductions",
            )
        return self

    @property
    def cuts(self) -> tuple[int, ...]:
        """Numbers of cells after which the early stages end."""
        if self.strategy.cuts is not None:
            return self.strategy.cuts
        return tuple(cell for cell in self.space.reduction_cells if cell > 0)


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


def _completed(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`raw` with the preset's values where it says nothing."""
    preset = PRESETS.get(str(raw.get("preset", "quick")), PRESETS["quick"])
    filled = dict(raw)
    for part, default_kind in (("data", ""), ("space", "cells"), ("strategy", "mgas"), ("search", ""), ("retrain", "")):
        given = filled.setdefault(part, {})
        if not isinstance(given, Mapping):
            continue  # the validator says what is wrong with it
        kind = given.get("kind", default_kind) if default_kind else part
        known = {"space": list(catalogue.SPACES), "strategy": list(catalogue.STRATEGIES)}.get(part, [part])
        table = preset.get(kind, {}) if kind in known else {}
        filled[part] = {**table, **given}
    space = _part(raw, "space")
    if "cells" in space and "reductions" not in space:
        filled["space"].pop("reductions", None)  # the preset's positions belong to the preset's number of cells
    own_cells = {"cells", "reductions"} & set(space)
    if own_cells and "cuts" not in _part(raw, "strategy") and isinstance(filled["strategy"], dict):
        filled["strategy"].pop("cuts", None)
    data = filled["data"]
    if isinstance(data, dict) and "image_size" not in _part(raw, "data"):
        builtin = catalogue.DATASETS.get(str(data.get("dataset", "digits")))
        if builtin is not None:
            data["image_size"] = min(data["image_size"], builtin.image_size)
    return filled


def _part(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = raw.get(name)
    return part if isinstance(part, Mapping) else {}


def _problems(error: ValidationError) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for item in error.errors(include_url=False):
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            found += cause.problems
            continue
        location = list(item["loc"])
        if location[:2] == ["target", "value"]:
            location = location[:2]  # without the kind of value that was tried
        field = ".".join(str(part) for part in location if not isinstance(part, int))
        found.append((field, _sentence(item, location)))
    return list(dict.fromkeys(found))


def _sentence(item: Any, location: list[Any]) -> str:
    if item["type"] == "extra_forbidden":
        owner: Any = SearchConfig
        for part in location[:-1]:
            owner = owner.model_fields[part].annotation
        return f"there is no such setting{_meant(str(location[-1]), list(owner.model_fields))}"
    text = item["msg"][0].lower() + item["msg"][1:]
    return f"{text}, not {item['input']!r}" if not isinstance(item["input"], dict | list) else text


def _meant(given: str, known: list[str]) -> str:
    close = difflib.get_close_matches(given, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; use one of {', '.join(known)}"


def _amount(value: float | str) -> tuple[float | None, float | None]:
    """(fraction, None) for a percentage, (None, number) for a number."""
    text = str(value).strip().replace(",", "").replace("_", "")
    try:
        return (float(text[:-1]) / 100, None) if text.endswith("%") else (None, float(text))
    except ValueError:
        raise ConfigError.at(
            "target.value", f"'{value}' is neither a number nor a percentage; write for example 20000 or 40%"
        ) from None
