"""What is warned of before a search starts: each sentence where it is due, and none where it is not."""

from __future__ import annotations

from typing import Any

import pytest

from nasengine import cautions
from nasengine.config import parse
from nasengine.durations import duration
from nasengine.outlook import batch_size, learning_images, outlook
from nasengine.splits import DataFacts, builtin_facts, counts, sizes

DIGITS = builtin_facts("digits")


def warned(raw: dict[str, Any] | None = None, facts: DataFacts | None = None) -> list[tuple[str, str]]:
    """Warnings of a quick search of the digits with these changes, which must be able to start."""
    config = parse({"data": {"dataset": "digits"}, **(raw or {})})
    look = outlook(config, facts or builtin_facts(config.data.dataset))
    assert look.problems == ()
    return list(look.warnings)


def facts(train: tuple[int, ...], test: tuple[int, ...] | None = None) -> DataFacts:
    """Images with a validation and a test part of their own, so that `train` is what is trained on."""
    rest = tuple(200 for _ in train)
    names = tuple(f"c{i}" for i in range(len(train)))
    return DataFacts("own", 1, names, {"train": train, "validation": rest, "test": test or rest})


ENOUGH = {"search": {"epochs": 200}}
"""Epochs with which even a few images make steps enough."""


@pytest.mark.parametrize("space", ["cells", "chain"])
@pytest.mark.parametrize("dataset", ["digits", "cifar10", "cifar100", "fashion_mnist", "svhn"])
def test_nobody_is_warned_of_what_a_preset_does_with_a_built_in_data_set(dataset: str, space: str) -> None:
    assert warned({"data": {"dataset": dataset}, "space": {"kind": space}}) == []


def test_a_search_that_cannot_start_has_problems_and_no_warnings() -> None:
    config = parse({"data": {"dataset": "digits", "limit": 30}, "target": {"value": 1}})
    look = outlook(config, DIGITS)
    assert look.problems and look.warnings == ()


# Images


def test_a_class_of_few_images_is_named_with_their_number() -> None:
    assert warned(ENOUGH, facts((300, 3))) == [
        (
            "data.dataset",
            "'c1' has 3 training images: a network learns such few by heart instead of what they share; add images to "
            "have 20 or more of it",
        ),
        (
            "data.dataset",
            "'c0' has 300 training images, 'c1' 3: answering 'c0' to everything is right for 99 % of them, and such a "
            "class drowns the others; give the classes more equal numbers of images",
        ),
    ]
    assert warned(ENOUGH, facts((100, 20))) == []
    ((field, sentence),) = warned(ENOUGH, facts((100, 19)))
    assert field == "data.dataset" and "'c1' has 19 training images" in sentence


def test_many_classes_of_few_images_are_counted() -> None:
    ((field, sentence),) = warned(ENOUGH, facts((50, 10, 8, 50)))
    assert field == "data.dataset"
    assert sentence.startswith("2 of 4 classes have fewer than 20 training images ('c2' has 8): ")


def test_classes_that_are_all_small_are_not_counted() -> None:
    assert warned(ENOUGH, facts((10, 8)))[0][1].startswith("all 2 classes have fewer than 20 training images")


def test_where_the_limit_makes_classes_small_the_limit_is_to_be_raised() -> None:
    found = warned({"data": {"dataset": "digits", "limit": 120}, **ENOUGH})
    assert [field for field, _ in found] == ["data.limit"]
    assert "; raise the limit" in found[0][1]
    enough = {"dataset": "digits", "limit": 260}
    assert min(counts(DIGITS, parse({"data": enough}).data)["train"]) >= cautions.FEW_A_CLASS
    assert warned({"data": enough, **ENOUGH}) == []


def test_classes_are_very_unequal_from_ten_times_on() -> None:
    assert warned(ENOUGH, facts((500, 51))) == []
    ((field, sentence),) = warned(ENOUGH, facts((500, 50)))
    assert field == "data.dataset" and "answering 'c0' to everything is right for 91 % of them" in sentence


def test_few_test_images_tell_how_little_they_tell() -> None:
    ((field, sentence),) = warned(ENOUGH, facts((100, 100), test=(13, 12)))
    assert field == "data.dataset"
    assert sentence.startswith("25 test images tell accuracy to about ±10 points only")
    own_share = DataFacts("own", 1, ("a", "b"), {"all": (150, 150)})
    ((field, sentence),) = warned({"data": {"dataset": "digits", "test_fraction": 0.2}, **ENOUGH}, own_share)
    assert field == "data.test_fraction" and sentence.startswith("60 test images")
    assert warned(ENOUGH, facts((100, 100), test=(50, 50))) == []


def test_a_long_name_of_a_class_is_cut() -> None:
    named = DataFacts("own", 1, ("x" * 300, "b"), {"train": (10, 99), "validation": (9, 9), "test": (99, 99)})
    ((_, sentence),) = warned(ENOUGH, named)
    assert f"'{'x' * 40}…' has 10" in sentence and len(sentence) < 250


def test_images_are_not_to_be_enlarged() -> None:
    assert warned({"data": {"dataset": "digits", "image_size": 16}}) == [
        (
            "data.image_size",
            "the images have 8 pixels a side: at 16 they show no more and take 4 times the work; give 8",
        )
    ]
    assert warned({"data": {"dataset": "digits", "image_size": 8}}) == []


# Targets


@pytest.mark.parametrize("metric", ["params", "macs"])
def test_a_target_at_the_lower_edge_is_warned_of_with_one_that_is_not(metric: str) -> None:
    look = outlook(parse({"target": {"metric": metric, "value": "40%"}}), DIGITS)
    ((field, sentence),) = warned({"target": {"metric": metric, "value": look.smallest_size}})
    assert field == "target.value" and f"smallest network ({look.smallest_size:,})" in sentence
    enough = int(sentence.partition("give ")[2].partition(" or more")[0].replace(",", ""))
    assert warned({"target": {"metric": metric, "value": enough}}) == []
    assert len(warned({"target": {"metric": metric, "value": enough - 1}})) == 1


def test_a_target_at_the_upper_edge_prunes_hardly_anything() -> None:
    full = outlook(parse({}), DIGITS).full_size
    ((field, sentence),) = warned({"target": {"value": "95%"}})
    assert field == "target.value" and sentence.startswith(f"{int(0.95 * full):,} parameters are 95 % of the whole")
    assert sentence.endswith(f"give less, such as {int(0.3 * full):,}")
    assert warned({"target": {"value": "90%"}}) == []


def test_each_further_target_is_warned_of_where_it_was_given() -> None:
    found = warned({"target": {"value": "40%", "also": ["95%", 500]}, "search": {"epochs": 40}})
    assert [field for field, _ in found] == ["target.also", "target.also"]


def test_more_classes_than_the_last_layer_can_tell_apart_at_that_size() -> None:
    """A quick space of 8 channels ends with 64 features, of which a quarter stays: 17 x 100 with the bias."""
    raw = {"data": {"dataset": "cifar100"}}
    heads = [sentence for _, sentence in warned(raw | {"target": {"value": 3_399}}) if "last layer" in sentence]
    assert heads == [
        "for 100 classes the last layer alone takes 1,700 of the 3,399 parameters, however much is pruned: little is "
        "left to look at images with; give 3,400 or more, fewer classes, or fewer channels"
    ]
    assert not any("last layer" in sentence for _, sentence in warned(raw | {"target": {"value": 3_400}}))
    limited = warned(raw | {"target": {"metric": "macs", "value": "40%", "limits": {"params": 3_000}}})
    assert [field for field, _ in limited] == ["target.limits.params"]
    unfiltered = {"strategy": {"granularities": ["operation", "weight"]}, "target": {"value": 12_000}}
    assert any("takes 6,500 of the 12,000" in sentence for _, sentence in warned(raw | unfiltered))


# Length


def test_fewer_epochs_a_stage_than_were_measured_are_warned_of() -> None:
    assert warned({"search": {"epochs": 10}}) == [
        (
            "search.epochs",
            "10 epochs for 2 stages are 5 each, fewer than in any search we measured (6): what has not gone by a "
            "stage's end is cut at once; give 12 or more, or fewer stage ends",
        )
    ]
    assert warned({"target": {"value": "40%", "also": ["20%"]}}) == [], "a preset gives each target its epochs"
    ((_, sentence),) = warned({"target": {"value": "40%", "also": ["20%"]}, "search": {"epochs": 14}})
    assert "; give 16 or more" in sentence


def test_too_few_steps_are_warned_of_with_epochs_that_are_enough() -> None:
    config = parse({})
    train = sizes(DIGITS, config.data)["train"]
    in_epoch = learning_images(config, train) // batch_size(config, train)
    assert in_epoch * config.search.epochs == cautions.QUICK_STEPS
    few = facts((40, 40))
    ((field, sentence),) = warned(facts=few)
    assert field == "search.epochs" and sentence.startswith("12 epochs of so few images are 12 steps of training, less")
    enough = int(sentence.partition("give ")[2].partition(" epochs")[0])
    assert enough == cautions.QUICK_STEPS and warned({"search": {"epochs": enough}}, few) == []


def test_more_than_a_day_without_a_gpu_is_said() -> None:
    asked = {"preset": "thorough", "data": {"dataset": "cifar10"}}
    seconds = outlook(parse(asked), builtin_facts("cifar10")).estimate["seconds_cpu"]
    ((field, sentence),) = warned(asked)
    assert seconds > 2 * cautions.DAY and field == "preset"
    assert f"without a GPU this takes {duration(seconds)} on one processor core" in sentence
    assert warned(asked | {"runtime": {"device": "cuda"}}) == []


# Operations alone


@pytest.mark.parametrize(
    ("strategy", "mend"),
    [
        ({"kind": "msgdas"}, "let strategy.then be mgas, which prunes filters and weights as well"),
        ({"kind": "dms", "granularities": ["operation"]}, "open filters or weights as well"),
    ],
)
def test_a_few_large_operations_may_miss_the_target_by_far(strategy: dict[str, Any], mend: str) -> None:
    space = {"kind": "chain", "layers": 3, "channels": 8, "kernels": [5], "expansions": [3, 6], "reductions": []}
    changes = {"space": space, "target": {"value": "80%"}}
    ((field, sentence),) = warned({**changes, "strategy": strategy})
    assert field == "target.value"
    assert sentence == (
        "only whole operations are pruned, and the smallest convolution takes 1,096 parameters, 13 % of the target: "
        f"the network may end so far below it; {mend}"
    )
    assert warned({**changes, "strategy": {"kind": "mgas"}}) == []


@pytest.mark.parametrize(("preset", "usual"), [("quick", 1.0), ("standard", 0.55)])
def test_a_share_of_memory_that_sub_graphs_do_not_heed_is_named(preset: str, usual: float) -> None:
    """Where it was asked for, by a method that is bounded nowhere; what follows sub-graphs is."""

    def said(share: float, **method: Any) -> list[str]:
        raw = {"preset": preset, "strategy": method, "runtime": {"memory_share": share}, "target": {"value": "60%"}}
        return [sentence for field, sentence in warned(raw) if field == "runtime.memory_share"]

    assert said(0.3, kind="msgdas") == [
        "MSG-DAS alone keeps all that its sub-graphs compute, so a share of 0.3 changes nothing; where memory is short "
        "give fewer strategy.sub_graphs, or let strategy.memory be sequential"
    ]
    assert said(usual, kind="msgdas") == []
    assert said(0.3, kind="msgdas", then="mgas") == said(0.3, kind="mgas") == []
