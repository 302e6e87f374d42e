"""Packed images as tensors on the device: splits, order of the batches, augmentation.

The test split stays where it is until `Images.open_test` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nasengine import catalogue, splits
from nasengine.config import DataConfig
from nasengine.errors import ConfigError
from nasengine.packing import Packed
from nasengine.splits import DataFacts


@dataclass(frozen=True)
class Split:
    """Images that belong together: x uint8 [N, C, S, S], y int64 [N]."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Images:
    """A data set on its device.

    Attributes:
        mean, std: per channel, of the train split with pixels in 0..1; for `normalised`.
        shift, flip: for `augmented`: largest shift in pixels, whether mirrored images keep their class.
        open_test: reads the test split; nothing of it was looked at before.
    """

    facts: DataFacts
    sha256: str
    train: Split
    validation: Split
    open_test: Callable[[], Split]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shift: int
    flip: bool

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        return self.facts.class_names


def images(packed: Packed, data: DataConfig, seed: int, device: torch.device | str) -> Images:
    """Splits the packed images and puts train and validation on the device."""
    facts = packed.facts
    indices = splits.split(packed.labels.tolist(), packed.parts.tolist(), data, seed, len(packed.class_names))

    def on_device(name: str) -> Split:
        chosen = np.asarray(indices[name], dtype=np.int64)
        x = torch.from_numpy(packed.images[chosen]).permute(0, 3, 1, 2).contiguous()
        return Split(x.to(device), torch.from_numpy(packed.labels[chosen]).to(device))

    train = on_device("train")
    mean, std = _moments(train.x)
    entry = catalogue.DATASETS.get(data.dataset)
    by_default = entry.flip if entry else True
    return Images(
        facts=facts,
        sha256=packed.sha256,
        train=train,
        validation=on_device("validation"),
        open_test=lambda: on_device("test"),
        mean=mean,
        std=std,
        shift=packed.images.shape[1] // 8 if data.crop else 0,
        flip=by_default if data.flip is None else data.flip,
    )


def order(n: int, batch_size: int, generator: torch.Generator) -> Tensor:
    """A random order of n images as [steps, batch_size]; what does not fill a last batch sits this epoch out.

    Raises:
        ConfigError: if there is not one full batch.
    """
    if problem := splits.batch_problem(n, batch_size):
        raise ConfigError.at("search.batch_size", problem)
    steps = n // batch_size
    permutation = torch.randperm(n, generator=generator, device=generator.device)
    return permutation[: steps * batch_size].view(steps, batch_size)


def parted(labels: Tensor, held: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Numbers of images in two parts, the second of `held` images; each class has its share in both.

    Both are in random order, so that the first few are a sample.
    """
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    places = ((torch.arange(held) + 0.5) * len(labels) / max(1, held)).long()
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[by_class[places]] = True
    return shuffled[~chosen[shuffled]], shuffled[chosen[shuffled]]


def batches(split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All images in their order, for evaluation; the last batch may be smaller."""
    yield from zip(split.x.split(batch_size), split.y.split(batch_size), strict=True)


def normalised(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 [B, C, S, S] as float32 with mean 0 and deviation 1 over the train split."""
    scale = x.new_tensor([1 / (255 * s) for s in std], dtype=torch.float32).view(-1, 1, 1)
    offset = x.new_tensor([m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float32).view(-1, 1, 1)
    return x * scale - offset


def augmented(x: Tensor, generator: torch.Generator, *, shift: int, flip: bool) -> Tensor:
    """Each image of `x` moved by up to `shift` pixels each way, and mirrored half of the time; `x` is not changed.

    Give it normalised images: what moves in from outside is 0, which there is the mean colour.

    Args:
        x: [B, C, S, S].
        generator: all chance comes from here; one that is not on the device of `x` gives the same on every device.
        shift: in pixels; 0 for none.
        flip: whether to mirror.
    """
    n, channels, side, _ = x.shape
    moves = torch.randint(0, 2 * shift + 1, (2, n, 1), generator=generator, device=generator.device).to(x.device)
    mirrored = torch.rand(n, 1, generator=generator, device=generator.device).to(x.device) < (0.5 if flip else 0.0)
    steps = torch.arange(side, device=x.device)
    rows = moves[0] + steps  # [B, S]
    columns = moves[1] + torch.where(mirrored, side - 1 - steps, steps)  # [B, S]
    padded = functional.pad(x, (shift, shift, shift, shift)).contiguous()  # [B, C, W, W]
    width = side + 2 * shift
    pixels = (rows.view(n, side, 1) * width + columns.view(n, 1, side)).view(n, 1, side * side)
    taken = padded.view(n, channels, width * width).gather(2, pixels.expand(n, channels, side * side))
    return taken.view(n, channels, side, side)


def _moments(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel with pixels in 0..1, from whole-number sums: the same on every device."""
    total = torch.zeros(x.shape[1], dtype=torch.int64, device=x.device)
    squares = torch.zeros_like(total)
    for chunk in x.split(4096):
        values = chunk.to(torch.int32)
        total += values.sum(dim=(0, 2, 3), dtype=torch.int64)
        squares += (values * values).sum(dim=(0, 2, 3), dtype=torch.int64)
    n = x.numel() // x.shape[1]
    means = [s / n for s in total.tolist()]
    deviations = [max(q / n - m * m, 1.0) ** 0.5 for q, m in zip(squares.tolist(), means, strict=True)]
    return tuple(m / 255 for m in means), tuple(d / 255 for d in deviations)
