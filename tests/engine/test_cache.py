"""Files that appear whole or not at all, and that nothing stays of writers that were killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nasengine.cache import YOUNG_SECONDS, whole

WRITER = """
import sys, time
from pathlib import Path
from nasengine.cache import whole
with whole(Path(sys.argv[1])) as stream:
    stream.write(b"half")
    stream.flush()
    print("writing", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COPPICE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def written(file: Path) -> None:
    with whole(file) as stream:
        stream.write(b"all")


def aged(folder: Path) -> list[Path]:
    """The parts in a folder, made old enough that their writer would have locked them."""
    found = sorted(folder.glob("*.part"))
    for part in found:
        then = time.time() - YOUNG_SECONDS - 1
        os.utime(part, (then, then))
    return found


def test_a_killed_writers_part_goes_when_the_next_is_made_and_a_living_ones_stays(cache: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(cache / "packed" / "a.npz")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"writing\n"
            (part,) = aged(cache / "packed")
            written(cache / "packed" / "b.npz")
            assert part.read_bytes() == b"half", "its writer lives"
        finally:
            process.kill()
    assert part.exists()
    written(cache / "packed" / "b.npz")
    assert [path.name for path in (cache / "packed").iterdir()] == ["b.npz"]


def test_a_fresh_part_is_left_alone(cache: Path) -> None:
    cache.mkdir()
    (cache / "a.npzabcdefgh.part").write_bytes(b"somebody is about to lock it")
    written(cache / "b.npz")
    assert (cache / "a.npzabcdefgh.part").exists()


def test_outside_of_the_cache_only_parts_of_the_same_file_go(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "downloads"
    folder.mkdir()
    for name in ("report.jsonabcdefgh.part", "film.mkv.part", "other.jsonabcdefgh.part", "report.json.part"):
        (folder / name).write_bytes(b"")
    aged(folder)
    written(folder / "report.json")
    assert sorted(path.name for path in folder.iterdir()) == [
        "film.mkv.part", "other.jsonabcdefgh.part", "report.json", "report.json.part",
    ]  # fmt: skip


def test_what_fails_leaves_the_file_before_and_no_part(cache: Path) -> None:
    written(cache / "a.npz")
    with pytest.raises(RuntimeError), whole(cache / "a.npz") as stream:
        stream.write(b"half")
        raise RuntimeError
    assert (cache / "a.npz").read_bytes() == b"all" and [path.name for path in cache.iterdir()] == ["a.npz"]
