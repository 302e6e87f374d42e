"""Every write that a person or a worker may ask for.

A state is moved by a guarded update: filtered by the old state, exactly one row or somebody else was first. What a
worker writes carries its attempt. Messages and jobs go out after the commit.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import re
import secrets
import shutil
import socket
import uuid
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.core.files import File
from django.db import transaction
from django.db.models import F, QuerySet, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone
from kombu.exceptions import OperationalError

from nasengine import weights as weights_file
from nasengine.errors import ConfigError
from nasengine.events import SearchFailed
from webapp import descriptions, hooks, relay
from webapp.celery import app
from webapp.models import (
    DATASET_MOVES,
    HELD_STATES,
    LIVE_STATES,
    MOVES,
    RESULT,
    SURVEY_MOVES,
    SURVEYING_STATES,
    ApiToken,
    Artifact,
    Dataset,
    DatasetState,
    Delivery,
    Request,
    Search,
    SearchEvent,
    SearchState,
    ShareLink,
    SignInLink,
    Survey,
    SurveyState,
    Webhook,
    Weights,
    usual_name,
)
from webapp.selectors import Asked, packed_folder, run_folder, search_asked, share_links_of, token_hash
from webapp.surveys import Subject
from webapp.weight_files import weight_file

logger = logging.getLogger(__name__)

DEMO: dict[str, Any] = {
    "name": "Digits demo",
    "preset": "quick",
    "data": {"dataset": "digits"},
    "target": {"metric": "params", "value": "20%"},
    "retrain": {"epochs": 10},
}
"""Two minutes on two quiet processor cores. Half of a quick search's retraining: it may lack the last point."""
TOLD_STATES = (SearchState.FINISHED, SearchState.FAILED)
"""Of which webhooks are told."""
PAUSES = (60, 300, 60)
"""Seconds after each try before the next is due. After the last it is given up; longer than a try takes."""
REFUSAL_KEPT = timedelta(hours=1)
"""How long it is taken for granted that a model cannot be searched; memory or a download may be there by then."""
PICKLED = re.compile(rb"PK\x03\x04.{26}[^\0]{1,99}/data\.pkl|\x80[\x02-\x05]", re.DOTALL)
"""How files of torch.save begin: zips of a pickle, or formerly pickles."""
PICKLED_SUFFIXES = (".pt", ".pth", ".pkl", ".ckpt", ".bin")
CONVERT = (
    "import torch; from safetensors.torch import save_file; "
    "save_file(torch.load('model.pt', map_location='cpu', weights_only=True), 'model.safetensors')"
)
PICKLE_SENTENCE = (
    "is a pickle, which may run anything when it is opened, so it is not opened here; convert it where you trust it: "
    f'python -c "{CONVERT}" (of a checkpoint that holds more than the weights, its state dict alone)'
)
ENDED_STATES = tuple(state for state in SearchState if state not in LIVE_STATES)


class Refused(Exception):
    """Something that cannot be done now; its text is meant for people."""


# Searches: what a person asks


def search_create(*, owner: User, asked: Asked) -> Search:
    """A new search, queued.

    Raises:
        ConfigError: if the target is out of reach, with the sentences of the command line.
    """
    if asked.outlook.problems:
        raise ConfigError(asked.outlook.problems)
    config, label = asked.stored(), asked.dataset_label
    with transaction.atomic():
        if asked.dataset and not Dataset.objects.select_for_update().filter(pk=asked.dataset.pk).exists():
            raise ConfigError.at("data.dataset", f"the data set '{label}' was deleted meanwhile; choose another")
        if asked.weights and not Weights.objects.select_for_update().filter(pk=asked.weights.pk).exists():
            gone = f"the weights '{asked.weights_label}' were deleted meanwhile; choose others"
            named = weight_file(config)
            raise ConfigError.at(named.dotted if named else "", gone)
        search = Search.objects.create(
            owner=owner,
            name=config["name"] or usual_name(label, config["target"]),
            config=config,
            dataset=asked.dataset,
            dataset_label=label,
            weights=asked.weights,
            weights_label=asked.weights_label,
            queued_at=timezone.now(),
        )
        enqueue("webapp.tasks.run_search", search.pk)
    return search


def search_demo(*, owner: User) -> Search:
    """The demo: a search of this user's, or the one that is under way."""
    asked = search_asked(owner=owner, raw=DEMO)
    under_way = Search.objects.filter(owner=owner, state__in=LIVE_STATES, config=asked.stored()).first()
    return under_way or search_create(owner=owner, asked=asked)


def search_describe(
    *, search: Search, name: str | None = None, note: str | None = None, tags: Sequence[str] | None = None
) -> None:
    """Gives a search a name, a note and tags; what is None stays. Its configuration keeps the name it was begun with.

    Raises:
        ConfigError: with a sentence for each of them that cannot be.
    """
    changes = descriptions.described(name=name, note=note, tags=tags)
    if changes:
        Search.objects.filter(pk=search.pk).update(**changes)


def search_cancel(*, search: Search) -> None:
    """Ends a search without a result: at once while it waits, else as soon as its engine obeys.

    Raises:
        Refused: if it has already ended.
    """
    for _ in range(3):  # it may go from queued to running, or back, in between
        waiting = (SearchState.QUEUED, SearchState.PAUSED, SearchState.INTERRUPTED)
        if search_move(search_id=search.pk, old=waiting, new=SearchState.CANCELLED):
            return
        if Search.objects.filter(pk=search.pk, state__in=HELD_STATES).update(requested=Request.CANCEL):
            transaction.on_commit(lambda: relay.ring(search.pk))
            return
    raise Refused(f"'{search.name}' has already ended; there is nothing to cancel.")


def search_pause(*, search: Search) -> None:
    """Lets a search wait, saved, until it is resumed: at once while it is queued, else as soon as its engine has saved.

    Raises:
        Refused: if it does not run or wait, or is about to end.
    """
    for _ in range(3):
        waiting = (SearchState.QUEUED, SearchState.INTERRUPTED)
        if search_move(search_id=search.pk, old=waiting, new=SearchState.PAUSED, message=""):
            return
        if search_move(
            search_id=search.pk, old=SearchState.RUNNING, new=SearchState.PAUSING, asking=Request.NONE,
            requested=Request.PAUSE,
        ):  # fmt: skip
            return
    search.refresh_from_db()
    raise Refused(f"'{search.name}' is {search.state_label.lower()}; only what runs or waits can be paused.")


def search_resume(*, search: Search) -> None:
    """Queues a paused search again; it goes on where it was.

    Raises:
        Refused: if it is not paused.
    """
    if not _queue_again(search):
        search.refresh_from_db()
        raise Refused(f"'{search.name}' is {search.state_label.lower()}; only what is paused can be resumed.")


def search_stop(*, search: Search) -> None:
    """Ends the search part early: the network found so far is trained and published.

    Raises:
        Refused: if it has not begun, or that part is over.
    """
    _end_early(search, Request.STOP)


def search_keep(*, search: Search) -> None:
    """Ends the training, too: the network is published as it is.

    Raises:
        Refused: if it has not begun, or is over.
    """
    _end_early(search, Request.FINISH)


def _end_early(search: Search, wanted: Request) -> None:
    for _ in range(3):  # it may move in between
        search.refresh_from_db()
        if not search.can_end_early or (wanted == Request.STOP and not search.can_stop):
            break
        match search.state:
            case SearchState.RUNNING:
                asking = Request(search.requested)
                done = search_move(
                    search_id=search.pk, old=SearchState.RUNNING, new=SearchState.STOPPING, asking=asking,
                    requested=wanted,
                )  # fmt: skip
            case SearchState.PAUSED:
                done = _queue_again(search, requested=wanted)
            case _:  # it is stopping, or waits to go on
                same = Search.objects.filter(pk=search.pk, state=search.state, requested=search.requested)
                done = same.update(requested=wanted) == 1
        if done:
            transaction.on_commit(lambda: relay.ring(search.pk))
            return
    if search.is_finished:
        raise Refused(f"'{search.name}' has already ended; there is nothing to stop.")
    if not search.attempt:
        raise Refused(f"'{search.name}' has not begun, so there is nothing to keep; cancel it instead.")
    if search.is_training and wanted == Request.STOP:
        raise Refused(f"'{search.name}' has found its network and trains it; keep it as it is, or wait.")
    raise Refused(f"'{search.name}' is {search.state_label.lower()} already.")


WISHES = {
    "cancel": search_cancel,
    "pause": search_pause,
    "resume": search_resume,
    "stop": search_stop,
    "keep": search_keep,
}
"""What the owner of a search may ask of it."""


def _queue_again(search: Search, **changes: Any) -> bool:
    with transaction.atomic():
        moved = search_move(
            search_id=search.pk,
            old=SearchState.PAUSED,
            new=SearchState.QUEUED,
            message="",
            queued_at=timezone.now(),
            **changes,
        )
        if moved:
            enqueue("webapp.tasks.run_search", search.pk)
    return moved


def search_delete(*, search: Search) -> None:
    """Removes a search that has ended, with all its files.

    Raises:
        Refused: while it is live.
    """
    folder = run_folder(search.pk)
    with transaction.atomic():
        deleted, _ = Search.objects.filter(pk=search.pk, state__in=ENDED_STATES).delete()
        if not deleted:
            raise Refused(f"'{search.name}' has not ended yet; cancel it first, then delete it.")
        transaction.on_commit(lambda: shutil.rmtree(folder, ignore_errors=True))
        transaction.on_commit(lambda: relay.ring(search.pk))


def search_share(*, search: Search, days: int) -> str:
    """The token of a link that shows the search, and nothing else, for so many days; it is told this once.

    Raises:
        Refused: if it is shown by as many links as may be.
    """
    if share_links_of(search).count() >= settings.MAX_SHARE_LINKS:
        raise Refused(f"'{search.name}' has {settings.MAX_SHARE_LINKS} links; revoke one that is not needed any more.")
    token = secrets.token_urlsafe(32)
    expires_at = timezone.now() + timedelta(days=days)
    ShareLink.objects.create(token_hash=token_hash(token), search=search, expires_at=expires_at)
    return token


def share_link_revoke(*, link: ShareLink) -> None:
    """From now on it shows nothing; pages that it has opened are closed."""
    search_id = link.search_id
    link.delete()
    transaction.on_commit(lambda: relay.ring(search_id))


# Searches: what a worker reports


def search_move(
    *,
    search_id: UUID,
    old: SearchState | Collection[SearchState],
    new: SearchState,
    fence: int | None = None,
    asking: Request | None = None,
    **changes: Any,
) -> bool:
    """Moves a search from one state to another if it is (still) there; the only place that writes a search's state.

    Args:
        old: the state, or several, that it may be in.
        fence: the attempt that asks; another attempt's search is left alone.
        asking: only if this is what its owner asks for now.
    """
    olds = (old,) if isinstance(old, SearchState) else tuple(old)
    for state in olds:
        if new not in MOVES[state]:
            allowed = ", ".join(MOVES[state]) or "nothing"
            raise ValueError(f"a search does not go from {state} to {new}; allowed: {allowed}")
    rows = Search.objects.filter(pk=search_id, state__in=olds)
    if asking is not None:
        rows = rows.filter(requested=asking)
    if new in ENDED_STATES:
        changes |= {"finished_at": timezone.now(), "eta_seconds": None}
    with transaction.atomic():
        moved = _moved(rows, new, fence, changes)
        if moved and new in TOLD_STATES and Webhook.objects.filter(user__searches=search_id).exists():
            Delivery.objects.create(search_id=search_id, due_at=timezone.now())
            enqueue("webapp.tasks.tell_webhook", search_id)
        if moved:
            transaction.on_commit(lambda: relay.ring(search_id))
    return moved


def search_claim(*, search_id: UUID) -> Search | None:
    """Takes a queued search for this process; None if it is not queued, so that a second delivery changes nothing."""
    now = timezone.now()
    with transaction.atomic():
        claimed = search_move(
            search_id=search_id,
            old=SearchState.QUEUED,
            new=SearchState.RUNNING,
            attempt=F("attempt") + 1,
            message="",
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=Coalesce(F("started_at"), now),
            heartbeat_at=now,
        )
        if not claimed:
            return None
        search = Search.objects.select_related("dataset", "weights").get(pk=search_id)
        if search.requested in (Request.STOP, Request.FINISH):  # its engine is told again
            search_move(search_id=search_id, old=SearchState.RUNNING, new=SearchState.STOPPING)
        return search


def search_beat(*, search_id: UUID, attempt: int) -> Request | None:
    """Says that the attempt is alive, and hears what its owner asks; None if the search is no longer its own."""
    current = Search.objects.filter(pk=search_id, attempt=attempt, state__in=HELD_STATES)
    if not current.update(heartbeat_at=timezone.now()):
        return None
    requested = current.values_list("requested", flat=True).first()
    return None if requested is None else Request(requested)


def search_finish(*, search_id: UUID, attempt: int) -> bool:
    """Publishes the networks that were announced; False if the main one never was, or the attempt is not current."""
    with transaction.atomic():
        said = SearchEvent.objects.filter(search_id=search_id, kind="result_ready").order_by("seq")
        ready = {payload.get("folder", RESULT): payload for payload in said.values_list("payload", flat=True)}
        if RESULT not in ready:
            return False
        report = ready[RESULT]["report"]
        moved = search_move(
            search_id=search_id,
            old=HELD_STATES,
            new=SearchState.FINISHED,
            fence=attempt,
            report=report,
            ended_early=report.get("ended_early", []),
            fraction=1.0,
            stage="",
            **_found_size(report),
        )
        if moved:
            Artifact.objects.bulk_create(
                Artifact(
                    search_id=search_id,
                    name=Artifact.name_of(folder, file["name"]),
                    bytes=file["bytes"],
                    sha256=file["sha256"],
                )
                for folder, payload in ready.items()
                for file in payload["files"]
            )
        return moved


def search_fail(*, search_id: UUID, attempt: int, message: str, problems: Iterable[Iterable[str]] = ()) -> bool:
    """Ends the attempt's search with the reason."""
    given = [list(problem) for problem in problems]
    with transaction.atomic():
        _tell_failure(search_id, attempt, message, given)
        return search_move(
            search_id=search_id,
            old=HELD_STATES,
            new=SearchState.FAILED,
            fence=attempt,
            message=message,
            problems=given,
        )


def _tell_failure(search_id: UUID, attempt: int, message: str, problems: list[list[str]]) -> None:
    """Says it among the events, unless the engine did so itself: one that crashed could not."""
    if not SearchEvent.objects.filter(search_id=search_id, attempt=attempt, kind=SearchFailed.kind).exists():
        failed = SearchFailed(error="", message=message, problems=problems)
        relay.store(search_id=search_id, attempt=attempt, said=[failed])


def search_end_cancelled(*, search_id: UUID, attempt: int) -> bool:
    """The engine obeyed its owner."""
    return search_move(search_id=search_id, old=HELD_STATES, new=SearchState.CANCELLED, fence=attempt)


def search_end_paused(*, search_id: UUID, attempt: int) -> bool:
    """The engine has saved and freed its device; False if its owner asks for something else by now."""
    return search_move(
        search_id=search_id,
        old=SearchState.PAUSING,
        new=SearchState.PAUSED,
        fence=attempt,
        asking=Request.PAUSE,
        requested=Request.NONE,
        eta_seconds=None,
    )


def search_interrupt(
    *, search_id: UUID, attempt: int, reason: str, is_loss: bool, last_beat: datetime | None = None
) -> bool:
    """Queues a search again whose attempt ended early; gives up after too many losses without progress.

    Args:
        is_loss: whether the attempt died; an orderly shutdown is none.
        last_beat: only if this is still its last heartbeat.
    """
    with transaction.atomic():
        rows = Search.objects.select_for_update().filter(pk=search_id, attempt=attempt, state__in=HELD_STATES)
        if last_beat is not None:
            rows = rows.filter(heartbeat_at=last_beat)
        search = rows.first()
        if search is None:
            return False
        losses = search.losses + is_loss
        interrupted = SearchState.INTERRUPTED
        is_given_up = losses >= settings.MAX_LOSSES and search.requested != Request.CANCEL
        given_up = f"{reason} Given up after {losses} attempts without progress."
        if is_given_up:
            _tell_failure(search_id, attempt, given_up, [])
        search_move(search_id=search_id, old=HELD_STATES, new=interrupted, fence=attempt, losses=losses)
        if search.requested == Request.CANCEL:
            search_move(search_id=search_id, old=interrupted, new=SearchState.CANCELLED)
        elif is_given_up:
            search_move(search_id=search_id, old=interrupted, new=SearchState.FAILED, message=given_up)
        elif search.requested == Request.PAUSE:
            search_move(
                search_id=search_id, old=interrupted, new=SearchState.PAUSED, requested=Request.NONE, eta_seconds=None,
                message=reason,
            )  # fmt: skip
        else:
            message = f"{reason} It goes on from its last checkpoint."
            now = timezone.now()
            search_move(search_id=search_id, old=interrupted, new=SearchState.QUEUED, message=message, queued_at=now)
            enqueue("webapp.tasks.run_search", search_id)
        return True


# Data sets


def dataset_upload(*, owner: User, name: str, file: File[bytes]) -> Dataset:
    """A new data set from an uploaded zip; a worker checks and packs it.

    Raises:
        Refused: if it is too large, no zip file, or more than the user may keep.
    """
    given, dataset_id = Path(file.name or "images.zip").name, uuid.uuid4()
    with _place("uploads", dataset_id, given, ".zip") as path:
        sha256, size = _save_zip(file, path, given)
        with transaction.atomic():
            _refuse_over_quota(owner, given, size)
            dataset = Dataset.objects.create(
                id=dataset_id,
                owner=owner,
                name=name.strip()[:80] or Path(given).stem[:80] or "Images",
                file=path.relative_to(settings.MEDIA_ROOT).as_posix(),
                sha256=sha256,
                bytes=size,
                queued_at=timezone.now(),
            )
            enqueue("webapp.tasks.ingest_dataset", dataset.pk)
    return dataset


def dataset_delete(*, dataset: Dataset) -> None:
    """Removes a data set with its files; what was found on it stays.

    Raises:
        Refused: while a live search uses it.
    """
    _upload_delete(dataset, "is", lambda: dataset_files_delete(dataset=dataset))


def dataset_files_delete(*, dataset: Dataset) -> None:
    """Removes the files of a data set whose row is gone; the packed images only if nobody else uploaded the same."""
    shutil.rmtree((Path(settings.MEDIA_ROOT) / dataset.file).parent, ignore_errors=True)
    shutil.rmtree(packed_folder(dataset.pk), ignore_errors=True)
    if not Dataset.objects.filter(sha256=dataset.sha256).exists():
        for packed in (Path(settings.ENGINE_CACHE) / "packed").glob(f"{dataset.sha256}-*.npz*"):
            packed.unlink(missing_ok=True)


def dataset_move(
    *, dataset_id: UUID, old: DatasetState, new: DatasetState, fence: int | None = None, **changes: Any
) -> bool:
    """Moves a data set from one state to another if it is (still) there; the only place that writes its state."""
    if new not in DATASET_MOVES[old]:
        raise ValueError(f"a data set does not go from {old} to {new}")
    return _moved(Dataset.objects.filter(pk=dataset_id, state=old), new, fence, changes)


def _moved(rows: QuerySet[Any], new: str, fence: int | None, changes: dict[str, Any]) -> bool:
    """Whether the row was there to be moved; with a fence, only of that attempt."""
    if fence is not None:
        rows = rows.filter(attempt=fence)
    return rows.update(state=new, **changes) == 1


def dataset_claim(*, dataset_id: UUID) -> Dataset | None:
    """Takes an uploaded data set for this process; None if it is not waiting."""
    with transaction.atomic():
        claimed = dataset_move(
            dataset_id=dataset_id,
            old=DatasetState.UPLOADED,
            new=DatasetState.PACKING,
            attempt=F("attempt") + 1,
            message="",
            fraction=0,
            heartbeat_at=timezone.now(),
        )
        return Dataset.objects.get(pk=dataset_id) if claimed else None


def dataset_beat(*, dataset_id: UUID, attempt: int, **changes: Any) -> bool:
    """Says that the packing attempt is alive, and how far it is; False if the data set is no longer its own."""
    current = Dataset.objects.filter(pk=dataset_id, attempt=attempt, state=DatasetState.PACKING)
    return current.update(heartbeat_at=timezone.now(), **changes) == 1


def dataset_ready(
    *, dataset_id: UUID, attempt: int, facts: dict[str, Any], left_out: list[dict[str, str]], left_out_total: int
) -> bool:
    """The images are packed."""
    return dataset_move(
        dataset_id=dataset_id,
        old=DatasetState.PACKING,
        new=DatasetState.READY,
        fence=attempt,
        facts=facts,
        left_out=left_out,
        left_out_total=left_out_total,
        fraction=1.0,
    )


def dataset_fail(*, dataset_id: UUID, attempt: int, message: str) -> bool:
    """The images cannot be used, for this reason."""
    packing, failed = DatasetState.PACKING, DatasetState.FAILED
    return dataset_move(dataset_id=dataset_id, old=packing, new=failed, fence=attempt, message=message)


def dataset_interrupt(
    *, dataset_id: UUID, attempt: int, reason: str, is_loss: bool, last_beat: datetime | None = None
) -> bool:
    """Queues a data set again whose packing ended early; gives up after too many losses."""
    with transaction.atomic():
        rows = Dataset.objects.select_for_update().filter(pk=dataset_id, attempt=attempt, state=DatasetState.PACKING)
        if last_beat is not None:
            rows = rows.filter(heartbeat_at=last_beat)
        dataset = rows.first()
        if dataset is None:
            return False
        losses = dataset.losses + is_loss
        old = DatasetState.PACKING
        if losses >= settings.MAX_LOSSES:
            message = f"{reason} Given up after {losses} attempts."
            return dataset_move(
                dataset_id=dataset_id, old=old, new=DatasetState.FAILED, fence=attempt, message=message, losses=losses
            )
        enqueue("webapp.tasks.ingest_dataset", dataset_id)
        return dataset_move(
            dataset_id=dataset_id,
            old=old,
            new=DatasetState.UPLOADED,
            fence=attempt,
            message=reason,
            losses=losses,
            queued_at=timezone.now(),
        )


# Weights


def weights_upload(*, owner: User, name: str, file: File[bytes]) -> Weights:
    """New weights from an uploaded safetensors file; nothing is written before its header was read.

    Raises:
        Refused: if it is too large, no whole safetensors file, or more than the user may keep.
    """
    given, weights_id = Path(file.name or "weights.safetensors").name, uuid.uuid4()
    if file.size > settings.WEIGHTS_MAX_BYTES:
        allowed = f"the {settings.WEIGHTS_MAX_BYTES / 2**20:,.0f} MB that weights may have"
        raise Refused(f"'{given}' is larger than {allowed}; save the state dict alone, in float32 or float16.")
    shapes = _shapes(file, given)
    with _place("weights", weights_id, given, ".safetensors") as path:
        with path.open("wb") as target:
            for chunk in file.chunks(1 << 20):
                target.write(chunk)
        with transaction.atomic():
            _refuse_over_quota(owner, given, file.size)
            return Weights.objects.create(
                id=weights_id,
                owner=owner,
                name=name.strip()[:80] or Path(given).stem[:80] or "Weights",
                file=path.relative_to(settings.MEDIA_ROOT).as_posix(),
                bytes=file.size,
                tensors=len(shapes),
                parameters=sum(map(math.prod, shapes.values())),
            )


def weights_delete(*, weights: Weights) -> None:
    """Removes weights with their file; what was found with them stays.

    Raises:
        Refused: while a live search uses them.
    """
    folder = (Path(settings.MEDIA_ROOT) / weights.file).parent
    _upload_delete(weights, "are", lambda: shutil.rmtree(folder, ignore_errors=True))


# What may be cut of known models


def survey_want(*, owner: User, subject: Subject, again: bool = False) -> Survey:
    """The survey of a model: what is known, or the look that is asked for now. Whoever asks alike gets the same.

    Args:
        again: whether a refusal is to be looked at anew; one that is old is in any case.

    Raises:
        Refused: if as many models are looked at for this user as may be.
    """
    with transaction.atomic():
        survey = Survey.objects.select_for_update().filter(**asdict(subject)).first()
        if survey is None:
            _refuse_many_surveys(owner)
            new = {"asked_by": owner, "queued_at": timezone.now()}
            survey, is_new = Survey.objects.get_or_create(**asdict(subject), defaults=new)
            if is_new:
                enqueue("webapp.tasks.look_at_model", survey.pk)
        elif _is_to_look_again(survey, again=again):
            _refuse_many_surveys(owner)
            moved = survey_move(
                survey_id=survey.pk, old=SurveyState(survey.state), new=SurveyState.WAITING, asked_by=owner, losses=0,
                message="", queued_at=timezone.now(),
            )  # fmt: skip
            if moved:
                enqueue("webapp.tasks.look_at_model", survey.pk)
            survey.refresh_from_db()
        return survey


def _is_to_look_again(survey: Survey, *, again: bool) -> bool:
    if survey.state == SurveyState.REFUSED:
        is_old = survey.heartbeat_at is None or timezone.now() - survey.heartbeat_at > REFUSAL_KEPT
        return again or is_old
    return survey.state == SurveyState.KNOWN and not survey.is_readable


def _refuse_many_surveys(owner: User) -> None:
    under_way = Survey.objects.filter(asked_by=owner, state__in=SURVEYING_STATES).count()
    if under_way >= settings.MAX_SURVEYS:
        raise Refused(
            f"As many models as may be ({under_way}) are looked at for you already; wait until one of them is done."
        )


def survey_move(
    *, survey_id: UUID, old: SurveyState, new: SurveyState, fence: int | None = None, **changes: Any
) -> bool:
    """Moves a survey from one state to another if it is (still) there; the only place that writes its state."""
    if new not in SURVEY_MOVES[old]:
        raise ValueError(f"a survey does not go from {old} to {new}")
    return _moved(Survey.objects.filter(pk=survey_id, state=old), new, fence, changes)


def survey_claim(*, survey_id: UUID) -> Survey | None:
    """Takes a survey that waits for this process; None if it does not wait."""
    with transaction.atomic():
        claimed = survey_move(
            survey_id=survey_id, old=SurveyState.WAITING, new=SurveyState.LOOKING, attempt=F("attempt") + 1,
            heartbeat_at=timezone.now(),
        )  # fmt: skip
        return Survey.objects.get(pk=survey_id) if claimed else None


def survey_beat(*, survey_id: UUID, attempt: int) -> bool:
    """Says that somebody looks; False if the survey is no longer its own."""
    current = Survey.objects.filter(pk=survey_id, attempt=attempt, state=SurveyState.LOOKING)
    return current.update(heartbeat_at=timezone.now()) == 1


def survey_know(*, survey_id: UUID, attempt: int, found: dict[str, Any]) -> bool:
    """It is known what may be cut."""
    looking, known = SurveyState.LOOKING, SurveyState.KNOWN
    return survey_move(survey_id=survey_id, old=looking, new=known, fence=attempt, found=found, message="")


def survey_refuse(*, survey_id: UUID, attempt: int, message: str) -> bool:
    """The model cannot be searched, for this reason."""
    looking, refused, now = SurveyState.LOOKING, SurveyState.REFUSED, timezone.now()
    return survey_move(survey_id=survey_id, old=looking, new=refused, fence=attempt, message=message, heartbeat_at=now)


def survey_interrupt(
    *, survey_id: UUID, attempt: int, reason: str, is_loss: bool, last_beat: datetime | None = None
) -> bool:
    """Lets a survey wait again whose worker ended early; gives up after too many losses."""
    with transaction.atomic():
        rows = Survey.objects.select_for_update().filter(pk=survey_id, attempt=attempt, state=SurveyState.LOOKING)
        if last_beat is not None:
            rows = rows.filter(heartbeat_at=last_beat)
        survey = rows.first()
        if survey is None:
            return False
        losses = survey.losses + is_loss
        if losses >= settings.MAX_LOSSES:
            return survey_refuse(
                survey_id=survey_id, attempt=attempt, message=f"{reason} Given up after {losses} attempts."
            )
        enqueue("webapp.tasks.look_at_model", survey_id)
        return survey_move(
            survey_id=survey_id, old=SurveyState.LOOKING, new=SurveyState.WAITING, fence=attempt, losses=losses,
            queued_at=timezone.now(),
        )  # fmt: skip


@contextlib.contextmanager
def _place(kind: str, pk: UUID, given: str, suffix: str) -> Iterator[Path]:
    """Where an upload goes, by a harmless name in a new folder of its own, which is gone if that fails."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(given).stem).strip("-.")[:60] or kind
    path = Path(settings.MEDIA_ROOT) / kind / str(pk) / f"{stem}{suffix}"
    path.parent.mkdir(parents=True)
    try:
        yield path
    except BaseException:
        shutil.rmtree(path.parent, ignore_errors=True)
        raise


def _refuse_over_quota(owner: User, given: str, size: int) -> None:
    User.objects.select_for_update().get(pk=owner.pk)  # of two uploads at once one counts the other
    kept = sum(mine.aggregate(total=Sum("bytes"))["total"] or 0 for mine in (owner.datasets, owner.weights))
    quota = settings.UPLOAD_QUOTA_BYTES
    if kept + size > quota:
        raise Refused(
            f"'{given}' has {size / 2**20:,.0f} MB, but of the {quota / 2**20:,.0f} MB that you may keep only "
            f"{max(0, quota - kept) / 2**20:,.0f} are free; delete a data set or weights first."
        )


def _upload_delete(upload: Dataset | Weights, verb: str, remove_files: Callable[[], None]) -> None:
    """Removes the row, and then the files, unless a live search uses them."""
    with transaction.atomic():
        own = type(upload)._default_manager.filter(pk=upload.pk)
        own.select_for_update().first()
        using = upload.searches.filter(state__in=LIVE_STATES).first()
        if using is not None:
            raise Refused(f"'{upload.name}' {verb} used by the search '{using.name}'; cancel it or wait until it ends.")
        own.delete()
        transaction.on_commit(remove_files)


def _shapes(file: File[bytes], given: str) -> dict[str, tuple[int, ...]]:
    """What the tensors in an upload are called and which shapes they have; nothing else of it is read."""
    stream: IO[bytes] = file.file  # type: ignore[assignment]  # an upload has one
    try:
        return weights_file.shapes(stream)
    except ValueError as reason:
        stream.seek(0)
        if Path(given).suffix.lower() in PICKLED_SUFFIXES or PICKLED.match(stream.read(200)):
            raise Refused(f"'{given}' {PICKLE_SENTENCE}") from None
        raise Refused(
            f"'{given}' cannot be read as a safetensors file ({reason}); save your model's state dict as one: "
            "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
        ) from None


def _save_zip(file: File[bytes], path: Path, given: str) -> tuple[str, int]:
    """(sha256, bytes) of the upload, now at `path`."""
    limit = settings.UPLOAD_MAX_BYTES
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as target:
        for chunk in file.chunks(1 << 20):
            size += len(chunk)
            if size > limit:
                allowed = f"the {limit / 2**20:,.0f} MB that may be uploaded"
                raise Refused(f"'{given}' is larger than {allowed}; leave images out or shrink them.")
            digest.update(chunk)
            target.write(chunk)
    with path.open("rb") as saved:
        starts_like_a_zip = saved.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    if not (starts_like_a_zip and zipfile.is_zipfile(path)):
        raise Refused(f"'{given}' is not a zip file; put the class folders into one and upload that.")
    return digest.hexdigest(), size


def _found_size(report: dict[str, Any]) -> dict[str, Any]:
    """Of the main network: the search may have ended with that of a further target."""
    metric = report.get("target", {}).get("metric")
    size = report.get("achieved", {}).get(metric)
    return {} if size is None else {"size": size}


def enqueue(task: str, pk: UUID) -> None:
    """Sends the job after the commit. If the broker is away the row waits, and the reaper sends it when it is back."""

    def send() -> None:
        try:
            app.send_task(task, [str(pk)])
        except OperationalError as error:
            logger.warning("%s of %s waits for the broker: %s", task, pk, error)

    transaction.on_commit(send)


# People


def local_owner() -> User:
    """The account of whoever runs this installation on their own machine; it signs in by link alone."""
    owner, created = get_user_model().objects.get_or_create(
        username="owner", defaults={"is_staff": True, "is_superuser": True}
    )
    if created:
        owner.set_unusable_password()
        owner.save(update_fields=["password"])
    return owner


def sign_in_link_create(*, user: User) -> str:
    """The token of a link that signs the user in once, soon."""
    token = secrets.token_urlsafe(32)
    expires_at = timezone.now() + timedelta(minutes=settings.SIGN_IN_MINUTES)
    SignInLink.objects.create(token_hash=token_hash(token), user=user, expires_at=expires_at)
    return token


def sign_in_link_use(*, token: str) -> User | None:
    """The user whom the token signs in; None if it is unknown, used or too old."""
    now = timezone.now()
    rows = SignInLink.objects.filter(
        token_hash=token_hash(token), used_at=None, expires_at__gt=now, user__is_active=True
    )
    if rows.update(used_at=now) != 1:
        return None
    return SignInLink.objects.select_related("user").get(token_hash=token_hash(token)).user


def api_token_create(*, user: User, name: str) -> str:
    """A token that lets a script act as the user; this is the only time that it is told.

    Raises:
        Refused: if the user has as many as anybody may.
    """
    if user.api_tokens.count() >= settings.MAX_API_TOKENS:
        raise Refused(f"You have {settings.MAX_API_TOKENS} tokens; revoke one that is not needed any more.")
    token = f"coppice_{secrets.token_urlsafe(32)}"
    ApiToken.objects.create(token_hash=token_hash(token), user=user, name=name)
    return token


def api_token_user(*, token: str) -> User | None:
    """Whom the token speaks for; None if it is unknown, revoked or its user was shut out."""
    rows = ApiToken.objects.filter(token_hash=token_hash(token), user__is_active=True)
    found = rows.select_related("user").first()
    if found is None:
        return None
    now = timezone.now()
    if found.used_at is None or now - found.used_at > timedelta(minutes=1):
        rows.update(used_at=now)
    return found.user


def webhook_set(*, user: User, address: str, site: str) -> str:
    """From now on the address is told of the user's searches that end; the secret that signs it is told this once.

    Raises:
        Refused: if it is no address that may be told.
    """
    try:
        hooks.check(address, private=settings.WEBHOOK_PRIVATE)
    except (hooks.Forbidden, hooks.LeadsInside) as reason:
        raise Refused(f"Nothing was changed: {reason}") from None
    nonce = secrets.token_hex(32)
    new = {"address": address, "nonce": nonce, "site": site, "told_at": None, "problem": ""}
    with transaction.atomic():
        Delivery.objects.filter(search__owner=user).update(tries=0)  # those were tried elsewhere
        Webhook.objects.update_or_create(user=user, defaults=new)
    return hooks.secret_of(nonce)


def webhook_remove(*, user: User) -> None:
    """Nobody is told any more, not even of what has ended already."""
    Webhook.objects.filter(user=user).delete()
    Delivery.objects.filter(search__owner=user).delete()


def delivery_claim(*, search_id: UUID) -> Webhook | None:
    """Takes the next try for this process, with whom to tell; None if none is due, so that two never try at once.

    What was tried as often as may be, by processes that all died, is given up.
    """
    now = timezone.now()
    with transaction.atomic():
        due = Delivery.objects.select_for_update().filter(search=search_id, due_at__lte=now).first()
        webhook = Webhook.objects.filter(user__searches=search_id).first()
        if due is None:
            return None
        if webhook is None:  # removed just when the search ended
            due.delete()
            return None
        if due.tries >= len(PAUSES):
            delivery_failed(search_id=search_id, webhook=webhook, reason="The worker that told it died.")
            return None
        pause = timedelta(seconds=PAUSES[due.tries])
        Delivery.objects.filter(pk=due.pk).update(tries=due.tries + 1, due_at=now + pause)
        return webhook


def delivery_done(*, search_id: UUID, webhook: Webhook) -> None:
    """It was taken."""
    Delivery.objects.filter(search=search_id).delete()
    Webhook.objects.filter(pk=webhook.pk, nonce=webhook.nonce).update(told_at=timezone.now(), problem="")


def delivery_failed(*, search_id: UUID, webhook: Webhook, reason: str, is_final: bool = False) -> None:
    """It was not taken: said on the page at once, and given up after the last try, unless the address is another now.

    Args:
        is_final: whether another try would not change that.
    """
    with transaction.atomic():
        tried = Delivery.objects.select_for_update().filter(search=search_id).first()
        tried_there = Webhook.objects.filter(pk=webhook.pk, nonce=webhook.nonce)
        is_there = tried_there.update(told_at=timezone.now(), problem=reason)
        if tried and is_there and (is_final or tried.tries >= len(PAUSES)):
            tried.delete()


def api_token_revoke(*, token: ApiToken) -> None:
    """From now on it opens nothing."""
    token.delete()
