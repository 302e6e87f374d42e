"""Promises of nasengine.sparse_file: nothing is lost, and it is as small as said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import Finished
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save
from small import called, chain_plan, lived_in, living, random_gains, random_kept, small_plan

from nasengine import compact, export
from nasengine.sparse_file import sparse
from nasengine.supernet import Supernet, architecture


@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=15, deadline=None)
def test_19_every_bit_of_every_weight_returns(seed: int, chained: bool, dtype: torch.dtype) -> None:
    plan = chain_plan(squeeze_excite=True) if chained else small_plan(channels=8)
    kept = random_kept(plan, seed)
    net = Supernet(plan, lived_in(plan, seed, dtype).nursery, kept)
    network = export.compact_network(net, architecture(plan, kept), living(net, random_gains(plan, seed, dtype)), {})
    state = network.state_dict()
    for value in state.values():
        if value.ndim == 4:
            value.view(-1)[:1] = -0.0
    stored = sparse(state)
    again = compact.dense(stored, network)
    assert again.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(again[name], value) and torch.equal(torch.signbit(again[name]), torch.signbit(value)), name
    assert len(save(stored)) <= len(save(state))


def test_19_a_weight_with_many_zeros_takes_a_bit_for_each_of_them() -> None:
    value = torch.zeros(64, 64, 1, 1)
    value[::4] = torch.rand(16, 64, 1, 1) + 1
    stored = sparse({"w": value})
    assert {name: (part.dtype, part.numel()) for name, part in stored.items()} == {
        "w.bits": (torch.uint8, 64 * 64 // 8), "w.values": (torch.float32, 16 * 64),
    }  # fmt: skip


def test_19_the_file_has_the_size_that_the_report_says_and_opens_by_itself(run: Finished, tmp_path: Path) -> None:
    done = called("export", run.out, "--format", "sparse", "--to", tmp_path / compact.SPARSE_FILE)
    assert done.returncode == 0, done.stderr
    size = (tmp_path / compact.SPARSE_FILE).stat().st_size
    assert json.loads(done.stdout)["bytes"] == size == run.report["achieved"]["bytes_sparse"]
    for name in ("model.py", "architecture.json"):
        shutil.copy(run.result / name, tmp_path / name)
    found = export.loaded(tmp_path).state_dict()
    expected = load_file(run.result / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_19_a_sparse_file_that_lies_is_not_left_behind(
    run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        compact, "dense", lambda stored, network: dict(network.state_dict(), **{"head.bias": torch.ones(1)})
    )
    with pytest.raises(export.ExportError, match="does not hold"):
        export._write_sparse(
            compact.Network(json.loads((run.result / "architecture.json").read_text())), tmp_path / "x"
        )
    assert not (tmp_path / "x").exists()
