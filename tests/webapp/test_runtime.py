"""onnxruntime-web comes by npm, by its hash, whole or not at all; without it everything starts all the same."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from webapp import runtime
from webapp.management.commands import fetch_assets


@pytest.fixture
def place(tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where it is put in this test, with an empty PATH beside it."""
    settings.BASE_DIR = tmp_path
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "static" / runtime.FOLDER


def npm(place: Path, script: str) -> None:
    """An npm that does this."""
    path = place.parents[2] / "bin" / "npm"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def package(place: Path) -> Path:
    path = place.parents[2] / "package.tar"
    with tarfile.open(path, "w:gz") as archive:
        for name in (runtime.SCRIPT, runtime.BINARY, "../../outside"):
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return path


def test_what_npm_brings_is_unpacked_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = package(place)
    monkeypatch.setattr(runtime, "INTEGRITY", runtime._integrity(path.read_bytes()))
    npm(place, f"/bin/cp {path} onnxruntime-web.tgz")
    assert not runtime.is_there()
    said: list[str] = []
    runtime.fetch(said.append)
    assert runtime.is_there() and said == ["Fetching onnxruntime-web 1.30.0 by npm, at most 60 s…"]
    assert sorted(file.name for file in place.iterdir()) == sorted([runtime.SCRIPT, runtime.BINARY])
    assert (place / runtime.BINARY).read_text() == runtime.BINARY
    assert list(place.parent.iterdir()) == [place], "nothing else is left"
    npm(place, "exit 1")
    runtime.fetch(said.append)
    assert len(said) == 1, "nobody waits for what is there"


def test_npm_is_told_how_long_a_silence_may_last_and_to_try_once_more(place: Path, tmp_path: Path) -> None:
    """Both times together, and its own pause of 10 s between them, are less than we wait for it."""
    npm(place, f'echo "$@" > {tmp_path}/asked; exit 1')
    with pytest.raises(runtime.NotFetched):
        runtime.fetch(print)
    asked = (tmp_path / "asked").read_text().split()
    assert {"--fetch-retries=1", "--fetch-timeout=15000"} <= set(asked)
    assert runtime.FETCH_SECONDS > 2 * 15 + 10


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (None, "npm is not installed"),
        ("exit 1", "npm could not fetch onnxruntime-web 1.30.0; is there an internet connection?"),
        ("exit 0", "npm could not fetch onnxruntime-web 1.30.0; is there an internet connection?"),
        ("/bin/sleep 20", "npm did not fetch it within 0.2 s"),
        ("echo other > onnxruntime-web.tgz", "what npm brought is not onnxruntime-web 1.30.0"),
    ],
)
def test_without_it_one_line_says_why_and_everything_starts(
    place: Path, script: str | None, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runtime, "FETCH_SECONDS", 0.2 if "sleep" in str(script) else 60)
    monkeypatch.setattr(fetch_assets, "ASSETS", {})
    if script:
        npm(place, script)
    call_command("fetch_assets")
    said = capsys.readouterr()
    assert said.err == f"Found networks are tried on the server, not in the browser: {reason}.\n"
    assert said.out.startswith("Fetching onnxruntime-web") == bool(script), "who has no npm is not told of it"
    assert not runtime.is_there() and not place.exists()
