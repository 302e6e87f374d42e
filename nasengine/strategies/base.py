"""What a strategy is: a few verbs. The conductor owns the loop, the supernet is an argument, never a member."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nasengine.architecture import smallest
from nasengine.costs import savings
from nasengine.discretise import fitted, fitted_by_clock
from nasengine.flat import GATED
from nasengine.sizes import LATENCY
from nasengine.supernet import Kept, Off, SubGraph, Supernet
from nasengine.teacher import Teacher

Batch = tuple[Tensor, Tensor]
"""Normalised images [N, C, S, S] and labels [N]."""

Point = Literal["cadence", "end", "regrow"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What is open, when and how long.

    Attributes:
        exit: the logits that are trained; layers beyond it neither run nor change.
        blocks: number of blocks from the front that are open; earlier ones are judged again.
        warmup_epochs: of `epochs`, the first ones train weights only.
        start_size: size when everything of these blocks is alive.
        target: size at which the stage shall close.
        bounds: metric -> size that it shall not exceed then, the target among them.
        fits: whether it ends with a network for the user, fitted exactly to its target.
        last: whether the search ends with it.
    """

    index: int
    name: str
    exit: str
    blocks: int
    epochs: int
    warmup_epochs: int
    start_size: int
    target: int
    bounds: Mapping[str, int]
    opens: tuple[str, ...]
    fits: bool
    last: bool

    @property
    def metric(self) -> str:
        """What sizes are counted in: the target's."""
        return next(iter(self.bounds))


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where in a stage a step is."""

    stage: Stage
    epoch: int
    """Within the stage, from 0."""
    step: int
    """Within the epoch, from 0."""
    steps: int
    """Steps of an epoch."""

    @property
    def warming(self) -> bool:
        """Whether only weights are trained."""
        return self.epoch < self.stage.warmup_epochs

    @property
    def closes_warmup(self) -> bool:
        """Whether this is the last step before pruning starts."""
        return self.epoch == self.stage.warmup_epochs - 1 and self.step == self.steps - 1

    @property
    def closes_stage(self) -> bool:
        """Whether this is the last epoch that the stage may have."""
        return self.epoch == self.stage.epochs - 1

    @property
    def pruning_steps(self) -> int:
        """Steps of the stage in which masks are learned."""
        return (self.stage.epochs - self.stage.warmup_epochs) * self.steps

    @property
    def progress(self) -> float:
        """Share of the pruning steps that are over, 0 during the warm-up."""
        done = (self.epoch - self.stage.warmup_epochs) * self.steps + self.step
        return max(0.0, done / max(1, self.pruning_steps))


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One set of masks (see `Supernet.forward`) and the size that goes with it.

    Attributes:
        size: under the masks, a scalar with gradient.
        wanted: what the size should be at this moment.
        share: size against what is wanted, of the metric that is most above it, a scalar with gradient.
        off: candidates whose mask is zero.
        sub_graph: what alone is computed, where that is less than all.
        flat: granularity -> the masks in one vector, of which `masks` are the parts. After the backward pass those of
            operations and filters hold the slopes of the task loss.
    """

    masks: Mapping[str, Tensor]
    gains: Mapping[str, Tensor]
    size: Tensor
    wanted: float
    share: Tensor
    off: Off = frozenset()
    sub_graph: SubGraph | None = None
    flat: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Rated:
    """All candidates of a block, as `events.BlockRated` tells of them; costs in the target's metric."""

    block: int
    blocks: int
    choices: Sequence[str]
    candidates: int
    evaluations: int
    one_by_one: int
    points: Sequence[tuple[float, float]]
    front: Sequence[tuple[float, float, Mapping[str, Sequence[int]], float]]
    correlation: float | None


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A network of one candidate of each block; costs, ratings and widths are those of its blocks."""

    size: float
    rating: float
    costs: Sequence[float]
    ratings: Sequence[float]
    units: Mapping[str, Sequence[int]]
    widths: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Which candidates together make a network, as `events.PathsFound` tells of it.

    Attributes:
        chosen: the one that was taken.
        networks: other targets, and what each would have taken, by rising size.
        visited: partial networks that were looked at for the chosen one.
        certain: whether there is surely no better one for its target.
        of: how many networks there are.
    """

    chosen: Joined
    networks: Sequence[tuple[int, Joined]]
    visited: int
    certain: bool
    of: float


@dataclass(frozen=True, kw_only=True)
class TeacherWanted:
    """A network whose maps a stage learns from.

    Attributes:
        generation: counts teachers of one search, from 0.
        borders: values whose maps are wanted, from front to back.
        architecture: of one to be trained first; without, it is the library's model that the method's settings name.
    """

    generation: int
    borders: Sequence[str]
    sides: Sequence[int]
    architecture: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Hard masks, full size, and the numbers behind them.

    Attributes:
        scores: choice -> score of each unit, full size.
        thresholds: choice -> what the score was held against, for all its units or [units].
        margins: choice -> how far above its threshold each unit is, what an exact fit goes by; empty if nothing does.
        costs: choice -> share of the size that goes with each unit.
        asked: granularity -> units that should return; fewer do where too few can.
        averted: (choice, unit) that a collapsing block was made to keep.
        ladder: other sizes -> what would have been kept, if that does not follow from the margins.
        paths: how it was found, where candidates of blocks were rated.
        closes: whether the stage ends here, before its last epoch.
    """

    kept: Kept
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    thresholds: Mapping[str, float | Tensor] = field(default_factory=dict)
    margins: Mapping[str, Tensor] = field(default_factory=dict)
    costs: Mapping[str, Tensor] = field(default_factory=dict)
    asked: Mapping[str, int] = field(default_factory=dict)
    averted: Sequence[tuple[str, int]] = ()
    ladder: Mapping[int, Kept] = field(default_factory=dict)
    paths: Paths | None = None
    closes: bool = False

    def threshold(self, choice: str, unit: int | None = None) -> float | None:
        """What a unit's score was held against; the mean of the choice without `unit`."""
        limit = self.thresholds.get(choice)
        if isinstance(limit, Tensor):
            return float(limit.mean() if unit is None else limit[unit])
        return limit


@dataclass(frozen=True, kw_only=True)
class Lottery:
    """What there is to see where candidates are drawn by chance.

    Attributes:
        shares: operation choice -> [units] probability on its edge, zero for what is pruned.
        often: operation choice -> [units] how often each was drawn so far.
        latest: of each sub-graph of the last step its candidates, as the draw would fall now.
    """

    shares: Mapping[str, Tensor]
    often: Mapping[str, Tensor]
    latest: Sequence[Off]


class Strategy(nn.Module, ABC):
    """Limits that it learns are parameters, its averages are buffers: device moves and checkpoints come free.

    Attributes:
        decision_fraction: share of the training images that only its own parameters learn from; with 0 they learn from
            the very batches that the weights learn from.
        recalibrates: whether statistics of batch norms are estimated anew after the cut that ends a search.
        trains_weights: whether weights learn while it searches; if not, statistics of batch norms alone follow.
        answers: whether the network answers images while it is searched; if not, it does so from its last cut on.
        judged_on: held-out images that it wants to see when a stage ends, at most. Where there are any, nothing of it
            learns from those that are held out.
        breathe: to be called now and then by what takes long in `decide`; raises `Interrupted` if the search shall end,
            and saves it before, so that nothing of the strategy's state may be half done then.
    """

    breathe: Callable[[], object] = staticmethod(lambda: None)
    decision_fraction: float = 0.0
    answers: bool = True
    judged_on: int = 0
    recalibrates: bool = False
    trains_weights: bool = True

    @abstractmethod
    def stages(self, net: Supernet) -> list[Stage]:
        """What is open, when and how long. Every stage opens something."""

    @abstractmethod
    def draw(self, net: Supernet, moment: Moment) -> list[Draw]:
        """The mask sets of this step, for every choice that runs."""

    @abstractmethod
    def losses(
        self, net: Supernet, moment: Moment, batch: Batch, draws: Sequence[Draw]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Finite scalars by name, to be added up; and the logits [..., N, classes], if there are any to be measured."""

    def portions(
        self, net: Supernet, moment: Moment, batch: Batch, draws: Sequence[Draw]
    ) -> Iterator[tuple[dict[str, Tensor], Tensor | None]]:
        """`losses` in parts that add up, each asked for after the backward pass of the one before; one is the rule."""
        yield self.losses(net, moment, batch, draws)

    @abstractmethod
    def after_backward(self, net: Supernet, moment: Moment, draws: Sequence[Draw]) -> None:
        """Looks at gradients and sizes before the step; changes only the strategy's own state."""

    @abstractmethod
    def points(self, moment: Moment) -> Sequence[Point]:
        """What is to be decided after the epoch of `moment`, in this order. `end` closes the stage."""

    @abstractmethod
    def decide(self, net: Supernet, moment: Moment, point: Point, batches: Sequence[Batch]) -> list[Decision]:
        """How a cadence or the stage closes, or what returns before the next stage; best first, may be empty.

        Never an empty choice. After the `end` of a stage that fits the network is at or below its target.

        Args:
            net: the supernet; not changed.
            moment: the last step taken.
            point: what is asked.
            batches: for judging: images that no weight learned from, if there is a decision split; before them, where
                `judged_on` images are wanted, one that weights did learn from.
        """

    def rate(self, net: Supernet, moment: Moment, batches: Sequence[Batch]) -> Iterator[tuple[int, int]]:
        """What takes long before the `end` of a stage is decided; yields how much of how much is done.

        Changes its own state alone, and that once all is done.
        """
        return iter(())

    def rated_blocks(self) -> list[bool]:
        """Of each block whether its candidates are rated; empty where none ever are."""
        return []

    def told(self, net: Supernet, moment: Moment) -> Rated | None:
        """What `rate` found, for the page."""
        return None

    def wants(self, net: Supernet, stage: Stage, known: int | None) -> TeacherWanted | None:
        """The teacher that a stage begins with, if it is of another generation than the known one, if there is any."""
        return None

    def follow(self, teacher: Teacher, generation: int) -> None:
        """From now on it learns from this one, which it wanted; most want none."""

    def at_random(self, net: Supernet, stream: torch.Generator, bounds: Mapping[str, int]) -> Kept | None:
        """A decision of this size that it could have come to, each as likely; nothing if any decision is as good."""
        return None

    @abstractmethod
    def learning_rates(self, moment: Moment) -> list[dict[str, Any]]:
        """Parameter groups of the strategy's own optimizer, each with its `lr` at this moment."""

    def optimizer(self, moment: Moment) -> torch.optim.Optimizer:
        """Over its own parameters; made anew for each stage."""
        return torch.optim.Adam(self.learning_rates(moment), betas=(0.9, 0.99), fused=True)

    @abstractmethod
    def gains(self, net: Supernet) -> Mapping[str, Tensor]:
        """Operation or filter choice -> positive factors of its living units, which export folds in."""

    def standing(self, net: Supernet, moment: Moment) -> Draw:
        """The masks by which the network is judged now; the first that it draws, unless it knows better."""
        return self.draw(net, moment)[0]

    def lottery(self, net: Supernet, moment: Moment) -> Lottery | None:
        """For the page; nothing where no candidate is drawn by chance."""
        return None

    def limits(self) -> Mapping[str, float]:
        """Granularity -> mean threshold, for the charts; empty where thresholds are not learned."""
        return {}


def all_on(net: Supernet) -> dict[str, Tensor]:
    """Level -> flat mask with all that is alive on."""
    ones = {level: net.alive_weights.new_ones(len(net.flat[level].index)) for level in GATED}
    return {**ones, "weight": net.alive_weights}


def watched(mask: Tensor) -> Tensor:
    """A copy that will hold the gradient of what is computed from it, and from it alone."""
    if not torch.is_grad_enabled():
        return mask
    copy = mask.clone() if mask.requires_grad else mask.detach().clone().requires_grad_()
    copy.retain_grad()
    return copy


def switched_off(net: Supernet, mask: Tensor) -> Off:
    """Candidates whose operation mask, flat [K], is zero."""
    on = net.flat["operation"].split(mask.detach())
    names = [(name, unit) for name in on for unit in net.units[name]]
    return frozenset(name for name, value in zip(names, mask.tolist(), strict=True) if not value)


def fit(net: Supernet, margins: Mapping[str, Tensor], stage: Stage) -> Kept:
    """The exact fit to all bounds of a stage, at the levels that it opens; to a time by measurements, if it is kept."""
    now = {name: alive.cpu() for name, alive in net.kept.items()}

    def fitted_to(bounds: Mapping[str, int]) -> Kept:
        kept = fitted(net.plan, margins, bounds=bounds, granularities=stage.opens, exit_=stage.exit, closed=now)
        return {name: units.to(net.kept[name].device) for name, units in kept.items()}

    if stage.metric != LATENCY or not stage.fits:
        return fitted_to(stage.bounds)
    settled = None if "operation" in stage.opens else net.units
    return fitted_by_clock(
        lambda bound: fitted_to({**stage.bounds, LATENCY: bound}), net.clock, target=stage.target,
        smallest=smallest(net.plan, stage.opens, LATENCY, stage.exit, settled),
    )  # fmt: skip


def divided(epochs: int, shares: Sequence[int]) -> list[int]:
    """Epochs by shares, rounded down; the first of the largest gets the rest.

    >>> divided(12, [1, 2, 1, 1])
    [2, 6, 2, 2]
    """
    found = [epochs * share // sum(shares) for share in shares]
    found[shares.index(max(shares))] += epochs - sum(found)
    return found


def warmup_epochs(epochs: int, fraction: float) -> int:
    """Of a stage's epochs those that train weights only: at least one, and not all."""
    return min(epochs - 1, max(1, round(fraction * epochs)))


def tightest(sizes: Sequence[Tensor], wanted: Sequence[float]) -> Tensor:
    """Size against what is wanted, of the metric that is most above it."""
    return torch.stack([size / aim for size, aim in zip(sizes, wanted, strict=True)]).max()


def cost_shares(net: Supernet, metrics: Sequence[str], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """operation, filter -> [K] share of the size that goes with each unit, the mean over the metrics."""
    found = [savings(net.count(metric), masks) for metric in metrics]
    return {level: torch.stack([shares[level] for shares in found]).mean(dim=0) for level in GATED}
