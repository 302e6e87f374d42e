"""The list: what is left out, in which order, and the small line of each search."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
from django.apps import apps
from django.db.models import JSONField, Value
from django.test import Client

from nasengine import events
from tests.webapp.cast import epoch_finished, put_into, result_ready, say
from webapp import services
from webapp.curve import MOST, SEARCHING
from webapp.models import Search, SearchState
from webapp.templatetags.curves import told

pytestmark = pytest.mark.django_db(transaction=True)


def epoch(seq: int, number: int, accuracy: float | None) -> events.EpochFinished:
    said = vars(epoch_finished(seq)) | {"epoch": number, "validation": {"loss": 1.0, "accuracy": accuracy}}
    return events.EpochFinished(**said)


def trained(seq: int, number: int, accuracy: float, network: str = "found") -> events.RetrainEpoch:
    return events.RetrainEpoch(
        seq=seq, network=network, epoch=number, epochs=20, train={"loss": 1.0, "accuracy": accuracy},
        validation={"loss": 1.0, "accuracy": accuracy}, fraction=0.8, eta_seconds=1.0,
    )  # fmt: skip


@pytest.fixture
def three(new_search: Callable[..., Search]) -> dict[str, Search]:
    """From old to new: Ash is finished and best, Birch failed, Cedar waits."""
    found = {name: new_search(name=name) for name in ("Ash", "Birch", "Cedar")}
    put_into(found["Ash"], SearchState.FINISHED, size=9_000, report={"accuracy": {"test": 0.97}})
    put_into(found["Birch"], SearchState.FAILED, size=500)
    services.search_describe(search=found["Ash"], tags=["wood", "low light"])
    services.search_describe(search=found["Birch"], tags=["wood"])
    return found


def names(page: Client, **asked: str) -> list[str]:
    return [search.name for search in page.get("/", asked).context["searches"]]


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ({}, ["Cedar", "Birch", "Ash"]),
        ({"state": "finished"}, ["Ash"]),
        ({"state": "ended"}, ["Birch", "Ash"]),
        ({"state": "live"}, ["Cedar"]),
        ({"tag": "wood"}, ["Birch", "Ash"]),
        ({"tag": "Low  Light"}, ["Ash"]),
        ({"tag": "low"}, []),
        ({"tag": "wo_d"}, []),
        ({"name": "DAR"}, ["Cedar"]),
        ({"name": "%"}, []),
        ({"name": "r", "state": "failed", "tag": "wood"}, ["Birch"]),
        ({"sort": "name"}, ["Ash", "Birch", "Cedar"]),
        ({"sort": "accuracy"}, ["Ash", "Cedar", "Birch"]),
        ({"sort": "size"}, ["Birch", "Ash", "Cedar"]),
        ({"sort": "state"}, ["Cedar", "Ash", "Birch"]),
    ],
)
def test_the_query_string_says_what_is_shown(
    page: Client, three: dict[str, Search], asked: dict[str, str], shown: list[str]
) -> None:
    assert names(page, **asked) == shown


def test_better_networks_come_first(page: Client, new_search: Callable[..., Search]) -> None:
    for name, accuracy in (("a", 0.9), ("b", 0.1), ("c", 0.99), ("d", 1.0)):
        put_into(new_search(name=name), SearchState.FINISHED, report={"accuracy": {"test": accuracy}})
    put_into(new_search(name="e"), SearchState.FINISHED, report={"accuracy": {"test": None}})
    put_into(new_search(name="f"), SearchState.FAILED)
    assert names(page, sort="accuracy")[:4] == ["d", "c", "a", "b"]


def test_the_form_keeps_what_was_asked(page: Client, three: dict[str, Search]) -> None:
    content = page.get("/", {"name": "r", "tag": "wood", "state": "failed", "sort": "size"}).content.decode()
    for selected in ("wood", "failed", "size"):
        assert re.search(rf'<option value="{selected}" selected>', content), selected
    assert 'name="name" value="r"' in content
    assert page.get("/").context["form"].tags == ["low light", "wood"]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"state": "lost"}, "There is no state &#x27;lost&#x27;; choose one of those below."),
        ({"sort": "luck"}, "The list cannot be sorted by &#x27;luck&#x27;; choose one of the orders below."),
        ({"name": "a\0"}, "Null characters are not allowed."),
    ],
)
def test_what_is_unknown_is_said_and_asks_for_nothing(
    page: Client, three: dict[str, Search], asked: dict[str, str], sentence: str
) -> None:
    assert sentence in page.get("/", asked).content.decode()
    assert len(names(page, **asked)) == 3


def test_nothing_that_fits_and_nothing_at_all_have_words_of_their_own(
    page: Client, strangers_page: Client, three: dict[str, Search]
) -> None:
    content = page.get("/", {"tag": "gone", "state": "live", "name": "x"}).content.decode()
    assert "No search fits" in content
    assert "None of your searches has “x” in its name and the state “not ended” and the tag “gone”." in content
    assert "No searches yet" in strangers_page.get("/").content.decode()


def test_pages_keep_what_was_asked(page: Client, new_search: Callable[..., Search], monkeypatch: Any) -> None:
    monkeypatch.setattr("webapp.views.PAGE_SIZE", 1)
    for name in ("oak 1", "oak 2", "elm"):
        new_search(name=name)
    content = page.get("/", {"name": "oak", "sort": "name"}).content.decode()
    assert 'href="?name=oak&amp;sort=name&amp;page=2" rel="next">After</a>' in content


def test_a_stranger_sees_no_tags_of_others(strangers_page: Client, three: dict[str, Search]) -> None:
    assert strangers_page.get("/", {"name": "x"}).context["form"].tags == []


# The small line


def test_a_curve_grows_as_epochs_end(running: Search) -> None:
    say(running, epoch(1, 1, 0.5), epoch(2, 2, None), epoch(3, 3, 0.7))
    say(running, trained(4, 1, 0.8), trained(5, 1, 0.1, "random 1"), trained(6, 2, 0.91234))
    running.refresh_from_db()
    assert running.curve == [[1, 0, 1, 0.5], [3, 0, 3, 0.7], [4, 1, 1, 0.8], [6, 1, 2, 0.9123]]
    assert told(running.curve) == (
        "Validation accuracy: 50 % to 70 % in 3 epochs of searching, 91 % after 2 of training."
    )


def test_a_resumed_attempt_replaces_the_end_of_the_curve(running: Search) -> None:
    say(running, *(epoch(seq, seq, 0.1 * seq) for seq in range(1, 6)), trained(6, 1, 0.9))
    put_into(running, SearchState.RUNNING, attempt=2)
    say(running, events.CheckpointSaved(seq=4, phase="search", epoch=3))
    running.refresh_from_db()
    assert [point[0] for point in running.curve] == [1, 2, 3] and running.rewinds == [3]
    say(running, epoch(5, 4, 0.35))
    running.refresh_from_db()
    assert running.curve[-1] == [5, 0, 4, 0.35]


def test_a_curve_stays_small_and_keeps_its_ends(running: Search) -> None:
    for start in range(1, 2001, 50):
        say(running, *(epoch(seq, seq, 0.5) for seq in range(start, start + 50)))
    say(running, *(trained(2000 + n, n, 0.9) for n in range(1, 601)))
    running.refresh_from_db()
    epochs = [[point[2] for point in running.curve if point[1] == phase] for phase in MOST]
    assert all(10 < len(each) <= most for each, most in zip(epochs, MOST.values(), strict=True))
    assert [(each[0], each[-1]) for each in epochs] == [(1, 2000), (1, 600)]


def test_every_row_has_its_line_with_words(page: Client, running: Search) -> None:
    assert '<svg class="sparkline"' not in page.get("/").content.decode()
    say(running, epoch(1, 1, 0.5), epoch(2, 2, 0.75))
    content = page.get("/").content.decode()
    assert 'aria-label="Validation accuracy: 50 % to 75 % in 2 epochs of searching."' in content
    assert '<polyline class="searching" points="3,33 157,3"/>' in content


@pytest.mark.parametrize("epochs", [1, 36, 37, 71, 72, 100, 101])
def test_searches_of_before_there_were_curves_get_theirs(running: Search, epochs: int) -> None:
    say(running, *(epoch(seq, seq, 0.001 * seq) for seq in range(1, epochs + 1)), epoch(epochs + 1, epochs + 1, None))
    say(running, trained(202, 1, 0.9), trained(203, 1, 0.1, "at 12000"))
    Search.objects.update(curve=[])
    import_module("webapp.migrations.0005_describe_and_curve").draw_curves(apps, None)
    running.refresh_from_db()
    *searched, last = running.curve
    assert searched[0] == [1, 0, 1, 0.001] and last == [202, 1, 1, 0.9]
    assert searched[-1] == [epochs, 0, epochs, round(0.001 * epochs, 4)], "the last epoch is among them"
    assert min(epochs, 18) <= len(searched) <= MOST[SEARCHING]


EARLY = "On request its search was cut short; a full run may find a better network."


@pytest.fixture
def early(running: Search) -> Search:
    """It was stopped while it searched."""
    say(running, result_ready(1, accuracy={"test": 0.9}, ended_early=["search", "comparison"]))
    assert services.search_finish(search_id=running.pk, attempt=running.attempt)
    running.refresh_from_db()
    return running


def test_one_that_was_stopped_is_told_apart_wherever_it_is_shown(
    page: Client, early: Search, three: dict[str, Search]
) -> None:
    badge = '<span class="badge-state" data-state="finished">Finished early</span>'
    compared = page.get("/compare/", {"search": [early.pk, three["Ash"].pk]}).content.decode()
    for content in (page.get("/").content.decode(), compared):
        assert content.count(badge) == 1 and content.count(">Finished</span>") == 1
    assert compared.count(EARLY) == 1
    content = page.get(early.url).content.decode()
    assert ">Finished early</span>" in content and f"ready to download. {EARLY}" in content
    told = page.get(f"/api/v1/searches/{early.pk}").json()
    assert (told["state"], told["ended_early"]) == ("finished", ["search", "comparison"])
    assert told["sentence"].endswith(EARLY)
    assert page.get(f"/api/v1/searches/{three['Ash'].pk}").json()["ended_early"] == []
    assert set(names(page, state="finished")) == {"digits", "Ash"}


def test_whoever_has_a_link_is_told_so_too(client: Client, early: Search) -> None:
    shown = client.get(f"/shared/{services.search_share(search=early, days=1)}/events/").json()["state"]
    assert (shown["label"], shown["sentence"]) == ("Finished early", f"Done. {EARLY}")


def test_searches_that_were_stopped_before_get_their_mark(early: Search, three: dict[str, Search]) -> None:
    Search.objects.update(ended_early=[])
    Search.objects.filter(pk=three["Birch"].pk).update(report=Value(None, JSONField()))  # null as JSON has it
    import_module("webapp.migrations.0007_ended_early").read_reports(apps, None)
    marked = Search.objects.exclude(ended_early=[]).values_list("name", "ended_early")
    assert list(marked) == [("digits", ["search", "comparison"])]
