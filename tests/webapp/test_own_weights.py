"""Weights of one's own: from the file of a stranger to what an engine begins with, and what is said on the way."""

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
from tests.webapp.cast import A_ZIP, config, put_into
from tests.webapp.test_again import between, recipe
from tests.webapp.test_surveys import FORM, look, named, outlook, posted, start, subject
from webapp import comparison, selectors, services, tasks
from webapp.again import again, briefly
from webapp.models import Search, SearchState, Survey, SurveyState, Weights

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("fake_engine")]

CHOSEN = {"space__imported__weights": "file"}


@pytest.fixture
def known(alice: User) -> None:
    """It is known what may be cut of the tiny model, and what its weights are."""
    look(services.survey_want(owner=alice, subject=subject()))


def chosen(weights: Weights) -> dict[str, str]:
    return CHOSEN | {"space__imported__path": weights.reference}


def begun(weights: object, **changes: Any) -> dict[str, Any]:
    """A configuration that begins with weights of this reference."""
    raw = named(**changes)
    return {**raw, "space": {**raw["space"], "weights": "file", "path": getattr(weights, "reference", weights)}}


@pytest.fixture
def search(page: Client, known: None, new_weights: Callable[..., Weights]) -> Search:
    """One of Alice's that begins with weights of hers."""
    assert page.post("/searches/new/", FORM | chosen(new_weights())).status_code == 302
    return Search.objects.get()


def folders(settings: Any) -> list[Path]:
    place: Path = settings.MEDIA_ROOT / "weights"
    return sorted(place.iterdir()) if place.exists() else []


# Uploading


@pytest.mark.parametrize("in_memory", [True, False])
def test_who_uploads_weights_is_led_to_a_search_that_begins_with_them(
    page: Client, settings: Any, in_memory: bool
) -> None:
    settings.FILE_UPLOAD_MAX_MEMORY_SIZE = 2**20 if in_memory else 100
    assert "No weights of your own yet" in page.get("/weights/").content.decode()
    file = SimpleUploadedFile("../../My Öak.safetensors", tiny_model.weights())
    answer = page.post("/weights/", {"name": "", "file": file})
    weights = Weights.objects.get()
    assert (answer.status_code, answer["Location"]) == (302, f"/searches/new/?weights={weights.reference}")
    assert (weights.name, weights.tensors, weights.parameters) == ("My Öak", 3, 8 * 9 + 1 + 160)
    assert weights.file == f"weights/{weights.pk}/My-ak.safetensors" and weights.bytes == len(tiny_model.weights())
    assert (settings.MEDIA_ROOT / weights.file).read_bytes() == tiny_model.weights()
    form = page.get(answer["Location"]).context["form"]
    chosen = {name: form[f"space__{name}"].value() for name in ("kind", "imported__weights", "imported__path")}
    assert chosen == {"kind": "imported", "imported__weights": "file", "imported__path": weights.reference}
    assert "Begins with “My Öak”" in page.get(answer["Location"]).content.decode()
    listed = page.get("/weights/").content.decode()
    assert "My Öak" in listed and "<dd>3</dd>" in listed and "<dd>233</dd>" in listed and "just now" in listed


def test_two_may_have_the_same_name(page: Client, new_weights: Callable[..., Weights]) -> None:
    first, second = new_weights(), new_weights()
    options = page.get("/searches/new/").context["form"].fields["space__imported__path"].widget.choices
    assert options == [("", "Choose one"), (second.reference, "Oak"), (first.reference, "Oak")]


NOT_SAFE = "'{}' cannot be read as a safetensors file ({}); save your model's state dict as one: "
PICKLED = "'{}' is a pickle, which may run anything when it is opened, so it is not opened here; convert it "
BEGUN = "it does not begin with the length of a header"
WRONG: dict[str, tuple[str, bytes | None, str]] = {
    "nothing": ("oak.safetensors", None, "No file was chosen; choose one that ends with .safetensors."),
    "empty": ("oak.safetensors", b"", "The chosen file is empty; choose one that holds a state dict."),
    "a text": ("oak.safetensors", b"hello there", NOT_SAFE.format("oak.safetensors", BEGUN)),
    "a zip of images": ("cats.zip", A_ZIP, NOT_SAFE.format("cats.zip", BEGUN)),
    "by its name a pickle": ("oak.PTH", b"hello there", PICKLED.format("oak.PTH")),
    "a pickle": ("oak", b"\x80\x02}q\x00X\x05\x00\x00\x00", PICKLED.format("oak")),
    "a file of torch.save": (
        "oak.safetensors", b"PK\x03\x04" + bytes(26) + b"oak/data.pkl" + b"FB" * 90, PICKLED.format("oak.safetensors"),
    ),
    "cut short": (
        "oak.safetensors", tiny_model.weights()[:-1],
        NOT_SAFE.format("oak.safetensors", "its tensors take 932 bytes, and it has 931 for them"),
    ),
    "an endless header": (
        "oak.safetensors", b"\xff" * 8 + b"{}", NOT_SAFE.format("oak.safetensors", BEGUN),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "sentence"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_comes_back_with_a_sentence_and_leaves_nothing(
    page: Client, settings: Any, name: str, content: bytes | None, sentence: str
) -> None:
    files = {} if content is None else {"file": SimpleUploadedFile(name, content)}
    answer = page.post("/weights/", {"name": "Oak"} | files)
    assert answer.status_code == 422
    (said,) = answer.context["upload_form"].errors["file"]
    assert said.startswith(sentence)
    assert not Weights.objects.exists() and not folders(settings)


def test_a_file_over_the_limit_is_refused_and_leaves_nothing(
    new_weights: Callable[..., Weights], settings: Any
) -> None:
    settings.WEIGHTS_MAX_BYTES = 2**20
    sentence = (
        r"'my oak\.safetensors' is larger than the 1 MB that weights may have; save the state dict alone, in float32"
    )
    with pytest.raises(services.Refused, match=sentence):
        new_weights(content=bytes(2**20 + 1))
    assert not folders(settings)


def test_data_sets_and_weights_share_a_quota(
    alice: User, bob: User, new_dataset: Callable[..., Any], new_weights: Callable[..., Weights], settings: Any
) -> None:
    settings.UPLOAD_QUOTA_BYTES = len(A_ZIP) + len(tiny_model.weights())
    new_dataset()
    first = new_weights()
    before = folders(settings)
    with pytest.raises(services.Refused, match="only 0 are free; delete a data set or weights first"):
        new_weights()
    assert folders(settings) == before
    with pytest.raises(services.Refused, match="delete a data set or weights first"):
        new_dataset()
    new_weights(owner=bob)
    services.weights_delete(weights=first)
    new_weights()


@pytest.mark.slow
def test_what_is_said_of_a_pickle_makes_a_file_that_is_taken(page: Client, tmp_path: Path) -> None:
    """The very command of the sentence, on what torch.save writes, in a shell."""

    def run(command: str) -> None:
        path = f"PATH={Path(sys.executable).parent}:$PATH"
        subprocess.run(["bash", "-ec", f"{path}; python {command}"], cwd=tmp_path, check=True, timeout=120)

    run("-c \"import torch; torch.save({'a': torch.ones(2, 3)}, 'model.pt')\"")
    pickle = SimpleUploadedFile("model", (tmp_path / "model.pt").read_bytes())
    (said,) = page.post("/weights/", {"file": pickle}).context["upload_form"].errors["file"]
    assert said.startswith("'model' is a pickle")
    run(said.partition("trust it: python ")[2].partition(" (of")[0])
    content = (tmp_path / "model.safetensors").read_bytes()
    assert page.post("/weights/", {"file": SimpleUploadedFile("model", content)}).status_code == 302
    assert Weights.objects.get().parameters == 6


# Choosing


def test_a_search_names_them_by_reference_and_its_engine_gets_the_path(search: Search, settings: Any) -> None:
    weights = Weights.objects.get()
    assert (search.weights, search.weights_label) == (weights, "Oak")
    assert search.config["space"] == {
        "kind": "imported", "library": "timm", "model": "test_resnet", "weights": "file", "path": weights.reference,
    }  # fmt: skip
    Search.objects.update(config={**search.config, "name": "finishes"})
    tasks.run_search(str(search.pk))
    search.refresh_from_db()
    assert search.state == SearchState.FINISHED, search.message
    given = json.loads((selectors.run_folder(search.pk) / "config.json").read_text())
    assert given["space"]["path"] == str(settings.MEDIA_ROOT / weights.file)


def test_no_page_and_no_answer_tells_where_they_lie(page: Client, search: Search, settings: Any) -> None:
    for url in (search.url, "/weights/", f"/searches/new/?from={search.pk}", "/api/v1/weights", "/api/v1/searches"):
        told = page.get(url).content.decode()
        assert str(settings.MEDIA_ROOT) not in told and "my-oak" not in told, url
    assert "<dt>weights</dt><dd>Oak</dd>" in page.get(search.url).content.decode()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"layer1.0.conv1.weight": [8, 3, 5]},
            "do not fit test_resnet (timm): layer1.0.conv1.weight is [8, 3, 5], expected [8, 3, 3]; give those of this "
            "model for such images",
        ),
        ({"layer1.0.conv1.weight": None}, "have no layer1.0.conv1.weight; give those of test_resnet (timm)"),
        ({"more": [2]}, "have more, which test_resnet (timm) has not"),
    ],
)
def test_weights_of_another_model_are_refused_at_every_door(
    page: Client, known: None, new_weights: Callable[..., Weights], changes: dict[str, Any], sentence: str
) -> None:
    weights = new_weights(content=tiny_model.weights(**changes))
    whole = f"the weights in my-oak.safetensors {sentence}"
    told = outlook(page, **chosen(weights))
    assert told["problems"] == [["space__imported__path", whole]] and not told["feasible"]
    assert told["full_size"], "sizes are told all the same"
    assert page.post("/searches/new/", FORM | chosen(weights)).status_code == 422
    for url in ("/api/v1/searches", "/api/v1/describe"):
        answer = posted(page, url, begun(weights))
        if answer.status_code == 422:
            assert answer.json() == {"problems": [["space.path", whole]]}
        else:
            assert url.endswith("describe") and answer.json()["problems"] == [["space.path", whole]]
    assert not Search.objects.exists()


def test_a_last_layer_for_other_classes_may_be_in_them(
    page: Client, known: None, new_weights: Callable[..., Weights]
) -> None:
    assert outlook(page, **chosen(new_weights(content=tiny_model.weights(**{"fc.weight": [1000, 16]}))))["feasible"]


def test_with_a_file_one_has_to_be_chosen(page: Client, known: None, new_weights: Callable[..., Weights]) -> None:
    sentence = "no file is chosen; choose one of yours, or upload it first (in a configuration: upload:<its id>)"
    assert "There are no weights of yours here yet." in page.get("/searches/new/").content.decode()
    assert outlook(page, **CHOSEN)["problems"] == [["space__imported__path", sentence]]
    answer = posted(page, "/api/v1/searches", begun(None))
    assert (answer.status_code, answer.json()) == (422, {"problems": [["space.path", sentence]]})
    new_weights()
    assert "There are no weights of yours here yet." not in page.get("/searches/new/").content.decode()
    assert outlook(page, **CHOSEN)["problems"] == [["space__imported__path", sentence]], "none is guessed"


def test_while_none_is_chosen_sizes_and_estimate_are_told_all_the_same(
    page: Client, known: None, new_weights: Callable[..., Weights]
) -> None:
    """For a recipe that wants trained weights, too; no warning stands beside what has to be mended."""
    asked = {"strategy__dms__recipe": "prune", "target__value": "95%"}
    told, then = outlook(page, **asked, **CHOSEN), outlook(page, **asked, **chosen(new_weights()))
    assert then["feasible"] and then["warnings"] and not told["feasible"]
    ((field, sentence),) = told["problems"]
    assert field == "space__imported__path" and sentence.startswith("no file is chosen")
    assert told == then | {"feasible": False, "warnings": [], "problems": told["problems"]}


def test_a_model_that_nobody_knows_is_looked_at_before_its_file_is_chosen(page: Client) -> None:
    told = outlook(page, **CHOSEN)
    assert [field for field, _ in told["problems"]] == ["space__imported__path"]
    assert told["survey"]["state"] == SurveyState.WAITING
    assert page.post("/searches/new/", FORM | CHOSEN).status_code == 422
    assert posted(page, "/api/v1/searches", begun(None)).status_code == 422, "a script is told at once"
    look(Survey.objects.get())
    assert outlook(page, **CHOSEN)["full_size"]
    assert not Search.objects.exists()


def test_a_file_is_for_weights_from_a_file_alone(
    page: Client, known: None, new_weights: Callable[..., Weights]
) -> None:
    told = outlook(page, space__imported__path=new_weights().reference)
    assert told["problems"] == [["space__imported__path", "weights 'none' take no file; leave it out, or use file"]]


def test_anothers_and_deleted_ones_look_like_none(
    page: Client, bob: User, known: None, new_weights: Callable[..., Weights]
) -> None:
    his, gone = new_weights(owner=bob), new_weights()
    services.weights_delete(weights=gone)
    for reference in (his.reference, gone.reference, f"upload:{uuid4()}", "upload:../../x", "upload:\0", "upload:"):
        answer = posted(page, "/api/v1/searches", begun(reference))
        sentence = f"there are no weights '{reference}' of yours; choose some of the weights page"
        assert (answer.status_code, answer.json()) == (422, {"problems": [["space.path", sentence]]})
    assert his.reference not in page.get("/searches/new/").content.decode()
    form = page.get("/searches/new/", {"weights": his.reference}).context["form"]
    assert form["space__kind"].value() == "cells", "nothing is chosen"
    assert "Begins with" not in page.get("/searches/new/", {"weights": his.reference}).content.decode()


def test_data_sets_are_no_weights_and_weights_no_data_set(
    page: Client, known: None, ready_dataset: Any, new_weights: Callable[..., Weights]
) -> None:
    answer = posted(page, "/api/v1/searches", begun(ready_dataset))
    assert answer.json()["problems"][0][1].startswith("there are no weights 'upload:")
    answer = posted(page, "/api/v1/searches", config(data={"dataset": new_weights().reference}))
    assert answer.json()["problems"][0][1].startswith("there is no data set 'upload:")


def test_a_space_of_our_own_takes_none(page: Client, new_weights: Callable[..., Weights], settings: Any) -> None:
    raw = config(space={"kind": "cells", "weights": "file", "path": new_weights().reference})
    answer = posted(page, "/api/v1/searches", raw)
    assert answer.status_code == 422 and str(settings.MEDIA_ROOT) not in answer.content.decode()
    assert {field for field, _ in answer.json()["problems"]} == {"space.weights", "space.path"}


def test_a_recipe_for_trained_weights_can_be_asked_for(
    page: Client, known: None, new_weights: Callable[..., Weights]
) -> None:
    weights = new_weights()
    for name in ("prune", "gates"):
        asked = {"strategy__dms__recipe": name}
        assert outlook(page, **asked)["problems"][0][0] == "strategy__dms__recipe"
        assert outlook(page, **asked, **chosen(weights))["feasible"]


def test_a_script_lists_and_names_them(page: Client, known: None, new_weights: Callable[..., Weights]) -> None:
    weights = new_weights()
    (listed,) = page.get("/api/v1/weights").json()
    assert listed.pop("created_at")
    assert listed == {
        "id": str(weights.pk), "reference": weights.reference, "name": "Oak", "bytes": weights.bytes, "tensors": 3,
        "parameters": 233,
    }  # fmt: skip
    answer = posted(page, "/api/v1/searches", begun(listed["reference"]))
    assert answer.status_code == 201 and answer.json()["config"]["space"]["path"] == weights.reference


# Once more, elsewhere, beside others


def test_the_same_is_asked_for_once_more(page: Client, search: Search) -> None:
    assert again(search)["space"]["path"] == Weights.objects.get().reference
    assert parse(briefly(search.config)) == parse(search.config)
    form = page.get("/searches/new/", {"from": str(search.pk)}).context["form"]
    assert form["space__imported__path"].value() == search.config["space"]["path"]
    content = page.get(search.url).content.decode()
    assert content.count("Put the path of your weights in the place of <code>weights.safetensors</code>: “Oak”") == 2
    space = {"kind": "imported", "library": "timm", "model": "test_resnet", "weights": "file"}
    assert between(recipe(page, search, "shell"))["space"] == {**space, "path": "weights.safetensors"}
    assert between(recipe(page, search, "curl"))["space"] == {**space, "path": search.config["space"]["path"]}


def test_gone_weights_are_missed_and_no_others_take_their_place(
    page: Client, search: Search, new_weights: Callable[..., Weights]
) -> None:
    new_weights("Elm")
    put_into(search, SearchState.FINISHED)
    services.weights_delete(weights=Weights.objects.get(name="Oak"))
    shown = page.get("/searches/new/", {"from": str(search.pk)})
    assert "The weights it was given, “Oak”, were deleted meanwhile; choose others below" in shown.content.decode()
    form = shown.context["form"]
    assert form["space__imported__weights"].value() == "file" and not form["space__imported__path"].value()


def test_a_comparison_names_them(page: Client, search: Search, new_weights: Callable[..., Weights]) -> None:
    assert page.post("/searches/new/", FORM | chosen(new_weights("Elm"))).status_code == 302
    random = start(page)
    pair = [search, Search.objects.exclude(pk__in=[search.pk, random.pk]).get()]
    rows = {row.label: row.values for row in comparison.setting_rows([*pair, random])}
    assert rows["space.path"] == ["Oak", "Elm", "—"] and rows["space.weights"] == ["file", "file", "none"]
    assert "space.path" not in {row.label for row in comparison.setting_rows([search, search])}


# Deleting


def test_weights_in_use_are_not_deleted(page: Client, search: Search, settings: Any) -> None:
    weights = Weights.objects.get()
    path: Path = settings.MEDIA_ROOT / weights.file
    url = reverse("weights_delete", args=[weights.pk])
    for state in (SearchState.QUEUED, SearchState.RUNNING, SearchState.PAUSED):
        put_into(search, state)
        refused = page.post(url, follow=True).content.decode()
        assert "&#x27;Oak&#x27; are used by the search" in refused and "cancel it or wait until it ends" in refused
        assert path.exists()
    put_into(search, SearchState.FINISHED)
    assert "&#x27;Oak&#x27; was deleted." in page.post(url, follow=True).content.decode()
    search.refresh_from_db()
    assert not path.parent.exists()
    assert (search.weights, search.weights_label) == (None, "Oak"), "what was found with them stays"
    assert page.get(search.url).status_code == 200


def test_a_search_whose_weights_are_gone_ends_with_a_sentence(search: Search) -> None:
    Weights.objects.all().delete()  # past all rules
    tasks.run_search(str(search.pk))
    search.refresh_from_db()
    assert search.state == SearchState.FAILED
    assert search.message == "space.path: the weights 'Oak' were deleted; upload them again"


def test_weights_that_are_deleted_while_they_are_asked_for_are_missed(
    alice: User, known: None, new_weights: Callable[..., Weights]
) -> None:
    weights = new_weights()
    asked = selectors.search_asked(owner=alice, raw=begun(weights))
    services.weights_delete(weights=weights)
    with pytest.raises(ConfigError, match=r"space\.path: the weights 'Oak' were deleted meanwhile; choose others"):
        services.search_create(owner=alice, asked=asked)
    assert not Search.objects.exists()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_real_engine_makes_a_model_smaller_whose_weights_were_uploaded(
    page: Client, settings: Any, tmp_path: Path
) -> None:
    settings.ENGINE_COMMAND = [sys.executable, "-m", "nasengine"]
    make = (
        "import timm; from safetensors.torch import save_file; "
        "save_file(timm.create_model('test_resnet', in_chans=1, num_classes=10).state_dict(), 'oak.safetensors')"
    )
    subprocess.run([sys.executable, "-c", make], cwd=tmp_path, check=True, timeout=300)
    file = SimpleUploadedFile("oak.safetensors", (tmp_path / "oak.safetensors").read_bytes())
    assert page.post("/weights/", {"file": file}).status_code == 302
    fields = {
        **chosen(Weights.objects.get()), "strategy__dms__recipe": "gates", "data__limit": "300", "search__epochs": "4",
        "retrain__epochs": "0", "target__value": "70%",
    }  # fmt: skip
    outlook(page, **fields)
    assert look(Survey.objects.get()).state == SurveyState.KNOWN
    told = outlook(page, **fields)
    assert told["feasible"], told["problems"]
    assert page.post("/searches/new/", FORM | fields).status_code == 302
    search = Search.objects.get()
    tasks.run_search(str(search.pk))
    search.refresh_from_db()
    assert search.state == SearchState.FINISHED, search.message
    assert search.report is not None and search.report["achieved"]["macs"] <= told["target"]
