"""The job queue: which Celery app, and how a job learns that its worker is closing."""

from __future__ import annotations

import mmap
import os
from typing import Any

from celery import Celery
from celery.signals import worker_init, worker_shutting_down

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")

app = Celery("webapp", include=["webapp.tasks"])
app.config_from_object("django.conf:settings", namespace="CELERY")

_closing: mmap.mmap | None = None
"""One byte shared by a worker's main process and its pool: a warm shutdown tells the pool's processes nothing else."""


def worker_is_closing() -> bool:
    """Whether the worker this process belongs to was asked to shut down."""
    return _closing is not None and _closing[0] == 1


@worker_init.connect
def _share_a_byte(**_: Any) -> None:
    global _closing
    _closing = mmap.mmap(-1, 1)


@worker_shutting_down.connect
def _tell_the_pool(**_: Any) -> None:
    if _closing is not None:
        _closing[0] = 1
