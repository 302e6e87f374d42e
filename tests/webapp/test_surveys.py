"""What may be cut of a known model is found out once, by a worker, before anything with it can start."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.utils import timezone

from nasengine import models
from nasengine.spaces import imported
from tests.webapp import tiny_model
from tests.webapp.cast import config, soon
from tests.webapp.tiny_model import REFUSAL
from webapp import selectors, services, tasks
from webapp.again import again
from webapp.models import Search, SearchState, Survey, SurveyState
from webapp.reaper import Reaper
from webapp.surveys import Subject

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("fake_engine")]

LOOK = "webapp.tasks.look_at_model"
FORM = {
    "name": "digits", "preset": "quick", "data__dataset": "digits", "space__kind": "imported", "strategy__kind": "dms",
    "space__imported__library": "timm", "space__imported__model": "test_resnet", "target__metric": "macs",
    "target__value": "40%",
}  # fmt: skip


def subject(model: str = "test_resnet", library: str = "timm") -> Subject:
    return Subject(library=library, model=model, image_size=32, channels=1, classes=10)


def named(model: str = "test_resnet", library: str = "timm", **changes: Any) -> dict[str, Any]:
    """A configuration as the API takes it."""
    space = {"kind": "imported", "library": library, "model": model}
    return config(space=space, strategy={"kind": "dms"}, target={"metric": "macs", "value": "40%"}, **changes)


def posted(page: Client, url: str, raw: dict[str, Any]) -> Any:
    return page.post(url, json.dumps(raw), content_type="application/json")


def outlook(page: Client, **changes: str) -> dict[str, Any]:
    answer = page.post("/searches/new/outlook/", FORM | changes)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def look(survey: Survey) -> Survey:
    """Lets a worker look."""
    tasks.look_at_model(str(survey.pk))
    survey.refresh_from_db()
    return survey


@pytest.fixture
def asked(alice: User) -> Callable[..., Survey]:
    def ask(model: str = "test_resnet", library: str = "timm") -> Survey:
        return services.survey_want(owner=alice, subject=subject(model, library))

    return ask


# Through the form


def test_the_form_lets_a_worker_look_and_then_says_what_may_be_cut(page: Client, sent: list[tuple[str, str]]) -> None:
    first = outlook(page)
    survey = Survey.objects.get()
    assert sent == [(LOOK, str(survey.pk))]
    assert (first["survey"]["state"], first["feasible"], first["problems"]) == ("waiting", False, [])
    assert first["full_size"] is None and first["cuttable"] is None
    assert look(survey).state == SurveyState.KNOWN
    then = outlook(page)
    assert then["feasible"] and then["survey"] is None, then["problems"]
    assert then["cuttable"]["sentence"] == tiny_model.survey(**shape())["facts"]["sentence"]
    assert 0 < then["smallest_size"] < then["target"] < then["full_size"]
    started = page.post("/searches/new/", FORM)
    assert started.status_code == 302
    search = Search.objects.get()
    assert (search.model_name, search.config["space"]["weights"]) == ("test_resnet", "none")
    assert len(sent) == 2


def shape() -> dict[str, int]:
    return {"image_size": 32, "channels": 1, "classes": 10}


def test_without_javascript_the_form_says_what_it_waits_for(page: Client) -> None:
    answer = page.post("/searches/new/", FORM)
    assert answer.status_code == 422 and not Search.objects.exists()
    assert "Waits for a free worker; then it takes a minute or two." in answer.content.decode()
    look(Survey.objects.get())
    assert page.post("/searches/new/", FORM).status_code == 302


def test_a_target_below_what_the_model_can_reach_is_refused_at_the_target(page: Client) -> None:
    outlook(page)
    look(Survey.objects.get())
    (problem,) = outlook(page, target__value="1%")["problems"]
    assert problem[0] == "target__value" and "below what this space can surely reach; give at least" in problem[1]


@pytest.mark.parametrize(
    ("library", "model", "sentence"),
    [
        (
            "timm",
            "mobilenetv3_smal_100",
            "timm has no model 'mobilenetv3_smal_100' that sorts images into classes; did you mean "
            "mobilenetv3_small_100",
        ),
        ("torchvision", "mobilenetv3_small_100", "torchvision has no model 'mobilenetv3_small_100' that sorts"),
    ],
)
def test_a_wrong_name_is_refused_at_once_with_the_nearest(
    page: Client, library: str, model: str, sentence: str
) -> None:
    told = outlook(page, space__imported__library=library, space__imported__model=model)
    ((field, said),) = told["problems"]
    assert field == "space__imported__model" and said.startswith(sentence)
    assert not Survey.objects.exists(), "nobody is sent to look"


def test_a_model_that_cannot_be_searched_is_told_with_its_reason_and_can_be_looked_at_again(
    page: Client, sent: list[tuple[str, str]]
) -> None:
    fields = {"space__imported__library": "torchvision", "space__imported__model": "alexnet"}
    outlook(page, **fields)
    assert look(Survey.objects.get()).state == SurveyState.REFUSED
    told = outlook(page, **fields)
    assert told["problems"] == [["space__imported__model", REFUSAL]] and told["survey"]["state"] == "refused"
    assert len(sent) == 1
    shown = page.post("/searches/new/", FORM | fields)
    assert shown.status_code == 422 and REFUSAL in shown.content.decode() and len(sent) == 1
    again = outlook(page, **fields, look_again="1")
    assert (again["survey"]["state"], again["problems"]) == ("waiting", []) and len(sent) == 2


def test_names_are_fetched_once(page: Client) -> None:
    answer = page.get("/searches/new/models/")
    assert {library: tuple(names) for library, names in answer.json().items()} == {
        library: models.names(library) for library in models.LIBRARIES
    }
    assert "max-age=86400" in answer["Cache-Control"] and "private" in answer["Cache-Control"]
    assert page.get("/searches/new/models/", headers={"if-none-match": answer["ETag"]}).status_code == 304


def test_clone_and_edit_names_the_same_model(page: Client, asked: Callable[..., Survey]) -> None:
    look(asked())
    search = start(page)
    filled = page.get("/searches/new/", {"from": str(search.pk)}).context["form"]
    assert filled["space__kind"].value() == "imported" and filled["space__imported__model"].value() == "test_resnet"
    assert again(search)["space"] == {"kind": "imported", "library": "timm", "model": "test_resnet"}
    assert "test_resnet · DMS" in page.get(search.url).content.decode()


def start(page: Client) -> Search:
    assert page.post("/searches/new/", FORM).status_code == 302
    return Search.objects.latest("created_at")


# Through the API


@pytest.mark.parametrize("url", ["/api/v1/searches", "/api/v1/describe"])
def test_a_script_is_asked_to_come_back(page: Client, url: str, sent: list[tuple[str, str]]) -> None:
    for _ in range(2):
        answer = posted(page, url, named())
        assert (answer.status_code, answer["Retry-After"]) == (409, "5")
        assert answer.json()["message"].startswith("What may be cut of test_resnet (timm) is not known yet. Waits for")
    assert len(sent) == 1
    look(Survey.objects.get())
    answer = posted(page, url, named())
    assert answer.status_code in (200, 201), answer.content
    if "describe" in url:
        assert answer.json()["cuttable"]["reach"] == 0.92


def test_a_script_is_told_why_a_model_cannot_be_searched(page: Client) -> None:
    posted(page, "/api/v1/searches", named("alexnet", "torchvision"))
    look(Survey.objects.get())
    answer = posted(page, "/api/v1/searches", named("alexnet", "torchvision"))
    assert (answer.status_code, answer.json()) == (422, {"problems": [["space.model", REFUSAL]]})


@pytest.mark.parametrize("weights", [{"weights": "file", "path": "/etc/passwd"}, {"path": "x"}, {"path": 7}])
def test_paths_of_the_server_are_refused(page: Client, weights: dict[str, str]) -> None:
    raw = named()
    answer = posted(page, "/api/v1/searches", {**raw, "space": {**raw["space"], **weights}})
    assert answer.status_code == 422
    ((field, sentence),) = answer.json()["problems"]
    assert field == "space.path" and sentence.startswith("files of the server cannot be named here")


# The work itself


def test_two_who_ask_alike_get_the_same_survey(alice: User, bob: User, sent: list[tuple[str, str]]) -> None:
    first = services.survey_want(owner=alice, subject=subject())
    assert services.survey_want(owner=bob, subject=subject()) == first
    assert services.survey_want(owner=bob, subject=subject("test_vit")) != first
    assert len(sent) == 2


def test_who_asks_for_many_is_told_to_wait(
    alice: User, bob: User, settings: Any, page: Client, asked: Callable[..., Survey]
) -> None:
    settings.MAX_SURVEYS = 1
    asked("test_vit")
    sentence = "As many models as may be (1) are looked at for you already; wait until one of them is done."
    assert outlook(page)["problems"] == [["space__imported__model", sentence]]
    answer = posted(page, "/api/v1/searches", named())
    assert (answer.status_code, answer.json()) == (409, {"message": sentence})
    services.survey_want(owner=bob, subject=subject())


def test_another_machine_takes_what_is_known_from_the_row(page: Client, asked: Callable[..., Survey]) -> None:
    survey = look(asked())
    search = start(page)
    models_folder = subject().file.parent
    assert survey.found == json.loads(subject().file.read_text())
    shutil.rmtree(models_folder)
    assert outlook(page)["feasible"] and subject().file.exists()
    shutil.rmtree(models_folder)
    selectors.bring_survey(search)
    assert imported.survey(subject().file) == survey.found


def test_what_an_earlier_version_found_is_looked_at_anew(
    asked: Callable[..., Survey], sent: list[tuple[str, str]], page: Client
) -> None:
    survey = look(asked())
    Survey.objects.update(found={**survey.found, "format": imported.FORMAT - 1})  # type: ignore[dict-item]
    subject().file.unlink()
    assert outlook(page)["survey"]["state"] == "waiting" and len(sent) == 2


def test_a_message_delivered_twice_looks_once(asked: Callable[..., Survey]) -> None:
    survey = look(asked())
    assert (look(survey).attempt, survey.state) == (1, SurveyState.KNOWN)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("alexnet", REFUSAL),
        ("vgg16", "The engine ended with exit status 1."),
        ("vgg19", "The engine ended without an answer."),
    ],
)
def test_a_refusal_is_kept_with_its_sentence(asked: Callable[..., Survey], model: str, sentence: str) -> None:
    survey = look(asked(model, "torchvision"))
    assert (survey.state, survey.message, survey.sentence) == (SurveyState.REFUSED, sentence, sentence)


def test_an_old_refusal_is_looked_at_anew(asked: Callable[..., Survey], sent: list[tuple[str, str]]) -> None:
    survey = look(asked("alexnet", "torchvision"))
    assert asked("alexnet", "torchvision").state == SurveyState.REFUSED and len(sent) == 1
    Survey.objects.filter(pk=survey.pk).update(heartbeat_at=timezone.now() - timedelta(hours=2))
    assert asked("alexnet", "torchvision").state == SurveyState.WAITING and len(sent) == 2


def test_a_look_that_is_killed_is_begun_again_and_given_up_in_the_end(
    asked: Callable[..., Survey], sent: list[tuple[str, str]]
) -> None:
    survey = asked("vgg11", "torchvision")
    for attempt in (1, 2):
        assert (look(survey).state, survey.losses) == (SurveyState.WAITING, attempt)
    assert len(sent) == 3
    assert look(survey).state == SurveyState.REFUSED
    assert survey.message.startswith("Its engine was stopped.") and "Given up after 3 attempts." in survey.message


def test_a_look_that_takes_too_long_is_ended(asked: Callable[..., Survey], settings: Any) -> None:
    settings.SURVEY_SECONDS = 1.0
    survey = look(asked("vgg13", "torchvision"))
    assert survey.state == SurveyState.REFUSED
    assert survey.message == "What may be cut of it was not found out within 1 seconds; take another model."


def test_a_look_whose_worker_died_is_begun_again(
    asked: Callable[..., Survey], sent: list[tuple[str, str]], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SILENT_SECONDS = settings.RESEND_SECONDS = 0.05
    survey = asked()
    assert services.survey_claim(survey_id=survey.pk)
    watcher = Reaper()

    def is_found() -> bool:
        watcher.reap()
        survey.refresh_from_db()
        return survey.state == SurveyState.WAITING

    soon(is_found)
    assert sent == [(LOOK, str(survey.pk))] * 2
    assert not services.survey_know(survey_id=survey.pk, attempt=1, found={}), "the dead say nothing any more"
    monkeypatch.setattr("webapp.reaper.messages_in", lambda queue: 0)

    def is_sent_again() -> bool:
        watcher.resend_lost()
        return len(sent) == 3

    soon(is_sent_again)
    assert look(survey).state == SurveyState.KNOWN


def test_a_worker_that_shuts_down_lets_the_look_wait(
    asked: Callable[..., Survey], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ENGINE_SAVE_SECONDS = settings.ENGINE_KILL_SECONDS = 0.1
    survey = asked("vgg13", "torchvision")
    monkeypatch.setattr(tasks, "worker_is_closing", lambda: True)

    def work() -> None:
        try:
            tasks.look_at_model(str(survey.pk))
        finally:
            connection.close()

    worker = threading.Thread(target=work)
    worker.start()
    worker.join(timeout=30)
    assert not worker.is_alive()
    survey.refresh_from_db()
    assert (survey.state, survey.losses) == (SurveyState.WAITING, 0)


@pytest.mark.slow
def test_what_the_real_engine_refuses_is_told_in_its_words(asked: Callable[..., Survey], settings: Any) -> None:
    settings.ENGINE_COMMAND = [sys.executable, "-m", "nasengine"]
    survey = look(asked("alexnet", "torchvision"))
    assert survey.state == SurveyState.REFUSED
    assert survey.message.startswith("alexnet (torchvision) does not take images of 32 pixels and 1 channel (")
    assert survey.message.endswith("); try another image size or model")


def test_a_search_of_a_model_runs_like_any_other(page: Client, asked: Callable[..., Survey]) -> None:
    look(asked())
    search = start(page)
    Search.objects.filter(pk=search.pk).update(config={**search.config, "name": "finishes"})
    tasks.run_search(str(search.pk))
    search.refresh_from_db()
    assert search.state == SearchState.FINISHED
