"""One search by several processes: each has the whole network and plays the same search on its share of every batch.

Nothing at all in a single process. Processes are those that torchrun started, found by the variables that it sets. The
first one leads: it alone hears requests, reads clocks that decide, speaks and writes.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from nasengine.errors import ConfigError, Interrupted, TrainingError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")
PATIENCE = timedelta(days=1)
"""For others, which may be packing images; who dies is missed at once."""


def world() -> int:
    """How many processes there are."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in VARIABLES) else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return int(os.environ["RANK"]) if world() > 1 else 0


def leads() -> bool:
    """Whether this one hears, speaks and writes."""
    return rank() == 0


def join(device_name: str) -> None:
    """Meets the others, once; on CUDA this process has the GPU of its place on the machine from now on.

    Raises:
        ConfigError: there are not as many GPUs.
    """
    if world() == 1:
        return
    import torch
    from torch import distributed

    from nasengine import device

    if distributed.is_initialized():
        return
    on_gpu = device.chosen(device_name).type == "cuda"
    if on_gpu:
        here, there_are = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
        if here > there_are:
            problem = f"{here} processes were started here, where there are {there_are} usable GPUs"
            raise ConfigError.at("runtime.device", f"{problem}; start one for each, or choose cpu")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=PATIENCE)
    atexit.register(distributed.destroy_process_group)


def uneven(images: int) -> str | None:
    """Why so many images are no batch for these processes, or None if they are."""
    n = world()
    if n == 1 or (images % n == 0 and images >= 2 * n):
        return None
    return f"{images:,} images are no equal shares for {n} processes; give a multiple of {n}, two for each at least"


def share(batch: Tensor) -> Tensor:
    """This process's part of a batch, along the first dimension."""
    return batch.chunk(world())[rank()]


def mean_(values: Iterable[Tensor]) -> None:
    """Puts the mean over all processes in the place of each tensor; bit for bit the same everywhere."""
    if world() == 1:
        return
    import torch
    from torch import distributed

    alike: dict[torch.dtype, list[Tensor]] = {}
    for value in values:
        alike.setdefault(value.dtype, []).append(value.detach())
    for parts in alike.values():
        flat = torch.cat([part.flatten() for part in parts])
        with _together():
            distributed.all_reduce(flat)
        flat /= world()
        for part, mean in zip(parts, flat.split([part.numel() for part in parts]), strict=True):
            part.copy_(mean.view(part.shape))


def agreed(find: Callable[[], T]) -> T:
    """What the first process finds, for all; plain values.

    Raises:
        Interrupted: the first one has failed, and says why.
    """
    if world() == 1:
        return find()
    said: list[Any] = []
    try:
        if leads():
            said = [find()]
    finally:
        said = _told_by_the_first(said)
    if not said:
        raise Interrupted("the first process has ended")
    found: T = said[0]
    return found


def first_then_others(steps: Iterable[T]) -> Generator[T, None, Any]:
    """Steps that the first process goes before all others, who find in a cache what it has left there."""
    done = False
    if leads():
        try:
            found = yield from steps
            done = True
        finally:
            agreed(lambda: done)
    elif agreed(lambda: done):
        found = yield from steps
    else:
        raise Interrupted("the first process has ended")
    return found


def told(said: Iterable[T]) -> Iterator[T]:
    """What the first process says; others go the same way in silence."""
    for one in said:
        if leads():
            yield one


def _told_by_the_first(said: list[Any]) -> list[Any]:
    """As JSON: nothing is unpickled here."""
    import torch
    from torch import distributed

    text = json.dumps(said).encode() if leads() else b""
    with _together():
        size = torch.tensor(len(text))
        distributed.broadcast(size, 0)
        letters = torch.frombuffer(bytearray(text or int(size)), dtype=torch.uint8)
        distributed.broadcast(letters, 0)
    found: list[Any] = json.loads(bytes(letters.tolist()))
    return found


@contextmanager
def _together() -> Iterator[None]:
    """The loss of another process, as a sentence."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            "another process of this search has ended; see what it said, then start all of them again: the last "
            "checkpoint is intact"
        ) from error
