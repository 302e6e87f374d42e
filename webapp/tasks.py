"""The jobs: supervise a search's engine, pack an upload, look after what died. An interface, like a view.

A job gets an id, claims the row (or finds that somebody else has), and starts the engine as a process. Jobs
acknowledge early; what runs again is decided from the rows.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import UUID

from celery.exceptions import SoftTimeLimitExceeded
from django.conf import settings

from nasengine import events
from nasengine.errors import ConfigError, EngineError
from nasengine.spaces import imported
from nasengine.splits import DataFacts
from webapp import hooks, relay, selectors, services
from webapp.celery import app, worker_is_closing
from webapp.models import Dataset, Request, Search, Survey
from webapp.reaper import Reaper
from webapp.selectors import LOG, engine_config, fitting_batch_of, log_file, packed_folder, run_folder
from webapp.supervisor import Deadlines, Ended, FolderBusy, Wish, folder_lock, supervise
from webapp.surveys import Subject

REAPER = Reaper()
"""What it has seen before is known to this process alone."""
DONE, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 3
"""Exit codes of the engine."""
EVENT = '{"kind":'
"""What the line of an event begins with."""
REASON_LENGTH = 2000
TELL_SECONDS = 30
"""For one try to tell a webhook, more than its parts may take together; less than the pause before the next."""
SHARE_OF_ROOM = 0.9
"""Of the memory that an engine held when it was ended for it: what the next one is advised to need at most."""
BUSY = "The engine of an earlier attempt does not let go of its folder."


@app.task(name="webapp.tasks.run_search")
def run_search(search_id: str) -> None:
    """Runs a queued search to its end, or to its worker's."""
    search = services.search_claim(search_id=UUID(search_id))
    if search is None:
        return
    folder = run_folder(search.pk)
    try:
        config = json.dumps(engine_config(search), indent=2)
        selectors.bring_survey(search)
    except ConfigError as error:
        services.search_fail(search_id=search.pk, attempt=search.attempt, message=str(error), problems=error.problems)
        return
    said_last: list[events.Event] = []

    def ask() -> Wish:
        return _wish(services.search_beat(search_id=search.pk, attempt=search.attempt))

    try:
        with folder_lock(folder, seconds=settings.ENGINE_ORPHAN_SECONDS, goes_on=_beating(ask)) as lock:
            (folder / "config.json").write_text(config)
            ended = _run(
                ["search", str(folder / "config.json"), "--out", str(folder), "--supervised"],
                lock=lock,
                log=log_file(search.pk),
                hear=lambda lines: _store(search, lines, said_last),
                ask=ask,
            )
    except FolderBusy:
        services.search_interrupt(search_id=search.pk, attempt=search.attempt, reason=BUSY, is_loss=True)
    else:
        _conclude(search, ended, said_last)


@app.task(name="webapp.tasks.ingest_dataset")
def ingest_dataset(dataset_id: str) -> None:
    """Checks and packs an uploaded zip."""
    dataset = services.dataset_claim(dataset_id=UUID(dataset_id))
    if dataset is None:
        return
    folder = packed_folder(dataset.pk)
    zip_file = Path(settings.MEDIA_ROOT) / dataset.file
    said: dict[str, events.Event] = {}

    def ask() -> Wish:
        return _wish(Request.NONE if _beats(dataset) else None)

    command = ["pack", "--dataset", "zip", "--path", str(zip_file), "--image-size", str(settings.UPLOAD_IMAGE_SIZE)]
    try:
        with folder_lock(folder, seconds=settings.ENGINE_ORPHAN_SECONDS, goes_on=_beating(ask)) as lock:
            ended = _run(
                [*command, "--out", str(folder)],
                lock=lock,
                log=folder / LOG,
                hear=lambda lines: _note_packing(dataset, lines, said),
                ask=ask,
            )
    except FolderBusy:
        services.dataset_interrupt(dataset_id=dataset.pk, attempt=dataset.attempt, reason=BUSY, is_loss=True)
    else:
        _conclude_packing(dataset, ended, said, folder)


@app.task(name="webapp.tasks.look_at_model")
def look_at_model(survey_id: str) -> None:
    """Finds out what may be cut of a known model."""
    survey = services.survey_claim(survey_id=UUID(survey_id))
    if survey is None:
        return
    folder = selectors.survey_folder(survey.pk)
    said: list[events.Event] = []
    deadline = time.monotonic() + settings.SURVEY_SECONDS

    def ask() -> Wish:
        is_mine = services.survey_beat(survey_id=survey.pk, attempt=survey.attempt)
        return _wish(Request.NONE if is_mine and time.monotonic() < deadline else None)

    def hear(lines: list[str]) -> bool:
        said.extend(relay.parse(line for line in lines if line.startswith(EVENT)))
        return True

    shape = {"--classes": survey.classes, "--channels": survey.channels, "--image-size": survey.image_size}
    options = [str(word) for option in shape.items() for word in option]
    try:
        with folder_lock(folder, seconds=settings.ENGINE_ORPHAN_SECONDS, goes_on=_beating(ask)) as lock:
            ended = _run(
                ["model", f"{survey.library}:{survey.model}", *options, "--json"],
                lock=lock,
                log=folder / LOG,
                hear=hear,
                ask=ask,
            )
    except FolderBusy:
        services.survey_interrupt(survey_id=survey.pk, attempt=survey.attempt, reason=BUSY, is_loss=True)
    else:
        _conclude_survey(survey, ended, said)


@app.task(name="webapp.tasks.tell_webhook", soft_time_limit=TELL_SECONDS, time_limit=TELL_SECONDS + 15)
def tell_webhook(search_id: str) -> None:
    """Tells the owner's own program that a search has ended, once; what fails is due again later."""
    webhook = services.delivery_claim(search_id=UUID(search_id))
    if webhook is None:
        return
    search = Search.objects.get(pk=search_id)
    body = json.dumps(selectors.webhook_body(search, site=webhook.site)).encode()
    secret = hooks.secret_of(webhook.nonce)
    try:
        hooks.post(webhook.address, body, secret=secret, private=settings.WEBHOOK_PRIVATE)
    except hooks.Undelivered as reason:
        never = isinstance(reason, hooks.Forbidden)
        services.delivery_failed(search_id=search.pk, webhook=webhook, reason=str(reason), is_final=never)
    except SoftTimeLimitExceeded:
        late = f"It was not reached within {TELL_SECONDS} seconds."
        services.delivery_failed(search_id=search.pk, webhook=webhook, reason=late)
    else:
        services.delivery_done(search_id=search.pk, webhook=webhook)


@app.task(name="webapp.tasks.reap")
def reap() -> None:
    """By the clock: nothing that is shown as running is dead, nothing that waits is forgotten."""
    REAPER.reap()
    REAPER.resend_lost()


def _run(
    arguments: list[str], *, lock: int, log: Path, hear: Callable[[list[str]], bool], ask: Callable[[], Wish]
) -> Ended:
    with _closing() as is_closing:
        return supervise(
            [*settings.ENGINE_COMMAND, *arguments],
            cwd=settings.BASE_DIR,
            env=os.environ | {"COPPICE_CACHE": str(settings.ENGINE_CACHE), "PYTHONUNBUFFERED": "1"},
            lock=lock,
            log=log,
            hear=hear,
            ask=ask,
            ask_every=settings.HEARTBEAT_SECONDS,
            is_closing=is_closing,
            deadlines=Deadlines(
                cancel=settings.ENGINE_CANCEL_SECONDS,
                save=settings.ENGINE_SAVE_SECONDS,
                kill=settings.ENGINE_KILL_SECONDS,
            ),
        )


def _beating(ask: Callable[[], Wish]) -> Callable[[], bool]:
    """Shows signs of life while it waits for a folder; whether there is still something to wait for."""
    next_ask = time.monotonic()

    def goes_on() -> bool:
        nonlocal next_ask
        if time.monotonic() < next_ask:
            return True
        next_ask = time.monotonic() + settings.HEARTBEAT_SECONDS
        return ask() < Wish.CANCEL

    return goes_on


def _wish(requested: Request | None) -> Wish:
    """What the row says; None: it belongs to somebody else by now."""
    if requested is None:
        return Wish.DIE
    return Wish.GO_ON if requested == Request.NONE else Wish[requested.name]


@contextlib.contextmanager
def _closing() -> Iterator[Callable[[], bool]]:
    """Whether this worker is to end: by a word of its main process, or by a signal of its own."""
    signalled = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        signalled.set()

    if threading.current_thread() is not threading.main_thread():
        yield worker_is_closing
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: signalled.is_set() or worker_is_closing()
    finally:
        signal.signal(signal.SIGTERM, before)


def _store(search: Search, lines: list[str], said_last: list[events.Event]) -> bool:
    said = relay.parse(lines)
    said_last[:] = said[-1:] or said_last
    return relay.store(search_id=search.pk, attempt=search.attempt, said=said)


def _conclude(search: Search, ended: Ended, said_last: list[events.Event]) -> None:
    """What the engine's end means for its search; nothing, if the search is no longer this attempt's."""
    mine: dict[str, Any] = {"search_id": search.pk, "attempt": search.attempt}
    if ended.code == DONE:
        if not services.search_finish(**mine):
            services.search_fail(**mine, message=_reason("The engine ended without a result.", ended))
    elif ended.wish == Wish.CANCEL:
        services.search_end_cancelled(**mine)
    elif ended.wish == Wish.PAUSE and ended.code == STOPPED:
        if not services.search_end_paused(**mine):
            services.search_interrupt(**mine, reason="Its engine was stopped.", is_loss=False)
    elif ended.wish == Wish.SAVE:
        services.search_interrupt(**mine, reason="Its worker was shut down.", is_loss=False)
    elif ended.code == STOPPED:
        services.search_interrupt(**mine, reason="Its engine was stopped.", is_loss=True)
    elif ended.ran_out_of_memory:
        services.search_interrupt(**mine, reason=_starved(search, ended), is_loss=True)
    elif ended.code < 0:
        reason = f"Its engine was ended by signal {-ended.code} ({signal.strsignal(-ended.code)})."
        services.search_interrupt(**mine, reason=_reason(reason, ended), is_loss=True)
    else:
        last = said_last[-1] if said_last else None
        if isinstance(last, events.SearchFailed):
            services.search_fail(**mine, message=last.message, problems=last.problems)
        else:
            services.search_fail(**mine, message=_reason(f"The engine ended with exit status {ended.code}.", ended))


def _starved(search: Search, ended: Ended) -> str:
    fitting = fitting_batch_of(search, SHARE_OF_ROOM * ended.memory_mib)
    smaller = "a smaller space.model" if search.model_name else "fewer space.channels"
    batch = f"a search.batch_size of {fitting}, which should fit" if fitting else "half the search.batch_size"
    return (
        f"The machine ran out of memory and ended its engine, which held {ended.memory_mib / 1024:.1f} GB by then; if "
        f"it happens again, start a new search with {batch}, or with {smaller}."
    )


def _note_packing(dataset: Dataset, lines: list[str], said: dict[str, events.Event]) -> bool:
    said |= {event.kind: event for event in relay.parse(lines)}
    progress = said.get("data_progress")
    if isinstance(progress, events.DataProgress) and progress.total:
        return _beats(dataset, fraction=min(1.0, progress.done / progress.total))
    return _beats(dataset)


def _beats(dataset: Dataset, **changes: Any) -> bool:
    return services.dataset_beat(dataset_id=dataset.pk, attempt=dataset.attempt, **changes)


def _conclude_packing(dataset: Dataset, ended: Ended, said: dict[str, events.Event], folder: Path) -> None:
    mine: dict[str, Any] = {"dataset_id": dataset.pk, "attempt": dataset.attempt}
    ready, failed = said.get("data_ready"), said.get("search_failed")
    if ended.wish == Wish.DIE:
        if not Dataset.objects.filter(pk=dataset.pk).exists():
            services.dataset_files_delete(dataset=dataset)
    elif ended.code == DONE and isinstance(ready, events.DataReady):
        try:
            facts = DataFacts.from_json(json.loads((folder / "facts.json").read_text()))
        except (OSError, ValueError, EngineError) as error:
            services.dataset_fail(**mine, message=f"The engine left no readable facts ({error}); upload it again.")
            return
        services.dataset_ready(
            **mine, facts=facts.to_json(), left_out=ready.left_out, left_out_total=ready.left_out_total
        )
    elif ended.wish == Wish.SAVE:
        services.dataset_interrupt(**mine, reason="Its worker was shut down; it is packed anew.", is_loss=False)
    elif ended.code < 0 or ended.code == STOPPED:
        services.dataset_interrupt(**mine, reason=_reason("Its engine was stopped.", ended), is_loss=True)
    elif isinstance(failed, events.SearchFailed):
        sentences = "; ".join(sentence for _, sentence in failed.problems)  # the fields are those of a configuration
        services.dataset_fail(**mine, message=sentences or failed.message)
    else:
        services.dataset_fail(**mine, message=_reason(f"The engine ended with exit status {ended.code}.", ended))


def _conclude_survey(survey: Survey, ended: Ended, said: list[events.Event]) -> None:
    """What a survey says is for everybody, so the engine's last words, with paths of this machine, are not told."""
    mine: dict[str, Any] = {"survey_id": survey.pk, "attempt": survey.attempt}
    failed = next((event for event in said if isinstance(event, events.SearchFailed)), None)
    if ended.code == DONE:
        found = imported.survey(Subject.of_survey(survey).file)
        if found is None:
            services.survey_refuse(**mine, message="The engine ended without an answer.")
        else:
            services.survey_know(**mine, found=found)
    elif ended.wish == Wish.DIE:
        late = (
            f"What may be cut of it was not found out within {settings.SURVEY_SECONDS:.0f} seconds; take another model."
        )
        services.survey_refuse(**mine, message=late)
    elif ended.wish == Wish.SAVE:
        services.survey_interrupt(**mine, reason="Its worker was shut down.", is_loss=False)
    elif ended.ran_out_of_memory:
        large = "The machine ran out of memory while it was looked at; take a smaller model or smaller images."
        services.survey_refuse(**mine, message=large)
    elif ended.code < 0 or ended.code == STOPPED:
        services.survey_interrupt(**mine, reason="Its engine was stopped.", is_loss=True)
    elif failed is not None:
        services.survey_refuse(**mine, message="; ".join(text for _, text in failed.problems) or failed.message)
    else:
        services.survey_refuse(**mine, message=f"The engine ended with exit status {ended.code}.")


def _reason(sentence: str, ended: Ended) -> str:
    return f"{sentence}\nIts last words:\n{ended.tail[-REASON_LENGTH:]}" if ended.tail else sentence
