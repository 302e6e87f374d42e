"""Promises of nasengine.borrowed: a library's model under masks, narrowed, and on its own is one and the same."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from known import MODELS, SIZE, origin
from small import configuration, living, masks_of, random_gains, random_kept, relative
from torch import Tensor, nn

from nasengine import export, train
from nasengine.borrowed import BorrowedNet, weighted_norm
from nasengine.compact import Borrowed, narrow
from nasengine.multiply_adds import counted
from nasengine.retraining import random_decision
from nasengine.strategies import mgas
from nasengine.supernet import Kept, architecture, everything

all_models = pytest.mark.parametrize("which", MODELS)


def net_of(which: str, kept: Kept | None = None) -> BorrowedNet:
    whole = BorrowedNet.whole(origin(which))
    nursery = {name: value.double() if value.is_floating_point() else value for name, value in whole.nursery.items()}
    return BorrowedNet(whole.origin, nursery, kept or whole.kept).eval()


def images(n: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@all_models
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_masked_narrowed_and_compact_compute_the_same(which: str, seed: int) -> None:
    full, x = net_of(which), images(seed=seed)
    kept, gains = random_kept(full.plan, seed), random_gains(full.plan, seed)
    with full.silenced(kept):
        expected = full(x, masks_of(kept), gains)
    small = full.with_(full.nursery, kept).eval()
    found = architecture(full.plan, kept)
    own = {name: gain for name, gain in living(small, gains).items() if name in full.plan.groups}
    compact = small.compact(own, {})
    assert relative(expected, small(x, None, own)) < 1e-9
    assert relative(expected, compact(x)) < 1e-9
    assert sum(int(p.count_nonzero()) for p in compact.parameters()) == found.params
    assert counted(compact, x[:1]).macs == found.macs
    again = Borrowed(compact.architecture).double().eval()
    again.load_state_dict(compact.state_dict())
    assert torch.equal(again(x), compact(x))


@pytest.mark.parametrize("which", [which for which in MODELS if which != "concatenation, dropout"])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_hard_masks_alone_silence_what_is_off(which: str, seed: int) -> None:
    """What a search computes with before it prunes: nothing but factors, and norms weighted by them."""
    full, x = net_of(which), images(seed=seed)
    kept = random_kept(full.plan, seed, ("operation", "filter"))
    small = full.with_(full.nursery, kept).eval()
    assert relative(small(x), full(x, masks_of(kept))) < 1e-9


@all_models
def test_one_training_step_moves_batch_norms_alike_under_masks_and_narrowed(which: str) -> None:
    full, x = net_of(which), images(8)
    kept = random_kept(full.plan, 3, ("operation", "filter"))
    kept |= {name: alive for name, alive in everything(full.plan).items() if full.plan.choice[name].floor == 0}
    small = full.with_({name: value.clone() for name, value in full.nursery.items()}, kept)
    torch.manual_seed(0)
    for module in (*full.modules(), *small.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    full.train()(x, masks_of(kept))
    small.train()(x)
    full.store()
    moved = 0
    for name, value in small.model.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            key = f"{name.rpartition('.')[0]}/{name.rpartition('.')[2]}"
            assert relative(small.gather(key, full.nursery), value) < 1e-9, name
            moved += 1
    assert moved or which in ("layer norms", "attention", "concatenation, dropout", "layer norms in two dimensions")


@all_models
def test_the_size_under_hard_masks_is_that_of_what_is_left(which: str) -> None:
    net = net_of(which)
    for seed in range(3):
        kept = random_kept(net.plan, seed)
        flat = {level: units.joined(masks_of(kept), torch.float64) for level, units in net.flat.items()}
        for metric in ("params", "macs"):
            assert float(net.count(metric)(flat)) == architecture(net.plan, kept).size(metric)


@pytest.mark.parametrize("which", ["residual", "layer norms", "attention"])
def test_slopes_in_masks_are_those_of_finite_differences(which: str) -> None:
    """Of a filter with several readers, and of a block that may go; with norms that take masks as weights."""
    net, x, stream = net_of(which), images(), torch.Generator().manual_seed(0)
    masks = {
        choice.name: (0.3 + 0.7 * torch.rand(choice.units, generator=stream, dtype=torch.float64)).requires_grad_()
        for choice in net.plan.choices
        if choice.granularity != "weight"
    }
    net(x, masks).square().sum().backward()
    step, checked = 1e-6, 0
    for name, mask in masks.items():
        unit = int(mask.grad.abs().argmax())
        values = []
        for sign in (1, -1):
            moved = {**masks, name: mask.detach().clone()}
            moved[name][unit] += sign * step
            values.append(float(net(x, moved).detach().square().sum()))
        slope = float(mask.grad[unit])
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=1e-4, abs=1e-6), name
        checked += slope != 0
    assert checked > len(masks) / 2


def test_a_mask_of_a_width_counts_once_at_queries_and_once_at_values() -> None:
    net, x = net_of("attention"), images()
    name = "blocks.2.attn width"
    mask = torch.rand(net.plan.groups[name], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = net(x, {name: mask})
    heads = net.plan.groups["blocks.2.attn"]
    with torch.no_grad():
        attention = net.model.blocks[2].attn
        for parameter in attention.qkv.parameters():
            parameter[: heads * len(mask)].mul_(mask.repeat(heads).view(-1, *[1] * (parameter.ndim - 1)))
        attention.proj.weight.mul_(mask.repeat(heads))
    assert relative(net(x), found) < 1e-12


@all_models
def test_what_returns_is_as_it_was_and_so_is_its_momentum(which: str) -> None:
    net = net_of(which)
    before = {name: value.clone() for name, value in net.nursery.items()}
    optimizer = train.weights_optimizer(net, 0.1, 0.0)
    for name, parameter in net.live.items():
        optimizer.state[parameter]["momentum_buffer"] = before[name] * 2
    net.keep_momentum(optimizer)
    kept = random_kept(net.plan, 5)
    net.commit(kept)
    optimizer = train.weights_optimizer(net, 0.1, 0.0)
    net.keep_momentum(optimizer)
    assert any(net.live[name].numel() < before[name].numel() for name in net.live)
    net.commit(everything(net.plan))
    net.store()
    for name, value in net.nursery.items():
        assert torch.equal(value, before[name]), name
    for name, value in net.momentum.items():
        assert torch.equal(value, before[name] * 2), name


def test_pruned_weights_stay_what_they_were_whatever_an_optimizer_does() -> None:
    net = net_of("residual")
    kept = random_kept(net.plan, 7, ("weight",))
    before = {name: value.clone() for name, value in net.nursery.items()}
    net.commit(kept)
    with torch.no_grad():
        for parameter in net.live.values():
            parameter.add_(1.0)
    net.store()
    for choice, layer in net.plan.weighs.items():
        name = f"{layer}/weight"
        expected = torch.where(kept[choice], before[name] + 1, before[name])
        assert torch.equal(net.nursery[name], expected)


def test_statistics_stand_still_while_nobody_is_to_move_them() -> None:
    net = net_of("residual").train()
    net.tracks = False
    means = {name: value.clone() for name, value in net.model.state_dict().items() if "running" in name}
    net(images(4))
    assert all(torch.equal(net.model.state_dict()[name], value) for name, value in means.items())
    net.tracks = True
    net(images(4))
    assert not all(torch.equal(net.model.state_dict()[name], value) for name, value in means.items())


@pytest.mark.parametrize("which", ["residual", "attention"])
@pytest.mark.parametrize("metric", ["macs", "params"])
def test_a_size_is_met_and_never_exceeded(which: str, metric: str) -> None:
    net = net_of(which)
    full = architecture(net.plan, everything(net.plan)).size(metric)
    for share in (0.7, 0.3):
        bounds = {metric: int(share * full)}
        kept = random_decision(
            net.plan, torch.Generator().manual_seed(0), bounds=bounds, granularities=("operation", "filter")
        )
        size = architecture(net.plan, kept).size(metric)
        assert 0.9 * bounds[metric] <= size <= bounds[metric]


def test_training_from_scratch_starts_with_the_librarys_own_values_the_same_for_the_same_stream() -> None:
    net = net_of("attention", random_kept(net_of("attention").plan, 1, ("operation", "filter")))
    first, second, third = (net.compact({}, {}) for _ in range(3))
    for network, seed in ((first, 1), (second, 1), (third, 2)):
        train.fresh(network, torch.Generator().manual_seed(seed))
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert not all(torch.equal(value, third.state_dict()[name]) for name, value in first.state_dict().items())


@pytest.mark.parametrize("which", ["residual", "layer norms"])
def test_a_block_returns_where_none_of_its_run_is_left(which: str) -> None:
    """No head start: the lowest score of what lives at its level, or its own where nothing does."""
    net, wanted = net_of(which), configuration({"space": {"kind": "imported"}, "strategy": {"kind": "mgas"}})
    strategy = mgas.strategy(net.plan, wanted, (1000,), {})
    runs = [choice.name for choice in net.plan.choices if choice.granularity == "operation"]
    with torch.no_grad():
        strategy.alpha.copy_(torch.arange(len(strategy.alpha)) - 3.0)
    before = strategy.alpha.detach().clone()
    net.commit({runs[0]: torch.zeros(net.plan.choice[runs[0]].units, dtype=torch.bool)})
    strategy._welcome(net, everything(net.plan), SimpleNamespace(steps=3))
    units = net.plan.choice[runs[0]].units
    lowest = before[units] if len(runs) > 1 else before[0]
    assert torch.equal(strategy.alpha[:units], lowest.expand(units))
    assert bool(strategy.sheltered_operation[:units].all()) and not strategy.sheltered_operation[units:].any()


def test_multiply_adds_are_counted_where_the_network_lies() -> None:
    """As on a GPU: images must come to where it is."""
    network = net_of("residual").compact({}, {"mean": [0.0] * 3, "std": [1.0] * 3}).float()
    expected = export.macs(network)
    assert export.macs(network.to("meta")) == expected


def test_what_stayed_random_learns_even_where_weights_rest() -> None:
    whole = origin("residual")
    head = frozenset({"fc.weight", "fc.bias"})
    net = BorrowedNet.whole(replace(whole, fresh=head))
    train.ready(net, weights=False)
    learning = {name for name, parameter in net.live.items() if parameter.requires_grad}
    assert learning == {"fc/weight", "fc/bias"}


# -- norms over what stays --------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), positions=st.integers(1, 4))
@example(seed=0, positions=1)
def test_a_weighted_norm_is_the_norm_over_the_channels_that_stay(seed: int, positions: int) -> None:
    stream = torch.Generator().manual_seed(seed)
    on = torch.rand(12, generator=stream) < 0.5
    on[seed % 12] = True
    keep = on.nonzero().flatten().tolist()
    layer, one, halves = nn.LayerNorm(12), nn.GroupNorm(1, 12), nn.GroupNorm(2, 12)
    for norm in (layer, one, halves):
        norm.double()
        for parameter in norm.parameters():
            parameter.data = torch.randn(12, generator=stream, dtype=torch.float64)
    x = torch.randn(2, positions, 12, generator=stream, dtype=torch.float64)
    found = weighted_norm(layer, x, on.double())[..., keep]
    assert relative(narrow(copy.deepcopy(layer), {"through": keep})(x[..., keep]), found) < 1e-12
    y = x.movedim(-1, 1)
    found = weighted_norm(one, y, on.double())[:, keep]
    assert relative(narrow(copy.deepcopy(one), {"through": keep})(y[:, keep]), found) < 1e-12
    even = torch.zeros(12, dtype=torch.float64)
    even[both := sorted({c % 6 for c in keep} | {c % 6 + 6 for c in keep})] = 1
    found = weighted_norm(halves, y, even)[:, both]
    assert relative(narrow(copy.deepcopy(halves), {"through": both})(y[:, both]), found) < 1e-12
    for norm, given_ in ((layer, x), (one, y), (halves, y)):
        assert relative(norm(given_), weighted_norm(norm, given_, torch.ones(12).double())) < 1e-12
