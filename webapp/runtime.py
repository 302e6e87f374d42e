"""onnxruntime for browsers: which, where it lies, and how it gets here. It is on npm alone, so npm fetches it."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from django.conf import settings

VERSION = "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package, as npm gives it."""
SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
"""What there is of it for WebAssembly alone: the smallest that runs every network of ours."""
FOLDER = f"vendor/onnxruntime-web-{VERSION}"
"""Among the static files."""
FETCH_SECONDS = 60
"""Where a firewall answers nobody, each start waits for so long at most."""
SILENT_MS = 15_000
"""Of the other side, before npm tries once more."""


class NotFetched(Exception):
    """Why it is not here; a part of a sentence."""


def is_there() -> bool:
    """Whether it can be served."""
    return all((_folder() / file).is_file() for file in (SCRIPT, BINARY))


def fetch(say: Callable[[str], object]) -> None:
    """Puts it among the static files, whole or not at all, unless it is there.

    Args:
        say: told a line before somebody has to wait.

    Raises:
        NotFetched: if there is no npm, or what it brings is something else.
    """
    if is_there():
        return
    package = _package(say)
    if _integrity(package) != INTEGRITY:
        raise NotFetched(f"what npm brought is not onnxruntime-web {VERSION}")
    folder = _folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as draft, tarfile.open(fileobj=io.BytesIO(package)) as archive:
        for file in (SCRIPT, BINARY):
            member = archive.extractfile(f"package/dist/{file}")
            assert member is not None  # the package is the one that was looked into
            (Path(draft) / file).write_bytes(member.read())
            (Path(draft) / file).chmod(0o644)
        folder.mkdir(exist_ok=True)
        for file in (BINARY, SCRIPT):
            (Path(draft) / file).replace(folder / file)


def _folder() -> Path:
    return Path(settings.BASE_DIR) / "static" / FOLDER


def _package(say: Callable[[str], object]) -> bytes:
    """The package as npm's registry has it; nothing of it is run."""
    npm = shutil.which("npm")
    if npm is None:
        raise NotFetched("npm is not installed")
    say(f"Fetching onnxruntime-web {VERSION} by npm, at most {FETCH_SECONDS} s…")
    with tempfile.TemporaryDirectory() as folder:
        patience = ["--fetch-retries=1", f"--fetch-timeout={SILENT_MS}"]
        command = [npm, "pack", f"onnxruntime-web@{VERSION}", "--ignore-scripts", "--silent", *patience]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, check=False, timeout=FETCH_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise NotFetched(f"npm did not fetch it within {FETCH_SECONDS} s") from None
        found = list(Path(folder).glob("*.tgz"))
        if done.returncode or not found:
            raise NotFetched(f"npm could not fetch onnxruntime-web {VERSION}; is there an internet connection?")
        return found[0].read_bytes()


def _integrity(content: bytes) -> str:
    return f"sha512-{base64.b64encode(hashlib.sha512(content).digest()).decode()}"
