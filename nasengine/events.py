"""What a run says while it runs: typed events, to and from one JSON line each.

Durations, never wall-clock times; sizes are told as `sizes.outside` says; a number that is not finite becomes null, a
character that no database keeps U+FFFD.
A run's events are numbered by `seq` from 1; a resumed run goes on from its checkpoint's number, so what a killed
attempt said after it is said again.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from nasengine.errors import EngineError

UNSTORABLE = re.compile("[\\0\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all events."""

    kind: ClassVar[str]
    seq: int = 0


@dataclass(frozen=True, kw_only=True)
class DataProgress(Event):
    """What takes long before a search (images are downloaded or packed, a device is measured) or between stages."""

    kind: ClassVar[str] = "data_progress"
    what: str
    """One of: downloading, packing, tracing (a known model is looked at), timing (of random networks, where the target
    is a time), rating (of a block's candidates, when its stage ends)."""
    done: int
    total: int | None
    unit: str
    """One of: bytes, images, models, networks, candidates."""
    eta_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class DataReady(Event):
    """The images are packed and split."""

    kind: ClassVar[str] = "data_ready"
    name: str
    sha256: str
    image_size: int
    channels: int
    classes: list[str]
    splits: dict[str, int]
    """Images in train, validation, test."""
    counts: dict[str, dict[str, int]]
    """Split -> class -> images."""
    left_out: list[dict[str, str]]
    """Files that could not be read, as {file, reason}; at most 200 of them."""
    left_out_total: int


@dataclass(frozen=True, kw_only=True)
class SearchStarted(Event):
    """The space is built and the target is known to be reachable."""

    kind: ClassVar[str] = "search_started"
    name: str
    method: str
    space: str
    metric: str
    target: float
    also: list[float]
    """Further targets of the same search."""
    limits: dict[str, int]
    """Further metric -> what no network of the search exceeds."""
    full_size: float
    smallest_size: float
    blocks: list[dict[str, object]]
    """Each {name, size, share}: how much of the full space it is."""
    choices: list[dict[str, object]]
    """Each {name, granularity, block, units, labels}; labels only for operations."""
    stages: list[dict[str, object]]
    """Each {name, blocks, epochs, target}."""
    epochs: int
    retrain_epochs: int
    device: str


@dataclass(frozen=True, kw_only=True)
class StageStarted(Event):
    """A stage begins; blocks beyond `blocks` neither run nor change."""

    kind: ClassVar[str] = "stage_started"
    stage: int
    name: str
    blocks: int
    epochs: int
    warmup_epochs: int
    full_size: float
    """Size of all units of the stage's blocks."""
    size: float
    target: float


@dataclass(frozen=True, kw_only=True)
class Progress(Event):
    """How it goes: at the end of each epoch, and a few times a second before."""

    kind: ClassVar[str] = "progress"
    stage: int
    epoch: int
    """Counted over the whole search, from 1."""
    step: int
    steps: int
    losses: dict[str, float | None]
    images_per_second: float | None
    size: float
    target: float
    reference: float
    """Where the size should be at this step: a ramp from the full size to the target."""
    memory_mib: float | None
    """Most memory so far: of the GPU's allocator, or of this process on a CPU."""
    fraction: float
    """Of the whole run, retraining included."""
    eta_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class EpochFinished(Event):
    """Measures of one epoch of the search."""

    kind: ClassVar[str] = "epoch_finished"
    stage: int
    epoch: int
    train: dict[str, float | None]
    """loss and accuracy with the masks of each step."""
    validation: dict[str, float | None]
    """loss and accuracy of the masked network at the end of the epoch."""
    size: float
    target: float
    kept: dict[str, list[int]]
    """Granularity -> [units on, units in all] over the stage's blocks."""
    thresholds: dict[str, float | None]
    """Granularity -> mean learned threshold."""


@dataclass(frozen=True, kw_only=True)
class CandidatesDrawn(Event):
    """How sub-graphs are drawn after an epoch, by a method that draws them. Choices are those of operations."""

    kind: ClassVar[str] = "candidates_drawn"
    stage: int
    epoch: int
    edges: dict[str, list[list[int]]]
    """Choice -> units of each of its edges, of which a sub-graph has one."""
    shares: dict[str, str]
    """Choice -> base64 of a byte a unit: its probability on its edge, times 255."""
    often: dict[str, list[int]]
    """Choice -> how often each unit was drawn so far."""
    sub_graphs: list[dict[str, list[int]]]
    """Of each sub-graph of the last step, choice -> its units, one an edge."""


@dataclass(frozen=True, kw_only=True)
class BlockRated(Event):
    """All candidates of one block were compared with the teacher, by a method that rates them. Lower is better."""

    kind: ClassVar[str] = "block_rated"
    stage: int
    epoch: int
    block: int
    """From 0, of `blocks`."""
    blocks: int
    """How many the network is divided into."""
    choices: list[str]
    """Operation choices of its layers, from front to back."""
    candidates: int
    """How many were rated."""
    evaluations: int
    """How often an operation was computed for it, of a batch of images; what candidates share is computed once. Without
    a teacher (DNA++) each candidate twice."""
    one_by_one: int
    """How often it would have been, each candidate by itself."""
    points: list[list[float]]
    """[cost, rating] of the candidates, cost in the target's metric where other blocks have all channels; of more than
    2,000 those of the front and others, evenly by rating."""
    front: list[dict[str, object]]
    """Each {cost, rating, units, width}: candidates that no other one of the same width undercuts in both, by rising
    cost; `units` has for each choice the units that it keeps, `width` is the share of the block's channels."""
    correlation: float | None
    """Kendall's tau of rating and cost, -1 to 1: how far the rating says no more than the cost does."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class PathsFound(Event):
    """Which candidates together are the best network, at this target and at others, by the sum of their ratings.

    Of a search that was ended before all blocks were rated there are no `networks`, and nothing is certain.
    """

    kind: ClassVar[str] = "paths_found"
    stage: int
    epoch: int
    networks: list[dict[str, object]]
    """What other targets would have taken, by rising size: {target, ...} as `chosen`, without the units of filters."""
    chosen: dict[str, object]
    """{size, rating, costs, ratings, units, widths}: the one that was taken, the best of those just below the target if
    there are any; `costs` (as in `BlockRated`), `ratings` and `widths` have a number a block."""
    visited: int
    """Partial networks that were looked at."""
    certain: bool = True
    """Whether there is surely no better one than `chosen` just below the target; else it is the best that was seen."""
    of: float
    """How many networks there are."""


@dataclass(frozen=True, kw_only=True)
class Committed(Event):
    """Units were pruned for good, or brought back; the network is sliced accordingly."""

    kind: ClassVar[str] = "committed"
    stage: int
    epoch: int
    reason: str
    """One of: cadence, stage_end, regrow, fit."""
    pruned: dict[str, int]
    regrown: dict[str, int]
    asked: dict[str, int]
    """Granularity -> units that should have returned; fewer did where too few could. Empty unless units regrew."""
    kept: dict[str, str]
    """Operation or filter choice -> kept units as base64 of bits, first unit in the highest bit of the first byte."""
    kept_weights: dict[str, int]
    """Weight choice -> kept weights in living candidates, rows and columns; all kept ones in blocks not yet open."""
    scores: dict[str, str]
    """Operation or filter choice -> base64 of a byte a unit: its score in (0, 1), times 255. Empty after a regrowth,
    which is decided by another measure."""
    thresholds: dict[str, list[float]]
    """The same choices -> what the scores were held against: one number, or one a unit."""
    changes: list[dict[str, object]]
    """Each {choice, unit, action, score, threshold, cost} for operations and filters, cost being the share of the
    size that goes with the unit; for weights one {choice, action, count, score, threshold} a choice, score being the
    mean. At most 2,000."""
    totals: dict[str, list[int]]
    """Granularity -> [units kept, units in all], over the whole space, each by its own decision: a kept weight may
    stand in a dead row; `kept_weights` counts those that run."""
    size: float
    target: float


@dataclass(frozen=True, kw_only=True)
class Alternatives(Event):
    """What the search would have kept at other sizes, by the scores that it ended with. No such network is trained."""

    kind: ClassVar[str] = "alternatives"
    networks: list[dict[str, object]]
    """Each {size, kept}, from small to large: size in the target's metric, `kept` as in `Committed`."""


@dataclass(frozen=True, kw_only=True)
class CollapseAverted(Event):
    """A block would have kept nothing but skips and pools; its best operation with weights is held on instead."""

    kind: ClassVar[str] = "collapse_averted"
    stage: int
    epoch: int
    block: str
    choice: str
    unit: int
    label: str
    score: float | None
    """Of the operation that is held, before it was raised above its threshold."""
    threshold: float | None


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved(Event):
    """A resumed run starts here."""

    kind: ClassVar[str] = "checkpoint_saved"
    phase: str
    epoch: int


@dataclass(frozen=True, kw_only=True)
class StageFinished(Event):
    """A stage is closed."""

    kind: ClassVar[str] = "stage_finished"
    stage: int
    name: str
    size: float
    target: float
    validation: dict[str, float | None]
    seconds: float
    last: bool = False
    """Whether the search is over with it."""


@dataclass(frozen=True, kw_only=True)
class RetrainEpoch(Event):
    """One epoch of training the compact network."""

    kind: ClassVar[str] = "retrain_epoch"
    network: str
    """``found``, ``at 12000`` (or ``at 0.25``, of ms) for the network of a further target, ``random 1`` and so on for
    those compared with, ``teacher`` for the one that helps them; before them ``teacher 1`` and so on for those whose
    maps blocks learn."""
    epoch: int
    epochs: int
    train: dict[str, float | None]
    validation: dict[str, float | None]
    fraction: float
    eta_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class ResultReady(Event):
    """The files of a network are complete. The main target's is said last."""

    kind: ClassVar[str] = "result_ready"
    folder: str
    """Of the files, within the run's: ``result``, or ``family/12000`` for a further target of 12,000."""
    report: dict[str, object]
    files: list[dict[str, object]]
    """Each {name, bytes, sha256}, names relative to `folder`."""


@dataclass(frozen=True, kw_only=True)
class SearchFinished(Event):
    """The last event of a run that went well."""

    kind: ClassVar[str] = "search_finished"
    seconds: float


@dataclass(frozen=True, kw_only=True)
class SearchFailed(Event):
    """The last line of a run that did not; printed by the command line."""

    kind: ClassVar[str] = "search_failed"
    error: str
    """The kind of error, such as DataError."""
    message: str
    problems: list[list[str]]
    """[field, sentence] for each wrong field of the configuration."""


KINDS: dict[str, type[Event]] = {
    event.kind: event
    for event in (
        DataProgress, DataReady, SearchStarted, StageStarted, Progress, EpochFinished, CandidatesDrawn, BlockRated,
        PathsFound, Committed, Alternatives, CollapseAverted, CheckpointSaved, StageFinished, RetrainEpoch, ResultReady,
        SearchFinished, SearchFailed,
    )
}  # fmt: skip


def to_line(event: Event) -> str:
    """One JSON object without line breaks.

    >>> to_line(SearchFinished(seq=9, seconds=float("nan")))
    '{"kind":"search_finished","seq":9,"seconds":null}'
    """
    said = {"kind": event.kind, **asdict(event)}
    return json.dumps(_plain(said), separators=(",", ":"), allow_nan=False)


def from_line(line: str) -> Event:
    r"""The event that a line says.

    >>> from_line(r'{"kind":"search_failed","seq":1,"error":"E","message":"\u0000","problems":[]}').message
    '\ufffd'

    Raises:
        EngineError: if it is not an event.
    """
    try:
        raw = json.loads(line)
        if "\\u" in line:
            raw = _plain(raw)
        cls = KINDS[raw.pop("kind")]
        return cls(**{field.name: raw[field.name] for field in fields(cls)})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"not an event line ({type(error).__name__}: {error}): {line[:200]!r}") from None


def _plain(value: object) -> Any:
    """Without what JSON or databases refuse: numbers that are not finite, NULs and halves of characters in text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
