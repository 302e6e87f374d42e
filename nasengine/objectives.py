"""What is minimised: pure functions on tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits [N, classes] and labels [N]."""
    return F.cross_entropy(logits.float(), labels)


def size_penalty(size: Tensor, pressure: float | Tensor) -> Tensor:
    """`pressure` times the logarithm of the size, so that equal relative savings weigh the same at any scale.

    Differs: MGAS's published code has its size term switched off; this is the count of everything that is stored.
    """
    return pressure * torch.log(size)


def operation_spread(scores: Tensor, groups: Tensor, sizes: Tensor) -> Tensor:
    """Sum over candidates of log(1 + N a / S): it is least when few candidates of a node have all the score.

    Source: GOLD-NAS (arXiv 2007.03331) and MGAS's published search; rho = 1, mu = 0.

    Args:
        scores: [K] of living candidates, positive.
        groups: [K] node of each.
        sizes: [nodes] living candidates of each node.
    """
    sums = scores.new_zeros(len(sizes)).index_add(0, groups, scores)
    return torch.log1p(sizes[groups] * scores / sums[groups]).sum()


def threshold_push(thresholds: Tensor) -> Tensor:
    """Sum of exp(-t): descent raises thresholds, low ones most. Source: Dynamic Sparse Training (ICLR 2020)."""
    return torch.exp(-thresholds).sum()
