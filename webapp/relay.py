"""How an engine's lines reach the page: lines -> rows -> doorbell.

A row first, a message second: the channel layer only says "look", and may lose it; the rows are the truth. Rows of one
search rise in `seq`; they are complete in order, not dense in number, because old `progress` is thinned out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction
from django.db.models import Max
from django.utils import timezone
from redis.exceptions import RedisError

from nasengine import events
from nasengine.errors import EngineError
from webapp import curve
from webapp.models import HELD_STATES, TRAINING, Search, SearchEvent

logger = logging.getLogger(__name__)

LEARNED = ("task", "feature", "agreement")
"""Losses of which a method has one: its spikes stay."""
PROGRESS_ROWS = 400
"""So many old progress rows are stored before they are thinned out to half."""
RECENT = timedelta(minutes=1)
"""Progress younger than this is never thinned: somebody may be about to read it."""


def group_of(search_id: UUID | str) -> str:
    """The channel group of everybody who watches a search."""
    return f"search.{search_id}"


def ring(search_id: UUID | str) -> None:
    """Tells everybody who watches that there is something new; the next doorbell or check makes up for a lost one."""
    _send(group_of(search_id), {"type": "search.changed"})


def ring_off(session_key: str) -> None:
    """Tells the sockets of a session that it has ended."""
    _send(session_group(session_key), {"type": "session.ended"})


def session_group(session_key: str) -> str:
    """The channel group of a session's sockets; the key itself stays secret."""
    return f"session.{sha256(session_key.encode()).hexdigest()[:32]}"


def parse(lines: Iterable[str]) -> list[events.Event]:
    """The events among the lines; anything else is stray output of a library and is logged."""
    found = []
    for line in lines:
        try:
            found.append(events.from_line(line))
        except EngineError as error:
            logger.warning("stray output of the engine: %s", error)
    return found


def store(*, search_id: UUID, attempt: int, said: Sequence[events.Event]) -> bool:
    """Stores what an attempt said, in one transaction, then rings; False if the attempt is not the current one.

    A resumed attempt says again what the dead one said after its checkpoint: such rows are replaced, and the place is
    noted in `rewinds` for whoever had seen them.
    """
    if not said:
        return True
    now = timezone.now()
    with transaction.atomic():
        current = Search.objects.filter(pk=search_id, attempt=attempt, state__in=HELD_STATES)
        if not current.update(heartbeat_at=now, **_summary(said)):
            return False
        stored = SearchEvent.objects.filter(search_id=search_id)
        first = min((event.seq for event in said if not isinstance(event, events.SearchFailed)), default=None)
        is_anew = first is not None and stored.filter(seq__gte=first).exclude(attempt=attempt).delete()[0] > 0
        points = _points(said)
        if first is not None and (is_anew or points):
            search = current.only("rewinds", "curve").get()
            rewinds = [*search.rewinds, first - 1] if is_anew else search.rewinds
            current.update(rewinds=rewinds, curve=curve.extended(search.curve, points, anew=first))
        said = _numbered(said, after=stored.aggregate(last=Max("seq"))["last"] or 0)
        SearchEvent.objects.bulk_create(
            SearchEvent(
                search_id=search_id, attempt=attempt, seq=event.seq, kind=event.kind, payload=_payload(event, attempt)
            )
            for event in said
        )
        if any(isinstance(event, events.EpochFinished | events.ResultReady) for event in said):
            _thin(search_id)
        transaction.on_commit(lambda: ring(search_id))
    return True


def _payload(event: events.Event, attempt: int) -> dict[str, Any]:
    return {"kind": event.kind, "attempt": attempt, **asdict(event)}


def _numbered(said: Sequence[events.Event], *, after: int) -> list[events.Event]:
    """The command line's own last line goes after all others: an attempt that fails at its start knows none of them."""
    result: list[events.Event] = []
    for event in said:
        result.append(replace(event, seq=after + 1) if isinstance(event, events.SearchFailed) else event)
        after = max(after, result[-1].seq)
    return result


def _summary(said: Sequence[events.Event]) -> dict[str, Any]:
    """What the list of searches shows, as far as these events change it."""
    changes: dict[str, Any] = {}
    for event in said:
        match event:
            case events.DataProgress(what="rating"):
                pass  # within a stage, whose name and whose time left are told already
            case events.DataProgress():
                changes |= {"stage": f"{event.what} images", "eta_seconds": event.eta_seconds}
            case events.SearchStarted():
                changes |= {"stage": ""}
            case events.StageStarted():
                changes |= {"stage": event.name, "size": event.size}
            case events.Progress():
                changes |= {"fraction": event.fraction, "eta_seconds": event.eta_seconds, "size": event.size}
            case events.StageFinished(last=True):
                changes |= {"size": event.size, "stage": TRAINING}
            case events.EpochFinished() | events.Committed() | events.StageFinished():
                changes |= {"size": event.size}
            case events.RetrainEpoch() if event.network.startswith("teacher "):  # of blocks, in the search
                stage = event.network.removesuffix(" 1")
                changes |= {"stage": stage, "fraction": event.fraction, "eta_seconds": event.eta_seconds}
            case events.RetrainEpoch():
                changes |= {"stage": TRAINING, "fraction": event.fraction, "eta_seconds": event.eta_seconds}
            case events.CheckpointSaved():
                changes |= {"losses": 0}
            case events.SearchFinished():
                changes |= {"stage": "", "fraction": 1.0, "eta_seconds": None}
    return changes


def _points(said: Sequence[events.Event]) -> list[curve.Point]:
    """Of the curve: the found network's accuracy on validation images, where it could be told."""
    points: list[curve.Point] = []
    for event in said:
        match event:
            case events.EpochFinished():
                phase = curve.SEARCHING
            case events.RetrainEpoch(network="found"):
                phase = curve.TRAINING
            case _:
                continue
        accuracy = event.validation.get("accuracy")
        if accuracy is not None:
            points.append([event.seq, phase, event.epoch, round(accuracy, 4)])
    return points


def _thin(search_id: UUID) -> None:
    """Leaves at most PROGRESS_ROWS of the older progress, evenly spread over the run, spikes of the loss among them."""
    old = SearchEvent.objects.filter(
        search_id=search_id, kind__in=("progress", "data_progress"), at__lt=timezone.now() - RECENT
    )
    if old.count() <= PROGRESS_ROWS:
        return
    points = [(seq, _loss(payload)) for seq, payload in old.order_by("seq").values_list("seq", "payload")]
    old.exclude(seq__in=spread(points, PROGRESS_ROWS // 4)).delete()


def _loss(payload: dict[str, Any]) -> float:
    """What weights learn, whatever the method calls it."""
    losses = payload.get("losses", {})
    return next((losses[name] for name in LEARNED if losses.get(name) is not None), 0.0)


def spread(points: Sequence[tuple[int, float]], buckets: int) -> list[int]:
    """Numbers of the points (number, value) with the lowest and the highest value in each range, and of the last.

    >>> spread([(1, 0.5), (2, 0.9), (3, 0.4), (4, 0.5), (50, 0.1), (99, 0.2), (100, 0.3)], 2)
    [2, 50, 99, 100]
    """
    low, width = points[0][0], (points[-1][0] - points[0][0] + 1) / buckets
    ranges: dict[int, list[tuple[int, float]]] = {}
    for number, value in points:
        ranges.setdefault(int((number - low) / width), []).append((number, value))
    ends = {end(part, key=lambda point: point[1])[0] for part in ranges.values() for end in (min, max)}
    return sorted(ends | {points[-1][0]})


def _send(group: str, message: dict[str, Any]) -> None:
    layer = get_channel_layer()
    if layer is None:
        return
    try:
        async_to_sync(layer.group_send)(group, message)
    except (OSError, RedisError) as error:
        logger.warning("the doorbell of %s could not be rung: %s", group, error)
