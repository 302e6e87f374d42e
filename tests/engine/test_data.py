"""Promises of nasengine.data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nasengine import data, packing, splits
from nasengine.config import DataConfig
from nasengine.data import Images
from nasengine.errors import ConfigError
from nasengine.packing import Packed
from nasengine.train import Feeds

torch.set_num_threads(1)

SIDE = 16
FILES = DataConfig(dataset="folder", path="somewhere", image_size=SIDE)


def packed_images(n: int = 120, channels: int = 3, classes: int = 3) -> Packed:
    rng = np.random.default_rng(0)
    return Packed(
        name="noise",
        images=rng.integers(0, 256, (n, SIDE, SIDE, channels), dtype=np.uint8),
        labels=np.arange(n, dtype=np.int64) % classes,
        parts=np.where(np.arange(n) % 4 == 3, "test", "train"),
        class_names=tuple(f"class {i}" for i in range(classes)),
        sha256="0" * 64,
        left_out=(),
    )


def images(config: DataConfig = FILES, packed: Packed | None = None, seed: int = 0) -> Images:
    return data.images(packed or packed_images(), config, seed, "cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_images_of_a_split_are_the_packed_ones_with_their_labels() -> None:
    packed, found = packed_images(), images()
    indices = splits.split(packed.labels.tolist(), packed.parts.tolist(), FILES, 0, 3)
    for part, split in (("train", found.train), ("validation", found.validation), ("test", found.open_test())):
        assert split.x.dtype == torch.uint8 and split.y.dtype == torch.int64 and split.x.is_contiguous()
        assert len(split) == len(indices[part]) > 0
        assert np.array_equal(split.x.permute(0, 2, 3, 1).numpy(), packed.images[indices[part]])
        assert split.y.tolist() == packed.labels[indices[part]].tolist()


@pytest.mark.parametrize("channels", [1, 3])
def test_mean_and_deviation_are_those_of_the_train_split(channels: int) -> None:
    found = images(packed=packed_images(channels=channels))
    x = found.train.x.double() / 255
    assert len(found.mean) == len(found.std) == channels
    assert found.mean == pytest.approx(x.mean(dim=(0, 2, 3)).tolist(), rel=1e-12)
    assert found.std == pytest.approx(x.std(dim=(0, 2, 3), correction=0).tolist(), rel=1e-9)
    z = data.normalised(found.train.x, found.mean, found.std)
    assert z.dtype == torch.float32 and z.shape == found.train.x.shape
    assert z.mean(dim=(0, 2, 3)).abs().max() < 1e-5 and (z.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-3


def test_images_of_one_colour_normalise_to_numbers() -> None:
    packed = packed_images()
    packed.images[:] = 200
    found = images(packed=packed)
    assert data.normalised(found.train.x, found.mean, found.std).abs().max() < 1e-4


def test_the_test_split_is_not_looked_at_until_it_is_opened() -> None:
    """Test images are changed after everything else is made: had they been read before, the old ones would come out."""
    packed = packed_images()
    found = images(packed=packed)
    before = (found.mean, found.std, found.train.x.clone(), found.validation.x.clone())
    packed.images[packed.parts == "test"] = 7
    assert found.open_test().x.unique().tolist() == [7]
    assert (found.mean, found.std) == before[:2]
    assert torch.equal(found.train.x, before[2]) and torch.equal(found.validation.x, before[3])
    assert images(packed=packed).mean == before[0]


def test_the_seed_decides_the_splits() -> None:
    assert torch.equal(images(seed=1).train.x, images(seed=1).train.x)
    assert not torch.equal(images(seed=1).train.x, images(seed=2).train.x)


@pytest.mark.parametrize(
    ("config", "flip"),
    [
        (DataConfig(dataset="digits"), False),
        (DataConfig(dataset="svhn"), False),
        (DataConfig(dataset="cifar10"), True),
        (DataConfig(dataset="digits", flip=True), True),
        (FILES, True),
        (FILES.model_copy(update={"flip": False}), False),
    ],
)
def test_mirroring_follows_the_configuration_then_the_data_set(config: DataConfig, flip: bool) -> None:
    assert images(config).flip is flip


def test_shifts_are_an_eighth_of_the_side_or_off() -> None:
    assert images().shift == 2
    assert images(FILES.model_copy(update={"crop": False})).shift == 0


def test_order_is_a_permutation_without_what_fills_no_batch() -> None:
    found = data.order(103, 10, generator())
    assert found.shape == (10, 10)
    assert len(set(found.flatten().tolist())) == 100 and found.min() >= 0 and found.max() < 103
    assert torch.equal(found, data.order(103, 10, generator()))
    assert not torch.equal(found, data.order(103, 10, generator(1)))
    assert sorted(data.order(100, 100, generator()).flatten().tolist()) == list(range(100))


def test_a_batch_larger_than_the_train_split_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        data.order(80, 96, generator())
    assert refused.value.problems == (
        ("search.batch_size", "96 is larger than the train split of 80 images; use at most 80"),
    )


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batches_give_every_image_once_in_order(batch_size: int) -> None:
    split = images().train
    found = list(data.batches(split, batch_size))
    assert torch.equal(torch.cat([x for x, _ in found]), split.x)
    assert torch.equal(torch.cat([y for _, y in found]), split.y)
    assert max(len(y) for _, y in found) <= batch_size


def by_hand(x: Tensor, seed: int, shift: int, flip: bool) -> Tensor:
    """The same with a loop over images: which of all possible moves gives what `augmented` gave."""
    found = data.augmented(x, generator(seed), shift=shift, flip=flip)
    moves = []
    for image, result in zip(x, found, strict=True):
        padded = torch.nn.functional.pad(image, (shift,) * 4)
        possible = [
            (down, right, mirrored)
            for down in range(2 * shift + 1)
            for right in range(2 * shift + 1)
            for mirrored in (False, True)
            if torch.equal(result, turned(padded[:, down : down + SIDE, right : right + SIDE], mirrored))
        ]
        assert len(possible) == 1, "each result is exactly one move of its own image"
        moves.append(possible[0])
    return torch.tensor(moves)


def turned(image: Tensor, mirrored: bool) -> Tensor:
    return image.flip(-1) if mirrored else image


@pytest.mark.parametrize("channels", [1, 3])
def test_augmented_images_are_moved_and_mirrored_copies(channels: int) -> None:
    """With shift 1 there are 3 x 3 moves, mirrored or not; in 200 images each of these shows all its values."""
    x = torch.randn(200, channels, SIDE, SIDE, generator=generator(5))
    moves = by_hand(x, 0, 1, flip=True)
    assert [set(column) for column in moves.T.tolist()] == [{0, 1, 2}, {0, 1, 2}, {0, 1}]
    assert 0.35 < moves[:, 2].float().mean() < 0.65


def test_without_flip_nothing_is_mirrored_and_without_shift_nothing_moves() -> None:
    x = torch.randn(60, 3, SIDE, SIDE, generator=generator(5))
    assert by_hand(x, 0, 2, flip=False)[:, 2].sum() == 0
    assert torch.equal(data.augmented(x, generator(), shift=0, flip=False), x)


def test_augmenting_depends_on_the_generator_alone_and_changes_nothing() -> None:
    x = torch.randn(30, 3, SIDE, SIDE, generator=generator(5))
    kept = x.clone()
    one, again = (data.augmented(x, generator(3), shift=2, flip=True) for _ in range(2))
    assert torch.equal(one, again) and torch.equal(x, kept)
    assert not torch.equal(one, data.augmented(x, generator(4), shift=2, flip=True))


def test_what_moves_in_is_the_mean_colour() -> None:
    """Ones moved by up to 2 keep ones inside and zeros, the normalised mean, outside; never anything between."""
    found = data.augmented(torch.ones(50, 3, SIDE, SIDE), generator(), shift=2, flip=True)
    assert found.unique().tolist() == [0, 1]
    assert found[:, :, 2:-2, 2:-2].min() == 1


# -- the split for decisions ------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5), min_size=2, max_size=200), st.floats(0, 1), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_parts_are_disjoint_and_together_all_and_each_class_has_its_share(
    labels: list[int], fraction: float, seed: int
) -> None:
    y, held = torch.tensor(labels), int(fraction * len(labels))
    rest, own = data.parted(y, held, generator(seed))
    assert len(own) == held
    assert sorted([*rest.tolist(), *own.tolist()]) == list(range(len(labels)))
    for label in set(labels):
        share = held * labels.count(label) / len(labels)
        assert abs(int((y[own] == label).sum()) - share) <= 1, "to within one image, no less and no more"
    again = data.parted(y, held, generator(seed))
    assert torch.equal(rest, again[0]) and torch.equal(own, again[1])


def test_parts_are_in_random_order_so_that_their_first_images_are_a_sample() -> None:
    """Of 600 images sorted by class the first 60 of each part show all six classes, and never in rising order."""
    y = torch.arange(600) // 100
    for part in data.parted(y, 200, generator()):
        assert (torch.bincount(y[part[:60]], minlength=6) >= 3).all()
        assert part[:60].tolist() != sorted(part[:60].tolist())
    assert not torch.equal(data.parted(y, 200, generator())[1], data.parted(y, 200, generator(1))[1])


def feeds(fraction: float = 0.25, batch_size: int = 10, seed: int = 0) -> Feeds:
    return Feeds.of(images(), batch_size, seed, fraction)


def test_images_for_learning_deciding_validating_and_testing_are_all_images_and_nothing_is_shared() -> None:
    packed, found = packed_images(), feeds()
    assert found.deciding is not None
    indices = splits.split(packed.labels.tolist(), packed.parts.tolist(), FILES, 0, 3)
    train = np.array(indices["train"])
    parts = [train[found.learning.part], train[found.deciding.part], indices["validation"], indices["test"]]
    assert all(len(part) for part in parts)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(packed.labels)))
    assert len(found.deciding.part) == splits.held_for_decisions(len(train), 0.25)
    assert found.all.part.tolist() == list(range(len(train))), "the found network trains on all of them"


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("batch_size", [4, 10, 30])
def test_an_epoch_passes_over_both_parts(fraction: float, batch_size: int) -> None:
    """Once over the one but for what fills no batch; over the other with as many batches, of fewer images each."""
    found = feeds(fraction, batch_size)
    learning, deciding = found.learning, found.deciding
    assert deciding is not None
    seen: tuple[set[int], set[int]] = (set(), set())
    for epoch in range(12):
        order, decisions = learning.order("search", 0, epoch), deciding.order("decide", 0, epoch)
        assert order.shape == (len(learning.part) // batch_size, batch_size)
        assert len(set(order.flatten().tolist())) == order.numel()
        assert 2 <= decisions.shape[1] <= batch_size and len(set(decisions.flatten().tolist())) == decisions.numel()
        used = decisions[torch.arange(len(order)) % len(decisions)]
        left = len(deciding.part) - len(set(used.flatten().tolist()))
        assert left < max(len(order), decisions.shape[1]), "only what fills no batch waits for another epoch"
        seen[0].update(order.flatten().tolist())
        seen[1].update(used.flatten().tolist())
    assert seen == (set(learning.part.tolist()), set(deciding.part.tolist()))


def test_feeds_depend_on_the_seed_and_the_place_alone() -> None:
    one, again, other = feeds(), feeds(), feeds(seed=1)
    for name in ("all", "learning", "deciding"):
        first, second, third = (getattr(found, name) for found in (one, again, other))
        assert torch.equal(first.part, second.part) and torch.equal(first.order("e", 3), second.order("e", 3))
        assert not torch.equal(first.order("e", 3), first.order("e", 4))
        assert not torch.equal(first.order("e", 3), third.order("e", 3))
        batch, same = (feed.batch(feed.order("e", 3)[0], "e", 3, 0) for feed in (first, second))
        assert torch.equal(batch[0], same[0]) and torch.equal(batch[1], same[1])
        assert not torch.equal(batch[0], first.batch(first.order("e", 3)[0], "e", 3, 1)[0]), "moved otherwise"
    assert set(one.deciding.part.tolist()) != set(other.deciding.part.tolist())


def test_without_a_share_for_decisions_there_is_one_part() -> None:
    found = feeds(0)
    assert found.deciding is None and found.learning is found.all and found.judging is found.all


def test_what_decides_is_judged_on_its_own_images_as_they_are() -> None:
    """Each judged image is one of the part, with its label; other moments judge others of them."""
    found = feeds()
    split, part = found.all.images.train, found.deciding.part
    own = data.normalised(split.x[part], found.all.images.mean, found.all.images.std)
    x, y = found.judging.plain(5, "judge", 1)
    for image, label in zip(x, y, strict=True):
        (place,) = (own == image).all(dim=(1, 2, 3)).nonzero().flatten().tolist()
        assert split.y[part[place]] == label
    assert torch.equal(x, found.judging.plain(5, "judge", 1)[0])
    assert not torch.equal(x, found.judging.plain(5, "judge", 2)[0])
    everything = found.judging.plain(10**6, "judge", 1)[0]
    assert everything.shape == own.shape and torch.allclose(everything.sum(0), own.sum(0), atol=1e-4)


def test_digits_arrive_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPPICE_CACHE", str(tmp_path))
    config = DataConfig(dataset="digits", image_size=8)
    loading = packing.load(config)
    try:
        while True:
            next(loading)
    except StopIteration as stop:
        found = data.images(stop.value, config, 0, "cpu")
    predicted = splits.sizes(splits.builtin_facts("digits"), config)
    assert (len(found.train), len(found.validation), len(found.open_test())) == tuple(predicted.values())
    assert found.train.x.shape[1:] == (1, 8, 8) and found.class_names == tuple("0123456789")
