"""The benchmark of accuracy at equal size: its networks keep to the size, its table says what its rows say."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small import small_plan

from benchmarks import accuracy_at_size, contenders
from benchmarks.accuracy_at_size import Job, Setting
from nasengine import export
from nasengine.architecture import lowered, smallest

PLAN = small_plan(channels=8, nodes=2, colours=3, classes=10, image_size=16)
HEADER = {"classes": [str(i) for i in range(10)], "mean": [0.5] * 3, "std": [0.2] * 3}
SETTING = Setting(train=60, validation=20, test=20, search_epochs=8, retrain_epochs=1)


@pytest.mark.parametrize("name", contenders.CONTENDERS)
@pytest.mark.parametrize("metric", ["params", "macs"])
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_contender_is_no_larger_than_the_target_and_hardly_smaller(name: str, metric: str, share: float) -> None:
    target = int(share * lowered(PLAN, {}).size(metric))
    assert target > smallest(PLAN, contenders.LEVELS, metric)
    network, masks, sizes = contenders.CONTENDERS[name](PLAN, HEADER, metric, target, 3)
    assert 0.8 * target < sizes[metric] <= target
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1)
        for layer, mask in masks.items():
            dict(network.named_parameters())[layer].mul_(mask)
        assert export.nonzero(network) == sizes["params"]
        assert network.eval()(torch.randn(2, 3, 16, 16)).shape == (2, 10)


def test_random_networks_differ_by_their_seed_alone() -> None:
    target = lowered(PLAN, {}).params // 2
    a, b, c = (contenders.random_network(PLAN, HEADER, "params", target, seed)[0] for seed in (1, 1, 2))
    assert a.architecture == b.architecture != c.architecture  # type: ignore[union-attr]


def row(contender: str, test: float, seed: int = 0, size: str = "10%", metric: str = "params") -> dict[str, Any]:
    return {
        "contender": contender, "size": size, "metric": metric, "seed": seed, "test": test, "params": 9, "macs": 90,
    }  # fmt: skip


accuracies = st.lists(st.floats(0.1, 0.9), min_size=2, max_size=4)


@given(accuracies, accuracies)
def test_a_win_is_more_than_the_spread_and_never_mutual(ours: list[float], other: list[float]) -> None:
    a, b = ([row("ours", value) for value in values] for values in (ours, other))
    spread = float(np.hypot(np.std(ours, ddof=1), np.std(other, ddof=1)))
    won = np.mean(ours) - np.mean(other) - spread
    if abs(won) > 1e-9:
        assert accuracy_at_size.beats(a, b) == (won > 0)
    assert not (accuracy_at_size.beats(a, b) and accuracy_at_size.beats(b, a))


def test_the_table_carries_every_seed_and_the_promises_wins_and_losses_alike() -> None:
    rows = [
        *(row("ours", value, seed) for seed, value in enumerate((0.50, 0.51, 0.52))),
        *(row("random", value, seed) for seed, value in enumerate((0.40, 0.42, 0.41))),
        *(row("ResNet", value, seed) for seed, value in enumerate((0.50, 0.52, 0.51))),
        *(row("ours", value, seed, "5%") for seed, value in enumerate((0.50, 0.51, 0.52))),
        *(row("random", value, seed, "5%") for seed, value in enumerate((0.50, 0.51, 0.52))),
        *(row("no regrowth", value, seed) for seed, value in enumerate((0.60, 0.61, 0.62))),
    ]
    lines = accuracy_at_size.table(rows)
    assert "| 10% of parameters | ours | 9 | 90 | 50.0, 51.0, 52.0 | 51.0 ± 1.0 |" in lines
    assert [line.split(" | ")[1] for line in lines[2:]] == ["ours", "random", "ours", "random", "ResNet", "no regrowth"]
    said = accuracy_at_size.promises(rows)
    assert "beats random by more than the spread at 1 of 2 sizes (promised: 2 of 3)" in said
    assert "beats ResNet by more than the spread at 0 of 1 sizes (promised: 2 of 3)" in said
    assert "'no regrowth' beats ours by more than the spread (promised: none beats it)" in said


def test_every_contender_meets_every_seed_and_ablations_one_size() -> None:
    jobs = accuracy_at_size.jobs(3, accuracy_at_size.SIZES, ())
    assert len(set(jobs)) == len(jobs) and len({job.name for job in jobs}) == len(jobs)
    sizes: dict[str, set[tuple[str, str]]] = {}
    for job in jobs:
        sizes.setdefault(job.contender, set()).add((job.metric, job.size))
    assert all(len(sizes[name]) >= 3 for name in ("ours", *accuracy_at_size.RIVALS))
    assert all(len(sizes[name]) == 1 for name in accuracy_at_size.ABLATIONS)
    assert len(jobs) == 3 * sum(map(len, sizes.values()))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Noise in ten classes, as train/ and test/."""
    path, noise = tmp_path / "cifar.zip", np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as file:
        for part, images in (("train", 9), ("test", 3)):
            for label in range(10):
                for number in range(images):
                    buffer = io.BytesIO()
                    Image.fromarray(noise.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, "PNG")
                    file.writestr(f"{part}/class{label}/{number}.png", buffer.getvalue())
    return path


def test_rows_are_made_once_of_always_the_same_images(archive: Path, tmp_path: Path) -> None:
    own = accuracy_at_size.images(archive, tmp_path, SETTING)
    names = zipfile.ZipFile(own).namelist()
    parts = [name.split("/")[0] for name in names]
    assert [parts.count(part) for part in ("train", "validation", "test")] == [60, 20, 20]
    assert len(set(names)) == len(names)
    asked = [Job("params", "30%", "random", 0), Job("params", "30%", "ResNet", 0)]
    made = [accuracy_at_size.run(job, tmp_path, SETTING) for job in asked]
    assert all(0 <= one["test"] <= 1 and one["params"] <= one["target"] for one in made)
    again = list(accuracy_at_size.rows(tmp_path, asked, SETTING, workers=1))
    assert again == json.loads(json.dumps(made)), "what is there is not made again"
    (tmp_path / f"{asked[1].name}.json").unlink()
    redone = accuracy_at_size.run(asked[1], tmp_path, SETTING)
    assert redone["test"] == made[1]["test"]


def test_the_changes_of_a_search_reach_its_configuration(tmp_path: Path) -> None:
    for name in accuracy_at_size.SEARCHES:
        config = SETTING.config(tmp_path / "images.zip", Job("macs", "10%", name, 5))
        assert (config.seed, config.target.metric, config.target.value) == (5, "macs", "10%")
        assert config.retrain.start == ("inherit" if name == "inherited weights" else "scratch")
        assert (config.strategy.ratios == "equal") == (name == "fixed ratios")
        assert (config.cuts == ()) == (name == "one stage")
