"""Zips made to harm whoever unpacks them, written byte by byte where no zip program would write them.

Each stands on twenty good images, so that what is wrong with it is the one thing its name says.
"""

from __future__ import annotations

import bz2
import io
import stat
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

BZIP2, ENCRYPTED, UTF8 = 12, 1, 1 << 11


@dataclass(frozen=True)
class Member:
    """A member as its zip tells it; what is None is told truly."""

    name: str | bytes
    content: bytes
    packed: bytes | None = None
    size: int | None = None
    method: int = zlib.DEFLATED
    flags: int = UTF8
    mode: int = 0

    @property
    def spelled(self) -> bytes:
        return self.name if isinstance(self.name, bytes) else self.name.encode()

    @property
    def stored(self) -> bytes:
        if self.packed is not None:
            return self.packed
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        return packer.compress(self.content) + packer.flush()

    def local(self) -> bytes:
        return b"PK\x03\x04" + struct.pack("<HHHHH", 20, *self._facts()[:2], 0, 0) + self._sizes() + self.spelled

    def listed(self, offset: int) -> bytes:
        named, rest = self._sizes(), struct.pack("<HHHLL", 0, 0, 0, self.mode << 16, offset)
        return b"PK\x01\x02" + struct.pack("<HHHHHH", 0, 20, *self._facts()[:2], 0, 0) + named + rest + self.spelled

    def _facts(self) -> tuple[int, int]:
        return self.flags, self.method

    def _sizes(self) -> bytes:
        size = len(self.content) if self.size is None else self.size
        return struct.pack("<LLLHH", zlib.crc32(self.content), len(self.stored), size, len(self.spelled), 0)


def written(path: Path, members: Iterable[Member]) -> Path:
    """The members one after the other, then the list of them."""
    body, listed, count = bytearray(), bytearray(), 0
    for member in members:
        listed += member.listed(len(body))
        body += member.local() + member.stored
        count += 1
    path.write_bytes(body + listed + end(count, len(listed), len(body)))
    return path


def end(count: int, size: int, offset: int) -> bytes:
    """The record that ends a zip; counts beyond its 16 bits are cut, which nobody minds."""
    return b"PK\x05\x06" + struct.pack("<HHHHLLH", 0, 0, count & 0xFFFF, count & 0xFFFF, size, offset, 0)


def picture(shade: int, size: tuple[int, int] = (12, 12)) -> bytes:
    stream = io.BytesIO()
    Image.new("L", size, shade).save(stream, "PNG")
    return stream.getvalue()


def huge_picture(side: int) -> bytes:
    """A PNG that says it has so many pixels a side; its data would do for the first few lines."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(2**20)))
        + chunk(b"IEND", b"")
    )


GOOD = [Member(f"{name}/{i}.png", picture(10 * i)) for name in ("cat", "dog") for i in range(10)]


def with_(*members: Member) -> Callable[[Path], Path]:
    return lambda path: written(path, [*GOOD, *members])


def named(name: str | bytes) -> Callable[[Path], Path]:
    return with_(Member(name, picture(1)))


def many(path: Path) -> Path:
    """300,000 members, of which the first alone has bytes: listing them is what costs."""
    one = Member("cat/1.png", b"")
    listed = one.listed(0) * 300_000
    path.write_bytes(one.local() + one.stored + listed + end(300_000, len(listed), len(one.local()) + len(one.stored)))
    return path


def vast_list(path: Path) -> Path:
    """A list of contents of a gigabyte, all zeros, which take no room on the disk."""
    with path.open("wb") as stream:
        stream.write(b"PK\x03\x04")
        stream.seek(2**30 + 4)
        stream.write(end(1, 2**30, 4))
    return path


def overlapping(path: Path) -> Path:
    """Two members whose bytes are the same: the second lies in the packed bytes of the first."""
    inner = Member("dog/inner.png", picture(1))
    kernel = inner.local() + inner.stored
    outer = Member("cat/outer.png", kernel, packed=kernel, method=0)
    body = outer.local() + kernel
    listed = outer.listed(0) + inner.listed(len(outer.local()))
    path.write_bytes(body + listed + end(2, len(listed), len(body)))
    return path


def liar(path: Path) -> Path:
    """A member that says it has a thousand bytes, and would unpack to 400 MiB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)  # stands alone, so it can be said again
    packed = zeros * 400 + packer.flush()
    return with_(Member("cat/liar.png", b"", packed=packed, size=1000))(path)


def _replaced(path: Path, old: bytes, new: bytes) -> Path:
    """The first time that it stands there."""
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    return path


NOT_SAFE = "the zip file is not safe: its member"
REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "points outside": (
        named("cat/../../../x.png"),
        f"{NOT_SAFE} 'cat/../../../x.png' points outside with '..'; zip the folder of images itself",
    ),
    "points outside, as Windows does": (
        named("cat\\..\\..\\x.png"),
        f"{NOT_SAFE} 'cat/../../x.png' points outside with '..'; zip the folder of images itself",
    ),
    "points outside, on several lines": (
        named("../x\n\x1b[2J.png"),
        f"{NOT_SAFE} '../x\\n\\x1b[2J.png' points outside with '..'; zip the folder of images itself",
    ),
    "absolute": (
        named("/etc/cron.d/x.png"),
        f"{NOT_SAFE} '/etc/cron.d/x.png' has an absolute name; zip the folder of images itself",
    ),
    "a drive": (named("C:\\x.png"), f"{NOT_SAFE} 'C:/x.png' has an absolute name; zip the folder of images itself"),
    "a link": (
        with_(Member("cat/link.png", b"/etc/passwd", mode=stat.S_IFLNK | 0o777)),
        f"{NOT_SAFE} 'cat/link.png' is a symbolic link; put the image itself there",
    ),
    "a thousand to one": (
        with_(Member("cat/zeros.png", bytes(2**24))),
        f"{NOT_SAFE} 'cat/zeros.png' would unpack to more than 200 times its size; leave it out",
    ),
    "encrypted": (
        with_(Member("cat/secret.png", picture(1), flags=UTF8 | ENCRYPTED)),
        "the zip file is encrypted; make it again without a password",
    ),
    "300,000 members": (many, "the zip file has 300,000 members, more than the 200,000 allowed; leave some out"),
    "a list of contents of a gigabyte": (
        vast_list,
        "the list of contents of the zip file takes 1,024 MiB, more than the 64 MiB allowed; "
        "shorten names or leave some out",
    ),
    "overlapping members": (
        overlapping,
        f"{NOT_SAFE} 'cat/outer.png' overlaps what follows it; make it again with any zip program",
    ),
    "two of one name": (
        named("cat/1.png"),
        "the zip file has two members called 'cat/1.png'; make it again with one of them",
    ),
    "two of one name, spelled otherwise": (
        named("./cat\\\\1.png"),
        "the zip file has two members called 'cat/1.png'; make it again with one of them",
    ),
    "classes that differ in case": (
        lambda path: written(path, [*GOOD, *(Member(f"CAT/{i}.png", picture(i)) for i in range(20, 30))]),
        "the class folders 'CAT' and 'cat' are one where upper and lower case are; "
        "give them one name, or names that differ more",
    ),
    "a name that is no text": (
        named(b"cat/\xff.png"),
        "this is not a zip file, or it is damaged; make it again with any zip program",
    ),
    "nothing but zips": (
        lambda path: written(path, [Member(f"{name}.zip", b"PK\x05\x06" + bytes(18)) for name in ("cat", "dog")]),
        "there are no images in class folders ('cat.zip' is an archive; unpack it first); "
        "put each class's images in a folder of its own",
    ),
    "nothing but huge images": (
        lambda path: written(path, [replace(one, content=huge_picture(60_000)) for one in GOOD]),
        "20 of 20 image files cannot be read, more than one in ten: 'cat/0.png' has more than 89,478,485 pixels, "
        "'cat/1.png' has more than 89,478,485 pixels, 'cat/2.png' has more than 89,478,485 pixels and so on; "
        "mend or remove them",
    ),
}
"""What no image is taken from: how to make it, and what is said of it."""

RENAME = "has control characters in its name; rename it"
LEFT_OUT: dict[str, tuple[Callable[[Path], Path], tuple[str, str]]] = {
    "a line break": (named("cat/a\nb.png"), ("cat/a\\nb.png", RENAME)),
    "a line separator": (named("cat/a\u2028b.png"), ("cat/a\\u2028b.png", RENAME)),
    "an escape sequence": (named("cat/\x1b[2J.png"), ("cat/\\x1b[2J.png", RENAME)),
    "an escape sequence in one byte": (named("cat/\x9b2J.png"), ("cat/\\x9b2J.png", RENAME)),
    "a zero byte": (named("cat/1.png\0.exe"), ("cat/1.png\\x00.exe", RENAME)),
    "a reversed name": (named("cat/\u202egnp.exe"), ("cat/\\u202egnp.exe", RENAME)),
    "a class with a line break": (named("o\nwl/1.png"), ("o\\nwl/1.png", RENAME)),
    "an endless name": (
        named(f"cat/{'x' * 5000}.png"),
        (f"cat/{'x' * 996}…", "has too long a name; shorten it"),
    ),
    "a name but for its case": (
        named("cat/1.PNG"),
        ("cat/1.png", "is 'cat/1.PNG' where upper and lower case are one; rename it"),
    ),
    "a zip": (
        with_(Member("cat/more.zip", b"PK\x05\x06" + bytes(18))),
        ("cat/more.zip", "is an archive; unpack it first"),
    ),
    "a zip beside the classes": (
        with_(Member("more.tar.gz", b"\x1f\x8b")),
        ("more.tar.gz", "is an archive; unpack it first"),
    ),
    "60,000 x 60,000 pixels": (
        with_(Member("cat/huge.png", huge_picture(60_000))),
        ("cat/huge.png", "has more than 89,478,485 pixels"),
    ),
    "a liar": (liar, ("cat/liar.png", "is damaged inside the zip file")),
    "a name that is another before the bytes": (
        lambda path: with_(Member("cat/é.png", b""))(path) and _replaced(path, "é.png".encode(), b"\xff\xff.png"),
        ("cat/é.png", "is damaged inside the zip file"),
    ),
    "bzip2": (
        with_(Member("cat/bz.png", b"", packed=bz2.compress(bytes(2**20)), size=1000, method=BZIP2)),
        ("cat/bz.png", "is compressed in a way that cannot be read; use ordinary zip compression"),
    ),
}
"""Zips whose good images are taken: how to make them, and what is left out with which reason."""
