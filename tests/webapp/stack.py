"""A whole Coppice for a test: web server, workers and Redis, as `make run` starts them, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.postgres import database_beside
from tests.webapp.parts import surroundings
from webapp.launch import free_port

ROOT = Path(__file__).resolve().parents[2]
STARTS_WITHIN, ENDS_WITHIN = 120.0, 60.0


@dataclass(frozen=True, kw_only=True)
class Stack:
    address: str
    link: str
    """Signs in, once."""
    folder: Path


@contextlib.contextmanager
def running(folder: Path, *, settings: str = "webapp.settings", **changes: str) -> Iterator[Stack]:
    """Everything of one machine while it lasts; nothing of it is left afterwards.

    Args:
        changes: of its environment.
    """
    with database_beside(os.environ.get("DATABASE_URL")) as database:
        yield from _running(folder, settings, ({"DATABASE_URL": database} if database else {}) | changes)


def _running(folder: Path, settings: str, changes: dict[str, str]) -> Iterator[Stack]:
    port = free_port()
    log = folder / "stack.log"
    given = {"DATA_DIR": str(folder), "PORT": str(port), "DJANGO_SETTINGS_MODULE": settings}
    environment = surroundings(**(given | changes))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "run"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        link = _printed_link(process, log)
        yield Stack(address=f"http://127.0.0.1:{port}", link=link, folder=folder)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _printed_link(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline:
        if found := re.search(r"https?://127\.0\.0\.1(:\d+)?/sign-in/\S+", log.read_text()):
            return found[0]
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"Coppice did not start within {STARTS_WITHIN:g} s:\n{log.read_text()[-3000:]}")
