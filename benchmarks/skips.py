"""Does noise on skips keep MSG-DAS from finding too many of them? Searches with it (keep 0.8 at first) and without (1).

A fixed part of CIFAR-10, operations alone, no retraining. Each row is written when it is done; started again, it goes
on where it was.

    python -m benchmarks.skips cifar10.zip                # 10 searches, 40 minutes on one idle core
    python -m benchmarks.skips cifar10.zip --seeds 1      # two of them
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.accuracy_at_size import CANDIDATES, chosen_images, each_done
from nasengine.cache import whole
from nasengine.config import SearchConfig, parse
from nasengine.errors import ConfigError
from nasengine.events import CandidatesDrawn, ResultReady, SearchStarted
from nasengine.run_folder import RESULT
from nasengine.search import search

KEEPS = (0.8, 1.0)
"""Share of a skip's values that training leaves at first: with noise, and without."""
MEASURES = {"leading": "connections that a skip leads", "kept": "kept operations that are skips"}
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Setting:
    """What is the same for every search."""

    train: int = 2500
    validation: int = 500
    test: int = 100
    epochs: int = 12
    target: str = "50%"
    """Above what one operation a connection takes on average, so that size has no say in what leads."""

    @property
    def images(self) -> tuple[int, int, int]:
        """In train, validation and test."""
        return self.train, self.validation, self.test


@dataclass(frozen=True)
class Job:
    """One search."""

    keep: float
    seed: int


@dataclass(frozen=True)
class Bench:
    """What searches are made of: the setting, and the zip of its images."""

    setting: Setting
    images: Path

    def config(self, job: Job) -> SearchConfig:
        return parse(
            {
                "seed": job.seed,
                "data": {"dataset": "zip", "path": str(self.images)},
                "space": {"kind": "cells", "candidates": CANDIDATES},
                "strategy": {"kind": "msgdas", "then": "nothing", "keep_start": job.keep},
                "target": {"value": self.setting.target},
                "search": {"epochs": self.setting.epochs},
                "retrain": {"epochs": 0},
                "runtime": {"device": "cpu", "threads": 1},
            }
        )


def run(job: Job, bench: Bench) -> dict[str, Any]:
    """The row of one search."""
    with tempfile.TemporaryDirectory() as folder:
        said = list(search(bench.config(job), Path(folder)))
        kept = json.loads((Path(folder) / RESULT / "architecture.json").read_text())["kept"]
    started = next(event for event in said if isinstance(event, SearchStarted))
    drawn = [event for event in said if isinstance(event, CandidatesDrawn)][-1]
    report = next(event.report for event in said if isinstance(event, ResultReady))
    labels = {str(choice["name"]): choice["labels"] for choice in started.choices}
    is_skip = {
        (name, unit): str(label).endswith("skip_connect")
        for name in drawn.edges
        for unit, label in enumerate(labels[name])  # type: ignore[arg-type]
    }
    shares = {name: base64.b64decode(packed) for name, packed in drawn.shares.items()}
    edges = [(name, edge) for name, found in drawn.edges.items() for edge in found]
    leading = [is_skip[name, max(edge, key=shares[name].__getitem__)] for name, edge in edges]
    return {
        **asdict(job),
        "setting": asdict(bench.setting),
        "leading": statistics.fmean(leading),
        "kept": statistics.fmean(is_skip[name, unit] for name in drawn.edges for unit in kept[name]),
        "validation": report["accuracy"]["validation"],
        "params": report["achieved"]["params"],
        "seconds": report["seconds"]["search"],
    }


def known(path: Path, setting: Setting) -> dict[Job, dict[str, Any]]:
    """Rows of earlier runs of the same setting."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [row for row in map(json.loads, lines) if row["setting"] == asdict(setting)]
    return {Job(row["keep"], row["seed"]): row for row in rows}


def table(found: Rows) -> list[str]:
    """Markdown: a line for each measure with noise and without."""
    lines = ["| | keep at first | each seed | mean ± spread |", "|---|---|---|---|"]
    for measure, words in {**MEASURES, "validation": "validation accuracy"}.items():
        for keep in KEEPS:
            rows = sorted((row for row in found if row["keep"] == keep), key=lambda row: row["seed"])
            values = [100 * row[measure] for row in rows]
            if values:
                spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
                each = ", ".join(f"{value:.1f}" for value in values)
                lines.append(f"| {words}, % | {keep:g} | {each} | {statistics.fmean(values):.1f}{spread} |")
    return lines


def differences(found: Rows) -> list[str]:
    """Of each measure, with noise less without, seed by seed, in points: whether it is more than its standard error."""
    said = []
    for measure, words in {**MEASURES, "validation": "validation accuracy"}.items():
        by = {(row["keep"], row["seed"]): 100 * row[measure] for row in found}
        seeds = [seed for keep, seed in by if keep == KEEPS[0] and (KEEPS[1], seed) in by]
        apart = [by[KEEPS[0], seed] - by[KEEPS[1], seed] for seed in seeds]
        if len(apart) > 1:
            error = statistics.stdev(apart) / math.sqrt(len(apart))
            said.append(f"{words}: {statistics.fmean(apart):+.1f} points with noise, standard error {error:.1f}")
    return said


def main(arguments: Sequence[str] | None = None, setting: Setting | None = None) -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="CIFAR-10 as a zip of train/ and test/ with a folder for each class")
    parser.add_argument("--out", type=Path, default=Path("runs/skips.jsonl"), help="rows, one JSON object a line")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1, help="searches at a time, one thread each")
    asked = parser.parse_args(arguments)
    setting = setting or Setting()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    rows = known(asked.out, setting)
    wanted = [Job(keep, seed) for seed in range(asked.seeds) for keep in KEEPS]
    missing = [job for job in wanted if job not in rows]
    images = asked.out.with_suffix(".zip")
    try:
        with whole(images) as file:
            chosen_images(asked.archive, file, setting)
    except (ConfigError, OSError) as error:
        parser.error(str(error))
    with asked.out.open("a") as lines:
        made = each_done(run, Bench(setting, images), missing, asked.workers)
        for row in tqdm(made, total=len(missing), unit="search", disable=None):  # on a terminal
            rows[Job(row["keep"], row["seed"])] = row
            lines.write(f"{json.dumps(row)}\n")
            lines.flush()
    found = [rows[job] for job in wanted]
    print("\n".join([*table(found), "", *differences(found)]))


if __name__ == "__main__":
    main()
