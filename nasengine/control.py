"""What may be asked of a run from outside. No torch, so that a request is heard from the first moment."""

from __future__ import annotations


class Control:
    """Set from any thread; obeyed at the next step.

    Attributes:
        requested: why the run shall end here; it saves first, unless the reason is `cancel`.
        stop: search no longer, compare no longer: train the networks found so far and publish them.
        finish: train no longer either.
    """

    requested: str | None = None
    stop: bool = False
    finish: bool = False
