"""One step and one epoch of anything: the supernet under a strategy, or the compact network at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, cycle, islice

import torch
from torch import Tensor, nn

from nasengine import data, device, parallel, splits
from nasengine.compact import BATCH_NORMS, Borrowed, rebuilt
from nasengine.data import Images, Split
from nasengine.errors import ConfigError, TrainingError
from nasengine.flat import GATED
from nasengine.objectives import distillation, task_loss
from nasengine.strategies.base import Batch, Draw, Moment, Strategy
from nasengine.supernet import Supernet

CLIP = 5.0
"""Largest norm of the weights' gradient."""
MOMENTUM = 0.9
EVALUATION_BATCH = 500
CALIBRATION = 44
"""Passes after which a hundredth of old running statistics is left."""
FEWEST_DECIDING = 16
"""Images of a decision batch for each process at least: batch norms in it take their statistics from it alone."""


@dataclass
class Meter:
    """Running means of an epoch; plain numbers, so that a checkpoint can hold them in the middle of one."""

    sums: dict[str, float] = field(default_factory=dict)
    images: int = 0

    def add(self, n: int, values: Mapping[str, float]) -> None:
        """Adds a batch of `n` images with its mean values."""
        self.images += n
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * n

    def means(self) -> dict[str, float | None]:
        """Mean of each value over the images so far."""
        return {name: total / self.images for name, total in self.sums.items()} if self.images else {}


@dataclass(frozen=True, kw_only=True)
class Feed:
    """Training batches that depend on the seed and the place in the run alone.

    Attributes:
        part: numbers of the training images that it draws from.
    """

    images: Images
    part: Tensor
    batch_size: int
    seed: int

    @property
    def steps(self) -> int:
        """Full batches of an epoch."""
        return len(self.part) // self.batch_size

    def order(self, *key: object) -> Tensor:
        """Numbers of training images, [steps, batch], of the epoch that `key` names."""
        order = data.order(len(self.part), self.batch_size, device.generator("cpu", self.seed, *key, "order"))
        return self.part[order]

    def batch(self, indices: Tensor, *key: object) -> Batch:
        """Augmented, normalised images and labels: this process's share of them."""
        split = self.images.train
        where = indices.to(split.x.device)
        x = data.normalised(split.x[where], self.images.mean, self.images.std)
        stream = device.generator("cpu", self.seed, *key, "augmentation")
        x = data.augmented(x, stream, shift=self.images.shift, flip=self.images.flip)
        return parallel.share(x.contiguous(memory_format=torch.channels_last)), parallel.share(split.y[where])

    def plain(self, n: int, *key: object) -> Batch:
        """So many of its images, unchanged; which, depends on `key`."""
        return self.unchanged(self.chosen(n, *key))

    def chosen(self, n: int, *key: object) -> Tensor:
        """Numbers of so many of its images; which, depends on `key`."""
        return self.part[torch.randperm(len(self.part), generator=device.generator("cpu", self.seed, *key))[:n]]

    def unchanged(self, indices: Tensor) -> Batch:
        """Normalised images and labels, not augmented."""
        where = indices.to(self.images.train.x.device)
        x = data.normalised(self.images.train.x[where], self.images.mean, self.images.std)
        return x.contiguous(memory_format=torch.channels_last), self.images.train.y[where]


@dataclass(frozen=True, kw_only=True)
class Feeds:
    """Where batches come from.

    Attributes:
        all: every training image; for the compact networks at the end.
        learning: for the weights during the search.
        deciding: for the strategy's own parameters; None if those learn from the weights' batches. Its batches are
            small, so that an epoch passes over both once.
    """

    all: Feed
    learning: Feed
    deciding: Feed | None

    @classmethod
    def of(cls, images: Images, batch_size: int, seed: int, decision_fraction: float) -> Feeds:
        whole = Feed(images=images, part=torch.arange(len(images.train)), batch_size=batch_size, seed=seed)
        held = splits.held_for_decisions(len(images.train), decision_fraction)
        if not held:
            return cls(all=whole, learning=whole, deciding=None)
        stream = device.generator("cpu", seed, "decision split")
        rest, own = data.parted(images.train.y.cpu(), held, stream)
        learning = Feed(images=images, part=rest, batch_size=batch_size, seed=seed)
        n = parallel.world()
        size = min(batch_size, len(own), max(FEWEST_DECIDING * n, len(own) // max(1, learning.steps)))
        size -= size % n
        if parallel.uneven(size):
            problem = f"{len(own)} images held out for decisions are not two for each of {n} processes"
            raise ConfigError.at("strategy.decision_fraction", f"{problem}; hold out more, or start fewer of them")
        return cls(all=whole, learning=learning, deciding=Feed(images=images, part=own, batch_size=size, seed=seed))

    @property
    def judging(self) -> Feed:
        """For what decides: held-out images if there are any."""
        return self.deciding or self.learning


def ready(net: Supernet, *, weights: bool) -> None:
    """Puts a network into training mode, its weights to learn or to rest (but for those that are none yet).

    Without a gradient the optimizer leaves them alone, decay and momentum included. Training mode is then for batch
    norms alone, as in DMS's code for resting weights: dropout would be noise that nothing learns from.
    """
    net.train()
    for name, parameter in net.live.items():
        parameter.requires_grad_(requires_grad=weights or name in net.fresh)
    if not weights:
        _norms_alone(net)


def _norms_alone(net: nn.Module) -> None:
    """Training mode for batch norms only."""
    for module in net.modules():
        module.training = module is net or isinstance(module, BATCH_NORMS)


def weights_optimizer(net: Supernet, lr: float, weight_decay: float) -> torch.optim.SGD:
    """SGD over every live parameter, with the momentum that the supernet kept; weights of layers are decayed."""
    decayed, free = [], []
    for name, parameter in net.live.items():
        (decayed if _decays(name, parameter) else free).append((name, parameter))
    groups = [
        {"params": [p for _, p in decayed], "weight_decay": weight_decay},
        {"params": [p for _, p in free], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM, fused=True)
    for name, parameter in [*decayed, *free]:
        kept = net.gather(name, net.momentum) if name in net.momentum else torch.zeros_like(parameter)
        optimizer.state[parameter]["momentum_buffer"] = kept
    return optimizer


def search_step(
    net: Supernet,
    strategy: Strategy,
    moment: Moment,
    batch: Batch,
    decision_batch: Batch | None,
    weights: torch.optim.Optimizer,
    scores: torch.optim.Optimizer,
    precision: str,
) -> tuple[dict[str, float], Draw]:
    """Draw, losses, sum, backward, after_backward, step.

    Weights learn from `batch`; the strategy's own parameters from `decision_batch`, or from the very same pass if there
    is none. During a warm-up they stay as they are.

    Returns:
        the losses by name, and the `accuracy` on the batch if the network answers it; the last draw.

    Raises:
        TrainingError: if a loss is not a finite number.
    """
    values, draws = _pass(net, strategy, moment, batch, weights, scores, precision)
    nn.utils.clip_grad_norm_(list(net.live.values()), CLIP, foreach=True)
    alternating = decision_batch is not None and not moment.warming
    if not alternating:
        strategy.after_backward(net, moment, draws)
    weights.step()
    if alternating:
        net.tracks = False  # the weights' batches are larger
        _, draws = _pass(net, strategy, moment, decision_batch, weights, scores, precision)
        net.tracks = True
        strategy.after_backward(net, moment, draws)
    if not moment.warming:
        for group, wanted in zip(scores.param_groups, strategy.learning_rates(moment), strict=True):
            group["lr"] = wanted["lr"]
        scores.step()
    return values, draws[0]


@torch.no_grad()
def recalibrate(net: Supernet, gains: Mapping[str, Tensor], feed: Feed, *key: object) -> None:
    """Lets running statistics forget the network that was, a batch of plain images at a time, round and round."""
    parts = feed.chosen(CALIBRATION * feed.batch_size, *key).split(feed.batch_size)
    _norms_alone(net)
    whole = [part for part in parts if len(part) == feed.batch_size] or parts  # a rest would count as much as a batch
    for part in islice(cycle(whole), CALIBRATION):
        net(feed.unchanged(part)[0], None, gains)
    parallel.mean_(net.running_statistics)


def _pass(
    net: Supernet, strategy: Strategy, moment: Moment, batch: Batch, weights: torch.optim.Optimizer,
    scores: torch.optim.Optimizer, precision: str,
) -> tuple[dict[str, float], Sequence[Draw]]:  # fmt: skip
    """Forward and backward of all processes together, portion by portion; numbers come from the device in one go."""
    images, labels = batch
    draws = strategy.draw(net, moment)
    weights.zero_grad(set_to_none=True)
    scores.zero_grad(set_to_none=True)
    found: dict[str, list[Tensor]] = {}
    portions = strategy.portions(net, moment, batch, draws)
    while True:
        with device.autocast(images.device, precision):
            portion = next(portions, None)
        if portion is None:
            break
        losses, logits = portion
        torch.stack(list(losses.values())).sum().backward()
        if logits is not None:
            losses = {**losses, "accuracy": (logits.detach().argmax(-1) == labels).float().mean()}
        for name, value in losses.items():
            found.setdefault(name, []).append(value.detach().float())
        del portion, losses, logits  # or the next one would be computed while this one's memory is held
    sums = torch.stack([torch.stack(values).sum() for values in found.values()])
    parallel.mean_(chain([sums], _moved(net, strategy, draws)))
    numbers = dict(zip(found, sums.tolist(), strict=True))
    if not all(math.isfinite(number) for number in numbers.values()):
        raise TrainingError(not_a_number("the loss", "search.lr", f" in epoch {moment.epoch + 1}"))
    if "accuracy" in numbers:
        numbers["accuracy"] /= len(found["accuracy"])
    return numbers, draws


def _moved(net: Supernet, strategy: Strategy, draws: Sequence[Draw]) -> Iterator[Tensor]:
    """What a pass leaves behind: slopes of weights and of masks, statistics, and both in the strategy's own modules."""
    masks = (draw.flat[level] for draw in draws for level in GATED if level in draw.flat)
    yield from (value.grad for value in chain(net.live.values(), masks) if value.grad is not None)
    if net.tracks:
        yield from net.running_statistics
    yield from _left_in(strategy)


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A trained network whose answers another one learns from beside the labels; it does not change.

    Attributes:
        weight: share of its answers in the loss, 0 to 1; the labels have the rest.
        temperature: as in `objectives.distillation`.
    """

    network: nn.Module
    weight: float
    temperature: float

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(requires_grad=False)

    def blended(self, task: Tensor, logits: Tensor, images: Tensor) -> Tensor:
        """The loss of a student that answered `images` with `logits`."""
        with torch.no_grad():
            answers = self.network(images)
        return (1 - self.weight) * task + self.weight * distillation(logits, answers, self.temperature)


def retrain_step(
    network: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer, masks: Mapping[str, Tensor], precision: str,
    lr: float, teacher: Teacher | None = None,
) -> dict[str, float]:  # fmt: skip
    """One step of the compact network; pruned weights stay exactly zero.

    Returns:
        accuracy on the batch and the loss by its labels, which is to be compared whether a teacher helps or not.

    Raises:
        TrainingError: if the loss is not a finite number.
    """
    images, labels = batch
    for group in optimizer.param_groups:
        group["lr"] = lr
    with device.autocast(images.device, precision):
        logits = network(images)
        task = task_loss(logits, labels)
        loss = task if teacher is None else teacher.blended(task, logits, images)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    correct = (logits.detach().argmax(1) == labels).float().mean()
    values = torch.stack([loss.detach().float(), task.detach().float(), correct])
    parallel.mean_(chain([values], _left_in(network)))
    learned, told, accuracy = values.tolist()
    if not math.isfinite(learned):
        raise TrainingError(not_a_number("the loss", "retrain.lr", " while retraining"))
    nn.utils.clip_grad_norm_(network.parameters(), CLIP, foreach=True)
    optimizer.step()
    keep_pruned(network, masks)
    return {"loss": told, "accuracy": accuracy}


def _left_in(whole: nn.Module) -> Iterator[Tensor]:
    """What a pass leaves in a module: slopes, and running statistics."""
    yield from (parameter.grad for parameter in whole.parameters() if parameter.grad is not None)
    for module in whole.modules():
        if isinstance(module, BATCH_NORMS) and module.track_running_stats:
            yield from (module.running_mean, module.running_var)


def retrain_optimizer(network: nn.Module, weight_decay: float) -> torch.optim.SGD:
    """SGD with Nesterov momentum; norms, factors, biases and what has a place in images are not decayed."""
    parts: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for name, parameter in network.named_parameters():
        parts[not _decays(name, parameter)].append(parameter)
    groups = [{"params": parts[0], "weight_decay": weight_decay}, {"params": parts[1], "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=0.1, momentum=MOMENTUM, nesterov=True, fused=True)


def _decays(name: str, parameter: Tensor) -> bool:
    """Whether it is the weight of a layer; embeddings of positions have as many dimensions."""
    return name.endswith("weight") and parameter.ndim > 1


def one_cycle(step: int, steps: int, highest: float) -> float:
    """Learning rate that rises for a fifth of the steps, then falls to zero as a cosine.

    >>> [round(one_cycle(step, 10, 0.1), 3) for step in (0, 2, 6, 10)]
    [0.004, 0.1, 0.05, 0.0]
    """
    rise = max(1.0, 0.2 * steps)
    if step < rise:
        return highest * (0.04 + 0.96 * step / rise)
    return highest * 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


@torch.no_grad()
def keep_pruned(network: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Zeroes the pruned weights."""
    state = dict(network.named_parameters())
    for name, mask in masks.items():
        state[name].masked_fill_(mask == 0, 0.0)  # a product would leave zeros of either sign


@torch.no_grad()
def evaluated(forward: Callable[[Tensor], Tensor], split: Split, images: Images) -> dict[str, float | None]:
    """Mean loss and accuracy over a split."""
    meter = Meter()
    for x, y in data.batches(split, EVALUATION_BATCH):
        logits = forward(data.normalised(x, images.mean, images.std))
        correct = float((logits.argmax(1) == y).float().mean())
        meter.add(len(y), {"loss": float(task_loss(logits, y)), "accuracy": correct})
    return meter.means()


@torch.no_grad()
def latency_ms(network: nn.Module, image: Tensor, repeats: int = 30) -> float:
    """Median time of one image in milliseconds, after a warm-up."""
    times = []
    for turn in range(repeats + 5):
        started = time.perf_counter()
        network(image)
        if image.is_cuda:
            torch.cuda.synchronize(image.device)
        if turn >= 5:
            times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2] * 1000


def fresh(network: nn.Module, generator: torch.Generator) -> None:
    """Initial values for training from scratch, from the generator alone: Kaiming, and torch's default for the rest.

    A library's model has those that its library gives it.
    """
    if isinstance(network, Borrowed):
        with device.seeded(generator.initial_seed()):
            network.model.load_state_dict(rebuilt(network.architecture).state_dict())
        return
    with torch.no_grad():
        for module in network.modules():
            weight = getattr(module, "weight", None)
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif weight is not None and weight.ndim == 4:
                fan_out = weight.shape[0] // getattr(module, "groups", 1) * weight[0, 0].numel()
                weight.copy_(torch.randn(weight.shape, generator=generator) * math.sqrt(2 / fan_out))
            elif isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.in_features)
                weight.copy_((torch.rand(weight.shape, generator=generator) * 2 - 1) * bound)
                module.bias.zero_()
            elif not list(module.children()):
                for factor in module.parameters(recurse=False):
                    factor.fill_(1)  # the factor of a pool or skip


def check_finite(values: Iterable[Tensor], field_name: str) -> None:
    """Raises TrainingError unless all are finite numbers: the loss of the next step would not be one."""
    if not bool(torch.stack([value.detach().isfinite().all() for value in values]).all()):
        raise TrainingError(not_a_number("a weight", field_name))


def not_a_number(what: str, field_name: str, where: str = "") -> str:
    """The sentence for what came apart."""
    return (
        f"{what} became not a number{where}; lower {field_name} in a new search, the last checkpoint of this one is "
        "intact"
    )
