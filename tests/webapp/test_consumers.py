"""The socket, through the whole ASGI application: strangers refused, replay then live, in order, nothing missing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest
from channels.db import database_sync_to_async
from channels.testing import WebsocketCommunicator
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.db import OperationalError
from django.test import Client

from tests.webapp.cast import progress, put_into, say
from webapp import consumers, selectors, services
from webapp.asgi import application
from webapp.models import Search, SearchState

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.asyncio]

Socket = WebsocketCommunicator
LOCAL = b"http://127.0.0.1:8000"


@pytest.fixture
def slow_checks(settings: Any) -> None:
    """Only doorbells: a test that passes with this does not live on the regular check."""
    settings.SOCKET_CHECK_SECONDS = 600


@pytest.fixture
async def watch() -> AsyncIterator[Callable[..., Socket]]:
    """Opens sockets with a browser's cookies; all are closed in the end."""
    opened: list[Socket] = []

    def open_(
        browser: Client | None, search_id: object, query: str = "", origin: bytes = LOCAL, place: str = "searches"
    ) -> Socket:
        headers = [(b"origin", origin), (b"host", b"127.0.0.1:8000")]
        if browser is not None:
            cookie = browser.cookies[django_settings.SESSION_COOKIE_NAME].value
            headers.append((b"cookie", f"{django_settings.SESSION_COOKIE_NAME}={cookie}".encode()))
        opened.append(Socket(application, f"/ws/{place}/{search_id}/{query}", headers))
        return opened[-1]

    yield open_
    for socket in opened:
        await socket.disconnect()


async def frames(socket: Socket, *, until: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """All frames up to the one that is awaited."""
    found = [await socket.receive_json_from(timeout=10)]
    while not until(found[-1]):
        found.append(await socket.receive_json_from(timeout=10))
    return found


def seqs_of(received: list[dict[str, Any]]) -> list[int]:
    return [event["seq"] for frame in received if frame["type"] == "events" for event in frame["events"]]


def has_seq(number: int) -> Callable[[dict[str, Any]], bool]:
    return lambda frame: frame["type"] == "events" and frame["events"][-1]["seq"] == number


def is_state(state: str) -> Callable[[dict[str, Any]], bool]:
    return lambda frame: frame["type"] == "state" and frame["state"] == state


async def closed_with(socket: Socket) -> int:
    message = await socket.receive_output(timeout=10)
    assert message["type"] == "websocket.close", message
    return int(message["code"])


async def test_it_works(page: Client, running: Search, watch: Callable[..., Socket]) -> None:
    await database_sync_to_async(say)(running, progress(1), progress(2))
    socket = watch(page, running.pk)
    assert (await socket.connect())[0]
    events, state = await socket.receive_json_from(), await socket.receive_json_from()
    assert seqs_of([events]) == [1, 2] and events["events"][0]["kind"] == "progress"
    assert state == {
        "type": "state", "state": "running", "label": "Running", "sentence": "A worker is on it.", "finished": False,
        "queue_position": None, "rewinds": 0, "drawn": "Running, not training",
        "attempt": 1, "started_at": running.started_at.isoformat(), "finished_at": None,
    }  # fmt: skip


async def test_a_strangers_search_and_an_unknown_one_look_the_same(
    page: Client, strangers_page: Client, running: Search, watch: Callable[..., Socket]
) -> None:
    for browser, search_id in ((strangers_page, running.pk), (page, uuid4())):
        socket = watch(browser, search_id)
        await socket.connect()
        assert await closed_with(socket) == 4404
        assert await socket.receive_nothing()


async def test_who_is_not_signed_in_is_told_so(running: Search, watch: Callable[..., Socket]) -> None:
    socket = watch(None, running.pk)
    await socket.connect()
    assert await closed_with(socket) == 4401


async def test_a_foreign_page_is_refused(page: Client, running: Search, watch: Callable[..., Socket]) -> None:
    socket = watch(page, running.pk, origin=b"https://evil.example")
    assert await socket.connect() == (False, 1000)


async def test_a_bad_number_is_refused(page: Client, running: Search, watch: Callable[..., Socket]) -> None:
    socket = watch(page, running.pk, "?after=yesterday")
    await socket.connect()
    assert await closed_with(socket) == 4400


@pytest.mark.parametrize("query", ["?after=" + "9" * 5000, "?rewinds=1.5", "?after=%00", "?after=nan"])
async def test_what_is_no_whole_number_is_refused(
    page: Client, running: Search, watch: Callable[..., Socket], query: str
) -> None:
    socket = watch(page, running.pk, query)
    await socket.connect()
    assert await closed_with(socket) == 4400


@pytest.mark.parametrize(
    "query", ["?after=-5&rewinds=-5", "?after=" + "9" * 30 + "&rewinds=" + "9" * 30, "?after=", "?x"]
)
async def test_any_whole_number_is_a_place(
    page: Client, running: Search, watch: Callable[..., Socket], query: str
) -> None:
    socket = watch(page, running.pk, query)
    await socket.connect()
    assert (await socket.receive_json_from(timeout=10))["state"] == "running"


@pytest.mark.usefixtures("slow_checks")
async def test_what_happens_while_one_watches_arrives_live(
    page: Client, running: Search, watch: Callable[..., Socket]
) -> None:
    socket = watch(page, running.pk)
    await socket.connect()
    await frames(socket, until=is_state("running"))
    await database_sync_to_async(say)(running, progress(1))
    assert seqs_of([await socket.receive_json_from()]) == [1]
    await database_sync_to_async(services.search_fail)(search_id=running.pk, attempt=1, message="The cat did it.")
    assert seqs_of([await socket.receive_json_from()]) == [2], "what the log says of it"
    state = await socket.receive_json_from()
    assert (state["state"], state["finished"]) == ("failed", True)
    assert state["sentence"] == "Ended without a result. The cat did it."


@pytest.mark.usefixtures("slow_checks")
async def test_500_events_at_once_arrive_complete_and_in_order(
    page: Client, running: Search, watch: Callable[..., Socket]
) -> None:
    socket = watch(page, running.pk)
    await socket.connect()
    await frames(socket, until=is_state("running"))
    await database_sync_to_async(say)(running, *(progress(seq) for seq in range(1, 501)))
    received = await frames(socket, until=has_seq(500))
    assert seqs_of(received) == list(range(1, 501))


@pytest.mark.usefixtures("slow_checks")
async def test_500_events_one_by_one_arrive_complete_and_in_order(
    page: Client, running: Search, watch: Callable[..., Socket]
) -> None:
    socket = watch(page, running.pk)
    await socket.connect()

    def burst() -> None:
        for seq in range(1, 501):
            say(running, progress(seq))

    await database_sync_to_async(burst)()
    received = await frames(socket, until=has_seq(500))
    assert seqs_of(received) == list(range(1, 501))


async def test_5000_events_wait_for_who_slept(page: Client, running: Search, watch: Callable[..., Socket]) -> None:
    await database_sync_to_async(say)(running, *(progress(seq) for seq in range(1, 5001)))
    socket = watch(page, running.pk, "?after=10")
    await socket.connect()
    assert seqs_of(await frames(socket, until=has_seq(5000))) == list(range(11, 5001))


@pytest.mark.usefixtures("slow_checks")
async def test_a_rewind_is_said_before_what_is_said_again(
    page: Client, running: Search, watch: Callable[..., Socket]
) -> None:
    await database_sync_to_async(say)(running, *(progress(seq) for seq in range(1, 11)))
    socket = watch(page, running.pk)
    await socket.connect()
    await frames(socket, until=is_state("running"))
    await database_sync_to_async(put_into)(running, SearchState.RUNNING, attempt=2)
    await database_sync_to_async(say)(running, progress(6), progress(7))
    received = await frames(socket, until=is_state("running"))
    assert received[0] == {"type": "rewind", "after": 5}
    assert seqs_of(received) == [6, 7]
    assert received[-1]["rewinds"] == 1


async def test_who_was_away_during_a_restart_is_rewound_when_back(
    page: Client, running: Search, watch: Callable[..., Socket]
) -> None:
    await database_sync_to_async(say)(running, *(progress(seq) for seq in range(1, 11)))
    await database_sync_to_async(put_into)(running, SearchState.RUNNING, attempt=2)
    await database_sync_to_async(say)(running, progress(6))
    away = watch(page, running.pk, "?after=10&rewinds=0")
    await away.connect()
    assert (await away.receive_json_from()) == {"type": "rewind", "after": 5}
    knows = watch(page, running.pk, "?after=6&rewinds=1")
    await knows.connect()
    assert (await knows.receive_json_from())["type"] == "state"


async def test_a_lost_doorbell_loses_nothing(
    page: Client, running: Search, watch: Callable[..., Socket], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SOCKET_CHECK_SECONDS = 0.1
    monkeypatch.setattr("webapp.relay.ring", lambda search_id: None)
    socket = watch(page, running.pk)
    await socket.connect()
    await database_sync_to_async(say)(running, progress(1))
    assert seqs_of(await frames(socket, until=has_seq(1))) == [1]


@pytest.mark.usefixtures("slow_checks")
async def test_signing_out_closes_the_sockets_of_the_session(
    page: Client, running: Search, watch: Callable[..., Socket]
) -> None:
    socket = watch(page, running.pk)
    await socket.connect()
    await frames(socket, until=is_state("running"))
    await database_sync_to_async(page.post)("/accounts/logout/")
    assert await closed_with(socket) == 4401


@pytest.mark.usefixtures("slow_checks")
async def test_permission_is_asked_again_at_each_doorbell(
    page: Client, bob: User, running: Search, watch: Callable[..., Socket]
) -> None:
    socket = watch(page, running.pk)
    await socket.connect()
    await frames(socket, until=is_state("running"))
    await database_sync_to_async(Search.objects.update)(owner=bob)
    await database_sync_to_async(say)(running, progress(1))
    assert await closed_with(socket) == 4404


async def test_sockets_that_ask_the_same_share_an_answer_and_none_gets_an_old_one(
    page: Client, running: Search, watch: Callable[..., Socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    feed = selectors.search_feed
    monkeypatch.setattr(selectors, "search_feed", lambda **options: asked.append(options) or feed(**options))
    sockets = [watch(page, running.pk) for _ in range(10)]
    for socket in sockets:
        await socket.connect()
        await frames(socket, until=is_state("running"))
    asked.clear()
    for seq in range(1, 31):
        await database_sync_to_async(say)(running, progress(seq))
    for socket in sockets:
        assert seqs_of(await frames(socket, until=has_seq(30))) == list(range(1, 31))
    assert len(asked) < 10 * 30, "ten sockets, thirty doorbells"


async def test_one_read_answers_all_who_asked_before_it_began_and_nobody_else() -> None:
    begins, goes_on, reads = threading.Event(), threading.Event(), []

    def read() -> int:
        reads.append(len(reads))
        begins.set()
        assert goes_on.wait(10)
        return reads[-1]

    blocked = asyncio.create_task(consumers._shared(("first",), read))
    assert await asyncio.to_thread(begins.wait, 10), "the database is busy from here on"
    asked = [asyncio.create_task(consumers._shared(("a page",), read)) for _ in range(5)]
    other = asyncio.create_task(consumers._shared(("another page",), read))
    late = asyncio.create_task(consumers._shared(("first",), read))
    asked[0].cancel()
    await asyncio.sleep(0)
    goes_on.set()
    answers = await asyncio.gather(blocked, *asked, other, late, return_exceptions=True)
    assert answers[0] == 0 and answers[-1] == 3, "what had begun by then is too old for whoever asks later"
    assert isinstance(answers[1], asyncio.CancelledError) and answers[2:6] == [1] * 4 and answers[6] == 2
    assert len(reads) == 4 and not consumers._waiting


async def test_a_page_that_closes_while_it_rings_is_gone_at_once(
    page: Client, running: Search, watch: Callable[..., Socket], slow_checks: None
) -> None:
    for turns in range(6):
        socket = watch(page, running.pk)
        await socket.connect()
        await frames(socket, until=is_state("running"))
        await asyncio.sleep(0.3)
        await database_sync_to_async(say)(running, progress(turns + 1))
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await socket.disconnect()


async def test_a_socket_that_cannot_deliver_is_closed_so_that_its_page_connects_again(
    page: Client, running: Search, watch: Callable[..., Socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = watch(page, running.pk)
    await socket.connect()
    await frames(socket, until=is_state("running"))

    def fails(**options: Any) -> None:
        raise OperationalError("the database is away")

    monkeypatch.setattr(selectors, "search_feed", fails)
    await database_sync_to_async(say)(running, progress(1))
    assert await closed_with(socket) == 1011


@pytest.mark.usefixtures("slow_checks")
async def test_a_session_that_ended_in_silence_gets_nothing_more(
    page: Client, running: Search, watch: Callable[..., Socket], settings: Any
) -> None:
    """By its end, by another password, by an account that was shut: nobody rings then."""
    settings.SOCKET_TRUST_SECONDS = 0.1
    socket = watch(page, running.pk)
    await socket.connect()
    await frames(socket, until=is_state("running"))
    await database_sync_to_async(User.objects.update)(is_active=False)
    await asyncio.sleep(0.2)
    await database_sync_to_async(say)(running, progress(1))
    assert await closed_with(socket) == 4401


async def test_who_waits_sees_the_place_in_the_queue(
    page: Client, new_search: Callable[..., Search], watch: Callable[..., Socket]
) -> None:
    first = await database_sync_to_async(new_search)()
    second = await database_sync_to_async(new_search)()
    socket = watch(page, second.pk)
    await socket.connect()
    state = await socket.receive_json_from()
    waits = "Waits for a free worker. 1 before it in line"
    free = f"{waits}; no search runs, so a worker should take the next at once."
    assert (state["queue_position"], state["sentence"]) == (2, free)
    await database_sync_to_async(put_into)(first, SearchState.RUNNING)
    third = await database_sync_to_async(new_search)()
    frame = await database_sync_to_async(selectors.state_frame)(third, to_owner=True)
    assert frame["sentence"] == f"{waits}, after the search that runs now."
    frame = await database_sync_to_async(selectors.state_frame)(third, to_owner=False)
    assert frame["sentence"] == "Waits for a free worker.", "what others run is not for whoever has a link"


async def test_a_frame_holds_a_bounded_number_of_events(
    page: Client, running: Search, watch: Callable[..., Socket]
) -> None:
    await database_sync_to_async(say)(running, *(progress(seq) for seq in range(1, 1001)))
    socket = watch(page, running.pk)
    await socket.connect()
    received = await frames(socket, until=has_seq(1000))
    assert max(len(frame.get("events", [])) for frame in received) == selectors.FEED_ROWS


# Links


async def test_a_link_opens_a_socket_without_an_account_until_it_is_revoked(
    running: Search, watch: Callable[..., Socket], slow_checks: None
) -> None:
    await database_sync_to_async(say)(running, progress(1))
    token = await database_sync_to_async(services.search_share)(search=running, days=1)
    socket = watch(None, token, place="shared")
    assert (await socket.connect())[0]
    received = await frames(socket, until=is_state("running"))
    assert seqs_of(received) == [1]
    await database_sync_to_async(say)(running, progress(2))
    assert seqs_of(await frames(socket, until=has_seq(2))) == [2]
    link = await database_sync_to_async(running.share_links.get)()
    await database_sync_to_async(services.share_link_revoke)(link=link)
    assert await closed_with(socket) == 4404


async def test_a_guessed_link_and_a_wrong_origin_open_nothing(running: Search, watch: Callable[..., Socket]) -> None:
    socket = watch(None, "guessed", place="shared")
    assert (await socket.connect())[0] and await closed_with(socket) == 4404
    token = await database_sync_to_async(services.search_share)(search=running, days=1)
    assert not (await watch(None, token, place="shared", origin=b"http://elsewhere.example").connect())[0]
