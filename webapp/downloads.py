"""A file that can be fetched in parts: a download that was cut off goes on where it was.

With ACCEL=1 the nginx in front does the fetching: it is told which file, once everything else is settled.
"""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils.cache import get_conditional_response
from django.utils.http import content_disposition_header
from werkzeug.http import parse_if_range_header, parse_range_header

CHUNK_BYTES = 1 << 18
PROTECTED = "/protected/"
"""Where nginx has the media folder, for itself alone."""


def download(request: HttpRequest, path: Path, *, sha256: str) -> HttpResponseBase:
    """The file as an attachment: whole, or the one range that is asked for (RFC 9110), streamed in either case.

    Args:
        sha256: of the file, which never changes; it is the entity tag.

    Raises:
        Http404: if the file is gone.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise Http404 from None
    etag = f'"{sha256}"'
    headers = {
        "Cache-Control": "private, no-cache",  # kept, but asked for again each time: who may see it can change
        "Content-Disposition": content_disposition_header(as_attachment=True, filename=path.name) or "attachment",
        "ETag": etag,
    }
    known = get_conditional_response(request, etag=etag)
    if known is not None:
        known["ETag"] = etag
        return known
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    if settings.ACCEL and "If-Match" not in request.headers:  # nginx would compare that with no tag at all
        inside = PROTECTED + quote(path.relative_to(settings.MEDIA_ROOT).as_posix())
        return HttpResponse(content_type=kind, headers={**headers, "X-Accel-Redirect": inside})
    headers["Accept-Ranges"] = "bytes"
    wanted = _range(request, etag, size)
    first, end = wanted or (0, size)
    if wanted and first == end:
        return HttpResponse(status=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    if wanted:
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
    return StreamingHttpResponse(
        _chunks(path, first, end if request.method == "GET" else first),
        status=206 if wanted else 200,
        content_type=kind,
        headers={**headers, "Content-Length": str(end - first)},
    )


def _range(request: HttpRequest, etag: str, size: int) -> tuple[int, int] | None:
    """[first, end) of the range asked for, empty if it lies outside of the file; None for the whole file.

    A range of another version of the file, several ranges at once and what is no range at all mean the whole file.
    """
    if request.method != "GET":
        return None
    asked = parse_range_header(request.headers.get("Range"))
    if asked is None or asked.units != "bytes" or len(asked.ranges) != 1:
        return None
    condition = request.headers.get("If-Range")
    if condition and f'"{parse_if_range_header(condition).etag}"' != etag:
        return None
    start, _ = asked.ranges[0]
    if start < 0 and size:  # the last bytes, as many as there are
        return max(0, size + start), size
    return asked.range_for_length(size) or (size, size)


async def _chunks(path: Path, first: int, end: int) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(path.open, "rb")
    try:
        await asyncio.to_thread(file.seek, first)
        while chunk := await asyncio.to_thread(file.read, min(CHUNK_BYTES, end - first)):
            first += len(chunk)
            yield chunk
    finally:
        file.close()
