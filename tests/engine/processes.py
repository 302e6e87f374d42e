"""A function of a test module, run by several processes that torchrun starts."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from small import ROOT, configuration, surroundings

N = 2


def torchrun(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(N), *map(str, arguments)]


def together(function: Callable[[Path], None], folder: Path) -> list[Any]:
    """Calls it with the folder, in each process; returns what each has left there by `leave`."""
    run = subprocess.run(
        torchrun(__file__, function.__module__, function.__qualname__, folder), cwd=ROOT,
        env=surroundings() | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    import torch

    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(N)]


def leave(folder: Path, what: Any) -> None:
    """For whoever started the processes."""
    import torch

    from nasengine import parallel

    torch.save(what, folder / f"{parallel.rank()}.pt")


def watched_search(folder: Path, changes: dict[str, Any], **options: Any) -> dict[str, list[Any]]:
    """Runs a search; returns the images of each step of this process, and all that has learned after it.

    `search`: weights and statistics, and the strategy's own state; `retrain`: the network.
    """
    import pytest

    from nasengine import train
    from nasengine.search import search

    seen: dict[str, list[Any]] = {"images": [], "search": [], "retrain": [], "told": []}
    search_step, retrain_step = train.search_step, train.retrain_step

    def searching(net: Any, strategy: Any, moment: Any, batch: Any, *rest: Any) -> Any:
        told = search_step(net, strategy, moment, batch, *rest)
        seen["images"].append(batch[0].clone())
        learned = [*net.live.values(), *net.running_statistics, *strategy.state_dict().values()]
        seen["search"].append([value.detach().clone() for value in learned])
        seen["told"].append(list(told[0].values()))
        return told

    def retraining(network: Any, batch: Any, *rest: Any) -> Any:
        told = retrain_step(network, batch, *rest)
        seen["images"].append(batch[0].clone())
        seen["retrain"].append([value.clone() for value in network.state_dict().values()])
        seen["told"].append(list(told.values()))
        return told

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "search_step", searching)
        patch.setattr(train, "retrain_step", retraining)
        list(search(configuration(changes), folder, **options))
    return seen


def assert_alike(one: dict[str, list[Any]], other: dict[str, list[Any]]) -> None:
    """Of two watched searches: equal bit by bit after each step, though they saw different images."""
    import torch

    assert one["told"] == other["told"]
    for phase in ("search", "retrain"):
        for mine, yours in zip(one[phase], other[phase], strict=True):
            assert all(torch.equal(*values) for values in zip(mine, yours, strict=True))
    for mine, yours in zip(one["images"], other["images"], strict=True):
        assert len(mine) == len(yours)
        assert not {image.numpy().tobytes() for image in mine} & {image.numpy().tobytes() for image in yours}


if __name__ == "__main__":
    module, name, where = sys.argv[1:]
    getattr(importlib.import_module(module), name)(Path(where))
