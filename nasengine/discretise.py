"""Scores to hard decisions: never an empty choice, never above the target.

Every unit has a *margin*, its score less its threshold. One common offset on all margins decides how much stays, so
the balance between operations, filters and weights is the one that the thresholds learned.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from nasengine.architecture import Plan
from nasengine.errors import EngineError, TrainingError
from nasengine.sizes import LATENCY, TOLERANCE, sized
from nasengine.supernet import Kept, architecture


def fitted(
    plan: Plan, margins: Mapping[str, Tensor], *, bounds: Mapping[str, int], granularities: Collection[str],
    exit_: str | None = None, closed: Kept | None = None,
) -> Kept:  # fmt: skip
    """The decision with the highest margins whose exported sizes are within all bounds.

    Within 3 % of one at least, unless the space is so coarse that no single further unit fits.

    Args:
        plan: the full space.
        margins: choice -> margin of each unit, full size, finite; higher stays longer.
        bounds: metric (params, macs, latency_ms) -> size that is never exceeded; the first is the target, the others
            are limits beside it, which change nothing where they do not bind.
        granularities: levels that may be cut.
        exit_: of the network that shall fit, the plan's own if not given.
        closed: what choices of other levels, and those behind the exit, keep; everything if not given.

    Raises:
        EngineError: if even the floors are above a bound (refused before a search starts).
    """
    exit_ = exit_ or plan.exits[-1]
    if "params" in list(bounds)[1:]:
        others = {metric: bound for metric, bound in bounds.items() if metric != "params"}
        kept = fitted(plan, margins, bounds=others, granularities=granularities, exit_=exit_, closed=closed)
        if architecture(plan, kept, exit_).params <= bounds["params"]:
            return kept
    problem = _Fit(plan, margins, bounds, granularities, exit_, closed)
    with_weights = "weight" in granularities and "params" in bounds
    kept = problem.kept_above(problem.offset())
    if with_weights:
        kept = problem.balanced(kept)
    if problem.is_wasteful(kept):
        kept = problem.filled_with_units(kept)
        if with_weights:
            kept = problem.balanced(kept)
    if problem.is_wasteful(kept) and with_weights:
        kept = problem.filled_with_a_thinned_unit(kept)
    return problem.with_a_weight_each(kept) if problem.free else kept


ATTEMPTS = 10
"""Networks that are measured to fit one to a time, before the smallest one is."""


def fitted_by_clock(fit: Callable[[int], Kept], clock: Callable[[Kept], int], *, target: int, smallest: int) -> Kept:
    """The decision whose measured time is nearest below the target, to within 3 % if there is time to find it.

    The guide by which `fit` counts is moved by what was measured: its bound goes where the last one should have been,
    between those known to be too low and too high.

    Args:
        fit: the exact fit to a time by the guide.
        clock: measures the network of a decision.
        target: what the measured time never exceeds.
        smallest: time by the guide that every fit can reach.

    Raises:
        TrainingError: if even a network of that size takes longer.
    """
    best, longest = None, 0
    low, high, bound = smallest - 1, None, target
    for attempt in range(ATTEMPTS + 1):
        bound = smallest if attempt == ATTEMPTS else max(smallest, bound)
        kept = fit(bound)
        took = clock(kept)
        if longest < took <= target:
            best, longest = kept, took
        if (1 - TOLERANCE) * target <= took <= target or (attempt >= ATTEMPTS - 1 and best is not None):
            break
        if took > target:
            high = bound
        else:
            low = bound
        if high is not None and high - low <= 1:
            break
        bound = int(bound * target * (1 - TOLERANCE / 2) / took)
        if bound <= low or (high is not None and bound >= high):
            bound = (low + high) // 2 if high is not None else low + max(1, low // 20)
    if best is None:
        raise TrainingError(
            f"even the smallest network took {sized(LATENCY, took)} when it was measured, more than the target of "
            f"{sized(LATENCY, target)}: the device is busier than when the search began; start it again when it is "
            "idle, the last checkpoint is intact"
        )
    return best


RUNGS, FEWEST = 14, 0.08
"""How many other sizes are looked at, and the share of units that the least of them keeps."""
NARROWEST, WIDEST = 0.1, 4.0
"""Of their sizes, in targets."""


def ladder(
    plan: Plan, margins: Mapping[str, Tensor], *, bounds: Mapping[str, int], smallest: int,
    granularities: Collection[str],
) -> dict[int, Kept]:  # fmt: skip
    """Exported size in the target's metric -> what stays there: the best units by margin, more and more of them.

    The counts of units rise geometrically. Nothing is fitted, so it takes a moment also in large spaces; sizes below
    `smallest`, far from the target (the first of `bounds`, as of `fitted`) or above a limit beside it are left out.
    """
    problem = _Fit(plan, margins, bounds, granularities, plan.exits[-1])
    counted = [name for name in problem.open if name not in plan.weighs] or problem.open
    values = torch.cat([problem.margins[name].flatten() for name in counted]).sort(descending=True).values
    (metric, target), *limits = bounds.items()
    fits = {}
    for rung in range(RUNGS):
        count = max(1, int(len(values) * FEWEST ** (1 - rung / (RUNGS - 1))))
        kept = problem.kept_above(float(values[count - 1]) - 1e-9)
        found = architecture(plan, kept)
        size = found.size(metric)
        if max(smallest, NARROWEST * target) <= size <= WIDEST * target and all(
            found.size(name) <= limit for name, limit in limits
        ):
            fits[size] = kept
    return fits


def floors(plan: Plan, margins: Mapping[str, Tensor]) -> Kept:
    """The best units of each choice, as many as its floor; ties go to the lower number.

    A block never keeps skips and pools alone: where they are best at all its nodes, the node with the best other
    operation keeps that one instead.
    """
    held = {choice.name: _best(margins[choice.name], choice.floor) for choice in plan.choices}
    for (
        name,
        layer,
    ) in plan.weighs.items():  # within the filters that stay: elsewhere it would be no weight of the network
        rows = torch.cat([_held(plan, held, group) for group in plan.layer[layer].channels])
        taps = [1] * (margins[name].ndim - 2)
        margin = margins[name].masked_fill(~rows.view(-1, 1, *taps), -torch.inf)
        if not plan.layer[layer].depthwise:
            reads = plan.reads(plan.layer[layer])
            columns = torch.cat([_held(plan, held, group) for group in reads])
            margin = margin.masked_fill(~columns.view(1, -1, *taps), -torch.inf)
        held[name] = _best(margin, plan.choice[name].floor)
    for names in plan.guarded:
        others = [(name, unit) for name in names for unit in sorted(plan.active[name])]
        if others and not any(held[name][unit] for name, unit in others):
            name, unit = max(others, key=lambda place: float(margins[place[0]][place[1]]))
            held[name] = torch.arange(len(held[name]), device=held[name].device) == unit
    return held


def _best(margin: Tensor, count: int) -> Tensor:
    flat = margin.flatten()
    held = torch.zeros_like(flat, dtype=torch.bool)
    held[torch.sort(flat, descending=True, stable=True).indices[:count]] = True
    return held.view_as(margin)


def _held(plan: Plan, held: Kept, group: str) -> Tensor:
    """Filters of a group that stay in any case; all where there is no choice."""
    if group in plan.crossings:
        first, second = (_held(plan, held, part) for part in plan.crossings[group])
        return (first[:, None] & second).flatten()
    if group in held:
        return held[group]
    return torch.ones(plan.groups[group], dtype=torch.bool, device=next(iter(held.values())).device)


class _Fit:
    def __init__(
        self, plan: Plan, margins: Mapping[str, Tensor], bounds: Mapping[str, int], granularities: Collection[str],
        exit_: str, closed: Kept | None = None,
    ) -> None:  # fmt: skip
        self.plan, self.bounds, self.exit = plan, bounds, exit_
        blocks = plan.exit_blocks[plan.exits.index(exit_)]
        self.margins = {name: margin.detach().double().cpu() for name, margin in margins.items()}
        self.held = floors(plan, self.margins)
        self.open = [c.name for c in plan.choices if c.granularity in granularities and c.block < blocks]
        # Zeros are multiplied, too: where weights are not counted there is nothing to win by an offset.
        self.free = set() if "params" in bounds else set(plan.weighs)
        for choice in plan.choices:
            if choice.name not in self.open:
                self.held[choice.name] = closed[choice.name] if closed else torch.ones_like(self.held[choice.name])

    def share(self, kept: Kept) -> float:
        """Size against its bound, of the tightest; above one it does not fit."""
        found = architecture(self.plan, kept, self.exit)
        return max(found.size(metric) / bound for metric, bound in self.bounds.items())

    def fits(self, kept: Kept) -> bool:
        return self.share(kept) <= 1

    def kept_above(self, offset: float) -> Kept:
        limits = {name: min(0.0, offset) if name in self.free else offset for name in self.margins}
        return {
            name: (margin > limits[name]) | self.held[name] if name in self.open else self.held[name]
            for name, margin in self.margins.items()
        }

    def offset(self) -> float:
        """The lowest offset (to a hair) at which the network fits."""
        values = torch.cat([self.margins[name].flatten() for name in self.open])
        low, high = float(values.min()) - 1e-6, float(values.max())
        if self.fits(self.kept_above(low)):
            return low
        if not self.fits(self.kept_above(high)):
            asked = " and ".join(sized(metric, bound) for metric, bound in self.bounds.items())
            raise EngineError(f"no network of the space has {asked} or less; raise the target")
        for _ in range(48):
            middle = (low + high) / 2
            if self.fits(self.kept_above(middle)):
                high = middle
            else:
                low = middle
            if high - low < 1e-9:
                break
        return high

    def is_wasteful(self, kept: Kept) -> bool:
        """Whether more is left of every bound than a fit should leave."""
        return self.share(kept) < 1 - TOLERANCE

    def balanced(self, kept: Kept) -> Kept:
        """Adds the best pruned weights, or takes the worst kept ones, in living rows and columns, until they fit.

        No convolution is left without one.
        """
        kept = self.with_a_weight_each(kept)
        missing = self.bounds["params"] - architecture(self.plan, kept, self.exit).params
        spots = self._spots(kept, alive=missing < 0)
        margins = torch.cat([self.margins[name].flatten()[spot] for name, spot in spots.items()])
        best_first = torch.sort(margins, descending=missing > 0, stable=True).indices
        chosen = torch.zeros(len(margins), dtype=torch.bool)
        chosen[best_first[: abs(missing)]] = True
        kept = dict(kept)
        for (name, spot), picked in zip(spots.items(), chosen.split([len(s) for s in spots.values()]), strict=True):
            flat = kept[name].flatten().clone()
            flat[spot[picked]] = missing > 0
            kept[name] = flat.view_as(kept[name])
        return kept

    def filled_with_units(self, kept: Kept) -> Kept:
        """Adds operations and filters one by one, best margin first, wherever they still fit."""
        for name, unit in self._waiting(kept):
            trial = _with(kept, name, unit)
            if self.fits(trial):
                kept = trial
                if self.share(kept) >= 1 - TOLERANCE / 3:
                    break
        return kept

    def filled_with_a_thinned_unit(self, kept: Kept) -> Kept:
        """Adds the best operation or filter that fits once the network's worst weights make room for it."""
        for name, unit in self._waiting(kept):
            trial = self.balanced(_with(kept, name, unit))
            if self.fits(trial) and not self.is_wasteful(trial):
                return trial
        return kept

    def with_a_weight_each(self, kept: Kept) -> Kept:
        """No convolution is left without a weight that runs: what its floor holds may stand where channels are gone."""
        sources = architecture(self.plan, kept, self.exit).sources
        kept = dict(kept)
        for layer in self.plan.layers:
            if layer.prunable and layer.name in sources and layer.weights in self.open:
                rows, columns = (torch.tensor(index) for index in sources[layer.name])
                alive = kept[layer.weights][rows[:, None], columns[None, :]]
                if not bool(alive.any()):
                    best = int(self.margins[layer.weights][rows[:, None], columns[None, :]].argmax())
                    row, column, *place = (int(i) for i in torch.unravel_index(torch.tensor(best), alive.shape))
                    units = kept[layer.weights].clone()
                    units[(rows[row], columns[column], *place)] = True
                    kept[layer.weights] = units
        return kept

    def _spots(self, kept: Kept, *, alive: bool) -> dict[str, Tensor]:
        """Weight choice -> places in living rows and columns whose weight is kept (beyond the floor), or pruned."""
        sources = architecture(self.plan, kept, self.exit).sources
        spots = {}
        for layer in self.plan.layers:
            if layer.prunable and layer.name in sources and layer.weights in self.open:
                rows, columns = (torch.tensor(index) for index in sources[layer.name])
                inside = torch.zeros_like(kept[layer.weights])
                inside[rows[:, None], columns[None, :]] = True
                wanted = kept[layer.weights] & ~self.held[layer.weights] if alive else ~kept[layer.weights]
                if alive:  # all but the best, which may not be the one that is held
                    running = self.margins[layer.weights].masked_fill(~(inside & kept[layer.weights]), -torch.inf)
                    wanted.view(-1)[running.argmax()] = False
                spots[layer.weights] = (inside & wanted).flatten().nonzero().flatten()
        return spots

    def _waiting(self, kept: Kept) -> list[tuple[str, int]]:
        """Operations and filters that are off, best margin first."""
        off = sorted(
            (-float(self.margins[choice.name][unit]), index, choice.name, unit)
            for index, choice in enumerate(self.plan.choices)
            if choice.granularity != "weight" and choice.name in self.open
            for unit in (~kept[choice.name]).nonzero().flatten().tolist()
        )
        return [(name, unit) for _, _, name, unit in off]


def _with(kept: Kept, name: str, unit: int) -> Kept:
    units = kept[name].clone()
    units[unit] = True
    return {**kept, name: units}
