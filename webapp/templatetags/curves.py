"""A search's accuracy as a line of the size of a word, drawn by the server, and in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from webapp.curve import SEARCHING, TRAINING, placed
from webapp.templatetags.words import percent

register = template.Library()

WIDTH, HEIGHT, EDGE = 160, 36, 3
"""Of the picture, in its own units; what is left free around the line."""
CLASSES = {SEARCHING: "searching", TRAINING: "training"}


@register.simple_tag
def sparkline(curve: Sequence[Any]) -> SafeString:
    """The validation accuracy of a search (`webapp.curve`), then of training what it found; nothing without points."""
    points = placed(curve)
    if not points:
        return SafeString("")
    drawn = _drawn(points)
    lines = [(CLASSES[phase], " ".join(f"{x:g},{y:g}" for x, y, each in drawn if each == phase)) for phase in CLASSES]
    x, y, _ = drawn[-1]
    return format_html(
        '<svg class="sparkline" viewBox="0 0 {} {}" role="img" aria-label="{}">{}'
        '<circle cx="{}" cy="{}" r="2.5"/></svg>',
        WIDTH,
        HEIGHT,
        told(curve),
        format_html_join("", '<polyline class="{}" points="{}"/>', [line for line in lines if line[1]]),
        f"{x:g}",
        f"{y:g}",
    )


def told(curve: Sequence[Any]) -> str:
    """What the line shows.

    >>> told([[3, 0, 1, 0.5], [6, 0, 12, 0.7], [9, 1, 20, 0.93]])
    'Validation accuracy: 50 % to 70 % in 12 epochs of searching, 93 % after 20 of training.'
    >>> told([[3, 0, 1, 0.5]])
    'Validation accuracy: 50 % after 1 epoch of searching.'
    """
    parts = []
    searched = [point for point in curve if point[1] == SEARCHING]
    trained = [point for point in curve if point[1] == TRAINING]
    if searched:
        first, last = percent(searched[0][3], 0), percent(searched[-1][3], 0)
        epochs = searched[-1][2]
        span = f"{first} to {last} in" if len(searched) > 1 else f"{last} after"
        parts.append(f"{span} {epochs} epoch{'' if epochs == 1 else 's'} of searching")
    if trained:
        parts.append(f"{percent(trained[-1][3], 0)} after {trained[-1][2]} of training")
    return f"Validation accuracy: {', '.join(parts)}."


def _drawn(points: Sequence[tuple[int, float, int]]) -> list[tuple[float, float, int]]:
    """In the picture's units; the line of training begins where that of the search ends."""
    epochs, values = [point[0] for point in points], [point[1] for point in points]
    left, low = min(epochs), min(values)
    wide, high = max(epochs) - left or 1, max(values) - low or 1
    found: list[tuple[float, float, int]] = []
    for epoch, value, phase in points:
        x = EDGE + (WIDTH - 2 * EDGE) * (epoch - left) / wide
        y = HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * (value - low) / high
        if found and found[-1][2] != phase:
            found.append((*found[-1][:2], phase))
        found.append((round(x, 1), round(y, 1), phase))
    return found
