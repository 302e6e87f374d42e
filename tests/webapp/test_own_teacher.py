"""Weights of one's own for the teacher of a search with DNA: chosen, named, refused, missed, given to an engine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from nasengine.config import parse
from nasengine.errors import ConfigError
from tests.webapp import tiny_model
from tests.webapp.cast import config, put_into
from tests.webapp.test_again import between, recipe
from tests.webapp.test_surveys import posted
from webapp import comparison, selectors, services, tasks
from webapp.again import again, briefly
from webapp.models import Search, SearchState, Weights

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("fake_engine")]

FIELD, NAME = "strategy__dna__teacher_path", "strategy.teacher_path"
FORM = {
    "name": "digits", "preset": "quick", "data__dataset": "digits", "space__kind": "chain", "strategy__kind": "dna",
    "target__metric": "params", "target__value": "40%", "strategy__dna__teacher": "library",
    "strategy__dna__teacher_library": "timm", "strategy__dna__teacher_model": "test_resnet",
    "strategy__dna__teacher_weights": "file",
}  # fmt: skip
NONE_CHOSEN = "no file is chosen; choose one of yours, or upload it first (in a configuration: upload:<its id>)"
OF_THE_SERVER = "files of the server cannot be named here; upload yours on the weights page and name it upload:<its id>"


def taught(weights: object = None, **strategy: Any) -> dict[str, Any]:
    """A configuration whose teacher has weights of this reference."""
    its = {"kind": "dna", "teacher": "library", "teacher_model": "test_resnet", "teacher_weights": "file"}
    path = {} if weights is None else {"teacher_path": getattr(weights, "reference", weights)}
    return config(space={"kind": "chain"}, strategy={**its, **path, **strategy})


def outlook(page: Client, **changes: str) -> dict[str, Any]:
    answer = page.post("/searches/new/outlook/", FORM | changes)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def refused(page: Client, raw: dict[str, Any]) -> list[list[str]]:
    """What both doors of the API say, which is the same."""
    said = [posted(page, f"/api/v1/{door}", raw) for door in ("searches", "describe")]
    assert [answer.status_code for answer in said] == [422, 422]
    assert said[0].json() == said[1].json() and not Search.objects.exists()
    problems: list[list[str]] = said[0].json()["problems"]
    return problems


@pytest.fixture
def search(page: Client, new_weights: Callable[..., Weights]) -> Search:
    """One of Alice's whose teacher has weights of hers."""
    answer = page.post("/searches/new/", FORM | {FIELD: new_weights().reference})
    assert answer.status_code == 302, answer.context["form"].errors
    return Search.objects.get()


# Choosing


def test_a_search_names_them_by_reference_and_its_engine_gets_the_path(search: Search, settings: Any) -> None:
    weights = Weights.objects.get()
    assert (search.weights, search.weights_label) == (weights, "Oak")
    assert search.config["strategy"]["teacher_path"] == weights.reference
    Search.objects.update(config={**search.config, "name": "finishes"})
    tasks.run_search(str(search.pk))
    search.refresh_from_db()
    assert search.state == SearchState.FINISHED, search.message
    given = json.loads((selectors.run_folder(search.pk) / "config.json").read_text())
    assert given["strategy"]["teacher_path"] == str(settings.MEDIA_ROOT / weights.file)


def test_a_script_names_them_alike(page: Client, new_weights: Callable[..., Weights], settings: Any) -> None:
    weights = new_weights()
    described = posted(page, "/api/v1/describe", taught(weights))
    assert described.status_code == 200, described.content
    assert described.json()["config"]["strategy"]["teacher_path"] == weights.reference
    started = posted(page, "/api/v1/searches", taught(weights))
    assert started.status_code == 201, started.content
    assert started.json()["config"]["strategy"]["teacher_path"] == weights.reference
    for answer in (described, started):
        assert str(settings.MEDIA_ROOT) not in answer.content.decode()


def test_no_page_and_no_answer_tells_where_they_lie(page: Client, search: Search, settings: Any) -> None:
    for url in (search.url, f"/searches/new/?from={search.pk}", "/api/v1/searches", "/weights/?for=teacher"):
        told = page.get(url).content.decode()
        assert str(settings.MEDIA_ROOT) not in told and "my-oak" not in told, url
    asked = page.get(search.url).content.decode().partition('<div class="inside asked">')[2]
    assert "<dt>teacher_weights</dt><dd>Oak</dd>" in asked and "upload:" not in asked


def test_with_a_file_one_has_to_be_chosen_and_sizes_are_told_all_the_same(
    page: Client, new_weights: Callable[..., Weights]
) -> None:
    told = outlook(page)
    assert told["problems"] == [[FIELD, NONE_CHOSEN]] and not told["feasible"]
    assert refused(page, taught()) == [[NAME, NONE_CHOSEN]]
    then = outlook(page, **{FIELD: new_weights().reference})
    assert then["feasible"], then["problems"]
    assert (told["full_size"], told["smallest_size"]) == (then["full_size"], then["smallest_size"])


def test_a_teacher_of_its_own_wants_no_file_and_takes_none(page: Client, new_weights: Callable[..., Weights]) -> None:
    own = {"strategy__dna__teacher": "own", "strategy__dna__teacher_model": ""}
    assert outlook(page, **own)["feasible"], "what a library's would take does not matter"
    sentence = "a teacher of its own has neither model nor file; leave it empty, or use library"
    assert outlook(page, **own, **{FIELD: new_weights().reference})["problems"] == [[FIELD, sentence]]


@pytest.mark.parametrize("path", ["/etc/passwd", "oak.safetensors", "", "file:///x", 7, ["upload:x"], True])
def test_paths_of_the_server_are_nobodys_to_give(page: Client, path: Any) -> None:
    assert refused(page, taught(path)) == [[NAME, OF_THE_SERVER]]
    assert refused(page, taught(path, teacher="own")) == [[NAME, OF_THE_SERVER]]


def test_anothers_and_deleted_ones_look_like_none(
    page: Client, bob: User, new_weights: Callable[..., Weights], ready_dataset: Any
) -> None:
    his, gone = new_weights(owner=bob), new_weights()
    services.weights_delete(weights=gone)
    for reference in (his.reference, gone.reference, ready_dataset.reference, f"upload:{uuid4()}", "upload:../../x"):
        sentence = f"there are no weights '{reference}' of yours; choose some of the weights page"
        assert refused(page, taught(reference)) == [[NAME, sentence]]
    assert his.reference not in page.get("/searches/new/").content.decode()
    form = page.get("/searches/new/", {"teacher": his.reference}).context["form"]
    assert form["strategy__kind"].value() == "mgas", "nothing is chosen"


@pytest.mark.parametrize("kind", ["mgas", "dms", "msgdas"])
def test_other_methods_have_no_such_setting(
    page: Client, new_weights: Callable[..., Weights], settings: Any, kind: str
) -> None:
    raw = config(space={"kind": "chain"}, strategy={"kind": kind, "teacher_path": new_weights().reference})
    answer = posted(page, "/api/v1/searches", raw)
    assert answer.status_code == 422 and str(settings.MEDIA_ROOT) not in answer.content.decode()
    assert [field for field, _ in answer.json()["problems"]] == [NAME]


@pytest.mark.parametrize(
    ("part", "its"),
    [
        ("strategy", {"kind": "mgas", "teacher": "library", "teacher_weights": "file"}),
        ("strategy", {"teacher": "library", "teacher_weights": "file"}),
        ("space", {"kind": "chain", "weights": "file"}),
    ],
)
def test_what_knows_no_file_is_not_asked_for_one(page: Client, part: str, its: dict[str, str]) -> None:
    """But told which of the settings it does not know."""
    problems = refused(page, config(**{part: its}))
    assert {field for field, _ in problems} == {f"{part}.{name}" for name in its if name != "kind"}
    assert NONE_CHOSEN not in json.dumps(problems)


def test_a_model_to_search_and_a_teacher_are_never_both_named(
    page: Client, new_weights: Callable[..., Weights], settings: Any
) -> None:
    raw = taught(new_weights("Elm"))
    raw["space"] = {"kind": "imported", "model": "test_resnet", "weights": "file", "path": new_weights().reference}
    answer = posted(page, "/api/v1/searches", raw)
    assert answer.status_code == 422 and str(settings.MEDIA_ROOT) not in answer.content.decode()
    assert [field for field, _ in answer.json()["problems"]] == ["strategy.kind"]


def test_the_teachers_name_is_of_its_library(page: Client, new_weights: Callable[..., Weights]) -> None:
    told = outlook(page, strategy__dna__teacher_model="test_resne", **{FIELD: new_weights().reference})
    ((field, sentence),) = told["problems"]
    assert field == "strategy__dna__teacher_model"
    assert sentence.startswith(
        "timm has no model 'test_resne' that sorts images into classes; did you mean test_resnet"
    )
    content = page.get("/searches/new/").content.decode()
    names = reverse("model_names")
    assert 'list="teacher-names"' in content and f'<datalist id="teacher-names" data-names="{names}">' in content


# From the form to an upload and back


def test_an_upload_for_a_teacher_leads_back_to_its_field(page: Client) -> None:
    link = 'href="/weights/?for=teacher"'
    assert f"{link}>Upload a safetensors file" in page.get("/searches/new/").content.decode()
    assert 'action="/weights/?for=teacher"' in page.get("/weights/?for=teacher").content.decode()
    file = SimpleUploadedFile("oak.safetensors", tiny_model.weights())
    answer = page.post("/weights/?for=teacher", {"name": "Oak", "file": file})
    weights = Weights.objects.get()
    assert answer["Location"] == f"/searches/new/?teacher={weights.reference}"
    begun = page.get(answer["Location"])
    form, content = begun.context["form"], begun.content.decode()
    assert {name: form[name].value() for name in FORM if name.startswith(("space", "strategy"))} == {
        "space__kind": "chain", "strategy__kind": "dna", "strategy__dna__teacher": "library",
        "strategy__dna__teacher_library": None, "strategy__dna__teacher_model": None,
        "strategy__dna__teacher_weights": "file",
    }  # fmt: skip
    assert form[FIELD].value() == weights.reference
    assert "Learns from “Oak”" in content and '<details class="card-quiet" id="advanced" open>' in content
    assert f'href="/searches/new/?teacher={weights.reference}"' in page.get("/weights/?for=teacher").content.decode()
    assert f"{link}>Upload another, or look at yours" in content


def test_who_deletes_weights_looks_for_a_teachers_still(page: Client, new_weights: Callable[..., Weights]) -> None:
    first, second = new_weights("Oak"), new_weights("Elm")
    address = f"/weights/{first.pk}/delete/?for=teacher"
    assert f'action="{address}"' in page.get("/weights/?for=teacher").content.decode()
    answer = page.post(address, follow=True)
    content = answer.content.decode()
    assert answer.redirect_chain[-1][0] == "/weights/?for=teacher"
    assert f'href="/searches/new/?teacher={second.reference}"' in content and first.reference not in content
    assert page.post(f"/weights/{second.pk}/delete/")["Location"] == "/weights/"


def test_the_page_speaks_of_a_teacher_to_who_looks_for_one(page: Client, new_weights: Callable[..., Weights]) -> None:
    empty = "Without any, a <a href"
    of_teacher, of_model = (page.get(f"/weights/{query}").content.decode() for query in ("?for=teacher", ""))
    assert empty in of_teacher and "teach a search with DNA" in of_teacher and "smaller" not in of_teacher
    assert empty in of_model and "smaller" in of_model
    new_weights()
    of_teacher, of_model = (page.get(f"/weights/{query}").content.decode() for query in ("?for=teacher", ""))
    for said in ("<h1>Weights for a teacher</h1>", "Let them teach a search", "that you choose as the teacher"):
        assert said in of_teacher and said not in of_model
    for said in ("<h1>Weights</h1>", "Search with them", "that you choose for the search", "learned anew"):
        assert said in of_model and said not in of_teacher


# Once more, elsewhere, beside others


def test_the_same_is_asked_for_once_more(page: Client, search: Search) -> None:
    assert again(search)["strategy"]["teacher_path"] == Weights.objects.get().reference
    assert parse(briefly(search.config)) == parse(search.config)
    form = page.get("/searches/new/", {"from": str(search.pk)}).context["form"]
    assert form[FIELD].value() == search.config["strategy"]["teacher_path"]
    its = {"kind": "dna", "teacher": "library", "teacher_model": "test_resnet", "teacher_weights": "file"}
    assert between(recipe(page, search, "shell"))["strategy"] == {**its, "teacher_path": "weights.safetensors"}
    reference = search.config["strategy"]["teacher_path"]
    assert between(recipe(page, search, "curl"))["strategy"] == {**its, "teacher_path": reference}
    content = page.get(search.url).content.decode()
    assert content.count("Put the path of your weights in the place of <code>weights.safetensors</code>: “Oak”") == 2


def test_gone_weights_are_missed_and_no_others_take_their_place(
    page: Client, search: Search, new_weights: Callable[..., Weights]
) -> None:
    new_weights("Elm")
    put_into(search, SearchState.FINISHED)
    services.weights_delete(weights=Weights.objects.get(name="Oak"))
    shown = page.get("/searches/new/", {"from": str(search.pk)})
    assert "The weights it was given, “Oak”, were deleted meanwhile; choose others below" in shown.content.decode()
    form = shown.context["form"]
    assert form["strategy__dna__teacher_weights"].value() == "file" and not form[FIELD].value()


def test_a_comparison_names_them(page: Client, search: Search, new_weights: Callable[..., Weights]) -> None:
    other = posted(page, "/api/v1/searches", taught(new_weights("Elm")))
    random = posted(page, "/api/v1/searches", config())
    pair = [search, *(Search.objects.get(pk=answer.json()["id"]) for answer in (other, random))]
    rows = {row.label: row.values for row in comparison.setting_rows(pair)}
    assert rows[NAME] == ["Oak", "Elm", "—"] and "space.path" not in rows
    assert NAME not in {row.label for row in comparison.setting_rows([search, search])}


# Deleting


def test_weights_in_use_are_not_deleted(page: Client, search: Search) -> None:
    weights = Weights.objects.get()
    url = reverse("weights_delete", args=[weights.pk])
    told = page.post(url, follow=True).content.decode()
    assert "&#x27;Oak&#x27; are used by the search" in told and Weights.objects.exists()
    put_into(search, SearchState.FINISHED)
    assert "&#x27;Oak&#x27; was deleted." in page.post(url, follow=True).content.decode()
    search.refresh_from_db()
    assert (search.weights, search.weights_label) == (None, "Oak"), "what was found with them stays"
    assert page.get(search.url).status_code == 200


def test_a_search_whose_weights_are_gone_ends_with_a_sentence(search: Search) -> None:
    Weights.objects.all().delete()  # past all rules
    tasks.run_search(str(search.pk))
    search.refresh_from_db()
    assert search.state == SearchState.FAILED
    assert search.message == f"{NAME}: the weights 'Oak' were deleted; upload them again"


def test_weights_that_are_deleted_while_they_are_asked_for_are_missed(
    alice: User, new_weights: Callable[..., Weights]
) -> None:
    weights = new_weights()
    asked = selectors.search_asked(owner=alice, raw=taught(weights))
    services.weights_delete(weights=weights)
    with pytest.raises(ConfigError) as refusal:
        services.search_create(owner=alice, asked=asked)
    assert refusal.value.problems == ((NAME, "the weights 'Oak' were deleted meanwhile; choose others"),)
    assert not Search.objects.exists()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_real_engine_learns_from_weights_that_were_uploaded(page: Client, settings: Any, tmp_path: Path) -> None:
    settings.ENGINE_COMMAND = [sys.executable, "-m", "nasengine"]
    make = (
        "import timm; from safetensors.torch import save_file; "
        "save_file(timm.create_model('test_resnet', num_classes=10).state_dict(), 'oak.safetensors')"
    )
    subprocess.run([sys.executable, "-c", make], cwd=tmp_path, check=True, timeout=300)
    file = SimpleUploadedFile("oak.safetensors", (tmp_path / "oak.safetensors").read_bytes())
    assert page.post("/weights/?for=teacher", {"file": file}).status_code == 302
    fields = {
        FIELD: Weights.objects.get().reference, "data__limit": "120", "space__chain__layers": "3",
        "space__chain__channels": "4", "space__chain__expansions": "3",
        "search__epochs": "6", "retrain__epochs": "1", "target__value": "95%", "strategy__dna__rating_images": "16",
    }  # fmt: skip
    answer = page.post("/searches/new/", FORM | fields)
    assert answer.status_code == 302, answer.context["form"].errors
    search = Search.objects.get()
    tasks.run_search(str(search.pk))
    search.refresh_from_db()
    assert search.state == SearchState.FINISHED, search.message
    assert search.report is not None and "test_resnet" in search.report["teacher"]["sentence"]
    told = json.dumps([search.report, *search.events.values_list("payload", flat=True)])
    assert str(settings.MEDIA_ROOT) not in told
