"""Promises of `attention`: a head is one element, and so is a place in all of them, whoever wrote the attention.

What cannot lose one is told.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_coupling import images, independent, some, stream
from timm.layers import Attention
from timm.models.cait import TalkingHeadAttn
from timm.models.levit import Attention as LevitAttention
from timm.models.maxxvit import Attention2d
from timm.models.metaformer import Attention as MetaAttention
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn

from nasengine.attention import HIDDEN, MIXED, NARROW, STIFF, UNSCALED, groups
from nasengine.compact import opened, rebuilt
from nasengine.coupling import Frozen, Group, Member, candidates
from nasengine.cutting import recipe, sliced
from nasengine.multiply_adds import counted
from nasengine.proof import proved, randomised, relative_difference
from nasengine.tracing import SINGLE

SIDE, WIDTH, HEADS = 16, 24, 3
ACROSS = "attention width"


class Attending(nn.Module):
    """Sixteen patches look at each other."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, WIDTH, 4, stride=4), nn.LayerNorm(WIDTH)
        self.attention, self.head = attention, nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        given = self.norm(x)
        torchs = hasattr(self.attention, "dropout")
        seen = self.attention(given, given, given, need_weights=False)[0] if torchs else self.attention(given)
        return self.head((x + seen).mean(1))


class Rowwise(nn.Module):
    """Patches of a row look at each other, so that the last layer reads four dimensions; torch scales."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.qkv, self.proj = HEADS, nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x.unflatten(1, (4, 4))).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = parts.permute(3, 0, 1, 4, 2, 5)
        seen = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(seen.transpose(2, 3).flatten(3)).flatten(1, 2)


class SeparateAttention(nn.Module):
    """Values, keys and queries are layers of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.scale = HEADS, (WIDTH // HEADS) ** -0.5
        self.values, self.keys, self.queries = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.last = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        apart = (layer(x).unflatten(-1, (self.num_heads, -1)) for layer in (self.values, self.keys, self.queries))
        v, k, q = (part.transpose(1, 2) for part in apart)
        seen = (q @ k.mT * self.scale).softmax(-1) @ v
        return self.last(seen.transpose(1, 2).flatten(2))


class PlaneAttention(Attention2d):
    """Patches keep their places; all layers are convolutions."""

    def __init__(self) -> None:
        super().__init__(WIDTH, dim_head=WIDTH // HEADS)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mT.unflatten(-1, (4, 4))).flatten(2).mT


SOUND: dict[str, Callable[[], nn.Module]] = {
    "timm's": lambda: Attention(WIDTH, num_heads=HEADS, qkv_bias=True),
    "torch's": lambda: nn.MultiheadAttention(WIDTH, HEADS, batch_first=True),
    "within rows": Rowwise,
    "in layers of their own": SeparateAttention,
    "in two dimensions": PlaneAttention,
    "with a bias for each pair of places": lambda: WindowAttention(WIDTH, num_heads=HEADS, window_size=(4, 4)),
    "with wider values than keys": lambda: LevitAttention(WIDTH, 4, HEADS, attn_ratio=2.0, resolution=(4, 4)),
}


@cache
def found(kind: str) -> tuple[nn.Module, tuple[Group, ...], tuple[Frozen, ...]]:
    model = opened(Attending(SOUND[kind]()))
    randomised(model, (1, 3, SIDE, SIDE), stream())
    possible, frozen = candidates(model, (1, 3, SIDE, SIDE), stream())
    held, failed, _ = proved(model.double(), possible, images(), stream())
    return model, held, (*frozen, *failed)


def heads_of(model: nn.Module) -> tuple[tuple[Group, ...], tuple[Frozen, ...]]:
    return groups_of(randomised(model, (1, 3, SIDE, SIDE), stream()), SIDE)


def groups_of(model: nn.Module, side: int) -> tuple[tuple[Group, ...], tuple[Frozen, ...]]:
    return groups(model, torch.randn((4, 3, side, side), generator=stream()))


@pytest.mark.parametrize("kind", SOUND)
def test_heads_and_their_width_are_groups_beside_that_of_the_stream(kind: str) -> None:
    _, held, frozen = found(kind)
    its = {} if kind == "within rows" else {ACROSS: 4 if kind == "with wider values than keys" else 8}
    assert {group.name: group.width for group in held} == {"patch": WIDTH, "attention": HEADS, **its}
    assert frozen == (() if its else (Frozen(ACROSS, 8, UNSCALED),))


@pytest.mark.parametrize("kind", SOUND)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_cut_heads_compute_what_silenced_ones_do_and_cost_their_share(kind: str, seed: int) -> None:
    model, held, _ = found(kind)
    kept = some(held, seed)
    assert relative_difference(model, recipe(held, kept), images()) < 1e-12
    small = sliced(model, held, kept)
    count = counted(small, images()[:1])
    assert (count.params, count.macs) == independent(small, SIDE)
    whole, part = counted(model, images()[:1]).by_layer["attention"], count.by_layer["attention"]
    for group in held:
        if group.name in ("attention", ACROSS):
            whole, part = whole * len(kept[group.name]), part * group.width
    assert part == whole


def test_a_head_is_its_rows_of_all_three_its_columns_of_the_last_layer_and_one_of_a_number() -> None:
    _, held, _ = found("timm's")
    one, two, three = (tuple(range(start, start + 8)) for start in (0, 8, 16))
    rows = tuple(tuple(part + row for part in (0, WIDTH, 2 * WIDTH) for row in head) for head in (one, two, three))
    assert held[1] == Group(
        "attention",
        HEADS,
        (
            Member("attention.qkv", "out", 3 * WIDTH, rows),
            Member("attention.proj", "in", WIDTH, (one, two, three)),
            Member("attention.attn_dim", "size", WIDTH, (one, two, three)),
            Member("attention", "heads", HEADS, ((0,), (1,), (2,))),
        ),
    )
    assert held[1].layers == {"attention", "attention.qkv", "attention.proj"}


def test_a_place_is_its_rows_in_all_heads_of_all_three_and_one_of_the_numbers() -> None:
    _, held, _ = found("timm's")
    columns = tuple((place, 8 + place, 16 + place) for place in range(8))
    rows = tuple(tuple(part + column for part in (0, WIDTH, 2 * WIDTH) for column in its) for its in columns)
    each = tuple((place,) for place in range(8))
    assert held[2] == Group(
        ACROSS,
        8,
        (
            Member("attention.qkv", "out", 3 * WIDTH, rows),
            Member("attention.proj", "in", WIDTH, columns),
            Member("attention.qkv", "queries", 3 * WIDTH, columns),
            Member("attention", "width", 8, each),
            Member("attention.head_dim", "size", 8, each),
            Member("attention.attn_dim", "size", WIDTH, columns),
        ),
    )


@pytest.mark.parametrize("kind", [kind for kind in SOUND if kind != "within rows"])
def test_narrower_heads_keep_the_scale_that_they_were_made_with(kind: str) -> None:
    """Rows of zeros in the place of what is cut: the whole attention, at its own scale, makes the same of them."""
    model, held, _ = found(kind)
    (group,) = (group for group in held if group.name == ACROSS)
    model, kept = copy.deepcopy(model), {ACROSS: [0, 2, 3]}
    assert model.attention.scale == pytest.approx(next(m.of for m in group.members if m.side == "width") ** -0.5)
    with torch.no_grad():
        for member in group.members:
            if member.side in ("out", "through"):
                layer = model.get_submodule(member.layer)
                off = [c for e, own in enumerate(member.channels) if e not in kept[ACROSS] for c in own]
                for parameter in layer.parameters():
                    parameter[off] = 0
    small = sliced(model, held, kept)
    assert small.attention.scale == model.attention.scale
    assert torch.allclose(small(images()), model(images()), rtol=1e-12, atol=1e-12)


def test_torchs_own_scaling_stays_until_heads_are_narrowed() -> None:
    model, held, _ = found("timm's")
    assert model.attention.fused_attn and sliced(model, held, {"attention": [0]}).attention.fused_attn
    assert not sliced(model, held, {ACROSS: [0]}).attention.fused_attn


def test_a_row_that_is_idle_by_chance_still_belongs_to_its_head() -> None:
    model = Attending(SOUND["with wider values than keys"]())
    randomised(model, (1, 3, SIDE, SIDE), stream())
    expected = groups_of(copy.deepcopy(model), SIDE)
    with torch.no_grad():
        model.attention.qkv.bn.bias[12] = -100  # a value of the first head, never seen behind the activation
    assert len(expected[0]) == 2 and groups_of(model, SIDE) == expected


def test_heads_that_are_mixed_or_without_which_nothing_runs_stay_as_they_are() -> None:
    assert heads_of(Attending(TalkingHeadAttn(WIDTH, HEADS))) == ((), (Frozen("attention", HEADS, MIXED),))
    held, (one, other) = heads_of(Attending(MetaAttention(WIDTH, head_dim=8)))
    assert not held and one.reason.startswith(f"{STIFF} (shape '[4, 16, 24]' is invalid for input of size")
    assert other.name == ACROSS and other.reason.startswith(f"{NARROW} (shape '[4, 16, 24]' is invalid for input of ")


def test_heads_that_are_normed_keep_their_width() -> None:
    (one,), (other,) = heads_of(Attending(Attention(WIDTH, num_heads=HEADS, qk_norm=True, norm_layer=nn.LayerNorm)))
    assert one.name == "attention"
    assert (other.name, other.width) == (ACROSS, 8) and other.reason.startswith(f"{NARROW} (Given normalized_shape=[8]")


class Apart(nn.Module):
    """Queries, keys and values are layers of their own, and torch computes with them."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.scale = HEADS, (WIDTH // HEADS) ** -0.5
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        seen = nn.functional.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.proj(seen.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("seed", range(6))
def test_where_there_is_a_single_token_queries_and_keys_of_their_own_are_not_seen_either(seed: int) -> None:
    model = randomised(Attending(Apart()), (1, 3, 4, 4), stream(seed))
    held, frozen = groups_of(model, 4)
    assert ACROSS not in {group.name for group in held} and Frozen(ACROSS, 8, HIDDEN) in frozen


@pytest.mark.parametrize("seed", range(5))
def test_where_there_is_a_single_token_nobody_sees_queries(seed: int) -> None:
    model = randomised(Attending(SOUND["timm's"]()), (1, 3, 4, 4), stream(seed))
    held, (one, other) = groups_of(model, 4)
    assert not held and one.reason.startswith(STIFF) and other == Frozen(ACROSS, 8, HIDDEN)


def test_heads_of_a_single_channel_have_no_width() -> None:
    (one,), (other,) = heads_of(Attending(Attention(WIDTH, num_heads=WIDTH)))
    assert one.name == "attention" and other == Frozen(ACROSS, 1, SINGLE)


def test_a_single_head_is_no_group() -> None:
    assert heads_of(Attending(Attention(WIDTH, num_heads=1))) == ((), ())


@pytest.mark.parametrize("training", [False, True])
def test_torchs_attention_computes_the_same_when_it_is_opened(training: bool) -> None:
    model = randomised(Attending(SOUND["torch's"]()), (1, 3, SIDE, SIDE), stream()).double().train(training)
    expected = model(images())
    before = {value.data_ptr() for value in model.parameters()}
    assert type(opened(model).attention) is not nn.MultiheadAttention
    with pytest.raises(ValueError, match=r"^this attention is of tokens to each other; queries, keys and values must"):
        model.attention(torch.zeros(1, 2, WIDTH), torch.zeros(1, 2, WIDTH), torch.zeros(1, 2, WIDTH))
    assert torch.allclose(model(images()), expected, rtol=1e-12, atol=1e-12)
    assert {value.data_ptr() for value in model.parameters()} == before, "the weights are the same"


def test_heads_of_torchvisions_transformer_are_cut_by_hand_in_a_few_lines_of_json() -> None:
    layer, kept = "encoder.layers.encoder_layer_0.self_attention", [1, 2, 5]
    columns = [64 * head + column for head in kept for column in range(64)]
    cuts = [
        {"layer": layer, "side": "heads", "of": 12, "keep": kept},
        {"layer": f"{layer}.proj", "side": "in", "of": 768, "keep": columns},
        {"layer": f"{layer}.qkv", "side": "out", "of": 2304, "keep": [768 * i + c for i in range(3) for c in columns]},
    ]
    shape = {"outputs": 10, "channels": 3, "image_size": 32, "removed": []}
    model = rebuilt({"library": "torchvision", "model": "vit_b_32", "cuts": cuts, **shape})
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    whole = rebuilt({"library": "torchvision", "model": "vit_b_32", "cuts": [], **shape})
    gone = sum(value.numel() for value in whole.parameters()) - sum(value.numel() for value in model.parameters())
    assert gone == 9 * 64 * (3 * (768 + 1) + 768)
