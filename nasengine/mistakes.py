"""What a found network gets wrong: which classes it takes for which others, and the images worth a look.

Judged on the validation split, whose images may be shown; the test split is looked at once, for one number.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from nasengine import data
from nasengine.data import Images
from nasengine.export import SHEET
from nasengine.train import EVALUATION_BATCH

MATRIX_CLASSES = 40
"""Of more classes the most confused pairs are told instead of a matrix."""
PAIRS = 100
EXAMPLES, SHOWN = 8, 60
"""Images to try the network with, and wrong ones to look at."""
SHEET_PIXELS, COLUMNS = 2**21, 8
"""Of large images fewer are shown, so that the sheet keeps within so many pixels; its tiles in a row."""


@dataclass(frozen=True)
class Judgement:
    """What goes into the report, and the sheet of pictures that its tiles are numbered in, as PNG."""

    told: dict[str, Any]
    sheet: bytes


@torch.no_grad()
def judged(network: nn.Module, images: Images) -> Judgement:
    """How the network, on the device of the images and in eval mode, does on each validation image."""
    split = images.validation
    sure, guessed = [], []
    for x, _ in data.batches(split, EVALUATION_BATCH):
        best = network(data.normalised(x, images.mean, images.std)).softmax(1).max(1)
        sure.append(best.values.cpu())
        guessed.append(best.indices.cpu())
    truth, predicted, probability = split.y.tolist(), torch.cat(guessed).tolist(), torch.cat(sure).tolist()
    classes = len(images.class_names)
    pairs = confused(truth, predicted)
    room = max(COLUMNS, SHEET_PIXELS // split.x.shape[-1] ** 2)
    tried = examples(truth, classes, min(EXAMPLES, room))
    wrong = worth_showing(truth, predicted, probability, pairs, min(SHOWN, room - len(tried)))
    return Judgement(
        told={
            "classes": list(images.class_names),
            "confusion": matrix(truth, predicted, classes) if classes <= MATRIX_CLASSES else None,
            "confused": [[*pair, count] for pair, count in list(pairs.items())[:PAIRS]],
            "pictures": {"file": SHEET, "side": split.x.shape[-1], "columns": COLUMNS},
            "examples": [{"tile": tile, "image": i, "true": truth[i]} for tile, i in enumerate(tried)],
            "mistakes": [
                {
                    "tile": tile,
                    "image": i,
                    "true": truth[i],
                    "predicted": predicted[i],
                    "probability": round(probability[i], 4),
                }
                for tile, i in enumerate(wrong, start=len(tried))
            ],
        },
        sheet=sheet(split.x[torch.tensor([*tried, *wrong], device=split.x.device)]),
    )


def matrix(truth: Sequence[int], predicted: Sequence[int], classes: int) -> list[list[int]]:
    """Counts: a row for each true class, a column for each predicted one.

    >>> matrix([0, 0, 1], [0, 1, 1], 2)
    [[1, 1], [0, 1]]
    """
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (list(truth), list(predicted)), 1)
    return [[int(count) for count in row] for row in counts]


def confused(truth: Sequence[int], predicted: Sequence[int]) -> dict[tuple[int, int], int]:
    """(true, predicted) -> images, of what is wrong; the most frequent pair first.

    >>> confused([0, 1, 2, 2, 2], [0, 0, 1, 1, 2])
    {(2, 1): 2, (1, 0): 1}
    """
    counts: dict[tuple[int, int], int] = {}
    for pair in zip(truth, predicted, strict=True):
        if pair[0] != pair[1]:
            counts[pair] = counts.get(pair, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def worth_showing(
    truth: Sequence[int],
    predicted: Sequence[int],
    probability: Sequence[float],
    pairs: Mapping[tuple[int, int], int],
    most: int,
) -> list[int]:
    """Numbers of wrong images: from each pair in turn the one that the network was surest of, until there are `most`.

    >>> truth, predicted, probability = [0, 0, 0, 1, 2], [1, 1, 1, 0, 2], [0.5, 0.9, 0.7, 0.6, 1.0]
    >>> worth_showing(truth, predicted, probability, {(0, 1): 3, (1, 0): 1}, 3)
    [1, 3, 2]
    """
    of_pair: dict[tuple[int, int], list[int]] = {pair: [] for pair in pairs}
    for i in sorted(range(len(truth)), key=lambda i: (-probability[i], i)):
        if truth[i] != predicted[i]:
            of_pair[truth[i], predicted[i]].append(i)
    rounds = max(map(len, of_pair.values()), default=0)
    return [left[turn] for turn in range(rounds) for left in of_pair.values() if turn < len(left)][:most]


def examples(truth: Sequence[int], classes: int, most: int) -> list[int]:
    """Numbers of images to try: the first of classes spread evenly over all, then their second ones, and so on.

    >>> examples([0, 0, 1, 1, 1, 2], 3, 2), examples([0, 0, 1, 1, 1], 2, 4)
    ([0, 5], [0, 2, 1, 3])
    """
    chosen = sorted({round(place) for place in np.linspace(0, classes - 1, min(most, classes))})
    of_class = [[i for i, label in enumerate(truth) if label == wanted] for wanted in chosen]
    rounds = max(map(len, of_class), default=0)
    return [left[turn] for turn in range(rounds) for left in of_class if turn < len(left)][:most]


def sheet(images: Tensor) -> bytes:
    """uint8 [N, C, S, S], N at least 1, as the tiles of one PNG: COLUMNS in a row, from the upper left.

    The same images give the same bytes.
    """
    tiles = images.permute(0, 2, 3, 1).cpu().numpy()
    n, side, _, channels = tiles.shape
    rows = -(-n // COLUMNS)
    whole: NDArray[np.uint8] = np.zeros((rows * COLUMNS, side, side, channels), dtype=np.uint8)
    whole[:n] = tiles
    grid = whole.reshape(rows, COLUMNS, side, side, channels).transpose(0, 2, 1, 3, 4)
    pixels = grid.reshape(rows * side, COLUMNS * side, channels)
    picture, file = Image.fromarray(pixels[..., 0] if channels == 1 else pixels), io.BytesIO()
    picture.save(file, "PNG", compress_level=6)
    return file.getvalue()
