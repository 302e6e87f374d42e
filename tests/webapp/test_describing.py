"""What its owner calls a search: on its page and in the API, each refusal a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from webapp import services
from webapp.models import Search

pytestmark = pytest.mark.django_db(transaction=True)

REFUSED = (
    ("name", " ", "it has no name; give it one of 1 to 80 characters"),
    ("name", "x" * 81, "it has 81 characters; leave at most 80"),
    ("name", "a\x1bb", "'a\\x1bb' has control characters; write it without them"),
    ("note", "x" * 2001, "it has 2,001 characters; leave at most 2,000"),
    ("note", "a\x1bb", "it has the control character \\x1b; leave it out"),
    ("tags", [f"t{n}" for n in range(9)], "9 tags are too many; keep at most 8"),
    ("tags", ["x" * 25], f"'{'x' * 25}' has 25 characters; keep at most 24"),
    ("tags", ["a\u202eb"], "'a\\u202eb' has control characters; write it without them"),
)  # fmt: skip


def patch(page: Client, search: Search, body: Any) -> Any:
    text = body if isinstance(body, str) else json.dumps(body)
    return page.patch(f"/api/v1/searches/{search.pk}", text, content_type="application/json")


def test_name_note_and_tags_are_given_on_its_page(page: Client, running: Search) -> None:
    url = reverse("search_describe", args=[running.pk])
    shown = page.get(running.url).content.decode()
    assert f'action="{url}"' in shown and 'value="digits"' in shown
    given = {"name": " Best so far ", "note": "Fewer channels,\r\nsame depth.", "tags": "Low light, mnist,low  light, "}
    assert page.post(url, given)["Location"] == running.url
    running.refresh_from_db()
    assert (running.name, running.note) == ("Best so far", "Fewer channels,\nsame depth.")
    assert running.tags == ["low light", "mnist"]
    assert running.config["name"] == "digits", "its engine knows it by the name it began with"
    content = page.get(running.url).content.decode()
    assert "<h1>Best so far</h1>" in content and "Fewer channels,\nsame depth.</p>" in content
    assert '<a href="/?tag=low%20light">low light</a>' in content
    page.post(url, given | {"note": "", "tags": ""})
    running.refresh_from_db()
    assert (running.note, running.tags) == ("", [])


@pytest.mark.parametrize(("field", "value", "sentence"), REFUSED)
def test_what_cannot_be_is_said_and_changes_nothing(
    page: Client, running: Search, field: str, value: Any, sentence: str
) -> None:
    typed = ",".join(value) if isinstance(value, list) else value
    given = {"name": "other", "note": "other", "tags": "other", field: typed}
    answer = page.post(reverse("search_describe", args=[running.pk]), given)
    assert answer.status_code == 422
    assert sentence in " ".join(answer.context["describe_form"].errors[field])
    told = patch(page, running, {"name": "other", "note": "other", "tags": ["other"], field: value})
    assert told.status_code == 422
    ((where, said),) = told.json()["problems"]
    assert where == field and sentence in said
    running.refresh_from_db()
    assert (running.name, running.note, running.tags) == ("digits", "", [])


def test_all_that_is_wrong_is_said_at_once(page: Client, running: Search) -> None:
    problems = patch(page, running, {"name": "", "note": "\0", "tags": ["a,b"]}).json()["problems"]
    assert [field for field, _ in problems] == ["name", "note", "tags"]
    assert problems[2][1] == "'a,b' has a comma, which stands between tags; leave it out"


def test_the_api_changes_what_it_is_given_and_tells_it(page: Client, running: Search) -> None:
    answer = patch(page, running, {"tags": ["One"], "note": None})
    assert answer.status_code == 200
    said = answer.json()
    assert (said["name"], said["note"], said["tags"]) == ("digits", "", ["one"])
    assert patch(page, running, {"name": "mine"}).json()["tags"] == ["one"]
    assert page.get("/api/v1/searches").json()[0]["name"] == "mine"


@pytest.mark.parametrize(
    ("body", "field", "sentence"),
    [
        ({"names": "x"}, "names", "there is no such field; leave it out"),
        ({"tags": "x"}, "tags", "'x' is no list; write one in brackets"),
        ({"tags": [1]}, "tags.0", "1 is no text; write it in quotes"),
        ({"name": 7}, "name", "7 is no text; write it in quotes"),
        ([], "", "this is no JSON object"),
        ("{", "", "send name, note and tags as one JSON object"),
        ('{"name": "\\ud800"}', "", "one of its \\u escapes is half a character"),
    ],
)
def test_a_body_that_is_none_is_told_so(page: Client, running: Search, body: Any, field: str, sentence: str) -> None:
    answer = patch(page, running, body)
    assert answer.status_code == 422
    ((where, said),) = answer.json()["problems"]
    assert where == field and sentence in said


def test_a_stranger_finds_nothing_to_describe(strangers_page: Client, running: Search) -> None:
    url = reverse("search_describe", args=[running.pk])
    for answer in (
        strangers_page.get(url),
        strangers_page.post(url, {"name": "his"}),
        patch(strangers_page, running, {}),
    ):
        assert answer.status_code == 404


def test_who_has_a_link_sees_neither_note_nor_tags(client: Client, running: Search) -> None:
    services.search_describe(search=running, note="for me alone", tags=["mine"])
    token = services.search_share(search=running, days=1)
    content = client.get(f"/shared/{token}/").content.decode()
    assert "for me alone" not in content and "mine" not in content


def test_a_renamed_search_is_found_by_its_name(page: Client, new_search: Callable[..., Search]) -> None:
    search = new_search(name="digits")
    services.search_describe(search=search, name="Oak")
    new_search(name="Elm")
    assert list(page.get("/", {"name": "oak"}).context["searches"]) == [search]
