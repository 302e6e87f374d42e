"""What the parts of this installation say when they are asked how they are: `ok`, or what is wrong with them."""

from __future__ import annotations

import shutil
import time
from collections import Counter

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from kombu.exceptions import OperationalError

from webapp.celery import app

QUEUES = ("gpu", "cpu", "hooks", "care")
ASK_WORKERS_SECONDS = 0.5
ASK_AGAIN_SECONDS = 10.0
"""Strangers may ask as often as they like; the workers are not asked each time."""
LEAST_FREE_BYTES = 2 * 2**30

_known: tuple[float, str] | None = None


def health() -> dict[str, str]:
    """Of database, redis, workers and disk; workers are not asked while the broker is away."""
    broker = _redis()
    return {
        "database": _database(),
        "redis": broker,
        "workers": _workers() if broker == "ok" else "cannot be asked without Redis",
        "disk": _disk(),
    }


def can_serve(found: dict[str, str]) -> bool:
    """Whether pages can be served: that takes the database and Redis. Without workers searches wait."""
    return found["database"] == found["redis"] == "ok"


def _database() -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        return f"does not answer ({type(error).__name__})"
    return "ok"


def _redis() -> str:
    client = redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=1, socket_timeout=1)
    try:
        client.ping()
    except redis.RedisError as error:
        return f"does not answer ({type(error).__name__})"
    finally:
        client.close()
    return "ok"


def _workers() -> str:
    global _known
    now = time.monotonic()
    if _known is None or now > _known[0]:
        _known = (now + ASK_AGAIN_SECONDS, _asked())
    return _known[1]


def _asked() -> str:
    try:
        answers = app.control.inspect(timeout=ASK_WORKERS_SECONDS).active_queues() or {}
    except (OSError, OperationalError) as error:
        return f"cannot be asked ({type(error).__name__})"
    served = Counter(queue["name"] for queues in answers.values() for queue in queues)
    missing = [queue for queue in QUEUES if not served[queue]]
    return f"none answers for {' and '.join(missing)}" if missing else "ok"


def _disk() -> str:
    free = shutil.disk_usage(settings.DATA_DIR).free
    return "ok" if free >= LEAST_FREE_BYTES else f"only {free / 2**30:.1f} GB free"
