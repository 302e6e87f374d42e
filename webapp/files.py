"""The files of a search's result, as its page and the API hand them out: one, or all in a zip that is made on its way.

Only what the engine announced has a name here; a path is made of its row, never of what somebody typed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from django.http import Http404, HttpRequest, HttpResponseBase, StreamingHttpResponse
from django.utils.http import content_disposition_header
from django.utils.text import slugify
from zipstream import ZIP_STORED, ZipStream

from webapp.downloads import CHUNK_BYTES, download
from webapp.models import Artifact, Search
from webapp.selectors import run_folder


def one_file(request: HttpRequest, search: Search, name: str) -> HttpResponseBase:
    """The file of that name.

    Raises:
        Http404: if there is none.
    """
    found = search.artifacts.filter(name=name).first() if "\0" not in name else None  # PostgreSQL looks for no NUL
    if found is None:
        raise Http404
    return download(request, _path(found), sha256=found.sha256)


def all_files(request: HttpRequest, search: Search) -> HttpResponseBase:
    """All of them in one zip, each in its folder, not packed once more; made while it is sent, so nowhere whole.

    Raises:
        Http404: if there are none, or one is gone.
    """
    archive = ZipStream(compress_type=ZIP_STORED, sized=True)
    try:
        for artifact in search.artifacts.all():
            archive.add_path(_path(artifact), f"{artifact.folder}/{artifact.file}")
    except FileNotFoundError:
        raise Http404 from None
    if archive.is_empty():
        raise Http404
    name = f"{slugify(search.name) or 'result'}.zip"
    headers = {
        "Cache-Control": "private, no-cache",
        "Content-Disposition": content_disposition_header(as_attachment=True, filename=name) or "attachment",
        "Content-Length": str(len(archive)),
        "X-Accel-Buffering": "no",  # an nginx in front would keep on disk what a slow line has not taken yet
    }
    sent = iter(archive) if request.method == "GET" else iter(())
    return StreamingHttpResponse(_chunks(sent), content_type="application/zip", headers=headers)


def _path(artifact: Artifact) -> Path:
    return run_folder(artifact.search_id) / artifact.folder / artifact.file


async def _chunks(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(_next, parts):
        yield chunk


def _next(parts: Iterator[bytes]) -> bytes:
    """Of many small parts about CHUNK_BYTES; empty at the end."""
    chunk = bytearray()
    for part in parts:
        chunk += part
        if len(chunk) >= CHUNK_BYTES:
            break
    return bytes(chunk)
