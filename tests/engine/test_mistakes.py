"""What a found network gets wrong: the report agrees with the network, and the pictures with both."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Finished
from numpy.typing import NDArray
from PIL import Image
from small import digits
from torch import Tensor, nn

from nasengine import export, mistakes
from nasengine.data import Split


def tiles(content: bytes, pictures: dict[str, Any]) -> list[NDArray[np.uint8]]:
    """The pictures of a sheet, [S, S] or [S, S, 3]."""
    whole, side = np.asarray(Image.open(io.BytesIO(content))), pictures["side"]
    return [
        whole[row : row + side, column : column + side]
        for row in range(0, whole.shape[0], side)
        for column in range(0, side * pictures["columns"], side)
    ]


def test_the_matrix_counts_every_validation_image_and_its_diagonal_is_the_accuracy(run: Finished) -> None:
    report = run.report
    confusion, n = np.array(report["confusion"]), report["data"]["splits"]["validation"]
    assert confusion.shape == (10, 10) and confusion.sum() == n
    assert np.trace(confusion) / n == pytest.approx(report["accuracy"]["validation"], abs=1e-6)
    wrong = [[true, predicted, confusion[true, predicted]] for true, predicted, _ in report["confused"]]
    assert wrong == report["confused"] and sum(count for *_, count in wrong) == n - np.trace(confusion)


def test_the_network_says_of_each_picture_what_the_report_says(run: Finished) -> None:
    report, network = run.report, export.loaded(run.result)
    pictures = tiles((run.result / report["pictures"]["file"]).read_bytes(), report["pictures"])
    assert report["classes"] == network.classes and report["mistakes"] and len(report["examples"]) == 8
    assert [one["tile"] for one in [*report["examples"], *report["mistakes"]]] == list(
        range(8 + len(report["mistakes"]))
    )
    for wrong in report["mistakes"]:
        chances = network(network.preprocess(pictures[wrong["tile"]])).detach().softmax(1)[0]
        assert int(chances.argmax()) == wrong["predicted"] != wrong["true"]
        assert float(chances.max()) == pytest.approx(wrong["probability"], abs=1e-3)
    counts = {(true, predicted): count for true, predicted, count in report["confused"]}
    shown = [(wrong["true"], wrong["predicted"]) for wrong in report["mistakes"]]
    assert all(shown.count(pair) <= counts[pair] for pair in shown)
    assert set(shown) == set(counts) or len(shown) == mistakes.SHOWN, "no pair is passed over while there is room"


def test_the_pictures_are_those_of_the_validation_split() -> None:
    images = digits()
    judgement = mistakes.judged(Anything(10), images)
    pictures = tiles(judgement.sheet, judgement.told["pictures"])
    for one in [*judgement.told["examples"], *judgement.told["mistakes"]]:
        assert np.array_equal(pictures[one["tile"]], images.validation.x[one["image"], 0])
        assert images.validation.y[one["image"]] == one["true"]
    assert mistakes.judged(Anything(10), images) == judgement


class Anything(nn.Module):
    """A network that says anything, always the same of the same image."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1).sum(1, keepdim=True) * torch.arange(1.0, self.classes + 1)).sin()


def made(classes: int, side: int, n: int = 300, channels: int = 3) -> Any:
    stream = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8, generator=stream)
    split = Split(x, torch.arange(n) % classes)
    names = [f"class {i}" for i in range(classes)]
    return SimpleNamespace(validation=split, class_names=names, mean=(0.5,) * channels, std=(0.2,) * channels)


def test_of_very_many_classes_the_most_confused_pairs_are_told() -> None:
    told = mistakes.judged(Anything(mistakes.MATRIX_CLASSES + 1), made(mistakes.MATRIX_CLASSES + 1, 4)).told
    assert told["confusion"] is None and 0 < len(told["confused"]) <= mistakes.PAIRS
    assert (
        mistakes.judged(Anything(mistakes.MATRIX_CLASSES), made(mistakes.MATRIX_CLASSES, 4)).told["confusion"]
        is not None
    )


@pytest.mark.parametrize(("side", "shown"), [(32, 60), (256, 24), (1024, 0)])
def test_of_large_images_fewer_are_shown(side: int, shown: int) -> None:
    n = 80 if side < 1024 else 12
    judgement = mistakes.judged(Anything(4), made(4, side, n, 1))
    assert len(judgement.told["mistakes"]) == shown and len(judgement.told["examples"]) == 8
    assert Image.open(io.BytesIO(judgement.sheet)).mode == "L"
