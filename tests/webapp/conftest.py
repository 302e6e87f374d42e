"""The cast and the stage: Alice owns, Bob is a stranger; folders of their own; nothing leaves this process."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from nasengine.splits import DataFacts
from tests.webapp import tiny_model
from tests.webapp.browsing import SOON, WIDE, listened
from tests.webapp.cast import A_ZIP, config
from tests.webapp.stack import Stack
from tests.webapp.stack import running as running_stack
from webapp import selectors, services
from webapp.celery import app
from webapp.models import Dataset, DatasetState, Search, Weights

CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
    if not Path(path).exists():
        reason = f"there is no browser at {path}; install chromium, or name one in CHROMIUM"
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    expect.set_options(timeout=SOON)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def stack(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("story"), settings="tests.webapp.story_settings") as stack:
        yield stack


@pytest.fixture(scope="module")
def cookies(browser: Browser, stack: Stack) -> list[dict[str, object]]:
    """Of the one who followed the link."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(stack.link)
    expect(page.get_by_role("heading", name="Searches", exact=True)).to_be_visible()
    found = context.cookies()
    context.close()
    return found  # type: ignore[return-value]


@pytest.fixture
def context(browser: Browser, cookies: list[dict[str, object]], stack: Stack) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport=WIDE, base_url=stack.address)  # type: ignore[arg-type]
    context.add_cookies(cookies)  # type: ignore[arg-type]
    context.set_default_timeout(SOON)
    yield context
    context.close()


@pytest.fixture
def said(context: BrowserContext) -> list[str]:
    """What the consoles of the context's pages complain about."""
    return listened(context)


@pytest.fixture
def script(context: BrowserContext) -> Page:
    """A page to run modules in."""
    page = context.new_page()
    page.goto("/nothing-here/")
    return page


@pytest.fixture(autouse=True)
def stage(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.DATA_DIR = tmp_path
    settings.MEDIA_ROOT = tmp_path / "media"
    settings.ENGINE_CACHE = tmp_path / "cache"
    monkeypatch.setenv("COPPICE_CACHE", str(tmp_path / "cache"))
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The jobs that were sent, as (task, id), instead of a broker."""
    found: list[tuple[str, str]] = []
    monkeypatch.setattr(app, "send_task", lambda name, args: found.append((name, args[0])))
    return found


@pytest.fixture
def fake_engine(settings: Any) -> None:
    """A small script in the engine's place; the search's name chooses what it does."""
    settings.ENGINE_COMMAND = [sys.executable, str(FAKE_ENGINE)]
    settings.HEARTBEAT_SECONDS = 0.05


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice", password="alice-knows")


@pytest.fixture
def bob(db: None) -> User:
    return User.objects.create_user("bob", password="bob-knows")


@pytest.fixture
def page(client: Client, alice: User) -> Client:
    """Alice's browser."""
    client.force_login(alice)
    return client


@pytest.fixture
def strangers_page(bob: User) -> Client:
    """Bob's browser."""
    client = Client()
    client.force_login(bob)
    return client


@pytest.fixture
def new_search(alice: User) -> Callable[..., Search]:
    """Queues a search of Alice's."""

    def create(**changes: Any) -> Search:
        asked = selectors.search_asked(owner=alice, raw=config(**changes))
        return services.search_create(owner=alice, asked=asked)

    return create


@pytest.fixture
def running(new_search: Callable[..., Search]) -> Search:
    """A search of Alice's in its first attempt."""
    claimed = services.search_claim(search_id=new_search().pk)
    assert claimed is not None
    return claimed


@pytest.fixture
def new_dataset(alice: User) -> Callable[..., Dataset]:
    """Uploads a zip of Alice's."""

    def create(name: str = "Cats", owner: User = alice) -> Dataset:
        return services.dataset_upload(owner=owner, name=name, file=SimpleUploadedFile("cats and dogs.zip", A_ZIP))

    return create


@pytest.fixture
def ready_dataset(new_dataset: Callable[..., Dataset]) -> Dataset:
    """A packed data set of Alice's: two classes, 100 images each."""
    dataset = new_dataset()
    facts = DataFacts(name="cats", channels=3, class_names=("cat", "dog"), given={"all": (100, 100)})
    Dataset.objects.filter(pk=dataset.pk).update(state=DatasetState.READY, facts=facts.to_json())
    dataset.refresh_from_db()
    return dataset


@pytest.fixture
def new_weights(alice: User) -> Callable[..., Weights]:
    """Uploads weights of Alice's; those of the tiny model if nothing else is said."""

    def create(name: str = "Oak", owner: User = alice, content: bytes | None = None) -> Weights:
        file = SimpleUploadedFile("my oak.safetensors", tiny_model.weights() if content is None else content)
        return services.weights_upload(owner=owner, name=name, file=file)

    return create
