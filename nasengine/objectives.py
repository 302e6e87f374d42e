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
