"""Front-end files that are not ours: out of the installed packages, and from npm what is nowhere else, into
static/vendor, which is not committed."""

from __future__ import annotations

import filecmp
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from webapp import runtime

ASSETS = {
    "plotly.min.js": ("plotly", "package_data/plotly.min.js"),
    "bootstrap/css/bootstrap.min.css": ("bootstrap", "css/bootstrap.min.css"),
    "bootstrap/js/bootstrap.bundle.min.js": ("bootstrap", "js/bootstrap.bundle.min.js"),
}
"""Name in static/vendor -> (package, file in the package)."""


class Command(BaseCommand):
    help = "Copy Plotly and Bootstrap out of the installed packages into static/vendor; npm fetches onnxruntime-web."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        folder = settings.BASE_DIR / "static" / "vendor"
        for name, (package, file) in ASSETS.items():
            copy(inside(package, file), folder / name)
        try:
            runtime.fetch(self.stdout.write)
        except runtime.NotFetched as reason:
            self.stderr.write(f"Found networks are tried on the server, not in the browser: {reason}.")


def copy(source: Path, target: Path) -> None:
    """Make target equal to source; a server that reads it meanwhile sees the old or the new, never a half."""
    try:
        if target.exists() and filecmp.cmp(source, target, shallow=False):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=target.parent)
        os.close(descriptor)
        shutil.copyfile(source, draft)
        Path(draft).chmod(0o644)
        Path(draft).replace(target)
    except OSError as error:
        raise CommandError(
            f"{target} cannot be written ({error.strerror}); the project's folder must be writable"
        ) from None


def inside(package: str, file: str) -> Path:
    """Where a file of an installed package is."""
    found = importlib.util.find_spec(package)
    folders = found.submodule_search_locations if found else None
    for path in (Path(folder) / file for folder in folders or []):
        if path.is_file():
            return path
    raise CommandError(f"the package {package} with {file} is not installed; run: pip install -r requirements.txt")
