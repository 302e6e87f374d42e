"""What is minimised: pure functions on tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits [N, classes] and labels [N]."""
    return F.cross_entropy(logits.float(), labels)


def distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """How far a student's answers are from its teacher's: T^2 times the mean KL divergence, both softened by T.

    Source: Hinton, Vinyals and Dean (arXiv 1503.02531), section 2; by the T^2 gradients are about as large at any
    temperature. Differs: DMS retrains by DIST (arXiv 2205.10536), correlations over a batch; those say little in one of
    32 images or fewer, and of two classes each image's is 1 or -1. A divergence needs neither.

    Args:
        logits: [N, classes] of the student; the gradient flows here.
        teacher: [N, classes].
        temperature: above 0; the higher, the more the order of the unlikely classes counts.

    >>> alike, others = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 2.0]])
    >>> float(distillation(alike, alike + 5, 4.0)), round(float(distillation(alike, others, 1.0)), 3)
    (0.0, 1.15)
    """
    precise = torch.promote_types(logits.dtype, torch.float)
    student, wanted = (F.log_softmax(x.to(precise) / temperature, dim=1) for x in (logits, teacher))
    return temperature**2 * F.kl_div(student, wanted, reduction="batchmean", log_target=True)


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
