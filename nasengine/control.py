"""How a run is asked to end. No torch, so that a request is heard from the first moment."""

from __future__ import annotations


class Control:
    """Set `requested` to a reason from any thread; it is obeyed at the next step."""

    requested: str | None = None
