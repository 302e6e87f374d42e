"""report.json: what was found, how large, how good, made with what."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch

from nasengine import __version__, device, export, parallel, train
from nasengine.architecture import Architecture
from nasengine.compact import Network
from nasengine.config import SearchConfig
from nasengine.data import Images
from nasengine.latency import Timing
from nasengine.outlook import Outlook
from nasengine.sizes import LATENCY, outside, sized
from nasengine.verdict import verdict

ORDINALS = ("first", "second", "third", "fourth", "fifth")
LITTLE = 0.2
"""Of what there is to be known beyond the most frequent class: a teacher that knows less is not worth following."""


def reported(
    config: SearchConfig,
    look: Outlook,
    images: Images,
    found: Architecture,
    network: Network,
    *,
    target: int,
    measured: Mapping[str, Any],
    random: Sequence[Mapping[str, Any]],
    family: Sequence[Mapping[str, Any]],
    parity: Mapping[str, float],
    counts: Mapping[str, Mapping[str, int]],
    seconds: Mapping[str, float],
    where: torch.device,
    judgement: Mapping[str, Any],
    early: Sequence[str] = (),
    teacher: Mapping[str, Any] | None = None,
    lesson: Mapping[str, Any] | None = None,
    rated: Sequence[bool] = (),
    rated_on: int = 0,
    timing: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The report; `achieved.bytes` is filled in when the file is written.

    `network` is trained, on the CPU, in eval mode; `measured` holds its figures, `random` those of random networks;
    `family` holds reports of the search's other networks, each with its `folder`; `counts` holds `pruned`, `regrown`
    and `survived`, each by granularity; `judgement` says what it gets wrong (`mistakes.judged`); `early` names the
    phases that ended early on request; `teacher` holds the figures of the network that taught all others, `lesson` its
    generation and those of the one that blocks learned from while they were searched; `rated` says of each block if its
    candidates were rated, on `rated_on` images; `timing`, where the target is a time, says how it was measured.
    """
    image = images.validation.x[:1].cpu()
    return {
        "name": config.name,
        "method": config.strategy.kind,
        "space": config.space.kind,
        "model": f"{config.space.library}:{config.space.model}" if config.space.kind == "imported" else None,
        "target": {"metric": look.metric, "value": outside(look.metric, target)},
        "limits": dict(look.limits),
        "full_size": outside(look.metric, look.full_size),
        "achieved": {
            "params": export.nonzero(network),
            "params_dense": found.params_dense,
            "macs": found.macs,
            "bytes": 0,
            "bytes_sparse": 0,
            **(
                {"latency_ms": timing["measured_ms"], "latency_device": timing["device"]}
                if timing
                else {
                    "latency_ms": train.latency_ms(network, image.float()),
                    "latency_device": device.label(torch.device("cpu")),
                }
            ),
        },
        "timing": dict(timing) if timing else None,
        "accuracy": {"validation": measured["validation"], "test": measured["test"]},
        "teacher": _teacher(teacher) if teacher else _lesson(config, lesson, measured, images) if lesson else None,
        "rating": _rating(rated, rated_on) if rated else None,
        "baseline": _baseline(measured["test"], random, images, config) if random else None,
        "family": [_member(other) for other in family],
        "parity": dict(parity),
        "pruned": dict(counts["pruned"]),
        "regrown": dict(counts["regrown"]),
        "survived": dict(counts["survived"]),
        "ended_early": list(early),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "peak_memory_mib": round(device.peak_memory_mib(where), 1),
        "seed": config.seed,
        "processes": parallel.world(),
        "versions": versions(config),
        "data": {
            "name": images.facts.name,
            "sha256": images.sha256,
            "splits": {
                "train": len(images.train),
                "validation": len(images.validation),
                "test": len(images.open_test()),
            },
        },
        **judgement,
    }


def timing_told(found: Timing, *, target: int, foretold: int, known: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """How a network's time was measured, what it is worth, and what the guide (`latency.measured`) had said of it."""
    where = known["device"] + (
        f" with {threads} thread{'s' * (threads > 1)}" if known["device"].startswith("CPU") else ""
    )
    sentence = (
        f"One image takes {sized(LATENCY, found.best)} on {where} (undisturbed; the median was "
        f"{sized(LATENCY, found.usual)}), measured when the network was found; the target is "
        f"{sized(LATENCY, target)}, the whole space takes {sized(LATENCY, known['whole'])}. Elsewhere, and beside "
        "other programs, it is another time."
    )
    return {
        "measured_ms": outside(LATENCY, found.best),
        "median_ms": outside(LATENCY, found.usual),
        "foretold_ms": outside(LATENCY, foretold),
        "whole_ms": outside(LATENCY, known["whole"]),
        "guide_error": round(known["error"], 4),
        "device": where,
        "sentence": sentence,
    }


def _teacher(measured: Mapping[str, Any]) -> dict[str, Any]:
    sentence = (
        f"A teacher helped: the whole space was trained first ({measured['params']:,} parameters, "
        f"{100 * measured['test']:.1f} % on the test images), and what is told here learned from its answers, too."
    )
    return {**measured, "sentence": sentence}


def _lesson(
    config: SearchConfig, lesson: Mapping[str, Any], measured: Mapping[str, Any], images: Images
) -> dict[str, Any]:
    """Whom the blocks learned from, and whether that one knew enough."""
    part, known = config.strategy, dict(lesson["measured"])
    if not known:
        whose = f"{part.teacher_model} ({part.teacher_library}), with {_weights(part)}"
        return {"sentence": f"The blocks learned from the maps of {whose}."}
    who = "the largest network of the space"
    if lesson["generation"]:
        who = f"the {ORDINALS[lesson['generation']]} teacher, which is what the one before had found, made wider"
    said = (
        f"The blocks learned from the maps of {who}, trained first ({known['params']:,} parameters, "
        f"{100 * known['accuracy']:.1f} % on the validation images)."
    )
    chance = max(images.validation.y.bincount().tolist()) / len(images.validation)
    if known["accuracy"] < chance + LITTLE * (1 - chance):
        said += (
            f" It knew hardly more than one who always says the same ({100 * chance:.1f} %), so what they learned is "
            "worth little; give it more epochs (Teacher's epochs, strategy.teacher_epochs)."
        )
    elif measured["validation"] is not None and measured["validation"] > known["accuracy"]:
        said += f" What was found is better than its teacher ({100 * measured['validation']:.1f} %)."
    return {"validation": known["accuracy"], "params": known["params"], "sentence": said}


def _rating(rated: Sequence[bool], images: int) -> dict[str, Any]:
    """On how many images candidates were rated, and of which blocks none was: nothing tells those apart but size."""
    left = [number for number, done in enumerate(rated, 1) if not done]
    told = [f"Candidates were rated on {images:,} held-out images."] * any(rated)
    if not any(rated):
        told.append(
            "No block was rated before the search was ended, so all candidates were chosen by size alone, as large as "
            "the target allows."
        )
    elif left:
        which, verb, whose, end = (
            (f"Block {left[0]}", "was", "its", "")
            if len(left) == 1
            else (f"Blocks {_listed(left)}", "were", "their", "s")
        )
        told.append(
            f"{which} {verb} not rated before the search was ended, so {whose} candidate{end} {verb} chosen by size "
            "alone, as large as the target leaves room for."
        )
    return {"images": images if any(rated) else 0, "unrated": left, "sentence": " ".join(told)}


def _listed(numbers: Sequence[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}"


def _weights(part: Any) -> str:
    return "weights of a file" if part.teacher_weights == "file" else "the weights that its library offers"


def _baseline(
    found: float, random: Sequence[Mapping[str, Any]], images: Images, config: SearchConfig
) -> dict[str, Any]:
    accuracies = [network["test"] for network in random]
    inherited = config.retrain.start == "inherit"
    return {"random": list(random), **verdict(found, accuracies, len(images.open_test()), inherited=inherited)}


def _member(report: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "target": report["target"]["value"],
        "folder": report["folder"],
        "params": report["achieved"]["params"],
        "macs": report["achieved"]["macs"],
        "latency_ms": report["achieved"]["latency_ms"],
        "validation": report["accuracy"]["validation"],
        "test": report["accuracy"]["test"],
    }


def versions(config: SearchConfig) -> dict[str, str]:
    """What the result was made with."""
    library = {config.space.library: version(config.space.library)} if config.space.kind == "imported" else {}
    return {"coppice": __version__, "python": platform.python_version(), "torch": str(torch.__version__), **library}
