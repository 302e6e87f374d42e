"""What died or got lost is found by looking again and again, and set going anew.

Heartbeats are looked at for change, not for age: a clock that is set forth or back makes nobody look dead or alive.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import psutil
from django.conf import settings
from django.utils import timezone

from webapp import services
from webapp.celery import app
from webapp.models import HELD_STATES, Dataset, DatasetState, Delivery, Search, SearchState, Survey, SurveyState

SILENT = "Its worker fell silent."
BEATS_MISSED = 3
"""So many, and the worker's process is not there: then it is dead, without more patience."""
LOOKS = 3
"""Who is asleep while time passes, a stopped virtual machine, looks once more before it judges."""


class Watch:
    """Since when things look the same, by a clock that nobody can set."""

    def __init__(self) -> None:
        self.seen: dict[Any, tuple[float, int]] = {}

    def unchanged(self, looks: Iterable[Any], *, seconds: float) -> list[Any]:
        """Of what is seen now, that which was seen just so that long ago, and at every look since, some at least."""
        now = time.monotonic()
        before = self.seen
        self.seen = {look: (before[look][0], before[look][1] + 1) if look in before else (now, 1) for look in looks}
        return [look for look, (since, times) in self.seen.items() if now - since >= seconds and times >= LOOKS]


class Reaper:
    """One for each process that looks after the others."""

    def __init__(self) -> None:
        self.here, self.searching, self.packing, self.looking = (Watch() for _ in range(4))
        self.waiting, self.uploaded, self.asked, self.owed = (Watch() for _ in range(4))

    def reap(self) -> None:
        """Queues again what is shown as running but has been silent for too long, or whose worker is dead."""
        held = Search.objects.filter(state__in=HELD_STATES)
        here = held.filter(host=socket.gethostname()).values_list("pk", "attempt", "heartbeat_at", "pid")
        patience = BEATS_MISSED * settings.HEARTBEAT_SECONDS
        for pk, attempt, beat, pid in self.here.unchanged(here, seconds=patience):
            if pid is not None and not psutil.pid_exists(pid):
                _interrupt(pk, attempt, beat, "Its worker died.")
        looks = held.values_list("pk", "attempt", "heartbeat_at")
        for pk, attempt, beat in self.searching.unchanged(looks, seconds=settings.SILENT_SECONDS):
            _interrupt(pk, attempt, beat, SILENT)
        packing = Dataset.objects.filter(state=DatasetState.PACKING).values_list("pk", "attempt", "heartbeat_at")
        for pk, attempt, beat in self.packing.unchanged(packing, seconds=settings.SILENT_SECONDS):
            services.dataset_interrupt(dataset_id=pk, attempt=attempt, reason=SILENT, is_loss=True, last_beat=beat)
        looking = Survey.objects.filter(state=SurveyState.LOOKING).values_list("pk", "attempt", "heartbeat_at")
        for pk, attempt, beat in self.looking.unchanged(looking, seconds=settings.SILENT_SECONDS):
            services.survey_interrupt(survey_id=pk, attempt=attempt, reason=SILENT, is_loss=True, last_beat=beat)

    def resend_lost(self) -> None:
        """Sends the messages of waiting rows again where their queue is empty: the broker lost them, or it is time."""
        searches = Search.objects.filter(state=SearchState.QUEUED).order_by("queued_at")
        datasets = Dataset.objects.filter(state=DatasetState.UPLOADED).order_by("queued_at")
        surveys = Survey.objects.filter(state=SurveyState.WAITING).order_by("queued_at")
        owed = Delivery.objects.filter(due_at__lte=timezone.now()).order_by("due_at")
        for task, queue, watch, looks in (
            ("webapp.tasks.run_search", "gpu", self.waiting, searches.values_list("pk", "queued_at")),
            ("webapp.tasks.ingest_dataset", "cpu", self.uploaded, datasets.values_list("pk", "queued_at")),
            ("webapp.tasks.look_at_model", "cpu", self.asked, surveys.values_list("pk", "queued_at")),
            ("webapp.tasks.tell_webhook", "hooks", self.owed, owed.values_list("search_id", "due_at")),
        ):
            waiting = watch.unchanged(looks, seconds=settings.RESEND_SECONDS)
            if waiting and messages_in(queue) == 0:
                for pk, _ in waiting:
                    services.enqueue(task, pk)


def messages_in(queue: str) -> int:
    """How many messages wait in a queue of the broker."""
    with app.connection_for_read() as connection:
        channel: Any = connection.default_channel  # its type does not know the method
        return int(channel.queue_declare(queue).message_count)


def _interrupt(pk: UUID, attempt: int, beat: datetime | None, reason: str) -> None:
    services.search_interrupt(search_id=pk, attempt=attempt, reason=reason, is_loss=True, last_beat=beat)
