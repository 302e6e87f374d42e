"""The benchmark of noise on skips: its rows tell what was found, and are made once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import skips
from tests.engine.test_accuracy_at_size import archive  # noqa: F401 -- a fixture

SHORT = skips.Setting(train=60, validation=20, test=20, epochs=4)


@pytest.mark.long
def test_searches_with_and_without_noise_are_counted_and_made_once(
    archive: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "rows.jsonl"
    asked = [str(archive), "--out", str(out), "--seeds", "1"]
    skips.main(asked, SHORT)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["keep"], row["seed"]) for row in rows] == [(0.8, 0), (1.0, 0)]
    assert all(0 < row["kept"] < 1 and 0 <= row["leading"] <= 1 and 0 <= row["validation"] <= 1 for row in rows)
    said = capsys.readouterr().out
    assert f"| kept operations that are skips, % | 0.8 | {100 * rows[0]['kept']:.1f} |" in said

    skips.main(asked, SHORT)
    assert capsys.readouterr().out == said
    assert len(out.read_text().splitlines()) == 2, "nothing is made again"


def test_the_table_carries_every_seed_and_what_the_noise_changes() -> None:
    """Of two seeds 10 and 30 points less: 20 in the mean, and the standard error of two is half of what they differ."""
    rows = [
        {"keep": keep, "seed": seed, "leading": leading, "kept": 0.25, "validation": 0.5}
        for keep, seed, leading in ((1.0, 0, 0.4), (0.8, 1, 0.2), (0.8, 0, 0.3), (1.0, 1, 0.5))
    ]
    lines = skips.table(rows)
    assert lines[2] == "| connections that a skip leads, % | 0.8 | 30.0, 20.0 | 25.0 ± 7.1 |"
    assert lines[3] == "| connections that a skip leads, % | 1 | 40.0, 50.0 | 45.0 ± 7.1 |"
    assert len(lines) == 8
    said = skips.differences(rows)
    assert said[0] == "connections that a skip leads: -20.0 points with noise, standard error 10.0"
    assert len(skips.differences(rows[:1])) == 0


def test_rows_of_another_setting_are_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    out.write_text(json.dumps({"keep": 1.0, "seed": 0, "setting": {"epochs": 99}}) + "\n")
    assert skips.known(out, SHORT) == {} and skips.known(tmp_path / "none.jsonl", SHORT) == {}


def test_an_archive_of_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images.zip").write_bytes(b"no zip")
    with pytest.raises(SystemExit):
        skips.main([str(tmp_path / "images.zip"), "--out", str(tmp_path / "rows.jsonl")])
    assert "images.zip cannot be read (File is not a zip file); give CIFAR-10" in capsys.readouterr().err
