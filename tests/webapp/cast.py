"""What the tests of the web application say and do to set a scene."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from django.utils import timezone

from nasengine import events
from webapp import relay
from webapp.models import Search, SearchState

A_ZIP = b"PK\x05\x06" + b"\0" * 18
"""The smallest zip file: nothing in it."""


def config(**changes: Any) -> dict[str, Any]:
    """A quick search on digits that can be done."""
    return {"name": "digits", "preset": "quick", "data": {"dataset": "digits"}, "target": {"value": 20_000}} | changes


def progress(seq: int, *, size: int = 30_000) -> events.Progress:
    return events.Progress(
        seq=seq, stage=1, epoch=1, step=seq, steps=1000, losses={"task": 1.0 / seq}, images_per_second=100.0, size=size,
        target=20_000, reference=size, memory_mib=512.0, fraction=min(1.0, seq / 1000), eta_seconds=60.0,
    )  # fmt: skip


def epoch_finished(seq: int) -> events.EpochFinished:
    return events.EpochFinished(
        seq=seq, stage=1, epoch=1, train={"loss": 1.0, "accuracy": 0.5}, validation={"loss": 1.0, "accuracy": 0.5},
        size=30_000, target=20_000, kept={"operation": [5, 7]}, thresholds={"operation": 0.1},
    )  # fmt: skip


def result_ready(
    seq: int, folder: str = "result", *, files: tuple[str, ...] = ("model.py",), **report: Any
) -> events.ResultReady:
    return events.ResultReady(
        seq=seq,
        folder=folder,
        report=report,
        files=[{"name": name, "bytes": 12, "sha256": "ab" * 32} for name in files],
    )


def seqs(search: Search) -> list[int]:
    return list(search.events.order_by("seq").values_list("seq", flat=True))


def say(search: Search, *said: events.Event) -> bool:
    """What the search's current attempt says."""
    return relay.store(search_id=search.pk, attempt=search.attempt, said=said)


def put_into(search: Search, state: SearchState, **changes: Any) -> Search:
    """Sets the scene, past all rules."""
    Search.objects.filter(pk=search.pk).update(state=state, **({"heartbeat_at": timezone.now()} | changes))
    search.refresh_from_db()
    return search


def soon(question: Callable[[], Any], *, seconds: float = 20) -> Any:
    """The answer as soon as it is a yes."""
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return answer
