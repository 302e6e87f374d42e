"""One candidate for every edge, together as probable as can be within a budget: exact, in seconds.

A knapsack with a choice from each edge. States that cost no less and are worth no more than another go, and so do those
that cannot beat the best that is known, by the bound that a price of the budget gives (Lagrange). A pure function.
"""

from __future__ import annotations

import torch
from torch import Tensor

HALVINGS = 60
SLACK = 1e-12
"""What sums in double precision may be apart by, as a share of the largest number in them."""


def likeliest(worth: Tensor, costs: Tensor, budget: float) -> Tensor | None:
    """[E] candidate of each edge: the highest sum of `worth` whose costs sum to no more than `budget`.

    None if there is none.

    Args:
        worth: [E, M] log-probabilities, minus infinity for what cannot be chosen.
        costs: [E, M], at least zero.
        budget: for all edges together.

    >>> worth = torch.tensor([[0.7, 0.3], [0.6, 0.4]]).log()
    >>> costs = torch.tensor([[5.0, 1.0], [5.0, 1.0]])
    >>> [likeliest(worth, costs, budget).tolist() for budget in (10, 6, 2)], likeliest(worth, costs, 1.9)
    ([[0, 0], [0, 1], [1, 1]], None)
    """
    worth, costs = worth.double().cpu(), costs.double().cpu()
    most = max(1.0, abs(budget), float(costs.amax(-1).sum()))
    costs = costs.masked_fill(worth == -torch.inf, torch.inf)
    limit = budget + SLACK * most
    if float(costs.min(-1).values.sum()) > limit:
        return None
    price, known = _priced(worth, costs, limit)
    if price == 0:
        return known
    gain = worth - price * costs.nan_to_num(posinf=0)  # of what cannot be chosen it is minus infinity all the same
    bounds, least = (torch.cat([_rest(values), torch.zeros(1)]) for values in (gain.amax(-1), costs.amin(-1)))
    reached = float(worth.gather(1, known[:, None]).sum())
    floor = reached - SLACK * max(1.0, abs(reached), price * most)
    value, cost, trail = torch.zeros(1).double(), torch.zeros(1).double(), []
    for edge in range(len(worth)):
        values, total = value[:, None] + worth[edge], cost[:, None] + costs[edge]
        fits = total + least[edge + 1] <= limit
        may_win = values + bounds[edge + 1] + price * (limit - total) >= floor
        places = (fits & may_win).flatten().nonzero().flatten()
        values, total = values.flatten()[places], total.flatten()[places]
        by_value = values.sort(descending=True, stable=True).indices
        order = by_value[total[by_value].sort(stable=True).indices]  # by cost, equal ones by value
        before = torch.cat([torch.full((1,), -torch.inf).double(), values[order].cummax(0).values[:-1]])
        front = order[values[order] > before]
        value, cost = values[front], total[front]
        trail.append(places[front])
    if not len(value):  # only roundings can lose the one that is known
        return known
    place, chosen = int(value.argmax()), []
    for places in reversed(trail):
        place, unit = divmod(int(places[place]), worth.shape[1])
        chosen.append(unit)
    return torch.tensor(chosen[::-1])


def _priced(worth: Tensor, costs: Tensor, limit: float) -> tuple[float, Tensor]:
    """The lowest price of cost (to a hair) at which the best of each edge are within the limit, and those."""

    def best(price: float) -> Tensor:
        return (worth - price * costs.nan_to_num(posinf=0)).argmax(-1)

    def fits(chosen: Tensor) -> bool:
        return float(costs.gather(1, chosen[:, None]).sum()) <= limit

    if fits(best(0.0)):
        return 0.0, best(0.0)
    low, high = 0.0, 1.0
    while not fits(best(high)):
        if high > 1e30:
            return high, costs.argmin(-1)
        low, high = high, 4 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(best(middle)) else (middle, high)
    return high, best(high)


def _rest(values: Tensor) -> Tensor:
    """[E] sum of each one and all after it."""
    return values.flip(0).cumsum(0).flip(0)
