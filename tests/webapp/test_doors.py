"""Doors that stay shut: what browsers are told, who may guess how often, what production refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from webapp.models import Search

ROOT = Path(__file__).parents[2]
STRONG = "Zx9-" * 15 + "q"


# What browsers are told


def test_every_page_runs_our_own_scripts_alone_and_stands_in_nobodys_frame(page: Client, running: Search) -> None:
    for url in ("/", "/searches/new/", running.url, "/datasets/", "/api/v1/docs", "/nowhere/", "/healthz"):
        answer = page.get(url)
        policy = dict(
            part.strip().split(" ", 1) for part in answer["Content-Security-Policy"].split(";") if part.strip()
        )
        assert policy["default-src"] == "'none'" and policy["script-src"] == "'self'", url
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
