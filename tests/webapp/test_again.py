"""The same once more: what a search asked for, in the form of a new one."""

from __future__ import annotations

import ast
import html
import json
import re
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from nasengine.config import PRESETS, parse
from tests.webapp.cast import config
from webapp import services
from webapp.again import again, briefly
from webapp.models import Dataset, Search

pytestmark = pytest.mark.django_db(transaction=True)

ASKED: dict[str, dict[str, Any]] = {
    "little": {},
    "other cells": {"space": {"cells": 5}},
    "other cells, the preset's halvings": {"space": {"cells": 6, "reductions": [1, 3]}},
    "the preset's cells, halvings by themselves": {"space": {"reductions": None}},
    "halvings by hand and a share for each stage": {
        "space": {"cells": 6, "reductions": [2, 4]}, "search": {"epochs": 40},
        "strategy": {"stage_shares": [0.9, 0.123456789]},
    },
    "a chain": {"space": {"kind": "chain", "kernels": [3, 7], "attention": [2, 4]}, "seed": 7},
    "a family": {"target": {"metric": "macs", "value": "45.5%", "also": ["30%", 90_000], "limits": {"params": 30_000}}},
    "a family in as many epochs as without": {"target": {"value": "40%", "also": ["30%"]}, "search": {"epochs": 12}},
    "all sorts": {
        "data": {"dataset": "digits", "limit": 300, "crop": False, "flip": True, "validation_fraction": 0.1},
        "strategy": {"cuts": [1, 2], "recipe": "published"}, "search": {"epochs": 40, "lr": 3e-5},
        "baseline": {"random": 2}, "runtime": {"memory_share": 0.4, "compile": True},
    },
}  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("changes", ASKED.values(), ids=ASKED)
def test_the_least_that_is_said_asks_for_exactly_the_same(changes: dict[str, Any], preset: str) -> None:
    asked = parse({"name": "mine", "preset": preset, "search": {"epochs": 60}} | changes)
    brief = briefly(asked.model_dump(mode="json"))
    assert parse(brief) == asked
    assert list(brief)[:2] == ["preset", "data"] or list(brief)[:2] == ["name", "preset"]


def test_nothing_is_said_that_the_preset_says() -> None:
    stored = parse(config(space={"kind": "chain", "layers": 5})).model_dump(mode="json")
    assert briefly(stored) == {
        "name": "digits", "preset": "quick", "data": {"dataset": "digits"}, "space": {"kind": "chain", "layers": 5},
        "strategy": {"kind": "mgas"}, "target": {"metric": "params", "value": 20_000},
    }  # fmt: skip


class Fields(HTMLParser):
    """What a browser would send of the form of a page as it is shown."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.sent: dict[str, Any] = {}
        self.select = ""
        self.feed(page.partition('id="new-search"')[2].partition("</form>")[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name, value = given.get("name") or "", given.get("value") or ""
        if tag == "select":
            self.select = name
        elif tag == "option" and ("selected" in given or self.select not in self.sent):
            self.sent[self.select] = value
        elif tag == "input" and given.get("type") == "checkbox":
            self.sent.setdefault(name, []).extend([value] if "checked" in given else [])
        elif tag == "input" and name and (given.get("type") != "radio" or "checked" in given):
            self.sent[name] = value


def fields(page: Client, url: str) -> dict[str, Any]:
    return Fields(page.get(url).content.decode()).sent


@pytest.mark.parametrize("changes", [case for name, case in ASKED.items() if "by themselves" not in name])
def test_a_clone_that_is_sent_as_it_is_shown_asks_for_the_same(
    page: Client, new_search: Callable[..., Search], changes: dict[str, Any]
) -> None:
    search = new_search(**({"target": {"value": "40%"}} | changes))
    url = f"{reverse('search_new')}?from={search.pk}"
    answer = page.post(url, fields(page, url))
    assert answer.status_code == 302, answer.content.decode()
    copy = Search.objects.exclude(pk=search.pk).get()
    assert copy.config == search.config and copy.name == search.name


def test_only_what_differs_is_filled_in_and_then_shown(page: Client, new_search: Callable[..., Search]) -> None:
    shown = [page.get(reverse("search_new"), {"from": new_search(**changes).pk}) for changes in ({}, {"seed": 9})]
    plain, changed = (answer.content.decode() for answer in shown)
    assert '<details class="card-quiet" id="advanced">' in plain
    assert '<details class="card-quiet" id="advanced" open>' in changed
    assert shown[1].context["form"]["seed"].value() == "9"
    assert shown[1].context["form"]["search__epochs"].value() is None


def test_another_target_takes_the_place_of_its_own(page: Client, new_search: Callable[..., Search]) -> None:
    search = new_search(target={"metric": "macs", "value": "40%"})
    sent = fields(page, f"{reverse('search_new')}?from={search.pk}&target=120000")
    assert (sent["target__metric"], sent["target__value"]) == ("macs", "120000")


def test_a_name_that_nobody_gave_is_not_given(new_search: Callable[..., Search]) -> None:
    assert "name" not in again(new_search(name=""))
    assert again(new_search(name="mine"))["name"] == "mine"


def test_an_upload_is_chosen_again_and_missed_when_it_is_gone(
    page: Client, new_search: Callable[..., Search], ready_dataset: Dataset
) -> None:
    search = new_search(data={"dataset": ready_dataset.reference}, target={"value": "40%"})
    url = f"{reverse('search_new')}?from={search.pk}"
    assert fields(page, url)["data__dataset"] == ready_dataset.reference
    assert "were deleted meanwhile" not in page.get(url).content.decode()
    Dataset.objects.all().delete()
    assert "“Cats”, were deleted meanwhile; choose a data set below" in page.get(url).content.decode()
    assert fields(page, url)["data__dataset"] == "digits"


def test_what_the_fields_cannot_say_is_said(page: Client, new_search: Callable[..., Search]) -> None:
    search = new_search(strategy={"regrow_levels": []}, space={"reductions": None})
    content = page.get(reverse("search_new"), {"from": search.pk}).content.decode()
    for name, value in (("strategy.regrow_levels", "none"), ("space.reductions", "automatic")):
        assert f"<code>{name}</code> was <code>{value}</code>, which these fields cannot express" in content


@pytest.mark.parametrize("given", ["stranger", "nobody", "no id", ""])
def test_a_strangers_search_cannot_be_cloned(
    strangers_page: Client, new_search: Callable[..., Search], bob: User, given: str
) -> None:
    ids = {"stranger": str(new_search().pk), "nobody": str(uuid4())}
    assert strangers_page.get(reverse("search_new"), {"from": ids.get(given, given)}).status_code == 404


def test_its_page_leads_there(page: Client, running: Search) -> None:
    assert f'href="/searches/new/?from={running.pk}"' in page.get(running.url).content.decode()


# Elsewhere


def recipe(page: Client, search: Search, key: str) -> str:
    """The text that the page shows, as a browser would copy it."""
    found = re.search(rf'<code id="{key}">(.*?)</code>', page.get(search.url).content.decode(), re.S)
    assert found is not None
    return html.unescape(found[1])


def between(text: str) -> Any:
    return json.loads(text.partition("<<'END'\n")[2].partition("\nEND\n")[0])


@pytest.mark.parametrize("changes", ASKED.values(), ids=ASKED)
def test_what_is_shown_asks_for_exactly_the_same(
    page: Client, new_search: Callable[..., Search], changes: dict[str, Any]
) -> None:
    search = new_search(**({"name": 'it\'s $HOME `x` "y" </code>', "target": {"value": "40%"}} | changes))
    stored = parse(search.config)
    shell = recipe(page, search, "shell")
    assert parse(between(shell)) == stored
    assert shell.endswith("\nEND\npython -m nasengine search config.json --out runs/again\n")
    (call,) = (
        node
        for node in ast.walk(ast.parse(recipe(page, search, "python")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "parse"
    )
    assert parse(ast.literal_eval(call.args[0])) == stored
    curl = recipe(page, search, "curl")
    assert curl.startswith("curl http://testserver/api/v1/searches \\\n")
    answer = page.post("/api/v1/searches", json.dumps(between(curl)), content_type="application/json")
    assert answer.status_code == 201 and answer.json()["config"] == search.config


def test_the_command_line_writes_what_is_shown(page: Client, new_search: Callable[..., Search], tmp_path: Path) -> None:
    """Through a real shell: nothing in a name is taken for a word of it."""
    search = new_search(name="a 'b' $HOME `id` \\ \"c\" END")
    lines = recipe(page, search, "shell").partition("python -m")[0]
    subprocess.run(["bash", "-e"], input=lines, text=True, check=True, cwd=tmp_path)
    assert parse(json.loads((tmp_path / "config.json").read_text())) == parse(search.config)


def test_of_an_upload_the_zips_path_has_to_be_put_in(
    page: Client, new_search: Callable[..., Search], ready_dataset: Dataset
) -> None:
    search = new_search(data={"dataset": ready_dataset.reference}, target={"value": "40%"})
    content = page.get(search.url).content.decode()
    assert content.count("Put the path of your zip in the place of <code>images.zip</code>: “Cats”") == 2
    local = between(recipe(page, search, "shell"))
    assert local["data"] == {"dataset": "zip", "path": "images.zip"} and parse(local).data.path == "images.zip"
    body = between(recipe(page, search, "curl"))
    assert body["data"] == {"dataset": ready_dataset.reference}
    answer = page.post("/api/v1/searches", json.dumps(body), content_type="application/json")
    assert answer.status_code == 201 and answer.json()["config"] == search.config


def test_who_has_a_link_is_not_told_how(client: Client, running: Search) -> None:
    token = services.search_share(search=running, days=1)
    assert "again elsewhere" not in client.get(f"/shared/{token}/").content.decode()
