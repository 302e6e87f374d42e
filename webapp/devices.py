"""Which GPUs do the workers have that run searches? Each asks its engine once, and says so in Redis while it lives."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import time
from dataclasses import replace

import redis
from django.conf import settings

from nasengine.outlook import Outlook

PREFIX = "coppice.devices."
TOLD_FOR, TELL_EVERY = 60, 20
"""Seconds that what a worker said counts, and between its saying so."""
ASK_SECONDS = 120
"""For the engine's answer; torch alone takes seconds to start. So long it counts that a worker asks."""
FIELD = "runtime.device"

logger = logging.getLogger(__name__)


def tell(worker: str) -> None:
    """Says which GPUs this worker's engine finds, again and again; for a thread that ends with its process."""
    _say(worker, None, seconds=ASK_SECONDS)
    try:
        gpus = _gpus()
    except (OSError, ValueError, KeyError, IndexError, subprocess.SubprocessError) as error:
        logger.warning("the engine did not say which devices there are: %s", error)
        return
    while True:
        _say(worker, gpus, seconds=TOLD_FOR)
        time.sleep(TELL_EVERY)


def known() -> list[list[str] | None]:
    """Names of each worker's GPUs, None of one that still asks; empty if none is known, or nobody can be asked."""
    try:
        with _redis() as client:
            told = client.mget(keys) if (keys := list(client.scan_iter(f"{PREFIX}*"))) else []
    except redis.RedisError:
        return []
    return [json.loads(gpus) for gpus in told if gpus]


def judged(look: Outlook) -> Outlook:
    """The outlook of a search that insists on a GPU, with what the workers say of theirs."""
    workers = known()
    if any(workers):
        return look
    if not workers or None in workers:
        unsaid = "a worker has not said yet" if workers else "no worker has said"
        doubt = f"{unsaid} whether it has a GPU; if none has, this search ends at once, and auto would not"
        return look if look.problems else replace(look, warnings=(*look.warnings, (FIELD, doubt)))
    problem = "no worker here has a GPU, so this search would end at once; choose auto or cpu"
    return replace(look, problems=(*look.problems, (FIELD, problem)), warnings=())


def _say(worker: str, gpus: list[str] | None, *, seconds: int) -> None:
    with contextlib.suppress(redis.RedisError), _redis() as client:  # an outage leaves workers unknown, no more
        client.set(f"{PREFIX}{worker}", json.dumps(gpus), ex=seconds)


def _gpus() -> list[str]:
    command = [*settings.ENGINE_COMMAND, "devices"]
    done = subprocess.run(
        command, cwd=settings.BASE_DIR, capture_output=True, text=True, check=True, timeout=ASK_SECONDS
    )
    return [str(name) for name in json.loads(done.stdout.splitlines()[-1])["gpus"]]


def _redis() -> redis.Redis:
    return redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=1, socket_timeout=1)
