"""Numbers of channels that a model has written down, beside those of its layers: they must follow when it is cut.

Whether a number that is as large as a group is wide counts its channels can only be tried; `proof` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from nasengine.compact import channels, written
from nasengine.coupling import Member

OTHER = ("size", "patch", "resolution", "window", "stride", "kernel", "area", "length", "heads", "classes", "depth")
"""Parts of names of numbers that count something else."""


def sizes(module: nn.Module, widths: Mapping[int, tuple[tuple[int, ...], ...]]) -> Iterator[Member]:
    """Members for all numbers that may count one of these widths.

    Args:
        module: in which they may be, at any depth.
        widths: number of channels -> for each element of a group, those that are its own.
    """
    for within, part in module.named_modules():
        if any(channels(part, side) for side in ("in", "through")):
            continue  # those of a layer are cut with it
        for name, value in vars(part).items():
            width = written(value)
            if width in widths and not any(other in name for other in OTHER):
                yield Member(f"{within}.{name}".lstrip("."), "size", width, widths[width])
