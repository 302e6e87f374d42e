"""The same search with several seeds: how far they agree, and how far apart their networks are."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nasengine.agreement import agreement
from nasengine.cache import whole
from nasengine.config import HIGHEST_SEED, SearchConfig
from nasengine.control import Control
from nasengine.errors import ConfigError, EngineError, Interrupted
from nasengine.events import Event, ResultReady
from nasengine.outlook import plan_of
from nasengine.run_folder import RESULT
from nasengine.search import search
from nasengine.splits import DataFacts
from nasengine.verdict import verdict_of_seeds

REPORT = "report.json"


def repeated(
    config: SearchConfig, folder: Path, seeds: int, *, fresh: bool = False, control: Control | None = None
) -> Iterator[Event | dict[str, Any]]:
    """Searches with at least two seeds, from the configuration's on, each in a folder of its own, then reports.

    Yields:
        the events of each search, and at last what ``report.json`` says: `seeds` with what each found, `accuracy` with
        `mean` and `spread` (standard deviation) on the test images, `baseline` against the random networks of all of
        them (if there are any), `agreement` of what they keep.

    Raises:
        as `search` does; the message names the seed. Started again, it goes on where it was.
    """
    if config.seed + seeds - 1 > HIGHEST_SEED:
        raise ConfigError.at("seed", f"{seeds} seeds from {config.seed} on end above {HIGHEST_SEED}; give a lower one")
    (folder / REPORT).unlink(missing_ok=True)
    reports, networks = [], []
    for seed in range(config.seed, config.seed + seeds):
        own = folder / f"seed-{seed}"
        try:
            for event in search(config.model_copy(update={"seed": seed}), own, fresh=fresh, control=control):
                yield event
                if isinstance(event, ResultReady) and event.folder == RESULT:
                    reports.append(event.report)
        except (ConfigError, Interrupted):
            raise
        except EngineError as error:
            raise type(error)(f"seed {seed}: {error}") from error
        networks.append(json.loads((own / RESULT / "architecture.json").read_text()))
    together = combined(reports, inherited=config.retrain.start == "inherit")
    together["agreement"] = agreement(plan_of(config, _facts(networks[0])), networks)
    with whole(folder / REPORT) as file:
        file.write(json.dumps(together, indent=1).encode())
    yield {"ok": True, "folder": str(folder), **together}


def combined(reports: Sequence[Mapping[str, Any]], *, inherited: bool) -> dict[str, Any]:
    """What several reports say together."""
    tests = [report["accuracy"]["test"] for report in reports]
    pairs = [
        (report["accuracy"]["test"], [network["test"] for network in report["baseline"]["random"]])
        for report in reports
        if report["baseline"]
    ]
    images = reports[0]["data"]["splits"]["test"]
    return {
        "target": reports[0]["target"],
        "limits": reports[0]["limits"],
        "seeds": [
            {
                "seed": report["seed"],
                "folder": f"seed-{report['seed']}",
                "params": report["achieved"]["params"],
                "macs": report["achieved"]["macs"],
                "validation": report["accuracy"]["validation"],
                "test": report["accuracy"]["test"],
            }
            for report in reports
        ],
        "accuracy": {"mean": statistics.fmean(tests), "spread": statistics.stdev(tests)},
        "baseline": verdict_of_seeds(pairs, images, inherited=inherited) if len(pairs) > 1 else None,
    }


def _facts(network: Mapping[str, Any]) -> DataFacts:
    """What a plan needs to know of the images that a network was made for."""
    return DataFacts(name="", channels=len(network["mean"]), class_names=tuple(network["classes"]), given={})
