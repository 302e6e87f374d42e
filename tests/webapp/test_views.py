"""The pages: they work, they belong to their owner, they cost few queries."""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connections
from django.test import AsyncClient, Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from nasengine.outlook import QUICKEST, SLOWEST
from tests.webapp.cast import A_ZIP, progress, put_into, result_ready, say
from webapp import selectors, services
from webapp.charts import charts_of
from webapp.forms import NewSearchForm
from webapp.models import Dataset, DatasetState, Search, SearchState
from webapp.templatetags import words

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def finished(running: Search) -> Search:
    """A search of Alice's with one file for its target, and one for a further target."""
    folder = selectors.run_folder(running.pk)
    for name, content in (("result", b"weights" * 100_000), ("family/12000", b"fewer weights")):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.safetensors").write_bytes(content)
    report = {
        "accuracy": {"validation": 0.97, "test": 0.96}, "achieved": {"params": 19_900, "macs": 10}, "seed": 0,
        "family": [{
            "target": 12_000, "folder": "family/12000", "params": 11_987, "macs": 700_000, "test": 0.951,
            "validation": 0.953,
        }],
    }  # fmt: skip
    files = ("model.safetensors",)
    say(running, result_ready(1, "family/12000", files=files), result_ready(2, files=files, **report))
    services.search_finish(search_id=running.pk, attempt=1)
    running.refresh_from_db()
    return running


def test_the_list_shows_ones_own_searches(page: Client, strangers_page: Client, finished: Search) -> None:
    assert b"digits" in page.get(reverse("searches")).content
    assert list(page.get(reverse("searches")).context["searches"]) == [finished]
    assert not list(strangers_page.get(reverse("searches")).context["searches"])


def test_list_and_detail_cost_the_same_few_queries_however_much_there_is(
    page: Client,
    new_search: Callable[..., Search],
    finished: Search,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    for _ in range(5):
        new_search()
    with django_assert_num_queries(5):  # session, user, tags, count, page
        page.get(reverse("searches"))
    with django_assert_num_queries(5):  # session, user, search, artifacts, links
        page.get(finished.url)
    say(put_into(finished, SearchState.RUNNING), *(progress(seq) for seq in range(3, 100)))
    with django_assert_num_queries(5):
        page.get(finished.url)
    with django_assert_num_queries(4):  # session, user, search, events
        page.get(reverse("search_events", args=[finished.pk]))


def test_the_new_search_page_starts_a_search(page: Client, sent: list[tuple[str, str]]) -> None:
    assert page.get(reverse("search_new")).status_code == 200
    answer = page.post(
        reverse("search_new"), {"preset": "quick", "data__dataset": "digits", "target__value": "40%", "name": "mine"}
    )
    search = Search.objects.get()
    assert answer.status_code == 302 and answer["Location"] == search.url
    assert (search.name, search.target_text) == ("mine", "40% of the parameters")
    assert sent == [("webapp.tasks.run_search", str(search.pk))]


def test_a_search_on_these_images_begins_with_them_chosen(page: Client, ready_dataset: Dataset) -> None:
    def chosen(dataset: str) -> str:
        content = page.get(reverse("search_new"), {"dataset": dataset}).content.decode()
        select = re.search(r'<select[^>]*name="data__dataset".*?</select>', content, re.S)
        assert select is not None
        (value,) = re.findall(r'<option value="([^"]*)"[^>]* selected', select[0])
        return str(value)

    assert chosen(ready_dataset.reference) == ready_dataset.reference
    assert chosen("cifar10") == "cifar10"
    assert chosen("upload:gone") == NewSearchForm(owner=ready_dataset.owner).fields["data__dataset"].initial


def test_a_wrong_form_comes_back_with_the_sentence_and_starts_nothing(page: Client) -> None:
    answer = page.post(reverse("search_new"), {"data__dataset": "digits", "target__value": "10"})
    assert answer.status_code == 422
    assert b"below what this space can surely reach" in answer.content
    field = re.search(rb'<input[^>]*name="target__value"[^>]*>', answer.content)
    assert field and b'aria-invalid="true"' in field[0] and b"id_target__value_error" in field[0]
    assert not Search.objects.exists()


def test_a_data_set_that_vanishes_at_the_last_moment_is_a_sentence_too(
    page: Client, ready_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = selectors.search_asked

    def and_then_it_is_deleted(**asked: Any) -> Any:
        found = real(**asked)
        Dataset.objects.all().delete()
        return found

    monkeypatch.setattr("webapp.forms.search_asked", and_then_it_is_deleted)
    fields = {"data__dataset": ready_dataset.reference, "target__value": "40%"}
    answer = page.post(reverse("search_new"), fields)
    assert answer.status_code == 422
    assert b"was deleted meanwhile; choose another" in answer.content


def test_the_outlook_says_the_range_before_anything_starts(page: Client) -> None:
    fields = {"preset": "quick", "data__dataset": "digits", "target__metric": "params", "target__value": "40%"}
    answer = page.post(reverse("search_outlook"), fields).json()
    assert answer["feasible"] is True and answer["problems"] == []
    assert answer["metric"] == "params"
    assert answer["smallest_size"] < answer["target"] == int(0.4 * answer["full_size"])
    assert answer["also"] == []
    assert answer["estimate"]["memory_mib"] > 0 and answer["estimate"]["seconds_cpu"] > 0
    small = page.post(reverse("search_outlook"), fields | {"target__value": "10"}).json()
    assert small["feasible"] is False and small["full_size"] == answer["full_size"]
    assert [field for field, _ in small["problems"]] == ["target__value"]
    chain = page.post(reverse("search_outlook"), fields | {"space__kind": "chain", "space__chain__layers": "5"}).json()
    assert chain["feasible"] is True and chain["smallest_size"] < chain["target"] == int(0.4 * chain["full_size"])
    assert chain["full_size"] != answer["full_size"]
    more = page.post(reverse("search_outlook"), fields | {"target__also": "20%, 9,000", "search__epochs": "20"}).json()
    assert more["also"] == sorted((int(0.2 * answer["full_size"]), 9000), reverse=True)
    wrong = page.post(reverse("search_outlook"), fields | {"search__epochs": "many"}).json()
    assert (wrong["feasible"], wrong["full_size"]) == (False, None)
    assert [field for field, _ in wrong["problems"]] == ["search__epochs"]
    assert not Search.objects.exists()


def test_the_outlook_tells_warnings_at_their_fields_ranges_and_limits(page: Client) -> None:
    fields = {"preset": "quick", "data__dataset": "digits", "target__metric": "params", "target__value": "95%"}
    more = {"target__limits__macs": "50%", "space__cells__candidates": ["skip_connect", "sep_conv_3x3"]}
    answer = page.post(reverse("search_outlook"), fields | more | {"search__epochs": "8"}).json()
    assert answer["feasible"] is True and answer["problems"] == []
    assert [field for field, _ in answer["warnings"]] == ["target__value", "search__epochs"]
    least, full = answer["reach"]["macs"]
    assert least < answer["limits"]["macs"] == full // 2
    assert answer["reach"]["params"] == [answer["smallest_size"], answer["full_size"]]
    estimate = answer["estimate"]
    assert answer["time"] == {"least": estimate["seconds_least"], "most": estimate["seconds_most"], "searches": 0}
    wrong = page.post(reverse("search_outlook"), fields | {"search__epochs": "many"}).json()
    assert (wrong["warnings"], wrong["time"], wrong["limits"]) == ([], None, None)


def took(search: Search, times: float, **report: Any) -> None:
    """It has finished, in so many times its estimate."""
    seconds = times * selectors.search_asked(owner=search.owner, raw=search.config).outlook.estimate["seconds_cpu"]
    halves = {"search": seconds / 2, "retrain": seconds / 2}
    put_into(search, SearchState.FINISHED, finished_at=timezone.now(), report={"seconds": halves} | report)


DIGITS = {"data": {"dataset": "digits"}}


def test_time_is_told_by_ones_own_last_searches(
    alice: User, bob: User, new_search: Callable[..., Search], running: Search
) -> None:
    """The benchmark's range about its middle, moved to where the median of one's own is."""
    asked = selectors.search_asked(owner=alice, raw=DIGITS)
    seconds, middle = asked.outlook.estimate["seconds_cpu"], (QUICKEST * SLOWEST) ** 0.5
    unknown = selectors.time_of(alice, asked)
    for times in (1.0, 2.0, 40.0):
        took(new_search(), times)
    took(new_search(), 100.0, ended_early=["search"])
    put_into(new_search(), SearchState.FINISHED, finished_at=timezone.now(), report=None)
    told = selectors.time_of(alice, asked)
    assert told["searches"] == 3
    assert told["least"] == pytest.approx(2 * seconds * QUICKEST / middle)
    assert told["most"] == pytest.approx(2 * seconds * SLOWEST / middle)
    assert selectors.time_of(bob, asked) == unknown, "another's searches tell nothing"
    for _ in range(selectors.PACES):
        took(new_search(), 0.5)
    assert selectors.time_of(alice, asked)["least"] == pytest.approx(0.5 * seconds * QUICKEST / middle)


def test_tiny_searches_tell_no_time_of_long_ones(alice: User, new_search: Callable[..., Search]) -> None:
    """They took many times their estimate, mostly to begin: a search of days would be said to take years."""
    for _ in range(selectors.PACES):
        took(new_search(data={"dataset": "digits", "limit": 20}, search={"epochs": 8}, retrain={"epochs": 1}), 40.0)
    long = selectors.search_asked(owner=alice, raw={"preset": "standard", "data": {"dataset": "cifar10"}})
    told, unmoved = selectors.time_of(alice, long), long.outlook.estimate
    assert told == {"least": unmoved["seconds_least"], "most": unmoved["seconds_most"], "searches": 0}
    took(new_search(preset="standard", data={"dataset": "cifar10"}, target={"value": "30%"}), 2.0)
    told = selectors.time_of(alice, long)
    assert told["searches"] == 1 and told["least"] > unmoved["seconds_least"]


def test_searches_by_another_method_tell_no_time(alice: User, new_search: Callable[..., Search]) -> None:
    """Its steps take another time; and how many there are leaves those of this method in sight."""
    took(new_search(), 2.0)
    for _ in range(selectors.LOOKED_THROUGH):
        took(new_search(strategy={"kind": "dms"}), 0.5)
    asked = [selectors.search_asked(owner=alice, raw=DIGITS | {"strategy": {"kind": kind}}) for kind in ("mgas", "dms")]
    told = {each.config.strategy.kind: selectors.time_of(alice, each) for each in asked}
    assert {kind: each["searches"] for kind, each in told.items()} == {"mgas": 1, "dms": selectors.PACES}
    paces = [selectors.time_of(alice, each)["least"] / each.outlook.estimate["seconds_least"] for each in asked]
    assert paces[0] == pytest.approx(4 * paces[1])


def test_a_search_whose_data_set_is_gone_tells_no_time(
    alice: User, new_search: Callable[..., Search], ready_dataset: Dataset
) -> None:
    took(search := new_search(data={"dataset": ready_dataset.reference}, target={"value": "40%"}), 1.0)
    services.dataset_delete(dataset=ready_dataset)
    search.refresh_from_db()
    assert search.dataset is None
    assert selectors.time_of(alice, selectors.search_asked(owner=alice, raw=DIGITS))["searches"] == 0


# A first visit


def test_the_demo_is_one_button_away_and_there_once(page: Client, sent: list[tuple[str, str]]) -> None:
    button = f'action="{reverse("search_demo")}"'
    assert button in page.get(reverse("searches")).content.decode()
    assert button in page.get(reverse("search_new")).content.decode()
    answer = page.post(reverse("search_demo"))
    search = Search.objects.get()
    assert answer["Location"] == search.url and sent == [("webapp.tasks.run_search", str(search.pk))]
    assert (search.name, search.config["data"]["dataset"], search.config["preset"]) == (
        "Digits demo",
        "digits",
        "quick",
    )
    assert page.post(reverse("search_demo"))["Location"] == search.url, "pressed twice, it is there once"
    assert button not in page.get(reverse("searches")).content.decode()
    put_into(search, SearchState.FINISHED)
    assert page.post(reverse("search_demo"))["Location"] != search.url and Search.objects.count() == 2
    assert page.get(reverse("search_demo")).status_code == 405


def test_the_demo_is_a_search_of_which_nobody_is_warned_and_shorter_than_a_quick_one(alice: User) -> None:
    demo = selectors.search_asked(owner=alice, raw=services.DEMO)
    quick = selectors.search_asked(owner=alice, raw={"data": {"dataset": "digits"}})
    assert demo.outlook.problems == demo.outlook.warnings == ()
    assert demo.outlook.estimate["seconds_cpu"] < 0.8 * quick.outlook.estimate["seconds_cpu"]
    assert demo.config.search == quick.config.search, "the search itself is the whole one"


def test_without_javascript_the_form_says_that_nothing_is_told_beforehand(page: Client) -> None:
    content = page.get(reverse("search_new")).content.decode()
    (said,) = re.findall(r'id="outlook-sentence"[^>]*><noscript>(.*?)</noscript>', content)
    assert said.startswith("Without JavaScript nothing is told beforehand") and 'id="outlook-figures" hidden' in content


def test_another_persons_demo_is_not_shown(page: Client, strangers_page: Client) -> None:
    hers, his = (browser.post(reverse("search_demo"))["Location"] for browser in (page, strangers_page))
    assert hers != his and strangers_page.get(hers).status_code == 404


def test_every_choice_has_its_picture_and_no_picture_is_left_over() -> None:
    drawn = {path.stem for path in (ROOT / "templates/searches/pictures").glob("*.html")}
    assert drawn == set(words.DRAWN)
    for name in drawn:
        text = (ROOT / f"templates/searches/pictures/{name}.html").read_text()
        assert 'aria-hidden="true"' in text and "style=" not in text and "#" not in text.partition("#}")[2]


def test_the_page_of_a_search_carries_its_feed(page: Client, running: Search) -> None:
    content = page.get(running.url).content.decode()
    feed = json.loads(re.search(r'<script id="feed" type="application/json">(.*?)</script>', content, re.S)[1])  # type: ignore[index]
    assert feed["id"] == str(running.pk) and feed["after"] == 0
    assert feed["socket"] == f"/ws/searches/{running.pk}/"
    assert feed["events"] == f"/searches/{running.pk}/events/"
    assert feed["charts"] == json.loads(json.dumps(charts_of("operations", "mgas")))
    assert feed["state"]["state"] == "running"


def test_charts_are_those_of_the_recipe_that_was_chosen(page: Client, running: Search) -> None:
    strategy = {"kind": "dna", "recipe": "dna++"}
    Search.objects.filter(pk=running.pk).update(config=running.config | {"strategy": strategy})
    charts = page.get(running.url).context["feed"]["charts"]
    assert charts == charts_of("operations", **strategy) != charts_of("operations", "dna")


@pytest.mark.parametrize("state", SearchState)
def test_every_state_has_its_page(page: Client, running: Search, state: SearchState) -> None:
    put_into(running, state)
    assert page.get(running.url).status_code == 200
    assert page.get(reverse("searches")).status_code == 200


def test_the_feed_over_http_is_that_of_the_socket(page: Client, running: Search) -> None:
    say(running, *(progress(seq) for seq in range(1, 301)))
    url = reverse("search_events", args=[running.pk])
    first = page.get(url).json()
    assert [event["seq"] for event in first["events"]] == list(range(1, 201))
    assert (first["last_seq"], first["more"], first["rewind"]) == (200, True, None)
    assert first["state"]["label"] == "Running"
    rest = page.get(url, {"after": 200}).json()
    assert [event["seq"] for event in rest["events"]] == list(range(201, 301)) and rest["more"] is False
    assert page.get(url, {"after": 300}).json()["last_seq"] == 300
    assert page.get(url, {"after": "now"}).status_code == 400


def test_cancel_and_delete_by_button(page: Client, running: Search) -> None:
    refused = page.post(reverse("search_delete", args=[running.pk]), follow=True)
    assert b"has not ended yet; cancel it first" in refused.content
    page.post(reverse("search_cancel", args=[running.pk]))
    running.refresh_from_db()
    assert running.requested == "cancel"
    put_into(running, SearchState.CANCELLED)
    again = page.post(reverse("search_cancel", args=[running.pk]), follow=True)
    assert b"has already ended; there is nothing to cancel" in again.content
    page.post(reverse("search_delete", args=[running.pk]))
    assert not Search.objects.exists()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("name", "content"),
    [("model.safetensors", b"weights" * 100_000), ("family/12000/model.safetensors", b"fewer weights")],
)
async def test_a_file_is_streamed_whole_under_its_own_name(
    alice: User, finished: Search, name: str, content: bytes
) -> None:
    browser = AsyncClient()
    await browser.aforce_login(alice)
    answer = await browser.get(f"{finished.url}files/{name}")
    assert answer.status_code == 200
    assert answer["Content-Disposition"] == 'attachment; filename="model.safetensors"'
    assert answer["Content-Length"] == str(len(content))
    chunks = [chunk async for chunk in answer]  # type: ignore[attr-defined]
    assert b"".join(chunks) == content
    assert len(chunks) > 1 or len(content) < 1000
    await sync_to_async(connections.close_all)()  # of the thread that answered; a server does so after each request


@pytest.mark.parametrize(
    "name",
    [
        "../config.json", "config.json", "..%2Fconfig.json", "../../../../db.sqlite3", "family/../config.json",
        "family/12000/../../config.json", "family%2F12000%2F..%2F..%2Fconfig.json", "family/12000/unannounced.py",
        "family/12000/", "family/999/model.safetensors", "result/model.safetensors", "//etc/passwd",
        "model.safetensors%00",
    ],
)  # fmt: skip
def test_only_announced_files_exist(page: Client, finished: Search, name: str) -> None:
    folder = selectors.run_folder(finished.pk)
    (folder / "config.json").write_text("{}")
    (folder / "family" / "12000" / "unannounced.py").write_text("")
    assert page.get(f"{finished.url}files/{name}").status_code == 404
    told = page.get(f"/api/v1/searches/{finished.pk}/files/{name}")
    assert told.status_code == 404 and "no such file" in told.json()["message"]


@pytest.mark.asyncio
@pytest.mark.parametrize("door", ["page", "API"])
async def test_all_files_come_in_one_zip_of_the_size_that_was_said(alice: User, finished: Search, door: str) -> None:
    browser = AsyncClient()
    await browser.aforce_login(alice)
    answer = await browser.get(f"{'/api/v1' if door == 'API' else ''}/searches/{finished.pk}/files.zip")
    assert (answer.status_code, answer["Content-Type"]) == (200, "application/zip")
    assert answer["Content-Disposition"] == 'attachment; filename="digits.zip"'
    assert answer["X-Accel-Buffering"] == "no", "nor does a proxy keep it"
    chunks = [chunk async for chunk in answer]  # type: ignore[attr-defined]
    content = b"".join(chunks)
    assert len(content) == int(answer["Content-Length"]) and max(map(len, chunks)) < len(content), "never whole"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None and {entry.compress_type for entry in archive.infolist()} == {0}
        found = {name: archive.read(name) for name in archive.namelist()}
    assert found == {
        "result/model.safetensors": b"weights" * 100_000, "family/12000/model.safetensors": b"fewer weights",
    }  # fmt: skip
    await sync_to_async(connections.close_all)()


@pytest.mark.asyncio
async def test_a_script_finds_the_files_and_gets_them(alice: User, finished: Search) -> None:
    token = await sync_to_async(services.api_token_create)(user=alice, name="files")
    script, headers = AsyncClient(), {"authorization": f"Bearer {token}"}
    address = f"/api/v1/searches/{finished.pk}"
    files = (await script.get(address, headers=headers)).json()["files"]
    assert files == (await script.get("/api/v1/searches", headers=headers)).json()[0]["files"]
    assert [(file["name"], file["url"]) for file in files] == [
        (name, f"{address}/files/{name}") for name in ("family/12000/model.safetensors", "model.safetensors")
    ]
    answer = await script.get(files[0]["url"], headers=headers)
    assert b"".join([chunk async for chunk in answer]) == b"fewer weights"  # type: ignore[attr-defined]
    part = await script.get(files[0]["url"], headers=headers | {"range": "bytes=0-4"})
    assert part.status_code == 206 and [chunk async for chunk in part] == [b"fewer"]  # type: ignore[attr-defined]
    await sync_to_async(connections.close_all)()


@pytest.mark.parametrize("door", ["", "/api/v1"])
def test_there_is_no_zip_without_files(page: Client, new_search: Callable[..., Search], door: str) -> None:
    answer = page.get(f"{door}/searches/{new_search().pk}/files.zip")
    assert answer.status_code == 404
    if door:
        assert answer.json() == {"message": "This search has no files; wait until it is finished."}


def test_the_list_of_the_api_asks_the_database_no_more_for_many(
    page: Client, finished: Search, new_search: Callable[..., Search], django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for _ in range(3):
        new_search()
    with django_assert_num_queries(4):  # session, user, searches, files
        page.get("/api/v1/searches")


def test_the_page_lists_the_networks_of_the_further_targets(page: Client, finished: Search) -> None:
    answer = page.get(finished.url)
    assert [file.name for file in answer.context["artifacts"]] == ["model.safetensors"]
    assert [(member["target"], [file.name for file in files]) for member, files in answer.context["family"]] == [
        (12_000, ["family/12000/model.safetensors"])
    ]
    table = re.search(r'<table class="files family".*?</table>', answer.content.decode(), re.S)
    assert table is not None
    for shown in ("12,000", "11,987", "700 k", "95.1 %", f'href="{finished.url}files/family/12000/model.safetensors"'):
        assert shown in table[0], shown


def test_a_report_of_before_there_were_families_has_its_page(page: Client, finished: Search) -> None:
    content = page.get(finished.url).content.decode()
    assert "survived" not in content and "zeros left out" not in content
    report = {
        "achieved": {"params": 5, "params_dense": 6, "bytes": 9, "bytes_sparse": 7},
        "survived": {"operation": 3, "filter": 4, "weight": 51},
    }
    Search.objects.update(report=report)
    content = page.get(finished.url).content.decode()
    assert "Networks for the further targets" not in content
    assert "survived" in content and '<td class="number">51</td>' in content
    assert "File, zeros left out" in content and "7 bytes" in content
    assert "with pruned weights as zeros" in content and "Zeros among the weights" in content


def test_pages_tell_of_a_method_only_what_it_has(
    page: Client, finished: Search, new_search: Callable[..., Search]
) -> None:
    report = {
        "achieved": {"params": 5, "params_dense": 5, "bytes": 9, "bytes_sparse": 7},
        **{change: {"operation": 0, "filter": 0, "weight": 0} for change in ("pruned", "regrown", "survived")},
    }
    rows = '<th scope="row">Weights</th>', "regrown</th>", "survived</abbr>"
    Search.objects.update(report=report)
    content = page.get(finished.url).content.decode()
    assert "· MGAS ·" in content and all(row in content for row in rows)
    assert "as zeros" not in content and "zeros left out" not in content and "Zeros among" not in content
    Search.objects.update(config=new_search(strategy={"kind": "dms"}).config, stage="on to 12,000 params")
    content = page.get(finished.url).content.decode()
    assert "· DMS ·" in content and '<th scope="row">Filters</th>' in content
    assert not any(row in content for row in rows)
    put_into(finished, SearchState.RUNNING)
    content = page.get(reverse("searches")).content.decode()
    assert "· DMS ·" in content and "down to 12,000 parameters" in content


def test_further_targets_stand_beside_the_target(page: Client, new_search: Callable[..., Search]) -> None:
    search = new_search(target={"value": 20_000, "also": ["30%", 12_000]}, search={"epochs": 16})
    assert search.also_text == "30% and 12,000"
    for url in (search.url, reverse("searches")):
        assert "at most 20,000 parameters, also 30% and 12,000" in page.get(url).content.decode()


def test_strangers_find_nothing_anywhere(
    strangers_page: Client, finished: Search, ready_dataset: Dataset, django_capture_on_commit_callbacks: Any
) -> None:
    thumbnails = selectors.packed_folder(ready_dataset.pk) / "thumbnails"
    thumbnails.mkdir(parents=True)
    (thumbnails / "0-0.png").write_bytes(b"\x89PNG")
    for id_ in (finished.pk, uuid4()):
        files = [f"/searches/{id_}/files/{name}" for name in ("model.safetensors", "family/12000/model.safetensors")]
        for url in (f"/searches/{id_}/", f"/searches/{id_}/events/", *files):
            assert strangers_page.get(url).status_code == 404, url
        for url in (f"/searches/{id_}/cancel/", f"/searches/{id_}/delete/"):
            assert strangers_page.post(url).status_code == 404, url
    for id_ in (ready_dataset.pk, uuid4()):
        for url in (f"/datasets/{id_}/", f"/datasets/{id_}/thumbnails/0-0.png"):
            assert strangers_page.get(url).status_code == 404, url
        assert strangers_page.post(f"/datasets/{id_}/delete/").status_code == 404
    assert strangers_page.get("/datasets/").context["datasets"].count() == 0
    assert Search.objects.exists() and Dataset.objects.exists()


def test_nobody_gets_in_without_signing_in(client: Client, running: Search) -> None:
    for url in ("/", "/searches/new/", running.url, "/datasets/", f"{running.url}events/"):
        answer = client.get(url)
        assert (answer.status_code, answer["Location"].partition("?")[0]) == (302, "/accounts/login/"), url
    assert client.post("/searches/new/outlook/").status_code == 302


def test_one_signs_in_by_password_and_out(client: Client, alice: User) -> None:
    assert client.get("/accounts/login/").status_code == 200
    answer = client.post("/accounts/login/", {"username": "alice", "password": "alice-knows"})
    assert (answer.status_code, answer["Location"]) == (302, "/")
    assert client.get("/").status_code == 200
    assert client.post("/accounts/logout/").status_code == 200
    assert client.get("/").status_code == 302


def test_a_sign_in_link_works_once(client: Client, alice: User) -> None:
    url = reverse("sign_in", args=[services.sign_in_link_create(user=alice)])
    assert client.head(url).status_code == 405, "whoever looks whether it is there does not use it up"
    assert client.get(url, follow=True).context["user"] == alice
    assert Client().get(url).status_code == 410


def test_an_upload_becomes_a_data_set(page: Client, sent: list[tuple[str, str]]) -> None:
    assert page.get("/datasets/").status_code == 200
    answer = page.post("/datasets/", {"name": "Cats", "file": SimpleUploadedFile("cats.zip", A_ZIP)})
    dataset = Dataset.objects.get()
    assert (answer.status_code, answer["Location"]) == (302, dataset.url)
    assert sent == [("webapp.tasks.ingest_dataset", str(dataset.pk))]
    assert page.get("/datasets/").context["datasets"].get() == dataset


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "No file was chosen; choose a zip of class folders."),
        (b"", "The chosen file is empty; choose a zip of class folders."),
        (b"hello", "&#x27;cats.zip&#x27; is not a zip file; put the class folders into one and upload that."),
    ],
)
def test_a_wrong_upload_comes_back_with_a_sentence(page: Client, content: bytes | None, sentence: str) -> None:
    files = {} if content is None else {"file": SimpleUploadedFile("cats.zip", content)}
    answer = page.post("/datasets/", {"name": "Cats"} | files)
    assert answer.status_code == 422 and sentence in answer.content.decode()
    assert not Dataset.objects.exists()


def test_a_data_set_shows_its_classes_and_pictures(page: Client, ready_dataset: Dataset) -> None:
    thumbnails = selectors.packed_folder(ready_dataset.pk) / "thumbnails"
    thumbnails.mkdir(parents=True)
    for name in ("0-1.png", "0-0.png", "0-10.png", "1-0.png", "secret.txt"):
        (thumbnails / name).write_bytes(b"\x89PNG")
    rows = page.get(ready_dataset.url).context["class_rows"]
    base = f"{ready_dataset.url}thumbnails/"
    assert rows == [
        ("cat", {"all": 100}, [f"{base}0-0.png", f"{base}0-1.png", f"{base}0-10.png"]),
        ("dog", {"all": 100}, [f"{base}1-0.png"]),
    ]
    picture = page.get(f"{base}0-0.png")
    assert (picture["Content-Type"], picture.content) == ("image/png", b"\x89PNG")
    for name in ("secret.txt", "0-9.png"):
        assert page.get(f"{base}{name}").status_code == 404


@pytest.mark.parametrize("state", DatasetState)
def test_every_state_of_a_data_set_has_its_page(page: Client, ready_dataset: Dataset, state: DatasetState) -> None:
    Dataset.objects.update(state=state, message="because")
    assert page.get(ready_dataset.url).status_code == 200 and page.get("/datasets/").status_code == 200


def test_health_tells_what_is_wrong(client: Client, settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json() == {
        "database": "ok",
        "redis": "does not answer (ConnectionError)",
        "workers": "cannot be asked without Redis",
        "disk": "ok",
    }


def test_health_tells_of_a_disk_that_fills_up(client: Client, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    usage = shutil.disk_usage(settings.DATA_DIR)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**29))
    assert client.get("/healthz").json()["disk"] == "only 0.5 GB free"


def test_static_files_are_served_without_collecting_them(client: Client) -> None:
    answer = client.get("/static/ninja/swagger-ui-bundle.js")
    assert answer.status_code == 200 and answer["Content-Type"].startswith("text/javascript")
    assert not answer.streaming, "a synchronous stream would be held in memory under ASGI"
    assert client.get("/static/ninja/swagger-ui-bundle.js", headers={"Range": "bytes=0-9"}).status_code == 206
    assert client.get("/static/../manage.py").status_code == 404


def test_the_operators_pages_work(client: Client, running: Search, ready_dataset: Dataset) -> None:
    client.force_login(services.local_owner())
    for url in ("/admin/webapp/search/", f"/admin/webapp/search/{running.pk}/change/", "/admin/webapp/dataset/"):
        assert client.get(url).status_code == 200, url


def test_a_method_that_draws_paths_has_a_place_for_them(page: Client, new_search: Callable[..., Search]) -> None:
    def shown(**strategy: Any) -> str:
        search = new_search(strategy=strategy, target={"value": "60%"})
        return page.get(search.get_absolute_url()).content.decode()

    drawn = shown(kind="msgdas", sub_graphs=3)
    assert 'id="paths"' in drawn and "3 paths through the network are drawn by lot" in drawn
    assert "one path through the network is drawn" in shown(kind="msgdas", sub_graphs=1, soft="full", guidance="off")
    assert 'id="paths"' not in shown(kind="mgas")


def test_the_card_says_of_blocks_what_the_report_says_of_their_rating(
    page: Client, new_search: Callable[..., Search]
) -> None:
    space = {"kind": "chain", "reductions": [2, 5]}
    search = new_search(space=space, strategy={"kind": "dna"}, search={"epochs": 24}, target={"value": "60%"})
    search = services.search_claim(search_id=search.pk) or search
    sentence = "No block was rated before the search was ended."
    rating = {"images": 0, "unrated": [1, 2, 3], "sentence": sentence}
    early = {"achieved": {"params": 9}, "accuracy": {"test": 0.5}, "ended_early": ["search"], "rating": rating}
    assert say(search, result_ready(1, **early))
    assert services.search_finish(search_id=search.pk, attempt=search.attempt)
    content = page.get(search.url).content.decode()
    assert f'<p class="mb-0">{sentence}</p>' in content
    assert 'data-ends="2 5 6"' in content
    assert "The network as it stands then is cut to its size" in content
    assert "<dt>Units on, of all candidates</dt>" in content


def test_of_other_methods_nothing_is_said_of_blocks_that_are_rated(page: Client, running: Search) -> None:
    content = page.get(running.url).content.decode()
    assert 'data-ends=""' in content
    assert "<dt>Units on</dt>" in content


@pytest.mark.parametrize(
    ("strategy", "told", "left"),
    [
        ({"recipe": "dna++"}, {"paths", "dispersion"}, {"teacher", "teacher_epochs", "teacher_weights", "growth"}),
        ({}, {"teacher", "generations"}, {"teacher_library", "teacher_weights", "growth", "paths", "dispersion"}),
        ({"generations": 2}, {"teacher", "generations", "growth"}, {"teacher_library", "paths"}),
    ],
)
def test_what_was_asked_lists_only_what_applies(
    page: Client, new_search: Callable[..., Search], strategy: dict[str, Any], told: set[str], left: set[str]
) -> None:
    search = new_search(space={"kind": "chain"}, strategy={"kind": "dna", **strategy}, target={"value": "60%"})
    asked = page.get(search.url).content.decode().partition('<h3 class="mb-1">Strategy</h3>')[2].partition("<h3")[0]
    listed = set(re.findall("<dt>([a-z_]+)</dt>", asked))
    assert told <= listed and not left & listed
