"""Lines become rows, in order, once; a resumed attempt replaces what the dead one said."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from django.utils import timezone

from nasengine import events
from tests.webapp import story_of_blocks
from tests.webapp.cast import epoch_finished, progress, put_into, say, seqs
from webapp import relay, selectors
from webapp.models import Search, SearchEvent, SearchState

pytestmark = pytest.mark.django_db(transaction=True)


def test_events_are_stored_as_they_were_said(running: Search) -> None:
    line = events.to_line(progress(1))
    assert say(running, *relay.parse([line]))
    stored = running.events.get()
    assert events.to_line(progress(1)) == line
    assert stored.payload == {"kind": "progress", "attempt": 1, **vars(progress(1))}
    assert (stored.seq, stored.kind, stored.attempt) == (1, "progress", 1)


def test_stray_output_is_left_out_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    lines = ["Downloading...", events.to_line(progress(1)), '{"kind": "no such thing"}']
    assert relay.parse(lines) == [progress(1)]
    assert "Downloading..." in caplog.text


def test_the_list_shows_the_latest_numbers(running: Search) -> None:
    say(running, progress(1, size=30_000), progress(250, size=28_000))
    running.refresh_from_db()
    assert (running.size, running.fraction, running.eta_seconds) == (28_000, 0.25, 60.0)


def test_a_teacher_that_is_trained_first_is_no_training_of_what_was_found(running: Search) -> None:
    """So that the search can be stopped early, not kept; after the search it changes nothing of that."""
    told = story_of_blocks.story()
    teacher = next(at for at, event in enumerate(told) if isinstance(event, events.RetrainEpoch))
    say(running, *told[: teacher + 1])
    running.refresh_from_db()
    assert (running.is_training, running.stage) == (False, "teacher")
    assert running.fraction == pytest.approx(0.02)
    found = next(at for at, event in enumerate(told) if getattr(event, "network", "") == "found")
    say(running, *told[teacher + 1 : found + 1])
    running.refresh_from_db()
    assert running.is_training
    assert [phase for _, phase, _, _ in running.curve] == [1]  # the blocks' epochs have no accuracy
    say(running, replace(told[found], network="teacher", seq=told[found].seq + 1))
    running.refresh_from_db()
    assert running.is_training


def test_a_rating_leaves_the_stage_as_it_is(running: Search) -> None:
    """The estimate is that of the whole search."""
    told = story_of_blocks.story()
    begun = next(at for at, event in enumerate(told) if isinstance(event, events.Progress))
    say(running, *told[: begun + 1])
    running.refresh_from_db()
    before = (running.stage, running.eta_seconds, running.is_training)
    rating = events.DataProgress(what="rating", done=3, total=9, unit="candidates", eta_seconds=1.0)
    say(running, replace(rating, seq=told[begun].seq + 1))
    running.refresh_from_db()
    assert before[0] and (running.stage, running.eta_seconds, running.is_training) == before


@pytest.mark.parametrize("size", [1, 1000])
def test_a_teacher_is_in_hand_until_its_blocks_are(running: Search, size: int) -> None:
    """However many lines come at once; the search can be stopped early all the while."""
    told = story_of_blocks.story()
    first, teacher = next((at, event) for at, event in enumerate(told) if isinstance(event, events.RetrainEpoch))
    begun, stage = next((at, event) for at, event in enumerate(told) if isinstance(event, events.StageStarted))

    def stage_after(*said: events.Event) -> str:
        for at in range(0, len(said), size):
            say(running, *said[at : at + size])
        running.refresh_from_db()
        assert not running.is_training
        return running.stage

    assert stage_after(*told[: first + 2]) == "teacher"
    assert stage_after(*told[first + 2 : begun + 1]) == "block 1"
    further = [replace(teacher, network="teacher 2", seq=stage.seq + epoch) for epoch in (1, 2)]
    assert stage_after(*further) == "teacher 2"
    assert stage_after(replace(stage, name="block 1, teacher 2", seq=stage.seq + 3)) == "block 1, teacher 2"


def test_a_resumed_attempt_replaces_what_the_dead_one_said_after_its_checkpoint(running: Search) -> None:
    say(running, *(progress(seq) for seq in range(1, 11)))
    put_into(running, SearchState.RUNNING, attempt=2)
    say(running, progress(6), progress(7))
    say(running, progress(8))
    assert seqs(running) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert list(running.events.values_list("attempt", flat=True)) == [1] * 5 + [2] * 3
    running.refresh_from_db()
    assert running.rewinds == [5]


def test_a_first_attempt_rewinds_nobody(running: Search) -> None:
    say(running, progress(1))
    say(running, progress(2))
    running.refresh_from_db()
    assert running.rewinds == []


def test_a_reader_is_told_of_a_rewind_once(running: Search) -> None:
    say(running, *(progress(seq) for seq in range(1, 11)))
    put_into(running, SearchState.RUNNING, attempt=2)
    say(running, progress(6))
    mine = selectors.search_of(running.owner_id, running.pk)
    feed = selectors.search_feed(of=mine, after=10, rewinds=0)
    assert feed and (feed.rewind, [event["seq"] for event in feed.events]) == (5, [6])
    assert feed.state["rewinds"] == 1
    feed = selectors.search_feed(of=mine, after=6, rewinds=1)
    assert feed and (feed.rewind, feed.events, feed.last_seq) == (None, [], 6)
    feed = selectors.search_feed(of=mine, after=3, rewinds=0)
    assert feed and feed.rewind is None, "who had not seen so much has nothing to drop"


@pytest.mark.parametrize("number", [0, 1])
def test_an_attempt_that_fails_at_its_start_keeps_what_the_earlier_one_said(running: Search, number: int) -> None:
    say(running, progress(1), progress(2))
    put_into(running, SearchState.RUNNING, attempt=2)
    say(running, events.SearchFailed(seq=number, error="CheckpointError", message="it is damaged", problems=[]))
    assert seqs(running) == [1, 2, 3]
    last = running.events.last()
    assert last and (last.kind, last.payload["seq"]) == ("search_failed", 3)
    running.refresh_from_db()
    assert running.rewinds == []


def test_a_failure_follows_what_was_said_with_it(running: Search) -> None:
    say(running, *(progress(seq) for seq in range(1, 11)))
    put_into(running, SearchState.RUNNING, attempt=2)
    say(running, progress(6), events.SearchFailed(seq=7, error="DataError", message="no images", problems=[]))
    assert seqs(running) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("learned", relay.LEARNED)
def test_old_progress_is_thinned_evenly_and_nothing_else(running: Search, learned: str) -> None:
    """A spike of what is learned stays, whatever its place and its name."""
    spikes = {333: 99.0, 778: -99.0}
    said = (progress(seq) for seq in range(1, 1001))
    say(
        running,
        *(replace(one, losses={"size": -one.seq, learned: spikes.get(one.seq, one.losses["task"])}) for one in said),
    )
    say(running, events.CheckpointSaved(seq=1001, phase="search", epoch=1))
    SearchEvent.objects.update(at=timezone.now() - timedelta(minutes=5))
    say(running, epoch_finished(1002))
    kept = seqs(running)
    assert kept[-2:] == [1001, 1002]
    assert relay.PROGRESS_ROWS // 4 < len(kept) <= relay.PROGRESS_ROWS // 2 + 3
    assert max(b - a for a, b in pairwise(kept)) <= 20 and set(spikes) <= set(kept)


def test_a_run_of_days_leaves_no_more_points_than_one_of_an_hour(running: Search) -> None:
    """Whatever an engine has said in days, a page gets a bounded number of it."""
    for start in range(1, 20_001, 2_000):
        say(running, *(progress(seq) for seq in range(start, start + 1_999)))
        SearchEvent.objects.update(at=timezone.now() - timedelta(minutes=5))
        say(running, epoch_finished(start + 1_999))
    assert SearchEvent.objects.filter(kind="progress").count() <= relay.PROGRESS_ROWS


def test_fresh_progress_is_never_thinned(running: Search) -> None:
    say(running, *(progress(seq) for seq in range(1, 1001)), epoch_finished(1001))
    assert seqs(running) == list(range(1, 1002))


def test_a_doorbell_that_cannot_be_rung_loses_no_row(
    running: Search, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Away:
        async def group_send(self, group: str, message: object) -> None:
            raise ConnectionRefusedError("redis is away")

    monkeypatch.setattr(relay, "get_channel_layer", Away)
    assert say(running, progress(1))
    assert seqs(running) == [1]
    assert "could not be rung" in caplog.text
