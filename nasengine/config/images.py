"""Which images a search learns from."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from nasengine import catalogue
from nasengine.config.part import Part, meant, option
from nasengine.errors import ConfigError


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
                "data.dataset", f"'{self.dataset}' is not a known data set{meant(self.dataset, known)}"
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
