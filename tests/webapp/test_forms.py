"""The form is the configuration: every field is there, and the engine's sentences stand at its fields."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User

from nasengine.config import PRESETS, SearchConfig, parse
from nasengine.errors import ConfigError
from nasengine.outlook import outlook
from nasengine.splits import builtin_facts
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
    dotted = {setting.dotted for setting in settings_of()}
    assert {"seed", "data.limit", "space.candidates", "strategy.cuts", "runtime.device"} <= dotted
    assert "data.path" not in dotted
    shown = [*new.basic_fields, *(field for _, group in new.advanced_groups for field in group)]
    assert [field.html_name.replace("__", ".") for field in new.basic_fields] == [
        "name", "preset", "data.dataset", "space.kind", "strategy.kind", "target.metric", "target.value",
    ]  # fmt: skip
    assert {field.html_name.replace("__", ".") for field in shown} == dotted and len(shown) == len(dotted)
    assert all(field.label and field.help_text for field in shown)
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


def test_each_kind_of_value_arrives_as_json_would_have_it(alice: User) -> None:
    filled = form(
        alice, seed="7", data__crop="false", data__flip="true", space__cells="6", space__reductions="1, 3",
        space__candidates=["skip_connect", "avg_pool_3x3"], search__lr="0.02", target__value="9000",
    )  # fmt: skip
    assert filled.is_valid(), filled.errors
    config = filled.asked.config
    assert (config.seed, config.data.crop, config.data.flip) == (7, False, True)
    assert (config.space.reductions, config.space.candidates) == ((1, 3), ("skip_connect", "avg_pool_3x3"))
    assert (config.search.lr, config.target.value) == (0.02, 9000)


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
        ({"space__reductions": "1, x"}, raw(space={"kind": "cells", "reductions": [1, "x"]}), "space__reductions"),
        ({"space__cells": "99"}, raw(space={"kind": "cells", "cells": 99}), "space__cells"),
        ({"data__image_size": "9"}, raw(data={"dataset": "digits", "image_size": 9}), "data__image_size"),
        ({"name": "x" * 81}, raw(name="x" * 81), "name"),
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
        ({"target__value": "nan"}, "target__value", "input should be a finite number, not nan"),
        (
            {"search__epochs": "9" * 400},
            "search__epochs",
            f"input should be less than or equal to 2000, not {'9' * 40}…",
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


@pytest.mark.parametrize("reference", ["upload:", "upload:../../x", f"upload:{uuid4()}"])
def test_an_unknown_upload_is_refused_with_a_sentence(alice: User, reference: str) -> None:
    with pytest.raises(ConfigError, match=r"there is no data set '.*' of yours"):
        search_asked(owner=alice, raw=raw(data={"dataset": reference}))


def test_what_is_stored_means_the_same_again() -> None:
    config = parse(raw(preset="standard", data={"dataset": "cifar10"}))
    assert parse(config.model_dump(mode="json")) == config
    assert isinstance(config, SearchConfig)
