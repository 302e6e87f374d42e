"""The benchmarks of ratings: rows are made once, sums and intervals are right, both ways of rating answer alike."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from benchmarks import prefixes, rating
from nasengine.blocks import Block, Rung
from tests.engine.test_accuracy_at_size import archive  # noqa: F401 -- a fixture

BLOCKS = [
    Block(
        number=number, first=number, source="", rungs=tuple(
            Rung(choice=f"{number}{at}", block=number, output="", group="", reads="", options=((0,), (1,)), inner=())
            for at in range(2)
        ),
    )
    for number in range(2)
]  # fmt: skip


@pytest.mark.long
def test_every_network_is_trained_alone_and_ranked_and_nothing_is_made_again(
    archive: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    few = ["--networks", "3", "--seeds", "1", "--epochs", "1", "--search-epochs", "6"]
    asked = [str(archive), "--out", str(tmp_path), *few, "--train", "60", "--validation", "20"]
    rating.main(asked)
    said = capsys.readouterr().out
    rows = {path.name: json.loads(path.read_text()) for path in tmp_path.glob("*/?-*.json")}
    assert len(rows) == 4
    shared = rows["0-rated.json"]
    assert len(shared["single_path"]) == 216 and len(shared["ratings"]) == 3
    assert all(value > 0 for ratings in shared["ratings"] for value in ratings)
    names = [line.split(" | ")[0].removeprefix("| ") for line in said.splitlines()[2:7]]
    assert names == [
        "DNA's rating, seed 0",
        "single-path super-net, seed 0",
        "params",
        "macs",
        "best sum over blocks (ceiling)",
    ]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/?-*.json")}
    rating.main(asked)
    assert capsys.readouterr().out == said
    assert before == {path: path.stat().st_mtime_ns for path in before}, "nothing is made again"


def test_a_rating_that_ranks_as_training_does_has_tau_one_and_keeps_the_promise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Accuracies are a sum over blocks: so are the ratings, turned round; parameters rank the other way."""
    monkeypatch.setattr(rating, "SAMPLES", 50)
    paths = rating.networks(BLOCKS)
    worth = {path: sum(3**at * part for at, part in enumerate(itertools.chain(*path))) for path in paths}
    ratings = [
        [-sum(3 ** (2 * number + at) * part for at, part in enumerate(path)) for path in BLOCKS[number].paths()]
        for number in range(2)
    ]
    rows = [
        {"seed": seed, "path": path, "accuracy": worth[path] / 40, "params": 100 - worth[path], "macs": 1}
        for path in paths
        for seed in (0, 1)
    ]
    rows += [
        {"seed": seed, "path": [], "ratings": ratings, "single_path": [worth[path] for path in paths]}
        for seed in (0, 1)
    ]
    found = rating.compared(rows, BLOCKS)
    assert found["params"][0] == -1
    for name, (tau, low, high) in found.items():
        assert name in ("params", "macs") or (tau, low, high) == pytest.approx((1, 1, 1))
    assert list(rating.table(found | {"macs": (0, 0, 0)}))[-1].endswith("(1.000 against 0.000): kept")


def test_ratings_without_a_meaning_have_an_interval_around_zero() -> None:
    tau, low, high = rating.taus([1, 4, 2, 3, 5, 0, 7, 6] * 4, [3, 1, 2, 2, 1, 3, 2, 2] * 4)
    assert low < tau < high and low < 0


def test_shared_layers_are_computed_once_and_both_ways_answer_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    prefixes.main(["--layers", "2", "--channels", "4", "--repeats", "1", "--json"])
    one, two = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    n = one["candidates"]
    assert (one["operations"], one["one by one"]) == (n, n)
    assert (two["operations"], two["one by one"], two["candidates"]) == (n + n**2, 2 * n**2, n**2)
    assert two["ratio of operations"] == (n + n**2) / (2 * n**2) and two["ratio of seconds"] > 0


def test_epochs_that_are_too_few_are_refused(
    archive: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    few = ["--search-epochs", "4", "--train", "60", "--validation", "20"]
    with pytest.raises(SystemExit):
        rating.main([str(archive), "--out", str(tmp_path), *few])
    assert "search.epochs: 4 is too few for 3 blocks" in capsys.readouterr().err


def test_an_archive_of_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images.zip").write_bytes(b"no zip")
    with pytest.raises(SystemExit):
        rating.main([str(tmp_path / "images.zip"), "--out", str(tmp_path)])
    assert "images.zip cannot be read (File is not a zip file); give CIFAR-10" in capsys.readouterr().err


def test_an_archive_that_is_damaged_within_is_refused(
    archive: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damaged = bytearray(archive.read_bytes())
    damaged[60:90] = bytes(30)  # of the first image
    (tmp_path / "damaged.zip").write_bytes(damaged)
    few = ["--train", "60", "--validation", "20", "--search-epochs", "6"]
    with pytest.raises(SystemExit):
        rating.main([str(tmp_path / "damaged.zip"), "--out", str(tmp_path), *few])
    assert "damaged.zip cannot be read (Bad CRC-32 for file 'train/class0/0.png'); give" in capsys.readouterr().err
