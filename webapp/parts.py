"""The processes of one machine: started together, watched over, ended together.

Nothing outlives the launcher. Asked to end, or when one part ends by itself, it ends the others (Redis last: workers
write to it until they go), waits for the engines they started, which save first, and kills what does not listen. If
the launcher itself is killed, Linux tells the parts, and an engine ends when its worker does.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import http.client
import os
import secrets
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Callable, Mapping
from datetime import datetime
from io import FileIO
from pathlib import Path
from typing import Any

import psutil
from honcho.colour import get_colours
from honcho.environ import parse_procfile
from honcho.printer import Message, Printer

from webapp.launch import CannotStart, free_port, redis_server

READY_SECONDS = 120.0
"""How long the web server may take until its first answer."""
REDIS_SECONDS = 15.0
"""The same for Redis."""
SAVE_SECONDS = 60.0
"""How long a part, and what it started, may take to save its work; longer than a worker gives its engine."""
KILL_SECONDS = 5.0
"""How long what did not end by then has between SIGTERM and SIGKILL."""

REDIS_CONFIG = """
bind 127.0.0.1
port {port}
requirepass {password}
save ""
appendonly no
loglevel warning
"""


def procfile(path: Path) -> dict[str, str]:
    """Name -> command of each part."""
    return dict(parse_procfile(path.read_text()).processes)


async def run_together(
    commands: Mapping[str, str], environment: Mapping[str, str], *, data: Path, port: int, host: str, greeting: str
) -> None:
    """Start all parts, greet when the web server answers, and stay until a signal asks to end.

    Args:
        environment: of the parts. Without REDIS_URL in it they get a Redis that lives as long as they do.
        data: where that Redis writes its log.
        port: where `/healthz` is asked.
        host: the name that it is asked under.

    Raises:
        CannotStart: if a part ended by itself or did not come up; by then everything has ended.
    """
    crew = _Crew(environment)
    reason: BaseException | None = None
    try:
        crew.end_on_signals()
        async with asyncio.TaskGroup() as group:
            if "REDIS_URL" not in environment:
                group.create_task(crew.watch("redis", await crew.start_redis(data)))
                await _until(
                    lambda: _listens(crew.redis_port), REDIS_SECONDS, f"Redis does not answer; see {data}/redis.log"
                )
            for name, command in commands.items():
                group.create_task(crew.watch(name, await crew.start(name, command)))
            await _until(
                lambda: _is_healthy(port, host), READY_SECONDS, "the web server does not answer; its lines are above"
            )
            crew.greet(greeting)
    except* CannotStart as reasons:
        reason = reasons.exceptions[0]
    except* asyncio.CancelledError:
        pass  # somebody asked
    finally:
        await crew.end()
    if reason is not None:
        raise reason


class _Crew:
    """The processes of one start."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self.processes: dict[str, Process] = {}
        self.relays: list[asyncio.Task[None]] = []
        self.redis_port = 0
        self.ending = False
        self.colours = get_colours()
        self.printer = Printer(sys.stdout, width=len("coppice"))
        self.libc = ctypes.CDLL(None)
        if sys.platform == "linux":
            self.libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # an engine whose worker died becomes our child

    def say(self, name: str, line: str | bytes, colour: str | None = None) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone; what runs has to end well all the same
            self.printer.write(Message("line", line, datetime.now(), name, colour))

    def greet(self, greeting: str) -> None:
        with contextlib.suppress(OSError):
            print(greeting, flush=True)  # noqa: T201 -- a launcher talks to whoever started it

    def end_on_signals(self) -> None:
        """Ctrl-C, SIGTERM and a closed terminal ask once; asking again changes nothing."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def ask() -> None:
            if task is not None and not self.ending:
                self.ending = True
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, ask)

    async def start(self, name: str, command: str) -> str:
        """Start a part of the Procfile; gives the hint where it says why it ended, if it does."""
        read, write = os.pipe()  # our own: asyncio's would make a part seem to live until all who inherit it are gone
        try:
            self.processes[name] = await asyncio.create_subprocess_shell(
                f"exec {command}", env=self.environment, stdin=DEVNULL, stdout=write, stderr=STDOUT, **self._bound()
            )
        finally:
            os.close(write)
        self.relays.append(asyncio.create_task(self._relay(name, os.fdopen(read, "rb", buffering=0))))
        return "what it said is above"

    async def start_redis(self, data: Path) -> str:
        """Start a Redis for this machine alone: a free port, a password, nothing kept on disk."""
        self.redis_port, password = free_port(), secrets.token_urlsafe(24)
        self.environment["REDIS_URL"] = f"redis://:{password}@127.0.0.1:{self.redis_port}/0"
        with (data / "redis.log").open("wb") as log:
            self.processes["redis"] = process = await asyncio.create_subprocess_exec(
                redis_server(), "-", stdin=PIPE, stdout=log, stderr=STDOUT, **self._bound()
            )
        assert process.stdin is not None
        process.stdin.write(REDIS_CONFIG.format(port=self.redis_port, password=password).encode())
        process.stdin.close()
        return f"see {log.name}"

    async def watch(self, name: str, hint: str) -> None:
        """Complain when this part ends."""
        status = await self.processes[name].wait()
        how = f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
        raise CannotStart(
            f"the part '{name}' ended by itself ({how}), so all the others were ended too; {hint}. Start again: "
            "searches go on from where they last saved"
        )

    async def end(self) -> None:
        """End what runs, and wait for what it leaves behind."""
        self.ending = True
        self.say("coppice", "ending; a search under way saves its state first")
        redis = self.processes.pop("redis", None)
        await self._end([*self.processes.values()])
        await self._end([redis] if redis else [])
        await asyncio.to_thread(_see_off)
        if self.relays:
            await asyncio.wait(self.relays, timeout=1)

    async def _end(self, processes: list[Process]) -> None:
        waits = {}
        for process in processes:
            if process.returncode is None:
                process.terminate()  # not its group: a worker tells its own pool, and calmly
            waits[asyncio.create_task(process.wait())] = process
        if waits:
            _, late = await asyncio.wait(waits, timeout=SAVE_SECONDS)
            for wait in late:
                with contextlib.suppress(ProcessLookupError):
                    waits[wait].kill()
                await wait
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)  # whatever of it outlived it has nobody to tell it

    async def _relay(self, name: str, pipe: FileIO) -> None:
        colour = next(self.colours)
        lines = asyncio.StreamReader(limit=2**24)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), pipe)
        async for line in lines:
            if line.strip():
                self.say(name, line, colour)

    def _bound(self) -> dict[str, Any]:
        """A session of its own, so that Ctrl-C reaches us alone, and a word from Linux if we are killed."""

        def die_with_launcher() -> None:
            self.libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

        return {"start_new_session": True, "preexec_fn": die_with_launcher if sys.platform == "linux" else None}


_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _see_off() -> None:
    """Wait for our children's children, such as an engine that saves; insist in the end."""
    _, left = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=SAVE_SECONDS)
    for insist in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                insist(process)
        _, left = psutil.wait_procs(left, timeout=KILL_SECONDS)


async def _until(question: Callable[[], bool], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(question):
        if time.monotonic() > deadline:
            raise CannotStart(f"{otherwise} (waited {seconds:g} s)")
        await asyncio.sleep(0.1)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        return True
    return False


def _is_healthy(port: int, host: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/healthz", headers={"Host": host})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
