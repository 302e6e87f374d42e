"""A found network is tried on the server: whose it is, which images it takes, what it says, what the page offers."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import onnxruntime
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from PIL import Image

from nasengine.pixels import square
from tests.webapp import tiny_network
from tests.webapp.cast import result_ready, say
from webapp import runtime, selectors, services, trial
from webapp.judgement import judgement
from webapp.models import Search

pytestmark = pytest.mark.django_db(transaction=True)

FILES = {
    "architecture.json": tiny_network.architecture(),
    "model.onnx": tiny_network.model(),
    "pictures.png": tiny_network.pictures(),
}
MEMBER = {"target": 900, "folder": "family/900", "params": 890, "macs": 700, "test": 0.9, "validation": 0.9}
REPORT = {
    "accuracy": {"validation": 210 / 215, "test": 0.96}, "achieved": {"params": 640, "macs": 640}, "seed": 0,
    "family": [MEMBER], "data": {"splits": {"validation": 215}}, **tiny_network.judged(),
}  # fmt: skip


@pytest.fixture
def finished(running: Search) -> Search:
    """A search of Alice's with two networks that can be tried."""
    for name in ("result", "family/900"):
        folder = selectors.run_folder(running.pk) / name
        folder.mkdir(parents=True)
        for file, content in FILES.items():
            (folder / file).write_bytes(content)
    say(running, result_ready(1, "family/900", files=(*FILES,)), result_ready(2, files=(*FILES,), **REPORT))
    services.search_finish(search_id=running.pk, attempt=1)
    running.refresh_from_db()
    return running


def picture(width: int = 40, height: int = 30, mode: str = "RGB", kind: str = "PNG") -> bytes:
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, kind)
    return file.getvalue()


def tried(page: Client, search: Search, content: bytes | None, **fields: str) -> tuple[int, dict[str, Any]]:
    image = {} if content is None else {"image": SimpleUploadedFile("photo.png", content)}
    answer = page.post(reverse("search_try", args=[search.pk]), {**fields, **image})
    return answer.status_code, answer.json()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("folder", ["", "family/900"])
def test_it_says_what_the_network_says_of_the_pixels_that_training_would_see(
    page: Client, finished: Search, mode: str, folder: str
) -> None:
    status, said = tried(page, finished, picture(mode=mode), network=folder)
    assert status == 200 and said["classes"] == tiny_network.CLASSES
    seen = np.frombuffer(base64.b64decode(said["pixels"]), dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(seen, square(picture(mode=mode), 8, grey=True))
    if mode == "L":
        assert np.array_equal(seen, square(picture(mode=mode), 8))
    x = (seen.astype(np.float32) / 255 - tiny_network.MEAN) / np.float32(tiny_network.STD)
    session = onnxruntime.InferenceSession(FILES["model.onnx"], providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": x[None, None].astype(np.float32)})[0]
    assert said["chances"] == pytest.approx(np.exp(logits) / np.exp(logits).sum(), abs=1e-5)
    assert 0 < said["milliseconds"] < 1000 and said["runs"] >= 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "There is no image; choose one."),
        (b"", "This image cannot be used: it is empty."),
        (b"just words", "This image cannot be used: it is not an image (JPEG, PNG, GIF, BMP, TIFF or WebP)."),
        (picture()[:60], "This image cannot be used: it is truncated."),
        (picture(100, 50), "This image cannot be used: it has more than 4,000 pixels."),
        (picture() + bytes(20_000), "This image is larger than 20.0 kB; make it smaller first."),
    ],
    ids=["none", "empty", "words", "cut off", "many pixels", "many bytes"],
)
def test_what_cannot_be_used_is_said_in_a_sentence(
    page: Client, finished: Search, settings: Any, content: bytes | None, sentence: str
) -> None:
    settings.TRY_MAX_PIXELS, settings.TRY_MAX_BYTES = 4000, 20_000
    status, said = tried(page, finished, content)
    assert status == 422 and said["message"].startswith(sentence)


def test_images_wait_for_each_other_but_not_for_ever(page: Client, finished: Search, settings: Any) -> None:
    settings.TRY_WAIT_SECONDS = 0.01
    with trial._one_at_a_time:
        status, said = tried(page, finished, picture())
    assert (status, said["message"]) == (422, "The server is busy with other images; try again in a moment.")
    assert tried(page, finished, picture())[0] == 200, "and it is free again"
    assert tried(page, finished, b"just words")[0] == 422 and tried(page, finished, picture())[0] == 200


@pytest.mark.parametrize("folder", ["family/7", "..", "../../secret", "result/..", "family/900/../900", "family/900\0"])
def test_there_are_no_other_networks(page: Client, finished: Search, folder: str) -> None:
    status, said = tried(page, finished, picture(), network=folder)
    assert (status, said["message"]) == (409, "This search has no such network to try.")


def test_a_search_without_a_network_has_none_to_try(page: Client, running: Search) -> None:
    assert tried(page, running, picture())[0] == 409
    assert "<try-it" not in page.get(running.url).content.decode()


def test_anothers_network_is_not_there(strangers_page: Client, finished: Search) -> None:
    answer = strangers_page.post(reverse("search_try", args=[finished.pk]), {"image": SimpleUploadedFile("a", b"a")})
    assert answer.status_code == 404


def test_the_page_offers_every_network_and_the_examples(page: Client, finished: Search) -> None:
    answer = page.get(finished.url)
    told = answer.context["trial"]["told"]
    assert [network["label"] for network in told["networks"]] == ["640 parameters, the main target", "890 parameters"]
    assert told["networks"][1]["files"] == f"{finished.url}files/family/900/"
    assert told["sheet"]["url"] == f"{finished.url}files/pictures.png" and len(told["examples"]) == 8
    assert "'wasm-unsafe-eval'" in answer["Content-Security-Policy"]
    for url in ("/", "/searches/new/", "/datasets/"):
        assert "wasm" not in page.get(url)["Content-Security-Policy"]


@pytest.mark.parametrize("missing", [True, False])
def test_where_browsers_cannot_get_what_runs_networks_the_server_is_asked(
    page: Client, finished: Search, settings: Any, missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.TRY_IN_BROWSER = missing
    monkeypatch.setattr(runtime, "is_there", lambda: not missing)
    answer = page.get(finished.url)
    assert answer.context["trial"]["told"]["assets"] is None
    assert "The server runs the network and answers; your image is not kept." in answer.content.decode()


# What it gets wrong


def test_the_table_counts_right_and_wrong_and_leads_to_pictures(page: Client, finished: Search) -> None:
    content = page.get(finished.url).content.decode()
    assert "Of 215 validation images, 97.7 % are put into the right class." in content
    assert '<td data-shade="6"><button type="button" data-true="8" data-predicted="1">3</button></td>' in content
    assert (
        '<td data-shade="6" class="right">21</td>' in content and content.count('<button type="button" data-true') == 3
    )


def test_whoever_has_a_link_sees_the_table_without_pictures(client: Client, finished: Search) -> None:
    token = services.search_share(search=finished, days=7)
    answer = client.get(reverse("shared", args=[token]))
    content = answer.content.decode()
    assert '<td data-shade="6">3</td>' in content and "Of 215 validation images" in content
    for hidden in ('<button type="button" data-true', "pictures.png", "<try-it", "js/tryit.js"):
        assert hidden not in content
    assert "wasm" not in answer["Content-Security-Policy"]


def test_a_report_of_before_has_no_such_part(page: Client, finished: Search) -> None:
    old = {key: value for key, value in REPORT.items() if key not in tiny_network.judged()}
    Search.objects.filter(pk=finished.pk).update(report=old)
    answer = page.get(finished.url)
    assert answer.context["judged"] is None and "What it gets wrong" not in answer.content.decode()
    assert answer.context["trial"]["told"]["examples"] == [], "it can still be tried"


def test_of_very_many_classes_pairs_are_listed(page: Client, finished: Search) -> None:
    Search.objects.filter(pk=finished.pk).update(report={**REPORT, "confusion": None})
    content = page.get(finished.url).content.decode()
    assert "<td>8</td><td>1</td>" in content and 'class="confusion"' not in content


def test_shades_grow_with_the_count() -> None:
    confusion = [[60, 1, 6], [0, 10, 0], [3, 0, 0]]
    report = {
        **REPORT, "classes": ["a", "b", "c"], "confusion": confusion, "mistakes": [],
        "confused": [[0, 2, 6], [2, 0, 3], [0, 1, 1]],
    }  # fmt: skip
    shown = judgement(report, None)
    assert shown is not None
    assert [[cell.shade for cell in row.cells] for row in shown["rows"]] == [[6, 1, 6], [0, 6, 0], [3, 0, 0]]
    assert [row.right for row in shown["rows"]] == [60 / 67, 1.0, 0.0]
