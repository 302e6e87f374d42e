"""Promises of nasengine.export: the files of a result, and what a later look at them finds."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import Finished, Whole
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from small import chain_plan, images_for, lived_in, living, random_gains, random_kept, relative, small_plan

from nasengine import export
from nasengine.architecture import Plan
from nasengine.errors import ConfigError, ExportError
from nasengine.events import ResultReady
from nasengine.supernet import Supernet, architecture

FILES = (
    "README.md", "architecture.json", "model.onnx", "model.py", "model.safetensors", "pictures.png", "report.json",
)  # fmt: skip


def test_a_result_holds_what_was_promised(run: Finished) -> None:
    assert sorted(path.name for path in run.result.iterdir()) == sorted([*FILES, "SHA256SUMS"])
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=run.result, check=True)
    assert (run.result / "model.py").read_bytes() == Path(export.compact.__file__).read_bytes()


def test_the_files_said_are_the_files_there(run: Finished) -> None:
    (ready,) = [event for event in run.events if event["kind"] == "result_ready"]
    assert sorted(file["name"] for file in ready["files"]) == sorted([*FILES, "SHA256SUMS"])
    for file in ready["files"]:
        content = (run.result / file["name"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file["bytes"], file["sha256"])
    assert ready["report"] == run.report


def test_the_report_has_every_key_with_a_sane_value(run: Finished) -> None:
    report = run.report
    assert (report["method"], report["space"], report["seed"]) == ("mgas", "cells", run.config["seed"])
    assert report["name"] == run.config["name"]
    target, achieved = report["target"], report["achieved"]
    assert (
        target["metric"] == "params"
        and 0.97 * target["value"] <= achieved["params"] <= target["value"] < report["full_size"]
    )
    assert achieved["params"] <= achieved["params_dense"] and achieved["macs"] > achieved["params_dense"] // 2
    assert achieved["bytes"] == (run.result / "model.safetensors").stat().st_size > 4 * achieved["params_dense"]
    assert 0 < achieved["latency_ms"] < 1000 and achieved["latency_device"].startswith("CPU")
    assert all(0 < report["accuracy"][split] <= 1 for split in ("validation", "test"))
    assert 0 <= report["parity"]["fp32"] <= 1e-5 and 0 <= report["parity"]["fp64"] <= 1e-9
    assert achieved["bytes_sparse"] <= achieved["bytes"] and report["family"] == []
    for action in ("pruned", "regrown", "survived"):
        assert set(report[action]) == {"operation", "filter", "weight", "depth"}
        assert all(isinstance(count, int) and count >= 0 for count in report[action].values())
    assert all(report["seconds"][phase] > 0 for phase in ("search", "retrain"))
    assert 50 < report["peak_memory_mib"] < 64_000
    assert set(report["versions"]) == {"coppice", "python", "torch"}
    assert report["data"]["name"] == "digits" and len(report["data"]["sha256"]) == 64
    splits = next(event["splits"] for event in run.events if event["kind"] == "data_ready")
    assert report["data"]["splits"] == splits and all(splits.values())


def test_the_random_network_has_the_size_of_the_found_one(tiny_run: Finished) -> None:
    (other,) = tiny_run.report["baseline"]["random"]
    found = tiny_run.report["achieved"]["params"]
    assert 0.9 * found <= other["params"] <= found
    assert 0 <= other["test"] <= 1 and 0 <= other["validation"] <= 1
    networks = {event["network"] for event in tiny_run.events if event["kind"] == "retrain_epoch"}
    assert networks == {"found", "random 1"}
    baseline = tiny_run.report["baseline"]
    assert baseline["mean"] == baseline["best"] == other["test"] and baseline["spread"] is None
    assert baseline["sentence"] in (tiny_run.result / "README.md").read_text()


def test_the_card_tells_the_figures_of_the_report(run: Finished) -> None:
    card = (run.result / "README.md").read_text()
    report = run.report
    for figure in (
        f"{report['accuracy']['test']:.4f}",
        f"{report['achieved']['params']:,}",
        f"{report['achieved']['bytes']:,} bytes",
    ):
        assert figure in card
    achieved = report["achieved"]
    for dense, has_zeros in ((achieved["params"] + 1, True), (achieved["params"], False)):
        told = export._model_card({**report, "achieved": {**achieved, "params_dense": dense}})
        assert ("(dense)" in told, "zeros left out" in told, "multiplies them too" in told) == (has_zeros,) * 3
    assert "Zeros among the weights save space once the file is compressed, not time" in card


def test_the_weights_file_holds_no_mask_and_no_gate(run: Finished) -> None:
    state = load_file(run.result / "model.safetensors")
    endings = {name.rsplit(".", 1)[1] for name in state}
    assert endings <= {"weight", "bias", "running_mean", "running_var", "num_batches_tracked", "factor"}
    assert (
        sum(value.numel() for name, value in state.items() if name.rsplit(".", 1)[1] in ("weight", "bias", "factor"))
        == run.report["achieved"]["params_dense"]
    )


def test_onnx_agrees_for_any_batch_size(run: Finished) -> None:
    network = export.loaded(run.result)
    session = onnxruntime.InferenceSession(run.result / "model.onnx", providers=["CPUExecutionProvider"])
    for n in (1, 2, 7):
        x = torch.randn(n, 1, network.image_size, network.image_size, generator=torch.Generator().manual_seed(n))
        with torch.no_grad():
            expected = network(x).numpy()
        (found,) = session.run(None, {"images": x.numpy()})
        assert found.shape == expected.shape and np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


PLANS = [
    small_plan(),
    small_plan(image_size=10, cells_=3, reductions=(0, 2)),
    small_plan(image_size=14, nodes=2, reductions=(0, 1), colours=3),
    small_plan(cells_=3, nodes=2, reductions=(1,), image_size=9),
    chain_plan(),
    chain_plan(layers=3, squeeze_excite=True, reductions=(0, 2), image_size=10, colours=3),
    chain_plan(layers=3, attention=(1, 4), reductions=(0, 2), image_size=14, colours=3),
]


@given(st.integers(0, 10**6), st.integers(0, len(PLANS) - 1))
@settings(max_examples=18, deadline=None)
def test_any_network_of_a_space_is_written_to_onnx_as_it_is(seed: int, which: int) -> None:
    """Every kind of layer, odd sides, channels that a source lacks: onnxruntime gives what torch gives."""
    plan = PLANS[which]
    net = Supernet(plan, lived_in(plan, seed, torch.float32).nursery, random_kept(plan, seed))
    header = {"classes": ["a", "b", "c"], "mean": [0.5] * plan.groups["image"], "std": [0.2] * plan.groups["image"]}
    gains = living(net, random_gains(plan, seed, torch.float32))
    network = export.compact_network(net, architecture(plan, net.kept), gains, header)
    x = images_for(plan, seed, n=5, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        export.write_onnx(network, x[:2], Path(folder) / "model.onnx")
        session = onnxruntime.InferenceSession(Path(folder) / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"images": x.numpy()})
    with torch.no_grad():
        assert relative(network(x), torch.from_numpy(found)) <= 1e-5


# -- a later look -----------------------------------------------------------------------------------------------------


@pytest.fixture
def copied(tiny_run: Finished, tmp_path: Path) -> Path:
    shutil.copytree(tiny_run.result, tmp_path / "result")
    return tmp_path


def summed(folder: Path) -> None:
    """Puts the checksums right after something was changed."""
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    names = [line.split("  ")[1] for line in lines]
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(sums))


def test_a_sound_result_is_found_sound(run: Finished) -> None:
    for folder in (run.out, run.result):
        found = export.verified(folder)
        assert found["ok"] is True and found["problems"] == [] and len(found["checks"]) == 4


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_flipped_byte_is_found_in_each_file(copied: Path, name: str, place: str) -> None:
    path = copied / "result" / name
    content = bytearray(path.read_bytes())
    content[{"first": 0, "middle": len(content) // 2, "last": -1}[place]] ^= 0x80
    path.write_bytes(content)
    found = export.verified(copied)
    assert found == {"ok": False, "problems": [f"{name} was changed: its checksum differs"], "checks": []}


@pytest.mark.parametrize("at", range(0, 160, 11))
@pytest.mark.parametrize("bit", [0x01, 0x80])
def test_a_flipped_bit_in_the_checksums_is_found(copied: Path, at: int, bit: int) -> None:
    path = copied / "result" / "SHA256SUMS"
    content = bytearray(path.read_bytes())
    content[at] ^= bit
    path.write_bytes(content)
    found = export.verified(copied)
    assert found["ok"] is False and found["problems"]


def test_each_network_of_a_family_is_looked_at_by_itself(whole_of: Callable[[str], Whole], tmp_path: Path) -> None:
    run = whole_of("family")
    shutil.copytree(run.folder, tmp_path / "run")
    folders = [event.folder for event in run.of(ResultReady)]
    assert len(folders) == 3 and all(export.verified(tmp_path / "run" / folder)["ok"] for folder in folders)
    path = tmp_path / "run" / folders[0] / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert [export.verified(tmp_path / "run" / folder)["ok"] for folder in folders] == [False, True, True]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(copied: Path, name: str) -> None:
    (copied / "result" / name).unlink()
    assert export.verified(copied)["problems"] == [f"{name} is missing"]


def test_a_result_of_before_there_were_pictures_is_still_sound(copied: Path) -> None:
    folder = copied / "result"
    lines = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    (folder / "SHA256SUMS").write_text("".join(line for line in lines if "pictures.png" not in line))
    assert export.verified(copied)["ok"] is False, "it is there and not listed"
    (folder / "pictures.png").unlink()
    assert export.verified(copied)["ok"] is True


@pytest.mark.parametrize("keep", [0, 3])
def test_checksums_that_leave_files_out_are_found(copied: Path, keep: int) -> None:
    path = copied / "result" / "SHA256SUMS"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:keep]))
    found = export.verified(copied)
    assert found["ok"] is False and any("SHA256SUMS" in problem for problem in found["problems"])


@pytest.mark.parametrize(
    ("keys", "value", "sentence"),
    [
        (("target", "value"), 100, "above its target of 100"),
        (("achieved", "params"), 7, "the report says 7"),
        (("parity", "fp32"), 1.0, "the certificate's fp32 difference 1.0e+00 is above 1e-05"),
        (("parity", "fp64"), 1e-3, "the certificate's fp64 difference 1.0e-03 is above 1e-09"),
    ],
)
def test_a_report_that_does_not_fit_is_found_though_its_checksum_agrees(
    copied: Path, keys: tuple[str, str], value: float, sentence: str
) -> None:
    path = copied / "result" / "report.json"
    report = json.loads(path.read_text())
    report[keys[0]][keys[1]] = value
    path.write_text(json.dumps(report))
    summed(copied / "result")
    found = export.verified(copied)
    assert found["ok"] is False and any(sentence in problem for problem in found["problems"])


def test_another_network_s_onnx_file_is_found(copied: Path) -> None:
    network = export.loaded(copied / "result")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)
    sample = torch.randn(2, 1, network.image_size, network.image_size)
    export.write_onnx(network, sample, copied / "result" / "model.onnx")
    summed(copied / "result")
    (problem,) = export.verified(copied)["problems"]
    assert problem.startswith("model.onnx differs from the network by ")


def test_a_folder_without_a_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no result; give the folder of a finished search$"):
        export.verified(tmp_path)


# -- certificate ------------------------------------------------------------------------------------------------------


def committed(seed: int, dtype: torch.dtype = torch.float32, plan: Plan | None = None) -> Supernet:
    plan = plan or small_plan(nodes=2)
    net = lived_in(plan, seed, dtype)
    net.commit(random_kept(plan, seed))
    return net.eval()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "plan", [small_plan(nodes=2), chain_plan(squeeze_excite=True, attention=(2,))], ids=["cells", "chain"]
)
def test_the_certificate_is_within_its_tolerance(seed: int, plan: Plan) -> None:
    net = committed(seed, plan=plan)
    gains = living(net, random_gains(net.plan, seed, torch.float32))
    found = export.certificate(net, gains, architecture(net.plan, net.kept), images_for(net.plan, dtype=torch.float32))
    assert found["fp32"] <= 1e-5 and 0 < found["fp64"] <= 1e-9


def test_the_certificate_notices_another_architecture() -> None:
    """Lowered from a decision with one channel less than the network has."""
    net = committed(2)
    kept = {name: alive.clone() for name, alive in net.kept.items()}
    kept["c1_n1"][kept["c1_n1"].nonzero().flatten()[0]] = False
    gains = living(net, random_gains(net.plan, 2, torch.float32))
    with pytest.raises(ExportError, match=r"differs from the masked one by \S+ in fp32, allowed is 1e-05"):
        export.certificate(net, gains, architecture(net.plan, kept), images_for(net.plan, dtype=torch.float32))


def test_masks_of_pruned_weights_have_the_compact_shapes() -> None:
    net = committed(3)
    found = architecture(net.plan, net.kept)
    network = export.compact_network(net, found, {}, {})
    masks = export.weight_masks(net, found)
    parameters = dict(network.named_parameters())
    assert masks
    for name, mask in masks.items():
        assert mask.shape == parameters[name].shape
        assert not parameters[name][mask == 0].any()
