"""Searches side by side: whose they are, how many, what differs, which is best."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from nasengine import events
from tests.webapp import story_of_blocks
from tests.webapp.cast import config, progress, put_into, say
from tests.webapp.story import story
from webapp import comparison, services
from webapp.models import Search, SearchState

pytestmark = pytest.mark.django_db(transaction=True)

FINISHED: dict[str, Any] = {
    "accuracy": {"test": 0.9722, "validation": 0.97},
    "achieved": {"params": 19_820, "macs": 1_204_992, "bytes": 139_000, "latency_ms": 0.84, "latency_device": "CPU"},
    "seconds": {"search": 91.2, "retrain": 63.0},
}


@pytest.fixture
def told(new_search: Callable[..., Search]) -> Callable[..., Search]:
    """A finished search of Alice's whose engine told a whole story."""

    def create(seed: int = 0, **changes: Any) -> Search:
        claimed = services.search_claim(search_id=new_search(**changes).pk)
        assert claimed is not None
        assert say(claimed, *story(config(**changes), seed=seed))
        assert services.search_finish(search_id=claimed.pk, attempt=claimed.attempt)
        claimed.refresh_from_db()
        return claimed

    return create


def compare(page: Client, *searches: Any) -> Any:
    return page.get(reverse("compare"), {"search": [getattr(search, "pk", search) for search in searches]})


def test_two_stand_side_by_side(page: Client, told: Callable[..., Search]) -> None:
    small, large = told(name="small", target={"value": 12_000}), told(seed=1, name="large", target={"value": 20_000})
    answer = compare(page, small, large)
    content = answer.content.decode()
    assert answer.status_code == 200 and "Compare 2 searches" in content
    assert content.index(f'href="{small.url}"') < content.index(f'href="{large.url}"'), "in the order that was asked"
    rows = {row.label: row for row in answer.context["figures"]}
    assert rows["Parameters (non-zero)"].values == ["11,892", "19,820"]
    assert rows["Parameters (non-zero)"].best == {0} and rows["Test accuracy"].best == set()
    assert '<td class="number best">11,892 <small>best</small></td>' in content
    assert [(row.label, row.values) for row in answer.context["settings"]] == [
        ("target.value", ["12,000 parameters", "20,000 parameters"])
    ]


def test_accuracies_on_different_images_are_said_to_tell_nothing(page: Client, told: Callable[..., Search]) -> None:
    digits, other, cifar = told(name="Oak"), told(name="Elm"), told(name="Ash")
    put_into(cifar, SearchState.FINISHED, dataset_label="CIFAR-10")
    address = f"/compare/?search={digits.pk}&search="
    assert "different images" not in page.get(f"{address}{other.pk}").content.decode()
    assert "different images, so their accuracies do not tell" in page.get(f"{address}{cifar.pk}").content.decode()


def test_only_what_differs_is_shown_of_what_was_asked(page: Client, new_search: Callable[..., Search]) -> None:
    cells = new_search(name="a", seed=3, target={"value": "40%"})
    chain = new_search(name="b", space={"kind": "chain", "layers": 5}, target={"value": "40%", "also": ["30%"]})
    rows = {row.label: row.values for row in comparison.setting_rows([cells, chain])}
    assert rows == {
        "seed": ["3", "0"], "space.kind": ["cells", "chain"], "space.layers": ["—", "5"],
        "space.reductions": ["1, 3", "automatic"], "target.also": ["none", "30%"], "search.epochs": ["12", "16"],
    }  # fmt: skip
    same = compare(page, new_search(name="c"), new_search(name="d"))
    assert "Nothing: all of them were asked for the same." in same.content.decode()


def test_lines_are_whole_in_the_table_and_thin_in_the_chart(page: Client, told: Callable[..., Search]) -> None:
    first, second = told(name="a", search={"epochs": 20}), told(seed=1, name="b")
    answer = compare(page, first, second)
    way = comparison.ways([first])[0]
    assert [epoch for epoch, _ in way.searching] == list(range(1, 21))
    assert [epoch for epoch, _ in way.training] == list(range(21, 41)), "training is counted on"
    drawn = answer.context["drawn"]["ways"]
    assert len(drawn[0]["searching"]) == 20 and len(drawn[1]["training"]) == 20
    rows = answer.context["way_rows"]
    assert [row.label for row in rows] == [str(n) for n in range(1, 41)]
    assert rows[-1].values[1] == "—", "the shorter one has ended"


def test_training_is_counted_on_from_a_search_without_accuracies(running: Search) -> None:
    """Of blocks that learn one by one: its line begins where those of others do that searched as long."""
    told = story_of_blocks.story()
    say(running, *told)
    searched = max(event.epoch for event in told if isinstance(event, events.EpochFinished))
    (way,) = comparison.ways([running])
    assert way.searching == [] and way.training[0][0] == searched + 1


def test_long_lines_keep_their_ends_and_spikes() -> None:
    line = [(n, 0.5) for n in range(1, 3001)]
    line[1700] = (1701, 0.02)
    thin = comparison.thinned(line)
    assert len(thin) <= comparison.MOST_POINTS and thin == sorted(thin)
    assert {(1, 0.5), (1701, 0.02), (3000, 0.5)} <= set(thin)
    way = comparison.Way(searching=line, training=[])
    rows = comparison.way_rows([way])
    assert len(rows) <= comparison.MOST_ROWS + 1 and (rows[0].label, rows[-1].label) == ("1", "3,000")


def test_every_member_of_a_family_is_a_point(page: Client, told: Callable[..., Search]) -> None:
    family = told(name="family", target={"value": 20_000, "also": [12_000]}, search={"epochs": 20})
    single = told(seed=1, name="single", target={"value": 30_000})
    answer = compare(page, family, single)
    found = [(member.target, member.params, member.is_best) for member, _ in answer.context["members"]]
    assert found == [
        ("12,000", 11_892, True), ("20,000 parameters", 19_820, False), ("30,000 parameters", 29_730, False),
    ]  # fmt: skip
    assert answer.content.decode().count("another is smaller and as good, or better") == 2


def test_times_of_different_machines_are_not_judged(running: Search, new_search: Callable[..., Search]) -> None:
    gpu = FINISHED["achieved"] | {"latency_ms": 0.2, "latency_device": "GPU"}
    one = put_into(running, SearchState.FINISHED, report=FINISHED)
    two = put_into(new_search(), SearchState.FINISHED, report=FINISHED | {"achieved": gpu})
    rows = {row.label: row for row in comparison.figure_rows([one, two])}
    assert rows[comparison.LATENCY].values == ["0.84 ms", "0.20 ms"] and not rows[comparison.LATENCY].best
    put_into(two, SearchState.FINISHED, report=FINISHED | {"achieved": gpu | {"latency_device": "CPU"}})
    rows = {row.label: row for row in comparison.figure_rows([one, two])}
    assert rows[comparison.LATENCY].best == {1}


def kinds(said: Iterable[dict[str, Any]]) -> list[str]:
    return [event["kind"] for event in said]


def test_a_network_is_drawn_from_the_last_commit_for_its_own_target(told: Callable[..., Search]) -> None:
    search = told(target={"value": 20_000, "also": [12_000]}, search={"epochs": 20})
    one_more = max(search.events.values_list("seq", flat=True)) + 1
    last = next(event for event in reversed(story(config())) if isinstance(event, events.Committed))
    other = {**vars(last), "kind": "committed", "target": 12_000, "seq": one_more}
    search.events.create(seq=one_more, attempt=1, kind="committed", payload=other)
    (said,) = comparison.pictures([search])
    assert set(kinds(said)) == {"search_started", "stage_started", "committed"}
    commit = said[kinds(said).index("committed")]
    assert commit["target"] == 20_000 and commit["reason"] == "fit" and commit["changes"] == []
    put_into(search, SearchState.RUNNING, report=None)
    (said,) = comparison.pictures([search])
    assert said[-1]["seq"] == one_more


def test_what_has_no_result_yet_is_shown_with_what_it_has(
    page: Client, running: Search, new_search: Callable[..., Search]
) -> None:
    say(running, progress(1))
    content = compare(page, running, new_search(name="waits")).content.decode()
    assert "digits has no result yet: A worker is on it." in content
    assert "waits has no result yet: Waits for a free worker." in content
    assert "No accuracy of any of them is known yet." in content and "None of them has found a network yet." in content
    put_into(running, SearchState.FAILED, message="It broke.")
    assert "digits has no result: Ended without a result. It broke." in compare(page, running, *Search.objects.exclude(
        pk=running.pk
    )).content.decode()  # fmt: skip


@pytest.mark.parametrize(
    ("count", "sentence"),
    [(0, "Nothing to compare yet"), (1, "Nothing to compare yet"), (9, "9 searches were ticked. Tick 2 to 8 searches")],
)
def test_too_few_and_too_many_are_told_so(
    page: Client, new_search: Callable[..., Search], count: int, sentence: str
) -> None:
    answer = compare(page, *(new_search() for _ in range(count)))
    assert answer.status_code == 422 and sentence in answer.content.decode()


def test_one_that_is_ticked_twice_counts_once(page: Client, running: Search) -> None:
    assert compare(page, running, running).status_code == 422


def test_anothers_and_nobodys_are_not_there(
    page: Client, strangers_page: Client, running: Search, new_search: Callable[..., Search]
) -> None:
    for other in (uuid4(), "x", "\0"):
        assert compare(page, running, other).status_code == 404
    assert compare(strangers_page, running, new_search()).status_code == 404


def test_eight_cost_as_many_queries_as_two(
    page: Client, told: Callable[..., Search], django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    searches = [told(seed=seed) for seed in range(4)]
    for some in (searches[:2], searches):
        with django_assert_num_queries(6):  # session, user, searches, lines, places of the pictures, pictures
            assert compare(page, *some).status_code == 200


def test_the_list_leads_there(page: Client, new_search: Callable[..., Search]) -> None:
    first = new_search(name="a")
    assert 'name="search"' not in page.get("/").content.decode(), "one alone is compared with nothing"
    new_search(name="b")
    content = page.get("/").content.decode()
    assert '<form id="compare" method="get" action="/compare/">' in content
    assert f'form="compare" name="search" value="{first.pk}"' in content
