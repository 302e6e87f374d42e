"""Parts of a Coppice that a test starts and ends one by one, and people who use it over the network."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import psutil
from websockets.sync.client import ClientConnection, connect

from tests.webapp.cast import config
from webapp.launch import free_port, redis_server

ROOT = Path(__file__).resolve().parents[2]


class Parts:
    """Redis, web server and workers, each started when a test wants it; ports and folder stay the same."""

    def __init__(self, folder: Path, settings: str, database: str | None = None, *, redis_port: int = 0) -> None:
        self.folder = folder
        self.port, self.redis_port = free_port(), redis_port or free_port()
        self.environment = surroundings(
            DATA_DIR=str(folder),
            REDIS_URL=f"redis://127.0.0.1:{self.redis_port}/0",
            DATABASE_URL=database,
            DJANGO_SETTINGS_MODULE=settings,
        )
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    def redis(self) -> subprocess.Popen[bytes]:
        return self.start("redis", redis_server(), "--port", str(self.redis_port), "--save", "", "--bind", "127.0.0.1")

    def web(self) -> subprocess.Popen[bytes]:
        daphne = (sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", str(self.port), "webapp.asgi:application")
        return self.start("web", *daphne)

    def worker(self, queue: str, *options: str) -> subprocess.Popen[bytes]:
        command = (sys.executable, "-m", "celery", "-A", "webapp.celery", "worker", "-Q", queue, "-c", "1")
        return self.start(queue, *command, "-n", f"{queue.partition(',')[0]}@test", "-l", "INFO", *options)

    def manage(self, *command: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *command], cwd=ROOT, env=self.environment, capture_output=True, check=True
        )
        return done.stdout.decode().strip()

    def end(self) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def is_healthy(self) -> bool:
        address = contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10))
        with contextlib.suppress(OSError, http.client.HTTPException), address as connection:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        return False

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()


class Person:
    """Somebody with a browser, signed in by a link."""

    def __init__(self, parts: Parts, name: str) -> None:
        self.parts = parts
        self.cookies: dict[str, str] = {}
        token = parts.manage("shell", "-v0", "-c", MAKE_LINK.format(name=name)).splitlines()[-1]
        assert self.ask("GET", f"/sign-in/{token}/")[0] == 302
        self.ask("GET", "/accounts/logout/")

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.parts.port, timeout=30)
        headers = {"Cookie": self.cookie, "Content-Type": "application/json"}
        headers |= {"X-CSRFToken": self.cookies.get("coppice_csrf", "")}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        for given in answer.headers.get_all("Set-Cookie") or []:
            self.cookies |= {name: morsel.value for name, morsel in SimpleCookie(given).items()}
        content = answer.read()
        connection.close()
        return answer.status, content

    def start_search(self, name: str, **changes: Any) -> str:
        status, content = self.ask("POST", "/api/v1/searches", config(name=name, **changes))
        assert status == 201, content
        return str(json.loads(content)["id"])

    def search(self, search_id: str) -> dict[str, Any]:
        return dict(json.loads(self.ask("GET", f"/api/v1/searches/{search_id}")[1]))

    def watch(self, search_id: str, *, origin: str = "", after: int = 0, rewinds: int = 0) -> ClientConnection:
        origin = origin or f"http://127.0.0.1:{self.parts.port}"
        query = f"after={after}&rewinds={rewinds}"
        address = f"ws://127.0.0.1:{self.parts.port}/ws/searches/{search_id}/?{query}"
        return connect(address, origin=origin, additional_headers={"Cookie": self.cookie}, max_size=None, proxy=None)

    @property
    def cookie(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())


MAKE_LINK = """
from django.contrib.auth.models import User
from webapp import services
print(services.sign_in_link_create(user=User.objects.get_or_create(username="{name}")[0]))
"""


def family(pid: int) -> list[int]:
    """A process and all below it, as far as they are still there."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        return [pid, *(child.pid for child in parent.children(recursive=True))]
    return []


def surroundings(**changes: str | None) -> dict[str, str]:
    """The environment of a Coppice that knows nothing of the tester's own; None leaves a variable out."""
    ours = ("DATA_DIR", "REDIS_URL", "DATABASE_URL", "PORT", "SECRET_KEY", "ALLOWED_HOSTS", "HTTPS", "ACCEL", "DEBUG")
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    given = {"ALLOWED_HOSTS": "127.0.0.1", "PYTHONUNBUFFERED": "1", **changes}
    return inherited | {name: value for name, value in given.items() if value is not None}
