"""Promises of nasengine.architecture and nasengine.spaces.cells: what a plan holds and what is left of it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from small import ROOT, random_kept, small_plan

from nasengine.architecture import lowered, spatial_sizes
from nasengine.config import CANDIDATES
from nasengine.supernet import architecture


def test_a_node_reads_both_inputs_and_all_earlier_nodes_by_every_candidate() -> None:
    plan = small_plan(nodes=3)
    counts = [plan.choice[f"c0_n{node}_ops"].units for node in range(3)]
    assert counts == [2 * 7, 3 * 7, 4 * 7]
    labels = plan.choice["c1_n1_ops"].labels
    assert labels == tuple(f"{source} {candidate}" for source in ("s0", "s1", "n0") for candidate in CANDIDATES)


def test_each_cell_has_decisions_of_its_own() -> None:
    plan = small_plan(cells_=4, nodes=2, reductions=(1, 3))
    names = [choice.name for choice in plan.choices]
    assert len(set(names)) == len(names)
    assert all("." not in name for name in names)
    for cell in range(4):
        own = [choice for choice in plan.choices if choice.block == cell + 1]
        assert {choice.granularity for choice in own} == {"operation", "filter", "weight"}
        assert all(choice.name.startswith(f"c{cell}_") for choice in own)


def test_reductions_double_the_width_and_halve_the_image() -> None:
    plan = small_plan(cells_=4, reductions=(1, 3), image_size=14)
    assert [plan.groups[f"c{cell}_n0"] for cell in range(4)] == [4, 8, 8, 16]
    assert [plan.sides[f"c{cell}_n0"] for cell in range(4)] == [14, 7, 7, 4]


def test_floors_are_at_least_one_and_at_most_all() -> None:
    for channels in (4, 6, 16):
        for choice in small_plan(channels=channels, nodes=2).choices:
            assert 1 <= choice.floor <= choice.units
            if choice.granularity == "filter":
                assert choice.units / 8 <= choice.floor <= choice.units / 4 + 1


def test_layers_come_after_what_they_read_and_sides_agree() -> None:
    plan = small_plan(cells_=3, nodes=2, reductions=(0, 1), image_size=10)
    seen: set[str] = set()
    for layer in plan.layers:
        assert set(layer.inputs) <= seen, layer.name
        assert len({plan.sides[source] for source in layer.inputs}) <= 1, layer.name
        seen.add(layer.name)


def test_a_program_holds_what_its_exit_needs_and_no_more() -> None:
    plan = small_plan(cells_=3, cuts=(1,))
    early = plan.program("exit1")
    assert {layer.block for layer in early} == {0, 1}
    assert "head" not in {layer.name for layer in early}
    assert "exit1" not in {layer.name for layer in plan.program("head")}
    only_skip = plan.program("head", {"c0_n0_ops": [0], "c1_n0_ops": [0], "c2_n0_ops": [0]})
    assert not [layer.name for layer in only_skip if "sep_conv" in layer.name or "pool" in layer.name]


def test_what_nobody_reads_is_not_in_the_found_network() -> None:
    """The nodes read s0 alone: in the last cell that is the stem's output, so cell 0 and all of its layers go."""
    plan = small_plan(reductions=())
    found = lowered(plan, {"c0_n0_ops": [0], "c1_n0_ops": [0]})
    assert not [layer["name"] for layer in found.layers if layer["name"].startswith("c0_")]


def test_channels_that_nobody_reads_are_not_in_the_found_network() -> None:
    """The last node keeps one channel; the skip from s1 reads no other, so s1 makes no other either."""
    plan = small_plan(reductions=(), candidates=("skip_connect",))
    kept = {"c1_n0": [2], "c1_n0_ops": [1]}
    layers = {layer["name"]: layer for layer in lowered(plan, kept).layers}
    assert layers["c1_s1_conv"]["out_channels"] == 1
    assert layers["head"]["in_features"] == 1


def test_no_gate_and_no_mask_is_left() -> None:
    plan = small_plan(cells_=3, nodes=2)
    found = architecture(plan, random_kept(plan, 2))
    assert {layer["op"] for layer in found.layers} <= {
        "image", "conv", "factorized_reduce", "batch_norm", "relu", "max_pool", "avg_pool", "select", "scale", "sum",
        "concat", "mean", "linear",
    }  # fmt: skip
    names = [layer["name"] for layer in found.layers]
    assert len(set(names)) == len(names)
    assert all(set(layer["inputs"]) <= set(names) for layer in found.layers)


def test_odd_sides_are_rounded_up() -> None:
    layers = [
        {"name": "image", "op": "image", "inputs": []},
        {"name": "a", "op": "conv", "inputs": ["image"], "stride": 2},
        {"name": "b", "op": "max_pool", "inputs": ["a"], "stride": 2},
        {"name": "c", "op": "mean", "inputs": ["b"]},
    ]
    assert spatial_sizes(layers, 14) == {"image": 14, "a": 7, "b": 4, "c": 1}


@pytest.mark.parametrize("module", ["architecture", "outlook", "spaces.cells", "events", "config"])
def test_the_plain_floor_needs_no_torch(module: str) -> None:
    code = f"import sys, nasengine.{module}; sys.exit(bool({{'torch', 'numpy'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
