"""DNA++, the recipe of `dna` without a teacher: a block agrees with a slow twin of itself.

Source: DNA++ (arXiv 2403.01326), of which the abstract alone could be read: self-supervised, with terms against a
collapse; and BossNAS (arXiv 2103.12424; code changlin31/BossNAS, read only: it has no licence), the best public
stand-in: paths that share no operation, the mean of whose twins' projections each of them predicts from another view
(BYOL), blocks before fixed to their best candidate, rating by the distance to the centre of all candidates. Ours: small
projections, views by crops and contrast alone, the floor under the variance (as in VICReg, arXiv 2105.04906).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasengine.architecture import Plan
from nasengine.blocks import Block
from nasengine.device import generator, number, seeded
from nasengine.rating import answers, measuring, rated
from nasengine.strategies import dna
from nasengine.strategies.base import Batch, Draw, Moment, Stage, TeacherWanted
from nasengine.supernet import SubGraph, Supernet

WIDTH, OUTPUTS = 128, 64
"""Of projector and predictor."""
INERTIA = 0.99
"""Of the twin at first; it rises to 1 by a cosine."""
RATE = 2e-3
LEAST_CROP = 0.6
"""Of an image's side, in a view."""
CONTRAST = 0.4


class Untaught(dna.DNA):
    """Projectors and predictors are modules, one pair a block; twins are buffers that follow slowly."""

    passes = 2
    """First all twins for the centre, then all candidates."""

    def __init__(self, plan: Plan, part: Any, **settings: Any) -> None:
        super().__init__(plan, part, **settings)
        with seeded(number(self.seed, "projectors")):
            self.projectors = nn.ModuleList(_perceptron(plan.groups[block.group]) for block in self.blocks)
            self.predictors = nn.ModuleList(_perceptron(OUTPUTS) for _ in self.blocks)
        self.slow = copy.deepcopy(self.projectors).requires_grad_(requires_grad=False)

    def stages(self, net: Supernet) -> list[Stage]:
        for name, value in net.live.items():  # the twin of each weight, before a checkpoint is read
            if self._place(name) not in self._buffers:
                self.register_buffer(self._place(name), value.detach().clone())
        return super().stages(net)

    def wants(self, net: Supernet, stage: Stage, known: int | None) -> TeacherWanted | None:
        """None: that is the point."""
        return None

    def draw(self, net: Supernet, moment: Moment) -> list[Draw]:
        """Paths through the stage's block that share no operation as long as there are others, of one width."""
        block, _, width = self._drawn(moment)
        stream = generator("cpu", self.seed, "cover", moment.stage.index, moment.epoch, moment.step)
        orders = [torch.randperm(len(rung.options), generator=stream).tolist() for rung in block.rungs]
        masks = self._masks(net, block, width)
        return [
            self._still(net, moment.stage, SubGraph(drawn=dna.named(block.units(path))), masks)
            for path in ([order[turn % len(order)] for order in orders] for turn in range(self.part.paths))
        ]

    def losses(
        self, net: Supernet, moment: Moment, batch: Batch, draws: Sequence[Draw]
    ) -> tuple[dict[str, Tensor], None]:
        """How far each path's prediction is from what the twins make of the other view, and a floor under variance."""
        block, images = self._block(moment.stage), batch[0]
        key = (self.seed, "views", moment.stage.index, moment.epoch, moment.step)
        views = [self._read(net, block, view_of(images, generator("cpu", *key, which))) for which in range(2)]
        with torch.no_grad(), self._as_twin(net, block):
            centres = [
                torch.stack([self._slowly(block, self._made(net, block, draw, view)) for draw in draws]).mean(0)
                for view in views
            ]
        found = [self.projectors[block.number](self._made(net, block, draw, view)) for draw in draws for view in views]
        wanted = [centre for _ in draws for centre in centres[::-1]]
        predicted = [F.normalize(self.predictors[block.number](x), dim=-1) for x in found]
        apart = [2 - 2 * (p * w).sum(-1).mean() for p, w in zip(predicted, wanted, strict=True)]
        losses = {"agreement": dna.steeper(torch.stack(apart).mean())}
        if self.part.dispersion:
            flat = [torch.relu(1 / math.sqrt(OUTPUTS) - spread(x)).mean() for x in found]
            losses["dispersion"] = dna.steeper(self.part.dispersion * math.sqrt(OUTPUTS) * torch.stack(flat).mean())
        return losses, None

    @torch.no_grad()
    def after_backward(self, net: Supernet, moment: Moment, draws: Sequence[Draw]) -> None:
        """Twins follow; when a stage begins they are what they follow."""
        block = self._block(moment.stage)
        begins = not moment.epoch and not moment.step
        share = 1.0 if begins else (1 - INERTIA) * (math.cos(math.pi * moment.progress) + 1) / 2
        for name in self._weights(net, block):
            getattr(self, self._place(name)).lerp_(net.live[name], share)
        slow, fast = self.slow[block.number].state_dict(), self.projectors[block.number].state_dict()
        for name, value in slow.items():
            value.lerp_(fast[name], share) if value.is_floating_point() else value.copy_(fast[name])

    @torch.no_grad()
    def rate(self, net: Supernet, moment: Moment, batches: Sequence[Batch]) -> Iterator[tuple[int, int]]:
        """The distance of each candidate's prediction to the mean of what all candidates' twins project."""
        block, found = self._block(moment.stage), []
        calibration, *parts = self._read_still(net, block, [images for images, _ in batches])
        total, done = len(self.part.widths) * block.candidates, 0
        centres, self_trained = [torch.zeros(()) for _ in parts], self.projectors.training
        twin = net.widened({})
        for name in self._weights(net, block):
            twin.live[name].copy_(getattr(self, self._place(name)))
        self.eval()
        for width in self.part.widths:
            for made in answers(twin, block, self._masks(net, block, width), calibration, parts):
                centres = [old + self._slowly(block, _pooled(x)) for old, x in zip(centres, made, strict=True)]
                yield math.ceil((done := done + 1) / self.passes), total
        centres = [centre / total for centre in centres]
        for width in self.part.widths:
            masks = self._masks(net, block, width)
            for rating in rated(net, block, masks, calibration, parts, centres, partial(self._predicted, block)):
                found.append(rating)
                yield math.ceil((done := done + 1) / self.passes), total
        self.train(self_trained)
        self._put(block, found)

    def learning_rates(self, moment: Moment) -> list[dict[str, Any]]:
        block = self._block(moment.stage).number
        learn = [*self.projectors[block].parameters(), *self.predictors[block].parameters()]
        return [{"params": learn, "lr": RATE}]

    def _learns(self, block: Block, path: Sequence[int], width: float) -> bool:
        """Always: projectors and predictors do."""
        return True

    # -- blocks and twins ------------------------------------------------------------------------------------------

    def _place(self, name: str) -> str:
        return f"twin {name}".replace(".", " ")

    def _weights(self, net: Supernet, block: Block) -> list[str]:
        """Names of a block's live weights."""
        own = {rung.block for rung in block.rungs} | {block.first}
        return [name for name in net.live if self.plan.layer[name.split("/")[0]].block in own]

    @contextmanager
    def _as_twin(self, net: Supernet, block: Block) -> Iterator[None]:
        """The block's weights are the twin's; running statistics rest."""
        tracks, net.tracks = net.tracks, False
        before = {name: net.live[name].data for name in self._weights(net, block)}
        try:
            for name in before:
                net.live[name].data = getattr(self, self._place(name))
            yield
        finally:
            net.tracks = tracks
            for name, value in before.items():
                net.live[name].data = value

    @torch.no_grad()
    def _read(self, net: Supernet, block: Block, images: Tensor) -> Tensor:
        """What a block reads: the best candidates of the blocks before make it."""
        value, (training, tracks) = images, (net.training, net.tracks)
        net.training, net.tracks = True, False
        for before, drawn, masks in self._decided(net, block):
            value = net.stretch({before.source: value}, before.first, before.border, drawn, masks)
        net.training, net.tracks = training, tracks
        return value

    @torch.no_grad()
    def _read_still(self, net: Supernet, block: Block, batches: Sequence[Tensor]) -> list[Tensor]:
        """The same of several batches, all with the statistics of the first: no image matters to another."""
        still, (first, *others) = measuring(net), batches
        for before, drawn, masks in self._decided(net, block):
            first = still.train().stretch({before.source: first}, before.first, before.border, drawn, masks)
            still.eval()
            others = [still.stretch({before.source: x}, before.first, before.border, drawn, masks) for x in others]
        return [first, *others]

    def _decided(self, net: Supernet, block: Block) -> Iterator[tuple[Block, SubGraph, dict[str, Tensor]]]:
        """The best candidate of each block before, of the widest width."""
        widest = max(self.part.widths)
        for before in self.blocks[: block.number]:
            best = int(self._ratings(before)[self.part.widths.index(widest)].argmin())
            yield before, SubGraph(drawn=dna.named(before.units(before.path(best)))), self._masks(net, before, widest)

    def _made(self, net: Supernet, block: Block, draw: Draw, read: Tensor) -> Tensor:
        return _pooled(net.stretch({block.source: read}, block.first, block.border, draw.sub_graph, draw.masks))

    def _predicted(self, block: Block, made: Tensor) -> Tensor:
        return F.normalize(self.predictors[block.number](self.projectors[block.number](_pooled(made))), dim=-1)

    def _slowly(self, block: Block, pooled: Tensor) -> Tensor:
        return F.normalize(self.slow[block.number](pooled), dim=-1)


def strategy(plan: Plan, config: Any, targets: Sequence[int], limits: Mapping[str, int]) -> Untaught:
    """DNA++ as the configuration asks for it."""
    return dna.strategy(plan, config, targets, limits, make=Untaught)


def view_of(images: Tensor, stream: torch.Generator) -> Tensor:
    """Another look at images [N, C, S, S]: of each a crop in full size, with another contrast and brightness."""
    n = len(images)
    side = LEAST_CROP + (1 - LEAST_CROP) * torch.rand(n, generator=stream)
    room = (2 * torch.rand(n, 2, generator=stream) - 1) * (1 - side)[:, None]
    where = torch.cat([torch.diag_embed(side[:, None].expand(n, 2)), room[..., None]], dim=-1)
    grid = F.affine_grid(where.to(images), list(images.shape), align_corners=False)
    looks = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    contrast, brightness = (CONTRAST * (2 * torch.rand(2, n, 1, 1, 1, generator=stream) - 1)).to(images)
    return (looks * (1 + contrast) + brightness).contiguous(memory_format=torch.channels_last)


def spread(projected: Tensor) -> Tensor:
    """[D] deviation over the batch of projections [N, D] of length one: 0 where they have collapsed."""
    return F.normalize(projected, dim=-1).std(dim=0)


def _pooled(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3))


def _perceptron(inputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, OUTPUTS))
