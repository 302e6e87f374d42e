"""What there is to choose from: strategies, spaces and data sets as literal tables.

Dotted paths are imported on first use, so this file imports nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A search method; `paths` names for each of its recipes what makes one from (plan, config, targets, generator)."""

    label: str
    sentence: str
    paths: dict[str, str]
    spaces: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Space:
    """A search space; `path` makes its plan from its part of the configuration."""

    label: str
    sentence: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How much effort; what it fills in is in ``config.PRESETS``."""

    label: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class BuiltinDataset:
    """A data set that has a name. Counts are images; a ``test`` of 0 means it is held out from ``train``."""

    label: str
    sentence: str
    source: Literal["sklearn", "torchvision"]
    image_size: int
    channels: int
    classes: int
    train: int
    test: int
    flip: bool
    """Whether a mirrored image still belongs to its class (not so for digits)."""


STRATEGIES = {
    "mgas": Strategy(
        label="MGAS",
        sentence="The default, best where little may stay: prunes and regrows operations, filters, weights together.",
        paths={
            "coppice": "nasengine.strategies.mgas:strategy",
            "published": "nasengine.strategies.mgas_published:strategy",
        },
        spaces=("cells", "chain", "imported"),
    ),
    "dms": Strategy(
        label="DMS",
        sentence="Learns how many operations and filters stay. It leaves no zeros, so what is small is fast, too.",
        paths=dict.fromkeys(("scale", "prune", "gates"), "nasengine.strategies.dms:strategy"),
        spaces=("cells", "chain", "imported"),
    ),
    "msgdas": Strategy(
        label="MSG-DAS",
        sentence="Trains a few single paths at once: for little memory, and level with MGAS where a third may stay.",
        paths={"reconstructed": "nasengine.strategies.in_turn:msgdas"},
        spaces=("cells", "chain"),
    ),
    "dna": Strategy(
        label="DNA",
        sentence="Rates every candidate of each block by a teacher: one search tells the best network of many sizes.",
        paths={"dna": "nasengine.strategies.dna:strategy", "dna++": "nasengine.strategies.dna_untaught:strategy"},
        spaces=("chain",),
    ),
}

SPACES = {
    "cells": Space(
        label="Cells",
        sentence="A web of small operations (as in DARTS): every connection keeps any of seven, each cell for itself.",
        path="nasengine.spaces.cells:plan",
    ),
    "chain": Space(
        label="Chain",
        sentence="Layers in a row (as in MobileNet): each decides how far it looks, how wide it is, whether it stays.",
        path="nasengine.spaces.chain:plan",
    ),
    "imported": Space(
        label="A known model",
        sentence="A model of timm or torchvision, by name: it keeps its kind and gets the best widths and depth.",
        path="nasengine.spaces.imported:plan",
    ),
}

METRICS = {"params": "parameters", "macs": "multiply-adds", "latency_ms": "ms"}
"""What a size is counted in."""

PRESETS = {
    "quick": Preset(
        label="Quick",
        sentence="A small space, small images, few epochs: minutes on two CPU cores. Shows the method "
        "on your data. It cannot promise the best network that they allow, nor tell by one run whether searching pays.",
    ),
    "standard": Preset(
        label="Standard",
        sentence="The same recipe on a deeper space, images of up to 32 pixels, many epochs: hours on a GPU.",
    ),
    "thorough": Preset(
        label="Thorough",
        sentence="The same on the deepest space, with long training: a day or more on a GPU.",
    ),
}

DATASETS = {
    "digits": BuiltinDataset(
        label="Digits",
        sentence="1,797 handwritten digits, 8x8 grey. Comes with scikit-learn, works offline.",
        source="sklearn",
        image_size=8,
        channels=1,
        classes=10,
        train=1797,
        test=0,
        flip=False,
    ),
    "cifar10": BuiltinDataset(
        label="CIFAR-10",
        sentence="60,000 colour photographs of ten things, 32x32. Downloaded once (170 MB).",
        source="torchvision",
        image_size=32,
        channels=3,
        classes=10,
        train=50_000,
        test=10_000,
        flip=True,
    ),
    "cifar100": BuiltinDataset(
        label="CIFAR-100",
        sentence="60,000 colour photographs of a hundred things, 32x32. Downloaded once (170 MB).",
        source="torchvision",
        image_size=32,
        channels=3,
        classes=100,
        train=50_000,
        test=10_000,
        flip=True,
    ),
    "fashion_mnist": BuiltinDataset(
        label="Fashion-MNIST",
        sentence="70,000 grey pictures of clothes, 28x28. Downloaded once (30 MB).",
        source="torchvision",
        image_size=28,
        channels=1,
        classes=10,
        train=60_000,
        test=10_000,
        flip=True,
    ),
    "svhn": BuiltinDataset(
        label="SVHN",
        sentence="99,289 colour photographs of house numbers, 32x32. Downloaded once (250 MB).",
        source="torchvision",
        image_size=32,
        channels=3,
        classes=10,
        train=73_257,
        test=26_032,
        flip=False,
    ),
}

FILE_DATASETS = {
    "folder": "A folder with one sub-folder of images a class, with or without train/, val/ and test/ above.",
    "zip": "A zip file of such a folder.",
}
