"""The benchmark of accuracy at equal size: its networks keep to the size, its table says what its rows say."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks import accuracy_at_size, contenders
from benchmarks.accuracy_at_size import Bench, Job, Setting
from nasengine import export
from nasengine.architecture import lowered, smallest
from nasengine.blocks import extremes
from nasengine.errors import ConfigError, EngineError
from nasengine.flat import LEVELS
from nasengine.outlook import plan_of
from nasengine.splits import builtin_facts

SETTING = Setting(train=60, validation=20, test=20, search_epochs=8, retrain_epochs=1)
PLAN = plan_of(SETTING.config(Path("images.zip"), Job("params", "10%", "ours", 0)), builtin_facts("cifar10"))
HEADER = {"classes": [str(i) for i in range(10)], "mean": [0.5] * 3, "std": [0.2] * 3}


@pytest.mark.parametrize("name", contenders.CONTENDERS)
@pytest.mark.parametrize("metric", ["params", "macs"])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_a_contender_is_no_larger_than_the_target_and_hardly_smaller(name: str, metric: str, share: float) -> None:
    target = int(share * lowered(PLAN, {}).size(metric))
    assert target > smallest(PLAN, LEVELS, metric)
    network, masks, sizes = contenders.CONTENDERS[name](PLAN, HEADER, metric, target, 3)
    assert 0.97 * target < sizes[metric] <= target
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
    said = {one["promise"]: (one["found"], one["kept"]) for one in accuracy_at_size.promises(rows)}
    assert said["ours beats random by more than the spread at two sizes"] == ("at 10% of 5%, 10%", None)
    assert said["ours beats ResNet by more than the spread at two sizes"] == ("at none of 10%", None)
    assert said["ours beats shrunk by more than the spread at two sizes"] == ("at none of none", None)
    assert said["'no regrowth' does not beat ours by more than the spread"] == ("beats ours", False)
    assert len(said) == 4


@pytest.mark.parametrize(("won", "kept"), [(1, False), (2, True), (3, True)])
def test_two_of_three_sizes_must_be_won(won: int, kept: bool) -> None:
    rows = [
        row(name, value + 0.1 * (name == "ours") * (number < won), seed, size)
        for number, size in enumerate(accuracy_at_size.SIZES)
        for name in ("ours", "random")
        for seed, value in enumerate((0.50, 0.51, 0.52))
    ]
    assert accuracy_at_size.promises(rows)[0]["kept"] is kept


def test_known_rows_are_not_made_again_and_stand_in_the_table(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = accuracy_at_size.jobs(1, ["10%"], ["ours", "random"])
    known = tmp_path / "known.jsonl"
    known.write_text(
        "".join(json.dumps({**row("ours", 0.5), **asdict(job), "macs": None}) + "\n" for job in wanted[1:])
    )
    made: list[accuracy_at_size.Job] = []

    def rows(bench: object, missing: list[accuracy_at_size.Job], workers: int) -> Any:
        made.extend(missing)
        return iter([{**row("ours", 0.4), **asdict(job)} for job in missing])

    monkeypatch.setattr(accuracy_at_size, "rows", rows)
    monkeypatch.setattr(accuracy_at_size, "QUICK", SETTING)
    asked = [str(archive), "--out", str(tmp_path / "out"), "--quick", "--sizes", "10%", "--only", "ours", "random"]
    accuracy_at_size.main([*asked, "--known", str(known)])
    assert made == wanted[:1]
    said = capsys.readouterr().out
    assert "| 10% of parameters | random | 9 |  | 50.0 | 50.0 |" in said and "| ours | 9 | 90 | 40.0 |" in said


@pytest.mark.parametrize(
    "line", ["{}", "[]", "no", '{"metric": "params", "size": "5%", "contender": "ours", "seed": 0}']
)
def test_a_line_that_is_no_row_is_refused(line: str, tmp_path: Path) -> None:
    known = tmp_path / "known.jsonl"
    known.write_text(f"{line}\n")
    with pytest.raises(ConfigError, match=r"line 1 of .*known\.jsonl is no row; expected what --json prints"):
        accuracy_at_size.known_rows(known, accuracy_at_size.Job)


def test_of_a_single_seed_nothing_is_said() -> None:
    rows = [row("ours", 0.5), row("random", 0.2), row("no regrowth", 0.9)]
    assert {one["kept"] for one in accuracy_at_size.promises(rows)} == {None}
    assert accuracy_at_size.table(rows)[2].endswith("| 50.0 | 50.0 |")


def test_every_contender_meets_every_seed_and_ablations_one_size() -> None:
    jobs = accuracy_at_size.jobs(3, accuracy_at_size.SIZES, ())
    assert len(set(jobs)) == len(jobs)
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


@pytest.fixture
def bench(archive: Path, tmp_path: Path) -> Bench:
    return Bench.of(archive, tmp_path / "out", SETTING)


def test_images_are_chosen_once_and_are_always_the_same(bench: Bench, archive: Path, tmp_path: Path) -> None:
    names = zipfile.ZipFile(bench.images).namelist()
    parts = [name.split("/")[0] for name in names]
    assert [parts.count(part) for part in ("train", "validation", "test")] == [60, 20, 20]
    assert len(set(names)) == len(names)
    before = bench.images.stat().st_mtime_ns
    assert Bench.of(archive, bench.folder, SETTING) == bench and bench.images.stat().st_mtime_ns == before
    other = Bench.of(archive, bench.folder, replace(SETTING, train=50))
    assert other.images != bench.images


@pytest.mark.parametrize("kept", [(), ("train",), ("train", "test")])
def test_an_archive_of_something_else_is_refused_and_leaves_nothing(
    kept: tuple[str, ...], archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    poor = tmp_path / "poor.zip"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(poor, "w") as target:
        for name in source.namelist():
            if name.startswith(kept) and not name.endswith(("/1.png", "/2.png", "/3.png")) if kept else False:
                target.writestr(name, source.read(name))
    with pytest.raises(ConfigError, match="has too few images; give CIFAR-10 as a zip of train/ and test/"):
        Bench.of(poor, tmp_path / "out", SETTING)
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(SystemExit):
        accuracy_at_size.main([str(poor), "--out", str(tmp_path / "out")])
    assert "archive: " in capsys.readouterr().err


def test_rows_are_made_once_and_again_if_anything_has_changed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Job("params", "30%", "random", 0), Job("params", "30%", "ResNet", 0)]
    made = [accuracy_at_size.run(job, bench) for job in asked]
    assert all(0 <= one["test"] <= 1 and one["params"] <= one["target"] for one in made)
    again = list(accuracy_at_size.rows(bench, asked, workers=1))
    assert again == json.loads(json.dumps(made)), "what is there is not made again"
    assert replace(bench, code="other").row(asked[0]) is None
    bench.place(asked[1]).with_suffix(".json").unlink()
    assert accuracy_at_size.run(asked[1], bench)["test"] == made[1]["test"]
    monkeypatch.setitem(accuracy_at_size.SEARCHES, "random", {"retrain": {"lr": 0.01}})
    assert bench.row(asked[0]) is None


@pytest.mark.long
def test_found_networks_have_rows_and_an_agreement(
    bench: Bench, archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(accuracy_at_size, "QUICK", SETTING)
    monkeypatch.setattr(accuracy_at_size, "jobs", lambda *_: [Job("params", "30%", "ours", seed) for seed in (0, 1)])
    accuracy_at_size.main([str(archive), "--out", str(bench.folder), "--quick", "--json"])
    *found, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert sorted(one["seed"] for one in found) == [0, 1]
    assert all(0.99 * one["target"] <= one["params"] <= one["target"] and one["search_seconds"] > 0 for one in found)
    assert set(last["agreement"]["ours, 30% of params"]) == {"operation", "filter", "weight"}


def test_a_row_that_fails_ends_it_with_its_reason(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.images.write_bytes(b"")
    with pytest.raises(EngineError):
        list(accuracy_at_size.rows(bench, [Job("params", "30%", "random", seed) for seed in range(3)], workers=1))


def test_the_changes_of_a_search_reach_its_configuration(tmp_path: Path) -> None:
    methods = {"DMS": "dms", "MSG-DAS": "msgdas", "DNA": "dna"}
    assert tuple(methods) == accuracy_at_size.METHODS
    for name in accuracy_at_size.SEARCHES:
        config = SETTING.config(tmp_path / "images.zip", Job("params", "10%", name, 5))
        cells = name != "DNA"
        assert (config.seed, config.target.metric) == (5, "params")
        assert (config.space.kind, config.target.value) == (("cells", "10%") if cells else ("chain", 8235))
        assert config.retrain.start == ("inherit" if name == "inherited weights" else "scratch")
        assert config.strategy.kind == methods.get(name, "mgas")
        assert (getattr(config.strategy, "ratios", "") == "equal") == (name == "fixed ratios")
        assert (config.cuts == ()) == (name in ("one stage", *methods))
        assert config.search.epochs == SETTING.search_epochs * (1 if cells else 3), "of each block as many"


@pytest.mark.parametrize("size", accuracy_at_size.SIZES)
def test_a_chain_gets_as_many_parameters_as_that_share_of_the_cells(size: str, tmp_path: Path) -> None:
    whole = plan_of(SETTING.config(tmp_path / "images.zip", Job("params", size, "ours", 0)), builtin_facts("cifar10"))
    assert lowered(whole, {}).params == accuracy_at_size.FULL
    config = SETTING.config(tmp_path / "images.zip", Job("params", size, "DNA", 0))
    least, most = extremes(plan_of(config, builtin_facts("cifar10")), (1.0,), "params")
    assert least < config.target.value == int(accuracy_at_size.SHARE[size] * accuracy_at_size.FULL)
    assert 0.18 < config.target.value / most < 0.5
