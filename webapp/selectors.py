"""Every read that is more than one lookup, and what a configuration means to the person who typed it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import math
import os
import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, TypeVar
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.utils import timezone
from pydantic import ValidationError

from nasengine import catalogue
from nasengine.config import METHODS, ChainSpace, DNAConfig, SearchConfig, parse
from nasengine.errors import ConfigError, EngineError
from nasengine.names import brief
from nasengine.outlook import QUICKEST, SLOWEST, Outlook, fitting_batch, outlook
from nasengine.splits import DataFacts, builtin_facts
from webapp import devices, surveys
from webapp.charts import BLOCKWISE
from webapp.models import (
    HELD_STATES,
    UPLOAD,
    Artifact,
    Dataset,
    DatasetState,
    Search,
    SearchEvent,
    SearchState,
    ShareLink,
    Weights,
)
from webapp.surveys import Subject, Unsurveyed
from webapp.weight_files import WEIGHT_FILES, WeightFile, weight_file

LOG = "engine.log"
TAIL_BYTES = 8000
FEED_ROWS = 200
"""Events in one frame or answer."""
PACES, MIDDLE = 5, math.sqrt(QUICKEST * SLOWEST)
"""Finished searches that an estimate looks back on, and where in the benchmark's range one is that fits it best."""
LOOKED_THROUGH, ALIKE = 15, 10
"""Searches among which they are sought, and how many times as long or as short as the asked one they may be."""
THUMBNAIL = re.compile(r"(\d+)-(\d+)\.png")
Upload = TypeVar("Upload", Dataset, Weights)


# What was asked


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A configuration that has been read: sound in itself, its uploads found, its target looked at."""

    config: SearchConfig
    dataset: Dataset | None
    weights: Weights | None
    outlook: Outlook
    subject: Subject | None
    """The known model that it is about; None if its space is our own."""

    @property
    def dataset_label(self) -> str:
        return self.dataset.name if self.dataset else catalogue.DATASETS[self.config.data.dataset].label

    @property
    def weights_label(self) -> str:
        return self.weights.name if self.weights else ""

    @property
    def further_targets(self) -> list[int]:
        """In numbers, from large to small."""
        return [target for target in self.outlook.family if target != self.outlook.target]

    def stored(self) -> dict[str, Any]:
        """The whole configuration, presets filled in, uploads by their reference instead of their path."""
        raw = self.config.model_dump(mode="json")
        if self.dataset:
            raw["data"] |= {"dataset": self.dataset.reference, "path": None}
        named = weight_file(raw)
        return named.put(raw, self.weights.reference) if named and self.weights else raw


class Unchosen(ConfigError):
    """Weights of a file are asked for, and none is named.

    `otherwise`: the same configuration with other trained weights, which promises the very same.
    """

    def __init__(self, place: WeightFile, raw: Mapping[str, Any]) -> None:
        self.otherwise = place.left_out(raw)
        sentence = "no file is chosen; choose one of yours, or upload it first (in a configuration: upload:<its id>)"
        super().__init__([(place.dotted, sentence)])


def search_asked(*, owner: User, raw: object) -> Asked:
    """What `raw` asks for. Uploads are named `upload:<id>`; paths of this machine are nobody's to give.

    Raises:
        ConfigError: with the command line's sentences. Whether the target can be reached is in `outlook.problems`.
        Unchosen: one that asks for weights of a file, and names none.
        Unsurveyed: one that names a model of which it is not known yet what may be cut.
    """
    dataset = weights = None
    if isinstance(raw, Mapping):
        raw, weights = _with_weights(owner, raw)
        raw, dataset = _with_images(owner, raw)
    config = parse(raw)  # type: ignore[arg-type]  # it says what is wrong with what is no mapping
    facts = _facts(config, dataset)
    look = surveys.judged(_outlook(config, facts), config, facts)
    if config.runtime.device == "cuda":
        look = devices.judged(look)
    return Asked(config=config, dataset=dataset, weights=weights, outlook=look, subject=Subject.of(config, facts))


def _outlook(config: SearchConfig, facts: DataFacts) -> Outlook:
    """Looks ahead, with what a row knows of a model if this machine does not."""
    subject = Subject.of(config, facts)
    if subject is not None and subject.facts is None:
        surveys.bring(subject)
    return outlook(config, facts)


def bring_survey(search: Search) -> None:
    """Puts what is known of the model that a search names, if it names one, into the cache of this machine."""
    subject = Subject.of(*_read(search))
    if subject is not None and subject.facts is None:
        with contextlib.suppress(Unsurveyed):  # then its engine looks for itself
            surveys.bring(subject)


def _read(search: Search) -> tuple[SearchConfig, DataFacts]:
    config = parse(_with_data_path(search))
    return config, _facts(config, search.dataset)


def _facts(config: SearchConfig, dataset: Dataset | None) -> DataFacts:
    return DataFacts.from_json(dataset.facts) if dataset else builtin_facts(config.data.dataset)


def engine_config(search: Search) -> dict[str, Any]:
    """The configuration as the engine reads it, with the paths of uploads."""
    config = _with_data_path(search)
    named = weight_file(config)
    if named is None:
        return config
    if search.weights is None:
        raise ConfigError.at(named.dotted, f"the weights '{search.weights_label}' were deleted; upload them again")
    return named.put(config, _path(search.weights))


def _with_data_path(search: Search) -> dict[str, Any]:
    config: dict[str, Any] = {**search.config, "data": dict(search.config["data"])}
    if _is_upload(config["data"]["dataset"]):
        if search.dataset is None:
            raise ConfigError.at("data.dataset", f"the data set '{search.dataset_label}' was deleted; upload it again")
        config["data"] |= {"dataset": "zip", "path": _path(search.dataset)}
    return config


def time_of(owner: User, asked: Asked) -> dict[str, float]:
    """Seconds (least, most) that a search may take on this machine.

    The benchmark's range, moved to where the last `searches` of this user were in it; 0 if there is none to tell. Those
    of another method say nothing, since its steps take another time, nor do those of quite another length: what a
    search of a minute takes is mostly what every search takes to begin.
    """
    kind = asked.config.strategy.kind
    ended = Search.objects.filter(owner=owner, state=SearchState.FINISHED, config__strategy__kind=kind)
    last = ended.order_by("-finished_at").values_list("pk", flat=True)[:LOOKED_THROUGH]
    estimate = asked.outlook.estimate
    shortest, longest = estimate["seconds_cpu"] / ALIKE, estimate["seconds_cpu"] * ALIKE
    alike = (taken / seconds for taken, seconds in filter(None, map(_times, last)) if shortest <= seconds <= longest)
    paces = list(itertools.islice(alike, PACES))
    usual = statistics.median(paces) / MIDDLE if paces else 1.0
    return {
        "least": usual * estimate["seconds_least"],
        "most": usual * estimate["seconds_most"],
        "searches": len(paces),
    }


@functools.lru_cache(maxsize=1000)
def _times(pk: UUID) -> tuple[float, float] | None:
    """Seconds of a finished search and of its estimate; None if it ended early or cannot be told. They never change."""
    search = Search.objects.select_related("dataset").filter(pk=pk).first()
    report = (search.report or {}) if search else {}
    taken = sum((report.get("seconds") or {}).values())
    if search is None or not taken or report.get("ended_early"):
        return None
    try:
        return float(taken), _outlook(*_read(search)).estimate["seconds_cpu"]
    except EngineError:  # its data set was deleted, or a version since reads it otherwise
        return None


def fitting_batch_of(search: Search, memory_mib: float) -> int | None:
    """The batch size with which its engine would have kept within this memory, if that can be told: on a CPU."""
    if not search.events.filter(kind="search_started", payload__device__istartswith="cpu").exists():
        return None
    try:
        bring_survey(search)
        return fitting_batch(*_read(search), memory_mib)
    except ConfigError:
        return None


def _with_weights(owner: User, raw: Mapping[str, Any]) -> tuple[dict[str, Any], Weights | None]:
    """The path of the weights in the place of their reference; what names some twice is refused by whoever reads it."""
    config, weights = dict(raw), None
    for place in WEIGHT_FILES:
        if place.is_missing(config):
            raise Unchosen(place, config)
        if (name := place.of(config)) is not None:
            weights = _weights_by_reference(owner, name, place.dotted)
            config = place.put(config, _path(weights))
    return config, weights


def _weights_by_reference(owner: User, name: object, field: str) -> Weights:
    if not _is_upload(name):
        raise ConfigError.at(
            field,
            "files of the server cannot be named here; upload yours on the weights page and name it upload:<its id>",
        )
    weights = _owned(Weights, owner, name)
    if weights is None:
        raise ConfigError.at(field, f"there are no weights '{brief(name)}' of yours; choose some of the weights page")
    return weights


def _with_images(owner: User, raw: Mapping[str, Any]) -> tuple[dict[str, Any], Dataset | None]:
    """The path of the zip in the place of its reference."""
    data = raw.get("data")
    if not isinstance(data, Mapping):
        return dict(raw), None
    name = data.get("dataset")
    if (isinstance(name, str) and name in catalogue.FILE_DATASETS) or data.get("path") is not None:
        raise ConfigError.at(
            "data.path",
            "files of the server cannot be named here; upload a zip on the data sets page and name it upload:<its id>",
        )
    if not _is_upload(name):
        return dict(raw), None
    dataset = _dataset_by_reference(owner, name)
    return {**raw, "data": {**data, "dataset": "zip", "path": _path(dataset)}}, dataset


def _is_upload(name: object) -> TypeGuard[str]:
    return isinstance(name, str) and name.startswith(UPLOAD)


def _path(upload: Dataset | Weights) -> str:
    return str(settings.MEDIA_ROOT / upload.file)


def _owned(model: type[Upload], owner: User, reference: str) -> Upload | None:
    """What the reference names, if it is this user's."""
    try:
        return model._default_manager.filter(owner=owner, pk=UUID(reference.removeprefix(UPLOAD))).first()
    except ValueError:
        return None


def _dataset_by_reference(owner: User, reference: str) -> Dataset:
    dataset = _owned(Dataset, owner, reference)
    if dataset is None:
        raise ConfigError.at(
            "data.dataset", f"there is no data set '{brief(reference)}' of yours; choose one of the data sets page"
        )
    if dataset.state == DatasetState.FAILED:
        raise ConfigError.at("data.dataset", f"'{dataset.name}' cannot be used: {dataset.message}")
    if dataset.state != DatasetState.READY:
        raise ConfigError.at(
            "data.dataset", f"'{dataset.name}' is not packed yet; wait until the data sets page says ready"
        )
    return dataset


# Data sets


def datasets_of(owner: User) -> QuerySet[Dataset]:
    """The uploads of a user, newest first."""
    return Dataset.objects.filter(owner=owner)


def packed_folder(dataset_id: UUID) -> Path:
    """Where facts and thumbnails of an upload are."""
    return Path(settings.MEDIA_ROOT) / "packed" / str(dataset_id)


def dataset_class_rows(dataset: Dataset) -> list[tuple[str, dict[str, int], list[str]]]:
    """(class, {part: images}, names of its thumbnails) for each class of a ready data set."""
    if not dataset.facts:
        return []
    facts = DataFacts.from_json(dataset.facts)
    thumbnails: dict[int, list[tuple[int, str]]] = {}
    for path in (packed_folder(dataset.pk) / "thumbnails").glob("*.png"):
        if match := THUMBNAIL.fullmatch(path.name):
            thumbnails.setdefault(int(match[1]), []).append((int(match[2]), path.name))
    parts = {part: counts for part, counts in facts.given.items() if any(counts)}
    return [
        (name, {part: counts[i] for part, counts in parts.items()}, [file for _, file in sorted(thumbnails.get(i, []))])
        for i, name in enumerate(facts.class_names)
    ]


# Weights


def weights_of(owner: User) -> QuerySet[Weights]:
    """Those that a user uploaded, newest first."""
    return Weights.objects.filter(owner=owner)


# Searches


def run_folder(search_id: UUID) -> Path:
    """The engine's folder of a search."""
    return Path(settings.MEDIA_ROOT) / "runs" / str(search_id)


def survey_folder(survey_id: UUID) -> Path:
    """Where the engine's words about a model are kept."""
    return Path(settings.MEDIA_ROOT) / "surveys" / str(survey_id)


def log_file(search_id: UUID) -> Path:
    """What the engines of a search have said on stderr."""
    return run_folder(search_id) / LOG


def log_text(search: Search, *, most: int | None = None) -> bytes:
    """What is kept of it, or no more than its last bytes: the file before and the one that grows; empty if none is."""
    newest, content = log_file(search.pk), b""
    for file in (newest, newest.with_name(f"{LOG}.1")):
        if file.exists() and (most is None or len(content) < most):
            with file.open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(0 if most is None else max(0, size - most + len(content)))
                content = stream.read() + content
    return content


def log_tail(search: Search) -> str:
    """Its last lines."""
    content = log_text(search, most=TAIL_BYTES + 1)
    last = content[-TAIL_BYTES:].decode(errors="replace")
    return last if len(content) <= TAIL_BYTES else last.partition("\n")[2]


def searches_of(owner: User) -> QuerySet[Search]:
    """The searches of a user, newest first: all that the list shows in one query."""
    return Search.objects.filter(owner=owner)


def family_rows(search: Search, artifacts: Iterable[Artifact]) -> list[tuple[dict[str, Any], list[Artifact]]]:
    """(figures, files) of the network of each further target, as the report names them."""
    members: list[dict[str, Any]] = (search.report or {}).get("family") or []
    return [(member, [file for file in artifacts if file.folder == member["folder"]]) for member in members]


def sheet_of(search: Search, files: Mapping[str, Artifact]) -> dict[str, Any] | None:
    """Where the pictures are that the report's tiles are numbered in, and how they lie there; old results have none."""
    pictures: dict[str, Any] = (search.report or {}).get("pictures") or {}
    return {**pictures, "url": files[pictures["file"]].url} if pictures.get("file") in files else None


def queue_position(search: Search) -> int | None:
    """1 for the next to start; None if it does not wait."""
    if search.state != SearchState.QUEUED:
        return None
    return Search.objects.filter(state=SearchState.QUEUED, queued_at__lt=search.queued_at).count() + 1


def waits_for(position: int) -> str:
    """What a search at this place in the queue waits for, without naming anybody's."""
    line = "It is the next in line" if position == 1 else f"{position - 1} before it in line"
    held = Search.objects.filter(state__in=HELD_STATES).count()
    if held:
        busy = "the search that runs now" if held == 1 else f"one of the {held} searches that run now"
        return f"{line}, after {busy}."
    return f"{line}; no search runs, so a worker should take the next at once."


def state_frame(search: Search, *, to_owner: bool) -> dict[str, Any]:
    """The state of a search as socket and feed tell it; what went wrong is for its owner."""
    sentence = search.sentence if to_owner else search.plain_sentence
    position = queue_position(search)
    return {
        "type": "state",
        "state": search.state,
        "label": search.state_label,
        "sentence": f"{sentence} {waits_for(position)}" if position and to_owner else sentence,
        "finished": search.is_finished,
        "queue_position": position,
        "attempt": search.attempt,
        "started_at": search.started_at and search.started_at.isoformat(),
        "finished_at": search.finished_at and search.finished_at.isoformat(),
        "rewinds": len(search.rewinds),
        "drawn": f"{search.state_label}, {'training' if search.is_training else 'not training'}",
    }


def webhook_body(search: Search, *, site: str) -> dict[str, Any]:
    """What its owner's own program is told of a search that has ended."""
    return {
        "id": str(search.pk),
        "name": search.name,
        "state": search.state,
        "sentence": search.sentence,
        "url": f"{site}{search.url}",
        "accuracy": search.accuracy,
        "size": search.size,
    }


def search_of(owner_id: int, search_id: UUID) -> QuerySet[Search]:
    """The search of that id, if it is this user's."""
    return Search.objects.filter(pk=search_id, owner_id=owner_id)


def search_shared(token: str) -> QuerySet[Search]:
    """The search that a link shows; none if it is unknown, revoked or too old."""
    links = ShareLink.objects.filter(token_hash=token_hash(token), expires_at__gt=timezone.now())
    return Search.objects.filter(share_links__in=links)


def share_links_of(search: Search) -> QuerySet[ShareLink]:
    """The links that show the search now."""
    return search.share_links.filter(expires_at__gt=timezone.now())


def token_hash(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Feed:
    """What is new to somebody who has seen everything up to a number."""

    search_id: UUID
    rewind: int | None
    """Drop everything with a larger number; it is said again."""
    events: list[dict[str, Any]]
    last_seq: int
    more: bool
    state: dict[str, Any]


def search_feed(
    *, of: QuerySet[Search], after: int, rewinds: int, limit: int = FEED_ROWS, to_owner: bool = True
) -> Feed | None:
    """The next events after `after`, in order; None if the reader may see no search.

    Args:
        of: the search that the reader may see: `search_of` or `search_shared`.
        to_owner: whether the reader is its owner; others are not told what went wrong, and with which files.
        rewinds: how many restarts the reader has been told of; 0 costs a reader who has seen them all some events
            twice, never one too few.
    """
    search = of.defer("report", "curve", "config").first()  # asked several times a second
    if search is None:
        return None
    unseen = search.rewinds[rewinds:]
    rewind = min(unseen) if unseen and min(unseen) < after else None
    start = after if rewind is None else rewind
    rows = SearchEvent.objects.filter(search=search, seq__gt=start).order_by("seq")
    events = list(rows.values_list("payload", flat=True)[: limit + 1])
    shown = events[:limit] if to_owner else [_for_others(event, search.name) for event in events[:limit]]
    return Feed(
        search_id=search.pk,
        rewind=rewind,
        events=shown,
        last_seq=shown[-1]["seq"] if shown else start,
        more=len(events) > limit,
        state=state_frame(search, to_owner=to_owner),
    )


def idle(strategy: Mapping[str, Any]) -> set[str]:
    """Settings of a method that say nothing beside its others.

    >>> sorted(idle({"kind": "dna", "recipe": "dna", "teacher": "library", "generations": 1}))
    ['dispersion', 'growth', 'paths']
    """
    table = METHODS[strategy["kind"]].idle
    return {other for name, values in table.items() for other in values.get(str(strategy.get(name)), ())}


def said(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the settings of its method that are idle."""
    leave = idle(config["strategy"])
    return {**config, "strategy": {name: value for name, value in config["strategy"].items() if name not in leave}}


def block_ends(config: Mapping[str, Any]) -> str:
    """Of a search by blocks, after how many layers each ends: "2 5 6"; empty of others."""
    if config["strategy"]["kind"] not in BLOCKWISE:
        return ""
    try:
        method, space = DNAConfig.model_validate(config["strategy"]), ChainSpace.model_validate(config["space"])
    except (ValidationError, ConfigError):  # a version since reads it otherwise
        return ""
    return " ".join(map(str, method.ends(space)))


def changes_of(strategy: dict[str, Any], report: dict[str, Any], operations: str) -> dict[str, Any]:
    """What was pruned and came back, of the levels that were searched, and whether zeros are left of it.

    Args:
        operations: what operations are called.

    >>> achieved = {"params": 8, "params_dense": 8}
    >>> report = {"achieved": achieved, "pruned": {"filter": 3, "weight": 0}}
    >>> changes_of({"kind": "dms", "granularities": ["filter"]}, report, "operations")
    {'has_zeros': False, 'returns': False, 'levels': [{'label': 'Filters', 'pruned': 3}]}
    >>> [level["label"] for level in changes_of({"kind": "dna", "widths": [1.0]}, report, "operations")["levels"]]
    ['Operations']
    """
    achieved = report.get("achieved") or {}
    counts = {key: report[key] for key in ("pruned", "regrown", "survived") if report.get(key)}
    levels = METHODS[strategy["kind"]].model_construct(**strategy).granularities
    return {
        "has_zeros": achieved.get("params_dense") not in (None, achieved.get("params")),
        "returns": bool(strategy.get("regrow_fraction")) or any(counts.get("regrown", {}).values()),
        "levels": [
            {"label": label.capitalize(), **{key: count.get(level) for key, count in counts.items()}}
            for level, label in (("operation", operations), ("filter", "filters"), ("weight", "weights"))
            if level in levels
        ],
    }


def for_others(report: dict[str, Any] | None) -> dict[str, Any] | None:
    """A report without what tells of single images."""
    return report and {key: value for key, value in report.items() if key not in ("mistakes", "examples", "pictures")}


def _for_others(event: dict[str, Any], name: str) -> dict[str, Any]:
    """An event as whoever has a link hears it; the search is called what it is called now."""
    match event["kind"]:
        case "search_started":
            return {**event, "name": name}
        case "result_ready":
            return {**event, "report": for_others(event["report"]), "files": []}
        case "search_failed":
            return {**event, "error": "", "message": "It ended with an error.", "problems": []}
        case "data_ready":
            return {**event, "left_out": []}
    return event
