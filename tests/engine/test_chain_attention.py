"""Promises of attention in a chain: what it computes, where it stands, what goes with a head, what it keeps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small import chain_plan, images_for, lived_in, living, random_gains, random_kept, relative
from torch import Tensor

from nasengine import export
from nasengine.architecture import Plan, activations, lowered
from nasengine.compact import MapAttention
from nasengine.multiply_adds import counted
from nasengine.supernet import Supernet, architecture, everything

NAME = "l1_attention_h4"


def attentive(**changes: object) -> Plan:
    return chain_plan(layers=3, kernels=(3,), expansions=(2,), attention=(4,), reductions=(1,), **changes)  # type: ignore[arg-type]


def test_it_is_torchs_own_attention_of_positions() -> None:
    """[N, C, H, W]: the channels of a head stand together, positions are tokens."""
    stream = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 12, 4, 5, generator=stream, dtype=torch.double)

    def tokens(x: Tensor) -> Tensor:
        return x.reshape(2, 3, 4, 20).transpose(2, 3)

    expected = F.scaled_dot_product_attention(tokens(q), tokens(k), tokens(v), scale=0.3)
    for learning in (True, False):
        with torch.set_grad_enabled(learning):
            found = MapAttention(3, 0.3)(q, k, v)
        assert relative(expected.transpose(2, 3).reshape(2, 12, 4, 5), found) <= 1e-12
        assert found.is_contiguous(memory_format=torch.channels_last), "as the convolutions around it like it"


def test_without_it_a_chain_is_what_it_was() -> None:
    assert chain_plan(attention=()) == chain_plan()
    assert not any(layer.op == "attention" for layer in chain_plan().layers)


def test_it_stands_only_where_maps_are_small() -> None:
    """Images of 18 pixels: 18 in the first layer, 9 behind the halving."""
    plan = attentive(image_size=18)
    assert [plan.choice[f"l{number}_ops"].labels for number in range(3)] == [
        ("mbconv_3x3_e2",), ("mbconv_3x3_e2", "attention_h4"), ("skip", "mbconv_3x3_e2", "attention_h4"),
    ]  # fmt: skip
    assert plan.sides[f"{NAME}_attention"] == 9, "it halves before it looks"


@given(seed=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_a_head_goes_with_its_queries_keys_and_values_and_a_place_goes_from_all_heads(seed: int) -> None:
    plan = attentive()
    kept = random_kept(plan, seed, ["filter"])
    heads, places = (kept[f"{NAME}_{part}"].nonzero().flatten().tolist() for part in ("heads", "places"))
    layers = {
        layer["name"]: layer
        for layer in lowered(plan, {n: a.nonzero().flatten().tolist() for n, a in kept.items()}).layers
    }
    assert layers[f"{NAME}_attention"] == {
        "name": f"{NAME}_attention", "op": "attention", "heads": len(heads), "channels": len(heads) * len(places),
        "scale": 0.25, "inputs": [f"{NAME}_{part}_bn" for part in ("query", "key", "value")],
    }  # fmt: skip
    net = Supernet(plan, lived_in(plan, seed).nursery, kept)
    rows = [16 * head + place for head in heads for place in places]
    for part in ("query", "key", "value"):
        assert layers[f"{NAME}_{part}_conv"]["out_channels"] == len(rows)
        assert net.places[f"{NAME}_{part}_conv"][0].tolist() == rows


@given(seed=st.integers(0, 10**6))
@settings(max_examples=5, deadline=None)
def test_multiply_adds_are_those_of_the_real_network(seed: int) -> None:
    plan = attentive(image_size=10)
    kept = random_kept(plan, seed, ["operation", "filter"])
    kept["l1_ops"][1] = True
    net = Supernet(plan, lived_in(plan, seed).nursery, kept)
    found = architecture(plan, kept)
    network = export.compact_network(net, found, living(net, random_gains(plan, seed)), {})
    count = counted(network, images_for(plan, n=1))
    own = next(layer for layer in found.layers if layer["name"] == f"{NAME}_attention")
    assert count.macs == found.macs
    assert count.by_layer[f"layers.{NAME}_attention"] == 2 * own["channels"] * 25**2


@pytest.mark.parametrize("kept_heads", [4, 2])
def test_what_training_keeps_is_what_is_counted(kept_heads: int) -> None:
    """Bytes that autograd holds, each storage once; the maps of the attentions are most of it."""
    plan = attentive(image_size=16)
    kept = everything(plan)
    for choice in plan.choices:
        if choice.name.endswith("_heads"):
            kept[choice.name][kept_heads:] = False
    net = Supernet(plan, lived_in(plan, dtype=torch.float32).nursery, kept).train()
    images = images_for(plan, n=8, dtype=torch.float32)
    own = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    held: dict[int, int] = {}
    saved: list[Tensor] = []

    def pack(x: Tensor) -> Tensor:
        saved.append(x)  # or its place would be given to another
        if x.untyped_storage().data_ptr() not in own and x.ndim > 1:
            held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = net(images).sum()
    assert loss.requires_grad
    assert sum(held.values()) / 4 / len(images) == pytest.approx(activations(plan, net.program, net.units), rel=0.02)
