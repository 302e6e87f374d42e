"""The weights with their zeros left out: one bit a weight says whether it is there, then come those that are.

``model.py`` reads it back (`compact.dense`). Exact: every bit of every value returns.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nasengine.compact import BITS, VALUES

ENTRY = 100
"""Bytes that one more entry takes in the header of a safetensors file, roughly."""


def sparse(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict; weights that are smaller so become ``name.bits`` (uint8, first highest) and ``name.values``."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        there = (value != 0) | torch.signbit(value)  # a negative zero is a value like others
        zeros = value.numel() - int(there.sum())
        if zeros * value.element_size() > value.numel() / 8 + ENTRY:
            found[name + BITS] = _packed(there.flatten())
            found[name + VALUES] = value[there]
        else:
            found[name] = value
    return found


def _packed(flags: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(flags.to(torch.uint8), (0, -len(flags) % 8)).view(-1, 8)
    powers = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8)
    return (padded * powers).sum(1).to(torch.uint8)
