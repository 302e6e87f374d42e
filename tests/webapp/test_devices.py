"""Who insists on a GPU is told at once whether a worker has one, as far as workers have said."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from redis import ConnectionError, Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from tests.webapp.cast import config
from tests.webapp.parts import Parts
from webapp import devices
from webapp.forms import NewSearchForm
from webapp.models import Search

pytestmark = pytest.mark.django_db(transaction=True)

ON_A_GPU = config(runtime={"device": "cuda"})
REFUSED = "no worker here has a GPU, so this search would end at once; choose auto or cpu"


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What those that are known have said."""
    found: list[list[str]] = []
    monkeypatch.setattr(devices, "known", lambda: found)
    return found


@pytest.fixture
def redis(settings: Any, tmp_path: Path) -> Iterator[None]:
    parts = Parts(tmp_path, "tests.webapp.fake_settings")
    settings.REDIS_URL = parts.environment["REDIS_URL"]
    patient = Retry(ConstantBackoff(0.05), 200)
    parts.redis()
    try:
        with Redis.from_url(settings.REDIS_URL, retry=patient, retry_on_error=[ConnectionError]) as client:
            client.ping()
        yield
    finally:
        parts.end()


def described(page: Client, raw: dict[str, Any]) -> dict[str, Any]:
    return dict(page.post("/api/v1/describe", json.dumps(raw), content_type="application/json").json())


def test_no_gpu_anywhere_is_refused_at_every_door(page: Client, alice: User, workers: list[list[str]]) -> None:
    workers += [[], []]
    answer = page.post("/api/v1/searches", json.dumps(ON_A_GPU), content_type="application/json")
    assert answer.status_code == 422 and answer.json() == {"problems": [["runtime.device", REFUSED]]}
    told = described(page, ON_A_GPU)
    assert (told["feasible"], told["warnings"]) == (False, [])
    fields = {"preset": "quick", "data__dataset": "digits", "target__value": "20000", "runtime__device": "cuda"}
    assert NewSearchForm(fields, owner=alice).errors == {"runtime__device": [REFUSED]}
    assert page.post("/searches/new/", fields).status_code == 422
    assert not Search.objects.exists()
    for device in ("auto", "cpu"):
        assert described(page, config(runtime={"device": device}))["feasible"]


def test_one_worker_with_a_gpu_is_enough(page: Client, workers: list[list[str]]) -> None:
    workers += [[], ["NVIDIA H100"]]
    told = described(page, ON_A_GPU)
    assert told["feasible"] and told["warnings"] == []


def test_where_nobody_can_be_asked_it_is_doubted_only(page: Client, settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    told = described(page, ON_A_GPU)
    assert told["feasible"] and told["warnings"] == [
        ["runtime.device", "no worker has said whether it has a GPU; if none has, this search ends at once, and auto "
         "would not"],
    ]  # fmt: skip


class Ended(Exception):
    """The worker's process, while it waits to say it again."""


@pytest.mark.redis
def test_a_worker_that_still_asks_its_engine_is_a_doubt_and_no_refusal(
    page: Client, redis: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one that comes later than those that have none."""
    engines: list[list[str]] = [[], ["NVIDIA H100"]]
    meanwhile = []

    def asked() -> list[str]:
        meanwhile.append(described(page, ON_A_GPU))
        return engines.pop(0)

    def wait(_: float) -> None:
        raise Ended

    monkeypatch.setattr(devices, "_gpus", asked)
    monkeypatch.setattr(devices, "time", SimpleNamespace(sleep=wait))
    for worker in ("cpu@test", "gpu@test"):
        with pytest.raises(Ended):
            devices.tell(worker)
        assert meanwhile[-1]["feasible"] and meanwhile[-1]["warnings"] == [
            ["runtime.device", "a worker has not said yet whether it has a GPU; if none has, this search ends at once, "
             "and auto would not"],
        ]  # fmt: skip
        told = described(page, ON_A_GPU)
        assert (told["feasible"], told["warnings"]) == (worker == "gpu@test", [])


def test_a_worker_whose_engine_does_not_answer_says_nothing(settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    for broken in ("raise SystemExit(1)", "print('soon')", "print('{}')", ""):
        settings.ENGINE_COMMAND = [sys.executable, "-c", broken]
        devices.tell("gpu@test")
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "the engine did not say which devices there are"
    ] * 4
