"""Promises of nasengine.splits."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasengine import catalogue, splits
from nasengine.config import DataConfig
from nasengine.errors import EngineError
from nasengine.splits import PARTS, DataFacts

per_class = st.fixed_dictionaries(
    {
        "all": st.integers(0, 60),
        "train": st.integers(0, 60),
        "validation": st.integers(0, 20),
        "test": st.integers(0, 20),
    }
).filter(lambda counts: counts["all"] + counts["train"] > 0)  # packing refuses a class without training images
data_sets = st.lists(per_class, min_size=2, max_size=8)
fractions = st.floats(0.01, 0.5)
configs = st.builds(
    DataConfig, validation_fraction=fractions, test_fraction=fractions, limit=st.none() | st.integers(20, 400)
)


def images_of(classes: list[dict[str, int]], order: int = 0) -> tuple[list[int], list[str]]:
    """Labels and parts of a data set with these counts, in some order."""
    rows = [(label, part) for label, counts in enumerate(classes) for part, n in counts.items() for _ in range(n)]
    random.Random(order).shuffle(rows)
    return [label for label, _ in rows], [part for _, part in rows]


def facts_of(classes: list[dict[str, int]]) -> DataFacts:
    names = tuple(f"class {i}" for i in range(len(classes)))
    return DataFacts("some", 3, names, {part: tuple(counts[part] for counts in classes) for part in PARTS})


@given(data_sets, configs, st.integers(0, 1000))
@settings(max_examples=200, deadline=None)
def test_counts_and_sizes_predict_split_exactly(classes: list[dict[str, int]], data: DataConfig, seed: int) -> None:
    labels, parts = images_of(classes, seed)
    found = splits.split(labels, parts, data, seed, len(classes))
    counted = {
        name: tuple(Counter(labels[i] for i in indices)[label] for label in range(len(classes)))
        for name, indices in found.items()
    }
    assert counted == splits.counts(facts_of(classes), data)
    assert {name: len(indices) for name, indices in found.items()} == splits.sizes(facts_of(classes), data)


@given(data_sets, configs, st.integers(0, 1000))
@settings(max_examples=200, deadline=None)
def test_splits_are_disjoint_and_without_a_limit_leave_nothing_out(
    classes: list[dict[str, int]], data: DataConfig, seed: int
) -> None:
    labels, parts = images_of(classes)
    found = splits.split(labels, parts, data, seed, len(classes))
    together = [index for indices in found.values() for index in indices]
    assert len(set(together)) == len(together)
    if data.limit is None:
        assert sorted(together) == list(range(len(labels)))
    assert all(indices == sorted(indices) for indices in found.values())


@given(data_sets, configs, st.integers(0, 1000))
@settings(max_examples=200, deadline=None)
def test_images_stay_in_the_part_they_were_given_under(
    classes: list[dict[str, int]], data: DataConfig, seed: int
) -> None:
    labels, parts = images_of(classes)
    found = splits.split(labels, parts, data, seed, len(classes))
    assert {i for i, part in enumerate(parts) if part == "test"} <= set(found["test"])
    assert not {i for i, part in enumerate(parts) if part == "validation"} & {*found["train"], *found["test"]}
    for label, counts in enumerate(classes):
        origins = {name: {parts[i] for i in indices if labels[i] == label} for name, indices in found.items()}
        assert origins["train"] <= {"all", "train"}
        if counts["test"]:
            assert origins["test"] == {"test"}
        if counts["validation"]:
            assert origins["validation"] <= {"validation"}


@given(data_sets, configs)
@settings(max_examples=200, deadline=None)
def test_every_class_keeps_a_train_image(classes: list[dict[str, int]], data: DataConfig) -> None:
    assert min(splits.counts(facts_of(classes), data)["train"]) >= 1


@given(st.lists(st.integers(4, 500), min_size=2, max_size=12), fractions, fractions)
@settings(max_examples=200, deadline=None)
def test_each_class_is_divided_as_asked_to_within_one_image(
    pools: list[int], validation_fraction: float, test_fraction: float
) -> None:
    data = DataConfig(validation_fraction=validation_fraction, test_fraction=test_fraction)
    facts = DataFacts("some", 3, tuple(map(str, pools)), {"all": tuple(pools)})
    counts = splits.counts(facts, data)
    for n, validation, test in zip(pools, counts["validation"], counts["test"], strict=True):
        assert abs(test - max(1, test_fraction * n)) <= 1
        assert abs(validation - max(1, validation_fraction * (n - test))) <= 1


@given(st.lists(st.integers(20, 500), min_size=2, max_size=12), st.integers(24, 600))
@settings(max_examples=200, deadline=None)
def test_a_limit_is_met_exactly_and_shared_out_evenly(pools: list[int], limit: int) -> None:
    facts = DataFacts("some", 3, tuple(map(str, pools)), {"train": tuple(pools), "test": tuple(pools)})
    counts = splits.counts(facts, DataConfig(limit=limit))
    kept = [t + v for t, v in zip(counts["train"], counts["validation"], strict=True)]
    assert sum(kept) == min(limit, sum(pools))
    share = min(1.0, limit / sum(pools))
    pinned = len(pools)  # classes raised to one image take it from the others, at most one image a class
    assert all(abs(k - share * n) <= 1 + pinned * n / sum(pools) for k, n in zip(kept, pools, strict=True))


@given(data_sets, st.integers(20, 400), st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_a_limit_never_touches_the_test_split(classes: list[dict[str, int]], limit: int, seed: int) -> None:
    labels, parts = images_of(classes)
    whole = splits.split(labels, parts, DataConfig(), seed, len(classes))
    limited = splits.split(labels, parts, DataConfig(limit=limit), seed, len(classes))
    assert limited["test"] == whole["test"]
    assert len(limited["train"]) + len(limited["validation"]) <= max(limit, len(classes))


def test_the_seed_alone_decides_the_split() -> None:
    labels, parts = images_of([{"all": 50}, {"all": 30}])
    one, again, other = (splits.split(labels, parts, DataConfig(), seed, 2) for seed in (7, 7, 8))
    assert one == again
    assert one["test"] != other["test"] and one["validation"] != other["validation"]


@pytest.mark.parametrize(("n", "expected"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (4, (2, 1, 1))])
@pytest.mark.parametrize("share", [0.01, 0.15, 0.5])
def test_tiny_classes_are_divided_train_first_then_test_then_validation(
    n: int, expected: tuple[int, int, int], share: float
) -> None:
    """One image trains; of two one tests; of three each split has one; a fourth trains, or with half and half tests."""
    data = DataConfig(validation_fraction=share, test_fraction=share)
    counts = splits.counts(DataFacts("tiny", 1, ("it",), {"all": (n,)}), data)
    if (n, share) == (4, 0.5):
        expected = (1, 1, 2)
    assert (counts["train"][0], counts["validation"][0], counts["test"][0]) == expected


def test_given_train_and_test_folders_leave_only_validation_to_hold_out() -> None:
    facts = DataFacts("folders", 3, ("a", "b"), {"train": (100, 40), "test": (10, 5)})
    assert splits.counts(facts, DataConfig()) == {"train": (85, 34), "validation": (15, 6), "test": (10, 5)}


def test_a_class_that_the_test_folder_lacks_holds_out_its_own() -> None:
    facts = DataFacts("folders", 3, ("a", "b"), {"train": (100, 100), "test": (10, 0)})
    assert splits.counts(facts, DataConfig())["test"] == (10, 20)


def test_a_limit_below_the_number_of_classes_keeps_one_image_each() -> None:
    facts = DataFacts("many", 3, tuple(map(str, range(30))), {"train": (50,) * 30})
    assert splits.counts(facts, DataConfig(limit=20))["train"] == (1,) * 30


@pytest.mark.parametrize("name", catalogue.DATASETS)
def test_facts_of_built_in_data_sets_agree_with_the_catalogue(name: str) -> None:
    entry, facts = catalogue.DATASETS[name], splits.builtin_facts(name)
    assert sum(facts.given.get("test", ())) == entry.test
    assert sum(facts.given.get("train", facts.given.get("all", ()))) == entry.train
    assert all(len(counts) == entry.classes == len(facts.class_names) for counts in facts.given.values())
    assert facts.channels == entry.channels


def test_facts_survive_json() -> None:
    facts = splits.builtin_facts("svhn")
    assert DataFacts.from_json(facts.to_json()) == facts


@pytest.mark.parametrize(
    "raw",
    [None, [], {}, {"name": "x", "channels": 2, "class_names": ["a"], "given": {}},
     {"name": "x", "channels": 3, "class_names": ["a"], "given": {"all": [1, 2]}},
     {"name": "x", "channels": 3, "class_names": ["a"], "given": {"most": [1]}},
     {"name": "x", "channels": 3, "class_names": ["a"], "given": {"all": 1}}],
)  # fmt: skip
def test_what_are_not_facts_is_refused(raw: object) -> None:
    with pytest.raises(EngineError, match=r"these are not the facts of a data set: .*; pack the images again"):
        DataFacts.from_json(raw)


def test_a_batch_may_be_as_large_as_the_train_split_and_no_larger() -> None:
    assert splits.batch_problem(80, 80) is None
    assert splits.batch_problem(80, 96) == "96 is larger than the train split of 80 images; use at most 80"


@given(st.integers(0, 10**6), st.floats(0, 0.5))
def test_what_is_held_for_decisions_is_the_share_that_was_asked_and_never_one_image(train: int, share: float) -> None:
    held = splits.held_for_decisions(train, share)
    assert held == 0 or (held >= 2 and share * train - 1 < held <= share * train)
    assert held > 0 or share * train < 2


def test_splits_need_neither_torch_nor_numpy() -> None:
    code = "import sys, nasengine.splits; sys.exit(bool({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
