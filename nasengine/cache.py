"""The folder of what was downloaded or packed before, and files that appear whole or not at all."""

from __future__ import annotations

import fcntl
import glob
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from nasengine.errors import DataError

PART = re.compile(r"[a-z0-9_]{8}\.part$")
"""How names of files end that are being written."""
YOUNG_SECONDS = 60
"""Within which whoever made a part has surely locked it."""


def cache_folder() -> Path:
    """$COPPICE_CACHE, else ~/.cache/coppice."""
    return Path(os.environ.get("COPPICE_CACHE") or "~/.cache/coppice").expanduser()


@contextmanager
def whole(file: Path) -> Iterator[IO[bytes]]:
    """A stream whose content becomes `file` when the block ends well; otherwise `file` stays as it was.

    Raises:
        DataError: if there is no room or no permission.
    """
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _sweep(file)
        with NamedTemporaryFile(dir=file.parent, prefix=file.name, suffix=".part", delete=False) as stream:
            temporary = Path(stream.name)
            with suppress(OSError):  # where there are no locks, nothing is swept either
                fcntl.flock(stream, fcntl.LOCK_EX)  # while its writer lives
            yield stream
        temporary.replace(file)
    except OSError as error:
        reason = error.strerror or error
        sentence = f"{file.name} cannot be written to {file.parent} ({reason}); make room there or let us write there"
        if file.is_relative_to(cache_folder()):
            sentence += ", or set COPPICE_CACHE to another folder"
        raise DataError([("", sentence)]) from error
    finally:
        if temporary:
            with suppress(OSError):
                temporary.unlink()


def _sweep(file: Path) -> None:
    """Removes what writers that were killed have left: of this file, or of any if it is in the cache."""
    name = "*" if file.is_relative_to(cache_folder()) else f"{glob.escape(file.name)}*"
    for part in file.parent.glob(f"{name}.part"):
        with suppress(OSError):  # it is locked, or somebody else was quicker
            if PART.search(part.name) and time.time() - part.stat().st_mtime > YOUNG_SECONDS:
                with part.open("rb") as stream:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    part.unlink()
