"""A program of one's own is told of what ends: signed, a few times, and never of this machine's inside."""

from __future__ import annotations

import hashlib
import hmac
import html
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from django.contrib.auth.models import User
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from tests.webapp.cast import put_into, result_ready, say
from webapp import hooks, reaper, services, tasks
from webapp.models import Delivery, Search, SearchState, Webhook
from webapp.reaper import Reaper

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where every name leads that is looked up, one after the other and the last again; this machine's own are its."""
    leads_to = ["93.184.216.34"]
    look_up = socket.getaddrinfo

    def answer(host: str, port: int, *rest: Any, **more: Any) -> list[Any]:
        if not str(host).endswith((".example", "example.org")):
            return look_up(host, port, *rest, **more)
        ip = leads_to.pop(0) if len(leads_to) > 1 else leads_to[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))]

    monkeypatch.setattr(hooks.socket, "getaddrinfo", answer)
    return leads_to


class Listener:
    """A little web server that answers as it is told and remembers what it got."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.status, self.headers, self.drip = 200, {}, False
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                listener.got.append((self.path, dict(self.headers), body))
                if listener.drip:
                    for _ in range(40):
                        self.wfile.write(b"H")
                        time.sleep(0.1)
                    return
                self.send_response(listener.status)
                for name, value in listener.headers.items():
                    self.send_header(name, value)
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}/told?by=coppice"


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    thread = threading.Thread(target=listener.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield listener
    listener.server.shutdown()
    listener.server.server_close()
    thread.join()


@pytest.fixture
def hook(alice: User, listener: Listener, settings: Any) -> str:
    """The secret of Alice's webhook, which leads to the listener."""
    settings.WEBHOOK_PRIVATE = True
    return services.webhook_set(user=alice, address=listener.address, site="https://coppice.example")


def finish(search: Search) -> None:
    say(search, result_ready(1, accuracy={"test": 0.96}, achieved={"params": 19_900}, target={"metric": "params"}))
    assert services.search_finish(search_id=search.pk, attempt=search.attempt)


def tell(search: Search) -> None:
    """As a worker would whenever it is due."""
    Delivery.objects.update(due_at=timezone.now())
    tasks.tell_webhook(str(search.pk))


def test_it_is_told_once_what_was_found(
    hook: str, listener: Listener, running: Search, sent: list[tuple[str, str]]
) -> None:
    finish(running)
    assert sent[-1] == ("webapp.tasks.tell_webhook", str(running.pk))
    for _ in range(2):
        tasks.tell_webhook(str(running.pk))
    ((path, headers, body),) = listener.got
    assert path == "/told?by=coppice" and headers["Content-Type"] == "application/json"
    assert json.loads(body) == {
        "id": str(running.pk), "name": "digits", "state": "finished",
        "sentence": "Done; the network is ready to download.",
        "url": f"https://coppice.example/searches/{running.pk}/", "accuracy": 0.96, "size": 19_900,
    }  # fmt: skip
    signed = hmac.new(hook.encode(), body, hashlib.sha256).hexdigest()
    assert headers["X-Coppice-Signature"] == f"sha256={signed}"
    webhook = Webhook.objects.get()
    assert webhook.problem == "" and webhook.told_at is not None and not Delivery.objects.exists()


def test_it_is_told_of_what_failed_too(hook: str, listener: Listener, running: Search) -> None:
    services.search_fail(search_id=running.pk, attempt=1, message="It broke.")
    tell(running)
    said = json.loads(listener.got[0][2])
    assert (said["state"], said["sentence"], said["accuracy"]) == ("failed", "Ended without a result. It broke.", None)


def test_what_is_cancelled_or_anothers_is_not_told(
    hook: str, new_search: Callable[..., Search], bob: User, sent: list[tuple[str, str]]
) -> None:
    services.search_cancel(search=new_search())
    his = new_search()
    Search.objects.filter(pk=his.pk).update(owner=bob, state=SearchState.RUNNING, attempt=1)
    services.search_fail(search_id=his.pk, attempt=1, message="")
    assert not Delivery.objects.exists() and {task for task, _ in sent} == {"webapp.tasks.run_search"}


def test_a_move_that_is_rolled_back_is_not_told(hook: str, running: Search, sent: list[tuple[str, str]]) -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        services.search_fail(search_id=running.pk, attempt=1, message="")
        raise RuntimeError
    assert not Delivery.objects.exists() and ("webapp.tasks.tell_webhook", str(running.pk)) not in sent


def test_it_is_tried_three_times_with_growing_pauses(hook: str, listener: Listener, running: Search) -> None:
    listener.status = 500
    finish(running)
    for tried, pause in ((1, 60), (2, 300)):
        tell(running)
        owed = Delivery.objects.get()
        assert owed.tries == tried and owed.due_at - timezone.now() > timedelta(seconds=pause - 5)
        tasks.tell_webhook(str(running.pk))  # before its time
        assert len(listener.got) == tried
        assert Webhook.objects.get().problem == "127.0.0.1 answered 500; expected 200."
    tell(running)
    assert len(listener.got) == 3 and not Delivery.objects.exists()
    tell(running)
    assert len(listener.got) == 3


def test_a_later_success_takes_the_problem_away(hook: str, listener: Listener, running: Search, page: Client) -> None:
    listener.status = 404
    finish(running)
    tell(running)
    shown = html.unescape(page.get("/tokens/").content.decode())
    assert "The last delivery failed, just now: 127.0.0.1 answered 404; expected 200." in shown
    listener.status = 204
    tell(running)
    assert len(listener.got) == 2 and Webhook.objects.get().problem == ""
    shown = page.get("/tokens/").content.decode()
    assert "The last delivery was taken just now." in shown and "tried again" not in shown


def test_the_page_says_when_it_is_tried_again_as_long_as_it_is(
    hook: str, listener: Listener, running: Search, page: Client, strangers_page: Client
) -> None:
    finish(running)
    assert "tried again" not in page.get("/tokens/").content.decode(), "nothing has failed so far"
    listener.status = 503
    for words in ("in about 1 minute", "in about 5 minutes"):
        tell(running)
        assert f"What was not taken is tried again {words}." in page.get("/tokens/").content.decode()
    assert "tried again" not in strangers_page.get("/tokens/").content.decode()
    Delivery.objects.update(due_at=timezone.now())
    assert "tried again in a moment." in page.get("/tokens/").content.decode()
    tell(running)
    shown = page.get("/tokens/").content.decode()
    assert "answered 503" in shown and "tried again" not in shown


def test_what_its_worker_never_ended_is_given_up(hook: str, listener: Listener, running: Search) -> None:
    finish(running)
    Delivery.objects.update(tries=3, due_at=timezone.now())
    tasks.tell_webhook(str(running.pk))
    assert not listener.got and not Delivery.objects.exists()
    assert Webhook.objects.get().problem == "The worker that told it died."


def test_a_redirect_is_not_followed(hook: str, listener: Listener, running: Search) -> None:
    listener.status, listener.headers = 307, {"Location": listener.address}
    finish(running)
    tell(running)
    assert len(listener.got) == 1
    assert Webhook.objects.get().problem == (
        "127.0.0.1 answered 307, a redirect, which is not followed; give the address it leads to."
    )


def test_who_talks_without_end_is_hung_up_on(
    hook: str, listener: Listener, running: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "SECONDS", 0.5)
    listener.drip = True
    finish(running)
    began = time.monotonic()
    tell(running)
    assert time.monotonic() - began < 3
    assert Webhook.objects.get().problem == "127.0.0.1 did not answer within 0.5 seconds."


def test_nobody_there_is_said(hook: str, listener: Listener, running: Search, alice: User) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/"
    services.webhook_set(user=alice, address=address, site="")
    finish(running)
    tell(running)
    assert "127.0.0.1 could not be talked to: [Errno 111] Connection refused." in Webhook.objects.get().problem


def test_plain_words_on_a_secure_address_are_no_delivery(
    hook: str, listener: Listener, running: Search, alice: User
) -> None:
    services.webhook_set(user=alice, address=listener.address.replace("http:", "https:"), site="")
    finish(running)
    tell(running)
    assert not listener.got and "127.0.0.1 could not be talked to: [SSL" in Webhook.objects.get().problem


# Inside stays inside

INSIDE = (
    "127.0.0.1", "127.8.8.8", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
    "224.0.0.1", "255.255.255.255", "[::1]", "[::]", "[fe80::1]", "[fd00::1]", "[fec0::1]", "[::ffff:10.0.0.1]",
    "[::10.0.0.1]", "[64:ff9b::a00:1]", "[2002:7f00:1::]", "[ff02::1]",
)  # fmt: skip


@pytest.mark.parametrize("host", INSIDE)
def test_an_address_inside_is_refused_at_once(alice: User, host: str) -> None:
    with pytest.raises(services.Refused, match="belongs to this machine or a private network, and only public"):
        services.webhook_set(user=alice, address=f"http://{host}/", site="")
    assert not Webhook.objects.exists()


ELSEWHERE = (
    "belongs to this machine or a private network, and only public addresses are told, unless whoever runs this server "
    "sets WEBHOOK_PRIVATE=1."
)


@pytest.mark.parametrize("name", ["localhost", "2130706433", "0x7f.1", "127.1", "017700000001"])
def test_a_name_that_leads_inside_is_refused_at_once_and_says_who_may_lift_that(page: Client, name: str) -> None:
    """It is looked up in the form, in whatever way an address is written."""
    answer = page.post(reverse("webhook_set"), {"address": f"http://{name}/told"})
    assert answer.status_code == 422
    assert f"Nothing was changed: {name} {ELSEWHERE}" in html.unescape(answer.content.decode())
    assert not Webhook.objects.exists()


def test_who_runs_the_server_may_lift_that(page: Client, settings: Any) -> None:
    settings.WEBHOOK_PRIVATE = True
    assert page.post(reverse("webhook_set"), {"address": "http://localhost/told"}).status_code == 302
    assert Webhook.objects.get().address == "http://localhost/told"


def test_what_leads_inside_by_the_time_it_is_told_is_not_tried_again(
    hook: str, listener: Listener, running: Search, page: Client, settings: Any
) -> None:
    """The server was set up otherwise meanwhile: another try would not change that."""
    settings.WEBHOOK_PRIVATE = False
    finish(running)
    tell(running)
    assert not listener.got and not Delivery.objects.exists()
    assert Webhook.objects.get().problem == f"127.0.0.1 {ELSEWHERE}"
    assert "tried again" not in page.get("/tokens/").content.decode()


def test_a_name_that_leads_inside_for_a_moment_is_told_later(
    running: Search, alice: User, listener: Listener, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names[:] = "93.184.216.34", "10.0.0.1", "127.0.0.1"
    address = listener.address.replace("127.0.0.1", "hook.example")
    services.webhook_set(user=alice, address=address, site="")
    monkeypatch.setattr(hooks, "is_public", lambda ip: str(ip) != "10.0.0.1")  # the listener is in here, too
    finish(running)
    tell(running)
    assert Webhook.objects.get().problem == f"hook.example {ELSEWHERE}"
    assert not listener.got and Delivery.objects.get().tries == 1
    tell(running)
    assert len(listener.got) == 1 and Webhook.objects.get().problem == "" and not Delivery.objects.exists()


def test_a_name_that_changes_its_mind_leads_nowhere_else(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked up once, and what was checked is what is connected to."""
    answers = [("93.184.216.34", 80), ("127.0.0.1", listener.server.server_port)]
    asked, connected = [], []

    def look_up(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", answers[min(len(asked), 2) - 1])]

    def connect(_: socket.socket, place: Any) -> None:
        connected.append(place)
        raise ConnectionRefusedError("not in a test")

    monkeypatch.setattr(hooks.socket, "getaddrinfo", look_up)
    monkeypatch.setattr(hooks.socket.socket, "connect", connect)
    with pytest.raises(hooks.Undelivered, match=re.escape("rebinding.example could not be talked to: not in a test.")):
        hooks.post("http://rebinding.example/", b"{}", secret="s", private=False)
    assert asked == ["rebinding.example"] and connected == [("93.184.216.34", 80)]
    with pytest.raises(hooks.Undelivered, match=r"^rebinding\.example belongs to this machine"):
        hooks.post("http://rebinding.example/", b"{}", secret="s", private=False)
    assert len(connected) == 1


def test_a_name_server_that_does_not_answer_keeps_nobody_waiting(
    page: Client, running: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sets it up is not refused: by the time that it is told the name may be known."""
    answers = threading.Event()
    monkeypatch.setattr(hooks, "LOOK_UP_SECONDS", 0.2)
    monkeypatch.setattr(hooks.socket, "getaddrinfo", lambda *_, **__: answers.wait(20) and [])
    began = time.monotonic()
    assert page.post(reverse("webhook_set"), {"address": "https://slow.example/"}).status_code == 302
    finish(running)
    tell(running)
    assert time.monotonic() - began < 10
    answers.set()
    assert Webhook.objects.get().problem == "slow.example was not found within 0.2 seconds; does its name server work?"
    assert Delivery.objects.get().tries == 1, "and it is due again"


def test_a_try_that_takes_too_long_is_said(hook: str, running: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's limit strikes wherever the task is by then."""

    def slow(*_: Any, **__: Any) -> None:
        raise SoftTimeLimitExceeded(tasks.TELL_SECONDS)

    monkeypatch.setattr(hooks, "post", slow)
    finish(running)
    tell(running)
    assert Webhook.objects.get().problem == "It was not reached within 30 seconds."
    assert Delivery.objects.get().tries == 1, "and it is due again"
    assert hooks.LOOK_UP_SECONDS + 2 * hooks.SECONDS < tasks.TELL_SECONDS, "what is slow is said in its own words"
    assert tasks.tell_webhook.time_limit < min(services.PAUSES), "no two try at once"


def test_a_name_that_nobody_knows_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(hooks.socket, "getaddrinfo", unknown)
    with pytest.raises(hooks.Undelivered, match=r"nowhere\.example is not known; is it spelt right\?"):
        hooks.post("https://nowhere.example/", b"{}", secret="s", private=False)
    hooks.check("https://nowhere.example/", private=False)  # by the time that it is told somebody may know it


# On the page


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("", "It has no address; write it like https://example.org/coppice."),
        ("example.org", "'example.org' is no web address; begin it with https:// or http://"),
        ("not an address", "'not an address' is no web address; begin it with https:// or http://"),
        ("file:///etc/passwd", "is no web address; begin it with https:// or http://"),
        ("gopher://example.org", "is no web address"),
        ("http://", "is no web address; write it like https://example.org/coppice"),
        ("http://me:word@example.org/", "it holds a name or password, which addresses do not keep secret"),
        ("http://example.org/a b", "has blanks or unusual characters; write them with percent signs"),
        ("http://example.org/\r\nHost: x", "has blanks or unusual characters"),
        ("http://example.org:99999/", "cannot be read as a web address"),
        ("http://[::1", "cannot be read as a web address"),
        (f"http://example.org/{'x' * 500}", "it has 519 characters; use at most 500"),
        ("http://192.168.1.1/", "192.168.1.1 belongs to this machine or a private network"),
    ],
)
def test_a_wrong_address_is_told_so(page: Client, address: str, sentence: str) -> None:
    answer = page.post(reverse("webhook_set"), {"address": address})
    assert answer.status_code == 422 and sentence in html.unescape(answer.content.decode())
    assert not Webhook.objects.exists()


def test_its_secret_is_shown_once_and_stands_in_no_table(page: Client) -> None:
    assert "Remove the webhook" not in page.get("/tokens/").content.decode()
    set_up = page.post(reverse("webhook_set"), {"address": "https://example.org/"})
    assert set_up["Location"] == "/tokens/#webhook", "so that a reload makes no other"
    shown = page.get("/tokens/").content.decode()
    (secret,) = set(re.findall(r"coppice_hook_[0-9a-f]{64}", shown))
    again = page.get("/tokens/").content.decode()
    assert secret not in again and "Nothing has ended since." in again and 'value="https://example.org/"' in again
    webhook = Webhook.objects.get()
    assert secret not in str(vars(webhook)) and hooks.secret_of(webhook.nonce) == secret
    assert webhook.site == "http://testserver"
    page.post(reverse("webhook_set"), {"address": "https://example.org/"})
    assert hooks.secret_of(Webhook.objects.get().nonce) != secret, "a new one each time it is set"


def test_who_is_not_to_be_told_any_more_is_not(
    hook: str, listener: Listener, running: Search, page: Client, strangers_page: Client
) -> None:
    finish(running)
    strangers_page.post(reverse("webhook_remove"))
    assert Webhook.objects.exists() and Delivery.objects.exists()
    assert listener.address.split("?")[0] not in strangers_page.get("/tokens/").content.decode()
    page.post(reverse("webhook_remove"))
    tell(running)
    assert not Webhook.objects.exists() and not Delivery.objects.exists() and not listener.got


def test_what_nobody_is_to_be_told_of_any_more_is_not_due_for_ever(hook: str, running: Search) -> None:
    """A search may end just while its webhook is removed; its row would be sent again and again."""
    finish(running)
    Webhook.objects.all().delete()
    tasks.tell_webhook(str(running.pk))
    assert not Delivery.objects.exists()


@pytest.mark.parametrize("is_final", [True, False])
def test_what_an_older_address_did_not_take_the_new_one_is_told(
    running: Search, alice: User, listener: Listener, settings: Any, is_final: bool
) -> None:
    settings.WEBHOOK_PRIVATE = True
    services.webhook_set(user=alice, address="https://example.org/", site="")
    finish(running)
    Delivery.objects.update(tries=len(services.PAUSES) - 1)
    before = services.delivery_claim(search_id=running.pk)
    assert before is not None and Delivery.objects.get().tries == len(services.PAUSES)
    services.webhook_set(user=alice, address=listener.address, site="")
    services.delivery_failed(search_id=running.pk, webhook=before, reason="It was away.", is_final=is_final)
    assert Webhook.objects.get().problem == ""
    tell(running)
    assert len(listener.got) == 1 and Webhook.objects.get().problem == "" and not Delivery.objects.exists()


def test_what_is_due_again_is_sent_again(
    hook: str, running: Search, sent: list[tuple[str, str]], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.RESEND_SECONDS = 0
    monkeypatch.setattr(reaper, "messages_in", lambda queue: 0)
    finish(running)
    sent.clear()
    Delivery.objects.update(due_at=timezone.now() + timedelta(seconds=60))
    looks = Reaper()
    for _ in range(reaper.LOOKS):
        looks.resend_lost()
    assert not sent
    Delivery.objects.update(due_at=timezone.now())
    for _ in range(reaper.LOOKS):
        looks.resend_lost()
    assert sent == [("webapp.tasks.tell_webhook", str(running.pk))]


def test_a_search_without_a_webhook_costs_no_message(running: Search, sent: list[tuple[str, str]]) -> None:
    put_into(running, SearchState.RUNNING)
    finish(running)
    assert not Delivery.objects.exists() and ("webapp.tasks.tell_webhook", str(running.pk)) not in sent
