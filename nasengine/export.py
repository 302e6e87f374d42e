"""From the masked supernet to files: compact weights, parity certificate, the result folder and its check."""

from __future__ import annotations

import hashlib
import json
import shutil
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from nasengine import compact
from nasengine.architecture import Architecture
from nasengine.borrowed import BorrowedNet
from nasengine.compact import Classifier, Network
from nasengine.errors import ConfigError, ExportError
from nasengine.multiply_adds import counted
from nasengine.onnx_file import onnx_model
from nasengine.onnx_trace import onnx_of
from nasengine.sparse_file import sparse
from nasengine.supernet import Supernet, everything

TOLERANCE = {"fp32": 1e-5, "fp64": 1e-9}
"""Largest allowed difference between masked and compact network, relative to the largest output."""
ONNX_TOLERANCE = 1e-4
EXPORTS = {"onnx": "model.onnx", "pt2": "model.pt2", "sparse": compact.SPARSE_FILE}
"""Formats of `exported`, each with its file's usual name: ONNX, torch.export's own, weights without their zeros."""
SHEET = "pictures.png"
"""Validation images to try the network with, and those it gets wrong; results of before have none."""
FILES = ("README.md", "architecture.json", "model.onnx", "model.py", "model.safetensors", SHEET, "report.json")
"""Of a result, beside their SHA256SUMS."""


def compact_network(
    net: Supernet, architecture: Architecture, gains: Mapping[str, Tensor], header: Mapping[str, Any]
) -> Classifier:
    """The compact network with the supernet's weights; gates and gains are folded into batch norms.

    Args:
        net: committed to a decision.
        architecture: lowered from that very decision.
        gains: over living units, as given to ``net.forward``.
        header: classes, mean, std: what the file says beside the architecture.
    """
    if isinstance(net, BorrowedNet):
        return net.compact(gains, header)
    like = next(iter(net.nursery.values()))
    network = Network({**architecture.to_json(), **header}).to(device=like.device, dtype=like.dtype)
    network.load_state_dict(_folded(net, architecture, gains))
    return network.eval()


def weight_masks(net: Supernet, architecture: Architecture) -> dict[str, Tensor]:
    """State-dict name -> 0/1 mask for each convolution of the compact network that has pruned weights."""
    if isinstance(net, BorrowedNet):
        return net.weight_masks()
    masks = {}
    for layer in architecture.layers:
        plan_layer = net.plan.layer.get(layer["name"])
        if plan_layer is not None and plan_layer.prunable:
            alive = _part(net.kept[plan_layer.weights], architecture.sources[plan_layer.name])
            if not bool(alive.all()):
                masks[f"layers.{plan_layer.name}.weight"] = alive.float()
    return masks


@torch.no_grad()
def certificate(
    net: Supernet, gains: Mapping[str, Tensor], architecture: Architecture, images: Tensor
) -> dict[str, float]:
    """Largest relative difference between masked, sliced and compact network on real images, in fp32 and fp64.

    The masked network is the full space with everything computed and nothing but masks to silence what is off.

    Args:
        net: committed to a decision.
        gains: over living units.
        architecture: lowered from that decision.
        images: normalised [N, C, S, S].

    Raises:
        ExportError: above TOLERANCE; nothing may be published then.
    """
    net.store()
    device = images.device
    masks = {name: alive.to(images.dtype) for name, alive in net.kept.items()}
    full_gains = {}
    for name, gain in gains.items():
        full_gains[name] = torch.ones(net.plan.choice[name].units, dtype=gain.dtype, device=device)
        full_gains[name][torch.tensor(net.units[name], device=device)] = gain
    worst = {}
    for precision, dtype in (("fp32", torch.float32), ("fp64", torch.float64)):
        nursery = {name: value.to(dtype) for name, value in net.nursery.items()}
        masked = net.with_(nursery, everything(net.plan, device), net.exit).eval()
        sliced = net.with_(nursery, net.kept, net.exit).eval()
        x = images.to(dtype)
        small = compact_network(sliced, architecture, _cast(gains, dtype), {})
        with masked.silenced(net.kept):
            expected = masked(x, _cast(masks, dtype), _cast(full_gains, dtype))
        found = [small(x), sliced(x, None, _cast(gains, dtype))]
        scale = expected.abs().max().clamp(min=1e-12)
        worst[precision] = max(float((expected - other).abs().max() / scale) for other in found)
    for precision, difference in worst.items():
        if not difference <= TOLERANCE[precision]:
            raise ExportError(
                f"the compact network differs from the masked one by {difference:.1e} in {precision}, allowed is "
                f"{TOLERANCE[precision]:.0e}; nothing was published. This is a fault of Coppice, please report it"
            )
    return worst


def publish(
    folder: Path, network: Classifier, report: dict[str, Any], sample: Tensor, sheet: bytes
) -> list[dict[str, object]]:
    """Writes the result folder, whole or not at all.

    Args:
        folder: replaced if it exists.
        network: trained, on the CPU.
        report: becomes report.json; `achieved.bytes` is filled in here.
        sample: normalised images [N, C, S, S] to check the ONNX file with.
        sheet: the pictures that the report names, as PNG.

    Returns:
        {name, bytes, sha256} of each file.
    """
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    # Copies: a file has no way to say that two names share one tensor.
    state = {name: value.detach().cpu().clone().contiguous() for name, value in network.state_dict().items()}
    save_file(state, part / "model.safetensors")
    report["achieved"]["bytes"] = (part / "model.safetensors").stat().st_size
    report["achieved"]["bytes_sparse"] = len(save(sparse(state)))
    (part / "architecture.json").write_text(json.dumps(dict(network.architecture), indent=1))
    shutil.copyfile(compact.__file__, part / "model.py")
    write_onnx(network, sample, part / "model.onnx")
    with torch.no_grad():
        if not torch.allclose(loaded(part)(sample), network(sample), rtol=1e-5, atol=1e-5):
            raise ExportError("the written network does not answer as the trained one; nothing was published")
    (part / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False))
    (part / SHEET).write_bytes(sheet)
    (part / "README.md").write_text(_model_card(report))
    files = [described(part, path) for path in sorted(part.iterdir())]
    (part / "SHA256SUMS").write_text("".join(f"{file['sha256']}  {file['name']}\n" for file in files))
    files.append(described(part, part / "SHA256SUMS"))
    if folder.exists():
        shutil.rmtree(folder)
    part.rename(folder)
    return files


def write_onnx(network: Classifier, sample: Tensor, path: Path) -> None:
    """An ONNX file of the network, for any batch size, checked against it in onnxruntime.

    Raises:
        ExportError: if onnxruntime's answers differ.
    """
    if _is_borrowed(network):
        path.write_bytes(onnx_of(network, sample))
    else:
        path.write_bytes(onnx_model(network).SerializeToString())
    difference = _onnx_difference(network, path, sample)
    if not difference <= ONNX_TOLERANCE:
        raise ExportError(
            f"the ONNX file differs from the network by {difference:.1e}, allowed is {ONNX_TOLERANCE:.0e}; "
            "nothing was published"
        )


def exported(run: Path, kind: str, path: Path) -> dict[str, Any]:
    """Writes the network of a finished run as one of EXPORTS and checks the file against it.

    Raises:
        ConfigError: if there is no result in the folder.
        ExportError: if the file answers differently.
    """
    network = loaded(_result(run))
    sample = _noise(network, 4)
    if kind == "onnx":
        write_onnx(network, sample, path)
    elif kind == "sparse":
        _write_sparse(network, path)
    else:
        program = torch.export.export(network, (sample,), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
        torch.export.save(program, path)
        again = torch.export.load(path).module()
        if not torch.allclose(again(sample[:2]), network(sample[:2]), rtol=1e-5, atol=1e-5):
            path.unlink()
            raise ExportError(f"the {kind} file does not answer as the network; it was removed")
    return {"format": kind, "file": str(path), **described(path.parent, path)}


def _write_sparse(network: Classifier, path: Path) -> None:
    state = {name: value.clone() for name, value in network.state_dict().items()}
    save_file(sparse(state), path)
    again = compact.dense(load_file(path), network)
    if again.keys() != state.keys() or not all(torch.equal(again[name], state[name]) for name in state):
        path.unlink()
        raise ExportError("the sparse file does not hold the network's weights; it was removed")


def loaded(folder: Path) -> Classifier:
    """The network as a stranger would load it: by the result's own ``model.py``."""
    source = folder / "model.py"
    module = types.ModuleType("coppice_result_model")  # run, not imported: that would leave a __pycache__ in the result
    exec(compile(source.read_text(), source, "exec"), module.__dict__)
    return module.load(folder)


def verified(run: Path) -> dict[str, Any]:
    """What a fresh look at a result finds: checksums, size, and that model.py and ONNX agree.

    Returns:
        `ok` and one sentence for each check.

    Raises:
        ConfigError: if there is no result in the folder.
    """
    folder = _result(run)
    if problems := _checksum_problems(folder):
        return {"ok": False, "problems": problems, "checks": []}
    report = json.loads((folder / "report.json").read_text())
    network = loaded(folder)
    params = nonzero(network)
    sizes = {"params": params, "macs": macs(network)}
    bounds = _bounds(report)
    countable = {metric: bound for metric, bound in bounds.items() if metric in sizes}
    for metric, bound in countable.items():
        if sizes[metric] > bound:
            name = "target" if metric == report["target"]["metric"] else "limit"
            problems.append(f"the network has {sizes[metric]:,} {metric}, above its {name} of {bound:,}")
    if params != report["achieved"]["params"]:
        problems.append(f"the file holds {params:,} non-zero weights, the report says {report['achieved']['params']:,}")
    for precision, limit in TOLERANCE.items():
        if not report["parity"][precision] <= limit:
            problems.append(
                f"the certificate's {precision} difference {report['parity'][precision]:.1e} is above {limit:.0e}"
            )
    difference = _onnx_difference(network, folder / "model.onnx", _noise(network, 2))
    if not difference <= ONNX_TOLERANCE:
        problems.append(f"model.onnx differs from the network by {difference:.1e}")
    checks = [
        "all checksums agree",
        *(f"{sizes[metric]:,} {metric}, at most {bound:,}" for metric, bound in countable.items()),
        *([f"time is not checked: {report['timing']['sentence']}"] if report.get("timing") else []),
        f"certificate: masked and compact network differ by {report['parity']['fp32']:.1e} (fp32), "
        f"{report['parity']['fp64']:.1e} (fp64)",
        f"ONNX file differs by {difference:.1e}",
    ]
    return {"ok": not problems, "problems": problems, "checks": checks if not problems else []}


def nonzero(network: torch.nn.Module) -> int:
    """Non-zero parameters, everything counted."""
    return sum(int(parameter.count_nonzero()) for parameter in network.parameters())


def _folded(net: Supernet, architecture: Architecture, gains: Mapping[str, Tensor]) -> dict[str, Tensor]:
    net.store()
    factors = _FullGains(net, gains)
    state: dict[str, Tensor] = {}
    for layer in architecture.layers:
        name = layer["name"]
        target = f"layers.{name}"
        match layer["op"]:
            case "conv" | "factorized_reduce":
                plan_layer = net.plan.layer[name]
                weight = net.nursery[f"{name}/weight"]
                if plan_layer.prunable:
                    weight = weight.masked_fill(~net.kept[plan_layer.weights], 0.0)
                state[f"{target}.weight"] = _part(weight, architecture.sources[name])
            case "linear":
                state[f"{target}.weight"] = _part(net.nursery[f"{name}/weight"], architecture.sources[name])
                rows = torch.tensor(architecture.sources[name][0], device=net.nursery[f"{name}/bias"].device)
                state[f"{target}.bias"] = net.nursery[f"{name}/bias"][rows]
            case "batch_norm":
                rows = torch.tensor(architecture.sources[name][0])
                factor = factors.of_batch_norm(net.plan.layer[name])[rows]
                state[f"{target}.weight"] = net.nursery[f"{name}/weight"][rows] * factor
                state[f"{target}.bias"] = net.nursery[f"{name}/bias"][rows] * factor
                state[f"{target}.running_mean"] = net.nursery[f"{name}/mean"][rows]
                state[f"{target}.running_var"] = net.nursery[f"{name}/var"][rows]
                state[f"{target}.num_batches_tracked"] = torch.zeros((), dtype=torch.long)
            case "scale":
                state[f"{target}.factor"] = factors.of_operation(net.plan.layer[name.removesuffix("_scale")])
    return state


class _FullGains:
    def __init__(self, net: Supernet, gains: Mapping[str, Tensor]) -> None:
        self.net, self.gains = net, gains
        self.like = next(iter(net.nursery.values()))

    def of_operation(self, layer: Any) -> Tensor:
        choice, unit = layer.owner
        if choice not in self.gains:
            return self.like.new_ones(())
        return self.gains[choice][self.net.units[choice].index(unit)].detach().to(self.like.dtype)

    def of_batch_norm(self, layer: Any) -> Tensor:
        """[full width]: the gate behind it, times the operation's factor if a mix reads it."""
        group = self.net.folds.get(layer.name)
        factor = self.of_group(group) if group else self.like.new_ones(self.net.plan.width(layer.name))
        return factor * self.of_operation(layer) if layer.name in self.net.plan.ends else factor

    def of_group(self, group: str) -> Tensor:
        """[full width]: one for what is dead."""
        if group in self.net.plan.crossings:
            first, second = map(self.of_group, self.net.plan.crossings[group])
            return torch.outer(first, second).flatten()
        factor = self.like.new_ones(self.net.plan.groups[group])
        if group in self.gains:
            factor[torch.tensor(self.net.units[group], device=factor.device)] = (
                self.gains[group].detach().to(factor.dtype)
            )
        return factor


def _part(full: Tensor, source: Any) -> Tensor:
    rows, columns = (torch.tensor(list(index), dtype=torch.long, device=full.device) for index in source)
    return full.index_select(0, rows).index_select(1, columns)


def _cast(values: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: value.detach().to(dtype) for name, value in values.items()}


def _result(run: Path) -> Path:
    folder = run if (run / "SHA256SUMS").exists() else run / "result"
    if not (folder / "SHA256SUMS").exists():
        raise ConfigError.at("", f"{run} holds no result; give the folder of a finished search")
    return folder


def _checksum_problems(folder: Path) -> list[str]:
    text = (folder / "SHA256SUMS").read_text(errors="replace")
    sums = dict(reversed(line.split("  ", 1)) for line in text.splitlines() if "  " in line)
    listed = set(sums) if (folder / SHEET).exists() else {*sums, SHEET}  # results of before have none
    if listed != set(FILES):
        return ["SHA256SUMS was changed: it does not list the files of a result"]
    problems = []
    for name, digest in sums.items():
        if not (folder / name).exists():
            problems.append(f"{name} is missing")
        elif _sha256(folder / name) != digest:
            problems.append(f"{name} was changed: its checksum differs")
    return problems


def macs(network: Classifier) -> int:
    """Multiply-adds for one image; those of a library's model are counted as it runs."""
    if _is_borrowed(network):
        return counted(network, _noise(network, 1).to(network.mean.device)).macs
    stored = network.architecture
    return Architecture(
        space=stored["space"],
        image_size=stored["image_size"],
        layers=tuple(stored["layers"]),
        output=stored["output"],
        kept=stored["kept"],
        sources={},
    ).macs


def _is_borrowed(network: Classifier) -> bool:
    """Whether it is a library's model; one that was loaded by its own ``model.py`` has a class of its own."""
    return "library" in network.architecture


def _noise(network: Classifier, n: int) -> Tensor:
    shape = (n, network.mean.numel(), network.image_size, network.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _onnx_difference(network: Classifier, path: Path, images: Tensor) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = network(images)
    found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    return float((expected - found).abs().max() / expected.abs().max().clamp(min=1e-12))


def described(folder: Path, path: Path) -> dict[str, object]:
    """Name, size in bytes and checksum of a file of the result."""
    return {"name": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bounds(report: Mapping[str, Any]) -> dict[str, int]:
    """Metric -> what the network does not exceed, the target first; old reports have no limits beside it."""
    return {report["target"]["metric"]: report["target"]["value"], **report.get("limits", {})}


def _timing(report: Mapping[str, Any]) -> str:
    return f"{report['timing']['sentence']}\n\n" if report.get("timing") else ""


def _comparison(report: Mapping[str, Any]) -> str:
    early = f"Ended early on request: {', '.join(report['ended_early'])}.\n\n" if report["ended_early"] else ""
    parts = (report["teacher"], report["rating"], report["baseline"])
    return early + "".join(f"{part['sentence']}\n\n" for part in parts if part)


def _how(report: Mapping[str, Any]) -> str:
    """Whether it was found at all."""
    rating = report["rating"]
    if rating and not rating["images"]:
        return "Chosen by size alone"
    return f"Found by {report['method']}"


def _model_card(report: Mapping[str, Any]) -> str:
    achieved, accuracy = report["achieved"], report["accuracy"]
    bounds = _bounds(report)
    dense = sparse = zeros = ""
    if achieved["params_dense"] > achieved["params"]:
        dense = f"| parameters (dense) | {achieved['params_dense']:,} |\n"
        sparse = f"| with zeros left out (`export --format sparse`) | {achieved['bytes_sparse']:,} bytes |\n"
        zeros = (
            "Zeros among the weights save space once the file is compressed, not time: ordinary hardware\n"
            "multiplies them too.\n\n"
        )
    model = report.get("model")
    where = f"among what can be cut of {model}" if model else f"in the {report['space']} space"
    needs = f"torch, safetensors and {model.partition(':')[0]}" if model else "torch and safetensors"
    return f"""# {report["name"] or "A network found by Coppice"}

{_how(report)} {where} on `{report["data"]["name"]}`, seed {report["seed"]}.

| | |
|---|---|
| test accuracy | {accuracy["test"]:.4f} |
| validation accuracy | {accuracy["validation"]:.4f} |
| parameters (non-zero) | {achieved["params"]:,} |
{dense}| multiply-adds | {achieved["macs"]:,} |
| size of the weights file | {achieved["bytes"]:,} bytes |
{sparse}| latency, one image on {achieved["latency_device"]} | {achieved["latency_ms"]:.2f} ms |
| limit | {" and ".join(f"{bound:,} {metric}" for metric, bound in bounds.items())} |

{_comparison(report)}{_timing(report)}{zeros}```python
from model import load

network = load(".")                             # plain PyTorch, in eval mode
logits = network(network.preprocess(images))    # uint8 images [N, H, W, C]
```

`model.py` needs {needs}. `model.onnx` takes images normalised as `preprocess` does. The masked network of
the search and this one differ by {report["parity"]["fp32"]:.1e} (fp32) of the largest output.
"""
