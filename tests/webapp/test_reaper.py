"""What died or got lost is found, and nothing that lives is taken for dead, whatever the clock says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.webapp.cast import put_into
from webapp import reaper, services
from webapp.models import HELD_STATES, Dataset, DatasetState, Request, Search, SearchState
from webapp.reaper import Reaper, Watch

pytestmark = pytest.mark.django_db(transaction=True)
RUN = "webapp.tasks.run_search"


def looked_at(watcher: Reaper, clock: Clock, seconds: float) -> None:
    """Looks now, so much later, and in between."""
    for pause in (0, seconds / 2, seconds / 2):
        clock.now += pause
        watcher.reap()


class Clock:
    """The one that nobody can set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(reaper, "time", SimpleNamespace(monotonic=found))
    return found


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 10), st.sets(st.integers(0, 3))), max_size=12))
def test_a_watch_names_what_was_seen_at_every_look_for_so_long(looks: list[tuple[float, set[int]]]) -> None:
    watch, now = Watch(), 0.0
    before = reaper.time
    try:
        since: dict[int, list[float]] = {}
        for pause, seen in looks:
            now += pause
            reaper.time = SimpleNamespace(monotonic=lambda: now)  # noqa: B023 -- read at once
            since = {thing: [*since.get(thing, []), now] for thing in seen}
            old = {thing for thing in seen if now - since[thing][0] >= 5 and len(since[thing]) >= reaper.LOOKS}
            assert set(watch.unchanged(seen, seconds=5)) == old
    finally:
        reaper.time = before


def test_the_reaper_takes_the_silent_and_leaves_the_living(
    new_search: Callable[..., Search], clock: Clock, settings: Any
) -> None:
    silent, living = new_search(), new_search()
    for search in (silent, living):
        services.search_claim(search_id=search.pk)
    watcher = Reaper()
    for _ in range(3):
        watcher.reap()
        clock.now += settings.SILENT_SECONDS / 2
        services.search_beat(search_id=living.pk, attempt=1)
    silent.refresh_from_db()
    living.refresh_from_db()
    assert (silent.state, silent.losses) == (SearchState.QUEUED, 1)
    assert silent.message == "Its worker fell silent. It goes on from its last checkpoint."
    assert (living.state, living.losses) == (SearchState.RUNNING, 0)


@pytest.mark.parametrize("hours", [-24, 24])
def test_a_clock_that_is_set_makes_nobody_look_dead_or_alive(
    running: Search, clock: Clock, settings: Any, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    watcher, now = Reaper(), timezone.now()
    watcher.reap()
    monkeypatch.setattr(timezone, "now", lambda: now + timedelta(hours=hours))
    for _ in range(6):  # it goes on beating
        clock.now += settings.SILENT_SECONDS / 4
        monkeypatch.setattr(timezone, "now", lambda: now + timedelta(hours=hours, seconds=clock.now))
        services.search_beat(search_id=running.pk, attempt=1)
        watcher.reap()
    running.refresh_from_db()
    assert running.state == SearchState.RUNNING
    looked_at(watcher, clock, settings.SILENT_SECONDS)  # and stops
    running.refresh_from_db()
    assert running.state == SearchState.QUEUED


def test_a_dead_worker_of_this_machine_is_found_long_before_its_silence_says_so(
    running: Search, clock: Clock, settings: Any
) -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    Search.objects.update(pid=process.pid)
    patience = reaper.BEATS_MISSED * settings.HEARTBEAT_SECONDS
    assert patience < settings.SILENT_SECONDS / 2
    looked_at(Reaper(), clock, patience)
    running.refresh_from_db()
    assert (running.state, running.losses) == (SearchState.QUEUED, 1)
    assert running.message == "Its worker died. It goes on from its last checkpoint."


@pytest.mark.parametrize("beats", [True, False])
def test_a_number_of_a_process_says_nothing_about_another_machine(
    running: Search, clock: Clock, settings: Any, beats: bool
) -> None:
    """Nor about a container of the same name, whose worker beats."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    Search.objects.update(pid=process.pid, **({} if beats else {"host": "another"}))
    watcher = Reaper()
    for _ in range(4):
        watcher.reap()
        clock.now += settings.SILENT_SECONDS / 4.5
        if beats:
            services.search_beat(search_id=running.pk, attempt=1)
    running.refresh_from_db()
    assert running.state == SearchState.RUNNING and running.pid != os.getpid()


def test_who_slept_looks_again_before_it_judges(running: Search, clock: Clock, settings: Any) -> None:
    watcher = Reaper()
    watcher.reap()
    clock.now += 10 * settings.SILENT_SECONDS  # the whole machine stood still
    watcher.reap()
    services.search_beat(search_id=running.pk, attempt=1)
    watcher.reap()
    running.refresh_from_db()
    assert running.state == SearchState.RUNNING


@pytest.mark.parametrize("state", HELD_STATES)
def test_what_falls_silent_is_queued_or_paused_as_was_asked(
    running: Search, state: SearchState, clock: Clock, settings: Any
) -> None:
    asked = {SearchState.PAUSING: Request.PAUSE, SearchState.STOPPING: Request.STOP}.get(state, Request.NONE)
    put_into(running, state, requested=asked)
    looked_at(Reaper(), clock, settings.SILENT_SECONDS)
    running.refresh_from_db()
    assert running.state == (SearchState.PAUSED if state == SearchState.PAUSING else SearchState.QUEUED)
    assert running.requested == (Request.STOP if state == SearchState.STOPPING else Request.NONE)


def test_a_beat_between_look_and_deed_saves_it(running: Search) -> None:
    services.search_beat(search_id=running.pk, attempt=1)
    asked = {"search_id": running.pk, "attempt": 1, "reason": "It fell silent.", "is_loss": True}
    assert not services.search_interrupt(**asked, last_beat=running.heartbeat_at)
    running.refresh_from_db()
    assert running.state == SearchState.RUNNING
    assert services.search_interrupt(**asked, last_beat=running.heartbeat_at)


def test_the_reaper_packs_again_what_a_dead_worker_left(
    new_dataset: Callable[..., Dataset], clock: Clock, settings: Any
) -> None:
    dataset = new_dataset()
    services.dataset_claim(dataset_id=dataset.pk)
    looked_at(Reaper(), clock, settings.SILENT_SECONDS)
    dataset.refresh_from_db()
    assert (dataset.state, dataset.losses, dataset.message) == (DatasetState.UPLOADED, 1, "Its worker fell silent.")


@pytest.mark.parametrize(("messages", "again"), [(0, 1), (3, 0)])
def test_lost_messages_are_sent_again_only_into_an_empty_queue(
    messages: int,
    again: int,
    new_search: Callable[..., Search],
    sent: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    clock: Clock,
    settings: Any,
) -> None:
    search = new_search()
    sent.clear()
    monkeypatch.setattr(reaper, "messages_in", lambda queue: messages)
    watcher = Reaper()
    watcher.resend_lost()
    assert not sent, "its message may be on its way"
    for _ in range(2):
        clock.now += settings.RESEND_SECONDS
        watcher.resend_lost()
    assert sent == [(RUN, str(search.pk))] * again
