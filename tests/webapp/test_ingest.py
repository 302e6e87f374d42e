"""What strangers upload, from the page through the real engine back to the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from tests.engine.hostile import LEFT_OUT, REFUSED
from webapp import tasks
from webapp.models import Dataset, DatasetState

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def quick_looks(settings: Any) -> None:
    settings.HEARTBEAT_SECONDS = 0.1


@pytest.fixture
def ingested(page: Client, tmp_path: Path) -> Callable[[Callable[[Path], Path]], Dataset]:
    """Uploads what is built, and lets a worker look at it."""

    def ingest(build: Callable[[Path], Path]) -> Dataset:
        content = build(tmp_path / "upload.zip").read_bytes()
        assert page.post("/datasets/", {"file": SimpleUploadedFile("pets.zip", content)}).status_code == 302
        dataset = Dataset.objects.get()
        tasks.ingest_dataset(str(dataset.pk))
        dataset.refresh_from_db()
        return dataset

    return ingest


@pytest.mark.parametrize(
    "name", ["points outside, on several lines", "two of one name", "300,000 members", "nothing but huge images"]
)
def test_a_hostile_upload_fails_with_its_sentence_and_leaves_nothing(
    name: str, ingested: Callable[..., Dataset], page: Client, settings: Any
) -> None:
    build, sentence = REFUSED[name]
    dataset = ingested(build)
    assert (dataset.state, dataset.message) == (DatasetState.FAILED, sentence)
    shown = page.get(dataset.get_absolute_url()).content.decode()
    assert sentence.partition("'")[0] in shown and "\x1b" not in shown
    assert not Path(settings.ENGINE_CACHE, "packed").exists()
    kept = {path.name for path in Path(settings.MEDIA_ROOT).rglob("*") if path.is_file()}
    assert kept == {"pets.zip", "engine.log", ".lock"}


def test_a_hostile_name_is_left_out_and_shown_harmless(ingested: Callable[..., Dataset], page: Client) -> None:
    build, (file, reason) = LEFT_OUT["an escape sequence"]
    dataset = ingested(build)
    assert (dataset.state, dataset.left_out) == (DatasetState.READY, [{"file": file, "reason": reason}])
    shown = page.get(dataset.get_absolute_url()).content.decode()
    assert file in shown and "\x1b" not in shown
