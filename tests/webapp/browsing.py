"""What tests in a browser have in common: sizes of windows, patience, and what is asked of every live page."""

from __future__ import annotations

import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import BrowserContext, Page, expect

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SOON = 30_000
"""Milliseconds that something quick may take on a busy machine."""


def listened(context: BrowserContext) -> list[str]:
    said: list[str] = []
    context.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    context.on("weberror", lambda error: said.append(str(error.error)))
    return said


def start(page: Page, name: str, *, model: str = "", method: str = "", space: str = "") -> str:
    """Starts a search from the form, with what is named of model, method and space; gives its address."""
    page.goto("/searches/new/")
    page.get_by_label("Name", exact=True).fill(name)
    if model:
        page.locator("[name=space__kind][value=imported]").check(force=True)
        page.get_by_label("Model", exact=True).fill(model)
        expect(page.locator("#survey [data-facts]")).to_be_visible(timeout=120_000)
    if method:
        page.locator(f"[name=strategy__kind][value={method}]").check(force=True)
    if space:
        page.locator(f"[name=space__kind][value={space}]").check(force=True)
    page.get_by_role("button", name="Search", exact=True).click()
    page.wait_for_url(re.compile(r"/searches/[0-9a-f-]{36}/$"))
    return page.url


def expect_state(page: Page, label: str, seconds: float = 60) -> None:
    """The state comes to this; another end fails at once, with what the page says about it."""
    state = page.locator("#state")
    expect(state).to_have_text(re.compile(f"{label}|Finished|Failed|Cancelled"), timeout=seconds * 1000)
    if state.inner_text() != label:
        raise AssertionError(f"expected {label}, but: {state.inner_text()}. {page.locator('#sentence').inner_text()}")


def drawn(page: Page, chart: str) -> int:
    """Points that Plotly has drawn in a chart."""
    return int(
        page.evaluate(
            "id => (document.getElementById(`chart-${id}`).data ?? []).reduce((n, trace) => n + trace.x.length, 0)",
            chart,
        )
    )


def wait_until(question: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)


def shades(folder: Path) -> Path:
    """A zip of two classes, dark and light, and a text that calls itself a picture."""
    path = folder / "shades.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for label, level in (("dark", 30), ("light", 220)):
            for n in range(60):
                Image.new("L", (20, 24), level + n % 20).save(folder / "image.png")
                archive.write(folder / "image.png", f"shades/{label}/{n}.png")
        archive.writestr("shades/dark/notes.jpg", "not a picture")
    return path


CONTRASTS = """([theme, inks, grounds]) => {
  document.documentElement.dataset.bsTheme = theme;
  const style = getComputedStyle(document.documentElement);
  const light = (name) => {
    const [r, g, b] = style.getPropertyValue(`--${name}`).trim().slice(1).match(/../g)
      .map((hex) => parseInt(hex, 16) / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
  const pairs = inks.flatMap((ink) => grounds.map((ground) => [ink, ground]));
  return Object.fromEntries(pairs.map(([ink, ground]) => [`${ink} on ${ground}`, ratio(ink, ground)]));
}"""
