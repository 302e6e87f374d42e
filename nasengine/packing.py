"""Images from wherever they are into one uint8 array of equal squares, kept in the cache for the next time."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nasengine import builtin, catalogue, sources, splits
from nasengine.cache import cache_folder, whole
from nasengine.config import DataConfig
from nasengine.errors import DataError
from nasengine.events import DataReady, Event
from nasengine.names import folded, shown
from nasengine.pace import Pace
from nasengine.pixels import Unreadable, fitted, square
from nasengine.sources import Files, Placed
from nasengine.splits import DataFacts

VERSION = 2
"""Raised whenever equal files would give other arrays, so that older cache files are not read."""
UNREADABLE_LIMIT = 0.1
CLASSES_LIMIT = 10_000
LEFT_OUT_SAID = 200
THREAD_FROM, THREAD_TO = 2**16, 2**24
"""Files of so many bytes are decoded by threads; for smaller ones handing over costs more than it gains, larger ones
would fill the memory while they wait."""
THUMBNAIL_SIDE = 64


@dataclass(frozen=True)
class Packed:
    """All images of a data set.

    Attributes:
        images: uint8 [N, S, S, C]; C is 1 if every image is grey, else 3.
        labels: int64 [N], index into class_names.
        parts: text [N], one of splits.PARTS.
        sha256: of what the images were packed from.
        left_out: (file, reason) of what could not be used.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    parts: NDArray[np.str_]
    class_names: tuple[str, ...]
    sha256: str
    left_out: tuple[tuple[str, str], ...]

    @property
    def facts(self) -> DataFacts:
        """The counts that decide the splits."""
        classes = len(self.class_names)
        counted = {part: np.bincount(self.labels[self.parts == part], minlength=classes) for part in splits.PARTS}
        given = {part: tuple(int(n) for n in counts) for part, counts in counted.items() if counts.any()}
        return DataFacts(self.name, self.images.shape[-1], self.class_names, given)


def load(data: DataConfig) -> Generator[Event, None, Packed]:
    """The images that `data` names at its image size, from the cache if they were packed before.

    Yields progress, and at the end the DataReady event with the sizes of the splits.

    Raises:
        DataError: one sentence of what is wrong with the images.
    """
    if data.dataset in catalogue.DATASETS:
        packed = yield from _builtin(data.dataset, data.image_size)
    else:
        with sources.opened(data.dataset, str(data.path)) as files:
            place = Path(str(data.path)).expanduser().resolve()
            name = shown(place.stem if files.archive else place.name)
            packed = yield from _from_files(files, name, data.image_size)
    yield ready(packed, data)
    return packed


def loaded(data: DataConfig) -> Packed:
    """The same without a word on the way."""
    steps = load(data)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            packed: Packed = end.value
            return packed


def ready(packed: Packed, data: DataConfig) -> DataReady:
    """What a person is told about the images before anything is trained on them."""
    counts = splits.counts(packed.facts, data)
    return DataReady(
        name=packed.name,
        sha256=packed.sha256,
        image_size=packed.images.shape[1],
        channels=packed.images.shape[-1],
        classes=list(packed.class_names),
        splits={split: sum(numbers) for split, numbers in counts.items()},
        counts={split: dict(zip(packed.class_names, numbers, strict=True)) for split, numbers in counts.items()},
        left_out=[{"file": file, "reason": reason} for file, reason in packed.left_out[:LEFT_OUT_SAID]],
        left_out_total=len(packed.left_out),
    )


def pack(data: DataConfig, out: Path) -> Generator[Event, None, Packed]:
    """As `load`; also writes `out`/facts.json and `out`/thumbnails for a page that shows the data set."""
    packed = yield from load(data)
    out.mkdir(parents=True, exist_ok=True)
    thumbnails(packed, out / "thumbnails")
    with whole(out / "facts.json") as stream:
        stream.write(json.dumps(packed.facts.to_json(), indent=2).encode() + b"\n")
    return packed


def thumbnails(packed: Packed, folder: Path, per_class: int = 8) -> None:
    """Writes `<class index>-<i>.png`, spread over each class's training images where it has any."""
    folder.mkdir(parents=True, exist_ok=True)
    side = packed.images.shape[1]
    scale = -(-THUMBNAIL_SIDE // side)
    seen = np.isin(packed.parts, ("all", "train"))
    for label in range(len(packed.class_names)):
        of_class = packed.labels == label
        candidates = np.flatnonzero(of_class & seen if (of_class & seen).any() else of_class)
        chosen = candidates[np.linspace(0, len(candidates) - 1, min(per_class, len(candidates))).astype(int)]
        for i, index in enumerate(chosen):
            image = _image(packed.images[index])
            image.resize((side * scale, side * scale), Image.Resampling.NEAREST).save(folder / f"{label}-{i}.png")


def _builtin(name: str, size: int) -> Generator[Event, None, Packed]:
    folder = cache_folder() / "downloads"
    sha256 = builtin.identity(name, folder)
    if known := _remembered(name, sha256, size):
        return known
    arrays = yield from builtin.read(name, folder)
    images = _room(len(arrays.images), size)[..., : arrays.images.shape[-1]]
    pace = Pace(what="packing", unit="images", total=len(images))
    for i, pixels in enumerate(arrays.images):
        images[i] = fitted(_image(pixels), size).reshape(images.shape[1:])
        yield from pace.at(i + 1)
    packed = Packed(name, np.ascontiguousarray(images), arrays.labels, arrays.parts, arrays.class_names, sha256, ())
    _remember(packed)
    return packed


def _from_files(files: Files, name: str, size: int) -> Generator[Event, None, Packed]:
    sha256 = yield from sources.digest(files)
    if known := _remembered(name, sha256, size):
        return known
    placed, homeless = sources.layout(files.sizes)
    images, pace = _room(len(placed), size), Pace(what="packing", unit="images", total=len(placed))
    kept: list[Placed] = []
    bad: list[tuple[str, str]] = []
    grey = True
    for done, (place, pixels) in enumerate(_decoded(files, placed, size), start=1):
        if isinstance(pixels, Unreadable):
            bad.append((place.name, str(pixels)))
        else:
            grey &= pixels.ndim == 2
            images[len(kept)] = pixels if pixels.ndim == 3 else pixels[..., None]
            kept.append(place)
        yield from pace.at(done)
    class_names = _classes(kept, bad, homeless)
    lost = sorted({place.class_name for place in placed} - set(class_names))
    index = {class_name: i for i, class_name in enumerate(class_names)}
    packed = Packed(
        name=name,
        images=np.ascontiguousarray(images[: len(kept), :, :, : 1 if grey else 3]),
        labels=np.array([index[place.class_name] for place in kept], dtype=np.int64),
        parts=np.array([place.part for place in kept]),
        class_names=class_names,
        sha256=sha256,
        left_out=(
            *((f"{lost_name}/", "is a class without a readable image") for lost_name in lost),
            *sorted(bad + homeless),
        ),
    )
    _remember(packed)
    return packed


def _decoded(
    files: Files, placed: Iterable[Placed], size: int
) -> Iterator[tuple[Placed, NDArray[np.uint8] | Unreadable]]:
    """Each file's pixels, or why there are none, in the given order; large files are decoded side by side."""
    Image.init()
    workers = min(8, os.cpu_count() or 1)
    waiting: deque[tuple[Placed, Future[NDArray[np.uint8]]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for place in placed:
            try:
                content = _content(files, place.name)
                if not THREAD_FROM <= len(content) < THREAD_TO:
                    future: Future[NDArray[np.uint8]] = Future()
                    future.set_result(square(content, size))
                else:
                    future = pool.submit(square, content, size)
            except Unreadable as reason:
                future = Future()
                future.set_exception(reason)
            waiting.append((place, future))
            while waiting and (len(waiting) > 2 * workers or waiting[0][1].done()):
                yield _outcome(*waiting.popleft())
        while waiting:
            yield _outcome(*waiting.popleft())


def _outcome(place: Placed, future: Future[NDArray[np.uint8]]) -> tuple[Placed, NDArray[np.uint8] | Unreadable]:
    try:
        return place, future.result()
    except Unreadable as reason:
        return place, reason


def _content(files: Files, name: str) -> bytes:
    if files.sizes[name] > sources.FILE_LIMIT:
        raise Unreadable(f"is larger than {sources.FILE_LIMIT // 2**20} MiB")
    return files.read(name)


def _classes(kept: list[Placed], bad: list[tuple[str, str]], homeless: list[tuple[str, str]]) -> tuple[str, ...]:
    """Sorted names of the classes that have images.

    Raises:
        DataError: if the images are too few, too broken, or in the wrong place to learn from.
    """
    broken = [(name, reason) for name, reason in bad if name.lower().endswith(sources.IMAGE_SUFFIXES)]
    classes = sorted({place.class_name for place in kept})
    if len(broken) > UNREADABLE_LIMIT * (len(kept) + len(broken)):
        examples = ", ".join(f"'{name}' {reason}" for name, reason in broken[:3])
        more = " and so on" if len(broken) > 3 else ""
        raise _refusal(
            f"{len(broken):,} of {len(kept) + len(broken):,} image files cannot be read, more than one in ten: "
            f"{examples}{more}; mend or remove them"
        )
    if not classes:
        where = f" ('{homeless[0][0]}' {homeless[0][1]})" if homeless else ""
        raise _refusal(f"there are no images in class folders{where}; put each class's images in a folder of its own")
    if len(classes) < 2:
        raise _refusal(f"there is only one class with images, '{classes[0]}'; give at least two class folders")
    if len(classes) > CLASSES_LIMIT:
        raise _refusal(
            f"there are {len(classes):,} class folders, more than the {CLASSES_LIMIT:,} allowed; "
            "put each class's images into one folder"
        )
    called: dict[str, str] = {}
    trained = {place.class_name for place in kept if place.part in ("all", "train")}
    for class_name in classes:
        twin = called.setdefault(folded(class_name), class_name)
        if twin != class_name:
            raise _refusal(
                f"the class folders '{twin}' and '{class_name}' are one where upper and lower case are; "
                "give them one name, or names that differ more"
            )
        if class_name not in trained:
            raise _refusal(
                f"the class '{class_name}' has no training images; put some in train/{class_name}, or remove it"
            )
    return tuple(classes)


def _room(n: int, size: int) -> NDArray[np.uint8]:
    """An empty array for so many colour images.

    Raises:
        DataError: if it would take more than half of the machine's memory.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = n * size * size * 3
    if needed > memory / 2:
        sentence = (
            f"{n:,} images of {size} pixels a side take {needed / 2**30:.1f} GiB, more than half of this machine's "
            f"memory of {memory / 2**30:.1f} GiB; use a smaller image size or fewer images"
        )
        raise DataError([("data.image_size", sentence)])
    return np.empty((n, size, size, 3), dtype=np.uint8)


def _image(pixels: NDArray[np.uint8]) -> Image.Image:
    """A Pillow image of [H, W, C]."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _cache_file(sha256: str, size: int) -> Path:
    return cache_folder() / "packed" / f"{sha256}-{size}-v{VERSION}.npz"


def _remembered(name: str, sha256: str, size: int) -> Packed | None:
    """What was packed before; None if nothing was, or if the file is damaged (then it is packed again)."""
    try:
        with _cache_file(sha256, size).open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            images, labels, parts = stored["images"], stored["labels"], stored["parts"]
            words = json.loads(stored["words"].item())
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error):
        return None
    left_out = tuple((file, reason) for file, reason in words["left_out"])
    return Packed(name, images, labels, parts, tuple(words["class_names"]), sha256, left_out)


def _remember(packed: Packed) -> None:
    words = json.dumps({"class_names": packed.class_names, "left_out": packed.left_out})
    with whole(_cache_file(packed.sha256, packed.images.shape[1])) as stream:
        np.savez(stream, images=packed.images, labels=packed.labels, parts=packed.parts, words=np.array(words))


def _refusal(sentence: str) -> DataError:
    return DataError([("data.path", sentence)])
