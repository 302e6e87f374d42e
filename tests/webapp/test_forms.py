"""The form is the configuration: every field is there, and the engine's sentences stand at its fields."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.forms import CheckboxSelectMultiple, Select

from nasengine.config import NO_AMOUNT, PRESETS, CellsSpace, ChainSpace, DNAConfig, SearchConfig, parse
from nasengine.errors import ConfigError
from nasengine.outlook import outlook
from nasengine.splits import builtin_facts
from webapp.again import briefly
from webapp.forms import NewSearchForm, SettingField, settings_of
from webapp.models import Dataset, DatasetState
from webapp.selectors import search_asked

pytestmark = pytest.mark.django_db

BASIC = {
    "name": "digits", "preset": "quick", "data__dataset": "digits", "space__kind": "cells", "strategy__kind": "mgas",
    "target__metric": "params", "target__value": "40%",
}  # fmt: skip


def form(owner: User, **changes: Any) -> NewSearchForm:
    return NewSearchForm(BASIC | changes, owner=owner)


def raw(**changes: Any) -> dict[str, Any]:
    return {
        "name": "digits", "preset": "quick", "data": {"dataset": "digits"}, "space": {"kind": "cells"},
        "strategy": {"kind": "mgas"}, "target": {"metric": "params", "value": "40%"},
    } | changes  # fmt: skip


def engines_problems(configuration: dict[str, Any]) -> list[tuple[str, str]]:
    """What the command line says."""
    try:
        config = parse(configuration)
    except ConfigError as error:
        return list(error.problems)
    return list(outlook(config, builtin_facts(config.data.dataset)).problems)


def test_it_works(alice: User) -> None:
    filled = form(alice)
    assert filled.is_valid(), filled.errors
    assert filled.asked.config == parse(raw())


def test_every_setting_has_a_field_with_its_own_label_and_help(alice: User) -> None:
    new = NewSearchForm(owner=alice)
    names = [setting.name for setting in settings_of()]
    assert {"seed", "data__limit", "space__cells__candidates", "space__chain__kernels", "target__also"} <= set(names)
    assert "data__path" not in names and len(set(names)) == len(names)
    shown = [*new.basic_fields, *(field for group in new.advanced_groups for field in group.fields)]
    assert [field.html_name.replace("__", ".") for field in new.basic_fields] == [
        "name", "preset", "data.dataset", "space.kind", "space.imported.library", "space.imported.model",
        "space.imported.weights", "space.imported.path", "strategy.kind", "target.metric", "target.value",
    ]  # fmt: skip
    assert sorted(field.html_name for field in shown) == sorted(names)
    assert all(field.label and field.help_text for field in shown)
    assert [field.label for field in new.basic_fields][3:9] == [
        "Space", "Library", "Model", "Weights", "Weights file", "Method",
    ]  # fmt: skip
    batch = new.fields["search__batch_size"]
    assert isinstance(batch, SettingField)
    assert (batch.label, batch.unit) == ("Batch size", "images")  # type: ignore[attr-defined]
    assert batch.widget.input_type == "text", "a number input sends nothing where it cannot read the number"  # type: ignore[attr-defined]
    assert batch.widget.attrs["inputmode"] == "decimal"


@pytest.mark.parametrize("preset", PRESETS)
def test_an_empty_advanced_field_has_the_presets_value(alice: User, preset: str) -> None:
    filled = form(alice, preset=preset, data__dataset="cifar10", name="")
    assert filled.is_valid(), filled.errors
    assert filled.asked.config == parse(raw(preset=preset, data={"dataset": "cifar10"}, name=""))


def test_the_grey_text_is_what_each_preset_would_fill_in(alice: User) -> None:
    attrs = NewSearchForm(owner=alice).fields["search__epochs"].widget.attrs
    assert attrs["placeholder"] == "12"
    assert attrs["data-presets"] == '{"quick": "12", "standard": "50", "thorough": "120"}'


@pytest.mark.parametrize(
    ("field", "texts"),
    [
        ("space__cells__channels", ["8", "16", "24"]),
        ("space__chain__channels", ["8", "16", "24"]),
        ("space__cells__reductions", ["1, 3", "automatic", "automatic"]),
        ("space__chain__reductions", ["2, 4", "automatic", "automatic"]),
        ("space__chain__layers", ["6", "12", "18"]),
        ("space__chain__squeeze_excite", ["No"] * 3),
        ("strategy__mgas__regrow_every", ["only after early stages"] * 3),
        ("strategy__mgas__warmup_fraction", ["0.2"] * 3),
        ("strategy__dms__warmup_fraction", ["0.1"] * 3),
        ("strategy__dna__widths", ["1"] * 3),
        ("strategy__dna__block_ends", ["automatic"] * 3),
        ("strategy__dna__teacher_epochs", ["as the retraining"] * 3),
        ("strategy__dna__teacher_path", ["no file"] * 3),
        ("target__limits__macs", ["none"] * 3),
        ("data__limit", ["all"] * 3),
    ],
)
def test_each_kind_has_its_own_grey_texts(alice: User, field: str, texts: list[str]) -> None:
    widget = NewSearchForm(owner=alice).fields[field].widget
    assert list(json.loads(widget.attrs["data-presets"]).values()) == texts
    if isinstance(widget, CheckboxSelectMultiple):
        assert not widget.attrs.get("placeholder"), "a tick can show none"
    elif isinstance(widget, Select):
        assert dict(widget.choices)[""] == f"As the preset ({texts[0]})"
    else:
        assert widget.attrs["placeholder"] == texts[0]


def test_grey_texts_know_the_images_and_what_else_was_filled_in(alice: User, ready_dataset: Dataset) -> None:
    digits = form(alice, data__dataset="digits")
    assert digits.is_valid(), digits.errors
    assert digits.greys["data__image_size"] == "8" and digits.greys["search__epochs"] == "12"
    assert "search__epochs" not in form_greys(alice, data__dataset="digits", search__epochs="20")
    assert form_greys(alice, data__dataset="cifar10")["data__image_size"] == "16"
    uploaded = form_greys(alice, data__dataset=ready_dataset.reference, space__kind="chain")
    assert uploaded["data__image_size"] == "16" and uploaded["space__chain__layers"] == "6"
    assert not any(name.startswith("space__cells") for name in uploaded)
    assert form_greys(alice, data__dataset="digits", search__epochs="many") == {}
    refused = form_greys(alice, data__dataset="digits", search__batch_size="4000")
    assert refused["data__image_size"] == "8" and "search__batch_size" not in refused


def form_greys(alice: User, **typed: str) -> dict[str, str]:
    filled = form(alice, **typed)
    filled.full_clean()
    return filled.greys


def test_each_kind_has_a_group_of_its_own(alice: User) -> None:
    groups = {group.title: group for group in NewSearchForm(owner=alice).advanced_groups}
    of_one_kind = ["Space: Cells", "Space: Chain", "Method: MGAS", "Method: DMS", "Method: MSG-DAS", "Method: DNA"]
    assert [group.title for group in groups.values() if group.only] == of_one_kind
    chain = groups["Space: Chain"]
    assert (chain.kind_field, chain.only) == ("space__kind", "chain")
    assert {field.html_name.removeprefix("space__chain__") for field in chain.fields} == {
        "layers", "channels", "kernels", "expansions", "squeeze_excite", "attention", "reductions",
    }  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_a_chain_is_filled_in_by_its_own_presets(alice: User, preset: str) -> None:
    filled = form(alice, preset=preset, space__kind="chain", data__dataset="cifar10", name="")
    assert filled.is_valid(), filled.errors
    space = {"kind": "chain"}
    assert filled.asked.config == parse(raw(preset=preset, data={"dataset": "cifar10"}, name="", space=space))


def test_what_belongs_to_another_kind_is_neither_sent_nor_complained_about(alice: User) -> None:
    odd = {
        "channels": "lots",
        "reductions": "x",
        "cells": "99",
        "layers": "99",
        "candidates": ["tea"],
        "kernels": ["2"],
    }
    cells, chain = ({f"space__{kind}__{name}": text for name, text in odd.items()} for kind in ("cells", "chain"))
    for kind, others in (("cells", chain), ("chain", cells)):
        filled = form(alice, space__kind=kind, **others)
        assert filled.is_valid(), filled.errors
        assert filled.raw()["space"] == {"kind": kind}
    silent = form(alice, space__kind="", **chain)
    assert silent.is_valid() and "space" not in silent.raw(), "cells, unless somebody says otherwise"


def test_a_chain_arrives_as_json_would_have_it(alice: User) -> None:
    filled = form(
        alice, space__kind="chain", space__chain__layers="5", space__chain__channels="12",
        space__chain__kernels=["3", "7"], space__chain__expansions=["6"], space__chain__squeeze_excite="true",
        space__chain__attention=["2", "4"], space__chain__reductions="2", space__cells__channels="8",
    )  # fmt: skip
    assert filled.is_valid(), filled.errors
    assert filled.asked.config.space == ChainSpace(
        layers=5, channels=12, kernels=(3, 7), expansions=(6,), squeeze_excite=True, attention=(2, 4), reductions=(2,)
    )


DNA = {"space__kind": "chain", "strategy__kind": "dna"}


@pytest.mark.parametrize("preset", PRESETS)
def test_dna_is_filled_in_by_its_own_presets(alice: User, preset: str) -> None:
    filled = form(alice, preset=preset, data__dataset="cifar10", **DNA)
    assert filled.is_valid(), filled.errors
    blocks = raw(preset=preset, data={"dataset": "cifar10"}, space={"kind": "chain"}, strategy={"kind": "dna"})
    assert filled.asked.config == parse(blocks)
    assert filled.greys["search__epochs"] == f"{parse(blocks).search.epochs:g}", "the epochs of all blocks"


DNAS_OWN = {
    "recipe": ("dna++", "dna++"),
    "teacher": ("library", "library"),
    "teacher_epochs": ("7", 7),
    "teacher_library": ("torchvision", "torchvision"),
    "teacher_model": ("resnet18", "resnet18"),
    "teacher_weights": ("file", "file"),
    "teacher_image_size": ("64", 64),
    "generations": ("2", 2),
    "growth": ("1.25", 1.25),
    "block_ends": ("1, 3", [1, 3]),
    "widths": ("0.5, 1", [0.5, 1]),
    "decision_fraction": ("0.3", 0.3),
    "rating_images": ("500", 500),
    "paths": ("3", 3),
    "dispersion": ("0.5", 0.5),
}
"""Field -> what is typed into it, and what JSON would say."""


def test_every_field_of_dna_is_there_with_its_words_and_arrives_as_json_would_have_it(alice: User) -> None:
    new = NewSearchForm(owner=alice)
    (group,) = [group for group in new.advanced_groups if group.only == "dna"]
    its_own = set(DNAConfig.model_fields) - {"kind"}
    assert {field.html_name.removeprefix("strategy__dna__") for field in group.fields} == its_own
    assert set(DNAS_OWN) == its_own - {"teacher_path"}, "whose file has to be there"
    assert len({field.label for field in group.fields}) == len(its_own) and all(f.help_text for f in group.fields)
    for name, (text, value) in DNAS_OWN.items():
        assert new.fields[f"strategy__dna__{name}"].clean(text) == value, name


@pytest.mark.parametrize(
    "strategy",
    [
        {"widths": [0.5, 1.0], "block_ends": [1, 2, 4], "generations": 2, "growth": 1.25, "teacher_epochs": 3},
        {"recipe": "dna++", "paths": 3, "dispersion": 0.5, "rating_images": 500, "decision_fraction": 0.3},
        {"teacher": "library", "teacher_library": "torchvision", "teacher_model": "resnet18", "teacher_image_size": 64},
    ],
)
def test_a_search_with_dna_fills_the_form_as_it_was_asked_for(alice: User, strategy: dict[str, Any]) -> None:
    asked = search_asked(owner=alice, raw=raw(space={"kind": "chain"}, strategy={"kind": "dna", **strategy}))
    begun = NewSearchForm(owner=alice)
    assert begun.fill(briefly(asked.stored())) == []
    again = NewSearchForm({name: begun[name].value() or "" for name in begun.fields}, owner=alice)
    assert again.is_valid(), again.errors
    assert again.asked.config == asked.config


def test_a_method_that_does_not_search_the_space_says_what_to_choose(alice: User) -> None:
    sentence = "DNA searches the space chain, not cells; choose chain as the space, or another method"
    assert form(alice, strategy__kind="dna").errors == {"strategy__kind": [sentence]}


def test_the_target_says_what_a_percentage_is_of(alice: User) -> None:
    filled = form(alice, target__value="100%", **DNA)
    assert filled.is_valid(), filled.errors
    whole = form(alice, target__value="100%", space__kind="chain")
    assert whole.is_valid()
    assert (filled.asked.outlook.target or 0) < (whole.asked.outlook.target or 0) / 2
    assert "with DNA, of its largest network, which has one operation a layer" in filled["target__value"].help_text


@pytest.mark.parametrize(
    ("text", "also"),
    [
        ("60%, 12000", ("60%", 12_000)),
        ("30%  50%", ("30%", "50%")),
        ("12,000, 8,000", ("12,000", "8,000")),
        ("12000,500", (12_000, 500)),
        ("", ()),
    ],
)
def test_further_targets_are_numbers_and_percentages(alice: User, text: str, also: tuple[float | str, ...]) -> None:
    filled = form(alice, target__also=text)
    filled.is_valid()
    assert tuple(filled.raw()["target"].get("also", ())) == also
    assert set(filled.errors) <= {"target__also", "search__epochs"}, "what is out of reach is said there"


def test_each_kind_of_value_arrives_as_json_would_have_it(alice: User) -> None:
    filled = form(
        alice, seed="7", data__crop="false", data__flip="true", space__cells__cells="6",
        space__cells__reductions="1, 3",
        space__cells__candidates=["skip_connect", "avg_pool_3x3"], search__lr="0.02", target__value="9000",
        target__also="30%, 8000", search__epochs="20", strategy__mgas__regrow_levels=["filter"],
        runtime__compile="true", strategy__mgas__stage_shares="0.5", strategy__mgas__recipe="published",
        target__limits__macs="90%",
    )  # fmt: skip
    assert filled.is_valid(), filled.errors
    config = filled.asked.config
    assert (config.seed, config.data.crop, config.data.flip) == (7, False, True)
    assert isinstance(config.space, CellsSpace)
    assert (config.space.reductions, config.space.candidates) == ((1, 3), ("skip_connect", "avg_pool_3x3"))
    assert (config.search.lr, config.target.value, config.target.also) == (0.02, 9000, ("30%", 8000))
    assert (config.target.limits.macs, config.target.limits.params) == ("90%", None)
    method = config.strategy
    assert (method.regrow_levels, method.stage_shares, method.recipe) == (("filter",), (0.5,), "published")
    assert config.runtime.compile is True


@pytest.mark.parametrize(
    ("fields", "configuration", "at"),
    [
        ({"target__value": "10"}, raw(target={"metric": "params", "value": 10}), "target__value"),
        ({"target__value": "9e9"}, raw(target={"metric": "params", "value": 9e9}), "target__value"),
        ({"target__value": "400%"}, raw(target={"metric": "params", "value": "400%"}), "target__value"),
        ({"target__value": "small"}, raw(target={"metric": "params", "value": "small"}), "target__value"),
        ({"data__dataset": "digit"}, raw(data={"dataset": "digit"}), "data__dataset"),
        ({"preset": "lazy"}, raw(preset="lazy"), "preset"),
        ({"search__epochs": "many"}, raw(search={"epochs": "many"}), "search__epochs"),
        ({"search__epochs": "1.5"}, raw(search={"epochs": 1.5}), "search__epochs"),
        ({"search__epochs": "3"}, raw(search={"epochs": 3}), "search__epochs"),
        ({"search__batch_size": "4000"}, raw(search={"batch_size": 4000}), "search__batch_size"),
        ({"target__also": "60%, tiny"}, raw(target={"value": "40%", "also": ["60%", "tiny"]}), "target__also"),
        ({"target__also": "1e9"}, raw(target={"value": "40%", "also": [1e9]}), "target__also"),
        ({"target__limits__macs": "10"}, raw(target={"value": "40%", "limits": {"macs": 10}}), "target__limits__macs"),
        ({"target__limits__macs": "x"}, raw(target={"value": "40%", "limits": {"macs": "x"}}), "target__limits__macs"),
        ({"space__kind": "tree"}, raw(space={"kind": "tree"}), "space__kind"),
        (
            {"space__cells__reductions": "1, x"},
            raw(space={"kind": "cells", "reductions": [1, "x"]}),
            "space__cells__reductions",
        ),
        ({"space__cells__cells": "99"}, raw(space={"kind": "cells", "cells": 99}), "space__cells__cells"),
        (
            {"space__kind": "chain", "space__chain__channels": "3"},
            raw(space={"kind": "chain", "channels": 3}),
            "space__chain__channels",
        ),
        (
            {"space__kind": "chain", "space__chain__reductions": "2, 9"},
            raw(space={"kind": "chain", "reductions": [2, 9]}),
            "space__chain__reductions",
        ),
        (
            {"space__kind": "chain", "target__value": "10"},
            raw(space={"kind": "chain"}, target={"value": 10}),
            "target__value",
        ),
        ({"data__image_size": "9"}, raw(data={"dataset": "digits", "image_size": 9}), "data__image_size"),
        ({"name": "x" * 81}, raw(name="x" * 81), "name"),
        (
            {**DNA, "strategy__dna__widths": "0.5, 2"},
            raw(space={"kind": "chain"}, strategy={"kind": "dna", "widths": [0.5, 2]}),
            "strategy__dna__widths",
        ),
        (
            {**DNA, "strategy__dna__block_ends": "9"},
            raw(space={"kind": "chain"}, strategy={"kind": "dna", "block_ends": [9]}),
            "strategy__dna__block_ends",
        ),
        ({"runtime__device": "toaster"}, raw(runtime={"device": "toaster"}), "runtime__device"),
    ],
)
def test_the_engines_own_sentence_stands_at_the_field(
    alice: User, fields: dict[str, str], configuration: dict[str, Any], at: str
) -> None:
    filled = form(alice, **fields)
    expected = engines_problems(configuration)
    assert expected
    assert not filled.is_valid()
    assert dict(filled.errors) == {at: [sentence for _, sentence in expected]}


@pytest.mark.parametrize(
    ("fields", "at", "sentence"),
    [
        ({"target__value": "nan"}, "target__value", f"nan {NO_AMOUNT}"),
        (
            {"search__epochs": "9" * 400},
            "search__epochs",
            f"{'9' * 40}… is too large; give 2,000 or less",
        ),
    ],
)
def test_a_field_has_one_sentence_and_it_is_short(alice: User, fields: dict[str, str], at: str, sentence: str) -> None:
    assert form(alice, **fields).errors == {at: [sentence]}


def test_a_ready_upload_can_be_chosen_by_its_owner_alone(alice: User, bob: User, ready_dataset: Dataset) -> None:
    def choices(owner: User) -> list[tuple[str, str]]:
        return list(NewSearchForm(owner=owner).fields["data__dataset"].widget.choices)  # type: ignore[attr-defined]

    assert choices(alice)[0] == (ready_dataset.reference, "Cats")
    assert ready_dataset.reference not in dict(choices(bob))
    mine, others = (form(owner, data__dataset=ready_dataset.reference) for owner in (alice, bob))
    assert mine.is_valid(), mine.errors
    assert mine.asked.dataset == ready_dataset
    assert others.errors["data__dataset"] == [
        f"there is no data set '{ready_dataset.reference}' of yours; choose one of the data sets page"
    ]


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (DatasetState.PACKING, "'Cats' is not packed yet; wait until the data sets page says ready"),
        (DatasetState.FAILED, "'Cats' cannot be used: no images"),
    ],
)
def test_an_upload_that_is_not_ready_is_refused(
    alice: User, ready_dataset: Dataset, state: DatasetState, sentence: str
) -> None:
    Dataset.objects.update(state=state, message="no images")
    assert form(alice, data__dataset=ready_dataset.reference).errors == {"data__dataset": [sentence]}


@pytest.mark.parametrize(
    "data",
    [
        {"dataset": "zip", "path": "/etc/passwd"},
        {"dataset": "folder", "path": "/home"},
        {"dataset": "zip"},
        {"dataset": "digits", "path": "/etc/passwd"},
    ],
)
def test_paths_of_the_server_are_nobodys_to_give(alice: User, data: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        search_asked(owner=alice, raw=raw(data=data))
    sentence = (
        "files of the server cannot be named here; upload a zip on the data sets page and name it upload:<its id>"
    )
    assert caught.value.problems == (("data.path", sentence),)


@pytest.mark.parametrize("reference", ["upload:", "upload:../../x", "upload:12345678-1234-4234-8234-123456789abc"])
def test_an_unknown_upload_is_refused_with_a_sentence(alice: User, reference: str) -> None:
    with pytest.raises(ConfigError, match=r"there is no data set '.*' of yours"):
        search_asked(owner=alice, raw=raw(data={"dataset": reference}))


def test_what_is_stored_means_the_same_again() -> None:
    config = parse(raw(preset="standard", data={"dataset": "cifar10"}))
    assert parse(config.model_dump(mode="json")) == config
    assert isinstance(config, SearchConfig)


def test_what_is_idle_are_fields_of_the_form(alice: User) -> None:
    form = NewSearchForm(owner=alice)
    named = {name for values in form.idle.values() for others in values.values() for name in others}
    assert named and named | set(form.idle) <= set(form.fields)


def test_help_says_of_no_method_what_it_does_not_do(alice: User) -> None:
    form = NewSearchForm(owner=alice)
    assert "methods that prune filters" in form["space__chain__expansions"].help_text
    assert "methods that prune filters" in form["space__chain__attention"].help_text
    for name in ("target__also", "retrain__teacher"):
        assert "not with dna" in form[name].help_text.lower()
