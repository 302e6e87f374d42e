"""How images are divided into train, validation and test: arithmetic on counts, and the very same on images.

Imports neither torch nor numpy, so that a form can say the sizes before anything is read.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasengine import catalogue
from nasengine.config import DataConfig
from nasengine.errors import EngineError

PARTS = ("all", "train", "validation", "test")
"""Where an image may come from: no part at all, or the part its folder names."""
SPLITS = ("train", "validation", "test")
UNEVEN: dict[str, dict[str, tuple[int, ...]]] = {
    "digits": {"all": (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)},
    "svhn": {
        "train": (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659),
        "test": (1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595),
    },
}
"""Images of each class where a built-in data set has not equally many."""


@dataclass(frozen=True)
class DataFacts:
    """What must be known of images to plan a search: how many there are, of which kind, given under which part.

    Attributes:
        channels: 1 (grey) or 3.
        given: part -> images of each class, in the order of `class_names`; a part that is missing has none.
    """

    name: str
    channels: int
    class_names: tuple[str, ...]
    given: Mapping[str, tuple[int, ...]]

    def to_json(self) -> dict[str, object]:
        """Plain values, for facts.json."""
        return {
            "name": self.name,
            "channels": self.channels,
            "class_names": list(self.class_names),
            "given": {part: list(counts) for part, counts in self.given.items()},
        }

    @classmethod
    def from_json(cls, raw: Any) -> DataFacts:
        """The facts that `to_json` wrote.

        Raises:
            EngineError: if it is something else.
        """
        match raw:
            case {"name": str(name), "channels": 1 | 3 as channels, "class_names": [*names], "given": {**given}}:
                rows = {str(part): tuple(row) for part, row in given.items() if isinstance(row, list)}
                sound = len(rows) == len(given) and all(len(row) == len(names) for row in rows.values())
                if sound and rows.keys() <= set(PARTS):
                    return cls(name=name, channels=int(channels), class_names=tuple(str(n) for n in names), given=rows)
        raise EngineError(f"these are not the facts of a data set: {str(raw)[:200]}; pack the images again")


def builtin_facts(name: str) -> DataFacts:
    """Facts of a built-in data set without reading it.

    >>> builtin_facts("cifar10").given["test"][:3]
    (1000, 1000, 1000)
    """
    entry = catalogue.DATASETS[name]
    totals = {"train": entry.train, "test": entry.test} if entry.test else {"all": entry.train}
    evenly = {part: (total // entry.classes,) * entry.classes for part, total in totals.items()}
    return DataFacts(
        name=name,
        channels=entry.channels,
        class_names=tuple(str(i) for i in range(entry.classes)),
        given=UNEVEN.get(name, evenly),
    )


def counts(facts: DataFacts, data: DataConfig) -> dict[str, tuple[int, ...]]:
    """Split -> images of each class: exactly what `split` will give for images with these counts."""
    none = (0,) * len(facts.class_names)
    given = {part: facts.given.get(part, none) for part in PARTS}
    pools = [n + m for n, m in zip(given["all"], given["train"], strict=True)]
    test = [
        e or _held_out(n, data.test_fraction, reserve=1 if v else 2)
        for n, v, e in zip(pools, given["validation"], given["test"], strict=True)
    ]
    left = [n if e else n - held for n, e, held in zip(pools, given["test"], test, strict=True)]
    usable = [n + v for n, v in zip(left, given["validation"], strict=True)]
    kept = _shares(usable, data.limit)
    validation = [
        _held_out(k, v / (n + v) if v else data.validation_fraction, reserve=1) if n else min(k, v)
        for k, n, v in zip(kept, left, given["validation"], strict=True)
    ]
    train = [k - v for k, v in zip(kept, validation, strict=True)]
    return {"train": tuple(train), "validation": tuple(validation), "test": tuple(test)}


def sizes(facts: DataFacts, data: DataConfig) -> dict[str, int]:
    """Images in train, validation and test.

    >>> sizes(builtin_facts("digits"), DataConfig())
    {'train': 1222, 'validation': 216, 'test': 359}
    """
    return {name: sum(numbers) for name, numbers in counts(facts, data).items()}


def split(
    labels: Sequence[int], parts: Sequence[str], data: DataConfig, seed: int, classes: int
) -> dict[str, list[int]]:
    """Rising indices of the train, validation and test images: disjoint, stratified, the same for the same seed.

    Args:
        labels: class of each image, 0 to classes - 1.
        parts: part (one of PARTS) that each image was given under.
        data: says what is held out of images that come without a part. `limit` bounds train and validation together
            (though each class keeps one image) and never touches the test split.
        seed: which of the equally good splits.
        classes: how many classes there are.
    """
    found: dict[str, list[list[int]]] = {part: [[] for _ in range(classes)] for part in PARTS}
    for index, (label, part) in enumerate(zip(labels, parts, strict=True)):
        found[part][label].append(index)
    given = {part: tuple(len(indices) for indices in found[part]) for part in PARTS}
    facts = DataFacts(name="", channels=1, class_names=("",) * classes, given=given)
    wanted = counts(facts, data)
    result: dict[str, list[int]] = {name: [] for name in SPLITS}
    for label in range(classes):
        random_order = random.Random(f"split {seed} {label}")
        pool = found["all"][label] + found["train"][label]
        validation, test = found["validation"][label], found["test"][label]
        random_order.shuffle(pool)
        random_order.shuffle(validation)
        if not test:
            held = wanted["test"][label]
            test, pool = pool[:held], pool[held:]
        if not validation:
            held = wanted["validation"][label]
            validation, pool = pool[:held], pool[held:]
        result["train"] += pool[: wanted["train"][label]]
        result["validation"] += validation[: wanted["validation"][label]]
        result["test"] += test
    return {name: sorted(indices) for name, indices in result.items()}


def held_for_decisions(train: int, fraction: float) -> int:
    """How many of the training images a search holds out for its decisions; at least two, or none.

    >>> held_for_decisions(1000, 0.25), held_for_decisions(1000, 0.0), held_for_decisions(5, 0.25)
    (250, 0, 0)
    """
    held = int(train * fraction)
    return held if held > 1 else 0


def batch_problem(train: int, batch_size: int) -> str | None:
    """Why a train split of so many images cannot fill one batch, or None if it can.

    >>> batch_problem(80, 96)
    '96 is larger than the train split of 80 images; use at most 80'
    """
    if batch_size <= train:
        return None
    return f"{batch_size:,} is larger than the train split of {train:,} images; use at most {train:,}"


def _held_out(n: int, fraction: float, *, reserve: int) -> int:
    """How many of `n` images to hold out: about the fraction, at least one, leaving `reserve` where that is possible.

    >>> [_held_out(n, 0.5, reserve=2) for n in (1, 2, 3, 10)]
    [0, 1, 1, 5]
    """
    if n < 2:
        return 0
    return max(1, min(int(n * fraction + 0.5), n - reserve))


def _shares(pools: Sequence[int], limit: int | None) -> list[int]:
    """`limit` shared out in proportion to the pools by largest remainders; a pool that has any keeps at least one.

    >>> _shares([100, 50, 2], 30), _shares([5, 5, 0], 1)
    ([19, 10, 1], [1, 1, 0])
    """
    if limit is None or limit >= sum(pools):
        return list(pools)
    shares = [min(1, n) for n in pools]
    larger = [i for i, n in enumerate(pools) if n]
    while True:
        rest = limit - (sum(shares) - len(larger))
        total = sum(pools[i] for i in larger)
        remaining = [i for i in larger if pools[i] * rest >= total]
        if len(remaining) == len(larger):
            break
        larger = remaining
    for i in larger:
        shares[i] = pools[i] * rest // total
    spare = max(0, limit - sum(shares)) if larger else 0
    for i in sorted(larger, key=lambda i: (-(pools[i] * rest % total), i))[:spare]:
        shares[i] += 1
    return shares
