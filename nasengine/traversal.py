"""One candidate for each block, together rated as well as can be within limits of cost: exact, mostly in seconds.

Ratings of blocks add up, and so do their costs; lower is better. Branch and bound, by ratings to which a price of the
costs is added (Lagrange): no network within the limits is rated lower than such a sum says, and where it is lowest is
looked at first. Sums are `fsum`, the same in any order, so what just meets a limit does. Pure functions.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import fsum, inf
from operator import mul
from typing import NamedTuple

HALVINGS = 60
ROUNDS = 3
"""How often the prices of several costs are settled in turn."""
HALVINGS_OF_GAP = 12
"""How small a part of the range of all networks is looked at first."""
ENOUGH = 5_000_000
"""Partial networks after which the best that was seen is taken, uncertain as it is."""
IN_BAND = 200_000
"""The same for those that cost neither too much nor too little, one of which there need not be."""
BREATH = 10_000
"""Partial networks between two breaths."""
SLACK = 1e-12
"""What two ways to the same sum may be apart by, as a share of the largest number in it."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What a candidate of a block is rated, and what it adds to each of the costs. All finite."""

    rating: float
    costs: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Found:
    """A network: the place of its candidate in each block, and what these sum to."""

    picks: tuple[int, ...]
    rating: float
    costs: tuple[float, ...]
    visited: int
    """Partial networks that were looked at."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a search found, if anything, and whether there is surely nothing better."""

    found: Found | None
    visited: int
    certain: bool


Blocks = Sequence[Sequence[Candidate]]
"""The candidates of each block, one of them at least."""


def pareto(candidates: Sequence[Candidate]) -> list[int]:
    """Places of those that no other undercuts in rating and all costs, by rising costs; of equal ones the first.

    >>> pareto([Candidate(rating=r, costs=(c,)) for r, c in [(1, 9), (2, 4), (2, 5), (3, 4), (4, 1)]])
    [4, 1, 0]
    """
    kept: list[int] = []
    for place in sorted(range(len(candidates)), key=lambda at: (candidates[at].costs, candidates[at].rating)):
        new = candidates[place]
        for other in reversed(kept):  # of a single cost the first look decides
            old = candidates[other]
            if old.rating <= new.rating and all(a <= b for a, b in zip(old.costs, new.costs, strict=True)):
                break
        else:
            kept.append(place)
    return kept


def best(blocks: Blocks, bounds: Sequence[float], least: float = -inf) -> Found | None:
    """The lowest rated network whose costs exceed no bound, and whose first cost is `least` at least.

    None if there is none; see `looked` for when all that is certain. Of networks that are rated the same it is always
    the same one; of two candidates of a block that are, the cheaper, then the first.

    >>> rated = [[(0, 4), (1, 0)], [(0, 3), (10, 0)], [(0, 5), (1, 3), (2, 0)]]
    >>> blocks = [[Candidate(rating=rating, costs=(cost,)) for rating, cost in block] for block in rated]
    >>> best(blocks, [5.5]).picks, best(blocks, [-1])
    ((1, 0, 2), None)
    """
    return looked(blocks, bounds, least).found


def looked(
    blocks: Blocks,
    bounds: Sequence[float],
    least: float = -inf,
    breathe: Callable[[], object] = lambda: None,
    patience: float = 1.0,
) -> Answer:
    """The same, and how much was looked at.

    Certain, but for limits that leave nearly nothing, or candidates whose ratings are nearly proportional to their
    costs: then no more than `ENOUGH` partial networks are looked at, and for one above `least` no more than `IN_BAND`.

    Args:
        blocks: with all their candidates.
        bounds: of each cost.
        least: of the first cost.
        breathe: is called now and then; what it raises ends the search.
        patience: the share of those numbers after which this one gives up.
    """
    enough, in_band = round(patience * ENOUGH), round(patience * IN_BAND)
    found = _searched(_Laid(blocks, [pareto(block) for block in blocks], bounds), enough, breathe, insists=True)
    if found.found is None or found.found.costs[0] >= least:
        return found
    turned = [[Candidate(rating=each.rating, costs=(-each.costs[0],)) for each in block] for block in blocks]
    dearer = _searched(_Laid(turned, [pareto(block) for block in turned], [-least]), in_band, breathe)
    visited = found.visited + dearer.visited
    if dearer.found is not None:
        same = _found(blocks, dearer.found.picks, visited)
        if all(cost <= bound for cost, bound in zip(same.costs, bounds, strict=True)):
            return replace(dearer, found=same, visited=visited)
    rest = _searched(_Laid(blocks, [_unlike(block) for block in blocks], bounds, least), in_band, breathe)
    visited += rest.visited
    return replace(rest, found=rest.found and replace(rest.found, visited=visited), visited=visited)


def ascending(blocks: Blocks, bounds: Sequence[float]) -> Iterator[Found]:
    """All networks whose costs exceed no bound, each once, the lowest rated first."""
    laid = _Laid(blocks, [range(len(block)) for block in blocks], bounds)
    heap: list[tuple[float, bool, tuple[int, ...]]] = [(-inf, False, (0,))]
    visited = 0
    while heap:
        bound, whole, ranks = heapq.heappop(heap)
        taken = [rows[rank] for rows, rank in zip(laid.rows, ranks, strict=False)]
        if whole:
            yield laid.found(taken, visited)
            continue
        visited += 1
        *before, rank = ranks
        beside = laid.rows[len(before)][rank + 1 : rank + 2]
        if beside:
            heapq.heappush(heap, (laid.bound(taken[:-1] + beside), False, (*before, rank + 1)))
        if not laid.fits(taken):
            continue
        if len(taken) == len(blocks):
            heapq.heappush(heap, (fsum(row.rating for row in taken), True, ranks))
        else:
            heapq.heappush(heap, (bound, False, (*ranks, 0)))


def _unlike(block: Sequence[Candidate]) -> list[int]:
    """Places of candidates, of those with the very same costs that of the best alone."""
    found: dict[tuple[float, ...], int] = {}
    for place, candidate in enumerate(block):
        other = found.get(candidate.costs)
        if other is None or candidate.rating < block[other].rating:
            found[candidate.costs] = place
    return list(found.values())


def _found(blocks: Blocks, picks: Sequence[int], visited: int) -> Found:
    taken = [block[at] for block, at in zip(blocks, picks, strict=True)]
    costs = tuple(fsum(costs) for costs in zip(*(each.costs for each in taken), strict=True))
    return Found(picks=tuple(picks), rating=fsum(each.rating for each in taken), costs=costs, visited=visited)


class _Row(NamedTuple):
    """A candidate, and its rating with the price of its costs."""

    worth: float
    rating: float
    costs: tuple[float, ...]
    place: int


class _Laid:
    """Blocks laid out by worth, and what can be known of a partial network.

    Those whose candidates differ most in cost come first: what is left then decides what of the others can go together.
    """

    def __init__(
        self, blocks: Blocks, places: Sequence[Sequence[int]], bounds: Sequence[float], least: float = -inf
    ) -> None:
        self.order = sorted(range(len(blocks)), key=lambda at: -_range([each.costs[0] for each in blocks[at]]))
        places = [places[at] for at in self.order]
        listed = [[blocks[at][place] for place in among] for at, among in zip(self.order, places, strict=True)]
        prices = _prices(listed, bounds, least)
        owed = [least if prices[0] < 0 else bounds[0], *bounds[1:]]
        paid = fsum(map(mul, prices, owed))
        self.blocks, self.bounds, self.least = blocks, bounds, least
        self.rows = [
            sorted(
                _Row(_worth(each, prices), each.rating, each.costs, at)
                for each, at in zip(candidates, among, strict=True)
            )
            for candidates, among in zip(listed, places, strict=True)
        ]
        self.rest = [fsum(rows[0].worth for rows in self.rows[at:]) - paid for at in range(len(blocks) + 1)]
        lowest = [min((row.rating for row in rows), default=0.0) for rows in self.rows]
        self.lowest = [fsum(lowest[at:]) for at in range(len(blocks) + 1)]
        self.cheapest = [
            [min(costs) for costs in zip(*(each.costs for each in block), strict=True)] for block in listed
        ]
        self.dearest = [max(each.costs[0] for each in block) for block in listed]
        largest = max(abs(row.worth) for rows in self.rows for row in (rows[0], rows[-1]))
        self.margin = SLACK * max(abs(paid), largest)

    def bound(self, taken: Sequence[_Row]) -> float:
        """What a network with these first candidates is rated at least, if it is within the limits."""
        return fsum(row.worth for row in taken) + self.rest[len(taken)] - self.margin

    def least_rating(self, taken: Sequence[_Row]) -> float:
        """What a network with these first candidates is rated at least, whatever it costs."""
        return fsum([*(row.rating for row in taken), self.lowest[len(taken)]])

    def fits(self, taken: Sequence[_Row]) -> bool:
        """Whether the rest can be such that no limit is passed, each limit by itself."""
        later = self.cheapest[len(taken) :]
        for which, bound in enumerate(self.bounds):
            if fsum([*(row.costs[which] for row in taken), *(costs[which] for costs in later)]) > bound:
                return False
        return self.least == -inf or (
            fsum([*(row.costs[0] for row in taken), *self.dearest[len(taken) :]]) >= self.least
        )

    def found(self, taken: Sequence[_Row], visited: int) -> Found:
        picks = {at: row.place for at, row in zip(self.order, taken, strict=True)}
        return _found(self.blocks, [picks[at] for at in range(len(picks))], visited)


def _range(costs: Sequence[float]) -> float:
    return max(costs) - min(costs)


def _searched(laid: _Laid, most: int, breathe: Callable[[], object], *, insists: bool = False) -> Answer:
    """Depth first, by worth; a block is left as soon as its next candidate cannot be part of a better network.

    First among networks that may be rated as low as the lowest bound and a little more, then twice as much, and so on:
    what is found there bounds the rest. After `most` partial networks no more are looked at, but by one who insists
    until there is one.
    """
    top: Found | None = None
    taken: list[_Row] = []
    visited = 0

    def is_enough() -> bool:
        return visited >= most and not (insists and top is None)

    def visit(ceiling: float) -> None:
        nonlocal top, visited
        for row in laid.rows[len(taken)]:
            if is_enough():
                return
            visited += 1
            if visited % BREATH == 0:
                breathe()
            taken.append(row)
            hopeless = laid.bound(taken) >= (ceiling if top is None else min(ceiling, top.rating - 2 * laid.margin))
            if not hopeless and not (top and laid.least_rating(taken) >= top.rating) and laid.fits(taken):
                if len(taken) < len(laid.rows):
                    visit(ceiling)
                else:
                    rating = fsum(each.rating for each in taken)
                    if top is None or rating < top.rating:
                        top = laid.found(taken, visited)
            taken.pop()
            if hopeless:
                break

    spread = fsum(rows[-1].worth - rows[0].worth for rows in laid.rows)
    for ceiling in [*(laid.bound([]) + spread / 2**halvings for halvings in range(HALVINGS_OF_GAP, 0, -1)), inf]:
        visit(ceiling)
        if is_enough() or (top is not None and top.rating <= ceiling):
            break
    return Answer(found=top and replace(top, visited=visited), visited=visited, certain=not is_enough())


def _worth(candidate: Candidate, prices: Sequence[float]) -> float:
    return candidate.rating + fsum(map(mul, prices, candidate.costs))


def _prices(blocks: Blocks, bounds: Sequence[float], least: float) -> list[float]:
    """A price of each cost: about what its next unit would improve the rating by. Below 0 where it should cost more.

    Any prices are right, but these leave the least to search: at them, the blocks' candidates of the lowest worth are
    together just within the limits.
    """
    prices = [0.0] * len(bounds)

    def spends(which: int, price: float) -> float:
        tried = [*prices[:which], price, *prices[which + 1 :]]
        return fsum(min((_worth(each, tried), each.costs[which]) for each in block)[1] for block in blocks)

    def saves(which: int, price: float) -> bool:
        return spends(which, price) <= bounds[which]

    for _ in range(ROUNDS if len(bounds) > 1 else 1):
        for which in range(len(bounds)):
            prices[which] = _least_price(partial(saves, which))
    if not any(prices) and spends(0, 0.0) < least:
        prices[0] = -_least_price(lambda price: spends(0, -price) >= least)
    return prices


def _least_price(enough: Callable[[float], bool]) -> float:
    """The lowest price that is enough (to a hair); a very high one where none is."""
    if enough(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while not enough(high) and high < 1e30:
        low, high = high, 4 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
