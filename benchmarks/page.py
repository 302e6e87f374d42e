"""What the page of a search costs a browser: a finished one with very many events, and one that is watched for long.

* *Finished*: 20,000 events. First paint, and until the drawing and the log are there, of several loads by a browser
  that has been there before; half as many events beside it, to see what it depends on.
* *Live*: 10 events a second, commits among them, stored as an engine's are. Time between two frames, and the memory of
  the page's scripts after garbage was collected, early and at the end.

    python -m benchmarks.page                # 32 minutes; make bench-page
    python -m benchmarks.page --minutes 2
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import django
from playwright.sync_api import CDPSession, Page, sync_playwright

from webapp.launch import free_port

PLACE = tempfile.TemporaryDirectory(prefix="coppice-page-")
FOLDER, REDIS_PORT = Path(PLACE.name), free_port()
os.environ |= {
    "DATA_DIR": PLACE.name,
    "REDIS_URL": f"redis://127.0.0.1:{REDIS_PORT}/0",
    "DJANGO_SETTINGS_MODULE": "tests.webapp.fake_settings",
}
django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402 -- models exist only after the line above
from django.test import Client  # noqa: E402
from django.utils import timezone  # noqa: E402

from nasengine import events  # noqa: E402
from tests.webapp.cast import config, soon  # noqa: E402
from tests.webapp.conftest import CHROMIUM  # noqa: E402
from tests.webapp.parts import Parts  # noqa: E402
from tests.webapp.story import story  # noqa: E402
from webapp import relay, selectors, services  # noqa: E402
from webapp.models import Search, SearchEvent  # noqa: E402

FIRST_PAINT_SECONDS, FRAME_MS, HEAP_GROWTH = 1.5, 50.0, 0.2
LOADS = 5
EVENTS_A_SECOND = 10

DRAWN = """() => document.querySelector("#log li")?.textContent.startsWith("Finished")
  && document.querySelectorAll("#network svg").length > 0"""
FRAMES = """() => {
  window.frames_ = [];
  let last = performance.now();
  const next = (now) => {
    window.frames_.push(now - last);
    last = now;
    requestAnimationFrame(next);
  };
  requestAnimationFrame(next);
}"""


def long_story(count: int) -> list[events.Event]:
    """A run of so many events: the storyteller's, with progress said again and again."""
    told = story({"name": "long", "target": {"value": 20_000}, "search": {"epochs": 60}})
    progress = sum(isinstance(event, events.Progress) for event in told)
    more, rest = divmod(count - len(told), progress)
    grown: list[events.Event] = []
    for event in told:
        copies = 1
        if isinstance(event, events.Progress):
            copies += more + (rest > 0)
            rest -= 1
        grown += [event] * copies
    return [replace(event, seq=seq) for seq, event in enumerate(grown, start=1)]


def finished(owner: User, count: int) -> Search:
    """A search of the database whose engine has said so many events, and ended."""
    search = begun(owner, f"{count} events")
    told = long_story(count)
    for start in range(0, count, 400):
        said = told[start : start + 400]
        relay.store(search_id=search.pk, attempt=search.attempt, said=said)
        SearchEvent.objects.update(at=timezone.now() - timedelta(hours=1))
    assert services.search_finish(search_id=search.pk, attempt=search.attempt)
    return search


def paints(page: Page, url: str) -> tuple[float, float]:
    """Seconds to the first paint with content, and until drawing and log are there."""
    began = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.wait_for_function(DRAWN, timeout=120_000, polling=20)
    drawn = time.perf_counter() - began
    first = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000")
    return float(first), drawn


def loading(page: Page, urls: Mapping[int, str]) -> Iterator[tuple[str, str, bool]]:
    """Rows (figure, measured, kept) of finished searches, by the number of their events."""
    for events_, url in urls.items():
        found = [paints(page, url) for _ in range(LOADS + 1)][1:]
        first, drawn = (statistics.median(times) for times in zip(*found, strict=True))
        yield f"first paint, {events_:,} events", f"{first:.2f} s", first < FIRST_PAINT_SECONDS
        yield f"drawing and log there, {events_:,} events", f"{drawn:.2f} s", drawn < FIRST_PAINT_SECONDS


def begun(owner: User, name: str) -> Search:
    """A search of the database whose engine shall talk."""
    asked = selectors.search_asked(owner=owner, raw=config(name=name))
    search = services.search_claim(search_id=services.search_create(owner=owner, asked=asked).pk)
    assert search is not None
    return search


def watching(page: Page, search: Search, address: str, minutes: float) -> Iterator[tuple[str, str, bool]]:
    """Rows of a search that goes on."""
    cdp = page.context.new_cdp_session(page)
    total = int(minutes * 60 * EVENTS_A_SECOND)
    told = [e for e in long_story(total + 500) if not isinstance(e, events.ResultReady | events.SearchFinished)]
    over = threading.Event()

    def speak() -> None:
        began = time.monotonic()
        for number, event in enumerate(told):
            relay.store(search_id=search.pk, attempt=search.attempt, said=[event])
            if over.wait(max(0.0, began + (number + 1) / EVENTS_A_SECOND - time.monotonic())):
                return

    speaker = threading.Thread(target=speak)
    speaker.start()
    try:
        page.goto(address + search.get_absolute_url())
        page.wait_for_selector("#network .block", timeout=60_000)
        page.wait_for_timeout(minutes * 6_000)
        early = heap(cdp)
        page.evaluate(FRAMES)
        page.wait_for_timeout(minutes * 54_000)
        frames = sorted(page.evaluate("window.frames_"))
        late = heap(cdp)
        seen = page.evaluate("document.querySelectorAll('#log li').length")
    finally:
        over.set()
        speaker.join()
    p99 = frames[int(0.99 * len(frames))]
    above = sum(frame > FRAME_MS for frame in frames) / len(frames)
    yield (
        f"time between frames, {len(frames):,}: median, p99, largest",
        f"{statistics.median(frames):.0f}, {p99:.0f}, {frames[-1]:.0f} ms; {above:.2%} above {FRAME_MS:g}",
        p99 < FRAME_MS,
    )
    yield f"lines of the log after {minutes:g} minutes", f"{seen}", seen > 0
    yield (
        "heap after a tenth, at the end",
        f"{early:.1f}, {late:.1f} MB ({late / early - 1:+.0%})",
        late <= (1 + HEAP_GROWTH) * early,
    )


def heap(cdp: CDPSession) -> float:
    """MB that scripts hold once garbage is collected."""
    for _ in range(2):
        cdp.send("HeapProfiler.collectGarbage")
    return float(cdp.send("Runtime.getHeapUsage")["usedSize"]) / 1e6


def cookie(owner: User, address: str) -> dict[str, Any]:
    client = Client()
    client.force_login(owner)
    name = settings.SESSION_COOKIE_NAME
    return {"name": name, "value": client.cookies[name].value, "url": address}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, default=30, help="0: do not watch")
    asked = parser.parse_args()
    broken = 0
    parts = Parts(FOLDER, "tests.webapp.fake_settings", redis_port=REDIS_PORT)
    try:
        parts.redis()
        parts.manage("migrate")
        parts.web()
        soon(parts.is_healthy, seconds=120)
        owner = User.objects.create(username="alice")
        address = f"http://127.0.0.1:{parts.port}"
        urls = {n: address + finished(owner, n).get_absolute_url() for n in (asked.events // 2, asked.events)}
        talking, signed_in = begun(owner, "live"), cookie(owner, address)
        with sync_playwright() as playwright:  # it has a loop in this thread, where Django's database may not be asked
            path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
            browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM)
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            context.add_cookies([signed_in])  # type: ignore[list-item]
            page = context.new_page()
            rows = loading(page, urls)
            live = watching(page, talking, address, asked.minutes) if asked.minutes else ()
            for figure, measured, kept in itertools.chain(rows, live):
                broken += not kept
                print(f"{'kept  ' if kept else 'MISSED'}  {figure:<52}  {measured}", flush=True)
            browser.close()
    finally:
        parts.end()
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
