"""Doors that stay shut: whose a thing is, what browsers are told, who may guess how often, what production refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from channels.db import database_sync_to_async
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client, RequestFactory
from django.urls import URLPattern, get_resolver, reverse
from django.utils import timezone

from nasengine import events
from tests.webapp.cast import config, progress, put_into, say
from webapp import selectors, services
from webapp.asgi import application, sockets
from webapp.middleware import client_address
from webapp.models import ApiToken, Artifact, Dataset, Search, SearchState, ShareLink, Weights

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(__file__).parents[2]
STRONG = "Zx9-" * 15 + "q"
OPEN = ("login", "logout", "sign_in", "healthz", "shared", "shared_events")
"""What strangers may ask for; it tells them nothing of anybody."""


def routes() -> list[tuple[str, str]]:
    """(name, route) of every address but the operators' pages: a new one is walked, too."""
    found = []

    def walk(patterns: list[Any], prefix: str) -> None:
        for pattern in patterns:
            route = prefix + str(pattern.pattern)
            if isinstance(pattern, URLPattern):
                found.append((str(pattern.name), f"/{route}"))
            elif not route.startswith("admin"):
                walk(pattern.url_patterns, route)

    walk(get_resolver().url_patterns, "")
    return found


ROUTES = routes()
OWNED = [(name, route) for name, route in ROUTES if "pk>" in route]


def address(route: str, search: object, dataset: object, weights: object, token: object, link: object) -> str:
    """The route with these ids, and names that exist."""
    kinds = {"/tokens": token, "/datasets": dataset, "/weights": weights}
    key = next((key for start, key in kinds.items() if route.startswith(start)), search)
    path = re.sub(r"<\w+:pk>", str(key), route).replace("<path:name>", "model.py").replace("<str:name>", "0-0.png")
    return path.replace("<str:token>", "guessed").replace("<int:number>", str(link))


@dataclass(frozen=True)
class Things:
    """What Alice has: a search with file, log and a link to it, a data set with a thumbnail, weights, an API token."""

    search: Search
    dataset: Dataset
    weights: Weights
    token: ApiToken
    secret: str
    """Of the API token."""
    shared: str
    """Token of the link."""

    def at(self, route: str) -> str:
        link = self.search.share_links.first()
        return address(route, self.search.pk, self.dataset.pk, self.weights.pk, self.token.pk, link.pk if link else 0)

    def untouched(self) -> bool:
        """Whether all of it is there, and nothing was asked of the search."""
        asked = Search.objects.filter(pk=self.search.pk, state="running", requested="none", name="digits", note="")
        kept = self.search.share_links.exists() and Dataset.objects.filter(pk=self.dataset.pk).exists()
        return asked.exists() and kept and Weights.objects.filter(pk=self.weights.pk).exists()


@pytest.fixture
def things(alice: User, running: Search, ready_dataset: Dataset, new_weights: Callable[..., Weights]) -> Things:
    folder = selectors.run_folder(running.pk) / "result"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text("# hers")
    selectors.log_file(running.pk).write_text("hers")
    Artifact.objects.create(search=running, name="model.py", bytes=6, sha256="ab" * 32)
    thumbnails = selectors.packed_folder(ready_dataset.pk) / "thumbnails"
    thumbnails.mkdir(parents=True)
    (thumbnails / "0-0.png").write_bytes(b"hers")
    secret = services.api_token_create(user=alice, name="hers")
    shared = services.search_share(search=running, days=7)
    return Things(running, ready_dataset, new_weights("hers"), ApiToken.objects.get(), secret, shared)


def told(client: Client, method: str, path: str, **options: Any) -> tuple[int, str]:
    """Status and text, with ids left out: what one could tell two answers apart by."""
    answer = client.generic(method, path, **options)
    body = b"" if answer.streaming else answer.content
    own = r"[0-9a-f-]{36}|(tokens|share)/\d+|(?<=csrfmiddlewaretoken\" value=\")\w+"
    return answer.status_code, re.sub(own, "ID", body.decode(errors="replace"))


# Whose is it?


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nobody_sees_anything_without_signing_in(client: Client, things: Things, method: str) -> None:
    for name, route in ROUTES:
        if name in OPEN:
            continue
        answer = client.generic(method, things.at(route))
        if answer.status_code == 302:
            assert answer["Location"].startswith("/accounts/login/"), route
        else:
            assert answer.status_code in (401, 405) and route.startswith(("/api/", "/metrics")), route
    assert things.untouched()


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_anothers_and_nobodys_look_the_same(strangers_page: Client, things: Things, method: str) -> None:
    for _, route in OWNED:
        hers = told(strangers_page, method, things.at(route))
        assert hers == told(strangers_page, method, address(route, uuid4(), uuid4(), uuid4(), 10**6, 10**6)), route
        assert hers[0] in (404, 405), route
    assert things.untouched()


def test_another_site_gets_nothing_done_in_the_name_of_who_is_signed_in(alice: User, things: Things) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(alice)
    for _, route in ROUTES:
        answer = browser.post(things.at(route), headers={"Origin": "https://evil.example"})
        assert answer.status_code in (403, 405), route
    assert things.untouched()


@pytest.mark.parametrize(("name", "route"), OWNED)
def test_the_owner_gets_in_by_the_same_addresses(page: Client, things: Things, name: str, route: str) -> None:
    """So the walk above knocks at doors that are there."""
    statuses = {page.generic(method, things.at(route)).status_code for method in ("GET", "POST")}
    assert statuses & {200, 302, 409} and 404 not in statuses


SOCKETS = [f"/{route.pattern}" for route in sockets.routes]
SITE, ELSEWHERE = b"http://127.0.0.1:8000", b"https://evil.example"


async def close_code(path: str, browser: Client | None, origin: bytes = SITE) -> int | None:
    """How a socket ends: refused before it opens (403 to a browser), closed with a code, or None: it stays open."""
    headers = [(b"origin", origin), (b"host", b"127.0.0.1:8000")]
    if browser is not None:
        name = settings.SESSION_COOKIE_NAME
        headers.append((b"cookie", f"{name}={browser.cookies[name].value}".encode()))
    socket = WebsocketCommunicator(application, path, headers)
    try:
        if not (await socket.connect())[0]:
            return 403
        said = await socket.receive_output(timeout=10)
        return int(said["code"]) if said["type"] == "websocket.close" else None
    finally:
        await socket.disconnect()


@pytest.mark.asyncio
@pytest.mark.parametrize("route", SOCKETS)
async def test_every_socket_opens_to_its_owner_and_link_alone(
    page: Client, strangers_page: Client, things: Things, route: str
) -> None:
    """A new one is walked, too: as nobody, as a stranger, from another site, after a link is revoked."""
    ids = (things.search.pk, things.dataset.pk, things.weights.pk)
    hers = address(route, *ids, 0, 0).replace("guessed", things.shared)
    guessed = address(route, uuid4(), uuid4(), uuid4(), 0, 0)
    is_by_link = "token" in route
    assert await close_code(hers, page) is None
    assert await close_code(hers, page, ELSEWHERE) == await close_code(hers, None, ELSEWHERE) == 403
    assert await close_code(guessed, page) == 4404
    if is_by_link:
        assert await close_code(hers, None) is None
        await database_sync_to_async(services.share_link_revoke)(link=await things.search.share_links.aget())
        assert await close_code(hers, page) == await close_code(hers, None) == 4404
    else:
        assert await close_code(hers, strangers_page) == 4404
        assert await close_code(hers, None) == await close_code(guessed, None) == 4401


@pytest.mark.parametrize(
    ("referer", "back"),
    [("http://testserver/searches/?page=2", "/searches/"), ("https://evil.example/searches/", "/"), ("", "/")],
)
def test_who_signs_in_after_a_click_comes_back_to_a_page(
    client: Client, things: Things, referer: str, back: str
) -> None:
    answer = client.post(things.at("/searches/<uuid:pk>/pause/"), headers={"Referer": referer})
    assert answer["Location"] == f"/accounts/login/?next={back}"


# Tokens of scripts


def shown_once(page: Client, url: str, given: dict[str, str], pattern: str) -> set[str]:
    """The secret that the page after a POST shows, and no page after that; nor do an address or the session have it."""
    made = page.post(url, given)
    assert made.status_code == 302, "so that a reload makes no other"
    head = page.head(made["Location"])
    assert head.status_code == 200 and not head.content, "it shows nothing, so it uses nothing up"
    shown = page.get(made["Location"])
    found = set(re.findall(pattern, shown.content.decode()))
    kept = (made["Location"], page.get(made["Location"], follow=True).content.decode(), str(dict(page.session)))
    assert found and not any(secret in text for secret in found for text in kept)
    for answer in (made, shown):
        assert "no-store" in answer["Cache-Control"]
    (cookie,) = (made.cookies[name] for name in made.cookies if name.startswith("coppice_new_"))
    assert cookie["httponly"] and cookie["samesite"] == "Strict" and cookie["path"] == urlsplit(made["Location"]).path
    return found


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_script_acts_as_whoever_made_its_token(client: Client, page: Client, things: Things) -> None:
    stranger = Client(enforce_csrf_checks=True)
    headers = bearer(things.secret)
    made = stranger.post("/api/v1/searches", json.dumps(config()), content_type="application/json", headers=headers)
    assert made.status_code == 201
    search = Search.objects.get(pk=made.json()["id"])
    assert search.owner.username == "alice"
    assert len(stranger.get("/api/v1/searches", headers=headers).json()) == 2
    assert stranger.post(f"/api/v1/searches/{search.pk}/pause", headers=headers).json()["state"] == "paused"
    things.token.refresh_from_db()
    assert things.token.used_at is not None
    assert stranger.get("/", headers=headers).status_code == 302, "pages want a person"


def test_a_session_needs_the_csrf_token_that_a_script_does_not(alice: User) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(alice)
    refused = browser.post("/api/v1/searches", json.dumps(config()), content_type="application/json")
    assert refused.status_code == 403 and list(refused.json()) == ["message"]
    assert not Search.objects.exists()


def test_a_revoked_token_opens_nothing(things: Things) -> None:
    strict = Client(enforce_csrf_checks=True)
    services.api_token_revoke(token=things.token)
    for _, route in ROUTES:
        is_api = route.startswith(("/api/v1/s", "/api/v1/d", "/api/v1/w")) and "docs" not in route
        for method in ("GET", "POST") if is_api else ():
            answer = strict.generic(method, things.at(route), headers=bearer(things.secret))
            assert answer.status_code in (401, 405), route
    assert things.untouched()


def test_a_token_of_somebody_who_was_shut_out_opens_nothing(client: Client, alice: User, things: Things) -> None:
    assert client.get("/api/v1/searches", headers=bearer(things.secret)).status_code == 200
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert client.get("/api/v1/searches", headers=bearer(things.secret)).status_code == 401
    for guess in ("coppice_", "coppice_guess", things.token.token_hash):
        assert client.get("/api/v1/searches", headers=bearer(guess)).status_code == 401


def test_a_token_is_scoped_to_its_user(client: Client, bob: User, things: Things) -> None:
    headers = bearer(services.api_token_create(user=bob, name="his"))
    for _, route in OWNED:
        for method in ("GET", "POST") if route.startswith("/api/") else ():
            assert client.generic(method, things.at(route), headers=headers).status_code in (404, 405), route
    assert things.untouched()


def test_a_token_is_shown_once_and_only_its_hash_is_kept(page: Client) -> None:
    url = reverse("tokens")
    assert "No tokens yet" in page.get(url).content.decode()
    assert "say what it is for" in page.post(url, {"name": " "}).content.decode()
    (token,) = shown_once(page, url, {"name": "nightly"}, r"coppice_[\w-]{43}")
    assert token not in str(list(ApiToken.objects.values())) and ApiToken.objects.count() == 1
    assert services.api_token_user(token=token) == User.objects.get(username="alice")
    revoked = page.post(reverse("token_revoke", args=[ApiToken.objects.get().pk]), follow=True).content.decode()
    assert "&#x27;nightly&#x27; was revoked" in revoked and "No tokens yet" in revoked
    assert services.api_token_user(token=token) is None


def test_a_new_secret_is_for_whoever_made_it_alone(page: Client, alice: User, bob: User) -> None:
    """Somebody else who signs in at the same browser is shown nothing."""
    page.post(reverse("tokens"), {"name": "nightly"})
    page.force_login(bob)
    assert "Your new token" not in page.get(reverse("tokens")).content.decode()
    page.force_login(alice)
    assert "Your new token" in page.get(reverse("tokens")).content.decode()


def test_nobody_has_tokens_without_end(alice: User, settings: Any) -> None:
    settings.MAX_API_TOKENS = 2
    for _ in range(2):
        services.api_token_create(user=alice, name="one")
    with pytest.raises(services.Refused, match="You have 2 tokens; revoke one that is not needed any more"):
        services.api_token_create(user=alice, name="one too many")


# Links that show one search


def test_a_link_shows_its_search_and_nothing_else_to_whoever_has_it(client: Client, things: Things) -> None:
    say(things.search, progress(1), progress(2))
    url = f"/shared/{things.shared}/"
    answer = client.get(url)
    content = answer.content.decode()
    assert answer.status_code == 200 and things.search.name in content and answer["X-Robots-Tag"] == "noindex"
    for hidden in (
        "<dialog",
        "<form",
        "csrfmiddlewaretoken",
        "hers",
        "/files/",
        "engine-log",
        'href="/searches/',
        "/datasets/",
    ):
        assert hidden not in content, hidden
    assert [event["seq"] for event in client.get(f"{url}events/?after=1").json()["events"]] == [2]
    assert f"/ws/shared/{things.shared}/" in content
    for method in ("POST", "DELETE"):
        assert client.generic(method, url).status_code == 405
    assert client.get(things.search.url).status_code == 302, "its own address stays shut"
    assert things.untouched()


def test_a_link_does_not_tell_what_went_wrong_on_the_machine(client: Client, page: Client, things: Things) -> None:
    secret = "error: /srv/coppice/media/runs is full"
    say(things.search, events.SearchFailed(seq=0, error="OSError", message=secret, problems=[["data.path", secret]]))
    put_into(things.search, SearchState.FAILED, message=secret, problems=[["data.path", secret]])
    assert secret in page.get(things.search.url).content.decode()
    url = f"/shared/{things.shared}/"
    for shown in (client.get(url).content.decode(), client.get(f"{url}events/").content.decode()):
        assert "/srv" not in shown and "data.path" not in shown and "Ended without a result." in shown
    assert "its owner knows more" in client.get(url).content.decode()


@pytest.mark.parametrize("path", ["", "events/"])
def test_a_link_that_was_revoked_or_is_too_old_was_never_there(client: Client, things: Things, path: str) -> None:
    never = told(client, "GET", f"/shared/guessed/{path}")
    assert never[0] == 404
    ShareLink.objects.update(expires_at=timezone.now())
    assert told(client, "GET", f"/shared/{things.shared}/{path}") == never
    again = services.search_share(search=things.search, days=1)
    assert client.get(f"/shared/{again}/{path}").status_code == 200
    services.share_link_revoke(link=things.search.share_links.order_by("-pk")[0])
    assert told(client, "GET", f"/shared/{again}/{path}") == never
    services.search_share(search=things.search, days=1)
    Search.objects.all().delete()
    assert not ShareLink.objects.exists()


def test_links_are_made_shown_once_and_revoked_on_the_page(page: Client, things: Things) -> None:
    share, url = reverse("search_share", args=[things.search.pk]), things.search.url
    (link,) = shown_once(page, share, {"days": "30"}, r"http://testserver(/shared/[\w-]{43}/)")
    assert "A link is shown once, when it is made" in page.get(share, follow=True).content.decode()
    again = page.get(url).content.decode()
    assert "(2 links)" in again and link not in again
    assert link.split("/")[2] not in str(list(ShareLink.objects.values()))
    assert Client().get(link).status_code == 200
    newest = things.search.share_links.latest("pk")
    assert newest.expires_at - timezone.now() > timedelta(days=29)
    page.post(reverse("share_link_revoke", args=[things.search.pk, newest.pk]))
    assert Client().get(link).status_code == 404 and "(1 link)" in page.get(url).content.decode()
    odd = page.post(share, {"days": "4000"}, follow=True).content.decode()
    assert "for a day, a week, a month or a year; choose one of them" in odd


def test_a_search_has_not_links_without_end(things: Things, settings: Any) -> None:
    settings.MAX_SHARE_LINKS = 1
    with pytest.raises(services.Refused, match="'digits' has 1 links; revoke one that is not needed any more"):
        services.search_share(search=things.search, days=7)


# What browsers are told


def test_every_page_runs_our_own_scripts_alone_and_stands_in_nobodys_frame(page: Client, running: Search) -> None:
    described, sides = f"{running.url}describe/", f"/compare/?search={running.pk}"
    pages = (
        "/",
        "/searches/new/",
        running.url,
        described,
        sides,
        "/tokens/",
        "/datasets/",
        "/weights/",
        "/api/v1/docs",
    )
    for url in (*pages, "/nowhere/", "/healthz"):
        answer = page.get(url)
        policy = dict(
            part.strip().split(" ", 1) for part in answer["Content-Security-Policy"].split(";") if part.strip()
        )
        scripts = "'self' 'wasm-unsafe-eval'" if url == running.url else "'self'"  # networks are tried there
        assert policy["default-src"] == "'none'" and policy["script-src"] == scripts, url
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'" and answer["X-Frame-Options"] == "DENY"
        assert answer["X-Content-Type-Options"] == "nosniff" and answer["Referrer-Policy"] == "same-origin"


def test_no_template_has_a_script_of_its_own() -> None:
    for path in (ROOT / "templates").rglob("*.html"):
        text = path.read_text()
        for part in text.split("<script")[1:]:
            assert "src=" in part.split(">")[0], path
        assert not any(f" on{event}=" in text for event in ("click", "load", "change", "submit", "error", "input")), (
            path
        )
        assert "javascript:" not in text, path


def test_cookies_are_for_us_alone(client: Client, alice: User) -> None:
    answer = client.post(reverse("login"), {"username": "alice", "password": "alice-knows"})
    session = answer.cookies["coppice_session"]
    assert session["httponly"] and session["samesite"] == "Lax"


# Guessing


def test_who_guesses_passwords_has_to_wait_and_others_need_not(client: Client, alice: User, bob: User) -> None:
    url = reverse("login")
    for _ in range(7):
        assert client.post(url, {"username": "alice", "password": "guess"}).status_code == 200
    last = client.post(url, {"username": "alice", "password": "guess"})
    assert last.status_code == 429 and "Too many tries" in last.content.decode()
    assert "about 15 minutes" in last.content.decode()
    right = client.post(url, {"username": "alice", "password": "alice-knows"})
    assert right.status_code == 429, "nor does the right one help now"
    assert client.post(url, {"username": "bob", "password": "bob-knows"}).status_code == 302
    elsewhere = Client(REMOTE_ADDR="10.0.0.9")
    assert elsewhere.post(url, {"username": "alice", "password": "alice-knows"}).status_code == 302


def test_behind_a_proxy_its_word_counts_and_only_the_last_of_it(settings: Any) -> None:
    """What stands before was sent by whoever asks."""
    requests = RequestFactory(REMOTE_ADDR="10.0.0.1", headers={"X-Forwarded-For": "1.2.3.4, 5.6.7.8"})
    assert client_address(requests.get("/")) == "10.0.0.1"
    settings.HTTPS = True
    assert client_address(requests.get("/")) == "5.6.7.8"
    assert client_address(RequestFactory(REMOTE_ADDR="10.0.0.1").get("/")) == "10.0.0.1"


def test_who_remembers_in_time_starts_anew(client: Client, alice: User) -> None:
    url = reverse("login")
    for _ in range(2):
        for _ in range(6):
            assert client.post(url, {"username": "alice", "password": "guess"}).status_code == 200
        assert client.post(url, {"username": "alice", "password": "alice-knows"}).status_code == 302
        client.logout()


# Production


def manage(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key not in ("SECRET_KEY", "DEBUG", "HTTPS")} | environment
    return subprocess.run(
        [sys.executable, "manage.py", *command], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("key", [STRONG, ""], ids=["given", "made"])
def test_djangos_own_check_of_a_deployment_is_clean(key: str, tmp_path: Path) -> None:
    done = manage(
        "check", "--deploy", "--fail-level", "WARNING", HTTPS="1", SECRET_KEY=key, DATA_DIR=str(tmp_path),
        ALLOWED_HOSTS="coppice.example",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no issues" in done.stdout


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"SECRET_KEY": "secret"}, "SECRET_KEY is easy to guess; expected at least 50 random characters"),
        ({"SECRET_KEY": "ab" * 40}, "SECRET_KEY is easy to guess"),
        ({"SECRET_KEY": "django-insecure-" + STRONG}, "SECRET_KEY is easy to guess"),
        ({"SECRET_KEY": STRONG, "DEBUG": "1"}, "DEBUG shows strangers the inside; expected 0 where HTTPS is 1"),
    ],
)
def test_production_does_not_start_with_what_anybody_can_guess(
    environment: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    done = manage("check", HTTPS="1", DATA_DIR=str(tmp_path), **environment)
    assert done.returncode == 1
    assert sentence in done.stderr.strip().splitlines()[-1]
