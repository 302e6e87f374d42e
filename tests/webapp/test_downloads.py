"""Downloads: whole, in parts, and on from where they were cut off."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from django.http import Http404, HttpResponseBase
from django.test import RequestFactory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from webapp import downloads

CONTENT = bytes(range(256)) * 3
SHA = "ab" * 32
requests = RequestFactory()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "model.safetensors"
    file.write_bytes(CONTENT)
    return file


def got(path: Path, method: str = "GET", **headers: str) -> tuple[HttpResponseBase, bytes]:
    """Answer and body for these headers."""
    request = requests.generic(method, "/", headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = downloads.download(request, path, sha256=SHA)

    async def body() -> bytes:
        return b"".join([chunk async for chunk in answer])  # type: ignore[attr-defined]

    return answer, asyncio.run(body()) if answer.streaming else answer.content  # type: ignore[attr-defined]


def test_a_whole_file_says_that_parts_can_be_had(path: Path) -> None:
    answer, body = got(path)
    assert (answer.status_code, body) == (200, CONTENT)
    assert answer["Accept-Ranges"] == "bytes" and answer["ETag"] == f'"{SHA}"'
    assert answer["Content-Length"] == str(len(CONTENT))
    assert answer["Content-Disposition"] == 'attachment; filename="model.safetensors"'
    assert "no-cache" in answer["Cache-Control"] and "private" in answer["Cache-Control"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(first=st.integers(0, 2 * len(CONTENT)), length=st.none() | st.integers(0, 2 * len(CONTENT)))
def test_any_range_is_that_part_of_the_file(path: Path, first: int, length: int | None) -> None:
    last = "" if length is None else str(first + length)
    answer, body = got(path, Range=f"bytes={first}-{last}")
    expected = CONTENT[first:] if length is None else CONTENT[first : first + length + 1]
    if first >= len(CONTENT):
        assert (answer.status_code, body) == (416, b"")
        assert answer["Content-Range"] == f"bytes */{len(CONTENT)}"
    else:
        assert (answer.status_code, body) == (206, expected)
        assert answer["Content-Range"] == f"bytes {first}-{first + len(expected) - 1}/{len(CONTENT)}"
        assert answer["Content-Length"] == str(len(expected))


@pytest.mark.parametrize("cut", [0, 1, len(CONTENT) - 1])
def test_a_cut_download_goes_on_and_is_whole(path: Path, cut: int) -> None:
    answer, rest = got(path, Range=f"bytes={cut}-", If_Range=f'"{SHA}"')
    assert answer.status_code == 206 and CONTENT[:cut] + rest == CONTENT


def test_the_last_bytes_can_be_asked_for(path: Path) -> None:
    assert got(path, Range="bytes=-5")[1] == CONTENT[-5:]
    answer, body = got(path, Range=f"bytes=-{5 * len(CONTENT)}")
    assert (answer.status_code, body) == (206, CONTENT), "as many as there are"


def test_a_question_for_the_headers_reads_no_file(path: Path) -> None:
    answer, body = got(path, method="HEAD", Range="bytes=5-9")
    assert (answer.status_code, body, answer["Content-Length"]) == (200, b"", str(len(CONTENT)))


def test_another_version_of_the_file_is_sent_whole(path: Path) -> None:
    answer, body = got(path, Range="bytes=5-", If_Range='"another"')
    assert (answer.status_code, body) == (200, CONTENT)


@pytest.mark.parametrize(
    "odd", ["bytes", "bytes=", "bytes=b-a", "lines=1-2", "bytes=1-2,5-6", "bytes=9-3", "bytes=--1", "bytes=-0", "\x00"]
)
def test_what_is_no_single_range_means_the_whole_file(path: Path, odd: str) -> None:
    answer, body = got(path, Range=odd)
    assert (answer.status_code, body) == (200, CONTENT)


def test_who_has_the_file_gets_no_body(path: Path) -> None:
    answer, body = got(path, If_None_Match=f'"{SHA}"')
    assert (answer.status_code, body, answer["ETag"]) == (304, b"", f'"{SHA}"')


def test_a_file_that_is_gone_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(Http404):
        downloads.download(requests.get("/"), tmp_path / "gone", sha256=SHA)


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=5-9"}])
def test_an_nginx_in_front_is_told_which_file_and_keeps_the_rest(
    tmp_path: Path, settings: Any, headers: dict[str, str]
) -> None:
    """The fixture of that name, not hypothesis' settings; nginx cuts the range out itself."""
    file = tmp_path / "media" / "runs" / "family" / "50% or so.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    whole, _ = got(file)
    settings.ACCEL = True
    answer, body = got(file, **headers)
    assert (answer.status_code, body) == (200, b"")
    told = {"X-Accel-Redirect": "/protected/runs/family/50%25%20or%20so.onnx"}
    by_nginx = ("Content-Length", "Accept-Ranges")
    assert dict(answer.items()) == {name: whole[name] for name in whole.headers if name not in by_nginx} | told
    answer, body = got(file, If_Match=f'"{SHA}"', **headers)
    assert body and "X-Accel-Redirect" not in answer, "nginx would compare it with no tag at all"
    assert got(file, If_Match='"another"')[0].status_code == 412
    assert got(file, If_None_Match=f'"{SHA}"')[0].status_code == 304
    with pytest.raises(Http404):
        got(file.with_name("gone"))


def test_a_large_file_is_never_held_in_memory(path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(downloads, "CHUNK_BYTES", 100)
    answer = downloads.download(requests.get("/", headers={"Range": "bytes=50-449"}), path, sha256=SHA)

    async def sizes() -> list[int]:
        return [len(chunk) async for chunk in answer]  # type: ignore[attr-defined]

    assert asyncio.run(sizes()) == [100] * 4
