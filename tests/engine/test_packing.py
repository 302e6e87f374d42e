"""Promises of nasengine.packing and nasengine.builtin."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import os
import struct
import threading
import zipfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nasengine import builtin, packing, sources, splits
from nasengine.config import DataConfig
from nasengine.errors import DataError
from nasengine.events import DataProgress, DataReady, Event, from_line, to_line
from nasengine.packing import Packed
from nasengine.splits import DataFacts

REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "cifar10-small.zip"

Members = dict[str, bytes]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("COPPICE_CACHE", str(folder))
    return folder


def run(generator: Generator[Event, None, Packed]) -> tuple[list[Event], Packed]:
    events = []
    while True:
        try:
            events.append(next(generator))
        except StopIteration as stop:
            return events, stop.value


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def picture(seed: int, size: tuple[int, int] = (12, 12), channels: int = 3, kind: str = "PNG") -> bytes:
    shape = (size[1], size[0], 3) if channels == 3 else (size[1], size[0])
    return saved(Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)), kind)


def plain(members: int = 10, channels: int = 3) -> Members:
    return {f"{name}/{i}.png": picture(i, channels=channels) for name in ("cat", "dog") for i in range(members)}


def ugly() -> Members:
    """What people really upload: every trouble at once, one file in ten of it unreadable at most."""
    lying = np.zeros((60, 80, 3), dtype=np.uint8)
    lying[:, :40] = 255  # white to the left; the camera says: turn me a quarter clockwise, so white is on top
    exif = Image.Exif()
    exif[0x0112] = 6
    sixteen = Image.fromarray(np.full((20, 30), 100 * 257, dtype=np.uint16))
    files = {
        "my pets/README.txt": b"hello",
        "__MACOSX/my pets/cat/._a.jpg": b"litter",
        "my pets/.DS_Store": b"litter",
        "my pets/cat/Thumbs.db": b"litter",
        "my pets/cat/empty.jpg": b"",
        "my pets/dog/text.jpg": b"I am a text",
        "my pets/dog/notes.txt": b"good dog",
        "my pets/dog/more.zip": b"PK\x05\x06" + b"\0" * 18,
        "my pets/cat/huge.jpg": picture(1, (1800, 1300), kind="JPEG"),
        "my pets/cat/tiny.png": picture(2, (3, 2)),
        "my pets/cat/strip.png": picture(3, (400, 5)),
        "my pets/cat/grey.png": picture(4, (40, 50), channels=1),
        "my pets/dog/turned.jpg": saved(Image.fromarray(lying), "JPEG", exif=exif, quality=95),
        "my pets/dog/print.jpg": saved(Image.new("CMYK", (40, 30), (0, 255, 255, 0)), "JPEG", quality=95),
        "my pets/dog/scan.png": saved(sixteen),
        "my pets/dog/logo.png": saved(Image.new("RGBA", (20, 20), (0, 0, 0, 0))),
        **{f"my pets/rare bird/{i}.png": picture(10 + i) for i in range(3)},
        **{f"my pets/{name}/plain/{i}.png": picture(20 + i) for name in ("cat", "dog") for i in range(5)},
        "my pets/unicorn/only.txt": b"no picture of it",
    }
    assert sum(1 for name in files if name.endswith(("jpg", "png")) and "._" not in name) == 23
    return files


def zip_of(path: Path, members: Members) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def folder_of(path: Path, members: Members) -> Path:
    for name, content in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def data_of(path: Path, size: int = 12, **more: Any) -> DataConfig:
    return DataConfig(dataset="zip" if path.is_file() else "folder", path=str(path), image_size=size, **more)


def refusal_of(data: DataConfig, field: str = "data.path") -> str:
    with pytest.raises(DataError) as refused:
        run(packing.load(data))
    ((said, sentence),) = refused.value.problems
    assert said == field
    return sentence


def image_called(packed: Packed, members: Members, name: str) -> np.ndarray:
    """The pixels of a member: files are packed in the order of their names, without what was left out."""
    left_out = {file for file, _ in packed.left_out}
    kept = sorted(file for file in members if file not in left_out and not sources._is_litter(file))
    return packed.images[kept.index(name)]


def test_an_ugly_zip_packs_and_says_what_it_left_out_and_why(tmp_path: Path) -> None:
    members = ugly()
    events, packed = run(packing.load(data_of(zip_of(tmp_path / "pets.zip", members), 16)))
    assert packed.class_names == ("cat", "dog", "rare bird")
    assert packed.images.shape == (21, 16, 16, 3) and packed.images.dtype == np.uint8
    assert np.bincount(packed.labels).tolist() == [9, 9, 3] and packed.labels.dtype == np.int64
    assert set(packed.parts) == {"all"}
    assert dict(packed.left_out) == {
        "unicorn/": "is a class without a readable image",
        "my pets/README.txt": "is not in a class folder",
        "my pets/cat/empty.jpg": "is empty",
        "my pets/dog/text.jpg": "is not an image (JPEG, PNG, GIF, BMP, TIFF or WebP)",
        "my pets/dog/notes.txt": "is not an image (JPEG, PNG, GIF, BMP, TIFF or WebP)",
        "my pets/dog/more.zip": "is an archive; unpack it first",
        "my pets/unicorn/only.txt": "is not an image (JPEG, PNG, GIF, BMP, TIFF or WebP)",
    }
    ready = events[-1]
    assert isinstance(ready, DataReady)
    assert (ready.name, ready.image_size, ready.channels, ready.left_out_total) == ("pets", 16, 3, 7)
    assert {"file": "my pets/cat/empty.jpg", "reason": "is empty"} in ready.left_out
    assert ready.counts["train"]["rare bird"] == ready.counts["validation"]["rare bird"] == 1
    assert from_line(to_line(ready)) == ready


def test_the_pictures_of_an_ugly_zip_look_as_they_should(tmp_path: Path) -> None:
    members = ugly()
    _, packed = run(packing.load(data_of(zip_of(tmp_path / "pets.zip", members), 16)))
    turned = image_called(packed, members, "my pets/dog/turned.jpg")
    assert turned[:6].min() > 240 and turned[10:].max() < 15
    red = image_called(packed, members, "my pets/dog/print.jpg").astype(int)
    assert np.abs(red - (255, 0, 0)).max() <= 4
    assert np.array_equal(image_called(packed, members, "my pets/dog/scan.png"), np.full((16, 16, 3), 100))
    assert image_called(packed, members, "my pets/dog/logo.png").min() == 255
    grey = image_called(packed, members, "my pets/cat/grey.png")
    assert np.array_equal(grey[..., 0], grey[..., 1]) and np.array_equal(grey[..., 0], grey[..., 2]) and grey.std() > 5


def test_a_folder_and_a_zip_of_it_pack_alike(tmp_path: Path) -> None:
    members = ugly()
    _, zipped = run(packing.load(data_of(zip_of(tmp_path / "pets.zip", members))))
    _, folder = run(packing.load(data_of(folder_of(tmp_path / "pets", members))))
    assert np.array_equal(zipped.images, folder.images) and np.array_equal(zipped.labels, folder.labels)
    assert (zipped.class_names, zipped.left_out) == (folder.class_names, folder.left_out)


def test_large_files_decoded_by_threads_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = zip_of(tmp_path / "a.zip", ugly())
    monkeypatch.setattr(packing, "THREAD_FROM", 10**9)
    _, alone = run(packing.load(data_of(file)))
    monkeypatch.setattr(packing, "THREAD_FROM", 0)
    monkeypatch.setattr(packing, "VERSION", "other")  # past the cache
    _, threaded = run(packing.load(data_of(file)))
    assert np.array_equal(alone.images, threaded.images) and alone.left_out == threaded.left_out


def test_grey_images_stay_grey(tmp_path: Path) -> None:
    _, packed = run(packing.load(data_of(zip_of(tmp_path / "a.zip", plain(channels=1)))))
    assert packed.images.shape == (20, 12, 12, 1) and packed.facts.channels == 1
    assert np.array_equal(packed.images[0, ..., 0], np.asarray(Image.open(io.BytesIO(picture(0, channels=1)))))


def test_parts_of_the_files_are_kept(tmp_path: Path) -> None:
    members = {f"{part}/{name}": content for part in ("train", "val", "test") for name, content in plain(4).items()}
    _, packed = run(packing.load(data_of(zip_of(tmp_path / "a.zip", members))))
    assert packed.facts == DataFacts("a", 3, ("cat", "dog"), {"train": (4, 4), "validation": (4, 4), "test": (4, 4)})


def test_the_sizes_said_are_those_of_the_split(tmp_path: Path) -> None:
    data = data_of(zip_of(tmp_path / "a.zip", plain(20)), limit=20)
    events, packed = run(packing.load(data))
    found = splits.split(packed.labels.tolist(), packed.parts.tolist(), data, 3, 2)
    assert isinstance(events[-1], DataReady)
    assert events[-1].splits == {name: len(indices) for name, indices in found.items()}


def test_progress_is_told_at_most_four_times_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves a tenth of a second each time it is read: every third image is due."""
    ticks = iter(range(10**6))
    monkeypatch.setattr("nasengine.pace.time.monotonic", lambda: next(ticks) / 10)
    events, _ = run(packing.load(data_of(zip_of(tmp_path / "a.zip", plain(10)))))
    said = [event for event in events if isinstance(event, DataProgress) and event.unit == "images"]
    assert [event.done for event in said] == [3, 6, 9, 12, 15, 18]
    assert all((event.what, event.total) == ("packing", 20) for event in said)
    assert said[0].eta_seconds == pytest.approx(0.3 * 17 / 3)


def test_a_data_set_of_files_is_named_after_its_zip_or_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = plain(3)
    assert run(packing.load(data_of(zip_of(tmp_path / "pets.v2.zip", members))))[1].name == "pets.v2"
    monkeypatch.chdir(folder_of(tmp_path / "birds.v3", members))
    assert run(packing.load(DataConfig(dataset="folder", path=".", image_size=12)))[1].name == "birds.v3"


def test_no_images_at_all_is_refused(tmp_path: Path) -> None:
    file = zip_of(tmp_path / "a.zip", {"cat/a.txt": b"x", "dog/b.txt": b"y"})
    assert refusal_of(data_of(file)) == (
        "there are no images in class folders; put each class's images in a folder of its own"
    )
    (tmp_path / "empty").mkdir()
    assert refusal_of(data_of(tmp_path / "empty")).startswith("there are no images in class folders")


def test_images_outside_class_folders_are_refused_with_an_example(tmp_path: Path) -> None:
    file = zip_of(tmp_path / "a.zip", {"1.png": picture(1), "2.png": picture(2)})
    assert refusal_of(data_of(file)) == (
        "there are no images in class folders ('1.png' is not in a class folder); "
        "put each class's images in a folder of its own"
    )


def test_fewer_than_two_classes_are_refused(tmp_path: Path) -> None:
    file = zip_of(tmp_path / "a.zip", {f"cat/{i}.png": picture(i) for i in range(5)})
    assert refusal_of(data_of(file)) == "there is only one class with images, 'cat'; give at least two class folders"


def test_a_class_for_each_image_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "CLASSES_LIMIT", 2)
    file = zip_of(tmp_path / "a.zip", {f"{i}/1.png": picture(i) for i in range(3)})
    assert refusal_of(data_of(file)) == (
        "there are 3 class folders, more than the 2 allowed; put each class's images into one folder"
    )


def test_more_than_a_tenth_unreadable_is_refused_with_counts_and_reasons(tmp_path: Path) -> None:
    members = plain(10) | {
        "cat/x.jpg": b"",
        "cat/y.jpg": b"text",
        "dog/z.heic": b"\0\0\0\x18ftypheic",
        "dog/w.jpg": b"",
    }
    assert refusal_of(data_of(zip_of(tmp_path / "a.zip", members))) == (
        "4 of 24 image files cannot be read, more than one in ten: 'cat/x.jpg' is empty, 'cat/y.jpg' is not an image "
        "(JPEG, PNG, GIF, BMP, TIFF or WebP), 'dog/w.jpg' is empty and so on; mend or remove them"
    )


def test_exactly_a_tenth_unreadable_is_still_accepted(tmp_path: Path) -> None:
    members = plain(9) | {"cat/x.jpg": b"", "dog/y.jpg": b""}
    _, packed = run(packing.load(data_of(zip_of(tmp_path / "a.zip", members))))
    assert len(packed.images) == 18 and len(packed.left_out) == 2


def test_files_that_never_meant_to_be_images_are_not_counted_as_broken(tmp_path: Path) -> None:
    members = plain(5) | {f"cat/{i}.json": b"{}" for i in range(50)}
    _, packed = run(packing.load(data_of(zip_of(tmp_path / "a.zip", members))))
    assert len(packed.images) == 10 and len(packed.left_out) == 50


def test_a_class_without_training_images_is_refused(tmp_path: Path) -> None:
    members = {f"train/{name}": content for name, content in plain(5).items()} | {"test/owl/1.png": picture(1)}
    assert refusal_of(data_of(zip_of(tmp_path / "a.zip", members))) == (
        "the class 'owl' has no training images; put some in train/owl, or remove it"
    )


def test_more_images_than_memory_are_refused_before_room_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """10^6 x 256 x 256 x 3 bytes = 183.1 GiB, on a machine of 2^21 pages of 4 KiB = 8 GiB."""
    monkeypatch.setattr(packing.os, "sysconf", {"SC_PAGE_SIZE": 2**12, "SC_PHYS_PAGES": 2**21}.__getitem__)
    with pytest.raises(DataError) as refused:
        packing._room(10**6, 256)
    assert refused.value.problems == ((
        "data.image_size",
        "1,000,000 images of 256 pixels a side take 183.1 GiB, more than half of this machine's memory of 8.0 GiB; "
        "use a smaller image size or fewer images",
    ),)  # fmt: skip


def test_too_large_a_file_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = plain(10)
    monkeypatch.setattr(sources, "FILE_LIMIT", max(map(len, members.values())))
    members["cat/big.png"] = picture(0, (100, 100))
    _, packed = run(packing.load(data_of(zip_of(tmp_path / "a.zip", members))))
    assert packed.left_out == (("cat/big.png", "is larger than 0 MiB"),)


def test_a_file_that_may_not_be_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "a", plain(10))
    real = Path.read_bytes

    def guarded(path: Path) -> bytes:
        if path.name == "3.png" and path.parent.name == "cat":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", guarded)
    _, packed = run(packing.load(data_of(folder)))
    assert packed.left_out == (("cat/3.png", "cannot be opened (Permission denied)"),)


def test_packed_images_come_from_the_cache_the_second_time(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of(zip_of(tmp_path / "a.zip", ugly()))
    first_events, first = run(packing.load(data))
    assert [file.name for file in (cache / "packed").iterdir()] == [f"{first.sha256}-12-v2.npz"]
    monkeypatch.setattr(packing, "square", None)  # decoding anything would fail
    events, second = run(packing.load(data))
    assert np.array_equal(first.images, second.images) and np.array_equal(first.labels, second.labels)
    assert np.array_equal(first.parts, second.parts) and second.images.dtype == np.uint8
    assert (second.class_names, second.left_out, second.sha256) == (first.class_names, first.left_out, first.sha256)
    assert events[-1] == first_events[-1]


def test_the_cache_knows_content_and_size_but_not_names(tmp_path: Path, cache: Path) -> None:
    file = zip_of(tmp_path / "a.zip", plain())
    _, packed = run(packing.load(data_of(file)))
    assert packed.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    run(packing.load(data_of(file, 8)))
    _, renamed = run(packing.load(data_of(file.rename(tmp_path / "b.zip"))))
    assert renamed.name == "b" and len(list((cache / "packed").iterdir())) == 2
    zip_of(tmp_path / "b.zip", plain(11))
    assert len(run(packing.load(data_of(tmp_path / "b.zip")))[1].images) == 22


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"garbage",
        lambda content: content[: len(content) // 2],
        lambda content: content[:2000] + bytes(byte ^ 255 for byte in content[2000:2100]) + content[2100:],
        lambda content: npy(),
        lambda content: npz(images=np.zeros(1)),
    ],
)
def test_a_damaged_cache_file_is_built_again(damage: Callable[[bytes], bytes], tmp_path: Path, cache: Path) -> None:
    data = data_of(zip_of(tmp_path / "a.zip", plain()))
    _, first = run(packing.load(data))
    (file,) = (cache / "packed").iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    _, second = run(packing.load(data))
    assert np.array_equal(first.images, second.images)
    assert len(file.read_bytes()) == len(whole)


def npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def test_a_refused_or_abandoned_packing_leaves_nothing_in_the_cache(tmp_path: Path, cache: Path) -> None:
    refusal_of(data_of(zip_of(tmp_path / "a.zip", {"cat/1.png": picture(1)})))
    assert not (cache / "packed").exists()


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    sentence = refusal_of(data_of(zip_of(tmp_path / "a.zip", plain())), "")
    assert sentence.endswith(
        f"cannot be written to {cache / 'packed'} (Not a directory); make room there or let us write there, "
        "or set COPPICE_CACHE to another folder"
    )


def test_pack_writes_facts_and_thumbnails(tmp_path: Path) -> None:
    out = tmp_path / "out"
    events, packed = run(packing.pack(data_of(zip_of(tmp_path / "a.zip", plain(10))), out))
    assert isinstance(events[-1], DataReady)
    assert DataFacts.from_json(json.loads((out / "facts.json").read_text())) == packed.facts
    names = {path.name for path in (out / "thumbnails").iterdir()}
    assert names == {f"{label}-{i}.png" for label in (0, 1) for i in range(8)}
    with Image.open(out / "thumbnails" / "1-0.png") as image:
        assert image.size == (72, 72)  # 12 pixels six times: the first multiple of at least 64
        assert np.array_equal(np.asarray(image)[::6, ::6], packed.images[10])


def test_thumbnails_of_small_classes_show_each_training_image_once(tmp_path: Path) -> None:
    members = {f"train/{name}": content for name, content in plain(3).items()}
    members |= {f"test/{name}": picture(99) for name in plain(3)}
    _, packed = run(packing.load(data_of(zip_of(tmp_path / "a.zip", members), 64)))
    packing.thumbnails(packed, tmp_path / "shown")
    assert len(list((tmp_path / "shown").iterdir())) == 6
    with Image.open(tmp_path / "shown" / "0-2.png") as image:
        assert np.array_equal(np.asarray(image), packed.images[np.flatnonzero(packed.parts == "train")[2]])


def test_digits_are_scaled_to_the_whole_range() -> None:
    events, packed = run(packing.load(DataConfig(dataset="digits", image_size=8)))
    assert packed.images.shape == (1797, 8, 8, 1)
    assert sorted(np.unique(packed.images)) == [round(v * 255 / 16) for v in range(17)]
    assert packed.facts == splits.builtin_facts("digits")
    assert isinstance(events[-1], DataReady)
    assert events[-1].splits == splits.sizes(splits.builtin_facts("digits"), DataConfig(dataset="digits"))
    assert run(packing.load(DataConfig(dataset="digits", image_size=8)))[1].sha256 == packed.sha256


def test_digits_are_resized_when_asked() -> None:
    _, packed = run(packing.load(DataConfig(dataset="digits", image_size=16)))
    assert packed.images.shape == (1797, 16, 16, 1) and packed.images.max() > 200


@pytest.mark.skipif(not REAL.exists(), reason="cifar10-small.zip is not here")
def test_real_photographs_pack_from_a_wrapped_zip() -> None:
    events, packed = run(packing.load(data_of(REAL, 32)))
    assert packed.images.shape == (5000, 32, 32, 3) and packed.left_out == ()
    assert packed.class_names == (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    assert packed.facts.given == {"train": (400,) * 10, "test": (100,) * 10}
    assert isinstance(events[-1], DataReady)
    assert events[-1].splits == {"train": 3400, "validation": 600, "test": 1000}
    with zipfile.ZipFile(REAL) as archive:
        member = "cifar10-small/test/airplane/0000.jpg"
        with Image.open(io.BytesIO(archive.read(member))) as image:
            assert np.array_equal(packed.images[0], np.asarray(image))


class Shelf(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on this machine: (address, its folder)."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *arguments: Shelf(*arguments, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", folder
    server.shutdown()
    server.server_close()
    thread.join()


def idx(array: np.ndarray) -> bytes:
    """The file format of the MNIST family."""
    return gzip.compress(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


def test_torchvision_data_is_downloaded_packed_and_then_cached(
    shelf: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fashion-MNIST's own file format, made here and served from this machine."""
    from torchvision import datasets

    address, folder = shelf
    images = np.random.default_rng(0).integers(0, 256, (60, 28, 28), dtype=np.uint8)
    labels = np.arange(60, dtype=np.uint8) % 10
    contents = [idx(images[:40]), idx(labels[:40]), idx(images[40:]), idx(labels[40:])]
    resources = []
    for (name, _), content in zip(datasets.FashionMNIST.resources, contents, strict=True):
        (folder / name).write_bytes(content)
        resources.append((name, hashlib.md5(content).hexdigest()))
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [address])
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    monkeypatch.setattr("nasengine.pace.SECONDS_BETWEEN", -1)
    data = DataConfig(dataset="fashion_mnist", image_size=28)
    events, packed = run(packing.load(data))
    assert np.array_equal(packed.images[..., 0], images) and np.array_equal(packed.labels, labels)
    assert packed.facts.given == {"train": (4,) * 10, "test": (2,) * 10}
    assert packed.class_names[0] == "T-shirt/top"
    fetched = [event for event in events if isinstance(event, DataProgress) and event.what == "downloading"]
    assert (fetched[0].done, fetched[0].total, fetched[0].unit) == (len(contents[0]), len(contents[0]), "bytes")
    for file in folder.iterdir():
        file.unlink()
    assert np.array_equal(run(packing.load(data))[1].images, packed.images)
    assert run(packing.load(data.model_copy(update={"image_size": 14})))[1].images.shape == (60, 14, 14, 1)


def test_a_damaged_download_is_refused_and_not_kept(shelf: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = shelf
    (folder / "x.gz").write_bytes(b"half of it")
    file = tmp_path / "downloads" / "x.gz"
    with pytest.raises(DataError) as refused:
        list(builtin.fetch(builtin.Download(f"{address}x.gz", file, "0" * 32), "Fashion-MNIST"))
    assert refused.value.problems == ((
        "data.dataset",
        f"Fashion-MNIST could not be downloaded: what came from {address}x.gz is cut short or damaged; "
        "check the internet connection and try again, or use images of your own as a zip file",
    ),)  # fmt: skip
    assert list(file.parent.iterdir()) == []


def test_a_missing_download_is_said(shelf: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.gz cannot be reached \(File not found\); check the internet connection"):
        list(builtin.fetch(builtin.Download(f"{shelf[0]}x.gz", tmp_path / "x.gz", "0" * 32), "CIFAR-10"))


def test_without_a_connection_the_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real attempt, at an address that nothing answers (names ending in .invalid never resolve)."""
    from torchvision import datasets

    monkeypatch.setattr(datasets.CIFAR10, "url", "http://coppice.invalid/cifar-10-python.tar.gz")
    for proxy in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(proxy)
    sentence = refusal_of(DataConfig(dataset="cifar10"), "data.dataset")
    assert sentence.startswith(
        "CIFAR-10 could not be downloaded: http://coppice.invalid/cifar-10-python.tar.gz cannot be reached ("
    )
    assert sentence.endswith("); check the internet connection and try again, or use images of your own as a zip file")


@pytest.mark.parametrize(("name", "files"), [("cifar10", 1), ("cifar100", 1), ("fashion_mnist", 4), ("svhn", 2)])
def test_every_download_has_an_address_and_a_checksum(name: str, files: int, tmp_path: Path) -> None:
    found = builtin.downloads(name, tmp_path)
    assert len(found) == files
    assert all(
        item.url.startswith("http") and len(item.md5) == 32 and item.file.is_relative_to(tmp_path) for item in found
    )
