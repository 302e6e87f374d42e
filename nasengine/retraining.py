"""Training a compact network at the end: the found one, by the same recipe its teacher and random ones of its size."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from nasengine import device, export, parallel, train
from nasengine.architecture import Plan
from nasengine.compact import Classifier
from nasengine.config import RetrainConfig
from nasengine.discretise import fitted
from nasengine.errors import EngineError
from nasengine.supernet import Kept, everything

DRAWS = 50
"""Random networks that are tried for a size."""


class Retraining:
    """One compact network with its optimizer.

    Args:
        network: with its weights as the search left them; they are the start if `plan.start` is inherit.
        masks: of its pruned weights, by state-dict name.
        feed: batches.
        plan: the recipe.
        precision: fp32 or bf16.
        stream: for fresh weights.
        key: tells this network's batches from those of others.
        teacher: whose answers it learns from, too.
    """

    def __init__(
        self,
        network: Classifier,
        masks: Mapping[str, Tensor],
        *,
        feed: train.Feed,
        plan: RetrainConfig,
        precision: str,
        stream: torch.Generator,
        key: int | str,
        teacher: train.Teacher | None = None,
    ) -> None:
        self.network, self.masks = network, masks
        self.feed, self.plan, self.precision, self.key = feed, plan, precision, key
        self.teacher = teacher
        if plan.start == "scratch":
            train.fresh(self.network, stream)
            train.keep_pruned(self.network, self.masks)
        self.network.to(memory_format=torch.channels_last)
        self.optimizer = train.retrain_optimizer(self.network, plan.weight_decay)

    def steps(self, epoch: int, first: int, meter: train.Meter) -> Iterator[int]:
        """Yields the number of each step of an epoch from `first` on, before it is made; means go to `meter`."""
        order = self.feed.order("retrain", self.key, epoch)
        self.network.train()
        for step in range(first, self.feed.steps):
            yield step
            lr = train.one_cycle(epoch * self.feed.steps + step, self.plan.epochs * self.feed.steps, self.plan.lr)
            batch = self.feed.batch(order[step], "retrain", self.key, epoch, step)
            # For dropout, of each process its own.
            torch.manual_seed(device.number(self.feed.seed, "retrain", self.key, epoch, step) + parallel.rank())
            meter.add(
                self.feed.batch_size,
                train.retrain_step(self.network, batch, self.optimizer, self.masks, self.precision, lr, self.teacher),
            )
        self.network.eval()

    def validated(self) -> dict[str, float | None]:
        """Loss and accuracy on the validation split."""
        return train.evaluated(self.network, self.feed.images.validation, self.feed.images)

    def measured(self) -> dict[str, Any]:
        """The figures of the report: the one look at the test split."""
        images = self.feed.images
        return {
            "validation": self.validated()["accuracy"],
            "test": train.evaluated(self.network, images.open_test(), images)["accuracy"],
            "params": export.nonzero(self.network),
            "macs": export.macs(self.network),
        }

    def state(self) -> dict[str, Any]:
        """What an exact continuation needs."""
        return {"state": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Puts what `state` gave back."""
        self.network.load_state_dict(state["state"])
        self.optimizer.load_state_dict(state["optimizer"])


def random_decision(
    plan: Plan, stream: torch.Generator, *, bounds: Mapping[str, int], granularities: Collection[str]
) -> Kept | None:
    """A decision within these sizes (metric -> at most) in which every unit is as likely as any other of its level.

    None if there is none in many draws: a size below `architecture.smallest` may take luck.
    """
    for _ in range(DRAWS):
        margins = {name: torch.rand(alive.shape, generator=stream) for name, alive in everything(plan).items()}
        with contextlib.suppress(EngineError):
            return fitted(plan, margins, bounds=bounds, granularities=granularities)
    return None
