"""Where image files come from, a zip or a folder, and which class and part each belongs to.

Refuses what is unsafe before anything is read. Never writes to disk: members of a zip are read from its stream.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nasengine.errors import DataError
from nasengine.events import DataProgress
from nasengine.names import CONTROL, LONGEST, folded, shown
from nasengine.pace import Pace
from nasengine.pixels import Unreadable

MEMBERS_LIMIT = 200_000
DIRECTORY_LIMIT = 64 * 2**20
"""Bytes of a zip's list of contents."""
UNPACKED_LIMIT = 20 * 2**30
RATIO_LIMIT = 200
RATIO_MATTERS_FROM = 2**20
FILE_LIMIT = 256 * 2**20
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Others unpack without a bound: a few bytes of bzip2 to gigabytes."""
ODD_COMPRESSION = "is compressed in a way that cannot be read; use ordinary zip compression"

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp",
    ".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif", ".avif",
)  # fmt: skip
"""Files with these endings mean to be images, whether or not we can read them."""
ARCHIVE_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
PART_FOLDERS = {
    "train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test",
}  # fmt: skip


@dataclass(frozen=True)
class Files:
    """Files by name, relative and with forward slashes; litter of operating systems is not among them.

    Attributes:
        sizes: name -> bytes.
        read: content of a file by its name; raises Unreadable.
        archive: the zip they are in, or None for a folder.
    """

    sizes: dict[str, int]
    read: Callable[[str], bytes]
    archive: Path | None


@dataclass(frozen=True)
class Placed:
    """A file with its place."""

    name: str
    part: str
    class_name: str


@contextmanager
def opened(kind: str, path: str) -> Iterator[Files]:
    """The files of a zip or folder.

    Raises:
        DataError: if it is not there, not what it should be, or not safe to open.
    """
    place = Path(path).expanduser()
    if kind == "folder":
        yield _folder(place)
        return
    _refuse_unless(place.exists(), f"there is no file {path}; check the path")
    _refuse_unless(place.is_file(), f"{path} is a folder, not a zip file; use the data set 'folder' for it")
    try:
        _refuse_vast(place)
        archive = zipfile.ZipFile(place)
    except DataError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        raise _refusal("this is not a zip file, or it is damaged; make it again with any zip program") from None
    except OSError as error:
        raise _refusal(f"{path} cannot be opened ({error.strerror}); check its permissions") from None
    with archive:
        _refuse_unsafe(archive.infolist())
        _refuse_overlaps(archive)
        members = _by_name(archive.infolist())

        def read(name: str) -> bytes:
            info = members[name]
            if info.compress_type not in COMPRESSIONS:
                raise Unreadable(ODD_COMPRESSION)
            try:
                with archive.open(info) as stream:
                    return stream.read(info.file_size)  # no more than was declared, whatever it would unpack to
            except NotImplementedError:  # zipfile's word for patches and strong encryption
                raise Unreadable(ODD_COMPRESSION) from None
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
                raise Unreadable("is damaged inside the zip file") from error

        yield Files({name: info.file_size for name, info in members.items() if not _is_litter(name)}, read, place)


def digest(files: Files) -> Generator[DataProgress, None, str]:
    """Hexadecimal sha256 of what the files say, whatever their dates.

    For a zip that of the archive itself, so that it can be checked with sha256sum; for a folder over sorted names,
    sizes and contents. Dates would be quicker to compare, yet equal images should be known as equal on any machine.
    """
    total = files.archive.stat().st_size if files.archive else sum(files.sizes.values())
    pace, done, sha = Pace(what="packing", unit="bytes", total=total), 0, hashlib.sha256()
    if files.archive:
        with files.archive.open("rb") as stream:
            while chunk := stream.read(2**22):
                sha.update(chunk)
                done += len(chunk)
                yield from pace.at(done)
        return sha.hexdigest()
    for name, size in sorted(files.sizes.items()):
        encoded = os.fsencode(name)  # a folder's names need not be text
        sha.update(b"%d %b %d " % (len(encoded), encoded, size))
        try:
            sha.update(files.read(name) if 0 < size <= FILE_LIMIT else b"")
        except Unreadable as reason:
            sha.update(str(reason).encode())
        done += size
        yield from pace.at(done)
    return sha.hexdigest()


def layout(names: Iterable[str]) -> tuple[list[Placed], list[tuple[str, str]]]:
    """Files in class folders, sorted by name, and the other files with the reason why they have no place.

    Known are <class>/... and {train, val | valid | validation, test}/<class>/..., both under any number of wrapping
    folders; files deeper inside a class folder belong to the class.

    >>> layout(["pets/train/cat/1.jpg", "pets/test/cat/old/2.jpg"])[0]
    [Placed(name='pets/test/cat/old/2.jpg', part='test', class_name='cat'), Placed(name='pets/train/cat/1.jpg', part='train', class_name='cat')]
    """  # noqa: E501 -- a doctest's answer is one line
    inside = {name: name.split("/") for name in sorted(names)}
    homeless: dict[str, str] = {}

    def leave_out(reason: str, chosen: Callable[[list[str]], bool]) -> None:
        for name in [name for name, steps in inside.items() if chosen(steps)]:
            homeless[name] = reason
            del inside[name]

    leave_out("has too long a name; shorten it", lambda steps: sum(map(len, steps)) > LONGEST)
    leave_out("has control characters in its name; rename it", lambda steps: any(map(CONTROL.search, steps)))
    leave_out("is an archive; unpack it first", lambda steps: steps[-1].lower().endswith(ARCHIVE_SUFFIXES))
    leave_out("is not in a class folder", lambda steps: len(steps) < 2)
    while _wraps(inside.values()):
        inside = {name: steps[1:] for name, steps in inside.items()}
        leave_out("is not in a class folder", lambda steps: len(steps) < 2)
    if _has_parts(inside.values()):
        leave_out("is in none of the folders train, val and test", lambda steps: steps[0].lower() not in PART_FOLDERS)
        leave_out("is not in a class folder", lambda steps: len(steps) < 3)
        placed = [Placed(name, PART_FOLDERS[steps[0].lower()], steps[1]) for name, steps in inside.items()]
    else:
        placed = [Placed(name, "all", steps[0]) for name, steps in inside.items()]
    homeless |= _twins(placed)
    return [place for place in placed if place.name not in homeless], _said(homeless)


def _wraps(paths: Iterable[list[str]]) -> bool:
    """Whether all files are in one folder that is only a wrapper of class or part folders."""
    tops = {steps[0] for steps in paths}
    return len(tops) == 1 and tops.pop().lower() not in PART_FOLDERS and any(len(steps) > 2 for steps in paths)


def _has_parts(paths: Iterable[list[str]]) -> bool:
    """Whether the top folders are parts: all of them, or train beside at least one other part.

    A class may be called train as well: then it stands beside other classes.
    """
    tops = {steps[0] for steps in paths}
    parts = {PART_FOLDERS[top.lower()] for top in tops if top.lower() in PART_FOLDERS}
    only_parts = all(top.lower() in PART_FOLDERS for top in tops)
    deep = any(len(steps) > 2 and steps[0].lower() in PART_FOLDERS for steps in paths)
    return deep and (only_parts or ("train" in parts and len(parts) > 1))


def _twins(placed: Iterable[Placed]) -> dict[str, str]:
    """Files of a class whose name another one has but for its case, with the reason why they have no place."""
    first: dict[tuple[str, str, str], str] = {}
    twins = {place.name: (place.part, place.class_name, folded(place.name)) for place in placed}
    return {
        name: f"is '{first[key]}' where upper and lower case are one; rename it"
        for name, key in twins.items()
        if first.setdefault(key, name) != name
    }


def _said(reasons: dict[str, str]) -> list[tuple[str, str]]:
    return sorted((shown(name), reason) for name, reason in reasons.items())


def _folder(root: Path) -> Files:
    _refuse_unless(root.exists(), f"there is no folder {root}; check the path")
    _refuse_unless(root.is_dir(), f"{root} is a file, not a folder; use the data set 'zip' for a zip file")
    sizes: dict[str, int] = {}
    been: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in been:  # a link to a folder above would never end
            folders.clear()
            continue
        been.add(real)
        for name in names:
            path = Path(folder) / name
            relative = path.relative_to(root).as_posix()
            if not _is_litter(relative) and path.is_file():
                sizes[relative] = path.stat().st_size

    def read(name: str) -> bytes:
        try:
            return (root / name).read_bytes()
        except OSError as error:
            raise Unreadable(f"cannot be opened ({error.strerror})") from error

    return Files(sizes, read, None)


def _refuse_vast(place: Path) -> None:
    """Refuses a zip whose list of contents would fill the memory: ZipFile makes an object of each of its lines."""
    with place.open("rb") as stream:
        end = zipfile._EndRecData(stream)  # private, yet the very numbers that ZipFile goes by
        if end is None:
            return
        size, behind = end[zipfile._ECD_SIZE], end[zipfile._ECD_LOCATION]
        _refuse_unless(
            size <= DIRECTORY_LIMIT,
            f"the list of contents of the zip file takes {size / 2**20:,.0f} MiB, more than the "
            f"{DIRECTORY_LIMIT // 2**20} MiB allowed; shorten names or leave some out",
        )
        stream.seek(max(0, behind - size - zipfile.sizeEndCentDir64 - zipfile.sizeEndCentDir64Locator))
        members = stream.read(behind - stream.tell()).count(zipfile.stringCentralDir)
    _refuse_unless(
        members <= MEMBERS_LIMIT,
        f"the zip file has {members:,} members, more than the {MEMBERS_LIMIT:,} allowed; leave some out",
    )


def _refuse_unsafe(members: list[zipfile.ZipInfo]) -> None:
    """Refuses a zip that is locked, too large, or made to harm whoever unpacks it."""
    unpacked = sum(info.file_size for info in members)
    _refuse_unless(
        unpacked <= UNPACKED_LIMIT,
        f"the zip file would unpack to {unpacked / 2**30:.1f} GiB, more than the {UNPACKED_LIMIT / 2**30:.0f} GiB "
        "allowed; make the images smaller first",
    )
    for info in members:
        name = _name(info)
        unsafe = f"the zip file is not safe: its member '{shown(name)}'"
        _refuse_unless(not info.flag_bits & 1, "the zip file is encrypted; make it again without a password")
        _refuse_unless(
            not name.startswith("/") and not re.match("[A-Za-z]:/", name),
            f"{unsafe} has an absolute name; zip the folder of images itself",
        )
        _refuse_unless(
            ".." not in name.split("/"), f"{unsafe} points outside with '..'; zip the folder of images itself"
        )
        _refuse_unless(
            not stat.S_ISLNK(info.external_attr >> 16), f"{unsafe} is a symbolic link; put the image itself there"
        )
        _refuse_unless(
            info.file_size <= max(RATIO_MATTERS_FROM, RATIO_LIMIT * info.compress_size),
            f"{unsafe} would unpack to more than {RATIO_LIMIT} times its size; leave it out",
        )


def _refuse_overlaps(archive: zipfile.ZipFile) -> None:
    """Refuses members that share their bytes: so a small file unpacks to terabytes, each member being innocent."""
    members = sorted((info for info in archive.infolist() if info.compress_size), key=lambda info: info.header_offset)
    ends = [info.header_offset for info in members[1:]] + [archive.start_dir]
    for info, end in zip(members, ends, strict=False):
        _refuse_unless(
            info.header_offset + zipfile.sizeFileHeader + len(info.orig_filename) + info.compress_size <= end,
            f"the zip file is not safe: its member '{shown(_name(info))}' overlaps what follows it; "
            "make it again with any zip program",
        )


def _by_name(members: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """The files among the members.

    Raises:
        DataError: if two have the same name: which of them is meant, each program answers differently.
    """
    found: dict[str, zipfile.ZipInfo] = {}
    for info in members:
        if name := "" if _name(info).endswith("/") else _tidy(_name(info)):
            _refuse_unless(
                found.setdefault(name, info) is info,
                f"the zip file has two members called '{shown(name)}'; make it again with one of them",
            )
    return found


def _name(info: zipfile.ZipInfo) -> str:
    """As it stands in the zip; `filename` ends at the first zero byte."""
    return info.orig_filename.replace("\\", "/")


def _tidy(name: str) -> str:
    return "/".join(step for step in name.split("/") if step not in ("", "."))


def _is_litter(name: str) -> bool:
    steps = name.split("/")
    hidden = any(step.startswith(".") or step == "__MACOSX" for step in steps)
    return hidden or steps[-1].lower() in ("thumbs.db", "desktop.ini", "icon\r")


def _refusal(sentence: str) -> DataError:
    return DataError([("data.path", sentence)])


def _refuse_unless(condition: bool, sentence: str) -> None:  # noqa: FBT001 -- reads as a sentence
    if not condition:
        raise _refusal(sentence)
