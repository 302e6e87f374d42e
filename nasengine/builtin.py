"""The data sets that have a name: scikit-learn's digits, and torchvision's, downloaded on first use."""

from __future__ import annotations

import hashlib
import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from nasengine import catalogue
from nasengine.cache import whole
from nasengine.errors import DataError
from nasengine.events import DataProgress
from nasengine.pace import Pace

SECONDS_OF_SILENCE = 30
"""A server that says nothing for so long is given up."""
NETWORK_ERRORS = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError)


@dataclass(frozen=True)
class Download:
    """One file to fetch: where it is, where it goes, and the md5 that proves it."""

    url: str
    file: Path
    md5: str


@dataclass(frozen=True)
class Arrays:
    """Images as their makers give them: uint8 [N, H, W, C], labels [N], the part of each, names of the classes."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    parts: NDArray[np.str_]
    class_names: tuple[str, ...]


def identity(name: str, folder: Path) -> str:
    """Hexadecimal sha256 that stands for a built-in data set: over the md5 sums its makers publish, or the pixels."""
    if catalogue.DATASETS[name].source == "sklearn":
        arrays = _digits()
        return hashlib.sha256(arrays.images.tobytes() + arrays.labels.tobytes()).hexdigest()
    sums = [download.md5 for download in downloads(name, folder)]
    return hashlib.sha256(" ".join([name, *sums]).encode()).hexdigest()


def read(name: str, folder: Path) -> Generator[DataProgress, None, Arrays]:
    """The data set as arrays, after downloading what is not yet in `folder`.

    Raises:
        DataError: if a download fails.
    """
    if catalogue.DATASETS[name].source == "sklearn":
        return _digits()
    for download in downloads(name, folder):
        yield from fetch(download, catalogue.DATASETS[name].label)
    return _torchvision(name, folder)


def downloads(name: str, folder: Path) -> list[Download]:
    """The files of a torchvision data set, as torchvision names them."""
    from torchvision import datasets

    match name:
        case "cifar10" | "cifar100":
            kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
            return [Download(kind.url, folder / kind.filename, kind.tgz_md5)]
        case "fashion_mnist":
            mirror, raw = datasets.FashionMNIST.mirrors[0], folder / "FashionMNIST" / "raw"
            return [Download(f"{mirror}{file}", raw / file, md5) for file, md5 in datasets.FashionMNIST.resources]
        case "svhn":
            files = [datasets.SVHN.split_list[part] for part in ("train", "test")]
            return [Download(url, folder / file, md5) for url, file, md5 in files]
    raise AssertionError(f"{name} is not downloaded")


def fetch(download: Download, label: str) -> Generator[DataProgress, None, None]:
    """Downloads one file unless it is there already; what was cut short is never left in its place.

    Raises:
        DataError: if it cannot be fetched, or is not what its makers published.
    """
    if download.file.is_file() and _md5(download.file) == download.md5:
        return
    with whole(download.file) as target:
        try:
            md5 = yield from _copy(download.url, target)
        except NETWORK_ERRORS as error:
            cause = getattr(error, "reason", None) or error
            reason = getattr(cause, "strerror", None) or cause
            raise _refusal(label, f"{download.url} cannot be reached ({reason})") from error
        if md5 != download.md5:
            raise _refusal(label, f"what came from {download.url} is cut short or damaged")


def _copy(url: str, target: IO[bytes]) -> Generator[DataProgress, None, str]:
    """Fetches `url` into `target`, telling how far it is; returns the md5."""
    md5 = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=SECONDS_OF_SILENCE) as answer:
        length = answer.headers["Content-Length"]
        pace, done = Pace(what="downloading", unit="bytes", total=int(length) if length else None), 0
        while chunk := answer.read(2**17):
            target.write(chunk)
            md5.update(chunk)
            done += len(chunk)
            yield from pace.at(done)
    return md5.hexdigest()


def _digits() -> Arrays:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    parts = np.full(len(images), "all")
    return Arrays(images, digits.target.astype(np.int64), parts, tuple(str(n) for n in digits.target_names))


def _torchvision(name: str, folder: Path) -> Arrays:
    """Reads what was downloaded; torchvision's own `download` now only unpacks."""
    from torchvision import datasets

    match name:
        case "cifar10" | "cifar100":
            kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
            train, test = (kind(folder, train=part, download=True) for part in (True, False))
            images = [train.data, test.data]
            labels = [train.targets, test.targets]
            names = train.classes
        case "fashion_mnist":
            train, test = (datasets.FashionMNIST(folder, train=part, download=True) for part in (True, False))
            images = [part.data.numpy()[..., None] for part in (train, test)]
            labels = [part.targets.numpy() for part in (train, test)]
            names = train.classes
        case _:
            train, test = (datasets.SVHN(folder, split=part) for part in ("train", "test"))
            images = [part.data.transpose(0, 2, 3, 1) for part in (train, test)]
            labels = [part.labels for part in (train, test)]
            names = [str(digit) for digit in range(10)]
    parts = np.repeat(np.array(["train", "test"]), [len(part) for part in labels])
    return Arrays(np.concatenate(images), np.concatenate(labels).astype(np.int64), parts, tuple(names))


def _md5(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _refusal(label: str, what: str) -> DataError:
    sentence = (
        f"{label} could not be downloaded: {what}; check the internet connection and try again, "
        "or use images of your own as a zip file"
    )
    return DataError([("data.dataset", sentence)])
