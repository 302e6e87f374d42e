"""Does a rating rank networks as training them does? Kendall's tau of both, beside what costs nothing.

A small chain of which every network is trained alone, from fresh weights, with two seeds. Against its accuracy stand:
the sum of its blocks' ratings (DNA), its parameters and multiply-adds, its accuracy with the weights of a super-net
trained as a whole by single paths; and as ceilings the accuracy of another seed, and the best sum of a number for each
candidate of each block. The interval is of a bootstrap over networks. Rows are written as they are done.

    python -m benchmarks.rating cifar10.zip                  # 75 minutes of one core
    python -m benchmarks.rating cifar10.zip --networks 12 --epochs 2 --seeds 2    # shows that it works, proves nothing
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau
from tqdm import tqdm

from benchmarks.accuracy_at_size import Setting, chosen_images, each_done
from nasengine import data, device, train
from nasengine.architecture import Plan, lowered
from nasengine.blocks import Block, divided, rungs
from nasengine.cache import whole
from nasengine.compact import built
from nasengine.config import SearchConfig, parse
from nasengine.errors import ConfigError
from nasengine.events import BlockRated
from nasengine.outlook import batch_size, plan_of
from nasengine.packing import loaded
from nasengine.retraining import Retraining
from nasengine.search import search
from nasengine.supernet import SubGraph, Supernet

SAMPLES = 2000
"""Of the bootstrap."""
LIKELY = (0.025, 0.975)
Path_ = tuple[tuple[int, ...], ...]
"""Of each block, the places of a candidate's options."""


@dataclass(frozen=True)
class Bench:
    """What is the same for all rows."""

    folder: Path
    images: Path
    epochs: int
    search_epochs: int

    def config(self, seed: int) -> SearchConfig:
        """Of the search that rates; the space and the images of all."""
        return parse(
            {
                "seed": seed,
                "data": {"dataset": "zip", "path": str(self.images)},
                "space": {
                    "kind": "chain", "layers": 6, "channels": 8, "kernels": (3, 5), "expansions": (3,),
                    "reductions": (2, 4),
                },
                "strategy": {"kind": "dna", "teacher_epochs": self.epochs},
                "target": {"metric": "params", "value": "100%"},
                "search": {"epochs": self.search_epochs},
                "retrain": {"epochs": 1, "start": "scratch"},
            }
        )  # fmt: skip

    def blocks(self) -> tuple[Plan, list[Block]]:
        """The space, cut."""
        config = self.config(0)
        plan = plan_of(config, loaded(config.data).facts)
        return plan, divided(plan, config.strategy.ends(config.space))


@dataclass(frozen=True, order=True)
class Job:
    """A network to be trained alone; without a path, the search and the super-net of a seed."""

    seed: int
    path: Path_ = ()

    @property
    def name(self) -> str:
        """Of its file."""
        places = "".join(str(place) for block in self.path for place in block)
        return f"{self.seed}-{places or 'rated'}.json"


def networks(blocks: Sequence[Block]) -> list[Path_]:
    """All of the space."""
    return list(itertools.product(*(list(block.paths()) for block in blocks)))


def row(job: Job, bench: Bench) -> dict[str, Any]:
    """What is known of a job, computed once."""
    place = bench.folder / job.name
    if place.exists():
        return json.loads(place.read_text())
    with device.deterministic(1):
        found = {**asdict(job), **(_alone(job, bench) if job.path else _shared(job, bench))}
    with whole(place) as file:
        file.write(json.dumps(found).encode())
    return found


def _units(blocks: Sequence[Block], path: Path_) -> dict[str, list[int]]:
    return {name: own for block, part in zip(blocks, path, strict=True) for name, own in block.units(part).items()}


def _alone(job: Job, bench: Bench) -> dict[str, Any]:
    config = bench.config(job.seed)
    plan, blocks = bench.blocks()
    shown = data.images(loaded(config.data), config.data, job.seed, "cpu")
    found = lowered(plan, _units(blocks, job.path))
    network = built({**found.to_json(), "classes": shown.class_names, "mean": shown.mean, "std": shown.std})
    feed = train.Feeds.of(shown, batch_size(config, len(shown.train)), job.seed, 0.0).all
    trained = Retraining(
        network, {}, feed=feed, plan=config.retrain.model_copy(update={"epochs": bench.epochs}), precision="fp32",
        stream=device.generator("cpu", job.seed, job.name), key=job.name,
    )  # fmt: skip
    for epoch in range(bench.epochs):
        for _ in trained.steps(epoch, 0, train.Meter()):
            pass
    return {"accuracy": trained.validated()["accuracy"], "params": found.params, "macs": found.macs}


def _shared(job: Job, bench: Bench) -> dict[str, Any]:
    """Ratings of all candidates, and what all networks answer with the weights of one super-net."""
    config = bench.config(job.seed)
    said = search(config, bench.folder / f"search-{job.seed}", fresh=True)
    ratings = [[rating for _, rating in event.points] for event in said if isinstance(event, BlockRated)]
    return {"ratings": ratings, "single_path": _single_path(config, bench, job.seed)}


def _single_path(config: SearchConfig, bench: Bench, seed: int) -> list[float]:
    """SPOS (arXiv 1904.00420): one path at random a step; then each network with statistics of its own."""
    plan, blocks = bench.blocks()
    shown = data.images(loaded(config.data), config.data, seed, "cpu")
    feed = train.Feeds.of(shown, batch_size(config, len(shown.train)), seed, config.strategy.held_out).learning
    net = Supernet.born(plan, device.generator("cpu", seed, "single path")).train()
    optimizer = train.weights_optimizer(net, config.search.lr, config.search.weight_decay)
    layers = rungs(plan)
    for epoch in range(bench.search_epochs):
        order = feed.order("single path", epoch)
        for step in range(feed.steps):
            choose = random.Random(f"{seed} {epoch} {step}")
            drawn = {(rung.choice, unit) for rung in layers for unit in choose.choice(rung.options)}
            images, labels = feed.batch(order[step], "single path", epoch, step)
            loss = torch.nn.functional.cross_entropy(net(images, sub_graph=SubGraph(drawn=drawn)), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(net.live.values()), train.CLIP)
            optimizer.step()
    plain, _ = feed.plain(128, "calibrate")
    net.forgets, found = 1.0, []
    for path in networks(blocks):
        units = _units(blocks, path)
        graph = SubGraph(drawn={(name, unit) for name, own in units.items() for unit in own})
        with torch.no_grad():
            net.train()(plain, sub_graph=graph)
        net.eval()
        answered = train.evaluated(lambda x, graph=graph: net(x, sub_graph=graph), shown.validation, shown)
        found.append(answered["accuracy"])
    return found


# -- what it says ---------------------------------------------------------------------------------------------------


def taus(score: Sequence[float], accuracy: Sequence[float]) -> tuple[float, float, float]:
    """Kendall's tau, and the interval of a bootstrap over networks in which it lies with a chance of 95 %."""
    a, b = np.array(score), np.array(accuracy)
    draws = np.random.default_rng(0).integers(len(a), size=(SAMPLES, len(a)))
    spread = [float(kendalltau(a[draw], b[draw]).statistic) for draw in draws]
    known = [tau for tau in spread if not math.isnan(tau)]
    low, high = np.quantile(known, LIKELY) if known else (math.nan, math.nan)
    return float(kendalltau(a, b).statistic), float(low), float(high)


def additive(paths: Sequence[Path_], accuracy: Sequence[float]) -> list[float]:
    """The best sum of a number for each candidate of each block, by least squares."""
    columns = sorted({(number, part) for path in paths for number, part in enumerate(path)})
    matrix = np.array([[float(path[number] == part) for number, part in columns] for path in paths])
    fitted, *_ = np.linalg.lstsq(matrix, np.array(accuracy), rcond=None)
    return (matrix @ fitted).tolist()


def compared(rows: Sequence[Mapping[str, Any]], blocks: Sequence[Block]) -> dict[str, tuple[float, float, float]]:
    """Who ranks -> tau with the mean accuracy of all seeds, and its interval."""
    seeds = sorted({row["seed"] for row in rows})
    alone: dict[Path_, dict[int, Mapping[str, Any]]] = {}
    for one in rows:
        if one["path"]:
            alone.setdefault(_path(one["path"]), {})[one["seed"]] = one
    paths = sorted(path for path, found in alone.items() if len(found) == len(seeds))
    accuracy = [sum(alone[path][seed]["accuracy"] for seed in seeds) / len(seeds) for path in paths]
    order = {path: number for number, path in enumerate(networks(blocks))}
    places = [{part: at for at, part in enumerate(block.paths())} for block in blocks]
    found: dict[str, tuple[float, float, float]] = {}
    for one in (row for row in rows if not row["path"]):
        sums = [
            sum(ratings[place[part]] for ratings, place, part in zip(one["ratings"], places, path, strict=True))
            for path in paths
        ]
        found[f"DNA's rating, seed {one['seed']}"] = taus([-value for value in sums], accuracy)
        shared = [one["single_path"][order[path]] for path in paths]
        found[f"single-path super-net, seed {one['seed']}"] = taus(shared, accuracy)
    for cost in ("params", "macs"):
        found[cost] = taus([alone[path][seeds[0]][cost] for path in paths], accuracy)
    if len(seeds) > 1:
        pair = [[alone[path][seed]["accuracy"] for path in paths] for seed in seeds[:2]]
        found["one seed against another (ceiling)"] = taus(*pair)
    found["best sum over blocks (ceiling)"] = taus(additive(paths, accuracy), accuracy)
    return found


def _path(path: Any) -> Path_:
    return tuple(tuple(part) for part in path)


def table(found: Mapping[str, tuple[float, float, float]]) -> Iterator[str]:
    """Markdown, and whether the promise is kept: above zero for sure, and above what the cost alone says."""
    yield "| ranked by | Kendall's tau | 95 % of a bootstrap |"
    yield "|---|---|---|"
    for name, (tau, low, high) in found.items():
        yield f"| {name} | {tau:.3f} | {low:.3f} to {high:.3f} |"
    cost = max(found[name][0] for name in ("params", "macs"))
    yield ""
    for name, (tau, low, _) in found.items():
        if name.startswith("DNA"):
            kept = "kept" if low > 0 and tau > cost else "missed"
            against = f"{tau:.3f} against {cost:.3f}"
            yield f"{name}: surely above zero ({low:.3f}) and above the better cost ({against}): {kept}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="CIFAR-10 as a zip of train/ and test/ with a folder for each class")
    parser.add_argument("--out", type=Path, default=Path("runs/rating"), help="rows and searches")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--networks", type=int, help="so many at random instead of all")
    parser.add_argument("--epochs", type=int, default=8, help="of each network, and of the teacher")
    parser.add_argument("--search-epochs", type=int, default=36, help="of the search, and of the super-net")
    parser.add_argument("--train", type=int, default=2000, help="images that networks learn from")
    parser.add_argument("--validation", type=int, default=2000, help="images by which they are ranked")
    parser.add_argument("--workers", type=int, default=1, help="networks at a time, one thread each")
    asked = parser.parse_args(arguments)
    folder = asked.out / "-".join(map(str, (asked.train, asked.validation, asked.epochs, asked.search_epochs)))
    folder.mkdir(parents=True, exist_ok=True)
    images = folder / "images.zip"
    try:
        if not images.exists():
            with whole(images) as file:
                chosen_images(asked.archive, file, Setting(train=asked.train, validation=asked.validation, test=10))
        bench = Bench(folder, images, asked.epochs, asked.search_epochs)
        _, blocks = bench.blocks()
    except (ConfigError, OSError) as error:
        parser.error(str(error))
    all_ = networks(blocks)
    some = random.Random(0).sample(all_, len(all_) if asked.networks is None else asked.networks)
    jobs = [Job(seed) for seed in range(asked.seeds)]
    jobs += [Job(seed, path) for path in some for seed in range(asked.seeds)]
    rows = list(tqdm(each_done(row, bench, jobs, asked.workers), total=len(jobs), unit="row", disable=None))
    print("\n".join(table(compared(rows, blocks))))


if __name__ == "__main__":
    main()
