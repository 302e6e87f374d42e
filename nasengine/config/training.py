"""How the search and what it finds are trained, with what that is compared, and where all of it runs."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from nasengine.config.part import Part, option
from nasengine.errors import ConfigError

USUAL_BATCH, SMALL_BATCH, FEW_IMAGES = 64, 32, 8000
"""Images a step; the small batch where there are so few that the number of steps is what limits training."""
MOST_EPOCHS = 2000


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
        "beside the labels; so do the random ones. It takes longer, and may or may not help. Not with DNA, whose "
        "blocks have a teacher of their own.",
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
