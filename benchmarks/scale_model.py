"""A trained model made smaller: DMS against what is usually done, at equal multiply-adds and equal fine-tuning.

ResNet-18 and MobileNetV2 of torchvision are trained on a fixed part of CIFAR-10, once for each seed. Each method cuts
that very network to a share of its multiply-adds, then all are trained on alike (with --equal-time those that did not
search for longer, by what DMS takes for it). Scored on the 10,000 test images. Each row is written when it is done;
started again, it goes on where it was.

    python -m benchmarks.scale_model cifar10.zip                  # 75 minutes on two idle cores
    python -m benchmarks.scale_model cifar10.zip --quick          # 10 minutes: shows that it works, proves nothing
    python -m benchmarks.scale_model cifar10.zip --only DMS uniform --models resnet18 --sizes 25%
    python -m benchmarks.scale_model cifar10.zip --known benchmarks/scale_model.jsonl   # the rest of it
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from benchmarks.accuracy_at_size import Rows, beats, chosen_images, each_done, known_rows, mean_and_spread
from nasengine import data, device, export, survey, train, zoo
from nasengine.architecture import lowered
from nasengine.cache import whole
from nasengine.compact import Borrowed
from nasengine.config import RetrainConfig, SearchConfig, parse
from nasengine.cutting import sliced
from nasengine.errors import ConfigError
from nasengine.events import ResultReady
from nasengine.multiply_adds import counted
from nasengine.outlook import batch_size
from nasengine.packing import loaded
from nasengine.retraining import Retraining, random_decision
from nasengine.search import search
from nasengine.supernet import plain

MODELS, SIZES = ("resnet18", "mobilenet_v2"), ("50%", "25%")
STEPS = 12
"""Halvings in the search for the ratio at which a peer's network just fits."""


@dataclass(frozen=True)
class Setting:
    """What is the same for every network of a table; epochs of the whole network, of the search, of the end."""

    images: tuple[int, int, int] = (5000, 500, 10_000)
    base_epochs: int = 40
    search_epochs: int = 6
    tune_epochs: int = 10
    image_size: int = 32
    more_epochs: int = 0
    """Of fine-tuning for all but DMS."""


QUICK = Setting(images=(400, 100, 1000), base_epochs=2, search_epochs=4, tune_epochs=1)


@dataclass(frozen=True, order=True)
class Job:
    """One network to make and train."""

    model: str
    size: str
    method: str
    seed: int


@dataclass(frozen=True)
class Bench:
    """Where rows lie, and what they are made from."""

    folder: Path
    setting: Setting
    archive: Path

    @classmethod
    def of(cls, archive: Path, folder: Path, setting: Setting) -> Bench:
        """Chooses the images, unless that was done before."""
        folder.mkdir(parents=True, exist_ok=True)
        images = folder / f"images-{'-'.join(map(str, setting.images))}.zip"
        if not images.exists():
            with whole(images) as file:
                chosen_images(archive, file, setting)
        return cls(folder, setting, images)

    def config(self, job: Job) -> SearchConfig:
        """The configuration of DMS's search; of a peer, images and training only."""
        return parse(
            {
                "seed": job.seed,
                "data": {"dataset": "zip", "path": str(self.archive), "image_size": self.setting.image_size},
                "space": {
                    "kind": "imported", "library": "torchvision", "model": job.model, "weights": "file",
                    "path": str(self.weights(job)),
                },
                "strategy": {"kind": "dms", "recipe": "prune"},
                "target": {"metric": "macs", "value": job.size},
                "search": {"epochs": self.setting.search_epochs},
                "retrain": {"epochs": self.setting.tune_epochs, "lr": 0.02},
            }
        )  # fmt: skip

    def weights(self, job: Job) -> Path:
        """Of the trained whole network."""
        return self.folder / f"{job.model}-{job.seed}-{self.setting.base_epochs}.safetensors"

    def place(self, job: Job) -> Path:
        """Of the job's files."""
        setting = self.setting
        name = f"{job.model}-{job.size.rstrip('%')}-{job.method}-{job.seed}".replace(" ", "_")
        more = 0 if job.method == "DMS" else setting.more_epochs
        return self.folder / f"{name}-{setting.base_epochs}-{setting.search_epochs}-{setting.tune_epochs + more}"

    def row(self, job: Job) -> dict[str, Any] | None:
        """The job's row, if it was made before."""
        path = self.place(job).with_suffix(".json")
        return json.loads(path.read_text()) if path.exists() else None


# -- one network ----------------------------------------------------------------------------------------------------


class Bed:
    """Images, the whole model and its trained weights, for a job."""

    def __init__(self, job: Job, bench: Bench) -> None:
        self.job, self.bench = job, bench
        self.config = bench.config(job)
        packed = loaded(self.config.data)
        self.survey = survey.ensured(self.config, packed.facts)
        self.images = data.images(packed, self.config.data, job.seed, "cpu")
        self.feed = train.Feeds.of(self.images, batch_size(self.config, len(self.images.train)), job.seed, 0.0).all
        self.header = {
            "library": "torchvision", "model": job.model, "classes": self.images.class_names,
            "mean": self.images.mean, "std": self.images.std,
            "image_size": self.config.data.image_size,
        }  # fmt: skip
        self.example = torch.zeros(1, 3, self.config.data.image_size, self.config.data.image_size)

    def model(self, weights: Path | None) -> nn.Module:
        """The whole model, with random weights of the seed or with those of the file."""
        shape = {"classes": len(self.images.class_names), "channels": 3, "image_size": self.config.data.image_size}
        with device.seeded(self.job.seed):
            given = {"weights": "file", "path": weights} if weights else {}
            return zoo.built("torchvision", self.job.model, **shape, **given)

    def trained(self, model: nn.Module, epochs: int, lr: float) -> Retraining:
        """After so many epochs from the weights that it has."""
        run = Retraining(
            Borrowed(self.header, model), {}, feed=self.feed, plan=RetrainConfig(epochs=epochs, lr=lr),
            precision="fp32", stream=device.generator("cpu", self.job.seed), key=0,
        )  # fmt: skip
        for epoch in range(epochs):
            for _ in run.steps(epoch, 0, train.Meter()):
                pass
        return run

    def slopes(self, model: nn.Module) -> None:
        """Gradients of the loss over some batches, in the model's parameters."""
        model.eval()
        order = self.feed.order("slopes")
        for step in range(min(20, len(order))):
            x, y = self.feed.unchanged(order[step])
            nn.functional.cross_entropy(model(x), y).backward()


def uniform(bed: Bed, model: nn.Module, target: int) -> nn.Module:
    """The same share of every group, its largest filters by the norm of the weights that make them."""
    groups = bed.survey.coupling.groups
    sizes = {group.name: _norms(model, group) for group in groups}

    def at(share: float) -> nn.Module:
        kept = {name: _largest(norms, max(1, round(share * len(norms)))) for name, norms in sizes.items()}
        return sliced(model, groups, kept)

    return _just_fitting(at, bed.example, target)


def random(bed: Bed, model: nn.Module, target: int) -> nn.Module:
    """Any filters, any number of each group."""
    plan = bed.survey.plan
    stream = device.generator("cpu", bed.job.seed, "random ratios")
    kept = random_decision(plan, stream, bounds={"macs": target}, granularities=("filter",))
    groups = bed.survey.coupling.groups
    return sliced(model, groups, {group.name: plain(plan, kept)[group.name] for group in groups})


def magnitude(bed: Bed, model: nn.Module, target: int) -> nn.Module:
    """Torch-Pruning: groups' norms, ranked over the whole network."""
    import torch_pruning

    return _by_torch_pruning(bed, model, target, torch_pruning.importance.GroupMagnitudeImportance())


def taylor(bed: Bed, model: nn.Module, target: int) -> nn.Module:
    """Torch-Pruning: first-order Taylor, ranked over the whole network."""
    import torch_pruning

    return _by_torch_pruning(bed, model, target, torch_pruning.importance.GroupTaylorImportance())


def _by_torch_pruning(bed: Bed, model: nn.Module, target: int, importance: Any) -> nn.Module:
    from torch_pruning.pruner import BasePruner

    def at(share: float) -> nn.Module:
        copied = copy.deepcopy(model)
        bed.slopes(copied)
        classifier = [m for m in copied.modules() if isinstance(m, nn.Linear)][-1]
        BasePruner(
            copied, bed.example, importance=importance, global_pruning=True, pruning_ratio=1 - share,
            ignored_layers=[classifier],
        ).step()  # fmt: skip
        copied.zero_grad(set_to_none=True)
        return copied

    return _just_fitting(at, bed.example, target)


PEERS: dict[str, Callable[[Bed, nn.Module, int], nn.Module]] = {
    "uniform": uniform, "magnitude": magnitude, "Taylor": taylor, "random": random,
}  # fmt: skip
METHODS = ("DMS", *PEERS)


def _just_fitting(at: Callable[[float], nn.Module], example: torch.Tensor, target: int) -> nn.Module:
    """The largest of the networks `at` shares of what may stay, that has no more multiply-adds than the target."""
    low, high, best = 0.02, 1.0, None
    for _ in range(STEPS):
        middle = (low + high) / 2
        found = at(middle)
        if counted(found, example).macs <= target:
            low, best = middle, found
        else:
            high = middle
    return best if best is not None else at(low)


def _norms(model: nn.Module, group: Any) -> torch.Tensor:
    """[width] squared norms of what makes each element."""
    total = torch.zeros(group.width)
    for member in group.members:
        if member.side == "out":
            weight = model.get_submodule(member.layer).weight.detach().flatten(1).square().sum(1)
            total += torch.stack([weight[list(own)].sum() for own in member.channels])
    return total


def _largest(values: torch.Tensor, count: int) -> list[int]:
    return sorted(torch.sort(values, descending=True, stable=True).indices[:count].tolist())


def run(job: Job, bench: Bench) -> dict[str, Any]:
    """Makes and trains one network; returns its row, which is then there for good."""
    torch.set_num_threads(1)
    started = time.process_time()
    with device.deterministic(1):
        made = _searched(job, bench) if job.method == "DMS" else _peer(job, bench)
    row = {**asdict(job), **made, "seconds": round(time.process_time() - started, 1)}
    with whole(bench.place(job).with_suffix(".json")) as file:
        file.write(json.dumps(row).encode())
    return row


def base(job: Job, bench: Bench) -> None:
    """Trains the whole network of a model and seed, unless that was done before."""
    torch.set_num_threads(1)
    file = bench.weights(job)
    if not file.exists():
        with device.deterministic(1):
            bed = Bed(job, bench)
            trained = bed.trained(bed.model(None), bench.setting.base_epochs, 0.05)
        part = file.with_suffix(".part")
        save_file({name: value.contiguous() for name, value in trained.network.model.state_dict().items()}, part)
        part.with_suffix(".json").write_text(json.dumps(trained.measured()))
        part.rename(file)


def _searched(job: Job, bench: Bench) -> dict[str, Any]:
    (report,) = (e.report for e in search(bench.config(job), bench.place(job)) if isinstance(e, ResultReady))
    achieved = report["achieved"]
    return {
        "target": report["target"]["value"], "params": achieved["params"], "macs": achieved["macs"],
        "test": report["accuracy"]["test"],
    }  # fmt: skip


def _peer(job: Job, bench: Bench) -> dict[str, Any]:
    bed, setting = Bed(job, bench), bench.setting
    target = bed.config.target.resolved(lowered(bed.survey.plan, {}).macs)
    small = PEERS[job.method](bed, bed.model(bench.weights(job)), target)
    macs = counted(small, bed.example).macs
    trained = bed.trained(small, setting.tune_epochs + setting.more_epochs, bed.config.retrain.lr)
    accuracy = train.evaluated(trained.network, bed.images.open_test(), bed.images)["accuracy"]
    return {"target": target, "params": export.nonzero(small), "macs": macs, "test": accuracy}


def rows(bench: Bench, wanted: Sequence[Job], workers: int) -> Iterator[dict[str, Any]]:
    """Rows that are there, then the others as they are done, whole networks first."""
    found = {job: bench.row(job) for job in wanted}
    yield from (row for row in found.values() if row is not None)
    missing = [job for job, row in found.items() if row is None]
    first = {(job.model, job.seed): job for job in missing}
    for _ in each_done(base, bench, list(first.values()), workers):
        pass
    yield from each_done(run, bench, missing, workers)


# -- the table ------------------------------------------------------------------------------------------------------


def table(found: Rows) -> list[str]:
    """Markdown: a line for each method in each cell."""
    lines = [
        "| model | multiply-adds | method | parameters | multiply-adds | accuracy of each seed | mean ± spread |",
        "|---|---|---|---|---|---|---|",
    ]
    for (model, size, method), group in _grouped(found).items():
        mean, spread = mean_and_spread(group)
        each = ", ".join(f"{100 * row['test']:.1f}" for row in group)
        params, macs = (round(statistics.fmean(row[name] for row in group)) for name in ("params", "macs"))
        deviation = f" ± {spread:.1f}" if len(group) > 1 else ""
        lines.append(f"| {model} | {size} | {method} | {params:,} | {macs:,} | {each} | {mean:.1f}{deviation} |")
    return lines


def promises(found: Rows) -> list[dict[str, Any]]:
    """In each cell: who beats DMS, and how far it is ahead of the mean of its peers, in points.

    What two networks of a seed are apart by has a spread of its own: both are cut from the very same trained one, so
    how good that is makes no difference between them.
    """
    groups = _grouped(found)
    said = []
    for model in MODELS:
        for size in SIZES:
            cell = {method: groups.get((model, size, method), []) for method in METHODS}
            if any(len(group) < 2 for group in cell.values()):
                continue
            against = {method: _lead(cell["DMS"], [cell[method]]) for method in PEERS}
            lead, spread = _lead(cell["DMS"], [cell[method] for method in PEERS])
            said.append(
                {
                    "cell": f"{model} at {size}",
                    "beaten by": [method for method, (by, its) in against.items() if -by > its],
                    "ahead of the mean of the peers by": round(lead, 2),
                    "spread of that": round(spread, 2),
                    "by more than the spread": lead > spread,
                    "by more than the spread of networks of other seeds": beats(
                        cell["DMS"], _means([cell[method] for method in PEERS])
                    ),
                }
            )
    return said


def _lead(ours: Rows, others: Sequence[Rows]) -> tuple[float, float]:
    """Mean and deviation, over seeds, of how far ours are ahead of the mean of the others, in points."""
    theirs = {row["seed"]: row["test"] for row in _means(others)}
    leads = [100 * (row["test"] - theirs[row["seed"]]) for row in ours if row["seed"] in theirs]
    return statistics.fmean(leads), statistics.stdev(leads)


def _means(groups: Sequence[Rows]) -> Rows:
    """For each seed the mean accuracy of the groups; how far methods are apart is not spread."""
    seeds = sorted({row["seed"] for group in groups for row in group})
    return [
        {
            "seed": seed,
            "test": statistics.fmean(row["test"] for group in groups for row in group if row["seed"] == seed),
        }
        for seed in seeds
    ]


def _grouped(found: Rows) -> dict[tuple[str, str, str], list[Mapping[str, Any]]]:
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in sorted(
        found, key=lambda r: (MODELS.index(r["model"]), SIZES.index(r["size"]), METHODS.index(r["method"]), r["seed"])
    ):
        groups.setdefault((row["model"], row["size"], row["method"]), []).append(row)
    return groups


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="CIFAR-10 as a zip of train/ and test/ with a folder for each class")
    parser.add_argument("--out", type=Path, default=Path("runs/scale_model"), help="rows, weights and searches")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--sizes", nargs="+", default=SIZES, choices=SIZES)
    parser.add_argument("--only", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--workers", type=int, default=2, help="networks at a time, one thread each")
    parser.add_argument("--known", type=Path, help="rows of earlier runs, one JSON object a line: not made again")
    parser.add_argument("--quick", action="store_true", help="few images and epochs, and one seed")
    parser.add_argument("--equal-time", action="store_true", help="others fine-tune for as many epochs as DMS searches")
    parser.add_argument("--json", action="store_true", help="one JSON object a row instead of the table")
    asked = parser.parse_args(arguments)
    setting, seeds = (QUICK, 1) if asked.quick else (Setting(), asked.seeds)
    if asked.equal_time:
        setting = replace(setting, more_epochs=setting.search_epochs)
    try:
        bench = Bench.of(asked.archive, asked.out, setting)
        known = known_rows(asked.known, Job) if asked.known else {}
    except (ConfigError, OSError) as error:
        parser.error(str(error))
    wanted = [
        Job(model, size, method, seed)
        for seed in range(seeds)
        for model in asked.models
        for size in asked.sizes
        for method in asked.only
    ]
    found = [known[job] for job in wanted if job in known]
    missing = [job for job in wanted if job not in known]
    for row in tqdm(rows(bench, missing, asked.workers), total=len(missing), unit="row", disable=None):
        found.append(row)
        if asked.json:
            print(json.dumps(row), flush=True)
        else:
            print(
                f"{row['model']} at {row['size']}, {row['method']}, seed {row['seed']}: {row['test']:.3f}", flush=True
            )
    if asked.json:
        print(json.dumps({"promises": promises(found)}))
        return
    print("\n".join(["", *table(found), ""]))
    for promise in promises(found):
        print(json.dumps(promise))


if __name__ == "__main__":
    main()
