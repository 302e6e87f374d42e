"""Promises of nasengine.sources."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

import pytest

from nasengine import sources
from nasengine.errors import DataError
from nasengine.pixels import Unreadable
from nasengine.sources import Files, Placed, layout


def zip_of(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def sentence_of(kind: str, path: Path) -> str:
    """What opening is refused with; the field is checked on the way."""
    with pytest.raises(DataError) as refused, sources.opened(kind, str(path)):
        pass
    ((field, sentence),) = refused.value.problems
    assert field == "data.path"
    return sentence


def sha_of(files: Files) -> str:
    generator = sources.digest(files)
    while True:
        try:
            next(generator)
        except StopIteration as stop:
            return str(stop.value)


def test_missing_zip_is_said(tmp_path: Path) -> None:
    assert sentence_of("zip", tmp_path / "no.zip") == f"there is no file {tmp_path / 'no.zip'}; check the path"


def test_missing_folder_is_said(tmp_path: Path) -> None:
    assert sentence_of("folder", tmp_path / "no") == f"there is no folder {tmp_path / 'no'}; check the path"


def test_a_folder_given_as_zip_and_a_zip_given_as_folder_are_told_apart(tmp_path: Path) -> None:
    file = zip_of(tmp_path / "a.zip", {"a/1.png": b"x"})
    assert sentence_of("zip", tmp_path) == f"{tmp_path} is a folder, not a zip file; use the data set 'folder' for it"
    assert sentence_of("folder", file) == f"{file} is a file, not a folder; use the data set 'zip' for a zip file"


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + b"\0" * 200])
def test_what_is_not_a_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.zip"
    file.write_bytes(content)
    assert sentence_of("zip", file) == ("this is not a zip file, or it is damaged; make it again with any zip program")


def test_a_zip_cut_short_is_refused(tmp_path: Path) -> None:
    file = zip_of(tmp_path / "a.zip", {f"a/{i}.png": os.urandom(500) for i in range(20)})
    file.write_bytes(file.read_bytes()[:-300])
    assert sentence_of("zip", file).startswith("this is not a zip file, or it is damaged")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    file = zip_of(tmp_path / "a.zip", {"a/1.png": b"x"})
    content = bytearray(file.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag of the central directory
    file.write_bytes(content)
    assert sentence_of("zip", file) == "the zip file is encrypted; make it again without a password"


@pytest.mark.parametrize("name", ["/etc/passwd", "C:/windows/x.png", "C:\\windows\\x.png", "\\x.png"])
def test_absolute_names_are_refused(tmp_path: Path, name: str) -> None:
    file = zip_of(tmp_path / "a.zip", {"a/1.png": b"x", name: b"x"})
    assert sentence_of("zip", file) == (
        f"the zip file is not safe: its member '{name.replace(chr(92), '/')}' has an absolute name; "
        "zip the folder of images itself"
    )


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "a\\..\\x.png"])
def test_names_that_point_outside_are_refused(tmp_path: Path, name: str) -> None:
    file = zip_of(tmp_path / "a.zip", {"a/1.png": b"x", name: b"x"})
    assert sentence_of("zip", file) == (
        f"the zip file is not safe: its member '{name.replace(chr(92), '/')}' points outside with '..'; "
        "zip the folder of images itself"
    )


def test_symbolic_links_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert sentence_of("zip", tmp_path / "a.zip") == (
        "the zip file is not safe: its member 'a/link.png' is a symbolic link; put the image itself there"
    )


def test_a_zip_bomb_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = zip_of(tmp_path / "a.zip", {"a/1.png": b"\0" * (2**20 + 1)})
    assert sentence_of("zip", file) == (
        "the zip file is not safe: its member 'a/1.png' would unpack to more than 200 times its size; leave it out"
    )


def test_small_members_may_be_as_empty_as_they_like(tmp_path: Path) -> None:
    file = zip_of(tmp_path / "a.zip", {"a/1.png": b"\0" * 2**20})
    with sources.opened("zip", str(file)) as files:
        assert files.sizes == {"a/1.png": 2**20}


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MEMBERS_LIMIT", 3)
    file = zip_of(tmp_path / "a.zip", {f"a/{i}.png": b"x" for i in range(4)})
    assert sentence_of("zip", file) == "the zip file has 4 members, more than the 3 allowed; leave some out"


def test_a_zip_that_unpacks_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "UNPACKED_LIMIT", 2**30)
    file = zip_of(tmp_path / "a.zip", {f"a/{i}.png": b"x" for i in range(2)})
    content = file.read_bytes()
    for i in (0, 1):  # the central directory says 0.75 GiB for each
        at = [n for n in range(len(content)) if content.startswith(b"PK\x01\x02", n)][i] + 24
        content = content[:at] + (3 * 2**28).to_bytes(4, "little") + content[at + 4 :]
    file.write_bytes(content)
    assert sentence_of("zip", file) == (
        "the zip file would unpack to 1.5 GiB, more than the 1 GiB allowed; make the images smaller first"
    )


def test_the_limits_are_those_promised() -> None:
    assert (sources.MEMBERS_LIMIT, sources.UNPACKED_LIMIT) == (200_000, 20 * 2**30)
    assert (sources.RATIO_LIMIT, sources.RATIO_MATTERS_FROM) == (200, 2**20)


def test_litter_of_operating_systems_is_not_there(tmp_path: Path) -> None:
    members = [
        "a/1.png",
        "a/.DS_Store",
        "__MACOSX/a/._1.png",
        ".git/config",
        "a/Thumbs.db",
        "b/desktop.ini",
        "a/.x/2.png",
    ]
    with sources.opened("zip", str(zip_of(tmp_path / "a.zip", dict.fromkeys(members, b"x")))) as files:
        assert set(files.sizes) == {"a/1.png"}


def test_a_member_that_fails_its_checksum_is_said_to_be_damaged(tmp_path: Path) -> None:
    file = zip_of(tmp_path / "a.zip", {"a/1.png": b"unmistakable"}, zipfile.ZIP_STORED)
    file.write_bytes(file.read_bytes().replace(b"unmistakable", b"UNMISTAKABLE", 1))
    with (
        sources.opened("zip", str(file)) as files,
        pytest.raises(Unreadable, match=r"^is damaged inside the zip file$"),
    ):
        files.read("a/1.png")


def test_backslashes_of_windows_zips_are_slashes(tmp_path: Path) -> None:
    with sources.opened("zip", str(zip_of(tmp_path / "a.zip", {"a\\1.png": b"x", "./b/2.png": b"y"}))) as files:
        assert set(files.sizes) == {"a/1.png", "b/2.png"}
        assert (files.read("a/1.png"), files.read("b/2.png")) == (b"x", b"y")


def test_links_in_a_folder_are_followed_but_never_in_circles(tmp_path: Path) -> None:
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.png").write_bytes(b"x")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "a" / "2.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "data" / "a" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with sources.opened("folder", str(tmp_path / "data")) as files:
        assert files.sizes == {"b/1.png": 1, "a/2.png": 1}


def test_a_folder_is_known_by_its_content_not_its_dates(tmp_path: Path) -> None:
    for name, content in {"one": b"x", "two": b"x", "three": b"y"}.items():
        (tmp_path / name / "a").mkdir(parents=True)
        (tmp_path / name / "a" / "1.png").write_bytes(content)
    os.utime(tmp_path / "two" / "a" / "1.png", (1, 1))
    shas = []
    for name in ("one", "two", "three"):
        with sources.opened("folder", str(tmp_path / name)) as files:
            shas.append(sha_of(files))
    assert shas[0] == shas[1] != shas[2]


def test_a_folder_with_other_names_is_another(tmp_path: Path) -> None:
    for name in ("one/a/1.png", "two/b/1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x")
    with sources.opened("folder", str(tmp_path / "one")) as one, sources.opened("folder", str(tmp_path / "two")) as two:
        assert sha_of(one) != sha_of(two)


def test_class_folders_are_classes() -> None:
    placed, homeless = layout(["cat/1.jpg", "dog/b/2.jpg"])
    assert placed == [Placed("cat/1.jpg", "all", "cat"), Placed("dog/b/2.jpg", "all", "dog")]
    assert homeless == []


@pytest.mark.parametrize(
    ("folder", "part"),
    [
        ("val", "validation"),
        ("valid", "validation"),
        ("Validation", "validation"),
        ("TRAIN", "train"),
        ("test", "test"),
    ],
)
def test_part_folders_are_known_by_their_names(folder: str, part: str) -> None:
    placed, _ = layout(["train/cat/1.jpg", f"{folder}/cat/2.jpg"])
    assert Placed(f"{folder}/cat/2.jpg", part, "cat") in placed


@pytest.mark.parametrize("wrap", ["pets/", "my/pets/"])
@pytest.mark.parametrize(
    "names", [["cat/1.jpg", "dog/2.jpg"], ["train/cat/1.jpg", "test/cat/2.jpg"], ["train/cat/1.jpg"]]
)
def test_wrapping_folders_are_unwrapped(wrap: str, names: list[str]) -> None:
    wrapped, homeless = layout([wrap + name for name in names] + ["README.md", f"{wrap}LICENSE"])
    assert [(place.part, place.class_name) for place in wrapped] == [
        (place.part, place.class_name) for place in layout(names)[0]
    ]
    assert homeless == [("README.md", "is not in a class folder"), (f"{wrap}LICENSE", "is not in a class folder")]


def test_one_class_folder_is_not_taken_for_a_wrapper() -> None:
    assert layout(["cat/1.jpg", "cat/2.jpg"])[0][0].class_name == "cat"


def test_a_class_may_be_called_train() -> None:
    placed, _ = layout(["train/1.jpg", "train/old/2.jpg", "plane/3.jpg"])
    assert {place.class_name for place in placed} == {"train", "plane"}
    assert {place.part for place in placed} == {"all"}


def test_what_stands_beside_the_part_folders_is_left_out_with_a_reason() -> None:
    placed, homeless = layout(["train/cat/1.jpg", "test/cat/1.jpg", "extra/cat/1.jpg", "train/labels.csv"])
    assert len(placed) == 2
    assert homeless == [
        ("extra/cat/1.jpg", "is in none of the folders train, val and test"),
        ("train/labels.csv", "is not in a class folder"),
    ]
