"""The best candidates of all blocks within limits, against all networks there are. Numbers are those of the method's
verifying tests. NAS-Bench-Macro's table is not here, so its five budgets are not among them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import islice, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasengine import traversal
from nasengine.traversal import Candidate, Found, ascending, best, looked, pareto

Blocks = list[list[Candidate]]

ENOUGH = settings(max_examples=40, deadline=None)

COUNTER_EXAMPLE = ([0, 1], [0, 10], [0, 1, 2]), ([4, 0], [3, 0], [5, 3, 0])


@st.composite
def instances(draw: st.DrawFn, costs: int = 1) -> Blocks:
    """3 to 5 blocks of 4 to 12 candidates, at most 2,000 networks; on a grid there are ties and equal costs.

    Ratings fall with the cost, rise with it, or do neither.
    """
    chance = random.Random(draw(st.integers(0, 2**32)))
    sizes = [draw(st.integers(4, 12)) for _ in range(draw(st.integers(3, 5)))]
    while math.prod(sizes) > 2000:
        sizes[sizes.index(max(sizes))] -= 1
    slope, noise = draw(st.sampled_from([-1, 0, 1])), draw(st.sampled_from([0.0, 0.2, 1.0]))
    grid = draw(st.sampled_from([None, 8, 2]))

    def settled(number: float) -> float:
        return number if grid is None else round(number * grid) / grid

    def candidate() -> Candidate:
        shares = [chance.random() for _ in range(costs)]
        rating = slope * math.sqrt(shares[0]) + noise * chance.gauss(0, 1)
        return Candidate(rating=settled(rating), costs=tuple(settled(10 * share) for share in shares))

    return [[candidate() for _ in range(size)] for size in sizes]


def whole(blocks: Sequence[Sequence[Candidate]]) -> list[Found]:
    """All networks, by rising rating."""
    networks = []
    for picks in product(*(range(len(block)) for block in blocks)):
        taken = [block[at] for block, at in zip(blocks, picks, strict=True)]
        costs = tuple(math.fsum(costs) for costs in zip(*(each.costs for each in taken), strict=True))
        rating = math.fsum(each.rating for each in taken)
        networks.append(Found(picks=picks, rating=rating, costs=costs, visited=0))
    return sorted(networks, key=lambda found: found.rating)


def feasible(networks: list[Found], bounds: Sequence[float], least: float = -math.inf) -> list[Found]:
    return [
        found
        for found in networks
        if all(cost <= bound for cost, bound in zip(found.costs, bounds, strict=True)) and found.costs[0] >= least
    ]


def assert_best(found: Found | None, blocks: Blocks, allowed: list[Found]) -> None:
    """It is one of those allowed, none is rated lower, and its sums are those of its candidates."""
    if not allowed:
        assert found is None
        return
    assert found is not None
    assert found.rating == pytest.approx(allowed[0].rating, rel=1e-12, abs=1e-12)
    assert (found.picks, found.rating, found.costs) in [(each.picks, each.rating, each.costs) for each in allowed]


def bound_at(networks: list[Found], share: float, which: int = 0) -> float:
    """The cost that so large a share of all networks does not exceed: just met by one of them; below all if 0."""
    costs = sorted(found.costs[which] for found in networks)
    return costs[int(share * (len(costs) - 1))] if share else costs[0] - 1


SHARES = st.sampled_from([0.0, 0.001, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])


@ENOUGH
@given(blocks=instances(), share=SHARES)
def test_06_the_traversal_finds_what_looking_at_all_networks_does(blocks: Blocks, share: float) -> None:
    networks = whole(blocks)
    bounds = [bound_at(networks, share)]
    assert_best(best(blocks, bounds), blocks, feasible(networks, bounds))


@ENOUGH
@given(blocks=instances(costs=2), first=SHARES, second=SHARES)
def test_06_none_of_two_limits_is_exceeded(blocks: Blocks, first: float, second: float) -> None:
    networks = whole(blocks)
    bounds = [bound_at(networks, first), bound_at(networks, second, 1)]
    assert_best(best(blocks, bounds), blocks, feasible(networks, bounds))


@ENOUGH
@given(blocks=instances(costs=2), share=SHARES, second=SHARES, band=st.sampled_from([0.0, 0.01, 0.03, 0.3]))
def test_06_with_a_lower_end_the_network_lies_in_the_band(
    blocks: Blocks, share: float, second: float, band: float
) -> None:
    networks = whole(blocks)
    bounds = [bound_at(networks, share), bound_at(networks, second, 1)]
    least = bounds[0] * (1 - band)
    assert_best(best(blocks, bounds, least), blocks, feasible(networks, bounds, least))


def test_06_where_the_published_loops_find_11_the_optimum_is_3() -> None:
    blocks = [
        [Candidate(rating=rating, costs=(cost,)) for rating, cost in zip(*block, strict=True)]
        for block in zip(*COUNTER_EXAMPLE, strict=True)
    ]
    found = best(blocks, [5.5])
    assert found is not None
    assert (found.picks, found.rating, found.costs) == ((1, 0, 2), 3, (3,))


def test_06_a_limit_that_is_just_met_is_not_exceeded() -> None:
    blocks = [[Candidate(rating=-cost, costs=(cost,)), Candidate(rating=0, costs=(0,))] for cost in (0.1, 0.2, 0.3)]
    found = best(blocks, [0.6])  # 0.1 + 0.2 + 0.3 > 0.6 if added one after another
    assert found is not None
    assert found.picks == (0, 0, 0)


@ENOUGH
@given(blocks=instances(costs=2), share=SHARES)
def test_06_the_fronts_alone_lead_to_the_same_rating(blocks: Blocks, share: float) -> None:
    bounds = [bound_at(whole(blocks), share), 1000]
    whole_lists = next(ascending(blocks, bounds), None)  # which filters nothing
    fronts = next(ascending([[block[at] for at in pareto(block)] for block in blocks], bounds), None)
    found = best(blocks, bounds)
    if whole_lists is None:
        assert fronts is found is None
    else:
        assert fronts is not None and found is not None
        assert [fronts.rating, found.rating] == pytest.approx([whole_lists.rating] * 2, rel=1e-12, abs=1e-12)


@ENOUGH
@given(blocks=instances(costs=2))
def test_06_a_front_is_what_no_other_undercuts(blocks: Blocks) -> None:
    for block in blocks:
        numbers = [(each.rating, *each.costs) for each in block]
        kept = {
            at
            for at, mine in enumerate(numbers)
            if not any(
                all(a <= b for a, b in zip(other, mine, strict=True)) and (other != mine or before < at)
                for before, other in enumerate(numbers)
                if before != at
            )
        }
        assert set(pareto(block)) == kept
        assert [block[at].costs for at in pareto(block)] == sorted(block[at].costs for at in kept)


@ENOUGH
@given(blocks=instances(costs=2), first=SHARES, second=SHARES)
def test_06_the_list_is_sorted_feasible_complete_and_without_duplicates(
    blocks: Blocks, first: float, second: float
) -> None:
    networks = whole(blocks)
    bounds = [bound_at(networks, first), bound_at(networks, second, 1)]
    allowed = feasible(networks, bounds)
    listed = list(ascending(blocks, bounds))
    assert [found.rating for found in listed] == [found.rating for found in allowed]
    assert {found.picks for found in listed} == {found.picks for found in allowed}
    assert len(listed) == len({found.picks for found in listed})


def falling(count: int, blocks: int, seed: int = 0) -> Blocks:
    """Ratings that fall with the cost, as they do, with noise."""
    chance = random.Random(seed)
    made = []
    for _ in range(blocks):
        weight = chance.uniform(0.5, 3)
        costs = [chance.randint(1000, 100_000) for _ in range(count)]
        made.append(
            [Candidate(rating=weight * (1 - c / 150_000) ** 2 + chance.gauss(0, 0.1), costs=(c,)) for c in costs]
        )
    return made


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_06_fewer_partial_networks_are_looked_at_than_there_are(seed: int, share: float) -> None:
    blocks = falling(9, 4, seed)
    found = best(blocks, [bound_at(whole(blocks), share)])
    assert found is not None
    assert found.visited < 9**4 / 10


@pytest.mark.parametrize("least", [0.0, 0.97])
def test_06_the_published_space_is_searched_in_few_steps(least: float) -> None:
    blocks = falling(1296, 6)
    bound = 0.5 * sum(max(each.costs[0] for each in block) for block in blocks)
    found = best(blocks, [bound], least * bound)
    assert found is not None
    assert least * bound <= found.costs[0] <= bound
    assert found.visited < 5000
    assert found.rating == next(ascending(blocks, [bound])).rating


def test_06_the_first_of_the_list_come_without_the_rest() -> None:
    blocks = falling(1296, 6)
    listed = list(islice(ascending(blocks, [300_000]), 100))
    assert [found.rating for found in listed] == sorted(found.rating for found in listed)
    assert len({found.picks for found in listed}) == 100
    assert listed[-1].visited < 50_000


def test_06_where_all_are_rated_alike_one_is_found_at_once() -> None:
    blocks = [[Candidate(rating=0.0, costs=(float(cost),)) for cost in range(294)] for _ in range(3)]
    for bound in (400.0, 1e9):
        found = best(blocks, [bound])
        assert found is not None and found.visited < 5000 and found.costs[0] <= bound


@pytest.mark.parametrize("seed", [1, 4])
def test_06_blocks_of_very_different_size_end_in_the_band_in_few_steps(seed: int) -> None:
    """In the order of the blocks 40,000 partial networks and more are looked at; the last one decides what fits."""
    chance = random.Random(seed)
    blocks: Blocks = []
    for large in (1, 1, 2, 40):
        layers = [[0, *(large * chance.randrange(100, 1500) for _ in range(6))] for _ in range(3)]
        blocks.append([Candidate(rating=chance.random(), costs=(float(sum(path)),)) for path in product(*layers)])
    target = 0.4 * sum(max(each.costs[0] for each in block) for block in blocks)
    answer = looked(blocks, [target], 0.97 * target)
    assert answer.found is not None and 0.97 * target <= answer.found.costs[0] <= target
    assert answer.certain and answer.visited < 1000


@pytest.mark.parametrize(("most", "is_certain"), [(1000, False), (traversal.IN_BAND, True)])
def test_06_what_is_not_certain_after_so_many_is_told_so(
    most: int, is_certain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ratings that are nearly proportional to costs, and the band beyond what two limits leave."""
    chance = random.Random(0)
    blocks = [
        [Candidate(rating=share, costs=(100 + 1000 * share, 1100 - 1000 * chance.random() * share)) for share in shares]
        for shares in ([chance.random() for _ in range(60)] for _ in range(3))
    ]
    monkeypatch.setattr(traversal, "IN_BAND", most)
    bounds, least = [2500.0, 1900.0], 0.97 * 2500
    breaths: list[None] = []
    monkeypatch.setattr(traversal, "BREATH", 100)
    answer = looked(blocks, bounds, least, lambda: breaths.append(None))
    assert answer.certain == is_certain
    assert answer.visited <= looked(blocks, bounds).visited + 2 * most and len(breaths) >= answer.visited // 100 - 3
    found = answer.found
    assert found is not None and found.costs[1] <= bounds[1] and least <= found.costs[0] <= bounds[0]
    assert (found.rating < 2.13) == is_certain


def test_06_who_insists_has_a_network_however_long_it_takes_and_who_ends_it_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blocks = falling(40, 4)
    known = looked(blocks, [60_000])
    monkeypatch.setattr(traversal, "ENOUGH", 1)
    answer = looked(blocks, [60_000])
    assert answer.found is not None and not answer.certain and answer.visited <= known.visited
    monkeypatch.setattr(traversal, "BREATH", 1)

    def ends() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        looked(blocks, [60_000], breathe=ends)
