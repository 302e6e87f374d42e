"""Promises of nasengine.checkpoint: one file, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nasengine import checkpoint
from nasengine.errors import CheckpointError

STATE = {"position": {"phase": "search", "stage": 1}, "seq": 5, "net": {"kept": {"a": torch.tensor([True, False])}}}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "checkpoint.pt", STATE)
    found = checkpoint.load(tmp_path / "checkpoint.pt")
    assert torch.equal(found["net"]["kept"]["a"], STATE["net"]["kept"]["a"])
    assert found["position"] == STATE["position"] and found["seq"] == 5


def test_a_failure_while_saving_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, STATE)
    before = path.read_bytes()
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save(path, {**STATE, "bad": lambda: None})
    assert path.read_bytes() == before


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_cut_off_file_is_refused_with_a_sentence(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, STATE)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt cannot be read \(\w+\); start over with --fresh$"):
        checkpoint.load(path)


@pytest.mark.parametrize("other", [[1, 2], {"weights": 1}, {"position": {}}, {"seq": 3}])
def test_another_file_of_torch_is_refused_with_a_sentence(tmp_path: Path, other: object) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(other, path)
    with pytest.raises(
        CheckpointError, match=r"checkpoint\.pt is not a checkpoint of a search; start over with --fresh$"
    ):
        checkpoint.load(path)


def test_a_checkpoint_never_runs_code(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({**STATE, "evil": Path("x")}, path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(path)
