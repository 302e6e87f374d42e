"""How hard a search is pressed towards its size: control rules as pure functions."""

from __future__ import annotations

from dataclasses import dataclass, replace

DELTA, GROWTH, FEW, MANY, CAP = 1e-5, 4.0, 24, 48, 100.0


@dataclass(frozen=True, kw_only=True)
class Lambda:
    """State of MGAS's published controller: the factor of its regularisers, its step, and its cap."""

    value: float = 0.0
    delta: float = DELTA
    cap: float = CAP


def after_commit(state: Lambda, pruned: int, *, dominant: bool) -> Lambda:
    """The published rule: few operations pruned, more pressure; many, half of it.

    Source: MGAS's published search (arXiv 2310.15074), after GOLD-NAS (arXiv 2007.03331).

    Args:
        state: before the commit.
        pruned: operations that the commit pruned.
        dominant: whether the regulariser outweighs the task loss; the factor then stays where it is.

    >>> state, seen = Lambda(), []
    >>> for _ in range(4):
    ...     state = after_commit(state, 0, dominant=False)
    ...     seen.append(round(state.value, 6))
    >>> seen, round(after_commit(state, 48, dominant=False).value, 6)
    ([4e-05, 0.0002, 0.00084, 0.0034], 0.0017)
    """
    state = replace(state, cap=state.value if dominant else CAP)
    if pruned >= MANY:
        return replace(state, value=state.value / 2, delta=DELTA)
    if pruned < FEW:
        delta = GROWTH * state.delta
        return replace(state, value=min(state.value + delta, state.cap), delta=delta)
    return state


def wanted_size(start: float, target: float, progress: float) -> float:
    """The geometric ramp from `start` (progress 0) to `target` (progress 1 and beyond).

    >>> wanted_size(100.0, 25.0, 0.5), wanted_size(100.0, 25.0, 2.0)
    (50.0, 25.0)
    """
    return start * (target / start) ** min(1.0, progress)
