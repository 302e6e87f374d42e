"""Whether a search paid, in a sentence that is true to its numbers."""

from __future__ import annotations

import math
import statistics

import pytest
import scipy.stats
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from nasengine.config import RetrainConfig
from nasengine.verdict import verdict, verdict_of_seeds

accuracies = st.floats(0.02, 0.98)


@pytest.mark.parametrize(
    ("found", "random", "opening"),
    [
        (
            0.90,
            [0.80, 0.82, 0.81, 0.82, 0.80],
            "The search paid: 90.0 % on the test images, against 81.0 % ± 1.0 % on average",
        ),
        (0.83, [0.80, 0.82, 0.81, 0.82, 0.80], "Whether the search paid cannot be told from chance: 83.0 %"),
        (0.90, [0.80, 0.84], "Whether the search paid cannot be told from chance"),
        (
            0.86,
            [*[0.80] * 9, 0.86],
            "The search paid on average, but the best random network is at least as good: 86.0 %",
        ),
        (0.70, [0.80, 0.82, 0.81, 0.82, 0.80], "The search did not pay: 70.0 %"),
        (0.83, [0.82, 0.82, 0.82], "Whether the search paid cannot be told from chance"),
    ],
)
def test_each_outcome_has_its_words(found: float, random: list[float], opening: str) -> None:
    assert verdict(found, random, 1000)["sentence"].startswith(opening)


def test_few_images_are_no_evidence_however_alike_the_random_networks_are() -> None:
    found, random = 0.85, [0.800, 0.805, 0.800, 0.803]
    assert verdict(found, random, 50)["sentence"].startswith("Whether the search paid cannot be told")
    assert verdict(found, random, 5000)["sentence"].startswith("The search paid: ")


def test_one_random_network_is_said_to_be_no_evidence() -> None:
    found = verdict(0.9, [0.5], 1000)
    assert found["sentence"] == (
        "One random network is no evidence whether the search paid: the found one has 90.0 % on the test images, it "
        "has 50.0 %; compare with five."
    )
    assert found["spread"] is None and found["mean"] == found["best"] == 0.5


def test_inherited_weights_are_said_to_favour_the_found_network() -> None:
    said = [verdict(0.9, [0.8, 0.7], 1000, inherited=inherited)["sentence"] for inherited in (False, True)]
    assert ["suit the found network best" in sentence for sentence in said] == [False, True]
    title = RetrainConfig.model_fields["start"].title
    assert said[1].endswith(f"; to compare without that, set {title} (retrain.start) to scratch.")


@given(accuracies, st.lists(accuracies, min_size=2, max_size=8), st.integers(20, 10_000))
def test_the_words_agree_with_the_numbers(found: float, random: list[float], images: int) -> None:
    told = verdict(found, random, images)
    mean, spread = statistics.fmean(random), statistics.stdev(random)
    assert (told["mean"], told["best"], told["spread"]) == (mean, max(random), spread)
    assert told["error"] == pytest.approx(math.sqrt(mean * (1 - mean) / images))
    t = scipy.stats.t.ppf(0.975, len(random) - 1)
    margin = max(t * spread * math.sqrt(1 + 1 / len(random)), 2 * told["error"])
    assume(abs(abs(found - mean) - margin) > 0.003 * margin)  # the table has three digits
    apart = abs(found - mean) > margin
    opening = told["sentence"].split(":")[0]
    assert apart == (opening != "Whether the search paid cannot be told from chance")
    if apart and found != max(random):
        assert (found > mean) == opening.startswith("The search paid")
        assert (found > max(random)) == (opening == "The search paid")
    for value in (found, mean, spread, max(random)):
        assert f"{100 * value:.1f} %" in told["sentence"]
    assert f" of {len(random)} random networks of this size (one search)." in told["sentence"]


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_a_search_that_is_no_better_than_chance_is_seldom_said_to_have_paid(n: int) -> None:
    """Found and random ones from one distribution, a thousand times: about one in forty is called better by chance."""
    stream = torch.Generator().manual_seed(n)
    draws = (0.7 + 0.02 * torch.randn(1000, n + 1, generator=stream)).tolist()
    said = [verdict(found, random, 100_000)["sentence"] for found, *random in draws]
    assert sum(sentence.startswith("The search paid") for sentence in said) < 45


@pytest.mark.parametrize(("m", "n"), [(2, 2), (3, 5), (5, 1), (10, 3)])
@pytest.mark.parametrize("shared", [0.0, 0.03])
def test_several_searches_that_are_no_better_than_chance_are_seldom_said_to_have_paid(
    m: int, n: int, shared: float
) -> None:
    """A thousand times; also if all networks of a seed are lifted together, by its images or its weights."""
    stream = torch.Generator().manual_seed(m * n)
    lifts = shared * torch.randn(1000, m, 1, generator=stream)
    draws = (0.7 + 0.02 * torch.randn(1000, m, 1 + n, generator=stream) + lifts).tolist()
    said = [verdict_of_seeds([(own, random) for own, *random in draw], 100_000)["sentence"] for draw in draws]
    assert sum(sentence.startswith("The search paid") for sentence in said) < 45


def test_several_searches_are_told_by_mean_spread_and_number() -> None:
    pairs = [(0.90, [0.80, 0.81]), (0.92, [0.82, 0.81]), (0.91, [0.80, 0.82])]
    assert verdict_of_seeds(pairs, 10_000)["sentence"] == (
        "The search paid: 91.0 % ± 1.0 % on the test images, against 81.0 % ± 0.9 % on average and 82.0 % at best of 6 "
        "random networks of this size (3 searches)."
    )
    assert "favours" not in verdict_of_seeds(pairs, 10_000)["sentence"]
    assert "suit the found network best" in verdict_of_seeds(pairs, 10_000, inherited=True)["sentence"]


def test_a_gain_in_every_seed_counts_however_much_seeds_differ() -> None:
    pairs = [(0.90, [0.86]), (0.80, [0.75]), (0.85, [0.80])]
    opening = verdict_of_seeds(pairs, 10_000)["sentence"].split(":")[0]
    assert opening == "The search paid on average, but the best random network is at least as good"
    assert verdict_of_seeds([(0.90, [0.85]), (0.80, [0.85])], 10_000)["sentence"].startswith("Whether the search paid")
