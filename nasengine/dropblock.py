"""Noise on what costs nothing: squares of an identity's channels are zeroed while it trains. A pure function.

Source: MSG-DAS (arXiv 2107.04324) names "Dropblock-Identity", against skips that lead because several sub-graphs draw
them; rate, size and schedule are not in its abstract, so those are ours. DropBlock itself: arXiv 1810.12890.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 7
"""Side of the squares in pixels, on maps that are large enough."""


def dropblock(x: Tensor, keep: float, stream: torch.Generator, block: int = BLOCK) -> Tensor:
    """`x` with about 1 - keep of its values zeroed in squares, each channel by itself, the rest scaled to the old mean.

    Args:
        x: [N, C, H, W].
        keep: share that stays, above 0; with 1 it is `x` itself.
        stream: on the device of `x`.
        block: side of the squares; no larger than the map.
    """
    if keep >= 1:
        return x
    height, width = x.shape[-2:]
    b = min(block, height, width)
    corners = (*x.shape[:-2], height - b + 1, width - b + 1)
    rate = (1 - keep) / b**2 * (height * width) / (corners[-2] * corners[-1])
    seeds = (torch.rand(corners, generator=stream, device=x.device) < rate).float()
    mask = 1 - F.max_pool2d(F.pad(seeds, [b - 1] * 4), b, stride=1)
    return x * (mask * (mask.numel() / mask.sum().clamp(min=1))).to(x.dtype)  # counts would not fit in half precision
