"""Many people on one machine: what the web server holds up to.

* *Browsers*: sockets on one running search whose engine says 50 events a second; each has a session of its own, so that
  none shares an answer. Delay is from the engine's `print` to
  the socket's frame, all on one machine; memory is that of the web server, after the first tenth and at the end.
* *Relay*: events stored in the database a second, in batches as they come from an engine that talks without pause.
* *Pages*: server time of the list and of a finished search's page, with many searches of many events.

    python -m benchmarks.load    # 10 minutes: 200 browsers for 300 s, 100 searches of 20,000 events
    python -m benchmarks.load --browsers 50 --seconds 30 --searches 0
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import django
import psutil
from websockets.asyncio.client import connect

from webapp.launch import free_port

PLACE = tempfile.TemporaryDirectory(prefix="coppice-load-")
FOLDER, REDIS_PORT = Path(PLACE.name), free_port()
os.environ |= {
    "DATA_DIR": PLACE.name,
    "REDIS_URL": f"redis://127.0.0.1:{REDIS_PORT}/0",
    "DJANGO_SETTINGS_MODULE": "tests.webapp.fake_settings",
}
django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402 -- models exist only after the line above
from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402

from tests.webapp.cast import config, epoch_finished, progress, soon  # noqa: E402
from tests.webapp.parts import Parts, Person  # noqa: E402
from webapp import relay, selectors, services  # noqa: E402
from webapp.models import Search, SearchEvent, SearchState  # noqa: E402
from webapp.supervisor import BATCH_LINES  # noqa: E402

DELAY_SECONDS = 1.0
GROWTH = 0.1
RELAY_A_SECOND = 2000
LIST_MS, DETAIL_MS = 200.0, 500.0


@dataclass
class Browser:
    """An open page, as far as its socket goes."""

    seqs: list[int] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)


def browsers(parts: Parts, count: int, seconds: float) -> Iterator[tuple[str, str, bool]]:
    """Rows (figure, measured, kept) of sockets on a running search."""
    web = psutil.Process(parts.web().pid)
    parts.worker("care", "-B")
    soon(parts.is_healthy, seconds=120)
    person = Person(parts, "bob")
    search_id = person.start_search("chats")
    run = parts.folder / "media" / "runs" / search_id
    parts.worker("gpu")
    soon((run / "starts").exists, seconds=120)
    cookies = [_session() for _ in range(count)]
    found, memory = asyncio.run(_watched(parts.port, search_id, run, web, cookies, seconds))
    said = {int(seq): float(at) for seq, at in (line.split() for line in (run / "said").read_text().splitlines())}
    for browser in found:
        browser.delays = [at - said[seq] for seq, at in zip(browser.seqs, browser.delays, strict=True)]
    complete = sum(browser.seqs == list(range(1, len(said) + 1)) for browser in found)
    delays = sorted(delay for browser in found for delay in browser.delays)
    p95 = delays[int(0.95 * len(delays))]
    early, late = memory
    yield "browsers with every event, in order", f"{complete} of {count} ({len(said):,} events)", complete == count
    yield (
        "delay from engine to socket: median, p95, largest",
        f"{statistics.median(delays):.2f}, {p95:.2f}, {delays[-1]:.2f} s",
        p95 < DELAY_SECONDS,
    )
    yield (
        "memory of the web server after a tenth, at the end",
        f"{early:.0f}, {late:.0f} MiB ({late / early - 1:+.0%})",
        late <= (1 + GROWTH) * early,
    )


def _session() -> str:
    """The cookie of one more session of whoever owns the search."""
    client = Client()
    client.force_login(User.objects.get(username="bob"))
    return f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}"


async def _watched(
    port: int, search_id: str, run: Path, web: psutil.Process, cookies: list[str], seconds: float
) -> tuple[list[Browser], tuple[float, float]]:
    """What each browser heard, with the time of each event in `delays`; the server's memory early and late, in MiB."""
    origin = f"http://127.0.0.1:{port}"
    address = f"ws://127.0.0.1:{port}/ws/searches/{search_id}/"
    opened = asyncio.Semaphore(20)
    found = [Browser() for _ in cookies]

    async def watch(browser: Browser, cookie: str) -> None:
        async with opened:
            socket = await connect(
                address, origin=origin, additional_headers={"Cookie": cookie}, max_size=None, proxy=None,
                open_timeout=60, ping_interval=None,
            )  # fmt: skip
        async with socket:
            async for frame in socket:
                now = time.time()
                told = json.loads(frame)
                for event in told.get("events", ()):
                    browser.seqs.append(event["seq"])
                    browser.delays.append(now)
                if told.get("finished"):
                    return

    async with asyncio.TaskGroup() as group:  # a socket that fails ends it
        for browser, cookie in zip(found, cookies, strict=True):
            group.create_task(watch(browser, cookie))
        while not all(browser.seqs for browser in found):
            await asyncio.sleep(0.1)
        (run / "go").touch()
        await asyncio.sleep(seconds / 10)
        early = web.memory_info().rss / 2**20
        await asyncio.sleep(seconds * 9 / 10)
        late = web.memory_info().rss / 2**20
        (run / "enough").touch()
    return found, (early, late)


def stored(events: int, searches: int) -> Iterator[tuple[str, str, bool]]:
    """Rows of what the database and the pages take."""
    alice = User.objects.create(username="alice")
    asked = selectors.search_asked(owner=alice, raw=config())
    first = services.search_create(owner=alice, asked=asked)
    claimed = services.search_claim(search_id=first.pk)
    assert claimed is not None
    said = [epoch_finished(seq) if seq % 100 == 0 else progress(seq) for seq in range(1, events + 1)]
    began = time.perf_counter()
    for start in range(0, events, BATCH_LINES):
        assert relay.store(search_id=first.pk, attempt=claimed.attempt, said=said[start : start + BATCH_LINES])
    rate = events / (time.perf_counter() - began)
    yield "events stored a second", f"{rate:,.0f}", rate >= RELAY_A_SECOND

    rows = list(first.events.values("kind", "payload", "seq"))
    for _ in range(searches - 1):
        copy = services.search_create(owner=alice, asked=asked)
        SearchEvent.objects.bulk_create((SearchEvent(search=copy, attempt=1, **row) for row in rows), batch_size=2000)
    Search.objects.update(state=SearchState.FINISHED)
    client = Client(headers={"Host": "localhost"})
    client.force_login(alice)
    pages = (("list page", "/", LIST_MS), ("page of a finished search", first.get_absolute_url(), DETAIL_MS))
    for name, url, most in pages:
        times, queries = [], set()
        for _ in range(20):
            with CaptureQueriesContext(connection) as captured:
                began = time.perf_counter()
                assert client.get(url).status_code == 200
                times.append(1000 * (time.perf_counter() - began))
            queries.add(len(captured))
        middle = statistics.median(times)
        yield f"{name}: median, largest; queries", f"{middle:.0f}, {max(times):.0f} ms; {queries}", middle < most


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.partition("\n")[0])
    parser.add_argument("--browsers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--searches", type=int, default=100)
    parser.add_argument("--events", type=int, default=20_000, help="of each of them")
    asked = parser.parse_args()
    broken = 0
    parts = Parts(FOLDER, "tests.webapp.fake_settings", redis_port=REDIS_PORT)
    try:
        parts.redis()
        parts.manage("migrate")
        rows = stored(asked.events, asked.searches) if asked.searches else ()
        for figure, measured, kept in itertools.chain(rows, browsers(parts, asked.browsers, asked.seconds)):
            broken += not kept
            print(f"{'kept  ' if kept else 'MISSED'}  {figure:<52}  {measured}", flush=True)
    finally:
        parts.end()
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
