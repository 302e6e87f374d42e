"""The job queue: which Celery app, and how a job learns that its worker is closing."""

from __future__ import annotations

import mmap
import os
import threading
import warnings
from typing import Any

from celery import Celery
from celery.exceptions import SecurityWarning
from celery.signals import celeryd_init, worker_init, worker_ready, worker_shutting_down

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")

app = Celery("webapp", include=["webapp.tasks"])
app.config_from_object("django.conf:settings", namespace="CELERY")

_closing: mmap.mmap | None = None
"""One byte shared by a worker's main process and its pool: a warm shutdown tells the pool's processes nothing else."""


def worker_is_closing() -> bool:
    """Whether the worker this process belongs to was asked to shut down."""
    return _closing is not None and _closing[0] == 1


@celeryd_init.connect
def _work_for_root_in_silence(**_: Any) -> None:
    """Celery's page about it hides the sign-in link; with JSON alone in the broker nobody gets to run anything."""
    warnings.filterwarnings("ignore", "You're running the worker with superuser privileges", SecurityWarning)


@worker_init.connect
def _look_where_engines_do(**_: Any) -> None:
    from django.conf import settings  # they are read by now

    os.environ["COPPICE_CACHE"] = str(settings.ENGINE_CACHE)


@worker_init.connect
def _share_a_byte(**_: Any) -> None:
    global _closing
    _closing = mmap.mmap(-1, 1)


@worker_ready.connect
def _say_which_devices_there_are(sender: Any, **_: Any) -> None:
    if "gpu" in app.amqp.queues.consume_from:
        from webapp import devices  # Django's settings are read by now

        threading.Thread(target=devices.tell, args=(sender.hostname,), daemon=True).start()


@worker_shutting_down.connect
def _tell_the_pool(**_: Any) -> None:
    if _closing is not None:
        _closing[0] = 1
