"""Is a search worth its time? Accuracy at equal size: found networks against what costs nothing to find.

A fixed part of CIFAR-10's training images, the same training for every network (from fresh weights, same epochs),
scored on the 10,000 test images. Each row is written when it is done; started again, it goes on where it was.

    python -m benchmarks.accuracy_at_size cifar10.zip                  # 2.5 to 3.5 hours on two cores
    python -m benchmarks.accuracy_at_size cifar10.zip --quick          # 10 minutes: shows that it works, proves nothing
    python -m benchmarks.accuracy_at_size cifar10.zip --only ours random --sizes 30%   # some of it
    python -m benchmarks.accuracy_at_size cifar10.zip --known benchmarks/accuracy_at_size.jsonl   # the rest of it
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
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

import nasengine
from benchmarks import contenders
from nasengine import config, data, device, train
from nasengine.agreement import agreement
from nasengine.architecture import lowered
from nasengine.cache import whole
from nasengine.config import SearchConfig, parse
from nasengine.errors import ConfigError
from nasengine.events import ResultReady
from nasengine.outlook import batch_size, plan_of
from nasengine.packing import loaded
from nasengine.retraining import Retraining
from nasengine.run_folder import RESULT
from nasengine.search import search

SHARE = {"5%": 0.05, "10%": 0.1, "30%": 0.3}
SIZES, MIDDLE = tuple(SHARE), "10%"
FULL = 82_350
"""Parameters of the whole space of cells, which a test counts."""
OPERATIONS_ONLY = "30%"
"""Operations alone cannot shrink this space to less than a fifth."""
CANDIDATES = [name for name in config.CANDIDATES if name != "dil_conv_5x5"]
"""Without the one whose backward pass takes a third of all time on a CPU."""
CIFAR = "give CIFAR-10 as a zip of train/ and test/ with a folder of images for each class"
SEARCHES: dict[str, dict[str, dict[str, Any]]] = {
    "ours": {},
    "operations only": {"strategy": {"granularities": ["operation"]}},
    "filters and weights only": {"strategy": {"granularities": ["filter", "weight"]}},
    "fixed ratios": {"strategy": {"ratios": "equal"}},
    "no regrowth": {"strategy": {"regrow_fraction": 0.0}},
    "one stage": {"strategy": {"cuts": []}},
    "DMS": {"strategy": {"kind": "dms"}},
    "MSG-DAS": {"strategy": {"kind": "msgdas", "then": "mgas"}},
    "DNA": {"strategy": {"kind": "dna"}, "space": {"kind": "chain", "layers": 6, "reductions": (2, 4)}},
    "inherited weights": {"retrain": {"start": "inherit"}},
}
"""Ways to search, as changes to the configuration. The last is trained longer than all others: by the search."""
METHODS = ("DMS", "MSG-DAS", "DNA")
"""The other methods, compared at every size."""
CHAINS = {"5%": 4, "10%": 6, "30%": 8}
"""Channels of the chain that DNA searches instead of cells: such that a size is a fifth to two fifths of the largest
network."""
BESIDE = (*METHODS, "inherited weights")
"""Of these nothing is promised."""
ENOUGH = 2
"""Sizes at which ours must win."""
RIVALS = tuple(contenders.CONTENDERS)
Rows = Sequence[Mapping[str, Any]]
ABLATIONS = tuple(name for name in SEARCHES if name not in ("ours", *BESIDE))


@dataclass(frozen=True)
class Setting:
    """What is the same for every network of a table."""

    train: int = 5000
    validation: int = 500
    test: int = 10_000
    search_epochs: int = 12
    retrain_epochs: int = 12

    @property
    def images(self) -> tuple[int, int, int]:
        """In train, validation and test."""
        return self.train, self.validation, self.test

    def config(self, images: Path, job: Job) -> SearchConfig:
        """The configuration of a search; of it, a network that is not searched for uses images and training only."""
        changes = SEARCHES.get(job.contender, {})
        space: dict[str, Any] = {"kind": "cells", "candidates": CANDIDATES}
        size: str | int = job.size
        epochs = self.search_epochs
        if "space" in changes:  # as many parameters as that share of the cells
            size = int(SHARE[job.size] * FULL)
            space = {**changes["space"], "channels": CHAINS[job.size]}
            epochs *= len(space["reductions"]) + 1  # an epoch is of one block
        return parse(
            {
                "seed": job.seed,
                "data": {"dataset": "zip", "path": str(images)},
                "space": space,
                "target": {"metric": job.metric, "value": size},
                "search": {"epochs": epochs},
                "strategy": changes.get("strategy", {}),
                "retrain": {
                    "epochs": self.retrain_epochs,
                    "start": "scratch",
                    "lr": 0.05,
                    **changes.get("retrain", {}),
                },
            }
        )


QUICK = Setting(train=400, validation=100, test=1000, search_epochs=8, retrain_epochs=4)


@dataclass(frozen=True, order=True)
class Job:
    """One network to find and train."""

    metric: str
    size: str
    contender: str
    seed: int


def ablated(name: str) -> str:
    """The size at which a changed search is compared with ours."""
    return OPERATIONS_ONLY if name == "operations only" else MIDDLE


def jobs(seeds: int, sizes: Sequence[str], only: Sequence[str]) -> list[Job]:
    """All rows of the table, those of the middle size first."""
    found = []
    for seed in range(seeds):
        for size in sorted(sizes, key=lambda size: size != MIDDLE):
            others = [name for name in SEARCHES if name != "ours" and (name in METHODS or size == ablated(name))]
            found += [Job("params", size, name, seed) for name in ("ours", *RIVALS, *others)]
        if MIDDLE in sizes:
            found += [Job("macs", MIDDLE, name, seed) for name in ("ours", "random", "ResNet")]
    return [job for job in found if not only or job.contender in only]


@dataclass(frozen=True)
class Bench:
    """Where rows lie, and what they are made from.

    Attributes:
        images: the zip of `chosen_images`.
        code: tells this code from any other; rows of other code are made again.
    """

    folder: Path
    setting: Setting
    images: Path
    code: str

    @classmethod
    def of(cls, archive: Path, folder: Path, setting: Setting) -> Bench:
        """Chooses the images, unless that was done before from this archive."""
        folder.mkdir(parents=True, exist_ok=True)
        key = _key(_checksum([archive]), repr(setting))
        images = folder / f"images-{key}.zip"
        if not images.exists():
            with whole(images) as file:
                chosen_images(archive, file, setting)
        modules = [*Path(nasengine.__file__).parent.rglob("*.py"), Path(contenders.__file__)]
        return cls(folder, setting, images, _key(key, _checksum(sorted(modules))))

    def config(self, job: Job) -> SearchConfig:
        """The configuration of a job's search, or the images and the training of a network that is not searched for."""
        return self.setting.config(self.images, job)

    def place(self, job: Job) -> Path:
        """Of the job's files: a row of another configuration, of other images or of other code lies elsewhere."""
        name = f"{job.contender}-{job.size}-{job.metric}-{job.seed}".replace(" ", "_").replace("%", "")
        asked = self.config(job).model_dump(mode="json", exclude={"data": {"path"}})
        return self.folder / f"{name}-{_key(self.code, json.dumps(asked))}"

    def row(self, job: Job) -> dict[str, Any] | None:
        """The job's row, if it was made before."""
        path = self.place(job).with_suffix(".json")
        return json.loads(path.read_text()) if path.exists() else None


def chosen_images(archive: Path, file: IO[bytes], setting: Setting) -> None:
    """Writes a zip with the first images of each class of `archive`, as train, validation and test; always the same.

    Raises:
        ConfigError: if there are too few, or if it is no zip file, or a damaged one.
    """
    members: dict[tuple[str, str], list[str]] = {}
    try:
        with zipfile.ZipFile(archive) as source, zipfile.ZipFile(file, "w") as target:
            for name in sorted(source.namelist()):
                *_, part, label, image = ["", "", *name.split("/")]
                if part in ("train", "test") and image:
                    members.setdefault((part, label), []).append(name)
            labels = sorted({label for _, label in members})
            train, held, test = (total // max(1, len(labels)) for total in setting.images)
            for label in labels:
                seen, unseen = members.get(("train", label), []), members.get(("test", label), [])
                if len(seen) < train + held or len(unseen) < test:
                    labels = []
                    break
                for split, names in (
                    ("train", seen[:train]),
                    ("validation", seen[train : train + held]),
                    ("test", unseen[:test]),
                ):
                    for name in names:
                        target.writestr(f"{split}/{label}/{name.rsplit('/', 1)[-1]}", source.read(name))
    except (zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError.at("archive", f"{archive} cannot be read ({error}); {CIFAR}") from None
    if not labels:
        raise ConfigError.at("archive", f"{archive} has too few images; {CIFAR}")


def _key(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def _checksum(files: Sequence[Path]) -> str:
    found = hashlib.sha256()
    for path in files:
        found.update(path.read_bytes())
    return found.hexdigest()


# -- one network ----------------------------------------------------------------------------------------------------


def run(job: Job, bench: Bench) -> dict[str, Any]:
    """Finds and trains one network; returns its row, which is then there for good."""
    made = _searched if job.contender in SEARCHES else _built
    started = time.process_time()
    row = {**asdict(job), **made(job, bench), "seconds": round(time.process_time() - started, 1)}
    with whole(bench.place(job).with_suffix(".json")) as file:
        file.write(json.dumps(row).encode())
    return row


def _searched(job: Job, bench: Bench) -> dict[str, Any]:
    place = bench.place(job)
    (report,) = (event.report for event in search(bench.config(job), place) if isinstance(event, ResultReady))
    found = json.loads((place / RESULT / "architecture.json").read_text())
    return {
        "target": report["target"]["value"],
        "params": report["achieved"]["params"],
        "macs": report["achieved"]["macs"],
        "test": report["accuracy"]["test"],
        "search_seconds": report["seconds"]["search"],
        "network": {"kept": found["kept"], "layers": found["layers"]},
    }


def _built(job: Job, bench: Bench) -> dict[str, Any]:
    asked = bench.config(job)
    packed = loaded(asked.data)
    plan = plan_of(asked, packed.facts)
    target = asked.target.resolved(lowered(plan, {}).size(job.metric))
    with device.deterministic(1):
        shown = data.images(packed, asked.data, job.seed, "cpu")
        header = {"classes": shown.class_names, "mean": shown.mean, "std": shown.std}
        network, masks, sizes = contenders.CONTENDERS[job.contender](plan, header, job.metric, target, job.seed)
        feed = train.Feeds.of(shown, batch_size(asked, len(shown.train)), job.seed, 0.0).all
        trained = Retraining(
            network, masks, feed=feed, plan=asked.retrain, precision="fp32",
            stream=device.generator("cpu", job.seed, "retrain", 0), key=0,
        )  # fmt: skip
        for epoch in range(asked.retrain.epochs):
            for _ in trained.steps(epoch, 0, train.Meter()):
                pass
        accuracy = train.evaluated(network, shown.open_test(), shown)["accuracy"]
    return {"target": target, **sizes, "test": accuracy}


def rows(bench: Bench, wanted: Sequence[Job], workers: int) -> Iterator[dict[str, Any]]:
    """Rows that are there, then the others as they are done; the first that fails ends it."""
    found = {job: bench.row(job) for job in wanted}
    yield from (row for row in found.values() if row is not None)
    yield from each_done(run, bench, [job for job, row in found.items() if row is None], workers)


def each_done(make: Callable[[Any, Any], Any], bench: Any, jobs: Sequence[Any], workers: int) -> Iterator[Any]:
    """What `make` of each job and the bench comes to, as it is done, in so many processes; the first fault ends all."""
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            for done in as_completed([pool.submit(make, job, bench) for job in jobs]):
                yield done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


# -- the table ------------------------------------------------------------------------------------------------------


def known_rows(path: Path, kind: type) -> dict[Any, dict[str, Any]]:
    """Rows of earlier runs by their job, a dataclass of this kind; the code may have changed since.

    Raises:
        ConfigError: if a line is no row.
    """
    found = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            found[kind(*(row[part.name] for part in fields(kind)))] = row
            complete = {"test", "params", "macs"} <= row.keys()
        except (ValueError, KeyError, TypeError):
            complete = False
        if not complete:
            raise ConfigError.at(
                "known", f"line {number} of {path} is no row; expected what --json prints, one object a line"
            )
    return found


def mean_and_spread(found: Rows) -> tuple[float, float]:
    """Mean and standard deviation of the rows' accuracies, in points; the deviation of a single one is nan."""
    values = [100 * row["test"] for row in found]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def beats(ours: Rows, other: Rows) -> bool:
    """Whether the means differ by more than the spread: the deviation of a difference of two networks, one of each."""
    (a, s), (b, t) = mean_and_spread(ours), mean_and_spread(other)
    return a - b > math.hypot(s, t)


def table(found: Rows) -> list[str]:
    """Markdown: a line for each contender at each size."""
    lines = [
        "| size | network | parameters | multiply-adds | accuracy of each seed | mean ± spread |",
        "|---|---|---|---|---|---|",
    ]
    for (metric, size, contender), group in _grouped(found).items():
        mean, spread = mean_and_spread(group)
        each = ", ".join(f"{100 * row['test']:.1f}" for row in group)
        params, macs = (_mean(row[name] for row in group) for name in ("params", "macs"))
        of = "parameters" if metric == "params" else "multiply-adds"
        deviation = "" if math.isnan(spread) else f" ± {spread:.1f}"
        lines.append(f"| {size} of {of} | {contender} | {params} | {macs} | {each} | {mean:.1f}{deviation} |")
    return lines


def _mean(values: Iterable[int | None]) -> str:
    known = [value for value in values if value is not None]  # an old row may not have noted it
    return f"{round(statistics.fmean(known)):,}" if known else ""


def promises(found: Rows) -> list[dict[str, Any]]:
    """What is promised, what was found, and whether it is kept; None where nothing can be said.

    Against each rival: ours beats it by more than the spread at two sizes. Of each ablation: it does not beat ours.
    """
    groups = {key: group for key, group in _grouped(found).items() if len(group) > 1}
    said = []
    for rival in RIVALS:
        pairs = [(groups.get(("params", size, "ours")), groups.get(("params", size, rival))) for size in SIZES]
        won = [size for size, (ours, other) in zip(SIZES, pairs, strict=True) if ours and other and beats(ours, other)]
        at = [size for size, (ours, other) in zip(SIZES, pairs, strict=True) if ours and other]
        said.append(
            {
                "promise": f"ours beats {rival} by more than the spread at two sizes",
                "found": f"at {', '.join(won) or 'none'} of {', '.join(at) or 'none'}",
                "kept": None if len(at) < len(SIZES) else len(won) >= ENOUGH,
            }
        )
    for name in ABLATIONS:
        ours, other = (groups.get(("params", ablated(name), who)) for who in ("ours", name))
        if ours and other:
            won, lost = beats(ours, other), beats(other, ours)
            outcome = "beaten by ours" if won else "beats ours" if lost else "the two differ by less than the spread"
            said.append(
                {"promise": f"'{name}' does not beat ours by more than the spread", "found": outcome, "kept": not lost}
            )
    return said


def agreements(found: Rows, bench: Bench) -> dict[str, Any]:
    """For each kind of search, how far its seeds keep the same units."""
    searched = {
        key: group for key, group in _grouped([row for row in found if "network" in row]).items() if len(group) > 1
    }
    if not searched:
        return {}
    facts = loaded(bench.config(Job(*next(iter(searched)), seed=0)).data).facts
    return {
        f"{contender}, {size} of {metric}": agreement(
            plan_of(bench.config(Job(metric, size, contender, seed=0)), facts), [row["network"] for row in group]
        )
        for (metric, size, contender), group in searched.items()
    }


def _grouped(found: Rows) -> dict[tuple[str, str, str], list[Mapping[str, Any]]]:
    order = ["ours", *RIVALS, *ABLATIONS, *BESIDE]
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="CIFAR-10 as a zip of train/ and test/ with a folder for each class")
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy_at_size"), help="rows and searches")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sizes", nargs="+", default=SIZES, choices=SIZES)
    parser.add_argument("--only", nargs="+", default=(), choices=(*SEARCHES, *RIVALS))
    parser.add_argument("--workers", type=int, default=2, help="networks at a time, one thread each")
    parser.add_argument(
        "--quick", action="store_true", help="few images and epochs, and one seed, whatever --seeds says"
    )
    parser.add_argument("--known", type=Path, help="rows of earlier runs, one JSON object a line: not made again")
    parser.add_argument("--json", action="store_true", help="one JSON object a row instead of the table")
    asked = parser.parse_args(arguments)
    setting, seeds = (QUICK, 1) if asked.quick else (Setting(), asked.seeds)
    try:
        bench = Bench.of(asked.archive, asked.out, setting)
        known = known_rows(asked.known, Job) if asked.known else {}
    except (ConfigError, OSError) as error:
        parser.error(str(error))
    wanted = jobs(seeds, asked.sizes, asked.only)
    found = [known[job] for job in wanted if job in known]
    missing = [job for job in wanted if job not in known]
    for row in tqdm(rows(bench, missing, asked.workers), total=len(missing), unit="row", disable=None):  # on a terminal
        found.append(row)
        if asked.json:
            print(json.dumps({name: value for name, value in row.items() if name != "network"}), flush=True)
        else:
            print(
                f"{row['contender']}, {row['size']} of {row['metric']}, seed {row['seed']}: {row['test']:.3f}",
                flush=True,
            )
    agreed, said = agreements(found, bench), promises(found)
    if asked.json:
        print(json.dumps({"agreement": agreed, "promises": said}))
        return
    print("\n".join(["", *table(found), ""]))
    for promise in said:
        kept = {True: "kept", False: "missed", None: "not measured"}[promise["kept"]]
        print(f"{promise['promise']}: {promise['found']} ({kept})")
    print(json.dumps(agreed, indent=1))


if __name__ == "__main__":
    main()
