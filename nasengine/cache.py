"""The folder of what was downloaded or packed before, and files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from nasengine.errors import DataError


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
        with NamedTemporaryFile(dir=file.parent, prefix=file.name, suffix=".part", delete=False) as stream:
            temporary = Path(stream.name)
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
