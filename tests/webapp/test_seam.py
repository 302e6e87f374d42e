"""Real parts together: Redis, Celery workers, daphne and a socket over the network. In-memory layers hide capacity,
order and what a kill leaves behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
import redis
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.webapp.cast import config, soon
from webapp.launch import free_port, redis_server

pytestmark = [pytest.mark.slow, pytest.mark.redis]

ROOT = Path(__file__).resolve().parents[2]


class Parts:
    """Redis and daphne, and workers as a test wants them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.redis_port = free_port(), free_port()
        self.environment = {
            key: value for key, value in os.environ.items() if key not in ("SECRET_KEY", "DATABASE_URL")
        }
        self.environment |= {
            "DATA_DIR": str(folder),
            "REDIS_URL": f"redis://127.0.0.1:{self.redis_port}/0",
            "DJANGO_SETTINGS_MODULE": "tests.webapp.fake_settings",
            "PYTHONUNBUFFERED": "1",
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

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

    def start_search(self, name: str) -> str:
        status, content = self.ask("POST", "/api/v1/searches", config(name=name))
        assert status == 201, content
        return str(json.loads(content)["id"])

    def search(self, search_id: str) -> dict[str, Any]:
        return dict(json.loads(self.ask("GET", f"/api/v1/searches/{search_id}")[1]))

    def watch(self, search_id: str, **options: Any) -> ClientConnection:
        origin = options.pop("origin", f"http://127.0.0.1:{self.parts.port}")
        address = f"ws://127.0.0.1:{self.parts.port}/ws/searches/{search_id}/"
        return connect(address, origin=origin, additional_headers={"Cookie": self.cookie}, max_size=None, proxy=None)

    @property
    def cookie(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())


MAKE_LINK = """
from django.contrib.auth.models import User
from webapp import services
print(services.sign_in_link_create(user=User.objects.get_or_create(username="{name}")[0]))
"""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    found = Parts(tmp_path_factory.mktemp("parts"))
    try:
        found.start("redis", redis_server(), "--port", str(found.redis_port), "--save", "", "--bind", "127.0.0.1")
        found.manage("migrate")
        daphne = (sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", str(found.port), "webapp.asgi:application")
        found.start("daphne", *daphne)
        found.worker("cpu,care", "-B")
        soon(lambda: _is_healthy(found.port), seconds=60)
        yield found
    finally:
        found.end()


@pytest.fixture(scope="module")
def alice(parts: Parts) -> Person:
    return Person(parts, "alice")


@pytest.fixture
def gpu_worker(parts: Parts) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts gpu workers, one after the other; the last ends with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        started.append(parts.worker("gpu"))
        return started[-1]

    yield start
    for worker in started:
        worker.terminate()
        worker.wait(timeout=60)


def _is_healthy(port: int) -> bool:
    with contextlib.suppress(OSError), contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    return False


def folder(parts: Parts, search_id: str) -> Path:
    return parts.folder / "media" / "runs" / search_id


def engines(parts: Parts, search_id: str) -> list[int]:
    path = folder(parts, search_id) / "starts"
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def test_500_events_at_once_reach_a_connected_browser_complete_and_in_order(
    parts: Parts, alice: Person, gpu_worker: Callable[[], Any]
) -> None:
    search_id = alice.start_search("bursts")
    gpu_worker()
    with alice.watch(search_id) as socket:
        frames = [json.loads(socket.recv(timeout=30))]
        while frames[-1].get("state") != "running":
            frames.append(json.loads(socket.recv(timeout=30)))
        (folder(parts, search_id) / "go").touch()
        while not frames[-1].get("finished"):
            frames.append(json.loads(socket.recv(timeout=30)))
    seqs = [event["seq"] for frame in frames if frame["type"] == "events" for event in frame["events"]]
    assert seqs == list(range(1, 502))
    assert frames[-1]["label"] == "Finished"
    assert alice.ask("GET", f"/searches/{search_id}/files/model.py") == (200, b"# a model\n")


def test_strangers_are_refused_over_the_network(parts: Parts, alice: Person) -> None:
    search_id = alice.start_search("finishes")
    bob = Person(parts, "bob")
    nobody = Person(parts, "nobody")
    nobody.cookies.clear()
    for person, code in ((bob, 4404), (nobody, 4401)):
        with person.watch(search_id) as socket:
            with pytest.raises(ConnectionClosedError):
                socket.recv(timeout=30)
            assert socket.close_code == code
    with pytest.raises(InvalidStatus) as refused:
        alice.watch(search_id, origin="https://evil.example")
    assert refused.value.response.status_code == 403
    assert bob.ask("GET", f"/searches/{search_id}/")[0] == 404
    alice.ask("POST", f"/api/v1/searches/{search_id}/cancel")


def test_a_closing_worker_lets_its_engine_save_and_the_next_one_goes_on(
    parts: Parts, alice: Person, gpu_worker: Callable[[], subprocess.Popen[bytes]]
) -> None:
    search_id = alice.start_search("waits once")
    worker = gpu_worker()
    soon(lambda: engines(parts, search_id), seconds=30)
    worker.terminate()
    worker.wait(timeout=30)
    assert (folder(parts, search_id) / "heard").read_text() == "end of file"
    found = alice.search(search_id)
    assert (found["state"], found["message"][:24]) == ("queued", "Its worker was shut down")
    gpu_worker()
    soon(lambda: alice.search(search_id)["state"] == "finished", seconds=30)
    assert len(engines(parts, search_id)) == 2


def test_a_killed_worker_leaves_no_engine_behind_and_its_search_goes_on(
    parts: Parts, alice: Person, gpu_worker: Callable[[], subprocess.Popen[bytes]]
) -> None:
    search_id = alice.start_search("waits once")
    worker = gpu_worker()
    (engine,) = soon(lambda: engines(parts, search_id), seconds=30)
    soon(lambda: alice.search(search_id)["state"] == "running")
    for pid in _family(worker.pid):
        if pid != engine:
            os.kill(pid, signal.SIGKILL)
    worker.wait(timeout=10)
    soon(lambda: not Path(f"/proc/{engine}").exists())
    assert (folder(parts, search_id) / "heard").read_text() == "end of file"
    soon(lambda: "Its worker died." in alice.search(search_id)["message"], seconds=30)
    gpu_worker()
    soon(lambda: alice.search(search_id)["state"] == "finished", seconds=30)
    assert len(engines(parts, search_id)) == 2


def test_a_broker_that_forgets_everything_loses_no_search(
    parts: Parts, alice: Person, gpu_worker: Callable[[], Any]
) -> None:
    search_id = alice.start_search("finishes")
    redis.Redis.from_url(parts.environment["REDIS_URL"]).flushall()
    gpu_worker()
    soon(lambda: alice.search(search_id)["state"] == "finished", seconds=30)


def test_health_names_the_queues_that_nobody_serves(
    parts: Parts, gpu_worker: Callable[[], subprocess.Popen[bytes]]
) -> None:
    def said() -> str:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", parts.port)) as connection:
            connection.request("GET", "/healthz")
            found: dict[str, str] = json.loads(connection.getresponse().read())
            return found["workers"]

    soon(lambda: said() == "none answers for gpu", seconds=30)
    gpu_worker()
    soon(lambda: said() == "ok", seconds=60)


def test_a_busy_worker_reserves_nothing(parts: Parts, alice: Person, gpu_worker: Callable[[], Any]) -> None:
    busy, waiting = alice.start_search("waits"), alice.start_search("finishes")
    gpu_worker()
    soon(lambda: engines(parts, busy), seconds=30)
    parts.worker("gpu", "-n", "idle@test")
    soon(lambda: alice.search(waiting)["state"] == "finished", seconds=30)
    assert alice.search(busy)["state"] == "running"
    alice.ask("POST", f"/api/v1/searches/{busy}/cancel")
    soon(lambda: alice.search(busy)["state"] == "cancelled", seconds=30)


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(grandchild for child in children for grandchild in _family(int(child)))]
