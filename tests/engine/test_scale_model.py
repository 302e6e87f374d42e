"""What the table of models made smaller says follows from its rows, and rows that are known are kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from small import ROOT

from benchmarks import scale_model
from benchmarks.accuracy_at_size import known_rows

FILE = ROOT / "benchmarks" / "scale_model.jsonl"


def rows(**points: tuple[float, ...]) -> list[dict[str, Any]]:
    """Of one cell, each method's accuracy in points for seeds from 0."""
    place = {"model": "resnet18", "size": "50%", "params": 1, "macs": 1}
    return [
        {**place, "method": method, "seed": seed, "test": value / 100}
        for method, values in points.items()
        for seed, value in enumerate(values)
    ]


def test_a_lead_has_the_spread_of_its_own_and_not_that_of_what_all_were_cut_from() -> None:
    peers = dict.fromkeys(("uniform", "magnitude", "Taylor", "random"), (40.0, 50.0, 60.0))
    (said,) = scale_model.promises(rows(DMS=(42.0, 51.0, 63.0), **peers))
    assert (said["beaten by"], said["ahead of the mean of the peers by"], said["spread of that"]) == ([], 2.0, 1.0)
    assert said["by more than the spread"] and not said["by more than the spread of networks of other seeds"]


def test_a_peer_that_is_better_by_more_than_the_spread_beats_it() -> None:
    peers = dict.fromkeys(("uniform", "magnitude", "random"), (40.0, 50.0))
    (said,) = scale_model.promises(rows(DMS=(40.0, 50.0), Taylor=(43.0, 52.0), **peers))
    assert said["beaten by"] == ["Taylor"] and not said["by more than the spread"]


def test_nothing_is_said_of_a_cell_that_lacks_a_method_or_a_second_seed() -> None:
    assert scale_model.promises(rows(DMS=(40.0, 50.0))) == []
    assert scale_model.promises(rows(**dict.fromkeys(scale_model.METHODS, (40.0,)))) == []


def test_the_rows_that_were_measured_are_all_there_and_make_the_table_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    known = known_rows(FILE, scale_model.Job)
    assert len(known) == len(scale_model.MODELS) * len(scale_model.SIZES) * len(scale_model.METHODS) * 3
    assert all(row["macs"] <= row["target"] for row in known.values())
    monkeypatch.setattr(scale_model.Bench, "of", lambda archive, folder, setting: None)
    monkeypatch.setattr(scale_model, "rows", lambda bench, missing, workers: iter(missing))
    scale_model.main(["cifar10.zip", "--known", str(FILE), "--out", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    table, said = ([line for line in lines if line.startswith(start)] for start in ("|", "{"))
    assert len(table) == 2 + len(known) // 3 and len(said) == 4
    assert all(json.loads(line)["beaten by"] == [] for line in said)
