"""What Prometheus is told, and whom it is told to."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from tests.webapp.cast import put_into
from webapp import services
from webapp.models import ApiToken, Dataset, Search, SearchState

pytestmark = pytest.mark.django_db


@pytest.fixture
def staff(alice: User) -> User:
    alice.is_staff = True
    alice.save()
    return alice


def bearer(user: User) -> dict[str, str]:
    return {"Authorization": f"Bearer {services.api_token_create(user=user, name='scraper')}"}


def figures(client: Client, headers: dict[str, str]) -> dict[str, float]:
    """name{label} -> value."""
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200 and answer["Content-Type"].startswith("text/plain; version=")
    samples = (
        sample for family in text_string_to_metric_families(answer.content.decode()) for sample in family.samples
    )
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value for sample in samples
    }


def test_it_counts_what_there_is(
    client: Client, staff: User, new_search: Callable[..., Search], ready_dataset: Dataset
) -> None:
    headers = bearer(staff)
    empty = figures(client, headers)
    assert empty["coppice_searches{queued}"] == empty["coppice_queue_wait_seconds"] == 0
    assert empty["coppice_heartbeat_age_seconds"] == empty["coppice_search_losses"] == 0
    an_hour_ago = timezone.now() - timedelta(hours=1)
    put_into(new_search(), SearchState.QUEUED, queued_at=an_hour_ago)
    put_into(new_search(), SearchState.RUNNING, heartbeat_at=an_hour_ago, losses=2)
    put_into(new_search(), SearchState.FAILED, heartbeat_at=an_hour_ago - timedelta(hours=1), losses=3)
    found = figures(client, headers)
    assert [found[f"coppice_searches{{{state}}}"] for state in ("queued", "running", "failed", "paused")] == [
        1,
        1,
        1,
        0,
    ]
    assert found["coppice_surveys{known}"] == 0
    assert found["coppice_datasets{ready}"] == 1 and found["coppice_upload_bytes"] == ready_dataset.bytes
    assert 3600 <= found["coppice_queue_wait_seconds"] < 3700
    assert 3600 <= found["coppice_heartbeat_age_seconds"] < 3700
    assert found["coppice_search_losses"] == 2
    assert found["coppice_disk_free_bytes"] > 0
    assert found["coppice_up{database}"] == 1


def test_it_is_for_the_staff_alone(page: Client, staff: User, bob: User, strangers_page: Client) -> None:
    client = Client()
    assert client.get("/metrics")["Location"].startswith("/accounts/login/")
    assert strangers_page.get("/metrics").status_code == 404
    assert client.get("/metrics", headers=bearer(bob)).status_code == 404
    headers = bearer(staff)
    assert page.get("/metrics").status_code == client.get("/metrics", headers=headers).status_code == 200
    ApiToken.objects.all().delete()
    assert client.get("/metrics", headers=headers).status_code == 401
    assert page.post("/metrics").status_code == 405
