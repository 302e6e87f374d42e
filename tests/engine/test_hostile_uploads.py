"""What strangers upload to do harm: said to them in a sentence, at a bounded price, with nothing left behind."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile import GOOD, LEFT_OUT, REFUSED, Member, huge_picture, liar, many, vast_list, with_, written
from small import ROOT, surroundings

from nasengine import packing, sources
from nasengine.config import DataConfig
from nasengine.errors import DataError
from nasengine.events import DataReady, from_line, to_line
from nasengine.names import CONTROL
from nasengine.pixels import Unreadable

Build = Callable[[Path], Path]
FURTHER_MIB = 150
"""What a hostile zip may take beyond a small innocent one."""
WATCHED = """
import atexit, pathlib, runpy, sys

def peak():
    status = pathlib.Path("/proc/self/status").read_text()
    print(status.partition("VmHWM:")[2].split()[0], file=sys.stderr)

atexit.register(peak)
runpy.run_module("nasengine", run_name="__main__", alter_sys=True)
"""
"""The command line, which says at its end how many KiB it took at most (its own, not what its parent had)."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("COPPICE_CACHE", str(folder))
    return folder


def data_of(file: Path) -> DataConfig:
    return DataConfig(dataset="zip", path=str(file), image_size=12)


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("build", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_says_why_and_leaves_nothing(tmp_path: Path, build: Build, sentence: str) -> None:
    file = build(tmp_path / "a.zip")
    with pytest.raises(DataError) as refused:
        list(packing.pack(data_of(file), tmp_path / "out"))
    assert refused.value.problems == (("data.path", sentence),)
    assert files_in(tmp_path) == ["a.zip"]


@pytest.mark.parametrize(("build", "left_out"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_what_is_left_out_says_why_and_the_rest_is_taken(
    tmp_path: Path, build: Build, left_out: tuple[str, str]
) -> None:
    *_, ready = packing.pack(data_of(build(tmp_path / "a.zip")), tmp_path / "out")
    assert isinstance(ready, DataReady)
    assert (ready.classes, sum(ready.splits.values())) == (["cat", "dog"], 20)
    assert [(one["file"], one["reason"]) for one in ready.left_out] == [left_out]
    assert not CONTROL.search(to_line(ready)) and from_line(to_line(ready)) == ready
    cached, *rest = files_in(tmp_path / "cache")
    assert cached.endswith(".npz") and not rest
    assert {path.split("/")[0] for path in files_in(tmp_path)} == {"a.zip", "cache", "out"}


def streamed(path: Path) -> Path:
    """As a program writes that cannot go back: sizes come after the bytes."""

    class Pipe(io.RawIOBase):
        content = b""

        def write(self, more: Any) -> int:
            self.content += bytes(more)
            return len(more)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in GOOD:
            archive.writestr(member.name, member.content)
    path.write_bytes(pipe.content)
    return path


def of_64_bits(path: Path) -> Path:
    """With a comment, folders of their own, and numbers of 64 bits."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = b"Our pets"
        archive.mkdir("cat")
        for member in GOOD:
            with archive.open(zipfile.ZipInfo(member.name), "w", force_zip64=True) as stream:
                stream.write(member.content)
    return path


def behind_a_program(path: Path) -> Path:
    """As one that unpacks itself."""
    path.write_bytes(bytes(5000) + written(path, GOOD).read_bytes())
    return path


@pytest.mark.parametrize("build", [streamed, of_64_bits, behind_a_program])
def test_what_ordinary_programs_write_is_taken_whole(tmp_path: Path, build: Build) -> None:
    packed = packing.loaded(data_of(build(tmp_path / "a.zip")))
    assert len(packed.images) == 20 and packed.left_out == ()


def test_a_folder_is_read_as_carefully(tmp_path: Path) -> None:
    """Names on a disk need not even be text."""
    for member in GOOD:
        (tmp_path / "pets" / member.name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / member.name).write_bytes(member.content)
    cats = str(tmp_path / "pets" / "cat").encode()
    for name in (b"\xff.png", b"a\nb.png", b"1.PNG"):
        Path((cats + b"/" + name).decode(errors="surrogateescape")).write_bytes(GOOD[0].content)
    packed = packing.loaded(DataConfig(dataset="folder", path=str(tmp_path / "pets"), image_size=12))
    assert len(packed.images) == 20
    assert packed.left_out == (
        ("cat/1.png", "is 'cat/1.PNG' where upper and lower case are one; rename it"),
        ("cat/\\udcff.png", "has control characters in its name; rename it"),
        ("cat/a\\nb.png", "has control characters in its name; rename it"),
    )


def test_classes_of_a_folder_may_not_differ_in_case_alone(tmp_path: Path) -> None:
    for member in [*GOOD, *(Member(f"Dog/{i}.png", GOOD[i].content) for i in range(10))]:
        (tmp_path / "pets" / member.name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / member.name).write_bytes(member.content)
    with pytest.raises(DataError, match="the class folders 'Dog' and 'dog' are one where upper and lower case are"):
        packing.loaded(DataConfig(dataset="folder", path=str(tmp_path / "pets"), image_size=12))


def test_a_member_is_unpacked_no_further_than_it_says(tmp_path: Path) -> None:
    """Its checksum may even be that of the bytes it says it has."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(bytes(2**20)) + packer.flush()
    file = written(tmp_path / "a.zip", [Member("cat/1.png", bytes(1000), packed=packed)])
    with sources.opened("zip", str(file)) as files:
        assert files.read("cat/1.png") == bytes(1000)


def test_a_damaged_zip_never_fails_without_a_sentence(tmp_path: Path) -> None:
    """Three bytes changed at a time, most of them where a zip describes itself."""
    file = written(tmp_path / "a.zip", GOOD[:2] + GOOD[10:12])
    sound, dice = file.read_bytes(), random.Random(0)
    listed = sound.index(b"PK\x01\x02")
    outcomes = set()
    for _ in range(600):
        content = bytearray(sound)
        for _ in range(3):
            content[dice.randrange(listed if dice.random() < 0.7 else 0, len(content))] = dice.choice((0, 255, 80, 3))
        file.write_bytes(content)
        try:
            with sources.opened("zip", str(file)) as files:
                for place in sources.layout(files.sizes)[0]:
                    try:
                        files.read(place.name)
                    except Unreadable as reason:
                        outcomes.add(str(reason))
        except DataError as refusal:
            outcomes.add(refusal.problems[0][1])
    assert len(outcomes) > 8
    assert all(";" in outcome or outcome.startswith("is ") for outcome in outcomes)


@pytest.fixture(scope="module")
def innocent_kib(tmp_path_factory: pytest.TempPathFactory) -> int:
    """What packing takes where nobody means harm."""
    folder = tmp_path_factory.mktemp("innocent")
    code, _, kib = packed_by_the_command_line(written(folder / "a.zip", GOOD), folder)
    assert code == 0
    return kib


def packed_by_the_command_line(file: Path, folder: Path) -> tuple[int, str, int]:
    """(exit code, last line, KiB at its peak) of `python -m nasengine pack`."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, "pack", "--dataset", "zip", "--path", file, "--out", folder / "out"],
        cwd=ROOT, env=surroundings() | {"COPPICE_CACHE": str(folder / "cache")}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines()[-1], int(done.stderr.split()[-1])


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (many, REFUSED["300,000 members"][1]),
        (vast_list, REFUSED["a list of contents of a gigabyte"][1]),
        (liar, "is damaged inside the zip file"),
        (with_(Member("cat/huge.png", huge_picture(60_000))), "has more than 89,478,485 pixels"),
    ],
    ids=["members", "list", "liar", "pixels"],
)
def test_the_memory_of_the_process_is_bounded(tmp_path: Path, innocent_kib: int, build: Build, said: str) -> None:
    code, line, kib = packed_by_the_command_line(build(tmp_path / "a.zip"), tmp_path)
    event = json.loads(line)
    refused = event["kind"] == "search_failed"
    assert code == (2 if refused else 0)
    assert said in json.dumps(event["problems"] if refused else event["left_out"])
    assert kib < innocent_kib + FURTHER_MIB * 1024
    if refused:
        assert files_in(tmp_path) == ["a.zip"]
