"""Numbered checks of MSG-DAS's sampler: 1 to 3, 5, 6 and, on tables of accuracies, 10. The others are in
``test_msgdas_verifying``."""

from __future__ import annotations

import importlib.util
import itertools
import math
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor

from nasengine import gumbel
from nasengine.device import generator

FORMS: tuple[gumbel.Form, ...] = ("renorm", "sequential", "full")
DRAWS = 200_000


def perturbed(scores: Tensor, stream: torch.Generator, n: int = 1) -> Tensor:
    """[n, M] log-probabilities plus noise of their own in every row."""
    return torch.log_softmax(scores, -1) + gumbel.noise((n, *scores.shape), stream)


def tuples(m: int, k: int) -> Tensor:
    """All ordered draws of k of m, [m! / (m - k)!, k]."""
    return torch.tensor(list(itertools.permutations(range(m), k)))


def inclusion(p: Tensor, k: int) -> Tensor:
    """[M] probability that each candidate is among the k drawn, by enumeration."""
    every = tuples(len(p), k)
    chance = gumbel.law(p.log(), every).exp()
    return torch.stack([chance[(every == m).any(-1)].sum() for m in range(len(p))])


def leading(p: float, m: int = 8) -> Tensor:
    """One candidate with probability p, the others alike."""
    return torch.tensor([p, *[(1 - p) / (m - 1)] * (m - 1)]).double()


# -- 1: exclusion -----------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), m=st.integers(1, 9), data=st.data())
@settings(max_examples=60, deadline=None)
def test_01_an_edge_draws_k_distinct_candidates_that_are_alive(seed: int, m: int, data: Any) -> None:
    stream = generator("cpu", seed, "exclusion")
    live = torch.zeros(m, dtype=torch.bool)
    alive = data.draw(st.integers(1, m))
    live[torch.randperm(m, generator=stream)[:alive]] = True
    k = data.draw(st.integers(1, alive))
    scores = (3 * torch.randn(m, generator=stream).double()).masked_fill(~live, -torch.inf)
    found = gumbel.drawn(perturbed(scores, stream, 20), k)
    assert all(len(set(row)) == k for row in found.tolist())
    assert bool(live[found].all())
    if k == alive:
        assert all(sorted(row) == live.nonzero().flatten().tolist() for row in found.tolist())


def test_01_more_than_live_is_an_error_not_a_repeated_draw() -> None:
    scores = torch.zeros(2, 4).double()
    scores[1, 2:] = -torch.inf
    with pytest.raises(ValueError, match="3 distinct candidates of an edge that has 2"):
        gumbel.drawn(perturbed(scores, generator("cpu", 0, "few"))[0], 3)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_01_one_draw_is_the_gumbel_max_of_gdas_with_the_same_noise(seed: int) -> None:
    scores = torch.randn(6, 5, generator=generator("cpu", seed, "scores")).double()
    found = gumbel.drawn(perturbed(scores, generator("cpu", seed, "noise"))[0], 1)
    uniform = torch.rand((1, 6, 5), generator=generator("cpu", seed, "noise"), dtype=torch.double)[0]
    gdas = torch.softmax((torch.log_softmax(scores, -1) - torch.log(-torch.log(uniform))) / 10, -1)
    assert torch.equal(found[:, 0], gdas.argmax(-1))


# -- 2: law -----------------------------------------------------------------------------------------------------------


def test_02_ordered_draws_follow_plackett_and_luce() -> None:
    """M = 5, K = 2: 20 cells."""
    stream = generator("cpu", 2, "law")
    scores = torch.randn(5, generator=stream).double()
    found = Counter(map(tuple, gumbel.drawn(perturbed(scores, stream, DRAWS), 2).tolist()))
    every = tuples(5, 2)
    expected = DRAWS * gumbel.law(scores, every).exp()
    assert float(expected.sum()) == pytest.approx(DRAWS)
    seen = torch.tensor([found[tuple(pair)] for pair in every.tolist()]).double()
    assert chi2.sf(float(((seen - expected) ** 2 / expected).sum()), len(every) - 1) > 0.001


@pytest.mark.parametrize(
    ("p", "expected"),
    [(0.125, (0.125, 0.25, 0.375, 0.5)), (0.4, (0.40, 0.66, 0.83, 0.92)), (0.7, (0.70, 0.92, 0.98, 0.996))],
)
def test_02_how_often_a_leading_candidate_is_drawn_is_what_the_law_says(p: float, expected: tuple[float, ...]) -> None:
    shares = leading(p)
    s = perturbed(shares.log(), generator("cpu", 3, "inclusion", p), 50_000)
    for k, published in enumerate(expected, start=1):
        chance = float(inclusion(shares, k)[0])
        assert chance == pytest.approx(published, abs=0.006)
        seen = float((gumbel.drawn(s, k) == 0).any(-1).double().mean())
        assert abs(seen - chance) <= 4 * math.sqrt(chance * (1 - chance) / len(s))


def test_02_the_second_draw_is_not_another_first_one() -> None:
    """With replacement its marginal would be the softmax; in closed form it is sum_{i != j} p_i p_j / (1 - p_i)."""
    shares = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05]).double()
    odds = shares / (1 - shares)
    closed = shares * (odds.sum() - odds)
    found = gumbel.drawn(perturbed(shares.log(), generator("cpu", 4, "second"), DRAWS), 2)[:, 1]
    seen = torch.bincount(found, minlength=5) / DRAWS
    error = (closed * (1 - closed) / DRAWS).sqrt()
    assert bool(((seen - closed).abs() <= 4 * error).all())
    assert bool(((seen - shares).abs() > 20 * error).any())


# -- 3: temperature ---------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), form=st.sampled_from(FORMS), cold=st.floats(0.05, 0.5), hot=st.floats(1, 20))
@settings(max_examples=30, deadline=None)
def test_03_temperature_changes_slopes_and_nothing_else(seed: int, form: gumbel.Form, cold: float, hot: float) -> None:
    scores = torch.randn(4, 6, generator=generator("cpu", seed, "scores")).double().requires_grad_()
    weight = torch.randn(4, 2, 6, generator=generator("cpu", seed, "weight")).double()
    slopes = []
    for temperature in (cold, hot):
        s = perturbed(scores, generator("cpu", seed, "noise"))[0]
        ranked = gumbel.drawn(s, 2)
        hard = gumbel.one_hot(ranked, 6)
        mask = gumbel.straight_through(hard, gumbel.soft(s, ranked, temperature, form))
        assert torch.equal(mask, hard.double())
        slopes.append(torch.autograd.grad((mask * weight).sum(), scores)[0])
    assert not torch.allclose(*slopes)


def test_03_a_mask_is_exactly_one_in_single_precision() -> None:
    """(1 + P) - P is not, for a good part of all numbers."""
    slope = torch.rand(100_000, generator=generator("cpu", 5, "slope"))
    hard = torch.ones(100_000, dtype=torch.bool)
    assert bool((gumbel.straight_through(hard, slope) == 1).all())
    assert float(((hard.float() + slope) - slope != 1).float().mean()) > 0.1


# -- 5: slopes --------------------------------------------------------------------------------------------------------

PAIRS, SAMPLES, M = 12, 40_000, 8


def problems() -> tuple[Tensor, Tensor]:
    """[12, 8] scores and what each candidate adds to the loss."""
    stream = generator("cpu", 7, "pairs")
    return 0.7 * torch.randn(PAIRS, M, generator=stream).double(), torch.randn(PAIRS, M, generator=stream).double()


def exact(scores: Tensor, losses: Tensor, k: int) -> Tensor:
    """[M] slope of the expected loss, the sum over the k drawn, by enumeration."""
    scores, every = scores.clone().requires_grad_(), tuples(M, k)
    expected = (gumbel.law(scores, every).exp() * losses[every].sum(-1)).sum()
    return torch.autograd.grad(expected, scores)[0]


def estimated(
    scores: Tensor, losses: Tensor, k: int, form: gumbel.Form, temperature: float, *, everything: bool = False,
    n: int = SAMPLES,
) -> Tensor:  # fmt: skip
    """[n, M] slopes by the straight-through masks; with `everything` all candidates have an output, else the drawn."""
    rows = scores.expand(n, M).clone().requires_grad_()
    s = torch.log_softmax(rows, -1) + gumbel.noise((n, M), generator("cpu", 8, k, "samples"))
    ranked = gumbel.drawn(s, k)
    hard = gumbel.one_hot(ranked, M)
    mask = gumbel.straight_through(hard, gumbel.soft(s, ranked, temperature, form))
    loss = mask * losses
    total = (loss if everything else loss * hard).sum()
    return torch.autograd.grad(total, rows)[0]


def cosines(k: int, form: gumbel.Form, temperature: float, *, everything: bool, offset: float = 0.0) -> Tensor:
    """[12] of the mean estimate with the exact slope."""
    found = []
    for scores, losses in zip(*problems(), strict=True):
        mean = estimated(scores, losses + offset, k, form, temperature, everything=everything).mean(0)
        found.append(torch.cosine_similarity(mean, exact(scores, losses, k), dim=0))
    return torch.stack(found)


@pytest.mark.parametrize(("form", "everything"), [("full", True), ("renorm", False)])
@pytest.mark.parametrize("temperature", [1.0, 0.1])
@pytest.mark.parametrize("k", [2, 3])
def test_05_slopes_point_where_the_expected_loss_falls(
    k: int, temperature: float, form: gumbel.Form, everything: bool
) -> None:
    found = cosines(k, form, temperature, everything=everything)
    assert float(found.mean()) >= 0.9
    if k == 2:
        assert float(found.min()) >= 0.9


def test_05_what_is_common_to_all_candidates_does_not_move_renorm_but_may_turn_full_around() -> None:
    scores, losses = (values[0] for values in problems())
    for k, temperature in itertools.product((2, 3), (10.0, 1.0, 0.1)):
        plain, shifted = (estimated(scores, losses + by, k, "renorm", temperature, n=2_000) for by in (0, 5))
        assert float((plain - shifted).abs().max()) < 1e-6
    plain, shifted = (cosines(2, "full", 10.0, everything=False, offset=by) for by in (0, 5))
    assert float(plain.mean()) > 0.9 > 0.5 > float(shifted.mean())
    assert float(shifted.min()) < 0


def test_05_the_slope_of_the_law_itself_is_without_bias() -> None:
    """What a score function makes of it: the mean is within four standard errors of the exact slope."""
    scores, losses = (values[0] for values in problems())
    rows = scores.expand(SAMPLES, M).clone().requires_grad_()
    drawn = gumbel.drawn(perturbed(scores, generator("cpu", 9, "score"), SAMPLES), 2)
    reward = losses[drawn].sum(-1)
    each = torch.autograd.grad((gumbel.law(rows, drawn) * reward).sum(), rows)[0]
    error = each.std(0) / math.sqrt(SAMPLES)
    assert bool(((each.mean(0) - exact(scores, losses, 2)).abs() <= 4 * error).all())


@given(seed=st.integers(0, 10**6), form=st.sampled_from(FORMS), k=st.integers(1, 4), temperature=st.floats(0.1, 10))
@settings(max_examples=40, deadline=None)
def test_05_slopes_of_an_edge_sum_to_zero_and_agree_with_finite_differences(
    seed: int, form: gumbel.Form, k: int, temperature: float
) -> None:
    stream = generator("cpu", seed, "differences")
    scores = torch.randn(2, 5, generator=stream).double().requires_grad_()
    noise, weight = gumbel.noise((2, 5), stream), torch.randn(2, k, 5, generator=stream).double()
    ranked = gumbel.drawn(torch.log_softmax(scores.detach(), -1) + noise, k)

    def loss(scores: Tensor) -> Tensor:
        s = torch.log_softmax(scores, -1) + noise
        return (gumbel.soft(s, ranked, temperature, form) * weight).sum()

    slope = torch.autograd.grad(loss(scores), scores)[0]
    assert float(slope.sum(-1).abs().max()) < 1e-9
    assert bool(slope.any()) == (k > 1 or form != "renorm")
    assert torch.autograd.gradcheck(loss, (scores,), eps=1e-6, atol=1e-5)


# -- 6: alignment -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("align", ["rank", "shuffled"])
def test_06_shuffled_sub_graphs_are_alike_and_ranked_ones_are_not(align: gumbel.Align) -> None:
    shares, n = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05]).double(), 60_000
    stream = generator("cpu", 10, align)
    ranked = gumbel.drawn(perturbed(shares.log(), stream, n), 3)
    found = ranked.gather(-1, gumbel.ranks((n,), 3, align, stream))
    assert torch.equal(found.sort(-1).values, ranked.sort(-1).values), "the same are drawn"
    every = tuples(5, 3)
    chance = gumbel.law(shares.log(), every).exp()
    for number in range(3):
        by_rank = torch.stack([chance[every[:, number] == m].sum() for m in range(5)])
        expected = by_rank if align == "rank" else inclusion(shares, 3) / 3
        seen = torch.bincount(found[:, number], minlength=5) / n
        assert bool(((seen - expected).abs() <= 4 * (expected * (1 - expected) / n).sqrt()).all())


# -- 10: behaviour on tables ------------------------------------------------------------------------------------------

SEEDS, EVALUATIONS = 40, 600


def learned(table: Tensor, k: int, seed: int) -> Tensor:
    """[seeds] values of the cells that are found when each sub-graph is credited with its own reward.

    The reward is the rank of a cell's value; the baseline the mean of a step's rewards, for one draw a running mean.
    """
    edges, m = table.ndim, table.shape[0]
    rewards = (table.flatten().argsort().argsort().double() / (table.numel() - 1)).view_as(table)
    scores, baseline = torch.zeros(SEEDS, edges, m).double(), torch.full((SEEDS, 1), 0.5).double()
    stream = generator("cpu", seed, k, "table")
    for _ in range(EVALUATIONS // k):
        s = torch.log_softmax(scores, -1) + gumbel.noise((SEEDS, edges, m), stream)
        drawn = gumbel.drawn(s, k).gather(-1, gumbel.ranks((SEEDS, edges), k, "shuffled", stream))
        reward = rewards[tuple(drawn.unbind(1))]  # [seeds, K]
        if k > 1:
            baseline = reward.mean(-1, keepdim=True)
        credit = (reward - baseline)[:, None, :, None]
        slope = credit * (gumbel.one_hot(drawn, m).double() - torch.softmax(scores, -1).unsqueeze(-2))
        scores = scores + 0.3 * k * slope.mean(-2)
        if k == 1:
            baseline = 0.9 * baseline + 0.1 * reward
    return table[tuple(scores.argmax(-1).unbind(1))]


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_10_on_a_table_of_sums_it_finds_nearly_the_best(k: int) -> None:
    """Random sums over six edges of five candidates, with interactions of pairs a quarter as large."""
    stream = generator("cpu", 11, "sums")
    parts = torch.randn(6, 5, generator=stream).double()
    pairs = 0.25 * torch.randn(6, 6, 5, 5, generator=stream).double()
    cells = torch.cartesian_prod(*[torch.arange(5)] * 6)
    values = sum(parts[e, cells[:, e]] for e in range(6))
    values = values + sum(pairs[e, f, cells[:, e], cells[:, f]] for e, f in itertools.combinations(range(6), 2))
    found = learned(values.view([5] * 6), k, seed=12)
    place = (values[None] <= found[:, None]).double().mean(-1)
    assert float(place.median()) >= 0.995
    assert float(place.quantile(0.1)) >= 0.98


class _Plain:
    """What becomes of the objects in a pickle: attributes, and nothing that runs."""


class _Table(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[_Plain]:
        if module == "analognasbench.data" and name in ("Architecture", "DriftMeasurement"):
            return _Plain
        raise pickle.UnpicklingError(f"{module}.{name} has no business here")


def nas_bench_201() -> Tensor:
    """[5] * 6 test accuracies of CIFAR-10, in percent; the package itself is not imported."""
    found = importlib.util.find_spec("analognasbench")
    if found is None:
        pytest.skip("analog-nasbench, which has the table of NAS-Bench-201, is not installed")
    with (Path(found.submodule_search_locations[0]) / "data.anb").open("rb") as file:
        rows = _Table(file).load()
    table = torch.full([5] * 6, torch.nan).double()
    for cell, row in rows.items():
        table[cell] = row.baseline_accuracy
    return table


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_10_on_nas_bench_201_it_is_as_good_as_independent_scores_can_be(k: int) -> None:
    table = nas_bench_201()
    assert (round(float(table.max()), 2), round(float(table.median()), 2)) == (94.07, 90.41)
    found = learned(table, k, seed=13)
    assert float(found.median()) >= 93.1
    assert float(found.quantile(0.1)) >= 92.8
    assert float(found.min()) >= 91.5
