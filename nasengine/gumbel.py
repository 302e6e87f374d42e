"""K of M candidates, each at most once: Gumbel noise, the K best, and masks through which gradients pass.

The last axis is always that of the candidates; whatever stands before it (edges) is drawn independently. A score of
minus infinity is a candidate that is never drawn. Pure functions.

Source: MSG-DAS (arXiv 2107.04324) names a "Gumbel-TopK sampler"; of that paper no more than the abstract could be
read, so everything here is our reconstruction. That the K best of perturbed scores follow the law of Plackett and Luce
is a standard fact (Kool, van Hoof and Welling, arXiv 1903.06059). With K = 1 and `full` it is GDAS (arXiv 1910.04465).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Form = Literal["renorm", "sequential", "full"]
Align = Literal["rank", "shuffled"]

TINY = 1e-300
"""What a uniform number is at least, so that its logarithm is finite."""


def noise(shape: tuple[int, ...], stream: torch.Generator) -> Tensor:
    """Independent standard Gumbel numbers, in double precision, on the CPU."""
    uniform = torch.rand(shape, generator=stream, dtype=torch.double).clamp_(min=TINY)
    return -torch.log(-torch.log(uniform))


def drawn(perturbed: Tensor, k: int) -> Tensor:
    """[..., K] numbers of the K best, the best first: no two are the same.

    Args:
        perturbed: [..., M] log-probabilities plus noise.
        k: how many.

    Raises:
        ValueError: if fewer than `k` candidates of an edge can be drawn.

    >>> drawn(torch.tensor([[0.1, 2.0, -torch.inf, 1.0]]), 2)
    tensor([[1, 3]])
    """
    fewest = int((perturbed > -torch.inf).sum(-1).min())
    if fewest < k:
        raise ValueError(f"{k} distinct candidates of an edge that has {fewest}")
    return perturbed.topk(k, dim=-1).indices


def ranks(shape: tuple[int, ...], k: int, align: Align, stream: torch.Generator) -> Tensor:
    """[..., K] which of an edge's draws, counted from the best, each sub-graph takes.

    Args:
        shape: of the edges.
        k: how many sub-graphs.
        align: rank: the first takes the best on every edge, the last the worst. shuffled: on each edge another order,
            so that no sub-graph is better than another.
        stream: on the CPU; the same numbers are taken from it for either.
    """
    chance = torch.rand((*shape, k), generator=stream, dtype=torch.double)
    return chance.argsort(-1) if align == "shuffled" else torch.arange(k).expand(*shape, k)


def soft(perturbed: Tensor, ranked: Tensor, temperature: float, form: Form) -> Tensor:
    """[..., K, M] what the gradient of each draw follows; the last axis sums to one.

    Args:
        perturbed: [..., M].
        ranked: [..., K] from `drawn`.
        temperature: above 0. It never decides what is drawn, nor what a mask is, only how steep the way back is.
        form: full: a softmax over all candidates, the same for every draw (as GDAS has it for one). sequential: over
            those that earlier draws left. renorm: over the K drawn, the same for each; with K = 1 it has no slope.

    >>> s, o = torch.tensor([0.5, 0.3, 0.2]).double().log(), torch.tensor([0, 1])
    >>> [soft(s, o, 1.0, form)[1].round(decimals=3).tolist() for form in ("full", "sequential", "renorm")]
    [[0.5, 0.3, 0.2], [0.0, 0.6, 0.4], [0.625, 0.375, 0.0]]
    """
    k = ranked.shape[-1]
    scores = perturbed.unsqueeze(-2).expand(*perturbed.shape[:-1], k, perturbed.shape[-1])
    if form != "full":
        taken = one_hot(ranked, perturbed.shape[-1])
        left = taken.any(-2, keepdim=True).expand_as(taken) if form == "renorm" else ~_before(taken)
        scores = scores.masked_fill(~left, -torch.inf)
    return torch.softmax(scores / temperature, dim=-1)


def straight_through(hard: Tensor, slope: Tensor) -> Tensor:
    """`hard`, bit for bit, with the gradient of `slope`.

    The brackets matter: ``(hard + slope) - slope`` is not always `hard`.
    """
    return hard.to(slope.dtype) + (slope - slope.detach())


def one_hot(chosen: Tensor, n: int) -> Tensor:
    """[...] numbers to [..., n] bool."""
    return chosen.unsqueeze(-1) == torch.arange(n, device=chosen.device)


def law(log_shares: Tensor, ordered: Tensor) -> Tensor:
    """[...] logarithm of the probability that just these are drawn in this order, differentiable (Plackett-Luce).

    Args:
        log_shares: [..., M]; a common offset changes nothing.
        ordered: [..., K] distinct candidates.

    >>> p = torch.tensor([0.5, 0.3, 0.2])
    >>> round(float(law(p.log(), torch.tensor([1, 0])).exp()), 4)  # 0.3 * 0.5 / 0.7
    0.2143
    """
    taken = _before(one_hot(ordered, log_shares.shape[-1]))
    left = log_shares.unsqueeze(-2).expand(taken.shape).masked_fill(taken, -torch.inf)
    return torch.log_softmax(left, dim=-1).gather(-1, ordered.unsqueeze(-1)).squeeze(-1).sum(-1)


def _before(taken: Tensor) -> Tensor:
    """[..., K, M] bool: what the draws before each one took."""
    return taken.int().cumsum(-2).bool() & ~taken
