"""The supervisor on an engine that does as it is told, and on some that do not."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from nasengine import events
from tests.webapp.cast import seqs, soon
from webapp import selectors, services, supervisor, tasks
from webapp.models import Dataset, DatasetState, Request, Search, SearchEvent, SearchState
from webapp.supervisor import Ended, FolderBusy, Wish, folder_lock

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("fake_engine")]


@pytest.fixture
def in_background() -> Iterator[Callable[..., threading.Thread]]:
    """Runs a job in a thread, as a worker would in a process; all have ended when the test ends."""
    threads: list[threading.Thread] = []

    def start(job: Callable[..., None], *args: str) -> threading.Thread:
        def work() -> None:
            try:
                job(*args)
            finally:
                connection.close()

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        return threads[-1]

    yield start
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()


UnderWay = Callable[[str], tuple[Search, threading.Thread]]


@pytest.fixture
def under_way(new_search: Callable[..., Search], in_background: Callable[..., threading.Thread]) -> UnderWay:
    """Starts a search of that name, with its worker, and waits for its first words."""

    def start(name: str) -> tuple[Search, threading.Thread]:
        search = new_search(name=name)
        worker = in_background(tasks.run_search, str(search.pk))
        soon(lambda: seqs(search))
        return search, worker

    return start


def run(search: Search) -> Search:
    tasks.run_search(str(search.pk))
    search.refresh_from_db()
    return search


def heard(search: Search) -> list[str]:
    """What the fake engine was told, word for word."""
    file = selectors.run_folder(search.pk) / "heard"
    return file.read_text().split() if file.exists() else []


def starts(search: Search) -> list[int]:
    """Process ids of the engines that were started."""
    path = selectors.run_folder(search.pk) / "starts"
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_works(new_search: Callable[..., Search]) -> None:
    search = run(new_search(name="finishes"))
    assert search.state == SearchState.FINISHED
    assert seqs(search) == [1, 2, 3, 4]
    assert search.accuracy == 0.96
    assert [(file.name, file.bytes) for file in search.artifacts.all()] == [("model.py", 10)]


def test_the_engine_gets_the_whole_configuration(new_search: Callable[..., Search]) -> None:
    search = run(new_search(name="finishes"))
    written = json.loads((selectors.run_folder(search.pk) / "config.json").read_text())
    assert written == search.config


def test_an_upload_reaches_the_engine_as_its_file(
    new_search: Callable[..., Search], ready_dataset: Dataset, settings: Any
) -> None:
    search = new_search(name="finishes", data={"dataset": ready_dataset.reference}, target={"value": "40%"})
    assert str(settings.MEDIA_ROOT) not in str(search.config), "no path of this machine is stored or shown"
    data = selectors.engine_config(search)["data"]
    assert (data["dataset"], data["path"]) == ("zip", str(settings.MEDIA_ROOT / ready_dataset.file))


def test_a_message_delivered_twice_runs_one_engine(new_search: Callable[..., Search]) -> None:
    search = run(new_search(name="finishes"))
    run(search)
    assert len(starts(search)) == 1 and search.attempt == 1 and seqs(search) == [1, 2, 3, 4]


def test_two_workers_at_once_run_one_engine(
    new_search: Callable[..., Search], in_background: Callable[..., threading.Thread]
) -> None:
    search = new_search(name="finishes")
    threads = [in_background(tasks.run_search, str(search.pk)) for _ in range(4)]
    for thread in threads:
        thread.join()
    search.refresh_from_db()
    assert search.state == SearchState.FINISHED and len(starts(search)) == 1


def test_an_end_without_a_result_is_a_failure(new_search: Callable[..., Search]) -> None:
    search = run(new_search(name="forgets"))
    assert (search.state, search.message) == (SearchState.FAILED, "The engine ended without a result.")


def test_bad_input_fails_with_the_engines_problems(new_search: Callable[..., Search]) -> None:
    search = run(new_search(name="refuses"))
    assert (search.state, search.message) == (SearchState.FAILED, "it cannot be")
    assert search.problems == [["target.value", "it cannot be"]]
    assert [event.kind for event in search.events.all()] == ["search_failed"]


def test_a_crash_fails_with_the_engines_last_words(new_search: Callable[..., Search]) -> None:
    search = run(new_search(name="crashes"))
    assert search.state == SearchState.FAILED
    assert search.message.startswith("The engine ended with exit status 7.\nIts last words:")
    assert search.message.endswith("the cat sat on the keyboard")
    last = search.events.last()
    assert last and (last.kind, last.payload["message"]) == ("search_failed", search.message)


def test_an_engine_that_is_killed_is_queued_again_and_given_up_in_the_end(
    new_search: Callable[..., Search], sent: list[tuple[str, str]]
) -> None:
    search = run(new_search(name="is killed"))
    assert (search.state, search.losses) == (SearchState.QUEUED, 1)
    assert search.message == "Its engine was ended by signal 9 (Killed). It goes on from its last checkpoint."
    assert len(sent) == 2
    run(search)
    run(search)
    assert search.state == SearchState.FAILED and "Given up after 3 attempts" in search.message
    assert search.events.get(kind="search_failed").payload["message"] == search.message


def test_what_dies_is_resumed_and_its_events_are_said_once(new_search: Callable[..., Search]) -> None:
    search = run(new_search(name="dies once"))
    assert search.state == SearchState.QUEUED and seqs(search) == [1, 2, 3, 4, 5]
    run(search)
    assert search.state == SearchState.FINISHED
    assert list(search.events.values_list("seq", "attempt")) == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (6, 2)]
    assert search.rewinds == [2]


def test_cancel_is_obeyed_by_the_engine(under_way: UnderWay) -> None:
    search, worker = under_way("waits")
    services.search_cancel(search=search)
    worker.join(timeout=20)
    search.refresh_from_db()
    assert search.state == SearchState.CANCELLED
    assert heard(search) == ["cancel"]


def test_what_the_engine_says_to_its_operator_is_on_the_page_and_can_be_downloaded(
    new_search: Callable[..., Search], page: Client, strangers_page: Client
) -> None:
    search = new_search(name="crashes")
    assert "It has said nothing so far" in page.get(search.url).content.decode()
    assert page.get(f"{search.url}log").status_code == 404
    run(search)
    assert "the cat sat on the keyboard" in page.get(search.url).content.decode()
    answer = page.get(f"{search.url}log")
    assert re.fullmatch(rb"\d{4}-\d\d-\d\d [\d:,]+ CUDA error: the cat sat on the keyboard\n", answer.content)
    assert answer["Content-Type"].startswith("text/plain") and "attachment" in answer["Content-Disposition"]
    assert strangers_page.get(f"{search.url}log").status_code == 404


def test_a_log_is_bounded(new_search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch, page: Client) -> None:
    monkeypatch.setattr(supervisor, "LOG_BYTES", 10_000)
    search = run(new_search(name="talks"))
    files = sorted(selectors.run_folder(search.pk).glob("engine.log*"))
    assert [file.name for file in files] == ["engine.log", "engine.log.1"]
    assert all(file.stat().st_size <= 10_000 for file in files)
    tail = selectors.log_tail(search)
    assert len(page.get(f"{search.url}log").content) == sum(file.stat().st_size for file in files)
    assert tail.splitlines()[-1].endswith("word 999") and len(tail) <= selectors.TAIL_BYTES
    assert re.match(r"\d{4}-", tail), "whole lines"


def test_what_no_database_keeps_is_left_out_of_what_an_engine_says(new_search: Callable[..., Search]) -> None:
    search = run(new_search(name="mumbles"))
    assert (search.state, search.message.splitlines()[-1]) == (SearchState.FAILED, "No such file: caf\ufffd")
    assert search.events.get(kind="progress").payload["losses"] == {"\ufffd\ufffd": 1.0}


def test_an_engine_that_the_system_ends_for_its_memory_says_what_helps(
    new_search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel counts whom it has killed; nothing on this machine is really starved."""
    counts = iter([3, 4])
    monkeypatch.setattr(supervisor, "_out_of_memory_kills", lambda: next(counts))
    search = run(new_search(name="is killed"))
    assert search.state == SearchState.QUEUED and search.losses == 1
    assert search.message.startswith("The machine ran out of memory and ended its engine")
    assert re.search(r"start a new search with (a|half the) search\.batch_size", search.message)


def test_the_advice_names_the_batch_that_would_have_fitted_if_it_is_known(new_search: Callable[..., Search]) -> None:
    search = new_search(search={"batch_size": 512})
    started = events.SearchStarted(
        seq=1, name="", method="mgas", space="cells", metric="params", target=1, also=[], limits={}, full_size=2,
        smallest_size=1, blocks=[], choices=[], stages=[], epochs=1, retrain_epochs=1, device="CPU (x86_64)",
    )  # fmt: skip
    SearchEvent.objects.create(search=search, attempt=1, seq=1, kind="search_started", payload=asdict(started))
    need = selectors.search_asked(owner=search.owner, raw=search.config).outlook.estimate["memory_mib"]
    ended = Ended(code=-9, wish=Wish.GO_ON, tail="", ran_out_of_memory=True, memory_mib=need)
    words = re.search(r"held ([\d.]+) GB by then.* a search\.batch_size of (\d+), which", tasks._starved(search, ended))
    assert words and float(words[1]) == pytest.approx(need / 1024, abs=0.05) and 256 < int(words[2]) < 512
    unknown = replace(ended, memory_mib=1.0)
    assert "start a new search with half the search.batch_size" in tasks._starved(search, unknown)


def test_what_an_engine_held_at_most_is_known_when_it_has_ended(
    under_way: UnderWay, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[Ended] = []
    monkeypatch.setattr(tasks, "_conclude", lambda search, ended, said: ends.append(ended))
    search, worker = under_way("waits once")
    services.search_pause(search=search)
    worker.join(timeout=20)
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # which Linux counts for a child, too
    assert 5 < ends[0].memory_mib < max(100, 1.1 * ours)


def test_the_kernel_counts_whom_it_has_killed() -> None:
    assert supervisor._out_of_memory_kills() >= 0
    assert "oom_kill " in Path("/proc/vmstat").read_text()


def test_pause_frees_the_worker_and_resume_starts_a_new_attempt(
    under_way: UnderWay, sent: list[tuple[str, str]]
) -> None:
    search, worker = under_way("waits once")
    services.search_pause(search=search)
    search.refresh_from_db()
    assert search.state == SearchState.PAUSING
    worker.join(timeout=20)
    search.refresh_from_db()
    assert (search.state, search.requested, search.losses) == (SearchState.PAUSED, Request.NONE, 0)
    assert heard(search) == ["pause"] and len(sent) == 1
    services.search_resume(search=search)
    assert len(sent) == 2
    run(search)
    assert (search.state, search.attempt) == (SearchState.FINISHED, 2)


def test_a_search_whose_engine_dies_while_it_is_paused_is_paused_all_the_same(
    under_way: UnderWay, settings: Any
) -> None:
    settings.ENGINE_SAVE_SECONDS = settings.ENGINE_KILL_SECONDS = 0.1
    search, worker = under_way("is stubborn")
    services.search_pause(search=search)
    time.sleep(0.5)
    assert worker.is_alive(), "what saves is not killed, however long it takes"
    os.kill(starts(search)[0], 9)
    worker.join(timeout=20)
    search.refresh_from_db()
    assert (search.state, search.requested) == (SearchState.PAUSED, Request.NONE)
    assert search.message.startswith("Its engine was ended by signal 9 (Killed).")


def test_cancel_of_a_search_that_is_about_to_pause_wins(under_way: UnderWay, settings: Any) -> None:
    settings.ENGINE_CANCEL_SECONDS = settings.ENGINE_KILL_SECONDS = 0.2
    search, worker = under_way("is stubborn")
    services.search_pause(search=search)
    services.search_cancel(search=search)
    worker.join(timeout=20)
    search.refresh_from_db()
    assert search.state == SearchState.CANCELLED


def test_stop_and_keep_reach_the_engine_in_this_order_and_end_with_a_result(under_way: UnderWay) -> None:
    search, worker = under_way("waits")
    services.search_stop(search=search)
    soon(lambda: heard(search) == ["stop"])
    search.refresh_from_db()
    assert search.state == SearchState.STOPPING
    assert search.sentence == "Trains the network as it stands; then it is finished."
    services.search_keep(search=search)
    worker.join(timeout=20)
    search.refresh_from_db()
    assert search.state == SearchState.FINISHED and heard(search) == ["stop", "finish"]
    assert search.artifacts.count() == 1


def test_an_attempt_that_takes_over_a_stopping_search_is_told_again(
    new_search: Callable[..., Search], in_background: Callable[..., threading.Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = new_search(name="waits")
    closing = threading.Event()
    monkeypatch.setattr(tasks, "worker_is_closing", closing.is_set)
    worker = in_background(tasks.run_search, str(search.pk))
    soon(lambda: seqs(search))
    services.search_stop(search=search)
    soon(lambda: heard(search) == ["stop"])
    closing.set()
    worker.join(timeout=20)
    search.refresh_from_db()
    assert (search.state, search.requested) == (SearchState.QUEUED, Request.STOP)
    closing.clear()
    again = in_background(tasks.run_search, str(search.pk))
    soon(lambda: heard(search) == ["stop", "end", "of", "file", "stop"])
    search.refresh_from_db()
    assert search.state == SearchState.STOPPING
    services.search_keep(search=search)
    again.join(timeout=20)
    search.refresh_from_db()
    assert search.state == SearchState.FINISHED


def test_a_stubborn_engine_is_killed_with_all_its_children(under_way: UnderWay, settings: Any) -> None:
    settings.ENGINE_CANCEL_SECONDS = settings.ENGINE_KILL_SECONDS = 0.2
    search, worker = under_way("is stubborn")
    grandchild = int((selectors.run_folder(search.pk) / "grandchild").read_text())
    services.search_cancel(search=search)
    worker.join(timeout=20)
    search.refresh_from_db()
    assert search.state == SearchState.CANCELLED
    soon(lambda: not is_alive(grandchild))
    assert not is_alive(starts(search)[0])


def test_a_worker_that_closes_lets_the_engine_save_and_queues_the_search_again(
    new_search: Callable[..., Search],
    in_background: Callable[..., threading.Thread],
    monkeypatch: pytest.MonkeyPatch,
    sent: list[tuple[str, str]],
) -> None:
    search = new_search(name="waits")
    closing = threading.Event()
    monkeypatch.setattr(tasks, "worker_is_closing", closing.is_set)
    worker = in_background(tasks.run_search, str(search.pk))
    soon(lambda: seqs(search))
    closing.set()
    worker.join(timeout=20)
    search.refresh_from_db()
    assert (search.state, search.losses) == (SearchState.QUEUED, 0)
    assert (selectors.run_folder(search.pk) / "heard").read_text() == "end of file"
    assert seqs(search) == [1, 2], "what it said while saving is kept"
    assert len(sent) == 2


def test_sigterm_to_the_worker_itself_is_an_orderly_end_too(new_search: Callable[..., Search]) -> None:
    search = new_search(name="waits")
    timer = threading.Thread(target=lambda: (soon(lambda: starts(search)), os.kill(os.getpid(), 15)))
    timer.start()
    run(search)
    timer.join()
    assert (search.state, search.message[:24]) == (SearchState.QUEUED, "Its worker was shut down")


def test_the_heart_beats_while_the_engine_is_quiet(
    new_search: Callable[..., Search], in_background: Callable[..., threading.Thread]
) -> None:
    search = new_search(name="waits")
    in_background(tasks.run_search, str(search.pk))
    soon(lambda: seqs(search))
    first = Search.objects.get().heartbeat_at
    soon(lambda: Search.objects.get().heartbeat_at != first)
    services.search_cancel(search=search)


def test_an_engine_whose_search_was_taken_away_dies_and_changes_nothing(under_way: UnderWay) -> None:
    search, worker = under_way("waits")
    Search.objects.update(attempt=2)
    worker.join(timeout=20)
    search.refresh_from_db()
    assert (search.state, search.attempt, search.losses) == (SearchState.RUNNING, 2, 0)
    assert not is_alive(starts(search)[0])


def test_a_folder_that_an_engine_still_uses_is_left_alone(new_search: Callable[..., Search], settings: Any) -> None:
    settings.ENGINE_ORPHAN_SECONDS = 0.2
    search = new_search(name="finishes")
    with folder_lock(selectors.run_folder(search.pk), seconds=1):
        run(search)
    assert not starts(search)
    assert search.message.startswith("The engine of an earlier attempt does not let go of its folder.")
    assert search.state == SearchState.QUEUED


def test_who_waits_for_a_folder_beats_and_hears(
    new_search: Callable[..., Search], in_background: Callable[..., threading.Thread]
) -> None:
    search = new_search(name="finishes")
    with folder_lock(selectors.run_folder(search.pk), seconds=1):
        worker = in_background(tasks.run_search, str(search.pk))
        first = soon(lambda: Search.objects.get().heartbeat_at)
        soon(lambda: Search.objects.get().heartbeat_at != first)
        services.search_cancel(search=search)
        worker.join(timeout=20)
    search.refresh_from_db()
    assert search.state == SearchState.CANCELLED and not starts(search)


def test_the_folder_stays_locked_while_an_engine_lives_that_lost_its_supervisor(tmp_path: Path) -> None:
    with folder_lock(tmp_path, seconds=1) as lock:
        command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        engine = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[lock])
    with pytest.raises(FolderBusy, match="another engine still uses"), folder_lock(tmp_path, seconds=0.2):
        pass
    engine.communicate()
    with folder_lock(tmp_path, seconds=1):
        pass


def test_a_deleted_data_set_fails_its_search_with_a_sentence(new_search: Callable[..., Search]) -> None:
    search = new_search(name="finishes")
    search.config["data"]["dataset"] = "upload:gone"
    search.save()
    run(search)
    assert search.state == SearchState.FAILED
    assert search.message == "data.dataset: the data set 'Digits' was deleted; upload it again"


def test_an_upload_is_packed(new_dataset: Callable[..., Dataset]) -> None:
    dataset = new_dataset()
    tasks.ingest_dataset(str(dataset.pk))
    dataset.refresh_from_db()
    assert (dataset.state, dataset.classes, dataset.images) == (DatasetState.READY, 2, 100)
    assert dataset.left_out == [{"file": "notes.jpg", "reason": "not an image"}] and dataset.left_out_total == 1
    assert selectors.dataset_class_rows(dataset) == [("cat", {"all": 60}, ["0-0.png"]), ("dog", {"all": 40}, [])]


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("bad", "no images were found; expected one folder a class"),
        ("empty", "there are no images; expected one folder a class"),
    ],
)
def test_bad_images_fail_with_the_engines_sentence_alone(
    new_dataset: Callable[..., Dataset], kind: str, sentence: str
) -> None:
    dataset = new_dataset()
    Dataset.objects.update(file=dataset.file.replace("cats", kind))
    tasks.ingest_dataset(str(dataset.pk))
    dataset.refresh_from_db()
    assert dataset.state == DatasetState.FAILED
    assert dataset.message == sentence


def test_facts_that_cannot_be_read_fail_with_a_sentence(new_dataset: Callable[..., Dataset]) -> None:
    dataset = new_dataset()
    Dataset.objects.update(file=dataset.file.replace("cats", "odd"))
    tasks.ingest_dataset(str(dataset.pk))
    dataset.refresh_from_db()
    assert dataset.state == DatasetState.FAILED
    assert dataset.message.startswith("The engine left no readable facts (these are not the facts of a data set")


def test_an_upload_delivered_twice_is_packed_once(new_dataset: Callable[..., Dataset]) -> None:
    dataset = new_dataset()
    tasks.ingest_dataset(str(dataset.pk))
    tasks.ingest_dataset(str(dataset.pk))
    dataset.refresh_from_db()
    assert dataset.attempt == 1


def test_a_data_set_that_is_deleted_while_it_is_packed_leaves_no_files(
    new_dataset: Callable[..., Dataset], settings: Any
) -> None:
    dataset = new_dataset()
    Dataset.objects.update(file=dataset.file.replace("cats", "slow"))
    timer = threading.Thread(target=_delete_when_packing, args=(dataset,))
    timer.start()
    tasks.ingest_dataset(str(dataset.pk))
    timer.join()
    assert not Dataset.objects.exists()
    assert not list((settings.MEDIA_ROOT / "packed").iterdir())
    assert not list((settings.MEDIA_ROOT / "uploads").iterdir())


def _delete_when_packing(dataset: Dataset) -> None:
    try:
        soon(lambda: Dataset.objects.get().fraction)
        services.dataset_delete(dataset=dataset)
    finally:
        connection.close()
