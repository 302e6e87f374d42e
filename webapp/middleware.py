"""Static files under ASGI, where a request comes from, and where signing in leads back to."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.middleware import LoginRequiredMiddleware
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from whitenoise.middleware import WhiteNoiseMiddleware


class StaticFiles(WhiteNoiseMiddleware):  # type: ignore[misc]  # whitenoise's class is untyped
    """WhiteNoise that answers with the bytes themselves: a file iterator is synchronous, which ASGI cannot stream."""

    @staticmethod
    def serve(static_file: Any, request: HttpRequest) -> HttpResponse:
        found = static_file.get_response(request.method, request.META)
        if found.file is None:
            content = b""
        else:
            with found.file:
                content = found.file.read()
        response = HttpResponse(content, status=int(found.status))
        del response["content-type"]
        for key, value in found.headers:
            response[key] = value
        return response


def client_address(request: HttpRequest) -> str:
    """Whoever asks: behind our proxy (HTTPS=1) as it says, which adds its own word last; else as the socket says."""
    direct: str = request.META.get("REMOTE_ADDR", "")
    if not settings.HTTPS:
        return direct
    return request.headers.get("X-Forwarded-For", direct).rpartition(",")[2].strip()


class LoginRequired(LoginRequiredMiddleware):
    """Who signs in after a click on a button comes back to the page where it stood: buttons cannot be opened."""

    def handle_no_permission(self, request: HttpRequest, view_func: Any) -> HttpResponseRedirect:
        if request.method in ("GET", "HEAD"):
            return super().handle_no_permission(request, view_func)
        page = urlsplit(request.headers.get("Referer", ""))
        return redirect_to_login(page.path if page.netloc == request.get_host() else "/")
