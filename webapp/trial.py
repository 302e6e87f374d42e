"""Trying a found network on an image: what a search's page offers for it, and the server's own answer.

Browsers run the network themselves where they can get onnxruntime-web from us (`runtime`); `answer` is for those that
cannot. One image at a time, since each may take hundreds of megabytes to decode; nothing of it is kept.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.templatetags.static import static
from django.urls import reverse

from webapp import runtime, selectors
from webapp.models import RESULT, Artifact, Search
from webapp.services import Refused
from webapp.templatetags.words import size, whole

if TYPE_CHECKING:
    from nasengine.inference import Classifier

NETWORK = "model.onnx"
KEPT_OPEN = 4
"""Networks of those tried last that stay in memory."""

_one_at_a_time = threading.Lock()


def offer(search: Search, artifacts: Iterable[Artifact]) -> dict[str, Any] | None:
    """What the page needs to try the search's networks; None while there is none.

    `told` is what its script is told.
    """
    files, report = {artifact.name: artifact for artifact in artifacts}, search.report
    if not report or NETWORK not in files:
        return None
    params = {RESULT: report.get("achieved", {}).get("params")}
    params |= {member["folder"]: member["params"] for member in report.get("family") or []}
    networks = [
        {
            "folder": folder,
            "label": f"{whole(count)} parameters{', the main target' if folder == RESULT else ''}",
            "files": files[name].url.removesuffix(NETWORK),
        }
        for folder, count in params.items()
        if (name := Artifact.name_of(folder, NETWORK)) in files
    ]
    sheet = selectors.sheet_of(search, files)
    told = {
        "networks": networks,
        "server": reverse("search_try", args=[search.pk]),
        "assets": _assets(),
        "sheet": sheet,
        "examples": [{**one, "name": report["classes"][one["true"]]} for one in report["examples"]] if sheet else [],
    }
    return {"networks": networks, "told": told}


def _assets() -> dict[str, str] | None:
    """Where a browser gets what runs the networks; None if it is not to be had here."""
    if not (settings.TRY_IN_BROWSER and runtime.is_there()):
        return None
    return {
        "script": static(f"{runtime.FOLDER}/{runtime.SCRIPT}"),
        "binary": static(f"{runtime.FOLDER}/{runtime.BINARY}"),
    }


def answer(*, search: Search, folder: str, file: UploadedFile[Any] | None) -> dict[str, Any]:
    """What a network of the search says of an image, as plain values.

    Raises:
        Refused: with a sentence, if the image cannot be used.
        Artifact.DoesNotExist: if the search has no such network.
    """
    if "\0" in folder:  # PostgreSQL does not even look for it
        raise Artifact.DoesNotExist
    artifact = search.artifacts.get(name=Artifact.name_of(folder, NETWORK))
    if file is None:
        raise Refused("There is no image; choose one.")
    if (file.size or 0) > settings.TRY_MAX_BYTES:
        raise Refused(f"This image is larger than {size(settings.TRY_MAX_BYTES)}; make it smaller first.")
    from nasengine.pixels import Unreadable  # numpy and Pillow, and not before somebody asks

    if not _one_at_a_time.acquire(timeout=settings.TRY_WAIT_SECONDS):
        raise Refused("The server is busy with other images; try again in a moment.")
    try:
        network = _opened(selectors.run_folder(search.pk) / artifact.folder, artifact.sha256)
        said = network.answer(file.read(), most_pixels=settings.TRY_MAX_PIXELS)
    except Unreadable as reason:
        raise Refused(f"This image cannot be used: it {reason}.") from None
    finally:
        _one_at_a_time.release()
    return {
        "classes": network.classes,
        "chances": said.chances,
        "pixels": base64.b64encode(said.pixels.tobytes()).decode(),
        "size": network.size,
        "milliseconds": said.milliseconds,
        "runs": said.runs,
    }


@lru_cache(maxsize=KEPT_OPEN)
def _opened(folder: Path, sha256: str) -> Classifier:
    """The network in a folder; another checksum is another network."""
    from nasengine.inference import Classifier

    return Classifier(folder)
