"""The same search with several seeds: how far they agree, and how far apart their networks are."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nasengine.agreement import agreement
from nasengine.cache import whole
from nasengine.config import SearchConfig
from nasengine.control import Control
from nasengine.events import Event, ResultReady
from nasengine.outlook import plan_of
from nasengine.search import RESULT, search
from nasengine.splits import DataFacts
from nasengine.verdict import verdict


def repeated(
    config: SearchConfig, folder: Path, seeds: int, *, fresh: bool = False, control: Control | None = None
) -> Iterator[Event | dict[str, Any]]:
    """Searches with so many seeds, from the configuration's on, each in a folder of its own; then ``report.json``.

    Yields:
        the events of each search, and at last the common report: `seeds` with what each found, `accuracy` with `mean`
        and `spread` (standard deviation) on the test images, `baseline` against the random networks of all of them,
        `agreement` of what they keep.

    Raises:
        as `search` does; started again, it goes on where it was.
    """
    reports, networks = [], []
    for seed in range(config.seed, config.seed + seeds):
        own = folder / f"seed-{seed}"
        for event in search(config.model_copy(update={"seed": seed}), own, fresh=fresh, control=control):
            yield event
            if isinstance(event, ResultReady) and event.folder == RESULT:
                reports.append(event.report)
        networks.append(json.loads((own / RESULT / "architecture.json").read_text()))
    plan = plan_of(
        config,
        DataFacts(name="", channels=len(networks[0]["mean"]), class_names=tuple(networks[0]["classes"]), given={}),
    )
    together = combined(reports, inherited=config.retrain.start == "inherit") | {"agreement": agreement(plan, networks)}
    with whole(folder / "report.json") as file:
        file.write(json.dumps(together, indent=1).encode())
    yield {"ok": True, "folder": str(folder), **together}


def combined(reports: Sequence[Mapping[str, Any]], *, inherited: bool) -> dict[str, Any]:
    """What several reports say together."""
    tests = [report["accuracy"]["test"] for report in reports]
    random = [network["test"] for report in reports for network in (report["baseline"] or {"random": []})["random"]]
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
        "baseline": verdict(tests, random, images, inherited=inherited) if random else None,
    }
