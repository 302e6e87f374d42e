"""Which channels of a model stand or fall together.

A convolution can lose a filter only if all that add to its output, normalise or read it lose the same one. What is
coupled so is one element; elements that run through the same layers are a group, and one number, how many of them stay,
narrows them all. Torch-Pruning traces the model (`tracing`), but is not believed: a group counts only if the
narrowed model computes, to 1e-12, what the whole one computes with those channels silenced (`proof`).
"""

from __future__ import annotations

import copy
import multiprocessing
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor, nn

from nasengine.errors import ConfigError, told

SECONDS = 60.0
PATIENCE = 0.2
"""Share of the time, as the process has had it, that is left when nothing new is proved any more: so what is found does
not depend on how busy a machine is, unless it is too busy to find anything."""


@dataclass(frozen=True)
class Member:
    """One side of one layer that a group runs through.

    Attributes:
        layer: dotted name of a module, of a parameter that belongs to no layer, or of a number in a module.
        side: out, in, or through (a norm, or a free parameter); of a free parameter also rows, its first dimension.
            heads of an attention, width of each of them where queries meet keys; queries of the layer that makes them,
            where they are silenced since no layer reads them; size of a number that says how many channels there are.
        of: all channels of that side.
        channels: for each element, the channels that are its own.
    """

    layer: str
    side: str
    of: int
    channels: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Group:
    """Elements of which any may go without the others.

    Attributes:
        name: of the first layer that makes them.
        width: how many they are.
        members: all that loses channels with them.
    """

    name: str
    width: int
    members: tuple[Member, ...]

    @property
    def layers(self) -> frozenset[str]:
        """Names of all its layers, and of the attention whose heads they are."""
        return frozenset(member.layer for member in self.members if member.side != "size")


@dataclass(frozen=True)
class Frozen:
    """A group that stays whole, and why."""

    name: str
    width: int
    reason: str


@dataclass(frozen=True)
class Coupling:
    """What of a model can be narrowed.

    Attributes:
        groups: that can, each proved.
        frozen: that cannot, each with its reason.
        reach: share of the model's multiply-adds in layers that a group runs through.
        difference: largest relative difference in the proof.
    """

    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    reach: float
    difference: float

    def to_json(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Coupling:
        """What `to_json` gave, also after a way through a file."""
        groups = tuple(
            Group(group["name"], group["width"], tuple(_member(member) for member in group["members"]))
            for group in raw["groups"]
        )
        frozen = tuple(Frozen(**one) for one in raw["frozen"])
        return cls(groups, frozen, raw["reach"], raw["difference"])


def _member(raw: Mapping[str, Any]) -> Member:
    return Member(raw["layer"], raw["side"], raw["of"], tuple(tuple(element) for element in raw["channels"]))


def coupling(model: nn.Module, example: Tensor, *, seconds: float = SECONDS) -> Coupling:
    """Finds and proves a model's groups, in a process of its own that is killed when its time is over.

    Args:
        model: on the CPU, makes logits [N, classes] of images; its Python classes must be importable. It is not
            changed, and its weights stay here: couplings are a matter of shape, and the proof uses random weights.
        example: a batch of images [1, C, H, W].
        seconds: for all of it, the start of the process included.

    Raises:
        ConfigError: if they are not found in that time, or the model cannot be traced.
    """
    until = time.monotonic() + seconds
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    receiver, sender = context.Pipe(duplex=False)
    process = _started(context, model, (sender, tuple(example.shape), (1 - PATIENCE) * seconds))
    sender.close()
    try:
        return _answer(receiver, until, seconds)
    finally:
        process.kill()
        process.join()
        receiver.close()


def _started(context: SpawnContext, model: nn.Module, work: tuple[Any, ...]) -> BaseProcess:
    try:
        shell = _with_parameters(model, (nn.Parameter(p.detach().to("meta")) for p in model.parameters()))
        process = context.Process(target=_work, args=(shell, *work), daemon=True)
        process.start()
    except Exception as error:  # whatever its parts say when they are asked to travel
        raise ConfigError.at(
            "space.model", f"the model cannot be handed to another process ({told(error)}); give it classes of a module"
        ) from None
    return process


def _answer(receiver: Connection, until: float, seconds: float) -> Coupling:
    doing = "starting"
    while receiver.poll(max(0.0, until - time.monotonic())):
        try:
            kind, what = receiver.recv()
        except EOFError:
            raise ConfigError.at(
                "space.model", f"the process that looks for channel groups ended while {doing}; is there memory left?"
            ) from None
        if kind == "done":
            return what
        if kind == "refused":
            raise ConfigError.at("space.model", what)
        doing = what
    raise ConfigError.at(
        "space.model", f"its channel groups were not found within {seconds:g} s (still {doing}); take another model"
    )


def _with_parameters(model: nn.Module, parameters: Iterable[nn.Parameter]) -> nn.Module:
    """A copy with other parameters, those that are shared still so."""
    return copy.deepcopy(model, {id(old): new for old, new in zip(model.parameters(), parameters, strict=True)})


def _work(shell: nn.Module, sender: Connection, shape: tuple[int, ...], until: float) -> None:
    """All that the other process does."""
    import warnings

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # where cores are busy, two threads are slower than one by far
    model = _with_parameters(shell, (nn.Parameter(torch.zeros(p.shape)) for p in shell.parameters()))
    try:
        sender.send(("done", _found(model, shape, until, lambda doing: sender.send(("doing", doing)))))
    except Exception as error:  # whatever strange models do is a reason to refuse them
        sender.send(("refused", f"its channel groups cannot be found ({told(error)}); take another model"))


def candidates(model: nn.Module, shape: tuple[int, ...], stream: torch.Generator) -> tuple[list[Group], list[Frozen]]:
    """Groups to be proved, and what is known to be none.

    Args:
        model: in eval mode, with random weights; it stays as it is.
        shape: of a batch of one image.
        stream: for the images.
    """
    from nasengine import attention, tracing

    # Copies are traced: some models keep what they computed, and with it a graph that could not be copied later.
    traced, frozen = tracing.groups(copy.deepcopy(model), torch.randn(shape, generator=stream))
    heads, stiff = attention.groups(copy.deepcopy(model), torch.randn((4, *shape[1:]), generator=stream))
    judged = tuple(f"{one.name}." for one in (*heads, *stiff))
    again = (tracing.ATTENTION, tracing.LOST)  # says of an attention's layers what is said of its heads
    others = [one for one in frozen if not (one.name.startswith(judged) and one.reason in again)]
    return [*traced, *heads], [*others, *stiff]


def _found(model: nn.Module, shape: tuple[int, ...], until: float, say: Callable[[str], None]) -> Coupling:
    from nasengine import proof
    from nasengine.multiply_adds import counted

    stream = torch.Generator().manual_seed(0)
    say("tracing the model")
    proof.randomised(model, shape, stream)
    possible, frozen = candidates(model, shape, stream)
    say(f"proving {len(possible)} groups")
    images = torch.randn((2, *shape[1:]), generator=stream, dtype=torch.float64)
    groups, failed, difference = proof.proved(model.double(), possible, images, stream, until)
    count = counted(model, images[:1])
    touched = frozenset().union(*(group.layers for group in groups))
    reached = sum(macs for layer, macs in count.by_layer.items() if layer in touched)
    return Coupling(groups, (*frozen, *failed), reached / count.macs, difference)
