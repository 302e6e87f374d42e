"""Who watches a search: authorise, join, replay, forward.

The doorbell carries nothing: after it rings, and every few seconds without it, the socket asks the database for the
rows above the last it sent, and whether it may still see them. So nothing is lost with a lost message, and a signed-out
session or a deleted search ends the socket. However often it rings, a socket asks a few times a second, and sockets
that ask the same (all pages of a user, all who have a link) share one answer.

Order is the promise, not dense numbers: between two frames old `progress` rows may have been thinned out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar
from urllib.parse import parse_qs

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.conf import settings
from django.contrib.auth import get_user
from django.db.models import QuerySet
from django.http import HttpRequest

from webapp import relay, selectors
from webapp.models import Search

logger = logging.getLogger(__name__)

BAD_QUERY, NOT_SIGNED_IN, NOT_FOUND, TRY_AGAIN = 4400, 4401, 4404, 1011
"""Close codes. Another's search and an unknown one look the same."""


class SearchConsumer(AsyncJsonWebsocketConsumer):
    """One open page of one search."""

    to_owner = True
    sent = 0
    """Number of the last event sent."""
    rewinds = 0
    """How many restarts the page has been told of."""
    state: dict[str, Any] | None = None
    delivery: asyncio.Task[None] | None = None
    user_id: int | None = None
    """Whom the session signs in."""
    known_until = 0.0
    """When that is to be asked again, by the monotonic clock."""

    async def connect(self) -> None:
        await self.accept()  # only an accepted socket can tell the browser why it is closed
        self.rung = asyncio.Event()
        self.joined: list[str] = []
        self.given = self.scope["url_route"]["kwargs"]
        query = parse_qs(self.scope["query_string"].decode("latin-1"))
        try:
            self.sent, self.rewinds = (max(0, int(query.get(name, ["0"])[-1])) for name in ("after", "rewinds"))
        except ValueError:
            await self.close(BAD_QUERY, "after and rewinds are whole numbers")
            return
        feed = await self._next(limit=0)
        if feed is None:
            return
        for group in (relay.group_of(feed.search_id), *self._own_groups()):
            await self.channel_layer.group_add(group, self.channel_name)
            self.joined.append(group)
        self.delivery = asyncio.create_task(self._deliver_or_close())

    async def disconnect(self, code: int) -> None:
        if self.delivery is not None:
            self.delivery.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.delivery
        for group in self.joined:
            await self.channel_layer.group_discard(group, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None, **_: Any) -> None:
        """Nothing is expected from the page."""

    async def search_changed(self, message: dict[str, Any]) -> None:
        """The doorbell."""
        self.rung.set()

    async def session_ended(self, message: dict[str, Any]) -> None:
        """The user signed out."""
        await self.close(NOT_SIGNED_IN)

    async def _deliver_or_close(self) -> None:
        """A socket that cannot deliver must not stay open in silence: its page connects again."""
        try:
            await self._deliver()
        except Exception:
            logger.exception("a socket could not deliver")
            await self.close(TRY_AGAIN)

    async def _deliver(self) -> None:
        """Sends everything that is new, in order, now and whenever it rings."""
        while True:
            self.rung.clear()
            feed = await self._next(limit=selectors.FEED_ROWS)
            if feed is None:
                return
            if feed.rewind is not None:
                await self.send_json({"type": "rewind", "after": feed.rewind})
            if feed.events:
                await self.send_json({"type": "events", "events": feed.events})
            self.sent, self.rewinds = feed.last_seq, feed.state["rewinds"]
            if feed.more:
                continue
            if feed.state != self.state:  # a state is told after all events that led to it
                self.state = feed.state
                await self.send_json(feed.state)
            await asyncio.sleep(settings.SOCKET_REST_SECONDS)
            with contextlib.suppress(TimeoutError):  # not wait_for: before Python 3.12 it may swallow a cancellation
                async with asyncio.timeout(settings.SOCKET_CHECK_SECONDS):
                    await self.rung.wait()

    async def _next(self, *, limit: int) -> selectors.Feed | None:
        """What comes next; None, the socket being closed, if it is not (or no longer) this user's to see."""
        if not await self._is_known():
            await self.close(NOT_SIGNED_IN)
            return None
        after, rewinds = self.sent, self.rewinds

        def read() -> selectors.Feed | None:
            return selectors.search_feed(
                of=self._visible(), after=after, rewinds=rewinds, limit=limit, to_owner=self.to_owner
            )

        feed = await _shared((*self._reader(), after, rewinds, limit), read)
        if feed is None:
            await self.close(NOT_FOUND)
        return feed

    async def _is_known(self) -> bool:
        """Whether this socket's session signs somebody in; asked again when the answer is not fresh any more."""
        if self.user_id is None or time.monotonic() > self.known_until:
            self.user_id = await database_sync_to_async(_signed_in)(self.scope["session"].session_key or "")
            self.known_until = time.monotonic() + settings.SOCKET_TRUST_SECONDS
        return self.user_id is not None

    def _reader(self) -> tuple[object, ...]:
        """Sockets of which this is the same see the same."""
        return (self.given["pk"], self.user_id)

    def _visible(self) -> QuerySet[Search]:
        """The search, if it is this user's now."""
        assert self.user_id is not None
        return selectors.search_of(self.user_id, self.given["pk"])

    def _own_groups(self) -> tuple[str, ...]:
        return (relay.session_group(self.scope["session"].session_key or ""),)


class SharedConsumer(SearchConsumer):
    """The page of a share link: who has it needs no account."""

    to_owner = False

    async def _is_known(self) -> bool:
        return True

    def _reader(self) -> tuple[object, ...]:
        return (self.given["token"],)

    def _visible(self) -> QuerySet[Search]:
        return selectors.search_shared(self.given["token"])

    def _own_groups(self) -> tuple[str, ...]:
        return ()


T = TypeVar("T")
Key = tuple[object, ...]
_waiting: dict[Key, asyncio.Future[Any]] = {}
"""Reads that were asked for and have not begun."""


async def _shared(key: Key, read: Callable[[], T]) -> T:
    """What `read` finds; shared by all who ask under the same key before it begins, so nobody gets what was before."""
    found = _waiting.get(key)
    if found is None:

        def begin() -> T:
            _waiting.pop(key, None)
            return read()

        found = _waiting[key] = asyncio.ensure_future(database_sync_to_async(begin)())
        found.add_done_callback(lambda _: _waiting.pop(key, None) if _waiting.get(key) is found else None)
    shared: T = await asyncio.shield(found)
    return shared


def _signed_in(session_key: str) -> int | None:
    """The user whom the session signs in now, by the same rules as for a page."""
    if not session_key:
        return None
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    user = get_user(request)
    return user.pk if user.is_authenticated else None
