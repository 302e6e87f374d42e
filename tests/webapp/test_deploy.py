"""Coppice for others, without containers: nginx as docker/ sets it up, PostgreSQL, Redis, all parts, a browser.

And what docker/ says about itself: its parts are those of the Procfile, nothing is secret, nothing unpinned.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import yaml
from django.conf import settings
from django.urls import reverse
from playwright.sync_api import Browser, BrowserContext, Page, WebSocket, expect

from tests import postgres
from tests.webapp.browsing import SOON, WIDE, drawn, expect_state, listened, start, wait_until
from tests.webapp.cast import soon
from tests.webapp.stack import Stack, running
from tests.webapp.story import FILES
from webapp import parts
from webapp.launch import free_port

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
WRAPPER = """
{user}
daemon off;
pid {folder}/nginx.pid;
events {{}}
http {{
    include /etc/nginx/mime.types;
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/other;
    uwsgi_temp_path {folder}/other;
    scgi_temp_path {folder}/other;
    include {folder}/site.conf;
}}
"""
"""Stands for the configuration of nginx's image, which includes ours in the same place."""


# What the files say


def test_every_part_of_the_procfile_is_a_service_under_its_name() -> None:
    named = [service["command"][0] for service in OURS.values() if len(service["command"]) == 1]
    assert sorted(set(named)) == sorted(parts.procfile(ROOT / "Procfile"))
    assert [name for name, service in OURS.items() if len(service["command"]) > 1] == ["migrate"]


@pytest.mark.parametrize("name", ["web", "gpu", "cpu", "hooks", "care", "beat"])
def test_the_image_becomes_a_part_by_its_name(name: str, tmp_path: Path) -> None:
    command = parts.procfile(ROOT / "Procfile")[name]
    shim = tmp_path / "python"
    shim.write_text('#!/bin/sh\necho python "$@"\n')
    shim.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TMPDIR": str(tmp_path / "tmp"), "PORT": "8000", "BIND": "::"}
    said = subprocess.run(
        [DOCKER / "part", name], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert said.strip() == command.replace("${BIND:-127.0.0.1}", "::").replace("$PORT", "8000")
    said = subprocess.run(
        [DOCKER / "part", "echo", "a", "b c"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert said == "a b c\n"


def test_images_are_pinned() -> None:
    base = re.findall(r"^FROM (\S+)", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    for image in base + [service["image"] for service in SERVICES.values()]:
        assert re.search(r":\d+\.\d+", image), image


def test_no_secret_is_written_down() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if "PASSWORD" in name:
                assert re.fullmatch(r"\$\{\w+(:\?.*)?\}", value), name
            assert "SECRET" not in name and not re.search(r":\w+@", re.sub(r"\$\{[^}]*\}", "", value)), name
    assert not any(".env" in line or "tls" in line for line in (ROOT / ".dockerignore").read_text().splitlines())


def test_containers_wait_until_an_engine_has_saved() -> None:
    for name, service in OURS.items():
        seconds = float(service["stop_grace_period"].removesuffix("s"))
        assert seconds > settings.ENGINE_SAVE_SECONDS + settings.ENGINE_KILL_SECONDS, name


def test_nginx_takes_uploads_as_large_as_the_form_does() -> None:
    """A file that has just the size that is allowed, and the rest of its form around it."""
    for page, name, most in (
        ("datasets", "UPLOAD_MAX", settings.UPLOAD_MAX_BYTES),
        ("weights", "WEIGHTS_MAX", settings.WEIGHTS_MAX_BYTES),
    ):
        assert SERVICES["nginx"]["environment"][name] == f"{most // 2**20 + 1}m"
        assert re.search(rf"location = {reverse(page)} \{{\n.*\n.*\{{{name}\}}", template())
    assert f"client_max_body_size {settings.DATA_UPLOAD_MAX_MEMORY_SIZE // 2**20}m;" in template()
    tried = re.search(r"/try/\$ \{.*?client_max_body_size (\d+)m;", template(), re.DOTALL)
    assert tried and int(tried[1]) * 2**20 > settings.TRY_MAX_BYTES, "the web server says it in a sentence"


def test_compose_fills_in_all_that_nginx_is_to_be_told() -> None:
    told = {name for name in SERVICES["nginx"]["environment"] if f"${{{name}}}" in template()}
    assert told == set(re.findall(r"\$\{(\w+)\}", template())) == set(SERVICES["nginx"]["environment"])


def template() -> str:
    return (DOCKER / "nginx.conf.template").read_text()


# The whole of it


def whole(test: Callable[..., None]) -> Callable[..., None]:
    """Marked as what it needs."""
    for mark in (
        pytest.mark.deploy,
        pytest.mark.browser,
        pytest.mark.redis,
        pytest.mark.slow,
        pytest.mark.timeout(600),
    ):
        test = mark(test)
    return test


def debians(name: str) -> str | None:
    """The system's program: virtual environments may carry one of that name, too."""
    return shutil.which(name, path="/usr/sbin:/usr/bin")


def missing() -> list[str]:
    lacks = [name for name in ("nginx", "redis-server", "openssl") if debians(name) is None]
    try:
        postgres.program("initdb")
    except postgres.Missing:
        lacks.append("postgresql")
    return lacks


@pytest.fixture(scope="module")
def database(browser: Browser) -> Iterator[str]:
    if lacks := missing():
        reason = f"not installed: {', '.join(lacks)}; sudo apt install nginx-light redis-server postgresql openssl"
        if os.environ.get("REQUIRE_DEPLOY") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with postgres.running() as address:
        yield address


@pytest.fixture(scope="module")
def site(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Everything, behind nginx, whose address it has."""
    folder = tmp_path_factory.mktemp("deployed")
    with redis(folder) as redis_url:
        told = {"DATABASE_URL": database, "REDIS_URL": redis_url, "HTTPS": "1", "ACCEL": "1"}
        with running(folder, settings="tests.webapp.story_settings", **told) as stack, nginx(stack) as address:
            yield Stack(address=address, link=address + urlsplit(stack.link).path, folder=folder)


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[str]:
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), *SERVICES["redis"]["command"][1:]]
    with process([str(debians("redis-server")), *options], folder / "redis.log", port):
        yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def nginx(stack: Stack) -> Iterator[str]:
    """In front of this stack, by docker/nginx.conf.template, with a certificate that it made itself."""
    folder, plain, port = stack.folder / "nginx", free_port(), free_port()
    folder.mkdir()
    make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=127.0.0.1"
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([str(debians("openssl")), *make.split(), *files], capture_output=True, check=True)
    told = {
        "HTTP_PORT": str(plain),
        "HTTPS_PORT": str(port),
        "WEB": stack.address.removeprefix("http://"),
        "DATA_DIR": str(stack.folder),
        "TLS_DIR": str(folder),
        "PAGES_DIR": str(DOCKER),
        "UPLOAD_MAX": "2m",
        "WEIGHTS_MAX": "1m",
    }
    site = re.sub(r"\$\{(\w+)\}", lambda match: told[match[1]], template())
    (folder / "site.conf").write_text(site)
    user = "user root;" if os.geteuid() == 0 else ""  # whose files it hands out
    (folder / "nginx.conf").write_text(WRAPPER.format(user=user, folder=folder))
    command = [str(debians("nginx")), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    with process(command, folder / "nginx.log", port):
        yield f"https://127.0.0.1:{port}"


@contextlib.contextmanager
def process(command: list[str], log: Path, port: int) -> Iterator[None]:
    """It runs, and listens on this port."""

    def listens() -> bool:
        assert running.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
            return True
        return False

    with log.open("wb") as output:
        running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        soon(listens)
        yield
    finally:
        running.terminate()
        running.wait(timeout=30)


@pytest.fixture(scope="module")
def context(browser: Browser, site: Stack) -> Iterator[BrowserContext]:
    """Of the one who followed the link."""
    context = browser.new_context(viewport=WIDE, base_url=site.address, ignore_https_errors=True)  # type: ignore[arg-type]
    context.set_default_timeout(SOON)
    page = context.new_page()
    page.goto(site.link)
    expect(page.get_by_role("heading", name="Searches", exact=True)).to_be_visible()
    page.close()
    yield context
    context.close()


@pytest.fixture(scope="module")
def searched(context: BrowserContext) -> Page:
    """The page of a search that was watched from its start to its end, without a complaint."""
    complaints = listened(context)
    page = context.new_page()
    sockets: list[WebSocket] = []
    page.on("websocket", lambda socket: sockets.append(socket))
    start(page, "Behind nginx")
    page.locator("#chart-losses").scroll_into_view_if_needed()
    expect_state(page, "Finished")
    assert [urlsplit(socket.url).scheme for socket in sockets] == ["wss"], "never cut off"
    assert drawn(page, "losses") > 10
    assert complaints == []
    return page


@whole
def test_a_search_is_started_watched_to_its_end_and_its_files_come_whole(searched: Page) -> None:
    links = searched.locator("#artifacts .files a[download]")
    for index, name in enumerate(links.all_inner_texts()):
        with searched.expect_download() as download:
            links.nth(index).click()
        content = Path(download.value.path()).read_bytes()
        assert content == FILES[name], name
        assert hashlib.sha256(content).hexdigest() == links.nth(index).get_attribute("data-sha256")
    with searched.expect_download() as download:
        searched.get_by_role("link", name="Download all (zip)").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert {name: archive.read(f"result/{name}") for name in FILES} == FILES


@whole
def test_nginx_hands_out_ranges_under_the_headers_that_the_web_server_gave(searched: Page) -> None:
    content = FILES["model.onnx"]
    etag = f'"{hashlib.sha256(content).hexdigest()}"'
    ask = searched.context.request
    url = f"{searched.url}files/model.onnx"
    part = ask.get(url, headers={"Range": "bytes=5-24", "If-Range": etag})
    assert (part.status, part.body()) == (206, content[5:25])
    assert part.headers["content-range"] == f"bytes 5-24/{len(content)}"
    assert part.headers["etag"] == etag and part.headers["content-disposition"] == 'attachment; filename="model.onnx"'
    assert part.headers["cache-control"] == "private, no-cache"
    assert "x-accel-redirect" not in part.headers
    part = ask.get(url, headers={"Range": "bytes=5-24", "If-Match": etag})
    assert (part.status, part.body()) == (206, content[5:25])
    assert ask.get(url, headers={"Range": "bytes=5-24", "If-Match": '"another"'}).status == 412
    other = ask.get(url, headers={"Range": "bytes=5-24", "If-Range": '"another"'})
    assert (other.status, other.body()) == (200, content)
    assert [header["value"] for header in other.headers_array if header["name"].lower() == "accept-ranges"] == ["bytes"]
    known = ask.get(url, headers={"If-None-Match": etag})
    assert (known.status, known.body()) == (304, b"")


@whole
def test_security_headers_come_once_on_pages_and_files(searched: Page) -> None:
    for url in (searched.url, f"{searched.url}files/model.onnx"):
        found = [header["name"].lower() for header in searched.context.request.get(url).headers_array]
        for name in (
            "strict-transport-security", "content-security-policy", "x-frame-options", "x-content-type-options",
            "referrer-policy", "cross-origin-opener-policy",
        ):  # fmt: skip
            assert found.count(name) == 1, (url, name)


@whole
def test_the_inner_address_of_files_is_nobodys(searched: Page, site: Stack, browser: Browser) -> None:
    inner = f"/protected/runs/{searched.url.split('/')[-2]}/result/model.onnx"
    assert (site.folder / "media" / inner.removeprefix("/protected/")).exists()
    stranger = browser.new_context(base_url=site.address, ignore_https_errors=True)
    for ask in (searched.context.request, stranger.request):
        for address in (inner, "/protected/../secret_key", "/protected/%2e%2e/secret_key", "/protected../secret_key"):
            assert ask.get(address, max_redirects=0).status in (404, 400), address
    assert stranger.request.get(f"{searched.url}files/model.onnx", max_redirects=0).status == 302
    stranger.close()


@whole
def test_too_large_an_upload_is_refused_readably_before_it_is_received(
    context: BrowserContext, site: Stack, tmp_path: Path
) -> None:
    """By the limit of its own address: what a zip may have is too much for weights."""
    file, smaller = tmp_path / "large.zip", tmp_path / "smaller.zip"
    file.write_bytes(b"PK\x03\x04" + bytes(3 * 2**20))
    smaller.write_bytes(b"PK\x03\x04" + bytes(3 * 2**19))
    page = context.new_page()
    page.goto("/datasets/")
    page.locator("#upload input[type=file]").set_input_files(file)
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.locator("#upload-text")).to_have_text("This file is larger than the server takes.")
    for place, size in (("datasets", file), ("weights", smaller)):
        plain = context.request.post(f"{site.address}/{place}/", multipart={"file": size})
        assert plain.status == 413 and "This file is larger than the server takes" in plain.text()
    assert context.request.post(f"{site.address}/datasets/", multipart={"file": smaller}).status == 403  # by Django
    assert not any((site.folder / "media" / kind).exists() for kind in ("uploads", "weights"))
    page.close()


@whole
def test_guesses_are_counted_by_the_address_that_nginx_saw(browser: Browser, site: Stack) -> None:
    context = browser.new_context(base_url=site.address, ignore_https_errors=True)
    context.request.get("/accounts/login/")
    (token,) = [cookie["value"] for cookie in context.cookies() if cookie["name"] == "coppice_csrf"]
    said = [
        context.request.post(
            "/accounts/login/",
            form={"username": "owner", "password": "guess", "csrfmiddlewaretoken": token},
            headers={"X-Forwarded-For": f"10.0.0.{number}", "Referer": f"{site.address}/accounts/login/"},
        ).status
        for number in range(8)
    ]
    assert said == [200] * 7 + [429]
    context.close()


@whole
def test_scripts_come_packed_and_what_is_plain_is_sent_to_tls(context: BrowserContext, site: Stack) -> None:
    script = context.request.get("/static/vendor/plotly.min.js")
    assert script.ok and script.headers["content-encoding"] == "gzip"
    plain = re.search(r"listen (\d+);", (site.folder / "nginx" / "site.conf").read_text())
    assert plain is not None
    moved = context.request.get(f"http://127.0.0.1:{plain[1]}/searches/", max_redirects=0)
    assert (moved.status, moved.headers["location"]) == (301, "https://127.0.0.1/searches/")


@pytest.mark.long
@whole
def test_a_database_that_went_away_costs_no_search(context: BrowserContext, database: str) -> None:
    page = context.new_page()
    start(page, "cut off in 6 seconds")
    page.locator("#chart-losses").scroll_into_view_if_needed()
    wait_until(lambda: drawn(page, "losses") > 10, "that it has said something")
    with psycopg.connect(database, autocommit=True) as server:
        cut = server.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        ).fetchone()
    assert cut is not None and cut[0] > 0
    expect_state(page, "Finished", 90)
    page.close()
