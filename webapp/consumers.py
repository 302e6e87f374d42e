"""Who watches a search: authorise, join, replay, forward.

The doorbell carries nothing: at each ring, and every few seconds without one, the socket asks the database for the rows
above the last it sent, and whether it may still see them. So nothing is lost with a lost message, and a signed-out
session or a deleted search ends the socket.

Order is the promise, not dense numbers: between two frames old `progress` rows may have been thinned out.
"""

from __future__ import annotations

import asyncio
import contextlib
from importlib import import_module
from typing import Any
from urllib.parse import parse_qs

from channels.db import aclose_old_connections, database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.conf import settings
from django.contrib.auth import get_user
from django.db.models import QuerySet
from django.http import HttpRequest

from webapp import relay, selectors
from webapp.models import Search

BAD_QUERY, NOT_SIGNED_IN, NOT_FOUND = 4400, 4401, 4404
"""Close codes. Another's search and an unknown one look the same."""


class SearchConsumer(AsyncJsonWebsocketConsumer):
    """One open page of one search."""

    to_owner = True
    sent = 0
    """Number of the last event sent."""
    rewinds = 0
    """How many restarts the page has been told of."""
    state: dict[str, Any] | None = None
    checks: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        await self.accept()  # only an accepted socket can tell the browser why it is closed
        self.delivery = asyncio.Lock()
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
        await self._deliver()
        self.checks = asyncio.create_task(self._check_again())

    async def disconnect(self, code: int) -> None:
        if self.checks is not None:
            self.checks.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.checks
        for group in self.joined:
            await self.channel_layer.group_discard(group, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None, **_: Any) -> None:
        """Nothing is expected from the page."""

    async def search_changed(self, message: dict[str, Any]) -> None:
        """The doorbell."""
        await self._deliver()

    async def session_ended(self, message: dict[str, Any]) -> None:
        """The user signed out."""
        await self.close(NOT_SIGNED_IN)

    async def _check_again(self) -> None:
        while True:
            await asyncio.sleep(settings.SOCKET_CHECK_SECONDS)
            await self._deliver()

    async def _deliver(self) -> None:
        """Sends everything that is new, in order."""
        async with self.delivery:
            more = True
            while more:
                feed = await self._next(limit=selectors.FEED_ROWS)
                if feed is None:
                    return
                if feed.rewind is not None:
                    await self.send_json({"type": "rewind", "after": feed.rewind})
                if feed.events:
                    await self.send_json({"type": "events", "events": feed.events})
                self.sent, self.rewinds, more = feed.last_seq, feed.state["rewinds"], feed.more
                if not more and feed.state != self.state:  # a state is told after all events that led to it
                    self.state = feed.state
                    await self.send_json(feed.state)

    async def _next(self, *, limit: int) -> selectors.Feed | None:
        """What comes next; None, the socket being closed, if it is not (or no longer) this user's to see."""
        await aclose_old_connections()
        visible = await database_sync_to_async(self._visible)()
        if visible is None:
            await self.close(NOT_SIGNED_IN)
            return None
        feed = await database_sync_to_async(selectors.search_feed)(
            of=visible, after=self.sent, rewinds=self.rewinds, limit=limit, to_owner=self.to_owner
        )
        if feed is None:
            await self.close(NOT_FOUND)
        return feed

    def _visible(self) -> QuerySet[Search] | None:
        """The search, if it is this user's now; None if nobody is signed in."""
        user_id = _signed_in(self.scope["session"].session_key or "")
        return None if user_id is None else selectors.search_of(user_id, self.given["pk"])

    def _own_groups(self) -> tuple[str, ...]:
        return (relay.session_group(self.scope["session"].session_key or ""),)


class SharedConsumer(SearchConsumer):
    """The page of a share link: who has it needs no account."""

    to_owner = False

    def _visible(self) -> QuerySet[Search]:
        return selectors.search_shared(self.given["token"])

    def _own_groups(self) -> tuple[str, ...]:
        return ()


def _signed_in(session_key: str) -> int | None:
    """The user whom the session signs in now, by the same rules as for a page."""
    if not session_key:
        return None
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    user = get_user(request)
    return user.pk if user.is_authenticated else None
