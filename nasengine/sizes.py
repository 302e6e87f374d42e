"""How sizes are told: whole numbers of parameters and multiply-adds, times in milliseconds.

Inside a search a size is a whole number, a time one of nanoseconds; outside, in events, reports and settings, a time is
a number of milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable

from nasengine.catalogue import METRICS

LATENCY = "latency_ms"
NANOSECONDS = 1_000_000
"""Of a millisecond."""
TOLERANCE = 0.03
"""A fitted network lands in [(1 - TOLERANCE) * target, target]."""


def unit(metric: str) -> int:
    """What one of its numbers outside is inside."""
    return NANOSECONDS if metric == LATENCY else 1


def outside(metric: str, size: int) -> float:
    """The number that is told.

    >>> outside("params", 20_000), outside("latency_ms", 412_345)
    (20000, 0.412345)
    """
    return size / NANOSECONDS if metric == LATENCY else size


def label(metric: str, size: int) -> str:
    """The same as part of a name: what a folder or a network is called.

    >>> label("macs", 20_000), label("latency_ms", 412_340), label("latency_ms", 2_000_000)
    ('20000', '0.41234', '2')
    """
    return f"{size / NANOSECONDS:.6f}".rstrip("0").rstrip(".") if metric == LATENCY else str(size)


def amount(metric: str, size: float, towards: Callable[[float], int] = round) -> str:
    """A size without its unit, as people read it: times with three digits.

    >>> import math
    >>> amount("params", 20_000), amount("latency_ms", 412_345), amount("latency_ms", 412_345, math.ceil)
    ('20,000', '0.412', '0.413')
    """
    if metric != LATENCY:
        return f"{towards(size):,}"
    digit = 10 ** max(0, len(str(int(size))) - 3)
    return f"{towards(size / digit) * digit / NANOSECONDS:,.10g}"


def sized(metric: str, size: float) -> str:
    """A size in words.

    >>> sized("macs", 20_000), sized("latency_ms", 412_345)
    ('20,000 multiply-adds', '0.412 ms')
    """
    return f"{amount(metric, size)} {METRICS[metric]}"
