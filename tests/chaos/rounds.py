"""Kills parts of a real Coppice at random moments, with no warning, and looks whether what was promised holds.

Every round starts a search on the whole stack (Redis, web server, workers, the real engine), kills its victim some time
before the search would have ended, starts again what is gone, and waits for the end. What must hold then:

* Within `TRUTH_SECONDS` of the restart (the web server answers again) the search is queued, finished, or running
  with a living engine.
* It ends as *finished*, with files that are bit for bit those of a search that nobody disturbed.
* A page that was open all the time has seen every event, in order, though its socket was cut.
* No engine is left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from websockets.exceptions import WebSocketException

from tests.postgres import database_beside
from tests.webapp.cast import soon
from tests.webapp.parts import Parts, Person, family

VICTIMS = ("engine", "worker", "web", "redis", "all")
TRUTH_SECONDS = 30.0
END_SECONDS = 600.0
SEARCH: dict[str, Any] = {
    "data": {"dataset": "digits", "limit": 240},
    "space": {"kind": "chain", "layers": 2, "channels": 4},
    "target": {"value": "40%"},
    "search": {"epochs": 8},
    "retrain": {"epochs": 3},
}
SAME = ("model.safetensors", "architecture.json", "model.onnx")
"""Files that say nothing about time."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """What came of one kill."""

    number: int
    victim: str
    event: int
    """Number of the last event before it."""
    state: str
    """Of the search, at that moment."""
    truth: float
    """Seconds from the beginning of the restart until the state was true, and stayed so."""
    attempts: int
    identical: bool

    @property
    def hit(self) -> bool:
        """Whether there was work to interrupt."""
        return self.state == "running" and (self.attempts > 1 or self.victim in ("web", "redis"))

    @property
    def cells(self) -> tuple[str, ...]:
        moment = f"{self.state}, event {self.event}"
        identical = "yes" if self.identical else "NO"
        return (str(self.number), self.victim, moment, f"{self.truth:.1f} s", str(self.attempts), identical)


class Installation:
    """A Coppice whose parts are started again when they are gone."""

    def __init__(self, folder: Path, database: str | None) -> None:
        self.parts = Parts(folder, "webapp.settings", database)
        self.starts: dict[str, Callable[[], subprocess.Popen[bytes]]] = {
            "redis": self.parts.redis,
            "web": self.parts.web,
            "worker": lambda: self.parts.worker("gpu"),
            "cpu": lambda: self.parts.worker("cpu"),
            "care": lambda: self.parts.worker("care", "-B"),
        }
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def migrate(self) -> None:
        """An empty database with tables; Redis is asked for a moment."""
        self.running["redis"] = self.parts.redis()
        self.parts.manage("migrate")

    def open(self) -> None:
        """Starts what does not run, and waits until it answers."""
        for name, start in self.starts.items():
            if name not in self.running or self.running[name].poll() is not None:
                self.running[name] = start()
        soon(self.parts.is_healthy, seconds=120)

    def kill(self, victim: str, search_id: str) -> None:
        """Ends it by SIGKILL: a part with all below it, but for the engine, which is a victim of its own."""
        names = () if victim == "engine" else tuple(self.running) if victim == "all" else (victim,)
        engines = engines_of(search_id)
        found = {pid for name in names for pid in family(self.running[name].pid)}
        for pid in found | engines if victim in ("engine", "all") else found - engines:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for name in names:
            self.running[name].wait()


def engines_of(search_id: str) -> set[int]:
    """Processes of the engine that work on a search."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "nasengine" in command and any(search_id in word for word in command):
            found.add(process.pid)
    return found


class Watcher(threading.Thread):
    """An open page: connects again whenever its socket is cut, and keeps what it was told."""

    def __init__(self, person: Person, search_id: str) -> None:
        super().__init__(daemon=True)
        self.person, self.search_id = person, search_id
        self.told: list[tuple[int, str]] = []
        """(number, kind) of each event."""
        self.rewinds = 0
        self.is_over = False

    @property
    def last(self) -> int:
        """Number of the last event that it was told of."""
        return self.told[-1][0] if self.told else 0

    def run(self) -> None:
        while not self.is_over:
            try:
                self._watch()
            except (OSError, WebSocketException):
                time.sleep(0.5)

    def _watch(self) -> None:
        with self.person.watch(self.search_id, after=self.last, rewinds=self.rewinds) as socket:
            while not self.is_over:
                frame = json.loads(socket.recv(timeout=END_SECONDS))
                if frame["type"] == "rewind":
                    self.told = [(seq, kind) for seq, kind in self.told if seq <= frame["after"]]
                elif frame["type"] == "events":
                    self.told += [(event["seq"], event["kind"]) for event in frame["events"]]
                else:
                    self.rewinds, self.is_over = frame["rewinds"], frame["finished"]


class Chaos:
    """An installation, somebody who uses it, and what an undisturbed search gives."""

    def __init__(self, folder: Path, database: str | None) -> None:
        self.installation = Installation(folder, database)
        self.expected: dict[str, bytes] = {}
        self.events = 0
        """How many a search has."""

    def begin(self) -> None:
        """Starts everything, and runs the search that nobody disturbs."""
        self.installation.migrate()
        self.installation.open()
        self.person = Person(self.installation.parts, "alice")
        search_id = self._start("undisturbed")
        self._end(search_id)
        self.expected = self._files(search_id)
        self.events = self._said(search_id)[-1][0]

    def play(self, number: int, victim: str, share: float) -> Round:
        """One round; its kill falls when this share of the events has been said, or as soon as there is a victim.

        Raises:
            AssertionError: if a promise is broken.
        """
        search_id = self._start(f"round {number}: {victim}")
        watcher = Watcher(self.person, search_id)
        watcher.start()
        soon(lambda: watcher.is_over or watcher.last >= share * self.events, seconds=END_SECONDS)
        if victim == "engine":
            soon(lambda: watcher.is_over or engines_of(search_id), seconds=END_SECONDS)
        state, event = self.person.search(search_id)["state"], watcher.last
        self.installation.kill(victim, search_id)
        restarted = time.monotonic()
        self.installation.open()
        truth = self._true_since(search_id) - restarted
        self._end(search_id)
        watcher.join(timeout=60)
        numbers = [seq for seq, _ in watcher.told]
        assert numbers == sorted(set(numbers)), f"the open page heard it out of order: {numbers}"
        assert lasting(watcher.told) == lasting(self._said(search_id)), "the open page missed something"
        soon(lambda: not engines_of(search_id))
        return Round(
            number=number,
            victim=victim,
            event=event,
            state=state,
            truth=truth,
            attempts=self.person.search(search_id)["attempt"],
            identical=self._files(search_id) == self.expected,
        )

    def close(self) -> None:
        self.installation.parts.end()

    def _start(self, name: str) -> str:
        return self.person.start_search(name, **SEARCH)

    def _true_since(self, search_id: str) -> float:
        """When the state became true; it stays so for a while."""
        began = last_false = time.monotonic()
        while time.monotonic() - last_false < 3:
            found = self.person.search(search_id)
            is_true = found["state"] in ("queued", "finished") or (
                found["state"] == "running" and engines_of(search_id)
            )
            if not is_true:
                last_false = time.monotonic()
                assert last_false - began < TRUTH_SECONDS, f"shown as {found['state']}: {found['sentence']}"
            time.sleep(0.1)
        return last_false

    def _end(self, search_id: str) -> None:
        def ended() -> bool:
            found = self.person.search(search_id)
            assert found["state"] in ("queued", "running", "finished"), (found["state"], found["sentence"])
            return bool(found["state"] == "finished")

        soon(ended, seconds=END_SECONDS)

    def _files(self, search_id: str) -> dict[str, bytes]:
        return {name: self.person.ask("GET", f"/searches/{search_id}/files/{name}")[1] for name in SAME}

    def _said(self, search_id: str) -> list[tuple[int, str]]:
        """(number, kind) of all events that are kept of it."""
        said: list[tuple[int, str]] = []
        while True:
            path = f"/api/v1/searches/{search_id}/events?after={said[-1][0] if said else 0}&rewinds={10**6}"
            feed = json.loads(self.person.ask("GET", path)[1])
            said += [(event["seq"], event["kind"]) for event in feed["events"]]
            if not feed["more"]:
                return said


def lasting(told: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Without what is thinned out with time."""
    return [(seq, kind) for seq, kind in told if kind != "progress"]


@contextlib.contextmanager
def chaos(folder: Path) -> Iterator[Chaos]:
    """On PostgreSQL if DATABASE_URL names one."""
    with database_beside(os.environ.get("DATABASE_URL")) as database:
        found = Chaos(folder, database)
        try:
            found.begin()
            yield found
        finally:
            found.close()


def moments(victims: Sequence[str], seed: int) -> Iterator[tuple[str, float]]:
    """Each victim with a moment, as a share of an undisturbed search."""
    luck = random.Random(seed)
    for victim in victims:
        yield victim, luck.uniform(0.0, 0.95)
