"""Promises of nasengine.config: what is wrong is named with its field and its mend, what is left out is filled in."""

from __future__ import annotations

import json
import re
from typing import Any, get_args

import pytest
from small import raw

from nasengine import catalogue, config
from nasengine.config import (
    KINDS,
    METHODS,
    MOST_PROBLEMS,
    NO_AMOUNT,
    PRESETS,
    SPACES,
    SearchConfig,
    TargetConfig,
    document,
    parse,
)
from nasengine.errors import ConfigError
from nasengine.outlook import resolved


def problems(given: Any) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        parse(given)
    return list(caught.value.problems)


DMS = "kind, recipe, granularities, importance, warmup_fraction, decay_fraction, pressure, commit_every"
PARTS = "name, seed, preset, data, space, strategy, target, search, retrain, baseline, runtime"
DATASETS = "digits, cifar10, cifar100, fashion_mnist, svhn, folder, zip"
FEW_PIXELS = "8 pixels are too few for 3 halvings; use at least 16, or fewer reductions"
AMOUNT = "give a number of at least 1, or a percentage such as 40%"
NEITHER = "is neither a number nor a percentage; write for example 20000 or 40%"
TOO_LARGE = (
    "attention is for maps of up to 16 pixels a side, and the last layers have 17; use images of at most 32, more "
    "reductions, or no attention"
)
CHAIN = "kind, layers, channels, kernels, expansions, squeeze_excite, attention, reductions"
CELLS = "kind, cells, channels, nodes, candidates, reductions"
WRONG = [
    ({"nmae": "x"}, "nmae", "there is no such setting; did you mean 'name'?"),
    ({"wholly": 1}, "wholly", f"there is no such setting; use one of {PARTS}"),
    ({"float": 1}, "float", f"there is no such setting; use one of {PARTS}"),
    ({"data.limitt": 30}, "data.limitt", "there is no such setting; did you mean 'limit'?"),
    ({"search.str": 30}, "search.str", "there is no such setting; use one of epochs, batch_size, lr, weight_decay"),
    ({"seed": "1"}, "seed", "'1' is no whole number"),
    ({"seed": 1.5}, "seed", "1.5 is no whole number"),
    ({"seed": True}, "seed", "true is no whole number"),
    ({"seed": -1}, "seed", "-1 is too small; give 0 or more"),
    ({"preset": "slow"}, "preset", "'slow' is not among the choices; use 'quick', 'standard' or 'thorough'"),
    ({"name": "x" * 81}, "name", "it has 81 characters; leave at most 80"),
    ({"name": "x\0"}, "name", r"'x\x00' has control characters; write it without them"),
    ({"data": 3}, "data", "3 is no JSON object; write one in braces"),
    ({"data": None}, "data", "null is no JSON object"),
    ({"space": []}, "space", "this is no JSON object"),
    ({"data.dataset": "digit"}, "data.dataset", "'digit' is not a known data set; did you mean 'digits'?"),
    ({"data.dataset": "xyz"}, "data.dataset", f"'xyz' is not a known data set; use one of {DATASETS}"),
    ({"data.dataset": "zip"}, "data.path", "a data set of kind 'zip' needs the path of the zip"),
    ({"data.dataset": "folder"}, "data.path", "a data set of kind 'folder' needs the path of the folder"),
    ({"data.path": "x"}, "data.path", "'digits' is built in and takes no path; leave it out, or use zip or folder"),
    ({"data.image_size": 9}, "data.image_size", "9 is no multiple of 2; give one"),
    ({"data.image_size": 6}, "data.image_size", "6 is too small; give 8 or more"),
    ({"data.limit": 3}, "data.limit", "3 is too small; give 20 or more"),
    ({"data.test_fraction": 0}, "data.test_fraction", "0 is too small; give more than 0"),
    ({"space.kind": "chains"}, "space.kind", "'chains' is not a known space; did you mean 'chain'?"),
    ({"space.kind": "search"}, "space.kind", "'search' is not a known space; use one of cells, chain"),
    ({"space.kind": "mgas"}, "space.kind", "'mgas' is not a known space; use one of cells, chain"),
    ({"space.kind": None}, "space.kind", "'None' is not a known space; use one of cells, chain"),
    ({"space.kind": ["cells"]}, "space.kind", "is not a known space; did you mean 'cells'?"),
    ({"space.layers": 4}, "space.layers", f"there is no such setting; use one of {CELLS}"),
    ({"strategy.kind": ["mgas"]}, "strategy.kind", "is not a known method; did you mean 'mgas'?"),
    ({"strategy.kind": "mgs"}, "strategy.kind", "'mgs' is not a known method; did you mean 'mgas'?"),
    ({"strategy.kind": "chain"}, "strategy.kind", "'chain' is not a known method; use one of mgas, dms, msgdas, dna"),
    ({"strategy": {"kind": "dms", "cuts": [1]}}, "strategy.cuts", f"there is no such setting; use one of {DMS}"),
    ({"strategy": {"kind": "dms", "pressure": 0}}, "strategy.pressure", "0 is too small; give 0.01 or more"),
    (
        {"strategy": {"kind": "dms", "granularities": ["weight"]}},
        "strategy.granularities",
        "use 'operation' or 'filter'",
    ),
    ({"space.channels": 5}, "space.channels", "5 is no multiple of 2; give one"),
    ({"space.reductions": [2]}, "space.reductions", "cell 2 does not exist; use numbers from 0 to 1"),
    ({"space.reductions": [-1]}, "space.reductions", "cell -1 does not exist; use numbers from 0 to 1"),
    ({"space.reductions": [1, 0]}, "space.reductions", "give each reduction cell once, in rising order"),
    ({"space.reductions": [1, 1]}, "space.reductions", "give each reduction cell once, in rising order"),
    ({"space.reductions": ["1"]}, "space.reductions", "'1' is no whole number"),
    ({"space.candidates": []}, "space.candidates", "too few are given; give at least 1"),
    ({"space.candidates": ["skip_connect", "skip_connect"]}, "space.candidates", "name each operation once"),
    ({"space.candidates": ["conv"]}, "space.candidates", "'conv' is not among the choices; use 'skip_connect'"),
    ({"strategy.granularities": ["filter", "filter"]}, "strategy.granularities", "name each level once"),
    ({"strategy.granularities": []}, "strategy.granularities", "too few are given; give at least 1"),
    (
        {"strategy.recipe": "published", "strategy.ratios": "equal"},
        "strategy.ratios",
        "the published recipe knows learned ones alone; use learned",
    ),
    (
        {"strategy.recipe": "published", "strategy.constant_cost": 0.5},
        "strategy.constant_cost",
        "the published recipe knows no such cost; leave it empty",
    ),
    ({"strategy.constant_cost": 0}, "strategy.constant_cost", "0 is too small; give 0.01 or more"),
    ({"strategy.cuts": [2, 1]}, "strategy.cuts", "give each stage end once, in rising order"),
    ({"strategy.cuts": [2]}, "strategy.cuts", "a stage cannot end after block 2 of 2; use 1 to 1"),
    ({"strategy.cuts": [0]}, "strategy.cuts", "a stage cannot end after block 0 of 2; use 1 to 1"),
    ({"strategy.recipe": "paper"}, "strategy.recipe", "'paper' is not among the choices; use 'coppice' or 'published'"),
    ({"strategy.stage_shares": [0.5] * 2}, "strategy.stage_shares", "2 shares for 1 early stages; give one for each"),
    ({"strategy.stage_shares": []}, "strategy.stage_shares", "0 shares for 1 early stages; give one for each"),
    ({"strategy.stage_shares": [0]}, "strategy.stage_shares", "0 is out of range; give shares above 0 and up to 1"),
    ({"strategy.stage_shares": [40]}, "strategy.stage_shares", "40 is out of range; give shares above 0 and up to 1"),
    ({"strategy.stage_shares": 0.5}, "strategy.stage_shares", "0.5 is no list; write one in brackets"),
    ({"strategy.decision_fraction": 0.6}, "strategy.decision_fraction", "0.6 is too large; give 0.5 or less"),
    ({"strategy.regrow_levels": ["weight"] * 2}, "strategy.regrow_levels", "name each level once"),
    ({"strategy.regrow_levels": ["cell"]}, "strategy.regrow_levels", "use 'operation', 'filter' or 'weight'"),
    (
        {"strategy.recipe": "published", "strategy.regrow_every": 2},
        "strategy.regrow_every",
        "by the published recipe units return after early stages alone; leave it empty",
    ),
    ({"strategy.regrow_every": 0}, "strategy.regrow_every", "0 is too small; give 1 or more"),
    ({"strategy.regrow_fraction": 1}, "strategy.regrow_fraction", "1 is too large; give 0.5 or less"),
    ({"search.epochs": 4}, "search.epochs", "4 is too few for 2 stages; use at least 8, or fewer stage ends"),
    ({"strategy.commit_every": 10**400}, "strategy.commit_every", "is too large; give 2,000 or less"),
    ({"strategy.protect_epochs": 10**400}, "strategy.protect_epochs", "is too large; give 2,000 or less"),
    ({"strategy.regrow_every": 10**400}, "strategy.regrow_every", "is too large; give 2,000 or less"),
    ({"name": "a\n\x1bb\0"}, "name", "'a\\n\\x1bb\\x00' has control characters; write it without them"),
    ({"name": "a\u202eb"}, "name", "'a\\u202eb' has control characters; write it without them"),
    (
        {"space.cells": 12, "space.reductions": [0, 1, 2, 3, 4], "space.channels": 64, "data.image_size": 64},
        "space.channels",
        "64 channels, doubled 5 times, are more than 1,024; use at most 32, or fewer reductions",
    ),
    ({"space.nodes": 9}, "space.nodes", "9 is too large; give 4 or less"),
    ({"space.cells": 3, "space.reductions": [0, 1, 2]}, "data.image_size", FEW_PIXELS),
    (
        {"target.limits.params": 9000},
        "target.limits.params",
        "the target is on parameters already; leave it empty, or limit another",
    ),
    (
        {"target.limits.macs": "lots"},
        "target.limits.macs",
        "'lots' is neither a number nor a percentage; write for example 20000 or 40%",
    ),
    ({"target.limits.macs": True}, "target.limits.macs", f"true {NO_AMOUNT}"),
    ({"target.limits.latency": 5}, "target.limits.latency", "there is no such setting"),
    (
        {"target.limits.latency_ms": 5},
        "target.limits.latency_ms",
        "milliseconds can be the target alone; give them there (target.metric: latency_ms), and params or macs as "
        "limits beside it",
    ),
    (
        {"target.limits.macs": 0},
        "target.limits.macs",
        "0 is out of range; give a number of at least 1, or a percentage such as 40%",
    ),
    ({"target.metric": "speed"}, "target.metric", "is not among the choices; use 'params', 'macs' or 'latency_ms'"),
    ({"target.value": "much"}, "target.value", f"'much' {NEITHER}"),
    ({"target.value": "%"}, "target.value", f"'%' {NEITHER}"),
    ({"target.value": ""}, "target.value", f"'' {NEITHER}"),
    ({"target.value": "140%"}, "target.value", "140% is out of range; give a percentage above 0% and up to 100%"),
    ({"target.value": "0%"}, "target.value", "0% is out of range; give a percentage above 0% and up to 100%"),
    ({"target.value": "nan%"}, "target.value", "nan% is out of range; give a percentage above 0% and up to 100%"),
    ({"target.value": 0}, "target.value", AMOUNT),
    ({"target.value": "-5"}, "target.value", f"-5 is out of range; {AMOUNT}"),
    ({"target.value": "nan"}, "target.value", f"nan is out of range; {AMOUNT}"),
    ({"target.value": "inf"}, "target.value", f"inf is out of range; {AMOUNT}"),
    ({"target.value": "1e999"}, "target.value", f"1e999 is out of range; {AMOUNT}"),
    ({"target.value": float("inf")}, "target.value", f"inf {NO_AMOUNT}"),
    ({"target.value": True}, "target.value", f"true {NO_AMOUNT}"),
    ({"target.value": None}, "target.value", f"null {NO_AMOUNT}"),
    ({"target.also": ["much"]}, "target.also", f"'much' {NEITHER}"),
    ({"target.also": ["50%", "0%"]}, "target.also", "0% is out of range; give a percentage above 0% and up to 100%"),
    ({"target.also": [-5]}, "target.also", f"-5 is out of range; {AMOUNT}"),
    ({"target.also": [None]}, "target.also", f"null {NO_AMOUNT}"),
    ({"target.also": "50%"}, "target.also", "'50%' is no list; write one in brackets"),
    ({"target.also": ["9%"] * 9}, "target.also", "9 are too many; give at most 8"),
    ({"target.also": ["50%"]}, "search.epochs", "8 is too few for 3 stages; use at least 12, or fewer stage ends and"),
    ({"search.lr": 2}, "search.lr", "2 is too large; give 1 or less"),
    ({"retrain.start": "warm"}, "retrain.start", "'warm' is not among the choices; use 'scratch' or 'inherit'"),
    ({"baseline.random": 11}, "baseline.random", "11 is too large; give 10 or less"),
    ({"runtime.device": "tpu"}, "runtime.device", "'tpu' is not among the choices; use 'auto', 'cpu' or 'cuda'"),
    ({"runtime.memory_share": 0}, "runtime.memory_share", "0 is too small; give more than 0"),
    ({"runtime.compile": "yes"}, "runtime.compile", "'yes' is neither true nor false; give one of them"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "field", "sentence"), WRONG, ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else ""
)
def test_a_wrong_value_is_named_with_its_field_and_its_mend(changes: dict, field: str, sentence: str) -> None:
    found = problems(raw(changes))
    assert (field, True) in [(name, sentence in text) for name, text in found], found
    assert {name for name, _ in found} == {field}, "nothing else may be blamed"
    assert all(text and "\n" not in text and text[0] == text[0].lower() for _, text in found)


def chain(changes: dict[str, Any]) -> dict[str, Any]:
    """RAW over a small chain, with other values at dotted places."""
    space = {"kind": "chain", "layers": 4, "channels": 4, "reductions": [2]}
    return raw({"space": space, **changes})


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"space.layers": 1}, "space.layers", "1 is too small; give 2 or more"),
        ({"space.layer": 3}, "space.layer", "there is no such setting; did you mean 'layers'?"),
        ({"space.nodes": 3}, "space.nodes", f"there is no such setting; use one of {CHAIN}"),
        ({"space.channels": 5}, "space.channels", "5 is no multiple of 2; give one"),
        ({"space.kernels": [4]}, "space.kernels", "4 is not among the choices; use 3, 5 or 7"),
        ({"space.kernels": [3, 3]}, "space.kernels", "name each kernel once"),
        ({"space.kernels": []}, "space.kernels", "too few are given; give at least 1"),
        ({"space.expansions": [5]}, "space.expansions", "5 is not among the choices; use 1, 2, 3, 4 or 6"),
        ({"space.expansions": [6, 6]}, "space.expansions", "name each expansion once"),
        ({"space.squeeze_excite": 1}, "space.squeeze_excite", "1 is neither true nor false; give one of them"),
        ({"space.attention": [3]}, "space.attention", "3 is not among the choices; use 1, 2, 4 or 8"),
        ({"space.attention": [2, 2]}, "space.attention", "name each number of heads once"),
        ({"space.attention": [2], "data.image_size": 34}, "space.attention", TOO_LARGE),
        ({"space.reductions": [4]}, "space.reductions", "layer 4 does not exist; use numbers from 0 to 3"),
        ({"space.reductions": [2, 1]}, "space.reductions", "give each reduction layer once, in rising order"),
        ({"space.reductions": [0, 1, 2]}, "data.image_size", FEW_PIXELS),
        ({"strategy.cuts": [4]}, "strategy.cuts", "a stage cannot end after block 4 of 4; use 1 to 3"),
    ],
)
def test_a_wrong_value_of_a_chain_is_named_as_one_of_cells_is(
    changes: dict[str, Any], field: str, sentence: str
) -> None:
    """The fields are the space's own: no word of the union's member that was tried."""
    ((named, text),) = problems(chain(changes))
    assert named == field and sentence in text


def test_settings_of_another_space_are_refused_one_by_one() -> None:
    found = problems(raw({"space.kind": "chain"}))
    assert [field for field, _ in found] == ["space.cells", "space.nodes", "space.candidates"]
    assert all(text.startswith("there is no such setting; ") for _, text in found)


def test_a_field_with_several_faults_has_one_problem() -> None:
    found = problems(raw({"target.also": ["much", 0, None], "target.value": [], "strategy.stage_shares": [0, 2, "x"]}))
    assert sorted(field for field, _ in found) == ["strategy.stage_shares", "target.also", "target.value"]
    found = problems(raw({"strategy.granularities": ["x", "y"], "space.candidates": ["a", "b"]}))
    assert sorted(field for field, _ in found) == ["space.candidates", "strategy.granularities"]


@pytest.mark.parametrize("given", [None, [], "x", 3])
def test_a_configuration_must_be_an_object(given: Any) -> None:
    assert problems(given) == [("", "the configuration must be a JSON object")]


def test_every_wrong_field_is_named_at_once() -> None:
    found = problems(raw({"seed": "x", "data.limit": 1, "search.lr": 7, "runtime.thread": 1}))
    assert [field for field, _ in found] == ["seed", "data.limit", "search.lr", "runtime.thread"]


def test_of_many_problems_the_first_fifty_are_said() -> None:
    with pytest.raises(ConfigError) as refused:
        parse({f"setting {i}": 0 for i in range(1000)})
    assert len(refused.value.problems) == MOST_PROBLEMS == 50


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b'{"a": {"b": 1, "b": 1}}', "'b' is given twice"),
        (b'{"a\\nb": 1, "a\\nb": 1}', r"'a\nb' is given twice"),
        (b'{"a": "\\udc80"}', r"one of its \u escapes is half a character"),
        (b'{"\\udc80": 1}', r"one of its \u escapes is half a character"),
        (b"[" * 100_000, "maximum recursion depth exceeded"),
        (b"\xff", "'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_what_is_no_document_is_said_to_be_none(text: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        document(text)


def test_a_document_may_begin_as_windows_writes_it() -> None:
    assert document('\ufeff{"name": "Füchse \U0001f98a"}'.encode()) == {"name": "Füchse 🦊"}


def test_the_message_names_the_fields() -> None:
    with pytest.raises(
        ConfigError, match=r"^seed: 'x' is no whole number; write one such as 12; data\.limit: 1 is too small"
    ):
        parse(raw({"seed": "x", "data.limit": 1}))


def test_a_strategy_that_does_not_search_the_space_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = catalogue.Strategy(label="MGAS", sentence="", paths={}, spaces=("chain", "imported"))
    monkeypatch.setitem(catalogue.STRATEGIES, "mgas", entry)
    assert problems(raw()) == [
        (
            "strategy.kind",
            "MGAS searches the spaces chain, imported, not cells; choose chain or imported as the space, or another "
            "method",
        )
    ]
    assert parse(chain({})).space.kind == "chain"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fills_what_is_left_out_and_nothing_else(preset: str) -> None:
    filled = parse({"preset": preset, "data": {"dataset": "cifar10"}})
    table = PRESETS[preset]
    assert filled.search.epochs == table["search"]["epochs"]
    assert filled.space.cells == table["cells"]["cells"]
    assert filled.data.image_size == table["data"]["image_size"]
    own = parse({"preset": preset, "search": {"epochs": 77}, "space": {"channels": 10}})
    assert (own.search.epochs, own.space.channels) == (77, 10)
    assert [own.search.batch(n, n * 3 // 4) for n in (8000, 7999, 40, 20)] == [64, 32, 30, 15]


def test_presets_differ_in_length_and_size_alone() -> None:
    """The recipe is the same, whatever the effort."""
    effort = {
        "data": {"image_size"}, "search": {"epochs"}, "retrain": {"epochs"}, "mgas": set(), "dms": set(),
        "msgdas": set(), "dna": set(),
        "runtime": {"memory_share"}, "imported": set(),
        "cells": {"cells", "channels", "nodes", "reductions"}, "chain": {"layers", "channels", "reductions"},
    }  # fmt: skip
    for table in PRESETS.values():
        for part, values in table.items():
            assert set(values) <= effort[part], part
    assert set(catalogue.PRESETS) == set(PRESETS)
    short, long = (parse({"search": {"epochs": epochs}}) for epochs in (23, 24))
    assert (short.cuts, long.cuts) == ((2,), (1, 3))
    one_by_one = parse({"space": {"kind": "chain"}, "strategy": {"kind": "dna", "generations": 2}})
    assert one_by_one.search.epochs == 12 * 2 * len(one_by_one.strategy.ends(one_by_one.space)), (
        "as many for each block"
    )
    assert parse({"target": {"also": ["60%", "50%", "30%"]}}).cuts == (2,), "further targets have epochs of their own"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_knows_both_spaces(preset: str) -> None:
    table = PRESETS[preset]["chain"]
    filled = parse({"preset": preset, "space": {"kind": "chain"}, "data": {"dataset": "cifar10"}})
    assert {name: getattr(filled.space, name) for name in table} == table
    assert filled.space.kernels == (3, 5, 7) and filled.space.expansions == (3, 6)
    own = parse({"preset": preset, "space": {"kind": "chain", "layers": 9, "kernels": [3]}})
    assert (own.space.layers, own.space.kernels, own.space.channels) == (9, (3,), table["channels"])
    assert own.space.reduction_places == (3, 6), "the preset's places belong to its own number of layers"


IMPORTED = [
    (
        {"model": "resnet81"},
        "space.model",
        "timm has no model 'resnet81' that sorts images into classes; did you mean ",
    ),
    (
        {"library": "torchvision", "model": "fcn_resnet50"},
        "space.model",
        "torchvision has no model 'fcn_resnet50' that ",
    ),
    ({"weights": "file"}, "space.path", "weights of a file need its path; give one, or other weights"),
    ({"path": "weights.safetensors"}, "space.path", "weights 'none' take no file; leave it out, or use file"),
]


@pytest.mark.parametrize(("space", "field", "sentence"), IMPORTED)
def test_a_model_that_is_not_known_or_lacks_its_weights_is_refused(space: dict, field: str, sentence: str) -> None:
    ((where, text),) = problems({"space": {"kind": "imported", **space}})
    assert where == field and text.startswith(sentence)


def test_a_known_model_is_searched_as_a_whole() -> None:
    for method in (kind for kind, entry in catalogue.STRATEGIES.items() if "imported" in entry.spaces):
        wanted = {"space": {"kind": "imported"}, "strategy": {"kind": method}, "data": {"dataset": "cifar10"}}
        found = parse(wanted)
        assert (found.space.model, found.cuts, found.data.image_size) == ("mobilenetv3_small_100", (), 32)
    ((field, text),) = problems({"space": {"kind": "imported"}, "strategy": {"cuts": [1]}})
    assert field == "strategy.cuts" and text.startswith("a model of a library has no exits before its end; leave")
    ((field, text),) = problems({"space": {"kind": "imported"}, "runtime": {"compile": True}})
    assert (field, text) == ("runtime.compile", "a known model is not compiled while it is searched; leave it off")


SUB_GRAPHS: dict[str, Any] = {"kind": "msgdas"}
ALONE: dict[str, Any] = {"kind": "msgdas", "sub_graphs": 1}


@pytest.mark.parametrize(
    ("changes", "field", "text"),
    [
        (
            {"strategy": ALONE},
            "strategy.soft",
            "among one draw there is nothing to weigh, so scores would never learn; use full",
        ),
        (
            {"strategy": {**ALONE, "soft": "full"}},
            "strategy.guidance",
            "the mean of one sub-graph is itself and teaches it nothing; use supernet or off",
        ),
        (
            {"strategy": SUB_GRAPHS, "target.also": ["30%"], "search.epochs": 12},
            "target.also",
            "MSG-DAS chooses operations once, so it ends with one network; leave it empty, or let strategy.then be "
            "mgas",
        ),
        (
            {"strategy": SUB_GRAPHS, "runtime.compile": True},
            "runtime.compile",
            "MSG-DAS runs other operations at each step, which cannot be compiled; leave it off",
        ),
        (
            {"strategy": SUB_GRAPHS, "space": {"kind": "imported"}},
            "strategy.kind",
            "MSG-DAS searches the spaces cells, chain, not imported; choose cells or chain as the space, or another "
            "method",
        ),
        (
            {"strategy": {**SUB_GRAPHS, "then": "mgas"}, "search.epochs": 7},
            "search.epochs",
            "7 is too few for 2 stages; use at least 8",
        ),
        ({"strategy": {**SUB_GRAPHS, "sub_graphs": 0}}, "strategy.sub_graphs", "0 is too small; give 1 or more"),
    ],
)
def test_what_sub_graphs_cannot_do_is_said_at_its_field(changes: dict[str, Any], field: str, text: str) -> None:
    assert problems(raw(changes)) == [(field, text)]


def test_one_sub_graph_is_gdas_and_what_follows_opens_all_levels() -> None:
    alone = parse(raw({"strategy": {**ALONE, "soft": "full", "guidance": "off"}})).strategy
    assert (alone.drawn, alone.granularities, alone.rounds, alone.held_out) == (1, ("operation",), 1, 0.25)
    both = parse(raw({"strategy": {"kind": "msgdas", "then": "mgas"}, "target.also": ["30%"], "search.epochs": 12}))
    assert (both.strategy.granularities, both.strategy.rounds) == (("operation", "filter", "weight"), 2)
    assert both.cuts == ()


def test_a_quick_search_has_a_stage_end_in_the_middle() -> None:
    assert parse({"space": {"cells": 2, "reductions": [1]}}).cuts == (1,)
    assert parse({"space": {"cells": 6}}).cuts == (3,)
    assert parse({"space": {"kind": "chain", "layers": 7}}).cuts == (3,)
    assert parse({"space": {"cells": 6}, "strategy": {"cuts": [5]}}).cuts == (5,)
    assert parse({"space": {"cells": 6}, "strategy": {"cuts": []}}).cuts == ()


def test_longer_searches_have_stage_ends_at_the_reductions() -> None:
    assert parse({"preset": "standard", "space": {"reductions": [0, 3]}}).cuts == (3,)
    assert parse({"preset": "standard", "space": {"cells": 6}}).cuts == (2, 4)
    assert parse({"preset": "thorough", "space": {"kind": "chain", "layers": 12}}).cuts == (4, 8)


def test_further_targets_get_epochs_of_their_own_unless_the_epochs_are_given() -> None:
    alone = parse({}).search.epochs
    assert parse({"target": {"also": ["30%", 9000]}}).search.epochs == alone + 8
    assert parse({"target": {"also": ["30%"]}, "search": {"epochs": 50}}).search.epochs == 50


def test_all_targets_come_from_large_to_small_and_once() -> None:
    target = TargetConfig(value="40%", also=(300, "60%", 400, "40%"))
    assert target.family(1000) == (600, 400, 300)
    assert TargetConfig(value=250).family(1000) == (250,)


@pytest.mark.parametrize("kind", METHODS)
def test_every_recipe_has_a_strategy(kind: str) -> None:
    recipes = get_args(METHODS[kind].model_fields["recipe"].annotation)
    assert set(recipes) == set(catalogue.STRATEGIES[kind].paths)
    for recipe in recipes:
        trained = METHODS[kind](recipe=recipe).wants_trained
        space = (
            {"kind": "imported", "weights": "pretrained"} if trained else {"kind": catalogue.STRATEGIES[kind].spaces[0]}
        )
        wanted = parse({"strategy": {"kind": kind, "recipe": recipe}, "space": space}).strategy
        assert wanted.recipe == recipe
        assert callable(resolved(catalogue.STRATEGIES[wanted.kind].paths[wanted.recipe]))


@pytest.mark.parametrize("recipe", ["prune", "gates"])
@pytest.mark.parametrize("space", [{"kind": "cells"}, {"kind": "chain"}, {"kind": "imported", "weights": "none"}])
def test_a_recipe_that_begins_with_trained_weights_is_refused_where_they_are_random(
    space: dict[str, str], recipe: str
) -> None:
    wanted = {"strategy": {"kind": "dms", "recipe": recipe}}
    sentence = (
        f"'{recipe}' begins with trained weights, and here they are random; use scale, or a known model with weights"
    )
    assert problems({**wanted, "space": space}) == [("strategy.recipe", sentence)]
    for given in ({"weights": "pretrained"}, {"weights": "file", "path": "a.safetensors"}):
        assert parse({**wanted, "space": {"kind": "imported", **given}}).strategy.recipe == recipe


def test_trained_weights_are_pruned_at_a_lower_learning_rate_unless_it_is_given() -> None:
    space = {"kind": "imported", "weights": "pretrained"}
    for recipe, rate in (("scale", 0.05), ("prune", 0.005), ("gates", 0.05)):
        wanted = {"space": space, "strategy": {"kind": "dms", "recipe": recipe}}
        first = parse(wanted)
        assert first.search.lr == rate
        assert parse(first.model_dump(mode="json")) == first
        assert parse({**wanted, "search": {"lr": 0.01}}).search.lr == 0.01


def test_a_retraining_of_no_epochs_leaves_what_the_search_found_and_no_less() -> None:
    assert parse(raw({"retrain.epochs": 0})).retrain.epochs == 0
    assert problems(raw({"retrain.epochs": 0, "retrain.start": "scratch"})) == [
        ("retrain.start", "fresh weights that are not trained know nothing; use inherit, or some retrain.epochs")
    ]
    assert problems(raw({"retrain.epochs": 0, "retrain.teacher": "full"})) == [
        ("retrain.teacher", "a teacher helps while a network is trained; use none, or some retrain.epochs")
    ]


def test_what_a_configuration_prints_is_a_configuration() -> None:
    family = {"target.also": ["30%", 900], "search.epochs": 20, "strategy.stage_shares": [0.5]}
    dms = raw({"strategy": {"kind": "dms", "importance": "taylor"}})
    msgdas = raw({"strategy": {"kind": "msgdas", "then": "mgas", "sub_graphs": 3}})
    published = chain({"strategy.recipe": "published"})
    for given in (raw({"target.value": "12.5%"}), raw(family), chain({}), published, dms, msgdas):
        first = parse(given)
        assert parse(json.loads(json.dumps(first.model_dump(mode="json")))) == first
        assert parse(first.model_dump(mode="json")) == first


def test_the_preset_s_reductions_belong_to_its_number_of_cells() -> None:
    found = parse({"preset": "quick", "space": {"cells": 6}})
    assert found.space.reduction_places == (2, 4)


def test_built_in_images_are_never_enlarged_by_a_preset() -> None:
    assert parse({"preset": "standard", "data": {"dataset": "digits"}}).data.image_size == 8
    assert parse({"preset": "standard", "data": {"dataset": "digits", "image_size": 24}}).data.image_size == 24


@pytest.mark.parametrize(
    ("value", "full", "expected"),
    [
        ("40%", 1000, 400),
        ("100%", 999, 999),
        (" 12,500 ", 99_999, 12_500),
        (250.9, 1000, 250),
        ("1_000", 2000, 1000),
        ("29.5 %", 1000, 295),
    ],
)
def test_targets_are_numbers_or_percentages_rounded_down(value: Any, full: int, expected: int) -> None:
    assert TargetConfig(value=value).resolved(full) == expected


def test_every_field_has_a_title_and_a_sentence() -> None:
    fields = [*SearchConfig.model_fields.values(), *TargetConfig.model_fields.values()]
    kinds = [field.annotation for field in fields if hasattr(field.annotation, "model_fields")]
    parts = [SearchConfig, *(kind for found in KINDS.values() for kind in found.values()), *kinds]
    assert len(parts) == 15
    assert (list(SPACES), list(METHODS)) == (list(catalogue.SPACES), list(catalogue.STRATEGIES))
    for part in parts:
        for name, field in part.model_fields.items():
            if name not in KINDS and not hasattr(field.annotation, "model_fields"):
                assert field.title and field.description and field.description.endswith("."), name
                assert set(field.json_schema_extra) == {"unit", "advanced", "empty"}, name


def test_values_given_are_not_changed() -> None:
    given = raw()
    before = json.dumps(given)
    parse(given)
    assert json.dumps(given) == before


def test_configurations_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(raw()).search.epochs = 3  # type: ignore[misc]
    assert config.parse(raw()).search.epochs == 8
