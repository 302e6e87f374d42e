"""Is a search worth its time? Accuracy at equal size: found networks against what costs nothing to find.

A fixed part of CIFAR-10's training images, the same training for every network (from fresh weights, same epochs),
scored on the 10,000 test images. Each row is written when it is done; started again, it goes on where it was.

    python -m benchmarks.accuracy_at_size cifar10.zip                  # 2.5 hours on two cores
    python -m benchmarks.accuracy_at_size cifar10.zip --quick          # 10 minutes: shows that it works, proves nothing
    python -m benchmarks.accuracy_at_size cifar10.zip --only ours random --sizes 30%   # some of it
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
import statistics
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import contenders
from nasengine import config, data, device, train
from nasengine.agreement import agreement
from nasengine.architecture import lowered
from nasengine.cache import whole
from nasengine.config import SearchConfig, parse
from nasengine.events import ResultReady
from nasengine.outlook import plan_of
from nasengine.packing import Packed, load
from nasengine.retraining import Retraining
from nasengine.search import RESULT, search

SIZES, MIDDLE = ("5%", "10%", "30%"), "10%"
OPERATIONS_ONLY = "30%"
"""Operations alone cannot shrink this space to less than a fifth."""
CANDIDATES = [name for name in config.CANDIDATES if name != "dil_conv_5x5"]
"""Without the one whose backward pass takes a third of all time on a CPU."""
SEARCHES: dict[str, dict[str, dict[str, Any]]] = {
    "ours": {},
    "operations only": {"strategy": {"granularities": ["operation"]}},
    "filters and weights only": {"strategy": {"granularities": ["filter", "weight"]}},
    "fixed ratios": {"strategy": {"ratios": "equal"}},
    "no regrowth": {"strategy": {"regrow_fraction": 0.0}},
    "one stage": {"strategy": {"cuts": []}},
    "inherited weights": {"retrain": {"start": "inherit"}},
}
"""Ways to search, as changes to the configuration. The last is trained longer than all others: by the search."""
RIVALS = tuple(contenders.CONTENDERS)
ABLATIONS = tuple(name for name in SEARCHES if name not in ("ours", "inherited weights"))


@dataclass(frozen=True)
class Setting:
    """What is the same for every network of a table."""

    train: int = 5000
    validation: int = 500
    test: int = 10_000
    search_epochs: int = 12
    retrain_epochs: int = 12

    def config(self, images: Path, job: Job) -> SearchConfig:
        """The configuration of a search; of it, a network that is not searched for uses images and training only."""
        changes = SEARCHES.get(job.contender, {})
        return parse(
            {
                "seed": job.seed,
                "data": {"dataset": "zip", "path": str(images)},
                "space": {"kind": "cells", "candidates": CANDIDATES},
                "target": {"metric": job.metric, "value": job.size},
                "search": {"epochs": self.search_epochs},
                "strategy": changes.get("strategy", {}),
                "retrain": {
                    "epochs": self.retrain_epochs,
                    "start": "scratch",
                    "lr": 0.05,
                    **changes.get("retrain", {}),
                },
            }
        )


QUICK = Setting(train=600, validation=100, test=1000, search_epochs=8, retrain_epochs=6)


@dataclass(frozen=True, order=True)
class Job:
    """One network to find and train."""

    metric: str
    size: str
    contender: str
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.contender}-{self.size}-{self.metric}-{self.seed}".replace(" ", "_").replace("%", "")


def ablated(name: str) -> str:
    """The size at which a changed search is compared with ours."""
    return OPERATIONS_ONLY if name == "operations only" else MIDDLE


def jobs(seeds: int, sizes: Sequence[str], only: Sequence[str]) -> list[Job]:
    """All rows of the table, those of the middle size first."""
    found = []
    for seed in range(seeds):
        for size in sorted(sizes, key=lambda size: size != MIDDLE):
            names = ["ours", *RIVALS, *(name for name in SEARCHES if name != "ours" and size == ablated(name))]
            found += [Job("params", size, name, seed) for name in names]
        if MIDDLE in sizes:
            found += [Job("macs", MIDDLE, name, seed) for name in ("ours", "random", "ResNet")]
    return [job for job in found if not only or job.contender in only]


def images(archive: Path, folder: Path, setting: Setting) -> Path:
    """A zip with the first images of each class of `archive`, as train, validation and test; always the same ones."""
    path = folder / "images.zip"
    if path.exists():
        return path
    with zipfile.ZipFile(archive) as source, whole(path) as file, zipfile.ZipFile(file, "w") as target:
        members: dict[tuple[str, str], list[str]] = {}
        for name in sorted(source.namelist()):
            *_, part, label, _image = ["", "", *name.split("/")]
            if part in ("train", "test") and not name.endswith("/"):
                members.setdefault((part, label), []).append(name)
        classes = len({label for _, label in members})
        for (part, label), names in members.items():
            train, held = setting.train // classes, setting.validation // classes
            own = {"train": names[:train], "validation": names[train : train + held]}
            if part == "test":
                own = {"test": names[: setting.test // classes]}
            for split, chosen in own.items():
                for name in chosen:
                    target.writestr(f"{split}/{label}/{name.rsplit('/', 1)[-1]}", source.read(name))
    return path


def run(job: Job, folder: Path, setting: Setting) -> dict[str, Any]:
    """Finds and trains one network; returns its row."""
    asked = setting.config(folder / "images.zip", job)
    made = _searched if job.contender in SEARCHES else _built
    started = time.process_time()
    row = {**asdict(job), **made(job, asked, folder), "seconds": round(time.process_time() - started, 1)}
    with whole(folder / f"{job.name}.json") as file:
        file.write(json.dumps(row).encode())
    return row


def _searched(job: Job, asked: SearchConfig, folder: Path) -> dict[str, Any]:
    (report,) = (event.report for event in search(asked, folder / "runs" / job.name) if isinstance(event, ResultReady))
    result = folder / "runs" / job.name / RESULT
    found = json.loads((result / "architecture.json").read_text())
    return {
        "target": report["target"]["value"],
        "params": report["achieved"]["params"],
        "macs": report["achieved"]["macs"],
        "test": report["accuracy"]["test"],
        "search_seconds": report["seconds"]["search"],
        "network": {"kept": found["kept"], "layers": found["layers"]},
    }


def _built(job: Job, asked: SearchConfig, folder: Path) -> dict[str, Any]:
    packed = _packed(asked)
    plan = plan_of(asked, packed.facts)
    target = asked.target.resolved(lowered(plan, {}).size(job.metric))
    with device.deterministic(1):
        shown = data.images(packed, asked.data, job.seed, "cpu")
        header = {"classes": shown.class_names, "mean": shown.mean, "std": shown.std}
        network, masks, sizes = contenders.CONTENDERS[job.contender](plan, header, job.metric, target, job.seed)
        feed = train.Feeds.of(shown, asked.search.batch(len(shown.train)), job.seed, 0.0).all
        trained = Retraining(
            network, masks, feed=feed, plan=asked.retrain, precision="fp32",
            stream=device.generator("cpu", job.seed, "retrain", 0), key=0,
        )  # fmt: skip
        for epoch in range(asked.retrain.epochs):
            for _ in trained.steps(epoch, 0, train.Meter()):
                pass
        accuracy = train.evaluated(network, shown.open_test(), shown)["accuracy"]
    return {"target": target, **sizes, "test": accuracy}


def _packed(asked: SearchConfig) -> Packed:
    steps = load(asked.data)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def rows(folder: Path, wanted: Sequence[Job], setting: Setting, workers: int) -> Iterator[dict[str, Any]]:
    """Rows that are there, then the others as they are done."""
    missing = []
    for job in wanted:
        path = folder / f"{job.name}.json"
        if path.exists():
            yield json.loads(path.read_text())
        else:
            missing.append(job)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(run, job, folder, setting) for job in missing]):
            yield done.result()


OUTCOMES = {
    (True, False): "beats ours by more than the spread",
    (False, True): "is beaten by more than the spread",
    (False, False): "differs from ours by less than the spread",
}


# -- the table ------------------------------------------------------------------------------------------------------


def mean_and_spread(found: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Mean and standard deviation of the rows' accuracies, in points; no deviation of a single one."""
    values = [100 * row["test"] for row in found]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def beats(ours: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the means differ by more than the spread: the deviation of a difference of two networks, one of each."""
    (a, s), (b, t) = mean_and_spread(ours), mean_and_spread(other)
    return a - b > math.hypot(s, t)


def table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown: a line for each contender at each size."""
    lines = [
        "| size | network | parameters | multiply-adds | accuracy of each seed | mean ± spread |",
        "|---|---|---|---|---|---|",
    ]
    for (metric, size, contender), group in _grouped(found).items():
        mean, spread = mean_and_spread(group)
        each = ", ".join(f"{100 * row['test']:.1f}" for row in group)
        params, macs = (round(statistics.fmean(row[name] for row in group)) for name in ("params", "macs"))
        of = "parameters" if metric == "params" else "multiply-adds"
        lines.append(f"| {size} of {of} | {contender} | {params:,} | {macs:,} | {each} | {mean:.1f} ± {spread:.1f} |")
    return lines


def promises(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each promise: kept, or not."""
    groups = _grouped(found)
    lines = []
    for rival in RIVALS:
        sizes = [
            size for metric, size, name in groups
            if metric == "params" and name == rival and ("params", size, "ours") in groups
        ]  # fmt: skip
        won = [size for size in sizes if beats(groups["params", size, "ours"], groups["params", size, rival])]
        lines.append(f"beats {rival} by more than the spread at {len(won)} of {len(sizes)} sizes (promised: 2 of 3)")
    for name in ABLATIONS:
        ours, other = (groups.get(("params", ablated(name), who)) for who in ("ours", name))
        if ours and other:
            lines.append(f"'{name}' {OUTCOMES[beats(other, ours), beats(ours, other)]} (promised: none beats it)")
    return lines


def agreements(found: Sequence[Mapping[str, Any]], folder: Path, setting: Setting) -> dict[str, Any]:
    """For each size, how far the seeds of one kind of search keep the same units."""
    values = {}
    for (metric, size, contender), group in _grouped(found).items():
        networks = [row["network"] for row in group if "network" in row]
        if len(networks) > 1:
            asked = setting.config(folder / "images.zip", Job(metric, size, contender, 0))
            plan = plan_of(asked, _packed(asked).facts)
            values[f"{contender}, {size} of {metric}"] = agreement(plan, networks)
    return values


def _grouped(found: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str], list[Mapping[str, Any]]]:
    order = ["ours", *RIVALS, *ABLATIONS, "inherited weights"]
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in sorted(
        found,
        key=lambda row: (
            row["metric"] != "params",
            SIZES.index(row["size"]),
            order.index(row["contender"]),
            row["seed"],
        ),
    ):
        groups.setdefault((row["metric"], row["size"], row["contender"]), []).append(row)
    return groups


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="CIFAR-10 as a zip of train/ and test/ with a folder for each class")
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy_at_size"), help="rows and searches")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sizes", nargs="+", default=SIZES, choices=SIZES)
    parser.add_argument("--only", nargs="+", default=(), choices=(*SEARCHES, *RIVALS))
    parser.add_argument("--workers", type=int, default=2, help="networks at a time, one thread each")
    parser.add_argument("--quick", action="store_true", help="few images and epochs, one seed, the middle size")
    parser.add_argument("--json", action="store_true", help="one JSON object a row instead of the table")
    asked = parser.parse_args()
    setting, seeds, sizes = (
        (QUICK, 1, (MIDDLE, OPERATIONS_ONLY)) if asked.quick else (Setting(), asked.seeds, asked.sizes)
    )
    key = hashlib.sha256(repr(setting).encode()).hexdigest()[:8]
    folder = asked.out / key
    folder.mkdir(parents=True, exist_ok=True)
    images(asked.archive, folder, setting)
    found = []
    for row in rows(folder, jobs(seeds, sizes, asked.only), setting, asked.workers):
        found.append(row)
        if asked.json:
            print(json.dumps({name: value for name, value in row.items() if name != "network"}), flush=True)
        else:
            print(
                f"{row['contender']}, {row['size']} of {row['metric']}, seed {row['seed']}: {row['test']:.3f}",
                flush=True,
            )
    agreed = agreements(found, folder, setting)
    if asked.json:
        print(json.dumps({"agreement": agreed, "promises": promises(found)}))
        return
    print("\n".join(["", *table(found), "", *promises(found), "", json.dumps(agreed, indent=1)]))


if __name__ == "__main__":
    main()
