"""How one engine process is started, heard, told and, if it must be, killed.

Knows neither Django's rows nor what the lines mean. The engine runs in a process group of its own; commands go to its
stdin, one a line, and the end of stdin means: save and exit.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import logging
import os
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO

BATCH_LINES = 1000
GATHER_SECONDS = 0.1
"""An engine's lines are passed on in batches: each costs a transaction, and a look of everybody who watches."""
TAIL_LINES = 30
TAIL_WIDTH = 500
LOG_BYTES = 2 * 2**20
"""An engine's log file grows to this size, then starts anew; the one before it is kept."""


class Wish(enum.IntEnum):
    """What the engine should do; a stronger wish replaces a weaker one."""

    GO_ON = 0
    STOP = 1
    FINISH = 2
    PAUSE = 3
    SAVE = 4
    CANCEL = 5
    DIE = 6


class FolderBusy(Exception):
    """Another engine still uses the folder."""


@dataclass(frozen=True, kw_only=True)
class Deadlines:
    """Seconds that an engine may take to obey."""

    cancel: float
    save: float
    kill: float


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How an engine ended."""

    code: int
    """Exit status; minus the signal's number if one killed it."""
    wish: Wish
    """The strongest wish it was told."""
    tail: str
    """The last lines of its stderr."""
    ran_out_of_memory: bool
    """Whether the system killed it, or something else on this machine, for want of memory."""
    memory_mib: float
    """The most that it held; at least what this process held when it started it."""


def supervise(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    lock: int | None,
    log: Path,
    hear: Callable[[list[str]], bool],
    ask: Callable[[], Wish],
    ask_every: float,
    is_closing: Callable[[], bool],
    deadlines: Deadlines,
) -> Ended:
    """Runs an engine to its end.

    Args:
        lock: descriptor of `folder_lock`, which the engine shares: the folder stays locked as long as it lives.
        log: file that its stderr is added to, with times.
        hear: gets the lines in order, whatever waits at once; False means they are no longer wanted: the engine dies.
        ask: called every `ask_every` seconds, whether the engine talks or not.
        is_closing: whether this process is to end, which lets the engine save.
    """
    kills = _out_of_memory_kills()
    child = _Child(command, cwd=cwd, env=env, lock=lock, log=log, deadlines=deadlines)
    try:
        next_ask = 0.0
        while not child.has_ended():
            if (lines := child.lines(wait=0.2)) and not hear(lines):
                child.obey(Wish.DIE)
            if is_closing():
                child.obey(Wish.SAVE)
            if time.monotonic() >= next_ask:
                child.obey(ask())
                next_ask = time.monotonic() + ask_every
            child.insist()
        code = child.clear_away()
        while lines := child.lines(wait=0):
            if not hear(lines):
                break
        starved = code == -signal.SIGKILL and not child.killed and _out_of_memory_kills() > kills
        return Ended(
            code=code, wish=child.wish, tail=child.tail(), ran_out_of_memory=starved, memory_mib=child.memory_mib
        )
    finally:
        child.clear_away()


@contextlib.contextmanager
def folder_lock(folder: Path, *, seconds: float, goes_on: Callable[[], bool] = lambda: True) -> Iterator[int]:
    """A lock on a run's folder, waited for: the engine of a dead supervisor may still be saving there.

    Args:
        goes_on: asked while it waits, whether it is to wait any longer.

    Raises:
        FolderBusy: if it stays locked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline or not goes_on():
                    raise FolderBusy(f"another engine still uses {folder}") from None
                time.sleep(0.1)
        yield descriptor
    finally:
        os.close(descriptor)


class _Child:
    def __init__(
        self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], lock: int | None, log: Path,
        deadlines: Deadlines,
    ) -> None:  # fmt: skip
        self.deadlines = deadlines
        self.killed = False
        self.memory_mib = 0.0
        self.log = RotatingFileHandler(log, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8", errors="replace")
        self.log.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        self.wish = Wish.GO_ON
        self.insisting: Iterator[None] = iter(())
        self.heard: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.last: deque[str] = deque(maxlen=TAIL_LINES)
        self.process = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=() if lock is None else (lock,),
            start_new_session=True,
            encoding="utf-8",
            errors="replace",
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.stdin = self.process.stdin
        self.readers = (
            threading.Thread(target=_read, args=(self.process.stdout, self.heard.put), daemon=True),
            threading.Thread(target=_read, args=(self.process.stderr, self._note), daemon=True),
        )
        for reader in self.readers:
            reader.start()

    def lines(self, *, wait: float) -> list[str]:
        """What it said since the last time, at most BATCH_LINES; waits for the first line, and then for more."""
        found: list[str] = []
        try:
            found.append(self.heard.get(timeout=wait) if wait else self.heard.get_nowait())
            if wait:
                time.sleep(GATHER_SECONDS)
            while len(found) < BATCH_LINES:
                found.append(self.heard.get_nowait())
        except queue.Empty:
            pass
        return found

    def has_ended(self) -> bool:
        """Whether the process itself is over; it is not reaped, so its group's number stays its own."""
        if self.process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def obey(self, wish: Wish) -> None:
        """Tells the engine, if the wish is stronger than what it knows."""
        if wish > self.wish:
            self.wish = wish
            self.insisting = self._escalation(wish)

    def insist(self) -> None:
        """Takes the next step of the escalation if its time has come."""
        next(self.insisting, None)

    def clear_away(self) -> int:
        """Ends what is left of its group, so that nobody holds the pipes, and reaps it; exit status."""
        if self.process.returncode is None:
            self._signal(signal.SIGKILL)
            _, status, usage = os.wait4(self.process.pid, 0)
            self.process.returncode = os.waitstatus_to_exitcode(status)
            self.memory_mib = usage.ru_maxrss / 1024
        for reader in self.readers:
            reader.join(timeout=10)
        self.log.close()
        with contextlib.suppress(OSError):
            self.stdin.close()
        return self.process.returncode

    def _note(self, line: str) -> None:
        self.last.append(line)
        self.log.handle(logging.makeLogRecord({"msg": line}))

    def tail(self) -> str:
        return "\n".join(line[:TAIL_WIDTH] for line in self.last)

    def _escalation(self, wish: Wish) -> Iterator[None]:
        if wish in (Wish.STOP, Wish.FINISH, Wish.PAUSE):  # it takes as long as it takes: something is to be kept
            self._say(wish.name.lower())
            return
        if wish < Wish.DIE:
            if wish == Wish.SAVE:
                with contextlib.suppress(OSError):
                    self.stdin.close()
            else:
                self._say(wish.name.lower())
            yield from _until(self.deadlines.cancel if wish == Wish.CANCEL else self.deadlines.save)
            self._signal(signal.SIGTERM)
            yield from _until(self.deadlines.kill)
        self._signal(signal.SIGKILL)

    def _say(self, command: str) -> None:
        try:
            self.stdin.write(f"{command}\n")
            self.stdin.flush()
        except (OSError, ValueError):  # it hears nothing any more
            self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        self.killed = self.killed or (number == signal.SIGKILL and not self.has_ended())
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def _out_of_memory_kills() -> int:
    """How many processes the kernel of this machine has killed for want of memory so far; 0 where it does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _until(seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield


def _read(stream: IO[str], take: Callable[[str], None]) -> None:
    with stream:
        for line in stream:
            if text := line.rstrip("\n").replace("\0", "\N{REPLACEMENT CHARACTER}"):  # not every database takes NULs
                take(text)
