"""How long something takes, as people say it: the only such words in Python. The page's are in static/js/words.js."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """A duration, no finer than it can be known.

    >>> duration(3), duration(42), duration(170), duration(4900), duration(200_000)
    ('a few seconds', 'about 40 seconds', 'about 3 minutes', 'about 1 hour 20 minutes', 'about 2 days')
    """
    if seconds < 8:
        return "a few seconds"
    if seconds < 50:
        return f"about {10 * max(1, int(seconds / 10 + 0.5))} seconds"
    minutes = max(1, int(seconds / 60 + 0.5))
    if minutes < 60:
        return f"about {_plural(minutes, 'minute')}"
    hours = minutes // 60
    if hours >= 36:
        return f"about {_plural(int(minutes / 1440 + 0.5), 'day')}"
    rest = 10 * int(minutes % 60 / 10 + 0.5) if hours < 5 else 0
    if rest == 60:
        return f"about {_plural(hours + 1, 'hour')}"
    return f"about {_plural(hours, 'hour')}" + (f" {rest} minutes" if rest else "")


def _plural(n: int, word: str) -> str:
    return f"{n:,} {word}{'' if n == 1 else 's'}"
