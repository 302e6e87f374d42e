"""Writes: states move by the table, one winner each; refusals say why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.utils import timezone

from nasengine import events
from nasengine.errors import ConfigError
from tests.webapp.cast import A_ZIP, config, epoch_finished, put_into, result_ready, say, seqs
from webapp import selectors, services
from webapp.models import (
    DATASET_MOVES,
    HELD_STATES,
    LIVE_STATES,
    MOVES,
    TRAINING,
    Dataset,
    DatasetState,
    Request,
    Search,
    SearchState,
    SignInLink,
)

pytestmark = pytest.mark.django_db(transaction=True)
RUN = "webapp.tasks.run_search"


def test_every_state_has_one_sentence_and_a_row_in_the_table() -> None:
    assert set(MOVES) == set(SearchState) and set(DATASET_MOVES) == set(DatasetState)
    for state in (*SearchState, *DatasetState):
        assert state.sentence.endswith(".") and state.label


def test_a_new_search_is_stored_whole_and_sent_once_after_the_commit(
    new_search: Callable[..., Search], sent: list[tuple[str, str]]
) -> None:
    search = new_search(name="")
    assert search.state == SearchState.QUEUED
    assert search.name == "Digits, 20,000 parameters"
    assert search.config["search"]["epochs"] == 12, "the preset's values are filled in"
    assert sent == [(RUN, str(search.pk))]


def test_a_target_out_of_reach_is_refused_with_the_engines_sentence(alice: User) -> None:
    asked = selectors.search_asked(owner=alice, raw=config(target={"value": 10}))
    with pytest.raises(ConfigError, match="10 parameters are below what this space can surely reach"):
        services.search_create(owner=alice, asked=asked)
    assert not Search.objects.exists()


def test_a_move_that_is_not_in_the_table_is_an_error(running: Search) -> None:
    with pytest.raises(ValueError, match="does not go from running to queued"):
        services.search_move(search_id=running.pk, old=SearchState.RUNNING, new=SearchState.QUEUED)


def test_a_guarded_move_has_one_winner(new_search: Callable[..., Search]) -> None:
    search = new_search()
    asked = {"search_id": search.pk, "old": SearchState.QUEUED, "new": SearchState.CANCELLED}
    assert [services.search_move(**asked), services.search_move(**asked)] == [True, False]


def test_a_second_delivery_claims_nothing(new_search: Callable[..., Search]) -> None:
    search = new_search()
    first, second = services.search_claim(search_id=search.pk), services.search_claim(search_id=search.pk)
    assert first is not None and first.attempt == 1 and first.heartbeat_at
    assert second is None
    search.refresh_from_db()
    assert search.attempt == 1


def test_a_stale_attempt_changes_nothing(running: Search) -> None:
    Search.objects.update(attempt=2)
    stale = {"search_id": running.pk, "attempt": 1}
    assert services.search_beat(**stale) is None
    assert services.search_fail(**stale, message="no") is False
    assert services.search_end_cancelled(**stale) is False
    assert services.search_interrupt(**stale, reason="no", is_loss=True) is False
    assert services.search_finish(**stale) is False
    assert say(running, epoch_finished(1)) is False
    running.refresh_from_db()
    assert (running.state, running.message, running.size) == (SearchState.RUNNING, "", None)
    assert seqs(running) == []


def test_cancel_ends_a_queued_search_at_once(new_search: Callable[..., Search]) -> None:
    search = new_search()
    services.search_cancel(search=search)
    search.refresh_from_db()
    assert search.state == SearchState.CANCELLED and search.finished_at


def test_cancel_asks_a_running_search_and_says_so(running: Search) -> None:
    services.search_cancel(search=running)
    running.refresh_from_db()
    assert (running.state, running.requested) == (SearchState.RUNNING, Request.CANCEL)
    assert (running.state_label, running.sentence) == ("Cancelling", "Ends at its next step.")
    assert services.search_beat(search_id=running.pk, attempt=1) == Request.CANCEL


def test_cancel_of_an_ended_search_is_refused(running: Search) -> None:
    put_into(running, SearchState.FINISHED)
    with pytest.raises(services.Refused, match="'digits' has already ended; there is nothing to cancel"):
        services.search_cancel(search=running)


def test_delete_takes_the_files_too_but_only_after_the_end(running: Search) -> None:
    folder = selectors.run_folder(running.pk)
    folder.mkdir(parents=True)
    with pytest.raises(services.Refused, match="has not ended yet; cancel it first"):
        services.search_delete(search=running)
    assert folder.exists()
    put_into(running, SearchState.CANCELLED)
    services.search_delete(search=running)
    assert not folder.exists() and not Search.objects.exists()


def test_a_finished_search_has_its_report_and_files(running: Search) -> None:
    accuracy = {"test": 0.96, "validation": 0.97}
    say(running, result_ready(1, accuracy=accuracy), events.SearchFinished(seq=2, seconds=3.0))
    assert services.search_finish(search_id=running.pk, attempt=1)
    running.refresh_from_db()
    assert (running.state, running.accuracy, running.fraction) == (SearchState.FINISHED, 0.96, 1.0)
    assert [(file.name, file.size_bytes) for file in running.artifacts.all()] == [("model.py", 12)]


def test_a_result_that_an_earlier_attempt_announced_still_counts(running: Search) -> None:
    say(running, result_ready(1), events.CheckpointSaved(seq=2, phase="done", epoch=1))
    put_into(running, SearchState.RUNNING, attempt=2)
    say(running, events.SearchFinished(seq=3, seconds=1.0))
    assert services.search_finish(search_id=running.pk, attempt=2)


def test_a_family_is_published_whole_each_network_as_it_was_announced_last(running: Search) -> None:
    say(running, result_ready(1, "family/30000"), result_ready(2, "family/12000", files=("old.py",)), result_ready(3))
    put_into(running, SearchState.RUNNING, attempt=2)
    main = {"target": {"metric": "params"}, "achieved": {"params": 19_900}}
    files = ("model.py", "model.onnx")
    say(running, result_ready(2, "family/12000", files=files), epoch_finished(3), result_ready(4, files=files, **main))
    assert services.search_finish(search_id=running.pk, attempt=2)
    running.refresh_from_db()
    assert (running.report, running.size) == (main, 19_900), "not the size of a further network"
    assert {(file.name, file.folder, file.file) for file in running.artifacts.all()} == {
        ("model.py", "result", "model.py"),
        ("model.onnx", "result", "model.onnx"),
        ("family/12000/model.py", "family/12000", "model.py"),
        ("family/12000/model.onnx", "family/12000", "model.onnx"),
        ("family/30000/model.py", "family/30000", "model.py"),
    }


def test_a_family_without_its_main_network_is_no_result(running: Search) -> None:
    say(running, result_ready(1, "family/12000"), events.SearchFinished(seq=2, seconds=1.0))
    assert services.search_finish(search_id=running.pk, attempt=1) is False
    assert not running.artifacts.exists()


def test_an_orderly_shutdown_queues_again_without_counting_as_a_loss(
    running: Search, sent: list[tuple[str, str]]
) -> None:
    services.search_interrupt(search_id=running.pk, attempt=1, reason="Its worker was shut down.", is_loss=False)
    running.refresh_from_db()
    assert (running.state, running.losses) == (SearchState.QUEUED, 0)
    assert running.message == "Its worker was shut down. It goes on from its last checkpoint."
    assert sent == [(RUN, str(running.pk))] * 2


def test_losses_without_progress_are_bounded(new_search: Callable[..., Search]) -> None:
    search = new_search()
    for attempt in (1, 2, 3):
        assert services.search_claim(search_id=search.pk)
        services.search_interrupt(search_id=search.pk, attempt=attempt, reason="It died.", is_loss=True)
    search.refresh_from_db()
    assert search.state == SearchState.FAILED
    assert search.sentence == "Ended without a result. It died. Given up after 3 attempts without progress."


def test_a_checkpoint_is_progress(running: Search) -> None:
    put_into(running, SearchState.RUNNING, losses=2)
    say(running, events.CheckpointSaved(seq=1, phase="search", epoch=1))
    services.search_interrupt(search_id=running.pk, attempt=1, reason="It died.", is_loss=True)
    running.refresh_from_db()
    assert (running.state, running.losses) == (SearchState.QUEUED, 1)


def test_an_interrupted_search_that_was_to_be_cancelled_is(running: Search) -> None:
    services.search_cancel(search=running)
    services.search_interrupt(search_id=running.pk, attempt=1, reason="It died.", is_loss=True)
    running.refresh_from_db()
    assert running.state == SearchState.CANCELLED


def test_a_broker_that_is_away_does_not_lose_the_search(
    alice: User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(name: str, args: list[str]) -> None:
        raise services.OperationalError("connection refused")

    monkeypatch.setattr(services.app, "send_task", away)
    search = services.search_create(owner=alice, asked=selectors.search_asked(owner=alice, raw=config()))
    assert Search.objects.get().pk == search.pk
    assert "waits for the broker" in caplog.text


def test_an_upload_is_kept_with_its_checksum_under_a_safe_name(
    alice: User, settings: Any, sent: list[tuple[str, str]]
) -> None:
    file = SimpleUploadedFile("../../Cats & Dögs.zip", A_ZIP)
    dataset = services.dataset_upload(owner=alice, name="", file=file)
    assert dataset.name == "Cats & Dögs"
    assert dataset.file == f"uploads/{dataset.pk}/Cats-D-gs.zip"
    assert (settings.MEDIA_ROOT / dataset.file).read_bytes() == A_ZIP
    assert len(dataset.sha256) == 64 and dataset.bytes == len(A_ZIP)
    assert sent == [("webapp.tasks.ingest_dataset", str(dataset.pk))]


def test_what_is_no_zip_is_refused_and_leaves_nothing(alice: User, settings: Any) -> None:
    for content in (b"hello", b"PK\x03\x04 not really"):
        with pytest.raises(services.Refused, match=r"'cats\.zip' is not a zip file; put the class folders into one"):
            services.dataset_upload(owner=alice, name="", file=SimpleUploadedFile("cats.zip", content))
    assert not Dataset.objects.exists() and not list((settings.MEDIA_ROOT / "uploads").iterdir())


def test_an_upload_over_the_limit_is_refused_and_leaves_nothing(alice: User, settings: Any) -> None:
    settings.UPLOAD_MAX_BYTES = 2**20
    file = SimpleUploadedFile("cats.zip", b"PK\x03\x04" + b"0" * 2**20)
    with pytest.raises(services.Refused, match=r"'cats\.zip' is larger than the 1 MB that may be uploaded"):
        services.dataset_upload(owner=alice, name="", file=file)
    assert not list((settings.MEDIA_ROOT / "uploads").iterdir())


def test_uploads_of_one_user_have_a_quota_and_leave_nothing_beyond_it(alice: User, bob: User, settings: Any) -> None:
    settings.UPLOAD_QUOTA_BYTES = 3 * 2**20
    padded = b"\0" * (2**20 - len(A_ZIP)) + A_ZIP
    file = lambda: SimpleUploadedFile("cats.zip", b"PK\x03\x04" + padded)  # noqa: E731
    for _ in range(2):
        services.dataset_upload(owner=alice, name="", file=file())
    before = sorted((settings.MEDIA_ROOT / "uploads").iterdir())
    with pytest.raises(services.Refused, match=r"'cats\.zip' has 1 MB, but of the 3 MB that you may keep only 1 are"):
        services.dataset_upload(owner=alice, name="", file=file())
    assert sorted((settings.MEDIA_ROOT / "uploads").iterdir()) == before and Dataset.objects.count() == 2
    services.dataset_upload(owner=bob, name="", file=file())
    services.dataset_delete(dataset=Dataset.objects.filter(owner=alice)[0])
    services.dataset_upload(owner=alice, name="", file=file())


def test_a_data_set_in_use_is_not_deleted(
    ready_dataset: Dataset, new_search: Callable[..., Search], settings: Any
) -> None:
    search = new_search(data={"dataset": ready_dataset.reference}, target={"value": "40%"})
    path: Path = settings.MEDIA_ROOT / ready_dataset.file
    with pytest.raises(services.Refused, match="'Cats' is used by the search 'digits'; cancel it or wait"):
        services.dataset_delete(dataset=ready_dataset)
    assert path.exists()
    services.search_cancel(search=search)
    services.dataset_delete(dataset=ready_dataset)
    search.refresh_from_db()
    assert not path.exists()
    assert (search.dataset, search.dataset_label) == (None, "Cats"), "what was found on it stays"


def test_the_packed_images_go_with_the_last_upload_of_them(new_dataset: Callable[..., Dataset], settings: Any) -> None:
    first, second = new_dataset(), new_dataset()
    folder: Path = settings.ENGINE_CACHE / "packed"
    folder.mkdir(parents=True)
    packed, others = folder / f"{first.sha256}-32-v2.npz", folder / f"{'ab' * 32}-32-v2.npz"
    packed.touch()
    others.touch()
    services.dataset_delete(dataset=first)
    assert packed.exists(), "the second upload says the same and still needs it"
    services.dataset_delete(dataset=second)
    assert list(folder.iterdir()) == [others]


def test_a_sign_in_link_works_once_and_not_for_long(alice: User) -> None:
    token = services.sign_in_link_create(user=alice)
    assert token not in str(list(SignInLink.objects.values())), "only its hash is stored"
    assert services.sign_in_link_use(token="guessed") is None
    assert services.sign_in_link_use(token=token) == alice
    assert services.sign_in_link_use(token=token) is None
    late = services.sign_in_link_create(user=alice)
    SignInLink.objects.update(expires_at=timezone.now())
    assert services.sign_in_link_use(token=late) is None


def test_there_is_one_local_owner_who_signs_in_by_link_alone() -> None:
    owner = services.local_owner()
    assert services.local_owner() == owner
    assert owner.is_superuser and not owner.has_usable_password()


# Every state and every wish

EVERY = {
    SearchState.QUEUED: {"cancel": "cancelled", "pause": "paused"},
    SearchState.RUNNING: {
        "cancel": "running cancel", "pause": "pausing pause", "stop": "stopping stop", "keep": "stopping finish",
    },
    SearchState.PAUSING: {"cancel": "pausing cancel"},
    SearchState.PAUSED: {"cancel": "cancelled", "resume": "queued", "stop": "queued stop", "keep": "queued finish"},
    SearchState.STOPPING: {"cancel": "stopping cancel", "keep": "stopping finish"},
    SearchState.INTERRUPTED: {"cancel": "cancelled", "pause": "paused"},
    SearchState.FINISHED: {},
    SearchState.CANCELLED: {},
    SearchState.FAILED: {},
}  # fmt: skip
"""State -> wish -> the state that it leads to and what is asked of the engine; all other wishes are refused."""
ASKED = {SearchState.PAUSING: Request.PAUSE, SearchState.STOPPING: Request.STOP}


@pytest.mark.parametrize("wish", services.WISHES)
@pytest.mark.parametrize("state", SearchState)
def test_every_wish_in_every_state_does_what_the_table_says_or_is_refused(
    running: Search, sent: list[tuple[str, str]], state: SearchState, wish: str
) -> None:
    attempt = 0 if state in (SearchState.QUEUED, SearchState.INTERRUPTED) else 1
    put_into(running, state, attempt=attempt, requested=ASKED.get(state, Request.NONE))
    sent.clear()
    outcome = EVERY[state].get(wish)
    if outcome is None:
        with pytest.raises(services.Refused, match=r"^'digits' .*\.$"):
            services.WISHES[wish](search=running)
        found = state.value
    else:
        services.WISHES[wish](search=running)
        found = outcome.split()[0]
    running.refresh_from_db()
    assert running.state == found
    if outcome and len(outcome.split()) > 1:
        assert running.requested == outcome.split()[1]
    assert bool(sent) == (state == SearchState.PAUSED and found == SearchState.QUEUED), "its job is sent again"
    assert running.sentence.endswith(".") and running.state_label


@pytest.mark.parametrize("new", SearchState)
@pytest.mark.parametrize("old", SearchState)
def test_a_search_moves_as_the_table_says_and_not_otherwise(
    running: Search, old: SearchState, new: SearchState
) -> None:
    put_into(running, old)
    if new in MOVES[old]:
        assert services.search_move(search_id=running.pk, old=old, new=new)
        assert not services.search_move(search_id=running.pk, old=old, new=new), "it is not there any more"
    else:
        with pytest.raises(ValueError, match=f"a search does not go from {old} to {new}; allowed: "):
            services.search_move(search_id=running.pk, old=old, new=new)
    running.refresh_from_db()
    assert running.state == (new if new in MOVES[old] else old)


@pytest.mark.parametrize("state", HELD_STATES)
def test_a_held_search_takes_events_beats_and_ends(running: Search, state: SearchState) -> None:
    put_into(running, state, requested=ASKED.get(state, Request.NONE))
    assert services.search_beat(search_id=running.pk, attempt=1) == ASKED.get(state, Request.NONE)
    assert say(running, result_ready(1, accuracy={"test": 0.9}))
    assert services.search_finish(search_id=running.pk, attempt=1)
    running.refresh_from_db()
    assert running.state == SearchState.FINISHED


def test_stop_of_a_search_that_trains_already_says_so(running: Search) -> None:
    put_into(running, SearchState.RUNNING, stage=TRAINING)
    with pytest.raises(services.Refused, match="'digits' has found its network and trains it; keep it as it is"):
        services.search_stop(search=running)
    assert not running.can_stop and running.can_end_early
    services.search_keep(search=running)
    running.refresh_from_db()
    assert (running.state, running.requested) == (SearchState.STOPPING, Request.FINISH)


def test_a_stop_outlives_a_pause(running: Search) -> None:
    put_into(running, SearchState.QUEUED, requested=Request.STOP)
    services.search_pause(search=running)
    services.search_resume(search=running)
    again = services.search_claim(search_id=running.pk)
    assert again is not None
    again.refresh_from_db()
    assert (again.state, again.requested) == (SearchState.STOPPING, Request.STOP)


def test_a_search_counts_as_training_from_the_end_of_its_last_stage(running: Search) -> None:
    def finished(seq: int, *, last: bool) -> events.StageFinished:
        return events.StageFinished(seq=seq, stage=1, name="a", size=5, target=6, validation={}, seconds=1.0, last=last)

    say(running, finished(1, last=False))
    running.refresh_from_db()
    assert not running.is_training
    say(running, finished(2, last=True))
    running.refresh_from_db()
    assert running.is_training and running.size == 5


def test_stop_of_a_search_that_has_not_begun_is_refused(new_search: Callable[..., Search]) -> None:
    with pytest.raises(services.Refused, match="'digits' has not begun, so there is nothing to keep; cancel it"):
        services.search_stop(search=new_search())


def test_live_states_are_those_that_lead_somewhere() -> None:
    assert set(LIVE_STATES) == set(SearchState) - {SearchState.FINISHED, SearchState.CANCELLED, SearchState.FAILED}
    assert set(HELD_STATES) <= set(LIVE_STATES)
