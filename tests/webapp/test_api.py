"""The same verbs over HTTP, with the same sentences."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.http import HttpResponse
from django.test import Client

from nasengine.config import parse
from nasengine.errors import ConfigError
from nasengine.outlook import outlook
from nasengine.splits import builtin_facts
from tests.webapp.cast import config, progress, put_into, say
from webapp.models import Dataset, Search, SearchState

pytestmark = pytest.mark.django_db(transaction=True)


def post(browser: Client, body: Any) -> HttpResponse:
    text = body if isinstance(body, str) else json.dumps(body)
    return browser.post("/api/v1/searches", text, content_type="application/json")  # type: ignore[return-value]


def engines_problems(configuration: Any) -> list[list[str]]:
    """What the command line says."""
    try:
        parsed = parse(configuration)
        outlook(parsed, builtin_facts(parsed.data.dataset)).check()
    except ConfigError as error:
        return [list(problem) for problem in error.problems]
    raise AssertionError("the engine finds nothing wrong with it")


def test_a_list_of_events_is_paged_through_to_its_end_after_restarts(page: Client, running: Search) -> None:
    say(running, *(progress(seq) for seq in range(1, 501)))
    for attempt, seq in ((2, 300), (3, 100)):
        put_into(running, SearchState.RUNNING, attempt=attempt)
        say(running, *(progress(number) for number in range(seq, 501)))
    running.refresh_from_db()
    assert len(running.rewinds) == 2
    url, seqs, more = f"/api/v1/searches/{running.pk}/events", [0], True
    while more:
        feed = page.get(url, {"after": seqs[-1]}).json()
        seqs += [event["seq"] for event in feed["events"]]
        more = feed["more"]
        assert feed["rewind"] is None and len(seqs) <= 501
    assert seqs == list(range(501))
    assert page.get(url, {"after": 400, "rewinds": 1}).json()["rewind"] == 99


def test_it_works(page: Client, sent: list[tuple[str, str]]) -> None:
    answer = post(page, config())
    assert answer.status_code == 201, answer.content
    created = answer.json()  # type: ignore[attr-defined]
    assert (created["state"], created["dataset"]) == ("queued", "Digits")
    assert parse(created["config"]) == parse(config())
    assert page.get("/api/v1/searches").json() == [created]
    assert page.get(f"/api/v1/searches/{created['id']}").json() == created
    assert sent == [("webapp.tasks.run_search", created["id"])]


def test_a_search_in_the_chain_space(page: Client) -> None:
    asked = config(space={"kind": "chain", "layers": 5}, target={"value": "40%", "also": ["30%"]})
    answer = post(page, asked)
    assert answer.status_code == 201, answer.content
    created = answer.json()["config"]  # type: ignore[attr-defined]
    assert (created["space"]["kind"], created["space"]["layers"], created["target"]["also"]) == ("chain", 5, ["30%"])
    assert parse(created) == parse(asked)


@pytest.mark.parametrize(
    "wrong",
    [
        config(target={"value": 10}),
        config(target={"value": 10**9}),
        config(epoch=3),
        config(search={"epochs": "many"}),
        config(data={"dataset": "cifar"}),
        config(search={"batch_size": 4000}),
        config(space={"kind": "tree"}),
        config(space={"kind": "chain", "layers": 99, "kernels": [9]}),
        config(space={"kind": "chain", "nodes": 3}),
        config(target={"value": 20_000, "also": ["x"]}),
        config(preset="lazy"),
        config(data="digits"),
        config(name=7, seed=-1),
        config(data={"dataset": ["a"]}),
        config(data={"dataset": {}}),
        config(preset=["quick"]),
        [1, 2],
    ],
)
def test_a_wrong_configuration_is_answered_with_the_engines_sentences(page: Client, wrong: Any) -> None:
    answer = post(page, wrong)
    assert answer.status_code == 422
    assert answer.json() == {"problems": engines_problems(wrong)}  # type: ignore[attr-defined]
    assert not Search.objects.exists()


def test_what_is_not_json_is_told_so(page: Client) -> None:
    answer = post(page, "{name: digits}")
    assert answer.status_code == 422
    ((field, sentence),) = answer.json()["problems"]  # type: ignore[attr-defined]
    assert field == "" and sentence.startswith("the body is not JSON (Expecting property name")
    assert sentence.endswith("send the configuration as one JSON object")


def test_a_body_that_is_nested_too_deep_is_told_so(page: Client) -> None:
    answer = post(page, "[" * 100_000)
    assert answer.status_code == 422
    ((field, sentence),) = answer.json()["problems"]  # type: ignore[attr-defined]
    assert field == "" and sentence.startswith("the body is not JSON (maximum recursion depth exceeded")


def test_uploads_are_named_by_reference_and_paths_are_refused(page: Client, ready_dataset: Dataset) -> None:
    target = {"value": "40%"}
    answer = post(page, config(data={"dataset": ready_dataset.reference}, target=target))
    assert answer.status_code == 201
    assert answer.json()["config"]["data"]["dataset"] == ready_dataset.reference  # type: ignore[attr-defined]
    assert answer.json()["config"]["data"]["path"] is None  # type: ignore[attr-defined]
    refused = post(page, config(data={"dataset": "zip", "path": "/etc/passwd"}))
    assert refused.status_code == 422
    assert refused.json()["problems"][0][0] == "data.path"  # type: ignore[attr-defined]
    (dataset,) = page.get("/api/v1/datasets").json()
    assert (dataset["reference"], dataset["classes"], dataset["images"]) == (ready_dataset.reference, 2, 200)


def test_events_come_after_a_number(page: Client, running: Search) -> None:
    say(running, progress(1), progress(2), progress(3))
    feed = page.get(f"/api/v1/searches/{running.pk}/events", {"after": 1}).json()
    assert [event["seq"] for event in feed["events"]] == [2, 3]
    assert (feed["last_seq"], feed["more"], feed["rewind"], feed["state"]["state"]) == (3, False, None, "running")


def test_cancel(page: Client, running: Search) -> None:
    url = f"/api/v1/searches/{running.pk}/cancel"
    assert page.post(url).json()["sentence"] == "Ends at its next step."
    put_into(running, SearchState.CANCELLED)
    refused = page.post(url)
    assert refused.status_code == 409
    assert refused.json() == {"message": "'digits' has already ended; there is nothing to cancel."}


def test_strangers_find_nothing(strangers_page: Client, running: Search, ready_dataset: Dataset) -> None:
    assert strangers_page.get("/api/v1/searches").json() == []
    assert strangers_page.get("/api/v1/datasets").json() == []
    for id_ in (running.pk, uuid4()):
        assert strangers_page.get(f"/api/v1/searches/{id_}").status_code == 404
        assert strangers_page.get(f"/api/v1/searches/{id_}/events").status_code == 404
        assert strangers_page.post(f"/api/v1/searches/{id_}/cancel").status_code == 404


def test_who_is_not_signed_in_gets_401_not_a_page(client: Client, running: Search) -> None:
    assert client.get("/api/v1/searches").status_code == 401
    assert client.get(f"/api/v1/searches/{running.pk}/events").status_code == 401
    assert post(client, config()).status_code == 401


def test_strangers_and_what_is_not_there_are_answered_with_sentences(page: Client) -> None:
    answer = Client().get("/api/v1/searches", headers={"authorization": "Bearer \x00ÿ"})
    assert answer.json() == {
        "message": "Nobody is known by this; sign in, or send a token that is not revoked: Authorization: Bearer "
        "coppice_..."
    }
    answer = page.get(f"/api/v1/searches/{uuid4()}")
    assert answer.json() == {"message": "There is no such search of yours; look at the list."}


def test_a_foreign_page_cannot_post(alice: Any) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(alice)
    assert post(browser, config()).status_code == 403
    assert not Search.objects.exists()


def test_the_page_about_it_works_offline(page: Client) -> None:
    content = page.get("/api/v1/docs").content.decode()
    assert "swagger-ui-bundle.js" in content
    assert "http://" not in content and "https://" not in content and "//cdn" not in content


def test_the_document_says_what_a_configuration_is(page: Client) -> None:
    document = page.get("/api/v1/openapi.json").json()
    body = document["paths"]["/api/v1/searches"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["target"]["properties"]["value"]["description"].startswith("A number, or a percentage")
    cells, chain, imported = body["properties"]["space"]["oneOf"]
    assert (cells["properties"]["kind"]["const"], chain["properties"]["kind"]["const"]) == ("cells", "chain")
    assert "nodes" in cells["properties"] and "expansions" in chain["properties"]
    assert imported["properties"]["library"]["enum"] == ["timm", "torchvision"]
    assert "$defs" not in json.dumps(body) and "$ref" not in json.dumps(body)


def test_a_long_list_comes_in_parts(page: Client, new_search: Callable[..., Search]) -> None:
    names = [new_search(name=f"number {i}").name for i in range(3)]
    part = page.get("/api/v1/searches", {"limit": 1, "offset": 1}).json()
    assert [search["name"] for search in part] == [names[1]]


def test_numbers_beyond_every_list_are_refused_with_a_sentence(page: Client, running: Search) -> None:
    for url, name in (("/api/v1/searches", "offset"), (f"/api/v1/searches/{running.pk}/events", "after")):
        answer = page.get(url, {name: 10**30})
        assert answer.status_code == 422
        assert answer.json() == {"problems": [[name, "it is too large; give 1,000,000,000,000 or less"]]}


# Describing


def test_a_configuration_is_described_without_starting_it(page: Client) -> None:
    raw = config(target={"value": "95%", "limits": {"macs": "50%"}})
    answer = page.post("/api/v1/describe", json.dumps(raw), content_type="application/json")
    assert answer.status_code == 200, answer.content
    told, look = answer.json(), outlook(parse(raw), builtin_facts("digits"))
    assert told == {"config": parse(raw).model_dump(mode="json"), **look.to_json(), "cuttable": None}
    assert told["feasible"] is True and [field for field, _ in told["warnings"]] == ["target.value"]
    assert not Search.objects.exists()


def test_what_cannot_start_is_described_with_its_problems(page: Client, ready_dataset: Dataset) -> None:
    raw = config(target={"value": 10}, data={"dataset": ready_dataset.reference})
    told = page.post("/api/v1/describe", json.dumps(raw), content_type="application/json").json()
    assert told["feasible"] is False and told["warnings"] == []
    assert [field for field, _ in told["problems"]] == ["target.value"]
    assert told["config"]["data"] == {**told["config"]["data"], "dataset": ready_dataset.reference, "path": None}
    wrong = page.post("/api/v1/describe", json.dumps(config(epoch=3)), content_type="application/json")
    assert wrong.status_code == 422 and wrong.json()["problems"] == engines_problems(config(epoch=3))


def test_milliseconds_as_a_limit_are_sent_to_the_target(page: Client) -> None:
    raw = config(target={"value": "40%", "limits": {"latency_ms": 5}})
    for url in ("/api/v1/searches", "/api/v1/describe"):
        wrong = page.post(url, json.dumps(raw), content_type="application/json")
        ((field, sentence),) = wrong.json()["problems"]
        assert (wrong.status_code, field) == (422, "target.limits.latency_ms")
        assert "give them there (target.metric: latency_ms), and params or macs as limits beside it" in sentence


# Addresses that are none, methods that are not for one


@pytest.mark.parametrize("path", ["searches/not-an-id", "searches/not-an-id/events", "searchs", "searches/", "x/y"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_what_is_no_address_is_answered_with_a_sentence(page: Client, method: str, path: str) -> None:
    answer = page.generic(method, f"/api/v1/{path}")
    assert answer.status_code == 404
    assert answer.json() == {
        "message": "There is nothing at this address; /api/v1/docs lists what there is, lists tell the ids."
    }
    assert Client().generic(method, f"/api/v1/{path}").status_code == 401


def test_a_method_that_is_not_for_an_address_is_answered_with_those_that_are(page: Client, running: Search) -> None:
    for method, path, allowed in (
        ("DELETE", f"searches/{running.pk}", "GET and PATCH"),
        ("GET", f"searches/{running.pk}/cancel", "POST"),
        ("PUT", "describe", "POST"),
    ):
        answer = page.generic(method, f"/api/v1/{path}")
        assert answer.status_code == 405 and set(answer["Allow"].split(", ")) == set(allowed.split(" and "))
        assert answer.json() == {"message": f"{method} is not for this address; it takes {allowed}."}


# What somebody typed is not told back by the page


@pytest.mark.parametrize(
    "wrong",
    [
        config(name="x" * 200_000),
        config(name="a b " * 50_000),
        config(preset="y" * 200_000),
        config(data={"dataset": "z " * 100_000}),
        config(data={"dataset": f"upload:{'u' * 200_000}"}),
        config(target={"value": "9" * 200_000}),
        config(target={"value": 1e300}),
        {**config(), "k" * 200_000: 1},
    ],
    ids=["name", "words", "preset", "data set", "upload", "target", "number", "setting"],
)
def test_an_endless_input_is_told_in_brief(page: Client, wrong: Any) -> None:
    answer = post(page, wrong)
    assert answer.status_code == 422
    ((field, sentence),) = answer.json()["problems"]  # type: ignore[attr-defined]
    assert len(field) < 50 and len(sentence) <= 601 and ("…" in field + sentence or " characters; leave" in sentence)
