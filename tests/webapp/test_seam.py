"""Real parts together: Redis, Celery workers, daphne and a socket over the network. In-memory layers hide capacity,
order and what a kill leaves behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from tests.postgres import database_beside
from tests.webapp.cast import config, soon
from tests.webapp.parts import Parts, Person, family

pytestmark = [pytest.mark.slow, pytest.mark.redis]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    with database_beside(os.environ.get("DATABASE_URL")) as database:
        found = Parts(tmp_path_factory.mktemp("parts"), "tests.webapp.fake_settings", database)
        try:
            found.redis()
            found.manage("migrate")
            found.web()
            found.worker("cpu,hooks,care", "-B")
            soon(found.is_healthy, seconds=60)
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
        soon(lambda: engines(parts, search_id), seconds=30)
        (folder(parts, search_id) / "go").touch()
        while not frames[-1].get("finished"):
            frames.append(json.loads(socket.recv(timeout=30)))
    seqs = [event["seq"] for frame in frames if frame["type"] == "events" for event in frame["events"]]
    assert seqs == list(range(1, 502))
    assert frames[-1]["label"] == "Finished"
    assert alice.ask("GET", f"/searches/{search_id}/files/model.py") == (200, b"# a model\n")


def test_a_worker_without_a_gpu_says_so_and_who_insists_on_one_is_refused(
    parts: Parts, alice: Person, gpu_worker: Callable[[], Any]
) -> None:
    def described() -> Any:
        return json.loads(alice.ask("POST", "/api/v1/describe", config(runtime={"device": "cuda"}))[1])

    gpu_worker()
    soon(lambda: not described()["feasible"], seconds=60)
    ((field, sentence),) = described()["problems"]
    assert field == "runtime.device" and sentence.startswith("no worker here has a GPU")
    with redis.Redis(port=parts.redis_port) as client:
        assert 0 < client.ttl("coppice.devices.gpu@test") <= 60, "it counts for as long as its worker says so"


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
    for pid in family(worker.pid):
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
