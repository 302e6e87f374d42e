"""How does a secret get from the POST that made it to the page after it, to be shown once?

In a cookie of whoever asked, for that page alone: an address stands in histories and logs, a session in the database.
"""

from __future__ import annotations

from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse

SECONDS = 60
"""How long the browser may take to come to the page."""


def hand_over(answer: HttpResponse, *, user: User, page: str, name: str, secret: str) -> HttpResponse:
    """The answer, which gives the browser a secret for the page at that path."""
    answer.set_signed_cookie(
        _cookie(name), secret, salt=str(user.pk), max_age=SECONDS, path=page, httponly=True, samesite="Strict",
        secure=settings.SESSION_COOKIE_SECURE,
    )  # fmt: skip
    return answer


def handed_over(request: HttpRequest, *, user: User, name: str) -> str:
    """The secret that the browser brings, if it was made for this user; else empty."""
    return request.get_signed_cookie(_cookie(name), default="", salt=str(user.pk), max_age=SECONDS) or ""


def shown(answer: HttpResponse, *, request: HttpRequest, names: tuple[str, ...]) -> HttpResponse:
    """The answer to a request, after which the browser brings these no more; HEAD, which shows nothing, keeps them."""
    for name in names if request.method == "GET" else ():
        answer.delete_cookie(_cookie(name), path=request.path, samesite="Strict")
    return answer


def _cookie(name: str) -> str:
    return f"coppice_new_{name}"
