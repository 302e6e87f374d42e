"""Blocks of a model that can be taken out, because they add to what they are given: its depth.

Source: DMS (ICML 2024, arXiv 2405.07194), appendix A.1.1: contiguous residual blocks of one shape are one top-k.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Run:
    """Blocks one behind the other, of which any may go without the others.

    Attributes:
        name: of the module that holds them.
        blocks: dotted names, in the order in which they run.
    """

    name: str
    blocks: tuple[str, ...]


@dataclass(frozen=True)
class _Call:
    name: str
    module: nn.Module
    shape: torch.Size


def runs(model: nn.Module, example: Tensor) -> tuple[Run, ...]:
    """All runs of removable blocks; of blocks within blocks the inner ones.

    A block is removable if it is called once, answers in the shape of what it is given, and with all its parameters
    zero answers just that: what it adds is then nothing.

    Args:
        model: in eval mode; it stays as it is.
        example: a batch of images.
    """
    calls = _calls(model, example)
    residual = [call for call in calls if _passes_on(call)]
    names = {call.name for call in residual}
    innermost = [c for c in residual if not any(name.startswith(f"{c.name}.") for name in names)]
    return tuple(_runs(innermost, [call.name for call in calls]))


def _calls(model: nn.Module, example: Tensor) -> list[_Call]:
    """Modules with parameters that were called once, in the order in which they began, with one tensor each way."""
    began: list[str] = []
    shapes: dict[str, torch.Size | None] = {}

    def watched(name: str, module: nn.Module) -> Iterator[Any]:
        def enters(*_: Any) -> None:
            began.append(name)

        def leaves(_: nn.Module, given: tuple[Any, ...], options: dict[str, Any], made: Any) -> None:
            plain = len(given) == 1 and not options and isinstance(given[0], Tensor) and isinstance(made, Tensor)
            shapes[name] = made.shape if plain and made.shape == given[0].shape else None

        yield module.register_forward_pre_hook(enters)
        yield module.register_forward_hook(leaves, with_kwargs=True)

    modules = {name: m for name, m in model.named_modules() if name and any(True for _ in m.parameters())}
    run_watched(model, example, (hook for name, module in modules.items() for hook in watched(name, module)))
    return [
        _Call(name, modules[name], shape)
        for name in began
        if began.count(name) == 1 and (shape := shapes.get(name)) is not None
    ]


def run_watched(model: nn.Module, example: Tensor, hooks: Iterable[Any]) -> None:
    """Runs the model once on the example while these hooks (handles, as torch gives them) are there."""
    there = list(hooks)
    try:
        with torch.no_grad():
            model(example)
    finally:
        for hook in there:
            hook.remove()


@torch.no_grad()
def _passes_on(call: _Call) -> bool:
    """Whether it adds nothing to what it is given (between 0 and 1, which rectifiers let through) once it is zero."""
    silent = copy.deepcopy(call.module)
    for parameter in silent.parameters():
        parameter.zero_()
    given = torch.rand(call.shape, generator=torch.Generator().manual_seed(0))
    try:
        made = silent(given.clone())
    except Exception:  # on its own it may lack what its model gives it
        return False
    return isinstance(made, Tensor) and made.shape == given.shape and torch.allclose(made, given, atol=1e-6)


def _runs(blocks: Sequence[_Call], order: Sequence[str]) -> Iterator[Run]:
    """Blocks of one parent and shape, with nothing else of that parent between them."""
    place = {name: number for number, name in enumerate(order)}
    run: list[_Call] = []
    for block in sorted(blocks, key=lambda call: place[call.name]):
        if run and not _follows(run[-1], block, order, place):
            yield _run(run)
            run = []
        run.append(block)
    if run:
        yield _run(run)


def _follows(one: _Call, other: _Call, order: Sequence[str], place: dict[str, int]) -> bool:
    parent = _parent(one.name)
    between = order[place[one.name] + 1 : place[other.name]]
    return (
        parent == _parent(other.name)
        and one.shape == other.shape
        and all(name.startswith(f"{one.name}.") for name in between)
    )


def _run(blocks: Sequence[_Call]) -> Run:
    return Run(_parent(blocks[0].name), tuple(block.name for block in blocks))


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
